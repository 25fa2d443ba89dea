//! What a text is about, when no row knows it: words of attacks, structure, disorder. A score and kinds of attack.
//!
//! Nearly every value is ordinary, and proven so without analysis: a bound above every score it could get stays below
//! the threshold. Whether a text is an expression of Python, which is the dearest question, is asked last.

mod measure;
mod python;

use serde::Serialize;

use crate::detect::semantic::measure::Structure;
use crate::detect::view;
use crate::model::category::Category;

/// Code points that tokens are taken from.
const TOKEN_CHARS_MAX: usize = 50_000;
/// Tokens of one text.
const TOKENS_MAX: usize = 1000;
/// Matches of one structure that count as tokens.
const STRUCTURE_TOKENS_MAX: usize = 10;
/// Code points that disorder and encodings are measured on.
const MEASURED_CHARS_MAX: usize = 10_000;
/// Code points of a text that is tried as an expression of Python.
const EXPRESSION_CHARS_MAX: usize = 1000;
/// What being an expression adds to the risk of code injection.
const EXPRESSION_RISK: f64 = 0.3;
/// Share of unprintable characters from which a value is binary.
const BINARY_SHARE: f64 = 0.2;

/// A kind of attack the analyser knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Markup and script.
    Xss,
    /// SQL.
    Sql,
    /// Shell commands.
    Command,
    /// Files of the system.
    Path,
    /// Template engines.
    Template,
}

impl Kind {
    /// Every kind, in guard-core's order.
    pub const ALL: [Self; 5] = [Self::Xss, Self::Sql, Self::Command, Self::Path, Self::Template];

    /// Row id of a threat of this kind.
    pub(crate) const fn row(self) -> &'static str {
        match self {
            Self::Xss => "semantic:xss",
            Self::Sql => "semantic:sql",
            Self::Command => "semantic:command",
            Self::Path => "semantic:path",
            Self::Template => "semantic:template",
        }
    }

    /// The category it counts as.
    pub(crate) const fn category(self) -> Category {
        match self {
            Self::Xss => Category::XSS,
            Self::Sql => Category::SQLI,
            Self::Command => Category::CMD_INJECTION,
            Self::Path => Category::PATH_TRAVERSAL,
            Self::Template => Category::TEMPLATE,
        }
    }

    /// Words that speak for it; none speaks for two kinds.
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Xss => &[
                "script",
                "javascript",
                "onerror",
                "onload",
                "onclick",
                "onmouseover",
                "alert",
                "eval",
                "document",
                "cookie",
                "window",
                "location",
            ],
            Self::Sql => &[
                "select",
                "union",
                "insert",
                "update",
                "delete",
                "drop",
                "from",
                "where",
                "order",
                "group",
                "having",
                "concat",
                "substring",
                "database",
                "table",
                "column",
            ],
            Self::Command => &[
                "exec",
                "system",
                "shell",
                "cmd",
                "bash",
                "powershell",
                "wget",
                "curl",
                "nc",
                "netcat",
                "chmod",
                "chown",
                "sudo",
                "passwd",
            ],
            Self::Path => &["etc", "passwd", "shadow", "hosts", "proc", "boot", "win", "ini"],
            Self::Template => &["render", "template", "jinja", "mustache", "handlebars", "ejs", "pug", "twig"],
        }
    }
}

/// Words that run code, for the risk of code injection.
const CODE_WORDS: [&str; 6] = ["eval", "exec", "compile", "__import__", "globals", "locals"];
/// SQL words that make SQL by themselves.
const SQL_WORDS: [&str; 4] = ["union", "select", "from", "where"];

/// Everything measured of a text that was found hostile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Analysis {
    /// Of each kind, 0 to 1.
    pub attack_probabilities: [(Kind, f64); 5],
    /// Shannon entropy in bits per character.
    pub entropy: f64,
    /// How many encodings it shows, 0 to 5.
    pub encoding_layers: u32,
    /// Disorderly, encoded over and over, or hardly any letters.
    pub is_obfuscated: bool,
    /// Structures in it, at most [`Analysis::PATTERNS_MAX`]; looked up for who reads them.
    pub suspicious_patterns: Vec<SuspiciousPattern>,
    /// 0 to 1.
    pub code_injection_risk: f64,
    /// Words and structures counted.
    pub token_count: usize,
    /// The whole, 0 to 1.
    pub score: f64,
}

impl Analysis {
    /// Structures that are listed; more count, but are left out.
    pub const PATTERNS_MAX: usize = 1000;

    /// How sure the analyser is, in three words.
    #[must_use]
    pub fn confidence(&self) -> &'static str {
        // Tenths do not add up exactly in binary.
        match (self.score * 1000.0).round() {
            score if score < 800.0 => "low",
            score if score < 900.0 => "medium",
            _ => "high",
        }
    }

    /// Adds the structures of the text it was made of, for who reads it.
    pub(crate) fn tell_patterns(&mut self, text: &str, chars_max: usize) {
        self.suspicious_patterns = measure::patterns(first(text, chars_max));
    }

    /// The kinds whose probability reaches `threshold`.
    pub(crate) fn kinds(&self, threshold: f64) -> impl Iterator<Item = (Kind, f64)> + '_ {
        self.attack_probabilities.into_iter().filter(move |(_, probability)| threshold <= *probability)
    }
}

/// A structure found in a text.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct SuspiciousPattern {
    /// `tag_like`, `function_call`, `command_chain`, `path_traversal` or `url_pattern`.
    #[serde(rename = "type")]
    pub name: &'static str,
    /// Its text.
    pub pattern: String,
    /// Where it starts, in code points.
    pub position: usize,
    /// It with 20 code points on each side.
    pub context: String,
}

/// Analyses the first `chars_max` code points of `text`, the processed view of `raw`. `None` when the score does not
/// exceed `threshold`, when the threshold is 0 (off), or when `raw` is binary.
pub(crate) fn analyse(text: &str, raw: &str, threshold: f64, chars_max: usize) -> Option<Box<Analysis>> {
    if threshold <= 0.0 || text.is_empty() {
        return None;
    }
    let text = first(text, chars_max);
    let bound = Bound::of(text);
    let stays_below = |probability, runs_code, is_expression| {
        bound.score(probability, Marks { runs_code, is_expression }) <= threshold
    };
    if stays_below(1.0, true, true) {
        return None;
    }
    let words = Words::of(text);
    let highest = words.probability_max();
    if stays_below(highest, words.runs_code, true) || is_binary(raw) {
        return None;
    }
    let is_expression = whether_expression(text, &words, bound, threshold)?;
    let analysis = full(text, &words, is_expression);
    (threshold < analysis.score).then(|| Box::new(analysis))
}

/// Measures what makes up the score, cheapest first, and ends with whether the text is an expression. `None` as soon as the
/// score cannot exceed `threshold`.
fn whether_expression(text: &str, words: &Words, bound: Bound, threshold: f64) -> Option<bool> {
    let structures = measure::structures(text);
    let probabilities = probabilities(words, &structures);
    let highest = probabilities.iter().map(|(_, probability)| *probability).fold(0.0, f64::max);
    let fixed = 0.3 * highest + (0.05 * structures.total() as f64).min(0.1) + 1e-9;
    let exceeds = |obfuscation: f64, layers: f64, risk: f64| {
        (threshold < fixed + obfuscation + layers + 0.2 * risk.min(1.0)).then_some(())
    };
    let marks = |is_expression| Marks { runs_code: words.runs_code, is_expression };
    let risk = bound.risk + marks(true).risk();
    exceeds(bound.obfuscation, 0.2, risk)?;
    let calls = structures.count(Structure::FunctionCall) != 0;
    let risk = measure::code_injection_risk(text, calls, marks(true));
    exceeds(bound.obfuscation, 0.2, risk)?;
    let encodings = measure::encoding_layers(first(text, MEASURED_CHARS_MAX));
    let layers = (0.1 * f64::from(encodings)).min(0.2);
    exceeds(bound.obfuscation, layers, risk)?;
    let entropy = measure::entropy(first(text, MEASURED_CHARS_MAX));
    let obfuscation = if measure::is_obfuscated(text, entropy, encodings) { 0.2 } else { 0.0 };
    exceeds(obfuscation, layers, risk)?;
    let is_expression = is_expression(text);
    let risk = measure::code_injection_risk(text, calls, marks(is_expression));
    exceeds(obfuscation, layers, risk).map(|()| is_expression)
}

/// Builds what [`analyse`] needs, so that no request waits for it.
pub(crate) fn prepare() {
    measure::prepare();
}

/// True for a text of moderate length that is an expression of Python.
fn is_expression(text: &str) -> bool {
    first(text, EXPRESSION_CHARS_MAX).len() == text.len() && python::is_expression(text)
}

/// Marks of code that a glance at the bytes does not show.
#[derive(Clone, Copy, Debug)]
struct Marks {
    runs_code: bool,
    is_expression: bool,
}

impl Marks {
    fn risk(self) -> f64 {
        let words = if self.runs_code { 0.2 } else { 0.0 };
        words + if self.is_expression { EXPRESSION_RISK } else { 0.0 }
    }
}

/// The first `count` code points.
fn first(text: &str, count: usize) -> &str {
    if text.len() <= count {
        return text;
    }
    // Most texts are ASCII up to there.
    if let Some(head) = text.get(..count).filter(|head| head.is_ascii()) {
        return head;
    }
    text.char_indices().nth(count).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// The mark of a byte that is neither a letter, a digit nor a blank.
const ODD: u8 = 128;
/// The marks of what a byte may be part of.
const ALL_MARKS: u8 = 63;
/// Bytes that are glanced at between two looks at what is ruled out.
const GLANCE: usize = 256;

/// What each byte may be part of.
#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const MARKS: [u8; 256] = {
    let mut marks = [0; 256];
    let mut index = 0;
    while index < marks.len() {
        let byte = index as u8;
        let odd = if byte.is_ascii_alphanumeric() || byte == b' ' { 0 } else { ODD };
        marks[index] = odd
            | match byte {
                b'(' => 1,
                b'<' | b';' | b'|' | b'.' | b':' => 2,
                b'{' => 4,
                b'$' | b'@' => 8,
                b'=' | b'+' | b'-' | b'*' | b'/' => 16,
                b'&' => 2 | 32,
                b'%' | b'\\' => 32,
                _ => 0,
            };
        index += 1;
    }
    marks
};

/// By first letter, `a` first: one bit for each length that a known word with this letter has.
#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const LENGTHS: [u16; 32] = {
    let mut lengths = [0; 32];
    let mut kind = 0;
    while kind < Kind::ALL.len() {
        let words = Kind::ALL[kind].words();
        let mut index = 0;
        while index < words.len() {
            lengths[(words[index].as_bytes()[0] & 31) as usize] |= 1 << words[index].len();
            index += 1;
        }
        kind += 1;
    }
    let mut index = 0;
    while index < CODE_WORDS.len() {
        lengths[(CODE_WORDS[index].as_bytes()[0] & 31) as usize] |= 1 << CODE_WORDS[index].len();
        index += 1;
    }
    lengths
};

/// What a glance at the bytes rules out.
#[derive(Clone, Copy, Debug)]
struct Bound {
    obfuscation: f64,
    risk: f64,
    patterns: f64,
}

impl Bound {
    /// Entropy above 4.5 bits needs this many distinct characters.
    const DISTINCT_MIN: usize = 23;

    fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let is_long = Self::DISTINCT_MIN <= bytes.len();
        let (mut odd, mut marks) = (0_usize, 0_u8);
        for chunk in bytes.chunks(GLANCE) {
            for byte in chunk {
                let mark = MARKS.get(usize::from(*byte)).copied().unwrap_or(ODD);
                odd += usize::from(mark >> 7);
                marks |= mark;
            }
            // Nothing is ruled out any more.
            if is_long && marks & ALL_MARKS == ALL_MARKS {
                break;
            }
        }
        let has = |mark: u8| marks & mark != 0;
        // Every byte of a longer character counts as odd, which only loosens the bound.
        let can_be_odd = bytes.len() * 2 < odd * 5;
        // Without these, at most base64 and hexadecimal digits show.
        let can_be_layered = has(32);
        Self {
            obfuscation: if can_be_odd || can_be_layered || is_long { 0.2 } else { 0.0 },
            risk: [(4, 0.2), (1, 0.2), (8, 0.1), (16, 0.1)]
                .iter()
                .filter(|(mark, _)| has(*mark))
                .map(|(_, risk)| risk)
                .sum(),
            patterns: if has(1 | 2) { 0.1 } else { 0.0 },
        }
    }

    /// No score is higher, given the highest probability and the marks of code.
    fn score(self, probability: f64, marks: Marks) -> f64 {
        let risk = (self.risk + marks.risk()).min(1.0);
        // The last term keeps rounding from making a bound lower than the score it bounds.
        0.3 * probability + self.obfuscation + 0.2 + 0.2 * risk + self.patterns + 1e-9
    }
}

/// Whether a letter, a digit, or an underscore of any script begins at `at`, and how many bytes what begins there has.
fn word_at(text: &str, at: usize) -> (bool, usize) {
    match text.as_bytes().get(at) {
        // Nearly every character is ASCII.
        Some(byte) if byte.is_ascii() => (byte.is_ascii_alphanumeric() || *byte == b'_', 1),
        Some(_) => text
            .get(at..)
            .and_then(|rest| rest.chars().next())
            .map_or((false, 1), |char| (char.is_alphanumeric(), char.len_utf8())),
        None => (false, 0),
    }
}

/// Where the first word from `from` on begins and ends; an empty one at the text's end when there is none.
fn next_word(text: &str, from: usize) -> (usize, usize) {
    let over = |mut at: usize, words: bool| loop {
        match word_at(text, at) {
            (is_word, width) if is_word == words && width != 0 => at += width,
            _ => return at,
        }
    };
    let start = over(from, false);
    (start, over(start, true))
}

/// Which known words a text has.
#[derive(Debug, Default)]
struct Words {
    seen: [u32; Kind::ALL.len()],
    sql: bool,
    runs_code: bool,
    count: usize,
}

impl Words {
    fn of(text: &str) -> Self {
        let mut words = Self::default();
        let text = first(text, TOKEN_CHARS_MAX);
        let mut at = 0;
        while words.count < TOKENS_MAX {
            let (start, end) = next_word(text, at);
            if start == end {
                break;
            }
            words.count += 1;
            words.see(text.get(start..end).unwrap_or_default());
            at = end;
        }
        words
    }

    fn see(&mut self, word: &str) {
        // No known word is shorter or longer, and few begin with the same letter.
        let first = word.as_bytes().first().map_or(0, |first| usize::from(first & 31));
        if !(2..=11).contains(&word.len()) || LENGTHS.get(first).is_none_or(|known| known >> word.len() & 1 == 0) {
            return;
        }
        let is = |known: &&str| known.len() == word.len() && known.eq_ignore_ascii_case(word);
        for (kind, seen) in Kind::ALL.iter().zip(&mut self.seen) {
            if let Some(index) = kind.words().iter().position(&is) {
                *seen |= 1 << index;
            }
        }
        self.sql |= SQL_WORDS.iter().any(&is);
        self.runs_code |= CODE_WORDS.iter().any(is);
    }

    /// The share of a kind's words that were seen.
    fn share(&self, kind: Kind) -> f64 {
        let seen =
            Kind::ALL.iter().zip(self.seen).find(|(known, _)| **known == kind).map_or(0, |(_, seen)| seen.count_ones());
        f64::from(seen) / kind.words().len() as f64
    }

    fn probability_max(&self) -> f64 {
        let with_boost = |kind: Kind| self.share(kind) + if kind == Kind::Template { 0.0 } else { 0.3 };
        Kind::ALL.into_iter().map(with_boost).fold(0.0, f64::max).min(1.0)
    }
}

/// Mostly unprintable, as sent.
fn is_binary(raw: &str) -> bool {
    if raw.is_ascii() {
        let hidden = |byte: &u8| !matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
        let hidden = raw.as_bytes().iter().fold(0_usize, |count, byte| count + usize::from(hidden(byte)));
        return BINARY_SHARE * raw.len() as f64 <= hidden as f64;
    }
    let total = raw.chars().count() as f64;
    let kept = raw.chars().filter(|char| matches!(char, '\t' | '\n' | '\r')).count();
    let replaced = raw.chars().filter(|char| *char == char::REPLACEMENT_CHARACTER).count();
    BINARY_SHARE * total <= (view::unprintable(raw) + replaced - kept) as f64
}

/// How likely each kind of attack is.
fn probabilities(words: &Words, structures: &measure::Structures) -> [(Kind, f64); Kind::ALL.len()] {
    let has = |structure: Structure| structures.count(structure) != 0;
    let probability = |kind: Kind| {
        let boosted = match kind {
            Kind::Xss => has(Structure::TagLike),
            Kind::Sql => words.sql,
            Kind::Command => has(Structure::CommandChain),
            Kind::Path => has(Structure::PathTraversal),
            Kind::Template => false,
        };
        (words.share(kind) + if boosted { 0.3 } else { 0.0 }).min(1.0)
    };
    Kind::ALL.map(|kind| (kind, probability(kind)))
}

/// Measures everything but where the structures are.
fn full(text: &str, words: &Words, is_expression: bool) -> Analysis {
    let structures = measure::structures(text);
    let has = |structure: Structure| structures.count(structure) != 0;
    let attack_probabilities = probabilities(words, &structures);
    let measured = first(text, MEASURED_CHARS_MAX);
    let (entropy, encoding_layers) = (measure::entropy(measured), measure::encoding_layers(measured));
    let is_obfuscated = measure::is_obfuscated(text, entropy, encoding_layers);
    let marks = Marks { runs_code: words.runs_code, is_expression };
    let code_injection_risk = measure::code_injection_risk(text, has(Structure::FunctionCall), marks);
    let structure_tokens: usize =
        Structure::ALL.iter().map(|structure| structures.count(*structure).min(STRUCTURE_TOKENS_MAX)).sum();
    let highest = attack_probabilities.iter().map(|(_, probability)| *probability).fold(0.0, f64::max);
    let score = 0.3 * highest
        + if is_obfuscated { 0.2 } else { 0.0 }
        + (0.1 * f64::from(encoding_layers)).min(0.2)
        + 0.2 * code_injection_risk
        + (0.05 * structures.total() as f64).min(0.1);
    Analysis {
        attack_probabilities,
        entropy,
        encoding_layers,
        is_obfuscated,
        suspicious_patterns: Vec::new(),
        code_injection_risk,
        token_count: (words.count + structure_tokens).min(TOKENS_MAX),
        score: score.min(1.0),
    }
}

#[cfg(test)]
mod tests;
