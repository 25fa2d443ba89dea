//! What a text must look like, by the name that stands under `format` in the schema.
//!
//! A format is a marker type: a field names it in `#[schemars(with = "…")]`, and the loader runs its check on every
//! text that the schema gives that format, wherever it stands.

use std::net::{IpAddr, SocketAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::config::nearest::nearest;
use crate::config::opinion::Opinion::{self, Bad, Dropped, Good, Odd, Unknown};
use crate::config::opinion::brief;
use crate::config::patterns;
use crate::model::addr::IpEntry;
use crate::model::category::Category;
use crate::model::check::Check;
use crate::model::event::EventType;

macro_rules! formats {
    (
        $($kind:ident = $name:literal, $summary:literal, $check:expr;)+
        @ keys: $($key:literal, $about:literal, $opinion:expr;)+
    ) => {
        $(pub(crate) struct $kind;

        impl JsonSchema for $kind {
            fn inline_schema() -> bool { true }
            fn schema_name() -> std::borrow::Cow<'static, str> { $name.into() }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $name, "description": $summary })
            }
        })+

        /// The check of the format called `name`; formats of others (`uint32`, …) have none here.
        pub(crate) fn check(name: &str) -> Option<fn(&str) -> Opinion> {
            match name { $($name => Some($check),)+ $($key => Some($opinion),)+ _ => None }
        }

        /// What the format called `name` accepts, in a few words.
        pub(crate) fn summary(name: &str) -> Option<&'static str> {
            match name { $($name => Some($summary),)+ $($key => Some($about),)+ _ => None }
        }
    };
}

formats! {
    Address = "address", "an IPv4 or IPv6 address, or a CIDR range", address;
    Proxy = "proxy", "an address, a CIDR range, or the word `unix`", proxy;
    Country = "country", "a two-letter country code, in any case", country;
    Cloud = "cloud", "AWS, GCP, Azure, DigitalOcean, Linode or Vultr; `AWS:!eu-west-1` leaves a region out", cloud;
    CategoryName = "category", "one of the 19 detection categories", category;
    CheckName = "check", "one of the 17 checks", |text| word(text, Check::ALL.iter().map(|check| check.name()));
    EventName = "event", "one of the 39 event types", |text| word(text, EventType::ALL.iter().map(|event| event.name()));
    MetricName = "metric", "response_time, request_count or error_rate",
        |text| word(text, ["response_time", "request_count", "error_rate"]);
    BypassName = "bypass", "all, ip_ban, ip, clouds, rate_limit or penetration",
        |text| word(text, ["all", "ip_ban", "ip", "clouds", "rate_limit", "penetration"]);
    AgentPattern = "user-agent-pattern", "a regular expression, case ignored", patterns::user_agent;
    Pattern = "pattern", "a regular expression that is not empty, case ignored", patterns::custom;
    PathRegex = "path-regex", "a regular expression in RE2 syntax over the whole path", patterns::path_regex;
    Template = "template", "a path whose segments may be `{name}`, the last one `{name...}`", patterns::template;
    Path = "path", "a path from `/`", patterns::path;
    ExcludePath = "exclude-path", "a path; its whole subtree is meant", patterns::exclude_path;
    ReturnPattern = "return-pattern", "`status:404`, `json:path==value`, `regex:…` or plain text", patterns::returns;
    Host = "host", "a host name without port; `*.example.com` covers subdomains", host;
    Referrer = "referrer", "a host name, which covers its subdomains, or a URL", referrer;
    Method = "method", "an HTTP method", |text| token(text, "an HTTP method");
    Scheme = "scheme", "an authentication scheme, case ignored", |text| token(text, "an authentication scheme");
    HeaderName = "header-name", "a header name", |text| token(text, "a header name");
    HeaderValue = "header-value", "a header value: one line, at most 8192 characters", header_value;
    MediaType = "media-type", "a media type such as `application/json`, case ignored", media_type;
    LimitName = "limit-name", "letters, digits, `-`, `_` and `.`, at most 64", limit_name;
    LimitKey = "limit-key", "`client`, `network`, `route`, `country`, `method`, `path`, `api_key`, `header:NAME` or `cel:EXPRESSION`", limit_key;
    Name = "name", "a name that is not empty", name;
    Clock = "clock", "a time of day, `HH:MM`", clock;
    Zone = "zone", "an IANA time zone such as `Europe/Paris`", zone;
    Expression = "cel", "a CEL expression", expression;
    RedisLocation = "redis-url", "a URL that starts with redis://, rediss://, redis+unix:// or unix://", redis_url;
    Url = "url", "a URL that starts with http:// or https://", url;
    Source = "source", "a path, or a URL that starts with http://, https:// or file:///", source;
    Socket = "socket", "an IP address with a port, such as `127.0.0.1:50051`", socket;
    FileMode = "file-mode", "a file mode in octal digits, such as `0660`", file_mode;
    PeerName = "peer-name", "a DNS name, `*.example.com`, an address, a URI, or `spiffe://trust-domain/*`", peer_name;
    NonBlank = "non-blank", "a text that is not blank", non_blank;
    LogFilter = "log-filter", "a filter such as `info,envoy_guard=debug`", non_blank;
    @ keys:
    "provider", "AWS, GCP, Azure, DigitalOcean, Linode or Vultr", provider;
    "country-or-any", "a two-letter country code, or `*`", country_or_any;
    "ban-category", "one of the 19 detection categories, or `rate_limit`", ban_category;
    "credential", "`sha256:` and 64 hexadecimal digits", credential;
    "status", "an HTTP status code from 100 to 599", status;
}

/// Longest header value, in characters.
pub(crate) const HEADER_VALUE_MAX: usize = 8192;
/// Longest CEL expression, in bytes.
const EXPRESSION_MAX: usize = 16 * 1024;
/// The providers whose ranges are published.
const CLOUDS: [&str; 6] = ["AWS", "GCP", "Azure", "DigitalOcean", "Linode", "Vultr"];
/// Status codes that Envoy's `StatusCode` enumeration holds; no other can be sent.
const SENDABLE: [std::ops::RangeInclusive<u16>; 9] =
    [100..=100, 200..=208, 226..=226, 300..=305, 307..=308, 400..=417, 421..=424, 426..=431, 500..=511];
/// Of those ranges, the codes that are missing all the same.
const UNSENDABLE: [u16; 3] = [427, 430, 509];
/// Codes that the service ever answers with a text of its own.
const ANSWERED: [u16; 8] = [400, 401, 403, 413, 415, 429, 500, 503];

/// True when Envoy can send `code` for us.
pub(crate) fn sendable(code: u16) -> bool {
    SENDABLE.iter().any(|range| range.contains(&code)) && !UNSENDABLE.contains(&code)
}

fn word<'w>(text: &str, known: impl IntoIterator<Item = &'w str>) -> Opinion {
    let known: Vec<&str> = known.into_iter().collect();
    if known.contains(&text) {
        return Good;
    }
    let hint = nearest(text, known.iter().copied()).map(str::to_owned);
    Unknown(format!("`{}` is not among {}", brief(text), known.join(", ")), hint)
}

fn address(text: &str) -> Opinion {
    match text.parse::<IpEntry>() {
        Ok(entry) if entry.is_everything() => Odd(format!("`{text}` covers every address of its family")),
        Ok(_) => Good,
        Err(_) => Bad(format!("Invalid IP or CIDR range: {}", brief(text))),
    }
}

fn proxy(text: &str) -> Opinion {
    match address(text) {
        _ if text == "unix" => Good,
        Bad(_) => Bad(format!("Invalid proxy IP or CIDR range: {}", brief(text))),
        other => other,
    }
}

fn country(text: &str) -> Opinion {
    match text.len() {
        0 => Bad("a country code must not be empty".to_owned()),
        2 if text.bytes().all(|byte| byte.is_ascii_alphabetic()) => Good,
        _ => Odd(format!("`{}` is not a two-letter country code and matches no country", brief(text))),
    }
}

fn country_or_any(text: &str) -> Opinion {
    if text == "*" { Good } else { country(text) }
}

fn cloud(text: &str) -> Opinion {
    let (provider, region) = text.split_once(':').map_or((text, None), |(name, region)| (name, Some(region)));
    if !CLOUDS.contains(&provider) {
        let hint = nearest(provider, CLOUDS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return Dropped(format!("unknown cloud provider `{}` is left out{hint}", brief(provider)));
    }
    match region {
        None => Good,
        Some(region) if region.len() < 2 || !region.starts_with('!') => {
            Dropped(format!("`{}` is left out: a region is written `{provider}:!region`", brief(text)))
        }
        Some(_) if matches!(provider, "AWS" | "GCP") => Good,
        Some(_) => Odd(format!("{provider} publishes no regions, so `{}` leaves nothing out", brief(text))),
    }
}

fn category(text: &str) -> Opinion {
    word(text, Category::all().map(Category::name))
}

fn ban_category(text: &str) -> Opinion {
    word(text, Category::all().chain([Category::RATE_LIMIT]).map(Category::name))
}

/// The characters of RFC 9110 tokens.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

fn token(text: &str, what: &str) -> Opinion {
    if !text.is_empty() && text.bytes().all(is_token) {
        return Good;
    }
    Bad(format!("`{}` is not {what}", brief(text)))
}

fn header_value(text: &str) -> Opinion {
    if text.contains(['\r', '\n', '\0']) {
        return Bad("a header value must not hold a line break".to_owned());
    }
    if HEADER_VALUE_MAX < text.chars().count() {
        return Bad(format!("a header value must not be longer than {HEADER_VALUE_MAX} characters"));
    }
    if text.chars().any(|c| (c < ' ' && c != '\t') || c == '\x7f') {
        return Odd("control characters are taken out of this header value".to_owned());
    }
    Good
}

fn media_type(text: &str) -> Opinion {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let good = essence.split_once('/').is_some_and(|(kind, subtype)| {
        [kind, subtype].iter().all(|part| !part.is_empty() && part.bytes().all(is_token))
    });
    if good { Good } else { Bad(format!("`{}` is not a media type such as `application/json`", brief(text))) }
}

fn host(text: &str) -> Opinion {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if text == "*" || address || name.trim_end_matches('.').split('.').all(label) {
        return Good;
    }
    Bad(format!("`{}` is not a host name (no scheme, no port, `*.` only in front)", brief(text)))
}

fn referrer(text: &str) -> Opinion {
    let place = text.split_once("://").map_or(text, |(_, rest)| rest);
    let place = place.split('/').next().unwrap_or_default();
    if place.is_empty() || place.contains(char::is_whitespace) {
        return Bad(format!("`{}` names no host", brief(text)));
    }
    Good
}

fn name(text: &str) -> Opinion {
    if text.trim().is_empty() {
        return Bad("a name must not be empty".to_owned());
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        return Bad("a name must not begin or end with a space, nor hold control characters".to_owned());
    }
    Good
}

fn limit_name(text: &str) -> Opinion {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(good) {
        return Good;
    }
    Bad(format!("`{}` is not a name of letters, digits, `-`, `_` and `.`", brief(text)))
}

/// The plain parts of a limit's key.
const LIMIT_KEYS: [&str; 7] = ["client", "network", "route", "country", "method", "path", "api_key"];

fn limit_key(text: &str) -> Opinion {
    match text.split_once(':') {
        Some(("header", name)) => token(name, "a header name"),
        Some(("cel", source)) => expression(source),
        _ => word(text, LIMIT_KEYS),
    }
}

fn non_blank(text: &str) -> Opinion {
    if text.trim().is_empty() { Bad("must not be blank".to_owned()) } else { Good }
}

/// Minutes since midnight of `HH:MM`.
pub(crate) fn minutes(text: &str) -> Option<u16> {
    let [h1, h2, b':', m1, m2] = text.as_bytes() else { return None };
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let (hours, minutes) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

fn clock(text: &str) -> Opinion {
    if minutes(text).is_some() {
        return Good;
    }
    Bad(format!("`{}` is not a time of day from 00:00 to 23:59, written `HH:MM`", brief(text)))
}

fn zone(text: &str) -> Opinion {
    if text == "UTC" || jiff::tz::db().get(text).is_ok() {
        return Good;
    }
    let known: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
    let hint = nearest(text, known.iter().map(String::as_str)).map(str::to_owned);
    Unknown(format!("`{}` is not an IANA time zone", brief(text)), hint)
}

fn expression(text: &str) -> Opinion {
    if text.trim().is_empty() {
        return Bad("a CEL expression must not be empty".to_owned());
    }
    if EXPRESSION_MAX < text.len() {
        return Bad(format!("a CEL expression must not be longer than {EXPRESSION_MAX} bytes"));
    }
    Good
}

/// Never quotes the text: it may hold a password.
fn redis_url(text: &str) -> Opinion {
    let rest =
        ["redis://", "rediss://", "redis+unix://", "unix://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains(char::is_whitespace) => Good,
        _ => Bad("must be a URL that starts with redis://, rediss://, redis+unix:// or unix://".to_owned()),
    }
}

/// Never quotes the text: it may hold a token.
fn url(text: &str) -> Opinion {
    let rest = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace) => Good,
        _ => Bad("must be a URL that starts with http:// or https://".to_owned()),
    }
}

/// User information is refused: a place is shown in logs and pages, and a secret is no part of one.
fn source(text: &str) -> Opinion {
    if text.starts_with("http://") || text.starts_with("https://") {
        let authority = text.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
        if authority.is_some_and(|authority| authority.contains('@')) {
            return Bad("must not hold user information; give a token where there is one to give".to_owned());
        }
        return url(text);
    }
    match text.split_once("://") {
        Some(("file", path)) if path.starts_with('/') => Good,
        Some(_) => Bad("must be a path, or a URL that starts with http://, https:// or file:///".to_owned()),
        None => non_blank(text),
    }
}

fn provider(text: &str) -> Opinion {
    word(text, CLOUDS.iter().copied())
}

fn socket(text: &str) -> Opinion {
    if text.parse::<SocketAddr>().is_ok() {
        return Good;
    }
    Bad(format!("`{}` is not an IP address with a port, such as `127.0.0.1:50051`", brief(text)))
}

fn file_mode(text: &str) -> Opinion {
    let good = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    if good { Good } else { Bad(format!("`{}` is not a file mode of three or four octal digits", brief(text))) }
}

fn peer_name(text: &str) -> Opinion {
    match text.parse::<crate::config::peer::PeerName>() {
        Ok(_) => Good,
        Err(error) => Bad(format!("`{}` {error}", brief(text))),
    }
}

/// Never quotes the text: it is a credential's hash.
fn credential(text: &str) -> Opinion {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Good;
    }
    Bad("a credential is written as `sha256:` and 64 hexadecimal digits".to_owned())
}

fn status(text: &str) -> Opinion {
    match text.parse::<u16>() {
        Ok(code) if !(100..=599).contains(&code) => Bad(format!("{code} is not a status code from 100 to 599")),
        Ok(code) if !sendable(code) => Odd(format!("Envoy cannot send status {code}; 403 is sent instead")),
        Ok(code) if !ANSWERED.contains(&code) => Odd(format!("no check answers with status {code} by itself")),
        Ok(_) => Good,
        Err(_) => Bad(format!("`{}` is not a status code", brief(text))),
    }
}

#[cfg(test)]
mod tests;
