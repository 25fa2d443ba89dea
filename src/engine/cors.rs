//! Cross-origin requests: preflight answers, and headers on answers of ours and of the upstream.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::engine::policy::Compiling;
use crate::engine::security_headers::clean;
use crate::model::decision::{Denial, Origin};
use crate::model::headers::{Existing, HeaderEdit};
use crate::request::Request;

/// Lifetime in preflight caches that the manager's set states, in seconds.
const MANAGER_MAX_AGE: &str = "3600";
/// Lifetime when the configured one is 0, in seconds.
const DEFAULT_MAX_AGE: u32 = 600;

/// The compiled policy of cross-origin requests.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<String>,
    any_origin: bool,
    methods: Vec<String>,
    headers: Vec<String>,
    any_header: bool,
    credentials: bool,
    methods_text: String,
    headers_text: String,
    expose_text: String,
    max_age: String,
    /// Methods, headers and lifetime on ordinary responses too: guard-core sends them while its security headers are on.
    with_manager: bool,
}

type Edits<'p> = SmallVec<[HeaderEdit<'p>; 1]>;

impl Cors {
    /// Compiles the `cors_` fields; `None` when CORS is off.
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let security = &compiling.config.security;
        if !security.enable_cors {
            return None;
        }
        let any_origin = security.cors_allow_origins.iter().any(|origin| origin == "*");
        if any_origin && security.cors_allow_credentials {
            compiling
                .warn("security.cors_allow_credentials", "credentials are left out because every origin is allowed");
        }
        for (key, values) in [
            ("security.cors_allow_origins", &security.cors_allow_origins),
            ("security.cors_allow_methods", &security.cors_allow_methods),
            ("security.cors_allow_headers", &security.cors_allow_headers),
            ("security.cors_expose_headers", &security.cors_expose_headers),
        ] {
            if values.iter().any(|value| clean(value).as_deref() != Ok(value)) {
                compiling.error(key, "a value holds control characters or is too long");
            }
        }
        let or_default = |values: &[String], default: &str| {
            if values.is_empty() { default.to_owned() } else { values.join(", ") }
        };
        let max_age = if security.cors_max_age == 0 { DEFAULT_MAX_AGE } else { security.cors_max_age };
        Some(Self {
            origins: security.cors_allow_origins.clone(),
            any_origin,
            methods: match security.cors_allow_methods.as_slice() {
                [] => vec!["GET".to_owned()],
                methods => methods.iter().map(|method| method.to_ascii_uppercase()).collect(),
            },
            headers: security.cors_allow_headers.iter().map(|header| header.to_ascii_lowercase()).collect(),
            any_header: security.cors_allow_headers.iter().any(|header| header == "*"),
            credentials: security.cors_allow_credentials && !any_origin,
            methods_text: or_default(&security.cors_allow_methods, "GET"),
            headers_text: or_default(&security.cors_allow_headers, "*"),
            expose_text: security.cors_expose_headers.join(", "),
            max_age: max_age.to_string(),
            with_manager: security.security_headers.as_ref().is_some_and(|headers| headers.enabled),
        })
    }

    /// The value of Access-Control-Allow-Origin for an origin.
    fn allowed(&self, origin: &str) -> Option<&str> {
        if self.any_origin {
            return Some("*");
        }
        self.origins.iter().find(|own| *own == origin).map(String::as_str)
    }

    /// Headers on the upstream's response.
    pub(crate) fn on_response<'p>(&'p self, request: &Request<'_>, edits: &mut Edits<'p>) {
        let Some(allowed) = request.headers.text("origin").and_then(|origin| self.allowed(origin)) else { return };
        if self.with_manager {
            edits.push(HeaderEdit::set("access-control-allow-methods", self.methods_text.as_str()));
            edits.push(HeaderEdit::set("access-control-allow-headers", self.headers_text.as_str()));
            edits.push(HeaderEdit::set("access-control-max-age", MANAGER_MAX_AGE));
        }
        self.simple(allowed, edits);
    }

    /// Headers on an answer of ours.
    pub(crate) fn on_denial<'p>(&'p self, request: &Request<'_>, edits: &mut SmallVec<[HeaderEdit<'p>; 4]>) {
        let Some(allowed) = request.headers.text("origin").and_then(|origin| self.allowed(origin)) else { return };
        let mut simple = Edits::new();
        self.simple(allowed, &mut simple);
        edits.extend(simple);
    }

    fn simple<'p>(&'p self, allowed: &'p str, edits: &mut Edits<'p>) {
        edits.push(HeaderEdit::set("access-control-allow-origin", allowed));
        if self.credentials {
            edits.push(HeaderEdit::set("access-control-allow-credentials", "true"));
        }
        if !self.expose_text.is_empty() {
            edits.push(HeaderEdit::set("access-control-expose-headers", self.expose_text.as_str()));
        }
        // One answer fits every origin only when it is the same for all of them.
        if !self.any_origin {
            edits.push(HeaderEdit { existing: Existing::Append, ..HeaderEdit::set("vary", "Origin") });
        }
    }

    /// Answers a preflight that the pipeline let pass.
    pub(crate) fn preflight<'p>(&'p self, request: &Request<'_>) -> Denial<'p> {
        let origin = request.headers.text("origin").and_then(|origin| self.allowed(origin));
        let method = request.headers.text("access-control-request-method").unwrap_or_default();
        let requested = request.headers.text("access-control-request-headers").unwrap_or_default();
        let mut failures: SmallVec<[&str; 3]> = SmallVec::new();
        if origin.is_none() {
            failures.push("origin");
        }
        if !self.methods.iter().any(|own| own.eq_ignore_ascii_case(method)) {
            failures.push("method");
        }
        if !self.allows_headers(requested) {
            failures.push("headers");
        }
        let (status, body) = match failures.as_slice() {
            [] => (200, Cow::Borrowed("OK")),
            failures => (400, Cow::Owned(format!("Disallowed CORS: {}", failures.join(", ")))),
        };
        Denial {
            origin: Origin::CorsPreflight,
            status,
            body,
            content_type: Some(crate::engine::reply::TEXT),
            headers: self.preflight_headers(origin, requested),
        }
    }

    fn allows_headers(&self, requested: &str) -> bool {
        let mut names = requested.split(',').map(str::trim).filter(|name| !name.is_empty());
        self.any_header || names.all(|name| self.headers.iter().any(|own| own.eq_ignore_ascii_case(name)))
    }

    fn preflight_headers<'p>(&'p self, origin: Option<&'p str>, requested: &str) -> SmallVec<[HeaderEdit<'p>; 4]> {
        let mut edits = SmallVec::new();
        edits.push(HeaderEdit::set("vary", "Origin"));
        if let Some(origin) = origin {
            edits.push(HeaderEdit::set("access-control-allow-origin", origin));
        }
        edits.push(HeaderEdit::set("access-control-allow-methods", self.methods.join(", ")));
        edits.push(HeaderEdit::set("access-control-max-age", self.max_age.as_str()));
        if !self.any_header && !self.headers.is_empty() {
            edits.push(HeaderEdit::set("access-control-allow-headers", self.headers_text.as_str()));
        } else if self.any_header
            && let Ok(echo) = clean(requested)
            && !echo.is_empty()
        {
            edits.push(HeaderEdit::set("access-control-allow-headers", echo));
        }
        if self.credentials {
            edits.push(HeaderEdit::set("access-control-allow-credentials", "true"));
        }
        edits
    }
}

/// True for a CORS preflight.
pub(crate) fn is_preflight(request: &Request<'_>) -> bool {
    request.method == "OPTIONS" && request.headers.get("access-control-request-method").is_some()
}

#[cfg(test)]
mod tests;
