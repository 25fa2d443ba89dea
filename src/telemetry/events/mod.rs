//! Security events: what a decision, or the service itself, has to tell, in guard-core's envelope.
//!
//! An event is made after the answer, from the facts of the decision, already redacted: no sink sees anything else.

pub mod json;
pub mod payload;
pub mod system;

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::config::security::SecurityConfig;
use crate::model::addr::Client;
use crate::model::decision::{Decision, Fact, FactValue};
use crate::model::event::EventType;
use crate::model::place::CountryCode;
use crate::model::time::Timestamp;
use crate::request::Request;
use crate::request::path::decode_once;
use crate::telemetry::events::json::Style;
use crate::telemetry::otel::span::Joined;
use crate::telemetry::redact::Redaction;

/// Entries of one event's metadata; what a decision says beyond is left out.
const METADATA_MAX: usize = 64;
/// Texts shown of a list in metadata.
const LIST_MAX: usize = 64;
/// Bytes kept of `traceparent` and `tracestate`.
const TRACE_BYTES_MAX: usize = 512;
/// The address of events that no request caused.
pub const SYSTEM: &str = "system";

/// The handler of facts that tell the whole request.
const BUS: &str = "middleware";

/// Metadata of an event, in order.
pub type Metadata = Vec<(Cow<'static, str>, FactValue)>;

/// One security event, redacted.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Lets a receiver drop what it has seen.
    pub key: Uuid,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventType,
    /// Whom it is about: an address, `system`, or nothing.
    pub address: String,
    /// The client's country, when it is known and the event is one of the pipeline.
    pub country: Option<CountryCode>,
    /// User-Agent of the request.
    pub user_agent: Option<String>,
    /// What was done.
    pub action: Cow<'static, str>,
    /// Why, in one sentence.
    pub reason: String,
    /// Path of the request, without its query.
    pub endpoint: Option<String>,
    /// Method of the request.
    pub method: Option<String>,
    /// Seconds from the question to its answer.
    pub response_time: Option<f64>,
    /// The row that matched.
    pub pattern: Option<String>,
    /// The part of the engine that tells it.
    pub handler: Option<&'static str>,
    /// Everything else.
    pub metadata: Metadata,
    /// Trace and span that it belongs to.
    pub trace: Option<Joined>,
}

impl Event {
    /// The envelope: guard-core's fields in guard-core's order.
    #[must_use]
    pub fn envelope(&self, style: Style) -> Value {
        let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
        let copied = |name: &str| match self.metadata.iter().find(|(key, _)| key == name) {
            Some((_, FactValue::Text(text))) => Value::from(text.as_str()),
            Some(_) | None => Value::Null,
        };
        let fields = [
            ("idempotency_key", Value::from(self.key.to_string())),
            ("timestamp", Value::from(json::moment(self.at, style))),
            ("event_type", Value::from(self.kind.name())),
            ("ip_address", Value::from(self.address.as_str())),
            ("country", self.country.as_ref().map_or(Value::Null, |code| Value::from(code.as_str()))),
            ("user_agent", text(&self.user_agent)),
            ("action_taken", Value::from(&*self.action)),
            ("reason", Value::from(self.reason.as_str())),
            ("endpoint", text(&self.endpoint)),
            ("method", text(&self.method)),
            ("status_code", Value::Null),
            ("response_time", self.response_time.map_or(Value::Null, Value::from)),
            ("decorator_type", copied("decorator_type")),
            ("rule_type", copied("rule_type")),
            ("pattern_matched", text(&self.pattern)),
            ("handler_name", self.handler.map_or(Value::Null, Value::from)),
            ("metadata", object(&self.metadata)),
        ];
        Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// Metadata as a JSON object.
#[must_use]
pub fn object(metadata: &Metadata) -> Value {
    let fields: Map<String, Value> =
        metadata.iter().map(|(key, value)| (key.clone().into_owned(), plain(value))).collect();
    Value::Object(fields)
}

fn plain(value: &FactValue) -> Value {
    match value {
        FactValue::Text(text) => Value::from(text.as_str()),
        FactValue::Int(number) => Value::from(*number),
        FactValue::Float(number) => Value::from(*number),
        FactValue::Bool(flag) => Value::Bool(*flag),
        FactValue::List(items) => Value::from(items.clone()),
        FactValue::Null => Value::Null,
    }
}

/// Which events are told, and what they must not say; compiled from the configuration.
#[derive(Clone, Debug, Default)]
pub struct EventRules {
    muted: Vec<EventType>,
    redaction: Redaction,
}

/// A decision with what an event says about its request.
#[derive(Clone, Copy, Debug)]
pub struct Happening<'a, 'r, 'p> {
    /// What was asked.
    pub request: &'a Request<'r>,
    /// What was answered.
    pub decision: &'a Decision<'p>,
    /// Who asked.
    pub client: Client<'a>,
    /// How long the answer took.
    pub took: Duration,
    /// When it was given.
    pub now: Timestamp,
}

impl EventRules {
    /// The rules of a configuration.
    #[must_use]
    pub fn new(security: &SecurityConfig) -> Self {
        Self {
            muted: security.muted_event_types.iter().filter_map(|name| EventType::named(name)).collect(),
            redaction: Redaction::new(security),
        }
    }

    /// True when events of this type are not told.
    #[must_use]
    pub fn mutes(&self, kind: EventType) -> bool {
        self.muted.contains(&kind)
    }

    /// What must not be told.
    #[must_use]
    pub const fn redaction(&self) -> &Redaction {
        &self.redaction
    }

    /// The facts of a decision that become events, in order.
    pub fn told<'h>(&'h self, decision: &'h Decision<'_>) -> impl Iterator<Item = &'h Fact> + 'h {
        decision.facts.iter().filter(|fact| !self.mutes(fact.event))
    }

    /// The events of a decision, in order.
    pub fn of<'h>(&'h self, happening: &'h Happening<'_, '_, '_>) -> impl Iterator<Item = Event> + 'h {
        self.told(happening.decision).map(|fact| self.event(fact, happening))
    }

    /// The event that a fact becomes.
    #[must_use]
    pub fn event(&self, fact: &Fact, happening: &Happening<'_, '_, '_>) -> Event {
        let request = happening.request;
        let is_bus = fact.handler == BUS;
        // The limiter and the address resolver tell the request, too, but nothing that needs looking up; the limiter leaves
        // out who asks as well.
        let tells_agent = is_bus || fact.handler == "ip_extraction";
        let tells_request = is_bus || matches!(fact.handler, "rate_limit" | "ip_extraction");
        // guard-core tells what the browser says of the page, and not who it is.
        let is_report = fact.event == EventType::CspViolation;
        let metadata = self.metadata(fact, request);
        let agent = request.headers.get("user-agent").map(String::from_utf8_lossy);
        let pattern = (fact.event == EventType::PatternDetected).then(|| named(&metadata, "pattern")).flatten();
        Event {
            key: Uuid::new_v4(),
            at: happening.now,
            kind: fact.event,
            address: if is_report { String::new() } else { happening.client.to_string() },
            country: happening.decision.country.filter(|_| is_bus),
            user_agent: agent.filter(|_| tells_agent).map(|agent| self.redaction.text(&agent).into_owned()),
            action: fact.action.clone(),
            reason: if is_report { String::new() } else { self.redaction.text(&fact.reason).into_owned() },
            endpoint: tells_request.then(|| self.redaction.path(&decode_once(request.target.path)).into_owned()),
            method: tells_request.then(|| crate::telemetry::redact::cut(request.method).to_owned()),
            response_time: tells_request.then_some(happening.took.as_secs_f64()),
            pattern,
            handler: Some(fact.handler).filter(|name| !name.is_empty()),
            metadata,
            trace: None,
        }
    }

    /// The metadata of the event that a fact becomes.
    #[must_use]
    pub fn metadata(&self, fact: &Fact, request: &Request<'_>) -> Metadata {
        let mut metadata: Metadata = fact
            .metadata
            .iter()
            .take(METADATA_MAX)
            .map(|(key, value)| (Cow::Borrowed(*key), self.clean(key, value)))
            .collect();
        if fact.event == EventType::PatternDetected {
            self.hide_preview(&mut metadata);
        }
        if fact.handler == BUS {
            for name in ["traceparent", "tracestate"] {
                let text = request.headers.get(name).and_then(|value| std::str::from_utf8(value).ok());
                if let Some(text) = text.filter(|text| text.len() <= TRACE_BYTES_MAX) {
                    metadata.push((Cow::Borrowed(name), FactValue::Text(self.redaction.text(text).into_owned())));
                }
            }
        }
        metadata
    }

    /// What lies under the name of a secret is not quoted. The name itself served for this alone.
    fn hide_preview(&self, metadata: &mut Metadata) {
        let field = named(metadata, "field").unwrap_or_default();
        let is_secret = field.split(['.', '/', '[', ']', ':', ' ']).any(|part| self.redaction.is_secret(part));
        metadata.retain(|(key, _)| key != "field");
        for (_, value) in metadata.iter_mut().filter(|(key, _)| is_secret && key == "content_preview") {
            *value = FactValue::Text(crate::telemetry::redact::MASK.to_owned());
        }
    }

    /// A value without what is secret: under a secret's name nothing of it is left.
    fn clean(&self, key: &str, value: &FactValue) -> FactValue {
        match value {
            FactValue::Text(text) if !self.redaction.is_secret(key) => {
                FactValue::Text(self.redaction.text(text).into_owned())
            }
            FactValue::Text(_) => FactValue::Text(crate::telemetry::redact::MASK.to_owned()),
            FactValue::List(items) => FactValue::List(
                items.iter().take(LIST_MAX).map(|item| self.redaction.text(item).into_owned()).collect(),
            ),
            FactValue::Int(_) | FactValue::Float(_) | FactValue::Bool(_) | FactValue::Null => value.clone(),
        }
    }

    /// An event of the service itself: its texts without what is secret.
    #[must_use]
    pub fn system(&self, event: Event) -> Event {
        let reason = self.redaction.text(&event.reason).into_owned();
        let metadata = event.metadata.iter().take(METADATA_MAX);
        let metadata = metadata.map(|(key, value)| (key.clone(), self.clean(key, value))).collect();
        let pattern = event.pattern.as_deref().map(|pattern| self.redaction.text(pattern).into_owned());
        let endpoint = event.endpoint.as_deref().map(|path| self.redaction.path(path).into_owned());
        Event { reason, metadata, pattern, endpoint, ..event }
    }
}

fn named(metadata: &Metadata, name: &str) -> Option<String> {
    metadata.iter().find_map(|(key, value)| match value {
        FactValue::Text(text) if key == name => Some(text.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
