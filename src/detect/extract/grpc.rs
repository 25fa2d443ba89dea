//! gRPC and gRPC-Web bodies: frames of messages.

use crate::detect::extract::coding::{self, End};
use crate::detect::extract::leaves::{self, Holder};
use crate::detect::extract::sink::Sink;
use crate::detect::extract::{Flow, mime, protobuf};

/// Frames of one body.
const FRAMES_MAX: usize = 1024;

/// How a body of frames is written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<'h> {
    /// The whole body is base64 (`application/grpc-web-text`).
    pub(super) base64: bool,
    /// Messages are JSON.
    pub(super) json: bool,
    /// The `grpc-encoding` header.
    pub(super) encoding: &'h str,
}

/// Hands out the texts of each frame's message.
pub(super) fn walk(body: &[u8], form: &Form<'_>, sink: &mut Sink<'_>) -> Flow {
    let decoded = form.base64.then(|| mime::base64(body));
    let mut rest = decoded.as_deref().unwrap_or(body);
    let mut inflated_max = sink.limits.body_bytes_max;
    for _ in 0..FRAMES_MAX {
        let [flags, a, b, c, d, after @ ..] = rest else { break };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let cut = after.len() < length;
        let (message, after) = after.split_at_checked(length).unwrap_or((after, b""));
        if cut {
            sink.partial("a gRPC frame ends in the middle")?;
        }
        frame(Frame { flags: *flags, message }, form, &mut inflated_max, sink)?;
        rest = after;
    }
    protobuf::text_of(rest, sink)
}

/// Hands out one message. All messages of a body together inflate to no more than `inflated_max` bytes.
fn frame(frame: Frame<'_>, form: &Form<'_>, inflated_max: &mut usize, sink: &mut Sink<'_>) -> Flow {
    let is_compressed = frame.flags & 1 == 1;
    let is_trailer = frame.flags & 0x80 != 0;
    let plain = is_compressed.then(|| coding::undo(form.encoding, frame.message, *inflated_max));
    match plain.as_ref().map(|plain| plain.end) {
        Some(End::Refused(_) | End::Damaged) => sink.undecodable("a compressed gRPC message cannot be read")?,
        Some(End::Full) => sink.partial("gRPC messages inflate beyond detection_max_body_inspect_bytes")?,
        Some(End::Whole | End::Cut) | None => {}
    }
    let message = plain.as_ref().map_or(frame.message, |plain| &plain.bytes);
    if is_compressed {
        *inflated_max = inflated_max.saturating_sub(message.len());
        sink.inflated(message.len());
    }
    if let Some(text) = simdutf8::basic::from_utf8(message).ok().filter(|_| form.json) {
        leaves::walk(text, &Holder::body(sink.lens()), sink)?;
        return Flow::Continue(());
    }
    if !is_trailer && protobuf::walk(message, sink)? {
        return Flow::Continue(());
    }
    protobuf::text_of(message, sink)
}

/// One message with the marks before it.
#[derive(Clone, Copy, Debug)]
struct Frame<'b> {
    flags: u8,
    message: &'b [u8],
}
