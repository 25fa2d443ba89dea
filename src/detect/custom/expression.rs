//! What a pattern's text means: small differences between the dialects evened out, and the matcher it needs.

use crate::detect::custom::{PATTERN_BYTES_MAX, PatternError, Refused, STEPS_BACK_MAX};

/// Bytes of one pattern's compiled form. Counted repeats are unrolled in it, so this also bounds the time of compiling.
const COMPILED_BYTES_MAX: usize = 4 << 20;
/// Instructions of one pattern's backtracking program.
const PROGRAM_MAX: usize = 16 * 1024;

/// A pattern that was understood.
#[derive(Debug)]
pub(super) struct Read {
    /// As the engines read it.
    pub(super) text: String,
    /// Decides what the automaton alone cannot.
    pub(super) looking: Option<fancy_regex::Regex>,
}

/// Understands a pattern: case ignored, `^` and `$` at line breaks, a dot is any character but a line break.
pub(super) fn read(pattern: &str) -> Result<Read, PatternError> {
    if pattern.is_empty() {
        return Err(PatternError::new(Refused::Empty, "a pattern must not be empty"));
    }
    if PATTERN_BYTES_MAX < pattern.len() {
        let message = format!("a pattern has at most {PATTERN_BYTES_MAX} bytes");
        return Err(PatternError::new(Refused::TooLong, message));
    }
    let even = even(pattern)?;
    match plain(&even.text) {
        Ok(_) => Ok(Read { text: even.text, looking: None }),
        Err(regex::Error::CompiledTooBig(_)) => Err(too_large()),
        Err(_) => {
            let looking = looking(&even.text).map_err(|error| even.original(error))?;
            Ok(Read { text: even.text, looking: Some(looking) })
        }
    }
}

/// The matcher of a pattern without look-around and back-references.
pub(super) fn plain(text: &str) -> Result<regex::Regex, regex::Error> {
    let mut builder = regex::RegexBuilder::new(text);
    builder.case_insensitive(true).multi_line(true).size_limit(COMPILED_BYTES_MAX).build()
}

fn too_large() -> PatternError {
    PatternError::new(Refused::TooLarge, format!("compiles to more than {COMPILED_BYTES_MAX} bytes"))
}

/// The matcher of any other pattern.
fn looking(text: &str) -> Result<fancy_regex::Regex, PatternError> {
    let mut builder = fancy_regex::RegexBuilder::new(text);
    builder.case_insensitive(true).multi_line(true);
    builder.delegate_size_limit(COMPILED_BYTES_MAX).max_prog_size(PROGRAM_MAX).backtrack_limit(STEPS_BACK_MAX);
    builder.build().map_err(|error| match error {
        fancy_regex::Error::ParseError(position, error) => {
            let position = Some(mistake(text).unwrap_or(position));
            PatternError { kind: Refused::Syntax, position, message: error.to_string() }
        }
        fancy_regex::Error::CompileError(error) => match *error {
            fancy_regex::CompileError::InnerError(_) => too_large(),
            fancy_regex::CompileError::PatternTooComplex => PatternError::new(Refused::TooLarge, "is too complex"),
            fancy_regex::CompileError::InvalidBackref(_)
            | fancy_regex::CompileError::InvalidGroupName
            | fancy_regex::CompileError::InvalidGroupNameBackref(_) => {
                PatternError::new(Refused::Syntax, error.to_string())
            }
            other => PatternError::new(Refused::Unsupported, other.to_string()),
        },
        other => PatternError::new(Refused::Syntax, other.to_string()),
    })
}

/// Where the mistake is, more exactly than where reading ended; `None` when it lies beyond this reader.
fn mistake(text: &str) -> Option<usize> {
    use regex_syntax::ast::ErrorKind::{UnsupportedBackreference, UnsupportedLookAround};
    let error = regex_syntax::ast::parse::Parser::new().parse(text).err()?;
    let is_known = !matches!(error.kind(), UnsupportedBackreference | UnsupportedLookAround);
    is_known.then(|| error.span().start.offset)
}

/// A pattern with the differences between Python, PCRE and Rust evened out.
#[derive(Debug)]
struct Even {
    text: String,
    /// Offsets in the text at which a byte was put in that the original does not have.
    added: Vec<usize>,
}

impl Even {
    /// An error with its position in the original.
    fn original(&self, error: PatternError) -> PatternError {
        let position = error.position.map(|at| at - self.added.iter().filter(|added| **added < at).count());
        PatternError { position, ..error }
    }
}

/// `\Z` is the end of the text, as in Python; `[`, `&` and `~` in a class are themselves, as in Python and PCRE. What
/// gives up backtracking, recurses or branches on a group has no meaning for an automaton.
fn even(pattern: &str) -> Result<Even, PatternError> {
    let mut even = Even { text: String::with_capacity(pattern.len() + 8), added: Vec::new() };
    let unsupported = |position: usize, what: &str| {
        let message = format!("{what} is not supported");
        Err(PatternError { kind: Refused::Unsupported, position: Some(position), message })
    };
    // Where the class began; a `]` right there, or behind `^`, is a member.
    let mut class: Option<usize> = None;
    let mut letters = pattern.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let rest = pattern.get(at..).unwrap_or_default();
        match letter {
            '\0' => return unsupported(at, "a NUL character (write \\x00)"),
            '\\' => {
                let Some((_, escaped)) = letters.next() else {
                    let message = "ends with a backslash".to_owned();
                    return Err(PatternError { kind: Refused::Syntax, position: Some(at), message });
                };
                even.text.push('\\');
                even.text.push(if escaped == 'Z' && class.is_none() { 'z' } else { escaped });
                continue;
            }
            '[' if class.is_none() => {
                class = Some(at + if rest.starts_with("[^") { 2 } else { 1 });
            }
            ']' if class.is_some_and(|start| start < at) => class = None,
            '[' | '&' | '~' if class.is_some() && !rest.starts_with("[:") => {
                even.added.push(even.text.len());
                even.text.push('\\');
            }
            '(' if class.is_none() => {
                for (opening, what) in [
                    ("(?>", "an atomic group"),
                    ("(?(", "a conditional"),
                    ("(?R", "recursion"),
                    ("(?&", "recursion"),
                    ("(?P>", "recursion"),
                    ("(?#", "a comment"),
                    ("(*", "a verb"),
                ] {
                    if rest.starts_with(opening) {
                        return unsupported(at, what);
                    }
                }
            }
            _ => {}
        }
        even.text.push(letter);
    }
    Ok(even)
}
