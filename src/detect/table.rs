//! Rows ready to run: a database of all of them, smaller ones for plain text, and sets that say which row may apply
//! where.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::config::exclusions::Profile;
use crate::detect::automaton::{Automaton, Bits, Candidates, CompileError};
use crate::detect::batch;
use crate::detect::cache::DatabaseCache;
use crate::detect::confirm::{Candidate, Confirm, Second};
use crate::detect::reach::Reach;
use crate::detect::rows::{Expression, PatternFile, Row};
use crate::detect::{DetectError, Kind, Source, View};
use crate::model::category::{Category, CategorySet};

/// Bytes that one row's span expression may take when compiled.
const SPAN_BYTES_MAX: usize = 4 << 20;
/// How often a row looks for another match after a gate refused one.
const RETRIES_MAX: usize = 64;
/// Bytes that an expression searches in the time that a second look reads one.
const SEARCH: usize = 4;
/// What judging one match costs, in bytes.
const CHECK_COST: usize = 64;
/// How many matches of one row a check judges in one text.
const CHECKS_MAX: usize = 4096;

/// What a table is made from: tables of one origin are equal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Origin {
    profile: Profile,
    files: [u8; 32],
}

impl Origin {
    /// The built-in rows of `profile` and `files`.
    pub(crate) fn of(profile: Profile, files: &[PatternFile<'_>]) -> Self {
        let mut hasher = Sha256::new();
        for part in files.iter().flat_map(|file| [file.name, file.text]) {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self { profile, files: hasher.finalize().into() }
    }
}

/// A text, and the views that have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'t> {
    pub(crate) text: &'t str,
    /// Bit by [`View::index`].
    pub(crate) views: u8,
    /// Asks every row, whether or not a text of its kind, in these views, can be what the row looks for.
    pub(crate) in_full: bool,
}

/// Rows ready to run. A row's number is its position.
#[derive(Debug)]
pub(crate) struct Table {
    origin: Origin,
    rows: Vec<Row>,
    /// Of rows whose matches have to be found, which is never done by building an expression for a request.
    spans: Vec<Option<Regex>>,
    /// By [`Reach`]: the rows that a text of this kind may match.
    automata: Vec<Automaton>,
    /// By [`View`]: the rows that look at a text which only this view has; `None` where most rows do.
    scarce: [Option<Automaton>; View::ALL.len()],
    /// By kind in [`batch::REACHES`]: the rows that texts may match which stand side by side; empty where a row cannot be
    /// read that way.
    together: Vec<Automaton>,
    bits: Masks,
}

/// Which rows may apply where.
#[derive(Debug)]
struct Masks {
    by_view: [Bits; View::ALL.len()],
    by_source: [Bits; Source::ALL.len()],
    by_category: Vec<Bits>,
}

impl Masks {
    fn of(rows: &[Row]) -> Self {
        let ids = |wanted: &dyn Fn(&Row) -> bool| {
            rows.iter().enumerate().filter(|(_, row)| wanted(row)).map(|(id, _)| id).collect::<Bits>()
        };
        Self {
            by_view: View::ALL.map(|view| match view {
                // Short base64 islands hold text of any kind: every row looks at them.
                View::Additive => ids(&|_| true),
                View::Raw | View::Decoded | View::Processed => ids(&|row| row.views & view.bit() != 0),
            }),
            by_source: Source::ALL.map(|source| ids(&|row| row.contexts & (1 << source.index()) != 0)),
            by_category: (0..Category::COUNT).map(|index| ids(&|row| row.category.index() == index)).collect(),
        }
    }

    fn of_views(&self, views: u8) -> Bits {
        let wanted = View::ALL.iter().zip(&self.by_view).filter(|(view, _)| views & view.bit() != 0);
        wanted.fold(Bits::default(), |all, (_, bits)| all.or(bits))
    }

    fn of_categories(&self, categories: CategorySet) -> Bits {
        let wanted = self
            .by_category
            .iter()
            .zip(0..)
            .filter(|(_, index)| Category::all().nth(*index).is_some_and(|category| categories.contains(category)));
        wanted.fold(Bits::default(), |all, (bits, _)| all.or(bits))
    }
}

impl Table {
    /// Compiles the rows into the database of each kind of text, or takes what `cache` kept of them.
    ///
    /// # Errors
    /// Every row that does not compile alone, or the fault of the whole set.
    pub(crate) fn compile(rows: Vec<Row>, origin: Origin, cache: &dyn DatabaseCache) -> Result<Self, Vec<DetectError>> {
        let bits = Masks::of(&rows);
        let alone: Vec<Expression<'_>> = rows.iter().enumerate().map(|(id, row)| expression(id, row)).collect();
        let mut sets: Vec<_> = Reach::ALL.iter().map(|reach| within(&rows, &alone, *reach)).collect();
        // Plain text is short of what the prefilters look for; there the patterns themselves are as cheap.
        if let Some(all) = sets.last_mut() {
            all.iter_mut().for_each(|expression| prefilter(&rows, expression));
        }
        let scarce = bits.by_view.map(|view| {
            let all = sets.last().filter(|_| 2 * view.iter().count() < rows.len())?;
            Some(all.iter().filter(|row| view.contains(row.id)).copied().collect::<Vec<_>>())
        });
        let texts = texts_side_by_side(origin.profile, &rows);
        let together = texts.iter().flat_map(|texts| batch::REACHES.map(|reach| together(&rows, texts, reach)));
        let together: Vec<_> = together.collect();
        sets.extend(scarce.iter().flatten().cloned());
        sets.extend(together);
        let mut compiled = Automaton::compile_all(&sets, cache).map_err(|error| faults(&rows, error))?.into_iter();
        let automata = compiled.by_ref().take(Reach::ALL.len()).collect();
        let scarce = scarce.map(|set| set.and_then(|_| compiled.next()));
        let together = compiled.collect();
        let spans = rows.iter().map(span).collect();
        Ok(Self { origin, rows, spans, automata, scarce, together, bits })
    }

    /// What it was made from.
    pub(crate) const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The row with a number.
    pub(crate) fn row(&self, id: u16) -> Option<&Row> {
        self.rows.get(usize::from(id))
    }

    /// All rows, in order.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Size of the compiled databases in bytes.
    pub(crate) fn size(&self) -> usize {
        self.automata.iter().chain(self.scarce.iter().flatten()).chain(&self.together).map(Automaton::size).sum()
    }

    /// The rows that have a candidate in `text` and may apply to `source` and `categories`.
    pub(crate) fn candidates(&self, text: Text<'_>, source: Source, categories: CategorySet) -> Candidates {
        let Some(automaton) = self.automaton(&text) else { return Candidates::new() };
        let found = automaton.scan(text.text.as_bytes(), |hits| {
            let mut bits = hits.bits.and(&self.bits.of_views(text.views));
            if let Some(applicable) = self.bits.by_source.get(source.index()) {
                bits = bits.and(applicable);
            }
            if categories != CategorySet::DETECTION && !bits.is_empty() {
                bits = bits.and(&self.bits.of_categories(categories));
            }
            let numbers = bits.iter().filter_map(|id| Some((u16::try_from(id).ok()?, hits.end(id))));
            numbers.map(|(id, end)| (id, u32::try_from(end).unwrap_or(u32::MAX))).collect()
        });
        found.unwrap_or_default()
    }

    /// The smallest database with every row that can match.
    fn automaton(&self, text: &Text<'_>) -> Option<&Automaton> {
        let alone = View::ALL.iter().position(|view| view.bit() == text.views);
        let scarce = alone.filter(|_| !text.in_full).and_then(|view| self.scarce.get(view)?.as_ref());
        scarce.or_else(|| {
            let reach = if text.in_full { Reach::All } else { Reach::of(text.text.as_bytes()) };
            self.automata.get(reach as usize)
        })
    }

    /// True when values can be scanned side by side.
    pub(crate) const fn reads_side_by_side(&self) -> bool {
        !self.together.is_empty()
    }

    /// Gives `found` the candidates in texts of a kind that stand side by side; see [`Automaton::each`].
    pub(crate) fn find_together(
        &self,
        reach: Reach,
        texts: &[u8],
        text_of: impl Fn(u32) -> u32,
        found: impl FnMut(u16, u32, u32),
    ) {
        let kind = batch::REACHES.iter().position(|known| reach <= *known);
        if let Some(automaton) = kind.and_then(|kind| self.together.get(kind)) {
            automaton.each(texts, text_of, found);
        }
    }

    /// Whether a row is asked in these views (a mask), in this place, about these categories.
    pub(crate) fn applies(&self, id: u16, views: u8, source: Source, categories: CategorySet) -> bool {
        let in_views = |row: &Row| (row.views | View::Additive.bit()) & views != 0;
        self.row(id).is_some_and(|row| {
            in_views(row) && row.contexts & (1 << source.index()) != 0 && categories.contains(row.category)
        })
    }

    /// The first match of a candidate's row that survives its confirm function and its gates.
    pub(crate) fn confirmed(&self, id: u16, candidate: &Candidate<'_>, answers: &mut Answers) -> Option<Range<usize>> {
        let noise = &Noise::of(candidate.text);
        let row = self.row(id)?;
        if row.kinds & (1 << (candidate.context.kind as u16)) == 0 {
            return None;
        }
        if row.gates.embedded_json && candidate.context.kind == Kind::EmbeddedJson {
            return None;
        }
        let passes = |range: &Range<usize>| gates_pass(row, candidate, range, noise);
        match row.confirm {
            // A prefilter finds more than a pattern: looking for one in vain is work.
            None if row.prefilter.is_some() && !candidate.work.take(candidate.text.len() / SEARCH) => None,
            None => self.spans(id, candidate, RETRIES_MAX).find(passes),
            Some(Second::Check(check)) => {
                let mut ranges = self.spans(id, candidate, CHECKS_MAX).take_while(|_| candidate.work.take(CHECK_COST));
                ranges.find(|range| check(candidate, range) && passes(range))
            }
            Some(Second::Find(confirm)) => {
                let range = answers.ask(confirm, candidate)?;
                if row.prefilter.is_some()
                    && !(candidate.work.take(candidate.text.len()) && self.holds(id, candidate.text))
                {
                    return None;
                }
                if passes(&range) {
                    return Some(range);
                }
                // The refused match hides later ones; look again behind it.
                let mut offset = range.end.max(range.start + 1);
                for _ in 0..RETRIES_MAX {
                    let rest = candidate.text.get(candidate.text.ceil_char_boundary(offset)..)?;
                    let shift = candidate.text.len() - rest.len();
                    if !candidate.work.take(rest.len()) {
                        return None;
                    }
                    let range = confirm(&Candidate { text: rest, end: rest.len(), ..*candidate })?;
                    let range = range.start + shift..range.end + shift;
                    if passes(&range) {
                        return Some(range);
                    }
                    offset = range.end.max(range.start + 1);
                }
                None
            }
        }
    }

    /// Whether `text` holds what a row looks for, which a prefilter does not say. Dearer than most second looks, so it is
    /// asked behind them.
    pub(crate) fn holds(&self, id: u16, text: &str) -> bool {
        let Some(row) = self.row(id).filter(|row| row.prefilter.is_some()) else { return true };
        let regex = self.spans.get(usize::from(id)).and_then(Option::as_ref);
        debug_assert!(regex.is_some(), "{}", row.id);
        regex.is_none_or(|regex| regex.is_match(text.as_bytes()))
    }

    /// The first `most` matches of a row's own expression, left to right.
    fn spans<'a>(
        &'a self,
        id: u16,
        candidate: &'a Candidate<'a>,
        most: usize,
    ) -> impl Iterator<Item = Range<usize>> + 'a {
        let regex = self.spans.get(usize::from(id)).and_then(Option::as_ref);
        // The automaton vouches for a match, unless it looked for something else; without a span for it, it is the text
        // up to the match's end.
        let vouches = self.row(id).is_some_and(|row| row.prefilter.is_none());
        let whole = 0..candidate.end.min(candidate.text.len());
        let found = regex.map(|regex| regex.find_iter(candidate.text.as_bytes()).map(|found| found.range()));
        let mut found = found.into_iter().flatten().take(most).peekable();
        let fallback = (vouches && found.peek().is_none()).then_some(whole);
        found.chain(fallback).map(|range| on_char_boundaries(candidate.text, range))
    }
}

/// What confirm functions said about one text: rows that share a function ask it once.
#[derive(Debug, Default)]
pub(crate) struct Answers(SmallVec<[(Confirm, Option<Range<usize>>); 4]>);

impl Answers {
    /// The function's answer. It must read nothing of a candidate that differs between rows of one text.
    fn ask(&mut self, confirm: Confirm, candidate: &Candidate<'_>) -> Option<Range<usize>> {
        if let Some((_, known)) = self.0.iter().find(|(asked, _)| std::ptr::fn_addr_eq(*asked, confirm)) {
            return known.clone();
        }
        let answer = if candidate.work.is_spent() { None } else { confirm(candidate) };
        self.0.push((confirm, answer.clone()));
        answer
    }
}

fn on_char_boundaries(text: &str, range: Range<usize>) -> Range<usize> {
    text.floor_char_boundary(range.start)..text.ceil_char_boundary(range.end)
}

/// The expression that finds the span of a row's match; none where the second look finds it by itself and the automaton
/// vouches for it.
fn span(row: &Row) -> Option<Regex> {
    if matches!(row.confirm, Some(Second::Find(_))) && row.prefilter.is_none() {
        return None;
    }
    RegexBuilder::new(&row.pattern)
        .unicode(false)
        .case_insensitive(!row.flags.case_sensitive)
        .multi_line(row.flags.multiline)
        .dot_matches_new_line(row.flags.dotall)
        .size_limit(SPAN_BYTES_MAX)
        .build()
        .ok()
}

/// Puts a row's prefilter into the place of its pattern.
fn prefilter<'r>(rows: &'r [Row], expression: &mut Expression<'r>) {
    if let Some(cheap) = rows.get(expression.id).and_then(|row| row.prefilter.as_deref()) {
        expression.pattern = cheap;
    }
}

/// Every row's expression and prefilter for values that stand side by side; `None` when some row has none.
fn texts_side_by_side(profile: Profile, rows: &[Row]) -> Option<Vec<(String, Option<String>)>> {
    let texts = |row: &Row| {
        let prefilter = row.prefilter.as_ref().map(|prefilter| batch::side_by_side(prefilter, row.flags));
        let prefilter = match prefilter {
            Some(None) => return None,
            Some(text) => text,
            None => None,
        };
        Some((batch::side_by_side(&row.pattern, row.flags)?, prefilter))
    };
    match profile {
        Profile::Balanced => rows.iter().map(texts).collect(),
        // Its values have a view of their own each: they never wait for others.
        Profile::GuardCore => None,
    }
}

/// The expressions that texts of a kind may match which stand side by side.
fn together<'e>(rows: &'e [Row], texts: &'e [(String, Option<String>)], reach: Reach) -> Vec<Expression<'e>> {
    let expressions = texts.iter().zip(rows).enumerate().map(|(id, ((pattern, prefilter), row))| {
        let cheap = prefilter.as_deref().filter(|_| reach == Reach::All);
        Expression { pattern: cheap.unwrap_or(pattern), each: true, ..expression(id, row) }
    });
    within(rows, &expressions.collect::<Vec<_>>(), reach)
}

fn expression(id: usize, row: &Row) -> Expression<'_> {
    Expression { id, pattern: &row.pattern, flags: row.flags, prefilter: false, each: false }
}

/// The expressions that a text of a kind may match. What such text holds is told by the row as it stands, however it is
/// compiled.
fn within<'e>(rows: &[Row], expressions: &[Expression<'e>], reach: Reach) -> Vec<Expression<'e>> {
    let mut within = expressions.to_vec();
    within.retain(|expression| rows.get(expression.id).is_none_or(|row| reach.holds(&row.pattern, row.flags)));
    within
}

/// Which rows are to blame.
fn faults(rows: &[Row], error: CompileError) -> Vec<DetectError> {
    let fault = |row: &Row, error: CompileError| DetectError {
        key: format!("{}: {}", row.file, row.id),
        message: error.message,
    };
    let alone = |row: &Row| {
        let pattern = expression(0, row);
        let texts = [Some(pattern.pattern), row.prefilter.as_deref()];
        let error = texts
            .into_iter()
            .flatten()
            .find_map(|pattern_text| Automaton::test_compile(&Expression { pattern: pattern_text, ..pattern }).err());
        error.map(|error| fault(row, error))
    };
    let faults: Vec<DetectError> = rows.iter().filter_map(alone).collect();
    if faults.is_empty() { vec![DetectError { key: "patterns".to_owned(), message: error.message }] } else { faults }
}

fn gates_pass(row: &Row, candidate: &Candidate<'_>, range: &Range<usize>, noise: &Noise<'_>) -> bool {
    if row.gates.separator && !matches!(candidate.context.source, Source::Path | Source::Unknown) {
        let first = candidate.text.as_bytes().get(range.start);
        if !first.is_some_and(|byte| matches!(byte, b'/' | b'\\')) {
            return false;
        }
    }
    !row.gates.noise || !noise.surrounds(range)
}

/// Tells whether a match stands amid the debris of a binary body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise<'a> {
    text: &'a str,
}

impl<'a> Noise<'a> {
    /// Code points looked at on each side of a match.
    const REACH: usize = 64;
    /// Artifacts that make it noise.
    const ENOUGH: usize = 4;

    /// Of one view.
    pub(crate) const fn of(text: &'a str) -> Self {
        Self { text }
    }

    fn surrounds(&self, range: &Range<usize>) -> bool {
        let before = self.text.get(..range.start).unwrap_or_default().chars().rev().take(Self::REACH);
        let within = self.text.get(range.clone()).unwrap_or_default().chars();
        let after = self.text.get(range.end..).unwrap_or_default().chars().take(Self::REACH);
        before.chain(within).chain(after).filter(|char| is_artifact(*char)).take(Self::ENOUGH).count() == Self::ENOUGH
    }
}

/// Characters that binary data shows when it is read as text.
pub(crate) const fn is_artifact(char: char) -> bool {
    matches!(char,
        '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\x7f'
        | '\u{80}'..='\u{a2}' | '\u{a4}' | '\u{a6}'..='\u{a9}' | '\u{ab}'..='\u{af}' | '\u{b4}' | '\u{b6}'..='\u{b8}'
        | '\u{bb}'..='\u{bf}' | '\u{180}'..='\u{24f}' | '\u{fffd}')
}
