//! A `curl` command line, read as a request. The options people paste from browsers and documentation.

use crate::app::input::{Input, InputError};

/// Options without an argument that do not change the request.
const QUIET_FLAGS: &[&str] = &[
    "-s",
    "--silent",
    "-S",
    "--show-error",
    "-i",
    "--include",
    "-k",
    "--insecure",
    "-v",
    "--verbose",
    "-L",
    "--location",
    "--compressed",
    "-f",
    "--fail",
    "-N",
    "--no-buffer",
    "--http1.1",
    "--http2",
    "--globoff",
    "-g",
    "--path-as-is",
];
/// Options with an argument that do not change the request.
const QUIET_OPTIONS: &[&str] = &[
    "-o",
    "--output",
    "-w",
    "--write-out",
    "-m",
    "--max-time",
    "--connect-timeout",
    "--resolve",
    "--cacert",
    "--retry",
];
/// Single-letter options that take an argument, which may be glued to them.
const GLUED: &str = "XHdAbeuFowm";
const BOUNDARY: &str = "------------------------explain0000000";

/// Reads a command line such as `curl -X POST 'https://example.com/a?b=c' -H 'Accept: */*' -d 'x=1'`.
pub fn parse(line: &str) -> Result<Input, InputError> {
    let words = split(line)?;
    let mut words = words.into_iter().peekable();
    if words.peek().is_some_and(|word| word == "curl") {
        words.next();
    }
    let mut builder = Builder::default();
    while let Some(word) = words.next() {
        for (option, glued) in unbundle(&word) {
            if option.is_empty() || !option.starts_with('-') || option == "-" {
                builder.url = Some(option);
            } else if !QUIET_FLAGS.contains(&option.as_str()) && !builder.flag(&option) {
                let value = glued
                    .or_else(|| words.next())
                    .ok_or_else(|| InputError(format!("curl option {option} needs an argument")))?;
                builder.option(&option, value)?;
            }
        }
    }
    builder.build()
}

/// `-sXPOST` is `-s -X POST`; `--name=value` does not exist in curl.
fn unbundle(word: &str) -> Vec<(String, Option<String>)> {
    let letters = match word.strip_prefix('-') {
        Some(letters) if !letters.is_empty() && !letters.starts_with('-') => letters,
        _ => return vec![(word.to_owned(), None)],
    };
    let mut found = Vec::new();
    for (at, letter) in letters.char_indices() {
        let rest = letters.get(at + letter.len_utf8()..).unwrap_or("");
        if GLUED.contains(letter) {
            found.push((format!("-{letter}"), (!rest.is_empty()).then(|| rest.to_owned())));
            return found;
        }
        found.push((format!("-{letter}"), None));
    }
    found
}

#[derive(Default)]
struct Builder {
    method: Option<String>,
    url: Option<String>,
    headers: Vec<(String, String)>,
    data: Vec<String>,
    form: Vec<String>,
    json: bool,
    get: bool,
    head: bool,
}

impl Builder {
    fn flag(&mut self, option: &str) -> bool {
        match option {
            "-G" | "--get" => self.get = true,
            "-I" | "--head" => self.head = true,
            _ => return false,
        }
        true
    }

    fn option(&mut self, option: &str, value: String) -> Result<(), InputError> {
        match option {
            "-X" | "--request" => self.method = Some(value),
            "--url" => self.url = Some(value),
            "-H" | "--header" => self.header(&value)?,
            "-A" | "--user-agent" => self.headers.push(("user-agent".into(), value)),
            "-e" | "--referer" => self.headers.push(("referer".into(), value)),
            "-b" | "--cookie" => self.headers.push(("cookie".into(), value)),
            "-u" | "--user" => {
                let coded = base64_simd::STANDARD.encode_to_string(value.as_bytes());
                self.headers.push(("authorization".into(), format!("Basic {coded}")));
            }
            "-d" | "--data" | "--data-ascii" | "--data-binary" => self.data.push(inline(option, value)?),
            "--data-raw" => self.data.push(value),
            "--data-urlencode" => self.data.push(urlencoded(&value)),
            "--json" => {
                self.json = true;
                self.data.push(inline(option, value)?);
            }
            "-F" | "--form" | "--form-string" => self.form.push(value),
            _ if QUIET_OPTIONS.contains(&option) => {}
            _ => return Err(InputError(format!("curl option {option} is not understood"))),
        }
        Ok(())
    }

    fn header(&mut self, line: &str) -> Result<(), InputError> {
        let (name, value) = line.split_once(':').ok_or_else(|| InputError(format!("header '{line}' has no colon")))?;
        self.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known == name)
    }

    fn build(mut self) -> Result<Input, InputError> {
        let url = self.url.take().ok_or_else(|| InputError::new("the curl command names no URL"))?;
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let target = target.split('#').next().unwrap_or("");
        let mut path = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let mut body = self.data.join("&");
        if self.get && !body.is_empty() {
            path = format!("{path}{}{body}", if path.contains('?') { '&' } else { '?' });
            body = String::new();
        }
        if !self.form.is_empty() {
            body = multipart(&self.form);
        }
        self.defaults(authority, &body);
        let method = self.method.take().unwrap_or_else(|| self.usual_method(&body).to_owned());
        Ok(Input {
            id: "explain".into(),
            method,
            scheme: scheme.to_ascii_lowercase(),
            path,
            headers: self.headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect(),
            body: body.into_bytes(),
            ..Input::default()
        })
    }

    fn usual_method(&self, body: &str) -> &'static str {
        match (self.head, body.is_empty()) {
            (true, _) => "HEAD",
            (false, true) => "GET",
            (false, false) => "POST",
        }
    }

    /// What curl sends by itself.
    fn defaults(&mut self, authority: &str, body: &str) {
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if !self.has("host") {
            self.headers.insert(0, ("host".into(), host.to_owned()));
        }
        if !self.has("user-agent") {
            self.headers.push(("user-agent".into(), "curl/8.0".into()));
        }
        if !self.has("accept") {
            self.headers.push(("accept".into(), if self.json { "application/json" } else { "*/*" }.into()));
        }
        if !body.is_empty() && !self.has("content-type") {
            let media = match (self.json, self.form.is_empty()) {
                (true, _) => "application/json".to_owned(),
                (false, true) => "application/x-www-form-urlencoded".to_owned(),
                (false, false) => format!("multipart/form-data; boundary={BOUNDARY}"),
            };
            self.headers.push(("content-type".into(), media));
        }
        if !body.is_empty() && !self.has("content-length") {
            self.headers.push(("content-length".into(), body.len().to_string()));
        }
    }
}

fn inline(option: &str, value: String) -> Result<String, InputError> {
    if value.starts_with('@') {
        return Err(InputError(format!("curl option {option}: give the data itself, not a file; or use --request")));
    }
    Ok(value)
}

fn urlencoded(value: &str) -> String {
    let (name, content) = match value.split_once('=') {
        Some(("", content)) => (String::new(), content),
        Some((name, content)) => (format!("{name}="), content),
        None => (String::new(), value),
    };
    let mut coded = name;
    for byte in content.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => coded.push(char::from(byte)),
            _ => coded.push_str(&format!("%{byte:02X}")),
        }
    }
    coded
}

fn multipart(fields: &[String]) -> String {
    let mut body = String::new();
    for field in fields {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let (disposition, content) = match value.strip_prefix('@') {
            Some(file) => (format!("; filename=\"{file}\"\r\nContent-Type: application/octet-stream"), ""),
            None => (String::new(), value),
        };
        body.push_str(&format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{disposition}\r\n\r\n{content}\r\n"
        ));
    }
    body.push_str(&format!("--{BOUNDARY}--\r\n"));
    body
}

/// Splits a command line as a POSIX shell would: quotes, backslashes, `$'...'`, line continuations.
fn split(line: &str) -> Result<Vec<String>, InputError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(next) => word.get_or_insert_default().push(next),
            },
            '\'' => word.get_or_insert_default().push_str(&quoted(&mut chars, '\'')?),
            '"' => word.get_or_insert_default().push_str(&quoted(&mut chars, '"')?),
            '$' if chars.peek() == Some(&'\'') => {
                chars.next();
                word.get_or_insert_default().push_str(&quoted(&mut chars, '$')?);
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// The inside of a quoted part; `kind` is `'`, `"`, or `$` for the C form.
fn quoted(chars: &mut impl Iterator<Item = char>, kind: char) -> Result<String, InputError> {
    let end = if kind == '"' { '"' } else { '\'' };
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            _ if c == end => return Ok(text),
            '\\' if kind == '"' => match chars.next() {
                Some(next @ ('"' | '\\' | '$' | '`')) => text.push(next),
                Some('\n') | None => {}
                Some(next) => text.extend(['\\', next]),
            },
            '\\' if kind == '$' => match chars.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('t') => text.push('\t'),
                Some(next) => text.push(next),
                None => {}
            },
            _ => text.push(c),
        }
    }
    Err(InputError::new("a quote in the curl command is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_commands_are_understood() {
        for (line, method, path, body) in [
            ("curl http://h/a?b=c", "GET", "/a?b=c", ""),
            ("curl 'https://u:p@h:8443/x' -d a=1 -d b=2", "POST", "/x", "a=1&b=2"),
            ("curl -sXPUT h/x --data-raw '{\"a\": \"it'\"'\"'s\"}'", "PUT", "/x", "{\"a\": \"it's\"}"),
            ("curl -G h/x?a=1 --data-urlencode 'q=a b'", "GET", "/x?a=1&q=a%20b", ""),
            ("curl -I h", "HEAD", "/", ""),
            ("h/x \\\n -H 'A: b' --json '{}'", "POST", "/x", "{}"),
            ("curl h $'-d' $'a\\nb'", "POST", "/", "a\nb"),
        ] {
            let input = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let seen = (input.method.as_str(), input.path.as_str(), std::str::from_utf8(&input.body).unwrap());
            assert_eq!(seen, (method, path, body), "{line}");
        }
    }

    #[test]
    fn headers_are_those_curl_would_send() {
        let input = parse("curl -u me:pw -b a=1 -A ua -H 'X-A:  1 ' https://Example.com/ -F 'f=@shell.php'").unwrap();
        assert_eq!(input.header("host"), Some("Example.com"));
        assert_eq!(input.header("authorization"), Some("Basic bWU6cHc="));
        assert_eq!(input.header("x-a"), Some("1"));
        assert_eq!(input.header("user-agent"), Some("ua"));
        assert!(input.header("content-type").unwrap().starts_with("multipart/form-data; boundary="));
        assert!(std::str::from_utf8(&input.body).unwrap().contains("filename=\"shell.php\""));
        assert_eq!((input.method.as_str(), input.scheme.as_str()), ("POST", "https"));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (line, wanted) in [
            ("curl", "no URL"),
            ("curl 'http://h", "not closed"),
            ("curl --proxy p http://h", "--proxy"),
            ("curl -d @file http://h", "not a file"),
            ("curl -H", "needs an argument"),
            ("curl -H nocolon h", "colon"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }
}
