//! The log of a running service: its format and levels, a file of one's own, rotation by signal, and what is muted.

use std::path::Path;

use serde_json::Value;

use crate::stack::{Call, Stack, policy};

/// The lines of decisions about this client in a log of JSON lines.
fn about(log: &str, client: &str) -> Vec<Value> {
    let lines =
        log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    lines.filter(|line| line["target"] == "decision" && line["client"] == client).collect()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn lines_have_the_format_and_level_asked_for_and_follow_a_file_that_is_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("logs/guard.log"), folder.path().join("guard.log.1"));
    let security = format!(
        "log_format: json\nlog_request_level: INFO\nlog_suspicious_level: ERROR\ncustom_log_file: '{}'\n\
         blocked_user_agents: [evilbot]\nblacklist: [203.0.113.9]\nmuted_check_logs: [user_agent]\nrate_limit: 100000\n",
        file.display()
    );
    let mut stack = Stack::start(&security, "");
    let call = |client: &str| Call::get("/a?token=geheim7").from(client);
    assert_eq!(stack.send(&call("203.0.113.1").header("user-agent", "evilbot")).status, 403);
    assert_eq!(stack.send(&call("203.0.113.9")).status, 403);
    assert_eq!(stack.send(&call("203.0.113.2")).status, 200);
    stack.guard.wait(|_| !about(&text(&file), "203.0.113.2").is_empty());
    let log = text(&file);
    assert!(about(&log, "203.0.113.1").is_empty(), "its check is muted:\n{log}");
    let refused = about(&log, "203.0.113.9");
    let [refused] = &refused[..] else { panic!("one line:\n{log}") };
    for (name, expected) in [("level", "ERROR"), ("verdict", "deny"), ("check", "ip_security"), ("method", "GET")] {
        assert_eq!(refused[name], expected, "{name} of {refused}");
    }
    assert_eq!((&refused["status"], &refused["path"]), (&403.into(), &"/a?token=[REDACTED]".into()), "{refused}");
    let allowed = &about(&log, "203.0.113.2")[0];
    assert_eq!((&allowed["level"], &allowed["verdict"]), (&"INFO".into(), &"allow".into()), "{allowed}");
    assert!(!log.contains("geheim7"), "{log}");

    // Moved away: lines go to where the file went, until the signal says that it was rotated.
    std::fs::rename(&file, &moved).unwrap();
    assert_eq!(stack.send(&call("203.0.113.3")).status, 200);
    stack.guard.wait(|_| !about(&text(&moved), "203.0.113.3").is_empty());
    stack.guard.signal("USR1");
    stack.guard.wait(|_| file.exists());
    assert_eq!(stack.send(&call("203.0.113.4")).status, 200);
    stack.guard.wait(|_| !about(&text(&file), "203.0.113.4").is_empty());
    assert!(about(&text(&moved), "203.0.113.4").is_empty());

    // The standard output has the same lines; as text, and with null for both levels, none about requests.
    stack.guard.wait(|guard| !about(&guard.log(), "203.0.113.4").is_empty());
    let quiet = "log_suspicious_level: null\nblacklist: [203.0.113.9]\nrate_limit: 100000\n";
    stack.restart_guard(|_, grpc, admin| policy(quiet, "", grpc, admin));
    assert_eq!(stack.send(&call("203.0.113.9")).status, 403);
    assert_eq!(stack.send(&call("203.0.113.2")).status, 200);
    stack.guard.signal("TERM");
    assert_eq!(stack.guard.exit(), Some(0));
    let log = stack.guard.log();
    assert!(log.contains(" INFO ") && !log.starts_with('{'), "text:\n{log}");
    assert!(!log.contains("203.0.113."), "null silences:\n{log}");
}
