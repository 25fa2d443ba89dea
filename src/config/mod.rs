//! Text becomes meaning: defaults, then a file, then `ENVOY_GUARD_*` variables, then flags. Knows no engine.

pub mod exclusions;
pub mod routes;
pub mod security;
pub mod server;
pub mod values;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::exclusions::DetectionConfig;
use crate::config::routes::RouteConfig;
use crate::config::security::SecurityConfig;
use crate::config::server::{AdminConfig, DataConfig, LimitsConfig, ListenersConfig, TelemetryConfig};

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
    /// Where Envoy finds us.
    pub listeners: ListenersConfig,
    /// Named bounds.
    pub limits: LimitsConfig,
    /// The port for operators.
    pub admin: AdminConfig,
    /// What the service says about itself.
    pub telemetry: TelemetryConfig,
    /// Files with facts about addresses.
    pub data: DataConfig,
}
