//! Journeys through a real Envoy with the files we ship: what each denial looks like, and the traps of `ext_authz`.

use crate::stack::{Call, Stack};

const SQLI: &str = "/items?id=1%27%20UNION%20SELECT%20login,password%20FROM%20users--";
const XSS: &str = r#"{"text": "<img src=x onerror=alert(document.cookie)>"}"#;

/// One refusal of each check that a policy can be given in one file.
const EVERY_CHECK: &str = r#"
blacklist: ["192.0.2.66"]
blocked_user_agents: ["badbot"]
rate_limit: 1000
endpoint_rate_limits: { /limited: [1, 30] }
block_cloud_providers: [AWS]
enable_cors: true
cors_allow_origins: ["https://app.example.com"]
custom_request_check: 'request.path == "/custom" ? {"status": 418, "body": "teapot"} : null'
threat_ban_config: { sqli: { threshold: 2, duration: 60 } }
"#;

const ROUTES: &str = r#"
data:
  cloud_ranges: CLOUD
routes:
  - name: upload
    match: [{ path: /upload }]
    max_request_size: 10
    allowed_content_types: [application/json]
  - name: keyed
    match: [{ path: /keyed }]
    required_headers: { x-tenant: required }
  - name: secret
    match: [{ path: /secret }]
    auth_required: bearer
    auth_verifier: { hashes: { "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b": reader } }
  - name: linked
    match: [{ path: /linked }]
    require_referrer: [example.com]
  - name: ruled
    match: [{ path: /ruled }]
    custom_validators: ['request.method == "DELETE"']
  - name: closed
    match: [{ path: /closed }]
    time_restrictions: { start: "00:00", end: "00:00", timezone: NOWHERE }
  - name: tls
    match: [{ path: /tls }]
    require_https: true
  - name: inside
    match: [{ path: /inside }]
    ip_whitelist: ["192.0.2.1"]
  - name: admin
    required_headers: { x-operator: required }
"#;

fn routes(stack_folder: &std::path::Path) -> String {
    let ranges = stack_folder.join("ranges");
    std::fs::create_dir_all(&ranges).unwrap();
    std::fs::write(
        ranges.join("AWS.json"),
        r#"{"prefixes": [{"ip_prefix": "198.18.0.0/24", "region": "us-east-1", "service": "AMAZON"}]}"#,
    )
    .unwrap();
    // An hour that is not now, in a zone in which that is easy to say.
    let hour = (jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour() + 12) % 24;
    ROUTES
        .replace("CLOUD", &ranges.display().to_string())
        .replace("\"00:00\"", &format!("\"{hour:02}:00\""))
        .replace("NOWHERE", "UTC")
}

#[test]
fn each_check_refuses_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(EVERY_CHECK, &routes(folder.path()));
    let get = |path: &str| Call::get(path).from("198.51.100.7");
    for (call, status, body, header) in [
        (get("/"), 200, "GET / HTTP/1.1", ("x-frame-options", "SAMEORIGIN")),
        (
            get("/tls?x=1").header("host", "shop.example.com:8080"),
            301,
            "",
            ("location", "https://shop.example.com:8080/tls?x=1"),
        ),
        (
            Call::new("POST", "/upload").from("198.51.100.7").body("application/json", "[1,2,3,4,5,6]"),
            413,
            "Request too large",
            ("content-type", "text/plain; charset=utf-8"),
        ),
        (
            Call::new("POST", "/upload").from("198.51.100.7").body("text/plain", "hi"),
            415,
            "Unsupported content type",
            ("x-frame-options", "SAMEORIGIN"),
        ),
        (get("/keyed"), 400, "Missing required header: x-tenant", ("x-frame-options", "SAMEORIGIN")),
        (get("/secret"), 401, "Authentication required", ("www-authenticate", "Bearer")),
        (
            get("/secret").header("authorization", "Bearer wrong"),
            401,
            "Authentication required",
            ("www-authenticate", "Bearer error=\"invalid_token\""),
        ),
        (
            get("/secret").header("authorization", "Bearer secret"),
            200,
            "GET /secret",
            ("x-frame-options", "SAMEORIGIN"),
        ),
        (get("/linked"), 403, "Referrer required", ("x-frame-options", "SAMEORIGIN")),
        (
            get("/linked").header("referer", "https://evil.test/"),
            403,
            "Invalid referrer",
            ("x-frame-options", "SAMEORIGIN"),
        ),
        (
            Call::new("DELETE", "/ruled").from("198.51.100.7"),
            403,
            "Forbidden",
            ("content-type", "text/plain; charset=utf-8"),
        ),
        (get("/closed"), 403, "Access not allowed at this time", ("x-frame-options", "SAMEORIGIN")),
        (Call::get("/").from("192.0.2.66"), 403, "Forbidden", ("x-frame-options", "SAMEORIGIN")),
        (get("/inside"), 403, "Forbidden", ("x-frame-options", "SAMEORIGIN")),
        (Call::get("/").from("198.18.0.9"), 403, "Forbidden", ("x-frame-options", "SAMEORIGIN")),
        (get("/").header("user-agent", "BadBot/2"), 403, "User-Agent not allowed", ("x-frame-options", "SAMEORIGIN")),
        (get("/limited"), 200, "GET /limited", ("x-frame-options", "SAMEORIGIN")),
        (get("/limited"), 429, "Too many requests", ("retry-after", "30")),
        (get(SQLI), 400, "Suspicious activity detected", ("x-frame-options", "SAMEORIGIN")),
        (
            Call::new("POST", "/c").from("198.51.100.8").body("application/json", XSS),
            400,
            "Suspicious activity detected",
            ("x-frame-options", "SAMEORIGIN"),
        ),
        (get("/admin"), 400, "Missing required header: x-operator", ("x-frame-options", "SAMEORIGIN")),
        (get("/custom"), 403, "teapot", ("content-type", "text/plain; charset=utf-8")),
        (get(SQLI), 403, "IP has been banned", ("x-frame-options", "SAMEORIGIN")),
        (get("/"), 403, "IP address banned", ("x-frame-options", "SAMEORIGIN")),
    ] {
        let answer = stack.send(&call);
        assert_eq!(answer.status, status, "{call:?}: {answer:?}");
        assert!(answer.body.starts_with(body), "{call:?}: {answer:?}");
        assert_eq!(answer.header(header.0), Some(header.1), "{call:?}: {answer:?}");
    }
}

#[test]
fn preflights_are_answered_and_origins_are_checked() {
    let stack =
        Stack::start("enable_cors: true\ncors_allow_origins: [\"https://app.example.com\"]\nrate_limit: 100", "");
    let preflight = |origin: &str| {
        Call::new("OPTIONS", "/a")
            .from("198.51.100.1")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
    };
    let good = stack.send(&preflight("https://app.example.com"));
    assert_eq!((good.status, good.body.as_str()), (200, "OK"));
    assert_eq!(good.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(good.header("access-control-max-age"), Some("600"));
    let bad = stack.send(&preflight("https://evil.example.com"));
    assert_eq!((bad.status, bad.body.as_str()), (400, "Disallowed CORS: origin"));
    assert_eq!(bad.header("access-control-allow-origin"), None);
    assert_eq!(stack.application.seen(), 0, "preflights are not for the application");
    let simple = stack.send(&Call::get("/a").from("198.51.100.1").header("origin", "https://app.example.com"));
    assert_eq!(simple.header("access-control-allow-origin"), Some("https://app.example.com"));
}

#[test]
fn lockdown_lets_only_its_whitelist_in() {
    let stack = Stack::start("emergency_mode: true\nemergency_whitelist: [\"192.0.2.0/24\"]", "");
    let refused = stack.send(&Call::get("/").from("198.51.100.1"));
    assert_eq!((refused.status, refused.body.as_str()), (503, "Service temporarily unavailable"));
    assert_eq!(stack.send(&Call::get("/").from("192.0.2.9")).status, 200);
}

#[test]
fn the_access_log_says_who_decided_and_why() {
    let mut stack = Stack::start("rate_limit: 1000", "");
    stack.send(&Call::get(SQLI).from("198.51.100.1"));
    stack.send(&Call::get("/fine").from("198.51.100.1"));
    let lines: Vec<serde_json::Value> = (0..40)
        .map_while(|index| {
            let line = stack.access_log(index);
            (line["path"] != "/fine").then_some(line)
        })
        .collect();
    let refused = lines.iter().find(|line| line["path"] == SQLI).unwrap();
    let guard = &refused["guard"];
    assert_eq!(
        (guard["decision"].as_str(), guard["check"].as_str()),
        (Some("deny"), Some("suspicious_activity")),
        "{refused}"
    );
    assert_eq!(guard["categories"][0], "sqli", "{refused}");
    assert_eq!(guard["client"], "198.51.100.1", "{refused}");
    assert!(guard["reason"].as_str().unwrap().contains("Penetration attempt detected"), "{refused}");
    assert_eq!(refused["details"], "ext_authz_denied", "{refused}");
    let allowed = stack.access_log(lines.len());
    assert_eq!(allowed["guard"]["decision"], "allow", "{allowed}");
}

#[test]
fn a_body_that_was_cut_is_recognised() {
    let cut = |text: String| text.replace("max_request_bytes: 262400", "max_request_bytes: 1000");
    let filler = "harmless words, ".repeat(200);
    let late = format!("{filler}{XSS}");
    let early = format!("{XSS}{filler}");
    let post = |body: &str| Call::new("POST", "/c").from("198.51.100.1").body("text/plain", body);
    let lenient = Stack::with_envoy("rate_limit: 100", "", cut);
    assert_eq!(lenient.send(&post(&late)).status, 200, "what was not sent for inspection cannot be seen");
    assert_eq!(lenient.send(&post(&early)).status, 400);
    let strict = Stack::with_envoy("rate_limit: 100", "detection: { partial_body: deny }", cut);
    assert_eq!(strict.send(&post(&late)).status, 413, "a policy may refuse what it cannot see");
    assert_eq!(strict.send(&post("short")).status, 200);
}

#[test]
fn a_dead_service_is_an_outage_and_never_an_entry() {
    let mut stack = Stack::start("rate_limit: 100", "");
    stack.guard.signal("KILL");
    stack.guard.exit();
    for _ in 0..3 {
        assert_eq!(stack.send(&Call::get("/").from("198.51.100.1")).status, 503);
    }
    assert_eq!(stack.application.seen(), 0);
}

#[test]
fn a_stuck_service_times_out_as_an_outage() {
    let stack = Stack::start("rate_limit: 100", "");
    stack.guard.signal("STOP");
    let answer = stack.send(&Call::get("/").from("198.51.100.1"));
    stack.guard.signal("CONT");
    assert_eq!(answer.status, 503);
    assert_eq!(stack.application.seen(), 0);
}

/// Envoy lets errors pass when told so; a denial must not look like an error, and our own failure must.
#[test]
fn denials_are_no_errors_and_failures_are() {
    let open = |text: String| {
        text.replace(
            "failure_mode_allow: false",
            "failure_mode_allow: true\n                      failure_mode_allow_header_add: true",
        )
    };
    let failing = "custom_request_check: 'request.headers[\"x-absent\"] == \"1\"'\nblacklist: [\"192.0.2.66\"]";
    let stack = Stack::with_envoy(failing, "", open);
    assert_eq!(stack.send(&Call::get("/").from("192.0.2.66")).status, 403, "a denial is final");
    let let_pass = stack.send(&Call::get("/").from("198.51.100.1"));
    if crate::stack::envoy_minor() < 37 {
        // It does not know `error_response`, and sees the refusal beside it: docs/envoy.md has the table.
        assert_eq!(
            (let_pass.status, let_pass.body.as_str()),
            (500, "Security check failed"),
            "our failure is no entry"
        );
        return;
    }
    assert_eq!(let_pass.status, 200, "Envoy was told to let errors pass: {let_pass:?}");
    assert!(let_pass.body.contains("x-envoy-auth-failure-mode-allowed: true"), "{let_pass:?}");
    let closed = Stack::start(failing, "");
    let failed = closed.send(&Call::get("/").from("198.51.100.1"));
    assert_eq!((failed.status, failed.body.as_str()), (500, "Security check failed"));
}

/// Envoy may ask twice about one request when the first answer got lost.
#[test]
fn a_repeated_check_counts_once() {
    let retrying = |text: String| {
        text.replace(
            "envoy_grpc: { cluster_name: envoy-guard }",
            "envoy_grpc:\n                          cluster_name: envoy-guard\n                          retry_policy: { num_retries: 1 }",
        )
    };
    let stack = Stack::with_envoy("rate_limit: 5", "", retrying);
    for _ in 0..5 {
        assert_eq!(stack.send(&Call::get("/").from("198.51.100.1")).status, 200);
    }
    assert_eq!(stack.send(&Call::get("/").from("198.51.100.1")).status, 429);
}

#[test]
fn envoy_reaches_it_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("guard.sock");
    let path = socket.display().to_string();
    let pipe = |text: String| {
        text.replace("socket_address: { address: 127.0.0.1, port_value: 50051 }", &format!("pipe: {{ path: {path} }}"))
    };
    let stack = Stack::with_policy_edit("rate_limit: 100", "", pipe, |policy| {
        policy.replace("listeners:\n", &format!("listeners:\n  unix: {path}\n"))
    });
    assert_eq!(stack.send(&Call::get("/").from("198.51.100.1")).status, 200);
    assert_eq!(stack.send(&Call::get(SQLI).from("198.51.100.1")).status, 400);
}

#[test]
fn repeated_and_strange_headers_arrive_whole() {
    let stack = Stack::start("rate_limit: 1000", "");
    let call =
        Call::get("/").from("198.51.100.1").header("x-note", "fine").header("x-note", "<script>alert(1)</script>");
    assert_eq!(stack.send(&call).status, 400, "the second of two headers is seen");
    let cookie =
        Call::get("/").from("198.51.100.1").header("cookie", "a=1; b=1'+UNION+SELECT+login,password+FROM+users--");
    assert_eq!(stack.send(&cookie).status, 400);
    let odd = Call::get("/").from("198.51.100.1").header("x-odd", "caf\u{e9} \u{2603}");
    assert_eq!(odd.send(stack.port).status, 200);
}

#[test]
fn stopping_answers_what_is_in_flight() {
    let mut stack = Stack::start("rate_limit: 100000", "");
    let port = stack.port;
    let load = std::thread::spawn(move || {
        (0..200)
            .filter(|_| Call::get("/").from("198.51.100.1").try_send(port).is_ok_and(|answer| answer.status == 200))
            .count()
    });
    while stack.application.seen() < 50 {
        std::thread::yield_now();
    }
    stack.guard.signal("TERM");
    assert_eq!(stack.guard.exit(), Some(0), "{}", stack.guard.log());
    assert!(50 <= load.join().unwrap());
    assert_eq!(stack.send(&Call::get("/").from("198.51.100.1")).status, 503, "after the end it is an outage");
}

#[test]
fn the_demo_comes_out_as_the_readme_says() {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = std::process::Command::new(format!("{root}/.cache/venv/bin/python"))
        .args([&format!("{root}/envoy/demo.py"), "demo", "--guard", env!("CARGO_BIN_EXE_envoy-guard"), "--envoy"])
        .arg(crate::stack::envoy_binary())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("as expected").count(), 6, "{text}");
}
