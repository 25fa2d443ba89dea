use rand::prelude::*;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::*;
use crate::detect::automaton::Automaton;

fn text_of(rows: &str) -> String {
    format!("category: sqli\nrows:\n{rows}")
}

fn load_text(profile: Profile, text: &str) -> Result<Vec<Row>, Vec<DetectError>> {
    load(profile, &[PatternFile { name: "extra.yaml", text }])
}

const GOOD: &str =
    "  - {id: T-1, about: a, pattern: 'x', hits: [x, {value: xx, context: 'header:referer'}], misses: [a, b]}\n";

#[test]
fn the_built_in_rows_load_in_both_profiles() {
    for profile in [Profile::Balanced, Profile::GuardCore] {
        if let Err(errors) = load(profile, &[]) {
            panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        }
    }
}

#[test]
fn every_fault_is_reported_with_file_and_row() {
    for (fault, row, expected) in [
        ("few hits", "  - {id: T-1, about: a, pattern: x, hits: [x], misses: [a, b]}", "hits has 1"),
        ("few misses", "  - {id: T-1, about: a, pattern: x, hits: [x, x], misses: []}", "misses has 0"),
        (
            "no confirm",
            "  - {id: T-1, about: a, pattern: x, confirm: none_such, hits: [x, x], misses: [a, b]}",
            "none_such",
        ),
        ("weight", "  - {id: T-1, about: a, pattern: x, weight: 11, hits: [x, x], misses: [a, b]}", "weight 11"),
        ("id", "  - {id: 'T 1', about: a, pattern: x, hits: [x, x], misses: [a, b]}", "letters, digits"),
        ("about", "  - {id: T-1, about: ' ', pattern: x, hits: [x, x], misses: [a, b]}", "about is empty"),
    ] {
        let errors = load_text(Profile::Balanced, &text_of(row)).expect_err(fault);
        assert!(
            errors.iter().any(|error| error.key.starts_with("extra.yaml: T") && error.message.contains(expected)),
            "{fault}: {errors:?}"
        );
    }
    let unknown = text_of("  - {id: T-1, about: a, patern: x, hits: [x, x], misses: [a, b]}");
    assert!(
        load_text(Profile::Balanced, &unknown)
            .is_err_and(|errors| errors.iter().all(|error| error.key == "extra.yaml"))
    );
    let twice = text_of(&format!("{GOOD}{GOOD}"));
    assert!(
        load_text(Profile::Balanced, &twice)
            .is_err_and(|errors| errors.iter().any(|error| error.message.contains("twice")))
    );
}

#[test]
fn words_become_masks() {
    let text = text_of(
        "  - {id: T-1, about: a, pattern: x, contexts: [query], views: [raw, decoded], kinds: [cookie], flags: [dotall], \
         gates: [noise], weight: 0.5, hits: [x, x], misses: [a, b]}\n",
    );
    let rows = load_text(Profile::GuardCore, &text).unwrap();
    let row = rows.iter().find(|row| row.id == "T-1").unwrap();
    assert_eq!(row.contexts, 0b11001);
    assert_eq!(row.views, 0b11);
    assert_eq!(row.kinds, 1 << Kind::Cookie as u16);
    assert!(row.flags.dotall && !row.flags.multiline && row.gates.noise && !row.gates.separator);
    assert_eq!(row.weight.to_bits(), 0.5_f64.to_bits());
}

#[test]
fn a_row_of_a_folder_replaces_the_one_of_the_same_id() {
    let (first, second) = (text_of(GOOD), text_of(&GOOD.replace("pattern: 'x'", "pattern: 'y'")));
    let files = [PatternFile { name: "a.yaml", text: &first }, PatternFile { name: "b.yaml", text: &second }];
    let rows = load(Profile::Balanced, &files).unwrap();
    assert_eq!(rows.iter().filter(|row| row.id == "T-1").map(|row| row.pattern.as_str()).collect::<Vec<_>>(), ["y"]);
}

/// One text that `hir` describes, roughly: what stands around a place is not looked at.
fn sample(hir: &Hir, rng: &mut StdRng, out: &mut Vec<u8>) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => (),
        HirKind::Literal(literal) => out.extend(literal.0.iter()),
        HirKind::Class(Class::Bytes(class)) => {
            if let Some(range) = class.ranges().choose(rng) {
                out.push(rng.random_range(range.start()..=range.end()));
            }
        }
        HirKind::Class(Class::Unicode(class)) => {
            if let Some(range) = class.ranges().choose(rng) {
                out.extend(rng.random_range(range.start()..=range.end()).to_string().bytes());
            }
        }
        HirKind::Repetition(repetition) => {
            let more = if rng.random_bool(0.1) { 70 } else { 3 };
            let most = repetition.max.unwrap_or(u32::MAX).min(repetition.min + more);
            (0..rng.random_range(repetition.min..=most)).for_each(|_| sample(&repetition.sub, rng, out));
        }
        HirKind::Capture(capture) => sample(&capture.sub, rng, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| sample(part, rng, out)),
        HirKind::Alternation(parts) => parts.choose(rng).into_iter().for_each(|part| sample(part, rng, out)),
    }
}

#[test]
fn a_prefilter_finds_whatever_its_pattern_finds() {
    let mut rng = StdRng::seed_from_u64(7);
    for row in load(Profile::Balanced, &[]).unwrap() {
        let Some(prefilter) = &row.prefilter else { continue };
        let expression = Expression { id: 0, pattern: &row.pattern, flags: row.flags, prefilter: false, each: false };
        let exact = Automaton::compile(&[expression]).unwrap();
        let cheap = Automaton::compile(&[Expression { pattern: prefilter, ..expression }]).unwrap();
        let hir = ParserBuilder::new()
            .utf8(false)
            .unicode(false)
            .case_insensitive(!row.flags.case_sensitive)
            .dot_matches_new_line(row.flags.dotall)
            .build()
            .parse(&row.pattern)
            .unwrap();
        let mut matches = 0;
        for _ in 0..3000 {
            let mut text = vec![b'\n'; rng.random_range(0..3)];
            sample(&hir, &mut rng, &mut text);
            text.extend(std::iter::repeat_n(b' ', rng.random_range(0..3)));
            if exact.scan(&text, |_| ()).is_some() {
                matches += 1;
                assert!(cheap.scan(&text, |_| ()).is_some(), "{}: {:?}", row.id, String::from_utf8_lossy(&text));
            }
        }
        assert!(1000 < matches, "{}: {matches} of the samples match", row.id);
    }
}
