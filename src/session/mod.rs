//! One exchange that Envoy shows part by part, as a state machine: events in, commands out. It says when to decide, what
//! to inspect, what to answer and what to hold back; it decides nothing itself and knows no wire, clock or policy.
//!
//! The machine is a total function. Whatever comes out of order, twice, too often or after the end leads to
//! [`Answer::Failure`]: a part that is not understood is never let pass.

mod gather;
mod machine;
mod response;

use bytes::Bytes;

use crate::request::{Grpc, Request};

pub use machine::Session;

/// Body parts without a byte that may follow one another: a peer that sends more plays with us.
pub const EMPTY_CHUNKS_MAX: u32 = 1024;
/// Largest piece of a held body that is sent on at once, in bytes.
pub const ECHO_BYTES_MAX: usize = 64 * 1024;

/// How Envoy sends a body.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BodyMode {
    /// Not at all.
    None,
    /// In parts; each waits in Envoy for its answer, and goes on with it.
    Streamed,
    /// As one part; nothing has gone on before its answer.
    Buffered,
    /// As one part, cut at Envoy's buffer limit.
    BufferedPartial,
    /// In parts that we own: what is to go on is what we send back.
    FullDuplex,
    /// Envoy did not say (before 1.30).
    #[default]
    Unstated,
}

/// What is known of an exchange before its first part.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Setup {
    /// How the request body comes.
    pub request_body: BodyMode,
    /// How the response body comes.
    pub response_body: BodyMode,
    /// Envoy takes another mode in the answer to headers. It may still have been told not to: then the override is
    /// ignored, and what comes is passed on.
    pub overridable: bool,
    /// Nobody waits for answers, so none are given.
    pub observed: bool,
    /// Request body bytes gathered for one inspection.
    pub bytes_max: usize,
    /// Response body bytes looked at; what comes behind them goes on unseen.
    pub response_bytes_max: usize,
}

/// What kind of body a request announces.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BodyKind {
    /// A text or file, inspected as one.
    #[default]
    Whole,
    /// gRPC: each message is inspected by itself, because a stream of them may never end.
    Messages,
    /// Another protocol inside (WebSocket, CONNECT): not readable, and both sides may speak at any time.
    Tunnel,
}

impl BodyKind {
    /// The kind of a request's body. Only what Envoy itself treats as a tunnel counts as one: a stray Upgrade header
    /// on a POST must not spare its body.
    #[must_use]
    pub fn of(request: &Request<'_>) -> Self {
        let has_token = |name: &str, token: &str| {
            request
                .headers
                .all(name)
                .flat_map(|value| value.split(|byte| *byte == b','))
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        };
        let upgrades = request.method == "GET" && has_token("connection", "upgrade");
        if request.method == "CONNECT" || upgrades && has_token("upgrade", "websocket") {
            return Self::Tunnel;
        }
        match request.grpc() {
            Some(Grpc::Plain) => Self::Messages,
            Some(Grpc::Web | Grpc::WebText) | None => Self::Whole,
        }
    }
}

/// One part of the exchange.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// Header fields of the request.
    RequestHeaders {
        /// No body follows.
        end: bool,
        /// What kind of body would.
        kind: BodyKind,
    },
    /// A part of the request body.
    RequestBody {
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows.
        end: bool,
    },
    /// Trailer fields of the request.
    RequestTrailers,
    /// Header fields of the response.
    ResponseHeaders {
        /// No body follows.
        end: bool,
    },
    /// A part of the response body.
    ResponseBody {
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows.
        end: bool,
    },
    /// Trailer fields of the response.
    ResponseTrailers,
}

/// What the owner of the session does next. It takes commands until there is none, then brings the next event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Decide about the request's headers, then call [`Session::decided`].
    Decide,
    /// Inspect [`Session::unit`], then call [`Session::inspected`].
    Inspect,
    /// Judge the response's headers, then call [`Session::judged`].
    Judge,
    /// Inspect [`Session::response_unit`], then call [`Session::response_inspected`].
    InspectResponse,
    /// Send an answer.
    Answer(Answer),
}

/// What the policy says to a request whose headers were decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ruling {
    /// The request may go on.
    Pass(Plan),
    /// We answer instead.
    Refuse,
}

/// Which later parts of an exchange the policy wants to see.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// The request body is to be inspected.
    pub request_body: bool,
    /// The response's header fields are to be changed or looked at.
    pub response_headers: bool,
    /// The response's body may have to be looked at.
    pub response_body: bool,
    /// Nothing of the request may go on before its body was inspected, where Envoy can be told so.
    pub holds_request: bool,
}

/// What the policy says to a response whose headers it saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// It may go on.
    Pass(Look),
    /// We answer instead.
    Refuse,
}

/// How a response body is looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Look {
    /// Not at all.
    #[default]
    Away,
    /// Part by part; each goes on once it was looked at.
    Along,
    /// As much of it as can be held before anything of the response goes on.
    Before,
}

/// The response bytes under inspection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseUnit<'s> {
    /// All that was gathered, from the beginning.
    pub bytes: &'s [u8],
    /// Where the bytes that were not looked at before begin.
    pub fresh: usize,
    /// Nothing more will be looked at.
    pub is_last: bool,
    /// The body ends with these bytes.
    pub is_whole: bool,
}

/// What the inspection of a body says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inspected {
    /// Nothing to object.
    Clean,
    /// We answer instead.
    Refused,
}

/// One answer to Envoy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The request's headers go on; from here on other modes, if any.
    RequestHeaders(Option<Modes>),
    /// A part of the request body.
    RequestBody(Chunk),
    /// The request's trailers go on.
    RequestTrailers,
    /// The response's headers go on, with the changes of the policy; from here on other modes, if any.
    ResponseHeaders(Option<Modes>),
    /// A part of the response body.
    ResponseBody(Chunk),
    /// The response's trailers go on.
    ResponseTrailers,
    /// The refusal that the owner was told by its policy. The exchange is over.
    Refusal,
    /// Our failure. The exchange is over.
    Failure(Breach),
}

/// What becomes of a body part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Chunk {
    /// Envoy has it and sends it on.
    Continue,
    /// We have it and send it back.
    Echo {
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows.
        end: bool,
    },
}

/// The modes that Envoy is asked to change to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Modes {
    /// How the request body comes.
    pub request_body: BodyMode,
    /// How the response body comes.
    pub response_body: BodyMode,
    /// The response's headers are wanted.
    pub response_headers: bool,
    /// The request's trailers are wanted: they may be what ends a body.
    pub request_trailers: bool,
    /// The response's trailers are wanted.
    pub response_trailers: bool,
}

/// Why an exchange cannot be followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Breach {
    /// A part comes before what has to precede it, twice, or after the end.
    #[error("a part of the exchange is out of order")]
    Order,
    /// Endless parts without a byte.
    #[error("too many empty body parts")]
    Empty,
    /// A part comes while a decision is awaited, or a ruling nobody asked for.
    #[error("a part comes while the last one is being decided")]
    Busy,
}

/// How an exchange stands when its stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// All parts that came were answered.
    Answered,
    /// Something is held back or undecided: the end must not look like consent.
    Unanswered,
    /// We answered instead, or failed.
    Closed,
}

#[cfg(test)]
mod tests;
