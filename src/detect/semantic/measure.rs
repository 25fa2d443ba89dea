//! The single measurements of the analyser.

use std::sync::LazyLock;

use hashbrown::HashMap;
use regex::{Regex, RegexBuilder};

use crate::detect::semantic::{Analysis, Marks, SuspiciousPattern, first};

/// Code points shown on each side of a structure.
const CONTEXT: usize = 20;
/// Bits per character above which a text is disorderly.
const ENTROPY_MAX: f64 = 4.5;
/// Share of characters that are neither letters, digits nor blanks above which a text is disorderly.
const ODD_SHARE_MAX: f64 = 0.4;
/// Characters without a blank from which a text is disorderly.
const RUN_MAX: usize = 100;

/// A letter, a digit, or an underscore, in any script.
pub(super) fn is_word(char: char) -> bool {
    char == '_' || char.is_alphanumeric()
}

/// A form that attacks have, and much else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Structure {
    TagLike,
    FunctionCall,
    CommandChain,
    PathTraversal,
    UrlPattern,
}

impl Structure {
    /// Every structure, in guard-core's order.
    pub(super) const ALL: [Self; 5] =
        [Self::TagLike, Self::FunctionCall, Self::CommandChain, Self::PathTraversal, Self::UrlPattern];

    const fn name(self) -> &'static str {
        match self {
            Self::TagLike => "tag_like",
            Self::FunctionCall => "function_call",
            Self::CommandChain => "command_chain",
            Self::PathTraversal => "path_traversal",
            Self::UrlPattern => "url_pattern",
        }
    }

    const fn source(self) -> &'static str {
        match self {
            Self::TagLike => r"<[^>]+>",
            Self::FunctionCall => r"\w{1,64}\s*\([^)]{0,256}\)",
            Self::CommandChain => r"[;&|]{1,2}",
            Self::PathTraversal => r"\.{2,20}[/\\]",
            Self::UrlPattern => r"[a-z]{1,32}://",
        }
    }
}

fn compile(source: &str) -> Option<Regex> {
    RegexBuilder::new(source).case_insensitive(true).build().ok()
}

static STRUCTURES: LazyLock<Vec<(Structure, Regex)>> = LazyLock::new(|| {
    Structure::ALL.iter().filter_map(|structure| Some((*structure, compile(structure.source())?))).collect()
});

static ENCODINGS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let sources =
        [r"%[0-9a-f]{2}", r"[a-z0-9+/]{4,}={0,2}", r"(?:0x)?[0-9a-f]{4,}", r"\\u[0-9a-f]{4}", r"&(?:[a-z]+|#[0-9]+);"];
    sources.iter().filter_map(|source| compile(source)).collect()
});

/// Marks of code: two braces on a line, a variable, operators in a row.
static CODE: LazyLock<Vec<(Regex, f64)>> = LazyLock::new(|| {
    let sources = [(r"\{.*\}", 0.2), (r"[$@]\w", 0.1), (r"[=+\-*/]{2,}", 0.1)];
    sources.iter().filter_map(|(source, risk)| Some((compile(source)?, *risk))).collect()
});

/// The structures of a text.
#[derive(Debug, Default)]
pub(super) struct Structures {
    counts: [usize; Structure::ALL.len()],
    patterns: Vec<SuspiciousPattern>,
}

impl Structures {
    pub(super) fn count(&self, structure: Structure) -> usize {
        self.counts.get(structure as usize).copied().unwrap_or(0)
    }

    pub(super) fn total(&self) -> usize {
        self.counts.iter().sum()
    }

    pub(super) fn into_patterns(self) -> Vec<SuspiciousPattern> {
        self.patterns
    }
}

/// Finds every structure.
pub(super) fn structures(text: &str) -> Structures {
    let mut found = Structures::default();
    for ((structure, regex), count) in STRUCTURES.iter().zip(0..) {
        // A tag needs an end: without one behind, each `<` would be followed to the end of the text.
        let searched = match structure {
            Structure::TagLike => text.get(..memchr::memrchr(b'>', text.as_bytes()).map_or(0, |end| end + 1)),
            _ => Some(text),
        };
        let (mut bytes, mut chars) = (0, 0);
        for matched in regex.find_iter(searched.unwrap_or_default()) {
            if let Some(count) = found.counts.get_mut(count) {
                *count += 1;
            }
            if found.patterns.len() < Analysis::PATTERNS_MAX {
                chars += text.get(bytes..matched.start()).map_or(0, |between| between.chars().count());
                bytes = matched.start();
                let pattern = matched.as_str().to_owned();
                let context = surroundings(text, matched.start(), matched.end());
                found.patterns.push(SuspiciousPattern { name: structure.name(), pattern, position: chars, context });
            }
        }
    }
    found
}

fn surroundings(text: &str, start: usize, end: usize) -> String {
    let before = text.get(..start).unwrap_or_default();
    let from = before.char_indices().rev().take(CONTEXT).last().map_or(start, |(index, _)| index);
    let after = first(text.get(end..).unwrap_or_default(), CONTEXT).len();
    text.get(from..end + after).unwrap_or_default().to_owned()
}

/// Shannon entropy in bits per character.
pub(super) fn entropy(text: &str) -> f64 {
    let mut counts: HashMap<char, u32> = HashMap::new();
    let mut total = 0_u32;
    for char in text.chars() {
        *counts.entry(char).or_default() += 1;
        total += 1;
    }
    let share = |count: u32| f64::from(count) / f64::from(total);
    let mut counts: Vec<u32> = counts.into_values().collect();
    // Summed in one order, so that the last digit is always the same.
    counts.sort_unstable();
    -counts.into_iter().map(|count| share(count) * share(count).log2()).sum::<f64>()
}

/// How many encodings a text shows.
pub(super) fn encoding_layers(text: &str) -> u32 {
    ENCODINGS.iter().map(|encoding| u32::from(encoding.is_match(text))).sum()
}

/// Disorderly, encoded over and over, or hardly any letters.
pub(super) fn is_obfuscated(text: &str, entropy: f64, layers: u32) -> bool {
    let odd = text.chars().filter(|char| !char.is_ascii_alphanumeric() && !char.is_whitespace()).count();
    ENTROPY_MAX < entropy
        || 2 < layers
        || ODD_SHARE_MAX * (text.chars().count() as f64) < odd as f64
        || text.split_whitespace().any(|run| RUN_MAX <= run.chars().take(RUN_MAX).count())
}

/// How much a text looks like code, 0 to 1.
pub(super) fn code_injection_risk(text: &str, calls: bool, others: Marks) -> f64 {
    let marks: f64 = CODE.iter().filter(|(regex, _)| regex.is_match(text)).map(|(_, risk)| risk).sum();
    let risk = marks + if calls { 0.2 } else { 0.0 } + others.risk();
    // Tenths do not add up exactly in binary.
    ((risk * 10.0).round() / 10.0).min(1.0)
}
