//! Where all walkers hand their values in: counts the budgets and calls the visitor.

use std::borrow::Cow;

use crate::config::exclusions::{Profile, Unreadable};
use crate::detect::extract::leaves::{self, Holder};
use crate::detect::extract::place::Place;
use crate::detect::extract::{Flow, graphql, json};
use crate::detect::{Context, Kind, Lens, Limits, Method, Scope, Source, Threat, View, Visit};
use crate::model::category::{Category, CategorySet};

/// Joins what is left once a budget is spent: neutral to shells, SQL, markup and header lines alike.
const REST_JOINT: &str = " , ";

/// Bytes of text kept, per source, once a budget is spent, as a multiple of the body cap.
const REST_BODIES_MAX: usize = 2;

/// How often JSON inside a string inside JSON is opened.
const NESTING_MAX: usize = 3;

/// One text to hand out.
#[derive(Clone, Debug)]
pub(super) struct Value<'v> {
    pub(super) context: Context<'v>,
    pub(super) text: &'v str,
    pub(super) lens: Lens<'v>,
}

/// Budgets and visitor of one walk.
pub(super) struct Sink<'a> {
    pub(super) scope: &'a Scope,
    pub(super) limits: &'a Limits,
    visit: &'a mut dyn Visit,
    values: usize,
    chars: usize,
    rest: String,
    rest_categories: CategorySet,
    lost: bool,
    nesting: usize,
}

impl<'a> Sink<'a> {
    pub(super) fn new(scope: &'a Scope, limits: &'a Limits, visit: &'a mut dyn Visit) -> Self {
        let rest_categories = scope.categories;
        Self {
            scope,
            limits,
            visit,
            values: 0,
            chars: 0,
            rest: String::new(),
            rest_categories,
            lost: false,
            nesting: 0,
        }
    }

    /// True when the profile is guard-core's own.
    pub(super) fn is_guard_core(&self) -> bool {
        self.limits.profile == Profile::GuardCore
    }

    /// True when values are no longer handed out one by one.
    const fn is_spent(&self) -> bool {
        self.limits.values_max <= self.values || self.limits.chars_max <= self.chars
    }

    /// The look at a value without restrictions of its place.
    pub(super) const fn lens(&self) -> Lens<'static> {
        let place = Place { outer: None, steps: &[] };
        Lens { categories: self.scope.categories, semantic: true, literal: false, place }
    }

    /// Hands out one text of `source`.
    pub(super) fn text(&mut self, source: Source, kind: Kind, name: &str, text: &str) -> Flow {
        self.value(Value { context: Context { source, name: Cow::Borrowed(name), kind }, text, lens: self.lens() })
    }

    /// Hands out the value of a field called `name`.
    pub(super) fn field(&mut self, source: Source, kind: Kind, name: &str, text: &str) -> Flow {
        self.whole(Value { context: Context { source, name: Cow::Borrowed(name), kind }, text, lens: self.lens() })
    }

    /// Hands out a value that may hold structure of its own, structure first.
    pub(super) fn whole(&mut self, value: Value<'_>) -> Flow {
        if self.is_spent() {
            return self.value(value);
        }
        if value.context.name == "query" && !self.is_guard_core() && graphql::is_document(value.text) {
            let Context { source, ref name, kind } = value.context;
            return graphql::walk(value.text, &graphql::Holder { source, kind, name, lens: value.lens }, self);
        }
        if self.nesting < NESTING_MAX && is_json_like(value.text) && json::is_document(value.text) {
            let Value { context, text, lens } = &value;
            let (leaf, key) = (Kind::EmbeddedJson, Kind::EmbeddedJsonKey);
            let place = Some(&lens.place);
            let holder = Holder { source: context.source, leaf, key, name: Some(&context.name), lens: *lens, place };
            self.nesting += 1;
            leaves::walk(text, &holder, self)?;
            self.nesting -= 1;
        }
        self.value(value)
    }

    /// Hands out a value, or keeps it for [`Sink::flush`] when a budget is spent. Empty text costs nothing.
    pub(super) fn value(&mut self, value: Value<'_>) -> Flow {
        // A place where no category applies is left out; a policy without categories still has its custom patterns.
        let is_spared = value.lens.categories.is_empty() && !self.scope.categories.is_empty();
        if value.text.is_empty() || is_spared {
            return Flow::Continue(());
        }
        if self.is_spent() {
            self.keep(&value);
            return Flow::Continue(());
        }
        self.values += 1;
        self.chars += if value.text.is_ascii() { value.text.len() } else { value.text.chars().count() };
        self.visit.value(&value.context, value.text, value.lens)
    }

    /// Reports an operator key: not budgeted, but subject to the category switch.
    pub(super) fn operator(&mut self, value: &Value<'_>) -> Flow {
        if !value.lens.categories.contains(Category::NOSQL) {
            return Flow::Continue(());
        }
        let matched = value.text.to_owned();
        self.visit.threat(&value.context, threat(Method::Regex, "NOS-OPERATOR", Category::NOSQL, matched))
    }

    /// Reports a body whose coding or charset cannot be read; what can be read of it follows.
    pub(super) fn undecodable(&mut self, reason: &'static str) -> Flow {
        match self.limits.undecodable_body {
            Unreadable::Allow => Flow::Continue(()),
            Unreadable::Deny => self.budget(Source::Body, "undecodable_body", reason),
        }
    }

    /// Reports how long a body or message is without its coding.
    pub(super) fn inflated(&mut self, bytes: usize) {
        self.visit.inflated(bytes);
    }

    /// Reports that more belongs to the body than is here.
    pub(super) fn partial(&mut self, reason: &'static str) -> Flow {
        self.visit.partial(reason)
    }

    /// Ends a source: hands out, as one text, what came after a budget was spent. Text beyond the bound is a finding.
    pub(super) fn flush(&mut self, source: Source) -> Flow {
        let categories = std::mem::replace(&mut self.rest_categories, self.scope.categories);
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            let context = Context { source, name: Cow::Borrowed(""), kind: Kind::Value };
            self.visit.value(&context, &rest, Lens { categories, ..self.lens() })?;
        }
        match std::mem::take(&mut self.lost) {
            true => self.budget(source, "scan_budget_exhausted", "text remains after the scan budgets"),
            false => Flow::Continue(()),
        }
    }

    fn budget(&mut self, source: Source, row: &'static str, reason: &str) -> Flow {
        let context = Context { source, name: Cow::Borrowed(""), kind: Kind::Value };
        self.visit.threat(&context, threat(Method::Budget, row, Category::CUSTOM, reason.to_owned()))
    }

    fn keep(&mut self, value: &Value<'_>) {
        if value.lens.literal {
            return;
        }
        let room = (self.limits.body_bytes_max * REST_BODIES_MAX).saturating_sub(self.rest.len());
        if room < value.text.len() + REST_JOINT.len() {
            self.lost = true;
            return;
        }
        if !self.rest.is_empty() {
            self.rest.push_str(REST_JOINT);
        }
        self.rest.push_str(value.text);
        let asked = value.lens.categories;
        self.rest_categories = self.rest_categories.iter().filter(|category| asked.contains(*category)).collect();
    }
}

/// A finding of the walk itself: it convicts whatever the threshold.
fn threat(method: Method, row: &'static str, category: Category, matched: String) -> Threat {
    let view = View::Raw;
    Threat { method, row: Cow::Borrowed(row), category, weight: 1.0, view, matched, position: 0, probability: 0.0 }
}

/// True when `text` begins as an object or an array and ends as one.
fn is_json_like(text: &str) -> bool {
    let ends = (text.as_bytes().first(), text.as_bytes().last());
    match ends {
        (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')) => true,
        (Some(b' ' | b'\t' | b'\r' | b'\n'), _) | (_, Some(b' ' | b'\t' | b'\r' | b'\n')) => {
            let text = text.trim();
            text.starts_with(['{', '[']) && text.ends_with(['}', ']'])
        }
        _ => false,
    }
}
