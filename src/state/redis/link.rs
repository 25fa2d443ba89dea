//! Connections: a few, each shared by many requests at once, opened in the background and dropped when they break.
//!
//! A pool that lends a connection to one request at a time would check it with a round trip before each use. Here the
//! pool opens connections, and a request sends on the one of its thread, next to the requests of others.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Object, Pool, RecycleResult, Timeouts};
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use deadpool_redis::redis::{Cmd, ConnectionInfo, RedisError, RedisResult, Value};
use deadpool_redis::{PoolError, Runtime};
use tokio::sync::{Notify, watch};

use crate::state::StateError;
use crate::state::redis::dial::{Dial, Dialled, Listening, Node, OPEN_TIMEOUT_MAX};
use crate::state::redis::settings::Settings;

/// A handle to an open connection that any number of requests may use at once.
#[derive(Clone)]
pub(super) enum Wire {
    /// One server.
    Single(MultiplexedConnection),
    /// A Cluster; each command finds its node.
    Cluster(ClusterConnection<Node>),
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
    held: Option<Object<Dial>>,
}

/// A connection that is dropped leaves the pool: it broke, or the process ends.
impl Drop for Open {
    fn drop(&mut self) {
        drop(self.held.take().map(Object::take));
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

impl Manager for Dial {
    type Type = Wire;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<Wire> {
        Ok(match self.open().await? {
            Dialled::Single(connection) => Wire::Single(connection),
            Dialled::Cluster(connection) => Wire::Cluster(connection),
        })
    }

    /// Never called: a connection is taken out of the pool for good when its slot lets it go.
    async fn recycle(&self, _: &mut Wire, _: &Metrics) -> RecycleResult<RedisError> {
        Ok(())
    }
}

/// The connections of this process.
pub(super) struct Links {
    pool: Pool<Dial>,
    slots: Box<[Slot]>,
    open_timeout: Duration,
    /// Counts the connections ever opened.
    opened: AtomicU64,
    opening: Notify,
}

impl Links {
    /// Prepares connections; opens none.
    pub(super) fn new(settings: &Settings, info: ConnectionInfo) -> Result<Arc<Self>, StateError> {
        let open_timeout = settings.connect_timeout.unwrap_or(OPEN_TIMEOUT_MAX);
        let slots = settings.links();
        // One above the slots: a slot may open its next connection before its last one is gone.
        let pool = Pool::builder(Dial::new(settings, info)?)
            .max_size(slots + 1)
            .timeouts(Timeouts { wait: Some(open_timeout), create: Some(open_timeout), recycle: None })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|_| StateError::Refused("redis: unusable pool settings".to_owned()))?;
        let slot = || Slot { live: watch::Sender::new(Live::Closed), opening: AtomicBool::new(false) };
        let slots = (0..slots).map(|_| slot()).collect();
        Ok(Arc::new(Self { pool, slots, open_timeout, opened: AtomicU64::new(0), opening: Notify::new() }))
    }

    /// True when keys may lie on different servers.
    pub(super) fn is_cluster(&self) -> bool {
        self.pool.manager().is_cluster()
    }

    /// How many connections were opened so far. One counts before anything is sent on it.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    /// Waits until a connection is opened; returns at once when one was since the last call.
    pub(super) async fn wait_for_opening(&self) {
        self.opening.notified().await;
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
    pub(super) async fn listen(&self) -> RedisResult<Listening> {
        self.pool.manager().listen().await
    }

    fn slot(&self) -> &Slot {
        #[expect(clippy::indexing_slicing, reason = "`slot_number` takes the remainder by the number of slots")]
        &self.slots[slot_number(self.slots.len())]
    }

    async fn open(&self) -> Result<Open, String> {
        let held = self.pool.get().await.map_err(|error| describe_pool(&error))?;
        self.opened.fetch_add(1, Ordering::AcqRel);
        self.opening.notify_one();
        Ok(Open { wire: held.clone(), held: Some(held) })
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
