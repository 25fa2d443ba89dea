use serde_json::{Value, json};

use crate::engine::tests::testing::{Ask, NOON, at, check, events, lit, once, policy, short};
use crate::model::decision::{FactValue, IdentityFlags};
use crate::model::time::Window;
use crate::state::State;
use crate::state::memory::Memory;

const FORBIDDEN: (u16, &str) = (403, "Forbidden");

fn security(fields: Value) -> Value {
    json!({"security": fields})
}

fn both(fields: Value, route: Value) -> Value {
    let mut text = crate::engine::tests::testing::routed(route);
    text.as_object_mut().unwrap().insert("security".to_owned(), fields);
    text
}

#[test]
fn lists_and_countries_play_together() {
    let me = "81.0.0.1";
    // (name, policy, status); the client is German.
    for (name, text, refused) in [
        ("whitelist and blacklist", security(lit!({"whitelist": ["81.0.0.1"], "blacklist": ["81.0.0.1"]})), false),
        ("exempt and blacklist", security(lit!({"exempt_ips": ["81.0.0.1"], "blacklist": ["81.0.0.1"]})), true),
        ("whitelist without me", security(lit!({"whitelist": ["1.1.1.1"]})), true),
        ("an empty whitelist lets nobody pass", security(lit!({"whitelist": []})), true),
        ("no whitelist", security(lit!({"whitelist": null})), false),
        ("blacklisted network", security(lit!({"blacklist": ["81.0.0.0/8"]})), true),
        (
            "whitelisted, country blocked",
            security(lit!({"whitelist": ["81.0.0.1"], "blocked_countries": ["DE"]})),
            false,
        ),
        ("exempt, country blocked", security(lit!({"exempt_ips": ["81.0.0.1"], "blocked_countries": ["de"]})), true),
        ("country not blocked", security(lit!({"blocked_countries": ["FR"]})), false),
        ("country allowed", security(lit!({"whitelist_countries": ["DE"]})), false),
        ("country not allowed", security(lit!({"whitelist_countries": ["FR"]})), true),
        (
            "the allow-list makes the block-list inert",
            security(lit!({"whitelist_countries": ["DE"], "blocked_countries": ["DE"]})),
            false,
        ),
        (
            "global blacklist, route whitelist",
            both(lit!({"blacklist": ["81.0.0.1"]}), lit!({"ip_whitelist": ["81.0.0.1"]})),
            false,
        ),
        (
            "global whitelist, route blacklist",
            both(lit!({"whitelist": ["81.0.0.1"]}), lit!({"ip_blacklist": ["81.0.0.1"]})),
            true,
        ),
        (
            "route whitelist beats route blacklist",
            both(lit!({}), lit!({"ip_whitelist": ["81.0.0.1"], "ip_blacklist": ["81.0.0.1"]})),
            false,
        ),
        ("an empty route whitelist is none", both(lit!({}), lit!({"ip_whitelist": []})), false),
        ("route whitelist without me", both(lit!({}), lit!({"ip_whitelist": ["1.1.1.1"]})), true),
        (
            "route whitelist, route country blocked",
            both(lit!({}), lit!({"ip_whitelist": ["81.0.0.1"], "blocked_countries": ["DE"]})),
            true,
        ),
        (
            "global country blocked, route allows it",
            both(lit!({"blocked_countries": ["DE"]}), lit!({"whitelist_countries": ["DE"]})),
            false,
        ),
        ("route country not allowed", both(lit!({}), lit!({"whitelist_countries": ["FR"]})), true),
        ("bypass ip", both(lit!({"blacklist": ["81.0.0.1"]}), lit!({"bypassed_checks": ["ip"]})), false),
        (
            "an excluded path keeps the global lists",
            both(lit!({"blacklist": ["81.0.0.1"], "exclude_paths": ["/api"]}), lit!({"ip_whitelist": ["81.0.0.1"]})),
            true,
        ),
        (
            "an excluded path ignores the route's lists",
            both(lit!({"exclude_paths": ["/api"]}), lit!({"ip_blacklist": ["81.0.0.1"]})),
            false,
        ),
    ] {
        let policy = policy(text);
        let expected = if refused { FORBIDDEN } else { (0, "") };
        assert_eq!(short(&once(&policy, Ask::from(me))), expected, "{name}");
    }
}

#[test]
fn other_clients() {
    let open = |fields: Value| {
        let mut fields = fields;
        fields.as_object_mut().unwrap().insert("fail_secure".to_owned(), lit!(false));
        security(fields)
    };
    check(&[
        ("text is refused", open(lit!({})), Ask::from("testclient"), 403, "Forbidden"),
        ("nobody passes without lists", open(lit!({})), Ask::from(""), 0, ""),
        ("nobody is on no whitelist", open(lit!({"whitelist": ["1.1.1.1"]})), Ask::from(""), 403, "Forbidden"),
        ("nobody is in no country", open(lit!({"whitelist_countries": ["DE"]})), Ask::from(""), 403, "Forbidden"),
        ("nobody is in no blocked country", open(lit!({"blocked_countries": ["DE"]})), Ask::from(""), 0, ""),
        ("an unresolved country passes a block-list", open(lit!({"blocked_countries": ["DE"]})), Ask::default(), 0, ""),
        ("and not an allow-list", open(lit!({"whitelist_countries": ["DE"]})), Ask::default(), 403, "Forbidden"),
        ("loopback is excused globally", open(lit!({"blocked_countries": ["CN"]})), Ask::from("127.0.0.1"), 0, ""),
        (
            "loopback is not excused by a route",
            both(lit!({}), lit!({"blocked_countries": ["CN"]})),
            Ask::from("127.0.0.1"),
            403,
            "Forbidden",
        ),
        ("a zoned address is an address", open(lit!({})), Ask::from("fe80::1%eth0"), 0, ""),
        ("and lies in networks", open(lit!({"blacklist": ["fe80::/10"]})), Ask::from("fe80::1%eth0"), 403, "Forbidden"),
        (
            "an unknown client is refused before anything",
            security(lit!({"passive_mode": true})),
            Ask::from(""),
            403,
            "Client address could not be determined",
        ),
        ("but not on excluded paths", security(lit!({})), Ask { target: "/docs", ..Ask::from("") }, 0, ""),
    ]);
}

#[test]
fn global_cloud_selectors_excuse_the_whitelist_only() {
    let cloud = |more: Value| {
        let mut fields = lit!({"block_cloud_providers": ["AWS:!eu-west-1"]});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        security(fields)
    };
    check(&[
        ("inside", cloud(lit!({})), Ask::from("3.1.1.1"), 403, "Forbidden"),
        ("carved out", cloud(lit!({})), Ask::from("4.1.1.1"), 0, ""),
        ("exempt is not excused", cloud(lit!({"exempt_ips": ["3.1.1.1"]})), Ask::from("3.1.1.1"), 403, "Forbidden"),
        ("whitelisted is", cloud(lit!({"whitelist": ["3.1.1.1"]})), Ask::from("3.1.1.1"), 0, ""),
    ]);
    let policy = policy(cloud(lit!({})));
    let decision = once(&policy, Ask::from("3.1.1.1"));
    assert_eq!(decision.facts[0].reason, "IP belongs to blocked cloud provider: AWS");
    assert!(decision.facts[0].metadata.contains(&("network", FactValue::Text("3.0.0.0/8".to_owned()))));
}

#[test]
fn bans_beat_everything_but_their_bypass() {
    let state = Memory::new(10);
    let target = "81.0.0.1".parse().unwrap();
    crate::engine::tests::testing::ready(state.ban(target, Window::new(60).unwrap(), "test", NOON)).unwrap();
    for (name, text, expected) in [
        ("banned", lit!({}), (403, "IP address banned")),
        ("and whitelisted", security(lit!({"whitelist": ["81.0.0.1"]})), (403, "IP address banned")),
        ("with banning off", security(lit!({"enable_ip_banning": false})), (403, "IP address banned")),
        ("on an excluded path", security(lit!({"exclude_paths": ["/api"]})), (403, "IP address banned")),
        ("route bypasses bans", both(lit!({}), lit!({"bypassed_checks": ["ip_ban"]})), (0, "")),
        (
            "route bypasses addresses only",
            both(lit!({}), lit!({"bypassed_checks": ["ip"]})),
            (403, "IP address banned"),
        ),
        ("passive", security(lit!({"passive_mode": true})), (0, "")),
    ] {
        let policy = policy(text);
        assert_eq!(short(&at(&policy, &state, Ask::from("81.0.0.1"), NOON)), expected, "{name}");
    }
    let policy = policy(lit!({}));
    let decision = at(&policy, &state, Ask::from("81.0.0.1"), NOON.plus(1.0));
    assert_eq!(decision.flags, None);
    assert_eq!(decision.blocks[0].reason, "Banned IP attempted access: 81.0.0.1");
    assert_eq!(short(&at(&policy, &state, Ask::from("81.0.0.1"), NOON.plus(61.0))), (0, ""), "the ban ended");
}

#[test]
fn flags_tell_who_was_recognised() {
    for (name, text, expected) in [
        ("nobody special", security(lit!({})), Some((false, false))),
        ("whitelisted", security(lit!({"whitelist": ["81.0.0.1"]})), Some((true, false))),
        ("exempt", security(lit!({"exempt_ips": ["81.0.0.0/8"]})), Some((false, true))),
        (
            "a route whitelist keeps both unset",
            both(lit!({"whitelist": ["81.0.0.1"]}), lit!({"ip_whitelist": ["81.0.0.1"]})),
            Some((false, false)),
        ),
        ("bypass ip never asks", both(lit!({"exempt_ips": ["81.0.0.1"]}), lit!({"bypassed_checks": ["ip"]})), None),
        ("a route refusal never gets there", both(lit!({}), lit!({"ip_blacklist": ["81.0.0.1"]})), None),
    ] {
        let policy = policy(text);
        let expected = expected.map(|(whitelisted, exempt)| IdentityFlags { whitelisted, exempt });
        assert_eq!(once(&policy, Ask::from("81.0.0.1")).flags, expected, "{name}");
    }
}

#[test]
fn route_refusals_are_classified() {
    for (route, decorator, kind) in [
        (lit!({"ip_blacklist": ["81.0.0.1"]}), "access_control", "ip_restriction"),
        (lit!({"blocked_countries": ["DE"]}), "block_countries", "country_restriction"),
        (lit!({"whitelist_countries": ["FR"]}), "allow_countries", "country_restriction"),
        (lit!({"ip_whitelist": ["81.0.0.1"], "blocked_countries": ["DE"]}), "access_control", "ip_restriction"),
    ] {
        let policy = policy(both(lit!({}), route));
        let decision = once(&policy, Ask::from("81.0.0.1"));
        assert_eq!(events(&decision), [("decorator_violation", "request_blocked")]);
        let text = |value: &str| FactValue::Text(value.to_owned());
        assert_eq!(decision.facts[0].metadata, [("decorator_type", text(decorator)), ("violation_type", text(kind))]);
    }
}

/// 81.0.0.1 is announced by AS 64500, 82.0.0.1 by AS 64501; nobody else is known.
#[derive(Debug)]
struct Announced;

impl crate::model::place::Countries for Announced {
    fn country(&self, _: crate::model::addr::ClientAddr) -> Option<crate::model::place::CountryCode> {
        None
    }

    fn operator(&self, addr: crate::model::addr::ClientAddr) -> Option<crate::model::place::Operator<'_>> {
        let asn = match addr.to_string().as_str() {
            "81.0.0.1" => 64500,
            "82.0.0.1" => 64501,
            _ => return None,
        };
        Some(crate::model::place::Operator { asn, name: Some("Example Net") })
    }
}

/// A policy with two lists and known operators.
fn informed(text: Value) -> crate::engine::policy::Policy {
    use crate::model::lists::{AddressList, Entries};
    let list = |name: &str, allows, lines: &[&str]| AddressList {
        name: name.into(),
        allows,
        entries: Entries::new((1..).zip(lines).map(|(line, text)| (line, text.parse().unwrap()))).into(),
    };
    let mut policy = policy(text);
    policy.lists = [
        list("spam", false, &["198.51.100.0/24", "203.0.113.9", "127.0.0.1"]),
        list("partners", true, &["198.51.100.77"]),
    ]
    .into();
    policy.operators = Some(std::sync::Arc::new(Announced));
    policy
}

#[test]
fn lists_of_others_are_enforced_and_say_which_line() {
    let plain = || json!({});
    for (name, text, peer, refused) in [
        ("on a network of the list", plain(), "198.51.100.1", true),
        ("an address of the list", plain(), "203.0.113.9", true),
        ("excused by another list", plain(), "198.51.100.77", false),
        ("on no list", plain(), "203.0.113.8", false),
        ("whitelisted", security(lit!({"whitelist": ["203.0.113.9"]})), "203.0.113.9", false),
        ("exempt", security(lit!({"exempt_ips": ["203.0.113.9"]})), "203.0.113.9", true),
        ("the route bypasses address checks", both(lit!({}), lit!({"bypassed_checks": ["ip"]})), "203.0.113.9", false),
        ("loopback is no exception", plain(), "127.0.0.1", true),
    ] {
        let policy = informed(text);
        let decision = once(&policy, Ask::from(peer));
        assert_eq!(short(&decision), if refused { FORBIDDEN } else { (0, "") }, "{name}");
        if name == "an address of the list" {
            let fact = &decision.facts[0];
            assert_eq!(fact.reason, "IP on block list spam, line 2");
            for expected in [
                ("block_list", FactValue::Text("spam".to_owned())),
                ("line", FactValue::Int(2)),
                ("network", FactValue::Text("203.0.113.9/32".to_owned())),
            ] {
                assert!(fact.metadata.contains(&expected), "{expected:?} in {:?}", fact.metadata);
            }
        }
    }
}

#[test]
fn autonomous_systems_are_refused_by_number() {
    let global = |rules: Value| json!({"data": rules});
    let route = crate::engine::tests::testing::routed;
    for (name, text, peer, refused) in [
        ("blocked", global(lit!({"blocked_asns": [64500]})), "81.0.0.1", true),
        ("another one", global(lit!({"blocked_asns": [64500]})), "82.0.0.1", false),
        ("unknown, some are blocked", global(lit!({"blocked_asns": [64500]})), "83.0.0.1", false),
        ("allowed", global(lit!({"allowed_asns": [64500]})), "81.0.0.1", false),
        ("not allowed", global(lit!({"allowed_asns": [64500]})), "82.0.0.1", true),
        ("unknown, only some are allowed", global(lit!({"allowed_asns": [64500]})), "83.0.0.1", true),
        ("loopback is excused", global(lit!({"allowed_asns": [64500]})), "127.0.0.2", false),
        ("allowed and blocked", global(lit!({"allowed_asns": [64500], "blocked_asns": [64500]})), "81.0.0.1", true),
        ("blocked by the route", route(lit!({"blocked_asns": [64501]})), "82.0.0.1", true),
        ("not allowed by the route", route(lit!({"allowed_asns": [64500]})), "82.0.0.1", true),
        ("allowed by the route", route(lit!({"allowed_asns": [64500]})), "81.0.0.1", false),
    ] {
        let policy = informed(text);
        let decision = once(&policy, Ask::from(peer));
        assert_eq!(short(&decision), if refused { FORBIDDEN } else { (0, "") }, "{name}");
    }
    let policy = informed(json!({"data": {"blocked_asns": [64500]}}));
    let decision = once(&policy, Ask::from("81.0.0.1"));
    assert_eq!(decision.facts[0].reason, "IP from blocked autonomous system: AS64500");
    assert!(decision.facts[0].metadata.contains(&("organisation", FactValue::Text("Example Net".to_owned()))));
    assert_eq!(decision.asn, Some(64500));
}

#[test]
fn the_upstream_is_told_where_a_client_is() {
    let text = || json!({"data": {"country_header": "X-Geo-Country", "asn_header": "x-geo-asn"}});
    let told = |peer: &str| {
        let policy = informed(text());
        let decision = once(&policy, Ask::from(peer));
        let pair = |edit: &crate::model::headers::HeaderEdit<'_>| format!("{}={}", edit.name, edit.value);
        decision.request_headers.iter().map(pair).collect::<Vec<_>>()
    };
    assert_eq!(told("81.0.0.1"), ["x-geo-country=DE", "x-geo-asn=64500"]);
    // Always set: what the client sent under these names is overwritten.
    assert_eq!(told("203.0.113.1"), ["x-geo-country=ZZ", "x-geo-asn=0"]);
}
