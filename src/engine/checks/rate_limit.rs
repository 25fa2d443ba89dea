//! Check 15: sliding windows. Endpoint, route and country limits share one history per client and path, and one request
//! is one hit in it; the global limit has a history of its own. Rules of the service's own stand behind them.

use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::engine::checks::Seen;
use crate::engine::checks::rate_limit::rules::{Applied, Rule, Rules};
use crate::engine::checks::rate_limit::tell::{Level, Tells};
use crate::engine::cx::{Cx, Objection, int, text, violation};
use crate::engine::failure::CheckError;
use crate::engine::policy::{Compiling, PerRoute, Routed};
use crate::engine::sanctions::Offence;
use crate::model::category::Category;
use crate::model::check::Check;
use crate::model::decision::{Fact, OnBlock};
use crate::model::event::EventType;
use crate::model::place::CountryCode;
use crate::model::time::Window;
use crate::state::{Answer, Bucket, Digest, Limit, Standing, State};

pub(crate) mod rules;
mod tell;

const CHECK: Check = Check::RateLimit;
/// Window of a route limit that states none.
const ROUTE_WINDOW: u32 = 60;

#[derive(Debug)]
pub(crate) struct Settings {
    /// guard-core's limits, unless they are off.
    tiers: Option<Tiers>,
    pub(crate) rules: Rules,
    tells: Tells,
    bans: bool,
}

#[derive(Debug)]
struct Tiers {
    global: Allowance,
    endpoints: HashMap<Box<str>, Endpoint, foldhash::fast::RandomState>,
    by_route: PerRoute<RouteLimits>,
}

/// Requests that pass per window.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    requests: u32,
    window: Window,
}

#[derive(Debug)]
struct Endpoint {
    path: Digest,
    allowance: Allowance,
}

#[derive(Debug, Default)]
struct RouteLimits {
    own: Option<Allowance>,
    by_country: Vec<(CountryCode, Allowance)>,
    any_country: Option<Allowance>,
}

/// Which rule a limit comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Endpoint,
    Route,
    Geo,
    Global,
}

impl Kind {
    /// How header fields call it.
    const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Route => "route",
            Self::Geo => "geo",
            Self::Global => "global",
        }
    }
}

/// One limit that applies to the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tier<'r> {
    kind: Kind,
    pub(crate) limit: Limit<'r>,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let config = compiling.config;
        let (tiers, rules) = (Tiers::compile(compiling), Rules::compile(compiling));
        let tells = Tells::new(&config.rate_limits);
        let is_needed = tiers.is_some() || !rules.is_empty();
        is_needed.then_some(Self { tiers, rules, tells, bans: config.security.enable_rate_limit_auto_ban })
    }
}

impl Tiers {
    fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let config = compiling.config;
        let security = &config.security;
        if !security.enable_rate_limiting {
            return None;
        }
        let global =
            allowance(compiling, "security.rate_limit_window", security.rate_limit, security.rate_limit_window)?;
        let mut endpoints = HashMap::default();
        for (path, (requests, window)) in &security.endpoint_rate_limits {
            let key = format!("security.endpoint_rate_limits.{path}");
            if let Some(allowance) = allowance(compiling, &key, *requests, *window) {
                endpoints.insert(path.as_str().into(), Endpoint { path: digest(path), allowance });
            }
        }
        let by_route = compiling.per_route(|compiling, routed| match routed {
            Some(routed) => route_limits(compiling, routed),
            None => RouteLimits::default(),
        });
        Some(Self { global, endpoints, by_route })
    }
}

fn allowance(compiling: &mut Compiling<'_>, key: &str, requests: u32, seconds: u32) -> Option<Allowance> {
    match Window::new(seconds) {
        Some(window) => Some(Allowance { requests, window }),
        None => {
            compiling.error(key, "a window has at least one second");
            None
        }
    }
}

fn route_limits(compiling: &mut Compiling<'_>, routed: Routed<'_>) -> RouteLimits {
    let route = routed.route;
    let window = route.rate_limit_window.filter(|seconds| *seconds != 0).unwrap_or(ROUTE_WINDOW);
    let own =
        route.rate_limit.and_then(|requests| allowance(compiling, &routed.key("rate_limit_window"), requests, window));
    let mut limits = RouteLimits { own, ..RouteLimits::default() };
    for (country, (requests, seconds)) in route.geo_rate_limits.iter().flatten() {
        let key = routed.key(&format!("geo_rate_limits.{country}"));
        let Some(allowance) = allowance(compiling, &key, *requests, *seconds) else { continue };
        match CountryCode::new(country) {
            Some(code) => limits.by_country.push((code, allowance)),
            None if country == "*" => limits.any_country = Some(allowance),
            None => compiling.error(key, "neither a country code nor `*`"),
        }
    }
    limits
}

fn digest(path: &str) -> Digest {
    Digest(Sha256::digest(path.as_bytes()).into())
}

/// The limits that apply to the request, in the order they are tested.
pub(crate) fn look<'r>(cx: &mut Cx<'_, '_, 'r>) -> SmallVec<[Tier<'r>; 4]> {
    let mut tiers = SmallVec::new();
    let Some(settings) = cx.policy.checks.rate_limit.as_ref().and_then(|settings| settings.tiers.as_ref()) else {
        return tiers;
    };
    let client = cx.client;
    let mut tier = |kind, path, allowance: Allowance| {
        let limit = Limit { bucket: Bucket { client, path }, limit: allowance.requests, window: allowance.window };
        tiers.push(Tier { kind, limit });
    };
    let endpoint = settings.endpoints.get(&*cx.path);
    let mut path = None;
    if let Some(endpoint) = endpoint {
        path = Some(endpoint.path);
        tier(Kind::Endpoint, path, endpoint.allowance);
    }
    let route = settings.by_route.of(cx.route);
    if let Some(allowance) = route.own {
        path = path.or_else(|| Some(digest(&cx.path)));
        tier(Kind::Route, path, allowance);
    }
    if !route.by_country.is_empty() || route.any_country.is_some() {
        let country = cx.country();
        let listed = route.by_country.iter().find(|(code, _)| Some(*code) == country).map(|(_, allowance)| *allowance);
        if let Some(allowance) = listed.or(route.any_country) {
            path = path.or_else(|| Some(digest(&cx.path)));
            tier(Kind::Geo, path, allowance);
        }
    }
    tier(Kind::Global, None, settings.global);
    tiers
}

/// The rules that apply to the request.
pub(crate) fn look_at_rules(cx: &mut Cx<'_, '_, '_>) -> Result<Applied, CheckError> {
    let policy = cx.policy;
    policy.checks.rate_limit.as_ref().map_or_else(|| Ok(Applied::new()), |settings| settings.rules.look(cx))
}

pub(crate) async fn evaluate<'p, S: State>(settings: &Settings, cx: &mut Cx<'_, 'p, '_>, state: &S) -> Seen<'p> {
    let answer = match &mut cx.answer {
        Some(Ok(answer)) => Answer { counts: answer.counts.clone(), rules: answer.rules.clone(), ..Answer::default() },
        Some(Err(error)) => return Err(CheckError::State(error.clone())),
        None => Answer::default(),
    };
    let tiers = std::mem::take(&mut cx.foreseen.tiers);
    let applied = std::mem::replace(&mut cx.foreseen.rules, Ok(Applied::new()))?;
    let passive = cx.policy.passive;
    let mut wait: Option<u64> = None;
    for (tier, count) in tiers.iter().zip(answer.counts.iter().copied()) {
        if count <= u64::from(tier.limit.limit) {
            continue;
        }
        report(settings, cx, tier, count);
        wait = wait.or_else(|| Some(tier.limit.window.seconds().into()));
        if !passive {
            break;
        }
    }
    let mut levels = levels(&tiers, &answer);
    for ((number, _), standing) in applied.iter().zip(&answer.rules) {
        let Some(rule) = settings.rules.get(*number) else { continue };
        if standing.exceeded {
            report_rule(cx, rule, standing);
        }
        if !rule.shadow {
            let level = level(rule, standing);
            // Who must wait for several limits waits for the one that takes longest.
            wait = wait.max(standing.exceeded.then_some(level.reset));
            levels.push(level);
        }
    }
    let Some(wait) = wait else {
        if settings.tells.on_allowed {
            cx.limit_headers = settings.tells.headers(&levels);
        }
        return Ok(None);
    };
    if settings.bans && !passive {
        count_refusal(cx, state).await;
    }
    let mut objection = Objection::new(429, "Too many requests").with_header("retry-after", wait.to_string());
    objection.headers.extend(settings.tells.headers(&levels));
    Ok(Some(objection))
}

/// How guard-core's limits stand. Their histories hold refused requests too, so the whole window is what to wait for.
fn levels<'a>(tiers: &[Tier<'_>], answer: &Answer) -> SmallVec<[Level<'a>; 4]> {
    let counted = tiers.iter().zip(answer.counts.iter());
    let level = |(tier, count): (&Tier<'_>, &u64)| Level {
        name: tier.kind.name(),
        requests: tier.limit.limit,
        window: tier.limit.window.seconds(),
        remaining: u64::from(tier.limit.limit).saturating_sub(*count),
        reset: tier.limit.window.seconds().into(),
    };
    counted.map(level).collect()
}

fn level<'a>(rule: &'a Rule, standing: &Standing) -> Level<'a> {
    let remaining = u64::from(rule.requests).saturating_sub(standing.count);
    Level {
        name: &rule.name,
        requests: rule.requests,
        window: rule.window.seconds(),
        // One that others count together with may refuse although there was room.
        remaining: if standing.exceeded { 0 } else { remaining },
        reset: (standing.reset.ceil() as u64).max(1),
    }
}

fn report_rule(cx: &mut Cx<'_, '_, '_>, rule: &Rule, standing: &Standing) {
    let (name, window, count) = (&rule.name, rule.window.seconds(), standing.count);
    let is_reported_only = rule.shadow || cx.policy.passive;
    let word = if rule.shadow { "would have been exceeded" } else { "exceeded" };
    let reason = format!("Rate limit `{name}` {word}: {count} requests in {window}s window");
    cx.record(Fact {
        event: EventType::RateLimited,
        action: if is_reported_only { "logged_only" } else { "request_blocked" }.into(),
        check: CHECK,
        reason: reason.clone(),
        metadata: vec![
            ("request_count", int(count)),
            ("rate_limit", int(rule.requests)),
            ("window", int(window)),
            ("limit", text(name.as_str())),
            ("shadow", crate::model::decision::FactValue::Bool(rule.shadow)),
        ],
        handler: "rate_limit",
    });
    let client = cx.client;
    if rule.shadow && !cx.policy.passive {
        cx.blocks.push(OnBlock {
            check_name: CHECK.name(),
            reason: format!("Would have limited {client}: {reason}"),
            trigger_info: String::new(),
            passive_mode: true,
            status_code: None,
        });
    } else {
        cx.suspect(CHECK, format!("{reason} by {client}"), String::new());
    }
}

fn report(settings: &Settings, cx: &mut Cx<'_, '_, '_>, tier: &Tier<'_>, count: u64) {
    let Some(global) = settings.tiers.as_ref().map(|tiers| tiers.global) else { return };
    cx.record(Fact {
        event: EventType::RateLimited,
        // The handler's event says so in passive mode too, and names the global limit whichever tier refused.
        action: "request_blocked".into(),
        check: CHECK,
        reason: format!("Rate limit exceeded: {count} requests in {}s window", global.window.seconds()),
        metadata: vec![
            ("request_count", int(count)),
            ("rate_limit", int(global.requests)),
            ("window", int(global.window.seconds())),
        ],
        handler: "rate_limit",
    });
    let (requests, window) = (tier.limit.limit, tier.limit.window.seconds());
    let (event, reason, mut metadata) = match tier.kind {
        Kind::Endpoint => {
            let path = cx.path.as_ref();
            let reason = format!("Endpoint-specific rate limit exceeded: {requests} requests per {window}s for {path}");
            let metadata = vec![("rule_type", text("endpoint_rate_limit")), ("endpoint", text(path))];
            (Some(EventType::DynamicRuleViolation), reason, metadata)
        }
        Kind::Route => (
            Some(EventType::DecoratorViolation),
            format!("Route-specific rate limit exceeded: {requests} requests per {window}s"),
            violation("rate_limiting", "rate_limit"),
        ),
        Kind::Geo => (
            Some(EventType::DecoratorViolation),
            format!("Geo rate limit exceeded: {requests} requests per {window}s"),
            violation("geo_rate_limiting", "geo_rate_limit"),
        ),
        Kind::Global => (None, String::new(), Vec::new()),
    };
    if let Some(event) = event {
        metadata.push(("rate_limit", int(requests)));
        metadata.push(("window", int(window)));
        cx.report(CHECK, event, reason, metadata);
    }
    let client = cx.client;
    let hook = format!("Rate limit exceeded for IP: {client} ({count} requests in {window}s window)");
    cx.suspect(CHECK, hook, String::new());
}

/// A refusal counts as an offence; the answer stays 429 whatever comes of it, and whether state answers or not.
async fn count_refusal<S: State>(cx: &mut Cx<'_, '_, '_>, state: &S) {
    let policy = cx.policy;
    let offence = Offence { check: CHECK, base: "rate_limit_exceeded", categories: &[Category::RATE_LIMIT] };
    if let Ok(outcome) = policy.sanctions.punish(cx, state, offence).await
        && let Some(sentence) = outcome.banned
    {
        let text = sentence.text(cx.client, "rate_limit_exceeded");
        cx.suspect(CHECK, text, String::new());
    }
}

#[cfg(test)]
mod tests;
