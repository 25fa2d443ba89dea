//! One request: walks its values and stops at the first hostile one.

use std::ops::{ControlFlow, Range};

use crate::detect::batch::{self, Waiting};
use crate::detect::confirm::Candidate;
use crate::detect::detector::{Look, Watch, budget};
use crate::detect::exclusion::{self, Spot};
use crate::detect::extract;
use crate::detect::recall::{self, Key};
use crate::detect::rows::Row;
use crate::detect::trace::{Trace, Tracer};
use crate::detect::view::Views;
use crate::detect::work::Work;
use crate::detect::{Context, Detection, Detector, Finding, Lens, Meter, Method, Scope, Source, Threat, View, Visit};
use crate::model::category::Category;
use crate::model::stage::Stage;
use crate::request::Request;

/// Bytes of text between two looks at the meter; a value counts [`VALUE_COST`] more than its length.
const METER_INTERVAL: usize = 4096;
/// What a value costs besides its text, in bytes.
const VALUE_COST: usize = 64;

impl Detector {
    /// Looks at one request and stops at the first hostile value. Allocates nothing when the request is clean and holds
    /// nothing to decode.
    #[must_use]
    pub fn inspect(&self, request: &Request<'_>, scope: &Scope, meter: &impl Meter) -> Detection {
        self.inspect_with(request, scope, meter, |visit| extract::walk(request, scope, &self.settings.limits, visit))
    }

    /// Looks at the body alone, for a request whose other parts were looked at before.
    #[must_use]
    pub fn inspect_body(&self, request: &Request<'_>, scope: &Scope, meter: &impl Meter) -> Detection {
        let limits = &self.settings.limits;
        self.inspect_with(request, scope, meter, |visit| extract::walk_body(request, scope, limits, visit))
    }

    /// Walks once with values scanned together. When one of those turns out to hold something, walks again and looks at
    /// each alone: what is found, and in which order, never depends on what was scanned together.
    fn inspect_with<M: Meter>(
        &self,
        request: &Request<'_>,
        scope: &Scope,
        meter: &M,
        walk: impl Fn(&mut dyn Visit) -> ControlFlow<()>,
    ) -> Detection {
        let mut inspector = Inspector::new(self, request, scope, meter);
        meter.enter(Stage::Extract);
        if self.batches() {
            inspector.waiting = Some(Waiting::borrow());
            let ended = walk(&mut inspector);
            let settled = if ended.is_continue() { inspector.settle() } else { ended };
            if let Some(waiting) = inspector.waiting.take() {
                waiting.give_back();
            }
            meter.enter(Stage::Extract);
            if settled.is_continue() || !inspector.is_unsettled {
                return inspector.end();
            }
            inspector = Inspector::new(self, request, scope, meter);
        }
        let _ended = walk(&mut inspector);
        meter.enter(Stage::Extract);
        inspector.end()
    }

    /// [`Detector::inspect`] the slow way, which writes down every value, view and candidate: each value is looked at
    /// alone, through every step of every view, with every row, and nothing is recalled. What is found is the same.
    #[must_use]
    pub fn inspect_traced(&self, request: &Request<'_>, scope: &Scope, meter: &impl Meter) -> (Detection, Trace) {
        let mut inspector = Inspector::new(self, request, scope, meter);
        inspector.trace = Some(Trace::default());
        let _ended = extract::walk(request, scope, &self.settings.limits, &mut inspector);
        (inspector.found, inspector.trace.unwrap_or_default())
    }
}

struct Inspector<'d, M> {
    detector: &'d Detector,
    scope: &'d Scope,
    meter: &'d M,
    path: &'d str,
    unmetered: usize,
    work: Work,
    found: Detection,
    trace: Option<Trace>,
    /// Values that wait to be scanned together; `None` when each is looked at alone.
    waiting: Option<Box<Waiting>>,
    /// Something is in a value that waited: the walk has to be made again.
    is_unsettled: bool,
}

impl<'d, M: Meter> Inspector<'d, M> {
    fn new(detector: &'d Detector, request: &'d Request<'_>, scope: &'d Scope, meter: &'d M) -> Self {
        let path = request.target.path;
        let (found, trace, waiting, is_unsettled) = (Detection::default(), None, None, false);
        let work = Work::of(length(request));
        Self { detector, scope, meter, path, unmetered: 0, work, found, trace, waiting, is_unsettled }
    }

    /// What was found; the meter is told what it took.
    fn end(self) -> Detection {
        let (spent, most) = self.work.share();
        self.meter.worked(spent, most);
        self.found
    }

    /// True for a short value that can be scanned together with others.
    fn may_wait(&self, views: &Views<'_>, lens: &Lens<'_>) -> bool {
        if self.waiting.is_none() || batch::TEXT_MAX < views.text(View::Decoded).len() {
            return false;
        }
        self.meter.enter(Stage::Semantic);
        let is_threat = lens.semantic && self.detector.is_semantic_threat(views);
        self.meter.enter(Stage::Scan);
        !is_threat
    }

    /// Puts a value off, to be scanned together with others.
    fn put_off(&mut self, key: &Key<'_>, views: Views<'_>, look: (&Context<'_>, &Lens<'_>)) -> ControlFlow<()> {
        let (context, lens) = look;
        // Of a changed value, what it means is dear to scan: nearly every row looks at that.
        let view = views.source_of(View::Decoded);
        let Some(waiting) = &mut self.waiting else { return ControlFlow::Continue(()) };
        let look = Look { context, categories: lens.categories, work: &self.work };
        let candidates = |views: &Views<'_>, other| self.detector.candidates(views, other, &look, false);
        let is_full = waiting.add(key, views, view, candidates);
        self.meter.enter(Stage::Extract);
        if is_full { self.settle() } else { ControlFlow::Continue(()) }
    }

    /// Looks at what waits. Breaks when something is found: then all of it is to be looked at again, value by value.
    fn settle(&mut self) -> ControlFlow<()> {
        let Some(mut waiting) = self.waiting.take() else { return ControlFlow::Continue(()) };
        self.meter.enter(Stage::Scan);
        let is_clean = self.is_clean(&mut waiting);
        waiting.clear();
        self.waiting = Some(waiting);
        self.meter.enter(Stage::Extract);
        self.is_unsettled |= !is_clean;
        if is_clean { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn is_clean(&self, waiting: &mut Waiting) -> bool {
        let is_clean = waiting.settle(self.detector, &mut |waited| {
            let look = Look { context: &waited.context, categories: waited.categories, work: &self.work };
            let judge = || self.detector.judged(&waited.views, &look, waited.candidates, &mut Timed(self.meter));
            let (threats, spent) = self.work.spent_by(judge);
            *waited.spent = spent;
            threats.is_empty()
        });
        if let Some(epoch) = self.detector.epoch().filter(|_| is_clean) {
            waiting.keys(epoch).for_each(|(key, spent)| recall::note_clean(&key, spent));
        }
        is_clean
    }

    /// Sorts what was found in a value: excluded, only observed, counted.
    fn weigh(&mut self, context: &Context<'_>, lens: Lens<'_>, mut threats: Vec<Threat>) -> ControlFlow<()> {
        if threats.is_empty() {
            return ControlFlow::Continue(());
        }
        let settings = &self.detector.settings;
        let spot = Spot { path: self.path, context, lens };
        let mut exclusions = settings.exclusions.iter().chain(&self.scope.exclusions);
        threats.retain(|threat| !exclusions.clone().any(|exclusion| exclusion::excludes(exclusion, threat, &spot)));
        let is_excluded = exclusions.next().is_some() && threats.is_empty();
        let is_observed = |threat: &Threat| {
            settings.log_only_categories.contains(threat.category)
                || settings.log_only_rows.iter().any(|row| threat.row == *row)
        };
        let (would_be_threat, whole_score) = self.detector.score(&threats);
        let (observed, counted): (Vec<_>, Vec<_>) = threats.into_iter().partition(is_observed);
        let (is_threat, score) = self.detector.score(&counted);
        if !observed.is_empty() {
            let would_block = would_be_threat && !is_threat;
            if let Some(trace) = self.trace.as_mut().filter(|_| would_block) {
                trace.spared();
            }
            if self.found.observed.len() < Detection::OBSERVED_MAX {
                self.found.observed.push(Finding { would_block, ..finding(context, lens, observed, whole_score) });
            }
        }
        if let Some(trace) = &mut self.trace {
            trace.judged(score, is_threat, is_excluded);
        }
        if !is_threat {
            // Whoever lets spent work pass has the rest of the request looked at.
            self.work.renew();
            return ControlFlow::Continue(());
        }
        self.found.finding = Some(Box::new(finding(context, lens, counted, score)));
        ControlFlow::Break(())
    }

    /// True once the request's time is spent; looks at the clock now and then only.
    fn is_late(&mut self, length: usize) -> bool {
        self.unmetered += length + VALUE_COST;
        if self.unmetered < METER_INTERVAL {
            return false;
        }
        self.unmetered = 0;
        self.meter.is_spent()
    }
}

impl<M: Meter> Visit for Inspector<'_, M> {
    fn value(&mut self, context: &Context<'_>, text: &str, lens: Lens<'_>) -> ControlFlow<()> {
        if self.is_late(text.len()) {
            return self.threat(context, budget("scan_time_budget_exhausted"));
        }
        let detector = self.detector;
        if lens.literal && self.trace.is_none() && !detector.has_custom() {
            return ControlFlow::Continue(());
        }
        // Whoever explains a verdict wants to see how it comes about.
        let key = match &self.trace {
            None => detector.epoch().and_then(|epoch| Key::new(epoch, context, text, &lens)),
            Some(_) => None,
        };
        // What spends the last of the work is looked at once more: what was looked for then is part of the finding.
        let recalled = key.and_then(|key| recall::clean(&key));
        if recalled.is_some_and(|units| self.work.affords(units) && self.work.take(units)) {
            return ControlFlow::Continue(());
        }
        self.meter.enter(Stage::Views);
        let recipe = &detector.settings.recipe;
        let views = if self.trace.is_some() { Views::in_full(text, recipe) } else { Views::new(text, recipe) };
        if let Some(key) = key.filter(|_| self.may_wait(&views, &lens)) {
            return self.put_off(&key, views, (context, &lens));
        }
        self.meter.enter(Stage::Scan);
        let mut tracer = self.trace.is_some().then(|| Tracer::new(context, &views));
        let look = Look { context, categories: lens.categories, work: &self.work };
        let (mut threats, spent) = self.work.spent_by(|| match &mut tracer {
            None => detector.threats(&views, &look, &mut Timed(self.meter)),
            Some(tracer) => detector.threats(&views, &look, tracer),
        });
        let before = threats.len();
        self.meter.enter(Stage::Confirm);
        detector.find_custom(&views, &mut threats);
        if let Some(tracer) = &mut tracer {
            threats.iter().skip(before).for_each(|threat| tracer.found(threat));
        }
        self.meter.enter(Stage::Semantic);
        let is_read = lens.semantic && !self.work.is_spent();
        let analysis = if is_read { detector.semantic(&views, &mut threats, self.trace.is_some()) } else { None };
        self.meter.enter(Stage::Extract);
        if let (Some(trace), Some(tracer)) = (&mut self.trace, tracer) {
            trace.values.push(tracer.into_value(analysis));
        }
        if let Some(key) = key.filter(|_| threats.is_empty()) {
            recall::note_clean(&key, spent);
        }
        if !threats.is_empty() {
            // What came before is told before.
            self.settle()?;
        }
        self.weigh(context, lens, threats)
    }

    fn threat(&mut self, context: &Context<'_>, threat: Threat) -> ControlFlow<()> {
        self.settle()?;
        let place = extract::place::Place::default();
        let lens = Lens { categories: self.scope.categories, semantic: false, literal: false, place };
        if let Some(trace) = &mut self.trace {
            trace.values.push(crate::detect::trace::Value::of_threat(context, &threat));
        }
        self.weigh(context, lens, vec![threat])
    }

    fn inflated(&mut self, bytes: usize) {
        self.work.grow(bytes);
    }

    fn partial(&mut self, reason: &'static str) -> ControlFlow<()> {
        self.found.partial = Some(reason);
        ControlFlow::Continue(())
    }
}

/// Bytes of all that is looked at in a request.
fn length(request: &Request<'_>) -> usize {
    let headers: usize = request.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    let target = request.target.path.len() + request.target.query.map_or(0, str::len);
    target + headers + request.body.bytes().len()
}

/// Tells the meter what takes time.
struct Timed<'m, M>(&'m M);

impl<M: Meter> Watch for Timed<'_, M> {
    fn scanned(&mut self) {
        self.0.enter(Stage::Confirm);
    }

    fn hit(&mut self, row: &Row, _: &Candidate<'_>, confirmed: Option<&Range<usize>>) {
        self.0.judged(&row.id, confirmed.is_some());
    }
}

fn finding(context: &Context<'_>, lens: Lens<'_>, threats: Vec<Threat>, score: f64) -> Finding {
    let mut categories: Vec<Category> = Vec::new();
    for threat in &threats {
        if !categories.contains(&threat.category) {
            categories.push(threat.category);
        }
    }
    Finding {
        context: context.to_string(),
        trigger: trigger(context, threats.first()),
        threats,
        score,
        categories,
        source: context.source,
        name: context.name.clone().into_owned(),
        json_path: lens.place.to_string(),
        would_block: false,
    }
}

/// guard-core's words for where and why; holds nothing of the value.
fn trigger(context: &Context<'_>, first: Option<&Threat>) -> String {
    let place = match context.source {
        Source::Query => format!("Query param '{}'", context.name),
        Source::Header => format!("Header '{}'", context.name),
        Source::Path => "URL path".to_owned(),
        Source::Body => "Request body".to_owned(),
        Source::Unknown => "Value".to_owned(),
    };
    match first {
        Some(threat) if threat.method == Method::Semantic => {
            format!(
                "{place}: Semantic attack: {} (score: {:.2})",
                threat.row.trim_start_matches("semantic:"),
                threat.probability
            )
        }
        Some(threat) => format!("{place}: Value matched pattern '{}'", threat.row),
        None => place,
    }
}
