//! Line breaks that would start a header, a response or a request of their own.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{Folded, at, has, is_blank, part, skip};
use crate::detect::{Kind, Source, work};

/// Bodies with more lines than this are texts of their own.
const LINES_MAX: usize = 6;

/// Values longer than this are texts of their own, and only the fields that no text begins a line with count.
const LONE_BYTES_MAX: usize = 160;

/// Header fields worth smuggling in; lower case, sorted.
const FIELDS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "authorization",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "content-type",
    "cookie",
    "host",
    "link",
    "location",
    "mime-version",
    "origin",
    "pragma",
    "proxy-authorization",
    "refresh",
    "server",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "www-authenticate",
    "x-content-type-options",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-frame-options",
    "x-original-url",
    "x-rewrite-url",
    "x-xss-protection",
];
/// Fields that change a mail's recipients.
const MAIL: &[&str] = &["bcc", "cc", "to", "reply-to"];

/// A line break and then a header field, a status line, a request line or a document.
pub(crate) fn injected_line(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let context = candidate.context;
    if matches!(context.kind, Kind::MultipartField | Kind::Island | Kind::Xml) {
        return None;
    }
    let text = candidate.text.as_bytes();
    let in_body = matches!(context.source, Source::Body | Source::Unknown);
    let lines = memchr::memchr_iter(b'\n', text).take(LINES_MAX + 1).count();
    if in_body
        && (LINES_MAX < lines || context.kind == Kind::Value && memchr::memmem::find(text, b"form-data").is_some())
    {
        return None;
    }
    let mut index = 0;
    while candidate.work.goes_on() {
        let (start, after, breaks) = next_break(text, index)?;
        index = after;
        let convicts = starts_message(text, after)
            || !in_body && 2 <= breaks && at(text, after) == b'<'
            || starts_any_field(text, after)
                && (starts_field(text, start, after, in_body)
                    || in_body && ends_request_line(text, start)
                    || starts_mail_field(text, after));
        if convicts {
            return Some(start..text.len().min(after + 64));
        }
    }
    None
}

/// The next line break from `from` on, in any spelling: its start, what follows it, and how many stand in a row.
fn next_break(text: &[u8], from: usize) -> Option<(usize, usize, usize)> {
    let may_start = |byte: &u8| matches!(byte, b'\r' | b'\n' | b'\\' | b'%' | 0xe5 | 0xc2);
    let mut index = from;
    while let Some(offset) = text.get(index..)?.iter().position(may_start) {
        index += offset;
        let mut end = index;
        let mut breaks = 0;
        while let Some(width) = break_at(text, end) {
            breaks += usize::from(at(text, end) != b'\r' || break_at(text, end + width).is_none());
            end = skip(text, end + width, 8, |byte| byte == b' ' || byte == b'\t');
        }
        if 0 < breaks {
            return Some((index, end, breaks));
        }
        index += 1;
    }
    None
}

/// The width of a line break: control characters, what programs write for them, and characters whose low byte is one.
fn break_at(text: &[u8], index: usize) -> Option<usize> {
    match at(text, index) {
        b'\r' | b'\n' => Some(1),
        b'\\' if matches!(at(text, index + 1), b'r' | b'n') => Some(2),
        b'%' if has(text, index, b"%0d") || has(text, index, b"%0a") => Some(3),
        0xe5 if ["\u{560d}", "\u{560a}"].iter().any(|odd| part(text, index, index + 3) == odd.as_bytes()) => Some(3),
        0xc2 if part(text, index, index + 2) == "\u{85}".as_bytes() => Some(2),
        _ => None,
    }
}

/// A status line, a request line, or the envelope of a mail.
fn starts_message(text: &[u8], index: usize) -> bool {
    // What they begin with: most lines begin otherwise.
    if !matches!(at(text, index).to_ascii_lowercase(), b'h' | b'm' | b'r' | b'g' | b'p' | b'd' | b'o' | b't' | b'c') {
        return false;
    }
    if has(text, index, b"http/") {
        return at(text, index + 5).is_ascii_digit() && skip(text, index, 16, |byte| !is_blank(byte)) < text.len();
    }
    if ["mail from:<", "rcpt to:<"].iter().any(|command| has(text, index, command.as_bytes())) {
        return true;
    }
    let methods =
        [&b"get "[..], b"post ", b"put ", b"delete ", b"head ", b"options ", b"patch ", b"trace ", b"connect "];
    let Some(method) = methods.iter().find(|method| has(text, index, method)) else { return false };
    let target = index + method.len();
    let line = part(text, target, target + 512);
    work::read(line.len());
    (at(line, 0) == b'/' || has(line, 0, b"http")) && memchr::memmem::find(line, b" HTTP/").is_some()
}

/// A known field's name and its colon. In bodies, texts have lines such as `Server: x` of their own.
fn starts_field(text: &[u8], line_break: usize, index: usize, in_body: bool) -> bool {
    let end = skip(text, index, 40, |byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if at(text, end) != b':' {
        return false;
    }
    let name = Folded::<40>::of(part(text, index, end));
    let is_known = FIELDS.binary_search_by(|known| known.as_bytes().cmp(name.bytes())).is_ok();
    if !in_body {
        return is_known || has(text, index, b"x-") && 4 < end - index;
    }
    let is_short = text.len() < LONE_BYTES_MAX;
    if !is_known {
        // Forms end lines by CR LF too, but no line of a text begins like this.
        return is_short && at(text, line_break) == b'\r' && has(text, index, b"x-") && 6 < end - index;
    }
    match name.bytes() {
        b"set-cookie" | b"set-cookie2" | b"transfer-encoding" | b"content-length" => true,
        // Calendars, cards and notes have these among fields of their own, and places are no addresses.
        b"location" => {
            let is_plain = matches!(at(text, line_break), b'\r' | b'\n');
            !is_plain || names_target(text, end + 1) && !begins_as_record(text)
        }
        b"content-type" => !begins_as_record(text),
        name => is_short && is_technical(name),
    }
}

/// What follows could be an address to go to.
fn names_target(text: &[u8], index: usize) -> bool {
    let start = skip(text, index, 8, |byte| byte == b' ' || byte == b'\t');
    let scheme = skip(text, start, 16, |byte| byte.is_ascii_alphanumeric());
    matches!(at(text, start), b'/' | b'\\' | b'%') || start < scheme && at(text, scheme) == b':'
}

/// The text is a list of fields from its first line on: a name and a colon, and no address.
fn begins_as_record(text: &[u8]) -> bool {
    let line = part(text, 0, memchr::memchr2(b'\n', b'\r', text).unwrap_or(text.len()));
    let end = skip(line, 0, 40, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b';' | b'='));
    0 < end && at(line, end) == b':' && at(line, end + 1) != b'/' && end + 1 < line.len()
}

/// Names that no letter or note begins a line with.
fn is_technical(name: &[u8]) -> bool {
    name.contains(&b'-') || matches!(name, b"refresh")
}

/// `GET /x HTTP/1.1` or its end, before the line break at `end`.
fn ends_request_line(text: &[u8], end: usize) -> bool {
    [&b"http/1.1"[..], b"http/1.0", b"http/2"]
        .iter()
        .any(|version| end.checked_sub(version.len()).is_some_and(|start| has(text, start, version)))
}

/// Any field's name and its colon.
fn starts_any_field(text: &[u8], index: usize) -> bool {
    let end = skip(text, index, 40, |byte| byte.is_ascii_alphanumeric() || byte == b'-');
    index < end && at(text, end) == b':'
}

/// A recipient's field with an address.
fn starts_mail_field(text: &[u8], index: usize) -> bool {
    let end = skip(text, index, 12, |byte| byte.is_ascii_alphabetic() || byte == b'-');
    let name = Folded::<12>::of(part(text, index, end));
    let value = part(text, end + 1, end + 80);
    let line_end = value.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(value.len());
    at(text, end) == b':'
        && MAIL.iter().any(|field| field.as_bytes() == name.bytes())
        && part(value, 0, line_end).contains(&b'@')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing::{body, query};

    #[test]
    fn lines_that_a_server_would_obey() {
        assert!(FIELDS.is_sorted());
        for (text, expected) in [
            ("x\r\nSet-Cookie: a=b", true),
            ("x\nLocation: //elsewhere.example", true),
            ("x\\r\\nX-Injected: 1", true),
            ("x\u{560d}\u{560a}Set-Cookie: a=b", true),
            ("x%0d%0aContent-Length: 0", true),
            ("x\r\n\r\nHTTP/1.1 200 OK\r\n", true),
            ("x\r\n\r\n<b>y</b>", true),
            ("x HTTP/1.1\r\nGET /admin HTTP/1.1", true),
            ("Q:\tWhat?\nA:\tThat.", false),
            ("line one\nline two", false),
            ("C:\\new\\results: 3", false),
            ("get\nwell soon", false),
            ("a@example.com\nbcc: b@example.com", true),
        ] {
            assert_eq!(injected_line(&query(text)).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn texts_have_lines_with_colons() {
        assert!(injected_line(&body("Server: down\nHost: unknown\nCookie: eaten")).is_none());
        assert!(injected_line(&body("x\r\nSet-Cookie: a=b")).is_some());
        assert!(injected_line(&body("a@example.com\nBcc: b@example.com")).is_some());
        assert!(injected_line(&body("x HTTP/1.1\r\nHost: a\r\n")).is_some());
        assert!(injected_line(&body("x\r\nX-Frame-Options: a")).is_some());
        assert!(injected_line(&body("to be\nto: not to be")).is_none());
        for (text, expected) in [
            ("to: a\nfrom: b\nLocation: Berlin", false),
            ("SUMMARY:a\r\nLOCATION:https://meet.example/a", false),
            ("a note\nLocation: the hall", false),
            ("a\r\nLocation: https://elsewhere.example", true),
            ("https://a.example/\r\nLocation: //elsewhere.example", true),
            ("a: b\r\nSet-Cookie: a=b", true),
            ("a\r\nX-Injected: 1", true),
            ("a\nx-rays: 4", false),
            ("a@b.example\r\nRCPT TO:<c@d.example>", true),
            ("mail from: me\nmail from: you", false),
        ] {
            assert_eq!(injected_line(&body(text)).is_some(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(\r|\n|%0a|\\\\n|HTTP/1|Host|:|<|\\PC){0,60}") {
            if let Some(found) = injected_line(&query(&text)) {
                prop_assert!(found.start <= found.end && found.end <= text.len());
            }
        }
    }
}
