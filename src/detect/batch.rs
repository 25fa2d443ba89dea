//! Many short values in one scan: values without unusual signs, which every view shows as they were sent, are put side by
//! side into one buffer and scanned together. A scan of ten bytes costs about as much as one of a hundred, and nearly always nothing is found.
//!
//! Rows are read differently for this (see [`side_by_side`]): they find at least what they find in each value alone. Where
//! one finds something, the values are parted and scanned again, down to a few that are looked at alone, as if there were
//! no buffer.

use std::cell::Cell;
use std::ops::Range;

use smallvec::SmallVec;

use crate::detect::reach::Reach;
use crate::detect::recall::{Epoch, Key};
use crate::detect::rows::Flags;
use crate::detect::{Context, Kind, Source};
use crate::model::category::CategorySet;

/// The plainest kinds of text wait. Odder text costs as much together as alone, and a database of seconds to compile.
pub(super) const REACH: Reach = Reach::Addresses;
/// Longest value that waits for others, in bytes.
pub(super) const TEXT_MAX: usize = 512;
/// Bytes of values that wait together; one more value may cross the bound.
const BYTES_MAX: usize = 4096;
/// Values that wait together.
const VALUES_MAX: usize = 128;
/// Values that are looked at alone rather than parted again.
const ALONE_MAX: usize = 2;
/// Values, in both halves of which something was seen, that are looked at alone.
const CROWD_MAX: usize = 16;
/// What stands behind each value, as [`side_by_side`] spells it. No value that waits holds it.
pub(super) const SEPARATOR: char = '\u{1}';

/// One value that waits.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    source: Source,
    kind: Kind,
    pub(super) categories: CategorySet,
    semantic: bool,
    name: Range<usize>,
    text: Range<usize>,
    /// Units of work its second looks spent.
    pub(super) units: Cell<u32>,
}

/// Values that wait for one scan.
#[derive(Debug, Default)]
pub(super) struct Batch {
    texts: String,
    names: String,
    entries: Vec<Entry>,
}

impl Batch {
    /// Adds a value. True when no more should be added.
    pub(super) fn add(&mut self, key: &Key<'_>) -> bool {
        let (name, text) = (self.names.len(), self.texts.len());
        self.names.push_str(key.name);
        self.texts.push_str(key.text);
        let (name, text) = (name..self.names.len(), text..self.texts.len());
        self.texts.push(SEPARATOR);
        let Key { source, kind, categories, semantic, .. } = *key;
        self.entries.push(Entry { source, kind, categories, semantic, name, text, units: Cell::new(0) });
        BYTES_MAX <= self.texts.len() || VALUES_MAX <= self.entries.len()
    }

    /// The values in which `may_match` sees something, in the order they came in: what was noted of each, its place, its
    /// text. It is asked about ever smaller groups of values that stand side by side.
    pub(super) fn suspects<'b>(
        &'b self,
        may_match: &dyn Fn(&str) -> bool,
    ) -> SmallVec<[(&'b Entry, Context<'b>, &'b str); 4]> {
        let mut suspects = SmallVec::new();
        if may_match(self.together(&self.entries)) {
            self.part(&self.entries, may_match, &mut suspects);
        }
        suspects
    }

    /// Parts values in which `may_match` saw something.
    fn part<'b>(
        &'b self,
        entries: &'b [Entry],
        may_match: &dyn Fn(&str) -> bool,
        suspects: &mut SmallVec<[(&'b Entry, Context<'b>, &'b str); 4]>,
    ) {
        let (left, right) = entries.split_at(entries.len() / 2);
        let is_alone = entries.len() <= ALONE_MAX;
        let found =
            if is_alone { (true, true) } else { [left, right].map(|half| may_match(self.together(half))).into() };
        // Where something is everywhere, parting is in vain.
        if found == (true, true) && entries.len() <= CROWD_MAX {
            suspects.extend(entries.iter().map(|entry| self.value(entry)));
            return;
        }
        if found.0 {
            self.part(left, may_match, suspects);
        }
        if found.1 {
            self.part(right, may_match, suspects);
        }
    }

    /// The texts of values that stand side by side.
    fn together(&self, entries: &[Entry]) -> &str {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return "" };
        self.texts.get(first.text.start..last.text.end).unwrap_or_default()
    }

    /// True when nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn value<'b>(&'b self, entry: &'b Entry) -> (&'b Entry, Context<'b>, &'b str) {
        let name = self.names.get(entry.name.clone()).unwrap_or_default();
        let text = self.texts.get(entry.text.clone()).unwrap_or_default();
        (entry, Context::new(entry.source, name).of_kind(entry.kind), text)
    }

    /// The values as recall knows them, and what each of them spent.
    pub(super) fn keys(&self, epoch: Epoch) -> impl Iterator<Item = (Key<'_>, u32)> {
        self.entries.iter().map(move |entry| {
            let key = Key {
                epoch,
                source: entry.source,
                kind: entry.kind,
                categories: entry.categories,
                semantic: entry.semantic,
                name: self.names.get(entry.name.clone()).unwrap_or_default(),
                text: self.texts.get(entry.text.clone()).unwrap_or_default(),
            };
            (key, entry.units.get())
        })
    }

    /// Forgets all values and keeps the room they took.
    pub(super) fn clear(&mut self) {
        self.texts.clear();
        self.names.clear();
        self.entries.clear();
    }
}

thread_local! {
    /// Room for the next walk of this thread: at most a few times [`BYTES_MAX`].
    static ROOM: Cell<Option<Box<Batch>>> = const { Cell::new(None) };
}

impl Batch {
    /// An empty one, with the room that the walk before left.
    pub(super) fn borrow() -> Box<Self> {
        ROOM.take().unwrap_or_default()
    }

    /// Leaves the room to the next walk.
    pub(super) fn give_back(mut self: Box<Self>) {
        self.clear();
        ROOM.set(Some(self));
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
            '^' => replaced("(?:^|\\x01)", &mut out),
            '$' => replaced("(?:$|\\x01)", &mut out),
            '.' if flags.dotall => replaced(ANYTHING, &mut out),
            '.' => replaced("[^\\x01\\n]", &mut out),
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
const ANYTHING: &str = "[^\\x01]";

/// Writes what stands for one character. How many bytes that one took.
fn replaced(by: &str, out: &mut String) -> usize {
    out.push_str(by);
    1
}

/// An escape outside of classes; how many bytes it took. `None` for quoting and for what moves a match's start.
fn escape(rest: &str, out: &mut String) -> Option<usize> {
    let escaped = rest.chars().nth(1)?;
    match escaped {
        'A' => out.push_str("(?:\\A|\\x01)"),
        'z' | 'Z' => out.push_str("(?:\\z|\\x01)"),
        'Q' | 'E' | 'G' | 'K' => return None,
        escaped => out.extend(['\\', escaped]),
    }
    Some(1 + escaped.len_utf8())
}

/// A class of characters; how many bytes it took. A negated one leaves out separators.
fn class(rest: &str, out: &mut String) -> Option<usize> {
    if rest.starts_with(EVERYTHING) {
        out.push_str(ANYTHING);
        return Some(EVERYTHING.len());
    }
    let mut at = 1;
    out.push('[');
    if rest.get(at..)?.starts_with('^') {
        out.push_str("^\\x01");
        at += 1;
    }
    // A bracket right behind the opening, or behind its negation, is a member.
    if rest.get(at..)?.starts_with(']') {
        out.push_str("\\]");
        at += 1;
    }
    loop {
        let char = rest.get(at..)?.chars().next()?;
        out.push(char);
        at += char.len_utf8();
        match char {
            ']' => return Some(at),
            '[' if rest.get(at..)?.starts_with([':', '.', '=']) => return None,
            '\\' => {
                let escaped = rest.get(at..)?.chars().next()?;
                if matches!(escaped, 'Q' | 'E') {
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
    fn anchors_hold_at_separators_and_nothing_runs_past_one() {
        let dotall = Flags { dotall: true, ..Flags::default() };
        for (pattern, expected) in [
            (r"^a$", Some(r"(?:^|\x01)a(?:$|\x01)")),
            (r"\Aa(?:b|\z)", Some(r"(?:\A|\x01)a(?:b|(?:\z|\x01))")),
            (r"a.b", Some(r"a[^\x01\n]b")),
            (r"a[\s\S]*[^b]\.", Some(r"a[^\x01]*[^\x01b]\.")),
            (r"[\\Az.$^]\\z", Some(r"[\\Az.$^]\\z")),
            (r"[^]\]A]\Z", Some(r"[^\x01\]\]A](?:\z|\x01)")),
            (r"(?i)a", None),
            (r"(?-m:^a)", None),
            (r"[[:alpha:]]", None),
            (r"\Qa\E", None),
        ] {
            assert_eq!(side_by_side(pattern, Flags::default()).as_deref(), expected, "{pattern}");
        }
        assert_eq!(side_by_side("a.b", dotall).as_deref(), Some(r"a[^\x01]b"));
    }
}
