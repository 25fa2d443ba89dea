//! LDAP filters that a value closes and reopens.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::guard_core::matched;
use crate::detect::confirm::scan::{at, is_word, part, skip};

/// Bytes read before the parenthesis that closes.
const BACK_MAX: usize = 40;
/// Bytes read behind it.
const FORWARD_MAX: usize = 4096;

/// The first closing parenthesis of the match closes more than the value opened, and an operator is near.
pub(super) fn breakout(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    let Some(close) = memchr::memchr(b')', matched(candidate, range)).map(|offset| range.start + offset) else {
        return false;
    };
    let start = back(bytes, close);
    let window = part(bytes, start, close);
    let depth = window.iter().fold(0_i32, |depth, byte| match byte {
        b'(' => depth + 1,
        b')' => depth - 1,
        _ => depth,
    });
    let cut = BACK_MAX <= close - start;
    let proven = depth <= 0 && (at(bytes, range.start) == b'*' || !cut);
    (proven || ends_in_starred_value(window)) && (is_attack(window) || is_attack(forward(bytes, close)))
}

/// Where the text before `close` begins: behind a quote, a line end or an ampersand.
fn back(bytes: &[u8], close: usize) -> usize {
    let stops = |byte: &u8| matches!(byte, b'"' | b'\'' | b'\n' | b'&');
    close - part(bytes, 0, close).iter().rev().take(BACK_MAX).take_while(|byte| !stops(byte)).count()
}

/// From the closing parenthesis to a quote, a line end, or the parenthesis that closes what was never opened.
fn forward(bytes: &[u8], close: usize) -> &[u8] {
    let mut depth = 0_i32;
    let inside = part(bytes, close + 1, close + 1 + FORWARD_MAX).iter().take_while(|byte| {
        depth += match byte {
            b'(' => 1,
            b')' => -1,
            _ => 0,
        };
        0 <= depth && !matches!(byte, b'"' | b'\'' | b'\n')
    });
    let end = close + 1 + inside.count();
    part(bytes, close, end)
}

/// `=value*`.
fn ends_in_starred_value(window: &[u8]) -> bool {
    let Some(value) = window.strip_suffix(b"*") else { return false };
    let length = value.iter().rev().take_while(|byte| is_word(**byte)).count();
    at(value, value.len().wrapping_sub(length + 1)) == b'='
}

/// A star, an operator, a NUL, or a comparison that only filters have.
fn is_attack(window: &[u8]) -> bool {
    let pair = |pair: &[u8]| matches!(pair, [b'(', b'&' | b'|' | b'!' | b'('] | [b'~' | b'>' | b'<', b'=']);
    window.iter().any(|byte| matches!(byte, b'*' | 0)) || window.windows(2).any(pair)
}

/// An operator before filters, not a parenthesis before a sign.
pub(super) fn composed(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    if matches!(at(bytes, range.end), b'!' | b'(' | b'*') {
        return true;
    }
    let name = skip(bytes, range.end, BACK_MAX, |byte| is_word(byte) || matches!(byte, b'.' | b';' | b':' | b'-'));
    let sign = at(bytes, name);
    range.end < name && (sign == b'=' || matches!(sign, b'~' | b'>' | b'<') && at(bytes, name + 1) == b'=')
}
