//! Rules across the fields of routes.

use std::collections::HashMap;

use crate::config::Config;
use crate::config::check::Findings;
use crate::config::errors::Class;
use crate::config::exclusions::Exclusion;
use crate::config::routes::{RouteConfig, RouteMatch};
use crate::config::rules::{behavior, conflict, has_country_source};
use crate::config::security::SecurityConfig;

/// Checks every route.
pub(super) fn apply(config: &Config, out: &mut Findings) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (index, route) in config.routes.iter().enumerate() {
        let key = format!("routes[{index}]");
        let name = format!("{key}.name");
        if route.name.is_empty() {
            conflict(&[&name], "every route needs a name", out);
        } else if let Some(first) = names.insert(&route.name, index) {
            conflict(&[&name], &format!("`{}` is already the name of routes[{first}]", route.name), out);
        }
        for (position, matcher) in route.matches.iter().enumerate() {
            one_path(&format!("{key}.match[{position}]"), matcher, out);
        }
        access(&key, route, &config.security, out);
        lists(&key, route, &config.security, out);
        behavior(&format!("{key}.behavior_rules"), &route.behavior_rules, &config.security, out);
        exclusions(&format!("{key}.exclusions"), &route.exclusions, out);
    }
}

fn one_path(key: &str, matcher: &RouteMatch, out: &mut Findings) {
    let kinds = [&matcher.path, &matcher.prefix, &matcher.template, &matcher.regex];
    if 1 < kinds.into_iter().flatten().count() {
        conflict(&[key], "path, prefix, template and regex exclude each other", out);
    }
}

fn access(key: &str, route: &RouteConfig, security: &SecurityConfig, out: &mut Findings) {
    let presence = format!("{key}.authorization_header_required");
    if route.authorization_header_required.is_some() && (route.auth_required.is_some() || route.api_key_required) {
        conflict(&[&presence], "cannot be combined with auth_required or api_key_required", out);
    }
    let default = security.auth_verifier.is_some();
    if route.auth_required.is_some() && route.auth_verifier.is_none() && !default {
        out.warn(
            &format!("{key}.auth_required"),
            "has no auth_verifier here or under security, so every request is refused",
        );
    }
    if route.api_key_required && route.api_key_verifier.is_none() && !default {
        let message = "has no api_key_verifier here nor auth_verifier under security, so every request is refused";
        out.warn(&format!("{key}.api_key_required"), message);
    }
    if let Some(hours) = &route.time_restrictions
        && hours.start == hours.end
    {
        out.warn(
            &format!("{key}.time_restrictions"),
            "begins and ends in the same minute, so one minute a day is open",
        );
    }
    if route.bypassed_checks.contains("all") {
        out.warn(&format!("{key}.bypassed_checks"), "holds `all`, so nothing protects this route");
    }
}

fn lists(key: &str, route: &RouteConfig, security: &SecurityConfig, out: &mut Findings) {
    let is_set = |list: &Option<std::collections::BTreeSet<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let by_country = route.geo_rate_limits.as_ref().is_some_and(|limits| limits.keys().any(|code| code != "*"));
    let fields = [
        ("blocked_countries", is_set(&route.blocked_countries)),
        ("whitelist_countries", is_set(&route.whitelist_countries)),
        ("geo_rate_limits", by_country),
    ];
    if !has_country_source(security) {
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            let field = format!("{key}.{field}");
            let message = "needs security.geo_ip_handler or security.ipinfo_token to know countries";
            conflict(&[&field, "security.geo_ip_handler", "security.ipinfo_token"], message, out);
        }
    }
    if is_set(&route.blocked_countries) && is_set(&route.whitelist_countries) {
        out.warn(&format!("{key}.blocked_countries"), "has no effect while whitelist_countries is set");
    }
    let filled =
        |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list: &Vec<crate::model::addr::IpEntry>| !list.is_empty());
    if filled(&route.ip_whitelist) && filled(&route.ip_blacklist) {
        out.warn(&format!("{key}.ip_blacklist"), "is not consulted while ip_whitelist is set");
    }
    if route.rate_limit == Some(0) {
        out.warn(&format!("{key}.rate_limit"), "is 0, so every request is refused");
    }
    if route.rate_limit.is_none() && route.rate_limit_window.is_some() {
        out.warn(&format!("{key}.rate_limit_window"), "has no effect without rate_limit");
    }
}

/// An exclusion without parts would let everything pass.
pub(super) fn exclusions(key: &str, exclusions: &[Exclusion], out: &mut Findings) {
    for (index, exclusion) in exclusions.iter().enumerate() {
        let Exclusion { category, row, path, header, param, body_field, json_path, reason: _ } = exclusion;
        if [category, row, path, header, param, body_field, json_path].into_iter().flatten().next().is_none() {
            let message =
                "an exclusion needs at least one of category, row, path, header, param, body_field, json_path";
            out.problem(&format!("{key}[{index}]"), Class::Value, message.to_owned());
        }
    }
}
