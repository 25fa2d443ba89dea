use prost::Message as _;

use super::*;
use crate::grpc::pb::envoy::config::core::v3::HeaderValueOption;
use crate::grpc::pb::envoy::service::auth::v3::check_response::HttpResponse;
use crate::grpc::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse};
use crate::model::category::Category;
use crate::model::check::Check;
use crate::model::decision::{DetectionSummary, Fact, ResponseHeaders};
use crate::model::event::EventType;
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Target, Tls};

fn request(headers: &[(&'static str, &'static str)]) -> Request<'static> {
    Request {
        id: "77",
        method: "GET",
        scheme: "http",
        host: "example.com",
        target: Target::from("/"),
        protocol: "HTTP/1.1",
        headers: headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Headers<'_>>(),
        body: Body::Absent,
        peer: Peer::from("192.0.2.1"),
        route: None,
        tls: Tls::default(),
    }
}

fn client() -> Client<'static> {
    Client::Address(std::net::IpAddr::from([192, 0, 2, 1]).into())
}

#[track_caller]
fn parsed(framed: &[u8]) -> CheckResponse {
    let (prefix, message) = framed.split_at(PREFIX);
    assert_eq!(prefix[0], 0, "not compressed");
    assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, message.len());
    CheckResponse::decode(message).unwrap()
}

#[track_caller]
fn written(request: &Request<'_>, decision: &Decision<'_>, metadata: bool) -> CheckResponse {
    parsed(&Writer::new(3, metadata).write(request, decision, client()))
}

fn denial(origin: Origin, status: u16) -> Denial<'static> {
    Denial {
        origin,
        status,
        body: "Forbidden".into(),
        content_type: Some("application/json"),
        headers: SmallVec::new(),
    }
}

fn refused(denial: Denial<'static>) -> Decision<'static> {
    Decision { verdict: Verdict::Deny(denial), ..Decision::allow() }
}

/// `(name, value, append, action, keep empty)` of each header.
fn options(options: &[HeaderValueOption]) -> Vec<(&str, &str, Option<bool>, i32, bool)> {
    options
        .iter()
        .map(|option| {
            let header = option.header.as_ref().unwrap();
            assert!(header.raw_value.is_empty(), "ext_authz ignores raw_value");
            (header.key.as_str(), header.value.as_str(), option.append, option.append_action, option.keep_empty_value)
        })
        .collect()
}

#[test]
fn an_allow_says_ok_and_carries_headers() {
    let constant = ConstantHeaders { edits: vec![HeaderEdit::set("x-frame-options", "DENY")] };
    let append = HeaderEdit { existing: Existing::Append, ..HeaderEdit::set("vary", "Origin") };
    let decision = Decision {
        response_headers: ResponseHeaders { constant: Some(&constant), extra: SmallVec::from_iter([append]) },
        ..Decision::allow()
    };
    let writer = Writer::new(3, false);
    for _ in 0..2 {
        let answer = parsed(&writer.write(&request(&[]), &decision, client()));
        assert_eq!(answer.status.as_ref().map(|status| status.code), Some(0), "the status is there, and OK");
        let Some(HttpResponse::OkResponse(ok)) = &answer.http_response else { panic!("{answer:?}") };
        assert_eq!(
            options(&ok.response_headers_to_add),
            [("x-frame-options", "DENY", Some(false), 2, false), ("vary", "Origin", Some(true), 0, false),]
        );
        assert_eq!(ok.headers, []);
        assert_eq!(answer.dynamic_metadata, None);
    }
    assert_eq!(writer.encoded.borrow().len(), 1, "one set is encoded once");
}

#[test]
fn more_constant_sets_than_are_kept_are_still_written() {
    let sets: Vec<_> = (0..2 * CACHED_MAX)
        .map(|index| ConstantHeaders { edits: vec![HeaderEdit::set("x-set", index.to_string())] })
        .collect();
    let writer = Writer::new(1, false);
    for (index, set) in sets.iter().enumerate().cycle().take(5 * CACHED_MAX) {
        let response_headers = ResponseHeaders { constant: Some(set), extra: SmallVec::new() };
        let decision = Decision { response_headers, ..Decision::allow() };
        let answer = parsed(&writer.write(&request(&[]), &decision, client()));
        let Some(HttpResponse::OkResponse(ok)) = &answer.http_response else { panic!("{answer:?}") };
        assert_eq!(options(&ok.response_headers_to_add), [("x-set", &*index.to_string(), Some(false), 2, false)]);
    }
    assert_eq!(writer.encoded.borrow().len(), CACHED_MAX);
}

#[test]
fn request_headers_that_must_not_replace_are_decided_here() {
    let edit = |name: &'static str, existing| HeaderEdit { existing, ..HeaderEdit::set(name, "new") };
    let decision = Decision {
        request_headers: SmallVec::from_iter([
            edit("x-there", Existing::Keep),
            edit("x-absent", Existing::Keep),
            edit("x-set", Existing::Overwrite),
            edit("x-more", Existing::Append),
        ]),
        ..Decision::allow()
    };
    let answer = written(&request(&[("x-there", "old")]), &decision, false);
    let Some(HttpResponse::OkResponse(ok)) = &answer.http_response else { panic!("{answer:?}") };
    assert_eq!(
        options(&ok.headers),
        [
            ("x-absent", "new", Some(false), 2, false),
            ("x-set", "new", Some(false), 2, false),
            ("x-more", "new", Some(true), 0, false),
        ]
    );
}

#[track_caller]
fn denied(answer: &CheckResponse) -> &DeniedHttpResponse {
    assert_eq!(answer.status.as_ref().map(|status| status.code), Some(7), "PERMISSION_DENIED");
    let Some(HttpResponse::DeniedResponse(denied)) = &answer.http_response else { panic!("{answer:?}") };
    denied
}

#[test]
fn a_refusal_is_never_a_success_by_accident() {
    for (origin, status, expected) in [
        (Origin::Check(Check::IpSecurity), 403, 403),
        (Origin::Check(Check::RateLimit), 429, 429),
        (Origin::Check(Check::HttpsEnforcement), 301, 301),
        (Origin::Check(Check::CustomRequest), 200, 403),
        (Origin::Check(Check::CustomRequest), 204, 403),
        (Origin::Check(Check::CustomRequest), 100, 403),
        (Origin::Check(Check::CustomRequest), 0, 403),
        (Origin::Check(Check::CustomRequest), 299, 403),
        (Origin::Check(Check::CustomRequest), 418, 403),
        (Origin::Check(Check::CustomRequest), 451, 403),
        (Origin::Check(Check::CustomRequest), 511, 511),
        (Origin::Check(Check::CustomRequest), 512, 403),
        (Origin::Check(Check::CustomRequest), 700, 403),
        (Origin::CorsPreflight, 200, 200),
        (Origin::CorsPreflight, 400, 400),
        (Origin::CorsPreflight, 204, 403),
        (Origin::CspReport, 204, 204),
        (Origin::CspReport, 200, 403),
    ] {
        let answer = written(&request(&[]), &refused(denial(origin, status)), false);
        assert_eq!(denied(&answer).status.map(|status| status.code), Some(expected), "{origin:?} {status}");
        assert_eq!(denied(&answer).body, "Forbidden");
    }
}

#[test]
fn headers_of_a_refusal_are_clean_and_typed() {
    let mut reply = denial(Origin::Check(Check::CustomValidators), 403);
    reply.headers = SmallVec::from_iter([
        HeaderEdit::set("x-evil\r\n", "a\r\nset-cookie: b\0c"),
        HeaderEdit::set("x-empty", ""),
        HeaderEdit { existing: Existing::Append, ..HeaderEdit::set("set-cookie", "a=1") },
        HeaderEdit { existing: Existing::Append, ..HeaderEdit::set("set-cookie", "b=2") },
        HeaderEdit { existing: Existing::Keep, ..HeaderEdit::set("server", "x") },
    ]);
    let answer = written(&request(&[]), &refused(reply.clone()), false);
    assert_eq!(
        options(&denied(&answer).headers),
        [
            ("content-type", "application/json", Some(false), 2, false),
            ("x-evil  ", "a  set-cookie: b c", Some(false), 2, false),
            ("x-empty", "", Some(false), 2, true),
            ("set-cookie", "a=1", Some(false), 2, false),
            ("set-cookie", "b=2", Some(false), 2, false),
            ("server", "x", Some(false), 1, false),
        ]
    );
    reply.headers = SmallVec::from_iter([HeaderEdit::set("Content-Type", "text/html")]);
    let answer = written(&request(&[]), &refused(reply), false);
    assert_eq!(options(&denied(&answer).headers), [("Content-Type", "text/html", Some(false), 2, false)]);
}

#[track_caller]
fn error(answer: &CheckResponse) -> &DeniedHttpResponse {
    assert_eq!(answer.status.as_ref().map(|status| status.code), Some(13), "INTERNAL: OK would allow");
    let Some(HttpResponse::ErrorResponse(error)) = &answer.http_response else { panic!("{answer:?}") };
    error
}

#[test]
fn a_failure_is_an_error_response_with_a_server_error() {
    for (status, expected) in [(500, 500), (503, 503), (200, 500), (403, 500), (599, 500)] {
        let verdict = Verdict::Fail(denial(Origin::Check(Check::RateLimit), status));
        let answer = written(&request(&[]), &Decision { verdict, ..Decision::allow() }, true);
        assert_eq!(error(&answer).status.map(|status| status.code), Some(expected), "{status}");
    }
    let answer = parsed(&unreadable("why"));
    assert_eq!(error(&answer).status.map(|status| status.code), Some(500));
    assert_eq!(error(&answer).body, "Security check failed");
}

#[test]
fn metadata_explains_the_decision() {
    let fact = Fact {
        event: EventType::PenetrationAttempt,
        action: "request_blocked".into(),
        check: Check::SuspiciousActivity,
        reason: "r".repeat(300),
        metadata: Vec::new(),
        handler: "middleware",
    };
    let detection = DetectionSummary {
        categories: vec![Category::SQLI, Category::XSS],
        score: 0.75,
        ..DetectionSummary::default()
    };
    let decision = Decision {
        facts: SmallVec::from_iter([fact]),
        detection: Some(Box::new(detection)),
        route: Some("admin"),
        ..refused(denial(Origin::Check(Check::SuspiciousActivity), 400))
    };
    let answer = written(&request(&[]), &decision, true);
    let fields = answer.dynamic_metadata.unwrap().fields;
    let text = |key: &str| match fields.get(key).and_then(|value| value.kind.clone()) {
        Some(prost_types::value::Kind::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    };
    for (key, expected) in [
        ("decision", "deny"),
        ("policy", "3"),
        ("client", "192.0.2.1"),
        ("route", "admin"),
        ("check", "suspicious_activity"),
        ("request_id", "77"),
        ("reason", &"r".repeat(300)),
    ] {
        assert_eq!(text(key), expected, "{key}");
    }
    let json = format!("{:?}", fields["categories"]);
    assert!(json.contains("sqli") && json.contains("xss"), "{json}");
    assert!(format!("{:?}", fields["score"]).contains("0.75"));
    assert_eq!(fields.len(), 10, "the body was inspected, too");

    let answer = written(&request(&[]), &Decision::allow(), true);
    let keys: Vec<String> = answer.dynamic_metadata.unwrap().fields.into_keys().collect();
    assert_eq!(keys, ["client", "decision", "policy"], "a plain allow says little");
}
