//! Values that were found clean a moment ago. Clients say the same things with every request: their name, what they
//! accept, their cookies, the keys of their documents.
//!
//! Each thread keeps a table of its own. A value is recalled only when every byte of it, its place and every setting that
//! its verdict depends on are the same, its name, too, when a second look asked for it; so nobody can make one value pass
//! for another. What collides is scanned again.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher};

use crate::detect::work::Spent;
use crate::detect::{Context, Kind, Lens, Source};
use crate::model::category::CategorySet;

/// Longest text that is kept, in bytes.
const TEXT_MAX: usize = 1024;
/// Longest name that is kept, in bytes.
const NAME_MAX: usize = 64;
/// Sets of places in one thread's table, a power of two.
const SETS: usize = 256;
/// Values kept by each set: what repeats in every request must not push each other out. At most 1.2 MiB in all.
const WAYS: usize = 4;

/// What a verdict depends on besides the text and its place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Epoch {
    /// The detector, by a number that no other detector of this process has.
    pub(super) detector: u64,
    /// Bits of the semantic threshold.
    pub(super) semantic: u64,
}

/// One value in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub(super) epoch: Epoch,
    pub(super) source: Source,
    pub(super) kind: Kind,
    pub(super) categories: CategorySet,
    pub(super) semantic: bool,
    pub(super) name: &'a str,
    pub(super) text: &'a str,
}

impl<'a> Key<'a> {
    /// `None` for what is not kept.
    pub(super) fn new(epoch: Epoch, context: &'a Context<'_>, text: &'a str, lens: &Lens<'_>) -> Option<Self> {
        (text.len() <= TEXT_MAX && context.name.len() <= NAME_MAX).then_some(Self {
            epoch,
            source: context.source,
            kind: context.kind,
            categories: lens.categories,
            semantic: lens.semantic,
            name: &context.name,
            text,
        })
    }

    fn digest(&self, hasher: &foldhash::fast::RandomState) -> u64 {
        let mut hasher = hasher.build_hasher();
        hasher.write(self.text.as_bytes());
        hasher.write_u32((self.kind as u32) << 8 | self.source.index() as u32);
        hasher.finish()
    }
}

/// The places that a value may take by its digest. What is seen once leaves its digest only: it takes the place of nothing
/// that repeats.
#[derive(Debug, Default)]
struct Set {
    /// Digests of clean values that came once, the oldest next to go.
    seen: [u64; WAYS],
    oldest: usize,
    slots: [Slot; WAYS],
    /// Where a place is looked for next.
    hand: usize,
}

#[derive(Debug, Default)]
struct Slot {
    digest: u64,
    /// Asked for since the hand passed.
    is_recent: bool,
    held: Option<Held>,
}

impl Set {
    fn clean(&mut self, digest: u64, key: &Key<'_>) -> Option<usize> {
        let slot = self.slots.iter_mut().find(|slot| slot.digest == digest)?;
        let units = slot.held.as_ref().filter(|held| held.is(key))?.spent.units;
        slot.is_recent = true;
        Some(units)
    }

    fn note_clean(&mut self, digest: u64, key: &Key<'_>, spent: Spent) {
        let known = self.slots.iter().position(|slot| slot.digest == digest);
        let is_repeated = known.is_some() || self.seen.contains(&digest);
        if !is_repeated {
            let oldest = self.oldest % WAYS;
            self.oldest = oldest + 1;
            self.seen.iter_mut().skip(oldest).take(1).for_each(|seen| *seen = digest);
            return;
        }
        let index = known.unwrap_or_else(|| self.place());
        if let Some(slot) = self.slots.get_mut(index) {
            let bytes = slot.held.take().map(|held| held.bytes).unwrap_or_default();
            *slot = Slot { digest, is_recent: true, held: Some(Held::of(key, spent, bytes)) };
        }
    }

    /// The next place that nobody asked for since the hand passed it.
    fn place(&mut self) -> usize {
        for _ in 0..WAYS {
            self.hand = (self.hand + 1) % WAYS;
            match self.slots.get_mut(self.hand) {
                Some(slot) if slot.is_recent => slot.is_recent = false,
                _ => break,
            }
        }
        self.hand
    }
}

#[derive(Debug)]
struct Held {
    epoch: Epoch,
    source: Source,
    kind: Kind,
    categories: CategorySet,
    semantic: bool,
    name_length: usize,
    spent: Spent,
    /// The name, where the verdict depends on it, then the text.
    bytes: Vec<u8>,
}

impl Held {
    fn is(&self, key: &Key<'_>) -> bool {
        let name = if self.spent.is_by_name { key.name } else { "" };
        self.epoch == key.epoch
            && self.source == key.source
            && self.kind == key.kind
            && self.categories == key.categories
            && self.semantic == key.semantic
            && self.name_length == name.len()
            && self.bytes.len() == name.len() + key.text.len()
            && self.bytes.starts_with(name.as_bytes())
            && self.bytes.ends_with(key.text.as_bytes())
    }

    /// Takes the key's value over into `bytes`.
    fn of(key: &Key<'_>, spent: Spent, mut bytes: Vec<u8>) -> Self {
        let name = if spent.is_by_name { key.name } else { "" };
        bytes.clear();
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(key.text.as_bytes());
        Self {
            epoch: key.epoch,
            source: key.source,
            kind: key.kind,
            categories: key.categories,
            semantic: key.semantic,
            name_length: name.len(),
            spent,
            bytes,
        }
    }
}

struct Table {
    hasher: foldhash::fast::RandomState,
    sets: Vec<Set>,
}

impl Table {
    /// The set of a value, and its digest.
    fn set(&mut self, key: &Key<'_>) -> Option<(&mut Set, u64)> {
        let digest = key.digest(&self.hasher);
        self.sets.get_mut(digest as usize % SETS).map(|set| (set, digest))
    }
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table {
        hasher: foldhash::fast::RandomState::default(),
        sets: (0..SETS).map(|_| Set::default()).collect(),
    });
}

/// The units of work that this very value took when it was found clean before; `None` when it was not.
pub(super) fn clean(key: &Key<'_>) -> Option<usize> {
    TABLE.with_borrow_mut(|table| {
        let (set, digest) = table.set(key)?;
        set.clean(digest, key)
    })
}

/// Notes that a value is clean, and what it took to know; the second time it is kept.
pub(super) fn note_clean(key: &Key<'_>, spent: Spent) {
    TABLE.with_borrow_mut(|table| {
        if let Some((set, digest)) = table.set(key) {
            set.note_clean(digest, key, spent);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::extract::place::Place;

    fn lens() -> Lens<'static> {
        let place = Place::default();
        Lens { categories: CategorySet::DETECTION, semantic: true, literal: false, place }
    }

    #[test]
    fn a_value_is_recalled_only_when_everything_is_the_same() {
        let epoch = Epoch { detector: u64::MAX, semantic: 1 };
        let context = Context::new(Source::Header, "accept");
        let key = Key::new(epoch, &context, "text/html", &lens()).unwrap();
        let spent = Spent { units: 7, is_by_name: true };
        note_clean(&key, spent);
        assert_eq!(clean(&key), None, "seen once");
        note_clean(&key, spent);
        assert_eq!(clean(&key), Some(7), "seen twice");
        let other_name = Context::new(Source::Header, "accepttext");
        let other_source = Context::new(Source::Query, "accept");
        let other_kind = context.clone().of_kind(Kind::Name);
        let narrow =
            Lens { categories: CategorySet::DETECTION.without(crate::model::category::Category::XSS), ..lens() };
        for other in [
            Key::new(epoch, &context, "text/htm", &lens()),
            Key::new(epoch, &other_name, "/html", &lens()),
            Key::new(epoch, &other_source, "text/html", &lens()),
            Key::new(epoch, &other_kind, "text/html", &lens()),
            Key::new(epoch, &context, "text/html", &narrow),
            Key::new(epoch, &context, "text/html", &Lens { semantic: false, ..lens() }),
            Key::new(Epoch { semantic: 2, ..epoch }, &context, "text/html", &lens()),
            Key::new(Epoch { detector: 1, ..epoch }, &context, "text/html", &lens()),
        ] {
            assert_eq!(clean(&other.unwrap()), None, "{other:?}");
        }
    }

    #[test]
    fn a_verdict_that_nobody_asked_the_name_for_holds_under_any_name() {
        let epoch = Epoch { detector: u64::MAX, semantic: 4 };
        let names = ["a", "b", ""].map(|name| Context::new(Source::Query, name));
        let [first, second, third] = names.each_ref().map(|context| Key::new(epoch, context, "red", &lens()).unwrap());
        note_clean(&first, Spent { units: 5, is_by_name: false });
        note_clean(&second, Spent { units: 5, is_by_name: false });
        assert_eq!((clean(&first), clean(&third)), (Some(5), Some(5)));
        note_clean(&first, Spent { units: 6, is_by_name: true });
        assert_eq!((clean(&first), clean(&third)), (Some(6), None));
    }

    #[test]
    fn what_repeats_is_recalled_whatever_its_digests_are() {
        let context = Context::new(Source::Header, "cookie");
        let hot: Vec<String> = (0..48).map(|number| format!("hot {number}")).collect();
        for detector in 1..40 {
            // A number for each round: the digests fall anew, as in another thread.
            let epoch = Epoch { detector: u64::MAX - detector, semantic: 3 };
            let texts: Vec<String> = hot.iter().map(|text| format!("{text} {detector}")).collect();
            let is_clean = |text: &str| clean(&Key::new(epoch, &context, text, &lens()).unwrap()).is_some();
            let note = |text: &str| note_clean(&Key::new(epoch, &context, text, &lens()).unwrap(), Spent::default());
            for pass in 0..6 {
                texts.iter().filter(|text| !is_clean(text)).for_each(|text| note(text));
                // Values that come once stand between.
                (0..100).for_each(|once| note(&format!("once {pass} {once}")));
            }
            let recalled = texts.iter().filter(|text| is_clean(text)).count();
            assert!(44 <= recalled, "{recalled} of 48 in round {detector}");
        }
    }

    #[test]
    fn long_texts_and_names_are_not_kept() {
        let (epoch, context) = (Epoch::default(), Context::new(Source::Query, "q"));
        assert!(Key::new(epoch, &context, &"x".repeat(TEXT_MAX), &lens()).is_some());
        assert!(Key::new(epoch, &context, &"x".repeat(TEXT_MAX + 1), &lens()).is_none());
        assert!(Key::new(epoch, &Context::new(Source::Query, "n".repeat(NAME_MAX + 1)), "x", &lens()).is_none());
    }
}
