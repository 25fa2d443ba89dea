//! What operators may do to the running service.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::build::Refusal;
use crate::app::keeper::{Change, Mailbox};
use crate::app::preview;
use crate::app::serve::House;
use crate::clock::{self, Budget};
use crate::detect::View;
use crate::detect::custom::{self, CustomPatterns};
use crate::live::Snapshot;
use crate::model::addr::{ClientAddr, IpEntry};
use crate::server::admin::Report;
use crate::server::api::{Control, PatternSet};
use crate::state::top::BusyKey;
use crate::state::{Backend, Digest, StateError};
use crate::telemetry::bus::Bus;
use crate::telemetry::events::Event;
use crate::telemetry::levels::Levels;
use crate::telemetry::recent::Recent;

/// Time that trying a pattern may take.
const TRIAL_MAX: Duration = Duration::from_secs(10);

/// The service, seen by operators.
pub(in crate::app) struct Operations {
    pub(in crate::app) house: Arc<House>,
    pub(in crate::app) mailbox: Mailbox,
    pub(in crate::app) bus: Arc<Bus>,
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
            let preview = self.mailbox.preview().await.map_err(|Refusal(errors)| errors)?;
            return Ok(preview::shown(&preview, &self.house.live.snapshot()));
        }
        let version = self.mailbox.change(Change::Config).await.map_err(|Refusal(errors)| errors)?;
        Ok(json!({ "reloaded": true, "version": version, "hash": self.house.live.snapshot().hash }))
    }

    async fn busiest(&self, size: usize) -> Result<Value, StateError> {
        let snapshot = self.house.live.snapshot();
        let window = |key: &BusyKey| Limited::of(&snapshot, key).window;
        let found = self.house.state.busiest(size, clock::now(), window).await?;
        let shown = found.entries.iter().map(|busy| {
            let limited = Limited::of(&snapshot, &busy.key);
            json!({
                "limit": limited.limit,
                "client": limited.client,
                "count": busy.count,
                "allowed": limited.allowed,
                "window": limited.window,
                "key": limited.key,
            })
        });
        Ok(json!({ "limits": shown.collect::<Vec<_>>(), "complete": found.is_complete, "source": found.source }))
    }

    fn levels(&self) -> &Levels {
        &self.house.levels
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

    fn tell(&self, event: Event) {
        self.bus.system(event);
    }
}

/// What is known of a rate limit history besides its count.
struct Limited {
    limit: String,
    client: Option<String>,
    allowed: Option<u32>,
    window: Option<u32>,
    key: Option<String>,
}

impl Limited {
    fn of(snapshot: &Snapshot, key: &BusyKey) -> Self {
        let security = &snapshot.config.security;
        let hex = |digest: &Digest| Some(digest.0.iter().map(|byte| format!("{byte:02x}")).collect());
        match key {
            BusyKey::Rule(digest) => match snapshot.policy.limit_of(digest) {
                Some(owner) => Self {
                    limit: owner.limit.to_owned(),
                    client: owner.client,
                    allowed: Some(owner.requests),
                    window: Some(owner.window.seconds()),
                    key: hex(digest),
                },
                None => Self {
                    limit: "of another configuration".to_owned(),
                    client: None,
                    allowed: None,
                    window: None,
                    key: hex(digest),
                },
            },
            BusyKey::Client(client, None) => Self {
                limit: "global".to_owned(),
                client: Some(client.clone()),
                allowed: Some(security.rate_limit),
                window: Some(security.rate_limit_window),
                key: None,
            },
            BusyKey::Client(client, Some(path)) => {
                let mut known = security.endpoint_rate_limits.iter();
                let endpoint = known.find(|(text, _)| Digest::of(text.as_bytes()) == *path);
                Self {
                    limit: endpoint.map_or_else(|| "a route's".to_owned(), |(text, _)| format!("endpoint {text}")),
                    client: Some(client.clone()),
                    allowed: endpoint.map(|(_, (requests, _))| *requests),
                    window: endpoint.map(|(_, (_, window))| *window),
                    key: hex(path),
                }
            }
        }
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
