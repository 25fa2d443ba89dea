//! Answers become the bytes of ProcessingResponses.
//!
//! - A response without a part fails the request, even "go on" is written out.
//! - This filter reads `raw_value` of a header and not `value`, the opposite of ext_authz.
//! - `append_action` is ignored by Envoy 1.40, `append` decides; adding only what is absent is decided by us.

use bytes::Bytes;

use crate::engine::phases::{ResponseEdits, ResponseHead};
use crate::grpc::proc::route_metadata::OURS;
use crate::grpc::web::{Web, escaped, grpc_status};
use crate::grpc::wire::Message;
use crate::grpc::write::{clean, failure_status, framed, framed_before, refusal_status};
use crate::model::decision::{Decision, Denial, Verdict};
use crate::model::headers::{Existing, HeaderEdit};
use crate::request::Request;
use crate::session::{BodyMode, Chunk, Modes};

/// Field numbers of ProcessingResponse.
mod field {
    pub(super) const REQUEST_HEADERS: u32 = 1;
    pub(super) const RESPONSE_HEADERS: u32 = 2;
    pub(super) const REQUEST_BODY: u32 = 3;
    pub(super) const RESPONSE_BODY: u32 = 4;
    pub(super) const REQUEST_TRAILERS: u32 = 5;
    pub(super) const RESPONSE_TRAILERS: u32 = 6;
    pub(super) const IMMEDIATE: u32 = 7;
    pub(super) const METADATA: u32 = 8;
    pub(super) const MODES: u32 = 9;
}

/// The request's headers go on.
pub(super) fn request_headers(
    request: Option<&Request<'_>>,
    edits: &[HeaderEdit<'_>],
    modes: Option<Modes>,
    metadata: &[u8],
) -> Bytes {
    let is_there = |name: &str| request.is_some_and(|request| request.headers.get(name).is_some());
    framed(64 + metadata.len(), |answer| {
        answer.message(field::REQUEST_HEADERS, |headers| common(headers, &[], edits, is_there));
        if !metadata.is_empty() {
            answer.bytes(field::METADATA, metadata);
        }
        if let Some(modes) = modes {
            answer.message(field::MODES, |message| self::modes(message, modes));
        }
    })
}

/// The response's headers go on, changed.
pub(super) fn response_headers(head: &ResponseHead<'_>, edits: &ResponseEdits<'_>, modes: Option<Modes>) -> Bytes {
    let is_there = |name: &str| !edits.remove.contains(&name) && head.headers.get(name).is_some();
    // What is not there need not be removed, and what is overwritten neither.
    let removed: Vec<&str> = edits.remove.iter().copied().filter(|name| head.headers.get(name).is_some()).collect();
    framed(64 * (edits.set.len() + 1), |answer| {
        answer.message(field::RESPONSE_HEADERS, |headers| common(headers, &removed, &edits.set, is_there));
        if let Some(modes) = modes {
            answer.message(field::MODES, |message| self::modes(message, modes));
        }
    })
}

/// A part of the request body goes on.
pub(super) fn request_body(chunk: &Chunk) -> [Bytes; 2] {
    body(field::REQUEST_BODY, chunk)
}

/// A part of the response body goes on.
pub(super) fn response_body(chunk: &Chunk) -> [Bytes; 2] {
    body(field::RESPONSE_BODY, chunk)
}

/// The request's trailers go on.
pub(super) fn request_trailers() -> Bytes {
    framed(8, |answer| answer.message(field::REQUEST_TRAILERS, |_| {}))
}

/// The response's trailers go on.
pub(super) fn response_trailers() -> Bytes {
    framed(8, |answer| answer.message(field::RESPONSE_TRAILERS, |_| {}))
}

/// A refusal, or our failure, in place of the upstream's answer; `None` for an allow.
pub(super) fn immediate(request: &Request<'_>, decision: &Decision<'_>, metadata: &[u8]) -> Option<Bytes> {
    let (denial, status, kind) = match &decision.verdict {
        Verdict::Allow => return None,
        Verdict::Deny(denial) => (denial, refusal_status(denial), "deny"),
        Verdict::Fail(denial) => (denial, failure_status(denial.status), "fail"),
    };
    Some(framed(512 + denial.body.len() + metadata.len(), |answer| {
        answer.message(field::IMMEDIATE, |reply| match Web::of(request, denial) {
            Some(web) => web_reply(reply, denial, (web, status, kind)),
            None => local_reply(reply, denial, status, kind),
        });
        if !metadata.is_empty() {
            answer.bytes(field::METADATA, metadata);
        }
    }))
}

/// An answer of the edge itself.
pub(super) fn failure(status: u16, body: &str, details: &str) -> Bytes {
    framed(128, |answer| {
        answer.message(field::IMMEDIATE, |reply| {
            reply.message(1, |code| code.number(1, u64::from(status)));
            reply.bytes(3, body.as_bytes());
            reply.message(4, |grpc| grpc.number(1, grpc_status(status)));
            reply.text(5, details);
        });
    })
}

/// Our namespace in Envoy's dynamic metadata, as the fields of a Struct.
pub(super) fn metadata(fill: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut all = Message::default();
    all.message(1, |entry| {
        entry.text(1, OURS);
        entry.message(2, |value| value.message(5, fill));
    });
    all.finish()
}

fn local_reply(reply: &mut Message, denial: &Denial<'_>, status: u16, kind: &str) {
    reply.message(1, |code| code.number(1, u64::from(status)));
    let explicit = denial.headers.iter().any(|edit| edit.name.eq_ignore_ascii_case("content-type"));
    reply.message(2, |mutation| {
        // Envoy sends text/plain when it is told nothing.
        if let (Some(content_type), false) = (denial.content_type, explicit) {
            header(mutation, &HeaderEdit::set("content-type", content_type));
        }
        for edit in &denial.headers {
            header(mutation, edit);
        }
    });
    reply.bytes(3, denial.body.as_bytes());
    // Counts for gRPC clients only: the body becomes the message of this status.
    reply.message(4, |grpc| grpc.number(1, grpc_status(status)));
    reply.text(5, &format!("envoy_guard_{kind}_{}", denial.origin.name()));
}

/// The same for a grpc-web client: what happened to its call stands in trailers, and HTTP has nothing to report.
fn web_reply(reply: &mut Message, denial: &Denial<'_>, how: (Web, u16, &str)) {
    let (web, status, kind) = how;
    reply.message(1, |code| code.number(1, 200));
    reply.message(2, |mutation| {
        header(mutation, &HeaderEdit::set("content-type", web.media()));
        if web == Web::Translated {
            header(mutation, &HeaderEdit::set("grpc-status", grpc_status(status).to_string()));
            header(mutation, &HeaderEdit::set("grpc-message", escaped(&denial.body)));
        }
        for edit in denial.headers.iter().filter(|edit| !edit.name.eq_ignore_ascii_case("content-type")) {
            header(mutation, edit);
        }
    });
    reply.bytes(3, &web.body(grpc_status(status), &denial.body));
    reply.text(5, &format!("envoy_guard_{kind}_{}", denial.origin.name()));
}

fn common(headers: &mut Message, removed: &[&str], edits: &[HeaderEdit<'_>], is_there: impl Fn(&str) -> bool) {
    headers.message(1, |common| {
        if removed.is_empty() && edits.is_empty() {
            return;
        }
        common.message(2, |mutation| {
            for edit in edits {
                if edit.existing != Existing::Keep || !is_there(&edit.name) {
                    header(mutation, edit);
                }
            }
            for name in removed {
                mutation.text(2, name);
            }
        });
    });
}

/// A HeaderValueOption among `set_headers`. Both switches are set, and say the same.
fn header(mutation: &mut Message, edit: &HeaderEdit<'_>) {
    let value = clean(&edit.value);
    let appends = edit.existing == Existing::Append;
    mutation.message(1, |option| {
        option.message(1, |header| {
            header.text(1, &clean(&edit.name));
            header.bytes(3, value.as_bytes());
        });
        option.message(2, |append| append.number(1, u64::from(appends)));
        option.number(3, if appends { 0 } else { 2 });
        option.number(4, u64::from(value.is_empty()));
    });
}

/// The parts of an answer, to be sent one behind the other: the bytes of a body are not copied.
fn body(number: u32, chunk: &Chunk) -> [Bytes; 2] {
    match chunk {
        Chunk::Continue => [framed(8, |answer| answer.message(number, |_| {})), Bytes::new()],
        Chunk::Echo { bytes, end } => [echo(number, bytes.len(), *end), bytes.clone()],
    }
}

/// What stands before `length` bytes that are sent back: each level of the message, from the innermost one outwards.
fn echo(number: u32, length: usize, end: bool) -> Bytes {
    const COMMON: u32 = 1;
    const BODY_MUTATION: u32 = 3;
    const STREAMED: u32 = 3;
    let mut streamed = Message::with_capacity(16);
    streamed.number(2, u64::from(end));
    // The bytes are the last field, because they follow from elsewhere.
    streamed.announce(1, length);
    let mut head = streamed.finish();
    for level in [STREAMED, BODY_MUTATION, COMMON, number] {
        let mut outer = Message::with_capacity(16 + head.len());
        outer.announce(level, head.len() + length);
        outer.raw(&head);
        head = outer.finish();
    }
    framed_before(&head, length)
}

/// A ProcessingMode. Body modes are always stated: one that is left out means none.
fn modes(message: &mut Message, modes: Modes) {
    const SEND: u64 = 1;
    const SKIP: u64 = 2;
    let shown = |is_wanted| if is_wanted { SEND } else { SKIP };
    message.number(2, shown(modes.response_headers));
    message.number(3, mode(modes.request_body));
    message.number(4, mode(modes.response_body));
    message.number(5, shown(modes.request_trailers));
    message.number(6, shown(modes.response_trailers));
}

const fn mode(mode: BodyMode) -> u64 {
    match mode {
        BodyMode::None | BodyMode::Unstated => 0,
        BodyMode::Streamed => 1,
        BodyMode::Buffered => 2,
        BodyMode::BufferedPartial => 3,
        BodyMode::FullDuplex => 4,
    }
}
