//! Unicode look-alikes folded to what a parser would take them for.

use icu_normalizer::ComposingNormalizerBorrowed;

/// NFKC, then the look-alikes NFKC leaves alone. `None` when nothing changes.
pub(super) fn normalise(text: &str, best_fit: bool) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let composed = ComposingNormalizerBorrowed::new_nfkc().normalize(text);
    if composed.chars().any(|char| folded(char, best_fit) != Fold::Keep) {
        let mut result = String::with_capacity(composed.len());
        for char in composed.chars() {
            match folded(char, best_fit) {
                Fold::Keep => result.push(char),
                Fold::To(other) => result.push(other),
                Fold::Drop => {}
            }
        }
        return Some(result).filter(|result| result != text);
    }
    Some(composed.into_owned()).filter(|composed| composed != text)
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
