//! Which texts a request holds: query, path, headers and body, one value at a time, in guard-core's order.
//!
//! Values are borrowed from the request wherever nothing had to be decoded. This room knows how clients write requests
//! down; it does not know what an attack looks like.

use std::ops::ControlFlow;

use crate::detect::{Limits, Scope, Visit};
use crate::request::Request;

mod binary;
mod body;
mod charset;
mod coding;
mod graphql;
mod grpc;
mod headers;
mod json;
mod leaves;
mod mime;
mod multipart;
mod pairs;
mod path;
mod percent;
pub mod place;
mod protobuf;
mod sink;
mod xml;

use sink::Sink;

/// Whether the walk goes on; `Break` is the visitor's word.
type Flow = ControlFlow<()>;

/// Hands every value of `request` to `visit`, until it breaks: query (name, value, ...), path, headers (name, value,
/// ...), body. No text is empty. Text is decoded once where its container encodes (percent, JSON escapes, XML entities,
/// charset), and borrowed from the request where there was nothing to decode.
///
/// Once `limits.values_max` or `limits.chars_max` is spent, what is left of each source is handed out as one text.
pub fn walk(request: &Request<'_>, scope: &Scope, limits: &Limits, visit: &mut dyn Visit) -> Flow {
    let mut sink = Sink::new(scope, limits, visit);
    pairs::query(request.target.query.unwrap_or_default(), &mut sink)?;
    path::walk(request.target.path, &mut sink)?;
    headers::walk(&request.headers, &mut sink)?;
    body::walk(request, &mut sink)
}

/// Hands every value of the body alone to `visit`: what [`walk`] does last.
pub fn walk_body(request: &Request<'_>, scope: &Scope, limits: &Limits, visit: &mut dyn Visit) -> Flow {
    body::walk(request, &mut Sink::new(scope, limits, visit))
}

/// The text of a body that `codings` (the value of Content-Encoding) say how to read; at most `max` bytes, and what can
/// be read of one that is cut or damaged. A body in a coding that is not known stays as it is.
pub(crate) fn inflated<'b>(codings: &str, body: &'b [u8], max: usize) -> std::borrow::Cow<'b, [u8]> {
    coding::undo(codings, body, max).bytes
}

#[cfg(test)]
mod tests;
