//! The route that an operator names in the metadata of Envoy's own route. Envoy sends the attribute
//! `xds.route_metadata` as text for people, in the notation of protocol buffers; one key of it is looked up here.

/// The namespace in which an operator may name the route, and in which we say what we decided.
pub(super) const OURS: &str = "envoy-guard";
/// The key in it.
pub(super) const ROUTE: &str = "guard_route";

/// Where the parts of the wanted value stand: how many braces are open around each.
const NAMESPACE_DEPTH: usize = 1;
const KEY_DEPTH: usize = 3;
const VALUE_DEPTH: usize = 4;

/// The text at `filter_metadata["envoy-guard"]["guard_route"]`, if there is any. Text that is written otherwise holds none.
pub(super) fn route(text: &str) -> Option<&str> {
    let (mut depth, mut field, mut top) = (0_usize, "", "");
    let (mut namespace, mut key) = ("", "");
    let mut rest = text;
    while let Some(token) = token(&mut rest) {
        match token {
            "{" => depth += 1,
            "}" => depth = depth.checked_sub(1)?,
            ":" => {}
            quoted if quoted.starts_with('"') => {
                let value = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))?;
                match (depth, field) {
                    (NAMESPACE_DEPTH, "key") => namespace = value,
                    (KEY_DEPTH, "key") => key = value,
                    (VALUE_DEPTH, "string_value") if top == "filter_metadata" && namespace == OURS && key == ROUTE => {
                        // No name of a route needs an escape.
                        return (!value.contains('\\')).then_some(value);
                    }
                    _ => {}
                }
            }
            word => {
                field = word;
                if depth == 0 {
                    top = word;
                }
            }
        }
    }
    None
}

/// Takes the next token: a brace, a colon, a quoted text with its quotes, or a word.
fn token<'t>(rest: &mut &'t str) -> Option<&'t str> {
    let text = rest.trim_ascii_start();
    let end = match text.bytes().next()? {
        b'{' | b'}' | b':' => 1,
        b'"' => {
            let mut is_escaped = false;
            let closing = text.bytes().skip(1).position(|byte| {
                let closes = byte == b'"' && !is_escaped;
                is_escaped = byte == b'\\' && !is_escaped;
                closes
            });
            closing? + 2
        }
        _ => text
            .bytes()
            .position(|byte| matches!(byte, b'{' | b'}' | b':' | b'"') || byte.is_ascii_whitespace())
            .unwrap_or(text.len()),
    };
    let (token, after) = text.split_at_checked(end)?;
    *rest = after;
    Some(token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOUND: &str = r#"filter_metadata { key: "envoy-guard" value { fields { key: "guard_route" value { string_value: "admin" } } } }"#;

    #[test]
    fn one_key_of_one_namespace_counts() {
        let other =
            r#"filter_metadata { key: "a" value { fields { key: "guard_route" value { string_value: "no" } } } }"#;
        let second = r#"filter_metadata { key: "envoy-guard" value { fields { key: "n" value { number_value: 3 } } fields { key: "guard_route" value { string_value: "admin" } } } }"#;
        let nested = r#"filter_metadata { key: "envoy-guard" value { fields { key: "x" value { struct_value { fields { key: "guard_route" value { string_value: "no" } } } } } } }"#;
        let quoted = r#"filter_metadata { key: "a" value { fields { key: "t" value { string_value: "} \" { key: \"envoy-guard\"" } } } } "#;
        for (name, text, expected) in [
            ("as Envoy 1.40 writes it", FOUND.to_owned(), Some("admin")),
            ("behind another namespace", format!("{other} {FOUND}"), Some("admin")),
            ("behind another key", second.to_owned(), Some("admin")),
            ("behind text that looks like it", format!("{quoted}{FOUND}"), Some("admin")),
            ("with other blanks", FOUND.replace(' ', "  ").replace(": ", ":\n"), Some("admin")),
            ("with colons before braces", FOUND.replace(" {", ": {"), Some("admin")),
            ("another namespace", other.to_owned(), None),
            ("deeper down", nested.to_owned(), None),
            ("typed metadata", FOUND.replacen("filter_metadata", "typed_filter_metadata", 1), None),
            ("an escape", FOUND.replace("admin", "a\\\"b"), None),
            ("a number", FOUND.replace("string_value: \"admin\"", "number_value: 3"), None),
            ("nothing", String::new(), None),
            ("too many ends", format!("}} {FOUND}"), None),
        ] {
            assert_eq!(route(&text), expected, "{name}: {text}");
        }
        for cut in 0..FOUND.len() - r#"" } } } }"#.len() {
            assert_eq!(route(FOUND.get(..cut).unwrap()), None, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in r#"([{}:" \\\\]|key|value|fields|string_value|filter_metadata|"envoy-guard"|"guard_route"|\PC){0,60}"#) {
            let _found = route(&text);
        }
    }
}
