//! A circuit breaker: after repeated failures nobody waits for a store that does not answer. Knows nothing of the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
/// How long the breaker stays open at first, and at most.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A probe that has not reported by then was abandoned; the next caller probes.
const PROBE_LEASE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Calls pass; so many failed in a row.
    Closed(u32),
    /// No call passes before `until`.
    Open { until: Instant, wait: Duration },
    /// One call is finding out, since then.
    Probing { since: Instant, wait: Duration },
}

/// Stops calls to a store that keeps failing, and lets one through from time to time.
#[derive(Debug)]
pub(super) struct Breaker {
    phase: Mutex<Phase>,
    opened: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { phase: Mutex::new(Phase::Closed(0)), opened: AtomicU64::new(0) }
    }
}

impl Breaker {
    /// True when a call may be made `now`. Whoever is let through reports `succeeded` or `failed`.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut phase = self.lock();
        let (due, wait) = match *phase {
            Phase::Closed(_) => return true,
            Phase::Open { until, wait } => (until, wait),
            Phase::Probing { since, wait } => (since + PROBE_LEASE, wait),
        };
        if now < due {
            return false;
        }
        *phase = Phase::Probing { since: now, wait };
        true
    }

    /// True while calls pass freely.
    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.lock(), Phase::Closed(_))
    }

    /// How often the breaker has opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A call was answered; true when that closes the breaker.
    pub(super) fn succeeded(&self) -> bool {
        !matches!(std::mem::replace(&mut *self.lock(), Phase::Closed(0)), Phase::Closed(_))
    }

    /// A call was answered, which does not show that the calls that failed would be: nothing changes, but others may probe.
    pub(super) fn inconclusive(&self, now: Instant) {
        let mut phase = self.lock();
        if let Phase::Probing { wait, .. } = *phase {
            *phase = Phase::Open { until: now + jittered(wait), wait };
        }
    }

    /// A call was not answered; true when that opens the breaker, after it was closed.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let mut phase = self.lock();
        let was_closed = matches!(*phase, Phase::Closed(_));
        *phase = match *phase {
            Phase::Closed(failures) if failures + 1 < FAILURES_MAX => Phase::Closed(failures + 1),
            Phase::Closed(_) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                Phase::Open { until: now + jittered(WAIT_MIN), wait: WAIT_MIN }
            }
            // A late report of a call that was admitted before the breaker opened.
            open @ Phase::Open { .. } => open,
            Phase::Probing { wait, .. } => {
                let wait = (wait * 2).min(WAIT_MAX);
                Phase::Open { until: now + jittered(wait), wait }
            }
        };
        was_closed && !matches!(*phase, Phase::Closed(_))
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `wait`, up to a quarter shorter or longer, so that replicas do not come back in step.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.75..1.25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_repeated_failures_and_probes_one_at_a_time() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES_MAX {
            assert!(!breaker.failed(start));
            assert!(breaker.admits(start));
        }
        assert!(breaker.failed(start), "it opens");
        assert!(!breaker.failed(start), "it is open");
        assert!(!breaker.admits(start));
        let later = start + WAIT_MIN * 2;
        assert!(breaker.admits(later), "one call probes");
        assert!(!breaker.admits(later), "the next does not");
        assert!(breaker.succeeded() && !breaker.succeeded());
        assert!(breaker.admits(later) && breaker.is_closed());
        assert_eq!(breaker.opened(), 1);
    }

    #[test]
    fn waits_longer_after_each_failed_probe_but_never_beyond_its_bound() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            breaker.failed(now);
        }
        for _ in 0..20 {
            now += WAIT_MAX * 2;
            assert!(breaker.admits(now));
            breaker.failed(now);
            assert!(!breaker.admits(now));
        }
        assert!(breaker.admits(now + WAIT_MAX.mul_f64(1.25)));
    }

    #[test]
    fn an_answer_that_shows_nothing_neither_closes_it_nor_keeps_others_from_probing() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            breaker.failed(start);
        }
        let probe = start + WAIT_MIN * 2;
        assert!(breaker.admits(probe));
        breaker.inconclusive(probe);
        assert!(!breaker.is_closed() && !breaker.admits(probe));
        assert!(breaker.admits(probe + WAIT_MIN * 2));
        breaker.succeeded();
        breaker.inconclusive(probe);
        assert!(breaker.is_closed());
    }

    #[test]
    fn an_abandoned_probe_does_not_keep_it_open() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            breaker.failed(start);
        }
        let probe = start + WAIT_MIN * 2;
        assert!(breaker.admits(probe));
        assert!(!breaker.admits(probe + PROBE_LEASE / 2));
        assert!(breaker.admits(probe + PROBE_LEASE));
    }

    #[test]
    fn a_success_between_failures_counts_them_anew() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            for _ in 1..FAILURES_MAX {
                breaker.failed(now);
            }
            breaker.succeeded();
        }
        assert!(breaker.is_closed());
    }
}
