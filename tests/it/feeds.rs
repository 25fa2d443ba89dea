//! Feeds against servers that are slow, huge, broken, lying or gone: the last good data stays in force.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_guard::clock;
use envoy_guard::config::Config;
use envoy_guard::feeds::board::{Board, Row};
use envoy_guard::feeds::fetch::Location;
use envoy_guard::feeds::list::Bounds;
use envoy_guard::feeds::plan::{Feed, Plan, Subject};
use envoy_guard::feeds::refresh::{Following, InForce, Update, follow};
use envoy_guard::model::addr::ClientAddr;
use envoy_guard::model::place::{Countries, Provider};
use envoy_guard::net::client::{Client, Options};
use envoy_guard::state::Backend;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::mmdb;
use crate::redis_servers::{Server, eventually};
use crate::stack::{Call, Stack, free_port, guard, policy};

/// How a web server answers.
#[derive(Clone)]
pub(crate) enum Web {
    /// 200 with these header lines and this body.
    Ok(&'static str, Vec<u8>),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// Nothing, for as long as the asker waits.
    Silence,
    /// A body without an end.
    Endless,
}

/// A web server whose answer can be changed, and that keeps what it was asked.
pub(crate) struct Site {
    pub(crate) port: u16,
    answer: Arc<Mutex<Web>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Site {
    pub(crate) fn start(answer: Web) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let site = Self { port, answer: Arc::new(Mutex::new(answer)), asked: Arc::default() };
        let (answer, asked) = (Arc::clone(&site.answer), Arc::clone(&site.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream, &answer, &asked).unwrap_or_default());
            }
        });
        site
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn now(&self, answer: Web) {
        *self.answer.lock().unwrap() = answer;
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answer: &Mutex<Web>, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut question = Vec::new();
    let mut byte = [0];
    while !question.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        question.push(byte[0]);
    }
    asked.lock().unwrap().push(String::from_utf8_lossy(&question).into_owned());
    let answer = answer.lock().unwrap().clone();
    match answer {
        Web::Ok(headers, body) => {
            let length = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n")?;
            stream.write_all(&body)
        }
        Web::Raw(bytes) => stream.write_all(&bytes),
        Web::Silence => stream.read_exact(&mut byte),
        Web::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            loop {
                stream.write_all(&[b'\n'; 65536])?;
            }
        }
    }
}

fn feed(subject: Subject, site: &Site) -> Feed {
    Feed {
        subject,
        location: Location::Url(site.url("/feed")),
        every: Duration::from_millis(40),
        is_shared: false,
        token: None,
        kept: None,
    }
}

fn list() -> Subject {
    Subject::List("bad".to_owned(), Bounds { entries_max: 1000, bad_lines_max: 3 })
}

fn memory() -> Backend {
    let mut config = Config::default();
    config.security.enable_redis = false;
    Backend::new(&config).unwrap()
}

/// Feeds that are followed, and their board.
struct Watched {
    board: Arc<Board>,
    following: Following,
}

impl Watched {
    fn start(feed: Feed, state: Backend) -> Self {
        let plan = Plan { feeds: vec![feed], is_lazy: false };
        let board = Arc::new(Board::default());
        let client = Client::new(&Options::default()).unwrap();
        let shared = (Arc::clone(&board), Arc::new(state));
        let following = follow((&plan, &InForce::new()), Some(client), shared, clock::now);
        Self { board, following }
    }

    /// Waits for the next news and takes it.
    async fn news(&mut self) -> Update {
        let news = tokio::time::timeout(Duration::from_secs(30), self.following.news.recv()).await;
        let (news, taken) = news.unwrap_or_else(|_| panic!("no news: {:?}", self.board.rows())).unwrap();
        taken.send(true).unwrap();
        news.update
    }

    fn row(&self) -> Row {
        self.board.rows().into_values().next().unwrap()
    }

    /// Waits until the feed is as `holds` wants it, while nothing new may come.
    async fn until(&mut self, what: &str, holds: impl Fn(&Row) -> bool) -> Row {
        for _ in 0..3000 {
            let row = self.row();
            if holds(&row) {
                return row;
            }
            assert!(self.following.news.try_recv().is_err(), "{what}: no news were expected");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {:?}", self.row());
    }
}

fn addr(text: &str) -> ClientAddr {
    text.parse::<IpAddr>().unwrap().into()
}

#[tokio::test]
async fn whatever_a_server_does_the_last_good_list_stays() {
    let good = Web::Ok("etag: \"1\"\r\n", b"# list\n192.0.2.1\n198.51.100.0/24 ; why\n".to_vec());
    let site = Site::start(good.clone());
    let mut watched = Watched::start(feed(list(), &site), memory());
    let Update::List(name, entries) = watched.news().await else { panic!("a list") };
    assert_eq!((&*name, entries.find(addr("198.51.100.9")).map(|(_, line)| line)), ("bad", Some(3)));
    watched.until("first", |row| row.entries == 2 && row.origin == "url").await;

    site.now(Web::Raw(b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_vec()));
    let before = site.asked().len();
    let since = clock::now().0;
    watched.until("confirmed", |row| since < row.last_success).await;
    let asked = &site.asked()[before..];
    assert!(asked.iter().all(|text| text.contains("if-none-match: \"1\"")), "{asked:?}");

    let mut cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec();
    cut.extend(b"203.0.113.1\n");
    let html = b"<html>\n<body>\n<h1>sorry</h1>\n</body>\n</html>\n".to_vec();
    let hostile: [(&str, Web); 12] = [
        ("silence, and the end", Web::Raw(b"HTTP/1.1 200 OK\r\n".to_vec())),
        ("nothing", Web::Raw(Vec::new())),
        ("an error page", Web::Ok("", html)),
        ("an empty body", Web::Ok("", Vec::new())),
        ("cut", Web::Raw(cut)),
        ("500", Web::Raw(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec())),
        (
            "a circle",
            Web::Raw(
                b"HTTP/1.1 302 Found\r\nlocation: /feed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec(),
            ),
        ),
        ("a bomb", Web::Ok("content-encoding: gzip\r\n", bomb())),
        ("bytes that do not inflate", Web::Ok("content-encoding: br\r\n", vec![0xFF; 1000])),
        ("an endless body", Web::Endless),
        ("too many entries", Web::Ok("", b"192.0.2.1\n".repeat(1001))),
        ("not a list", Web::Ok("", vec![0; 10_000])),
    ];
    for (name, answer) in hostile {
        forget_peak();
        let at_rest = resident_kib("VmRSS:");
        site.now(answer);
        let row = watched.until(name, |row| 0 < row.failing).await;
        let grown = resident_kib(PEAK).saturating_sub(at_rest);
        println!("{name}: at most {} MiB more than the {} MiB at rest", grown >> 10, at_rest >> 10);
        assert!(grown < GROWTH_KIB_MAX, "{name}: {grown} KiB");
        assert_eq!((row.entries, row.origin), (2, "url"), "{name}");
        assert!(!row.error.is_empty() && row.error.len() < 400, "{name}: {}", row.error);
        site.now(good.clone());
        watched.until("well again", |row| row.failing == 0).await;
    }
    site.now(Web::Ok("", b"203.0.113.7\n".to_vec()));
    let Update::List(_, entries) = watched.news().await else { panic!("a list") };
    assert_eq!(entries.len(), 1);
}

/// What an answer may cost while it is read: as much as is taken of a list, as it is sent and as it is inflated, and as much
/// again while a buffer grows.
const GROWTH_KIB_MAX: u64 = 4 * (128 << 10);
const PEAK: &str = "VmHWM:";

/// A line of this process' own status, in KiB.
fn resident_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Lets the peak begin anew.
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// More empty lines than a list may have bytes, in a few kilobytes.
fn bomb() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    (0..129).for_each(|_| encoder.write_all(&vec![b'\n'; 1 << 20]).unwrap());
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_start_without_network_begins_with_what_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("cache/list-bad.txt");
    let site = Site::start(Web::Ok("", b"192.0.2.1\n192.0.2.2\n".to_vec()));
    let keeping = || Feed { kept: Some(kept.clone()), ..feed(list(), &site) };
    let mut watched = Watched::start(keeping(), memory());
    watched.news().await;
    watched.until("loaded", |row| row.entries == 2).await;
    drop(watched);
    assert!(kept.is_file());

    site.now(Web::Raw(Vec::new()));
    let mut watched = Watched::start(keeping(), memory());
    let Update::List(_, entries) = watched.news().await else { panic!("a list") };
    assert_eq!(entries.len(), 2);
    let row = watched.until("fails", |row| 0 < row.failing).await;
    assert_eq!((row.origin, row.entries), ("disk", 2));
    assert!(0.0 < row.last_success && row.last_success <= clock::now().0);
    assert!(watched.board.is_ready(clock::now()), "old data and one attempt are enough");
    drop(watched);

    std::fs::write(&kept, "<html>\n".repeat(9)).unwrap();
    let mut watched = Watched::start(keeping(), memory());
    let row = watched.until("nothing to begin with", |row| 0 < row.failing).await;
    assert_eq!((row.origin, row.entries), ("none", 0));
}

#[tokio::test]
async fn files_are_followed_and_bad_ones_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("AWS.txt");
    let site = Site::start(Web::Silence);
    let replace = |text: &str| {
        let next = folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    replace("3.0.0.0/8|us-east-1\n");
    let location = Location::File(path.clone());
    let mut watched = Watched::start(Feed { location, ..feed(Subject::Cloud(Provider::Aws), &site) }, memory());
    let Update::Cloud(Provider::Aws, networks) = watched.news().await else { panic!("ranges of AWS") };
    assert_eq!(networks.len(), 1);
    replace("3.0.0.0/8|us-east-1\n4.0.0.0/8\n");
    let Update::Cloud(_, networks) = watched.news().await else { panic!("ranges") };
    assert_eq!(networks.len(), 2);
    for bad in ["3.0.0.1/8\n", "", "{\"prefixes\": 7}"] {
        replace(bad);
        let row = watched.until(bad, |row| 0 < row.failing).await;
        assert_eq!(row.entries, 2, "{bad}");
        replace("3.0.0.0/8|us-east-1\n4.0.0.0/8\n");
        watched.until("well again", |row| row.failing == 0).await;
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(watched.until("gone", |row| 0 < row.failing).await.entries, 2);
    assert!(site.asked().is_empty());
}

#[tokio::test]
async fn azures_page_leads_to_the_newest_file() {
    let site = Site::start(Web::Silence);
    let file = |date: &str| site.url(&format!("/ServiceTags_Public_{date}.json"));
    let page = format!("<a href=\"{}\">old</a><a href='{}'>new</a>", file("20240101"), file("20260101"));
    let azure = r#"{"values":[{"name":"AzureCloud","properties":{"addressPrefixes":["4.144.0.0/17"]}}]}"#;
    site.now(Web::Ok("", page.clone().into_bytes()));
    let mut watched = Watched::start(feed(Subject::Cloud(Provider::Azure), &site), memory());
    // The page is what the file's place gives too: no file, so nothing is taken.
    watched.until("a page is no file", |row| 0 < row.failing).await;
    let asked = site.asked();
    assert!(asked.iter().any(|text| text.starts_with("GET /ServiceTags_Public_20260101.json ")), "{asked:?}");
    assert!(asked.iter().all(|text| !text.contains("20240101.json ")), "{asked:?}");
    assert!(asked.iter().any(|text| text.contains("Mozilla/5.0")), "{asked:?}");
    site.now(Web::Ok("", azure.into()));
    let Update::Cloud(Provider::Azure, networks) = watched.news().await else { panic!("ranges of Azure") };
    assert_eq!(networks.len(), 1);
}

fn redis(server: &Server) -> Backend {
    let config = format!(r#"{{"security": {{"redis_url": "{}", "redis_prefix": "f:"}}}}"#, server.url());
    Backend::new(&serde_json::from_str(&config).unwrap()).unwrap()
}

#[tokio::test]
async fn one_replica_asks_for_all() {
    let server = Server::start(&[]);
    let ranges =
        r#"{"prefixes":[{"ipv4Prefix":"34.1.0.0/20","scope":"europe-west1"},{"ipv6Prefix":"2600:1900::/35"}]}"#;
    let site = Site::start(Web::Ok("", ranges.into()));
    let gcp =
        || Feed { is_shared: true, every: Duration::from_secs(600), ..feed(Subject::Cloud(Provider::Gcp), &site) };
    let mut first = Watched::start(gcp(), redis(&server));
    first.news().await;
    assert_eq!(first.until("asked", |row| row.entries == 2).await.origin, "url");
    let stored = r#"["2600:1900::/35", "34.1.0.0/20|europe-west1"]"#;
    assert_eq!(server.cli(&["get", "f:cloud_ip_v2:GCP"]), stored);
    let ttl: u64 = server.cli(&["ttl", "f:cloud_ip_v2:GCP"]).parse().unwrap();
    assert!((590..=600).contains(&ttl), "{ttl}");

    let mut second = Watched::start(gcp(), redis(&server));
    let Update::Cloud(Provider::Gcp, networks) = second.news().await else { panic!("ranges of GCP") };
    assert_eq!(networks.len(), 2);
    assert_eq!(second.until("shared", |row| row.entries == 2).await.origin, "redis");
    assert_eq!(site.asked().len(), 1, "one question for two replicas");

    server.cli(&["set", "f:cloud_ip_v2:GCP", "[]"]);
    let mut third = Watched::start(gcp(), redis(&server));
    let Update::Cloud(_, networks) = third.news().await else { panic!("ranges of GCP") };
    assert!(networks.is_empty(), "no ranges is an answer");
    server.cli(&["set", "f:cloud_ip_v2:GCP", r#"["no network"]"#]);
    let mut fourth = Watched::start(gcp(), redis(&server));
    let row = fourth.until("a bad entry", |row| 0 < row.failing).await;
    assert!(row.error.contains("no network"), "{}", row.error);
    assert_eq!(site.asked().len(), 1);
}

/// A database that says CN for one address.
fn database() -> Vec<u8> {
    let countries = BTreeMap::from([(Ipv4Addr::new(198, 51, 100, 9), "CN".to_owned())]);
    mmdb::database(mmdb::Layout::IpInfo, &countries)
}

fn geo(site: &Site, path: &Path) -> Feed {
    Feed {
        every: Duration::from_secs(86_400),
        is_shared: true,
        token: Some("planted-token".to_owned().into()),
        kept: Some(path.to_owned()),
        ..feed(Subject::Countries, site)
    }
}

#[tokio::test]
async fn the_database_is_downloaded_once_and_shared() {
    let (server, folder) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let [first, second] = ["a/first.mmdb", "b/second.mmdb"].map(|name| folder.path().join(name));
    let site = Site::start(Web::Ok("", database()));
    let mut watched = Watched::start(geo(&site, &first), redis(&server));
    let Update::Countries(mmdb) = watched.news().await else { panic!("countries") };
    assert_eq!(mmdb.country(addr("198.51.100.9")).map(|code| code.to_string()).as_deref(), Some("CN"));
    watched.until("downloaded", |row| row.origin == "url").await;
    assert!(site.asked()[0].contains("authorization: Bearer planted-token\r\n"));
    assert_eq!(std::fs::read(&first).unwrap(), database());
    let ttl: u64 = server.cli(&["ttl", "f:ipinfo:database"]).parse().unwrap();
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
    let stored: u64 = server.cli(&["strlen", "f:ipinfo:database"]).parse().unwrap();
    let high = database().iter().filter(|byte| 0x80 <= **byte).count();
    assert_eq!(stored as usize, database().len() + high, "each byte is a code point");

    // What is shared wins over what lies there.
    std::fs::create_dir_all(second.parent().unwrap()).unwrap();
    std::fs::write(&second, "something else").unwrap();
    let mut other = Watched::start(geo(&site, &second), redis(&server));
    other.news().await;
    other.until("shared", |row| row.origin == "redis").await;
    assert_eq!(std::fs::read(&second).unwrap(), database());
    drop(other);

    // A fresh file is enough without Redis, and nobody is asked.
    let mut alone = Watched::start(geo(&site, &second), memory());
    alone.news().await;
    alone.until("fresh", |row| row.origin == "disk" && 0.0 < row.last_success).await;
    assert!(alone.board.is_ready(clock::now()));
    assert_eq!(site.asked().len(), 1);
}

#[tokio::test]
async fn a_database_that_cannot_be_had_is_asked_for_three_times() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(Web::Raw(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()));
    let mut watched = Watched::start(geo(&site, &folder.path().join("x.mmdb")), memory());
    let row = watched.until("refused", |row| 0 < row.failing).await;
    assert!(row.error.contains("403") && !row.error.contains("planted"), "{}", row.error);
    assert_eq!(site.asked().len(), 3);
    assert!(!folder.path().join("x.mmdb").exists());
}

#[test]
fn behind_envoy_fresh_facts_decide() {
    let aws = r#"{"prefixes":[{"ip_prefix":"203.0.113.0/24","service":"AMAZON","region":"eu-west-1"}]}"#;
    let (aws, bad) = (Site::start(Web::Ok("", aws.into())), Site::start(Web::Raw(Vec::new())));
    let (geo, folder) = (Site::start(Web::Ok("", database())), tempfile::tempdir().unwrap());
    let rest = format!(
        "data:\n  cloud_urls: {{AWS: \"{}\"}}\n  country_header: X-Geo-Country\n  geo_url: \"{}\"\n  \
         lists:\n    - {{name: bad, source: \"{}\", interval: 600}}\ntelemetry: {{log_events: INFO}}\n",
        aws.url("/ranges"),
        geo.url("/geo"),
        bad.url("/list")
    );
    let security = format!(
        "block_cloud_providers: [AWS]\nlog_suspicious_level: null\nipinfo_token: planted-token\nipinfo_db_path: {}",
        folder.path().join("geo.mmdb").display()
    );
    // Ready means that every feed was tried.
    let stack = Stack::start(&security, &rest);
    let status = |client: &str| stack.send(&Call::get("/").from(client)).status;
    assert_eq!(status("203.0.113.5"), 403, "in a range of AWS");
    let passed = stack.send(&Call::get("/").from("198.51.100.7").header("x-geo-country", "DE"));
    assert_eq!(passed.status, 200, "the list is not there yet");
    assert!(passed.body.contains("x-geo-country: ZZ") && !passed.body.contains("DE"), "{}", passed.body);

    bad.now(Web::Ok("", b"# spam\n198.51.100.7\n198.51.100.9\n".to_vec()));
    eventually("the list is in force", || status("198.51.100.7") == 403);
    assert_eq!(status("198.51.100.9"), 403);
    eventually("the event says where the client is", || {
        let log = stack.guard.log();
        let mut events = log.lines().filter(|line| line.contains("ip_blocked") && line.contains("198.51.100.9"));
        events.any(|line| line.contains("CN"))
    });
    let page = |path: &str| Call::get(path).send(stack.admin).body;
    let ready: serde_json::Value = serde_json::from_str(&page("/readyz")).unwrap();
    let row = &ready["feeds"]["list:bad"];
    eventually("the board says so", || {
        let ready: serde_json::Value = serde_json::from_str(&page("/readyz")).unwrap();
        ready["feeds"]["list:bad"]["origin"] == "url" && ready["feeds"]["list:bad"]["failing"] == 0
    });
    assert_eq!(row["location"], bad.url("/list"));
    let metrics = page("/metrics");
    for expected in [
        "envoy_guard_feed_entries{feed=\"AWS\"} 1",
        "envoy_guard_feed_failing{feed=\"list:bad\"} 0",
        "envoy_guard_feed_age_seconds{feed=\"AWS\"} ",
        "envoy_guard_feed_failures_total{feed=\"AWS\"} 0",
    ] {
        assert!(metrics.contains(expected), "{expected} in\n{metrics}");
    }
    assert_eq!(stack.guard.log().matches("a feed fails").count(), 1, "{}", stack.guard.log());

    // The configuration is read again while both servers are gone: what they said stays.
    aws.now(Web::Raw(Vec::new()));
    bad.now(Web::Raw(Vec::new()));
    stack.guard.signal("HUP");
    eventually("reloaded", || page("/metrics").contains("envoy_guard_reloads_total{result=\"success\"} 1"));
    assert_eq!((status("203.0.113.5"), status("198.51.100.7"), status("192.0.2.1")), (403, 403, 200));
}

/// With `lazy_init` readiness does not wait for what is slow to come; that it does not come is an event.
#[test]
fn a_lazy_start_does_not_wait_and_tells_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let no = b"HTTP/1.1 403 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    // Three tries with three seconds between the first and the last: an attempt is under way for so long.
    let (geo, silent) = (Site::start(Web::Raw(no)), Site::start(Web::Silence));
    let rest = format!(
        "data: {{geo_url: \"{}\", cloud_urls: {{AWS: \"{}\"}}}}\ntelemetry: {{log_events: INFO}}\n",
        geo.url("/geo"),
        silent.url("/aws")
    );
    let security = format!(
        "lazy_init: true\nblock_cloud_providers: [AWS]\nipinfo_token: planted-token\nipinfo_db_path: {}",
        folder.path().join("geo.mmdb").display()
    );
    let (grpc, admin) = (free_port(), free_port());
    let guard = guard(folder.path(), &policy(&security, &rest, grpc, admin), admin);
    // The server of ranges is silent for ten seconds, and readiness was here before.
    let ready: serde_json::Value = serde_json::from_str(&Call::get("/readyz").send(admin).body).unwrap();
    assert_eq!((&ready["feeds"]["AWS"]["failures"], &ready["feeds"]["AWS"]["origin"]), (&0.into(), &"none".into()));
    eventually("the failure is an event", || {
        let log = guard.log();
        let mut events = log.lines().filter(|line| line.contains("geo_lookup_failed"));
        events.any(|line| line.contains("database_download_failed") && line.contains("403"))
    });
    assert!(!guard.log().contains("planted-token"));
}
