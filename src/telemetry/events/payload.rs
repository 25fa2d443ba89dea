//! What `on_block` and `on_error` hear: small records on the way of a request, made into JSON where they are sent.

use serde_json::{Value, json};

use crate::model::decision::Origin;
use crate::model::time::Timestamp;
use crate::telemetry::events::json::{Style, moment};

/// The payload of a hook, redacted.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Something was refused, or would have been.
    Block(Box<Block>),
    /// Something of ours failed.
    Failure(Box<Failure>),
}

/// What both kinds say of the request.
#[derive(Clone, Debug)]
pub struct Place {
    /// Who asked.
    pub client_ip: String,
    /// Its path, without the query.
    pub path: String,
    /// Its method.
    pub method: String,
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct Block {
    /// Who objected.
    pub check_name: &'static str,
    /// Why.
    pub reason: String,
    /// What detection found; empty in active mode.
    pub trigger_info: String,
    /// Only reported.
    pub passive_mode: bool,
    /// What the client got; `None` in passive mode.
    pub status_code: Option<u16>,
    /// Of which request.
    pub place: Place,
}

/// A failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was being done: `check`, `agent_init`, `transport_send`, `webhook`.
    pub stage: &'static str,
    /// What went wrong.
    pub error: String,
    /// Which check failed, when one did.
    pub check: Option<&'static str>,
    /// When.
    pub at: Timestamp,
    /// Of which request, and whose answer it was, when there was one.
    pub context: Option<(Place, Origin)>,
}

impl Payload {
    /// As it is sent.
    #[must_use]
    pub fn json(&self) -> Value {
        match self {
            Self::Block(block) => json!({
                "check_name": block.check_name,
                "reason": block.reason,
                "trigger_info": block.trigger_info,
                "passive_mode": block.passive_mode,
                "client_ip": block.place.client_ip,
                "path": block.place.path,
                "method": block.place.method,
                "status_code": block.status_code,
            }),
            Self::Failure(failure) => json!({
                "stage": failure.stage,
                "error": failure.error,
                "check_name": failure.check,
                "context": failure.context.as_ref().map(|(place, origin)| json!({
                    "client_ip": place.client_ip,
                    "path": place.path,
                    "method": place.method,
                    "origin": origin.name(),
                })),
                "timestamp": moment(failure.at, Style::Joined),
            }),
        }
    }
}
