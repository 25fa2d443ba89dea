//! The compiled configuration: what `decide` reads. Compiling collects every error under its key path.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::config::routes::RouteConfig;
use crate::detect::{Detector, Scope};
use crate::engine::behavior::Behavior;
use crate::engine::checks::Checks;
use crate::engine::cors::Cors;
use crate::engine::csp::CspReports;
use crate::engine::expression::Environment;
use crate::engine::expression::message::Messages;
use crate::engine::failure::FailureRule;
use crate::engine::reply::Replies;
use crate::engine::responses::Responses;
use crate::engine::routes::{RouteId, Routes};
use crate::engine::sanctions::Sanctions;
use crate::engine::whereabouts::Whereabouts;
use crate::model::addr::{Client, IpEntry};
use crate::model::lists::AddressList;
use crate::model::nets::IpSet;
use crate::model::place::{CloudRanges, Countries};
use crate::model::time::Window;
use crate::request::Request;
use crate::request::client::{Proxies, identify};
use crate::request::path::{Subtrees, normalise};
use crate::state::Digest;

/// Everything a decision needs, compiled once and immutable.
#[derive(Debug)]
pub struct Policy {
    /// The detector; shared with the previous policy when its inputs did not change.
    pub detector: Arc<Detector>,
    /// What hooks and webhooks say.
    pub messages: Messages,
    /// Settings that load but do less than they say.
    pub warnings: Vec<PolicyError>,
    pub(crate) passive: bool,
    pub(crate) failure: FailureRule,
    pub(crate) proxies: Proxies,
    pub(crate) excluded: Subtrees,
    pub(crate) exclude_paths: Vec<String>,
    pub(crate) routes: Routes,
    pub(crate) bypasses: PerRoute<Bypasses>,
    pub(crate) countries: Option<Arc<dyn Countries>>,
    /// Where operators are looked up; the countries' database when they have no file of their own.
    pub(crate) operators: Option<Arc<dyn Countries>>,
    pub(crate) cloud: Arc<CloudRanges>,
    pub(crate) lists: Arc<[AddressList]>,
    pub(crate) replies: Replies,
    pub(crate) cors: Option<Cors>,
    pub(crate) sanctions: Sanctions,
    pub(crate) checks: Checks,
    pub(crate) behavior: Behavior,
    pub(crate) responses: Responses,
    pub(crate) csp: CspReports,
    pub(crate) environment: Environment,
    pub(crate) whereabouts: Whereabouts,
}

/// A setting that cannot be compiled, under the key path that `config` reports lines for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct PolicyError {
    /// Such as `routes[2].custom_validators[0]`.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

/// Whose history a key is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LimitOwner<'p> {
    /// The limit's name.
    pub limit: &'p str,
    /// Requests that pass per window.
    pub requests: u32,
    /// Over which time.
    pub window: Window,
    /// The client, or the first address of its network, where the limit counts by it.
    pub client: Option<String>,
}

/// Data that a policy consults, loaded by the shell.
#[derive(Clone, Debug, Default)]
pub struct Feeds {
    /// Countries by address; `None` when there is no database, and every address is unresolved.
    pub countries: Option<Arc<dyn Countries>>,
    /// Operators by address, when they are kept apart from the countries.
    pub operators: Option<Arc<dyn Countries>>,
    /// Address ranges of cloud providers; empty ranges block nobody.
    pub cloud: Arc<CloudRanges>,
    /// Lists of addresses, in the order of the configuration.
    pub lists: Arc<[AddressList]>,
    /// Tells one version of a feed's data from another, by the feed's name. Deciding does not need it.
    pub digests: BTreeMap<String, Digest>,
    /// Contents of the credential files that verifiers name, by the path as configured.
    pub credentials: BTreeMap<PathBuf, String>,
}

impl Policy {
    /// Whose history of one of the service's own limits a key is; `None` when no limit of this policy has such keys.
    #[must_use]
    pub fn limit_of(&self, key: &Digest) -> Option<LimitOwner<'_>> {
        self.checks.rate_limit.as_ref()?.rules.owner(key)
    }

    /// Compiles a policy. `detector` is reused when given. All errors are reported together.
    pub fn compile(config: &Config, feeds: &Feeds, detector: Arc<Detector>) -> Result<Self, Vec<PolicyError>> {
        let mut compiling = Compiling { config, feeds, errors: Vec::new(), warnings: Vec::new() };
        let security = &config.security;
        let (excluded, bad) = Subtrees::new(&security.exclude_paths);
        for position in bad {
            compiling
                .error(format!("security.exclude_paths[{position}]"), "the path cannot be normalised to a subtree");
        }
        let proxies = proxies(config);
        let policy = Self {
            detector,
            messages: Messages::compile(&mut compiling),
            passive: security.passive_mode,
            failure: FailureRule::new(security),
            sanctions: Sanctions::compile(security, &config.bans, &proxies),
            proxies,
            excluded,
            exclude_paths: security.exclude_paths.clone(),
            routes: Routes::compile(&mut compiling),
            bypasses: Bypasses::compile(&mut compiling),
            countries: feeds.countries.clone(),
            operators: feeds.operators.clone().or_else(|| feeds.countries.clone()),
            lists: Arc::clone(&feeds.lists),
            cloud: Arc::clone(&feeds.cloud),
            replies: Replies::compile(&mut compiling),
            cors: Cors::compile(&mut compiling),
            checks: Checks::compile(&mut compiling),
            behavior: Behavior::compile(&mut compiling),
            responses: Responses::compile(&mut compiling),
            csp: CspReports::compile(&mut compiling),
            environment: Environment::new(config),
            whereabouts: Whereabouts::compile(&config.data),
            warnings: Vec::new(),
        };
        if !compiling.errors.is_empty() {
            return Err(compiling.errors);
        }
        Ok(Self { warnings: compiling.warnings, ..policy })
    }

    /// Who the policy takes the client of `request` for.
    #[must_use]
    pub fn client<'r>(&self, request: &Request<'r>) -> Client<'r> {
        identify(&self.proxies, request).client
    }

    /// True when a route has this name.
    #[must_use]
    pub fn has_route(&self, name: &str) -> bool {
        self.routes.knows(name)
    }

    /// What detection looks at in `request`: the settings of its route.
    #[must_use]
    pub fn scope(&self, request: &Request<'_>) -> &Scope {
        let normal = normalise(request.target.path);
        &self.checks.inspection(self.routes.resolve(request, &normal.path).route).scope
    }

    /// What detection looks at in requests without a route.
    #[must_use]
    pub fn global_scope(&self) -> &Scope {
        &self.checks.inspection(None).scope
    }

    /// False for what must never be banned: this machine, and the proxies that speak for others.
    #[must_use]
    pub fn may_ban(&self, target: IpEntry) -> bool {
        self.sanctions.may_ban(target)
    }

    /// Bytes of a response body, as it comes, that the policy looks at.
    #[must_use]
    pub const fn response_bytes_max(&self) -> usize {
        self.responses.bytes_max()
    }

    /// True when nothing is refused, only reported.
    #[must_use]
    pub const fn is_passive(&self) -> bool {
        self.passive
    }
}

fn proxies(config: &Config) -> Proxies {
    use crate::config::values::TrustedProxy;
    let security = &config.security;
    let entries: Vec<IpEntry> = security
        .trusted_proxies
        .iter()
        .filter_map(|proxy| match proxy {
            TrustedProxy::Unix => None,
            TrustedProxy::Entry(entry) => Some(*entry),
        })
        .collect();
    Proxies {
        trusted: entries.iter().collect::<IpSet>(),
        unix: security.trusted_proxies.contains(&TrustedProxy::Unix),
        depth: usize::try_from(security.trusted_proxy_depth).unwrap_or(usize::MAX).max(1),
        proto: security.trust_x_forwarded_proto,
    }
}

/// A compilation under way: its inputs and what it found wrong.
#[derive(Debug)]
pub(crate) struct Compiling<'a> {
    pub(crate) config: &'a Config,
    pub(crate) feeds: &'a Feeds,
    errors: Vec<PolicyError>,
    warnings: Vec<PolicyError>,
}

impl<'a> Compiling<'a> {
    /// Reports a setting that cannot be compiled.
    pub(crate) fn error(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.errors.push(PolicyError { key: key.into(), message: message.into() });
    }

    /// Reports a setting that does less than it says.
    pub(crate) fn warn(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(PolicyError { key: key.into(), message: message.into() });
    }

    /// Compiles what was compiled before: what is wrong with it is known.
    pub(crate) fn quietly<T>(&mut self, compile: impl FnOnce(&mut Self) -> T) -> T {
        let (errors, warnings) = (self.errors.len(), self.warnings.len());
        let compiled = compile(self);
        self.errors.truncate(errors);
        self.warnings.truncate(warnings);
        compiled
    }

    /// Compiles one value for requests without a route and one for every route.
    pub(crate) fn per_route<T>(&mut self, mut compile: impl FnMut(&mut Self, Option<Routed<'a>>) -> T) -> PerRoute<T> {
        let unrouted = compile(self, None);
        let routes: &'a [RouteConfig] = &self.config.routes;
        let by_id =
            routes.iter().enumerate().map(|(index, route)| compile(self, Some(Routed { index, route }))).collect();
        PerRoute { unrouted, by_id }
    }
}

/// A route under compilation, with its place for error messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routed<'a> {
    index: usize,
    pub(crate) route: &'a RouteConfig,
}

impl Routed<'_> {
    /// Key path of one of the route's fields.
    pub(crate) fn key(&self, field: &str) -> String {
        format!("routes[{}].{field}", self.index)
    }
}

/// One compiled setting by route, the global value already merged in.
#[derive(Clone, Debug, Default)]
pub(crate) struct PerRoute<T> {
    unrouted: T,
    by_id: Box<[T]>,
}

impl<T> PerRoute<T> {
    /// The setting of a route, or of requests without one.
    pub(crate) fn of(&self, route: Option<RouteId>) -> &T {
        route.and_then(|id| self.by_id.get(id.index())).unwrap_or(&self.unrouted)
    }

    /// True when the setting of any route, or of requests without one, satisfies `predicate`.
    pub(crate) fn any(&self, predicate: impl Fn(&T) -> bool) -> bool {
        predicate(&self.unrouted) || self.by_id.iter().any(predicate)
    }
}

/// Which checks a route leaves out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Bypasses(u8);

impl Bypasses {
    pub(crate) const ALL: Self = Self(1);
    pub(crate) const IP_BAN: Self = Self(2);
    pub(crate) const IP: Self = Self(4);
    pub(crate) const CLOUDS: Self = Self(8);
    pub(crate) const RATE_LIMIT: Self = Self(16);
    pub(crate) const PENETRATION: Self = Self(32);

    const NAMES: [(&'static str, Self); 6] = [
        ("all", Self::ALL),
        ("ip_ban", Self::IP_BAN),
        ("ip", Self::IP),
        ("clouds", Self::CLOUDS),
        ("rate_limit", Self::RATE_LIMIT),
        ("penetration", Self::PENETRATION),
    ];

    /// True when `what`, or everything, is left out.
    pub(crate) const fn covers(self, what: Self) -> bool {
        self.0 & (what.0 | Self::ALL.0) != 0
    }

    /// The names of what is left out, for events.
    pub(crate) fn names(self) -> Vec<String> {
        Self::NAMES.iter().filter(|(_, bit)| self.0 & bit.0 != 0).map(|(name, _)| (*name).to_owned()).collect()
    }

    fn compile(compiling: &mut Compiling<'_>) -> PerRoute<Self> {
        compiling.per_route(|compiling, routed| {
            let mut bypasses = Self::default();
            let Some(routed) = routed else { return bypasses };
            for name in &routed.route.bypassed_checks {
                match Self::NAMES.iter().find(|(known, _)| known == name) {
                    Some((_, bit)) => bypasses.0 |= bit.0,
                    None => compiling.error(
                        routed.key("bypassed_checks"),
                        format!("`{name}` is not one of all, ip_ban, ip, clouds, rate_limit, penetration"),
                    ),
                }
            }
            bypasses
        })
    }
}
