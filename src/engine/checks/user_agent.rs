//! Check 14: User-Agent patterns of the route, then of the policy.

use regex::bytes::{RegexSet, RegexSetBuilder};

use crate::detect::Meter;
use crate::engine::checks::Seen;
use crate::engine::checks::suspicious_activity::{self, Violation};
use crate::engine::cx::{Cx, Objection, text, violation};
use crate::engine::policy::{Compiling, PerRoute};
use crate::model::check::Check;
use crate::model::event::EventType;
use crate::state::State;

const CHECK: Check = Check::UserAgent;
/// Characters of the header that are searched.
pub(crate) const SEARCHED_CHARS_MAX: usize = 512;

#[derive(Debug)]
pub(crate) struct Settings {
    global: RegexSet,
    by_route: PerRoute<RegexSet>,
}

/// A pattern matched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Hit;

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let patterns = &compiling.config.security.blocked_user_agents;
        let global = set(compiling, "security.blocked_user_agents", patterns);
        let by_route = compiling.per_route(|compiling, routed| match routed {
            Some(routed) => set(compiling, &routed.key("blocked_user_agents"), &routed.route.blocked_user_agents),
            None => RegexSet::empty(),
        });
        (!global.is_empty() || by_route.any(|set| !set.is_empty())).then_some(Self { global, by_route })
    }
}

fn set(compiling: &mut Compiling<'_>, key: &str, patterns: &[String]) -> RegexSet {
    let build = |patterns: &[String]| RegexSetBuilder::new(patterns).case_insensitive(true).multi_line(true).build();
    if let Ok(set) = build(patterns) {
        return set;
    }
    for (position, pattern) in patterns.iter().enumerate() {
        if let Err(error) = build(std::slice::from_ref(pattern)) {
            compiling.error(format!("{key}[{position}]"), error.to_string());
        }
    }
    RegexSet::empty()
}

/// The searched part of the header; missing means empty, which a pattern may match.
fn agent<'r>(cx: &Cx<'_, '_, 'r>) -> &'r [u8] {
    let value = cx.request.headers.get("user-agent").unwrap_or_default();
    // Every byte that does not continue a UTF-8 character begins one.
    let is_start = |byte: &u8| *byte & 0b1100_0000 != 0b1000_0000;
    let mut starts = value.iter().enumerate().filter(|(_, byte)| is_start(byte)).map(|(at, _)| at);
    let end = if value.len() <= SEARCHED_CHARS_MAX { None } else { starts.nth(SEARCHED_CHARS_MAX) };
    end.and_then(|end| value.get(..end)).unwrap_or(value)
}

/// Searches the header.
pub(crate) fn look(cx: &Cx<'_, '_, '_>) -> Option<Hit> {
    let settings = cx.policy.checks.user_agent.as_ref()?;
    let own = settings.by_route.of(cx.route);
    let agent = agent(cx);
    ((!own.is_empty() && own.is_match(agent)) || (!settings.global.is_empty() && settings.global.is_match(agent)))
        .then_some(Hit)
}

pub(crate) async fn evaluate<'p, S: State>(
    settings: &'p Settings,
    cx: &mut Cx<'_, 'p, '_>,
    state: &S,
    meter: &impl Meter,
) -> Seen<'p> {
    if cx.foreseen.user_agent.is_none() {
        return Ok(None);
    }
    let agent = String::from_utf8_lossy(cx.request.headers.get("user-agent").unwrap_or_default()).into_owned();
    if settings.by_route.of(cx.route).is_empty() {
        let metadata = vec![("user_agent", text(agent.as_str())), ("filter_type", text("global"))];
        let reason = format!("User agent '{agent}' in global blocklist");
        cx.report(CHECK, EventType::UserAgentBlocked, reason, metadata);
    } else {
        let mut metadata = violation("access_control", "user_agent");
        metadata.push(("blocked_user_agent", text(agent.as_str())));
        cx.report(CHECK, EventType::DecoratorViolation, format!("User agent '{agent}' blocked"), metadata);
    }
    let trigger = format!("Blocked user agent: {agent}");
    cx.suspect(CHECK, trigger.clone(), String::new());
    suspicious_activity::escalate(cx, state, meter, Violation { check: CHECK, category: "user_agent", trigger }).await;
    Ok(Some(Objection::new(403, "User-Agent not allowed")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::engine::tests::testing::{Ask, check, events, lit, once, policy, routed, wrong};

    const BODY: &str = "User-Agent not allowed";

    #[test]
    fn patterns_search_the_beginning_without_case() {
        let global = |pattern: &str| json!({"security": {"blocked_user_agents": [pattern]}});
        let late = format!("{}bot", "é".repeat(510));
        let too_late = format!("{}bot", "é".repeat(511));
        check(&[
            ("found", global("evilbot/1"), Ask::with(&[("user-agent", "x EvilBot/1.0")]), 403, BODY),
            ("not found", global("evilbot"), Ask::with(&[("user-agent", "curl")]), 0, ""),
            ("missing is empty", global("^$"), Ask::default(), 403, BODY),
            ("a line of many", global("^evil"), Ask::with(&[("user-agent", "a\nevil")]), 403, BODY),
            ("not yet over the bound", global("b"), Ask::with(&[("user-agent", &late)]), 403, BODY),
            ("cut at 512 characters", global("bot"), Ask::with(&[("user-agent", &too_late)]), 0, ""),
            (
                "of the route",
                routed(lit!({"blocked_user_agents": ["evil"]})),
                Ask::with(&[("user-agent", "evil")]),
                403,
                BODY,
            ),
        ]);
    }

    #[test]
    fn a_route_with_patterns_owns_the_report() {
        let mut text = routed(lit!({"blocked_user_agents": ["other"]}));
        text.as_object_mut().unwrap().insert("security".to_owned(), lit!({"blocked_user_agents": ["evil"]}));
        let policy = policy(text);
        let decision = once(&policy, Ask::with(&[("user-agent", "evil")]));
        assert_eq!(events(&decision), [("decorator_violation", "request_blocked")]);
    }

    #[test]
    fn bad_patterns_are_named_by_position() {
        let text = lit!({"security": {"blocked_user_agents": ["ok", "("]}});
        assert_eq!(wrong(text), ["security.blocked_user_agents[1]"]);
        assert_eq!(wrong(routed(lit!({"blocked_user_agents": ["["]}))), ["routes[0].blocked_user_agents[0]"]);
    }
}
