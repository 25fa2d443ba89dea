//! Requests as people write them down: a JSON object, or a `curl` command line. For `explain` and `replay`.

use std::net::{IpAddr, Ipv6Addr};

use serde::Deserialize;

use crate::model::addr::ClientAddr;
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Request, Target, Tls};

/// Largest line or file taken as one request.
pub const INPUT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One request, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input {
    /// Correlation id; echoed in answers.
    pub id: String,
    /// Method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Raw target with query.
    pub path: String,
    /// Lower-case names, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Body.
    pub body: Vec<u8>,
    /// Only the beginning of the body is given.
    pub partial: bool,
    /// The peer.
    pub client: Option<IpAddr>,
    /// Route named by the operator.
    pub route: Option<String>,
}

/// Why a text is not a request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InputError(pub String);

impl InputError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The JSON form. Unknown keys are ignored, so that labelled corpora can be replayed as they are.
#[derive(Deserialize)]
struct Record {
    id: Option<serde_json::Value>,
    method: Option<String>,
    path: String,
    #[serde(default)]
    headers: HeaderForms,
    body: Option<String>,
    body_b64: Option<String>,
    #[serde(default)]
    partial: bool,
    client_ip: Option<IpAddr>,
    scheme: Option<String>,
    route: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderForms {
    Map(serde_json::Map<String, serde_json::Value>),
    Pairs(Vec<(String, String)>),
}

impl Default for HeaderForms {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

impl HeaderForms {
    fn pairs(self) -> Result<Vec<(String, Vec<u8>)>, InputError> {
        let mut pairs = Vec::new();
        match self {
            Self::Pairs(list) => pairs.extend(list.into_iter().map(|(name, value)| lower(&name, value))),
            Self::Map(map) => {
                for (name, value) in map {
                    match value {
                        serde_json::Value::String(text) => pairs.push(lower(&name, text)),
                        serde_json::Value::Array(list) => {
                            for item in list {
                                let text = item.as_str().ok_or_else(|| bad_header(&name))?;
                                pairs.push(lower(&name, text.to_owned()));
                            }
                        }
                        _ => return Err(bad_header(&name)),
                    }
                }
            }
        }
        Ok(pairs)
    }
}

fn bad_header(name: &str) -> InputError {
    InputError(format!("headers.{name}: a text or a list of texts is needed"))
}

fn lower(name: &str, value: String) -> (String, Vec<u8>) {
    (name.to_ascii_lowercase(), value.into_bytes())
}

impl Input {
    /// Reads the JSON form:
    /// `{"id", "method", "path", "headers": object or pairs, "body" or "body_b64", "client_ip"?, "scheme"?, "route"?, "partial"?}`.
    pub fn from_json(text: &str) -> Result<Self, InputError> {
        if text.len() > INPUT_BYTES_MAX {
            return Err(InputError(format!("longer than {INPUT_BYTES_MAX} bytes")));
        }
        let record: Record = serde_json::from_str(text).map_err(|error| InputError(error.to_string()))?;
        let body = match (record.body, record.body_b64) {
            (Some(_), Some(_)) => return Err(InputError::new("body and body_b64 exclude each other")),
            (Some(text), None) => text.into_bytes(),
            (None, Some(coded)) => base64_simd::STANDARD
                .decode_to_vec(coded.as_bytes())
                .map_err(|_| InputError::new("body_b64: not valid base64"))?,
            (None, None) => Vec::new(),
        };
        let id = match record.id {
            Some(serde_json::Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        Ok(Self {
            id,
            method: record.method.unwrap_or_else(|| "GET".to_owned()),
            scheme: record.scheme.unwrap_or_else(|| "https".to_owned()),
            path: record.path,
            headers: record.headers.pairs()?,
            body,
            partial: record.partial,
            client: record.client_ip,
            route: record.route,
        })
    }

    /// Gives a request without a client an address of its own, so that limits do not mix strangers up.
    /// From 2001:db8::/32, the range for documentation.
    pub fn or_stranger(&mut self, number: u64) {
        if self.client.is_none() {
            let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (number >> shift) as u16);
            self.client = Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, a, b, c, d)));
        }
    }

    /// The first header called `name` (lower case), when it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        std::str::from_utf8(value).ok()
    }

    /// What the engine sees.
    #[must_use]
    pub fn view(&self) -> Request<'_> {
        Request {
            id: &self.id,
            method: &self.method,
            scheme: &self.scheme,
            host: self.header("host").unwrap_or(""),
            target: Target::from(self.path.as_str()),
            protocol: "HTTP/1.1",
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_slice()))
                .collect::<Headers<'_>>(),
            body: match (self.body.is_empty(), self.partial) {
                (_, true) => Body::Partial(&self.body),
                (true, false) => Body::Absent,
                (false, false) => Body::Complete(&self.body),
            },
            peer: self.client.map_or(Peer::Absent, |ip| Peer::Address(ClientAddr::from(ip))),
            route: self.route.as_deref(),
            tls: Tls::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_forms_are_read_alike() {
        let map = Input::from_json(
            r#"{"id": 7, "method": "POST", "path": "/a?b=c", "headers": {"Host": "x", "Cookie": ["a=1", "b=2"]},
                "body_b64": "aGk=", "client_ip": "192.0.2.1", "label": "ignored"}"#,
        )
        .unwrap();
        let pairs = Input::from_json(
            r#"{"id": "7", "method": "POST", "path": "/a?b=c", "headers": [["host", "x"], ["cookie", "a=1"], ["cookie", "b=2"]],
                "body": "hi", "client_ip": "192.0.2.1"}"#,
        )
        .unwrap();
        assert_eq!(map, pairs);
        let view = map.view();
        assert_eq!((view.target.path, view.target.query, view.host), ("/a", Some("b=c"), "x"));
        assert_eq!(view.body, Body::Complete(b"hi"));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, wanted) in [
            ("{}", "path"),
            (r#"{"path": "/", "body": "", "body_b64": ""}"#, "exclude each other"),
            (r#"{"path": "/", "body_b64": "!"}"#, "base64"),
            (r#"{"path": "/", "headers": {"a": 1}}"#, "headers.a"),
            (r#"{"path": "/", "client_ip": "me"}"#, "IP address"),
            ("[", "EOF"),
        ] {
            let error = Input::from_json(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn strangers_differ() {
        let mut first = Input::default();
        let mut second = Input::default();
        first.or_stranger(1);
        second.or_stranger(1 << 17);
        assert_ne!(first.client, second.client);
        first.or_stranger(9);
        assert_eq!(first.client, Some("2001:db8::1".parse().unwrap()));
    }
}
