//! Check 2: in lockdown only the addresses of the emergency list pass.

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection, int};
use crate::engine::policy::Compiling;
use crate::model::check::Check;
use crate::model::decision::FactValue;
use crate::model::event::EventType;
use crate::model::nets::IpSet;

const CHECK: Check = Check::EmergencyMode;

#[derive(Debug)]
pub(crate) struct Settings {
    allowed: IpSet,
}

impl Settings {
    pub(crate) fn compile(compiling: &Compiling<'_>) -> Option<Self> {
        let security = &compiling.config.security;
        security.emergency_mode.then(|| Self { allowed: security.emergency_whitelist.iter().collect() })
    }
}

pub(crate) fn evaluate<'p>(settings: &Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    if settings.allowed.covers(cx.client) {
        return Ok(None);
    }
    let client = cx.client;
    cx.report(
        CHECK,
        EventType::EmergencyModeBlock,
        format!("[EMERGENCY MODE] IP {client} not in whitelist"),
        vec![("emergency_whitelist_count", int(settings.allowed.len())), ("emergency_active", FactValue::Bool(true))],
    );
    cx.suspect(CHECK, format!("[EMERGENCY MODE] Access denied for IP {client}"), String::new());
    Ok(Some(Objection::new(503, "Service temporarily unavailable")))
}
