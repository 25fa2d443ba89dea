//! Multipart bodies: parts, their headers and payloads, under every boundary a server might believe.

use std::ops::ControlFlow;

use memchr::memmem;

use crate::detect::extract::charset::{Charset, lossy};
use crate::detect::extract::place::same_name;
use crate::detect::extract::sink::Sink;
use crate::detect::extract::{Flow, binary, mime};
use crate::detect::{Kind, Source};

/// Boundaries of one body that are tried; inside a part, one.
const BOUNDARIES_MAX: usize = 4;

/// Multipart parts inside multipart parts.
const NESTING_MAX: usize = 3;

/// Header lines of one part that are read one by one; the rest is one text.
const HEADERS_MAX: usize = 32;

/// What a boundary may at most be long (RFC 2046 says 70; servers read more).
const BOUNDARY_MAX: usize = 256;

/// Hands out every part under every boundary that `content_type` names, or that the body begins with. False when the
/// body has no part.
pub(super) fn walk(content_type: &str, body: &[u8], sink: &mut Sink<'_>) -> ControlFlow<(), bool> {
    nested(content_type, body, 0, sink)
}

fn nested(content_type: &str, body: &[u8], depth: usize, sink: &mut Sink<'_>) -> ControlFlow<(), bool> {
    let mut any = false;
    let tried = if depth == 0 { BOUNDARIES_MAX } else { 1 };
    for boundary in boundaries(content_type, body).iter().take(tried) {
        let mut parts = Parts::new(body, boundary.as_bytes());
        let Some(preamble) = parts.skip_preamble() else { continue };
        any = true;
        outside(preamble, sink)?;
        while let Some(part) = parts.next_part() {
            walk_part(&part, depth, sink)?;
        }
        outside(parts.rest, sink)?;
    }
    ControlFlow::Continue(any)
}

/// Text outside all parts is ignored by servers, unless they split the body differently.
fn outside(text: &[u8], sink: &mut Sink<'_>) -> Flow {
    sink.text(Source::Body, Kind::MultipartField, "", lossy(text).trim())
}

/// What the headers of a part say.
#[derive(Debug, Default)]
struct About {
    name: Option<String>,
    filenames: Vec<String>,
    content_type: String,
    transfer_encoding: String,
}

impl About {
    fn read(lines: &[String]) -> Self {
        let mut about = Self::default();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "content-disposition" => {
                    for (name, value) in mime::parameters(value) {
                        match name.as_str() {
                            "name" => about.name = Some(value),
                            "filename" if !about.filenames.contains(&value) => about.filenames.push(value),
                            _ => {}
                        }
                    }
                }
                "content-type" => value.trim().clone_into(&mut about.content_type),
                "content-transfer-encoding" => value.trim().clone_into(&mut about.transfer_encoding),
                _ => {}
            }
        }
        about
    }

    /// The field's name, or the word guard-core puts in its place.
    fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("file")
    }
}

/// True for a Content-Disposition line whose parts are all handed out by themselves.
fn is_plain_disposition(line: &str) -> bool {
    let Some((name, value)) = line.split_once(':') else { return false };
    let kind = value.split(';').next().unwrap_or_default().trim();
    name.eq_ignore_ascii_case("content-disposition")
        && (kind.eq_ignore_ascii_case("form-data") || kind.eq_ignore_ascii_case("attachment"))
        && mime::parameters(value).iter().all(|(name, _)| name == "name" || name == "filename")
}

/// Hands out a part: its label, its file names, its headers, its payload.
fn walk_part(part: &Part<'_>, depth: usize, sink: &mut Sink<'_>) -> Flow {
    let lines = header_lines(part.headers);
    let about = About::read(&lines);
    let label = about.label();
    if sink.scope.excluded_body_fields.iter().any(|excluded| same_name(label, excluded)) {
        return Flow::Continue(());
    }
    sink.text(Source::Body, Kind::Name, label, label)?;
    for filename in &about.filenames {
        let line = format!("filename=\"{}\"", filename.replace('"', ""));
        sink.text(Source::Body, Kind::MultipartField, label, &line)?;
    }
    for line in &lines {
        if sink.is_guard_core() || !is_plain_disposition(line) {
            sink.text(Source::Body, Kind::MultipartField, label, line)?;
        }
    }
    if part.payload.is_empty() {
        return Flow::Continue(());
    }
    let undone = mime::undo_transfer(&about.transfer_encoding, part.payload);
    payload(&about, undone.as_deref().unwrap_or(part.payload), depth, sink)
}

fn payload(about: &About, payload: &[u8], depth: usize, sink: &mut Sink<'_>) -> Flow {
    let is_nested = about.content_type.to_ascii_lowercase().starts_with("multipart/");
    if is_nested && depth + 1 < NESTING_MAX && nested(&about.content_type, payload, depth + 1, sink)? {
        return Flow::Continue(());
    }
    let charset = mime::parameters(&about.content_type)
        .iter()
        .find(|(name, _)| name == "charset")
        .and_then(|(_, label)| Charset::labelled(label));
    let text = Charset::of_first_bytes(payload).or(charset).unwrap_or(Charset::Utf8).decode(payload);
    let is_file = !about.filenames.is_empty();
    if is_file && 1 < sink.limits.island_min && binary::is_binary(&text) {
        return binary::islands(&text, about.label(), sink);
    }
    sink.field(Source::Body, Kind::MultipartField, about.label(), &text)
}

/// The header lines of a part, folded ones joined.
fn header_lines(headers: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in lossy(headers).split_inclusive('\n') {
        let folded = line.starts_with([' ', '\t']) || HEADERS_MAX <= lines.len();
        let line = line.trim_matches(['\r', '\n', ' ', '\t']);
        match lines.last_mut().filter(|_| folded) {
            Some(last) => {
                last.push(' ');
                last.push_str(line);
            }
            None if line.is_empty() => {}
            None => lines.push(line.to_owned()),
        }
    }
    lines
}

/// The distinct boundaries the type names, and the one the body itself begins with when none was named or none of them
/// is in the body.
fn boundaries(content_type: &str, body: &[u8]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (name, value) in mime::parameters(content_type) {
        if name != "boundary" || value.is_empty() || BOUNDARY_MAX < value.len() {
            continue;
        }
        // PHP ends an unquoted boundary at a comma.
        let cut = value.split_once(',').map(|(cut, _)| cut.to_owned());
        for boundary in [Some(value), cut].into_iter().flatten() {
            if !boundary.is_empty() && !found.contains(&boundary) && found.len() < BOUNDARIES_MAX {
                found.push(boundary);
            }
        }
    }
    found.retain(|boundary| Parts::new(body, boundary.as_bytes()).skip_preamble().is_some());
    if found.is_empty() {
        found.extend(first_line_boundary(body));
    }
    found
}

/// The boundary a body shows in its first line, when a part's header follows.
fn first_line_boundary(body: &[u8]) -> Option<String> {
    let body = body.trim_ascii_start();
    let (line, rest) = split_line(body)?;
    let boundary = std::str::from_utf8(line.strip_prefix(b"--")?).ok()?;
    let begins = rest.get(..8)?.eq_ignore_ascii_case(b"content-");
    (begins && !boundary.is_empty() && boundary.len() <= BOUNDARY_MAX).then(|| boundary.to_owned())
}

/// True when a body looks like parts although nobody said so.
pub(super) fn is_likely(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"--") && first_line_boundary(body).is_some()
}

/// One part, unparsed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Part<'b> {
    headers: &'b [u8],
    payload: &'b [u8],
}

impl<'b> From<&'b [u8]> for Part<'b> {
    /// Splits at the first empty line; without one, everything is payload and header at once.
    fn from(part: &'b [u8]) -> Self {
        let mut rest = part;
        while let Some((line, after)) = split_line(rest) {
            if line.is_empty() {
                let headers = part.get(..part.len() - rest.len()).unwrap_or_default();
                return Self { headers, payload: after };
            }
            rest = after;
        }
        Self { headers: part, payload: part }
    }
}

/// The line that `text` begins with, without its break, and what follows. `None` at the end of the text.
fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
    let line = text.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), text.get(end + 1..).unwrap_or_default()))
}

/// The parts of a body under one boundary.
struct Parts<'b> {
    rest: &'b [u8],
    finder: memmem::Finder<'static>,
    ended: bool,
}

impl<'b> Parts<'b> {
    fn new(body: &'b [u8], boundary: &[u8]) -> Self {
        let finder = memmem::Finder::new(&[b"--", boundary].concat()).into_owned();
        Self { rest: body, finder, ended: false }
    }

    /// Moves behind the first delimiter and returns what stood before it. `None` when there is no delimiter.
    fn skip_preamble(&mut self) -> Option<&'b [u8]> {
        let (before, found) = self.split_at_delimiter();
        found.then_some(before)
    }

    /// The next part. The last one reaches to the end of the body when its delimiter is missing.
    fn next_part(&mut self) -> Option<Part<'b>> {
        if self.ended {
            return None;
        }
        let (part, found) = self.split_at_delimiter();
        (found || !part.is_empty()).then(|| Part::from(part))
    }

    /// What stands before the next delimiter line, the line break that belongs to the delimiter left out; and whether
    /// there is one.
    fn split_at_delimiter(&mut self) -> (&'b [u8], bool) {
        let body = self.rest;
        for at in self.finder.find_iter(body) {
            let before = body.get(..at).unwrap_or_default();
            if !(before.is_empty() || before.ends_with(b"\n")) {
                continue;
            }
            let after = body.get(at + self.finder.needle().len()..).unwrap_or_default();
            let (line, rest) = split_line(after).unwrap_or((after, b""));
            // A longer line is another boundary with the same beginning.
            let is_delimiter = line.strip_prefix(b"--").unwrap_or(line).trim_ascii().is_empty();
            if is_delimiter {
                self.ended = line.starts_with(b"--");
                self.rest = rest;
                let before = before.strip_suffix(b"\n").unwrap_or(before);
                return (before.strip_suffix(b"\r").unwrap_or(before), true);
            }
        }
        self.rest = b"";
        self.ended = true;
        (body, false)
    }
}

#[cfg(test)]
mod tests;
