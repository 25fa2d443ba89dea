//! What a rule that fired leads to, and how it is reported.

use crate::config::values::{BehaviorAction, BehaviorKind};
use crate::engine::behavior::Firing;
use crate::engine::cx::{Cx, Metadata, int, text, violation};
use crate::model::check::Check;
use crate::model::decision::{BEHAVIOR, Fact, FactValue};
use crate::model::event::EventType;
use crate::state::State;

/// The reason of a ban by a rule.
const REASON: &str = "behavioral_violation";

/// Carries out what the rule asks for and reports it, twice as guard-core does: that the rule fired, and what was done.
/// Returns the action that was chosen.
pub(super) async fn act<S: State>(
    cx: &mut Cx<'_, '_, '_>,
    state: &S,
    firing: Firing<'_>,
    endpoint: &str,
) -> BehaviorAction {
    let rule = firing.rule;
    let correlated = if firing.is_correlated { " (correlated)" } else { "" };
    let details = format!("{}{correlated}", rule.details(firing.count));
    let action = match &rule.custom {
        None => Some(rule.action),
        Some(program) => {
            let violation = Violation { endpoint, kind: kind(rule.kind), details: &details, firing };
            program.choose(cx, &violation).unwrap_or_else(|error| {
                // An expression that cannot choose must not undo the rule.
                cx.record(fact(EventType::DecoratorViolation, "custom_action_failed", error.to_string()));
                Some(rule.action)
            })
        }
    };
    let chosen = action.map_or("none", name);
    let mut fired = fact(EventType::DecoratorViolation, "behavioral_action_triggered", details.clone());
    fired.metadata = fired_metadata(&firing, chosen, endpoint);
    fired.handler = "middleware";
    cx.record(fired);
    let Some(action) = action else { return BehaviorAction::Log };
    let mut done = if cx.policy.passive { "logged_only" } else { chosen };
    if action == BehaviorAction::Ban && !cx.policy.passive {
        done = if ban(cx, state, firing).await { done } else { "tracked" };
    }
    let mut fact = fact(EventType::BehavioralViolation, done, format!("Behavioral rule violated: {details}"));
    fact.metadata = vec![
        ("endpoint", text(endpoint)),
        ("rule_type", text(kind(rule.kind))),
        ("threshold", int(rule.threshold)),
        ("window", int(rule.window.seconds())),
    ];
    if let (BehaviorAction::Throttle, Some(millis)) = (action, rule.delay) {
        fact.metadata.push(("delay_ms", int(millis)));
    }
    if action == BehaviorAction::Alert {
        fact.metadata.push(("alert", FactValue::Bool(true)));
    }
    cx.record(fact);
    action
}

/// What an expression that chooses the action may ask about.
pub(crate) struct Violation<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) kind: &'static str,
    pub(crate) details: &'a str,
    firing: Firing<'a>,
}

impl Violation<'_> {
    pub(crate) const fn numbers(&self) -> [(&'static str, u64); 3] {
        let rule = self.firing.rule;
        [("count", self.firing.count), ("threshold", rule.threshold), ("window", rule.window.seconds() as u64)]
    }
}

/// The name of an action.
pub(crate) const fn name(action: BehaviorAction) -> &'static str {
    match action {
        BehaviorAction::Ban => "ban",
        BehaviorAction::Log => "log",
        BehaviorAction::Throttle => "throttle",
        BehaviorAction::Alert => "alert",
    }
}

const fn kind(kind: BehaviorKind) -> &'static str {
    match kind {
        BehaviorKind::Usage => "usage",
        BehaviorKind::ReturnPattern => "return_pattern",
        BehaviorKind::Frequency => "frequency",
    }
}

fn fired_metadata(firing: &Firing<'_>, action: &'static str, endpoint: &str) -> Metadata {
    let rule = firing.rule;
    let origin = if rule.is_global { "behavioral_global" } else { "behavioral" };
    let mut metadata = violation(origin, kind(rule.kind));
    metadata.extend([
        ("threshold", int(rule.threshold)),
        ("window", int(rule.window.seconds())),
        ("action", text(action)),
        ("endpoint_id", text(endpoint)),
    ]);
    if let Some(returned) = &rule.returned {
        metadata.push(("pattern", text(returned.text.as_str())));
    }
    if firing.is_correlated {
        metadata.push(("correlation", FactValue::Bool(true)));
    }
    metadata
}

fn fact(event: EventType, action: &'static str, reason: String) -> Fact {
    Fact { event, action: action.into(), check: Check::RouteConfig, reason, metadata: Vec::new(), handler: BEHAVIOR }
}

/// Bans the client, whatever `enable_ip_banning` says; false when it may not be banned or state is lost.
async fn ban<S: State>(cx: &mut Cx<'_, '_, '_>, state: &S, firing: Firing<'_>) -> bool {
    let Some(target) = cx.policy.sanctions.target(cx.client) else { return false };
    if state.ban(target, firing.rule.ban, REASON, cx.now).await.is_err() {
        return false;
    }
    let mut fact = fact(EventType::IpBanned, "banned", REASON.to_owned());
    fact.metadata = vec![("duration", int(firing.rule.ban.seconds()))];
    fact.handler = "ip_ban";
    cx.record(fact);
    true
}
