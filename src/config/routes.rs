//! `routes:`: which requests a route covers, and what it changes.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::exclusions::Exclusion;
use crate::config::responses::ResponseRule;
use crate::config::values::{BehaviorRule, Expression, Verifier};
use crate::config::{formats, values};
use crate::model::addr::IpEntry;

/// One route. An unset field inherits the value of `security:`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteConfig {
    /// Unique name; also what `context_extensions: {guard_route: NAME}` in Envoy chooses.
    #[schemars(with = "formats::Name")]
    pub name: String,
    /// Which requests it covers. A route without matchers is chosen by name only.
    #[serde(rename = "match")]
    pub matches: Vec<RouteMatch>,
    /// Identity of the endpoint for behaviour counters shared with applications; the route's name when absent.
    pub endpoint_id: Option<String>,
    /// Requests per window, client and path; 0 refuses all.
    pub rate_limit: Option<u32>,
    /// Seconds; 60 when absent or 0.
    pub rate_limit_window: Option<u32>,
    /// `[requests, window]` by country code, or `*` for any other.
    #[serde(deserialize_with = "values::country_limits")]
    #[schemars(with = "Option<BTreeMap<String, values::LimitPair>>", extend("propertyNames" = {"format": "country-or-any"}))]
    pub geo_rate_limits: Option<BTreeMap<String, (u32, u32)>>,
    /// Only these addresses may use the route.
    #[schemars(with = "Option<Vec<formats::Address>>")]
    pub ip_whitelist: Option<Vec<IpEntry>>,
    /// These addresses may not; not consulted when `ip_whitelist` is not empty.
    #[schemars(with = "Option<Vec<formats::Address>>")]
    pub ip_blacklist: Option<Vec<IpEntry>>,
    /// Denied countries.
    #[serde(deserialize_with = "values::some_countries")]
    #[schemars(with = "Option<Vec<formats::Country>>")]
    pub blocked_countries: Option<BTreeSet<String>>,
    /// When not empty, only these countries; an unresolved country is denied.
    #[serde(deserialize_with = "values::some_countries")]
    #[schemars(with = "Option<Vec<formats::Country>>")]
    pub whitelist_countries: Option<BTreeSet<String>>,
    /// Denied autonomous systems, by number.
    pub blocked_asns: BTreeSet<u32>,
    /// When not empty, only these autonomous systems; an address whose system is unknown is denied.
    pub allowed_asns: BTreeSet<u32>,
    /// Cloud selectors of the route, instead of the global ones.
    #[schemars(with = "Option<Vec<formats::Cloud>>")]
    pub block_cloud_providers: Option<Vec<String>>,
    /// More User-Agent patterns.
    #[schemars(with = "Vec<formats::AgentPattern>")]
    pub blocked_user_agents: Vec<String>,
    /// Checks that do not run: all, ip_ban, ip, clouds, rate_limit, penetration.
    #[schemars(with = "Vec<formats::BypassName>")]
    pub bypassed_checks: BTreeSet<String>,
    /// HTTPS needed; inherits `enforce_https`.
    pub require_https: Option<bool>,
    /// Scheme of a verified credential: bearer, basic, or another name for the whole Authorization value.
    #[schemars(with = "Option<formats::Scheme>")]
    pub auth_required: Option<String>,
    /// Verifier of that credential; inherits `security.auth_verifier`.
    pub auth_verifier: Option<Verifier>,
    /// An API key is needed.
    pub api_key_required: bool,
    /// Header that carries it; X-API-Key when absent.
    #[schemars(with = "Option<formats::HeaderName>")]
    pub api_key_header: Option<String>,
    /// Verifier of the API key; inherits `security.auth_verifier`.
    pub api_key_verifier: Option<Verifier>,
    /// Scheme whose presence in Authorization is enough.
    #[schemars(with = "Option<formats::Scheme>")]
    pub authorization_header_required: Option<String>,
    /// Headers that must be there, in order; the value `required` accepts any non-empty one.
    #[schemars(with = "BTreeMap<String, String>", extend("propertyNames" = {"format": "header-name"}))]
    pub required_headers: serde_json::Map<String, serde_json::Value>,
    /// Greatest Content-Length; 0 or absent means none.
    pub max_request_size: Option<u64>,
    /// Media types that pass; absent or empty means all.
    #[schemars(with = "Option<Vec<formats::MediaType>>")]
    pub allowed_content_types: Option<Vec<String>>,
    /// Hosts a Referer must name.
    #[schemars(with = "Option<Vec<formats::Referrer>>")]
    pub require_referrer: Option<Vec<String>>,
    /// CEL rules: `true` denies with 403, a map `{status, body, headers}` denies as it says.
    pub custom_validators: Vec<Expression>,
    /// Form or JSON fields that only a robot fills in.
    pub honeypot_fields: Vec<String>,
    /// Hours of access.
    pub time_restrictions: Option<TimeRestriction>,
    /// Rules over response bodies, in place of those of `responses.rules`.
    pub response_rules: Option<Vec<ResponseRule>>,
    /// Behaviour rules of the route.
    pub behavior_rules: Vec<BehaviorRule>,
    /// Attack detection; inherits `enable_penetration_detection`.
    pub enable_suspicious_detection: Option<bool>,
    /// Added to the global set.
    pub excluded_detection_headers: Option<BTreeSet<String>>,
    /// Added to the global set.
    pub excluded_semantic_detection_headers: Option<BTreeSet<String>>,
    /// Replaces the global set.
    pub excluded_detection_params: Option<BTreeSet<String>>,
    /// Replaces the global set.
    pub excluded_detection_body_fields: Option<BTreeSet<String>>,
    /// Replaces the global set.
    #[schemars(with = "Option<Vec<formats::CategoryName>>")]
    pub enabled_detection_categories: Option<BTreeSet<String>>,
    /// Replaces the global value.
    pub detection_scan_body: Option<bool>,
    /// Findings of detection that this route lets pass.
    pub exclusions: Vec<Exclusion>,
}

/// One matcher: every part that is given must match. Paths are compared after decoding and normalising.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteMatch {
    /// Host names without port; `*.example.com` covers subdomains. Empty means any.
    #[schemars(with = "Vec<formats::Host>")]
    pub hosts: Vec<String>,
    /// Methods; empty means any.
    #[schemars(with = "Vec<formats::Method>")]
    pub methods: BTreeSet<String>,
    /// The whole path.
    #[schemars(with = "Option<formats::Path>")]
    pub path: Option<String>,
    /// The path or a subtree of it, at segment borders.
    #[schemars(with = "Option<formats::Path>")]
    pub prefix: Option<String>,
    /// Segments with `{name}` for one segment and a final `{name...}` for the rest.
    #[schemars(with = "Option<formats::Template>")]
    pub template: Option<String>,
    /// Regular expression over the whole path (RE2 syntax).
    #[schemars(with = "Option<formats::PathRegex>")]
    pub regex: Option<String>,
}

/// Hours of access, both ends included, overnight when start is later than end.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeRestriction {
    /// `HH:MM`.
    #[schemars(with = "formats::Clock")]
    pub start: String,
    /// `HH:MM`.
    #[schemars(with = "formats::Clock")]
    pub end: String,
    /// IANA zone; UTC when absent.
    #[serde(default = "utc")]
    #[schemars(with = "formats::Zone")]
    pub timezone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}
