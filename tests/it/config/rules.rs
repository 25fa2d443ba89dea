//! One row for every rule: what is refused, what is remarked.

use super::*;

/// `(text under security:, key, class, a part of the message)`.
type Row = (&'static str, &'static str, Class, &'static str);

fn refused(prefix: &str, rows: &[Row]) {
    for (text, key, class, part) in rows {
        let whole = format!("{prefix}{{{text}}}");
        let problems = faults("guard.yaml", &whole);
        let [problem] = problems.as_slice() else { panic!("{whole}: {problems:#?}") };
        assert_eq!((problem.key.as_str(), problem.class), (*key, *class), "{whole}: {problem}");
        assert!(problem.message.contains(part), "{whole}: {problem}");
        assert_eq!(line(problem), 1, "{whole}: {problem}");
    }
}

#[test]
fn ranges_of_numbers() {
    let bounds: &[(&str, &str, &str)] = &[
        ("trusted_proxy_depth", "0", "1"),
        ("auto_ban_threshold", "0", "1"),
        ("auto_ban_duration", "0", "1"),
        ("rate_limit", "0", "1"),
        ("rate_limit", "-1", "4294967295"),
        ("rate_limit", "4294967296", "1"),
        ("rate_limit_window", "0", "1"),
        ("geo_ip_db_max_age", "3599", "3600"),
        ("geo_ip_db_max_age", "604801", "604800"),
        ("cloud_ip_refresh_interval", "59", "60"),
        ("cloud_ip_refresh_interval", "86401", "86400"),
        ("behavior_max_response_body_inspect_bytes", "1023", "1024"),
        ("behavior_max_response_body_inspect_bytes", "10485761", "10485760"),
        ("body_read_timeout", "0", "0.001"),
        ("body_read_timeout", "30.1", "30"),
        ("body_read_timeout", ".nan", "1"),
        ("body_read_timeout", ".inf", "1"),
        ("sync_body_read_max_concurrent", "0", "1"),
        ("sync_body_read_max_concurrent", "10001", "10000"),
        ("redis_socket_connect_timeout", "0", "0.1"),
        ("redis_socket_timeout", "-1", "0.1"),
        ("redis_health_check_interval", "-1", "0"),
        ("redis_max_connections", "0", "1"),
        ("redis_retries", "-1", "0"),
        ("detection_compiler_timeout", "0.09", "0.1"),
        ("detection_compiler_timeout", "10.1", "10"),
        ("detection_max_scan_seconds", "0.09", "0.1"),
        ("detection_max_scan_seconds", "61", "60"),
        ("detection_max_content_length", "999", "1000"),
        ("detection_max_content_length", "100001", "100000"),
        ("detection_max_body_inspect_bytes", "1023", "1024"),
        ("detection_max_body_inspect_bytes", "10485761", "10485760"),
        ("detection_max_scan_values", "1", "2"),
        ("detection_max_scan_values", "100001", "100000"),
        ("detection_max_scan_chars", "1023", "1024"),
        ("detection_max_scan_chars", "262145", "262144"),
        ("detection_max_json_depth", "0", "1"),
        ("detection_max_json_depth", "1001", "1000"),
        ("detection_binary_min_run_length", "3", "4"),
        ("detection_binary_min_run_length", "1025", "1024"),
        ("detection_semantic_threshold", "-0.1", "0"),
        ("detection_semantic_threshold", "1.1", "1"),
        ("detection_threat_score_threshold", "-0.1", "0"),
        ("detection_threat_score_threshold", "10.5", "10"),
        ("detection_anomaly_threshold", "0.9", "1"),
        ("detection_anomaly_threshold", "10.1", "10"),
        ("detection_slow_pattern_threshold", "0.009", "0.01"),
        ("detection_slow_pattern_threshold", "1.1", "1"),
        ("detection_monitor_history_size", "99", "100"),
        ("detection_monitor_history_size", "10001", "10000"),
        ("detection_max_tracked_patterns", "99", "100"),
        ("detection_max_tracked_patterns", "5001", "5000"),
        ("detection_anomaly_emission_cooldown", "0.5", "1"),
        ("detection_anomaly_emission_cooldown", "3601", "3600"),
        ("detection_min_samples_for_anomaly", "9", "10"),
        ("detection_min_samples_for_anomaly", "1001", "1000"),
        ("agent_status_interval", "59", "60"),
        ("agent_status_interval", "86401", "86400"),
        ("dynamic_rule_interval", "59", "60"),
    ];
    for (field, bad, fine) in bounds {
        let problems = faults("guard.yaml", &format!("security: {{{field}: {bad}}}"));
        let [problem] = problems.as_slice() else { panic!("{field}: {bad}: {problems:#?}") };
        assert_eq!(
            (problem.key.as_str(), problem.class),
            (format!("security.{field}").as_str(), Class::Range),
            "{problem}"
        );
        good(&format!("security: {{{field}: {fine}}}"));
    }
}

#[test]
fn types_of_values() {
    use Class::Type;
    refused(
        "security: ",
        &[
            ("passive_mode: 'true'", "security.passive_mode", Type, "true or false"),
            ("passive_mode: 1", "security.passive_mode", Type, "a number"),
            ("passive_mode: no", "security.passive_mode", Type, "a word"),
            ("rate_limit: '10'", "security.rate_limit", Type, "text"),
            ("rate_limit: 1.0", "security.rate_limit", Type, "fraction"),
            ("rate_limit: true", "security.rate_limit", Type, "true or false"),
            ("rate_limit: null", "security.rate_limit", Type, "null"),
            ("whitelist: 10.0.0.1", "security.whitelist", Type, "write a list"),
            ("blacklist: null", "security.blacklist", Type, "null"),
            ("trusted_proxies: null", "security.trusted_proxies", Type, "null"),
            ("blocked_user_agents: curl", "security.blocked_user_agents", Type, "write a list"),
            ("blocked_countries: DE", "security.blocked_countries", Type, "write a list"),
            ("log_sensitive_headers: x-token", "security.log_sensitive_headers", Type, "write a list"),
            ("redis_prefix: 1", "security.redis_prefix", Type, "quotes"),
            ("redis_prefix: true", "security.redis_prefix", Type, "quotes"),
            ("security_headers: DENY", "security.security_headers", Type, "a map"),
            ("custom_error_responses: {403: 1}", "security.custom_error_responses.403", Type, "quotes"),
            ("otel_resource_attributes: {a: [b]}", "security.otel_resource_attributes.a", Type, "a list"),
            ("endpoint_rate_limits: {/a: 5}", "security.endpoint_rate_limits./a", Type, "a list"),
            ("endpoint_rate_limits: {/a: [x, 1]}", "security.endpoint_rate_limits./a[0]", Type, "text"),
            ("global_behavior_rules: [usage]", "security.global_behavior_rules[0]", Type, "a map"),
        ],
    );
    refused(
        "",
        &[
            ("security: [a]", "security", Type, "a list"),
            ("routes: {a: b}", "routes", Type, "a map"),
            ("routes: [a]", "routes[0]", Type, "text"),
            ("listeners: {unix_mode: 0660}", "listeners.unix_mode", Type, "quotes"),
        ],
    );
}

#[test]
fn words_and_texts() {
    use Class::{Enum, Range, UnknownKey, Value};
    refused(
        "security: ",
        &[
            ("log_request_level: debug", "security.log_request_level", Enum, "DEBUG"),
            ("log_format: xml", "security.log_format", Enum, "text, json"),
            ("cloud_ip_store: disk", "security.cloud_ip_store", Enum, "memory"),
            ("agent_buffer_overflow_policy: wait", "security.agent_buffer_overflow_policy", Enum, "raise"),
            ("enabled_detection_categories: [sql]", "security.enabled_detection_categories[0]", Enum, "sqli"),
            ("threat_ban_config: {xs: {threshold: 1, duration: 1}}", "security.threat_ban_config.xs", Enum, "xss"),
            (
                "threat_ban_config: {xss: {threshold: 0, duration: 1}}",
                "security.threat_ban_config.xss.threshold",
                Range,
                "from 1",
            ),
            (
                "threat_ban_config: {xss: {threshold: 1, duration: 0}}",
                "security.threat_ban_config.xss.duration",
                Range,
                "from 1",
            ),
            ("threat_ban_config: {xss: {threshold: 1}}", "security.threat_ban_config.xss.duration", Value, "missing"),
            (
                "threat_ban_config: {xss: {threshold: 1, duration: 1, x: 1}}",
                "security.threat_ban_config.xss.x",
                UnknownKey,
                "no such",
            ),
            ("muted_check_logs: [ip]", "security.muted_check_logs[0]", Enum, "ip_security"),
            ("muted_event_types: [ban]", "security.muted_event_types[0]", Enum, "ip_banned"),
            ("muted_metric_types: [x]", "security.muted_metric_types[0]", Enum, "error_rate"),
            ("whitelist: [' 10.0.0.1']", "security.whitelist[0]", Value, "Invalid IP or CIDR range"),
            ("exempt_ips: [10.0.0.0/33]", "security.exempt_ips[0]", Value, "Invalid IP or CIDR range"),
            ("blacklist: [localhost]", "security.blacklist[0]", Value, "Invalid IP or CIDR range"),
            ("emergency_whitelist: [10.0.0]", "security.emergency_whitelist[0]", Value, "Invalid IP or CIDR range"),
            ("trusted_proxies: [UNIX]", "security.trusted_proxies[0]", Value, "Invalid proxy IP or CIDR range"),
            ("exclude_paths: ['/%ff']", "security.exclude_paths[0]", Value, "normalised"),
            ("exclude_paths: ['/%2525252541']", "security.exclude_paths[0]", Value, "normalised"),
            ("exclude_paths: ['/a/..']", "security.exclude_paths[0]", Value, "every path"),
            ("custom_error_responses: {abc: x}", "security.custom_error_responses.abc", Value, "status code"),
            ("custom_error_responses: {99: x}", "security.custom_error_responses.99", Value, "100 to 599"),
            ("blocked_user_agents: ['(']", "security.blocked_user_agents[0]", Value, "regular expression"),
            ("blocked_user_agents: ['']", "security.blocked_user_agents[0]", Value, "empty"),
            ("endpoint_rate_limits: {/a: [1]}", "security.endpoint_rate_limits./a", Range, "2 entries"),
            ("endpoint_rate_limits: {/a: [1, 2, 3]}", "security.endpoint_rate_limits./a", Range, "2 entries"),
            ("endpoint_rate_limits: {/a: [1, 0]}", "security.endpoint_rate_limits./a[1]", Range, "from 1"),
            ("endpoint_rate_limits: {a: [1, 1]}", "security.endpoint_rate_limits.a", Value, "begins with"),
            ("redis_url: localhost", "security.redis_url", Value, "redis://"),
            ("agent_endpoint: agent", "security.agent_endpoint", Value, "https://"),
            ("dynamic_rules_cache_path: ' '", "security.dynamic_rules_cache_path", Value, "blank"),
            ("security_headers: {frame_option: DENY}", "security.security_headers.frame_option", UnknownKey, "no such"),
            (
                "security_headers: {frame_options: \"a\\nb\"}",
                "security.security_headers.frame_options",
                Value,
                "line break",
            ),
            (
                "security_headers: {permissions_policy: \"a\\rb\"}",
                "security.security_headers.permissions_policy",
                Value,
                "line break",
            ),
            (
                "security_headers: {custom: {'x y': a}}",
                "security.security_headers.custom.\"x y\"",
                Value,
                "header name",
            ),
            ("security_headers: {custom: {x: \"a\\nb\"}}", "security.security_headers.custom.x", Value, "line break"),
            (
                "security_headers: {csp: {default-src: ['a; b']}}",
                "security.security_headers.csp.default-src",
                Value,
                "`;`",
            ),
            ("security_headers: {hsts: {max_age: -1}}", "security.security_headers.hsts.max_age", Range, "from 0"),
            (
                "custom_response_modifier: [{set: {'': a}}]",
                "security.custom_response_modifier[0].set.\"\"",
                Value,
                "header name",
            ),
            ("custom_request_check: ''", "security.custom_request_check", Value, "empty"),
            ("on_block: {url: nowhere}", "security.on_block.url", Value, "https://"),
            ("auth_verifier: {hashes: {abc: x}}", "security.auth_verifier.hashes[0]", Value, "sha256:"),
            (
                "global_behavior_rules: [{rule_type: use, threshold: 1}]",
                "security.global_behavior_rules[0].rule_type",
                Enum,
                "usage",
            ),
            (
                "global_behavior_rules: [{rule_type: usage}]",
                "security.global_behavior_rules[0].threshold",
                Value,
                "missing",
            ),
            (
                "global_behavior_rules: [{rule_type: usage, threshold: 0}]",
                "security.global_behavior_rules[0].threshold",
                Range,
                "from 1",
            ),
            (
                "global_behavior_rules: [{rule_type: usage, threshold: 1, window: 0}]",
                "security.global_behavior_rules[0].window",
                Range,
                "from 1",
            ),
            (
                "global_behavior_rules: [{rule_type: usage, threshold: 1, ban_duration: 0}]",
                "security.global_behavior_rules[0].ban_duration",
                Range,
                "from 1",
            ),
            (
                "global_behavior_rules: [{rule_type: return_pattern, threshold: 1, pattern: 'status:x'}]",
                "security.global_behavior_rules[0].pattern",
                Value,
                "status code",
            ),
        ],
    );
}

#[test]
fn routes_and_sections() {
    use Class::{CrossField, Enum, Range, UnknownKey, Value};
    refused(
        "",
        &[
            ("rutes: []", "rutes", UnknownKey, "no such"),
            ("routes: [{rate_limit: 1}]", "routes[0].name", CrossField, "needs a name"),
            ("routes: [{name: ''}]", "routes[0].name", Value, "empty"),
            ("routes: [{name: a}, {name: a}]", "routes[1].name", CrossField, "already the name of routes[0]"),
            (
                "routes: [{name: a, match: [{path: /a, regex: b}]}]",
                "routes[0].match[0]",
                CrossField,
                "exclude each other",
            ),
            (
                "routes: [{name: a, match: [{prefix: /a, template: /b}]}]",
                "routes[0].match[0]",
                CrossField,
                "exclude each other",
            ),
            ("routes: [{name: a, match: [{path: a}]}]", "routes[0].match[0].path", Value, "begins with"),
            ("routes: [{name: a, match: [{template: '/{a}/{a}'}]}]", "routes[0].match[0].template", Value, "twice"),
            ("routes: [{name: a, match: [{regex: '(?=a)'}]}]", "routes[0].match[0].regex", Value, "RE2"),
            ("routes: [{name: a, match: [{hosts: ['a:80']}]}]", "routes[0].match[0].hosts[0]", Value, "host name"),
            ("routes: [{name: a, match: [{methods: ['G T']}]}]", "routes[0].match[0].methods[0]", Value, "method"),
            ("routes: [{name: a, match: [{host: x}]}]", "routes[0].match[0].host", UnknownKey, "no such"),
            ("routes: [{name: a, bypassed_checks: [cloud]}]", "routes[0].bypassed_checks[0]", Enum, "clouds"),
            ("routes: [{name: a, ip_whitelist: [x]}]", "routes[0].ip_whitelist[0]", Value, "Invalid IP"),
            ("routes: [{name: a, ip_blacklist: [x]}]", "routes[0].ip_blacklist[0]", Value, "Invalid IP"),
            (
                "routes: [{name: a, allowed_content_types: [json]}]",
                "routes[0].allowed_content_types[0]",
                Value,
                "media type",
            ),
            ("routes: [{name: a, require_referrer: ['']}]", "routes[0].require_referrer[0]", Value, "no host"),
            ("routes: [{name: a, auth_required: ''}]", "routes[0].auth_required", Value, "scheme"),
            ("routes: [{name: a, api_key_header: 'X Y'}]", "routes[0].api_key_header", Value, "header name"),
            (
                "routes: [{name: a, required_headers: {'a b': required}}]",
                "routes[0].required_headers.\"a b\"",
                Value,
                "header name",
            ),
            ("routes: [{name: a, max_request_size: -1}]", "routes[0].max_request_size", Range, "from 0"),
            (
                "routes: [{name: a, time_restrictions: {start: '9:00', end: '10:00'}}]",
                "routes[0].time_restrictions.start",
                Value,
                "HH:MM",
            ),
            (
                "routes: [{name: a, time_restrictions: {start: '09:00', end: '24:00'}}]",
                "routes[0].time_restrictions.end",
                Value,
                "HH:MM",
            ),
            (
                "routes: [{name: a, time_restrictions: {start: '09:00'}}]",
                "routes[0].time_restrictions.end",
                Value,
                "missing",
            ),
            (
                "routes: [{name: a, time_restrictions: {start: '09:00', end: '10:00', timezone: Europe/Pariss}}]",
                "routes[0].time_restrictions.timezone",
                Enum,
                "time zone",
            ),
            (
                "routes: [{name: a, enabled_detection_categories: [rate_limit]}]",
                "routes[0].enabled_detection_categories[0]",
                Enum,
                "sqli",
            ),
            ("routes: [{name: a, custom_validators: [' ']}]", "routes[0].custom_validators[0]", Value, "empty"),
            (
                "routes: [{name: a, authorization_header_required: bearer, auth_required: bearer}]",
                "routes[0].authorization_header_required",
                CrossField,
                "combined",
            ),
            (
                "routes: [{name: a, authorization_header_required: bearer, api_key_required: true}]",
                "routes[0].authorization_header_required",
                CrossField,
                "combined",
            ),
            (
                "routes: [{name: a, geo_rate_limits: {DE: [1, 1]}}]",
                "routes[0].geo_rate_limits",
                CrossField,
                "geo_ip_handler",
            ),
            (
                "routes: [{name: a, blocked_countries: [DE]}]",
                "routes[0].blocked_countries",
                CrossField,
                "geo_ip_handler",
            ),
            (
                "routes: [{name: a, whitelist_countries: [DE]}]",
                "routes[0].whitelist_countries",
                CrossField,
                "geo_ip_handler",
            ),
            ("routes: [{name: a, geo_rate_limits: {'*': [1, 0]}}]", "routes[0].geo_rate_limits.*[1]", Range, "from 1"),
            (
                "routes: [{name: a, behavior_rules: [{rule_type: return_pattern, threshold: 1, pattern: win}]}]",
                "routes[0].behavior_rules[0].pattern",
                CrossField,
                "behavior_scan_response_body",
            ),
            ("routes: [{name: a, exclusions: [{reason: x}]}]", "routes[0].exclusions[0]", Value, "at least one"),
            ("detection: {exclusions: [{}]}", "detection.exclusions[0]", Value, "at least one"),
            ("detection: {custom_patterns: ['']}", "detection.custom_patterns[0]", Value, "empty"),
            ("detection: {custom_patterns: ['(']}", "detection.custom_patterns[0]", Value, "regular expression"),
            ("detection: {log_only_categories: [x]}", "detection.log_only_categories[0]", Enum, "xss"),
            ("detection: {profile: guard-core}", "detection.profile", Enum, "balanced"),
            ("listeners: {grpc: localhost:1}", "listeners.grpc", Value, "IP address with a port"),
            ("listeners: {grpc: null}", "listeners.grpc", CrossField, "nowhere"),
            ("listeners: {unix_mode: '999'}", "listeners.unix_mode", Value, "octal"),
            ("admin: {address: '127.0.0.1:50051'}", "admin.address", CrossField, "listeners.grpc"),
            ("limits: {max_connections: 0}", "limits.max_connections", Range, "from 1"),
            ("data: {refresh: 0}", "data.refresh", Range, "from 1"),
        ],
    );
}

#[test]
fn fields_that_need_each_other() {
    use Class::CrossField;
    refused(
        "security: ",
        &[
            (
                "blocked_countries: [DE]",
                "security.blocked_countries",
                CrossField,
                "geo_ip_handler is required if blocked_countries or whitelist_countries is set",
            ),
            ("whitelist_countries: [DE]", "security.whitelist_countries", CrossField, "geo_ip_handler is required"),
            (
                "whitelist_countries: [DE], ipinfo_token: ''",
                "security.whitelist_countries",
                CrossField,
                "geo_ip_handler is required",
            ),
            ("enable_agent: true", "security.enable_agent", CrossField, "agent_api_key"),
            ("enable_agent: true, agent_api_key: ''", "security.enable_agent", CrossField, "agent_api_key"),
            ("enable_dynamic_rules: true", "security.enable_dynamic_rules", CrossField, "enable_agent"),
            ("enable_enrichment: true", "security.enable_enrichment", CrossField, "enable_agent"),
            (
                "global_behavior_rules: [{rule_type: return_pattern, threshold: 1, pattern: win}]",
                "security.global_behavior_rules[0].pattern",
                CrossField,
                "behavior_scan_response_body",
            ),
        ],
    );
    for fine in [
        "blocked_countries: [DE], ipinfo_token: t",
        "blocked_countries: [DE], geo_ip_handler: x.mmdb",
        "blocked_countries: null, whitelist_countries: null",
        "enable_agent: true, agent_api_key: k, enable_dynamic_rules: true, enable_enrichment: true",
        "global_behavior_rules: [{rule_type: return_pattern, threshold: 1, pattern: win}], behavior_scan_response_body: true",
        "global_behavior_rules: [{rule_type: return_pattern, threshold: 1, pattern: 'status:404'}]",
    ] {
        good(&format!("security: {{{fine}}}"));
    }
}

/// A field that is itself wrong does not draw a second complaint about what depends on it.
#[test]
fn a_cross_field_rule_keeps_silent_when_its_field_is_already_reported() {
    let problems = faults(
        "guard.yaml",
        "security: {enable_agent: true, agent_api_key: [x], blocked_countries: [DE], geo_ip_handler: 5}",
    );
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["security.agent_api_key", "security.geo_ip_handler"]);
}

#[test]
fn remarks() {
    for (text, key, part) in [
        ("security: {whitelist: []}", "security.whitelist", "nobody passes"),
        ("security: {whitelist: [10.0.0.0/8], blacklist: [10.0.0.1]}", "security.blacklist", "not consulted"),
        ("security: {whitelist: [0.0.0.0/0]}", "security.whitelist[0]", "every address"),
        ("security: {exempt_ips: ['::/0']}", "security.exempt_ips[0]", "every address"),
        ("security: {trusted_proxies: [0.0.0.0/0]}", "security.trusted_proxies[0]", "every address"),
        ("security: {trust_x_forwarded_proto: true}", "security.trust_x_forwarded_proto", "no effect"),
        ("security: {exclude_paths: [/]}", "security.exclude_paths[0]", "every path"),
        ("security: {emergency_mode: true}", "security.emergency_mode", "nobody passes"),
        ("security: {block_cloud_providers: [Aws]}", "security.block_cloud_providers[0]", "did you mean `AWS`"),
        ("security: {geo_ip_handler: x, blocked_countries: [DEU]}", "security.blocked_countries[0]", "two-letter"),
        (
            "security: {geo_ip_handler: x, blocked_countries: [DE], whitelist_countries: [FR]}",
            "security.blocked_countries",
            "no effect",
        ),
        ("security: {enabled_detection_categories: []}", "security.enabled_detection_categories", "finds nothing"),
        (
            "security: {enable_cors: true, cors_allow_credentials: true}",
            "security.cors_allow_credentials",
            "turned off",
        ),
        ("security: {cors_allow_origins: ['https://a/']}", "security.cors_allow_origins[0]", "no origin"),
        ("security: {custom_error_responses: {418: x}}", "security.custom_error_responses.418", "cannot send"),
        ("security: {custom_error_responses: {404: x}}", "security.custom_error_responses.404", "no check answers"),
        ("security: {redis_url: null}", "security.redis_url", "shared"),
        ("security: {auto_ban_threshold: 1}", "security.auto_ban_threshold", "first finding"),
        ("security: {blocked_user_agents: ['.*']}", "security.blocked_user_agents[0]", "everybody"),
        (
            "security: {security_headers: {hsts: {max_age: 100, preload: true}}}",
            "security.security_headers.hsts.preload",
            "31536000",
        ),
        (
            "security: {security_headers: {hsts: {max_age: 31536000, preload: true, include_subdomains: false}}}",
            "security.security_headers.hsts.preload",
            "include_subdomains",
        ),
        (
            "security: {security_headers: {csp: {script-src: [\"'unsafe-eval'\"]}}}",
            "security.security_headers.csp.script-src",
            "weakens",
        ),
        (
            "security: {security_headers: {frame_options: \"a\\x01b\"}}",
            "security.security_headers.frame_options",
            "control",
        ),
        (
            "security: {global_behavior_rules: [{rule_type: return_pattern, threshold: 1}]}",
            "security.global_behavior_rules[0].pattern",
            "never matches",
        ),
        ("routes: [{name: a, auth_required: bearer}]", "routes[0].auth_required", "refused"),
        ("routes: [{name: a, api_key_required: true}]", "routes[0].api_key_required", "refused"),
        ("routes: [{name: a, bypassed_checks: [all]}]", "routes[0].bypassed_checks", "nothing protects"),
        ("routes: [{name: a, rate_limit: 0}]", "routes[0].rate_limit", "refused"),
        ("routes: [{name: a, rate_limit_window: 5}]", "routes[0].rate_limit_window", "no effect"),
        ("routes: [{name: a, block_cloud_providers: [OVH]}]", "routes[0].block_cloud_providers[0]", "left out"),
        (
            "routes: [{name: a, ip_whitelist: [10.0.0.0/8], ip_blacklist: [10.0.0.1]}]",
            "routes[0].ip_blacklist",
            "not consulted",
        ),
        (
            "routes: [{name: a, time_restrictions: {start: '09:00', end: '09:00'}}]",
            "routes[0].time_restrictions",
            "one minute",
        ),
    ] {
        let loaded = good(text);
        let [notice] = loaded.warnings.as_slice() else { panic!("{text}: {:#?}", loaded.warnings) };
        assert_eq!(notice.key, key, "{text}: {notice}");
        assert!(notice.message.contains(part), "{text}: {notice}");
        assert!(matches!(notice.place, Some(Place::File { line: 1, .. })), "{text}: {notice}");
    }
}

#[test]
fn wildcard_origins_lose_their_credentials() {
    let security = |text: &str| good(text).config.security;
    assert!(!security("security: {enable_cors: true, cors_allow_credentials: true}").cors_allow_credentials);
    let text = "security: {enable_cors: true, cors_allow_credentials: true, cors_allow_origins: ['https://a']}";
    assert!(security(text).cors_allow_credentials);
}
