//! `data:` and `outbound:`: facts from outside, and how we ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::formats;
use crate::config::values::Secret;
use crate::model::time::Window;

/// Where IPinfo publishes the database that `security.ipinfo_token` opens.
pub const IPINFO_URL: &str = "https://ipinfo.io/data/free/country_asn.mmdb";

/// `data:`: facts about addresses, where they come from and where the last good ones are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Folder with one file per cloud provider (`AWS.json`, …) in the provider's published format, or plain
    /// CIDR lines, `CIDR|region` allowed. A provider that has a file there is never downloaded.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub cloud_ranges: Option<PathBuf>,
    /// Other places of the provider's ranges, by provider: a mirror's URL, a file, or the word `off`.
    #[schemars(with = "BTreeMap<String, formats::Source>", extend("propertyNames" = {"format": "provider"}))]
    pub cloud_urls: BTreeMap<String, String>,
    /// Where the database is downloaded with `security.ipinfo_token`.
    #[schemars(with = "formats::Source")]
    pub geo_url: String,
    /// MMDB file with autonomous systems, when that with the countries does not hold them (MaxMind publishes two files).
    #[schemars(with = "Option<formats::NonBlank>")]
    pub asn_database: Option<PathBuf>,
    /// Period after which files are looked at again, in seconds; 60 when absent.
    pub refresh: Option<Window>,
    /// Folder in which the last good ranges and lists are kept for the next start.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub cache: Option<PathBuf>,
    /// File with a document of dynamic rules, looked at every second; in the place of fetching them.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub dynamic_rules: Option<PathBuf>,
    /// Lists of addresses from files and URLs.
    pub lists: Vec<ListConfig>,
    /// Denied autonomous systems, by number.
    pub blocked_asns: BTreeSet<u32>,
    /// When not empty, only these autonomous systems pass; an address whose system is unknown is denied.
    pub allowed_asns: BTreeSet<u32>,
    /// Header that tells the upstream the client's country. What the client sends under this name is removed.
    #[schemars(with = "Option<formats::HeaderName>")]
    pub country_header: Option<String>,
    /// Header that tells the upstream the number of the client's autonomous system; likewise.
    #[schemars(with = "Option<formats::HeaderName>")]
    pub asn_header: Option<String>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            cloud_ranges: None,
            cloud_urls: BTreeMap::new(),
            geo_url: IPINFO_URL.to_owned(),
            asn_database: None,
            refresh: None,
            cache: None,
            dynamic_rules: None,
            lists: Vec::new(),
            blocked_asns: BTreeSet::new(),
            allowed_asns: BTreeSet::new(),
            country_header: None,
            asn_header: None,
        }
    }
}

/// `data.lists[]`: addresses and networks, one a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListConfig {
    /// Stands in events, metrics and explanations.
    #[schemars(with = "formats::LimitName")]
    pub name: String,
    /// A file, or a URL without user information.
    #[schemars(with = "formats::Source")]
    pub source: String,
    /// What the list is for.
    #[serde(default)]
    pub action: ListAction,
    /// Sent as `Authorization: Bearer …`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// Seconds between downloads; 3600 when absent. Files follow `data.refresh`.
    #[serde(default)]
    pub interval: Option<Window>,
    /// A list with more lines of content is refused, and the last good one stays.
    #[serde(default = "entries_max")]
    #[schemars(range(min = 1, max = 5000000))]
    pub entries_max: u32,
    /// A list with more lines that cannot be read is refused; fewer are left out and counted.
    #[serde(default = "bad_lines_max")]
    pub bad_lines_max: u32,
}

const fn entries_max() -> u32 {
    1_000_000
}

const fn bad_lines_max() -> u32 {
    100
}

/// What a list is for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListAction {
    /// Its addresses are denied.
    #[default]
    Block,
    /// Its addresses are not denied by any list that blocks. Everything else still applies to them.
    Allow,
}

/// `outbound:`: connections that the service opens by itself, to feeds, hooks and control planes. A proxy is taken from the
/// environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundConfig {
    /// PEM file of authorities that are trusted beside the system's.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub ca_file: Option<PathBuf>,
    /// Milliseconds that opening a connection may take.
    #[schemars(range(min = 10, max = 60000))]
    pub connect_timeout_ms: u32,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self { ca_file: None, connect_timeout_ms: 5000 }
    }
}
