//! A CheckRequest becomes a borrowed [`Request`]: one walk over the bytes, nothing copied, nothing allocated.
//!
//! What the service does not use (metadata, certificates, labels, the destination) is skipped unread.

use crate::grpc::wire::{Field, Fields, Malformed};
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Request, Target, Tls};

/// Envoy's note in the headers that a body was sent along, and whether all of it.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";
/// The key of `context_extensions` by which an operator chooses the route.
const ROUTE: &str = "guard_route";

/// Why a message is not a question that we can answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The bytes are no CheckRequest.
    #[error("the check request cannot be read: {0}")]
    Malformed(#[from] Malformed),
    /// A check of a TCP or UDP session: there is no HTTP request to decide about.
    #[error("the check request holds no HTTP request")]
    NotHttp,
}

/// Reads a CheckRequest.
///
/// Fields follow the protobuf rules: a scalar that occurs twice counts as its last value, a message that occurs twice
/// is merged, of a map key that occurs twice the last entry counts.
pub fn read(message: &[u8]) -> Result<Request<'_>, ReadError> {
    let mut draft = Draft::default();
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next()? {
        if field.number == 1 {
            draft.attributes(field.message()?)?;
        }
    }
    draft.finish()
}

/// The request as far as it has been read.
#[derive(Default)]
struct Draft<'r> {
    http: bool,
    id: &'r str,
    method: &'r str,
    scheme: &'r str,
    host: &'r str,
    path: &'r str,
    protocol: &'r str,
    headers: Headers<'r>,
    /// Fields came in wire order; the map does not count.
    raw: bool,
    /// Value of Envoy's note, the last one: an earlier one may be the client's.
    partial: Option<&'r [u8]>,
    text_body: &'r [u8],
    raw_body: &'r [u8],
    address: Address<'r>,
    principal: &'r str,
    sni: &'r str,
    route: Option<&'r str>,
}

/// The variants of core.v3.Address, of which the last one counts.
#[derive(Default)]
enum Address<'r> {
    #[default]
    None,
    Socket(&'r str),
    Other,
}

impl<'r> Draft<'r> {
    fn attributes(&mut self, mut fields: Fields<'r>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.source(field.message()?)?,
                4 => self.request(field.message()?)?,
                10 => self.context_extension(field.message()?)?,
                12 => self.tls_session(field.message()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn source(&mut self, mut fields: Fields<'r>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.address(field.message()?)?,
                4 => self.principal = field.text()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn address(&mut self, mut fields: Fields<'r>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            match field.number {
                1 => {
                    let known = match self.address {
                        Address::Socket(text) => text,
                        Address::None | Address::Other => "",
                    };
                    self.address = Address::Socket(socket(field.message()?, known)?);
                }
                // A Unix socket and a listener inside Envoy have no client address.
                2 | 3 => self.address = Address::Other,
                _ => {}
            }
        }
        Ok(())
    }

    fn request(&mut self, mut fields: Fields<'r>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            if field.number == 2 {
                self.http = true;
                self.http_request(field.message()?)?;
            }
        }
        Ok(())
    }

    fn http_request(&mut self, mut fields: Fields<'r>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.id = field.text()?,
                2 => self.method = field.text()?,
                3 => self.map_entry(field)?,
                4 => self.path = field.text()?,
                5 => self.host = field.text()?,
                6 => self.scheme = field.text()?,
                10 => self.protocol = field.text()?,
                11 => self.text_body = field.bytes()?,
                12 => self.raw_body = field.bytes()?,
                13 => self.header_map(field.message()?)?,
                // query and fragment are always empty, and size is not reliable.
                _ => {}
            }
        }
        Ok(())
    }

    fn map_entry(&mut self, field: Field<'r>) -> Result<(), Malformed> {
        let (name, value) = entry(field.message()?)?;
        if !self.raw {
            self.header(name, value);
        }
        Ok(())
    }

    fn header_map(&mut self, mut fields: Fields<'r>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            if field.number != 1 {
                continue;
            }
            let (name, value) = header_value(field.message()?)?;
            if !self.raw {
                self.raw = true;
                self.headers = Headers::default();
                self.partial = None;
            }
            self.header(name, value);
        }
        Ok(())
    }

    fn header(&mut self, name: &'r str, value: &'r [u8]) {
        match name.as_bytes().first() {
            // Pseudo-headers repeat what has fields of its own.
            Some(b':') => {}
            Some(b'x') if name == PARTIAL_BODY => self.partial = Some(value),
            _ => self.headers.push(name, value),
        }
    }

    fn context_extension(&mut self, fields: Fields<'r>) -> Result<(), Malformed> {
        let (key, value) = entry(fields)?;
        if key == ROUTE {
            self.route = Some(simdutf8::basic::from_utf8(value).map_err(|_| Malformed::Text(2))?);
        }
        Ok(())
    }

    fn tls_session(&mut self, mut fields: Fields<'r>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                self.sni = field.text()?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Request<'r>, ReadError> {
        if !self.http {
            return Err(ReadError::NotHttp);
        }
        if !self.raw {
            self.headers.sort();
            last_of_each(&mut self.headers);
        }
        Ok(Request {
            id: self.id,
            method: self.method,
            scheme: self.scheme,
            host: self.host,
            target: Target::from(self.path),
            protocol: self.protocol,
            body: body(self.partial, if self.raw_body.is_empty() { self.text_body } else { self.raw_body }),
            headers: self.headers,
            peer: match self.address {
                Address::Socket(text) => Peer::from(text),
                Address::None | Address::Other => Peer::Absent,
            },
            route: self.route,
            tls: Tls { sni: self.sni, principal: self.principal },
        })
    }
}

/// Without Envoy's note an empty body is one that was not sent to us; with it, it is empty.
fn body<'r>(partial: Option<&[u8]>, bytes: &'r [u8]) -> Body<'r> {
    match partial {
        Some(b"true") => Body::Partial(bytes),
        None if bytes.is_empty() => Body::Absent,
        Some(_) | None => Body::Complete(bytes),
    }
}

/// Keeps the last of equal neighbours: no correct encoder writes a map key twice, but the rule is the rule.
fn last_of_each(headers: &mut Headers<'_>) {
    let repeated =
        |(a, b): (crate::request::headers::Header<'_>, crate::request::headers::Header<'_>)| a.name == b.name;
    if !headers.iter().zip(headers.iter().skip(1)).any(repeated) {
        return;
    }
    let next = headers.iter().skip(1).map(|field| Some(field.name)).chain([None]);
    *headers = headers
        .iter()
        .zip(next)
        .filter(|(field, next)| Some(field.name) != *next)
        .map(|(field, _)| (field.name, field.value))
        .collect();
}

/// The address of a SocketAddress; `known` when it holds none.
fn socket<'r>(mut fields: Fields<'r>, known: &'r str) -> Result<&'r str, Malformed> {
    let mut address = known;
    while let Some(field) = fields.next()? {
        if field.number == 2 {
            address = field.text()?;
        }
    }
    Ok(address)
}

/// Key and value of a map entry. The value stays bytes: whoever needs text checks it.
pub(super) fn entry<'r>(mut fields: Fields<'r>) -> Result<(&'r str, &'r [u8]), Malformed> {
    let (mut key, mut value): (_, &[u8]) = ("", &[]);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => key = field.text()?,
            2 => value = field.bytes()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// Key and value of a HeaderValue: Envoy fills `raw_value`, others may fill `value`.
pub(super) fn header_value<'r>(mut fields: Fields<'r>) -> Result<(&'r str, &'r [u8]), Malformed> {
    let (mut key, mut text, mut raw): (_, &[u8], &[u8]) = ("", &[], &[]);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => key = field.text()?,
            2 => text = field.bytes()?,
            3 => raw = field.bytes()?,
            _ => {}
        }
    }
    Ok((key, if raw.is_empty() { text } else { raw }))
}

#[cfg(test)]
mod tests;
