//! Several services on one Redis, beside guard-core itself: what one decides, all enforce.

use std::sync::Arc;
use std::time::Duration;

use envoy_guard::app::patterns;
use envoy_guard::state::Patterns as _;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use serde_json::json;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::redis_interop::Python;
use crate::redis_servers::{Server, standalone};
use crate::stack::{Call, Process, free_port, guard, policy};

const ATTACK: &str = "/items?id=1%27%20UNION%20SELECT%20login,password%20FROM%20users--";
/// Participants' prefix.
const PREFIX: &str = "i:";
/// Every way Redis can be told of.
const OPEN: &str = "redis_fail_open: true";

/// One service.
pub(crate) struct Replica {
    pub(crate) process: Process,
    pub(crate) admin: u16,
    client: AuthorizationClient<Channel>,
    _folder: tempfile::TempDir,
}

impl Replica {
    /// Starts a service on `server`; `security` is YAML for the inside of `security:`, `rest` for the top level.
    pub(crate) async fn start(server: &Server, security: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (grpc, admin) = (free_port(), free_port());
        let redis = format!("enable_redis: true\n  redis_url: {}\n  redis_prefix: \"{PREFIX}\"", server.url());
        // A busy machine must not look like a lost Redis.
        let rest = format!("{rest}\nlimits: {{ state_deadline_ms: 5000 }}\n");
        let text = policy(security, &rest, grpc, admin).replace("enable_redis: false", &redis);
        let process = guard(folder.path(), &text, admin);
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{grpc}")).unwrap().connect().await.unwrap();
        Self { process, admin, client: AuthorizationClient::new(channel), _folder: folder }
    }

    /// The status that a request of `client` gets; 200 when it passes.
    pub(crate) async fn check(&self, client: &str, target: &str) -> i32 {
        let socket = SocketAddress { address: client.to_owned(), ..SocketAddress::default() };
        let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
        let http = HttpRequest {
            method: "GET".to_owned(),
            path: target.to_owned(),
            host: "example.com".to_owned(),
            scheme: "http".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            ..HttpRequest::default()
        };
        let attributes = AttributeContext {
            source: Some(Peer { address, ..Peer::default() }),
            request: Some(Request { http: Some(http), ..Request::default() }),
            ..AttributeContext::default()
        };
        let question = CheckRequest { attributes: Some(attributes) };
        let answer = self.client.clone().check(question).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.process.log())).into_inner();
        match answer.http_response {
            Some(HttpResponse::DeniedResponse(denied)) => denied.status.map_or(403, |status| status.code),
            _ if answer.status.is_some_and(|status| status.code == 0) => 200,
            // An error, in a form that this client is too old to know.
            _ => 500,
        }
    }

    /// A page of the admin port.
    pub(crate) fn page(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&Call::get(path).send(self.admin).body).unwrap()
    }

    fn state(&self) -> String {
        self.page("/readyz")["state"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_ban_by_one_is_enforced_by_the_other_at_once() {
    const BANS: usize = 200;
    let server = Server::start(&[]);
    let security = "rate_limit: 1000000\nthreat_ban_config: { sqli: { threshold: 1, duration: 600 } }";
    let (one, other) = (Replica::start(&server, security, "").await, Replica::start(&server, security, "").await);
    let mut times = Vec::new();
    for number in 0..BANS {
        let who = format!("198.18.0.{number}");
        assert_eq!(other.check(&who, "/").await, 200, "and remembers that the client is clean");
        assert_eq!(one.check(&who, ATTACK).await, 403);
        let start = Instant::now();
        while other.check(&who, "/").await != 403 {
            assert!(start.elapsed() < Duration::from_secs(20), "in vain");
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (p50, p99) = (times[BANS / 2], times[BANS * 99 / 100]);
    println!("{BANS} bans on one to enforcement on the other: p50 {p50:?}, p99 {p99:?}");
    assert!(p99 < Duration::from_millis(250), "{times:?}");
}

/// Shared by a participant that is no service, the way the commands and pages for operators do it.
#[tokio::test]
async fn a_shared_pattern_is_enforced_by_every_service_and_so_is_its_end() {
    const PATTERN: &str = "zebra-[0-9]{3,4}";
    let server = Server::start(&[]);
    let security = "rate_limit: 1000000";
    let services = [Replica::start(&server, security, "").await, Replica::start(&server, security, "").await];
    let state = standalone(&server, PREFIX);
    // A client of its own for each request: nobody is banned.
    let mut clients = (0..u16::MAX).map(|number| format!("198.18.{}.{}", number >> 8, number & 255));
    let mut status = async |service: &Replica, target: &str| service.check(&clients.next().unwrap(), target).await;
    for wanted in [400, 200] {
        let before = if wanted == 200 { 400 } else { 200 };
        for service in &services {
            assert_eq!(status(service, "/items?q=zebra-1234").await, before);
        }
        match wanted {
            200 => assert!(state.remove_pattern(PATTERN).await.unwrap()),
            _ => assert!(patterns::share(&state, PATTERN).await.unwrap()),
        }
        let start = Instant::now();
        for service in &services {
            while status(service, "/items?q=zebra-1234").await != wanted {
                assert!(start.elapsed() < Duration::from_secs(30), "in vain: {}", service.process.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(status(service, "/items?q=zebra-12").await, 200, "no match");
        }
        println!("a pattern shared or taken away: in force on both services after {:?}", start.elapsed());
    }
    assert!(patterns::share(&state, "zebra-(").await.is_err(), "what does not compile is not shared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_limit_admits_exactly_its_number() {
    const LIMIT: usize = 200;
    let server = Server::start(&[]);
    let security = format!("rate_limit: 1000000\nendpoint_rate_limits: {{ /shared: [{LIMIT}, 600] }}");
    let replicas =
        [Replica::start(&server, &security, "").await, Replica::start(&server, &security, "").await].map(Arc::new);
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..32 {
        let replica = Arc::clone(&replicas[worker % 2]);
        tasks.spawn(async move {
            let mut passed = [0, 0];
            for _ in 0..20 {
                let status = replica.check("198.18.0.1", "/shared").await;
                assert!(status == 200 || status == 429, "{status}");
                passed[worker % 2] += usize::from(status == 200);
            }
            passed
        });
    }
    let passed = tasks.join_all().await.into_iter().fold([0, 0], |sum, own| [sum[0] + own[0], sum[1] + own[1]]);
    println!("of 640 requests by 32 at once the replicas admitted {passed:?}");
    assert_eq!(passed[0] + passed[1], LIMIT);
    assert!(passed.iter().all(|own| 0 < *own), "both took part");
}

/// Scenarios 1, 2, 3, 5 and 12 through the service: bans, and who is not counted.
#[tokio::test]
async fn bans_of_guard_core_and_of_the_service_hold_on_both_sides() {
    let server = Server::start(&[]);
    let mut python = Python::start(&server);
    let security = "rate_limit: 1000\nexempt_ips: [\"198.18.1.1\", \"198.18.1.2\", \"198.18.1.3\"]\n\
                    blacklist: [\"198.18.1.2\"]\nthreat_ban_config: { sqli: { threshold: 1, duration: 600 } }";
    let replica = Replica::start(&server, security, "").await;
    python.ask(json!({"op": "ban", "ip": "::ffff:198.18.0.1", "seconds": 900}));
    let before = server.cli(&["get", "i:banned_ips:198.18.0.1"]);
    assert_eq!(replica.check("198.18.0.1", "/").await, 403);
    assert_eq!(replica.check("::ffff:198.18.0.1", "/").await, 403);
    assert_eq!(replica.check("198.18.0.2", "/").await, 200);
    assert_eq!(server.cli(&["get", "i:banned_ips:198.18.0.1"]), before);
    assert!(server.cli(&["ttl", "i:banned_ips:198.18.0.1"]).parse::<i64>().unwrap() <= 900);

    assert_eq!(replica.check("198.18.0.3", ATTACK).await, 403);
    assert_eq!(python.ask(json!({"op": "is_banned", "ip": "198.18.0.3"})), true);
    let value = server.cli(&["get", "i:banned_ips:198.18.0.3"]);
    assert!(regex::Regex::new(r"^\d+\.\d+$").unwrap().is_match(&value), "{value}");
    assert!((value.parse::<f64>().unwrap() - envoy_guard::clock::now().0 - 600.0).abs() < 5.0, "{value}");

    // Lifted by guard-core, which tells nobody: seen when what is known here is two seconds old.
    python.ask(json!({"op": "unban", "ip": "198.18.0.3"}));
    let start = Instant::now();
    while replica.check("198.18.0.3", "/").await != 200 {
        assert!(start.elapsed() < Duration::from_secs(20), "in vain");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    python.ask(json!({"op": "ban", "ip": "198.18.1.3", "seconds": 900}));
    for (who, status) in [("198.18.1.1", 200), ("198.18.1.2", 403), ("198.18.1.3", 403)] {
        assert_eq!(replica.check(who, "/").await, status, "{who}");
    }
    assert_eq!(server.cli(&["keys", "i:rate_limit:rate:198.18.1.*"]), "", "exempt clients are not counted");
    let white = Replica::start(&server, "rate_limit: 1000\nwhitelist: [\"198.18.1.0/24\"]", "").await;
    assert_eq!(white.check("198.18.1.1", "/").await, 200);
    assert_eq!(white.check("198.18.1.3", "/").await, 403, "a ban beats the whitelist");
    assert_eq!(server.cli(&["keys", "i:rate_limit:rate:198.18.1.*"]), "", "nor are clients on the whitelist");
}

/// Scenarios 7, 8, 9 and 11 through the service: one history, whoever writes it.
#[tokio::test]
async fn limits_of_guard_core_and_of_the_service_count_together() {
    let server = Server::start(&[]);
    let mut python = Python::start(&server);
    let security = "rate_limit: 6\nendpoint_rate_limits: { \"/a b/café\": [4, 60], /both: [100, 60] }";
    let routes = "routes:\n  - name: both\n    match: [{ path: /both }]\n    rate_limit: 3\n    rate_limit_window: 10";
    let replica = Replica::start(&server, security, routes).await;
    let mut statuses = Vec::new();
    for round in 0..10 {
        statuses.push(if round % 2 == 0 {
            let hit = json!({"op": "hit", "ip": "198.18.0.1", "path": null, "limit": 6, "window": 60});
            if python.ask(hit) == true { 200 } else { 429 }
        } else {
            replica.check("198.18.0.1", "/").await
        });
        if round == 4 {
            server.cli(&["script", "flush"]);
        }
    }
    assert_eq!(statuses, [[200; 6].as_slice(), &[429; 4]].concat());
    assert_eq!(server.cli(&["zcard", "i:rate_limit:rate:198.18.0.1"]), "10");
    let ttl: u32 = server.cli(&["ttl", "i:rate_limit:rate:198.18.0.1"]).parse().unwrap();
    assert!((61..=120).contains(&ttl), "twice the window: {ttl}");

    let hit = json!({"op": "hit", "ip": "198.18.0.2", "path": "/a b/café", "limit": 4, "window": 60});
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(replica.check("198.18.0.2", "/a%20b/caf%C3%A9").await);
        statuses.push(if python.ask(hit.clone()) == true { 200 } else { 429 });
    }
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);

    // Two tiers on one path are one hit here, and two in guard-core: its limit of 3 would refuse the second request.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(replica.check("198.18.0.3", "/both").await);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    let key = server.cli(&["keys", "i:rate_limit:rate:198.18.0.3:*"]);
    assert_eq!(server.cli(&["zcard", &key]), "4");
    let hit = json!({"op": "hit", "ip": "198.18.0.3", "path": "/both", "limit": 4, "window": 60});
    assert_eq!(python.ask(hit), false, "guard-core counts ours");
}

/// Scenario 22: twenty thousand clients, two hundred requests at once, half of them guard-core's. Each client may pass
/// once, and both sides ask for each: whoever is first is the only one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_both_sides_pass_exactly_their_limits() {
    const CLIENTS: usize = 20_000;
    let server = Server::start(&[]);
    let mut python = Python::start(&server);
    let replica = Arc::new(Replica::start(&server, "rate_limit: 1\nrate_limit_window: 600", "").await);
    let clients: Arc<Vec<String>> =
        Arc::new((0..CLIENTS).map(|number| format!("198.19.{}.{}", number / 250, number % 250)).collect());
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..100 {
        let (replica, clients) = (Arc::clone(&replica), Arc::clone(&clients));
        tasks.spawn(async move {
            let mut passed = Vec::new();
            for at in (worker..CLIENTS).step_by(100) {
                passed.push((at, usize::from(replica.check(&clients[at], "/").await == 200)));
            }
            passed
        });
    }
    let theirs = {
        // From the other end, so that each side is first with some.
        let reversed: Vec<&String> = clients.iter().rev().collect();
        let command = json!({"op": "hits", "ips": reversed, "times": 1, "limit": 1, "window": 600});
        tokio::task::spawn_blocking(move || python.ask(command)).await.unwrap()
    };
    let mut passed: Vec<usize> = theirs
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|count| usize::try_from(count.as_u64().unwrap()).unwrap())
        .collect();
    let theirs: usize = passed.iter().sum();
    for (at, count) in tasks.join_all().await.into_iter().flatten() {
        passed[at] += count;
    }
    println!("guard-core admitted {theirs} of {} requests of {CLIENTS} clients", passed.iter().sum::<usize>());
    let wrong: Vec<usize> = (0..CLIENTS).filter(|at| passed[*at] != 1).collect();
    assert!(wrong.is_empty(), "{} clients did not pass exactly once, such as {:?}", wrong.len(), wrong.first());
    assert!((1..CLIENTS).contains(&theirs), "both took part");
    assert!(!server.cli(&["info", "commandstats"]).contains("cmdstat_keys:"), "nobody lists keys");
}

/// Scenario 19: what a loss means for each pair of settings, and that nothing has to be restarted.
#[tokio::test]
async fn a_loss_means_what_the_settings_say() {
    for (open, secure, lost) in [(true, true, 200), (true, false, 200), (false, true, 500), (false, false, 200)] {
        let mut server = Server::start(&[]);
        let security = format!(
            "rate_limit: 5\nblacklist: [\"198.18.0.9\"]\nredis_fail_open: {open}\nfail_secure: {secure}\n\
             endpoint_rate_limits: {{ /e: [2, 60] }}"
        );
        let replica = Replica::start(&server, &security, "").await;
        assert_eq!(replica.check("198.18.0.1", "/").await, 200);
        server.kill();
        let mut times = Vec::new();
        let mut passed = 0;
        for _ in 0..100 {
            let start = Instant::now();
            let status = replica.check("198.18.0.2", "/e").await;
            times.push(start.elapsed());
            assert!(status == lost || (open && status == 429), "{open} {secure}: {status}");
            passed += u32::from(status == 200);
        }
        let expected = if open {
            2
        } else if lost == 200 {
            100
        } else {
            0
        };
        assert_eq!(passed, expected, "{open} {secure}: memory counts, or nobody does");
        times.sort_unstable();
        println!("open {open}, secure {secure}: p99 while lost {:?}", times[98]);
        if lost == 200 {
            assert_eq!(replica.check("198.18.0.9", "/").await, 403, "lists need no Redis");
        }
        assert_eq!(replica.state(), "degraded");
        server.restart();
        let start = Instant::now();
        while replica.check("198.18.0.3", "/").await != 200 || replica.state() != "well" {
            assert!(start.elapsed() < Duration::from_secs(20), "in vain");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(replica.check("198.18.0.4", "/").await, 200);
        assert_eq!(server.cli(&["zcard", "i:rate_limit:rate:198.18.0.4"]), "1", "counts resume in Redis");
    }
}

/// Scenario 20: Redis is not there yet.
#[tokio::test]
async fn a_service_starts_before_its_redis() {
    for (mode, early) in [(OPEN, 200), ("redis_fail_open: false", 500)] {
        let mut server = Server::start(&[]);
        server.kill();
        let replica = Replica::start(&server, &format!("rate_limit: 100\n{mode}"), "").await;
        for _ in 0..20 {
            assert_eq!(replica.check("198.18.0.1", "/").await, early, "{mode}");
        }
        assert_eq!(replica.state(), "degraded");
        server.restart();
        let start = Instant::now();
        while replica.check("198.18.0.2", "/").await != 200 || replica.state() != "well" {
            assert!(start.elapsed() < Duration::from_secs(20), "in vain");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        replica.check("198.18.0.3", "/").await;
        assert_eq!(server.cli(&["zcard", "i:rate_limit:rate:198.18.0.3"]), "1", "{mode}");
    }
}

/// Scenario 21: a Redis that takes commands and does not answer costs a request its deadline, not its patience.
#[tokio::test]
async fn a_paused_redis_costs_no_request_more_than_its_deadline() {
    let server = Server::start(&[]);
    let replica = Replica::start(&server, "rate_limit: 1000", "").await;
    assert_eq!(replica.check("198.18.0.1", "/").await, 200);
    server.cli(&["client", "pause", "6000"]);
    let start = Instant::now();
    assert_eq!(replica.check("198.18.0.1", "/").await, 200);
    println!("answered after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(6), "memory answered before Redis did");
}
