//! Header parameters and transfer encodings of MIME, read as tolerantly as servers do.

use std::borrow::Cow;

use crate::detect::extract::charset::Charset;
use crate::detect::extract::percent::hex;

/// Parameters of one header value that are read.
const PARAMETERS_MAX: usize = 32;

/// The parameters of a header value (`text/html; charset=utf-8`), names lower case, quotes and RFC 2231 encoding undone,
/// continuations (`name*0=`, `name*1=`) joined. Repeated parameters are all there, in order.
pub(super) fn parameters(value: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut rest = after_semicolon(value);
    while let Some(text) = rest.filter(|_| found.len() < PARAMETERS_MAX) {
        let (name, after) = match text.find(['=', ';']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let Some(raw) = after.strip_prefix('=') else {
            rest = after.strip_prefix(';');
            continue;
        };
        let (value, after) = parameter_value(raw);
        rest = after;
        let name = name.trim().to_ascii_lowercase();
        push_parameter(name, value, &mut found);
    }
    found
}

fn push_parameter(name: String, value: Cow<'_, str>, found: &mut Vec<(String, String)>) {
    let (base, section) = match name.split_once('*') {
        None => return found.push((name, value.into_owned())),
        Some((base, section)) => (base, section),
    };
    let encoded = section.is_empty() || section.ends_with('*');
    let value = if encoded { extended(&value) } else { value.into_owned() };
    let number = section.trim_end_matches('*');
    let continues = number.parse::<u32>().is_ok_and(|number| number != 0);
    match found.last_mut().filter(|(known, _)| continues && known == base) {
        Some((_, known)) => known.push_str(&value),
        None => found.push((base.to_owned(), value)),
    }
}

/// The text after the first `;` outside quotes.
fn after_semicolon(value: &str) -> Option<&str> {
    value.split_once(';').map(|(_, rest)| rest)
}

/// The value that `raw` begins with, and the text after the `;` that ends it.
fn parameter_value(raw: &str) -> (Cow<'_, str>, Option<&str>) {
    let raw = raw.trim_start();
    let Some(quoted) = raw.strip_prefix('"') else {
        let (value, after) = raw.split_once(';').map_or((raw, None), |(value, after)| (value, Some(after)));
        return (Cow::Borrowed(value.trim_end()), after);
    };
    let mut escaped = false;
    let end = quoted.find(|char| {
        let ends = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        ends
    });
    let (inner, after) = end.map_or((quoted, ""), |end| quoted.split_at(end));
    let value = match inner.contains("\\\"") || inner.contains("\\\\") {
        // Only quotes and backslashes are unescaped: browsers send Windows paths with bare backslashes.
        true => Cow::Owned(inner.replace("\\\"", "\"").replace("\\\\", "\\")),
        false => Cow::Borrowed(inner),
    };
    (value, after_semicolon(after))
}

/// `charset'language'percent-encoded`, decoded.
fn extended(value: &str) -> String {
    let (charset, text) = match value.splitn(3, '\'').collect::<Vec<_>>().as_slice() {
        [charset, _, text] => (Charset::labelled(charset).unwrap_or(Charset::Utf8), *text),
        _ => (Charset::Utf8, value),
    };
    charset.decode(&percent_bytes(text.as_bytes(), false)).into_owned()
}

/// Percent-decodes bytes, `+` as a blank if `plus` says so.
pub(super) fn percent_bytes(raw: &[u8], plus: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    loop {
        rest = match rest {
            [] => return bytes,
            [b'%', high, low, after @ ..] if let (Some(high), Some(low)) = (hex(*high), hex(*low)) => {
                bytes.push(high << 4 | low);
                after
            }
            [b'+', after @ ..] if plus => {
                bytes.push(b' ');
                after
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                after
            }
        }
    }
}

/// Undoes a Content-Transfer-Encoding. `None` when nothing has to be undone.
pub(super) fn undo_transfer(encoding: &str, payload: &[u8]) -> Option<Vec<u8>> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "base64" => Some(base64(payload)),
        "quoted-printable" => Some(quoted_printable(payload)),
        _ => None,
    }
}

/// Decodes base64 as tolerantly as mail readers do: both alphabets, other bytes skipped, padding anywhere, the end as it
/// comes.
pub(super) fn base64(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => {
                held = 0;
                continue;
            }
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if 8 <= held {
            held -= 8;
            bytes.push((bits >> held & 0xFF) as u8);
        }
    }
    bytes
}

/// Decodes quoted-printable; malformed escapes stay as they are.
fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return bytes,
            [b'=', b'\r', b'\n', after @ ..] | [b'=', b'\n', after @ ..] => after,
            [b'=', high, low, after @ ..] if let (Some(high), Some(low)) = (hex(*high), hex(*low)) => {
                bytes.push(high << 4 | low);
                after
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                after
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_read() {
        for (value, expected) in [
            ("text/html", &[][..]),
            ("text/html; charset=utf-8", &[("charset", "utf-8")]),
            ("a/b;CharSet = \"utf-8\" ; x", &[("charset", "utf-8")]),
            ("m/f; boundary=X7; boundary=Y8", &[("boundary", "X7"), ("boundary", "Y8")]),
            ("m/f; boundary=\"a;b=c\"; d=e", &[("boundary", "a;b=c"), ("d", "e")]),
            ("f; name=\"a\\\"b\"; filename=\"C:\\dir\\x\"", &[("name", "a\"b"), ("filename", "C:\\dir\\x")]),
            ("f; filename*=utf-8''a%20b%2fc", &[("filename", "a b/c")]),
            ("f; filename*=\"UTF-8'en'%e2%82%ac\"", &[("filename", "\u{20ac}")]),
            ("f; filename*=iso-8859-1''%e9", &[("filename", "\u{e9}")]),
            ("f; n*0=ab; n*1=cd; n*2*=%65", &[("n", "abcde")]),
            ("f; name=\"open", &[("name", "open")]),
            ("f;;; =x; a", &[("", "x")]),
        ] {
            let found = parameters(value);
            let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn transfer_encodings_are_undone() {
        for (encoding, payload, expected) in [
            ("base64", &b"aGVs\r\nbG8="[..], Some(&b"hello"[..])),
            ("BASE64 ", b"aGVsbG8", Some(b"hello")),
            ("base64", b"aGk=aGk=", Some(b"hihi")),
            ("quoted-printable", b"a=3Db=\r\nc=zz=", Some(b"a=bc=zz=")),
            ("8bit", b"x", None),
            ("", b"x", None),
        ] {
            assert_eq!(undo_transfer(encoding, payload).as_deref(), expected, "{encoding}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(value in "[;=\"'*\\\\%a0-9 \\PC]{0,60}") {
            prop_assert!(parameters(&value).iter().map(|(_, value)| value.len()).sum::<usize>() <= value.len() * 3);
            prop_assert!(quoted_printable(value.as_bytes()).len() <= value.len());
            prop_assert!(base64(value.as_bytes()).len() <= value.len());
        }
    }
}
