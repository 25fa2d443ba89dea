//! Which feeds a configuration needs, and how each is followed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;
use crate::config::data::ListConfig;
use crate::config::values::{CloudStore, Secret};
use crate::feeds::fetch::Location;
use crate::feeds::{cloud, list};
use crate::model::place::{CloudSelectors, Provider};
use crate::model::time::Window;

/// How often files are looked at when nothing else is said.
const FILES: Duration = Duration::from_secs(60);
/// How often lists are downloaded when nothing else is said.
const LISTS: Duration = Duration::from_secs(3600);

/// Everything that is followed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// The feeds, each with a name of its own.
    pub feeds: Vec<Feed>,
    /// Readiness does not wait for them.
    pub is_lazy: bool,
}

/// One feed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Feed {
    /// What it tells.
    pub subject: Subject,
    /// Where it comes from.
    pub location: Location,
    /// How often it is looked at.
    pub every: Duration,
    /// It goes through Redis, so that one replica asks for all.
    pub is_shared: bool,
    /// Sent as a bearer token.
    pub token: Option<Secret>,
    /// Where the last good data is kept for the next start.
    pub kept: Option<PathBuf>,
}

/// What a feed tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// Ranges of a cloud provider.
    Cloud(Provider),
    /// Countries, and operators where the database has them.
    Countries,
    /// Operators alone.
    Operators,
    /// A list under its name.
    List(String, list::Bounds),
}

impl Subject {
    /// The name in metrics, logs and readiness.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Cloud(provider) => provider.name().to_owned(),
            Self::Countries => "geo".to_owned(),
            Self::Operators => "asn".to_owned(),
            Self::List(name, _) => format!("list:{name}"),
        }
    }
}

/// The bounds of a list.
pub(super) const fn bounds(config: &ListConfig) -> list::Bounds {
    list::Bounds { entries_max: config.entries_max, bad_lines_max: config.bad_lines_max }
}

impl Plan {
    /// What a configuration needs: providers that any selector names, databases and lists. Looks for files in the folder
    /// of ranges.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut feeds: Vec<Feed> =
            selected(config).into_iter().filter_map(|provider| cloud_feed(config, provider)).collect();
        feeds.extend(geo_feed(config));
        let files = seconds(config.data.refresh).unwrap_or(FILES);
        feeds.extend(
            config
                .data
                .asn_database
                .iter()
                .map(|path| Feed { subject: Subject::Operators, ..Feed::file(Location::File(path.clone()), files) }),
        );
        feeds.extend(config.data.lists.iter().map(|list| list_feed(config, list)));
        Self { feeds, is_lazy: config.security.lazy_init }
    }
}

impl Feed {
    fn file(location: Location, every: Duration) -> Self {
        Self { subject: Subject::Countries, location, every, is_shared: false, token: None, kept: None }
    }
}

fn seconds(window: Option<Window>) -> Option<Duration> {
    window.map(Window::duration)
}

/// Providers that any selector names, globally or on a route.
fn selected(config: &Config) -> BTreeSet<Provider> {
    let routes = config.routes.iter().flat_map(|route| route.block_cloud_providers.iter());
    let entries = config.security.block_cloud_providers.iter().chain(routes).flatten().map(String::as_str);
    CloudSelectors::parse(entries).0.providers().collect()
}

fn cloud_feed(config: &Config, provider: Provider) -> Option<Feed> {
    let (security, data) = (&config.security, &config.data);
    let files = seconds(data.refresh).unwrap_or(FILES);
    let subject = Subject::Cloud(provider);
    if let Some(path) = data.cloud_ranges.as_ref().and_then(|folder| cloud::file(folder, provider)) {
        return Some(Feed { subject, ..Feed::file(Location::File(path), files) });
    }
    let location = match data.cloud_urls.get(provider.name()).map(String::as_str) {
        Some("off") => return None,
        Some(place) => Location::parse(place),
        None => Location::parse(cloud::url(provider)),
    };
    if matches!(location, Location::File(_)) {
        return Some(Feed { subject, ..Feed::file(location, files) });
    }
    let kept = data.cache.as_ref().map(|folder| folder.join(format!("cloud-{}.txt", provider.name())));
    let every = Duration::from_secs(security.cloud_ip_refresh_interval.into());
    let is_shared = security.cloud_ip_store != Some(CloudStore::Memory);
    Some(Feed { subject, location, every, is_shared, token: None, kept })
}

fn geo_feed(config: &Config) -> Option<Feed> {
    let (security, data) = (&config.security, &config.data);
    if let Some(path) = &security.geo_ip_handler {
        let files = seconds(data.refresh).unwrap_or(FILES);
        return Some(Feed::file(Location::File(path.clone()), files));
    }
    let token = security.ipinfo_token.clone().filter(|token| !token.expose().is_empty())?;
    Some(Feed {
        subject: Subject::Countries,
        location: Location::parse(&data.geo_url),
        every: Duration::from_secs(security.geo_ip_db_max_age.into()),
        is_shared: true,
        token: Some(token),
        kept: security.ipinfo_db_path.clone(),
    })
}

fn list_feed(config: &Config, list: &ListConfig) -> Feed {
    let location = Location::parse(&list.source);
    let subject = Subject::List(list.name.clone(), bounds(list));
    if matches!(location, Location::File(_)) {
        return Feed { subject, ..Feed::file(location, seconds(config.data.refresh).unwrap_or(FILES)) };
    }
    Feed {
        subject,
        location,
        every: seconds(list.interval).unwrap_or(LISTS),
        is_shared: false,
        token: list.token.clone(),
        kept: config.data.cache.as_ref().map(|folder| folder.join(format!("list-{}.txt", list.name))),
    }
}
