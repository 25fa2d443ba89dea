//! The request that everyone gets: a benign GET as Envoy sends it, 1.26 KB, 14 headers.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use prost::Message as _;

/// Header fields of the request, pseudo-headers included, as Envoy lists them.
pub fn headers() -> Vec<(&'static str, String)> {
    let token = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.".to_owned()
        + &"YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU2Nzg5".repeat(11);
    [
        (":authority", "shop.example.com"),
        (":method", "GET"),
        (":path", "/catalog/items?page=2&sort=price"),
        (":scheme", "https"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br"),
        ("cookie", "session=3f2c9a6e8d41b7055e; theme=dark; consent=yes; ab=1"),
        ("x-request-id", "5b2f0a52-6e8c-4a30-9d6f-0a1d5f3b7c11"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("cache-control", "no-cache"),
    ]
    .into_iter()
    .map(|(name, value)| (name, value.to_owned()))
    .chain([("authorization", format!("Bearer {token}"))])
    .collect()
}

/// The CheckRequest, with the headers as a map (Envoy's default) or raw (`encode_raw_headers`).
pub fn check_request(raw: bool) -> Vec<u8> {
    let fields = headers();
    let mut http = HttpRequest {
        id: "3500409588916875382".into(),
        method: "GET".into(),
        path: "/catalog/items?page=2&sort=price".into(),
        host: "shop.example.com".into(),
        scheme: "https".into(),
        protocol: "HTTP/1.1".into(),
        ..HttpRequest::default()
    };
    if raw {
        let headers = fields
            .into_iter()
            .map(|(key, value)| HeaderValue {
                key: key.into(),
                raw_value: value.into_bytes(),
                ..HeaderValue::default()
            })
            .collect();
        http.header_map = Some(HeaderMap { headers });
    } else {
        http.headers = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<HashMap<_, _>>();
    }
    let source = SocketAddress { address: "203.0.113.7".into(), ..SocketAddress::default() };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                address: Some(Address { address: Some(AddressKind::SocketAddress(source)) }),
                ..Peer::default()
            }),
            request: Some(Request { http: Some(http), ..Request::default() }),
            ..AttributeContext::default()
        }),
    }
    .encode_to_vec()
}

/// The message with its five-byte gRPC prefix.
pub fn grpc(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}
