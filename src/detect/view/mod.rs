//! What an interpreter would see: a value as sent, decoded, and cleaned up. Knows no rows.

mod base64;
mod clean;
mod decode;
mod norm;
mod truncate;

use std::ops::Range;

use crate::config::exclusions::Profile;
use crate::detect::View;
use crate::detect::view::clean::Even;

/// Characters that are neither visible nor a plain blank; line ends are not.
pub(crate) fn unprintable(text: &str) -> usize {
    base64::unprintable(text)
}

/// Builds what views need, so that no request waits for it.
pub(crate) fn prepare() {
    base64::prepare();
    truncate::prepare();
}

/// Longer values are not worth a glance: each step looks for its own marks, many bytes at a time.
const GLANCE_MAX: usize = 256;

/// Bytes that some step of some recipe may change.
#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const MARKS: [bool; 256] = {
    let mut marks = [false; 256];
    let mut byte = 0;
    while byte < marks.len() {
        marks[byte] = byte < 0x20 || 0x7f < byte || matches!(byte as u8, b'%' | b'&' | b'\\' | b'#' | b'-' | b'*');
        byte += 1;
    }
    marks
};

/// True when a glance proves that no step changes a short text.
fn is_plain(text: &str, recipe: &Recipe) -> bool {
    let bytes = text.as_bytes();
    if GLANCE_MAX < bytes.len() || recipe.chars_max < bytes.len() {
        return false;
    }
    let (mut marked, mut previous) = (false, b' ');
    for byte in bytes {
        let is_kept = match byte {
            b'-' => recipe.is_strict() || previous != b'-',
            b'#' | b'*' => recipe.is_strict(),
            _ => false,
        };
        let is_mark = MARKS.get(usize::from(*byte)).is_none_or(|mark| *mark) && !is_kept;
        marked |= is_mark || (*byte == b' ' && previous == b' ');
        previous = *byte;
    }
    // The first blank was compared with a blank before it; the last one ends the text.
    !marked && (previous != b' ' || bytes.is_empty()) && !base64::is_candidate(text, recipe)
}

/// Bounds of the views.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recipe {
    /// Whose verdicts are wanted.
    pub profile: Profile,
    /// Code points of a view, and bytes one inflate may produce.
    pub chars_max: usize,
    /// Keep what looks hostile when a text is cut.
    pub keep_attacks: bool,
    /// Hostile-looking regions kept at most.
    pub regions_max: usize,
}

impl Recipe {
    /// Our own views: no comment is stripped before a grammar has seen it, and a word is no base64.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.profile == Profile::Balanced
    }
}

/// A text that is mostly the same as the one before it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Step {
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

impl From<Option<String>> for Step {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Same, Self::Changed)
    }
}

/// What was done to one value. Unallocated when it has nothing to decode.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Steps {
    raw: Step,
    decoded: Step,
    processed: Step,
    additive: String,
    /// Every round of the decode loop changed the text.
    is_exhausted: bool,
}

/// The views of one value.
#[derive(Clone, Debug)]
pub struct Views<'a> {
    content: &'a str,
    steps: Steps,
}

impl<'a> Views<'a> {
    /// Takes `content` apart, unless a glance shows that there is nothing to take apart.
    #[must_use]
    pub fn new(content: &'a str, recipe: &Recipe) -> Self {
        if is_plain(content, recipe) {
            let mut views = Self::same(content);
            if !recipe.is_strict() {
                views.steps.additive = base64::short_islands(content);
            }
            return views;
        }
        Self::in_full(content, recipe)
    }

    /// [`Views::new`] without the glance: every step looks for its marks. The views are the same.
    #[must_use]
    pub fn in_full(content: &'a str, recipe: &Recipe) -> Self {
        let normal = norm::normalise(content, recipe.is_strict());
        let (decoded, is_exhausted) = decode::decode(normal.as_deref().unwrap_or(content), recipe);
        let steps = Steps { raw: normal.into(), decoded: decoded.into(), is_exhausted, ..Steps::default() };
        let mut views = Self { content, steps };
        if !recipe.is_strict()
            && let Some(text) = clean::strip_comments(views.text(View::Decoded))
        {
            views.steps.decoded = Step::Changed(text);
        }
        views.steps.processed = match clean::even_out(views.text(View::Decoded), recipe.is_strict()) {
            Even::Same => Step::Same,
            Even::Trimmed(range) => Step::Slice(range),
            Even::Changed(text) => Step::Changed(text),
        };
        views.truncate(recipe);
        if !recipe.is_strict() {
            views.steps.additive = base64::short_islands(views.text(View::Raw));
        }
        views
    }

    /// Every view is the value itself: for a value that is known to be so.
    pub(crate) fn same(content: &'a str) -> Self {
        Self::of_steps(content, Steps::default())
    }

    /// The views of a value to which this was done.
    pub(crate) const fn of_steps(content: &'a str, steps: Steps) -> Self {
        Self { content, steps }
    }

    /// True when the value was sent in the one text that all views have.
    pub(crate) fn is_plain(&self) -> bool {
        let Steps { raw, decoded, processed, additive, is_exhausted } = &self.steps;
        [raw, decoded, processed].into_iter().all(|step| *step == Step::Same) && additive.is_empty() && !is_exhausted
    }

    /// What was done to the value.
    pub(crate) fn into_steps(self) -> Steps {
        self.steps
    }

    /// Every round of the decode loop changed the text: it is not known what an interpreter would see.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        self.steps.is_exhausted
    }

    /// Cuts each view by itself: what looks hostile in one may not in another.
    fn truncate(&mut self, recipe: &Recipe) {
        let longest = [View::Raw, View::Decoded, View::Processed].map(|view| self.text(view).len()).into_iter().max();
        if longest.is_none_or(|longest| longest <= recipe.chars_max) {
            return;
        }
        let cut = |text: &str| truncate::truncate(text, recipe).unwrap_or_else(|| text.to_owned());
        let [raw, decoded, processed] = [View::Raw, View::Decoded, View::Processed].map(|view| cut(self.text(view)));
        self.steps.processed = if processed == decoded { Step::Same } else { Step::Changed(processed) };
        self.steps.decoded = if decoded == raw { Step::Same } else { Step::Changed(decoded) };
        self.steps.raw = Step::Changed(raw);
    }

    /// The value before anything was done to it.
    pub(crate) const fn content(&self) -> &'a str {
        self.content
    }

    /// The text of a view.
    #[must_use]
    pub fn text(&self, view: View) -> &str {
        match view {
            View::Raw => self.steps.raw.of(self.content),
            View::Decoded => self.steps.decoded.of(self.text(View::Raw)),
            View::Processed => self.steps.processed.of(self.text(View::Decoded)),
            View::Additive => &self.steps.additive,
        }
    }

    /// True when the view has the text of the one before it (raw: of the content).
    pub(crate) fn is_same(&self, view: View) -> bool {
        match view {
            View::Raw => self.steps.raw == Step::Same,
            View::Decoded => self.steps.decoded == Step::Same,
            View::Processed => self.steps.processed == Step::Same,
            View::Additive => self.steps.additive.is_empty(),
        }
    }

    /// The first view with the same text.
    pub(crate) fn source_of(&self, view: View) -> View {
        match view {
            View::Processed if self.is_same(View::Processed) => self.source_of(View::Decoded),
            View::Decoded if self.is_same(View::Decoded) => View::Raw,
            View::Raw | View::Decoded | View::Processed | View::Additive => view,
        }
    }

    /// The mask of the views that have the text of `source`.
    pub(crate) fn views_of(&self, source: View) -> u8 {
        let same = View::ALL.into_iter().filter(|view| self.source_of(*view) == source);
        same.fold(0, |mask, view| mask | view.bit())
    }
}
