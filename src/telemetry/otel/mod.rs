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
use crate::net::client::Client;
use crate::telemetry::buffer::{Buffer, Full, SinkName, Tallies};
use crate::telemetry::events::Event;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otel::link::{Export, Link, Lost};
use crate::telemetry::otel::span::{Span, Tracer};
use crate::telemetry::sinks::hook::Complaints;

/// Spans or records in one message.
const BATCH_MAX: usize = 512;
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
    pub(super) fn of(security: &SecurityConfig, config: &OtelConfig, client: &Client) -> Result<Option<Self>, String> {
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
            OtlpProtocol::Http => Link::Http { client: client.clone(), base: url.to_owned(), headers, timeout },
            OtlpProtocol::Grpc => Link::grpc(url, headers, timeout)?,
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
        let (mut complaints, mut pause) = (Complaints::default(), PAUSE);
        loop {
            let wait = if pause == PAUSE { LINGER } else { pause };
            tokio::select! {
                () = queue.filled(), if pause == PAUSE => {}
                () = tokio::time::sleep(wait) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
            let is_last = *stop.borrow();
            loop {
                let items = queue.take(BATCH_MAX);
                if items.is_empty() {
                    break;
                }
                match self.link.send(export(&items)).await {
                    Ok(()) => {
                        queue.tally().delivered(items.len());
                        complaints.forget(name);
                        pause = PAUSE;
                    }
                    Err(Lost::Never(why)) => {
                        queue.tally().failed();
                        queue.tally().dropped(items.len());
                        complaints.complain(name, &why);
                    }
                    Err(Lost::Later(why)) => {
                        queue.tally().failed();
                        complaints.complain(name, &why);
                        queue.put_back(items);
                        pause = pause.saturating_mul(2).min(PAUSE_MAX);
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
                Ok(()) => {
                    tally.delivered(families.len());
                    complaints.forget(SinkName::OtelMetrics);
                }
                // The next message holds these numbers, too.
                Err(Lost::Later(why) | Lost::Never(why)) => {
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
