//! The hardening headers that responses get, validated and prepared once.

use crate::config::values::{Hsts, SecurityHeaders, Setting};
use crate::engine::policy::Compiling;
use crate::model::headers::HeaderEdit;

/// Longest value of one header, in characters.
pub(crate) const VALUE_CHARS_MAX: usize = 8192;
/// Shortest HSTS lifetime that browsers preload, in seconds.
const PRELOAD_SECONDS_MIN: u64 = 31_536_000;

const DEFAULT_PERMISSIONS: &str = "geolocation=(), microphone=(), camera=()";

/// The headers in the order they are sent; empty when they are switched off.
pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Vec<HeaderEdit<'static>> {
    let Some(config) = compiling.config.security.security_headers.as_ref().filter(|config| config.enabled) else {
        return Vec::new();
    };
    let mut builder = Builder { edits: Vec::new(), compiling };
    builder.build(config);
    builder.edits
}

struct Builder<'b, 'a> {
    edits: Vec<HeaderEdit<'static>>,
    compiling: &'b mut Compiling<'a>,
}

impl Builder<'_, '_> {
    fn build(&mut self, config: &SecurityHeaders) {
        self.single(
            "content_type_options",
            "x-content-type-options",
            config.content_type_options.as_deref(),
            "nosniff",
        );
        self.single("frame_options", "x-frame-options", config.frame_options.as_deref(), "SAMEORIGIN");
        self.single("xss_protection", "x-xss-protection", config.xss_protection.as_deref(), "1; mode=block");
        self.single(
            "referrer_policy",
            "referrer-policy",
            config.referrer_policy.as_deref(),
            "strict-origin-when-cross-origin",
        );
        match &config.permissions_policy {
            Setting::Unset => self.add("permissions_policy", "permissions-policy", DEFAULT_PERMISSIONS),
            Setting::Off => {}
            Setting::Value(value) => self.add("permissions_policy", "permissions-policy", value),
        }
        for (name, value) in [
            ("x-permitted-cross-domain-policies", "none"),
            ("x-download-options", "noopen"),
            ("cross-origin-embedder-policy", "require-corp"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            self.edits.push(HeaderEdit::set(name, value));
        }
        if let Some(directives) = config.csp.as_ref().filter(|directives| !directives.is_empty()) {
            self.csp(directives);
        }
        if let Some(value) = config.hsts.as_ref().and_then(|hsts| self.hsts(hsts)) {
            self.edits.push(HeaderEdit::set("strict-transport-security", value));
        }
        for (name, value) in config.custom.iter().flatten() {
            self.add(&format!("custom.{name}"), name, value);
        }
    }

    fn single(&mut self, field: &str, name: &str, value: Option<&str>, default: &str) {
        self.add(field, name, value.unwrap_or(default));
    }

    /// Adds a header whose name and value come from the user; one of the same name is replaced.
    fn add(&mut self, field: &str, name: &str, value: &str) {
        let key = format!("security.security_headers.{field}");
        if !is_token(name) {
            self.compiling.error(key, format!("`{name}` is not a header name"));
            return;
        }
        let value = match clean(value) {
            Ok(value) => value,
            Err(message) => {
                self.compiling.error(key, message);
                return;
            }
        };
        let name = name.to_ascii_lowercase();
        self.edits.retain(|edit| edit.name != name);
        self.edits.push(HeaderEdit::set(name, value));
    }

    fn csp(&mut self, directives: &serde_json::Map<String, serde_json::Value>) {
        let mut parts = Vec::new();
        for (directive, sources) in directives {
            let Some(sources) = texts(sources) else {
                self.compiling
                    .error(format!("security.security_headers.csp.{directive}"), "sources are a list of texts");
                continue;
            };
            for weak in
                sources.iter().filter(|source| source.contains("unsafe-inline") || source.contains("unsafe-eval"))
            {
                self.compiling.warn(
                    format!("security.security_headers.csp.{directive}"),
                    format!("`{weak}` takes most of the protection away"),
                );
            }
            let words: Vec<&str> = std::iter::once(directive.as_str()).chain(sources).collect();
            parts.push(words.join(" "));
        }
        self.add("csp", "content-security-policy", &parts.join("; "));
    }

    fn hsts(&mut self, hsts: &Hsts) -> Option<String> {
        const KEY: &str = "security.security_headers.hsts.preload";
        let max_age = hsts.max_age?;
        let is_long = PRELOAD_SECONDS_MIN <= max_age;
        if hsts.preload && !is_long {
            self.compiling.warn(KEY, "preloading needs a max_age of a year; it is left out");
        }
        if hsts.preload && !hsts.include_subdomains {
            self.compiling.warn(KEY, "preloading needs subdomains; they are included");
        }
        let subdomains = if hsts.include_subdomains || hsts.preload { "; includeSubDomains" } else { "" };
        let preload = if hsts.preload && is_long { "; preload" } else { "" };
        Some(format!("max-age={max_age}{subdomains}{preload}"))
    }
}

fn texts(value: &serde_json::Value) -> Option<Vec<&str>> {
    match value {
        serde_json::Value::String(one) => Some(vec![one]),
        serde_json::Value::Array(many) => many.iter().map(serde_json::Value::as_str).collect(),
        serde_json::Value::Null => Some(Vec::new()),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::Object(_) => None,
    }
}

/// A header value: no line breaks, not too long, without other control characters (they are dropped).
pub(crate) fn clean(value: &str) -> Result<String, String> {
    if value.contains(['\r', '\n']) {
        return Err("a header value holds no line break".to_owned());
    }
    if VALUE_CHARS_MAX < value.chars().count() {
        return Err(format!("a header value has at most {VALUE_CHARS_MAX} characters"));
    }
    Ok(value.chars().filter(|char| ' ' <= *char || *char == '\t').collect())
}

/// True for a header name: a token of RFC 9110.
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests;
