//! Limits as a client meets them behind a real Envoy with Redis behind the service: who shares one, and what is told.

use crate::redis_servers::Server;
use crate::stack::{Answer, Call, Stack};

const RULES: &str = r#"
rate_limits:
  headers: both
  on_allowed: true
  rules:
    - { name: network, requests: 4, window: 60, by: [network] }
    - { name: key, requests: 2, window: 600, by: ["header:x-api-key"] }
    - { name: cheap, requests: 1000, window: 3600, by: [client], mode: cached }
    - { name: tried, requests: 1, window: 60, by: [client], shadow: true }
"#;

/// `name` and the number behind `part` in a RateLimit field.
fn told(answer: &Answer, part: &str) -> (String, u64) {
    let field = answer.header("ratelimit").unwrap_or_else(|| panic!("{answer:?}"));
    let name = field.split('"').nth(1).unwrap().to_owned();
    let number = field.split(';').find_map(|item| item.strip_prefix(part)?.strip_prefix('=')).unwrap();
    (name, number.parse().unwrap())
}

#[test]
fn clients_are_told_of_the_strictest_limit_and_when_to_come_back() {
    let server = Server::start(&[]);
    let enabled = format!("enable_redis: true\n  redis_url: {}", server.url());
    let edit = |policy: String| policy.replace("enable_redis: false", &enabled);
    let security = "rate_limit: 1000\nendpoint_rate_limits: { /once: [1, 30] }";
    // A busy machine must not look like a lost Redis.
    let rest = format!("{RULES}limits: {{ state_deadline_ms: 5000 }}\n");
    let stack = Stack::with_policy_edit(security, &rest, |envoy| envoy, edit);
    let get = |client: &str| Call::get("/").from(client);

    let first = stack.send(&get("198.18.0.1"));
    assert_eq!(first.status, 200);
    // A limit in shadow mode is not told.
    let policy = "\"global\";q=1000;w=60, \"network\";q=4;w=60, \"cheap\";q=1000;w=3600";
    assert_eq!(first.header("ratelimit-policy"), Some(policy));
    assert_eq!(told(&first, "r"), ("network".to_owned(), 3));
    assert_eq!(first.header("x-ratelimit-remaining"), Some("3"));
    assert_eq!(first.header("x-ratelimit-limit"), Some("4"));
    assert_eq!(first.header("retry-after"), None);

    // Neighbours share the network's limit; the key's limit is its own, and refuses first.
    let keyed = |client: &str| get(client).header("x-api-key", "k1");
    assert_eq!(told(&stack.send(&keyed("198.18.0.2")), "r"), ("key".to_owned(), 1));
    assert_eq!(told(&stack.send(&keyed("198.18.1.1")), "r"), ("key".to_owned(), 0));
    let refused = stack.send(&keyed("198.18.2.1"));
    assert_eq!((refused.status, refused.body.as_str()), (429, "Too many requests"));
    let (name, wait) = told(&refused, "t");
    assert!(name == "key" && (1..=600).contains(&wait), "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some(&*wait.to_string()), "both say the same");
    assert_eq!(refused.header("x-ratelimit-reset"), Some(&*wait.to_string()));
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));

    // What was refused counted nowhere: this network still has all but nothing used.
    assert_eq!(told(&stack.send(&get("198.18.2.1")), "r"), ("network".to_owned(), 3));
    // Two of four are used by the two neighbours.
    assert_eq!(told(&stack.send(&get("198.18.0.3")), "r"), ("network".to_owned(), 1));
    assert_eq!(told(&stack.send(&get("198.18.0.4")), "r"), ("network".to_owned(), 0));
    let refused = stack.send(&get("198.18.0.5"));
    assert_eq!((refused.status, told(&refused, "r")), (429, ("network".to_owned(), 0)));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");

    // guard-core's limits say their whole window.
    assert_eq!(stack.send(&Call::get("/once").from("203.0.113.1")).status, 200);
    let refused = stack.send(&Call::get("/once").from("203.0.113.1"));
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("30")));
    // What is counted lies in Redis: one history for each key of an exact limit.
    let keys = server.cli(&["keys", "guard_core:envoy_guard:limit:*"]);
    assert!(5 < keys.lines().count(), "{keys}");
}
