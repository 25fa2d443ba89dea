//! What the service decides by, as one immutable value, and the place where a new one replaces it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use serde::Serialize;
use tokio::sync::watch;

use crate::config::Config;
use crate::engine::policy::{Feeds, Policy};
use crate::model::time::Timestamp;

/// One version of everything that can change at run time. Requests in flight keep the one they began with.
#[derive(Debug)]
pub struct Snapshot {
    /// The compiled policy.
    pub policy: Policy,
    /// The configuration it was compiled from.
    pub config: Arc<Config>,
    /// The facts it was compiled with.
    pub feeds: Arc<Feeds>,
    /// Counts snapshots of this process, from 1.
    pub version: u64,
    /// Stands for the configuration, secrets included, in hexadecimal.
    pub hash: String,
    /// What the user should know about the configuration, and which settings do nothing.
    pub notices: Notices,
    /// The dynamic rules that lie over the configuration.
    pub ruling: Option<Ruling>,
}

/// Dynamic rules in force.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Ruling {
    /// What they are called.
    pub rule_id: String,
    /// Counts up.
    pub version: i64,
    /// When they end, in ISO 8601; absent when they do not.
    pub expires_at: Option<String>,
    /// They put the service into lockdown.
    pub emergency_mode: bool,
    /// What of them has no effect here.
    pub warnings: Vec<String>,
}

/// Remarks on a configuration that stop nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Notices {
    /// Settings that do less, or something else, than one may think.
    pub warnings: Vec<String>,
    /// Settings that do nothing in this build.
    pub inactive: Vec<String>,
}

/// How the latest attempt to replace the snapshot ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReloadStatus {
    /// Attempts that replaced the snapshot.
    pub succeeded: u64,
    /// Attempts that left it as it was.
    pub failed: u64,
    /// When the latest attempt ended, in seconds since the Unix epoch; 0 when there was none.
    pub at: f64,
    /// Why the latest attempt failed; empty after a success.
    pub error: String,
    /// Times that rows of patterns were compiled, the first time included.
    pub patterns_compiled: u64,
}

/// The current snapshot, for many readers and one writer.
#[derive(Debug)]
pub struct Live {
    current: Arc<ArcSwap<Snapshot>>,
    status: ArcSwap<ReloadStatus>,
    version: watch::Sender<u64>,
}

impl Live {
    /// Begins with `first`.
    #[must_use]
    pub fn new(first: Snapshot) -> Arc<Self> {
        let version = watch::Sender::new(first.version);
        Arc::new(Self {
            current: Arc::new(ArcSwap::from_pointee(first)),
            status: ArcSwap::from_pointee(ReloadStatus { patterns_compiled: 1, ..ReloadStatus::default() }),
            version,
        })
    }

    /// Tells the version of the snapshot whenever there is a new one.
    #[must_use]
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The current snapshot. For the request path there is [`Reader`].
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// How the latest attempt to replace the snapshot ended.
    #[must_use]
    pub fn status(&self) -> Arc<ReloadStatus> {
        self.status.load_full()
    }

    /// Replaces the snapshot by one of the same configuration. To be called by one task only.
    pub fn exchange(&self, snapshot: Snapshot) {
        let version = snapshot.version;
        if !snapshot.policy.detector.has_rows_of(&self.current.load().policy.detector) {
            let status = ReloadStatus::clone(&self.status.load());
            let patterns_compiled = status.patterns_compiled + 1;
            self.status.store(Arc::new(ReloadStatus { patterns_compiled, ..status }));
        }
        self.current.store(Arc::new(snapshot));
        self.version.send_replace(version);
    }

    /// Replaces the snapshot, or keeps it and notes why; a change that succeeded may need no other one. To be called by
    /// one task only.
    pub fn replace(&self, attempt: Result<Option<Snapshot>, String>, now: Timestamp) {
        let error = match attempt {
            Ok(snapshot) => {
                if let Some(snapshot) = snapshot {
                    self.exchange(snapshot);
                }
                None
            }
            Err(error) => Some(error),
        };
        let mut status = ReloadStatus::clone(&self.status.load());
        status.at = now.0;
        match error {
            None => {
                status.succeeded += 1;
                status.error.clear();
            }
            Some(error) => {
                status.failed += 1;
                status.error = error;
            }
        }
        self.status.store(Arc::new(status));
    }
}

/// A thread's view of the current snapshot: looking costs one load of a pointer that nobody writes to.
#[derive(Clone, Debug)]
pub struct Reader {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
}

impl Reader {
    /// A reader for one thread.
    #[must_use]
    pub fn new(live: &Live) -> Self {
        Self { cache: Cache::new(Arc::clone(&live.current)) }
    }

    /// The current snapshot.
    pub fn current(&mut self) -> &Arc<Snapshot> {
        self.cache.load()
    }
}
