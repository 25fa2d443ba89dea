//! Everything that is sent: to a server that speaks the agent protocol, to webhooks, to hooks. The other side checks
//! each byte with guard-agent's own code (`tests/tools/receivers.py`).

use std::process::Command;

use serde_json::Value;

use crate::receivers::{Receivers, SECRET, events, metric};
use crate::stack::{Call, Stack, free_port, policy};

/// A request with a secret wherever a name says that there is one.
fn hostile(address: &str) -> Call {
    Call::get(&format!("/shop;password={SECRET}?token={SECRET}&q=1"))
        .header("authorization", &format!("Bearer {SECRET}"))
        .header("x-api-key", SECRET)
        .header("cookie", &format!("session={SECRET}"))
        .header("user-agent", &format!("evilbot password={SECRET}"))
        .from(address)
}

fn security(http: u16, more: &str) -> String {
    format!(
        "enable_agent: true\n\
         agent_api_key: corpus-agent-key\n\
         agent_endpoint: http://127.0.0.1:{http}/api/v1/\n\
         agent_project_id: proj-1\n\
         agent_payload_signing_secret: signing-secret\n\
         agent_flush_interval: 1\n\
         agent_backoff_factor: 0.05\n\
         enable_enrichment: true\n\
         otel_resource_attributes: {{deployment.environment: test}}\n\
         muted_event_types: [security_headers_applied]\n\
         blocked_user_agents: [evilbot]\n\
         rate_limit: 100000\n{more}"
    )
}

#[test]
fn what_happens_reaches_agent_webhook_and_hooks_and_nothing_secret_does() {
    let mut receivers = Receivers::start();
    let http = receivers.http;
    let hooks = format!(
        "on_block:\n  url: http://127.0.0.1:{http}/hook/block\n  secret: hook-secret\n  \
         message: \"{{'text': payload.check_name + ' ' + payload.client_ip}}\""
    );
    let webhook = format!(
        "telemetry:\n  log_events: INFO\n  webhook:\n    url: http://127.0.0.1:{http}/hook/events\n    \
         secret: hook-secret\n    linger_ms: 50\n"
    );
    let mut stack = Stack::start(&security(http, &hooks), &webhook);
    receivers.refuse("/api/v1/events", 503, 1);
    receivers.refuse("/hook/events", 500, 1);
    assert_eq!(stack.send(&hostile("203.0.113.5")).status, 403);
    let body = format!("{{\"password\": \"{SECRET}<script>alert(1)</script>\", \"token\": \"{SECRET}\"}}");
    let attack = Call::new("POST", "/login").body("application/json", body).from("203.0.113.6");
    assert_eq!(stack.send(&attack).status, 400);

    // The agent's server refused once and has it all the same.
    let event = receivers.wait_for_event("user_agent_blocked", "203.0.113.5");
    assert_eq!(event["action_taken"], "request_blocked");
    assert_eq!(event["endpoint"], "/shop;password=[REDACTED]");
    assert_eq!(event["user_agent"], "evilbot password=[REDACTED]");
    assert_eq!(event["metadata"]["guard.project_id"], "proj-1");
    assert_eq!(event["metadata"]["guard.deployment.environment"], "test");
    assert_eq!(event["metadata"]["guard.threat_score"], 30);
    let event = receivers.wait_for_event("pattern_detected", "203.0.113.6");
    assert_eq!(event["metadata"]["content_preview"], "[REDACTED]", "it stood under `password`");
    receivers.wait_for_event("penetration_attempt", "203.0.113.6");
    receivers.wait(|line| line["kind"] == "refused" && line["path"] == "/api/v1/events" && line["status"] == 503);

    // So has the webhook, signed.
    let has_it = |line: &Value| line["text"].as_str().is_some_and(|text| text.contains("user_agent_blocked"));
    let line = receivers.wait(|line| line["path"] == "/hook/events" && line["kind"] == "hook" && has_it(line));
    assert!(line["headers"]["x-guard-signature"].as_str().is_some_and(|text| text.starts_with("t=")), "{line}");
    let expected = r#"{"text":"user_agent 203.0.113.5"}"#;
    receivers.wait(|line| line["path"] == "/hook/block" && line["text"] == expected);

    // Numbers come with the next flush.
    let line = receivers.wait(|line| line["path"] == "/api/v1/metrics" && line["kind"] == "agent");
    assert!(line["body"]["metrics"].as_array().is_some_and(|metrics| !metrics.is_empty()));
    stack.guard.wait(|_| 1.0 <= metric(stack.admin, r#"envoy_guard_telemetry_delivered_total{sink="webhook"}"#));
    assert!(1.0 <= metric(stack.admin, r#"envoy_guard_telemetry_delivered_total{sink="agent_events"}"#));
    assert!(1.0 <= metric(stack.admin, r#"envoy_guard_telemetry_failures_total{sink="webhook"}"#));

    // A batch that is too large is halved until it fits.
    receivers.refuse("/api/v1/events", 413, 1);
    for last in 10..14 {
        assert_eq!(stack.send(&hostile(&format!("203.0.113.{last}"))).status, 403);
    }
    (10..14).for_each(|last| drop(receivers.wait_for_event("user_agent_blocked", &format!("203.0.113.{last}"))));

    // What operators do is told, too.
    let pattern = Call::new("POST", "/api/v1/patterns").body("application/json", r#"{"pattern": "shop-[0-9]{9}x"}"#);
    let ban = Call::new("PUT", "/api/v1/bans/203.0.113.77");
    let ban = ban.body("application/json", format!("{{\"seconds\": 600, \"reason\": \"token={SECRET}\"}}"));
    for call in [pattern, ban, Call::new("DELETE", "/api/v1/bans/203.0.113.77")] {
        assert_eq!(call.send(stack.admin).status, 200, "{call:?}");
    }
    let banned = receivers.wait_for_event("ip_banned", "203.0.113.77");
    assert_eq!((&banned["reason"], &banned["metadata"]["duration"]), (&"token=[REDACTED]".into(), &600.into()));
    receivers.wait_for_event("ip_unbanned", "203.0.113.77");
    let added = |event: &Value| event["event_type"] == "pattern_added" && event["metadata"]["total_patterns"] == 1;
    receivers.wait(|line| line["kind"] == "agent" && events(line).any(added));

    // What is still waiting is sent before the end.
    assert_eq!(stack.send(&hostile("203.0.113.99")).status, 403);
    stack.guard.signal("TERM");
    assert_eq!(stack.guard.exit(), Some(0));
    receivers.wait_for_event("user_agent_blocked", "203.0.113.99");

    for line in receivers.lines() {
        assert_ne!(line["kind"], "broken", "{line}");
        assert!(line["problems"].as_array().is_none_or(Vec::is_empty), "{line}");
    }
    let log = stack.guard.log();
    assert!(log.contains("user_agent_blocked"), "events are logged:\n{log}");
    for text in [log, receivers.process.log()] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[test]
fn a_sink_that_stands_still_costs_its_events_and_nobody_s_time() {
    let mut receivers = Receivers::start();
    let http = receivers.http;
    let key = "agent_project_encryption_key: BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";
    let webhook = format!(
        "telemetry:\n  webhook:\n    url: http://127.0.0.1:{http}/stall\n    queue: 5\n    batch: 2\n    linger_ms: 10\n"
    );
    let mut stack = Stack::start(&security(http, key), &webhook);
    for number in 0..50 {
        assert_eq!(stack.send(&hostile(&format!("203.0.113.{number}"))).status, 403);
    }
    let dropped = r#"envoy_guard_telemetry_dropped_total{sink="webhook"}"#;
    stack.guard.wait(|_| 40.0 <= metric(stack.admin, dropped));
    // The other sinks do not notice, and what they send is encrypted.
    receivers.wait_for_event("user_agent_blocked", "203.0.113.49");
    for line in receivers.lines() {
        assert_ne!(line["kind"], "broken", "{line}");
        assert!(line["problems"].as_array().is_none_or(Vec::is_empty), "{line}");
        assert!(line["kind"] != "agent" || line["path"] == "/api/v1/events/encrypted", "{line}");
    }
    // A new configuration turns the sinks off; a strict agent that cannot start keeps what there was.
    stack.restart_guard(|_, grpc, admin| policy("enable_agent: false", "", grpc, admin));
    assert_eq!(stack.send(&Call::get("/").from("203.0.113.200")).status, 200);
    let settings = security(http, "agent_project_encryption_key: short\nagent_strict: true\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guard.yaml");
    std::fs::write(&file, policy(&settings, "", free_port(), free_port())).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_envoy-guard")).args(["serve", "--config"]).arg(&file).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("agent_project_encryption_key"), "{output:?}");
}
