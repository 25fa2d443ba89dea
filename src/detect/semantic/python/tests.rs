use proptest::prelude::*;

use super::*;

#[test]
fn expressions_are_told_from_other_text() {
    for text in [
        "a",
        "f(x)",
        "a.b.c(1, 2, k=3)",
        "1 + 2 * -3",
        "a if b else c",
        "not a in b",
        "a is not b",
        "lambda x, *a, y=1: x",
        "(x for x in y)",
        "[x async for x, (a, b) in y if a]",
        "{1: 2, **a}",
        "{*a, 1}",
        "a[1:2, ::3]",
        "(*a,)",
        "(x := 1)",
        "f(*a, k=1, **b)",
        "'a' 'b'",
        "rb'\\x'",
        "0x1f + 0b1 + 1_000 + 1.e5j",
        "1if x else 2",
        "f'{x!r:>{w}} {{'",
        "a, b,",
        "text/html",
        "x-y",
        "a #b",
        "__import__('os').system('id')",
        "...",
        "(yield)",
        "",
    ] {
        assert_eq!(is_expression(text), !text.is_empty(), "{text}");
    }
    for text in [
        "hello world",
        "a b",
        "1 + not 2",
        "f(k=1, x)",
        "f(x for x in y, 1)",
        "(*a)",
        "x := 1",
        "a = 1",
        "a; b",
        "'open",
        "'\\x4'",
        "007",
        "1__0",
        "0b12",
        "1abc",
        "'a' b'c'",
        "f'{x'",
        "[x for 1 in y]",
        "{a: b, c}",
        "a..b",
        "a.1",
        "(a",
        "a)",
        "a[]",
        "lambda *: 1",
        "print 1",
        "2024-01-01",
        "<a>",
        "${x}",
        "a += 1",
        "550e8400-e29b-41d4",
        "if",
    ] {
        assert!(!is_expression(text), "{text}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    for (depth, expected) in [(DEPTH_MAX - 1, true), (DEPTH_MAX, true), (DEPTH_MAX + 1, false), (100_000, false)] {
        assert_eq!(is_expression(&nested(depth)), expected, "{depth}");
    }
    assert!(!is_expression(&"lambda:".repeat(10_000)) && !is_expression(&"f'{".repeat(10_000)));
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(parts in prop::collection::vec(0..20_usize, 0..40), rest in "\\PC{0,20}") {
        let pieces = ["a ", "1", "(", ")", "[", "]", "{", "}", ",", ":", "'", "f'", "\\", "lambda ", "for ", "in ", "if ", "else ", "**", "é"];
        let text: String = parts.iter().filter_map(|part| pieces.get(*part)).copied().chain([rest.as_str()]).collect();
        // Deciding twice gives the same answer; deciding at all proves that it ends.
        prop_assert_eq!(is_expression(&text), is_expression(&text));
    }
}
