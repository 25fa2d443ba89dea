//! The questions of one request as script calls: one for a single server, one for each key on a Cluster.

use std::pin::Pin;
use std::task::Poll;

use deadpool_redis::redis::cmd;
use smallvec::SmallVec;

use crate::model::time::Timestamp;
use crate::state::keys::{moment, read_moment};
use crate::state::redis::{Redis, parsed, script};
use crate::state::{Limit, StateError};

/// The answer of the script: the ban's expiry, the members added, the counts.
type Reply = (Option<String>, Vec<String>, Vec<u64>);

impl Redis {
    /// Looks up the ban at `ban` and hits the limits. All of them are hit when `onward`.
    pub(super) async fn ask_redis(
        &self,
        ban: Option<&str>,
        limits: &[Limit<'_>],
        onward: bool,
        now: Timestamp,
    ) -> Result<(Option<Timestamp>, SmallVec<[u64; 4]>), StateError> {
        let numbers = numbered(limits);
        let buckets = numbers.iter().max().copied().unwrap_or_default();
        let firsts = (1..=buckets).filter_map(|number| of_bucket(limits, &numbers, number).next());
        let keys: Vec<String> = firsts.map(|limit| self.keys.bucket(limit.bucket)).collect();
        let (until, counts) = if self.links.is_cluster() && 1 < keys.len() + usize::from(ban.is_some()) {
            self.ask_cluster(ban, (limits, &numbers, &keys), onward, now).await?
        } else {
            let all: Vec<String> = ban.map(str::to_owned).into_iter().chain(keys).collect();
            let plan = limits.iter().zip(numbers.iter().copied());
            let (until, _, counts) = self.ask_script(&all, &arguments(ban.is_some(), plan, onward, now)).await?;
            (until, counts.into_iter().collect())
        };
        let until =
            until.map(|text| read_moment(&text).ok_or_else(|| StateError::Corrupt("a ban's moment".to_owned())));
        Ok((until.transpose()?, counts))
    }

    async fn ask_script(&self, keys: &[String], arguments: &[String]) -> Result<Reply, StateError> {
        parsed(self.run(&script::ASK, keys, arguments).await?)
    }

    /// Asks for all keys at once. Hits that should not have happened, because the client is banned or an earlier limit
    /// is exceeded, are taken back: only a refused request pays a second round trip. Until then another request of the
    /// same client may see them, so a Cluster may refuse a little too much, never too little.
    async fn ask_cluster(
        &self,
        ban: Option<&str>,
        (limits, numbers, keys): (&[Limit<'_>], &[usize], &[String]),
        onward: bool,
        now: Timestamp,
    ) -> Result<(Option<String>, SmallVec<[u64; 4]>), StateError> {
        let lookup = async {
            let Some(ban) = ban else { return Ok(Reply::default()) };
            self.ask_script(&[ban.to_owned()], &arguments(true, std::iter::empty(), true, now)).await
        };
        let hits = keys.iter().zip(1..).map(|(key, number)| {
            let own = of_bucket(limits, numbers, number).map(|limit| (limit, 1));
            let arguments = arguments(false, own, true, now);
            async move { self.ask_script(std::slice::from_ref(key), &arguments).await }
        });
        let (lookup, hits) = tokio::join!(lookup, join_all(hits));
        let (until, ..) = lookup?;
        let hits = hits.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut given: Vec<_> = hits.iter().map(|(_, _, counts)| counts.iter().copied()).collect();
        let mut counts = SmallVec::new();
        let mut reached = 0;
        if until.is_none() || onward {
            for (limit, number) in limits.iter().zip(numbers) {
                let count = given.get_mut(number - 1).and_then(Iterator::next).unwrap_or_default();
                counts.push(count);
                reached = reached.max(*number);
                if u64::from(limit.limit) < count && !onward {
                    break;
                }
            }
        }
        let surplus = keys.iter().zip(&hits).skip(reached);
        join_all(surplus.map(|(key, (_, members, _))| async move {
            let mut undo = cmd("ZREM");
            undo.arg(key).arg(members);
            self.call(&undo).await
        }))
        .await;
        Ok((until, counts))
    }
}

/// The number of each limit's bucket, counted from one in order of appearance.
fn numbered(limits: &[Limit<'_>]) -> SmallVec<[usize; 4]> {
    let mut numbers = SmallVec::<[usize; 4]>::new();
    for (place, limit) in limits.iter().enumerate() {
        let earlier = limits.iter().take(place).position(|earlier| earlier.bucket == limit.bucket);
        let known = earlier.and_then(|at| numbers.get(at).copied());
        numbers.push(known.unwrap_or_else(|| numbers.iter().max().map_or(1, |last| last + 1)));
    }
    numbers
}

fn of_bucket<'l, 'r>(
    limits: &'l [Limit<'r>],
    numbers: &'l [usize],
    number: usize,
) -> impl Iterator<Item = &'l Limit<'r>> + Clone {
    limits.iter().zip(numbers).filter(move |(_, own)| **own == number).map(|(limit, _)| limit)
}

/// The script's arguments for limits with the numbers of their buckets.
fn arguments<'l, 'r: 'l>(
    ban: bool,
    plan: impl Iterator<Item = (&'l Limit<'r>, usize)> + Clone,
    onward: bool,
    now: Timestamp,
) -> Vec<String> {
    let flag = |set: bool| u8::from(set).to_string();
    let mut arguments = vec![moment(now), flag(ban), flag(onward)];
    for (limit, number) in plan.clone() {
        let longest = plan.clone().filter(|(_, other)| *other == number).map(|(limit, _)| limit.window.seconds()).max();
        let numbers = [limit.limit, limit.window.seconds(), longest.unwrap_or_default()];
        arguments.push(number.to_string());
        arguments.extend(numbers.map(|number| number.to_string()));
    }
    arguments
}

/// Runs all futures together and returns their results in order.
pub(super) async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Option<Pin<Box<F>>>> = futures.map(|future| Some(Box::pin(future))).collect();
    let mut outputs: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in running.iter_mut().zip(&mut outputs) {
            let Some(Poll::Ready(value)) = future.as_mut().map(|future| future.as_mut().poll(cx)) else { continue };
            (*future, *output) = (None, Some(value));
        }
        if running.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
