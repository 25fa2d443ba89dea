//! One HTTP request, borrowed from the bytes Envoy sent. Knows no protocol buffers and no policy.

pub mod client;
pub mod headers;
pub mod path;

use crate::model::addr::ClientAddr;
use crate::request::headers::Headers;

/// What media types of gRPC begin with.
const GRPC: &[u8] = b"application/grpc";

/// How the messages of a gRPC call are packed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grpc {
    /// gRPC itself.
    Plain,
    /// grpc-web, frames as they are.
    Web,
    /// grpc-web, frames in base64.
    WebText,
}

/// What the engine sees of a request. Nothing in it is owned.
#[derive(Clone, Debug)]
pub struct Request<'r> {
    /// Correlation id: Envoy's stream id.
    pub id: &'r str,
    /// Method, as sent.
    pub method: &'r str,
    /// `http` or `https`, as Envoy states it.
    pub scheme: &'r str,
    /// Authority, case preserved, with port.
    pub host: &'r str,
    /// Path and query.
    pub target: Target<'r>,
    /// Such as `HTTP/1.1`.
    pub protocol: &'r str,
    /// In wire order when Envoy sends them raw, else sorted by name.
    pub headers: Headers<'r>,
    /// The body, as far as it was sent to us.
    pub body: Body<'r>,
    /// The TCP peer of Envoy's listener.
    pub peer: Peer<'r>,
    /// Route chosen by the operator in Envoy (`context_extensions["guard_route"]`).
    pub route: Option<&'r str>,
    /// TLS facts, when Envoy was told to send them.
    pub tls: Tls<'r>,
}

/// Bytes of a request id that are believed at most.
const ID_BYTES_MAX: usize = 128;

impl Request<'_> {
    /// `x-request-id`, by which client, Envoy and application know the request; `None` when there is none that could
    /// be shown.
    #[must_use]
    pub fn shared_id(&self) -> Option<&str> {
        let text = std::str::from_utf8(self.headers.get("x-request-id")?).ok()?;
        let is_plain =
            text.len() <= ID_BYTES_MAX && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_plain.then_some(text)
    }

    /// What kind of gRPC call this is, if any, by its media type.
    #[must_use]
    pub fn grpc(&self) -> Option<Grpc> {
        let media = self.headers.get("content-type")?.trim_ascii();
        let (name, rest) = media.split_at_checked(GRPC.len())?;
        if !name.eq_ignore_ascii_case(GRPC) {
            return None;
        }
        let rest = rest.to_ascii_lowercase();
        let (kind, rest) = match rest.strip_prefix(b"-web") {
            None => (Grpc::Plain, &rest[..]),
            Some(web) => match web.strip_prefix(b"-text") {
                Some(rest) => (Grpc::WebText, rest),
                None => (Grpc::Web, web),
            },
        };
        matches!(rest, [] | [b'+' | b';' | b' ', ..]).then_some(kind)
    }

    /// The same request with another body, which may live shorter.
    #[must_use]
    pub fn with_body<'b>(&'b self, body: Body<'b>) -> Request<'b> {
        Request {
            id: self.id,
            method: self.method,
            scheme: self.scheme,
            host: self.host,
            target: self.target,
            protocol: self.protocol,
            // Rebuilt, because the list cannot be told to live shorter.
            headers: self.headers.iter().map(|field| (field.name, field.value)).collect(),
            body,
            peer: self.peer,
            route: self.route,
            tls: self.tls,
        }
    }
}

/// Path and query as they stood on the request line, nothing decoded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Target<'r> {
    /// Before the first `?`.
    pub path: &'r str,
    /// After the first `?`; `None` when there is none.
    pub query: Option<&'r str>,
    /// Both, as sent.
    pub raw: &'r str,
}

impl<'r> From<&'r str> for Target<'r> {
    fn from(raw: &'r str) -> Self {
        match raw.split_once('?') {
            Some((path, query)) => Self { path, query: Some(query), raw },
            None => Self { path: raw, query: None, raw },
        }
    }
}

/// The body, as far as it was sent to us.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Body<'r> {
    /// None, or Envoy was not told to send it.
    #[default]
    Absent,
    /// All of it.
    Complete(&'r [u8]),
    /// The beginning of it.
    Partial(&'r [u8]),
}

impl<'r> Body<'r> {
    /// The bytes that are there.
    #[must_use]
    pub const fn bytes(self) -> &'r [u8] {
        match self {
            Self::Absent => &[],
            Self::Complete(bytes) | Self::Partial(bytes) => bytes,
        }
    }

    /// True when more was sent to Envoy than to us.
    #[must_use]
    pub const fn is_partial(self) -> bool {
        matches!(self, Self::Partial(_))
    }
}

/// The other end of the downstream connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Peer<'r> {
    /// A plain address.
    Address(ClientAddr),
    /// Text that is no plain address (a zoned address, or junk).
    Text(&'r str),
    /// A Unix socket, or nothing.
    #[default]
    Absent,
}

impl<'r> From<&'r str> for Peer<'r> {
    fn from(text: &'r str) -> Self {
        match text.parse::<std::net::IpAddr>() {
            Ok(ip) => Self::Address(ip.into()),
            Err(_) if text.is_empty() => Self::Absent,
            Err(_) => Self::Text(text),
        }
    }
}

/// TLS facts of the downstream connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tls<'r> {
    /// Server name indication.
    pub sni: &'r str,
    /// Identity from the client certificate.
    pub principal: &'r str,
}
