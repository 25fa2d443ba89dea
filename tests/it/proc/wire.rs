//! Streams as no Envoy would open them, and streams that end badly: the service alone, frame by frame.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use http::header::HeaderName;
use hyper::body::Incoming;
use prost::Message as _;

use crate::proc::fuzz::{Numbers, Sequence, parsed};
use crate::proc::h2::{Client, Said, next};
use crate::proc::memory::memory;
use crate::stack::{Call, Process, free_port, guard, policy};

const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const HOSTILE: &[u8] = b"{\"a\": \"<img src=x onerror=alert(document.cookie)>\"}";

/// `BodySendMode`s.
const STREAMED: i32 = 1;
const BUFFERED: i32 = 2;
const FULL_DUPLEX: i32 = 4;

/// The service alone.
struct Alone {
    guard: Process,
    grpc: u16,
    admin: u16,
    _folder: tempfile::TempDir,
}

impl Alone {
    fn start(limits: &str) -> Self {
        let (grpc, admin, folder) = (free_port(), free_port(), tempfile::tempdir().unwrap());
        let limits = format!("limits: {{ {limits} }}");
        let text = policy("rate_limit: 100000\nauto_ban_threshold: 100000", &limits, grpc, admin);
        Self { guard: guard(folder.path(), &text, admin), grpc, admin, _folder: folder }
    }

    async fn client(&self) -> Client {
        Client::connect(self.grpc).await
    }

    /// Streams that have ended, in whichever way.
    fn ended(&self) -> u64 {
        let page = self.metrics();
        let counts = page.lines().filter(|line| line.starts_with("envoy_guard_streams_total{"));
        counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    fn metrics(&self) -> String {
        Call::get("/metrics").send(self.admin).body
    }

    /// Waits until the metrics say so.
    fn counts(&mut self, series: &str) {
        let admin = self.admin;
        self.guard.wait(|_| Call::get("/metrics").send(admin).body.contains(series));
    }
}

pub(crate) fn fields(fields: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
    let field = |(name, value): &(&str, &str)| HeaderValue {
        key: (*name).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = Some(HeaderMap { headers: fields.iter().map(field).collect() });
    HttpHeaders { headers, end_of_stream, ..HttpHeaders::default() }
}

/// The first message of a POST with a body, as Envoy sends it.
fn opening(mode: i32) -> ProcessingRequest {
    opening_of("/a", (mode, 0), false)
}

/// The first message of a POST to `path`, with the modes of both bodies.
pub(crate) fn opening_of(path: &str, (request, response): (i32, i32), end_of_stream: bool) -> ProcessingRequest {
    let head = [
        (":method", "POST"),
        (":path", path),
        (":scheme", "http"),
        (":authority", "a"),
        ("content-type", "application/json"),
    ];
    let source = Value { kind: Some(Kind::StringValue("198.51.100.7:80".to_owned())) };
    let attributes = Struct { fields: [("source.address".to_owned(), source)].into() };
    ProcessingRequest {
        request: Some(Part::RequestHeaders(fields(&head, end_of_stream))),
        attributes: [("envoy.filters.http.ext_proc".to_owned(), attributes)].into(),
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: request,
            response_body_mode: response,
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    }
}

pub(crate) fn part(part: Part) -> ProcessingRequest {
    ProcessingRequest { request: Some(part), ..ProcessingRequest::default() }
}

fn body(bytes: &[u8], end_of_stream: bool) -> ProcessingRequest {
    part(Part::RequestBody(HttpBody { body: bytes.to_vec(), end_of_stream, ..HttpBody::default() }))
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

pub(crate) fn frame(message: &ProcessingRequest) -> Bytes {
    framed(&message.encode_to_vec()).into()
}

/// What answers say, in short.
fn short(mut bytes: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((prefix, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        let answer = ProcessingResponse::decode(&rest[..length]).unwrap();
        all.push(match answer.response {
            Some(Reply::RequestHeaders(_)) => "request headers".to_owned(),
            Some(Reply::RequestBody(_)) => "request body".to_owned(),
            Some(Reply::RequestTrailers(_)) => "request trailers".to_owned(),
            Some(Reply::ResponseHeaders(_)) => "response headers".to_owned(),
            Some(Reply::ImmediateResponse(reply)) => format!("{} {}", reply.status.unwrap().code, reply.details),
            other => format!("{other:?}"),
        });
        bytes = &rest[length..];
    }
    all
}

const DISORDER: &str = "500 envoy_guard_fail_out_of_order";
const UNREADABLE: &str = "500 envoy_guard_fail_unreadable";
const FOUND: &str = "400 envoy_guard_deny_suspicious_activity";

/// Each sequence gets its answers, its status, and leaves the connection as it was.
#[tokio::test]
async fn sequences_get_the_safe_answer() {
    let alone = Alone::start("max_message_bytes: 65536, max_stream_messages: 16");
    let mut client = alone.client().await;
    let trailers = || part(Part::RequestTrailers(HttpTrailers::default()));
    let response = || part(Part::ResponseHeaders(fields(&[(":status", "200")], true)));
    let many = |count: usize| -> Vec<Bytes> {
        std::iter::once(frame(&opening(STREAMED))).chain((1..count).map(|_| frame(&body(b"x", false)))).collect()
    };
    let messages = |all: &[ProcessingRequest]| -> Vec<Bytes> { all.iter().map(frame).collect() };
    let open = frame(&opening(STREAMED));
    let (headers, bodies) = ("request headers", "request body");
    let cases: Vec<(&str, Vec<Bytes>, Vec<&str>, &str)> = vec![
        ("nothing at all", vec![], vec![], "0"),
        (
            "one exchange",
            messages(&[opening(STREAMED), body(b"{}", true), response()]),
            vec![headers, bodies, "response headers"],
            "0",
        ),
        (
            "a hostile body, and what was on its way",
            messages(&[opening(STREAMED), body(HOSTILE, true), response()]),
            vec![headers, FOUND],
            "0",
        ),
        ("a body before its headers", messages(&[body(b"x", false)]), vec![DISORDER], "13"),
        ("headers twice", messages(&[opening(STREAMED), opening(STREAMED)]), vec![headers, DISORDER], "13"),
        (
            "a body twice over",
            messages(&[opening(STREAMED), body(b"x", true), body(b"x", true)]),
            vec![headers, bodies, DISORDER],
            "13",
        ),
        (
            "trailers twice",
            messages(&[opening(STREAMED), trailers(), trailers()]),
            vec![headers, "request trailers", DISORDER],
            "13",
        ),
        (
            "a request after its response",
            messages(&[response(), opening(STREAMED)]),
            vec!["response headers", DISORDER],
            "13",
        ),
        (
            "a late body behind the response",
            messages(&[opening(STREAMED), response(), body(HOSTILE, true)]),
            vec![headers, "response headers", FOUND],
            "0",
        ),
        (
            "headers that are no request",
            messages(&[part(Part::RequestHeaders(fields(&[("a", "b")], true)))]),
            vec![UNREADABLE],
            "13",
        ),
        ("a message without a part", messages(&[ProcessingRequest::default()]), vec![], "0"),
        ("cut short while the body is held", messages(&[opening(FULL_DUPLEX), body(b"{}", false)]), vec![], "1"),
        (
            "cut short between streamed parts",
            messages(&[opening(STREAMED), body(b"{}", false)]),
            vec![headers, bodies],
            "0",
        ),
        ("cut short before a buffered body", messages(&[opening(BUFFERED)]), vec![headers], "0"),
        ("cut within a message", vec![open.slice(..open.len() - 1)], vec![UNREADABLE], "13"),
        ("cut within a later message", vec![open.clone(), open.slice(..7)], vec![headers, UNREADABLE], "13"),
        ("bytes that are no message", vec![framed(&[0xff; 9]).into()], vec![UNREADABLE], "13"),
        (
            "a later message that is none",
            vec![open.clone(), framed(&[0xff; 9]).into()],
            vec![headers, UNREADABLE],
            "13",
        ),
        ("a compressed message", vec![Bytes::from_static(&[1, 0, 0, 0, 1, 7])], vec![UNREADABLE], "13"),
        (
            "a message above the bound",
            vec![open, framed(&[0; 65_537]).into()],
            vec![headers, "413 envoy_guard_fail_message_too_large"],
            "0",
        ),
        ("as many messages as are taken", many(16), [&[headers][..], &[bodies; 15]].concat(), "0"),
        (
            "one more",
            many(17),
            [&[headers][..], &[bodies; 15], &["500 envoy_guard_fail_too_many_messages"]].concat(),
            "13",
        ),
    ];
    for (name, sent, answers, status) in cases {
        let sent: Vec<&[u8]> = sent.iter().map(|bytes| &bytes[..]).collect();
        let heard = client.send("POST", PROCESS, &GRPC, Said::new(&sent)).await;
        assert_eq!(short(&heard.body), answers, "{name}");
        assert_eq!(heard.trailers.get(STATUS).unwrap(), status, "{name}");
    }
}

/// Nobody waits for answers: none are given, whatever comes, and what would have been refused is reported.
#[tokio::test]
async fn an_observed_stream_is_never_answered() {
    let alone = Alone::start("");
    let mut client = alone.client().await;
    let observed = |message: ProcessingRequest| frame(&ProcessingRequest { observability_mode: true, ..message });
    for rest in [vec![body(b"{}", true)], vec![body(HOSTILE, true)], vec![opening(STREAMED)], vec![]] {
        let sent: Vec<Bytes> = std::iter::once(opening(STREAMED)).chain(rest).map(observed).collect();
        let sent: Vec<&[u8]> = sent.iter().map(|bytes| &bytes[..]).collect();
        let heard = client.send("POST", PROCESS, &GRPC, Said::new(&sent)).await;
        assert_eq!(short(&heard.body), Vec::<String>::new());
    }
    let metrics = alone.metrics();
    let report = "envoy_guard_decisions_total{check=\"suspicious_activity\",verdict=\"report\"} 1\n";
    assert!(metrics.contains(report), "{metrics}");
}

/// Sends a message and reads the frame that answers it.
async fn answered(open: &mut Incoming) -> Vec<String> {
    short(&next(open).await.unwrap().unwrap().into_data().unwrap())
}

/// How a stream ends: its gRPC status, or that it was cut.
async fn end(open: &mut Incoming) -> String {
    match next(open).await {
        Some(Ok(frame)) => match frame.into_trailers() {
            Ok(trailers) => trailers.get(STATUS).unwrap().to_str().unwrap().to_owned(),
            Err(frame) => panic!("{frame:?}"),
        },
        Some(Err(_)) | None => "cut".to_owned(),
    }
}

#[tokio::test]
async fn silence_ends_a_stream_and_is_no_consent() {
    let mut alone = Alone::start("stream_idle_seconds: 1");
    let mut client = alone.client().await;
    let (sender, said) = Said::by_and_by();
    let mut open = client.open("POST", PROCESS, &GRPC, said).await.into_body();
    sender.send(frame(&opening(FULL_DUPLEX))).unwrap();
    assert_eq!(end(&mut open).await, "4", "the request waits for its body, which never comes");
    let (sender, said) = Said::by_and_by();
    let mut open = client.open("POST", PROCESS, &GRPC, said).await.into_body();
    sender.send(frame(&opening(STREAMED))).unwrap();
    assert_eq!(answered(&mut open).await, ["request headers"]);
    assert_eq!(end(&mut open).await, "4");
    alone.counts("envoy_guard_streams_total{end=\"idle\"} 2");
}

/// A stop lets exchanges under way go on to their end, within the time for it; what is left then is cut, not answered.
#[tokio::test]
async fn a_stop_lets_open_streams_end() {
    for (name, goes_on) in [("ends in time", true), ("never ends", false)] {
        let mut alone = Alone::start(if goes_on { "drain_seconds: 30" } else { "drain_seconds: 1" });
        let mut client = alone.client().await;
        let (sender, said) = Said::by_and_by();
        let mut open = client.open("POST", PROCESS, &GRPC, said).await.into_body();
        sender.send(frame(&opening(STREAMED))).unwrap();
        assert_eq!(answered(&mut open).await, ["request headers"], "{name}");
        alone.guard.signal("TERM");
        let grpc = alone.grpc;
        alone.guard.wait(|_| std::net::TcpStream::connect(("127.0.0.1", grpc)).is_err());
        if goes_on {
            sender.send(frame(&body(HOSTILE, true))).unwrap();
            assert_eq!(answered(&mut open).await, [FOUND], "decided as ever");
            assert_eq!(end(&mut open).await, "0");
        } else {
            assert_eq!(end(&mut open).await, "cut");
        }
        drop((client, sender));
        let code =
            tokio::time::timeout(Duration::from_secs(30), tokio::task::spawn_blocking(move || alone.guard.exit()));
        assert_eq!(code.await.unwrap().unwrap(), Some(0), "{name}");
    }
}

/// Streams of the test.
const ROUNDS: u64 = 3_000;

/// Streams as no Envoy would open them, some reset on the way: none passes what is forbidden, and afterwards nothing of
/// them is left, neither streams nor memory nor room for bodies.
#[tokio::test]
async fn what_breaks_off_leaves_nothing_behind() {
    // The least room that there may be: it is used up at once if any of it is lost.
    let alone = Alone::start("max_gathered_bytes: 1048576");
    let mut client = alone.client().await;
    let mut numbers = Numbers(11);
    let mut warm = 0;
    for round in 0..ROUNDS {
        let sequence = Sequence::new(&mut numbers);
        let sent: Vec<&[u8]> = sequence.frames.iter().map(|bytes| &bytes[..]).collect();
        if numbers.below(4) == 0 {
            // Reset while the answer is on its way.
            drop(client.open("POST", PROCESS, &GRPC, Said::new(&sent)).await);
        } else {
            let heard = client.send("POST", PROCESS, &GRPC, Said::new(&sent)).await;
            sequence.judge(&parsed(&heard.body), heard.trailers.get(STATUS).unwrap().to_str().unwrap());
        }
        if round == ROUNDS / 4 {
            warm = memory(alone.guard.id(), "VmRSS:");
        }
    }
    let after = memory(alone.guard.id(), "VmRSS:");
    eprintln!("{warm} KiB after {} streams, {after} KiB after {ROUNDS}", ROUNDS / 4);
    assert!(after <= warm + 8 * 1024, "{warm} KiB after {} streams, {after} KiB after {ROUNDS}", ROUNDS / 4);
    let large = vec![b'x'; 20_000];
    let whole = [frame(&opening(FULL_DUPLEX)), frame(&body(&large, false)), frame(&body(b"end", true))];
    let whole: Vec<&[u8]> = whole.iter().map(|bytes| &bytes[..]).collect();
    let heard = client.send("POST", PROCESS, &GRPC, Said::new(&whole)).await;
    assert_eq!(short(&heard.body)[0], "request headers", "there is room");
    assert_eq!(heard.trailers.get(STATUS).unwrap(), "0");
    for _ in 0..600 {
        if alone.ended() == ROUNDS + 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(alone.ended(), ROUNDS + 1, "each stream has ended\n{}", alone.metrics());
    alone.guard.signal("TERM");
    drop(client);
    assert!(!alone.guard.log().contains("panicked"), "{}", alone.guard.log());
}
