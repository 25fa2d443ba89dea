//! Defaults, file, variables, flags: who wins, and how text becomes a value.

use super::*;

fn pairs(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn with(text: &str, env: &[(&str, &str)], overrides: &[(&str, &str)]) -> Result<Loaded, Errors> {
    let file = file("guard.yaml", text.as_bytes());
    config::load(&Sources { file: Some(file.path.clone()), env: pairs(env), overrides: pairs(overrides) })
}

fn env(name: &str, value: &str) -> Result<Loaded, Errors> {
    config::load(&Sources { env: pairs(&[(name, value)]), ..Sources::default() })
}

#[test]
fn the_last_layer_wins() {
    let text = "security: {rate_limit: 2, rate_limit_window: 20, auto_ban_threshold: 200}";
    let env = [("ENVOY_GUARD_SECURITY__RATE_LIMIT", "3"), ("ENVOY_GUARD_SECURITY__RATE_LIMIT_WINDOW", "30")];
    let loaded = with(text, &env, &[("security.rate_limit", "4"), ("security.passive_mode", "yes")]).unwrap();
    let security = &loaded.config.security;
    assert_eq!((security.rate_limit, security.rate_limit_window), (4, 30));
    assert_eq!((security.auto_ban_threshold, security.auto_ban_duration), (200, 3600));
    assert!(security.passive_mode);
    let place = |key: &str| config::locate(&loaded, key).map(|place| place.to_string()).unwrap_or_default();
    assert_eq!(place("security.rate_limit"), "--set security.rate_limit");
    assert_eq!(place("security.rate_limit_window"), "variable ENVOY_GUARD_SECURITY__RATE_LIMIT_WINDOW");
    assert!(
        place("security.auto_ban_threshold").ends_with("guard.yaml:1:50"),
        "{}",
        place("security.auto_ban_threshold")
    );
}

#[test]
fn maps_are_merged_and_lists_replaced() {
    let text = "security:
  threat_ban_config: {xss: {threshold: 1, duration: 1}, sqli: {threshold: 2, duration: 2}}
  blacklist: [192.0.2.1]
  security_headers: {frame_options: DENY, custom: {A: b}}
";
    let env = [
        ("ENVOY_GUARD_SECURITY__THREAT_BAN_CONFIG__XSS__THRESHOLD", "9"),
        ("ENVOY_GUARD_SECURITY__THREAT_BAN_CONFIG__RECON", "{threshold: 3, duration: 3}"),
        ("ENVOY_GUARD_SECURITY__BLACKLIST", "[198.51.100.1, 10.0.0.0/8]"),
    ];
    let loaded = with(text, &env, &[("security.security_headers.frame_options", "SAMEORIGIN")]).unwrap();
    let security = &loaded.config.security;
    let bans: Vec<(&str, u32, u32)> = security
        .threat_ban_config
        .iter()
        .map(|(name, ban)| (name.as_str(), ban.threshold, ban.duration.seconds()))
        .collect();
    assert_eq!(bans, [("recon", 3, 3), ("sqli", 2, 2), ("xss", 9, 1)]);
    assert_eq!(security.blacklist.len(), 2);
    let headers = security.security_headers.as_ref().unwrap();
    assert_eq!(headers.frame_options.as_deref(), Some("SAMEORIGIN"));
    assert_eq!(headers.hsts, None, "a partial map has no HSTS");
    assert!(headers.custom.as_ref().unwrap().contains_key("A"));
}

#[test]
fn a_scalar_replaces_a_map_and_back() {
    let text = "security: {security_headers: {frame_options: DENY}, whitelist: [192.0.2.1]}";
    let loaded =
        with(text, &[("ENVOY_GUARD_SECURITY__SECURITY_HEADERS", "null")], &[("security.whitelist", "~")]).unwrap();
    assert_eq!((loaded.config.security.security_headers, loaded.config.security.whitelist), (None, None));
    let back = [("security.security_headers", "null"), ("security.security_headers.frame_options", "DENY")];
    let loaded = with("", &[], &back).unwrap();
    assert_eq!(loaded.config.security.security_headers.unwrap().frame_options.as_deref(), Some("DENY"));
}

#[test]
fn text_takes_the_type_of_its_field() {
    let json = |loaded: Loaded| config::redacted::redacted_json(&loaded.config);
    for (name, value, pointer, expected) in [
        ("RATE_LIMIT", "50", "rate_limit", "50"),
        ("RATE_LIMIT", " 50 ", "rate_limit", "50"),
        ("PASSIVE_MODE", "true", "passive_mode", "true"),
        ("PASSIVE_MODE", "YES", "passive_mode", "true"),
        ("PASSIVE_MODE", "1", "passive_mode", "true"),
        ("FAIL_SECURE", "off", "fail_secure", "false"),
        ("BODY_READ_TIMEOUT", "2", "body_read_timeout", "2.0"),
        ("BODY_READ_TIMEOUT", "0.25", "body_read_timeout", "0.25"),
        ("REDIS_PREFIX", "123", "redis_prefix", "\"123\""),
        ("REDIS_PREFIX", "null", "redis_prefix", "\"null\""),
        ("REDIS_PREFIX", "[a]", "redis_prefix", "\"[a]\""),
        ("REDIS_URL", "null", "redis_url", "null"),
        ("REDIS_MAX_CONNECTIONS", "~", "redis_max_connections", "null"),
        ("LOG_REQUEST_LEVEL", "INFO", "log_request_level", "\"INFO\""),
        ("WHITELIST", "[]", "whitelist", "[]"),
        ("WHITELIST", "[\"10.0.0.1/8\"]", "whitelist", "[\"10.0.0.0/8\"]"),
        ("ENDPOINT_RATE_LIMITS", "{\"/a\": [1, 2]}", "endpoint_rate_limits", "{\"/a\":[1,2]}"),
        ("AUTH_VERIFIER", "credential == 'x'", "auth_verifier", "\"credential == 'x'\""),
        ("AUTH_VERIFIER", "{file: keys}", "auth_verifier", "{\"hashes\":{},\"file\":\"keys\"}"),
        ("AUTH_VERIFIER", "{'a': 1}[credential] == 1", "auth_verifier", "\"{'a': 1}[credential] == 1\""),
    ] {
        let loaded = env(&format!("ENVOY_GUARD_SECURITY__{name}"), value).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(json(loaded)["security"][pointer].to_string(), expected, "{name}={value}");
    }
    let loaded = env("ENVOY_GUARD_LISTENERS__GRPC", "[::1]:50051").unwrap();
    assert_eq!(json(loaded)["listeners"]["grpc"], "[::1]:50051");
    let loaded = env("ENVOY_GUARD_ROUTES", "[{name: a, rate_limit: 5}]").unwrap();
    assert_eq!(loaded.config.routes[0].rate_limit, Some(5));
}

#[test]
fn a_mistake_names_its_variable_or_flag() {
    for (name, value, key, class) in [
        ("ENVOY_GUARD_SECURITY__RATE_LIMT", "5", "security.rate_limt", Class::UnknownKey),
        ("ENVOY_GUARD_SECURTY", "{}", "securty", Class::UnknownKey),
        ("ENVOY_GUARD_SECURITY__RATE_LIMIT", "ten", "security.rate_limit", Class::Type),
        ("ENVOY_GUARD_SECURITY__RATE_LIMIT", "1.5", "security.rate_limit", Class::Type),
        ("ENVOY_GUARD_SECURITY__RATE_LIMIT", "", "security.rate_limit", Class::Type),
        ("ENVOY_GUARD_SECURITY__RATE_LIMIT", "0", "security.rate_limit", Class::Range),
        ("ENVOY_GUARD_SECURITY__PASSIVE_MODE", "maybe", "security.passive_mode", Class::Type),
        ("ENVOY_GUARD_SECURITY__WHITELIST", "10.0.0.1", "security.whitelist", Class::Type),
        ("ENVOY_GUARD_SECURITY__WHITELIST", "[10.0.0.1", "security.whitelist", Class::Syntax),
        ("ENVOY_GUARD_SECURITY__WHITELIST", "[10.0.0.300]", "security.whitelist[0]", Class::Value),
        ("ENVOY_GUARD_SECURITY____X", "1", "security..x", Class::Syntax),
        ("ENVOY_GUARD_SECURITY__RATE_LIMIT__X", "1", "security.rate_limit", Class::Type),
    ] {
        let Err(Errors(problems)) = env(name, value) else { panic!("{name}={value} loads") };
        let [problem] = problems.as_slice() else { panic!("{name}={value}: {problems:?}") };
        assert_eq!((problem.key.as_str(), problem.class), (key, class), "{problem}");
        assert_eq!(problem.place, Some(Place::Variable(name.into())), "{problem}");
        let flag = name.trim_start_matches("ENVOY_GUARD_").to_ascii_lowercase().replace("__", ".");
        let Err(Errors(problems)) = with("", &[], &[(&flag, value)]) else { panic!("--set {flag}={value} loads") };
        assert_eq!(problems[0].place, Some(Place::Flag(flag.as_str().into())), "{problems:?}");
    }
}

/// A service called `envoy-guard` makes Kubernetes inject these.
#[test]
fn variables_of_kubernetes_and_of_the_program_are_left_alone() {
    for name in [
        "ENVOY_GUARD_SERVICE_HOST",
        "ENVOY_GUARD_SERVICE_PORT",
        "ENVOY_GUARD_SERVICE_PORT_GRPC",
        "ENVOY_GUARD_PORT",
        "ENVOY_GUARD_PORT_50051_TCP",
        "ENVOY_GUARD_PORT_50051_TCP_ADDR",
        "ENVOY_GUARD_CONFIG",
        "ENVOY_GUARD_BLESS",
        "PATH",
        "envoy_guard_security__rate_limit",
    ] {
        assert_eq!(env(name, "tcp://10.0.0.1:50051").unwrap().config, config::Config::default(), "{name}");
    }
}
