//! What goes over the wire: items, batches, and what must not be in them.

use serde_json::{Map, Value, json};

use crate::model::time::Timestamp;
use crate::net::agent::AGENT_VERSION;
use crate::telemetry::events::Event;
use crate::telemetry::events::json::{Style, moment};
use crate::telemetry::metrics::Totals;
use crate::telemetry::redact::MASK;
use crate::telemetry::sinks::agent::Settings;

/// The release of guard-core whose events these are.
pub(super) const CORE_VERSION: &str = "4.4.0";
/// Headers whose values are in no batch.
pub(super) const SENSITIVE: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];
/// Nesting that is looked into.
const DEPTH_MAX: usize = 10;
/// Bytes of JSON inside a text that are looked into.
const NESTED_BYTES_MAX: usize = 8192;

/// Something that is sent in batches.
pub(super) trait Item {
    /// Where its batches go.
    const ROUTE: Route;

    /// As a batch holds it; `None` when it is too large to be sent at all.
    fn wire(&self, settings: &Settings) -> Option<Value>;
}

/// Which part of a batch is filled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Route {
    Events,
    Metrics,
}

impl Route {
    /// Where batches go that are not encrypted.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Events => "/api/v1/events",
            Self::Metrics => "/api/v1/metrics",
        }
    }

    /// Events and metrics of a batch, in this order.
    fn split(self, items: Vec<Value>) -> (Value, Value) {
        let empty = || Value::Array(Vec::new());
        match self {
            Self::Events => (Value::Array(items), empty()),
            Self::Metrics => (empty(), Value::Array(items)),
        }
    }
}

impl Item for std::sync::Arc<Event> {
    const ROUTE: Route = Route::Events;

    fn wire(&self, settings: &Settings) -> Option<Value> {
        let style = settings.style();
        let mut value = self.envelope(style);
        if let (Some(enrichment), Some(Value::Object(metadata))) = (&settings.enrichment, value.get_mut("metadata")) {
            metadata.extend(enrichment.of_event(self));
        }
        if let Some(metadata) = value.get_mut("metadata") {
            sanitise(metadata, &settings.sensitive, DEPTH_MAX);
        }
        let Some(max) = settings.event_bytes_max else { return Some(value) };
        if value.to_string().len() <= max {
            return Some(value);
        }
        // The envelope says what matters.
        if let Some(metadata) = value.get_mut("metadata") {
            *metadata = json!({ "truncated": true });
        }
        (value.to_string().len() <= max).then_some(value)
    }
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Metric {
    pub(super) at: Timestamp,
    pub(super) kind: &'static str,
    pub(super) value: f64,
    pub(super) tags: Vec<(&'static str, String)>,
}

impl Item for Metric {
    const ROUTE: Route = Route::Metrics;

    fn wire(&self, settings: &Settings) -> Option<Value> {
        let mut tags: Map<String, Value> =
            self.tags.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect();
        if let Some(enrichment) = &settings.enrichment {
            tags.extend(enrichment.identity());
        }
        Some(json!({
            "timestamp": moment(self.at, settings.style()),
            "metric_type": self.kind,
            "value": self.value,
            "endpoint": Value::Null,
            "tags": tags,
        }))
    }
}

impl Settings {
    /// How moments are written: encrypted batches differ.
    pub(super) const fn style(&self) -> Style {
        if self.sealer.is_some() { Style::Joined } else { Style::Spaced }
    }
}

/// What happened between two readings: requests let pass, the share refused, and failures.
pub(super) fn since(now: &Totals, before: &Totals, at: Timestamp) -> Vec<Metric> {
    let more = |pick: fn(&Totals) -> u64| pick(now).saturating_sub(pick(before)) as f64;
    let (passed, refused, failed) =
        (more(|totals| totals.passed), more(|totals| totals.refused), more(|totals| totals.failed));
    let all = passed + refused + failed;
    if all == 0.0 {
        return Vec::new();
    }
    let metric = |kind, value| Metric { at, kind, value, tags: Vec::new() };
    let mut metrics = vec![metric("request_count", passed), metric("block_rate", refused / all)];
    if 0.0 < failed {
        metrics.push(Metric { tags: vec![("status", "500".to_owned())], ..metric("error_rate", failed) });
    }
    metrics
}

/// The body of a batch that is not encrypted, in the order of its fields.
pub(super) fn batch(settings: &Settings, route: Route, items: Vec<Value>, (id, now): (&str, Timestamp)) -> Value {
    let (events, metrics) = route.split(items);
    json!({
        "project_id": settings.identity.project_id.as_deref().unwrap_or("default"),
        "events": events,
        "metrics": metrics,
        "batch_id": id,
        "created_at": moment(now, Style::Spaced),
        "compressed": false,
        "agent_version": AGENT_VERSION,
        "guard_version": settings.guard_version,
        "guard_core_version": CORE_VERSION,
    })
}

/// What is encrypted of a batch.
pub(super) fn inner(route: Route, items: Vec<Value>) -> Value {
    let (events, metrics) = route.split(items);
    json!({ "events": events, "metrics": metrics })
}

/// The body around an encrypted batch.
pub(super) fn sealed(settings: &Settings, payload: &str, id: &str) -> Value {
    json!({
        "encrypted_payload": payload,
        "batch_id": id,
        "agent_version": AGENT_VERSION,
        "guard_version": settings.guard_version,
        "guard_core_version": CORE_VERSION,
    })
}

/// Masks what stands under sensitive names, in JSON inside texts too.
pub(super) fn sanitise(value: &mut Value, sensitive: &[String], depth: usize) {
    let Some(depth) = depth.checked_sub(1) else {
        *value = Value::from(MASK);
        return;
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                let name = name.trim().to_lowercase();
                if sensitive.contains(&name) { *value = Value::from(MASK) } else { sanitise(value, sensitive, depth) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| sanitise(item, sensitive, depth)),
        Value::String(text) if text.trim_start().starts_with(['{', '[', '"']) => {
            if NESTED_BYTES_MAX < text.len() {
                MASK.clone_into(text);
            } else if let Ok(mut nested) = serde_json::from_str::<Value>(text) {
                let before = nested.clone();
                sanitise(&mut nested, sensitive, depth);
                if nested != before {
                    *text = nested.to_string();
                }
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
