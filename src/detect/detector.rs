//! One value, or one request, against all rows: the passes, the score, the verdict.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use crate::config::exclusions::DetectionConfig;
use crate::config::security::SecurityConfig;
use crate::detect::automaton::Candidates;
use crate::detect::confirm::Candidate;
use crate::detect::custom::{self, CustomPatterns, PatternError, Set};
use crate::detect::monitor::{Anomaly, Monitor, Sample, Stats};
use crate::detect::reach::Reach;
use crate::detect::recall::Epoch;
use crate::detect::rows::{self, Row};
use crate::detect::semantic::{self, Analysis};
use crate::detect::table::{Answers, Origin, Table, Text};
use crate::detect::view::{self, Recipe, Views};
use crate::detect::work::Work;
use crate::detect::{
    Context, DetectError, Detector, Limits, Material, Method, PatternInfo, Report, Settings, Source, Threat, View,
};
use crate::model::category::{Category, CategorySet};
use crate::model::time::Timestamp;

impl Detector {
    /// Compiles the rows of a profile with the settings of the policy.
    ///
    /// # Errors
    /// Every row that does not load or compile, with file and row.
    pub fn compile(security: &SecurityConfig, detection: &DetectionConfig) -> Result<Self, Vec<DetectError>> {
        Self::compile_with(security, detection, &Material::default())
    }

    /// Compiles with what the shell brings: more rows, a cache, and the detector before this one. Rows that did not
    /// change since are not compiled again.
    ///
    /// # Errors
    /// As [`Detector::compile`].
    pub fn compile_with(
        security: &SecurityConfig,
        detection: &DetectionConfig,
        material: &Material<'_>,
    ) -> Result<Self, Vec<DetectError>> {
        let origin = Origin::of(detection.profile, material.files);
        let table = match material.previous {
            Some(previous) if *previous.table.origin() == origin => Arc::clone(&previous.table),
            _ => {
                let rows = rows::load(detection.profile, material.files)?;
                Arc::new(Table::compile(rows, origin, material.cache)?)
            }
        };
        let texts = &detection.custom_patterns;
        let configured = match material.previous {
            Some(previous) if previous.configured.texts().eq(texts) => Arc::clone(&previous.configured),
            _ => Arc::new(
                Set::of(texts, material.cache).map_err(|(index, error)| vec![configured(texts, index, &error)])?,
            ),
        };
        let custom = material.previous.map(|previous| Arc::clone(&previous.custom)).unwrap_or_default();
        let (settings, semantic_threshold) = (settings(security, detection), AtomicU64::new(0));
        let fresh = Monitor::new(security);
        let kept = material.previous.filter(|previous| previous.lock_monitor().is_like(&fresh));
        let monitor = kept.map_or_else(|| Arc::new(Mutex::new(fresh)), |previous| Arc::clone(&previous.monitor));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        semantic::prepare();
        view::prepare();
        let detector = Self { table, configured, custom, settings, monitor, semantic_threshold, number };
        detector.configure_semantic_threshold(security.detection_semantic_threshold);
        Ok(detector)
    }

    /// Changes the semantic threshold from now on, held to 0 to 1; 0 turns the analyser off. Kept in memory only.
    pub fn configure_semantic_threshold(&self, threshold: f64) {
        let held = if threshold.is_nan() { 0.0 } else { threshold.clamp(0.0, 1.0) };
        self.semantic_threshold.store(held.to_bits(), Ordering::Relaxed);
    }

    /// Takes in how long parts of one detection took and returns what stands out. Whoever comes while another thread
    /// does the same is turned away: a sample less is better than a wait.
    pub fn record<'s>(&self, samples: impl IntoIterator<Item = Sample<'s>>, now: Timestamp) -> Vec<Anomaly> {
        let Ok(mut monitor) = self.monitor.try_lock() else { return Vec::new() };
        samples.into_iter().flat_map(|sample| monitor.record(&sample, now)).collect()
    }

    /// What was measured so far: guard-core's performance statistics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lock_monitor().stats()
    }

    fn lock_monitor(&self) -> MutexGuard<'_, Monitor> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The semantic threshold in force; 0 when the analyser is off.
    #[must_use]
    pub fn semantic_threshold(&self) -> f64 {
        f64::from_bits(self.semantic_threshold.load(Ordering::Relaxed))
    }

    /// What the verdict on a value depends on besides the value and its place. `None` while there are patterns added at
    /// run time: they change within one detector.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        let semantic = self.semantic_threshold.load(Ordering::Relaxed);
        (self.custom.count() == 0).then_some(Epoch { detector: self.number, semantic })
    }

    /// Looks at one value: guard-core's `detect`.
    #[must_use]
    pub fn detect(&self, content: &str, context: &Context<'_>) -> Report {
        let views = Views::new(content, &self.settings.recipe);
        let look = Look { context, categories: CategorySet::DETECTION, work: &Work::of(content.len()) };
        let mut threats = self.threats(&views, &look, &mut Unwatched);
        self.find_custom(&views, &mut threats);
        let semantic = self.semantic(&views, &mut threats, true);
        let (is_threat, threat_score) = self.score(&threats);
        Report {
            is_threat,
            threat_score,
            original_length: content.chars().count(),
            processed_length: views.text(View::Processed).chars().count(),
            threats,
            semantic,
        }
    }

    /// What the semantic analyser says; its threats join `threats`. `is_told` when somebody reads more than these.
    pub(super) fn semantic(
        &self,
        views: &Views<'_>,
        threats: &mut Vec<Threat>,
        is_told: bool,
    ) -> Option<Box<Analysis>> {
        let (threshold, chars_max) = (self.semantic_threshold(), self.settings.semantic_chars_max);
        let text = views.text(View::Processed);
        let mut analysis = semantic::analyse(text, views.content(), threshold, chars_max)?;
        if is_told {
            analysis.tell_patterns(text, chars_max);
        }
        let threat = |row: &'static str, category: Category, probability: f64| Threat {
            method: Method::Semantic,
            category,
            weight: 0.0,
            probability,
            ..budget(row)
        };
        let before = threats.len();
        threats.extend(
            analysis.kinds(threshold).map(|(kind, probability)| threat(kind.row(), kind.category(), probability)),
        );
        if threats.len() == before {
            threats.push(threat(SUSPICIOUS, Category::CUSTOM, analysis.score));
        }
        Some(analysis)
    }

    /// True when the semantic analyser would say something.
    pub(super) fn is_semantic_threat(&self, views: &Views<'_>) -> bool {
        let (threshold, chars_max) = (self.semantic_threshold(), self.settings.semantic_chars_max);
        semantic::analyse(views.text(View::Processed), views.content(), threshold, chars_max).is_some()
    }

    /// True when values may wait for others and be scanned together.
    pub(super) fn batches(&self) -> bool {
        self.table.reads_side_by_side() && !self.has_custom()
    }

    /// Gives `found` the candidates in texts of a kind that stand side by side: row, where the first match in a text ends
    /// in the whole, and whose it is, as `text_of` tells by that end.
    pub(super) fn find_together(
        &self,
        reach: Reach,
        texts: &[u8],
        text_of: impl Fn(u32) -> u32,
        found: impl FnMut(u16, u32, u32),
    ) {
        self.table.find_together(reach, texts, text_of, found);
    }

    /// Whether a row, by its number, is asked in these views (a mask), in this place, about these categories.
    pub(super) fn applies(&self, row: u16, views: u8, source: Source, categories: CategorySet) -> bool {
        self.table.applies(row, views, source, categories)
    }

    /// Runs every row's own examples through the whole detector and says which come out wrong, by row. Empty is good.
    #[must_use]
    pub fn wrong_examples(&self) -> Vec<String> {
        self.table.rows().iter().flat_map(|row| self.wrong_examples_of(row)).collect()
    }

    fn wrong_examples_of(&self, row: &Row) -> Vec<String> {
        let examples = row.hits.iter().map(|hit| (hit, true)).chain(row.misses.iter().map(|miss| (miss, false)));
        let wrong = examples.filter_map(|(example, expected)| {
            let (value, context) = example.parts();
            let report = self.detect(value, &Context::parse(context));
            if report.threats.iter().any(|threat| threat.row == row.id) == expected {
                return None;
            }
            let kind = if expected { "a hit is missed" } else { "a miss is found" };
            let found: Vec<_> = report.threats.iter().map(|threat| threat.row.as_ref()).collect();
            Some(format!("{}: {}: {kind}: {value:?} as {context}; found {found:?}", row.file, row.id))
        });
        wrong.collect()
    }

    /// True when both share one compiled table of rows.
    #[must_use]
    pub fn has_rows_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table)
    }

    /// The patterns that are added and removed at run time. A detector compiled with this one as its previous one has
    /// the same.
    #[must_use]
    pub const fn custom(&self) -> &Arc<CustomPatterns> {
        &self.custom
    }

    /// What every built-in row looks for, in order.
    #[must_use]
    pub fn default_patterns(&self) -> Vec<PatternInfo> {
        let info = |row: &Row| PatternInfo {
            row: row.id.clone(),
            category: row.category,
            about: row.about.clone(),
            pattern: row.pattern.clone(),
        };
        self.table.rows().iter().map(info).collect()
    }

    /// The custom patterns: those of the configuration, then those added at run time that are not among them.
    #[must_use]
    pub fn custom_patterns(&self) -> Vec<PatternInfo> {
        let added = self.custom.list().into_iter();
        let added = added.filter(|text| self.configured.texts().all(|known| known != text));
        let info = |text: String| PatternInfo {
            row: custom::row(&text),
            category: Category::CUSTOM,
            about: String::new(),
            pattern: text,
        };
        self.configured.texts().map(str::to_owned).chain(added).map(info).collect()
    }

    /// How many custom patterns there are, one from two places counted twice.
    #[must_use]
    pub fn custom_count(&self) -> usize {
        self.configured.texts().count() + self.custom.count()
    }

    /// Built-in rows, then custom patterns.
    #[must_use]
    pub fn all_patterns(&self) -> Vec<PatternInfo> {
        let mut all = self.default_patterns();
        all.extend(self.custom_patterns());
        all
    }

    /// True when there is a custom pattern.
    pub(super) fn has_custom(&self) -> bool {
        !self.configured.is_empty() || self.custom.count() != 0
    }

    /// What custom patterns find joins `threats`. They see what an interpreter would, and short base64 islands; no
    /// category, context or profile keeps them from it.
    pub(super) fn find_custom(&self, views: &Views<'_>, threats: &mut Vec<Threat>) {
        if !self.has_custom() {
            return;
        }
        let before = threats.len();
        for view in [View::Processed, View::Additive] {
            if view == View::Additive && views.is_same(view) {
                continue;
            }
            self.configured.find(views.text(view), view, threats);
            self.custom.find(views.text(view), view, threats);
        }
        // One pattern may be known from two places.
        let mut index = before;
        while let Some(threat) = threats.get(index) {
            let earlier = threats.iter().take(index).skip(before);
            if earlier.clone().any(|earlier| earlier.row == threat.row && earlier.view == threat.view) {
                threats.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// True when both run the very same compiled rows.
    #[must_use]
    pub fn shares_rows_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table)
    }

    /// Size of the compiled rows in bytes.
    #[must_use]
    pub fn database_bytes(&self) -> usize {
        self.table.size()
    }

    /// Everything found in one value, in guard-core's order. Unallocated when nothing is found.
    pub(super) fn threats(&self, views: &Views<'_>, look: &Look<'_>, watch: &mut impl Watch) -> Vec<Threat> {
        let found = View::ALL.map(|view| self.candidates(views, view, look, watch.explains()));
        self.judged(views, look, &found, watch)
    }

    /// What of these candidates, by view, is a threat, and what is one without a row.
    pub(super) fn judged(
        &self,
        views: &Views<'_>,
        look: &Look<'_>,
        found: &[Candidates; View::ALL.len()],
        watch: &mut impl Watch,
    ) -> Vec<Threat> {
        let Look { context, categories, work } = *look;
        watch.scanned();
        let processed_from = views.source_of(View::Processed);
        if found.iter().all(SmallVec::is_empty) && !views.is_exhausted() && processed_from == View::Raw {
            return Vec::new();
        }
        let mut threats = Vec::new();
        let mut answers: [Answers; View::ALL.len()] = Default::default();
        let before = work.spent();
        let mut exhausted: Option<(Category, View)> = None;
        let mut pass = |view: View, from: View, threats: &mut Vec<Threat>| {
            let (Some(found), Some(answers)) = (found.get(from.index()), answers.get_mut(from.index())) else { return };
            let text = views.text(view);
            for (id, end) in found.iter().copied() {
                if exhausted.is_some() {
                    return;
                }
                let end = end as usize;
                let candidate = Candidate { text, end, view, context, raw: views.content(), work };
                threats.extend(self.judge(id, &candidate, answers, watch).filter(|threat| {
                    // What the raw view shows again is one threat.
                    let known = |known: &Threat| known.row == threat.row && known.matched == threat.matched;
                    view != View::Raw || !threats.iter().any(known)
                }));
                if !work.goes_on() {
                    exhausted = self.table.row(id).map(|row| (row.category, view));
                }
            }
        };
        pass(View::Processed, processed_from, &mut threats);
        pass(View::Raw, View::Raw, &mut threats);
        if categories.contains(Category::PATH_TRAVERSAL) {
            threats.extend(computed_traversal(views));
        }
        pass(View::Decoded, views.source_of(View::Decoded), &mut threats);
        if views.is_exhausted() {
            threats.push(budget("decode_budget_exhausted"));
        }
        pass(View::Additive, View::Additive, &mut threats);
        threats.extend(exhausted.map(|(category, view)| Threat { category, view, ..budget(WORK_EXHAUSTED) }));
        watch.worked(work, before);
        threats
    }

    /// A candidate's second look.
    fn judge(
        &self,
        id: u16,
        candidate: &Candidate<'_>,
        answers: &mut Answers,
        watch: &mut impl Watch,
    ) -> Option<Threat> {
        let (view, text) = (candidate.view, candidate.text);
        let row = self.table.row(id).filter(|row| view == View::Additive || row.views & view.bit() != 0)?;
        let range = self.table.confirmed(id, candidate, answers);
        // A prefilter's match alone is nothing to tell.
        if range.is_none() && watch.explains() && !self.table.holds(id, text) {
            return None;
        }
        watch.hit(row, candidate, range.as_ref());
        let range = range?;
        Some(Threat {
            method: Method::Regex,
            row: Cow::Owned(row.id.clone()),
            category: row.category,
            weight: row.weight,
            view,
            matched: Threat::excerpt(text.get(range.clone()).unwrap_or_default()).to_owned(),
            position: text.get(..range.start).unwrap_or_default().chars().count(),
            probability: 0.0,
        })
    }

    /// The candidates in the text of a view, for the rows of all views that have this text; none when an earlier view has
    /// it.
    pub(super) fn candidates(&self, views: &Views<'_>, view: View, look: &Look<'_>, in_full: bool) -> Candidates {
        if views.source_of(view) != view {
            return Candidates::new();
        }
        let text = Text { text: views.text(view), views: views.views_of(view), in_full };
        self.table.candidates(text, look.context.source, look.categories)
    }

    /// Whether the sum of weights convicts, and the score guard-core gives it.
    pub(super) fn score(&self, threats: &[Threat]) -> (bool, f64) {
        let anomaly: f64 =
            threats.iter().filter(|threat| threat.method != Method::Semantic).map(|threat| threat.weight).sum();
        let semantic = threats.iter().filter(|threat| threat.method == Method::Semantic);
        let probability = semantic.clone().map(|threat| threat.probability).fold(0.0, f64::max);
        // Under our own profile a text that is merely odd, of no known kind of attack, convicts only what a row also
        // suspects: disorder and calls are everyday in documents about code.
        let may_be_odd = self.settings.recipe.is_strict() && anomaly <= 0.0;
        let mut convicts = semantic.filter(|threat| !may_be_odd || threat.row != SUSPICIOUS);
        let is_threat = !threats.is_empty() && (self.settings.threshold <= anomaly || convicts.next().is_some());
        (is_threat, anomaly.max(probability).min(1.0))
    }
}

/// The error of a configured custom pattern; that of the whole set has no place.
fn configured(texts: &[String], index: usize, error: &PatternError) -> DetectError {
    let key = match index < texts.len() {
        true => format!("detection.custom_patterns[{index}]"),
        false => "detection.custom_patterns".to_owned(),
    };
    DetectError { key, message: error.to_string() }
}

/// The number of the next detector; 0 is nobody's.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// The finding that second looks spent what they may. Of the category that spent the last of it.
const WORK_EXHAUSTED: &str = "work_budget_exhausted";

/// The semantic analyser's finding without a kind of attack.
const SUSPICIOUS: &str = "semantic:suspicious";

/// Where a value stands, and what is asked about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    /// Where it came from.
    pub(super) context: &'a Context<'a>,
    /// What is looked for.
    pub(super) categories: CategorySet,
    /// What second looks may still spend on its request.
    pub(super) work: &'a Work,
}

/// Told of every candidate, for `explain`.
pub(super) trait Watch {
    /// All candidates of a value are known; what follows are second looks.
    fn scanned(&mut self) {}

    /// All second looks were taken, or the work for them is spent; so many units were spent before.
    fn worked(&mut self, _work: &Work, _before: usize) {}

    /// Whether somebody wants to read what was looked at in vain. Then every row is asked: which of them a text can match
    /// is not taken for granted.
    fn explains(&self) -> bool {
        false
    }

    /// A row's candidate, and what became of it.
    fn hit(&mut self, row: &Row, candidate: &Candidate<'_>, confirmed: Option<&Range<usize>>);
}

/// Nobody watches.
pub(super) struct Unwatched;

impl Watch for Unwatched {
    fn hit(&mut self, _: &Row, _: &Candidate<'_>, _: Option<&Range<usize>>) {}
}

/// A finding without a row.
pub(super) fn budget(name: &'static str) -> Threat {
    Threat {
        method: Method::Budget,
        row: Cow::Borrowed(name),
        category: Category::CUSTOM,
        weight: 1.0,
        view: View::Processed,
        matched: String::new(),
        position: 0,
        probability: 0.0,
    }
}

/// Decoding that brings forth dot-dot units which were not there before is traversal.
fn computed_traversal(views: &Views<'_>) -> Option<Threat> {
    let (processed, raw) = (views.text(View::Processed), views.text(View::Raw));
    if views.source_of(View::Processed) == View::Raw || units(processed).count() <= units(raw).count() {
        return None;
    }
    let first = units(processed).next()?;
    Some(Threat {
        method: Method::Regex,
        row: Cow::Borrowed("PTR-COMPUTED"),
        category: Category::PATH_TRAVERSAL,
        weight: 1.0,
        view: View::Processed,
        matched: processed.get(first..first + 3).unwrap_or_default().to_owned(),
        position: processed.get(..first).unwrap_or_default().chars().count(),
        probability: 0.0,
    })
}

/// Byte offsets of dot-dot followed by a slash or backslash.
fn units(text: &str) -> impl Iterator<Item = usize> + '_ {
    let separators = memchr::memchr2_iter(b'/', b'\\', text.as_bytes());
    separators.filter_map(|end| {
        let start = end.checked_sub(2)?;
        (text.as_bytes().get(start..end) == Some(b"..".as_slice())).then_some(start)
    })
}

fn settings(security: &SecurityConfig, detection: &DetectionConfig) -> Settings {
    let size = |value: u32| value as usize;
    let inspect_max = size(security.detection_max_body_inspect_bytes);
    let content_max = size(security.detection_max_content_length);
    Settings {
        recipe: Recipe {
            profile: detection.profile,
            chars_max: inspect_max,
            keep_attacks: security.detection_preserve_attack_patterns,
            regions_max: (content_max / 100).min(100),
        },
        limits: Limits {
            profile: detection.profile,
            values_max: size(security.detection_max_scan_values),
            chars_max: size(security.detection_max_scan_chars),
            json_depth_max: size(security.detection_max_json_depth),
            body_bytes_max: inspect_max,
            island_min: size(security.detection_binary_min_run_length),
            undecodable_body: detection.undecodable_body,
        },
        threshold: security.detection_threat_score_threshold,
        semantic_chars_max: content_max,
        exclusions: detection.exclusions.clone(),
        log_only_categories: detection.log_only_categories.iter().filter_map(|name| Category::named(name)).collect(),
        log_only_rows: detection.log_only_rows.iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests;
