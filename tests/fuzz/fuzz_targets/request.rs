//! Whole requests: the fast way of looking at one (a glance at plain values, values scanned together, values recalled,
//! fewer rows for plain text) finds what the slow way finds; and every check, over them, decides alike each time, in an
//! answer that can be read.
//!
//! An input is a byte that chooses the detector, then a request as HTTP/1.1 writes it down.
#![no_main]

mod kept;

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use envoy_guard::config::exclusions::{DetectionConfig, Profile};
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::config::{self, Sources};
use envoy_guard::detect::{Detector, Material, Scope, Unmetered};
use envoy_guard::engine::policy::{Feeds, Policy};
use envoy_guard::engine::{self, trace};
use envoy_guard::model::time::Timestamp;
use envoy_guard::request::headers::Headers;
use envoy_guard::request::{Body, Peer, Request, Target, Tls};
use envoy_guard::state::memory::Memory;
use libfuzzer_sys::fuzz_target;

/// The first look, the look that keeps what is clean, the look that recalls it, and one more.
const LOOKS: usize = 4;
const NOW: Timestamp = Timestamp(1_800_000_000.0);

/// Everything that reads what a client sent.
const POLICY: &str = r#"
security:
  enable_redis: false
  trusted_proxies: [198.51.100.0/24, unix]
  trusted_proxy_depth: 2
  trust_x_forwarded_proto: true
  blocked_user_agents: ["bad.*bot", "^spider/[0-9]+"]
  enable_cors: true
  cors_allow_origins: ["https://app.example.com"]
  security_headers: { csp: { default-src: ["'self'"] } }
  rate_limit: 1000000
  auto_ban_threshold: 1000000
  custom_request_check: "request.headers['x-odd'] == 'yes' || request.query['a'][0] == 'b'"
  global_behavior_rules: [{ rule_type: usage, threshold: 1000, window: 60, action: log }]
routes:
  - name: api
    match: [{ prefix: /api }, { template: "/users/{id}/files/{path...}" }, { regex: "/v[0-9]+/.*" }]
    auth_required: bearer
    auth_verifier: "credential.startsWith('a') && credential.size() < 40"
    require_https: true
    max_request_size: 4096
    allowed_content_types: [application/json, "text/*"]
    require_referrer: [example.com]
    honeypot_fields: [website, email2]
    time_restrictions: { start: "08:00", end: "18:30", timezone: Europe/Paris }
    custom_validators: ["request.body.size() == 7", "request.path.contains('..')"]
    exclusions: [{ category: xss, json_path: "items[].note" }, { category: sqli, param: q }]
  - name: basic
    match: [{ path: /basic }]
    auth_required: basic
    auth_verifier: { hashes: { "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb": bob } }
    api_key_required: true
    required_headers: { X-Tenant: required }
rate_limits:
  rules: [{ name: tenant, requests: 1000000, window: 60, by: [network, "header:X-Tenant", "cel:request.method"] }]
  headers: both
responses: { csp_report_paths: [/csp] }
"#;

struct Ready {
    detectors: [Arc<Detector>; 4],
    policy: Policy,
}

static READY: LazyLock<Ready> = LazyLock::new(|| {
    let security = SecurityConfig::default();
    let built_in = DetectionConfig::default();
    let compile = |detection: &DetectionConfig, previous: Option<&Detector>| {
        let material = Material { previous, cache: &kept::Kept, ..Material::default() };
        Arc::new(Detector::compile_with(&security, detection, &material).expect("the built-in rows compile"))
    };
    let balanced = compile(&built_in, None);
    let observed = DetectionConfig {
        log_only_categories: ["sqli".to_owned()].into(),
        log_only_rows: ["XSS-01".to_owned()].into(),
        ..built_in.clone()
    };
    let custom = DetectionConfig { custom_patterns: vec!["needle[0-9]+".to_owned()], ..built_in.clone() };
    let guard_core = DetectionConfig { profile: Profile::GuardCore, ..built_in };
    let [observed, custom] = [&observed, &custom].map(|detection| compile(detection, Some(&balanced)));
    let guard_core = compile(&guard_core, None);
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
    std::io::Write::write_all(&mut file, POLICY.as_bytes()).expect("a temporary file takes text");
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    let loaded = config::load(&sources).expect("the configuration can be read");
    let policy =
        Policy::compile(&loaded.config, &Feeds::default(), Arc::clone(&balanced)).expect("the policy compiles");
    Ready { detectors: [balanced, observed, custom, guard_core], policy }
});

fuzz_target!(
    init: {
        // The first input must not pay for it.
        LazyLock::force(&READY);
    },
    |data: &[u8]| run(data)
);

fn run(data: &[u8]) {
    let [selector, message @ ..] = data else { return };
    let Some(request) = read(message) else { return };
    let detector = &READY.detectors[usize::from(selector & 3)];
    let scope = Scope::default();
    let (slow, _) = detector.inspect_traced(&request, &scope, &Unmetered);
    for look in 0..LOOKS {
        let fast = detector.inspect(&request, &scope, &Unmetered);
        assert_eq!(fast, slow, "look {look} of the fast way, then the slow way");
    }
    let policy = &READY.policy;
    let decided = |state: &Memory| {
        let decision = now(engine::decide(policy, state, &request, NOW, &Unmetered));
        (format!("{:?}", decision.verdict), decision.reason().map(|reason| reason.into_owned()))
    };
    let first = decided(&Memory::new(64));
    let asked = engine::Asked { request: &request, now: NOW, meter: &Unmetered };
    let traced = now(engine::decide_traced(policy, &Memory::new(64), asked, &mut trace::Untraced));
    assert_eq!(first.0, format!("{:?}", traced.verdict), "two strangers are decided alike");
}

/// Nothing in memory waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("memory made a request wait"),
    }
}

/// The request that a text of HTTP/1.1 means, as Envoy would tell of it; `None` without a first line.
fn read(message: &[u8]) -> Option<Request<'_>> {
    let mut lines = Lines(message);
    let mut words = std::str::from_utf8(lines.next()?).ok()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (mut headers, mut host, mut peer) = (Headers::default(), "", Peer::Absent);
    for line in &mut lines {
        if line.is_empty() {
            break;
        }
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (std::str::from_utf8(&line[..at]).ok()?, line[at + 1..].trim_ascii());
        match (name, std::str::from_utf8(value)) {
            ("host", Ok(value)) => host = value,
            ("peer", Ok(value)) => peer = Peer::from(value),
            _ => headers.push(name, value),
        }
    }
    headers.sort();
    let body = match lines.0 {
        [] => Body::Absent,
        [b'~', partial @ ..] => Body::Partial(partial),
        whole => Body::Complete(whole),
    };
    Some(Request {
        id: "",
        method,
        scheme: if message.len() & 1 == 0 { "https" } else { "http" },
        host,
        target: Target::from(target),
        protocol: "HTTP/1.1",
        headers,
        body,
        peer,
        route: None,
        tls: Tls::default(),
    })
}

/// Lines, and what is left behind them.
struct Lines<'d>(&'d [u8]);

impl<'d> Iterator for Lines<'d> {
    type Item = &'d [u8];

    fn next(&mut self) -> Option<&'d [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().position(|byte| *byte == b'\n').unwrap_or(self.0.len());
        let line = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}
