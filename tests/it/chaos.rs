//! Redis fails in every way we know of while a real Envoy sends requests: nobody outside may notice.
//!
//! Each test drives the same mix: ordinary clients, clients whose ban the service knows (made by itself, read from
//! Redis, of a whole network), and one client beyond its limit. What must hold in each: no answer but the one the client
//! deserves, and soon after Redis is well the service is, too.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::load::{BROKEN, Kind, Load, Shot, Tally, rate};
use crate::redis_servers::{Cluster, Sentinels, Server, eventually};
use crate::stack::{Call, Stack};

/// After Redis is well again the service must be within this time.
const RECOVERY_MAX: Duration = Duration::from_secs(3);
/// Requests of the limited client that pass in a minute, counted in one place.
const LIMIT: u64 = 20;
/// Banned by the service itself, by another participant in Redis, and as part of a network.
const BANNED: [&str; 3] = ["192.0.2.1", "192.0.2.2", "203.0.113.77"];
const ATTACK: &str = "/items?id=1%27%20UNION%20SELECT%20login,password%20FROM%20users--";

const SECURITY: &str = r#"
rate_limit: 1000000
endpoint_rate_limits: { /limited: [20, 60] }
threat_ban_config: { sqli: { threshold: 1, duration: 600 } }
redis_prefix: "chaos:"
"#;

/// A whole installation under load.
struct Chaos {
    stack: Stack,
    load: Option<Load>,
    /// What is worth telling.
    notes: String,
}

impl Chaos {
    /// Starts the service on the Redis that `redis` (YAML inside `security:`) names, makes the bans known to it, and
    /// puts it under load. `seed` runs a command on that Redis.
    fn start(redis: &str, seed: impl Fn(&[&str])) -> Self {
        Self::with(redis, "", seed)
    }

    /// The same, with `rest` at the top level of the file.
    fn with(redis: &str, rest: &str, seed: impl Fn(&[&str])) -> Self {
        Self::ban_in_redis(&seed);
        let enabled = format!("enable_redis: true\n  {}", redis.replace('\n', "\n  "));
        let edit = |policy: String| policy.replace("enable_redis: false", &enabled);
        let stack = Stack::with_policy_edit(SECURITY, rest, |envoy| envoy, edit);
        let mut chaos = Self { stack, load: None, notes: String::new() };
        assert_eq!(chaos.stack.send(&Call::get(ATTACK).from(BANNED[0])).status, 403, "one attack bans");
        for who in BANNED {
            eventually("the ban is known", || chaos.stack.send(&Call::get("/").from(who)).status == 403);
        }
        chaos.recovered("at the start");
        chaos.load = Some(Load::start(chaos.stack.port, shot));
        std::thread::sleep(Duration::from_secs(1));
        chaos
    }

    fn on(server: &Server) -> Self {
        Self::start(&format!("redis_url: {}", server.url()), |command| {
            assert_eq!(server.cli(command), "OK");
        })
    }

    /// Writes the bans that the service did not make.
    fn ban_in_redis(seed: impl Fn(&[&str])) {
        let until = in_ten_minutes();
        seed(&["set", "chaos:banned_ips:192.0.2.2", &until, "ex", "600"]);
        seed(&["set", "chaos:banned_networks:203.0.113.0/24", &until, "ex", "600"]);
    }

    /// What readiness says about state.
    fn state(&self) -> String {
        let page = Call::get("/readyz").send(self.stack.admin);
        assert_eq!(page.status, 200, "a lost Redis takes nobody out of rotation");
        serde_json::from_str::<serde_json::Value>(&page.body).unwrap()["state"].as_str().unwrap().to_owned()
    }

    fn metric(&self, name: &str) -> u64 {
        let page = Call::get("/metrics").send(self.stack.admin).body;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("{} "));
        value.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
    }

    /// Waits until the service says that memory stands in.
    fn lost(&self) {
        eventually("the loss is noticed", || self.state() == "degraded");
    }

    /// Waits until the service says that Redis is used; from now on that must be soon.
    fn recovered(&mut self, what: &str) {
        let start = Instant::now();
        eventually("the recovery is noticed", || {
            self.state() == "well" && self.metric("envoy_guard_state_degraded") == 0
        });
        let time = start.elapsed();
        writeln!(self.notes, "{what}: well after {time:?}").unwrap();
        assert!(time < RECOVERY_MAX, "{}", self.notes);
    }

    /// Ends the load and holds everybody's answers against what they deserve. `places` is in how many places the limited
    /// client may have been counted from nothing. Returns what is worth telling.
    fn finish(mut self, places: u64) -> String {
        std::thread::sleep(Duration::from_secs(1));
        let mut tally: Tally = self.load.take().unwrap().stop();
        let mut notes = std::mem::take(&mut self.notes);
        writeln!(notes, "{} requests at {} a second: {:?}", tally.total(), rate(), tally.statuses).unwrap();
        writeln!(notes, "p50 {:?}, p99 {:?}", tally.quantile(0.5), tally.quantile(0.99)).unwrap();
        for name in
            ["state_stand_ins_total", "state_losses_total", "redis_failures_total", "redis_breaker_opened_total"]
        {
            writeln!(notes, "{name} {}", self.metric(&format!("envoy_guard_{name}"))).unwrap();
        }
        for kind in [Kind::Clean, Kind::Banned, Kind::Limited] {
            assert_eq!(tally.count(kind, |status| status == BROKEN || 500 <= status), 0, "errors: {notes}");
        }
        assert_eq!(tally.count(Kind::Clean, |status| status != 200), 0, "wrong denials: {notes}");
        assert_eq!(tally.count(Kind::Banned, |status| status != 403), 0, "wrong allows: {notes}");
        assert_eq!(tally.count(Kind::Limited, |status| status != 200 && status != 429), 0, "{notes}");
        let passed = tally.count(Kind::Limited, |status| status == 200);
        assert!((LIMIT..=places * LIMIT).contains(&passed), "limits hold in each place: {notes}");
        let log = self.stack.guard.log();
        let lines = log.matches("redis is lost").count() as u64;
        assert_eq!(lines, self.metric("envoy_guard_state_losses_total"), "each loss is logged once:\n{log}");
        assert!(!log.contains("panic"), "{log}");
        notes
    }
}

/// As guard-core writes it.
fn in_ten_minutes() -> String {
    format!("{:?}", envoy_guard::clock::now().0 + 600.0)
}

fn shot(number: u64) -> Shot {
    let (kind, client, path) = match number % 25 {
        0 | 8 | 16 => (Kind::Banned, BANNED[number as usize % BANNED.len()].to_owned(), "/"),
        4 => (Kind::Limited, "198.51.100.250".to_owned(), "/limited"),
        _ => (Kind::Clean, format!("198.51.100.{}", number % 200), "/"),
    };
    Shot { kind, client, path }
}

#[test]
fn redis_is_killed_and_comes_back_empty() {
    let mut server = Server::start(&[]);
    let mut chaos = Chaos::on(&server);
    server.kill();
    chaos.lost();
    std::thread::sleep(Duration::from_secs(1));
    server.restart();
    chaos.recovered("after the restart");
    eventually("hits are counted in Redis again", || server.cli(&["keys", "chaos:rate_limit:*"]).contains("198.51"));
    for key in ["chaos:banned_ips:192.0.2.1", "chaos:banned_ips:192.0.2.2", "chaos:banned_networks:203.0.113.0/24"] {
        eventually("the bans are in Redis again", || 500 < server.cli(&["ttl", key]).parse::<i64>().unwrap());
    }
    // Longer than a known ban is taken for granted.
    std::thread::sleep(Duration::from_secs(2));
    println!("{}", chaos.finish(3));
}

#[test]
fn redis_is_stuck_for_five_seconds() {
    let server = Server::start(&[]);
    let mut chaos = Chaos::on(&server);
    server.signal("STOP");
    chaos.lost();
    std::thread::sleep(Duration::from_secs(5));
    server.signal("CONT");
    chaos.recovered("after the pause");
    println!("{}", chaos.finish(2));
}

#[test]
fn the_memory_of_redis_is_full() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let mut chaos = Chaos::on(&server);
    server.cli(&["config", "set", "maxmemory", "1"]);
    chaos.lost();
    let before = chaos.metric("envoy_guard_state_losses_total");
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(chaos.state(), "degraded", "that reading works does not make Redis well");
    }
    assert_eq!(chaos.metric("envoy_guard_state_losses_total"), before);
    server.cli(&["config", "set", "maxmemory", "0"]);
    chaos.recovered("after memory was given");
    println!("{}", chaos.finish(2));
}

/// A wrong value is wrong for its key only: nobody else notices.
#[test]
fn keys_hold_values_of_the_wrong_type() {
    let server = Server::start(&[]);
    let mut chaos = Chaos::on(&server);
    for number in 0..40 {
        let (bucket, ban) = (
            format!("chaos:rate_limit:rate:198.51.100.{number}"),
            format!("chaos:banned_ips:198.51.100.{}", 100 + number),
        );
        server.cli(&["set", &bucket, "text"]);
        server.cli(&["rpush", &ban, "list"]);
    }
    for who in BANNED {
        server.cli(&["set", &format!("chaos:banned_ips:{who}"), "garbage"]);
    }
    server.cli(&["set", "chaos:banned_networks:203.0.113.0/24", "garbage"]);
    server.cli(&["set", "chaos:envoy_guard:data", "text"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(chaos.state(), "well", "Redis answers");
    assert!(0 < chaos.metric("envoy_guard_state_stand_ins_total"), "memory answers for the unusable keys");
    Chaos::ban_in_redis(|command| drop(server.cli(command)));
    server.cli(&["set", "chaos:banned_ips:192.0.2.1", &in_ten_minutes(), "ex", "600"]);
    for number in 0..40 {
        server.cli(&["del", &format!("chaos:rate_limit:rate:198.51.100.{number}")]);
        server.cli(&["del", &format!("chaos:banned_ips:198.51.100.{}", 100 + number)]);
    }
    chaos.recovered("after the keys were deleted");
    let before = chaos.metric("envoy_guard_state_stand_ins_total");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(chaos.metric("envoy_guard_state_stand_ins_total"), before);
    println!("{}", chaos.finish(2));
}

#[test]
fn the_way_to_redis_takes_200_milliseconds() {
    let server = Server::start(&[]);
    let slow = SlowPath::to(server.port);
    let mut chaos = Chaos::start(&format!("redis_url: redis://127.0.0.1:{}", slow.port), |command| {
        assert_eq!(server.cli(command), "OK");
    });
    slow.delay(Duration::from_millis(200));
    chaos.lost();
    std::thread::sleep(Duration::from_secs(3));
    slow.delay(Duration::ZERO);
    chaos.recovered("after the way was short again");
    println!("{}", chaos.finish(2));
}

#[test]
fn the_sentinels_fail_over() {
    let mut sentinels = Sentinels::start();
    let redis = format!("redis_url: {}", sentinels.master.url());
    let topology = format!("redis: {{ topology: sentinel, master: fleet, sentinels: {} }}", list(&sentinels.urls()));
    let mut chaos = Chaos::with(&redis, &topology, |command| assert_eq!(sentinels.master.cli(command), "OK"));
    sentinels.master.kill();
    chaos.lost();
    eventually("the replica is promoted", || sentinels.replica.cli(&["info", "replication"]).contains("role:master"));
    chaos.recovered("after the promotion");
    eventually("hits are counted there", || {
        sentinels.replica.cli(&["keys", "chaos:rate_limit:*"]).lines().count() > 100
    });
    for key in ["chaos:banned_ips:192.0.2.1", "chaos:banned_ips:192.0.2.2", "chaos:banned_networks:203.0.113.0/24"] {
        assert!(500 < sentinels.replica.cli(&["ttl", key]).parse::<i64>().unwrap(), "{key}");
    }
    std::thread::sleep(Duration::from_secs(2));
    println!("{}", chaos.finish(2));
}

#[test]
fn a_cluster_moves_its_slots() {
    let cluster = Cluster::start();
    let redis = format!("redis_url: {}", cluster.nodes[0].url());
    let urls: Vec<String> = cluster.nodes.iter().map(Server::url).collect();
    let topology = format!("redis: {{ topology: cluster, nodes: {} }}", list(&urls));
    let mut chaos = Chaos::with(&redis, &topology, |command| assert_eq!(cluster.nodes[0].cli_cluster(command), "OK"));
    let before = chaos.metric("envoy_guard_state_stand_ins_total");
    cluster.reshard(800);
    chaos.recovered("after the slots were moved");
    let during = chaos.metric("envoy_guard_state_stand_ins_total") - before;
    println!("{during} calls were answered by memory while slots moved");
    println!("{}", chaos.finish(2));
}

/// A YAML list of texts.
fn list(items: &[String]) -> String {
    format!("[\"{}\"]", items.join("\", \""))
}

/// A way to a port of this machine on which every packet takes its time, in each direction.
struct SlowPath {
    port: u16,
    milliseconds: Arc<AtomicU64>,
    _runtime: tokio::runtime::Runtime,
}

impl SlowPath {
    fn to(target: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let milliseconds = Arc::new(AtomicU64::new(0));
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let delay = Arc::clone(&milliseconds);
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_in, far_out, Arc::clone(&delay)));
                tokio::spawn(carry(far_in, near_out, Arc::clone(&delay)));
            }
        });
        Self { port, milliseconds, _runtime: runtime }
    }

    /// Half of the time each way.
    fn delay(&self, both_ways: Duration) {
        self.milliseconds.store(both_ways.as_millis() as u64 / 2, Ordering::Relaxed);
    }
}

/// Carries bytes on in order, each piece after the delay; reading goes on meanwhile.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Arc<AtomicU64>) {
    let (sender, mut pieces) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, piece)) = pieces.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now() + Duration::from_millis(delay.load(Ordering::Relaxed));
        if sender.send((due, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}
