//! Text in one of three formats to a tree with places. TOML and JSON live here, YAML in `yaml`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use toml_edit::{ImDocument, Item};

use crate::config::DEPTH_MAX;
use crate::config::errors::Place;
use crate::config::tree::{Entry, Node, Value};

/// Why a text has no tree, and where; line 0 when the parser does not say.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) message: String,
}

/// Columns are counted up to here: beyond, in a file of one line, counting each would take quadratic time.
const COLUMN_MAX: usize = 4096;

/// Lines and columns by byte offset.
struct Lines<'t, P> {
    text: &'t str,
    starts: Vec<usize>,
    place: P,
    depth_max: usize,
}

impl<'t, P: Fn(u32, u32) -> Place> Lines<'t, P> {
    fn new(text: &'t str, place: P) -> Self {
        let starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1)).collect();
        Self { text, starts, place, depth_max: DEPTH_MAX }
    }

    fn position(&self, offset: usize) -> (u32, u32) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| self.starts.get(index)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).filter(|before| before.len() < COLUMN_MAX);
        let column = before.map_or(0, |before| before.chars().count() + 1);
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    fn at(&self, offset: usize) -> Place {
        let (line, column) = self.position(offset);
        (self.place)(line, column)
    }

    fn broken(&self, offset: usize, message: &str) -> Broken {
        let (line, column) = self.position(offset);
        Broken { line, column, message: message.to_owned() }
    }
}

/// Parses TOML. The parser bounds nesting by itself and refuses duplicate keys.
pub(crate) fn toml(text: &str, place: impl Fn(u32, u32) -> Place) -> Result<Node, Broken> {
    let lines = Lines::new(text, place);
    let document = ImDocument::parse(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        lines.broken(error.span().map_or(0, |span| span.start), &message)
    })?;
    Ok(toml_item(document.as_item(), 0, &lines))
}

/// `parent` is the offset used where the parser keeps none (tables that exist only as part of a dotted key).
fn toml_item<P: Fn(u32, u32) -> Place>(item: &Item, parent: usize, lines: &Lines<'_, P>) -> Node {
    let offset = item.span().map_or(parent, |span| span.start);
    let value = match item {
        Item::None => Value::Null,
        Item::ArrayOfTables(tables) => {
            Value::List(tables.iter().map(|table| toml_table(table, span(table.span(), offset), lines)).collect())
        }
        Item::Table(table) => return toml_table(table, offset, lines),
        Item::Value(value) => toml_value(value, offset, lines),
    };
    Node { value, place: lines.at(offset) }
}

fn span(span: Option<std::ops::Range<usize>>, parent: usize) -> usize {
    span.map_or(parent, |span| span.start)
}

fn toml_table<P: Fn(u32, u32) -> Place>(table: &dyn toml_edit::TableLike, own: usize, lines: &Lines<'_, P>) -> Node {
    let mut entries: Vec<(usize, Entry)> = Vec::new();
    for (key, item) in table.iter() {
        let offset = table.key(key).and_then(toml_edit::Key::span).map_or(own, |span| span.start);
        let node = toml_item(item, offset, lines);
        entries.push((offset, Entry { key: key.to_owned(), place: lines.at(offset), node }));
    }
    entries.sort_by_key(|(offset, _)| *offset);
    let entries = entries.into_iter().map(|(_, entry)| entry).collect();
    Node { value: Value::Map(entries), place: lines.at(own) }
}

fn toml_value<P: Fn(u32, u32) -> Place>(value: &toml_edit::Value, own: usize, lines: &Lines<'_, P>) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::Text(text.value().clone()),
        toml_edit::Value::Integer(number) => Value::Int((*number.value()).into()),
        toml_edit::Value::Float(number) => Value::Float(*number.value()),
        toml_edit::Value::Boolean(flag) => Value::Bool(*flag.value()),
        toml_edit::Value::Datetime(moment) => Value::Text(moment.value().to_string()),
        toml_edit::Value::Array(items) => Value::List(
            items
                .iter()
                .map(|item| {
                    let offset = span(item.span(), own);
                    Node { value: toml_value(item, offset, lines), place: lines.at(offset) }
                })
                .collect(),
        ),
        toml_edit::Value::InlineTable(table) => toml_table(table, own, lines).value,
    }
}

/// Parses JSON.
pub(crate) fn json(text: &str, place: impl Fn(u32, u32) -> Place) -> Result<Node, Broken> {
    json_within(DEPTH_MAX, text, place)
}

/// Parses JSON that is nested `depth_max` levels deep at most.
pub(crate) fn json_within(depth_max: usize, text: &str, place: impl Fn(u32, u32) -> Place) -> Result<Node, Broken> {
    let lines = Lines { depth_max, ..Lines::new(text, place) };
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| json_broken(&error, 0, &lines))?;
    json_node(raw, depth_max, &lines)
}

/// serde_json counts lines within the piece it was given; `start` is where the piece begins.
fn json_broken<P: Fn(u32, u32) -> Place>(error: &serde_json::Error, start: usize, lines: &Lines<'_, P>) -> Broken {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
    let (line, column) = lines.position(start);
    let first = error.line() <= 1;
    let add = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Broken {
        line: line.saturating_add(add(error.line().saturating_sub(1))),
        column: if first { column.saturating_add(add(error.column().saturating_sub(1))) } else { add(error.column()) },
        message,
    }
}

/// A raw value borrows from the text, so its address tells its offset.
fn json_node<P: Fn(u32, u32) -> Place>(raw: &RawValue, depth: usize, lines: &Lines<'_, P>) -> Result<Node, Broken> {
    let piece = raw.get();
    let offset = (piece.as_ptr() as usize).saturating_sub(lines.text.as_ptr() as usize);
    let failed = |error: serde_json::Error| json_broken(&error, offset, lines);
    let nested = matches!(piece.as_bytes().first(), Some(b'{' | b'['));
    if nested && depth == 0 {
        return Err(lines.broken(offset, &format!("nested more than {} levels deep", lines.depth_max)));
    }
    let value = match piece.as_bytes().first() {
        Some(b'{') => {
            let Pairs(pairs) = serde_json::from_str(piece).map_err(failed)?;
            Value::Map(json_entries(pairs, depth, lines)?)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(piece).map_err(failed)?;
            Value::List(items.into_iter().map(|item| json_node(item, depth - 1, lines)).collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(piece).map_err(failed)?),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Null,
        _ => {
            piece.parse().map(Value::Int).or_else(|_| serde_json::from_str(piece).map(Value::Float)).map_err(failed)?
        }
    };
    Ok(Node { value, place: lines.at(offset) })
}

fn json_entries<P: Fn(u32, u32) -> Place>(
    pairs: Vec<(String, &RawValue)>,
    depth: usize,
    lines: &Lines<'_, P>,
) -> Result<Vec<Entry>, Broken> {
    let mut seen = std::collections::HashSet::new();
    let mut entries = Vec::with_capacity(pairs.len());
    for (key, raw) in pairs {
        let value = (raw.get().as_ptr() as usize).saturating_sub(lines.text.as_ptr() as usize);
        // The key ends at the last quote before the value, and JSON strings hold no raw line breaks.
        let before = lines.text.get(..value).unwrap_or_default();
        let quote = before.rfind('"').unwrap_or(value);
        let start = before.get(..quote).and_then(|text| text.rfind('"')).unwrap_or(quote);
        if !seen.insert(key.clone()) {
            return Err(lines.broken(start, &format!("duplicate key `{key}`")));
        }
        entries.push(Entry { key, place: lines.at(start), node: json_node(raw, depth - 1, lines)? });
    }
    Ok(entries)
}

/// The pairs of an object, in order, duplicates kept.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
                Err(serde::de::Error::custom("expected an object"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}
