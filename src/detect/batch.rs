//! Many short values in one scan: texts are put side by side into one buffer and scanned together. A scan of ten bytes
//! costs about as much as one of a hundred, and most values hold nothing.
//!
//! Rows are read differently for this (see [`side_by_side`]): they find in the buffer what they find in each text alone,
//! and where a match ends tells whose it is. What is found is given its second look value by value.

use std::cell::Cell;
use std::ops::Range;

use crate::detect::automaton::Candidates;
use crate::detect::reach::Reach;
use crate::detect::recall::{Epoch, Key};
use crate::detect::rows::Flags;
use crate::detect::view::{Steps, Views};
use crate::detect::work::Spent;
use crate::detect::{Context, Detector, Kind, Source, View};
use crate::model::category::CategorySet;

/// The kinds of text that are scanned together, each with its like: plain text has a database of its own.
pub(super) const REACHES: [Reach; 2] = [Reach::Addresses, Reach::All];
/// Longest text that waits for others, in bytes.
pub(super) const TEXT_MAX: usize = 512;
/// Bytes of texts that wait together; one more value may cross the bound.
const BYTES_MAX: usize = 4096;
/// Values that wait together.
const VALUES_MAX: usize = 128;
/// Candidates that are told apart; where there are more, each value is looked at alone.
const HITS_MAX: usize = 4096;
/// What stands behind each text, as [`side_by_side`] spells it. It is in no UTF-8 text.
const SEPARATOR: u8 = 0xff;

/// A row's candidate in a value that waits.
#[derive(Clone, Copy, Debug)]
struct Hit {
    entry: usize,
    view: View,
    row: u16,
    /// Where its first match ends in the view's text.
    end: u32,
}

/// One value that waits.
#[derive(Debug)]
struct Entry {
    source: Source,
    kind: Kind,
    categories: CategorySet,
    semantic: bool,
    name: Range<usize>,
    content: Range<usize>,
    /// What was done to it; `None` for nothing.
    steps: Option<Box<Steps>>,
    /// The text that is scanned with others, and whose view it is.
    text: Range<usize>,
    view: View,
    spent: Spent,
}

/// Values that wait for one scan.
#[derive(Debug, Default)]
struct Batch {
    texts: Vec<u8>,
    /// Where each text ends, its separator included.
    ends: Vec<u32>,
    /// Names and contents.
    words: String,
    entries: Vec<Entry>,
    hits: Vec<Hit>,
}

/// A value that waited, and what was found in it.
pub(super) struct Waited<'b> {
    pub(super) context: Context<'b>,
    pub(super) categories: CategorySet,
    pub(super) views: Views<'b>,
    /// By view.
    pub(super) candidates: &'b [Candidates; View::ALL.len()],
    /// Takes what its second looks spent.
    pub(super) spent: &'b mut Spent,
}

/// Where texts that stand side by side end, and whose match was told last: the next one is mostly there, too.
struct Ends<'b> {
    ends: &'b [u32],
    last: Cell<usize>,
}

impl Ends<'_> {
    /// The text that a match belongs to which ends here.
    fn part_of(&self, end: u32) -> u32 {
        let last = self.last.get();
        let starts_before =
            last.checked_sub(1).and_then(|before| self.ends.get(before)).is_none_or(|start| *start < end);
        let is_last = starts_before && self.ends.get(last).is_some_and(|last| end <= *last);
        let part = if is_last { last } else { self.ends.partition_point(|part| *part < end) };
        self.last.set(part);
        part as u32
    }
}

impl Batch {
    /// Adds a value, of which the text of `view` is still to be scanned. True when no more should be added.
    fn add(&mut self, key: &Key<'_>, views: Views<'_>, view: View) -> bool {
        let start = self.texts.len();
        self.texts.extend_from_slice(views.text(view).as_bytes());
        let text = start..self.texts.len();
        self.texts.push(SEPARATOR);
        self.ends.push(u32::try_from(self.texts.len()).unwrap_or(u32::MAX));
        let name = self.word(key.name);
        let content = self.word(key.text);
        let Key { source, kind, categories, semantic, .. } = *key;
        let steps = (!views.is_plain()).then(|| Box::new(views.into_steps()));
        let spent = Spent::default();
        self.entries.push(Entry { source, kind, categories, semantic, name, content, steps, text, view, spent });
        BYTES_MAX <= self.texts.len() || VALUES_MAX <= self.entries.len()
    }

    /// Adds what was found in another text of the next value.
    fn note(&mut self, view: View, candidates: &Candidates) {
        let entry = self.entries.len();
        self.hits.extend(candidates.iter().map(|(row, end)| Hit { entry, view, row: *row, end: *end }));
    }

    fn word(&mut self, word: &str) -> Range<usize> {
        let start = self.words.len();
        self.words.push_str(word);
        start..self.words.len()
    }

    /// Scans all texts with `scan`. False when more was found than is told apart.
    fn scan(&mut self, scan: impl FnOnce(&[u8], &dyn Fn(u32) -> u32, &mut dyn FnMut(u16, u32, u32))) -> bool {
        let Self { texts, ends, entries, hits, .. } = self;
        let ends = Ends { ends, last: Cell::new(0) };
        let part_of = |end: u32| ends.part_of(end);
        scan(texts, &part_of, &mut |row, end, part| {
            let entry = part as usize;
            if let Some(Entry { text, view, .. }) = entries.get(entry).filter(|_| hits.len() < HITS_MAX) {
                let end = end.saturating_sub(text.start as u32).min(text.len() as u32);
                hits.push(Hit { entry, view: *view, row, end });
            }
        });
        let place = |hit: &Hit| (hit.entry, hit.view.index(), hit.row);
        hits.sort_unstable_by_key(|hit| (place(hit), hit.end));
        hits.dedup_by_key(|hit| place(hit));
        hits.len() < HITS_MAX
    }

    /// True when `is_clean` says so of each value that has to be looked at, in the order they came in. `applies` tells
    /// whether a row, by its number, is asked in these views (a mask), in this place, about these categories.
    fn all_clean(
        &mut self,
        applies: impl Fn(u16, u8, Source, CategorySet) -> bool,
        is_clean: &mut dyn FnMut(Waited<'_>) -> bool,
    ) -> bool {
        let Self { words, entries, hits, .. } = self;
        let (mut rest, mut candidates): (_, [Candidates; View::ALL.len()]) = (hits.as_slice(), Default::default());
        for (index, entry) in entries.iter_mut().enumerate() {
            let (hits, others) = rest.split_at(rest.iter().take_while(|hit| hit.entry == index).count());
            rest = others;
            let steps = entry.steps.take();
            if hits.is_empty() && steps.is_none() {
                continue;
            }
            let content = words.get(entry.content.clone()).unwrap_or_default();
            let views = steps.map_or_else(|| Views::same(content), |steps| Views::of_steps(content, *steps));
            let Entry { source, kind, categories, .. } = *entry;
            candidates.iter_mut().for_each(Candidates::clear);
            for Hit { view, row, end, .. } in hits.iter().copied() {
                let is_asked = applies(row, views.views_of(view), source, categories);
                if let Some(candidates) = candidates.get_mut(view.index()).filter(|_| is_asked) {
                    candidates.push((row, end));
                }
            }
            let name = words.get(entry.name.clone()).unwrap_or_default();
            let context = Context::new(source, name).of_kind(kind);
            let spent = &mut entry.spent;
            if !is_clean(Waited { context, categories, views, candidates: &candidates, spent }) {
                return false;
            }
        }
        true
    }

    /// The values as recall knows them, and what each of them spent.
    fn keys(&self, epoch: Epoch) -> impl Iterator<Item = (Key<'_>, Spent)> {
        self.entries.iter().map(move |entry| {
            let key = Key {
                epoch,
                source: entry.source,
                kind: entry.kind,
                categories: entry.categories,
                semantic: entry.semantic,
                name: self.words.get(entry.name.clone()).unwrap_or_default(),
                text: self.words.get(entry.content.clone()).unwrap_or_default(),
            };
            (key, entry.spent)
        })
    }

    /// Forgets all values and keeps the room they took.
    fn clear(&mut self) {
        self.texts.clear();
        self.ends.clear();
        self.words.clear();
        self.entries.clear();
        self.hits.clear();
    }
}

/// What waits of one walk, by [`REACHES`].
#[derive(Debug, Default)]
pub(super) struct Waiting([Batch; REACHES.len()]);

thread_local! {
    /// Room for the next walk of this thread: for each kind at most what [`VALUES_MAX`] values hold that are recalled, and
    /// [`HITS_MAX`] candidates.
    static ROOM: Cell<Option<Box<Waiting>>> = const { Cell::new(None) };
}

impl Waiting {
    /// Nothing, with the room that the walk before left.
    pub(super) fn borrow() -> Box<Self> {
        ROOM.take().unwrap_or_default()
    }

    /// Leaves the room to the next walk.
    pub(super) fn give_back(mut self: Box<Self>) {
        self.clear();
        ROOM.set(Some(self));
    }

    /// Adds a value, of which the text of `view` is still to be scanned; `candidates` finds what is in the text of another
    /// view. True when no more should be added.
    pub(super) fn add(
        &mut self,
        key: &Key<'_>,
        views: Views<'_>,
        view: View,
        candidates: impl Fn(&Views<'_>, View) -> Candidates,
    ) -> bool {
        let ([plainer, _], [plain, odd]) = (REACHES, &mut self.0);
        let batch = if Reach::of(views.text(view).as_bytes()) <= plainer { plain } else { odd };
        let is_other = |other: &View| *other != view && views.source_of(*other) == *other;
        for other in View::ALL.into_iter().filter(|other| !views.is_plain() && is_other(other)) {
            batch.note(other, &candidates(&views, other));
        }
        batch.add(key, views, view)
    }

    /// Scans what waits and gives each value that has to be looked at to `is_clean`. False as soon as one is not, or when
    /// more was found than is told apart.
    pub(super) fn settle(&mut self, detector: &Detector, is_clean: &mut dyn FnMut(Waited<'_>) -> bool) -> bool {
        REACHES.into_iter().zip(&mut self.0).filter(|(_, batch)| !batch.entries.is_empty()).all(|(reach, batch)| {
            batch.scan(|texts, text_of, found| detector.find_together(reach, texts, text_of, found))
                && batch.all_clean(
                    |row, views, source, categories| detector.applies(row, views, source, categories),
                    is_clean,
                )
        })
    }

    /// The values as recall knows them, and what each of them spent.
    pub(super) fn keys(&self, epoch: Epoch) -> impl Iterator<Item = (Key<'_>, Spent)> {
        self.0.iter().flat_map(move |batch| batch.keys(epoch))
    }

    /// Forgets all values and keeps the room they took.
    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(Batch::clear);
    }
}

/// A row's expression for values that stand side by side: what it finds in a value that stands alone it finds in the
/// value among others as well. Anchors hold at separators too, and no "anything but" runs past one, so that hardly
/// anything is found across two values. A separator is no word, so word boundaries at a value's ends stay. `None` for what
/// may be read otherwise.
pub(super) fn side_by_side(pattern: &str, flags: Flags) -> Option<String> {
    let mut out = String::with_capacity(2 * pattern.len());
    let mut rest = pattern;
    while let Some(char) = rest.chars().next() {
        let length = match char {
            '\\' => escape(rest, &mut out)?,
            '[' => class(rest, &mut out)?,
            // Of all groups with a question mark, only the one without a name or flags is sure to mean the same.
            '(' if rest.starts_with("(*") || (rest.starts_with("(?") && !rest.starts_with("(?:")) => return None,
            '^' => replaced("(?:^|\\xff)", &mut out),
            // It also holds before a line break that ends the value.
            '$' => replaced("(?:$|\\n?\\xff)", &mut out),
            '.' if flags.dotall => replaced(ANYTHING, &mut out),
            '.' => replaced("[^\\xff\\n]", &mut out),
            char => {
                out.push(char);
                char.len_utf8()
            }
        };
        rest = rest.get(length..)?;
    }
    Some(out)
}

/// Anything within a value.
const ANYTHING: &str = "[^\\xff]";

/// Writes what stands for one character. How many bytes that one took.
fn replaced(by: &str, out: &mut String) -> usize {
    out.push_str(by);
    1
}

/// An escape outside of classes; how many bytes it took. `None` for quoting, for what moves a match's start, and for
/// what only Hyperscan knows.
fn escape(rest: &str, out: &mut String) -> Option<usize> {
    if let Some(length) = last_byte(rest, out) {
        return Some(length);
    }
    let escaped = rest.chars().nth(1)?;
    match escaped {
        'A' => out.push_str("(?:\\A|\\xff)"),
        'z' => out.push_str("(?:\\z|\\xff)"),
        'Z' => out.push_str("(?:\\Z|\\n?\\xff)"),
        'S' => out.push_str("[^\\xff\\s]"),
        'W' => out.push_str("[^\\xff\\w]"),
        'D' => out.push_str("[^\\xff\\d]"),
        'Q' | 'E' | 'G' | 'K' | 'H' | 'V' | 'N' | 'R' | 'C' | 'X' => return None,
        escaped => out.extend(['\\', escaped]),
    }
    Some(1 + escaped.len_utf8())
}

/// The escape of the separator's byte, which no text holds, becomes that of the one before it, which none holds either.
fn last_byte(rest: &str, out: &mut String) -> Option<usize> {
    let escape = rest.get(..4).filter(|escape| escape.eq_ignore_ascii_case("\\xff"))?;
    out.push_str("\\xfe");
    Some(escape.len())
}

/// A class of characters; how many bytes it took. A negated one leaves out separators.
fn class(rest: &str, out: &mut String) -> Option<usize> {
    if rest.starts_with(EVERYTHING) {
        out.push_str(ANYTHING);
        return Some(EVERYTHING.len());
    }
    let mut at = 1;
    out.push('[');
    let is_negated = rest.get(at..)?.starts_with('^');
    if is_negated {
        out.push_str("^\\xff");
        at += 1;
    }
    // A bracket right behind the opening, or behind its negation, is a member.
    if rest.get(at..)?.starts_with(']') {
        out.push_str("\\]");
        at += 1;
    }
    loop {
        if let Some(length) = last_byte(rest.get(at..)?, out) {
            at += length;
            continue;
        }
        let char = rest.get(at..)?.chars().next()?;
        out.push(char);
        at += char.len_utf8();
        match char {
            ']' => return Some(at),
            '[' if rest.get(at..)?.starts_with([':', '.', '=']) => return None,
            '\\' => {
                let escaped = rest.get(at..)?.chars().next()?;
                if matches!(escaped, 'Q' | 'E') || !is_negated && matches!(escaped, 'S' | 'W' | 'D' | 'H' | 'V' | 'N') {
                    return None;
                }
                out.push(escaped);
                at += escaped.len_utf8();
            }
            _ => (),
        }
    }
}

/// How rows spell a class that holds every character.
const EVERYTHING: &str = "[\\s\\S]";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_belongs_to_the_text_it_ends_in() {
        let all = [3, 4, 9, 20];
        let ends = Ends { ends: &all, last: Cell::new(0) };
        for end in (1..=21).chain((1..=21).rev()).chain([1, 20, 4, 3, 5, 21, 1]) {
            assert_eq!(ends.part_of(end), all.partition_point(|part| *part < end) as u32, "{end}");
        }
    }

    #[test]
    fn anchors_hold_at_separators_and_nothing_runs_past_one() {
        let dotall = Flags { dotall: true, ..Flags::default() };
        for (pattern, expected) in [
            (r"^a$", Some(r"(?:^|\xff)a(?:$|\n?\xff)")),
            (r"\Aa(?:b|\z)", Some(r"(?:\A|\xff)a(?:b|(?:\z|\xff))")),
            (r"a.b", Some(r"a[^\xff\n]b")),
            (r"a[\s\S]*[^b]\.", Some(r"a[^\xff]*[^\xffb]\.")),
            (r"[\\Az.$^]\\z", Some(r"[\\Az.$^]\\z")),
            (r"[^]\]A]\Z", Some(r"[^\xff\]\]A](?:\Z|\n?\xff)")),
            (r"\S\W[\x80-\xff]\xFF", Some(r"[^\xff\s][^\xff\w][\x80-\xfe]\xfe")),
            (r"[^\S\n]", Some(r"[^\xff\S\n]")),
            (r"[\S,]", None),
            (r"(?i)a", None),
            (r"(?-m:^a)", None),
            (r"[[:alpha:]]", None),
            (r"\Qa\E", None),
        ] {
            assert_eq!(side_by_side(pattern, Flags::default()).as_deref(), expected, "{pattern}");
        }
        assert_eq!(side_by_side("a.b", dotall).as_deref(), Some(r"a[^\xff]b"));
    }
}
