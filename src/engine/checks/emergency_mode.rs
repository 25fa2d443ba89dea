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

#[cfg(test)]
mod tests {
    use crate::engine::tests::testing::{Ask, check, lit};

    #[test]
    fn only_the_emergency_list_passes() {
        let lockdown = || lit!({"security": {"emergency_mode": true, "emergency_whitelist": ["10.0.0.0/8"], "fail_secure": false}});
        const BODY: &str = "Service temporarily unavailable";
        check(&[
            ("listed", lockdown(), Ask::from("10.1.2.3"), 0, ""),
            ("not listed", lockdown(), Ask::default(), 503, BODY),
            ("text is never listed", lockdown(), Ask::from("testclient"), 503, BODY),
            ("nobody is never listed", lockdown(), Ask::from(""), 503, BODY),
            ("excluded paths stay open", lockdown(), Ask { target: "/docs", ..Ask::default() }, 0, ""),
            ("off", lit!({}), Ask::default(), 0, ""),
        ]);
    }
}
