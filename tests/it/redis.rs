//! Redis in every form: the contract, and what only Redis has to show.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_guard::model::addr::{Client, IpEntry};
use envoy_guard::model::category::CategorySet;
use envoy_guard::model::time::{Timestamp, Window};
use envoy_guard::state::failover::Failover;
use envoy_guard::state::memory::Memory;
use envoy_guard::state::redis::Redis;
use envoy_guard::state::redis::settings::Settings;
use envoy_guard::state::{Backend, Bucket, Limit, Patterns, Question, Rule, State, StateError};
use tokio::time::Instant;

use crate::contract::every_case;
use crate::redis_servers::{Cluster, Sentinels, Server, settings, standalone};

const NOW: Timestamp = Timestamp(1_800_000_000.0);
/// A recovery must not take longer.
const RECOVERY_MAX: Duration = Duration::from_secs(3);

#[tokio::test]
async fn one_server_keeps_the_contract() {
    let server = Server::start(&[]);
    every_case(async |case| standalone(&server, &format!("{case}:"))).await;
}

#[tokio::test]
async fn a_master_named_by_sentinels_keeps_the_contract() {
    let sentinels = Sentinels::start();
    every_case(async |case| Redis::new(sentinels.settings(&format!("{case}:"))).unwrap()).await;
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let cluster = Cluster::start();
    every_case(async |case| Redis::new(cluster.settings(&format!("{case}:"))).unwrap()).await;
    let keys = |node: &Server| node.cli(&["dbsize"]).parse::<u64>().unwrap();
    assert!(cluster.nodes.iter().all(|node| 10 < keys(node)), "every node holds keys");
}

#[tokio::test]
async fn redis_with_memory_behind_it_keeps_the_contract() {
    let server = Server::start(&[]);
    every_case(async |case| {
        let redis = standalone(&server, &format!("{case}:"));
        Backend::Failover(Box::new(Failover::new(redis, Memory::default())))
    })
    .await;
}

#[tokio::test]
async fn passwords_users_and_databases_of_the_url_are_used() {
    let server = Server::start(&["--requirepass", "admin"]);
    server.cli(&["-a", "admin", "acl", "setuser", "app", "on", ">s3cret", "~p:*", "&p:*", "+@all"]);
    let url = format!("redis://app:s3cret@127.0.0.1:{}/3", server.port);
    let state = Redis::new(settings(&url, "p:")).unwrap();
    state.ban(entry("203.0.113.1"), window(60), "test", NOW).await.unwrap();
    assert_eq!(server.cli(&["-a", "admin", "-n", "3", "keys", "*"]), "p:banned_ips:203.0.113.1");
    let wrong = Redis::new(settings(&url.replace("s3cret", "wrong"), "p:")).unwrap();
    let error = wrong.ping().await.unwrap_err();
    assert!(matches!(error, StateError::Unavailable(_)) && !error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let folder = tempfile::TempDir::new().unwrap();
    let socket = folder.path().join("redis.sock");
    let _server = Server::start(&["--unixsocket", socket.to_str().unwrap()]);
    let state = Redis::new(settings(&format!("unix://{}?db=2", socket.display()), "p:")).unwrap();
    assert_eq!(hit(&state, "203.0.113.1", NOW).await.unwrap(), 1);
}

#[tokio::test]
async fn a_request_is_one_command_however_many_limits_apply() {
    let server = Server::start(&[]);
    let state = standalone(&server, "p:");
    hit(&state, "203.0.113.1", NOW).await.unwrap();
    server.cli(&["config", "resetstat"]);
    for number in 0..50 {
        let client = client("203.0.113.2");
        let path = |byte| Some(envoy_guard::state::Digest([byte; 32]));
        let tier = |path, seconds| Limit { bucket: Bucket { client, path }, limit: 900, window: window(seconds) };
        let limits = [tier(path(1), 60), tier(path(1), 10), tier(path(2), 60), tier(None, 60)];
        let question =
            Question { ban: Some(client), limits: limits.into_iter().collect(), passive: false, ..Question::default() };
        let answer = state.ask(&question, NOW.plus(f64::from(number))).await.unwrap();
        assert_eq!(answer.counts.len(), 4);
    }
    let calls = commands(&server);
    assert_eq!(calls.get("evalsha"), Some(&50), "{calls:?}");
    for command in ["ping", "keys", "eval", "unwatch", "multi"] {
        assert_eq!(calls.get(command), None, "{calls:?}");
    }
}

#[tokio::test]
async fn a_known_client_costs_nothing_when_there_are_no_limits() {
    let server = Server::start(&[]);
    let state = Arc::new(standalone(&server, "p:"));
    let _upkeep = maintain(&state).await;
    ban_of(&*state, "203.0.113.1", NOW).await.unwrap();
    state.ban(entry("203.0.113.2"), window(60), "test", NOW).await.unwrap();
    server.cli(&["config", "resetstat"]);
    for _ in 0..50 {
        assert!(ban_of(&*state, "203.0.113.1", NOW.plus(0.4)).await.unwrap().is_none());
        assert!(ban_of(&*state, "203.0.113.2", NOW.plus(1.9)).await.unwrap().is_some());
    }
    let calls = commands(&server);
    assert_eq!(calls.get("evalsha"), None, "{calls:?}");
}

#[tokio::test]
async fn a_change_reaches_the_other_replica_at_once() {
    let server = Server::start(&[]);
    let (one, other) = (Arc::new(standalone(&server, "p:")), Arc::new(standalone(&server, "p:")));
    let _upkeep = (maintain(&one).await, maintain(&other).await);
    let mut times = Vec::new();
    for number in 0..100 {
        let (who, net) = (format!("203.0.113.{number}"), format!("198.51.{number}.0/24"));
        assert!(ban_of(&*other, &who, NOW).await.unwrap().is_none(), "and remembers that it is clean");
        let start = Instant::now();
        one.ban(entry(&who), window(60), "test", NOW).await.unwrap();
        one.ban(entry(&net), window(60), "test", NOW).await.unwrap();
        soon("the ban is enforced", async || other.known_ban(client(&who), NOW).is_some()).await;
        let inside = net.replace("0/24", "9");
        soon("the network's ban is enforced", async || other.known_ban(client(&inside), NOW).is_some()).await;
        times.push(start.elapsed());
        if number % 10 == 0 {
            one.unban(entry(&who), NOW).await.unwrap();
            one.unban(entry(&net), NOW).await.unwrap();
            soon("lifting is seen", async || other.known_ban(client(&inside), NOW).is_none()).await;
            assert!(ban_of(&*other, &who, NOW).await.unwrap().is_none());
        }
    }
    times.sort_unstable();
    println!("ban to enforcement: p50 {:?}, p99 {:?}", times[50], times[98]);
    assert!(times[98] < Duration::from_millis(250), "{times:?}");
    assert_eq!(one.counts().pushes, 0, "nobody hears itself, and hearing sends nothing");
    assert_eq!(other.counts().pushes, 220);
}

#[tokio::test]
async fn a_replica_that_missed_a_push_reads_what_it_missed() {
    let server = Server::start(&[]);
    let quick = Settings { networks_interval: Duration::from_millis(200), ..settings(&server.url(), "p:") };
    let state = Arc::new(Redis::new(quick).unwrap());
    let _upkeep = maintain(&state).await;
    assert!(ban_of(&*state, "203.0.113.1", NOW).await.unwrap().is_none());
    // Another participant, which pushes nothing, bans while nobody listens.
    server.cli(&["client", "kill", "type", "pubsub"]);
    server.cli(&["set", "p:banned_networks:198.51.100.0/24", "1800000900.5", "ex", "900"]);
    server.cli(&["set", "p:banned_ips:203.0.113.1", "1800000900.5", "ex", "900"]);
    soon("the network's ban is enforced", async || ban_of(&*state, "198.51.100.7", NOW).await.unwrap().is_some()).await;
    soon("the ban is enforced", async || ban_of(&*state, "203.0.113.1", NOW).await.unwrap().is_some()).await;
    server.cli(&["del", "p:banned_networks:198.51.100.0/24"]);
    soon("lifting is seen", async || ban_of(&*state, "198.51.100.7", NOW).await.unwrap().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_together_admit_exactly_the_limit() {
    const LIMIT: u32 = 100;
    let server = Server::start(&[]);
    let replicas = [Arc::new(standalone(&server, "p:")), Arc::new(standalone(&server, "p:"))];
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..32 {
        let state = Arc::clone(&replicas[worker % 2]);
        workers.spawn(async move {
            let limit = Limit {
                bucket: Bucket { client: client("203.0.113.1"), path: None },
                limit: LIMIT,
                window: window(60),
            };
            let question = Question { limits: [limit].into_iter().collect(), ..Question::default() };
            let mut passed = 0;
            for _ in 0..20 {
                // The same moment for all: equal times must count each.
                let answer = state.ask(&question, NOW).await.unwrap();
                passed += u32::from(answer.counts[0] <= u64::from(LIMIT));
            }
            passed
        });
    }
    assert_eq!(workers.join_all().await.into_iter().sum::<u32>(), LIMIT);
}

#[tokio::test]
async fn a_forgotten_script_is_loaded_again() {
    let server = Server::start(&[]);
    let state = standalone(&server, "p:");
    for count in 1..=3 {
        assert_eq!(hit(&state, "203.0.113.1", NOW).await.unwrap(), count);
        server.cli(&["script", "flush"]);
    }
    assert_eq!(state.counts().script_reloads, 3);
}

#[tokio::test]
async fn an_unusable_value_is_an_error_of_that_key_only() {
    let server = Server::start(&[]);
    let state = standalone(&server, "p:");
    server.cli(&["set", "p:rate_limit:rate:203.0.113.1", "text"]);
    server.cli(&["set", "p:banned_ips:203.0.113.2", "garbage"]);
    server.cli(&["rpush", "p:banned_ips:203.0.113.3", "list"]);
    server.cli(&["set", "p:envoy_guard:suspicion:203.0.113.4", "text"]);
    for _ in 0..10 {
        for result in [
            hit(&state, "203.0.113.1", NOW).await.map(drop),
            ban_of(&state, "203.0.113.2", NOW).await.map(drop),
            ban_of(&state, "203.0.113.3", NOW).await.map(drop),
            state.suspect(client("203.0.113.4"), CategorySet::EMPTY, NOW).await.map(drop),
            state.suspicion(client("203.0.113.4"), NOW).await.map(drop),
        ] {
            assert!(matches!(result, Err(StateError::Corrupt(_))), "{result:?}");
        }
    }
    assert!(state.is_well(), "the breaker does not mind");
    assert_eq!(hit(&state, "203.0.113.5", NOW).await.unwrap(), 1);
    let fallback = Failover::new(state, Memory::default());
    assert_eq!(hit(&fallback, "203.0.113.1", NOW).await.unwrap(), 1);
    assert!(!fallback.is_degraded());
}

#[tokio::test]
async fn the_expiry_is_read_in_any_usual_form_and_the_past_is_cleaned_up() {
    let server = Server::start(&[]);
    let state = standalone(&server, "p:");
    for (value, banned) in
        [("1800000900", true), ("1.8000009e+09", true), ("1800000000.0", true), ("1799999999.9", false), ("", false)]
    {
        server.cli(&["set", "p:banned_ips:203.0.113.1", value]);
        assert_eq!(ban_of(&state, "203.0.113.1", NOW).await.unwrap().is_some(), banned, "{value}");
        let fresh = standalone(&server, "p:");
        assert_eq!(ban_of(&fresh, "203.0.113.1", NOW).await.unwrap().is_some(), banned, "{value}");
        state.unban(entry("203.0.113.1"), NOW).await.unwrap();
    }
    server.cli(&["set", "p:banned_ips:203.0.113.1", "1799999999.9"]);
    ban_of(&standalone(&server, "p:"), "203.0.113.1", NOW).await.unwrap();
    assert_eq!(server.cli(&["exists", "p:banned_ips:203.0.113.1"]), "0");
}

#[tokio::test]
async fn full_memory_is_an_error_and_memory_stands_in() {
    let server = Server::start(&[]);
    let state = standalone(&server, "p:");
    hit(&state, "203.0.113.1", NOW).await.unwrap();
    server.cli(&["config", "set", "maxmemory", "1"]);
    assert!(matches!(hit(&state, "203.0.113.1", NOW).await, Err(StateError::Unavailable(_))));
    let fallback = Failover::new(state, Memory::default());
    assert_eq!(hit(&fallback, "203.0.113.1", NOW).await.unwrap(), 1);
}

#[tokio::test]
async fn a_server_that_reads_and_does_not_write_is_lost_until_it_writes() {
    let server = Server::start(&[]);
    let state = Arc::new(Failover::new(standalone(&server, "p:"), Memory::default()));
    let upkeep = Arc::clone(&state);
    tokio::spawn(async move { upkeep.maintain(|| NOW).await });
    hit(&*state, "203.0.113.1", NOW).await.unwrap();
    server.cli(&["config", "set", "maxmemory", "1"]);
    soon("the loss is noticed", async || {
        hit(&*state, "203.0.113.1", NOW).await.unwrap();
        state.is_degraded()
    })
    .await;
    // Longer than any probe waits; nobody but the upkeep and readers asks.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert!(ban_of(&*state, "203.0.113.2", NOW).await.unwrap().is_none());
        assert!(state.is_degraded(), "that reading works shows nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state.counts().episodes, 1);
    server.cli(&["config", "set", "maxmemory", "0"]);
    let start = Instant::now();
    soon("the recovery is noticed", async || !state.is_degraded()).await;
    assert!(start.elapsed() < RECOVERY_MAX);
    assert_eq!(server.cli(&["exists", "p:envoy_guard:probe"]), "0", "a probe leaves nothing behind");
}

#[tokio::test]
async fn a_server_that_comes_back_empty_gets_its_bans_back() {
    let mut server = Server::start(&[]);
    let state = Arc::new(standalone(&server, "p:"));
    let _upkeep = maintain(&state).await;
    for who in ["203.0.113.1", "203.0.113.2", "198.51.100.0/24"] {
        state.ban(entry(who), window(900), "before", NOW).await.unwrap();
    }
    assert!(state.unban(entry("203.0.113.2"), NOW).await.unwrap());
    server.kill();
    server.restart();
    for who in ["203.0.113.1", "198.51.100.7"] {
        let late = NOW.plus(60.0);
        soon("redis answers", async || {
            let answer = ban_of(&*state, who, late).await;
            assert!(answer.as_ref().map_or(true, Option::is_some), "{who} stays banned");
            answer.is_ok()
        })
        .await;
    }
    soon("the bans are back", async || server.cli(&["keys", "p:banned_*"]).lines().count() == 2).await;
    assert_eq!(server.cli(&["get", "p:banned_ips:203.0.113.1"]), "1800000900.0");
    assert!(server.cli(&["ttl", "p:banned_ips:203.0.113.1"]).parse::<u32>().unwrap() <= 900);
    // A participant that tells nobody lifts a ban: with the data in place, that holds.
    server.cli(&["del", "p:banned_ips:203.0.113.1"]);
    soon("the data is known again", async || ban_of(&*state, "203.0.113.1", NOW.plus(60.0)).await.unwrap().is_none())
        .await;
}

#[tokio::test]
async fn a_dead_server_is_an_answer_at_once_and_its_return_is_noticed() {
    let mut server = Server::start(&[]);
    let state = standalone(&server, "p:");
    hit(&state, "203.0.113.1", NOW).await.unwrap();
    server.kill();
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        assert!(matches!(hit(&state, "203.0.113.1", NOW).await, Err(StateError::Unavailable(_))));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    assert!(times[197] < Duration::from_millis(100), "p99 {:?}", times[197]);
    assert_eq!(state.counts().breaker_opened, 1);
    server.restart();
    let start = Instant::now();
    soon("hits count again", async || hit(&state, "203.0.113.1", NOW).await.is_ok()).await;
    println!("recovered after {:?}", start.elapsed());
    assert!(start.elapsed() < RECOVERY_MAX);
}

#[tokio::test]
async fn a_paused_server_costs_a_request_its_deadline_and_no_more() {
    let server = Server::start(&[]);
    let state = Redis::new(Settings { prefix: "p:".to_owned(), ..Settings::new(&server.url()) }).unwrap();
    soon("connected", async || hit(&state, "203.0.113.1", NOW).await.is_ok()).await;
    server.cli(&["client", "pause", "5000"]);
    let paused = Instant::now();
    let mut slow = 0;
    while paused.elapsed() < Duration::from_millis(4500) {
        let start = Instant::now();
        assert!(hit(&state, "203.0.113.1", NOW).await.is_err());
        assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
        slow += u32::from(Duration::from_millis(50) < start.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!("{slow} requests waited");
    assert!(slow < 20, "the breaker spares the others the wait");
    tokio::time::sleep(Duration::from_millis(5000).saturating_sub(paused.elapsed())).await;
    let start = Instant::now();
    soon("hits count again", async || hit(&state, "203.0.113.1", NOW).await.is_ok()).await;
    println!("recovered after {:?}", start.elapsed());
    assert!(start.elapsed() < RECOVERY_MAX);
}

#[tokio::test]
async fn a_demoted_master_recovers_when_it_takes_writes_again() {
    let (server, upstream) = (Server::start(&[]), Server::start(&[]));
    let state = standalone(&server, "p:");
    hit(&state, "203.0.113.1", NOW).await.unwrap();
    server.cli(&["replicaof", "127.0.0.1", &upstream.port.to_string()]);
    for _ in 0..10 {
        assert!(matches!(hit(&state, "203.0.113.1", NOW).await, Err(StateError::Unavailable(_))));
    }
    server.cli(&["replicaof", "no", "one"]);
    let start = Instant::now();
    soon("hits count again", async || hit(&state, "203.0.113.1", NOW).await.is_ok()).await;
    assert!(start.elapsed() < RECOVERY_MAX);
}

#[tokio::test]
async fn a_failover_by_the_sentinels_is_followed() {
    let mut sentinels = Sentinels::start();
    let state = Redis::new(sentinels.settings("p:")).unwrap();
    state.ban(entry("203.0.113.1"), window(900), "test", NOW).await.unwrap();
    crate::redis_servers::eventually("replicated", || sentinels.replica.cli(&["dbsize"]) != "0");
    sentinels.master.kill();
    crate::redis_servers::eventually("the replica is promoted", || {
        sentinels.replica.cli(&["info", "replication"]).contains("role:master")
    });
    let start = Instant::now();
    soon("hits count again", async || hit(&state, "203.0.113.2", NOW).await.is_ok()).await;
    println!("recovered {:?} after the promotion", start.elapsed());
    assert!(start.elapsed() < RECOVERY_MAX);
    assert!(ban_of(&state, "203.0.113.1", NOW.plus(10.0)).await.unwrap().is_some());
}

#[tokio::test]
async fn memory_takes_over_and_hands_back() {
    let mut server = Server::start(&[]);
    let state = Arc::new(Failover::new(standalone(&server, "p:"), Memory::default()));
    let upkeep = Arc::clone(&state);
    tokio::spawn(async move { upkeep.maintain(|| NOW).await });
    state.ban(entry("203.0.113.1"), window(900), "before", NOW).await.unwrap();
    state.ban(entry("203.0.113.2"), window(900), "before", NOW).await.unwrap();
    state.ban(entry("198.51.100.0/24"), window(900), "before", NOW).await.unwrap();
    server.kill();
    for number in 1..=300u64 {
        assert_eq!(hit(&*state, "203.0.113.9", NOW).await.unwrap(), number.min(900 + 1), "memory counts");
        for who in ["203.0.113.1", "198.51.100.7"] {
            assert!(ban_of(&*state, who, NOW.plus(60.0)).await.unwrap().is_some(), "{who} stays banned");
        }
    }
    assert!(state.is_degraded());
    state.ban(entry("203.0.113.3"), window(900), "meanwhile", NOW).await.unwrap();
    state.ban(entry("192.0.2.0/24"), window(900), "meanwhile", NOW).await.unwrap();
    assert!(state.unban(entry("203.0.113.2"), NOW).await.unwrap());
    assert!(ban_of(&*state, "203.0.113.2", NOW).await.unwrap().is_none());
    server.restart();
    server.cli(&["set", "p:banned_ips:203.0.113.2", "1800000900.0"]);
    let start = Instant::now();
    soon("redis is used again", async || !state.is_degraded()).await;
    println!("recovered after {:?}", start.elapsed());
    assert!(start.elapsed() < RECOVERY_MAX);
    for who in ["203.0.113.3", "192.0.2.7"] {
        assert!(ban_of(&*state, who, NOW.plus(5.0)).await.unwrap().is_some(), "{who} stays banned");
    }
    soon("what was decided meanwhile is in redis", async || {
        let held = server.cli(&["keys", "p:banned_*"]);
        held.contains("203.0.113.3") && held.contains("192.0.2.0/24") && !held.contains("203.0.113.2")
    })
    .await;
    assert_eq!(hit(&*state, "203.0.113.9", NOW).await.unwrap(), 1, "redis counts");
    assert_eq!(state.counts().episodes, 1);
}

#[tokio::test]
async fn counts_survive_a_cluster_that_moves_its_slots() {
    let cluster = Cluster::start();
    let state = Redis::new(cluster.settings("p:")).unwrap();
    let id = |node: &Server| node.cli(&["cluster", "myid"]);
    let mut moving = std::process::Command::new("redis-cli")
        .args(["--cluster", "reshard", &format!("127.0.0.1:{}", cluster.nodes[0].port)])
        .args(["--cluster-from", &id(&cluster.nodes[0]), "--cluster-to", &id(&cluster.nodes[1])])
        .args(["--cluster-slots", "400", "--cluster-yes"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut rounds = 0;
    while moving.try_wait().unwrap().is_none() {
        rounds += 1;
        for number in 0..50 {
            let count = hit(&state, &format!("203.0.113.{number}"), NOW).await.unwrap();
            assert_eq!(count, rounds, "203.0.113.{number}");
        }
    }
    println!("{rounds} rounds while the slots moved");
    assert!(1 < rounds);
}

#[tokio::test]
async fn bans_under_old_spellings_are_moved() {
    let server = Server::start(&[]);
    for (name, value, milliseconds) in [
        ("::ffff:203.0.113.1", "1800000900.25", "900000"),
        ("[2001:DB8::1]", "1800000900.25", "900000"),
        ("::ffff:203.0.113.2", "1800000100.0", "100000"),
        ("203.0.113.2", "1800000900.25", "900000"),
        ("::ffff:203.0.113.3", "1800000900.25", "900000"),
        ("203.0.113.3", "1800000100.0", "100000"),
    ] {
        server.cli(&["set", &format!("p:banned_ips:{name}"), value, "px", milliseconds]);
    }
    server.cli(&["set", "p:banned_ips:::ffff:203.0.113.4", "1800000900.25"]);
    let state = Arc::new(standalone(&server, "p:"));
    let _upkeep = maintain(&state).await;
    soon("all are moved", async || !server.cli(&["keys", "*ffff*"]).contains("ffff")).await;
    for (addr, banned) in [
        ("203.0.113.1", true),
        ("2001:db8::1", true),
        ("203.0.113.2", true),
        ("203.0.113.3", true),
        ("203.0.113.4", false),
    ] {
        let key = format!("p:banned_ips:{addr}");
        soon("it is moved", async || server.cli(&["get", &key]) == if banned { "1800000900.25" } else { "" }).await;
        if banned {
            let left: u64 = server.cli(&["pttl", &key]).parse().unwrap();
            assert!((880_000..=900_000).contains(&left), "{addr}: {left}");
        }
        assert_eq!(ban_of(&*state, addr, NOW).await.unwrap().is_some(), banned, "{addr}");
    }
    assert_eq!(server.cli(&["keys", "p:banned_*"]).lines().count(), 4);
}

#[tokio::test]
async fn operations_by_namespace_and_name() {
    let server = Server::start(&[]);
    let cluster = Cluster::start();
    let make = [settings(&server.url(), ""), cluster.settings("")];
    for base in make {
        let with = |prefix: &str| Redis::new(Settings { prefix: prefix.to_owned(), ..base.clone() }).unwrap();
        namespaced([with("a*[b]:"), with("ab:")]).await;
    }
    assert_eq!(server.cli(&["ttl", "ab:space:other"]), "-1");
    assert_eq!(cluster.nodes[0].cli_cluster(&["ttl", "ab:space:other"]), "-1");
    assert!(cluster.nodes.iter().chain([&server]).all(|node| !commands(node).contains_key("keys")));
}

/// Every operation, under a prefix that is a pattern and under one that it matches.
async fn namespaced(states: [Redis; 2]) {
    for state in &states {
        let ttl = std::num::NonZeroU32::new(100);
        assert_eq!(state.get("space", "name").await.unwrap(), None);
        state.set("space", "name", "välue", ttl).await.unwrap();
        state.set("space", "other", "x", None).await.unwrap();
        assert_eq!(state.get("space", "name").await.unwrap().as_deref(), Some("välue"));
        assert_eq!(state.increment("numbers", "n", ttl).await.unwrap(), 1);
        assert_eq!(state.increment("numbers", "n", None).await.unwrap(), 2);
        assert!(matches!(state.increment("space", "name", None).await, Err(StateError::Corrupt(_))));
        assert!(state.exists("space", "name").await.unwrap() && !state.exists("space", "nothing").await.unwrap());
        let mut names = state.names("space", "*").await.unwrap();
        names.sort_unstable();
        assert_eq!(names, ["name", "other"]);
    }
    let [odd, plain] = states;
    // One second for a value, longer for a counter that is counted again.
    plain.set("space", "brief", "x", std::num::NonZeroU32::new(1)).await.unwrap();
    soon("it expires", async || !plain.exists("space", "brief").await.unwrap()).await;
    assert_eq!(odd.delete_matching("space", "*").await.unwrap(), 2);
    assert_eq!(plain.names("space", "*").await.unwrap().len(), 2, "a prefix is no pattern");
    assert_eq!(plain.names("space", "n?m[e]").await.unwrap(), ["name"]);
    assert!(plain.delete("space", "name").await.unwrap() && !plain.delete("space", "name").await.unwrap());
}

#[tokio::test]
async fn thousands_of_names_are_walked_not_listed() {
    let cluster = Cluster::start();
    let state = Redis::new(cluster.settings("p:")).unwrap();
    for number in 0..1500 {
        state.set("space", &number.to_string(), "x", None).await.unwrap();
    }
    assert_eq!(state.names("space", "*").await.unwrap().len(), 1500);
    assert_eq!(state.delete_matching("space", "1*").await.unwrap(), 611);
    assert_eq!(state.names("space", "*").await.unwrap().len(), 889);
    assert!(cluster.nodes.iter().all(|node| !commands(node).contains_key("keys")));
}

#[tokio::test]
async fn a_change_of_patterns_reaches_the_other_replica_and_so_does_one_by_guard_core() {
    let server = Server::start(&[]);
    let quick = Settings { patterns_interval: Duration::from_millis(100), ..settings(&server.url(), "p:") };
    let (one, other) = (Arc::new(standalone(&server, "p:")), Arc::new(Redis::new(quick).unwrap()));
    let _upkeep = (maintain(&one).await, maintain(&other).await);
    let mut changed = other.patterns_changed();
    let mut expected = Vec::new();
    for (pattern, theirs) in [("a[a-z]+", None), ("b{2,3}", None), ("c", Some("a[a-z]+,c"))] {
        soon("the first reading is over", async || other.known_patterns().is_some()).await;
        changed.mark_unchanged();
        match theirs {
            None => assert!(one.add_pattern(pattern).await.unwrap()),
            Some(joined) => assert_eq!(server.cli(&["set", "p:patterns:custom", joined]), "OK"),
        }
        tokio::time::timeout(Duration::from_secs(20), changed.changed()).await.unwrap().unwrap();
        expected.push(pattern.to_owned());
        soon("it reads them all", async || other.patterns().await.unwrap().into_iter().eq(expected.clone())).await;
    }
}

#[tokio::test]
async fn a_loss_is_noticed_and_over_without_any_request() {
    let mut server = Server::start(&[]);
    let quick = || Settings { connect_timeout: Some(Duration::from_millis(500)), ..settings(&server.url(), "p:") };
    let backends = [
        Backend::Redis(Box::new(Redis::new(quick()).unwrap())),
        Backend::Failover(Box::new(Failover::new(Redis::new(quick()).unwrap(), Memory::default()))),
    ];
    let backends = backends.map(Arc::new);
    let mut upkeep = tokio::task::JoinSet::new();
    for state in &backends {
        let kept = Arc::clone(state);
        upkeep.spawn(async move { kept.maintain(|| NOW).await });
        soon("it listens", async || state.health().is_listening).await;
        assert!(state.health().is_well);
    }
    server.kill();
    for state in &backends {
        soon("the loss shows", async || !state.health().is_well && !state.health().is_listening).await;
    }
    let Backend::Failover(both) = &*backends[1] else { panic!("memory stands behind") };
    soon("memory knows", async || both.is_degraded()).await;
    assert!(hit(&*backends[0], "203.0.113.1", NOW).await.is_err(), "the strict one says so");
    assert_eq!(hit(&*backends[1], "203.0.113.1", NOW).await.unwrap(), 1);
    server.restart();
    for state in &backends {
        soon("its return shows", async || state.health().is_well && state.health().is_listening).await;
        assert!(hit(&**state, "203.0.113.1", NOW).await.is_ok());
        assert_eq!(state.health().counts.breaker_opened, 1, "lost once");
    }
    soon("memory hands over", async || !both.is_degraded()).await;
    assert_eq!(both.counts().episodes, 1);
}

#[tokio::test]
async fn what_participants_share_has_their_bytes() {
    let server = Server::start(&[]);
    let state = standalone(&server, "p:");
    assert_eq!(state.cloud_ranges("AWS").await.unwrap(), None);
    server.cli(&["set", "p:cloud_ranges_v2:AWS", "198.51.100.0/24,203.0.113.0/24|us-east-1"]);
    assert_eq!(state.cloud_ranges("AWS").await.unwrap().unwrap().len(), 2);
    let ranges = ["203.0.113.0/25|us-east-1", "10.0.0.0/8"].map(str::to_owned).into_iter().collect();
    state.set_cloud_ranges("AWS", &ranges, std::num::NonZeroU32::new(60)).await.unwrap();
    assert_eq!(server.cli(&["get", "p:cloud_ip_v2:AWS"]), r#"["10.0.0.0/8", "203.0.113.0/25|us-east-1"]"#);
    assert!((1..=60).contains(&ttl(&server, "p:cloud_ip_v2:AWS")));
    assert_eq!(state.cloud_ranges("AWS").await.unwrap(), Some(ranges));
    state.clear_cloud_ranges().await.unwrap();
    assert_eq!(server.cli(&["exists", "p:cloud_ip_v2:AWS"]), "0");

    let cache = envoy_guard::state::redis::shared::HeaderCache {
        csp: None,
        hsts: Some(serde_json::json!({"max_age": 31536000, "include_subdomains": true, "preload": false})),
        custom: Some(serde_json::json!({"X-A": "é"})),
    };
    state.set_header_cache(&cache).await.unwrap();
    assert_eq!(
        server.cli(&["get", "p:security_headers:hsts_config"]),
        r#"{"max_age": 31536000, "include_subdomains": true, "preload": false}"#
    );
    assert_eq!(server.cli(&["get", "p:security_headers:custom_headers"]), r#"{"X-A": "\u00e9"}"#);
    assert!((86_300..=86_400).contains(&ttl(&server, "p:security_headers:hsts_config")));
    assert_eq!(state.header_cache().await.unwrap(), cache);

    assert_eq!(state.rules_snapshot().await.unwrap(), None);
    let rules = envoy_guard::state::formats::RulesSnapshot::new(Default::default());
    state.set_rules_snapshot(&rules).await.unwrap();
    assert_eq!(state.rules_snapshot().await.unwrap(), Some(rules));
    assert_eq!(server.cli(&["ttl", "p:dynamic_rules:last_known"]), "-1");
    server.cli(&["set", "p:dynamic_rules:last_known", "{}"]);
    assert_eq!(state.rules_snapshot().await.unwrap(), None);
}

/// Requests that pass a cached rule on so many replicas, and the calls of scripts that it took.
async fn admitted(replicas: usize, limit: u32, settle: bool) -> (u32, u64) {
    let server = Server::start(&[]);
    let states: Vec<Arc<Redis>> = (0..replicas).map(|_| Arc::new(standalone(&server, "p:"))).collect();
    let mut upkeep = Vec::new();
    for state in states.iter().filter(|_| settle) {
        upkeep.push(maintain(state).await);
    }
    server.cli(&["config", "resetstat"]);
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..32 {
        let state = Arc::clone(&states[worker % replicas]);
        workers.spawn(async move {
            let key = envoy_guard::state::Digest([9; 32]);
            let rule = Rule { key, limit, window: window(60), shadow: false, cached: true };
            let mut passed = 0;
            for round in 0..limit.div_ceil(8) {
                let question = Question { rules: [rule].into_iter().collect(), ..Question::default() };
                let answer = state.ask(&question, NOW.plus(f64::from(round) * 1e-4)).await.unwrap();
                passed += u32::from(!answer.rules[0].exceeded);
                tokio::task::yield_now().await;
            }
            passed
        });
    }
    let passed = workers.join_all().await.into_iter().sum();
    (passed, commands(&server).get("evalsha").copied().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_rule_keeps_its_stated_bound_and_asks_seldom() {
    for (replicas, limit) in [(1, 200), (2, 100), (4, 100), (4, 20), (3, 2000)] {
        for settle in [true, false] {
            let (passed, calls) = admitted(replicas, limit, settle).await;
            let bound = limit + replicas as u32 * envoy_guard::state::allowance(limit);
            println!("{replicas} replicas, limit {limit}: {passed} passed, at most {bound}; {calls} calls");
            assert!(limit <= passed && passed <= bound, "{replicas} replicas, limit {limit}: {passed} of {bound}");
        }
    }
}

/// Counted with requests one after another: of those that find an allowance spent at the same moment each asks, so the
/// calls of many at once say how many there were, and how fast the machine is.
#[tokio::test]
async fn a_cached_rule_asks_once_for_each_allowance() {
    for limit in [2000, 200, 20] {
        let server = Server::start(&[]);
        let state = standalone(&server, "p:");
        let key = envoy_guard::state::Digest([9; 32]);
        let rule = Rule { key, limit, window: window(60), shadow: false, cached: true };
        server.cli(&["config", "resetstat"]);
        let mut passed = 0;
        for _ in 0..4 * limit {
            let question = Question { rules: [rule].into_iter().collect(), ..Question::default() };
            passed += u32::from(!state.ask(&question, NOW).await.unwrap().rules[0].exceeded);
        }
        // One request asks, and as many as the allowance do not; refusals are known from the last answer.
        let stretches = limit.div_ceil(envoy_guard::state::allowance(limit) + 1);
        let calls = commands(&server).get("evalsha").copied().unwrap_or_default();
        assert_eq!(passed, limit);
        let most = u64::from(stretches) + 1;
        assert!(calls <= most, "limit {limit}: {calls} calls instead of at most {most}");
    }
}

#[tokio::test]
async fn a_rule_that_was_only_looked_at_shows_no_write() {
    let server = Server::start(&[]);
    let state = standalone(&server, "p:");
    let rule = |byte, limit, cached| Rule {
        key: envoy_guard::state::Digest([byte; 32]),
        limit,
        window: window(60),
        shadow: false,
        cached,
    };
    // The first one is full, which is known here; so the second one is only looked at.
    let both = Question { rules: [rule(1, 1, true), rule(2, 100, false)].into_iter().collect(), ..Question::default() };
    assert!(!state.ask(&both, NOW).await.unwrap().rules[0].exceeded);
    let standing = state.ask(&both, NOW).await.unwrap().rules;
    assert_eq!((standing[0].exceeded, standing[1].exceeded), (true, false));
    server.cli(&["config", "set", "maxmemory", "1"]);
    soon("the loss is noticed", async || hit(&state, "203.0.113.1", NOW).await.is_err() && !state.is_well()).await;
    soon("looking works", async || state.ask(&both, NOW).await.is_ok()).await;
    assert!(!state.is_well(), "that reading works shows nothing");
    server.cli(&["config", "set", "maxmemory", "0"]);
    soon("hits count again", async || hit(&state, "203.0.113.1", NOW).await.is_ok()).await;
    assert!(state.is_well());
}

/// What a loss and its end leave in the log, with memory behind Redis and without.
#[tokio::test]
async fn a_loss_and_its_end_are_logged_once() {
    for (name, has_memory) in [("memory stands in", true), ("strict", false)] {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let mut server = Server::start(&[]);
        let redis = standalone(&server, "p:");
        let state = Arc::new(if has_memory {
            Backend::Failover(Box::new(Failover::new(redis, Memory::default())))
        } else {
            Backend::Redis(Box::new(redis))
        });
        let upkeep = Arc::clone(&state);
        let upkeep = tokio::spawn(async move { upkeep.maintain(|| NOW).await });
        for losses in 1..=2 {
            soon("it listens", async || state.health().is_listening && state.is_well()).await;
            server.kill();
            soon("the loss shows", async || {
                drop(hit(&*state, "203.0.113.1", NOW).await);
                !state.is_well()
            })
            .await;
            for _ in 0..200 {
                assert_eq!(hit(&*state, "203.0.113.1", NOW).await.is_ok(), has_memory);
            }
            server.restart();
            soon("its return shows", async || {
                drop(hit(&*state, "203.0.113.1", NOW).await);
                state.is_well() && log.count("redis is back") == losses
            })
            .await;
            assert_eq!(log.count("redis is lost"), losses, "{name}: {log:?}");
        }
        upkeep.abort();
    }
}

/// Seconds that a key has left.
fn ttl(server: &Server, key: &str) -> i64 {
    server.cli(&["ttl", key]).parse().unwrap()
}

/// Log lines in memory.
#[derive(Clone, Debug, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(text).count()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_cached_rule_admitted_is_settled_in_the_background() {
    let server = Server::start(&[]);
    let (one, other) = (Arc::new(standalone(&server, "p:")), standalone(&server, "p:"));
    let _upkeep = maintain(&one).await;
    let key = envoy_guard::state::Digest([9; 32]);
    let rule = Rule { key, limit: 100, window: window(60), shadow: false, cached: true };
    let ask = async |state: &Redis, rule: Rule| {
        let question = Question { rules: [rule].into_iter().collect(), ..Question::default() };
        state.ask(&question, NOW).await.unwrap().rules[0]
    };
    for count in 1..=11 {
        assert_eq!(ask(&one, rule).await.count, count);
    }
    let name = format!("p:envoy_guard:limit:{}", "09".repeat(32));
    soon("all eleven are in redis", async || server.cli(&["zcard", &name]) == "11").await;
    assert_eq!(ask(&other, Rule { cached: false, ..rule }).await.count, 12);
    let left: u64 = server.cli(&["ttl", &name]).parse().unwrap();
    assert!((1..=61).contains(&left), "{left}");
}

#[tokio::test]
async fn requests_under_cached_rules_alone_need_no_round_trip() {
    let server = Server::start(&[]);
    let state = Arc::new(standalone(&server, "p:"));
    let _upkeep = maintain(&state).await;
    let rules = [1, 2, 3].map(|byte| Rule {
        key: envoy_guard::state::Digest([byte; 32]),
        limit: 500,
        window: window(60),
        shadow: byte == 3,
        cached: true,
    });
    let question =
        Question { ban: Some(client("203.0.113.1")), rules: rules.into_iter().collect(), ..Question::default() };
    state.ask(&question, NOW).await.unwrap();
    server.cli(&["config", "resetstat"]);
    for _ in 0..40 {
        assert_eq!(state.ask(&question, NOW.plus(0.1)).await.unwrap().rules.len(), 3);
    }
    // The background may settle meanwhile: three keys at a time, however many requests there were.
    let calls = commands(&server).get("evalsha").copied().unwrap_or_default();
    assert!(calls <= 6, "{calls} calls");
}

/// How often each command was called since the counts were reset.
fn commands(server: &Server) -> HashMap<String, u64> {
    let stats = server.cli(&["info", "commandstats"]);
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    lines.map(|(name, rest)| (name.to_owned(), rest.split(',').next().unwrap().parse().unwrap())).collect()
}

/// Runs the upkeep of a replica until the guard is dropped; returns when it listens.
async fn maintain(state: &Arc<Redis>) -> tokio::task::JoinSet<()> {
    let (mut tasks, upkeep) = (tokio::task::JoinSet::new(), Arc::clone(state));
    let mut listening = state.patterns_changed();
    tasks.spawn(async move { upkeep.maintain(|| NOW).await });
    listening.changed().await.unwrap();
    tasks
}

/// Waits, bounded, until `holds`.
async fn soon(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(20), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn hit(state: &impl State, who: &str, now: Timestamp) -> Result<u64, StateError> {
    let limit = Limit { bucket: Bucket { client: client(who), path: None }, limit: 900, window: window(60) };
    let question = Question {
        ban: Some(client(who)),
        limits: [limit].into_iter().collect(),
        passive: false,
        ..Question::default()
    };
    Ok(state.ask(&question, now).await?.counts[0])
}

async fn ban_of(state: &impl State, who: &str, now: Timestamp) -> Result<Option<String>, StateError> {
    let question = Question { ban: Some(client(who)), ..Question::default() };
    Ok(state.ask(&question, now).await?.ban.map(|ban| ban.target.to_string()))
}

fn client(text: &str) -> Client<'_> {
    text.parse().map_or(Client::Text(text), |ip: std::net::IpAddr| Client::Address(ip.into()))
}

fn entry(text: &str) -> IpEntry {
    text.parse().unwrap()
}

fn window(seconds: u32) -> Window {
    Window::new(seconds).unwrap()
}
