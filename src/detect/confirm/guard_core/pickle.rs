//! Pickles that name a function and call it.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, find, part};

/// Bytes behind the name that are read for the opcode that calls.
const REACH: usize = 4096;

/// Behind the module and the name, opcodes lead to the one that calls.
pub(super) fn calls(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    let starts = range.start.checked_sub(1).is_none_or(|before| !at(bytes, before).is_ascii_alphanumeric());
    let module = find(bytes, range.start, b'\n');
    let name = module.and_then(|end| find(bytes, end + 1, b'\n'));
    starts && name.is_some_and(|end| walk(part(bytes, end + 1, end + 1 + REACH)))
}

/// Steps over opcodes of the text protocols until one calls or builds. A walk out of budget counts as a call.
fn walk(bytes: &[u8]) -> bool {
    let mut index = 0;
    while index < bytes.len() {
        let line = || find(bytes, index + 1, b'\n').map_or(bytes.len(), |end| end + 1);
        index = match at(bytes, index) {
            b'R' | b'b' => return true,
            b'('
            | b')'
            | b']'
            | b'}'
            | b't'
            | b'l'
            | b'd'
            | b'0'
            | b'1'
            | b'2'
            | b'N'
            | b'a'
            | b'e'
            | b's'
            | b'u'
            | 0x85..=0x89 => index + 1,
            b'S' | b'V' | b'I' | b'L' | b'F' | b'p' | b'g' | b'P' => line(),
            b'c' | b'i' => find(bytes, line(), b'\n').map_or(bytes.len(), |end| end + 1),
            b'K' | b'q' | b'h' | 0x80 => index + 2,
            b'M' => index + 3,
            b'J' | b'r' | b'j' => index + 5,
            b'U' | 0x8c => index + 2 + usize::from(at(bytes, index + 1)),
            b'X' | b'T' => {
                let length =
                    part(bytes, index + 1, index + 5).iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                index.saturating_add(5).saturating_add(length)
            }
            _ => return false,
        };
    }
    REACH <= bytes.len()
}
