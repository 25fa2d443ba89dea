//! The numbers: every series is documented and every documented one exists, labels are never a request's, alert rules fire
//! when they should, and a real Prometheus has data for every panel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use envoy_guard::model::category::Category;
use envoy_guard::model::check::Check;
use envoy_guard::model::event::EventType;
use envoy_guard::model::stage::Stage;
use envoy_guard::telemetry::buffer::SinkName;
use serde_json::Value;

use crate::certificates::Authority;
use crate::receivers::Receivers;
use crate::redis_servers::Server;
use crate::stack::{Call, Process, Stack, free_port, policy};

const DOCS: &str = include_str!("../../docs/observability.md");
const ALERTS: &str = include_str!("../../helm/envoy-guard/rules/alerts.yaml");
const DASHBOARD: &str = include_str!("../../helm/envoy-guard/dashboards/overview.json");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program of Debian's `prometheus`.
fn program(name: &str) -> PathBuf {
    let path = root().join(".cache/prometheus/usr/bin").join(name);
    assert!(path.exists(), "no {name} at {}: run `make deps` first", path.display());
    path
}

/// Kind and labels by name.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// What the table of the documentation says.
fn documented() -> Families {
    let table = DOCS.split_once("| name | kind | labels | meaning |").unwrap().1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let codes = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let families = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, _] = cells[..] else { panic!("a row of five cells: {row}") };
        assert!(10 < meaning.len(), "{row}");
        (codes(name).pop_first().unwrap(), (kind.to_owned(), codes(labels)))
    });
    families.collect()
}

/// Name, labels and value of each series of a page.
fn series(page: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let read = lines.map(|line| {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.trim_end_matches('"').split_once("=\"").unwrap());
        (name.to_owned(), pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    });
    read.collect()
}

/// What a page shows, families without a series left out.
fn shown(page: &str) -> Families {
    let mut families = Families::new();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE envoy_guard_")?.split_once(' '));
    let series = series(page);
    for (name, kind) in types {
        let full = format!("envoy_guard_{name}");
        let endings = ["", "_total", "_bucket", "_info"].map(|ending| format!("{full}{ending}"));
        let mine = series.iter().filter(|(known, _)| endings.contains(known));
        let mut labels = mine.clone().flat_map(|(_, labels)| labels.keys().cloned()).collect::<BTreeSet<_>>();
        labels.remove("le");
        let name = if kind == "info" { format!("{name}_info") } else { name.to_owned() };
        if mine.count() != 0 {
            families.insert(name, (kind.to_owned(), labels));
        }
    }
    families
}

/// Every value that a label may have; `None` for those that follow from the configuration.
fn closed_set(label: &str) -> Option<BTreeSet<&'static str>> {
    let around =
        "none client_address_unresolved cors_preflight csp_report behavior response_rule not_ready unreadable internal";
    let words = |text: &'static str| text.split(' ').collect::<BTreeSet<_>>();
    Some(match label {
        "category" => (0..Category::COUNT).filter_map(Category::at).map(Category::name).collect(),
        "check" => Check::ALL.iter().map(|check| check.name()).chain(around.split(' ')).collect(),
        "end" => words("answered refused failed broken idle delayed"),
        "event" => EventType::ALL.iter().map(|event| event.name()).collect(),
        "family" => words("windows rules tracks bans networks suspicions"),
        "feed" => words("list:house"),
        "result" => words("success failure applied refused not_reached"),
        "sink" => SinkName::ALL.iter().map(|sink| sink.name()).collect(),
        "stage" => Stage::ALL.iter().map(|stage| stage.name()).collect(),
        "verdict" => words("allow deny fail report"),
        _ => return None,
    })
}

/// Requests of every kind, some of which try to get a word of theirs into a label.
fn traffic(port: u16, round: u32) {
    let evil = "x\",verdict=\"pwned";
    let from = |last: u32| format!("203.0.113.{}", last % 250 + 1);
    let calls = [
        Call::get(&format!("/{round}")),
        Call::get("/?q=%3Cscript%3Ealert(1)%3C/script%3E"),
        Call::get("/?id=1%27%20UNION%20SELECT%20password%20FROM%20users--%20"),
        Call::get("/").header("user-agent", &format!("evilbot {evil}")),
        Call::new("PWNED", "/pwned{verdict=\"pwned\"}").header("origin", "https://pwned"),
        Call::get("/pwned\"}").header("host", "pwned").header("traceparent", evil).header("x-request-id", evil),
    ];
    for (index, call) in calls.into_iter().enumerate() {
        // Envoy refuses some of them by itself.
        drop(call.from(&from(round * 7 + index as u32)).try_send(port));
    }
    drop(Call::get("/").header("x-forwarded-for", "pwned").try_send(port));
    // The rule lets one a minute pass at once.
    (0..2).for_each(|_| drop(Call::get("/slow").from("203.0.113.254").try_send(port)));
}

/// Names of series in a query.
fn names(query: &str) -> BTreeSet<String> {
    let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words
        .filter_map(|word| word.strip_prefix("envoy_guard_"))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Title and query of each panel.
fn panels() -> Vec<(String, String)> {
    let board: Value = serde_json::from_str(DASHBOARD).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let panels = list(&board["panels"]).into_iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        list(&panel["targets"])
            .into_iter()
            .map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    });
    let panels: Vec<_> = panels.collect();
    assert!(15 < panels.len(), "{panels:?}");
    panels
}

#[test]
fn alert_rules_are_read_fire_when_they_should_and_say_what_to_do() {
    let alerts = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect::<Vec<_>>();
    assert!(12 < alerts.len(), "{alerts:?}");
    let tests = root().join("tests/data/monitoring/alerts_test.yaml");
    let text = std::fs::read_to_string(&tests).unwrap();
    for alert in &alerts {
        assert!(DOCS.contains(&format!("\n### {alert}\n")), "{alert} has no runbook");
        let anchor = format!("docs/observability.md#{}", alert.to_lowercase());
        assert!(
            ALERTS.contains(&anchor) && text.contains(&anchor),
            "{alert} leads to its runbook, and a test fires it"
        );
    }
    let rules = root().join("helm/envoy-guard/rules/alerts.yaml");
    for (what, file) in [(["check", "rules"], &rules), (["test", "rules"], &tests)] {
        let output = Command::new(program("promtool")).args(what).arg(file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn what_alerts_and_panels_ask_for_is_documented() {
    let known = documented();
    let queries = panels().into_iter().map(|(_, query)| query).chain([ALERTS.to_owned()]);
    for name in queries.flat_map(|query| names(&query)) {
        let bare = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending));
        let is_known = known.contains_key(&name) || bare.is_some_and(|bare| known.contains_key(bare));
        // `(admin_)?tls_...` of a pattern.
        assert!(
            is_known || name.is_empty() || ALERTS.contains(&format!("envoy_guard_{name}(")),
            "{name} is not documented"
        );
    }
}

#[test]
fn a_real_prometheus_has_data_for_every_panel_and_every_number_is_documented() {
    let (redis, receivers, folder) = (Server::start(&[]), Receivers::start(), tempfile::tempdir().unwrap());
    let list = folder.path().join("house.txt");
    std::fs::write(&list, "198.51.100.7\n").unwrap();
    let security = "rate_limit: 100000\nauto_ban_threshold: 100000\nblocked_user_agents: [evilbot]\n";
    let rest = format!(
        "routes:\n  - name: slow\n    match: [{{ path: /slow }}]\n    behavior_rules:\n      \
         - {{ rule_type: usage, threshold: 1, window: 60, action: throttle, delay_ms: 1 }}\n\
         detection: {{log_only_categories: [xss]}}\ndata:\n  lists: [{{name: house, source: '{}'}}]\n\
         telemetry:\n  webhook: {{url: 'http://127.0.0.1:{}/hook/events', linger_ms: 10, secret: hook-secret}}\n",
        list.display(),
        receivers.http
    );
    let text = policy(security, &rest, 0, 0)
        .replace("enable_redis: false", &format!("enable_redis: true\n  redis_url: {}", redis.url()));
    let stack = Stack::of("both.yaml", &text, |envoy| envoy);

    let port = free_port();
    let config = folder.path().join("prometheus.yml");
    let (rules, admin) = (root().join("helm/envoy-guard/rules/alerts.yaml"), stack.admin);
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n  \
             - {{job_name: envoy-guard, static_configs: [{{targets: ['127.0.0.1:{admin}']}}]}}\n",
            rules.display()
        ),
    )
    .unwrap();
    let mut command = Command::new(program("prometheus"));
    command.arg(format!("--config.file={}", config.display())).arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("tsdb").display()));
    let mut prometheus = Process::start("prometheus", folder.path(), &mut command);

    let mut round = 0;
    let mut missing = panels();
    prometheus.wait(|_| {
        round += 1;
        traffic(stack.port, round);
        missing.retain(|(title, query)| !has_data(port, title, query));
        missing.is_empty()
    });
    prometheus.wait(|_| {
        let rules = ask(port, "/api/v1/rules");
        let rules = rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        12 < rules.len() && rules.iter().all(|rule| rule["health"] == "ok")
    });

    let page = Call::get("/metrics").send(admin).body;
    assert!(page.ends_with("# EOF\n") && !page.contains("pwned"), "{page}");
    for (name, labels) in series(&page) {
        for (label, value) in labels {
            match closed_set(&label) {
                Some(set) => assert!(set.contains(&*value), "{name}: {label}={value}"),
                None => assert!(["le", "hash", "version"].contains(&&*label), "{name}: {label}={value}"),
            }
        }
    }
    let (known, mut found) = (documented(), shown(&page));
    found.extend(shown(&page_with_tls()));
    for (name, family) in &found {
        assert_eq!(known.get(name), Some(family), "{name} in docs/observability.md");
    }
    let absent: Vec<&String> = known.keys().filter(|name| !found.contains_key(*name)).collect();
    assert!(absent.is_empty(), "documented, and never seen: {absent:?}");
    let documented_values =
        |label: &str| DOCS.lines().find(|line| line.starts_with(&format!("| `{label}` |"))).unwrap();
    for label in ["family", "sink", "verdict", "end", "result"] {
        for value in closed_set(label).unwrap() {
            assert!(documented_values(label).contains(&format!("`{value}`")), "{label}={value} is not documented");
        }
    }
}

/// The page of a service with TLS on both ports, after a handshake at each. It is asked through its Unix socket.
fn page_with_tls() -> String {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.write("guard", "guard.test", 2090);
    let (grpc, admin, socket) = (free_port(), free_port(), folder.path().join("admin.sock"));
    let tls = format!("tls: {{cert_file: {0}/guard.crt, key_file: {0}/guard.key}}", authority.folder().display());
    let text = policy("", "", grpc, admin).replacen("listeners:\n", &format!("listeners:\n  {tls}\n"), 1).replacen(
        "admin:\n",
        &format!("admin:\n  unix: {}\n  {tls}\n", socket.display()),
        1,
    );
    let file = folder.path().join("guard.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-guard"));
    let mut guard = Process::start("guard", folder.path(), command.args(["serve", "--config"]).arg(&file));
    let mut page = String::new();
    guard.wait(|_| {
        for port in [grpc, admin] {
            let mut client = Command::new("openssl");
            client.args(["s_client", "-alpn", "h2", "-connect", &format!("127.0.0.1:{port}")]);
            client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        }
        let mut curl = Command::new("curl");
        let output = curl.args(["-s", "--unix-socket"]).arg(&socket).arg("http://localhost/metrics").output().unwrap();
        page = String::from_utf8(output.stdout).unwrap();
        page.contains("envoy_guard_tls_handshakes_total{") && page.contains("envoy_guard_admin_tls_handshakes_total{")
    });
    page
}

/// The answer of Prometheus; null while it does not answer.
fn ask(port: u16, target: &str) -> Value {
    let answer = Call::get(target).try_send(port).ok().filter(|answer| answer.status == 200);
    answer.and_then(|answer| serde_json::from_str(&answer.body).ok()).unwrap_or_default()
}

/// True when a panel has something to show, under the labels that it groups by.
fn has_data(port: u16, title: &str, query: &str) -> bool {
    let query = query.replace("$__rate_interval", "1m").replace("$instance", ".*");
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = ask(port, &format!("/api/v1/query?query={encoded}"));
    let Some(rows) = answer["data"]["result"].as_array() else { return false };
    let groups =
        query.split_once("by (").and_then(|(_, rest)| rest.split_once(')')).map(|(groups, _)| groups.to_owned());
    let grouped = groups.unwrap_or_default();
    let labels = grouped.split(',').map(str::trim).filter(|label| !label.is_empty() && *label != "le");
    labels.for_each(|label| {
        assert!(rows.iter().all(|row| row["metric"][label].is_string()), "{title}: {label} of {rows:?}");
    });
    !rows.is_empty()
}
