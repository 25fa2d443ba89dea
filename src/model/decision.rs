//! What the engine answers: a verdict, what to tell the client, and the facts that explain it.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::model::category::Category;
use crate::model::check::Check;
use crate::model::event::EventType;
use crate::model::headers::HeaderEdit;
use crate::model::place::CountryCode;

/// The three possible ends of a decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<'p> {
    /// The request goes to the upstream.
    Allow,
    /// We answer instead of the upstream (a refusal, a redirect, a preflight answer).
    Deny(Denial<'p>),
    /// We could not decide; the failure rule says what the client sees. Never used for a policy denial.
    Fail(Denial<'p>),
}

/// Who produced an answer: a check of the pipeline, or a step around it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// A check of the pipeline.
    Check(Check),
    /// No client address, and `fail_secure` is on.
    ClientAddress,
    /// The CORS preflight answer.
    CorsPreflight,
    /// A CSP report was taken.
    CspReport,
    /// A behaviour rule throttles the client.
    Behavior,
    /// A response rule withholds what the upstream said.
    ResponseRule,
    /// The service is not ready to decide (state not initialised in strict mode).
    NotReady,
    /// The question could not be read, or is about no HTTP request.
    Unreadable,
    /// The service failed where it must not.
    Internal,
}

impl Origin {
    /// The name users see in logs, metrics and metadata.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Check(check) => check.name(),
            Self::ClientAddress => "client_address_unresolved",
            Self::CorsPreflight => "cors_preflight",
            Self::CspReport => "csp_report",
            Self::Behavior => "behavior",
            Self::ResponseRule => "response_rule",
            Self::NotReady => "not_ready",
            Self::Unreadable => "unreadable",
            Self::Internal => "internal",
        }
    }
}

/// A response made by us. Text is borrowed from the policy where it can be.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial<'p> {
    /// Who objected.
    pub origin: Origin,
    /// HTTP status. 200 only for a preflight answer and 204 for a taken report; otherwise 300 to 599.
    pub status: u16,
    /// Response body, UTF-8.
    pub body: Cow<'p, str>,
    /// Media type of the body; `None` when there is no body.
    pub content_type: Option<&'static str>,
    /// All response headers of ours, security headers and CORS included.
    pub headers: SmallVec<[HeaderEdit<'p>; 4]>,
}

/// The action of a fact about a finding that is only logged.
pub const OBSERVED: &str = "log_only";

/// The answer to one request.
#[derive(Clone, Debug)]
pub struct Decision<'p> {
    /// Allow, deny or fail.
    pub verdict: Verdict<'p>,
    /// Set on the upstream's response when the request is allowed (security headers, CORS).
    pub response_headers: ResponseHeaders<'p>,
    /// Set on the request that goes upstream when it is allowed (principal, country; empty by default).
    pub request_headers: SmallVec<[HeaderEdit<'p>; 1]>,
    /// Everything that explains the verdict, in the order it happened. Empty for a plain allowed request.
    pub facts: SmallVec<[Fact; 1]>,
    /// Payloads of `on_block`, in order.
    pub blocks: SmallVec<[OnBlock; 1]>,
    /// Name of the matched route, for logs and metadata.
    pub route: Option<&'p str>,
    /// Detection summary, when detection ran and found something.
    pub detection: Option<Box<DetectionSummary>>,
    /// What detection noticed and `log_only_categories` or `log_only_rows` keep from counting.
    pub observed: Option<Box<DetectionSummary>>,
    /// The client's country, when it is known.
    pub country: Option<CountryCode>,
    /// The number of the client's autonomous system, when it is known.
    pub asn: Option<u32>,
    /// Global identity flags; `None` when the IP check did not reach its global step.
    pub flags: Option<IdentityFlags>,
    /// Who the verified credential belongs to: a name, or what the verifier's expression said, as JSON.
    pub principal: Option<Cow<'p, str>>,
    /// The path was excluded: only the reduced set of checks ran.
    pub excluded: bool,
    /// The policy was passive: what would have been denied was only reported.
    pub passive: bool,
    /// The request goes on, but not at once.
    pub delay: Option<Box<Delay<'p>>>,
    /// What the request left in behaviour histories, should it be refused later.
    pub trail: Option<Box<Trail>>,
}

/// An event in behaviour histories. It means something to state alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trail {
    /// The endpoint's digest.
    pub endpoint: [u8; 32],
    /// The event's mark.
    pub mark: u128,
}

/// How an allowed request is slowed down.
#[derive(Clone, Debug)]
pub struct Delay<'p> {
    /// Milliseconds that the answer waits.
    pub millis: u32,
    /// The answer when no more requests can wait.
    pub otherwise: Denial<'p>,
}

/// Response headers of an allowed request: the constant set of the policy, and what depends on the request.
#[derive(Clone, Debug, Default)]
pub struct ResponseHeaders<'p> {
    /// Prepared once per policy (and encoded once by the edge, by address).
    pub constant: Option<&'p ConstantHeaders>,
    /// Per request (CORS).
    pub extra: SmallVec<[HeaderEdit<'p>; 1]>,
}

/// The header set that every allowed response gets, with a number that names this set for caches at the edge.
#[derive(Clone, Debug, Default)]
pub struct ConstantHeaders {
    /// The edits.
    pub edits: Vec<HeaderEdit<'static>>,
}

/// Flags of the client's identity.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct IdentityFlags {
    /// In a non-empty whitelist.
    pub whitelisted: bool,
    /// In `exempt_ips`.
    pub exempt: bool,
}

/// What detection found, as users see it in metadata, logs and `replay`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct DetectionSummary {
    /// Distinct categories in the order found.
    pub categories: Vec<Category>,
    /// 0 to 1.
    pub score: f64,
    /// Where and what, redacted, for the `trigger` text of logs and events.
    pub trigger: String,
    /// Identifiers of the rows that matched.
    pub rows: Vec<Cow<'static, str>>,
    /// Where, as exclusions name places. Not redacted: the edge knows the names of secrets.
    #[serde(skip)]
    pub spot: Spot,
    /// What matched, at most [`HITS_MAX`]. Not redacted either.
    #[serde(skip)]
    pub hits: Vec<Hit>,
}

/// Matches that a summary quotes at most.
pub const HITS_MAX: usize = 8;

/// The place of a value, as an entry of `detection.exclusions` names it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Spot {
    /// `param`, `header`, `body_field` or `json_path`; `None` for a value that has no name, such as the path.
    pub key: Option<&'static str>,
    /// The name, or the way to a JSON leaf; empty when there is none.
    pub name: String,
}

/// One match in a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hit {
    /// The row.
    pub row: Cow<'static, str>,
    /// What had happened to the value: `raw`, `decoded`, `processed` or `additive`.
    pub view: &'static str,
    /// The matched text of that view.
    pub text: String,
}

/// One thing that happened while deciding; becomes an event, a log line and a count at the edge.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// guard-core's event type.
    pub event: EventType,
    /// guard-core's `action_taken`.
    pub action: Cow<'static, str>,
    /// Who reports it.
    pub check: Check,
    /// guard-core's `reason` text.
    pub reason: String,
    /// guard-core's `metadata`, in order.
    pub metadata: Vec<(&'static str, FactValue)>,
    /// `handler_name`: `middleware` for bus events, else the handler (`rate_limit`, `ip_ban`, `cloud`, `behavior`).
    pub handler: &'static str,
}

/// The handler of facts about behaviour rules.
pub const BEHAVIOR: &str = "behavior";
/// The handler of facts about response rules.
pub const RESPONSE_RULES: &str = "response_rules";

impl Fact {
    /// Who reports it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match self.handler {
            BEHAVIOR => Origin::Behavior,
            RESPONSE_RULES => Origin::ResponseRule,
            _ => Origin::Check(self.check),
        }
    }

    /// True for a report that a person must look at.
    #[must_use]
    pub fn is_alert(&self) -> bool {
        self.metadata.contains(&("alert", FactValue::Bool(true)))
    }
}

/// A value of an event's metadata.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum FactValue {
    /// Text.
    Text(String),
    /// A count.
    Int(i64),
    /// A measure.
    Float(f64),
    /// A switch.
    Bool(bool),
    /// Several texts.
    List(Vec<String>),
    /// Absent.
    Null,
}

/// Payload of guard-core's `on_block` hook.
#[derive(Clone, Debug, PartialEq)]
pub struct OnBlock {
    /// Check that objected, or `client_address_unresolved`.
    pub check_name: &'static str,
    /// The latest suspicious log text of the request.
    pub reason: String,
    /// Detection trigger; empty in active mode.
    pub trigger_info: String,
    /// Only reported, not blocked.
    pub passive_mode: bool,
    /// `None` in passive mode.
    pub status_code: Option<u16>,
}

impl Decision<'_> {
    /// Why, in one sentence: what the last check said, or what an answer around the pipeline is.
    #[must_use]
    pub fn reason(&self) -> Option<Cow<'_, str>> {
        match &self.verdict {
            Verdict::Deny(denial) if denial.origin == Origin::CorsPreflight => Some(match denial.status {
                200 => Cow::Borrowed("CORS preflight answered"),
                _ => Cow::Owned(format!("CORS preflight refused: {}", denial.body)),
            }),
            Verdict::Deny(denial) if denial.origin == Origin::CspReport && self.facts.is_empty() => {
                Some(Cow::Borrowed("CSP report taken"))
            }
            Verdict::Allow | Verdict::Deny(_) | Verdict::Fail(_) => {
                self.facts.last().map(|fact| Cow::Borrowed(fact.reason.as_str()))
            }
        }
    }

    /// A plain allow: nothing to explain, nothing to add.
    #[must_use]
    pub fn allow() -> Self {
        Self {
            verdict: Verdict::Allow,
            response_headers: ResponseHeaders::default(),
            request_headers: SmallVec::new(),
            facts: SmallVec::new(),
            blocks: SmallVec::new(),
            route: None,
            detection: None,
            observed: None,
            country: None,
            asn: None,
            flags: None,
            principal: None,
            excluded: false,
            passive: false,
            delay: None,
            trail: None,
        }
    }
}
