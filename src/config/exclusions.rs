//! Detection settings that guard-core does not have: profile, and exclusions against false positives.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::formats;

/// Which verdicts detection gives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Our best verdict: grammar-aware, few false positives.
    #[default]
    Balanced,
    /// The verdicts guard-core's conformance corpus pins.
    GuardCore,
}

/// What to do with a body that did not fit, or a coding we cannot read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unreadable {
    /// Scan what is there, let the rest pass.
    Allow,
    /// A finding of category `custom`: refused like any threat.
    #[default]
    Deny,
}

/// `detection:`, beside the guard-core fields under `security:`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DetectionConfig {
    /// Which verdicts: `balanced` or `guard_core`.
    pub profile: Profile,
    /// Folder with more rows, or rows that replace built-in ones of the same id.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub patterns_dir: Option<PathBuf>,
    /// Custom patterns known from the start.
    #[schemars(with = "Vec<formats::Pattern>")]
    pub custom_patterns: Vec<String>,
    /// A body longer than what was sent to us for inspection.
    pub partial_body: PartialBody,
    /// A body whose coding or charset cannot be decoded.
    pub undecodable_body: Unreadable,
    /// Findings that pass, on every route.
    pub exclusions: Vec<Exclusion>,
    /// Categories that are reported and never refused.
    #[schemars(with = "Vec<formats::CategoryName>")]
    pub log_only_categories: BTreeSet<String>,
    /// Rows that are reported and never refused.
    #[schemars(with = "Vec<formats::NonBlank>")]
    pub log_only_rows: BTreeSet<String>,
}

/// What to do with a body of which only the beginning was sent to us.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartialBody {
    /// Scan what is there, let the rest pass.
    #[default]
    Scan,
    /// Refuse with 413.
    Deny,
}

/// A finding that is let pass. All parts that are given must apply; an entry without parts is an error.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Exclusion {
    /// Category name.
    #[schemars(with = "Option<formats::CategoryName>")]
    pub category: Option<String>,
    /// Row id.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub row: Option<String>,
    /// Path prefix of the request.
    #[schemars(with = "Option<formats::Path>")]
    pub path: Option<String>,
    /// Header name.
    #[schemars(with = "Option<formats::HeaderName>")]
    pub header: Option<String>,
    /// Query parameter name.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub param: Option<String>,
    /// Form or multipart field name, or JSON key, at any depth.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub body_field: Option<String>,
    /// JSON path of a body value: keys joined by dots, `[]` for any element, such as `items[].note`.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub json_path: Option<String>,
    /// Why; shown by `explain`.
    pub reason: Option<String>,
}
