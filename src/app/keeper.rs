//! The one writer of the snapshot: whatever changes it comes through one mailbox, is compiled beside the service, and
//! is swapped in whole or not at all.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::app::build::{Inputs, Refusal};
use crate::clock;
use crate::config::Sources;
use crate::feeds::rules::Checked;
use crate::live::{Live, Snapshot};
use crate::state;

/// Changes that wait at once; whoever brings another one waits.
const CHANGES_MAX: usize = 64;

/// What may change while the service runs.
#[derive(Debug)]
pub enum Change {
    /// Read the configuration, and the files that it names, again.
    Config,
    /// Lay these dynamic rules over the configuration, in the place of any before; none leave it as it is.
    Rules(Option<Arc<Checked>>),
}

impl Change {
    /// The inputs after this change.
    fn fold(self, inputs: &Inputs, sources: &Sources) -> Result<Inputs, Refusal> {
        match self {
            Self::Config => Ok(Inputs { rules: inputs.rules.clone(), ..Inputs::read(sources)? }),
            Self::Rules(rules) => Ok(Inputs { rules, ..inputs.clone() }),
        }
    }
}

/// How a change ended: the version of the snapshot that holds it, or every reason why it was not made.
pub type Outcome = Result<u64, Refusal>;

#[derive(Debug)]
struct Order {
    change: Change,
    answer: oneshot::Sender<Outcome>,
}

/// Where changes are brought. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox(mpsc::Sender<Order>);

impl Mailbox {
    /// Brings a change and waits for its outcome.
    pub async fn change(&self, change: Change) -> Outcome {
        let gone = || Refusal(vec!["the service is stopping".to_owned()]);
        let (answer, outcome) = oneshot::channel();
        self.0.send(Order { change, answer }).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

/// Keeps the inputs and makes snapshots of them.
#[derive(Debug)]
pub struct Keeper {
    sources: Sources,
    inputs: Inputs,
    live: Arc<Live>,
    orders: mpsc::Receiver<Order>,
}

impl Keeper {
    /// A keeper of what `live` was compiled from, and its mailbox.
    #[must_use]
    pub fn new(sources: Sources, inputs: Inputs, live: Arc<Live>) -> (Self, Mailbox) {
        let (sender, orders) = mpsc::channel(CHANGES_MAX);
        (Self { sources, inputs, live, orders }, Mailbox(sender))
    }

    /// Makes changes one after another, until no mailbox is left.
    pub async fn run(mut self) {
        while let Some(Order { change, answer }) = self.orders.recv().await {
            let outcome = self.make(change).await;
            // Whoever asked may have gone; the change is made all the same.
            drop(answer.send(outcome));
        }
    }

    async fn make(&mut self, change: Change) -> Outcome {
        let (sources, inputs, old) = (self.sources.clone(), self.inputs.clone(), self.live.snapshot());
        let previous = Arc::clone(&old);
        let is_config = matches!(change, Change::Config);
        let built = tokio::task::spawn_blocking(move || {
            let inputs = change.fold(&inputs, &sources)?;
            let snapshot = inputs.compile(Some(&previous))?;
            Ok((inputs, snapshot))
        });
        let built = built.await.unwrap_or_else(|error| Err(Refusal(vec![error.to_string()])));
        match built {
            Ok((inputs, snapshot)) => {
                let version = snapshot.version;
                self.inputs = inputs;
                if is_config {
                    tell(&snapshot, &old);
                    self.live.replace(Ok(snapshot), clock::now());
                } else {
                    self.live.exchange(snapshot);
                }
                Ok(version)
            }
            // Whoever brought it knows what to say.
            Err(refusal) if !is_config => Err(refusal),
            Err(refusal) => {
                tracing::error!(errors = %refusal, "the configuration was not loaded, the old one stays");
                self.live.replace(Err(refusal.to_string()), clock::now());
                Err(refusal)
            }
        }
    }
}

/// Says what changed, and what takes effect only with the next start.
fn tell(new: &Snapshot, old: &Snapshot) {
    tracing::info!(version = new.version, config = new.hash, "configuration loaded");
    remark(new);
    if new.config.listeners != old.config.listeners || new.config.admin != old.config.admin {
        tracing::warn!("changes to listeners and admin take effect with the next start");
    }
    if !state::is_same_backend(&new.config, &old.config) {
        tracing::warn!("changes to redis and limits of state take effect with the next start");
    }
}

/// Says what stands out in a configuration.
pub fn remark(snapshot: &Snapshot) {
    for warning in &snapshot.notices.warnings {
        tracing::warn!("{warning}");
    }
    for inactive in &snapshot.notices.inactive {
        tracing::warn!("not active: {inactive}");
    }
}
