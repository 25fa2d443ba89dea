//! Where an address is: its country, and the cloud provider that owns it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::addr::ClientAddr;
use crate::model::nets::NetMap;

/// Two upper-case letters that name a country.
#[derive(Clone, Copy, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub struct CountryCode([u8; 2]);

impl CountryCode {
    /// The code of a two-letter text, whatever its case.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Some(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => None,
        }
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("??")
    }
}

impl fmt::Display for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Countries and operators by address. Called on the request path: no I/O, no allocation.
pub trait Countries: Send + Sync + fmt::Debug {
    /// The country of an address, when it is known.
    fn country(&self, addr: ClientAddr) -> Option<CountryCode>;

    /// Who announces an address, when it is known. Most databases of countries do not say.
    fn operator(&self, addr: ClientAddr) -> Option<Operator<'_>> {
        let _ = addr;
        None
    }
}

/// Who announces an address to the rest of the network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Operator<'d> {
    /// Number of the autonomous system.
    pub asn: u32,
    /// Name of the organisation, when the database has one.
    pub name: Option<&'d str>,
}

/// The cloud providers whose ranges are known, in table order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub enum Provider {
    /// Amazon Web Services.
    Aws,
    /// Google Cloud Platform.
    Gcp,
    /// Microsoft Azure.
    Azure,
    /// DigitalOcean.
    DigitalOcean,
    /// Linode (Akamai).
    Linode,
    /// Vultr.
    Vultr,
}

impl Provider {
    /// All providers.
    pub const ALL: [Self; 6] = [Self::Aws, Self::Gcp, Self::Azure, Self::DigitalOcean, Self::Linode, Self::Vultr];

    /// The name used in selectors, events and file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aws => "AWS",
            Self::Gcp => "GCP",
            Self::Azure => "Azure",
            Self::DigitalOcean => "DigitalOcean",
            Self::Linode => "Linode",
            Self::Vultr => "Vultr",
        }
    }

    /// The provider of that exact name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.name() == name)
    }
}

/// Networks of one provider with the region each belongs to, if one is published.
pub type Networks = NetMap<Option<Box<str>>>;

/// Published address ranges by provider. Cheap to clone: a provider whose ranges do not change is shared.
#[derive(Clone, Debug, Default)]
pub struct CloudRanges {
    ranges: [Arc<Networks>; Provider::ALL.len()],
}

impl CloudRanges {
    /// The networks of a provider with the region each belongs to, if one is published.
    #[must_use]
    pub fn of(&self, provider: Provider) -> Option<&Arc<Networks>> {
        self.ranges.get(provider as usize)
    }

    /// Replaces the networks of a provider.
    pub fn set(&mut self, provider: Provider, networks: Arc<Networks>) {
        if let Some(ranges) = self.ranges.get_mut(provider as usize) {
            *ranges = networks;
        }
    }

    /// Adds a network of a provider; listed twice, the last region wins. Makes the provider's networks anew, so it is for
    /// a few.
    pub fn insert(&mut self, provider: Provider, net: IpNet, region: Option<&str>) {
        if let Some(ranges) = self.ranges.get_mut(provider as usize) {
            let known = ranges.iter().map(|(net, region)| (net, region.clone()));
            *ranges = Arc::new(known.chain([(net, region.map(Into::into))]).collect());
        }
    }
}

/// Which provider addresses are refused: whole providers, or providers without some of their regions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CloudSelectors {
    chosen: Vec<(Provider, Vec<Box<str>>)>,
}

impl CloudSelectors {
    /// Reads `Provider` and `Provider:!region` entries. Entries that name no provider are returned, not taken.
    #[must_use]
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> (Self, Vec<&'a str>) {
        let mut selectors = Self::default();
        let mut unknown = Vec::new();
        for entry in entries {
            let (name, region) = entry.split_once(":!").map_or((entry, None), |(name, region)| (name, Some(region)));
            let Some(provider) = Provider::named(name).filter(|_| region != Some("")) else {
                unknown.push(entry);
                continue;
            };
            let at = selectors.chosen.iter().position(|(known, _)| *known == provider).unwrap_or_else(|| {
                selectors.chosen.push((provider, Vec::new()));
                selectors.chosen.len() - 1
            });
            if let (Some((_, carved)), Some(region)) = (selectors.chosen.get_mut(at), region) {
                carved.push(region.into());
            }
        }
        selectors.chosen.sort_by_key(|(provider, _)| *provider);
        (selectors, unknown)
    }

    /// True when nothing is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// The provider and most specific network that make `addr` refused. A network whose region is carved out does
    /// not count; an address inside two networks passes only when both are carved out.
    #[must_use]
    pub fn find(&self, ranges: &CloudRanges, addr: ClientAddr) -> Option<(Provider, IpNet)> {
        self.chosen.iter().find_map(|(provider, carved)| {
            let is_carved = |region: &Option<Box<str>>| region.as_ref().is_some_and(|region| carved.contains(region));
            let mut covering = ranges.of(*provider)?.covering(addr.ip());
            let (net, _) = covering.find(|(_, region)| !is_carved(region))?;
            Some((*provider, net))
        })
    }

    /// The chosen providers.
    pub fn providers(&self) -> impl Iterator<Item = Provider> + '_ {
        self.chosen.iter().map(|(provider, _)| *provider)
    }

    /// The names of the chosen providers, for events.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.chosen.iter().flat_map(|(provider, carved)| {
            let whole = carved.is_empty().then(|| provider.name().to_owned());
            whole.into_iter().chain(carved.iter().map(move |region| format!("{}:!{region}", provider.name())))
        })
    }
}

/// A table of countries for tests and examples.
#[derive(Clone, Debug, Default)]
pub struct CountryTable(pub std::collections::BTreeMap<IpAddr, CountryCode>);

impl Countries for CountryTable {
    fn country(&self, addr: ClientAddr) -> Option<CountryCode> {
        self.0.get(&addr.ip()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> ClientAddr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn ranges() -> CloudRanges {
        let mut ranges = CloudRanges::default();
        for (provider, net, region) in [
            (Provider::Aws, "3.0.0.0/8", Some("us-east-1")),
            (Provider::Aws, "3.5.0.0/16", Some("eu-west-1")),
            (Provider::Gcp, "34.0.0.0/8", Some("europe-west1")),
            (Provider::Vultr, "2001:19f0::/32", None),
        ] {
            ranges.insert(provider, net.parse().unwrap(), region);
        }
        ranges
    }

    #[test]
    fn selectors_choose_providers_without_carved_regions() {
        for (name, entries, client, expected) in [
            ("inside", &["AWS"][..], "3.1.1.1", Some((Provider::Aws, "3.0.0.0/8"))),
            ("the most specific network is named", &["AWS"], "3.5.1.1", Some((Provider::Aws, "3.5.0.0/16"))),
            ("another provider", &["GCP"], "3.1.1.1", None),
            ("its only region carved out", &["AWS:!us-east-1"], "3.1.1.1", None),
            ("one of two covering networks left", &["AWS:!eu-west-1"], "3.5.1.1", Some((Provider::Aws, "3.0.0.0/8"))),
            ("both carved out", &["AWS:!eu-west-1", "AWS:!us-east-1"], "3.5.1.1", None),
            ("a carve-out beside the bare name still applies", &["AWS", "AWS:!us-east-1"], "3.1.1.1", None),
            ("IPv6", &["Vultr"], "2001:19f0::5", Some((Provider::Vultr, "2001:19f0::/32"))),
            ("IPv4 never lies in IPv6", &["Vultr"], "45.63.0.1", None),
        ] {
            let (selectors, unknown) = CloudSelectors::parse(entries.iter().copied());
            assert!(unknown.is_empty(), "{name}");
            let expected = expected.map(|(provider, net)| (provider, net.parse().unwrap()));
            assert_eq!(selectors.find(&ranges(), addr(client)), expected, "{name}");
        }
    }

    #[test]
    fn unknown_selectors_are_handed_back() {
        let (selectors, unknown) = CloudSelectors::parse(["aws", "AWS", "Oracle", "GCP:!"]);
        assert_eq!(unknown, ["aws", "Oracle", "GCP:!"]);
        assert_eq!(selectors.names().collect::<Vec<_>>(), ["AWS"]);
    }

    #[test]
    fn country_codes_are_two_letters_in_upper_case() {
        assert_eq!(CountryCode::new("de").map(|code| code.to_string()).as_deref(), Some("DE"));
        for text in ["", "D", "DEU", "D1", "é"] {
            assert_eq!(CountryCode::new(text), None, "{text}");
        }
    }
}
