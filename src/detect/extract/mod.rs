//! Which texts a request holds: query, path, headers and body, one value at a time, in guard-core's order.
//!
//! Values are borrowed from the request wherever nothing had to be decoded. This room knows how clients write requests
//! down; it does not know what an attack looks like.

use std::ops::ControlFlow;

use crate::config::exclusions::{DetectionConfig, Profile};
use crate::config::security::SecurityConfig;
use crate::detect::{Context, Scope};
use crate::model::category::CategorySet;
use crate::request::Request;

mod body;
mod headers;
mod json;
mod leaves;
mod pairs;
mod path;
mod percent;
pub mod place;
mod sink;

use place::Place;
use sink::Sink;

/// Whether the walk goes on; `Break` is the visitor's word.
pub type Flow = ControlFlow<()>;

/// How much of a request is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budgets {
    /// Values handed out one by one (`detection_max_scan_values`). What is left is handed out as one text per source.
    pub values_max: u32,
    /// Code points handed out value by value (`detection_max_scan_chars`); the value that crosses it is handed out whole.
    pub chars_max: usize,
    /// Depth of the structural JSON walk (`detection_max_json_depth`); what lies deeper is handed out as text.
    pub json_depth_max: usize,
    /// Bytes of a body that are read, before and after inflating (`detection_max_body_inspect_bytes`).
    pub body_bytes_max: usize,
    /// Shortest printable run of a binary payload, in code points (`detection_binary_min_run_length`); 1 turns runs off.
    pub island_min: usize,
    /// Whose verdicts: `guard_core` gets the path decoded once, `balanced` gets it as sent.
    pub profile: Profile,
}

impl Budgets {
    /// The budgets of a policy.
    #[must_use]
    pub fn new(security: &SecurityConfig, detection: &DetectionConfig) -> Self {
        Self {
            values_max: security.detection_max_scan_values,
            chars_max: security.detection_max_scan_chars as usize,
            json_depth_max: security.detection_max_json_depth as usize,
            body_bytes_max: security.detection_max_body_inspect_bytes as usize,
            island_min: security.detection_binary_min_run_length as usize,
            profile: detection.profile,
        }
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(&SecurityConfig::default(), &DetectionConfig::default())
    }
}

/// One text to look at.
#[derive(Clone, Debug)]
pub struct Value<'v> {
    /// Where it came from.
    pub context: Context<'v>,
    /// The text, decoded once where its container encodes (percent, JSON escapes, XML entities, charset). Never empty.
    pub text: &'v str,
    /// The categories that apply to it: the scope's, less what its header must not be asked.
    pub categories: CategorySet,
    /// False for headers the semantic analyser skips.
    pub semantic: bool,
    /// True for a JSON number, boolean or null: no built-in row can match it, a custom pattern can.
    pub literal: bool,
    /// The way to it inside a structured body.
    pub place: Place<'v>,
}

/// A part of the request that could not be looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gap {
    /// A budget is spent and text remains. Always a finding.
    Spent(&'static str),
    /// Only the beginning of the body is here: `detection.partial_body` decides.
    Partial(&'static str),
    /// The body's coding or charset cannot be read: `detection.undecodable_body` decides.
    Undecodable(&'static str),
}

/// What the walk meets.
#[derive(Clone, Debug)]
pub enum Item<'v> {
    /// A text to look at.
    Value(Value<'v>),
    /// A JSON key that is a NoSQL operator, as `text`: a finding of category `nosql` by itself. Handed out only when the
    /// scope asks for that category.
    Operator(Value<'v>),
    /// Something that cannot be looked at. If the visitor goes on, whatever can be read follows.
    Gap(Gap),
}

/// Hands every value of `request` to `visit`, until it breaks: query (name, value, ...), path, headers (name, value,
/// ...), body. Allocates only for values that had to be decoded.
pub fn walk(request: &Request<'_>, scope: &Scope, budgets: &Budgets, visit: &mut dyn FnMut(Item<'_>) -> Flow) -> Flow {
    let mut sink = Sink::new(scope, budgets, visit);
    pairs::query(request.target.query.unwrap_or_default(), &mut sink)?;
    path::walk(request.target.path, &mut sink)?;
    headers::walk(&request.headers, &mut sink)?;
    body::walk(request, &mut sink)
}

#[cfg(test)]
mod tests;
