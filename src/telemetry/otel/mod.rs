//! OpenTelemetry: decisions as spans, events as log records, counts as metrics, over OTLP.
//!
//! Only the messages of the protocol are foreign; queues, batches and pauses are those of every other sink, so that their
//! bounds are ours.

mod encode;
mod link;
pub mod span;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::watch;

use crate::clock;
use crate::config::security::SecurityConfig;
use crate::config::server::{OtelConfig, OtlpProtocol};
use crate::net::client::{Client, Options};
use crate::telemetry::buffer::{Buffer, Full, SinkName, Tallies};
use crate::telemetry::events::Event;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otel::link::{Export, Link, Lost};
use crate::telemetry::otel::span::{Span, Tracer};
use crate::telemetry::sinks::hook::Complaints;

/// Spans or records in one message.
const BATCH_MAX: usize = 512;
/// Bytes of one message; receivers commonly take 4 MiB.
const MESSAGE_BYTES_MAX: usize = 2 << 20;
/// Longest wait of a span or record for its batch.
const LINGER: Duration = Duration::from_secs(1);
/// The first pause after a failure, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What to export, and where to.
#[derive(Debug)]
pub(super) struct Otel {
    config: OtelConfig,
    resource: Resource,
    link: Link,
}

/// The queues of what is exported.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) tracer: Option<Tracer>,
    pub(super) logs: Option<Buffer<Arc<Event>>>,
}

impl Otel {
    /// `None` when nothing is exported; an error says why nothing can be.
    pub(super) fn of(
        security: &SecurityConfig,
        config: &OtelConfig,
        (client, options): (&Client, &Options),
    ) -> Result<Option<Self>, String> {
        if !security.enable_otel {
            return Ok(None);
        }
        let standard = match config.protocol {
            OtlpProtocol::Http => "http://localhost:4318",
            OtlpProtocol::Grpc => "http://localhost:4317",
        };
        let url = security.otel_exporter_endpoint.as_deref().unwrap_or(standard);
        let headers = config.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
        let timeout = Duration::from_secs(config.timeout.into());
        let link = match config.protocol {
            OtlpProtocol::Http => Link::http(client.clone(), url, headers, timeout),
            OtlpProtocol::Grpc => Link::grpc(url, headers, timeout, options)?,
        };
        let attributes = security.otel_resource_attributes.clone().into_iter();
        let resource = encode::resource(&security.otel_service_name, attributes);
        Ok(Some(Self { config: config.clone(), resource, link }))
    }

    /// The queues for what is exported.
    pub(super) fn queues(&self, tallies: &Tallies) -> Queues {
        let capacity = usize::try_from(self.config.queue).unwrap_or(usize::MAX);
        let mark = BATCH_MAX.min(capacity);
        let tracer = self.config.traces.then(|| Tracer {
            queue: Buffer::new(capacity, mark, Full::DropNewest, tallies.of(SinkName::OtelTraces)),
            sampling: self.config.sampling,
            keeps_denials: self.config.sample_denials,
        });
        let logs = || Buffer::new(capacity, mark, Full::DropNewest, tallies.of(SinkName::OtelLogs));
        Queues { tracer, logs: self.config.logs.then(logs) }
    }

    /// Sends until told to stop, and then what is left.
    pub(super) async fn run(
        self,
        queues: Queues,
        (metrics, tallies): (Arc<Metrics>, Tallies),
        stop: watch::Receiver<bool>,
    ) {
        let spans = async {
            if let Some(tracer) = &queues.tracer {
                let export = |spans: &[Span]| Export::Traces(encode::traces(&self.resource, spans));
                self.empty((&tracer.queue, SinkName::OtelTraces), export, stop.clone()).await;
            }
        };
        let logs = async {
            if let Some(queue) = &queues.logs {
                let export = |events: &[Arc<Event>]| Export::Logs(encode::logs(&self.resource, events));
                self.empty((queue, SinkName::OtelLogs), export, stop.clone()).await;
            }
        };
        let numbers = async {
            if self.config.metrics {
                self.measure(&metrics, &tallies, stop.clone()).await;
            }
        };
        tokio::join!(spans, logs, numbers);
    }

    async fn empty<T>(
        &self,
        (queue, name): (&Buffer<T>, SinkName),
        export: impl Fn(&[T]) -> Export,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut complaints = Complaints::default();
        let mut pause = Pause::default();
        loop {
            tokio::select! {
                () = queue.filled(), if !pause.is_on() => {}
                () = tokio::time::sleep(pause.length()) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
            let is_last = *stop.borrow();
            loop {
                let items = queue.take(BATCH_MAX);
                if items.is_empty() {
                    break;
                }
                let (message, items) = fitting(queue, items, &export);
                let underway = queue.tally().underway(items.len());
                match self.link.send(message).await {
                    Ok(taken) => {
                        underway.arrived_but(taken.rejected);
                        pause = Pause::default();
                        if taken.rejected == 0 {
                            complaints.forget(name);
                        } else {
                            queue.tally().failed();
                            complaints.complain(name, &format!("some were thrown away: {}", taken.why));
                        }
                    }
                    Err(Lost::Never(why)) => {
                        queue.tally().failed();
                        drop(underway);
                        complaints.complain(name, &why);
                    }
                    Err(Lost::Later(why, wait)) => {
                        queue.tally().failed();
                        underway.returned();
                        queue.put_back(items);
                        complaints.complain(name, &why);
                        pause = pause.next(wait);
                        break;
                    }
                }
            }
            if is_last {
                queue.abandon();
                return;
            }
        }
    }

    /// Sends all numbers now and then, and at the end.
    async fn measure(&self, metrics: &Metrics, tallies: &Tallies, mut stop: watch::Receiver<bool>) {
        let (start, tally, mut complaints) = (clock::now(), tallies.of(SinkName::OtelMetrics), Complaints::default());
        loop {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(self.config.interval.into())) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
            let families = metrics.families();
            let export = Export::Metrics(encode::metrics(&self.resource, &families, (start, clock::now())));
            match self.link.send(export).await {
                Ok(taken) => {
                    tally.delivered(families.len());
                    if taken.rejected == 0 {
                        complaints.forget(SinkName::OtelMetrics);
                    } else {
                        tally.failed();
                        complaints.complain(SinkName::OtelMetrics, &format!("some were thrown away: {}", taken.why));
                    }
                }
                // The next message holds these numbers, too.
                Err(Lost::Later(why, _) | Lost::Never(why)) => {
                    tally.failed();
                    complaints.complain(SinkName::OtelMetrics, &why);
                }
            }
            if *stop.borrow() {
                return;
            }
        }
    }
}

/// How long nothing is sent: a moment for a batch to fill, and longer after a failure.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Pause(Option<Duration>);

impl Pause {
    const fn is_on(self) -> bool {
        self.0.is_some()
    }

    /// Spread by chance, so that replicas that failed together do not come back together.
    fn length(self) -> Duration {
        self.0.map_or(LINGER, |pause| pause.mul_f64(rand::random_range(0.5..=1.0)))
    }

    /// The pause after one more failure; `asked` is what the receiver wants.
    fn next(self, asked: Option<Duration>) -> Self {
        let grown = self.0.map_or(PAUSE, |pause| pause.saturating_mul(2));
        Self(Some(asked.map_or(grown, |asked| asked.max(grown)).min(PAUSE_MAX)))
    }
}

/// A message of as many items as it can hold, and these; the others wait again.
fn fitting<T>(queue: &Buffer<T>, mut items: Vec<T>, export: impl Fn(&[T]) -> Export) -> (Export, Vec<T>) {
    loop {
        let message = export(&items);
        if items.len() <= 1 || message.len() <= MESSAGE_BYTES_MAX {
            return (message, items);
        }
        queue.put_back(items.split_off(items.len() / 2));
    }
}

#[cfg(test)]
mod tests;
