//! Connections: a few, each shared by many requests at once, opened in the background and dropped when they break.
//!
//! A pool that lends a connection to one request at a time would check it with a round trip before each use. Here the
//! pool opens connections, and a request sends on the one of its thread, next to the requests of others.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_redis::redis::aio::{MultiplexedConnection, PubSub};
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, RedisError, RedisResult, Value, sentinel,
};
use deadpool_redis::{PoolError, Runtime, Timeouts, cluster, sentinel as pooled};
use tokio::sync::watch;

use crate::state::StateError;
use crate::state::redis::settings::{Settings, Topology, connection_info};

/// An open connection, as the pool keeps count of it.
enum Held {
    Single(deadpool_redis::Connection),
    Sentinel(pooled::Connection),
    Cluster(cluster::Connection),
}

/// A handle to an open connection that any number of requests may use at once.
#[derive(Clone)]
pub(super) enum Wire {
    /// One server.
    Single(MultiplexedConnection),
    /// A Cluster; each command finds its node.
    Cluster(ClusterConnection),
}

impl Wire {
    /// Sends one command and returns the answer.
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }

    /// Sends one command to a certain node of a Cluster, or to the only server.
    pub(super) async fn send_to(&mut self, node: Option<&(String, u16)>, command: Cmd) -> RedisResult<Value> {
        match (self, node) {
            (Self::Cluster(connection), Some((host, port))) => {
                let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                connection.route_command(command, RoutingInfo::SingleNode(node)).await
            }
            (wire, _) => wire.send(&command).await,
        }
    }
}

/// An open connection of one slot.
pub(super) struct Open {
    wire: Wire,
    held: Option<Held>,
}

/// A connection that is dropped leaves the pool: it broke, or the process ends.
impl Drop for Open {
    fn drop(&mut self) {
        match self.held.take() {
            Some(Held::Single(held)) => drop(deadpool_redis::Connection::take(held)),
            Some(Held::Sentinel(held)) => drop(pooled::Connection::take(held)),
            Some(Held::Cluster(held)) => drop(cluster::Connection::take(held)),
            None => {}
        }
    }
}

/// What a slot holds.
#[derive(Clone)]
enum Live {
    Closed,
    Failed(Arc<str>),
    Open(Arc<Open>),
}

struct Slot {
    live: watch::Sender<Live>,
    opening: AtomicBool,
}

enum Pool {
    Single(deadpool_redis::Pool),
    Sentinel(pooled::Pool),
    Cluster(cluster::Pool),
}

/// How to open a connection that listens.
enum Listener {
    Single(ConnectionInfo),
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, info: ConnectionInfo },
    Cluster(Vec<ConnectionInfo>),
}

/// The connections of this process.
pub(super) struct Links {
    pool: Pool,
    listener: Listener,
    slots: Box<[Slot]>,
    open_timeout: Duration,
}

/// When no time is configured, opening a connection is given up after this long and tried again.
const OPEN_TIMEOUT_MAX: Duration = Duration::from_secs(30);

impl Links {
    /// Prepares connections; opens none.
    pub(super) fn new(settings: &Settings, info: ConnectionInfo) -> Result<Arc<Self>, StateError> {
        let open_timeout = settings.connect_timeout.unwrap_or(OPEN_TIMEOUT_MAX);
        let slots = settings.links();
        let refused = |_: RedisError| StateError::Refused("redis: unusable connection settings".to_owned());
        // One above the slots: a slot may open its next connection before its last one is gone.
        let limits = (slots + 1, Timeouts { wait: Some(open_timeout), create: Some(open_timeout), recycle: None });
        let nodes = |urls: &[String]| urls.iter().map(|url| node(url, &info)).collect::<Result<Vec<_>, _>>();
        let (pool, listener) = match &settings.topology {
            Topology::Standalone => {
                let connection = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(open_timeout))
                    .set_response_timeout(settings.timeout);
                let manager = deadpool_redis::Manager::new_with_config(info.clone(), connection).map_err(refused)?;
                let builder = deadpool_redis::Pool::builder(manager).max_size(limits.0).timeouts(limits.1);
                (builder.runtime(Runtime::Tokio1).build().map(Pool::Single), Listener::Single(info))
            }
            Topology::Sentinel { sentinels, master } => {
                let sentinels = sentinels.iter().map(|url| connection_info(url)).collect::<Result<Vec<_>, _>>()?;
                let own = pooled::SentinelServerType::Master;
                let manager = pooled::Manager::new(sentinels.clone(), master.clone(), Some(data_node(&info)), own)
                    .map_err(refused)?;
                let builder = pooled::Pool::builder(manager).max_size(limits.0).timeouts(limits.1);
                let listener = Listener::Sentinel { sentinels, master: master.clone(), info };
                (builder.runtime(Runtime::Tokio1).build().map(Pool::Sentinel), listener)
            }
            Topology::Cluster { nodes: urls } => {
                let nodes = nodes(urls)?;
                let manager = cluster::Manager::new(nodes.clone(), false).map_err(refused)?;
                let builder = cluster::Pool::builder(manager).max_size(limits.0).timeouts(limits.1);
                (builder.runtime(Runtime::Tokio1).build().map(Pool::Cluster), Listener::Cluster(nodes))
            }
        };
        let pool = pool.map_err(|_| StateError::Refused("redis: unusable pool settings".to_owned()))?;
        let slot = || Slot { live: watch::Sender::new(Live::Closed), opening: AtomicBool::new(false) };
        let slots = (0..slots).map(|_| slot()).collect();
        Ok(Arc::new(Self { pool, listener, slots, open_timeout }))
    }

    /// True when keys may lie on different servers.
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.pool, Pool::Cluster(_))
    }

    /// The connection of this thread, opened when there is none. Being dropped while it waits loses nothing.
    pub(super) async fn wire(self: &Arc<Self>) -> Result<(Wire, Arc<Open>), StateError> {
        let slot = self.slot();
        if let Live::Open(open) = &*slot.live.borrow() {
            return Ok((open.wire.clone(), Arc::clone(open)));
        }
        let mut live = slot.live.subscribe();
        if !slot.opening.swap(true, Ordering::AcqRel) {
            let opening = Opening { links: Arc::clone(self), slot: slot_number(self.slots.len()), result: None };
            drop(tokio::spawn(opening.run()));
        }
        loop {
            match &*live.borrow_and_update() {
                Live::Open(open) => return Ok((open.wire.clone(), Arc::clone(open))),
                Live::Failed(why) if !slot.opening.load(Ordering::Acquire) => {
                    return Err(StateError::Unavailable(why.to_string()));
                }
                Live::Failed(_) | Live::Closed => {}
            }
            if live.changed().await.is_err() {
                return Err(StateError::Unavailable("shutting down".to_owned()));
            }
        }
    }

    /// Forgets a connection that broke; the next request opens another.
    pub(super) fn discard(&self, broken: &Arc<Open>) {
        for slot in &self.slots {
            slot.live.send_if_modified(|live| {
                let is_it = matches!(live, Live::Open(open) if Arc::ptr_eq(open, broken));
                if is_it {
                    *live = Live::Closed;
                }
                is_it
            });
        }
    }

    /// Forgets the connection of this thread, which does not answer.
    pub(super) fn discard_mine(&self) {
        self.slot().live.send_if_modified(|live| {
            let is_open = matches!(live, Live::Open(_));
            if is_open {
                *live = Live::Closed;
            }
            is_open
        });
    }

    /// Opens a connection that listens for messages.
    pub(super) async fn listen(&self) -> RedisResult<PubSub> {
        match &self.listener {
            Listener::Single(info) => Client::open(info.clone())?.get_async_pubsub().await,
            Listener::Sentinel { sentinels, master, info } => {
                let node = sentinel::SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(info.redis_settings().clone());
                let mut client = sentinel::SentinelClient::build(
                    sentinels.clone(),
                    master.clone(),
                    Some(node),
                    sentinel::SentinelServerType::Master,
                )?;
                client.async_get_client().await?.get_async_pubsub().await
            }
            Listener::Cluster(nodes) => {
                let mut last =
                    RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node of the cluster answers"));
                for node in nodes {
                    match Client::open(node.clone())?.get_async_pubsub().await {
                        Ok(listening) => return Ok(listening),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn slot(&self) -> &Slot {
        #[expect(clippy::indexing_slicing, reason = "`slot_number` takes the remainder by the number of slots")]
        &self.slots[slot_number(self.slots.len())]
    }

    async fn open(&self) -> Result<Open, String> {
        let (wire, held) = match &self.pool {
            Pool::Single(pool) => {
                let held = pool.get().await.map_err(|error| describe_pool(&error))?;
                (Wire::Single((*held).clone()), Held::Single(held))
            }
            Pool::Sentinel(pool) => {
                let held = pool.get().await.map_err(|error| describe_pool(&error))?;
                (Wire::Single((*held).clone()), Held::Sentinel(held))
            }
            Pool::Cluster(pool) => {
                let held = pool.get().await.map_err(|error| describe_pool(&error))?;
                (Wire::Cluster((*held).clone()), Held::Cluster(held))
            }
        };
        Ok(Open { wire, held: Some(held) })
    }
}

/// One attempt to fill a slot. Whatever becomes of it, whoever waits is told when it is dropped.
struct Opening {
    links: Arc<Links>,
    slot: usize,
    result: Option<Live>,
}

impl Opening {
    async fn run(mut self) {
        self.result = Some(match tokio::time::timeout(self.links.open_timeout, self.links.open()).await {
            Ok(Ok(open)) => Live::Open(Arc::new(open)),
            Ok(Err(why)) => Live::Failed(why.into()),
            Err(_) => Live::Failed("connecting took too long".into()),
        });
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(slot) = self.links.slots.get(self.slot) else { return };
        slot.opening.store(false, Ordering::Release);
        slot.live.send_replace(self.result.take().unwrap_or_else(|| Live::Failed("connecting was given up".into())));
    }
}

/// The slot of this thread: request threads do not share connections while there are enough.
fn slot_number(slots: usize) -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    let number = NUMBER.get().unwrap_or_else(|| {
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        NUMBER.set(Some(number));
        number
    });
    number % slots.max(1)
}

/// A node's address with the user of the main URL, unless it brings its own.
fn node(url: &str, main: &ConnectionInfo) -> Result<ConnectionInfo, StateError> {
    let info = connection_info(url)?;
    let own = info.redis_settings().clone();
    let redis = match (own.password(), main.redis_settings().username(), main.redis_settings().password()) {
        (None, user, Some(password)) => {
            let own = user.map_or_else(|| own.clone(), |user| own.clone().set_username(user));
            own.set_password(password)
        }
        _ => own,
    };
    Ok(info.set_redis_settings(redis))
}

/// The user and database for the master that the sentinels name.
fn data_node(info: &ConnectionInfo) -> pooled::SentinelNodeConnectionInfo {
    let redis = info.redis_settings();
    pooled::SentinelNodeConnectionInfo {
        tls_mode: None,
        redis_connection_info: Some(deadpool_redis::RedisConnectionInfo {
            db: redis.db(),
            username: redis.username().map(str::to_owned),
            password: redis.password().map(str::to_owned),
            ..Default::default()
        }),
    }
}

fn describe_pool(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => describe(error),
        PoolError::Timeout(_) => "connecting took too long".to_owned(),
        _ => "no connection can be made".to_owned(),
    }
}

/// What went wrong, without any key or value that the server may have repeated.
pub(super) fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("redis answered {code}"),
        None => error.category().to_owned(),
    }
}
