//! The service beside an application that embeds guard-core 4.4.0 (`tests/tools/application.py`): both serve requests,
//! on the same Redis, and their agents report to the same kind of server.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::feeds::{Site, Web};
use crate::receivers::Receivers;
use crate::redis_interop::Python;
use crate::redis_servers::{Server, eventually};
use crate::replicas::Replica;
use crate::stack::{Call, Stack, policy};

/// An application in a process of its own.
struct Application {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: tempfile::NamedTempFile,
    is_ready: bool,
}

impl Application {
    /// Starts one on `server`, with these fields of guard-core's configuration. It comes up beside the caller.
    fn start(server: &Server, settings: &Value) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = Command::new(root.join(".cache/venv/bin/python"))
            .arg(root.join("tests/tools/application.py"))
            .args([&server.url(), "i:", &settings.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("no Python: {error}; run tests/tools/setup.sh test"));
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, log, is_ready: false }
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(self.log.path()).unwrap_or_default();
            panic!("the application ended ({error}); are guard-core and fastapi-guard installed? {log}")
        })
    }

    /// The status that a request of `client` gets.
    #[track_caller]
    fn status(&mut self, client: &str, path: &str) -> u16 {
        self.status_as(client, path, "test")
    }

    #[track_caller]
    fn status_as(&mut self, client: &str, path: &str, agent: &str) -> u16 {
        if !self.is_ready {
            assert_eq!(self.line(), "ready");
            self.is_ready = true;
        }
        let request = json!({"ip": client, "path": path, "headers": {"user-agent": agent}});
        writeln!(self.input, "{request}").unwrap();
        u16::try_from(self.line()["status"].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The service behind Envoy on `server`, with ext_proc. `security` is YAML for the inside of `security:`.
fn stack(file: &str, server: &Server, (security, rest): (&str, &str)) -> Stack {
    let redis = format!("enable_redis: true\n  redis_url: {}\n  redis_prefix: \"i:\"", server.url());
    let rest = format!("{rest}\nlimits: {{ state_deadline_ms: 5000 }}\n");
    let policy = policy(security, &rest, 0, 0).replace("enable_redis: false", &redis);
    Stack::of(file, &policy, |text| text.replace("message_timeout: 0.5s", "message_timeout: 5s"))
}

/// The two rules of the application, written for the service.
const ROUTES: &str = "routes:\n  \
    - name: login\n    match: [{ path: /login }]\n    endpoint_id: __main__.login\n    behavior_rules:\n      \
    - { rule_type: usage, threshold: 3, window: 600, action: ban, ban_duration: 3600 }\n  \
    - name: missing\n    match: [{ path: /status/404 }]\n    endpoint_id: __main__.missing\n    behavior_rules:\n      \
    - { rule_type: return_pattern, pattern: \"status:404\", threshold: 3, window: 600, action: ban, ban_duration: 3600 }\n";

/// Scenarios 13 and 14: requests go to the application and through Envoy in turn. They count in one history, the rule
/// fires on the same request whoever serves it, and the ban that either writes is honoured by both.
#[test]
fn behaviour_rules_count_and_fire_together() {
    let server = Server::start(&[]);
    let mut application = Application::start(&server, &json!({}));
    let stack = stack("ext_proc.yaml", &server, ("rate_limit: 100000\nbehavior_scan_response_body: false", ROUTES));
    let usage = format!("i:behavior_usage:behavior:usage:{}", digest("__main__.login"));
    let returned = format!("i:behavior_returns:behavior:return:{}", digest("__main__.missing"));
    let (usage_end, returned_end) = (String::new(), format!(":{}", digest("status:404")));
    for (path, status, (start, end)) in
        [("/login", 200, (usage, usage_end)), ("/status/404", 404, (returned, returned_end))]
    {
        for first in 0..2 {
            let client = format!("198.18.{}.{}", u8::from(status == 404), first);
            let key = format!("{start}:{}{end}", digest(&client));
            let ban = format!("i:banned_ips:{client}");
            for number in 1..=4 {
                let is_ours = (number + first) % 2 == 1;
                let found = match is_ours {
                    true => stack.send(&Call::get(path).from(&client)).status,
                    false => application.status(&client, path),
                };
                assert_eq!(found, status, "{path}: request {number}, ours: {is_ours}: {}", stack.guard.log());
                assert_eq!(server.cli(&["zcard", &key]), number.to_string(), "{path}: ours: {is_ours}");
                let fired = if number == 4 { "1" } else { "0" };
                assert_eq!(server.cli(&["exists", &ban]), fired, "{path}: request {number}, ours: {is_ours}");
            }
            let ttl: u32 = server.cli(&["ttl", &key]).parse().unwrap();
            assert!((500..=600).contains(&ttl), "the window: {ttl}");
            let ttl: u32 = server.cli(&["ttl", &ban]).parse().unwrap();
            assert!((3500..=3600).contains(&ttl), "the ban: {ttl}");
            assert_eq!(stack.send(&Call::get("/").from(&client)).status, 403, "{path}, first {first}");
            assert_eq!(application.status(&client, "/"), 403, "{path}, first {first}");
            assert_eq!(server.cli(&["zcard", &key]), "4", "who is banned is not counted");
        }
    }
}

/// Scenario 15: what either side stored under `cloud_ip_v2` gives the same verdicts in the application and in the service,
/// with a region left out, without regions, and with no ranges at all.
#[tokio::test]
async fn ranges_that_either_side_stored_give_the_same_verdicts() {
    const CLIENTS: [&str; 6] = ["198.18.0.1", "198.18.1.1", "198.18.2.1", "198.18.3.1", "2001:db8::1", "192.0.2.9"];
    let selectors = json!(["AWS:!us-east-1", "DigitalOcean", "Vultr"]);
    let expected = [false, true, true, false, true, false];
    let aws = json!({"prefixes": [
        {"ip_prefix": "198.18.0.0/24", "service": "AMAZON", "region": "us-east-1"},
        {"ip_prefix": "198.18.1.0/24", "service": "AMAZON", "region": "eu-west-1"},
        {"ip_prefix": "192.0.2.0/24", "service": "S3", "region": "eu-west-1"},
    ]});
    let ocean = "198.18.2.0/24,NL,NL-NH,Amsterdam,1098\n2001:db8::/32,US,US-NY,New York,10118\n";
    let vultr = json!({"subnets": []});
    for first in ["guard-core", "the service"] {
        let server = Server::start(&[]);
        let is_ours = first == "the service";
        let sites = match is_ours {
            true => [aws.to_string().into_bytes(), ocean.into(), vultr.to_string().into_bytes()]
                .map(|body| Web::Ok("", body)),
            // Nothing can be had: whatever is known comes from Redis.
            false => [Vec::new(), Vec::new(), Vec::new()].map(Web::Raw),
        };
        let sites = sites.map(Site::start);
        if !is_ours {
            let mut python = Python::start(&server);
            for (provider, ranges) in [
                ("AWS", json!(["198.18.0.0/24|us-east-1", "198.18.1.0/24|eu-west-1"])),
                ("DigitalOcean", json!(["198.18.2.0/24", "2001:db8::/32"])),
                ("Vultr", json!([])),
            ] {
                python.ask(json!({"op": "cloud_set", "provider": provider, "ranges": ranges, "ttl": 600}));
            }
        }
        let [aws, ocean, vultr] = sites.each_ref().map(|site| site.url("/"));
        let rest =
            format!("data: {{ cloud_urls: {{ AWS: \"{aws}\", DigitalOcean: \"{ocean}\", Vultr: \"{vultr}\" }} }}");
        let security = format!("rate_limit: 1000\nblock_cloud_providers: {selectors}");
        // Ready means that every feed was tried.
        let replica = Replica::start(&server, &security, &rest).await;
        let mut ours = Vec::new();
        for client in CLIENTS {
            ours.push(replica.check(client, "/").await == 403);
        }
        assert_eq!(ours, expected, "{first} stored the ranges: {}", replica.process.log());
        if is_ours {
            // A list without ranges is no answer; the application must not go and ask others.
            server.cli(&["set", "i:cloud_ip_v2:Vultr", "[]"]);
            assert!(sites.iter().all(|site| !site.asked().is_empty()));
        } else {
            assert!(sites.iter().all(|site| site.asked().is_empty()), "what the store holds is not downloaded");
        }
        let mut application = Application::start(&server, &json!({"block_cloud_providers": selectors}));
        // It loads them beside its first requests.
        eventually("the application has loaded its ranges", || application.status("198.18.1.1", "/") == 403);
        eventually("and those of the other provider", || application.status("198.18.2.1", "/") == 403);
        let theirs = CLIENTS.map(|client| application.status(client, "/") == 403);
        assert_eq!(theirs, expected, "{first} stored the ranges");
    }
}

/// One request of scenario 23: client, path, User-Agent.
type Shot = (&'static str, &'static str, &'static str);

const SQL: &str = "/items?id=1%27%20UNION%20SELECT%20login,password%20FROM%20users--";
const SCRIPT: &str = "/?q=%3Cscript%3Ealert(1)%3C/script%3E";

/// Something of everything that leads to an event without routes of its own.
const SHOTS: &[Shot] = &[
    ("203.0.113.5", "/agent", "evilbot"),
    ("203.0.113.6", SQL, "test"),
    ("203.0.113.7", "/listed", "test"),
    ("203.0.113.8", "/limited", "test"),
    ("203.0.113.8", "/limited", "test"),
    ("203.0.113.8", "/limited", "test"),
    ("203.0.113.9", "/a", "test"),
    ("203.0.113.9", "/b", "test"),
    ("203.0.113.9", "/c", "test"),
    ("203.0.113.9", "/d", "test"),
    ("203.0.113.9", "/e", "test"),
    ("203.0.113.10", SCRIPT, "test"),
    ("203.0.113.10", SCRIPT, "test"),
    ("203.0.113.10", "/banned", "test"),
    ("203.0.113.11", "/harmless?password=hunter2", "test password=hunter2"),
    ("203.0.113.12", "/health", "evilbot"),
    ("203.0.113.13", SQL, "evilbot"),
    ("203.0.113.14", "/whitelisted", "test"),
];

/// Names under which something differs from run to run, or from rule to rule of detection.
const VOLATILE: &[&str] = &[
    "idempotency_key",
    "timestamp",
    "response_time",
    "execution_time_ms",
    "correlation_id",
    "pattern",
    "pattern_matched",
];

/// What must be equal of an event. A pattern's text is each side's own.
fn comparable(event: &Value) -> Value {
    const MATCHED: &str = "Value matched pattern '";
    match event {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !VOLATILE.contains(&name.as_str()));
            kept.map(|(name, value)| (name.clone(), comparable(value))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::String(text) => match text.find(MATCHED) {
            Some(at) => Value::from(&text[..at + MATCHED.len()]),
            None => event.clone(),
        },
        other => other.clone(),
    }
}

/// A preview is what matched here, and all around it there.
fn same(ours: &Value, theirs: &Value, what: &str) {
    const PREVIEW: &str = "/metadata/content_preview";
    let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
    if let (Some(ours), Some(theirs)) = (ours.pointer_mut(PREVIEW), theirs.pointer_mut(PREVIEW)) {
        let (ours, theirs) = (ours.take(), theirs.take());
        assert!(!ours.as_str().unwrap().is_empty(), "{what}");
        assert!(theirs.as_str().unwrap().contains(ours.as_str().unwrap()), "{what}: {ours}, there {theirs}");
    }
    assert_eq!(ours, theirs, "{what}");
}

/// Events of requests, by client, in order.
fn events_of(receivers: &Receivers) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in receivers.lines().iter().filter(|line| line["path"] == "/api/v1/events") {
        assert_eq!(line["problems"], json!([]), "{line}");
        for event in line["body"]["events"].as_array().unwrap() {
            let client = event["ip_address"].as_str().unwrap().to_owned();
            if client.starts_with("203.0.113.") {
                found.entry(client).or_default().push(comparable(event));
            }
        }
    }
    found
}

/// Scenario 23: the same requests make the application's agent and ours report the same events.
#[test]
fn agents_report_the_same_events() {
    let receivers = [Receivers::start(), Receivers::start()];
    let mut before = 0;
    for passive in [false, true] {
        // Each with a Redis of its own: they must not count together here.
        let servers = [Server::start(&[]), Server::start(&[])];
        let settings = |receivers: &Receivers| {
            json!({
                "enable_agent": true, "agent_api_key": "corpus-agent-key", "agent_project_id": "proj-1",
                "agent_endpoint": format!("http://127.0.0.1:{}", receivers.http),
                "agent_payload_signing_secret": "signing-secret", "agent_flush_interval": 1,
                "rate_limit": 3, "endpoint_rate_limits": {"/limited": [2, 60]}, "blacklist": ["203.0.113.7"],
                "blocked_user_agents": ["evilbot"], "auto_ban_threshold": 2, "exclude_paths": ["/health"],
                "exempt_ips": ["203.0.113.14"], "passive_mode": passive,
                "muted_event_types": ["pattern_anomaly_timeout", "pattern_anomaly_slow_execution",
                    "pattern_anomaly_statistical_anomaly", "security_headers_applied"],
            })
        };
        let mut theirs = settings(&receivers[1]);
        theirs["decorated"] = json!(false);
        let mut application = Application::start(&servers[1], &theirs);
        let lines = settings(&receivers[0]);
        let lines: Vec<String> =
            lines.as_object().unwrap().iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let stack = stack("ext_authz.yaml", &servers[0], (&lines.join("\n"), ""));
        let ours =
            |(client, path, agent): &Shot| stack.send(&Call::get(path).from(client).header("user-agent", agent)).status;
        let ours: Vec<u16> = SHOTS.iter().map(ours).collect();
        let theirs: Vec<u16> =
            SHOTS.iter().map(|(client, path, agent)| application.status_as(client, path, agent)).collect();
        assert_eq!(ours, theirs, "passive: {passive}");
        let told = |receivers: &Receivers| events_of(receivers).values().map(Vec::len).sum::<usize>();
        eventually("both have reported as much", || {
            before + 15 <= told(&receivers[0]) && told(&receivers[0]) == told(&receivers[1])
        });
        println!("passive {passive}: {} events of each side", told(&receivers[0]) - before);
        before = told(&receivers[0]);
    }
    let [ours, theirs] = receivers.each_ref().map(events_of);
    assert_eq!(ours.len(), theirs.len());
    for (client, theirs) in &theirs {
        let ours = ours.get(client).unwrap_or_else(|| panic!("nothing of {client}, there {theirs:?}"));
        assert_eq!(ours.len(), theirs.len(), "{client}: {ours:?}, there {theirs:?}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            same(ours, theirs, &format!("{client}: {}", theirs["event_type"]));
        }
    }
}
