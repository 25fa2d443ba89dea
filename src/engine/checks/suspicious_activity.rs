//! Check 16: attack detection, and what an attack in an already refused request leads to.

use crate::config::exclusions::PartialBody;
use crate::detect::{Meter, Scope};
use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection, int, text, violation};
use crate::engine::policy::{Compiling, PerRoute};
use crate::engine::sanctions::Offence;
use crate::model::category::{Category, CategorySet};
use crate::model::check::Check;
use crate::model::decision::{Fact, FactValue};
use crate::model::event::EventType;
use crate::state::State;

const CHECK: Check = Check::SuspiciousActivity;
const BASE: &str = "penetration_attempt";

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) is_needed: bool,
    pub(crate) by_route: PerRoute<Inspection>,
}

/// What detection does on a route.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) scope: Scope,
    is_on: bool,
    /// The route turned off what the policy has on.
    is_disabled_by_route: bool,
    refuses_partial: bool,
}

/// A refusal that may hide an attack.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) check: Check,
    /// `ip_restriction`, `ip_blocked` or `user_agent`.
    pub(crate) category: &'static str,
    /// Why the request is refused. The escalation is reported with it; what was found has an event of its own.
    pub(crate) trigger: String,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let config = compiling.config;
        let global = config.security.enable_penetration_detection;
        let by_route = compiling.per_route(|compiling, routed| {
            let own = routed.and_then(|routed| routed.route.enable_suspicious_detection);
            let scope = match routed {
                Some(routed) => scope(compiling, Some(routed.route), &routed.key("enabled_detection_categories")),
                None => scope(compiling, None, "security.enabled_detection_categories"),
            };
            Inspection {
                refuses_partial: scope.scan_body && config.detection.partial_body == PartialBody::Deny,
                scope,
                is_on: own.unwrap_or(global),
                is_disabled_by_route: global && own == Some(false),
            }
        });
        Self { is_needed: by_route.any(|inspection| inspection.is_on || inspection.is_disabled_by_route), by_route }
    }
}

impl Inspection {
    /// True when bodies of this route's requests are looked at.
    pub(crate) const fn covers_bodies(&self) -> bool {
        self.is_on && self.scope.scan_body
    }
}

fn scope(compiling: &mut Compiling<'_>, route: Option<&crate::config::routes::RouteConfig>, key: &str) -> Scope {
    let config = compiling.config;
    let security = &config.security;
    let names = route.and_then(|route| route.enabled_detection_categories.as_ref());
    let mut categories = CategorySet::EMPTY;
    for name in names.unwrap_or(&security.enabled_detection_categories) {
        match Category::detection(name) {
            Some(category) => categories = categories.with(category),
            // The global set is reported once, for requests without a route.
            None if route.is_none() || names.is_some() => {
                compiling.error(key, format!("`{name}` is not a detection category"));
            }
            None => {}
        }
    }
    let lower = |set: &std::collections::BTreeSet<String>| -> Vec<String> {
        set.iter().map(|name| name.to_lowercase()).collect()
    };
    let own = |field: fn(&crate::config::routes::RouteConfig) -> &Option<std::collections::BTreeSet<String>>| {
        route.and_then(|route| field(route).as_ref())
    };
    let union = |global: &_, own: Option<&_>| {
        let mut names = lower(global);
        names.extend(own.map(lower).unwrap_or_default());
        names.sort_unstable();
        names.dedup();
        names
    };
    let mut exclusions = config.detection.exclusions.clone();
    exclusions.extend(route.iter().flat_map(|route| route.exclusions.iter().cloned()));
    Scope {
        categories,
        scan_body: route.and_then(|route| route.detection_scan_body).unwrap_or(security.detection_scan_body),
        excluded_headers: union(&security.excluded_detection_headers, own(|route| &route.excluded_detection_headers)),
        excluded_semantic_headers: union(
            &security.excluded_semantic_detection_headers,
            own(|route| &route.excluded_semantic_detection_headers),
        ),
        excluded_params: lower(
            own(|route| &route.excluded_detection_params).unwrap_or(&security.excluded_detection_params),
        ),
        excluded_body_fields: lower(
            own(|route| &route.excluded_detection_body_fields).unwrap_or(&security.excluded_detection_body_fields),
        ),
        exclusions,
    }
}

pub(crate) async fn evaluate<'p, S: State>(
    settings: &'p Settings,
    cx: &mut Cx<'_, 'p, '_>,
    state: &S,
    meter: &impl Meter,
) -> Seen<'p> {
    let inspection = settings.by_route.of(cx.route);
    if !inspection.is_on {
        if inspection.is_disabled_by_route {
            cx.record(Fact {
                event: EventType::DecoratorViolation,
                action: "detection_disabled".into(),
                check: CHECK,
                reason: "Suspicious activity detection is disabled on this route".to_owned(),
                metadata: violation("advanced", "suspicious_detection_disabled"),
                handler: "middleware",
            });
        }
        return Ok(None);
    }
    let Some(finding) = cx.detect(meter) else {
        if inspection.refuses_partial && cx.request.body.is_partial() {
            return Ok(Some(partial(cx)));
        }
        return Ok(None);
    };
    let (categories, trigger) = (finding.categories.clone(), finding.trigger.clone());
    if cx.policy.passive {
        observe(cx, state, &categories, trigger).await;
        return Ok(Some(Objection::new(400, "Suspicious activity detected")));
    }
    Ok(Some(refuse(cx, state, &categories, trigger).await))
}

fn partial<'p>(cx: &mut Cx<'_, 'p, '_>) -> Objection<'p> {
    let reason = "Request body is larger than what can be inspected".to_owned();
    cx.report(CHECK, EventType::ContentFiltered, reason.clone(), violation("content_filtering", "max_request_size"));
    cx.suspect(CHECK, reason, String::new());
    Objection::new(413, "Request too large")
}

/// Passive mode counts, reports and bans nobody.
async fn observe<S: State>(cx: &mut Cx<'_, '_, '_>, state: &S, categories: &[Category], trigger: String) {
    let (client, now) = (cx.client, cx.now);
    // A count that is lost changes no answer.
    let counted = state.suspect(cx.policy.sanctions.suspect(client), categories.iter().copied().collect(), now).await;
    let total = counted.map_or(1, |suspicion| suspicion.total);
    let metadata = vec![
        ("request_count", int(total)),
        ("passive_mode", FactValue::Bool(true)),
        ("trigger_info", text(trigger.as_str())),
    ];
    let reason = format!("Suspicious pattern detected (passive mode): {trigger}");
    cx.report(CHECK, EventType::PenetrationAttempt, reason, metadata);
    cx.suspect(CHECK, format!("Suspicious activity detected: {client}"), trigger);
}

async fn refuse<'p, S: State>(
    cx: &mut Cx<'_, 'p, '_>,
    state: &S,
    categories: &[Category],
    trigger: String,
) -> Objection<'p> {
    let policy = cx.policy;
    let offence = Offence { check: CHECK, base: BASE, categories };
    // State that does not answer costs the ban, never the refusal: an attack does not pass because a count is lost.
    let outcome = policy.sanctions.punish(cx, state, offence).await.ok();
    let client = cx.client;
    if let Some(sentence) = outcome.and_then(|outcome| outcome.banned) {
        cx.suspect(CHECK, sentence.text(client, &trigger), String::new());
        return Objection::new(403, "IP has been banned");
    }
    let total = outcome.map_or(1, |outcome| outcome.total);
    let metadata = vec![("request_count", int(total)), ("trigger_info", text(trigger.as_str()))];
    cx.report(CHECK, EventType::PenetrationAttempt, format!("Penetration attempt detected: {trigger}"), metadata);
    cx.suspect(CHECK, format!("Suspicious activity detected for IP: {client} - {trigger}"), String::new());
    Objection::new(400, "Suspicious activity detected")
}

/// Looks for an attack in a request that is refused for who sends it: repeated attempts ban, the answer stays.
pub(crate) async fn escalate<S: State>(cx: &mut Cx<'_, '_, '_>, state: &S, meter: &impl Meter, violation: Violation) {
    let policy = cx.policy;
    if policy.passive || cx.excluded || cx.is_whitelisted() || !policy.checks.inspection(cx.route).is_on {
        return;
    }
    let Some(finding) = cx.detect(meter) else { return };
    let (categories, found) = (finding.categories.clone(), finding.trigger.clone());
    let (client, trigger) = (cx.client, violation.trigger);
    let offence = Offence { check: violation.check, base: BASE, categories: &categories };
    match policy.sanctions.punish(cx, state, offence).await {
        Ok(outcome) => {
            if let Some(sentence) = outcome.banned {
                cx.suspect(violation.check, sentence.text(client, &found), String::new());
            }
            cx.record(Fact {
                event: EventType::PenetrationAttempt,
                action: if outcome.banned.is_some() { "banned" } else { "tracked" }.into(),
                check: violation.check,
                reason: format!("Identity violation escalated: {trigger}"),
                metadata: vec![
                    ("request_count", int(outcome.total)),
                    ("trigger_info", text(trigger)),
                    ("violation_category", text(violation.category)),
                ],
                handler: "middleware",
            });
        }
        Err(error) => cx.record(Fact {
            event: EventType::IpBanFailed,
            action: "ban_not_applied".into(),
            check: violation.check,
            reason: format!("Escalation ban failed for {client}: {error}"),
            metadata: vec![("ip_address", text(client.to_string()))],
            handler: "middleware",
        }),
    }
}

#[cfg(test)]
mod tests;
