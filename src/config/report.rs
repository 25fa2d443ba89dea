//! What the command line and the admin port say about a configuration.

use serde_json::json;

use crate::config::errors::{Errors, Notice};
use crate::config::redacted::redacted_json;
use crate::config::{Config, Loaded, Sources, load};
use crate::model::category::Category;

/// Exit code of a configuration that can be used.
pub const GOOD: u8 = 0;
/// Exit code of a configuration that cannot.
pub const FAULTY: u8 = 2;

/// `check-config` for people: what is wrong, what is odd, what does nothing, and what results.
#[must_use]
pub fn check(sources: &Sources) -> (String, u8) {
    match load(sources) {
        Ok(loaded) => (good(&loaded), GOOD),
        Err(errors) => (faulty(&errors), FAULTY),
    }
}

/// `check-config --json`: the same for machines.
#[must_use]
pub fn check_json(sources: &Sources) -> (String, u8) {
    let (value, code) = match load(sources) {
        Ok(loaded) => {
            let Loaded { config, warnings, hash, inactive, .. } = &loaded;
            let value = json!({
                "valid": true, "errors": [], "warnings": warnings, "inactive": inactive, "hash": hash,
                "config": redacted_json(config),
            });
            (value, GOOD)
        }
        Err(Errors(problems)) => (json!({ "valid": false, "errors": problems }), FAULTY),
    };
    (format!("{value:#}\n"), code)
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn faulty(errors: &Errors) -> String {
    format!("{errors}\n\n{}\n", counted(errors.0.len(), "error"))
}

fn good(loaded: &Loaded) -> String {
    let mut text = String::new();
    section(&mut text, "warning", &loaded.warnings);
    section(&mut text, "not active", &loaded.inactive);
    for (name, value) in summary(&loaded.config) {
        text.push_str(&format!("{name:<16}{value}\n"));
    }
    text.push_str(&format!("{:<16}{}\n", "hash", loaded.hash));
    let found = format!("{}, {} not active", counted(loaded.warnings.len(), "warning"), loaded.inactive.len());
    text.push_str(&format!("{:<16}valid, {found}\n", "result"));
    text
}

fn section(text: &mut String, word: &str, notices: &[Notice]) {
    for notice in notices {
        text.push_str(&format!("{word}: {notice}\n"));
    }
    if !notices.is_empty() {
        text.push('\n');
    }
}

/// The lines that say what the policy amounts to.
fn summary(config: &Config) -> Vec<(&'static str, String)> {
    let security = &config.security;
    let on = |flag: bool| if flag { "on" } else { "off" };
    let address = |address: Option<std::net::SocketAddr>| address.map_or_else(|| "off".to_owned(), |at| at.to_string());
    let unix = config.listeners.unix.as_ref().map(|path| format!(", {}", path.display())).unwrap_or_default();
    let limit = match security.enable_rate_limiting {
        true => format!("{} in {} s, {}", security.rate_limit, security.rate_limit_window, {
            counted(security.endpoint_rate_limits.len(), "endpoint limit")
        }),
        false => "off".to_owned(),
    };
    let ban = match security.enable_ip_banning {
        true => format!("after {} findings for {} s", security.auto_ban_threshold, security.auto_ban_duration),
        false => "off".to_owned(),
    };
    vec![
        ("mode", if security.passive_mode { "passive: nothing is refused" } else { "active" }.to_owned()),
        ("routes", config.routes.len().to_string()),
        ("detection", {
            let categories = security.enabled_detection_categories.len();
            let all = Category::DETECTION_COUNT;
            format!("{}, {categories} of {all} categories", on(security.enable_penetration_detection))
        }),
        ("rate limit", limit),
        ("bans", ban),
        ("listener", format!("{}{unix}", address(config.listeners.grpc))),
        ("admin", address(config.admin.address)),
    ]
}
