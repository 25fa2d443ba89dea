//! Reports of browsers about violations of a Content-Security-Policy: taken on configured paths, reported, answered 204.

use std::borrow::Cow;

use serde_json::Value;
use smallvec::SmallVec;

use crate::engine::cx::{Cx, Objection, text};
use crate::engine::policy::Compiling;
use crate::model::check::Check;
use crate::model::decision::{Denial, Fact, FactValue, Origin, Verdict};
use crate::model::event::EventType;
use crate::request::path::normalise;
use crate::request::{Body, Request};

/// Violations of one message that are reported.
const VIOLATIONS_MAX: usize = 20;
/// Characters of one field that are kept.
const FIELD_CHARS_MAX: usize = 1024;

/// Where reports are taken.
#[derive(Debug)]
pub(crate) struct CspReports {
    paths: Vec<String>,
    bytes_max: usize,
}

/// One violation, in guard-core's words.
#[derive(Debug, PartialEq)]
struct Violation {
    document: String,
    directive: String,
    blocked: String,
    source: Option<String>,
    line: Option<i64>,
}

impl CspReports {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let config = &compiling.config.responses;
        Self {
            paths: config.csp_report_paths.iter().map(|path| normalise(path).path.into_owned()).collect(),
            bytes_max: usize::try_from(config.csp_report_max_bytes).unwrap_or(usize::MAX),
        }
    }

    /// True for a report: it is answered here, whatever it holds.
    pub(crate) fn takes(&self, request: &Request<'_>, path: &str) -> bool {
        !self.paths.is_empty() && request.method == "POST" && self.paths.iter().any(|own| own == path)
    }
}

/// Answers a report that passed the checks: 204 when it can be read, or when Envoy was not told to show its body.
pub(crate) fn answer<'p>(cx: &mut Cx<'_, 'p, '_>) -> Verdict<'p> {
    let policy = cx.policy;
    match take(cx) {
        Ok(violations) => {
            violations.into_iter().for_each(|violation| cx.record(violation.fact()));
            Verdict::Deny(Denial {
                origin: Origin::CspReport,
                status: 204,
                body: Cow::Borrowed(""),
                content_type: None,
                headers: SmallVec::new(),
            })
        }
        Err((status, body)) => {
            Verdict::Deny(policy.replies.denial(cx, Origin::CspReport, Objection::new(status, body)))
        }
    }
}

/// Reads the violations of a report, or says which status it gets.
fn take(cx: &Cx<'_, '_, '_>) -> Result<Vec<Violation>, (u16, &'static str)> {
    let media = cx.request.headers.text("content-type").unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let read = match media.as_str() {
        "application/csp-report" => read_single,
        "application/reports+json" => read_list,
        _ => return Err((415, "Unsupported content type")),
    };
    let bytes = match cx.request.body {
        Body::Absent => return Ok(Vec::new()),
        Body::Partial(_) => return Err((413, "Request too large")),
        Body::Complete(bytes) if cx.policy.csp.bytes_max < bytes.len() => return Err((413, "Request too large")),
        Body::Complete(bytes) => bytes,
    };
    serde_json::from_slice(bytes).ok().and_then(|value| read(&value)).ok_or((400, "Invalid report"))
}

/// The form that browsers send for `report-uri`.
fn read_single(value: &Value) -> Option<Vec<Violation>> {
    let report = value.get("csp-report")?;
    let violation = Violation {
        document: address(report.get("document-uri")?)?,
        directive: word(report.get("violated-directive")?)?,
        blocked: address(report.get("blocked-uri")?)?,
        source: report.get("source-file").and_then(address),
        line: report.get("line-number").and_then(Value::as_i64),
    };
    Some(vec![violation])
}

/// The form that browsers send for `report-to`. Reports about other things are passed over.
fn read_list(value: &Value) -> Option<Vec<Violation>> {
    let reports = value.as_array()?;
    let of_csp = reports.iter().filter(|report| report.get("type").and_then(Value::as_str) == Some("csp-violation"));
    of_csp
        .take(VIOLATIONS_MAX)
        .map(|report| {
            let body = report.get("body")?;
            Some(Violation {
                document: address(body.get("documentURL")?)?,
                directive: word(body.get("effectiveDirective")?)?,
                blocked: body.get("blockedURL").and_then(address).unwrap_or_default(),
                source: body.get("sourceFile").and_then(address),
                line: body.get("lineNumber").and_then(Value::as_i64),
            })
        })
        .collect()
}

/// A text without control characters, cut.
fn word(value: &Value) -> Option<String> {
    Some(value.as_str()?.chars().filter(|letter| !letter.is_control()).take(FIELD_CHARS_MAX).collect())
}

/// An address without what may be secret in it: query, fragment, credentials.
fn address(value: &Value) -> Option<String> {
    let text = word(value)?;
    let shown = text.split(['?', '#']).next().unwrap_or_default();
    Some(match shown.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => shown.to_owned(),
    })
}

impl Violation {
    fn fact(self) -> Fact {
        Fact {
            event: EventType::CspViolation,
            action: "logged".into(),
            check: Check::RouteConfig,
            reason: format!("CSP violation: {} blocked {} on {}", self.directive, self.blocked, self.document),
            metadata: vec![
                ("document_uri", text(self.document)),
                ("violated_directive", text(self.directive)),
                ("blocked_uri", text(self.blocked)),
                ("source_file", text(self.source.unwrap_or_else(|| "None".to_owned()))),
                ("line_number", self.line.map_or(FactValue::Null, FactValue::Int)),
            ],
            handler: "security_headers",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::engine::tests::testing::{Ask, events, lit, once, policy, short};
    use crate::model::decision::FactValue;

    const OLD: &str = "application/csp-report";
    const NEW: &str = "application/reports+json; charset=utf-8";

    fn settings() -> Value {
        lit!({"responses": {"csp_report_paths": ["/csp"], "csp_report_max_bytes": 256}})
    }

    use serde_json::Value;

    fn ask<'a>(headers: &'a [(&'a str, &'a str)], body: &'a str) -> Ask<'a> {
        Ask { method: "POST", target: "/csp", headers, body, ..Ask::default() }
    }

    #[test]
    fn reports_are_validated() {
        let policy = policy(settings());
        let single = r#"{"csp-report":{"document-uri":"https://u:p@a.example/x?token=1","violated-directive":"script-src","blocked-uri":"inline","script-sample":"<script>alert(1)</script>"}}"#;
        let list = r#"[{"type":"csp-violation","body":{"documentURL":"https://a/","effectiveDirective":"img-src","lineNumber":7}},{"type":"other"}]"#;
        let large = format!("{single}{}", " ".repeat(200));
        for (name, media, body, status, count) in [
            ("the old form", OLD, single, 204, 1),
            ("the new form", NEW, list, 204, 1),
            ("no body is shown", OLD, "", 204, 0),
            ("another media type", "application/json", single, 415, 0),
            ("the wrong form", OLD, list, 400, 0),
            ("no JSON", OLD, "x", 400, 0),
            ("a field is missing", OLD, r#"{"csp-report":{"document-uri":"x"}}"#, 400, 0),
            ("too large", OLD, &large, 413, 0),
        ] {
            let decision = once(&policy, ask(&[("content-type", media)], body));
            assert_eq!((short(&decision).0, decision.facts.len()), (status, count), "{name}");
        }
        let decision = once(&policy, ask(&[("content-type", OLD)], single));
        assert_eq!(events(&decision), [("csp_violation", "logged")]);
        let fact = decision.facts.first().unwrap();
        assert_eq!(fact.metadata[0].1, FactValue::Text("https://a.example/x".to_owned()), "nothing secret is kept");
        assert_eq!(fact.metadata[4], ("line_number", FactValue::Null));
    }

    #[test]
    fn a_report_passes_the_checks_and_nothing_else_is_taken() {
        let mut text = settings();
        text["security"] = json!({"blacklist": ["203.0.113.7"]});
        let banned = policy(text);
        let headers = [("content-type", OLD)];
        assert_eq!(short(&once(&banned, ask(&headers, "{}"))).0, 403);
        let policy = policy(settings());
        for other in [Ask { method: "GET", ..ask(&headers, "") }, Ask { target: "/csp/x", ..ask(&headers, "{}") }] {
            assert_eq!(short(&once(&policy, other)).0, 0);
        }
    }
}
