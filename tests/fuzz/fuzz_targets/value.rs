//! One value through the decode chain, every row, every second look and the semantic analyser, in both profiles. The
//! glance that spares short plain texts the decode chain is held to the chain itself, and the bound that spares ordinary
//! texts the analysis to the analysis.
#![no_main]

mod kept;

use std::sync::LazyLock;

use envoy_guard::config::exclusions::{DetectionConfig, Profile};
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::detect::{Context, Detector, Material, Method, Report};
use libfuzzer_sys::fuzz_target;

/// A semantic threshold that every text exceeds: the analyser runs to its end.
const THRESHOLD: f64 = 0.01;
/// Texts up to this length get the glance; what is appended here puts any text beyond it and means nothing.
const GLANCE_MAX: usize = 256;

/// A detector whose semantic analyser runs to its end, and one that has the usual threshold.
static DETECTORS: LazyLock<[[Detector; 2]; 2]> = LazyLock::new(|| {
    [Profile::Balanced, Profile::GuardCore].map(|profile| {
        let usual = SecurityConfig::default();
        let eager = SecurityConfig { detection_semantic_threshold: THRESHOLD, ..SecurityConfig::default() };
        let detection = DetectionConfig { profile, ..DetectionConfig::default() };
        let material = Material { cache: &kept::Kept, ..Material::default() };
        let eager = Detector::compile_with(&eager, &detection, &material).expect("the built-in rows compile");
        let material = Material { previous: Some(&eager), ..material };
        let usual = Detector::compile_with(&usual, &detection, &material).expect("they compiled before");
        [eager, usual]
    })
});

fuzz_target!(
    init: {
        // The first input must not pay for it.
        LazyLock::force(&DETECTORS);
    },
    |data: &[u8]| run(data)
);

fn run(data: &[u8]) {
    let [place, text @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let context = match place >> 1 & 7 {
        0 => "query_param:q",
        1 => "header:cookie",
        2 => "header:referer",
        3 => "url_path",
        4 => "request_body",
        5 => "request_body:form_field",
        6 => "request_body:multipart_field",
        _ => "unknown",
    };
    let [detector, usual] = &DETECTORS[usize::from(place & 1)];
    let report = detector.detect(text, &Context::parse(context));
    assert_eq!(report.original_length, text.chars().count());
    spares_only_what_is_ordinary(&report, &usual.detect(text, &Context::parse(context)), usual.semantic_threshold());
    if report.processed_length != report.original_length || GLANCE_MAX < text.len() {
        return;
    }
    // Blanks at an end or in a row and control characters would be taken away: those texts are not plain. Neither are texts that the chain
    // changed without changing their length.
    let filler = " zz".repeat(GLANCE_MAX / 3 + 1);
    let is_plain = !text.is_empty()
        && text.is_ascii()
        && !text.ends_with(' ')
        && !text.bytes().any(|byte| byte < 0x20)
        && !text.contains(['%', '&', '\\', '#', '-', '*', '/']);
    if is_plain {
        let long = format!("{text}{filler}");
        let slow = detector.detect(&long, &Context::parse(context));
        assert_eq!(
            slow.processed_length,
            long.chars().count(),
            "the chain changes what the glance calls plain: {text:?}"
        );
    }
}

/// The usual threshold reports what the whole analysis scores above it, and the rows do not depend on it.
fn spares_only_what_is_ordinary(eager: &Report, usual: &Report, threshold: f64) {
    let expected = eager.semantic.as_ref().filter(|analysis| threshold < analysis.score);
    assert_eq!(usual.semantic.as_ref(), expected, "the analysis was spared, or not");
    let rows = |report: &Report| {
        let rows = report.threats.iter().filter(|threat| threat.method != Method::Semantic);
        rows.map(|threat| (threat.row.clone(), threat.position)).collect::<Vec<_>>()
    };
    assert_eq!(rows(usual), rows(eager));
}
