//! Changes to headers, in the terms of the data plane.

use std::borrow::Cow;

/// What happens when the header is already there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// Replace every occurrence.
    Overwrite,
    /// Add another value beside it.
    Append,
    /// Leave the existing one alone.
    Keep,
}

/// One header to set. Names are lower case; values hold no CR, LF or NUL (checked where they are made).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderEdit<'p> {
    /// Lower-case field name.
    pub name: Cow<'p, str>,
    /// Field value.
    pub value: Cow<'p, str>,
    /// What to do with one that exists.
    pub existing: Existing,
}

impl<'p> HeaderEdit<'p> {
    /// Sets `name`, replacing what is there.
    pub fn set(name: impl Into<Cow<'p, str>>, value: impl Into<Cow<'p, str>>) -> Self {
        Self { name: name.into(), value: value.into(), existing: Existing::Overwrite }
    }

    /// The same edit, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> HeaderEdit<'_> {
        HeaderEdit { name: Cow::Borrowed(&self.name), value: Cow::Borrowed(&self.value), existing: self.existing }
    }
}
