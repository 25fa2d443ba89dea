//! Which fields do something in this build: one table, one line a field. What is not in it is active.

use serde_json::Value;

use crate::config::Config;
use crate::config::errors::Notice;
use crate::config::places::{Places, notice};
use crate::config::redacted::redacted_json;

/// What a field does in this build.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Activity {
    /// It works.
    Active,
    /// It is read and checked, and its machinery is not there yet.
    Inactive(&'static str),
    /// It is taken so that a guard-core configuration loads, and will never do anything.
    Compatibility(&'static str),
}

use Activity::{Compatibility, Inactive};

const LOGFIRE: Activity = Compatibility("Logfire has no exporter here; use OTLP");

/// Every field that is not active.
const TABLE: &[(&str, Activity)] = &[
    ("security.enable_logfire", LOGFIRE),
    ("security.logfire_service_name", LOGFIRE),
    ("security.sync_body_read_max_concurrent", Compatibility("no thread is held for a body read")),
    ("security.detection_compiler_timeout", Compatibility("the automaton's time is linear in its input")),
];

/// What the field at `key` (`section.field`) does in this build.
#[must_use]
pub fn of(key: &str) -> Activity {
    TABLE.iter().find(|(name, _)| *name == key).map_or(Activity::Active, |(_, activity)| *activity)
}

/// The keys of the table, for tests and reports.
pub fn keys() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(key, _)| *key)
}

/// The fields that differ from their default and do nothing.
pub(crate) fn set_but_inactive(config: &Config, places: &Places) -> Vec<Notice> {
    let set = redacted_json(config);
    let default = redacted_json(&Config::default());
    let at = |value: &Value, key: &str| value.pointer(&format!("/{}", key.replace('.', "/"))).cloned();
    TABLE
        .iter()
        .filter(|(key, _)| at(&set, key) != at(&default, key))
        .filter_map(|(key, activity)| match activity {
            Inactive(why) | Compatibility(why) => Some(notice(places, key, format!("has no effect: {why}"))),
            Activity::Active => None,
        })
        .collect()
}
