//! State in Redis, shared with every replica and with applications that embed guard-core: same keys, same values.
//!
//! A request costs at most one round trip: one script on a single server, one script for each key, all at once, on a
//! Cluster. Every call has a deadline, and a breaker spares requests the wait when Redis does not answer.

mod allowances;
mod ask;
mod cache;
mod dial;
pub mod examine;
mod link;
mod migrate;
mod patterns;
mod push;
mod restore;
mod script;
pub mod settings;
pub mod shared;
pub mod store;
mod top;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value, cmd};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep, timeout};

use crate::model::addr::{Client, ClientAddr, IpEntry};
use crate::model::category::{Category, CategorySet};
use crate::model::time::{Timestamp, Window};
use crate::state::breaker::{Breaker, jittered};
use crate::state::keys::{Keys, moment, read_moment};
use crate::state::networks::{Networks, Term};
use crate::state::redis::allowances::Allowances;
use crate::state::redis::ask::{Inquiry, Test, Told, join_all};
use crate::state::redis::cache::BanCache;
use crate::state::redis::link::{Links, describe};
use crate::state::redis::push::Change;
use crate::state::redis::restore::Provenance;
use crate::state::redis::script::Script;
use crate::state::redis::settings::Settings;
use crate::state::{
    Answer, Ban, BanPage, Mark, Question, Rule, SUSPICION_SECONDS, Size, Sizes, Standing, State, StateError, Suspicion,
    Track, exceeds, short_reason,
};

/// State in Redis.
pub struct Redis {
    links: Arc<Links>,
    keys: Keys,
    breaker: Breaker,
    /// True after Redis refused to write: full, a replica, or without enough of them. That it still reads shows nothing.
    refuses_writes: AtomicBool,
    cache: BanCache,
    allowances: Allowances,
    networks: Networks,
    /// Counts local changes of `networks`, so that an older reading of Redis does not undo one.
    networks_changed: AtomicU64,
    /// True while pushes arrive, which is what a remembered clean client relies on.
    listening: AtomicBool,
    /// Losing Redis is told here; with memory behind it, that is told there.
    announces: AtomicBool,
    /// True once bans under old spellings were moved.
    migrated: AtomicBool,
    provenance: Provenance,
    /// Custom patterns changed, here or elsewhere; counts up.
    patterns_changed: tokio::sync::watch::Sender<u64>,
    /// The custom patterns as they were read last.
    known_patterns: Mutex<Option<BTreeSet<String>>>,
    /// Names this process in pushes.
    origin: String,
    settings: Settings,
    counts: Counts,
}

/// What happened on the way to Redis, for metrics.
#[derive(Debug, Default)]
struct Counts {
    failures: AtomicU64,
    reloads: AtomicU64,
    pushes: AtomicU64,
    listens: AtomicU64,
}

/// What happened on the way to Redis since the process started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RedisCounts {
    /// Calls that failed or came too late.
    pub failures: u64,
    /// Times the breaker opened.
    pub breaker_opened: u64,
    /// Scripts that the server had forgotten.
    pub script_reloads: u64,
    /// Changes that other replicas told us.
    pub pushes: u64,
    /// Times that listening to the other replicas began.
    pub listens: u64,
}

/// Names no secret.
impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("settings", &self.settings).field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Redis {
    /// State at the server that `settings` name. Connects when first asked; errors only about the settings.
    ///
    /// Run [`Redis::maintain`] beside it, else pushes and the bans of networks by others go unseen.
    pub fn new(settings: Settings) -> Result<Self, StateError> {
        let (settings, info) = settings.resolved()?;
        Ok(Self {
            links: Links::new(&settings, info)?,
            keys: Keys::new(&settings.prefix),
            breaker: Breaker::default(),
            allowances: Allowances::new(settings.clients),
            refuses_writes: AtomicBool::new(false),
            cache: BanCache::new(settings.clients, settings.ban_cache, settings.clean_cache),
            networks: Networks::default(),
            networks_changed: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            announces: AtomicBool::new(true),
            migrated: AtomicBool::new(false),
            provenance: Provenance::default(),
            patterns_changed: tokio::sync::watch::Sender::new(0),
            known_patterns: Mutex::default(),
            origin: uuid::Uuid::new_v4().simple().to_string(),
            settings,
            counts: Counts::default(),
        })
    }

    /// True while calls pass: Redis answered the last ones.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.breaker.is_closed()
    }

    /// Leaves it to somebody else to tell that Redis was lost or is back.
    pub(super) fn be_quiet(&self) {
        self.announces.store(false, Ordering::Relaxed);
    }

    /// True while changes by other replicas are heard.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Asks the server whether it is there and takes writes. Changes nothing.
    pub async fn ping(&self) -> Result<(), StateError> {
        let mut write = cmd("ZADD");
        write.arg(self.keys.named("envoy_guard", "probe")).arg("XX").arg(0).arg("probe");
        self.call(&write).await?;
        self.wrote();
        Ok(())
    }

    /// Finds out when Redis takes writes again, however few requests would. Never returns.
    async fn watch_writes(&self) {
        loop {
            sleep(jittered(PROBE_INTERVAL)).await;
            if self.refuses_writes.load(Ordering::Relaxed)
                && let Err(error) = self.ping().await
            {
                tracing::debug!(%error, "redis does not take writes");
            }
        }
    }

    /// Redis takes writes.
    fn wrote(&self) {
        self.refuses_writes.store(false, Ordering::Relaxed);
        self.answered();
    }

    /// Redis answered; says so once when it had been lost.
    fn answered(&self) {
        if self.breaker.succeeded() && self.announces.load(Ordering::Relaxed) {
            tracing::info!("redis is back");
        }
    }

    /// What happened on the way to Redis.
    #[must_use]
    pub fn counts(&self) -> RedisCounts {
        RedisCounts {
            failures: self.counts.failures.load(Ordering::Relaxed),
            breaker_opened: self.breaker.opened(),
            script_reloads: self.counts.reloads.load(Ordering::Relaxed),
            pushes: self.counts.pushes.load(Ordering::Relaxed),
            listens: self.counts.listens.load(Ordering::Relaxed),
        }
    }

    /// How full the memory of bans is.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let networks = Size { used: self.networks.len(), evicted: self.networks.evicted() };
        Sizes { bans: self.cache.size(), networks, rules: self.allowances.size(), ..Sizes::default() }
    }

    /// The ban of `client` that was known last: by ourselves, by a push, by an earlier answer. Asks nobody.
    #[must_use]
    pub fn known_ban(&self, client: Client<'_>, now: Timestamp) -> Option<Ban> {
        let exact = client.address().and_then(|addr| Some(banned(addr, self.cache.known_ban(addr, now)?)));
        exact.or_else(|| self.network_ban(client, now))
    }

    /// Forgets a ban here, not in Redis; true when one was known.
    pub(super) fn forget(&self, target: IpEntry, now: Timestamp) -> bool {
        let known = match target {
            IpEntry::Addr(addr) => self.cache.known_ban(addr, now).is_some(),
            IpEntry::Net(net) => self.networks.list(now).iter().any(|(other, _)| *other == net.trunc()),
        };
        self.apply(&Change::Unban { target }, now);
        known
    }

    fn network_ban(&self, client: Client<'_>, now: Timestamp) -> Option<Ban> {
        match client {
            Client::Address(addr) => self.networks.find(addr.ip(), now),
            Client::Zoned { addr, .. } => self.networks.find(addr.into(), now),
            Client::Text(_) | Client::Unknown => None,
        }
    }

    /// A ban that makes asking Redis needless.
    fn certain_ban(&self, client: Client<'_>, now: Timestamp) -> Option<Ban> {
        if let Some(addr) = client.address()
            && let Some(term) = self.cache.fresh_ban(addr, now)
        {
            return Some(banned(addr, term));
        }
        // Redis may hold a ban of the address itself too, but either is a reason to refuse.
        self.network_ban(client, now).and_then(|_| self.known_ban(client, now))
    }

    /// Runs a script, with its text when the server does not know it.
    async fn run(&self, script: &Script, keys: &[String], arguments: &[String]) -> Result<Value, StateError> {
        let start = Instant::now();
        match self.attempt(&script.by_name(keys, arguments), self.settings.deadline).await {
            Err(Failure::NoScript) => {
                self.counts.reloads.fetch_add(1, Ordering::Relaxed);
                // What is left of the one deadline.
                let left = self.settings.deadline.saturating_sub(start.elapsed());
                Ok(self.attempt(&script.by_text(keys, arguments), left).await?)
            }
            other => other.map_err(StateError::from),
        }
    }

    /// Sends one command for a request.
    async fn call(&self, command: &Cmd) -> Result<Value, StateError> {
        Ok(self.attempt(command, self.settings.deadline).await?)
    }

    /// Sends one command for an operator, who has more patience than a request.
    async fn call_patiently(&self, command: &Cmd) -> Result<Value, StateError> {
        Ok(self.attempt(command, self.patience()).await?)
    }

    fn patience(&self) -> Duration {
        self.settings.timeout.unwrap_or(PATIENCE_MAX)
    }

    /// The one place that waits for Redis: breaker, deadline, retries.
    async fn attempt(&self, command: &Cmd, deadline: Duration) -> Result<Value, Failure> {
        if !self.breaker.admits(Instant::now()) {
            return Err(Failure::State(StateError::Unavailable("redis did not answer lately".to_owned())));
        }
        let result = match timeout(deadline, self.send(command)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::State(StateError::Deadline)),
        };
        match &result {
            // A value we cannot use is an answer all the same.
            // Another server than the one that refused; the text that follows will show.
            Err(Failure::NoScript) => self.wrote(),
            Ok(_) | Err(Failure::State(StateError::Corrupt(_))) => {
                if self.refuses_writes.load(Ordering::Relaxed) {
                    self.breaker.inconclusive(Instant::now());
                } else {
                    self.answered();
                }
            }
            Err(failure) => {
                if matches!(failure, Failure::ReadOnly(_)) {
                    self.refuses_writes.store(true, Ordering::Relaxed);
                }
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
                if self.breaker.failed(Instant::now()) && self.announces.load(Ordering::Relaxed) {
                    tracing::warn!(error = %failure, "redis is lost, what needs it cannot be decided");
                }
                if matches!(result, Err(Failure::State(StateError::Deadline))) && !self.breaker.is_closed() {
                    // The path to the server may be dead without either end knowing.
                    self.links.discard_mine();
                }
            }
        }
        result
    }

    /// Sends on the connection of this thread; repeats on a new one when it broke. A repeated hit may count twice when
    /// only its answer was lost, never less than once.
    async fn send(&self, command: &Cmd) -> Result<Value, Failure> {
        let mut retries = self.settings.retries;
        loop {
            let (mut wire, open) = self.links.wire().await.map_err(Failure::State)?;
            let error = match wire.send(command).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if is_broken(&error) {
                self.links.discard(&open);
                if 0 < retries {
                    retries -= 1;
                    continue;
                }
            }
            return Err(Failure::of(&error));
        }
    }
}

/// Settlements that are on their way together.
const DEBTS_TOGETHER: usize = 200;
/// How often a server that refused to write is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for an operation outside requests when none is configured.
const PATIENCE_MAX: Duration = Duration::from_secs(30);

/// Why a command has no answer.
enum Failure {
    /// The server does not know the script.
    NoScript,
    /// The server answers and does not write.
    ReadOnly(StateError),
    /// Anything else.
    State(StateError),
}

impl Failure {
    fn of(error: &RedisError) -> Self {
        let detail = error.detail().unwrap_or_default();
        let unusable = matches!(error.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType)
            || ["WRONGTYPE", "CORRUPT"].iter().any(|code| error.code() == Some(code) || detail.contains(code))
            // An operation on a text that is no number.
            || detail.contains("is not an integer") || detail.contains("is not a valid float");
        // A script reports the refusal of its command in its own words.
        let refused = ["OOM", "READONLY", "MISCONF", "NOREPLICAS"]
            .iter()
            .any(|code| error.code() == Some(code) || detail.contains(code) || detail.contains("read only replica"));
        match error.kind() {
            _ if refused => Self::ReadOnly(StateError::Unavailable(describe(error))),
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::NoScript,
            _ if unusable => Self::State(StateError::Corrupt(describe(error))),
            _ if error.is_timeout() => Self::State(StateError::Deadline),
            _ => Self::State(StateError::Unavailable(describe(error))),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoScript => f.write_str("redis forgot a script"),
            Self::ReadOnly(error) | Self::State(error) => error.fmt(f),
        }
    }
}

impl From<Failure> for StateError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoScript => Self::Unavailable("redis forgot a script twice".to_owned()),
            Failure::ReadOnly(error) | Failure::State(error) => error,
        }
    }
}

/// True when another connection may do better: this one is gone, or leads to a server that is no longer the master.
fn is_broken(error: &RedisError) -> bool {
    let demoted = [ServerErrorKind::ReadOnly, ServerErrorKind::MasterDown].map(ErrorKind::Server);
    error.is_connection_dropped()
        || (error.is_io_error() && !error.is_timeout())
        || error.is_unrecoverable_error()
        || demoted.contains(&error.kind())
        // A script reports the refusal of its command as its own error.
        || error.detail().is_some_and(|detail| detail.contains("READONLY") || detail.contains("read only replica"))
}

fn parsed<T: FromRedisValue>(value: Value) -> Result<T, StateError> {
    T::from_redis_value(value).map_err(|_| StateError::Corrupt("redis answered in an unexpected form".to_owned()))
}

fn banned(addr: ClientAddr, term: Term) -> Ban {
    Ban { target: IpEntry::Addr(addr), until: Timestamp(term.until), reason: term.reason.as_deref().map(str::to_owned) }
}

impl State for Redis {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Answer, StateError> {
        if !question.passive
            && let Some(ban) = question.ban.and_then(|client| self.certain_ban(client, now))
        {
            return Ok(Answer { ban: Some(ban), ..Answer::default() });
        }
        // Networks are known here: whoever is banned by one has been refused above.
        let local = self.answer_locally(question, now);
        let is_refused = local.iter().any(|(rule, known)| !rule.shadow && known.is_some_and(|known| known.exceeded));
        let tests: SmallVec<[Test; 2]> = local
            .iter()
            .filter(|(_, known)| known.is_none())
            .map(|(rule, _)| Test {
                rule: *rule,
                peek: is_refused,
                settle: if rule.cached { self.allowances.take_unsettled(rule) } else { Vec::new() },
            })
            .collect();
        let watches = if is_refused { &[] } else { question.watches.as_slice() };
        let mark = watches.iter().any(|watch| watch.hits).then(Mark::new);
        let is_asking = !question.limits.is_empty() || !tests.is_empty() || !watches.is_empty();
        let lookup = question.ban.filter(|client| !self.is_surely_clean(*client, is_asking, now));
        let key = lookup.and_then(|client| self.keys.ban_of(client));
        let provenance = self.provenance();
        let told = if key.is_none() && !is_asking {
            Ok(Told::default())
        } else {
            let (limits, onward) = (&question.limits, question.passive);
            self.ask_redis(&Inquiry { ban: key.as_deref(), limits, rules: &tests, watches, mark, onward, now }).await
        };
        let told = self.settle(&local, &tests, told, now)?;
        // A Redis that may have lost its data does not end a ban that is known here.
        let is_certain = provenance.is_some() && provenance == self.provenance();
        let kept = lookup.and_then(|client| client.address()).filter(|_| told.until.is_none() && !is_certain);
        let kept = kept.and_then(|addr| Some(banned(addr, self.cache.known_ban(addr, now)?)));
        let exact = kept.or_else(|| lookup.and_then(|client| self.learn(client, told.until, now)));
        let ban = exact.or_else(|| question.ban.and_then(|client| self.network_ban(client, now)));
        let mark = mark.filter(|_| !told.watched.is_empty());
        let mut answer = Answer { ban, counts: told.counts, watched: told.watched, mark, ..Answer::default() };
        if question.passive || (answer.ban.is_none() && !exceeds(&question.limits, &answer.counts)) {
            let mut asked = told.rules.into_iter();
            answer.rules.extend(local.iter().filter_map(|(_, known)| known.or_else(|| asked.next())));
        }
        Ok(answer)
    }

    async fn ban(&self, target: IpEntry, window: Window, reason: &str, now: Timestamp) -> Result<(), StateError> {
        let (until, reason) = (now.plus(f64::from(window.seconds())), short_reason(reason));
        let change = Change::Ban { target, until: until.0, reason: Some(reason.to_owned()) };
        // Known here at once, whatever becomes of the write.
        self.apply(&change, now);
        let arguments =
            [moment(until), window.seconds().to_string(), self.keys.channel(), change.message(&self.origin)];
        let mut keys = vec![self.keys.ban(target)];
        let counts = match target {
            IpEntry::Addr(addr) => Some(self.keys.suspicion(Client::Address(addr))),
            IpEntry::Net(_) => None,
        };
        match counts {
            // The two keys may lie on different nodes.
            Some(counts) if self.links.is_cluster() => {
                let mut forget = cmd("DEL");
                forget.arg(counts);
                let (banned, forgotten) = tokio::join!(self.run(&script::BAN, &keys, &arguments), self.call(&forget));
                banned.and(forgotten)?;
            }
            counts => {
                keys.extend(counts);
                self.run(&script::BAN, &keys, &arguments).await?;
            }
        }
        self.wrote();
        Ok(())
    }

    async fn unban(&self, target: IpEntry, now: Timestamp) -> Result<bool, StateError> {
        let change = Change::Unban { target };
        let arguments = [moment(now), self.keys.channel(), change.message(&self.origin)];
        let lifted: u8 = parsed(self.run(&script::UNBAN, &[self.keys.ban(target)], &arguments).await?)?;
        self.apply(&change, now);
        Ok(lifted == 1)
    }

    async fn bans(&self, from: Option<&str>, limit: usize, now: Timestamp) -> Result<BanPage, StateError> {
        let mut bans = self.read_bans(now).await?;
        bans.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let start = from.map_or(0, |from| bans.partition_point(|(name, _)| name.as_str() < from));
        let mut rest = bans.into_iter().skip(start);
        let page = rest.by_ref().take(limit).map(|(_, ban)| ban).collect();
        Ok(BanPage { bans: page, next: rest.next().map(|(name, _)| name) })
    }

    async fn suspect(
        &self,
        client: Client<'_>,
        categories: CategorySet,
        now: Timestamp,
    ) -> Result<Suspicion, StateError> {
        let categories = if categories.is_empty() { categories.with(Category::UNCATEGORIZED) } else { categories };
        let until = now.plus(f64::from(SUSPICION_SECONDS));
        let mut arguments = vec![moment(now), moment(until), SUSPICION_SECONDS.to_string()];
        arguments.extend(categories.iter().map(|category| category.name().to_owned()));
        let counts: Vec<u64> = parsed(self.run(&script::SUSPECT, &[self.keys.suspicion(client)], &arguments).await?)?;
        let (total, each) = counts.split_first().ok_or_else(|| StateError::Corrupt("no counts".to_owned()))?;
        Ok(Suspicion { by_category: categories.iter().zip(each.iter().copied()).collect(), total: *total })
    }

    async fn absolve(&self, client: Client<'_>) -> Result<(), StateError> {
        let mut forget = cmd("DEL");
        forget.arg(self.keys.suspicion(client));
        self.call(&forget).await.map(drop)
    }

    async fn suspicion(&self, client: Client<'_>, now: Timestamp) -> Result<u64, StateError> {
        let mut read = cmd("HMGET");
        read.arg(self.keys.suspicion(client)).arg("total").arg("until");
        let (total, until): (Option<u64>, Option<String>) = parsed(self.call(&read).await?)?;
        let in_time = until.and_then(|until| read_moment(&until)).is_some_and(|until| now <= until);
        Ok(total.filter(|_| in_time).unwrap_or_default())
    }

    async fn observe(&self, track: Track<'_>, window: Window, now: Timestamp) -> Result<u64, StateError> {
        let member = uuid::Uuid::new_v4().simple().to_string();
        let arguments = [moment(now), window.seconds().to_string(), member];
        parsed(self.run(&script::OBSERVE, &[self.keys.track(track)], &arguments).await?)
    }

    async fn withdraw(&self, tracks: &[Track<'_>], mark: Mark) -> Result<(), StateError> {
        self.take_back(tracks, mark).await
    }

    async fn reset_bans(&self) -> Result<(), StateError> {
        for family in ["banned_ips", "banned_networks"] {
            self.delete_matching(family, "*").await?;
        }
        self.publish(&Change::Reset).await;
        self.apply(&Change::Reset, Timestamp(0.0));
        Ok(())
    }

    async fn reset_limits(&self) -> Result<(), StateError> {
        self.delete_matching("rate_limit", "rate:*").await?;
        self.delete_matching("envoy_guard", "limit:*").await?;
        self.allowances.clear();
        Ok(())
    }
}

impl Redis {
    /// What is known here about each rule; `None` where Redis must be asked.
    fn answer_locally(&self, question: &Question<'_>, now: Timestamp) -> SmallVec<[(Rule, Option<Standing>); 2]> {
        let may = |rule: &Rule| rule.cached && !question.passive;
        question
            .rules
            .iter()
            .map(|rule| (*rule, if may(rule) { self.allowances.answer(rule, now) } else { None }))
            .collect()
    }

    /// Learns what Redis said about cached rules. What was admitted here is taken back when the request is refused, and
    /// what was to be settled is kept when Redis did not answer.
    fn settle(
        &self,
        local: &[(Rule, Option<Standing>)],
        tests: &[Test],
        told: Result<Told, StateError>,
        now: Timestamp,
    ) -> Result<Told, StateError> {
        let refuses = |rule: &Rule, standing: &Standing| standing.exceeded && !rule.shadow;
        let is_admitted = told.as_ref().is_ok_and(|told| {
            !told.is_refused
                && !tests.iter().zip(&told.rules).any(|(test, standing)| refuses(&test.rule, standing))
                && !local.iter().any(|(rule, known)| known.is_some_and(|known| refuses(rule, &known)))
        });
        for (test, place) in tests.iter().zip(0..).filter(|(test, _)| test.rule.cached) {
            match told.as_ref().ok().and_then(|told| told.rules.get(place)) {
                Some(standing) => self.allowances.learn(&test.rule, standing, test.settle.len(), now),
                None => self.allowances.keep_unsettled(&test.rule, test.settle.clone()),
            }
        }
        if !is_admitted {
            for (rule, _) in local.iter().filter(|(_, known)| known.is_some_and(|known| !known.exceeded)) {
                self.allowances.take_back(rule, now);
            }
        }
        told
    }

    /// Records in Redis what was admitted here, and learns how the rules stand.
    pub(super) async fn settle_debts(&self, now: Timestamp) {
        let debts = self.allowances.take_debts();
        for batch in debts.chunks(DEBTS_TOGETHER) {
            join_all(batch.iter().map(|rule| async move {
                let settle = self.allowances.take_unsettled(rule);
                let tests = [Test { rule: *rule, peek: true, settle }];
                let inquiry =
                    Inquiry { ban: None, limits: &[], rules: &tests, watches: &[], mark: None, onward: false, now };
                let told = self.ask_redis(&inquiry).await;
                if let Err(error) = self.settle(&[], &tests, told, now) {
                    tracing::debug!(%error, "cached limits were not settled");
                }
            }))
            .await;
        }
    }

    /// True when the ban list need not be asked: the client is known to be clean, we would have been told of a ban by a
    /// replica, and there is no question that goes to Redis anyway.
    fn is_surely_clean(&self, client: Client<'_>, is_asking: bool, now: Timestamp) -> bool {
        let free_of_charge = !self.links.is_cluster() && is_asking;
        !free_of_charge
            && self.listening.load(Ordering::Relaxed)
            && client.address().is_some_and(|addr| self.cache.is_clean(addr, now))
    }

    /// Remembers what Redis said about a client and returns the ban in force.
    fn learn(&self, client: Client<'_>, until: Option<Timestamp>, now: Timestamp) -> Option<Ban> {
        match (client, until) {
            (Client::Address(addr), Some(until)) => {
                let reason = self.cache.confirm(addr, until, now);
                Some(banned(addr, Term { until: until.0, reason }))
            }
            (Client::Address(addr), None) => {
                self.cache.clean(addr, now);
                None
            }
            (Client::Zoned { addr, .. }, Some(until)) => {
                Some(Ban { target: IpEntry::Addr(std::net::IpAddr::V6(addr).into()), until, reason: None })
            }
            (Client::Zoned { .. } | Client::Text(_) | Client::Unknown, _) => None,
        }
    }

    /// Every ban in force with its name, read from Redis.
    async fn read_bans(&self, now: Timestamp) -> Result<Vec<(String, Ban)>, StateError> {
        let mut bans = Vec::new();
        for family in ["banned_ips", "banned_networks"] {
            for (name, value) in self.read_matching(family, "*").await? {
                let (Ok(target), Some(until)) = (name.parse::<IpEntry>(), read_moment(&value)) else { continue };
                if now <= until {
                    let known = self.known_reason(target, now);
                    bans.push((name, Ban { target, until, reason: known }));
                }
            }
        }
        Ok(bans)
    }

    fn known_reason(&self, target: IpEntry, now: Timestamp) -> Option<String> {
        let IpEntry::Addr(addr) = target else { return None };
        self.cache.known_ban(addr, now)?.reason.as_deref().map(str::to_owned)
    }
}
