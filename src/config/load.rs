//! From sources to a checked configuration: read, lay over each other, check against the schema, check across fields.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::config::check::{Findings, check};
use crate::config::errors::{Class, Errors, Place, Problem};
use crate::config::parse::{self, Broken};
use crate::config::tree::{Node, merge};
use crate::config::{Config, Loaded, Sources};
use crate::config::{activity, redacted, rules, schema, variables, yaml};

/// Largest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// See `config::load`.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, Errors> {
    let mut problems = Vec::new();
    let mut layers = Vec::new();
    if let Some(path) = &sources.file {
        collect(file(path), &mut layers, &mut problems);
    }
    for variable in variables::environment(&sources.env) {
        collect(variable, &mut layers, &mut problems);
    }
    for flag in variables::overrides(&sources.overrides) {
        collect(flag, &mut layers, &mut problems);
    }
    let place = layers.first().map_or_else(|| Place::Flag("".into()), |layer| layer.place.clone());
    let tree = match merge(&layers, &place) {
        Ok(tree) => tree,
        Err(error) => {
            problems.push(whole(Class::Syntax, None, error));
            return Err(Errors(problems));
        }
    };
    finish(&tree, problems)
}

fn finish(tree: &Node, mut problems: Vec<Problem>) -> Result<Loaded, Errors> {
    let (value, mut findings) = check(tree, schema::document());
    let config = match serde_json::from_value::<Config>(value.clone()) {
        Ok(mut config) => {
            rules::apply(&mut config, &mut findings);
            Some(config)
        }
        Err(_) => {
            blame(&value, &mut findings);
            None
        }
    };
    problems.append(&mut findings.problems);
    let Some(config) = config.filter(|_| problems.is_empty()) else {
        problems.sort_by_key(|problem| (problem.place.is_none(), problem.place.clone()));
        return Err(Errors(problems));
    };
    let Findings { warnings, places, .. } = findings;
    let inactive = activity::set_but_inactive(&config, &places);
    let hash = hash(&config, &value);
    Ok(Loaded { config, warnings, hash, inactive, places })
}

/// Finds the field that serde refuses although the schema took it. No known text leads here; a field added with a
/// reader stricter than its schema would.
fn blame(value: &serde_json::Value, findings: &mut Findings) {
    let sections = value.as_object().into_iter().flatten();
    let mut found = false;
    for (section, inner) in sections {
        let Some(fields) = inner.as_object() else {
            let alone = serde_json::json!({ section: inner });
            if serde_json::from_value::<Config>(alone).is_err() {
                findings.problem(section, Class::Value, "this value cannot be used".to_owned());
                found = true;
            }
            continue;
        };
        for (field, inner) in fields {
            let alone = serde_json::json!({ section: { field: inner } });
            if serde_json::from_value::<Config>(alone).is_err() {
                findings.problem(&format!("{section}.{field}"), Class::Value, "this value cannot be used".to_owned());
                found = true;
            }
        }
    }
    if !found {
        findings.problem("", Class::Value, "the configuration cannot be used".to_owned());
    }
}

fn collect(layer: Result<Node, Problem>, layers: &mut Vec<Node>, problems: &mut Vec<Problem>) {
    match layer {
        Ok(node) => layers.push(node),
        Err(problem) => problems.push(problem),
    }
}

/// Times that the secrets are digested, so that guessing one from the hash is slow.
const STRETCH: u32 = 50_000;
/// Bytes of the secrets' digest that count. Four tell a change apart, and leave countless secrets that fit them all.
const KEPT: usize = 4;

/// SHA-256 of the effective configuration with its secrets redacted, and of a few bytes of a stretched digest of the
/// secrets themselves: it changes when one of them changes, and neither tells nor confirms one.
fn hash(config: &Config, given: &serde_json::Value) -> String {
    let redacted = redacted::redacted_json(config);
    let mut hidden = Vec::new();
    secrets(given, &redacted, &mut hidden);
    let text = redacted.to_string();
    let mut hasher = Sha256::new().chain_update(text.as_bytes());
    if !hidden.is_empty() {
        let mut digest = Sha256::new().chain_update(text.as_bytes());
        for secret in &hidden {
            digest.update((secret.len() as u64).to_le_bytes());
            digest.update(secret.as_bytes());
        }
        let mut digest = digest.finalize();
        for _ in 0..STRETCH {
            digest = Sha256::digest(digest);
        }
        hasher.update(digest.get(..KEPT).unwrap_or_default());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The texts that are shown otherwise than they were given, in order.
fn secrets<'g>(given: &'g serde_json::Value, shown: &serde_json::Value, hidden: &mut Vec<&'g str>) {
    use serde_json::Value::{Array, Object, String};
    match (given, shown) {
        (String(given), String(shown)) if given != shown && (shown.contains("[redacted]") || given.contains('@')) => {
            hidden.push(given);
        }
        (Array(given), Array(shown)) => {
            given.iter().zip(shown).for_each(|(given, shown)| secrets(given, shown, hidden))
        }
        (Object(given), Object(shown)) => {
            let mut keys: Vec<&'g std::string::String> = given.keys().collect();
            keys.sort_unstable();
            for key in keys {
                if let (Some(given), Some(shown)) = (given.get(key), shown.get(key)) {
                    secrets(given, shown, hidden);
                }
            }
        }
        _ => {}
    }
}

const fn whole(class: Class, place: Option<Place>, message: String) -> Problem {
    Problem { place, key: String::new(), class, message, hint: None }
}

fn file(path: &Path) -> Result<Node, Problem> {
    let name: Arc<str> = path.display().to_string().into();
    let place = yaml::in_file(&name);
    let text = read(path).map_err(|(class, message)| whole(class, Some(place(0, 0)), message))?;
    let parsed = match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => yaml::parse(&text, &place),
        Some("toml") => parse::toml(&text, &place),
        Some("json") => parse::json(&text, &place),
        _ => {
            let message = "the file's name must end in .yaml, .yml, .toml or .json".to_owned();
            return Err(whole(Class::File, Some(place(0, 0)), message));
        }
    };
    let node =
        parsed.map_err(|Broken { line, column, message }| whole(Class::Syntax, Some(place(line, column)), message))?;
    if !matches!(node.value, crate::config::tree::Value::Map(_)) {
        let message = "a configuration is a map of sections".to_owned();
        return Err(whole(Class::Type, Some(node.place), message));
    }
    Ok(node)
}

fn read(path: &Path) -> Result<String, (Class, String)> {
    let failed = |error: std::io::Error| (Class::File, format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err((Class::File, format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| (Class::Syntax, "is not UTF-8 text".to_owned()))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
