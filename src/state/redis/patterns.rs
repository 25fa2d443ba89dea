//! Custom patterns, shared with applications that embed guard-core.
//!
//! They keep all patterns in one text, joined by commas, which a pattern with a comma does not survive. Such patterns lie
//! in a set of our own beside it, where only our replicas see them.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use crate::model::time::Timestamp;
use crate::state::redis::push::Change;
use crate::state::redis::store::on;
use crate::state::redis::{Redis, parsed, script};
use crate::state::{PATTERNS_MAX, Patterns, StateError, storable, too_many_patterns};

/// The namespace and name under which participants share their custom patterns, joined by commas.
const JOINED: (&str, &str) = ("patterns", "custom");
/// A set of our own for the patterns that this form cannot hold.
const WITH_COMMAS: (&str, &str) = ("envoy_guard", "patterns");

impl Patterns for Redis {
    async fn patterns(&self) -> Result<BTreeSet<String>, StateError> {
        let joined = self.get(JOINED.0, JOINED.1).await?.unwrap_or_default();
        let key = self.keys.named(WITH_COMMAS.0, WITH_COMMAS.1);
        let with_commas: Vec<String> = parsed(self.call_patiently(&on("SMEMBERS", &key)).await?)?;
        let whole = joined.split(',').filter(|piece| !piece.is_empty()).map(str::to_owned);
        let patterns: BTreeSet<String> = whole.chain(with_commas).take(PATTERNS_MAX).collect();
        *self.known_patterns.lock().unwrap_or_else(PoisonError::into_inner) = Some(patterns.clone());
        Ok(patterns)
    }

    async fn add_pattern(&self, pattern: &str) -> Result<bool, StateError> {
        storable(pattern)?;
        let there = self.patterns().await?;
        // The bound is for sanity, not for two who add the last one at once.
        if PATTERNS_MAX <= there.len() && !there.contains(pattern) {
            return Err(too_many_patterns());
        }
        self.set_pattern(pattern, true).await
    }

    async fn remove_pattern(&self, pattern: &str) -> Result<bool, StateError> {
        if pattern.is_empty() { Ok(false) } else { self.set_pattern(pattern, false).await }
    }

    async fn clear_patterns(&self) -> Result<(), StateError> {
        for (namespace, name) in [JOINED, WITH_COMMAS] {
            self.call_patiently(&on("UNLINK", &self.keys.named(namespace, name))).await?;
        }
        self.publish(&Change::Patterns).await;
        self.apply(&Change::Patterns, Timestamp(0.0));
        Ok(())
    }

    fn patterns_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.patterns_changed.subscribe()
    }
}

impl Redis {
    /// The patterns as they were read last, also while Redis is away; `None` when they never were.
    #[must_use]
    pub fn known_patterns(&self) -> Option<BTreeSet<String>> {
        self.known_patterns.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a pattern for all participants, or takes it away; false when that changes nothing.
    async fn set_pattern(&self, pattern: &str, wanted: bool) -> Result<bool, StateError> {
        let change = Change::Patterns;
        let arguments =
            [pattern.to_owned(), u8::from(wanted).to_string(), self.keys.channel(), change.message(&self.origin)];
        let (script, (namespace, name)) =
            if pattern.contains(',') { (&script::COMMA_PATTERN, WITH_COMMAS) } else { (&script::PATTERN, JOINED) };
        let changed: u8 = parsed(self.run(script, &[self.keys.named(namespace, name)], &arguments).await?)?;
        if changed == 1 {
            self.apply(&change, Timestamp(0.0));
        }
        Ok(changed == 1)
    }

    /// Looks whether a participant that pushes nothing changed the patterns.
    pub(super) async fn compare_patterns(&self) {
        let known = self.known_patterns();
        match self.patterns().await {
            Ok(read) if known.is_some_and(|known| known != read) => self.apply(&Change::Patterns, Timestamp(0.0)),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "custom patterns were not read"),
        }
    }
}
