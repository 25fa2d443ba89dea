//! Variables and flags: text that takes the type of the field it names.

use std::sync::Arc;

use crate::config::errors::{Class, Place, Problem};
use crate::config::schema::{self, Kinds};
use crate::config::tree::{Node, Value};
use crate::config::yaml;

/// What the names of our variables begin with.
pub(crate) const PREFIX: &str = "ENVOY_GUARD_";
/// Names that the program itself reads.
const RESERVED: [&str; 4] = ["CONFIG", "BLESS", "ADMIN_URL", "ADMIN_TOKEN"];

/// One layer for each variable of ours, in the order of their names, so that a whole map comes before its parts.
pub(crate) fn environment(variables: &[(String, String)]) -> Vec<Result<Node, Problem>> {
    let mut ours: Vec<(&str, &str)> = variables
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str())).filter(|_| is_ours(name)))
        .collect();
    ours.sort_unstable();
    ours.into_iter()
        .map(|(name, value)| {
            let lower = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
            let path: Vec<&str> = lower.split("__").collect();
            layer(&path, value, Place::Variable(Arc::from(name)))
        })
        .collect()
}

/// Kubernetes puts the addresses of a service called `envoy-guard` into the environment of its neighbours, under the
/// same prefix: `…_SERVICE_HOST`, `…_SERVICE_PORT…`, `…_PORT…`. They are not meant for us.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let foreign =
        rest == "SERVICE_HOST" || rest.starts_with("SERVICE_PORT") || rest == "PORT" || rest.starts_with("PORT_");
    !foreign && !RESERVED.contains(&rest)
}

/// One layer for each `--set KEY=VALUE`, in order.
pub(crate) fn overrides(flags: &[(String, String)]) -> Vec<Result<Node, Problem>> {
    flags
        .iter()
        .map(|(key, value)| {
            let path: Vec<&str> = key.split('.').collect();
            layer(&path, value, Place::Flag(Arc::from(key.as_str())))
        })
        .collect()
}

fn layer(path: &[&str], text: &str, place: Place) -> Result<Node, Problem> {
    let failed =
        |place, message| Problem { place: Some(place), key: path.join("."), class: Class::Syntax, message, hint: None };
    if path.iter().any(|part| part.is_empty()) || crate::config::DEPTH_MAX < path.len() {
        return Err(failed(place, "the key path has an empty or too many levels".to_owned()));
    }
    let kinds = schema::lookup(path).map_or_else(Kinds::default, schema::kinds);
    let value = coerce(text, kinds, &place).map_err(|message| failed(place.clone(), message))?;
    Ok(Node::nested(path, Node { value, place }))
}

/// Reads `text` as what the field takes. What fits nothing stays text and is refused by the schema later.
fn coerce(text: &str, kinds: Kinds, place: &Place) -> Result<Value, String> {
    let bare = text.trim();
    if (kinds.list || kinds.map) && bare.starts_with(['[', '{']) {
        match yaml::parse(bare, |_, _| place.clone()) {
            Ok(node) => return Ok(node.value),
            Err(broken) if !kinds.text => return Err(format!("cannot be read as a list or map: {}", broken.message)),
            Err(_) => {}
        }
    }
    if kinds.null && matches!(bare, "null" | "~") {
        return Ok(Value::Null);
    }
    if kinds.flag
        && let Some(flag) = word(bare)
    {
        return Ok(Value::Bool(flag));
    }
    if (kinds.int || kinds.number)
        && let Ok(number) = bare.parse()
    {
        return Ok(Value::Int(number));
    }
    if kinds.number
        && let Ok(number) = bare.parse()
    {
        return Ok(Value::Float(number));
    }
    Ok(Value::Text(text.to_owned()))
}

fn word(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "y" | "t" => Some(true),
        "false" | "no" | "off" | "0" | "n" | "f" => Some(false),
        _ => None,
    }
}
