//! What is looked for in responses: patterns of behaviour rules, and what must not leave.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::config::responses::{Leak, LeakAction, ResponseRule};
use crate::detect::extract::inflated;
use crate::engine::behavior;
use crate::engine::behavior::pattern::Body;
use crate::engine::cx::{Cx, Objection, text};
use crate::engine::leaks::{self, Found};
use crate::engine::phases::ResponseHead;
use crate::engine::policy::{Bypasses, Compiling, PerRoute};
use crate::model::check::Check;
use crate::model::decision::{Fact, Origin, RESPONSE_RULES, Verdict};
use crate::model::event::EventType;
use crate::state::State;

/// The compiled rules over responses.
#[derive(Debug)]
pub(crate) struct Responses {
    by_route: PerRoute<Vec<Rule>>,
    /// Bytes that rules look at.
    rule_bytes: usize,
    /// Bytes that behaviour patterns look at; 0 when bodies are not for them.
    pattern_bytes: usize,
    has_rules: bool,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    name: String,
    leaks: Vec<Leak>,
    blocks: bool,
    media: Vec<Media>,
    status: u16,
    body: String,
}

/// Which media types a rule looks at.
#[derive(Debug)]
enum Media {
    Whole(String),
    /// What stands before the slash, with it.
    Type(String),
    /// `+json`.
    Suffix(String),
}

/// How a body is read, decided by the head of its response.
#[derive(Debug)]
pub struct Reading<'p> {
    manner: Manner,
    /// The rules that apply and found nothing yet.
    rules: SmallVec<[&'p Rule; 2]>,
    /// Behaviour patterns are looked for.
    seeks_patterns: bool,
    /// Content-Encoding.
    coding: String,
}

/// Whether a body is looked at before any of the response goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Manner {
    /// It is not looked at.
    Away,
    /// Each part goes on once it was looked at.
    Along,
    /// As much as can be held is looked at first.
    Before,
}

/// A body as far as it came.
#[derive(Clone, Copy, Debug)]
pub struct Part<'b> {
    /// From its beginning.
    pub bytes: &'b [u8],
    /// Where the bytes begin that were not there the last time.
    pub fresh: usize,
    /// Nothing more will be looked at.
    pub is_last: bool,
    /// Nothing more will come.
    pub is_whole: bool,
}

impl Reading<'_> {
    /// When the body is looked at.
    #[must_use]
    pub const fn manner(&self) -> Manner {
        self.manner
    }
}

impl Responses {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let config = compiling.config;
        let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
        let by_route = compiling.per_route(|compiling, routed| {
            let own = routed.and_then(|routed| Some((routed, routed.route.response_rules.as_ref()?)));
            match own {
                Some((routed, rules)) => compile(compiling, &routed.key("response_rules"), rules),
                None if routed.is_none() => compile(compiling, "responses.rules", &config.responses.rules),
                None => compiling.quietly(|quiet| compile(quiet, "responses.rules", &config.responses.rules)),
            }
        });
        let has_rules = by_route.any(|rules| !rules.is_empty());
        if has_rules {
            compiling.warn("responses.rules", "rules over response bodies work through ext_proc only");
        }
        let scans = config.security.behavior_scan_response_body;
        Self {
            by_route,
            rule_bytes: size(config.responses.max_inspect_bytes),
            pattern_bytes: if scans { size(config.security.behavior_max_response_body_inspect_bytes) } else { 0 },
            has_rules,
        }
    }

    /// Bytes of a body, as it comes, that are looked at.
    pub(crate) const fn bytes_max(&self) -> usize {
        let rules = if self.has_rules { self.rule_bytes } else { 0 };
        if rules < self.pattern_bytes { self.pattern_bytes } else { rules }
    }

    /// True when the head of a response is to be judged.
    pub(crate) fn judges(&self, cx: &Cx<'_, '_, '_>) -> bool {
        !cx.policy.behavior.returns(cx).is_empty() || self.reads(cx)
    }

    /// True when the body of a response may have to be read.
    pub(crate) fn reads(&self, cx: &Cx<'_, '_, '_>) -> bool {
        self.seeks_patterns(cx) || !self.rules(cx).is_empty()
    }

    fn seeks_patterns(&self, cx: &Cx<'_, '_, '_>) -> bool {
        self.pattern_bytes != 0
            && cx
                .policy
                .behavior
                .returns(cx)
                .iter()
                .any(|rule| rule.pattern().is_some_and(behavior::pattern::Pattern::reads_body))
    }

    fn rules(&self, cx: &Cx<'_, '_, '_>) -> &[Rule] {
        if cx.excluded || cx.bypasses(Bypasses::ALL) { &[] } else { self.by_route.of(cx.route) }
    }

    /// How the body behind `head` is to be read.
    pub(crate) fn reading<'p>(&'p self, cx: &Cx<'_, 'p, '_>, head: &ResponseHead<'_>) -> Reading<'p> {
        let media = head.headers.text("content-type").unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let rules: SmallVec<[&Rule; 2]> =
            self.rules(cx).iter().filter(|rule| media.is_empty() || rule.covers(&media)).collect();
        let seeks_patterns = self.seeks_patterns(cx);
        // What never ends cannot be waited for.
        let is_stream = media == "text/event-stream" || media.starts_with("application/grpc");
        let manner = match () {
            () if rules.is_empty() && !seeks_patterns => Manner::Away,
            () if !is_stream && !cx.policy.passive && rules.iter().any(|rule| rule.blocks) => Manner::Before,
            () => Manner::Along,
        };
        let codings: Vec<&str> =
            head.headers.all("content-encoding").filter_map(|value| std::str::from_utf8(value).ok()).collect();
        Reading { manner, rules, seeks_patterns, coding: codings.join(",") }
    }
}

fn compile(compiling: &mut Compiling<'_>, key: &str, rules: &[ResponseRule]) -> Vec<Rule> {
    let mut compiled: Vec<Rule> = Vec::with_capacity(rules.len());
    for (place, rule) in rules.iter().enumerate() {
        if compiled.iter().any(|other| other.name == rule.name) {
            compiling.error(format!("{key}[{place}].name"), format!("`{}` is used twice", rule.name));
        }
        if rule.find.is_empty() {
            compiling.error(format!("{key}[{place}].find"), "nothing is looked for");
        }
        if !(500..=599).contains(&rule.status) {
            compiling.error(format!("{key}[{place}].status"), "a status lies between 500 and 599");
        }
        compiled.push(Rule {
            name: rule.name.clone(),
            leaks: rule.find.iter().copied().collect(),
            blocks: rule.action == LeakAction::Block,
            media: rule.content_types.iter().map(|media| Media::new(media)).collect(),
            status: rule.status,
            body: rule.body.clone(),
        });
    }
    compiled
}

impl Media {
    fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(kind), _) => Self::Type(kind.to_owned()),
            (None, Some(suffix)) => Self::Suffix(suffix.to_owned()),
            (None, None) => Self::Whole(text),
        }
    }
}

impl Rule {
    fn covers(&self, media: &str) -> bool {
        self.media.iter().any(|own| match own {
            Media::Whole(whole) => media == whole,
            Media::Type(kind) => media.starts_with(kind.as_str()),
            Media::Suffix(suffix) => media.ends_with(suffix.as_str()),
        })
    }

    fn find(&self, text: &[u8]) -> Option<(Leak, Found)> {
        self.leaks.iter().find_map(|leak| Some((*leak, leaks::find(*leak, text)?)))
    }
}

/// Looks at a body as far as it came.
pub(crate) async fn look<'p, S: State>(
    cx: &mut Cx<'_, 'p, '_>,
    state: &S,
    reading: &mut Reading<'p>,
    part: Part<'_>,
) -> Verdict<'p> {
    let responses = &cx.policy.responses;
    let is_coded = !reading.coding.trim().is_empty();
    if is_coded && !part.is_last {
        return Verdict::Allow;
    }
    let plain =
        if is_coded { inflated(&reading.coding, part.bytes, responses.bytes_max()) } else { Cow::Borrowed(part.bytes) };
    let from = if is_coded { 0 } else { part.fresh.saturating_sub(leaks::OVERLAP) };
    let until = responses.rule_bytes.min(plain.len());
    let fresh = plain.get(from.min(until)..until).unwrap_or_default();
    if reading.seeks_patterns && part.is_last {
        let prefix = plain.get(..responses.pattern_bytes).unwrap_or(&plain);
        let body = Body::new(prefix, true);
        behavior::returned(cx, state, |pattern| pattern.is_in(&body)).await;
    }
    let mut blocking = None;
    reading.rules.retain(|rule| {
        let Some((leak, found)) = rule.find(fresh) else { return true };
        report(cx, rule, leak, &found);
        if rule.blocks && blocking.is_none() {
            blocking = Some(*rule);
        }
        false
    });
    match blocking.filter(|_| !cx.policy.passive) {
        None => Verdict::Allow,
        Some(rule) => {
            let body = Cow::Borrowed(rule.body.as_str());
            let objection = Objection { status: rule.status, body, ..Objection::new(500, "") };
            Verdict::Deny(cx.policy.replies.denial(cx, Origin::ResponseRule, objection))
        }
    }
}

fn report(cx: &mut Cx<'_, '_, '_>, rule: &Rule, leak: Leak, found: &Found) {
    let action = match (rule.blocks, cx.policy.passive) {
        (true, false) => "response_blocked",
        (true, true) => "logged_only",
        (false, _) => "logged",
    };
    let sample = if found.sample.is_empty() { String::new() } else { format!(" {}", found.sample) };
    cx.record(Fact {
        event: EventType::ContentFiltered,
        action: action.into(),
        check: Check::RouteConfig,
        reason: format!("Response leaks {} ({}){sample}: rule {}", leak.name(), found.label, rule.name),
        metadata: vec![
            ("decorator_type", text("response_rules")),
            ("violation_type", text(leak.name())),
            ("rule", text(rule.name.as_str())),
            ("label", text(found.label)),
            ("sample", text(found.sample.as_str())),
        ],
        handler: RESPONSE_RULES,
    });
}

#[cfg(test)]
mod tests;
