use proptest::prelude::*;

use super::*;

fn read(text: &str) -> (Vec<Token<'_>>, Soundness, usize) {
    let mut lexer = Lexer::new(text);
    let tokens = lexer.by_ref().collect();
    (tokens, lexer.soundness(), lexer.roots())
}

#[test]
fn soundness_follows_the_grammar() {
    use Soundness::{Broken, Lenient, Strict};
    for (text, expected) in [
        (r#"{}"#, Strict),
        (r#" {"a":[1,-2.5e+3,true,null,"x\n\u0041"],"b":{}} "#, Strict),
        ("[NaN,Infinity,-Infinity]", Strict),
        (r#""scalar""#, Strict),
        ("0", Strict),
        ("[1,]", Lenient),
        (r#"{"a":1,}"#, Lenient),
        (r#"{"a":1/* x */}"#, Lenient),
        ("[1] // end", Lenient),
        ("{'a':'b'}", Lenient),
        ("{a:1}", Lenient),
        ("[01]", Lenient),
        ("[0x1F]", Lenient),
        ("[\"a\tb\"]", Lenient),
        (r#"["\x41"]"#, Lenient),
        ("", Broken),
        ("  ", Broken),
        ("[", Broken),
        (r#"{"a""#, Broken),
        (r#"{"a":}"#, Broken),
        (r#"{"a" 1}"#, Broken),
        ("[1 2]", Broken),
        ("[1}", Broken),
        ("[]]", Broken),
        ("[,]", Broken),
        ("{,}", Broken),
        ("[INFO] ready", Broken),
        ("[/* open]", Broken),
        ("[\"open]", Broken),
        ("hello", Broken),
        ("[tru]", Broken),
        ("[1g]", Broken),
        ("[-]", Broken),
        ("/", Broken),
    ] {
        assert_eq!(read(text).1, expected, "{text}");
    }
}

#[test]
fn escapes_are_resolved_once() {
    for (raw, expected) in [
        (r"1\u0027 \u004f\u0052", "1' OR"),
        (r"\ud83d\ude00", "\u{1f600}"),
        (r"\ud83d", "\u{fffd}"),
        (r"\ud83d\u0041", "\u{fffd}A"),
        (r"\ude00x", "\u{fffd}x"),
        (r"\u00zz", "u00zz"),
        (r"\x3cb", "<b"),
        (r"\'", "'"),
        (r"\\u0041", r"\u0041"),
        (r"\b\f\n\r\t\/\q", "\u{8}\u{c}\n\r\t/q"),
        (r"é\u00e9\", "éé"),
        ("plain", "plain"),
    ] {
        let mut out = String::new();
        unescape(raw, &mut out);
        assert_eq!(out, expected, "{raw}");
    }
}

#[test]
fn several_roots_are_counted() {
    assert_eq!(read("{}\n{}\n[1]").2, 3);
    assert!(is_document(" {\"a\":1} "));
    for text in ["{} {}", "1", "\"x\"", "[1", "", "{\"a\" 1}"] {
        assert!(!is_document(text), "{text}");
    }
}

#[test]
fn a_megabyte_of_brackets_is_read_without_recursion() {
    let text = "[".repeat(1 << 20);
    assert_eq!(read(&text).1, Soundness::Broken);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
        "[\\x00-\\x7f]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec(("[a-z\"\\\\\u{e9}]{0,5}", inner), 0..6)
                .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Strings and keys in document order, as serde_json sees them.
fn strings(value: &serde_json::Value, out: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => out.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| strings(item, out)),
        serde_json::Value::Object(map) => {
            for (key, item) in map {
                out.push(key.clone());
                strings(item, out);
            }
        }
        _ => {}
    }
}

fn our_strings(text: &str) -> Vec<String> {
    let mut scratch = String::new();
    let mut out = Vec::new();
    for token in Lexer::new(text) {
        if let Token::Key(text) | Token::String(text) = token {
            out.push(text.resolved(&mut scratch).to_owned());
        }
    }
    out
}

proptest! {
    #[test]
    fn serde_json_sees_the_same_strings(value in json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let mut expected = Vec::new();
        strings(&value, &mut expected);
        prop_assert_eq!(our_strings(&text), expected);
        prop_assert_eq!(read(&text).1, Soundness::Strict);
    }

    #[test]
    fn strict_means_that_serde_json_accepts(text in "[\\[\\]{},:\"'a1\\\\u0e. \\-/*]{0,14}") {
        let (_, soundness, roots) = read(&text);
        let accepted = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        // A lone surrogate is an error to serde_json and a character to Python.
        if soundness == Soundness::Strict && roots == 1 && !text.contains("\\u") {
            prop_assert!(accepted, "{}", text);
        }
        if accepted {
            prop_assert_eq!((soundness, roots), (Soundness::Strict, 1), "{}", text);
        }
    }

    #[test]
    fn a_cut_text_is_never_sound(value in json()) {
        let text = serde_json::to_string(&value).unwrap();
        prop_assume!(text.starts_with(['{', '[']));
        for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            prop_assert_eq!(read(text.get(..cut).unwrap()).1, Soundness::Broken);
        }
    }

    #[test]
    fn any_text_is_read_to_its_end(text in "\\PC{0,80}") {
        let mut lexer = Lexer::new(&text);
        lexer.by_ref().for_each(drop);
        prop_assert_eq!(lexer.position(), text.len());
    }
}

#[test]
fn a_word_that_only_some_parsers_read_is_text() {
    for (word, is_literal) in [
        ("12", true),
        ("-1.5e3", true),
        ("true", true),
        ("null", true),
        ("0x1f", false),
        ("10.0.0.1", false),
        ("+5", false),
    ] {
        let expected = match is_literal {
            true => Token::Literal(word),
            false => Token::String(Text { raw: word, escaped: false }),
        };
        assert_eq!(Lexer::new(word).next(), Some(expected), "{word}");
    }
}
