//! Recent decisions for operators: a list to follow, one with everything, and what would change it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::addr::IpEntry;
use crate::server::api::{Answer, Asked, Control, Named, asked, bad, page_size};
use crate::server::problem::Problem;
use crate::telemetry::recent::Record;

/// Fields of a record that a list leaves out.
const DETAILS: [&str; 4] = ["facts", "detection", "log_only", "us"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Newer than this number, the oldest first.
    after: Option<u64>,
    /// Older than this number.
    before: Option<u64>,
    limit: Option<usize>,
    verdict: Option<String>,
    check: Option<String>,
    client: Option<String>,
    route: Option<String>,
}

impl Wanted {
    fn holds(&self, record: &Record, network: Option<&IpEntry>) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| wanted.is_none() || wanted.as_deref() == value;
        let is_client = match network {
            Some(network) => record.client.parse::<IpEntry>().is_ok_and(|entry| match entry {
                IpEntry::Addr(address) => network.contains(address),
                IpEntry::Net(_) => false,
            }),
            None => is(&self.client, Some(&record.client)),
        };
        is_client
            && is(&self.verdict, Some(record.outcome.name()))
            && is(&self.check, record.check)
            && is(&self.route, record.route.as_deref())
            && self.after.is_none_or(|after| after < record.number)
            && self.before.is_none_or(|before| record.number < before)
    }
}

/// Without `after` the newest first, else the oldest first; `newest` is where to go on.
pub(super) async fn list<C: Control>(State(control): State<Arc<C>>, query: Asked<Wanted>) -> Answer {
    let wanted = asked(query)?;
    let size = page_size(wanted.limit)?;
    if wanted.verdict.as_deref().is_some_and(|name| !matches!(name, "allow" | "deny" | "fail" | "report")) {
        return Err(bad("verdict is allow, deny, fail or report"));
    }
    let network: Option<IpEntry> = wanted.client.as_deref().and_then(|text| text.parse().ok());
    let all = control.recent().all();
    let oldest = all.first().map(|record| record.number);
    // Read together with the list: what is made meanwhile must not be skipped by who goes on from here.
    let newest = all.last().map_or_else(|| control.recent().fill().made, |record| record.number);
    let found = all.iter().filter(|record| wanted.holds(record, network.as_ref()));
    let page: Vec<&Arc<Record>> = match wanted.after {
        Some(_) => found.take(size).collect(),
        None => found.rev().take(size).collect(),
    };
    // A page that is not full was the last one.
    let is_full = page.len() == size;
    let last = page.last().map(|record| record.number).filter(|_| is_full);
    let shown: Vec<Value> = page.iter().map(|record| brief(record)).collect();
    Ok(Json(json!({
        "decisions": shown,
        "next": last.map(|number| number.to_string()),
        "oldest": oldest.map(|number| number.to_string()),
        "newest": newest.to_string(),
    })))
}

fn brief(record: &Record) -> Value {
    let mut shown = record.json();
    if let Value::Object(fields) = &mut shown {
        fields.retain(|name, _| !DETAILS.contains(&name.as_str()));
    }
    shown
}

/// One decision with its explanation.
pub(super) async fn one<C: Control>(State(control): State<Arc<C>>, path: Named) -> Answer {
    let Path(id) = path.map_err(|error| bad(error.body_text()))?;
    let found = control.recent().find(&id);
    let record = found.ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "no such decision is kept; see telemetry.decisions for how many are")
    })?;
    let mut shown = record.json();
    let change = remedies(&record, &shown);
    if let Value::Object(fields) = &mut shown {
        fields.insert("change".to_owned(), change);
    }
    Ok(Json(shown))
}

/// What an operator can do when this decision was wrong, the narrowest way first: entries to exclude, settings to look
/// at (those of routes as `routes[].KEY`), commands.
fn remedies(record: &Record, shown: &Value) -> Value {
    let exclusions = shown.pointer("/detection/exclusions").cloned().unwrap_or_else(|| json!([]));
    let client = &record.client;
    let commands = match record.check.unwrap_or_default() {
        "ip_security" => {
            vec![format!("envoy-guard bans why {client}"), format!("envoy-guard bans del {client}")]
        }
        "rate_limit" => vec!["envoy-guard limits top".to_owned(), "envoy-guard limits reset".to_owned()],
        "internal" | "not_ready" | "unreadable" => vec!["envoy-guard doctor".to_owned()],
        _ => Vec::new(),
    };
    json!({ "exclusions": exclusions, "settings": settings(record.check.unwrap_or_default()), "commands": commands })
}

/// The settings that decide what a check objects to.
fn settings(check: &str) -> &'static [&'static str] {
    match check {
        "suspicious_activity" => &[
            "detection.exclusions",
            "routes[].exclusions",
            "detection.log_only_rows",
            "detection.log_only_categories",
            "routes[].enable_suspicious_detection",
        ],
        "ip_security" => &[
            "security.whitelist",
            "security.blacklist",
            "security.blocked_countries",
            "routes[].ip_whitelist",
            "routes[].ip_blacklist",
            "security.auto_ban_threshold",
        ],
        "rate_limit" => &[
            "security.rate_limit",
            "security.endpoint_rate_limits",
            "routes[].rate_limit",
            "routes[].geo_rate_limits",
            "rate_limits.rules",
        ],
        "user_agent" => &["security.blocked_user_agents", "routes[].blocked_user_agents"],
        "cloud_provider" => &["security.block_cloud_providers", "routes[].block_cloud_providers"],
        "emergency_mode" => &["security.emergency_mode", "security.emergency_whitelist"],
        "https_enforcement" => &["security.enforce_https", "routes[].require_https"],
        "authentication" => {
            &["routes[].auth_required", "routes[].api_key_required", "routes[].authorization_header_required"]
        }
        "request_size_content" => &["routes[].max_request_size", "routes[].allowed_content_types"],
        "required_headers" => &["routes[].required_headers"],
        "referrer" => &["routes[].require_referrer"],
        "custom_validators" => &["routes[].custom_validators", "routes[].honeypot_fields"],
        "time_window" => &["routes[].time_restrictions"],
        "custom_request" => &["security.custom_request_check"],
        "client_address_unresolved" => &["security.fail_secure", "security.trusted_proxies"],
        "cors_preflight" => &["security.cors_allow_origins", "security.cors_allow_methods"],
        "behavior" => &["routes[].behavior_rules"],
        "response_rule" => &["routes[].response_rules"],
        "internal" | "not_ready" => &["security.fail_secure", "security.redis_fail_open"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::routes::RouteConfig;
    use crate::model::check::Check;

    #[test]
    fn every_check_names_settings_that_exist() {
        let config = serde_json::to_value(Config::default()).unwrap();
        let route = serde_json::to_value(RouteConfig::default()).unwrap();
        let around =
            ["client_address_unresolved", "cors_preflight", "behavior", "response_rule", "internal", "not_ready"];
        // These decide nothing themselves.
        let silent = [Check::RouteConfig, Check::RequestLogging, Check::CloudIpRefresh];
        let checks = Check::ALL.iter().filter(|check| !silent.contains(check)).map(|check| check.name());
        for check in checks.chain(around) {
            assert!(!settings(check).is_empty(), "{check}");
            for key in settings(check) {
                let found = match key.strip_prefix("routes[].") {
                    Some(own) => route.get(own),
                    None => config.pointer(&format!("/{}", key.replace('.', "/"))),
                };
                assert!(found.is_some(), "{check}: there is no {key}");
            }
        }
    }
}
