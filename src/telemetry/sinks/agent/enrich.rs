//! `enable_enrichment`: what an analyst would look up about an event, added to its metadata.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::security::SecurityConfig;
use crate::model::event::EventType;
use crate::telemetry::events::Event;
use crate::telemetry::sinks::post::hex;

/// Length of the window in which events belong together, in seconds.
const WINDOW: f64 = 300.0;
/// Events remembered for counting.
const RECENT_MAX: usize = 10_000;

/// Who we are, and what was seen lately.
#[derive(Debug)]
pub(super) struct Enrichment {
    project: Option<String>,
    service: String,
    environment: Option<String>,
    recent: Mutex<Recent>,
}

/// Events of the last window, by address.
#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<(f64, String)>,
    counts: HashMap<String, u64>,
}

impl Recent {
    /// Events of this address within the window before this one; notes this one.
    fn note(&mut self, at: f64, address: &str) -> u64 {
        while self.order.front().is_some_and(|(seen, _)| *seen < at - WINDOW) || RECENT_MAX <= self.order.len() {
            let Some((_, gone)) = self.order.pop_front() else { break };
            if let Some(count) = self.counts.get_mut(&gone) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&gone);
                }
            }
        }
        let count = self.counts.entry_ref(address).or_insert(0);
        let before = *count;
        *count += 1;
        self.order.push_back((at, address.to_owned()));
        before
    }
}

impl Enrichment {
    pub(super) fn of(security: &SecurityConfig) -> Option<Self> {
        security.enable_enrichment.then(|| Self {
            project: security.agent_project_id.clone(),
            service: security.otel_service_name.clone(),
            environment: security.otel_resource_attributes.get("deployment.environment").cloned(),
            recent: Mutex::default(),
        })
    }

    /// Who we are.
    pub(super) fn identity(&self) -> impl Iterator<Item = (String, Value)> {
        let fields = [
            ("guard.project_id", self.project.as_deref()),
            ("guard.service.name", Some(self.service.as_str())),
            ("guard.deployment.environment", self.environment.as_deref()),
        ];
        let known = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
        known.collect::<Vec<_>>().into_iter()
    }

    /// What is added to the metadata of an event.
    pub(super) fn of_event(&self, event: &Event) -> impl Iterator<Item = (String, Value)> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner).note(event.at.0, &event.address);
        let window = (event.at.0 / WINDOW).floor() as i64;
        let key = hex(&Sha256::digest(format!("{}|{}|{window}", event.address, self.service)));
        self.identity().chain([
            ("guard.threat_score".to_owned(), Value::from(threat_score(event.kind))),
            ("guard.behavior.recent_event_count".to_owned(), Value::from(recent)),
            ("guard.behavior.correlation_key".to_owned(), Value::from(key.get(..16).unwrap_or_default())),
        ])
    }
}

/// How grave an event is, 0 to 100.
const fn threat_score(kind: EventType) -> u64 {
    use EventType as E;
    match kind {
        E::PenetrationAttempt => 90,
        E::IpBanned => 70,
        E::EmergencyModeActivated => 60,
        E::IpBlocked
        | E::BehavioralViolation
        | E::CloudBlocked
        | E::CountryBlocked
        | E::DecoratorViolation
        | E::AuthenticationFailed
        | E::EmergencyModeBlock
        | E::DynamicRuleViolation
        | E::PatternDetected
        | E::SuspiciousRequest => 50,
        E::DynamicRuleApplied
        | E::CspViolation
        | E::ContentFiltered
        | E::CustomRequestCheck
        | E::DecodingError
        | E::RedisError
        | E::IpBanFailed
        | E::DetectionEngineCallbackError
        | E::PatternAnomalyTimeout
        | E::PatternAnomalySlowExecution
        | E::PatternAnomalyStatisticalAnomaly => 40,
        E::AccessDenied | E::UserAgentBlocked | E::SecurityBypass => 30,
        E::RateLimited | E::GeoLookupFailed | E::RedisConnection | E::RouteUnresolved => 20,
        E::IpUnbanned
        | E::HttpsEnforced
        | E::DynamicRuleUpdated
        | E::PathExcluded
        | E::PatternAdded
        | E::PatternRemoved
        | E::RateLimitScriptReloaded
        | E::SecurityHeadersApplied => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_events_are_counted_by_address_within_the_window() {
        let mut recent = Recent::default();
        let counts = [(0.0, "a"), (1.0, "a"), (2.0, "b"), (300.0, "a"), (301.5, "a"), (900.0, "a")]
            .map(|(at, address)| recent.note(at, address));
        assert_eq!(counts, [0, 1, 0, 2, 1, 0]);
        assert_eq!((recent.order.len(), recent.counts.len()), (1, 1), "what left the window is forgotten");
        for number in 0..2 * RECENT_MAX {
            recent.note(900.0, &number.to_string());
        }
        assert_eq!((recent.order.len(), recent.counts.len()), (RECENT_MAX, RECENT_MAX));
    }
}
