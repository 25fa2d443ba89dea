//! Custom patterns that replicas share: what state holds is compiled beside the service and swapped in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Budget};
use crate::detect::custom::{self, CustomPatterns, PatternError};
use crate::state::{Patterns, StateError};

/// Time that compiling a set of shared patterns may take; the set before it stays when that is not enough.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(30);
/// After no change for so long the patterns are compiled together.
const QUIET: Duration = Duration::from_secs(2);
/// How long to wait before reading again what could not be read, at first and at most.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Why a pattern is not shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It cannot be used.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// It cannot be stored.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Shares a pattern with all replicas, once it is known that it compiles; false when it was there.
///
/// # Errors
/// Why it is refused, with the place of the mistake, or why it cannot be stored.
pub async fn share(state: &impl Patterns, pattern: &str) -> Result<bool, ShareError> {
    let text = pattern.to_owned();
    // Compiling takes a while; a panic there would be a mistake of ours and loses nothing.
    let tried = tokio::task::spawn_blocking(move || custom::test(&text)).await;
    tried.map_err(|error| StateError::Unavailable(error.to_string()))??;
    Ok(state.add_pattern(pattern).await?)
}

/// Keeps `custom` equal to what `state` holds. Never returns; run one beside the service.
pub async fn follow(state: &impl Patterns, custom: &Arc<CustomPatterns>) {
    let mut changes = state.patterns_changed();
    let mut complaints = BTreeSet::new();
    let mut retry = RETRY;
    loop {
        changes.borrow_and_update();
        match state.patterns().await {
            Ok(patterns) => {
                retry = RETRY;
                take(custom, patterns, &mut complaints).await;
            }
            Err(error) => {
                tracing::debug!(%error, "custom patterns were not read");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
                continue;
            }
        }
        let settling = async {
            tokio::time::sleep(QUIET).await;
            settle(custom).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = settling, if custom.is_layered() => {}
        }
    }
}

/// Compiles what was added piece by piece together, on a thread that serves nobody.
async fn settle(custom: &Arc<CustomPatterns>) {
    let custom = Arc::clone(custom);
    // A panic there would be a mistake of ours and loses nothing: the layers stay.
    drop(tokio::task::spawn_blocking(move || custom.settle()).await);
}

/// Compiles on a thread that serves nobody; what is refused is reported once.
async fn take(custom: &Arc<CustomPatterns>, patterns: BTreeSet<String>, complaints: &mut BTreeSet<String>) {
    let custom = Arc::clone(custom);
    let compiled = tokio::task::spawn_blocking(move || {
        let outcome = custom.replace(&patterns, &Budget::new(clock::instant(), COMPILE_TIME_MAX));
        (outcome, custom.count())
    });
    let Ok(((changed, refused), count)) = compiled.await else { return };
    if changed {
        tracing::info!(count, "custom patterns changed");
    }
    let mut still = BTreeSet::new();
    for (pattern, error) in refused {
        // The text may name what must not be logged; its id finds it again.
        let row = if pattern.is_empty() { "all".to_owned() } else { custom::row(&pattern) };
        if !complaints.contains(&row) {
            tracing::warn!(pattern = row, %error, "a shared custom pattern is not used");
        }
        still.insert(row);
    }
    *complaints = still;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::View;
    use crate::state::memory::Memory;

    /// Waits until `custom` has these patterns.
    async fn until(custom: &CustomPatterns, expected: &[&str]) {
        let holds = || custom.list() == expected;
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{:?}", custom.list()));
    }

    #[tokio::test]
    async fn what_one_replica_shares_every_replica_finds() {
        let state = Arc::new(Memory::new(10));
        let replicas = [Arc::new(CustomPatterns::default()), Arc::new(CustomPatterns::default())];
        let followers = replicas.clone().map(|custom| {
            let state = Arc::clone(&state);
            tokio::spawn(async move { follow(&*state, &custom).await })
        });
        assert!(share(&*state, "evil{2,3}").await.unwrap());
        assert!(!share(&*state, "evil{2,3}").await.unwrap());
        assert!(matches!(share(&*state, "(bad").await, Err(ShareError::Pattern(error)) if error.position == Some(0)));
        // Others may store what we would refuse.
        assert!(state.add_pattern("a*").await.unwrap());
        assert!(state.add_pattern("worse").await.unwrap());
        for custom in &replicas {
            until(custom, &["evil{2,3}", "worse"]).await;
            let mut threats = Vec::new();
            custom.find("an EVILLL thing", View::Processed, &mut threats);
            assert_eq!(threats.len(), 1);
        }
        assert!(state.remove_pattern("evil{2,3}").await.unwrap());
        for custom in &replicas {
            until(custom, &["worse"]).await;
        }
        state.clear_patterns().await.unwrap();
        for custom in &replicas {
            until(custom, &[]).await;
        }
        followers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
