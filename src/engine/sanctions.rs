//! From suspicion to ban: counts by category, thresholds, and whom never to ban.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::rate_limits::BansConfig;
use crate::config::security::SecurityConfig;
use crate::engine::checks::rate_limit::rules::network;
use crate::engine::cx::{Cx, int};
use crate::model::addr::{Client, IpEntry};
use crate::model::category::{Category, CategorySet};
use crate::model::check::Check;
use crate::model::decision::Fact;
use crate::model::event::EventType;
use crate::model::nets::IpSet;
use crate::model::time::Window;
use crate::request::client::Proxies;
use crate::state::{State, StateError, Suspicion};

/// The thresholds of a policy.
#[derive(Debug)]
pub(crate) struct Sanctions {
    enabled: bool,
    by_category: Vec<(Category, u64, Window)>,
    threshold: u64,
    duration: Option<Window>,
    /// Peers that speak for others: banning one would ban everybody behind it.
    trusted: IpSet,
    /// Lengths of the prefixes that are banned.
    prefixes: BansConfig,
}

/// A ban that a count calls for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Sentence {
    /// The category whose own threshold was crossed; `None` for the sum over all.
    pub(crate) category: Option<Category>,
    duration: Window,
}

/// What came of counting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Outcome {
    /// All suspicious counts of the client, this one included.
    pub(crate) total: u64,
    /// The client is banned from now on.
    pub(crate) banned: Option<Sentence>,
}

/// What is counted, and under which name a ban is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offence<'a> {
    /// Who reports it.
    pub(crate) check: Check,
    /// `penetration_attempt` or `rate_limit_exceeded`.
    pub(crate) base: &'static str,
    /// In the order found.
    pub(crate) categories: &'a [Category],
}

/// The networks of this machine.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

impl Sanctions {
    pub(crate) fn compile(security: &SecurityConfig, bans: &BansConfig, proxies: &Proxies) -> Self {
        Self {
            enabled: security.enable_ip_banning,
            by_category: security
                .threat_ban_config
                .iter()
                .filter_map(|(name, ban)| Some((Category::named(name)?, ban.threshold.into(), ban.duration)))
                .collect(),
            threshold: security.auto_ban_threshold.into(),
            duration: Window::new(security.auto_ban_duration),
            trusted: proxies.trusted.clone(),
            prefixes: bans.clone(),
        }
    }

    /// The ban that counts call for: the first category over its own threshold, else the sum over all categories.
    fn judge(&self, categories: &[Category], suspicion: &Suspicion) -> Option<Sentence> {
        if !self.enabled {
            return None;
        }
        let own = categories.iter().find_map(|category| {
            let (_, threshold, duration) = *self.by_category.iter().find(|(known, ..)| known == category)?;
            let (_, count) = suspicion.by_category.iter().find(|(counted, _)| counted == category)?;
            (threshold <= *count).then_some(Sentence { category: Some(*category), duration })
        });
        own.or_else(|| {
            let duration = self.duration?;
            (self.threshold <= suspicion.total).then_some(Sentence { category: None, duration })
        })
    }

    /// What may be banned of a client: its address or the network around it. Never a loopback address, a trusted proxy,
    /// a network that holds one, or something without an address.
    pub(crate) fn target(&self, client: Client<'_>) -> Option<IpEntry> {
        let addr = client.address()?;
        let ip = addr.ip();
        let (prefix, all) =
            if ip.is_ipv4() { (self.prefixes.ipv4_prefix, 32) } else { (self.prefixes.ipv6_prefix, 128) };
        let net = IpNet::new(ip, prefix).ok()?.trunc();
        let target = if prefix == all { IpEntry::Addr(addr) } else { IpEntry::Net(net) };
        self.may_ban(target).then_some(target)
    }

    /// False for what holds a loopback address or a trusted proxy.
    pub(crate) fn may_ban(&self, target: IpEntry) -> bool {
        let loops = match target {
            IpEntry::Addr(addr) => addr.is_loopback(),
            IpEntry::Net(net) => LOOPBACK.iter().any(|own| net.contains(own) || own.contains(&net)),
        };
        !loops && !self.trusted.overlaps(target)
    }

    /// Whose offences are added up: those of the client, or of the network that would be banned.
    pub(crate) fn suspect<'r>(&self, client: Client<'r>) -> Client<'r> {
        match client {
            Client::Address(_) => network(client, self.prefixes.ipv4_prefix, self.prefixes.ipv6_prefix),
            Client::Zoned { .. } | Client::Text(_) | Client::Unknown => client,
        }
    }

    /// Counts an offence and bans the client when a threshold is crossed. The ban itself makes state forget the counts.
    pub(crate) async fn punish<S: State>(
        &self,
        cx: &mut Cx<'_, '_, '_>,
        state: &S,
        offence: Offence<'_>,
    ) -> Result<Outcome, StateError> {
        let set: CategorySet = offence.categories.iter().copied().collect();
        let (client, now) = (cx.client, cx.now);
        let suspect = self.suspect(client);
        let suspicion = state.suspect(suspect, set, now).await?;
        let total = suspicion.total;
        let sentence = self.judge(offence.categories, &suspicion).zip(self.target(client));
        let Some((sentence, target)) = sentence else { return Ok(Outcome { total, banned: None }) };
        let reason = match sentence.category {
            Some(category) => format!("{}:{category}", offence.base),
            None => offence.base.to_owned(),
        };
        state.ban(target, sentence.duration, &reason, now).await?;
        if matches!(target, IpEntry::Net(_)) {
            // The ban of an address forgets its counts by itself.
            state.absolve(suspect).await?;
        }
        cx.record(Fact {
            event: EventType::IpBanned,
            action: "banned".into(),
            check: offence.check,
            reason,
            metadata: vec![("duration", int(sentence.duration.seconds()))],
            handler: "ip_ban",
        });
        Ok(Outcome { total, banned: Some(sentence) })
    }
}

impl Sentence {
    /// The text that `on_block` and logs show for a ban in the request that caused it.
    pub(crate) fn text(self, client: Client<'_>, cause: &str) -> String {
        match self.category {
            Some(category) => format!("IP banned due to {category} threshold: {client} - {cause}"),
            None => format!("IP banned due to suspicious activity: {client} - {cause}"),
        }
    }
}

#[cfg(test)]
mod tests;
