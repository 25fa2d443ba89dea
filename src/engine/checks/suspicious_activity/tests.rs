use serde_json::{Value, json};

use crate::engine::tests::testing::{Ask, NOON, at, check, events, lit, once, policy, ready, routed, short, wrong};
use crate::model::decision::FactValue;
use crate::request::Body;
use crate::state::State;
use crate::state::memory::Memory;

const REFUSED: (u16, &str) = (400, "Suspicious activity detected");
const BANNED: (u16, &str) = (403, "IP has been banned");

const fn attack<'a>() -> Ask<'a> {
    Ask {
        method: "POST",
        target: "/api",
        peer: "81.0.0.1",
        scheme: "http",
        headers: &[],
        body: "<script>alert(1)</script>",
        route: None,
    }
}

fn security(fields: Value) -> Value {
    json!({"security": fields})
}

/// What every hostile value is told as.
const DETECTED: (&str, &str) = ("pattern_detected", "threat_detected");

#[test]
fn attacks_are_refused_unless_somebody_is_excused() {
    let (status, body) = REFUSED;
    check(&[
        ("an attack", lit!({}), attack(), status, body),
        ("no attack", lit!({}), Ask { body: "hello", ..attack() }, 0, ""),
        ("whitelisted", security(lit!({"whitelist": ["81.0.0.1"]})), attack(), 0, ""),
        ("exempt is not excused", security(lit!({"exempt_ips": ["81.0.0.1"]})), attack(), status, body),
        ("off", security(lit!({"enable_penetration_detection": false})), attack(), 0, ""),
        ("bodies are not scanned", security(lit!({"detection_scan_body": false})), attack(), 0, ""),
        ("another category", security(lit!({"enabled_detection_categories": ["ldap"]})), attack(), 0, ""),
        ("bypassed", routed(lit!({"bypassed_checks": ["penetration"]})), attack(), 0, ""),
        ("off on the route", routed(lit!({"enable_suspicious_detection": false})), attack(), 0, ""),
        ("a route that says nothing inherits", routed(lit!({})), attack(), status, body),
        ("passive", security(lit!({"passive_mode": true})), attack(), 0, ""),
        (
            "on for the route alone",
            {
                let mut text = routed(lit!({"enable_suspicious_detection": true}));
                text.as_object_mut()
                    .unwrap()
                    .insert("security".to_owned(), lit!({"enable_penetration_detection": false}));
                text
            },
            attack(),
            status,
            body,
        ),
        ("excluded paths are not scanned", security(lit!({"exclude_paths": ["/api"]})), attack(), 0, ""),
    ]);
    assert_eq!(
        wrong(security(lit!({"enabled_detection_categories": ["xss", "typo"]}))),
        ["security.enabled_detection_categories"]
    );
}

#[test]
fn thresholds_ban() {
    let me = |fields: Value| security(fields);
    for (name, text, expected) in [
        ("below", me(lit!({"auto_ban_threshold": 4})), [REFUSED, REFUSED, REFUSED, BANNED]),
        (
            "at the threshold",
            me(lit!({"auto_ban_threshold": 2})),
            [REFUSED, BANNED, (403, "IP address banned"), (403, "IP address banned")],
        ),
        (
            "a category's own threshold",
            me(lit!({"threat_ban_config": {"xss": {"threshold": 1, "duration": 1}}})),
            // The ban of one second is over when the next request comes, and has reset the count.
            [BANNED, BANNED, BANNED, BANNED],
        ),
        (
            "a high threshold of its own does not shield from the flat one",
            me(lit!({"auto_ban_threshold": 2, "threat_ban_config": {"xss": {"threshold": 100, "duration": 1}}})),
            [REFUSED, BANNED, (403, "IP address banned"), (403, "IP address banned")],
        ),
        ("banning off", me(lit!({"auto_ban_threshold": 1, "enable_ip_banning": false})), [REFUSED; 4]),
        (
            "trusted proxies are never banned",
            me(lit!({"auto_ban_threshold": 1, "trusted_proxies": ["81.0.0.1"]})),
            [REFUSED; 4],
        ),
    ] {
        let (policy, state) = (policy(text), Memory::new(100));
        for (number, expected) in expected.iter().enumerate() {
            let decision = at(&policy, &state, attack(), NOON.plus(number as f64 * 2.0));
            assert_eq!(short(&decision), *expected, "{name}, request {number}");
        }
    }
}

#[test]
fn a_ban_replaces_the_report_of_the_attack() {
    let (policy, state) = (policy(security(lit!({"auto_ban_threshold": 1}))), Memory::new(100));
    let decision = at(&policy, &state, attack(), NOON);
    assert_eq!(events(&decision), [DETECTED, ("ip_banned", "banned")]);
    assert_eq!(decision.facts[1].reason, "penetration_attempt");
    assert!(decision.blocks[0].reason.starts_with("IP banned due to suspicious activity: 81.0.0.1 - Request body"));
    assert_eq!(
        ready(state.suspicion(
            "81.0.0.1".parse::<std::net::IpAddr>().map(|ip| crate::model::addr::Client::Address(ip.into())).unwrap(),
            NOON
        ))
        .unwrap(),
        0
    );
}

#[test]
fn passive_mode_counts_and_bans_nobody() {
    let text = security(lit!({"auto_ban_threshold": 1, "passive_mode": true}));
    let (policy, state) = (policy(text), Memory::new(100));
    for expected in [1, 2] {
        let decision = at(&policy, &state, attack(), NOON);
        assert_eq!(events(&decision), [DETECTED, ("penetration_attempt", "logged_only")]);
        let count = FactValue::Int(expected);
        assert_eq!(decision.facts[1].metadata[0], ("request_count", count));
        assert_eq!(decision.blocks[0].reason, "Suspicious activity detected: 81.0.0.1");
        assert!(!decision.blocks[0].trigger_info.is_empty());
    }
}

#[test]
fn refusals_escalate_when_they_carry_an_attack() {
    let refused = |more: Value| {
        let mut fields = lit!({"blacklist": ["81.0.0.1"], "auto_ban_threshold": 2});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        security(fields)
    };
    let (policy_of, state) = (policy(refused(lit!({}))), Memory::new(100));
    let first = at(&policy_of, &state, attack(), NOON);
    assert_eq!(short(&first), (403, "Forbidden"));
    assert_eq!(events(&first), [("ip_blocked", "request_blocked"), DETECTED, ("penetration_attempt", "tracked")]);
    let second = at(&policy_of, &state, attack(), NOON);
    assert_eq!(short(&second), (403, "Forbidden"));
    assert_eq!(
        events(&second),
        [("ip_blocked", "request_blocked"), DETECTED, ("ip_banned", "banned"), ("penetration_attempt", "banned")]
    );
    assert!(second.blocks[0].reason.starts_with("IP banned due to suspicious activity"));
    assert_eq!(short(&at(&policy_of, &state, attack(), NOON)), (403, "IP address banned"));

    for (name, text, ask, expected) in [
        ("no attack", refused(lit!({})), Ask::from("81.0.0.1"), 1),
        ("passive", refused(lit!({"passive_mode": true})), attack(), 3),
        ("detection off", refused(lit!({"enable_penetration_detection": false})), attack(), 1),
        ("excluded path", refused(lit!({"exclude_paths": ["/api"]})), attack(), 2),
    ] {
        let policy = policy(text);
        let decision = once(&policy, ask);
        assert_eq!(decision.facts.len(), expected, "{name}: {:?}", events(&decision));
        assert!(!events(&decision).contains(&("penetration_attempt", "tracked")), "{name}");
    }
}

#[test]
fn a_route_that_turns_detection_off_says_so() {
    let policy = policy(routed(lit!({"enable_suspicious_detection": false})));
    assert_eq!(events(&once(&policy, attack())), [("decorator_violation", "detection_disabled")]);
}

#[test]
fn partial_bodies_are_scanned_or_refused() {
    for (setting, expected) in [("scan", 0), ("deny", 413)] {
        let policy = policy(json!({"detection": {"partial_body": setting}}));
        let mut request = Ask::default().request();
        request.body = Body::Partial(b"hello");
        let state = Memory::new(10);
        let decision = ready(crate::engine::decide(&policy, &state, &request, NOON, &crate::detect::Unmetered));
        assert_eq!(short(&decision).0, expected, "{setting}");
    }
}

#[test]
fn what_is_only_logged_is_reported_and_neither_refused_nor_counted() {
    let text = lit!({
        "detection": {"log_only_categories": ["xss"]},
        "security": {"auto_ban_threshold": 1}
    });
    let policy = policy(text);
    let state = Memory::new(100);
    let decision = at(&policy, &state, attack(), NOON);
    assert_eq!(short(&decision), (0, ""));
    assert_eq!(events(&decision), [("pattern_detected", "log_only")]);
    let fact = &decision.facts[0];
    assert!(fact.reason.starts_with("Would have been blocked, only logged by the policy: Request body"), "{fact:?}");
    assert!(fact.metadata.contains(&("would_block", FactValue::Bool(true))), "{fact:?}");
    let observed = decision.observed.as_deref().unwrap();
    assert!(!observed.rows.is_empty() && observed.categories.iter().any(|category| category.name() == "xss"));
    assert_eq!(decision.detection, None);
    assert_eq!(ready(state.suspicion(policy_client(), NOON)).unwrap(), 0);
    let both = Ask { target: "/api?file=../../../../etc/passwd", ..attack() };
    let decision = at(&policy, &state, both, NOON);
    assert_ne!(short(&decision).0, 0, "another category still counts");
}

fn policy_client() -> crate::model::addr::Client<'static> {
    crate::model::addr::Client::Address("81.0.0.1".parse::<std::net::IpAddr>().unwrap().into())
}
