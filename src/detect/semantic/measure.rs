//! The single measurements of the analyser.

use std::ops::Range;
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

    /// Its matches in `text`, left to right.
    fn find_in(self, text: &str) -> Box<dyn Iterator<Item = Range<usize>> + '_> {
        match self {
            Self::TagLike => Box::new(tags(text)),
            Self::FunctionCall => Box::new(calls(text)),
            Self::CommandChain => Box::new(chains(text)),
            Self::PathTraversal => found(&PATH_TRAVERSAL, text),
            Self::UrlPattern => found(&URL_PATTERN, text),
        }
    }
}

static PATH_TRAVERSAL: LazyLock<Option<Regex>> = LazyLock::new(|| compile(r"\.{2,20}[/\\]"));
static URL_PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| compile(r"[a-z]{1,32}://"));

fn found<'t>(regex: &'static LazyLock<Option<Regex>>, text: &'t str) -> Box<dyn Iterator<Item = Range<usize>> + 't> {
    Box::new(regex.iter().flat_map(move |regex| regex.find_iter(text)).map(|found| found.range()))
}

/// Builds the expressions, which takes longer than a request should wait.
pub(super) fn prepare() {
    for regex in [&PATH_TRAVERSAL, &URL_PATTERN] {
        LazyLock::force(regex);
    }
    LazyLock::force(&ENCODINGS);
    LazyLock::force(&CODE);
}

/// `<`, anything but `>`, `>`.
fn tags(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let open = at + memchr::memchr(b'<', bytes.get(at..)?)?;
        // The first character inside may not be `>`.
        let mut open = open;
        while bytes.get(open + 1) == Some(&b'>') {
            open = open + 1 + memchr::memchr(b'<', bytes.get(open + 1..)?)?;
        }
        let end = open + memchr::memchr(b'>', bytes.get(open..)?)? + 1;
        at = end;
        Some(open..end)
    })
}

/// One or two signs that chain commands.
fn chains(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + memchr::memchr3(b';', b'&', b'|', bytes.get(at..)?)?;
        let is_pair = matches!(bytes.get(start + 1), Some(b';' | b'&' | b'|'));
        at = start + if is_pair { 2 } else { 1 };
        Some(start..at)
    })
}

/// Word characters of a call's name, and characters between its parentheses.
const CALL_NAME_MAX: usize = 64;
const CALL_BODY_MAX: usize = 256;

/// A word, blanks, and parentheses with little between them. By hand: bounded repeats of any script's letters make an
/// automaton that takes microseconds for each character.
fn calls(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut last = 0;
    memchr::memchr_iter(b'(', text.as_bytes()).filter_map(move |open| {
        if open < last {
            return None;
        }
        let body = text.get(open + 1..)?;
        let window = body.get(..body.ceil_char_boundary(4 * CALL_BODY_MAX + 1)).unwrap_or(body);
        let length = memchr::memchr(b')', window.as_bytes())?;
        if CALL_BODY_MAX < length && CALL_BODY_MAX < window.get(..length)?.chars().count() {
            return None;
        }
        let head = text.get(last..open)?.trim_end();
        let word = head.char_indices().rev().take(CALL_NAME_MAX).take_while(|(_, char)| is_regex_word(*char)).last();
        let start = last + word?.0;
        last = open + 1 + length + 1;
        Some(start..last)
    })
}

/// What `\w` means to the crate `regex`.
fn is_regex_word(char: char) -> bool {
    if char.is_ascii() {
        return char.is_ascii_alphanumeric() || char == '_';
    }
    regex_syntax::try_is_word_character(char).unwrap_or(false)
}

fn compile(source: &str) -> Option<Regex> {
    RegexBuilder::new(source).case_insensitive(true).build().ok()
}

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

/// How many structures of each form a text has.
#[derive(Debug, Default)]
pub(super) struct Structures([usize; Structure::ALL.len()]);

impl Structures {
    pub(super) fn count(&self, structure: Structure) -> usize {
        self.0.get(structure as usize).copied().unwrap_or(0)
    }

    pub(super) fn total(&self) -> usize {
        self.0.iter().sum()
    }
}

/// Counts every structure.
pub(super) fn structures(text: &str) -> Structures {
    let holds = |sign: &str| memchr::memmem::find(text.as_bytes(), sign.as_bytes()).is_some();
    Structures(Structure::ALL.map(|structure| match structure {
        Structure::TagLike => tags(text).count(),
        Structure::FunctionCall => calls(text).count(),
        Structure::CommandChain => chains(text).count(),
        Structure::PathTraversal if !holds("..") => 0,
        Structure::UrlPattern if !holds("://") => 0,
        Structure::PathTraversal | Structure::UrlPattern => structure.find_in(text).count(),
    }))
}

/// The structures with their surroundings, at most [`Analysis::PATTERNS_MAX`].
pub(super) fn patterns(text: &str) -> Vec<SuspiciousPattern> {
    let mut patterns = Vec::new();
    for structure in Structure::ALL {
        let (mut bytes, mut chars) = (0, 0);
        for range in structure.find_in(text).take(Analysis::PATTERNS_MAX - patterns.len()) {
            chars += text.get(bytes..range.start).map_or(0, |between| between.chars().count());
            bytes = range.start;
            let context = surroundings(text, range.start, range.end);
            let pattern = text.get(range).unwrap_or_default().to_owned();
            patterns.push(SuspiciousPattern { name: structure.name(), pattern, position: chars, context });
        }
    }
    patterns
}

fn surroundings(text: &str, start: usize, end: usize) -> String {
    let before = text.get(..start).unwrap_or_default();
    let from = before.char_indices().rev().take(CONTEXT).last().map_or(start, |(index, _)| index);
    let after = first(text.get(end..).unwrap_or_default(), CONTEXT).len();
    text.get(from..end + after).unwrap_or_default().to_owned()
}

/// Shannon entropy in bits per character.
pub(super) fn entropy(text: &str) -> f64 {
    let mut ascii = [0_u32; 128];
    let mut others: HashMap<char, u32> = HashMap::new();
    let mut total = 0_u32;
    for char in text.chars() {
        match ascii.get_mut(char as usize) {
            Some(count) => *count += 1,
            None => *others.entry(char).or_default() += 1,
        }
        total += 1;
    }
    let share = |count: u32| f64::from(count) / f64::from(total);
    let mut counts: Vec<u32> = ascii.into_iter().filter(|count| *count != 0).chain(others.into_values()).collect();
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
    let is_odd = |char: &char| !char.is_ascii_alphanumeric() && !char.is_whitespace();
    let has_odd_share = || {
        let odd = text.chars().filter(is_odd).count();
        ODD_SHARE_MAX * (text.chars().count() as f64) < odd as f64
    };
    ENTROPY_MAX < entropy
        || 2 < layers
        || has_odd_share()
        || text.split_whitespace().any(|run| RUN_MAX <= run.chars().take(RUN_MAX).count())
}

/// How much a text looks like code, 0 to 1.
pub(super) fn code_injection_risk(text: &str, calls: bool, others: Marks) -> f64 {
    let marks: f64 = CODE.iter().filter(|(regex, _)| regex.is_match(text)).map(|(_, risk)| risk).sum();
    let risk = marks + if calls { 0.2 } else { 0.0 } + others.risk();
    // Tenths do not add up exactly in binary.
    ((risk * 10.0).round() / 10.0).min(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_regex(source: &str, text: &str) -> Vec<Range<usize>> {
        compile(source).unwrap().find_iter(text).map(|found| found.range()).collect()
    }

    proptest! {
        #[test]
        fn structures_by_hand_are_those_of_their_expressions(text in "[a(<)>;|& \u{e9}\u{3000}_\u{94d}\n]{0,40}", long in 250_usize..260) {
            for text in [text.clone(), format!("f({}){text}", "\u{e9}".repeat(long)), format!("{}{text}({})", "w".repeat(long / 4), "x".repeat(long))] {
                prop_assert_eq!(calls(&text).collect::<Vec<_>>(), by_regex(r"\w{1,64}\s*\([^)]{0,256}\)", &text), "{}", text);
                prop_assert_eq!(chains(&text).collect::<Vec<_>>(), by_regex(r"[;&|]{1,2}", &text), "{}", text);
                prop_assert_eq!(tags(&text).collect::<Vec<_>>(), by_regex(r"<[^>]+>", &text), "{}", text);
            }
        }
    }
}
