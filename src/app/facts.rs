//! Feeds beside the service: follows what the configuration in force needs, and brings what changed to the keeper.

use std::sync::Arc;

use tokio::sync::watch;

use crate::app::keeper::{Change, Mailbox};
use crate::clock;
use crate::config::data::OutboundConfig;
use crate::feeds::board::Board;
use crate::feeds::plan::Plan;
use crate::feeds::refresh::{Delivery, Following, InForce, digest_of, follow};
use crate::live::{Live, Snapshot};
use crate::model::place::Provider;
use crate::net::client::{Client, Options};
use crate::state::Backend;

/// The HTTP client that the configuration describes; reads files.
///
/// # Errors
/// When the certificates cannot be read; a message for people.
pub fn client(config: &OutboundConfig) -> Result<Client, String> {
    let connect_timeout = std::time::Duration::from_millis(config.connect_timeout_ms.into());
    let options = Options::with_file(config.ca_file.as_deref(), connect_timeout)?;
    Client::new(&options).map_err(|error| error.to_string())
}

/// Follows the feeds of whatever configuration is in force. Never returns; run one beside the service.
pub async fn run(live: Arc<Live>, state: Arc<Backend>, board: Arc<Board>, mailbox: Mailbox) {
    let mut versions = live.versions();
    let mut current: Option<(Needs, Following)> = None;
    loop {
        versions.borrow_and_update();
        let snapshot = live.snapshot();
        let needs = Needs::of(&snapshot).await;
        if current.as_ref().is_none_or(|(known, _)| *known != needs) {
            // Ends the tasks before others begin.
            drop(current.take());
            let following = begin(&needs, &snapshot, (&board, &state)).await;
            current = Some((needs, following));
        }
        let Some((_, following)) = &mut current else { return };
        if !attend(following, &mut versions, &mailbox).await {
            return;
        }
    }
}

/// What decides which tasks there are.
#[derive(Debug, PartialEq)]
struct Needs {
    plan: Plan,
    outbound: OutboundConfig,
}

impl Needs {
    async fn of(snapshot: &Snapshot) -> Self {
        let config = Arc::clone(&snapshot.config);
        let outbound = config.outbound.clone();
        // Looks for files.
        let plan = tokio::task::spawn_blocking(move || Plan::of(&config)).await.unwrap_or_default();
        Self { plan, outbound }
    }
}

async fn begin(needs: &Needs, snapshot: &Arc<Snapshot>, (board, state): (&Arc<Board>, &Arc<Backend>)) -> Following {
    let outbound = needs.outbound.clone();
    let client = match tokio::task::spawn_blocking(move || client(&outbound)).await {
        Ok(Ok(client)) => Some(client),
        Ok(Err(error)) => {
            tracing::error!(error, "nothing can be downloaded");
            None
        }
        Err(_) => None,
    };
    let known = Arc::clone(snapshot);
    let in_force = tokio::task::spawn_blocking(move || in_force(&known)).await.unwrap_or_default();
    follow((&needs.plan, &in_force), client, (Arc::clone(board), Arc::clone(state)), clock::now)
}

/// Digests of what the snapshot was compiled with.
fn in_force(snapshot: &Snapshot) -> InForce {
    let mut known = InForce::new();
    for provider in Provider::ALL {
        if let Some(networks) = snapshot.feeds.cloud.of(provider).filter(|networks| !networks.is_empty()) {
            known.insert(provider.name().to_owned(), digest_of(networks));
        }
    }
    known.extend(snapshot.feeds.digests.clone());
    known
}

/// Brings news to the keeper until there is another snapshot; false when the service ends.
async fn attend(following: &mut Following, versions: &mut watch::Receiver<u64>, mailbox: &Mailbox) -> bool {
    loop {
        tokio::select! {
            changed = versions.changed() => return changed.is_ok(),
            Some(delivery) = following.news.recv() => take(delivery, mailbox).await,
        }
    }
}

async fn take((news, taken): Delivery, mailbox: &Mailbox) {
    let feed = news.feed.clone();
    let outcome = mailbox.change(Change::Facts(news)).await;
    match &outcome {
        Ok(version) => tracing::info!(version, feed, "new facts are in force"),
        Err(errors) => tracing::error!(feed, %errors, "new facts cannot be put in force, the old ones stay"),
    }
    // The task that asked may have ended.
    taken.send(outcome.is_ok()).unwrap_or_default();
}
