use std::sync::Arc;

use smallvec::SmallVec;

use super::*;
use crate::model::check::Check;
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Target, Tls};
use crate::telemetry::buffer::{Buffer, Full};
use crate::telemetry::bus::Outlets;

/// A text that must appear nowhere.
const SECRET: &str = "s3cr3t-geheim";

/// A request with a secret at every place that has a name for one.
fn planted() -> Request<'static> {
    let headers: Headers<'_> = [
        ("authorization", &b"Bearer s3cr3t-geheim"[..]),
        ("proxy-authorization", b"Basic s3cr3t-geheim"),
        ("cookie", b"session=s3cr3t-geheim"),
        ("x-api-key", b"s3cr3t-geheim"),
        ("user-agent", b"bot token=s3cr3t-geheim"),
        ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", b"vendor=1,token=s3cr3t-geheim"),
    ]
    .into_iter()
    .collect();
    Request {
        id: "1",
        method: "POST",
        scheme: "https",
        host: "example.com",
        target: Target::from("/login;password=s3cr3t-geheim/x?token=s3cr3t-geheim&q=1"),
        protocol: "HTTP/1.1",
        headers,
        body: Body::Complete(br#"{"password":"s3cr3t-geheim"}"#),
        peer: Peer::Absent,
        route: None,
        tls: Tls::default(),
    }
}

fn fact(event: EventType, handler: &'static str, metadata: Vec<(&'static str, FactValue)>) -> Fact {
    let reason = format!("Invalid referrer: https://u:{SECRET}@h/?api_key={SECRET} \"password\": \"{SECRET}\"");
    Fact { event, action: "request_blocked".into(), check: Check::Referrer, reason, metadata, handler }
}

fn told(rules: &EventRules, facts: Vec<Fact>) -> Vec<Event> {
    let request = planted();
    let decision = Decision { facts: SmallVec::from_vec(facts), country: CountryCode::new("DE"), ..Decision::allow() };
    let took = Duration::from_millis(1500);
    let client = Client::Text("203.0.113.9");
    let happening = Happening { request: &request, decision: &decision, client, took, now: Timestamp(1e9) };
    rules.of(&happening).collect()
}

fn rules(json: &str) -> EventRules {
    EventRules::new(&serde_json::from_str(json).unwrap())
}

#[test]
fn nothing_secret_is_told() {
    let text = |text: &str| FactValue::Text(text.to_owned());
    let metadata = || {
        vec![
            ("referrer", text(&format!("https://a/?token={SECRET}&b=2"))),
            ("authorization", text(SECRET)),
            ("allowed_domains", FactValue::List(vec![format!("secret={SECRET}")])),
            ("trigger_info", text(&format!("<password>{SECRET}</password>"))),
        ]
    };
    let preview = |field: &str| {
        let metadata = vec![("field", text(field)), ("content_preview", text(SECRET)), ("pattern", text("SQL-01"))];
        fact(EventType::PatternDetected, "sus_patterns", metadata)
    };
    let facts = vec![
        fact(EventType::DecoratorViolation, "middleware", metadata()),
        fact(EventType::RateLimited, "rate_limit", metadata()),
        preview("password "),
        preview(" /user/password"),
        preview(" $.login.token[0]"),
    ];
    let events = told(&rules("{}"), facts);
    assert_eq!(events.len(), 5);
    for event in &events {
        let shown = format!("{event:?} {}", event.envelope(Style::Spaced));
        assert!(!shown.contains(SECRET), "{shown}");
        assert!(shown.contains("[REDACTED]"), "{shown}");
    }
    let shown = told(&rules("{}"), vec![preview("comment /comment")]);
    assert!(shown[0].envelope(Style::Spaced)["metadata"]["content_preview"] == SECRET, "names decide, not values");
}

#[test]
fn an_event_of_the_pipeline_tells_the_request() {
    let metadata = vec![("decorator_type", FactValue::Text("content_filtering".to_owned()))];
    let events = told(&rules("{}"), vec![fact(EventType::DecoratorViolation, "middleware", metadata)]);
    let envelope = events[0].envelope(Style::Spaced);
    for (name, expected) in [
        ("timestamp", Value::from("2001-09-09 01:46:40+00:00")),
        ("event_type", "decorator_violation".into()),
        ("ip_address", "203.0.113.9".into()),
        ("country", "DE".into()),
        ("user_agent", "bot token=[REDACTED]".into()),
        ("endpoint", "/login;password=[REDACTED]/x".into()),
        ("method", "POST".into()),
        ("response_time", 1.5.into()),
        ("decorator_type", "content_filtering".into()),
        ("handler_name", "middleware".into()),
    ] {
        assert_eq!(envelope[name], expected, "{name}");
    }
    assert_eq!(envelope["metadata"]["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let names: Vec<&str> = envelope.as_object().unwrap().keys().map(String::as_str).collect();
    let order = "idempotency_key timestamp event_type ip_address country user_agent action_taken reason endpoint method \
                 status_code response_time decorator_type rule_type pattern_matched handler_name metadata";
    assert_eq!(names, order.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn muted_types_are_not_told() {
    let rules = rules(r#"{"muted_event_types": ["rate_limited", "redis_connection"]}"#);
    let facts = [EventType::RateLimited, EventType::IpBlocked].map(|kind| fact(kind, "middleware", Vec::new()));
    let kinds: Vec<EventType> = told(&rules, facts.into()).iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventType::IpBlocked]);
    let bus = crate::telemetry::bus::Bus::default();
    let queue = Buffer::new(9, 1, Full::DropNewest, Default::default());
    drop(bus.replace(Arc::new(Outlets { rules, events: vec![queue.clone()], ..Outlets::default() })));
    bus.system(system::redis_connection(Timestamp(0.0), "redis://h", system::RedisChange::Closed));
    bus.system(system::script_reloaded(Timestamp(0.0)));
    let kinds: Vec<EventType> = queue.take(9).iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventType::RateLimitScriptReloaded]);
}

#[test]
fn metadata_is_bounded() {
    let many = (0..200).map(|_| ("key", FactValue::List(vec!["x".repeat(10_000); 200]))).collect();
    let events = told(&rules("{}"), vec![fact(EventType::IpBlocked, "ip_ban", many)]);
    assert_eq!(events[0].metadata.len(), METADATA_MAX);
    let FactValue::List(items) = &events[0].metadata[0].1 else { panic!("a list") };
    assert_eq!((items.len(), items[0].len()), (LIST_MAX, 2048));
}
