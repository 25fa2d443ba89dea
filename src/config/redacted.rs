//! A configuration that can be shown to anyone.

use serde_json::Value;

use crate::config::Config;
use crate::config::values::redact_url;

/// The effective configuration; secrets stand as `[redacted]`, and no URL shows user information.
#[must_use]
pub fn redacted_json(config: &Config) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    redact(&mut value);
    value
}

fn redact(value: &mut Value) {
    match value {
        Value::String(text) if is_url_with_user(text) => *text = redact_url(text),
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(map) => map.iter_mut().for_each(|(_, value)| redact(value)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_url_with_user(text: &str) -> bool {
    !text.contains(char::is_whitespace) && text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}
