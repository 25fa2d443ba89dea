//! Header names and values, with the reduced questions some headers are asked.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::detect::extract::Flow;
use crate::detect::extract::place::same_name;
use crate::detect::extract::sink::{Sink, Value};
use crate::detect::{Context, Kind, Lens, Source};
use crate::model::category::{Category, CategorySet};
use crate::request::headers::Headers;

/// Headers that carry addresses, hosts and client descriptions as their business: guard-core's built-in list.
const REDUCED: [&str; 24] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "connection",
    "origin",
    "referer",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-fetch-dest",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "true-client-ip",
    "fly-client-ip",
    "x-envoy-external-address",
];

/// Of the headers with reduced questions, those in which an internal address is no sign of an attack.
const ADDRESSES: [&str; 12] = [
    "host",
    "origin",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "true-client-ip",
    "fly-client-ip",
    "x-envoy-external-address",
    "via",
];

/// Envoy's note that the body was cut; nothing a client can send.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// Hands out each header: its name, then its value; cookies pair by pair.
pub(super) fn walk(headers: &Headers<'_>, sink: &mut Sink<'_>) -> Flow {
    for header in headers.iter() {
        if header.name.starts_with(':') || header.name == PARTIAL_BODY {
            continue;
        }
        let text = text(header.value);
        let field = Field {
            name: header.name,
            categories: categories(header.name, &text, sink),
            semantic: !lists(&sink.scope.excluded_semantic_headers, header.name),
        };
        field.hand_out(Kind::Name, header.name, sink)?;
        if header.name.eq_ignore_ascii_case("cookie") {
            for pair in text.split(';').map(|pair| pair.trim_matches(' ')) {
                field.hand_out(Kind::Cookie, pair, sink)?;
            }
        } else {
            field.hand_out(Kind::Value, &text, sink)?;
        }
    }
    sink.flush(Source::Header)
}

/// What all texts of one header share.
struct Field<'h> {
    name: &'h str,
    categories: CategorySet,
    semantic: bool,
}

impl Field<'_> {
    fn hand_out(&self, kind: Kind, text: &str, sink: &mut Sink<'_>) -> Flow {
        let context = Context { source: Source::Header, name: self.name.into(), kind };
        let lens = Lens { categories: self.categories, semantic: self.semantic, ..sink.lens() };
        let value = Value { context, text, lens };
        match kind {
            Kind::Name => sink.value(value),
            _ => sink.whole(value),
        }
    }
}

/// The value as text. Bytes that are not UTF-8 are Latin-1, as they always were in header fields.
fn text(value: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = simdutf8::basic::from_utf8(value) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(value.len() * 2);
    for chunk in value.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().copied().map(char::from));
    }
    Cow::Owned(text)
}

/// The categories a header is asked for. A header with reduced questions is not asked about internal addresses when it
/// is there to carry them, or when it holds nothing but a list of addresses. Log4Shell lookups, which guard-core seeks
/// in these headers before anything else, are part of `cmd_injection` and never leave the set by themselves.
fn categories(name: &str, text: &str, sink: &Sink<'_>) -> CategorySet {
    let asked = sink.scope.categories;
    let reduced = REDUCED.iter().any(|known| name.eq_ignore_ascii_case(known));
    if !reduced && !lists(&sink.scope.excluded_headers, name) {
        return asked;
    }
    let carries = ADDRESSES.iter().any(|known| name.eq_ignore_ascii_case(known));
    if carries || is_address_list(text) { asked.without(Category::SSRF) } else { asked }
}

fn lists(names: &[String], name: &str) -> bool {
    names.iter().any(|listed| same_name(name, listed))
}

/// True for one or more addresses, with or without ports, with commas between them.
fn is_address_list(text: &str) -> bool {
    // Every address has a digit or a colon early on; most texts are told apart without parsing.
    text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b',' | b' ' | b'[' | b']' | b'\t'))
        && text.split(',').all(|entry| is_address(entry.trim()))
}

fn is_address(entry: &str) -> bool {
    if entry.parse::<IpAddr>().is_ok() || entry.parse::<std::net::SocketAddr>().is_ok() {
        return true;
    }
    entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|ip| ip.parse::<IpAddr>().is_ok())
}
