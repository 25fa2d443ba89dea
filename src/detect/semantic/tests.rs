use super::*;

fn score_of(text: &str) -> f64 {
    full(text, &Words::of(text), is_expression(text)).score
}

const ORDINARY: [&str; 9] = [
    "",
    "42",
    "hello world",
    "/api/v1/users/1234/orders",
    "550e8400-e29b-41d4-a716-446655440000",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "select a window from the table where the group order is set",
    "render {{ template }} with <b>jinja(x)</b> and eval($a == 1) ; exec ../..",
];

#[test]
fn the_bound_is_never_below_the_score() {
    for text in ORDINARY
        .iter()
        .chain(&["${x} <t> (y) {w} a://b {{render(jinja(template(mustache(ejs(pug(twig))))))}}", "\\u0041%41&amp;(((("])
    {
        let (bound, words) = (Bound::of(text), Words::of(text));
        let marks = Marks { runs_code: words.runs_code, is_expression: is_expression(text) };
        let analysis = full(text, &words, marks.is_expression);
        assert!(analysis.score <= bound.score(words.probability_max(), marks), "{text}");
        assert!(analysis.score <= bound.score(1.0, Marks { runs_code: true, is_expression: true }), "{text}");
    }
}

#[test]
fn ordinary_text_is_no_threat_and_dense_structure_is() {
    for text in ORDINARY {
        assert_eq!(analyse(text, text, 0.7, 10_000), None, "{text}");
    }
    let dense = "${x} <t> (y) [z] {w} a://b c://d <b>call(f(x))</b> {{render(jinja(template(mustache(handlebars(ejs(pug(twig)))))))}}";
    let mut analysis = analyse(dense, dense, 0.7, 10_000).unwrap();
    assert_eq!(analysis.kinds(0.7).collect::<Vec<_>>(), [(Kind::Template, 1.0)]);
    analysis.tell_patterns(dense, 10_000);
    assert_eq!(analysis.suspicious_patterns.first().map(|found| (found.name, found.position)), Some(("tag_like", 5)));
    assert!(
        0.7 < analysis.score && score_of(dense) == analysis.score && analysis.confidence() == "medium",
        "{}",
        analysis.score
    );
}

#[test]
fn off_and_binary_values_are_not_analysed() {
    let dense =
        "${x} <t> (y) {w} a://b <b>call(f(x))</b> {{render(jinja(template(mustache(handlebars(ejs(pug(twig)))))))}}";
    assert_eq!(analyse(dense, dense, 0.0, 10_000), None);
    let binary = format!("{dense}{}", "\u{1}".repeat(dense.len()));
    assert_eq!(analyse(dense, &binary, 0.7, 10_000), None);
    assert_eq!(analyse(dense, dense, 0.7, 10), None);
}

#[test]
fn an_expression_of_python_adds_to_the_risk_when_it_is_not_long() {
    let risk = |text: &str| full(text, &Words::of(text), is_expression(text)).code_injection_risk;
    assert_eq!([risk("total"), risk("the total"), risk("eval(x)"), risk("eval(x")], [0.3, 0.0, 0.7, 0.2]);
    let long = |count: usize| "x".repeat(count);
    assert!(is_expression(&long(EXPRESSION_CHARS_MAX)) && !is_expression(&long(EXPRESSION_CHARS_MAX + 1)));
}

proptest::proptest! {
    /// What is measured first never ends an analysis that would have found something.
    #[test]
    fn an_early_end_is_never_too_early(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "select", "union", "from", "where", "script", "alert(1)", "<b>", "eval", "exec(x)", "../", "http://a", ";", "|", "{a}", "$x", "%41",
            "&amp;", "\\u0041", "==", "passwd", "\u{e9}", "a", "1 + 1", "\n", "[", "]", "deadbeef", "wget", "curl", "chmod",
        ]), 0..24),
        joint in proptest::sample::select(vec!["", " ", "\t"]),
        threshold in proptest::sample::select(vec![0.2, 0.4, 0.5, 0.6, 0.7, 0.8]),
    ) {
        let text = words.join(joint);
        let expected = !text.is_empty() && !is_binary(&text) && threshold < score_of(&text);
        proptest::prop_assert_eq!(analyse(&text, &text, threshold, 10_000).is_some(), expected, "{}", text);
    }

    #[test]
    fn binary_is_told_in_ascii_as_in_any_text(bytes in "[\\x00-\\x7f]{1,40}") {
        let total = bytes.chars().count() as f64;
        let kept = bytes.chars().filter(|char| matches!(char, '\t' | '\n' | '\r')).count();
        proptest::prop_assert_eq!(is_binary(&bytes), BINARY_SHARE * total <= (view::unprintable(&bytes) - kept) as f64);
    }
}

proptest::proptest! {
    #[test]
    fn words_are_runs_of_letters_digits_and_underscores(text in "[ab_1 ,\u{e9}\u{3000}\u{661}\u{94d}]{0,24}") {
        let is_word = |char: char| char == '_' || char.is_alphanumeric();
        let expected: Vec<&str> = text.split(|char| !is_word(char)).filter(|word| !word.is_empty()).collect();
        let (mut found, mut at) = (Vec::new(), 0);
        loop {
            let (start, end) = next_word(&text, at);
            if start == end {
                proptest::prop_assert_eq!(end, text.len());
                break;
            }
            found.push(text.get(start..end).unwrap());
            at = end;
        }
        proptest::prop_assert_eq!(found, expected);
    }
}
