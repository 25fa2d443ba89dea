//! The JSON Schema of the whole file, and questions to it. The schema is also what the loader checks against.

use std::sync::OnceLock;

use serde_json::Value;

use crate::config::Config;

/// The schema, made once.
pub(crate) fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let settings = schemars::generate::SchemaSettings::draft2020_12();
        let mut schema = settings.into_generator().into_root_schema_for::<Config>();
        schema.insert("title".to_owned(), "envoy-guard configuration".into());
        schema.to_value()
    })
}

/// Which kinds of value a schema takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Kinds {
    pub(crate) null: bool,
    pub(crate) flag: bool,
    pub(crate) int: bool,
    pub(crate) number: bool,
    pub(crate) text: bool,
    pub(crate) list: bool,
    pub(crate) map: bool,
}

impl Kinds {
    fn with(mut self, name: &str) -> Self {
        match name {
            "null" => self.null = true,
            "boolean" => self.flag = true,
            "integer" => self.int = true,
            "number" => self.number = true,
            "string" => self.text = true,
            "array" => self.list = true,
            "object" => self.map = true,
            _ => {}
        }
        self
    }

    /// The kinds in words, joined by "or".
    pub(crate) fn words(self) -> String {
        [
            (self.flag, "true or false"),
            (self.int, "a whole number"),
            (self.number, "a number"),
            (self.text, "text"),
            (self.list, "a list"),
            (self.map, "a map"),
            (self.null, "null"),
        ]
        .into_iter()
        .filter_map(|(has, word)| has.then_some(word))
        .collect::<Vec<_>>()
        .join(" or ")
    }
}

/// Follows `$ref` to the definition.
pub(crate) fn resolve(schema: &'static Value) -> &'static Value {
    let Some(name) = schema.get("$ref").and_then(Value::as_str) else { return schema };
    name.strip_prefix("#").and_then(|pointer| document().pointer(pointer)).map_or(schema, resolve)
}

/// The alternatives of `anyOf` and `oneOf`, or the schema itself.
pub(crate) fn branches(schema: &'static Value) -> Vec<&'static Value> {
    let schema = resolve(schema);
    let alternatives = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    alternatives.map_or_else(|| vec![schema], |list| list.iter().flat_map(branches).collect())
}

/// Which kinds of value `schema` takes.
pub(crate) fn kinds(schema: &'static Value) -> Kinds {
    branches(schema).into_iter().fold(Kinds::default(), |kinds, branch| match branch.get("type") {
        Some(Value::String(name)) => kinds.with(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).fold(kinds, Kinds::with),
        _ if branch.get("const").is_some_and(Value::is_string) => kinds.with("string"),
        _ => kinds,
    })
}

/// The schema of the property `key` of `schema`, of its map values if it has no fixed properties.
pub(crate) fn property(schema: &'static Value, key: &str) -> Option<&'static Value> {
    branches(schema).into_iter().find_map(|branch| {
        let named = branch.get("properties").and_then(|properties| properties.get(key));
        named.or_else(|| branch.get("additionalProperties").filter(|rest| rest.is_object()))
    })
}

/// The schema of the field at `path`.
pub(crate) fn lookup(path: &[&str]) -> Option<&'static Value> {
    path.iter().try_fold(document(), |schema, key| property(schema, key))
}

/// The word that the schema gives its texts under `format`.
pub(crate) fn format(schema: &'static Value) -> Option<&'static str> {
    schema.get("format").and_then(Value::as_str)
}
