//! Which reader a body gets: by its declared type and by what it looks like.

use std::borrow::Cow;
use std::ops::ControlFlow;

use smallvec::SmallVec;

use crate::detect::extract::charset::{Charset, lossy};
use crate::detect::extract::coding::{self, End};
use crate::detect::extract::grpc;
use crate::detect::extract::json::{self, Soundness};
use crate::detect::extract::leaves::{self, Holder};
use crate::detect::extract::sink::Sink;
use crate::detect::extract::{Flow, binary, graphql, mime, multipart, pairs, protobuf, xml};
use crate::detect::{Kind, Source};
use crate::request::Request;

/// Bytes read beyond the body cap, so that an attack across the cut is whole.
const OVERLAP: usize = 256;

/// Charset labels of one body that are believed.
const CHARSETS_MAX: usize = 2;

/// Hands out the body's values.
pub(super) fn walk(request: &Request<'_>, sink: &mut Sink<'_>) -> Flow {
    let body = request.body.bytes();
    if !sink.scope.scan_body {
        return Flow::Continue(());
    }
    let max = sink.limits.body_bytes_max.saturating_add(OVERLAP);
    let kept = body.get(..max).unwrap_or(body);
    // The beginning that was sent may be empty: what follows is unseen all the same.
    if request.body.is_partial() {
        sink.partial("only the beginning of the body was sent for inspection")?;
    } else if kept.len() < body.len() {
        sink.partial("the body is longer than detection_max_body_inspect_bytes")?;
    }
    if body.is_empty() {
        return Flow::Continue(());
    }
    let is_cut = request.body.is_partial() || kept.len() < body.len();
    let plain = coding::undo(&joined(request, "content-encoding"), kept, max);
    if let Cow::Owned(inflated) = &plain.bytes {
        sink.inflated(inflated.len());
    }
    match plain.end {
        End::Whole => {}
        End::Full => sink.partial("the body inflates beyond detection_max_body_inspect_bytes")?,
        End::Cut | End::Damaged if is_cut => {}
        End::Cut => sink.partial("the compressed body ends in the middle")?,
        End::Damaged => sink.undecodable("the compressed body is damaged")?,
        End::Refused(reason) => sink.undecodable(reason)?,
    }
    let content_type = joined(request, "content-type");
    let encoding = joined(request, "grpc-encoding");
    Declared::new(&content_type, &encoding).read(&plain.bytes, sink)?;
    sink.flush(Source::Body)
}

/// All values of a header, as Envoy would join them.
fn joined<'r>(request: &Request<'r>, name: &str) -> Cow<'r, str> {
    let mut values = request.headers.all(name);
    let first = values.next().map(lossy).unwrap_or_default();
    values.fold(first, |all, value| Cow::Owned(format!("{all}, {}", lossy(value))))
}

/// The families of types that are read differently.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    Form,
    Multipart,
    Json,
    JsonLines,
    Xml,
    /// XML that browsers run.
    Markup,
    GraphQl,
    Grpc,
    Protobuf,
    Binary,
    Other,
}

impl Family {
    /// The family of a lower-case type. Substrings decide, as in guard-core.
    fn of(declared: &[u8]) -> Self {
        if declared == b"application/json" {
            return Self::Json;
        }
        let has = |part: &str| contains(declared, part);
        match () {
            () if has("application/x-www-form-urlencoded") => Self::Form,
            () if has("multipart/") => Self::Multipart,
            () if has("application/grpc") => Self::Grpc,
            () if has("ndjson") || has("jsonl") || has("json-seq") || has("json-stream") => Self::JsonLines,
            () if has("json") => Self::Json,
            () if has("svg") || has("xhtml") => Self::Markup,
            () if has("/xml") || has("+xml") || has("xml-dtd") => Self::Xml,
            () if has("application/graphql") => Self::GraphQl,
            () if has("protobuf") || has("x-google-protobuf") => Self::Protobuf,
            () if ["octet-stream", "image/", "audio/", "video/", "font/", "/zip", "/gzip", "/pdf"]
                .into_iter()
                .any(has) =>
            {
                Self::Binary
            }
            () => Self::Other,
        }
    }
}

fn contains(declared: &[u8], part: &str) -> bool {
    memchr::memmem::find(declared, part.as_bytes()).is_some()
}

/// What the headers say about a body.
struct Declared<'h> {
    content_type: &'h str,
    lower: SmallVec<[u8; 128]>,
    family: Family,
    grpc_encoding: &'h str,
}

impl<'h> Declared<'h> {
    fn new(content_type: &'h str, grpc_encoding: &'h str) -> Self {
        let lower: SmallVec<[u8; 128]> = content_type.bytes().map(|byte| byte.to_ascii_lowercase()).collect();
        let family = Family::of(&lower);
        Self { content_type, lower, family, grpc_encoding }
    }

    fn read(&self, bytes: &[u8], sink: &mut Sink<'_>) -> Flow {
        match self.family {
            Family::Grpc => {
                let has = |part| contains(&self.lower, part);
                let form = grpc::Form { base64: has("-text"), json: has("json"), encoding: self.grpc_encoding };
                return grpc::walk(bytes, &form, sink);
            }
            Family::Protobuf if protobuf::walk(bytes, sink)? => return Flow::Continue(()),
            Family::Protobuf | Family::Binary => return self.read_bytes(bytes, sink),
            _ => {}
        }
        let labels = self.charsets(sink)?;
        if let Some(charset) = Charset::of_first_bytes(bytes) {
            return self.read_text(&charset.decode(bytes), bytes, sink);
        }
        for charset in &labels {
            self.read_in(*charset, bytes, sink)?;
        }
        // A server that ignores the label reads the bytes as they are.
        let ignorable = labels.iter().all(|charset| !charset.keeps_ascii()) && !bytes.contains(&0);
        match std::str::from_utf8(bytes) {
            _ if labels.is_empty() => self.read_text(&lossy(bytes), bytes, sink),
            Ok(text) if ignorable => self.read_text(text, bytes, sink),
            _ => Flow::Continue(()),
        }
    }

    /// The charsets the type names, without plain UTF-8 when it is the only one.
    fn charsets(&self, sink: &mut Sink<'_>) -> ControlFlow<(), Vec<Charset>> {
        let mut found = Vec::new();
        if !contains(&self.lower, "charset") {
            return ControlFlow::Continue(found);
        }
        for (_, label) in mime::parameters(self.content_type).iter().filter(|(name, _)| name == "charset") {
            match Charset::labelled(label) {
                None => sink.undecodable("the charset is not known")?,
                Some(charset) if found.contains(&charset) || CHARSETS_MAX <= found.len() => {}
                Some(charset) => found.push(charset),
            }
        }
        if found == [Charset::Utf8] {
            found.clear();
        }
        ControlFlow::Continue(found)
    }

    fn read_in(&self, charset: Charset, bytes: &[u8], sink: &mut Sink<'_>) -> Flow {
        if self.family == Family::Form && !charset.keeps_ascii() && bytes.is_ascii() && !bytes.contains(&0) {
            return pairs::form_in(charset, &lossy(bytes), sink);
        }
        self.read_text(&charset.decode(bytes), bytes, sink)
    }

    fn read_text(&self, text: &str, bytes: &[u8], sink: &mut Sink<'_>) -> Flow {
        match self.family {
            Family::Form => {
                pairs::form(text, sink)?;
                return if is_json_like(text) { self.sniff(text, bytes, sink) } else { Flow::Continue(()) };
            }
            Family::Multipart if multipart::walk(self.content_type, bytes, sink)? => return Flow::Continue(()),
            Family::Json | Family::JsonLines => {
                let shape = leaves::walk(text, &Holder::body(sink.lens()), sink)?;
                let one = self.family == Family::JsonLines || shape.roots == 1;
                if one && shape.soundness == Soundness::Strict && shape.starts_with_container {
                    return Flow::Continue(());
                }
                if looks_like_form(text) {
                    pairs::form(text, sink)?;
                }
                return blob(text, sink);
            }
            Family::Xml | Family::Markup => {
                let sound = xml::walk(text, sink)?;
                let shown = sound && self.family == Family::Xml && !sink.is_guard_core();
                return if shown { Flow::Continue(()) } else { blob(text, sink) };
            }
            Family::GraphQl if !sink.is_guard_core() && graphql::is_document(text) => {
                let holder = graphql::Holder { source: Source::Body, kind: Kind::Value, name: "", lens: sink.lens() };
                return graphql::walk(text, &holder, sink);
            }
            _ => {}
        }
        if !sink.is_guard_core() && binary::is_binary(text) {
            return binary::islands(text, "", sink);
        }
        self.sniff(text, bytes, sink)?;
        blob(text, sink)
    }

    fn read_bytes(&self, bytes: &[u8], sink: &mut Sink<'_>) -> Flow {
        let text = lossy(bytes);
        if binary::is_binary(&text) && !sink.is_guard_core() {
            return binary::islands(&text, "", sink);
        }
        self.sniff(&text, bytes, sink)?;
        blob(&text, sink)
    }

    /// Reads a body as what it looks like, for servers that do not look at its type.
    fn sniff(&self, text: &str, bytes: &[u8], sink: &mut Sink<'_>) -> Flow {
        if is_json_like(text) && json::is_document(text) {
            leaves::walk(text, &Holder::body(sink.lens()), sink)?;
        } else if multipart::is_likely(bytes) && self.family != Family::Multipart {
            multipart::walk("", bytes, sink)?;
        } else if text.trim_start().starts_with("<?xml") {
            xml::walk(text, sink)?;
        } else if looks_like_form(text) {
            pairs::form(text, sink)?;
        }
        Flow::Continue(())
    }
}

/// Hands out a text as it is.
fn blob(text: &str, sink: &mut Sink<'_>) -> Flow {
    sink.text(Source::Body, Kind::Value, "", text)
}

/// True when `text` begins as an object or an array.
fn is_json_like(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

/// True for one line that begins with a parameter's name and an equals sign.
fn looks_like_form(text: &str) -> bool {
    /// Longest name that makes a text look like a form.
    const NAME_MAX: usize = 128;
    let is_name =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'[' | b']' | b'%' | b'$');
    let name = text.bytes().take(NAME_MAX + 1).position(|byte| !is_name(byte));
    name.is_some_and(|end| end != 0 && text.as_bytes().get(end) == Some(&b'='))
        && !text.trim_end().bytes().any(|byte| byte <= b' ')
}

#[cfg(test)]
mod tests;
