//! The one door to time: nobody else may ask what time it is. The edge reads it once per request and passes it down.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::detect::Meter;
use crate::model::time::Timestamp;

/// Bits of the latest timestamp handed out. Positive doubles order like their bits.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// The wall clock, strictly increasing over all threads of the process: no two requests get the same moment, and a
/// clock that is set back stands still (one double at a time) until it has caught up.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn now() -> Timestamp {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64().to_bits();
    let mut latest = LATEST.load(Ordering::Relaxed);
    loop {
        let next = wall.max(latest + 1);
        match LATEST.compare_exchange_weak(latest, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Timestamp(f64::from_bits(next)),
            Err(seen) => latest = seen,
        }
    }
}

/// A monotonic moment, for measuring.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn instant() -> Instant {
    Instant::now()
}

/// The time that one request's detection may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    deadline: Option<Instant>,
}

impl Budget {
    /// A budget of `limit` from `start` on; one beyond the end of time is none.
    #[must_use]
    pub fn new(start: Instant, limit: Duration) -> Self {
        Self { deadline: start.checked_add(limit) }
    }
}

impl Meter for Budget {
    fn is_spent(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= instant())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_threads_get_the_same_moment() {
        let mut stamps: Vec<Vec<u64>> = vec![Vec::new(); 4];
        std::thread::scope(|scope| {
            for thread in &mut stamps {
                scope.spawn(|| thread.extend((0..10_000).map(|_| now().0.to_bits())));
            }
        });
        for thread in &stamps {
            assert!(thread.is_sorted_by(|a, b| a < b), "increases within a thread");
        }
        let distinct: BTreeSet<_> = stamps.iter().flatten().collect();
        assert_eq!(distinct.len(), 40_000);
    }

    #[test]
    fn the_clock_shows_the_wall_time() {
        #[expect(clippy::disallowed_methods, reason = "the test compares the door with what lies behind it")]
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now().0 - wall).abs() < 1.0);
    }

    #[test]
    fn a_budget_is_spent_at_its_end_and_not_before() {
        let start = instant();
        assert!(!Budget::new(start, Duration::from_secs(3600)).is_spent());
        assert!(Budget::new(start, Duration::ZERO).is_spent());
        assert!(!Budget::new(start, Duration::MAX).is_spent(), "no deadline can be computed, so there is none");
    }
}
