//! guard-core's agent protocol: events and metrics in batches to a server that speaks it, and a status now and then.
//!
//! Not even the buffer policy `block` makes a request wait: what finds the buffer full is dropped and counted.

mod enrich;
mod link;
mod seal;
mod wire;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::hmac;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock;
use crate::config::security::SecurityConfig;
use crate::config::values::OverflowPolicy;
use crate::model::time::Timestamp;
use crate::net::agent::{Identity, install_id};
use crate::net::client::Client;
use crate::telemetry::buffer::{Buffer, Full, SinkName};
use crate::telemetry::bus::Bus;
use crate::telemetry::events::Event;
use crate::telemetry::events::json::{Style, moment};
use crate::telemetry::metrics::{Metrics, Totals};
use crate::telemetry::sinks::agent::enrich::Enrichment;
use crate::telemetry::sinks::agent::link::{Link, Sent};
use crate::telemetry::sinks::agent::seal::Sealer;
use crate::telemetry::sinks::agent::wire::{Item, Metric};

/// Bytes from which batches are compressed when nothing else is said.
const COMPRESSION_THRESHOLD: u32 = 1024;
/// Longest time without a new attempt after failures.
const REST_MAX: Duration = Duration::from_secs(300);
/// How long an attempt under way may go on when the agent ends.
const GRACE: Duration = Duration::from_secs(1);
/// Fill of a queue, of 1, from which the agent calls itself degraded.
const DEGRADED_FILL: f64 = 0.9;
/// Share of failed batches, of 1, from which it does.
const DEGRADED_FAILURES: f64 = 0.1;
/// Errors that a status names.
const ERRORS_MAX: usize = 10;

/// Why the agent cannot start.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The key is not 32 bytes in URL-safe base64.
    #[error("security.agent_project_encryption_key is not 32 bytes in URL-safe base64")]
    Key,
    /// What was encrypted could not be decrypted again.
    #[error("encryption does not work; nothing is sent")]
    Encryption,
}

/// What an agent needs to know.
#[derive(Debug)]
pub struct Settings {
    identity: Identity,
    guard_version: String,
    buffer: usize,
    mark: usize,
    overflow: OverflowPolicy,
    interval: Duration,
    status_interval: Duration,
    timeout: Duration,
    attempts: u32,
    factor: f64,
    /// Bytes from which a body is compressed; `None` never.
    compress_from: Option<usize>,
    signing: Option<hmac::Key>,
    sealer: Option<Sealer>,
    /// In lower case.
    sensitive: Vec<String>,
    event_bytes_max: Option<usize>,
    concurrent: bool,
    events: bool,
    metrics: bool,
    muted_metrics: Vec<String>,
    enrichment: Option<Enrichment>,
}

impl Settings {
    /// The settings of a configuration; `None` when the agent is off.
    ///
    /// # Errors
    /// When batches cannot be encrypted as asked.
    pub fn of(security: &SecurityConfig) -> Result<Option<Self>, AgentError> {
        let Some(api_key) = security.agent_api_key.clone().filter(|_| security.enable_agent) else { return Ok(None) };
        let sealer = security.agent_project_encryption_key.as_ref().map(|key| Sealer::new(key.expose())).transpose()?;
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let seconds = |number: u32| Duration::from_secs(number.into());
        let buffer = size(security.agent_buffer_size).max(1);
        let ratio = security.agent_high_watermark_ratio.unwrap_or(0.8).clamp(0.0, 1.0);
        let compresses = security.agent_compression_enabled.unwrap_or(true);
        let threshold = security.agent_compression_threshold.unwrap_or(COMPRESSION_THRESHOLD);
        let signing = security.agent_payload_signing_secret.as_ref();
        let sensitive = security.agent_sensitive_headers.iter().flatten();
        Ok(Some(Self {
            identity: Identity {
                endpoint: security.agent_endpoint.clone(),
                api_key: api_key.expose().to_owned(),
                install_id: security.agent_install_id.clone().unwrap_or_else(install_id),
                project_id: security.agent_project_id.clone(),
            },
            guard_version: security.agent_guard_version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            buffer,
            mark: (buffer as f64 * ratio).ceil() as usize,
            overflow: security.agent_buffer_overflow_policy.unwrap_or(OverflowPolicy::Drop),
            interval: seconds(security.agent_flush_interval).max(Duration::from_secs(1)),
            status_interval: seconds(security.agent_status_interval),
            timeout: seconds(security.agent_timeout).max(Duration::from_secs(1)),
            attempts: security.agent_retry_attempts.saturating_add(1),
            factor: security.agent_backoff_factor.unwrap_or(1.0),
            compress_from: compresses.then(|| size(threshold)),
            signing: signing.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes())),
            sealer,
            sensitive: wire::SENSITIVE
                .iter()
                .map(|name| (*name).to_owned())
                .chain(sensitive.map(|name| name.trim().to_lowercase()))
                .collect(),
            event_bytes_max: security.agent_max_payload_size.map(size),
            concurrent: security.agent_max_concurrent_flushes.is_some_and(|flushes| 1 < flushes),
            events: security.agent_enable_events,
            metrics: security.agent_enable_metrics,
            muted_metrics: security.muted_metric_types.iter().cloned().collect(),
            enrichment: Enrichment::of(security),
        }))
    }
}

/// One queue with what its attempts came to.
#[derive(Debug)]
struct Lane<T> {
    queue: Buffer<T>,
    link: Link,
    /// Failures in a row.
    streak: u32,
    /// No attempt before this moment.
    rests_until: Option<Instant>,
    batches: u64,
    failures: u64,
    last_flush: Option<Timestamp>,
}

/// The agent: two queues, and what it takes to empty them.
#[derive(Debug)]
pub(super) struct Agent {
    settings: Arc<Settings>,
    events: Lane<Arc<Event>>,
    metrics: Lane<Metric>,
    started: Instant,
    complained: u64,
    errors: Vec<String>,
}

impl Agent {
    pub(super) fn new(settings: Settings, client: Client, bus: &Bus) -> Self {
        let settings = Arc::new(settings);
        let full = match settings.overflow {
            OverflowPolicy::Drop => Full::DropOldest,
            OverflowPolicy::Block | OverflowPolicy::Raise => Full::DropNewest,
        };
        let link = || Link::new(client.clone(), Arc::clone(&settings));
        let tally = |sink| bus.tallies().of(sink);
        Self {
            events: Lane::new(Buffer::new(settings.buffer, settings.mark, full, tally(SinkName::AgentEvents)), link()),
            metrics: Lane::new(
                Buffer::new(settings.buffer, settings.mark, Full::DropOldest, tally(SinkName::AgentMetrics)),
                link(),
            ),
            settings,
            started: clock::instant(),
            complained: 0,
            errors: Vec::new(),
        }
    }

    /// The queue of events; `None` when events are not sent.
    pub(super) fn events(&self) -> Option<Buffer<Arc<Event>>> {
        self.settings.events.then(|| self.events.queue.clone())
    }

    /// Sends until told to stop, and then what is left.
    pub(super) async fn run(mut self, metrics: Arc<Metrics>, bus: Arc<Bus>, mut stop: watch::Receiver<bool>) {
        let mut totals = metrics.totals();
        let mut ticks = ticker(self.settings.interval);
        let mut statuses = ticker(self.settings.status_interval.max(Duration::from_secs(60)));
        loop {
            let (events, queue) = (self.events.queue.clone(), self.metrics.queue.clone());
            let is_tick = tokio::select! {
                () = events.filled() => false,
                () = queue.filled() => false,
                _ = ticks.tick() => true,
                _ = statuses.tick() => {
                    self.report().await;
                    continue;
                }
                changed = stop.changed() => {
                    drop(changed);
                    break;
                }
            };
            if is_tick && self.settings.metrics {
                self.measure(&metrics, &mut totals);
            }
            if !self.flush_until(&bus, stop.clone()).await {
                break;
            }
            self.complain();
        }
        if self.settings.metrics {
            self.measure(&metrics, &mut totals);
        }
        self.flush(&bus, true).await;
        self.events.queue.abandon();
        self.metrics.queue.abandon();
    }

    /// False when told to stop. An attempt that is under way then has [`GRACE`] to end: cutting it would send what the
    /// server may have taken a second time. A pause between attempts is not waited for.
    async fn flush_until(&mut self, bus: &Bus, mut stop: watch::Receiver<bool>) -> bool {
        let mut flush = pin!(self.flush(bus, false));
        tokio::select! {
            () = &mut flush => true,
            _ = stop.changed() => {
                drop(tokio::time::timeout(GRACE, flush).await);
                false
            }
        }
    }

    /// Events first, then metrics; both at once when that is asked for.
    async fn flush(&mut self, bus: &Bus, is_last: bool) {
        let settings = Arc::clone(&self.settings);
        let (events, metrics) = (&mut self.events, &mut self.metrics);
        let outcome = if settings.concurrent {
            tokio::join!(events.flush(&settings, is_last), metrics.flush(&settings, is_last))
        } else {
            (events.flush(&settings, is_last).await, metrics.flush(&settings, is_last).await)
        };
        for error in [outcome.0, outcome.1].into_iter().filter_map(Result::err) {
            bus.failed("transport_send", &error);
            if self.errors.last() != Some(&error) {
                tracing::warn!(error, "the agent's server does not take a batch");
                self.errors.push(error);
                let excess = self.errors.len().saturating_sub(ERRORS_MAX);
                self.errors.drain(..excess);
            }
        }
    }

    /// Under the policy `raise` a full buffer is an error, told once for each time it fills.
    fn complain(&mut self) {
        let [_, dropped, ..] = self.events.queue.tally().read();
        if self.settings.overflow == OverflowPolicy::Raise && self.complained < dropped {
            tracing::error!(dropped, "the agent's buffer was full");
        }
        self.complained = dropped;
    }

    /// Adds what happened since the last time.
    fn measure(&self, metrics: &Metrics, totals: &mut Totals) {
        let now = metrics.totals();
        let items = wire::since(&now, totals, clock::now());
        for item in items.into_iter().filter(|item| !self.settings.muted_metrics.iter().any(|name| name == item.kind)) {
            self.metrics.queue.push(item);
        }
        *totals = now;
    }

    async fn report(&mut self) {
        let status = self.status(clock::now());
        // The next one says more; this one is not kept.
        drop(self.events.link.send_once("/api/v1/status", &status).await);
    }

    fn status(&self, now: Timestamp) -> Value {
        let fill = |len: usize, capacity: usize| len as f64 / capacity as f64;
        let fullest = fill(self.events.queue.len(), self.events.queue.capacity())
            .max(fill(self.metrics.queue.len(), self.metrics.queue.capacity()));
        let (batches, failures) =
            (self.events.batches + self.metrics.batches, self.events.failures + self.metrics.failures);
        let rate = if batches == 0 { 0.0 } else { failures as f64 / batches as f64 };
        let is_open = self.events.link.is_open() || self.metrics.link.is_open();
        let is_degraded = is_open || DEGRADED_FILL <= fullest || DEGRADED_FAILURES < rate;
        let [sent, failed, ..] = self.events.queue.tally().read();
        let last = [self.events.last_flush, self.metrics.last_flush].into_iter().flatten();
        let last = last.reduce(|one, other| if one < other { other } else { one });
        json!({
            "timestamp": moment(now, Style::Spaced),
            "status": if is_degraded { "degraded" } else { "healthy" },
            "uptime": self.started.elapsed().as_secs_f64(),
            "events_sent": sent,
            "events_failed": failed,
            "buffer_size": self.events.queue.len() + self.metrics.queue.len(),
            "last_flush": last.map_or(Value::Null, |at| Value::from(moment(at, Style::Spaced))),
            "errors": self.errors,
        })
    }
}

/// Ticks every `period`, the first time after it; a late tick is not made up for.
fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

impl<T: Item> Lane<T> {
    fn new(queue: Buffer<T>, link: Link) -> Self {
        Self { queue, link, streak: 0, rests_until: None, batches: 0, failures: 0, last_flush: None }
    }

    /// Sends everything that waits as one batch; what the server does not take is put back and rests.
    async fn flush(&mut self, settings: &Settings, is_last: bool) -> Result<(), String> {
        let rests = self.rests_until.is_some_and(|until| clock::instant() < until);
        if rests && !is_last || self.queue.is_empty() {
            return Ok(());
        }
        let mut rest = Returned { queue: self.queue.clone(), items: Vec::new() };
        // Bounded by the halves of a batch: each split doubles the parts of one.
        let mut parts = vec![self.queue.take(usize::MAX)];
        let mut error = None;
        while let Some(part) = parts.pop() {
            if error.is_some() {
                rest.items.extend(part);
                continue;
            }
            let values: Vec<Value> = part.iter().filter_map(|item| item.wire(settings)).collect();
            rest.items.extend(part);
            let count = rest.items.len();
            let outcome = match values.is_empty() {
                true => Sent::Dropped,
                false => self.link.send_batch(T::ROUTE, values, is_last).await,
            };
            self.batches += 1;
            let tally = self.queue.tally();
            match outcome {
                Sent::Accepted => tally.delivered(count),
                Sent::TooLarge if 1 < count => {
                    let later = rest.items.split_off(count / 2);
                    parts.extend([later, std::mem::take(&mut rest.items)]);
                    continue;
                }
                Sent::TooLarge | Sent::Dropped => tally.dropped(count),
                Sent::Kept(why) => {
                    tally.failed();
                    self.failures += 1;
                    error = Some(why);
                    continue;
                }
            }
            rest.items.clear();
        }
        drop(rest);
        self.last_flush = Some(clock::now());
        match error {
            None => {
                (self.streak, self.rests_until) = (0, None);
                Ok(())
            }
            Some(error) => {
                self.streak = self.streak.saturating_add(1);
                let doubled = settings.interval.saturating_mul(2_u32.saturating_pow(self.streak - 1));
                self.rests_until = clock::instant().checked_add(doubled.min(REST_MAX));
                Err(error)
            }
        }
    }
}

/// What is under way goes back to its queue when it has not arrived, whatever ends the attempt.
struct Returned<T> {
    queue: Buffer<T>,
    items: Vec<T>,
}

impl<T> Drop for Returned<T> {
    fn drop(&mut self) {
        if !self.items.is_empty() {
            self.queue.put_back(std::mem::take(&mut self.items));
        }
    }
}

#[cfg(test)]
mod tests;
