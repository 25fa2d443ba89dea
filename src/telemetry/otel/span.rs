//! One decision as a span, joined to the trace of whoever asked. On the way of a request it is a small record; its
//! attributes are made where it is sent.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{SpanId, TraceFlags, TraceId};

use crate::model::category::Category;
use crate::model::decision::{Decision, FactValue, Verdict};
use crate::model::event::EventType;
use crate::model::place::CountryCode;
use crate::model::time::Timestamp;
use crate::request::headers::Headers;
use crate::request::path::decode_once;
use crate::telemetry::buffer::Buffer;
use crate::telemetry::events::{EventRules, Happening};
use crate::telemetry::redact::cut;

/// Bytes kept of `tracestate`; more than the standard asks for.
const STATE_BYTES_MAX: usize = 512;

/// A place in a trace, for whatever belongs to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Joined {
    /// The trace.
    pub trace_id: TraceId,
    /// The span in it.
    pub span_id: SpanId,
}

/// Which trace a request belongs to, as its `traceparent` says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span of the caller.
    pub parent_id: SpanId,
    /// What the caller says of the trace.
    pub flags: TraceFlags,
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
        let (trace_id, parent_id) = (TraceId::from_bytes(bytes(trace)?), SpanId::from_bytes(bytes(parent)?));
        let [flags] = bytes::<1>(flags)?;
        if trace_id == TraceId::INVALID || parent_id == SpanId::INVALID {
            return None;
        }
        Some(Self { trace_id, parent_id, flags: TraceFlags::new(flags) })
    }

    /// The caller's place in its trace.
    #[must_use]
    pub const fn caller(self) -> Joined {
        Joined { trace_id: self.trace_id, span_id: self.parent_id }
    }
}

/// `tracestate`, as it came; empty when it is too long.
fn state(headers: &Headers<'_>) -> String {
    let text = headers.get("tracestate").and_then(|value| std::str::from_utf8(value).ok());
    text.filter(|text| text.len() <= STATE_BYTES_MAX).unwrap_or_default().to_owned()
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

/// One decision, ready to be sent. Its texts are redacted.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace, and this span.
    pub own: Joined,
    /// The caller's span; `None` for the first of a trace.
    pub parent_id: Option<SpanId>,
    /// `tracestate`.
    pub state: String,
    /// When the question had come.
    pub start: Timestamp,
    /// When it was answered.
    pub end: Timestamp,
    /// Whether the caller keeps the trace.
    pub flags: TraceFlags,
    /// What was asked.
    pub asked: Asked,
    /// What was answered.
    pub answered: Answered,
}

/// What a span says of its request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    method: Cow<'static, str>,
    path: String,
    scheme: Cow<'static, str>,
    host: String,
    port: Option<u16>,
    client: String,
    agent: Option<String>,
    id: String,
}

/// What a span says of its decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    verdict: &'static str,
    is_failure: bool,
    /// Status and check of our own answer.
    denial: Option<(u16, &'static str)>,
    /// Reason, type and action of the last fact.
    last: Option<(String, EventType, Cow<'static, str>)>,
    route: Option<String>,
    country: Option<CountryCode>,
    /// Categories and score of what was found.
    found: Option<(Vec<Category>, f64)>,
    is_passive: bool,
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
    /// Makes the span of a decision if it is kept and there is room for it. Returns its place, for what else is told of
    /// the decision.
    pub fn trace(&self, happening: &Happening<'_, '_, '_>, rules: &EventRules) -> Option<Joined> {
        let headers = &happening.request.headers;
        let context = TraceContext::of(headers);
        let (trace_id, flags) = match context {
            Some(context) if context.flags.is_sampled() || self.keeps(happening.decision) => {
                (context.trace_id, context.flags & TraceFlags::SAMPLED)
            }
            Some(_) => return None,
            None => {
                let trace_id = TraceId::from_bytes(rand::random());
                if !self.is_drawn(trace_id) && !self.keeps(happening.decision) {
                    return None;
                }
                (trace_id, TraceFlags::SAMPLED)
            }
        };
        if self.queue.is_shut() {
            self.queue.turn_away();
            return None;
        }
        let own = Joined { trace_id, span_id: SpanId::from_bytes(rand::random()) };
        self.queue.push(Span {
            own,
            parent_id: context.map(|context| context.parent_id),
            state: context.map(|_| state(headers)).unwrap_or_default(),
            start: happening.now.plus(-happening.took.as_secs_f64()),
            end: happening.now,
            flags,
            asked: Asked::of(happening, rules),
            answered: Answered::of(happening.decision, rules),
        });
        Some(own)
    }

    fn keeps(&self, decision: &Decision<'_>) -> bool {
        let is_plain = matches!(decision.verdict, Verdict::Allow) && decision.facts.is_empty();
        self.keeps_denials && !is_plain
    }

    /// The same answer for the same trace wherever it is asked.
    fn is_drawn(&self, trace_id: TraceId) -> bool {
        let bytes = trace_id.to_bytes();
        let Some((_, low)) = bytes.split_last_chunk::<8>() else { return false };
        let place = (u64::from_be_bytes(*low) >> 11) as f64 / (1_u64 << 53) as f64;
        place < self.sampling
    }
}

impl Asked {
    fn of(happening: &Happening<'_, '_, '_>, rules: &EventRules) -> Self {
        let (request, redaction) = (happening.request, rules.redaction());
        let text = |text: &str| redaction.text(cut(text)).into_owned();
        let (host, port) = authority(request.host);
        let agent = request.headers.get("user-agent").map(String::from_utf8_lossy);
        let known = |known: &[&'static str], found: &str| {
            let same = known.iter().find(|known| **known == found);
            same.map_or_else(|| Cow::Owned(text(found)), |same| Cow::Borrowed(*same))
        };
        Self {
            method: known(&METHODS, request.method),
            path: redaction.path(&decode_once(request.target.path)).into_owned(),
            scheme: known(&["http", "https"], request.scheme),
            host: text(host),
            port,
            client: happening.client.to_string(),
            agent: agent.map(|agent| text(&agent)),
            id: text(request.id),
        }
    }
}

impl Answered {
    fn of(decision: &Decision<'_>, rules: &EventRules) -> Self {
        let text = |text: &str| rules.redaction().text(cut(text)).into_owned();
        let (verdict, denial) = match &decision.verdict {
            Verdict::Allow => ("allow", None),
            Verdict::Deny(denial) => ("deny", Some(denial)),
            Verdict::Fail(denial) => ("fail", Some(denial)),
        };
        Self {
            verdict,
            is_failure: matches!(decision.verdict, Verdict::Fail(_)),
            denial: denial.map(|denial| (denial.status, denial.origin.name())),
            last: decision.facts.last().map(|fact| (text(&fact.reason), fact.event, fact.action.clone())),
            route: decision.route.map(text),
            country: decision.country,
            found: decision.detection.as_ref().map(|found| (found.categories.clone(), found.score)),
            is_passive: decision.passive,
        }
    }
}

impl Span {
    /// True when we could not decide.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.answered.is_failure
    }

    /// By semantic conventions, and ours under `guard.`.
    pub fn attributes(&self) -> impl Iterator<Item = (&'static str, FactValue)> {
        let text = |text: &str| FactValue::Text(text.to_owned());
        let (asked, answered) = (&self.asked, &self.answered);
        let method = if METHODS.contains(&&*asked.method) { &*asked.method } else { OTHER_METHOD };
        let last = answered.last.as_ref();
        let found = answered.found.as_ref();
        let names = |categories: &[Category]| categories.iter().map(|category| category.name().to_owned()).collect();
        [
            ("http.request.method", Some(text(method))),
            ("url.path", Some(text(&asked.path))),
            ("url.scheme", Some(text(&asked.scheme))),
            ("server.address", Some(text(&asked.host))),
            ("client.address", Some(text(&asked.client))),
            ("guard.verdict", Some(text(answered.verdict))),
            ("guard.request_id", Some(text(&asked.id))),
            ("guard.passive", Some(FactValue::Bool(answered.is_passive))),
            ("http.request.method_original", (method == OTHER_METHOD).then(|| text(&asked.method))),
            ("server.port", asked.port.map(|port| FactValue::Int(port.into()))),
            ("user_agent.original", asked.agent.as_deref().map(text)),
            ("http.response.status_code", answered.denial.map(|(status, _)| FactValue::Int(status.into()))),
            ("error.type", answered.is_failure.then(|| text("undecided"))),
            ("guard.check", answered.denial.map(|(_, check)| text(check))),
            ("guard.reason", last.map(|(reason, ..)| text(reason))),
            ("guard.event_type", last.map(|(_, event, _)| text(event.name()))),
            ("guard.action_taken", last.map(|(.., action)| text(cut(action)))),
            ("guard.route", answered.route.as_deref().map(text)),
            ("guard.country", answered.country.as_ref().map(|code| text(code.as_str()))),
            ("guard.threat.categories", found.map(|(categories, _)| FactValue::List(names(categories)))),
            ("guard.threat.score", found.map(|(_, score)| FactValue::Float(*score))),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Stands for a method that no standard names: values of `http.request.method` come from a closed set.
const OTHER_METHOD: &str = "_OTHER";

/// Methods that a standard names.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

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
        assert_eq!(found.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((found.parent_id.to_string().as_str(), found.flags), ("00f067aa0ba902b7", TraceFlags::SAMPLED));
        assert!(!context(&GOOD.replace("-01", "-00")).unwrap().flags.is_sampled());
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
        for (method, expected, original) in [
            ("GET", "GET", None),
            ("PATCH", "PATCH", None),
            ("get", "_OTHER", Some("get")),
            ("BREW", "_OTHER", Some("BREW")),
            ("", "_OTHER", Some("")),
        ] {
            let asked = Asked { method: method.to_owned().into(), ..Asked::default() };
            let span = crate::telemetry::otel::tests::span(asked);
            let found = |wanted: &str| span.attributes().find(|(name, _)| *name == wanted).map(|(_, value)| value);
            let text = |text: &str| FactValue::Text(text.to_owned());
            assert_eq!(found("http.request.method"), Some(text(expected)), "{method}");
            assert_eq!(found("http.request.method_original"), original.map(text), "{method}");
        }
    }

    #[test]
    fn a_span_without_room_is_not_made_and_lends_its_place_to_nothing() {
        let queue = Buffer::new(1, 1, crate::telemetry::buffer::Full::DropNewest, Default::default());
        let tracer = Tracer { queue: queue.clone(), sampling: 1.0, keeps_denials: false };
        let rules = EventRules::new(&crate::config::security::SecurityConfig::default());
        let request = crate::request::Request {
            id: "1",
            method: "GET",
            scheme: "https",
            host: "shop.example:8443",
            target: crate::request::Target::from("/a;password=geheim?token=geheim"),
            protocol: "HTTP/1.1",
            headers: [("user-agent", &b"bot token=geheim"[..])].into_iter().collect(),
            body: crate::request::Body::Complete(b"geheim"),
            peer: crate::request::Peer::Absent,
            route: None,
            tls: crate::request::Tls::default(),
        };
        let decision = Decision::allow();
        let client = crate::model::addr::Client::Text("203.0.113.9");
        let (took, now) = (Duration::from_millis(500), Timestamp(10.0));
        let happening = Happening { request: &request, decision: &decision, client, took, now };
        let own = tracer.trace(&happening, &rules).unwrap();
        assert_eq!(tracer.trace(&happening, &rules), None);
        assert_eq!(queue.tally().read(), [0, 1, 0, 1]);
        let span = queue.take(1).pop().unwrap();
        assert_eq!((span.own, span.parent_id, span.start, span.end), (own, None, Timestamp(9.5), Timestamp(10.0)));
        let shown = format!("{span:?} {:?}", span.attributes().collect::<Vec<_>>());
        assert!(!shown.contains("geheim") && shown.contains("[REDACTED]"), "{shown}");
        let asleep = Tracer { sampling: 0.0, ..tracer };
        assert_eq!(asleep.trace(&happening, &rules), None);
        assert_eq!(queue.tally().read(), [0, 1, 0, 0], "what is not sampled is not lost");
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
                TraceId::from_bytes(id)
            });
            ids.filter(|id| tracer(sampling).is_drawn(*id)).count()
        };
        assert_eq!((kept(0.0), kept(1.0)), (0, 1000));
        assert!((200..300).contains(&kept(0.25)), "{}", kept(0.25));
    }
}
