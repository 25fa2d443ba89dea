//! Serialised objects: their magic, and enough structure to tell them from text that looks alike.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, is_word, part, skip};

/// Digits of a length or a count.
const DIGITS_MAX: usize = 6;
/// Longest class name.
const NAME_MAX: usize = 256;

/// Convicts a PHP object: `O:4:"Name":2:{`, where the length is the name's.
pub(super) fn php_object(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    memchr::memmem::find_iter(bytes, b":\"").find_map(|colon| {
        let (start, length) = head(bytes, colon)?;
        let name = colon + 2;
        let end = skip(bytes, name, NAME_MAX, |byte| is_word(byte) || matches!(byte, b'\\' | b'%') || 0x80 <= byte);
        if end - name != length || at(bytes, end) != b'"' || at(bytes, end + 1) != b':' {
            return None;
        }
        let count = skip(bytes, end + 2, DIGITS_MAX, |byte| byte.is_ascii_digit());
        (end + 2 < count && part(bytes, count, count + 2) == b":{").then_some(start..count + 2)
    })
}

/// The start and the length of `O:<length>` that ends at `colon`.
fn head(bytes: &[u8], colon: usize) -> Option<(usize, usize)> {
    let mut digits = colon;
    let (mut length, mut scale) = (0_usize, 1_usize);
    while 0 < digits && colon - digits < DIGITS_MAX && at(bytes, digits - 1).is_ascii_digit() {
        digits -= 1;
        length += usize::from(at(bytes, digits) - b'0') * scale;
        scale *= 10;
    }
    // PHP reads `O:+4:` as `O:4:`.
    let sign = digits.checked_sub(1)?;
    let mark = if at(bytes, sign) == b'+' { sign.checked_sub(1)? } else { sign };
    let letter = mark.checked_sub(1)?;
    let opened = digits != colon && at(bytes, mark) == b':' && matches!(at(bytes, letter), b'O' | b'C' | b'o');
    let free = letter.checked_sub(1).is_none_or(|before| !is_word(at(bytes, before)));
    (opened && free).then_some((letter, length))
}

/// Convicts a pickle of protocol 0 to 2 that names a global and calls it: `cos\nsystem\n(S'x'\ntR.`.
pub(super) fn pickle(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    memchr::memchr_iter(b'\n', bytes).find_map(|newline| {
        let start = global_start(bytes, newline)?;
        let end = skip(bytes, newline + 1, NAME_MAX, |byte| is_word(byte) || byte == b'.');
        // A name, which no number is.
        if end == newline + 1 || at(bytes, end) != b'\n' || at(bytes, newline + 1).is_ascii_digit() {
            return None;
        }
        let rest = part(bytes, end + 1, end + 1 + NAME_MAX);
        // MARK or a push comes next, and a REDUCE or BUILD later.
        let pushes = matches!(
            rest.first(),
            Some(b'(' | b'q' | b'p' | b'X' | b'U' | b'S' | b'V' | b'K' | b')' | b']' | b'}' | 0x80..)
        );
        let calls = memchr::memchr3_iter(b'R', b'b', b'o', rest).any(|at_call| {
            let ends = rest.get(at_call + 1);
            let before = at_call.checked_sub(1).map_or(b't', |index| at(rest, index));
            matches!(ends, None | Some(b'.' | b'p' | b'q' | b'0' | b'\n'))
                && matches!(before, b't' | b')' | b'}' | b'd' | b'\n' | b'0'..=b'9' | 0x80..)
        });
        (pushes && calls).then(|| start..end + 1)
    })
}

/// Where `c<module>` before a newline begins.
fn global_start(bytes: &[u8], newline: usize) -> Option<usize> {
    let mut start = newline;
    while 0 < start && newline - start < 64 && (is_word(at(bytes, start - 1)) || at(bytes, start - 1) == b'.') {
        start -= 1;
    }
    let line =
        start == 0 || matches!(at(bytes, start - 1), b'\n' | b'(' | b'.' | 0x02..=0x05) || 0x7F <= at(bytes, start - 1);
    (line && newline - start > 1 && at(bytes, start) == b'c').then_some(start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing;

    #[test]
    fn objects_of_php_are_found_by_their_lengths() {
        for (text, expected) in [
            ("O:4:\"Name\":1:{s:1:\"a\";i:4;}", true),
            ("a:1:{i:0;O:4:\"Name\":0:{}}", true),
            ("O:+4:\"Name\":0:{}", true),
            ("C:11:\"ArrayObject\":21:{x:i:0;a:0:{};m:a:0:{}}", true),
            ("O:9:\"Name\":0:{}", false),
            ("a:1:{s:1:\"a\";i:4;}", false),
            ("PHO:4:\"Name\":0:{}", false),
            ("ratio 4:\"x\":1:{", false),
        ] {
            assert_eq!(php_object(&testing::query(text)).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn pickles_are_found_by_their_opcodes() {
        for (text, expected) in [
            ("cos\nsystem\n(S'x'\ntR.", true),
            ("(lp0\ncsubprocess\nPopen\np0\n(S'x'\ntp1\nRp2\n.", true),
            ("c__builtin__\neval\n(V4\ntR.", true),
            ("tacos\nsystem\n(S", false),
            ("cats\ndogs\n(and Robots)", false),
            ("code\nreview\nRemember.", false),
            ("commit.filters\n4\nSpecifies the\noption.", false),
        ] {
            assert_eq!(pickle(&testing::query(text)).is_some(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[OCc:+0-9\"{}a\nR(.é]{0,80}") {
            for confirm in [php_object, pickle] {
                prop_assert!(confirm(&testing::query(&text)).is_none_or(|range| text.get(range).is_some()));
            }
        }
    }
}
