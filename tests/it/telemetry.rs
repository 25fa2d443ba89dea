//! Everything that is sent: to a server that speaks the agent protocol, to webhooks, to hooks. The other side checks
//! each byte with guard-agent's own code (`tests/tools/receivers.py`).

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::stack::{Call, Process, Stack, free_port, policy};

/// A text that must never leave the service.
const SECRET: &str = "geheim7";

/// The other side of every sink.
pub(crate) struct Receivers {
    process: Process,
    pub(crate) http: u16,
    _folder: tempfile::TempDir,
}

impl Receivers {
    pub(crate) fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".cache/venv/bin/python");
        assert!(python.exists(), "no Python at {}: run `make deps` first", python.display());
        let (http, grpc, folder) = (free_port(), free_port(), tempfile::tempdir().unwrap());
        let mut command = Command::new(python);
        command.arg(root.join("tests/tools/receivers.py")).args([http.to_string(), grpc.to_string()]);
        let mut process = Process::start("receivers", folder.path(), &mut command);
        process.wait(|_| Call::get("/").try_send(http).is_ok_and(|answer| answer.status == 200));
        Self { process, http, _folder: folder }
    }

    /// Makes the next `times` answers of `path` something else than a success.
    fn refuse(&self, path: &str, status: u16, times: u32) {
        let asked = Call::get(&format!("/answer?path={path}&status={status}&times={times}")).send(self.http);
        assert_eq!(asked.status, 200);
    }

    /// Everything that came so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a line satisfies `is_it`, and returns it.
    #[track_caller]
    fn wait(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        self.process.wait(|process| {
            let lines = process.log();
            let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            found = lines.find(|line| is_it(line));
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until the agent's server has an event of this type about this address.
    #[track_caller]
    fn wait_for_event(&mut self, kind: &str, address: &str) -> Value {
        let is_it = |event: &Value| event["event_type"] == kind && event["ip_address"] == address;
        let line = self.wait(|line| line["kind"] == "agent" && events(line).any(is_it));
        events(&line).find(|event| is_it(event)).unwrap().clone()
    }
}

fn events(line: &Value) -> impl Iterator<Item = &Value> {
    line["body"]["events"].as_array().into_iter().flatten()
}

/// A number of the metrics page.
fn metric(admin: u16, series: &str) -> f64 {
    let page = Call::get("/metrics").send(admin).body;
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
}

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

#[test]
fn spans_numbers_and_events_reach_an_otlp_receiver_under_the_caller_s_trace() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut receivers = Receivers::start();
    for (protocol, port) in [("http", receivers.http), ("grpc", receivers.grpc)] {
        let security = format!(
            "enable_otel: true\notel_service_name: shop\notel_exporter_endpoint: http://127.0.0.1:{port}\n\
             otel_resource_attributes: {{deployment.environment: test}}\nblocked_user_agents: [evilbot]\n\
             muted_event_types: [security_headers_applied]\n"
        );
        let rest = format!(
            "telemetry:\n  otel:\n    protocol: {protocol}\n    interval: 1\n    sampling: 0\n    \
             headers: {{x-vendor-key: vendor}}\n"
        );
        let mut stack = Stack::start(&security, &rest);
        let (sampled, unsampled) =
            (format!("00-{TRACE}-00f067aa0ba902b7-01"), format!("00-{TRACE}-00f067aa0ba902b8-00"));
        // Kept by the caller; kept because it is refused; kept by nobody.
        let calls = [("1", "203.0.113.1", "curl", &sampled), ("2", "203.0.113.2", "evilbot", &unsampled)];
        for (_, address, agent, parent) in calls {
            let call = Call::get(&format!("/a?token={SECRET}"))
                .header("traceparent", parent)
                .header("user-agent", agent)
                .from(address);
            assert_eq!(stack.send(&call).status, if agent == "evilbot" { 403 } else { 200 });
        }
        assert_eq!(stack.send(&Call::get("/").header("traceparent", &unsampled).from("203.0.113.3")).status, 200);
        stack.guard.signal("TERM");
        assert_eq!(stack.guard.exit(), Some(0));

        let mine = |line: &Value, kind: &str| {
            line["kind"] == kind
                && line["metadata"]["content-type"]
                    .as_str()
                    .is_some_and(|text| text.contains(protocol) || (protocol == "http" && text.contains("x-protobuf")))
        };
        receivers.wait(|line| mine(line, "traces"));
        receivers.wait(|line| mine(line, "metrics"));
        let logs = receivers.wait(|line| mine(line, "logs"));
        assert_eq!(logs["metadata"]["x-vendor-key"], "vendor");
        let spans: Vec<Value> = receivers
            .lines()
            .iter()
            .filter(|line| mine(line, "traces"))
            .flat_map(|line| line["body"]["resource_spans"][0]["scope_spans"][0]["spans"].as_array().unwrap().clone())
            .collect();
        let attribute = |span: &Value, name: &str| {
            let pairs = span["attributes"].as_array().unwrap().clone();
            pairs.into_iter().find(|pair| pair["key"] == name).map_or(Value::Null, |pair| pair["value"].clone())
        };
        let mut seen: Vec<(String, String)> = spans
            .iter()
            .map(|span| {
                let text = |value: Value| value["string_value"].as_str().unwrap_or_default().to_owned();
                (text(attribute(span, "client.address")), text(attribute(span, "guard.verdict")))
            })
            .collect();
        seen.sort();
        let expected = [("203.0.113.1", "allow"), ("203.0.113.2", "deny")];
        assert_eq!(seen, expected.map(|(address, verdict)| (address.to_owned(), verdict.to_owned())), "{spans:?}");
        // Identifiers are base64 in protobuf's JSON.
        for span in &spans {
            assert_eq!(span["trace_id"], "S/kvNXezTaajzpKdDg5HNg==");
            let parent = span["parent_span_id"].as_str().unwrap();
            assert!(["APBnqgupArc=", "APBnqgupArg="].contains(&parent), "{span}");
        }
        let record = &logs["body"]["resource_logs"][0]["scope_logs"][0]["log_records"][0];
        assert_eq!(record["trace_id"], "S/kvNXezTaajzpKdDg5HNg==", "{record}");
        let names: Vec<Value> = receivers
            .lines()
            .iter()
            .filter(|line| mine(line, "metrics"))
            .flat_map(|line| {
                line["body"]["resource_metrics"][0]["scope_metrics"][0]["metrics"].as_array().unwrap().clone()
            })
            .map(|metric| metric["name"].clone())
            .collect();
        for name in ["envoy_guard.decisions", "envoy_guard.decision_seconds", "envoy_guard.policy_version"] {
            assert!(names.contains(&Value::from(name)), "{name}: {names:?}");
        }
    }
    assert!(!receivers.process.log().contains(SECRET));
}
