//! Address lists as something that answers fast: exact addresses, and networks with what belongs to each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::addr::{Client, ClientAddr, IpEntry};
use crate::model::sorted::{Key, Sorted};

/// Where a network is in no other.
const NOWHERE: u32 = u32::MAX;

/// The networks of one family, by their first address. Networks contain each other or are apart, so the one that begins
/// last up to an address, or one around that, is the smallest that holds it.
#[derive(Clone)]
struct Family<K, T> {
    starts: Sorted<K>,
    nests: Vec<Nest>,
    values: Vec<T>,
}

/// The length of a network's prefix, and the place of the smallest other network around it.
#[derive(Clone, Copy)]
struct Nest {
    around: u32,
    len: u8,
}

impl<K: Key, T> Family<K, T> {
    /// Networks in any order; the last value of the same network wins.
    fn new(mut nets: Vec<(K, u8, T)>) -> Self {
        // Stable, and the wider one first of those that begin together.
        nets.sort_by_key(|(start, len, _)| (*start, *len));
        nets.dedup_by(|later, kept| {
            let is_same = (later.0, later.1) == (kept.0, kept.1);
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        let mut family = Self { starts: Sorted::default(), nests: Vec::with_capacity(nets.len()), values: Vec::new() };
        let mut starts = Vec::with_capacity(nets.len());
        let mut open: Vec<(u32, K, u8)> = Vec::new();
        for ((start, len, value), place) in nets.into_iter().zip(0..NOWHERE) {
            while open.last().is_some_and(|(_, around, len)| !start.shares(*around, *len)) {
                open.pop();
            }
            family.nests.push(Nest { around: open.last().map_or(NOWHERE, |(place, ..)| *place), len });
            family.values.push(value);
            starts.push(start);
            open.push((place, start, len));
        }
        family.values.shrink_to_fit();
        family.starts = Sorted::new(starts);
        family
    }

    /// The places of the networks that hold `key`, smallest first.
    fn holding(&self, key: K) -> impl Iterator<Item = usize> + '_ {
        let mut next = self.starts.last_up_to(key);
        std::iter::from_fn(move || {
            loop {
                let place = next?;
                let nest = self.nests.get(place)?;
                next = (nest.around != NOWHERE).then_some(nest.around as usize);
                if self.starts.get(place)?.shares(key, nest.len) {
                    return Some(place);
                }
            }
        })
    }

    /// True when a network shares an address with the network of these first `len` bits.
    fn overlaps(&self, start: K, len: u8) -> bool {
        let is_inside = self.starts.last_up_to(start.end(len)).and_then(|place| self.starts.get(place));
        is_inside.is_some_and(|inside| start <= inside) || self.holding(start).next().is_some()
    }
}

impl<K: Key, T> Default for Family<K, T> {
    fn default() -> Self {
        Self { starts: Sorted::default(), nests: Vec::new(), values: Vec::new() }
    }
}

/// Values by network. Made at once; a lookup allocates nothing. Each IPv4 network takes at most 20 bytes and its value,
/// each of IPv6 at most 32.
#[derive(Clone)]
pub struct NetMap<T> {
    v4: Family<u32, T>,
    v6: Family<u128, T>,
}

impl<T> NetMap<T> {
    /// Every network that holds `ip`, smallest first. Never crosses address families.
    pub fn covering(&self, ip: IpAddr) -> impl Iterator<Item = (IpNet, &T)> {
        let (four, six) = match ip {
            IpAddr::V4(ip) => (Some(self.v4.holding(ip.into()).filter_map(|place| self.four(place))), None),
            IpAddr::V6(ip) => (None, Some(self.v6.holding(ip.into()).filter_map(|place| self.six(place)))),
        };
        four.into_iter().flatten().chain(six.into_iter().flatten())
    }

    /// The smallest network that holds `ip`.
    #[must_use]
    pub fn longest(&self, ip: IpAddr) -> Option<(IpNet, &T)> {
        match ip {
            IpAddr::V4(ip) => self.v4.holding(ip.into()).next().and_then(|place| self.four(place)),
            IpAddr::V6(ip) => self.v6.holding(ip.into()).next().and_then(|place| self.six(place)),
        }
    }

    /// True when a network shares an address with `net`.
    #[must_use]
    pub fn overlaps(&self, net: IpNet) -> bool {
        match net.trunc() {
            IpNet::V4(net) => self.v4.overlaps(net.addr().into(), net.prefix_len()),
            IpNet::V6(net) => self.v6.overlaps(net.addr().into(), net.prefix_len()),
        }
    }

    /// Every network with its value: IPv4 first, by first address, wider ones first.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let four = (0..self.v4.starts.len()).filter_map(|place| self.four(place));
        four.chain((0..self.v6.starts.len()).filter_map(|place| self.six(place)))
    }

    fn four(&self, place: usize) -> Option<(IpNet, &T)> {
        let (start, nest) = (self.v4.starts.get(place)?, self.v4.nests.get(place)?);
        let net = IpNet::new(IpAddr::V4(Ipv4Addr::from(start)), nest.len).ok()?;
        Some((net, self.v4.values.get(place)?))
    }

    fn six(&self, place: usize) -> Option<(IpNet, &T)> {
        let (start, nest) = (self.v6.starts.get(place)?, self.v6.nests.get(place)?);
        let net = IpNet::new(IpAddr::V6(Ipv6Addr::from(start)), nest.len).ok()?;
        Some((net, self.v6.values.get(place)?))
    }

    /// How many networks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.starts.len() + self.v6.starts.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The last value of the same network wins; host bits are cleared.
impl<T> FromIterator<(IpNet, T)> for NetMap<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(nets: I) -> Self {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for (net, value) in nets {
            match net.trunc() {
                IpNet::V4(net) => four.push((u32::from(net.addr()), net.prefix_len(), value)),
                IpNet::V6(net) => six.push((u128::from(net.addr()), net.prefix_len(), value)),
            }
        }
        Self { v4: Family::new(four), v6: Family::new(six) }
    }
}

impl<T> Default for NetMap<T> {
    fn default() -> Self {
        Self { v4: Family::default(), v6: Family::default() }
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
            IpEntry::Net(net) => self.exact.iter().any(|addr| net.contains(&addr.ip())) || self.nets.overlaps(net),
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
        let (mut set, mut nets) = (Self::default(), Vec::new());
        for entry in entries {
            set.len += 1;
            match entry {
                IpEntry::Addr(addr) => set.exact.push(*addr),
                IpEntry::Net(net) => nets.push((*net, ())),
            }
        }
        set.nets = nets.into_iter().collect();
        set.exact.sort_unstable();
        set.exact.dedup();
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn covering_networks_come_smallest_first() {
        let nets =
            [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.2.0.0/16", 3), ("10.1.0.0/16", 4), ("2001:db8::/32", 5)];
        let map: NetMap<i32> = nets.iter().map(|(net, value)| (net.parse().unwrap(), *value)).collect();
        let found: Vec<i32> = map.covering(addr("10.1.9.9").ip()).map(|(_, value)| *value).collect();
        assert_eq!(found, [4, 1], "the last value of a network counts");
        assert_eq!(map.longest(addr("10.3.9.9").ip()), Some(("10.0.0.0/8".parse().unwrap(), &1)), "between two others");
        assert_eq!(map.longest(addr("11.0.0.0").ip()), None);
        let all: Vec<String> = map.iter().map(|(net, value)| format!("{net}={value}")).collect();
        assert_eq!(all, ["10.0.0.0/8=1", "10.1.0.0/16=4", "10.2.0.0/16=3", "2001:db8::/32=5"]);
    }

    /// A network of few different beginnings and any length, so that many contain each other.
    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        let four = (0_u32..64, 0_u8..=32).prop_map(|(start, len)| {
            IpNet::new(IpAddr::V4(Ipv4Addr::from(start << 26 | start << 13 | start)), len).unwrap()
        });
        let six = (0_u128..64, 0_u8..=128).prop_map(|(start, len)| {
            IpNet::new(IpAddr::V6(Ipv6Addr::from(start << 122 | start << 60 | start)), len).unwrap()
        });
        prop::collection::vec(prop_oneof![four, six], 0..80)
    }

    proptest! {
        #[test]
        fn a_lookup_finds_what_a_look_at_all_finds(nets in nets(), asked in nets()) {
            let map: NetMap<usize> = nets.iter().copied().zip(0..).collect();
            for net in asked.iter().chain(&nets) {
                for ip in [net.addr(), net.trunc().addr(), net.broadcast()] {
                    let holding = nets.iter().enumerate().filter(|(_, net)| net.contains(&ip));
                    let mut expected: Vec<(IpNet, usize)> = holding.map(|(place, net)| (net.trunc(), place)).collect();
                    expected.sort_by_key(|(net, place)| std::cmp::Reverse((net.prefix_len(), *place)));
                    expected.dedup_by_key(|(net, _)| *net);
                    let found: Vec<(IpNet, usize)> = map.covering(ip).map(|(net, place)| (net, *place)).collect();
                    prop_assert_eq!(&found, &expected);
                    prop_assert_eq!(map.longest(ip).map(|(net, place)| (net, *place)), expected.first().copied());
                }
                let overlaps = nets.iter().any(|other| other.contains(net) || net.contains(other));
                prop_assert_eq!(map.overlaps(*net), overlaps);
            }
        }
    }
}
