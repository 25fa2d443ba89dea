//! Sorted keys that are found in a few steps: a table of beginnings, then a search among the few keys left.

use std::fmt;

/// Bits of the table at most: a million beginnings, 4 MiB.
const BITS_MAX: u32 = 20;

/// An address as a number.
pub(crate) trait Key: Copy + Ord + Default + fmt::Debug {
    /// `self` less `base`, without the lowest `shift` bits; as large as can be when that is too large for a table.
    fn place(self, base: Self, shift: u32) -> usize;
    /// Bits that are needed for the number `self` less `base`.
    fn bits_above(self, base: Self) -> u32;
    /// True when both have the same first `len` bits.
    fn shares(self, other: Self, len: u8) -> bool;
    /// The last address that has the same first `len` bits.
    fn end(self, len: u8) -> Self;
}

macro_rules! key {
    ($number:ty) => {
        impl Key for $number {
            fn place(self, base: Self, shift: u32) -> usize {
                let offset = self.wrapping_sub(base).checked_shr(shift).unwrap_or_default();
                usize::try_from(offset).unwrap_or(usize::MAX)
            }

            fn bits_above(self, base: Self) -> u32 {
                Self::BITS - self.wrapping_sub(base).leading_zeros()
            }

            fn shares(self, other: Self, len: u8) -> bool {
                (self ^ other).checked_shr(Self::BITS - u32::from(len)).unwrap_or_default() == 0
            }

            fn end(self, len: u8) -> Self {
                self | Self::MAX.checked_shr(len.into()).unwrap_or_default()
            }
        }
    };
}

key!(u32);
key!(u128);

/// Different keys in ascending order. What finds them fast takes at most 8 bytes a key, and 4 MiB in all.
#[derive(Clone, Default)]
pub(crate) struct Sorted<K> {
    keys: Vec<K>,
    base: K,
    shift: u32,
    /// How many keys lie before each stretch of `1 << shift` numbers, from `base`; and at the end, all.
    before: Vec<u32>,
}

impl<K: Key> Sorted<K> {
    /// Keys in ascending order; equal ones may follow each other.
    pub(crate) fn new(keys: Vec<K>) -> Self {
        let (Some(first), Some(last)) = (keys.first().copied(), keys.last().copied()) else { return Self::default() };
        let wanted = keys.len().next_power_of_two().trailing_zeros().min(BITS_MAX);
        let shift = last.bits_above(first).saturating_sub(wanted);
        let mut before = Vec::with_capacity(last.place(first, shift) + 2);
        for (count, key) in (0..).zip(&keys) {
            // The keys before this one lie before the stretch of this one, too.
            let stretches = key.place(first, shift) + 1;
            if before.len() < stretches {
                before.resize(stretches, count);
            }
        }
        before.push(u32::try_from(keys.len()).unwrap_or(u32::MAX));
        Self { keys, base: first, shift, before }
    }

    /// The place of the last key that is not above `key`.
    pub(crate) fn last_up_to(&self, key: K) -> Option<usize> {
        if key < self.base {
            return None;
        }
        let place = key.place(self.base, self.shift);
        let end =
            self.before.get(place.saturating_add(1)).or_else(|| self.before.last()).map_or(0, |end| *end as usize);
        let start = self.before.get(place).map_or(end, |start| *start as usize);
        let among = self.keys.get(start..end)?;
        (start + among.partition_point(|known| *known <= key)).checked_sub(1)
    }

    /// The place of exactly `key`.
    pub(crate) fn find(&self, key: K) -> Option<usize> {
        self.last_up_to(key).filter(|at| self.get(*at) == Some(key))
    }

    /// The key at a place.
    pub(crate) fn get(&self, at: usize) -> Option<K> {
        self.keys.get(at).copied()
    }

    /// How many keys there are.
    pub(crate) const fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<K: Key>(mut keys: Vec<K>, asked: &[K]) {
        keys.sort_unstable();
        keys.dedup();
        let sorted = Sorted::new(keys.clone());
        assert!(sorted.before.len() <= 2 * keys.len().next_power_of_two() + 2, "the bound that is documented");
        for key in asked.iter().chain(&keys) {
            let expected = keys.iter().rposition(|known| known <= key);
            assert_eq!(sorted.last_up_to(*key), expected, "{key:?} in {keys:?}");
            assert_eq!(sorted.find(*key), keys.iter().position(|known| known == key));
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_look_at_all_finds(
            narrow in prop::collection::vec(0_u32..300, 0..60),
            wide in prop::collection::vec(any::<u32>(), 0..60),
            six in prop::collection::vec(any::<u128>(), 0..60),
            asked in prop::collection::vec(any::<u32>(), 0..20),
        ) {
            check(narrow.clone(), &asked);
            check([narrow, wide, vec![0, u32::MAX]].concat(), &asked);
            check(six, &asked.iter().map(|key| u128::from(*key) << 96).collect::<Vec<_>>());
        }
    }

    #[test]
    fn prefixes_share_their_first_bits() {
        assert!(0x0a00_0000_u32.shares(0x0aff_ffff, 8) && !0x0a00_0000_u32.shares(0x0b00_0000, 8));
        assert!(0_u32.shares(u32::MAX, 0) && !7_u32.shares(6, 32) && 7_u32.shares(7, 32));
        assert_eq!((0_u32.end(0), 0x0a00_0000_u32.end(8), 7_u32.end(32)), (u32::MAX, 0x0aff_ffff, 7));
        assert_eq!(0_u128.end(0), u128::MAX);
    }
}
