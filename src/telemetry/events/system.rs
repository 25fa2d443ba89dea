//! Events that the service tells of itself: state, rules, patterns, feeds. One function for each, so that every
//! sentence and every key of the contract stands once.

use std::borrow::Cow;

use uuid::Uuid;

use crate::model::decision::FactValue;
use crate::model::event::EventType;
use crate::model::time::Timestamp;
use crate::telemetry::events::{Event, Metadata, SYSTEM};

/// What all of these have in common.
fn event(kind: EventType, now: Timestamp, action: &'static str, reason: String) -> Event {
    Event {
        key: Uuid::new_v4(),
        at: now,
        kind,
        address: SYSTEM.to_owned(),
        country: None,
        user_agent: None,
        action: Cow::Borrowed(action),
        reason,
        endpoint: None,
        method: None,
        response_time: None,
        pattern: None,
        handler: None,
        metadata: Vec::new(),
        trace: None,
    }
}

fn text(value: impl Into<String>) -> FactValue {
    FactValue::Text(value.into())
}

fn int(value: impl TryInto<i64>) -> FactValue {
    FactValue::Int(value.try_into().unwrap_or(i64::MAX))
}

fn named<const N: usize>(fields: [(&'static str, FactValue); N]) -> Metadata {
    fields.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect()
}

/// An address was banned by hand, by a rule, or by another part than the pipeline.
#[must_use]
pub fn ip_banned(now: Timestamp, address: &str, reason: &str, seconds: u32) -> Event {
    Event {
        address: address.to_owned(),
        handler: Some("ip_ban"),
        metadata: named([("duration", int(seconds))]),
        ..event(EventType::IpBanned, now, "banned", reason.to_owned())
    }
}

/// A ban was lifted. The reason is the same whoever lifted it: receivers know this text.
#[must_use]
pub fn ip_unbanned(now: Timestamp, address: &str) -> Event {
    Event {
        address: address.to_owned(),
        handler: Some("ip_ban"),
        metadata: named([("action", text("unban"))]),
        ..event(EventType::IpUnbanned, now, "unbanned", "dynamic_rule_whitelist".to_owned())
    }
}

/// Redis had forgotten a script and has it again.
#[must_use]
pub fn script_reloaded(now: Timestamp) -> Event {
    let reason = "NOSCRIPT recovery: Lua script re-cached on Redis".to_owned();
    Event { handler: Some("rate_limit"), ..event(EventType::RateLimitScriptReloaded, now, "script_reloaded", reason) }
}

/// How the connection to Redis changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RedisChange {
    /// It answers.
    Established,
    /// It was given up.
    Closed,
}

/// The connection to Redis changed. `url` shows no credentials.
#[must_use]
pub fn redis_connection(now: Timestamp, url: &str, change: RedisChange) -> Event {
    let (action, reason) = match change {
        RedisChange::Established => ("connection_established", "Redis connection successfully established"),
        RedisChange::Closed => ("connection_closed", "Redis connection closed"),
    };
    Event {
        handler: Some("redis"),
        metadata: named([("redis_url", text(url))]),
        ..event(EventType::RedisConnection, now, action, reason.to_owned())
    }
}

/// What failed at Redis.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RedisFailure {
    /// Connecting.
    Connection,
    /// An operation.
    Operation,
}

/// Something failed at Redis. `url` shows no credentials.
#[must_use]
pub fn redis_error(now: Timestamp, url: &str, failure: RedisFailure, error: &str) -> Event {
    let (action, reason, kind) = match failure {
        RedisFailure::Connection => ("connection_failed", "Redis connection failed", "connection_error"),
        RedisFailure::Operation => ("operation_failed", "Redis operation failed", "operation_error"),
    };
    Event {
        handler: Some("redis"),
        metadata: named([("redis_url", text(url)), ("error_type", text(kind))]),
        ..event(EventType::RedisError, now, action, format!("{reason}: {error}"))
    }
}

/// What identifies a document of dynamic rules.
#[derive(Clone, Copy, Debug)]
pub struct RuleIdentity<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its version.
    pub version: i64,
}

impl RuleIdentity<'_> {
    fn fields(self) -> [(&'static str, FactValue); 2] {
        [("rule_id", text(self.id)), ("version", FactValue::Int(self.version))]
    }
}

/// New rules came. `previous` is the version of the rules before them, 0 for none.
#[must_use]
pub fn rules_received(now: Timestamp, rule: RuleIdentity<'_>, previous: i64) -> Event {
    let [id, version] = rule.fields();
    let reason = format!("Received updated rules {} v{}", rule.id, rule.version);
    Event {
        handler: Some("dynamic_rules"),
        metadata: named([id, version, ("previous_version", FactValue::Int(previous))]),
        ..event(EventType::DynamicRuleUpdated, now, "rules_received", reason)
    }
}

/// What a document of dynamic rules did.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuleEffects {
    /// Addresses it bans.
    pub ip_bans: usize,
    /// Countries it blocks.
    pub country_blocks: usize,
    /// It locks down.
    pub emergency_mode: bool,
}

/// New rules are in force.
#[must_use]
pub fn rules_applied(now: Timestamp, rule: RuleIdentity<'_>, effects: RuleEffects) -> Event {
    let [id, version] = rule.fields();
    let reason = format!("Applied dynamic rules {} v{}", rule.id, rule.version);
    Event {
        handler: Some("dynamic_rules"),
        metadata: named([
            id,
            version,
            ("ip_bans", int(effects.ip_bans)),
            ("country_blocks", int(effects.country_blocks)),
            ("emergency_mode", FactValue::Bool(effects.emergency_mode)),
        ]),
        ..event(EventType::DynamicRuleApplied, now, "rules_updated", reason)
    }
}

/// Entries of the emergency whitelist that an event shows.
const WHITELIST_SHOWN: usize = 10;

/// A lockdown began.
#[must_use]
pub fn emergency_activated(now: Timestamp, whitelist: &[String]) -> Event {
    let shown = whitelist.iter().take(WHITELIST_SHOWN).cloned().collect();
    let reason = "[EMERGENCY MODE] activated via dynamic rules".to_owned();
    Event {
        handler: Some("dynamic_rules"),
        metadata: named([("whitelist_count", int(whitelist.len())), ("whitelist", FactValue::List(shown))]),
        ..event(EventType::EmergencyModeActivated, now, "emergency_lockdown", reason)
    }
}

/// The database of places could not be fetched. `error` names the kind of failure.
#[must_use]
pub fn geo_download_failed(now: Timestamp, error: &str) -> Event {
    let reason = format!("Failed to download IPInfo database: {error}");
    Event { handler: Some("ipinfo"), ..event(EventType::GeoLookupFailed, now, "database_download_failed", reason) }
}

/// A request that the application refused by itself.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Who asked.
    pub address: String,
    /// Why.
    pub reason: String,
    /// The request's method.
    pub method: Option<String>,
    /// The request's path.
    pub path: Option<String>,
}

impl Refused {
    fn event(self, kind: EventType, now: Timestamp, metadata: Metadata) -> Event {
        Event {
            address: self.address,
            endpoint: self.path,
            method: self.method,
            handler: Some("middleware"),
            metadata,
            ..event(kind, now, "blocked", self.reason)
        }
    }
}

/// The application denied access; what refused there, and what was violated.
#[must_use]
pub fn access_denied(now: Timestamp, refused: Refused, (decorator, violation): (&str, &str)) -> Event {
    let metadata = named([("decorator_type", text(decorator)), ("violation_type", text(violation))]);
    refused.event(EventType::AccessDenied, now, metadata)
}

/// A login at the application failed; by which kind of credential.
#[must_use]
pub fn authentication_failed(now: Timestamp, refused: Refused, auth_type: &str) -> Event {
    let metadata = named([("decorator_type", text("authentication")), ("auth_type", text(auth_type))]);
    refused.event(EventType::AuthenticationFailed, now, metadata)
}

/// Which list of countries refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CountryList {
    /// It is not among those allowed.
    Whitelist,
    /// It is among those blocked.
    Blacklist,
}

/// The application turned a country away.
#[must_use]
pub fn country_blocked(now: Timestamp, address: &str, country: &str, list: CountryList) -> Event {
    let (rule, reason) = match list {
        CountryList::Whitelist => ("country_whitelist", format!("Country {country} is not in whitelist")),
        CountryList::Blacklist => ("country_blacklist", format!("Country {country} is blocked")),
    };
    Event {
        address: address.to_owned(),
        handler: Some("ipinfo"),
        metadata: named([("country", text(country)), ("rule_type", text(rule))]),
        ..event(EventType::CountryBlocked, now, "request_blocked", reason)
    }
}

/// What happened to a pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PatternChange {
    /// It is looked for from now on.
    Added,
    /// It is not any more.
    Removed,
}

/// A custom pattern came or went; `total` counts the custom patterns after that.
#[must_use]
pub fn pattern_changed(now: Timestamp, pattern: &str, change: PatternChange, total: usize) -> Event {
    let (kind, action, reason) = match change {
        PatternChange::Added => (EventType::PatternAdded, "pattern_added", "Custom pattern added to detection system"),
        PatternChange::Removed => {
            (EventType::PatternRemoved, "pattern_removed", "Custom pattern removed from detection system")
        }
    };
    Event {
        handler: Some("sus_patterns"),
        metadata: named([("pattern", text(pattern)), ("pattern_type", text("custom")), ("total_patterns", int(total))]),
        ..event(kind, now, action, reason.to_owned())
    }
}

/// The response headers of a path.
#[derive(Clone, Copy, Debug)]
pub struct AppliedHeaders<'a> {
    /// The path.
    pub path: &'a str,
    /// How many headers.
    pub count: usize,
    /// A content security policy among them.
    pub has_csp: bool,
    /// Strict transport security among them.
    pub has_hsts: bool,
}

/// Security headers were put on the responses of a path for the first time in a while.
#[must_use]
pub fn headers_applied(now: Timestamp, applied: AppliedHeaders<'_>) -> Event {
    Event {
        address: String::new(),
        handler: Some("security_headers"),
        metadata: named([
            ("path", text(applied.path)),
            ("headers_count", int(applied.count)),
            ("has_csp", FactValue::Bool(applied.has_csp)),
            ("has_hsts", FactValue::Bool(applied.has_hsts)),
        ]),
        ..event(EventType::SecurityHeadersApplied, now, "headers_added", String::new())
    }
}

/// In which way a pattern stands out by its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Anomaly {
    /// It was cut off.
    Timeout {
        /// Bytes it looked at, when they are known.
        content_length: Option<usize>,
    },
    /// It took longer than the threshold.
    Slow {
        /// Bytes it looked at, when they are known.
        content_length: Option<usize>,
        /// How long, in seconds.
        seconds: f64,
    },
    /// It took much longer than it usually does.
    Statistical {
        /// Standard deviations above the mean.
        z_score: f64,
        /// The mean in seconds.
        avg_time: f64,
        /// The standard deviation in seconds.
        std_time: f64,
        /// How long, in seconds.
        seconds: f64,
    },
}

impl Anomaly {
    /// The word that guard-core has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Slow { .. } => "slow_execution",
            Self::Statistical { .. } => "statistical_anomaly",
        }
    }

    fn measures(self) -> Vec<(&'static str, FactValue)> {
        let length = |length: Option<usize>| length.map(|length| ("content_length", int(length)));
        match self {
            Self::Timeout { content_length } => length(content_length).into_iter().collect(),
            Self::Slow { content_length, seconds } => {
                length(content_length).into_iter().chain([("execution_time", FactValue::Float(seconds))]).collect()
            }
            Self::Statistical { z_score, avg_time, std_time, seconds } => vec![
                ("z_score", FactValue::Float(z_score)),
                ("avg_time", FactValue::Float(avg_time)),
                ("std_time", FactValue::Float(std_time)),
                ("execution_time", FactValue::Float(seconds)),
            ],
        }
    }
}

const MONITOR: &str = "PerformanceMonitor";

/// A pattern, or a part of detection, stands out by its time.
#[must_use]
pub fn anomaly(now: Timestamp, pattern: &str, anomaly: Anomaly) -> Event {
    let kind = match anomaly {
        Anomaly::Timeout { .. } => EventType::PatternAnomalyTimeout,
        Anomaly::Slow { .. } => EventType::PatternAnomalySlowExecution,
        Anomaly::Statistical { .. } => EventType::PatternAnomalyStatisticalAnomaly,
    };
    let mut metadata = named([
        ("component", text(MONITOR)),
        ("correlation_id", FactValue::Null),
        ("type", text(anomaly.name())),
        ("pattern", text(pattern)),
    ]);
    metadata.extend(anomaly.measures().into_iter().map(|(name, value)| (Cow::Borrowed(name), value)));
    let reason = format!("Pattern performance anomaly: {}", anomaly.name());
    Event { metadata, ..event(kind, now, "anomaly_detected", reason) }
}

/// Whoever was to hear of an anomaly failed; `heard` is the type of the anomaly's event.
#[must_use]
pub fn callback_failed(now: Timestamp, error: &str, heard: EventType) -> Event {
    let kind = heard.name();
    Event {
        metadata: named([
            ("component", text(MONITOR)),
            ("correlation_id", FactValue::Null),
            ("callback_error", text(error)),
            ("anomaly_type", text(kind.strip_prefix("pattern_anomaly_").unwrap_or(kind))),
        ]),
        ..event(EventType::DetectionEngineCallbackError, now, "logged", format!("Anomaly callback failed: {error}"))
    }
}
