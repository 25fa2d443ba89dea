use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000.0);

fn checked(text: &str) -> Checked {
    read(text.as_bytes(), NOW).unwrap().unwrap()
}

#[track_caller]
fn reasons(text: &str) -> String {
    read(text.as_bytes(), NOW).unwrap_err().to_string()
}

fn base() -> Config {
    let mut config = Config::default();
    config.security.rate_limit = 77;
    config.security.rate_limit_window = 30;
    config.security.auto_ban_threshold = 9;
    config.security.blocked_user_agents = vec!["base".to_owned()];
    config.security.endpoint_rate_limits = [("/base".to_owned(), (1, 2))].into();
    config.detection.custom_patterns = vec!["base".to_owned()];
    config
}

#[test]
fn no_rules_are_no_document() {
    for text in ["null", "{}", " { } \n"] {
        assert_eq!(read(text.as_bytes(), NOW), Ok(None), "{text}");
    }
    for text in ["", "[]", "3", "\"x\"", "{", "{\"a\":1} x", "\u{feff}{}"] {
        assert!(read(text.as_bytes(), NOW).is_err(), "{text}");
    }
}

#[test]
fn what_is_absent_has_its_default_and_what_is_unknown_is_left_out() {
    let read = checked(r#"{"strange": [1], "message": "hello", "emergency_whitelist_only": true}"#);
    assert_eq!(read.rules, Rules { timestamp: NOW.into(), ..Rules::default() });
    assert_eq!((read.ban_window.seconds(), read.has_expired(NOW)), (3600, false));
    assert_eq!(read.over(&base(), true), (base(), Vec::new()), "such rules change nothing");
}

#[test]
fn every_reason_is_told_with_its_field() {
    for (text, expected) in [
        (r#"{"rule_id": 5}"#, "rule_id: is not a text"),
        (r#"{"version": "5"}"#, "version: is not a whole number"),
        (r#"{"version": 1.5}"#, "version: is not a whole number"),
        (r#"{"timestamp": "yesterday"}"#, "timestamp: is no ISO 8601 time"),
        (r#"{"expires_at": true}"#, "expires_at: is no ISO 8601 time"),
        (r#"{"expires_at": -1}"#, "expires_at: is no ISO 8601 time"),
        (r#"{"ip_blacklist": null}"#, "ip_blacklist: is not a list of texts"),
        (r#"{"ip_blacklist": "1.2.3.4"}"#, "ip_blacklist: is not a list of texts"),
        (r#"{"ip_blacklist": ["1.2.3.4", "1.2.3"]}"#, "ip_blacklist[1]: is no address"),
        (r#"{"ip_blacklist": ["::/0"]}"#, "ip_blacklist[0]: would ban everybody"),
        (r#"{"ip_whitelist": ["x"]}"#, "ip_whitelist[0]: is no address"),
        (r#"{"emergency_whitelist": ["x"]}"#, "emergency_whitelist[0]: is no address"),
        (r#"{"ip_ban_duration": 0}"#, "ip_ban_duration: is not between 1 and 4294967295"),
        (r#"{"ip_ban_duration": 4294967296}"#, "ip_ban_duration: is not between"),
        (r#"{"global_rate_limit": 0}"#, "global_rate_limit: is not between"),
        (r#"{"global_rate_window": -1}"#, "global_rate_window: is not between"),
        (r#"{"auto_ban_threshold": 0}"#, "auto_ban_threshold: is not between"),
        (r#"{"auto_ban_duration": 0}"#, "auto_ban_duration: is not between"),
        (r#"{"endpoint_rate_limits": {"/a": [1]}}"#, "endpoint_rate_limits: is not an object"),
        (r#"{"endpoint_rate_limits": {"a": [1, 1]}}"#, "endpoint_rate_limits: `a` is no path"),
        (r#"{"endpoint_rate_limits": {"/a": [0, 1]}}"#, "endpoint_rate_limits: `/a` is no path"),
        (r#"{"blocked_countries": ["FRA"]}"#, "blocked_countries[0]: is no country code"),
        (r#"{"whitelist_countries": ["é"]}"#, "whitelist_countries[0]: is no country code"),
        (r#"{"blocked_user_agents": [""]}"#, "blocked_user_agents: holds an empty pattern"),
        (r#"{"suspicious_patterns": [""]}"#, "suspicious_patterns: holds an empty pattern"),
        (r#"{"enable_ip_banning": "yes"}"#, "enable_ip_banning: is not true, false or null"),
        (r#"{"emergency_mode": null}"#, "emergency_mode: is not true or false"),
    ] {
        let told = reasons(text);
        assert!(told.starts_with(expected) && !told.contains("; "), "{text}: {told}");
    }
    let told = reasons(r#"{"rule_id": 5, "version": "x", "ip_blacklist": ["x"], "global_rate_limit": 0}"#);
    assert_eq!(told.matches("; ").count(), 3, "{told}");
}

#[test]
fn sizes_are_bounded() {
    let list = |count: usize, entry: &str| serde_json::json!(vec![entry; count]);
    for (name, entry, most) in [
        ("ip_blacklist", "192.0.2.1", ADDRESSES_MAX),
        ("emergency_whitelist", "192.0.2.1", ADDRESSES_MAX),
        ("blocked_countries", "FR", ENTRIES_MAX),
        ("suspicious_patterns", "x", ENTRIES_MAX),
    ] {
        for (count, is_taken) in [(most - 1, true), (most, true), (most + 1, false)] {
            let text = serde_json::json!({ name: list(count, entry) }).to_string();
            assert_eq!(read(text.as_bytes(), NOW).is_ok(), is_taken, "{name}: {count}");
        }
    }
    for (length, is_taken) in [(TEXT_CHARS_MAX, true), (TEXT_CHARS_MAX + 1, false)] {
        let text = serde_json::json!({"suspicious_patterns": ["é".repeat(length)]}).to_string();
        assert_eq!(read(text.as_bytes(), NOW).is_ok(), is_taken, "{length}");
    }
    for (length, is_taken) in [(DOCUMENT_BYTES_MAX, true), (DOCUMENT_BYTES_MAX + 1, false)] {
        assert_eq!(read(format!("{{}}{}", " ".repeat(length - 2)).as_bytes(), NOW).is_ok(), is_taken, "{length}");
    }
    let many = serde_json::json!({"ip_blacklist": vec!["x"; 500]}).to_string();
    let BadDocument(told) = read(many.as_bytes(), NOW).unwrap_err();
    assert_eq!((told.len(), told.last().unwrap().as_str()), (REASONS_MAX + 1, "and 450 more"));
}

#[test]
fn rules_lie_over_the_base() {
    let rules = checked(
        r#"{"global_rate_limit": 5, "global_rate_window": 7, "endpoint_rate_limits": {"/a": [3, 4]},
            "blocked_countries": ["fr", "DE"], "whitelist_countries": ["se"],
            "blocked_cloud_providers": ["AWS:!eu-west-1", "Nimbus"], "blocked_user_agents": ["bot"],
            "suspicious_patterns": ["base", "more"], "enable_rate_limiting": false, "enable_ip_banning": null,
            "enable_rate_limit_auto_ban": true, "auto_ban_duration": 60}"#,
    );
    let (config, warnings) = rules.over(&base(), true);
    let security = &config.security;
    assert_eq!((security.rate_limit, security.rate_limit_window), (5, 7));
    assert_eq!(security.endpoint_rate_limits, [("/a".to_owned(), (3, 4))].into());
    assert_eq!(security.blocked_countries, ["DE", "FR"].map(str::to_owned).into());
    assert_eq!(security.whitelist_countries, ["SE".to_owned()].into());
    assert_eq!(security.block_cloud_providers, Some(vec!["AWS:!eu-west-1".to_owned()]));
    assert_eq!(security.blocked_user_agents, ["bot"]);
    assert_eq!(config.detection.custom_patterns, ["base", "more"], "what is there already is not added");
    assert!(!security.enable_rate_limiting && security.enable_ip_banning && security.enable_rate_limit_auto_ban);
    assert_eq!((security.auto_ban_threshold, security.auto_ban_duration), (9, 60));
    assert!(!security.emergency_mode);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let (config, warnings) = rules.over(&base(), false);
    assert!(config.security.blocked_countries.is_empty() && warnings.iter().any(|one| one.contains("countries")));
    // A window alone is left out.
    let (config, warnings) = checked(r#"{"global_rate_window": 7}"#).over(&base(), true);
    assert_eq!((config.security.rate_limit_window, warnings.len()), (30, 1));
}

#[test]
fn lockdown_replaces_the_whitelist_and_halves_the_threshold() {
    for (own, expected) in [(None, 4), (Some(8), 4), (Some(1), 1)] {
        let text = serde_json::json!({
            "emergency_mode": true, "emergency_whitelist": ["::ffff:192.0.2.7", "10.1.2.3/8"], "auto_ban_threshold": own
        });
        let mut base = base();
        base.security.emergency_whitelist = vec!["203.0.113.1".parse().unwrap()];
        let (config, warnings) = checked(&text.to_string()).over(&base, true);
        let passing: Vec<String> = config.security.emergency_whitelist.iter().map(ToString::to_string).collect();
        assert!(config.security.emergency_mode && warnings.is_empty());
        assert_eq!(
            (passing, config.security.auto_ban_threshold),
            (vec!["192.0.2.7".into(), "10.0.0.0/8".into()], expected)
        );
    }
    let (_, warnings) = checked(r#"{"emergency_mode": true}"#).over(&base(), true);
    assert!(warnings[0].contains("nobody passes"));
}

#[test]
fn bans_are_addresses_where_they_can_be() {
    let rules = checked(r#"{"ip_blacklist": ["192.0.2.9/32", "::ffff:192.0.2.8", "192.0.2.77/24", "2001:db8::/128"]}"#);
    let bans: Vec<String> = rules.bans.iter().map(ToString::to_string).collect();
    assert_eq!(bans, ["192.0.2.9", "192.0.2.8", "192.0.2.0/24", "2001:db8::"]);
}

#[test]
fn versions_count_within_one_id_and_rules_end_at_their_moment() {
    let of = |id: &str, version: i64| checked(&serde_json::json!({"rule_id": id, "version": version}).to_string());
    for (newer, is_covered) in [(of("a", 2), true), (of("a", 3), true), (of("a", 4), false), (of("b", 1), false)] {
        assert_eq!(of("a", 3).covers(&newer), is_covered, "{newer:?}");
    }
    let ends = checked(r#"{"expires_at": 1800000000}"#);
    assert!(!ends.has_expired(NOW.plus(-0.1)) && ends.has_expired(NOW) && ends.has_expired(NOW.plus(1.0)));
    assert_eq!(ends.rules.expires_at.unwrap().as_str(), "2027-01-15T08:00:00Z");
}

#[test]
fn stored_rules_are_checked_as_well() {
    assert!(restore(Rules::default()).is_ok());
    assert!(restore(Rules { ip_blacklist: vec!["x".to_owned()], ..Rules::default() }).is_err());
}
