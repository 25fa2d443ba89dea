//! Looking things up in files of others: a place stays known even where nothing stands.
//!
//! Protobuf's YAML takes `with_request_body` and `withRequestBody` alike, and Kubernetes has the second form, so names
//! are compared without underscores and case.

use crate::config::errors::Place;
use crate::config::tree::{Node, Value};

/// A value, or where it would stand.
#[derive(Clone, Copy)]
pub(super) struct Spot<'n> {
    node: Option<&'n Node>,
    place: &'n Place,
}

impl<'n> Spot<'n> {
    /// The value of `node`.
    pub(super) const fn of(node: &'n Node) -> Self {
        Self { node: Some(node), place: &node.place }
    }

    /// What stands at `path`: keys with `.` between, other names of one key after `|`. Where nothing stands, the place
    /// is that of the last key that does.
    pub(super) fn at(self, path: &str) -> Self {
        path.split('.').fold(self, |spot, names| {
            let found = spot.pairs().find(|(key, _)| names.split('|').any(|name| is_same(key, name)));
            found.map_or(Self { node: None, place: spot.place }, |(_, below)| below)
        })
    }

    /// Where it stands, or would stand.
    pub(super) const fn place(self) -> &'n Place {
        self.place
    }

    /// True when something stands there, other than null.
    pub(super) fn exists(self) -> bool {
        self.node.is_some_and(|node| !matches!(node.value, Value::Null))
    }

    /// True when `true` stands there.
    pub(super) fn is_true(self) -> bool {
        matches!(self.node.map(|node| &node.value), Some(Value::Bool(true)))
    }

    /// A text.
    pub(super) fn text(self) -> Option<&'n str> {
        match &self.node?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// True when this word stands there, in any case.
    pub(super) fn is_word(self, word: &str) -> bool {
        self.text().is_some_and(|text| is_same(text, word))
    }

    /// A whole number; protobuf's JSON writes large ones as text.
    pub(super) fn number(self) -> Option<u64> {
        match &self.node?.value {
            Value::Int(number) => u64::try_from(*number).ok(),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A duration in milliseconds: `0.5s`, `500ms`, `1m30s`.
    pub(super) fn millis(self) -> Option<u64> {
        self.text().and_then(millis)
    }

    /// The entries of a list.
    pub(super) fn items(self) -> impl Iterator<Item = Self> {
        let items: &'n [Node] = match self.node.map(|node| &node.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        };
        items.iter().map(Self::of)
    }

    /// The entries of a map, each at the place of its key.
    pub(super) fn pairs(self) -> impl Iterator<Item = (&'n str, Self)> {
        let entries: &'n [_] = match self.node.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries,
            _ => &[],
        };
        entries.iter().map(|entry| (entry.key.as_str(), Self { node: Some(&entry.node), place: &entry.place }))
    }

    /// The last part of the name of a protobuf message, such as `ext_authz.v3.ExtAuthz`.
    pub(super) fn message(self) -> Option<&'n str> {
        let name = self.at("@type").text()?;
        Some(name.rsplit('/').next().unwrap_or(name))
    }

    /// True when this is a message of the type whose name ends so.
    pub(super) fn is_message(self, end: &str) -> bool {
        self.message().is_some_and(|name| name.ends_with(end))
    }
}

fn is_same(key: &str, name: &str) -> bool {
    let letters =
        |text: &str| text.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase()).collect();
    let (key, name): (Vec<u8>, Vec<u8>) = (letters(key), letters(name));
    key == name
}

fn millis(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let end = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end)?;
        let factor = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1000.0,
            "ms" => 1.0,
            "us" => 0.001,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    // Saturates; a duration of more than ages is as good as endless.
    (!text.trim().is_empty()).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_both_worlds_are_read() {
        for (text, expected) in [
            ("0.5s", Some(500)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("2h", Some(7_200_000)),
            ("10.000000000s", Some(10_000)),
            ("infinity", None),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
    }

    #[test]
    fn names_are_compared_without_underscores_and_case() {
        assert!(is_same("withRequestBody", "with_request_body"));
        assert!(!is_same("with_request_bodies", "with_request_body"));
    }
}
