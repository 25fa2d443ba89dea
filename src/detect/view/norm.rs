//! Unicode look-alikes folded to what a parser would take them for.

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;

/// NFKC, then the look-alikes NFKC leaves alone. `None` when nothing changes.
pub(super) fn normalise(text: &str, best_fit: bool) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let composed = ComposingNormalizerBorrowed::new_nfkc().normalize(text);
    match (fold(&composed, best_fit), composed) {
        (Some(folded), _) => Some(folded).filter(|folded| folded != text),
        (None, Cow::Owned(composed)) => Some(composed).filter(|composed| composed != text),
        (None, Cow::Borrowed(_)) => None,
    }
}

/// The text with each look-alike replaced. `None` when there is none.
fn fold(text: &str, best_fit: bool) -> Option<String> {
    let mut result = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(start) = beyond_ascii(text.as_bytes(), at) {
        let char = text.get(start..).and_then(|rest| rest.chars().next())?;
        at = start + char.len_utf8();
        let other = match folded(char, best_fit) {
            Fold::Keep => continue,
            Fold::To(other) => Some(other),
            Fold::Drop => None,
        };
        result.push_str(text.get(copied..start).unwrap_or_default());
        result.extend(other);
        copied = at;
    }
    if copied == 0 {
        return None;
    }
    result.push_str(text.get(copied..).unwrap_or_default());
    Some(result)
}

/// Bytes that are looked at together.
const CHUNK: usize = 32;

/// The first byte from `from` on that is not ASCII.
fn beyond_ascii(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    for chunk in bytes.get(from..)?.chunks(CHUNK) {
        if !chunk.is_ascii() {
            return chunk.iter().position(|byte| !byte.is_ascii()).map(|offset| at + offset);
        }
        at += chunk.len();
    }
    None
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Fold {
    Keep,
    To(char),
    Drop,
}

/// What becomes of one character. `best_fit` adds the quotes that database drivers fold to ASCII.
fn folded(char: char, best_fit: bool) -> Fold {
    if char.is_ascii() {
        return Fold::Keep;
    }
    match char {
        '\u{2044}' | '\u{ff0f}' | '\u{29f8}' | '\u{2215}' => Fold::To('/'),
        '\u{2216}' => Fold::To('\\'),
        '\u{ff1c}' => Fold::To('<'),
        '\u{ff1e}' => Fold::To('>'),
        '\u{37e}' | '\u{ff1b}' => Fold::To(';'),
        '\u{1c0}' | '\u{ff5c}' => Fold::To('|'),
        '\u{ff06}' => Fold::To('&'),
        '\u{130}' => Fold::To('I'),
        '\u{131}' => Fold::To('i'),
        '\u{2028}' | '\u{2029}' => Fold::To('\n'),
        '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{feff}' | '\u{ad}' | '\u{34f}' | '\u{180e}' | '\u{e000}'
        | '\u{fff0}' => Fold::Drop,
        '\u{2b9}' | '\u{2bc}' | '\u{2c8}' | '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{2032}' if best_fit => {
            Fold::To('\'')
        }
        '\u{2ba}' | '\u{201c}' | '\u{201d}' | '\u{2033}' if best_fit => Fold::To('"'),
        _ => Fold::Keep,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn folding_runs_is_folding_characters(
            text in "[a-c <\u{2044}\u{200b}\u{2019}\u{ff1c}\u{e9}\u{1f600}]{0,80}", best_fit: bool,
        ) {
            let mut expected = String::new();
            for char in text.chars() {
                match folded(char, best_fit) {
                    Fold::Keep => expected.push(char),
                    Fold::To(other) => expected.push(other),
                    Fold::Drop => {}
                }
            }
            prop_assert_eq!(fold(&text, best_fit).unwrap_or(text), expected);
        }
    }
}
