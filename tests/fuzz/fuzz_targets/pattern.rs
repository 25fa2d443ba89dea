//! What an operator writes: custom patterns, which find what the usual matcher finds in the same text and never panic or
//! stall, and expressions, which compile or are refused and then run over a request.
//!
//! An input is a byte that chooses, then the pattern or expression, a line end, and the text it looks at.
#![no_main]

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context as Task, Poll, Waker};

use envoy_guard::app::build::build;
use envoy_guard::config::Sources;
use envoy_guard::config::exclusions::Profile;
use envoy_guard::config::values::Expression;
use envoy_guard::detect::view::{Recipe, Views};
use envoy_guard::detect::{Context, Detector, Unmetered, View, custom};
use envoy_guard::engine::policy::{Feeds, Policy};
use envoy_guard::engine::{self};
use envoy_guard::live::Snapshot;
use envoy_guard::model::time::Timestamp;
use envoy_guard::request::headers::Headers;
use envoy_guard::request::{Body, Peer, Request, Target, Tls};
use envoy_guard::state::memory::Memory;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_800_000_000.0);
/// Longer texts are cut to views: not what is compared here.
const TEXT_MAX: usize = 2048;
const RECIPE: Recipe = Recipe { profile: Profile::Balanced, chars_max: 262_144, keep_attacks: true, regions_max: 100 };

static READY: LazyLock<Snapshot> = LazyLock::new(|| {
    let overrides = vec![("security.enable_redis".to_owned(), "false".to_owned())];
    build(&Sources { overrides, ..Sources::default() }).expect("the default configuration compiles")
});

fuzz_target!(
    init: {
        // The first input must not pay for it.
        LazyLock::force(&READY);
    },
    |data: &[u8]| run(data)
);

fn run(data: &[u8]) {
    let [choice, rest @ ..] = data else { return };
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    let (written, text) = rest.split_once('\n').unwrap_or((rest, ""));
    match choice & 1 {
        0 => pattern(&READY.policy.detector, written, text),
        _ => expression(choice >> 1 & 3, written, text),
    }
}

fn pattern(detector: &Detector, pattern: &str, text: &str) {
    let patterns = detector.custom();
    patterns.clear();
    let tested = custom::test(pattern);
    let added = patterns.add(pattern, &Unmetered);
    if added.is_err() {
        assert_eq!(patterns.count(), 0, "what is refused is not there");
    }
    match (&tested, &added) {
        (Err(error), _) => {
            assert!(error.position.is_none_or(|at| at <= pattern.len()), "{error} lies outside of {pattern:?}");
            assert!(added.is_err(), "refused alone, taken in a set: {pattern:?}");
            return;
        }
        (Ok(()), Err(error)) => panic!("taken alone, refused in a set: {pattern:?}: {error}"),
        (Ok(()), Ok(is_new)) => assert!(is_new),
    }
    let report = detector.detect(text, &Context::parse("unknown"));
    let row = custom::row(pattern);
    let is_found = report.threats.iter().any(|threat| threat.row == row);
    patterns.clear();
    // Where the dialects differ, the difference is evened out, and covered by tests of its own.
    if TEXT_MAX < text.len() || pattern.contains(['[', '\\', '&', '~']) {
        return;
    }
    let usual = regex::RegexBuilder::new(pattern).case_insensitive(true).multi_line(true).build();
    if let Ok(usual) = usual {
        let views = Views::new(text, &RECIPE);
        let seen = views.text(View::Processed);
        assert_eq!(is_found, usual.is_match(seen), "{pattern:?} in {seen:?}");
    }
}

/// Compiles the expression where it may stand, and runs it. Errors are values: nothing may panic.
fn expression(place: u8, source: &str, text: &str) {
    let snapshot = &*READY;
    let mut config = (*snapshot.config).clone();
    let source = Some(Expression(source.to_owned()));
    match place {
        0 => config.security.custom_request_check = source,
        _ => config.security.custom_request_check = source.map(|source| Expression(format!("({}) == true", source.0))),
    }
    let Ok(policy) = Policy::compile(&config, &Feeds::default(), Arc::clone(&snapshot.policy.detector)) else { return };
    let mut headers = Headers::default();
    headers.push("x-text", text.as_bytes());
    let request = Request {
        id: "",
        method: "POST",
        scheme: "https",
        host: "a",
        target: Target::from("/a?q=1&q=2"),
        protocol: "HTTP/1.1",
        headers,
        body: Body::Complete(text.as_bytes()),
        peer: Peer::from("203.0.113.9"),
        route: None,
        tls: Tls::default(),
    };
    let state = Memory::new(16);
    let mut decided = pin!(engine::decide(&policy, &state, &request, NOW, &Unmetered));
    let Poll::Ready(_) = decided.as_mut().poll(&mut Task::from_waker(Waker::noop())) else {
        panic!("memory made a request wait")
    };
}
