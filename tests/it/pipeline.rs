//! guard-core's pipeline cases, driven through `decide`.
//!
//! Compared are status, body, headers, flags, events and `on_block` payloads. The text of a pattern inside a trigger is
//! ours to choose, so triggers are compared up to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use envoy_guard::config::Config;
use envoy_guard::config::exclusions::{DetectionConfig, Profile};
use envoy_guard::config::routes::{RouteConfig, RouteMatch};
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::detect::{Detector, Unmetered};
use envoy_guard::engine::decide;
use envoy_guard::engine::phases::{ResponseHead, Standing, judge};
use envoy_guard::engine::policy::{Feeds, Policy};
use envoy_guard::model::decision::{Decision, Denial, Verdict};
use envoy_guard::model::place::{CountryCode, CountryTable};
use envoy_guard::model::time::Timestamp;
use envoy_guard::request::headers::Headers;
use envoy_guard::request::{Body, Request, Tls};
use envoy_guard::state::State;
use envoy_guard::state::memory::Memory;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::redis_servers::{Server, standalone};

/// 2026-11-21 00:00:00 UTC; drives of a case follow one another within a second.
pub(crate) const START: f64 = 1_795_219_200.0;

fn cases(suite: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!(".cache/conformance/pipeline_{suite}.json"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; fetch the conformance cases first", path.display()));
    let document: Value = serde_json::from_str(&text).unwrap();
    document["cases"].as_array().unwrap().clone()
}

#[test]
fn ip_control_cases_hold() {
    assert_eq!(run("ip_control"), (12, 15));
}

#[test]
fn rate_limit_cases_hold() {
    assert_eq!(run("rate_limits"), (5, 19));
}

#[test]
fn rate_limit_cases_hold_on_redis() {
    let server = Server::start(&[]);
    let (mut held, mut differences) = (0, Vec::new());
    for (number, case) in cases("rate_limits").iter().enumerate() {
        let state = standalone(&server, &format!("{number}:"));
        held += drive_case_on(&state, case, Profile::Balanced, &mut differences);
    }
    let histories = server.cli(&["keys", "*rate_limit:rate:*"]).lines().count();
    assert!(3 <= histories, "Redis counted: {histories}");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(held, 19);
}

#[test]
fn detection_response_cases_hold() {
    assert_eq!(run("detection_response"), (8, 12));
    assert_eq!(run_with("detection_response", Profile::GuardCore), (8, 12));
}

#[test]
fn headers_and_cors_cases_hold() {
    assert_eq!(run("headers_cors"), (7, 7));
}

#[test]
fn behavior_cases_hold() {
    assert_eq!(run("behavior_rules"), (3, 11));
}

#[test]
fn behavior_cases_hold_on_redis() {
    let server = Server::start(&[]);
    let (mut held, mut differences) = (0, Vec::new());
    for (number, case) in cases("behavior_rules").iter().enumerate() {
        let state = standalone(&server, &format!("{number}:"));
        held += drive_case_on(&state, case, Profile::Balanced, &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(held, 11);
    let histories = server.cli(&["keys", "*behavior_returns:behavior:return:*"]).lines().count();
    assert_eq!(histories, 3, "one history of one client for each case");
}

/// Runs a suite; returns how many cases and drives held. Differences are reported together.
#[track_caller]
fn run(suite: &str) -> (usize, usize) {
    run_with(suite, Profile::Balanced)
}

#[track_caller]
fn run_with(suite: &str, profile: Profile) -> (usize, usize) {
    let mut differences = Vec::new();
    let (mut held, mut drives) = (0, 0);
    for case in cases(suite) {
        let before = differences.len();
        drives += drive_case(&case, profile, &mut differences);
        held += usize::from(differences.len() == before);
    }
    assert!(differences.is_empty(), "{suite}: {} differences\n{}", differences.len(), differences.join("\n"));
    (held, drives)
}

/// One detector of each profile for all: no case changes what it is compiled from, and compiling takes long.
fn detector(profile: Profile) -> Arc<Detector> {
    static BALANCED: OnceLock<Arc<Detector>> = OnceLock::new();
    static GUARD_CORE: OnceLock<Arc<Detector>> = OnceLock::new();
    let compile = || {
        let detection = DetectionConfig { profile, ..DetectionConfig::default() };
        Arc::new(Detector::compile(&SecurityConfig::default(), &detection).unwrap())
    };
    let cell = match profile {
        Profile::Balanced => &BALANCED,
        Profile::GuardCore => &GUARD_CORE,
    };
    Arc::clone(cell.get_or_init(compile))
}

pub(crate) fn blank<'r>() -> Request<'r> {
    Request {
        id: "",
        method: "GET",
        scheme: "http",
        host: "example.com",
        target: "/api".into(),
        protocol: "HTTP/1.1",
        headers: Headers::default(),
        body: Body::Absent,
        peer: "192.0.2.10".into(),
        route: None,
        tls: Tls::default(),
    }
}

fn drive_case(case: &Value, profile: Profile, differences: &mut Vec<String>) -> usize {
    drive_case_on(&Memory::new(1000), case, profile, differences)
}

fn drive_case_on(state: &impl State, case: &Value, profile: Profile, differences: &mut Vec<String>) -> usize {
    let policy = policy(case, profile);
    // Connections belong to the runtime that opened them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let drives = case["drives"].as_array().unwrap();
    let expected = case["expected"].as_array().unwrap();
    assert_eq!(drives.len(), expected.len());
    for (number, (drive, expected)) in drives.iter().zip(expected).enumerate() {
        let now = Timestamp(START + number as f64 * 0.01);
        let found = observe(&policy, (state, &runtime), drive, now);
        for (key, expected) in expected.as_object().unwrap() {
            let found = found.get(key).unwrap_or(&Value::Null);
            if comparable(found) != comparable(expected) {
                differences.push(format!("{} drive {number} {key}: expected {expected}, found {found}", case["id"]));
            }
        }
        if !expected.as_object().unwrap().contains_key("headers") && found.contains_key("headers") {
            differences.push(format!("{} drive {number}: headers {}", case["id"], found["headers"]));
        }
    }
    drives.len()
}

/// Header names without case; triggers up to the text of a pattern.
fn comparable(value: &Value) -> Value {
    const PATTERN: &str = "Value matched pattern '";
    match value {
        Value::String(text) => match text.find(PATTERN) {
            Some(at) => Value::from(&text[..at + PATTERN.len()]),
            None => value.clone(),
        },
        Value::Array(items) => items.iter().map(comparable).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), comparable(value))).collect()
        }
        _ => value.clone(),
    }
}

pub(crate) fn policy(case: &Value, profile: Profile) -> Policy {
    policy_with(case, profile, Feeds::default())
}

pub(crate) fn policy_with(case: &Value, profile: Profile, feeds: Feeds) -> Policy {
    let mut config = Config::default();
    let mut security = serde_json::to_value(&config.security).unwrap();
    let fields = security.as_object_mut().unwrap();
    for (name, value) in [
        ("enable_redis", json!(false)),
        ("enable_rate_limit_auto_ban", json!(false)),
        ("enable_ip_banning", json!(false)),
        ("auto_ban_threshold", json!(1000)),
    ] {
        fields.insert(name.to_owned(), value);
    }
    fields.extend(case["config"].as_object().unwrap().clone());
    config.security = serde_json::from_str(&security.to_string()).unwrap();
    if let Some(responses) = case.get("responses") {
        config.responses = serde_json::from_value(responses.clone()).unwrap();
    }
    config.routes = case["routes"].as_object().unwrap().iter().map(route).collect();
    let countries: BTreeMap<_, _> = case["geo_countries"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(ip, code)| (ip.parse().unwrap(), CountryCode::new(code.as_str().unwrap()).unwrap()))
        .collect();
    let feeds = Feeds { countries: Some(Arc::new(CountryTable(countries))), ..feeds };
    Policy::compile(&config, &feeds, detector(profile)).unwrap()
}

fn route((path, fields): (&String, &Value)) -> RouteConfig {
    let route: RouteConfig = serde_json::from_value(fields.clone()).unwrap();
    let exact = RouteMatch { path: Some(path.clone()), ..RouteMatch::default() };
    RouteConfig { name: path.clone(), matches: vec![exact], ..route }
}

/// The request of a case.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) peer: String,
    body: String,
    fields: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn of(drive: &Value) -> Self {
        let text = |field: &str, default: &'static str| drive[field].as_str().unwrap_or(default).to_owned();
        let body = text("body", "");
        let mut fields: Vec<(String, String)> = drive["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().unwrap().to_owned()))
            .collect();
        if !body.is_empty() && !fields.iter().any(|(name, _)| name == "content-length") {
            fields.push(("content-length".to_owned(), body.len().to_string()));
        }
        Self {
            method: text("method", "GET"),
            path: text("url_path", "/api"),
            peer: text("client_ip", ""),
            body,
            fields,
        }
    }

    pub(crate) fn request(&self) -> Request<'_> {
        let body = self.body.as_bytes();
        Request {
            method: &self.method,
            target: self.path.as_str().into(),
            headers: self.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            body: if body.is_empty() { Body::Absent } else { Body::Complete(body) },
            peer: self.peer.as_str().into(),
            ..blank()
        }
    }
}

fn observe(
    policy: &Policy,
    (state, runtime): (&impl State, &Runtime),
    drive: &Value,
    now: Timestamp,
) -> Map<String, Value> {
    let asked = Asked::of(drive);
    let (method, path, peer) = (&asked.method, &asked.path, &asked.peer);
    let request = asked.request();
    let decision = runtime.block_on(decide(policy, state, &request, now, &Unmetered));
    if drive["stage"] == "process_response" {
        let status = drive["response_status"].as_u64().unwrap_or(200);
        let head = ResponseHead { status: u16::try_from(status).unwrap(), ..ResponseHead::default() };
        let standing = Standing { flags: decision.flags, ..Standing::default() };
        let (judged, _) = runtime.block_on(judge(policy, state, (&request, now), &standing, &head));
        let mut found = response(&decision, drive);
        found.extend(answer(&judged, peer, path, method).remove_entry("events"));
        return found;
    }
    answer(&decision, peer, path, method)
}

/// What the upstream's response becomes when the request is allowed.
fn response(decision: &Decision<'_>, drive: &Value) -> Map<String, Value> {
    assert_eq!(decision.verdict, Verdict::Allow);
    let constant = decision.response_headers.constant.iter().flat_map(|set| &set.edits);
    // The cases drive the header manager alone. Beside it the service answers as the CORS handler does, which tells
    // caches that the answer depends on the origin.
    let extra = decision.response_headers.extra.iter().filter(|edit| edit.name != "vary");
    let headers: Map<String, Value> =
        constant.chain(extra).map(|edit| (edit.name.to_string(), Value::from(edit.value.as_ref()))).collect();
    let mut found = Map::new();
    found.insert("status".to_owned(), drive["response_status"].as_u64().unwrap_or(200).into());
    found.insert("body".to_owned(), drive["response_body"].as_str().unwrap_or("ok").into());
    if !headers.is_empty() {
        found.insert("headers".to_owned(), headers.into());
    }
    found
}

fn answer(decision: &Decision<'_>, peer: &str, path: &str, method: &str) -> Map<String, Value> {
    let mut found = Map::new();
    let denial: Option<&Denial<'_>> = match &decision.verdict {
        Verdict::Allow => None,
        Verdict::Deny(denial) | Verdict::Fail(denial) => Some(denial),
    };
    found.insert("status".to_owned(), denial.map(|denial| denial.status).into());
    if let Some(denial) = denial {
        found.insert("body".to_owned(), denial.body.as_ref().into());
        let headers: Map<String, Value> = denial
            .headers
            .iter()
            .filter(|edit| edit.name != "vary")
            .map(|edit| (edit.name.to_string(), Value::from(edit.value.as_ref())))
            .collect();
        if !headers.is_empty() {
            found.insert("headers".to_owned(), headers.into());
        }
    }
    if let Some(flags) = decision.flags {
        found.insert("is_exempt".to_owned(), flags.exempt.into());
        found.insert("is_whitelisted".to_owned(), flags.whitelisted.into());
    }
    let events = decision.facts.iter().filter(|fact| fact.handler == "middleware");
    let events: Vec<Value> = events.map(|fact| json!([fact.event.name(), fact.action])).collect();
    if !events.is_empty() {
        found.insert("events".to_owned(), events.into());
    }
    let blocks: Vec<Value> = decision
        .blocks
        .iter()
        .map(|block| {
            json!({
                "check_name": block.check_name,
                "reason": block.reason,
                "trigger_info": block.trigger_info,
                "passive_mode": block.passive_mode,
                "client_ip": peer,
                "path": path,
                "method": method,
                "status_code": block.status_code,
            })
        })
        .collect();
    if !blocks.is_empty() {
        found.insert("on_block".to_owned(), blocks.into());
    }
    found
}

/// The request that browsers send: 15 headers and a query.
fn usual() -> Request<'static> {
    const FIELDS: [(&str, &str); 15] = [
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br"),
        ("referer", "https://example.com/list"),
        ("cookie", "session=4f3c2b1a; theme=dark"),
        ("upgrade-insecure-requests", "1"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-user", "?1"),
        ("cache-control", "no-cache"),
        ("x-forwarded-for", "198.51.100.7"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "7b0c7c0e-6f8e-4b9e-9d55-0f4f0d7a1c11"),
    ];
    let headers = FIELDS.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    Request { target: "/items/7?page=2&sort=name".into(), headers, ..blank() }
}

/// Allocations of one allowed decision once everything is warm.
fn allocations_of(config: &Config) -> u64 {
    let policy = Policy::compile(config, &Feeds::default(), detector(Profile::Balanced)).unwrap();
    let (state, request) = (Memory::new(1000), usual());
    let mut counts = Vec::with_capacity(64);
    for number in 0..64 {
        let before = crate::allocations::allocations();
        let now = Timestamp(START + f64::from(number));
        let mut future = std::pin::pin!(decide(&policy, &state, &request, now, &Unmetered));
        let polled = future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        let std::task::Poll::Ready(decision) = polled else { panic!("memory answers at once") };
        counts.push(crate::allocations::allocations() - before);
        assert_eq!(decision.verdict, Verdict::Allow);
    }
    // The histories of this client grow now and then; half of the decisions must be free of it.
    counts.sort_unstable();
    counts[counts.len() / 2]
}

#[test]
fn an_allowed_decision_allocates_nothing() {
    let mut config = Config::default();
    config.security.rate_limit = 1_000_000;
    assert_eq!(allocations_of(&config), 0);
    config.security.enable_penetration_detection = false;
    config.security.trusted_proxies =
        vec![envoy_guard::config::values::TrustedProxy::Entry("192.0.2.0/24".parse().unwrap())];
    config.security.blocked_user_agents = vec!["evilbot".to_owned(), "curl/[0-9]".to_owned()];
    config.security.blacklist = vec!["203.0.113.0/24".parse().unwrap()];
    config.security.endpoint_rate_limits.insert("/items/7".to_owned(), (1_000_000, 60));
    let matcher = RouteMatch { template: Some("/items/{id}".to_owned()), ..RouteMatch::default() };
    config.routes = vec![RouteConfig {
        name: "items".to_owned(),
        matches: vec![matcher],
        rate_limit: Some(1_000_000),
        ..RouteConfig::default()
    }];
    assert_eq!(allocations_of(&config), 0, "with routes, patterns, lists and every tier");
}
