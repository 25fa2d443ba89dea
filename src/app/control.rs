//! What operators may do to the running service.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::app::build::{Inputs, Refusal};
use crate::app::keeper::{Change, Mailbox};
use crate::app::serve::House;
use crate::clock::{self, Budget};
use crate::config::redacted::redacted_json;
use crate::config::{Config, Sources};
use crate::detect::View;
use crate::detect::custom::{self, CustomPatterns};
use crate::model::addr::{ClientAddr, IpEntry};
use crate::server::admin::Report;
use crate::server::api::{Control, PatternSet};
use crate::state::Backend;
use crate::telemetry::recent::Recent;

/// Time that trying a pattern may take.
const TRIAL_MAX: Duration = Duration::from_secs(10);

/// Keys, or beginnings of keys, that a running service does not take over.
const NEEDS_RESTART: [&str; 18] = [
    "listeners.grpc",
    "listeners.unix",
    "listeners.unix_mode",
    "listeners.workers",
    "admin.address",
    "admin.unix",
    "admin.unix_mode",
    "redis.",
    "security.redis_",
    "security.enable_redis",
    "limits.",
    "telemetry.log_filter",
    "telemetry.queue",
    "security.log_format",
    "security.custom_log_file",
    "data.dynamic_rules",
    "security.enable_dynamic_rules",
    "security.dynamic_rule",
];

/// The service, seen by operators.
pub(in crate::app) struct Operations {
    pub(in crate::app) house: Arc<House>,
    pub(in crate::app) mailbox: Mailbox,
    pub(in crate::app) sources: Sources,
}

impl Control for Operations {
    fn store(&self) -> &Backend {
        &self.house.state
    }

    fn listed(&self, address: ClientAddr) -> Vec<(&'static str, String)> {
        let config = Arc::clone(&self.house.live.snapshot().config);
        let security = &config.security;
        let whitelist = security.whitelist.as_deref().unwrap_or_default();
        let lists: [(&'static str, &[IpEntry]); 3] = [
            ("security.whitelist", whitelist),
            ("security.blacklist", &security.blacklist),
            ("security.emergency_whitelist", &security.emergency_whitelist),
        ];
        let covering = |(key, list): (&'static str, &[IpEntry])| {
            let found = list.iter().filter(|entry| entry.contains(address));
            found.map(|entry| (key, entry.to_string())).collect::<Vec<_>>()
        };
        lists.into_iter().flat_map(covering).collect()
    }

    fn patterns(&self, set: PatternSet) -> Vec<Value> {
        let snapshot = self.house.live.snapshot();
        let detector = &snapshot.policy.detector;
        let found = match set {
            PatternSet::Default => detector.default_patterns(),
            PatternSet::Custom => detector.custom_patterns(),
            PatternSet::All => detector.all_patterns(),
        };
        found.iter().filter_map(|pattern| serde_json::to_value(pattern).ok()).collect()
    }

    fn try_pattern(&self, pattern: &str, text: Option<&str>) -> Result<bool, String> {
        custom::test(pattern).map_err(|error| error.to_string())?;
        let Some(text) = text else { return Ok(false) };
        let set = CustomPatterns::default();
        let budget = Budget::new(clock::instant(), TRIAL_MAX);
        let (_, refused) = set.replace(&BTreeSet::from([pattern.to_owned()]), &budget);
        if let Some((_, error)) = refused.first() {
            return Err(error.to_string());
        }
        let mut threats = Vec::new();
        set.find(text, View::Processed, &mut threats);
        Ok(!threats.is_empty())
    }

    async fn reload(&self, dry_run: bool) -> Result<Value, Vec<String>> {
        if dry_run {
            let (sources, live) = (self.sources.clone(), Arc::clone(&self.house.live));
            let built = tokio::task::spawn_blocking(move || {
                let (old, inputs) = (live.snapshot(), Inputs::read(&sources)?);
                let new = inputs.compile(Some(&old))?;
                Ok::<_, Refusal>(difference((&old.config, &old.hash), (&new.config, &new.hash)))
            });
            return built.await.map_err(|error| vec![error.to_string()])?.map_err(|Refusal(errors)| errors);
        }
        let version = self.mailbox.change(Change::Config).await.map_err(|Refusal(errors)| errors)?;
        Ok(json!({ "reloaded": true, "version": version, "hash": self.house.live.snapshot().hash }))
    }

    fn recent(&self) -> &Recent {
        &self.house.recent
    }

    fn status(&self) -> Value {
        let (_, mut status) = self.house.readiness();
        if let Some(status) = status.as_object_mut() {
            status.insert("detection".to_owned(), self.house.stats());
        }
        status
    }

    async fn diagnosis(&self) -> Value {
        let redis = match self.house.state.redis() {
            None => Value::Null,
            Some(redis) => match redis.examine(clock::now).await {
                Ok(servers) => json!({ "servers": servers }),
                Err(error) => json!({ "error": error.to_string() }),
            },
        };
        json!({ "now": clock::now().0, "version": env!("CARGO_PKG_VERSION"), "redis": redis, "processor": processor() })
    }

    fn effective(&self) -> Value {
        self.house.config()
    }
}

/// What Hyperscan wants of the processor.
fn processor() -> Value {
    let threads = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    #[cfg(target_arch = "x86_64")]
    let has = (
        std::is_x86_feature_detected!("ssse3"),
        std::is_x86_feature_detected!("avx2"),
        std::is_x86_feature_detected!("avx512vbmi"),
    );
    #[cfg(not(target_arch = "x86_64"))]
    let has = (false, false, false);
    json!({
        "architecture": std::env::consts::ARCH,
        "threads": threads,
        "ssse3": has.0,
        "avx2": has.1,
        "avx512vbmi": has.2,
    })
}

/// What becomes another configuration, key by key, without secrets.
fn difference((old, old_hash): (&Config, &str), (new, new_hash): (&Config, &str)) -> Value {
    let (mut before, mut after) = (Map::new(), Map::new());
    flatten("", &redacted_json(old), &mut before);
    flatten("", &redacted_json(new), &mut after);
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changes: Vec<Value> = keys
        .into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| {
            let needs_restart = NEEDS_RESTART.iter().any(|start| key.starts_with(start));
            json!({ "key": key, "old": before.get(key), "new": after.get(key), "needs_restart": needs_restart })
        })
        .collect();
    json!({
        "dry_run": true,
        // Secrets look alike here; the hash tells them apart.
        "only_secrets_changed": changes.is_empty() && old_hash != new_hash,
        "changes": changes,
        "hash": new_hash,
    })
}

/// Maps by their keys, joined by dots; lists and plain values whole.
fn flatten(above: &str, value: &Value, out: &mut Map<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
                flatten(&path, value, out);
            }
        }
        _ => drop(out.insert(above.to_owned(), value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_changes_and_what_waits() {
        let old = Config::default();
        let mut new = old.clone();
        new.security.rate_limit = 77;
        new.limits.drain_seconds = 3;
        new.admin.token = Some("0123456789abcdef".to_owned().into());
        let difference = difference((&old, "a"), (&new, "b"));
        let changes = difference["changes"].as_array().unwrap();
        let of = |key: &str| changes.iter().find(|change| change["key"] == key).unwrap();
        assert_eq!(of("security.rate_limit")["new"], 77);
        assert_eq!(of("security.rate_limit")["needs_restart"], false);
        assert_eq!(of("limits.drain_seconds")["needs_restart"], true);
        assert_eq!(of("admin.token")["new"], "[redacted]");
        assert_eq!(changes.len(), 3);
        let other_secret = super::difference((&new, "b"), (&new, "c"));
        assert_eq!(other_secret["only_secrets_changed"], true);
        assert_eq!(other_secret["changes"].as_array().unwrap().len(), 0);
    }
}
