//! Patterns of the user: tried one by one, compiled into a database of their own, replaced as a whole.
//!
//! A pattern is what Hyperscan can run in one pass. Look-around and back-references, which it cannot, are looked for
//! with something that finds at least every match, and decided near each find by a matcher that backtracks. That one
//! sees a bounded stretch of text, takes a bounded number of steps there, and is asked a bounded number of times.

mod expression;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};

use crate::detect::automaton::{Automaton, CompileError};
use crate::detect::cache::{DatabaseCache, NoCache};
use crate::detect::custom::expression::Read;
use crate::detect::rows::{Expression, Flags};
use crate::detect::{Meter, Method, Threat, View};
use crate::model::category::Category;

/// Patterns of one set.
pub const PATTERNS_MAX: usize = 1000;
/// Bytes of one pattern.
pub const PATTERN_BYTES_MAX: usize = 8 * 1024;
/// Patterns of one set with look-around or back-references.
pub const LOOKING_MAX: usize = 64;
/// Bytes of a set's database.
pub const DATABASE_BYTES_MAX: usize = 64 << 20;
/// Bytes on each side of a find that look-around and back-references see; a shorter text is seen whole.
pub const REACH: usize = 512;
/// Stretches of one text that are looked at for one such pattern. What is left then is itself a finding.
pub const STRETCHES_MAX: usize = 32;
/// Steps back that deciding one stretch may take. Needing more is itself a finding.
pub const STEPS_BACK_MAX: usize = 16 * 1024;
/// Layers of one set.
pub const LAYERS_MAX: usize = 3;
/// Patterns that are compiled together when one more comes: a tenth of a second.
pub const TOGETHER_MAX: usize = 24;
/// Finds so near to each other are decided together.
const STRIDE: u32 = REACH as u32;
/// Finds that one scan reports.
const FINDS_MAX: usize = PATTERNS_MAX + LOOKING_MAX * (STRETCHES_MAX + 1);

/// Why a pattern is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}{message}", at(*position))]
pub struct PatternError {
    /// In which way.
    pub kind: Refused,
    /// The offset in bytes at which the pattern goes wrong, when it is one place.
    pub position: Option<usize>,
    /// In words, without the pattern.
    pub message: String,
}

fn at(position: Option<usize>) -> String {
    position.map(|position| format!("at byte {position}: ")).unwrap_or_default()
}

impl PatternError {
    fn new(kind: Refused, message: impl Into<String>) -> Self {
        Self { kind, position: None, message: message.into() }
    }
}

/// In which way a pattern is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// It has no characters.
    Empty,
    /// It has more than [`PATTERN_BYTES_MAX`] bytes.
    TooLong,
    /// It is no regular expression.
    Syntax,
    /// It matches the empty text, so it would match every value.
    MatchesEmpty,
    /// It is a regular expression, and no engine here runs it in bounded time.
    Unsupported,
    /// Compiled, it or the set with it is too large.
    TooLarge,
    /// Compiling it takes too long.
    TooSlow,
    /// The set is full.
    TooMany,
}

/// The id of a pattern in results, logs, exclusions and `log_only_rows`: `custom:` and eight hexadecimal digits of its
/// SHA-256. It stays the same whatever else is added or removed.
#[must_use]
pub fn row(pattern: &str) -> String {
    let digest = Sha256::digest(pattern);
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("custom:{short}")
}

/// Tries one pattern alone.
///
/// # Errors
/// Why it cannot be added to any set.
pub fn test(pattern: &str) -> Result<(), PatternError> {
    Pattern::prepare(pattern).map(drop)
}

/// One pattern that passed every test.
#[derive(Debug)]
struct Pattern {
    text: String,
    row: String,
    read: Read,
    /// Finds where a match that the automaton vouches for begins. Made with the pattern, never for a request; with
    /// look-around the second look finds it.
    span: Option<regex::Regex>,
}

impl Pattern {
    fn prepare(text: &str) -> Result<Arc<Self>, PatternError> {
        let read = expression::read(text)?;
        let span = if read.looking.is_none() { expression::plain(&read.text).ok() } else { None };
        let pattern = Self { row: row(text), text: text.to_owned(), read, span };
        Automaton::test_compile(&pattern.expression(0)).map_err(refused)?;
        Ok(Arc::new(pattern))
    }

    fn expression(&self, id: usize) -> Expression<'_> {
        let flags = Flags { multiline: true, utf8: true, ..Flags::default() };
        Expression { id, pattern: &self.read.text, flags, prefilter: self.read.looking.is_some(), each: false }
    }

    /// Where the match is that ends first, at `end` or before.
    fn span(&self, text: &str, end: usize) -> Range<usize> {
        let found = self.span.as_ref().and_then(|span| span.find(text)).map(|found| found.range());
        let end = text.ceil_char_boundary(end.min(text.len()));
        found.unwrap_or(0..end)
    }

    fn threat(&self, method: Method, view: View, (text, range): (&str, Range<usize>)) -> Threat {
        Threat {
            method,
            row: Cow::Owned(self.row.clone()),
            category: Category::CUSTOM,
            weight: 1.0,
            view,
            matched: Threat::excerpt(text.get(range.clone()).unwrap_or_default()).to_owned(),
            position: text.get(..range.start).unwrap_or_default().chars().count(),
            probability: 0.0,
        }
    }
}

fn refused(error: CompileError) -> PatternError {
    let message = error.message;
    let kind = if message.contains("empty text") {
        Refused::MatchesEmpty
    } else if message.contains("too large") || message.contains("resource limit") {
        Refused::TooLarge
    } else {
        Refused::Unsupported
    };
    let position = message.rsplit_once("at index ").and_then(|(_, index)| index.trim_end_matches('.').parse().ok());
    PatternError { kind, position, message }
}

/// Patterns that were compiled together.
#[derive(Debug)]
struct Layer {
    patterns: Vec<Arc<Pattern>>,
    automaton: Automaton,
}

impl Layer {
    fn compile(patterns: Vec<Arc<Pattern>>, cache: &dyn DatabaseCache) -> Result<Arc<Self>, PatternError> {
        let expressions: Vec<Expression<'_>> =
            patterns.iter().enumerate().map(|(id, pattern)| pattern.expression(id)).collect();
        let automaton = Automaton::compile_or_restore(&expressions, cache).map_err(refused)?;
        Ok(Arc::new(Self { patterns, automaton }))
    }
}

/// A layer, and which of its patterns are in use.
#[derive(Clone, Debug)]
struct Used {
    layer: Arc<Layer>,
    is_used: Vec<bool>,
}

impl Used {
    fn patterns(&self) -> impl Iterator<Item = &Arc<Pattern>> {
        self.layer.patterns.iter().zip(&self.is_used).filter_map(|(pattern, is_used)| is_used.then_some(pattern))
    }
}

/// Compiled patterns. Immutable.
///
/// To compile a thousand patterns takes seconds, so a set that differs little from one that there is takes over what was
/// compiled, in layers: each is searched by itself. [`Set::whole`] makes one layer of all.
#[derive(Debug, Default)]
pub(crate) struct Set {
    layers: Vec<Used>,
}

impl Set {
    /// Compiles `texts`; what is twice in them counts once. Patterns of `known` are neither tried nor compiled again.
    ///
    /// # Errors
    /// The first pattern that is refused, by its place in `texts`, or the set as a whole at the place behind the last.
    fn compile(
        texts: &[&str],
        known: &Self,
        (cache, meter): (&dyn DatabaseCache, &dyn Meter),
    ) -> Result<Self, (usize, PatternError)> {
        let before: BTreeMap<&str, &Arc<Pattern>> =
            known.patterns().map(|pattern| (pattern.text.as_str(), pattern)).collect();
        let mut fresh: Vec<Arc<Pattern>> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut looking = 0;
        for (index, text) in texts.iter().enumerate() {
            let refused = |error: PatternError| (index, error);
            if seen.contains(text) {
                continue;
            }
            if PATTERNS_MAX <= seen.len() {
                return Err(refused(PatternError::new(Refused::TooMany, format!("more than {PATTERNS_MAX} patterns"))));
            }
            seen.insert(*text);
            let pattern = match before.get(text) {
                Some(pattern) => Arc::clone(pattern),
                None => {
                    let pattern = Pattern::prepare(text).map_err(refused)?;
                    fresh.push(Arc::clone(&pattern));
                    pattern
                }
            };
            looking += usize::from(pattern.read.looking.is_some());
            if LOOKING_MAX < looking {
                let message = format!("more than {LOOKING_MAX} patterns with look-around or back-references");
                return Err(refused(PatternError::new(Refused::TooMany, message)));
            }
            if meter.is_spent() {
                return Err(refused(PatternError::new(Refused::TooSlow, "compiling takes too long")));
            }
        }
        let whole = |error: PatternError| (texts.len(), error);
        let set = known.without(&seen).with(fresh, cache).map_err(whole)?;
        let bytes: usize = set.layers.iter().map(|used| used.layer.automaton.size()).sum();
        if DATABASE_BYTES_MAX < bytes {
            let message = format!("the patterns compile to more than {DATABASE_BYTES_MAX} bytes");
            return Err(whole(PatternError::new(Refused::TooLarge, message)));
        }
        Ok(set)
    }

    /// The same without the patterns that are not among `wanted`. Compiles nothing.
    fn without(&self, wanted: &BTreeSet<&str>) -> Self {
        let keep = |used: &Used| {
            let texts = used.layer.patterns.iter().zip(&used.is_used);
            let is_used = texts.map(|(pattern, is_used)| *is_used && wanted.contains(pattern.text.as_str())).collect();
            Used { layer: Arc::clone(&used.layer), is_used }
        };
        let layers = self.layers.iter().map(keep).filter(|used| used.is_used.contains(&true));
        Self { layers: layers.collect() }
    }

    /// The same with patterns that it has not. What was added last is compiled with them while that is not much, and all
    /// of it when there would be too many layers.
    fn with(mut self, fresh: Vec<Arc<Pattern>>, cache: &dyn DatabaseCache) -> Result<Self, PatternError> {
        if fresh.is_empty() {
            return Ok(self);
        }
        let mut together = fresh;
        while let Some(last) = self.layers.last() {
            let count = last.patterns().count();
            if LAYERS_MAX <= self.layers.len() || count + together.len() <= TOGETHER_MAX {
                together.splice(0..0, last.patterns().cloned());
                self.layers.pop();
            } else {
                break;
            }
        }
        let is_used = vec![true; together.len()];
        self.layers.push(Used { layer: Layer::compile(together, cache)?, is_used });
        Ok(self)
    }

    /// True when it is not one layer with all of its patterns in use.
    fn is_layered(&self) -> bool {
        1 < self.layers.len() || self.layers.iter().any(|used| used.is_used.contains(&false))
    }

    /// The same patterns in one layer.
    fn whole(&self) -> Result<Self, PatternError> {
        Self::default().with(self.patterns().cloned().collect(), &NoCache)
    }

    /// The set of a configuration.
    ///
    /// # Errors
    /// As [`Set::compile`].
    pub(crate) fn of(texts: &[String], cache: &dyn DatabaseCache) -> Result<Self, (usize, PatternError)> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Self::compile(&texts, &Self::default(), (cache, &crate::detect::Unmetered))
    }

    fn patterns(&self) -> impl Iterator<Item = &Arc<Pattern>> {
        self.layers.iter().flat_map(Used::patterns)
    }

    /// The texts, in order.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.patterns().map(|pattern| pattern.text.as_str())
    }

    /// True when it finds nothing in any text.
    pub(crate) const fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Adds one threat for each pattern that matches `text`.
    pub(crate) fn find(&self, text: &str, view: View, threats: &mut Vec<Threat>) {
        self.layers.iter().for_each(|used| used.find(text, view, threats));
    }
}

impl Used {
    fn find(&self, text: &str, view: View, threats: &mut Vec<Threat>) {
        let mut finds = self.layer.automaton.finds(text.as_bytes(), STRIDE, FINDS_MAX);
        finds.sort_unstable();
        for finds in finds.chunk_by(|a, b| a.0 == b.0) {
            let Some((id, end)) = finds.first().copied() else { continue };
            let Some(pattern) = self.layer.patterns.get(usize::from(id)) else { continue };
            if self.is_used.get(usize::from(id)) != Some(&true) {
                continue;
            }
            let threat = match &pattern.read.looking {
                None => Some(pattern.threat(Method::Regex, view, (text, pattern.span(text, end as usize)))),
                Some(looking) => match decide(looking, text, finds) {
                    Answer::Match(range) => Some(pattern.threat(Method::Regex, view, (text, range))),
                    Answer::None => None,
                    Answer::Exhausted(range) => Some(pattern.threat(Method::Budget, view, (text, range))),
                },
            };
            threats.extend(threat);
        }
    }
}

/// What the second look says.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Answer {
    Match(Range<usize>),
    None,
    /// It could not be decided within its bounds, here.
    Exhausted(Range<usize>),
}

/// Decides a pattern around its finds.
fn decide(looking: &fancy_regex::Regex, text: &str, finds: &[(u16, u32)]) -> Answer {
    let mut decided: Option<Range<usize>> = None;
    for (count, (_, end)) in finds.iter().enumerate() {
        let stretch = stretch(text, *end as usize);
        if decided.as_ref() == Some(&stretch) {
            continue;
        }
        if STRETCHES_MAX <= count {
            return Answer::Exhausted(stretch);
        }
        match looking.find(text.get(stretch.clone()).unwrap_or_default()) {
            Ok(Some(found)) => return Answer::Match(stretch.start + found.start()..stretch.start + found.end()),
            Ok(None) => {}
            Err(_) => return Answer::Exhausted(stretch),
        }
        decided = Some(stretch);
    }
    Answer::None
}

/// What is seen of a text around a find: three times [`REACH`], or all of a text that is not longer.
fn stretch(text: &str, end: usize) -> Range<usize> {
    if text.len() <= 3 * REACH {
        return 0..text.len();
    }
    let middle = end / REACH * REACH;
    let start = text.floor_char_boundary(middle.saturating_sub(REACH));
    start..text.ceil_char_boundary((middle + 2 * REACH).min(text.len()))
}

/// Patterns that are added and removed while the service runs. Whoever looks for them sees one whole set; a change is
/// compiled by whoever makes it, so not on a thread that serves requests.
#[derive(Debug, Default)]
pub struct CustomPatterns {
    current: ArcSwap<Set>,
    /// Patterns in the current set, so that an empty one costs a glance.
    count: AtomicUsize,
    /// Held by whoever changes the set.
    changing: Mutex<()>,
}

impl CustomPatterns {
    /// Adds a pattern; false when it was there. `meter` bounds the time of compiling.
    ///
    /// # Errors
    /// Why it is refused; the set stays as it was.
    pub fn add(&self, pattern: &str, meter: &impl Meter) -> Result<bool, PatternError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        if current.texts().any(|text| text == pattern) {
            return Ok(false);
        }
        let texts: Vec<&str> = current.texts().chain([pattern]).collect();
        let set = Set::compile(&texts, &current, (&NoCache, meter)).map_err(|(_, error)| error)?;
        self.swap(set);
        Ok(true)
    }

    /// Removes a pattern by its text; false when it was not there.
    pub fn remove(&self, pattern: &str) -> bool {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        let texts: Vec<&str> = current.texts().filter(|text| *text != pattern).collect();
        if texts.len() == current.texts().count() {
            return false;
        }
        // A part of what compiled compiles; if it did not, the set with the pattern would have to stay.
        let set = Set::compile(&texts, &current, (&NoCache, &crate::detect::Unmetered));
        set.map(|set| self.swap(set)).is_ok()
    }

    /// Removes all patterns and returns how many there were.
    pub fn clear(&self) -> usize {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.count();
        self.swap(Set::default());
        count
    }

    /// Makes `patterns` the set, as when others share theirs. Those that are refused are left out and reported with
    /// the reason. True when the set is another one now.
    pub fn replace(&self, patterns: &BTreeSet<String>, meter: &impl Meter) -> (bool, Vec<(String, PatternError)>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        let mut texts: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let mut refused = Vec::new();
        loop {
            let kept: BTreeSet<&str> = texts.iter().copied().collect();
            if kept == current.texts().collect() {
                return (false, refused);
            }
            match Set::compile(&texts, &current, (&NoCache, meter)) {
                Ok(set) => {
                    self.swap(set);
                    return (true, refused);
                }
                Err((index, error)) if index < texts.len() && error.kind != Refused::TooSlow => {
                    refused.push((texts.remove(index).to_owned(), error));
                }
                // The whole is too large, or takes too long: what there is stays.
                Err((_, error)) => {
                    refused.push((String::new(), error));
                    return (false, refused);
                }
            }
        }
    }

    /// True when compiling all patterns together would make looking for them faster.
    #[must_use]
    pub fn is_layered(&self) -> bool {
        self.current.load().is_layered()
    }

    /// Compiles all patterns together, which may take seconds, and swaps that in unless the set changed meanwhile. Changes
    /// do not wait for it.
    pub fn settle(&self) {
        let before = self.current.load_full();
        if !before.is_layered() {
            return;
        }
        // What compiled in layers and is too much at once stays in layers.
        let Ok(whole) = before.whole() else { return };
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&before, &self.current.load_full()) {
            self.swap(whole);
        }
    }

    /// The texts, in the order they were added.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        self.current.load().texts().map(str::to_owned).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Adds one threat for each pattern that matches `text`.
    pub(crate) fn find(&self, text: &str, view: View, threats: &mut Vec<Threat>) {
        if self.count() != 0 {
            self.current.load().find(text, view, threats);
        }
    }

    fn swap(&self, set: Set) {
        self.count.store(set.texts().count(), Ordering::Relaxed);
        self.current.store(Arc::new(set));
    }
}

#[cfg(test)]
mod tests;
