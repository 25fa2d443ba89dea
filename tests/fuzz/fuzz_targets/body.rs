//! Bodies of every type, coding and charset: what is taken out of them stays within the walk's bounds, a body that is cut
//! is said to be cut, and what stands before the cut is still found.
#![no_main]

use std::ops::ControlFlow;

use envoy_guard::config::exclusions::{Profile, Unreadable};
use envoy_guard::detect::{Context, Lens, Limits, Scope, Threat, Visit, extract};
use envoy_guard::request::headers::Headers;
use envoy_guard::request::{Body, Peer, Request, Target, Tls};
use libfuzzer_sys::fuzz_target;

const TYPES: [&str; 24] = [
    "",
    "application/json",
    "application/x-ndjson",
    "application/x-www-form-urlencoded",
    "application/x-www-form-urlencoded; charset=ibm037",
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=x; boundary=\"y\"",
    "multipart/form-data",
    "multipart/mixed; boundary=x",
    "application/xml",
    "text/xml; charset=utf-16",
    "image/svg+xml",
    "application/soap+xml; charset=utf-7",
    "application/graphql",
    "application/grpc",
    "application/grpc-web-text",
    "application/grpc-web+json",
    "application/x-protobuf",
    "application/octet-stream",
    "text/plain",
    "text/plain; charset=utf-32",
    "text/plain; charset=utf-7",
    "text/plain; charset=ibm037",
    "text/plain; charset=iso-8859-1; charset=utf-16le",
];
const CODINGS: [&str; 8] = ["", "gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, br", "x-unknown"];
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Bodies of these types are plain text around their values: what stands in front of a cut must be seen.
const TRANSPARENT: [u8; 8] = [1, 2, 3, 9, 11, 13, 19, 23];
/// A word that no input is likely to hold, longer than the shortest run of a binary body that is looked at.
const NEEDLE: &str = "q7Vkz0wXjT4mNb2Lc9RdHs6P";

#[derive(Default)]
struct Count {
    bytes: usize,
    needles: usize,
    is_partial: bool,
    is_refused: bool,
}

impl Visit for Count {
    fn value(&mut self, _: &Context<'_>, text: &str, _: Lens<'_>) -> ControlFlow<()> {
        self.bytes += text.len();
        self.needles += usize::from(text.contains(NEEDLE));
        ControlFlow::Continue(())
    }

    fn threat(&mut self, _: &Context<'_>, _: Threat) -> ControlFlow<()> {
        self.is_refused = true;
        ControlFlow::Continue(())
    }

    fn partial(&mut self, _: &'static str) -> ControlFlow<()> {
        self.is_partial = true;
        ControlFlow::Continue(())
    }
}

fuzz_target!(|data: &[u8]| {
    let [selector, profile, body @ ..] = data else { return };
    let kind = TYPES[usize::from(selector % 24)];
    let coding = CODINGS[usize::from(profile >> 1) % 8];
    let profile = if profile & 1 == 0 { Profile::Balanced } else { Profile::GuardCore };
    let whole = if body.is_empty() { Body::Absent } else { Body::Complete(body) };
    let count = walk((kind, coding), profile, whole);
    // A value may be shown as itself and as what is in it, each part at most a few times.
    assert!(count.bytes <= 64 * (BODY_BYTES_MAX + body.len() + 1024), "{} bytes of {}", count.bytes, body.len());
    let Some((cut, _)) = body.split_at_checked(body.len() / 2) else { return };
    let partial = walk((kind, coding), profile, Body::Partial(cut));
    assert!(partial.is_partial, "nobody says that the body was cut");
    if coding.is_empty() && TRANSPARENT.contains(&(selector % 24)) {
        // What is seen of a word does not depend on what would have come behind it.
        let with = |rest: &[u8]| [cut, NEEDLE.as_bytes(), rest].concat();
        let (all, end) = (with(&body[cut.len()..]), with(b" "));
        let all = walk((kind, coding), profile, Body::Complete(&all));
        let end = walk((kind, coding), profile, Body::Partial(&end));
        assert!(all.needles == 0 || end.needles != 0 || end.is_refused, "lost in front of a cut");
    }
});

fn walk((kind, coding): (&str, &str), profile: Profile, body: Body<'_>) -> Count {
    let mut headers = Headers::default();
    headers.push("content-type", kind.as_bytes());
    headers.push("content-encoding", coding.as_bytes());
    let request = Request {
        id: "",
        method: "POST",
        scheme: "https",
        host: "",
        target: Target::from("/"),
        protocol: "HTTP/1.1",
        headers,
        body,
        peer: Peer::Absent,
        route: None,
        tls: Tls::default(),
    };
    let limits = Limits {
        profile,
        values_max: 512,
        chars_max: 65_536,
        json_depth_max: 32,
        body_bytes_max: BODY_BYTES_MAX,
        island_min: 16,
        undecodable_body: Unreadable::Deny,
    };
    let mut count = Count::default();
    let _ = extract::walk(&request, &Scope::default(), &limits, &mut count);
    count
}
