//! Text becomes threats. Knows requests and patterns; no state, no clock, no protocol.

mod automaton;
mod batch;
pub mod cache;
pub mod confirm;
mod context;
pub mod custom;
mod detector;
mod exclusion;
pub mod extract;
mod inspect;
pub mod monitor;
mod reach;
mod recall;
pub mod rows;
pub mod semantic;
mod table;
pub mod trace;
pub mod view;
mod work;

use std::borrow::Cow;
use std::ops::ControlFlow;

use crate::model::category::{Category, CategorySet};
use crate::model::decision::{HITS_MAX, Hit, Spot};
use crate::model::stage::Stage;

/// Where a value came from. Decides which rows may apply to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Source {
    /// A query parameter, name or value.
    Query,
    /// A header, name or value.
    Header,
    /// The path.
    Path,
    /// The body.
    Body,
    /// Not known: every row applies.
    Unknown,
}

/// What kind of place inside its source a value has.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct Context<'r> {
    /// Q, H, P, B or U.
    pub source: Source,
    /// Name of the parameter, header, field or JSON key; empty when there is none.
    pub name: Cow<'r, str>,
    /// The finer kind.
    pub kind: Kind,
}

/// The finer kind of a value's place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Hash)]
pub enum Kind {
    /// The value itself (a query value, a header value, the path, a whole body).
    #[default]
    Value,
    /// The name of a parameter, header or field.
    Name,
    /// A JSON leaf of a JSON body.
    JsonLeaf,
    /// A JSON key.
    JsonKey,
    /// A form field's value.
    FormField,
    /// A multipart part: header line, filename line or payload.
    MultipartField,
    /// A cookie pair.
    Cookie,
    /// A leaf of JSON found inside another value.
    EmbeddedJson,
    /// A key of JSON found inside another value.
    EmbeddedJsonKey,
    /// XML text or attribute.
    Xml,
    /// A printable run of a binary body.
    Island,
}

/// What happened to a value before a row matched.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// As sent, Unicode normalised.
    Raw,
    /// Decoded until nothing changed.
    Decoded,
    /// Decoded, comments and white space normalised.
    Processed,
    /// Short base64 islands.
    Additive,
}

impl View {
    /// The name users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Decoded => "decoded",
            Self::Processed => "processed",
            Self::Additive => "additive",
        }
    }
}

/// How a threat was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A row of `patterns/`.
    Regex,
    /// The semantic analyser.
    Semantic,
    /// A spent budget.
    Budget,
}

/// One finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Threat {
    /// How it was found.
    pub method: Method,
    /// Row id, `semantic:<type>`, `custom:<hash>`, or the name of a spent budget: `decode_budget_exhausted`,
    /// `work_budget_exhausted`, `scan_time_budget_exhausted`.
    pub row: Cow<'static, str>,
    /// What kind of attack.
    pub category: Category,
    /// Counts towards the threshold.
    pub weight: f64,
    /// In which view.
    pub view: View,
    /// The matched text, lossless within the view, at most [`Threat::EXCERPT_MAX`] bytes.
    pub matched: String,
    /// Offset of the match in that view, in code points.
    pub position: usize,
    /// Probability or score, for semantic threats.
    pub probability: f64,
}

impl Threat {
    /// Matched text is cut to this many bytes.
    pub const EXCERPT_MAX: usize = 256;

    /// At most [`Self::EXCERPT_MAX`] bytes from the start of a match.
    #[must_use]
    pub(crate) fn excerpt(matched: &str) -> &str {
        matched.get(..matched.floor_char_boundary(Self::EXCERPT_MAX)).unwrap_or(matched)
    }
}

/// Result of looking at one value: guard-core's `detect` result.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The sum of weights reaches the threshold, or the semantic analyser says so.
    pub is_threat: bool,
    /// 0 to 1.
    pub threat_score: f64,
    /// In the order found.
    pub threats: Vec<Threat>,
    /// Code points of the input.
    pub original_length: usize,
    /// Code points of the processed view.
    pub processed_length: usize,
    /// What the semantic analyser measured, when it found a threat.
    pub semantic: Option<Box<semantic::Analysis>>,
}

impl Report {
    /// guard-core's name for a configured detector.
    pub const METHOD: &str = "enhanced";
}

/// Result of looking at one request. Empty and unallocated when nothing was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detection {
    /// The first hostile value and everything found in it; `None` when the request is clean.
    pub finding: Option<Box<Finding>>,
    /// What `log_only_categories` and `log_only_rows` keep from counting, at most [`Detection::OBSERVED_MAX`] values.
    pub observed: Vec<Finding>,
    /// Why the body goes on beyond what was looked at, if it does.
    pub partial: Option<&'static str>,
}

impl Detection {
    /// Values with findings that do not count, kept for the log.
    pub const OBSERVED_MAX: usize = 16;
}

/// The value that made a request a threat.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Where, in guard-core's text form, such as `query_param:id`.
    pub context: String,
    /// Everything found in it.
    pub threats: Vec<Threat>,
    /// 0 to 1.
    pub score: f64,
    /// Distinct categories, in the order found.
    pub categories: Vec<Category>,
    /// guard-core's trigger text, redacted.
    pub trigger: String,
    /// Where, as exclusions name it.
    pub source: Source,
    /// Name of the parameter, header, field or key; empty when there is none.
    pub name: String,
    /// The way to the value in a JSON body; empty elsewhere.
    pub json_path: String,
    /// It is only logged, and would have made the request a threat.
    pub would_block: bool,
}

impl Finding {
    /// The place that an exclusion has to name.
    #[must_use]
    pub fn spot(&self) -> Spot {
        let key = match self.source {
            Source::Query => Some("param"),
            Source::Header => Some("header"),
            Source::Body if self.json_path.trim().is_empty() => Some("body_field"),
            Source::Body => Some("json_path"),
            Source::Path | Source::Unknown => None,
        };
        let name = if key == Some("json_path") { &self.json_path } else { &self.name };
        let is_named = key.is_some() && !name.trim().is_empty();
        Spot { key: key.filter(|_| is_named), name: if is_named { name.clone() } else { String::new() } }
    }

    /// What matched, for records of decisions.
    #[must_use]
    pub fn hits(&self) -> Vec<Hit> {
        let hit =
            |threat: &Threat| Hit { row: threat.row.clone(), view: threat.view.name(), text: threat.matched.clone() };
        self.threats.iter().take(HITS_MAX).map(hit).collect()
    }
}

/// What a route lets detection look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// Categories that are looked for.
    pub categories: CategorySet,
    /// Scan the body.
    pub scan_body: bool,
    /// Lower-case header names moved to the reduced scan, beyond the built-in ones.
    pub excluded_headers: Vec<String>,
    /// Lower-case header names the semantic analyser skips.
    pub excluded_semantic_headers: Vec<String>,
    /// Lower-case query names that are not scanned.
    pub excluded_params: Vec<String>,
    /// Lower-case body field names that are not scanned.
    pub excluded_body_fields: Vec<String>,
    /// Findings that pass.
    pub exclusions: Vec<crate::config::exclusions::Exclusion>,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            categories: CategorySet::DETECTION,
            scan_body: true,
            excluded_headers: Vec::new(),
            excluded_semantic_headers: Vec::new(),
            excluded_params: Vec::new(),
            excluded_body_fields: Vec::new(),
            exclusions: Vec::new(),
        }
    }
}

/// Why a detector could not be built.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct DetectError {
    /// Key path in the configuration, or the row id.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

/// Tells whether the request's time for detection is spent. The core has no clock; the edge brings one.
pub trait Meter {
    /// True once the time is spent.
    fn is_spent(&self) -> bool;

    /// From now on detection is busy with `stage`.
    fn enter(&self, _stage: Stage) {}

    /// A second look of `row` has ended.
    fn judged(&self, _row: &str, _matched: bool) {}

    /// The request's second looks spent so many units of work, of so many that it may spend.
    fn worked(&self, _spent: usize, _most: usize) {}
}

/// A meter for tests and for callers without a limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmetered;

impl Meter for Unmetered {
    fn is_spent(&self) -> bool {
        false
    }
}

/// How one value is to be looked at. The walk decides it from the place of the value.
#[derive(Clone, Copy, Debug)]
pub struct Lens<'a> {
    /// Categories that apply here: the scope's, less what makes no sense in this place.
    pub categories: CategorySet,
    /// The semantic analyser reads it too.
    pub semantic: bool,
    /// A JSON number, boolean or null: no built-in row can match it, a custom pattern can.
    pub literal: bool,
    /// The way to the value inside a structured body; spelled out only by who asks.
    pub place: extract::place::Place<'a>,
}

/// Takes what a walk over a request comes across. `Break` ends the walk at once.
pub trait Visit {
    /// A value. Text that was not UTF-8 has U+FFFD for each undecodable byte.
    fn value(&mut self, context: &Context<'_>, text: &str, lens: Lens<'_>) -> ControlFlow<()>;

    /// Something the walk itself finds hostile: an operator key, a body that cannot be read, a bomb.
    fn threat(&mut self, context: &Context<'_>, threat: Threat) -> ControlFlow<()>;

    /// The body holds so many bytes once its coding is undone.
    fn inflated(&mut self, _bytes: usize) {}

    /// The body, or what it inflates to, goes on beyond what is here; `detection.partial_body` says what that means.
    fn partial(&mut self, _reason: &'static str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Bounds of one walk over a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Which verdicts are wanted.
    pub profile: crate::config::exclusions::Profile,
    /// Values of one request; the rest is not scanned.
    pub values_max: usize,
    /// Code points of one request; the value that crosses the bound is still scanned.
    pub chars_max: usize,
    /// Nesting of JSON; deeper subtrees are scanned as text.
    pub json_depth_max: usize,
    /// Body bytes looked at, and bytes one inflate may produce.
    pub body_bytes_max: usize,
    /// Shortest printable run of a binary part that is scanned.
    pub island_min: usize,
    /// What to do with a body whose coding or charset cannot be decoded.
    pub undecodable_body: crate::config::exclusions::Unreadable,
}

/// Compiled rows and settings. Immutable; shared by all threads; replaced as a whole.
#[derive(Debug)]
pub struct Detector {
    /// The built-in rows and those of the folder; detectors of the same rows share it.
    table: std::sync::Arc<table::Table>,
    /// The custom patterns of the configuration.
    configured: std::sync::Arc<custom::Set>,
    /// Those that were added at run time; every detector of a process has the same.
    custom: std::sync::Arc<custom::CustomPatterns>,
    settings: Settings,
    /// How long parts of detections take, as far as they are measured.
    monitor: std::sync::Arc<std::sync::Mutex<monitor::Monitor>>,
    /// Bits of the semantic threshold, which can be changed while the rest cannot.
    semantic_threshold: std::sync::atomic::AtomicU64,
    /// Tells this detector's verdicts from those of any other in this process.
    number: u64,
}

/// A pattern as lists show it.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct PatternInfo {
    /// Its id in results, logs and exclusions.
    pub row: String,
    /// What kind of attack.
    pub category: Category,
    /// What it looks for; empty for a custom pattern.
    pub about: String,
    /// The expression; of a row that has a second look only what it begins with.
    pub pattern: String,
}

/// What a detector is compiled from besides the policy. Everything is brought by the shell.
#[derive(Clone, Copy)]
pub struct Material<'m> {
    /// Rows read from `detection.patterns_dir`.
    pub files: &'m [rows::PatternFile<'m>],
    /// Where compiled databases are kept between runs.
    pub cache: &'m dyn cache::DatabaseCache,
    /// The detector before this one: what did not change is taken over from it.
    pub previous: Option<&'m Detector>,
}

impl Default for Material<'_> {
    fn default() -> Self {
        Self { files: &[], cache: &cache::NoCache, previous: None }
    }
}

impl std::fmt::Debug for Material<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What the policy says about detection as a whole.
#[derive(Clone, Debug, PartialEq)]
struct Settings {
    recipe: view::Recipe,
    limits: Limits,
    threshold: f64,
    semantic_chars_max: usize,
    exclusions: Vec<crate::config::exclusions::Exclusion>,
    log_only_categories: CategorySet,
    log_only_rows: Vec<String>,
}
