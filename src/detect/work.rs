//! How much work the second looks of one request may cause: a count of bytes read, no clock, so that the same request has
//! the same verdict on every machine, at any load, and whatever came before it.
//!
//! Grammars read through a few functions that note how far they read on ([`read`]); whoever walks over candidates asks at
//! each whether to go on ([`Work::goes_on`]), and that is when it is paid for. Honest requests need far less than the bound
//! (`docs/performance.md` has the margin); one that spends it is made of little but bait, and spending it is a finding of
//! its own.

use std::cell::Cell;

/// Units every request may spend: bytes read by second looks, weighed by what is done with them.
const BASE: usize = 8 * 1024;
/// Units more for each byte of the request.
const PER_BYTE: usize = 14;
/// Bytes that are searched for one byte in the time that reading one takes.
const FAST: usize = 16;

thread_local! {
    /// What grammars have read on this thread since it was paid for last.
    static READ: Cell<usize> = const { Cell::new(0) };
}

/// Notes that so many bytes were read on from a place, one by one.
#[inline]
pub(crate) fn read(bytes: usize) {
    READ.set(READ.get().saturating_add(bytes));
}

/// Notes that so many bytes were searched, many at a time.
#[inline]
pub(crate) fn read_fast(bytes: usize) {
    read(bytes / FAST);
}

/// What is left for one request.
#[derive(Debug)]
pub(crate) struct Work {
    all: Cell<usize>,
    spent: Cell<usize>,
    is_spent: Cell<bool>,
    /// A second look asked for a value's name since somebody wanted to know.
    is_name_asked: Cell<bool>,
}

/// What the second looks at one value took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Spent {
    /// Units of work: the value costs a request the same whether it is recalled or not.
    pub(crate) units: usize,
    /// They depend on the value's name.
    pub(crate) is_by_name: bool,
}

impl Work {
    /// For a request of so many bytes. What was read before on this thread is nobody's.
    pub(crate) fn of(bytes: usize) -> Self {
        READ.set(0);
        let all = BASE.saturating_add(PER_BYTE.saturating_mul(bytes));
        Self { all: Cell::new(all), spent: Cell::new(0), is_spent: Cell::new(false), is_name_asked: Cell::new(false) }
    }

    /// Adds to what may be spent: the request turned out to hold so many bytes more.
    pub(crate) fn grow(&self, bytes: usize) {
        self.all.set(self.all.get().saturating_add(PER_BYTE.saturating_mul(bytes)));
    }

    /// Takes `units`, and pays for what was read. False when that is more than is left, from then on for good: the caller
    /// stops, and whoever asked it finds the work spent.
    pub(crate) fn take(&self, units: usize) -> bool {
        let spent = self.spent.get().saturating_add(units).saturating_add(READ.take());
        self.spent.set(spent);
        if self.all.get() < spent {
            self.is_spent.set(true);
        }
        !self.is_spent.get()
    }

    /// True when so many units are left.
    pub(crate) fn affords(&self, units: usize) -> bool {
        !self.is_spent() && self.spent.get().saturating_add(units).saturating_add(READ.get()) <= self.all.get()
    }

    /// Pays for what was read. False when it was too much.
    pub(crate) fn goes_on(&self) -> bool {
        self.take(0)
    }

    /// Notes that a second look asked for the value's name.
    pub(crate) fn note_name(&self) {
        self.is_name_asked.set(true);
    }

    /// What `look` takes, and what it says.
    pub(crate) fn spent_by<R>(&self, look: impl FnOnce() -> R) -> (R, Spent) {
        let before = self.spent.get();
        self.is_name_asked.set(false);
        let said = look();
        (said, Spent { units: self.spent.get() - before, is_by_name: self.is_name_asked.get() })
    }

    /// Gives all of it again, once it was spent.
    pub(crate) fn renew(&self) {
        if self.is_spent.replace(false) {
            self.spent.set(0);
        }
    }

    /// True once more was asked for than was left.
    pub(crate) const fn is_spent(&self) -> bool {
        self.is_spent.get()
    }

    /// Units spent so far.
    pub(crate) const fn spent(&self) -> usize {
        self.spent.get()
    }

    /// Units spent, and units there were.
    pub(crate) const fn share(&self) -> (usize, usize) {
        (self.spent.get(), self.all.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_at_its_bound_and_stays_ended() {
        let all = BASE + 10 * PER_BYTE;
        let work = Work::of(10);
        assert!(work.take(all - 1) && work.take(1) && work.goes_on() && !work.is_spent(), "up to the bound");
        assert_eq!(work.share(), (all, all));
        assert!(work.affords(0) && !work.affords(1));
        assert!(!work.take(1) && work.is_spent(), "one more");
        assert!(!work.affords(0), "for good");
        let work = Work::of(10);
        assert!(!work.take(all + 1) && !work.take(0), "nothing is left after too much was asked for");
    }

    #[test]
    fn what_was_read_is_paid_for_once_and_by_nobody_else() {
        read(5);
        let work = Work::of(0);
        read(3);
        read_fast(4 * FAST);
        assert!(work.take(10) && work.goes_on());
        assert_eq!(work.share(), (3 + 4 + 10, BASE));
        read(BASE);
        assert!(!work.goes_on(), "reading spends it");
    }

    #[test]
    fn longer_requests_may_cause_more() {
        let all = |bytes| Work::of(bytes).share().1;
        assert!((0..5000).all(|bytes| all(bytes) < all(bytes + 1)));
        let grown = Work::of(10);
        grown.grow(90);
        assert_eq!(grown.share().1, all(100));
        assert_eq!(all(usize::MAX), usize::MAX, "no overflow");
    }
}
