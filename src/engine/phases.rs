//! What comes after the request's headers were decided: its body, and the response.
//!
//! Each part is judged by the same policy and the same client as the headers. Nothing is counted again: the checks that
//! count ran with the headers, and only detection looks at the body.

use smallvec::SmallVec;

use crate::detect::Meter;
use crate::engine::behavior;
use crate::engine::csp;
use crate::engine::cx::Cx;
use crate::engine::policy::Policy;
use crate::engine::reply::Own;
use crate::engine::responses::{self, Part, Reading};
use crate::engine::trace::Untraced;
use crate::engine::{Asked, Pipeline};
use crate::model::addr::Client;
use crate::model::check::Check;
use crate::model::decision::{Decision, IdentityFlags, Origin, Trail, Verdict};
use crate::model::headers::HeaderEdit;
use crate::model::time::Timestamp;
use crate::request::Request;
use crate::request::headers::Headers;
use crate::state::State;

/// What is known of a request since its headers were decided.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing<'r> {
    /// The client, when another filter found out; else it is found out again from the same facts.
    pub client: Option<Client<'r>>,
    /// What the address check said.
    pub flags: Option<IdentityFlags>,
    /// Another filter decided, and told Envoy what the response is to wear.
    pub elsewhere: bool,
    /// Another filter inspected the body.
    pub inspected: bool,
    /// What the request left in behaviour histories.
    pub trail: Option<Trail>,
}

/// Which parts the policy wants to see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// The body is to be inspected.
    pub request_body: bool,
    /// The response's headers may have to be changed or looked at.
    pub response_headers: bool,
    /// The response's body may have to be looked at.
    pub response_body: bool,
    /// The request is answered here once its body came.
    pub holds_request: bool,
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead<'r> {
    /// Status.
    pub status: u16,
    /// Fields, pseudo-headers left out.
    pub headers: Headers<'r>,
}

impl ResponseHead<'_> {
    /// True when the response already says what `edit` would add. Only `Vary` is asked about.
    pub(crate) fn has(&self, edit: &HeaderEdit<'_>) -> bool {
        let says = |value: &[u8]| {
            value
                .split(|byte| *byte == b',')
                .map(<[u8]>::trim_ascii)
                .any(|token| token == b"*" || token.eq_ignore_ascii_case(edit.value.as_bytes()))
        };
        edit.name == "vary" && self.headers.all("vary").any(says)
    }
}

/// Changes to the head of a response. Removals come first.
#[derive(Clone, Debug, Default)]
pub struct ResponseEdits<'p> {
    /// Fields to remove, in lower case.
    pub remove: SmallVec<[&'p str; 4]>,
    /// Fields to set.
    pub set: SmallVec<[HeaderEdit<'p>; 16]>,
}

impl ResponseEdits<'_> {
    /// True when a field called `name` is removed.
    pub(crate) fn removes(&self, name: &str) -> bool {
        self.remove.iter().any(|removed| removed.eq_ignore_ascii_case(name))
    }
}

/// Which parts of an exchange the policy wants to see, once the request was let pass.
#[must_use]
pub fn wanted<'r>(policy: &Policy, request: &Request<'r>, standing: &Standing<'r>) -> Wanted {
    let cx = Cx::resume(policy, request, Timestamp(0.0), standing);
    let detects = cx.skips(Check::SuspiciousActivity).is_none() && policy.checks.inspection(cx.route).covers_bodies();
    let own = own(standing);
    Wanted {
        request_body: detects && !standing.inspected || cx.is_report,
        holds_request: cx.is_report,
        response_headers: policy.replies.touches_upstream(own)
            || own == Own::All && policy.cors.is_some()
            || policy.responses.judges(&cx),
        response_body: policy.responses.reads(&cx),
    }
}

/// True for the answer to a CSP report, which is complete only once the report came.
#[must_use]
pub fn is_report(decision: &Decision<'_>) -> bool {
    matches!(&decision.verdict, Verdict::Deny(denial) if denial.origin == Origin::CspReport)
}

/// Decides about the body of a request whose headers passed: detection, and what an attack leads to.
pub async fn decide_body<'p, 'r, S: State, M: Meter>(
    policy: &'p Policy,
    state: &S,
    asked: Asked<'_, 'r, M>,
    standing: &Standing<'r>,
) -> Decision<'p> {
    let mut cx = Cx::resume(policy, asked.request, asked.now, standing);
    if cx.is_report {
        let answer = csp::answer(&mut cx);
        return cx.decision(answer, false);
    }
    cx.detect_body(asked.meter);
    let mut pipeline = Pipeline { state, meter: asked.meter, trace: &mut Untraced };
    let Some(verdict) = pipeline.run(&mut cx, &[Check::SuspiciousActivity]).await else {
        return cx.decision(Verdict::Allow, true);
    };
    // What is refused is no usage.
    if let Some(trail) = &standing.trail {
        Box::pin(cx.take_back(state, trail)).await;
    }
    cx.decision(verdict, true)
}

/// Judges the head of a response: counts what it says, and tells how its body is to be looked at. `request` passed.
pub async fn judge<'p, 'r, S: State>(
    policy: &'p Policy,
    state: &S,
    asked: (&Request<'r>, Timestamp),
    standing: &Standing<'r>,
    head: &ResponseHead<'_>,
) -> (Decision<'p>, Reading<'p>) {
    let (request, now) = asked;
    let mut cx = Cx::resume(policy, request, now, standing);
    behavior::returned(&mut cx, state, |pattern| pattern.is_status(head.status)).await;
    let reading = policy.responses.reading(&cx, head);
    (cx.decision(Verdict::Allow, true), reading)
}

/// Judges a response body as far as it came. A denial means that it must not go on.
pub async fn judge_body<'p, 'r, S: State>(
    policy: &'p Policy,
    state: &S,
    asked: (&Request<'r>, Timestamp),
    standing: &Standing<'r>,
    looked: (&mut Reading<'p>, Part<'_>),
) -> Decision<'p> {
    let (request, now) = asked;
    let (reading, part) = looked;
    let mut cx = Cx::resume(policy, request, now, standing);
    let verdict = responses::look(&mut cx, state, reading, part).await;
    cx.decision(verdict, true)
}

/// What is to be done to the response of a request that passed.
#[must_use]
pub fn respond<'p, 'r>(
    policy: &'p Policy,
    asked: (&Request<'r>, Timestamp),
    standing: &Standing<'r>,
    head: &ResponseHead<'_>,
) -> ResponseEdits<'p> {
    let (request, now) = asked;
    let mut cx = Cx::resume(policy, request, now, standing);
    policy.replies.on_upstream(&mut cx, head, own(standing))
}

/// What is to be done to a response whose request we never saw: an earlier filter answered.
#[must_use]
pub fn respond_unasked(policy: &Policy) -> ResponseEdits<'_> {
    policy.replies.on_unasked()
}

const fn own(standing: &Standing<'_>) -> Own {
    if standing.elsewhere { Own::Rest } else { Own::All }
}

impl<'c, 'p, 'r> Cx<'c, 'p, 'r> {
    /// Takes up a request where its headers left it.
    fn resume(policy: &'p Policy, request: &'c Request<'r>, now: Timestamp, standing: &Standing<'r>) -> Self {
        let mut cx = Cx::new(policy, request, now);
        cx.prepare(false);
        // What was odd about the headers was reported with them.
        cx.facts.clear();
        cx.client = standing.client.unwrap_or(cx.client);
        cx.flags = standing.flags;
        cx
    }
}

#[cfg(test)]
mod tests;
