//! Check 6: headers that a route demands.

use std::borrow::Cow;

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Form, Objection, text, violation};
use crate::engine::policy::{Compiling, PerRoute};
use crate::engine::security_headers::is_token;
use crate::model::check::Check;
use crate::model::event::EventType;
use smallvec::SmallVec;

const CHECK: Check = Check::RequiredHeaders;
/// The value that accepts any non-empty one.
const ANY: &str = "required";

#[derive(Debug)]
pub(crate) struct Settings {
    by_route: PerRoute<Vec<Demand>>,
}

#[derive(Debug)]
struct Demand {
    name: String,
    value: Option<String>,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let by_route = compiling.per_route(|compiling, routed| {
            let mut demands = Vec::new();
            let Some(routed) = routed else { return demands };
            for (name, value) in &routed.route.required_headers {
                let value = match value {
                    serde_json::Value::String(text) if is_token(name) => text.clone(),
                    serde_json::Value::Number(number) if is_token(name) => number.to_string(),
                    _ => {
                        let message = "a header name with a text, or the word `required`";
                        compiling.error(routed.key(&format!("required_headers.{name}")), message);
                        continue;
                    }
                };
                demands.push(Demand { name: name.clone(), value: (value != ANY).then_some(value) });
            }
            demands
        });
        by_route.any(|demands| !demands.is_empty()).then_some(Self { by_route })
    }
}

pub(crate) fn evaluate<'p>(settings: &'p Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    for demand in settings.by_route.of(cx.route) {
        let sent = cx.request.headers.get(&demand.name).unwrap_or_default();
        let (cause, reason) = if sent.is_empty() {
            ("missing_header", format!("Missing required header: {}", demand.name))
        } else if demand.value.as_ref().is_some_and(|value| value.as_bytes() != sent) {
            ("mismatched_header", format!("Header '{}' does not match the required value", demand.name))
        } else {
            continue;
        };
        let (decorator, kind) = kind(&demand.name);
        let mut metadata = violation(decorator, kind);
        metadata.push((cause, text(demand.name.as_str())));
        cx.report(CHECK, EventType::DecoratorViolation, reason.clone(), metadata);
        cx.suspect(CHECK, reason.clone(), String::new());
        let body = Cow::Owned(reason);
        return Ok(Some(Objection { status: 400, body, form: Form::Standard, headers: SmallVec::new() }));
    }
    Ok(None)
}

/// How a demand is classified in events.
fn kind(name: &str) -> (&'static str, &'static str) {
    if name.eq_ignore_ascii_case("x-api-key") {
        ("authentication", "api_key_required")
    } else if name.eq_ignore_ascii_case("authorization") {
        ("authentication", "required_header")
    } else {
        ("advanced", "required_header")
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::tests::testing::{Ask, check, lit, routed, wrong};

    #[test]
    fn the_first_missing_or_different_header_is_named() {
        let demand = || routed(lit!({"required_headers": {"X-One": "required", "X-Two": "2"}}));
        check(&[
            ("both there", demand(), Ask::with(&[("x-one", "any"), ("x-two", "2")]), 0, ""),
            ("none", demand(), Ask::default(), 400, "Missing required header: X-One"),
            ("empty", demand(), Ask::with(&[("x-one", "")]), 400, "Missing required header: X-One"),
            ("the second", demand(), Ask::with(&[("x-one", "1")]), 400, "Missing required header: X-Two"),
            (
                "another value",
                demand(),
                Ask::with(&[("x-one", "1"), ("x-two", "3")]),
                400,
                "Header 'X-Two' does not match the required value",
            ),
        ]);
        assert_eq!(wrong(routed(lit!({"required_headers": {"X One": "1"}}))), ["routes[0].required_headers.X One"]);
        assert_eq!(wrong(routed(lit!({"required_headers": {"X-One": []}}))), ["routes[0].required_headers.X-One"]);
    }
}
