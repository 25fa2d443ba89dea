use serde_json::{Value, json};

use crate::engine::tests::testing::{Ask, lit, once, policy, wrong};
use crate::model::decision::Decision;

fn headers(set: Value) -> Vec<(String, String)> {
    let policy = policy(json!({"security": {"security_headers": set}}));
    let decision: Decision<'_> = once(&policy, Ask::default());
    let constant = decision.response_headers.constant.into_iter().flat_map(|set| &set.edits);
    constant.map(|edit| (edit.name.to_string(), edit.value.to_string())).collect()
}

fn value(set: Value, name: &str) -> Option<String> {
    headers(set).into_iter().find(|(own, _)| own == name).map(|(_, value)| value)
}

#[test]
fn values_follow_the_settings() {
    for (set, name, expected) in [
        (lit!({"enabled": true}), "x-frame-options", Some("SAMEORIGIN")),
        (lit!({"frame_options": "DENY"}), "x-frame-options", Some("DENY")),
        (lit!({"frame_options": null}), "x-frame-options", Some("SAMEORIGIN")),
        (lit!({"frame_options": ""}), "x-frame-options", Some("")),
        (lit!({"permissions_policy": "UNSET"}), "permissions-policy", Some("geolocation=(), microphone=(), camera=()")),
        (lit!({"permissions_policy": null}), "permissions-policy", None),
        (lit!({"permissions_policy": ""}), "permissions-policy", None),
        (lit!({"permissions_policy": "usb=()"}), "permissions-policy", Some("usb=()")),
        (lit!({"frame_options": "DENY"}), "strict-transport-security", None),
        (lit!({"hsts": {"max_age": 0}}), "strict-transport-security", Some("max-age=0; includeSubDomains")),
        (lit!({"hsts": {"max_age": null}}), "strict-transport-security", None),
        (lit!({"hsts": {"max_age": 5, "include_subdomains": false}}), "strict-transport-security", Some("max-age=5")),
        (
            lit!({"hsts": {"max_age": 31536000, "preload": true}}),
            "strict-transport-security",
            Some("max-age=31536000; includeSubDomains; preload"),
        ),
        (
            lit!({"hsts": {"max_age": 100, "preload": true, "include_subdomains": false}}),
            "strict-transport-security",
            Some("max-age=100; includeSubDomains"),
        ),
        (
            lit!({"csp": {"default-src": ["'self'", "a.com"], "upgrade-insecure-requests": []}}),
            "content-security-policy",
            Some("default-src 'self' a.com; upgrade-insecure-requests"),
        ),
        (lit!({"csp": {}}), "content-security-policy", None),
        (lit!({"custom": {"X-Frame-Options": "ALLOW"}}), "x-frame-options", Some("ALLOW")),
        (json!({"custom": {"X-Mine": "a\u{1}b\tc"}}), "x-mine", Some("ab\tc")),
    ] {
        assert_eq!(value(set.clone(), name).as_deref(), expected, "{set} {name}");
    }
}

#[test]
fn the_default_set_has_eleven_headers_and_off_has_none() {
    let policy = policy(lit!({}));
    let decision = once(&policy, Ask::default());
    assert_eq!(decision.response_headers.constant.map(|set| set.edits.len()), Some(11));
    for off in [lit!(null), lit!({"enabled": false})] {
        assert!(headers(off).is_empty());
    }
}

#[test]
fn bad_headers_are_refused_when_the_policy_is_compiled() {
    let long = "x".repeat(8193);
    for (set, key) in [
        (lit!({"custom": {"X Bad": "1"}}), "security.security_headers.custom.X Bad"),
        (lit!({"custom": {"X-Bad": "a\nb"}}), "security.security_headers.custom.X-Bad"),
        (lit!({"frame_options": "a\rb"}), "security.security_headers.frame_options"),
        (json!({"referrer_policy": long}), "security.security_headers.referrer_policy"),
        (lit!({"csp": {"default-src": 1}}), "security.security_headers.csp.default-src"),
    ] {
        assert_eq!(wrong(json!({"security": {"security_headers": set}})), [key]);
    }
    assert!(wrong(json!({"security": {"security_headers": {"referrer_policy": "x".repeat(8192)}}})).is_empty());
}
