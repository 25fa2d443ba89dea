//! Texts above the bound, cut so that what looks hostile stays.

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};

use crate::detect::view::Recipe;

/// Kept of the end when nothing looks hostile, in code points.
const TAIL: usize = 4096;
/// Kept around what looks hostile, in code points on each side.
const REACH: usize = 100;

/// What looks hostile, most telling first.
static INDICATORS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let sources = [
        r"<script",
        r"javascript:",
        r"on\w+=",
        r"SELECT\s+.{0,50}?\s+FROM",
        r"UNION\s+SELECT",
        r"\.\./",
        r"eval\s*\(",
        r"exec\s*\(",
        r"system\s*\(",
        r"<\?php",
        r"<%",
        r"\{\{",
        r"\{%",
        r"<iframe",
        r"<object",
        r"<embed",
        r"onerror\s*=",
        r"onload\s*=",
        r"\$\{",
        r"\\x[0-9a-f]{2}",
        r"%[0-9a-f]{2}",
        r"`",
        r"\$\(",
        r"[;&|]",
        r"\d+\.\d+\.\d+\.\d+",
    ];
    sources.iter().filter_map(|source| RegexBuilder::new(source).case_insensitive(true).build().ok()).collect()
});

/// Builds the expressions, which takes longer than a request should wait.
pub(super) fn prepare() {
    LazyLock::force(&INDICATORS);
}

/// The text cut to the recipe's bound; `None` when it fits.
pub(super) fn truncate(text: &str, recipe: &Recipe) -> Option<String> {
    if text.len() <= recipe.chars_max || length(text) <= recipe.chars_max {
        return None;
    }
    if !recipe.keep_attacks {
        return Some(head(text, recipe.chars_max).to_owned());
    }
    let regions = regions(text, recipe.regions_max);
    if regions.is_empty() {
        return Some(format!("{}{}", head(text, recipe.chars_max.saturating_sub(TAIL)), tail(text, TAIL)));
    }
    let total: usize = regions.iter().map(|region| length(slice(text, region.clone()))).sum();
    if recipe.chars_max <= total {
        return Some(
            regions.into_iter().flat_map(|region| slice(text, region).chars()).take(recipe.chars_max).collect(),
        );
    }
    Some(with_gaps(text, &regions, recipe.chars_max - total))
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn slice(text: &str, range: Range<usize>) -> &str {
    text.get(range).unwrap_or_default()
}

/// The first `count` code points.
fn head(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| slice(text, 0..end))
}

/// The last `count` code points.
fn tail(text: &str, count: usize) -> &str {
    let Some(last) = count.checked_sub(1) else { return "" };
    text.char_indices().nth_back(last).map_or(text, |(start, _)| slice(text, start..text.len()))
}

/// The regions in place, and as much of what lies between them as `budget` code points allow, from the left.
fn with_gaps(text: &str, regions: &[Range<usize>], mut budget: usize) -> String {
    let mut result = String::new();
    let mut at = 0;
    for region in regions {
        let gap = slice(text, at..region.start);
        let gap_length = length(gap);
        if gap_length <= budget {
            result.push_str(gap);
            budget -= gap_length;
        } else if budget != 0 {
            result.push_str(head(gap, budget - 1));
            result.push(' ');
            budget = 0;
        }
        result.push_str(slice(text, region.clone()));
        at = region.end;
    }
    result.push_str(head(slice(text, at..text.len()), budget));
    result
}

/// What looks hostile with its surroundings: sorted, apart from each other, at most `max`.
fn regions(text: &str, max: usize) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for indicator in INDICATORS.iter() {
        let matches = indicator.find_iter(text).take(max).map(|found| widened(text, found.range()));
        found.extend(matches);
        if max <= found.len() {
            break;
        }
    }
    found.sort_by_key(|region| (region.start, region.end));
    let mut merged: Vec<Range<usize>> = Vec::new();
    for region in found {
        match merged.last_mut() {
            Some(last) if region.start <= last.end => last.end = last.end.max(region.end),
            _ => merged.push(region),
        }
    }
    merged.truncate(max);
    merged
}

fn widened(text: &str, range: Range<usize>) -> Range<usize> {
    let before = tail(slice(text, 0..range.start), REACH).len();
    let after = head(slice(text, range.end..text.len()), REACH).len();
    range.start - before..range.end + after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::exclusions::Profile;

    fn cut(text: &str, chars_max: usize) -> Option<String> {
        truncate(text, &Recipe { profile: Profile::GuardCore, chars_max, keep_attacks: true, regions_max: 100 })
    }

    #[test]
    fn what_fits_stays_and_what_does_not_keeps_head_and_tail() {
        let text = "é".repeat(10_000);
        assert_eq!(cut(&text, 10_000), None);
        assert_eq!(cut(&text, 9_999).map(|cut| length(&cut)), Some(9_999));
        let text = format!("{}{}", "a".repeat(9_000), "b".repeat(5_000));
        let result = cut(&text, 10_000).unwrap();
        assert_eq!((result.find('b'), result.len()), (Some(5_904), 10_000));
    }

    #[test]
    fn what_looks_hostile_is_kept() {
        let text = format!("{}<script>{}", "a ".repeat(10_000), "b ".repeat(10_000));
        let result = cut(&text, 5_000).unwrap();
        assert!(result.contains("<script>") && result.len() == 5_000, "{}", result.len());
        assert_eq!(cut(&";".repeat(20_000), 5_000).map(|cut| cut.len()), Some(5_000));
    }
}
