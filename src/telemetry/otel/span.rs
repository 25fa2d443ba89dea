//! One decision as a span, joined to the trace of whoever asked.

use std::time::Duration;

use crate::model::decision::{FactValue, Verdict};
use crate::model::time::Timestamp;
use crate::request::headers::Headers;
use crate::request::path::decode_once;
use crate::telemetry::buffer::Buffer;
use crate::telemetry::events::{EventRules, Happening};
use crate::telemetry::redact::cut;

/// Bytes kept of `tracestate`; more than the standard asks for.
const STATE_BYTES_MAX: usize = 512;

/// Which trace a request belongs to, as its `traceparent` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span of the caller.
    pub parent_id: [u8; 8],
    /// The caller keeps the trace.
    pub is_sampled: bool,
    /// `tracestate`, as it came.
    pub state: String,
}

impl TraceContext {
    /// The context that the headers carry; `None` when there is none, or one that makes no sense.
    #[must_use]
    pub fn of(headers: &Headers<'_>) -> Option<Self> {
        let text = std::str::from_utf8(headers.get("traceparent")?).ok()?.trim();
        let mut parts = text.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = bytes::<1>(version)?;
        // Versions to come may add parts; the first has exactly four.
        if version == 0xff || version == 0 && parts.next().is_some() {
            return None;
        }
        let (trace_id, parent_id, [flags]) = (bytes::<16>(trace)?, bytes::<8>(parent)?, bytes::<1>(flags)?);
        if trace_id == [0; 16] || parent_id == [0; 8] {
            return None;
        }
        let state = headers.get("tracestate").and_then(|value| std::str::from_utf8(value).ok());
        let state = state.filter(|text| text.len() <= STATE_BYTES_MAX).unwrap_or_default().to_owned();
        Some(Self { trace_id, parent_id, is_sampled: flags & 1 == 1, state })
    }
}

/// Lower-case hexadecimal digits of exactly `N` bytes.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// One decision, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace_id: [u8; 16],
    /// This span.
    pub span_id: [u8; 8],
    /// The caller's span; `None` for the first of a trace.
    pub parent_id: Option<[u8; 8]>,
    /// `tracestate`.
    pub state: String,
    /// When the question had come.
    pub start: Timestamp,
    /// When it was answered.
    pub end: Timestamp,
    /// The caller keeps the trace.
    pub is_sampled: bool,
    /// We failed to decide.
    pub is_failure: bool,
    /// By semantic conventions, and ours under `guard.`; redacted.
    pub attributes: Vec<(&'static str, FactValue)>,
}

/// Which decisions become spans, and where they wait.
#[derive(Clone, Debug)]
pub struct Tracer {
    /// Spans that wait to be sent.
    pub queue: Buffer<Span>,
    /// Share of new traces that are kept, 0 to 1. A caller's own decision counts more.
    pub sampling: f64,
    /// Whatever is not simply let pass is kept.
    pub keeps_denials: bool,
}

impl Tracer {
    /// Makes the span of a decision if it is kept. Returns trace and span, for what else is told of it.
    pub fn trace(
        &self,
        happening: &Happening<'_, '_, '_>,
        context: Option<TraceContext>,
        rules: &EventRules,
    ) -> Option<([u8; 16], [u8; 8])> {
        let decision = happening.decision;
        let is_plain = matches!(decision.verdict, Verdict::Allow) && decision.facts.is_empty();
        let (trace_id, parent_id, state, is_sampled) = match context {
            Some(context) if context.is_sampled || self.keeps(is_plain) => {
                (context.trace_id, Some(context.parent_id), context.state, context.is_sampled)
            }
            Some(_) => return None,
            None => {
                let trace_id: [u8; 16] = rand::random();
                if !self.is_drawn(trace_id) && !self.keeps(is_plain) {
                    return None;
                }
                (trace_id, None, String::new(), true)
            }
        };
        let span_id = rand::random();
        self.queue.push(Span {
            trace_id,
            span_id,
            parent_id,
            state,
            start: happening.now.plus(-happening.took.as_secs_f64()),
            end: happening.now,
            is_sampled,
            is_failure: matches!(decision.verdict, Verdict::Fail(_)),
            attributes: attributes(happening, rules),
        });
        Some((trace_id, span_id))
    }

    const fn keeps(&self, is_plain: bool) -> bool {
        self.keeps_denials && !is_plain
    }

    /// The same answer for the same trace wherever it is asked.
    fn is_drawn(&self, trace_id: [u8; 16]) -> bool {
        let Some((_, low)) = trace_id.split_last_chunk::<8>() else { return false };
        let place = (u64::from_be_bytes(*low) >> 11) as f64 / (1_u64 << 53) as f64;
        place < self.sampling
    }
}

fn attributes(happening: &Happening<'_, '_, '_>, rules: &EventRules) -> Vec<(&'static str, FactValue)> {
    let (request, decision, redaction) = (happening.request, happening.decision, rules.redaction());
    let text = |text: &str| FactValue::Text(redaction.text(cut(text)).into_owned());
    let (host, port) = authority(request.host);
    let method = known_method(request.method);
    let (verdict, denial) = match &decision.verdict {
        Verdict::Allow => ("allow", None),
        Verdict::Deny(denial) => ("deny", Some(denial)),
        Verdict::Fail(denial) => ("fail", Some(denial)),
    };
    let path = redaction.path(&decode_once(request.target.path)).into_owned();
    let agent = request.headers.get("user-agent").map(String::from_utf8_lossy);
    let status = denial.map(|denial| FactValue::Int(denial.status.into()));
    let categories = decision
        .detection
        .as_ref()
        .map(|found| FactValue::List(found.categories.iter().map(|category| category.name().to_owned()).collect()));
    let last = decision.facts.last();
    let optional = [
        ("http.request.method_original", (method == OTHER_METHOD).then(|| text(request.method))),
        ("server.port", port.map(|port| FactValue::Int(port.into()))),
        ("user_agent.original", agent.map(|agent| text(&agent))),
        ("http.response.status_code", status),
        ("error.type", matches!(decision.verdict, Verdict::Fail(_)).then(|| text("undecided"))),
        ("guard.check", denial.map(|denial| text(denial.origin.name()))),
        ("guard.reason", last.map(|fact| text(&fact.reason))),
        ("guard.event_type", last.map(|fact| text(fact.event.name()))),
        ("guard.action_taken", last.map(|fact| text(&fact.action))),
        ("guard.route", decision.route.map(text)),
        ("guard.country", decision.country.as_ref().map(|code| text(code.as_str()))),
        ("guard.threat.categories", categories),
        ("guard.threat.score", decision.detection.as_ref().map(|found| FactValue::Float(found.score))),
    ];
    let known = [
        ("http.request.method", text(method)),
        ("url.path", FactValue::Text(path)),
        ("url.scheme", text(request.scheme)),
        ("server.address", text(host)),
        ("client.address", text(&happening.client.to_string())),
        ("guard.verdict", text(verdict)),
        ("guard.request_id", text(request.id)),
        ("guard.passive", FactValue::Bool(decision.passive)),
    ];
    known.into_iter().chain(optional.into_iter().filter_map(|(name, value)| Some((name, value?)))).collect()
}

/// Stands for a method that no standard names: values of `http.request.method` come from a closed set.
const OTHER_METHOD: &str = "_OTHER";

fn known_method(method: &str) -> &str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if KNOWN.contains(&method) { method } else { OTHER_METHOD }
}

/// Name and port of `host:port`, `[v6]:port`, or a name alone.
fn authority(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        // An address of IPv6 has colons of its own and stands in brackets.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse().ok()),
        _ => (host, None),
    }
}

/// Nanoseconds since the epoch.
pub(super) fn nanos(at: Timestamp) -> u64 {
    Duration::try_from_secs_f64(at.0).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(text: &str) -> Option<TraceContext> {
        TraceContext::of(&[("traceparent", text.as_bytes())].into_iter().collect())
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let found = context(GOOD).unwrap();
        assert_eq!((found.trace_id[0], found.parent_id[7], found.is_sampled), (0x4b, 0xb7, true));
        assert!(!context(&GOOD.replace("-01", "-00")).unwrap().is_sampled);
        assert!(context(&GOOD.replacen("00-", "cc-", 1)).is_some(), "a version to come");
        assert!(context(&format!("{}-more", GOOD.replacen("00-", "cc-", 1))).is_some());
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        ] {
            assert_eq!(context(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_and_methods_are_told_as_conventions_say() {
        for (host, expected) in [
            ("shop.example", ("shop.example", None)),
            ("shop.example:8443", ("shop.example", Some(8443))),
            ("[2001:db8::1]:80", ("[2001:db8::1]", Some(80))),
            ("[2001:db8::1]", ("[2001:db8::1]", None)),
            ("2001:db8::1", ("2001:db8::1", None)),
            ("shop.example:port", ("shop.example", None)),
            ("", ("", None)),
        ] {
            assert_eq!(authority(host), expected, "{host}");
        }
        assert_eq!(
            ["GET", "PATCH", "get", "BREW", ""].map(known_method),
            ["GET", "PATCH", "_OTHER", "_OTHER", "_OTHER"]
        );
    }

    #[test]
    fn a_share_of_new_traces_is_kept() {
        let tracer = |sampling| Tracer {
            queue: Buffer::new(1, 1, crate::telemetry::buffer::Full::DropOldest, Default::default()),
            sampling,
            keeps_denials: false,
        };
        let kept = |sampling| {
            let ids = (0..1000_u64).map(|number| {
                let mut id = [0; 16];
                id[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
                id
            });
            ids.filter(|id| tracer(sampling).is_drawn(*id)).count()
        };
        assert_eq!((kept(0.0), kept(1.0)), (0, 1000));
        assert!((200..300).contains(&kept(0.25)), "{}", kept(0.25));
    }
}
