//! The same Redis as guard-core: its published cases, and the library itself on the other side.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use envoy_guard::clock;
use envoy_guard::model::addr::{Client, IpEntry};
use envoy_guard::model::time::{Timestamp, Window};
use envoy_guard::state::formats::{self, Rules, RulesSnapshot};
use envoy_guard::state::keys::digest;
use envoy_guard::state::redis::Redis;
use envoy_guard::state::{Bucket, Limit, Patterns, Question, State, Track};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::mmdb::{Layout, database};
use crate::redis_servers::{Server, standalone};

const PREFIX: &str = "guard_core:corpus_rio:";

#[tokio::test]
async fn guard_cores_cases_come_out_byte_for_byte() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/conformance/redis_interop.json");
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}; run tests/tools/setup.sh", path.display()));
    let suite: Value = serde_json::from_str(&text).unwrap();
    let server = Server::start(&[]);
    let state = standalone(&server, PREFIX);
    let cases = suite["cases"].as_array().unwrap();
    for case in cases {
        server.cli(&["flushall"]);
        perform(&state, &case["operation"], &case["expected"][0]).await;
        for expected in case["expected"].as_array().unwrap() {
            check(&server, &case["id"], expected);
        }
        assert_eq!(server.cli(&["dbsize"]), case["expected"].as_array().unwrap().len().to_string(), "{}", case["id"]);
    }
    assert_eq!(cases.len(), 14);
}

/// Does with our own means what the case did with guard-core's.
async fn perform(state: &Redis, operation: &Value, expected: &Value) {
    let args = &operation["args"];
    let text = |name: &str| args[name].as_str().unwrap_or_default();
    let seconds = |name: &str| u32::try_from(args[name].as_u64().unwrap()).unwrap();
    let ttl = |name: &str| args[name].as_u64().and_then(|seconds| NonZeroU32::new(u32::try_from(seconds).unwrap()));
    let client = client(text("client_ip"));
    match operation["op"].as_str().unwrap() {
        "rate_limit" => {
            let path = args["endpoint_path"].as_str().map(digest);
            hit(state, text("client_ip"), path, (seconds("rate_limit"), seconds("rate_limit_window"))).await;
        }
        "ban_ip" => state.ban(entry(text("ip")), window(seconds("duration")), text("reason"), now()).await.unwrap(),
        "behavior_usage" | "behavior_returns" | "behavior_return" => {
            let rule = &args["rule"];
            let track =
                Track { client, endpoint: digest(text("endpoint_id")), pattern: rule["pattern"].as_str().map(digest) };
            let length = u32::try_from(rule["window"].as_u64().unwrap()).unwrap();
            assert_eq!(state.observe(track, window(length), now()).await.unwrap(), 1);
        }
        "security_headers" => {
            let (name, value) = args.as_object().unwrap().iter().next().unwrap();
            state.set("security_headers", name, &formats::spaced_json(value), NonZeroU32::new(86_400)).await.unwrap();
        }
        "add_pattern" => assert!(state.add_pattern(text("pattern")).await.unwrap()),
        "ipinfo_database" => {
            // The case gives the fixture's bytes only in their stored form.
            let bytes = formats::text_as_bytes(expected["value"].as_str().unwrap()).unwrap();
            state.set("ipinfo", "database", &formats::bytes_as_text(&bytes), ttl("max_age")).await.unwrap();
        }
        "cloud_ranges" => {
            let region = |range: &str| args["regions"][range].as_str().map(|region| format!("{range}|{region}"));
            let ranges = args["ranges"].as_array().unwrap().iter().filter_map(Value::as_str);
            let entries: Vec<String> = ranges.map(|range| region(range).unwrap_or_else(|| range.to_owned())).collect();
            let value = formats::cloud_ranges(&entries);
            state.set("cloud_ranges_v2", text("provider"), &value, ttl("ttl")).await.unwrap();
        }
        "cloud_ip_store" => {
            let entries = serde_json::from_value(args["ranges"].clone()).unwrap();
            state.set("cloud_ip_v2", text("provider"), &formats::cloud_store(&entries), ttl("ttl")).await.unwrap();
        }
        "dynamic_rules" => {
            let rules: Rules = serde_json::from_value(args["rules"].clone()).unwrap();
            let snapshot = RulesSnapshot::new(rules).text();
            state.set("dynamic_rules", "last_known", &snapshot, None).await.unwrap();
        }
        other => panic!("an operation we do not know: {other}"),
    }
}

/// Compares a key with what the case pins.
fn check(server: &Server, case: &Value, expected: &Value) {
    let key = expected["key"].as_str().unwrap();
    let kind = expected["type"].as_str().unwrap();
    let stored = if kind == "json" { "string" } else { kind };
    assert_eq!(server.cli(&["type", key]), stored, "{case}: {key}");
    let ttl: i64 = server.cli(&["ttl", key]).parse().unwrap();
    match expected["ttl"]["seconds"].as_i64() {
        Some(seconds) => assert!((seconds - 30..=seconds).contains(&ttl), "{case}: {ttl}"),
        None => assert_eq!(ttl, -1, "{case}"),
    }
    if let Some(value) = expected["value"].as_str() {
        assert_eq!(server.cli(&["get", key]), value, "{case}");
    }
    let shaped = |shape: &str, text: &str| {
        let shape = expected[shape].as_str().map(|shape| regex::Regex::new(shape).unwrap());
        assert!(shape.is_none_or(|shape| shape.is_match(text)), "{case}: {text}");
    };
    if kind == "zset" {
        let content = server.cli(&["zrange", key, "0", "-1", "withscores"]);
        let lines: Vec<&str> = content.lines().collect();
        let [member, score] = lines[..] else { panic!("{case}: {content}") };
        assert_eq!(expected["card"], 1);
        shaped("member_shape", member);
        if expected["score_equals_member"] == true {
            assert_eq!(member.parse::<f64>().unwrap(), score.parse::<f64>().unwrap(), "{case}");
        }
    } else {
        shaped("value_shape", &server.cli(&["get", key]));
    }
}

#[tokio::test]
async fn bans_hold_on_both_sides() {
    let server = Server::start(&[]);
    let (state, mut python) = (standalone(&server, "i:"), Python::start(&server));
    assert_eq!(python.ask(json!({"op": "ban", "ip": "::ffff:203.0.113.8", "seconds": 900})), true);
    assert!(is_banned(&state, "203.0.113.8").await);
    assert!(is_banned(&state, "::ffff:203.0.113.8").await);
    assert!(!is_banned(&state, "203.0.113.9").await);
    for (target, asked) in [("::ffff:203.0.113.10", "203.0.113.10"), ("2001:DB8:0::1", "2001:db8::1")] {
        state.ban(entry(target), window(120), "interop", now()).await.unwrap();
        assert_eq!(python.ask(json!({"op": "is_banned", "ip": asked})), true, "{asked}");
        let key = format!("i:banned_ips:{asked}");
        let value = server.cli(&["get", &key]);
        assert!((now().0 + 120.0 - value.parse::<f64>().unwrap()).abs() < 1.0 && value.contains('.'), "{value}");
        let ttl: u32 = server.cli(&["ttl", &key]).parse().unwrap();
        assert!((60..=120).contains(&ttl), "{ttl}");
    }
    assert!(state.unban(entry("203.0.113.8"), now()).await.unwrap());
    let mut fresh = Python::start(&server);
    assert_eq!(fresh.ask(json!({"op": "is_banned", "ip": "203.0.113.8"})), false);
    python.ask(json!({"op": "unban", "ip": "2001:db8::1"}));
    assert!(!is_banned(&standalone(&server, "i:"), "2001:db8::1").await);
    python.ask(json!({"op": "ban", "ip": "198.51.100.77/24", "seconds": 900}));
    assert_eq!(server.cli(&["exists", "i:banned_networks:198.51.100.0/24"]), "1");
    assert_eq!(state.bans(None, 100, now()).await.unwrap().bans.len(), 2, "ours of 203.0.113.10 and the network");
}

#[tokio::test]
async fn hits_of_both_sides_count_together() {
    let server = Server::start(&[]);
    let (state, mut python) = (standalone(&server, "i:"), Python::start(&server));
    for (ip, path) in [("203.0.113.20", None), ("2001:db8::20", Some("/a b")), ("203.0.113.20", Some("/café"))] {
        let mut passed = Vec::new();
        for round in 0..10 {
            passed.push(if round % 2 == 0 {
                let command = json!({"op": "hit", "ip": ip, "path": path, "limit": 6, "window": 60});
                python.ask(command).as_bool().unwrap()
            } else {
                hit(&state, ip, path.map(digest), (6, 60)).await <= 6
            });
            if round == 4 {
                server.cli(&["script", "flush"]);
            }
        }
        assert_eq!(passed, [true, true, true, true, true, true, false, false, false, false], "{ip} {path:?}");
    }
    assert_eq!(server.cli(&["dbsize"]), "3", "both sides use the same keys");
    assert_eq!(server.cli(&["zcard", "i:rate_limit:rate:203.0.113.20"]), "10", "refused hits are recorded");
    let ttl: u32 = server.cli(&["ttl", "i:rate_limit:rate:203.0.113.20"]).parse().unwrap();
    assert!((61..=120).contains(&ttl), "twice the window: {ttl}");
}

#[tokio::test]
async fn behaviour_of_both_sides_counts_together() {
    let server = Server::start(&[]);
    let (state, mut python) = (standalone(&server, "i:"), Python::start(&server));
    for pattern in [None, Some("status:404")] {
        let track =
            Track { client: client("203.0.113.20"), endpoint: digest("app.views.login"), pattern: pattern.map(digest) };
        let mut fired = Vec::new();
        for round in 0..6 {
            fired.push(if round % 2 == 0 {
                let op = if pattern.is_some() { "returned" } else { "usage" };
                let command = json!({"op": op, "ip": "203.0.113.20", "endpoint": "app.views.login", "threshold": 3, "window": 60, "status": 404});
                python.ask(command).as_bool().unwrap()
            } else {
                3 < state.observe(track, window(60), now()).await.unwrap()
            });
        }
        assert_eq!(fired, [false, false, false, true, true, true], "{pattern:?}");
    }
    assert_eq!(server.cli(&["dbsize"]), "2", "both sides use the same keys");
}

#[tokio::test]
async fn ranges_and_patterns_are_read_by_both_sides() {
    let server = Server::start(&[]);
    let (state, mut python) = (standalone(&server, "i:"), Python::start(&server));
    let ranges = json!(["10.0.0.0/8", "203.0.113.0/25|us-east-1"]);
    python.ask(json!({"op": "cloud_set", "provider": "AWS", "ranges": ranges, "ttl": 60}));
    let theirs = state.get("cloud_ip_v2", "AWS").await.unwrap().unwrap();
    let read = formats::read_cloud_store(&theirs).unwrap();
    assert_eq!(json!(read), ranges);
    state.set("cloud_ip_v2", "GCP", &formats::cloud_store(&read), None).await.unwrap();
    assert_eq!(python.ask(json!({"op": "cloud_get", "provider": "GCP"})), ranges);
    assert_eq!(server.cli(&["get", "i:cloud_ip_v2:GCP"]), theirs);

    // guard-core times a pattern before it takes it, and refuses any while the machine is busy.
    let mut tries = 0;
    while python.ask(json!({"op": "patterns"})) != json!(["theirs-[a-z]+"]) {
        tries += 1;
        assert!(tries < 60, "guard-core refuses the pattern");
        python.ask(json!({"op": "pattern_add", "pattern": "theirs-[a-z]+"}));
    }
    assert!(state.add_pattern("ours-[a-z]+").await.unwrap());
    assert!(!state.add_pattern("ours-[a-z]+").await.unwrap(), "it is there already");
    assert!(state.add_pattern("comma-[0-9]{2,3}").await.unwrap());
    assert!(state.add_pattern("").await.is_err());
    let all: Vec<String> = state.patterns().await.unwrap().into_iter().collect();
    assert_eq!(all, ["comma-[0-9]{2,3}", "ours-[a-z]+", "theirs-[a-z]+"]);
    let mut fresh = Python::start(&server);
    assert_eq!(fresh.ask(json!({"op": "patterns"})), json!(["ours-[a-z]+", "theirs-[a-z]+"]));
    for pattern in ["ours-[a-z]+", "theirs-[a-z]+", "comma-[0-9]{2,3}"] {
        assert!(state.remove_pattern(pattern).await.unwrap());
    }
    assert_eq!(server.cli(&["exists", "i:patterns:custom"]), "1");
    assert_eq!(server.cli(&["get", "i:patterns:custom"]), "");
}

/// Scenario 4: both sides move a ban under an old spelling, to the same key.
#[tokio::test]
async fn bans_under_old_spellings_are_moved_alike() {
    let mut moved = Vec::new();
    for is_ours in [true, false] {
        let server = Server::start(&[]);
        let until = now().0 + 900.0;
        for (name, seconds) in [("::ffff:203.0.113.1", "900"), ("::ffff:203.0.113.2", "100"), ("203.0.113.2", "900")] {
            server.cli(&["set", &format!("i:banned_ips:{name}"), &format!("{until:?}"), "ex", seconds]);
        }
        server.cli(&["set", "i:banned_ips:::ffff:203.0.113.3", "1"]);
        if is_ours {
            standalone(&server, "i:").migrate_bans().await.unwrap();
        } else {
            Python::start(&server);
        }
        let mut keys: Vec<String> = server.cli(&["keys", "i:banned_ips:*"]).lines().map(str::to_owned).collect();
        keys.sort_unstable();
        for key in &keys {
            assert_eq!(server.cli(&["get", key]), format!("{until:?}"));
            assert!((800..=900).contains(&server.cli(&["ttl", key]).parse::<i32>().unwrap()), "{key}");
        }
        moved.push(keys);
    }
    assert_eq!(moved[0], ["i:banned_ips:203.0.113.1", "i:banned_ips:203.0.113.2"]);
    assert_eq!(moved[0], moved[1]);
}

/// Scenario 6: every form of an expiry means the same on both sides.
#[tokio::test]
async fn the_expiry_means_the_same_in_any_form() {
    let server = Server::start(&[]);
    let mut python = Python::start(&server);
    let later = now().0.ceil() + 900.0;
    for (number, (value, banned)) in [
        (format!("{later:?}"), true),
        (format!("{later:.0}"), true),
        (format!("{later:e}"), true),
        ("1.5".into(), false),
    ]
    .into_iter()
    .enumerate()
    {
        for side in 0..2 {
            let (who, key) = (format!("203.0.113.{number}"), format!("i:banned_ips:203.0.113.{number}"));
            server.cli(&["set", &key, &value]);
            let found = match side {
                0 => python.ask(json!({"op": "is_banned", "ip": who})) == true,
                _ => is_banned(&standalone(&server, "i:"), &who).await,
            };
            assert_eq!(found, banned, "side {side}: {value}");
            assert_eq!(server.cli(&["exists", &key]), u8::from(banned).to_string(), "what has ended is deleted");
        }
    }
    server.cli(&["set", "i:banned_ips:203.0.113.9", "garbage"]);
    assert!(python.try_ask(json!({"op": "is_banned", "ip": "203.0.113.9"})).get("error").is_some());
    let state = standalone(&server, "i:");
    let question = Question { ban: Some(client("203.0.113.9")), ..Question::default() };
    assert!(matches!(state.ask(&question, now()).await, Err(envoy_guard::state::StateError::Corrupt(_))));
}

/// Scenario 10: what left the window is out on both sides, at its very edge too.
#[tokio::test]
async fn the_window_ends_at_the_same_moment_on_both_sides() {
    let server = Server::start(&[]);
    let (state, mut python) = (standalone(&server, "i:"), Python::start(&server));
    for side in 0..2 {
        let who = format!("203.0.113.{side}");
        let key = format!("i:rate_limit:rate:{who}");
        let moment = now().0;
        for age in [300.0, 60.0, 30.0, 1.0] {
            let score = format!("{:?}", moment - age);
            server.cli(&["zadd", &key, &score, &score]);
        }
        let passed = match side {
            0 => python.ask(json!({"op": "hit", "ip": who, "path": null, "limit": 3, "window": 60})) == true,
            _ => hit(&state, &who, None, (3, 60)).await <= 3,
        };
        assert!(passed, "side {side}: two of four and this one");
        assert_eq!(server.cli(&["zcard", &key]), "3", "side {side}");
    }
    let edge = Timestamp(1_800_000_000.0);
    server.cli(&["zadd", "i:rate_limit:rate:203.0.113.9", "1799999940", "a", "1799999940.0000005", "b"]);
    let limit = Limit { bucket: Bucket { client: client("203.0.113.9"), path: None }, limit: 9, window: window(60) };
    let question = Question { limits: [limit].into_iter().collect(), ..Question::default() };
    assert_eq!(state.ask(&question, edge).await.unwrap().counts[0], 2, "exactly one window old is out");
}

/// Scenario 15: ranges without regions, with a carve-out, and none at all.
#[tokio::test]
async fn ranges_of_every_kind_are_read_by_both_sides() {
    let server = Server::start(&[]);
    let (state, mut python) = (standalone(&server, "i:"), Python::start(&server));
    for (provider, ranges) in [
        ("Azure", json!(["10.0.0.0/8", "2001:db8::/32"])),
        ("AWS", json!(["203.0.113.0/24|us-east-1", "203.0.113.128/25|eu-west-1"])),
        ("GCP", json!([])),
    ] {
        python.ask(json!({"op": "cloud_set", "provider": provider, "ranges": ranges, "ttl": 60}));
        let theirs = state.get("cloud_ip_v2", provider).await.unwrap().unwrap();
        let read = formats::read_cloud_store(&theirs).unwrap();
        assert_eq!(json!(read), ranges);
        state.set("cloud_ip_v2", provider, &formats::cloud_store(&read), NonZeroU32::new(60)).await.unwrap();
        assert_eq!(server.cli(&["get", &format!("i:cloud_ip_v2:{provider}")]), theirs);
        assert_eq!(python.ask(json!({"op": "cloud_get", "provider": provider})), ranges);
    }
}

/// Scenario 17: a snapshot of dynamic rules by either side is taken by the other, and one with a strange field by none.
#[tokio::test]
async fn snapshots_of_rules_are_read_by_both_sides() {
    let server = Server::start(&[]);
    let (state, mut python) = (standalone(&server, "i:"), Python::start(&server));
    let rules = json!({
        "rule_id": "r2", "version": 1, "timestamp": "2026-01-01T00:00:00+02:00", "expires_at": "2099-01-01T00:00:00",
        "ttl": 0, "ip_ban_duration": 3600, "blocked_countries": ["FR"], "endpoint_rate_limits": {"/a": [5, 60]},
    });
    python.ask(json!({"op": "rules_write", "rules": rules}));
    let theirs = state.get("dynamic_rules", "last_known").await.unwrap().unwrap();
    let read = RulesSnapshot::read(&theirs).unwrap();
    assert_eq!(read.text(), theirs, "byte for byte");
    state.delete("dynamic_rules", "last_known").await.unwrap();
    assert_eq!(python.ask(json!({"op": "rules_read"})), Value::Null);
    state.set("dynamic_rules", "last_known", &read.text(), None).await.unwrap();
    let taken = python.ask(json!({"op": "rules_read"}));
    assert_eq!((&taken["rule_id"], &taken["blocked_countries"]), (&json!("r2"), &json!(["FR"])));
    let strange = theirs.replace("\"rule_id\"", "\"strange\":1,\"rule_id\"");
    assert!(RulesSnapshot::read(&strange).is_none());
    server.cli(&["set", "i:dynamic_rules:last_known", &strange]);
    assert_eq!(python.ask(json!({"op": "rules_read"})), Value::Null);
}

/// Scenario 18: a country database that either side stored is found whole by the other.
#[tokio::test]
async fn the_country_database_is_read_by_both_sides() {
    let server = Server::start(&[]);
    let (state, mut python) = (standalone(&server, "i:"), Python::start(&server));
    let address: std::net::Ipv4Addr = "198.51.100.9".parse().unwrap();
    let bytes = database(Layout::IpInfo, &[(address, "SE".to_owned())].into());
    let folder = tempfile::TempDir::new().unwrap();
    let served = folder.path().join("served.mmdb");
    std::fs::write(&served, &bytes).unwrap();
    // guard-core downloads it and stores it; what we read is what was served.
    let first = folder.path().join("first");
    python.ask(json!({"op": "geo_fetch", "folder": first, "served": served}));
    let stored = state.get("ipinfo", "database").await.unwrap().unwrap();
    assert_eq!(Sha256::digest(formats::text_as_bytes(&stored).unwrap()), Sha256::digest(&bytes));
    assert_eq!(std::fs::read(first.join("country_asn.mmdb")).unwrap(), bytes);
    let ttl: u32 = server.cli(&["ttl", "i:ipinfo:database"]).parse().unwrap();
    assert!((86_300..=86_400).contains(&ttl), "{ttl}");
    // We store another one; guard-core, which may download nothing, takes it and answers from it.
    let ours = database(Layout::IpInfo, &[(address, "NO".to_owned())].into());
    state.set("ipinfo", "database", &formats::bytes_as_text(&ours), NonZeroU32::new(86_400)).await.unwrap();
    let second = folder.path().join("second");
    let found = python.ask(json!({"op": "geo_country", "folder": second, "ip": address.to_string()}));
    assert_eq!(found, "NO");
    assert_eq!(Sha256::digest(std::fs::read(second.join("country_asn.mmdb")).unwrap()), Sha256::digest(&ours));
}

/// guard-core in a process of its own.
pub(crate) struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    pub(crate) fn start(server: &Server) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("TEST_PYTHON");
        let python = python.map_or_else(|| root.join(".cache/venv/bin/python"), PathBuf::from);
        let mut child = Command::new(&python)
            .arg(root.join("tests/tools/participant.py"))
            .args([&server.url(), "i:"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run tests/tools/setup.sh", python.display()));
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut python = Self { child, input, output };
        assert_eq!(python.answer(), "ready");
        python
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, command: Value) -> Value {
        let answer = self.try_ask(command);
        assert!(answer.get("error").is_none(), "{answer}");
        answer
    }

    /// The answer, an error included.
    #[track_caller]
    fn try_ask(&mut self, command: Value) -> Value {
        writeln!(self.input, "{command}").unwrap();
        self.answer()
    }

    #[track_caller]
    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn hit(state: &Redis, ip: &str, path: Option<envoy_guard::state::Digest>, (most, seconds): (u32, u32)) -> u64 {
    let limit = Limit { bucket: Bucket { client: client(ip), path }, limit: most, window: window(seconds) };
    let question = Question { limits: [limit].into_iter().collect(), ..Question::default() };
    state.ask(&question, now()).await.unwrap().counts[0]
}

async fn is_banned(state: &Redis, ip: &str) -> bool {
    let question = Question { ban: Some(client(ip)), ..Question::default() };
    state.ask(&question, now()).await.unwrap().ban.is_some()
}

fn now() -> Timestamp {
    clock::now()
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
