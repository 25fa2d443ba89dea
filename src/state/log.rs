//! A sliding log: which hits of a client lie within a window. Bounded, whatever the limit.

use std::collections::VecDeque;

/// A log never holds fewer places, so that the count in a refusal stays true for a while beyond a small limit.
const PLACES_MIN: usize = 16;
/// A log never holds more places. Above it neighbouring hits share a place, see [`Log::compact`].
const PLACES_MAX: usize = 1024;
/// Hits that share a place lie at most a window divided by this apart.
const GRAIN: f64 = 512.0;

/// What happened at one moment; with [`PLACES_MAX`] exceeded, in one short span that ends then.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: f64,
    /// Hits ever recorded up to and with this place: a count is the difference of two of these.
    upto: u64,
}

/// Which end of a window is inside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Edge {
    /// A hit exactly one window old is out (rate limits).
    Out,
    /// A hit exactly one window old is in (behaviour rules).
    In,
}

/// The hits of one client, oldest first.
///
/// Exact while the largest limit asked about stays below [`PLACES_MAX`]; above, a hit may be counted up to 0.2 % of the
/// window longer than it should.
#[derive(Debug, Default)]
pub(super) struct Log {
    places: VecDeque<Place>,
    /// Hits that have left the log.
    gone: u64,
    /// The longest window ever asked about: nothing younger is dropped.
    keep: f64,
    /// The largest number of places ever needed.
    room: usize,
}

impl Log {
    /// Records a hit. `limit` is the largest count that matters, `window` the longest time.
    pub(super) fn record(&mut self, now: f64, window: f64, limit: u32, edge: Edge) {
        self.drop_before(now - self.keep.max(window), edge);
        self.keep = self.keep.max(window);
        let needed = usize::try_from(limit).unwrap_or(PLACES_MAX).saturating_add(1);
        self.room = self.room.max(needed.clamp(PLACES_MIN, PLACES_MAX));
        if self.places.capacity() == 0 {
            self.places.reserve(PLACES_MIN);
        }
        if PLACES_MAX <= self.places.len() {
            self.compact();
        }
        while self.room <= self.places.len() {
            self.drop_oldest();
        }
        // A clock that stepped back must not put the log out of order.
        let at = self.places.back().map_or(now, |last| last.at.max(now));
        self.places.push_back(Place { at, upto: self.recorded() + 1 });
    }

    /// Hits within the `window` that ends `now`.
    pub(super) fn count(&self, now: f64, window: f64, edge: Edge) -> u64 {
        let start = now - window;
        let outside = self.places.partition_point(|place| is_before(place.at, start, edge));
        let before = outside.checked_sub(1).and_then(|at| self.places.get(at)).map_or(self.gone, |place| place.upto);
        self.recorded() - before
    }

    /// Takes the latest hit back.
    pub(super) fn take_back(&mut self) {
        let Some(last) = self.places.pop_back() else { return };
        // A place that others share stays for them.
        if self.recorded() + 1 < last.upto {
            self.places.push_back(Place { upto: last.upto - 1, ..last });
        }
    }

    /// Seconds until the oldest hit within the `window` that ends `now` leaves it; the whole window when there is none.
    pub(super) fn leaves_in(&self, now: f64, window: f64) -> f64 {
        let start = now - window;
        let outside = self.places.partition_point(|place| is_before(place.at, start, Edge::Out));
        self.places.get(outside).map_or(window, |oldest| (oldest.at - start).max(0.0))
    }

    /// Hits within the longest window ever asked about.
    pub(super) fn count_all(&self, now: f64) -> u64 {
        self.count(now, self.keep, Edge::Out)
    }

    fn recorded(&self) -> u64 {
        self.places.back().map_or(self.gone, |place| place.upto)
    }

    fn drop_before(&mut self, start: f64, edge: Edge) {
        while self.places.front().is_some_and(|place| is_before(place.at, start, edge)) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(place) = self.places.pop_front() {
            self.gone = place.upto;
        }
    }

    /// Lets neighbours share a place, which takes the time of its last hit: a merged hit leaves late, never early.
    fn compact(&mut self) {
        let grain = self.keep / GRAIN;
        let mut started = f64::NEG_INFINITY;
        let mut merged = 0;
        for at in 0..self.places.len() {
            let Some(place) = self.places.get(at).copied() else { break };
            if started + grain < place.at {
                started = place.at;
                merged += 1;
            }
            if let Some(target) = self.places.get_mut(merged.max(1) - 1) {
                *target = place;
            }
        }
        self.places.truncate(merged);
    }
}

fn is_before(at: f64, start: f64, edge: Edge) -> bool {
    match edge {
        Edge::Out => at <= start,
        Edge::In => at < start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hit(log: &mut Log, now: f64, window: f64, limit: u32) -> u64 {
        log.record(now, window, limit, Edge::Out);
        log.count(now, window, Edge::Out)
    }

    #[test]
    fn the_edge_belongs_to_behaviour_rules_only() {
        for (edge, expected) in [(Edge::Out, [1, 2, 2]), (Edge::In, [1, 2, 3])] {
            let mut log = Log::default();
            let counts = [100.0, 105.0, 110.0].map(|now| {
                log.record(now, 10.0, 5, edge);
                log.count(now, 10.0, edge)
            });
            assert_eq!(counts, expected, "{edge:?}");
        }
    }

    #[test]
    fn equal_times_count_and_a_clock_that_steps_back_keeps_the_order() {
        let mut log = Log::default();
        assert_eq!([5.0, 5.0, 4.0, 5.0].map(|now| hit(&mut log, now, 10.0, 3)), [1, 2, 3, 4]);
    }

    #[test]
    fn a_shorter_window_does_not_trim_a_longer_one() {
        let mut log = Log::default();
        hit(&mut log, 0.0, 100.0, 5);
        assert_eq!(hit(&mut log, 50.0, 10.0, 5), 1);
        assert_eq!(log.count(50.0, 100.0, Edge::Out), 2);
    }

    #[test]
    fn a_flood_holds_no_more_places_than_needed() {
        for (limit, places) in [(5, PLACES_MIN), (15, 16), (16, 17), (1022, 1023), (1023, 1024), (1_000_000, 1024)] {
            let mut log = Log::default();
            for number in 0..5000 {
                hit(&mut log, f64::from(number) * 0.001, 60.0, limit);
            }
            assert!(log.places.len() <= places, "{limit}: {}", log.places.len());
            assert!(u64::from(limit.min(4999)) < log.count(5.0, 60.0, Edge::Out), "{limit}");
        }
    }

    #[test]
    fn a_large_limit_is_counted_whole_and_leaves_at_most_a_grain_late() {
        let (window, limit) = (60.0, 100_000);
        let mut log = Log::default();
        let mut counted = 0;
        for number in 1..=20_000u32 {
            counted = hit(&mut log, f64::from(number) * 0.001, window, limit);
            assert_eq!(counted, u64::from(number));
        }
        assert_eq!(counted, 20_000);
        for now in [60.5, 70.25, 79.9] {
            let exact = 20_000 - ((now - window) * 1000.0) as u64;
            let late = log.count(now, window, Edge::Out) - exact;
            assert!(late <= (window / GRAIN * 1000.0) as u64 + 1, "{now}: {late} too many");
        }
        assert_eq!(log.count(80.0 + window / GRAIN, window, Edge::Out), 0);
    }

    proptest! {
        #[test]
        fn counts_as_a_plain_list_does(
            gaps in prop::collection::vec(0u32..8, 0..300),
            limit in 1u32..40,
            windows in (1u32..30, 1u32..60),
            edge in prop::sample::select(vec![Edge::Out, Edge::In]),
        ) {
            let (short, long) = (f64::from(windows.0.min(windows.1)), f64::from(windows.0.max(windows.1)));
            let (mut log, mut model, mut now) = (Log::default(), Vec::new(), 0.0);
            for gap in gaps {
                now += f64::from(gap);
                model.push(now);
                log.record(now, long, limit, edge);
                for window in [short, long] {
                    let exact = model.iter().filter(|at| !is_before(**at, now - window, edge)).count() as u64;
                    let counted = log.count(now, window, edge);
                    // Beyond its room the log knows only "more than the limit".
                    let room = u64::from(limit + 1).max(PLACES_MIN as u64);
                    prop_assert_eq!(counted, exact.min(room));
                }
            }
        }
    }
}
