//! What an interpreter would see: a value as sent, decoded, and cleaned up. Knows no rows.

use std::ops::Range;

use crate::config::exclusions::Profile;
use crate::detect::View;

/// Bounds of the views.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Recipe {
    /// Whose verdicts are wanted.
    pub(crate) profile: Profile,
    /// Code points of a view, and bytes one inflate may produce.
    pub(crate) chars_max: usize,
    /// Keep what looks hostile when a text is cut.
    pub(crate) keep_attacks: bool,
    /// Hostile-looking regions kept at most.
    pub(crate) regions_max: usize,
}

/// A text that is mostly the same as the one before it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Step {
    /// Nothing changed.
    #[default]
    Same,
    /// Only the ends were cut.
    Slice(Range<usize>),
    /// Something changed.
    Changed(String),
}

impl Step {
    fn of<'a>(&'a self, before: &'a str) -> &'a str {
        match self {
            Self::Same => before,
            Self::Slice(range) => before.get(range.clone()).unwrap_or(before),
            Self::Changed(text) => text,
        }
    }
}

/// The views of one value. Unallocated when the value has nothing to decode.
#[derive(Clone, Debug)]
pub(crate) struct Views<'a> {
    content: &'a str,
    raw: Step,
    decoded: Step,
    processed: Step,
    additive: String,
    /// Every round of the decode loop changed the text.
    pub(crate) is_exhausted: bool,
}

impl<'a> Views<'a> {
    /// Takes `content` apart.
    pub(crate) fn new(content: &'a str, _recipe: &Recipe) -> Self {
        Self {
            content,
            raw: Step::Same,
            decoded: Step::Same,
            processed: Step::Same,
            additive: String::new(),
            is_exhausted: false,
        }
    }

    /// The text of a view.
    pub(crate) fn text(&self, view: View) -> &str {
        match view {
            View::Raw => self.raw.of(self.content),
            View::Decoded => self.decoded.of(self.text(View::Raw)),
            View::Processed => self.processed.of(self.text(View::Decoded)),
            View::Additive => &self.additive,
        }
    }

    /// True when the view has the text of the one before it (raw: of the content).
    pub(crate) fn is_same(&self, view: View) -> bool {
        match view {
            View::Raw => self.raw == Step::Same,
            View::Decoded => self.decoded == Step::Same,
            View::Processed => self.processed == Step::Same,
            View::Additive => self.additive.is_empty(),
        }
    }
}
