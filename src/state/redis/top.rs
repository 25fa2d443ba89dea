//! The busiest rate limit histories in Redis: a bounded walk over the keys, a count of each.

use std::collections::HashSet;

use deadpool_redis::redis::cmd;

use crate::model::time::Timestamp;
use crate::state::StateError;
use crate::state::keys::{Keys, moment};
use crate::state::redis::ask::join_all;
use crate::state::redis::{Redis, parsed};
use crate::state::top::{Busiest, Busy, BusyKey};

/// Histories that are looked at, at most.
const HISTORIES_MAX: usize = 20_000;
/// Keys asked for at once, and steps of the walk on one server at most: other keys may lie between ours.
const SCAN_COUNT: u32 = 1000;
const STEPS_MAX: usize = 1000;
/// Counts that are on their way together.
const TOGETHER: usize = 200;

impl Redis {
    /// The busiest `size` histories.
    pub(in crate::state) async fn busiest(
        &self,
        size: usize,
        now: Timestamp,
        window: impl Fn(&BusyKey) -> Option<u32> + Send + Sync,
    ) -> Result<Busiest, StateError> {
        let (keys, is_complete) = self.histories().await?;
        let mut busiest = Busiest { is_complete, source: "redis", ..Busiest::default() };
        for batch in keys.chunks(TOGETHER) {
            let counts = join_all(batch.iter().map(|(key, busy)| {
                let from = window(busy).map(|seconds| format!("({}", moment(now.plus(-f64::from(seconds)))));
                async move {
                    let mut count = cmd("ZCOUNT");
                    count.arg(key).arg(from.as_deref().unwrap_or("-inf")).arg("+inf");
                    match self.call_patiently(&count).await {
                        // Somebody put something else there.
                        Err(StateError::Corrupt(_)) => Ok(0),
                        other => parsed::<u64>(other?),
                    }
                }
            }));
            let counts: Vec<u64> = counts.await.into_iter().collect::<Result<_, _>>()?;
            let entries = batch.iter().zip(counts);
            busiest.add(entries.map(|((_, key), count)| Busy { key: key.clone(), count }), size);
        }
        Ok(busiest)
    }

    /// Keys of histories, each once; false when there are more than are looked at.
    async fn histories(&self) -> Result<(Vec<(String, BusyKey)>, bool), StateError> {
        let (mut found, mut is_complete) = (HashSet::new(), true);
        for node in self.masters().await? {
            for (namespace, pattern) in Keys::HISTORIES {
                let pattern = self.keys.matching(namespace, pattern);
                let (mut cursor, mut steps) = ("0".to_owned(), 0);
                loop {
                    let mut scan = cmd("SCAN");
                    scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
                    let (next, keys): (String, Vec<String>) = self.on_node(node.as_ref(), scan).await?;
                    found.extend(keys);
                    steps += 1;
                    if next == "0" {
                        break;
                    }
                    if HISTORIES_MAX <= found.len() || STEPS_MAX <= steps {
                        is_complete = false;
                        break;
                    }
                    cursor = next;
                }
            }
        }
        let histories = found.into_iter().filter_map(|key| self.keys.busy(&key).map(|busy| (key, busy)));
        Ok((histories.collect(), is_complete))
    }
}
