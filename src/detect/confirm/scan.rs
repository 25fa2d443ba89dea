//! Reading bytes without leaving the text: what every grammar here is written with. Knows no grammar.
//!
//! What reads on from a place tells how far: whoever gives out work for second looks collects it.

use crate::detect::work;

/// The byte at `index`; 0 past the end, which no grammar treats as content.
pub(crate) fn at(bytes: &[u8], index: usize) -> u8 {
    bytes.get(index).copied().unwrap_or(0)
}

/// The bytes from `start` to `end`, cut to what is there.
pub(crate) fn part(bytes: &[u8], start: usize, end: usize) -> &[u8] {
    bytes.get(start..end.min(bytes.len())).unwrap_or_default()
}

/// ASCII white space, vertical tab included.
pub(crate) const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// A byte of an identifier in most languages.
pub(crate) const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The first index from `from` on whose byte does not satisfy `wanted`, looking at no more than `most` bytes.
pub(crate) fn skip(bytes: &[u8], from: usize, most: usize, wanted: impl Fn(u8) -> bool) -> usize {
    let mut index = from;
    let end = bytes.len().min(from.saturating_add(most));
    while index < end && wanted(at(bytes, index)) {
        index += 1;
    }
    work::read(index - from);
    index
}

/// The first index from `from` on with `byte`.
pub(crate) fn find(bytes: &[u8], from: usize, byte: u8) -> Option<usize> {
    let found = memchr::memchr(byte, bytes.get(from..)?).map(|offset| from + offset);
    work::read_fast(found.unwrap_or(bytes.len()) - from);
    found
}

/// True when `word` (lower case) stands at `index`, whatever its case.
pub(crate) fn has(bytes: &[u8], index: usize, word: &[u8]) -> bool {
    bytes.get(index..index.saturating_add(word.len())).is_some_and(|found| found.eq_ignore_ascii_case(word))
}

/// A short lower-case copy on the stack. Bytes past the capacity are dropped.
#[derive(Clone, Copy)]
pub(crate) struct Folded<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Folded<N> {
    /// An empty copy.
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// A copy of `bytes` without control characters: interpreters of old dropped them from names.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut folded = Self::new();
        for byte in bytes.iter().take(2 * N).filter(|byte| !byte.is_ascii_control()) {
            folded.push(*byte);
        }
        folded
    }

    /// Appends the lower-case form of `byte`.
    pub(crate) fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte.to_ascii_lowercase();
            self.len += 1;
        }
    }

    /// True when no more is kept.
    pub(crate) const fn is_full(&self) -> bool {
        self.len == N
    }

    /// What was kept.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_the_end_are_empty() {
        assert_eq!(at(b"ab", 2), 0);
        assert_eq!(part(b"abc", 2, 9), b"c");
        assert_eq!(part(b"abc", 4, 9), b"");
        assert!(!has(b"ab", 1, b"bc"));
        assert!(has(b"xOnE", 1, b"one"));
    }

    #[test]
    fn a_folded_copy_is_cut() {
        let whole = Folded::<4>::of(b"A\0Bcd");
        assert_eq!(whole.bytes(), b"abcd");
        let cut = Folded::<4>::of(b"abcde");
        assert_eq!(cut.bytes(), b"abcd");
    }

    #[test]
    fn skipping_is_bounded() {
        assert_eq!(skip(b"    x", 0, 3, is_blank), 3);
        assert_eq!(skip(b"    x", 0, 9, is_blank), 4);
    }
}
