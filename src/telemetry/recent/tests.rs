use std::time::Duration;

use smallvec::SmallVec;

use super::*;
use crate::model::addr::Client;
use crate::model::category::Category;
use crate::model::check::Check;
use crate::model::decision::{Decision, Denial, Fact, FactValue, Hit};
use crate::model::event::EventType;
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Request, Target, Tls};

fn keeping(entries: u32, bytes: u32, allowed_every: u32) -> Keeping {
    let mut config = Config::default();
    config.telemetry.decisions = DecisionsConfig { entries, bytes, allowed_every };
    Keeping::new(&config)
}

fn request() -> Request<'static> {
    let fields = [("cookie", &b"a=geheim"[..]), ("x-request-id", b"0a1b-2c")];
    Request {
        id: "1234567890",
        method: "POST",
        scheme: "http",
        host: "example.com",
        target: Target::from("/items?token=geheim&q=1"),
        protocol: "HTTP/1.1",
        headers: fields.into_iter().collect::<Headers<'_>>(),
        body: Body::Complete(b"geheim"),
        peer: Peer::Absent,
        route: None,
        tls: Tls::default(),
    }
}

/// A refusal for a row that was found in this place.
fn refused(spot: Spot, text: &str, facts: usize) -> Decision<'static> {
    let fact = Fact {
        event: EventType::PatternDetected,
        action: "threat_detected".into(),
        check: Check::SuspiciousActivity,
        reason: "Threat detected, password=geheim".to_owned(),
        metadata: vec![
            ("field", FactValue::Text(spot.name.clone())),
            ("content_preview", FactValue::Text(text.to_owned())),
        ],
        handler: "sus_patterns",
    };
    let detection = DetectionSummary {
        categories: vec![Category::SQLI],
        score: 0.9,
        trigger: "a trigger".to_owned(),
        rows: vec!["SQL-01".into()],
        hits: vec![Hit { row: "SQL-01".into(), view: "decoded", text: text.to_owned() }],
        spot,
    };
    let denial = Denial {
        origin: Origin::Check(Check::SuspiciousActivity),
        status: 400,
        body: "Suspicious activity detected".into(),
        content_type: None,
        headers: SmallVec::new(),
    };
    Decision {
        verdict: Verdict::Deny(denial),
        facts: std::iter::repeat_n(fact, facts).collect(),
        detection: Some(Box::new(detection)),
        route: Some("shop"),
        ..Decision::allow()
    }
}

fn record(keeping: &Keeping, decision: &Decision<'_>) -> Record {
    let (request, client) = (request(), Client::Text("somebody"));
    let origin = Some(Origin::Check(Check::SuspiciousActivity));
    let subject = Subject { request: &request, decision, client, outcome: Outcome::Deny, origin, us: 12 };
    let (took, now) = (Duration::from_micros(12), Timestamp(1000.0));
    keeping.record(&subject, &Happening { request: &request, decision, client, took, now })
}

#[test]
fn a_record_explains_and_quotes_no_secret() {
    let keeping = keeping(10, 1 << 20, 0);
    let param = |name: &str| Spot { key: Some("param"), name: name.to_owned() };
    let shown = record(&keeping, &refused(param("q"), "1 OR 1=1", 1)).json();
    for (key, expected) in [
        ("verdict", json!("deny")),
        ("check", json!("suspicious_activity")),
        ("status", json!(400)),
        ("client", json!("somebody")),
        ("route", json!("shop")),
        ("request_id", json!("1234567890")),
        ("x_request_id", json!("0a1b-2c")),
        ("method", json!("POST")),
    ] {
        assert_eq!(shown[key], expected, "{key}: {shown}");
    }
    assert_eq!(shown["detection"]["hits"][0], json!({"row": "SQL-01", "view": "decoded", "text": "1 OR 1=1"}));
    let exclusion = json!([{"path": "/items", "param": "q", "row": "SQL-01"}]);
    assert_eq!(shown["detection"]["exclusions"], exclusion);
    assert_eq!(shown["facts"][0]["event"], "pattern_detected");
    assert!(!shown.to_string().contains("geheim"), "{shown}");

    let hidden = record(&keeping, &refused(param("password"), "geheim' OR 1=1", 1)).json();
    assert_eq!(hidden["detection"]["hits"][0]["text"], MASK);
    assert!(!hidden.to_string().contains("geheim"), "{hidden}");
}

#[test]
fn what_is_kept_is_bounded_in_count_and_bytes() {
    let recent = Recent::default();
    let decision = refused(Spot::default(), "x", 1);
    let numbers = |recent: &Recent| recent.all().iter().map(|record| record.number).collect::<Vec<_>>();
    let few = keeping(3, 1 << 20, 0);
    (0..5).for_each(|_| recent.keep(record(&few, &decision), &few));
    assert_eq!(numbers(&recent), [3, 4, 5]);
    let one = recent.all()[0].bytes();
    let small = keeping(100, u32::try_from(2 * one + one / 2).unwrap(), 0);
    (0..4).for_each(|_| recent.keep(record(&small, &decision), &small));
    assert_eq!(numbers(&recent), [8, 9], "two fit into two and a half times the bytes of one");
    assert_eq!(recent.fill(), Fill { kept: 2, bytes: 2 * one, made: 9 });
    assert_eq!(recent.find("9").unwrap().number, 9);
    assert_eq!(recent.find("0a1b-2c").unwrap().number, 9, "the newest of those with one id");
    assert_eq!(recent.find("1234567890").unwrap().number, 9);
    assert!(recent.find("1").is_none(), "it is gone");
}

#[test]
fn a_record_that_would_be_too_large_says_less() {
    let keeping = keeping(10, 1 << 20, 0);
    let mut decision = refused(Spot::default(), &"y".repeat(256), 16);
    for fact in &mut decision.facts {
        fact.metadata = (0..64).map(|_| ("note", FactValue::Text("z".repeat(2000)))).collect();
    }
    let bytes = |decision: &Decision<'_>| record(&keeping, decision).text.len();
    assert!(bytes(&decision) <= RECORD_BYTES_MAX, "{}", bytes(&decision));
    assert_eq!(record(&keeping, &decision).json()["facts"][0]["metadata"], Value::Null);
    for fact in &mut decision.facts {
        fact.reason = "w".repeat(2000);
    }
    assert!(bytes(&decision) <= RECORD_BYTES_MAX, "{}", bytes(&decision));
    assert_eq!(record(&keeping, &decision).json()["facts"], Value::Null);
}

#[test]
fn what_is_allowed_is_kept_only_as_a_sample() {
    let turn = Cell::new(0);
    let kept = |keeping: &Keeping, outcome, origin| (0..6).map(|_| keeping.wants(outcome, origin, &turn)).collect();
    let all: Vec<bool> = vec![true; 6];
    let none: Vec<bool> = vec![false; 6];
    let third: Vec<bool> = vec![false, false, true, false, false, true];
    let refusal = Some(Origin::Check(Check::IpSecurity));
    for (name, keeping, outcome, origin, expected) in [
        ("refusals", keeping(10, 65536, 0), Outcome::Deny, refusal, &all),
        ("failures", keeping(10, 65536, 0), Outcome::Fail, Some(Origin::Internal), &all),
        ("reports", keeping(10, 65536, 3), Outcome::Report, refusal, &all),
        ("allowed, by default", keeping(10, 65536, 0), Outcome::Allow, None, &none),
        ("allowed, every third", keeping(10, 65536, 3), Outcome::Allow, None, &third),
        ("a preflight is an answer", keeping(10, 65536, 0), Outcome::Deny, Some(Origin::CorsPreflight), &none),
        ("turned off", keeping(0, 65536, 1), Outcome::Deny, refusal, &none),
    ] {
        turn.set(0);
        let found: Vec<bool> = kept(&keeping, outcome, origin);
        assert_eq!(found, *expected, "{name}");
    }
}
