//! What must outlive a request: bans, windows, counts. The only question the engine may await.
//!
//! The trait speaks the domain, not a store's verbs. One call is at most one round trip and one atomic step.

use std::collections::BTreeSet;
use std::future::Future;

use smallvec::SmallVec;

use crate::model::addr::{Client, IpEntry};
use crate::model::category::CategorySet;
use crate::model::time::{Timestamp, Window};

mod breaker;
pub mod failover;
pub mod formats;
pub mod keys;
mod log;
mod lru;
pub mod memory;
mod networks;
pub mod redis;
pub mod top;

use crate::config::Config;
use crate::state::failover::Failover;
use crate::state::memory::Memory;
use crate::state::redis::Redis;
use crate::state::redis::settings::Settings;

/// Seconds after the last increment for which suspicious counts are remembered.
pub const SUSPICION_SECONDS: u32 = 3600;
/// Custom patterns that are shared at most; another one is refused.
pub const PATTERNS_MAX: usize = 1000;
/// Bytes of one custom pattern at most.
pub const PATTERN_BYTES_MAX: usize = 4096;
/// Bytes of a ban's reason that are kept.
pub const REASON_BYTES_MAX: usize = 256;

/// SHA-256 of a text, as guard-core puts it into keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

/// One sliding window's identity. Two limits that name the same bucket share one history, and a request is one hit in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub struct Bucket<'r> {
    /// Whose window.
    pub client: Client<'r>,
    /// Digest of the decoded path, for the endpoint, route and geo tiers; `None` for the global tier.
    pub path: Option<Digest>,
}

/// One limit to test, in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limit<'r> {
    /// Which history.
    pub bucket: Bucket<'r>,
    /// Requests that pass per window; 0 refuses all.
    pub limit: u32,
    /// Over which time.
    pub window: Window,
}

/// The state questions of one request, asked together.
#[derive(Clone, Debug, Default)]
pub struct Question<'r> {
    /// Look the client up in the ban list.
    pub ban: Option<Client<'r>>,
    /// Limits in order. When the client is not banned: each is hit, and the first one over its limit ends the list
    /// (later ones are not hit). A bucket that occurs twice is hit once. Asked with `passive`, all are hit.
    pub limits: SmallVec<[Limit<'r>; 4]>,
    /// Hit every limit and the limits of banned clients too: nothing will be refused.
    pub passive: bool,
    /// Limits of the service's own. When the client is not banned and no limit above is exceeded, all are tested
    /// together: either each counts the request, or, when one refuses it, none does.
    pub rules: SmallVec<[Rule; 2]>,
    /// Behaviour histories to look at, in order. When nothing above refuses the request: each that is to be hit is hit
    /// once, however often it occurs. Should the request be refused later, [`State::withdraw`] takes the hits back.
    pub watches: Vec<Watch<'r>>,
}

/// A look at a behaviour history.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Watch<'r> {
    /// Which history.
    pub track: Track<'r>,
    /// Over which time.
    pub window: Window,
    /// The request is an event of the history; else it is only counted what happened before.
    pub hits: bool,
}

/// What one request recorded in behaviour histories, under which it can be taken back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark(u128);

impl Mark {
    fn new() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    /// The mark that was written down as this number.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The mark as a number.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The member of a history: 32 lower-case hexadecimal digits.
    fn member(self) -> String {
        format!("{:032x}", self.0)
    }
}

/// The watches whose tracks are to be hit, each once, with the longest window that is asked about.
fn hits<'q, 'r>(watches: &'q [Watch<'r>]) -> impl Iterator<Item = (Track<'r>, Window)> + use<'q, 'r> {
    let is_first = |place: usize, watch: &Watch<'r>| {
        !watches.iter().take(place).any(|earlier| earlier.hits && earlier.track == watch.track)
    };
    let firsts = watches.iter().enumerate().filter(move |(place, watch)| watch.hits && is_first(*place, watch));
    firsts.map(|(_, watch)| {
        let same = watches.iter().filter(|other| other.track == watch.track);
        (watch.track, same.map(|other| other.window).max().unwrap_or(watch.window))
    })
}

/// One limit of the service's own. Unlike with [`Limit`], a request that is refused does not count, so that the moment
/// when the next one passes is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Whose history: the digest of the rule's name and of what its requests have in common.
    pub key: Digest,
    /// Requests that pass per window. At least 1.
    pub limit: u32,
    /// Over which time.
    pub window: Window,
    /// Tested and counted, but never a reason to refuse.
    pub shadow: bool,
    /// May be answered by this replica alone: each replica may then let [`allowance`] requests more pass.
    pub cached: bool,
}

/// Requests that one replica may let pass before it settles with the others, for a cached rule: a tenth of the limit, at
/// least 1, at most 100. With `n` replicas at most `n * allowance` requests more than the limit pass in a window.
#[must_use]
pub fn allowance(limit: u32) -> u32 {
    (limit / 10).clamp(1, 100)
}

/// How a rule stands after a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// Requests within the window, this one included when it counts. Never more than the limit, except for what other
    /// replicas let pass under a cached rule.
    pub count: u64,
    /// The rule refuses the request, or would if it were no shadow.
    pub exceeded: bool,
    /// Seconds until the oldest request leaves the window, and room for one more is made.
    pub reset: f64,
}

/// The answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The ban in force, if any.
    pub ban: Option<Ban>,
    /// Hits within each limit's window, this one included, for the limits that were hit.
    pub counts: SmallVec<[u64; 4]>,
    /// How each rule stands, in order; empty when a ban or a limit refuses the request already.
    pub rules: SmallVec<[Standing; 2]>,
    /// Events within each watch's window, the request included where it hits; empty when the request is refused already.
    pub watched: Vec<u64>,
    /// What the request recorded in behaviour histories, if anything.
    pub mark: Option<Mark>,
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    /// The address or network that is banned.
    pub target: IpEntry,
    /// When it ends; a client is still banned at exactly this moment.
    pub until: Timestamp,
    /// Why, when the backend knows.
    pub reason: Option<String>,
}

/// Suspicious counts of a client after an increment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suspicion {
    /// Count of each category asked about, in `Category` table order.
    pub by_category: SmallVec<[(crate::model::category::Category, u64); 4]>,
    /// Sum over all categories ever counted for this client.
    pub total: u64,
}

/// A behaviour history: one client on one endpoint, and for return rules one pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub struct Track<'r> {
    /// Whose.
    pub client: Client<'r>,
    /// Digest of the endpoint id.
    pub endpoint: Digest,
    /// Digest of the pattern, for return rules.
    pub pattern: Option<Digest>,
}

/// Why state could not answer. Never the value of a key.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The store cannot be reached, or the breaker is open.
    #[error("state is unavailable: {0}")]
    Unavailable(String),
    /// The store did not answer in time.
    #[error("state did not answer within its deadline")]
    Deadline,
    /// A key holds something else than it should.
    #[error("state holds an unusable value: {0}")]
    Corrupt(String),
    /// The request to state makes no sense (a ban of nothing, a negative duration).
    #[error("{0}")]
    Refused(String),
}

/// A part of the list of bans.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BanPage {
    /// Bans in force.
    pub bans: Vec<Ban>,
    /// Where the next part starts; `None` when this was the last.
    pub next: Option<String>,
}

/// How state is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    /// What the configuration chose.
    pub backend: &'static str,
    /// As good as configured: in memory, or in a Redis that answers.
    pub is_well: bool,
    /// Changes by other replicas are heard.
    pub is_listening: bool,
    /// What happened on the way to Redis.
    pub counts: redis::RedisCounts,
    /// How often memory stood in.
    pub stood_in: failover::FailoverCounts,
}

/// How full the stores of this process are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sizes {
    /// Rate limit histories.
    pub windows: Size,
    /// Histories of the service's own limits.
    pub rules: Size,
    /// Behaviour histories.
    pub tracks: Size,
    /// Banned addresses.
    pub bans: Size,
    /// Banned networks.
    pub networks: Size,
    /// Clients with suspicious counts.
    pub suspicions: Size,
}

impl Sizes {
    /// Each family's name with its size, for metrics.
    #[must_use]
    pub const fn families(&self) -> [(&'static str, Size); 6] {
        [
            ("windows", self.windows),
            ("rules", self.rules),
            ("tracks", self.tracks),
            ("bans", self.bans),
            ("networks", self.networks),
            ("suspicions", self.suspicions),
        ]
    }
}

/// How full one family is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Size {
    /// Entries held.
    pub used: usize,
    /// Entries that had to go before their time since the process started.
    pub evicted: u64,
}

/// Bans, windows and counts. Implementations are bounded and never panic.
pub trait State: Send + Sync {
    /// Answers the state questions of one request in one step.
    fn ask(&self, question: &Question<'_>, now: Timestamp) -> impl Future<Output = Result<Answer, StateError>> + Send;

    /// Bans an address or network for `window`. Replaces an earlier ban of the same target, and forgets the suspicious
    /// counts of a banned address, so that one further hit after the ban does not ban again.
    fn ban(
        &self,
        target: IpEntry,
        window: Window,
        reason: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Lifts a ban of exactly this target; false when there was none in force.
    fn unban(&self, target: IpEntry, now: Timestamp) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// At most `limit` bans in force, from where an earlier page ended. Bans that come or go meanwhile may be missed.
    fn bans(
        &self,
        from: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> impl Future<Output = Result<BanPage, StateError>> + Send;

    /// Adds one to each category (to `uncategorized` when the set is empty) and returns the new counts. All counts of a
    /// client are forgotten [`SUSPICION_SECONDS`] after the last increment.
    fn suspect(
        &self,
        client: Client<'_>,
        categories: CategorySet,
        now: Timestamp,
    ) -> impl Future<Output = Result<Suspicion, StateError>> + Send;

    /// Forgets the counts of a client.
    fn absolve(&self, client: Client<'_>) -> impl Future<Output = Result<(), StateError>> + Send;

    /// The total suspicious count of a client.
    fn suspicion(&self, client: Client<'_>, now: Timestamp) -> impl Future<Output = Result<u64, StateError>> + Send;

    /// Records one event in a behaviour history and returns how many lie within `window`, this one included. An event
    /// exactly `window` old still counts.
    fn observe(
        &self,
        track: Track<'_>,
        window: Window,
        now: Timestamp,
    ) -> impl Future<Output = Result<u64, StateError>> + Send;

    /// Takes back what a request recorded in these histories: it was refused after all.
    fn withdraw(&self, tracks: &[Track<'_>], mark: Mark) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Lifts all bans, of addresses and of networks.
    fn reset_bans(&self) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Forgets all rate limit histories.
    fn reset_limits(&self) -> impl Future<Output = Result<(), StateError>> + Send;
}

/// The custom patterns that all participants share, as their texts. What they mean is for others to judge.
///
/// A change by any replica is seen by [`Patterns::patterns_changed`] of every replica, its own included; a change by an
/// application that embeds guard-core, which tells nobody, within [`redis::settings::Settings::patterns_interval`].
pub trait Patterns: Send + Sync {
    /// All of them, at most [`PATTERNS_MAX`].
    fn patterns(&self) -> impl Future<Output = Result<BTreeSet<String>, StateError>> + Send;

    /// Adds one; false when it was there. Refused are the empty pattern, one longer than [`PATTERN_BYTES_MAX`], and any
    /// beyond [`PATTERNS_MAX`].
    fn add_pattern(&self, pattern: &str) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Takes one away; false when it was not there.
    fn remove_pattern(&self, pattern: &str) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Takes all away.
    fn clear_patterns(&self) -> impl Future<Output = Result<(), StateError>> + Send;

    /// A number that grows whenever the patterns may be others than before: read them again then.
    fn patterns_changed(&self) -> tokio::sync::watch::Receiver<u64>;
}

/// Says why a pattern cannot be stored, if it cannot.
fn storable(pattern: &str) -> Result<(), StateError> {
    if pattern.is_empty() {
        return Err(StateError::Refused("a custom pattern must not be empty".to_owned()));
    }
    if PATTERN_BYTES_MAX < pattern.len() {
        return Err(StateError::Refused(format!("a custom pattern has at most {PATTERN_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn too_many_patterns() -> StateError {
    StateError::Refused(format!("there are already {PATTERNS_MAX} custom patterns"))
}

/// The backend that the configuration chose; one concrete type for the services.
#[derive(Debug)]
pub enum Backend {
    /// This process only.
    Memory(Memory),
    /// Redis; its failures are the engine's to judge.
    Redis(Box<Redis>),
    /// Redis, and memory while it is away.
    Failover(Box<Failover>),
}

impl Backend {
    /// The backend that a configuration asks for. Opens no connection yet.
    ///
    /// Without `enable_redis` or a URL, memory. Else Redis, with memory behind it when `redis_fail_open` is set. Reads
    /// the files that the section `redis` names; an error tells which setting is unusable.
    pub fn new(config: &Config) -> Result<Self, StateError> {
        let security = &config.security;
        let memory = || Memory::new(usize::try_from(config.limits.memory_clients).unwrap_or(memory::CLIENTS_DEFAULT));
        let Some(url) = security.redis_url.as_ref().filter(|_| security.enable_redis) else {
            return Ok(Self::Memory(memory()));
        };
        let redis = Redis::new(Settings::from_config(url.expose(), config)?)?;
        Ok(if security.redis_fail_open {
            Self::Failover(Box::new(Failover::new(redis, memory())))
        } else {
            Self::Redis(Box::new(redis))
        })
    }

    /// How full the stores of this process are.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        match self {
            Self::Memory(memory) => memory.sizes(),
            Self::Redis(redis) => redis.sizes(),
            // The bans known from Redis count with those of memory: both are bans held here.
            Self::Failover(both) => {
                let (mut sizes, known) = (both.memory().sizes(), both.redis().sizes());
                sizes.bans.used += known.bans.used;
                sizes.bans.evicted += known.bans.evicted;
                sizes.networks.used += known.networks.used;
                sizes.networks.evicted += known.networks.evicted;
                sizes
            }
        }
    }

    /// The shared side, for operations that only it has.
    #[must_use]
    pub fn redis(&self) -> Option<&Redis> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => Some(redis),
            Self::Failover(both) => Some(both.redis()),
        }
    }

    /// How state is doing, for people.
    #[must_use]
    pub fn health(&self) -> Health {
        let counts = self.redis().map(Redis::counts).unwrap_or_default();
        let stood_in = match self {
            Self::Failover(both) => both.counts(),
            Self::Memory(_) | Self::Redis(_) => Default::default(),
        };
        let backend = match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
            Self::Failover(_) => "redis, memory behind it",
        };
        let is_listening = self.redis().is_none_or(Redis::is_listening);
        Health { backend, is_well: self.is_well(), is_listening, counts, stood_in }
    }

    /// True when state is as good as configured: in memory, or in a Redis that answers.
    #[must_use]
    pub fn is_well(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(redis) => redis.is_well(),
            Self::Failover(both) => both.redis().is_well(),
        }
    }

    /// Keeps the backend in touch with the other replicas. Never returns; run one beside the service.
    ///
    /// `clock` tells the time of the edge.
    pub async fn maintain(&self, clock: impl Fn() -> Timestamp + Send + Sync) {
        match self {
            Self::Memory(_) => std::future::pending().await,
            Self::Redis(redis) => redis.maintain(clock).await,
            Self::Failover(both) => both.maintain(clock).await,
        }
    }
}

/// True when two configurations mean the same backend, so that a change between them needs no restart.
#[must_use]
pub fn is_same_backend(one: &Config, other: &Config) -> bool {
    let parts = |config: &Config| {
        let security = &config.security;
        (
            (security.enable_redis, security.redis_url.clone(), security.redis_prefix.clone()),
            (security.redis_socket_connect_timeout, security.redis_socket_timeout, security.redis_retries),
            (security.redis_health_check_interval, security.redis_max_connections, security.redis_fail_open),
            (config.limits.memory_clients, config.limits.state_deadline_ms),
        )
    };
    parts(one) == parts(other) && one.redis == other.redis
}

/// One arm for each backend: the call goes to whichever it is.
macro_rules! forward {
    ($self:ident, $backend:ident => $call:expr) => {
        match $self {
            Self::Memory($backend) => $call.await,
            Self::Redis($backend) => $call.await,
            Self::Failover($backend) => $call.await,
        }
    };
}

impl State for Backend {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Answer, StateError> {
        forward!(self, backend => backend.ask(question, now))
    }

    async fn ban(&self, target: IpEntry, window: Window, reason: &str, now: Timestamp) -> Result<(), StateError> {
        forward!(self, backend => backend.ban(target, window, reason, now))
    }

    async fn unban(&self, target: IpEntry, now: Timestamp) -> Result<bool, StateError> {
        forward!(self, backend => backend.unban(target, now))
    }

    async fn bans(&self, from: Option<&str>, limit: usize, now: Timestamp) -> Result<BanPage, StateError> {
        forward!(self, backend => backend.bans(from, limit, now))
    }

    async fn suspect(
        &self,
        client: Client<'_>,
        categories: CategorySet,
        now: Timestamp,
    ) -> Result<Suspicion, StateError> {
        forward!(self, backend => backend.suspect(client, categories, now))
    }

    async fn absolve(&self, client: Client<'_>) -> Result<(), StateError> {
        forward!(self, backend => backend.absolve(client))
    }

    async fn suspicion(&self, client: Client<'_>, now: Timestamp) -> Result<u64, StateError> {
        forward!(self, backend => backend.suspicion(client, now))
    }

    async fn observe(&self, track: Track<'_>, window: Window, now: Timestamp) -> Result<u64, StateError> {
        forward!(self, backend => backend.observe(track, window, now))
    }

    async fn withdraw(&self, tracks: &[Track<'_>], mark: Mark) -> Result<(), StateError> {
        forward!(self, backend => backend.withdraw(tracks, mark))
    }

    async fn reset_bans(&self) -> Result<(), StateError> {
        forward!(self, backend => backend.reset_bans())
    }

    async fn reset_limits(&self) -> Result<(), StateError> {
        forward!(self, backend => backend.reset_limits())
    }
}

impl Patterns for Backend {
    async fn patterns(&self) -> Result<BTreeSet<String>, StateError> {
        forward!(self, backend => backend.patterns())
    }

    async fn add_pattern(&self, pattern: &str) -> Result<bool, StateError> {
        forward!(self, backend => backend.add_pattern(pattern))
    }

    async fn remove_pattern(&self, pattern: &str) -> Result<bool, StateError> {
        forward!(self, backend => backend.remove_pattern(pattern))
    }

    async fn clear_patterns(&self) -> Result<(), StateError> {
        forward!(self, backend => backend.clear_patterns())
    }

    fn patterns_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        match self {
            Self::Memory(memory) => memory.patterns_changed(),
            Self::Redis(redis) => redis.patterns_changed(),
            Self::Failover(both) => both.patterns_changed(),
        }
    }
}

/// True when one of the limits that were hit refuses.
fn exceeds(limits: &[Limit<'_>], counts: &[u64]) -> bool {
    limits.iter().zip(counts).any(|(limit, count)| u64::from(limit.limit) < *count)
}

/// A reason cut to [`REASON_BYTES_MAX`] at a character boundary.
fn short_reason(reason: &str) -> &str {
    reason.get(..reason.floor_char_boundary(REASON_BYTES_MAX)).unwrap_or_default()
}
