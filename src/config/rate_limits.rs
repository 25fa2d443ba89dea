//! `rate_limits:` and `bans:`: limits and ban keys beyond guard-core's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::formats;
use crate::config::values::Expression;
use crate::model::time::Window;

/// `rate_limits:`: limits of the service's own, beside guard-core's under `security:` and `routes:`, and the header
/// fields that tell clients about limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitsConfig {
    /// The limits. All that apply to a request are tested; one that is exceeded refuses it, and then none counts it.
    pub rules: Vec<LimitRule>,
    /// Header fields on refusals by a limit: `standard` are RateLimit and RateLimit-Policy, `legacy` X-RateLimit-*.
    pub headers: LimitHeaders,
    /// Send these fields on answers of allowed requests too.
    pub on_allowed: bool,
    /// Length of the prefix that the key part `network` takes of an IPv4 address.
    #[schemars(range(min = 8, max = 32))]
    pub ipv4_prefix: u8,
    /// Length of the prefix that the key part `network` takes of an IPv6 address.
    #[schemars(range(min = 16, max = 128))]
    pub ipv6_prefix: u8,
}

impl Default for RateLimitsConfig {
    fn default() -> Self {
        Self { rules: Vec::new(), headers: LimitHeaders::None, on_allowed: false, ipv4_prefix: 24, ipv6_prefix: 64 }
    }
}

/// One limit.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitRule {
    /// Unique name: in header fields, events and log lines, and part of the keys in Redis.
    #[schemars(with = "formats::LimitName")]
    pub name: String,
    /// Requests that pass per window and key.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// Seconds.
    pub window: Window,
    /// What requests have in common that count together; several parts make one key. A request that lacks a part (no
    /// such header, an unknown country) is not limited by this rule.
    #[serde(default = "by_client")]
    #[schemars(with = "Vec<formats::LimitKey>", length(min = 1, max = 8))]
    pub by: Vec<String>,
    /// Routes it applies to, by name; all requests when empty.
    #[serde(default)]
    #[schemars(with = "Vec<formats::Name>")]
    pub routes: Vec<String>,
    /// CEL condition over `request`: the limit applies when it is true.
    #[serde(default)]
    pub when: Option<Expression>,
    /// `exact` asks the shared state about every request; `cached` answers here and settles in the background.
    #[serde(default)]
    pub mode: LimitMode,
    /// Count and report, never refuse.
    #[serde(default)]
    pub shadow: bool,
}

fn by_client() -> Vec<String> {
    vec!["client".to_owned()]
}

/// How a limit is kept among replicas.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitMode {
    /// Never more than the limit, over all replicas.
    #[default]
    Exact,
    /// Most answers without asking. Each replica may let a tenth of the limit more pass (at least 1, at most 100
    /// requests).
    Cached,
}

/// Which header fields tell about limits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitHeaders {
    /// Only Retry-After.
    #[default]
    None,
    /// RateLimit-Policy and RateLimit.
    Standard,
    /// X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset.
    Legacy,
    /// All of them.
    Both,
}

/// `bans:`: whom an automatic ban covers.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BansConfig {
    /// Prefix length of automatic bans of IPv4 clients: 32 bans the address, 24 its network. Suspicious counts of one
    /// prefix add up. A prefix that holds loopback addresses or a trusted proxy is never banned.
    #[schemars(range(min = 8, max = 32))]
    pub ipv4_prefix: u8,
    /// The same for IPv6: 128 bans the address, 64 what one customer usually has.
    #[schemars(range(min = 16, max = 128))]
    pub ipv6_prefix: u8,
}

impl Default for BansConfig {
    fn default() -> Self {
        Self { ipv4_prefix: 32, ipv6_prefix: 128 }
    }
}
