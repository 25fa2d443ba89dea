//! What else participants share: ranges of clouds, the configuration of security headers, the last dynamic rules.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use serde_json::Value;

use crate::state::StateError;
use crate::state::formats::{RulesSnapshot, cloud_store, read_cloud_ranges, read_cloud_store, spaced_json};
use crate::state::redis::Redis;

/// Namespace of cloud ranges, one name a provider.
const CLOUD: &str = "cloud_ip_v2";
/// Namespace of their older form, which is only read.
const CLOUD_JOINED: &str = "cloud_ranges_v2";
/// Namespace of the configuration of security headers.
const HEADERS: &str = "security_headers";
/// Seconds for which participants keep it.
const HEADERS_TTL: Option<NonZeroU32> = NonZeroU32::new(86_400);
/// Where the last dynamic rules are.
const RULES: (&str, &str) = ("dynamic_rules", "last_known");

/// The configuration of security headers as participants share it; what is absent is not shared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderCache {
    /// Sources by directive.
    pub csp: Option<Value>,
    /// `max_age`, `include_subdomains`, `preload`.
    pub hsts: Option<Value>,
    /// Further headers by name.
    pub custom: Option<Value>,
}

impl HeaderCache {
    fn parts(&self) -> [(&'static str, &Option<Value>); 3] {
        [("csp_config", &self.csp), ("hsts_config", &self.hsts), ("custom_headers", &self.custom)]
    }
}

impl Redis {
    /// The ranges (`CIDR` or `CIDR|region`) that participants know of a cloud provider; an empty set is an answer, `None`
    /// is none.
    pub async fn cloud_ranges(&self, provider: &str) -> Result<Option<BTreeSet<String>>, StateError> {
        if let Some(text) = self.get(CLOUD, provider).await? {
            return Ok(read_cloud_store(&text));
        }
        Ok(self.get(CLOUD_JOINED, provider).await?.map(|text| read_cloud_ranges(&text)))
    }

    /// Shares the ranges of a cloud provider, for so many seconds or for good.
    pub async fn set_cloud_ranges(
        &self,
        provider: &str,
        ranges: &BTreeSet<String>,
        ttl: Option<NonZeroU32>,
    ) -> Result<(), StateError> {
        self.set(CLOUD, provider, &cloud_store(ranges), ttl).await
    }

    /// Forgets the ranges of all cloud providers.
    pub async fn clear_cloud_ranges(&self) -> Result<(), StateError> {
        self.delete_matching(CLOUD, "*").await.map(drop)
    }

    /// The shared configuration of security headers. A part that is no JSON counts as absent.
    pub async fn header_cache(&self) -> Result<HeaderCache, StateError> {
        let read = async |name| {
            let text = self.get(HEADERS, name).await?;
            Ok::<_, StateError>(text.and_then(|text| serde_json::from_str(&text).ok()))
        };
        Ok(HeaderCache {
            csp: read("csp_config").await?,
            hsts: read("hsts_config").await?,
            custom: read("custom_headers").await?,
        })
    }

    /// Shares the configuration of security headers for a day. Absent parts are left as they are.
    pub async fn set_header_cache(&self, cache: &HeaderCache) -> Result<(), StateError> {
        for (name, part) in cache.parts() {
            if let Some(part) = part {
                self.set(HEADERS, name, &spaced_json(part), HEADERS_TTL).await?;
            }
        }
        Ok(())
    }

    /// The dynamic rules that any participant applied last; `None` when there are none, or none that can be understood.
    pub async fn rules_snapshot(&self) -> Result<Option<RulesSnapshot>, StateError> {
        Ok(self.get(RULES.0, RULES.1).await?.and_then(|text| RulesSnapshot::read(&text)))
    }

    /// Keeps the dynamic rules for the next start of any participant.
    pub async fn set_rules_snapshot(&self, snapshot: &RulesSnapshot) -> Result<(), StateError> {
        self.set(RULES.0, RULES.1, &snapshot.text(), None).await
    }

    /// Keeps no dynamic rules for the next start of any participant.
    pub async fn clear_rules_snapshot(&self) -> Result<(), StateError> {
        self.delete(RULES.0, RULES.1).await.map(drop)
    }
}
