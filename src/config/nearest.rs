//! The nearest valid word for a typo.

/// The longest word that is compared; longer ones get no hint.
const WORD_MAX: usize = 128;

/// The candidate with the smallest edit distance to `word`, if it is near enough to be meant: a third of the word's
/// length, at least 2 edits. Swapped neighbours count as one edit; case does not count.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if WORD_MAX < word.len() {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    let bound = (word.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= bound)
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= bound && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits from `a` to `b`: insert, delete, replace, swap neighbours.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (row, from) in a.chars().enumerate() {
        let mut current = vec![row + 1];
        let mut previous = None;
        for (column, to) in b.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX - 2);
            let mut best = at(&above, column) + usize::from(from != *to);
            best = best.min(at(&above, column + 1) + 1).min(at(&current, column) + 1);
            if last == Some(*to) && previous == Some(from) && 0 < column {
                best = best.min(at(&before, column - 1) + 1);
            }
            current.push(best);
            previous = Some(*to);
        }
        before = std::mem::replace(&mut above, current);
        last = Some(from);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits_and_swaps() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("rate_limit", "rate_limit", 0),
            ("rate_limt", "rate_limit", 1),
            ("rate_limti", "rate_limit", 1),
            ("rtae_limti", "rate_limit", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_far_word_gets_no_hint() {
        assert_eq!(nearest("zebra", ["rate_limit", "whitelist"]), None);
        assert_eq!(nearest("White-List", ["rate_limit", "whitelist"]), Some("whitelist"));
        assert_eq!(nearest(&"x".repeat(200), ["x"]), None);
    }
}
