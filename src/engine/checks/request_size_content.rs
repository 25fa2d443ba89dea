//! Check 5: declared size and media type of a route's requests.

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection, violation};
use crate::engine::failure::CheckError;
use crate::engine::policy::{Compiling, PerRoute};
use crate::model::check::Check;
use crate::model::event::EventType;

const CHECK: Check = Check::RequestSizeContent;
const DECORATOR: &str = "content_filtering";

#[derive(Debug)]
pub(crate) struct Settings {
    by_route: PerRoute<Rule>,
}

#[derive(Debug, Default)]
struct Rule {
    bytes_max: Option<u64>,
    types: Vec<String>,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let by_route = compiling.per_route(|_, routed| {
            let Some(routed) = routed else { return Rule::default() };
            Rule {
                bytes_max: routed.route.max_request_size.filter(|bytes| *bytes != 0),
                types: routed.route.allowed_content_types.clone().unwrap_or_default(),
            }
        });
        by_route.any(|rule| rule.bytes_max.is_some() || !rule.types.is_empty()).then_some(Self { by_route })
    }
}

pub(crate) fn evaluate<'p>(settings: &'p Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    let rule = settings.by_route.of(cx.route);
    if let Some(bytes_max) = rule.bytes_max
        && let Some(bytes) = content_length(cx)?
        && bytes_max < bytes
    {
        let reason = format!("Request size {bytes} exceeds limit: {bytes_max}");
        cx.report(CHECK, EventType::ContentFiltered, reason.clone(), violation(DECORATOR, "max_request_size"));
        cx.suspect(CHECK, reason, String::new());
        return Ok(Some(Objection::new(413, "Request too large")));
    }
    let sent = media_type(cx);
    if rule.types.is_empty() || rule.types.iter().any(|allowed| allowed.eq_ignore_ascii_case(sent)) {
        return Ok(None);
    }
    let hook = format!("Invalid content type: {sent}");
    let reason = format!("Content type not in allowed types: {}", rule.types.join(", "));
    cx.report(CHECK, EventType::ContentFiltered, reason, violation(DECORATOR, "content_type"));
    cx.suspect(CHECK, hook, String::new());
    Ok(Some(Objection::new(415, "Unsupported content type")))
}

/// The declared length; a chunked body declares none, a length that is no number cannot be judged.
fn content_length(cx: &Cx<'_, '_, '_>) -> Result<Option<u64>, CheckError> {
    let Some(value) = cx.request.headers.get("content-length") else { return Ok(None) };
    let digits = std::str::from_utf8(value).ok().map(str::trim).filter(|text| !text.starts_with('+'));
    match digits.map(str::parse) {
        Some(Ok(bytes)) => Ok(Some(bytes)),
        Some(Err(_)) | None => Err(CheckError::Header("content-length")),
    }
}

/// The media type before any parameter; absent means empty, whatever the method.
fn media_type<'r>(cx: &Cx<'_, '_, 'r>) -> &'r str {
    let value = cx.request.headers.text("content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::engine::tests::testing::{Ask, check, lit, routed};

    #[test]
    fn declared_size_and_type_are_compared() {
        let size = |bytes: u64| routed(json!({"max_request_size": bytes}));
        let types = || routed(lit!({"allowed_content_types": ["application/json"]}));
        const LARGE: &str = "Request too large";
        const TYPE: &str = "Unsupported content type";
        check(&[
            ("at the bound", size(10), Ask::with(&[("content-length", "10")]), 0, ""),
            ("one above", size(10), Ask::with(&[("content-length", "11")]), 413, LARGE),
            ("0 means none", size(0), Ask::with(&[("content-length", "11")]), 0, ""),
            ("no length declared", size(10), Ask::default(), 0, ""),
            ("no number", size(10), Ask::with(&[("content-length", "ten")]), 500, "Security check failed"),
            ("the type", types(), Ask::with(&[("content-type", "application/json")]), 0, ""),
            ("in capitals, with a parameter", types(), Ask::with(&[("content-type", "Application/JSON ; a=b")]), 0, ""),
            ("another type", types(), Ask::with(&[("content-type", "text/plain")]), 415, TYPE),
            ("no type, a GET too", types(), Ask::default(), 415, TYPE),
        ]);
    }
}
