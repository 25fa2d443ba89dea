//! What operators do to a running service: the command line, the API behind it, and reloads under load.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::certificates::Authority;
use crate::load::{Kind, Load, Shot};
use crate::redis_servers::eventually;
use crate::stack::{Call, Process, Stack, free_port, guard, policy};

/// Runs our binary against an admin port; exit code, output, errors.
fn command(admin: u16, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-guard"));
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("ENVOY_GUARD_")) {
        command.env_remove(key);
    }
    command.args(arguments).args(["--admin", &format!("http://127.0.0.1:{admin}")]).stdin(Stdio::null());
    let done = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

fn json(admin: u16, arguments: &[&str]) -> Value {
    let with: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let (_, out, err) = command(admin, &with);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out} {err}"))
}

/// A service of its own, without Envoy.
fn service(folder: &Path, security: &str, rest: &str) -> (Process, u16) {
    let (grpc, admin) = (free_port(), free_port());
    (guard(folder, &policy(security, rest, grpc, admin), admin), admin)
}

#[test]
fn bans_are_listed_made_lifted_exported_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let (guard, admin) = service(folder.path(), "blacklist: [\"203.0.113.0/24\"]", "");
    assert_eq!(command(admin, &["bans", "list"]), (0, "no bans\n".to_owned(), String::new()));
    assert_eq!(command(admin, &["bans", "add", "192.0.2.7", "--seconds", "600", "--reason", "test"]).0, 0);
    assert_eq!(command(admin, &["bans", "add", "198.51.100.0/24"]).0, 0);
    let listed = json(admin, &["bans", "list"]);
    assert_eq!(listed["bans"][0]["target"], "192.0.2.7");
    assert_eq!(listed["bans"][0]["reason"], "test");
    assert_eq!(listed["bans"].as_array().unwrap().len(), 2);
    assert_eq!(json(admin, &["bans", "list", "--reason", "nothing"])["bans"].as_array().unwrap().len(), 0);

    let why = json(admin, &["bans", "why", "198.51.100.77"]);
    assert_eq!(why["ban"]["target"], "198.51.100.0/24", "the network that covers it");
    let why = json(admin, &["bans", "why", "203.0.113.5"]);
    assert_eq!((&why["banned"], &why["lists"][0]["entry"]), (&Value::Bool(false), &Value::from("203.0.113.0/24")));
    assert_eq!(command(admin, &["bans", "why", "192.0.2.200"]).0, 1, "nothing covers it");

    let (code, export, _) = command(admin, &["bans", "export"]);
    assert_eq!(code, 0);
    let file = folder.path().join("bans.json");
    std::fs::write(&file, export).unwrap();
    for target in ["192.0.2.7", "198.51.100.0/24"] {
        assert_eq!(command(admin, &["bans", "del", target]).0, 0);
    }
    assert_eq!(command(admin, &["bans", "del", "192.0.2.7"]).0, 1, "it is gone");
    assert_eq!(json(admin, &["bans", "import", file.to_str().unwrap()])["imported"], 2);
    let again = json(admin, &["bans", "list"]);
    assert_eq!(again["bans"].as_array().unwrap().len(), 2);
    assert!(again["bans"][0]["seconds_left"].as_u64().unwrap() <= 600, "the rest counts, not the whole again");
    std::fs::write(&file, "192.0.2.50 # scanner\n\n2001:db8::/32\n").unwrap();
    assert_eq!(json(admin, &["bans", "import", file.to_str().unwrap()])["imported"], 2);
    std::fs::write(&file, "192.0.2.51\nnonsense\n").unwrap();
    let (code, _, error) = command(admin, &["bans", "import", file.to_str().unwrap()]);
    assert!(code == 1 && error.contains("bans[1]"), "{error}");
    assert_eq!(command(admin, &["bans", "why", "192.0.2.51"]).0, 1, "all or none");
    let (code, _, error) = command(admin, &["bans", "add", "0.0.0.0/0"]);
    assert!(code == 1 && error.contains("everybody"), "{error}");
    let log = guard.log();
    assert!(log.contains("action=\"ban\" subject=\"192.0.2.7\""), "each change is told: {log}");
    assert!(log.contains("operator=\"loopback\""), "{log}");
    let (code, _, error) = command(free_port(), &["bans", "list"]);
    assert!(code == 69 && error.contains("cannot be reached"), "{error}");
}

#[test]
fn patterns_are_shared_tried_and_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let (_guard, admin) = service(folder.path(), "", "");
    assert!(50 < json(admin, &["patterns", "list", "--set", "default"])["patterns"].as_array().unwrap().len());
    assert_eq!(command(admin, &["patterns", "test", "evil{2,}", "an evilll thing"]).0, 0);
    assert_eq!(command(admin, &["patterns", "test", "evil{2,}", "a good thing"]).0, 1);
    let (code, _, error) = command(admin, &["patterns", "test", "(bad"]);
    assert!(code == 1 && error.contains("at byte 0"), "{error}");
    assert_eq!(command(admin, &["patterns", "add", "(bad"]).0, 1);
    assert_eq!(json(admin, &["patterns", "add", "evil{2,}"])["added"], true);
    assert_eq!(json(admin, &["patterns", "add", "evil{2,}"])["added"], false, "adding twice changes nothing");
    let customs = || json(admin, &["patterns", "list", "--set", "custom"])["patterns"].as_array().unwrap().len();
    eventually("it is in use", || customs() == 1);
    assert_eq!(command(admin, &["patterns", "del", "evil{2,}"]).0, 0);
    assert_eq!(command(admin, &["patterns", "del", "evil{2,}"]).0, 1);
    eventually("it is gone", || customs() == 0);
    assert_eq!(command(admin, &["patterns", "clear"]).0, 0);
    assert_eq!(command(admin, &["limits", "reset"]).0, 0);
}

#[test]
fn a_doctor_a_dry_run_and_completions() {
    let folder = tempfile::tempdir().unwrap();
    let (_guard, admin) = service(folder.path(), "rate_limit: 10", "");
    let doctor = json(admin, &["doctor"]);
    assert_eq!(doctor["well"], true, "{doctor}");
    let dry = json(admin, &["reload", "--dry-run"]);
    assert_eq!(dry["changes"].as_array().unwrap().len(), 0, "{dry}");
    let file = folder.path().join("guard.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("rate_limit: 10", "rate_limit: [")).unwrap();
    let (code, _, error) = command(admin, &["reload", "--dry-run"]);
    assert!(code == 1 && error.contains("guard.yaml"), "{error}");
    eventually("the doctor sees a broken file", || command(admin, &["doctor"]).0 == 1);
    assert!(Call::get("/config").send(admin).body.contains("\"rate_limit\":10"), "the old one is in force");
    let _fixed = std::fs::write(&file, text.replace("rate_limit: 10", "rate_limit: 11"));
    eventually("the change is seen without being told", || {
        Call::get("/config").send(admin).body.contains("\"rate_limit\":11")
    });
    assert_eq!(json(admin, &["doctor"])["well"], true);
    for shell in ["bash", "zsh", "fish"] {
        let done = Command::new(env!("CARGO_BIN_EXE_envoy-guard")).args(["completions", shell]).output().unwrap();
        assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("patterns"), "{shell}");
    }
}

#[test]
fn who_has_no_token_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let token = "0123456789abcdef-token";
    let (_guard, admin) = {
        let (grpc, admin) = (free_port(), free_port());
        let text = policy("", "", grpc, admin);
        let text = text.replace("admin:\n", &format!("admin:\n  token: {token}\n"));
        (guard(folder.path(), &text, admin), admin)
    };
    assert_eq!(Call::get("/healthz").send(admin).status, 200);
    assert_eq!(Call::get("/metrics").send(admin).status, 200);
    for path in ["/config", "/stats", "/api/v1/bans", "/api/v1/openapi.json"] {
        let answer = Call::get(path).send(admin);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(Call::get(path).header("authorization", &format!("Bearer {token}")).send(admin).status, 200);
    }
    assert!(command(admin, &["bans", "list"]).2.contains("401"));
    assert_eq!(command(admin, &["bans", "list", "--token", token]).0, 0);
    let page = Call::get("/config").header("authorization", &format!("Bearer {token}")).send(admin).body;
    assert!(!page.contains(token), "the token is not shown");
}

/// Follows decisions: what the command has printed so far.
struct Tail {
    child: std::process::Child,
    read: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Tail {
    fn start(admin: u16, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-guard"));
        command.args(["decisions", "tail", "--admin", &format!("http://127.0.0.1:{admin}")]).args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (read, mut output) = (std::sync::Arc::<std::sync::Mutex<String>>::default(), child.stdout.take().unwrap());
        let into = std::sync::Arc::clone(&read);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = std::io::Read::read(&mut output, &mut bytes) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, read }
    }

    fn text(&self) -> String {
        self.read.lock().unwrap().clone()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn decisions_are_followed_explained_and_changed() {
    let rest = "telemetry: { decisions: { entries: 5 } }";
    let mut stack = Stack::start("rate_limit: 1000\nblocked_user_agents: [badbot]", rest);
    let attack = "/items?id=1%27%20UNION%20SELECT%20password%20FROM%20users--&password=geheim";
    assert_eq!(stack.send(&Call::get("/fine").from("192.0.2.1")).status, 200);
    assert_eq!(command(stack.admin, &["decisions", "list"]).1, "no decisions\n", "what is allowed is not kept");
    let tail = Tail::start(stack.admin, &["--verdict", "deny"]);
    let refused = stack.send(&Call::get(attack).from("192.0.2.1"));
    assert_eq!(refused.status, 400);
    eventually("the tail shows it", || tail.text().contains("suspicious_activity 192.0.2.1 GET"));

    // By the id that Envoy's access log has.
    let entry = stack.access_log(1);
    let id = entry["guard"]["request_id"].as_str().unwrap_or_else(|| panic!("{entry}"));
    let shown = json(stack.admin, &["decisions", "show", id]);
    assert_eq!((&shown["verdict"], &shown["status"]), (&Value::from("deny"), &Value::from(400)), "{shown}");
    let hit = &shown["detection"]["hits"][0];
    assert!(hit["text"].as_str().unwrap().to_lowercase().contains("union"), "the words: {shown}");
    assert!(!hit["view"].as_str().unwrap().is_empty() && !hit["row"].as_str().unwrap().is_empty(), "{shown}");
    assert!(!shown.to_string().contains("geheim"), "secrets are masked: {shown}");
    let by_envoy = shown["x_request_id"].as_str().unwrap_or_else(|| panic!("{shown}"));
    assert_eq!(json(stack.admin, &["decisions", "show", by_envoy])["id"], shown["id"]);
    let (code, text, _) = command(stack.admin, &["decisions", "show", id]);
    assert!(code == 0 && text.contains("row ") && text.contains("detection.exclusions: ["), "{text}");
    assert_eq!(command(stack.admin, &["decisions", "show", "none"]).0, 1);

    // What it says to change makes the request pass.
    let file = stack.folder().join("guard.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    let exclusions = &shown["change"]["exclusions"];
    std::fs::write(&file, format!("{before}\ndetection: {{ exclusions: {exclusions} }}\n")).unwrap();
    assert_eq!(json(stack.admin, &["reload"])["reloaded"], true);
    assert_eq!(stack.send(&Call::get(attack).from("192.0.2.1")).status, 200, "{exclusions}");

    for number in 0..7 {
        let call = Call::get("/").from(&format!("198.51.100.{number}")).header("user-agent", "badbot");
        assert_eq!(stack.send(&call).status, 403);
    }
    let list = |more: &[&str]| {
        let all = [&["decisions", "list"], more].concat();
        json(stack.admin, &all)["decisions"].as_array().unwrap().len()
    };
    assert_eq!(list(&[]), 5, "no more than are to be kept");
    assert_eq!(list(&["--client", "198.51.100.4/31"]), 2);
    assert_eq!((list(&["--check", "user_agent"]), list(&["--check", "rate_limit"])), (5, 0));
    assert_eq!(command(stack.admin, &["decisions", "show", id]).0, 1, "the oldest one is gone");
    eventually("the tail shows all of them", || tail.text().contains("198.51.100.6"));
}

#[test]
fn the_busiest_keys_and_log_levels_are_seen_and_changed() {
    let rest = "rate_limits:\n  rules:\n    - { name: api, requests: 100, window: 600, by: [client] }\n";
    let stack = Stack::start("rate_limit: 50\nrate_limit_window: 600\nendpoint_rate_limits: { /a: [40, 600] }", rest);
    for (client, requests) in [("192.0.2.1", 5), ("192.0.2.2", 9)] {
        for _ in 0..requests {
            assert_eq!(stack.send(&Call::get("/a").from(client)).status, 200);
        }
    }
    let top = json(stack.admin, &["limits", "top"]);
    assert_eq!((&top["source"], &top["complete"]), (&Value::from("memory"), &Value::Bool(true)));
    let row = |limit: &str, client: &str| {
        let rows = top["limits"].as_array().unwrap();
        let found = rows.iter().find(|row| row["limit"] == limit && row["client"] == client);
        found.map(|row| (row["count"].as_u64().unwrap(), row["allowed"].as_u64().unwrap(), row["window"].clone()))
    };
    let window = Value::from(600);
    assert_eq!(row("api", "192.0.2.2"), Some((9, 100, window.clone())), "{top}");
    assert_eq!(row("global", "192.0.2.2"), Some((9, 50, window.clone())), "{top}");
    assert_eq!(row("endpoint /a", "192.0.2.1"), Some((5, 40, window)), "{top}");
    assert_eq!(top["limits"][0]["count"], 9, "the busiest first");
    assert_eq!(json(stack.admin, &["limits", "top", "-n", "2"])["limits"].as_array().unwrap().len(), 2);
    assert_eq!(command(stack.admin, &["limits", "reset"]).0, 0);
    assert_eq!(command(stack.admin, &["limits", "top"]).1.lines().next(), Some("no limits"));

    let show = |key: &str| json(stack.admin, &["log", "show"])[key].clone();
    assert_eq!((show("filter"), show("until")), (Value::from("info"), Value::Null));
    assert_eq!(command(stack.admin, &["log", "set", "debug", "--seconds", "600"]).0, 0);
    assert_eq!((show("filter"), show("configured")), (Value::from("debug"), Value::from("info")));
    eventually("lines of the new level are written", || {
        let mut broken = std::net::TcpStream::connect(("127.0.0.1", stack.admin)).unwrap();
        broken.write_all(b"no request\r\n\r\n").unwrap();
        stack.guard.log().contains("a connection of the admin port broke")
    });
    let audit = "action=\"set log levels\" subject=\"debug\"";
    assert!(stack.guard.log().contains(audit), "{}", stack.guard.log());
    assert_eq!(json(stack.admin, &["log", "reset"])["removed"], true);
    assert_eq!(json(stack.admin, &["log", "reset"])["removed"], false, "once is enough");
    assert_eq!(command(stack.admin, &["log", "set", "warn", "--seconds", "1"]).0, 0);
    eventually("it ends by itself", || show("filter") == "info");
    let (code, _, error) = command(stack.admin, &["log", "set", "envoy_guard=loud"]);
    assert!(code == 1 && error.contains("422"), "{error}");
    let file = stack.folder().join("guard.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\ntelemetry: {{ log_filter: \"warn\" }}\n")).unwrap();
    eventually("the configuration's filter needs no restart", || show("filter") == "warn");
}

/// The doctor goes in as Envoy does: over TLS, with a certificate, through a Unix socket.
#[test]
fn the_doctor_asks_as_envoy_does() {
    let authority = Authority::new();
    authority.write("guard", "guard.test", 2090);
    authority.write("envoy", "envoy.test", 2090);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| authority.path(name).display().to_string();
    let tls = |names: &str| {
        let (cert, key, ca) = (at("guard.crt"), at("guard.key"), at("ca.pem"));
        format!("  tls: {{ cert_file: {cert}, key_file: {key}, client_ca_file: {ca}, client_names: [{names}] }}\n")
    };
    let (grpc, admin, unix) = (free_port(), free_port(), folder.path().join("admin.sock"));
    let text = policy("", "", grpc, admin)
        .replace("listeners:\n", &format!("listeners:\n{}", tls("envoy.test")))
        .replace("admin:\n", &format!("admin:\n  unix: {}\n{}", unix.display(), tls("envoy.test")));
    let file = folder.path().join("guard.yaml");
    std::fs::write(&file, text).unwrap();
    let mut service = Command::new(env!("CARGO_BIN_EXE_envoy-guard"));
    let mut guard = Process::start("guard", folder.path(), service.args(["serve", "--config"]).arg(&file));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-guard"));
        let done = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let socket = format!("unix:{}", unix.display());
    guard.wait(|_| run(&["status", "--admin", &socket]).0 == 0);
    let of = |text: &str, what: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let found = value["checks"].as_array().unwrap().iter().find(|check| check["check"] == what).cloned();
        found.unwrap_or_else(|| panic!("{what}: {text}"))
    };
    let (code, out, err) = run(&["doctor", "--admin", &socket, "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let handshake = of(&out, "envoy handshake");
    assert!(handshake["detail"].as_str().unwrap().contains("lets nobody in without a certificate"), "{handshake}");

    let (ca, cert, key) = (at("ca.pem"), at("envoy.crt"), at("envoy.key"));
    let port = format!("https://127.0.0.1:{grpc}");
    let shown =
        ["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key, "--grpc", &port, "--grpc-name", "guard.test"];
    let (code, out, err) = run(&[&["doctor", "--admin", &socket, "--json"], &shown[..]].concat());
    assert_eq!(code, 0, "{out}{err}");
    assert!(of(&out, "envoy handshake")["detail"].as_str().unwrap().contains("answers a Check: allow"), "{out}");
    let client = of(&out, "client address");
    assert!(client["detail"].as_str().unwrap().contains("and from no stranger"), "{client}");
    assert_eq!(of(&out, "certificates")["ok"], true);

    let plain = format!("http://127.0.0.1:{grpc}");
    let (code, out, _) = run(&["doctor", "--admin", &socket, "--grpc", &plain, "--grpc-name", "guard.test"]);
    let todo = "\n     -> ";
    assert!(code == 1 && out.contains("BAD  envoy handshake: ") && out.contains(todo), "{out}");
    let other =
        ["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key, "--grpc", &port, "--grpc-name", "other.test"];
    let (code, out, _) = run(&[&["doctor", "--admin", &socket], &other[..]].concat());
    assert!(code == 1 && out.contains("BAD  envoy handshake: "), "a certificate of another name: {out}");
}

/// Nothing is swapped, everything is told, and no secret is among it.
#[test]
fn a_dry_run_tells_what_would_change_and_no_secret() {
    let authority = Authority::new();
    authority.write("guard", "guard.test", 2090);
    let folder = tempfile::tempdir().unwrap();
    let (patterns, list) = (folder.path().join("patterns"), folder.path().join("bad.txt"));
    std::fs::create_dir(&patterns).unwrap();
    std::fs::write(&list, "192.0.2.1\n").unwrap();
    let rest = format!(
        "detection: {{ patterns_dir: {} }}\ndata: {{ lists: [{{ name: bad, source: {} }}] }}\n",
        patterns.display(),
        list.display()
    );
    let (grpc, admin) = (free_port(), free_port());
    let tls = format!(
        "listeners:\n  tls: {{ cert_file: {}, key_file: {} }}\n",
        authority.path("guard.crt").display(),
        authority.path("guard.key").display()
    );
    let text = policy("rate_limit: 10", &rest, grpc, admin).replace("listeners:\n", &tls);
    let _guard = guard(folder.path(), &text, admin);
    let dry = || json(admin, &["reload", "--dry-run"]);
    let first = dry();
    for key in ["changes", "patterns", "feeds", "certificates"] {
        assert_eq!(first[key], serde_json::json!([]), "{key}: {first}");
    }
    assert_eq!(
        (&first["recompiles_patterns"], &first["admin_token_changed"]),
        (&Value::Bool(false), &Value::Bool(false))
    );

    // Files are watched: what is changed comes into force by itself. Who asks at once is told before that; should it be
    // too late, the next change is looked at.
    let ask = || Call::new("POST", "/api/v1/reload?dry_run=true").send(admin);
    let seen = |change: &dyn Fn(i32), told: &dyn Fn(&Value) -> bool| {
        (1..=30).any(|round| {
            change(round);
            told(&serde_json::from_str(&ask().body).unwrap())
        })
    };
    let file = folder.path().join("guard.yaml");
    let limit = |round: i32| put(&file, &text.replace("rate_limit: 10", &format!("rate_limit: {}", 100 + round)));
    assert!(seen(&limit, &|told| told["changes"][0]["key"] == "security.rate_limit"));
    let entry = |round: i32| put(&list, &format!("192.0.2.1\n192.0.2.{}\n", 2 + round));
    assert!(seen(&entry, &|told| told["feeds"][0]["feed"] == "list:bad"));
    let certificate = |round: i32| authority.write("guard", "guard.test", 2030 + round);
    assert!(seen(&certificate, &|told| told["certificates"][0]["certificate"] == "listeners.tls"));
    let secret = "a-secret-of-operators";
    let told = (1..=30).find_map(|_| {
        put(&file, &text.replace("admin:\n", &format!("admin:\n  token: {secret}\n")));
        let answer = ask();
        if answer.status == 200 && answer.body.contains("\"admin_token_changed\":true") {
            return Some(answer.body);
        }
        // It is in force already: back, and once more.
        put(&file, &text);
        eventually("nobody needs a token", || Call::get("/api/v1/status").send(admin).status == 200);
        None
    });
    let told = told.unwrap();
    assert!(told.contains("admin.token") && !told.contains(secret), "{told}");
}

/// Puts a file in another's place at once: who watches never sees half of it.
fn put(file: &Path, text: &str) {
    let part = file.with_extension("part");
    std::fs::write(&part, text).unwrap();
    std::fs::rename(part, file).unwrap();
}

/// A row of its own for each round, with what it must find and what not.
const ROWS: &str = r#"
category: xss
rows:
  - id: OWN-ROUND
    about: "a word that nobody says"
    profiles: [balanced]
    kinds: [value]
    views: [decoded]
    pattern: 'nobodysaysROUND'
    hits:
      - "nobodysaysROUND"
      - "a nobodysaysROUND b"
    misses:
      - "nobody"
      - "says"
"#;

/// A rate limit is changed many times, the rows are compiled once; a new row compiles them again.
#[test]
fn a_new_rate_limit_compiles_no_patterns() {
    let folder = tempfile::tempdir().unwrap();
    let patterns = folder.path().join("patterns");
    std::fs::create_dir(&patterns).unwrap();
    let rest = format!("detection: {{ patterns_dir: {} }}\n", patterns.display());
    let (_guard, admin) = service(folder.path(), "rate_limit: 1000", &rest);
    let compiled = || {
        let page = Call::get("/metrics").send(admin).body;
        let value = page.lines().find_map(|line| line.strip_prefix("envoy_guard_pattern_compiles_total{} "));
        value.unwrap_or_else(|| panic!("{page}")).parse::<u64>().unwrap()
    };
    assert_eq!(compiled(), 1);
    let file = folder.path().join("guard.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    for limit in 1..=10 {
        std::fs::write(&file, text.replace("rate_limit: 1000", &format!("rate_limit: {limit}"))).unwrap();
        assert_eq!(json(admin, &["reload"])["reloaded"], true);
    }
    assert!(Call::get("/config").send(admin).body.contains("\"rate_limit\":10,"));
    assert_eq!(compiled(), 1, "ten new limits compiled nothing");
    std::fs::write(patterns.join("own.yaml"), ROWS.replace("ROUND", "1")).unwrap();
    assert_eq!(json(admin, &["reload"])["reloaded"], true);
    assert_eq!(compiled(), 2);
}

/// The description of the API is what it does: a generic tester finds no server error and no answer that differs.
#[test]
fn the_api_does_what_its_description_says() {
    let folder = tempfile::tempdir().unwrap();
    let (guard, admin) = service(folder.path(), "", "");
    let done = Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/schemathesis.sh"))
        .args([&format!("http://127.0.0.1:{admin}"), "5"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(guard.log().contains("target: \"audit\"") || guard.log().contains("audit"), "it changed something");
    assert!(!guard.log().contains("panic"), "{}", guard.log());
}

/// Good and bad files, patterns and certificates, one after another under load: nothing fails, each good one counts.
#[test]
fn a_hundred_reloads_under_load_fail_no_request() {
    let authority = Authority::new();
    authority.write("guard", "guard.test", 2090);
    authority.write("envoy", "spiffe://mesh.test/ns/edge/sa/envoy", 2090);
    let folder = tempfile::tempdir().unwrap();
    let patterns = folder.path().join("patterns");
    std::fs::create_dir(&patterns).unwrap();
    // Connections end after a second, so that new certificates are met by new handshakes.
    let rest = format!("detection:\n  patterns_dir: {}\nlimits: {{ max_connection_age: 1 }}", patterns.display());
    let stack = Stack::with_policy_edit(
        "rate_limit: 1000000",
        &rest,
        |envoy| crate::tls::with_tls(&envoy, &authority, "envoy"),
        |policy| crate::tls::demanding(&policy, &authority),
    );
    let file = stack.folder().join("guard.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let config = || serde_json::from_str::<Value>(&Call::get("/config").send(stack.admin).body).unwrap();
    let metric = |name: &str| {
        let page = Call::get("/metrics").send(stack.admin).body;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name}: {page}")).parse::<u64>().unwrap()
    };
    let reload = || assert_eq!(json(stack.admin, &["reload"])["reloaded"], true);
    let load = Load::start(stack.port, |number| Shot {
        kind: Kind::Clean,
        client: format!("198.51.100.{}", number % 200),
        path: "/",
    });
    for round in 0..100 {
        match round % 4 {
            0 => {
                put(&file, &good.replace("rate_limit: 1000000", "rate_limit: nonsense"));
                let (code, _, error) = command(stack.admin, &["reload"]);
                assert!(code == 1 && error.contains("rate_limit"), "{error}");
                put(&file, &good);
            }
            // Rows are compiled anew, which takes its time: a few of them.
            1 if round < 12 => {
                put(&patterns.join("own.yaml"), &ROWS.replace("ROUND", &round.to_string()));
                reload();
                let shown = Call::get("/api/v1/patterns?limit=1000").send(stack.admin).body;
                assert!(shown.contains(&format!("\"OWN-{round}\"")), "the new row is in use");
                let attack = Call::get(&format!("/?q=nobodysays{round}")).from("192.0.2.9");
                assert_eq!(stack.send(&attack).status, 400, "the new row finds");
            }
            2 => {
                let before = metric("envoy_guard_tls_certificate_expires{}");
                authority.write("guard", "guard.test", 2030 + round / 2);
                reload();
                assert_ne!(metric("envoy_guard_tls_certificate_expires{}"), before, "the new certificate is used");
            }
            _ => {
                let limit = 1_000_001 + round;
                put(&file, &good.replace("rate_limit: 1000000", &format!("rate_limit: {limit}")));
                reload();
                assert_eq!(config()["config"]["security"]["rate_limit"], limit, "the change is visible");
            }
        }
    }
    let tally = load.stop();
    assert_eq!(tally.count(Kind::Clean, |status| status != 200), 0, "{:?}", tally.statuses);
    assert!(1 < metric("envoy_guard_tls_handshakes_total{end=\"done\"}"), "new handshakes met new certificates");
}
