//! Behaviour rules: what a client does over many requests, and what the responses to it say.
//!
//! Usage and frequency rules count requests that passed all checks. Return rules count responses. A rule fires when its
//! count within the window exceeds the threshold, and again with every further event.

use std::borrow::Cow;

use crate::config::routes::RouteConfig;
use crate::config::values::{BehaviorAction, BehaviorKind, BehaviorRule};
use crate::engine::behavior::pattern::Pattern;
use crate::engine::cx::{Cx, Objection};
use crate::engine::expression::Program;
use crate::engine::policy::{Bypasses, Compiling, PerRoute, Routed};
use crate::model::decision::{Delay, Denial, Origin, Trail as Left, Verdict};
use crate::model::time::Window;
use crate::state::keys::digest;
use crate::state::{Digest, Mark, State, Track, Watch};

pub(crate) mod act;
pub(crate) mod pattern;

/// Length of a ban when the rule names none, in seconds.
const BAN_SECONDS: u32 = 3600;
/// The endpoint id under which responses of requests without a route are counted: a client that tries one missing path
/// after the other is one history, not many.
const UNROUTED: &str = "unrouted";

/// The compiled rules.
#[derive(Debug)]
pub(crate) struct Behavior {
    by_route: PerRoute<Rules>,
}

/// The rules of one route, the global ones behind its own.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    endpoint: Option<Endpoint>,
    /// Usage and frequency.
    usage: Vec<Rule>,
    returns: Vec<Rule>,
}

/// What histories are about.
#[derive(Clone, Debug)]
struct Endpoint {
    id: String,
    digest: Digest,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    kind: BehaviorKind,
    threshold: u64,
    window: Window,
    /// For return rules.
    returned: Option<Returned>,
    action: BehaviorAction,
    /// Milliseconds that a throttled request waits; without them it is refused.
    delay: Option<u32>,
    ban: Window,
    /// Applies to every route.
    is_global: bool,
    correlates: bool,
    custom: Option<Program>,
}

#[derive(Debug)]
struct Returned {
    text: String,
    digest: Digest,
    pattern: Pattern,
}

/// A rule that fired.
#[derive(Clone, Copy, Debug)]
struct Firing<'p> {
    rule: &'p Rule,
    count: u64,
    /// The threshold was halved because the client is under suspicion.
    is_correlated: bool,
}

/// What a request left in behaviour histories.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trail {
    endpoint: Digest,
}

impl Behavior {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let global = &compiling.config.security.global_behavior_rules;
        let by_route = compiling.per_route(|compiling, routed| {
            let mut rules = Rules { endpoint: routed.map(|routed| endpoint(routed.route)), ..Rules::default() };
            for (place, rule) in routed.iter().flat_map(|routed| routed.route.behavior_rules.iter().enumerate()) {
                let key = routed.map(|routed: Routed<'_>| routed.key(&format!("behavior_rules[{place}]")));
                rules.add(compiling, key.unwrap_or_default(), rule, false);
            }
            for (place, rule) in global.iter().enumerate() {
                let before = routed.is_some();
                let key = format!("security.global_behavior_rules[{place}]");
                // What is wrong with a global rule is said once.
                if before {
                    compiling.quietly(|quiet| rules.add(quiet, key, rule, true))
                } else {
                    rules.add(compiling, key, rule, true)
                }
            }
            rules
        });
        if by_route.any(|rules| !rules.returns.is_empty()) {
            compiling.warn(
                "security.global_behavior_rules",
                "return_pattern rules see responses through ext_proc only; with ext_authz alone they never fire",
            );
        }
        Self { by_route }
    }

    /// The rules over responses on a route.
    pub(crate) fn returns(&self, cx: &Cx<'_, '_, '_>) -> &[Rule] {
        if is_spared(cx) { &[] } else { &self.by_route.of(cx.route).returns }
    }
}

fn endpoint(route: &RouteConfig) -> Endpoint {
    let id = route.endpoint_id.clone().unwrap_or_else(|| route.name.clone());
    Endpoint { digest: digest(&id), id }
}

impl Rules {
    fn add(&mut self, compiling: &mut Compiling<'_>, key: String, rule: &BehaviorRule, is_global: bool) {
        let is_return = rule.rule_type == BehaviorKind::ReturnPattern;
        let returned = match rule.pattern.as_ref().filter(|_| is_return).map(|text| (text, Pattern::compile(text))) {
            None if is_return => return,
            None => None,
            Some((text, Ok(pattern))) => Some(Returned { text: text.clone(), digest: digest(text), pattern }),
            Some((_, Err(message))) => return compiling.error(format!("{key}.pattern"), message),
        };
        let custom = rule
            .custom_action
            .as_ref()
            .and_then(|source| Program::over(compiling, format!("{key}.custom_action"), source, "violation"));
        let ban = rule.ban_duration.or_else(|| Window::new(BAN_SECONDS)).unwrap_or(rule.window);
        let compiled = Rule {
            kind: rule.rule_type,
            threshold: rule.threshold.into(),
            window: rule.window,
            returned,
            action: rule.action,
            delay: rule.delay_ms,
            ban,
            is_global,
            correlates: is_global && rule.correlate_with_detection,
            custom,
        };
        if is_return { &mut self.returns } else { &mut self.usage }.push(compiled);
    }
}

impl Rule {
    /// The least threshold that may apply.
    const fn least(&self) -> u64 {
        if self.correlates { half(self.threshold) } else { self.threshold }
    }

    fn track<'r>(&self, client: crate::model::addr::Client<'r>, endpoint: Digest) -> Track<'r> {
        Track { client, endpoint, pattern: self.returned.as_ref().map(|returned| returned.digest) }
    }

    /// True for a rule whose earlier firing refuses requests: it is looked at before the upstream is asked again.
    fn holds_off(&self) -> bool {
        self.returned.is_some() && self.action == BehaviorAction::Throttle && self.custom.is_none()
    }

    pub(crate) const fn pattern(&self) -> Option<&Pattern> {
        match &self.returned {
            Some(returned) => Some(&returned.pattern),
            None => None,
        }
    }

    /// guard-core's sentence about a firing.
    fn details(&self, count: u64) -> String {
        let window = self.window.seconds();
        let (global_return, global_usage) =
            if self.is_global { ("Global return", "Global usage") } else { ("Return", "Usage") };
        match &self.returned {
            Some(returned) => {
                format!("{global_return} pattern threshold exceeded: {count} for '{}' in {window}s", returned.text)
            }
            None => format!("{global_usage} threshold exceeded: {count} calls in {window}s"),
        }
    }
}

const fn half(threshold: u64) -> u64 {
    if threshold < 2 { 1 } else { threshold / 2 }
}

/// True when no rule applies to a request, or it never reaches the upstream.
fn is_spared(cx: &Cx<'_, '_, '_>) -> bool {
    cx.excluded || cx.answers_itself || cx.bypasses(Bypasses::ALL)
}

/// The id of the endpoint that a request calls, for usage.
fn endpoint_id<'p>(rules: &'p Rules, cx: &Cx<'_, 'p, '_>) -> Cow<'p, str> {
    match &rules.endpoint {
        Some(endpoint) => Cow::Borrowed(&endpoint.id),
        None => Cow::Owned(format!("{}:{}", cx.request.method, cx.path)),
    }
}

/// The id of the endpoint that a response comes from.
fn returning_id(rules: &Rules) -> Cow<'_, str> {
    rules.endpoint.as_ref().map_or(Cow::Borrowed(UNROUTED), |endpoint| Cow::Borrowed(&endpoint.id))
}

fn returning_digest(rules: &Rules) -> Digest {
    rules.endpoint.as_ref().map_or_else(|| digest(UNROUTED), |endpoint| endpoint.digest)
}

impl<'r> Cx<'_, '_, 'r> {
    /// The behaviour histories to look at with the other questions of the request.
    pub(crate) fn watches(&mut self) -> Vec<Watch<'r>> {
        let rules = self.policy.behavior.by_route.of(self.route);
        if rules.usage.is_empty() && rules.returns.is_empty() || is_spared(self) {
            return Vec::new();
        }
        let client = self.client;
        let look =
            |rule: &Rule, endpoint, hits| Watch { track: rule.track(client, endpoint), window: rule.window, hits };
        let mut watches = Vec::new();
        if !rules.usage.is_empty() {
            let endpoint =
                rules.endpoint.as_ref().map_or_else(|| digest(&endpoint_id(rules, self)), |endpoint| endpoint.digest);
            self.trail = Some(Trail { endpoint });
            watches.extend(rules.usage.iter().map(|rule| look(rule, endpoint, true)));
        }
        let holding = rules.returns.iter().filter(|rule| rule.holds_off());
        watches.extend(holding.map(|rule| look(rule, returning_digest(rules), false)));
        watches
    }

    /// What state said about the histories, and under which mark.
    fn watched(&self) -> Option<(&[u64], Option<Mark>)> {
        let answer = self.answer.as_ref()?.as_ref().ok()?;
        Some((&answer.watched, answer.mark))
    }

    /// True when a rule may have something to say about a request that passed the checks.
    pub(crate) fn is_conspicuous(&self) -> bool {
        let Some((counts, _)) = self.watched() else { return false };
        let rules = self.policy.behavior.by_route.of(self.route);
        rules.watching().zip(counts).any(|(rule, count)| rule.least() < *count)
    }

    /// True when histories hold what a refused request left there.
    pub(crate) fn has_trail(&self) -> bool {
        self.watched().is_some_and(|(_, mark)| mark.is_some())
    }

    /// What the request left, for whoever may have to take it back later.
    pub(crate) fn left(&self) -> Option<Box<Left>> {
        let (Some(trail), Some((_, Some(mark)))) = (self.trail, self.watched()) else { return None };
        Some(Box::new(Left { endpoint: trail.endpoint.0, mark: mark.bits() }))
    }

    /// Takes back what a request left: it is refused after all.
    pub(crate) async fn withdraw(&self, state: &impl State) {
        if let Some(left) = self.left() {
            self.take_back(state, &left).await;
        }
    }

    /// Takes back what the request left when its headers were decided.
    pub(crate) async fn take_back(&self, state: &impl State, left: &Left) {
        let track = Track { client: self.client, endpoint: Digest(left.endpoint), pattern: None };
        // Should state be lost meanwhile, one request too many is counted.
        state.withdraw(&[track], Mark::from_bits(left.mark)).await.unwrap_or_default();
    }
}

impl Rules {
    /// The rules in the order of the watches.
    fn watching(&self) -> impl Iterator<Item = &Rule> {
        self.usage.iter().chain(self.returns.iter().filter(|rule| rule.holds_off()))
    }
}

/// Lets the rules speak about a request that passed all checks. `Some` refuses it: it is throttled. One that is only
/// slowed down passes, and counts.
pub(crate) async fn conclude<'p, S: State>(cx: &mut Cx<'_, 'p, '_>, state: &S) -> Option<Verdict<'p>> {
    let policy = cx.policy;
    let rules = policy.behavior.by_route.of(cx.route);
    let counts: Vec<u64> = cx.watched().map(|(counts, _)| counts.to_vec()).unwrap_or_default();
    let mut throttle = Throttle::default();
    for (rule, count) in rules.watching().zip(counts) {
        let Some(firing) = fires(cx, state, rule, count).await else { continue };
        let is_throttle = if rule.holds_off() {
            true
        } else {
            let id = endpoint_id(rules, cx);
            act::act(cx, state, firing, &id).await == BehaviorAction::Throttle
        };
        if is_throttle {
            throttle.add(rule);
        }
    }
    if policy.passive {
        return None;
    }
    if let Some(window) = throttle.refuses_for {
        cx.withdraw(state).await;
        return Some(Verdict::Deny(too_many(cx, window.seconds())));
    }
    if let Some(millis) = throttle.delays_by {
        let otherwise = too_many(cx, millis.div_ceil(1000));
        cx.delay = Some(Box::new(Delay { millis, otherwise }));
    }
    None
}

/// What the rules that throttle a request lead to: the longest of each.
#[derive(Default)]
struct Throttle {
    refuses_for: Option<Window>,
    delays_by: Option<u32>,
}

impl Throttle {
    fn add(&mut self, rule: &Rule) {
        match rule.delay {
            None => self.refuses_for = self.refuses_for.max(Some(rule.window)),
            delay => self.delays_by = self.delays_by.max(delay),
        }
    }
}

fn too_many<'p>(cx: &mut Cx<'_, 'p, '_>, seconds: u32) -> Denial<'p> {
    let objection = Objection::new(429, "Too many requests").with_header("retry-after", seconds.to_string());
    cx.policy.replies.denial(cx, Origin::Behavior, objection)
}

/// Counts what a response says. `head` asks about the status, else the body is asked about.
pub(crate) async fn returned<S: State>(cx: &mut Cx<'_, '_, '_>, state: &S, says: impl Fn(&Pattern) -> bool) {
    let policy = cx.policy;
    let rules = policy.behavior.by_route.of(cx.route);
    if is_spared(cx) {
        return;
    }
    for rule in rules.returns.iter().filter(|rule| rule.pattern().is_some_and(&says)) {
        let track = rule.track(cx.client, returning_digest(rules));
        // Histories that are lost change no answer.
        let Ok(count) = state.observe(track, rule.window, cx.now).await else { continue };
        if let Some(firing) = fires(cx, state, rule, count).await {
            act::act(cx, state, firing, &returning_id(rules)).await;
        }
    }
}

/// Whether a count makes a rule fire. Suspicion is asked about only when it makes the difference.
async fn fires<'p, S: State>(cx: &Cx<'_, 'p, '_>, state: &S, rule: &'p Rule, count: u64) -> Option<Firing<'p>> {
    let firing = Firing { rule, count, is_correlated: false };
    if rule.threshold < count {
        return Some(firing);
    }
    if count <= rule.least() {
        return None;
    }
    let suspect = cx.policy.sanctions.suspect(cx.client);
    let suspicion = state.suspicion(suspect, cx.now).await.unwrap_or_default();
    (suspicion != 0).then_some(Firing { is_correlated: true, ..firing })
}

#[cfg(test)]
mod tests;
