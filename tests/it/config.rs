//! Configuration: layers, errors with their places, docs in step with the schema.

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
