//! Requests that are slowed down, through each filter, and requests that find no room to wait.

use std::time::Duration;

use envoy_guard::clock;

use crate::stack::{Call, Stack, policy};

/// What a request above the threshold waits.
const DELAY: Duration = Duration::from_millis(200);

/// A route that slows down, and room for so many that wait.
fn slow(room: u32) -> String {
    format!(
        "limits: {{ max_delayed_requests: {room} }}\n\
         routes:\n  - name: slow\n    match: [{{ path: /slow }}]\n    behavior_rules:\n      \
         - {{ rule_type: usage, threshold: 1, window: 600, action: throttle, delay_ms: {} }}\n",
        DELAY.as_millis()
    )
}

#[test]
fn a_slow_down_waits_and_lets_pass() {
    for file in ["ext_authz.yaml", "ext_proc.yaml", "both.yaml"] {
        let mut stack = Stack::of(file, &policy("", &slow(1), 0, 0), |text| text);
        let timed = |stack: &Stack| {
            let start = clock::instant();
            (stack.send(&Call::get("/slow").from("198.51.100.1")), start.elapsed())
        };
        assert_eq!(timed(&stack).0.status, 200, "{file}: the first is below the threshold");
        // One place, and three that need it: each gives it back.
        for _ in 0..3 {
            let (answer, took) = timed(&stack);
            assert_eq!(answer.status, 200, "{file}: {answer:?}");
            assert!(DELAY <= took, "{file}: {took:?}");
        }
        assert_eq!(stack.send(&Call::get("/other").from("198.51.100.1")).status, 200, "{file}");
        stack.restart_guard(|_, grpc, admin| policy("", &slow(0), grpc, admin));
        assert_eq!(timed(&stack).0.status, 200, "{file}");
        let seen = stack.application.seen();
        let (refused, _) = timed(&stack);
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{file}: {refused:?}");
        assert_eq!(stack.application.seen(), seen, "{file}");
    }
}
