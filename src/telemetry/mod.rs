//! What the service says about itself: counts, measures, log lines. Never slows a request down: counting is one store
//! to memory of the own thread, and a line that finds its queue full is dropped and counted.

pub mod metrics;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::model::addr::Client;
use crate::model::decision::{Decision, Origin, Verdict};
use crate::request::Request;
use crate::telemetry::metrics::{Metrics, Outcome, Shard};

/// One worker thread's way to report. Belongs to one thread.
#[derive(Debug)]
pub struct Recorder {
    shard: Arc<Shard>,
}

impl Recorder {
    /// A recorder whose counts appear in `metrics`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self { shard: metrics.shard() }
    }

    /// Reports a decision that took from `start` until now.
    pub fn decided(&self, _request: &Request<'_>, decision: &Decision<'_>, _client: Client<'_>, start: Instant) {
        let took: Duration = clock::tick().saturating_duration_since(start);
        let (outcome, origin) = outcome(decision);
        self.shard.decided(outcome, origin, took);
        for fact in &decision.facts {
            self.shard.event(fact.event);
        }
        for category in decision.detection.iter().flat_map(|detection| &detection.categories) {
            self.shard.threat(*category);
        }
    }

    /// Reports a question that could not be read.
    pub fn unreadable(&self, error: &dyn fmt::Display) {
        self.shard.count(Outcome::Fail, Some(Origin::Unreadable));
        tracing::debug!(%error, "a question cannot be read");
    }

    /// Reports a panic that was turned into a failure.
    pub fn panicked(&self) {
        self.shard.count(Outcome::Fail, Some(Origin::Internal));
    }
}

/// What a decision counts as, and on whose behalf.
fn outcome(decision: &Decision<'_>) -> (Outcome, Option<Origin>) {
    match &decision.verdict {
        Verdict::Deny(denial) => (Outcome::Deny, Some(denial.origin)),
        Verdict::Fail(denial) => (Outcome::Fail, Some(denial.origin)),
        Verdict::Allow if decision.passive => {
            let reported = decision.facts.iter().find(|fact| fact.action == "logged_only");
            let outcome = reported.map_or(Outcome::Allow, |_| Outcome::Report);
            (outcome, reported.map(|fact| Origin::Check(fact.check)))
        }
        Verdict::Allow => (Outcome::Allow, None),
    }
}
