//! The one writer of the snapshot: whatever changes it comes through one mailbox, is compiled beside the service, and
//! is swapped in whole or not at all.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::app::build::{self, Inputs, Refusal};
use crate::clock;
use crate::config::{Config, Sources};
use crate::detect::Detector;
use crate::feeds::refresh::News;
use crate::feeds::rules::Checked;
use crate::live::{Live, Snapshot};
use crate::server::gate::Gate;
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
    /// Read the certificates, keys and tokens again that the configuration names. The snapshot stays.
    Credentials,
    /// A feed brought something new.
    Facts(News),
}

impl Change {
    /// The inputs after this change.
    fn fold(&self, inputs: &Inputs, sources: &Sources) -> Result<Inputs, Refusal> {
        match self {
            Self::Config => {
                let read = Inputs { rules: inputs.rules.clone(), ..Inputs::read(sources)? };
                Ok(read.keeping(&inputs.feeds))
            }
            Self::Rules(rules) => Ok(Inputs { rules: rules.clone(), ..inputs.clone() }),
            Self::Credentials => Ok(Inputs { credentials: build::credentials(&inputs.loaded)?, ..inputs.clone() }),
            Self::Facts(news) => Ok(inputs.clone().with(news.clone())),
        }
    }

    /// True when there is something to compile.
    const fn is_policy(&self) -> bool {
        !matches!(self, Self::Credentials)
    }
}

/// How a change ended: the version of the snapshot that holds it, or every reason why it was not made.
pub type Outcome = Result<u64, Refusal>;

/// What reading everything again would come to.
#[derive(Debug)]
pub struct Preview {
    /// What is in force.
    pub old: Inputs,
    /// What would be.
    pub new: Inputs,
    /// The patterns that would be.
    pub detector: Arc<Detector>,
}

#[derive(Debug)]
enum Order {
    /// Make a change.
    Make(Change, oneshot::Sender<Outcome>),
    /// Tell what reading everything again would come to; makes no change.
    Preview(oneshot::Sender<Result<Box<Preview>, Refusal>>),
}

/// Where changes are brought. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox(mpsc::Sender<Order>);

impl Mailbox {
    /// Brings a change and waits for its outcome.
    pub async fn change(&self, change: Change) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        self.0.send(Order::Make(change, answer)).await.map_err(|_| stopping())?;
        outcome.await.map_err(|_| stopping())?
    }

    /// Reads and compiles everything again, and tells what it came to. Nothing changes.
    pub async fn preview(&self) -> Result<Box<Preview>, Refusal> {
        let (answer, outcome) = oneshot::channel();
        self.0.send(Order::Preview(answer)).await.map_err(|_| stopping())?;
        outcome.await.map_err(|_| stopping())?
    }
}

fn stopping() -> Refusal {
    Refusal(vec!["the service is stopping".to_owned()])
}

/// Keeps the inputs and makes snapshots of them.
#[derive(Debug)]
pub struct Keeper {
    sources: Sources,
    inputs: Inputs,
    live: Arc<Live>,
    gate: Arc<Gate>,
    orders: mpsc::Receiver<Order>,
}

impl Keeper {
    /// A keeper of what `live` was compiled from and `gate` was read from, and its mailbox.
    #[must_use]
    pub fn new(sources: Sources, inputs: Inputs, live: Arc<Live>, gate: Arc<Gate>) -> (Self, Mailbox) {
        let (sender, orders) = mpsc::channel(CHANGES_MAX);
        (Self { sources, inputs, live, gate, orders }, Mailbox(sender))
    }

    /// Makes changes one after another, until no mailbox is left.
    pub async fn run(mut self) {
        while let Some(order) = self.orders.recv().await {
            match order {
                Order::Make(change, answer) => {
                    let outcome = self.make(change).await;
                    // Whoever asked may have gone; the change is made all the same.
                    drop(answer.send(outcome));
                }
                Order::Preview(answer) => drop(answer.send(self.preview().await)),
            }
        }
    }

    async fn preview(&self) -> Result<Box<Preview>, Refusal> {
        let (sources, old, previous) = (self.sources.clone(), self.inputs.clone(), self.live.snapshot());
        let built = tokio::task::spawn_blocking(move || {
            let new = Change::Config.fold(&old, &sources)?;
            let detector = new.compile(Some(&previous))?.policy.detector;
            Ok(Box::new(Preview { old, new, detector }))
        });
        built.await.unwrap_or_else(|error| Err(Refusal(vec![error.to_string()])))
    }

    async fn make(&mut self, change: Change) -> Outcome {
        let (sources, inputs, old) = (self.sources.clone(), self.inputs.clone(), self.live.snapshot());
        let previous = Arc::clone(&old);
        let is_config = matches!(change, Change::Config);
        let built = tokio::task::spawn_blocking(move || {
            let inputs = change.fold(&inputs, &sources)?;
            let snapshot = change.is_policy().then(|| inputs.compile(Some(&previous))).transpose()?;
            Ok((inputs, snapshot))
        });
        let built = built.await.unwrap_or_else(|error| Err(Refusal(vec![error.to_string()])));
        match built {
            Ok((inputs, snapshot)) => {
                let version = snapshot.as_ref().map_or(old.version, |snapshot| snapshot.version);
                self.gate.exchange(inputs.credentials.clone());
                self.inputs = inputs;
                match snapshot {
                    Some(snapshot) if is_config => {
                        tell(&snapshot, &old);
                        self.live.replace(Ok(Some(snapshot)), clock::now());
                    }
                    Some(snapshot) => self.live.exchange(snapshot),
                    None => {
                        tracing::info!("certificates and tokens loaded");
                        self.live.replace(Ok(None), clock::now());
                    }
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
    if has_other_doors(&new.config, &old.config) {
        tracing::warn!("changes to addresses, sockets and workers take effect with the next start");
    }
    if !state::is_same_backend(&new.config, &old.config) {
        tracing::warn!("changes to redis and limits of state take effect with the next start");
    }
}

/// True when listeners would have to be opened anew. Certificates and tokens are exchanged while they are open.
fn has_other_doors(new: &Config, old: &Config) -> bool {
    let doors = |config: &Config| {
        let (listeners, admin) = (&config.listeners, &config.admin);
        let grpc = (listeners.grpc, listeners.unix.clone(), listeners.unix_mode.clone(), listeners.workers);
        (grpc, (admin.address, admin.unix.clone(), admin.unix_mode.clone()))
    };
    doors(new) != doors(old)
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
