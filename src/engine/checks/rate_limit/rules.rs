//! `rate_limits.rules`: limits of the service's own, by whatever requests have in common.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::config::rate_limits::{LimitMode, LimitRule};
use crate::config::values::Expression;
use crate::engine::cx::Cx;
use crate::engine::expression::Program;
use crate::engine::failure::CheckError;
use crate::engine::policy::{Compiling, LimitOwner, PerRoute};
use crate::model::addr::{Client, ClientAddr};
use crate::model::time::Window;
use crate::state::{self, Digest};

/// Header that carries an API key where the route names none.
const API_KEY_HEADER: &str = "x-api-key";

#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    api_key: PerRoute<String>,
}

/// One limit, compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) requests: u32,
    pub(crate) window: Window,
    pub(crate) shadow: bool,
    cached: bool,
    /// How keys of this rule begin.
    tag: [u8; TAG],
    parts: Vec<Part>,
    /// Indexes of routes; all requests when empty.
    routes: Vec<usize>,
    when: Option<Program>,
}

/// What requests that count together have in common.
#[derive(Debug)]
enum Part {
    Client,
    Network { v4: u8, v6: u8 },
    Route,
    Country,
    Method,
    Path,
    ApiKey,
    Header(String),
    Expression(Program),
}

/// Rules that apply to a request: their number, and what state is asked.
pub(crate) type Applied = SmallVec<[(usize, state::Rule); 2]>;

impl Rules {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let config = compiling.config;
        let rules = config.rate_limits.rules.iter().enumerate();
        let rules = rules.filter_map(|(index, rule)| compile(compiling, index, rule)).collect();
        let api_key = compiling.per_route(|_, routed| {
            let named = routed.and_then(|routed| routed.route.api_key_header.as_deref());
            named.unwrap_or(API_KEY_HEADER).to_ascii_lowercase()
        });
        Self { rules, api_key }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Rule> {
        self.rules.get(number)
    }

    /// Whose history a key is, as far as keys tell.
    pub(crate) fn owner(&self, key: &Digest) -> Option<LimitOwner<'_>> {
        let rule = self.rules.iter().find(|rule| key.0.starts_with(&rule.tag))?;
        let (_, rest) = key.0.split_first_chunk::<TAG>()?;
        let (kind, rest) = rest.split_first()?;
        let client = (*kind == ADDRESS).then(|| rest.first_chunk::<16>().copied().map(IpAddr::from)).flatten();
        let client = client.map(|address| ClientAddr::from(address).to_string());
        Some(LimitOwner { limit: &rule.name, requests: rule.requests, window: rule.window, client })
    }

    /// The rules that apply to the request. An expression that fails is a failure of the check.
    pub(crate) fn look(&self, cx: &mut Cx<'_, '_, '_>) -> Result<Applied, CheckError> {
        let mut applied = Applied::new();
        for (number, rule) in self.rules.iter().enumerate() {
            if !rule.routes.is_empty() && !cx.route.is_some_and(|id| rule.routes.contains(&id.index())) {
                continue;
            }
            if let Some(when) = &rule.when
                && !when.is_met(cx)?
            {
                continue;
            }
            let Some(key) = rule.key(cx, self.api_key.of(cx.route))? else { continue };
            let (limit, window, shadow, cached) = (rule.requests, rule.window, rule.shadow, rule.cached);
            applied.push((number, state::Rule { key, limit, window, shadow, cached }));
        }
        Ok(applied)
    }
}

fn compile(compiling: &mut Compiling<'_>, index: usize, rule: &LimitRule) -> Option<Rule> {
    let config = compiling.config;
    let key = format!("rate_limits.rules[{index}]");
    let limits = &config.rate_limits;
    let mut parts = Vec::with_capacity(rule.by.len());
    for (position, by) in rule.by.iter().enumerate() {
        parts.push(match by.as_str() {
            "client" => Part::Client,
            "network" => Part::Network { v4: limits.ipv4_prefix, v6: limits.ipv6_prefix },
            "route" => Part::Route,
            "country" => Part::Country,
            "method" => Part::Method,
            "path" => Part::Path,
            "api_key" => Part::ApiKey,
            other => match other.split_once(':') {
                Some(("header", name)) => Part::Header(name.to_ascii_lowercase()),
                Some(("cel", source)) => {
                    let source = Expression(source.to_owned());
                    Part::Expression(Program::compile(compiling, format!("{key}.by[{position}]"), &source)?)
                }
                _ => {
                    compiling.error(format!("{key}.by[{position}]"), format!("`{other}` is no part of a key"));
                    return None;
                }
            },
        });
    }
    let when = match &rule.when {
        Some(source) => Some(Program::compile(compiling, format!("{key}.when"), source)?),
        None => None,
    };
    let index_of = |name: &String| config.routes.iter().position(|route| route.name == *name);
    Some(Rule {
        name: rule.name.clone(),
        requests: rule.requests,
        window: rule.window,
        shadow: rule.shadow,
        tag: tag(&rule.name),
        cached: rule.mode == LimitMode::Cached,
        parts,
        routes: rule.routes.iter().filter_map(index_of).collect(),
        when,
    })
}

impl Rule {
    /// The key of the request's history: the rule's tag, the client's address where the rule counts by it, and a digest
    /// of the name and of all that the request has in common with others; `None` when it lacks a part. What a client
    /// sends goes into the digest only, so that no credential and no hostile text gets into a key; the rest lets
    /// operators see whose history it is.
    fn key(&self, cx: &mut Cx<'_, '_, '_>, api_key: &str) -> Result<Option<Digest>, CheckError> {
        let mut hash = Hash(Sha256::new());
        hash.add(self.name.as_bytes());
        for part in &self.parts {
            let is_there = match part {
                Part::Client => hash.shown(cx.client),
                Part::Network { v4, v6 } => hash.shown(network(cx.client, *v4, *v6)),
                Part::Route => match cx.route {
                    Some(id) => hash.add(cx.policy.routes.name(id).unwrap_or_default().as_bytes()),
                    None => false,
                },
                Part::Country => match cx.country() {
                    Some(code) => hash.add(code.as_str().as_bytes()),
                    None => false,
                },
                Part::Method => hash.add(cx.request.method.as_bytes()),
                Part::Path => hash.add(cx.path.as_bytes()),
                Part::ApiKey => hash.header(cx, api_key),
                Part::Header(name) => hash.header(cx, name),
                Part::Expression(program) => match program.common(cx)? {
                    Some(text) => hash.add(text.as_bytes()),
                    None => false,
                },
            };
            if !is_there {
                return Ok(None);
            }
        }
        let digest: [u8; 32] = hash.0.finalize().into();
        let address = self.parts.iter().find_map(|part| match part {
            Part::Client => Some(cx.client),
            Part::Network { v4, v6 } => Some(network(cx.client, *v4, *v6)),
            _ => None,
        });
        let address = address.and_then(|client| client.address()).map(|address| match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        });
        let kind = if address.is_some() { ADDRESS } else { 0 };
        let bytes = self.tag.into_iter().chain([kind]).chain(address.into_iter().flatten()).chain(digest);
        let mut key = [0; 32];
        key.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        Ok(Some(Digest(key)))
    }
}

/// Bytes of a rule's tag.
const TAG: usize = 7;
/// Follows the tag in a key that holds an address: 16 bytes of it, and 8 of the digest.
const ADDRESS: u8 = 1;

/// How keys of the rule with this name begin.
fn tag(name: &str) -> [u8; TAG] {
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let mut tag = [0; TAG];
    tag.iter_mut().zip(digest).for_each(|(place, byte)| *place = byte);
    tag
}

/// A digest of texts, each with its length, so that no two lists of texts look alike.
struct Hash(Sha256);

impl Hash {
    fn add(&mut self, bytes: &[u8]) -> bool {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        true
    }

    fn shown(&mut self, client: Client<'_>) -> bool {
        let mut text = String::with_capacity(48);
        // Writing into a string cannot fail.
        write!(text, "{client}").unwrap_or_default();
        self.add(text.as_bytes())
    }

    /// The first field of this name; false when there is none or it is empty.
    fn header(&mut self, cx: &Cx<'_, '_, '_>, name: &str) -> bool {
        cx.request.headers.get(name).is_some_and(|value| !value.is_empty() && self.add(value))
    }
}

/// The first address of the network around a client; what is no address stands for itself.
pub(crate) fn network(client: Client<'_>, v4: u8, v6: u8) -> Client<'_> {
    let ip = match client {
        Client::Address(addr) => addr.ip(),
        Client::Zoned { addr, .. } => IpAddr::V6(addr),
        Client::Text(_) | Client::Unknown => return client,
    };
    let length = if ip.is_ipv4() { v4 } else { v6 };
    IpNet::new(ip, length).map_or(client, |net| Client::Address(ClientAddr::from(net.network())))
}
