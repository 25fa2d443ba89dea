//! Redis behind TLS, ACL users and password files, alone, named by sentinels, and as a Cluster: what the configuration
//! says is what real servers demand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use envoy_guard::config::{self, Sources};
use envoy_guard::model::addr::Client;
use envoy_guard::model::time::{Timestamp, Window};
use envoy_guard::state::{Backend, Question, State, StateError};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::contract::every_case;
use crate::redis_servers::{Server, eventually, free_port, start_sentinel_with};

const NOW: Timestamp = Timestamp(1_800_000_000.0);

/// An authority, a server it vouches for as `redis.test` and 127.0.0.1, and a client.
struct Certificates {
    folder: TempDir,
}

impl Certificates {
    fn make() -> Self {
        let folder = TempDir::new().unwrap();
        let run = |arguments: &[&str]| {
            let done = Command::new("openssl").args(arguments).current_dir(folder.path()).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        for name in ["ca", "other"] {
            run(&[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.crt"),
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "keyUsage=critical,keyCertSign",
            ]);
        }
        for (name, names) in
            [("server", "DNS:redis.test,IP:127.0.0.1"), ("named", "DNS:redis.test"), ("client", "DNS:guard")]
        {
            run(&[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.csr"),
                "-subj",
                &format!("/CN={name}"),
            ]);
            std::fs::write(folder.path().join("names"), format!("subjectAltName={names}\n")).unwrap();
            run(&[
                "x509",
                "-req",
                "-in",
                &format!("{name}.csr"),
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "2",
                "-out",
                &format!("{name}.crt"),
                "-extfile",
                "names",
            ]);
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Arguments of a server that speaks only TLS, with the certificate `name`.
    fn server(&self, name: &str, clients: &str) -> Vec<String> {
        [
            "--tls-cert-file",
            &self.path(&format!("{name}.crt")),
            "--tls-key-file",
            &self.path(&format!("{name}.key")),
            "--tls-ca-cert-file",
            &self.path("ca.crt"),
            "--tls-auth-clients",
            clients,
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

/// Starts a server whose TLS port is another than the plain one that the test uses for its own commands.
fn tls_server(certificates: &Certificates, name: &str, clients: &str, more: &[&str]) -> (Server, u16) {
    let port = free_port();
    let mut arguments = vec!["--tls-port".to_owned(), port.to_string()];
    arguments.extend(certificates.server(name, clients));
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
    (Server::start(&borrowed), port)
}

/// The backend that a configuration of YAML lines asks for; strict, so that failures show.
fn backend(lines: &str) -> Result<Backend, String> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("guard.yaml");
    std::fs::write(&file, lines).unwrap();
    let sources = Sources { file: Some(file), ..Sources::default() };
    let loaded = config::load(&sources).map_err(|errors| errors.to_string())?;
    Backend::new(&loaded.config).map_err(|error| error.to_string())
}

fn strict(url: &str, redis: &str) -> String {
    format!(
        "security: {{enable_redis: true, redis_url: '{url}', redis_fail_open: false, redis_prefix: 'p:'}}\n\
         limits: {{state_deadline_ms: 5000}}\nredis:\n{redis}"
    )
}

/// Bans through the backend; the error when it cannot.
async fn ban(state: &Backend, who: &str) -> Result<(), StateError> {
    state.ban(who.parse().unwrap(), Window::new(60).unwrap(), "test", NOW).await
}

async fn works(lines: &str) {
    let state = backend(lines).unwrap();
    ban(&state, "203.0.113.1").await.unwrap();
    let client: std::net::IpAddr = "203.0.113.1".parse().unwrap();
    let question = Question { ban: Some(Client::Address(client.into())), ..Question::default() };
    assert!(backend(lines).unwrap().ask(&question, NOW).await.unwrap().ban.is_some());
}

#[track_caller]
fn is_refusal(result: &Result<(), StateError>) {
    assert!(matches!(result, Err(StateError::Unavailable(_))), "{result:?}");
}

#[tokio::test]
async fn tls_with_an_authority_of_our_own() {
    let certificates = Certificates::make();
    let (_server, port) = tls_server(&certificates, "server", "no", &[]);
    let url = format!("rediss://127.0.0.1:{port}");
    let with = |file: &str| format!("  tls: {{ca_file: '{}'}}\n", certificates.path(file));
    works(&strict(&url, &with("ca.crt"))).await;
    is_refusal(&ban(&backend(&strict(&url, &with("other.crt"))).unwrap(), "203.0.113.2").await);
    // The authorities of the system do not know ours.
    is_refusal(&ban(&backend(&strict(&url, "  database: 0\n")).unwrap(), "203.0.113.2").await);
    works(&strict(&url, "  tls: {insecure_accept_any_certificate: true}\n")).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let certificates = Certificates::make();
    let (_server, port) = tls_server(&certificates, "server", "yes", &[]);
    let url = format!("rediss://127.0.0.1:{port}");
    let ca = format!("ca_file: '{}'", certificates.path("ca.crt"));
    let own =
        format!("cert_file: '{}', key_file: '{}'", certificates.path("client.crt"), certificates.path("client.key"));
    is_refusal(&ban(&backend(&strict(&url, &format!("  tls: {{{ca}}}\n"))).unwrap(), "203.0.113.2").await);
    works(&strict(&url, &format!("  tls: {{{ca}, {own}}}\n"))).await;
}

#[tokio::test]
async fn the_name_in_the_certificate_may_be_another_than_the_host() {
    let certificates = Certificates::make();
    let (server, port) = tls_server(&certificates, "named", "no", &[]);
    let url = format!("rediss://127.0.0.1:{port}");
    let ca = format!("ca_file: '{}'", certificates.path("ca.crt"));
    is_refusal(&ban(&backend(&strict(&url, &format!("  tls: {{{ca}}}\n"))).unwrap(), "203.0.113.2").await);
    let wrong = strict(&url, &format!("  tls: {{{ca}, server_name: other.test}}\n"));
    is_refusal(&ban(&backend(&wrong).unwrap(), "203.0.113.2").await);
    let lines = strict(&url, &format!("  tls: {{{ca}, server_name: redis.test}}\n"));
    works(&lines).await;
    pushes(&lines, || {
        server.cli(&["client", "kill", "type", "pubsub"]);
        server.cli(&["client", "kill", "type", "normal", "skipme", "yes"]);
    })
    .await;
}

/// Pushes arrive, also after `cut` broke the connections.
async fn pushes(lines: &str, cut: impl Fn()) {
    let state = Arc::new(backend(lines).unwrap());
    let upkeep = Arc::clone(&state);
    let upkeep = tokio::spawn(async move { upkeep.maintain(|| NOW).await });
    let other = backend(lines).unwrap();
    for who in ["203.0.113.108", "203.0.113.109"] {
        let Backend::Redis(redis) = &*state else { panic!("strict") };
        eventually_async("it listens", async || redis.is_listening()).await;
        eventually_async("the ban is written", async || ban(&other, who).await.is_ok()).await;
        let client: std::net::IpAddr = who.parse().unwrap();
        let arrives = async || {
            // It may have been sent while nobody listened.
            ban(&other, who).await.ok();
            redis.known_ban(Client::Address(client.into()), NOW).is_some()
        };
        eventually_async("the ban is pushed", arrives).await;
        cut();
    }
    upkeep.abort();
}

#[tokio::test]
async fn an_acl_user_with_its_password_in_a_file() {
    let server = Server::start(&["--requirepass", "admin"]);
    // The rights that docs/configuration.md asks for.
    let rights = [
        "~p:*",
        "&p:*",
        "-@all",
        "+@read",
        "+@write",
        "+@scripting",
        "+@pubsub",
        "+@connection",
        "-@dangerous",
        "+ping",
    ];
    let mut acl = vec!["-a", "admin", "acl", "setuser", "guard", "on", ">s3cret"];
    acl.extend(rights);
    assert_eq!(server.cli(&acl), "OK");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let section = format!("  username: guard\n  password_file: '{}'\n  database: 3\n", file.display());
    works(&strict(&server.url(), &section)).await;
    assert_eq!(server.cli(&["-a", "admin", "-n", "3", "keys", "*"]), "p:banned_ips:203.0.113.1");
    std::fs::write(&file, "wrong").unwrap();
    let error = ban(&backend(&strict(&server.url(), &section)).unwrap(), "203.0.113.2").await.unwrap_err();
    assert!(!error.to_string().contains("wrong"), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = backend(&strict(&server.url(), &section)).unwrap_err();
    assert!(error.contains("redis.password_file: cannot be read"), "{error}");
}

#[tokio::test]
async fn a_restricted_user_keeps_the_whole_contract() {
    let server = Server::start(&["--requirepass", "admin"]);
    let rights = "~*|&*|-@all|+@read|+@write|+@scripting|+@pubsub|+@connection|-@dangerous|+ping";
    let mut acl = vec!["-a", "admin", "acl", "setuser", "guard", "on", ">s3cret"];
    acl.extend(rights.split('|'));
    assert_eq!(server.cli(&acl), "OK");
    let url = server.url();
    every_case(async |case| {
        let lines = strict(&url, "  username: guard\n  password: s3cret\n");
        backend(&lines.replace("'p:'", &format!("'{case}:'"))).unwrap()
    })
    .await;
}

/// Arguments of a server that speaks only TLS on `port`, with the certificate `name`.
fn only_tls(certificates: &Certificates, name: &str, port: u16) -> Vec<String> {
    let mut all = vec!["--port".to_owned(), "0".to_owned(), "--tls-port".to_owned(), port.to_string()];
    all.extend(certificates.server(name, "no"));
    all
}

/// One sentinel that knows the master at `port`; both speak only TLS, with the certificate `name`.
fn tls_sentinel(certificates: &Certificates, name: &str, port: u16) -> Server {
    let lines = format!(
        "tls-replication yes\nsentinel monitor fleet 127.0.0.1 {port} 1\nsentinel auth-pass fleet s3cret\n\
         requirepass w4tch\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no\n",
        certificates.path(&format!("{name}.crt")),
        certificates.path(&format!("{name}.key")),
        certificates.path("ca.crt"),
    );
    let sentinel = start_sentinel_with(&lines, Some(&ca(certificates)));
    eventually("the sentinel knows the master", || {
        sentinel.cli(&["-a", "w4tch", "sentinel", "get-master-addr-by-name", "fleet"]).contains(&port.to_string())
    });
    sentinel
}

#[tokio::test]
async fn sentinels_and_master_behind_tls_with_passwords() {
    let certificates = Certificates::make();
    for (name, tls) in [("server", ""), ("named", ", server_name: redis.test")] {
        let port = free_port();
        let mut arguments = only_tls(&certificates, name, port);
        arguments.extend(["--requirepass", "s3cret", "--masterauth", "s3cret"].map(str::to_owned));
        let master = Server::start_tls(port, &arguments, &ca(&certificates));
        eventually("the master answers", || master.cli(&["-a", "s3cret", "ping"]) == "PONG");
        let sentinel = tls_sentinel(&certificates, name, port);
        let url = "rediss://:s3cret@ignored.test:1";
        // The first sentinel is gone.
        let section = |password: &str, tls: &str| {
            format!(
                "  topology: sentinel\n  sentinels: ['rediss://127.0.0.1:{}', 'rediss://127.0.0.1:{}']\n  master: fleet\n  \
                 sentinel_password: {password}\n  tls: {{ca_file: '{}'{tls}}}\n",
                free_port(),
                sentinel.port,
                certificates.path("ca.crt"),
            )
        };
        works(&strict(url, &section("w4tch", tls))).await;
        pushes(&strict(url, &section("w4tch", tls)), || {
            master.cli(&["-a", "s3cret", "client", "kill", "type", "pubsub"]);
            master.cli(&["-a", "s3cret", "client", "kill", "type", "normal", "skipme", "yes"]);
        })
        .await;
        let wrong = if name == "named" {
            [("w4tch", ""), ("w4tch", ", server_name: other.test")]
        } else {
            [("wrong", tls), ("w4tch", ", server_name: other.test")]
        };
        for (password, tls) in wrong {
            let wrong = backend(&strict(url, &section(password, tls))).unwrap();
            is_refusal(&ban(&wrong, "203.0.113.2").await);
        }
        // A user who may not ask for the role of the server.
        let mut acl = vec!["-a", "s3cret", "acl", "setuser", "guard", "on", ">gu4rd", "~p:*", "&p:*", "-@all"];
        acl.extend(["+@read", "+@write", "+@scripting", "+@pubsub", "+@connection", "-@dangerous", "+ping"]);
        assert_eq!(master.cli(&acl), "OK");
        works(&strict("rediss://guard:gu4rd@ignored.test:1", &section("w4tch", tls))).await;
    }
}

#[tokio::test]
async fn a_cluster_behind_tls() {
    let certificates = Certificates::make();
    for (name, tls, user) in [("server", "", ""), ("named", ", server_name: redis.test", "guard:s3cret@")] {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let nodes: Vec<Server> = ports
            .iter()
            .map(|port| {
                let mut all = only_tls(&certificates, name, *port);
                let more = ["--tls-cluster", "yes", "--tls-replication", "yes", "--cluster-enabled", "yes"];
                all.extend(more.map(str::to_owned));
                all.extend(["--cluster-port".to_owned(), free_port().to_string()]);
                Server::start_tls(*port, &all, &ca(&certificates))
            })
            .collect();
        let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let created = Command::new("redis-cli")
            .args(["--tls", "--cacert", &certificates.path("ca.crt"), "--cluster", "create"])
            .args(&addresses)
            .arg("--cluster-yes")
            .output()
            .unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        eventually("the cluster is well", || {
            nodes.iter().all(|node| node.cli(&["cluster", "info"]).contains("cluster_state:ok"))
        });
        if !user.is_empty() {
            for node in &nodes {
                node.cli(&["acl", "setuser", "guard", "on", ">s3cret", "~*", "&*", "+@all"]);
                assert_eq!(node.cli(&["acl", "setuser", "default", "resetpass", ">other"]), "OK");
            }
        }
        let section = |tls: &str| {
            format!(
                "  topology: cluster\n  nodes: ['rediss://{}', 'rediss://{}']\n  tls: {{ca_file: '{}'{tls}}}\n",
                addresses[0],
                addresses[1],
                certificates.path("ca.crt"),
            )
        };
        let url = format!("rediss://{user}{}", addresses[2]);
        works(&strict(&url, &section(tls))).await;
        let state = backend(&strict(&url, &section(tls))).unwrap();
        for number in 0..60 {
            ban(&state, &format!("203.0.113.{number}")).await.unwrap();
        }
        let size = |node: &Server| match user {
            "" => node.cli(&["dbsize"]),
            _ => node.cli(&["--user", "guard", "--pass", "s3cret", "--no-auth-warning", "dbsize"]),
        };
        assert!(nodes.iter().all(|node| size(node).parse::<u32>().unwrap() > 5), "every node holds keys");
        pushes(&strict(&url, &section(tls)), || ()).await;
        let wrong = if user.is_empty() { ", server_name: other.test" } else { "" };
        is_refusal(&ban(&backend(&strict(&url, &section(wrong))).unwrap(), "203.0.113.2").await);
        // guard-core's own way to say the same, in the URL.
        let lenient = format!("{url}?ssl_ca_certs={}&ssl_check_hostname=false", certificates.path("ca.crt"));
        works(&strict(&lenient, "  topology: cluster\n")).await;
    }
}

#[tokio::test]
async fn the_url_may_say_what_guard_cores_says() {
    let certificates = Certificates::make();
    let (_server, port) = tls_server(&certificates, "named", "yes", &[]);
    let path = |name: &str| certificates.path(name).replace('/', "%2F");
    let own = format!("ssl_certfile={}&ssl_keyfile={}", path("client.crt"), path("client.key"));
    let url = |options: &str| format!("rediss://127.0.0.1:{port}?{own}&{options}");
    let database = "  database: 0\n";
    works(&strict(&url("ssl_cert_reqs=none"), database)).await;
    let file = certificates.folder.path().join("guard.yaml");
    std::fs::write(&file, strict(&url("ssl_cert_reqs=none"), database)).unwrap();
    let loaded = config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
    assert!(
        loaded.warnings.iter().any(|warning| warning.to_string().contains("`ssl_cert_reqs=none` lets others pose"))
    );
    works(&strict(&url(&format!("ssl_ca_certs={}&ssl_check_hostname=False", path("ca.crt"))), database)).await;
    for wrong in [format!("ssl_ca_certs={}", path("ca.crt")), "ssl_check_hostname=False".to_owned()] {
        is_refusal(&ban(&backend(&strict(&url(&wrong), database)).unwrap(), "203.0.113.2").await);
    }
}

#[test]
fn contradictions_are_named() {
    for (section, url, expected) in [
        ("  topology: sentinel\n", "redis://h", &["redis.sentinels", "redis.master"][..]),
        ("  sentinels: ['redis://h']\n", "redis://h", &["redis.sentinels"]),
        ("  nodes: ['redis://h']\n", "redis://h", &["redis.nodes"]),
        ("  topology: cluster\n  database: 1\n", "redis://h", &["redis.database"]),
        ("  topology: cluster\n", "unix:///run/redis.sock", &["security.redis_url"]),
        ("  password: s3cret\n  password_file: /run/secret\n", "redis://h", &["redis.password_file"]),
        ("  tls: {ca_file: /ca}\n", "redis://h", &["redis.tls"]),
        ("  tls: {cert_file: /crt}\n", "rediss://h", &["redis.tls.cert_file"]),
        ("  tls: {ca_file: /ca, insecure_accept_any_certificate: true}\n", "rediss://h", &["redis.tls.ca_file"]),
    ] {
        let error = backend(&strict(url, section)).unwrap_err();
        for key in expected {
            assert!(error.contains(&format!("{key}: ")) && error.contains("cross-field"), "{section}: {error}");
        }
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn an_unusable_certificate_stops_the_start() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, "no certificate").unwrap();
    let error = backend(&strict("rediss://127.0.0.1:1", &format!("  tls: {{ca_file: '{}'}}\n", file.display())));
    assert!(error.is_err(), "{error:?}");
}

fn ca(certificates: &Certificates) -> PathBuf {
    Path::new(&certificates.path("ca.crt")).to_owned()
}

/// Waits, bounded, until `holds`, while other tasks run.
async fn eventually_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(30), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
