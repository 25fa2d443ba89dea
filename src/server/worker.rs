//! One worker: a thread with a runtime of its own that serves the connections it is given.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;

use crate::config::server::LimitsConfig;
use crate::server::service::Answer;
use crate::server::tls::{Secured, Tls};

/// Connections that wait to be taken over by a worker.
const HANDOVER_MAX: usize = 64;
/// Silence after which the peer is asked whether it is still there, and how long it may take to answer. Envoy asks
/// more often; this finds peers that vanished.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Resets by a peer that are waited for, and resets of ours after which the connection is given up: what a flood of
/// resets may cost.
const RESETS_MAX: usize = 128;
/// Bytes of one stream that a peer may send before we read them: what a body costs in memory, however long it is.
const STREAM_BYTES_MAX: u32 = 256 * 1024;
/// Bytes of answers of one stream that wait for the peer.
const SEND_BYTES_MAX: usize = 128 * 1024;
/// Header fields of one call, in bytes. They hold gRPC's own fields; the request of the client lies in the message.
const CALL_HEADER_BYTES_MAX: u32 = 16 * 1024;

/// A connection on its way to a worker, out of its acceptor's runtime.
#[derive(Debug)]
pub enum Socket {
    /// From the TCP listener, before its handshake.
    Tcp(std::net::TcpStream, Arc<Tls>),
    /// From the Unix listener.
    Unix(std::os::unix::net::UnixStream),
}

/// A connection and its place among `limits.max_connections`.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub socket: Socket,
    /// Freed when the connection ends.
    pub permit: OwnedSemaphorePermit,
}

/// How a worker treats connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at once on one connection.
    pub streams: u32,
    /// Age at which a connection is asked to end.
    pub age: Option<Duration>,
    /// Time for calls in flight after a stop.
    pub drain: Duration,
}

impl From<&LimitsConfig> for Limits {
    fn from(config: &LimitsConfig) -> Self {
        Self {
            streams: config.max_concurrent_streams,
            age: (config.max_connection_age != 0).then(|| Duration::from_secs(config.max_connection_age.into())),
            drain: Duration::from_secs(config.drain_seconds.into()),
        }
    }
}

/// A running worker, as the acceptor sees it.
#[derive(Debug)]
pub struct Worker {
    queue: mpsc::Sender<Accepted>,
    connections: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts a worker. `build` runs on its thread and makes the function that answers calls. The worker ends once
    /// `stop` says so (or its sender is gone) and its connections have drained.
    pub fn spawn<B, F, R>(index: usize, limits: Limits, stop: watch::Receiver<bool>, build: B) -> io::Result<Self>
    where
        B: FnOnce() -> F + Send + 'static,
        F: Fn(Request<Incoming>) -> R + Clone + 'static,
        R: Future<Output = Result<Response<Answer>, Infallible>> + 'static,
    {
        let (queue, arrivals) = mpsc::channel(HANDOVER_MAX);
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all();
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            match runtime.build_local(tokio::runtime::LocalOptions::default()) {
                Ok(runtime) => runtime.block_on(run(arrivals, counter, limits, stop, build())),
                Err(error) => tracing::error!(%error, "a worker cannot start"),
            }
        })?;
        Ok(Self { queue, connections, thread })
    }

    /// How many connections the worker serves.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Hands a connection over. Waits while the worker has `HANDOVER_MAX` waiting; drops it when the worker is gone.
    pub async fn hand_over(&self, accepted: Accepted) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if self.queue.send(accepted).await.is_err() {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Waits for the worker's thread. Blocks.
    pub fn join(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("a worker ended in a panic");
        }
    }
}

/// Counts a connection of its worker until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run<F, R>(
    mut arrivals: mpsc::Receiver<Accepted>,
    connections: Arc<AtomicUsize>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
    answer: F,
) where
    F: Fn(Request<Incoming>) -> R + Clone + 'static,
    R: Future<Output = Result<Response<Answer>, Infallible>> + 'static,
{
    let mut tasks = JoinSet::new();
    let signal = stop.clone();
    loop {
        tokio::select! {
            accepted = arrivals.recv() => {
                let Some(accepted) = accepted else { break };
                let guard = (Counted(Arc::clone(&connections)), accepted.permit);
                let (answer, stop) = (answer.clone(), signal.clone());
                tasks.spawn_local(async move {
                    let _guard = guard;
                    match accepted.socket {
                        Socket::Tcp(socket, tls) => serve_tcp(socket, &tls, (limits, stop), answer).await,
                        Socket::Unix(socket) => {
                            if let Ok(socket) = tokio::net::UnixStream::from_std(socket) {
                                serve(socket, limits, stop, answer).await;
                            }
                        }
                    }
                });
            }
            Some(_) = tasks.join_next() => {}
            _ = stop.wait_for(|stopped| *stopped) => break,
        }
    }
    // Every connection has seen the same signal and is finishing its calls.
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections did not drain in time and are cut");
    }
}

/// Serves a connection once its handshake is done.
async fn serve_tcp<F, R>(
    socket: std::net::TcpStream,
    tls: &Tls,
    (limits, stop): (Limits, watch::Receiver<bool>),
    answer: F,
) where
    F: Fn(Request<Incoming>) -> R + 'static,
    R: Future<Output = Result<Response<Answer>, Infallible>> + 'static,
{
    let Ok(socket) = tokio::net::TcpStream::from_std(socket) else { return };
    let peer = socket.peer_addr().map(|address| address.ip()).ok();
    match tls.secure(socket, peer).await {
        Some(Secured::Plain(socket)) => serve(socket, limits, stop, answer).await,
        Some(Secured::Tls(stream)) => serve(*stream, limits, stop, answer).await,
        None => {}
    }
}

/// Serves one connection until it ends: by itself, by age, or by a stop.
async fn serve<IO, F, R>(io: IO, limits: Limits, mut stop: watch::Receiver<bool>, answer: F)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Fn(Request<Incoming>) -> R + 'static,
    R: Future<Output = Result<Response<Answer>, Infallible>> + 'static,
{
    let mut connection = pin!(
        http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(STREAM_BYTES_MAX)
            .max_send_buf_size(SEND_BYTES_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(RESETS_MAX)
            .max_header_list_size(CALL_HEADER_BYTES_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .serve_connection(TokioIo::new(io), service_fn(answer))
    );
    let mut end = pin!(async {
        let age = async {
            match limits.age {
                Some(age) => tokio::time::sleep(age).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = age => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
    });
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = &mut end => {
            // GOAWAY: calls in flight are answered, new ones go elsewhere.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Peers break connections off all the time.
        tracing::debug!(%error, "a connection broke");
    }
}

/// Runs tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
