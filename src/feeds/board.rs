//! How the feeds are doing: for readiness, metrics and one log line a change.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::model::time::Timestamp;

/// How one feed is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// Where it comes from, without secrets.
    pub location: String,
    /// Where the data in force came from: `none`, `file`, `url`, `redis` or `disk`.
    pub origin: &'static str,
    /// Entries in force.
    pub entries: u64,
    /// Lines of a list that could not be read and were left out.
    pub bad_lines: u64,
    /// When the data was last known to be current, in seconds since the Unix epoch; 0 when never.
    pub last_success: f64,
    /// Attempts that failed since the start.
    pub failures: u64,
    /// Attempts that failed one after another until now; 0 when the feed is well.
    pub failing: u64,
    /// Why the latest attempt failed; empty after a success.
    pub error: String,
    /// At least one attempt has ended.
    #[serde(skip)]
    tried: bool,
}

/// The feeds of the process, by name.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<String, Row>,
    /// Until when readiness waits for first attempts; `None` before anything is expected.
    patience: Option<f64>,
}

/// What an attempt brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Success {
    pub(super) origin: &'static str,
    pub(super) entries: u64,
    pub(super) bad_lines: u64,
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between two statements that only assign leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these feeds, name and location; what is known of those that stay is kept. Readiness waits for first
    /// attempts until the `patience` of the first call: a replica that serves stays ready when a feed is added.
    pub(super) fn expect(&self, feeds: impl IntoIterator<Item = (String, String)>, patience: Timestamp) {
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.rows);
        for (name, location) in feeds {
            let row = before.remove(&name).unwrap_or_else(|| Row { origin: "none", ..Row::default() });
            state.rows.insert(name, Row { location, ..row });
        }
        state.patience.get_or_insert(patience.0);
    }

    /// Data is in force, and was current at `at`. Says whether the feed was failing before.
    pub(super) fn succeeded(&self, name: &str, success: Success, at: Timestamp) -> bool {
        let mut state = self.state();
        let Some(row) = state.rows.get_mut(name) else { return false };
        let was_failing = row.failing != 0;
        (row.origin, row.entries, row.bad_lines) = (success.origin, success.entries, success.bad_lines);
        (row.last_success, row.failing, row.tried) = (at.0, 0, true);
        row.error.clear();
        was_failing
    }

    /// What is in force is still current.
    pub(super) fn confirmed(&self, name: &str, at: Timestamp) -> bool {
        let mut state = self.state();
        let Some(row) = state.rows.get_mut(name) else { return false };
        let was_failing = row.failing != 0;
        (row.last_success, row.failing, row.tried) = (at.0, 0, true);
        row.error.clear();
        was_failing
    }

    /// Data from an earlier time is in force, until a first attempt ends.
    pub(super) fn restored(&self, name: &str, success: Success, at: Timestamp) {
        if let Some(row) = self.state().rows.get_mut(name) {
            (row.origin, row.entries, row.bad_lines) = (success.origin, success.entries, success.bad_lines);
            row.last_success = at.0;
        }
    }

    /// An attempt failed. Returns how many did, one after another.
    pub(super) fn failed(&self, name: &str, error: String) -> u64 {
        let mut state = self.state();
        let Some(row) = state.rows.get_mut(name) else { return 0 };
        row.failures += 1;
        row.failing += 1;
        row.tried = true;
        row.error = error;
        row.failing
    }

    /// True when every feed was tried once, or it took too long.
    #[must_use]
    pub fn is_ready(&self, now: Timestamp) -> bool {
        let state = self.state();
        state.patience.is_none_or(|patience| patience <= now.0) || state.rows.values().all(|row| row.tried)
    }

    /// All feeds.
    #[must_use]
    pub fn rows(&self) -> BTreeMap<String, Row> {
        self.state().rows.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: Success = Success { origin: "url", entries: 7, bad_lines: 0 };

    #[test]
    fn readiness_waits_for_first_attempts_and_not_for_ever() {
        let board = Board::default();
        assert!(board.is_ready(Timestamp(0.0)), "without feeds");
        let feeds = || ["a", "b"].map(|name| (name.to_owned(), String::new()));
        board.expect(feeds(), Timestamp(30.0));
        assert!(!board.is_ready(Timestamp(1.0)));
        board.succeeded("a", FOUND, Timestamp(2.0));
        board.restored("b", FOUND, Timestamp(2.0));
        assert!(!board.is_ready(Timestamp(2.0)), "old data of one feed is no attempt");
        board.failed("b", "gone".to_owned());
        assert!(board.is_ready(Timestamp(3.0)));
        board.expect(feeds(), Timestamp(60.0));
        assert!(board.is_ready(Timestamp(31.0)), "feeds that stay were tried");
        board.expect([("c".to_owned(), String::new())], Timestamp(60.0));
        assert!(!board.is_ready(Timestamp(29.0)));
        assert!(board.is_ready(Timestamp(30.0)), "a replica that serves stays ready when a feed is added");
    }

    #[test]
    fn failures_are_counted_until_a_success() {
        let board = Board::default();
        board.expect([("a".to_owned(), "https://example.com/a".to_owned())], Timestamp(0.0));
        assert!(!board.succeeded("a", FOUND, Timestamp(1.0)));
        assert_eq!([1, 2], [0; 2].map(|_| board.failed("a", "gone".to_owned())));
        let row = board.rows().remove("a").unwrap();
        assert_eq!((row.entries, row.last_success, row.failures, &*row.error), (7, 1.0, 2, "gone"));
        assert!(board.confirmed("a", Timestamp(5.0)), "it was failing");
        let row = board.rows().remove("a").unwrap();
        assert_eq!((row.last_success, row.failures, row.failing, &*row.error), (5.0, 2, 0, ""));
    }
}
