use serde_json::{Value, json};

use crate::engine::tests::testing::{Ask, check, events, header, lit, once, policy, routed, wrong};

const BODY: &str = "Authentication required";

/// SHA-256 of "open sesame".
fn keys() -> Value {
    lit!({"hashes": {"sha256:41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb": "ali"}})
}

fn bearer() -> Value {
    routed(json!({"auth_required": "bearer", "auth_verifier": keys()}))
}

fn api_key() -> Value {
    routed(lit!({"api_key_required": true, "api_key_verifier": {"file": "keys"}}))
}

fn both() -> Value {
    routed(json!({
        "auth_required": "bearer", "auth_verifier": keys(),
        "api_key_required": true, "api_key_verifier": {"file": "keys"},
    }))
}

#[test]
fn credentials_are_verified() {
    let cel = |rule: &str| routed(json!({"auth_required": "token", "auth_verifier": rule}));
    let right = ("authorization", "Bearer open sesame");
    check(&[
        ("the right token", bearer(), Ask::with(&[right]), 0, ""),
        ("the scheme without case", bearer(), Ask::with(&[("authorization", "bEARER open sesame")]), 0, ""),
        ("a wrong token", bearer(), Ask::with(&[("authorization", "Bearer sesame")]), 401, BODY),
        ("an empty token", bearer(), Ask::with(&[("authorization", "Bearer ")]), 401, BODY),
        ("another scheme", bearer(), Ask::with(&[("authorization", "Basic open sesame")]), 401, BODY),
        ("no header", bearer(), Ask::default(), 401, BODY),
        ("the right key", api_key(), Ask::with(&[("x-api-key", "open sesame")]), 0, ""),
        ("a wrong key", api_key(), Ask::with(&[("x-api-key", "x")]), 401, BODY),
        ("no key", api_key(), Ask::default(), 401, BODY),
        ("both", both(), Ask::with(&[right, ("x-api-key", "open sesame")]), 0, ""),
        ("both are verified", both(), Ask::with(&[right, ("x-api-key", "x")]), 401, BODY),
        ("both, the token first", both(), Ask::with(&[("x-api-key", "open sesame")]), 401, BODY),
        ("an expression accepts", cel("credential == 'secret'"), Ask::with(&[("authorization", "secret")]), 0, ""),
        ("an expression rejects", cel("credential == 'secret'"), Ask::with(&[("authorization", "x")]), 401, BODY),
        ("an expression fails", cel("credential.x == 1"), Ask::with(&[("authorization", "x")]), 401, BODY),
        ("without a verifier", routed(lit!({"auth_required": "bearer"})), Ask::with(&[right]), 401, BODY),
        (
            "presence is enough",
            routed(lit!({"authorization_header_required": "bearer"})),
            Ask::with(&[("authorization", "Bearer anything")]),
            0,
            "",
        ),
        (
            "presence is needed",
            routed(lit!({"authorization_header_required": "bearer"})),
            Ask::with(&[("authorization", "Basic anything")]),
            401,
            BODY,
        ),
    ]);
}

#[test]
fn a_refusal_challenges_and_names_its_reason() {
    for (policy_of, ask, challenge, reason) in [
        (bearer(), Ask::default(), "Bearer", "Missing or invalid Bearer token"),
        (
            bearer(),
            Ask::with(&[("authorization", "Bearer x")]),
            "Bearer error=\"invalid_token\"",
            "Authentication failed",
        ),
        (api_key(), Ask::default(), "ApiKey realm=\"restricted\", header=\"X-API-Key\"", "Missing API key"),
        (
            routed(lit!({"auth_required": "basic"})),
            Ask::with(&[("authorization", "Basic eA==")]),
            "Basic realm=\"restricted\", charset=\"UTF-8\"",
            "No auth verifier configured",
        ),
        (routed(lit!({"auth_required": "digest"})), Ask::default(), "digest", "Missing digest authentication"),
    ] {
        let policy = policy(policy_of);
        let decision = once(&policy, ask);
        assert_eq!(header(&decision, "www-authenticate"), Some(challenge));
        assert_eq!(events(&decision), [("decorator_violation", "request_blocked")]);
        assert_eq!(decision.facts[0].reason, reason);
        assert_eq!(decision.blocks[0].reason, format!("Authentication failure: {reason}"));
    }
}

#[test]
fn the_principal_is_kept() {
    let cel = |rule: &str| routed(json!({"auth_required": "token", "auth_verifier": rule}));
    for (policy_of, expected) in [
        (routed(json!({"auth_required": "token", "auth_verifier": keys()})), Some("ali")),
        (routed(lit!({"auth_required": "token", "auth_verifier": {"file": "keys"}})), Some("ali baba")),
        (cel("'user:' + credential"), Some("user:open sesame")),
        (cel("{'sub': credential, 'admin': true}"), Some("{\"admin\":true,\"sub\":\"open sesame\"}")),
        (cel("true"), None),
    ] {
        let policy = policy(policy_of);
        let decision = once(&policy, Ask::with(&[("authorization", "open sesame")]));
        assert_eq!(decision.principal.as_deref(), expected);
    }
}

#[test]
fn bad_settings_are_reported_without_their_values() {
    for (route, key) in [
        (
            lit!({"auth_required": "bearer", "auth_verifier": {"hashes": {"secret": "a"}}}),
            "routes[0].auth_verifier.hashes",
        ),
        (lit!({"auth_required": "bearer", "auth_verifier": {"file": "absent"}}), "routes[0].auth_verifier.file"),
        (lit!({"auth_required": "bearer", "auth_verifier": "credential =="}), "routes[0].auth_verifier"),
        (
            lit!({"api_key_required": true, "api_key_header": "a b", "api_key_verifier": "true"}),
            "routes[0].api_key_header",
        ),
    ] {
        assert_eq!(wrong(routed(route)), [key]);
    }
}
