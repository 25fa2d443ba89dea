//! A ProcessingRequest becomes a borrowed part of an exchange: one walk over the bytes, nothing copied.

use bytes::Bytes;

use crate::engine::phases::{ResponseHead, Standing};
use crate::grpc::proc::route_metadata::{self, OURS, ROUTE};
use crate::grpc::read::{entry, header_value};
use crate::grpc::wire::{Fields, Malformed, Value};
use crate::model::decision::IdentityFlags;
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Request, Target, Tls, client};
use crate::session::{BodyMode, Event};

/// The filter's name, under which its attributes come.
const FILTER: &str = "envoy.filters.http.ext_proc";
/// The namespace in which ext_authz leaves what it decided.
const DECIDED: &str = "envoy.filters.http.ext_authz";

/// One message.
#[derive(Debug, Default)]
pub(super) struct Incoming<'m> {
    pub(super) part: Part<'m>,
    pub(super) attributes: Attributes<'m>,
    pub(super) decided: Option<Decided<'m>>,
    /// The route that an earlier filter names.
    pub(super) route: Option<&'m str>,
    pub(super) observed: bool,
    pub(super) protocol: Option<Protocol>,
}

/// Which part of the exchange a message brings.
#[derive(Debug, Default)]
pub(super) enum Part<'m> {
    /// None: windows of a flow control that we do not offer.
    #[default]
    Nothing,
    RequestHeaders(Head<'m>),
    ResponseHeaders(Head<'m>),
    RequestBody(Piece<'m>),
    ResponseBody(Piece<'m>),
    RequestTrailers,
    ResponseTrailers,
}

/// Header fields with their pseudo-headers taken apart.
#[derive(Debug, Default)]
pub(super) struct Head<'m> {
    method: &'m str,
    scheme: &'m str,
    authority: &'m str,
    path: &'m str,
    status: u16,
    headers: Headers<'m>,
    end: bool,
}

/// A part of a body.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece<'m> {
    bytes: &'m [u8],
    end: bool,
}

/// What Envoy was told to send along (`request_attributes`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'m> {
    /// Address and port of the client, as Envoy sees it.
    pub(super) source: Option<&'m str>,
    protocol: &'m str,
    sni: &'m str,
    principal: &'m str,
    /// The guard's route that the metadata of Envoy's route names.
    pub(super) route: Option<&'m str>,
    /// What Envoy's route is called.
    pub(super) route_name: Option<&'m str>,
}

/// How bodies come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Protocol {
    pub(super) request_body: BodyMode,
    pub(super) response_body: BodyMode,
    /// Envoy does not wait for the answer to headers, and takes no other modes.
    pub(super) hasty: bool,
}

/// What ext_authz decided, as far as it concerns the rest of the exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Decided<'m> {
    decision: &'m str,
    policy: &'m str,
    client: &'m str,
    pub(super) route: Option<&'m str>,
    whitelisted: bool,
    inspected: bool,
}

impl<'m> Decided<'m> {
    /// Where the exchange stands after an allow of ours. Any other decision is made again: what an operator lets pass
    /// in spite of a denial or a failure was not decided.
    pub(super) fn standing(&self) -> Option<Standing<'m>> {
        if self.decision != "allow" || self.policy.is_empty() || self.client.is_empty() {
            return None;
        }
        Some(Standing {
            client: Some(client::peer(Peer::from(self.client))),
            flags: Some(IdentityFlags { whitelisted: self.whitelisted, exempt: false }),
            elsewhere: true,
            inspected: self.inspected,
            // Its mark stays with the filter that counted.
            trail: None,
        })
    }

    /// True when the guard answered in ext_authz: such an answer is complete.
    pub(super) fn is_denial(&self) -> bool {
        !self.policy.is_empty() && matches!(self.decision, "deny" | "fail")
    }
}

impl<'m> Part<'m> {
    /// True for the headers of a request that goes on.
    pub(super) const fn has_body(&self) -> bool {
        matches!(self, Self::RequestHeaders(head) if !head.end)
    }

    /// The part as an event of the session; `message` holds its bytes. `None` when there is none.
    pub(super) fn event(&self, message: &Bytes, kind: crate::session::BodyKind) -> Option<Event> {
        Some(match self {
            Self::Nothing => return None,
            Self::RequestHeaders(head) => Event::RequestHeaders { end: head.end, kind },
            Self::ResponseHeaders(head) => Event::ResponseHeaders { end: head.end },
            Self::RequestBody(piece) => Event::RequestBody { bytes: piece.shared(message), end: piece.end },
            Self::ResponseBody(piece) => Event::ResponseBody { bytes: piece.shared(message), end: piece.end },
            Self::RequestTrailers => Event::RequestTrailers,
            Self::ResponseTrailers => Event::ResponseTrailers,
        })
    }
}

impl Piece<'_> {
    /// The bytes, sharing the memory of their message.
    fn shared(&self, message: &Bytes) -> Bytes {
        if self.bytes.is_empty() { Bytes::new() } else { message.slice_ref(self.bytes) }
    }
}

impl<'m> Head<'m> {
    /// The request that the fields describe; `None` when they describe none.
    pub(super) fn request(&self, attributes: &Attributes<'m>, route: Option<&'m str>) -> Option<Request<'m>> {
        if self.method.is_empty() || self.path.is_empty() && self.method != "CONNECT" {
            return None;
        }
        Some(Request {
            id: self.headers.text("x-request-id").unwrap_or_default(),
            method: self.method,
            scheme: self.scheme,
            host: if self.authority.is_empty() {
                self.headers.text("host").unwrap_or_default()
            } else {
                self.authority
            },
            target: Target::from(self.path),
            protocol: attributes.protocol,
            headers: self.headers.clone(),
            body: Body::Absent,
            peer: attributes.source.map_or(Peer::Absent, peer),
            route,
            tls: Tls { sni: attributes.sni, principal: attributes.principal },
        })
    }

    /// The response that the fields describe.
    pub(super) fn response(&self) -> ResponseHead<'m> {
        ResponseHead { status: self.status, headers: self.headers.clone() }
    }
}

/// The address in `address:port`; a path of a Unix socket is no address.
fn peer(source: &str) -> Peer<'_> {
    if let Ok(address) = source.parse::<std::net::SocketAddr>() {
        return Peer::Address(address.ip().into());
    }
    if source.starts_with(['/', '@']) {
        return Peer::Absent;
    }
    let host = source.rsplit_once(':').map_or(source, |(host, _)| host);
    Peer::from(host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host))
}

/// Reads a ProcessingRequest.
pub(super) fn read(message: &[u8]) -> Result<Incoming<'_>, Malformed> {
    let mut incoming = Incoming::default();
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next()? {
        match field.number {
            2 => incoming.part = Part::RequestHeaders(head(field.message()?)?),
            3 => incoming.part = Part::ResponseHeaders(head(field.message()?)?),
            4 => incoming.part = Part::RequestBody(piece(field.message()?)?),
            5 => incoming.part = Part::ResponseBody(piece(field.message()?)?),
            6 => incoming.part = Part::RequestTrailers,
            7 => incoming.part = Part::ResponseTrailers,
            8 => incoming.metadata(field.message()?)?,
            9 => incoming.attributes(field.message()?)?,
            10 => incoming.observed = flag(field.value),
            11 => incoming.protocol = Some(protocol(field.message()?)?),
            _ => {}
        }
    }
    Ok(incoming)
}

impl<'m> Incoming<'m> {
    fn metadata(&mut self, mut fields: Fields<'m>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            if field.number != 1 {
                continue;
            }
            let (namespace, values) = entry(field.message()?)?;
            match namespace {
                DECIDED => self.decided = Some(decided(values)?),
                OURS => each(values, |key, value| {
                    if let (ROUTE, Some(text)) = (key, text(value)?) {
                        self.route = Some(text);
                    }
                    Ok(())
                })?,
                _ => {}
            }
        }
        Ok(())
    }

    fn attributes(&mut self, fields: Fields<'m>) -> Result<(), Malformed> {
        let (filter, values) = entry(fields)?;
        if filter != FILTER {
            return Ok(());
        }
        let attributes = &mut self.attributes;
        each(values, |key, value| {
            let Some(text) = text(value)? else { return Ok(()) };
            match key {
                "source.address" => attributes.source = Some(text),
                "request.protocol" => attributes.protocol = text,
                "xds.route_metadata" => attributes.route = route_metadata::route(text),
                "xds.route_name" if !text.is_empty() => attributes.route_name = Some(text),
                "connection.requested_server_name" => attributes.sni = text,
                "connection.uri_san_peer_certificate" if !text.is_empty() => attributes.principal = text,
                "connection.subject_peer_certificate" if attributes.principal.is_empty() => attributes.principal = text,
                _ => {}
            }
            Ok(())
        })
    }
}

fn decided(values: &[u8]) -> Result<Decided<'_>, Malformed> {
    let mut decided = Decided::default();
    each(values, |key, value| {
        let text = || text(value).map(Option::unwrap_or_default);
        match key {
            "decision" => decided.decision = text()?,
            "policy" => decided.policy = text()?,
            "client" => decided.client = text()?,
            "route" => decided.route = Some(text()?),
            "whitelisted" => decided.whitelisted = truth(value)?,
            "body" => decided.inspected = text()? == "inspected",
            _ => {}
        }
        Ok(())
    })?;
    Ok(decided)
}

/// Calls `take` with each key of a Struct and the bytes of its Value.
fn each<'m>(
    values: &'m [u8],
    mut take: impl FnMut(&'m str, &'m [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut fields = Fields::new(values);
    while let Some(field) = fields.next()? {
        if field.number == 1 {
            let (key, value) = entry(field.message()?)?;
            take(key, value)?;
        }
    }
    Ok(())
}

/// The text of a Value, when it is one.
fn text(value: &[u8]) -> Result<Option<&str>, Malformed> {
    let mut fields = Fields::new(value);
    let mut found = None;
    while let Some(field) = fields.next()? {
        found = if field.number == 3 { Some(field.text()?) } else { None };
    }
    Ok(found)
}

/// The truth of a Value.
fn truth(value: &[u8]) -> Result<bool, Malformed> {
    let mut fields = Fields::new(value);
    let mut found = false;
    while let Some(field) = fields.next()? {
        found = field.number == 4 && flag(field.value);
    }
    Ok(found)
}

fn flag(value: Value<'_>) -> bool {
    matches!(value, Value::Varint(number) if number != 0)
}

fn head(mut fields: Fields<'_>) -> Result<Head<'_>, Malformed> {
    let mut head = Head::default();
    while let Some(field) = fields.next()? {
        match field.number {
            1 => {
                let mut values = field.message()?;
                while let Some(value) = values.next()? {
                    if value.number == 1 {
                        let (name, value) = header_value(value.message()?)?;
                        head.push(name, value)?;
                    }
                }
            }
            3 => head.end = flag(field.value),
            _ => {}
        }
    }
    Ok(head)
}

impl<'m> Head<'m> {
    fn push(&mut self, name: &'m str, value: &'m [u8]) -> Result<(), Malformed> {
        if !name.starts_with(':') {
            self.headers.push(name, value);
            return Ok(());
        }
        let value = simdutf8::basic::from_utf8(value).map_err(|_| Malformed::Text(3))?;
        match name {
            ":method" => self.method = value,
            ":scheme" => self.scheme = value,
            ":authority" => self.authority = value,
            ":path" => self.path = value,
            ":status" => self.status = value.parse().unwrap_or_default(),
            _ => {}
        }
        Ok(())
    }
}

fn piece(mut fields: Fields<'_>) -> Result<Piece<'_>, Malformed> {
    let mut piece = Piece::default();
    while let Some(field) = fields.next()? {
        match field.number {
            1 => piece.bytes = field.bytes()?,
            // The second form ends a gRPC stream without a message.
            2 | 3 => piece.end |= flag(field.value),
            _ => {}
        }
    }
    Ok(piece)
}

fn protocol(mut fields: Fields<'_>) -> Result<Protocol, Malformed> {
    // What is not written is the first value of its enum.
    let mut protocol = Protocol { request_body: BodyMode::None, response_body: BodyMode::None, hasty: false };
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Varint(number)) => protocol.request_body = mode(number),
            (2, Value::Varint(number)) => protocol.response_body = mode(number),
            (3, value) => protocol.hasty = flag(value),
            _ => {}
        }
    }
    Ok(protocol)
}

const fn mode(number: u64) -> BodyMode {
    match number {
        0 => BodyMode::None,
        1 => BodyMode::Streamed,
        2 => BodyMode::Buffered,
        3 => BodyMode::BufferedPartial,
        4 => BodyMode::FullDuplex,
        _ => BodyMode::Unstated,
    }
}
