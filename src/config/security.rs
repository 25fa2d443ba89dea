//! `security:` in the configuration: guard-core's SecurityConfig, field for field, under the same names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{
    BehaviorRule, CloudStore, Expression, Hook, LogFormat, LogLevel, OverflowPolicy, RedisUrl, ResponseOperation,
    Secret, SecurityHeaders, ThreatBan, TrustedProxy, Verifier,
};
use crate::config::{formats, values};
use crate::model::addr::IpEntry;
use crate::model::category::Category;

/// Every SecurityConfig field of guard-core 4.4.0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityConfig {
    /// Observe only: log, emit and call hooks, but do not block.
    pub passive_mode: bool,
    /// Path subtrees that get the reduced check set: bans, address lists and rate limits still apply.
    #[schemars(with = "Vec<formats::ExcludePath>")]
    pub exclude_paths: Vec<String>,
    /// Body text by status code, instead of the default text.
    #[schemars(with = "BTreeMap<String, String>", extend("propertyNames" = {"format": "status"}))]
    pub custom_error_responses: BTreeMap<u16, String>,
    /// Redirect plain HTTP to HTTPS with 301.
    pub enforce_https: bool,
    /// CEL expression, the last check: `true` denies with 403, a map `{status, body, headers}` denies as it says.
    pub custom_request_check: Option<Expression>,
    /// Header operations on every response, each with an optional CEL condition.
    pub custom_response_modifier: Vec<ResponseOperation>,
    /// A check that cannot decide answers 500 (true) or is skipped (false).
    pub fail_secure: bool,
    /// Redis unreachable: continue from memory (true) or hand the failure to `fail_secure` (false).
    pub redis_fail_open: bool,
    /// Answer 500 when a request names a route that does not exist, or none matches.
    pub route_resolution_strict: bool,
    /// Lockdown: only `emergency_whitelist` passes.
    pub emergency_mode: bool,
    /// Addresses and networks that pass in lockdown.
    #[schemars(with = "Vec<formats::Address>")]
    pub emergency_whitelist: Vec<IpEntry>,
    /// Peers whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses, networks, or the word `unix`.
    #[schemars(with = "Vec<formats::Proxy>")]
    pub trusted_proxies: Vec<TrustedProxy>,
    /// How many hops append to X-Forwarded-For; picks the entry counted from the right. At least 1.
    #[schemars(range(min = 1))]
    pub trusted_proxy_depth: u32,
    /// Let a trusted peer state the scheme in X-Forwarded-Proto.
    pub trust_x_forwarded_proto: bool,
    /// Addresses excused from rate limits, user-agent and route cloud rules.
    #[schemars(with = "Vec<formats::Address>")]
    pub exempt_ips: Vec<IpEntry>,
    /// When set, only these addresses pass; an empty list lets nobody pass.
    #[schemars(with = "Option<Vec<formats::Address>>")]
    pub whitelist: Option<Vec<IpEntry>>,
    /// Denied addresses; not consulted when `whitelist` is set.
    #[schemars(with = "Vec<formats::Address>")]
    pub blacklist: Vec<IpEntry>,
    /// When not empty, only these countries pass; an unresolved country is denied.
    #[serde(deserialize_with = "values::countries")]
    #[schemars(with = "Option<Vec<formats::Country>>")]
    pub whitelist_countries: BTreeSet<String>,
    /// Denied countries; an unresolved country passes.
    #[serde(deserialize_with = "values::countries")]
    #[schemars(with = "Option<Vec<formats::Country>>")]
    pub blocked_countries: BTreeSet<String>,
    /// Regular expressions searched, ignoring case, in the first 512 characters of User-Agent.
    #[schemars(with = "Vec<formats::AgentPattern>")]
    pub blocked_user_agents: Vec<String>,
    /// Bans by threshold. Manual, behaviour and dynamic-rule bans work regardless.
    pub enable_ip_banning: bool,
    /// Suspicious count over all categories that bans.
    #[schemars(range(min = 1))]
    pub auto_ban_threshold: u32,
    /// Length of such a ban, in seconds.
    #[schemars(range(min = 1))]
    pub auto_ban_duration: u32,
    /// Ban policy by category, tried before the flat one.
    #[schemars(extend("propertyNames" = {"format": "ban-category"}))]
    pub threat_ban_config: BTreeMap<String, ThreatBan>,
    /// Each 429 counts towards category `rate_limit` and may ban.
    pub enable_rate_limit_auto_ban: bool,
    /// MMDB file with countries (MaxMind or IPinfo layout).
    #[schemars(with = "Option<formats::NonBlank>")]
    pub geo_ip_handler: Option<PathBuf>,
    /// IPinfo token, used to download the database.
    pub ipinfo_token: Option<Secret>,
    /// Where the downloaded database lies.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub ipinfo_db_path: Option<PathBuf>,
    /// Age in seconds at which the database is fetched again.
    #[schemars(range(min = 3600, max = 604800))]
    pub geo_ip_db_max_age: u32,
    /// Deny addresses of these providers: `Provider` or `Provider:!region`.
    #[schemars(with = "Option<Vec<formats::Cloud>>")]
    pub block_cloud_providers: Option<Vec<String>>,
    /// Refresh period of the provider ranges, in seconds.
    #[schemars(range(min = 60, max = 86400))]
    pub cloud_ip_refresh_interval: u32,
    /// Where ranges are kept between refreshes.
    pub cloud_ip_store: Option<CloudStore>,
    /// Do not wait for the first geo and cloud load before becoming ready.
    pub lazy_init: bool,
    /// Master switch of every tier.
    pub enable_rate_limiting: bool,
    /// Requests per client and window, over all paths.
    #[schemars(range(min = 1))]
    pub rate_limit: u32,
    /// Global window in seconds; also the Retry-After value.
    #[schemars(range(min = 1))]
    pub rate_limit_window: u32,
    /// `[requests, window]` by exact path.
    #[schemars(with = "BTreeMap<String, values::LimitPair>", extend("propertyNames" = {"format": "path"}))]
    pub endpoint_rate_limits: BTreeMap<String, (u32, u32)>,
    /// Behaviour rules on every route.
    pub global_behavior_rules: Vec<BehaviorRule>,
    /// Allow rules to read response bodies.
    pub behavior_scan_response_body: bool,
    /// Response prefix kept for matching, in bytes.
    #[schemars(range(min = 1024, max = 10485760))]
    pub behavior_max_response_body_inspect_bytes: u32,
    /// Time limit of one body read, in seconds.
    #[schemars(range(max = 30), extend("exclusiveMinimum" = 0))]
    pub body_read_timeout: f64,
    /// Accepted for compatibility; this service has no thread per read.
    #[schemars(range(min = 1, max = 10000))]
    pub sync_body_read_max_concurrent: u32,
    /// Response hardening headers.
    #[serde(deserialize_with = "values::headers")]
    pub security_headers: Option<SecurityHeaders>,
    /// Answer preflights and add CORS headers.
    pub enable_cors: bool,
    /// Exact origins, or `*`.
    pub cors_allow_origins: Vec<String>,
    /// Allowed methods.
    #[schemars(with = "Vec<formats::Method>")]
    pub cors_allow_methods: Vec<String>,
    /// Allowed request headers.
    #[schemars(with = "Vec<formats::HeaderName>")]
    pub cors_allow_headers: Vec<String>,
    /// Access-Control-Allow-Credentials.
    pub cors_allow_credentials: bool,
    /// Access-Control-Expose-Headers.
    #[schemars(with = "Vec<formats::HeaderName>")]
    pub cors_expose_headers: Vec<String>,
    /// Preflight lifetime in seconds; 0 means 600.
    pub cors_max_age: u32,
    /// Shared state in Redis.
    pub enable_redis: bool,
    /// `redis://`, `rediss://` or `unix://` URL.
    pub redis_url: Option<RedisUrl>,
    /// Put before every key.
    pub redis_prefix: String,
    /// Seconds; null waits forever.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub redis_socket_connect_timeout: Option<f64>,
    /// Seconds for reads and writes; null waits forever.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub redis_socket_timeout: Option<f64>,
    /// Seconds between probes of idle connections; 0 turns them off.
    pub redis_health_check_interval: u32,
    /// Pool size.
    #[schemars(range(min = 1))]
    pub redis_max_connections: Option<u32>,
    /// Retries with exponential backoff.
    pub redis_retries: u32,
    /// Attack detection.
    pub enable_penetration_detection: bool,
    /// Categories that are looked for.
    #[schemars(with = "Vec<formats::CategoryName>")]
    pub enabled_detection_categories: BTreeSet<String>,
    /// Headers moved to the reduced scan.
    pub excluded_detection_headers: BTreeSet<String>,
    /// Headers the semantic analyser skips.
    pub excluded_semantic_detection_headers: BTreeSet<String>,
    /// Query names that are not scanned.
    pub excluded_detection_params: BTreeSet<String>,
    /// Body keys that are not scanned, at any depth, form and multipart names included.
    pub excluded_detection_body_fields: BTreeSet<String>,
    /// Scan request bodies.
    pub detection_scan_body: bool,
    /// Accepted for compatibility: the automaton's time is linear in its input.
    #[schemars(range(min = 0.1, max = 10))]
    pub detection_compiler_timeout: f64,
    /// Time for one request's detection; spending it is itself a finding.
    #[schemars(range(min = 0.1, max = 60))]
    pub detection_max_scan_seconds: f64,
    /// Folder where compiled pattern databases are kept.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub detection_pattern_validation_cache_path: Option<PathBuf>,
    /// Characters the semantic analyser reads.
    #[schemars(range(min = 1000, max = 100000))]
    pub detection_max_content_length: u32,
    /// Bytes of a request body that are scanned.
    #[schemars(range(min = 1024, max = 10485760))]
    pub detection_max_body_inspect_bytes: u32,
    /// Values scanned per request.
    #[schemars(range(min = 2, max = 100000))]
    pub detection_max_scan_values: u32,
    /// Characters scanned per request.
    #[schemars(range(min = 1024, max = 262144))]
    pub detection_max_scan_chars: u32,
    /// Depth of the structural JSON walk.
    #[schemars(range(min = 1, max = 1000))]
    pub detection_max_json_depth: u32,
    /// Shortest printable run scanned in binary uploads.
    #[schemars(range(min = 4, max = 1024))]
    pub detection_binary_min_run_length: u32,
    /// Truncation keeps regions that look like attacks.
    pub detection_preserve_attack_patterns: bool,
    /// Semantic score above which text is a threat; 0 turns the analyser off.
    #[schemars(range(min = 0, max = 1))]
    pub detection_semantic_threshold: f64,
    /// Sum of weights that makes a threat.
    #[schemars(range(min = 0, max = 10))]
    pub detection_threat_score_threshold: f64,
    /// Monitor: standard deviations.
    #[schemars(range(min = 1, max = 10))]
    pub detection_anomaly_threshold: f64,
    /// Monitor: seconds that make a row slow.
    #[schemars(range(min = 0.01, max = 1))]
    pub detection_slow_pattern_threshold: f64,
    /// Monitor: records kept.
    #[schemars(range(min = 100, max = 10000))]
    pub detection_monitor_history_size: u32,
    /// Monitor: rows tracked.
    #[schemars(range(min = 100, max = 5000))]
    pub detection_max_tracked_patterns: u32,
    /// Monitor: seconds between events of one row.
    #[schemars(range(min = 1, max = 3600))]
    pub detection_anomaly_emission_cooldown: f64,
    /// Monitor: samples before statistics.
    #[schemars(range(min = 10, max = 1000))]
    pub detection_min_samples_for_anomaly: u32,
    /// Extra log file.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub custom_log_file: Option<PathBuf>,
    /// Level of suspicious and blocking lines; null silences them.
    pub log_suspicious_level: Option<LogLevel>,
    /// Level of the line for every request; null leaves it out.
    pub log_request_level: Option<LogLevel>,
    /// Level of country verdicts that do not block.
    pub log_country_check_level: Option<LogLevel>,
    /// Line format.
    pub log_format: LogFormat,
    /// Checks whose log lines are silenced.
    #[schemars(with = "Vec<formats::CheckName>")]
    pub muted_check_logs: BTreeSet<String>,
    /// Events that are not sent.
    #[schemars(with = "Vec<formats::EventName>")]
    pub muted_event_types: BTreeSet<String>,
    /// Agent metrics that are not sent.
    #[schemars(with = "Vec<formats::MetricName>")]
    pub muted_metric_types: BTreeSet<String>,
    /// More header names to redact.
    pub log_sensitive_headers: BTreeSet<String>,
    /// More query names to redact.
    pub log_sensitive_params: BTreeSet<String>,
    /// More body names to redact.
    pub log_sensitive_body_fields: BTreeSet<String>,
    /// Default credential verifier.
    pub auth_verifier: Option<Verifier>,
    /// Where failures are reported.
    pub on_error: Option<Hook>,
    /// Where blocks are reported.
    pub on_block: Option<Hook>,
    /// Telemetry in guard-core's agent protocol.
    pub enable_agent: bool,
    /// Needed when `enable_agent` is on.
    pub agent_api_key: Option<Secret>,
    /// A failing agent start is fatal.
    pub agent_strict: bool,
    /// Base URL.
    #[schemars(with = "formats::Url")]
    pub agent_endpoint: String,
    /// Project tag.
    pub agent_project_id: Option<String>,
    /// Events before a flush.
    pub agent_buffer_size: u32,
    /// Seconds between flushes.
    pub agent_flush_interval: u32,
    /// Send events.
    pub agent_enable_events: bool,
    /// Send metrics.
    pub agent_enable_metrics: bool,
    /// HTTP timeout in seconds.
    pub agent_timeout: u32,
    /// HTTP retries.
    pub agent_retry_attempts: u32,
    /// AES-256-GCM key of the encrypted endpoint.
    pub agent_project_encryption_key: Option<Secret>,
    /// Version label.
    pub agent_guard_version: Option<String>,
    /// Fill ratio that flushes early.
    pub agent_high_watermark_ratio: Option<f64>,
    /// Flushes at once.
    pub agent_max_concurrent_flushes: Option<u32>,
    /// What happens when the buffer is full.
    pub agent_buffer_overflow_policy: Option<OverflowPolicy>,
    /// Retry backoff.
    pub agent_backoff_factor: Option<f64>,
    /// Headers left out of telemetry.
    pub agent_sensitive_headers: Option<Vec<String>>,
    /// Bytes per event.
    pub agent_max_payload_size: Option<u32>,
    /// Compress batches.
    pub agent_compression_enabled: Option<bool>,
    /// Compress from this many bytes.
    pub agent_compression_threshold: Option<u32>,
    /// Install id; null generates one.
    pub agent_install_id: Option<String>,
    /// HMAC-SHA256 signing of payloads.
    pub agent_payload_signing_secret: Option<Secret>,
    /// Seconds between status reports.
    #[schemars(range(min = 60, max = 86400))]
    pub agent_status_interval: u32,
    /// Pull rules and lay them over this configuration.
    pub enable_dynamic_rules: bool,
    /// Poll period in seconds.
    #[schemars(range(min = 60))]
    pub dynamic_rule_interval: u32,
    /// Last known rules.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub dynamic_rules_cache_path: Option<PathBuf>,
    /// OpenTelemetry export.
    pub enable_otel: bool,
    /// Resource `service.name`.
    pub otel_service_name: String,
    /// OTLP endpoint.
    #[schemars(with = "Option<formats::Url>")]
    pub otel_exporter_endpoint: Option<String>,
    /// More resource attributes.
    pub otel_resource_attributes: BTreeMap<String, String>,
    /// Accepted for compatibility; use OTLP.
    pub enable_logfire: bool,
    /// Accepted for compatibility.
    pub logfire_service_name: String,
    /// More metadata on events and metrics.
    pub enable_enrichment: bool,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            passive_mode: false,
            exclude_paths: strings(&["/docs", "/redoc", "/openapi.json", "/openapi.yaml", "/favicon.ico", "/static"]),
            custom_error_responses: BTreeMap::new(),
            enforce_https: false,
            custom_request_check: None,
            custom_response_modifier: Vec::new(),
            fail_secure: true,
            redis_fail_open: true,
            route_resolution_strict: false,
            emergency_mode: false,
            emergency_whitelist: Vec::new(),
            trusted_proxies: Vec::new(),
            trusted_proxy_depth: 1,
            trust_x_forwarded_proto: false,
            exempt_ips: Vec::new(),
            whitelist: None,
            blacklist: Vec::new(),
            whitelist_countries: BTreeSet::new(),
            blocked_countries: BTreeSet::new(),
            blocked_user_agents: Vec::new(),
            enable_ip_banning: true,
            auto_ban_threshold: 10,
            auto_ban_duration: 3600,
            threat_ban_config: BTreeMap::new(),
            enable_rate_limit_auto_ban: false,
            geo_ip_handler: None,
            ipinfo_token: None,
            ipinfo_db_path: Some(PathBuf::from("data/ipinfo/country_asn.mmdb")),
            geo_ip_db_max_age: 86400,
            block_cloud_providers: None,
            cloud_ip_refresh_interval: 3600,
            cloud_ip_store: None,
            lazy_init: false,
            enable_rate_limiting: true,
            rate_limit: 10,
            rate_limit_window: 60,
            endpoint_rate_limits: BTreeMap::new(),
            global_behavior_rules: Vec::new(),
            behavior_scan_response_body: false,
            behavior_max_response_body_inspect_bytes: 262144,
            body_read_timeout: 3.0,
            sync_body_read_max_concurrent: 64,
            security_headers: Some(SecurityHeaders::standard()),
            enable_cors: false,
            cors_allow_origins: strings(&["*"]),
            cors_allow_methods: strings(&["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
            cors_allow_headers: strings(&["*"]),
            cors_allow_credentials: false,
            cors_expose_headers: Vec::new(),
            cors_max_age: 600,
            enable_redis: true,
            redis_url: Some(RedisUrl::default()),
            redis_prefix: "guard_core:".to_owned(),
            redis_socket_connect_timeout: Some(2.0),
            redis_socket_timeout: Some(2.0),
            redis_health_check_interval: 30,
            redis_max_connections: None,
            redis_retries: 1,
            enable_penetration_detection: true,
            enabled_detection_categories: categories(),
            excluded_detection_headers: BTreeSet::new(),
            excluded_semantic_detection_headers: BTreeSet::new(),
            excluded_detection_params: BTreeSet::new(),
            excluded_detection_body_fields: BTreeSet::new(),
            detection_scan_body: true,
            detection_compiler_timeout: 2.0,
            detection_max_scan_seconds: 10.0,
            detection_pattern_validation_cache_path: None,
            detection_max_content_length: 10000,
            detection_max_body_inspect_bytes: 262144,
            detection_max_scan_values: 512,
            detection_max_scan_chars: 65536,
            detection_max_json_depth: 32,
            detection_binary_min_run_length: 16,
            detection_preserve_attack_patterns: true,
            detection_semantic_threshold: 0.7,
            detection_threat_score_threshold: 1.0,
            detection_anomaly_threshold: 3.0,
            detection_slow_pattern_threshold: 0.1,
            detection_monitor_history_size: 1000,
            detection_max_tracked_patterns: 1000,
            detection_anomaly_emission_cooldown: 60.0,
            detection_min_samples_for_anomaly: 30,
            custom_log_file: None,
            log_suspicious_level: Some(LogLevel::Warning),
            log_request_level: None,
            log_country_check_level: Some(LogLevel::Info),
            log_format: LogFormat::Text,
            muted_check_logs: BTreeSet::new(),
            muted_event_types: BTreeSet::new(),
            muted_metric_types: BTreeSet::new(),
            log_sensitive_headers: BTreeSet::new(),
            log_sensitive_params: BTreeSet::new(),
            log_sensitive_body_fields: BTreeSet::new(),
            auth_verifier: None,
            on_error: None,
            on_block: None,
            enable_agent: false,
            agent_api_key: None,
            agent_strict: false,
            agent_endpoint: "https://api.guard-core.com".to_owned(),
            agent_project_id: None,
            agent_buffer_size: 100,
            agent_flush_interval: 30,
            agent_enable_events: true,
            agent_enable_metrics: true,
            agent_timeout: 30,
            agent_retry_attempts: 3,
            agent_project_encryption_key: None,
            agent_guard_version: None,
            agent_high_watermark_ratio: None,
            agent_max_concurrent_flushes: None,
            agent_buffer_overflow_policy: None,
            agent_backoff_factor: None,
            agent_sensitive_headers: None,
            agent_max_payload_size: None,
            agent_compression_enabled: None,
            agent_compression_threshold: None,
            agent_install_id: None,
            agent_payload_signing_secret: None,
            agent_status_interval: 300,
            enable_dynamic_rules: false,
            dynamic_rule_interval: 300,
            dynamic_rules_cache_path: None,
            enable_otel: false,
            otel_service_name: "guard-core".to_owned(),
            otel_exporter_endpoint: None,
            otel_resource_attributes: BTreeMap::new(),
            enable_logfire: false,
            logfire_service_name: "guard-core".to_owned(),
            enable_enrichment: false,
        }
    }
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn categories() -> BTreeSet<String> {
    Category::all().map(|category| category.name().to_owned()).collect()
}
