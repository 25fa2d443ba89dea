//! From sources to a snapshot: configuration, files that it names, compiled policy.

use std::fmt;
use std::sync::Arc;

use crate::config::errors::Notice;
use crate::config::{self, Loaded, Sources};
use crate::detect::Detector;
use crate::engine::policy::{Feeds, Policy};
use crate::feeds;
use crate::live::{Notices, Snapshot};

/// Everything that is wrong with a configuration, one mistake a line, each under its key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct Refusal(pub Vec<String>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Loads and compiles. Reads files and may take a second: not for a thread that serves requests. What did not change
/// since `previous` is taken over from it.
pub fn build(sources: &Sources, previous: Option<&Snapshot>) -> Result<Snapshot, Refusal> {
    let loaded = config::load(sources).map_err(|errors| Refusal(errors.0.iter().map(ToString::to_string).collect()))?;
    let detector = detector(&loaded, previous)?;
    let files = feeds::load(&loaded.config);
    if !files.errors.is_empty() {
        return Err(refusal(&loaded, files.errors.iter().map(|error| (&*error.key, &*error.message))));
    }
    let feeds = Feeds { countries: files.countries, cloud: files.cloud, credentials: files.credentials };
    let policy = Policy::compile(&loaded.config, &feeds, detector)
        .map_err(|errors| refusal(&loaded, errors.iter().map(|error| (&*error.key, &*error.message))))?;
    let notice = |notice: &Notice| notice.to_string();
    let compiled = policy.warnings.iter().map(|warning| placed(&loaded, &warning.key, &warning.message));
    let notices = Notices {
        warnings: loaded.warnings.iter().map(notice).chain(compiled).collect(),
        inactive: loaded.inactive.iter().map(notice).collect(),
    };
    Ok(Snapshot {
        policy,
        hash: loaded.hash,
        version: previous.map_or(1, |previous| previous.version + 1),
        notices,
        config: Arc::new(loaded.config),
    })
}

/// Compiling the patterns is the expensive part, so it is done only when its inputs changed.
fn detector(loaded: &Loaded, previous: Option<&Snapshot>) -> Result<Arc<Detector>, Refusal> {
    let config = &loaded.config;
    let same = |old: &&Snapshot| old.config.security == config.security && old.config.detection == config.detection;
    if let Some(old) = previous.filter(same) {
        return Ok(Arc::clone(&old.policy.detector));
    }
    Detector::compile(&config.security, &config.detection)
        .map(Arc::new)
        .map_err(|errors| refusal(loaded, errors.iter().map(|error| (&*error.key, &*error.message))))
}

fn refusal<'e>(loaded: &Loaded, errors: impl Iterator<Item = (&'e str, &'e str)>) -> Refusal {
    Refusal(errors.map(|(key, message)| placed(loaded, key, message)).collect())
}

/// A message with the place of its key, as the configuration's own messages have it.
fn placed(loaded: &Loaded, key: &str, message: &str) -> String {
    match config::locate(loaded, key) {
        Some(place) => format!("{place}: {key}: {message}"),
        None => format!("{key}: {message}"),
    }
}
