//! From sources to a snapshot: configuration, files that it names, compiled policy.

use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs, io};

use crate::app::databases::{Databases, Environment};
use crate::clock;
use crate::config::errors::Notice;
use crate::config::{self, Config, Loaded, Sources};
use crate::detect::rows::PatternFile;
use crate::detect::{Detector, Material};
use crate::engine::policy::{Feeds, Policy};
use crate::feeds;
use crate::feeds::refresh::{News, Update};
use crate::feeds::rules::Checked;
use crate::live::{Notices, Ruling, Snapshot};
use crate::model::lists::AddressList;
use crate::model::place::{CloudRanges, Provider};
use crate::server::gate::Credentials;
use crate::state::formats::Rules;

/// Everything that is wrong with a configuration, one mistake a line, each under its key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct Refusal(pub Vec<String>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Everything a snapshot is compiled from. Each part changes on its own; what did not change is kept as it is.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The configuration as it was read.
    pub loaded: Arc<Loaded>,
    /// Facts about addresses, and the contents of credential files.
    pub feeds: Arc<Feeds>,
    /// Dynamic rules that lie over the configuration.
    pub rules: Option<Arc<Checked>>,
    /// Certificates and keys of our listeners, and the token of operators.
    pub credentials: Credentials,
}

impl Inputs {
    /// Reads the configuration and the files that it names.
    pub fn read(sources: &Sources) -> Result<Self, Refusal> {
        let loaded =
            config::load(sources).map_err(|errors| Refusal(errors.0.iter().map(ToString::to_string).collect()))?;
        let files = feeds::load(&loaded.config);
        if !files.errors.is_empty() {
            return Err(refusal(&loaded, files.errors.iter().map(|error| (&*error.key, &*error.message))));
        }
        let credentials = credentials(&loaded)?;
        let feeds = Feeds {
            countries: files.countries.map(|database| database as _),
            operators: files.operators.map(|database| database as _),
            cloud: files.cloud,
            lists: files.lists.into(),
            digests: files.digests,
            credentials: files.credentials,
        };
        Ok(Self { loaded: Arc::new(loaded), feeds: Arc::new(feeds), rules: None, credentials })
    }

    /// Takes over what `old` has and no file gave: data that was asked for stays in force when the configuration is read
    /// again, until there is newer.
    #[must_use]
    pub fn keeping(mut self, old: &Feeds) -> Self {
        let config = &self.loaded.config;
        let mut feeds = Feeds::clone(&self.feeds);
        let mut cloud = CloudRanges::clone(&feeds.cloud);
        for provider in Provider::ALL {
            if cloud.of(provider).is_some_and(|networks| networks.is_empty())
                && let Some(networks) = old.cloud.of(provider)
            {
                cloud.set(provider, Arc::clone(networks));
            }
        }
        feeds.cloud = Arc::new(cloud);
        let mut kept = Vec::new();
        if feeds.countries.is_none() && config.security.ipinfo_token.is_some() {
            feeds.countries.clone_from(&old.countries);
            kept.push("geo".to_owned());
        }
        let mut lists = feeds.lists.to_vec();
        for list in &mut lists {
            let name = format!("list:{}", list.name);
            let before = old.lists.iter().find(|before| before.name == list.name);
            if let Some(before) = before.filter(|_| !feeds.digests.contains_key(&name)) {
                list.entries = Arc::clone(&before.entries);
                kept.push(name);
            }
        }
        feeds.lists = lists.into();
        feeds.digests.extend(kept.into_iter().filter_map(|name| Some((name.clone(), *old.digests.get(&name)?))));
        self.feeds = Arc::new(feeds);
        self
    }

    /// The inputs with what a feed brought.
    #[must_use]
    pub fn with(mut self, news: News) -> Self {
        let mut feeds = Feeds::clone(&self.feeds);
        match news.update {
            Update::Cloud(provider, networks) => {
                let mut cloud = CloudRanges::clone(&feeds.cloud);
                cloud.set(provider, networks);
                feeds.cloud = Arc::new(cloud);
            }
            Update::Countries(database) => feeds.countries = Some(database),
            Update::Operators(database) => feeds.operators = Some(database),
            Update::List(name, entries) => {
                let put = |list: &AddressList| match *list.name == *name {
                    true => AddressList { entries: Arc::clone(&entries), ..list.clone() },
                    false => list.clone(),
                };
                feeds.lists = feeds.lists.iter().map(put).collect();
            }
        }
        feeds.digests.insert(news.feed, news.digest);
        self.feeds = Arc::new(feeds);
        self
    }

    /// Compiles a snapshot. May take a second: not for a thread that serves requests. What did not change since
    /// `previous` is taken over from it.
    pub fn compile(&self, previous: Option<&Snapshot>) -> Result<Snapshot, Refusal> {
        let Some(rules) = &self.rules else { return self.compile_with(&self.loaded.config, None, previous) };
        let (config, warnings) = rules.over(&self.loaded.config, self.feeds.countries.is_some());
        let Rules { rule_id, version, expires_at, emergency_mode, .. } = &rules.rules;
        let ruling = Ruling {
            rule_id: rule_id.clone(),
            version: *version,
            expires_at: expires_at.as_ref().map(|end| end.as_str().to_owned()),
            emergency_mode: *emergency_mode,
            warnings,
        };
        let named = |refusal: Refusal| {
            let reasons = refusal.0.into_iter();
            Refusal(reasons.map(|reason| format!("dynamic rules `{rule_id}` version {version}: {reason}")).collect())
        };
        self.compile_with(&config, Some(ruling), previous).map_err(named)
    }

    fn compile_with(
        &self,
        config: &Config,
        ruling: Option<Ruling>,
        previous: Option<&Snapshot>,
    ) -> Result<Snapshot, Refusal> {
        let loaded = &*self.loaded;
        let databases = Databases::open(config, &Environment::of_process());
        let detector = detector(loaded, config, previous, &databases)?;
        let policy = Policy::compile(config, &self.feeds, detector)
            .map_err(|errors| refusal(loaded, errors.iter().map(|error| (&*error.key, &*error.message))))?;
        let notice = |notice: &Notice| notice.to_string();
        let compiled = policy.warnings.iter().map(|warning| placed(loaded, &warning.key, &warning.message));
        let notices = Notices {
            warnings: loaded.warnings.iter().map(notice).chain(compiled).chain(databases.remarks()).collect(),
            inactive: loaded.inactive.iter().map(notice).collect(),
        };
        Ok(Snapshot {
            policy,
            hash: loaded.hash.clone(),
            version: previous.map_or(1, |previous| previous.version + 1),
            notices,
            config: Arc::new(config.clone()),
            ruling,
            feeds: Arc::clone(&self.feeds),
        })
    }
}

/// Reads the certificates, keys and tokens of our own that a configuration names.
pub fn credentials(loaded: &Loaded) -> Result<Credentials, Refusal> {
    let credentials = Credentials::read(&loaded.config, clock::now());
    credentials.map_err(|errors| refusal(loaded, errors.iter().map(|error| (&*error.key, &*error.message))))
}

/// Reads and compiles in one go, for commands that need it once.
pub fn build(sources: &Sources) -> Result<Snapshot, Refusal> {
    Inputs::read(sources)?.compile(None)
}

/// Largest file with rows, in bytes.
const ROWS_BYTES_MAX: u64 = 4 << 20;
/// Files with rows at most.
const ROWS_FILES_MAX: usize = 256;

fn detector(
    loaded: &Loaded,
    config: &Config,
    previous: Option<&Snapshot>,
    databases: &Databases,
) -> Result<Arc<Detector>, Refusal> {
    let texts = match &config.detection.patterns_dir {
        Some(folder) => rows(folder).map_err(|error| {
            let message = format!("cannot read {}: {error}", folder.display());
            refusal(loaded, [("detection.patterns_dir", &*message)].into_iter())
        })?,
        None => Vec::new(),
    };
    let files: Vec<PatternFile<'_>> = texts.iter().map(|(name, text)| PatternFile { name, text }).collect();
    let material =
        Material { files: &files, cache: databases, previous: previous.map(|previous| &*previous.policy.detector) };
    Detector::compile_with(&config.security, &config.detection, &material)
        .map(Arc::new)
        .map_err(|errors| refusal(loaded, errors.iter().map(|error| (&*error.key, &*error.message))))
}

/// The files with rows in a folder, by name.
fn rows(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_rows = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if !is_rows || !path.is_file() {
            continue;
        }
        if ROWS_FILES_MAX == found.len() {
            return Err(io::Error::other(format!("it holds more than {ROWS_FILES_MAX} files with rows")));
        }
        let name = path.display().to_string();
        if ROWS_BYTES_MAX < fs::metadata(&path)?.len() {
            return Err(io::Error::other(format!("{name} is larger than {ROWS_BYTES_MAX} bytes")));
        }
        let text = fs::read_to_string(&path).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        found.push((name, text));
    }
    found.sort();
    Ok(found)
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
