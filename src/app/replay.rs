//! `envoy-guard replay`: decides a file of requests and prints one JSON object a line, in the order of the file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::app::Source;
use crate::app::build::{Refusal, build};
use crate::app::input::{INPUT_BYTES_MAX, Input};
use crate::clock;
use crate::detect::{Detection, Detector, Scope, Unmetered};
use crate::engine;
use crate::live::Snapshot;
use crate::model::category::Category;
use crate::model::decision::{Decision, Verdict};
use crate::state::memory::Memory;

/// Requests read, decided and printed together.
const BATCH: usize = 2048;

/// What `replay` takes.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    source: Source,
    /// Run the detector alone: no lists, bans or limits.
    #[arg(long)]
    detection_only: bool,
    /// File with one request a line; `-` reads standard input.
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
}

impl ReplayArgs {
    /// Replays the file to standard output; the totals go to standard error.
    pub fn run(&self) -> Result<(), ReplayError> {
        let replay = Replay { snapshot: build(&self.source.clone().into())?, detection_only: self.detection_only };
        let output = BufWriter::new(std::io::stdout().lock());
        let totals = if self.input.as_os_str() == "-" {
            replay.run(std::io::stdin().lock(), output, 0)?
        } else {
            let unreadable = |error| ReplayError::Input(format!("{}: {error}", self.input.display()));
            let file = std::fs::File::open(&self.input).map_err(unreadable)?;
            let bytes = file.metadata().map_or(0, |data| data.len());
            replay.run(BufReader::new(file), output, bytes)?
        };
        let mean = totals.us / (totals.requests.max(1) as f64);
        let Totals { requests, blocked, .. } = totals;
        // Nobody to tell is no failure.
        drop(writeln!(std::io::stderr(), "{requests} requests, {blocked} blocked, {mean:.1} us engine time each"));
        Ok(())
    }
}

/// What is replayed against what.
struct Replay {
    snapshot: Snapshot,
    detection_only: bool,
}

/// One line of output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    id: &'a str,
    blocked: bool,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "<[Category]>::is_empty")]
    categories: &'a [Category],
    score: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<&'a str>,
    /// Engine time only, in microseconds.
    us: f64,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] Refusal),
    /// The requests cannot be read; names the line.
    #[error("{0}")]
    Input(String),
    /// The verdicts cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

impl Replay {
    /// Reads requests from `input` and writes verdicts to `output`. `bytes` is the input's size, for the progress bar.
    fn run(&self, mut input: impl BufRead, mut output: impl Write, bytes: u64) -> Result<Totals, ReplayError> {
        let state = Memory::new(usize::try_from(self.snapshot.config.limits.memory_clients).unwrap_or(usize::MAX));
        let bar = progress(bytes);
        let mut totals = Totals::default();
        loop {
            let (batch, read) = read_batch(&mut input, totals.requests)?;
            if batch.is_empty() {
                break;
            }
            for line in self.decide_all(&batch, &state) {
                totals.count(&line);
                output.write_all(line.json.as_bytes())?;
            }
            bar.inc(read);
        }
        bar.finish_and_clear();
        output.flush()?;
        Ok(totals)
    }

    /// Decides a batch on all cores. Requests of one client stay on one thread, so that their order counts.
    fn decide_all(&self, batch: &[Input], state: &Memory) -> Vec<Verdicts> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut shares: Vec<Vec<usize>> = vec![Vec::new(); threads];
        let mut homes: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for (index, request) in batch.iter().enumerate() {
            let next = homes.len() % threads;
            let home = *homes.entry(request.client).or_insert(next);
            if let Some(share) = shares.get_mut(home) {
                share.push(index);
            }
        }
        let mut lines: Vec<Option<Verdicts>> = batch.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                shares.iter().map(|share| scope.spawn(|| self.decide_share(batch, share, state))).collect();
            for (worker, share) in workers.into_iter().zip(&shares) {
                for (line, index) in worker.join().unwrap_or_default().into_iter().zip(share) {
                    if let Some(slot) = lines.get_mut(*index) {
                        *slot = Some(line);
                    }
                }
            }
        });
        lines.into_iter().flatten().collect()
    }

    fn decide_share(&self, batch: &[Input], share: &[usize], state: &Memory) -> Vec<Verdicts> {
        let requests = share.iter().filter_map(|index| batch.get(*index));
        if self.detection_only {
            let policy = &self.snapshot.policy;
            return requests.map(|input| detect(&policy.detector, policy.global_scope(), input)).collect();
        }
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return Vec::new() };
        requests
            .map(|input| {
                let request = input.view();
                let (now, start) = (clock::now(), clock::instant());
                let decision =
                    runtime.block_on(engine::decide(&self.snapshot.policy, state, &request, now, &Unmetered));
                Verdicts::of_decision(input, &decision, start.elapsed())
            })
            .collect()
    }
}

fn detect(detector: &Detector, scope: &Scope, input: &Input) -> Verdicts {
    let request = input.view();
    let start = clock::instant();
    let found = detector.inspect(&request, scope, &Unmetered);
    Verdicts::of_detection(input, &found, start.elapsed())
}

/// A decided request: its line, and what the totals need.
#[derive(Debug)]
struct Verdicts {
    json: String,
    blocked: bool,
    us: f64,
}

impl Verdicts {
    fn of_detection(input: &Input, found: &Detection, took: Duration) -> Self {
        let finding = found.finding.as_deref();
        Self::render(&Line {
            id: &input.id,
            blocked: finding.is_some(),
            status: if finding.is_some() { 400 } else { 200 },
            check: finding.map(|_| "suspicious_activity"),
            reason: finding.map(|finding| Cow::Borrowed(finding.trigger.as_str())),
            categories: finding.map_or(&[], |finding| &finding.categories),
            score: finding.map_or(0.0, |finding| finding.score),
            rows: finding.map_or_else(Vec::new, |finding| finding.threats.iter().map(|t| t.row.as_ref()).collect()),
            us: micros(took),
        })
    }

    fn of_decision(input: &Input, decision: &Decision<'_>, took: Duration) -> Self {
        let denial = match &decision.verdict {
            Verdict::Allow => None,
            Verdict::Deny(denial) | Verdict::Fail(denial) => Some(denial),
        };
        let detection = decision.detection.as_deref();
        Self::render(&Line {
            id: &input.id,
            blocked: denial.is_some(),
            status: denial.map_or(200, |denial| denial.status),
            check: denial.map(|denial| denial.origin.name()),
            reason: decision.reason(),
            categories: detection.map_or(&[], |found| &found.categories),
            score: detection.map_or(0.0, |found| found.score),
            rows: detection.map_or_else(Vec::new, |found| found.rows.iter().map(AsRef::as_ref).collect()),
            us: micros(took),
        })
    }

    fn render(line: &Line<'_>) -> Self {
        let mut json = serde_json::to_string(line).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        json.push('\n');
        Self { json, blocked: line.blocked, us: line.us }
    }
}

/// What the whole file came to.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    requests: u64,
    blocked: u64,
    /// Engine time in microseconds, over all of them.
    us: f64,
}

impl Totals {
    fn count(&mut self, line: &Verdicts) {
        self.requests += 1;
        self.blocked += u64::from(line.blocked);
        self.us += line.us;
    }
}

/// Reads up to a batch of lines; empty lines are skipped, a bad one ends the replay with its number.
fn read_batch(input: &mut impl BufRead, before: u64) -> Result<(Vec<Input>, u64), ReplayError> {
    let (mut batch, mut read, mut line) = (Vec::new(), 0, Vec::new());
    while batch.len() < BATCH {
        line.clear();
        let limit = INPUT_BYTES_MAX as u64 + 2;
        let taken = std::io::Read::take(&mut *input, limit)
            .read_until(b'\n', &mut line)
            .map_err(|error| ReplayError::Input(format!("cannot read: {error}")))?;
        if taken == 0 {
            break;
        }
        read += taken as u64;
        let number = before + batch.len() as u64 + 1;
        let text =
            std::str::from_utf8(&line).map_err(|_| ReplayError::Input(format!("request {number}: not UTF-8")))?;
        if text.trim().is_empty() {
            continue;
        }
        let mut request =
            Input::from_json(text).map_err(|error| ReplayError::Input(format!("request {number}: {error}")))?;
        request.or_stranger(number);
        batch.push(request);
    }
    Ok((batch, read))
}

fn micros(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e7).round() / 10.0
}

fn progress(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() || bytes == 0 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
