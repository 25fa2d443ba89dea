//! Follows the feeds of a plan: asks on time, keeps the last good data, tells what changed. One task a feed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::feeds::board::{Board, Success};
use crate::feeds::fetch::{Bounds, Found, Known, Location, fetch};
use crate::feeds::geo::Mmdb;
use crate::feeds::plan::{Feed, Plan, Subject};
use crate::feeds::{FILE_BYTES_MAX, azure, cloud, disk, list};
use crate::model::lists::Entries;
use crate::model::place::{Networks, Provider};
use crate::model::time::Timestamp;
use crate::net::client::Client;
use crate::state::formats::{bytes_as_text, cloud_store, text_as_bytes};
use crate::state::redis::Redis;
use crate::state::{Backend, Digest};

/// How long readiness waits for first attempts.
const PATIENCE_SECONDS: f64 = 30.0;
/// First pause after a failure; it doubles with every further one.
const RETRY: Duration = Duration::from_secs(5);
/// The longest pause after failures.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Part of a period by which it may be longer, so that replicas do not all ask at once.
const JITTER: f64 = 0.1;
/// Ranges: AWS has about 2 MB, Azure 4 MB.
const RANGES: Bounds = Bounds { timeout: Duration::from_secs(10), bytes_max: 32 << 20, redirects_max: 3 };
/// Lists: five million lines of 24 bytes.
const LISTS: Bounds = Bounds { timeout: Duration::from_secs(120), bytes_max: 128 << 20, redirects_max: 3 };
/// Databases.
const DATABASES: Bounds =
    Bounds { timeout: Duration::from_secs(300), bytes_max: FILE_BYTES_MAX as usize, redirects_max: 3 };
/// Tries of a database, with pauses of one and two seconds.
const DATABASE_TRIES: u32 = 3;
/// Where participants share the database.
const SHARED_DATABASE: (&str, &str) = ("ipinfo", "database");
/// News that wait to be taken over.
const NEWS_MAX: usize = 16;

/// What a feed brought.
#[derive(Clone, Debug)]
pub struct News {
    /// The feed's name.
    pub feed: String,
    /// Tells this version of its data from any other.
    pub digest: Digest,
    /// The data.
    pub update: Update,
}

/// Data that replaces what was in force.
#[derive(Clone, Debug)]
pub enum Update {
    /// All ranges of a provider.
    Cloud(Provider, Arc<Networks>),
    /// A database of countries.
    Countries(Arc<Mmdb>),
    /// A database of operators.
    Operators(Arc<Mmdb>),
    /// Everything on a list.
    List(String, Arc<Entries>),
}

/// News, and where to say that they are in force.
pub type Delivery = (News, oneshot::Sender<bool>);

/// What is in force at the start: by feed name, so that the same data is not brought again.
pub type InForce = BTreeMap<String, Digest>;

/// The digest of ranges in force.
#[must_use]
pub fn digest_of(networks: &Networks) -> Digest {
    digest(cloud_store(&cloud::entries(networks)).as_bytes())
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// What all tasks share.
#[derive(Debug)]
struct Tools {
    client: Option<Client>,
    board: Arc<Board>,
    store: Arc<Backend>,
    news: mpsc::Sender<Delivery>,
    clock: fn() -> Timestamp,
}

/// The tasks of a plan; dropping it ends them.
#[derive(Debug)]
pub struct Following {
    tasks: JoinSet<()>,
    /// What the feeds bring.
    pub news: mpsc::Receiver<Delivery>,
}

impl Following {
    /// How many feeds are followed.
    #[must_use]
    pub fn feeds(&self) -> usize {
        self.tasks.len()
    }
}

/// Lets `board` know which feeds there will be, so that readiness waits for them, unless the plan is lazy.
pub fn expect(plan: &Plan, board: &Board, now: Timestamp) {
    let patience = if plan.is_lazy { Timestamp::default() } else { now.plus(PATIENCE_SECONDS) };
    board.expect(plan.feeds.iter().map(|feed| (feed.subject.name(), feed.location.shown())), patience);
}

/// Begins to follow a plan. `client` is `None` when nothing can be asked over HTTP.
#[must_use]
pub fn follow(
    (plan, in_force): (&Plan, &InForce),
    client: Option<Client>,
    (board, store): (Arc<Board>, Arc<Backend>),
    clock: fn() -> Timestamp,
) -> Following {
    expect(plan, &board, clock());
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let tools = Arc::new(Tools { client, board, store, news: sender, clock });
    let mut tasks = JoinSet::new();
    for feed in plan.feeds.clone() {
        let name = feed.subject.name();
        let run = Run { in_force: in_force.get(&name).copied(), name, feed: Arc::new(feed), known: Known::default() };
        tasks.spawn(run.follow(Arc::clone(&tools)));
    }
    Following { tasks, news }
}

/// One feed under way.
struct Run {
    name: String,
    feed: Arc<Feed>,
    known: Known,
    in_force: Option<Digest>,
}

/// Data that can be put in force.
struct Content {
    digest: Digest,
    update: Update,
    entries: u64,
    bad_lines: u64,
    /// What is kept of it on disk.
    kept: Vec<u8>,
}

/// Where data came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Origin {
    File,
    Url,
    Redis,
    Disk,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Url => "url",
            Self::Redis => "redis",
            Self::Disk => "disk",
        }
    }
}

/// What an attempt brought.
enum Attempt {
    Same,
    New(Box<Content>, Origin, Known),
}

impl Run {
    async fn follow(mut self, tools: Arc<Tools>) {
        let mut pause = self.restore(&tools).await;
        loop {
            tokio::time::sleep(pause).await;
            pause = match self.attempt(&tools).await {
                Ok(()) => self.period(),
                Err(error) => self.failed(&tools, error),
            };
        }
    }

    /// A little more than the period for what others serve, so that not everybody asks at once.
    fn period(&self) -> Duration {
        match self.feed.location {
            Location::File(_) => self.feed.every,
            Location::Url(_) => jittered(self.feed.every),
        }
    }

    /// Says so when it is new, and tells how long to wait.
    fn failed(&self, tools: &Tools, error: String) -> Duration {
        let failing = tools.board.failed(&self.name, error.clone());
        if failing == 1 {
            tracing::warn!(feed = self.name, error, "a feed fails; its last good data stays in force");
        } else {
            tracing::debug!(feed = self.name, error, failing, "a feed still fails");
        }
        let doublings = u32::try_from(failing.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        jittered(RETRY.saturating_mul(1 << doublings).min(RETRY_MAX).min(self.feed.every))
    }

    /// Puts data of an earlier time in force when there is none yet. Returns how long it stays fresh.
    async fn restore(&mut self, tools: &Tools) -> Duration {
        let is_database = self.feed.subject == Subject::Countries;
        if is_database
            && self.feed.is_shared
            && self.in_force.is_none()
            && let Some(bytes) = shared_database(tools).await
            && let Ok(content) = self.read(bytes).await
        {
            self.keep(&content).await;
            if self.publish(tools, &content).await {
                self.succeeded(tools, &content, Origin::Redis);
                return self.period();
            }
        }
        let Some(path) = self.feed.kept.clone() else { return Duration::ZERO };
        let Some(written) = disk::written(&path) else { return Duration::ZERO };
        if self.in_force.is_none() {
            let read = tokio::task::spawn_blocking(move || super::read(&path)).await;
            let content = match read {
                Ok(Ok(bytes)) => self.read(bytes).await,
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.to_string()),
            };
            match content {
                Ok(content) if self.publish(tools, &content).await => {
                    let success =
                        Success { origin: Origin::Disk.name(), entries: content.entries, bad_lines: content.bad_lines };
                    tools.board.restored(&self.name, success, written);
                }
                Ok(_) => return Duration::ZERO,
                Err(error) => {
                    tracing::warn!(feed = self.name, error, "what was kept on disk cannot be used");
                    return Duration::ZERO;
                }
            }
        }
        // Only the database is worth not asking for: the other feeds answer that nothing changed.
        let age = (tools.clock)().since(written).max(0.0);
        match self.feed.every.checked_sub(Duration::from_secs_f64(age)) {
            Some(fresh) if is_database => {
                tools.board.confirmed(&self.name, written);
                fresh
            }
            _ => Duration::ZERO,
        }
    }

    async fn attempt(&mut self, tools: &Tools) -> Result<(), String> {
        match self.obtain(tools).await? {
            Attempt::Same => {
                if tools.board.confirmed(&self.name, (tools.clock)()) {
                    tracing::info!(feed = self.name, "the feed is well again");
                }
            }
            Attempt::New(content, origin, known) => {
                if origin == Origin::Url {
                    self.keep(&content).await;
                    self.share(tools, &content).await;
                }
                if self.in_force != Some(content.digest) && !self.publish(tools, &content).await {
                    return Err("the policy could not be compiled with it".to_owned());
                }
                self.known = known;
                self.succeeded(tools, &content, origin);
            }
        }
        Ok(())
    }

    fn succeeded(&mut self, tools: &Tools, content: &Content, origin: Origin) {
        let success = Success { origin: origin.name(), entries: content.entries, bad_lines: content.bad_lines };
        let changed = self.in_force != Some(content.digest);
        self.in_force = Some(content.digest);
        if tools.board.succeeded(&self.name, success, (tools.clock)()) {
            tracing::info!(feed = self.name, entries = content.entries, "the feed is well again");
        } else if changed {
            tracing::debug!(feed = self.name, entries = content.entries, origin = origin.name(), "new data");
        }
    }

    /// Gets what there is now: from Redis when another participant asked already, else from its place.
    async fn obtain(&self, tools: &Tools) -> Result<Attempt, String> {
        if let (Subject::Cloud(provider), true, Some(redis)) =
            (&self.feed.subject, self.feed.is_shared, tools.store.redis())
        {
            match redis.cloud_ranges(provider.name()).await {
                Ok(Some(entries)) => {
                    let content = content_of(*provider, &cloud::read_entries(&entries)?);
                    return Ok(Attempt::New(Box::new(content), Origin::Redis, Known::default()));
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(feed = self.name, %error, "Redis was not asked for ranges"),
            }
        }
        let origin = match self.feed.location {
            Location::File(_) => Origin::File,
            Location::Url(_) => Origin::Url,
        };
        match self.fetch(tools).await? {
            Found::Same => Ok(Attempt::Same),
            Found::New(bytes, known) => {
                let problem = |error| format!("{}: {error}", self.feed.location.shown());
                Ok(Attempt::New(Box::new(self.read(bytes).await.map_err(problem)?), origin, known))
            }
        }
    }

    async fn fetch(&self, tools: &Tools) -> Result<Found, String> {
        let feed = &self.feed;
        let (bounds, tries) = match feed.subject {
            Subject::Cloud(_) => (RANGES, 1),
            Subject::Countries | Subject::Operators => (DATABASES, DATABASE_TRIES),
            Subject::List(..) => (LISTS, 1),
        };
        if let (Subject::Cloud(Provider::Azure), Location::Url(url), Some(client)) =
            (&feed.subject, &feed.location, &tools.client)
        {
            return azure::follow(client, url, (&self.known, bounds), (tools.clock)()).await;
        }
        let mut attempt = 1;
        loop {
            let found = fetch(tools.client.as_ref(), &feed.location, feed.token.as_ref(), (&self.known, bounds)).await;
            if found.is_ok() || attempt == tries || matches!(feed.location, Location::File(_)) {
                return found;
            }
            tokio::time::sleep(Duration::from_secs(attempt.into())).await;
            attempt += 1;
        }
    }

    /// Makes sense of bytes, beside the threads that serve.
    async fn read(&self, bytes: Vec<u8>) -> Result<Content, String> {
        let feed = Arc::clone(&self.feed);
        let reading = tokio::task::spawn_blocking(move || read(&feed, bytes)).await;
        reading.map_err(|error| error.to_string())?
    }

    async fn keep(&self, content: &Content) {
        let Some(path) = self.feed.kept.clone() else { return };
        let bytes = content.kept.clone();
        let written = tokio::task::spawn_blocking(move || disk::write(&path, &bytes)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(feed = self.name, %error, "new data cannot be kept on disk");
        }
    }

    /// Lets the other participants have it, until it is time to ask again.
    async fn share(&self, tools: &Tools, content: &Content) {
        let Some(redis) = tools.store.redis().filter(|_| self.feed.is_shared) else { return };
        let ttl = u32::try_from(self.feed.every.as_secs()).ok().and_then(std::num::NonZeroU32::new);
        let shared = match (&self.feed.subject, &content.update) {
            (Subject::Cloud(provider), Update::Cloud(_, networks)) => {
                redis.set_cloud_ranges(provider.name(), &cloud::entries(networks), ttl).await
            }
            (Subject::Countries, Update::Countries(_)) => share_database(redis, &content.kept, ttl).await,
            _ => Ok(()),
        };
        if let Err(error) = shared {
            tracing::debug!(feed = self.name, %error, "new data was not shared");
        }
    }

    /// Puts data in force; false when it could not be.
    async fn publish(&mut self, tools: &Tools, content: &Content) -> bool {
        let (sender, taken) = oneshot::channel();
        let news = News { feed: self.name.clone(), digest: content.digest, update: content.update.clone() };
        let sent = tools.news.send((news, sender)).await.is_ok();
        let is_in_force = sent && taken.await.unwrap_or(false);
        if is_in_force {
            self.in_force = Some(content.digest);
        }
        is_in_force
    }
}

fn jittered(period: Duration) -> Duration {
    period.mul_f64(1.0 + rand::random_range(0.0..JITTER))
}

async fn shared_database(tools: &Tools) -> Option<Vec<u8>> {
    let text = tools.store.redis()?.get(SHARED_DATABASE.0, SHARED_DATABASE.1).await.ok()??;
    tokio::task::spawn_blocking(move || text_as_bytes(&text)).await.ok()?
}

async fn share_database(
    redis: &Redis,
    bytes: &[u8],
    ttl: Option<std::num::NonZeroU32>,
) -> Result<(), crate::state::StateError> {
    redis.set(SHARED_DATABASE.0, SHARED_DATABASE.1, &bytes_as_text(bytes), ttl).await
}

fn content_of(provider: Provider, ranges: &cloud::Ranges) -> Content {
    let networks = cloud::networks(ranges);
    let entries = cloud::entries(&networks);
    let mut kept: Vec<String> = entries.iter().cloned().collect();
    kept.push(String::new());
    Content {
        digest: digest(cloud_store(&entries).as_bytes()),
        entries: networks.len() as u64,
        bad_lines: 0,
        kept: kept.join("\n").into_bytes(),
        update: Update::Cloud(provider, Arc::new(networks)),
    }
}

fn read(feed: &Feed, bytes: Vec<u8>) -> Result<Content, String> {
    match &feed.subject {
        Subject::Cloud(provider) => {
            let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
            Ok(content_of(*provider, &cloud::parse(*provider, &text)?))
        }
        Subject::Countries => {
            let kept = if feed.kept.is_some() || feed.is_shared { bytes.clone() } else { Vec::new() };
            let mmdb = Mmdb::new(bytes).map_err(|error| error.to_string())?;
            let (digest, entries) = (mmdb.digest(), mmdb.nodes());
            Ok(Content { digest, update: Update::Countries(Arc::new(mmdb)), entries, bad_lines: 0, kept })
        }
        Subject::Operators => {
            let mmdb = Mmdb::of_operators(bytes).map_err(|error| error.to_string())?;
            let (digest, entries) = (mmdb.digest(), mmdb.nodes());
            Ok(Content { digest, update: Update::Operators(Arc::new(mmdb)), entries, bad_lines: 0, kept: Vec::new() })
        }
        Subject::List(name, bounds) => {
            let list = list::parse(&bytes, *bounds)?;
            // A server that answers with nothing is broken more often than its list is empty.
            if list.entries.is_empty() && matches!(feed.location, Location::Url(_)) {
                return Err("holds no entries".to_owned());
            }
            let entries = list.entries.len() as u64;
            Ok(Content {
                digest: digest(&bytes),
                update: Update::List(name.clone(), Arc::new(list.entries)),
                entries,
                bad_lines: list.bad_lines.into(),
                kept: if feed.kept.is_some() { bytes } else { Vec::new() },
            })
        }
    }
}
