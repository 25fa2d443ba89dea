use serde_json::{Value, json};

use crate::detect::Unmetered;
use crate::engine::Asked;
use crate::engine::phases::{self, ResponseHead, Standing};
use crate::engine::policy::Policy;
use crate::engine::responses::{Part, Reading};
use crate::engine::tests::testing::{Ask, NOON, at, compile, events, header, lit, policy, ready, routed, short, wrong};
use crate::model::addr::Client;
use crate::model::category::CategorySet;
use crate::model::decision::{Decision, FactValue};
use crate::model::time::Timestamp;
use crate::request::{Body, Request};
use crate::state::State;
use crate::state::memory::Memory;

const FIRED: (&str, &str) = ("decorator_violation", "behavioral_action_triggered");

fn global(rules: Value) -> Value {
    json!({"security": {"behavior_scan_response_body": true, "global_behavior_rules": rules}})
}

fn own(rules: Value) -> Value {
    routed(json!({"behavior_rules": rules}))
}

fn later(seconds: f64) -> Timestamp {
    NOON.plus(seconds)
}

/// Statuses of requests at these seconds; 0 is a pass.
fn statuses(policy: &Policy, state: &Memory, seconds: &[f64]) -> Vec<u16> {
    seconds.iter().map(|second| short(&at(policy, state, Ask::default(), later(*second))).0).collect()
}

/// A response to a request that passed: its status, then its body.
fn respond<'p>(policy: &'p Policy, state: &Memory, ask: Ask<'_>, (status, body): (u16, &str)) -> Vec<Decision<'p>> {
    let (request, standing) = (ask.request(), Standing::default());
    let head = ResponseHead { status, ..ResponseHead::default() };
    let (judged, mut reading): (_, Reading<'p>) =
        ready(phases::judge(policy, state, (&request, NOON), &standing, &head));
    let part = Part { bytes: body.as_bytes(), fresh: 0, is_last: true, is_whole: true };
    let read = ready(phases::judge_body(policy, state, (&request, NOON), &standing, (&mut reading, part)));
    vec![judged, read]
}

fn fired(decisions: &[Decision<'_>]) -> usize {
    decisions.iter().flat_map(events).filter(|event| *event == FIRED).count()
}

#[test]
fn usage_beyond_the_threshold_fires_with_every_request() {
    let policy = policy(own(lit!([{"rule_type": "usage", "threshold": 2, "window": 10, "action": "log"}])));
    let state = Memory::new(100);
    let seen: Vec<usize> = [0.0, 0.0, 1.0, 2.0, 10.0, 10.5, 30.0]
        .map(|second| fired(&[at(&policy, &state, Ask::default(), later(second))]))
        .to_vec();
    assert_eq!(seen, [0, 0, 1, 1, 1, 1, 0], "an event exactly one window old still counts");
    let other = at(&policy, &state, Ask::from("203.0.113.8"), later(2.0));
    assert_eq!(events(&other), [], "another client");
}

#[test]
fn a_firing_is_reported_twice() {
    let policy = policy(own(lit!([{"rule_type": "frequency", "threshold": 1, "window": 60, "action": "alert"}])));
    let state = Memory::new(100);
    at(&policy, &state, Ask::default(), NOON);
    let decision = at(&policy, &state, Ask::default(), NOON);
    assert_eq!(events(&decision), [FIRED, ("behavioral_violation", "alert")]);
    let [fired, done] = decision.facts.as_slice() else { panic!("{:?}", decision.facts) };
    assert_eq!((fired.handler, done.handler), ("middleware", "behavior"));
    assert_eq!(fired.reason, "Usage threshold exceeded: 2 calls in 60s");
    assert_eq!(done.reason, "Behavioral rule violated: Usage threshold exceeded: 2 calls in 60s");
    let text = |text: &str| FactValue::Text(text.to_owned());
    assert_eq!(
        fired.metadata,
        [
            ("decorator_type", text("behavioral")),
            ("violation_type", text("frequency")),
            ("threshold", FactValue::Int(1)),
            ("window", FactValue::Int(60)),
            ("action", text("alert")),
            ("endpoint_id", text("all")),
        ]
    );
    assert!(
        done.is_alert() && done.metadata.starts_with(&[("endpoint", text("all")), ("rule_type", text("frequency"))])
    );
}

#[test]
fn a_ban_is_in_force_with_the_next_request_whatever_banning_says() {
    let mut text =
        own(lit!([{"rule_type": "usage", "threshold": 1, "window": 60, "action": "ban", "ban_duration": 30}]));
    text["security"] = lit!({"enable_ip_banning": false, "trusted_proxies": ["203.0.113.99"]});
    let policy = policy(text);
    let state = Memory::new(100);
    assert_eq!(statuses(&policy, &state, &[0.0, 0.0, 1.0, 30.0, 61.0]), [0, 0, 403, 403, 0]);
    let events_of = |ask| events(&at(&policy, &Memory::new(100), ask, NOON)).len();
    assert_eq!(events_of(Ask::default()), 0);
    let state = Memory::new(100);
    let proxy = || at(&policy, &state, Ask::from("203.0.113.99"), NOON);
    proxy();
    let tracked = proxy();
    assert_eq!(events(&tracked), [FIRED, ("behavioral_violation", "tracked")], "a proxy is never banned");
    let state = Memory::new(100);
    let banned = [0.0, 0.0].map(|second| at(&policy, &state, Ask::from("203.0.113.5"), later(second)));
    assert_eq!(events(&banned[1]), [FIRED, ("ip_banned", "banned"), ("behavioral_violation", "ban")]);
}

#[test]
fn throttled_clients_wait_until_the_window_has_room() {
    let policy = policy(own(lit!([{"rule_type": "usage", "threshold": 2, "window": 10, "action": "throttle"}])));
    let state = Memory::new(100);
    let seen = statuses(&policy, &state, &[0.0, 4.0, 5.0, 9.0, 10.0, 10.5, 11.0]);
    assert_eq!(seen, [0, 0, 429, 429, 429, 0, 429], "what was refused does not count");
    let refused = at(&policy, &state, Ask::default(), later(11.0));
    assert_eq!(header(&refused, "retry-after"), Some("10"));
}

#[test]
fn a_throttled_client_may_be_slowed_down_instead() {
    let rule = lit!({"rule_type": "usage", "threshold": 1, "window": 10, "action": "throttle", "delay_ms": 1200});
    let slow = policy(own(json!([rule])));
    let state = Memory::new(100);
    let delays = [0.0, 1.0, 2.0, 11.5].map(|second| {
        let decision = at(&slow, &state, Ask::default(), later(second));
        assert_eq!(short(&decision).0, 0, "it passes");
        decision.delay.map(|delay| (delay.millis, delay.otherwise.status))
    });
    assert_eq!(delays, [None, Some((1200, 429)), Some((1200, 429)), Some((1200, 429))], "what passes counts");
    let decision = at(&slow, &state, Ask::default(), later(11.5));
    let otherwise = &decision.delay.as_ref().unwrap().otherwise.headers;
    assert!(otherwise.iter().any(|edit| edit.name == "retry-after" && edit.value == "2"), "{otherwise:?}");
    let done = decision.facts.iter().find(|fact| fact.event.name() == "behavioral_violation").unwrap();
    assert!(done.action == "throttle" && done.metadata.contains(&("delay_ms", FactValue::Int(1200))), "{done:?}");
    let refusing = lit!({"rule_type": "frequency", "threshold": 1, "window": 60, "action": "throttle"});
    let both = policy(own(json!([rule, refusing])));
    assert_eq!(statuses(&both, &Memory::new(100), &[0.0, 0.0]), [0, 429], "a refusal needs no waiting");
    let mut passive = own(json!([rule]));
    passive["security"] = json!({"passive_mode": true});
    let passive = policy(passive);
    let state = Memory::new(100);
    assert!([0.0, 0.0].iter().all(|second| at(&passive, &state, Ask::default(), later(*second)).delay.is_none()));
}

#[test]
fn a_request_whose_body_is_refused_is_no_usage() {
    let policy = policy(own(lit!([{"rule_type": "usage", "threshold": 2, "window": 60, "action": "throttle"}])));
    let state = Memory::new(100);
    let ask = Ask { method: "POST", headers: &[("content-type", "application/json")], ..Ask::default() };
    for _ in 0..4 {
        let decision = at(&policy, &state, ask, NOON);
        assert_eq!(short(&decision).0, 0, "what was refused does not count");
        let trail = decision.trail.as_deref().copied();
        assert!(trail.is_some());
        let standing = Standing { flags: decision.flags, trail, ..Standing::default() };
        let body = Body::Complete(br#"{"q": "1' UNION SELECT login, password FROM users--"}"#);
        let request = Request { body, ..ask.request() };
        let asked = Asked { request: &request, now: NOON, meter: &Unmetered };
        assert_eq!(short(&ready(phases::decide_body(&policy, &state, asked, &standing))).0, 400);
    }
}

#[test]
fn a_throttling_return_rule_refuses_later_requests() {
    let rules = lit!([{"rule_type": "return_pattern", "pattern": "status:401", "threshold": 1, "window": 60, "action": "throttle"}]);
    let policy = policy(global(rules));
    let state = Memory::new(100);
    let ask = Ask::default();
    respond(&policy, &state, ask, (401, ""));
    assert_eq!(statuses(&policy, &state, &[0.0]), [0]);
    assert_eq!(fired(&respond(&policy, &state, ask, (401, ""))), 1);
    assert_eq!(statuses(&policy, &state, &[1.0, 60.0, 61.0]), [429, 429, 0], "it ends by itself");
    let other = at(&policy, &state, Ask::from("203.0.113.8"), later(1.0));
    assert_eq!(short(&other).0, 0);
}

#[test]
fn passive_mode_only_reports() {
    for action in ["ban", "throttle", "log", "alert"] {
        let mut text = own(json!([{"rule_type": "usage", "threshold": 1, "window": 60, "action": action}]));
        text["security"] = json!({"passive_mode": true});
        let policy = policy(text);
        let state = Memory::new(100);
        assert_eq!(statuses(&policy, &state, &[0.0, 0.0]), [0, 0]);
        let decision = at(&policy, &state, Ask::default(), NOON);
        assert_eq!(events(&decision), [FIRED, ("behavioral_violation", "logged_only")], "{action}");
    }
}

#[test]
fn only_requests_that_reach_the_upstream_count() {
    let rules = lit!([{"rule_type": "usage", "threshold": 1, "window": 60, "action": "throttle"}]);
    let mut text = global(rules);
    text["security"]["enable_cors"] = true.into();
    text["security"]["exclude_paths"] = lit!(["/static"]);
    let policy = policy(text);
    let state = Memory::new(100);
    let attack = Ask { target: "/api?q=1' UNION SELECT login, password FROM users--", ..Ask::default() };
    for _ in 0..3 {
        assert_eq!(short(&at(&policy, &state, attack, NOON)).0, 400, "a refused request is taken back");
    }
    let preflight = Ask { method: "OPTIONS", headers: &[("access-control-request-method", "GET")], ..Ask::default() };
    for ask in [preflight, preflight, preflight] {
        assert!(matches!(short(&at(&policy, &state, ask, NOON)).0, 200 | 400));
    }
    let excluded = Ask { target: "/static/x", ..Ask::default() };
    for _ in 0..3 {
        assert_eq!(short(&at(&policy, &state, excluded, NOON)).0, 0);
    }
    assert_eq!(statuses(&policy, &state, &[0.0, 0.0]), [0, 429]);
}

#[test]
fn rules_of_one_endpoint_see_one_event_for_each_request() {
    let rules = lit!([
        {"rule_type": "usage", "threshold": 3, "window": 120, "action": "log"},
        {"rule_type": "frequency", "threshold": 1, "window": 10, "action": "log"}
    ]);
    let policy = policy(own(rules));
    let state = Memory::new(100);
    let seen = [0.0, 1.0, 20.0, 40.0].map(|second| fired(&[at(&policy, &state, Ask::default(), later(second))]));
    assert_eq!(seen, [0, 1, 0, 1], "a short window takes nothing from a long one");
}

#[test]
fn return_rules_count_what_responses_say() {
    let rule =
        |pattern: &str| json!([{"rule_type": "return_pattern", "pattern": pattern, "threshold": 1, "window": 60}]);
    for (pattern, response, expected) in [
        ("status:404", (404, ""), true),
        ("status:404", (200, "404"), false),
        ("win", (200, "You WIN!"), true),
        ("win", (200, ""), false),
        ("regex:w.n", (200, "you wan"), true),
        ("json:result.status==win", (200, r#"{"result":{"status":"Win"}}"#), true),
        ("json:result.status==win", (200, "no json"), false),
    ] {
        for text in [global(rule(pattern)), {
            let mut text = own(rule(pattern));
            text["security"] = json!({"behavior_scan_response_body": true});
            text
        }] {
            let policy = policy(text);
            let state = Memory::new(100);
            respond(&policy, &state, Ask::default(), response);
            let second = respond(&policy, &state, Ask::default(), response);
            assert_eq!(fired(&second), usize::from(expected), "{pattern} {response:?}");
        }
    }
    let bodies_off = policy(json!({"routes": [{
        "name": "all", "match": [{}], "behavior_rules": rule("win")
    }]}));
    assert!(!phases::wanted(&bodies_off, &Ask::default().request(), &Standing::default()).response_body);
}

#[test]
fn a_scanner_is_one_history_whatever_it_tries() {
    let rules =
        lit!([{"rule_type": "return_pattern", "pattern": "status:404", "threshold": 2, "window": 60, "action": "ban"}]);
    let policy = policy(global(rules));
    let state = Memory::new(100);
    for target in ["/a", "/b", "/c"] {
        respond(&policy, &state, Ask { target, ..Ask::default() }, (404, ""));
    }
    assert_eq!(statuses(&policy, &state, &[1.0]), [403]);
}

#[test]
fn suspicion_halves_the_threshold_of_global_rules() {
    let rules = lit!([{"rule_type": "return_pattern", "pattern": "status:404", "threshold": 4, "window": 60, "correlate_with_detection": true}]);
    let policy = policy(global(rules));
    let state = Memory::new(100);
    let ask = Ask::default();
    let clean: Vec<usize> = (0..5).map(|_| fired(&respond(&policy, &state, ask, (404, "")))).collect();
    assert_eq!(clean, [0, 0, 0, 0, 1]);
    let suspect = Client::Address("198.51.100.7".parse::<std::net::IpAddr>().unwrap().into());
    ready(state.suspect(suspect, CategorySet::EMPTY, NOON)).unwrap();
    let ask = Ask::from("198.51.100.7");
    let seen: Vec<Vec<Decision<'_>>> = (0..3).map(|_| respond(&policy, &state, ask, (404, ""))).collect();
    assert_eq!(seen.iter().map(|one| fired(one)).collect::<Vec<_>>(), [0, 0, 1]);
    let fact = seen[2][0].facts.first().unwrap();
    assert_eq!(fact.reason, "Global return pattern threshold exceeded: 3 for 'status:404' in 60s (correlated)");
    assert!(fact.metadata.contains(&("correlation", FactValue::Bool(true))));
}

#[test]
fn an_expression_chooses_the_action() {
    for (source, expected) in [
        ("'throttle'", Some("throttle")),
        ("violation.count > 1 ? 'alert' : 'log'", Some("alert")),
        ("violation.rule_type == 'usage' && violation.endpoint == 'all' && request.path == '/api'", Some("ban")),
        ("null", None),
        ("false", None),
        ("'nothing'", Some("log")),
    ] {
        let rule =
            json!([{"rule_type": "usage", "threshold": 1, "window": 60, "action": "log", "custom_action": source}]);
        let policy = policy(own(rule));
        let state = Memory::new(100);
        at(&policy, &state, Ask::default(), NOON);
        let decision = at(&policy, &state, Ask::default(), NOON);
        let done = decision.facts.iter().find(|fact| fact.event.name() == "behavioral_violation");
        assert_eq!(done.map(|fact| fact.action.as_ref()), expected, "{source}");
    }
    let bad = json!([{"rule_type": "usage", "threshold": 1, "custom_action": "unknown.x"}]);
    assert_eq!(wrong(global(bad)), ["security.global_behavior_rules[0].custom_action"]);
}

#[test]
fn patterns_that_cannot_match_are_errors_and_return_rules_warn() {
    let rule = |pattern: &str| json!([{"rule_type": "return_pattern", "threshold": 1, "pattern": pattern}]);
    assert_eq!(wrong(global(rule("regex:("))), ["security.global_behavior_rules[0].pattern"]);
    assert_eq!(wrong(own(rule("status:x"))), ["routes[0].behavior_rules[0].pattern"]);
    let warned = compile(global(rule("status:404"))).unwrap().warnings;
    assert!(warned.iter().any(|warning| warning.message.contains("ext_proc")), "{warned:?}");
}
