//! What this replica knows about bans: enough to refuse a banned client without asking, even while Redis is away.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::model::addr::ClientAddr;
use crate::model::time::Timestamp;
use crate::state::lru::{Lru, Quota};
use crate::state::networks::Term;

const SHARDS: usize = 16;

/// What is known about one address.
#[derive(Clone, Debug, Default)]
struct Known {
    /// When Redis, or a replica, last said so.
    seen: f64,
    /// The ban; `None` for a clean address.
    ban: Option<Term>,
    /// In which era an address was found clean.
    era: u64,
}

/// Bounded memory of who is banned and who is not.
#[derive(Debug)]
pub(super) struct BanCache {
    shards: Box<[Mutex<Lru<ClientAddr, Known>>]>,
    hasher: RandomState,
    quota: Quota,
    /// Ends when pushes may have been missed.
    era: AtomicU64,
    banned_for: f64,
    clean_for: f64,
}

impl BanCache {
    /// Remembers at most `clients` addresses.
    pub(super) fn new(clients: usize, banned_for: Duration, clean_for: Duration) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            quota: Quota::new(clients.max(1)),
            era: AtomicU64::new(0),
            banned_for: banned_for.as_secs_f64(),
            clean_for: clean_for.as_secs_f64(),
        }
    }

    /// The ban of `addr`, if it was confirmed so lately that nobody needs to be asked.
    pub(super) fn fresh_ban(&self, addr: ClientAddr, now: Timestamp) -> Option<Term> {
        self.ban_if(addr, now, |seen| is_recent(seen, self.banned_for, now))
    }

    /// The ban of `addr` that was known last, however long ago it was confirmed.
    pub(super) fn known_ban(&self, addr: ClientAddr, now: Timestamp) -> Option<Term> {
        self.ban_if(addr, now, |_| true)
    }

    /// True when `addr` was found clean so lately that nobody needs to be asked.
    pub(super) fn is_clean(&self, addr: ClientAddr, now: Timestamp) -> bool {
        let era = self.era.load(Ordering::Relaxed);
        let mut shard = self.shard(addr);
        let known = shard.get(&addr).filter(|known| known.ban.is_none() && known.era == era);
        known.is_some_and(|known| is_recent(known.seen, self.clean_for, now))
    }

    /// Remembers a ban.
    pub(super) fn ban(&self, addr: ClientAddr, term: Term, now: Timestamp) {
        *self.shard(addr).get_or_default(addr, &self.quota) = Known { seen: now.0, ban: Some(term), era: 0 };
    }

    /// Remembers that Redis confirmed a ban until then; the reason known so far stays.
    pub(super) fn confirm(&self, addr: ClientAddr, until: Timestamp, now: Timestamp) -> Option<Arc<str>> {
        let mut shard = self.shard(addr);
        let known = shard.get_or_default(addr, &self.quota);
        let reason = known.ban.take().filter(|term| term.until == until.0).and_then(|term| term.reason);
        *known = Known { seen: now.0, ban: Some(Term { until: until.0, reason: reason.clone() }), era: 0 };
        reason
    }

    /// Remembers that an address is clean.
    pub(super) fn clean(&self, addr: ClientAddr, now: Timestamp) {
        let era = self.era.load(Ordering::Relaxed);
        *self.shard(addr).get_or_default(addr, &self.quota) = Known { seen: now.0, ban: None, era };
    }

    /// Bans in force that were known or confirmed after `since`, with their ends.
    pub(super) fn bans_since(&self, since: f64, now: Timestamp) -> Vec<(ClientAddr, f64)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let known = shard.iter().filter(|(_, known)| since < known.seen);
            let bans = known.filter_map(|(addr, known)| Some((*addr, known.ban.as_ref()?.until)));
            found.extend(bans.filter(|(_, until)| now.0 <= *until));
        }
        found
    }

    /// Forgets what is known about an address.
    pub(super) fn forget(&self, addr: ClientAddr) {
        self.shard(addr).remove(&addr, &self.quota);
    }

    /// Forgets who is clean.
    pub(super) fn forget_clean(&self) {
        self.era.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear(&self.quota);
        }
    }

    /// Addresses remembered, and those that had to go.
    pub(super) fn size(&self) -> crate::state::Size {
        crate::state::Size { used: self.quota.used(), evicted: self.quota.evicted() }
    }

    fn ban_if(&self, addr: ClientAddr, now: Timestamp, holds: impl Fn(f64) -> bool) -> Option<Term> {
        let mut shard = self.shard(addr);
        let known = shard.get(&addr)?;
        let term = known.ban.as_ref().filter(|term| now.0 <= term.until)?;
        holds(known.seen).then(|| term.clone())
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder by the number of shards is a shard")]
    fn shard(&self, addr: ClientAddr) -> MutexGuard<'_, Lru<ClientAddr, Known>> {
        let number = self.hasher.hash_one(addr) as usize % self.shards.len();
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_recent(seen: f64, lifetime: f64, now: Timestamp) -> bool {
    let age = now.0 - seen;
    // A little below zero: replicas' clocks differ, and so do threads' within one.
    -1.0 <= age && age < lifetime
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr() -> ClientAddr {
        "203.0.113.1".parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn a_ban_is_fresh_for_a_while_and_known_until_it_ends() {
        let cache = BanCache::new(10, Duration::from_secs(2), Duration::from_millis(500));
        cache.ban(addr(), Term { until: 100.0, reason: None }, Timestamp(10.0));
        for (now, fresh, known) in
            [(10.0, true, true), (11.9, true, true), (12.0, false, true), (100.0, false, true), (100.1, false, false)]
        {
            let now = Timestamp(now);
            assert_eq!(
                (cache.fresh_ban(addr(), now).is_some(), cache.known_ban(addr(), now).is_some()),
                (fresh, known),
                "{now:?}"
            );
        }
    }

    #[test]
    fn cleanliness_is_short_and_a_ban_ends_it() {
        let cache = BanCache::new(10, Duration::from_secs(2), Duration::from_millis(500));
        cache.clean(addr(), Timestamp(10.0));
        assert!(cache.is_clean(addr(), Timestamp(10.4)));
        assert!(!cache.is_clean(addr(), Timestamp(10.5)));
        cache.forget_clean();
        assert!(!cache.is_clean(addr(), Timestamp(10.1)));
        cache.clean(addr(), Timestamp(10.1));
        cache.ban(addr(), Term { until: 100.0, reason: None }, Timestamp(10.2));
        assert!(!cache.is_clean(addr(), Timestamp(10.3)));
    }

    #[test]
    fn a_confirmed_ban_keeps_its_reason() {
        let cache = BanCache::new(10, Duration::from_secs(2), Duration::from_millis(500));
        cache.ban(addr(), Term { until: 100.0, reason: Some("why".into()) }, Timestamp(10.0));
        assert_eq!(cache.confirm(addr(), Timestamp(100.0), Timestamp(20.0)).as_deref(), Some("why"));
        assert_eq!(cache.confirm(addr(), Timestamp(200.0), Timestamp(21.0)), None, "that is another ban");
    }
}
