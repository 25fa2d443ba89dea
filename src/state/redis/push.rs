//! Changes told to the other replicas, and heard from them.
//!
//! A message is only ever sent by whoever made the change, and hearing one never sends another: there can be no loop.
//! What was missed while the connection was down is read from Redis when it is back, and networks every few seconds.

use std::sync::atomic::Ordering;

use deadpool_redis::redis::cmd;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::model::addr::IpEntry;
use crate::model::time::Timestamp;
use crate::state::breaker::jittered;
use crate::state::keys::read_moment;
use crate::state::networks::Term;
use crate::state::redis::Redis;
use crate::state::short_reason;

/// Messages of another version are not for us.
const VERSION: u32 = 1;
/// Longer messages are nobody's.
const MESSAGE_BYTES_MAX: usize = 4096;
/// How long to wait before listening again, at first and at most.
const RELISTEN_MIN: std::time::Duration = std::time::Duration::from_millis(100);
const RELISTEN_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// How often cached limits are settled.
const SETTLE_INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);

/// What changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Change {
    /// An address or network is banned.
    Ban {
        /// Whom.
        target: IpEntry,
        /// The last banned moment.
        until: f64,
        /// Why.
        reason: Option<String>,
    },
    /// A ban was lifted.
    Unban {
        /// Whose.
        target: IpEntry,
    },
    /// All bans were lifted.
    Reset,
    /// The custom patterns are others now.
    Patterns,
}

#[derive(Serialize, Deserialize)]
struct Message<C> {
    v: u32,
    from: String,
    #[serde(flatten)]
    change: C,
}

impl Change {
    /// The text sent for this change by `origin`.
    pub(super) fn message(&self, origin: &str) -> String {
        let message = Message { v: VERSION, from: origin.to_owned(), change: self };
        // A struct of numbers and texts has no way not to serialise; an empty message would be ignored.
        serde_json::to_string(&message).unwrap_or_default()
    }

    /// The change in a message, unless `own` sent it or it is not one we know.
    fn heard(payload: &[u8], own: &str) -> Option<Self> {
        if MESSAGE_BYTES_MAX < payload.len() {
            return None;
        }
        let message: Message<Self> = serde_json::from_slice(payload).ok()?;
        (message.v == VERSION && message.from != own).then_some(message.change)
    }
}

impl Redis {
    /// Listens to other replicas and reads what may have been missed. Never returns; run one beside the service.
    ///
    /// `clock` tells the time of the edge.
    pub async fn maintain(&self, clock: impl Fn() -> Timestamp + Send + Sync) {
        let settling = async {
            loop {
                sleep(SETTLE_INTERVAL).await;
                self.settle_debts(clock()).await;
            }
        };
        tokio::join!(self.hear(&clock), settling, self.watch_data(&clock), self.watch_writes());
    }

    /// Listens, and listens again when the connection ends. Never returns.
    async fn hear(&self, clock: &impl Fn() -> Timestamp) {
        let mut wait = RELISTEN_MIN;
        loop {
            let heard = self.listen(clock).await;
            self.listening.store(false, Ordering::Relaxed);
            // What was known to be clean may be banned by the time we hear again. And whether Redis is there shows in the
            // breaker, also when no request asks.
            if !heard && let Err(error) = self.ping().await {
                tracing::debug!(%error, "redis does not answer");
            }
            wait = if heard { RELISTEN_MIN } else { (wait * 2).min(RELISTEN_MAX) };
            sleep(jittered(wait)).await;
        }
    }

    /// Tells the others. A message that gets lost is made up for by their next reading.
    pub(super) async fn publish(&self, change: &Change) {
        let mut publish = cmd("PUBLISH");
        publish.arg(self.keys.channel()).arg(change.message(&self.origin));
        if let Err(error) = self.call(&publish).await {
            tracing::debug!(%error, "a change was not pushed to other replicas");
        }
    }

    /// Brings what is remembered here in line with a change.
    pub(super) fn apply(&self, change: &Change, now: Timestamp) {
        match change {
            Change::Ban { target, until, reason } => {
                let term = Term { until: *until, reason: reason.as_deref().map(|reason| short_reason(reason).into()) };
                match target {
                    IpEntry::Addr(addr) => self.cache.ban(*addr, term, now),
                    IpEntry::Net(net) => {
                        self.networks_changed.fetch_add(1, Ordering::AcqRel);
                        self.networks.insert(*net, term, now);
                    }
                }
            }
            Change::Unban { target: IpEntry::Addr(addr) } => self.cache.forget(*addr),
            Change::Unban { target: IpEntry::Net(net) } => {
                self.networks_changed.fetch_add(1, Ordering::AcqRel);
                self.networks.remove(*net, now);
            }
            Change::Reset => {
                self.networks_changed.fetch_add(1, Ordering::AcqRel);
                self.networks.clear();
                self.cache.clear();
            }
            Change::Patterns => self.patterns_changed.send_modify(|count| *count += 1),
        }
    }

    /// Listens until the connection ends; true when it was up.
    async fn listen(&self, clock: &impl Fn() -> Timestamp) -> bool {
        let opened = timeout(self.patience(), async {
            let mut listening = self.links.listen().await?;
            listening.subscribe(&self.keys.channel()).await?;
            Ok::<_, deadpool_redis::redis::RedisError>(listening)
        });
        let Ok(Ok(mut listening)) = opened.await else { return false };
        // Whatever changed while nobody listened: networks are read below, clean clients are asked about again.
        self.cache.forget_clean();
        self.patterns_changed.send_modify(|count| *count += 1);
        self.listening.store(true, Ordering::Relaxed);
        self.counts.listens.fetch_add(1, Ordering::Relaxed);
        self.migrate_once().await;
        let mut reading = tokio::time::interval(self.settings.networks_interval);
        let mut patterns = tokio::time::interval(self.settings.patterns_interval);
        let mut health = tokio::time::interval(self.settings.health_interval.unwrap_or(RELISTEN_MAX * 3600));
        health.reset();
        loop {
            tokio::select! {
                message = listening.next() => {
                    let Some(message) = message else { return true };
                    if let Some(change) = Change::heard(message.get_payload_bytes(), &self.origin) {
                        self.counts.pushes.fetch_add(1, Ordering::Relaxed);
                        self.apply(&change, clock());
                    }
                }
                _ = reading.tick() => self.read_networks(clock()).await,
                _ = patterns.tick() => self.compare_patterns().await,
                _ = health.tick() => {
                    let alive = timeout(self.patience(), listening.ping()).await;
                    if !matches!(alive, Ok(Ok(_))) {
                        return true;
                    }
                }
            }
        }
    }

    /// Moves bans under old spellings, once in the life of this process.
    async fn migrate_once(&self) {
        if self.migrated.load(Ordering::Relaxed) {
            return;
        }
        match self.migrate_bans().await {
            Ok(0) => self.migrated.store(true, Ordering::Relaxed),
            Ok(count) => {
                tracing::info!(count, "bans under old spellings were moved");
                self.migrated.store(true, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "bans under old spellings were not moved"),
        }
    }

    /// Reads the banned networks, unless one changed here meanwhile: then the next reading will do.
    async fn read_networks(&self, now: Timestamp) {
        let before = self.networks_changed.load(Ordering::Acquire);
        let provenance = self.provenance();
        let read = match self.read_matching("banned_networks", "*").await {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%error, "banned networks were not read");
                return;
            }
        };
        let known = self.networks.list(now);
        let terms = read.into_iter().filter_map(|(name, value)| {
            let IpEntry::Net(net) = name.parse().ok()? else { return None };
            match read_moment(&value) {
                Some(until) => (now <= until).then_some((net, until.0)),
                // What makes no sense does not end a ban that we know.
                None => known.iter().find(|(other, _)| *other == net).map(|(net, term)| (*net, term.until)),
            }
        });
        if before == self.networks_changed.load(Ordering::Acquire) {
            let is_complete = provenance.is_some() && provenance == self.provenance();
            let unseen = if is_complete { &[] } else { known.as_slice() };
            self.networks.replace(unseen.iter().map(|(net, term)| (*net, term.until)).chain(terms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_and_its_sender_ignores_it() {
        for change in [
            Change::Ban {
                target: "203.0.113.1".parse().unwrap(),
                until: 1_795_249_371.818_84,
                reason: Some("why".into()),
            },
            Change::Ban { target: "198.51.100.0/24".parse().unwrap(), until: 1.0, reason: None },
            Change::Unban { target: "2001:db8::/32".parse().unwrap() },
            Change::Reset,
            Change::Patterns,
        ] {
            let message = change.message("one");
            assert_eq!(Change::heard(message.as_bytes(), "other"), Some(change));
            assert_eq!(Change::heard(message.as_bytes(), "one"), None);
        }
    }

    #[test]
    fn a_strange_message_is_ignored() {
        let long = format!(r#"{{"v":1,"from":"x","op":"reset","pad":"{}"}}"#, "x".repeat(MESSAGE_BYTES_MAX));
        for message in ["", "reset", r#"{"v":2,"from":"x","op":"reset"}"#, r#"{"v":1,"from":"x","op":"dance"}"#, &long]
        {
            assert_eq!(Change::heard(message.as_bytes(), "other"), None, "{message}");
        }
    }
}
