//! Values with their places, and the merging of layers. Knows no field.
//!
//! figment decides which layer wins; what it merges are plain values that carry only the tag of their layer. The
//! winners are then looked up in their own layer, which keeps places, key order and exact numbers.

use std::collections::HashMap;

use figment::value::{Dict, Map as FigmentMap, Value as FigmentValue};
use figment::{Figment, Metadata, Profile, Provider};

use crate::config::errors::Place;

/// A value and its place. Has no `Debug`: it may hold secrets.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// A parsed value; numbers are exact, maps keep their order.
#[derive(Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map. `place` is that of the key.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Node {
    /// An empty map.
    pub(crate) const fn empty(place: Place) -> Self {
        Self { value: Value::Map(Vec::new()), place }
    }

    /// `leaf` under `path`, every level being a map with one key.
    pub(crate) fn nested(path: &[&str], leaf: Self) -> Self {
        path.iter().rev().fold(leaf, |node, key| {
            let place = node.place.clone();
            let entry = Entry { key: (*key).to_owned(), place: place.clone(), node };
            Self { value: Value::Map(vec![entry]), place }
        })
    }

    fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    fn to_figment(&self) -> FigmentValue {
        match &self.value {
            Value::Null => FigmentValue::from(figment::value::Empty::None),
            Value::Bool(flag) => FigmentValue::from(*flag),
            Value::Int(number) => FigmentValue::from(*number),
            Value::Float(number) => FigmentValue::from(*number),
            Value::Text(text) => FigmentValue::from(text.as_str()),
            Value::List(items) => FigmentValue::from(items.iter().map(Self::to_figment).collect::<Vec<_>>()),
            Value::Map(_) => FigmentValue::from(self.to_dict()),
        }
    }

    fn to_dict(&self) -> Dict {
        self.entries().iter().map(|entry| (entry.key.clone(), entry.node.to_figment())).collect()
    }
}

/// One layer as figment sees it; its name is its index.
struct Layer<'a> {
    index: usize,
    root: &'a Node,
}

impl Provider for Layer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.index.to_string())
    }

    fn data(&self) -> Result<FigmentMap<Profile, Dict>, figment::Error> {
        Ok([(Profile::Default, self.root.to_dict())].into())
    }
}

/// Lays `layers` over each other: the last one wins; maps are merged key by key, lists and scalars replaced.
pub(crate) fn merge(layers: &[Node], place: &Place) -> Result<Node, String> {
    let mut figment = Figment::new();
    for (index, root) in layers.iter().enumerate() {
        figment = figment.merge(Layer { index, root });
    }
    let merged = figment.data().map_err(|error| error.to_string())?.remove(&Profile::Default).unwrap_or_default();
    let roots: Level<'_> = layers.iter().enumerate().collect();
    Ok(Node { value: Value::Map(winners(&figment, &merged, &roots)), place: place.clone() })
}

/// The nodes of all layers at one path, with their layer's index.
type Level<'a> = Vec<(usize, &'a Node)>;

/// The entries of `merged`, each taken from the layer that won, in the order in which the layers first name them.
fn winners(figment: &Figment, merged: &Dict, level: &Level<'_>) -> Vec<Entry> {
    let mut order: Vec<&str> = Vec::with_capacity(merged.len());
    let mut named: HashMap<&str, Vec<(usize, &Entry)>> = HashMap::new();
    for (index, node) in level {
        for entry in node.entries() {
            let below = named.entry(entry.key.as_str()).or_default();
            if below.is_empty() {
                order.push(entry.key.as_str());
            }
            below.push((*index, entry));
        }
    }
    let winner = |key: &str| winner(figment, merged.get(key)?, named.get(key)?);
    order.into_iter().filter_map(winner).collect()
}

/// The entry that won among those of one key.
fn winner(figment: &Figment, value: &FigmentValue, below: &[(usize, &Entry)]) -> Option<Entry> {
    let FigmentValue::Dict(_, dict) = value else {
        let layer = figment.get_metadata(value.tag()).and_then(|metadata| metadata.name.parse().ok());
        return below.iter().find(|(index, _)| Some(*index) == layer).map(|(_, entry)| (*entry).clone());
    };
    let (_, last) = below.iter().rev().find(|(_, entry)| matches!(entry.node.value, Value::Map(_)))?;
    let level = below.iter().map(|(index, entry)| (*index, &entry.node)).collect();
    let node = Node { value: Value::Map(winners(figment, dict, &level)), place: last.node.place.clone() };
    Some(Entry { key: last.key.clone(), place: last.place.clone(), node })
}
