//! Streams of ext_proc as bytes: parts in any order, fields of any kind, frames cut anywhere. Every answer can be read,
//! nothing follows an end, a status always comes, and how the bytes were cut into frames changes nothing.
//!
//! An input is a byte for the cuts, then parts: a byte for the kind, a byte for the length, and what the part holds.
#![no_main]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use envoy_guard::app::build::build;
use envoy_guard::config::Sources;
use envoy_guard::grpc::desk::Desk;
use envoy_guard::grpc::pb::envoy::service::ext_proc::v3::ProcessingResponse;
use envoy_guard::grpc::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_guard::grpc::proc::Proc;
use envoy_guard::live::Live;
use envoy_guard::state::memory::Memory;
use envoy_guard::telemetry::Recorder;
use envoy_guard::telemetry::bus::Bus;
use envoy_guard::telemetry::metrics::Metrics;
use http_body::{Body, Frame};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// Parts of one stream.
const PARTS_MAX: usize = 64;
const STATUS: &str = "grpc-status";

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    static SERVICE: Rc<Proc<Memory>> = service();
}

fn service() -> Rc<Proc<Memory>> {
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let overrides = vec![
        set("security.enable_redis", "false"),
        set("security.rate_limit", "1000000000"),
        set("security.auto_ban_threshold", "1000000000"),
        set("limits.max_stream_messages", "48"),
        set("limits.max_message_bytes", "8192"),
        set("telemetry.decisions.entries", "100"),
    ];
    let snapshot = build(&Sources { overrides, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"));
    let live = Live::new(snapshot);
    let recorder = Rc::new(Recorder::new(&Metrics::new("fuzz"), Arc::new(Bus::default()), Arc::default()));
    Rc::new(Proc::new(Desk::new(&live), Arc::new(Memory::new(16)), recorder))
}

fuzz_target!(
    init: {
        // The first input must not pay for it.
        SERVICE.with(|_| ());
    },
    |data: &[u8]| run(data)
);

fn run(data: &[u8]) {
    let [cuts, parts @ ..] = data else { return };
    let frames = frames(parts);
    let (whole, status) = answers(frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect());
    let ends = whole.iter().position(|answer| matches!(answer.response, Some(Reply::ImmediateResponse(_))));
    assert!(ends.is_none_or(|at| at + 1 == whole.len()), "something follows an end: {whole:?}");
    assert!(whole.iter().all(|answer| answer.response.is_some()), "an answer says nothing: {whole:?}");
    let bytes = frames.concat();
    let stride = usize::from(*cuts % 61) + 1;
    let (cut, cut_status) = answers(bytes.chunks(stride).map(Bytes::copy_from_slice).collect());
    assert_eq!((&cut, &cut_status), (&whole, &status), "cut every {stride} bytes");
}

/// The frames that an input stands for, each a gRPC message; the kind 15 puts raw bytes onto the stream.
fn frames(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let [kind, length, behind @ ..] = rest {
        let (content, left) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = left;
        let message = match kind & 15 {
            0 | 1 => opening(*kind, content),
            2..=5 => field(4, &body(content, kind & 16 != 0)),
            6 => field(6, &[]),
            7 => field(3, &headers(&[(":status", b"200"), ("content-type", content)], kind & 16 != 0)),
            8 | 9 => field(5, &body(content, kind & 16 != 0)),
            10 => field(7, &[]),
            15 => {
                frames.push(content.to_vec());
                continue;
            }
            _ => content.to_vec(),
        };
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        frames.push([&[0][..], &length.to_be_bytes(), &message].concat());
        if PARTS_MAX <= frames.len() {
            break;
        }
    }
    frames
}

/// A first message: the content is a path and, behind line ends, the content type, a header and route metadata.
fn opening(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut parts = content.splitn(4, |byte| *byte == b'\n');
    let [path, media, header, metadata] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let fields: [(&str, &[u8]); 7] = [
        (":method", b"POST"),
        (":path", path),
        (":scheme", b"https"),
        (":authority", b"a"),
        ("content-type", media),
        ("x-header", header),
        ("x-forwarded-for", header),
    ];
    let text = |key: &str, value: &[u8]| {
        let entry = [field(1, key.as_bytes()), field(2, &field(3, value))].concat();
        field(1, &entry)
    };
    let attributes = [text("source.address", b"203.0.113.9:80"), text("xds.route_metadata", metadata)].concat();
    let attributes = [field(1, b"envoy.filters.http.ext_proc"), field(2, &attributes)].concat();
    let modes = [8, kind >> 5 & 7, 16, kind >> 4 & 7];
    [field(2, &headers(&fields, kind & 1 != 0)), field(9, &attributes), field(11, &modes)].concat()
}

fn headers(fields: &[(&str, &[u8])], end: bool) -> Vec<u8> {
    let one = |(name, value): &(&str, &[u8])| field(1, &[field(1, name.as_bytes()), field(3, value)].concat());
    let map: Vec<u8> = fields.iter().flat_map(one).collect();
    [field(1, &map), vec![24, u8::from(end)]].concat()
}

fn body(content: &[u8], end: bool) -> Vec<u8> {
    [field(1, content), vec![16, u8::from(end)]].concat()
}

/// One field of a protobuf message that has a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let (mut out, mut length) = (vec![number << 3 | 2], content.len());
    while 127 < length {
        out.push(length as u8 & 127 | 128);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

/// What Envoy sends: chunks, all there at once.
struct Said(VecDeque<Bytes>);

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// The answers to a stream, and the status it ends with.
fn answers(chunks: VecDeque<Bytes>) -> (Vec<ProcessingResponse>, String) {
    RUNTIME.with(|runtime| runtime.block_on(gather(chunks)))
}

async fn gather(chunks: VecDeque<Bytes>) -> (Vec<ProcessingResponse>, String) {
    let service = SERVICE.with(Rc::clone);
    let mut answers = service.call(http::Request::new(Said(chunks))).into_body();
    let (mut bytes, mut status) = (Vec::new(), None);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut answers).poll_frame(cx)).await {
        match frame.expect("an answer is whole").into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => status = frame.into_trailers().ok().and_then(|trailers| trailers.get(STATUS).cloned()),
        }
    }
    let status = status.expect("each stream ends with a status");
    let (mut all, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((prefix, behind)) = rest.split_at_checked(5) {
        let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        all.push(ProcessingResponse::decode(&behind[..length]).expect("an answer can be read"));
        rest = &behind[length..];
    }
    assert!(rest.is_empty(), "half an answer");
    (all, status.to_str().expect("a status is text").to_owned())
}
