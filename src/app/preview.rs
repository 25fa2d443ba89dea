//! `reload --dry-run`: what reading everything again would change, without a secret.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::app::keeper::Preview;
use crate::config::Config;
use crate::config::redacted::redacted_json;
use crate::detect::PatternInfo;
use crate::engine::policy::Feeds;
use crate::live::Snapshot;
use crate::model::place::Provider;
use crate::server::gate::Credentials;
use crate::server::tls::Terms;

/// Rows that are named at most, of those that come, go or change.
const ROWS_SHOWN_MAX: usize = 50;

/// Keys, or beginnings of keys, that a running service does not take over.
const NEEDS_RESTART: [&str; 17] = [
    "listeners.grpc",
    "listeners.unix",
    "listeners.unix_mode",
    "listeners.workers",
    "admin.address",
    "admin.unix",
    "admin.unix_mode",
    "redis.",
    "security.redis_",
    "security.enable_redis",
    "limits.",
    "telemetry.queue",
    "security.log_format",
    "security.custom_log_file",
    "data.dynamic_rules",
    "security.enable_dynamic_rules",
    "security.dynamic_rule",
];

/// The difference between what is in force and what would be.
pub(super) fn shown(preview: &Preview, live: &Snapshot) -> Value {
    let (old, new) = (&preview.old, &preview.new);
    let mut shown = difference((&old.loaded.config, &old.loaded.hash), (&new.loaded.config, &new.loaded.hash));
    if let Value::Object(fields) = &mut shown {
        let patterns = patterns(&live.policy.detector.default_patterns(), &preview.detector.default_patterns());
        fields.insert("patterns".to_owned(), patterns.into());
        fields.insert("recompiles_patterns".to_owned(), (!preview.detector.has_rows_of(&live.policy.detector)).into());
        fields.insert("feeds".to_owned(), feeds(&old.feeds, &new.feeds).into());
        fields.insert("certificates".to_owned(), certificates(&old.credentials, &new.credentials).into());
        fields.insert("admin_token_changed".to_owned(), (old.credentials.token != new.credentials.token).into());
        let rules = new
            .rules
            .as_ref()
            .map(|rules| json!({ "rule_id": rules.rules.rule_id, "version": rules.rules.version, "kept": true }));
        fields.insert("dynamic_rules".to_owned(), rules.into());
    }
    shown
}

/// Rows of patterns that come, go or change.
fn patterns(old: &[PatternInfo], new: &[PatternInfo]) -> Vec<Value> {
    let by_row =
        |rows: &[PatternInfo]| rows.iter().map(|row| (row.row.clone(), row.clone())).collect::<BTreeMap<_, _>>();
    let (old, new) = (by_row(old), by_row(new));
    let rows: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changes = rows.into_iter().filter_map(|row| {
        let change = match (old.get(row), new.get(row)) {
            (None, Some(_)) => "added",
            (Some(_), None) => "removed",
            (Some(old), Some(new)) if old != new => "changed",
            _ => return None,
        };
        Some(json!({ "row": row, "change": change }))
    });
    changes.take(ROWS_SHOWN_MAX).collect()
}

/// Lists and other files of facts about addresses, and credential files, that hold something else.
fn feeds(old: &Feeds, new: &Feeds) -> Vec<Value> {
    let entries = |feeds: &Feeds, name: &str| {
        let list = name.strip_prefix("list:").and_then(|name| feeds.lists.iter().find(|list| *list.name == *name));
        list.map(|list| list.entries.len())
    };
    let names: BTreeSet<&String> = old.digests.keys().chain(new.digests.keys()).collect();
    let changed = names.into_iter().filter(|name| old.digests.get(*name) != new.digests.get(*name));
    let mut changes: Vec<Value> = changed
        .map(|name| json!({ "feed": name, "entries_before": entries(old, name), "entries_after": entries(new, name) }))
        .collect();
    for provider in Provider::ALL {
        let entries = |feeds: &Feeds| feeds.cloud.of(provider).map_or(0, |networks| networks.len());
        let (before, after) = (entries(old), entries(new));
        if before != after {
            let feed = format!("cloud:{}", provider.name());
            changes.push(json!({ "feed": feed, "entries_before": before, "entries_after": after }));
        }
    }
    let files: BTreeSet<_> = old.credentials.keys().chain(new.credentials.keys()).collect();
    let files = files.into_iter().filter(|file| old.credentials.get(*file) != new.credentials.get(*file));
    changes.extend(files.map(|file| json!({ "credentials": file.display().to_string(), "changed": true })));
    changes
}

/// Certificates of our ports that are others.
fn certificates(old: &Credentials, new: &Credentials) -> Vec<Value> {
    let of = |terms: &Terms| json!({ "sha256": terms.fingerprint, "expires": terms.expires.0 });
    let ports = [("listeners.tls", &old.grpc, &new.grpc), ("admin.tls", &old.admin, &new.admin)];
    let print = |terms: &Option<std::sync::Arc<Terms>>| terms.as_ref().map(|terms| terms.fingerprint.clone());
    let changed = ports.into_iter().filter(|(_, old, new)| print(old) != print(new));
    changed
        .map(|(key, old, new)| {
            json!({ "certificate": key, "before": old.as_deref().map(of), "after": new.as_deref().map(of) })
        })
        .collect()
}

/// What becomes another configuration, key by key, without secrets.
fn difference((old, old_hash): (&Config, &str), (new, new_hash): (&Config, &str)) -> Value {
    let (mut before, mut after) = (Map::new(), Map::new());
    flatten("", &redacted_json(old), &mut before);
    flatten("", &redacted_json(new), &mut after);
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changes: Vec<Value> = keys
        .into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| {
            let needs_restart = NEEDS_RESTART.iter().any(|start| key.starts_with(start));
            json!({ "key": key, "old": before.get(key), "new": after.get(key), "needs_restart": needs_restart })
        })
        .collect();
    json!({
        "dry_run": true,
        // Secrets look alike here; the hash tells them apart.
        "only_secrets_changed": changes.is_empty() && old_hash != new_hash,
        "changes": changes,
        "hash": new_hash,
    })
}

/// Maps by their keys, joined by dots; lists and plain values whole.
fn flatten(above: &str, value: &Value, out: &mut Map<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
                flatten(&path, value, out);
            }
        }
        _ => drop(out.insert(above.to_owned(), value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::category::Category;

    #[test]
    fn a_difference_names_what_changes_and_what_waits() {
        let old = Config::default();
        let mut new = old.clone();
        new.security.rate_limit = 77;
        new.limits.drain_seconds = 3;
        new.admin.token = Some("0123456789abcdef".to_owned().into());
        let difference = difference((&old, "a"), (&new, "b"));
        let changes = difference["changes"].as_array().unwrap();
        let of = |key: &str| changes.iter().find(|change| change["key"] == key).unwrap();
        assert_eq!(of("security.rate_limit")["new"], 77);
        assert_eq!(of("security.rate_limit")["needs_restart"], false);
        assert_eq!(of("limits.drain_seconds")["needs_restart"], true);
        assert_eq!(of("admin.token")["new"], "[redacted]");
        assert_eq!(changes.len(), 3);
        let other_secret = super::difference((&new, "b"), (&new, "c"));
        assert_eq!(other_secret["only_secrets_changed"], true);
        assert_eq!(other_secret["changes"].as_array().unwrap().len(), 0);
    }

    #[test]
    fn rows_that_come_go_or_change_are_named() {
        let row = |row: &str, pattern: &str| PatternInfo {
            row: row.to_owned(),
            category: Category::XSS,
            about: String::new(),
            pattern: pattern.to_owned(),
        };
        let (old, new) =
            ([row("A", "a"), row("B", "b"), row("C", "c")], [row("B", "other"), row("C", "c"), row("D", "d")]);
        let expected = [("A", "removed"), ("B", "changed"), ("D", "added")];
        let expected: Vec<Value> =
            expected.iter().map(|(row, change)| json!({ "row": row, "change": change })).collect();
        assert_eq!(patterns(&old, &new), expected);
        assert_eq!(patterns(&new, &new), Vec::<Value>::new());
    }
}
