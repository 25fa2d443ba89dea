use proptest::prelude::*;

use super::*;
use crate::detect::Unmetered;

fn set(patterns: &[&str]) -> CustomPatterns {
    let set = CustomPatterns::default();
    for pattern in patterns {
        assert_eq!(set.add(pattern, &Unmetered), Ok(true), "{pattern}");
    }
    set
}

fn found(set: &CustomPatterns, text: &str) -> Vec<(String, usize)> {
    let mut threats = Vec::new();
    set.find(text, View::Processed, &mut threats);
    threats.into_iter().map(|threat| (threat.matched, threat.position)).collect()
}

#[track_caller]
fn check(pattern: &str, cases: &[(&str, Option<&str>)]) {
    let set = set(&[pattern]);
    for (text, expected) in cases {
        let found = found(&set, text);
        assert_eq!(found.first().map(|(matched, _)| matched.as_str()), *expected, "{pattern} in {text:?}");
        assert!(found.len() <= 1, "one threat a pattern: {found:?}");
    }
}

#[test]
fn patterns_ignore_case_and_see_lines() {
    check("malicious.*pattern", &[("a Malicious PATTERN", Some("Malicious PATTERN")), ("malicious\npattern", None)]);
    check("^drop$", &[("x\ndrop\ny", Some("drop")), ("x drop", None)]);
    check(r"end\Z", &[("the end", Some("end")), ("the end\n", None)]);
    check("é{2}.x", &[("aéÉ☃x", Some("éÉ☃x")), ("éx", None)]);
    check("foo{2,3}bar", &[("fooobar", Some("fooobar")), ("fobar", None)]);
    check("[[&~]{2}", &[("a[~b", Some("[~")), ("ab", None)]);
}

#[test]
fn look_around_and_back_references_are_decided_after_the_automaton() {
    check("foo(?!bar)", &[("foobar", None), ("foobaz", Some("foo")), ("foobar foo", Some("foo"))]);
    check("(?<=user=)root", &[("user=root", Some("root")), ("name=root", None)]);
    check(r"(['\x22])x\1", &[("'x\"", None), ("'x'", Some("'x'"))]);
    check(r"(?P<q>a|b)-(?P=q)", &[("a-b", None), ("b-b", Some("b-b"))]);
    let far = |between: usize| format!("{}foobar{}foo!", " ".repeat(700), "x".repeat(between));
    for between in [0, 100, 511, 512, 513, 3000, 40_000] {
        let text = far(between);
        let found = found(&set(&["foo(?!bar)"]), &text);
        assert_eq!(found, [("foo".to_owned(), 706 + between)], "{between}");
    }
    assert_eq!(found(&set(&["foo(?!bar)"]), &" foobar".repeat(200)), []);
}

#[test]
fn what_cannot_be_decided_within_its_bounds_is_a_finding() {
    let near = set(&["foo(?!bar)"]);
    let text = format!("foobar{}", " ".repeat(REACH)).repeat(2 * STRETCHES_MAX);
    let mut threats = Vec::new();
    near.find(&text, View::Processed, &mut threats);
    assert_eq!(threats.len(), 1);
    assert_eq!((threats[0].method, threats[0].row.as_ref()), (Method::Budget, row("foo(?!bar)").as_str()));
    // Back-tracking without end, in one stretch.
    let endless = set(&["(a|aa)+(?=cx)c"]);
    let mut threats = Vec::new();
    endless.find(&format!("{}c", "a".repeat(400)), View::Processed, &mut threats);
    assert_eq!(threats.iter().map(|threat| threat.method).collect::<Vec<_>>(), [Method::Budget]);
}

#[test]
fn a_refusal_says_why_and_where() {
    let long = "x".repeat(PATTERN_BYTES_MAX + 1);
    for (pattern, kind, position) in [
        ("", Refused::Empty, None),
        (long.as_str(), Refused::TooLong, None),
        ("a*", Refused::MatchesEmpty, None),
        ("(?=a)", Refused::MatchesEmpty, None),
        ("(unclosed", Refused::Syntax, Some(0)),
        ("ab[c", Refused::Syntax, Some(2)),
        ("a\\", Refused::Syntax, Some(1)),
        ("[&&]x(?P<1bad>x)", Refused::Unsupported, None),
        ("x(?>a)+", Refused::Unsupported, Some(1)),
        ("x(?(1)a|b)", Refused::Unsupported, Some(1)),
        ("(a{1000}){1000}", Refused::TooLarge, None),
        (r"(?:\1)", Refused::Syntax, None),
        ("nul\0", Refused::Unsupported, Some(3)),
    ] {
        let error = test(pattern).unwrap_err();
        assert_eq!(error.kind, kind, "{pattern:.40}: {error}");
        if position.is_some() {
            assert_eq!(error.position, position, "{pattern:.40}: {error}");
        }
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(test(long.get(1..).unwrap()), Ok(()));
}

#[test]
fn a_set_changes_as_a_whole_and_is_bounded() {
    let set = set(&["one", "t,wo"]);
    assert_eq!(set.add("one", &Unmetered), Ok(false));
    assert!(set.add("", &Unmetered).is_err());
    assert_eq!((set.list(), set.count()), (vec!["one".to_owned(), "t,wo".to_owned()], 2));
    assert_eq!(found(&set, "t,wo one").len(), 2);
    assert!(set.remove("one") && !set.remove("one"));
    assert_eq!(found(&set, "t,wo one"), [("t,wo".to_owned(), 0)]);
    let shared: BTreeSet<String> = ["three", "(bad", "t,wo"].map(str::to_owned).into();
    let (changed, refused) = set.replace(&shared, &Unmetered);
    assert!(changed);
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].0.as_str(), refused[0].1.kind), ("(bad", Refused::Syntax));
    assert!(!set.replace(&shared, &Unmetered).0, "the same again is no change");
    assert_eq!(found(&set, "one three").len(), 1);
    assert_eq!((set.clear(), set.count(), found(&set, "three")), (2, 0, vec![]));
    let many: BTreeSet<String> = (0..=PATTERNS_MAX).map(|index| format!("needle{index:05}")).collect();
    let (changed, refused) = set.replace(&many, &Unmetered);
    assert!(changed && refused.len() == 1 && refused[0].1.kind == Refused::TooMany, "{refused:?}");
    assert_eq!(set.count(), PATTERNS_MAX);
    let looking: BTreeSet<String> = (0..=LOOKING_MAX).map(|index| format!("x{index}(?!y)")).collect();
    let (_, refused) = set.replace(&looking, &Unmetered);
    assert!(refused.len() == 1 && refused[0].1.kind == Refused::TooMany, "{refused:?}");
}

#[test]
fn a_set_that_changes_a_little_compiles_a_little() {
    let texts =
        |numbers: Range<usize>| -> BTreeSet<String> { numbers.map(|number| format!("needle{number:05}x?")).collect() };
    let set = CustomPatterns::default();
    assert!(set.replace(&texts(0..200), &Unmetered).0 && !set.is_layered());
    let base = Arc::clone(&set.current.load().layers[0].layer);
    // One by one, with one taken away in between: the first two hundred stay as they were compiled.
    for number in 200..260 {
        assert_eq!(set.add(&format!("needle{number:05}x?"), &Unmetered), Ok(true));
        let current = set.current.load_full();
        assert!(Arc::ptr_eq(&current.layers[0].layer, &base));
        assert!(current.layers.len() <= LAYERS_MAX && current.layers[1].layer.patterns.len() <= TOGETHER_MAX);
    }
    assert!(set.remove("needle00007x?") && set.is_layered());
    assert!(Arc::ptr_eq(&set.current.load().layers[0].layer, &base));
    let seen =
        |set: &CustomPatterns| found(set, "needle00007 needle00008 needle00199 needle00200 needle00259 needle00260");
    assert_eq!((set.count(), seen(&set).len()), (259, 4));
    let (listed, before) = (set.list(), seen(&set));
    // Compiled together it is the same.
    set.settle();
    assert!(!set.is_layered() && set.current.load().layers.len() == 1);
    assert_eq!((set.list(), seen(&set), set.count()), (listed, before, 259));
    // What was taken away can come again.
    assert!(set.replace(&texts(0..260), &Unmetered).0);
    assert_eq!((set.count(), seen(&set).len()), (260, 5));
    set.clear();
    assert!(!set.is_layered() && seen(&set).is_empty());
}

struct Spent;

impl Meter for Spent {
    fn is_spent(&self) -> bool {
        true
    }
}

#[test]
fn compiling_has_a_limit_of_time() {
    let set = CustomPatterns::default();
    assert_eq!(set.add("one", &Spent).map_err(|error| error.kind), Err(Refused::TooSlow));
    let (changed, refused) = set.replace(&["one".to_owned()].into(), &Spent);
    assert_eq!((changed, refused.len(), set.count()), (false, 1, 0));
}

/// CPU time of this thread in nanoseconds: what others do on the machine is not in it.
fn thread_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// The least CPU time of a few tries.
fn cost(set: &CustomPatterns, text: &str) -> u64 {
    let once = || {
        let start = thread_cpu();
        let mut threats = Vec::new();
        set.find(text, View::Processed, &mut threats);
        thread_cpu() - start
    };
    (0..3).map(|_| once()).min().unwrap_or_default()
}

/// Time that does not count: what a find costs at most whatever the text is, and the clock's grain.
const FLOOR_NS: u64 = 2_000_000_000;

/// Sixteen times the text costs at most five times sixteen times the time.
#[track_caller]
fn assert_linear(pattern: &str, seeds: &[String]) {
    let set = set(&[pattern]);
    for seed in seeds {
        let text = |bytes: usize| seed.repeat(bytes / seed.len() + 1);
        let small = cost(&set, &text(16 << 10));
        let large = cost(&set, &text(256 << 10));
        assert!(
            large <= 5 * 16 * small + FLOOR_NS,
            "{pattern}: {small} ns for 16 KiB, {large} ns for 256 KiB of {seed:?}"
        );
    }
}

/// Texts that make matchers which backtrack go back: what a pattern is made of, over and over.
fn seeds(pattern: &str) -> Vec<String> {
    let literal: String = pattern.chars().filter(|letter| letter.is_alphanumeric()).take(8).collect();
    let seeds =
        [literal, "a".to_owned(), "ab".to_owned(), "x ".to_owned(), "' ".to_owned(), "<a".to_owned(), "1".to_owned()];
    seeds.into_iter().filter(|seed| !seed.is_empty()).collect()
}

#[test]
fn every_accepted_case_of_guard_core_runs_in_linear_time() {
    let mut accepted = 0;
    for case in cases() {
        let pattern = case["input"]["pattern"].as_str().unwrap();
        let class = case["expected"]["reason_class"].as_str().unwrap();
        let tried = test(pattern);
        match (class, &tried) {
            ("compile_failed", Err(error)) => {
                assert!(matches!(error.kind, Refused::Syntax | Refused::Unsupported), "{pattern}: {error}");
            }
            // What would match every value.
            (_, Err(error)) => assert_eq!(error.kind, Refused::MatchesEmpty, "{class}: {pattern}: {error}"),
            (_, Ok(())) => {
                assert_ne!(class, "compile_failed", "{pattern}");
                accepted += 1;
                assert_linear(pattern, &seeds(pattern)[..2]);
            }
        }
    }
    assert_eq!(accepted, 67, "of 94 cases: 12 do not compile, the rest matches the empty text");
}

/// The published cases of guard-core's pattern gates.
fn cases() -> Vec<serde_json::Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/conformance/safety_gates.json");
    let text = std::fs::read_to_string(path);
    let text = text.unwrap_or_else(|error| panic!("{path}: {error}; run tests/tools/setup.sh"));
    let suite: serde_json::Value = serde_json::from_str(&text).unwrap();
    suite["cases"].as_array().unwrap().clone()
}

/// Patterns from the parts that hurt matchers which backtrack.
fn pattern() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        Just("a".to_owned()),
        Just("[ab]".to_owned()),
        Just(r"\w".to_owned()),
        Just(".".to_owned()),
        Just("x".to_owned()),
        Just("[^>]".to_owned()),
    ];
    let repeated = (atom, prop_oneof![Just(""), Just("*"), Just("+"), Just("?"), Just("{1,4}"), Just("*?")])
        .prop_map(|(atom, repeat)| atom + repeat);
    let group = proptest::collection::vec(repeated, 1..4).prop_map(|parts| parts.concat());
    let nested = (group.clone(), group, prop_oneof![Just("+"), Just("*"), Just("{2,}"), Just("")])
        .prop_map(|(one, other, repeat)| format!("({one}|{other}){repeat}"));
    let tail =
        prop_oneof![Just(""), Just("$"), Just(r"\1b"), Just("(?!c)"), Just("(?=.*z)y"), Just("(?<!b)c"), Just("b")];
    (nested, tail).prop_map(|(nested, tail)| format!("{nested}{tail}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_accepted_pattern_runs_in_linear_time(pattern in pattern()) {
        if test(&pattern).is_ok() {
            assert_linear(&pattern, &seeds(&pattern)[..3]);
        }
    }

    #[test]
    fn no_text_makes_the_test_of_a_pattern_panic(pattern in r"[\\a-z0-9(){}\[\]^$.*+?|<>=!:PZ&~,-]{0,24}") {
        if test(&pattern).is_ok() {
            assert!(found(&set(&[&pattern]), "abc (x) [y] 'z'\n<1>").len() <= 1);
        }
    }
}
