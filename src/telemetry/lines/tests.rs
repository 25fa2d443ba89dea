use std::io::Write;
use std::sync::{Arc, Mutex};

use smallvec::SmallVec;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::model::category::Category;
use crate::model::decision::{Denial, DetectionSummary, OnBlock};
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Target, Tls};

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn request() -> Request<'static> {
    Request {
        id: "77",
        method: "GET",
        scheme: "http",
        host: "example.com",
        target: Target::from("/a?token=geheim&q=1"),
        protocol: "HTTP/1.1",
        headers: [("cookie", &b"a=geheim"[..]), ("accept", b"*/*")].into_iter().collect::<Headers<'_>>(),
        body: Body::Complete(b"geheim"),
        peer: Peer::Absent,
        route: None,
        tls: Tls::default(),
    }
}

fn lines(toml: &str) -> Lines {
    let security = serde_json::from_str(toml).unwrap();
    Lines::new(&Config { security, ..Config::default() })
}

/// The JSON line that a decision leaves behind.
fn written(level: LogLevel, outcome: Outcome, decision: &Decision<'_>, origin: Option<Origin>) -> serde_json::Value {
    let memory = Memory::default();
    let sink = memory.clone();
    let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(move || sink.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let client = Client::Text("nobody");
        let request = request();
        let subject = Subject { request: &request, decision, client, outcome, origin, us: 12 };
        lines("{}").write(level, &subject);
    });
    let bytes = memory.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.lines().count(), 1, "one decision, one line: {text}");
    assert!(!text.contains("geheim"), "secrets stay out: {text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_refusal_says_who_what_and_why() {
    let origin = Origin::Check(Check::SuspiciousActivity);
    let denial = Denial { origin, status: 400, body: "no".into(), content_type: None, headers: SmallVec::new() };
    let block = OnBlock {
        check_name: "suspicious_activity",
        reason: "Suspicious activity detected for IP: nobody - a\nb\u{1b}[31m".to_owned(),
        trigger_info: String::new(),
        passive_mode: false,
        status_code: Some(400),
    };
    let detection =
        DetectionSummary { categories: vec![Category::SQLI, Category::XSS], score: 0.5, ..Default::default() };
    let decision = Decision {
        verdict: Verdict::Deny(denial),
        blocks: SmallVec::from_iter([block]),
        detection: Some(Box::new(detection)),
        route: Some("shop"),
        ..Decision::allow()
    };
    let line = written(LogLevel::Critical, Outcome::Deny, &decision, Some(origin));
    for (key, expected) in [
        ("level", "ERROR"),
        ("severity", "CRITICAL"),
        ("target", "decision"),
        ("verdict", "deny"),
        ("check", "suspicious_activity"),
        ("client", "nobody"),
        ("method", "GET"),
        ("host", "example.com"),
        ("path", "/a?token=[REDACTED]&q=1"),
        ("route", "shop"),
        ("request_id", "77"),
        ("categories", "sqli,xss"),
        ("message", "Suspicious activity detected for IP: nobody - a\\nb\\u{1b}[31m"),
    ] {
        assert_eq!(line[key], expected, "{key}: {line}");
    }
    assert_eq!((&line["status"], &line["score"], &line["us"]), (&400.into(), &0.5.into(), &12.into()));
}

#[test]
fn a_request_line_shows_the_headers() {
    let line = written(LogLevel::Info, Outcome::Allow, &Decision::allow(), None);
    assert_eq!(line["headers"], "cookie: [REDACTED]; accept: */*");
    assert_eq!(line["message"], "request");
    assert_eq!(line.get("severity"), None);
}

#[test]
fn levels_and_mutes_are_the_configurations() {
    let check = Some(Origin::Check(Check::UserAgent));
    let all = r#"{"log_request_level": "INFO", "log_suspicious_level": "ERROR"}"#;
    for (name, config, outcome, origin, expected) in [
        ("allowed requests are silent by default", "{}", Outcome::Allow, None, None),
        ("refusals warn by default", "{}", Outcome::Deny, check, Some(LogLevel::Warning)),
        ("so do reports", "{}", Outcome::Report, check, Some(LogLevel::Warning)),
        ("and failures", "{}", Outcome::Fail, None, Some(LogLevel::Warning)),
        ("requests at their level", all, Outcome::Allow, None, Some(LogLevel::Info)),
        ("refusals at theirs", all, Outcome::Deny, check, Some(LogLevel::Error)),
        ("a preflight answer is a request", all, Outcome::Deny, Some(Origin::CorsPreflight), Some(LogLevel::Info)),
        ("null silences", r#"{"log_suspicious_level": null}"#, Outcome::Deny, check, None),
        ("a muted check is silent", r#"{"muted_check_logs": ["user_agent"]}"#, Outcome::Deny, check, None),
        ("others are not", r#"{"muted_check_logs": ["referrer"]}"#, Outcome::Deny, check, Some(LogLevel::Warning)),
        (
            "request lines can be muted",
            r#"{"muted_check_logs": ["request_logging"], "log_request_level": "INFO"}"#,
            Outcome::Allow,
            None,
            None,
        ),
    ] {
        assert_eq!(lines(config).level(outcome, origin), expected, "{name}");
    }
}
