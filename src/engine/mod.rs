//! Policy and order: the only place that knows passive mode, the failure rule, exclusions and bypasses.
//!
//! [`decide`] runs the checks in the order of [`Check::ALL`]. State is asked at most once before an answer is known:
//! what lies between the ban lookup and the rate limits needs no state, so it is looked at first.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::detect::Meter;
use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection, text};
use crate::engine::failure::{CheckError, OnFailure};
use crate::engine::policy::{Bypasses, Policy};
use crate::model::addr::Client;
use crate::model::check::Check;
use crate::model::decision::{Decision, Fact, FactValue, OnBlock, Origin, Verdict};
use crate::model::event::EventType;
use crate::model::time::Timestamp;
use crate::request::Request;
use crate::request::client::{identify, masked_chain};
use crate::request::path::normalise;
use crate::state::{Ban, Question, State};

pub mod phases;
pub mod policy;
pub mod responses;
pub mod trace;

mod behavior;
mod checks;
mod cors;
mod credentials;
mod csp;
mod cx;
pub mod expression;
mod failure;
mod leaks;
mod media;
mod reply;
mod routes;
mod sanctions;
mod security_headers;
mod whereabouts;

use crate::engine::trace::{Outcome, Trace, Untraced};

/// Decides one request. `now` is the wall clock of the edge; `meter` bounds detection.
pub async fn decide<'p, S: State>(
    policy: &'p Policy,
    state: &S,
    request: &Request<'_>,
    now: Timestamp,
    meter: &impl Meter,
) -> Decision<'p> {
    decide_traced(policy, state, Asked { request, now, meter }, &mut Untraced).await
}

/// A request with the moment it is decided at.
#[derive(Debug)]
pub struct Asked<'c, 'r, M> {
    /// What is decided.
    pub request: &'c Request<'r>,
    /// Wall clock of the edge.
    pub now: Timestamp,
    /// Bounds detection.
    pub meter: &'c M,
}

/// [`decide`], and tells `trace` what each check saw.
pub async fn decide_traced<'p, S: State, M: Meter, T: Trace>(
    policy: &'p Policy,
    state: &S,
    asked: Asked<'_, '_, M>,
    trace: &mut T,
) -> Decision<'p> {
    let mut cx = Cx::new(policy, asked.request, asked.now);
    let is_preflight = policy.cors.is_some() && cors::is_preflight(asked.request);
    cx.prepare(is_preflight);
    if cx.client == Client::Unknown && policy.failure.refuses_unknown() && !cx.excluded {
        return cx.refuse_unknown();
    }
    let is_bypassed = cx.bypasses(Bypasses::ALL);
    if is_bypassed {
        cx.report_bypass();
    }
    if !is_bypassed || policy.passive {
        let mut pipeline = Pipeline { state, meter: asked.meter, trace };
        if let Some(verdict) = pipeline.run(&mut cx, Check::ALL).await {
            if cx.has_trail() {
                Box::pin(cx.withdraw(state)).await;
            }
            return cx.decision(verdict, true);
        }
    }
    // Rare, and so kept out of the size of this future.
    if cx.is_conspicuous()
        && let Some(verdict) = Box::pin(behavior::conclude(&mut cx, state)).await
    {
        return cx.decision(verdict, true);
    }
    if cx.is_report {
        let answer = csp::answer(&mut cx);
        return cx.decision(answer, false);
    }
    match &policy.cors {
        Some(cors) if is_preflight => {
            let answer = cors.preflight(cx.request);
            cx.decision(Verdict::Deny(answer), false)
        }
        Some(_) | None => cx.decision(Verdict::Allow, !is_bypassed || policy.passive),
    }
}

impl<'p, 'r> Cx<'_, 'p, 'r> {
    /// Finds out who asks, for what, and by which rules.
    fn prepare(&mut self, is_preflight: bool) {
        let policy = self.policy;
        let identity = identify(&policy.proxies, self.request);
        self.client = identity.client;
        let normal = normalise(self.request.target.path);
        let resolved = policy.routes.resolve(self.request, &normal.path);
        (self.route, self.unresolved) = (resolved.route, resolved.unresolved);
        self.is_report = policy.csp.takes(self.request, &normal.path);
        self.answers_itself = is_preflight || self.is_report;
        // A preflight is answered by us, so it passes the whole pipeline wherever it goes.
        self.excluded = !self.answers_itself && normal.is_sound && policy.excluded.contains(&normal.path);
        if identity.spoofed {
            let reason = format!("Potential IP spoof attempt: X-Forwarded-For header {}", masked_chain(self.request));
            self.record(outside(EventType::SuspiciousRequest, "spoofing_detected", reason, "ip_extraction"));
        }
        if self.excluded {
            let path = self.path.clone().into_owned();
            let reason = format!("Path {path} excluded from security checks");
            let mut fact = outside(EventType::PathExcluded, "security_checks_bypassed", reason, "middleware");
            fact.metadata = vec![
                ("excluded_path", text(path)),
                ("configured_exclusions", FactValue::List(policy.exclude_paths.clone())),
            ];
            self.record(fact);
        }
    }

    fn report_bypass(&mut self) {
        let reason = "Route configured to bypass all security checks".to_owned();
        let mut fact = outside(EventType::SecurityBypass, "all_checks_bypassed", reason, "middleware");
        let names = self.policy.bypasses.of(self.route).names();
        fact.metadata = vec![("bypassed_checks", FactValue::List(names)), ("endpoint", text(self.path.as_ref()))];
        self.record(fact);
    }

    /// Nobody knows whom to list, limit or ban: refused in passive mode too.
    fn refuse_unknown(mut self) -> Decision<'p> {
        const BODY: &str = "Client address could not be determined";
        self.blocks.push(OnBlock {
            check_name: Origin::ClientAddress.name(),
            reason: BODY.to_owned(),
            trigger_info: String::new(),
            passive_mode: self.policy.passive,
            status_code: Some(403),
        });
        let policy = self.policy;
        let denial = policy.replies.denial(&mut self, Origin::ClientAddress, Objection::new(403, BODY));
        self.decision(Verdict::Deny(denial), true)
    }

    /// Why a check does not run, if it does not.
    fn skips(&self, check: Check) -> Option<&'static str> {
        if self.is_report && check == Check::SuspiciousActivity {
            // A report quotes attacks, and no upstream will see it.
            return Some("a report");
        }
        if !self.policy.checks.has(check) {
            return Some("not configured");
        }
        if self.excluded && !matches!(check, Check::RouteConfig | Check::IpSecurity | Check::RateLimit) {
            return Some("excluded path");
        }
        let (spares_whitelisted, spares_exempt, bypass) = match check {
            Check::CloudProvider => (true, true, Some(Bypasses::CLOUDS)),
            Check::UserAgent => (true, true, None),
            Check::RateLimit => (true, true, Some(Bypasses::RATE_LIMIT)),
            Check::SuspiciousActivity => (true, false, Some(Bypasses::PENETRATION)),
            _ => (false, false, None),
        };
        if spares_whitelisted && self.is_whitelisted() {
            return Some("whitelisted");
        }
        if spares_exempt && self.is_exempt() {
            return Some("exempt");
        }
        bypass.is_some_and(|bypass| self.bypasses(bypass)).then_some("bypassed by the route")
    }

    /// The state questions of the request, once everything local is foreseen.
    fn question(&mut self) -> Question<'r> {
        let ban = (!self.bypasses(Bypasses::IP_BAN)).then_some(self.client);
        let limits = self.foreseen.tiers.iter().map(|tier| tier.limit).collect();
        let rules = self.foreseen.rules.iter().flatten().map(|(_, rule)| *rule).collect();
        Question { ban, limits, passive: self.policy.passive, rules, watches: self.watches() }
    }

    /// Ends the decision with what a check objects.
    fn deny(&mut self, check: Check, objection: Objection<'p>) -> Verdict<'p> {
        let policy = self.policy;
        let status = objection.status;
        if objection.form == cx::Form::Standard
            && let Some(reason) = self.reason.take()
        {
            self.blocks.push(OnBlock {
                check_name: check.name(),
                reason,
                trigger_info: String::new(),
                passive_mode: false,
                status_code: Some(status),
            });
        }
        Verdict::Deny(policy.replies.denial(self, Origin::Check(check), objection))
    }

    /// Ends the decision because a check could not make one.
    fn fail(&mut self, check: Check) -> Verdict<'p> {
        let policy = self.policy;
        let objection = Objection::new(500, "Security check failed");
        Verdict::Fail(policy.replies.denial(self, Origin::Check(check), objection))
    }

    fn decision(mut self, verdict: Verdict<'p>, dressed: bool) -> Decision<'p> {
        let policy = self.policy;
        let request_headers = match verdict {
            Verdict::Allow => policy.whereabouts.tell(&mut self),
            Verdict::Deny(_) | Verdict::Fail(_) => SmallVec::new(),
        };
        let country = self.country();
        let asn = self.operator().map(|operator| operator.asn);
        let response_headers = match verdict {
            Verdict::Allow => policy.replies.allowed(&self, dressed),
            Verdict::Deny(_) | Verdict::Fail(_) => Default::default(),
        };
        let is_allowed = matches!(verdict, Verdict::Allow);
        let trail = if is_allowed { self.left() } else { None };
        Decision {
            verdict,
            response_headers,
            request_headers,
            country,
            asn,
            detection: self.summary(),
            observed: self.observed(),
            facts: self.facts,
            blocks: self.blocks,
            route: self.route.and_then(|id| policy.routes.name(id)),
            flags: self.flags,
            principal: self.principal.filter(|principal| !principal.is_empty()),
            excluded: self.excluded,
            passive: policy.passive,
            delay: self.delay.filter(|_| is_allowed),
            trail,
        }
    }
}

/// A fact of a step around the pipeline.
fn outside(event: EventType, action: &'static str, reason: String, handler: &'static str) -> Fact {
    Fact { event, action: Cow::Borrowed(action), check: Check::RouteConfig, reason, metadata: Vec::new(), handler }
}

/// The checks in their order, with what they may ask.
struct Pipeline<'a, S, M, T> {
    state: &'a S,
    meter: &'a M,
    trace: &'a mut T,
}

impl<S: State, M: Meter, T: Trace> Pipeline<'_, S, M, T> {
    /// Runs the checks; `Some` ends the request here.
    async fn run<'p>(&mut self, cx: &mut Cx<'_, 'p, '_>, checks: &[Check]) -> Option<Verdict<'p>> {
        for check in checks.iter().copied() {
            if let Some(reason) = cx.skips(check) {
                self.trace.end(check, Outcome::Skipped(reason));
                continue;
            }
            self.trace.begin(check);
            let seen = self.evaluate(check, cx).await;
            match seen {
                Ok(None) => self.trace.end(check, Outcome::Passed),
                Ok(Some(objection)) if cx.policy.passive => {
                    self.trace.end(check, Outcome::WouldDeny { status: objection.status });
                }
                Ok(Some(objection)) => {
                    self.trace.end(check, Outcome::Denied { status: objection.status });
                    return Some(cx.deny(check, objection));
                }
                Err(error) => {
                    self.trace.end(check, Outcome::Failed(&error.to_string()));
                    if cx.policy.failure.apply(&error) == OnFailure::Refuse {
                        return Some(cx.fail(check));
                    }
                }
            }
        }
        None
    }

    async fn evaluate<'p>(&mut self, check: Check, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
        let checks = &cx.policy.checks;
        match check {
            Check::RouteConfig => checks::route_config::evaluate(cx),
            Check::EmergencyMode => with(&checks.emergency_mode, |it| checks::emergency_mode::evaluate(it, cx)),
            Check::HttpsEnforcement => {
                with(&checks.https_enforcement, |it| checks::https_enforcement::evaluate(it, cx))
            }
            // The edge writes the line; ranges are refreshed by the shell.
            Check::RequestLogging | Check::CloudIpRefresh => Ok(None),
            Check::RequestSizeContent => {
                with(&checks.request_size_content, |it| checks::request_size_content::evaluate(it, cx))
            }
            Check::RequiredHeaders => with(&checks.required_headers, |it| checks::required_headers::evaluate(it, cx)),
            Check::Authentication => with(&checks.authentication, |it| checks::authentication::evaluate(it, cx)),
            Check::Referrer => with(&checks.referrer, |it| checks::referrer::evaluate(it, cx)),
            Check::CustomValidators => {
                with(&checks.custom_validators, |it| checks::custom_validators::evaluate(it, cx))
            }
            Check::TimeWindow => with(&checks.time_window, |it| checks::time_window::evaluate(it, cx)),
            Check::IpSecurity => {
                let ban = self.ask(cx).await?;
                checks::ip_security::conclude(cx, self.state, ban, self.meter).await
            }
            Check::CloudProvider => with(&checks.cloud_provider, |it| checks::cloud_provider::evaluate(it, cx)),
            Check::UserAgent => match &checks.user_agent {
                Some(it) => checks::user_agent::evaluate(it, cx, self.state, self.meter).await,
                None => Ok(None),
            },
            Check::RateLimit => match &checks.rate_limit {
                Some(it) => checks::rate_limit::evaluate(it, cx, self.state).await,
                None => Ok(None),
            },
            Check::SuspiciousActivity => {
                checks::suspicious_activity::evaluate(&checks.suspicious_activity, cx, self.state, self.meter).await
            }
            Check::CustomRequest => with(&checks.custom_request, |it| checks::custom_request::evaluate(it, cx)),
        }
    }

    /// Asks state about bans and limits together. When it fails and the failure rule goes on, static lists still work.
    async fn ask(&mut self, cx: &mut Cx<'_, '_, '_>) -> Result<Option<Ban>, CheckError> {
        cx.foresee();
        let question = cx.question();
        let nothing_counts = question.limits.is_empty() && question.rules.is_empty() && question.watches.is_empty();
        if question.ban.is_none() && nothing_counts {
            return Ok(None);
        }
        let answer = self.state.ask(&question, cx.now).await;
        let mut ban = None;
        match &answer {
            Ok(answer) => ban.clone_from(&answer.ban),
            Err(error) => {
                let error = CheckError::State(error.clone());
                if cx.policy.failure.apply(&error) == OnFailure::Refuse {
                    return Err(error);
                }
            }
        }
        cx.answer = Some(answer);
        Ok(ban)
    }
}

fn with<'p, T>(settings: &'p Option<T>, evaluate: impl FnOnce(&'p T) -> Seen<'p>) -> Seen<'p> {
    settings.as_ref().map_or(Ok(None), evaluate)
}

#[cfg(test)]
mod tests;
