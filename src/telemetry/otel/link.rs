//! The connection to an OTLP receiver, over HTTP or gRPC. Each message is sent once; whoever sends keeps what was not taken.

use std::error::Error as _;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use tonic::Code;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::net::client::{Client, Options, Request, Response};

/// The longest pause a receiver may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One message of OTLP.
#[derive(Clone, Debug)]
pub(super) enum Export {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

impl Export {
    const fn path(&self) -> &'static str {
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

    /// Bytes on the wire.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Traces(message) => message.encoded_len(),
            Self::Metrics(message) => message.encoded_len(),
            Self::Logs(message) => message.encoded_len(),
        }
    }

    /// What the answer to this message says of the items in it. An empty answer says that all is well.
    fn answered(&self, answer: &[u8]) -> Taken {
        match self {
            Self::Traces(_) => ExportTraceServiceResponse::decode(answer).map(Taken::from).unwrap_or_default(),
            Self::Metrics(_) => ExportMetricsServiceResponse::decode(answer).map(Taken::from).unwrap_or_default(),
            Self::Logs(_) => ExportLogsServiceResponse::decode(answer).map(Taken::from).unwrap_or_default(),
        }
    }
}

/// A message arrived; how many of its items the receiver threw away, and why.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Taken {
    pub(super) rejected: usize,
    pub(super) why: String,
}

impl Taken {
    fn but((rejected, why): (i64, String)) -> Self {
        Self { rejected: usize::try_from(rejected).unwrap_or(0), why }
    }
}

impl From<ExportTraceServiceResponse> for Taken {
    fn from(answer: ExportTraceServiceResponse) -> Self {
        let partial = answer.partial_success.map(|partial| (partial.rejected_spans, partial.error_message));
        partial.map(Self::but).unwrap_or_default()
    }
}

impl From<ExportMetricsServiceResponse> for Taken {
    fn from(answer: ExportMetricsServiceResponse) -> Self {
        let partial = answer.partial_success.map(|partial| (partial.rejected_data_points, partial.error_message));
        partial.map(Self::but).unwrap_or_default()
    }
}

impl From<ExportLogsServiceResponse> for Taken {
    fn from(answer: ExportLogsServiceResponse) -> Self {
        let partial = answer.partial_success.map(|partial| (partial.rejected_log_records, partial.error_message));
        partial.map(Self::but).unwrap_or_default()
    }
}

/// Why something did not arrive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Lost {
    /// It may arrive later; no sooner than this, where the receiver said so.
    Later(String, Option<Duration>),
    /// It never will.
    Never(String),
}

/// Where messages go, and how.
#[derive(Clone, Debug)]
pub(super) struct Link {
    way: Way,
    headers: Vec<(String, String)>,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Way {
    Http { client: Client, base: String },
    Grpc(Channel),
}

impl Link {
    /// A link over HTTP: messages are posted to `/v1/traces`, `/v1/metrics` and `/v1/logs` below `base`.
    pub(super) fn http(client: Client, base: &str, headers: Vec<(String, String)>, timeout: Duration) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        Self { way: Way::Http { client, base }, headers, timeout }
    }

    /// A link over gRPC; it connects with the first message.
    ///
    /// # Errors
    /// When the address or the authorities cannot be used.
    pub(super) fn grpc(
        url: &str,
        headers: Vec<(String, String)>,
        timeout: Duration,
        options: &Options,
    ) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| error.to_string())?;
        let endpoint = endpoint.connect_timeout(options.connect_timeout).timeout(timeout);
        let endpoint = if url.starts_with("https://") {
            let tls = ClientTlsConfig::new().with_enabled_roots();
            let tls = match &*options.authorities {
                [] => tls,
                pem => tls.ca_certificate(Certificate::from_pem(pem)),
            };
            endpoint.tls_config(tls).map_err(|error| error.to_string())?
        } else {
            endpoint
        };
        Ok(Self { way: Way::Grpc(endpoint.connect_lazy()), headers, timeout })
    }

    pub(super) async fn send(&self, export: Export) -> Result<Taken, Lost> {
        match &self.way {
            Way::Http { client, base } => {
                let mut fields = vec![("content-type", "application/x-protobuf")];
                fields.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
                let (url, body) = (format!("{base}{}", export.path()), export.bytes());
                let request = Request { headers: &fields, timeout: self.timeout, ..Request::post(&url, &body) };
                let answer = client.send(&request).await.map_err(|error| Lost::Later(error.to_string(), None))?;
                read(&answer, &export)
            }
            Way::Grpc(channel) => {
                let late = |_| Lost::Later("it took too long".to_owned(), None);
                let sent = tokio::time::timeout(self.timeout, call(channel.clone(), &self.headers, export));
                sent.await.map_err(late)?.map_err(|status| refused(&status))
            }
        }
    }
}

fn read(answer: &Response, export: &Export) -> Result<Taken, Lost> {
    match answer.status {
        200..=299 => Ok(export.answered(&answer.body)),
        // What the specification calls retryable.
        status @ (429 | 502 | 503 | 504) => {
            let seconds = answer.header("retry-after").and_then(|text| text.trim().parse().ok());
            let wait = seconds.map(|seconds| Duration::from_secs(seconds).min(PAUSE_MAX));
            Err(Lost::Later(format!("status {status}"), wait))
        }
        status => Err(Lost::Never(format!("status {status}"))),
    }
}

/// What the specification says of each code. What it says of nobody, `Unknown`, is mostly a connection that broke.
fn refused(status: &tonic::Status) -> Lost {
    let why = format!("{:?}", status.code());
    let is_passing = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only a receiver that says when it will have room can be asked again.
        Code::ResourceExhausted => !status.details().is_empty(),
        Code::Unknown => status.source().is_some(),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => false,
    };
    if is_passing { Lost::Later(why, None) } else { Lost::Never(why) }
}

async fn call(channel: Channel, headers: &[(String, String)], export: Export) -> Result<Taken, tonic::Status> {
    Ok(match export {
        Export::Traces(message) => {
            TraceServiceClient::new(channel).export(dressed(message, headers)).await?.into_inner().into()
        }
        Export::Metrics(message) => {
            MetricsServiceClient::new(channel).export(dressed(message, headers)).await?.into_inner().into()
        }
        Export::Logs(message) => {
            LogsServiceClient::new(channel).export(dressed(message, headers)).await?.into_inner().into()
        }
    })
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

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Response {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Response { status, headers, body: body.to_vec() }
    }

    #[test]
    fn a_status_says_whether_to_try_again() {
        let export = Export::Traces(ExportTraceServiceRequest::default());
        for status in [429, 502, 503, 504] {
            assert!(matches!(read(&answer(status, &[], b""), &export), Err(Lost::Later(_, None))), "{status}");
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            assert!(matches!(read(&answer(status, &[], b""), &export), Err(Lost::Never(_))), "{status}");
        }
        for (asked, expected) in [("7", 7), ("100000", 60)] {
            let found = read(&answer(503, &[("retry-after", asked)], b""), &export);
            assert_eq!(found, Err(Lost::Later("status 503".to_owned(), Some(Duration::from_secs(expected)))));
        }
        let later = [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted, Code::DataLoss, Code::Cancelled];
        for code in later {
            assert!(matches!(refused(&tonic::Status::new(code, "")), Lost::Later(..)), "{code:?}");
        }
        for code in [Code::InvalidArgument, Code::Unimplemented, Code::Unauthenticated, Code::ResourceExhausted] {
            assert!(matches!(refused(&tonic::Status::new(code, "")), Lost::Never(_)), "{code:?}");
        }
        let with_hint = tonic::Status::with_details(Code::ResourceExhausted, "", vec![1].into());
        assert!(matches!(refused(&with_hint), Lost::Later(..)));
    }

    #[test]
    fn what_a_receiver_throws_away_is_known() {
        let export = Export::Traces(ExportTraceServiceRequest::default());
        assert_eq!(read(&answer(200, &[], b""), &export), Ok(Taken::default()));
        assert_eq!(read(&answer(200, &[], b"<html>"), &export), Ok(Taken::default()), "not a message at all");
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let expected = Taken { rejected: 3, why: "too old".to_owned() };
        assert_eq!(read(&answer(200, &[], &body), &export), Ok(expected));
        assert_eq!(Taken::but((-1, String::new())).rejected, 0);
    }
}
