//! `telemetry.webhook`: all events, in signed batches.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock;
use crate::config::server::WebhookConfig;
use crate::model::event::EventType;
use crate::model::message::Compose;
use crate::net::client::Client;
use crate::telemetry::buffer::{Buffer, SinkName};
use crate::telemetry::bus::Bus;
use crate::telemetry::events::Event;
use crate::telemetry::events::json::Style;
use crate::telemetry::events::system;
use crate::telemetry::sinks::hook::Complaints;
use crate::telemetry::sinks::post::Poster;

/// The webhook of a configuration.
#[derive(Debug)]
pub(super) struct Webhook {
    poster: Poster,
    message: Option<Arc<dyn Compose>>,
    batch: usize,
    linger: Duration,
}

impl Webhook {
    pub(super) fn new(config: &WebhookConfig, client: Client, message: Option<Arc<dyn Compose>>) -> Self {
        let poster = Poster::new(client, &config.url, config.secret.clone())
            .with_patience(Duration::from_secs(config.timeout.into()), config.retries);
        Self {
            poster,
            message,
            batch: usize::try_from(config.batch).unwrap_or(usize::MAX),
            linger: Duration::from_millis(config.linger_ms.into()),
        }
    }

    /// Sends until told to stop, and then what is left.
    pub(super) async fn run(self, queue: Buffer<Arc<Event>>, bus: Arc<Bus>, mut stop: watch::Receiver<bool>) {
        let mut complaints = Complaints::default();
        loop {
            tokio::select! {
                () = queue.filled() => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
            // Events come in crowds; a batch waits for the rest of its crowd.
            if !*stop.borrow() && queue.len() < self.batch {
                tokio::select! {
                    () = tokio::time::sleep(self.linger) => {}
                    changed = stop.changed() => if changed.is_err() { return },
                }
            }
            let is_last = *stop.borrow();
            loop {
                let events = queue.take(self.batch);
                if events.is_empty() {
                    break;
                }
                let underway = queue.tally().underway(events.len());
                let sent = match self.compose(&events) {
                    Ok(message) => self.send(&message, &queue).await,
                    Err(error) => {
                        unheard(&events, &error, &bus);
                        Err(error)
                    }
                };
                match sent {
                    Ok(()) => {
                        underway.arrived();
                        complaints.forget(SinkName::Webhook);
                    }
                    Err(error) => {
                        complaints.complain(SinkName::Webhook, &error);
                        bus.failed("webhook", &error);
                    }
                }
            }
            if is_last {
                return;
            }
        }
    }

    fn compose(&self, events: &[Arc<Event>]) -> Result<Value, String> {
        let events: Value = events.iter().map(|event| event.envelope(Style::Joined)).collect();
        match &self.message {
            Some(message) => message.compose(&events),
            None => Ok(json!({ "events": events })),
        }
    }

    async fn send(&self, message: &Value, queue: &Buffer<Arc<Event>>) -> Result<(), String> {
        self.poster.post(message, || queue.tally().failed()).await.map_err(|error| error.to_string())
    }
}

/// The operator's expression was to hear of these and failed: of anomalies that is an event of its own, as it is where a
/// callback of the application hears of them. What it says of other events is in the log and in `on_error`.
fn unheard(events: &[Arc<Event>], error: &str, bus: &Bus) {
    use EventType::{PatternAnomalySlowExecution, PatternAnomalyStatisticalAnomaly, PatternAnomalyTimeout};
    const ANOMALIES: [EventType; 3] =
        [PatternAnomalyTimeout, PatternAnomalySlowExecution, PatternAnomalyStatisticalAnomaly];
    for event in events.iter().filter(|event| ANOMALIES.contains(&event.kind)) {
        bus.system(system::callback_failed(clock::now(), error, event.kind));
    }
}
