//! Facts from outside: countries, operators, cloud ranges, lists of addresses, credential files. Reads files and asks
//! servers beside the service; never on the request path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::config::data::{ListAction, ListConfig};
use crate::config::values::Verifier;
use crate::feeds::fetch::Location;
use crate::feeds::geo::{GeoError, Mmdb};
use crate::model::lists::AddressList;
use crate::model::place::CloudRanges;
use crate::state::Digest;

mod azure;
pub mod board;
pub mod cloud;
mod disk;
pub mod fetch;
pub mod geo;
pub mod list;
pub mod plan;
pub mod refresh;
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
    pub countries: Option<Arc<Mmdb>>,
    /// Operators by address, when they have a file of their own.
    pub operators: Option<Arc<Mmdb>>,
    /// Ranges by cloud provider.
    pub cloud: Arc<CloudRanges>,
    /// Lists from files; those from elsewhere have no entries yet. In the order of the configuration.
    pub lists: Vec<AddressList>,
    /// Tells one version of a feed's data from another, by the feed's name; for those that came from files.
    pub digests: BTreeMap<String, Digest>,
    /// Contents of credential files by configured path.
    pub credentials: BTreeMap<PathBuf, String>,
    /// Certificates of `outbound.ca_file`.
    pub authorities: Vec<u8>,
    /// Files that were named and could not be used. What is missing is treated as unknown: unresolved countries,
    /// empty ranges, and a policy that does not compile for want of its credentials.
    pub errors: Vec<FeedError>,
}

/// Loads every file that the configuration names. What has to be asked for is not waited for.
#[must_use]
pub fn load(config: &Config) -> Loaded {
    let mut loaded = Loaded::default();
    loaded.countries = loaded.database(&config.security.geo_ip_handler, "security.geo_ip_handler", Mmdb::new);
    if let Some(database) = &loaded.countries {
        loaded.digests.insert("geo".to_owned(), database.digest());
    }
    loaded.operators = loaded.database(&config.data.asn_database, "data.asn_database", Mmdb::of_operators);
    if let Some(database) = &loaded.operators {
        loaded.digests.insert("asn".to_owned(), database.digest());
    }
    if let Some(folder) = &config.data.cloud_ranges {
        let (ranges, messages) = cloud::load(folder);
        loaded.cloud = Arc::new(ranges);
        for message in messages {
            loaded.error("data.cloud_ranges", message);
        }
    }
    for (index, list) in config.data.lists.iter().enumerate() {
        loaded.list(index, list);
    }
    for path in credential_files(config) {
        match read(&path)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8", path.display())))
        {
            Ok(text) => drop(loaded.credentials.insert(path, text)),
            Err(message) => loaded.error("security.auth_verifier", message),
        }
    }
    if let Some(path) = &config.outbound.ca_file {
        match read(path) {
            Ok(pem) => loaded.authorities = pem,
            Err(message) => loaded.error("outbound.ca_file", message),
        }
    }
    loaded
}

impl Loaded {
    fn error(&mut self, key: &str, message: String) {
        self.errors.push(FeedError { key: key.to_owned(), message });
    }

    fn database(
        &mut self,
        path: &Option<PathBuf>,
        key: &str,
        open: fn(Vec<u8>) -> Result<Mmdb, GeoError>,
    ) -> Option<Arc<Mmdb>> {
        let path = path.as_ref()?;
        match read(path).and_then(|bytes| open(bytes).map_err(|error| format!("{}: {error}", path.display()))) {
            Ok(mmdb) => Some(Arc::new(mmdb)),
            Err(message) => {
                self.error(key, message);
                None
            }
        }
    }

    fn list(&mut self, index: usize, config: &ListConfig) {
        let mut list = AddressList {
            name: config.name.as_str().into(),
            allows: config.action == ListAction::Allow,
            entries: Arc::default(),
        };
        if let Location::File(path) = Location::parse(&config.source) {
            let parse = |bytes: Vec<u8>| {
                let found = list::parse(&bytes, plan::bounds(config));
                let found = found.map_err(|message| format!("{}: {message}", path.display()))?;
                Ok((refresh::digest(&bytes), found))
            };
            match read(&path).and_then(parse) {
                Ok((digest, found)) => {
                    self.digests.insert(format!("list:{}", config.name), digest);
                    list.entries = Arc::new(found.entries);
                }
                Err(message) => self.error(&format!("data.lists[{index}].source"), message),
            }
        }
        self.lists.push(list);
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
