//! The questions of one request as script calls: one for a single server, one for each key on a Cluster.

use std::pin::Pin;
use std::task::Poll;

use deadpool_redis::redis::cmd;
use smallvec::SmallVec;

use crate::model::time::Timestamp;
use crate::state::keys::{moment, read_moment};
use crate::state::redis::{Redis, parsed, script};
use crate::state::{Limit, Mark, Rule, Standing, StateError, Track, Watch, exceeds, hits as hits_of};

/// The answer of the script: the ban's expiry, the members added, the counts, four texts for each rule, the counts of
/// the watches.
type Reply = (Option<String>, Vec<String>, Vec<u64>, Vec<String>, Vec<u64>);

/// What goes to Redis for one request.
pub(super) struct Inquiry<'q, 'r> {
    /// The key of the ban to look up.
    pub(super) ban: Option<&'q str>,
    /// Limits to hit, in order.
    pub(super) limits: &'q [Limit<'r>],
    /// Rules to test.
    pub(super) rules: &'q [Test],
    /// Behaviour histories to look at, and what to record in them.
    pub(super) watches: &'q [Watch<'r>],
    pub(super) mark: Option<Mark>,
    /// Hit all, whatever is exceeded.
    pub(super) onward: bool,
    /// The moment of the request.
    pub(super) now: Timestamp,
}

/// A rule with what is to be done about it.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) rule: Rule,
    /// Count nothing new, only look.
    pub(super) peek: bool,
    /// Moments of requests that were admitted before.
    pub(super) settle: Vec<f64>,
}

/// What Redis said.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) until: Option<Timestamp>,
    pub(super) counts: SmallVec<[u64; 4]>,
    pub(super) rules: SmallVec<[Standing; 2]>,
    /// The ban or a limit refuses the request.
    pub(super) is_refused: bool,
    /// Counts of the watches; empty when the request is refused.
    pub(super) watched: Vec<u64>,
}

impl Redis {
    /// Looks up a ban, hits limits and tests rules.
    pub(super) async fn ask_redis(&self, inquiry: &Inquiry<'_, '_>) -> Result<Told, StateError> {
        let numbers = numbered(inquiry.limits);
        let buckets = numbers.iter().max().copied().unwrap_or_default();
        let firsts = (1..=buckets).filter_map(|number| of_bucket(inquiry.limits, &numbers, number).next());
        let keys: Vec<String> = firsts.map(|limit| self.keys.bucket(limit.bucket)).collect();
        let all = usize::from(inquiry.ban.is_some()) + keys.len() + inquiry.rules.len() + inquiry.watches.len();
        if self.links.is_cluster() && 1 < all {
            return self.ask_cluster(inquiry, &numbers, &keys).await;
        }
        let plan = inquiry.limits.iter().zip(numbers.iter().copied());
        let mut arguments = arguments(inquiry, buckets, plan, inquiry.rules);
        push_watches(&mut arguments, inquiry);
        let rules = inquiry.rules.iter().map(|test| self.keys.rule(test.rule.key));
        let watched = inquiry.watches.iter().map(|watch| self.keys.track(watch.track));
        let all: Vec<String> =
            inquiry.ban.map(str::to_owned).into_iter().chain(keys).chain(rules).chain(watched).collect();
        let (until, _, counts, rules, watched) =
            self.ask_script(&all, &arguments, (inquiry.rules, inquiry.watches)).await?;
        let is_refused = !inquiry.onward && (until.is_some() || exceeds(inquiry.limits, &counts));
        Ok(Told {
            until: read_until(until)?,
            counts: counts.into_iter().collect(),
            rules: standings(&rules)?.into_iter().map(|(standing, _)| standing).collect(),
            is_refused,
            watched,
        })
    }

    /// Runs the script; when it recorded anything, Redis takes writes. A rule that was only looked at shows nothing.
    async fn ask_script(
        &self,
        keys: &[String],
        arguments: &[String],
        (rules, watches): (&[Test], &[Watch<'_>]),
    ) -> Result<Reply, StateError> {
        let reply: Reply = parsed(self.run(&script::ASK, keys, arguments).await?)?;
        let (_, members, _, texts, watched) = &reply;
        let has_added = texts.iter().skip(3).step_by(4).any(|member| !member.is_empty());
        let has_settled = !texts.is_empty() && rules.iter().any(|test| !test.settle.is_empty());
        let has_watched = !watched.is_empty() && watches.iter().any(|watch| watch.hits);
        if !members.is_empty() || has_added || has_settled || has_watched {
            self.wrote();
        }
        Ok(reply)
    }

    /// Asks for all keys at once. Hits that should not have happened, because the client is banned or a limit or rule
    /// refuses, are taken back: only a refused request pays a second round trip. Until then another request of the same
    /// client may see them, so a Cluster may refuse a little too much, never too little.
    async fn ask_cluster(
        &self,
        inquiry: &Inquiry<'_, '_>,
        numbers: &[usize],
        keys: &[String],
    ) -> Result<Told, StateError> {
        let onward = |inquiry: &Inquiry<'_, '_>| Inquiry {
            onward: true,
            limits: &[],
            rules: &[],
            ban: None,
            watches: &[],
            ..*inquiry
        };
        let lookup = async {
            let Some(ban) = inquiry.ban else { return Ok(Reply::default()) };
            let alone = Inquiry { ban: Some(ban), ..onward(inquiry) };
            self.ask_script(&[ban.to_owned()], &arguments(&alone, 0, std::iter::empty(), &[]), (&[], &[])).await
        };
        let hits = keys.iter().zip(1..).map(|(key, number)| {
            let own = of_bucket(inquiry.limits, numbers, number).map(|limit| (limit, 1));
            let arguments = arguments(&onward(inquiry), 1, own, &[]);
            async move { self.ask_script(std::slice::from_ref(key), &arguments, (&[], &[])).await }
        });
        let ruled: Vec<String> = inquiry.rules.iter().map(|test| self.keys.rule(test.rule.key)).collect();
        let tests = inquiry.rules.iter().zip(&ruled).map(|(test, key)| {
            let tests = std::slice::from_ref(test);
            let arguments = arguments(&onward(inquiry), 0, std::iter::empty(), tests);
            async move { self.ask_script(std::slice::from_ref(key), &arguments, (tests, &[])).await }
        });
        let (lookup, hits, tests, watched) =
            tokio::join!(lookup, join_all(hits), join_all(tests), self.watch_each(inquiry));
        let (until, ..) = lookup?;
        let hits = hits.into_iter().collect::<Result<Vec<_>, _>>()?;
        let tests = tests.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut given: Vec<_> = hits.iter().map(|(_, _, counts, ..)| counts.iter().copied()).collect();
        let mut counts = SmallVec::new();
        let (mut reached, mut is_refused) = (0, until.is_some() && !inquiry.onward);
        for (limit, number) in inquiry.limits.iter().zip(numbers) {
            if is_refused {
                break;
            }
            let count = given.get_mut(number - 1).and_then(Iterator::next).unwrap_or_default();
            counts.push(count);
            reached = reached.max(*number);
            is_refused = u64::from(limit.limit) < count && !inquiry.onward;
        }
        let mut rules = SmallVec::<[Standing; 2]>::new();
        let mut added = Vec::new();
        let mut is_barred = is_refused;
        for ((_, _, _, texts, _), (test, key)) in tests.iter().zip(inquiry.rules.iter().zip(&ruled)) {
            for (standing, member) in standings(texts)? {
                is_barred |= standing.exceeded && !test.rule.shadow && !test.peek && !inquiry.onward;
                added.extend((!member.is_empty()).then_some((key, std::slice::from_ref(member))));
                rules.extend((!is_refused).then_some(standing));
            }
        }
        if is_barred {
            for (standing, member) in rules.iter_mut().zip(tests.iter().filter_map(|(_, _, _, texts, _)| texts.get(3)))
            {
                standing.count -= u64::from(!member.is_empty());
            }
        } else {
            added.clear();
        }
        let watched = if is_barred { Vec::new() } else { watched? };
        if is_barred && let Some(mark) = inquiry.mark {
            let tracks: Vec<Track<'_>> = hits_of(inquiry.watches).map(|(track, _)| track).collect();
            // What is not taken back counts once too often.
            self.take_back(&tracks, mark).await.unwrap_or_default();
        }
        let surplus = keys.iter().zip(&hits).skip(reached).map(|(key, (_, members, ..))| (key, members.as_slice()));
        join_all(surplus.chain(added).map(|(key, members)| async move {
            let mut undo = cmd("ZREM");
            undo.arg(key).arg(members);
            self.call(&undo).await
        }))
        .await;
        Ok(Told { until: read_until(until)?, counts, rules, is_refused, watched })
    }

    /// Looks at each history in a call of its own, all at once. Hits come first: a second look at a history that is hit
    /// counts the hit, because calls about one key keep their order.
    async fn watch_each(&self, inquiry: &Inquiry<'_, '_>) -> Result<Vec<u64>, StateError> {
        let counts = join_all(inquiry.watches.iter().map(|watch| async move {
            let watches = std::slice::from_ref(watch);
            let alone = Inquiry { ban: None, limits: &[], rules: &[], watches, onward: true, ..*inquiry };
            let mut arguments = arguments(&alone, 0, std::iter::empty(), &[]);
            push_watch(&mut arguments, inquiry, watch);
            let (.., counts) = self.ask_script(&[self.keys.track(watch.track)], &arguments, (&[], watches)).await?;
            Ok(counts.first().copied().unwrap_or_default())
        }));
        counts.await.into_iter().collect()
    }

    /// Takes what a request recorded out of histories.
    pub(super) async fn take_back(&self, tracks: &[Track<'_>], mark: Mark) -> Result<(), StateError> {
        let calls = tracks.iter().map(|track| async move {
            let mut undo = cmd("ZREM");
            undo.arg(self.keys.track(*track)).arg(mark.member());
            self.call(&undo).await.map(drop)
        });
        join_all(calls).await.into_iter().collect()
    }
}

fn read_until(until: Option<String>) -> Result<Option<Timestamp>, StateError> {
    until.map(|text| read_moment(&text).ok_or_else(|| StateError::Corrupt("a ban's moment".to_owned()))).transpose()
}

/// Standings with the members added.
fn standings(texts: &[String]) -> Result<Vec<(Standing, &String)>, StateError> {
    let strange = || StateError::Corrupt("redis answered in an unexpected form".to_owned());
    let (chunks, rest) = texts.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(strange());
    }
    let mut read = Vec::with_capacity(chunks.len());
    for [count, exceeded, reset, member] in chunks {
        let (count, reset) = (count.parse().map_err(|_| strange())?, reset.parse().map_err(|_| strange())?);
        read.push((Standing { count, exceeded: exceeded == "1", reset }, member));
    }
    Ok(read)
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

/// The script's arguments for limits with the numbers of their buckets, and for rules.
fn arguments<'l, 'r: 'l>(
    inquiry: &Inquiry<'_, '_>,
    buckets: usize,
    plan: impl Iterator<Item = (&'l Limit<'r>, usize)> + Clone,
    rules: &[Test],
) -> Vec<String> {
    let flag = |set: bool| u8::from(set).to_string();
    let mut arguments = vec![moment(inquiry.now), flag(inquiry.ban.is_some()), flag(inquiry.onward)];
    let counts = [plan.clone().count(), buckets, inquiry.watches.len()];
    arguments.extend(counts.map(|count| count.to_string()));
    for (limit, number) in plan.clone() {
        let longest = plan.clone().filter(|(_, other)| *other == number).map(|(limit, _)| limit.window.seconds()).max();
        let numbers = [limit.limit, limit.window.seconds(), longest.unwrap_or_default()];
        arguments.push(number.to_string());
        arguments.extend(numbers.map(|number| number.to_string()));
    }
    for Test { rule, peek, settle } in rules {
        let mode = if *peek {
            "p"
        } else if rule.shadow {
            "s"
        } else {
            "a"
        };
        let numbers = [rule.limit, rule.window.seconds()].map(|number| number.to_string());
        arguments.extend(numbers);
        arguments.extend([mode.to_owned(), settle.len().to_string()]);
        arguments.extend(settle.iter().map(|at| moment(Timestamp(*at))));
    }
    arguments
}

fn push_watches(arguments: &mut Vec<String>, inquiry: &Inquiry<'_, '_>) {
    for watch in inquiry.watches {
        push_watch(arguments, inquiry, watch);
    }
}

/// The arguments of one watch. The member is added by the first watch of a history that is to be hit; a set takes it once.
fn push_watch(arguments: &mut Vec<String>, inquiry: &Inquiry<'_, '_>, watch: &Watch<'_>) {
    let same = inquiry.watches.iter().filter(|other| other.track == watch.track);
    let longest = same.map(|other| other.window).max().unwrap_or(watch.window);
    arguments.extend([watch.window, longest].map(|window| window.seconds().to_string()));
    arguments.push(inquiry.mark.filter(|_| watch.hits).map(Mark::member).unwrap_or_default());
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
