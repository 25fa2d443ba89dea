//! The compiled configuration: what `decide` reads.

use std::sync::Arc;

use crate::config::Config;
use crate::detect::Detector;

/// Everything a decision needs, compiled once and immutable.
#[derive(Debug)]
pub struct Policy {
    /// The detector; shared with the previous policy when its inputs did not change.
    pub detector: Arc<Detector>,
}

/// A setting that cannot be compiled, under the key path that `config` reports lines for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct PolicyError {
    /// Such as `routes[2].custom_validators[0]`.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

/// Data about addresses that a policy consults, loaded by the shell.
#[derive(Clone, Debug, Default)]
pub struct Feeds {}

impl Policy {
    /// Compiles a policy. `detector` is reused when given.
    pub fn compile(config: &Config, feeds: &Feeds, detector: Arc<Detector>) -> Result<Self, Vec<PolicyError>> {
        let _ = (config, feeds);
        Ok(Self { detector })
    }
}
