//! What a return rule looks for in a response.

use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

/// Memory that one compiled `regex:` pattern may take, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A compiled pattern.
#[derive(Debug)]
pub(crate) enum Pattern {
    /// The status of the response.
    Status(u16),
    /// A value in a JSON body.
    Json {
        /// Keys from the outside to the inside.
        path: Vec<String>,
        /// The last key names a list, of which any element may be the value.
        is_list: bool,
        /// What the value reads as, in lower case.
        value: String,
    },
    /// A search over the body.
    Search(Regex),
    /// Nothing: the reference takes such a pattern and never finds it.
    Nothing,
}

impl Pattern {
    /// Compiles the text of a rule. An error says why the text can never match.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let search = |pattern: &str| {
            RegexBuilder::new(pattern)
                .case_insensitive(true)
                .size_limit(REGEX_BYTES_MAX)
                .build()
                .map(Self::Search)
                .map_err(|_| "the regular expression cannot be compiled".to_owned())
        };
        if let Some(status) = text.strip_prefix("status:") {
            let status = status.trim().parse().map_err(|_| "a status is a number".to_owned())?;
            return Ok(Self::Status(status));
        }
        if let Some(pattern) = text.strip_prefix("regex:") {
            return search(pattern);
        }
        if let Some(comparison) = text.strip_prefix("json:") {
            let Some((path, value)) = comparison.split_once("==") else { return Ok(Self::Nothing) };
            let mut path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
            // What follows a list is ignored.
            let list = path.iter().position(|key| key.ends_with("[]"));
            if let Some(at) = list {
                path.truncate(at + 1);
                path.iter_mut().skip(at).for_each(|key| key.truncate(key.len() - 2));
            }
            let value = value.trim().trim_matches(['"', '\'']).to_lowercase();
            return Ok(Self::Json { path, is_list: list.is_some(), value });
        }
        search(&regex::escape(text))
    }

    /// True when the body has to be seen.
    pub(crate) const fn reads_body(&self) -> bool {
        match self {
            Self::Status(_) | Self::Nothing => false,
            Self::Json { .. } | Self::Search(_) => true,
        }
    }

    /// True for a response with this status.
    pub(crate) fn is_status(&self, status: u16) -> bool {
        matches!(self, Self::Status(own) if *own == status)
    }

    /// True when the body holds what is looked for.
    pub(crate) fn is_in(&self, body: &Body<'_>) -> bool {
        match self {
            Self::Status(_) | Self::Nothing => false,
            Self::Search(regex) => !body.bytes.is_empty() && regex.is_match(body.bytes),
            Self::Json { path, is_list, value } => {
                let found = body.json.as_ref().and_then(|json| {
                    path.iter().try_fold(json, |within, key| within.as_object().and_then(|fields| fields.get(key)))
                });
                match (found, is_list) {
                    (Some(Value::Array(items)), true) => items.iter().any(|item| reads(item) == *value),
                    (Some(found), false) => reads(found) == *value,
                    (Some(_), true) | (None, _) => false,
                }
            }
        }
    }
}

/// A response body as patterns see it, read once for all of them.
pub(crate) struct Body<'b> {
    bytes: &'b [u8],
    json: Option<Value>,
}

impl<'b> Body<'b> {
    /// Reads a body; as JSON too when a pattern needs it. A body that was cut is no JSON.
    pub(crate) fn new(bytes: &'b [u8], with_json: bool) -> Self {
        Self { bytes, json: with_json.then(|| serde_json::from_slice(bytes).ok()).flatten() }
    }
}

/// The text that guard-core compares a value by, in lower case: Python's form of it.
fn reads(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text, false);
    text.to_lowercase()
}

fn write(value: &Value, text: &mut String, is_inside: bool) {
    match value {
        Value::Null => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::String(inner) if is_inside => {
            let quote = if inner.contains('\'') && !inner.contains('"') { '"' } else { '\'' };
            text.extend([quote]);
            text.push_str(inner);
            text.extend([quote]);
        }
        Value::String(inner) => text.push_str(inner),
        Value::Array(items) => {
            text.push('[');
            for (place, item) in items.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { ", " });
                write(item, text, true);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (place, (key, field)) in fields.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { ", " });
                write(&Value::from(key.as_str()), text, true);
                text.push_str(": ");
                write(field, text, true);
            }
            text.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn found(pattern: &str, body: &str) -> bool {
        Pattern::compile(pattern).unwrap().is_in(&Body::new(body.as_bytes(), true))
    }

    #[test]
    fn bodies_are_compared_as_the_reference_does() {
        const BODY: &str =
            r#"{"result":{"status":"Win","ok":true,"n":1.0,"none":null,"tags":["a","B"],"in":{"k":["x",1]}}}"#;
        for (pattern, expected) in [
            ("json:result.status==win", true),
            ("json:result.status == 'win'", true),
            ("json: result.status ==\"WIN\"", true),
            ("json:result.ok==true", true),
            ("json:result.n==1.0", true),
            ("json:result.none==none", true),
            ("json:result.tags[]==b", true),
            ("json:result.tags[].ignored==b", true),
            ("json:result.in=={'k': ['x', 1]}", true),
            ("json:result.tags==['a', 'b']", true),
            ("json:result.n==1", false),
            ("json:result.none==null", false),
            ("json:result.status", false),
            ("json:result.status=win", false),
            ("json:result.status[]==win", false),
            ("json:result.tags.0==a", false),
            ("json:nothing.here==x", false),
            ("regex:sta.us", true),
            ("regex:^WIN$", false),
            ("\"WIN\"", true),
            ("w.n", false),
        ] {
            assert_eq!(found(pattern, BODY), expected, "{pattern}");
        }
        for pattern in ["json:a==1", "regex:", "text"] {
            assert!(!found(pattern, ""), "{pattern}: an empty body holds nothing");
        }
        assert!(!found("json:a==1", r#"{"a":1"#), "a cut body is no JSON");
        let invalid = Body::new(b"\xff win \xff", true);
        assert!(Pattern::compile("WIN").unwrap().is_in(&invalid), "bytes that are no text hide nothing");
    }

    #[test]
    fn statuses_are_compared_as_numbers() {
        for (pattern, status, expected) in
            [("status:404", 404, true), ("status: 200", 200, true), ("status:404", 403, false)]
        {
            assert_eq!(Pattern::compile(pattern).unwrap().is_status(status), expected, "{pattern}");
        }
        for wrong in ["status:", "status:4xx", "status:70000", "regex:(", "regex:(?:a{1000}){1000}"] {
            assert!(Pattern::compile(wrong).is_err(), "{wrong}");
        }
    }
}
