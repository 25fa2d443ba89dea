//! From those who have something to tell to the sinks that are on. Telling costs a push into bounded queues and never
//! waits; what no queue has room for is not even made. Which sinks there are changes with the configuration.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use crate::clock;
use crate::model::decision::{ConstantHeaders, Denial, OnBlock, Verdict};
use crate::model::event::EventType;
use crate::model::time::Timestamp;
use crate::request::path::decode_once;
use crate::telemetry::buffer::{Buffer, Tallies};
use crate::telemetry::events::payload::{Block, Failure, Payload, Place};
use crate::telemetry::events::system::{self, AppliedHeaders};
use crate::telemetry::events::{Event, EventRules, Happening};
use crate::telemetry::otel::span::{TraceContext, Tracer};
use crate::telemetry::redact::cut;

/// Paths whose repeated events are told once in [`REPEAT_SECONDS`]; with more of them all are told again.
const PATHS_MAX: usize = 1000;
/// How long an event that every request of a path would repeat is not told again.
const REPEAT_SECONDS: f64 = 300.0;

/// The queues of the sinks that are on.
#[derive(Debug, Default)]
pub struct Outlets {
    /// What is told, and what must not be.
    pub rules: EventRules,
    /// Security events.
    pub events: Vec<Buffer<Arc<Event>>>,
    /// Decisions as spans.
    pub tracer: Option<Tracer>,
    /// Payloads of `on_block`.
    pub blocks: Option<Buffer<Payload>>,
    /// Payloads of `on_error`.
    pub errors: Option<Buffer<Payload>>,
}

impl Outlets {
    /// Counts what is left in the queues as lost.
    pub fn abandon(&self) {
        self.events.iter().for_each(Buffer::abandon);
        self.blocks.iter().chain(&self.errors).for_each(Buffer::abandon);
        self.tracer.iter().for_each(|tracer| tracer.queue.abandon());
    }
}

/// Where everything is told. Shared by all threads.
#[derive(Debug, Default)]
pub struct Bus {
    outlets: ArcSwap<Outlets>,
    tallies: Tallies,
    seen: Mutex<Seen>,
}

/// When an event was told for a path last.
#[derive(Debug, Default)]
struct Seen(HashMap<u64, Timestamp, foldhash::fast::FixedState>);

impl Seen {
    /// True for the first time in a while.
    fn is_new(&mut self, key: u64, now: Timestamp) -> bool {
        if let Some(last) = self.0.get_mut(&key) {
            let is_due = REPEAT_SECONDS <= now.since(*last);
            if is_due {
                *last = now;
            }
            return is_due;
        }
        if PATHS_MAX <= self.0.len() {
            self.0.clear();
        }
        self.0.insert(key, now);
        true
    }
}

/// Stands for an event of a path. Whoever makes two paths collide silences one event, nothing else.
fn key(kind: EventType, path: &str) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::default().hash_one((kind as u32, path))
}

impl Bus {
    /// The counts of all sinks.
    #[must_use]
    pub const fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// Puts other queues in the place of the present ones, which are returned.
    pub fn replace(&self, outlets: Arc<Outlets>) -> Arc<Outlets> {
        self.outlets.swap(outlets)
    }

    /// True when nobody wants to hear of every decision.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let outlets = self.outlets.load();
        outlets.events.is_empty() && outlets.tracer.is_none()
    }

    /// Tells what happened with a decision.
    pub fn decided(&self, happening: &Happening<'_, '_, '_>) {
        let decision = happening.decision;
        let outlets = self.outlets.load();
        let traced = outlets.tracer.as_ref().and_then(|tracer| tracer.trace(happening, &outlets.rules));
        if !outlets.events.is_empty() {
            for fact in outlets.rules.told(decision) {
                const ONCE: EventType = EventType::PathExcluded;
                let path = happening.request.target.path;
                if fact.event != ONCE || self.is_new(ONCE, &decode_once(path), happening.now) {
                    tell(&outlets.events, || {
                        let caller = || TraceContext::of(&happening.request.headers).map(TraceContext::caller);
                        Event { trace: traced.or_else(caller), ..outlets.rules.event(fact, happening) }
                    });
                }
            }
            if let (Verdict::Allow, Some(set)) = (&decision.verdict, decision.response_headers.constant) {
                self.dressed(&outlets, set, happening);
            }
        }
        if let Some(blocks) = &outlets.blocks {
            for block in &decision.blocks {
                blocks.offer(|| Payload::Block(Box::new(outlets.rules.block(block, happening))));
            }
        }
        if let (Some(errors), Verdict::Fail(denial)) = (&outlets.errors, &decision.verdict) {
            errors.offer(|| Payload::Failure(Box::new(outlets.rules.failure(denial, happening))));
        }
    }

    /// The first responses of a path in a while wear these headers.
    fn dressed(&self, outlets: &Outlets, set: &ConstantHeaders, happening: &Happening<'_, '_, '_>) {
        const KIND: EventType = EventType::SecurityHeadersApplied;
        if set.edits.is_empty() || outlets.rules.mutes(KIND) {
            return;
        }
        let path = decode_once(happening.request.target.path);
        if !self.is_new(KIND, &path, happening.now) {
            return;
        }
        let has = |name: &str| set.edits.iter().any(|edit| edit.name.eq_ignore_ascii_case(name));
        let path = outlets.rules.redaction().path(&path);
        let applied = AppliedHeaders {
            path: &path,
            count: set.edits.len(),
            has_csp: has("content-security-policy"),
            has_hsts: has("strict-transport-security"),
        };
        tell(&outlets.events, || system::headers_applied(happening.now, applied));
    }

    fn is_new(&self, kind: EventType, path: &str, now: Timestamp) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_new(key(kind, path), now)
    }

    /// Tells an event of the service itself.
    pub fn system(&self, event: Event) {
        let outlets = self.outlets.load();
        if !outlets.events.is_empty() && !outlets.rules.mutes(event.kind) {
            tell(&outlets.events, || outlets.rules.system(event));
        }
    }

    /// Tells `on_error` that something of ours failed. `stage` is one of guard-core's (`agent_init`, `geoip`,
    /// `transport_send`, `encryption`) or `webhook`; `error` holds no secret.
    pub fn failed(&self, stage: &'static str, error: &str) {
        let outlets = self.outlets.load();
        if let Some(errors) = &outlets.errors {
            errors.offer(|| {
                let error = outlets.rules.redaction().text(error).into_owned();
                Payload::Failure(Box::new(Failure { stage, error, check: None, at: clock::now(), context: None }))
            });
        }
    }
}

/// Tells the sinks what `make` makes. When none of them has room it is not made, and each has lost it.
fn tell(sinks: &[Buffer<Arc<Event>>], make: impl FnOnce() -> Event) {
    if sinks.iter().all(Buffer::is_shut) {
        return sinks.iter().for_each(Buffer::turn_away);
    }
    let event = Arc::new(make());
    for sink in sinks {
        sink.offer(|| Arc::clone(&event));
    }
}

impl EventRules {
    /// The payload of `on_block` for one block.
    fn block(&self, block: &OnBlock, happening: &Happening<'_, '_, '_>) -> Block {
        let owned = |text: &str| self.redaction().text(text).into_owned();
        Block {
            check_name: block.check_name,
            reason: owned(&block.reason),
            trigger_info: owned(&block.trigger_info),
            passive_mode: block.passive_mode,
            status_code: block.status_code,
            place: self.place(happening),
        }
    }

    /// The payload of `on_error` for a decision that failed.
    fn failure(&self, denial: &Denial<'_>, happening: &Happening<'_, '_, '_>) -> Failure {
        Failure {
            stage: "check",
            error: denial.body.clone().into_owned(),
            check: Some(denial.origin.name()),
            at: clock::now(),
            context: Some((self.place(happening), denial.origin)),
        }
    }

    /// What a payload says of the request.
    fn place(&self, happening: &Happening<'_, '_, '_>) -> Place {
        let request = happening.request;
        Place {
            client_ip: happening.client.to_string(),
            path: self.redaction().path(&decode_once(request.target.path)).into_owned(),
            method: cut(request.method).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
