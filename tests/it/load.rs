//! An open load: requests start when they are due, whether or not earlier ones were answered, and every answer counts.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Connections to Envoy: enough for all that may be under way when each waits for the deadline of state.
const CONNECTIONS: usize = 64;
/// Requests a second, unless `TEST_RATE` says otherwise.
const RATE_DEFAULT: u32 = 500;
/// Stands for a connection that broke, in the place of a status.
pub(crate) const BROKEN: u16 = 0;

/// What a request is there to show.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// An ordinary client.
    Clean,
    /// A client whose ban the service knows.
    Banned,
    /// A client that is always over its limit.
    Limited,
}

/// One request of the load.
#[derive(Clone, Debug)]
pub(crate) struct Shot {
    pub(crate) kind: Kind,
    pub(crate) client: String,
    pub(crate) path: &'static str,
}

/// How often each kind got each status, and how long answers took from the moment they were due.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) statuses: BTreeMap<(Kind, u16), u64>,
    times: Vec<Duration>,
}

impl Tally {
    /// How many answers of this kind have a status that `holds`.
    pub(crate) fn count(&self, kind: Kind, holds: impl Fn(u16) -> bool) -> u64 {
        self.statuses.iter().filter(|((own, status), _)| *own == kind && holds(*status)).map(|(_, count)| count).sum()
    }

    /// All answers.
    pub(crate) fn total(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// The time within which this share of the answers came.
    pub(crate) fn quantile(&mut self, share: f64) -> Duration {
        self.times.sort_unstable();
        let last = self.times.len().saturating_sub(1);
        self.times.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }
}

/// A load that runs until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Tally>,
}

impl Load {
    /// Sends what `shot` makes of the numbers 0, 1, 2, ... to a port of this machine.
    pub(crate) fn start(port: u16, shot: impl Fn(u64) -> Shot + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(drive(port, shot, &stopped))
        });
        Self { stop, thread }
    }

    /// Ends the load and waits for the answers that are still due.
    pub(crate) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn drive(port: u16, shot: impl Fn(u64) -> Shot, stop: &AtomicBool) -> Tally {
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        workers.spawn(work(port, Arc::clone(&receiver)));
    }
    let mut ticks = interval(Duration::from_secs(1) / rate());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = ticks.tick().await;
        sender.send((shot(number), due)).unwrap();
        number += 1;
    }
    drop(sender);
    let mut all = Tally::default();
    for own in workers.join_all().await {
        all.times.extend(own.times);
        for (key, count) in own.statuses {
            *all.statuses.entry(key).or_default() += count;
        }
    }
    assert_eq!(all.total(), number, "every request was answered or its connection broke");
    all
}

async fn work(port: u16, shots: Arc<Mutex<mpsc::UnboundedReceiver<(Shot, Instant)>>>) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    loop {
        let next = shots.lock().await.recv().await;
        let Some((shot, due)) = next else { return tally };
        let status = send(&mut connection, port, &shot).await.unwrap_or(BROKEN);
        if status == BROKEN {
            connection = None;
        }
        tally.times.push(due.elapsed());
        *tally.statuses.entry((shot.kind, status)).or_default() += 1;
    }
}

/// Sends one request on the kept connection and reads the whole answer.
async fn send(kept: &mut Option<BufReader<TcpStream>>, port: u16, shot: &Shot) -> std::io::Result<u16> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?)),
    };
    let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: {}\r\n\r\n", shot.path, shot.client);
    connection.write_all(request.as_bytes()).await?;
    let (mut line, mut status, mut length) = (String::new(), BROKEN, 0);
    loop {
        line.clear();
        if connection.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end().to_ascii_lowercase();
        if text.is_empty() {
            break;
        }
        if let Some(rest) = text.strip_prefix("http/1.1 ") {
            status = rest.get(..3).and_then(|code| code.parse().ok()).unwrap_or(BROKEN);
        }
        length = text.strip_prefix("content-length: ").and_then(|text| text.parse().ok()).unwrap_or(length);
        assert!(!text.starts_with("transfer-encoding"), "neither the service nor the application sends chunks");
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await?;
    Ok(status)
}

/// Requests a second.
pub(crate) fn rate() -> u32 {
    std::env::var("TEST_RATE").ok().and_then(|text| text.parse().ok()).unwrap_or(RATE_DEFAULT)
}
