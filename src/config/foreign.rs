//! Files of others: YAML or JSON documents of any shape, with places, within bounds. Knows no field.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::config::errors::{Class, Place, Problem};
use crate::config::parse::{self, Broken};
use crate::config::tree::{Node, Value};
use crate::config::yaml;

/// Largest file, in bytes: the dump of an Envoy with thousands of routes.
pub(crate) const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Deepest nesting; a route's settings within a dump need about 30.
pub(crate) const DEPTH_MAX: usize = 64;
/// Stack of the thread that reads: the YAML reader takes about 32 KiB a level.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// The documents of a file, in order. Empty ones are left out, and a list at the top is its entries.
///
/// # Errors
///
/// Why the file has no documents, with the place where reading ended.
pub(crate) fn read(path: &Path) -> Result<Vec<Node>, Problem> {
    let name: Arc<str> = path.display().to_string().into();
    let whole = |message: String| problem(&name, 0, 0, Class::File, message);
    let failed = |error: std::io::Error| whole(format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if BYTES_MAX < bytes.len() as u64 {
        return Err(whole(format!("is larger than {BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| whole("is not UTF-8 text".to_owned()))?;
    parse(&text, &name, 0)
}

/// The documents of a text that stands in the file `name` after `lines_before` lines.
pub(crate) fn parse(text: &str, name: &Arc<str>, lines_before: u32) -> Result<Vec<Node>, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file = Arc::clone(name);
    let place = move |line: u32, column: u32| Place::File {
        file: Arc::clone(&file),
        line: if line == 0 { 0 } else { line.saturating_add(lines_before) },
        column,
    };
    let is_json = text.trim_start().starts_with(['{', '[']);
    // Flow style begins like JSON: what is no JSON may still be YAML.
    let work = || match is_json.then(|| parse::json_within(DEPTH_MAX, text, &place)) {
        Some(Ok(node)) => Ok(vec![node]),
        Some(Err(broken)) => yaml::documents(text, DEPTH_MAX, &place).map_err(|_| broken),
        None => yaml::documents(text, DEPTH_MAX, &place),
    };
    let read = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        thread.map_err(|error| error.to_string())?.join().map_err(|_| "the reader gave up".to_owned())
    });
    let documents = match read {
        Ok(Ok(documents)) => documents,
        Ok(Err(Broken { line, column, message })) => {
            let line = if line == 0 { 0 } else { line.saturating_add(lines_before) };
            return Err(problem(name, line, column, Class::Syntax, message));
        }
        Err(message) => return Err(problem(name, 0, 0, Class::File, message)),
    };
    Ok(documents.into_iter().flat_map(flattened).collect())
}

fn flattened(node: Node) -> Vec<Node> {
    match node.value {
        Value::List(items) => items,
        _ => vec![node],
    }
}

fn problem(name: &Arc<str>, line: u32, column: u32, class: Class, message: String) -> Problem {
    let place = Some(Place::File { file: Arc::clone(name), line, column });
    Problem { place, key: String::new(), class, message, hint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of_first(text: &str) -> Result<usize, String> {
        parse(text, &"f".into(), 0).map(|documents| documents.len()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn documents_of_both_formats_are_read_within_bounds() {
        assert_eq!(line_of_first("a: 1\n---\n---\nb: 2\n"), Ok(2));
        assert_eq!(line_of_first("{\"a\": 1}"), Ok(1));
        assert_eq!(line_of_first("{a: 1}\n---\n{b: 2}"), Ok(2), "flow style is no JSON");
        assert_eq!(line_of_first("[{\"a\": 1}, {\"b\": 2}]"), Ok(2));
        let refused = line_of_first("a: 1\nb: [1\n").unwrap_err();
        assert!(refused.starts_with("f:") && refused.ends_with("[syntax]"), "{refused}");
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(line_of_first(&deep(DEPTH_MAX)).is_ok());
        let refused = line_of_first(&deep(DEPTH_MAX + 1)).unwrap_err();
        assert!(refused.contains("nested more than 64 levels deep"), "{refused}");
        let refused = line_of_first(&format!("x: {}", deep(DEPTH_MAX).replace('1', "a"))).unwrap_err();
        assert!(refused.contains("nested more than 64 levels deep"), "{refused}");
    }
}
