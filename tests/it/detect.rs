//! guard-core's conformance cases for detection, under the profile `guard_core`.
//!
//! Lengths pin the decode chain and must be exact. Verdicts pin the rows: how many of each suite agree is a floor that
//! only rises.

use std::collections::BTreeSet;
use std::path::Path;

use envoy_guard::config::exclusions::{DetectionConfig, Profile};
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::detect::{Context, Detector, Method, Report};
use serde_json::Value;

/// Suite, cases, and how many verdicts agree at least. Rule authors raise the last number.
const SUITES: [(&str, usize, usize); 13] = [
    ("xss", 22, 22),
    ("sqli", 22, 22),
    ("cmd_injection", 18, 18),
    ("path_traversal", 10, 10),
    ("inclusion_sensitive_recon", 18, 18),
    ("misc_injection", 29, 29),
    ("encoding", 8, 8),
    ("semantic", 6, 6),
    ("benign", 15, 15),
    ("context_matrix", 9, 9),
    ("boundaries", 8, 8),
    ("binary_bodies", 19, 19),
    ("cost_bodies", 9, 9),
];

/// Attacks that guard-core is known to miss: finding them is no fault.
const KNOWN_MISSES: [&str; 13] = [
    "sqli_parenthesized",
    "sqli_having_clause",
    "cmdi_powershell_encoded",
    "cmdi_brace_expansion",
    "cmdi_subprocess_call",
    "recon_django_debug",
    "nosql_or_tautology",
    "deser_yaml_construct",
    "proto_pollution_constructor",
    "http_split_double_crlf",
    "template_velocity_set",
    "file_upload_htaccess",
    "cost_threat_mid_1mib",
];

fn cases(suite: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/conformance").join(format!("{suite}.json"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; fetch the conformance cases first", path.display()));
    let mut file: Value = serde_json::from_str(&text).unwrap();
    match file.get_mut("cases").map(Value::take) {
        Some(Value::Array(cases)) => cases,
        other => panic!("{suite} has no cases: {other:?}"),
    }
}

fn text<'a>(case: &'a Value, part: &str, key: &str) -> &'a str {
    case.get(part).unwrap_or(case).get(key).and_then(Value::as_str).unwrap()
}

fn length(case: &Value, key: &str) -> usize {
    usize::try_from(case["expected"][key].as_u64().unwrap()).unwrap()
}

/// What a verdict has that the pinned one has not, or the other way round; `None` when they agree.
fn disagreement(case: &Value, report: &Report) -> Option<String> {
    let expected = &case["expected"];
    let is_threat = expected["is_threat"].as_bool().unwrap();
    let found: Vec<&str> = report.threats.iter().map(|threat| threat.row.as_ref()).collect();
    if is_threat != report.is_threat {
        if report.is_threat && KNOWN_MISSES.contains(&text(case, "", "id")) {
            return None;
        }
        return Some(format!("is_threat should be {is_threat}; found {found:?}"));
    }
    let score = expected["threat_score"].as_f64().unwrap();
    if 1e-6 < (score - report.threat_score).abs() {
        return Some(format!("score {} should be {score}; found {found:?}", report.threat_score));
    }
    if let Some(difference) = semantic_disagreement(expected, report) {
        return Some(difference);
    }
    let pinned: BTreeSet<&str> =
        expected["threats"].as_array().unwrap().iter().filter_map(|threat| threat["category"].as_str()).collect();
    let ours: BTreeSet<&str> = report
        .threats
        .iter()
        .filter(|threat| threat.method != Method::Semantic)
        .map(|threat| threat.category.name())
        .collect();
    (!pinned.is_empty() && pinned.is_disjoint(&ours))
        .then(|| format!("categories {ours:?} should meet {pinned:?}; found {found:?}"))
}

/// How the semantic analysis differs from the pinned one.
fn semantic_disagreement(expected: &Value, report: &Report) -> Option<String> {
    let threats = expected["threats"].as_array().unwrap();
    let pinned: Vec<&Value> = threats.iter().filter(|threat| threat["type"] == "semantic").collect();
    let ours: Vec<_> = report.threats.iter().filter(|threat| threat.method == Method::Semantic).collect();
    let agree = pinned.len() == ours.len()
        && pinned.iter().zip(&ours).all(|(pinned, ours)| {
            let row = format!("semantic:{}", pinned["attack_type"].as_str().unwrap());
            row == ours.row && (pinned["probability"].as_f64().unwrap() - ours.probability).abs() < 1e-6
        });
    if !agree {
        return Some(format!("semantic threats {ours:?} should be {pinned:?}"));
    }
    let pinned = &pinned.first()?["analysis"];
    let Some(ours) = report.semantic.as_deref() else { return Some("the semantic analysis is missing".to_owned()) };
    let near = |key: &str, ours: f64| (pinned[key].as_f64().unwrap() - ours).abs() < 1e-5;
    let probabilities = ours.attack_probabilities.iter().all(|(kind, probability)| {
        let kind = serde_json::to_value(kind).unwrap();
        (pinned["attack_probabilities"][kind.as_str().unwrap()].as_f64().unwrap() - probability).abs() < 1e-6
    });
    let agree = probabilities
        && near("entropy", ours.entropy)
        && near("code_injection_risk", ours.code_injection_risk)
        && pinned["encoding_layers"] == ours.encoding_layers
        && pinned["is_obfuscated"] == ours.is_obfuscated
        && pinned["token_count"] == ours.token_count
        && pinned["suspicious_patterns"] == serde_json::to_value(&ours.suspicious_patterns).unwrap();
    (!agree).then(|| format!("analysis {ours:?} should be {pinned}"))
}

#[test]
fn conformance_values_get_the_pinned_verdicts() {
    let detection = DetectionConfig { profile: Profile::GuardCore, ..DetectionConfig::default() };
    let detector = Detector::compile(&SecurityConfig::default(), &detection).unwrap();
    let (mut wrong, mut total) = (Vec::new(), 0);
    for (suite, count, floor) in SUITES {
        let cases = cases(suite);
        assert_eq!(cases.len(), count, "{suite}");
        let mut agreed = 0;
        for case in &cases {
            let report =
                detector.detect(text(case, "input", "content"), &Context::parse(text(case, "input", "context")));
            let id = text(case, "", "id");
            assert_eq!(report.original_length, length(case, "original_length"), "{id}: original_length");
            assert_eq!(report.processed_length, length(case, "processed_length"), "{id}: processed_length");
            assert_eq!(Report::METHOD, text(case, "expected", "detection_method"), "{id}");
            match disagreement(case, &report) {
                None => agreed += 1,
                Some(difference) => println!("  {id}: {difference}"),
            }
        }
        println!("{suite}: {agreed} of {count}");
        total += agreed;
        if agreed < floor {
            wrong.push(format!("{suite}: {agreed} of {count} agree, at least {floor} did before"));
        }
    }
    println!("detect conformance: {total} of 193");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
