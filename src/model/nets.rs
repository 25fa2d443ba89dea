//! Address lists as something that answers fast: exact addresses, and networks in a prefix trie.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::model::addr::{Client, ClientAddr, IpEntry};

/// Values by network. A lookup visits the networks that contain an address, widest first, and allocates nothing.
#[derive(Clone)]
pub struct NetMap<T> {
    trie: JointPrefixMap<IpNet, T>,
}

impl<T> NetMap<T> {
    /// Adds a network; the last value of the same network wins.
    pub fn insert(&mut self, net: IpNet, value: T) {
        self.trie.insert(net.trunc(), value);
    }

    /// Every network that contains `ip`, widest first. Never crosses address families.
    pub fn covering(&self, ip: IpAddr) -> impl Iterator<Item = (IpNet, &T)> {
        self.trie.cover(&IpNet::from(ip))
    }

    /// The most specific network that contains `ip`.
    #[must_use]
    pub fn longest(&self, ip: IpAddr) -> Option<(IpNet, &T)> {
        self.trie.get_lpm(&IpNet::from(ip))
    }

    /// Every network with its value, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.trie.iter()
    }

    /// The value of exactly this network.
    pub fn get_mut(&mut self, net: IpNet) -> Option<&mut T> {
        self.trie.get_mut(&net.trunc())
    }

    /// How many networks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trie.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trie.is_empty()
    }
}

impl<T> Default for NetMap<T> {
    fn default() -> Self {
        Self { trie: JointPrefixMap::default() }
    }
}

impl<T> fmt::Debug for NetMap<T> {
    /// Only the size: a provider has thousands of networks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetMap({} networks)", self.len())
    }
}

/// A list of addresses and networks.
#[derive(Clone, Debug, Default)]
pub struct IpSet {
    exact: Vec<ClientAddr>,
    nets: NetMap<()>,
    len: usize,
}

impl IpSet {
    /// True when the address is in the list or inside one of its networks.
    #[must_use]
    pub fn contains(&self, addr: ClientAddr) -> bool {
        self.exact.binary_search(&addr).is_ok() || self.nets.longest(addr.ip()).is_some()
    }

    /// True when the client is in the list. A zoned address may lie inside a network and never equals an entry;
    /// text and the unknown client are in no list.
    #[must_use]
    pub fn covers(&self, client: Client<'_>) -> bool {
        match client {
            Client::Address(addr) => self.contains(addr),
            Client::Zoned { addr, .. } => self.nets.longest(IpAddr::V6(addr)).is_some(),
            Client::Text(_) | Client::Unknown => false,
        }
    }

    /// True when `target` and the list share an address.
    #[must_use]
    pub fn overlaps(&self, target: IpEntry) -> bool {
        match target {
            IpEntry::Addr(addr) => self.contains(addr),
            IpEntry::Net(net) => {
                self.exact.iter().any(|addr| net.contains(&addr.ip()))
                    || self.nets.trie.get_lpm(&net).is_some()
                    || self.nets.trie.children(&net).next().is_some()
            }
        }
    }

    /// How many entries the list was made of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a list without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> FromIterator<&'a IpEntry> for IpSet {
    fn from_iter<I: IntoIterator<Item = &'a IpEntry>>(entries: I) -> Self {
        let mut set = Self::default();
        for entry in entries {
            set.len += 1;
            match entry {
                IpEntry::Addr(addr) => set.exact.push(*addr),
                IpEntry::Net(net) => set.nets.insert(*net, ()),
            }
        }
        set.exact.sort_unstable();
        set.exact.dedup();
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[&str]) -> IpSet {
        let entries: Vec<IpEntry> = entries.iter().map(|entry| entry.parse().unwrap()).collect();
        entries.iter().collect()
    }

    fn addr(text: &str) -> ClientAddr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn lists_match_by_canonical_address_and_family() {
        for (name, entries, client, expected) in [
            ("an equal address", &["1.2.3.4"][..], "1.2.3.4", true),
            ("a mapped entry equals its IPv4 address", &["::ffff:1.2.3.4"], "1.2.3.4", true),
            ("another address", &["1.2.3.4"], "1.2.3.5", false),
            ("inside a network", &["10.0.0.0/8", "1.1.1.1"], "10.255.0.1", true),
            ("outside a network", &["10.0.0.0/8"], "11.0.0.0", false),
            ("IPv6 in an IPv4 network", &["0.0.0.0/0"], "::1", false),
            ("IPv6 network", &["2001:db8::/32"], "2001:db8:1::1", true),
            ("host bits are cleared", &["198.51.100.77/24"], "198.51.100.1", true),
        ] {
            assert_eq!(set(entries).contains(addr(client)), expected, "{name}");
        }
    }

    #[test]
    fn zoned_addresses_lie_in_networks_and_equal_no_entry() {
        let zoned = Client::Zoned { addr: "fe80::1".parse().unwrap(), zone: "eth0" };
        assert!(set(&["fe80::/10"]).covers(zoned));
        assert!(!set(&["fe80::1"]).covers(zoned));
        assert!(!set(&["::/0", "0.0.0.0/0"]).covers(Client::Text("testclient")));
        assert!(!set(&["::/0", "0.0.0.0/0"]).covers(Client::Unknown));
    }

    #[test]
    fn overlap_is_seen_in_both_directions() {
        for (name, entries, target, expected) in [
            ("address in a network", &["127.0.0.0/8"][..], "127.0.0.1", true),
            ("network around an entry", &["10.1.2.3"], "10.0.0.0/8", true),
            ("network around a network", &["10.1.0.0/16"], "10.0.0.0/8", true),
            ("network inside a network", &["10.0.0.0/8"], "10.1.0.0/16", true),
            ("apart", &["10.0.0.0/8"], "11.0.0.0/8", false),
        ] {
            assert_eq!(set(entries).overlaps(target.parse().unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn covering_networks_come_widest_first() {
        let mut map = NetMap::default();
        for (net, value) in [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.2.0.0/16", 3)] {
            map.insert(net.parse().unwrap(), value);
        }
        let found: Vec<i32> = map.covering(addr("10.1.9.9").ip()).map(|(_, value)| *value).collect();
        assert_eq!(found, [1, 2]);
        assert_eq!(map.longest(addr("10.1.9.9").ip()).map(|(_, value)| *value), Some(2));
    }
}
