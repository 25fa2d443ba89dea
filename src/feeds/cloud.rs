//! Address ranges of cloud providers, from the files they publish or from plain lists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;

use crate::feeds::{azure, read};
use crate::model::place::{CloudRanges, Networks, Provider};

/// Networks of one provider, with the region each belongs to where one is published.
pub type Ranges = Vec<(IpNet, Option<String>)>;

/// Loads a folder with one file per provider: `AWS.json`, `DigitalOcean.csv`, `Vultr.txt` and so on. A provider without
/// a file has no ranges. Returns what could be read and a message for every file that could not.
#[must_use]
pub fn load(folder: &Path) -> (CloudRanges, Vec<String>) {
    let mut ranges = CloudRanges::default();
    let mut messages = Vec::new();
    if let Err(error) = std::fs::read_dir(folder) {
        messages.push(format!("{}: {error}", folder.display()));
        return (ranges, messages);
    }
    for provider in Provider::ALL {
        let Some(path) = file(folder, provider) else { continue };
        let parsed = read(&path).and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8", path.display()))?;
            parse(provider, &text).map_err(|message| format!("{}: {message}", path.display()))
        });
        match parsed {
            Ok(found) => ranges.set(provider, Arc::new(networks(&found))),
            Err(message) => messages.push(message),
        }
    }
    (ranges, messages)
}

/// The file of a provider in a folder of published files.
#[must_use]
pub fn file(folder: &Path, provider: Provider) -> Option<PathBuf> {
    let candidates = ["json", "csv", "txt"].map(|extension| folder.join(provider.name()).with_extension(extension));
    candidates.into_iter().find(|path| path.is_file())
}

/// Where a provider publishes its ranges.
#[must_use]
pub const fn url(provider: Provider) -> &'static str {
    match provider {
        Provider::Aws => "https://ip-ranges.amazonaws.com/ip-ranges.json",
        Provider::Gcp => "https://www.gstatic.com/ipranges/cloud.json",
        Provider::Azure => azure::PAGE,
        Provider::DigitalOcean => "https://www.digitalocean.com/geo/google.csv",
        Provider::Linode => "https://geoip.linode.com/",
        Provider::Vultr => "https://geofeed.constant.com/?json",
    }
}

/// Ranges as something that answers fast. Of a network that is listed twice the last region counts.
#[must_use]
pub fn networks(ranges: &Ranges) -> Networks {
    ranges.iter().map(|(net, region)| (*net, region.as_deref().map(Into::into))).collect()
}

/// Networks as participants share them: `CIDR` or `CIDR|region`, sorted.
#[must_use]
pub fn entries(networks: &Networks) -> BTreeSet<String> {
    let entry = |(net, region): (IpNet, &Option<Box<str>>)| match region {
        Some(region) => format!("{net}|{region}"),
        None => net.to_string(),
    };
    networks.iter().map(entry).collect()
}

/// Reads what [`entries`] made; an empty set means that the provider has no ranges.
///
/// # Errors
/// When an entry is no network.
pub fn read_entries(entries: &BTreeSet<String>) -> Result<Ranges, String> {
    entries
        .iter()
        .map(|entry| {
            let (prefix, region) = entry.split_once('|').map_or((&**entry, None), |(net, region)| (net, Some(region)));
            let net = net(prefix).map_err(|_| format!("a stored entry is no network: {}", short(prefix)))?;
            Ok((net, region.filter(|region| !region.is_empty()).map(str::to_owned)))
        })
        .collect()
}

/// The beginning of a foreign text, fit for a message.
fn short(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(60).collect()
}

/// Reads the ranges of a provider in its published format, or as lines of `CIDR` or `CIDR|region`.
///
/// # Errors
/// When the text is in no known format, or a prefix of AWS, GCP, Azure or a plain list is not a network. Bad rows of the
/// other published lists are skipped, as those lists are known to have some.
pub fn parse(provider: Provider, text: &str) -> Result<Ranges, String> {
    if !text.trim_start().starts_with('{') {
        return lines(provider, text);
    }
    let ranges = match provider {
        Provider::Aws => aws(text),
        Provider::Gcp => gcp(text),
        Provider::Azure => azure(text),
        Provider::Vultr => vultr(text),
        Provider::DigitalOcean | Provider::Linode => return Err(format!("{} publishes no JSON", provider.name())),
    };
    let ranges = ranges.map_err(|error| match error {
        Problem::Json(error) => format!("line {}, column {}: {error}", error.line(), error.column()),
        Problem::Prefix(prefix) => format!("`{}` is not a network", short(&prefix)),
    })?;
    if ranges.is_empty() {
        return Err(format!("holds no ranges of {}", provider.name()));
    }
    Ok(ranges)
}

enum Problem {
    Json(serde_json::Error),
    Prefix(String),
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

/// A network without host bits; one with them is a sign that the file is not what it should be.
fn net(text: &str) -> Result<IpNet, Problem> {
    let net: Result<IpNet, _> = text.parse();
    net.ok().filter(|net| net.trunc() == *net).ok_or_else(|| Problem::Prefix(text.to_owned()))
}

fn aws(text: &str) -> Result<Ranges, Problem> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        prefixes: Vec<Entry>,
        #[serde(default)]
        ipv6_prefixes: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(alias = "ipv6_prefix")]
        ip_prefix: String,
        service: String,
        #[serde(default)]
        region: Option<String>,
    }
    let file: File = serde_json::from_str(text)?;
    let entries = file.prefixes.into_iter().chain(file.ipv6_prefixes);
    // The service AMAZON covers the others.
    entries.filter(|entry| entry.service == "AMAZON").map(|entry| Ok((net(&entry.ip_prefix)?, entry.region))).collect()
}

fn gcp(text: &str) -> Result<Ranges, Problem> {
    #[derive(Deserialize)]
    struct File {
        prefixes: Vec<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        ipv4_prefix: Option<String>,
        ipv6_prefix: Option<String>,
        scope: Option<String>,
    }
    let file: File = serde_json::from_str(text)?;
    let entries = file.prefixes.into_iter();
    entries
        .filter_map(|entry| Some((entry.ipv4_prefix.or(entry.ipv6_prefix)?, entry.scope)))
        .map(|(prefix, scope)| Ok((net(&prefix)?, scope)))
        .collect()
}

fn azure(text: &str) -> Result<Ranges, Problem> {
    #[derive(Deserialize)]
    struct File {
        values: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        name: String,
        properties: Properties,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Properties {
        address_prefixes: Vec<String>,
    }
    let file: File = serde_json::from_str(text)?;
    let all = file.values.into_iter().filter(|entry| entry.name == "AzureCloud");
    all.flat_map(|entry| entry.properties.address_prefixes).map(|prefix| Ok((net(&prefix)?, None))).collect()
}

fn vultr(text: &str) -> Result<Ranges, Problem> {
    #[derive(Deserialize)]
    struct File {
        subnets: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        ip_prefix: String,
    }
    let file: File = serde_json::from_str(text)?;
    Ok(file.subnets.iter().filter_map(|entry| Some((net(&entry.ip_prefix).ok()?, None))).collect())
}

/// Lines: `CIDR`, `CIDR|region`, or a CSV row whose first column is the network.
fn lines(provider: Provider, text: &str) -> Result<Ranges, String> {
    // Their published lists are CSV files with an occasional bad row.
    let is_lenient = matches!(provider, Provider::DigitalOcean | Provider::Linode | Provider::Vultr);
    let mut ranges = Ranges::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (prefix, region) = match line.split_once('|') {
            Some((prefix, region)) => (prefix.trim(), Some(region.trim().to_owned())),
            None => (line.split(',').next().unwrap_or_default().trim(), None),
        };
        match net(prefix) {
            Ok(net) => ranges.push((net, region.filter(|region| !region.is_empty()))),
            Err(_) if is_lenient => {}
            Err(_) => return Err(format!("line {number}: `{}` is not a network", short(prefix))),
        }
    }
    if ranges.is_empty() {
        return Err(format!("holds no ranges of {}", provider.name()));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests;
