use serde_json::{Value, json};

use crate::engine::tests::testing::{Ask, NOON, at, header, lit, once, policy, short};
use crate::model::decision::Verdict;
use crate::state::memory::Memory;

fn cors(more: Value) -> Value {
    let mut fields = lit!({"enable_cors": true, "cors_allow_origins": ["https://a.com"]});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"security": fields})
}

const ORIGIN: (&str, &str) = ("origin", "https://a.com");
const METHOD: (&str, &str) = ("access-control-request-method", "PUT");

fn preflight<'a>(headers: &'a [(&'a str, &'a str)]) -> Ask<'a> {
    Ask { method: "OPTIONS", headers, ..Ask::default() }
}

#[test]
fn preflights_are_answered_after_the_pipeline() {
    let listed =
        || cors(lit!({"cors_allow_headers": ["X-One", "X-Two"], "cors_allow_credentials": true, "cors_max_age": 0}));
    for (name, text, headers, expected, echoed) in [
        ("allowed", cors(lit!({})), &[ORIGIN, METHOD][..], (200, "OK"), None),
        (
            "any header is echoed",
            cors(lit!({})),
            &[ORIGIN, METHOD, ("access-control-request-headers", "X-A, x-b")],
            (200, "OK"),
            Some("X-A, x-b"),
        ),
        (
            "the configured list is sent",
            listed(),
            &[ORIGIN, METHOD, ("access-control-request-headers", "x-two")],
            (200, "OK"),
            Some("X-One, X-Two"),
        ),
        (
            "a header that is not listed",
            listed(),
            &[ORIGIN, METHOD, ("access-control-request-headers", "x-three")],
            (400, "Disallowed CORS: headers"),
            Some("X-One, X-Two"),
        ),
        ("no origin", cors(lit!({})), &[METHOD], (400, "Disallowed CORS: origin"), None),
        (
            "everything wrong",
            listed(),
            &[
                ("origin", "https://A.com"),
                ("access-control-request-method", "TRACE"),
                ("access-control-request-headers", "x"),
            ],
            (400, "Disallowed CORS: origin, method, headers"),
            Some("X-One, X-Two"),
        ),
        ("method without case", cors(lit!({})), &[ORIGIN, ("access-control-request-method", "put")], (200, "OK"), None),
    ] {
        let policy = policy(text);
        let decision = once(&policy, preflight(headers));
        assert_eq!(short(&decision), expected, "{name}");
        assert_eq!(header(&decision, "access-control-allow-headers"), echoed, "{name}");
        assert_eq!(header(&decision, "vary"), Some("Origin"), "{name}");
        assert_eq!(header(&decision, "access-control-max-age"), Some("600"), "{name}");
        assert_eq!(header(&decision, "x-frame-options"), None, "{name}");
    }
}

#[test]
fn a_refused_preflight_is_a_refusal_with_cors_headers() {
    let policy_of = policy(cors(lit!({"blacklist": ["203.0.113.7"]})));
    let decision = once(&policy_of, preflight(&[ORIGIN, METHOD]));
    assert_eq!(short(&decision), (403, "Forbidden"));
    assert_eq!(header(&decision, "access-control-allow-origin"), Some("https://a.com"));
    assert_eq!(header(&decision, "access-control-allow-methods"), None);
    assert_eq!(header(&decision, "vary"), Some("Origin"));

    let policy_of = policy(cors(lit!({"rate_limit": 1, "exclude_paths": ["/api"]})));
    let state = Memory::new(10);
    let ask = || short(&at(&policy_of, &state, preflight(&[ORIGIN, METHOD]), NOON)).0;
    assert_eq!([ask(), ask()], [200, 429], "preflights use the budget, on excluded paths too");
}

#[test]
fn ordinary_responses_carry_the_set_of_their_origin() {
    let set = |text: Value, origin: &str| {
        let policy = policy(text);
        let headers = [("origin", origin)];
        let decision = once(&policy, Ask::with(&headers));
        assert_eq!(decision.verdict, Verdict::Allow);
        let extra = decision.response_headers.extra.iter();
        extra.map(|edit| format!("{}: {}", edit.name, edit.value)).collect::<Vec<_>>()
    };
    assert_eq!(
        set(cors(lit!({"cors_allow_methods": ["GET"], "cors_expose_headers": ["X-A"]})), "https://a.com"),
        [
            "access-control-allow-methods: GET",
            "access-control-allow-headers: *",
            "access-control-max-age: 3600",
            "access-control-allow-origin: https://a.com",
            "access-control-expose-headers: X-A",
            "vary: Origin",
        ]
    );
    assert!(set(cors(lit!({})), "https://b.com").is_empty());
    assert!(set(cors(lit!({"cors_allow_origins": []})), "https://a.com").is_empty());
    assert_eq!(
        set(cors(lit!({"security_headers": null, "cors_allow_credentials": true})), "https://a.com"),
        ["access-control-allow-origin: https://a.com", "access-control-allow-credentials: true", "vary: Origin"]
    );
    assert_eq!(
        set(
            cors(lit!({"security_headers": null, "cors_allow_origins": ["*"], "cors_allow_credentials": true})),
            "https://b.com"
        ),
        ["access-control-allow-origin: *"],
        "credentials are downgraded"
    );
}

#[test]
fn downgraded_credentials_are_warned_about() {
    let policy = policy(cors(lit!({"cors_allow_origins": ["*"], "cors_allow_credentials": true})));
    assert_eq!(policy.warnings.len(), 1);
    assert_eq!(policy.warnings[0].key, "security.cors_allow_credentials");
}
