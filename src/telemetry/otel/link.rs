//! The connection to an OTLP receiver, over HTTP or gRPC. Each message is sent once; whoever sends keeps what was not taken.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::net::client::{Client, Request};

/// One message of OTLP.
#[derive(Clone, Debug)]
pub(super) enum Export {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

impl Export {
    fn path(&self) -> &'static str {
        match self {
            Self::Traces(_) => "/v1/traces",
            Self::Metrics(_) => "/v1/metrics",
            Self::Logs(_) => "/v1/logs",
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Traces(message) => message.encode_to_vec(),
            Self::Metrics(message) => message.encode_to_vec(),
            Self::Logs(message) => message.encode_to_vec(),
        }
    }
}

/// Why something did not arrive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Lost {
    /// It may arrive later.
    Later(String),
    /// It never will.
    Never(String),
}

/// How messages travel.
#[derive(Clone, Debug)]
pub(super) enum Link {
    Http { client: Client, base: String, headers: Vec<(String, String)>, timeout: Duration },
    Grpc { channel: Channel, headers: Vec<(String, String)>, timeout: Duration },
}

impl Link {
    /// A link over gRPC; it connects with the first message.
    pub(super) fn grpc(url: &str, headers: Vec<(String, String)>, timeout: Duration) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| error.to_string())?;
        let endpoint = endpoint.connect_timeout(timeout).timeout(timeout);
        let endpoint = if url.starts_with("https://") {
            let tls = ClientTlsConfig::new().with_enabled_roots();
            endpoint.tls_config(tls).map_err(|error| error.to_string())?
        } else {
            endpoint
        };
        Ok(Self::Grpc { channel: endpoint.connect_lazy(), headers, timeout })
    }

    pub(super) async fn send(&self, export: Export) -> Result<(), Lost> {
        match self {
            Self::Http { client, base, headers, timeout } => {
                let mut fields = vec![("content-type", "application/x-protobuf")];
                fields.extend(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
                let (url, body) = (format!("{}{}", base.trim_end_matches('/'), export.path()), export.bytes());
                let request = Request { headers: &fields, timeout: *timeout, ..Request::post(&url, &body) };
                let answer = client.send(&request).await.map_err(|error| Lost::Later(error.to_string()))?;
                match answer.status {
                    200..=299 => Ok(()),
                    // What the specification calls retryable.
                    status @ (429 | 502 | 503 | 504) => Err(Lost::Later(format!("status {status}"))),
                    status => Err(Lost::Never(format!("status {status}"))),
                }
            }
            Self::Grpc { channel, headers, timeout } => {
                let sent = tokio::time::timeout(*timeout, call(channel.clone(), headers, export)).await;
                match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(status)) => {
                        use tonic::Code;
                        let text = format!("{:?}", status.code());
                        match status.code() {
                            Code::Cancelled
                            | Code::DeadlineExceeded
                            | Code::Aborted
                            | Code::OutOfRange
                            | Code::Unavailable
                            | Code::DataLoss
                            | Code::ResourceExhausted
                            | Code::Unknown => Err(Lost::Later(text)),
                            _ => Err(Lost::Never(text)),
                        }
                    }
                    Err(_) => Err(Lost::Later("it took too long".to_owned())),
                }
            }
        }
    }
}

async fn call(channel: Channel, headers: &[(String, String)], export: Export) -> Result<(), tonic::Status> {
    match export {
        Export::Traces(message) => TraceServiceClient::new(channel).export(dressed(message, headers)).await.map(drop),
        Export::Metrics(message) => {
            MetricsServiceClient::new(channel).export(dressed(message, headers)).await.map(drop)
        }
        Export::Logs(message) => LogsServiceClient::new(channel).export(dressed(message, headers)).await.map(drop),
    }
}

fn dressed<T>(message: T, headers: &[(String, String)]) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    for (name, value) in headers {
        let key = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
        if let (Ok(key), Ok(value)) = (key, AsciiMetadataValue::try_from(value.as_str())) {
            request.metadata_mut().insert(key, value);
        }
    }
    request
}
