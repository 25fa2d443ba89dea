//! YAML text to a tree with places, through serde-saphyr.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use crate::config::DEPTH_MAX;
use crate::config::errors::Place;
use crate::config::opinion::brief;
use crate::config::parse::Broken;
use crate::config::tree::{Entry, Node, Value};

/// Parses one YAML document; an empty one is an empty map. The words yes, no, on and off are text.
pub(crate) fn parse(text: &str, place: impl Fn(u32, u32) -> Place) -> Result<Node, Broken> {
    let options = options(serde_saphyr::budget! { max_depth: DEPTH_MAX, max_documents: 1 });
    let raw: Option<Spanned<Raw>> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| broken(&error, DEPTH_MAX))?;
    Ok(raw.map_or_else(|| Node::empty(place(0, 0)), |raw| plant(raw, &place)))
}

/// Parses all documents of a text that others made; `depth_max` levels need about 32 KiB of stack each.
pub(crate) fn documents(text: &str, depth_max: usize, place: impl Fn(u32, u32) -> Place) -> Result<Vec<Node>, Broken> {
    let options = options(serde_saphyr::budget! { max_depth: depth_max });
    let raws: Vec<Spanned<Raw>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| broken(&error, depth_max))?;
    Ok(raws.into_iter().map(|raw| plant(raw, &place)).collect())
}

fn options(budget: Option<serde_saphyr::Budget>) -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        // The schema refuses them, naming the key.
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        duplicate_keys: DuplicateKeyPolicy::Error,
        budget: budget,
    }
}

/// The message without the location, which is told apart, and without what stood in the text.
fn broken(error: &serde_saphyr::Error, depth_max: usize) -> Broken {
    let error = error.without_snippet();
    let at = error.location().filter(|location| *location != Location::UNKNOWN);
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default();
    let message = message.split(" at line ").next().unwrap_or(message);
    let message = match message.split_once(": ") {
        Some(("budget breached", kind)) => budget(kind, depth_max),
        Some(("duplicate mapping key", key)) => {
            format!("duplicate key `{}`", brief(key.split(", set ").next().unwrap_or(key)))
        }
        _ => message.to_owned(),
    };
    Broken { line: at.map_or(0, |at| clamp(at.line())), column: at.map_or(0, |at| clamp(at.column())), message }
}

/// Which bound of the parser was met.
fn budget(kind: &str, depth_max: usize) -> String {
    if kind.starts_with("Documents") {
        return "holds more than one document".to_owned();
    }
    if kind.starts_with("Depth") {
        return format!("nested more than {depth_max} levels deep");
    }
    "holds too many values, aliases or comments".to_owned()
}

fn clamp(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn plant(raw: Spanned<Raw>, place: &impl Fn(u32, u32) -> Place) -> Node {
    let at = |location: Location| place(clamp(location.line()), clamp(location.column()));
    let own = at(raw.referenced);
    let value = match raw.value {
        Raw::Leaf(value) => value,
        Raw::List(items) => Value::List(items.into_iter().map(|item| plant(item, place)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, node)| Entry { place: at(key.referenced), key: key.value.0, node: plant(node, place) })
                .collect(),
        ),
    };
    Node { value, place: own }
}

/// What serde-saphyr hands out before places become ours.
enum Raw {
    Leaf(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<Key>, Spanned<Self>)>),
}

struct RawVisitor;

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Bool(flag)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Int(number.into())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Int(number.into())))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Int(number)))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Int(i128::try_from(number).unwrap_or(i128::MAX))))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Float(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Leaf(Value::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

/// A key as it is spelt: `403` and `"403"` are the same key.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A place maker for the file called `name`.
pub(crate) fn in_file(name: &Arc<str>) -> impl Fn(u32, u32) -> Place + use<> {
    let file = Arc::clone(name);
    move |line, column| Place::File { file: Arc::clone(&file), line, column }
}
