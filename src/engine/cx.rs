//! One decision under way: what is known about the request, and what happened so far.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::detect::{Detection, Finding, Meter, Method, Report};
use crate::engine::behavior::Trail;
use crate::engine::checks::Foreseen;
use crate::engine::expression::Scope;
use crate::engine::policy::{Bypasses, Policy};
use crate::engine::routes::RouteId;
use crate::model::addr::Client;
use crate::model::check::Check;
use crate::model::decision::{Delay, DetectionSummary, Fact, FactValue, IdentityFlags, OBSERVED, OnBlock};
use crate::model::event::EventType;
use crate::model::headers::HeaderEdit;
use crate::model::place::{CountryCode, Operator};
use crate::model::time::Timestamp;
use crate::request::Request;
use crate::state::{Answer, StateError};

/// Bytes of a hostile text that an event quotes.
const PREVIEW_BYTES_MAX: usize = 100;

/// Everything that the checks of one decision share.
pub(crate) struct Cx<'c, 'p, 'r> {
    pub(crate) policy: &'p Policy,
    pub(crate) request: &'c Request<'r>,
    pub(crate) now: Timestamp,
    pub(crate) client: Client<'r>,
    /// Decoded once, without query: the form that keys, limits and expressions use.
    pub(crate) path: Cow<'r, str>,
    pub(crate) route: Option<RouteId>,
    pub(crate) unresolved: bool,
    pub(crate) excluded: bool,
    /// We answer in any case (a preflight, a report): the upstream is never asked.
    pub(crate) answers_itself: bool,
    /// The request is a report that we take.
    pub(crate) is_report: bool,
    /// What the request left in behaviour histories.
    pub(crate) trail: Option<Trail>,
    /// How a rule slows the request down.
    pub(crate) delay: Option<Box<Delay<'p>>>,
    pub(crate) flags: Option<IdentityFlags>,
    pub(crate) principal: Option<Cow<'p, str>>,
    pub(crate) foreseen: Foreseen<'r>,
    /// What an allowed response tells about limits.
    pub(crate) limit_headers: SmallVec<[HeaderEdit<'p>; 1]>,
    pub(crate) answer: Option<Result<Answer, StateError>>,
    pub(crate) facts: SmallVec<[Fact; 1]>,
    pub(crate) blocks: SmallVec<[OnBlock; 1]>,
    /// The latest suspicious text: what `on_block` reports in active mode.
    pub(crate) reason: Option<String>,
    country: Option<Option<CountryCode>>,
    detection: Option<Detection>,
    pub(crate) scope: Option<Box<Scope>>,
}

/// What a check answers when it objects. In passive mode it is only reported.
#[derive(Debug, PartialEq)]
pub(crate) struct Objection<'p> {
    pub(crate) status: u16,
    pub(crate) body: Cow<'p, str>,
    pub(crate) form: Form,
    pub(crate) headers: SmallVec<[HeaderEdit<'p>; 1]>,
}

/// How much of the policy's dress an answer wears.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// Custom body, security headers, response modifier; reported to `on_block`.
    Standard,
    /// Response modifier only; not reported (redirects, answers of the policy's own expression).
    Bare,
    /// As the rule of a route wrote it; not reported.
    Verbatim,
}

impl<'p> Objection<'p> {
    pub(crate) fn new(status: u16, body: &'static str) -> Self {
        Self { status, body: Cow::Borrowed(body), form: Form::Standard, headers: SmallVec::new() }
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<Cow<'p, str>>) -> Self {
        self.headers.push(HeaderEdit::set(name, value));
        self
    }
}

/// Metadata of a fact, in order.
pub(crate) type Metadata = Vec<(&'static str, FactValue)>;

impl<'c, 'p, 'r> Cx<'c, 'p, 'r> {
    pub(crate) fn new(policy: &'p Policy, request: &'c Request<'r>, now: Timestamp) -> Self {
        Self {
            policy,
            request,
            now,
            client: Client::Unknown,
            path: crate::request::path::decode_once(request.target.path),
            route: None,
            unresolved: false,
            excluded: false,
            answers_itself: false,
            is_report: false,
            trail: None,
            delay: None,
            flags: None,
            principal: None,
            foreseen: Foreseen::default(),
            limit_headers: SmallVec::new(),
            answer: None,
            facts: SmallVec::new(),
            blocks: SmallVec::new(),
            reason: None,
            country: None,
            detection: None,
            scope: None,
        }
    }

    /// True when the client is on a whitelist; false until the address check reached its global step.
    pub(crate) fn is_whitelisted(&self) -> bool {
        self.flags.is_some_and(|flags| flags.whitelisted)
    }

    /// True when the client is exempt; false until the address check reached its global step.
    pub(crate) fn is_exempt(&self) -> bool {
        self.flags.is_some_and(|flags| flags.exempt)
    }

    /// True when the route leaves `what` out.
    pub(crate) fn bypasses(&self, what: Bypasses) -> bool {
        self.policy.bypasses.of(self.route).covers(what)
    }

    /// The client's country, looked up at most once.
    pub(crate) fn country(&mut self) -> Option<CountryCode> {
        let (policy, client) = (self.policy, self.client);
        *self.country.get_or_insert_with(|| policy.countries.as_ref()?.country(client.address()?))
    }

    /// Who announces the client's address.
    pub(crate) fn operator(&self) -> Option<Operator<'p>> {
        let policy = self.policy;
        policy.operators.as_ref()?.operator(self.client.address()?)
    }

    /// Runs detection, at most once for a request.
    pub(crate) fn detect(&mut self, meter: &impl Meter) -> Option<&Finding> {
        let (policy, request, route) = (self.policy, self.request, self.route);
        if self.detection.is_none() {
            let scope = &policy.checks.inspection(route).scope;
            let detection = policy.detector.inspect(request, scope, meter);
            detection.observed.iter().for_each(|finding| self.report_observed(finding));
            if let Some(finding) = &detection.finding {
                self.report_detected(finding);
            }
            self.detection = Some(detection);
        }
        self.detection.as_ref()?.finding.as_deref()
    }

    /// Reports a hostile value: what the detector saw, whatever comes of it.
    fn report_detected(&mut self, finding: &Finding) {
        let Some(first) = finding.threats.first() else { return };
        let of = |method: Method| int(finding.threats.iter().filter(|threat| threat.method == method).count());
        let preview = first.matched.get(..first.matched.floor_char_boundary(PREVIEW_BYTES_MAX)).unwrap_or_default();
        let categories: Vec<String> = finding.categories.iter().map(|category| category.name().to_owned()).collect();
        self.record(Fact {
            event: EventType::PatternDetected,
            action: Cow::Borrowed("threat_detected"),
            check: Check::SuspiciousActivity,
            reason: format!("Threat detected in {}", finding.context),
            metadata: vec![
                ("pattern", text(first.row.as_ref())),
                ("context", text(finding.context.as_str())),
                // What lies under a secret's name is not quoted; the edge knows the names.
                ("field", text(format!("{} {}", finding.name, finding.json_path))),
                ("content_preview", text(preview)),
                ("threat_score", FactValue::Float(finding.score)),
                ("threats", int(finding.threats.len())),
                ("regex_threats", of(Method::Regex)),
                ("semantic_threats", of(Method::Semantic)),
                ("timeouts", of(Method::Budget)),
                ("detection_method", text(Report::METHOD)),
                ("correlation_id", FactValue::Null),
                ("category", categories.first().map_or(FactValue::Null, |category| text(category.as_str()))),
                ("threat_categories", FactValue::List(categories)),
            ],
            handler: "sus_patterns",
        });
    }

    /// Reports what is only logged: it is counted and seen, and changes no answer and no count of the client.
    fn report_observed(&mut self, finding: &Finding) {
        let verdict = if finding.would_block { "Would have been blocked" } else { "Noticed" };
        let rows: Vec<String> = finding.threats.iter().map(|threat| threat.row.to_string()).collect();
        let categories = finding.categories.iter().map(|category| category.name().to_owned()).collect();
        self.record(Fact {
            event: EventType::PatternDetected,
            action: Cow::Borrowed(OBSERVED),
            check: Check::SuspiciousActivity,
            reason: format!("{verdict}, only logged by the policy: {}", finding.trigger),
            metadata: vec![
                ("log_only", FactValue::Bool(true)),
                ("would_block", FactValue::Bool(finding.would_block)),
                ("context", text(finding.context.as_str())),
                ("threat_score", FactValue::Float(finding.score)),
                ("threat_categories", FactValue::List(categories)),
                ("patterns", FactValue::List(rows)),
            ],
            handler: "sus_patterns",
        });
    }

    /// What detection noticed and the policy only logs.
    pub(crate) fn observed(&self) -> Option<Box<DetectionSummary>> {
        let found = &self.detection.as_ref()?.observed;
        let first = found.first()?;
        let mut summary = DetectionSummary {
            trigger: first.trigger.clone(),
            spot: first.spot(),
            hits: first.hits(),
            ..DetectionSummary::default()
        };
        for finding in found {
            summary.score = summary.score.max(finding.score);
            for category in &finding.categories {
                if !summary.categories.contains(category) {
                    summary.categories.push(*category);
                }
            }
            for threat in &finding.threats {
                if !summary.rows.contains(&threat.row) {
                    summary.rows.push(threat.row.clone());
                }
            }
        }
        Some(Box::new(summary))
    }

    /// Runs detection over the body alone; what follows sees its result.
    pub(crate) fn detect_body(&mut self, meter: &impl Meter) {
        let (policy, request, route) = (self.policy, self.request, self.route);
        let scope = &policy.checks.inspection(route).scope;
        let detection = policy.detector.inspect_body(request, scope, meter);
        if let Some(finding) = &detection.finding {
            self.report_detected(finding);
        }
        self.detection = Some(detection);
    }

    /// What detection found so far, for people.
    pub(crate) fn summary(&self) -> Option<Box<DetectionSummary>> {
        let finding = self.detection.as_ref()?.finding.as_deref()?;
        Some(Box::new(DetectionSummary {
            categories: finding.categories.clone(),
            score: finding.score,
            trigger: finding.trigger.clone(),
            rows: finding.threats.iter().map(|threat| threat.row.clone()).collect(),
            spot: finding.spot(),
            hits: finding.hits(),
        }))
    }

    /// guard-core's action of a refusal: what it says depends on the mode.
    pub(crate) const fn action(&self) -> Cow<'static, str> {
        Cow::Borrowed(if self.policy.passive { "logged_only" } else { "request_blocked" })
    }

    /// Reports an event of the pipeline whose action is the refusal of this mode.
    pub(crate) fn report(&mut self, check: Check, event: EventType, reason: String, metadata: Metadata) {
        let action = self.action();
        self.record(Fact { event, action, check, reason, metadata, handler: "middleware" });
    }

    /// Adds a fact.
    pub(crate) fn record(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// Notes a suspicious text. In passive mode each one is a report of its own; in active mode the latest one
    /// becomes the reason of the block.
    pub(crate) fn suspect(&mut self, check: Check, reason: String, trigger: String) {
        if self.policy.passive {
            self.blocks.push(OnBlock {
                check_name: check.name(),
                reason,
                trigger_info: trigger,
                passive_mode: true,
                status_code: None,
            });
        } else {
            self.reason = Some(reason);
        }
    }
}

/// `decorator_type` and `violation_type`, the metadata that every route rule reports.
pub(crate) fn violation(decorator: &str, violation: &str) -> Metadata {
    vec![("decorator_type", text(decorator)), ("violation_type", text(violation))]
}

/// A text as a metadata value.
pub(crate) fn text(text: impl Into<String>) -> FactValue {
    FactValue::Text(text.into())
}

/// A count as a metadata value.
pub(crate) fn int(value: impl TryInto<i64>) -> FactValue {
    FactValue::Int(value.try_into().unwrap_or(i64::MAX))
}
