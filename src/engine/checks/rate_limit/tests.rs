use serde_json::Value;

use crate::engine::testing::{Ask, NOON, at, events, header, lit, policy, short, wrong};
use crate::model::decision::FactValue;
use crate::state::memory::Memory;

fn limits(security: Value, route: Value) -> Value {
    let mut text = crate::engine::testing::routed(route);
    text.as_object_mut().unwrap().insert("security".to_owned(), security);
    text
}

/// Statuses of requests to `/api` at the given seconds; 0 is a pass.
#[track_caller]
fn statuses(text: Value, peer: &str, seconds: &[f64]) -> Vec<u16> {
    let (policy, state) = (policy(text), Memory::new(100));
    seconds.iter().map(|second| short(&at(&policy, &state, Ask::from(peer), NOON.plus(*second))).0).collect()
}

#[test]
fn windows_slide_and_refused_hits_count() {
    let two = || limits(lit!({"rate_limit": 2, "rate_limit_window": 10}), lit!({}));
    let me = "81.0.0.1";
    for (name, text, peer, seconds, expected) in [
        ("the third hit is refused", two(), me, &[0.0, 1.0, 2.0][..], &[0, 0, 429][..]),
        ("a hit exactly one window old is out", two(), me, &[0.0, 1.0, 10.0], &[0, 0, 0]),
        ("refused hits keep the window full", two(), me, &[0.0, 1.0, 2.0, 10.5], &[0, 0, 429, 429]),
        ("0 refuses all", limits(lit!({"rate_limit": 0}), lit!({})), me, &[0.0], &[429]),
        (
            "exempt clients are not counted",
            limits(lit!({"rate_limit": 1, "exempt_ips": ["81.0.0.1"]}), lit!({})),
            me,
            &[0.0, 1.0],
            &[0, 0],
        ),
        (
            "whitelisted clients are not counted",
            limits(lit!({"rate_limit": 1, "whitelist": ["81.0.0.1"]}), lit!({})),
            me,
            &[0.0, 1.0],
            &[0, 0],
        ),
        (
            "an exempt client is limited where addresses are bypassed",
            limits(lit!({"rate_limit": 1, "exempt_ips": ["81.0.0.1"]}), lit!({"bypassed_checks": ["ip"]})),
            me,
            &[0.0, 1.0],
            &[0, 429],
        ),
        (
            "a route may leave limits out",
            limits(lit!({"rate_limit": 1}), lit!({"bypassed_checks": ["rate_limit"]})),
            me,
            &[0.0, 1.0],
            &[0, 0],
        ),
        (
            "the switch turns every tier off",
            limits(lit!({"rate_limit": 0, "enable_rate_limiting": false}), lit!({"rate_limit": 0})),
            me,
            &[0.0],
            &[0],
        ),
        (
            "excluded paths are limited",
            limits(lit!({"rate_limit": 1, "exclude_paths": ["/api"]}), lit!({})),
            me,
            &[0.0, 1.0],
            &[0, 429],
        ),
        (
            "tiers that share a bucket count a request once",
            limits(lit!({"endpoint_rate_limits": {"/api": [100, 60]}}), lit!({"rate_limit": 2})),
            me,
            &[0.0, 1.0, 2.0],
            &[0, 0, 429],
        ),
        (
            "each tier counts over its own window",
            limits(lit!({"endpoint_rate_limits": {"/api": [3, 60]}}), lit!({"rate_limit": 2, "rate_limit_window": 5})),
            me,
            &[0.0, 1.0, 10.0, 20.0],
            &[0, 0, 0, 429],
        ),
        (
            "a country's limit",
            limits(lit!({}), lit!({"geo_rate_limits": {"DE": [1, 60], "*": [2, 60]}})),
            me,
            &[0.0, 1.0],
            &[0, 429],
        ),
        (
            "the limit of all others",
            limits(lit!({}), lit!({"geo_rate_limits": {"de": [1, 60], "*": [2, 60]}})),
            "203.0.113.7",
            &[0.0, 1.0, 2.0],
            &[0, 0, 429],
        ),
        (
            "no limit for a country that is not listed",
            limits(lit!({}), lit!({"geo_rate_limits": {"FR": [0, 60]}})),
            me,
            &[0.0, 1.0],
            &[0, 0],
        ),
    ] {
        assert_eq!(statuses(text, peer, seconds), expected, "{name}");
    }
}

#[test]
fn a_refusal_by_a_path_limit_does_not_reach_the_global_one() {
    let text = lit!({"security": {"rate_limit": 3, "endpoint_rate_limits": {"/a b": [1, 60]}}});
    let (policy, state) = (policy(text), Memory::new(100));
    let mut ask = |target| short(&at(&policy, &state, Ask { target, ..Ask::default() }, NOON)).0;
    let found = ["/a%20b", "/a%20b", "/a%20b", "/x", "/x", "/x"].map(&mut ask);
    assert_eq!(found, [0, 429, 429, 0, 0, 429], "one of three reached the global limit");
}

#[test]
fn a_refusal_says_when_to_come_back_and_who_refused() {
    let text =
        limits(lit!({"rate_limit": 5, "rate_limit_window": 7}), lit!({"rate_limit": 0, "rate_limit_window": 30}));
    let (policy, state) = (policy(text), Memory::new(100));
    let decision = at(&policy, &state, Ask::from("81.0.0.1"), NOON);
    assert_eq!(header(&decision, "retry-after"), Some("30"));
    assert_eq!(events(&decision), [("rate_limited", "request_blocked"), ("decorator_violation", "request_blocked")]);
    assert_eq!(decision.facts[0].reason, "Rate limit exceeded: 1 requests in 7s window");
    assert_eq!(decision.facts[0].metadata[1], ("rate_limit", FactValue::Int(5)));
    assert_eq!(decision.blocks[0].reason, "Rate limit exceeded for IP: 81.0.0.1 (1 requests in 30s window)");
}

#[test]
fn passive_mode_reports_every_tier_and_refuses_none() {
    let text = limits(lit!({"rate_limit": 0, "passive_mode": true}), lit!({"rate_limit": 0}));
    let (policy, state) = (policy(text), Memory::new(100));
    let decision = at(&policy, &state, Ask::default(), NOON);
    assert_eq!(short(&decision), (0, ""));
    assert_eq!(
        events(&decision),
        [
            ("rate_limited", "request_blocked"),
            ("decorator_violation", "logged_only"),
            ("rate_limited", "request_blocked"),
        ]
    );
    assert_eq!(decision.blocks.len(), 2);
}

#[test]
fn refusals_may_lead_to_a_ban() {
    let auto = |more: Value| {
        let mut fields = lit!({"rate_limit": 1, "enable_rate_limit_auto_ban": true, "auto_ban_threshold": 2});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        limits(fields, lit!({}))
    };
    let seconds = [0.0, 1.0, 2.0, 3.0];
    for (name, text, peer, expected) in [
        ("the ban shows on the next request", auto(lit!({})), "81.0.0.1", [0, 429, 429, 403]),
        (
            "a threshold of its own comes first",
            auto(lit!({"threat_ban_config": {"rate_limit": {"threshold": 1, "duration": 60}}})),
            "81.0.0.1",
            [0, 429, 403, 403],
        ),
        ("banning off", auto(lit!({"enable_ip_banning": false})), "81.0.0.1", [0, 429, 429, 429]),
        ("loopback is never banned", auto(lit!({})), "127.0.0.1", [0, 429, 429, 429]),
        (
            "a trusted proxy is never banned",
            auto(lit!({"trusted_proxies": ["81.0.0.0/8"]})),
            "81.0.0.1",
            [0, 429, 429, 429],
        ),
        ("passive mode counts no refusals", auto(lit!({"passive_mode": true})), "81.0.0.1", [0, 0, 0, 0]),
    ] {
        assert_eq!(statuses(text, peer, &seconds), expected, "{name}");
    }
}

#[test]
fn bad_limits_are_reported() {
    assert_eq!(wrong(lit!({"security": {"rate_limit_window": 0}})), ["security.rate_limit_window"]);
    assert_eq!(
        wrong(lit!({"security": {"endpoint_rate_limits": {"/a": [1, 0]}}})),
        ["security.endpoint_rate_limits./a"]
    );
    assert_eq!(
        wrong(limits(lit!({}), lit!({"geo_rate_limits": {"Germany": [1, 1]}}))),
        ["routes[0].geo_rate_limits.GERMANY"]
    );
}
