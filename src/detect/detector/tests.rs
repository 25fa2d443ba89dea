use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::config::exclusions::{Exclusion, Profile};
use crate::detect::batch;
use crate::detect::reach::Reach;
use crate::detect::rows::PatternFile;
use crate::detect::{Detection, Meter, Scope, Source, Unmetered};
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Request, Tls};

/// The mask of every view.
const ALL_VIEWS: u8 = (1 << View::ALL.len()) - 1;

static BALANCED: LazyLock<Detector> = LazyLock::new(|| detector(Profile::Balanced));
static GUARD_CORE: LazyLock<Detector> = LazyLock::new(|| detector(Profile::GuardCore));

fn detector(profile: Profile) -> Detector {
    let detection = DetectionConfig { profile, ..DetectionConfig::default() };
    Detector::compile(&SecurityConfig::default(), &detection).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

#[test]
fn every_row_finds_its_hits_and_leaves_its_misses() {
    let mut wrong = BALANCED.wrong_examples();
    wrong.extend(GUARD_CORE.wrong_examples());
    wrong.dedup();
    assert!(wrong.is_empty(), "{} examples are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// One row of each kind that the tests below need, beside the built-in ones.
const EXTRA: &str = r"
category: sqli
rows:
  - {id: T-HALF, about: half a threat, pattern: 'halfway', weight: 0.5, views: [raw, processed], hits: [halfway, a halfway], misses: [a, b]}
  - {id: T-WHOLE, about: a threat, pattern: 'wholly', hits: [wholly, a wholly], misses: [a, b]}
  - {id: T-NOISE, about: a noisy one, pattern: 'noisily', gates: [noise], hits: [noisily, a noisily], misses: [a, b]}
  - {id: T-PATH, about: a path, pattern: '[/\\]?pathly', gates: [separator], contexts: [query], hits: [/pathly, '\pathly'], misses: [pathly, b]}
";

static EXTRA_DETECTOR: LazyLock<Detector> = LazyLock::new(|| with(DetectionConfig::default()));

fn with(detection: DetectionConfig) -> Detector {
    let file = PatternFile { name: "extra", text: EXTRA };
    let material = Material { files: &[file], ..Material::default() };
    Detector::compile_with(&SecurityConfig::default(), &detection, &material)
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn found(detector: &Detector, text: &str, context: &str) -> Vec<String> {
    let report = detector.detect(text, &Context::parse(context));
    report.threats.iter().map(|threat| threat.row.to_string()).filter(|row| row.starts_with("T-")).collect()
}

#[test]
fn weights_add_up_and_views_do_not_count_twice() {
    let context = Context::new(Source::Unknown, "");
    let half = EXTRA_DETECTOR.detect("halfway halfway", &context);
    assert_eq!((half.is_threat, half.threat_score, half.threats.len()), (false, 0.5, 1));
    let whole = EXTRA_DETECTOR.detect("é  wholly", &context);
    assert!(whole.is_threat && whole.original_length == 9 && whole.processed_length == 8);
    let [threat] = whole.threats.as_slice() else { panic!("{whole:?}") };
    assert_eq!((threat.position, threat.matched.as_str(), threat.view), (2, "wholly", View::Processed));
}

#[test]
fn gates_refuse_what_stands_in_the_wrong_place() {
    for (text, context, expected) in [
        ("noisily", "request_body", &["T-NOISE"][..]),
        ("\u{1}\u{fffd}\u{fffd}\u{fffd}\u{fffd}noisily", "request_body", &[]),
        ("pathly", "url_path", &[]),
        ("pathly", "unknown", &["T-PATH"]),
        ("pathly", "request_body", &[]),
        ("x/pathly", "query_param:a", &["T-PATH"]),
        ("/pathly", "header:a", &[]),
    ] {
        assert_eq!(found(&EXTRA_DETECTOR, text, context), expected, "{text:?} in {context}");
    }
}

#[test]
fn exhausted_decoding_is_a_threat() {
    let nested = |times: usize| (0..times).fold("<".to_owned(), |text, _| text.replace('%', "%25").replace('<', "%3c"));
    let context = Context::new(Source::Query, "q");
    let has = |times| {
        GUARD_CORE.detect(&nested(times), &context).threats.iter().any(|threat| threat.row == "decode_budget_exhausted")
    };
    assert_eq!((has(15), has(16), has(17)), (false, true, true));
}

fn request(raw: &str) -> Request<'_> {
    Request {
        id: "",
        method: "GET",
        scheme: "https",
        host: "example.com",
        target: raw.into(),
        protocol: "HTTP/1.1",
        headers: Headers::default(),
        body: Body::Absent,
        peer: Peer::Absent,
        route: None,
        tls: Tls::default(),
    }
}

#[test]
fn a_request_ends_at_its_first_hostile_value() {
    let (found, trace) =
        EXTRA_DETECTOR.inspect_traced(&request("/p?a=b&c=wholly&d=wholly"), &Scope::default(), &Unmetered);
    let finding = found.finding.unwrap();
    assert_eq!(
        (finding.context.as_str(), finding.categories.as_slice()),
        ("query_param:c", [Category::SQLI].as_slice())
    );
    assert_eq!(finding.trigger, "Query param 'c': Value matched pattern 'T-WHOLE'");
    assert_eq!(trace.values.len(), 4);
    let last = trace.values.last().unwrap();
    assert!(last.is_threat && last.hits.iter().any(|hit| hit.row == "T-WHOLE" && hit.span == Some(0..6)));
    assert_eq!(EXTRA_DETECTOR.inspect(&request("/p?a=b"), &Scope::default(), &Unmetered), Detection::default());
}

#[test]
fn a_value_that_was_seen_before_gets_the_verdict_it_got_first() {
    let mut clean = 0;
    for row in BALANCED.table.rows() {
        for (value, _) in row.hits.iter().chain(&row.misses).map(rows::Example::parts) {
            for name in ["user-agent", "x-note", "cookie"] {
                let mut request = request("/");
                request.headers.push(name, value.as_bytes());
                let inspect = || BALANCED.inspect(&request, &Scope::default(), &Unmetered);
                let first = inspect();
                clean += usize::from(first == Detection::default());
                for _ in 0..3 {
                    assert_eq!(inspect(), first, "{name}: {value}");
                }
            }
        }
    }
    assert!(0 < clean);
}

#[test]
fn findings_can_be_excluded_or_only_observed() {
    let excluded = Exclusion { row: Some("T-WHOLE".into()), param: Some("c".into()), ..Exclusion::default() };
    let detector = with(DetectionConfig { exclusions: vec![excluded.clone()], ..DetectionConfig::default() });
    let blocked = |detector: &Detector, scope: &Scope, raw: &str| {
        detector.inspect(&request(raw), scope, &Unmetered).finding.is_some()
    };
    assert!(!blocked(&detector, &Scope::default(), "/?c=wholly"));
    assert!(blocked(&detector, &Scope::default(), "/?d=wholly"));
    let scope = Scope { exclusions: vec![excluded], ..Scope::default() };
    assert!(!blocked(&EXTRA_DETECTOR, &scope, "/?c=wholly"));

    let logged = DetectionConfig { log_only_rows: ["T-WHOLE".to_owned()].into(), ..DetectionConfig::default() };
    let detection = with(logged).inspect(&request("/?c=wholly&d=wholly"), &Scope::default(), &Unmetered);
    assert_eq!((detection.finding, detection.observed.len()), (None, 2));
    assert!(detection.observed.iter().all(|finding| finding.would_block && finding.score == 1.0));
    let logged = DetectionConfig { log_only_categories: ["sqli".to_owned()].into(), ..DetectionConfig::default() };
    assert!(!blocked(&with(logged), &Scope::default(), "/?c=wholly"));
    let scope = Scope { categories: CategorySet::DETECTION.without(Category::SQLI), ..Scope::default() };
    assert!(!blocked(&EXTRA_DETECTOR, &scope, "/?c=wholly"));
}

#[test]
fn a_request_out_of_time_is_a_threat() {
    struct Spent;
    impl Meter for Spent {
        fn is_spent(&self) -> bool {
            true
        }
    }
    let long = format!("/?a={}", "x".repeat(5000));
    let finding = EXTRA_DETECTOR.inspect(&request(&long), &Scope::default(), &Spent).finding.unwrap();
    assert_eq!(finding.threats.first().map(|threat| threat.row.as_ref()), Some("scan_time_budget_exhausted"));
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

#[test]
fn rows_are_compiled_again_only_when_they_changed() {
    let (security, detection) = (SecurityConfig::default(), DetectionConfig::default());
    let again = |security: &SecurityConfig, detection: &DetectionConfig, files: &[PatternFile<'_>]| {
        let material = Material { files, previous: Some(&BALANCED), ..Material::default() };
        Detector::compile_with(security, detection, &material).unwrap().shares_rows_with(&BALANCED)
    };
    assert!(again(&security, &detection, &[]));
    let limited = SecurityConfig { rate_limit: 7, detection_threat_score_threshold: 2.0, ..security.clone() };
    assert!(again(&limited, &detection, &[]), "limits and thresholds are no input of the rows");
    let guard_core = DetectionConfig { profile: Profile::GuardCore, ..detection.clone() };
    assert!(!again(&security, &guard_core, &[]));
    assert!(!again(&security, &detection, &[PatternFile { name: "extra", text: EXTRA }]));
}

#[test]
fn odd_text_of_no_known_kind_convicts_under_our_profile_only_what_a_row_suspects_too() {
    let odd = format!("window location cookie document <b> f(x) {{a}} $b c++ d://e cafe0123 {}", "z".repeat(100));
    let rows =
        |report: &Report| -> Vec<String> { report.threats.iter().map(|threat| threat.row.to_string()).collect() };
    let context = Context::new(Source::Unknown, "");
    let alone = EXTRA_DETECTOR.detect(&odd, &context);
    assert_eq!((alone.is_threat, rows(&alone)), (false, vec![SUSPICIOUS.to_owned()]));
    let suspected = EXTRA_DETECTOR.detect(&format!("{odd} halfway"), &context);
    assert!(suspected.is_threat, "{:?}", rows(&suspected));
    assert_eq!(rows(&suspected), ["T-HALF", SUSPICIOUS]);
    // Half a threat without the oddness is none, and neither is oddness without a score above the threshold.
    assert!(!EXTRA_DETECTOR.detect("halfway", &context).is_threat);
    let reference = GUARD_CORE.detect(&odd, &context);
    assert!(reference.is_threat && rows(&reference).contains(&SUSPICIOUS.to_owned()), "{:?}", rows(&reference));
}

fn with_custom(patterns: &[&str]) -> Detector {
    let custom_patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let detection = DetectionConfig { custom_patterns, ..DetectionConfig::default() };
    let material = Material { previous: Some(&BALANCED), ..Material::default() };
    Detector::compile_with(&SecurityConfig::default(), &detection, &material).unwrap()
}

#[test]
fn custom_patterns_count_like_rows_in_every_context_and_category() {
    let detector = with_custom(&["forbidden fruit", "^4711$"]);
    let row = custom::row("forbidden fruit");
    for context in ["query_param:q", "header:x", "url_path", "request_body"] {
        for text in ["a Forbidden  Fruit", "forbidden%20fruit"] {
            let report = detector.detect(text, &Context::parse(context));
            let rows: Vec<_> = report.threats.iter().map(|threat| threat.row.as_ref()).collect();
            assert!(report.is_threat && rows == [row.as_str()], "{context} {text}: {report:?}");
            assert_eq!((report.threats[0].category, report.threat_score), (Category::CUSTOM, 1.0));
        }
    }
    assert!(!detector.detect("forbidden tree", &Context::parse("header:x")).is_threat);
    assert_eq!(detector.custom_patterns().len(), 2);
    assert_eq!(detector.all_patterns().len(), detector.default_patterns().len() + 2);
    let found = |text: &str| {
        let mut headers = Headers::default();
        headers.push("content-type", b"application/json");
        let body = Body::Complete(text.as_bytes());
        let request = Request { method: "POST", body, headers, ..request("/p") };
        let without = Scope { categories: CategorySet::EMPTY, ..Scope::default() };
        let found = [Scope::default(), without].map(|scope| detector.inspect(&request, &scope, &Unmetered).finding);
        assert_eq!(found[0].is_some(), found[1].is_some(), "no category keeps a custom pattern from it");
        found[0].is_some()
    };
    assert!(found(r#"{"a": "4711"}"#));
    assert!(found(r#"{"a": 4711}"#), "a JSON number is looked at too");
    assert!(!found(r#"{"a": 4712}"#));
}

#[test]
fn patterns_added_at_run_time_outlive_a_reload() {
    let first = with_custom(&["one"]);
    assert_eq!(first.custom().add("two", &Unmetered), Ok(true));
    let detection = DetectionConfig { custom_patterns: vec!["three".to_owned()], ..DetectionConfig::default() };
    let material = Material { previous: Some(&first), ..Material::default() };
    let next = Detector::compile_with(&SecurityConfig::default(), &detection, &material).unwrap();
    let texts: Vec<String> = next.custom_patterns().into_iter().map(|info| info.pattern).collect();
    assert_eq!(texts, ["three", "two"]);
    let is_found = |text: &str| next.detect(text, &Context::parse("unknown")).is_threat;
    assert!(!is_found("one") && is_found("two") && is_found("three"));
    assert!(first.custom().remove("two"));
    assert!(!is_found("two"), "both detectors have the same");
}

#[test]
fn a_configured_pattern_that_is_refused_is_named() {
    let custom_patterns = vec!["fine".to_owned(), "a*".to_owned()];
    let detection = DetectionConfig { custom_patterns, ..DetectionConfig::default() };
    let material = Material { previous: Some(&BALANCED), ..Material::default() };
    let errors = Detector::compile_with(&SecurityConfig::default(), &detection, &material).unwrap_err();
    assert_eq!(errors[0].key, "detection.custom_patterns[1]");
    assert!(errors[0].message.contains("empty"), "{errors:?}");
}

#[test]
fn a_value_of_bait_alone_spends_its_work_and_that_is_a_threat() {
    let bait = "$;${${lower:j}${::-n}di:rmi://h};:serve;sleep (8;pow;\u{e9}\u{e9}\u{e9}\u{e9};";
    let context = Context::new(Source::Body, "");
    let report = BALANCED.detect(&bait.repeat(200), &context);
    let spent = report.threats.iter().find(|threat| threat.row == "work_budget_exhausted").unwrap();
    assert!(report.is_threat && spent.method == Method::Budget && spent.category != Category::CUSTOM, "{spent:?}");
    assert_eq!(BALANCED.detect(&bait.repeat(200), &context), report, "the same each time");
    let report = BALANCED.detect(bait, &context);
    assert!(report.threats.iter().all(|threat| threat.row != "work_budget_exhausted"), "once is no work: {report:?}");
}

/// Notes what a request's second looks spent.
#[derive(Default)]
struct Ledger(std::cell::Cell<(usize, usize)>);

impl Meter for Ledger {
    fn is_spent(&self) -> bool {
        false
    }

    fn worked(&self, spent: usize, most: usize) {
        self.0.set((spent, most));
    }
}

/// The verdict on a request with this body, and what its second looks spent of how much.
fn spent(kind: &str, body: &[u8]) -> (Detection, (usize, usize)) {
    let mut request = Request { method: "POST", body: Body::Complete(body), ..request("/p") };
    request.headers.push("content-type", kind.as_bytes());
    let ledger = Ledger::default();
    let found = BALANCED.inspect(&request, &Scope::default(), &ledger);
    (found, ledger.0.get())
}

/// The last look of a request may end what it began: it reads ahead no further.
const LOOK_BYTES_MAX: usize = 256 * 1024;

#[test]
fn work_is_of_the_request_and_not_of_each_of_its_values() {
    let values: Vec<String> =
        (0..400).map(|number| format!("    return self.value_{number}(a, b) + {{'x': 1}}")).collect();
    let one = values.first().unwrap();
    let (found, (of_one, _)) = spent("application/json", format!("[\"{one}\"]").as_bytes());
    assert!(found.finding.is_none() && 0 < of_one, "{found:?}");
    let (found, (of_all, most)) = spent("application/json", format!("[\"{}\"]", values.join("\",\"")).as_bytes());
    let is_spent =
        found.finding.is_some_and(|finding| finding.threats.iter().any(|threat| threat.row == WORK_EXHAUSTED));
    assert_eq!(is_spent, most < of_all);
    assert!(of_all < most + LOOK_BYTES_MAX && 100 * of_one < of_all, "{of_one} for one, {of_all} of {most} for all");
}

/// What is recalled costs what it took, and the finding that all is spent is that of a look without recall.
#[test]
fn recalled_work_ends_in_the_same_finding() {
    let values = vec![format!("{}x", ";".repeat(60)); 40];
    let body = serde_json::to_vec(&values).unwrap();
    let mut request = Request { method: "POST", body: Body::Complete(&body), ..request("/p") };
    request.headers.push("content-type", b"application/json");
    let (slow, _) = BALANCED.inspect_traced(&request, &Scope::default(), &Unmetered);
    let threat = slow.finding.as_ref().and_then(|finding| finding.threats.first()).unwrap();
    assert_eq!((&*threat.row, threat.category), (WORK_EXHAUSTED, Category::CMD_INJECTION));
    for round in 0..4 {
        assert_eq!(BALANCED.inspect(&request, &Scope::default(), &Unmetered), slow, "round {round}");
    }
}

/// Values of every row's examples, and plain ones.
fn all_examples() -> Vec<&'static str> {
    let rows = BALANCED.table.rows().iter();
    let examples = rows.flat_map(|row| row.hits.iter().chain(&row.misses)).map(|example| example.parts().0);
    let plain = [
        "blue shoes",
        "42",
        "text/html, a/b;q=0.8",
        "2024-01-02T03:04:05Z",
        "https://example.com/a?b=c",
        "O'Neil & co",
        "ends in a line\n",
        "\u{1}",
    ];
    examples.chain(plain).collect()
}

/// Those that are one line.
fn examples() -> Vec<&'static str> {
    all_examples().into_iter().filter(|value| !value.contains(['\r', '\n'])).collect()
}

/// The rows found in each of some texts of a kind that stand side by side.
fn found_together(reach: Reach, texts: &[&str]) -> Vec<Vec<u16>> {
    let buffer: Vec<u8> = texts.iter().flat_map(|text| text.bytes().chain([0xff])).collect();
    let ends: Vec<usize> = texts.iter().scan(0, |end, text| Some((*end += text.len() + 1, *end).1)).collect();
    let mut found = vec![Vec::new(); texts.len()];
    let text_of = |end: u32| ends.partition_point(|known| *known < end as usize) as u32;
    BALANCED.table.find_together(reach, &buffer, text_of, |row, _, text| found[text as usize].push(row));
    found.iter_mut().for_each(|rows| {
        rows.sort_unstable();
        rows.dedup();
    });
    found
}

#[test]
fn rows_find_in_a_text_among_others_what_they_find_in_it_alone() {
    let alone = |text: &&str| -> Vec<u16> {
        let text = Text { text, views: ALL_VIEWS, in_full: false };
        let found = BALANCED.table.candidates(text, Source::Unknown, CategorySet::DETECTION);
        found.into_iter().map(|(row, _)| row).collect()
    };
    for (reach, least) in [(Reach::Addresses, 50), (Reach::All, 500)] {
        let is_of_kind =
            |text: &&str| batch::REACHES.iter().find(|known| Reach::of(text.as_bytes()) <= **known) == Some(&reach);
        let texts: Vec<_> = all_examples().into_iter().filter(is_of_kind).collect();
        let mut hits = 0;
        for group in texts.chunks(7) {
            let together = found_together(reach, group);
            for (text, rows) in group.iter().zip(&together) {
                assert_eq!(*rows, alone(text), "{text:?} among {group:?}");
                hits += rows.len();
            }
        }
        assert!(least < hits, "{hits} in {} texts", texts.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// What is scanned together is found as if each value had been looked at alone: a traced inspection does that.
    #[test]
    fn values_scanned_together_are_judged_as_if_alone(
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        odd in "[a-z'=<;|&$(){}/. 0-9-]{0,24}",
    ) {
        static EXAMPLES: LazyLock<Vec<&'static str>> = LazyLock::new(examples);
        let names: Vec<String> = (0..=picks.len()).map(|number| format!("x-{number}")).collect();
        let values = picks.iter().map(|pick| *pick.get(&EXAMPLES)).chain([odd.as_str()]);
        let mut request = request("/items?page=2&sort=price");
        for (name, value) in names.iter().zip(values) {
            request.headers.push(name, value.as_bytes());
        }
        let (alone, _) = BALANCED.inspect_traced(&request, &Scope::default(), &Unmetered);
        // Found clean once, found clean twice, recalled.
        for round in 0..3 {
            prop_assert_eq!(&BALANCED.inspect(&request, &Scope::default(), &Unmetered), &alone, "round {}", round);
        }
    }

    /// Whatever a client sends, work ends at its bound, and is the same however often the same was seen before.
    #[test]
    fn work_is_bounded_and_the_same_each_time(
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        odd in prop::collection::vec(any::<u8>(), 0..40),
        times in 1_usize..40,
        kind in prop::sample::select(vec!["application/json", "text/plain", "application/xml", "application/x-www-form-urlencoded"]),
    ) {
        static EXAMPLES: LazyLock<Vec<&'static str>> = LazyLock::new(examples);
        let mut body: Vec<u8> = picks.iter().flat_map(|pick| pick.get(&EXAMPLES).bytes()).collect();
        body.extend(odd);
        let body = match kind {
            "application/json" => serde_json::to_vec(&vec![String::from_utf8_lossy(&body); times]).unwrap(),
            _ => body.repeat(times),
        };
        let (found, (spent_first, most)) = spent(kind, &body);
        prop_assert!(spent_first <= most + LOOK_BYTES_MAX, "{} of {}", spent_first, most);
        for _ in 0..3 {
            prop_assert_eq!(spent(kind, &body), (found.clone(), (spent_first, most)));
        }
    }
}
