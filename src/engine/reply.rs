//! From an objection to a response: custom bodies, security headers, response modifier, CORS.

use std::borrow::Cow;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::config::responses::BodyForm;
use crate::engine::cx::{Cx, Form, Objection};
use crate::engine::expression::{Program, Response};
use crate::engine::media;
use crate::engine::phases::{ResponseEdits, ResponseHead};
use crate::engine::policy::{Bypasses, Compiling};
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
    form: BodyForm,
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
            form: compiling.config.responses.bodies,
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

    /// What is to be done to a response of the upstream. `own`: the part of it that only a look at the response allows;
    /// the rest was told Envoy when the request was decided.
    pub(crate) fn on_upstream<'p>(
        &'p self,
        cx: &mut Cx<'_, 'p, '_>,
        head: &ResponseHead<'_>,
        own: Own,
    ) -> ResponseEdits<'p> {
        let mut done = ResponseEdits::default();
        if own == Own::All && (cx.policy.passive || !cx.bypasses(Bypasses::ALL)) {
            done.set.extend(self.security.iter().map(HeaderEdit::borrowed));
        }
        for operation in &self.operations {
            if operation.applies(cx, head, &done) {
                done.apply(operation, own == Own::All || operation.when.is_some());
            }
        }
        if let (Some(cors), Own::All) = (&cx.policy.cors, own) {
            let mut extra = SmallVec::new();
            cors.on_response(cx.request, &mut extra);
            done.set.extend(extra.into_iter().filter(|edit| !head.has(edit)));
        }
        done
    }

    /// What is to be done to a response without a request that we know: an answer of an earlier filter.
    pub(crate) fn on_unasked(&self) -> ResponseEdits<'_> {
        let mut done =
            ResponseEdits { set: self.security.iter().map(HeaderEdit::borrowed).collect(), ..Default::default() };
        for operation in self.operations.iter().filter(|operation| operation.when.is_none()) {
            done.apply(operation, true);
        }
        done
    }

    /// True when responses may have to be changed.
    pub(crate) fn touches_upstream(&self, own: Own) -> bool {
        let needs_a_look = |operation: &Operation| operation.when.is_some() || !operation.removed.is_empty();
        match own {
            Own::All => !self.security.is_empty() || !self.operations.is_empty(),
            Own::Rest => self.operations.iter().any(needs_a_look),
        }
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
        // The body of a refused call becomes its message, whatever else the client accepts.
        let is_free = form != Form::Verbatim && content_type.is_some() && cx.request.grpc().is_none();
        if self.form == BodyForm::Negotiated && is_free {
            let (content_type, body) = media::write(cx.request, status, body);
            edits.push(HeaderEdit { existing: Existing::Append, ..HeaderEdit::set("vary", "Accept") });
            return Denial { origin, status, body, content_type: Some(content_type), headers: edits };
        }
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

/// Who tells Envoy what a response is to wear.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Own {
    /// We do all of it.
    All,
    /// What does not depend on the response was said elsewhere.
    Rest,
}

impl Operation {
    /// A condition that fails counts as not met.
    fn applies(&self, cx: &mut Cx<'_, '_, '_>, head: &ResponseHead<'_>, done: &ResponseEdits<'_>) -> bool {
        let Some(when) = &self.when else { return true };
        let replaced =
            |name: &str| done.set.iter().any(|edit| edit.existing == Existing::Overwrite && edit.name == *name);
        let upstream = head.headers.iter().filter(|field| !done.removes(field.name) && !replaced(field.name));
        let texts = upstream.filter_map(|field| Some((field.name, field.text()?)));
        let ours = done.set.iter().map(|edit| (&*edit.name, &*edit.value));
        let response = Response { status: head.status, headers: texts.chain(ours) };
        when.holds(cx, response).unwrap_or(false)
    }
}

impl<'p> ResponseEdits<'p> {
    fn apply(&mut self, operation: &'p Operation, sets: bool) {
        self.set.retain(|edit| !operation.removed.iter().any(|name| *name == edit.name));
        self.remove.extend(operation.removed.iter().map(String::as_str));
        for edit in operation.edits.iter().filter(|_| sets) {
            if edit.existing == Existing::Overwrite {
                self.set.retain(|other| other.name != edit.name);
            }
            self.set.push(edit.borrowed());
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
            compiling.warn(&*key, "conditions and removals reach upstream responses through ext_proc only");
        }
        operations.push(Operation { when, edits, removed });
    }
    operations
}
