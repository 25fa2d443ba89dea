//! The thread that sends telemetry: it has a runtime of its own, so that nothing it does holds up a request.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::telemetry::bus::{Bus, Outlets};
use crate::telemetry::losses;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sinks::agent::AgentError;
use crate::telemetry::sinks::{Plan, Sinks};

/// Why telemetry cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExporterError {
    /// The agent cannot start, and `agent_strict` makes that fatal.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The process lacks something.
    #[error("telemetry cannot start: {0}")]
    Io(#[from] io::Error),
}

/// What the thread was last told.
#[derive(Clone, Debug)]
enum Order {
    Follow(Box<Plan>),
    Stop,
}

/// The running thread.
#[derive(Debug)]
pub struct Exporters {
    orders: watch::Sender<Order>,
    thread: JoinHandle<()>,
}

impl Exporters {
    /// Starts the thread and the sinks of a plan.
    ///
    /// # Errors
    /// When there is no thread, or the agent is strict and cannot start.
    pub fn start(plan: Plan, bus: Arc<Bus>, metrics: Arc<Metrics>) -> Result<Self, ExporterError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, heard) = watch::channel(Order::Follow(Box::new(plan)));
        let (started, outcome) = sync_channel(1);
        let thread = std::thread::Builder::new().name("telemetry".to_owned());
        let thread = thread.spawn(move || runtime.block_on(run(heard, (bus, metrics), &started)))?;
        let gone = |_| ExporterError::Io(io::Error::other("its thread ended"));
        outcome.recv().map_err(gone)??;
        Ok(Self { orders, thread })
    }

    /// Changes the sinks to those of another plan; what the old ones hold is still sent.
    pub fn follow(&self, plan: Plan) {
        self.orders.send_replace(Order::Follow(Box::new(plan)));
    }

    /// Sends what is left, for a bounded time. Blocks.
    pub fn stop(self) {
        self.orders.send_replace(Order::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the telemetry thread ended in a panic");
        }
    }
}

async fn run(
    mut orders: watch::Receiver<Order>,
    (bus, metrics): (Arc<Bus>, Arc<Metrics>),
    started: &SyncSender<Result<(), AgentError>>,
) {
    let mut running: Option<(Box<Plan>, Sinks)> = None;
    // Ends with this function.
    let mut watch = tokio::task::JoinSet::new();
    watch.spawn(losses::watch(bus.tallies().clone()));
    let mut old = tokio::task::JoinSet::new();
    loop {
        let order = orders.borrow_and_update().clone();
        let Order::Follow(plan) = order else { break };
        if !running.as_ref().is_some_and(|(known, _)| known.is_same(&plan)) {
            match Sinks::start(&plan, &bus, &metrics) {
                Ok(sinks) => {
                    let before = running.replace((plan, sinks));
                    if let Some((_, sinks)) = before {
                        old.spawn(sinks.drain());
                    }
                }
                Err(error) if running.is_none() => {
                    // Whoever started us is told why, or has gone.
                    drop(started.send(Err(error)));
                    return;
                }
                Err(error) => tracing::error!(%error, "telemetry stays as it was"),
            }
        }
        started.try_send(Ok(())).unwrap_or_default();
        while old.try_join_next().is_some() {}
        if orders.changed().await.is_err() {
            break;
        }
    }
    drop(bus.replace(Arc::new(Outlets::default())));
    if let Some((_, sinks)) = running {
        old.spawn(sinks.drain());
    }
    // Each of them is bounded in time.
    while old.join_next().await.is_some() {}
}
