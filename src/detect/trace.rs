//! What `explain` shows: every value of a request, its views, and every row that had a candidate in one.

use std::ops::Range;

use serde::Serialize;

use crate::detect::confirm::Candidate;
use crate::detect::detector::Watch;
use crate::detect::rows::Row;
use crate::detect::semantic::Analysis;
use crate::detect::view::Views;
use crate::detect::work::Work;
use crate::detect::{Context, Threat, View};

/// Bytes of a text that a trace keeps.
const TEXT_MAX: usize = 4096;

/// Everything one inspection looked at, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trace {
    /// The values, up to the first hostile one.
    pub values: Vec<Value>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Value {
    /// guard-core's text form of its place.
    pub context: String,
    /// As extracted, cut to 4 KiB.
    pub text: String,
    /// The views that differ from the one before, cut to 4 KiB.
    pub views: Vec<(View, String)>,
    /// Rows with a candidate, in the order judged.
    pub hits: Vec<Hit>,
    /// What second looks at this value read, in bytes weighed by their cost, and how much they may read in the whole
    /// request; 0 when there was none.
    pub work: (usize, usize),
    /// More was needed than second looks may read: a finding.
    pub is_exhausted: bool,
    /// What the semantic analyser measured, when it found a threat.
    pub semantic: Option<Box<Analysis>>,
    /// Score of what counts.
    pub score: f64,
    /// The verdict on this value.
    pub is_threat: bool,
    /// Exclusions let all of it pass.
    pub is_excluded: bool,
    /// What is only logged would have made it a threat.
    pub would_block: bool,
}

/// A row with a candidate in a view.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Row id.
    pub row: String,
    /// What the row looks for.
    pub about: String,
    /// Category name.
    pub category: &'static str,
    /// In which view.
    pub view: View,
    /// It is a finding; false when the second look refused it.
    pub matched: bool,
    /// The confirmed span in bytes of that view, of what a row found.
    pub span: Option<Range<usize>>,
    /// The text of the span, cut as in a threat; up to the candidate's end when it was refused.
    pub text: String,
    /// What it counts.
    pub weight: f64,
}

impl Hit {
    /// Of what has no row. The span is that of the text shown.
    fn of(threat: &Threat) -> Self {
        Self {
            row: threat.row.clone().into_owned(),
            about: String::new(),
            category: threat.category.name(),
            view: threat.view,
            matched: true,
            span: None,
            text: threat.matched.clone(),
            weight: threat.weight,
        }
    }
}

impl Trace {
    /// Notes the verdict on the last value.
    pub(super) fn judged(&mut self, score: f64, is_threat: bool, is_excluded: bool) {
        if let Some(value) = self.values.last_mut() {
            (value.score, value.is_threat, value.is_excluded) = (score, is_threat, is_excluded);
        }
    }

    /// Notes that the last value was spared because what was found in it is only logged.
    pub(super) fn spared(&mut self) {
        if let Some(value) = self.values.last_mut() {
            value.would_block = true;
        }
    }
}

impl Value {
    fn new(context: &Context<'_>, text: &str) -> Self {
        Self {
            context: context.to_string(),
            text: cut(text),
            views: Vec::new(),
            hits: Vec::new(),
            work: (0, 0),
            is_exhausted: false,
            semantic: None,
            score: 0.0,
            is_threat: false,
            is_excluded: false,
            would_block: false,
        }
    }

    /// A finding of the walk itself.
    pub(super) fn of_threat(context: &Context<'_>, threat: &Threat) -> Self {
        Self { hits: vec![Hit::of(threat)], ..Self::new(context, &threat.matched) }
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or(text).to_owned()
}

/// Writes down the candidates of one value.
pub(super) struct Tracer(Value);

impl Tracer {
    pub(super) fn new(context: &Context<'_>, views: &Views<'_>) -> Self {
        let mut value = Value::new(context, views.content());
        let changed = View::ALL.into_iter().filter(|view| !views.is_same(*view));
        value.views = changed.map(|view| (view, cut(views.text(view)))).collect();
        Self(value)
    }

    /// Notes what was found without a row.
    pub(super) fn found(&mut self, threat: &Threat) {
        self.0.hits.push(Hit::of(threat));
    }

    pub(super) fn into_value(mut self, semantic: Option<Box<Analysis>>) -> Value {
        self.0.semantic = semantic;
        self.0
    }
}

impl Watch for Tracer {
    fn explains(&self) -> bool {
        true
    }

    fn worked(&mut self, work: &Work, before: usize) {
        let (spent, most) = work.share();
        (self.0.work, self.0.is_exhausted) = ((spent - before, most), work.is_spent());
    }

    fn hit(&mut self, row: &Row, candidate: &Candidate<'_>, confirmed: Option<&Range<usize>>) {
        let seen = confirmed.cloned().unwrap_or(0..candidate.end);
        let text = candidate.text.get(seen).map(Threat::excerpt).unwrap_or_default();
        self.0.hits.push(Hit {
            row: row.id.clone(),
            about: row.about.clone(),
            category: row.category.name(),
            view: candidate.view,
            matched: confirmed.is_some(),
            span: confirmed.cloned(),
            text: text.to_owned(),
            weight: row.weight,
        });
    }
}
