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
    /// Where compiled patterns are kept, so that the next start need not compile: `auto`, `off`, or a folder.
    /// `auto` takes `security.detection_pattern_validation_cache_path`, or else `envoy-guard` in the user's cache
    /// folder, or else `/var/cache/envoy-guard`.
    pub database_cache: DatabaseCache,
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

/// Where compiled patterns are kept between runs.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "String")]
#[schemars(inline, with = "formats::NonBlank")]
pub enum DatabaseCache {
    /// A folder that fits the machine; none is no fault.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// This folder; it is made when it is absent.
    Folder(PathBuf),
}

impl From<String> for DatabaseCache {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Self::Auto,
            "off" => Self::Off,
            _ => Self::Folder(PathBuf::from(text)),
        }
    }
}

impl Serialize for DatabaseCache {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::Folder(folder) => folder.serialize(serializer),
        }
    }
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
