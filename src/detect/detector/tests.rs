use std::sync::LazyLock;

use super::*;
use crate::config::exclusions::Profile;
use crate::detect::Source;

static BALANCED: LazyLock<Detector> = LazyLock::new(|| detector(Profile::Balanced));
static GUARD_CORE: LazyLock<Detector> = LazyLock::new(|| detector(Profile::GuardCore));

fn detector(profile: Profile) -> Detector {
    let detection = DetectionConfig { profile, ..DetectionConfig::default() };
    Detector::compile(&SecurityConfig::default(), &detection).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// Runs a row's own examples through the whole detector; says which ones it gets wrong.
fn failures(profile: Profile, detector: &Detector) -> Vec<String> {
    let mut failures = Vec::new();
    for row in detector.table.rows() {
        let examples = row.hits.iter().map(|hit| (hit, true)).chain(row.misses.iter().map(|miss| (miss, false)));
        for (example, expected) in examples {
            let (value, context) = example.parts();
            let report = detector.detect(value, &Context::parse(context));
            if report.threats.iter().any(|threat| threat.row == row.id) != expected {
                let kind = if expected { "hit is missed" } else { "miss is found" };
                let others: Vec<_> = report.threats.iter().map(|threat| threat.row.as_ref()).collect();
                failures.push(format!("{} {profile:?}: {kind}: {value:?} as {context}; found {others:?}", row.id));
            }
        }
    }
    failures
}

#[test]
fn every_row_finds_its_hits_and_leaves_its_misses() {
    let mut failures = failures(Profile::Balanced, &BALANCED);
    failures.extend(self::failures(Profile::GuardCore, &GUARD_CORE));
    assert!(failures.is_empty(), "{} examples are wrong:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn traversal_that_decoding_brings_forth_is_a_threat() {
    let context = Context::new(Source::Path, "");
    let count = |text: &str| {
        GUARD_CORE.detect(text, &context).threats.iter().filter(|threat| threat.row == "PTR-COMPUTED").count()
    };
    assert_eq!(count("../x"), 0);
    assert_eq!(count("plain"), 0);
    assert_eq!(count("..%2fx"), 1);
    assert_eq!(count("../a/%2e%2e/x"), 1);
}
