//! A decision becomes the bytes of a CheckResponse. The traps of Envoy 1.40 are closed here by construction: there are
//! three ways to answer, and none of them can say something else by omission.
//!
//! - An absent status, or status OK beside a denied or error response, allows. [`Writer::write`] therefore pairs each
//!   verdict with its status in one place.
//! - A gRPC error may be let through by `failure_mode_allow`: a refusal is always a normal answer.

use std::borrow::Cow;
use std::cell::RefCell;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::grpc::web::{self, Web, grpc_status};
use crate::grpc::wire::Message;
use crate::model::addr::Client;
use crate::model::decision::{ConstantHeaders, Decision, Denial, Origin, Verdict};
use crate::model::headers::{Existing, HeaderEdit};
use crate::request::{Body, Grpc, Request};

/// `google.rpc.Code` of a refusal.
const PERMISSION_DENIED: u64 = 7;
/// `google.rpc.Code` of our own failure.
const INTERNAL: u64 = 13;
/// Bytes before a message in a gRPC body: a flag and the length.
const PREFIX: usize = 5;
/// Constant header sets kept encoded. A policy has one or two; more are encoded anew each time.
const CACHED_MAX: usize = 8;

/// Field numbers of CheckResponse.
mod response {
    pub(super) const STATUS: u32 = 1;
    pub(super) const DENIED: u32 = 2;
    pub(super) const OK: u32 = 3;
    pub(super) const METADATA: u32 = 4;
    pub(super) const ERROR: u32 = 5;
}

/// Field numbers of OkHttpResponse.
mod ok {
    pub(super) const REQUEST_HEADERS: u32 = 2;
    pub(super) const RESPONSE_HEADERS: u32 = 6;
}

/// Writes answers for one policy. Belongs to one thread.
#[derive(Debug)]
pub struct Writer {
    /// Value of the metadata key `policy`; `None` leaves all metadata out.
    policy: Option<String>,
    /// Encoded constant header sets, by address. The policy outlives the writer, so an address means one set.
    encoded: RefCell<SmallVec<[(usize, Bytes); 2]>>,
}

impl Writer {
    /// A writer for the policy of this version. `metadata`: add `dynamic_metadata`.
    #[must_use]
    pub fn new(version: u64, metadata: bool) -> Self {
        Self { policy: metadata.then(|| version.to_string()), encoded: RefCell::default() }
    }

    /// The answer, framed as a gRPC message.
    #[must_use]
    pub fn write(&self, request: &Request<'_>, decision: &Decision<'_>, client: Client<'_>) -> Bytes {
        match &decision.verdict {
            Verdict::Allow => self.allow(request, decision, client),
            Verdict::Deny(denial) => framed(512 + denial.body.len(), |answer| {
                status(answer, PERMISSION_DENIED, denial.origin.name());
                answer.message(response::DENIED, |denied| match Web::of(request, denial) {
                    Some(web) => web_reply(denied, denial, web, refusal_status(denial)),
                    None => {
                        let status = refusal_status(denial);
                        local_reply(denied, denial, status);
                        // Envoy would make a code of the status, and not the one that gRPC means by it.
                        if 400 <= status && request.grpc() == Some(Grpc::Plain) {
                            denied_header(denied, &HeaderEdit::set("grpc-status", grpc_status(status).to_string()));
                        }
                    }
                });
                self.metadata(answer, request, decision, client);
            }),
            Verdict::Fail(denial) => framed(512 + denial.body.len(), |answer| {
                status(answer, INTERNAL, denial.origin.name());
                failure(answer, denial);
                self.metadata(answer, request, decision, client);
            }),
        }
    }

    fn allow(&self, request: &Request<'_>, decision: &Decision<'_>, client: Client<'_>) -> Bytes {
        let constant = decision.response_headers.constant.map(|set| self.constant(set)).unwrap_or_default();
        framed(constant.len() + 256, |answer| {
            // An empty status is written out: OK must be said, not implied.
            answer.message(response::STATUS, |_| {});
            answer.message(response::OK, |allowed| {
                for edit in &decision.request_headers {
                    request_header(allowed, edit, request);
                }
                allowed.raw(&constant);
                for edit in &decision.response_headers.extra {
                    header(allowed, ok::RESPONSE_HEADERS, edit);
                }
            });
            self.metadata(answer, request, decision, client);
        })
    }

    /// The encoded form of a constant header set.
    fn constant(&self, set: &ConstantHeaders) -> Bytes {
        let address = std::ptr::from_ref(set).addr();
        let mut encoded = self.encoded.borrow_mut();
        if let Some((_, bytes)) = encoded.iter().find(|(known, _)| *known == address) {
            return bytes.clone();
        }
        let mut message = Message::default();
        for edit in &set.edits {
            header(&mut message, ok::RESPONSE_HEADERS, edit);
        }
        let bytes = Bytes::from(message);
        if encoded.len() < CACHED_MAX {
            encoded.push((address, bytes.clone()));
        }
        bytes
    }

    /// The namespace of the filter in Envoy's dynamic metadata. A plain allow says little: it is on every request.
    fn metadata(&self, answer: &mut Message, request: &Request<'_>, decision: &Decision<'_>, client: Client<'_>) {
        if self.policy.is_some() {
            answer.message(response::METADATA, |fields| self.facts(fields, request, decision, client));
        }
    }

    /// What a decision says about itself, as the fields of a Struct. Nothing when the policy wants no metadata.
    pub(super) fn facts(
        &self,
        fields: &mut Message,
        request: &Request<'_>,
        decision: &Decision<'_>,
        client: Client<'_>,
    ) {
        let Some(policy) = &self.policy else { return };
        let fact = decision.facts.last();
        let (name, origin) = match &decision.verdict {
            Verdict::Allow => ("allow", fact.map(crate::model::decision::Fact::origin)),
            Verdict::Deny(denial) => ("deny", Some(denial.origin)),
            Verdict::Fail(denial) => ("fail", Some(denial.origin)),
        };
        text_entry(fields, "decision", name);
        text_entry(fields, "policy", policy);
        value_entry(fields, "client", |value| value.shown(3, client));
        if let Some(route) = decision.route {
            text_entry(fields, "route", route);
        }
        if let Some(country) = decision.country {
            text_entry(fields, "country", country.as_str());
        }
        if let Some(asn) = decision.asn {
            value_entry(fields, "asn", |value| value.double(2, asn.into()));
        }
        // What ext_proc needs to go on where this decision ends.
        if decision.flags.is_some_and(|flags| flags.whitelisted) {
            value_entry(fields, "whitelisted", |value| value.number(4, 1));
        }
        if matches!(request.body, Body::Complete(_)) || decision.detection.is_some() {
            text_entry(fields, "body", "inspected");
        }
        let Some(origin) = origin else { return };
        text_entry(fields, "check", origin.name());
        text_entry(fields, "request_id", request.id);
        if let Some(reason) = decision.reason() {
            text_entry(fields, "reason", &reason);
        }
        if decision.passive {
            value_entry(fields, "passive", |value| value.number(4, 1));
        }
        if let Some(detection) = &decision.detection {
            value_entry(fields, "score", |value| value.double(2, detection.score));
            value_entry(fields, "categories", |value| {
                value.message(6, |list| {
                    for category in &detection.categories {
                        list.message(1, |item| item.text(3, category.name()));
                    }
                });
            });
        }
        if let Some(observed) = &decision.observed {
            value_entry(fields, "log_only", |value| {
                value.message(6, |list| {
                    for row in &observed.rows {
                        list.message(1, |item| item.text(3, row));
                    }
                });
            });
        }
    }
}

/// The answer to a question that cannot be read: our failure, as an answer. Never a gRPC error, never an allow.
#[must_use]
pub fn unreadable(reason: &str) -> Bytes {
    let denial = Denial {
        origin: Origin::Unreadable,
        status: 500,
        body: Cow::Borrowed("Security check failed"),
        content_type: Some("text/plain"),
        headers: SmallVec::new(),
    };
    framed(128, |answer| {
        status(answer, INTERNAL, reason);
        failure(answer, &denial);
    })
}

/// An error response; Envoy 1.36, which does not know it, shows the refusal before it. Of the two, whoever knows both
/// takes the last.
fn failure(answer: &mut Message, denial: &Denial<'_>) {
    for field in [response::DENIED, response::ERROR] {
        answer.message(field, |reply| local_reply(reply, denial, failure_status(denial.status)));
    }
}

pub(super) fn framed(capacity: usize, fill: impl FnOnce(&mut Message)) -> Bytes {
    let mut message = Message::with_capacity(PREFIX + capacity);
    message.raw(&[0; PREFIX]);
    fill(&mut message);
    let mut bytes = message.finish();
    // An answer is far below 4 GiB: its parts are a policy's texts and one request's reason.
    let length = u32::try_from(bytes.len() - PREFIX).unwrap_or(u32::MAX);
    if let Some((_, place)) = bytes.first_chunk_mut::<PREFIX>().and_then(|prefix| prefix.split_first_mut()) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    bytes.into()
}

/// A framed message of which `head` is the beginning; `length` more bytes of it follow elsewhere.
pub(super) fn framed_before(head: &[u8], length: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(PREFIX + head.len());
    // Such an answer is a piece of a message that was itself below 4 GiB.
    let length = u32::try_from(head.len() + length).unwrap_or(u32::MAX);
    bytes.push(0);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(head);
    bytes.into()
}

fn status(answer: &mut Message, code: u64, message: &str) {
    answer.message(response::STATUS, |status| {
        status.number(1, code);
        status.text(2, message);
    });
}

/// A DeniedHttpResponse.
fn local_reply(reply: &mut Message, denial: &Denial<'_>, status: u16) {
    reply.message(1, |code| code.number(1, u64::from(status)));
    let explicit = denial.headers.iter().any(|edit| edit.name.eq_ignore_ascii_case("content-type"));
    // Envoy sends text/plain when it is told nothing.
    if let (Some(content_type), false) = (denial.content_type, explicit) {
        denied_header(reply, &HeaderEdit::set("content-type", content_type));
    }
    for edit in &denial.headers {
        denied_header(reply, edit);
    }
    reply.text(3, &denial.body);
}

/// A header of an answer of ours. Envoy drops what is to be appended to such an answer, and delivers each of several that
/// are to be set under one name.
fn denied_header(reply: &mut Message, edit: &HeaderEdit<'_>) {
    let existing = match edit.existing {
        Existing::Append => Existing::Overwrite,
        Existing::Keep | Existing::Overwrite => edit.existing,
    };
    header(reply, 2, &HeaderEdit { existing, ..edit.borrowed() });
}

/// The same for a grpc-web client: what happened to its call stands in trailers, and HTTP has nothing to report. A body
/// is text here, so that trailers of the binary form, which begin with a byte that is none, stand among the headers.
fn web_reply(reply: &mut Message, denial: &Denial<'_>, web: Web, status: u16) {
    reply.message(1, |code| code.number(1, 200));
    denied_header(reply, &HeaderEdit::set("content-type", web.media()));
    for edit in denial.headers.iter().filter(|edit| !edit.name.eq_ignore_ascii_case("content-type")) {
        denied_header(reply, edit);
    }
    let code = grpc_status(status);
    match web {
        Web::Text => reply.bytes(3, &web.body(code, &denial.body)),
        Web::Binary | Web::Translated => {
            denied_header(reply, &HeaderEdit::set("grpc-status", code.to_string()));
            denied_header(reply, &HeaderEdit::set("grpc-message", web::escaped(&denial.body)));
            if web == Web::Translated {
                return;
            }
            // An empty message: Envoy drops the media type of an answer without a body, and clients insist on it.
            reply.bytes(3, &[0; PREFIX]);
        }
    }
}

/// A HeaderValueOption for a response. Both switches are set, and say the same: Envoy versions differ in which of them
/// they read. Only `value` is set: ext_authz ignores `raw_value`.
fn header(message: &mut Message, field: u32, edit: &HeaderEdit<'_>) {
    let value = clean(&edit.value);
    message.message(field, |option| {
        option.message(1, |header| {
            header.text(1, &clean(&edit.name));
            header.text(2, &value);
        });
        option.message(2, |append| append.number(1, u64::from(edit.existing == Existing::Append)));
        option.number(
            3,
            match edit.existing {
                Existing::Append => 0,
                Existing::Keep => 1,
                Existing::Overwrite => 2,
            },
        );
        option.number(4, u64::from(value.is_empty()));
    });
}

/// A HeaderValueOption for the request. Envoy 1.40 ignores the action here, so "add if absent" is decided by us.
fn request_header(message: &mut Message, edit: &HeaderEdit<'_>, request: &Request<'_>) {
    match edit.existing {
        Existing::Keep if request.headers.get(&edit.name).is_some() => {}
        Existing::Keep => {
            header(message, ok::REQUEST_HEADERS, &HeaderEdit { existing: Existing::Overwrite, ..edit.borrowed() })
        }
        Existing::Overwrite | Existing::Append => header(message, ok::REQUEST_HEADERS, edit),
    }
}

/// Header text without CR, LF and NUL: with one of them Envoy fails the whole request.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    match memchr::memchr3(b'\r', b'\n', 0, text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.replace(['\r', '\n', '\0'], " ")),
    }
}

/// The status of a refusal. Envoy passes any number on, and a deny with 200 would look like success: only a preflight
/// answer and a taken report may be a success, everything else that is no refusal becomes 403.
pub(super) const fn refusal_status(denial: &Denial<'_>) -> u16 {
    match (denial.origin, denial.status) {
        (Origin::CorsPreflight, 200) | (Origin::CspReport, 204) => denial.status,
        (_, status @ 300..) if is_known(status) => status,
        _ => 403,
    }
}

/// The status of a failure: a server error.
pub(super) const fn failure_status(status: u16) -> u16 {
    match status {
        500.. if is_known(status) => status,
        _ => 500,
    }
}

/// True for a member of Envoy's closed list of statuses from 300 on.
const fn is_known(status: u16) -> bool {
    matches!(status, 300..=305 | 307 | 308 | 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511)
}

pub(super) fn text_entry(fields: &mut Message, key: &str, text: &str) {
    value_entry(fields, key, |value| value.text(3, text));
}

/// An entry of a Struct.
pub(super) fn value_entry(fields: &mut Message, key: &str, fill: impl FnOnce(&mut Message)) {
    fields.message(1, |entry| {
        entry.text(1, key);
        entry.message(2, fill);
    });
}

#[cfg(test)]
mod tests;
