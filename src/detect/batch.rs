//! Many short values in one scan: values that every view shows as they were sent are put into one buffer, a line each, and
//! scanned together. A scan costs about the same for ten bytes as for a hundred, and nearly always nothing is found.
//!
//! The rows are read line by line for this (see [`by_line`]): they find at least what they find in each value alone. When
//! a row finds something in the buffer, every value of it is looked at alone, as if there were no buffer.

use std::cell::Cell;
use std::ops::Range;

use crate::detect::recall::{Epoch, Key};
use crate::detect::rows::Flags;
use crate::detect::{Context, Kind, Source};
use crate::model::category::CategorySet;

/// Longest value that waits for others, in bytes.
pub(super) const TEXT_MAX: usize = 512;
/// Bytes of values that wait together; one more value may cross the bound.
const BYTES_MAX: usize = 4096;
/// Values that wait together.
const VALUES_MAX: usize = 128;
/// What stands between two values. No value that waits holds it: it would be evened out in one of the views.
const SEPARATOR: char = '\n';

/// One value that waits.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    source: Source,
    kind: Kind,
    pub(super) categories: CategorySet,
    semantic: bool,
    name: Range<usize>,
    text: Range<usize>,
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
        self.entries.push(Entry { source, kind, categories, semantic, name, text });
        BYTES_MAX <= self.texts.len() || VALUES_MAX <= self.entries.len()
    }

    /// All values, each on a line of its own.
    pub(super) fn texts(&self) -> &str {
        &self.texts
    }

    /// True when nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The values in the order they came in: what was noted of each, its place, its text.
    pub(super) fn values(&self) -> impl Iterator<Item = (&Entry, Context<'_>, &str)> {
        self.entries.iter().map(|entry| {
            let name = self.names.get(entry.name.clone()).unwrap_or_default();
            let text = self.texts.get(entry.text.clone()).unwrap_or_default();
            (entry, Context::new(entry.source, name).of_kind(entry.kind), text)
        })
    }

    /// The values as recall knows them.
    pub(super) fn keys(&self, epoch: Epoch) -> impl Iterator<Item = Key<'_>> {
        self.entries.iter().map(move |entry| Key {
            epoch,
            source: entry.source,
            kind: entry.kind,
            categories: entry.categories,
            semantic: entry.semantic,
            name: self.names.get(entry.name.clone()).unwrap_or_default(),
            text: self.texts.get(entry.text.clone()).unwrap_or_default(),
        })
    }

    /// Forgets all values and keeps the room they took.
    pub(super) fn clear(&mut self) {
        self.texts.clear();
        self.names.clear();
        self.entries.clear();
    }
}

/// The batches of one walk: of values without unusual signs, and of all others. What is found in one is not looked for
/// in the other.
#[derive(Debug, Default)]
pub(super) struct Batches {
    pub(super) plain: Batch,
    pub(super) odd: Batch,
}

thread_local! {
    /// Room for the next walk of this thread: at most a few times [`BYTES_MAX`].
    static ROOM: Cell<Option<Box<Batches>>> = const { Cell::new(None) };
}

impl Batches {
    /// Empty ones, with the room that the walk before left.
    pub(super) fn borrow() -> Box<Self> {
        ROOM.take().unwrap_or_default()
    }

    /// Leaves the room to the next walk.
    pub(super) fn give_back(mut self: Box<Self>) {
        self.plain.clear();
        self.odd.clear();
        ROOM.set(Some(self));
    }
}

/// A row's expression for a buffer with a value on each line: what it finds in a value that stands alone it finds in the
/// value's line as well. `^` and `$` hold at line ends, and so do the anchors of the whole text, which become these. A
/// line end is no word, so word boundaries at a value's ends stay. `None` for what may be read otherwise.
pub(super) fn by_line(pattern: &str, flags: Flags) -> Option<(String, Flags)> {
    let mut lines = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    let mut in_class = false;
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next()? {
                'A' if !in_class => lines.push('^'),
                'z' | 'Z' if !in_class => lines.push('$'),
                'Q' | 'E' | 'G' | 'K' => return None,
                escaped => lines.extend(['\\', escaped]),
            },
            '[' if !in_class => {
                in_class = true;
                lines.push('[');
                // A bracket right behind the opening, or behind its negation, is a member.
                let mut rest = chars.clone();
                let mut next = rest.next();
                if next == Some('^') {
                    lines.push('^');
                    chars = rest.clone();
                    next = rest.next();
                }
                if next == Some(']') {
                    lines.push(']');
                    chars = rest;
                }
            }
            ']' if in_class => {
                in_class = false;
                lines.push(']');
            }
            '(' if !in_class => {
                // Of all groups with a question mark, only the one without a name or flags is sure to mean the same.
                if chars.as_str().starts_with('?') && !chars.as_str().starts_with("?:") {
                    return None;
                }
                if chars.as_str().starts_with('*') {
                    return None;
                }
                lines.push('(');
            }
            char => lines.push(char),
        }
    }
    Some((lines, Flags { multiline: true, ..flags }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_hold_at_lines() {
        let lines = |pattern: &str| by_line(pattern, Flags::default()).map(|(pattern, _)| pattern);
        for (pattern, expected) in [
            (r"^a$", Some("^a$")),
            (r"\Aa(?:b|\z)", Some("^a(?:b|$)")),
            (r"[\\Az(?i]\\z", Some(r"[\\Az(?i]\\z")),
            (r"[^]\]A]\Z", Some(r"[^]\]A]$")),
            (r"(?i)a", None),
            (r"(?-m:^a)", None),
            (r"\Qa\E", None),
        ] {
            assert_eq!(lines(pattern).as_deref(), expected, "{pattern}");
        }
    }
}
