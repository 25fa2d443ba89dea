//! Exchanges through a real Envoy with ext_proc, alone and behind ext_authz: bodies in every mode, responses, refusals,
//! upgrades and gRPC.

mod clients;
mod fuzz;
mod h2;
mod memory;
mod modes;
mod routes;
mod shipped;
mod throttle;
mod wire;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::proc::modes::{TRAILERS, Way, with_ways};
use crate::stack::{Answer, Call, Stack, policy};

const JSON: &str = "application/json";
const XSS: &str = r#"{"text": "<img src=x onerror=alert(document.cookie)>"}"#;
const SQLI: &str = "/items?id=1%27%20UNION%20SELECT%20login,password%20FROM%20users--";

const SECURITY: &str = "rate_limit: 100000\nauto_ban_threshold: 100000\nenable_cors: true\n\
    cors_allow_origins: [\"https://app.example.com\"]\n\
    custom_response_modifier:\n  - remove: [x-powered-by]\n  \
    - { when: \"response.status == 404\", set: { x-lost: \"yes\" } }";

fn start(edit: impl Fn(String) -> String) -> Stack {
    Stack::of("ext_proc.yaml", &policy(SECURITY, ADMIN, 0, 0), edit)
}

const ADMIN: &str = "routes:\n  - name: admin\n    required_headers: { x-operator: required }\n";

/// A POST by a client of its own.
fn post(path: &str, body: &[u8]) -> Call {
    Call::new("POST", path).from("198.51.100.9").body(JSON, body)
}

/// All modes of both directions, once as they are and once with the guard's own choice of what it needs.
#[test]
fn bodies_are_inspected_in_every_mode() {
    for overridable in [true, false] {
        let stack = start(|text| {
            with_ways(&text, &[]).replace("allow_mode_override: true", &format!("allow_mode_override: {overridable}"))
        });
        for way in Way::all().filter(|way| way.trailers == TRAILERS[0]) {
            bodies_of(&stack, &way.path("a"), way.inspects());
        }
    }
}

#[track_caller]
fn bodies_of(stack: &Stack, path: &str, inspects: bool) {
    let passed = |answer: &Answer, bytes: usize| {
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.body.ends_with(&format!("body-bytes: {bytes}\n")), "{path}: {answer:?}");
        assert_eq!(answer.header("x-frame-options"), Some("SAMEORIGIN"), "{path}");
    };
    passed(&stack.send(&Call::get(path).from("198.51.100.9")), 0);
    passed(&stack.send(&post(path, br#"{"a": "fine"}"#)), 13);
    let large = vec![b'x'; 300_000];
    passed(&stack.send(&Call::new("POST", path).from("198.51.100.9").body("text/plain", large)), 300_000);
    let seen = stack.application.seen();
    let (first, second) = XSS.as_bytes().split_at(25);
    let hostile =
        [post(path, XSS.as_bytes()), Call::new("POST", path).from("198.51.100.9").chunks(JSON, &[first, second])];
    for call in hostile {
        let answer = stack.send(&call);
        if inspects {
            assert_eq!((answer.status, answer.body.as_str()), (400, "Suspicious activity detected"), "{path}");
        } else {
            passed(&answer, XSS.len());
        }
    }
    if inspects {
        assert_eq!(stack.application.seen(), seen, "{path}: no hostile body arrived whole");
    }
}

#[test]
fn responses_are_dressed_and_undressed() {
    let stack = start(|text| text);
    let get = |path: &str| Call::get(path).from("198.51.100.1").header("origin", "https://app.example.com");
    let answer = stack.send(&get("/leak"));
    assert_eq!(answer.header("x-powered-by"), None, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(answer.header("x-frame-options"), Some("SAMEORIGIN"));
    let vary: Vec<&str> =
        answer.headers.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.as_str()).collect();
    assert_eq!(vary.join(",").replace(' ', ""), "Accept,Origin", "what the upstream says stays");
    assert_eq!(answer.header("x-lost"), None);
    assert_eq!(stack.send(&get("/status/404")).header("x-lost"), Some("yes"), "a condition over the real response");
    let preflight = Call::new("OPTIONS", "/a")
        .from("198.51.100.1")
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "PUT");
    let answer = stack.send(&preflight);
    assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
}

#[test]
fn refusals_say_why() {
    let security = "rate_limit: 1000\nendpoint_rate_limits: { /limited: [1, 30] }\nthreat_ban_config: { xss: { threshold: 2, duration: 60 } }";
    let mut stack = Stack::of("ext_proc.yaml", &policy(security, ADMIN, 0, 0), |text| text);
    let get = |path: &str| Call::get(path).from("198.51.100.7");
    for (call, status, body) in [
        (get("/limited"), 200, "GET /limited"),
        (get("/limited"), 429, "Too many requests"),
        (get(SQLI), 400, "Suspicious activity detected"),
        // The route is named by Envoy, in the metadata of the call.
        (get("/admin"), 400, "Missing required header: x-operator"),
        (get("/admin").header("x-operator", "me"), 200, "GET /admin"),
        (Call::new("POST", "/c").from("198.51.100.7").body(JSON, XSS), 400, "Suspicious activity detected"),
        (Call::new("POST", "/c").from("198.51.100.7").body(JSON, XSS), 403, "IP has been banned"),
        (get("/"), 403, "IP address banned"),
    ] {
        let answer = stack.send(&call);
        assert_eq!(answer.status, status, "{call:?}: {answer:?}");
        assert!(answer.body.starts_with(body), "{call:?}: {answer:?}");
        if status == 429 {
            assert_eq!(answer.header("retry-after"), Some("30"));
        }
    }
    let limited = stack.access_log(1);
    assert_eq!(limited["details"], "envoy_guard_deny_rate_limit", "{limited}");
    assert_eq!((&limited["guard"]["decision"], &limited["guard"]["check"]), (&"deny".into(), &"rate_limit".into()));
    let page = Call::get("/metrics").send(stack.admin).body;
    for series in [
        "envoy_guard_streams_total{end=\"refused\"} 6",
        "envoy_guard_streams_total{end=\"answered\"} 2",
        "envoy_guard_decisions_total{check=\"rate_limit\",verdict=\"deny\"} 1",
        "envoy_guard_decisions_total{check=\"suspicious_activity\",verdict=\"deny\"} 3",
    ] {
        assert!(page.contains(series), "{series}\n{page}");
    }
}

#[test]
fn upgrades_and_grpc_pass_in_every_mode() {
    let health = |text: String| {
        let route = |request: &str, host: &str| {
            format!(
                r#"
                        - match: {{ prefix: "/grpc.health.v1.Health/", headers: [{{ name: x-mode, string_match: {{ exact: {host} }} }}] }}
                          route: {{ cluster: envoy-guard }}
                          typed_per_filter_config:
                            envoy.filters.http.ext_proc:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                              overrides:
                                processing_mode:
                                  request_header_mode: SEND
                                  response_header_mode: SEND
                                  request_body_mode: {request}
                                  response_body_mode: {request}
                                  request_trailer_mode: SEND
                                  response_trailer_mode: SEND"#
            )
        };
        let routes = route("STREAMED", "streamed") + &route("FULL_DUPLEX_STREAMED", "duplex");
        with_ways(&text, &[])
            .replace("                      routes:", &format!("                      routes:{routes}"))
    };
    let stack = start(health);
    for way in Way::all().filter(|way| way.trailers == TRAILERS[0] && way.streams_responses()) {
        assert_eq!(websocket(stack.port, &way.path("ws")), "ping", "{way:?}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(grpc(&stack));
}

/// Opens a WebSocket, as far as Envoy is concerned, and sends four bytes to the echo behind it.
fn websocket(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 198.51.100.3\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{path}: {error}: {}", String::from_utf8_lossy(&head)));
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{path}: {}", String::from_utf8_lossy(&head));
    stream.write_all(b"ping").unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).unwrap();
    String::from_utf8_lossy(&echo).into_owned()
}

/// A real gRPC client over HTTP/2: unary calls, a stream of answers, and a refusal it understands.
async fn grpc(stack: &Stack) {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", stack.port)).unwrap().connect().await.unwrap();
    for mode in ["streamed", "duplex"] {
        let mut client = HealthClient::with_interceptor(channel.clone(), move |mut call: tonic::Request<()>| {
            call.metadata_mut().insert("x-mode", MetadataValue::from_static(mode));
            call.metadata_mut().insert("x-forwarded-for", MetadataValue::from_static("198.51.100.4"));
            Ok(call)
        });
        let question = |service: &str| HealthCheckRequest { service: service.to_owned() };
        let answer = client.check(question("")).await.unwrap_or_else(|status| panic!("{mode}: {status:?}"));
        assert_eq!(answer.into_inner().status, 1, "{mode}");
        let mut watched = client.watch(question("")).await.unwrap().into_inner();
        assert_eq!(
            watched.message().await.unwrap().unwrap().status,
            1,
            "{mode}: the first answer of a stream that goes on"
        );
        let refused = client.check(question("<img src=x onerror=alert(document.cookie)>")).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{mode}: {refused:?}");
        assert_eq!(refused.message(), "Suspicious activity detected", "{mode}");
    }
}

#[test]
fn both_filters_make_one_decision() {
    let security = "rate_limit: 3\nauto_ban_threshold: 100000\ncustom_response_modifier: [{ add: { x-added: one }, remove: [x-powered-by] }]";
    let mut stack = Stack::of("both.yaml", &policy(security, ADMIN, 0, 0), |text| text);
    let get = |path: &str| Call::get(path).from("198.51.100.7");
    let answer = stack.send(&get("/leak"));
    assert_eq!((answer.status, answer.header("x-powered-by")), (200, None), "{answer:?}");
    for name in ["x-frame-options", "x-added"] {
        assert_eq!(answer.headers.iter().filter(|(known, _)| known == name).count(), 1, "{name}: {answer:?}");
    }
    assert_eq!(stack.send(&get("/2")).status, 200);
    assert_eq!(stack.send(&get("/3")).status, 200, "each request counts once");
    let limited = stack.send(&get("/4"));
    let dressed = limited.headers.iter().filter(|(name, _)| name == "x-frame-options").count();
    assert_eq!((limited.status, dressed), (429, 1), "ext_proc leaves the answer alone: {limited:?}");
    let hostile = stack.send(&Call::new("POST", "/c").from("198.51.100.8").body(JSON, XSS));
    assert_eq!((hostile.status, hostile.body.as_str()), (400, "Suspicious activity detected"));
    assert_eq!(stack.send(&Call::get("/admin").from("198.51.100.8")).status, 400, "the route is ext_authz's");
    let refused = stack.access_log(3);
    assert_eq!(refused["details"], "ext_authz_denied", "{refused}");
    let found = stack.access_log(4);
    assert_eq!(found["details"], "envoy_guard_deny_suspicious_activity", "{found}");
    assert_eq!((&found["guard"]["decision"], &found["body"]["decision"]), (&"allow".into(), &"deny".into()), "{found}");
    assert_eq!(found["body"]["client"], "198.51.100.8", "the identity is carried on");
    let page = Call::get("/metrics").send(stack.admin).body;
    assert!(page.contains("envoy_guard_decisions_total{check=\"none\",verdict=\"allow\"} 4\n"), "{page}");
}

#[test]
fn a_dead_or_stuck_service_is_an_outage_and_never_an_entry() {
    let mut stack = start(|text| text);
    stack.guard.signal("STOP");
    let stuck = stack.send(&post("/a", b"{}"));
    stack.guard.signal("CONT");
    // Envoy names a late answer itself, whatever status_on_error says.
    assert_eq!(stuck.status, 504, "{stuck:?}");
    stack.guard.signal("KILL");
    stack.guard.exit();
    for call in [Call::get("/").from("198.51.100.1"), post("/a", b"{}")] {
        assert_eq!(stack.send(&call).status, 503);
    }
    assert_eq!(stack.application.seen(), 0);
}
