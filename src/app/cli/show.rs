//! Answers for people: a line for each entry, `key: value` for the rest.

use serde_json::{Map, Value};

/// The text of an answer.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Null => {}
        Value::Object(map) => object(map, &mut out),
        other => out.push_str(&format!("{}\n", plain(other))),
    }
    out
}

/// The one list of an answer becomes lines; other values stand above it, and an empty list is told as such.
fn object(map: &Map<String, Value>, out: &mut String) {
    for (key, value) in map {
        match value {
            Value::Array(items) if items.is_empty() => out.push_str(&format!("no {}\n", key.replace('_', " "))),
            Value::Array(items) => items.iter().for_each(|item| out.push_str(&format!("{}\n", line(item)))),
            Value::Object(_) => out.push_str(&format!("{key}: {}\n", line(value))),
            _ => out.push_str(&format!("{key}: {}\n", plain(value))),
        }
    }
}

/// One entry: its values, the first ones bare.
fn line(value: &Value) -> String {
    let Value::Object(map) = value else { return plain(value) };
    if let (Some(key), Some(old), Some(new)) = (map.get("key"), map.get("old"), map.get("new")) {
        let restart = map.get("needs_restart").and_then(Value::as_bool) == Some(true);
        let note = if restart { "  (with the next start)" } else { "" };
        return format!("{}: {} -> {}{note}", plain(key), plain(old), plain(new));
    }
    if let (Some(row), Some(change), 2) = (map.get("row"), map.get("change"), map.len()) {
        return format!("pattern {}: {}", plain(row), plain(change));
    }
    if let (Some(check), Some(ok), Some(detail)) = (map.get("check"), map.get("ok"), map.get("detail")) {
        let mark = if ok.as_bool() == Some(true) { "ok" } else { "BAD" };
        let todo = map.get("todo").and_then(Value::as_str).map(|todo| format!("\n     -> {todo}")).unwrap_or_default();
        return format!("{mark:<4} {}: {}{todo}", plain(check), plain(detail));
    }
    let parts = map.iter().filter(|(_, value)| !value.is_null());
    let parts = parts.enumerate().map(|(index, (key, value))| match index {
        0 => plain(value),
        _ => format!("{key}={}", plain(value)),
    });
    parts.collect::<Vec<_>>().join("  ")
}

/// A value on one line: what clients sent may be in it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains(char::is_control) => text.escape_debug().to_string(),
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::text;

    #[test]
    fn answers_become_lines() {
        for (value, expected) in [
            (json!({ "bans": [] }), "no bans\n"),
            (json!({ "bans": [{ "target": "192.0.2.1", "reason": null, "left": 5 }] }), "192.0.2.1  left=5\n"),
            (json!({ "target": "a\u{1b}[2J", "removed": true }), "target: a\\u{1b}[2J\nremoved: true\n"),
            (
                json!({ "changes": [{ "key": "limits.drain_seconds", "old": 1, "new": 2, "needs_restart": true }] }),
                "limits.drain_seconds: 1 -> 2  (with the next start)\n",
            ),
            (json!(null), ""),
        ] {
            assert_eq!(text(&value), expected);
        }
    }
}
