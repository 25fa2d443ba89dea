//! Sinks: each empties a bounded queue of its own and sends what it holds. A sink that fails or stands still costs its own
//! items and nobody's time.

pub mod agent;
pub mod hook;
pub mod log;
pub mod post;
pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::config::data::OutboundConfig;
use crate::config::security::SecurityConfig;
use crate::config::server::{OtelConfig, WebhookConfig};
use crate::config::values::{Hook, LogLevel};
use crate::model::message::Compose;
use crate::net::client::{Client, Options};
use crate::telemetry::buffer::{Buffer, Full, SinkName};
use crate::telemetry::bus::{Bus, Outlets};
use crate::telemetry::events::EventRules;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otel::Otel;
use crate::telemetry::sinks::agent::{Agent, AgentError, Settings};
use crate::telemetry::sinks::post::Poster;

/// Payloads waiting for a hook.
const HOOK_QUEUE: usize = 1000;
/// Events waiting for the log.
const LOG_QUEUE: usize = 8192;
/// How long sinks may go on sending after they were told to stop.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Which sinks are on and how they send; follows from one snapshot.
#[derive(Clone, Debug)]
pub struct Plan {
    security: SecurityConfig,
    log_events: Option<LogLevel>,
    webhook: Option<WebhookConfig>,
    otel: OtelConfig,
    outbound: OutboundConfig,
    messages: Composers,
}

/// What the messages of hooks and webhook say; `None` says the payload itself.
#[derive(Clone, Debug, Default)]
pub struct Composers {
    /// Of `on_block`.
    pub on_block: Option<Arc<dyn Compose>>,
    /// Of `on_error`.
    pub on_error: Option<Arc<dyn Compose>>,
    /// Of the webhook.
    pub webhook: Option<Arc<dyn Compose>>,
}

impl Plan {
    /// The plan of a configuration.
    #[must_use]
    pub fn new(config: &Config, messages: Composers) -> Self {
        Self {
            security: config.security.clone(),
            log_events: config.telemetry.log_events,
            webhook: config.telemetry.webhook.clone(),
            otel: config.telemetry.otel.clone(),
            outbound: config.outbound.clone(),
            messages,
        }
    }

    /// True when the sinks of `other` need not change. What its messages say follows from the configuration, too.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.security == other.security
            && self.log_events == other.log_events
            && self.webhook == other.webhook
            && self.otel == other.otel
            && self.outbound == other.outbound
    }
}

/// The sinks of one plan, running.
#[derive(Debug)]
pub struct Sinks {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    outlets: Arc<Outlets>,
}

impl Sinks {
    /// Starts the sinks of a plan and lets `bus` tell them. Reads the system's certificates: not for a thread that
    /// serves requests.
    ///
    /// # Errors
    /// Why the agent cannot start, when `agent_strict` makes that fatal; nothing has changed then.
    pub fn start(plan: &Plan, bus: &Arc<Bus>, metrics: &Arc<Metrics>) -> Result<Self, AgentError> {
        let security = &plan.security;
        let options = options(&plan.outbound);
        let client = Client::new(&options);
        let client = client.map_err(|error| tracing::error!(%error, "nothing is sent over HTTP")).ok();
        let settings = match Settings::of(security) {
            Ok(settings) => settings,
            Err(error) if security.agent_strict => return Err(error),
            Err(error) => {
                tracing::error!(%error, "the agent is off");
                bus.failed("agent_init", &error.to_string());
                None
            }
        };
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let tally = |sink| bus.tallies().of(sink);
        let mut outlets = Outlets { rules: EventRules::new(security), ..Outlets::default() };
        if let Some(level) = plan.log_events {
            let queue = Buffer::new(LOG_QUEUE, 1, Full::DropNewest, tally(SinkName::Log));
            outlets.events.push(queue.clone());
            tasks.spawn(log::run(level, queue, stopped.clone()));
        }
        if let (Some(config), Some(client)) = (&plan.webhook, &client) {
            let capacity = usize::try_from(config.queue).unwrap_or(usize::MAX);
            let queue = Buffer::new(capacity, 1, Full::DropNewest, tally(SinkName::Webhook));
            outlets.events.push(queue.clone());
            let webhook = webhook::Webhook::new(config, client.clone(), plan.messages.webhook.clone());
            tasks.spawn(webhook.run(queue, Arc::clone(bus), stopped.clone()));
        }
        let mut start = |settings: &Option<Hook>, name: SinkName, message: &Option<Arc<dyn Compose>>| {
            let settings = settings.as_ref()?;
            let poster = match (&settings.url, &client) {
                (Some(url), Some(client)) => Some(Poster::new(client.clone(), url, settings.secret.clone())),
                (Some(_), None) | (None, _) => None,
            };
            let queue = Buffer::new(HOOK_QUEUE, 1, Full::DropNewest, tally(name));
            tasks.spawn(hook::Hook::new(name, poster, message.clone()).run(queue.clone(), stopped.clone()));
            Some(queue)
        };
        outlets.blocks = start(&security.on_block, SinkName::OnBlock, &plan.messages.on_block);
        outlets.errors = start(&security.on_error, SinkName::OnError, &plan.messages.on_error);
        let otel = client.as_ref().map(|client| Otel::of(security, &plan.otel, (client, &options))).transpose();
        match otel.map(Option::flatten) {
            Ok(Some(otel)) => {
                let queues = otel.queues(bus.tallies());
                outlets.tracer.clone_from(&queues.tracer);
                outlets.events.extend(queues.logs.clone());
                let told = (Arc::clone(metrics), bus.tallies().clone());
                tasks.spawn(otel.run(queues, told, stopped.clone()));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(error, "nothing is exported over OTLP"),
        }
        if let (Some(settings), Some(client)) = (settings, client) {
            let agent = Agent::new(settings, client, bus);
            outlets.events.extend(agent.events());
            tasks.spawn(agent.run(Arc::clone(metrics), Arc::clone(bus), stopped));
        }
        let outlets = Arc::new(outlets);
        // What the bus gives back are the queues of the plan before, which drain by themselves.
        drop(bus.replace(Arc::clone(&outlets)));
        Ok(Self { tasks, stop, outlets })
    }

    /// Lets the sinks send what they hold, for [`DRAIN_MAX`] at most; what is left then is counted as lost.
    pub async fn drain(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_MAX, all).await.is_err() {
            tracing::warn!("a telemetry sink was not done in time");
        }
        self.tasks.abort_all();
        self.outlets.abandon();
    }
}

/// How connections are opened. Without the file of authorities the system's serve: what needs the others fails and says so.
fn options(outbound: &OutboundConfig) -> Options {
    let connect_timeout = Duration::from_millis(outbound.connect_timeout_ms.into());
    Options::with_file(outbound.ca_file.as_deref(), connect_timeout).unwrap_or_else(|error| {
        tracing::error!(error, "outbound.ca_file cannot be read");
        Options { connect_timeout, ..Options::default() }
    })
}
