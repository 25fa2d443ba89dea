//! Check 9: rules of the route, in CEL, and fields that only a robot fills in.

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Form, Objection, text, violation};
use crate::engine::expression::Program;
use crate::engine::policy::{Compiling, PerRoute};
use crate::model::check::Check;
use crate::model::event::EventType;
use crate::request::path::decode_once;

const CHECK: Check = Check::CustomValidators;

#[derive(Debug)]
pub(crate) struct Settings {
    by_route: PerRoute<Rules>,
    body_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Rules {
    programs: Vec<Program>,
    honeypot: Vec<String>,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let by_route = compiling.per_route(|compiling, routed| {
            let Some(routed) = routed else { return Rules::default() };
            let mut programs = Vec::new();
            for (position, source) in routed.route.custom_validators.iter().enumerate() {
                let key = routed.key(&format!("custom_validators[{position}]"));
                programs.extend(Program::compile(compiling, key, source));
            }
            Rules { programs, honeypot: routed.route.honeypot_fields.clone() }
        });
        let bytes = compiling.config.security.detection_max_body_inspect_bytes;
        let body_bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
        by_route
            .any(|rules| !rules.programs.is_empty() || !rules.honeypot.is_empty())
            .then_some(Self { by_route, body_bytes_max })
    }
}

pub(crate) fn evaluate<'p>(settings: &'p Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    let rules = settings.by_route.of(cx.route);
    for program in &rules.programs {
        if let Some(objection) = program.rule(cx, Form::Verbatim)? {
            let name = program.key().rsplit('.').next().unwrap_or_default();
            report(cx, name);
            return Ok(Some(objection));
        }
    }
    if !is_caught(settings, rules, cx) {
        return Ok(None);
    }
    report(cx, "honeypot");
    Ok(Some(Objection { form: Form::Verbatim, ..Objection::new(403, "Forbidden") }))
}

fn report(cx: &mut Cx<'_, '_, '_>, name: &str) {
    let mut metadata = violation("content_filtering", "custom_validation");
    metadata.push(("validator_name", text(name)));
    cx.report(CHECK, EventType::DecoratorViolation, "Custom validation failed".to_owned(), metadata);
}

/// True when a trap field of a form or a JSON object is filled in. Other bodies cannot be judged and pass.
fn is_caught(settings: &Settings, rules: &Rules, cx: &Cx<'_, '_, '_>) -> bool {
    let is_sending = matches!(cx.request.method, "POST" | "PUT" | "PATCH");
    if rules.honeypot.is_empty() || !is_sending {
        return false;
    }
    let media_type = cx.request.headers.text("content-type").unwrap_or_default().to_ascii_lowercase();
    let bytes = cx.request.body.bytes();
    let body = bytes.get(..settings.body_bytes_max).unwrap_or(bytes);
    if media_type.contains("application/x-www-form-urlencoded") {
        is_form_filled(body, &rules.honeypot)
    } else if media_type.contains("application/json") {
        is_json_filled(body, &rules.honeypot)
    } else {
        false
    }
}

fn is_form_filled(body: &[u8], traps: &[String]) -> bool {
    let body = String::from_utf8_lossy(body);
    let decode = |text: &str| decode_once(&text.replace('+', " ")).into_owned();
    let pairs: Vec<(String, &str)> =
        body.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decode(name), value)).collect();
    // Only the first value of a field counts.
    traps.iter().any(|trap| pairs.iter().find(|(name, _)| name == trap).is_some_and(|(_, value)| !value.is_empty()))
}

fn is_json_filled(body: &[u8], traps: &[String]) -> bool {
    use serde_json::Value;
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else { return false };
    traps.iter().filter_map(|trap| fields.get(trap)).any(|value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_traps_are_seen() {
        let traps = ["website".to_owned(), "fax".to_owned()];
        for (body, expected) in [
            ("name=a&website=", false),
            ("name=a&website=x", true),
            ("fax=1", true),
            ("web%73ite=x", true),
            ("website=&website=x", false),
            ("website", false),
            ("", false),
        ] {
            assert_eq!(is_form_filled(body.as_bytes(), &traps), expected, "{body}");
        }
        for (body, expected) in [
            (r#"{"website":"x"}"#, true),
            (r#"{"website":""}"#, false),
            (r#"{"website":0}"#, false),
            (r#"{"website":false,"fax":null}"#, false),
            (r#"{"fax":[1]}"#, true),
            (r#"{"fax":[]}"#, false),
            (r#"{"a":{"website":"x"}}"#, false),
            (r#"[{"website":"x"}]"#, false),
            (r#"{"website":"x""#, false),
        ] {
            assert_eq!(is_json_filled(body.as_bytes(), &traps), expected, "{body}");
        }
    }
}
