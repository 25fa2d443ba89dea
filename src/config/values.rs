//! Values that appear inside the configuration, typed and validated where they are read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::addr::IpEntry;
use crate::model::time::Window;

/// Text that is never printed: not in errors, logs, `/config` or `Debug`.
#[derive(Clone, Eq, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret itself; name the use at the call site.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

/// A Redis URL; its user information is never printed.
#[derive(Clone, Eq, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The URL with its credentials.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The URL without user information.
    #[must_use]
    pub fn redacted(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else { return self.0.clone() };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{scheme}://{host}{path}")
    }
}

impl Default for RedisUrl {
    fn default() -> Self {
        Self("redis://localhost:6379".to_owned())
    }
}

impl From<String> for RedisUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

/// A CEL expression. Compiled by the engine, which reports errors under the same key path.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Expression(pub String);

/// A peer that may speak for clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TrustedProxy {
    /// Peers on a Unix socket.
    Unix,
    /// An address or network.
    Entry(IpEntry),
}

impl Serialize for TrustedProxy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unix => serializer.serialize_str("unix"),
            Self::Entry(entry) => entry.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TrustedProxy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "unix" {
            return Ok(Self::Unix);
        }
        text.parse()
            .map(Self::Entry)
            .map_err(|_| serde::de::Error::custom(format!("Invalid proxy IP or CIDR range: {text}")))
    }
}

impl JsonSchema for TrustedProxy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TrustedProxy".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "an address, a CIDR range, or `unix`"})
    }
}

/// Ban policy of one category.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThreatBan {
    /// Count of this category that bans. At least 1.
    #[schemars(range(min = 1))]
    pub threshold: u32,
    /// Length of the ban in seconds. At least 1.
    pub duration: Window,
}

/// What a behaviour rule counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BehaviorKind {
    /// Calls of an endpoint.
    Usage,
    /// Responses that match a pattern.
    ReturnPattern,
    /// Calls of an endpoint in a short window.
    Frequency,
}

/// What happens when a behaviour rule fires.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BehaviorAction {
    /// Ban the client.
    Ban,
    /// Log it.
    #[default]
    Log,
    /// Slow the client down.
    Throttle,
    /// Log it at the critical level.
    Alert,
}

/// A behaviour rule: fires when the count within the window exceeds the threshold.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BehaviorRule {
    /// What is counted.
    pub rule_type: BehaviorKind,
    /// Fires above this count. At least 1.
    #[schemars(range(min = 1))]
    pub threshold: u32,
    /// Seconds.
    #[serde(default = "BehaviorRule::default_window")]
    pub window: Window,
    /// For `return_pattern`: `status:404`, `json:path==value`, `regex:…` or plain text.
    #[serde(default)]
    pub pattern: Option<String>,
    /// What happens.
    #[serde(default)]
    pub action: BehaviorAction,
    /// Ban length in seconds; 3600 when absent.
    #[serde(default)]
    pub ban_duration: Option<Window>,
    /// Halve the threshold for clients with suspicious counts.
    #[serde(default)]
    pub correlate_with_detection: bool,
    /// CEL expression evaluated when the rule fires, instead of the action.
    #[serde(default)]
    pub custom_action: Option<Expression>,
}

impl BehaviorRule {
    const fn default_window() -> Window {
        match Window::new(3600) {
            Some(window) => window,
            None => unreachable!(),
        }
    }
}

/// Where cloud ranges are kept between refreshes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloudStore {
    /// In the process.
    Memory,
    /// In Redis, shared.
    Redis,
}

/// Log levels under guard-core's names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Details.
    Debug,
    /// Life cycle.
    Info,
    /// Degraded or refused.
    Warning,
    /// A person must look.
    Error,
    /// A person must look now.
    Critical,
}

/// Line format.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Full agent buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverflowPolicy {
    /// Drop the oldest.
    Drop,
    /// Wait.
    Block,
    /// Report an error.
    Raise,
}

/// A hook: where a message goes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Webhook URL; without one the message is logged.
    #[serde(default)]
    pub url: Option<String>,
    /// HMAC-SHA256 key of the webhook's signature.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// CEL expression that builds the message; the payload itself when absent.
    #[serde(default)]
    pub message: Option<Expression>,
}

/// Verifies a credential: by hash, or by a CEL expression over `request` and `credential`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Verifier {
    /// Known credentials, as hashes.
    Hashes(HashVerifier),
    /// CEL: truthy accepts; a map or string becomes the principal.
    Cel(Expression),
}

/// Known credentials, held as hashes.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HashVerifier {
    /// Principal by credential hash: `sha256:` followed by 64 hexadecimal digits.
    pub hashes: BTreeMap<String, String>,
    /// A file with one `hash principal` pair a line; `#` starts a comment.
    pub file: Option<PathBuf>,
}

/// One change to response headers.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseOperation {
    /// CEL condition over `request` and `response`; always when absent.
    #[serde(default)]
    pub when: Option<Expression>,
    /// Headers to set.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Headers to add beside existing ones.
    #[serde(default)]
    pub add: BTreeMap<String, String>,
    /// Headers to remove.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// `security_headers`. A partial map replaces the whole default, as in guard-core: keys left out mean their null form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityHeaders {
    /// Off removes all of them, CORS included.
    pub enabled: bool,
    /// Strict-Transport-Security; absent means no header.
    pub hsts: Option<Hsts>,
    /// Content-Security-Policy: sources by directive, in order.
    pub csp: Option<serde_json::Map<String, serde_json::Value>>,
    /// X-Frame-Options; null means the default.
    pub frame_options: Option<String>,
    /// X-Content-Type-Options; null means the default.
    pub content_type_options: Option<String>,
    /// X-XSS-Protection; null means the default.
    pub xss_protection: Option<String>,
    /// Referrer-Policy; null means the default.
    pub referrer_policy: Option<String>,
    /// Permissions-Policy; absent means the default, null or empty removes the header.
    pub permissions_policy: Setting,
    /// Further headers by name.
    pub custom: Option<BTreeMap<String, String>>,
}

/// A setting that tells "absent" from "null".
#[derive(Clone, Debug, Default, Eq, PartialEq, JsonSchema)]
#[schemars(with = "Option<String>")]
pub enum Setting {
    /// Not given: the default.
    #[default]
    Unset,
    /// Null or empty: no header.
    Off,
    /// This value.
    Value(String),
}

impl Serialize for Setting {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unset => serializer.serialize_str("UNSET"),
            Self::Off => serializer.serialize_none(),
            Self::Value(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::<String>::deserialize(deserializer)?.as_deref() {
            Some("UNSET") => Self::Unset,
            None | Some("") => Self::Off,
            Some(text) => Self::Value(text.to_owned()),
        })
    }
}

/// Strict-Transport-Security.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hsts {
    /// Seconds; null means no header.
    pub max_age: Option<u64>,
    /// Cover subdomains.
    pub include_subdomains: bool,
    /// Ask for preloading; needs a year and subdomains.
    pub preload: bool,
}

impl Default for Hsts {
    fn default() -> Self {
        Self { max_age: None, include_subdomains: true, preload: false }
    }
}

impl Default for SecurityHeaders {
    /// What a partial map falls back to, key by key. The default of the field itself is [`SecurityHeaders::standard`].
    fn default() -> Self {
        Self {
            enabled: true,
            hsts: None,
            csp: None,
            frame_options: None,
            content_type_options: None,
            xss_protection: None,
            referrer_policy: None,
            permissions_policy: Setting::Unset,
            custom: None,
        }
    }
}

impl SecurityHeaders {
    /// The default of `security_headers`: with HSTS for a year.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            hsts: Some(Hsts { max_age: Some(31_536_000), include_subdomains: true, preload: false }),
            ..Self::default()
        }
    }
}
