//! Encodings taken off, one round at a time, until nothing changes.

use crate::detect::view::Recipe;
use crate::detect::view::base64::{self, Gunzips};
use crate::detect::view::norm::normalise;

/// Rounds before giving up; that all of them changed something is itself a finding.
const ROUNDS_MAX: usize = 16;
/// Longest name of an HTML character reference, its `&` and `;` left out.
const ENTITY_MAX: usize = 32;

/// Decodes until nothing changes. The text is `None` when nothing ever changed; the flag says that every round did.
pub(super) fn decode(raw: &str, recipe: &Recipe) -> (Option<String>, bool) {
    let mut gunzips = Gunzips::default();
    let mut text: Option<String> = None;
    for _ in 0..ROUNDS_MAX {
        match round(text.as_deref().unwrap_or(raw), recipe, &mut gunzips) {
            Some(next) => text = Some(next),
            None => return (text, false),
        }
    }
    (text, true)
}

/// Every step once. `None` when the text comes out as it went in.
fn round(before: &str, recipe: &Recipe, gunzips: &mut Gunzips) -> Option<String> {
    let mut text: Option<String> = None;
    let mut step = |decode: &mut dyn FnMut(&str) -> Option<String>| {
        if let Some(next) = decode(text.as_deref().unwrap_or(before)) {
            text = Some(next);
        }
    };
    step(&mut overlong);
    step(&mut percent);
    step(&mut entities);
    step(&mut percent_u);
    step(&mut |text| backslashes(text, recipe.is_strict()));
    step(&mut |text| normalise(text, recipe.is_strict()));
    step(&mut |text| base64::decode_islands(text, recipe, gunzips));
    text.filter(|text| text != before)
}

/// The byte that `%` and two hexadecimal digits at the start of `bytes` stand for.
fn triplet(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => pair(*high, *low),
        _ => None,
    }
}

fn pair(high: u8, low: u8) -> Option<u8> {
    Some((char::from(high).to_digit(16)? << 4 | char::from(low).to_digit(16)?) as u8)
}

/// Replaces each maximal run of triplets by what `replace` makes of its bytes; `None` keeps the run.
fn replace_runs(text: &str, replace: impl Fn(&[u8], &mut String) -> bool) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut result, mut piece, mut run) = (String::new(), String::new(), Vec::new());
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(b'%', rest)) {
        let start = at + found;
        run.clear();
        at = start;
        while let Some(byte) = bytes.get(at..).and_then(triplet) {
            run.push(byte);
            at += 3;
        }
        if run.is_empty() {
            at += 1;
            continue;
        }
        piece.clear();
        if replace(&run, &mut piece) {
            result.push_str(text.get(copied..start).unwrap_or_default());
            result.push_str(&piece);
            copied = at;
        }
    }
    if copied == 0 {
        return None;
    }
    result.push_str(text.get(copied..).unwrap_or_default());
    Some(result)
}

/// Runs of triplets that are no UTF-8: overlong forms count as what they mean, other bytes vanish.
fn overlong(text: &str) -> Option<String> {
    replace_runs(text, |bytes, result| {
        if simdutf8::basic::from_utf8(bytes).is_ok() {
            return false;
        }
        let mut rest = bytes;
        loop {
            rest = match rest {
                [] => return true,
                [lead @ (0xc0 | 0xc1), tail @ 0x80..=0xbf, rest @ ..] => {
                    push(result, u32::from(lead & 0x1f) << 6 | u32::from(tail & 0x3f));
                    rest
                }
                [0xe0, high @ 0x80..=0x9f, tail @ 0x80..=0xbf, rest @ ..] => {
                    push(result, u32::from(high & 0x3f) << 6 | u32::from(tail & 0x3f));
                    rest
                }
                [0xf0, top @ 0x80..=0x8f, high @ 0x80..=0xbf, tail @ 0x80..=0xbf, rest @ ..] => {
                    push(result, u32::from(top & 0x3f) << 12 | u32::from(high & 0x3f) << 6 | u32::from(tail & 0x3f));
                    rest
                }
                [byte, rest @ ..] => {
                    if byte.is_ascii() {
                        result.push(char::from(*byte));
                    }
                    rest
                }
            };
        }
    })
}

/// A code point; a surrogate has a stand-in of the same length.
fn push(result: &mut String, code: u32) {
    result.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
}

/// `%41` is `A`; bytes that are no UTF-8 vanish, malformed escapes stay, `+` stays.
fn percent(text: &str) -> Option<String> {
    replace_runs(text, |bytes, result| {
        bytes.utf8_chunks().for_each(|chunk| result.push_str(chunk.valid()));
        true
    })
}

/// Replaces what follows each `marker` by the code point and length that `read` gives.
fn replace_each(text: &str, marker: u8, read: impl Fn(&[u8]) -> Option<(u32, usize)>) -> Option<String> {
    let bytes = text.as_bytes();
    let mut result = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(marker, rest)) {
        let start = at + found;
        at = start + 1;
        let Some((code, length)) = bytes.get(at..).and_then(&read) else { continue };
        result.push_str(text.get(copied..start).unwrap_or_default());
        push(&mut result, code);
        at += length;
        copied = at;
    }
    if copied == 0 {
        return None;
    }
    result.push_str(text.get(copied..).unwrap_or_default());
    Some(result)
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))
}

/// `%u0041` is `A`.
fn percent_u(text: &str) -> Option<String> {
    replace_each(text, b'%', |rest| match rest {
        [b'u' | b'U', digits @ ..] => Some((hex(digits.get(..4)?)?, 5)),
        _ => None,
    })
}

#[derive(Clone, Copy)]
enum Escape {
    /// `\x41`
    HexX,
    /// `\41`, whatever it stands for
    Hex,
    /// `\41`, when it stands for printable ASCII or NUL: paths of Windows stay readable
    HexAscii,
    /// `\u0041`
    Unicode,
}

/// Backslash escapes of every kind, one kind after the other.
fn backslashes(text: &str, is_strict: bool) -> Option<String> {
    let bytes = text.as_bytes();
    // Most of what programs escape is of no kind that is read here.
    let may_stand =
        |at: usize| bytes.get(at + 1).is_some_and(|next| matches!(next, b'x' | b'u') || next.is_ascii_hexdigit());
    if !memchr::memchr_iter(b'\\', bytes).any(may_stand) {
        return None;
    }
    let mut changed: Option<String> = None;
    for escape in [Escape::HexX, if is_strict { Escape::HexAscii } else { Escape::Hex }, Escape::Unicode] {
        changed = backslash(changed.as_deref().unwrap_or(text), escape).or(changed);
    }
    changed
}

/// Backslash escapes of one kind.
fn backslash(text: &str, escape: Escape) -> Option<String> {
    replace_each(text, b'\\', |rest| match (escape, rest) {
        (Escape::HexX, [b'x', digits @ ..]) => Some((hex(digits.get(..2)?)?, 3)),
        (Escape::Hex, digits) => Some((hex(digits.get(..2)?)?, 2)),
        (Escape::HexAscii, digits) => {
            hex(digits.get(..2)?).filter(|code| matches!(code, 0 | 0x20..=0x7e)).map(|code| (code, 2))
        }
        (Escape::Unicode, [b'u', digits @ ..]) => Some((hex(digits.get(..4)?)?, 5)),
        (Escape::HexX | Escape::Unicode, _) => None,
    })
}

/// HTML character references, numeric ones as Python reads them, named ones with or without a semicolon.
fn entities(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut result, mut piece) = (String::new(), String::new());
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(b'&', rest)) {
        let start = at + found;
        at = start + 1;
        piece.clear();
        if let Some(length) = reference(text.get(start..).unwrap_or_default(), &mut piece) {
            result.push_str(text.get(copied..start).unwrap_or_default());
            result.push_str(&piece);
            at += length;
            copied = at;
        }
    }
    if copied == 0 {
        return None;
    }
    result.push_str(text.get(copied..).unwrap_or_default());
    Some(result)
}

/// One reference from its `&` on: appends what it stands for, returns how long it is behind the `&`.
fn reference(text: &str, result: &mut String) -> Option<usize> {
    let rest = text.strip_prefix('&')?;
    if let Some(number) = rest.strip_prefix('#') {
        let (digits, radix, skipped) = match number.strip_prefix(['x', 'X']) {
            Some(digits) => (digits, 16, 2),
            None => (number, 10, 1),
        };
        let count = digits.bytes().take_while(|byte| char::from(*byte).is_digit(radix)).count();
        let digits = digits.get(..count).filter(|digits| !digits.is_empty())?;
        push_numbered(digits.trim_start_matches('0'), radix, result);
        let length = skipped + count;
        return Some(length + usize::from(rest.as_bytes().get(length) == Some(&b';')));
    }
    let ends = |char: char| matches!(char, '\t' | '\n' | '\x0c' | ' ' | '<' | '&' | '#' | ';');
    let name_length = rest.char_indices().take(ENTITY_MAX).find(|(_, char)| ends(*char));
    let mut length = match name_length {
        Some((index, _)) => index,
        None => rest.char_indices().nth(ENTITY_MAX).map_or(rest.len(), |(index, _)| index),
    };
    // No reference starts with anything but a letter.
    if length == 0 || !rest.starts_with(|char: char| char.is_ascii_alphabetic()) {
        return None;
    }
    length += usize::from(rest.as_bytes().get(length) == Some(&b';'));
    let name = text.get(..=length)?;
    match htmlize::unescape(name) {
        std::borrow::Cow::Owned(text) if text != name => result.push_str(&text),
        _ => return None,
    }
    Some(length)
}

/// A numeric reference: what browsers make of the Windows range, nothing for control characters.
fn push_numbered(digits: &str, radix: u32, result: &mut String) {
    // More digits than the largest code point has.
    let code = if digits.len() <= 8 { u32::from_str_radix(digits, radix).unwrap_or(0) } else { u32::MAX };
    match code {
        0 | 0xd800..=0xdfff | 0x11_0000.. => result.push(char::REPLACEMENT_CHARACTER),
        0x0d => result.push('\r'),
        0x80..=0x9f => {
            let text = format!("&#{code};");
            result.push_str(&htmlize::unescape(text.as_str()));
        }
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => {}
        _ if code & 0xfffe == 0xfffe => {}
        _ => push(result, code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_decode_what_they_should_and_nothing_else() {
        type Case = (fn(&str) -> Option<String>, &'static str, Option<&'static str>);
        let cases: &[Case] = &[
            (percent, "a%41%zz%e2%82%ac%ffb", Some("aA%zz€b")),
            (percent, "100% + 5", None),
            (overlong, "%c0%af%2e%c1%9c", Some("/.\\")),
            (overlong, "%e0%80%af%f0%80%80%af%ff", Some("//")),
            (overlong, "%e2%82%ac", None),
            (percent_u, "%u0041%U0042%u00", Some("AB%u00")),
            (entities, "&lt;&#x41;&#66&amp;lt;&copy1&nope; &", Some("<AB&lt;©1&nope; &")),
            (entities, "a & b; c&d", None),
            (entities, "&#0;&#x1;&#128;&#xD800;", Some("\u{fffd}€\u{fffd}")),
        ];
        for (step, text, expected) in cases {
            assert_eq!(step(text).as_deref(), *expected, "{text}");
        }
        assert_eq!(backslash(r"\x41\x4 \X42", Escape::HexX).as_deref(), Some(r"A\x4 \X42"));
        assert_eq!(backslash(r"\28\de\2", Escape::Hex).as_deref(), Some("(\u{de}\\2"));
        assert_eq!(backslash(r"\28C:\da", Escape::HexAscii).as_deref(), Some(r"(C:\da"));
        assert_eq!(backslash(r"\u0041\ud800", Escape::Unicode).as_deref(), Some("A\u{fffd}"));
    }
}
