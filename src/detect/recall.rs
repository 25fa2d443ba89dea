//! Values that were found clean a moment ago. Clients say the same things with every request: their name, what they
//! accept, their cookies, the keys of their documents.
//!
//! Each thread keeps a table of its own. A value is recalled only when every byte of it, its place and every setting that
//! its verdict depends on are the same, so nobody can make one value pass for another; what collides is scanned again.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher};

use crate::detect::{Context, Kind, Lens, Source};
use crate::model::category::CategorySet;

/// Longest text that is kept, in bytes.
const TEXT_MAX: usize = 1024;
/// Longest name that is kept, in bytes.
const NAME_MAX: usize = 64;
/// Values kept by one thread, a power of two: at most 1.2 MiB.
const SLOTS: usize = 1024;

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
        hasher.write(self.name.as_bytes());
        hasher.write(self.text.as_bytes());
        hasher.write_u32((self.kind as u32) << 8 | self.source.index() as u32);
        hasher.finish()
    }
}

/// A place for one value. What is seen once leaves its digest only: it takes the place of nothing that repeats.
#[derive(Debug, Default)]
struct Slot {
    /// Of the clean value that came last.
    seen: u64,
    /// Of the value held.
    digest: u64,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    epoch: Epoch,
    source: Source,
    kind: Kind,
    categories: CategorySet,
    semantic: bool,
    name_length: usize,
    /// Units of work that its second looks spent: it costs a request the same whether it is recalled or not.
    units: u32,
    /// The name, then the text.
    bytes: Vec<u8>,
}

impl Held {
    fn is(&self, key: &Key<'_>) -> bool {
        self.epoch == key.epoch
            && self.source == key.source
            && self.kind == key.kind
            && self.categories == key.categories
            && self.semantic == key.semantic
            && self.name_length == key.name.len()
            && self.bytes.len() == key.name.len() + key.text.len()
            && self.bytes.starts_with(key.name.as_bytes())
            && self.bytes.ends_with(key.text.as_bytes())
    }

    /// Takes the key's value over into `bytes`.
    fn of(key: &Key<'_>, units: u32, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.extend_from_slice(key.name.as_bytes());
        bytes.extend_from_slice(key.text.as_bytes());
        Self {
            epoch: key.epoch,
            source: key.source,
            kind: key.kind,
            categories: key.categories,
            semantic: key.semantic,
            name_length: key.name.len(),
            units,
            bytes,
        }
    }
}

struct Table {
    hasher: foldhash::fast::RandomState,
    slots: Vec<Slot>,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table {
        hasher: foldhash::fast::RandomState::default(),
        slots: (0..SLOTS).map(|_| Slot::default()).collect(),
    });
}

/// The units of work that this very value took when it was found clean before; `None` when it was not.
pub(super) fn clean(key: &Key<'_>) -> Option<u32> {
    TABLE.with_borrow(|table| {
        let digest = key.digest(&table.hasher);
        let slot = table.slots.get(digest as usize % SLOTS).filter(|slot| slot.digest == digest)?;
        slot.held.as_ref().filter(|held| held.is(key)).map(|held| held.units)
    })
}

/// Notes that a value is clean, and what it took to know; the second time it is kept.
pub(super) fn note_clean(key: &Key<'_>, units: u32) {
    TABLE.with_borrow_mut(|table| {
        let digest = key.digest(&table.hasher);
        let Some(slot) = table.slots.get_mut(digest as usize % SLOTS) else { return };
        if slot.seen == digest {
            let bytes = slot.held.take().map(|held| held.bytes).unwrap_or_default();
            *slot = Slot { seen: digest, digest, held: Some(Held::of(key, units, bytes)) };
        } else {
            slot.seen = digest;
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
        note_clean(&key, 7);
        assert_eq!(clean(&key), None, "seen once");
        note_clean(&key, 7);
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
    fn long_texts_and_names_are_not_kept() {
        let (epoch, context) = (Epoch::default(), Context::new(Source::Query, "q"));
        assert!(Key::new(epoch, &context, &"x".repeat(TEXT_MAX), &lens()).is_some());
        assert!(Key::new(epoch, &context, &"x".repeat(TEXT_MAX + 1), &lens()).is_none());
        assert!(Key::new(epoch, &Context::new(Source::Query, "n".repeat(NAME_MAX + 1)), "x", &lens()).is_none());
    }
}
