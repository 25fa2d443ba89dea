//! Spans, events and numbers as the messages of OTLP.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan, SpanFlags, Status};

use crate::model::decision::FactValue;
use crate::model::time::Timestamp;
use crate::telemetry::events::Event;
use crate::telemetry::families::{Family, Kind, Value};
use crate::telemetry::otel::span::{Span, nanos};

/// Who sends.
pub(super) fn resource(service: &str, attributes: impl Iterator<Item = (String, String)>) -> Resource {
    let own = [("service.name", service), ("service.version", env!("CARGO_PKG_VERSION"))];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let attributes = own.chain(attributes).map(|(key, value)| pair(&key, Any::StringValue(value))).collect();
    Resource { attributes, ..Resource::default() }
}

fn scope() -> Option<InstrumentationScope> {
    let (name, version) = ("envoy-guard".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    Some(InstrumentationScope { name, version, ..InstrumentationScope::default() })
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn any(value: &FactValue) -> Option<Any> {
    Some(match value {
        FactValue::Text(text) => Any::StringValue(text.clone()),
        FactValue::Int(number) => Any::IntValue(*number),
        FactValue::Float(number) => Any::DoubleValue(*number),
        FactValue::Bool(flag) => Any::BoolValue(*flag),
        FactValue::List(items) => Any::ArrayValue(ArrayValue {
            values: items.iter().map(|item| AnyValue { value: Some(Any::StringValue(item.clone())) }).collect(),
        }),
        FactValue::Null => return None,
    })
}

pub(super) fn traces(resource: &Resource, spans: &[Span]) -> ExportTraceServiceRequest {
    let span = |span: &Span| WireSpan {
        trace_id: span.own.trace_id.to_bytes().to_vec(),
        span_id: span.own.span_id.to_bytes().to_vec(),
        trace_state: span.state.clone(),
        parent_span_id: span.parent_id.map(|id| id.to_bytes().to_vec()).unwrap_or_default(),
        name: "guard.decision".to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: span.attributes().filter_map(|(key, value)| Some(pair(key, any(&value)?))).collect(),
        status: span.is_failure().then(|| Status { code: StatusCode::Error.into(), ..Status::default() }),
        flags: span_flags(span),
        ..WireSpan::default()
    };
    let scope = ScopeSpans { scope: scope(), spans: spans.iter().map(span).collect(), ..ScopeSpans::default() };
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![scope], ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

/// The flags of the trace; that the parent is known to be somebody else's, or that there is none.
fn span_flags(span: &Span) -> u32 {
    let parent = if span.parent_id.is_some() { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    u32::from(span.flags.to_u8()) | SpanFlags::ContextHasIsRemoteMask as u32 | parent
}

pub(super) fn logs(resource: &Resource, events: &[std::sync::Arc<Event>]) -> ExportLogsServiceRequest {
    let log_records = events.iter().map(|event| record(event)).collect();
    let scope = ScopeLogs { scope: scope(), log_records, ..ScopeLogs::default() };
    let resource_logs =
        vec![ResourceLogs { resource: Some(resource.clone()), scope_logs: vec![scope], ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }
}

fn record(event: &Event) -> LogRecord {
    let text = |text: &str| Any::StringValue(text.to_owned());
    let known = [
        ("guard.event_type", Some(text(event.kind.name()))),
        ("guard.action_taken", Some(text(&event.action))),
        ("guard.ip_address", Some(text(&event.address))),
        ("guard.handler_name", event.handler.map(text)),
        ("guard.endpoint", event.endpoint.as_deref().map(text)),
        ("guard.method", event.method.as_deref().map(text)),
        ("guard.country", event.country.as_ref().map(|code| text(code.as_str()))),
        ("guard.idempotency_key", Some(Any::StringValue(event.key.to_string()))),
        ("user_agent.original", event.user_agent.as_deref().map(text)),
    ];
    let known = known.into_iter().filter_map(|(key, value)| Some(pair(key, value?)));
    let metadata =
        event.metadata.iter().filter_map(|(key, value)| Some(pair(&format!("guard.metadata.{key}"), any(value)?)));
    LogRecord {
        time_unix_nano: nanos(event.at),
        observed_time_unix_nano: nanos(event.at),
        severity_number: SeverityNumber::Warn.into(),
        severity_text: "WARN".to_owned(),
        body: Some(AnyValue { value: Some(text(&event.reason)) }),
        attributes: known.chain(metadata).collect(),
        trace_id: event.trace.map(|joined| joined.trace_id.to_bytes().to_vec()).unwrap_or_default(),
        span_id: event.trace.map(|joined| joined.span_id.to_bytes().to_vec()).unwrap_or_default(),
        event_name: format!("guard.event.{}", event.kind.name()),
        ..LogRecord::default()
    }
}

pub(super) fn metrics(
    resource: &Resource,
    families: &[Family],
    (start, now): (Timestamp, Timestamp),
) -> ExportMetricsServiceRequest {
    let metrics = families.iter().map(|family| metric(family, (nanos(start), nanos(now)))).collect();
    let scope = ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() };
    let resource = Some(resource.clone());
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics: vec![scope], ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

fn metric(family: &Family, (start, now): (u64, u64)) -> Metric {
    let attributes = |labels: &[(&'static str, String)]| {
        labels.iter().map(|(key, value)| pair(key, Any::StringValue(value.clone()))).collect::<Vec<_>>()
    };
    let mut numbers = Vec::new();
    let mut histograms = Vec::new();
    for point in &family.points {
        let attributes = attributes(&point.labels);
        match &point.value {
            Value::Count(value) => numbers.push(NumberDataPoint {
                attributes,
                start_time_unix_nano: start,
                time_unix_nano: now,
                value: Some(Number::AsInt(i64::try_from(*value).unwrap_or(i64::MAX))),
                ..NumberDataPoint::default()
            }),
            Value::Histogram { seconds, buckets } => histograms.push(HistogramDataPoint {
                attributes,
                start_time_unix_nano: start,
                time_unix_nano: now,
                count: buckets.iter().map(|(_, count)| count).sum(),
                sum: Some(*seconds),
                bucket_counts: buckets.iter().map(|(_, count)| *count).collect(),
                explicit_bounds: buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect(),
                ..HistogramDataPoint::default()
            }),
        }
    }
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let (unit, data) = match family.kind {
        Kind::Counter => ("1", Data::Sum(Sum { data_points: numbers, aggregation_temporality, is_monotonic: true })),
        Kind::Gauge => ("1", Data::Gauge(Gauge { data_points: numbers })),
        Kind::Histogram => ("s", Data::Histogram(Histogram { data_points: histograms, aggregation_temporality })),
    };
    Metric {
        name: format!("envoy_guard.{}", family.name),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}
