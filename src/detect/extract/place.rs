//! The way to a value inside a structured body, kept as borrowed steps and spelled out only when somebody asks.

use std::borrow::Cow;
use std::fmt;

/// One step into a structure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step<'v> {
    /// Into an object, at this key as it stands in the source (escapes not resolved).
    Key(&'v str),
    /// Into an array, at any element.
    Element,
}

impl<'v> Step<'v> {
    /// The key, escapes resolved; `None` for an element.
    #[must_use]
    pub fn key(self) -> Option<Cow<'v, str>> {
        match self {
            Self::Key(raw) if raw.contains('\\') => {
                let quoted = format!("\"{raw}\"");
                Some(serde_json::from_str::<String>(&quoted).map_or(Cow::Borrowed(raw), Cow::Owned))
            }
            Self::Key(raw) => Some(Cow::Borrowed(raw)),
            Self::Element => None,
        }
    }
}

/// All steps to a value; empty outside structured bodies.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'v> {
    /// The value this structure was found in, when it was found inside another value.
    pub outer: Option<&'v Self>,
    /// The steps, outermost first.
    pub steps: &'v [Step<'v>],
}

impl Place<'_> {
    /// True when one of the keys on the way is `name`, whatever its case.
    #[must_use]
    pub fn passes(&self, name: &str) -> bool {
        self.steps.iter().filter_map(|step| step.key()).any(|key| same_name(&key, name))
            || self.outer.is_some_and(|outer| outer.passes(name))
    }

    /// True when the whole way, or the whole way of an outer value, is `path`: keys joined by dots, `[]` for any element.
    #[must_use]
    pub fn is_at(&self, path: &str) -> bool {
        (!self.steps.is_empty() && self.to_string() == path) || self.outer.is_some_and(|outer| outer.is_at(path))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut dotted = false;
        if let Some(outer) = self.outer.filter(|outer| outer.outer.is_some() || !outer.steps.is_empty()) {
            write!(f, "{outer}")?;
            dotted = true;
        }
        for step in self.steps {
            match step.key() {
                Some(key) if dotted => write!(f, ".{key}")?,
                Some(key) => write!(f, "{key}")?,
                None => f.write_str("[]")?,
            }
            dotted = true;
        }
        Ok(())
    }
}

/// Names are compared without case, as guard-core's lower-cased lists are.
pub(super) fn same_name(name: &str, listed: &str) -> bool {
    name.eq_ignore_ascii_case(listed) || (!name.is_ascii() && name.to_lowercase() == listed.to_lowercase())
}
