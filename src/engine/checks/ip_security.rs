//! Check 12: bans, address lists, countries and the global cloud selectors. The only check that runs everywhere.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::detect::Meter;
use crate::engine::checks::Seen;
use crate::engine::checks::suspicious_activity::{self, Violation};
use crate::engine::cx::{Cx, Metadata, Objection, text, violation};
use crate::engine::policy::{Bypasses, Compiling, PerRoute};
use crate::model::addr::Client;
use crate::model::check::Check;
use crate::model::decision::{FactValue, IdentityFlags};
use crate::model::event::EventType;
use crate::model::lists::{ListHit, blocked};
use crate::model::nets::IpSet;
use crate::model::place::{CloudSelectors, CountryCode, Provider};
use crate::state::{Ban, State};

const CHECK: Check = Check::IpSecurity;

#[derive(Debug)]
pub(crate) struct Settings {
    /// `Some` and empty lets nobody pass.
    whitelist: Option<IpSet>,
    blacklist: IpSet,
    exempt: IpSet,
    countries: CountryRules,
    operators: OperatorRules,
    cloud: CloudSelectors,
    by_route: PerRoute<RouteRules>,
}

#[derive(Debug, Default)]
struct RouteRules {
    /// An empty list is no list.
    whitelist: IpSet,
    blacklist: IpSet,
    countries: CountryRules,
    operators: OperatorRules,
}

/// Rules over autonomous systems. An allow-list refuses whoever it does not name, an unknown system included.
#[derive(Debug, Default)]
struct OperatorRules {
    blocked: BTreeSet<u32>,
    allowed: BTreeSet<u32>,
}

/// Country rules. An allow-list is restrictive and makes the block-list inert where both are global.
#[derive(Debug, Default)]
struct CountryRules {
    blocked: Vec<CountryCode>,
    allowed: Vec<CountryCode>,
    /// There is an allow-list, whatever of it could be read.
    is_restrictive: bool,
}

/// The verdict that needs no state.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// Set when the global step was reached.
    pub(crate) flags: Option<IdentityFlags>,
    cause: Option<Cause>,
}

impl Local {
    /// True when the address is refused, bans apart.
    pub(crate) const fn is_refused(&self) -> bool {
        self.cause.is_some()
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Cause {
    RouteList,
    /// Only a country rule of the route objects: the block-list (true) or the allow-list.
    RouteCountry(bool),
    List,
    Country(CountryCode),
    Cloud(Provider, IpNet),
    /// A list of addresses that others keep.
    BlockList(ListHit),
    /// The client's autonomous system, if it is known; of the route (true) or of all requests.
    Operator(Option<u32>, bool),
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let config = compiling.config;
        let security = &config.security;
        let allowed = &security.whitelist_countries;
        let countries = CountryRules::compile(compiling, "security", &security.blocked_countries, allowed);
        let by_route = compiling.per_route(|compiling, routed| {
            let Some(routed) = routed else { return RouteRules::default() };
            let set = |list: &Option<Vec<_>>| list.iter().flatten().collect::<IpSet>();
            let empty = BTreeSet::new();
            RouteRules {
                whitelist: set(&routed.route.ip_whitelist),
                blacklist: set(&routed.route.ip_blacklist),
                countries: CountryRules::compile(
                    compiling,
                    routed.key("").trim_end_matches('.'),
                    routed.route.blocked_countries.as_ref().unwrap_or(&empty),
                    routed.route.whitelist_countries.as_ref().unwrap_or(&empty),
                ),
                operators: OperatorRules {
                    blocked: routed.route.blocked_asns.clone(),
                    allowed: routed.route.allowed_asns.clone(),
                },
            }
        });
        let entries = security.block_cloud_providers.iter().flatten().map(String::as_str);
        let (cloud, unknown) = CloudSelectors::parse(entries);
        for entry in unknown {
            compiling.warn("security.block_cloud_providers", format!("`{entry}` names no known provider"));
        }
        Self {
            whitelist: security.whitelist.as_ref().map(|list| list.iter().collect()),
            blacklist: security.blacklist.iter().collect(),
            exempt: security.exempt_ips.iter().collect(),
            countries,
            operators: OperatorRules {
                blocked: config.data.blocked_asns.clone(),
                allowed: config.data.allowed_asns.clone(),
            },
            cloud,
            by_route,
        }
    }
}

impl OperatorRules {
    fn is_empty(&self) -> bool {
        self.blocked.is_empty() && self.allowed.is_empty()
    }

    /// The system for which the client is refused; `Some(None)` when it is unknown and only some may pass.
    fn refuses(&self, cx: &Cx<'_, '_, '_>) -> Option<Option<u32>> {
        let is_local = cx.client.address().is_none_or(crate::model::addr::ClientAddr::is_loopback);
        if self.is_empty() || is_local {
            return None;
        }
        let asn = cx.operator().map(|operator| operator.asn);
        let is_blocked = asn.is_some_and(|asn| self.blocked.contains(&asn));
        let is_foreign = !self.allowed.is_empty() && !asn.is_some_and(|asn| self.allowed.contains(&asn));
        (is_blocked || is_foreign).then_some(asn)
    }
}

impl CountryRules {
    fn compile(
        compiling: &mut Compiling<'_>,
        key: &str,
        blocked: &BTreeSet<String>,
        allowed: &BTreeSet<String>,
    ) -> Self {
        let mut read = |field: &str, codes: &BTreeSet<String>| {
            let mut known = Vec::new();
            for code in codes {
                match CountryCode::new(code) {
                    Some(code) => known.push(code),
                    None => compiling.warn(format!("{key}.{field}"), format!("`{code}` is no country code")),
                }
            }
            known
        };
        Self {
            blocked: read("blocked_countries", blocked),
            allowed: read("whitelist_countries", allowed),
            is_restrictive: !allowed.is_empty(),
        }
    }

    const fn is_empty(&self) -> bool {
        self.blocked.is_empty() && !self.is_restrictive
    }
}

/// Everything about the address that needs no state.
pub(crate) fn look(cx: &mut Cx<'_, '_, '_>) -> Local {
    let settings = &cx.policy.checks.ip_security;
    if cx.excluded {
        return global(settings, cx, Route::default());
    }
    if cx.bypasses(Bypasses::IP) {
        return Local::default();
    }
    let rules = settings.by_route.of(cx.route);
    if let Some(asn) = rules.operators.refuses(cx) {
        return Local { flags: None, cause: Some(Cause::Operator(asn, true)) };
    }
    match route(rules, cx) {
        Err(cause) => Local { flags: None, cause: Some(cause) },
        Ok(country_allowed) => {
            global(settings, cx, Route { has_whitelist: !rules.whitelist.is_empty(), country_allowed })
        }
    }
}

/// What the route said, as far as the global step cares.
#[derive(Clone, Copy, Default)]
struct Route {
    has_whitelist: bool,
    country_allowed: bool,
}

/// The route's verdict: a refusal, or whether its country rules let the client in.
fn route(rules: &RouteRules, cx: &mut Cx<'_, '_, '_>) -> Result<bool, Cause> {
    let is_empty = rules.whitelist.is_empty() && rules.blacklist.is_empty();
    if is_empty && rules.countries.is_empty() {
        return Ok(false);
    }
    if cx.client == Client::Unknown {
        let is_closed = !rules.whitelist.is_empty() || rules.countries.is_restrictive;
        return if is_closed { Err(Cause::RouteList) } else { Ok(false) };
    }
    let is_listed =
        if rules.whitelist.is_empty() { !rules.blacklist.covers(cx.client) } else { rules.whitelist.covers(cx.client) };
    if !is_listed {
        return Err(Cause::RouteList);
    }
    if rules.countries.is_empty() {
        return Ok(false);
    }
    // Loopback is not excused here, only from the global rules.
    let country = cx.country();
    let is_blocked = country.is_some_and(|code| rules.countries.blocked.contains(&code));
    let is_foreign =
        rules.countries.is_restrictive && !country.is_some_and(|code| rules.countries.allowed.contains(&code));
    match (is_blocked || is_foreign, is_empty) {
        (true, true) => Err(Cause::RouteCountry(is_blocked)),
        (true, false) => Err(Cause::RouteList),
        (false, _) => Ok(rules.countries.is_restrictive),
    }
}

fn global(settings: &Settings, cx: &mut Cx<'_, '_, '_>, route: Route) -> Local {
    let cause = global_cause(settings, cx, route);
    let is_allowed = cause.is_none() && !route.has_whitelist;
    let is_member = |set: &IpSet| is_allowed && set.covers(cx.client);
    Local {
        flags: Some(IdentityFlags {
            whitelisted: settings.whitelist.as_ref().is_some_and(is_member),
            exempt: is_member(&settings.exempt),
        }),
        cause,
    }
}

fn global_cause(settings: &Settings, cx: &mut Cx<'_, '_, '_>, route: Route) -> Option<Cause> {
    let with_lists = !route.has_whitelist;
    let with_countries = !route.country_allowed;
    let whitelist = settings.whitelist.as_ref().filter(|_| with_lists);
    match cx.client {
        Client::Unknown => {
            let is_closed = whitelist.is_some() || (with_countries && settings.countries.is_restrictive);
            return is_closed.then_some(Cause::List);
        }
        Client::Text(_) => return Some(Cause::List),
        Client::Address(_) | Client::Zoned { .. } => {}
    }
    match whitelist {
        // A member is excused from countries and clouds; the blacklist is never consulted beside a whitelist.
        Some(list) => return (!list.covers(cx.client)).then_some(Cause::List),
        None if with_lists && settings.blacklist.covers(cx.client) => return Some(Cause::List),
        None => {}
    }
    if let Some(hit) = cx.client.address().and_then(|addr| blocked(&cx.policy.lists, addr)) {
        return Some(Cause::BlockList(hit));
    }
    if let Some(asn) = settings.operators.refuses(cx) {
        return Some(Cause::Operator(asn, false));
    }
    if with_countries && let Some(cause) = country_cause(&settings.countries, cx) {
        return Some(cause);
    }
    let (provider, net) = settings.cloud.find(&cx.policy.cloud, cx.client.address()?)?;
    Some(Cause::Cloud(provider, net))
}

fn country_cause(rules: &CountryRules, cx: &mut Cx<'_, '_, '_>) -> Option<Cause> {
    let is_local = cx.client.address().is_some_and(crate::model::addr::ClientAddr::is_loopback);
    if rules.is_empty() || is_local {
        return None;
    }
    match cx.country() {
        None => rules.is_restrictive.then_some(Cause::List),
        Some(code) if rules.is_restrictive => (!rules.allowed.contains(&code)).then_some(Cause::Country(code)),
        Some(code) => rules.blocked.contains(&code).then_some(Cause::Country(code)),
    }
}

/// Puts the ban lookup and the foreseen verdict together.
pub(crate) async fn conclude<'p, S: State>(
    cx: &mut Cx<'_, 'p, '_>,
    state: &S,
    ban: Option<Ban>,
    meter: &impl Meter,
) -> Seen<'p> {
    if ban.is_some() {
        return Ok(Some(banned(cx)));
    }
    let Some(cause) = cx.foreseen.ip.cause.take() else { return Ok(None) };
    let violation = refuse(cx, &cause);
    suspicious_activity::escalate(cx, state, meter, violation).await;
    Ok(Some(Objection::new(403, "Forbidden")))
}

fn banned<'p>(cx: &mut Cx<'_, 'p, '_>) -> Objection<'p> {
    // A refused client never reached the global step; in passive mode the request goes on as the client it is.
    if !cx.policy.passive {
        cx.flags = None;
    }
    let reason = format!("Banned IP attempted access: {}", cx.client);
    let metadata = vec![("ip_address", text(cx.client.to_string())), ("filter_type", text("banned"))];
    cx.report(CHECK, EventType::IpBlocked, reason.clone(), metadata);
    cx.suspect(CHECK, reason, String::new());
    Objection::new(403, "IP address banned")
}

/// Reports a refusal and describes it for what may follow from it.
fn refuse(cx: &mut Cx<'_, '_, '_>, cause: &Cause) -> Violation {
    let client = cx.client;
    let route_kind = match cause {
        Cause::RouteList => Some(("access_control", "ip_restriction")),
        Cause::RouteCountry(true) => Some(("block_countries", "country_restriction")),
        Cause::RouteCountry(false) => Some(("allow_countries", "country_restriction")),
        Cause::Operator(_, true) => Some(("asn_rules", "asn_restriction")),
        Cause::List | Cause::Country(_) | Cause::Cloud(..) | Cause::BlockList(_) | Cause::Operator(_, false) => None,
    };
    if let Some((decorator, kind)) = route_kind {
        let reason = format!("IP {client} blocked");
        cx.report(CHECK, EventType::DecoratorViolation, reason, violation(decorator, kind));
        let trigger = format!("IP not allowed by route config: {client}");
        cx.suspect(CHECK, trigger.clone(), String::new());
        return Violation { check: CHECK, category: "ip_restriction", trigger };
    }
    let mut metadata: Metadata = vec![("ip_address", text(client.to_string())), ("filter_type", text("global"))];
    let reason = match cause {
        Cause::Country(code) => format!("IP from blocked country: {code}"),
        Cause::Cloud(provider, net) => {
            metadata.push(("cloud_provider", text(provider.name())));
            metadata.push(("network", text(net.to_string())));
            format!("IP belongs to blocked cloud provider: {}", provider.name())
        }
        Cause::BlockList(hit) => {
            metadata.push(("block_list", text(&*hit.list)));
            metadata.push(("line", FactValue::Int(hit.line.into())));
            metadata.push(("network", text(hit.net.to_string())));
            format!("IP on block list {}, line {}", hit.list, hit.line)
        }
        Cause::Operator(Some(asn), _) => {
            metadata.push(("asn", FactValue::Int((*asn).into())));
            if let Some(name) = cx.operator().and_then(|operator| operator.name) {
                metadata.push(("organisation", text(name)));
            }
            format!("IP from blocked autonomous system: AS{asn}")
        }
        Cause::Operator(None, _) => "IP of unknown autonomous system".to_owned(),
        Cause::RouteList | Cause::RouteCountry(_) | Cause::List => {
            format!("IP {client} not in global allowlist/blocklist")
        }
    };
    cx.report(CHECK, EventType::IpBlocked, reason.clone(), metadata);
    cx.suspect(CHECK, format!("IP not allowed: {client} - {reason}"), String::new());
    Violation { check: CHECK, category: "ip_blocked", trigger: reason }
}

#[cfg(test)]
mod tests;
