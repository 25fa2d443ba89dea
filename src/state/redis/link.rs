//! Connections: a few, each shared by many requests at once, opened in the background and dropped when they break.
//!
//! A pool that lends a connection to one request at a time would check it with a round trip before each use. Here the
//! pool opens connections, and a request sends on the one of its thread, next to the requests of others.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Object, Pool, RecycleResult, Timeouts};
use deadpool_redis::redis::aio::{MultiplexedConnection, PubSub, PubSubSink, PubSubStream};
use deadpool_redis::redis::cluster::{ClusterClient, ClusterClientBuilder};
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use deadpool_redis::redis::io::AsyncDNSResolver;
use deadpool_redis::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Msg,
    ProtocolVersion, PushInfo, RedisError, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
};
use deadpool_redis::{PoolError, Runtime};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio_stream::StreamExt;

use crate::state::StateError;
use crate::state::redis::settings::{Credentials, Settings, Tls, Topology, connection_info};

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

/// Opens connections, whatever kind of Redis there is.
struct Dial {
    target: Target,
    tls: Tls,
    /// Where the one server is, whatever name its certificate holds.
    host: String,
    connect_timeout: Duration,
    response_timeout: Option<Duration>,
}

enum Target {
    Single(ConnectionInfo),
    Sentinel { client: Mutex<SentinelClient>, info: ConnectionInfo },
    Cluster { client: ClusterClient, nodes: Vec<ConnectionInfo> },
}

impl Manager for Dial {
    type Type = Wire;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<Wire> {
        match &self.target {
            Target::Single(info) => {
                let client = self.client(info)?;
                client.get_multiplexed_async_connection_with_config(&self.config(info)).await.map(Wire::Single)
            }
            Target::Sentinel { client, info } => {
                let mut client = client.lock().await;
                client.get_async_connection_with_config(&self.config(info)).await.map(Wire::Single)
            }
            Target::Cluster { client, .. } => client.get_async_connection().await.map(Wire::Cluster),
        }
    }

    /// Never called: a connection is taken out of the pool for good when its slot lets it go.
    async fn recycle(&self, _: &mut Wire, _: &Metrics) -> RecycleResult<RedisError> {
        Ok(())
    }
}

impl Dial {
    fn new(settings: &Settings, info: ConnectionInfo) -> Result<Self, StateError> {
        let refused = |error: RedisError| StateError::Refused(format!("redis: {}", error.category()));
        let tls = settings.tls.clone();
        let connect_timeout = settings.connect_timeout.unwrap_or(OPEN_TIMEOUT_MAX);
        let addressed = |url: &String, credentials: &Credentials| {
            let info = credentials.over(connection_info(url)?);
            secured(info, &tls).map_err(refused)
        };
        let host = match info.addr() {
            ConnectionAddr::TcpTls { host, .. } => host.clone(),
            _ => String::new(),
        };
        let info = secured(info, &tls).map_err(refused)?;
        let target = match &settings.topology {
            Topology::Standalone => Target::Single(info),
            Topology::Sentinel { sentinels, master } => {
                let nodes = sentinels.iter().map(|url| addressed(url, &settings.sentinel_credentials));
                let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
                let client = sentinel_client(nodes, master, &info, &tls).map_err(refused)?;
                Target::Sentinel { client: Mutex::new(client), info }
            }
            Topology::Cluster { nodes } => {
                let nodes = nodes.iter().map(|url| Ok(inherit(addressed(url, &settings.credentials)?, &info)));
                let nodes = nodes.collect::<Result<Vec<_>, StateError>>()?;
                let mut builder = ClusterClientBuilder::new(nodes.clone()).connection_timeout(connect_timeout);
                if let Some(timeout) = settings.timeout {
                    builder = builder.response_timeout(timeout);
                }
                if nodes.iter().any(is_tls) {
                    let mode = if tls.insecure { TlsMode::Insecure } else { TlsMode::Secure };
                    builder = builder.tls(mode).certs(certificates(&tls));
                }
                Target::Cluster { client: builder.build().map_err(refused)?, nodes }
            }
        };
        Ok(Self { target, tls, host, connect_timeout, response_timeout: settings.timeout })
    }

    fn client(&self, info: &ConnectionInfo) -> RedisResult<Client> {
        if is_tls(info) {
            Client::build_with_tls(info.clone(), certificates(&self.tls))
        } else {
            Client::open(info.clone())
        }
    }

    fn config(&self, info: &ConnectionInfo) -> AsyncConnectionConfig {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(self.response_timeout);
        match (&self.tls.server_name, info.addr()) {
            (Some(_), ConnectionAddr::TcpTls { .. }) => config.set_dns_resolver(Instead(self.host.clone())),
            _ => config,
        }
    }

    /// Opens a connection that listens for messages.
    async fn listen(&self) -> RedisResult<Listening> {
        match &self.target {
            Target::Single(info) if self.tls.server_name.is_some() && is_tls(info) => {
                let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
                let info = info.clone().set_redis_settings(resp3);
                let (pushed, messages) = mpsc::unbounded_channel();
                let config = self.config(&info).set_push_sender(pushed);
                let connection = self.client(&info)?.get_multiplexed_async_connection_with_config(&config).await?;
                Ok(Listening::Pushed(connection, messages))
            }
            Target::Single(info) => Ok(Listening::of(self.client(info)?.get_async_pubsub().await?)),
            Target::Sentinel { client, .. } => {
                let master = client.lock().await.async_get_client().await?;
                Ok(Listening::of(master.get_async_pubsub().await?))
            }
            Target::Cluster { nodes, .. } => {
                let mut last =
                    RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node of the cluster answers"));
                for node in nodes {
                    match self.client(node)?.get_async_pubsub().await {
                        Ok(listening) => return Ok(Listening::of(listening)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

/// A connection that listens.
pub(super) enum Listening {
    /// One that can do nothing else.
    PubSub(PubSubSink, PubSubStream),
    /// One on which messages are pushed between answers. The only kind whose TLS name can be chosen.
    Pushed(MultiplexedConnection, mpsc::UnboundedReceiver<PushInfo>),
}

impl Listening {
    fn of(listening: PubSub) -> Self {
        let (sink, messages) = listening.split();
        Self::PubSub(sink, messages)
    }

    /// Asks for the messages of a channel.
    pub(super) async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::PubSub(sink, _) => sink.subscribe(channel).await,
            Self::Pushed(connection, _) => connection.subscribe(channel).await,
        }
    }

    /// The next message; `None` when the connection ended. Being dropped while it waits loses nothing.
    pub(super) async fn next(&mut self) -> Option<Msg> {
        match self {
            Self::PubSub(_, messages) => messages.next().await,
            Self::Pushed(_, messages) => loop {
                let pushed = messages.recv().await?;
                if matches!(pushed.kind, deadpool_redis::redis::PushKind::Disconnection) {
                    return None;
                }
                if let Some(message) = Msg::from_push_info(pushed) {
                    return Some(message);
                }
            },
        }
    }

    /// Asks whether the other end is there.
    pub(super) async fn ping(&mut self) -> RedisResult<()> {
        match self {
            Self::PubSub(sink, _) => sink.ping::<Value>().await.map(drop),
            Self::Pushed(connection, _) => deadpool_redis::redis::cmd("PING").exec_async(connection).await,
        }
    }
}

/// Finds one host whatever name is asked for: the name is only what the certificate must hold.
struct Instead(String);

impl AsyncDNSResolver for Instead {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((self.0.as_str(), port)).await?;
            Ok(Box::new(found) as Box<dyn Iterator<Item = SocketAddr> + Send + 'a>)
        })
    }
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

fn certificates(tls: &Tls) -> TlsCertificates {
    let client = tls.client.clone().map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    TlsCertificates { client_tls: client, root_cert: tls.ca.clone() }
}

/// `info` with what its TLS needs. The certificates are read here, so that an unusable one shows at the start.
fn secured(info: ConnectionInfo, tls: &Tls) -> RedisResult<ConnectionInfo> {
    let ConnectionAddr::TcpTls { host, port, .. } = info.addr() else { return Ok(info) };
    choose_cryptography();
    let host = tls.server_name.as_ref().unwrap_or(host).clone();
    let addr = ConnectionAddr::TcpTls { host, port: *port, insecure: tls.insecure, tls_params: None };
    let client = Client::build_with_tls(info.set_addr(addr), certificates(tls))?;
    Ok(client.get_connection_info().clone())
}

/// Once for the process; a provider that the program chose before stays.
fn choose_cryptography() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn sentinel_client(
    nodes: Vec<ConnectionInfo>,
    master: &str,
    info: &ConnectionInfo,
    tls: &Tls,
) -> RedisResult<SentinelClient> {
    let access = nodes.first().map(|node| node.redis_settings().clone()).unwrap_or_default();
    let at_sentinels = nodes.iter().any(is_tls);
    let addresses = nodes.into_iter().map(|node| node.addr().clone());
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
        .set_client_to_redis_db(info.redis_settings().db());
    let redis = info.redis_settings();
    if let Some(username) = redis.username() {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = redis.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(username) = access.username() {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = access.password() {
        builder = builder.set_client_to_sentinel_password(password);
    }
    let mode = if tls.insecure { TlsMode::Insecure } else { TlsMode::Secure };
    if is_tls(info) {
        builder = builder.set_client_to_redis_tls_mode(mode).set_client_to_redis_certificates(certificates(tls));
    }
    if at_sentinels {
        builder = builder.set_client_to_sentinel_tls_mode(mode).set_client_to_sentinel_certificates(certificates(tls));
    }
    builder.build()
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

/// When no time is configured, opening a connection is given up after this long and tried again.
const OPEN_TIMEOUT_MAX: Duration = Duration::from_secs(30);

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
        matches!(self.pool.manager().target, Target::Cluster { .. })
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

/// A node's address with the user of the main URL, unless it brings its own.
fn inherit(node: ConnectionInfo, main: &ConnectionInfo) -> ConnectionInfo {
    if node.redis_settings().password().is_some() {
        return node;
    }
    let (username, password) = (main.redis_settings().username(), main.redis_settings().password());
    Credentials { username: username.map(str::to_owned), password: password.map(str::to_owned) }.over(node)
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
