//! Refusals as grpc-web clients read them: HTTP 200, and what was decided as trailers. Envoy writes such answers for
//! gRPC clients only. A grpc-web call is HTTP to it, also where its own filter for them stands before ours: that filter
//! would make a status of the HTTP status, and 400 is none that a client of gRPC knows what to do with.

use base64_simd::STANDARD;

use crate::model::decision::Denial;
use crate::request::{Grpc, Request};

/// Marks a frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// How a grpc-web client wants its answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Web {
    /// Frames as they are.
    Binary,
    /// Frames in base64.
    Text,
    /// As gRPC, which Envoy's filter turns into what the client wants.
    Translated,
}

impl Web {
    /// The way that suits the answer `denial` to `request`; `None` when HTTP does: another kind of request, or an answer
    /// below 400, which is no error.
    pub(super) fn of(request: &Request<'_>, denial: &Denial<'_>) -> Option<Self> {
        if denial.status < 400 {
            return None;
        }
        match request.grpc()? {
            Grpc::Web => Some(Self::Binary),
            Grpc::WebText => Some(Self::Text),
            Grpc::Plain => is_translated(request).then_some(Self::Translated),
        }
    }

    /// The media type of the answer.
    pub(super) const fn media(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
            Self::Translated => "application/grpc",
        }
    }

    /// The body of the answer: one frame with the trailers, or nothing where they stand among the headers.
    pub(super) fn body(self, code: u64, message: &str) -> Vec<u8> {
        let trailers = format!("grpc-status: {code}\r\ngrpc-message: {}\r\n", escaped(message));
        // A policy's text is far below 4 GiB.
        let length = u32::try_from(trailers.len()).unwrap_or(u32::MAX);
        let frame = [&[TRAILERS][..], &length.to_be_bytes(), trailers.as_bytes()].concat();
        match self {
            Self::Binary => frame,
            Self::Text => STANDARD.encode_to_string(&frame).into_bytes(),
            Self::Translated => Vec::new(),
        }
    }
}

/// True for a grpc-web call that Envoy's filter has turned into gRPC: what the client said about answers is still there.
/// A client that says so without being one gets an answer that gRPC clients understand as well.
fn is_translated(request: &Request<'_>) -> bool {
    const WEB: &[u8] = b"application/grpc-web";
    let accepts =
        |value: &[u8]| value.trim_ascii().get(..WEB.len()).is_some_and(|start| start.eq_ignore_ascii_case(WEB));
    request.headers.get("x-grpc-web").is_some() || request.headers.all("accept").any(accepts)
}

/// A status message as gRPC writes it: what is no printable ASCII, and the percent sign, is escaped.
pub(super) fn escaped(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | ..b' ' | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
            _ => text.push(char::from(byte)),
        }
    }
    text
}

/// What an HTTP status is called in gRPC.
pub(super) const fn grpc_status(status: u16) -> u64 {
    match status {
        400 => 3,
        401 => 16,
        404 => 5,
        413 | 429 => 8,
        500 => 13,
        501 => 12,
        502..=504 => 14,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;
    use crate::model::check::Check;
    use crate::model::decision::Origin;
    use crate::request::headers::Headers;
    use crate::request::{Body, Peer, Tls};

    fn of(media: &str, status: u16) -> Option<Web> {
        with(&[("content-type", media)], status)
    }

    fn with(fields: &[(&'static str, &str)], status: u16) -> Option<Web> {
        let request = Request {
            id: "",
            method: "POST",
            scheme: "http",
            host: "a",
            target: "/".into(),
            protocol: "HTTP/1.1",
            headers: fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Headers<'_>>(),
            body: Body::Absent,
            peer: Peer::Absent,
            route: None,
            tls: Tls::default(),
        };
        let denial = Denial {
            origin: Origin::Check(Check::RateLimit),
            status,
            body: "no".into(),
            content_type: None,
            headers: SmallVec::new(),
        };
        Web::of(&request, &denial)
    }

    #[test]
    fn only_grpc_web_calls_get_such_answers() {
        for (media, expected) in [
            ("application/grpc-web", Some(Web::Binary)),
            ("Application/gRPC-Web+proto", Some(Web::Binary)),
            ("application/grpc-web; charset=utf-8", Some(Web::Binary)),
            ("application/grpc-web-text", Some(Web::Text)),
            ("application/grpc-web-text+proto", Some(Web::Text)),
            ("application/grpc", None),
            ("application/grpc+proto", None),
            ("application/grpc-webby", None),
            ("application/grpc-web-texture", None),
            ("application/json", None),
        ] {
            assert_eq!(of(media, 403), expected, "{media}");
        }
        assert_eq!((of("application/grpc-web", 399), of("application/grpc-web", 400)), (None, Some(Web::Binary)));
    }

    #[test]
    fn a_call_that_envoy_translated_is_known_by_what_the_client_accepts() {
        let grpc = ("content-type", "application/grpc");
        for (name, fields, expected) in [
            ("a browser's client", &[grpc, ("x-grpc-web", "1")][..], Some(Web::Translated)),
            ("another client", &[grpc, ("accept", "application/grpc-web-text+proto")], Some(Web::Translated)),
            ("a gRPC client", &[grpc, ("accept", "*/*")], None),
            ("no call", &[("content-type", "text/plain"), ("x-grpc-web", "1")], None),
        ] {
            assert_eq!(with(fields, 403), expected, "{name}");
        }
        assert_eq!(Web::Translated.body(7, "no"), b"");
    }

    #[test]
    fn the_status_is_a_frame_of_trailers() {
        let binary = Web::Binary.body(7, "100 % of \u{e9}\n");
        let trailers = b"grpc-status: 7\r\ngrpc-message: 100 %25 of %C3%A9%0A\r\n";
        let (prefix, rest) = binary.split_at(5);
        assert_eq!((prefix, rest), (&[0x80, 0, 0, 0, trailers.len() as u8][..], &trailers[..]));
        assert_eq!(STANDARD.decode_to_vec(Web::Text.body(7, "100 % of \u{e9}\n")).unwrap(), binary);
    }
}
