//! `serve`: from a configuration to a running service, and back to nothing.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::app::Source;
use crate::config::Config;
use crate::detect::Detector;
use crate::engine::policy::{Feeds, Policy};
use crate::grpc::DESCRIPTORS;
use crate::grpc::authz::{self, Authz};
use crate::live::{Live, Snapshot};
use crate::server::listen::{ListenError, Listeners};
use crate::server::service::Services;
use crate::server::worker::{Limits, Worker};
use crate::state::Backend;
use crate::state::memory::Memory;
use crate::telemetry::Recorder;
use crate::telemetry::metrics::Metrics;

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// A listener cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The process lacks something.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    /// The reflection descriptors do not fit together.
    #[error("cannot start reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Loads and compiles the configuration.
pub fn load(source: &Source) -> Result<Snapshot, ServeError> {
    let config = match &source.config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ServeError::Config(format!("{}: {error}", path.display())))?;
            serde_saphyr::from_str(&text).map_err(|error| ServeError::Config(format!("{}: {error}", path.display())))?
        }
        None => Config::default(),
    };
    snapshot(config, 1)
}

fn snapshot(config: Config, version: u64) -> Result<Snapshot, ServeError> {
    let refused = |errors: Vec<String>| ServeError::Config(errors.join("\n"));
    let detector = Detector::compile(&config.security, &config.detection)
        .map_err(|errors| refused(errors.iter().map(ToString::to_string).collect()))?;
    let policy = Policy::compile(&config, &Feeds::default(), Arc::new(detector))
        .map_err(|errors| refused(errors.iter().map(ToString::to_string).collect()))?;
    Ok(Snapshot { policy, config: Arc::new(config), version, hash: String::new() })
}

/// Serves until SIGTERM or SIGINT.
pub fn serve(source: &Source) -> Result<(), ServeError> {
    let live = Live::new(load(source)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(live))
}

async fn run(live: Arc<Live>) -> Result<(), ServeError> {
    let snapshot = live.snapshot();
    let config = &snapshot.config;
    let listeners = Listeners::open(&config.listeners).await?;
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let (health, routes) = common_services().await?;
    let (stop, stopped) = watch::channel(false);
    let workers = start_workers(&live, &metrics, &routes, &stopped)?;
    tracing::info!(address = ?listeners.tcp_address(), workers = workers.len(), "ready");

    let accept = listeners.accept(&workers, config.limits.max_connections as usize, stopped);
    let stop = async {
        let signal = stop_signal().await;
        tracing::info!(signal = signal?, "stopping");
        health.set_service_status("", ServingStatus::NotServing).await;
        health.set_service_status(authz::SERVICE, ServingStatus::NotServing).await;
        stop.send_replace(true);
        Ok::<_, io::Error>(())
    };
    let ((), stopped) = tokio::join!(accept, stop);
    stopped?;
    for worker in workers {
        worker.join();
    }
    Ok(())
}

/// Health and reflection, and the reporter that changes health.
async fn common_services() -> Result<(HealthReporter, Routes), ServeError> {
    let (health, service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_service_status(authz::SERVICE, ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(authz::SERVICE)
        .build_v1()?;
    Ok((health, Routes::new(service).add_service(reflection).prepare()))
}

fn start_workers(
    live: &Arc<Live>,
    metrics: &Metrics,
    routes: &Routes,
    stop: &watch::Receiver<bool>,
) -> io::Result<Vec<Worker>> {
    let snapshot = live.snapshot();
    let config = &snapshot.config;
    let count = match config.listeners.workers {
        0 => std::thread::available_parallelism()?.get(),
        workers => usize::from(workers),
    };
    let state = Arc::new(Backend::Memory(Memory::new(config.limits.memory_clients as usize)));
    (0..count)
        .map(|index| {
            let (live, routes, state) = (Arc::clone(live), routes.clone(), Arc::clone(&state));
            let recorder = Recorder::new(metrics);
            Worker::spawn(index, Limits::from(&config.limits), stop.clone(), move || {
                let services = Rc::new(Services { authz: Authz::new(&live, state, recorder), others: routes });
                move |call| Rc::clone(&services).call(call)
            })
        })
        .collect()
}

async fn stop_signal() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
