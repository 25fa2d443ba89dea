//! Secrets stay out of everything that is printed.

use super::*;

/// Part of every secret in the full configuration.
const SECRET: &str = "hunter2";
const HASHES: [&str; 2] = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"];

#[track_caller]
fn clean(text: &str) {
    for secret in [SECRET].iter().chain(&HASHES) {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn a_valid_configuration_shows_no_secret() {
    let file = file("guard.yaml", FULL.as_bytes());
    let env = vec![("ENVOY_GUARD_SECURITY__AGENT_API_KEY".to_owned(), "hunter2-env".to_owned())];
    let sources = Sources { file: Some(file.path.clone()), env, ..Sources::default() };
    let loaded = config::load(&sources).unwrap();
    assert_eq!(loaded.config.security.agent_api_key.as_ref().unwrap().expose(), "hunter2-env");
    clean(&format!("{loaded:?} {:?} {sources:?}", loaded.config));
    clean(&serde_json::to_string(&loaded.config).unwrap());
    clean(&config::redacted::redacted_json(&loaded.config).to_string());
    clean(&config::report::check(&sources).0);
    clean(&config::report::check_json(&sources).0);
}

#[test]
fn a_broken_secret_is_not_quoted() {
    for text in [
        "agent_api_key: [hunter2]",
        "agent_api_key: {hunter2: hunter2}",
        "ipinfo_token: {a: hunter2}",
        "redis_url: 'redis:/user:hunter2@host'",
        "redis_url: hunter2",
        "redis_url: [redis://hunter2@x]",
        "agent_payload_signing_secret: [[hunter2]]",
        "agent_project_encryption_key: {x: hunter2}",
        "on_block: {url: hunter2}",
        "on_block: {secret: [hunter2]}",
        "on_error: hunter2",
        "auth_verifier: {hashes: {hunter2: alice}}",
        "auth_verifier: {hashes: {'sha256:hunter2': 5}}",
        "auth_verifier: {hashes: {'sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa': [1]}}",
        "auth_verifier: [hunter2]",
        "agent_api_key: *hunter2",
        "agent_api_key: !hunter2 [x",
        "agent_api_key: 'hunter2",
        "agent_api_key: \"hunter2 \\q\"",
        "agent_api_key: hunter2: x",
        "agent_api_key: &hunter2 [",
        "agent_api_key: | hunter2",
        "agent_api_key: @hunter2",
        "agent_api_key: %hunter2",
    ] {
        for name in ["guard.yaml", "guard.toml", "guard.json"] {
            let problems = faults(name, &format!("security:\n  {text}\n"));
            clean(&format!("{} {problems:?}", Errors(problems.clone())));
        }
    }
    for text in [
        "agent_api_key = 'hunter2",
        "agent_api_key = hunter2",
        "agent_api_key = \"hunter2\\q\"",
        "agent_api_key = ['hunter2']",
    ] {
        let problems = faults("guard.toml", &format!("[security]\n{text}\n"));
        clean(&format!("{} {problems:?}", Errors(problems.clone())));
    }
    for text in ["\"hunter2", "hunter2", "[\"hunter2\"]", "\"hunter2\\q\"", "\"hunter2\n\""] {
        let problems = faults("guard.json", &format!("{{\"security\": {{\"agent_api_key\": {text}}}}}"));
        clean(&format!("{} {problems:?}", Errors(problems.clone())));
    }
}

#[test]
fn urls_are_shown_without_user_and_password() {
    for (url, shown) in [
        ("redis://localhost:6379", "redis://localhost:6379"),
        ("redis://:pw@h:1/2", "redis://h:1/2"),
        ("redis://user:p/w@h:1/2", "redis://h:1/2"),
        ("redis://user:p?w@h", "redis://h"),
        ("redis://user:p@w@h", "redis://h"),
        ("rediss://h?password=pw", "rediss://h?[redacted]"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ] {
        let loaded = good(&format!("security: {{redis_url: '{url}'}}"));
        let security = &loaded.config.security;
        assert_eq!(security.redis_url.as_ref().unwrap().redacted(), shown);
        assert_eq!(security.redis_url.as_ref().unwrap().expose(), url);
        assert_eq!(config::redacted::redacted_json(&loaded.config)["security"]["redis_url"], shown);
    }
    let loaded = good("security: {otel_exporter_endpoint: 'http://u:hunter2@collector:4318'}");
    assert_eq!(
        config::redacted::redacted_json(&loaded.config)["security"]["otel_exporter_endpoint"],
        "http://collector:4318"
    );
}
