//! Check 17: the policy's last word, in CEL.

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Form, int, text};
use crate::engine::expression::Program;
use crate::engine::policy::Compiling;
use crate::model::check::Check;
use crate::model::event::EventType;

const CHECK: Check = Check::CustomRequest;
const KEY: &str = "security.custom_request_check";

#[derive(Debug)]
pub(crate) struct Settings {
    program: Program,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let source = compiling.config.security.custom_request_check.as_ref()?;
        Program::compile(compiling, KEY.to_owned(), source).map(|program| Self { program })
    }
}

pub(crate) fn evaluate<'p>(settings: &'p Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    let Some(objection) = settings.program.rule(cx, Form::Bare)? else { return Ok(None) };
    let metadata = vec![("response_status", int(objection.status)), ("check_function", text("custom_request_check"))];
    let reason = "Custom request check returned blocking response".to_owned();
    cx.report(CHECK, EventType::CustomRequestCheck, reason, metadata);
    Ok(Some(objection))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::engine::tests::testing::{Ask, check, events, header, once, policy, wrong};

    #[test]
    fn expressions_rule() {
        let rule = |source: &str| json!({"security": {"custom_request_check": source}});
        let ask = Ask {
            method: "POST",
            target: "/a%20b?x=1&x=2&y=%2B+",
            peer: "81.0.0.1",
            scheme: "https",
            headers: &[("x-one", "1"), ("x-one", "2")],
            body: "body",
            route: None,
        };
        const FAILED: &str = "Security check failed";
        for (source, status, body) in [
            ("false", 0, ""),
            ("null", 0, ""),
            ("true", 403, "Forbidden"),
            ("{'status': 451, 'body': 'no', 'headers': {'X-Why': 'law'}}", 451, "no"),
            ("{}", 403, "Forbidden"),
            ("{'status': 200}", 500, FAILED),
            ("{'body': 1}", 500, FAILED),
            ("{'headers': {'X-Why': 'a\\nb'}}", 500, FAILED),
            ("'text'", 500, FAILED),
            ("1", 500, FAILED),
            ("request.nothing == 1", 500, FAILED),
            ("1 / 0 == 1", 500, FAILED),
            ("request.method == 'POST'", 403, "Forbidden"),
            ("request.path == '/a b'", 403, "Forbidden"),
            ("request.raw_path == '/a%20b?x=1&x=2&y=%2B+'", 403, "Forbidden"),
            ("request.query.x == ['1', '2'] && request.query.y[0] == '+ '", 403, "Forbidden"),
            ("request.headers['x-one'] == '1, 2'", 403, "Forbidden"),
            ("request.scheme == 'https' && request.host == 'example.com'", 403, "Forbidden"),
            ("request.body == b'body' && !request.body_truncated", 403, "Forbidden"),
            ("request.client_ip == '81.0.0.1' && client.ip == request.client_ip", 403, "Forbidden"),
            ("request.country == 'DE' && client.country == 'DE'", 403, "Forbidden"),
            ("!client.is_whitelisted && !client.is_exempt && route.id == ''", 403, "Forbidden"),
            ("now == timestamp('2026-11-21T12:00:00Z')", 403, "Forbidden"),
            ("request.headers.exists(name, name == 'x-one')", 403, "Forbidden"),
        ] {
            check(&[(source, rule(source), ask, status, body)]);
        }
        let policy = policy(rule("{'headers': {'X-Why': 'law'}}"));
        let decision = once(&policy, ask);
        assert_eq!(header(&decision, "x-why"), Some("law"));
        assert_eq!(header(&decision, "x-frame-options"), None, "the answer is the rule's own");
        assert_eq!(events(&decision), [("custom_request_check", "request_blocked")]);
        assert!(decision.blocks.is_empty());
    }

    #[test]
    fn bad_expressions_are_found_when_the_policy_is_compiled() {
        for source in ["request.", "requst.path == ''", "nofunction(1)", "credential == ''", "'open"] {
            let text = json!({"security": {"custom_request_check": source}});
            assert_eq!(wrong(text), ["security.custom_request_check"], "{source}");
        }
    }
}
