//! Behaviour rules, response rules and reports through a real Envoy with ext_proc.

use crate::stack::{Answer, Call, Stack, policy};

const SECURITY: &str = "rate_limit: 100000\ndetection_scan_body: false\nbehavior_scan_response_body: true\n\
    global_behavior_rules:\n  \
    - { rule_type: return_pattern, pattern: \"status:404\", threshold: 2, window: 600, action: ban, ban_duration: 900 }\n  \
    - { rule_type: return_pattern, pattern: \"jackpot\", threshold: 1, window: 600, action: throttle }";

const REST: &str = "routes:\n  - name: busy\n    match: [{ path: /busy }]\n    behavior_rules:\n      \
    - { rule_type: usage, threshold: 2, window: 60, action: throttle }\n\
    responses:\n  bodies: negotiated\n  csp_report_paths: [/csp]\n  rules:\n    \
    - { name: cards, find: [card_numbers], action: block, status: 502, body: withheld }\n";

#[test]
fn what_responses_say_has_consequences() {
    let mut stack = Stack::of("ext_proc.yaml", &policy(SECURITY, REST, 0, 0), |text| {
        text.replace("message_timeout: 0.5s", "message_timeout: 5s")
    });
    leaks_are_withheld(&mut stack);
    noise_is_banned(&stack);
    patterns_and_usage_throttle(&stack);
    reports_are_taken(&stack);
    let page = Call::get("/metrics").send(stack.admin).body;
    for series in [
        "envoy_guard_decisions_total{check=\"response_rule\",verdict=\"deny\"} 1",
        "envoy_guard_decisions_total{check=\"csp_report\",verdict=\"deny\"} 2",
        "envoy_guard_events_total{event=\"csp_violation\"} 1",
    ] {
        assert!(page.contains(series), "{series}\n{page}");
    }
}

/// The application answers with the head of the request: what is sent to it leaks from it.
fn leaks_are_withheld(stack: &mut Stack) {
    let get = || Call::get("/page").from("198.51.100.1");
    assert_eq!(stack.send(&get().header("x-note", "4111 1111 1111 1112")).status, 200, "no card");
    let withheld = stack.send(&get().header("x-note", "4111 1111 1111 1111").header("accept", "application/json"));
    assert_eq!(withheld.status, 502, "{withheld:?}");
    assert_eq!(withheld.header("content-type"), Some("application/problem+json"));
    assert!(!withheld.body.contains("4111") && withheld.body.contains("withheld"), "{withheld:?}");
    assert_eq!(withheld.header("x-frame-options"), Some("SAMEORIGIN"));
}

fn noise_is_banned(stack: &Stack) {
    let get = |path: &str| stack.send(&Call::get(path).from("198.51.100.2")).status;
    let seen = ["/status/404", "/status/404/b", "/status/404/c", "/page"].map(get);
    assert_eq!(seen, [404, 404, 404, 403], "another path each time");
    assert_eq!(stack.send(&Call::get("/page").from("198.51.100.3")).status, 200);
    let page = stack.send(&Call::get("/page").from("198.51.100.2").header("accept", "text/html"));
    assert!(page.header("content-type").is_some_and(|media| media.starts_with("text/html")), "{page:?}");
}

fn patterns_and_usage_throttle(stack: &Stack) {
    let get = |note: &str| stack.send(&Call::get("/win").from("198.51.100.4").header("x-note", note));
    let answers: Vec<Answer> = ["jackpot", "JACKPOT", "none"].map(get).into();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    let busy = || stack.send(&Call::get("/busy").from("198.51.100.5"));
    let answers = [busy(), busy(), busy()];
    assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 200, 429]);
    assert_eq!(answers[2].header("retry-after"), Some("60"));
}

fn reports_are_taken(stack: &Stack) {
    let before = stack.application.seen();
    let report =
        r#"{"csp-report":{"document-uri":"https://a/","violated-directive":"script-src","blocked-uri":"inline"}}"#;
    let send =
        |body: &str| stack.send(&Call::new("POST", "/csp").from("198.51.100.6").body("application/csp-report", body));
    assert_eq!((send(report).status, send("{}").status), (204, 400));
    assert_eq!(stack.application.seen(), before, "the upstream never saw them");
}

/// What is added to answers of ours is there behind both filters, each value of it.
#[test]
fn what_is_added_to_a_refusal_arrives() {
    let security = "blacklist: [\"198.51.100.66\"]\ncustom_response_modifier:\n  - { add: { set-cookie: a=1 } }\n  \
        - { add: { set-cookie: b=2 } }";
    for file in ["ext_authz.yaml", "ext_proc.yaml"] {
        let stack = Stack::of(file, &policy(security, "responses:\n  bodies: negotiated", 0, 0), |text| text);
        let refused = stack.send(&Call::get("/").from("198.51.100.66"));
        let all = |name: &str| -> Vec<&str> {
            let found = refused.headers.iter().filter(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!((refused.status, all("set-cookie")), (403, vec!["a=1", "b=2"]), "{file}: {refused:?}");
        assert_eq!(all("vary"), ["Accept"], "{file}: {refused:?}");
    }
}
