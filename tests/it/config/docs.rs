//! `docs/configuration.md` in step with the schema, and its examples.

use super::*;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

fn docs() -> String {
    std::fs::read_to_string(DOCS).unwrap()
}

/// `text` with the table of every section put between its markers.
fn renewed(text: &str) -> String {
    let mut text = text.to_owned();
    for (name, table) in config::reference::sections() {
        let (begin, end) = (format!("<!-- table: {name} -->\n"), "<!-- end -->");
        let Some((before, rest)) = text.split_once(&begin) else {
            panic!("docs/configuration.md has no marker {begin}")
        };
        let Some((_, after)) = rest.split_once(end) else { panic!("docs/configuration.md: {begin} has no end") };
        text = format!("{before}{begin}{table}{end}{after}");
    }
    text
}

#[test]
fn the_tables_are_in_step_with_the_schema() {
    let (now, wanted) = (docs(), renewed(&docs()));
    if std::env::var_os("ENVOY_GUARD_BLESS").is_some() {
        std::fs::write(DOCS, &wanted).unwrap();
        return;
    }
    if let Some((line, (is, should))) =
        now.lines().zip(wanted.lines()).enumerate().find(|(_, (is, should))| is != should)
    {
        panic!(
            "docs/configuration.md:{}\n is:        {is}\n should be: {should}\nENVOY_GUARD_BLESS=1 rewrites it",
            line + 1
        );
    }
    assert_eq!(now, wanted, "ENVOY_GUARD_BLESS=1 rewrites docs/configuration.md");
}

/// The comparison notices a changed, a missing and an added row.
#[test]
fn a_stale_table_is_noticed() {
    let text = renewed(&docs());
    let row = text.lines().find(|line| line.starts_with("| `rate_limit` ")).unwrap();
    for stale in [
        text.replace(row, "| `rate_limit` | text |"),
        text.replace(&format!("{row}\n"), ""),
        text.replace(row, &format!("{row}\n{row}")),
    ] {
        assert_ne!(stale, text);
        assert_eq!(renewed(&stale), text);
    }
}

#[test]
fn every_key_has_a_row() {
    let text = renewed(&docs());
    for (section, fields) in config::redacted::redacted_json(&config::Config::default()).as_object().unwrap() {
        for field in fields.as_object().into_iter().flatten().map(|(field, _)| field) {
            assert!(text.contains(&format!("| `{field}` |")), "{section}.{field}");
        }
    }
}

/// Every fenced block of a configuration format loads without a remark, alone.
#[test]
fn every_example_loads() {
    let text = docs();
    let mut count = 0;
    let mut blocks = text.split("\n```").skip(1);
    while let (Some(block), Some(_)) = (blocks.next(), blocks.next()) {
        let (format, body) = block.split_once('\n').unwrap();
        let Some(name) = ["yaml", "toml", "json"].iter().find(|name| **name == format) else { continue };
        let loaded = load_as(&format!("guard.{name}"), body).unwrap_or_else(|errors| panic!("{errors}\n{body}"));
        assert_eq!(loaded.warnings, Vec::new(), "{body}");
        assert_ne!(loaded.config, config::Config::default(), "{body}");
        count += 1;
    }
    assert!(10 <= count, "{count} examples");
}

#[test]
fn the_schema_describes_every_key() {
    fn described(schema: &serde_json::Value, path: &str) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{path}.{name} has no description");
        }
        if schema["type"] == "object" && schema["properties"].is_object() {
            assert_eq!(schema["additionalProperties"], false, "{path} takes unknown keys");
        }
    }
    let schema = config::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    described(&schema, "");
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        described(definition, name);
    }
    let field = |name: &str| schema["$defs"]["SecurityConfig"]["properties"][name].clone();
    assert_eq!((field("rate_limit")["minimum"].as_u64(), field("rate_limit")["default"].as_u64()), (Some(1), Some(10)));
    assert_eq!(field("geo_ip_db_max_age")["maximum"], 604_800);
    assert_eq!(field("agent_api_key")["writeOnly"], true);
}

#[test]
fn check_config_says_what_results() {
    let file = file("guard.yaml", b"security: {whitelist: [], enable_logfire: true}\nroutes: [{name: a}]\n");
    let sources = Sources { file: Some(file.path.clone()), ..Sources::default() };
    let (text, code) = config::report::check(&sources);
    assert_eq!(code, config::report::GOOD, "{text}");
    for part in [
        "guard.yaml:1:12: security.whitelist: is empty",
        "not active: ",
        "security.enable_logfire: has no effect",
        "routes          1\n",
        "valid, 1 warning, 1 not active",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let value: serde_json::Value = serde_json::from_str(&config::report::check_json(&sources).0).unwrap();
    assert_eq!((value["valid"].as_bool(), value["warnings"].as_array().map(Vec::len)), (Some(true), Some(1)));
    assert_eq!(value["hash"], config::load(&sources).unwrap().hash);
    let faulty = Sources { overrides: vec![("security.rate_limt".to_owned(), "5".to_owned())], ..Sources::default() };
    let (text, code) = config::report::check(&faulty);
    assert_eq!(code, config::report::FAULTY);
    assert_eq!(
        text,
        "--set security.rate_limt: security.rate_limt: there is no such key [unknown key]; did you mean `rate_limit`?\n\n1 error\n"
    );
    let (text, code) = config::report::check_json(&faulty);
    assert_eq!(code, config::report::FAULTY);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let problem = serde_json::json!({
        "place": "--set security.rate_limt", "key": "security.rate_limt", "class": "unknown-key",
        "message": "there is no such key", "hint": "rate_limit",
    });
    assert_eq!(value, serde_json::json!({ "valid": false, "errors": [problem] }));
}
