//! Rules across fields. Each names the fields it looks at and keeps silent when one of them is already reported.

use crate::config::Config;
use crate::config::check::Findings;
use crate::config::errors::Class;
use crate::config::security::SecurityConfig;
use crate::config::values::{BehaviorAction, BehaviorKind, BehaviorRule, SecurityHeaders};

mod limits;
mod redis;
mod routes;
mod server;

/// Seconds of a year: what preloading of HSTS needs.
const YEAR: u64 = 31_536_000;

/// Checks `config` across its fields; may downgrade what cannot be served.
pub(crate) fn apply(config: &mut Config, out: &mut Findings) {
    let security = &mut config.security;
    countries(security, out);
    dependencies(security, out);
    lists(security, out);
    cors(security, out);
    headers(security, out);
    behavior("security.global_behavior_rules", &security.global_behavior_rules, security, out);
    detection(config, out);
    data(config, out);
    routes::apply(config, out);
    server::apply(config, out);
    rule_sources(config, out);
    telemetry(config, out);
    redis::apply(config, out);
    limits::apply(config, out);
}

/// Reports `message` unless one of `fields` is already reported.
fn conflict(fields: &[&str], message: &str, out: &mut Findings) {
    let Some(first) = fields.first() else { return };
    if !fields.iter().any(|field| out.is_faulty(field)) {
        out.problem(first, Class::CrossField, message.to_owned());
    }
}

fn has_country_source(security: &SecurityConfig) -> bool {
    security.geo_ip_handler.is_some() || security.ipinfo_token.as_ref().is_some_and(|token| !token.expose().is_empty())
}

fn countries(security: &SecurityConfig, out: &mut Findings) {
    let blocked = !security.blocked_countries.is_empty();
    let allowed = !security.whitelist_countries.is_empty();
    if (blocked || allowed) && !has_country_source(security) {
        let field = if blocked { "security.blocked_countries" } else { "security.whitelist_countries" };
        let message =
            "geo_ip_handler is required if blocked_countries or whitelist_countries is set; ipinfo_token will do too";
        conflict(&[field, "security.geo_ip_handler", "security.ipinfo_token"], message, out);
    }
    if blocked && allowed {
        out.warn("security.blocked_countries", "has no effect while whitelist_countries is set");
    }
}

/// Lists need names of their own; rules over autonomous systems need a database that may hold them.
fn data(config: &Config, out: &mut Findings) {
    let (security, data) = (&config.security, &config.data);
    for (index, list) in data.lists.iter().enumerate() {
        let key = format!("data.lists[{index}].name");
        if data.lists.iter().take(index).any(|before| before.name == list.name) {
            out.problem(&key, Class::CrossField, "another list has this name".to_owned());
        }
        if list.token.is_some() && !list.source.starts_with("https://") {
            out.warn(
                &format!("data.lists[{index}].token"),
                "is sent in the clear, or not at all: the source is not https://",
            );
        }
    }
    let has_database = data.asn_database.is_some() || has_country_source(security);
    let message =
        "needs data.asn_database, security.geo_ip_handler or security.ipinfo_token to know autonomous systems";
    let rules = [("blocked_asns", &data.blocked_asns), ("allowed_asns", &data.allowed_asns)];
    for (field, _) in rules.iter().filter(|(_, asns)| !has_database && !asns.is_empty()) {
        let key = format!("data.{field}");
        conflict(&[&key, "data.asn_database", "security.geo_ip_handler", "security.ipinfo_token"], message, out);
    }
    for (index, route) in config.routes.iter().enumerate() {
        let rules = [("blocked_asns", &route.blocked_asns), ("allowed_asns", &route.allowed_asns)];
        for (field, _) in rules.iter().filter(|(_, asns)| !has_database && !asns.is_empty()) {
            let key = format!("routes[{index}].{field}");
            conflict(&[&key, "data.asn_database", "security.geo_ip_handler", "security.ipinfo_token"], message, out);
        }
    }
}

fn dependencies(security: &SecurityConfig, out: &mut Findings) {
    let has_key = security.agent_api_key.as_ref().is_some_and(|key| !key.expose().is_empty());
    if security.enable_agent && !has_key {
        let fields = ["security.enable_agent", "security.agent_api_key"];
        conflict(&fields, "agent_api_key is required if enable_agent is true", out);
    }
    if security.enable_dynamic_rules && !security.enable_agent {
        let fields = ["security.enable_dynamic_rules", "security.enable_agent"];
        conflict(&fields, "enable_agent must be true if enable_dynamic_rules is true", out);
    }
    if security.enable_enrichment && !security.enable_agent {
        let fields = ["security.enable_enrichment", "security.enable_agent"];
        conflict(&fields, "enable_agent must be true if enable_enrichment is true", out);
    }
    if security.enable_redis && security.redis_url.is_none() {
        out.warn("security.redis_url", "is null, so nothing is shared although enable_redis is true");
    }
}

fn rule_sources(config: &Config, out: &mut Findings) {
    if config.data.dynamic_rules.is_some() && config.security.enable_dynamic_rules {
        let fields = ["data.dynamic_rules", "security.enable_dynamic_rules"];
        conflict(&fields, "dynamic rules come from one place: a file, or enable_dynamic_rules", out);
    }
}

fn lists(security: &SecurityConfig, out: &mut Findings) {
    if security.whitelist.as_ref().is_some_and(Vec::is_empty) {
        out.warn("security.whitelist", "is empty, so nobody passes; leave it out or set null for no whitelist");
    }
    if security.whitelist.as_ref().is_some_and(|list| !list.is_empty()) && !security.blacklist.is_empty() {
        out.warn("security.blacklist", "is not consulted while whitelist is set");
    }
    if security.emergency_mode && security.emergency_whitelist.is_empty() {
        out.warn("security.emergency_mode", "is on and emergency_whitelist is empty, so nobody passes");
    }
    if security.trust_x_forwarded_proto && security.trusted_proxies.is_empty() {
        out.warn("security.trust_x_forwarded_proto", "has no effect while trusted_proxies is empty");
    }
    if security.auto_ban_threshold == 1 && security.enable_ip_banning {
        out.warn("security.auto_ban_threshold", "is 1, so the first finding bans");
    }
}

fn cors(security: &mut SecurityConfig, out: &mut Findings) {
    let wildcard = security.cors_allow_origins.iter().any(|origin| origin == "*");
    if security.enable_cors && security.cors_allow_credentials && wildcard {
        let message = "cannot be combined with the origin `*`: browsers refuse it; credentials are turned off";
        out.warn("security.cors_allow_credentials", message);
        security.cors_allow_credentials = false;
    }
    for (index, origin) in security.cors_allow_origins.iter().enumerate() {
        let host = origin.split_once("://").map(|(_, rest)| rest);
        if origin != "*" && origin != "null" && host.is_none_or(|rest| rest.is_empty() || rest.contains('/')) {
            let key = format!("security.cors_allow_origins[{index}]");
            out.warn(&key, "is no origin such as `https://example.com` and matches nothing");
        }
    }
}

fn headers(security: &SecurityConfig, out: &mut Findings) {
    let Some(headers) = &security.security_headers else { return };
    hsts(headers, out);
    let key = "security.security_headers.csp";
    let Some(csp) = &headers.csp else { return };
    let mut length = 0;
    for (directive, sources) in csp {
        let sources: Vec<&str> =
            sources.as_array().into_iter().flatten().filter_map(|source| source.as_str()).collect();
        length += directive.len() + sources.iter().map(|source| source.len() + 1).sum::<usize>() + 2;
        for risky in sources.iter().filter(|source| matches!(**source, "'unsafe-inline'" | "'unsafe-eval'")) {
            out.warn(&format!("{key}.{directive}"), format!("{risky} weakens the policy"));
        }
        if sources.iter().any(|source| source.contains(';')) {
            let message = "a source must not hold `;`, which would begin another directive".to_owned();
            out.problem(&format!("{key}.{directive}"), Class::Value, message);
        }
    }
    if crate::config::formats::HEADER_VALUE_MAX < length {
        out.problem(key, Class::Range, format!("makes a header of {length} characters; 8192 are allowed"));
    }
}

fn hsts(headers: &SecurityHeaders, out: &mut Findings) {
    let Some(hsts) = headers.hsts.as_ref().filter(|hsts| hsts.preload) else { return };
    let key = "security.security_headers.hsts.preload";
    if hsts.max_age.is_none_or(|age| age < YEAR) {
        out.warn(key, format!("needs a max_age of {YEAR} seconds and is left out"));
    }
    if !hsts.include_subdomains {
        out.warn(key, "needs include_subdomains, which is turned on");
    }
}

fn behavior(key: &str, rules: &[BehaviorRule], security: &SecurityConfig, out: &mut Findings) {
    for (index, rule) in rules.iter().enumerate() {
        // An expression may choose to throttle.
        if rule.delay_ms.is_some() && rule.action != BehaviorAction::Throttle && rule.custom_action.is_none() {
            out.warn(&format!("{key}[{index}].delay_ms"), "has no effect: the action is not `throttle`");
        }
        if rule.rule_type != BehaviorKind::ReturnPattern {
            continue;
        }
        let own = format!("{key}[{index}].pattern");
        let Some(pattern) = &rule.pattern else {
            out.warn(&own, "is missing, so this return_pattern rule never matches");
            continue;
        };
        if !pattern.starts_with("status:") && !security.behavior_scan_response_body {
            let fields = [own.as_str(), "security.behavior_scan_response_body"];
            conflict(&fields, "looks into response bodies, which behavior_scan_response_body does not allow", out);
        }
    }
}

fn detection(config: &Config, out: &mut Findings) {
    let security = &config.security;
    if security.enable_penetration_detection && security.enabled_detection_categories.is_empty() {
        out.warn("security.enabled_detection_categories", "is empty, so detection finds nothing");
    }
    routes::exclusions("detection.exclusions", &config.detection.exclusions, out);
}

fn telemetry(config: &Config, out: &mut Findings) {
    if config.telemetry.webhook.as_ref().is_some_and(|webhook| webhook.url.is_empty()) {
        conflict(&["telemetry.webhook.url", "telemetry.webhook"], "is missing, so events have nowhere to go", out);
    }
}
