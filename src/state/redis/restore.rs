//! A Redis that lost its data gets back the bans that are known here, and does not lift them meanwhile.
//!
//! A marker of our own disappears together with the data. Every new connection may lead to such a server: until the
//! marker was looked at again, that Redis knows nothing of a ban which is known here does not end it. The nodes of a
//! Cluster reconnect unseen, so there a node that comes back empty takes the bans of its slots with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, cmd};
use tokio::time::sleep;

use crate::model::addr::IpEntry;
use crate::model::time::Timestamp;
use crate::state::StateError;
use crate::state::breaker::jittered;
use crate::state::keys::moment;
use crate::state::redis::ask::join_all;
use crate::state::redis::{Redis, parsed};

/// Namespace and name of the marker.
const MARKER: (&str, &str) = ("envoy_guard", "data");
/// A replica that becomes master may not have heard of what was written shortly before.
const REPLICATION_LAG: Duration = Duration::from_secs(10);
/// How long to wait after a failed look.
const AGAIN: Duration = Duration::from_millis(100);
/// Bans written together.
const BATCH: usize = 200;

/// Which data is where, as far as we know.
#[derive(Debug, Default)]
pub(super) struct Provenance {
    /// The marker and the server seen last.
    seen: Mutex<Option<Origin>>,
    /// Connections up to this one lead to that data.
    verified: AtomicU64,
    /// True while somebody looks.
    watched: AtomicBool,
}

#[derive(Clone, Debug, PartialEq)]
struct Origin {
    marker: String,
    /// Which process; empty where the server does not tell.
    run: String,
}

impl Redis {
    /// A number that stays while every connection leads to the data that we know; `None` while one may not.
    pub(super) fn provenance(&self) -> Option<u64> {
        if !self.provenance.watched.load(Ordering::Relaxed) {
            return Some(0);
        }
        let verified = self.provenance.verified.load(Ordering::Acquire);
        (verified == self.links.opened()).then_some(verified)
    }

    /// Looks at the data behind every new connection. Never returns.
    pub(super) async fn watch_data(&self, clock: impl Fn() -> Timestamp) {
        self.provenance.watched.store(true, Ordering::Relaxed);
        loop {
            let opened = self.links.opened();
            if opened == self.provenance.verified.load(Ordering::Relaxed) {
                self.links.wait_for_opening().await;
                continue;
            }
            match self.look(clock()).await {
                Ok(()) => self.provenance.verified.store(opened, Ordering::Release),
                Err(error) => {
                    tracing::debug!(%error, "it is not known whether redis kept its data");
                    sleep(jittered(AGAIN)).await;
                }
            }
        }
    }

    async fn look(&self, now: Timestamp) -> Result<(), StateError> {
        let found = Origin { marker: self.marker().await?, run: self.run_of_server().await? };
        let seen = || self.provenance.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen().clone();
        let since = match known {
            Some(known) if known.marker != found.marker => Some(f64::NEG_INFINITY),
            Some(known) if known.run != found.run => Some(now.0 - REPLICATION_LAG.as_secs_f64()),
            _ => None,
        };
        if let Some(since) = since {
            let count = self.write_back(since, now).await?;
            tracing::info!(count, "redis is another one than before, bans known here were written back");
        }
        *seen() = Some(found);
        Ok(())
    }

    /// The marker in Redis, set when there is none.
    async fn marker(&self) -> Result<String, StateError> {
        let key = self.keys.named(MARKER.0, MARKER.1);
        let mut read = cmd("GET");
        read.arg(&key);
        let mut write = cmd("SET");
        write.arg(&key).arg(uuid::Uuid::new_v4().simple().to_string());
        match self.call_patiently(&read).await {
            Err(StateError::Corrupt(_)) => {}
            other => match parsed::<Option<String>>(other?)? {
                Some(marker) => return Ok(marker),
                // Two replicas may do so at once.
                None => _ = write.arg("NX"),
            },
        }
        self.call_patiently(&write).await?;
        parsed(self.call_patiently(&read).await?)
    }

    /// Which process answers. Empty on a Cluster, which is many, and where asking is not allowed.
    async fn run_of_server(&self) -> Result<String, StateError> {
        if self.links.is_cluster() {
            return Ok(String::new());
        }
        let mut info = cmd("INFO");
        info.arg("server");
        let text: String = match self.call_patiently(&info).await {
            Err(StateError::Unavailable(why)) if why.contains("NOPERM") => String::new(),
            other => parsed(other?)?,
        };
        Ok(text.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim_end().to_owned())
    }

    /// Writes the bans that were known or confirmed after `since`, where Redis has none.
    async fn write_back(&self, since: f64, now: Timestamp) -> Result<usize, StateError> {
        let addresses = self.cache.bans_since(since, now).into_iter();
        let networks = self.networks.list(now).into_iter().map(|(net, term)| (IpEntry::Net(net), term.until));
        let bans: Vec<(IpEntry, f64)> =
            addresses.map(|(addr, until)| (IpEntry::Addr(addr), until)).chain(networks).collect();
        for batch in bans.chunks(BATCH) {
            let writes = batch.iter().map(|(target, until)| async move {
                self.call_patiently(&self.ban_unless_there(*target, *until, now)).await
            });
            join_all(writes).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        Ok(bans.len())
    }

    fn ban_unless_there(&self, target: IpEntry, until: f64, now: Timestamp) -> Cmd {
        // Rounded up: the value ends the ban, not the key.
        let left = (until - now.0).ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
        let mut write = cmd("SET");
        write.arg(self.keys.ban(target)).arg(moment(Timestamp(until))).arg("NX").arg("EX").arg(left);
        write
    }
}
