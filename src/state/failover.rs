//! Memory takes over while Redis is away, and hands back when it is well. Knows nothing of how Redis is reached.
//!
//! Bans that are known here keep holding through the change in both directions: those of Redis from what this replica
//! remembers, those made meanwhile by writing them to Redis afterwards. Counts start anew on each side.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::addr::{Client, IpEntry};
use crate::model::category::CategorySet;
use crate::model::time::{Timestamp, Window};
use crate::state::breaker::jittered;
use crate::state::memory::Memory;
use crate::state::redis::Redis;
use crate::state::{Answer, BanPage, Mark, Patterns, Question, State, StateError, Suspicion, Track};

/// Unbans that wait for Redis at most; beyond it an unban reports that Redis is away.
const PENDING_MAX: usize = 1000;
/// How often it is looked whether there is something to hand back.
const HAND_BACK_INTERVAL: Duration = Duration::from_millis(500);
/// Bans read from memory at a time when handing back.
const PAGE: usize = 500;

/// Redis with memory to fall back on.
#[derive(Debug)]
pub struct Failover {
    redis: Redis,
    memory: Memory,
    degraded: AtomicBool,
    calls: AtomicU64,
    episodes: AtomicU64,
    pending: Mutex<Vec<IpEntry>>,
}

/// How often memory stood in since the process started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FailoverCounts {
    /// Calls that memory answered.
    pub calls: u64,
    /// Times Redis was lost.
    pub episodes: u64,
}

impl Failover {
    /// `redis`, and `memory` when it is away.
    #[must_use]
    pub fn new(redis: Redis, memory: Memory) -> Self {
        redis.be_quiet();
        Self {
            redis,
            memory,
            degraded: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            episodes: AtomicU64::new(0),
            pending: Mutex::default(),
        }
    }

    /// True while memory stands in.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    /// How often memory stood in.
    #[must_use]
    pub fn counts(&self) -> FailoverCounts {
        FailoverCounts { calls: self.calls.load(Ordering::Relaxed), episodes: self.episodes.load(Ordering::Relaxed) }
    }

    /// The shared side.
    #[must_use]
    pub const fn redis(&self) -> &Redis {
        &self.redis
    }

    /// The side of this process.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Listens for changes by other replicas, notices when Redis is back, and hands over what was decided meanwhile.
    /// Never returns; run one beside the service.
    pub async fn maintain(&self, clock: impl Fn() -> Timestamp + Send + Sync) {
        let hand_back = async {
            loop {
                tokio::time::sleep(jittered(HAND_BACK_INTERVAL)).await;
                if self.is_degraded() {
                    if self.redis.ping().await.is_ok() {
                        self.note_well();
                    }
                } else if !self.redis.is_well() {
                    // Lost although no request asked.
                    self.note_degraded(&StateError::Unavailable("redis does not answer".to_owned()));
                }
                if !self.is_degraded()
                    && let Err(error) = self.hand_back(clock()).await
                {
                    tracing::debug!(%error, "decisions were not handed back to redis");
                }
            }
        };
        tokio::join!(self.redis.maintain(&clock), hand_back);
    }

    /// Writes to Redis what was banned and lifted while it was away.
    async fn hand_back(&self, now: Timestamp) -> Result<(), StateError> {
        loop {
            let Some(target) = self.pending().last().copied() else { break };
            self.redis.unban(target, now).await?;
            self.pending().retain(|other| *other != target);
        }
        while self.memory.has_bans() {
            let page = self.memory.bans(None, PAGE, now).await?;
            for ban in &page.bans {
                // Rounded up: a ban must not end earlier because Redis was away.
                let left = ban.until.since(now).ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
                let Some(window) = Window::new(left) else { continue };
                self.redis.ban(ban.target, window, ban.reason.as_deref().unwrap_or_default(), now).await?;
                self.memory.unban(ban.target, now).await?;
            }
            if page.bans.is_empty() {
                // Only bans that ended are left.
                return self.memory.reset_bans().await;
            }
        }
        Ok(())
    }

    /// Redis answered a call.
    fn note_well(&self) {
        if self.is_degraded() && self.redis.is_well() && self.degraded.swap(false, Ordering::Relaxed) {
            tracing::info!("redis is back, memory hands over");
        }
    }

    /// Redis did not answer a call; memory will.
    fn note_lost(&self, error: &StateError) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.note_degraded(error);
    }

    fn note_degraded(&self, error: &StateError) {
        if !self.redis.is_well() && !self.degraded.swap(true, Ordering::Relaxed) {
            self.episodes.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "redis is lost, memory takes over");
        }
    }

    fn pending(&self) -> MutexGuard<'_, Vec<IpEntry>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer of Redis, or `instead` when there is none.
    async fn either<T>(
        &self,
        answer: Result<T, StateError>,
        instead: impl Future<Output = Result<T, StateError>>,
    ) -> Result<T, StateError> {
        match answer {
            Ok(answer) => {
                self.note_well();
                Ok(answer)
            }
            // A question that makes no sense makes none to memory either.
            Err(error @ StateError::Refused(_)) => Err(error),
            Err(error) => {
                self.note_lost(&error);
                instead.await
            }
        }
    }
}

impl State for Failover {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Answer, StateError> {
        let stand_in = async {
            let known = question.ban.and_then(|client| self.redis.known_ban(client, now));
            if known.is_some() && !question.passive {
                return Ok(Answer { ban: known, ..Answer::default() });
            }
            let answer = self.memory.ask(question, now).await?;
            Ok(Answer { ban: answer.ban.or(known), ..answer })
        };
        let mut answer = self.either(self.redis.ask(question, now).await, stand_in).await?;
        if answer.ban.is_none() && self.memory.has_bans() {
            // Banned while Redis was away and not handed back yet.
            let only_ban = Question { ban: question.ban, ..Question::default() };
            answer.ban = self.memory.ask(&only_ban, now).await?.ban;
        }
        Ok(answer)
    }

    async fn ban(&self, target: IpEntry, window: Window, reason: &str, now: Timestamp) -> Result<(), StateError> {
        self.pending().retain(|other| *other != target);
        self.either(self.redis.ban(target, window, reason, now).await, self.memory.ban(target, window, reason, now))
            .await
    }

    async fn unban(&self, target: IpEntry, now: Timestamp) -> Result<bool, StateError> {
        let was_here = self.memory.unban(target, now).await?;
        match self.redis.unban(target, now).await {
            Ok(was_there) => Ok(was_here || was_there),
            Err(error) => {
                self.note_lost(&error);
                let was_known = self.redis.forget(target, now);
                let mut pending = self.pending();
                if PENDING_MAX <= pending.len() {
                    return Err(error);
                }
                pending.push(target);
                Ok(was_here || was_known)
            }
        }
    }

    async fn bans(&self, from: Option<&str>, limit: usize, now: Timestamp) -> Result<BanPage, StateError> {
        self.either(self.redis.bans(from, limit, now).await, self.memory.bans(from, limit, now)).await
    }

    async fn suspect(
        &self,
        client: Client<'_>,
        categories: CategorySet,
        now: Timestamp,
    ) -> Result<Suspicion, StateError> {
        let answer = self.redis.suspect(client, categories, now).await;
        self.either(answer, self.memory.suspect(client, categories, now)).await
    }

    async fn absolve(&self, client: Client<'_>) -> Result<(), StateError> {
        self.memory.absolve(client).await?;
        self.either(self.redis.absolve(client).await, async { Ok(()) }).await
    }

    async fn suspicion(&self, client: Client<'_>, now: Timestamp) -> Result<u64, StateError> {
        self.either(self.redis.suspicion(client, now).await, self.memory.suspicion(client, now)).await
    }

    async fn observe(&self, track: Track<'_>, window: Window, now: Timestamp) -> Result<u64, StateError> {
        self.either(self.redis.observe(track, window, now).await, self.memory.observe(track, window, now)).await
    }

    async fn withdraw(&self, tracks: &[Track<'_>], mark: Mark) -> Result<(), StateError> {
        // Redis recorded it or memory did: an entry that is not there is none to take back.
        self.either(self.redis.withdraw(tracks, mark).await, self.memory.withdraw(tracks, mark)).await
    }

    /// Fails when Redis is away: what it holds would come back.
    async fn reset_bans(&self) -> Result<(), StateError> {
        self.memory.reset_bans().await?;
        self.redis.reset_bans().await
    }

    /// Fails when Redis is away: what it holds would come back.
    async fn reset_limits(&self) -> Result<(), StateError> {
        self.memory.reset_limits().await?;
        self.redis.reset_limits().await
    }
}

/// Patterns are changed by people, who can try again: while Redis is away a change fails, so that no two replicas
/// disagree afterwards. What was read last is still known.
impl Patterns for Failover {
    async fn patterns(&self) -> Result<BTreeSet<String>, StateError> {
        match self.redis.patterns().await {
            Err(error) => self.redis.known_patterns().ok_or(error),
            read => read,
        }
    }

    async fn add_pattern(&self, pattern: &str) -> Result<bool, StateError> {
        self.redis.add_pattern(pattern).await
    }

    async fn remove_pattern(&self, pattern: &str) -> Result<bool, StateError> {
        self.redis.remove_pattern(pattern).await
    }

    async fn clear_patterns(&self) -> Result<(), StateError> {
        self.redis.clear_patterns().await
    }

    fn patterns_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.redis.patterns_changed()
    }
}
