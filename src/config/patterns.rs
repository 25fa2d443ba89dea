//! Checks of regular expressions, path templates and paths.

use crate::config::opinion::Opinion::{self, Bad, Good, Odd};
use crate::config::opinion::brief;
use crate::request::path::normalise;

/// Longest regular expression, in bytes.
const PATTERN_MAX: usize = 8 * 1024;
/// Memory of one compiled expression, in bytes; a nest of counted repetitions would otherwise take what it likes.
const COMPILED_MAX: usize = 4 * 1024 * 1024;

/// What the regex crate refuses about `text`, or `None`.
fn refused(text: &str) -> Option<String> {
    let built = regex::RegexBuilder::new(text).case_insensitive(true).multi_line(true).size_limit(COMPILED_MAX).build();
    match built {
        Ok(_) => None,
        Err(regex::Error::CompiledTooBig(_)) => Some(format!("compiles to more than {COMPILED_MAX} bytes")),
        Err(error) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            Some(last.strip_prefix("error: ").unwrap_or(last).to_owned())
        }
    }
}

fn length(text: &str) -> Option<Opinion> {
    if text.is_empty() {
        return Some(Bad("a pattern must not be empty".to_owned()));
    }
    (PATTERN_MAX < text.len()).then(|| Bad(format!("a pattern must not be longer than {PATTERN_MAX} bytes")))
}

/// Look-around and back-references are tried with fancy-regex.
fn compiles(text: &str) -> Opinion {
    let Some(message) = refused(text) else { return Good };
    if fancy_regex::RegexBuilder::new(text).delegate_size_limit(COMPILED_MAX).build().is_ok() {
        return Good;
    }
    Bad(format!("`{}` is not a regular expression: {message}", brief(text)))
}

/// A pattern searched in User-Agent.
pub(crate) fn user_agent(text: &str) -> Opinion {
    match length(text).unwrap_or_else(|| compiles(text)) {
        Good if matches_empty(text) => {
            Odd("this pattern matches an absent User-Agent too, so it blocks everybody".to_owned())
        }
        opinion => opinion,
    }
}

fn matches_empty(text: &str) -> bool {
    regex::RegexBuilder::new(text)
        .case_insensitive(true)
        .multi_line(true)
        .size_limit(COMPILED_MAX)
        .build()
        .is_ok_and(|regex| regex.is_match("") && regex.is_match("Mozilla/5.0 (X11)"))
}

/// A custom detection pattern.
pub(crate) fn custom(text: &str) -> Opinion {
    length(text).unwrap_or_else(|| compiles(text))
}

/// A path expression: linear time only, since every request meets it.
pub(crate) fn path_regex(text: &str) -> Opinion {
    if let Some(opinion) = length(text) {
        return opinion;
    }
    refused(text)
        .map_or(Good, |message| Bad(format!("`{}` is not a regular expression in RE2 syntax: {message}", brief(text))))
}

/// `/users/{id}/files/{rest...}`.
pub(crate) fn template(text: &str) -> Opinion {
    let Some(rest) = text.strip_prefix('/') else {
        return Bad(format!("a template begins with `/`, and `{}` does not", brief(text)));
    };
    let mut names = std::collections::BTreeSet::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let Some(inner) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
            if segment.contains(['{', '}']) {
                return Bad(format!("`{}`: a `{{name}}` fills a whole segment", brief(segment)));
            }
            if segment.is_empty() && !is_last {
                return Bad(format!("`{}` holds an empty segment", brief(text)));
            }
            continue;
        };
        let (name, is_rest) = inner.strip_suffix("...").map_or((inner, false), |name| (name, true));
        let good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !good {
            return Bad(format!("`{}`: a name holds letters, digits and `_`", brief(segment)));
        }
        if is_rest && !is_last {
            return Bad(format!("`{}`: only the last segment may be `{{{name}...}}`", brief(segment)));
        }
        if !names.insert(name) {
            return Bad(format!("`{{{name}}}` stands twice"));
        }
    }
    Good
}

/// An exact path or a prefix.
pub(crate) fn path(text: &str) -> Opinion {
    if !text.starts_with('/') {
        return Bad(format!("a path begins with `/`, and `{}` does not", brief(text)));
    }
    if text.contains(['?', '#']) {
        return Bad("a path holds no query and no fragment".to_owned());
    }
    if !normalise(text).is_sound {
        return Bad(format!(
            "`{}` cannot be normalised: bytes that are no UTF-8, or too many encoding layers",
            brief(text)
        ));
    }
    Good
}

/// An entry of `exclude_paths`.
pub(crate) fn exclude_path(text: &str) -> Opinion {
    let normal = normalise(text);
    if !normal.is_sound {
        return Bad(format!(
            "`{}` cannot be normalised: bytes that are no UTF-8, or too many encoding layers",
            brief(text)
        ));
    }
    if text == "/" {
        return Odd("this excludes every path from most checks".to_owned());
    }
    if normal.path == "/" {
        return Bad(format!("`{}` means every path; write `/` if that is wanted", brief(text)));
    }
    Good
}

/// The pattern of a `return_pattern` rule.
pub(crate) fn returns(text: &str) -> Opinion {
    if let Some(code) = text.strip_prefix("status:") {
        return match code.parse::<u16>() {
            Ok(100..=599) => Good,
            _ => Bad(format!("`{}` is not a status code from 100 to 599", brief(code))),
        };
    }
    if let Some(pattern) = text.strip_prefix("regex:") {
        return custom(pattern);
    }
    match text.strip_prefix("json:") {
        Some(rest) if rest.split_once("==").is_none_or(|(path, _)| path.trim().is_empty()) => {
            Bad("a JSON pattern is written `json:path==value`".to_owned())
        }
        _ if text.is_empty() => Bad("a pattern must not be empty".to_owned()),
        _ => Good,
    }
}
