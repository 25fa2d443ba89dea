//! What the service adds around the policy: listeners, limits, admin port, telemetry.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::config::formats;
use crate::config::tls::ServerTls;
use crate::config::values::{Expression, LogLevel, Secret, redact_webhook};

/// `listeners:`: where Envoy finds us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenersConfig {
    /// TCP address of the gRPC services; null turns it off.
    #[schemars(with = "Option<formats::Socket>")]
    pub grpc: Option<SocketAddr>,
    /// Unix socket of the gRPC services.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub unix: Option<PathBuf>,
    /// Mode of the socket file, in octal.
    #[schemars(with = "formats::FileMode")]
    pub unix_mode: String,
    /// TLS on the TCP address; without it whoever reaches the address is answered. A Unix socket has its mode.
    pub tls: Option<ServerTls>,
    /// Request threads; 0 means one per core.
    #[schemars(range(min = 0, max = 1024))]
    pub workers: u16,
}

impl Default for ListenersConfig {
    fn default() -> Self {
        Self {
            grpc: Some(SocketAddr::from(([127, 0, 0, 1], 50051))),
            unix: None,
            unix_mode: "0660".to_owned(),
            tls: None,
            workers: 0,
        }
    }
}

/// `limits:`: the named bounds of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Largest gRPC message taken, in bytes; more than Envoy's `max_request_bytes`.
    #[schemars(range(min = 4096, max = 268435456))]
    pub max_message_bytes: u32,
    /// HTTP/2 streams per connection.
    #[schemars(range(min = 1, max = 1000000))]
    pub max_concurrent_streams: u32,
    /// Connections at once.
    #[schemars(range(min = 1, max = 1000000))]
    pub max_connections: u32,
    /// Seconds after which a connection is asked to end, so that load evens out; 0 means never.
    pub max_connection_age: u32,
    /// Seconds that in-flight requests may take after a stop signal.
    #[schemars(range(min = 0, max = 3600))]
    pub drain_seconds: u32,
    /// Clients whose bans, counts and windows are kept in memory; the least recently used goes first.
    #[schemars(range(min = 1, max = 10000000))]
    pub memory_clients: u32,
    /// Milliseconds that state may take for one request.
    #[schemars(range(min = 1, max = 60000))]
    pub state_deadline_ms: u32,
    /// Body bytes that one worker may hold for inspection at once, over all exchanges of ext_proc; a body that finds
    /// no room is refused with 503.
    #[schemars(range(min = 1048576, max = 4294967295u32))]
    pub max_gathered_bytes: u32,
    /// Requests that one worker may slow down at once (`delay_ms` of a behaviour rule); one more gets 429.
    #[schemars(range(min = 0, max = 65536))]
    pub max_delayed_requests: u32,
    /// Seconds of silence after which an ext_proc stream is given up; more than Envoy's own idle timeouts.
    #[schemars(range(min = 1, max = 86400))]
    pub stream_idle_seconds: u32,
    /// Messages that one ext_proc stream may bring; an exchange with more parts is ended as a failure. Each part of a
    /// body is a message.
    #[schemars(range(min = 16, max = 4294967295u32))]
    pub max_stream_messages: u32,
    /// CEL evaluation steps are bounded by this many bytes of request body.
    #[schemars(range(min = 0, max = 10485760))]
    pub cel_body_bytes: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 16 * 1024 * 1024,
            max_concurrent_streams: 4096,
            max_connections: 4096,
            max_connection_age: 0,
            drain_seconds: 10,
            memory_clients: 10_000,
            state_deadline_ms: 100,
            max_gathered_bytes: 256 * 1024 * 1024,
            max_delayed_requests: 256,
            stream_idle_seconds: 3600,
            max_stream_messages: 10_000_000,
            cel_body_bytes: 65_536,
        }
    }
}

/// `admin:`: the HTTP port for operators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address; null turns it off. On one that is not loopback only `/healthz`, `/readyz` and `/metrics` answer without
    /// a token or a client certificate.
    #[schemars(with = "Option<formats::Socket>")]
    pub address: Option<SocketAddr>,
    /// Unix socket with the same pages; whoever may write to it needs no token.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub unix: Option<PathBuf>,
    /// Mode of the socket file, in octal.
    #[schemars(with = "formats::FileMode")]
    pub unix_mode: String,
    /// TLS on the address.
    pub tls: Option<ServerTls>,
    /// Token of operators, sent as `Authorization: Bearer TOKEN`; at least 16 characters. Better in the variable
    /// `ENVOY_GUARD_ADMIN__TOKEN` or in a file.
    pub token: Option<Secret>,
    /// File that holds the token, as secrets are mounted; one newline at its end is left out.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub token_file: Option<PathBuf>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from(([127, 0, 0, 1], 8081))),
            unix: None,
            unix_mode: "0600".to_owned(),
            tls: None,
            token: None,
            token_file: None,
        }
    }
}

/// `telemetry:`: what the service says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Filter of the service's own log lines, in `tracing` syntax.
    #[schemars(with = "formats::LogFilter")]
    pub log_filter: String,
    /// Log lines waiting for a slow sink; more are dropped and counted.
    #[schemars(range(min = 1, max = 1000000))]
    pub queue: u32,
    /// Add `dynamic_metadata` to answers.
    pub metadata: bool,
    /// Level of a log line for every security event; null leaves them out.
    pub log_events: Option<LogLevel>,
    /// Every security event in signed batches to a server of yours.
    pub webhook: Option<WebhookConfig>,
    /// Recent decisions that operators may look at.
    pub decisions: DecisionsConfig,
    /// How OpenTelemetry is exported when `security.enable_otel` is on.
    pub otel: OtelConfig,
}

/// `telemetry.decisions:`: recent decisions in memory, for `envoy-guard decisions` and the admin API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionsConfig {
    /// Decisions kept; the oldest goes first. 0 keeps none.
    #[schemars(range(min = 0, max = 100000))]
    pub entries: u32,
    /// Bytes they may take together.
    #[schemars(range(min = 65536, max = 1073741824))]
    pub bytes: u32,
    /// Keep every n-th allowed request of a worker, too; 0 keeps only what was refused, failed or reported.
    #[schemars(range(min = 0, max = 1000000000))]
    pub allowed_every: u32,
}

impl Default for DecisionsConfig {
    fn default() -> Self {
        Self { entries: 1000, bytes: 8 * 1024 * 1024, allowed_every: 0 }
    }
}

/// `telemetry.otel:`: what is exported over OTLP, and how. Where to is `security.otel_exporter_endpoint`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtelConfig {
    /// How messages travel.
    pub protocol: OtlpProtocol,
    /// Header fields of every message, such as credentials of a vendor.
    #[schemars(extend("propertyNames" = {"format": "header-name"}))]
    pub headers: BTreeMap<String, Secret>,
    /// Decisions as spans.
    pub traces: bool,
    /// All numbers of `/metrics`.
    pub metrics: bool,
    /// Security events as log records.
    pub logs: bool,
    /// Share of the requests without a `traceparent` that get a span.
    #[schemars(range(min = 0, max = 1))]
    pub sampling: f64,
    /// Keep the span of every decision that is not simply an allow, whatever was sampled.
    pub sample_denials: bool,
    /// Seconds between two reports of numbers.
    #[schemars(range(min = 1, max = 3600))]
    pub interval: u32,
    /// Time for one message, in seconds.
    #[schemars(range(min = 1, max = 300))]
    pub timeout: u32,
    /// Spans waiting, and log records waiting; more are dropped and counted.
    #[schemars(range(min = 1, max = 1000000))]
    pub queue: u32,
}

impl Default for OtelConfig {
    fn default() -> Self {
        Self {
            protocol: OtlpProtocol::Http,
            headers: BTreeMap::new(),
            traces: true,
            metrics: true,
            logs: true,
            sampling: 1.0,
            sample_denials: true,
            interval: 60,
            timeout: 10,
            queue: 8192,
        }
    }
}

/// How OTLP travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// Protobuf over HTTP.
    Http,
    /// gRPC.
    Grpc,
}

/// `telemetry.webhook:`: security events in batches, signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where batches are posted.
    #[serde(serialize_with = "shown_url")]
    #[schemars(with = "formats::Url", extend("writeOnly" = true))]
    pub url: String,
    /// HMAC-SHA256 key of the signature; null leaves batches unsigned.
    pub secret: Option<Secret>,
    /// CEL expression over `events` that writes the body; `{"events": [...]}` when null.
    pub message: Option<Expression>,
    /// Events in one batch.
    #[schemars(range(min = 1, max = 10000))]
    pub batch: u32,
    /// Longest wait of an event for its batch, in milliseconds.
    #[schemars(range(min = 10, max = 60000))]
    pub linger_ms: u32,
    /// Time for one attempt, in seconds.
    #[schemars(range(min = 1, max = 300))]
    pub timeout: u32,
    /// Attempts after the first, with growing pauses.
    #[schemars(range(min = 0, max = 20))]
    pub retries: u32,
    /// Events waiting; more are dropped and counted.
    #[schemars(range(min = 1, max = 1000000))]
    pub queue: u32,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            secret: None,
            message: None,
            batch: 100,
            linger_ms: 1000,
            timeout: 10,
            retries: 5,
            queue: 10_000,
        }
    }
}

/// The path of a webhook may be its credential.
fn shown_url<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redact_webhook(url))
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_filter: "info".to_owned(),
            queue: 8192,
            metadata: true,
            log_events: None,
            webhook: None,
            decisions: DecisionsConfig::default(),
            otel: OtelConfig::default(),
        }
    }
}
