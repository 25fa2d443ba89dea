//! guard-core's event cases: the envelope of every type of event, as a receiver gets it, each caused by what causes it.
//!
//! What requests cause comes out of `decide` and the bus, in this process; what the service does comes out of a running
//! service, its API, its files and its Redis. Whatever a case leaves out is not compared, and the text of a pattern is ours.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use envoy_guard::config::Config;
use envoy_guard::config::exclusions::Profile;
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::detect::Unmetered;
use envoy_guard::detect::monitor::{Monitor, Sample};
use envoy_guard::engine::decide;
use envoy_guard::engine::policy::{Feeds, Policy};
use envoy_guard::model::addr::{Client, IpEntry};
use envoy_guard::model::category::CategorySet;
use envoy_guard::model::event::EventType;
use envoy_guard::model::message::Compose;
use envoy_guard::model::place::{CloudRanges, Provider};
use envoy_guard::model::time::{Timestamp, Window};
use envoy_guard::request::{Body, Request};
use envoy_guard::state::memory::Memory;
use envoy_guard::state::{Answer, BanPage, Mark, Question, State, StateError, Suspicion, Track};
use envoy_guard::telemetry::Recorder;
use envoy_guard::telemetry::buffer::{Buffer, Full};
use envoy_guard::telemetry::bus::{Bus, Outlets};
use envoy_guard::telemetry::events::json::Style;
use envoy_guard::telemetry::events::{Event, EventRules, Happening};
use envoy_guard::telemetry::metrics::Metrics;
use envoy_guard::telemetry::sinks::{Composers, Plan, Sinks};
use serde_json::{Value, json};

use crate::pipeline::{Asked, START, blank, policy_with};
use crate::redis_servers::{Server, eventually};
use crate::replicas::Replica;
use crate::stack::Call;

/// Types that only a case of their own tells.
const APART: [&str; 2] = ["pattern_detected", "security_headers_applied"];

/// How the cases come about that no request causes: at the service itself.
const AT_THE_SERVICE: [(&str, &str); 11] = [
    ("ban_ip", "PUT /api/v1/bans/ADDRESS"),
    ("unban_ip", "DELETE /api/v1/bans/ADDRESS"),
    ("dynamic_rules", "a document in data.dynamic_rules"),
    ("add_pattern", "POST /api/v1/patterns"),
    ("remove_pattern", "DELETE /api/v1/patterns"),
    ("decorator_event", "POST /api/v1/events, by the application"),
    ("geo_country_stub", "POST /api/v1/events, by the application"),
    ("geo_download_failure", "data.geo_url where nobody listens"),
    ("rate_limit_script_reload", "SCRIPT FLUSH at Redis"),
    ("redis_connect", "the first connection to Redis"),
    ("redis_connect_error", "Redis killed"),
];

fn is_at_the_service(case: &Value) -> bool {
    let calls = case["drives"].as_array().unwrap().iter().map(|drive| &drive["call"]);
    calls.into_iter().any(|call| AT_THE_SERVICE.iter().any(|(known, _)| call == known))
}

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
    for case in cases().iter().filter(|case| case["xfail"] != true && !is_at_the_service(case)) {
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
    let at_the_service = cases().iter().filter(|case| is_at_the_service(case)).count();
    assert_eq!((held, at_the_service), (25, 13), "38 and the one that guard-core cannot cause either");
}

#[test]
fn every_type_but_one_is_caused_by_some_case() {
    let cases = cases();
    let told: Vec<&str> = cases
        .iter()
        .flat_map(|case| case["expected"].as_array().unwrap())
        .filter_map(|event| event["event_type"].as_str())
        .collect();
    let untold: Vec<&str> = EventType::ALL.iter().map(|kind| kind.name()).filter(|kind| !told.contains(kind)).collect();
    assert_eq!(untold, ["decoding_error"], "no text makes decoding fail, here or there");
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
    // Our rows have texts of their own, a rule of ours is an expression without a name, an endpoint is no Python function,
    // and Redis listens elsewhere.
    let is_ours = [".pattern_matched", "check_function", ".metadata.redis_url"].iter().any(|end| place.ends_with(end))
        || place.contains("behavioral") && place.ends_with(".metadata.endpoint");
    let is_row = place.contains("pattern_detected_xss") && place.ends_with(".pattern");
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

/// A text up to where it quotes what is somebody's own; a number as the cases round it.
fn comparable(value: &Value) -> Value {
    const QUOTES: [&str; 4] = [
        "Value matched pattern '",
        "Behavioral rule violated: ",
        "Redis connection failed: ",
        "Failed to download IPInfo database: ",
    ];
    if let Some(number) = value.as_f64().filter(|_| value.is_f64()) {
        return json!((number * 1e6).round() / 1e6);
    }
    let Some(text) = value.as_str() else { return value.clone() };
    let cut = QUOTES.iter().find_map(|start| Some(text.find(start)? + start.len()));
    cut.map_or_else(|| value.clone(), |end| Value::from(&text[..end]))
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
    bus: Arc<Bus>,
    told: Buffer<Arc<Event>>,
    found: Vec<Value>,
}

/// Where an operator's expression fails.
#[derive(Debug)]
struct Failing;

impl Compose for Failing {
    fn compose(&self, _: &Value) -> Result<Value, String> {
        Err("corpus injected callback failure".to_owned())
    }
}

fn drive(case: &Value) -> Vec<Value> {
    let mut case = case.clone();
    let drives = case["drives"].as_array().unwrap().clone();
    // guard-core's function is an expression here.
    if case["config"]["custom_request_check"] == "corpus_reject_all" {
        case["config"]["custom_request_check"] = json!("{'status': 418, 'body': 'no'}");
    }
    let mut cloud = CloudRanges::default();
    for drive in &drives {
        match drive["call"].as_str() {
            Some("cloud_stub") => {
                let provider = Provider::named(drive["provider"].as_str().unwrap()).unwrap();
                cloud.insert(provider, drive["network"].as_str().unwrap().parse().unwrap(), None);
            }
            Some("behavior_action") => {
                let mut rule = drive["rule"].clone();
                rule["action"] = json!("log");
                case["config"]["global_behavior_rules"] = json!([rule]);
            }
            Some("csp_report") => case["responses"] = json!({"csp_report_paths": ["/csp"]}),
            _ => {}
        }
    }
    let is_faulty = drives.iter().any(|drive| drive["call"] == "ipban_fault");
    let feeds = Feeds { cloud: Arc::new(cloud), ..Feeds::default() };
    let (bus, told) = (Arc::new(Bus::default()), Buffer::new(100, 1, Full::DropNewest, Arc::default()));
    let rules = EventRules::new(&SecurityConfig::default());
    drop(bus.replace(Arc::new(Outlets { rules, events: vec![told.clone()], ..Outlets::default() })));
    let mut run = Drive {
        policy: policy_with(&case, Profile::Balanced, feeds),
        state: Faulty(Memory::new(1000), is_faulty),
        bus,
        told,
        found: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (number, drive) in drives.iter().enumerate() {
        runtime.block_on(run.step(drive, Timestamp(START + number as f64 * 0.01)));
    }
    run.found
}

impl Drive {
    async fn step(&mut self, drive: &Value, now: Timestamp) {
        match drive["call"].as_str().unwrap_or("request") {
            "request" | "path_excluded" | "bypass" | "headers_applied" => self.request(drive, now).await,
            "cloud_stub" | "ipban_fault" => {}
            "detect" => {
                self.request(drive, now).await;
                self.keep_only("pattern_detected");
            }
            "behavior_action" => {
                for _ in 0..=drive["rule"]["threshold"].as_u64().unwrap() {
                    self.request(drive, now).await;
                }
                self.keep_only("behavioral_violation");
            }
            "csp_report" => {
                let report = json!({
                    "client_ip": "203.0.113.10",
                    "method": "POST",
                    "url_path": "/csp",
                    "headers": {"Content-Type": "application/csp-report"},
                    "body": drive["report"].to_string(),
                });
                self.request(&report, now).await;
            }
            "monitor_anomaly" | "monitor_callback_fault" => self.monitor(drive, now).await,
            other => panic!("unknown call {other}"),
        }
    }

    fn keep_only(&mut self, kind: &str) {
        self.found.retain(|event| event["event_type"] == kind);
    }

    /// Takes in what was told.
    fn listen(&mut self) {
        self.found.extend(self.told.take(100).iter().map(|event| event.envelope(Style::Spaced)));
    }

    async fn request(&mut self, drive: &Value, now: Timestamp) {
        // Each kind of call has names of its own for what a request consists of.
        let mut drive = drive.clone();
        for (name, other, default) in [
            ("client_ip", "ip", "192.0.2.10".into()),
            ("url_path", "path", "/api".into()),
            ("body", "content", Value::Null),
        ] {
            let given = [&drive[name], &drive[other]].into_iter().find(|value| value.is_string());
            drive[name] = given.cloned().unwrap_or(default);
        }
        let asked = Asked::of(&drive);
        let route = (drive["guard_route_unresolved"] == true).then_some("no such route");
        let request = Request { route, ..asked.request() };
        let decision = decide(&self.policy, &self.state, &request, now, &Unmetered).await;
        let (client, took) = (self.policy.client(&request), Duration::from_millis(2));
        self.bus.decided(&Happening { request: &request, decision: &decision, client, took, now });
        drop(decision);
        let before = self.found.len();
        self.listen();
        for event in &self.found[before..] {
            assert!(event["response_time"].is_null() || event["response_time"] == 0.002, "{event}");
        }
    }

    /// Runs of a pattern that the monitor finds remarkable, in a request of 128 bytes.
    async fn monitor(&mut self, drive: &Value, now: Timestamp) {
        let mut security = SecurityConfig::default();
        for (name, setting) in [
            ("anomaly_threshold", &mut security.detection_anomaly_threshold),
            ("slow_pattern_threshold", &mut security.detection_slow_pattern_threshold),
        ] {
            *setting = drive[name].as_f64().unwrap_or(*setting);
        }
        security.detection_min_samples_for_anomaly = drive["min_samples_for_anomaly"]
            .as_u64()
            .map_or(security.detection_min_samples_for_anomaly, |samples| u32::try_from(samples).unwrap());
        let is_callback = drive["call"] == "monitor_callback_fault";
        let sinks = if is_callback { Some(self.webhook()) } else { None };
        let body = [b'x'; 124];
        let request = Request { target: "/api".into(), body: Body::Complete(&body), ..blank() };
        let recorder = Recorder::new(&Metrics::new("1"), Arc::clone(&self.bus), Arc::default());
        let mut monitor = Monitor::new(&security);
        let alone = vec![drive.clone()];
        for sample in drive["samples"].as_array().unwrap_or(&alone) {
            let sample = Sample {
                name: sample["pattern"].as_str().unwrap(),
                seconds: sample["execution_time"].as_f64().unwrap(),
                matched: false,
                timed_out: sample["timeout"] == true,
            };
            monitor.record(&sample, now).iter().for_each(|found| recorder.anomaly(found, &request));
        }
        if let Some(sinks) = sinks {
            sinks.drain().await;
        }
        self.listen();
    }

    /// A webhook whose message cannot be made, beside our own ears.
    fn webhook(&self) -> Sinks {
        let mut config = Config::default();
        config.telemetry.webhook = Some(serde_json::from_value(json!({"url": "http://127.0.0.1:9/"})).unwrap());
        let messages = Composers { webhook: Some(Arc::new(Failing)), ..Composers::default() };
        let plan = Plan::new(&config, messages);
        let sinks = Sinks::start(&plan, &self.bus, &Arc::new(Metrics::new("1"))).unwrap();
        let started = self.bus.replace(Arc::default());
        let events = started.events.iter().cloned().chain([self.told.clone()]).collect();
        drop(self.bus.replace(Arc::new(Outlets { events, ..Outlets::default() })));
        sinks
    }
}

/// What a service has told so far.
fn told(replica: &Replica) -> Vec<Value> {
    let log = replica.process.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["target"] == "event")
        .map(|line| serde_json::from_str(line["envelope"].as_str().unwrap()).unwrap())
        .collect()
}

/// Waits until the service told everything that a case expects, in its envelope.
fn wait_for(replica: &Replica, case: &Value) {
    let id = case["id"].as_str().unwrap();
    for expected in case["expected"].as_array().unwrap() {
        let differences = |found: &Value| {
            let mut out = Vec::new();
            differ(id, expected, found, &mut out);
            out
        };
        let kind = &expected["event_type"];
        eventually(&format!("{id}: {kind} as {expected}"), || {
            told(replica).iter().any(|event| event["event_type"] == *kind && differences(event).is_empty())
        });
    }
}

/// A document in the file that the service watches.
fn rules_of(case: &Value) -> String {
    let drives = case["drives"].as_array().unwrap();
    drives.iter().find_map(|drive| drive.get("rules")).unwrap().to_string()
}

#[tokio::test]
async fn what_the_service_does_has_the_envelope_of_the_reference() {
    let cases = cases();
    let case = |id: &str| cases.iter().find(|case| case["id"] == id).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = |name: &str| {
        let file = folder.path().join(format!("{name}.json"));
        let rest = format!(
            "data: {{ dynamic_rules: {}, geo_url: \"http://127.0.0.1:9/geo\" }}\ntelemetry: {{ log_events: INFO }}",
            file.display()
        );
        (file, rest)
    };
    let write = |file: &PathBuf, text: String| {
        let part = file.with_extension("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(&part, file).unwrap();
    };
    let security = "log_format: json\nlazy_init: true\nrate_limit: 1000\nipinfo_token: corpus";
    let mut server = Server::start(&[]);
    let (file, rest) = settings("one");
    let one = Replica::start(&server, security, &rest).await;
    let call = |call: Call| {
        let answer = call.send(one.admin);
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    let json = "application/json";
    let ban = |ip: &str| {
        let sentence = r#"{"seconds": 3600, "reason": "corpus_ban"}"#;
        call(Call::new("PUT", &format!("/api/v1/bans/{ip}")).body(json, sentence));
    };

    wait_for(&one, case("evt_redis_connection_established"));
    ban("203.0.113.12");
    assert_eq!(one.check("203.0.113.12", "/api").await, 403);
    wait_for(&one, case("evt_ip_banned_then_blocked"));
    ban("203.0.113.14");
    call(Call::new("DELETE", "/api/v1/bans/203.0.113.14"));
    wait_for(&one, case("evt_ip_unbanned"));
    call(Call::new("POST", "/api/v1/patterns").body(json, r#"{"pattern": "corpuspattern-[a-z]+"}"#));
    wait_for(&one, case("evt_pattern_added_custom"));
    call(Call::new("DELETE", "/api/v1/patterns?pattern=corpuspattern-%5Ba-z%5D%2B"));
    wait_for(&one, case("evt_pattern_removed_custom"));
    for (id, report) in [
        (
            "evt_access_denied_decorator",
            json!({"event_type": "access_denied", "client": "203.0.113.10", "method": "GET", "path": "/api",
                   "reason": "corpus access denied", "violation_type": "corpus"}),
        ),
        (
            "evt_authentication_failed_decorator",
            json!({"event_type": "authentication_failed", "client": "203.0.113.10", "method": "GET", "path": "/api",
                   "reason": "corpus auth failed", "auth_type": "bearer"}),
        ),
        (
            "evt_country_blocked_geo",
            json!({"event_type": "country_blocked", "client": "198.51.100.9", "country": "cn", "list": "blacklist"}),
        ),
    ] {
        call(Call::new("POST", "/api/v1/events").body(json, report.to_string()));
        wait_for(&one, case(id));
    }
    wait_for(&one, case("evt_geo_lookup_failed_download"));
    write(&file, rules_of(case("evt_dynamic_rules_update_apply")));
    wait_for(&one, case("evt_dynamic_rules_update_apply"));

    // The first rules that this one hears of.
    drop(server.cli(&["flushall"]));
    let (file, rest) = settings("other");
    write(&file, rules_of(case("evt_emergency_mode_activated")));
    let other = Replica::start(&server, security, &rest).await;
    wait_for(&other, case("evt_emergency_mode_activated"));
    drop(other);

    drop(server.cli(&["script", "flush"]));
    assert_eq!(one.check("203.0.113.16", "/api").await, 200);
    wait_for(&one, case("evt_rate_limit_script_reloaded"));
    server.kill();
    wait_for(&one, case("evt_redis_error_connection_failed"));
}

#[test]
fn the_table_of_causes_names_every_call_that_no_request_makes() {
    let in_process = [
        "request",
        "path_excluded",
        "bypass",
        "headers_applied",
        "cloud_stub",
        "ipban_fault",
        "detect",
        "behavior_action",
        "csp_report",
        "monitor_anomaly",
        "monitor_callback_fault",
    ];
    for case in cases() {
        for drive in case["drives"].as_array().unwrap() {
            let call = drive["call"].as_str().unwrap_or("request");
            let at_the_service = AT_THE_SERVICE.iter().any(|(known, how)| *known == call && !how.is_empty());
            assert!(in_process.contains(&call) != at_the_service, "{call}");
        }
    }
}
