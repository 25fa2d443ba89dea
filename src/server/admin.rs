//! The HTTP port for operators: is it alive, is it ready, what does it count, what does it run by.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::config::server::AdminConfig;
use crate::server::access::{self, Caller, Way};
use crate::server::api::{self, Control};
use crate::server::gate::Gate;
use crate::server::listen::{ListenError, UnixDoor, open_tcp};
use crate::server::tls::Secured;
use crate::telemetry::metrics::Metrics;

/// Media type of the metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take for a request's head, and stay idle between requests.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before accepting again when the process is out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages show. Read anew for each call.
pub trait Report: Send + Sync + 'static {
    /// True when the service decides requests, and the details of why or why not.
    fn readiness(&self) -> (bool, Value);
    /// The effective configuration without its secrets, with hash, version and remarks.
    fn config(&self) -> Value;
    /// How long detection takes, what stands out, and which parts of it run.
    fn stats(&self) -> Value;
}

/// The pages. Who probes or scrapes needs nothing; what shows more than that is for operators.
pub fn pages<R: Report, C: Control>(report: Arc<R>, control: Arc<C>, metrics: Arc<Metrics>, gate: Arc<Gate>) -> Router {
    let api = api::routes(control, Arc::clone(&gate));
    let shown = Router::new()
        .route("/config", get(async |State(report): State<Arc<R>>| Json(report.config())))
        .route("/stats", get(async |State(report): State<Arc<R>>| Json(report.stats())))
        .with_state(Arc::clone(&report))
        .layer(axum::middleware::from_fn_with_state(gate, access::guard));
    let ready = Router::new().route("/readyz", get(readyz::<R>)).with_state(report);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(async |State(metrics): State<Arc<Metrics>>| metrics_page(&metrics)))
        .with_state(metrics)
        .merge(ready)
        .merge(shown)
        .merge(api)
}

/// The ways to the admin port, open.
#[derive(Debug)]
pub struct Doors {
    tcp: Option<TcpListener>,
    unix: Option<UnixDoor>,
    gate: Arc<Gate>,
}

/// A connection, and how it came.
enum Visit {
    Tcp(TcpStream, Way),
    Unix(UnixStream),
}

impl Doors {
    /// Opens what the configuration asks for; `None` when it asks for nothing. Must run inside a runtime.
    pub async fn open(config: &AdminConfig, gate: Arc<Gate>) -> Result<Option<Self>, ListenError> {
        let tcp = open_tcp("admin.address", config.address).await?;
        let unix = config.unix.as_ref().map(|path| UnixDoor::open("admin.unix", path, &config.unix_mode));
        let unix = unix.transpose()?;
        Ok((tcp.is_some() || unix.is_some()).then_some(Self { tcp, unix, gate }))
    }

    async fn accept(&self) -> std::io::Result<Visit> {
        let tcp = async {
            let Some(listener) = &self.tcp else { return std::future::pending().await };
            let (socket, _) = listener.accept().await?;
            let is_local = socket.local_addr().is_ok_and(|address| address.ip().is_loopback())
                && listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
            Ok(Visit::Tcp(socket, if is_local { Way::Loopback } else { Way::Network }))
        };
        let unix = async {
            let Some(door) = &self.unix else { return std::future::pending().await };
            door.accept().await.map(Visit::Unix)
        };
        tokio::select! { visit = tcp => visit, visit = unix => visit }
    }
}

async fn readyz<R: Report>(State(report): State<Arc<R>>) -> impl IntoResponse {
    let (ready, details) = report.readiness();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(details))
}

fn metrics_page(metrics: &Metrics) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.text())
}

/// Serves the pages until `stop` says so. Connections beyond [`CONNECTIONS_MAX`] wait in the kernel's queue; one that
/// sends no request within [`HEADER_TIMEOUT`] is cut, so that idle ones cannot keep the others out.
pub async fn serve(doors: Doors, pages: Router, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (permit, doors.accept().await)
        };
        tokio::select! {
            (permit, accepted) = accepted => match accepted {
                Ok(visit) => {
                    let (pages, stop, gate) = (pages.clone(), stop.clone(), Arc::clone(&doors.gate));
                    connections.spawn(async move {
                        let _permit = permit;
                        receive(visit, &gate, pages, stop).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut stop) => break,
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(HEADER_TIMEOUT, drained).await.is_err() {
        tracing::debug!("connections of the admin port are cut");
    }
}

/// Waits for the stop. An error means that whoever would tell is gone: that is a stop too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stopped| *stopped).await.map(drop).unwrap_or_default();
}

/// Finds out who is calling, then answers.
async fn receive(visit: Visit, gate: &Gate, pages: Router, stop: watch::Receiver<bool>) {
    let (socket, way) = match visit {
        Visit::Unix(socket) => {
            return answer(socket, Caller { way: Way::Unix, certificate: None }, pages, stop).await;
        }
        Visit::Tcp(socket, way) => (socket, way),
    };
    let peer = socket.peer_addr().map(|address| address.ip()).ok();
    let Some(secured) = gate.admin.secure(socket, peer).await else { return };
    let caller = Caller { way, certificate: secured.peer() };
    match secured {
        Secured::Plain(socket) => answer(socket, caller, pages, stop).await,
        Secured::Tls(stream) => answer(*stream, caller, pages, stop).await,
    }
}

/// Answers one connection until it ends, or until its current request is answered after a stop.
async fn answer<IO>(socket: IO, caller: Caller, pages: Router, mut stop: watch::Receiver<bool>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        pages.clone().oneshot(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service)
    );
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the admin port broke");
    }
}
