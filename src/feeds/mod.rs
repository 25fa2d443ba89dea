//! Facts from outside: countries, cloud ranges, credential files. Reads files; never on the request path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::config::values::Verifier;
use crate::model::place::{CloudRanges, Countries};

pub mod cloud;
pub mod geo;
pub mod rules;

/// Bytes read of one file at most: a country database has about 40 MB, ranges of a provider about 4 MB.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Something that could not be loaded, under the key path that names it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct FeedError {
    /// Such as `data.cloud_ranges`.
    pub key: String,
    /// What is wrong, with the file's name and never its content.
    pub message: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Countries by address.
    pub countries: Option<Arc<dyn Countries>>,
    /// Ranges by cloud provider.
    pub cloud: Arc<CloudRanges>,
    /// Contents of credential files by configured path.
    pub credentials: BTreeMap<PathBuf, String>,
    /// Files that were named and could not be used. What is missing is treated as unknown: unresolved countries,
    /// empty ranges, and a policy that does not compile for want of its credentials.
    pub errors: Vec<FeedError>,
}

/// Loads every file that the configuration names.
#[must_use]
pub fn load(config: &Config) -> Loaded {
    let mut loaded = Loaded::default();
    if let Some(path) = &config.security.geo_ip_handler {
        match read(path).and_then(|bytes| geo::Mmdb::new(bytes).map_err(|error| format!("{}: {error}", path.display())))
        {
            Ok(mmdb) => loaded.countries = Some(Arc::new(mmdb)),
            Err(message) => loaded.error("security.geo_ip_handler", message),
        }
    }
    if let Some(folder) = &config.data.cloud_ranges {
        let (ranges, messages) = cloud::load(folder);
        loaded.cloud = Arc::new(ranges);
        for message in messages {
            loaded.error("data.cloud_ranges", message);
        }
    }
    for path in credential_files(config) {
        match read(&path)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8", path.display())))
        {
            Ok(text) => drop(loaded.credentials.insert(path, text)),
            Err(message) => loaded.error("security.auth_verifier", message),
        }
    }
    loaded
}

impl Loaded {
    fn error(&mut self, key: &str, message: String) {
        self.errors.push(FeedError { key: key.to_owned(), message });
    }
}

/// The credential files that verifiers name.
#[must_use]
pub fn credential_files(config: &Config) -> BTreeSet<PathBuf> {
    let routes = config.routes.iter().flat_map(|route| [&route.auth_verifier, &route.api_key_verifier]);
    std::iter::once(&config.security.auth_verifier)
        .chain(routes)
        .filter_map(|verifier| match verifier {
            Some(Verifier::Hashes(hashes)) => hashes.file.clone(),
            Some(Verifier::Cel(_)) | None => None,
        })
        .collect()
}

/// Reads a file that is not unreasonably large.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let problem = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let length = std::fs::metadata(path).map_err(|error| problem(&error))?.len();
    if FILE_BYTES_MAX < length {
        return Err(problem(&format_args!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|error| problem(&error))
}
