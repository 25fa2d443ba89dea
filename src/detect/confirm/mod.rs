//! Second looks: after Hyperscan found a candidate, a confirm function demands what an interpreter would execute.
//!
//! One file per grammar. A confirm function reads the whole view, is linear in its length, never panics and never
//! allocates more than a constant. Rows name their confirm function in `patterns/*.yaml`.

use std::ops::Range;

use crate::detect::{Context, View};

/// What a confirm function sees.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The view the row matched in.
    pub text: &'a str,
    /// Where Hyperscan's first match of the row ended in `text`, in bytes (a hint; other matches may follow).
    pub end: usize,
    /// Which view it is.
    pub view: View,
    /// Where the value came from.
    pub context: &'a Context<'a>,
    /// The value before any decoding.
    pub raw: &'a str,
}

/// Returns the byte range in `text` that convicts, or `None`.
pub type Confirm = fn(&Candidate<'_>) -> Option<Range<usize>>;

/// The confirm function a row names.
#[must_use]
pub fn named(name: &str) -> Option<Confirm> {
    TABLE.iter().find(|(known, _)| *known == name).map(|(_, confirm)| *confirm)
}

/// Every confirm function by name, in alphabetical order.
const TABLE: &[(&str, Confirm)] = &[];
