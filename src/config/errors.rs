//! What is wrong with a configuration, and where. Values of secrets never get in here.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Where a value came from.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Ord, PartialOrd)]
pub enum Place {
    /// A configuration file.
    File {
        /// The file, as it was named to us.
        file: Arc<str>,
        /// Line, from 1; 0 when the whole file is meant.
        line: u32,
        /// Column in characters, from 1; 0 when unknown.
        column: u32,
    },
    /// An environment variable, by name.
    Variable(Arc<str>),
    /// A `--set` flag, by key.
    Flag(Arc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line: 0, .. } => f.write_str(file),
            Self::File { file, line, column: 0 } => write!(f, "{file}:{line}"),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(key) => write!(f, "--set {key}"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The kind of a mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The file cannot be read at all.
    File,
    /// The text is not YAML, TOML or JSON, or names a key twice.
    Syntax,
    /// A value of another type is needed.
    Type,
    /// A number or a length is out of its range.
    Range,
    /// The word is not among the known ones.
    Enum,
    /// The text has the right type and means nothing.
    Value,
    /// Nobody knows this key.
    UnknownKey,
    /// Fields that are valid one by one contradict each other, or one is missing.
    CrossField,
}

impl Class {
    /// The name shown to users.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Syntax => "syntax",
            Self::Type => "type",
            Self::Range => "range",
            Self::Enum => "enum",
            Self::Value => "value",
            Self::UnknownKey => "unknown key",
            Self::CrossField => "cross-field",
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// Where it stands; `None` when no source names it (a missing field, a default).
    pub place: Option<Place>,
    /// The key path, such as `security.whitelist[2]`; empty when the whole source is meant.
    pub key: String,
    /// What kind of mistake it is.
    pub class: Class,
    /// What was wrong and what would be right.
    pub message: String,
    /// The nearest valid key or word.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{} [{}]", self.message, self.class.name())?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; did you mean `{hint}`?"))
    }
}

/// Every mistake of a configuration, in the order of the sources.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if 0 < index {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// A remark that stops nothing.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Notice {
    /// Where it stands.
    pub place: Option<Place>,
    /// The key path.
    pub key: String,
    /// The remark, a full sentence without full stop.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.key, self.message)
    }
}
