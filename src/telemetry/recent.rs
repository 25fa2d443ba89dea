//! Recent decisions, for operators: what was refused and why, by the ids under which client and log know it. Bounded in
//! count and bytes; the oldest goes first. A request that is allowed costs one comparison, unless samples are asked for.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::config::server::DecisionsConfig;
use crate::model::decision::{DetectionSummary, Origin, Spot, Verdict};
use crate::model::time::Timestamp;
use crate::telemetry::events::{EventRules, Happening, object};
use crate::telemetry::lines::Subject;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::redact::{MASK, cut};

/// Bytes of one record at most; one that would be larger loses the metadata of its facts, then the facts.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What a record takes beside its text.
const RECORD_OVERHEAD: usize = 256;
/// Facts of one decision that are recorded at most.
const FACTS_MAX: usize = 16;
/// Bytes of an id, of a route and of a client that are recorded at most.
const ID_BYTES_MAX: usize = 128;

/// What is kept of decisions, compiled from the configuration.
#[derive(Clone, Debug, Default)]
pub struct Keeping {
    config: DecisionsConfig,
    rules: EventRules,
}

impl Keeping {
    /// The rules of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { config: config.telemetry.decisions.clone(), rules: EventRules::new(&config.security) }
    }

    /// True when a decision is to be recorded. `turn` counts the allowed requests of the thread.
    pub(super) fn wants(&self, outcome: Outcome, origin: Option<Origin>, turn: &Cell<u32>) -> bool {
        if self.config.entries == 0 {
            return false;
        }
        // An answer in the place of the application is no refusal.
        let is_answer = matches!(origin, Some(Origin::CorsPreflight | Origin::CspReport));
        match outcome {
            Outcome::Deny | Outcome::Fail | Outcome::Report if !is_answer => true,
            _ if self.config.allowed_every == 0 => false,
            _ => {
                let next = turn.get().wrapping_add(1);
                turn.set(if next < self.config.allowed_every { next } else { 0 });
                self.config.allowed_every <= next
            }
        }
    }

    /// The record of a decision; its number comes from the ring.
    pub(super) fn record(&self, subject: &Subject<'_, '_, '_>, happening: &Happening<'_, '_, '_>) -> Record {
        let short = |text: &str| text.get(..text.floor_char_boundary(ID_BYTES_MAX)).unwrap_or_default().to_owned();
        let (request, decision) = (subject.request, subject.decision);
        let mut text = self.document(subject, happening, Detail::All).to_string();
        for detail in [Detail::NoMetadata, Detail::NoFacts] {
            if RECORD_BYTES_MAX < text.len() {
                text = self.document(subject, happening, detail).to_string();
            }
        }
        Record {
            number: 0,
            at: happening.now,
            outcome: subject.outcome,
            check: subject.origin.map(Origin::name),
            client: short(&subject.client.to_string()),
            route: decision.route.map(short),
            request_id: short(request.id),
            shared_id: request.shared_id().map(short),
            text: text.into(),
        }
    }

    fn document(&self, subject: &Subject<'_, '_, '_>, happening: &Happening<'_, '_, '_>, detail: Detail) -> Value {
        let (request, decision, redaction) = (subject.request, subject.decision, self.rules.redaction());
        let denial = match &decision.verdict {
            Verdict::Allow => None,
            Verdict::Deny(denial) | Verdict::Fail(denial) => Some(denial),
        };
        let reason = match (decision.blocks.last(), decision.reason(), denial) {
            (Some(block), _, _) => Some(redaction.text(&block.reason).into_owned()),
            (None, Some(reason), _) => Some(redaction.text(&reason).into_owned()),
            (None, None, denial) => denial.map(|denial| redaction.text(&denial.body).into_owned()),
        };
        let mut document = json!({
            "status": denial.map(|denial| denial.status),
            "reason": reason,
            "method": cut(request.method),
            "host": redaction.text(cut(request.host)),
            "target": redaction.target(request.target.raw),
            "country": decision.country.map(|country| country.as_str().to_owned()),
            "asn": decision.asn,
            "us": subject.us,
        });
        let Value::Object(fields) = &mut document else { return document };
        for (name, holds) in [("passive", decision.passive), ("excluded", decision.excluded)] {
            if holds {
                fields.insert(name.to_owned(), Value::Bool(true));
            }
        }
        if let Some(delay) = &decision.delay {
            fields.insert("delay_ms".to_owned(), delay.millis.into());
        }
        for (name, found) in [("detection", &decision.detection), ("log_only", &decision.observed)] {
            if let Some(found) = found {
                fields.insert(name.to_owned(), self.detection(found, request.target.path));
            }
        }
        if detail != Detail::NoFacts {
            fields.insert("facts".to_owned(), self.facts(happening, detail));
        }
        document
    }

    fn facts(&self, happening: &Happening<'_, '_, '_>, detail: Detail) -> Value {
        let facts = happening.decision.facts.iter().take(FACTS_MAX).map(|fact| {
            let metadata = match detail {
                Detail::All => object(&self.rules.metadata(fact, happening.request)),
                Detail::NoMetadata | Detail::NoFacts => Value::Null,
            };
            json!({
                "event": fact.event.name(),
                "action": fact.action,
                "check": fact.origin().name(),
                "reason": self.rules.redaction().text(&fact.reason),
                "metadata": metadata,
            })
        });
        facts.collect()
    }

    /// What was found where; and what an exclusion has to say to let it pass.
    fn detection(&self, found: &DetectionSummary, path: &str) -> Value {
        let redaction = self.rules.redaction();
        let is_secret = is_secret(&found.spot, |name| redaction.is_secret(name));
        let hits: Vec<Value> = found
            .hits
            .iter()
            .map(|hit| {
                let text = if is_secret { MASK.into() } else { redaction.text(&hit.text) };
                json!({ "row": hit.row, "view": hit.view, "text": text })
            })
            .collect();
        json!({
            "score": found.score,
            "categories": found.categories,
            "rows": found.rows,
            "trigger": redaction.text(&found.trigger),
            "hits": hits,
            "exclusions": exclusions(found, path),
        })
    }
}

/// How much a record tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Detail {
    All,
    NoMetadata,
    NoFacts,
}

/// True when the value lies under the name of a secret.
fn is_secret(spot: &Spot, holds: impl Fn(&str) -> bool) -> bool {
    spot.name.split(['.', '/', '[', ']', ':', ' ']).any(holds)
}

/// One entry for each row: this row, on this path, in this place, and nothing else.
fn exclusions(found: &DetectionSummary, path: &str) -> Vec<Value> {
    let can_be_named = path.starts_with('/') && !path.contains(['?', '#']);
    let rows = found.rows.iter().take(crate::model::decision::HITS_MAX);
    let entry = |row| {
        let mut entry = Map::new();
        if can_be_named {
            entry.insert("path".to_owned(), cut(path).into());
        }
        if let Some(key) = found.spot.key {
            entry.insert(key.to_owned(), found.spot.name.as_str().into());
        }
        entry.insert("row".to_owned(), Value::from(row));
        Value::Object(entry)
    };
    rows.map(|row| entry(row.as_ref())).collect()
}

/// One recorded decision, redacted.
#[derive(Clone, Debug)]
pub struct Record {
    /// Counts the records of this process, from 1.
    pub number: u64,
    /// When it was made.
    pub at: Timestamp,
    /// What it counts as.
    pub outcome: Outcome,
    /// Who decided.
    pub check: Option<&'static str>,
    /// Whom it is about.
    pub client: String,
    /// The route that matched.
    pub route: Option<String>,
    /// Envoy's id of the request: `request_id` in metadata and log.
    pub request_id: String,
    /// `x-request-id`, which the client knows, too.
    pub shared_id: Option<String>,
    /// Everything else, as a JSON object.
    text: Box<str>,
}

impl Record {
    /// All of it as one object.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut shown = json!({
            "id": self.number.to_string(),
            "at": self.at.0,
            "verdict": self.outcome.name(),
            "check": self.check,
            "client": self.client,
            "route": self.route,
            "request_id": self.request_id,
            "x_request_id": self.shared_id,
        });
        let rest: Map<String, Value> = serde_json::from_str(&self.text).unwrap_or_default();
        if let Value::Object(fields) = &mut shown {
            fields.extend(rest);
        }
        shown
    }

    /// True when this is one of its ids: its number, Envoy's id, `x-request-id`.
    #[must_use]
    pub fn is_called(&self, id: &str) -> bool {
        self.request_id == id || self.shared_id.as_deref() == Some(id) || self.number.to_string() == id
    }

    fn bytes(&self) -> usize {
        let ids = self.client.len() + self.request_id.len() + self.shared_id.as_ref().map_or(0, String::len);
        RECORD_OVERHEAD + ids + self.route.as_ref().map_or(0, String::len) + self.text.len()
    }
}

/// The records of all threads. They are made outside the lock, which is held for a moment.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    made: u64,
}

/// How full the ring is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Fill {
    /// Records held.
    pub kept: usize,
    /// Bytes they take.
    pub bytes: usize,
    /// Records made since the process started.
    pub made: u64,
}

impl Recent {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record in; the oldest go where they exceed the bounds of `keeping`.
    pub(super) fn keep(&self, mut record: Record, keeping: &Keeping) {
        let (entries, bytes) = (keeping.config.entries, keeping.config.bytes);
        let bound = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let mut gone = Vec::new();
        let mut ring = self.ring();
        ring.made += 1;
        record.number = ring.made;
        ring.bytes += record.bytes();
        ring.records.push_back(Arc::new(record));
        while bound(entries) < ring.records.len() || bound(bytes) < ring.bytes {
            let Some(oldest) = ring.records.pop_front() else { break };
            ring.bytes -= oldest.bytes();
            gone.push(oldest);
        }
        drop(ring);
        // Memory is given back outside the lock.
        drop(gone);
    }

    /// All records, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Record>> {
        self.ring().records.iter().map(Arc::clone).collect()
    }

    /// The newest record that is called so.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Record>> {
        self.ring().records.iter().rev().find(|record| record.is_called(id)).map(Arc::clone)
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let ring = self.ring();
        Fill { kept: ring.records.len(), bytes: ring.bytes, made: ring.made }
    }
}

#[cfg(test)]
mod tests;
