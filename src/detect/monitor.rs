//! How long rows and scans take, and which of them stand out. Fed by the edge, which has the clock; bounded everywhere.

use std::collections::VecDeque;

use hashbrown::HashMap;
use serde::Serialize;

use crate::config::security::SecurityConfig;
use crate::model::event::EventType;
use crate::model::time::Timestamp;

/// Code points of a name that are kept.
const NAME_MAX: usize = 100;
/// Code points of a name that are shown.
const SHOWN_MAX: usize = 50;
/// What a cut name ends with.
const CUT: &str = "...";
/// Times kept of one name at least.
const WINDOW_MIN: usize = 100;
/// Names in the list of slow ones.
const SLOW_MAX: usize = 10;
/// Share of runs out of time above which a name is a problem.
const TIMEOUT_RATE_MAX: f64 = 0.1;

/// One run of a row's second look, of one scan, or of a whole detection.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Row id, or the name of what was scanned with.
    pub name: &'a str,
    /// How long it took.
    pub seconds: f64,
    /// It matched.
    pub matched: bool,
    /// It was cut off.
    pub timed_out: bool,
}

/// Something stands out.
#[derive(Clone, Debug, PartialEq)]
pub struct Anomaly {
    /// Of what.
    pub name: String,
    /// In which way.
    pub kind: AnomalyKind,
    /// How long it took.
    pub seconds: f64,
    /// Worth an event: none was sent for this name within the cooldown.
    pub is_due: bool,
}

/// In which way something stands out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AnomalyKind {
    /// It was cut off.
    Timeout,
    /// It took longer than the threshold.
    SlowExecution,
    /// It took much longer than it usually does.
    StatisticalAnomaly(Outlier),
}

/// How far something lies from what is usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlier {
    /// Standard deviations above the mean.
    pub z_score: f64,
    /// The mean in seconds, this run included.
    pub mean: f64,
    /// The standard deviation in seconds, this run included.
    pub deviation: f64,
}

impl AnomalyKind {
    /// guard-core's event type.
    #[must_use]
    pub const fn event(self) -> EventType {
        match self {
            Self::Timeout => EventType::PatternAnomalyTimeout,
            Self::SlowExecution => EventType::PatternAnomalySlowExecution,
            Self::StatisticalAnomaly(_) => EventType::PatternAnomalyStatisticalAnomaly,
        }
    }
}

/// What all runs together look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Runs in the history.
    pub total_executions: usize,
    /// Mean time in seconds, runs out of time left out.
    pub avg_execution_time: f64,
    /// Longest time in seconds.
    pub max_execution_time: f64,
    /// Shortest time in seconds.
    pub min_execution_time: f64,
    /// Share of runs out of time.
    pub timeout_rate: f64,
    /// Share of runs that matched.
    pub match_rate: f64,
    /// Names known.
    pub total_patterns: usize,
}

/// What the runs of one name look like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PatternStats {
    /// The name, cut to 50 code points.
    pub pattern: String,
    /// All its runs.
    pub executions: u64,
    /// Those that matched.
    pub matches: u64,
    /// Those that were cut off.
    pub timeouts: u64,
    /// Mean time of the last runs in seconds.
    pub avg_execution_time: f64,
    /// Why it is a problem: `high_timeout_rate` or `consistently_slow`.
    pub issue: Option<&'static str>,
}

/// Everything the monitor knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// All runs.
    pub summary: Summary,
    /// The slowest by mean time, at most ten.
    pub slow_patterns: Vec<PatternStats>,
    /// Those that are cut off often, or slow all the time.
    pub problematic_patterns: Vec<PatternStats>,
}

#[derive(Debug, Default)]
struct Tracked {
    executions: u64,
    matches: u64,
    timeouts: u64,
    times: VecDeque<f64>,
    emitted: Option<Timestamp>,
}

impl Tracked {
    fn mean(&self) -> f64 {
        if self.times.is_empty() { 0.0 } else { self.times.iter().sum::<f64>() / self.times.len() as f64 }
    }

    /// How far `seconds` lies above the mean; `None` when there is no deviation.
    fn outlier(&self, seconds: f64) -> Option<Outlier> {
        let mean = self.mean();
        let freedom = self.times.len().checked_sub(1).filter(|freedom| *freedom != 0)? as f64;
        let deviation = (self.times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / freedom).sqrt();
        let z_score = (seconds - mean) / deviation;
        (mean < seconds && 0.0 < deviation).then_some(Outlier { z_score, mean, deviation })
    }

    fn timeout_rate(&self) -> f64 {
        if self.executions == 0 { 0.0 } else { self.timeouts as f64 / self.executions as f64 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Run {
    seconds: f64,
    matched: bool,
    timed_out: bool,
}

/// Keeps the last runs and says which stand out.
#[derive(Debug)]
pub struct Monitor {
    anomaly_threshold: f64,
    slow_threshold: f64,
    history_max: usize,
    tracked_max: usize,
    cooldown: f64,
    samples_min: usize,
    history: VecDeque<Run>,
    tracked: HashMap<String, Tracked>,
    /// Names in the order they came; the oldest goes first when there are too many.
    order: VecDeque<String>,
}

impl Monitor {
    /// With the limits of a policy, held to guard-core's ranges.
    #[must_use]
    pub fn new(security: &SecurityConfig) -> Self {
        let held = |value: u32, low: usize, high: usize| (value as usize).clamp(low, high);
        Self {
            anomaly_threshold: security.detection_anomaly_threshold.clamp(1.0, 10.0),
            slow_threshold: security.detection_slow_pattern_threshold.clamp(0.01, 10.0),
            history_max: held(security.detection_monitor_history_size, 100, 10_000),
            tracked_max: held(security.detection_max_tracked_patterns, 100, 5000),
            cooldown: security.detection_anomaly_emission_cooldown.clamp(1.0, 3600.0),
            samples_min: held(security.detection_min_samples_for_anomaly, 10, 1000),
            history: VecDeque::new(),
            tracked: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// True when both have the same limits.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let limits = |monitor: &Self| {
            let Self { anomaly_threshold, slow_threshold, history_max, tracked_max, cooldown, samples_min, .. } =
                *monitor;
            ([anomaly_threshold, slow_threshold, cooldown], [history_max, tracked_max, samples_min])
        };
        limits(self) == limits(other)
    }

    /// Takes one run in, and says in which ways it stands out.
    pub fn record(&mut self, sample: &Sample<'_>, now: Timestamp) -> Vec<Anomaly> {
        let Sample { seconds, matched, timed_out, .. } = *sample;
        if self.history.len() == self.history_max {
            self.history.pop_front();
        }
        self.history.push_back(Run { seconds, matched, timed_out });
        let (samples_min, cooldown) = (self.samples_min, self.cooldown);
        let (slow, far) = (self.slow_threshold, self.anomaly_threshold);
        let name = cut(sample.name, NAME_MAX);
        let tracked = self.track(&name);
        tracked.executions += 1;
        tracked.matches += u64::from(matched);
        tracked.timeouts += u64::from(timed_out);
        if !timed_out {
            if tracked.times.len() == samples_min.max(WINDOW_MIN) {
                tracked.times.pop_front();
            }
            tracked.times.push_back(seconds);
        }
        let mut kinds = Vec::new();
        if timed_out {
            kinds.push(AnomalyKind::Timeout);
        } else {
            if slow < seconds {
                kinds.push(AnomalyKind::SlowExecution);
            }
            let enough = samples_min <= tracked.times.len();
            let outlier = tracked.outlier(seconds).filter(|outlier| enough && far < outlier.z_score);
            kinds.extend(outlier.map(AnomalyKind::StatisticalAnomaly));
        }
        if kinds.is_empty() {
            return Vec::new();
        }
        let is_due = tracked.emitted.is_none_or(|emitted| cooldown <= now.since(emitted));
        if is_due {
            tracked.emitted = Some(now);
        }
        kinds.into_iter().map(|kind| Anomaly { name: name.clone(), kind, seconds, is_due }).collect()
    }

    fn track(&mut self, name: &str) -> &mut Tracked {
        if !self.tracked.contains_key(name) {
            if self.tracked_max <= self.tracked.len()
                && let Some(oldest) = self.order.pop_front()
            {
                self.tracked.remove(&oldest);
            }
            self.order.push_back(name.to_owned());
        }
        self.tracked.entry(name.to_owned()).or_default()
    }

    /// Forgets a name, as when its pattern is removed.
    pub fn forget(&mut self, name: &str) {
        let name = cut(name, NAME_MAX);
        self.tracked.remove(&name);
        self.order.retain(|known| *known != name);
    }

    /// Everything known, for `get_performance_stats`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut all: Vec<PatternStats> = self.order.iter().filter_map(|name| self.stats_of(name)).collect();
        all.sort_by(|a, b| b.avg_execution_time.total_cmp(&a.avg_execution_time));
        Stats {
            summary: self.summary(),
            slow_patterns: all.iter().take(SLOW_MAX).cloned().collect(),
            problematic_patterns: all.into_iter().filter(|stats| stats.issue.is_some()).collect(),
        }
    }

    fn stats_of(&self, name: &str) -> Option<PatternStats> {
        let tracked = self.tracked.get(name)?;
        let avg_execution_time = tracked.mean();
        let issue = if TIMEOUT_RATE_MAX < tracked.timeout_rate() {
            Some("high_timeout_rate")
        } else {
            (self.slow_threshold < avg_execution_time).then_some("consistently_slow")
        };
        let Tracked { executions, matches, timeouts, .. } = *tracked;
        Some(PatternStats { pattern: cut(name, SHOWN_MAX), executions, matches, timeouts, avg_execution_time, issue })
    }

    fn summary(&self) -> Summary {
        let total = self.history.len();
        if total == 0 {
            return Summary { total_patterns: self.tracked.len(), ..Summary::default() };
        }
        let times = || self.history.iter().filter(|run| !run.timed_out).map(|run| run.seconds);
        let share = |count: usize| count as f64 / total as f64;
        let timed = times().count();
        Summary {
            total_executions: total,
            avg_execution_time: times().sum::<f64>() / timed.max(1) as f64,
            max_execution_time: times().fold(0.0, f64::max),
            min_execution_time: times().reduce(f64::min).unwrap_or(0.0),
            timeout_rate: share(total - timed),
            match_rate: share(self.history.iter().filter(|run| run.matched).count()),
            total_patterns: self.tracked.len(),
        }
    }
}

fn cut(name: &str, max: usize) -> String {
    match name.char_indices().nth(max) {
        Some((end, _)) => format!("{}{CUT}", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(monitor: &mut Monitor, name: &str, seconds: f64, now: f64) -> Vec<(AnomalyKind, bool)> {
        let sample = Sample { name, seconds, matched: true, timed_out: false };
        monitor.record(&sample, Timestamp(now)).into_iter().map(|anomaly| (anomaly.kind, anomaly.is_due)).collect()
    }

    #[test]
    fn slow_runs_stand_out_and_are_due_once_per_cooldown() {
        let mut monitor = Monitor::new(&SecurityConfig::default());
        assert_eq!(run(&mut monitor, "a", 0.1, 0.0), []);
        assert_eq!(run(&mut monitor, "a", 0.11, 0.0), [(AnomalyKind::SlowExecution, true)]);
        assert_eq!(run(&mut monitor, "a", 0.11, 59.0), [(AnomalyKind::SlowExecution, false)]);
        assert_eq!(run(&mut monitor, "b", 0.11, 59.0), [(AnomalyKind::SlowExecution, true)]);
        assert_eq!(run(&mut monitor, "a", 0.11, 60.0), [(AnomalyKind::SlowExecution, true)]);
        let late = Sample { name: "c", seconds: 2.0, matched: false, timed_out: true };
        assert!(monitor.record(&late, Timestamp(0.0)).iter().all(|anomaly| anomaly.kind == AnomalyKind::Timeout));
        let stats = monitor.stats();
        assert_eq!(
            stats.problematic_patterns.iter().filter_map(|stats| stats.issue).collect::<Vec<_>>(),
            ["consistently_slow", "consistently_slow", "high_timeout_rate"]
        );
        assert_eq!((stats.summary.total_executions, stats.summary.total_patterns), (6, 3));
    }

    #[test]
    fn outliers_need_enough_samples() {
        let mut monitor = Monitor::new(&SecurityConfig::default());
        for index in 0..28 {
            assert_eq!(run(&mut monitor, "a", 0.001 + f64::from(index % 2) * 0.0001, 0.0), []);
        }
        assert_eq!(run(&mut monitor, "a", 0.01, 0.0), [], "29 samples are too few");
        let found = run(&mut monitor, "a", 0.05, 0.0);
        assert!(
            matches!(found.as_slice(), [(AnomalyKind::StatisticalAnomaly(Outlier { z_score, .. }), true)] if 3.0 < *z_score && *z_score < 5.3),
            "{found:?}"
        );
    }

    #[test]
    fn everything_is_bounded() {
        let mut monitor = Monitor::new(&SecurityConfig {
            detection_max_tracked_patterns: 100,
            detection_monitor_history_size: 100,
            ..SecurityConfig::default()
        });
        for index in 0..300 {
            run(&mut monitor, &format!("{index}{}", "x".repeat(200)), 0.001, 0.0);
        }
        assert_eq!((monitor.tracked.len(), monitor.order.len(), monitor.history.len()), (100, 100, 100));
        assert!(monitor.stats().slow_patterns.iter().all(|stats| stats.pattern.len() == SHOWN_MAX + CUT.len()));
        let name = format!("299{}", "x".repeat(200));
        monitor.forget(&name);
        assert_eq!(monitor.tracked.len(), 99);
    }
}
