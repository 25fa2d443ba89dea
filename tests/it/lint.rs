//! Every code of `lint`: found where it is, not found where it is not, explained in the documentation; and the command.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use envoy_guard::config::errors::Place;
use envoy_guard::config::{self, Sources};
use envoy_guard::lint::codes::{self, Code};
use envoy_guard::lint::finding::Finding;
use envoy_guard::lint::{Documents, examine};

/// One case; the keys are explained in tests/data/lint/README.md.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    code: String,
    #[serde(default)]
    files: Vec<String>,
    text: Option<String>,
    #[serde(default)]
    base: Vec<(String, String)>,
    change: Option<(String, String)>,
    swap: Option<(String, String)>,
    policy: Option<String>,
    bad_policy: Option<String>,
    line: Option<String>,
    #[serde(default)]
    also: Vec<String>,
    replicas: Option<u64>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> Vec<Case> {
    let folder = root().join("tests/data/lint");
    ["policy", "authz", "proc", "envoy"]
        .iter()
        .flat_map(|name| {
            let text = fs::read_to_string(folder.join(format!("{name}-cases.yaml"))).unwrap();
            serde_saphyr::from_str::<Vec<Case>>(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
        })
        .collect()
}

/// One side of a case, written to files.
struct Side {
    _folder: tempfile::TempDir,
    policy: PathBuf,
    envoy: Vec<PathBuf>,
}

impl Side {
    fn new(case: &Case, is_bad: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let default = fs::read_to_string(root().join("tests/data/lint/policy.yaml")).unwrap();
        let good = case.policy.clone().unwrap_or(default);
        let policy = folder.path().join("policy.yaml");
        fs::write(&policy, case.bad_policy.clone().filter(|_| is_bad).unwrap_or(good)).unwrap();
        let mut texts: Vec<String> =
            case.files.iter().map(|name| fs::read_to_string(root().join(name)).unwrap()).collect();
        texts.extend(case.text.clone());
        for (from, to) in case.base.iter().chain(case.change.iter().filter(|_| is_bad)) {
            let text = texts.iter_mut().find(|text| text.contains(from.as_str()));
            let text = text.unwrap_or_else(|| panic!("{}: no file holds {from}", case.code));
            *text = text.replacen(from.as_str(), to, 1);
        }
        if let Some((one, other)) = case.swap.as_ref().filter(|_| is_bad) {
            texts = texts.iter().map(|text| swapped(text, one, other)).collect();
        }
        let name = |index: usize| folder.path().join(format!("envoy-{index}.yaml"));
        let envoy: Vec<PathBuf> = (0..texts.len()).map(name).collect();
        envoy.iter().zip(&texts).for_each(|(path, text)| fs::write(path, text).unwrap());
        Self { _folder: folder, policy, envoy }
    }

    fn findings(&self, replicas: Option<u64>) -> Vec<Finding> {
        let documents = Documents::read(&self.envoy).unwrap();
        let loaded = config::load(&Sources { file: Some(self.policy.clone()), ..Sources::default() });
        examine(&loaded, (!self.envoy.is_empty()).then_some(&documents), replicas)
    }
}

fn swapped(text: &str, one: &str, other: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let at = |word: &str| lines.iter().position(|line| line.contains(word)).unwrap();
    let (one, other) = (at(one), at(other));
    lines.swap(one, other);
    lines.join("\n")
}

/// The line that a finding points at.
fn line_of(finding: &Finding) -> String {
    let Some(Place::File { file, line, .. }) = &finding.place else { return String::new() };
    let text = fs::read_to_string(&**file).unwrap();
    text.lines().nth((*line as usize).saturating_sub(1)).unwrap_or_default().to_owned()
}

fn shown(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n    {}\n", line_of(finding))).collect()
}

/// Nothing is found before the change; after it this code, on the line that was changed.
#[test]
fn every_code_is_found_where_it_is_and_only_there() {
    let mut wrong = Vec::new();
    for case in cases() {
        let good = Side::new(&case, false).findings(case.replicas);
        if !good.is_empty() {
            wrong.push(format!("{}: found without the change:\n{}", case.code, shown(&good)));
        }
        let side = Side::new(&case, true);
        let bad = side.findings(case.replicas);
        let mut found: Vec<&str> = bad.iter().map(|finding| finding.code.id).collect();
        found.sort_unstable();
        let mut expected: Vec<&str> = case.also.iter().map(String::as_str).chain([case.code.as_str()]).collect();
        expected.sort_unstable();
        if found != expected {
            wrong.push(format!("{}: expected {expected:?}, found\n{}", case.code, shown(&bad)));
            continue;
        }
        let changed = || Some(case.change.as_ref()?.1.lines().next()?.trim().to_owned());
        let wanted = case.line.clone().or_else(changed).unwrap_or_default();
        let finding = bad.iter().find(|finding| finding.code.id == case.code).unwrap();
        if !line_of(finding).contains(&wanted) {
            wrong.push(format!("{}: points elsewhere than `{wanted}`:\n{}", case.code, shown(&bad)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// No code without a case: one that cannot be shown does not exist.
#[test]
fn every_code_has_a_case() {
    let cases = cases();
    let without: Vec<&str> =
        codes::ALL.iter().map(|code| code.id).filter(|id| !cases.iter().any(|case| case.code == **id)).collect();
    assert!(without.is_empty(), "{without:?}");
}

/// What we ship is what we advise.
#[test]
fn the_shipped_files_are_clean() {
    let tls = "listeners: { tls: { cert_file: a, key_file: b, client_ca_file: c, client_names: [envoy.example] } }\n";
    let unix = "listeners: { unix: /run/envoy-guard/guard.sock }\n";
    let route = "routes: [{ name: admin, match: [{ prefix: /admin }] }]\n";
    let mut sets: Vec<(String, Vec<String>)> = Vec::new();
    for name in ["ext_authz", "ext_proc", "both"] {
        sets.push((route.to_owned(), vec![format!("envoy/{name}.yaml")]));
        sets.push((format!("{unix}{route}"), vec![format!("envoy/unix/{name}.yaml")]));
        sets.push((format!("{tls}{route}"), vec![format!("envoy/mtls/{name}.yaml")]));
    }
    for entry in fs::read_dir(root().join("envoy/kubernetes")).unwrap() {
        let name = format!("envoy/kubernetes/{}", entry.unwrap().file_name().to_string_lossy());
        // Some are steps of one way.
        let with = match name.as_str() {
            "envoy/kubernetes/istio.yaml" => Some("envoy/kubernetes/istio-provider.yaml"),
            "envoy/kubernetes/istio-ext-proc.yaml" => Some("envoy/kubernetes/istio-provider.yaml"),
            "envoy/kubernetes/envoy-gateway-tls.yaml" => Some("envoy/kubernetes/envoy-gateway.yaml"),
            _ => None,
        };
        sets.push((route.to_owned(), with.map(str::to_owned).into_iter().chain([name]).collect()));
    }
    assert!(15 < sets.len());
    for (policy, files) in sets {
        let case = Case {
            code: String::new(),
            files: files.clone(),
            text: None,
            base: Vec::new(),
            change: None,
            swap: None,
            policy: Some(policy),
            bad_policy: None,
            line: None,
            also: Vec::new(),
            replicas: None,
        };
        let found = Side::new(&case, false).findings(None);
        assert!(found.is_empty(), "{files:?}:\n{}", shown(&found));
    }
}

/// The change of a case, as the documentation shows it: what is found, and what is not.
fn difference(case: &Case) -> String {
    let lines = |sign: char, text: &str| -> String {
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| format!("{sign} {}\n", line.trim_end()))
            .collect()
    };
    let (bad, good) = match (&case.change, &case.bad_policy, &case.swap) {
        (Some((from, to)), ..) => (to.trim(), from.trim()),
        (None, Some(bad), _) => (bad.as_str(), case.policy.as_deref().unwrap_or_default()),
        (None, None, Some((one, other))) => return format!("- {other}\n  {one}\n+ {other}\n"),
        (None, None, None) => panic!("{}: nothing changes", case.code),
    };
    format!("{}{}", lines('-', bad), lines('+', good))
}

/// Words in lines of at most 128 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        if !lines.last().unwrap().is_empty() && 127 < lines.last().unwrap().len() + word.len() {
            lines.push(String::new());
        }
        let line = lines.last_mut().unwrap();
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.join("\n")
}

fn section(code: &Code, cases: &BTreeMap<String, Case>) -> String {
    let Code { id, severity, title, why, fix } = code;
    let (severity, text) = (severity.name(), wrapped(&format!("{why} {fix}")));
    format!("### {id}\n\n**{severity}**: {title}\n\n{text}\n\n```diff\n{}```\n\n", difference(&cases[*id]))
}

/// docs/lint.md: a section for each code, made from the table and the cases.
#[test]
fn the_documentation_has_a_section_for_each_code() {
    let path = root().join("docs/lint.md");
    let now = fs::read_to_string(&path).unwrap();
    let mut first = BTreeMap::new();
    for case in cases() {
        first.entry(case.code.clone()).or_insert(case);
    }
    let mut made = String::new();
    for (digit, heading) in [
        ('0', "Loading"),
        ('1', "The policy"),
        ('2', "ext_authz"),
        ('3', "ext_proc"),
        ('4', "The connection manager"),
        ('5', "The guard's cluster"),
        ('6', "Routes"),
        ('7', "Kubernetes"),
    ] {
        made.push_str(&format!("## {heading}\n\n"));
        let own = codes::ALL.iter().filter(|code| code.id.chars().nth(2) == Some(digit));
        own.for_each(|code| made.push_str(&section(code, &first)));
    }
    let (begin, end) = ("<!-- codes -->\n", "<!-- end -->");
    let (before, rest) = now.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let wanted = format!("{before}{begin}{}\n{end}{after}", made.trim_end());
    if std::env::var_os("ENVOY_GUARD_BLESS").is_some() {
        fs::write(&path, &wanted).unwrap();
        return;
    }
    assert!(now == wanted, "docs/lint.md is not in step with the codes; ENVOY_GUARD_BLESS=1 rewrites it");
}

fn lint(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-guard"));
    command.current_dir(root()).arg("lint").args(arguments).env_remove("ENVOY_GUARD_CONFIG").output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What stands in the places where a dump of a running Envoy, and one in JSON, have it.
#[test]
fn the_command_speaks_by_text_json_and_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let envoy = folder.path().join("envoy.yaml");
    let text = fs::read_to_string(root().join("envoy/ext_authz.yaml")).unwrap();
    fs::write(&envoy, text.replace("failure_mode_allow: false", "failure_mode_allow: true")).unwrap();
    let line = text.lines().position(|line| line.contains("failure_mode_allow: false")).unwrap() + 1;
    let (policy, envoy) = ("tests/data/lint/policy.yaml", envoy.to_str().unwrap());

    let clean = lint(&[policy, "--envoy", "envoy/ext_authz.yaml"]);
    assert_eq!((clean.status.code(), said(&clean).as_str()), (Some(0), "0 errors, 0 warnings, 0 of advice\n"));
    let advised = lint(&[policy, "--set", "detection.undecodable_body=allow"]);
    assert_eq!(advised.status.code(), Some(0), "{}", said(&advised));
    let warned = lint(&[policy, "--set", "security.passive_mode=true"]);
    assert_eq!(warned.status.code(), Some(1), "{}", said(&warned));
    assert!(said(&warned).starts_with("--set security.passive_mode: warning EG1001: "), "{}", said(&warned));
    let ignored = lint(&[policy, "--set", "security.passive_mode=true", "--ignore", "EG1001"]);
    assert_eq!(ignored.status.code(), Some(0), "{}", said(&ignored));

    let open = lint(&[policy, "--envoy", envoy]);
    assert_eq!(open.status.code(), Some(2), "{}", said(&open));
    assert!(said(&open).starts_with(&format!("{envoy}:{line}:")), "{}", said(&open));
    assert!(said(&open).contains("error EG2001: ") && said(&open).contains("(docs/lint.md#eg2001)"), "{}", said(&open));
    let machine = lint(&[policy, "--envoy", envoy, "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&machine.stdout).unwrap();
    assert_eq!(value["errors"], 1);
    let finding = &value["findings"][0];
    assert_eq!((&finding["code"], &finding["severity"]), (&"EG2001".into(), &"error".into()));
    assert_eq!((&finding["file"], &finding["line"]), (&envoy.into(), &line.into()));

    let explained = lint(&["--explain", "EG2001"]);
    assert!(explained.status.success() && said(&explained).starts_with("EG2001 (error): "), "{}", said(&explained));
    assert_eq!(lint(&[policy, "--ignore", "EG9999"]).status.code(), Some(64));
}

/// Files that cannot be read say why and where, and nothing is half looked at.
#[test]
fn files_that_cannot_be_read_are_told_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, expected) in [
        ("cut.json", "{\"static_resources\": {".to_owned(), ":1:"),
        ("broken.yaml", "a: 1\nb: [1, 2\n".to_owned(), "[syntax]"),
        ("deep.yaml", format!("a: {}{}", "[".repeat(100), "]".repeat(100)), "nested more than 64 levels deep"),
        ("twice.yaml", "a: 1\na: 2\n".to_owned(), "duplicate key `a`"),
        ("alias.yaml", "a: &a [1]\nb: *c\n".to_owned(), "[syntax]"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let output = lint(&["tests/data/lint/policy.yaml", "--envoy", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64), "{name}: {}", said(&output));
        assert!(said(&output).contains(name) && said(&output).contains(expected), "{name}: {}", said(&output));
    }
    let output = lint(&["tests/data/lint/policy.yaml", "--envoy", "no/such/file.yaml"]);
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
}

/// The same is found in a bootstrap, in a dump, and in JSON.
#[test]
fn a_dump_says_what_the_bootstrap_says() {
    let text = fs::read_to_string(root().join("envoy/both.yaml")).unwrap();
    let text = text.replace("failure_mode_allow: false", "failure_mode_allow: true");
    let bootstrap: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let resources = &bootstrap["static_resources"];
    let dump = serde_json::json!({ "configs": [
        { "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": { "node": {} } },
        { "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [
            { "name": "http", "active_state": { "version_info": "1", "listener": resources["listeners"][0] } }] },
        { "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": [
            { "cluster": resources["clusters"][0] }, { "cluster": resources["clusters"][1] }] },
    ]});
    let folder = tempfile::tempdir().unwrap();
    let codes = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let output = lint(&["tests/data/lint/policy.yaml", "--envoy", path.to_str().unwrap(), "--json"]);
        let value: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        value["findings"].as_array().unwrap().iter().map(|finding| finding["code"].to_string()).collect::<Vec<_>>()
    };
    let expected = vec!["\"EG2001\"".to_owned(), "\"EG3001\"".to_owned()];
    assert_eq!(codes("bootstrap.yaml", &text), expected);
    assert_eq!(codes("bootstrap.json", &bootstrap.to_string()), expected);
    assert_eq!(codes("dump.json", &serde_json::to_string_pretty(&dump).unwrap()), expected);
}
