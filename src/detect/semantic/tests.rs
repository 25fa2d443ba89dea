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
    let analysis = analyse(dense, dense, 0.7, 10_000).unwrap();
    assert_eq!(analysis.kinds(0.7).collect::<Vec<_>>(), [(Kind::Template, 1.0)]);
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
