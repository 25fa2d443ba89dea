//! Exchanges of ext_proc: what one costs beside a stock tonic service that does nothing. All messages of an exchange are sent
//! at once; each is answered as if it had been waited for.

use std::path::Path;
use std::process::Command;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use prost::Message as _;

use crate::frame;
use crate::load::{DEFAULT, PROCESS, Server, free_port, guard, median};
use crate::table::{Report, Row};

const ROUNDS: usize = 5;
const CALLS: u32 = 20_000;
const WARM_UP: u32 = 3_000;
const STREAMS: u32 = 32;
/// Bytes of one part of a body, as Envoy cuts them.
const PART: usize = 16 * 1024;
/// `BodySendMode.STREAMED`.
const STREAMED: i32 = 1;

/// Runs both servers.
pub fn run(binary: &Path, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let port = free_port()?;
    let servers = [
        ("stock tonic and prost ext_proc, does nothing", stock(port)?),
        ("envoy-guard ext_proc, default policy", guard(binary, DEFAULT)?),
    ];
    for (input, messages) in [
        ("headers both ways", exchange(&[])),
        ("and a body of 10 KB JSON", exchange(json(10_000).as_bytes())),
        ("and a body of 100 KB JSON", exchange(json(100_000).as_bytes())),
    ] {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| frame::grpc(&message.encode_to_vec())).collect();
        let file = std::env::temp_dir().join(format!("envoy-guard-bench-{}-proc", std::process::id()));
        std::fs::write(&file, &bytes)?;
        let mut figures: Vec<Vec<(f64, f64)>> = vec![Vec::new(); servers.len()];
        let calls = if bytes.len() < PART { CALLS } else { CALLS / 4 };
        for (_, server) in &servers {
            server.drive_at(PROCESS, &file, (WARM_UP.min(calls), STREAMS), &[])?;
        }
        for _ in 0..ROUNDS {
            for ((_, server), own) in servers.iter().zip(&mut figures) {
                own.push(server.drive_at(PROCESS, &file, (calls, STREAMS), &[])?);
            }
        }
        std::fs::remove_file(&file)?;
        let medians: Vec<(f64, f64)> = figures.into_iter().map(median).collect();
        let floor = medians.first().map_or(1.0, |(us, _)| *us);
        for ((what, _), (us, rps)) in servers.iter().zip(medians) {
            let ratio = what.starts_with("envoy-guard").then_some((us / floor, "stock"));
            report.add(Row { what: (*what).into(), input: format!("exchange: {input}"), us, rps: Some(rps), ratio });
        }
    }
    Ok(())
}

/// The server that does nothing, as a process of its own.
pub(crate) fn stock(port: u16) -> Result<Server, Box<dyn std::error::Error>> {
    Server::start(Command::new(std::env::current_exe()?).args(["stock", &port.to_string()]), port)
}

/// The messages of one exchange, as Envoy sends them.
fn exchange(body: &[u8]) -> Vec<ProcessingRequest> {
    let field =
        |key: &str, value: String| HeaderValue { key: key.into(), raw_value: value.into(), ..HeaderValue::default() };
    let mut request: Vec<HeaderValue> = frame::headers().into_iter().map(|(key, value)| field(key, value)).collect();
    if !body.is_empty() {
        for header in &mut request {
            if header.key == ":method" {
                header.raw_value = b"POST".to_vec();
            }
        }
        request.push(field("content-type", "application/json".to_owned()));
    }
    let head = |headers: Vec<HeaderValue>, end_of_stream| HttpHeaders {
        headers: Some(HeaderMap { headers }),
        end_of_stream,
        ..HttpHeaders::default()
    };
    let source = Value { kind: Some(Kind::StringValue("203.0.113.7:4711".to_owned())) };
    let mut messages = vec![ProcessingRequest {
        request: Some(Part::RequestHeaders(head(request, body.is_empty()))),
        attributes: [(
            "envoy.filters.http.ext_proc".to_owned(),
            Struct { fields: [("source.address".to_owned(), source)].into() },
        )]
        .into(),
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: STREAMED,
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    }];
    let parts: Vec<&[u8]> = body.chunks(PART).collect();
    for (number, part) in parts.iter().enumerate() {
        let part = HttpBody { body: part.to_vec(), end_of_stream: number + 1 == parts.len(), ..HttpBody::default() };
        messages.push(ProcessingRequest { request: Some(Part::RequestBody(part)), ..ProcessingRequest::default() });
    }
    let response = ["200", "text/html; charset=utf-8", "4711", "max-age=60", "\"5f3a\""];
    let names = [":status", "content-type", "content-length", "cache-control", "etag"];
    let response = names.into_iter().zip(response).map(|(key, value)| field(key, value.to_owned())).collect();
    messages.push(ProcessingRequest {
        request: Some(Part::ResponseHeaders(head(response, false))),
        ..ProcessingRequest::default()
    });
    messages
}

/// A document of about this size.
fn json(bytes: usize) -> String {
    let mut text = "[".to_owned();
    let mut number = 0;
    while text.len() < bytes {
        text.push_str(&format!(
            "{{\"id\": {number}, \"name\": \"item number {number}\", \"tags\": [\"blue\", \"large\"]}},"
        ));
        number += 1;
    }
    text.push_str("null]");
    text
}
