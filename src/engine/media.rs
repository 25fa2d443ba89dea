//! The body of a refusal in the form that the client prefers: HTML, JSON (RFC 9457) or plain text.

use std::borrow::Cow;

use crate::engine::reply::TEXT;
use crate::request::Request;

const HTML: &str = "text/html; charset=utf-8";
const PROBLEM: &str = "application/problem+json";
/// Media ranges of an Accept header that are looked at.
const RANGES_MAX: usize = 32;

/// A form that we can write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Plain,
    Html,
    Problem,
}

/// Writes `body` in the form that the request's Accept header prefers; returns its media type too.
pub(crate) fn write<'p>(request: &Request<'_>, status: u16, body: Cow<'p, str>) -> (&'static str, Cow<'p, str>) {
    match preferred(request.headers.all("accept").filter_map(|value| std::str::from_utf8(value).ok())) {
        Form::Plain => (TEXT, body),
        Form::Html => (HTML, Cow::Owned(html(status, &body, request.shared_id()))),
        Form::Problem => (PROBLEM, Cow::Owned(problem(status, &body, request.shared_id()))),
    }
}

/// The form with the highest weight; the one named first of equals. What names none of ours is plain text.
fn preferred<'a>(values: impl Iterator<Item = &'a str>) -> Form {
    let mut best = (Form::Plain, 0.0);
    for range in values.flat_map(|value| value.split(',')).take(RANGES_MAX) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |text| text.parse::<f64>().unwrap_or(0.0).clamp(0.0, 1.0));
        let form = match media.as_str() {
            "text/html" | "application/xhtml+xml" => Form::Html,
            "application/json" | "application/*" => Form::Problem,
            "text/plain" | "text/*" | "*/*" => Form::Plain,
            json if json.starts_with("application/") && json.ends_with("+json") => Form::Problem,
            _ => continue,
        };
        if best.1 < weight {
            best = (form, weight);
        }
    }
    best.0
}

fn html(status: u16, body: &str, id: Option<&str>) -> String {
    let title = title(status);
    let text = escaped(body);
    let id = id.map(|id| format!("<p>Request <code>{}</code></p>", escaped(id))).unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {title}</title></head>\
         <body><h1>{title}</h1><p>{text}</p>{id}</body></html>\n"
    )
}

/// Text that stands in HTML as itself.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn problem(status: u16, body: &str, id: Option<&str>) -> String {
    let mut problem =
        serde_json::json!({"type": "about:blank", "title": title(status), "status": status, "detail": body});
    if let (Some(id), Some(fields)) = (id, problem.as_object_mut()) {
        fields.insert("request_id".to_owned(), id.into());
    }
    problem.to_string()
}

/// The phrase of a status that refusals have.
const fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        300..400 => "Redirection",
        501 | 504.. => "Server Error",
        _ => "Request Refused",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::engine::tests::testing::{Ask, lit, once, policy};
    use crate::model::decision::Verdict;

    #[test]
    fn the_client_chooses() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Form::Html),
            ("application/json", Form::Problem),
            ("application/problem+json, text/html;q=0.5", Form::Problem),
            ("text/html;q=0.2, application/json; q=0.9", Form::Problem),
            ("application/vnd.api+json", Form::Problem),
            ("*/*", Form::Plain),
            ("text/plain;q=0.1", Form::Plain),
            ("text/html;q=0", Form::Plain),
            ("image/png", Form::Plain),
            ("", Form::Plain),
            (";;,,q=;text/html;q=x", Form::Plain),
        ] {
            assert_eq!(preferred([accept].into_iter()), expected, "{accept}");
        }
    }

    fn refusal(settings: Value, accept: &str) -> (Option<&'static str>, String) {
        refusal_of(settings, &[("accept", accept)])
    }

    fn refusal_of(settings: Value, headers: &[(&str, &str)]) -> (Option<&'static str>, String) {
        let policy = policy(settings);
        let decision = once(&policy, Ask::with(headers));
        match &decision.verdict {
            Verdict::Deny(denial) => (denial.content_type, denial.body.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bodies_are_negotiated_when_that_is_on() {
        let settings = |form: &str| {
            let mut text = lit!({"security": {"blacklist": ["203.0.113.7"], "custom_error_responses": {"403": "<no> & \"never\""}}});
            text["responses"] = json!({"bodies": form});
            text
        };
        assert_eq!(refusal(settings("plain"), "text/html").0, Some(TEXT));
        let (media, body) = refusal(settings("negotiated"), "text/html");
        assert!(media == Some(HTML) && body.contains("&lt;no&gt; &amp; &quot;never&quot;"), "{body}");
        let (media, body) = refusal(settings("negotiated"), "application/json");
        let expected =
            json!({"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "<no> & \"never\""});
        assert_eq!((media, serde_json::from_str::<Value>(&body).unwrap()), (Some(PROBLEM), expected));
        let with_id = |accept, id| refusal_of(settings("negotiated"), &[("accept", accept), ("x-request-id", id)]).1;
        let body: Value = serde_json::from_str(&with_id("application/json", "0a-1b")).unwrap();
        assert_eq!(body["request_id"], "0a-1b", "the id to ask an operator about");
        assert!(with_id("text/html", "<0a>").contains("Request <code>&lt;0a&gt;</code>"));
        assert!(!with_id("text/html", "two words").contains("two words"), "no id that could not be one");
        let plain = || (Some(TEXT), "<no> & \"never\"".to_owned());
        assert_eq!(refusal(settings("negotiated"), "*/*"), plain());
        for media in ["application/grpc", "application/grpc-web+proto", "application/grpc-web-text"] {
            let call = [("content-type", media), ("accept", "application/json")];
            assert_eq!(refusal_of(settings("negotiated"), &call), plain(), "{media}: the body becomes a message");
        }
    }
}
