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
