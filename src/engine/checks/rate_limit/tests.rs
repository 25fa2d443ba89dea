use serde_json::{Value, json};

use crate::engine::tests::testing::{Ask, NOON, at, events, header, lit, policy, short, wrong};
use crate::model::decision::FactValue;
use crate::state::Digest;
use crate::state::memory::Memory;
use crate::state::top::BusyKey;

fn limits(security: Value, route: Value) -> Value {
    let mut text = crate::engine::tests::testing::routed(route);
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

/// A policy without guard-core's limits and with these of ours.
fn ruled(rules: Value) -> Value {
    let mut text = lit!({"security": {"enable_rate_limiting": false}, "rate_limits": {}});
    text["rate_limits"] = lit!({"headers": "both", "on_allowed": true, "ipv4_prefix": 24, "ipv6_prefix": 64});
    text["rate_limits"]["rules"] = rules;
    text
}

/// Statuses of requests, all at one moment.
#[track_caller]
fn answers(text: Value, asks: &[Ask<'_>]) -> Vec<u16> {
    let (policy, state) = (policy(text), Memory::new(100));
    asks.iter().map(|ask| short(&at(&policy, &state, *ask, NOON)).0).collect()
}

#[test]
fn rules_count_what_requests_have_in_common() {
    let one = |by: Value| {
        let mut rules = lit!([{"name": "one", "requests": 1, "window": 60}]);
        rules[0]["by"] = by;
        ruled(rules)
    };
    let from = |peer| Ask { peer, ..Ask::default() };
    let to = |target| Ask { target, ..Ask::default() };
    let key = [("x-api-key", "k1")];
    let (k1, k2) = (Ask::with(&key), Ask::with(&[("x-api-key", "k2")]));
    let (de, fr, nowhere) = (from("81.0.0.1"), from("82.0.0.1"), from("203.0.113.7"));
    for (name, by, asks, expected) in [
        (
            "the client",
            lit!(["client"]),
            &[from("203.0.113.1"), from("203.0.113.2"), from("203.0.113.1")][..],
            [0, 0, 429],
        ),
        ("its /24", lit!(["network"]), &[from("203.0.113.1"), from("203.0.114.1"), from("203.0.113.2")], [0, 0, 429]),
        (
            "its /64",
            lit!(["network"]),
            &[from("2001:db8:0:1::1"), from("2001:db8:0:2::1"), from("2001:db8:0:1:ffff::2")],
            [0, 0, 429],
        ),
        ("the API key", lit!(["api_key"]), &[k1, k2, k1], [0, 0, 429]),
        ("no API key, no limit", lit!(["api_key"]), &[to("/"), to("/"), to("/")], [0, 0, 0]),
        ("a header", lit!(["header:X-Api-Key"]), &[k1, k2, k1], [0, 0, 429]),
        ("the country", lit!(["country"]), &[de, fr, de], [0, 0, 429]),
        ("no country, no limit", lit!(["country"]), &[nowhere, nowhere, nowhere], [0, 0, 0]),
        ("the path", lit!(["path"]), &[to("/a"), to("/b"), to("/a?x")], [0, 0, 429]),
        ("an expression", lit!(["cel:request.path.size()"]), &[to("/ab"), to("/abc"), to("/cd")], [0, 0, 429]),
        ("several parts", lit!(["client", "path"]), &[to("/a"), to("/b"), to("/a")], [0, 0, 429]),
        ("an expression that fails", lit!(["cel:request.nothing"]), &[to("/a"), to("/b"), to("/a")], [500; 3]),
    ] {
        assert_eq!(answers(one(by), asks), expected, "{name}");
    }
}

#[test]
fn rules_apply_where_they_say() {
    let mut text = ruled(lit!([{"name": "one", "requests": 1, "window": 60, "routes": ["a"],
        "when": "request.method == 'POST'"}]));
    text["routes"] = lit!([{"name": "a", "match": [{"prefix": "/a"}]}, {"name": "b", "match": [{"prefix": "/b"}]}]);
    let ask = |method, target| Ask { method, target, ..Ask::default() };
    let asks = [ask("POST", "/a"), ask("GET", "/a"), ask("POST", "/b"), ask("POST", "/"), ask("POST", "/a/x")];
    assert_eq!(answers(text, &asks), [0, 0, 0, 0, 429]);
    let exempt = ruled(lit!([{"name": "one", "requests": 1, "window": 60}]));
    let mut exempt = exempt;
    exempt["security"]["exempt_ips"] = lit!(["203.0.113.7"]);
    assert_eq!(answers(exempt, &[Ask::default(), Ask::default()]), [0, 0]);
}

#[test]
fn the_strictest_limit_answers() {
    let text = ruled(lit!([
        {"name": "minute", "requests": 2, "window": 60},
        {"name": "second", "requests": 1, "window": 5},
        {"name": "hour", "requests": 100, "window": 3600}
    ]));
    let (policy, state) = (policy(text), Memory::new(100));
    let ask = |second: f64| at(&policy, &state, Ask::default(), NOON.plus(second));
    let allowed = ask(0.0);
    assert_eq!(short(&allowed).0, 0);
    let told: Vec<(&str, &str)> =
        allowed.response_headers.extra.iter().map(|edit| (&*edit.name, &*edit.value)).collect();
    assert_eq!(
        told,
        [
            ("ratelimit-policy", "\"minute\";q=2;w=60, \"second\";q=1;w=5, \"hour\";q=100;w=3600"),
            ("ratelimit", "\"second\";r=0;t=5"),
            ("x-ratelimit-limit", "1"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "5"),
        ]
    );
    let refused = ask(1.0);
    assert_eq!((short(&refused).0, header(&refused, "retry-after")), (429, Some("4")));
    assert_eq!(header(&refused, "ratelimit"), Some("\"second\";r=0;t=4"));
    assert_eq!(short(&ask(5.0)).0, 0, "as Retry-After said: what was refused did not count");
    let refused = ask(6.0);
    assert_eq!((short(&refused).0, header(&refused, "retry-after")), (429, Some("54")), "the longest wait");
    assert_eq!(refused.facts.len(), 2, "both refuse");
    assert_eq!(refused.facts[0].reason, "Rate limit `minute` exceeded: 2 requests in 60s window");
    assert_eq!(refused.facts[0].metadata[3], ("limit", FactValue::Text("minute".to_owned())));
}

#[test]
fn a_shadow_limit_reports_and_never_refuses() {
    let text = ruled(lit!([
        {"name": "new", "requests": 1, "window": 60, "shadow": true},
        {"name": "old", "requests": 3, "window": 60}
    ]));
    let (policy, state) = (policy(text), Memory::new(100));
    let ask = || at(&policy, &state, Ask::default(), NOON);
    assert!(ask().facts.is_empty());
    let reported = ask();
    assert_eq!((short(&reported).0, events(&reported)), (0, vec![("rate_limited", "logged_only")]));
    let block = &reported.blocks[0];
    assert_eq!((block.passive_mode, block.status_code), (true, None));
    assert_eq!(
        block.reason,
        "Would have limited 203.0.113.7: Rate limit `new` would have been exceeded: 1 requests in 60s window"
    );
    assert!(
        !reported.response_headers.extra.iter().any(|edit| edit.value.contains("new")),
        "clients see nothing of it"
    );
    ask();
    let refused = ask();
    assert_eq!(short(&refused).0, 429);
    assert_eq!(header(&refused, "ratelimit-policy"), Some("\"old\";q=3;w=60"));
}

#[test]
fn guard_cores_limits_are_told_too_and_come_first() {
    let mut text = limits(lit!({"rate_limit": 5, "rate_limit_window": 60}), lit!({"rate_limit": 2}));
    text["rate_limits"] = lit!({"headers": "standard", "rules": [{"name": "own", "requests": 9, "window": 10}]});
    let (policy, state) = (policy(text), Memory::new(100));
    let ask = || at(&policy, &state, Ask::default(), NOON);
    let allowed = ask();
    assert!(allowed.response_headers.extra.is_empty(), "allowed answers tell only when asked to");
    ask();
    let refused = ask();
    assert_eq!((short(&refused).0, header(&refused, "retry-after")), (429, Some("60")));
    assert_eq!(header(&refused, "ratelimit"), Some("\"route\";r=0;t=60"));
}

#[test]
fn passive_mode_reports_rules_and_refuses_none() {
    let mut text = ruled(lit!([{"name": "one", "requests": 1, "window": 60}]));
    text["security"]["passive_mode"] = lit!(true);
    let (policy, state) = (policy(text), Memory::new(100));
    at(&policy, &state, Ask::default(), NOON);
    let reported = at(&policy, &state, Ask::default(), NOON);
    assert_eq!((short(&reported).0, events(&reported)), (0, vec![("rate_limited", "logged_only")]));
    assert_eq!(reported.blocks.len(), 1);
}

#[test]
fn bad_rules_are_reported() {
    assert_eq!(
        wrong(ruled(lit!([{"name": "a", "requests": 1, "window": 1, "when": "nonsense("}]))),
        ["rate_limits.rules[0].when"]
    );
    assert_eq!(
        wrong(ruled(lit!([{"name": "a", "requests": 1, "window": 1, "by": ["client", "cel:unknown_name"]}]))),
        ["rate_limits.rules[0].by[1]"]
    );
}

/// A key says which limit it belongs to and, where the limit counts by it, whose address it is; nothing else can be read.
#[test]
fn keys_tell_whose_they_are() {
    let owner = |by: Value, headers: &[(&str, &str)]| {
        let mut rules =
            lit!([{"name": "other", "requests": 5, "window": 5}, {"name": "one", "requests": 1, "window": 60}]);
        rules[0]["by"] = json!(["method"]);
        rules[1]["by"] = by;
        let (policy, state) = (policy(ruled(rules)), Memory::new(100));
        short(&at(&policy, &state, Ask { headers, ..Ask::from("81.0.0.1") }, NOON));
        let found = state.busiest(10, NOON).entries.into_iter().filter_map(|busy| match busy.key {
            BusyKey::Rule(key) => Some(key),
            BusyKey::Client(..) => None,
        });
        let owners = found.map(|key| {
            let owner = policy.limit_of(&key).unwrap();
            (owner.limit.to_owned(), owner.requests, owner.client)
        });
        owners.filter(|(name, ..)| name == "one").collect::<Vec<_>>()
    };
    let one = |client: Option<&str>| vec![("one".to_owned(), 1, client.map(str::to_owned))];
    let key = [("x-api-key", "geheim")];
    assert_eq!(owner(json!(["client"]), &[]), one(Some("81.0.0.1")));
    assert_eq!(owner(json!(["network"]), &[]), one(Some("81.0.0.0")));
    assert_eq!(owner(json!(["api_key", "client"]), &key), one(Some("81.0.0.1")));
    assert_eq!(owner(json!(["api_key"]), &key), one(None));
    let policy = policy(ruled(lit!([])));
    assert_eq!(policy.limit_of(&Digest([7; 32])), None);
}
