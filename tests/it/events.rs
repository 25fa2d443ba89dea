//! guard-core's event cases: the envelope of every type of event, as a receiver gets it.
//!
//! Events of requests come out of `decide`; those of the service come from the functions that make them. Whatever a case
//! leaves out is not compared, and the text of a pattern is ours.

use std::path::PathBuf;
use std::sync::Arc;

use envoy_guard::config::exclusions::Profile;
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::detect::Unmetered;
use envoy_guard::engine::decide;
use envoy_guard::engine::policy::{Feeds, Policy};
use envoy_guard::model::addr::{Client, IpEntry};
use envoy_guard::model::category::CategorySet;
use envoy_guard::model::check::Check;
use envoy_guard::model::decision::{Decision, Fact, FactValue};
use envoy_guard::model::event::EventType;
use envoy_guard::model::place::{CloudRanges, Provider};
use envoy_guard::model::time::{Timestamp, Window};
use envoy_guard::request::headers::Headers;
use envoy_guard::request::{Body, Request};
use envoy_guard::state::memory::Memory;
use envoy_guard::state::{Answer, BanPage, Mark, Question, State, StateError, Suspicion, Track};
use envoy_guard::telemetry::buffer::{Buffer, Full};
use envoy_guard::telemetry::bus::{Bus, Outlets};
use envoy_guard::telemetry::events::json::Style;
use envoy_guard::telemetry::events::system::{
    self, CountryList, CspReport, PatternChange, RedisChange, RedisFailure, RuleEffects, RuleIdentity,
};
use envoy_guard::telemetry::events::{Event, EventRules, Happening};
use serde_json::{Value, json};

use crate::pipeline::{START, blank, policy_with};

/// Types that only a case of their own tells.
const APART: [&str; 2] = ["pattern_detected", "security_headers_applied"];

fn cases() -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".cache/conformance/event_stream.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; fetch the conformance cases first", path.display()));
    let document: Value = serde_json::from_str(&text).unwrap();
    document["cases"].as_array().unwrap().clone()
}

#[test]
fn every_event_has_the_envelope_of_the_reference() {
    let (mut differences, mut held) = (Vec::new(), 0);
    for case in cases().iter().filter(|case| case["xfail"] != true) {
        let before = differences.len();
        let expected = case["expected"].as_array().unwrap();
        let mut found = drive(case);
        found.retain(|event| {
            let is_apart = APART.iter().any(|name| event["event_type"] == *name);
            !is_apart || expected.iter().any(|expected| expected["event_type"] == event["event_type"])
        });
        let types = |events: &[Value]| events.iter().map(|event| event["event_type"].clone()).collect::<Vec<_>>();
        if types(&found) != types(expected) {
            differences.push(format!("{}: found {:?}", case["id"], types(&found)));
        }
        for (found, expected) in found.iter().zip(expected) {
            differ(&format!("{}", case["id"]), expected, found, &mut differences);
        }
        held += usize::from(before == differences.len());
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(held, 38);
}

/// Names the keys of `expected` whose values differ.
fn differ(place: &str, expected: &Value, found: &Value, out: &mut Vec<String>) {
    let absent = json!("(absent)");
    if let Value::Object(fields) = expected {
        for (name, expected) in fields {
            differ(&format!("{place}.{name}"), expected, found.get(name).unwrap_or(&absent), out);
        }
        return;
    }
    // Our rows have texts of their own, and a rule of ours is an expression without a name.
    let is_ours = place.ends_with(".pattern_matched") || place.ends_with("check_function");
    let is_row = place.contains("pattern_detected_xss") && place.ends_with(".pattern");
    const PATTERN: &str = "Value matched pattern '";
    let comparable = |value: &Value| match value.as_str().and_then(|text| text.find(PATTERN).map(|at| (text, at))) {
        Some((text, at)) => Value::from(&text[..at + PATTERN.len()]),
        None => value.clone(),
    };
    // The cases' server has no path, and a preview here is what matched, not all around it.
    let is_part = match (expected.as_str(), found.as_str()) {
        (Some(expected), Some(found)) if place.ends_with(".redirect_url") => {
            found.strip_prefix(expected).is_some_and(|path| path == "/api")
        }
        (Some(expected), Some(found)) if place.ends_with(".content_preview") => {
            !found.is_empty() && expected.contains(found)
        }
        _ => false,
    };
    if is_part {
        return;
    }
    if is_ours || is_row {
        if expected.is_null() != found.is_null() {
            out.push(format!("{place}: {found}"));
        }
    } else if comparable(expected) != comparable(found) {
        out.push(format!("{place}: expected {expected}, found {found}"));
    }
}

/// State whose bans fail.
struct Faulty(Memory, bool);

impl State for Faulty {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Answer, StateError> {
        self.0.ask(question, now).await
    }

    async fn ban(&self, target: IpEntry, window: Window, reason: &str, now: Timestamp) -> Result<(), StateError> {
        match self.1 {
            true => Err(StateError::Refused("corpus injected ban failure".to_owned())),
            false => self.0.ban(target, window, reason, now).await,
        }
    }

    async fn unban(&self, target: IpEntry, now: Timestamp) -> Result<bool, StateError> {
        self.0.unban(target, now).await
    }

    async fn bans(&self, from: Option<&str>, limit: usize, now: Timestamp) -> Result<BanPage, StateError> {
        self.0.bans(from, limit, now).await
    }

    async fn suspect(
        &self,
        client: Client<'_>,
        categories: CategorySet,
        now: Timestamp,
    ) -> Result<Suspicion, StateError> {
        self.0.suspect(client, categories, now).await
    }

    async fn absolve(&self, client: Client<'_>) -> Result<(), StateError> {
        self.0.absolve(client).await
    }

    async fn suspicion(&self, client: Client<'_>, now: Timestamp) -> Result<u64, StateError> {
        self.0.suspicion(client, now).await
    }

    async fn observe(&self, track: Track<'_>, window: Window, now: Timestamp) -> Result<u64, StateError> {
        self.0.observe(track, window, now).await
    }

    async fn withdraw(&self, tracks: &[Track<'_>], mark: Mark) -> Result<(), StateError> {
        self.0.withdraw(tracks, mark).await
    }

    async fn reset_bans(&self) -> Result<(), StateError> {
        self.0.reset_bans().await
    }

    async fn reset_limits(&self) -> Result<(), StateError> {
        self.0.reset_limits().await
    }
}

/// One case under way.
struct Drive {
    policy: Policy,
    state: Faulty,
    rules: EventRules,
    patterns: usize,
    found: Vec<Value>,
}

fn drive(case: &Value) -> Vec<Value> {
    let mut case = case.clone();
    let drives = case["drives"].as_array().unwrap().clone();
    // guard-core's function is an expression here.
    if case["config"]["custom_request_check"] == "corpus_reject_all" {
        case["config"]["custom_request_check"] = json!("{'status': 418, 'body': 'no'}");
    }
    let mut cloud = CloudRanges::default();
    for stub in drives.iter().filter(|drive| drive["call"] == "cloud_stub") {
        let provider = Provider::named(stub["provider"].as_str().unwrap()).unwrap();
        cloud.insert(provider, stub["network"].as_str().unwrap().parse().unwrap(), None);
    }
    let is_faulty = drives.iter().any(|drive| drive["call"] == "ipban_fault");
    let feeds = Feeds { cloud: Arc::new(cloud), ..Feeds::default() };
    let mut run = Drive {
        policy: policy_with(&case, Profile::Balanced, feeds),
        state: Faulty(Memory::new(1000), is_faulty),
        rules: EventRules::new(&SecurityConfig::default()),
        patterns: 0,
        found: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (number, drive) in drives.iter().enumerate() {
        runtime.block_on(run.step(drive, Timestamp(START + number as f64 * 0.01)));
    }
    run.found
}

impl Drive {
    fn tell(&mut self, event: Event) {
        let event = self.rules.system(event).unwrap();
        self.found.push(event.envelope(Style::Spaced));
    }

    async fn step(&mut self, drive: &Value, now: Timestamp) {
        let text = |field: &str| drive[field].as_str().unwrap_or_default().to_owned();
        let ip = text("ip");
        match drive["call"].as_str().unwrap_or("request") {
            "request" | "path_excluded" | "bypass" | "headers_applied" | "detect" => self.request(drive, now).await,
            "cloud_stub" | "ipban_fault" => {}
            "ban_ip" => {
                self.state.ban(ip.parse().unwrap(), Window::new(3600).unwrap(), "x", now).await.unwrap();
                self.tell(system::ip_banned(now, &ip, &text("reason"), 3600));
            }
            "unban_ip" => {
                assert!(self.state.unban(ip.parse().unwrap(), now).await.unwrap());
                self.tell(system::ip_unbanned(now, &ip));
            }
            "behavior_action" => {
                let rule = &drive["rule"];
                let fact = Fact {
                    event: EventType::BehavioralViolation,
                    action: "log".into(),
                    check: Check::SuspiciousActivity,
                    reason: format!("Behavioral rule violated: {}", text("details")),
                    metadata: vec![
                        ("endpoint", FactValue::Text("corpus.endpoint".to_owned())),
                        ("rule_type", FactValue::Text(rule["rule_type"].as_str().unwrap().to_owned())),
                        ("threshold", FactValue::Int(rule["threshold"].as_i64().unwrap())),
                        ("window", FactValue::Int(rule["window"].as_i64().unwrap())),
                    ],
                    handler: "behavior",
                };
                self.fact(fact, &ip, now);
            }
            "decorator_event" => self.decorator(drive, now),
            "dynamic_rules" => self.dynamic_rules(&drive["rules"], now),
            "geo_country_stub" => {
                self.tell(system::country_blocked(now, &ip, &text("country"), CountryList::Blacklist));
            }
            "geo_download_failure" => self.tell(system::geo_download_failed(now, "RuntimeError")),
            "csp_report" => {
                let report = &drive["report"]["csp-report"];
                let field = |name: &str| report[name].as_str();
                self.tell(system::csp_violation(
                    now,
                    CspReport {
                        document_uri: field("document-uri"),
                        violated_directive: field("violated-directive"),
                        blocked_uri: field("blocked-uri"),
                        ..CspReport::default()
                    },
                ));
            }
            "add_pattern" => {
                self.patterns += 1;
                self.tell(system::pattern_changed(now, &text("pattern"), PatternChange::Added, self.patterns));
            }
            "remove_pattern" => {
                self.tell(system::pattern_changed(now, &text("pattern"), PatternChange::Removed, 0));
            }
            "rate_limit_script_reload" => self.tell(system::script_reloaded(now)),
            "redis_connect" => {
                self.tell(system::redis_connection(now, "redis://localhost:6379/0", RedisChange::Established));
            }
            "redis_connect_error" => {
                let error = "Error Multiple exceptions: [Errno 61] Connect call failed ('::1', 59999, 0, 0), \
                             [Errno 61] Connect call failed ('127.0.0.1', 59999) connecting to localhost:59999.";
                let url = "redis://localhost:59999/0";
                self.tell(system::redis_error(now, url, RedisFailure::Connection, error));
            }
            "monitor_anomaly" | "monitor_callback_fault" => self.monitor(drive, now),
            other => panic!("unknown call {other}"),
        }
    }

    async fn request(&mut self, drive: &Value, now: Timestamp) {
        let text = |field: &str| drive[field].as_str().map(str::to_owned);
        let (method, peer) = (text("method").unwrap_or_else(|| "GET".into()), text("client_ip").or_else(|| text("ip")));
        let (path, peer) = (
            text("url_path").or_else(|| text("path")).unwrap_or_else(|| "/api".into()),
            peer.unwrap_or_else(|| "192.0.2.10".into()),
        );
        let body = text("body").or_else(|| text("content")).unwrap_or_default();
        let mut fields: Vec<(String, String)> = drive["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().unwrap().to_owned()))
            .collect();
        if !body.is_empty() {
            fields.push(("content-length".to_owned(), body.len().to_string()));
        }
        let headers: Headers<'_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let request = Request {
            method: &method,
            target: path.as_str().into(),
            headers,
            body: if body.is_empty() { Body::Absent } else { Body::Complete(body.as_bytes()) },
            peer: peer.as_str().into(),
            route: (drive["guard_route_unresolved"] == true).then_some("no such route"),
            ..blank()
        };
        let decision = decide(&self.policy, &self.state, &request, now, &Unmetered).await;
        let client = self.policy.client(&request);
        let happening = Happening {
            request: &request,
            decision: &decision,
            client,
            took: std::time::Duration::from_millis(2),
            now,
        };
        let queue = Buffer::new(100, 1, Full::DropNewest, Arc::default());
        let bus = Bus::default();
        let rules = EventRules::new(&SecurityConfig::default());
        drop(bus.replace(Arc::new(Outlets { rules, events: vec![queue.clone()], ..Outlets::default() })));
        bus.decided(&happening);
        let told = queue.take(100);
        for event in &told {
            assert!(matches!(event.response_time, None | Some(0.002)), "{event:?}");
        }
        let only = match drive["call"].as_str() {
            Some("detect") => Some(EventType::PatternDetected),
            _ => None,
        };
        let told = told.iter().filter(|event| only.is_none_or(|only| event.kind == only));
        self.found.extend(told.map(|event| event.envelope(Style::Spaced)));
    }

    /// A fact that no check here records: its envelope all the same.
    fn fact(&mut self, fact: Fact, ip: &str, now: Timestamp) {
        let request = Request { target: "/api".into(), peer: ip.into(), ..blank() };
        let decision = Decision { facts: [fact].into_iter().collect(), ..Decision::allow() };
        let happening = Happening {
            request: &request,
            decision: &decision,
            client: self.policy.client(&request),
            took: std::time::Duration::ZERO,
            now,
        };
        let events: Vec<Value> = self.rules.of(&happening).map(|event| event.envelope(Style::Spaced)).collect();
        self.found.extend(events);
    }

    fn decorator(&mut self, drive: &Value, now: Timestamp) {
        let given = |name: &str| drive["kwargs"][name].as_str().map(str::to_owned);
        let text = |text: String| FactValue::Text(text);
        let (event, metadata) = match drive["send"].as_str().unwrap() {
            "send_access_denied_event" => (
                EventType::AccessDenied,
                vec![
                    ("decorator_type", text(given("decorator_type").unwrap())),
                    ("violation_type", text(given("violation_type").unwrap())),
                ],
            ),
            _ => (
                EventType::AuthenticationFailed,
                vec![
                    ("decorator_type", text("authentication".to_owned())),
                    ("auth_type", text(given("auth_type").unwrap())),
                ],
            ),
        };
        let fact = Fact {
            event,
            action: "blocked".into(),
            check: Check::RouteConfig,
            reason: given("reason").unwrap(),
            metadata,
            handler: "middleware",
        };
        self.fact(fact, drive["client_ip"].as_str().unwrap(), now);
    }

    fn dynamic_rules(&mut self, rules: &Value, now: Timestamp) {
        let identity =
            RuleIdentity { id: rules["rule_id"].as_str().unwrap(), version: rules["version"].as_i64().unwrap() };
        let is_locked = rules["emergency_mode"] == true;
        self.tell(system::rules_received(now, identity, 0));
        if is_locked {
            let whitelist = rules["emergency_whitelist"].as_array().unwrap();
            let whitelist: Vec<String> = whitelist.iter().map(|entry| entry.as_str().unwrap().to_owned()).collect();
            self.tell(system::emergency_activated(now, &whitelist));
        }
        let effects = RuleEffects { emergency_mode: is_locked, ..RuleEffects::default() };
        self.tell(system::rules_applied(now, identity, effects));
    }

    fn monitor(&mut self, drive: &Value, now: Timestamp) {
        use envoy_guard::telemetry::events::system::Anomaly;
        let samples = drive["samples"].as_array();
        let last = samples.and_then(|samples| samples.last()).unwrap_or(drive);
        let (pattern, seconds) = (last["pattern"].as_str().unwrap(), last["execution_time"].as_f64().unwrap());
        let times: Vec<f64> =
            samples.into_iter().flatten().map(|sample| sample["execution_time"].as_f64().unwrap()).collect();
        let anomaly = if last["timeout"] == true {
            Anomaly::Timeout { content_length: Some(128) }
        } else if times.len() < 2 {
            Anomaly::Slow { content_length: Some(128), seconds }
        } else {
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            let squares: f64 = times.iter().map(|time| (time - mean).powi(2)).sum();
            let deviation = (squares / (times.len() - 1) as f64).sqrt();
            let rounded = |number: f64| (number * 1e6).round() / 1e6;
            Anomaly::Statistical {
                z_score: rounded((seconds - mean) / deviation),
                avg_time: Some(rounded(mean)),
                std_time: Some(rounded(deviation)),
                seconds,
            }
        };
        self.tell(system::anomaly(now, pattern, anomaly));
        if drive["call"] == "monitor_callback_fault" {
            self.tell(system::callback_failed(now, "corpus injected callback failure", anomaly));
        }
    }
}
