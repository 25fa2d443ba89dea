//! Rules across `rate_limits:`.

use std::collections::HashSet;

use crate::config::Config;
use crate::config::check::Findings;
use crate::config::rate_limits::{LimitHeaders, LimitMode};
use crate::config::rules::{conflict, has_country_source};

/// Checks the limits of the service's own.
pub(super) fn apply(config: &Config, out: &mut Findings) {
    let limits = &config.rate_limits;
    let routes: HashSet<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
    let mut names = HashSet::new();
    for (index, rule) in limits.rules.iter().enumerate() {
        let key = format!("rate_limits.rules[{index}]");
        if !names.insert(&rule.name) {
            conflict(&[&format!("{key}.name")], &format!("`{}` names two limits", rule.name), out);
        }
        for (position, route) in rule.routes.iter().enumerate().filter(|(_, name)| !routes.contains(name.as_str())) {
            conflict(&[&format!("{key}.routes[{position}]")], &format!("`{route}` is no route"), out);
        }
        if rule.by.iter().any(|part| part == "country") && !has_country_source(&config.security) {
            let message = "`country` needs security.geo_ip_handler or security.ipinfo_token to know countries";
            let by = format!("{key}.by");
            conflict(&[&by, "security.geo_ip_handler", "security.ipinfo_token"], message, out);
        }
        if rule.mode == LimitMode::Cached && !config.security.enable_redis {
            out.warn(&format!("{key}.mode"), "is `cached`, which changes nothing without Redis");
        }
    }
    if limits.on_allowed && limits.headers == LimitHeaders::None {
        out.warn("rate_limits.on_allowed", "has no effect while rate_limits.headers is `none`");
    }
}
