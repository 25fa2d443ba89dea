//! Counts and measures in the Prometheus text format.
//!
//! Each worker thread counts in a [`Shard`] of its own: one thread writes, so a count is a load and a store without a
//! bus lock, and nothing is allocated or looked up. A scrape adds the shards up. Labels come from enums only.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::model::category::Category;
use crate::model::check::Check;
use crate::model::decision::Origin;
use crate::model::event::EventType;
use crate::model::stage::Stage;
use crate::telemetry::families::{Family, Kind, Point, Value};

/// What a decision counts as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The request went on.
    Allow,
    /// It was refused.
    Deny,
    /// It could not be decided.
    Fail,
    /// It would have been refused if the policy were not passive, or did not only log what was found.
    Report,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Allow, Self::Deny, Self::Fail, Self::Report];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Fail => "fail",
            Self::Report => "report",
        }
    }
}

/// How a stream of ext_proc ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamEnd {
    /// Every part was answered.
    Answered,
    /// We answered instead of the upstream.
    Refused,
    /// Our failure was the answer.
    Failed,
    /// The peer went away.
    Broken,
    /// Nothing came for too long.
    Idle,
}

impl StreamEnd {
    const ALL: [Self; 5] = [Self::Answered, Self::Refused, Self::Failed, Self::Broken, Self::Idle];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Broken => "broken",
            Self::Idle => "idle",
        }
    }
}

/// Upper bounds of the histograms, in microseconds.
const BOUNDS_US: [u64; 17] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

/// Upper bounds of how long requests are slowed down, in microseconds: between what a person notices and the longest delay.
const DELAYS_US: [u64; 8] = [25_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// One request in so many has the time of its checks measured: reading the clock costs more than most checks.
pub const SAMPLE_EVERY: u32 = 16;

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    /// Adds. Only the shard's own thread may call it: no other write can come between.
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one worker thread.
#[derive(Debug)]
pub struct Shard {
    /// By origin (the row of `None` is the last one), then by outcome.
    decisions: Vec<[Count; 4]>,
    events: Vec<Count>,
    threats: Vec<Count>,
    streams: [Count; StreamEnd::ALL.len()],
    observed: Vec<Count>,
    latency: Histogram,
    /// How long requests were slowed down.
    delays: Histogram,
    /// Requests that were to be slowed down and found no room to wait.
    delays_refused: Count,
    /// By check.
    checks: Vec<Histogram>,
    /// By part of a detection.
    stages: Vec<Histogram>,
    /// Requests seen by [`Shard::samples`].
    seen: Count,
}

/// Durations by size.
#[derive(Debug)]
struct Histogram {
    /// Upper bounds in microseconds, in order.
    bounds: &'static [u64],
    /// One for each bound, and one for what is above all.
    buckets: Box<[Count]>,
    total_ns: Count,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::within(&BOUNDS_US)
    }
}

impl Histogram {
    fn within(bounds: &'static [u64]) -> Self {
        let buckets = std::iter::repeat_with(Count::default).take(bounds.len() + 1).collect();
        Self { bounds, buckets, total_ns: Count::default() }
    }

    fn add(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(self.bounds.partition_point(|bound| bound.saturating_mul(1000) < ns)) {
            bucket.add(1);
        }
        self.total_ns.add(ns);
    }

    fn count(&self) -> u64 {
        self.buckets.iter().map(Count::get).sum()
    }
}

impl Default for Shard {
    fn default() -> Self {
        let counts = |length: usize| std::iter::repeat_with(Count::default).take(length).collect();
        Self {
            decisions: std::iter::repeat_with(Default::default).take(origins().count()).collect(),
            events: counts(EventType::ALL.len()),
            threats: counts(Category::COUNT),
            streams: Default::default(),
            observed: counts(Category::COUNT),
            latency: Histogram::default(),
            delays: Histogram::within(&DELAYS_US),
            delays_refused: Count::default(),
            checks: Check::ALL.iter().map(|_| Histogram::default()).collect(),
            stages: Stage::ALL.iter().map(|_| Histogram::default()).collect(),
            seen: Count::default(),
        }
    }
}

impl Shard {
    /// Counts a decision and the time it took.
    pub fn decided(&self, outcome: Outcome, origin: Option<Origin>, took: Duration) {
        self.count(outcome, origin);
        self.latency.add(took);
    }

    /// Counts a request that is slowed down by so much.
    pub fn delayed(&self, by: Duration) {
        self.delays.add(by);
    }

    /// Counts a request that was to be slowed down and is refused, because too many wait.
    pub fn delay_refused(&self) {
        self.delays_refused.add(1);
    }

    /// Counts a stream that ended.
    pub fn stream_ended(&self, end: StreamEnd) {
        if let Some(count) = self.streams.get(end as usize) {
            count.add(1);
        }
    }

    /// True for one request in [`SAMPLE_EVERY`]: the one whose checks are to be measured.
    pub fn samples(&self) -> bool {
        self.seen.add(1);
        self.seen.get() % u64::from(SAMPLE_EVERY) == 1
    }

    /// Notes how long a check of a sampled request took.
    pub fn checked(&self, check: Check, took: Duration) {
        if let Some(histogram) = self.checks.get(check as usize) {
            histogram.add(took);
        }
    }

    /// Notes how long a part of a sampled detection took.
    pub fn detected(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
            histogram.add(took);
        }
    }

    /// Counts a decision that took no time worth measuring.
    pub fn count(&self, outcome: Outcome, origin: Option<Origin>) {
        if let Some(count) = self.decisions.get(row(origin)).and_then(|row| row.get(outcome as usize)) {
            count.add(1);
        }
    }

    /// Counts an event.
    pub fn event(&self, event: EventType) {
        if let Some(count) = self.events.get(event as usize) {
            count.add(1);
        }
    }

    /// Counts a finding of a category that is only logged.
    pub fn observed(&self, category: Category) {
        if let Some(count) = self.observed.get(category.index()) {
            count.add(1);
        }
    }

    /// Counts a threat of a category.
    pub fn threat(&self, category: Category) {
        if let Some(count) = self.threats.get(category.index()) {
            count.add(1);
        }
    }
}

/// The rows of the decision table, in order.
fn origins() -> impl Iterator<Item = Option<Origin>> {
    let around = [
        Origin::ClientAddress,
        Origin::CorsPreflight,
        Origin::CspReport,
        Origin::Behavior,
        Origin::ResponseRule,
        Origin::NotReady,
        Origin::Unreadable,
        Origin::Internal,
    ];
    Check::ALL.iter().map(|check| Origin::Check(*check)).chain(around).map(Some).chain([None])
}

/// The row of an origin.
const fn row(origin: Option<Origin>) -> usize {
    let checks = Check::ALL.len();
    match origin {
        Some(Origin::Check(check)) => check as usize,
        Some(Origin::ClientAddress) => checks,
        Some(Origin::CorsPreflight) => checks + 1,
        Some(Origin::CspReport) => checks + 2,
        Some(Origin::Behavior) => checks + 3,
        Some(Origin::ResponseRule) => checks + 4,
        Some(Origin::NotReady) => checks + 5,
        Some(Origin::Unreadable) => checks + 6,
        Some(Origin::Internal) => checks + 7,
        None => checks + 8,
    }
}

/// What was decided, all together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Requests that went on.
    pub passed: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that could not be decided.
    pub failed: u64,
}

/// A number that another room knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Metric name without the prefix and without `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// It only grows.
    pub is_counter: bool,
    /// At most one label.
    pub label: Option<(&'static str, String)>,
    /// The number.
    pub value: u64,
}

type Source = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    table: Arc<Table>,
}

#[derive(Default)]
struct Table {
    shards: Mutex<Vec<Arc<Shard>>>,
    sources: Mutex<Vec<Source>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

impl Metrics {
    /// No counts yet. `version` is the build's.
    #[must_use]
    pub fn new(version: &'static str) -> Self {
        let table = Arc::new(Table::default());
        let mut registry = Registry::with_prefix("envoy_guard");
        registry.register("build", "The build that runs", Info::new([("version", version)]));
        registry.register_collector(Box::new(Arc::clone(&table)));
        Self { registry, table }
    }

    /// A shard for one more thread.
    #[must_use]
    pub fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        self.table.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shard));
        shard
    }

    /// Everything that is counted.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        self.table.families()
    }

    /// What all threads decided so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let shards = self.table.shards.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rows = || shards.iter().flat_map(|shard| &shard.decisions);
        let of = |outcome: Outcome| rows().filter_map(|row| row.get(outcome as usize)).map(Count::get).sum::<u64>();
        Totals {
            passed: of(Outcome::Allow) + of(Outcome::Report),
            refused: of(Outcome::Deny),
            failed: of(Outcome::Fail),
        }
    }

    /// Adds numbers that are read at each scrape.
    pub fn source(&self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        self.table.sources.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// The text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only when an encoder does; what was written until then is still true.
        if encode(&mut text, &self.registry).is_err() {
            text.push_str("# incomplete\n");
        }
        text
    }
}

impl Collector for Table {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.families().iter().try_for_each(|family| written(&mut encoder, family))
    }
}

/// Writes one family in the text format.
fn written(encoder: &mut DescriptorEncoder<'_>, family: &Family) -> fmt::Result {
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    let mut encoder = encoder.encode_descriptor(family.name, family.help, None, kind)?;
    for point in &family.points {
        let labels: Vec<(&str, &str)> = point.labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
        match (&point.value, family.kind) {
            (Value::Count(count), Kind::Gauge) => {
                let gauge = ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX));
                gauge.encode(encoder.encode_family(&labels)?)?;
            }
            (Value::Count(count), Kind::Counter | Kind::Histogram) => {
                ConstCounter::new(*count).encode(encoder.encode_family(&labels)?)?;
            }
            (Value::Histogram { seconds, buckets }, _) => {
                let count = buckets.iter().map(|(_, count)| count).sum();
                // An empty set of labels would show as `{}`.
                if labels.is_empty() {
                    encoder.encode_histogram::<NoLabelSet>(*seconds, count, buckets, None)?;
                } else {
                    encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(*seconds, count, buckets, None)?;
                }
            }
        }
    }
    Ok(())
}

type Sum<'a> = dyn Fn(&dyn Fn(&Shard) -> Option<u64>) -> u64 + 'a;

impl Table {
    /// Everything that is counted, all threads together.
    fn families(&self) -> Vec<Family> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sum = |pick: &dyn Fn(&Shard) -> Option<u64>| shards.iter().filter_map(|shard| pick(shard)).sum::<u64>();
        let categories = || (0..Category::COUNT).filter_map(Category::at);
        let mut families = vec![
            decisions(&sum),
            Family::counters(
                ("events", "Security events by type"),
                "event",
                EventType::ALL
                    .iter()
                    .map(|event| (event.name(), sum(&|shard| shard.events.get(*event as usize).map(Count::get)))),
            ),
            Family::counters(
                ("threats", "Hostile values by category"),
                "category",
                categories().map(|kind| (kind.name(), sum(&|shard| shard.threats.get(kind.index()).map(Count::get)))),
            ),
            Family::counters(
                ("streams", "Streams of ext_proc by how they ended"),
                "end",
                StreamEnd::ALL
                    .iter()
                    .map(|end| (end.name(), sum(&|shard| shard.streams.get(*end as usize).map(Count::get)))),
            ),
            Family::counters(
                ("threats_log_only", "Findings by category that the policy only logs"),
                "category",
                categories().map(|kind| (kind.name(), sum(&|shard| shard.observed.get(kind.index()).map(Count::get)))),
            ),
            Family::histograms(
                ("decision_seconds", "Time from a whole question to its answer"),
                vec![durations((Vec::new(), &BOUNDS_US), &sum, &|shard| Some(&shard.latency))],
            ),
            Family::counters(
                ("delays", "Requests that a behaviour rule slows down, by whether there was room to wait"),
                "end",
                [
                    ("delayed", sum(&|shard| Some(shard.delays.count()))),
                    ("refused", sum(&|shard| Some(shard.delays_refused.get()))),
                ]
                .into_iter(),
            ),
            Family::histograms(
                ("delay_seconds", "How long requests were slowed down"),
                vec![durations((Vec::new(), &DELAYS_US), &sum, &|shard| Some(&shard.delays))],
            ),
            Family::histograms(
                ("check_seconds", "Time of each check, of one request in 16; suspicious_activity is detection"),
                Check::ALL
                    .iter()
                    .map(|check| {
                        let labels = vec![("check", check.name().to_owned())];
                        durations((labels, &BOUNDS_US), &sum, &|shard| shard.checks.get(*check as usize))
                    })
                    .collect(),
            ),
            Family::histograms(
                ("detection_stage_seconds", "Time of each part of a detection, of one request in 16"),
                Stage::ALL
                    .iter()
                    .map(|stage| {
                        let labels = vec![("stage", stage.name().to_owned())];
                        durations((labels, &BOUNDS_US), &sum, &|shard| shard.stages.get(*stage as usize))
                    })
                    .collect(),
            ),
        ];
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let samples: Vec<Sample> = sources.iter().flat_map(|source| source()).collect();
        drop(sources);
        families.extend(samples.chunk_by(|a, b| a.name == b.name).filter_map(foreign));
        families
    }
}

/// Rows that never counted anything are left out, except the plain allow.
fn decisions(sum: &Sum<'_>) -> Family {
    let mut points = Vec::new();
    for (row, origin) in origins().enumerate() {
        for outcome in Outcome::ALL {
            let cell = |shard: &Shard| shard.decisions.get(row)?.get(outcome as usize).map(Count::get);
            let count = sum(&cell);
            if count == 0 && (origin.is_some() || outcome != Outcome::Allow) {
                continue;
            }
            let check = origin.map_or("none", Origin::name).to_owned();
            let labels = vec![("check", check), ("verdict", outcome.name().to_owned())];
            points.push(Point { labels, value: Value::Count(count) });
        }
    }
    Family { name: "decisions", help: "Decisions by check and verdict", kind: Kind::Counter, points }
}

fn durations(
    (labels, bounds): (Vec<(&'static str, String)>, &[u64]),
    sum: &Sum<'_>,
    pick: &dyn Fn(&Shard) -> Option<&Histogram>,
) -> Point {
    let bounds = bounds.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    let bucket = |index: usize| sum(&|shard| pick(shard)?.buckets.get(index).map(Count::get));
    let buckets = bounds.enumerate().map(|(index, bound)| (bound, bucket(index))).collect();
    let seconds = sum(&|shard| Some(pick(shard)?.total_ns.get())) as f64 / 1e9;
    Point { labels, value: Value::Histogram { seconds, buckets } }
}

/// Samples of one name.
fn foreign(samples: &[Sample]) -> Option<Family> {
    let first = samples.first()?;
    let point = |sample: &Sample| Point {
        labels: sample.label.iter().map(|(key, value)| (*key, value.clone())).collect(),
        value: Value::Count(sample.value),
    };
    let kind = if first.is_counter { Kind::Counter } else { Kind::Gauge };
    Some(Family { name: first.name, help: first.help, kind, points: samples.iter().map(point).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn value(text: &str, series: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    #[test]
    fn shards_add_up_under_the_labels_of_the_enums() {
        let metrics = Metrics::new("1.2.3");
        let (one, two) = (metrics.shard(), metrics.shard());
        let check = Some(Origin::Check(Check::RateLimit));
        one.decided(Outcome::Allow, None, Duration::from_micros(10));
        two.decided(Outcome::Allow, None, Duration::from_micros(11));
        two.decided(Outcome::Deny, check, Duration::from_secs(5));
        one.count(Outcome::Fail, Some(Origin::Internal));
        one.event(EventType::RateLimited);
        two.threat(Category::SQLI);
        one.checked(Check::SuspiciousActivity, Duration::from_nanos(900));
        two.detected(Stage::Scan, Duration::from_nanos(900));
        two.observed(Category::XSS);
        one.delayed(Duration::from_millis(1200));
        two.delayed(Duration::from_secs(10));
        two.delay_refused();
        metrics.source(|| {
            let label = |value: &str| Some(("family", value.to_owned()));
            let sample = Sample { name: "state", help: "Entries", is_counter: false, label: label("bans"), value: 7 };
            vec![sample.clone(), Sample { label: label("windows"), value: 8, ..sample }]
        });
        let text = metrics.text();
        for (series, expected) in [
            ("envoy_guard_decisions_total{check=\"none\",verdict=\"allow\"}", 2.0),
            ("envoy_guard_decisions_total{check=\"rate_limit\",verdict=\"deny\"}", 1.0),
            ("envoy_guard_decisions_total{check=\"internal\",verdict=\"fail\"}", 1.0),
            ("envoy_guard_events_total{event=\"rate_limited\"}", 1.0),
            ("envoy_guard_threats_total{category=\"sqli\"}", 1.0),
            ("envoy_guard_decision_seconds_count", 3.0),
            ("envoy_guard_decision_seconds_bucket{le=\"0.00001\"}", 1.0),
            ("envoy_guard_decision_seconds_bucket{le=\"0.000025\"}", 2.0),
            ("envoy_guard_decision_seconds_bucket{le=\"1.0\"}", 2.0),
            ("envoy_guard_decision_seconds_bucket{le=\"+Inf\"}", 3.0),
            ("envoy_guard_check_seconds_bucket{le=\"0.000001\",check=\"suspicious_activity\"}", 1.0),
            ("envoy_guard_detection_stage_seconds_bucket{le=\"0.000001\",stage=\"scan\"}", 1.0),
            ("envoy_guard_threats_log_only_total{category=\"xss\"}", 1.0),
            ("envoy_guard_delays_total{end=\"delayed\"}", 2.0),
            ("envoy_guard_delays_total{end=\"refused\"}", 1.0),
            ("envoy_guard_delay_seconds_bucket{le=\"1.0\"}", 0.0),
            ("envoy_guard_delay_seconds_bucket{le=\"2.5\"}", 1.0),
            ("envoy_guard_delay_seconds_bucket{le=\"10.0\"}", 2.0),
            ("envoy_guard_delay_seconds_sum", 11.2),
            ("envoy_guard_build_info{version=\"1.2.3\"}", 1.0),
            ("envoy_guard_state{family=\"bans\"}", 7.0),
            ("envoy_guard_state{family=\"windows\"}", 8.0),
        ] {
            assert_eq!(value(&text, series), Some(expected), "{series}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "complete");
        assert!(!text.contains("user_agent\",verdict"), "rows without a count are left out");
    }

    #[test]
    fn every_origin_has_its_own_row() {
        for (expected, origin) in origins().enumerate() {
            assert_eq!(row(origin), expected, "{origin:?}");
        }
    }

    #[test]
    fn one_request_in_sixteen_is_measured() {
        let shard = Shard::default();
        let sampled = (0..160).filter(|_| shard.samples()).count();
        assert_eq!(sampled, 10);
    }
}
