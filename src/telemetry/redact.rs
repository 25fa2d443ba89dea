//! What must not be read in a log. Bodies are never logged at all; headers and query parameters lose their values when
//! their name is sensitive.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::config::security::SecurityConfig;
use crate::request::headers::Headers;

/// Stands for what was removed.
pub const MASK: &str = "[REDACTED]";

/// Headers whose values are never shown.
const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];
/// Query parameters and body fields whose values are never shown.
const PARAMS: [&str; 9] =
    ["access_token", "refresh_token", "api_key", "apikey", "token", "password", "secret", "client_secret", "signature"];
/// Header fields shown in one line.
const HEADERS_MAX: usize = 32;
/// Bytes shown of one header value, and of a path.
const VALUE_BYTES_MAX: usize = 512;

/// Names whose values are not shown, compiled from the configuration. Names are compared without case.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    headers: BTreeSet<String>,
    params: BTreeSet<String>,
}

impl Redaction {
    /// The built-in names and those of the configuration.
    #[must_use]
    pub fn new(config: &SecurityConfig) -> Self {
        let set = |own: &[&str], more: &BTreeSet<String>| {
            own.iter().map(|name| (*name).to_owned()).chain(more.iter().map(|name| name.to_lowercase())).collect()
        };
        Self {
            headers: set(&HEADERS, &config.log_sensitive_headers),
            params: set(&PARAMS, &config.log_sensitive_params),
        }
    }

    /// Path and query, the values of sensitive parameters masked, cut to a bounded length. A name counts as sensitive in
    /// its percent-encoded form too.
    #[must_use]
    pub fn target<'t>(&self, raw: &'t str) -> Cow<'t, str> {
        let raw = cut(raw);
        let Some((path, query)) = raw.split_once('?') else { return Cow::Borrowed(raw) };
        if !query.split('&').any(|pair| self.hides(pair)) {
            return Cow::Borrowed(raw);
        }
        let mut shown = String::with_capacity(raw.len());
        shown.push_str(path);
        for (index, pair) in query.split('&').enumerate() {
            shown.push(if index == 0 { '?' } else { '&' });
            match pair.split_once('=') {
                Some((name, _)) if self.hides(pair) => shown.extend([name, "=", MASK]),
                Some(_) | None => shown.push_str(pair),
            }
        }
        Cow::Owned(shown)
    }

    fn hides(&self, pair: &str) -> bool {
        pair.split_once('=').is_some_and(|(name, _)| self.params.contains(&decoded(name).to_lowercase()))
    }

    /// Header fields as `name: value` pairs, sensitive values masked, bytes that are no text replaced.
    #[must_use]
    pub fn headers(&self, headers: &Headers<'_>) -> String {
        let mut shown = String::new();
        for field in headers.iter().take(HEADERS_MAX) {
            let is_sensitive = self.headers.contains(&field.name.to_lowercase());
            let value = if is_sensitive { Cow::Borrowed(MASK) } else { String::from_utf8_lossy(field.value) };
            shown.extend([if shown.is_empty() { "" } else { "; " }, field.name, ": ", cut(&value)]);
        }
        shown
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or_default()
}

/// A parameter name without percent encoding, as far as it decodes to text.
fn decoded(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return Cow::Borrowed(name);
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        let digits = (*first == b'%').then(|| more.split_first_chunk::<2>()).flatten();
        let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        match digits.and_then(|([high, low], after)| Some((hex(*high)? << 4 | hex(*low)?, after))) {
            Some((byte, after)) => {
                bytes.push(byte);
                rest = after;
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(name), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction() -> Redaction {
        Redaction::new(&SecurityConfig {
            log_sensitive_headers: BTreeSet::from(["X-Internal".to_owned()]),
            log_sensitive_params: BTreeSet::from(["Session".to_owned()]),
            ..SecurityConfig::default()
        })
    }

    #[test]
    fn sensitive_parameters_are_masked() {
        for (raw, expected) in [
            ("/a", "/a"),
            ("/a?b=c", "/a?b=c"),
            ("/a?token=1&b=2", "/a?token=[REDACTED]&b=2"),
            ("/a?b=2&PassWord=x=y", "/a?b=2&PassWord=[REDACTED]"),
            ("/a?session=1", "/a?session=[REDACTED]"),
            ("/a?to%6ben=1", "/a?to%6ben=[REDACTED]"),
            ("/a?token", "/a?token"),
            ("/a?%zz=1&%=2&token=", "/a?%zz=1&%=2&token=[REDACTED]"),
            ("/token=1?tokens=1", "/token=1?tokens=1"),
        ] {
            assert_eq!(redaction().target(raw), expected, "{raw}");
        }
        assert_eq!(redaction().target(&"/ä".repeat(1000)).len(), 511, "cut between characters");
    }

    #[test]
    fn sensitive_headers_are_masked() {
        let fields: [(&str, &[u8]); 4] =
            [("accept", b"*/*"), ("authorization", b"Bearer x"), ("x-internal", b"y"), ("x-bytes", b"\xff")];
        let shown = redaction().headers(&fields.into_iter().collect());
        assert_eq!(shown, "accept: */*; authorization: [REDACTED]; x-internal: [REDACTED]; x-bytes: \u{fffd}");
        let many: Vec<(&str, &[u8])> = vec![("a", b"b"); 100];
        assert_eq!(redaction().headers(&many.into_iter().collect()).matches("a: b").count(), HEADERS_MAX);
    }
}
