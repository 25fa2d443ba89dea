//! Configuration: layers, errors with their places, docs in step with the schema.

mod broken;
mod docs;
mod layers;
mod rules;
mod secrets;

use std::io::Write;
use std::path::PathBuf;

use envoy_guard::config::errors::{Class, Errors, Place, Problem};
use envoy_guard::config::{self, Loaded, Sources};

/// A file that lives as long as the value.
struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file(name: &str, text: &[u8]) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::File::create(&path).unwrap().write_all(text).unwrap();
    File { _dir: dir, path }
}

fn load_as(name: &str, text: &str) -> Result<Loaded, Errors> {
    let file = file(name, text.as_bytes());
    config::load(&Sources { file: Some(file.path.clone()), ..Sources::default() })
}

#[track_caller]
fn good(text: &str) -> Loaded {
    load_as("guard.yaml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn faults(name: &str, text: &str) -> Vec<Problem> {
    match load_as(name, text) {
        Ok(_) => panic!("loads: {text}"),
        Err(Errors(problems)) => problems,
    }
}

/// Every key once, with a value that is not its default.
const FULL: &str = include_str!("../data/config/full.yaml");

const fn line(problem: &Problem) -> u32 {
    match problem.place {
        Some(Place::File { line, .. }) => line,
        _ => 0,
    }
}

/// The same mistakes in the three formats: place, key, class and hint of each.
#[test]
fn every_mistake_is_reported_with_its_place() {
    let yaml = "\
security:
  rate_limt: 5
  whitelist: [1.2.3.4, 300.1.1.1]
  log_format: jsn
  rate_limit: 0
  passive_mode: yes
  enable_agent: true
routes:
  - name: a
    rate_limit: ten
    match:
      - regex: '('
  - match:
      - path: /a
        prefix: /b
";
    let toml = "\
[security]
rate_limt = 5
whitelist = ['1.2.3.4', '300.1.1.1']
log_format = 'jsn'
rate_limit = 0
passive_mode = 'yes'
enable_agent = true

[[routes]]
name = 'a'
rate_limit = 'ten'
[[routes.match]]
regex = '('

[[routes]]
[[routes.match]]
path = '/a'
prefix = '/b'
";
    let json = r#"{
"security": { "rate_limt": 5,
  "whitelist": ["1.2.3.4",
    "300.1.1.1"],
  "log_format": "jsn", "rate_limit": 0,
  "passive_mode": "yes",
  "enable_agent": true
},
"routes": [ { "name": "a", "rate_limit": "ten",
    "match": [ { "regex": "(" } ] },
  { "match": [
    { "path": "/a", "prefix": "/b" } ] } ]
}"#;
    let expected = [
        ("security.rate_limt", Class::UnknownKey, Some("rate_limit"), [2, 2, 2]),
        ("security.whitelist[1]", Class::Value, None, [3, 3, 4]),
        ("security.log_format", Class::Enum, Some("json"), [4, 4, 5]),
        ("security.rate_limit", Class::Range, None, [5, 5, 5]),
        ("security.passive_mode", Class::Type, None, [6, 6, 6]),
        ("security.enable_agent", Class::CrossField, None, [7, 7, 7]),
        ("routes[0].rate_limit", Class::Type, None, [10, 11, 9]),
        ("routes[0].match[0].regex", Class::Value, None, [12, 13, 10]),
        ("routes[1].name", Class::CrossField, None, [13, 15, 11]),
        ("routes[1].match[0]", Class::CrossField, None, [14, 16, 12]),
    ];
    for (format, name, text) in [(0, "g.yaml", yaml), (1, "g.toml", toml), (2, "g.json", json)] {
        let found = faults(name, text);
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        for (key, class, hint, lines) in &expected {
            let problem = found.iter().find(|problem| problem.key == *key);
            let problem = problem.unwrap_or_else(|| panic!("{name}: {key} is missing in {shown:#?}"));
            assert_eq!((problem.class, problem.hint.as_deref()), (*class, *hint), "{name} {problem}");
            assert_eq!(line(problem), lines[format], "{name} {problem}");
        }
        assert_eq!(found.len(), expected.len(), "{name}: {shown:#?}");
    }
}

#[test]
fn the_defaults_load_without_remarks() {
    for loaded in [config::load(&Sources::default()).unwrap(), good(""), good("security:\nroutes:\n")] {
        assert_eq!(loaded.config, config::Config::default());
        assert_eq!((loaded.warnings, loaded.inactive), (Vec::new(), Vec::new()));
    }
}

#[test]
fn every_key_can_be_set_to_something_else() {
    let loaded = good(FULL);
    let (set, default) =
        (config::redacted::redacted_json(&loaded.config), config::redacted::redacted_json(&Default::default()));
    // These exclude what the file says instead of them, or need files that only their own tests make.
    let elsewhere = [
        ("redis", "nodes"),
        ("redis", "password_file"),
        ("redis", "sentinel_password_file"),
        ("listeners", "tls"),
        ("admin", "tls"),
        ("admin", "token_file"),
        ("data", "dynamic_rules"),
    ];
    for (section, fields) in default.as_object().unwrap() {
        for (field, value) in fields.as_object().into_iter().flatten() {
            if elsewhere.contains(&(section, field)) {
                continue;
            }
            assert_ne!(&set[section][field], value, "{section}.{field} is as by default");
        }
    }
    assert_eq!(set["security"].as_object().unwrap().len(), 131);
    let (unset, route) = (serde_json::to_value(config::routes::RouteConfig::default()).unwrap(), &set["routes"][0]);
    for (field, value) in unset.as_object().unwrap() {
        let elsewhere = field == "authorization_header_required";
        assert!(elsewhere || &route[field] != value, "routes[0].{field} is as by default");
    }
}

#[test]
fn every_inactive_field_that_is_set_is_named() {
    let named: Vec<String> = good(FULL).inactive.into_iter().map(|notice| notice.key).collect();
    let known: Vec<&str> = config::activity::keys().collect();
    assert_eq!(named, known);
}

/// Numbers, words and texts become what the engine compares.
#[test]
fn values_take_their_canonical_form() {
    let loaded = good(
        "security:
  whitelist: [10.1.2.3/8, '2001:DB8:0::1', '::ffff:192.0.2.1']
  geo_ip_handler: x.mmdb
  blocked_countries: [de]
  block_cloud_providers: [AWS, Hetzner, 'AWS:nowhere']
  custom_error_responses: {403: a}
  cors_max_age: 0
  security_headers: {}
routes:
  - {name: a, whitelist_countries: [fr], geo_rate_limits: {de: [1, 2]}}
",
    );
    let security = &loaded.config.security;
    let whitelist: Vec<String> = security.whitelist.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(whitelist, ["10.0.0.0/8", "2001:db8::1", "192.0.2.1"]);
    assert_eq!(security.blocked_countries, ["DE".to_owned()].into());
    assert_eq!(security.block_cloud_providers, Some(vec!["AWS".to_owned()]));
    assert_eq!(security.custom_error_responses, [(403, "a".to_owned())].into());
    assert_eq!(security.security_headers, None);
    assert_eq!(loaded.config.routes[0].whitelist_countries, Some(["FR".to_owned()].into()));
    assert_eq!(loaded.config.routes[0].geo_rate_limits, Some([("DE".to_owned(), (1, 2))].into()));
    let warned: Vec<&str> = loaded.warnings.iter().map(|notice| notice.key.as_str()).collect();
    assert_eq!(warned, ["security.block_cloud_providers[1]", "security.block_cloud_providers[2]"]);
}

#[test]
fn maps_keep_their_order() {
    let loaded = good("security: {security_headers: {csp: {z-src: [a], a-src: [b], m-src: []}}}");
    let headers = loaded.config.security.security_headers.unwrap();
    let directives: Vec<String> = headers.csp.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(directives, ["z-src", "a-src", "m-src"]);
}

#[test]
fn the_hash_follows_the_meaning_and_not_the_spelling() {
    let hash = |text: &str| good(text).hash;
    assert_eq!(hash(""), hash("security:\n  rate_limit: 10\n"));
    assert_eq!(
        hash("security: {blocked_user_agents: [a], rate_limit: 5}"),
        hash("# note\nsecurity:\n  rate_limit: 5\n  blocked_user_agents:\n  - a\n")
    );
    assert_ne!(hash(""), hash("security: {rate_limit: 11}"));
    assert_eq!(hash("").len(), 64);
    let token = |token: &str| hash(&format!("security: {{ipinfo_token: {token}}}"));
    assert_eq!(token("one"), token("one"));
    assert_ne!(token("one"), token("two"), "a new secret is a new configuration");
    let redis = |user: &str| hash(&format!("security: {{redis_url: 'redis://{user}@localhost:6379'}}"));
    assert_ne!(redis("a:b"), redis("a:c"));
}

#[test]
fn a_place_is_found_for_every_key_path() {
    let file = file(
        "guard.yaml",
        b"security:\n  rate_limit: 5\nroutes:\n  - name: a\n    custom_validators:\n      - 'true'\n      - '('\n",
    );
    let loaded = config::load(&Sources { file: Some(file.path.clone()), ..Sources::default() }).unwrap();
    for (key, expected) in [
        ("routes[0].custom_validators[1]", Some(7)),
        ("routes[0].custom_validators[0]", Some(6)),
        ("routes[0].exclusions[3].row", Some(4)),
        ("security.rate_limit", Some(2)),
        ("security.whitelist", Some(1)),
        ("detection.profile", None),
    ] {
        let line = config::locate(&loaded, key).map(|place| match place {
            Place::File { line, .. } => line,
            other => panic!("{other}"),
        });
        assert_eq!(line, expected, "{key}");
    }
}
