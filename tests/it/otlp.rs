//! OpenTelemetry, against a receiver made of the protocol's own messages: what it sees, and what happens when it is slow,
//! refuses, or is gone.

use serde_json::Value;

use crate::receivers::{Receivers, SECRET, metric};
use crate::stack::{Call, Stack, free_port, policy};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The same in base64, as protobuf's JSON has it.
const TRACE_BASE64: &str = "S/kvNXezTaajzpKdDg5HNg==";

fn security(endpoint: &str) -> String {
    format!(
        "enable_otel: true\notel_service_name: shop\notel_exporter_endpoint: {endpoint}\n\
         otel_resource_attributes: {{deployment.environment: test}}\nblocked_user_agents: [evilbot]\n\
         muted_event_types: [security_headers_applied]\nrate_limit: 100000\n"
    )
}

/// The value of an attribute, whatever its kind; null when it is not there.
fn attribute(holder: &Value, name: &str) -> Value {
    let pairs = holder["attributes"].as_array().cloned().unwrap_or_default();
    let value = pairs.into_iter().find(|pair| pair["key"] == name).map(|pair| pair["value"].clone());
    value.and_then(|value| value.as_object()?.values().next().cloned()).unwrap_or_default()
}

/// Everything of a kind that came from a service of this name.
fn received(receivers: &Receivers, kind: &str, service: &str) -> Vec<Value> {
    let (resources, scopes, items) = match kind {
        "traces" => ("resource_spans", "scope_spans", "spans"),
        "metrics" => ("resource_metrics", "scope_metrics", "metrics"),
        _ => ("resource_logs", "scope_logs", "log_records"),
    };
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let lines = receivers.lines();
    let messages = lines.iter().filter(|line| line["kind"] == kind).flat_map(|line| list(&line["body"], resources));
    let mine = messages.filter(|message| attribute(&message["resource"], "service.name") == service);
    mine.flat_map(|message| list(&message, scopes)).flat_map(|scope| list(&scope, items)).collect()
}

#[test]
fn spans_numbers_and_events_reach_a_receiver_under_the_caller_s_trace() {
    let mut receivers = Receivers::start();
    let ca = receivers.authority.path("ca.pem");
    let (http, grpc, tls) = (receivers.http, receivers.grpc, receivers.grpc_tls);
    let ways = [
        ("http", format!("http://127.0.0.1:{http}")),
        ("grpc", format!("http://127.0.0.1:{grpc}")),
        ("tls", format!("https://localhost:{tls}")),
    ];
    let mut stack = Stack::start("", "");
    for (service, endpoint) in ways {
        let security = security(&endpoint).replace("shop", service);
        let protocol = if service == "http" { "http" } else { "grpc" };
        let rest = format!(
            "outbound: {{ca_file: '{}'}}\ntelemetry:\n  otel:\n    protocol: {protocol}\n    interval: 1\n    sampling: 0\n    \
             headers: {{x-vendor-key: {service}-key}}\n",
            ca.display()
        );
        stack.restart_guard(|_, grpc, admin| policy(&security, &rest, grpc, admin));
        let sampled = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let unsampled = format!("00-{TRACE}-00f067aa0ba902b8-00");
        // Kept by the caller; kept because it is refused; kept by nobody.
        let calls = [("203.0.113.1", "curl", &sampled, 200), ("203.0.113.2", "evilbot", &unsampled, 403)];
        for (address, agent, parent, status) in calls {
            let call = Call::get(&format!("/a?token={SECRET}"))
                .header("traceparent", parent)
                .header("tracestate", "vendor=1")
                .header("user-agent", &format!("{agent} password={SECRET}"))
                .header("host", "shop.example:8080")
                .from(address);
            assert_eq!(stack.send(&call).status, status);
        }
        assert_eq!(stack.send(&Call::get("/").header("traceparent", &unsampled).from("203.0.113.3")).status, 200);
        assert_eq!(stack.send(&Call::get("/").from("203.0.113.4")).status, 200);
        stack.guard.signal("TERM");
        assert_eq!(stack.guard.exit(), Some(0));
        receivers
            .wait(|line| line["kind"] == "metrics" && line["metadata"]["x-vendor-key"] == format!("{service}-key"));

        let mut spans = received(&receivers, "traces", service);
        spans.sort_by_key(|span| attribute(span, "client.address").to_string());
        let seen: Vec<Value> = spans.iter().map(|span| attribute(span, "client.address")).collect();
        assert_eq!(seen, ["203.0.113.1", "203.0.113.2"], "{service}");
        let [allowed, refused] = <[Value; 2]>::try_from(spans).unwrap();
        for (span, parent, flags) in [(&allowed, "APBnqgupArc=", 0x301), (&refused, "APBnqgupArg=", 0x300)] {
            assert_eq!(span["trace_id"], TRACE_BASE64, "{span}");
            assert_eq!((&span["parent_span_id"], &span["trace_state"]), (&parent.into(), &"vendor=1".into()), "{span}");
            assert_eq!(
                (&span["name"], &span["kind"]),
                (&"guard.decision".into(), &"SPAN_KIND_SERVER".into()),
                "{span}"
            );
            assert_eq!(span["flags"], flags, "{span}");
            let nanos = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
            assert!(nanos("start_time_unix_nano") < nanos("end_time_unix_nano"), "{span}");
            for (name, expected) in [
                ("http.request.method", "GET"),
                ("url.path", "/a"),
                ("server.address", "shop.example"),
                ("url.scheme", "http"),
            ] {
                assert_eq!(attribute(span, name), expected, "{name} of {span}");
            }
            assert_eq!(attribute(span, "server.port"), "8080", "{span}");
        }
        assert_eq!(attribute(&allowed, "guard.verdict"), "allow");
        assert_eq!(attribute(&allowed, "http.response.status_code"), Value::Null, "the application answers");
        for (name, expected) in [
            ("guard.verdict", "deny"),
            ("guard.check", "user_agent"),
            ("guard.event_type", "user_agent_blocked"),
            ("user_agent.original", "evilbot password=[REDACTED]"),
            ("http.response.status_code", "403"),
        ] {
            assert_eq!(attribute(&refused, name), expected, "{name} of {refused}");
        }

        let records = received(&receivers, "logs", service);
        let record = records.iter().find(|record| attribute(record, "guard.ip_address") == "203.0.113.2").unwrap();
        assert_eq!((&record["trace_id"], &record["span_id"]), (&refused["trace_id"], &refused["span_id"]), "{record}");
        assert_eq!(record["event_name"], "guard.event.user_agent_blocked", "{record}");
        let lines = receivers.lines();
        let message = lines.iter().find(|line| line["metadata"]["x-vendor-key"] == format!("{service}-key")).unwrap();
        let kinds = ["resource_spans", "resource_metrics", "resource_logs"];
        let resource = kinds.iter().map(|kind| &message["body"][kind][0]["resource"]).find(|found| found.is_object());
        assert_eq!(attribute(resource.unwrap(), "deployment.environment"), "test");

        let numbers = received(&receivers, "metrics", service);
        let last = |name: &str| numbers.iter().rfind(|metric| metric["name"] == name).unwrap();
        let decisions = &last("envoy_guard.decisions")["sum"];
        assert_eq!(
            (&decisions["is_monotonic"], decisions["aggregation_temporality"].as_str()),
            (&true.into(), Some("AGGREGATION_TEMPORALITY_CUMULATIVE"))
        );
        let points = decisions["data_points"].as_array().unwrap();
        let denied = points.iter().find(|point| attribute(point, "verdict") == "deny").unwrap();
        assert_eq!((&attribute(denied, "check"), &denied["as_int"]), (&"user_agent".into(), &"1".into()));
        let latency = &last("envoy_guard.decision_seconds")["histogram"]["data_points"][0];
        let buckets = latency["bucket_counts"].as_array().unwrap();
        assert_eq!(buckets.len(), latency["explicit_bounds"].as_array().unwrap().len() + 1, "{latency}");
        let sum: u64 = buckets.iter().map(|count| count.as_str().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(latency["count"], sum.to_string(), "{latency}");
        assert!(last("envoy_guard.policy_version")["gauge"]["data_points"][0]["as_int"].is_string());
    }
    let told = receivers.process.log();
    assert!(!told.contains(SECRET) && !told.contains("\"broken\""), "{told}");
}

#[test]
fn a_receiver_that_refuses_is_slow_or_gone_costs_what_it_says_and_no_request() {
    let mut receivers = Receivers::start();
    let (http, grpc) = (receivers.http, receivers.grpc);
    let count =
        |admin: u16, what: &str| metric(admin, &format!("envoy_guard_telemetry_{what}_total{{sink=\"otel_traces\"}}"));
    let mut stack = Stack::start("", "");
    let start = |stack: &mut Stack, endpoint: String, protocol: &str, queue: u32| {
        let rest = format!(
            "telemetry:\n  otel: {{protocol: {protocol}, logs: false, metrics: false, queue: {queue}, timeout: 1}}\n"
        );
        stack.restart_guard(|_, grpc, admin| policy(&security(&endpoint), &rest, grpc, admin));
    };
    let send = |stack: &Stack, count: u32| {
        for number in 0..count {
            assert_eq!(stack.send(&Call::get("/").from(&format!("203.0.113.{number}"))).status, 200);
        }
    };

    for (protocol, endpoint, path, later, never) in [
        ("http", format!("http://127.0.0.1:{http}"), "/v1/traces", 503, 400),
        ("grpc", format!("http://127.0.0.1:{grpc}"), "grpc/traces", 14, 3),
    ] {
        start(&mut stack, endpoint, protocol, 100);
        // What asks Envoy whether the service is there has spans, too.
        let admin = stack.admin;
        stack.guard.wait(|_| {
            0.0 < count(admin, "delivered")
                && metric(admin, "envoy_guard_telemetry_waiting{sink=\"otel_traces\"}") == 0.0
        });
        let (before, lost) = (count(admin, "delivered"), count(admin, "dropped"));
        receivers.refuse(path, later, 1);
        send(&stack, 3);
        stack.guard.wait(|_| before + 3.0 <= count(admin, "delivered"));
        assert_eq!(count(admin, "dropped"), lost, "what is refused for now arrives later");
        assert_eq!(count(admin, "failures"), 1.0);
        receivers.refuse(path, never, 1);
        send(&stack, 1);
        stack.guard.wait(|_| lost + 1.0 <= count(admin, "dropped"));
        assert_eq!(count(admin, "delivered"), before + 3.0, "what is refused for good is lost");
        receivers.reject(path, 1);
        send(&stack, 1);
        stack.guard.wait(|_| lost + 2.0 <= count(admin, "dropped"));
        receivers.wait(|line| line["kind"] == "refused" && line["path"] == path && line["status"] == never);
        stack.guard.wait(|guard| guard.log().contains("too old"));
    }

    // Standing still, and nobody there: the queue is full, and that is all.
    for endpoint in [format!("http://127.0.0.1:{http}/stall"), format!("http://127.0.0.1:{}", free_port())] {
        start(&mut stack, endpoint, "http", 5);
        send(&stack, 40);
        let admin = stack.admin;
        stack.guard.wait(|_| 30.0 <= count(admin, "dropped") && 1.0 <= count(admin, "failures"));
        assert_eq!(count(admin, "delivered"), 0.0);
        let waiting = metric(admin, "envoy_guard_telemetry_waiting{sink=\"otel_traces\"}");
        assert!(waiting <= 5.0, "{waiting}");
        stack.guard.signal("TERM");
        assert_eq!(stack.guard.exit(), Some(0), "it does not hold up the end");
    }
}
