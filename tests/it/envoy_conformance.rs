//! guard-core's pipeline cases, sent through a real Envoy: status, body and headers must come out as pinned.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::mmdb::{Layout, database};
use crate::stack::{Answer, Call, Stack};

/// The settings every case starts from.
fn base() -> Map<String, Value> {
    json!({
        "enable_redis": false, "enable_rate_limit_auto_ban": false, "enable_ip_banning": false,
        "auto_ban_threshold": 1000, "trusted_proxies": ["127.0.0.1"],
    })
    .as_object()
    .unwrap()
    .clone()
}

/// The policy file of a case, as JSON (which is YAML too).
fn policy(case: &Value, folder: &Path, grpc: u16, admin: u16) -> String {
    let mut security = base();
    security.extend(case["config"].as_object().unwrap().clone());
    let countries: BTreeMap<_, _> = case["geo_countries"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(address, country)| (address.parse().unwrap(), country.as_str().unwrap().to_owned()))
        .collect();
    if !countries.is_empty() {
        let file = folder.join("countries.mmdb");
        std::fs::write(&file, database(Layout::MaxMind, &countries)).unwrap();
        security.insert("geo_ip_handler".into(), json!(file));
    }
    let routes: Vec<Value> = case["routes"]
        .as_object()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(number, (path, overrides))| {
            let mut route = overrides.as_object().unwrap().clone();
            route.insert("name".into(), json!(format!("route-{number}")));
            route.insert("match".into(), json!([{ "path": path }]));
            Value::Object(route)
        })
        .collect();
    json!({
        "security": security, "routes": routes,
        "listeners": { "grpc": format!("127.0.0.1:{grpc}") }, "admin": { "address": format!("127.0.0.1:{admin}") },
    })
    .to_string()
}

fn call(drive: &Value) -> Call {
    let method = drive["method"].as_str().unwrap_or("GET");
    let mut call =
        Call::new(method, drive["url_path"].as_str().unwrap_or("/api")).from(drive["client_ip"].as_str().unwrap());
    for (name, value) in drive["headers"].as_object().into_iter().flatten() {
        call = call.header(name, value.as_str().unwrap());
    }
    if drive["stage"] == "process_response" {
        call = call.header("x-answer", &drive["response_status"].as_u64().unwrap_or(200).to_string());
    }
    match drive["body"].as_str() {
        Some(body) if !body.is_empty() => call.raw_body(body),
        _ => call,
    }
}

/// What differs from the pinned answer.
fn differences(answer: &Answer, expected: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let status = expected["status"].as_u64().unwrap_or(200);
    if u64::from(answer.status) != status {
        found.push(format!("status {} instead of {status}", answer.status));
    }
    let body = expected["body"].as_str().filter(|body| status != 200 && answer.body != *body);
    found.extend(body.map(|body| format!("body {:?} instead of {body:?}", answer.body)));
    let pinned: BTreeMap<String, &str> = expected["headers"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().unwrap()))
        .collect();
    for (name, value) in &pinned {
        if answer.header(name) != Some(value) {
            found.push(format!("{name}: {:?} instead of {value:?}", answer.header(name)));
        }
    }
    // A request that passed is not pinned header by header; a refusal and a response stage are.
    if expected["status"].is_u64() {
        let ours =
            |name: &str| name.starts_with("x-") || name.contains("-policy") || name.starts_with("access-control");
        for (name, _) in &answer.headers {
            if ours(name) && !name.starts_with("x-envoy") && !pinned.contains_key(name) {
                found.push(format!("{name} should not be there"));
            }
        }
    }
    found
}

/// What a case says that came out wrong, and how many requests it took.
struct Tally {
    drives: usize,
    wrong: Vec<String>,
}

/// Sends the cases of these suites through Envoy with a shipped file.
fn play(file: &str, suites: &[&str]) -> Tally {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/conformance");
    let mut stack = Stack::of(file, &crate::stack::policy("", "", 0, 0), |text| text);
    let mut tally = Tally { drives: 0, wrong: Vec::new() };
    for suite in suites {
        let text = std::fs::read_to_string(cases.join(format!("{suite}.json")))
            .unwrap_or_else(|error| panic!("guard-core's case {suite} is missing ({error}): run `make deps` first"));
        let suite: Value = serde_json::from_str(&text).unwrap();
        for case in suite["cases"].as_array().unwrap() {
            stack.restart_guard(|folder, grpc, admin| policy(case, folder, grpc, admin));
            for (drive, expected) in case["drives"].as_array().unwrap().iter().zip(case["expected"].as_array().unwrap())
            {
                tally.drives += 1;
                let answer = stack.send(&call(drive));
                for difference in differences(&answer, expected) {
                    tally.wrong.push(format!("{file}: {}, request {}: {difference}", case["id"], tally.drives));
                }
            }
        }
    }
    tally
}

#[track_caller]
fn check(file: &str, suites: &[&str], drives: usize) {
    let tally = play(file, suites);
    assert!(tally.wrong.is_empty(), "{} differences:\n{}", tally.wrong.len(), tally.wrong.join("\n"));
    assert_eq!(tally.drives, drives, "requests of these suites");
}

#[test]
fn every_pinned_answer_comes_out_of_envoy() {
    check(
        "ext_authz.yaml",
        &["pipeline_ip_control", "pipeline_rate_limits", "pipeline_detection_response", "pipeline_headers_cors"],
        53,
    );
}

/// Rules over responses need to see them.
#[test]
fn every_pinned_response_comes_out_of_ext_proc() {
    check("ext_proc.yaml", &["pipeline_headers_cors", "pipeline_behavior_rules"], 18);
}

#[test]
fn every_pinned_response_comes_out_of_both_filters() {
    check("both.yaml", &["pipeline_headers_cors", "pipeline_behavior_rules"], 18);
}
