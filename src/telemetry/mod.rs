//! What the service says about itself: counts, measures, log lines. Never slows a request down: counting is one store
//! to memory of the own thread, and a line that finds its queue full is dropped and counted.

pub mod buffer;
pub mod bus;
pub mod events;
pub mod exporters;
pub mod families;
pub mod levels;
pub mod lines;
mod losses;
pub mod metrics;
pub mod otel;
pub mod queue;
pub mod recent;
pub mod redact;
pub mod sinks;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock;
use crate::config::Config;
use crate::config::values::{LogFormat, LogLevel};
use crate::detect::monitor::{self, AnomalyKind, Outlier};
use crate::model::addr::Client;
use crate::model::decision::{Decision, Fact, FactValue, OBSERVED, Origin, Verdict};
use crate::request::{Body, Request};
use crate::telemetry::bus::Bus;
use crate::telemetry::events::Happening;
use crate::telemetry::events::system::{self, Anomaly};
use crate::telemetry::levels::Levels;
use crate::telemetry::lines::{Lines, Subject};
use crate::telemetry::metrics::{Metrics, Outcome, Shard, StreamEnd};
use crate::telemetry::queue::{LogFile, Queue};
use crate::telemetry::recent::Recent;

/// One worker thread's way to report. Belongs to one thread.
#[derive(Debug)]
pub struct Recorder {
    shard: Arc<Shard>,
    bus: Arc<Bus>,
    recent: Arc<Recent>,
    /// Allowed requests since the latest one that was recorded.
    turn: Cell<u32>,
}

impl Recorder {
    /// A recorder whose counts appear in `metrics`, that tells `bus` what happened and leaves records in `recent`.
    #[must_use]
    pub fn new(metrics: &Metrics, bus: Arc<Bus>, recent: Arc<Recent>) -> Self {
        Self { shard: metrics.shard(), bus, recent, turn: Cell::new(0) }
    }

    /// Reports a decision that took this long.
    pub fn decided(&self, lines: &Lines, request: &Request<'_>, decision: &Decision<'_>, by: (Client<'_>, Duration)) {
        self.count(lines, (request, decision), outcome(decision), by);
    }

    /// Reports a decision that nobody waits for: what it refuses is only reported.
    pub fn watched(&self, lines: &Lines, request: &Request<'_>, decision: &Decision<'_>, by: (Client<'_>, Duration)) {
        let (outcome, origin) = match outcome(decision) {
            (Outcome::Deny | Outcome::Fail, origin) => (Outcome::Report, origin),
            other => other,
        };
        self.count(lines, (request, decision), (outcome, origin), by);
    }

    /// Reports how a stream of ext_proc ended.
    pub fn stream_ended(&self, end: StreamEnd) {
        self.shard.stream_ended(end);
    }

    fn count(
        &self,
        lines: &Lines,
        subject: (&Request<'_>, &Decision<'_>),
        as_what: (Outcome, Option<Origin>),
        by: (Client<'_>, Duration),
    ) {
        let ((request, decision), (outcome, origin), (client, took)) = (subject, as_what, by);
        self.shard.decided(outcome, origin, took);
        for fact in &decision.facts {
            self.shard.event(fact.event);
        }
        for category in decision.detection.iter().flat_map(|detection| &detection.categories) {
            self.shard.threat(*category);
        }
        for category in decision.observed.iter().flat_map(|observed| &observed.categories) {
            self.shard.observed(*category);
        }
        let alert = decision.facts.iter().any(Fact::is_alert).then_some(LogLevel::Critical);
        let subject = || {
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            Subject { request, decision, client, outcome, origin, us }
        };
        if let Some(level) = alert.or_else(|| lines.level(outcome, origin)) {
            lines.write(level, &subject());
        }
        if lines.keeping().wants(outcome, origin, &self.turn) {
            let happening = Happening { request, decision, client, took, now: clock::now() };
            self.recent.keep(lines.keeping().record(&subject(), &happening), lines.keeping());
        }
        if !self.bus.is_silent() || !decision.blocks.is_empty() || outcome == Outcome::Fail {
            self.bus.decided(&Happening { request, decision, client, took, now: clock::now() });
        }
    }

    /// Reports a part of a request's detection that stands out by its time; with a line and an event when they are due.
    pub fn anomaly(&self, found: &monitor::Anomaly, request: &Request<'_>) {
        let event = found.kind.event();
        self.shard.event(event);
        if found.is_due {
            let (name, seconds) = (&*found.name, found.seconds);
            tracing::warn!(event = event.name(), name, seconds, "detection took unusually long");
            self.bus.system(system::anomaly(clock::now(), name, anomaly(found, bytes(request))));
        }
    }

    /// The counts of this thread, for whoever measures inside a decision.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
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

/// Bytes of a request's target and of its body, as far as that was there to look at.
const fn bytes(request: &Request<'_>) -> usize {
    let body = match request.body {
        Body::Absent => 0,
        Body::Partial(bytes) | Body::Complete(bytes) => bytes.len(),
    };
    request.target.raw.len() + body
}

/// What is told of an anomaly in a request of so many bytes.
const fn anomaly(found: &monitor::Anomaly, bytes: usize) -> Anomaly {
    let (seconds, content_length) = (found.seconds, Some(bytes));
    match found.kind {
        AnomalyKind::Timeout => Anomaly::Timeout { content_length },
        AnomalyKind::SlowExecution => Anomaly::Slow { content_length, seconds },
        AnomalyKind::StatisticalAnomaly(Outlier { z_score, mean, deviation }) => {
            Anomaly::Statistical { z_score, avg_time: mean, std_time: deviation, seconds }
        }
    }
}

/// What a decision counts as, and on whose behalf.
fn outcome(decision: &Decision<'_>) -> (Outcome, Option<Origin>) {
    match &decision.verdict {
        Verdict::Deny(denial) => (Outcome::Deny, Some(denial.origin)),
        Verdict::Fail(denial) => (Outcome::Fail, Some(denial.origin)),
        // In passive mode, by a limit that only looks on, or by a finding that is only logged.
        Verdict::Allow => {
            let mut facts = decision.facts.iter();
            let reported = facts.find(|fact| fact.action == "logged_only" || would_block(fact) || is_of_response(fact));
            let outcome = reported.map_or(Outcome::Allow, |_| Outcome::Report);
            (outcome, reported.map(Fact::origin))
        }
    }
}

/// A behaviour rule fired or a response leaks: a report, though nothing was refused.
fn is_of_response(fact: &Fact) -> bool {
    matches!(fact.origin(), Origin::Behavior | Origin::ResponseRule)
}

fn would_block(fact: &Fact) -> bool {
    fact.action == OBSERVED && fact.metadata.contains(&("would_block", FactValue::Bool(true)))
}

/// Turns logging on for the process: format, filter, queue and sinks of the configuration. To be called once; the
/// queue that it returns is flushed at the end of the process. The levels of decision lines are not fixed here; those of
/// the service's own lines can be changed.
pub fn start_logging(config: &Config) -> io::Result<(Queue, Levels)> {
    let file = config.security.custom_log_file.as_deref().map(|path| (path, LogFile::open(path)));
    let (file, failure) = match file {
        Some((_, Ok(file))) => (Some(file), None),
        Some((path, Err(error))) => (None, Some((path, error))),
        None => (None, None),
    };
    let queue = Queue::into_file(usize::try_from(config.telemetry.queue).unwrap_or(usize::MAX), file)?;
    let filter = EnvFilter::try_new(&config.telemetry.log_filter).map_err(io::Error::other)?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let levels = Levels::new(&config.telemetry.log_filter, Box::new(move |filter| handle.reload(filter).is_ok()));
    let layer = tracing_subscriber::fmt::layer().with_writer(queue.clone()).with_ansi(false);
    let started = match config.security.log_format {
        LogFormat::Text => registry().with(filter).with(layer).try_init(),
        LogFormat::Json => registry().with(filter).with(layer.json().flatten_event(true)).try_init(),
    };
    started.map_err(io::Error::other)?;
    if let Some((path, error)) = failure {
        tracing::warn!(path = %path.display(), %error, "security.custom_log_file cannot be written");
    }
    Ok((queue, levels))
}

/// Panics become one log line with their place. What they say may quote a request and stays out.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::error!(place, thread, "panic");
    }));
}
