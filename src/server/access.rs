//! Who may use the pages of the admin port that show or change something.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::server::gate::{Gate, Token};
use crate::server::problem::Problem;

/// How a call reached the admin port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Way {
    /// Through the Unix socket: the file's mode says who may.
    Unix,
    /// Through an address that only this machine reaches.
    Loopback,
    /// Through any other address.
    Network,
}

/// One connection's caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// How the call came.
    pub way: Way,
    /// The names in the client's certificate, when it showed one that our authorities vouch for.
    pub certificate: Option<String>,
}

/// Who a call was let in as; for the record of changes.
#[derive(Clone, Debug)]
pub struct Operator(pub String);

/// Lets in who may come in, and refuses the others with 401 or 403.
pub async fn guard(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>() else {
        return Problem::new(StatusCode::FORBIDDEN, "the caller is not known").into_response();
    };
    match admit(caller, gate.token().as_deref(), request.headers()) {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(problem) => {
            let challenge = problem.status == StatusCode::UNAUTHORIZED;
            let mut response = problem.into_response();
            if challenge {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

/// As whom a caller comes in.
fn admit(caller: &Caller, token: Option<&Token>, headers: &HeaderMap) -> Result<Operator, Problem> {
    if caller.way == Way::Unix {
        return Ok(Operator("unix".to_owned()));
    }
    if let Some(names) = &caller.certificate {
        return Ok(Operator(format!("certificate {names}")));
    }
    if let Some(token) = token {
        return match bearer(headers) {
            Some(text) if token.is(text) => Ok(Operator("token".to_owned())),
            Some(_) => Err(Problem::new(StatusCode::UNAUTHORIZED, "the token is wrong")),
            None => Err(Problem::new(StatusCode::UNAUTHORIZED, "send the token as `Authorization: Bearer TOKEN`")),
        };
    }
    if caller.way == Way::Network {
        let message = "on an address that is not loopback this needs admin.token or a client certificate";
        return Err(Problem::new(StatusCode::FORBIDDEN, message));
    }
    // Without a token everybody on this machine may come in, but no page of a browser that was lured here.
    if headers.contains_key(header::ORIGIN) || !headers.get(header::HOST).is_some_and(is_local) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "without admin.token only local tools may call, no web pages"));
    }
    Ok(Operator("loopback".to_owned()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// True for a `Host` that no name server can point elsewhere: an address, or this machine's own name for itself.
fn is_local(host: &header::HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn caller(way: Way, certificate: Option<&str>) -> Caller {
        Caller { way, certificate: certificate.map(str::to_owned) }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn each_way_in_asks_for_what_it_should() {
        let bearer = format!("Bearer {TOKEN}");
        let lower = format!("bearer {TOKEN}");
        let local = ("host", "127.0.0.1:8081");
        for (name, caller, has_token, sent, expected) in [
            ("a Unix socket has its mode", caller(Way::Unix, None), true, &[][..], Ok("unix")),
            ("a certificate will do", caller(Way::Network, Some("ops")), true, &[], Ok("certificate ops")),
            ("the token", caller(Way::Network, None), true, &[("authorization", &*bearer)], Ok("token")),
            ("the scheme in any case", caller(Way::Network, None), true, &[("authorization", &*lower)], Ok("token")),
            ("no token", caller(Way::Network, None), true, &[local], Err(401)),
            ("a wrong token", caller(Way::Network, None), true, &[("authorization", "Bearer nope")], Err(401)),
            ("another scheme", caller(Way::Network, None), true, &[("authorization", "Basic eA==")], Err(401)),
            ("a token that is set counts on loopback too", caller(Way::Loopback, None), true, &[local], Err(401)),
            ("nothing is set, from elsewhere", caller(Way::Network, None), false, &[local], Err(403)),
            ("nothing is set, from here", caller(Way::Loopback, None), false, &[local], Ok("loopback")),
            ("by name", caller(Way::Loopback, None), false, &[("host", "localhost:1")], Ok("loopback")),
            ("IPv6", caller(Way::Loopback, None), false, &[("host", "[::1]:8081")], Ok("loopback")),
            ("a foreign name for this machine", caller(Way::Loopback, None), false, &[("host", "evil.test")], Err(403)),
            ("no host", caller(Way::Loopback, None), false, &[], Err(403)),
            (
                "a page in a browser",
                caller(Way::Loopback, None),
                false,
                &[local, ("origin", "https://evil.test")],
                Err(403),
            ),
        ] {
            let token = has_token.then(|| Token::new(TOKEN));
            let admitted = admit(&caller, token.as_ref(), &headers(sent));
            let admitted = admitted.map(|operator| operator.0).map_err(|problem| problem.status.as_u16());
            assert_eq!(admitted, expected.map(str::to_owned), "{name}");
        }
    }
}
