//! The agent against a server that answers as it is told: batches, attempts, pauses, what a full buffer loses, the end.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;
use crate::net::client::Options;
use crate::telemetry::events::system;

/// How long anything may take before a test calls it lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request, its body as it was sent.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    headers: String,
    body: Vec<u8>,
}

impl Seen {
    fn events(&self) -> usize {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        body["events"].as_array().map_or(0, Vec::len)
    }
}

/// A server that answers with these statuses in turn, and 200 after them.
#[derive(Debug, Default)]
struct Site {
    port: u16,
    statuses: Mutex<Vec<u16>>,
    seen: Mutex<Vec<Seen>>,
    came: Notify,
    /// Held back until it is notified, when it is told to wait.
    may_answer: Option<Notify>,
}

impl Site {
    async fn start(statuses: &[u16]) -> Arc<Self> {
        Self::of(Self { statuses: Mutex::new(statuses.iter().rev().copied().collect()), ..Self::default() }).await
    }

    async fn of(site: Self) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Arc::new(Self { port: listener.local_addr().unwrap().port(), ..site });
        let shared = Arc::clone(&site);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(Arc::clone(&shared), stream));
            }
        });
        site
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Events of each request to the path of events.
    fn batches(&self) -> Vec<usize> {
        self.seen().iter().filter(|seen| seen.path == "/api/v1/events").map(Seen::events).collect()
    }

    /// Waits for so many requests.
    async fn wait_for(&self, count: usize) {
        let all = async {
            while self.seen().len() < count {
                self.came.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{:?}", self.seen()));
    }
}

async fn serve(site: Arc<Site>, mut stream: TcpStream) {
    let mut bytes = Vec::new();
    loop {
        let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        };
        let headers = String::from_utf8(bytes[..head].to_vec()).unwrap().to_lowercase();
        let length =
            headers.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse::<usize>().unwrap();
        while bytes.len() < head + 4 + length {
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
        }
        let body = bytes[head + 4..head + 4 + length].to_vec();
        bytes.drain(..head + 4 + length);
        let path = headers.split(' ').nth(1).unwrap().to_owned();
        site.seen.lock().unwrap().push(Seen { path, headers, body });
        site.came.notify_one();
        if let Some(may_answer) = &site.may_answer {
            may_answer.notified().await;
        }
        let status = site.statuses.lock().unwrap().pop().unwrap_or(200);
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn settings(site: &Site, more: &str) -> Settings {
    let text = format!(
        r#"{{"enable_agent": true, "agent_api_key": "key", "agent_endpoint": "http://127.0.0.1:{}",
             "agent_install_id": "id", "agent_compression_enabled": false{more}}}"#,
        site.port
    );
    Settings::of(&serde_json::from_str(&text).unwrap()).unwrap().unwrap()
}

fn client() -> Client {
    Client::new(&Options { connect_timeout: PATIENCE, ..Options::default() }).unwrap()
}

fn event() -> Arc<Event> {
    Arc::new(system::script_reloaded(Timestamp(1e9)))
}

/// A lane of four events.
fn lane(settings: &Arc<Settings>) -> Lane<Arc<Event>> {
    let queue = Buffer::new(9, 9, Full::DropOldest, Arc::default());
    (0..4).for_each(|_| queue.push(event()));
    Lane::new(queue, Link::new(client(), Arc::clone(settings)))
}

/// An agent under way: its events, its end.
struct Running {
    events: Buffer<Arc<Event>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(settings: Settings) -> Self {
        let bus = Arc::new(Bus::default());
        let agent = Agent::new(settings, client(), &bus);
        let (stop, stopped) = watch::channel(false);
        let events = agent.events().unwrap();
        let task = tokio::spawn(agent.run(Arc::new(Metrics::new("1")), bus, stopped));
        Self { events, stop, task }
    }

    /// Ends it, and says what became of its events: delivered, lost.
    async fn end(self) -> [u64; 2] {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        let [delivered, lost, ..] = self.events.tally().read();
        [delivered, lost]
    }
}

#[tokio::test]
async fn a_batch_goes_when_enough_wait_and_else_with_the_interval() {
    let site = Site::start(&[]).await;
    let calm = Settings { interval: Duration::from_secs(3600), buffer: 10, mark: 5, ..settings(&site, "") };
    let agent = Running::start(calm);
    (0..5).for_each(|_| agent.events.push(event()));
    site.wait_for(1).await;
    agent.events.push(event());
    assert_eq!(agent.end().await, [6, 0]);
    assert_eq!(site.batches(), [5, 1], "the rest at the end");

    let site = Site::start(&[]).await;
    let brisk = Settings { interval: Duration::from_millis(50), buffer: 10, mark: 5, ..settings(&site, "") };
    let agent = Running::start(brisk);
    agent.events.push(event());
    site.wait_for(1).await;
    assert_eq!((agent.end().await, site.batches()), ([1, 0], vec![1]));
}

#[tokio::test]
async fn a_batch_is_tried_again_as_it_is_and_then_waits() {
    let site = Site::start(&[503, 500]).await;
    let more = r#", "agent_payload_signing_secret": "s", "agent_retry_attempts": 2, "agent_backoff_factor": 0.01"#;
    let settings = Arc::new(settings(&site, more));
    let mut one = lane(&settings);
    assert_eq!(one.flush(&settings, false).await, Ok(()));
    assert_eq!((one.queue.tally().read(), one.streak, one.rests_until), ([4, 0, 0, 0], 0, None));
    let seen = site.seen();
    assert_eq!(seen.len(), 3);
    let signature =
        |seen: &Seen| seen.headers.lines().find(|line| line.starts_with("x-payload-signature")).map(str::to_owned);
    assert!(signature(&seen[0]).is_some());
    for again in &seen[1..] {
        assert_eq!(
            (&again.body, signature(again)),
            (&seen[0].body, signature(&seen[0])),
            "the same batch, the same id"
        );
    }

    let site = Site::start(&[503; 4]).await;
    let settings = Arc::new(Settings { interval: Duration::from_secs(40), ..self::settings(&site, more) });
    let mut one = lane(&settings);
    assert_eq!(one.flush(&settings, false).await, Err("status 503".to_owned()));
    assert_eq!((one.queue.tally().read(), site.seen().len()), ([0, 0, 1, 4], 3), "all are kept");
    let rest =
        |lane: &Lane<Arc<Event>>| lane.rests_until.unwrap().saturating_duration_since(clock::instant()).as_secs();
    assert!((30..=40).contains(&rest(&one)), "{}", rest(&one));
    assert_eq!(one.flush(&settings, false).await, Ok(()));
    assert_eq!(site.seen().len(), 3, "it rests");
    assert!(one.flush(&settings, true).await.is_err());
    assert_eq!((site.seen().len(), one.streak), (4, 2), "one attempt at the end, all the same");
    assert!((70..=80).contains(&rest(&one)), "twice as long: {}", rest(&one));
    one.streak = 30;
    site.statuses.lock().unwrap().push(503);
    assert!(one.flush(&settings, true).await.is_err());
    assert!(rest(&one) <= REST_MAX.as_secs());
}

#[tokio::test]
async fn what_is_too_large_is_halved_and_what_is_refused_is_lost() {
    let site = Site::start(&[413, 200, 413]).await;
    let settings = Arc::new(settings(&site, ""));
    let mut one = lane(&settings);
    assert_eq!(one.flush(&settings, false).await, Ok(()));
    assert_eq!((site.batches(), one.queue.tally().read()), (vec![4, 2, 2, 1, 1], [4, 0, 0, 0]));
    for status in [400, 404, 422] {
        let site = Site::start(&[status]).await;
        let settings = Arc::new(self::settings(&site, ""));
        let mut one = lane(&settings);
        assert_eq!(one.flush(&settings, false).await, Ok(()));
        assert_eq!((site.batches(), one.queue.tally().read()), (vec![4], [0, 4, 0, 0]), "{status}");
    }
    let small = r#", "agent_max_payload_size": 10"#;
    let site = Site::start(&[]).await;
    let settings = Arc::new(self::settings(&site, small));
    let mut one = lane(&settings);
    assert_eq!(one.flush(&settings, false).await, Ok(()));
    assert_eq!((site.seen().len(), one.queue.tally().read()), (0, [0, 4, 0, 0]), "no event is small enough");
}

#[tokio::test]
async fn a_full_buffer_loses_what_its_policy_says() {
    let site = Site::start(&[]).await;
    for (policy, kept) in [("drop", [2, 3]), ("block", [0, 1]), ("raise", [0, 1])] {
        let more = format!(r#", "agent_buffer_overflow_policy": "{policy}""#);
        let few = Settings { buffer: 2, mark: 9, ..settings(&site, &more) };
        let agent = Agent::new(few, client(), &Bus::default());
        let (events, queue) = ((0..4).map(|_| event()).collect::<Vec<_>>(), agent.events().unwrap());
        events.iter().for_each(|event| queue.push(Arc::clone(event)));
        assert_eq!(queue.tally().read(), [0, 2, 0, 2], "{policy}");
        let keys = |events: &[Arc<Event>]| events.iter().map(|event| event.key).collect::<Vec<_>>();
        let expected: Vec<_> = kept.iter().map(|index| events[*index].key).collect();
        assert_eq!(keys(&queue.take(9)), expected, "{policy}");
    }
}

#[tokio::test]
async fn an_attempt_under_way_at_the_end_may_finish_and_a_silent_server_is_left() {
    let site = Site::of(Site { may_answer: Some(Notify::new()), ..Site::default() }).await;
    let settings = || Settings { interval: Duration::from_secs(3600), buffer: 10, mark: 1, ..settings(&site, "") };
    let agent = Running::start(settings());
    agent.events.push(event());
    site.wait_for(1).await;
    agent.stop.send_replace(true);
    site.may_answer.as_ref().unwrap().notify_one();
    assert_eq!((agent.end().await, site.batches()), ([1, 0], vec![1]), "sent once");

    // Two attempts, the one under way and the last, for a time that is bounded; then it is lost.
    let agent = Running::start(Settings { timeout: GRACE, ..settings() });
    agent.events.push(event());
    site.wait_for(2).await;
    assert_eq!((agent.end().await, site.batches()), ([0, 1], vec![1, 1, 1]));
}
