//! The table of rows: YAML text becomes checked, profile-filtered rows. Reads no files; compiles no automaton.

use serde::Deserialize;

use crate::config::exclusions::Profile;
use crate::detect::confirm::{self, Second};
use crate::detect::{DetectError, Kind, Source, View};
use crate::model::category::Category;

// `pub(super) const FILES: &[(&str, &str)]`: name and text of every file in `patterns/` and its folders, in alphabetical order.
include!(concat!(env!("OUT_DIR"), "/patterns.rs"));

/// Rows of one database; the width of [`crate::detect::automaton::Hits`].
pub(crate) const ROWS_MAX: usize = 1024;
/// Hits, and misses, that a row must bring at least.
const EXAMPLES_MIN: usize = 2;

/// One text with rows, as read by the shell.
#[derive(Clone, Copy, Debug)]
pub struct PatternFile<'a> {
    /// For error messages.
    pub name: &'a str,
    /// YAML, as `patterns/README.md` describes it.
    pub text: &'a str,
}

/// One expression to compile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expression<'a> {
    /// The number it is reported by, below [`ROWS_MAX`].
    pub(crate) id: usize,
    /// The text.
    pub(crate) pattern: &'a str,
    /// How it is read.
    pub(crate) flags: Flags,
    /// Compile something that finds at least every match: for what Hyperscan cannot express.
    pub(crate) prefilter: bool,
    /// Report each match, not the first alone: for texts that stand side by side.
    pub(crate) each: bool,
}

/// A row that passed every check except compilation.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Stable name; appears in results, logs and exclusions.
    pub(crate) id: String,
    /// What it looks for.
    pub(crate) about: String,
    /// File it came from.
    pub(crate) file: String,
    /// What kind of attack.
    pub(crate) category: Category,
    /// Bit by [`Source::index`]; body and unknown are always set.
    pub(crate) contexts: u8,
    /// Bit by `Kind as u8`.
    pub(crate) kinds: u16,
    /// Bit by [`View::index`].
    pub(crate) views: u8,
    /// The candidate's expression.
    pub(crate) pattern: String,
    /// Found wherever `pattern` is, and cheaper to look for: the automaton has it in the pattern's place.
    pub(crate) prefilter: Option<String>,
    /// How the expression is read.
    pub(crate) flags: Flags,
    /// Demands more than the candidate.
    pub(crate) confirm: Option<Second>,
    /// Cheap conditions on a confirmed match.
    pub(crate) gates: Gates,
    /// Counts towards the threshold.
    pub(crate) weight: f64,
    /// Values it must find.
    pub(crate) hits: Vec<Example>,
    /// Values it must leave alone.
    pub(crate) misses: Vec<Example>,
}

/// How a row's expression is read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Flags {
    /// Letters match in one case only.
    pub(crate) case_sensitive: bool,
    /// `^` and `$` match at line breaks.
    pub(crate) multiline: bool,
    /// `.` matches line breaks.
    pub(crate) dotall: bool,
    /// A character is a code point, not a byte; letters of all scripts match in any case.
    pub(crate) utf8: bool,
}

/// Conditions on a match that need no grammar.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Gates {
    /// Not amid binary noise.
    pub(crate) noise: bool,
    /// Outside paths, the match starts with a slash or backslash.
    pub(crate) separator: bool,
    /// Not in a leaf of JSON found inside another value.
    pub(crate) embedded_json: bool,
}

/// A value with the place it is tried in.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Example {
    /// Tried as a body value, or in the row's first context.
    Plain(String),
    /// Tried in a named place.
    Placed(PlacedExample),
}

/// A value with its place spelled out.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlacedExample {
    /// The value.
    pub(crate) value: String,
    /// guard-core's text form of a context.
    pub(crate) context: String,
}

impl Example {
    /// The value and its context.
    pub(crate) fn parts(&self) -> (&str, &str) {
        match self {
            Self::Plain(value) => (value, "request_body"),
            Self::Placed(placed) => (&placed.value, &placed.context),
        }
    }
}

impl View {
    /// Every view, in mask order.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Decoded, Self::Processed, Self::Additive];

    /// The position in [`View::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The mask that holds only this view.
    pub(crate) const fn bit(self) -> u8 {
        1 << self.index()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    category: String,
    rows: Vec<RowText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowText {
    id: String,
    about: String,
    profiles: Option<Vec<Profile>>,
    contexts: Option<Vec<ContextName>>,
    kinds: Option<Vec<KindName>>,
    views: Option<Vec<ViewName>>,
    pattern: String,
    prefilter: Option<String>,
    #[serde(default)]
    flags: Vec<FlagName>,
    confirm: Option<String>,
    #[serde(default)]
    gates: Vec<GateName>,
    weight: Option<f64>,
    hits: Vec<Example>,
    misses: Vec<Example>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ContextName {
    Query,
    Header,
    Path,
    Body,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindName {
    Value,
    Name,
    JsonLeaf,
    JsonKey,
    FormField,
    MultipartField,
    Cookie,
    EmbeddedJson,
    EmbeddedJsonKey,
    Xml,
    Island,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Value => Self::Value,
            KindName::Name => Self::Name,
            KindName::JsonLeaf => Self::JsonLeaf,
            KindName::JsonKey => Self::JsonKey,
            KindName::FormField => Self::FormField,
            KindName::MultipartField => Self::MultipartField,
            KindName::Cookie => Self::Cookie,
            KindName::EmbeddedJson => Self::EmbeddedJson,
            KindName::EmbeddedJsonKey => Self::EmbeddedJsonKey,
            KindName::Xml => Self::Xml,
            KindName::Island => Self::Island,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ViewName {
    Raw,
    Decoded,
    Processed,
    Additive,
}

#[derive(Clone, Copy, Eq, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FlagName {
    CaseSensitive,
    Multiline,
    Dotall,
}

#[derive(Clone, Copy, Eq, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GateName {
    Noise,
    Separator,
    EmbeddedJson,
}

/// The rows of `profile`: the built-in ones, then those of `extra`, where a row with a known id replaces it.
/// Ordered by category, then as written.
///
/// # Errors
/// Every fault of every file, each with the file and the row it is in.
pub(crate) fn load(profile: Profile, extra: &[PatternFile<'_>]) -> Result<Vec<Row>, Vec<DetectError>> {
    let mut errors = Vec::new();
    let mut rows: Vec<Row> = Vec::new();
    let built_in = FILES.iter().map(|(name, text)| PatternFile { name, text });
    for (file, may_replace) in built_in.map(|file| (file, false)).chain(extra.iter().map(|file| (*file, true))) {
        for (profiles, row) in parse(file, &mut errors) {
            let wanted = profiles.contains(&profile);
            match rows.iter_mut().find(|known| known.id == row.id) {
                Some(known) if may_replace && wanted => *known = row,
                Some(_) if may_replace => rows.retain(|known| known.id != row.id),
                Some(known) => errors.push(fault(&row, format!("the id is taken by {}", known.file))),
                None if wanted => rows.push(row),
                None => {}
            }
        }
    }
    rows.sort_by_key(|row| row.category);
    if ROWS_MAX < rows.len() {
        errors.push(DetectError { key: "patterns".to_owned(), message: format!("more than {ROWS_MAX} rows") });
    }
    if errors.is_empty() { Ok(rows) } else { Err(errors) }
}

fn fault(row: &Row, message: String) -> DetectError {
    DetectError { key: format!("{}: {}", row.file, row.id), message }
}

/// The faultless rows of one file with their profiles; faults go to `errors`.
fn parse(file: PatternFile<'_>, errors: &mut Vec<DetectError>) -> Vec<(Vec<Profile>, Row)> {
    let text: FileText = match serde_saphyr::from_str(file.text) {
        Ok(text) => text,
        Err(error) => {
            errors.push(DetectError { key: file.name.to_owned(), message: error.to_string() });
            return Vec::new();
        }
    };
    let Some(category) = Category::named(&text.category) else {
        let message = format!("no category is called {}", text.category);
        errors.push(DetectError { key: file.name.to_owned(), message });
        return Vec::new();
    };
    let mut rows: Vec<(Vec<Profile>, Row)> = Vec::with_capacity(text.rows.len());
    for row in text.rows {
        let key = format!("{}: {}", file.name, row.id);
        let (before, profiles) = (errors.len(), row.profiles.clone());
        let row =
            check(row, category, file.name, &mut |message| errors.push(DetectError { key: key.clone(), message }));
        if rows.iter().any(|(_, known)| known.id == row.id) {
            errors.push(fault(&row, "the id is used twice in this file".to_owned()));
        }
        if errors.len() == before {
            rows.push((profiles.unwrap_or_else(|| vec![Profile::Balanced, Profile::GuardCore]), row));
        }
    }
    rows
}

/// One row with its words turned into masks.
fn check(text: RowText, category: Category, file: &str, wrong: &mut dyn FnMut(String)) -> Row {
    if text.id.is_empty() || !text.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        wrong("an id is letters, digits and hyphens".to_owned());
    }
    if text.about.trim().is_empty() {
        wrong("about is empty".to_owned());
    }
    for (name, examples) in [("hits", &text.hits), ("misses", &text.misses)] {
        if examples.len() < EXAMPLES_MIN {
            wrong(format!("{name} has {} of at least {EXAMPLES_MIN} examples", examples.len()));
        }
    }
    let confirm = text.confirm.as_deref().and_then(|name| {
        let found = confirm::named(name);
        if found.is_none() {
            wrong(format!("no confirm function is called {name}"));
        }
        found
    });
    let weight = text.weight.unwrap_or(1.0);
    if !(0.0..=10.0).contains(&weight) {
        wrong(format!("weight {weight} is not between 0 and 10"));
    }
    for (name, pattern) in [("pattern", Some(&text.pattern)), ("prefilter", text.prefilter.as_ref())] {
        if pattern.is_some_and(|pattern| pattern.contains('\0')) {
            wrong(format!("the {name} holds a NUL character; write \\x00"));
        }
    }
    Row {
        id: text.id,
        about: text.about,
        file: file.to_owned(),
        category,
        contexts: contexts(text.contexts.as_deref()),
        kinds: text
            .kinds
            .map_or(u16::MAX, |kinds| kinds.into_iter().fold(0, |mask, kind| mask | 1 << (Kind::from(kind) as u16))),
        views: text
            .views
            .map_or(View::Processed.bit(), |views| views.into_iter().fold(0, |mask, view| mask | 1 << (view as u8))),
        pattern: text.pattern,
        prefilter: text.prefilter,
        flags: Flags {
            case_sensitive: text.flags.contains(&FlagName::CaseSensitive),
            multiline: text.flags.contains(&FlagName::Multiline),
            dotall: text.flags.contains(&FlagName::Dotall),
            utf8: false,
        },
        confirm,
        gates: Gates {
            noise: text.gates.contains(&GateName::Noise),
            separator: text.gates.contains(&GateName::Separator),
            embedded_json: text.gates.contains(&GateName::EmbeddedJson),
        },
        weight,
        hits: text.hits,
        misses: text.misses,
    }
}

/// Body and unknown values see every row.
fn contexts(names: Option<&[ContextName]>) -> u8 {
    let always = 1 << Source::Body.index() | 1 << Source::Unknown.index();
    names.map_or(u8::MAX, |names| names.iter().fold(always, |mask, name| mask | 1 << (*name as u8)))
}

#[cfg(test)]
mod tests;
