//! From an objection to a response: custom bodies, security headers, response modifier, CORS.

use std::borrow::Cow;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::engine::cx::{Cx, Form, Objection};
use crate::engine::expression::{Program, Response};
use crate::engine::policy::Compiling;
use crate::engine::security_headers::{self, clean, is_token};
use crate::model::decision::{ConstantHeaders, Denial, Origin, ResponseHeaders};
use crate::model::headers::{Existing, HeaderEdit};

/// Media type of every body of ours.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// Statuses whose body may be customised.
const CUSTOMISABLE: [u16; 8] = [400, 401, 403, 413, 415, 429, 500, 503];

/// What responses have in common.
#[derive(Debug)]
pub(crate) struct Replies {
    bodies: BTreeMap<u16, String>,
    /// Security headers alone: what answers of ours wear.
    security: Vec<HeaderEdit<'static>>,
    /// Security headers and unconditional operations of the modifier: what every allowed response gets.
    constant: ConstantHeaders,
    /// The unconditional operations alone: what a route that bypasses everything still gets.
    modified: ConstantHeaders,
    operations: Vec<Operation>,
}

/// One operation of `custom_response_modifier`.
#[derive(Debug)]
struct Operation {
    when: Option<Program>,
    edits: Vec<HeaderEdit<'static>>,
    removed: Vec<String>,
}

impl Replies {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let security = security_headers::compile(compiling);
        let operations = operations(compiling);
        let config = &compiling.config.security;
        for status in config.custom_error_responses.keys().filter(|status| !CUSTOMISABLE.contains(status)) {
            compiling.warn(format!("security.custom_error_responses.{status}"), "no answer has this status");
        }
        let unconditional = || operations.iter().filter(|operation| operation.when.is_none());
        let mut modified = Vec::new();
        unconditional().for_each(|operation| apply(&mut modified, operation));
        let mut all = security.clone();
        unconditional().for_each(|operation| apply(&mut all, operation));
        Self {
            bodies: config.custom_error_responses.clone(),
            security,
            constant: ConstantHeaders { edits: all },
            modified: ConstantHeaders { edits: modified },
            operations,
        }
    }

    /// The headers of an allowed response.
    pub(crate) fn allowed<'p>(&'p self, cx: &Cx<'_, 'p, '_>, dressed: bool) -> ResponseHeaders<'p> {
        let constant = if dressed { &self.constant } else { &self.modified };
        let mut extra = cx.limit_headers.clone();
        if let Some(cors) = &cx.policy.cors {
            cors.on_response(cx.request, &mut extra);
        }
        ResponseHeaders { constant: (!constant.edits.is_empty()).then_some(constant), extra }
    }

    /// Makes an objection a response.
    pub(crate) fn denial<'p>(
        &'p self,
        cx: &mut Cx<'_, 'p, '_>,
        origin: Origin,
        objection: Objection<'p>,
    ) -> Denial<'p> {
        let Objection { status, body, form, headers } = objection;
        let body = match self.bodies.get(&status).filter(|_| form == Form::Standard) {
            Some(custom) => Cow::Borrowed(custom.as_str()),
            None => body,
        };
        let mut edits: SmallVec<[HeaderEdit<'p>; 4]> = SmallVec::new();
        match form {
            Form::Standard => {
                edits.extend(self.security.iter().map(HeaderEdit::borrowed));
                self.modify(cx, status, &mut edits);
                // Retry-After and challenges are added last: the modifier cannot take them away.
                edits.extend(headers);
            }
            Form::Bare => {
                edits.extend(headers);
                self.modify(cx, status, &mut edits);
            }
            Form::Verbatim => edits.extend(headers),
        }
        if let Some(cors) = &cx.policy.cors {
            cors.on_denial(cx.request, &mut edits);
        }
        let stated = edits.iter().any(|edit| edit.name == "content-type");
        let content_type = (!body.is_empty() && !stated).then_some(TEXT);
        Denial { origin, status, body, content_type, headers: edits }
    }

    /// Runs the response modifier over an answer of ours. A condition that fails counts as not met: the answer
    /// stays as it is.
    fn modify<'p>(&'p self, cx: &mut Cx<'_, 'p, '_>, status: u16, edits: &mut SmallVec<[HeaderEdit<'p>; 4]>) {
        for operation in &self.operations {
            let is_met = match &operation.when {
                None => true,
                Some(when) => {
                    let response = Response { status, headers: edits.iter().map(|edit| (&*edit.name, &*edit.value)) };
                    when.holds(cx, response).unwrap_or(false)
                }
            };
            if is_met {
                apply(edits, operation);
            }
        }
    }
}

/// A list of edits that an operation can change.
trait Edits<'p> {
    fn keep(&mut self, is_kept: impl FnMut(&HeaderEdit<'_>) -> bool);
    fn add(&mut self, edit: &'p HeaderEdit<'static>);
}

impl<'p> Edits<'p> for Vec<HeaderEdit<'static>> {
    fn keep(&mut self, mut is_kept: impl FnMut(&HeaderEdit<'_>) -> bool) {
        self.retain(|edit| is_kept(edit));
    }

    fn add(&mut self, edit: &'p HeaderEdit<'static>) {
        self.push(edit.clone());
    }
}

impl<'p> Edits<'p> for SmallVec<[HeaderEdit<'p>; 4]> {
    fn keep(&mut self, mut is_kept: impl FnMut(&HeaderEdit<'_>) -> bool) {
        self.retain(|edit| is_kept(edit));
    }

    fn add(&mut self, edit: &'p HeaderEdit<'static>) {
        self.push(edit.borrowed());
    }
}

fn apply<'p>(edits: &mut impl Edits<'p>, operation: &'p Operation) {
    edits.keep(|edit| !operation.removed.iter().any(|name| *name == edit.name));
    for edit in &operation.edits {
        if edit.existing == Existing::Overwrite {
            edits.keep(|other| other.name != edit.name);
        }
        edits.add(edit);
    }
}

fn operations(compiling: &mut Compiling<'_>) -> Vec<Operation> {
    let config = compiling.config;
    let mut operations = Vec::new();
    for (position, operation) in config.security.custom_response_modifier.iter().enumerate() {
        let key = format!("security.custom_response_modifier[{position}]");
        let when = operation.when.as_ref().and_then(|when| Program::compile(compiling, format!("{key}.when"), when));
        let mut edits = Vec::new();
        let set = operation.set.iter().map(|pair| (pair, Existing::Overwrite, "set"));
        let add = operation.add.iter().map(|pair| (pair, Existing::Append, "add"));
        for ((name, value), existing, field) in set.chain(add) {
            match clean(value) {
                Ok(value) if is_token(name) => {
                    edits.push(HeaderEdit { existing, ..HeaderEdit::set(name.to_ascii_lowercase(), value) });
                }
                Ok(_) => compiling.error(format!("{key}.{field}"), format!("`{name}` is not a header name")),
                Err(message) => compiling.error(format!("{key}.{field}.{name}"), message),
            }
        }
        let removed = operation.remove.iter().map(|name| name.to_ascii_lowercase()).collect();
        if operation.when.is_some() || !operation.remove.is_empty() {
            compiling
                .warn(&*key, "conditions and removals apply to answers of the service, not yet to upstream responses");
        }
        operations.push(Operation { when, edits, removed });
    }
    operations
}
