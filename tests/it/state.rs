//! The memory backend: the contract, its bounds, its cost, and random operations against a naive model.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use envoy_guard::model::addr::{Client, IpEntry};
use envoy_guard::model::category::{Category, CategorySet};
use envoy_guard::model::time::{Timestamp, Window};
use envoy_guard::state::memory::Memory;
use envoy_guard::state::{Backend, Bucket, Digest, Limit, Question, State, StateError, Track};
use proptest::prelude::*;

use crate::allocations::allocations;
use crate::contract::contract_for;

mod memory {
    use super::*;
    contract_for!(async { Memory::default() });
}

mod memory_of_one_shard {
    use super::*;
    contract_for!(async { Memory::new(64) });
}

mod backend {
    use super::*;
    contract_for!(async { Backend::Memory(Memory::default()) });
}

fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("memory never waits"),
    }
}

fn window(seconds: u32) -> Window {
    Window::new(seconds).unwrap()
}

fn v4(number: u32) -> Client<'static> {
    Client::Address(IpAddr::V4(Ipv4Addr::from(number)).into())
}

fn question(client: Client<'_>) -> Question<'_> {
    let tier = |path, limit, seconds| Limit { bucket: Bucket { client, path }, limit, window: window(seconds) };
    let limits = [tier(Some(Digest([1; 32])), 5, 10), tier(Some(Digest([1; 32])), 9, 60), tier(None, 50, 60)];
    Question { ban: Some(client), limits: limits.into_iter().collect(), passive: false, ..Question::default() }
}

#[test]
fn asking_again_allocates_nothing() {
    let memory = Memory::default();
    let clients = [v4(1), Client::Text("a client that is no address"), Client::Unknown];
    let mut before = 0;
    for round in 0..200 {
        if round == 50 {
            before = allocations();
        }
        for client in clients {
            let question = question(client);
            now_or_never(memory.ask(&question, Timestamp(f64::from(round)))).unwrap();
            let track = Track { client, endpoint: Digest([2; 32]), pattern: None };
            now_or_never(memory.observe(track, window(15), Timestamp(f64::from(round)))).unwrap();
            now_or_never(memory.suspicion(client, Timestamp(f64::from(round)))).unwrap();
        }
    }
    assert_eq!(allocations() - before, 0);
}

#[test]
fn every_family_keeps_ten_thousand_clients_and_no_more() {
    let memory = Memory::default();
    let bound = 10_000;
    let fill = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let (client, now) = (v4(number), Timestamp(f64::from(number) * 1e-3));
            now_or_never(memory.ask(&question(client), now)).unwrap();
            let track = Track { client, endpoint: Digest([2; 32]), pattern: None };
            now_or_never(memory.observe(track, window(60), now)).unwrap();
            now_or_never(memory.suspect(client, CategorySet::EMPTY, now)).unwrap();
        }
    };
    fill(0..5_000);
    let sizes = memory.sizes();
    assert_eq!((sizes.windows.used, sizes.tracks.used, sizes.suspicions.used), (bound, 5_000, 5_000));
    assert!(sizes.families().iter().all(|(_, size)| size.evicted == 0), "{sizes:?}");
    fill(5_000..30_000);
    for (family, size) in memory.sizes().families() {
        assert!(size.used <= bound + 64, "{family}: {size:?}");
    }
    assert_eq!(memory.sizes().tracks.evicted, 20_000);
}

#[test]
fn the_client_seen_last_is_remembered() {
    let memory = Memory::new(100);
    let tier = |client| Limit { bucket: Bucket { client, path: None }, limit: 5, window: window(60) };
    let hit = |number: u32| {
        let question = Question {
            ban: None,
            limits: [tier(v4(number))].into_iter().collect(),
            passive: false,
            ..Question::default()
        };
        now_or_never(memory.ask(&question, Timestamp(1.0))).unwrap().counts[0]
    };
    for number in 0..100 {
        hit(number);
    }
    assert_eq!(hit(0), 2);
    hit(100);
    assert_eq!((hit(0), hit(1)), (3, 1), "client 1 was the least recently used, client 0 was not");
}

#[test]
fn a_hostile_client_name_costs_no_memory() {
    let memory = Memory::default();
    let name = "x".repeat(1 << 20);
    now_or_never(memory.ask(&question(Client::Text(&name)), Timestamp(1.0))).unwrap();
    let before = allocations();
    now_or_never(memory.ask(&question(Client::Text(&name)), Timestamp(2.0))).unwrap();
    assert_eq!(allocations(), before);
}

#[test]
fn threads_together_pass_exactly_the_limit() {
    const LIMIT: u32 = 500;
    let (memory, passed) = (Memory::default(), AtomicU32::new(0));
    let limit = Limit { bucket: Bucket { client: v4(1), path: None }, limit: LIMIT, window: window(60) };
    let question =
        Question { ban: Some(v4(1)), limits: [limit].into_iter().collect(), passive: false, ..Question::default() };
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (memory, question, passed) = (&memory, &question, &passed);
            scope.spawn(move || {
                for round in 0..200 {
                    let now = Timestamp(f64::from(worker * 200 + round) * 1e-4);
                    let answer = now_or_never(memory.ask(question, now)).unwrap();
                    passed.fetch_add(u32::from(answer.counts[0] <= u64::from(LIMIT)), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), LIMIT);
}

/// One random operation.
#[derive(Clone, Debug)]
enum Step {
    Wait(u8),
    Hit { client: u8, tiers: Vec<(bool, u8, u8)>, passive: bool },
    Ban { target: u8, seconds: u8 },
    Unban { target: u8 },
    Suspect { client: u8, category: bool },
    Absolve { client: u8 },
    Observe { client: u8, seconds: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let tiers = prop::collection::vec((any::<bool>(), 0u8..6, 1u8..20), 1..4);
    prop_oneof![
        2 => (0u8..8).prop_map(Step::Wait),
        6 => (0u8..4, tiers, any::<bool>()).prop_map(|(client, tiers, passive)| Step::Hit { client, tiers, passive }),
        1 => (0u8..6, 1u8..20).prop_map(|(target, seconds)| Step::Ban { target, seconds }),
        1 => (0u8..6).prop_map(|target| Step::Unban { target }),
        1 => (0u8..4, any::<bool>()).prop_map(|(client, category)| Step::Suspect { client, category }),
        1 => (0u8..4).prop_map(|client| Step::Absolve { client }),
        1 => (0u8..4, 1u8..20).prop_map(|(client, seconds)| Step::Observe { client, seconds }),
    ]
}

/// Four clients in two networks of two; targets 4 and 5 are the networks.
fn target(number: u8) -> IpEntry {
    match number {
        0..4 => IpEntry::Addr(IpAddr::V4(Ipv4Addr::new(198, 51, 100, number)).into()),
        4 => "198.51.100.0/31".parse().unwrap(),
        _ => "198.51.100.2/31".parse().unwrap(),
    }
}

/// The rules in their plainest form: unbounded lists, nothing shared, nothing clever.
#[derive(Default)]
struct Model {
    now: f64,
    hits: HashMap<(u8, bool), Vec<f64>>,
    bans: HashMap<u8, f64>,
    counts: HashMap<u8, [u64; 2]>,
    events: HashMap<u8, Vec<f64>>,
}

impl Model {
    fn ban_of(&self, client: u8) -> Option<u8> {
        let candidates = [client, 4 + client / 2];
        candidates.into_iter().find(|target| self.bans.get(target).is_some_and(|until| self.now <= *until))
    }

    fn hit(&mut self, client: u8, tiers: &[(bool, u8, u8)], passive: bool) -> Vec<u64> {
        let mut counts = Vec::new();
        if self.ban_of(client).is_some() && !passive {
            return counts;
        }
        for (place, (is_path, limit, seconds)) in tiers.iter().enumerate() {
            let hits = self.hits.entry((client, *is_path)).or_default();
            if tiers[..place].iter().all(|(other, ..)| other != is_path) {
                hits.push(self.now);
            }
            let start = self.now - f64::from(*seconds);
            counts.push(hits.iter().filter(|at| start < **at).count() as u64);
            if !passive && u64::from(*limit) < counts[place] {
                break;
            }
        }
        counts
    }
}

/// Counts agree when both are refused by the same margin or equal: beyond its room a log only says "too many".
fn agree(counted: &[u64], exact: &[u64]) -> bool {
    counted.len() == exact.len()
        && counted.iter().zip(exact).all(|(counted, exact)| counted == exact || (16 <= *counted && counted <= exact))
}

async fn run(memory: &Memory, model: &mut Model, step: &Step) -> Result<(), StateError> {
    let now = Timestamp(model.now);
    let address = |number: u8| v4(u32::from(Ipv4Addr::new(198, 51, 100, number)));
    match step {
        Step::Wait(seconds) => model.now += f64::from(*seconds),
        Step::Hit { client, tiers, passive } => {
            let limits = tiers.iter().map(|(is_path, limit, seconds)| Limit {
                bucket: Bucket { client: address(*client), path: is_path.then_some(Digest([1; 32])) },
                limit: u32::from(*limit),
                window: window(u32::from(*seconds)),
            });
            let question = Question {
                ban: Some(address(*client)),
                limits: limits.collect(),
                passive: *passive,
                ..Question::default()
            };
            let answer = memory.ask(&question, now).await?;
            assert_eq!(answer.ban.map(|ban| ban.target), model.ban_of(*client).map(target));
            let exact = model.hit(*client, tiers, *passive);
            assert!(agree(&answer.counts, &exact), "{:?} instead of {exact:?}", answer.counts);
        }
        Step::Ban { target: number, seconds } => {
            memory.ban(target(*number), window(u32::from(*seconds)), "model", now).await?;
            model.bans.insert(*number, model.now + f64::from(*seconds));
            if *number < 4 {
                model.counts.remove(number);
            }
        }
        Step::Unban { target: number } => {
            let was = model.bans.remove(number).is_some_and(|until| model.now <= until);
            assert_eq!(memory.unban(target(*number), now).await?, was);
        }
        Step::Suspect { client, category } => {
            let category = if *category { Category::SQLI } else { Category::XSS };
            let counts = model.counts.entry(*client).or_default();
            counts[usize::from(category == Category::SQLI)] += 1;
            let suspicion = memory.suspect(address(*client), CategorySet::EMPTY.with(category), now).await?;
            assert_eq!(suspicion.by_category[0].1, counts[usize::from(category == Category::SQLI)]);
            assert_eq!(suspicion.total, counts[0] + counts[1]);
        }
        Step::Absolve { client } => {
            memory.absolve(address(*client)).await?;
            model.counts.remove(client);
        }
        Step::Observe { client, seconds } => {
            let events = model.events.entry(*client).or_default();
            events.push(model.now);
            let start = model.now - f64::from(*seconds);
            let exact = events.iter().filter(|at| start <= **at).count() as u64;
            let track = Track { client: address(*client), endpoint: Digest([3; 32]), pattern: None };
            assert_eq!(memory.observe(track, window(u32::from(*seconds)), now).await?, exact);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn memory_agrees_with_the_naive_model(steps in prop::collection::vec(step(), 0..200)) {
        let (memory, mut model) = (Memory::default(), Model { now: 1_800_000_000.0, ..Model::default() });
        // A log keeps what the longest window needs that it has been asked about; here it has been, from the start.
        let longest = (0..4).flat_map(|client| {
            let tiers = [true, false].map(|is_path| (is_path, 50, 20)).to_vec();
            [Step::Hit { client, tiers, passive: true }, Step::Observe { client, seconds: 20 }]
        });
        for step in &longest.chain(steps).collect::<Vec<_>>() {
            now_or_never(run(&memory, &mut model, step)).unwrap();
        }
    }
}
