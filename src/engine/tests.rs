use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::detect::Unmetered;
use crate::engine::tests::testing::{Ask, NOON, at, check, events, header, lit, once, policy, ready, routed, short};
use crate::engine::trace::{Outcome, Trace};
use crate::engine::{Asked, decide, decide_traced};
use crate::model::addr::{Client, IpEntry};
use crate::model::category::CategorySet;
use crate::model::check::Check;
use crate::model::decision::Verdict;
use crate::model::time::{Timestamp, Window};
use crate::state::memory::Memory;
use crate::state::{Answer, BanPage, Mark, Question, State, StateError, Suspicion, Track};

pub(in crate::engine) mod testing;

/// State that never answers.
struct Lost;

impl State for Lost {
    async fn ask(&self, _: &Question<'_>, _: Timestamp) -> Result<Answer, StateError> {
        Err(StateError::Deadline)
    }

    async fn ban(&self, _: IpEntry, _: Window, _: &str, _: Timestamp) -> Result<(), StateError> {
        Err(StateError::Deadline)
    }

    async fn unban(&self, _: IpEntry, _: Timestamp) -> Result<bool, StateError> {
        Err(StateError::Deadline)
    }

    async fn bans(&self, _: Option<&str>, _: usize, _: Timestamp) -> Result<BanPage, StateError> {
        Err(StateError::Deadline)
    }

    async fn reset_bans(&self) -> Result<(), StateError> {
        Err(StateError::Deadline)
    }

    async fn reset_limits(&self) -> Result<(), StateError> {
        Err(StateError::Deadline)
    }

    async fn suspect(&self, _: Client<'_>, _: CategorySet, _: Timestamp) -> Result<Suspicion, StateError> {
        Err(StateError::Deadline)
    }

    async fn absolve(&self, _: Client<'_>) -> Result<(), StateError> {
        Err(StateError::Deadline)
    }

    async fn suspicion(&self, _: Client<'_>, _: Timestamp) -> Result<u64, StateError> {
        Err(StateError::Deadline)
    }

    async fn withdraw(&self, _: &[Track<'_>], _: Mark) -> Result<(), StateError> {
        Err(StateError::Deadline)
    }

    async fn observe(&self, _: Track<'_>, _: Window, _: Timestamp) -> Result<u64, StateError> {
        Err(StateError::Deadline)
    }
}

#[test]
fn lost_state_follows_the_failure_rule_and_lists_still_work() {
    let text = |fail_secure: bool, open: bool, passive: bool| {
        json!({"security": {
            "fail_secure": fail_secure, "redis_fail_open": open, "passive_mode": passive, "blacklist": ["9.9.9.9"],
        }})
    };
    let attack = Ask { target: "/?q=<script>alert(1)</script>", ..Ask::default() };
    for (name, text, ask, expected) in [
        ("strict", text(true, false, false), Ask::default(), 500),
        ("strict and passive", text(true, false, true), Ask::default(), 500),
        ("insecure", text(false, false, false), Ask::default(), 0),
        ("fail open", text(true, true, false), Ask::default(), 0),
        ("a listed client, fail open", text(true, true, false), Ask::from("9.9.9.9"), 403),
        ("an attack, fail open", text(true, true, false), attack, 400),
        ("an attack, insecure", text(false, false, false), attack, 400),
    ] {
        let policy = policy(text);
        let decision = at(&policy, &Lost, ask, NOON);
        assert_eq!(short(&decision).0, expected, "{name}");
        if expected == 500 {
            assert!(matches!(decision.verdict, Verdict::Fail(_)), "{name}");
            assert!(decision.blocks.is_empty() && decision.facts.is_empty(), "{name}");
            assert_eq!(header(&decision, "x-frame-options"), Some("SAMEORIGIN"), "{name}");
        }
    }
}

#[test]
fn https_is_enforced_by_policy_or_route() {
    let global = || lit!({"security": {"enforce_https": true}});
    let mixed = |own: Value| {
        let mut text = routed(json!({"require_https": own}));
        text.as_object_mut().unwrap().insert("security".to_owned(), lit!({"enforce_https": true}));
        text
    };
    check(&[
        ("by policy", global(), Ask::default(), 301, ""),
        ("secure", global(), Ask { scheme: "https", ..Ask::default() }, 0, ""),
        ("an unset route inherits", mixed(lit!(null)), Ask::default(), 301, ""),
        ("a route turns it off", mixed(lit!(false)), Ask::default(), 0, ""),
        ("a route alone", routed(lit!({"require_https": true})), Ask::default(), 301, ""),
        ("passive", lit!({"security": {"enforce_https": true, "passive_mode": true}}), Ask::default(), 0, ""),
    ]);
    for (text, event) in [(global(), "https_enforced"), (routed(lit!({"require_https": true})), "decorator_violation")]
    {
        let policy = policy(text);
        let decision = once(&policy, Ask { target: "/a?b", ..Ask::default() });
        assert_eq!(events(&decision), [(event, "https_redirect")]);
        assert_eq!(header(&decision, "location"), Some("https://example.com/a?b"));
        assert_eq!(header(&decision, "x-frame-options"), None);
        assert!(decision.blocks.is_empty());
    }
}

#[test]
fn routes_may_bypass_everything_unless_passive() {
    let text = |passive: bool| {
        let mut text = routed(lit!({"bypassed_checks": ["all"], "max_request_size": 1}));
        let security = json!({"blacklist": ["203.0.113.7"], "passive_mode": passive});
        text.as_object_mut().unwrap().insert("security".to_owned(), security);
        text
    };
    let ask = Ask::with(&[("content-length", "10")]);
    let active = policy(text(false));
    let decision = once(&active, ask);
    assert_eq!(short(&decision), (0, ""));
    assert_eq!(events(&decision), [("security_bypass", "all_checks_bypassed")]);
    assert!(decision.response_headers.constant.is_none(), "no security headers either");
    let passive = policy(text(true));
    let decision = once(&passive, ask);
    assert_eq!(events(&decision), [("security_bypass", "all_checks_bypassed"), ("content_filtered", "logged_only")]);
    assert!(decision.response_headers.constant.is_some());
}

#[test]
fn excluded_paths_run_the_reduced_set() {
    let text = lit!({"security": {"emergency_mode": true, "blocked_user_agents": ["."], "enforce_https": true}});
    let policy = policy(text);
    let decision = once(&policy, Ask { target: "/docs/x", ..Ask::with(&[("user-agent", "a")]) });
    assert_eq!(short(&decision), (0, ""));
    assert!(decision.excluded);
    assert_eq!(events(&decision), [("path_excluded", "security_checks_bypassed")]);
    assert!(decision.response_headers.constant.is_some());
    assert_eq!(short(&once(&policy, Ask { target: "/docs/../x", ..Ask::default() })).0, 503);
}

#[test]
fn spoofed_chains_are_reported_and_go_on() {
    let policy = policy(lit!({"security": {"trusted_proxies": ["10.0.0.1"]}}));
    let decision = once(&policy, Ask::with(&[("x-forwarded-for", "1.1.1.1")]));
    assert_eq!(short(&decision), (0, ""));
    assert_eq!(events(&decision), [("suspicious_request", "spoofing_detected")]);
    assert_eq!(decision.facts[0].reason, "Potential IP spoof attempt: X-Forwarded-For header 1.1.1.1");
    assert_eq!(decision.facts[0].handler, "ip_extraction");
}

#[test]
fn custom_bodies_replace_standard_answers_only() {
    let text = |rule: &str| {
        json!({"security": {
            "blacklist": ["9.9.9.9"], "custom_request_check": rule, "custom_error_responses": {"403": "nope"},
        }})
    };
    check(&[
        ("a standard answer", text("false"), Ask::from("9.9.9.9"), 403, "nope"),
        ("an answer of the policy's expression", text("true"), Ask::default(), 403, "Forbidden"),
    ]);
}

#[test]
fn the_response_modifier_changes_answers_of_ours() {
    let policy = policy(lit!({"security": {
        "blacklist": ["9.9.9.9"],
        "custom_response_modifier": [
            {"set": {"X-Frame-Options": "DENY", "X-By": "guard"}},
            {"when": "response.status == 403 && request.method == 'GET'", "add": {"X-When": "yes"}, "remove": ["Referrer-Policy"]},
            {"when": "response.status == 429", "set": {"X-Never": "1"}},
            {"when": "response.nothing", "set": {"X-Failed": "1"}}
        ]
    }}));
    let decision = once(&policy, Ask::from("9.9.9.9"));
    for (name, expected) in [
        ("x-frame-options", Some("DENY")),
        ("x-by", Some("guard")),
        ("x-when", Some("yes")),
        ("referrer-policy", None),
        ("x-never", None),
        ("x-failed", None),
    ] {
        assert_eq!(header(&decision, name), expected, "{name}");
    }
    let decision = once(&policy, Ask::default());
    let edits = &decision.response_headers.constant.unwrap().edits;
    assert!(edits.iter().any(|edit| edit.name == "x-by"));
    assert_eq!(edits.iter().filter(|edit| edit.name == "x-frame-options").count(), 1);
}

#[test]
fn route_validators_answer_in_their_own_words() {
    let text = |validators: Value| routed(json!({"custom_validators": validators}));
    check(&[
        (
            "the first that objects",
            text(lit!(["false", "{'status': 409, 'body': 'no'}", "true"])),
            Ask::default(),
            409,
            "no",
        ),
        ("none", text(lit!(["null", "false"])), Ask::default(), 0, ""),
        ("a failing one", text(lit!(["request.x"])), Ask::default(), 500, "Security check failed"),
        (
            "a trap",
            routed(lit!({"honeypot_fields": ["website"]})),
            Ask {
                method: "POST",
                body: "website=x",
                ..Ask::with(&[("content-type", "application/x-www-form-urlencoded")])
            },
            403,
            "Forbidden",
        ),
    ]);
    let policy = policy(text(lit!(["true"])));
    let decision = once(&policy, Ask::default());
    assert_eq!(header(&decision, "x-frame-options"), None);
    assert_eq!(events(&decision), [("decorator_violation", "request_blocked")]);
    assert!(decision.blocks.is_empty());
}

#[test]
fn hours_of_access() {
    let text = |start: &str, end: &str| routed(json!({"time_restrictions": {"start": start, "end": end}}));
    check(&[
        ("inside", text("11:00", "13:00"), Ask::default(), 0, ""),
        ("outside", text("13:00", "11:00"), Ask::default(), 403, "Access not allowed at this time"),
    ]);
}

#[test]
fn passive_mode_reports_every_objection() {
    let mut text =
        routed(lit!({"max_request_size": 1, "required_headers": {"X-A": "required"}, "ip_blacklist": ["203.0.113.7"]}));
    let security = lit!({"passive_mode": true, "emergency_mode": true});
    text.as_object_mut().unwrap().insert("security".to_owned(), security);
    let policy = policy(text);
    let decision = once(&policy, Ask::with(&[("content-length", "2")]));
    assert_eq!(short(&decision), (0, ""));
    assert!(decision.passive);
    assert_eq!(
        events(&decision),
        [
            ("emergency_mode_block", "logged_only"),
            ("content_filtered", "logged_only"),
            ("decorator_violation", "logged_only"),
            ("decorator_violation", "logged_only"),
        ]
    );
    assert_eq!(decision.blocks.len(), 4);
    assert!(decision.blocks.iter().all(|block| block.passive_mode && block.status_code.is_none()));
}

/// Notes what it hears.
#[derive(Default)]
struct Notes(Vec<(Check, String)>);

impl Trace for Notes {
    fn begin(&mut self, _: Check) {}

    fn end(&mut self, check: Check, outcome: Outcome<'_>) {
        self.0.push((check, format!("{outcome:?}")));
    }
}

#[test]
fn a_trace_hears_every_check_in_order() {
    let policy = policy(lit!({"security": {"exempt_ips": ["203.0.113.7"], "blocked_user_agents": ["x"]}}));
    let state = Memory::new(10);
    let request = Ask::default().request();
    let mut notes = Notes::default();
    let asked = Asked { request: &request, now: NOON, meter: &Unmetered };
    let decision = ready(decide_traced(&policy, &state, asked, &mut notes));
    assert_eq!(decision.verdict, Verdict::Allow);
    let order: Vec<Check> = notes.0.iter().map(|(check, _)| *check).collect();
    assert_eq!(order, Check::ALL);
    let of = |check: Check| notes.0.iter().find(|(own, _)| *own == check).map(|(_, text)| text.as_str());
    assert_eq!(of(Check::EmergencyMode), Some("Skipped(\"not configured\")"));
    assert_eq!(of(Check::IpSecurity), Some("Passed"));
    assert_eq!(of(Check::UserAgent), Some("Skipped(\"exempt\")"));
    assert_eq!(of(Check::SuspiciousActivity), Some("Passed"));
}

#[test]
fn decisions_can_be_awaited_on_another_thread() {
    const fn is_send<T: Send>(_: &T) {}
    let policy = policy(lit!({}));
    let (state, request) = (Memory::new(10), Ask::default().request());
    is_send(&decide(&policy, &state, &request, NOON, &Unmetered));
}

/// The pipeline as the specification tells it: one question after the other, its own windows, no looking ahead.
#[derive(Default)]
struct Naive {
    hits: HashMap<(String, Option<String>), Vec<f64>>,
}

/// What a random policy holds.
#[derive(Clone, Debug)]
struct Rules {
    passive: bool,
    blacklist: bool,
    exempt: bool,
    agents: bool,
    clouds: bool,
    endpoint: Option<u32>,
    route: Option<u32>,
    global: u32,
    banned: bool,
}

const CLIENTS: [&str; 4] = ["81.0.0.1", "81.0.0.2", "3.0.0.1", "81.0.0.4"];
const PATHS: [&str; 3] = ["/limited", "/open", "/docs"];
const AGENTS: [&str; 2] = ["curl", "evil"];

impl Rules {
    fn policy(&self) -> Value {
        let mut security = json!({
            "passive_mode": self.passive, "rate_limit": self.global, "rate_limit_window": 10,
            "enable_penetration_detection": false,
        });
        let fields = security.as_object_mut().unwrap();
        if self.blacklist {
            fields.insert("blacklist".to_owned(), json!([CLIENTS[0]]));
        }
        if self.exempt {
            fields.insert("exempt_ips".to_owned(), json!([CLIENTS[1]]));
        }
        if self.agents {
            fields.insert("blocked_user_agents".to_owned(), lit!(["evil"]));
        }
        if let Some(limit) = self.endpoint {
            fields.insert("endpoint_rate_limits".to_owned(), json!({"/limited": [limit, 5]}));
        }
        let mut route = lit!({"name": "limited", "match": [{"path": "/limited"}]});
        if let Some(limit) = self.route {
            route.as_object_mut().unwrap().insert("rate_limit".to_owned(), json!(limit));
        }
        if self.clouds {
            route.as_object_mut().unwrap().insert("block_cloud_providers".to_owned(), lit!(["AWS"]));
        }
        json!({"security": security, "routes": [route]})
    }
}

impl Naive {
    fn status(&mut self, rules: &Rules, client: &str, path: &str, agent: &str, now: f64) -> u16 {
        let mut first = None;
        let mut refuse = |status: u16| {
            first.get_or_insert(status);
            !rules.passive
        };
        let (excluded, limited) = (path == "/docs", path == "/limited");
        if rules.banned && client == CLIENTS[3] && refuse(403) {
            return 403;
        }
        let listed = rules.blacklist && client == CLIENTS[0];
        if listed && refuse(403) {
            return 403;
        }
        let exempt = rules.exempt && client == CLIENTS[1];
        if !exempt && !excluded {
            if rules.clouds && limited && client == CLIENTS[2] && refuse(403) {
                return 403;
            }
            if rules.agents && agent == "evil" && refuse(403) {
                return 403;
            }
        }
        if exempt {
            return 0;
        }
        let mut tiers = Vec::new();
        if limited {
            tiers.extend(rules.endpoint.map(|limit| (Some(path.to_owned()), limit, 5.0)));
            tiers.extend(rules.route.map(|limit| (Some(path.to_owned()), limit, 60.0)));
        }
        tiers.push((None, rules.global, 10.0));
        let mut counted = Vec::new();
        for (bucket, limit, window) in tiers {
            let hits = self.hits.entry((client.to_owned(), bucket.clone())).or_default();
            if !counted.contains(&bucket) {
                hits.push(now);
                counted.push(bucket);
            }
            let count = hits.iter().filter(|hit| now - window < **hit).count();
            if u64::from(limit) < count as u64 && refuse(429) {
                return 429;
            }
        }
        0
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let limit = || proptest::option::of(0u32..4);
    (any::<[bool; 6]>(), limit(), limit(), 0u32..6).prop_map(|(flags, endpoint, route, global)| {
        let [passive, blacklist, exempt, agents, clouds, banned] = flags;
        Rules { passive, blacklist, exempt, agents, clouds, endpoint, route, global, banned }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn looking_ahead_changes_nothing(
        rules in rules(),
        asks in proptest::collection::vec((0usize..4, 0usize..3, 0usize..2, 0.0f64..4.0), 1..30),
    ) {
        let policy = policy(rules.policy());
        let state = Memory::new(100);
        let mut naive = Naive::default();
        let mut now = NOON;
        if rules.banned {
            ready(state.ban(CLIENTS[3].parse().unwrap(), Window::new(100_000).unwrap(), "test", now)).unwrap();
        }
        for (client, path, agent, step) in asks {
            now = now.plus(step);
            let (client, path, agent) = (CLIENTS[client], PATHS[path], AGENTS[agent]);
            let headers = [("user-agent", agent)];
            let ask = Ask { target: path, peer: client, ..Ask::with(&headers) };
            let found = short(&at(&policy, &state, ask, now)).0;
            prop_assert_eq!(found, naive.status(&rules, client, path, agent, now.0));
        }
    }

    #[test]
    fn no_request_panics(
        target in ".{0,40}", peer in "[0-9a-f.:%\\[\\]x]{0,20}", method in "[A-Za-z]{0,8}",
        name in "[a-z-]{1,20}", value in ".{0,40}", body in ".{0,60}",
    ) {
        let text = lit!({
            "security": {
                "enable_cors": true, "trusted_proxies": ["0.0.0.0/0", "unix"], "trust_x_forwarded_proto": true,
                "custom_request_check": "request.path == 'x' || request.query.size() == 99",
                "blocked_user_agents": ["a+b"], "block_cloud_providers": ["AWS"], "enforce_https": false
            },
            "routes": [{"name": "r", "match": [{"regex": "/.*x"}], "require_referrer": ["a.com"], "honeypot_fields": ["a"]}]
        });
        thread_local! {
            static POLICY: std::cell::OnceCell<&'static crate::engine::policy::Policy> = const { std::cell::OnceCell::new() };
        }
        let policy = POLICY.with(|cell| *cell.get_or_init(|| Box::leak(Box::new(policy(text)))));
        let headers = [
            (name.as_str(), value.as_str()), ("x-forwarded-for", value.as_str()), ("origin", value.as_str()),
            ("user-agent", value.as_str()), ("referer", value.as_str()), ("content-length", "1"),
        ];
        let ask = Ask { method: &method, target: &target, peer: &peer, headers: &headers, body: &body, ..Ask::default() };
        let decision = once(policy, ask);
        let (status, _) = short(&decision);
        prop_assert!(status == 0 || status == 200 || (300..600).contains(&status));
    }
}
