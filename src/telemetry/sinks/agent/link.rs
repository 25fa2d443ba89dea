//! The connection to the agent's server: attempts, pauses, a breaker, a limit on requests, and what answers mean.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::hmac;
use serde_json::Value;
use uuid::Uuid;

use crate::clock;
use crate::net::client::{Client, Request, Response};
use crate::telemetry::events::json::{ascii, sorted};
use crate::telemetry::sinks::agent::Settings;
use crate::telemetry::sinks::agent::wire::{self, Route};
use crate::telemetry::sinks::post::hex;

/// Longest pause between two attempts.
const PAUSE_MAX: f64 = 60.0;
/// Pause that a server asks for without saying how long, and the longest it may ask for.
const RETRY_AFTER: Duration = Duration::from_secs(60);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Failures in a row that open the breaker, and how long it stays open.
const BREAKER_FAILURES: u32 = 5;
const BREAKER_OPEN: Duration = Duration::from_secs(60);
/// Requests in a period.
const REQUESTS_MAX: usize = 100;
const REQUESTS_PERIOD: Duration = Duration::from_secs(60);

/// What became of a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Sent {
    /// The server has it.
    Accepted,
    /// The server will never take it.
    Dropped,
    /// The server would take less at once.
    TooLarge,
    /// Not now; why.
    Kept(String),
}

/// What an answer means.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Meaning {
    End(Sent),
    /// Another attempt: after a time the server names, and as a failure or not.
    Again {
        wait: Option<Duration>,
        is_failure: bool,
        why: String,
    },
}

fn meaning(answer: &Response) -> Meaning {
    let again = |wait, is_failure| Meaning::Again { wait, is_failure, why: format!("status {}", answer.status) };
    match answer.status {
        200 => match serde_json::from_slice(&answer.body) {
            Ok(Value::Object(fields)) => {
                let refuses = fields.get("success") == Some(&Value::Bool(false));
                match refuses || fields.get("errors").is_some_and(is_truthy) {
                    true => Meaning::End(Sent::Kept("the server reports errors".to_owned())),
                    false => Meaning::End(Sent::Accepted),
                }
            }
            Ok(_) => Meaning::End(Sent::Accepted),
            Err(_) => Meaning::Again { wait: None, is_failure: false, why: "the answer is no JSON".to_owned() },
        },
        201 => Meaning::End(Sent::Accepted),
        400 | 404 | 422 => Meaning::End(Sent::Dropped),
        413 => Meaning::End(Sent::TooLarge),
        429 => {
            let asked = answer.header("retry-after").and_then(|text| text.trim().parse().ok());
            again(Some(asked.map_or(RETRY_AFTER, Duration::from_secs).min(RETRY_AFTER_MAX)), true)
        }
        401 | 403 | 500.. => again(None, true),
        _ => again(None, false),
    }
}

/// What Python takes for true.
fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Stops asking a server that only fails.
#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    fn note(&mut self, is_failure: bool, now: Instant) {
        if !is_failure {
            *self = Self::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if BREAKER_FAILURES <= self.failures {
            self.open_until = now.checked_add(BREAKER_OPEN);
        }
    }
}

/// Sends to one server.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    settings: Arc<Settings>,
    breaker: Breaker,
    recent: VecDeque<Instant>,
}

impl Link {
    pub(super) fn new(client: Client, settings: Arc<Settings>) -> Self {
        Self { client, settings, breaker: Breaker::default(), recent: VecDeque::new() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.breaker.is_open(clock::instant())
    }

    /// Sends a batch with all attempts that are allowed; only one when nobody will come back for the rest.
    pub(super) async fn send_batch(&mut self, route: Route, items: Vec<Value>, is_last: bool) -> Sent {
        let now = clock::now();
        let random = Uuid::new_v4().simple().to_string();
        let id = format!("{}-{}", (now.0 * 1000.0) as i64, random.get(..8).unwrap_or_default());
        let (path, body) = match &self.settings.sealer {
            None => (route.path(), wire::batch(&self.settings, route, items, (&id, now))),
            Some(sealer) => {
                let inner = ascii(&sorted(wire::inner(route, items)));
                let Some(payload) = sealer.seal(&inner) else {
                    return Sent::Kept("a batch cannot be encrypted".to_owned());
                };
                ("/api/v1/events/encrypted", wire::sealed(&self.settings, &payload, &id))
            }
        };
        let attempts = if is_last { 1 } else { self.settings.attempts };
        self.send(path, &ascii(&body), attempts).await
    }

    /// Sends something that is worth one attempt.
    pub(super) async fn send_once(&mut self, path: &str, body: &Value) -> Sent {
        self.send(path, &ascii(body), 1).await
    }

    async fn send(&mut self, path: &str, body: &[u8], attempts: u32) -> Sent {
        let mut last = String::new();
        let parcel = Parcel::of(&self.settings, path, body);
        for attempt in 0..attempts {
            if self.is_open() {
                return Sent::Kept("too many failures; the server is left alone for a while".to_owned());
            }
            self.wait_for_turn().await;
            let (wait, is_failure, why) = match self.attempt(&parcel).await {
                Ok(answer) => match meaning(&answer) {
                    Meaning::End(sent) => {
                        self.breaker.note(false, clock::instant());
                        return sent;
                    }
                    Meaning::Again { wait, is_failure, why } => (wait, is_failure, why),
                },
                Err(error) => (None, true, error),
            };
            if is_failure {
                self.breaker.note(true, clock::instant());
            }
            last = why;
            if attempt + 1 < attempts {
                tokio::time::sleep(wait.unwrap_or_else(|| pause(self.settings.factor, attempt))).await;
            }
        }
        Sent::Kept(last)
    }

    async fn wait_for_turn(&mut self) {
        let now = clock::instant();
        while self.recent.front().is_some_and(|first| REQUESTS_PERIOD <= now.duration_since(*first)) {
            self.recent.pop_front();
        }
        if REQUESTS_MAX <= self.recent.len()
            && let Some(first) = self.recent.pop_front()
        {
            tokio::time::sleep(REQUESTS_PERIOD.saturating_sub(now.duration_since(first))).await;
        }
        self.recent.push_back(clock::instant());
    }

    async fn attempt(&self, parcel: &Parcel<'_>) -> Result<Response, String> {
        let settings = &self.settings;
        let own = settings.identity.headers();
        let mut headers: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.extend(parcel.signature.as_deref().map(|signature| ("x-payload-signature", signature)));
        headers.extend(parcel.compressed.as_ref().map(|_| ("content-encoding", "gzip")));
        let sent = parcel.compressed.as_deref().unwrap_or(parcel.body);
        let request = Request { headers: &headers, timeout: settings.timeout, ..Request::post(&parcel.url, sent) };
        self.client.send(&request).await.map_err(|error| error.to_string())
    }
}

/// A body as it goes over the wire: signed and compressed once, however often it is sent.
#[derive(Debug)]
struct Parcel<'b> {
    url: String,
    body: &'b [u8],
    signature: Option<String>,
    compressed: Option<Vec<u8>>,
}

impl<'b> Parcel<'b> {
    fn of(settings: &Settings, path: &str, body: &'b [u8]) -> Self {
        Self {
            url: settings.identity.url(path),
            body,
            signature: settings.signing.as_ref().map(|key| format!("v1={}", hex(hmac::sign(key, body).as_ref()))),
            compressed: settings.compress_from.filter(|from| *from <= body.len()).and_then(|_| gzip(body)),
        }
    }
}

fn pause(factor: f64, attempt: u32) -> Duration {
    let seconds = (factor * 2_f64.powi(attempt.min(30).cast_signed())).min(PAUSE_MAX);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn answer(status: u16, body: &str, retry_after: Option<&str>) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(seconds) = retry_after {
            headers.insert("retry-after", seconds.parse().unwrap());
        }
        Response { status, headers, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn answers_mean_what_the_protocol_says() {
        let kept = || Meaning::End(Sent::Kept("the server reports errors".to_owned()));
        let again = |wait: Option<u64>, is_failure, why: &str| Meaning::Again {
            wait: wait.map(Duration::from_secs),
            is_failure,
            why: why.to_owned(),
        };
        for (status, body, retry_after, expected) in [
            (200, r#"{"success":true}"#, None, Meaning::End(Sent::Accepted)),
            (200, "{}", None, Meaning::End(Sent::Accepted)),
            (200, "[]", None, Meaning::End(Sent::Accepted)),
            (200, r#"{"success":false}"#, None, kept()),
            (200, r#"{"errors":["x"]}"#, None, kept()),
            (200, r#"{"success":true,"errors":[]}"#, None, Meaning::End(Sent::Accepted)),
            (200, "ok", None, again(None, false, "the answer is no JSON")),
            (201, "", None, Meaning::End(Sent::Accepted)),
            (202, "", None, again(None, false, "status 202")),
            (204, "", None, again(None, false, "status 204")),
            (302, "", None, again(None, false, "status 302")),
            (400, "", None, Meaning::End(Sent::Dropped)),
            (404, "", None, Meaning::End(Sent::Dropped)),
            (422, "", None, Meaning::End(Sent::Dropped)),
            (413, "", None, Meaning::End(Sent::TooLarge)),
            (401, "", None, again(None, true, "status 401")),
            (403, "", None, again(None, true, "status 403")),
            (418, "", None, again(None, false, "status 418")),
            (500, "", None, again(None, true, "status 500")),
            (503, "", Some("7"), again(None, true, "status 503")),
            (429, "", None, again(Some(60), true, "status 429")),
            (429, "", Some("7"), again(Some(7), true, "status 429")),
            (429, "", Some("9999"), again(Some(300), true, "status 429")),
        ] {
            assert_eq!(meaning(&answer(status, body, retry_after)), expected, "{status} {body}");
        }
    }

    #[test]
    fn five_failures_open_the_breaker_and_one_success_closes_it() {
        let (start, mut breaker) = (clock::instant(), Breaker::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        (0..4).for_each(|_| breaker.note(true, start));
        breaker.note(false, start);
        (0..4).for_each(|_| breaker.note(true, start));
        assert!(!breaker.is_open(start), "a success between");
        breaker.note(true, start);
        assert!(breaker.is_open(at(59)) && !breaker.is_open(at(60)));
        breaker.note(true, at(60));
        assert!(breaker.is_open(at(119)), "the probe failed");
        breaker.note(false, at(120));
        assert!(!breaker.is_open(at(120)));
    }

    /// Settings for a server that does not exist.
    fn settings(more: &str) -> Settings {
        let text = format!(
            r#"{{"enable_agent": true, "agent_api_key": "key", "agent_endpoint": "http://127.0.0.1:9",
                 "agent_install_id": "id", "agent_backoff_factor": 0.001{more}}}"#
        );
        Settings::of(&serde_json::from_str(&text).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn bodies_are_compressed_from_a_size_on_and_signed_as_they_were() {
        let more = r#", "agent_compression_threshold": 20, "agent_payload_signing_secret": "secret""#;
        let settings = settings(more);
        // printf aaaaaaaaaaaaaaaaaaaa | openssl dgst -sha256 -hmac secret
        let signed = "v1=efc15379022ca9ee5eb717618ceeaa3a4a6ea21f1ce33f48ecca51131ef3ef67";
        for (length, is_compressed) in [(0, false), (19, false), (20, true), (21, true)] {
            let body = vec![b'a'; length];
            let parcel = Parcel::of(&settings, "/api/v1/events", &body);
            assert_eq!(parcel.compressed.is_some(), is_compressed, "{length}");
            assert_eq!(parcel.signature.as_deref() == Some(signed), length == 20, "{:?}", parcel.signature);
            if let Some(bytes) = &parcel.compressed {
                let mut plain = Vec::new();
                std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut plain).unwrap();
                assert_eq!(plain, body);
            }
        }
        let never = Settings { compress_from: None, signing: None, ..settings };
        let parcel = Parcel::of(&never, "/api/v1/events", &[b'a'; 5000]);
        assert_eq!((parcel.compressed, parcel.signature), (None, None));
        assert_eq!(parcel.url, "http://127.0.0.1:9/api/v1/events");
    }

    #[tokio::test]
    async fn an_open_breaker_stops_attempts_and_one_probe_decides() {
        let settings = Arc::new(settings(r#", "agent_retry_attempts": 9"#));
        let client = Client::new(&crate::net::client::Options::default()).unwrap();
        let mut link = Link::new(client, settings);
        let left_alone = Sent::Kept("too many failures; the server is left alone for a while".to_owned());
        assert_eq!(link.send("/", b"{}", 10).await, left_alone);
        assert_eq!((link.recent.len(), link.is_open()), (5, true), "five attempts at a port where nobody listens");
        assert_eq!(link.send("/", b"{}", 10).await, left_alone);
        assert_eq!(link.recent.len(), 5, "no further one");
        // Its time is over: half open.
        link.breaker.open_until = Some(clock::instant());
        assert_eq!(link.send("/", b"{}", 10).await, left_alone);
        assert_eq!((link.recent.len(), link.is_open()), (6, true), "one probe, and it is open again");
        link.breaker.open_until = Some(clock::instant());
        link.breaker.note(false, clock::instant());
        assert_eq!((link.breaker.failures, link.is_open()), (0, false), "a success closes it");
    }

    #[test]
    fn pauses_double() {
        let pauses = [0, 1, 2, 5, 6, 90].map(|attempt| pause(1.5, attempt).as_secs_f64());
        assert_eq!(pauses, [1.5, 3.0, 6.0, 48.0, 60.0, 60.0]);
        assert_eq!(pause(f64::NAN, 1), Duration::from_secs(60));
    }
}
