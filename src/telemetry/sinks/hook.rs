//! `on_block` and `on_error`: each payload by itself, to a webhook or, without one, into the log. Here it becomes JSON.

use std::sync::Arc;

use tokio::sync::watch;

use crate::model::message::Compose;
use crate::telemetry::buffer::{Buffer, SinkName};
use crate::telemetry::events::payload::Payload;
use crate::telemetry::sinks::post::Poster;

/// One hook.
#[derive(Debug)]
pub(super) struct Hook {
    name: SinkName,
    poster: Option<Poster>,
    message: Option<Arc<dyn Compose>>,
}

impl Hook {
    pub(super) const fn new(name: SinkName, poster: Option<Poster>, message: Option<Arc<dyn Compose>>) -> Self {
        Self { name, poster, message }
    }

    /// Sends until told to stop, and then what is left.
    pub(super) async fn run(self, queue: Buffer<Payload>, mut stop: watch::Receiver<bool>) {
        let mut complaints = Complaints::default();
        loop {
            let is_last = *stop.borrow();
            while let Some(payload) = queue.take(1).pop() {
                let underway = queue.tally().underway(1);
                match self.send(&payload, &queue).await {
                    Ok(()) => {
                        underway.arrived();
                        complaints.forget(self.name);
                    }
                    Err(error) => complaints.complain(self.name, &error),
                }
            }
            if is_last {
                return;
            }
            tokio::select! {
                () = queue.filled() => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn send(&self, payload: &Payload, queue: &Buffer<Payload>) -> Result<(), String> {
        let payload = payload.json();
        let message = match &self.message {
            Some(message) => message.compose(&payload)?,
            None => payload,
        };
        match &self.poster {
            Some(poster) => poster.post(&message, || queue.tally().failed()).await.map_err(|error| error.to_string()),
            None => {
                let text = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
                tracing::warn!(target: "hook", hook = self.name.name(), "{}", text.replace(char::is_control, " "));
                Ok(())
            }
        }
    }
}

/// Complaints about a sink: each different one once, and again after it changed.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Complaints(String);

impl Complaints {
    pub(in crate::telemetry) fn complain(&mut self, sink: SinkName, error: &str) {
        if self.0 == error {
            return;
        }
        tracing::warn!(sink = sink.name(), error, "a telemetry sink cannot deliver");
        error.clone_into(&mut self.0);
    }

    /// All is well again.
    pub(in crate::telemetry) fn forget(&mut self, sink: SinkName) {
        if !self.0.is_empty() {
            tracing::info!(sink = sink.name(), "a telemetry sink delivers again");
            self.0.clear();
        }
    }
}
