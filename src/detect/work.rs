//! How much work the second looks at one value may cause: a count of bytes read, no clock, so that the same value has the
//! same verdict on every machine and at any load.
//!
//! Each second look reads a text once; that is linear and free. What it reads ahead of candidates within the text is
//! paid for here. Honest values need far less than the bound (`docs/performance.md` has the margin); a value that spends
//! it is made of little but bait, and spending it is a finding of its own.

use std::cell::Cell;

/// Units every value may spend: bytes read ahead of candidates, weighed by what is done with them.
const BASE: usize = 16 * 1024;
/// Units more for each byte of the value.
const PER_BYTE: usize = 12;

/// What is left for one value.
#[derive(Debug)]
pub(crate) struct Work {
    all: usize,
    left: Cell<usize>,
    is_spent: Cell<bool>,
}

impl Work {
    /// For a value of so many bytes.
    pub(crate) const fn of(bytes: usize) -> Self {
        let all = BASE + PER_BYTE * bytes;
        Self { all, left: Cell::new(all), is_spent: Cell::new(false) }
    }

    /// Takes `units`. False when fewer are left, from then on for good: the caller stops, and whoever asked it finds
    /// the work spent.
    pub(crate) fn take(&self, units: usize) -> bool {
        match self.left.get().checked_sub(units) {
            Some(left) if !self.is_spent.get() => {
                self.left.set(left);
                true
            }
            _ => {
                self.is_spent.set(true);
                false
            }
        }
    }

    /// True once more was asked for than was left.
    pub(crate) const fn is_spent(&self) -> bool {
        self.is_spent.get()
    }

    /// Units spent, and units there were.
    pub(crate) const fn share(&self) -> (usize, usize) {
        (self.all - self.left.get(), self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_at_its_bound_and_stays_ended() {
        let all = BASE + 10 * PER_BYTE;
        let work = Work::of(10);
        assert!(work.take(all - 1) && work.take(1) && !work.is_spent(), "up to the bound");
        assert_eq!(work.share(), (all, all));
        assert!(!work.take(1) && work.is_spent(), "one more");
        let work = Work::of(10);
        assert!(!work.take(all + 1) && !work.take(1), "nothing is left after too much was asked for");
    }
}
