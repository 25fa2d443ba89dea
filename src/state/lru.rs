//! A map that remembers which entry was used least recently. Knows nothing of what it holds.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// No entry.
const NONE: u32 = u32::MAX;

/// How many entries all shards of one family may hold together.
///
/// Counting across shards keeps the bound exact without making any single shard evict while others have room.
#[derive(Debug)]
pub(super) struct Quota {
    used: AtomicUsize,
    evicted: AtomicU64,
    capacity: usize,
}

impl Quota {
    /// At most `capacity` entries.
    pub(super) const fn new(capacity: usize) -> Self {
        Self { used: AtomicUsize::new(0), evicted: AtomicU64::new(0), capacity }
    }

    /// Entries held now.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Entries that had to go before their time.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.capacity).then_some(n + 1)).is_ok()
    }

    fn give_back(&self, entries: usize) {
        self.used.fetch_sub(entries, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Node<K, V> {
    key: K,
    value: V,
    newer: u32,
    older: u32,
}

/// One shard of a family: entries in order of use, bounded by the family's [`Quota`].
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    index: HashTable<u32>,
    nodes: Vec<Node<K, V>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    hasher: RandomState,
}

impl<K, V> Default for Lru<K, V> {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            hasher: RandomState::default(),
        }
    }
}

impl<K: Copy + Eq + Hash, V: Default> Lru<K, V> {
    /// The entry of `key`, which becomes the most recently used.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key)?;
        self.unlink(at);
        self.link_newest(at);
        Some(&mut self.node(at).value)
    }

    /// The entry of `key`, made empty when there was none. A full family loses this shard's least recently used entry.
    /// A shard that holds nothing to give up takes its first entry all the same, so the bound of the family is
    /// exceeded by at most one entry for each shard.
    pub(super) fn get_or_default(&mut self, key: K, quota: &Quota) -> &mut V {
        let at = self.find(&key).unwrap_or_else(|| {
            if !quota.take() {
                quota.evicted.fetch_add(u64::from(self.oldest != NONE), Ordering::Relaxed);
                match self.oldest {
                    NONE => _ = quota.used.fetch_add(1, Ordering::Relaxed),
                    oldest => self.forget(oldest),
                }
            }
            self.add(key)
        });
        self.unlink(at);
        self.link_newest(at);
        &mut self.node(at).value
    }

    /// Takes the entry of `key` out.
    pub(super) fn remove(&mut self, key: &K, quota: &Quota) -> Option<V> {
        let at = self.find(key)?;
        let value = std::mem::take(&mut self.node(at).value);
        self.forget(at);
        quota.give_back(1);
        Some(value)
    }

    /// Takes every entry out.
    pub(super) fn clear(&mut self, quota: &Quota) {
        quota.give_back(self.index.len());
        *self = Self { hasher: self.hasher.clone(), ..Self::default() };
    }

    /// Entries from the most recently used on, without touching them.
    pub(super) fn newest(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut at = self.newest;
        std::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.older;
            Some((&node.key, &node.value))
        })
    }

    /// Entries held.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// All entries, in no order, without touching them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.index.iter().filter_map(|at| self.nodes.get(*at as usize)).map(|node| (&node.key, &node.value))
    }

    #[expect(clippy::indexing_slicing, reason = "links and the index hold only positions that `add` handed out")]
    fn node(&mut self, at: u32) -> &mut Node<K, V> {
        &mut self.nodes[at as usize]
    }

    fn find(&self, key: &K) -> Option<u32> {
        let same = |at: &u32| self.nodes.get(*at as usize).is_some_and(|node| node.key == *key);
        self.index.find(self.hasher.hash_one(key), same).copied()
    }

    /// Puts a new entry into the index, not yet into the order.
    fn add(&mut self, key: K) -> u32 {
        let node = Node { key, value: V::default(), newer: NONE, older: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                *self.node(at) = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let rehash = |at: &u32| nodes.get(*at as usize).map_or(0, |node| hasher.hash_one(node.key));
        self.index.insert_unique(hasher.hash_one(key), at, rehash);
        at
    }

    /// Takes an entry out of index and order; its place is used again.
    fn forget(&mut self, at: u32) {
        self.unlink(at);
        let node = self.node(at);
        node.value = V::default();
        let key = node.key;
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(key), |other| *other == at) {
            entry.remove();
        }
        self.free.push(at);
    }

    /// Takes an entry out of the order; one that is not in it stays out.
    fn unlink(&mut self, at: u32) {
        let node = self.node(at);
        let (newer, older) = (std::mem::replace(&mut node.newer, NONE), std::mem::replace(&mut node.older, NONE));
        match newer {
            NONE if self.newest == at => self.newest = older,
            NONE => {}
            newer => self.node(newer).older = older,
        }
        match older {
            NONE if self.oldest == at => self.oldest = newer,
            NONE => {}
            older => self.node(older).newer = newer,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        self.node(at).older = before;
        match before {
            NONE => self.oldest = at,
            before => self.node(before).newer = at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let (mut lru, quota) = (Lru::<u32, u32>::default(), Quota::new(2));
        *lru.get_or_default(1, &quota) = 10;
        *lru.get_or_default(2, &quota) = 20;
        assert_eq!(lru.get(&1).copied(), Some(10));
        *lru.get_or_default(3, &quota) = 30;
        assert_eq!((lru.get(&1).copied(), lru.get(&2).copied(), lru.get(&3).copied()), (Some(10), None, Some(30)));
        assert_eq!((quota.used(), quota.evicted()), (2, 1));
    }

    #[test]
    fn an_evicted_key_comes_back_empty() {
        let (mut lru, quota) = (Lru::<u32, u32>::default(), Quota::new(1));
        *lru.get_or_default(1, &quota) = 10;
        *lru.get_or_default(2, &quota) = 20;
        assert_eq!(*lru.get_or_default(1, &quota), 0);
    }

    #[test]
    fn a_full_family_still_admits_the_first_entry_of_an_empty_shard() {
        let (mut one, mut other, quota) = (Lru::<u32, u32>::default(), Lru::<u32, u32>::default(), Quota::new(1));
        *one.get_or_default(1, &quota) = 10;
        *other.get_or_default(2, &quota) = 20;
        *other.get_or_default(3, &quota) = 30;
        assert_eq!((one.get(&1).copied(), other.get(&2).copied(), other.get(&3).copied()), (Some(10), None, Some(30)));
        assert_eq!(quota.used(), 2);
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_in_order_of_use(steps in prop::collection::vec((0u8..3, 0u8..12), 0..400)) {
            const CAPACITY: usize = 6;
            let (mut lru, quota) = (Lru::<u8, u64>::default(), Quota::new(CAPACITY));
            let mut model: Vec<(u8, u64)> = Vec::new();
            for (number, (kind, key)) in (1u64..).zip(steps) {
                let position = model.iter().position(|(known, _)| *known == key);
                let entry = position.map(|at| model.remove(at));
                match kind {
                    0 => {
                        prop_assert_eq!(lru.get(&key).copied(), entry.map(|(_, value)| value));
                        model.extend(entry);
                    }
                    1 => {
                        prop_assert_eq!(lru.remove(&key, &quota), entry.map(|(_, value)| value));
                    }
                    _ => {
                        let value = lru.get_or_default(key, &quota);
                        prop_assert_eq!(*value, entry.map_or(0, |(_, value)| value));
                        *value = number;
                        if model.len() == CAPACITY {
                            model.remove(0);
                        }
                        model.push((key, number));
                    }
                }
                prop_assert_eq!(quota.used(), model.len());
                let mut held: Vec<_> = lru.iter().map(|(key, value)| (*key, *value)).collect();
                let mut expected = model.clone();
                let mut by_use: Vec<_> = lru.newest().map(|(key, value)| (*key, *value)).collect();
                by_use.reverse();
                prop_assert_eq!((&by_use, lru.len()), (&model, model.len()));
                held.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(held, expected);
            }
        }
    }
}
