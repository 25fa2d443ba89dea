//! The path, and the parameters hidden in its segments.

use crate::detect::extract::sink::Sink;
use crate::detect::extract::{Flow, percent};
use crate::detect::{Kind, Source};

/// Hands out the path. `balanced` looks at it as sent, so that an encoded dot-dot stays visible as one; `guard_core`
/// decodes it once, as guard-core's adapters do. Parameters of segments (`/a;b=c/d`) are handed out too, and the path
/// without them.
pub(super) fn walk(raw: &str, sink: &mut Sink<'_>) -> Flow {
    let mut decoded = String::new();
    let path = if sink.is_guard_core() { percent::decode_path(raw, &mut decoded) } else { raw };
    sink.text(Source::Path, Kind::Value, "", path)?;
    if path.contains(';') && !sink.is_guard_core() {
        parameters(raw, sink)?;
    }
    sink.flush(Source::Path)
}

fn parameters(raw: &str, sink: &mut Sink<'_>) -> Flow {
    let mut stripped = String::with_capacity(raw.len());
    let mut decoded = String::new();
    for (index, segment) in raw.split('/').enumerate() {
        let (bare, parameters) = segment.split_once(';').unwrap_or((segment, ""));
        stripped.push_str(if index == 0 { "" } else { "/" });
        stripped.push_str(bare);
        for parameter in parameters.split(';') {
            let (name, value) = parameter.split_once('=').unwrap_or(("", parameter));
            sink.field(Source::Path, Kind::Value, name, percent::decode_path(value, &mut decoded))?;
        }
    }
    sink.text(Source::Path, Kind::Value, "", &stripped)
}
