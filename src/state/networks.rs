//! Banned networks, found by longest-prefix match. Readers take no lock; a change copies the table.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::model::addr::IpEntry;
use crate::model::time::Timestamp;
use crate::state::Ban;

/// Networks that may be banned at once; beyond it the one that ends first goes.
pub(super) const NETWORKS_MAX: usize = 10_000;

/// Why and until when a network is banned.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    /// The last banned moment.
    pub(super) until: f64,
    /// Why, when known.
    pub(super) reason: Option<Arc<str>>,
}

/// The banned networks of both families.
#[derive(Debug, Default)]
pub(super) struct Networks {
    table: ArcSwap<JointPrefixMap<IpNet, Term>>,
    writing: Mutex<()>,
    evicted: AtomicU64,
}

impl Networks {
    /// The ban with the longest prefix that holds `ip` and has not ended.
    pub(super) fn find(&self, ip: IpAddr, now: Timestamp) -> Option<Ban> {
        let table = self.table.load();
        if table.is_empty() {
            return None;
        }
        let host = IpNet::from(ip);
        let (net, term) =
            table.cover(&host).filter(|(_, term)| now.0 <= term.until).max_by_key(|(net, _)| net.prefix_len())?;
        Some(Ban {
            target: IpEntry::Net(net),
            until: Timestamp(term.until),
            reason: term.reason.as_deref().map(str::to_owned),
        })
    }

    /// Bans `net`, replacing an earlier ban of it.
    pub(super) fn insert(&self, net: IpNet, term: Term, now: Timestamp) {
        self.change(|table| {
            table.retain(|_, term| now.0 <= term.until);
            table.insert(net.trunc(), term);
            if NETWORKS_MAX < table.len() {
                let first = table.iter().min_by(|(_, a), (_, b)| a.until.total_cmp(&b.until)).map(|(net, _)| net);
                first.and_then(|net| table.remove(&net));
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Replaces all bans by these; a ban that stays as it was keeps its reason. At most [`NETWORKS_MAX`] are taken.
    pub(super) fn replace(&self, terms: impl Iterator<Item = (IpNet, f64)>) {
        self.change(|table| {
            let mut fresh = JointPrefixMap::new();
            for (net, until) in terms.take(NETWORKS_MAX) {
                let net = net.trunc();
                let reason = table.get(&net).filter(|term| term.until == until).and_then(|term| term.reason.clone());
                fresh.insert(net, Term { until, reason });
            }
            *table = fresh;
        });
    }

    /// Lifts the ban of exactly `net`; false when none was in force.
    pub(super) fn remove(&self, net: IpNet, now: Timestamp) -> bool {
        self.change(|table| table.remove(&net.trunc())).is_some_and(|term| now.0 <= term.until)
    }

    /// Lifts all.
    pub(super) fn clear(&self) {
        self.change(JointPrefixMap::clear);
    }

    /// All bans in force.
    pub(super) fn list(&self, now: Timestamp) -> Vec<(IpNet, Term)> {
        let table = self.table.load();
        table.iter().filter(|(_, term)| now.0 <= term.until).map(|(net, term)| (net, term.clone())).collect()
    }

    /// Networks held, ended bans included until the next change.
    pub(super) fn len(&self) -> usize {
        self.table.load().len()
    }

    /// Bans that ended early because the table was full.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn change<T>(&self, edit: impl FnOnce(&mut JointPrefixMap<IpNet, Term>) -> T) -> T {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = JointPrefixMap::clone(&self.table.load());
        let result = edit(&mut table);
        self.table.store(Arc::new(table));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(until: f64) -> Term {
        Term { until, reason: None }
    }

    fn found(networks: &Networks, ip: &str, now: f64) -> Option<String> {
        networks.find(ip.parse().unwrap(), Timestamp(now)).map(|ban| ban.target.to_string())
    }

    #[test]
    fn the_longest_prefix_in_force_wins() {
        let networks = Networks::default();
        for (net, until) in [("0.0.0.0/0", 10.0), ("198.51.100.0/24", 50.0), ("198.51.100.64/26", 20.0), ("::/0", 5.0)]
        {
            networks.insert(net.parse().unwrap(), term(until), Timestamp(0.0));
        }
        for (ip, now, expected) in [
            ("198.51.100.70", 20.0, Some("198.51.100.64/26")),
            ("198.51.100.70", 20.1, Some("198.51.100.0/24")),
            ("198.51.100.1", 1.0, Some("198.51.100.0/24")),
            ("198.51.101.1", 10.0, Some("0.0.0.0/0")),
            ("198.51.101.1", 10.1, None),
            ("2001:db8::1", 5.0, Some("::/0")),
            ("2001:db8::1", 5.1, None),
        ] {
            assert_eq!(found(&networks, ip, now).as_deref(), expected, "{ip} at {now}");
        }
    }

    #[test]
    fn a_ban_is_lifted_by_its_own_prefix_only() {
        let networks = Networks::default();
        networks.insert("198.51.100.0/24".parse().unwrap(), term(50.0), Timestamp(0.0));
        assert!(!networks.remove("198.51.100.0/25".parse().unwrap(), Timestamp(1.0)));
        assert!(networks.remove("198.51.100.9/24".parse().unwrap(), Timestamp(1.0)));
        assert_eq!(found(&networks, "198.51.100.1", 1.0), None);
        assert!(!networks.remove("198.51.100.0/24".parse().unwrap(), Timestamp(1.0)));
    }

    #[test]
    fn a_full_table_loses_the_ban_that_ends_first() {
        let networks = Networks::default();
        let mut table = JointPrefixMap::new();
        for number in 0..NETWORKS_MAX as u32 {
            let net = IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 | (number << 8)).into(), 24).unwrap();
            table.insert(net, term(if number == 77 { 5.0 } else { 50.0 }));
        }
        networks.table.store(Arc::new(table));
        networks.insert("198.51.100.0/24".parse().unwrap(), term(9.0), Timestamp(0.0));
        assert_eq!((networks.len(), networks.evicted()), (NETWORKS_MAX, 1));
        assert_eq!(found(&networks, "10.0.77.1", 1.0), None);
        assert!(found(&networks, "198.51.100.1", 1.0).is_some());
    }
}
