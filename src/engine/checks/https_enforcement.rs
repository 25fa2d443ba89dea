//! Check 3: plain HTTP is redirected where HTTPS is required.

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Form, Objection, text, violation};
use crate::engine::policy::{Compiling, PerRoute};
use crate::model::check::Check;
use crate::model::decision::Fact;
use crate::model::event::EventType;
use crate::request::client::is_secure;

const CHECK: Check = Check::HttpsEnforcement;

#[derive(Debug)]
pub(crate) struct Settings {
    by_route: PerRoute<Required>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Required {
    No,
    ByPolicy,
    ByRoute,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let by_policy = if compiling.config.security.enforce_https { Required::ByPolicy } else { Required::No };
        let by_route = compiling.per_route(|_, routed| match routed.and_then(|routed| routed.route.require_https) {
            None => by_policy,
            Some(true) => Required::ByRoute,
            Some(false) => Required::No,
        });
        by_route.any(|required| *required != Required::No).then_some(Self { by_route })
    }
}

pub(crate) fn evaluate<'p>(settings: &Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    let required = *settings.by_route.of(cx.route);
    if required == Required::No || is_secure(&cx.policy.proxies, cx.request) {
        return Ok(None);
    }
    let location = location(cx.request.host, cx.request.target.raw);
    let (event, reason, mut metadata) = match required {
        Required::ByRoute => (
            EventType::DecoratorViolation,
            "Route requires HTTPS but request was HTTP",
            violation("authentication", "require_https"),
        ),
        Required::ByPolicy | Required::No => {
            (EventType::HttpsEnforced, "HTTP request redirected to HTTPS for security", Vec::new())
        }
    };
    metadata.push(("original_scheme", text(cx.request.scheme)));
    metadata.push(("redirect_url", text(location.as_str())));
    cx.record(Fact {
        event,
        // Passive mode keeps the action: it says what was found, not what was done.
        action: "https_redirect".into(),
        check: CHECK,
        reason: reason.to_owned(),
        metadata,
        handler: "middleware",
    });
    let redirect = Objection { form: Form::Bare, ..Objection::new(301, "") };
    Ok(Some(redirect.with_header("location", location)))
}

/// The same URL with `https`; the port stays. Control characters cannot come from Envoy and would end the header.
fn location(host: &str, target: &str) -> String {
    let path = if target.starts_with('/') { target } else { "/" };
    format!("https://{host}{path}").chars().filter(|char| !char.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_redirect_keeps_authority_path_and_query() {
        for (host, target, expected) in [
            ("example.com", "/a?b=c", "https://example.com/a?b=c"),
            ("example.com:8080", "/", "https://example.com:8080/"),
            ("example.com", "*", "https://example.com/"),
            ("example.com", "/a\r\nSet-Cookie: x", "https://example.com/aSet-Cookie: x"),
        ] {
            assert_eq!(location(host, target), expected);
        }
    }
}
