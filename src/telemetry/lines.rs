//! One line per decision: which ones, at which level, and what they say.

use std::borrow::Cow;

use crate::config::Config;
use crate::config::values::LogLevel;
use crate::model::addr::Client;
use crate::model::check::Check;
use crate::model::decision::{Decision, Origin, Verdict};
use crate::request::Request;
use crate::telemetry::levels::leveled;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::recent::Keeping;
use crate::telemetry::redact::Redaction;

/// What is logged of decisions, compiled from the configuration.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    suspicious: Option<LogLevel>,
    request: Option<LogLevel>,
    muted: Vec<Check>,
    redaction: Redaction,
    keeping: Keeping,
}

/// One decision, as a line shows it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a, 'r, 'p> {
    /// What was asked.
    pub request: &'a Request<'r>,
    /// What was answered.
    pub decision: &'a Decision<'p>,
    /// Who asked.
    pub client: Client<'a>,
    /// What the answer counts as.
    pub outcome: Outcome,
    /// On whose behalf.
    pub origin: Option<Origin>,
    /// How long it took.
    pub us: u64,
}

impl Lines {
    /// The rules of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let security = &config.security;
        Self {
            suspicious: security.log_suspicious_level,
            request: security.log_request_level,
            muted: security.muted_check_logs.iter().filter_map(|name| Check::named(name)).collect(),
            redaction: Redaction::new(security),
            keeping: Keeping::new(config),
        }
    }

    /// What is recorded of decisions.
    #[must_use]
    pub const fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// The level of a decision's line; `None` when it has none.
    #[must_use]
    pub fn level(&self, outcome: Outcome, origin: Option<Origin>) -> Option<LogLevel> {
        let is_muted = |check: &Check| self.muted.contains(check);
        match (outcome, origin) {
            (Outcome::Allow, _) => self.request.filter(|_| !is_muted(&Check::RequestLogging)),
            (_, Some(Origin::Check(check))) if is_muted(&check) => None,
            // A preflight answer is an answer, not a refusal.
            (Outcome::Deny, Some(Origin::CorsPreflight)) => self.request,
            (Outcome::Deny | Outcome::Report | Outcome::Fail, _) => self.suspicious,
        }
    }

    /// Writes the line. Called only when there is one.
    pub fn write(&self, level: LogLevel, subject: &Subject<'_, '_, '_>) {
        let target = self.redaction.target(subject.request.target.raw);
        let decision = subject.decision;
        let status = match &decision.verdict {
            Verdict::Allow => None,
            Verdict::Deny(denial) | Verdict::Fail(denial) => Some(denial.status),
        };
        let categories: Option<String> = decision
            .detection
            .as_ref()
            .map(|found| found.categories.iter().map(|category| category.name()).collect::<Vec<_>>().join(","));
        let client = subject.client.to_string();
        let headers = (subject.outcome == Outcome::Allow).then(|| self.redaction.headers(&subject.request.headers));
        macro_rules! line {
            ($level:expr, $severity:expr) => {
                tracing::event!(
                    target: "decision",
                    $level,
                    severity = $severity,
                    verdict = subject.outcome.name(),
                    check = subject.origin.map(Origin::name),
                    status,
                    client,
                    method = subject.request.method,
                    host = subject.request.host,
                    path = &*target,
                    route = decision.route,
                    request_id = subject.request.id,
                    x_request_id = subject.request.shared_id(),
                    categories,
                    score = decision.detection.as_ref().map(|found| found.score),
                    log_only = decision.observed.as_ref().map(|found| found.rows.join(",")),
                    delay_ms = decision.delay.as_ref().map(|delay| delay.millis),
                    headers,
                    us = subject.us,
                    "{}",
                    printable(&self.redaction.text(&message(subject)))
                )
            };
        }
        leveled!(level, line);
    }
}

/// The sentence of a line: what the check said, or what was answered.
fn message<'a>(subject: &Subject<'a, '_, '_>) -> Cow<'a, str> {
    let decision = subject.decision;
    if let Some(block) = decision.blocks.last() {
        return Cow::Borrowed(&block.reason);
    }
    match (&decision.verdict, decision.reason()) {
        (Verdict::Deny(_) | Verdict::Fail(_), Some(reason)) => reason,
        (Verdict::Deny(denial) | Verdict::Fail(denial), None) => Cow::Borrowed(&denial.body),
        (Verdict::Allow, Some(reason)) if subject.outcome == Outcome::Report => reason,
        (Verdict::Allow, _) => Cow::Borrowed("request"),
    }
}

/// A sentence on one line: it may quote the client.
fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if letter.is_control() { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests;
