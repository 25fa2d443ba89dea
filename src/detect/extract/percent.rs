//! Percent-decoding, once.

use memchr::{memchr, memchr2};

/// Decodes `raw` once, `+` as a blank. Text without escapes is borrowed; `scratch` holds the rest.
pub(super) fn decode_form<'s>(raw: &'s str, scratch: &'s mut String) -> &'s str {
    match memchr2(b'%', b'+', raw.as_bytes()) {
        None => raw,
        Some(_) => decode(raw, true, scratch),
    }
}

/// Decodes `raw` once, `+` as itself.
pub(super) fn decode_path<'s>(raw: &'s str, scratch: &'s mut String) -> &'s str {
    match memchr(b'%', raw.as_bytes()) {
        None => raw,
        Some(_) => decode(raw, false, scratch),
    }
}

/// Undecodable escapes keep their meaning: an overlong form stays as sent, for the decoder of the views; any other
/// stray byte is read as Latin-1, which is what senders of such bytes mean.
fn decode<'s>(raw: &str, plus: bool, scratch: &'s mut String) -> &'s str {
    scratch.clear();
    scratch.reserve(raw.len());
    let mut bytes = Vec::new();
    let mut rest = raw;
    while let Some(at) = rest.bytes().position(|byte| byte == b'%' || (plus && byte == b'+')) {
        let (plain, tail) = rest.split_at(at);
        scratch.push_str(plain);
        if let Some(after) = tail.strip_prefix('+') {
            scratch.push(' ');
            rest = after;
            continue;
        }
        bytes.clear();
        rest = escapes(tail, &mut bytes);
        match bytes.is_empty() {
            true => {
                scratch.push('%');
                rest = rest.strip_prefix('%').unwrap_or_default();
            }
            false => push_bytes(&bytes, scratch),
        }
    }
    scratch.push_str(rest);
    scratch
}

/// Collects the bytes of the escapes `text` begins with, and returns what follows them.
fn escapes<'t>(text: &'t str, bytes: &mut Vec<u8>) -> &'t str {
    let mut rest = text;
    while let [b'%', high, low, ..] = rest.as_bytes() {
        let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { break };
        bytes.push(high << 4 | low);
        rest = rest.get(3..).unwrap_or_default();
    }
    rest
}

fn push_bytes(bytes: &[u8], out: &mut String) {
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        out.push_str(chunk.valid());
        // utf8_chunks ends an invalid chunk where the next sequence may start, so the second byte of an overlong pair
        // is an invalid chunk of its own.
        let mut invalid = chunk.invalid().to_vec();
        while let Some(next) = chunks.next_if(|next| next.valid().is_empty()) {
            invalid.extend_from_slice(next.invalid());
        }
        // A lead byte that no UTF-8 has, before a plain dot or slash: lenient decoders drop it, so it stays as sent.
        let next = chunks.peek().and_then(|next| next.valid().bytes().next());
        match (invalid.split_last(), next) {
            (Some((0xC0 | 0xC1, before)), Some(b'.' | b'/' | b'\\')) => {
                push_invalid(before, out);
                out.push_str("%C0");
            }
            _ => push_invalid(&invalid, out),
        }
    }
}

fn push_invalid(bytes: &[u8], out: &mut String) {
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let length = overlong(rest);
        if length == 0 {
            out.push(char::from(*first));
            rest = tail;
            continue;
        }
        let (form, after) = rest.split_at(length);
        for byte in form {
            out.push('%');
            out.push(digit(byte >> 4));
            out.push(digit(byte & 15));
        }
        rest = after;
    }
}

/// Length of the overlong UTF-8 form that `bytes` begin with, 0 when there is none.
fn overlong(bytes: &[u8]) -> usize {
    match bytes {
        [0xC0 | 0xC1, 0x80..=0xBF, ..] => 2,
        [0xE0, 0x80..=0x9F, 0x80..=0xBF, ..] => 3,
        [0xF0, 0x80..=0x8F, 0x80..=0xBF, 0x80..=0xBF, ..] => 4,
        _ => 0,
    }
}

/// The value of a hexadecimal digit.
pub(super) const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

const fn digit(value: u8) -> char {
    match value {
        0..=9 => (b'0' + value) as char,
        _ => (b'a' + value - 10) as char,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_escape_is_decoded_once() {
        for (raw, expected) in [
            ("plain", "plain"),
            ("a+b", "a b"),
            ("a%2Bb", "a+b"),
            ("%2527", "%27"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%%41", "%A"),
            ("caf%C3%A9", "café"),
            ("caf%E9", "café"),
            ("1%A0union", "1\u{a0}union"),
            ("..%c0%af..%C0%AFetc", "..%c0%af..%c0%afetc"),
            ("%e0%80%afx", "%e0%80%afx"),
            ("%f0%80%80%af", "%f0%80%80%af"),
            ("%ff%c0%af%41", "ÿ%c0%afA"),
            ("%00", "\0"),
            ("é%41ü", "éAü"),
        ] {
            assert_eq!(decode_form(raw, &mut String::new()), expected, "{raw}");
        }
        assert_eq!(decode_path("a+b%20c", &mut String::new()), "a+b c");
    }

    proptest! {
        #[test]
        fn what_was_escaped_comes_back(text in "\\PC{0,40}") {
            let raw: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let mut scratch = String::new();
            prop_assert_eq!(decode_form(&raw, &mut scratch), text);
        }

        #[test]
        fn decoded_text_is_never_longer(raw in "[%+0-9a-fA-F\\PC]{0,60}") {
            let mut scratch = String::new();
            prop_assert!(decode_form(&raw, &mut scratch).len() <= raw.len());
        }
    }
}
