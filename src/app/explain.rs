//! `envoy-guard explain`: decides one request and shows how, for people and for machines.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::app::Source;
use crate::app::build::{Refusal, build};
use crate::app::curl;
use crate::app::input::{INPUT_BYTES_MAX, Input};
use crate::app::narrow;
use crate::clock;
use crate::detect::Unmetered;
use crate::detect::trace::Value;
use crate::engine::trace::{Outcome, Trace};
use crate::engine::{Asked, decide_traced};
use crate::live::Snapshot;
use crate::model::check::Check;
use crate::model::decision::{Decision, DetectionSummary, Fact, Verdict};
use crate::state::memory::Memory;

/// Clients that the memory of one explanation holds.
const CLIENTS: usize = 16;

/// What `explain` takes.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("from").required(true).args(["request", "curl"])))]
pub struct Explain {
    #[command(flatten)]
    source: Source,
    /// File with one request as JSON; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// The request as a curl command line.
    #[arg(long, value_name = "COMMAND")]
    curl: Option<String>,
    /// Address of the TCP peer, instead of a documentation address.
    #[arg(long, value_name = "IP")]
    client: Option<std::net::IpAddr>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One check, as it went.
#[derive(Debug, Serialize)]
struct Step {
    check: Check,
    /// passed, skipped, denied, would_deny or failed.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    us: f64,
}

/// Notes each check with the time it took.
#[derive(Default)]
struct Steps {
    began: Option<Instant>,
    list: Vec<Step>,
}

impl Trace for Steps {
    fn begin(&mut self, _: Check) {
        self.began = Some(clock::instant());
    }

    fn end(&mut self, check: Check, outcome: Outcome<'_>) {
        let us = self.began.take().map_or(0.0, |began| micros(began.elapsed()));
        let (outcome, status, note) = match outcome {
            Outcome::Skipped(why) => ("skipped", None, Some(why.to_owned())),
            Outcome::Passed => ("passed", None, None),
            Outcome::WouldDeny { status } => ("would_deny", Some(status), None),
            Outcome::Denied { status } => ("denied", Some(status), None),
            Outcome::Failed(why) => ("failed", None, Some(why.to_owned())),
        };
        self.list.push(Step { check, outcome, status, note, us });
    }
}

/// Everything there is to say about one decision.
#[derive(Debug, Serialize)]
struct Explanation<'a> {
    request: String,
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<&'static str>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    response_headers: Vec<(&'a str, &'a str)>,
    passive: bool,
    excluded: bool,
    checks: Vec<Step>,
    facts: Vec<Reason<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detection: Option<&'a DetectionSummary>,
    /// What the policy only logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_only: Option<&'a DetectionSummary>,
    /// Entries for `detection.exclusions` with which detection would have let the request pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exclusions: Vec<serde_json::Map<String, serde_json::Value>>,
    values: Vec<Value>,
    us: f64,
}

#[derive(Debug, Serialize)]
struct Reason<'a> {
    event: &'static str,
    action: &'a str,
    reason: &'a str,
}

impl<'a> From<&'a Fact> for Reason<'a> {
    fn from(fact: &'a Fact) -> Self {
        Self { event: fact.event.name(), action: &fact.action, reason: &fact.reason }
    }
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] Refusal),
    /// The request cannot be read.
    #[error("the request cannot be used: {0}")]
    Request(String),
    /// The explanation cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl Explain {
    /// Decides the request and writes the explanation.
    pub fn run(&self, out: &mut impl Write) -> Result<(), ExplainError> {
        let snapshot = build(&self.source.clone().into())?;
        let mut input = self.input()?;
        input.client = self.client.or(input.client);
        input.or_stranger(1);
        explain(&snapshot, &input, |explanation| {
            if self.json {
                serde_json::to_writer_pretty(&mut *out, explanation).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                print(explanation, out)?;
            }
            Ok(())
        })
    }

    fn input(&self) -> Result<Input, ExplainError> {
        let refused = |error: &dyn std::fmt::Display| ExplainError::Request(error.to_string());
        if let Some(command) = &self.curl {
            return curl::parse(command).map_err(|error| refused(&error));
        }
        let mut text = String::new();
        let limit = INPUT_BYTES_MAX as u64;
        match &self.request {
            Some(path) if path.as_os_str() != "-" => std::fs::File::open(path)
                .and_then(|file| file.take(limit).read_to_string(&mut text))
                .map_err(|error| ExplainError::Request(format!("{}: {error}", path.display())))?,
            _ => io::stdin().take(limit).read_to_string(&mut text).map_err(|error| refused(&error))?,
        };
        Input::from_json(&text).map_err(|error| refused(&error))
    }
}

fn explain<R>(
    snapshot: &Snapshot,
    input: &Input,
    show: impl FnOnce(&Explanation<'_>) -> Result<R, ExplainError>,
) -> Result<R, ExplainError> {
    let (policy, request, state) = (&snapshot.policy, input.view(), Memory::new(CLIENTS));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut steps = Steps::default();
    let start = clock::instant();
    let asked = Asked { request: &request, now: clock::now(), meter: &Unmetered };
    let decision = runtime.block_on(decide_traced(policy, &state, asked, &mut steps));
    let us = micros(start.elapsed());
    // Looking again costs nothing here, and keeps the walk of a real decision free of notes.
    let (_, trace) = policy.detector.inspect_traced(&request, policy.scope(&request), &Unmetered);
    let detected = steps.list.iter().any(|step| step.check == Check::SuspiciousActivity && step.outcome != "skipped");
    let is_refused = |step: &Step| matches!(step.outcome, "denied" | "would_deny");
    let by_detection = steps.list.iter().any(|step| step.check == Check::SuspiciousActivity && is_refused(step));
    let exclusions = if by_detection {
        narrow::narrowest(&policy.detector, &request, policy.scope(&request)).iter().map(narrow::json).collect()
    } else {
        Vec::new()
    };
    let (name, denial) = match &decision.verdict {
        Verdict::Allow => ("allow", None),
        Verdict::Deny(denial) => ("deny", Some(denial)),
        Verdict::Fail(denial) => ("fail", Some(denial)),
    };
    show(&Explanation {
        request: format!("{} {}", input.method, input.path),
        client: policy.client(&request).to_string(),
        route: decision.route,
        decision: name,
        check: denial.map(|denial| denial.origin.name()),
        status: denial.map_or(200, |denial| denial.status),
        body: denial.map(|denial| denial.body.as_ref()),
        response_headers: headers(&decision),
        passive: decision.passive,
        excluded: decision.excluded,
        checks: steps.list,
        facts: decision.facts.iter().map(Reason::from).collect(),
        detection: decision.detection.as_deref(),
        log_only: decision.observed.as_deref(),
        exclusions,
        values: if detected { trace.values } else { Vec::new() },
        us,
    })
}

fn headers<'a>(decision: &'a Decision<'_>) -> Vec<(&'a str, &'a str)> {
    let edits: Vec<_> = match &decision.verdict {
        Verdict::Allow => {
            let constant = decision.response_headers.constant.iter().flat_map(|set| &set.edits);
            constant.chain(&decision.response_headers.extra).collect()
        }
        Verdict::Deny(denial) | Verdict::Fail(denial) => denial.headers.iter().collect(),
    };
    edits.into_iter().map(|edit| (edit.name.as_ref(), edit.value.as_ref())).collect()
}

fn print(e: &Explanation<'_>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "request   {}", visible(&e.request))?;
    writeln!(out, "client    {}", e.client)?;
    writeln!(out, "route     {}", e.route.unwrap_or("-"))?;
    match e.check {
        Some(check) => writeln!(out, "decision  {} by {check}: {} {:?}", e.decision, e.status, e.body.unwrap_or(""))?,
        None => writeln!(out, "decision  {}", e.decision)?,
    }
    for (note, holds) in [
        ("passive mode: what would have been refused is only reported", e.passive),
        ("excluded path: only bans, address lists and rate limits apply", e.excluded),
    ] {
        if holds {
            writeln!(out, "note      {note}")?;
        }
    }
    writeln!(out, "time      {:.1} us\n", e.us)?;
    writeln!(out, "{:<22} {:<11} {:>9}", "check", "outcome", "us")?;
    for step in &e.checks {
        let note = step.note.clone().or_else(|| step.status.map(|status| status.to_string())).unwrap_or_default();
        writeln!(out, "{:<22} {:<11} {:>9.1}  {note}", step.check.name(), step.outcome, step.us)?;
    }
    print_values(&e.values, out)?;
    for fact in &e.facts {
        writeln!(out, "\nevent     {} ({}): {}", fact.event, fact.action, visible(fact.reason))?;
    }
    if let Some(found) = e.log_only {
        let categories: Vec<&str> = found.categories.iter().map(|category| category.name()).collect();
        writeln!(out, "log only  {}, rows {}", categories.join(", "), found.rows.join(", "))?;
    }
    if let Some(found) = e.detection {
        let categories: Vec<&str> = found.categories.iter().map(|category| category.name()).collect();
        writeln!(out, "score     {:.2}, categories {}", found.score, categories.join(", "))?;
    }
    if !e.exclusions.is_empty() {
        writeln!(out, "\nif this is no attack: with this in the configuration (or the entries under the route's own")?;
        writeln!(out, "`exclusions`) detection lets it pass, and nothing else\n\n{}", narrow::yaml(&e.exclusions))?;
    }
    if !e.response_headers.is_empty() {
        writeln!(out, "\nheaders set on the response")?;
    }
    for (name, value) in &e.response_headers {
        writeln!(out, "  {name}: {value}")?;
    }
    Ok(())
}

fn print_values(values: &[Value], out: &mut impl Write) -> io::Result<()> {
    if !values.is_empty() {
        writeln!(out, "\nvalues looked at, in order; views are shown where they differ")?;
    }
    for value in values {
        writeln!(out, "  {:<28} {}", value.context, visible(&value.text))?;
        for (view, text) in &value.views {
            writeln!(out, "    {:<26} {}", view.name(), visible(text))?;
        }
        for hit in &value.hits {
            let verdict = if hit.matched { "match" } else { "refused by its second look" };
            writeln!(
                out,
                "    {} {} ({}, {}, weight {}): {}",
                hit.row,
                verdict,
                hit.category,
                hit.view.name(),
                hit.weight,
                visible(&hit.text)
            )?;
            if !hit.about.is_empty() {
                writeln!(out, "      {}", hit.about)?;
            }
        }
        if let (read, most @ 1..) = value.work
            && most < 2 * read
        {
            let end = if value.is_exhausted { ": spent, which is a finding (work_budget_exhausted)" } else { "" };
            writeln!(out, "    second looks read {read} of the {most} bytes that they may read in a request{end}")?;
        }
        if value.would_block {
            writeln!(out, "    => would have been a threat; the policy only logs it")?;
        }
        if value.is_threat || value.is_excluded {
            let verdict = if value.is_threat { "a threat" } else { "excluded by the policy" };
            writeln!(out, "    => {verdict}, score {:.2}", value.score)?;
        }
    }
    Ok(())
}

/// Text that a terminal shows as it is: control characters escaped, long text cut.
fn visible(text: &str) -> String {
    const SHOWN: usize = 200;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown.replace("\\\"", "\"").replace("\\'", "'")
}

fn micros(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e7).round() / 10.0
}
