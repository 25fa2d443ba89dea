//! `name=value&...` texts: queries and forms.

use smallvec::SmallVec;

use crate::detect::extract::charset::Charset;
use crate::detect::extract::place::same_name;
use crate::detect::extract::sink::Sink;
use crate::detect::extract::{Flow, mime, percent};
use crate::detect::{Kind, Source};

/// Pairs of one text whose names are compared to find duplicates; later ones are scanned alone.
const COMPARED_MAX: usize = 1024;

/// How servers join the values of a name that occurs more than once.
const JOINT: &str = ",";

/// Where pairs stand and which names are skipped.
struct Form<'a> {
    source: Source,
    value_kind: Kind,
    excluded: &'a [String],
}

/// Hands out the query: each name, then its value; then the values of repeated names, joined.
pub(super) fn query(text: &str, sink: &mut Sink<'_>) -> Flow {
    let excluded = &sink.scope.excluded_params;
    walk(text, &Form { source: Source::Query, value_kind: Kind::Value, excluded }, sink)?;
    sink.flush(Source::Query)
}

/// Hands out a form body, like [`query`].
pub(super) fn form(text: &str, sink: &mut Sink<'_>) -> Flow {
    let excluded = &sink.scope.excluded_body_fields;
    walk(text, &Form { source: Source::Body, value_kind: Kind::FormField, excluded }, sink)
}

/// Hands out a form whose escaped bytes are text in `charset`.
pub(super) fn form_in(charset: Charset, text: &str, sink: &mut Sink<'_>) -> Flow {
    // In UTF-7 the plus sign has a meaning of its own.
    let plus = charset != Charset::Utf7;
    let decode = |raw: &str| charset.decode(&mime::percent_bytes(raw.as_bytes(), plus)).into_owned();
    for raw in text.split('&').filter(|raw| !raw.is_empty()) {
        let (raw_name, raw_value) = raw.split_once('=').unwrap_or((raw, ""));
        // Names are often left in ASCII.
        let (name, decoded) = (percent::decode_form(raw_name, &mut String::new()).to_owned(), decode(raw_name));
        if [&name, &decoded].into_iter().any(|name| lists(&sink.scope.excluded_body_fields, name)) {
            continue;
        }
        sink.text(Source::Body, Kind::Name, &decoded, &decoded)?;
        sink.field(Source::Body, Kind::FormField, &decoded, &decode(raw_value))?;
    }
    Flow::Continue(())
}

/// A pair seen before: a digest of its name, its place in the text, its value as sent.
type Seen<'t> = (u64, usize, &'t str);

fn walk(text: &str, form: &Form<'_>, sink: &mut Sink<'_>) -> Flow {
    let mut seen: SmallVec<[Seen<'_>; 16]> = SmallVec::new();
    let (mut names, mut values) = (String::new(), String::new());
    for raw in text.split('&').filter(|raw| !raw.is_empty()) {
        let (raw_name, raw_value) = raw.split_once('=').unwrap_or((raw, ""));
        let name = percent::decode_form(raw_name, &mut names);
        if form.excludes(name) {
            continue;
        }
        sink.text(form.source, Kind::Name, name, name)?;
        let value = percent::decode_form(raw_value, &mut values);
        sink.field(form.source, form.value_kind, name, value)?;
        if raw_value.contains(';') {
            semicolons(raw_value, form, sink)?;
        }
        if seen.len() < COMPARED_MAX {
            seen.push((digest(name), seen.len(), raw_value));
        }
    }
    if 1 < seen.len() {
        repeated(&mut seen, form, sink)?;
    }
    Flow::Continue(())
}

impl Form<'_> {
    fn excludes(&self, name: &str) -> bool {
        lists(self.excluded, name)
    }
}

fn lists(names: &[String], name: &str) -> bool {
    names.iter().any(|listed| same_name(name, listed))
}

/// Some servers end a pair at `;` too: what follows one is handed out as a pair of its own.
fn semicolons(raw_value: &str, form: &Form<'_>, sink: &mut Sink<'_>) -> Flow {
    let (mut names, mut values) = (String::new(), String::new());
    for raw in raw_value.split(';').skip(1) {
        let Some((raw_name, raw_value)) = raw.split_once('=') else { continue };
        let name = percent::decode_form(raw_name, &mut names);
        if form.excludes(name) {
            continue;
        }
        sink.text(form.source, Kind::Name, name, name)?;
        sink.field(form.source, form.value_kind, name, percent::decode_form(raw_value, &mut values))?;
    }
    Flow::Continue(())
}

/// Hands out the values of each name that occurs more than once as one text, in the order sent: an attack may be cut
/// into pieces that the server puts together.
fn repeated(seen: &mut [Seen<'_>], form: &Form<'_>, sink: &mut Sink<'_>) -> Flow {
    seen.sort_unstable();
    let (mut joined, mut values) = (String::new(), String::new());
    for group in seen.chunk_by(|(a, ..), (b, ..)| a == b) {
        if group.len() < 2 || group.iter().all(|(.., raw)| is_plain(raw)) {
            continue;
        }
        for joint in [JOINT, ""] {
            joined.clear();
            for (index, (.., raw)) in group.iter().enumerate() {
                joined.push_str(if index == 0 { "" } else { joint });
                joined.push_str(percent::decode_form(raw, &mut values));
            }
            sink.text(form.source, form.value_kind, "", &joined)?;
            // Without a joint only what a comment or a quote would swallow can come together.
            if !joined.contains("*/") {
                break;
            }
        }
    }
    Flow::Continue(())
}

/// True when no piece of an attack can be in `raw`: one word or number.
fn is_plain(raw: &str) -> bool {
    raw.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// FNV-1a. A collision only joins two names' values once more than needed.
fn digest(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}
