//! Operations on keys by namespace and name, for what is not asked on every request.

use std::collections::HashSet;
use std::num::NonZeroU32;

use deadpool_redis::redis::{Cmd, FromRedisValue, Value, cmd};

use crate::state::StateError;
use crate::state::keys::escape;
use crate::state::redis::ask::join_all;
use crate::state::redis::{Failure, Redis, is_broken, parsed, script};

/// Keys looked at by one SCAN step.
const SCAN_COUNT: u32 = 500;
/// Keys handled together.
const BATCH: usize = 200;
/// Keys that one listing returns at most; more is an error, not an endless answer.
const KEYS_MAX: usize = 1_000_000;

/// Operations on the keys of one namespace. The full key is prefix, namespace, colon, name.
impl Redis {
    /// The text under a name.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<String>, StateError> {
        parsed(self.call_patiently(&on("GET", &self.keys.named(namespace, name))).await?)
    }

    /// Stores a text, for so many seconds or for good.
    pub async fn set(
        &self,
        namespace: &str,
        name: &str,
        value: &str,
        ttl: Option<NonZeroU32>,
    ) -> Result<(), StateError> {
        let mut set = on("SET", &self.keys.named(namespace, name));
        set.arg(value);
        if let Some(seconds) = ttl {
            set.arg("EX").arg(seconds.get());
        }
        self.call_patiently(&set).await.map(drop)
    }

    /// Adds one to the number under a name, absent being 0, and lets it expire so many seconds from now.
    pub async fn increment(&self, namespace: &str, name: &str, ttl: Option<NonZeroU32>) -> Result<i64, StateError> {
        let seconds = ttl.map_or(0, NonZeroU32::get).to_string();
        parsed(self.run(&script::INCREMENT, &[self.keys.named(namespace, name)], &[seconds]).await?)
    }

    /// True when there is something under a name.
    pub async fn exists(&self, namespace: &str, name: &str) -> Result<bool, StateError> {
        parsed(self.call_patiently(&on("EXISTS", &self.keys.named(namespace, name))).await?)
    }

    /// Deletes what is under a name; false when there was nothing.
    pub async fn delete(&self, namespace: &str, name: &str) -> Result<bool, StateError> {
        parsed(self.call_patiently(&on("UNLINK", &self.keys.named(namespace, name))).await?)
    }

    /// The names in a namespace that match a glob pattern, in no order. Walks the keys with SCAN.
    pub async fn names(&self, namespace: &str, pattern: &str) -> Result<Vec<String>, StateError> {
        let keys = self.scan(&self.keys.matching(namespace, pattern)).await?;
        Ok(keys.iter().filter_map(|key| self.keys.name_in(namespace, key)).map(str::to_owned).collect())
    }

    /// Deletes what matches a glob pattern and returns how many that were. Walks the keys with SCAN.
    pub async fn delete_matching(&self, namespace: &str, pattern: &str) -> Result<u64, StateError> {
        let keys = self.scan(&self.keys.matching(namespace, pattern)).await?;
        let mut deleted = 0;
        for batch in keys.chunks(BATCH) {
            for gone in self.each(batch, "UNLINK").await? {
                deleted += parsed::<u64>(gone)?;
            }
        }
        Ok(deleted)
    }

    /// Names and texts of what matches a glob pattern. What is no text reads as the empty text.
    pub(super) async fn read_matching(
        &self,
        namespace: &str,
        pattern: &str,
    ) -> Result<Vec<(String, String)>, StateError> {
        let keys = self.scan(&self.keys.matching(namespace, pattern)).await?;
        let mut read = Vec::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            let values =
                join_all(batch.iter().map(|key| async move { self.call_patiently(&on("GET", key)).await })).await;
            for (key, value) in batch.iter().zip(values) {
                let value = match value {
                    Err(StateError::Corrupt(_)) => Some(String::new()),
                    other => parsed::<Option<String>>(other?)?,
                };
                read.extend(self.keys.name_in(namespace, key).map(str::to_owned).zip(value));
            }
        }
        Ok(read)
    }

    /// One command for each key, all on their way together.
    async fn each(&self, keys: &[String], verb: &str) -> Result<Vec<Value>, StateError> {
        let calls = keys.iter().map(|key| async move { self.call_patiently(&on(verb, key)).await });
        join_all(calls).await.into_iter().collect()
    }

    /// All keys that match, each once, from every master.
    async fn scan(&self, pattern: &str) -> Result<Vec<String>, StateError> {
        let mut found = HashSet::new();
        for node in self.masters().await? {
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
                let (next, keys): (String, Vec<String>) = self.on_node(node.as_ref(), scan).await?;
                found.extend(keys);
                if KEYS_MAX < found.len() {
                    return Err(StateError::Refused(format!("more than {KEYS_MAX} keys match")));
                }
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The masters of a Cluster by address; a single server is `None`.
    pub(super) async fn masters(&self) -> Result<Vec<Option<(String, u16)>>, StateError> {
        if !self.links.is_cluster() {
            return Ok(vec![None]);
        }
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let ranges: Vec<Vec<Value>> = self.on_node(None, slots).await?;
        let master = |range: Vec<Value>| {
            let node: Vec<Value> = parsed(range.into_iter().nth(2)?).ok()?;
            let [host, port, ..] = <[Value; 2]>::try_from(node.into_iter().take(2).collect::<Vec<_>>()).ok()?;
            Some((parsed::<String>(host).ok()?, parsed::<u16>(port).ok()?))
        };
        let masters: HashSet<(String, u16)> = ranges.into_iter().filter_map(master).collect();
        Ok(masters.into_iter().map(Some).collect())
    }

    pub(super) async fn on_node<T: FromRedisValue>(
        &self,
        node: Option<&(String, u16)>,
        command: Cmd,
    ) -> Result<T, StateError> {
        let sent = async {
            let (mut wire, open) = self.links.wire().await?;
            wire.send_to(node, command).await.map_err(|error| {
                if is_broken(&error) {
                    self.links.discard(&open);
                }
                StateError::from(Failure::of(&error))
            })
        };
        parsed(tokio::time::timeout(self.patience(), sent).await.map_err(|_| StateError::Deadline)??)
    }
}

/// A glob pattern that matches `name` and nothing else.
#[must_use]
pub fn literally(name: &str) -> String {
    escape(name)
}

pub(super) fn on(verb: &str, key: &str) -> Cmd {
    let mut command = cmd(verb);
    command.arg(key);
    command
}
