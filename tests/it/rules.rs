//! Dynamic rules at a running service: what a document does, what ends it, and what survives.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::redis_interop::Python;
use crate::redis_servers::{Server, eventually};
use crate::replicas::Replica;
use crate::stack::Call;

const KEY: &str = "i:dynamic_rules:last_known";

/// A folder with the file that the service watches and the one in which it remembers.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn rules(&self) -> PathBuf {
        self.folder.path().join("rules.json")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("state").join("last.json")
    }

    /// Replaces the document in one step, as a careful operator does.
    fn write(&self, document: &str) {
        let part = self.folder.path().join("part");
        std::fs::write(&part, document).unwrap();
        std::fs::rename(&part, self.rules()).unwrap();
    }

    async fn replica(&self, server: &Server) -> Replica {
        let security =
            format!("rate_limit: 1000\nauto_ban_threshold: 9\ndynamic_rules_cache_path: {}", self.cache().display());
        Replica::start(server, &security, &format!("data: {{ dynamic_rules: {} }}", self.rules().display())).await
    }
}

fn in_force(replica: &Replica) -> Value {
    replica.page("/config")["dynamic_rules"]["in_force"].clone()
}

fn status(replica: &Replica) -> Value {
    replica.page("/readyz")["dynamic_rules"]["status"].clone()
}

#[track_caller]
fn soon(replica: &Replica, what: &str, holds: impl Fn(&Value, &Value) -> bool) {
    eventually(what, || holds(&in_force(replica), &status(replica)));
}

fn soon_version(replica: &Replica, version: i64) {
    soon(replica, &format!("version {version} is in force"), |rules, _| rules["version"] == version);
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn a_document_is_applied_refused_and_undone_as_a_whole() {
    let (server, desk) = (Server::start(&[]), Desk::new());
    let replica = desk.replica(&server).await;
    assert_eq!(in_force(&replica), Value::Null);
    assert_eq!(replica.check("198.18.0.1", "/?q=dyn-12").await, 200);

    // Fields that nobody knows are left out; the loopback address and the proxy are never banned.
    desk.write(
        r#"{"rule_id": "r1", "version": 1, "timestamp": "2026-01-01 00:00:00+00:00", "strange": {"x": 1},
            "ip_blacklist": ["198.18.5.5", "198.19.0.0/24", "127.0.0.1"], "ip_ban_duration": 600,
            "global_rate_limit": 3, "global_rate_window": 600, "suspicious_patterns": ["dyn-[0-9]+"],
            "blocked_cloud_providers": ["Nimbus"], "blocked_countries": ["fr"], "auto_ban_threshold": 7}"#,
    );
    soon_version(&replica, 1);
    soon(&replica, "it is remembered", |_, _| text(&desk.cache()).contains("\"r1\""));
    let stored = concat!(
        r#"{"schema_version":1,"rules":{"rule_id":"r1","version":1,"timestamp":"2026-01-01T00:00:00Z","expires_at":null,"#,
        r#""ttl":300,"ip_blacklist":["198.18.5.5","198.19.0.0/24","127.0.0.1"],"ip_whitelist":[],"ip_ban_duration":600,"#,
        r#""blocked_countries":["fr"],"whitelist_countries":[],"global_rate_limit":3,"global_rate_window":600,"#,
        r#""endpoint_rate_limits":{},"blocked_cloud_providers":["Nimbus"],"blocked_user_agents":[],"#,
        r#""suspicious_patterns":["dyn-[0-9]+"],"enable_penetration_detection":null,"enable_ip_banning":null,"#,
        r#""enable_rate_limiting":null,"auto_ban_threshold":7,"auto_ban_duration":null,"#,
        r#""enable_rate_limit_auto_ban":null,"emergency_mode":false,"emergency_whitelist":[]}}"#
    );
    assert_eq!(server.cli(&["get", KEY]), stored);
    assert_eq!(text(&desk.cache()), stored);
    let warnings = in_force(&replica)["warnings"].to_string();
    assert!(warnings.contains("Nimbus") && warnings.contains("no country database"), "{warnings}");
    assert_eq!(replica.check("198.18.5.5", "/").await, 403);
    assert_eq!(replica.check("198.19.0.77", "/").await, 403);
    assert_eq!(server.cli(&["keys", "i:banned_ips:127.0.0.1"]), "");
    assert_eq!(replica.check("198.18.0.1", "/?q=dyn-12").await, 400);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(replica.check("198.18.0.2", "/").await);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(replica.page("/config")["config"]["security"]["auto_ban_threshold"], 7);

    // A document with any mistake changes nothing, and every mistake is told.
    desk.write(
        r#"{"rule_id": "r1", "version": 2, "ip_blacklist": ["198.18.0.9", "nonsense", "0.0.0.0/0"],
            "global_rate_limit": 0, "emergency_mode": "perhaps", "expires_at": "soon", "blocked_countries": ["FRA"]}"#,
    );
    soon(&replica, "it is refused", |_, status| status["refused"] == 1);
    let error = status(&replica)["error"].to_string();
    for reason in [
        "ip_blacklist[1]",
        "ip_blacklist[2]",
        "global_rate_limit",
        "emergency_mode",
        "expires_at",
        "blocked_countries[0]",
    ] {
        assert!(error.contains(reason), "{reason}: {error}");
    }
    desk.write(r#"{"rule_id": "r1", "version": 2, "suspicious_patterns": ["fine", "(bad"]}"#);
    soon(&replica, "what does not compile is refused", |_, status| status["refused"] == 2);
    assert!(status(&replica)["error"].to_string().contains("custom_patterns[1]"), "{}", status(&replica));
    assert_eq!(in_force(&replica)["version"], 1);
    assert_eq!(replica.check("198.18.0.9", "/").await, 200);
    assert_eq!(replica.page("/readyz")["reload"]["failed"], 0, "the configuration is well");

    // The next version starts from the base again: a field that it leaves out is what the configuration says.
    desk.write(
        r#"{"rule_id": "r1", "version": 3, "ip_whitelist": ["198.18.5.5"], "emergency_mode": true,
            "emergency_whitelist": ["198.18.7.0/24", "2001:db8::1"]}"#,
    );
    soon_version(&replica, 3);
    assert_eq!(replica.check("198.18.0.3", "/").await, 503);
    assert_eq!(replica.check("2001:db8::1", "/").await, 200);
    assert_eq!(replica.check("198.18.7.9", "/?q=dyn-12").await, 200);
    for _ in 0..5 {
        assert_eq!(replica.check("198.18.7.9", "/").await, 200);
    }
    let security = replica.page("/config")["config"]["security"].clone();
    assert_eq!((&security["rate_limit"], &security["auto_ban_threshold"]), (&json!(1000), &json!(4)), "halved: 9 / 2");
    assert_eq!(server.cli(&["exists", "i:banned_ips:198.18.5.5"]), "0", "the ban is lifted");
    assert_eq!(server.cli(&["exists", "i:banned_networks:198.19.0.0/24"]), "1", "other bans stay");
    let metrics = Call::get("/metrics").send(replica.admin).body;
    for series in [
        "envoy_guard_emergency_mode 1",
        "envoy_guard_dynamic_rules_in_force 1",
        "envoy_guard_dynamic_rules_documents_total{result=\"applied\"} 2",
        "envoy_guard_dynamic_rules_documents_total{result=\"refused\"} 2",
    ] {
        assert!(metrics.contains(series), "{series}\n{metrics}");
    }

    // Loading the configuration again keeps the rules; a version that is not higher changes nothing.
    let before = replica.page("/config")["version"].as_u64().unwrap();
    replica.process.signal("HUP");
    eventually("it is loaded", || before < replica.page("/config")["version"].as_u64().unwrap());
    desk.write(r#"{"rule_id": "r1", "version": 3, "emergency_mode": false}"#);
    eventually("it is told", || replica.process.log().contains("version is not higher"));
    assert_eq!(replica.check("198.18.0.3", "/").await, 503);
    assert_eq!(in_force(&replica)["version"], 3);

    // A file that vanishes ends nothing, and neither does a restart.
    std::fs::remove_file(desk.rules()).unwrap();
    soon(&replica, "that is told", |_, status| status["error"].as_str().unwrap().contains("rules.json"));
    drop(replica);
    let replica = desk.replica(&server).await;
    assert_eq!(replica.check("198.18.0.3", "/").await, 503, "from the first request on");
    drop(replica);
    server.cli(&["del", KEY]);
    let replica = desk.replica(&server).await;
    // The admin port answers before the rules are back; no request does.
    soon_version(&replica, 3);

    // Rules end at their moment, and what has ended is not applied.
    let end = jiff::Timestamp::now() + jiff::Span::new().seconds(4);
    desk.write(
        &json!({"rule_id": "r2", "version": 1, "expires_at": end.to_string(), "global_rate_limit": 1}).to_string(),
    );
    soon(&replica, "another id needs no higher version", |rules, _| rules["rule_id"] == "r2");
    assert_eq!(replica.check("198.18.0.3", "/").await, 200, "lockdown is over");
    soon(&replica, "it ends", |rules, _| rules.is_null());
    assert_eq!(replica.check("198.18.0.3", "/").await, 200);
    desk.write(r#"{"rule_id": "r3", "expires_at": "2020-01-01", "emergency_mode": true}"#);
    soon(&replica, "it is told", |_, status| status["error"].as_str().unwrap().contains("r3"));
    assert_eq!(in_force(&replica), Value::Null);
    // A word ends rules as well, here and for the next start.
    desk.write(r#"{"rule_id": "r4", "emergency_mode": true}"#);
    soon(&replica, "lockdown", |rules, _| rules["emergency_mode"] == true);
    desk.write("{}");
    soon(&replica, "no lockdown", |rules, _| rules.is_null());
    eventually("nothing is remembered", || server.cli(&["exists", KEY]) == "0" && !desk.cache().exists());
}

/// Scenario 17 through the service: what guard-core kept is in force from the first request on, and the reverse.
#[tokio::test]
async fn snapshots_of_guard_core_and_of_the_service_are_taken_by_the_other() {
    let (server, desk) = (Server::start(&[]), Desk::new());
    let mut python = Python::start(&server);
    let rules = json!({
        "rule_id": "theirs", "version": 7, "timestamp": "2026-01-01T00:00:00+02:00", "expires_at": "2099-01-01T00:00:00",
        "emergency_mode": true, "emergency_whitelist": ["198.18.7.7"], "ip_blacklist": ["198.18.7.8"],
    });
    python.ask(json!({"op": "rules_write", "rules": rules}));
    let replica = desk.replica(&server).await;
    assert_eq!(replica.check("198.18.0.1", "/").await, 503);
    assert_eq!(replica.check("198.18.7.7", "/").await, 200);
    assert_eq!(server.cli(&["exists", "i:banned_ips:198.18.7.8"]), "1");
    assert_eq!(in_force(&replica)["rule_id"], "theirs");
    desk.write(
        r#"{"rule_id": "ours", "blocked_user_agents": ["badbot"], "expires_at": "2099-01-01 00:00:00.25+01:00"}"#,
    );
    soon(&replica, "ours is in force", |rules, _| rules["rule_id"] == "ours");
    eventually("it is kept", || server.cli(&["get", KEY]).contains("\"ours\""));
    let taken = python.ask(json!({"op": "rules_read"}));
    assert_eq!((&taken["rule_id"], &taken["blocked_user_agents"]), (&json!("ours"), &json!(["badbot"])));
    assert_eq!(taken["expires_at"], "2099-01-01T00:00:00.250000+01:00");
    drop(replica);
    // One field too many, and nobody takes it.
    let strange = server.cli(&["get", KEY]).replace("\"rule_id\"", "\"strange\":1,\"rule_id\"");
    server.cli(&["set", KEY, &strange]);
    std::fs::remove_file(desk.rules()).unwrap();
    std::fs::remove_file(desk.cache()).unwrap();
    let replica = desk.replica(&server).await;
    assert_eq!(in_force(&replica), Value::Null);
    assert_eq!(python.ask(json!({"op": "rules_read"})), Value::Null);
}

/// A control plane that gives scripted answers to `GET /api/v1/rules`, the last one again and again, and notes what it was
/// asked. Everything else that an agent sends is taken.
struct ControlPlane {
    port: u16,
    script: Arc<Mutex<VecDeque<String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ControlPlane {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (script, asked) = (Arc::new(Mutex::new(VecDeque::new())), Arc::new(Mutex::new(Vec::new())));
        let (own_script, own_asked) = (Arc::clone(&script), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever breaks the connection sees it.
                drop(Self::answer(stream, &own_script, &own_asked));
            }
        });
        Self { port, script, asked }
    }

    fn answer(stream: TcpStream, script: &Mutex<VecDeque<String>>, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let start = head.len();
            reader.read_line(&mut head)?;
            let line = head[start..].trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            length = line.strip_prefix("content-length: ").and_then(|text| text.parse().ok()).unwrap_or(length);
        }
        reader.read_exact(&mut vec![0; length])?;
        let mut stream = stream;
        if !head.starts_with("GET /api/v1/rules ") {
            return write!(stream, "{}", reply(200, "", r#"{"success": true}"#));
        }
        asked.lock().unwrap().push(head);
        let mut script = script.lock().unwrap();
        let answer = if 1 < script.len() { script.pop_front() } else { script.front().cloned() };
        write!(stream, "{}", answer.unwrap_or_else(|| reply(200, "", "{}")))
    }

    /// The next answers.
    fn say(&self, answers: &[String]) {
        *self.script.lock().unwrap() = answers.iter().cloned().collect();
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn reply(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_control_plane_is_asked_as_the_protocol_says() {
    const KEY_TEXT: &str = "planted-api-key-4711";
    let (server, desk, plane) = (Server::start(&[]), Desk::new(), ControlPlane::start());
    plane.say(&[
        reply(500, "", "{}"),
        reply(200, "", "no JSON"),
        reply(429, "retry-after: 1\r\n", "{}"),
        reply(302, "location: /elsewhere\r\n", ""),
        reply(200, "", "{}"),
    ]);
    let security = format!(
        "rate_limit: 1000\nenable_agent: true\nagent_api_key: {KEY_TEXT}\nagent_endpoint: http://127.0.0.1:{}/api/v1/\n\
         agent_project_id: shop\nagent_install_id: 11111111-2222-4333-8444-555555555555\nagent_backoff_factor: 0.01\n\
         enable_dynamic_rules: true\ndynamic_rule_interval: 60\ndynamic_rules_cache_path: {}",
        plane.port,
        desk.cache().display()
    );
    let replica = Replica::start(&server, &security, "").await;
    eventually("what failed is asked again, until there is an answer", || plane.asked().len() == 5);
    soon(&replica, "an answer without rules is an answer", |rules, status| {
        rules.is_null() && status["error"] == "" && status["failures"] == 4 && status["source"] == "poll"
    });
    for head in plane.asked() {
        let mut lines: Vec<String> = head.trim_end().lines().map(str::to_ascii_lowercase).collect();
        lines.sort_unstable();
        let expected = [
            "accept-encoding: ",
            "accept: */*",
            "content-type: application/json",
            "get /api/v1/rules http/1.1",
            &format!("host: 127.0.0.1:{}", plane.port),
            "user-agent: guard-agent/3.2.4",
            "x-agent-install-id: 11111111-2222-4333-8444-555555555555",
            &format!("x-api-key: {KEY_TEXT}"),
            "x-project-id: shop",
        ];
        assert_eq!(lines.len(), expected.len(), "{head}");
        assert!(lines.iter().zip(expected).all(|(line, expected)| line.starts_with(expected)), "{head}");
    }
    // Loading the configuration again asks at once; so this is what any poll brings.
    let ask = |answer: String| {
        let before = plane.asked().len();
        plane.say(&[answer]);
        replica.process.signal("HUP");
        eventually("it asks", || before < plane.asked().len());
    };
    assert_eq!(replica.check("198.18.0.1", "/").await, 200);
    ask(reply(
        200,
        "etag: \"v1\"\r\n",
        r#"{"rule_id": "r", "emergency_mode": true, "emergency_whitelist": ["198.18.9.9"]}"#,
    ));
    soon(&replica, "lockdown with the first answer that says so", |rules, _| rules["emergency_mode"] == true);
    assert_eq!(replica.check("198.18.0.1", "/").await, 503);
    assert_eq!(replica.check("198.18.9.9", "/").await, 200);
    for nothing in ["{}", "null"] {
        ask(reply(200, "", nothing));
    }
    ask(reply(200, "", r#"{"rule_id": "r", "version": 2, "ip_ban_duration": 0}"#));
    soon(&replica, "a bad document is refused", |_, status| status["refused"] == 1);
    ask(reply(401, "", ""));
    soon(&replica, "and so is our key", |_, status| status["error"].as_str().unwrap().contains("status 401"));
    assert_eq!(replica.check("198.18.0.1", "/").await, 503, "none of this ends a lockdown");
    ask(reply(200, "", r#"{"rule_id": "r", "version": 3, "message": "over"}"#));
    soon_version(&replica, 3);
    assert_eq!(replica.check("198.18.0.1", "/").await, 200);
    let told = format!("{}{}{}", replica.process.log(), replica.page("/config"), replica.page("/readyz"));
    assert!(!told.contains(KEY_TEXT), "{told}");
}
