use serde_json::{Value, json};

use super::*;
use crate::detect::Unmetered;
use crate::engine::tests::testing::{Ask, NOON, lit, once, policy, ready, routed, short};
use crate::request::Body;
use crate::state::memory::Memory;

const ATTACK: &str = r#"{"q": "1' UNION SELECT login, password FROM users--"}"#;

fn post<'a>() -> Ask<'a> {
    Ask { method: "POST", headers: &[("content-type", "application/json")], ..Ask::default() }
}

#[track_caller]
fn body_answer(text: Value, ask: Ask<'_>, body: Body<'_>) -> (u16, String) {
    let policy = policy(text);
    let standing = Standing { flags: once(&policy, ask).flags, ..Standing::default() };
    let request = Request { body, ..ask.request() };
    let asked = Asked { request: &request, now: NOON, meter: &Unmetered };
    let decision = ready(decide_body(&policy, &Memory::new(10), asked, &standing));
    let (status, text) = short(&decision);
    (status, text.to_owned())
}

#[test]
fn a_body_is_judged_by_the_policy_of_its_request() {
    let whole = Body::Complete(ATTACK.as_bytes());
    let security = |fields: Value| json!({"security": fields});
    for (name, text, body, expected) in [
        ("an attack", json!({}), whole, 400),
        ("a clean body", json!({}), Body::Complete(b"{}"), 0),
        ("detection is off", security(lit!({"enable_penetration_detection": false})), whole, 0),
        ("bodies are not looked at", security(lit!({"detection_scan_body": false})), whole, 0),
        ("the client is on the whitelist", security(lit!({"whitelist": ["203.0.113.7"]})), whole, 0),
        ("the path is excluded", security(lit!({"exclude_paths": ["/api"]})), whole, 0),
        ("the route looks away", routed(lit!({"bypassed_checks": ["penetration"]})), whole, 0),
        ("only reported", security(lit!({"passive_mode": true})), whole, 0),
        ("the first attack bans", security(lit!({"auto_ban_threshold": 1})), whole, 403),
        ("a cut body is scanned", json!({}), Body::Partial(b"{"), 0),
        ("a cut body may be refused", lit!({"detection": {"partial_body": "deny"}}), Body::Partial(b"x"), 413),
    ] {
        assert_eq!(body_answer(text, post(), body).0, expected, "{name}");
    }
}

#[test]
fn what_is_wanted_follows_from_the_policy() {
    let security = |fields: Value| json!({"security": fields});
    let off = || lit!({"enable_penetration_detection": false, "security_headers": null});
    let here = Standing::default();
    let elsewhere = Standing { elsewhere: true, ..here };
    for (name, text, standing, expected) in [
        ("all of it", json!({}), here, (true, true)),
        ("nothing", security(off()), here, (false, false)),
        ("the rest was said elsewhere", json!({}), elsewhere, (true, false)),
        ("the body was inspected elsewhere", json!({}), Standing { inspected: true, ..elsewhere }, (false, false)),
        (
            "a removal needs a look",
            security(lit!({"custom_response_modifier": [{"remove": ["server"]}]})),
            elsewhere,
            (true, true),
        ),
    ] {
        let policy = policy(text);
        let wanted = wanted(&policy, &post().request(), &standing);
        assert_eq!((wanted.request_body, wanted.response_headers), expected, "{name}");
    }
}

fn edited(text: Value, standing: Standing<'_>, ask: Ask<'_>, head: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let policy = policy(text);
    let head =
        ResponseHead { status: 200, headers: head.iter().map(|(name, value)| (*name, value.as_bytes())).collect() };
    let edits = respond(&policy, (&ask.request(), NOON), &standing, &head);
    let removed = edits.remove.iter().map(|name| (*name).to_owned()).collect();
    (removed, edits.set.iter().map(|edit| format!("{}: {}", edit.name, edit.value)).collect())
}

#[test]
fn a_response_is_dressed_by_what_it_says() {
    let modifier = lit!([
        {"remove": ["x-powered-by"]},
        {"when": "response.status == 200 && 'x-leak' in response.headers", "set": {"x-seen": "yes"}, "remove": ["x-leak"]},
        {"when": "'x-leak' in response.headers", "set": {"x-late": "never"}},
        {"set": {"x-always": "1"}}
    ]);
    let text = || json!({"security": {"security_headers": null, "custom_response_modifier": modifier}});
    let head = [("x-leak", "secret"), ("x-powered-by", "php")];
    let (removed, set) = edited(text(), Standing::default(), Ask::default(), &head);
    assert_eq!(removed, ["x-powered-by", "x-leak"]);
    assert_eq!(set, ["x-seen: yes", "x-always: 1"]);
    let elsewhere = Standing { elsewhere: true, ..Standing::default() };
    let (removed, set) = edited(text(), elsewhere, Ask::default(), &head);
    assert_eq!((removed.len(), set), (2, vec!["x-seen: yes".to_owned()]), "what is constant was said elsewhere");
    let (removed, set) = edited(text(), Standing::default(), Ask::default(), &[]);
    assert_eq!((removed.len(), set), (1, vec!["x-always: 1".to_owned()]));
}

#[test]
fn vary_is_merged() {
    let text = || lit!({"security": {"security_headers": null, "enable_cors": true, "cors_allow_origins": ["https://a.example"]}});
    let ask = Ask::with(&[("origin", "https://a.example")]);
    let set = |head: &[(&str, &str)]| edited(text(), Standing::default(), ask, head).1;
    assert_eq!(set(&[("vary", "Accept")]), ["access-control-allow-origin: https://a.example", "vary: Origin"]);
    assert_eq!(set(&[("vary", "Accept, origin")]), ["access-control-allow-origin: https://a.example"]);
    assert_eq!(set(&[("vary", "*")]), ["access-control-allow-origin: https://a.example"]);
}

#[test]
fn security_headers_are_on_every_response_but_where_all_is_bypassed() {
    let has_frame = |set: &[String]| set.iter().any(|line| line == "x-frame-options: SAMEORIGIN");
    let (_, set) = edited(json!({}), Standing::default(), Ask::default(), &[("x-frame-options", "DENY")]);
    assert!(has_frame(&set), "{set:?}");
    let (_, set) = edited(routed(lit!({"bypassed_checks": ["all"]})), Standing::default(), Ask::default(), &[]);
    assert!(set.is_empty(), "{set:?}");
    let policy = policy(json!({}));
    assert!(respond_unasked(&policy).set.iter().any(|edit| edit.name == "x-frame-options"));
}
