//! Check 7: credentials. Missing or wrong ones get 401 and a challenge; when a route asks for several, all are verified.

use std::borrow::Cow;

use crate::config::routes::RouteConfig;
use crate::engine::checks::Seen;
use crate::engine::credentials::Verifier;
use crate::engine::cx::{Cx, Objection, text, violation};
use crate::engine::policy::{Compiling, PerRoute, Routed};
use crate::engine::security_headers::is_token;
use crate::model::check::Check;
use crate::model::event::EventType;

const CHECK: Check = Check::Authentication;
const API_KEY_HEADER: &str = "X-API-Key";

#[derive(Debug)]
pub(crate) struct Settings {
    by_route: PerRoute<Vec<Demand>>,
}

/// One credential that a route asks for.
#[derive(Debug)]
struct Demand {
    place: Place,
    /// Configured name of the scheme, for events.
    name: String,
    check: Proof,
}

/// Where a credential stands.
#[derive(Debug, Eq, PartialEq)]
enum Place {
    Bearer,
    Basic,
    /// The whole Authorization value.
    Whole,
    Header(String),
}

/// What a credential has to stand up to.
#[derive(Debug)]
enum Proof {
    /// Being there is enough.
    Presence,
    /// The verifier knows it; without a verifier nobody passes.
    Verified(Option<Verifier>),
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let by_route = compiling.per_route(|compiling, routed| match routed {
            Some(routed) => demands(compiling, routed),
            None => Vec::new(),
        });
        by_route.any(|demands| !demands.is_empty()).then_some(Self { by_route })
    }
}

fn demands(compiling: &mut Compiling<'_>, routed: Routed<'_>) -> Vec<Demand> {
    let route: &RouteConfig = routed.route;
    let mut demands = Vec::new();
    if let Some(scheme) = &route.authorization_header_required {
        demands.push(Demand { place: place(scheme), name: scheme.clone(), check: Proof::Presence });
    }
    if let Some(scheme) = &route.auth_required {
        let verifier = verifier(compiling, routed, "auth_verifier", route.auth_verifier.as_ref());
        demands.push(Demand { place: place(scheme), name: scheme.clone(), check: Proof::Verified(verifier) });
    }
    if route.api_key_required {
        let header = route.api_key_header.as_deref().unwrap_or(API_KEY_HEADER);
        if !is_token(header) {
            compiling.error(routed.key("api_key_header"), format!("`{header}` is not a header name"));
        }
        let verifier = verifier(compiling, routed, "api_key_verifier", route.api_key_verifier.as_ref());
        let place = Place::Header(header.to_owned());
        demands.push(Demand { place, name: "api_key".to_owned(), check: Proof::Verified(verifier) });
    }
    demands
}

fn verifier(
    compiling: &mut Compiling<'_>,
    routed: Routed<'_>,
    field: &str,
    own: Option<&crate::config::values::Verifier>,
) -> Option<Verifier> {
    let global = compiling.config.security.auth_verifier.as_ref();
    match (own, global) {
        (Some(own), _) => Verifier::compile(compiling, &routed.key(field), own),
        (None, Some(global)) => Verifier::compile(compiling, "security.auth_verifier", global),
        (None, None) => {
            compiling.warn(routed.key(field), "there is no verifier, so the route refuses everybody");
            None
        }
    }
}

fn place(scheme: &str) -> Place {
    if scheme.eq_ignore_ascii_case("bearer") {
        Place::Bearer
    } else if scheme.eq_ignore_ascii_case("basic") {
        Place::Basic
    } else {
        Place::Whole
    }
}

impl Place {
    /// The credential, when one of this kind was sent.
    fn credential<'r>(&self, cx: &Cx<'_, '_, 'r>) -> Option<&'r str> {
        let authorization = || cx.request.headers.text("authorization");
        match self {
            Self::Bearer => after(authorization()?, "bearer "),
            Self::Basic => after(authorization()?, "basic "),
            Self::Whole => authorization().filter(|value| !value.is_empty()),
            Self::Header(name) => cx.request.headers.text(name).filter(|value| !value.is_empty()),
        }
    }

    fn missing(&self, scheme: &str) -> Cow<'static, str> {
        match self {
            Self::Bearer => "Missing or invalid Bearer token".into(),
            Self::Basic => "Missing or invalid Basic authentication".into(),
            Self::Whole => format!("Missing {scheme} authentication").into(),
            Self::Header(_) => "Missing API key".into(),
        }
    }

    fn challenge(&self, scheme: &str, was_sent: bool) -> String {
        match self {
            Self::Bearer if was_sent => "Bearer error=\"invalid_token\"".to_owned(),
            Self::Bearer => "Bearer".to_owned(),
            Self::Basic => "Basic realm=\"restricted\", charset=\"UTF-8\"".to_owned(),
            Self::Whole if is_token(scheme) => scheme.to_owned(),
            Self::Whole => "Bearer".to_owned(),
            Self::Header(name) => format!("ApiKey realm=\"restricted\", header=\"{name}\""),
        }
    }
}

/// What follows a scheme, whose name is compared without case.
fn after<'r>(value: &'r str, scheme: &str) -> Option<&'r str> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    (name.eq_ignore_ascii_case(scheme) && !rest.is_empty()).then_some(rest)
}

pub(crate) fn evaluate<'p>(settings: &'p Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    for demand in settings.by_route.of(cx.route) {
        if let Some(objection) = examine(demand, cx) {
            return Ok(Some(objection));
        }
    }
    Ok(None)
}

fn examine<'p>(demand: &'p Demand, cx: &mut Cx<'_, 'p, '_>) -> Option<Objection<'p>> {
    let credential = demand.place.credential(cx);
    let reason = match (credential, &demand.check) {
        (None, _) => demand.place.missing(&demand.name),
        (Some(_), Proof::Presence) => return None,
        (Some(_), Proof::Verified(None)) => "No auth verifier configured".into(),
        (Some(credential), Proof::Verified(Some(verifier))) => match verifier.verify(cx, credential) {
            Ok(Some(principal)) => {
                if !principal.is_empty() || cx.principal.is_none() {
                    cx.principal = Some(principal);
                }
                return None;
            }
            Ok(None) => "Authentication failed".into(),
            // A verifier that fails refuses, whatever `fail_secure` says.
            Err(_) => "Authentication error".into(),
        },
    };
    let kind = match demand.check {
        Proof::Presence => "authorization_header",
        Proof::Verified(_) => "require_auth",
    };
    let mut metadata = violation("authentication", kind);
    metadata.push(("auth_type", text(demand.name.as_str())));
    cx.report(CHECK, EventType::DecoratorViolation, reason.clone().into_owned(), metadata);
    cx.suspect(CHECK, format!("Authentication failure: {reason}"), String::new());
    let challenge = demand.place.challenge(&demand.name, credential.is_some());
    Some(Objection::new(401, "Authentication required").with_header("www-authenticate", challenge))
}

#[cfg(test)]
mod tests;
