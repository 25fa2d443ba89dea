//! Which reader a body gets: by its declared type and by what it looks like.

use std::borrow::Cow;

use crate::detect::extract::json::{self, Soundness};
use crate::detect::extract::leaves::{self, Holder};
use crate::detect::extract::sink::Sink;
use crate::detect::extract::{Flow, pairs};
use crate::detect::{Kind, Source};
use crate::request::Request;

/// Bytes read beyond the body cap, so that an attack across the cut is whole.
const OVERLAP: usize = 256;

/// Hands out the body's values.
pub(super) fn walk(request: &Request<'_>, sink: &mut Sink<'_>) -> Flow {
    let body = request.body.bytes();
    if body.is_empty() || !sink.scope.scan_body {
        return Flow::Continue(());
    }
    if request.body.is_partial() {
        sink.partial("only the beginning of the body was sent for inspection")?;
    }
    let kept = body.get(..sink.limits.body_bytes_max + OVERLAP).unwrap_or(body);
    if kept.len() < body.len() && !request.body.is_partial() {
        sink.partial("the body is longer than detection_max_body_inspect_bytes")?;
    }
    if request.headers.text("content-encoding").is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        sink.undecodable("the content coding is not known")?;
    }
    let text = lossy(kept);
    read(request.headers.text("content-type").unwrap_or_default(), &text, sink)?;
    sink.flush(Source::Body)
}

fn read(content_type: &str, text: &str, sink: &mut Sink<'_>) -> Flow {
    let declared = content_type.to_ascii_lowercase();
    if declared.contains("application/x-www-form-urlencoded") {
        return pairs::form(text, sink);
    }
    if declared.contains("json") {
        let shape = leaves::walk(text, &Holder::body(sink.lens()), sink)?;
        let whole = shape.soundness == Soundness::Strict && shape.roots == 1 && shape.starts_with_container;
        return if whole { Flow::Continue(()) } else { blob(text, sink) };
    }
    blob(text, sink)?;
    if json::is_document(text) {
        leaves::walk(text, &Holder::body(sink.lens()), sink)?;
    }
    Flow::Continue(())
}

/// Hands out a text as it is.
pub(super) fn blob(text: &str, sink: &mut Sink<'_>) -> Flow {
    sink.text(Source::Body, Kind::Value, "", text)
}

/// Bytes as text; each byte that is not UTF-8 becomes one U+FFFD, so that it counts as noise.
pub(super) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = simdutf8::basic::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 2);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}
