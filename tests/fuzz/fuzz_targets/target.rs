//! Paths, queries, cookies and other headers, taken apart.
#![no_main]

use std::ops::ControlFlow;

use envoy_guard::config::exclusions::{Profile, Unreadable};
use envoy_guard::detect::{Context, Lens, Limits, Scope, Threat, Visit, extract};
use envoy_guard::request::headers::Headers;
use envoy_guard::request::{Body, Peer, Request, Target, Tls};
use libfuzzer_sys::fuzz_target;

struct Ignore;

impl Visit for Ignore {
    fn value(&mut self, _: &Context<'_>, _: &str, _: Lens<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn threat(&mut self, _: &Context<'_>, _: Threat) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

fuzz_target!(|data: &[u8]| {
    let [profile, rest @ ..] = data else { return };
    let mut parts = rest.splitn(3, |byte| *byte == b'\n');
    let [path, cookie, header] = [parts.next(), parts.next(), parts.next()].map(|part| part.unwrap_or_default());
    let path = String::from_utf8_lossy(path);
    let mut headers = Headers::default();
    headers.push("cookie", cookie);
    headers.push("referer", header);
    headers.push("x-forwarded-for", header);
    let request = Request {
        id: "",
        method: "GET",
        scheme: "https",
        host: "",
        target: Target::from(path.as_ref()),
        protocol: "HTTP/1.1",
        headers,
        body: Body::Absent,
        peer: Peer::Absent,
        route: None,
        tls: Tls::default(),
    };
    let limits = Limits {
        profile: if profile & 1 == 0 { Profile::Balanced } else { Profile::GuardCore },
        values_max: 512,
        chars_max: 65_536,
        json_depth_max: 32,
        body_bytes_max: 65_536,
        island_min: 16,
        undecodable_body: Unreadable::Deny,
    };
    let _ = extract::walk(&request, &Scope::default(), &limits, &mut Ignore);
});
