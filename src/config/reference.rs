//! The tables of `docs/configuration.md`, made from the schema.

use serde_json::{Map, Value};

use crate::config::activity::{self, Activity};
use crate::config::formats;
use crate::config::schema;

/// Definitions that get a table of their own below the sections, in this order.
const PARTS: [&str; 17] = [
    "RouteMatch",
    "TimeRestriction",
    "Exclusion",
    "BehaviorRule",
    "ThreatBan",
    "SecurityHeaders",
    "Hsts",
    "ResponseOperation",
    "HashVerifier",
    "Hook",
    "LimitRule",
    "ResponseRule",
    "RedisTls",
    "WebhookConfig",
    "OtelConfig",
    "ServerTls",
    "ListConfig",
];

/// One section of the reference: its name in the markers, and its text.
#[must_use]
pub fn sections() -> Vec<(String, String)> {
    let document = schema::document();
    let mut sections = Vec::new();
    for (name, property) in object(document.get("properties")) {
        let schema = property.get("items").map_or_else(|| schema::resolve(property), schema::resolve);
        sections.push((name.clone(), table(&format!("{name}."), schema)));
    }
    for definition in PARTS {
        if let Some(schema) = document.pointer(&format!("/$defs/{definition}")) {
            sections.push((definition.to_owned(), table("", schema)));
        }
    }
    sections
}

fn object(value: Option<&'static Value>) -> impl Iterator<Item = (&'static String, &'static Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// The whole reference, one heading a section.
#[must_use]
pub fn markdown() -> String {
    sections().into_iter().map(|(name, text)| format!("### {name}\n\n{text}\n")).collect()
}

fn table(prefix: &str, schema: &'static Value) -> String {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut text = "| key | type | default | range | meaning | active |\n|---|---|---|---|---|---|\n".to_owned();
    for (name, field) in object(schema.get("properties")) {
        let default = match field.get("default") {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            Some(default) => code(default),
            None => "-".to_owned(),
        };
        let active = match activity::of(&format!("{prefix}{name}")) {
            Activity::Active => "yes".to_owned(),
            Activity::Inactive(why) => format!("not yet: {why}"),
            Activity::Compatibility(why) => format!("no: {why}"),
        };
        let meaning = field.get("description").and_then(Value::as_str).unwrap_or_default();
        let cells = [format!("`{name}`"), kind(field), default, range(field), meaning.to_owned(), active];
        let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

/// A default as code, short enough for a cell.
fn code(value: &Value) -> String {
    const SHOWN: usize = 60;
    match value {
        Value::Array(items) if items.len() == crate::model::category::Category::DETECTION_COUNT => "all 19".to_owned(),
        Value::Object(map) if SHOWN < value.to_string().len() && !map.is_empty() => "see below".to_owned(),
        _ => format!("`{value}`"),
    }
}

/// The type in words.
fn kind(schema: &'static Value) -> String {
    let parts: Vec<String> = schema::branches(schema).into_iter().flat_map(one_kind).collect();
    let mut seen: Vec<String> = Vec::new();
    for part in parts {
        if !seen.contains(&part) {
            seen.push(part);
        }
    }
    seen.join(" or ")
}

fn one_kind(branch: &'static Value) -> Vec<String> {
    if let Some(word) = branch.get("const") {
        return vec![format!("`{}`", word.as_str().unwrap_or_default())];
    }
    let kinds = schema::kinds(branch);
    let mut words = Vec::new();
    if kinds.flag {
        words.push("bool".to_owned());
    }
    if kinds.int {
        words.push("integer".to_owned());
    }
    if kinds.number {
        words.push("number".to_owned());
    }
    if kinds.text {
        words.push(if branch.get("writeOnly").is_some() { "secret" } else { "text" }.to_owned());
    }
    if kinds.list {
        let pair = branch.get("prefixItems").is_some();
        let items = branch.get("items").filter(|items| items.is_object()).map(kind);
        words.push(match items {
            _ if pair => "[integer, integer]".to_owned(),
            Some(items) => format!("list of {items}"),
            None => "list".to_owned(),
        });
    }
    if kinds.map {
        let values = branch.get("additionalProperties").filter(|values| values.is_object()).map(kind);
        words.push(values.map_or_else(|| "map".to_owned(), |values| format!("map to {values}")));
    }
    if kinds.null {
        words.push("null".to_owned());
    }
    words
}

/// Bounds of numbers, and what texts must look like.
fn range(schema: &'static Value) -> String {
    let mut parts = Vec::new();
    for branch in schema::branches(schema) {
        parts.extend(bounds(branch));
        let inner = branch.get("items").filter(|items| items.is_object());
        parts.extend([Some(branch), inner].into_iter().flatten().filter_map(accepted).map(str::to_owned));
        if let Some(keys) = branch.get("propertyNames").and_then(accepted) {
            parts.push(format!("keys: {keys}"));
        }
        if let Some(values) = branch.get("additionalProperties").and_then(accepted) {
            parts.push(format!("values: {values}"));
        }
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
}

fn accepted(schema: &'static Value) -> Option<&'static str> {
    schema::format(schema).and_then(formats::summary)
}

fn bounds(schema: &'static Value) -> Option<String> {
    let number = |name: &str| schema.get(name).filter(|bound| bound.as_u64() != Some(u32::MAX.into()));
    let low = number("minimum").map(|low| format!("at least {low}"));
    let low = low.or_else(|| number("exclusiveMinimum").map(|low| format!("above {low}")));
    let low = low.filter(|low| low != "at least 0" || number("maximum").is_some());
    let high = number("maximum").map(|high| format!("at most {high}"));
    let parts: Vec<String> = [low, high].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
