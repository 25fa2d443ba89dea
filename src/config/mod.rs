//! Text becomes meaning: defaults, then a file, then `ENVOY_GUARD_*` variables, then flags. Knows no engine.

mod check;
mod formats;
mod nearest;
mod opinion;
mod parse;
mod patterns;
mod places;
mod rules;
mod schema;
pub(crate) mod tree;
mod variables;
mod yaml;

pub mod activity;
pub mod data;
pub mod errors;
pub mod exclusions;
pub(crate) mod foreign;
pub mod load;
pub mod peer;
pub mod rate_limits;
pub mod redacted;
pub mod redis;
pub mod reference;
pub mod report;
pub mod responses;
pub mod routes;
pub mod security;
pub mod server;
pub mod tls;
pub mod values;

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::data::{DataConfig, OutboundConfig};
use crate::config::errors::{Errors, Notice, Place};
use crate::config::exclusions::DetectionConfig;
use crate::config::rate_limits::{BansConfig, RateLimitsConfig};
use crate::config::redis::RedisConfig;
use crate::config::responses::ResponsesConfig;
use crate::config::routes::RouteConfig;
use crate::config::security::SecurityConfig;
use crate::config::server::{AdminConfig, LimitsConfig, ListenersConfig, TelemetryConfig};

/// Deepest nesting of a configuration; the schema needs 8. The YAML reader takes about 32 KiB of stack a level (measured
/// by the depth, 64, that overflowed 2 MiB), so this keeps any thread safe.
pub const DEPTH_MAX: usize = 16;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// guard-core's SecurityConfig, field for field.
    pub security: SecurityConfig,
    /// Routes, the first match wins.
    pub routes: Vec<RouteConfig>,
    /// Detection settings of ours.
    pub detection: DetectionConfig,
    /// Limits beyond guard-core's, and what clients are told of limits.
    pub rate_limits: RateLimitsConfig,
    /// Whom an automatic ban covers.
    pub bans: BansConfig,
    /// What must not leave in a response, and how answers of ours are written.
    pub responses: ResponsesConfig,
    /// Which kind of Redis, who we are there, and TLS.
    pub redis: RedisConfig,
    /// Where Envoy finds us.
    pub listeners: ListenersConfig,
    /// Named bounds.
    pub limits: LimitsConfig,
    /// The port for operators.
    pub admin: AdminConfig,
    /// What the service says about itself.
    pub telemetry: TelemetryConfig,
    /// Facts about addresses.
    pub data: DataConfig,
    /// Connections that the service opens by itself.
    pub outbound: OutboundConfig,
}

/// Where a configuration comes from. Nothing else is read: no process environment, no working directory.
#[derive(Clone, Default)]
pub struct Sources {
    /// A file that ends in `.yaml`, `.yml`, `.toml` or `.json`.
    pub file: Option<PathBuf>,
    /// Variables; those that begin with `ENVOY_GUARD_` count, `__` separates levels.
    pub env: Vec<(String, String)>,
    /// `KEY=VALUE` pairs of `--set`; `.` separates levels.
    pub overrides: Vec<(String, String)>,
}

/// Without the values, which may be secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn names(pairs: &[(String, String)]) -> Vec<&str> {
            pairs.iter().map(|(name, _)| name.as_str()).collect()
        }
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("env", &names(&self.env))
            .field("overrides", &names(&self.overrides))
            .finish()
    }
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    /// What the user should know.
    pub warnings: Vec<Notice>,
    /// Stands for the effective configuration: 64 hexadecimal digits that change with any setting, secrets included,
    /// and neither tell nor confirm a secret.
    pub hash: String,
    /// Fields that are set and do nothing in this build.
    pub inactive: Vec<Notice>,
    places: places::Places,
}

/// Reads and checks a configuration. Every layer overrules the one before: defaults, the file, variables, flags; maps
/// are merged key by key, lists and plain values are replaced.
///
/// # Errors
///
/// All mistakes of all sources, each with its place and key path.
pub fn load(sources: &Sources) -> Result<Loaded, Errors> {
    load::load(sources)
}

/// Where `key` (such as `routes[2].custom_validators[0]`) stands, or the nearest level above it; `None` for a default.
#[must_use]
pub fn locate(loaded: &Loaded, key: &str) -> Option<Place> {
    places::locate(&loaded.places, key).cloned()
}

/// The JSON Schema (2020-12) of the whole file.
#[must_use]
pub fn schema() -> serde_json::Value {
    schema::document().clone()
}
