//! What must not be read in a log, an event or a span. Bodies are never told at all; headers, query parameters and fields
//! that a text quotes lose their values when their name is sensitive.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::config::security::SecurityConfig;
use crate::request::headers::Headers;

/// Stands for what was removed.
pub const MASK: &str = "[REDACTED]";

/// Headers whose values are never shown.
const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];
/// Query parameters and body fields whose values are never shown.
const PARAMS: [&str; 9] =
    ["access_token", "refresh_token", "api_key", "apikey", "token", "password", "secret", "client_secret", "signature"];
/// Header fields shown in one line.
const HEADERS_MAX: usize = 32;
/// Bytes shown of one header value, and of a path.
const VALUE_BYTES_MAX: usize = 512;
/// Bytes shown of a text that may quote a request.
const TEXT_BYTES_MAX: usize = 2048;
/// Rounds of percent decoding that a name is looked at in.
const ROUNDS_MAX: usize = 3;

/// Names whose values are not shown, compiled from the configuration. Names are compared without case.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    headers: Names,
    params: Names,
}

/// Names in lower case. Nearly all words that are looked up are none of them: their length says so, or their bytes do,
/// without a copy in lower case.
#[derive(Clone, Debug, Default)]
struct Names {
    all: Vec<String>,
    /// The lengths there are, one bit each; the last bit stands for all that are longer.
    lengths: u64,
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let all: Vec<String> = names.into_iter().collect();
        Self { lengths: all.iter().fold(0, |lengths, name| lengths | length_bit(name)), all }
    }
}

/// The bit of a name's length in [`Names::lengths`].
fn length_bit(name: &str) -> u64 {
    1 << name.len().min(63)
}

impl Names {
    /// True when it is one of them, in whatever case.
    fn hold(&self, name: &str) -> bool {
        if name.is_ascii() {
            self.lengths & length_bit(name) != 0 && self.all.iter().any(|known| known.eq_ignore_ascii_case(name))
        } else {
            let name = name.to_lowercase();
            self.all.contains(&name)
        }
    }
}

impl Redaction {
    /// The built-in names and those of the configuration.
    #[must_use]
    pub fn new(config: &SecurityConfig) -> Self {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let lower = |names: &BTreeSet<String>| names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
        let more = [lower(&config.log_sensitive_params), lower(&config.log_sensitive_body_fields)].concat();
        Self {
            headers: own(&HEADERS).into_iter().chain(lower(&config.log_sensitive_headers)).collect(),
            params: own(&PARAMS).into_iter().chain(more).collect(),
        }
    }

    /// True when what stands under this name is never shown.
    #[must_use]
    pub fn is_secret(&self, name: &str) -> bool {
        let name = name.trim();
        self.params.hold(name) || self.headers.hold(name)
    }

    /// A text that may quote a request: `name=value`, `name: value`, `"name": "value"` and `<name>value` lose the values
    /// of sensitive names, an address its password. Cut to a bounded length.
    #[must_use]
    pub fn text<'t>(&self, raw: &'t str) -> Cow<'t, str> {
        let raw = cut_to(raw, TEXT_BYTES_MAX);
        match without_password(raw) {
            Some(safe) => Cow::Owned(self.masked(&safe, false).into_owned()),
            None => self.masked(raw, false),
        }
    }

    /// A path: the values of parameters in its segments are masked, control characters are escaped.
    #[must_use]
    pub fn path<'t>(&self, raw: &'t str) -> Cow<'t, str> {
        let shown = self.masked(cut(raw), true);
        if !shown.contains(char::is_control) {
            return shown;
        }
        let escape =
            |letter: char| if letter.is_control() { format!("%{:02X}", u32::from(letter)) } else { letter.into() };
        Cow::Owned(shown.chars().map(escape).collect())
    }

    fn masked<'t>(&self, raw: &'t str, in_path: bool) -> Cow<'t, str> {
        if !raw.bytes().any(|byte| matches!(byte, b'=' | b':' | b'<' | b'%')) {
            return Cow::Borrowed(raw);
        }
        let part = |from: usize, to: usize| raw.get(from..to).unwrap_or_default();
        let (mut shown, mut done, mut at) = (String::new(), 0, 0);
        while let Some((start, end)) = word(raw, at) {
            at = end;
            let found = match self.reading(part(start, end)) {
                Reading::Harmless => None,
                Reading::Pair => Some((start, end)),
                Reading::Name { is_header } => {
                    let opens = start.checked_sub(1).and_then(|before| raw.as_bytes().get(before)) == Some(&b'<');
                    value(part(end, raw.len()), (opens, is_header, in_path)).map(|(from, to)| (end + from, end + to))
                }
            };
            if let Some((from, to)) = found {
                shown.extend([part(done, from), MASK]);
                (done, at) = (to, to);
            }
        }
        if done == 0 && shown.is_empty() {
            return Cow::Borrowed(raw);
        }
        shown.push_str(part(done, raw.len()));
        Cow::Owned(shown)
    }

    /// What a word is, in whatever encoding.
    fn reading(&self, word: &str) -> Reading {
        let mut name = Cow::Borrowed(word);
        for _ in 0..ROUNDS_MAX {
            if !name.contains('%') {
                break;
            }
            name = Cow::Owned(decoded(&name).into_owned());
        }
        if let Some((before, _)) = name.split_once(['=', ':'])
            && self.is_secret(before)
        {
            return Reading::Pair;
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if self.headers.hold(last) {
            Reading::Name { is_header: true }
        } else if self.params.hold(last) {
            Reading::Name { is_header: false }
        } else {
            Reading::Harmless
        }
    }

    /// Path and query, the values of sensitive parameters masked, cut to a bounded length. A name counts as sensitive in
    /// its percent-encoded form too.
    #[must_use]
    pub fn target<'t>(&self, raw: &'t str) -> Cow<'t, str> {
        let raw = cut(raw);
        let Some((path, query)) = raw.split_once('?') else { return self.path(raw) };
        let path = self.path(path);
        if matches!(path, Cow::Borrowed(_)) && !query.split('&').any(|pair| self.hides(pair)) {
            return Cow::Borrowed(raw);
        }
        let mut shown = String::with_capacity(raw.len());
        shown.push_str(&path);
        for (index, pair) in query.split('&').enumerate() {
            shown.push(if index == 0 { '?' } else { '&' });
            match pair.split_once('=') {
                Some((name, _)) if self.hides(pair) => shown.extend([name, "=", MASK]),
                Some(_) | None => shown.push_str(pair),
            }
        }
        Cow::Owned(shown)
    }

    fn hides(&self, pair: &str) -> bool {
        pair.split_once('=').is_some_and(|(name, _)| self.params.hold(&decoded(name)))
    }

    /// Header fields as `name: value` pairs, sensitive values masked, bytes that are no text replaced.
    #[must_use]
    pub fn headers(&self, headers: &Headers<'_>) -> String {
        let mut shown = String::new();
        for field in headers.iter().take(HEADERS_MAX) {
            let is_sensitive = self.headers.hold(field.name);
            let value = if is_sensitive { Cow::Borrowed(MASK) } else { String::from_utf8_lossy(field.value) };
            shown.extend([if shown.is_empty() { "" } else { "; " }, field.name, ": ", cut(&value)]);
        }
        shown
    }
}

/// The beginning of a text, as far as one value is shown.
pub(super) fn cut(text: &str) -> &str {
    cut_to(text, VALUE_BYTES_MAX)
}

fn cut_to(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default()
}

/// What a word of a text is.
enum Reading {
    /// Nothing to hide.
    Harmless,
    /// A sensitive name; its value may follow.
    Name { is_header: bool },
    /// An encoded pair whose name is sensitive.
    Pair,
}

/// The next word from `at` on: what a name can consist of.
fn word(text: &str, at: usize) -> Option<(usize, usize)> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'%');
    let rest = text.as_bytes().get(at..)?;
    let start = rest.iter().position(is_part)?;
    let length = rest.get(start..)?.iter().position(|byte| !is_part(byte));
    Some((at + start, length.map_or(text.len(), |length| at + start + length)))
}

/// Where the value lies in what follows a sensitive name; `None` when none follows.
fn value(rest: &str, (opens, is_header, in_path): (bool, bool, bool)) -> Option<(usize, usize)> {
    let bytes = rest.as_bytes();
    if opens && bytes.first() == Some(&b'>') {
        let end = bytes.iter().skip(1).position(|byte| *byte == b'<').map_or(bytes.len(), |at| at + 1);
        return Some((1, end));
    }
    let is_between = |byte: &u8| matches!(byte, b' ' | b'"' | b'\'' | b']' | b'\\');
    let sign = bytes.iter().position(|byte| !is_between(byte))?;
    if !matches!(bytes.get(sign), Some(b'=' | b':')) {
        return None;
    }
    let begins = |byte: &u8| !matches!(byte, b' ' | b'=' | b'>' | b'\\');
    let start = sign + 1 + bytes.get(sign + 1..)?.iter().position(begins)?;
    let value = bytes.get(start..)?;
    let end = match value.first()? {
        quote @ (b'"' | b'\'') => {
            let inner = value.get(1..)?;
            let mut escaped = false;
            let closes = |byte: &u8| {
                let closes = byte == quote && !escaped;
                escaped = *byte == b'\\' && !escaped;
                closes
            };
            return Some((start + 1, start + 1 + inner.iter().position(closes).unwrap_or(inner.len())));
        }
        // What is nested is not told apart: nothing after it is shown.
        b'{' | b'[' => value.len(),
        _ if is_header => {
            value.iter().position(|byte| matches!(byte, b'\n' | b'\r' | b'"' | b'\'' | b'&')).unwrap_or(value.len())
        }
        _ => value
            .iter()
            .position(|byte| {
                byte.is_ascii_whitespace()
                    || matches!(byte, b'&' | b';' | b',' | b'#' | b'"' | b'\'' | b'<' | b'>' | b')' | b'}' | b']')
                    || in_path && *byte == b'/'
            })
            .unwrap_or(value.len()),
    };
    (end != 0).then_some((start, start + end))
}

/// The text with the passwords of addresses masked; `None` when it holds none.
fn without_password(text: &str) -> Option<String> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let is_end = |letter: char| matches!(letter, '/' | '?' | '#' | '"' | '\'') || letter.is_whitespace();
        let place = after.split(is_end).next().unwrap_or_default();
        let secret = place.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
        shown.extend([before, "://"]);
        rest = after;
        if let Some((user, password)) = secret {
            shown.extend([user, ":", MASK]);
            rest = after.get(user.len() + 1 + password.len()..).unwrap_or_default();
        }
    }
    shown.push_str(rest);
    (shown != text).then_some(shown)
}

/// A parameter name without percent encoding, as far as it decodes to text.
fn decoded(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return Cow::Borrowed(name);
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        let digits = (*first == b'%').then(|| more.split_first_chunk::<2>()).flatten();
        let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        match digits.and_then(|([high, low], after)| Some((hex(*high)? << 4 | hex(*low)?, after))) {
            Some((byte, after)) => {
                bytes.push(byte);
                rest = after;
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(name), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction() -> Redaction {
        Redaction::new(&SecurityConfig {
            log_sensitive_headers: BTreeSet::from(["X-Internal".to_owned()]),
            log_sensitive_params: BTreeSet::from(["Session".to_owned()]),
            ..SecurityConfig::default()
        })
    }

    #[test]
    fn sensitive_parameters_are_masked() {
        for (raw, expected) in [
            ("/a", "/a"),
            ("/a?b=c", "/a?b=c"),
            ("/a?token=1&b=2", "/a?token=[REDACTED]&b=2"),
            ("/a?b=2&PassWord=x=y", "/a?b=2&PassWord=[REDACTED]"),
            ("/a?session=1", "/a?session=[REDACTED]"),
            ("/a?to%6ben=1", "/a?to%6ben=[REDACTED]"),
            ("/a?token", "/a?token"),
            ("/a?%zz=1&%=2&token=", "/a?%zz=1&%=2&token=[REDACTED]"),
            ("/token=1?tokens=1", "/token=[REDACTED]?tokens=1"),
            ("/a;password=1", "/a;password=[REDACTED]"),
        ] {
            assert_eq!(redaction().target(raw), expected, "{raw}");
        }
        assert_eq!(redaction().target(&"/ä".repeat(1000)).len(), 511, "cut between characters");
    }

    #[test]
    fn texts_lose_what_is_secret() {
        for (raw, expected) in [
            ("/a?Token=abc&y=a%20b", "/a?Token=[REDACTED]&y=a%20b"),
            ("http://u:p@h/a?token=abc", "http://u:[REDACTED]@h/a?token=[REDACTED]"),
            ("see redis://:p@h:1/0 and http://a/b@c:d", "see redis://:[REDACTED]@h:1/0 and http://a/b@c:d"),
            ("/a?api%5Fkey=1", "/a?api%5Fkey=[REDACTED]"),
            ("/a?api%25255Fkey=1", "/a?api%25255Fkey=[REDACTED]"),
            ("/a?x=token=abc", "/a?x=token=[REDACTED]"),
            ("/a?x=token%3Dabc&b=1", "/a?x=[REDACTED]&b=1"),
            ("/a#token=1", "/a#token=[REDACTED]"),
            (r#"/a?q={"password":"s","k":1}"#, r#"/a?q={"password":"[REDACTED]","k":1}"#),
            ("/token/abc", "/token/abc"),
            ("a token=abc", "a token=[REDACTED]"),
            (
                r#"{"password":"x\"y","a":{"token":"y"},"n":1}"#,
                r#"{"password":"[REDACTED]","a":{"token":"[REDACTED]"},"n":1}"#,
            ),
            (r#"{\"password\": \"x\"}"#, r#"{\"password\": \"[REDACTED]"#),
            (r#"{"token":{"a":"b"},"n":1}"#, r#"{"token":[REDACTED]"#),
            (r#"{"token": 7, "n": 1}"#, r#"{"token": [REDACTED], "n": 1}"#),
            ("<password>abc</password>", "<password>[REDACTED]</password>"),
            ("authorization: Bearer abc def", "authorization: [REDACTED]"),
            ("user[password]=x&user.secret=y", "user[password]=[REDACTED]&user.secret=[REDACTED]"),
            ("Missing or invalid Bearer token", "Missing or invalid Bearer token"),
            ("token=", "token="),
            ("ä token=ö;", "ä token=[REDACTED];"),
            ("", ""),
        ] {
            assert_eq!(redaction().text(raw), expected, "{raw}");
        }
        assert_eq!(redaction().text(&"x".repeat(5000)).len(), TEXT_BYTES_MAX);
    }

    #[test]
    fn paths_lose_what_is_secret() {
        for (raw, expected) in [
            ("/login;password=x/y", "/login;password=[REDACTED]/y"),
            ("/a\tb\r\n", "/a%09b%0D%0A"),
            ("/token/abc", "/token/abc"),
        ] {
            assert_eq!(redaction().path(raw), expected, "{raw}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(token|password|[a-z]|[=:<>\"'\\\\{}@/%&; ]|://|ä){0,40}") {
            drop(redaction().text(&text));
            drop(redaction().path(&text));
        }
    }

    #[test]
    fn sensitive_headers_are_masked() {
        let fields: [(&str, &[u8]); 4] =
            [("accept", b"*/*"), ("authorization", b"Bearer x"), ("x-internal", b"y"), ("x-bytes", b"\xff")];
        let shown = redaction().headers(&fields.into_iter().collect());
        assert_eq!(shown, "accept: */*; authorization: [REDACTED]; x-internal: [REDACTED]; x-bytes: \u{fffd}");
        let many: Vec<(&str, &[u8])> = vec![("a", b"b"); 100];
        assert_eq!(redaction().headers(&many.into_iter().collect()).matches("a: b").count(), HEADERS_MAX);
    }
}
