//! Streams by a generator whose numbers are always the same: parts in any order, cut short, garbled, hostile. Whatever
//! comes, no request passes that the policy forbids, and nothing of a stream is left when it is over.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use envoy_guard::app::build::build;
use envoy_guard::config::Sources;
use envoy_guard::grpc::desk::Desk;
use envoy_guard::grpc::proc::Proc;
use envoy_guard::live::Live;
use envoy_guard::state::memory::Memory;
use envoy_guard::telemetry::Recorder;
use envoy_guard::telemetry::bus::Bus;
use envoy_guard::telemetry::metrics::Metrics;
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, HttpBody, HttpTrailers, ProcessingRequest, ProcessingResponse,
};
use http_body::Body as _;
use prost::Message as _;

use crate::allocations::live;
use crate::proc::h2::Said;
use crate::proc::wire::{HOSTILE, STATUS, fields, frame, framed, opening_of, part};

/// Streams of the test; `TEST_PROC_CASES` asks for more or fewer.
const CASES: u64 = 100_000;
/// Streams after which caches and histories hold all they ever will.
const WARM_UP: u64 = 3_000;
/// What may be left then, in bytes.
const GROWTH_MAX: i64 = 64 * 1024;
/// Longer than what one inspection takes, so that bodies outgrow it now and then.
const LARGE: usize = 3_000;

/// Numbers that are the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// One stream: what is sent, and what must not come of it.
pub(crate) struct Sequence {
    /// Frames, the last one possibly cut.
    pub(crate) frames: Vec<Bytes>,
    /// The parts whose frames are whole and readable.
    parts: Vec<Part>,
    /// Something behind them cannot be read.
    is_garbled: bool,
    observed: bool,
    request_body: i32,
    /// The policy refuses the request by its headers.
    is_forbidden: bool,
}

const STREAMED: i32 = 1;
const FULL_DUPLEX: i32 = 4;

impl Sequence {
    pub(crate) fn new(numbers: &mut Numbers) -> Self {
        let request_body = i32::try_from(numbers.below(5)).unwrap();
        let response_body = *numbers.of(&[0, 0, STREAMED, 2, 3, FULL_DUPLEX]);
        let observed = numbers.one_in(12);
        let is_forbidden = numbers.one_in(8);
        let opening = opening(numbers, (request_body, response_body), is_forbidden);
        let mut messages = Vec::new();
        if !numbers.one_in(10) {
            messages.push(opening.clone());
        }
        for _ in 0..numbers.below(7) {
            messages.push(any_part(numbers, &opening));
        }
        for message in &mut messages {
            message.observability_mode = observed;
        }
        let mut frames: Vec<Bytes> = messages.iter().map(frame).collect();
        let mut parts: Vec<Part> = messages.into_iter().filter_map(|message| message.request).collect();
        let mut is_garbled = false;
        if numbers.one_in(6)
            && let Some(last) = frames.pop()
        {
            let cut = usize::try_from(numbers.below(last.len() as u64)).unwrap();
            // Cut before its first byte it simply never came.
            is_garbled = cut != 0;
            frames.push(last.slice(..cut));
            parts.pop();
        } else if numbers.one_in(20) {
            frames.push(framed(&[0xff; 9]).into());
            is_garbled = true;
        }
        Self { frames, parts, is_garbled, observed, request_body, is_forbidden }
    }

    /// The request's body as it came in order, and whether all of it came before anything of the response.
    fn body(&self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        if !matches!(self.parts.first(), Some(Part::RequestHeaders(head)) if !head.end_of_stream) {
            return (body, false);
        }
        for part in self.parts.iter().skip(1) {
            match part {
                Part::RequestBody(piece) => {
                    body.extend_from_slice(&piece.body);
                    if piece.end_of_stream {
                        return (body, true);
                    }
                }
                Part::RequestTrailers(_) => return (body, true),
                _ => return (body, false),
            }
        }
        (body, false)
    }

    /// All of the request's body, whatever came between its parts.
    fn received(&self) -> Vec<u8> {
        let is_piece = |part: &Part| match part {
            Part::RequestBody(piece) => Some(piece.body.clone()),
            _ => None,
        };
        self.parts.iter().filter_map(is_piece).flatten().collect()
    }

    /// What came of it must be safe.
    #[track_caller]
    pub(crate) fn judge(&self, answers: &[ProcessingResponse], status: &str) {
        let shown = || format!("{:?}\n{answers:?}\nstatus {status}", self.parts);
        if self.observed {
            // Unreadable bytes are answered: nothing says that nobody waits for the answer.
            assert!(answers.is_empty() || self.is_garbled, "{}", shown());
            return;
        }
        let is_final = |answer: &ProcessingResponse| matches!(answer.response, Some(Reply::ImmediateResponse(_)));
        let ends = answers.iter().position(is_final);
        assert!(ends.is_none_or(|place| place + 1 == answers.len()), "nothing follows an end: {}", shown());
        assert!(answers.iter().all(|answer| answer.response.is_some()), "an answer says something: {}", shown());
        let passes = ends.is_none() && status == "0";
        assert!(!passes || !self.is_garbled, "bytes that nobody understood passed: {}", shown());
        assert!(!passes || self.request_body == FULL_DUPLEX || self.parts.len() <= answers.len(), "{}", shown());
        if self.is_forbidden && matches!(self.parts.first(), Some(Part::RequestHeaders(_))) {
            assert!(ends == Some(0), "refused by its headers: {}", shown());
        }
        let (body, is_whole) = self.body();
        let is_hostile = memchr::memmem::find(&body, HOSTILE).is_some();
        let is_seen = [STREAMED, FULL_DUPLEX].contains(&self.request_body);
        assert!(!(passes && is_whole && is_hostile && is_seen), "a hostile body passed: {}", shown());
        if self.request_body == FULL_DUPLEX {
            let sent: Vec<u8> = answers.iter().flat_map(sent_back).collect();
            assert!(self.received().starts_with(&sent), "what goes on is what came: {}", shown());
            assert!(memchr::memmem::find(&sent, HOSTILE).is_none(), "hostile bytes went on: {}", shown());
        }
    }
}

/// Bytes of a request body that an answer lets go on.
fn sent_back(answer: &ProcessingResponse) -> Vec<u8> {
    let Some(Reply::RequestBody(BodyResponse { response: Some(common) })) = &answer.response else { return Vec::new() };
    match common.body_mutation.as_ref().and_then(|mutation| mutation.mutation.as_ref()) {
        Some(Mutation::StreamedResponse(streamed)) => streamed.body.to_vec(),
        _ => Vec::new(),
    }
}

fn opening(numbers: &mut Numbers, modes: (i32, i32), is_forbidden: bool) -> ProcessingRequest {
    let path = if is_forbidden { "/a?q=<script>alert(document.cookie)</script>" } else { "/a" };
    opening_of(path, modes, numbers.one_in(8))
}

fn any_part(numbers: &mut Numbers, opening: &ProcessingRequest) -> ProcessingRequest {
    let end_of_stream = numbers.one_in(4);
    let (first, second) = HOSTILE.split_at(20);
    let large = [b'x'; LARGE];
    let pieces: [&[u8]; 7] = [b"", b"{\"a\": 1}", HOSTILE, first, second, first, &large];
    let mut piece = || HttpBody { body: numbers.of(&pieces).to_vec(), end_of_stream, ..HttpBody::default() };
    let piece = piece();
    match numbers.below(14) {
        0 => opening.clone(),
        1 => part(Part::RequestTrailers(HttpTrailers::default())),
        2 => part(Part::ResponseHeaders(fields(&[(":status", "200"), ("content-type", "text/plain")], end_of_stream))),
        3 => part(Part::ResponseBody(piece)),
        4 => part(Part::ResponseTrailers(HttpTrailers::default())),
        _ => part(Part::RequestBody(piece)),
    }
}

/// Answers, one behind the other.
pub(crate) fn parsed(mut bytes: &[u8]) -> Vec<ProcessingResponse> {
    let mut all = Vec::new();
    while let Some((prefix, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        all.push(ProcessingResponse::decode(&rest[..length]).unwrap());
        bytes = &rest[length..];
    }
    all
}

/// The service of one thread, without a network.
#[tokio::test]
async fn no_stream_passes_what_is_forbidden_or_leaves_anything_behind() {
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let overrides = vec![
        set("security.enable_redis", "false"),
        set("security.rate_limit", "1000000000"),
        set("security.auto_ban_threshold", "1000000000"),
        set("limits.max_gathered_bytes", "1048576"),
        set("telemetry.decisions.entries", "100"),
    ];
    let live_policy = Live::new(build(&Sources { overrides, ..Sources::default() }).unwrap());
    let metrics = Metrics::new("test");
    let recorder = Rc::new(Recorder::new(&metrics, Arc::new(Bus::default()), Arc::default()));
    let service = Rc::new(Proc::new(Desk::new(&live_policy), Arc::new(Memory::new(16)), recorder));
    let cases = std::env::var("TEST_PROC_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    let mut numbers = Numbers(7);
    let (mut warm, mut answered, mut refused) = (0, 0_u64, 0_u64);
    for case in 0..cases {
        let sequence = Sequence::new(&mut numbers);
        let is_broken_off = numbers.one_in(10);
        let chunks: Vec<&[u8]> = sequence.frames.iter().map(|bytes| &bytes[..]).collect();
        let call = http::Request::new(Said::new(&chunks));
        let mut answers = Rc::clone(&service).call(call).into_body();
        let (mut bytes, mut status) = (Vec::new(), None);
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut answers).poll_frame(cx)).await {
            match frame.unwrap().into_data() {
                Ok(_) if is_broken_off => break,
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => status = frame.into_trailers().unwrap().get(STATUS).cloned(),
            }
        }
        if let Some(status) = status.filter(|_| !is_broken_off) {
            let answers = parsed(&bytes);
            sequence.judge(&answers, status.to_str().unwrap());
            answered += u64::from(!answers.is_empty());
            let is_refusal = |answer: &ProcessingResponse| matches!(answer.response, Some(Reply::ImmediateResponse(_)));
            refused += u64::from(answers.iter().any(is_refusal));
        } else {
            assert!(is_broken_off, "each stream ends with a status");
        }
        drop(answers);
        drop((sequence, bytes));
        if case == WARM_UP {
            warm = live();
        }
    }
    let growth = live() - warm;
    eprintln!(
        "{cases} streams, {answered} answered, {refused} of them refused or failed; {growth} bytes more than after {WARM_UP}"
    );
    assert!(growth <= GROWTH_MAX, "{growth} bytes are left");
    assert!(cases / 2 < answered && cases / 8 < refused && refused < answered, "the generator reaches all ends");
}
