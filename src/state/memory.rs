//! State in this process: bounded, the least recently used goes first. Knows nothing of other replicas.
//!
//! Clients are spread over shards, each behind its own mutex that is held for well under a microsecond and never across
//! an await, so request threads hardly ever meet. All histories of one client lie in one shard: a question about one
//! client is one atomic step.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;
use std::hash::BuildHasher;

use crate::model::addr::{Client, ClientAddr, IpEntry};
use crate::model::category::{Category, CategorySet};
use crate::model::time::{Timestamp, Window};
use crate::state::log::{Edge, Log};
use crate::state::lru::{Lru, Quota};
use crate::state::networks::{Networks, Term};
use crate::state::top::{Busiest, Busy, BusyKey};
use crate::state::{
    Answer, Ban, BanPage, Digest, Limit, Mark, PATTERNS_MAX, Patterns, Question, Rule, SUSPICION_SECONDS, Size, Sizes,
    Standing, State, StateError, Suspicion, Track, Watch, exceeds, hits, short_reason, storable, too_many_patterns,
};

/// Clients remembered by each family unless the configuration says otherwise.
pub const CLIENTS_DEFAULT: usize = 10_000;
const SHARDS: usize = 64;
/// Histories of one shard that a list of the busiest looks at, the ones used last: its lock is held meanwhile.
const LOOKED_AT_MAX: usize = 2048;
/// Largest behaviour count that is told apart.
const OBSERVED_MAX: u32 = 100_000;

/// A client in a fixed number of bytes, however long the text was that named it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
enum ClientKey {
    V4([u8; 4]),
    V6([u8; 16]),
    Text([u8; 32]),
}

impl From<Client<'_>> for ClientKey {
    fn from(client: Client<'_>) -> Self {
        match client.address().map(ClientAddr::ip) {
            Some(IpAddr::V4(v4)) => Self::V4(v4.octets()),
            Some(IpAddr::V6(v6)) => Self::V6(v6.octets()),
            None => {
                let mut text = HashedText(Sha256::new());
                // Hashing cannot fail, so neither can this; were it to, the digest would only cover less text.
                write!(text, "{client}").unwrap_or_default();
                Self::Text(text.0.finalize().into())
            }
        }
    }
}

/// An address, or what is left of another name.
impl std::fmt::Display for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4(octets) => write!(f, "{}", std::net::Ipv4Addr::from(*octets)),
            Self::V6(octets) => write!(f, "{}", std::net::Ipv6Addr::from(*octets)),
            Self::Text(digest) => {
                f.write_str("sha256:")?;
                digest.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

struct HashedText(Sha256);

impl std::fmt::Write for HashedText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

/// Suspicious counts of one client.
#[derive(Debug, Default)]
struct Tally {
    counts: [u32; Category::COUNT],
    until: f64,
}

impl Tally {
    fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }
}

type WindowKey = (ClientKey, Option<Digest>);
type TrackKey = (ClientKey, Digest, Option<Digest>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    windows: Lru<WindowKey, Log>,
    rules: Lru<Digest, Log>,
    tracks: Lru<TrackKey, Log>,
    bans: Lru<ClientKey, Option<(ClientAddr, Term)>>,
    suspicions: Lru<ClientKey, Tally>,
}

/// The state of this process.
#[derive(Debug)]
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    networks: Networks,
    windows: Quota,
    rules: Quota,
    tracks: Quota,
    bans: Quota,
    suspicions: Quota,
    patterns: Mutex<BTreeSet<String>>,
    patterns_changed: tokio::sync::watch::Sender<u64>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(CLIENTS_DEFAULT)
    }
}

impl Memory {
    /// Empty state that remembers at most `clients` clients in each family; when full, the least recently used goes.
    #[must_use]
    pub fn new(clients: usize) -> Self {
        let clients = clients.max(1);
        // A shard that has nothing to give up may exceed the bound by one entry; with few clients there is one shard.
        let shards = if clients < 16 * SHARDS { 1 } else { SHARDS };
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            networks: Networks::default(),
            windows: Quota::new(clients),
            rules: Quota::new(clients),
            tracks: Quota::new(clients),
            bans: Quota::new(clients),
            suspicions: Quota::new(clients),
            patterns: Mutex::default(),
            patterns_changed: tokio::sync::watch::Sender::new(0),
        }
    }

    /// How full each family is.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let size = |quota: &Quota| Size { used: quota.used(), evicted: quota.evicted() };
        Sizes {
            windows: size(&self.windows),
            rules: size(&self.rules),
            tracks: size(&self.tracks),
            bans: size(&self.bans),
            networks: Size { used: self.networks.len(), evicted: self.networks.evicted() },
            suspicions: size(&self.suspicions),
        }
    }

    /// True when any ban is held, be it over or not.
    #[must_use]
    pub fn has_bans(&self) -> bool {
        self.bans.used() != 0 || self.networks.len() != 0
    }

    /// The busiest `size` rate limit histories, of those used lately.
    #[must_use]
    pub fn busiest(&self, size: usize, now: Timestamp) -> Busiest {
        let mut busiest = Busiest { is_complete: true, source: "memory", ..Busiest::default() };
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            busiest.is_complete &= shard.windows.len() <= LOOKED_AT_MAX && shard.rules.len() <= LOOKED_AT_MAX;
            let windows = shard
                .windows
                .newest()
                .take(LOOKED_AT_MAX)
                .map(|((client, path), log)| ((Some::<ClientKey>(*client), *path), log.count_all(now.0)));
            let rules = shard.rules.newest().take(LOOKED_AT_MAX);
            let rules = rules.map(|(rule, log)| ((None, Some(*rule)), log.count_all(now.0)));
            let mut found: Vec<_> = windows.chain(rules).collect();
            // Texts are made outside the lock, and only for those that matter.
            drop(shard);
            found.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
            found.truncate(size);
            let entries = found.into_iter().filter_map(|((client, digest), count)| {
                let key = match (client, digest) {
                    (Some(client), path) => BusyKey::Client(client.to_string(), path),
                    (None, rule) => BusyKey::Rule(rule?),
                };
                Some(Busy { key, count })
            });
            busiest.add(entries, size);
        }
        busiest
    }

    fn shard_of(&self, client: ClientKey) -> usize {
        self.hasher.hash_one(client) as usize % self.shards.len()
    }

    #[expect(clippy::indexing_slicing, reason = "`shard_of` takes the remainder by the number of shards")]
    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, client: ClientKey) -> MutexGuard<'_, Shard> {
        self.lock(self.shard_of(client))
    }

    /// The ban of exactly this client, else of the smallest network around it.
    fn ban_of(&self, client: Client<'_>, now: Timestamp) -> Option<Ban> {
        let ip = match client {
            Client::Address(addr) => {
                if let Some(ban) = self.exact_ban(addr, now) {
                    return Some(ban);
                }
                addr.ip()
            }
            Client::Zoned { addr, .. } => IpAddr::V6(addr),
            Client::Text(_) | Client::Unknown => return None,
        };
        self.networks.find(ip, now)
    }

    fn exact_ban(&self, addr: ClientAddr, now: Timestamp) -> Option<Ban> {
        if self.bans.used() == 0 {
            return None;
        }
        let key = ClientKey::from(Client::Address(addr));
        let mut shard = self.shard(key);
        let (addr, term) = shard.bans.get(&key)?.as_ref()?;
        if now.0 <= term.until {
            return Some(banned(*addr, term));
        }
        shard.bans.remove(&key, &self.bans);
        None
    }

    /// Hits the limits in order and counts. Returns at the first one that is exceeded, unless `to_the_end`.
    fn hit(&self, limits: &[Limit<'_>], to_the_end: bool, now: Timestamp) -> SmallVec<[u64; 4]> {
        let mut counts = SmallVec::new();
        let mut held: Option<(usize, MutexGuard<'_, Shard>)> = None;
        for (place, limit) in limits.iter().enumerate() {
            let client = ClientKey::from(limit.bucket.client);
            let wanted = self.shard_of(client);
            let mut shard = match held.take() {
                Some((known, shard)) if known == wanted => shard,
                other => {
                    drop(other);
                    self.lock(wanted)
                }
            };
            let log = shard.windows.get_or_default((client, limit.bucket.path), &self.windows);
            let is_first = limits.iter().take(place).all(|earlier| earlier.bucket != limit.bucket);
            if is_first {
                let same = || limits.iter().skip(place).filter(|later| later.bucket == limit.bucket);
                let window = same().map(|limit| limit.window.seconds()).max().unwrap_or_default();
                let largest = same().map(|limit| limit.limit).max().unwrap_or_default();
                log.record(now.0, f64::from(window), largest, Edge::Out);
            }
            let count = log.count(now.0, f64::from(limit.window.seconds()), Edge::Out);
            counts.push(count);
            if u64::from(limit.limit) < count && !to_the_end {
                break;
            }
            held = Some((wanted, shard));
        }
        counts
    }

    /// Tests all rules together. The shards of their keys are locked in order, so that two requests never wait for each
    /// other.
    fn test(&self, rules: &[Rule], passive: bool, now: Timestamp) -> SmallVec<[Standing; 2]> {
        let shard_of = |rule: &Rule| self.hasher.hash_one(rule.key) as usize % self.shards.len();
        let mut wanted: SmallVec<[usize; 4]> = rules.iter().map(shard_of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut held: SmallVec<[(usize, MutexGuard<'_, Shard>); 4]> =
            wanted.into_iter().map(|shard| (shard, self.lock(shard))).collect();
        let mut log = |rule: &Rule, act: &mut dyn FnMut(&mut Log)| {
            let wanted = shard_of(rule);
            if let Some((_, shard)) = held.iter_mut().find(|(number, _)| *number == wanted) {
                act(shard.rules.get_or_default(rule.key, &self.rules));
            }
        };
        let mut standings = SmallVec::<[Standing; 2]>::new();
        let mut is_admitted = true;
        for rule in rules {
            let window = f64::from(rule.window.seconds());
            log(rule, &mut |log| {
                let count = log.count(now.0, window, Edge::Out);
                let exceeded = u64::from(rule.limit) <= count;
                is_admitted &= !exceeded || rule.shadow || passive;
                standings.push(Standing { count, exceeded, reset: log.leaves_in(now.0, window) });
            });
        }
        for (rule, standing) in rules.iter().zip(&mut standings) {
            if !is_admitted || standing.exceeded {
                continue;
            }
            let window = f64::from(rule.window.seconds());
            log(rule, &mut |log| {
                log.record(now.0, window, rule.limit, Edge::Out);
                standing.count = log.count(now.0, window, Edge::Out);
                standing.reset = log.leaves_in(now.0, window);
            });
        }
        standings
    }

    /// Hits the histories that are to be hit, and counts.
    fn watch(&self, watches: &[Watch<'_>], now: Timestamp) -> (Vec<u64>, Option<Mark>) {
        let mut mark = None;
        for (track, window) in hits(watches) {
            let client = ClientKey::from(track.client);
            let mut shard = self.shard(client);
            let log = shard.tracks.get_or_default((client, track.endpoint, track.pattern), &self.tracks);
            log.record(now.0, f64::from(window.seconds()), OBSERVED_MAX, Edge::In);
            mark = mark.or_else(|| Some(Mark::new()));
        }
        let count = |watch: &Watch<'_>| {
            let client = ClientKey::from(watch.track.client);
            let mut shard = self.shard(client);
            let log = shard.tracks.get(&(client, watch.track.endpoint, watch.track.pattern));
            log.map_or(0, |log| log.count(now.0, f64::from(watch.window.seconds()), Edge::In))
        };
        (watches.iter().map(count).collect(), mark)
    }

    fn all_bans(&self, now: Timestamp) -> Vec<Ban> {
        let mut bans = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let in_force = shard.bans.iter().filter_map(|(_, ban)| ban.as_ref());
            bans.extend(in_force.filter(|(_, term)| now.0 <= term.until).map(|(addr, term)| banned(*addr, term)));
        }
        bans.extend(self.networks.list(now).into_iter().map(|(net, term)| Ban {
            target: IpEntry::Net(net),
            until: Timestamp(term.until),
            reason: term.reason.as_deref().map(str::to_owned),
        }));
        bans
    }
}

fn banned(addr: ClientAddr, term: &Term) -> Ban {
    Ban { target: IpEntry::Addr(addr), until: Timestamp(term.until), reason: term.reason.as_deref().map(str::to_owned) }
}

impl State for Memory {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Answer, StateError> {
        let ban = question.ban.and_then(|client| self.ban_of(client, now));
        let counts = if ban.is_none() || question.passive {
            self.hit(&question.limits, question.passive, now)
        } else {
            SmallVec::new()
        };
        let is_refused = ban.is_some() || exceeds(&question.limits, &counts);
        let rules = if question.rules.is_empty() || (is_refused && !question.passive) {
            SmallVec::new()
        } else {
            self.test(&question.rules, question.passive, now)
        };
        let is_refused =
            is_refused || question.rules.iter().zip(&rules).any(|(rule, standing)| standing.exceeded && !rule.shadow);
        let (watched, mark) = if question.watches.is_empty() || (is_refused && !question.passive) {
            (Vec::new(), None)
        } else {
            self.watch(&question.watches, now)
        };
        Ok(Answer { ban, counts, rules, watched, mark })
    }

    async fn ban(&self, target: IpEntry, window: Window, reason: &str, now: Timestamp) -> Result<(), StateError> {
        let reason: Arc<str> = short_reason(reason).into();
        let term = Term { until: now.plus(f64::from(window.seconds())).0, reason: Some(reason) };
        match target {
            IpEntry::Addr(addr) => {
                let key = ClientKey::from(Client::Address(addr));
                let mut shard = self.shard(key);
                *shard.bans.get_or_default(key, &self.bans) = Some((addr, term));
                shard.suspicions.remove(&key, &self.suspicions);
            }
            IpEntry::Net(net) => self.networks.insert(net, term, now),
        }
        Ok(())
    }

    async fn unban(&self, target: IpEntry, now: Timestamp) -> Result<bool, StateError> {
        Ok(match target {
            IpEntry::Addr(addr) => {
                let key = ClientKey::from(Client::Address(addr));
                let lifted = self.shard(key).bans.remove(&key, &self.bans).flatten();
                lifted.is_some_and(|(_, term)| now.0 <= term.until)
            }
            IpEntry::Net(net) => self.networks.remove(net, now),
        })
    }

    async fn bans(&self, from: Option<&str>, limit: usize, now: Timestamp) -> Result<BanPage, StateError> {
        let mut named: Vec<(String, Ban)> =
            self.all_bans(now).into_iter().map(|ban| (ban.target.to_string(), ban)).collect();
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let start = from.map_or(0, |from| named.partition_point(|(name, _)| name.as_str() < from));
        let mut rest = named.into_iter().skip(start);
        let bans = rest.by_ref().take(limit).map(|(_, ban)| ban).collect();
        Ok(BanPage { bans, next: rest.next().map(|(name, _)| name) })
    }

    async fn suspect(
        &self,
        client: Client<'_>,
        categories: CategorySet,
        now: Timestamp,
    ) -> Result<Suspicion, StateError> {
        let key = ClientKey::from(client);
        let categories = if categories.is_empty() { categories.with(Category::UNCATEGORIZED) } else { categories };
        let mut shard = self.shard(key);
        let tally = shard.suspicions.get_or_default(key, &self.suspicions);
        if tally.until < now.0 {
            *tally = Tally::default();
        }
        tally.until = now.plus(f64::from(SUSPICION_SECONDS)).0;
        let mut by_category = SmallVec::new();
        for category in categories.iter() {
            let Some(count) = tally.counts.get_mut(category.index()) else { continue };
            *count = count.saturating_add(1);
            by_category.push((category, u64::from(*count)));
        }
        Ok(Suspicion { by_category, total: tally.total() })
    }

    async fn absolve(&self, client: Client<'_>) -> Result<(), StateError> {
        let key = ClientKey::from(client);
        self.shard(key).suspicions.remove(&key, &self.suspicions);
        Ok(())
    }

    async fn suspicion(&self, client: Client<'_>, now: Timestamp) -> Result<u64, StateError> {
        if self.suspicions.used() == 0 {
            return Ok(0);
        }
        let key = ClientKey::from(client);
        let mut shard = self.shard(key);
        Ok(shard.suspicions.get(&key).filter(|tally| now.0 <= tally.until).map_or(0, |tally| tally.total()))
    }

    async fn observe(&self, track: Track<'_>, window: Window, now: Timestamp) -> Result<u64, StateError> {
        let client = ClientKey::from(track.client);
        let mut shard = self.shard(client);
        let log = shard.tracks.get_or_default((client, track.endpoint, track.pattern), &self.tracks);
        let window = f64::from(window.seconds());
        log.record(now.0, window, OBSERVED_MAX, Edge::In);
        Ok(log.count(now.0, window, Edge::In))
    }

    async fn withdraw(&self, tracks: &[Track<'_>], _: Mark) -> Result<(), StateError> {
        for track in tracks {
            let client = ClientKey::from(track.client);
            // Which of a client's latest events goes makes no difference that could be counted.
            if let Some(log) = self.shard(client).tracks.get(&(client, track.endpoint, track.pattern)) {
                log.take_back();
            }
        }
        Ok(())
    }

    async fn reset_bans(&self) -> Result<(), StateError> {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).bans.clear(&self.bans);
        }
        self.networks.clear();
        Ok(())
    }

    async fn reset_limits(&self) -> Result<(), StateError> {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.windows.clear(&self.windows);
            shard.rules.clear(&self.rules);
        }
        Ok(())
    }
}

impl Memory {
    /// Changes the patterns, and says so when `change` reports that it did.
    fn change_patterns<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> (bool, T)) -> T {
        let mut patterns = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        let (changed, result) = change(&mut patterns);
        drop(patterns);
        if changed {
            self.patterns_changed.send_modify(|count| *count += 1);
        }
        result
    }
}

impl Patterns for Memory {
    async fn patterns(&self) -> Result<BTreeSet<String>, StateError> {
        Ok(self.patterns.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn add_pattern(&self, pattern: &str) -> Result<bool, StateError> {
        storable(pattern)?;
        self.change_patterns(|patterns| {
            if patterns.contains(pattern) {
                return (false, Ok(false));
            }
            if PATTERNS_MAX <= patterns.len() {
                return (false, Err(too_many_patterns()));
            }
            patterns.insert(pattern.to_owned());
            (true, Ok(true))
        })
    }

    async fn remove_pattern(&self, pattern: &str) -> Result<bool, StateError> {
        Ok(self.change_patterns(|patterns| {
            let removed = patterns.remove(pattern);
            (removed, removed)
        }))
    }

    async fn clear_patterns(&self) -> Result<(), StateError> {
        self.change_patterns(|patterns| (!std::mem::take(patterns).is_empty(), ()));
        Ok(())
    }

    fn patterns_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.patterns_changed.subscribe()
    }
}
