//! From suspicion to ban: counts by category, thresholds, and whom never to ban.

use crate::config::security::SecurityConfig;
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

impl Sanctions {
    pub(crate) fn compile(security: &SecurityConfig, proxies: &Proxies) -> Self {
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

    /// What may be banned of a client: never a loopback address, a trusted proxy, or something without an address.
    pub(crate) fn target(&self, client: Client<'_>) -> Option<IpEntry> {
        let addr = client.address()?;
        (!addr.is_loopback() && !self.trusted.contains(addr)).then_some(IpEntry::Addr(addr))
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
        let suspicion = state.suspect(client, set, now).await?;
        let total = suspicion.total;
        let sentence = self.judge(offence.categories, &suspicion).zip(self.target(client));
        let Some((sentence, target)) = sentence else { return Ok(Outcome { total, banned: None }) };
        let reason = match sentence.category {
            Some(category) => format!("{}:{category}", offence.base),
            None => offence.base.to_owned(),
        };
        state.ban(target, sentence.duration, &reason, now).await?;
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
