//! Values that appear inside the configuration, typed and validated where they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::formats;
use crate::model::addr::IpEntry;
use crate::model::time::Window;

/// Text that is never printed: not in errors, logs, `/config` or `Debug`.
#[derive(Clone, Eq, PartialEq, Deserialize)]
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

/// A Redis URL; its user information is never printed.
#[derive(Clone, Eq, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, with = "formats::RedisLocation")]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The URL with its credentials.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The URL without user information and without the values of its query.
    #[must_use]
    pub fn redacted(&self) -> String {
        redact_url(&self.0)
    }
}

/// `url` without user information and without the values of its query. What is no URL is not shown at all.
pub(crate) fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "[redacted]".to_owned() };
    // A password may hold any of `/`, `?` and `#`, so the last `@` ends it.
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let (place, query) = place.split_once('?').map_or((place, ""), |(place, _)| (place, "?[redacted]"));
    format!("{scheme}://{place}{query}")
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

/// A CEL expression. Compiled by the engine, which reports errors under the same key path.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, with = "formats::Expression")]
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unix => serializer.serialize_str("unix"),
            Self::Entry(entry) => entry.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TrustedProxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
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

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": "an address, a CIDR range, or `unix`"})
    }
}

/// `[requests, window in seconds]`, as the schema shows it.
pub(crate) struct LimitPair;

impl JsonSchema for LimitPair {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LimitPair".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "description": "`[requests, window in seconds]`",
            "prefixItems": [
                { "type": "integer", "format": "uint32", "minimum": 0 },
                { "type": "integer", "format": "uint32", "minimum": 1 },
            ],
            "minItems": 2,
            "maxItems": 2,
        })
    }
}

fn upper(code: &str) -> String {
    code.to_ascii_uppercase()
}

/// Country codes in any case; null is the empty set.
pub(crate) fn countries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    some_countries(deserializer).map(Option::unwrap_or_default)
}

/// Country codes in any case.
pub(crate) fn some_countries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeSet<String>>, D::Error> {
    let codes = Option::<Vec<String>>::deserialize(deserializer)?;
    Ok(codes.map(|codes| codes.iter().map(|code| upper(code)).collect()))
}

/// `[requests, window]` by country code.
type CountryLimits = BTreeMap<String, (u32, u32)>;

/// Limits by country code in any case.
pub(crate) fn country_limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CountryLimits>, D::Error> {
    let limits = Option::<CountryLimits>::deserialize(deserializer)?;
    Ok(limits.map(|limits| limits.into_iter().map(|(code, limit)| (upper(&code), limit)).collect()))
}

/// `security_headers`; an empty map turns them off, as null does.
pub(crate) fn headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecurityHeaders>, D::Error> {
    let given = Option::<serde_json::Map<String, serde_json::Value>>::deserialize(deserializer)?;
    let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(None) };
    serde_json::from_value(given.into()).map(Some).map_err(serde::de::Error::custom)
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
    #[schemars(with = "Option<formats::ReturnPattern>")]
    pub pattern: Option<String>,
    /// What happens.
    #[serde(default)]
    pub action: BehaviorAction,
    /// For `throttle`: milliseconds that a request above the threshold waits before it goes on, in place of a 429. Less
    /// than Envoy waits for an answer: the timeout of ext_authz, `message_timeout` of ext_proc.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10000))]
    pub delay_ms: Option<u32>,
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
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Webhook URL; without one the message is logged.
    #[serde(default, serialize_with = "webhook")]
    #[schemars(with = "Option<formats::Url>", extend("writeOnly" = true))]
    pub url: Option<String>,
    /// HMAC-SHA256 key of the webhook's signature.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// CEL expression that builds the message; the payload itself when absent.
    #[serde(default)]
    pub message: Option<Expression>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("secret", &self.secret).field("message", &self.message).finish_non_exhaustive()
    }
}

/// Chat services put the credential of a webhook into its path, so only the host is shown.
fn webhook<S: Serializer>(url: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => serializer.serialize_str(&redact_webhook(url)),
        None => serializer.serialize_none(),
    }
}

/// Scheme and host of a webhook.
pub(crate) fn redact_webhook(url: &str) -> String {
    let shown = redact_url(url);
    let (scheme, rest) = shown.split_once("://").unwrap_or(("", "[redacted]"));
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    format!("{scheme}://{host}/[redacted]")
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
#[derive(Clone, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HashVerifier {
    /// Principal by credential hash: `sha256:` followed by 64 hexadecimal digits.
    #[serde(serialize_with = "principals")]
    #[schemars(extend("propertyNames" = {"format": "credential"}))]
    pub hashes: BTreeMap<String, String>,
    #[schemars(with = "Option<formats::NonBlank>")]
    /// A file with one `hash principal` pair a line; `#` starts a comment.
    pub file: Option<PathBuf>,
}

impl fmt::Debug for HashVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let principals: Vec<&String> = self.hashes.values().collect();
        f.debug_struct("HashVerifier")
            .field("principals", &principals)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// A hash lets a stolen credential be recognised, and a weak one be guessed: the principals are shown, numbered.
fn principals<S: Serializer>(hashes: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(hashes.values().enumerate().map(|(index, name)| (format!("[redacted {index}]"), name)))
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
    #[schemars(with = "BTreeMap<String, formats::HeaderValue>", extend("propertyNames" = {"format": "header-name"}))]
    pub set: BTreeMap<String, String>,
    /// Headers to add beside existing ones.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, formats::HeaderValue>", extend("propertyNames" = {"format": "header-name"}))]
    pub add: BTreeMap<String, String>,
    /// Headers to remove.
    #[serde(default)]
    #[schemars(with = "Vec<formats::HeaderName>")]
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
    #[schemars(with = "Option<BTreeMap<String, Vec<formats::HeaderValue>>>", extend("propertyNames" = {"format": "header-name"}))]
    pub csp: Option<serde_json::Map<String, serde_json::Value>>,
    /// X-Frame-Options; null means the default.
    #[schemars(with = "Option<formats::HeaderValue>")]
    pub frame_options: Option<String>,
    /// X-Content-Type-Options; null means the default.
    #[schemars(with = "Option<formats::HeaderValue>")]
    pub content_type_options: Option<String>,
    /// X-XSS-Protection; null means the default.
    #[schemars(with = "Option<formats::HeaderValue>")]
    pub xss_protection: Option<String>,
    /// Referrer-Policy; null means the default.
    #[schemars(with = "Option<formats::HeaderValue>")]
    pub referrer_policy: Option<String>,
    /// Permissions-Policy; absent means the default, null or empty removes the header.
    pub permissions_policy: Setting,
    /// Further headers by name.
    #[schemars(with = "Option<BTreeMap<String, formats::HeaderValue>>", extend("propertyNames" = {"format": "header-name"}))]
    pub custom: Option<BTreeMap<String, String>>,
}

/// A setting that tells "absent" from "null".
#[derive(Clone, Debug, Default, Eq, PartialEq, JsonSchema)]
#[schemars(inline, with = "Option<formats::HeaderValue>")]
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unset => serializer.serialize_str("UNSET"),
            Self::Off => serializer.serialize_none(),
            Self::Value(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
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
