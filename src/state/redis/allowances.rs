//! Cached rules: what this replica may admit on its own, and what it has not told Redis yet.
//!
//! After every answer of Redis this replica knows how many requests have room. A tenth of that, at most
//! [`allowance`], it may admit without asking; their moments are kept and recorded with the next question or by the
//! settlement in the background, whichever comes first. Granted and unsettled requests together never exceed the
//! allowance, which bounds what all replicas can admit beyond the limit.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use crate::model::time::Timestamp;
use crate::state::lru::{Lru, Quota};
use crate::state::{Digest, Rule, Standing, allowance};

const SHARDS: usize = 16;
/// Seconds for which a known refusal is repeated without asking: a reset of limits by another replica is seen by then.
const REFUSAL_SECONDS: f64 = 1.0;

/// What is known about one key.
#[derive(Debug, Default)]
struct Known {
    /// Requests that may still be admitted here.
    left: u32,
    /// Moments of admitted requests that Redis does not know.
    unsettled: Vec<f64>,
    /// How many of them are on their way to Redis.
    sent: u32,
    /// Requests in the window when Redis was asked, and those admitted here since.
    count: u64,
    /// When the oldest request leaves the window.
    room_at: f64,
    /// Until when the key is known to be full.
    full_until: f64,
    /// When the grant ends, whatever is left of it.
    until: f64,
}

/// Bounded memory of allowances.
#[derive(Debug)]
pub(super) struct Allowances {
    shards: Box<[Mutex<Lru<Digest, Known>>]>,
    hasher: RandomState,
    quota: Quota,
    /// Rules of the keys with unsettled requests.
    debts: Mutex<Vec<Rule>>,
}

impl Allowances {
    /// Remembers at most `keys` keys; the least recently used goes first, and with it what it had not settled.
    pub(super) fn new(keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            quota: Quota::new(keys.max(1)),
            debts: Mutex::default(),
        }
    }

    /// Answers for a rule without asking: admits out of the allowance, or repeats a refusal. `None`: Redis must be asked.
    pub(super) fn answer(&self, rule: &Rule, now: Timestamp) -> Option<Standing> {
        let mut shard = self.shard(rule.key);
        let known = shard.get(&rule.key)?;
        let reset = (known.room_at - now.0).max(0.0);
        if now.0 < known.full_until {
            return Some(Standing { count: known.count, exceeded: true, reset });
        }
        if known.left == 0 || known.until <= now.0 {
            return None;
        }
        known.left -= 1;
        known.count += 1;
        known.unsettled.push(now.0);
        let standing = Standing { count: known.count, exceeded: false, reset };
        let is_new_debt = known.unsettled.len() == 1;
        drop(shard);
        if is_new_debt {
            self.debts().push(*rule);
        }
        Some(standing)
    }

    /// Takes back a request that [`Allowances::answer`] admitted and something else refused.
    pub(super) fn take_back(&self, rule: &Rule, now: Timestamp) {
        let mut shard = self.shard(rule.key);
        let Some(known) = shard.get(&rule.key) else { return };
        let Some(at) = known.unsettled.iter().rposition(|at| *at == now.0) else { return };
        known.unsettled.swap_remove(at);
        known.left += 1;
        known.count = known.count.saturating_sub(1);
    }

    /// Moments to record in Redis with the next question about the rule. To be settled or returned.
    pub(super) fn take_unsettled(&self, rule: &Rule) -> Vec<f64> {
        let mut shard = self.shard(rule.key);
        let Some(known) = shard.get(&rule.key) else { return Vec::new() };
        let moments = std::mem::take(&mut known.unsettled);
        known.sent += moments.len() as u32;
        moments
    }

    /// Keeps moments that could not be recorded.
    pub(super) fn keep_unsettled(&self, rule: &Rule, moments: Vec<f64>) {
        if moments.is_empty() {
            return;
        }
        let mut shard = self.shard(rule.key);
        let known = shard.get_or_default(rule.key, &self.quota);
        let is_new_debt = known.unsettled.is_empty();
        known.sent = known.sent.saturating_sub(moments.len() as u32);
        known.unsettled.extend(moments);
        drop(shard);
        if is_new_debt {
            self.debts().push(*rule);
        }
    }

    /// Remembers what Redis said about a rule when it recorded so many moments, and grants the next allowance.
    pub(super) fn learn(&self, rule: &Rule, standing: &Standing, settled: usize, now: Timestamp) {
        let mut shard = self.shard(rule.key);
        let known = shard.get_or_default(rule.key, &self.quota);
        known.sent = known.sent.saturating_sub(settled as u32);
        let unsettled = known.unsettled.len() as u32 + known.sent;
        let counted = standing.count + u64::from(unsettled);
        // Before the oldest request leaves no count can fall: a lower one is the answer to an earlier question.
        known.count = if now.0 < known.room_at { known.count.max(counted) } else { counted };
        let room = u64::from(rule.limit).saturating_sub(known.count);
        let share = u32::try_from(room).unwrap_or(u32::MAX).min(allowance(rule.limit));
        known.left = share.saturating_sub(unsettled);
        known.room_at = now.0 + standing.reset;
        known.until = now.0 + f64::from(rule.window.seconds());
        let is_full = u64::from(rule.limit) <= standing.count;
        known.full_until = if is_full { known.room_at.min(now.0 + REFUSAL_SECONDS) } else { 0.0 };
    }

    /// The keys with something to settle since the last call.
    pub(super) fn take_debts(&self) -> Vec<Rule> {
        std::mem::take(&mut *self.debts())
    }

    /// Forgets everything: the limits were reset.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear(&self.quota);
        }
        self.debts().clear();
    }

    /// Keys remembered, and those that had to go.
    pub(super) fn size(&self) -> crate::state::Size {
        crate::state::Size { used: self.quota.used(), evicted: self.quota.evicted() }
    }

    fn debts(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder by the number of shards is a shard")]
    fn shard(&self, key: Digest) -> MutexGuard<'_, Lru<Digest, Known>> {
        let number = self.hasher.hash_one(key) as usize % self.shards.len();
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Window;

    fn rule(limit: u32) -> Rule {
        Rule { key: Digest([1; 32]), limit, window: Window::new(60).unwrap(), shadow: false, cached: true }
    }

    fn standing(count: u64) -> Standing {
        Standing { count, exceeded: false, reset: 60.0 }
    }

    #[test]
    fn an_allowance_is_a_tenth_of_the_limit_and_never_more_than_there_is_room() {
        for (limit, count, expected) in [(100, 1, 10), (100, 95, 5), (100, 100, 0), (5, 1, 1), (5000, 1, 100)] {
            let (allowances, now) = (Allowances::new(10), Timestamp(100.0));
            assert_eq!(allowances.answer(&rule(limit), now), None, "nothing is known");
            allowances.learn(&rule(limit), &standing(count), 0, now);
            let admitted = (0..200).map_while(|_| allowances.answer(&rule(limit), now).filter(|known| !known.exceeded));
            assert_eq!(admitted.count(), expected, "{count} of {limit}");
        }
    }

    #[test]
    fn unsettled_requests_count_against_the_next_allowance() {
        let (allowances, now) = (Allowances::new(10), Timestamp(100.0));
        allowances.learn(&rule(100), &standing(1), 0, now);
        for _ in 0..4 {
            allowances.answer(&rule(100), now).unwrap();
        }
        allowances.learn(&rule(100), &standing(1), 0, now);
        assert_eq!((0..20).map_while(|_| allowances.answer(&rule(100), now)).count(), 6);
        assert_eq!(allowances.take_unsettled(&rule(100)).len(), 10);
        assert_eq!(allowances.take_debts().len(), 1);
    }

    #[test]
    fn an_answer_that_comes_late_grants_nothing_twice() {
        let (allowances, now) = (Allowances::new(10), Timestamp(100.0));
        allowances.learn(&rule(100), &standing(100), 0, now);
        allowances.learn(&rule(100), &Standing { reset: 58.5, ..standing(90) }, 0, Timestamp(101.5));
        assert!(allowances.answer(&rule(100), Timestamp(101.5)).is_none());
        allowances.learn(&rule(100), &standing(90), 0, Timestamp(160.0));
        assert!(allowances.answer(&rule(100), Timestamp(160.0)).is_some());
    }

    #[test]
    fn a_full_key_is_refused_until_there_may_be_room_but_not_longer_than_a_second() {
        let allowances = Allowances::new(10);
        allowances.learn(&rule(5), &Standing { count: 5, exceeded: true, reset: 0.5 }, 0, Timestamp(100.0));
        assert!(allowances.answer(&rule(5), Timestamp(100.4)).unwrap().exceeded);
        assert_eq!(allowances.answer(&rule(5), Timestamp(100.5)), None);
        allowances.learn(&rule(5), &Standing { count: 5, exceeded: true, reset: 30.0 }, 0, Timestamp(100.0));
        assert_eq!(allowances.answer(&rule(5), Timestamp(101.0)), None);
    }

    #[test]
    fn what_something_else_refused_is_taken_back() {
        let (allowances, now) = (Allowances::new(10), Timestamp(100.0));
        allowances.learn(&rule(10), &standing(1), 0, now);
        assert_eq!(allowances.answer(&rule(10), now).unwrap().count, 2);
        allowances.take_back(&rule(10), now);
        assert_eq!(allowances.answer(&rule(10), now).unwrap().count, 2);
        assert_eq!(allowances.take_unsettled(&rule(10)).len(), 1);
    }
}
