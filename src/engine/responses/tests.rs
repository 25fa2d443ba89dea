use serde_json::{Value, json};

use super::*;
use crate::engine::phases::{self, Standing};
use crate::engine::policy::Policy;
use crate::engine::tests::testing::{Ask, NOON, lit, policy, ready, short, wrong};
use crate::model::decision::Decision;
use crate::state::memory::Memory;

const CARD: &str = "your card 4111 1111 1111 1111 is on file";

fn rules(rule: Value) -> Value {
    let mut rule = rule;
    rule["name"] = "leak".into();
    json!({"responses": {"rules": [rule]}})
}

fn block() -> Value {
    rules(lit!({"find": ["card_numbers"], "action": "block", "status": 502, "body": "withheld"}))
}

/// Judges a response that comes in these parts; the decisions about its body.
fn judged<'p>(policy: &'p Policy, head: &[(&str, &str)], parts: &[&[u8]]) -> (Manner, Vec<Decision<'p>>) {
    let (state, request, standing) = (Memory::new(10), Ask::default().request(), Standing::default());
    let head =
        ResponseHead { status: 200, headers: head.iter().map(|(name, value)| (*name, value.as_bytes())).collect() };
    let (_, mut reading) = ready(phases::judge(policy, &state, (&request, NOON), &standing, &head));
    let (mut body, mut decisions) = (Vec::new(), Vec::new());
    for (place, part) in parts.iter().enumerate() {
        let fresh = body.len();
        body.extend_from_slice(part);
        let is_last = place + 1 == parts.len();
        let part = Part { bytes: &body, fresh, is_last, is_whole: is_last };
        decisions.push(ready(phases::judge_body(policy, &state, (&request, NOON), &standing, (&mut reading, part))));
    }
    (reading.manner(), decisions)
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_leak_is_logged_or_blocked() {
    let logs = policy(rules(lit!({"find": ["card_numbers"]})));
    let (manner, decisions) = judged(&logs, &[("content-type", "text/html")], &[CARD.as_bytes()]);
    assert_eq!((manner, short(&decisions[0]).0), (Manner::Along, 0));
    let fact = decisions[0].facts.first().unwrap();
    assert_eq!((fact.action.as_ref(), fact.handler), ("logged", "response_rules"));
    assert!(!fact.reason.contains("4111 1111"), "{}", fact.reason);
    let blocks = policy(block());
    let (manner, decisions) = judged(&blocks, &[("content-type", "text/html")], &[CARD.as_bytes()]);
    assert_eq!((manner, short(&decisions[0])), (Manner::Before, (502, "withheld")));
    assert_eq!(decisions[0].facts.first().unwrap().action, "response_blocked");
    let mut passive = block();
    passive["security"] = json!({"passive_mode": true});
    let passive = policy(passive);
    let (manner, decisions) = judged(&passive, &[], &[CARD.as_bytes()]);
    assert_eq!((manner, short(&decisions[0]).0), (Manner::Along, 0));
    assert_eq!(decisions[0].facts.first().unwrap().action, "logged_only");
}

#[test]
fn a_leak_is_found_at_every_cut_and_reported_once() {
    let policy = policy(rules(lit!({"find": ["card_numbers"]})));
    for cut in 0..=CARD.len() {
        let (first, second) = CARD.as_bytes().split_at(cut);
        let (_, decisions) = judged(&policy, &[], &[first, second]);
        let facts: usize = decisions.iter().map(|decision| decision.facts.len()).sum();
        assert_eq!(facts, 1, "cut at {cut}");
    }
}

#[test]
fn media_types_and_codings_are_respected() {
    let policy = policy(block());
    let json_type = ("content-type", "application/problem+json; charset=utf-8");
    for (name, head, body, expected) in [
        ("no media type", vec![], CARD.as_bytes().to_vec(), 502),
        ("a suffix", vec![json_type], CARD.as_bytes().to_vec(), 502),
        ("an image", vec![("content-type", "image/png")], CARD.as_bytes().to_vec(), 0),
        ("compressed", vec![json_type, ("content-encoding", "gzip")], gzip(CARD), 502),
        ("compressed and clean", vec![json_type, ("content-encoding", "gzip")], gzip("nothing"), 0),
        ("damaged", vec![json_type, ("content-encoding", "gzip")], b"\x1f\x8bxx".to_vec(), 0),
    ] {
        let (_, decisions) = judged(&policy, &head, &[&body]);
        assert_eq!(short(&decisions[0]).0, expected, "{name}");
    }
    let stream = judged(&policy, &[("content-type", "text/event-stream")], &[b"data: x\n\n"]).0;
    assert_eq!(stream, Manner::Along, "what never ends is not waited for");
}

#[test]
fn a_bomb_stays_within_its_bound() {
    let policy = policy(block());
    let bomb = gzip(&" ".repeat(50_000_000));
    let (_, decisions) = judged(&policy, &[("content-encoding", "gzip")], &[&bomb]);
    assert_eq!(short(&decisions[0]).0, 0);
    let inflated = inflated("gzip", &bomb, policy.responses.bytes_max());
    assert!(inflated.len() <= policy.responses.bytes_max());
}

#[test]
fn what_lies_behind_the_sample_is_not_looked_at() {
    let mut text = block();
    text["responses"]["max_inspect_bytes"] = 1024.into();
    let policy = policy(text);
    for (padding, expected) in [(900, 502), (1100, 0)] {
        let body = format!("{}{CARD}", "x ".repeat(padding / 2));
        assert_eq!(short(&judged(&policy, &[], &[body.as_bytes()]).1[0]).0, expected, "{padding}");
    }
}

#[test]
fn a_route_has_rules_of_its_own() {
    let mut text = block();
    text["routes"] = lit!([{"name": "all", "match": [{}], "response_rules": []}]);
    let none = policy(text);
    assert_eq!(judged(&none, &[], &[CARD.as_bytes()]).0, Manner::Away);
    let wants = |policy: &Policy| phases::wanted(policy, &Ask::default().request(), &Standing::default()).response_body;
    assert!(!wants(&none) && wants(&policy(block())) && !wants(&policy(json!({}))), "bodies are asked for only then");
}

#[test]
fn rules_are_checked() {
    let twice = lit!({"responses": {"rules": [{"name": "a", "find": ["jwt"]}, {"name": "a", "find": ["jwt"]}]}});
    assert_eq!(wrong(twice), ["responses.rules[1].name"]);
    let empty = lit!({"responses": {"rules": [{"name": "a", "find": [], "status": 200}]}});
    assert_eq!(wrong(empty), ["responses.rules[0].find", "responses.rules[0].status"]);
}
