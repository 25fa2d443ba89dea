use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::grpc::pb::envoy::config::core::v3::{
    Address as PbAddress, EnvoyInternalAddress, HeaderMap, HeaderValue, Pipe, SocketAddress, address,
};
use crate::grpc::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer as PbPeer, Request as PbRequest, TlsSession,
};
use crate::grpc::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use crate::request::headers::Header;

/// What a request says, in a form that can be compared.
#[derive(Debug, PartialEq)]
struct Said<'a> {
    texts: [&'a str; 6],
    headers: Vec<(&'a str, &'a [u8])>,
    body: Body<'a>,
    peer: Peer<'a>,
    route: Option<&'a str>,
    tls: Tls<'a>,
}

fn said<'a>(request: &Request<'a>) -> Said<'a> {
    Said {
        texts: [request.id, request.method, request.scheme, request.host, request.target.raw, request.protocol],
        headers: request.headers.iter().map(|Header { name, value }| (name, value)).collect(),
        body: request.body,
        peer: request.peer,
        route: request.route,
        tls: request.tls,
    }
}

/// The same, from prost's reading of the message.
fn expected(message: &CheckRequest) -> Option<Said<'_>> {
    let attributes = message.attributes.as_ref()?;
    let http = attributes.request.as_ref()?.http.as_ref()?;
    let raw = http.header_map.as_ref().map(|map| &map.headers[..]).filter(|headers| !headers.is_empty());
    let all: Vec<(&str, &[u8])> = match raw {
        Some(headers) => headers
            .iter()
            .map(|field| {
                let value = if field.raw_value.is_empty() { field.value.as_bytes() } else { &field.raw_value };
                (field.key.as_str(), value)
            })
            .collect(),
        None => http.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
    };
    let note = all.iter().rev().find(|(name, _)| *name == PARTIAL_BODY).map(|(_, value)| *value);
    let bytes = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
    let address = attributes.source.as_ref().and_then(|peer| peer.address.as_ref()?.address.as_ref());
    Some(Said {
        texts: [&http.id, &http.method, &http.scheme, &http.host, &http.path, &http.protocol],
        headers: all.into_iter().filter(|(name, _)| !name.starts_with(':') && *name != PARTIAL_BODY).collect(),
        body: match note {
            Some(b"true") => Body::Partial(bytes),
            None if bytes.is_empty() => Body::Absent,
            _ => Body::Complete(bytes),
        },
        peer: match address {
            Some(address::Address::SocketAddress(socket)) => Peer::from(socket.address.as_str()),
            _ => Peer::Absent,
        },
        route: attributes.context_extensions.get(ROUTE).map(String::as_str),
        tls: Tls {
            sni: attributes.tls_session.as_ref().map_or("", |tls| &tls.sni),
            principal: attributes.source.as_ref().map_or("", |peer| &peer.principal),
        },
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z/?=&:%;. ]{0,40}", "\\PC{0,20}"]
}

fn name() -> impl Strategy<Value = String> {
    const ENVOY: [&str; 6] = [":path", ":method", PARTIAL_BODY, "cookie", "x-forwarded-for", ""];
    prop_oneof![proptest::sample::select(&ENVOY[..]).prop_map(str::to_owned), "[a-z-]{1,12}"]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![Just("true".to_owned()), Just("false".to_owned()), text()]
}

fn header() -> impl Strategy<Value = HeaderValue> {
    (name(), value(), vec(any::<u8>(), 0..20)).prop_map(|(key, value, raw)| HeaderValue {
        key,
        value,
        raw_value: Bytes::from(raw),
    })
}

fn http() -> impl Strategy<Value = HttpRequest> {
    let texts = (text(), text(), text(), text(), text(), text(), text());
    let headers = (btree_map(name(), value(), 0..30), option::of(vec(header(), 0..20)));
    (texts, headers, any::<i64>(), text(), vec(any::<u8>(), 0..300)).prop_map(|(texts, headers, size, body, raw)| {
        let (id, method, path, host, scheme, query, protocol) = texts;
        HttpRequest {
            id,
            method,
            headers: headers.0,
            path,
            host,
            scheme,
            query: query.clone(),
            fragment: query,
            size,
            protocol,
            body,
            raw_body: raw.into(),
            header_map: headers.1.map(|headers| HeaderMap { headers }),
        }
    })
}

fn address() -> impl Strategy<Value = PbAddress> {
    let ip = prop_oneof![text(), Just("192.0.2.1".to_owned()), Just("::ffff:192.0.2.1".to_owned())];
    prop_oneof![
        Just(None),
        (ip, any::<i32>()).prop_map(|(address, protocol)| Some(address::Address::SocketAddress(SocketAddress {
            protocol,
            address,
            ..SocketAddress::default()
        }))),
        text().prop_map(|path| Some(address::Address::Pipe(Pipe { path, mode: 7 }))),
        text().prop_map(|endpoint_id| Some(address::Address::EnvoyInternalAddress(EnvoyInternalAddress {
            endpoint_id,
            ..EnvoyInternalAddress::default()
        }))),
    ]
    .prop_map(|address| PbAddress { address })
}

fn peer() -> impl Strategy<Value = PbPeer> {
    (option::of(address()), text(), btree_map(name(), text(), 0..3)).prop_map(|(address, principal, labels)| PbPeer {
        address,
        service: principal.clone(),
        labels,
        certificate: principal.clone(),
        principal,
    })
}

fn question() -> impl Strategy<Value = CheckRequest> {
    let request = option::of(http()).prop_map(|http| PbRequest { time: None, http });
    let key = prop_oneof![Just(ROUTE.to_owned()), name()];
    let parts = (option::of(peer()), option::of(peer()), option::of(request), btree_map(key, text(), 0..3));
    (parts, option::of(text())).prop_map(|((source, destination, request, context_extensions), sni)| CheckRequest {
        attributes: Some(AttributeContext {
            source,
            destination,
            request,
            context_extensions,
            tls_session: sni.map(|sni| TlsSession { sni }),
            ..AttributeContext::default()
        }),
    })
}

#[track_caller]
fn agrees(bytes: &[u8]) {
    let theirs = CheckRequest::decode(bytes).unwrap();
    match (read(bytes), expected(&theirs)) {
        (Ok(request), Some(expected)) => assert_eq!(said(&request), expected),
        (Err(ReadError::NotHttp), None) => {}
        (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn reads_what_prost_reads(message in question()) {
        agrees(&message.encode_to_vec());
    }

    /// Two messages one after the other are one merged message: scalars are replaced, maps and lists grow.
    #[test]
    fn merges_as_prost_merges(first in question(), second in question()) {
        agrees(&[first.encode_to_vec(), second.encode_to_vec()].concat());
    }

    /// Parts of one message in wire forms that no encoder writes: attributes split anywhere between two fields.
    #[test]
    fn fields_may_come_in_pieces(http in http(), more in http(), peer in peer(), other in peer()) {
        let piece = |http: HttpRequest, source: PbPeer| AttributeContext {
            source: Some(source),
            request: Some(PbRequest { time: None, http: Some(http) }),
            ..AttributeContext::default()
        };
        let joined = [piece(http, peer).encode_to_vec(), piece(more, other).encode_to_vec()].concat();
        let mut message = crate::grpc::wire::Message::default();
        message.message(1, |attributes| attributes.raw(&joined));
        agrees(&message.finish());
    }

    #[test]
    fn unknown_fields_are_skipped(message in question(), number in 14_u32..1000, junk in vec(any::<u8>(), 0..20)) {
        let mut more = crate::grpc::wire::Message::default();
        more.message(number, |unknown| unknown.raw(&junk));
        more.number(number, 5);
        more.double(number, 1.0);
        let more = more.finish();
        agrees(&[&more[..], &message.encode_to_vec(), &more].concat());
    }
}

/// 10,000 random and mutated messages: an answer of some kind, and never a panic. What prost can read, we read alike.
#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seeds = Vec::new();
    for _ in 0..100 {
        let tree = question().new_tree(&mut runner).unwrap();
        seeds.push(proptest::strategy::ValueTree::current(&tree).encode_to_vec());
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let (mut readable, mut refused) = (0, 0);
    for round in 0..10_000 {
        let mut bytes = seeds[random(seeds.len())].clone();
        if round % 4 == 0 {
            bytes = (0..random(400)).map(|_| random(256) as u8).collect();
        }
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 if at < bytes.len() => bytes[at] = random(256) as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << random(8),
                2 => bytes.truncate(at),
                _ => bytes.insert(at, random(256) as u8),
            }
        }
        match (read(&bytes), CheckRequest::decode(&bytes[..])) {
            (Ok(ours), Ok(theirs)) => assert_eq!(Some(said(&ours)), expected(&theirs), "{bytes:02x?}"),
            (Err(ReadError::NotHttp), theirs) => assert!(theirs.is_err() || expected(&theirs.unwrap()).is_none()),
            // Fields that we do not use are not looked into, so we read some messages that prost refuses; and prost does
            // not look at the type of map fields, so it reads some that we refuse.
            (Ok(_), Err(_)) | (Err(ReadError::Malformed(_)), _) => {}
        }
        *if read(&bytes).is_ok() { &mut readable } else { &mut refused } += 1;
    }
    assert!(200 < readable && 200 < refused, "the mutations are of both kinds: {readable} and {refused}");
}

#[test]
fn envoys_own_fields() {
    let http = |headers: &[(&str, &str)], body: &'static str| HttpRequest {
        path: "/a?b=c".to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        raw_body: Bytes::from(body),
        ..HttpRequest::default()
    };
    let check = |name: &str, http: HttpRequest, expected: Body<'_>| {
        let message = CheckRequest {
            attributes: Some(AttributeContext {
                request: Some(PbRequest { time: None, http: Some(http) }),
                context_extensions: BTreeMap::from([("guard_route".to_owned(), "admin".to_owned())]),
                ..AttributeContext::default()
            }),
        }
        .encode_to_vec();
        let request = read(&message).unwrap();
        assert_eq!(request.body, expected, "{name}");
        assert_eq!(request.route, Some("admin"), "{name}");
        assert_eq!(request.headers.len(), 0, "{name}: pseudo-headers and the note are left out");
        assert_eq!((request.target.path, request.target.query), ("/a", Some("b=c")), "{name}");
    };
    check("no body was sent along", http(&[(":path", "/a")], ""), Body::Absent);
    check("a body of no bytes", http(&[(PARTIAL_BODY, "false")], ""), Body::Complete(b""));
    check("a whole body", http(&[(PARTIAL_BODY, "false")], "xy"), Body::Complete(b"xy"));
    check("the beginning of a body", http(&[(PARTIAL_BODY, "true")], "xy"), Body::Partial(b"xy"));
}
