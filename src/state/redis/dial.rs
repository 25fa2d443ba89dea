//! Opening connections: to one server, to the master that sentinels name, to a Cluster, and to whoever pushes messages.
//!
//! Wherever the address of a server comes from, its certificate is held to `redis.tls.server_name` when that is set.

use std::net::SocketAddr;
use std::sync::{Arc, Once};
use std::time::Duration;

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection, PubSub, PubSubSink, PubSubStream};
use deadpool_redis::redis::cluster::{ClusterClient, ClusterClientBuilder};
use deadpool_redis::redis::cluster_async::{ClusterConnection, Connect};
use deadpool_redis::redis::io::AsyncDNSResolver;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Msg, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError,
    RedisFuture, RedisResult, TlsCertificates, TlsMode, Value, cmd,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use crate::state::StateError;
use crate::state::redis::settings::{Credentials, Settings, Tls, Topology, connection_info};

/// When no time is configured, opening a connection is given up after this long and tried again.
pub(super) const OPEN_TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Knows where connections lead.
pub(super) struct Dial {
    target: Target,
    way: Arc<Way>,
}

enum Target {
    Single(ConnectionInfo),
    /// What is known of the master is who we are there, and whether it speaks TLS.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        name: String,
        master: ConnectionInfo,
    },
    Cluster {
        client: ClusterClient,
        nodes: Vec<ConnectionInfo>,
    },
}

/// An open connection.
pub(super) enum Dialled {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection<Node>),
}

impl Dial {
    pub(super) fn new(settings: &Settings, info: ConnectionInfo) -> Result<Self, StateError> {
        let refused = |error: RedisError| StateError::Refused(format!("redis: {}", error.category()));
        let connect_timeout = settings.connect_timeout.unwrap_or(OPEN_TIMEOUT_MAX);
        let way = Way { tls: settings.tls.clone(), connect_timeout, response_timeout: settings.timeout };
        let addressed = |url: &String, credentials: &Credentials| {
            way.secured(credentials.over(connection_info(url)?)).map_err(refused)
        };
        let info = way.secured(info).map_err(refused)?;
        let target = match &settings.topology {
            Topology::Standalone => Target::Single(info),
            Topology::Sentinel { sentinels, master } => {
                let sentinels = sentinels.iter().map(|url| addressed(url, &settings.sentinel_credentials));
                let sentinels = sentinels.collect::<Result<Vec<_>, _>>()?;
                if sentinels.is_empty() {
                    return Err(StateError::Refused("redis: no sentinels".to_owned()));
                }
                Target::Sentinel { sentinels, name: master.clone(), master: info }
            }
            Topology::Cluster { nodes } => {
                let nodes = nodes.iter().map(|url| Ok(inherit(addressed(url, &settings.credentials)?, &info)));
                let nodes = nodes.collect::<Result<Vec<_>, StateError>>()?;
                Target::Cluster { client: way.cluster(&nodes).map_err(refused)?, nodes }
            }
        };
        Ok(Self { target, way: Arc::new(way) })
    }

    /// True when keys may lie on different servers.
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster { .. })
    }

    /// Opens a connection for commands.
    pub(super) async fn open(&self) -> RedisResult<Dialled> {
        match &self.target {
            Target::Single(info) => self.way.open(info).await.map(Dialled::Single),
            Target::Sentinel { .. } => self.master().await.map(|(_, connection)| Dialled::Single(connection)),
            Target::Cluster { client, .. } => client.get_async_generic_connection().await.map(Dialled::Cluster),
        }
    }

    /// Opens a connection that listens for messages.
    pub(super) async fn listen(&self) -> RedisResult<Listening> {
        match &self.target {
            Target::Single(info) => self.way.listen(info).await,
            Target::Sentinel { .. } => {
                let (master, _) = self.master().await?;
                self.way.listen(&master).await
            }
            Target::Cluster { nodes, .. } => {
                // At once: a node that does not even refuse must not stand before the others.
                first(nodes.iter().cloned().map(|node| {
                    let way = Arc::clone(&self.way);
                    async move { way.listen(&node).await }
                }))
                .await
            }
        }
    }

    /// Asks every sentinel at once for the master; whoever names one that says itself that it is counts. So neither a
    /// sentinel that is gone nor one that knows an old master stands in the way.
    async fn master(&self) -> RedisResult<(ConnectionInfo, MultiplexedConnection)> {
        let Target::Sentinel { sentinels, name, master } = &self.target else {
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "not watched by sentinels")));
        };
        first(sentinels.iter().cloned().map(|sentinel| {
            let (way, name, master) = (Arc::clone(&self.way), name.clone(), master.clone());
            async move {
                let (host, port) = way.ask_sentinel(&sentinel, &name).await?;
                let master = at(master, host, port);
                let mut connection = way.open(&master).await?;
                is_master(&mut connection).await?;
                Ok((master, connection))
            }
        }))
        .await
    }
}

/// The first success; the last failure when there is none. The others are given up.
async fn first<T, F>(attempts: impl Iterator<Item = F>) -> RedisResult<T>
where
    T: Send + 'static,
    F: Future<Output = RedisResult<T>> + Send + 'static,
{
    let mut running: JoinSet<RedisResult<T>> = attempts.collect();
    let mut last = RedisError::from((ErrorKind::Io, "nobody answers"));
    while let Some(done) = running.join_next().await {
        match done {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

/// `info` with another address, spoken to in the same way.
fn at(info: ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.set_addr(addr)
}

/// A server that was demoted may not know yet, or may be known as the master to a sentinel that does not know yet.
async fn is_master(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    match cmd("ROLE").query_async::<Vec<Value>>(connection).await {
        Ok(role) => match role.into_iter().next().map(String::from_redis_value) {
            Some(Ok(role)) if role == "master" => Ok(()),
            _ => Err(RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "the named master is none"))),
        },
        // A user with few rights may not ask. A write to a replica is refused, and then the sentinels are asked again.
        Err(error) if error.code() == Some("NOPERM") => Ok(()),
        Err(error) => Err(error),
    }
}

/// How servers are spoken to.
struct Way {
    tls: Tls,
    connect_timeout: Duration,
    response_timeout: Option<Duration>,
}

impl Way {
    /// `info` with what its TLS needs. The certificates are read here, so that an unusable one shows at the start.
    fn secured(&self, info: ConnectionInfo) -> RedisResult<ConnectionInfo> {
        let ConnectionAddr::TcpTls { host, port, .. } = info.addr() else { return Ok(info) };
        choose_cryptography();
        let addr = self.tls_address(host.clone(), *port);
        self.built(info.set_addr(addr)).map(|client| client.get_connection_info().clone())
    }

    const fn tls_address(&self, host: String, port: u16) -> ConnectionAddr {
        ConnectionAddr::TcpTls { host, port, insecure: self.tls.insecure, tls_params: None }
    }

    fn built(&self, info: ConnectionInfo) -> RedisResult<Client> {
        let client = Client::build_with_tls(info, certificates(&self.tls))?;
        if !self.tls.any_name {
            return Ok(client);
        }
        let info = client.get_connection_info().clone();
        let mut addr = info.addr().clone();
        addr.set_danger_accept_invalid_hostnames(true);
        Client::open(info.set_addr(addr))
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(self.response_timeout)
    }

    /// A client for a server, and how it connects.
    fn client(&self, info: &ConnectionInfo) -> RedisResult<(Client, AsyncConnectionConfig)> {
        let ConnectionAddr::TcpTls { host, port, .. } = info.addr() else {
            return Ok((Client::open(info.clone())?, self.config()));
        };
        let Some(name) = &self.tls.server_name else { return Ok((self.built(info.clone())?, self.config())) };
        let named = info.clone().set_addr(self.tls_address(name.clone(), *port));
        Ok((self.built(named)?, self.config().set_dns_resolver(Instead(host.clone()))))
    }

    async fn open(&self, info: &ConnectionInfo) -> RedisResult<MultiplexedConnection> {
        let (client, config) = self.client(info)?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn listen(&self, info: &ConnectionInfo) -> RedisResult<Listening> {
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        if self.tls.server_name.is_none() || !is_tls {
            return Ok(Listening::of(self.client(info)?.0.get_async_pubsub().await?));
        }
        let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let (client, config) = self.client(&info.clone().set_redis_settings(resp3))?;
        let (pushed, messages) = mpsc::unbounded_channel();
        let config = config.set_push_sender(pushed);
        Ok(Listening::Pushed(client.get_multiplexed_async_connection_with_config(&config).await?, messages))
    }

    /// The address of the master that a sentinel knows by `name`.
    async fn ask_sentinel(&self, sentinel: &ConnectionInfo, name: &str) -> RedisResult<(String, u16)> {
        let mut connection = self.open(sentinel).await?;
        let mut ask = cmd("SENTINEL");
        ask.arg("get-master-addr-by-name").arg(name);
        let found: Option<(String, u16)> = ask.query_async(&mut connection).await?;
        let unknown = || RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no sentinel knows the master"));
        found.ok_or_else(unknown)
    }

    fn cluster(&self, nodes: &[ConnectionInfo]) -> RedisResult<ClusterClient> {
        let is_tls = nodes.iter().any(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. }));
        let named = nodes.iter().map(|node| match &self.tls.server_name {
            Some(name) if is_tls => carrying(node.clone(), name),
            _ => node.clone(),
        });
        let mut builder = ClusterClientBuilder::new(named).connection_timeout(self.connect_timeout);
        if let Some(timeout) = self.response_timeout {
            builder = builder.response_timeout(timeout);
        }
        if is_tls {
            let mode = if self.tls.insecure { TlsMode::Insecure } else { TlsMode::Secure };
            builder = builder.tls(mode).certs(certificates(&self.tls));
            builder = builder.danger_accept_invalid_hostnames(self.tls.any_name);
        }
        builder.build()
    }
}

fn certificates(tls: &Tls) -> TlsCertificates {
    let client = tls.client.clone().map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    TlsCertificates { client_tls: client, root_cert: tls.ca.clone() }
}

/// Once for the process; a provider that the program chose before stays.
fn choose_cryptography() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// A node's address with the user of the main URL, unless it brings its own.
fn inherit(node: ConnectionInfo, main: &ConnectionInfo) -> ConnectionInfo {
    if node.redis_settings().password().is_some() {
        return node;
    }
    let (username, password) = (main.redis_settings().username(), main.redis_settings().password());
    Credentials { username: username.map(str::to_owned), password: password.map(str::to_owned) }.over(node)
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

/// A connection to one node of a Cluster.
///
/// The library opens these by itself, at addresses that the nodes announce, and hands on nothing of ours but user and
/// password. So the name that certificates must hold travels before the user's: no user's name holds a line break.
#[derive(Clone)]
pub(super) struct Node(MultiplexedConnection);

/// `info` with a name for certificates before the user's name.
fn carrying(info: ConnectionInfo, name: &str) -> ConnectionInfo {
    let user = info.redis_settings().username().unwrap_or_default();
    let redis = info.redis_settings().clone().set_username(format!("{name}\n{user}"));
    info.set_redis_settings(redis)
}

/// Undoes [`carrying`]: the address then has the name, and what resolves names finds the node.
fn carried(info: ConnectionInfo, config: AsyncConnectionConfig) -> (ConnectionInfo, AsyncConnectionConfig) {
    let redis = info.redis_settings().clone();
    let (Some((name, user)), ConnectionAddr::TcpTls { host, port, insecure, tls_params }) =
        (redis.username().and_then(|text| text.split_once('\n')), info.addr().clone())
    else {
        return (info, config);
    };
    let mut access = RedisConnectionInfo::default().set_db(redis.db()).set_protocol(redis.protocol());
    if let Some(password) = redis.password() {
        access = access.set_password(password);
    }
    if !user.is_empty() {
        access = access.set_username(user);
    }
    let addr = ConnectionAddr::TcpTls { host: name.to_owned(), port, insecure, tls_params };
    (info.set_addr(addr).set_redis_settings(access), config.set_dns_resolver(Instead(host)))
}

impl Connect for Node {
    fn connect_with_config<'a, T>(info: T, config: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        Box::pin(async move {
            let (info, config) = carried(info.into_connection_info()?, config);
            Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await.map(Self)
        })
    }
}

impl ConnectionLike for Node {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
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
                if matches!(pushed.kind, PushKind::Disconnection) {
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
            Self::Pushed(connection, _) => cmd("PING").exec_async(connection).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_travels_with_the_user_and_leaves_no_trace() {
        choose_cryptography();
        for url in ["rediss://:s3cret@192.0.2.1:7000", "rediss://app:s3cret@192.0.2.1:7000", "rediss://192.0.2.1:7000"]
        {
            let plain = url.into_connection_info().unwrap();
            let (info, _) = carried(carrying(plain.clone(), "redis.test"), AsyncConnectionConfig::new());
            assert_eq!(info.addr().to_string(), "redis.test:7000");
            let access = |info: &ConnectionInfo| {
                let redis = info.redis_settings();
                (redis.username().map(str::to_owned), redis.password().map(str::to_owned), redis.db(), redis.protocol())
            };
            assert_eq!(access(&info), access(&plain), "{url}");
            let (same, _) = carried(plain.clone(), AsyncConnectionConfig::new());
            assert_eq!(same.addr().to_string(), "192.0.2.1:7000", "nothing is carried, nothing changes");
        }
    }
}
