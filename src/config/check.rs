//! The walk over the tree along the schema: types, ranges, words, formats, unknown keys.
//!
//! What is valid is handed on as JSON for serde; what is not is reported and left out, so that one mistake hides no
//! other.

use serde_json::{Map, Number, Value as Json};

use crate::config::errors::{Class, Notice, Problem};
use crate::config::formats;
use crate::config::nearest::nearest;
use crate::config::opinion::{self, Opinion};
use crate::config::places::{Places, locate, notice};
use crate::config::schema;
use crate::config::tree::{Entry, Node, Value};

/// Problems reported at once; more would only bury the first ones.
pub(crate) const PROBLEMS_MAX: usize = 500;
/// Warnings reported at once.
const WARNINGS_MAX: usize = 500;

/// What was found, and where everything stands.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Notice>,
    pub(crate) places: Places,
}

impl Findings {
    /// True when enough has been reported.
    const fn is_full(&self) -> bool {
        PROBLEMS_MAX <= self.problems.len()
    }

    /// Reports `message` about `key`, which need not stand in a source.
    pub(crate) fn problem(&mut self, key: &str, class: Class, message: String) {
        if self.is_full() {
            return;
        }
        let place = locate(&self.places, key).cloned();
        self.problems.push(Problem { place, key: key.to_owned(), class, message, hint: None });
    }

    /// Remarks on `key`.
    pub(crate) fn warn(&mut self, key: &str, message: impl Into<String>) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(notice(&self.places, key, message.into()));
        }
    }

    /// True when something at or below `key` has been reported.
    pub(crate) fn is_faulty(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| {
            problem.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

type Schema = &'static Json;

/// Checks `tree` against `document`; returns what is valid.
pub(crate) fn check(tree: &Node, document: Schema) -> (Json, Findings) {
    let mut findings = Findings::default();
    let value = node(tree, document, "", &mut findings).unwrap_or_else(|| Json::Object(Map::new()));
    (value, findings)
}

fn node(node: &Node, schema: Schema, key: &str, out: &mut Findings) -> Option<Json> {
    out.places.insert(key.to_owned(), node.place.clone());
    if out.is_full() {
        return None;
    }
    let branches = schema::branches(schema);
    let kinds = schema::kinds(schema);
    let fits = |branch: &Schema| {
        let kinds = schema::kinds(branch);
        match &node.value {
            Value::Null => kinds.null,
            Value::Bool(_) => kinds.flag,
            Value::Int(_) => kinds.int || kinds.number,
            Value::Float(_) => kinds.number,
            Value::Text(_) => kinds.text,
            Value::List(_) => kinds.list,
            Value::Map(_) => kinds.map,
        }
    };
    let fitting: Vec<Schema> = branches.iter().copied().filter(fits).collect();
    let Some(&branch) = fitting.first() else {
        // A section with all its lines commented out is an empty one.
        if matches!(node.value, Value::Null) && is_section(key) {
            return None;
        }
        report(node, key, Class::Type, format!("needs {}, and this is {}", kinds.words(), describe(node, kinds)), out);
        return None;
    };
    match &node.value {
        Value::Null => Some(Json::Null),
        Value::Bool(flag) => Some(Json::Bool(*flag)),
        Value::Int(number) => integer(*number, node, branch, key, out),
        Value::Float(number) => float(*number, node, branch, key, out),
        Value::Text(text) => words(text, node, &fitting, key, out),
        Value::List(items) => list(items, node, branch, key, out),
        Value::Map(entries) => map(entries, node, branch, key, out),
    }
}

fn is_section(key: &str) -> bool {
    !key.contains(['.', '['])
}

fn report(node: &Node, key: &str, class: Class, message: String, out: &mut Findings) {
    out.problems.push(Problem { place: Some(node.place.clone()), key: key.to_owned(), class, message, hint: None });
}

/// The kind of what stands there, and a way out where there is a usual one. Never the value itself.
fn describe(node: &Node, kinds: schema::Kinds) -> &'static str {
    match &node.value {
        Value::Null => "null",
        Value::Bool(_) if kinds.text => "true or false; put it in quotes",
        Value::Bool(_) => "true or false",
        Value::Int(_) | Value::Float(_) if kinds.text => "a number; put it in quotes",
        Value::Float(_) if kinds.int => "a number with a fraction",
        Value::Int(_) | Value::Float(_) => "a number",
        Value::Text(_) if kinds.list => "text; write a list, such as [\"…\"]",
        Value::Text(text) if kinds.flag && is_lax(text) => "a word (yes, no, on and off are text here)",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

fn is_lax(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off" | "true" | "false" | "y" | "n")
}

/// The smallest and greatest value of a schema, both included unless said otherwise.
fn bound(schema: Schema, name: &str) -> Option<f64> {
    schema.get(name).and_then(Json::as_f64)
}

fn integer(number: i128, at: &Node, schema: Schema, key: &str, out: &mut Findings) -> Option<Json> {
    if schema::kinds(schema).number {
        return float(number as f64, at, schema, key, out);
    }
    let (least, most) = match schema::format(schema) {
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint64" | "uint") => (0, u64::MAX.into()),
        _ => (0, i128::from(u32::MAX)),
    };
    let given = |name: &str| schema.get(name).and_then(Json::as_u64).map(i128::from);
    let least = given("minimum").map_or(least, |minimum| least.max(minimum));
    let most = given("maximum").map_or(most, |maximum| most.min(maximum));
    if least <= number && number <= most {
        return u64::try_from(number).ok().map(Json::from);
    }
    report(at, key, Class::Range, format!("must be from {least} to {most}"), out);
    None
}

fn float(number: f64, at: &Node, schema: Schema, key: &str, out: &mut Findings) -> Option<Json> {
    let least = bound(schema, "minimum");
    let above = bound(schema, "exclusiveMinimum");
    let most = bound(schema, "maximum");
    let good = number.is_finite()
        && least.is_none_or(|least| least <= number)
        && above.is_none_or(|above| above < number)
        && most.is_none_or(|most| number <= most);
    if good {
        return Number::from_f64(number).map(Json::Number);
    }
    let low = match (least, above) {
        (Some(least), _) => format!("from {least}"),
        (None, Some(above)) => format!("above {above}"),
        (None, None) => "finite".to_owned(),
    };
    let high = most.map(|most| format!(" to {most}")).unwrap_or_default();
    report(at, key, Class::Range, format!("must be {low}{high}"), out);
    None
}

/// The words that the branches allow, when they allow nothing else.
fn known_words(branches: &[Schema]) -> Option<Vec<&'static str>> {
    let mut known = Vec::new();
    for branch in branches {
        match (branch.get("const"), branch.get("enum").and_then(Json::as_array)) {
            (Some(word), _) => known.extend(word.as_str()),
            (None, Some(words)) => known.extend(words.iter().filter_map(Json::as_str)),
            (None, None) => return None,
        }
    }
    Some(known)
}

fn words(text: &str, at: &Node, branches: &[Schema], key: &str, out: &mut Findings) -> Option<Json> {
    if let Some(known) = known_words(branches) {
        if known.contains(&text) {
            return Some(text.into());
        }
        let hint = nearest(text, known.iter().copied()).map(str::to_owned);
        let message = format!("must be one of {}", known.join(", "));
        out.problems.push(Problem {
            place: Some(at.place.clone()),
            key: key.to_owned(),
            class: Class::Enum,
            message,
            hint,
        });
        return None;
    }
    let format = branches.first().copied().and_then(schema::format);
    opinion(text, format, at, key, out).then(|| text.into())
}

/// Runs the check of `format`; false when the text is left out.
fn opinion(text: &str, format: Option<&str>, at: &Node, key: &str, out: &mut Findings) -> bool {
    match format.and_then(formats::check).map_or(Opinion::Good, |check| check(text)) {
        Opinion::Good => true,
        Opinion::Odd(message) => {
            out.warn(key, message);
            true
        }
        Opinion::Dropped(message) => {
            out.warn(key, message);
            false
        }
        Opinion::Unknown(message, hint) => {
            let place = Some(at.place.clone());
            out.problems.push(Problem { place, key: key.to_owned(), class: Class::Enum, message, hint });
            false
        }
        Opinion::Bad(message) => {
            report(at, key, Class::Value, message, out);
            false
        }
    }
}

fn list(items: &[Node], at: &Node, schema: Schema, key: &str, out: &mut Findings) -> Option<Json> {
    let before = out.problems.len();
    let (least, most) = (bound(schema, "minItems"), bound(schema, "maxItems"));
    let count = items.len() as f64;
    if least.is_some_and(|least| count < least) || most.is_some_and(|most| most < count) {
        let message = match (least, most) {
            (Some(least), Some(most)) if least == most => format!("needs {least} entries, and this has {count}"),
            (Some(least), _) if count < least => format!("needs at least {least} entries"),
            _ => format!("takes at most {} entries", most.unwrap_or_default()),
        };
        report(at, key, Class::Range, message, out);
    }
    let fixed = schema.get("prefixItems").and_then(Json::as_array);
    let rest = schema.get("items").filter(|items| items.is_object());
    let mut kept = Vec::with_capacity(items.len());
    let mut lost = before < out.problems.len();
    for (index, item) in items.iter().enumerate() {
        let Some(schema) = fixed.and_then(|fixed| fixed.get(index)).or(rest) else { continue };
        let before = out.problems.len();
        let value = node(item, schema, &format!("{key}[{index}]"), out);
        lost |= value.is_none() && before < out.problems.len();
        kept.extend(value);
    }
    // A list without one of its entries is left out as a whole: half an address list is not what was meant.
    (!lost).then_some(Json::Array(kept))
}

fn map(entries: &[Entry], at: &Node, schema: Schema, key: &str, out: &mut Findings) -> Option<Json> {
    let properties = schema.get("properties").and_then(Json::as_object);
    let rest = schema.get("additionalProperties");
    let names = schema.get("propertyNames").and_then(schema::format);
    let mut kept = Map::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = path(key, entry, index, names);
        let own = properties.and_then(|properties| properties.get(&entry.key));
        match own.or_else(|| rest.filter(|rest| rest.is_object())) {
            Some(schema) => {
                let named = Node { value: Value::Null, place: entry.place.clone() };
                let good = own.is_some() || opinion(&entry.key, names, &named, &path, out);
                let value = node(&entry.node, schema, &path, out);
                kept.extend(value.filter(|_| good).map(|value| (entry.key.clone(), value)));
            }
            None if rest == Some(&Json::Bool(true)) || (rest.is_none() && properties.is_none()) => {}
            None => unknown(entry, &path, properties, out),
        }
        // The key's place is what a reader looks for, also when the value stands on a later line.
        out.places.insert(path, entry.place.clone());
    }
    let required = schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    let mut whole = true;
    for missing in required.filter(|name| !entries.iter().any(|entry| entry.key == **name)) {
        report(at, &format!("{key}.{missing}"), Class::Value, "is missing".to_owned(), out);
        whole = false;
    }
    let complete = schema
        .get("required")
        .and_then(Json::as_array)
        .is_none_or(|required| required.iter().filter_map(Json::as_str).all(|name| kept.contains_key(name)));
    (whole && complete).then_some(Json::Object(kept))
}

/// The key path of an entry. A key that is itself a secret is shown by its number.
fn path(above: &str, entry: &Entry, index: usize, names: Option<&str>) -> String {
    let plain = entry.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/' | b'*'));
    match names {
        Some("credential") => format!("{above}[{index}]"),
        _ if above.is_empty() => opinion::brief(&entry.key),
        _ if plain && (1..80).contains(&entry.key.len()) => format!("{above}.{}", entry.key),
        _ => format!("{above}.{:?}", opinion::brief(&entry.key)),
    }
}

fn unknown(entry: &Entry, path: &str, properties: Option<&'static Map<String, Json>>, out: &mut Findings) {
    if out.is_full() {
        return;
    }
    let hint = nearest(&entry.key, properties.into_iter().flatten().map(|(name, _)| name.as_str())).map(str::to_owned);
    out.problems.push(Problem {
        place: Some(entry.place.clone()),
        key: path.to_owned(),
        class: Class::UnknownKey,
        message: "there is no such key".to_owned(),
        hint,
    });
}
