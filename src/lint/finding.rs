//! One finding, as it is told.

use std::fmt;

use crate::config::errors::Place;
use crate::lint::codes::Code;

/// One finding.
#[derive(Debug)]
pub struct Finding {
    /// What it is.
    pub code: &'static Code,
    /// Where it stands; `None` for a default of ours, and for something that is missing as a whole.
    pub place: Option<Place>,
    /// What is special about this one; may be empty.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{} {}: {}", self.code.severity.name(), self.code.id, self.code.title)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}
