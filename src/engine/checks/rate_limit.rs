//! Check 15: sliding windows. Endpoint, route and country limits share one history per client and path, and one request
//! is one hit in it; the global limit has a history of its own.

use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection, int, text, violation};
use crate::engine::failure::CheckError;
use crate::engine::policy::{Compiling, PerRoute, Routed};
use crate::engine::sanctions::Offence;
use crate::model::category::Category;
use crate::model::check::Check;
use crate::model::decision::Fact;
use crate::model::event::EventType;
use crate::model::place::CountryCode;
use crate::model::time::Window;
use crate::state::{Bucket, Digest, Limit, State};

const CHECK: Check = Check::RateLimit;
/// Window of a route limit that states none.
const ROUTE_WINDOW: u32 = 60;

#[derive(Debug)]
pub(crate) struct Settings {
    global: Allowance,
    endpoints: HashMap<Box<str>, Endpoint, foldhash::fast::RandomState>,
    by_route: PerRoute<RouteLimits>,
    bans: bool,
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

/// One limit that applies to the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tier<'r> {
    kind: Kind,
    pub(crate) limit: Limit<'r>,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
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
        Some(Self { global, endpoints, by_route, bans: security.enable_rate_limit_auto_ban })
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
    let Some(settings) = &cx.policy.checks.rate_limit else { return tiers };
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

pub(crate) async fn evaluate<'p, S: State>(settings: &Settings, cx: &mut Cx<'_, 'p, '_>, state: &S) -> Seen<'p> {
    let counts = match &cx.answer {
        Some(Ok(answer)) => answer.counts.clone(),
        Some(Err(error)) => return Err(CheckError::State(error.clone())),
        None => SmallVec::new(),
    };
    let tiers = std::mem::take(&mut cx.foreseen.tiers);
    let mut first = None;
    for (tier, count) in tiers.iter().zip(counts) {
        if count <= u64::from(tier.limit.limit) {
            continue;
        }
        report(settings, cx, tier, count);
        first = first.or_else(|| Some(tier.limit.window.seconds()));
        if !cx.policy.passive {
            break;
        }
    }
    let Some(window) = first else { return Ok(None) };
    if settings.bans && !cx.policy.passive {
        count_refusal(cx, state).await;
    }
    Ok(Some(Objection::new(429, "Too many requests").with_header("retry-after", window.to_string())))
}

fn report(settings: &Settings, cx: &mut Cx<'_, '_, '_>, tier: &Tier<'_>, count: u64) {
    let global = settings.global;
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
