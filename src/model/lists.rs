//! Lists of addresses that others keep: which of them holds an address, and on which line.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::addr::{ClientAddr, IpEntry};
use crate::model::nets::NetMap;
use crate::model::sorted::{Key, Sorted};

/// The entries of one list. A single address takes at most 16 bytes (28 for IPv6), a network 24 (36).
#[derive(Clone, Default)]
pub struct Entries {
    v4: Lines<u32>,
    v6: Lines<u128>,
    nets: NetMap<u32>,
}

/// Single addresses and the line of each.
#[derive(Clone, Default)]
struct Lines<K> {
    addrs: Sorted<K>,
    lines: Vec<u32>,
}

impl<K: Key> Lines<K> {
    fn new(mut pairs: Vec<(K, u32)>) -> Self {
        pairs.sort_unstable();
        pairs.dedup_by_key(|(addr, _)| *addr);
        let (addrs, lines) = pairs.into_iter().unzip();
        Self { addrs: Sorted::new(addrs), lines }
    }

    fn find(&self, addr: K) -> Option<u32> {
        self.lines.get(self.addrs.find(addr)?).copied()
    }
}

impl Entries {
    /// Entries from lines: number and content. Of the same entry on several lines the first one counts.
    #[must_use]
    pub fn new(lines: impl IntoIterator<Item = (u32, IpEntry)>) -> Self {
        let (mut v4, mut v6, mut nets) = (Vec::new(), Vec::new(), Vec::new());
        let mut single = |ip: IpAddr, line: u32| match ip {
            IpAddr::V4(ip) => v4.push((u32::from(ip), line)),
            IpAddr::V6(ip) => v6.push((u128::from(ip), line)),
        };
        for (line, entry) in lines {
            match entry {
                IpEntry::Addr(addr) => single(addr.ip(), line),
                IpEntry::Net(net) if net.prefix_len() == net.max_prefix_len() => single(net.addr(), line),
                IpEntry::Net(net) => nets.push((net, line)),
            }
        }
        // The last one of the same network counts in a map.
        Self { v4: Lines::new(v4), v6: Lines::new(v6), nets: nets.into_iter().rev().collect() }
    }

    /// The most specific entry that covers an address, and its line.
    #[must_use]
    pub fn find(&self, addr: ClientAddr) -> Option<(IpNet, u32)> {
        let line = match addr.ip() {
            IpAddr::V4(ip) => self.v4.find(ip.into()),
            IpAddr::V6(ip) => self.v6.find(ip.into()),
        };
        match line {
            Some(line) => Some((addr.ip().into(), line)),
            None => self.nets.longest(addr.ip()).map(|(net, line)| (net, *line)),
        }
    }

    /// How many different entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.lines.len() + self.v6.lines.len() + self.nets.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entries({})", self.len())
    }
}

/// A list under its name.
#[derive(Clone, Debug)]
pub struct AddressList {
    /// As configured.
    pub name: Arc<str>,
    /// Its addresses are excused from the lists that block.
    pub allows: bool,
    /// What is on it.
    pub entries: Arc<Entries>,
}

/// Where an address was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListHit {
    /// The list's name.
    pub list: Arc<str>,
    /// The entry.
    pub net: IpNet,
    /// Its line, from 1.
    pub line: u32,
}

/// The first list that blocks an address, unless a list that allows holds it too.
#[must_use]
pub fn blocked(lists: &[AddressList], addr: ClientAddr) -> Option<ListHit> {
    let found = |list: &AddressList| {
        let (net, line) = list.entries.find(addr)?;
        Some(ListHit { list: Arc::clone(&list.name), net, line })
    };
    let hit = lists.iter().filter(|list| !list.allows).find_map(found)?;
    let is_excused = lists.iter().any(|list| list.allows && list.entries.find(addr).is_some());
    (!is_excused).then_some(hit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &str, allows: bool, lines: &[&str]) -> AddressList {
        let lines = (1..).zip(lines).map(|(line, text)| (line, text.parse().unwrap()));
        AddressList { name: name.into(), allows, entries: Arc::new(Entries::new(lines)) }
    }

    #[test]
    fn a_list_says_which_entry_and_line() {
        let lists = [
            list("a", false, &["198.51.100.7", "203.0.113.0/24", "203.0.113.9", "198.51.100.7", "2001:db8::1/128"]),
            list("b", false, &["203.0.113.0/25", "2001:db8::/32"]),
            list("ours", true, &["203.0.113.77"]),
        ];
        for (name, addr, expected) in [
            ("an address", "198.51.100.7", Some(("a", "198.51.100.7/32", 1))),
            ("an address inside a network of its list", "203.0.113.9", Some(("a", "203.0.113.9/32", 3))),
            ("a network", "203.0.113.1", Some(("a", "203.0.113.0/24", 2))),
            ("a network of one address", "2001:db8::1", Some(("a", "2001:db8::1/128", 5))),
            ("the second list", "2001:db8::2", Some(("b", "2001:db8::/32", 2))),
            ("excused", "203.0.113.77", None),
            ("on no list", "192.0.2.1", None),
            ("a mapped address is its IPv4 address", "::ffff:198.51.100.7", Some(("a", "198.51.100.7/32", 1))),
        ] {
            let hit = blocked(&lists, addr.parse::<IpAddr>().unwrap().into());
            let expected =
                expected.map(|(list, net, line)| ListHit { list: list.into(), net: net.parse().unwrap(), line });
            assert_eq!(hit, expected, "{name}");
        }
        assert_eq!(lists[0].entries.len(), 4);
    }
}
