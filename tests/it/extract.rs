//! What a walk over a request costs and bears: no allocation where nothing is decoded, no input that stalls it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use envoy_guard::config::exclusions::{Profile, Unreadable};
use envoy_guard::detect::extract::walk;
use envoy_guard::detect::{Context, Lens, Limits, Scope, Threat, Visit};
use envoy_guard::request::headers::Headers;
use envoy_guard::request::{Body, Peer, Request, Target, Tls};

use crate::allocations::allocations;

const LIMITS: Limits = Limits {
    profile: Profile::Balanced,
    values_max: 512,
    chars_max: 65536,
    json_depth_max: 32,
    body_bytes_max: 262_144,
    island_min: 16,
    undecodable_body: Unreadable::Deny,
};

/// Counts what it is shown.
#[derive(Default)]
struct Count {
    values: usize,
    bytes: usize,
    threats: usize,
}

impl Visit for Count {
    fn value(&mut self, _: &Context<'_>, text: &str, _: Lens<'_>) -> ControlFlow<()> {
        self.values += 1;
        self.bytes += text.len();
        ControlFlow::Continue(())
    }

    fn threat(&mut self, _: &Context<'_>, _: Threat) -> ControlFlow<()> {
        self.threats += 1;
        ControlFlow::Continue(())
    }
}

fn request<'r>(target: &'r str, headers: &[(&'r str, &'r str)], body: &'r [u8]) -> Request<'r> {
    Request {
        id: "",
        method: "POST",
        scheme: "https",
        host: "example.com",
        target: Target::from(target),
        protocol: "HTTP/1.1",
        headers: headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Headers<'_>>(),
        body: if body.is_empty() { Body::Absent } else { Body::Complete(body) },
        peer: Peer::Absent,
        route: None,
        tls: Tls::default(),
    }
}

fn count(request: &Request<'_>) -> Count {
    let mut count = Count::default();
    assert_eq!(walk(request, &Scope::default(), &LIMITS, &mut count), ControlFlow::Continue(()));
    count
}

const BROWSER: [(&str, &str); 6] = [
    ("host", "www.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-encoding", "gzip, deflate, br"),
    ("cookie", "session=0123456789abcdef; theme=dark"),
    ("content-type", "application/json"),
];

#[test]
fn clean_requests_cost_no_allocation() {
    let json = br#"{"user":{"id":7,"name":"somebody","tags":["a","b"]},"items":[{"id":1,"note":"text"},{"id":2}]}"#;
    for (name, request) in [
        ("a GET with parameters", request("/shop/items?category=garden&page=2", &BROWSER, b"")),
        ("a POST with JSON", request("/api/items", &BROWSER, json)),
    ] {
        let before = allocations();
        let count = count(&request);
        assert_eq!(allocations() - before, 0, "{name}");
        assert!(17 <= count.values && count.threats == 0, "{name}: {}", count.values);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test measures time")]
fn repetitive_bodies_are_read_in_linear_time() {
    /// Quadratic time would take minutes; linear time takes milliseconds, on a busy machine too.
    const LIMIT: Duration = Duration::from_secs(5);
    for (content_type, pieces) in [
        ("application/json", &["{", "[", "\"", "\"\\u", "{\"a\":", "/*", "\\", "[[],", "\"[1]\",", "'", "a"][..]),
        ("application/xml", &["<", "<a", "<a>", "<a b='c' ", "<!--", "<![CDATA[", "<?", "<!", "</", "&", "<!ENTITY"]),
        (
            "multipart/form-data; boundary=b; boundary=c",
            &["--b", "--b\n", "\n--b", "\n--bx", "--b\na:b\n\nx\n--c\n\ny\n"],
        ),
        ("multipart/form-data; boundary=b", &["--b\nContent-Type: multipart/mixed; boundary=b\n\n", "--b\na:b\n"]),
        ("application/x-www-form-urlencoded", &["&", "=", "%", "a=;b=&", "%c0%af", ";=", "a=%27&", "[]=[]&"]),
        ("application/graphql", &["{", "{a", "\"\"\"", "query{a}"]),
        ("application/grpc", &["\0\0\0\0\x05\x0a\x03abc", "\0"]),
        ("application/x-protobuf", &["\x0a\x01a", "\x0a\x0a", "\x0b\x0c"]),
        ("image/png", &["\x01", "\x01abcdefghijklmnopqrst"]),
        ("text/plain; charset=utf-7", &["+ADw-", "+"]),
    ] {
        for piece in pieces {
            let body = piece.repeat(LIMITS.body_bytes_max / piece.len());
            let start = Instant::now();
            count(&request("/", &[("content-type", content_type)], body.as_bytes()));
            assert!(start.elapsed() < LIMIT, "{content_type} {piece:?}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn json_in_json_in_json_is_opened_a_few_times_only() {
    let mut text = "[\"x\"]".to_owned();
    while text.len() < LIMITS.body_bytes_max / 3 {
        text = serde_json::to_string(&[text]).unwrap();
    }
    let count = count(&request("/", &[("content-type", "application/json")], text.as_bytes()));
    assert!(count.bytes < 4 * text.len(), "{}", count.bytes);
}

#[test]
fn a_request_cut_at_any_byte_is_read() {
    let bodies: [(&str, &[u8]); 5] = [
        ("application/json", "{\"a\":[1,\"b\\u00e9\\ud83d\\ude00\",{\"c\":null}],\"é\":\"'\"}".as_bytes()),
        ("application/x-www-form-urlencoded", b"a=%c3%a9&b=%c0%af&a=+%u0027&=&c"),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data; name=\"a\"; filename*=utf-8''%41\r\n\r\nx\r\n--b--\r\n",
        ),
        ("application/xml", b"<?xml version='1.0'?><!DOCTYPE r [<!ENTITY x 'y'>]><r a='&x;'>1<![CDATA[2]]>&#51;</r>"),
        ("application/grpc-web-text", b"AAAAAAYKBHRleHSAAAAADXg6eQ=="),
    ];
    for (content_type, body) in bodies {
        for cut in 0..=body.len() {
            count(&request("/", &[("content-type", content_type)], body.get(..cut).unwrap()));
        }
    }
    let target = "/a;b=%31/..%2f?x=1&y=%e9%&x=%2b;z=2";
    for cut in 1..=target.len() {
        count(&request(target.get(..cut).unwrap(), &BROWSER, b""));
    }
}
