//! The policy: what leaves protection off, shares too little, trusts too much, or is open to too many.

use std::net::IpAddr;

use serde_json::Value;

use crate::config::errors::Place;
use crate::config::exclusions::{Exclusion, Unreadable};
use crate::config::redacted::redacted_json;
use crate::config::routes::{RouteConfig, RouteMatch};
use crate::config::values::TrustedProxy;
use crate::config::{Config, Loaded, locate};
use crate::lint::cluster::endpoints;
use crate::lint::codes::*;
use crate::lint::examination::{Examination, OVERHEAD_BYTES};
use crate::lint::kubernetes;
use crate::model::addr::IpEntry;

/// Networks with a shorter prefix hold a large part of all addresses.
const PREFIX_V4_MIN: u8 = 8;
const PREFIX_V6_MIN: u8 = 16;
/// The mode bit that lets others write, and with a socket that is to connect.
const OTHERS_WRITE: u32 = 0o002;
/// Keys that hold a secret and have another way in.
const SECRETS: &[&str] = &[
    "admin.token",
    "redis.password",
    "redis.sentinel_password",
    "security.ipinfo_token",
    "security.agent_api_key",
    "security.agent_project_encryption_key",
    "security.agent_payload_signing_secret",
    "telemetry.webhook.secret",
];

/// Looks at the policy, if it can be used.
pub(super) fn look(about: &mut Examination<'_>, known: Option<u64>) {
    let Some(loaded) = about.loaded else { return };
    let config = &loaded.config;
    switches(about, config);
    trust(about, config);
    routes(about, config);
    replicas(about, config, known);
    doors(about, config);
    secrets(about, loaded);
    // Last: what a code of its own says need not be said twice.
    for (code, notices) in [(EG0002, &loaded.warnings), (EG0003, &loaded.inactive)] {
        for notice in notices {
            let is_said = about.findings.iter().any(|finding| finding.place.is_some() && finding.place == notice.place);
            if !is_said {
                about.push(code, notice.place.clone(), format!("{}: {}", notice.key, notice.message));
            }
        }
    }
}

fn switches(about: &mut Examination<'_>, config: &Config) {
    let (security, detection) = (&config.security, &config.detection);
    let without_detection = !security.enable_penetration_detection
        && !config.routes.iter().any(|route| route.enable_suspicious_detection == Some(true));
    let without_bodies = security.enable_penetration_detection && !security.detection_scan_body;
    let is_watched = !detection.log_only_categories.is_empty() || !detection.log_only_rows.is_empty();
    let anybody = security.enable_cors && security.cors_allow_origins.iter().any(|origin| origin == "*");
    for (code, key, is_so) in [
        (EG1001, "security.passive_mode", security.passive_mode),
        (EG1002, "security.fail_secure", !security.fail_secure),
        (EG1005, "security.enable_penetration_detection", without_detection),
        (EG1005, "security.detection_scan_body", without_bodies),
        (EG1015, "security.emergency_mode", security.emergency_mode),
        (EG1018, "detection", is_watched),
        (EG1019, "detection.undecodable_body", detection.undecodable_body == Unreadable::Allow),
        (EG1020, "security.cors_allow_origins", anybody),
    ] {
        if is_so {
            about.policy(code, key, "");
        }
    }
    for (index, _) in security.exclude_paths.iter().enumerate().filter(|(_, path)| *path == "/") {
        about.policy(EG1016, &format!("security.exclude_paths[{index}]"), "");
    }
    for (index, rule) in config.rate_limits.rules.iter().enumerate().filter(|(_, rule)| rule.shadow) {
        about.policy(EG1018, &format!("rate_limits.rules[{index}].shadow"), format!("`{}`", rule.name));
    }
    let body = u64::from(security.detection_max_body_inspect_bytes);
    let room = u64::from(config.limits.max_message_bytes);
    if security.enable_penetration_detection && security.detection_scan_body && room < body + OVERHEAD_BYTES {
        about.policy(EG1014, "limits.max_message_bytes", format!("{room} bytes for a body of {body}"));
    }
    exclusions(about, "detection.exclusions", &detection.exclusions, false);
}

fn exclusions(about: &mut Examination<'_>, key: &str, exclusions: &[Exclusion], is_on_route: bool) {
    for (index, exclusion) in exclusions.iter().enumerate() {
        let is_spot = exclusion.header.is_some()
            || exclusion.param.is_some()
            || exclusion.body_field.is_some()
            || exclusion.json_path.is_some();
        let has_path = is_on_route || exclusion.path.as_ref().is_some_and(|path| path != "/");
        let everywhere = !is_spot && !has_path && exclusion.row.is_none();
        let everything = !is_spot && exclusion.row.is_none() && exclusion.category.is_none();
        if everywhere || everything {
            about.policy(EG1006, &format!("{key}[{index}]"), "");
        }
    }
}

fn is_wide(entry: &IpEntry) -> bool {
    match entry {
        IpEntry::Addr(_) => false,
        IpEntry::Net(net) => match net.addr() {
            IpAddr::V4(_) => net.prefix_len() < PREFIX_V4_MIN,
            IpAddr::V6(_) => net.prefix_len() < PREFIX_V6_MIN,
        },
    }
}

fn trust(about: &mut Examination<'_>, config: &Config) {
    let security = &config.security;
    for (index, proxy) in security.trusted_proxies.iter().enumerate() {
        if matches!(proxy, TrustedProxy::Entry(entry) if is_wide(entry)) {
            about.policy(EG1003, &format!("security.trusted_proxies[{index}]"), "");
        }
    }
    for (index, entry) in security.exempt_ips.iter().enumerate() {
        if is_wide(entry) {
            about.policy(EG1004, &format!("security.exempt_ips[{index}]"), "");
        }
    }
}

fn routes(about: &mut Examination<'_>, config: &Config) {
    for (index, route) in config.routes.iter().enumerate() {
        exclusions(about, &format!("routes[{index}].exclusions"), &route.exclusions, true);
        let is_whole = route.matches.iter().any(|matcher| covered(matcher) == Some("/"));
        // `all` is warned about wherever it stands.
        let checks: Vec<&str> =
            route.bypassed_checks.iter().map(String::as_str).filter(|name| *name != "all").collect();
        if is_whole && !checks.is_empty() {
            let key = format!("routes[{index}].bypassed_checks");
            about.policy(EG1007, &key, format!("`{}` is for every path, without {}", route.name, checks.join(", ")));
        }
        if is_whole && route.enable_suspicious_detection == Some(false) {
            let key = format!("routes[{index}].enable_suspicious_detection");
            about.policy(EG1007, &key, format!("`{}` is for every path, without detection", route.name));
        }
        let earlier = config.routes.get(..index).unwrap_or_default();
        if let Some(before) = earlier.iter().find(|before| hides(before, route)) {
            let detail = format!("`{}` comes before `{}`", before.name, route.name);
            about.policy(EG1017, &format!("routes[{index}]"), detail);
        }
    }
}

/// The subtree that a matcher covers whole, whatever host and method; `None` when it asks for more.
fn covered(matcher: &RouteMatch) -> Option<&str> {
    if !matcher.hosts.is_empty() || !matcher.methods.is_empty() {
        return None;
    }
    match (&matcher.path, &matcher.prefix, &matcher.template, &matcher.regex) {
        (None, Some(prefix), None, None) => Some(prefix),
        (None, None, None, None) => Some("/"),
        _ => None,
    }
}

/// The beginning of every path that a matcher takes.
fn beginning(matcher: &RouteMatch) -> &str {
    let template = || matcher.template.as_deref().map(|text| text.split('{').next().unwrap_or_default());
    matcher.path.as_deref().or(matcher.prefix.as_deref()).or_else(template).unwrap_or("/")
}

/// True when every request that `later` could take is taken by `before`.
fn hides(before: &RouteConfig, later: &RouteConfig) -> bool {
    let covers = |tree: &str, path: &str| {
        let tree = tree.trim_end_matches('/');
        path.strip_prefix(tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let trees: Vec<&str> = before.matches.iter().filter_map(covered).collect();
    let mut own = later.matches.iter().map(beginning).peekable();
    own.peek().is_some() && own.all(|path| trees.iter().any(|tree| covers(tree, path)))
}

fn replicas(about: &mut Examination<'_>, config: &Config, known: Option<u64>) {
    let security = &config.security;
    let is_shared = security.enable_redis && security.redis_url.is_some();
    let counts = security.enable_rate_limiting || security.enable_ip_banning || !config.rate_limits.rules.is_empty();
    if is_shared || !counts {
        return;
    }
    let asked: Vec<&str> = about
        .survey
        .authz
        .iter()
        .filter_map(|ask| ask.target?.text())
        .chain(about.survey.proc.iter().filter_map(|ask| ask.target?.text()))
        .collect();
    let clusters = about
        .survey
        .clusters
        .iter()
        .filter(|cluster| cluster.at("name").text().is_some_and(|name| asked.contains(&name)));
    let endpoints = clusters.map(|cluster| endpoints(*cluster).len() as u64).max().unwrap_or(1);
    let count = known.unwrap_or(1).max(endpoints).max(kubernetes::replicas(&about.survey.objects));
    if 1 < count {
        let key = if security.enable_redis { "security.redis_url" } else { "security.enable_redis" };
        about.policy(EG1008, key, format!("{count} replicas"));
    }
}

fn doors(about: &mut Examination<'_>, config: &Config) {
    let (listeners, security) = (&config.listeners, &config.security);
    if listeners.tls.is_none() && listeners.grpc.is_some_and(|address| !address.ip().is_loopback()) {
        about.policy(EG1009, "listeners.grpc", "");
    }
    if let Some(tls) = &listeners.tls {
        if !tls.demands_certificate() {
            about.policy(EG1010, "listeners.tls", "nobody has to show a certificate");
        } else if tls.client_names.is_empty() {
            about.policy(EG1010, "listeners.tls", "client_names is empty");
        }
    }
    let sockets = [
        ("listeners.unix_mode", &listeners.unix, &listeners.unix_mode),
        ("admin.unix_mode", &config.admin.unix, &config.admin.unix_mode),
    ];
    for (key, path, mode) in sockets {
        let bits = u32::from_str_radix(mode, 8).unwrap_or_default();
        if path.is_some() && bits & OTHERS_WRITE != 0 {
            about.policy(EG1012, key, mode.clone());
        }
    }
    let url = security.redis_url.as_ref().map(|url| url.expose()).unwrap_or_default();
    let authority = url.strip_prefix("redis://").and_then(|rest| rest.split('/').next());
    let Some(authority) = authority.filter(|_| security.enable_redis) else { return };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let has_password = user.is_some() || config.redis.password.is_some() || config.redis.password_file.is_some();
    let is_near = ["localhost", "127.", "[::1]"].iter().any(|near| host.starts_with(near));
    if has_password && !is_near {
        about.policy(EG1013, "security.redis_url", "");
    }
}

fn secrets(about: &mut Examination<'_>, loaded: &Loaded) {
    let shown = redacted_json(&loaded.config);
    for key in SECRETS {
        let value = shown.pointer(&format!("/{}", key.replace('.', "/")));
        let is_set = value.is_some_and(|value| !matches!(value, Value::Null));
        if is_set && matches!(locate(loaded, key), Some(Place::File { .. })) {
            about.policy(EG1011, key, *key);
        }
    }
    let with_password = loaded.config.security.redis_url.as_ref().is_some_and(|url| {
        let authority = url.expose().split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
        authority.is_some_and(|(user, _)| user.contains(':'))
    });
    let key = "security.redis_url";
    if with_password && matches!(locate(loaded, key), Some(Place::File { .. })) {
        about.policy(EG1011, key, key);
    }
}
