//! Pickles that name a function and call it.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, find, part};

/// Bytes behind the name that are read for the opcode that calls.
const REACH: usize = 4096;

/// Stands where opcodes can stand, and behind the module and the name opcodes lead to the one that calls.
pub(super) fn calls(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    let before = part(bytes, 0, range.start);
    let starts = before.last().is_none_or(|byte| *byte == b'\n') || walk(part(before, 0, REACH)) != End::Unknown;
    let module = find(bytes, range.start, b'\n');
    let name = module.and_then(|end| find(bytes, end + 1, b'\n'));
    let cut = |end: usize| end + 1 + REACH <= bytes.len();
    starts
        && name.is_some_and(|end| match walk(part(bytes, end + 1, end + 1 + REACH)) {
            End::Call => true,
            End::Reached => cut(end),
            End::Unknown => false,
        })
}

/// How a walk over opcodes ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// At an opcode that calls or builds.
    Call,
    /// Behind the last byte.
    Reached,
    /// At a byte that is no opcode.
    Unknown,
}

/// Steps over opcodes, first and last argument included, until one calls or builds.
fn walk(bytes: &[u8]) -> End {
    let mut index = 0;
    while index < bytes.len() {
        let line = |from: usize| find(bytes, from, b'\n').map_or(bytes.len(), |end| end + 1);
        index = match at(bytes, index) {
            b'R' | b'b' => return End::Call,
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
            | b'.'
            | b'o'
            | b'Q'
            | 0x81
            | 0x85..=0x89
            | 0x93
            | 0x94 => index + 1,
            b'S' | b'V' | b'I' | b'L' | b'F' | b'p' | b'g' | b'P' => line(index + 1),
            b'c' | b'i' => line(line(index + 1)),
            b'K' | b'q' | b'h' | 0x80 => index + 2,
            b'M' => index + 3,
            b'J' | b'r' | b'j' => index + 5,
            b'G' | 0x95 => index + 9,
            b'U' | 0x8c => index + 2 + usize::from(at(bytes, index + 1)),
            b'X' | b'T' => {
                let length = part(bytes, index + 1, index + 5);
                let length = length.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                index.saturating_add(5).saturating_add(length)
            }
            _ => return End::Unknown,
        };
    }
    End::Reached
}
