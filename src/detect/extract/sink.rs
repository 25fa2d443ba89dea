//! Where all walkers hand their values in: counts the budgets and calls the visitor.

use crate::config::exclusions::Profile;
use crate::detect::extract::json;
use crate::detect::extract::leaves::{self, Holder};
use crate::detect::extract::place::Place;
use crate::detect::extract::{Budgets, Flow, Gap, Item, Value};
use crate::detect::{Context, Kind, Scope, Source};
use crate::model::category::{Category, CategorySet};

/// Joins what is left once a budget is spent: neutral to shells, SQL, markup and header lines alike.
const REST_JOINT: &str = " , ";

/// Bytes of text kept, per source, once a budget is spent, as a multiple of the body cap.
const REST_BODIES_MAX: usize = 2;

/// How often JSON inside a string inside JSON is opened.
const NESTING_MAX: usize = 3;

/// Budgets and visitor of one walk.
pub(super) struct Sink<'a> {
    pub(super) scope: &'a Scope,
    pub(super) budgets: &'a Budgets,
    visit: &'a mut dyn FnMut(Item<'_>) -> Flow,
    values: u32,
    chars: usize,
    rest: String,
    rest_categories: CategorySet,
    lost: bool,
    nesting: usize,
}

impl<'a> Sink<'a> {
    pub(super) fn new(scope: &'a Scope, budgets: &'a Budgets, visit: &'a mut dyn FnMut(Item<'_>) -> Flow) -> Self {
        let rest_categories = scope.categories;
        Self {
            scope,
            budgets,
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
        self.budgets.profile == Profile::GuardCore
    }

    /// Hands out one text of `source`.
    pub(super) fn text(&mut self, source: Source, kind: Kind, name: &str, text: &str) -> Flow {
        let context = Context { source, name: name.into(), kind };
        let categories = self.scope.categories;
        self.value(Value { context, text, categories, semantic: true, literal: false, place: Place::default() })
    }

    /// Hands out the value of a field called `name`.
    pub(super) fn field(&mut self, source: Source, kind: Kind, name: &str, text: &str) -> Flow {
        let context = Context { source, name: name.into(), kind };
        let categories = self.scope.categories;
        self.whole(Value { context, text, categories, semantic: true, literal: false, place: Place::default() })
    }

    /// Hands out a value that may hold structure of its own, structure first.
    pub(super) fn whole(&mut self, value: Value<'_>) -> Flow {
        if self.nesting < NESTING_MAX && is_json_like(value.text) && json::is_document(value.text) {
            let Context { source, name, .. } = &value.context;
            let holder = Holder {
                source: *source,
                leaf: Kind::EmbeddedJson,
                key: Kind::EmbeddedJsonKey,
                name: Some(name),
                categories: value.categories,
                semantic: value.semantic,
                place: Some(&value.place),
            };
            self.nesting += 1;
            leaves::walk(value.text, &holder, self)?;
            self.nesting -= 1;
        }
        self.value(value)
    }

    /// Hands out a value, or keeps it for [`Sink::flush`] when a budget is spent. Empty text costs nothing.
    pub(super) fn value(&mut self, value: Value<'_>) -> Flow {
        if value.text.is_empty() || value.categories.is_empty() {
            return Flow::Continue(());
        }
        if self.budgets.values_max <= self.values || self.budgets.chars_max <= self.chars {
            self.keep(&value);
            return Flow::Continue(());
        }
        self.values += 1;
        self.chars += value.text.chars().count();
        (self.visit)(Item::Value(value))
    }

    /// Reports an operator key: not budgeted, but subject to the category switch.
    pub(super) fn operator(&mut self, value: Value<'_>) -> Flow {
        match value.categories.contains(Category::NOSQL) {
            true => (self.visit)(Item::Operator(value)),
            false => Flow::Continue(()),
        }
    }

    /// Reports what cannot be looked at.
    pub(super) fn gap(&mut self, gap: Gap) -> Flow {
        (self.visit)(Item::Gap(gap))
    }

    /// Ends a source: hands out, as one text, what came after a budget was spent. Text beyond the bound is a finding.
    pub(super) fn flush(&mut self, source: Source) -> Flow {
        let categories = std::mem::replace(&mut self.rest_categories, self.scope.categories);
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            let context = Context { source, name: "".into(), kind: Kind::Value };
            let place = Place::default();
            let value = Value { context, text: &rest, categories, semantic: true, literal: false, place };
            (self.visit)(Item::Value(value))?;
        }
        match std::mem::take(&mut self.lost) {
            true => self.gap(Gap::Spent("text remains after the scan budgets")),
            false => Flow::Continue(()),
        }
    }

    fn keep(&mut self, value: &Value<'_>) {
        if value.literal {
            return;
        }
        let room = (self.budgets.body_bytes_max * REST_BODIES_MAX).saturating_sub(self.rest.len());
        if room < value.text.len() + REST_JOINT.len() {
            self.lost = true;
            return;
        }
        if !self.rest.is_empty() {
            self.rest.push_str(REST_JOINT);
        }
        self.rest.push_str(value.text);
        let common = self.rest_categories.iter().filter(|category| value.categories.contains(*category)).collect();
        self.rest_categories = common;
    }
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
