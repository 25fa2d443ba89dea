//! A question as Envoy asks it, and what an answer says: for those who want to know whether the service decides.

use prost::Message as _;

use crate::grpc::authz::CHECK;
use crate::grpc::pb::envoy::config::core::v3::{Address, SocketAddress, address};
use crate::grpc::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use crate::grpc::pb::envoy::service::auth::v3::check_response::HttpResponse;
use crate::grpc::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};

/// Where questions are posted.
pub const PATH: &str = CHECK;
/// The target that a probe asks about; no application has it.
pub const TARGET: &str = "/.well-known/envoy-guard-probe";
/// Bytes before a message: a flag and the length.
const PREFIX: usize = 5;

/// A GET of [`TARGET`] by the TCP peer `peer`, with these header fields, framed for gRPC.
#[must_use]
pub fn question(peer: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let socket = SocketAddress { address: peer.to_owned(), ..SocketAddress::default() };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    let http = HttpRequest {
        id: "probe".to_owned(),
        method: "GET".to_owned(),
        path: TARGET.to_owned(),
        host: "localhost".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..HttpRequest::default()
    };
    let attributes = AttributeContext {
        source: Some(Peer { address, ..Peer::default() }),
        request: Some(Request { http: Some(http), ..Request::default() }),
        ..AttributeContext::default()
    };
    let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    let mut framed = vec![0; PREFIX];
    if let Some(length) = framed.get_mut(1..) {
        length.copy_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    }
    framed.extend(message);
    framed
}

/// What an answer says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// `allow`, `deny` or `fail`.
    pub verdict: &'static str,
    /// The client's address as the service sees it; `None` without metadata.
    pub client: Option<String>,
    /// Who decided, when it was no plain allow.
    pub check: Option<String>,
}

/// Reads a framed answer; `None` when it is none.
#[must_use]
pub fn answer(framed: &[u8]) -> Option<Seen> {
    let response = CheckResponse::decode(framed.get(PREFIX..)?).ok()?;
    let verdict = match (response.http_response, response.status.map(|status| status.code)) {
        (Some(HttpResponse::OkResponse(_)), Some(0)) => "allow",
        (Some(HttpResponse::DeniedResponse(_)), Some(code)) if code != 0 => "deny",
        (Some(HttpResponse::ErrorResponse(_)), Some(code)) if code != 0 => "fail",
        _ => return None,
    };
    let fields = response.dynamic_metadata.map(|metadata| metadata.fields).unwrap_or_default();
    let text = |key: &str| match fields.get(key)?.kind.as_ref()? {
        prost_types::value::Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    };
    Some(Seen { verdict, client: text("client"), check: text("check") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::read;
    use crate::grpc::write;

    #[test]
    fn a_question_can_be_read_and_an_answer_too() {
        let framed = question("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")]);
        let asked = read::read(&framed[PREFIX..]).unwrap();
        assert_eq!((asked.method, asked.target.raw, asked.headers.len()), ("GET", TARGET, 1));
        assert_eq!(answer(&write::unreadable("why")).unwrap().verdict, "fail");
        assert_eq!(answer(b"short"), None);
        assert_eq!(answer(&[0; 5]), None, "an answer without a verdict is none");
    }
}
