//! All numbers of the process as plain data: what the Prometheus page and OTLP both show.

/// What kind of numbers a family holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// They only grow.
    Counter,
    /// They go up and down.
    Gauge,
    /// Durations by size.
    Histogram,
}

/// Numbers of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Without prefix and suffix.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What kind.
    pub kind: Kind,
    /// One for each set of labels.
    pub points: Vec<Point>,
}

/// One number with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Names and values; values come from closed sets.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: Value,
}

/// A number, or many durations.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Count(u64),
    /// Durations.
    Histogram {
        /// Their sum.
        seconds: f64,
        /// Upper bound in seconds and count of each size, not added up; the last bound is infinite.
        buckets: Vec<(f64, u64)>,
    },
}

impl Family {
    /// Counters under one label, those that never counted left out.
    pub(super) fn counters(
        (name, help): (&'static str, &'static str),
        label: &'static str,
        counts: impl Iterator<Item = (&'static str, u64)>,
    ) -> Self {
        let point = |(value, count): (&'static str, u64)| Point {
            labels: vec![(label, value.to_owned())],
            value: Value::Count(count),
        };
        let points = counts.filter(|(_, count)| *count != 0).map(point).collect();
        Self { name, help, kind: Kind::Counter, points }
    }

    /// Histograms, each with its labels.
    pub(super) fn histograms((name, help): (&'static str, &'static str), points: Vec<Point>) -> Self {
        Self { name, help, kind: Kind::Histogram, points }
    }
}
