//! The one door to time: nobody else may ask what time it is. The edge reads it once per request and passes it down.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::detect::Meter;
use crate::detect::monitor::Sample;
use crate::model::stage::Stage;
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

/// The budget of one detection, and a stopwatch for its parts when it is measured.
#[derive(Debug)]
pub struct Stopwatch {
    budget: Budget,
    running: Option<RefCell<Running>>,
}

/// Second looks of one detection that are noted.
const LOOKS_MAX: usize = 64;

/// What a measured detection spent its time on.
#[derive(Debug, Default)]
struct Running {
    /// The part that is under way, and since when; none before the first.
    part: Option<(Stage, Instant)>,
    /// When the latest second look ended, or began.
    looked: Option<Instant>,
    spent: [Duration; Stage::ALL.len()],
    looks: Vec<(String, Duration, bool)>,
}

impl Stopwatch {
    /// Only the budget counts.
    #[must_use]
    pub const fn stopped(budget: Budget) -> Self {
        Self { budget, running: None }
    }

    /// Measures too. Reading the clock so often costs a few microseconds for a request.
    #[must_use]
    pub fn running(budget: Budget) -> Self {
        Self { budget, running: Some(RefCell::default()) }
    }

    /// What the detection spent its time on; `None` when it was not measured or did not run.
    #[must_use]
    pub fn parts(self) -> Option<Parts> {
        let running = self.running?.into_inner();
        running.part.map(|_| Parts { spent: running.spent, looks: running.looks, is_late: self.budget.is_spent() })
    }
}

/// What one detection spent its time on.
#[derive(Debug)]
pub struct Parts {
    spent: [Duration; Stage::ALL.len()],
    looks: Vec<(String, Duration, bool)>,
    is_late: bool,
}

impl Parts {
    /// Each part with its time.
    pub fn spent(&self) -> impl Iterator<Item = (Stage, Duration)> + '_ {
        Stage::ALL.iter().copied().zip(self.spent)
    }

    /// For the monitor of detection: the whole, the scans, and each second look. `matched`: an attack was found.
    pub fn samples(&self, matched: bool) -> impl Iterator<Item = Sample<'_>> {
        let total: Duration = self.spent.iter().sum();
        let scan = self.spent().find(|(stage, _)| *stage == Stage::Scan).map(|(_, spent)| spent).unwrap_or_default();
        let whole =
            Sample { name: "overall_detection", seconds: total.as_secs_f64(), matched, timed_out: self.is_late };
        let scans = Sample { name: "scan", seconds: scan.as_secs_f64(), timed_out: false, ..whole };
        let looks = self.looks.iter().map(|(row, took, matched)| Sample {
            name: row,
            seconds: took.as_secs_f64(),
            matched: *matched,
            timed_out: false,
        });
        [whole, scans].into_iter().chain(looks)
    }
}

impl Meter for Stopwatch {
    fn is_spent(&self) -> bool {
        self.budget.is_spent()
    }

    fn enter(&self, stage: Stage) {
        let Some(running) = &self.running else { return };
        let (mut running, now) = (running.borrow_mut(), instant());
        if let Some((before, since)) = running.part.replace((stage, now))
            && let Some(spent) = running.spent.get_mut(before as usize)
        {
            *spent += now.saturating_duration_since(since);
        }
        running.looked = Some(now);
    }

    fn judged(&self, row: &str, matched: bool) {
        let Some(running) = &self.running else { return };
        let (mut running, now) = (running.borrow_mut(), instant());
        let since = running.looked.replace(now).unwrap_or(now);
        if running.looks.len() < LOOKS_MAX {
            running.looks.push((row.to_owned(), now.saturating_duration_since(since), matched));
        }
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

    #[test]
    fn a_stopwatch_gives_each_part_the_time_until_the_next() {
        let watch = Stopwatch::running(Budget::new(instant(), Duration::MAX));
        let pause = || {
            let until = instant() + Duration::from_millis(2);
            while instant() < until {}
        };
        watch.enter(Stage::Extract);
        watch.enter(Stage::Confirm);
        pause();
        watch.judged("ROW", true);
        watch.judged("NEXT", false);
        watch.enter(Stage::Extract);
        pause();
        let parts = watch.parts().unwrap();
        let spent: Vec<Duration> = parts.spent().map(|(_, spent)| spent).collect();
        let two = Duration::from_millis(2);
        assert!(two <= spent[Stage::Confirm as usize], "{parts:?}");
        assert!(spent[Stage::Extract as usize] < two, "what is under way at the end does not count: {parts:?}");
        let samples: Vec<_> = parts.samples(true).map(|sample| (sample.name, sample.matched)).collect();
        assert_eq!(samples, [("overall_detection", true), ("scan", true), ("ROW", true), ("NEXT", false)]);
        assert!(parts.samples(true).nth(2).is_some_and(|sample| 0.002 <= sample.seconds && !sample.timed_out));
        assert!(Stopwatch::stopped(Budget::new(instant(), Duration::MAX)).parts().is_none());
        assert!(Stopwatch::running(Budget::new(instant(), Duration::MAX)).parts().is_none(), "nothing ran");
    }
}
