use std::pin::pin;
use std::task::{Context, Poll, Waker};

use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::*;
use crate::engine::phases::{ResponseEdits, ResponseHead};
use crate::grpc::pb::envoy::config::core::v3::{HeaderMap, HeaderValue as Field, HeaderValueOption, Metadata};
use crate::grpc::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use crate::grpc::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use crate::grpc::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use crate::grpc::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use crate::grpc::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
};
use crate::model::check::Check;
use crate::model::decision::{Decision, Denial, Origin, Verdict};
use crate::model::headers::{Existing, HeaderEdit};
use crate::request::Peer;
use crate::session::{BodyKind, BodyMode, Chunk, Event, Modes};

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn values(fields: &[(&str, Value)]) -> Struct {
    Struct { fields: fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect() }
}

fn headers(fields: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
    let field = |(name, value): &(&str, &str)| Field {
        key: (*name).to_owned(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
        ..Field::default()
    };
    HttpHeaders {
        headers: Some(HeaderMap { headers: fields.iter().map(field).collect() }),
        end_of_stream,
        ..HttpHeaders::default()
    }
}

/// A first message as Envoy 1.40 sends it.
fn opening() -> ProcessingRequest {
    let fields = [
        (":method", "POST"),
        (":path", "/a?b=1"),
        (":scheme", "https"),
        (":authority", "Shop.example"),
        ("x-request-id", "77"),
        ("x-note", "one"),
        ("x-note", "two"),
    ];
    let attributes = values(&[
        ("source.address", text("203.0.113.9:4711")),
        ("request.protocol", text("HTTP/2")),
        ("connection.requested_server_name", text("shop.example")),
        ("connection.subject_peer_certificate", text("CN=a")),
        ("connection.uri_san_peer_certificate", text("spiffe://a")),
        ("xds.route_name", text("named-by-envoy")),
        (
            "xds.route_metadata",
            text(
                r#"filter_metadata { key: "envoy-guard" value { fields { key: "guard_route" value { string_value: "in-metadata" } } } }"#,
            ),
        ),
    ]);
    let decided = values(&[
        ("decision", text("allow")),
        ("policy", text("3")),
        ("client", text("198.51.100.7")),
        ("route", text("admin")),
        ("whitelisted", Value { kind: Some(Kind::BoolValue(true)) }),
        ("body", text("inspected")),
    ]);
    let ours = values(&[("guard_route", text("named"))]);
    let metadata = [("envoy.filters.http.ext_authz", decided), ("envoy-guard", ours), ("other", Struct::default())];
    ProcessingRequest {
        request: Some(Part::RequestHeaders(headers(&fields, false))),
        attributes: [("envoy.filters.http.ext_proc".to_owned(), attributes)].into_iter().collect(),
        metadata_context: Some(Metadata {
            filter_metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..Metadata::default()
        }),
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: 4,
            response_body_mode: 1,
            send_body_without_waiting_for_header_response: true,
        }),
        observability_mode: true,
        ..ProcessingRequest::default()
    }
}

#[test]
fn an_opening_is_read_whole() {
    let bytes = opening().encode_to_vec();
    let read = read::read(&bytes).unwrap();
    let read::Part::RequestHeaders(head) = &read.part else { panic!("{read:?}") };
    let request = head.request(&read.attributes, Some("r")).unwrap();
    assert_eq!((request.method, request.scheme, request.host), ("POST", "https", "Shop.example"));
    assert_eq!((request.target.path, request.target.query), ("/a", Some("b=1")));
    assert_eq!((request.id, request.protocol, request.route), ("77", "HTTP/2", Some("r")));
    assert_eq!(request.peer, Peer::from("203.0.113.9"));
    assert_eq!((request.tls.sni, request.tls.principal), ("shop.example", "spiffe://a"));
    let notes: Vec<&[u8]> = request.headers.all("x-note").collect();
    assert_eq!((notes, request.headers.len()), (vec![&b"one"[..], b"two"], 3), "pseudo-headers are left out");
    let protocol = read.protocol.unwrap();
    assert_eq!((protocol.request_body, protocol.response_body), (BodyMode::FullDuplex, BodyMode::Streamed));
    assert!(protocol.hasty && read.observed);
    assert_eq!(read.route, Some("named"));
    assert_eq!((read.attributes.route, read.attributes.route_name), (Some("in-metadata"), Some("named-by-envoy")));
    let decided = read.decided.unwrap();
    let standing = decided.standing().unwrap();
    assert_eq!(standing.client.unwrap().to_string(), "198.51.100.7");
    assert_eq!((decided.route, standing.flags.unwrap().whitelisted), (Some("admin"), true));
    assert!(standing.inspected && standing.elsewhere && !decided.is_denial());
}

#[test]
fn only_an_allow_of_ours_is_gone_on_from() {
    let full = [("decision", "allow"), ("policy", "1"), ("client", "198.51.100.7")];
    for (name, fields, goes_on, is_denial) in [
        ("an allow", full.to_vec(), true, false),
        ("a denial that somebody let pass", vec![("decision", "deny"), ("policy", "1"), ("client", "x")], false, true),
        ("a failure that somebody let pass", vec![("decision", "fail"), ("policy", "1"), ("client", "x")], false, true),
        ("another service's words", vec![("decision", "allow")], false, false),
        ("no client", vec![("decision", "allow"), ("policy", "1")], false, false),
        ("nothing", vec![], false, false),
    ] {
        let fields: Vec<(&str, Value)> = fields.into_iter().map(|(key, value)| (key, text(value))).collect();
        let mut message = opening();
        let metadata = message.metadata_context.as_mut().unwrap();
        metadata.filter_metadata.insert("envoy.filters.http.ext_authz".to_owned(), values(&fields));
        let bytes = message.encode_to_vec();
        let decided = read::read(&bytes).unwrap().decided.unwrap();
        assert_eq!((decided.standing().is_some(), decided.is_denial()), (goes_on, is_denial), "{name}");
    }
}

#[test]
fn addresses_are_told_from_ports_and_sockets() {
    for (source, expected) in [
        ("192.0.2.1:80", Peer::from("192.0.2.1")),
        ("[2001:db8::1]:443", Peer::from("2001:db8::1")),
        ("[fe80::1%eth0]:443", Peer::Text("fe80::1%eth0")),
        ("/run/a.sock", Peer::Absent),
        ("@abstract", Peer::Absent),
        ("", Peer::Absent),
    ] {
        let mut message = opening();
        let attributes = values(&[("source.address", text(source))]);
        message.attributes = [("envoy.filters.http.ext_proc".to_owned(), attributes)].into_iter().collect();
        let bytes = message.encode_to_vec();
        let read = read::read(&bytes).unwrap();
        let read::Part::RequestHeaders(head) = &read.part else { panic!("{read:?}") };
        assert_eq!(head.request(&read.attributes, None).unwrap().peer, expected, "{source}");
    }
}

#[test]
fn headers_that_are_no_request_are_none() {
    for (fields, is_request) in [
        (vec![(":method", "GET"), (":path", "/")], true),
        (vec![(":method", "CONNECT"), (":authority", "a:1")], true),
        (vec![(":path", "/")], false),
        (vec![(":method", "GET")], false),
    ] {
        let message = ProcessingRequest {
            request: Some(Part::RequestHeaders(headers(&fields, true))),
            ..ProcessingRequest::default()
        };
        let bytes = message.encode_to_vec();
        let read = read::read(&bytes).unwrap();
        let read::Part::RequestHeaders(head) = &read.part else { panic!("{read:?}") };
        assert_eq!(head.request(&read.attributes, None).is_some(), is_request, "{fields:?}");
    }
}

#[test]
fn every_part_becomes_its_event() {
    let body = |end, without| HttpBody {
        body: Bytes::from_static(b"abc"),
        end_of_stream: end,
        end_of_stream_without_message: without,
        ..HttpBody::default()
    };
    let bytes = Bytes::from_static(b"abc");
    let status = [(":status", "204")];
    for (part, expected) in [
        (Part::ResponseHeaders(headers(&status, true)), Event::ResponseHeaders { end: true }),
        (Part::RequestBody(body(true, false)), Event::RequestBody { bytes: bytes.clone(), end: true }),
        (Part::RequestBody(body(false, true)), Event::RequestBody { bytes: bytes.clone(), end: true }),
        (Part::ResponseBody(body(false, false)), Event::ResponseBody { bytes, end: false }),
        (Part::RequestTrailers(HttpTrailers::default()), Event::RequestTrailers),
        (Part::ResponseTrailers(HttpTrailers::default()), Event::ResponseTrailers),
    ] {
        let message = Bytes::from(ProcessingRequest { request: Some(part), ..Default::default() }.encode_to_vec());
        let read = read::read(&message).unwrap();
        assert_eq!(read.part.event(&message, BodyKind::Whole), Some(expected));
    }
    assert_eq!(read::read(&[]).unwrap().part.event(&Bytes::new(), BodyKind::Whole), None, "a message without a part");
}

/// Whatever the bytes are, reading ends with a value or an error.
#[test]
fn broken_bytes_break_nothing() {
    let whole = opening().encode_to_vec();
    for cut in 0..whole.len() {
        let _read = read::read(whole.get(..cut).unwrap());
        let mut changed = whole.clone();
        for value in [0, 0x7f, 0xff] {
            changed[cut] = value;
            let _read = read::read(&changed);
        }
    }
}

#[track_caller]
fn parsed(framed: &[u8]) -> ProcessingResponse {
    let (prefix, message) = framed.split_at(5);
    assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, message.len());
    ProcessingResponse::decode(message).unwrap()
}

fn shown(options: &[HeaderValueOption]) -> Vec<(&str, &[u8], Option<bool>)> {
    options
        .iter()
        .map(|option| {
            let header = option.header.as_ref().unwrap();
            assert!(header.value.is_empty(), "this filter reads raw_value only, and both at once fail older ones");
            (header.key.as_str(), &header.raw_value[..], option.append)
        })
        .collect()
}

#[test]
fn headers_go_on_with_edits_and_modes() {
    let modes = Modes {
        request_body: BodyMode::Streamed,
        response_body: BodyMode::None,
        response_headers: false,
        request_trailers: true,
        response_trailers: false,
    };
    let edits = [HeaderEdit::set("x-set", "1")];
    let metadata = write::metadata(|fields| crate::grpc::write::text_entry(fields, "decision", "allow"));
    let answer = parsed(&write::request_headers(None, &edits, Some(modes), &metadata));
    let Some(Reply::RequestHeaders(reply)) = &answer.response else { panic!("{answer:?}") };
    let mutation = reply.response.as_ref().unwrap().header_mutation.as_ref().unwrap();
    assert_eq!(shown(&mutation.set_headers), [("x-set", &b"1"[..], Some(false))]);
    let expected = ProcessingMode {
        request_header_mode: 0,
        response_header_mode: 2,
        request_body_mode: 1,
        response_body_mode: 0,
        request_trailer_mode: 1,
        response_trailer_mode: 2,
    };
    assert_eq!(answer.mode_override, Some(expected));
    let namespaces = answer.dynamic_metadata.unwrap().fields;
    assert!(format!("{:?}", namespaces["envoy-guard"]).contains("allow"), "{namespaces:?}");
    let plain = parsed(&write::request_headers(None, &[], None, &[]));
    assert!(matches!(plain.response, Some(Reply::RequestHeaders(_))) && plain.mode_override.is_none());
}

#[test]
fn a_response_loses_what_is_there_and_keeps_what_it_may() {
    let fields = [("x-powered-by", &b"php"[..]), ("x-kept", b"upstream")];
    let head = ResponseHead { status: 200, headers: fields.into_iter().collect() };
    let keep = |name: &'static str| HeaderEdit { existing: Existing::Keep, ..HeaderEdit::set(name, "ours") };
    let append = HeaderEdit { existing: Existing::Append, ..HeaderEdit::set("vary", "Origin") };
    let edits = ResponseEdits {
        remove: ["x-powered-by", "x-absent"].into_iter().collect(),
        set: [keep("x-kept"), keep("x-new"), append, HeaderEdit::set("x-evil", "a\r\nb")].into_iter().collect(),
    };
    let answer = parsed(&write::response_headers(&head, &edits, None));
    let Some(Reply::ResponseHeaders(reply)) = &answer.response else { panic!("{answer:?}") };
    let mutation = reply.response.as_ref().unwrap().header_mutation.as_ref().unwrap();
    assert_eq!(mutation.remove_headers, ["x-powered-by"]);
    let expected: [(&str, &[u8], Option<bool>); 3] =
        [("x-new", b"ours", Some(false)), ("vary", b"Origin", Some(true)), ("x-evil", b"a  b", Some(false))];
    assert_eq!(shown(&mutation.set_headers), expected);
}

#[test]
fn bodies_go_on_or_are_sent_back() {
    let answer = parsed(&write::request_body(&Chunk::Continue).concat());
    assert!(matches!(&answer.response, Some(Reply::RequestBody(body)) if body.response.is_none()));
    // Where the length of one of the levels needs a byte more.
    for length in [0, 3, 110, 119, 120, 123, 126, 127, 128, 16_380, 16_384, 65_536] {
        for end in [true, false] {
            let bytes = Bytes::from(vec![b'x'; length]);
            let [head, tail] = write::response_body(&Chunk::Echo { bytes: bytes.clone(), end });
            assert_eq!(tail.as_ptr(), bytes.as_ptr(), "not copied");
            let Some(Reply::ResponseBody(body)) = parsed(&[head, tail].concat()).response else { panic!() };
            match body.response.unwrap().body_mutation.unwrap().mutation.unwrap() {
                Mutation::StreamedResponse(streamed) => {
                    assert_eq!((streamed.body.len(), streamed.end_of_stream), (length, end))
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(matches!(parsed(&write::request_trailers()).response, Some(Reply::RequestTrailers(_))));
    assert!(matches!(parsed(&write::response_trailers()).response, Some(Reply::ResponseTrailers(_))));
}

#[test]
fn refusals_have_status_body_details_and_a_grpc_status() {
    let denial = |status, origin| Denial {
        origin,
        status,
        body: "no".into(),
        content_type: Some("text/plain"),
        headers: [HeaderEdit::set("retry-after", "30")].into_iter().collect(),
    };
    let limited = Origin::Check(Check::RateLimit);
    for (verdict, status, grpc, details) in [
        (Verdict::Deny(denial(429, limited)), 429, 8, "envoy_guard_deny_rate_limit"),
        (Verdict::Deny(denial(200, limited)), 403, 7, "envoy_guard_deny_rate_limit"),
        (Verdict::Deny(denial(200, Origin::CorsPreflight)), 200, 7, "envoy_guard_deny_cors_preflight"),
        (Verdict::Deny(denial(401, Origin::Check(Check::Authentication))), 401, 16, "envoy_guard_deny_authentication"),
        (Verdict::Fail(denial(403, limited)), 500, 13, "envoy_guard_fail_rate_limit"),
    ] {
        let decision = Decision { verdict, ..Decision::allow() };
        let answer = parsed(&write::immediate(&asker(&[]), &decision, &[]).unwrap());
        let Some(Reply::ImmediateResponse(reply)) = answer.response else { panic!() };
        assert_eq!(reply.status.unwrap().code, status);
        assert_eq!(
            (reply.grpc_status.unwrap().status, reply.details.as_str(), &reply.body[..]),
            (grpc, details, &b"no"[..])
        );
        let set = reply.headers.unwrap().set_headers;
        assert_eq!(
            shown(&set),
            [("content-type", &b"text/plain"[..], Some(false)), ("retry-after", b"30", Some(false))]
        );
    }
    assert_eq!(write::immediate(&asker(&[]), &Decision::allow(), &[]), None);
}

/// A request with these fields.
fn asker<'r>(fields: &[(&'r str, &'r str)]) -> crate::request::Request<'r> {
    crate::request::Request {
        id: "",
        method: "POST",
        scheme: "http",
        host: "a",
        target: "/".into(),
        protocol: "HTTP/2",
        headers: fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect(),
        body: crate::request::Body::Absent,
        peer: Peer::Absent,
        route: None,
        tls: crate::request::Tls::default(),
    }
}

#[test]
fn a_grpc_web_client_finds_its_refusal_in_trailers() {
    let denial = Denial {
        origin: Origin::Check(Check::RateLimit),
        status: 429,
        body: "no".into(),
        content_type: Some("text/plain"),
        headers: [HeaderEdit::set("retry-after", "30")].into_iter().collect(),
    };
    let decision = Decision { verdict: Verdict::Deny(denial), ..Decision::allow() };
    let request = asker(&[("content-type", "application/grpc-web+proto")]);
    let answer = parsed(&write::immediate(&request, &decision, &[]).unwrap());
    let Some(Reply::ImmediateResponse(reply)) = answer.response else { panic!() };
    assert_eq!((reply.status.unwrap().code, reply.grpc_status), (200, None));
    assert_eq!(&reply.body[5..], b"grpc-status: 8\r\ngrpc-message: no\r\n");
    assert_eq!(reply.details, "envoy_guard_deny_rate_limit");
    let set = reply.headers.unwrap().set_headers;
    let expected =
        [("content-type", &b"application/grpc-web+proto"[..], Some(false)), ("retry-after", b"30", Some(false))];
    assert_eq!(shown(&set), expected);
}

/// Polls a body to its end: data frames, then the gRPC status.
fn polled(mut answers: Answers) -> (Vec<Bytes>, String) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    loop {
        match pin!(&mut answers).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => frames.push(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap();
                    return (frames, trailers["grpc-status"].to_str().unwrap().to_owned());
                }
            },
            other => panic!("{other:?} after {frames:?}"),
        }
    }
}

#[test]
fn answers_go_out_one_by_one_before_the_status() {
    let outbox = Outbox::default();
    let inner = outbox.clone();
    let run = async move {
        for answer in ["one", "two", "three"] {
            inner.send(Bytes::from_static(answer.as_bytes())).await;
        }
        "0"
    };
    let (frames, status) = polled(Answers::new(outbox, run, Bytes::new));
    assert_eq!((frames, status.as_str()), (vec![Bytes::from("one"), Bytes::from("two"), Bytes::from("three")], "0"));
}

#[test]
fn a_panic_is_a_failure_and_never_the_end_in_good_order() {
    let outbox = Outbox::default();
    let inner = outbox.clone();
    let run = async move {
        inner.send(Bytes::from_static(b"go on")).await;
        panic!("on purpose")
    };
    let (frames, status) = polled(Answers::new(outbox, run, || Bytes::from_static(b"failure")));
    assert_eq!((frames, status.as_str()), (vec![Bytes::from("failure")], "13"), "what was not sent yet stays here");
}
