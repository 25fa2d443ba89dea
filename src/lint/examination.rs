//! What is looked at, and how findings are reported.

use crate::config::errors::Place;
use crate::config::{Config, Loaded};
use crate::lint::codes::Code;
use crate::lint::finding::Finding;
use crate::lint::spot::Spot;
use crate::lint::survey::Survey;

/// Findings reported at most; more would only bury the first ones.
const FINDINGS_MAX: usize = 500;
/// Bytes that headers, attributes and framing may add to a body in one message.
pub(super) const OVERHEAD_BYTES: u64 = 64 * 1024;
/// Bytes that detection reads beyond the bound of a body.
const BODY_SLACK_BYTES: u64 = 256;
/// A timeout above it hangs requests more than it helps.
pub(super) const TIMEOUT_MILLIS_MAX: u64 = 5000;

/// What is looked at, and what was found.
pub(super) struct Examination<'a> {
    pub(super) loaded: Option<&'a Loaded>,
    pub(super) survey: Survey<'a>,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Examination<'a> {
    /// The policy, when it can be used.
    pub(super) fn config(&self) -> Option<&'a Config> {
        self.loaded.map(|loaded| &loaded.config)
    }

    /// Reports `code` at a place of a file of others.
    pub(super) fn say(&mut self, code: &'static Code, spot: Spot<'_>, detail: impl Into<String>) {
        self.push(code, Some(spot.place().clone()), detail.into());
    }

    /// Reports `code` about a key of the policy.
    pub(super) fn policy(&mut self, code: &'static Code, key: &str, detail: impl Into<String>) {
        let place = self.loaded.and_then(|loaded| crate::config::locate(loaded, key));
        self.push(code, place, detail.into());
    }

    pub(super) fn push(&mut self, code: &'static Code, place: Option<Place>, detail: String) {
        let is_known = |known: &Finding| known.code.id == code.id && known.place == place && known.detail == detail;
        if self.findings.len() < FINDINGS_MAX && !self.findings.iter().any(is_known) {
            self.findings.push(Finding { code, place, detail });
        }
    }

    /// Milliseconds that the guard may wait for its state.
    pub(super) fn state_deadline(&self) -> Option<u64> {
        let config = self.config()?;
        config.security.enable_redis.then_some(u64::from(config.limits.state_deadline_ms))
    }

    /// Bytes of a body that the policy wants to see; none when detection leaves bodies out.
    pub(super) fn wanted_body(&self) -> Option<u64> {
        let security = &self.config()?.security;
        let on = security.enable_penetration_detection && security.detection_scan_body;
        on.then(|| u64::from(security.detection_max_body_inspect_bytes) + BODY_SLACK_BYTES)
    }

    /// Reports a switch that has to be on.
    pub(super) fn must_be_on(&mut self, code: &'static Code, switch: Spot<'_>) {
        if !switch.is_true() {
            self.say(code, switch, "");
        }
    }
}
