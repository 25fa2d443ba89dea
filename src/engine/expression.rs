//! Rules as CEL expressions: the only door to the crate `cel`.
//!
//! A rule yields `null` or `false` to pass, `true` to refuse with 403, or a map `{status, body, headers}` that says how.
//! Everything else it yields, and every evaluation error, is a failure of the check and not a pass.

pub mod message;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use cel::objects::{Key, Map};
use cel::{Context, ExecutionError, Value};
use smallvec::SmallVec;

use crate::config::Config;
use crate::config::values::{BehaviorAction, Expression};
use crate::engine::behavior::act::{self, Violation};
use crate::engine::cx::{Cx, Form, Objection};
use crate::engine::failure::CheckError;
use crate::engine::policy::Compiling;
use crate::engine::security_headers::{clean, is_token};
use crate::model::headers::HeaderEdit;
use crate::model::time::Timestamp;
use crate::request::path::decode_once;

/// What every expression may name.
const VARIABLES: [&str; 4] = ["request", "client", "route", "now"];
/// Source of the helper that makes `now`: the crate builds timestamps of numbers itself.
const NOW_SOURCE: &str = "timestamp(seconds)";

/// Functions and helpers shared by all expressions of a policy.
pub(crate) struct Environment {
    root: Context<'static, 'static>,
    now: Option<cel::Program>,
    body_bytes_max: usize,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            root: Context::default(),
            now: cel::Program::compile(NOW_SOURCE).ok(),
            body_bytes_max: usize::try_from(config.limits.cel_body_bytes).unwrap_or(usize::MAX),
        }
    }

    fn timestamp(&self, now: Timestamp) -> Value {
        let mut context = self.root.new_inner_scope();
        context.add_variable_from_value("seconds", Value::Int(now.0 as i64));
        self.now.as_ref().and_then(|program| program.execute(&context).ok()).unwrap_or(Value::Null)
    }
}

/// The request as expressions see it; built at most once for a request.
pub(crate) struct Scope {
    request: Value,
}

/// A response as expressions of the modifier see it.
pub(crate) struct Response<I> {
    pub(crate) status: u16,
    pub(crate) headers: I,
}

/// A compiled expression with the key path that errors are reported under.
#[derive(Debug)]
pub(crate) struct Program {
    key: String,
    inner: cel::Program,
    uses_now: bool,
}

impl Program {
    /// Compiles a rule over the request.
    pub(crate) fn compile(compiling: &mut Compiling<'_>, key: String, source: &Expression) -> Option<Self> {
        Self::with(compiling, key, source, "response")
    }

    /// Compiles a verifier: a rule over the request and `credential`.
    pub(crate) fn verifier(compiling: &mut Compiling<'_>, key: String, source: &Expression) -> Option<Self> {
        Self::with(compiling, key, source, "credential")
    }

    /// Compiles a rule over the request and one more variable.
    pub(crate) fn over(compiling: &mut Compiling<'_>, key: String, source: &Expression, extra: &str) -> Option<Self> {
        Self::with(compiling, key, source, extra)
    }

    fn with(compiling: &mut Compiling<'_>, key: String, source: &Expression, extra: &str) -> Option<Self> {
        match Self::parse(key.clone(), &source.0, extra) {
            Ok(program) => Some(program),
            Err(message) => {
                compiling.error(key, message);
                None
            }
        }
    }

    fn parse(key: String, source: &str, extra: &str) -> Result<Self, String> {
        let inner = cel::Program::compile(source).map_err(|errors| {
            let place =
                |error: &cel::ParseError| format!("line {}, column {}: {}", error.pos.0, error.pos.1, error.msg);
            errors.errors.iter().map(place).collect::<Vec<_>>().join("; ")
        })?;
        let references = inner.references();
        let mut unknown: Vec<&str> = references
            .variables()
            .into_iter()
            .filter(|name| !VARIABLES.contains(name) && *name != extra && !is_bound(source, name))
            .collect();
        unknown.sort_unstable();
        if let Some(name) = unknown.first() {
            return Err(format!("`{name}` is unknown; there are {}, {extra}", VARIABLES.join(", ")));
        }
        let uses_now = references.has_variable("now");
        let program = Self { key, inner, uses_now };
        program.rehearse(extra)?;
        Ok(program)
    }

    /// Runs the expression once over an empty request: a function that does not exist shows itself.
    fn rehearse(&self, extra: &str) -> Result<(), String> {
        let mut context = Context::default();
        for name in VARIABLES.into_iter().chain([extra]) {
            context.add_variable_from_value(name, Value::Null);
        }
        match self.inner.execute(&context) {
            Err(ExecutionError::UndeclaredReference(name)) => Err(format!("`{name}` is unknown")),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn error(&self, message: impl fmt::Display) -> CheckError {
        CheckError::Expression { key: self.key.clone(), message: message.to_string() }
    }

    /// The key path of the expression in the configuration.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Runs a rule; `Some` is what it answers instead of the upstream.
    pub(crate) fn rule<'p>(&self, cx: &mut Cx<'_, '_, '_>, form: Form) -> Result<Option<Objection<'p>>, CheckError> {
        let value = self.run(cx, None)?;
        match value {
            Value::Null | Value::Bool(false) => Ok(None),
            Value::Bool(true) => Ok(Some(Objection { form, ..Objection::new(403, "Forbidden") })),
            Value::Map(map) => answer(&map, form).map(Some).map_err(|message| self.error(message)),
            _ => Err(self.error("a rule yields null, a boolean or a map")),
        }
    }

    /// Evaluates a condition over the request.
    pub(crate) fn is_met(&self, cx: &mut Cx<'_, '_, '_>) -> Result<bool, CheckError> {
        match self.run(cx, None)? {
            Value::Bool(holds) => Ok(holds),
            Value::Null => Ok(false),
            _ => Err(self.error("a condition yields a boolean")),
        }
    }

    /// Evaluates to a text that requests may have in common; null and the empty text are none.
    pub(crate) fn common(&self, cx: &mut Cx<'_, '_, '_>) -> Result<Option<String>, CheckError> {
        Ok(match self.run(cx, None)? {
            Value::Null => None,
            Value::String(text) => (!text.is_empty()).then(|| text.to_string()),
            Value::Int(number) => Some(number.to_string()),
            Value::UInt(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => return Err(self.error("a key yields a text, a number, a boolean or null")),
        })
    }

    /// Runs a verifier; `Some` is the principal, `None` a rejection.
    pub(crate) fn accepts(
        &self,
        cx: &mut Cx<'_, '_, '_>,
        credential: &str,
    ) -> Result<Option<Cow<'static, str>>, CheckError> {
        let value = self.run(cx, Some(("credential", Value::from(credential))))?;
        Ok(match &value {
            Value::Null | Value::Bool(false) => None,
            Value::Bool(true) => Some(Cow::Borrowed("")),
            Value::String(text) => (!text.is_empty()).then(|| Cow::Owned(text.to_string())),
            Value::Map(map) => (!map.map.is_empty()).then(|| Cow::Owned(json(&value).to_string())),
            Value::Int(0) | Value::UInt(0) => None,
            _ => return Err(self.error("a verifier yields null, a boolean, a text or a map")),
        })
    }

    /// Evaluates to the action that a behaviour rule takes; `None` is none at all.
    pub(crate) fn choose(
        &self,
        cx: &mut Cx<'_, '_, '_>,
        violation: &Violation<'_>,
    ) -> Result<Option<BehaviorAction>, CheckError> {
        const ALL: [BehaviorAction; 4] =
            [BehaviorAction::Ban, BehaviorAction::Log, BehaviorAction::Throttle, BehaviorAction::Alert];
        let texts = [("endpoint", violation.endpoint), ("rule_type", violation.kind), ("details", violation.details)];
        let numbers =
            violation.numbers().map(|(name, number)| (name, Value::Int(number.try_into().unwrap_or(i64::MAX))));
        let fields = map(texts.map(|(name, text)| (name, Value::from(text))).into_iter().chain(numbers));
        let unknown = || self.error("an action is `ban`, `log`, `throttle`, `alert`, a boolean or null");
        match self.run(cx, Some(("violation", fields)))? {
            Value::Null | Value::Bool(false) => Ok(None),
            Value::Bool(true) => Ok(Some(BehaviorAction::Ban)),
            Value::String(text) => {
                ALL.into_iter().find(|action| act::name(*action) == text.as_str()).map(Some).ok_or_else(unknown)
            }
            _ => Err(unknown()),
        }
    }

    /// Evaluates a condition over the request and a response.
    pub(crate) fn holds<'h>(
        &self,
        cx: &mut Cx<'_, '_, '_>,
        response: Response<impl Iterator<Item = (&'h str, &'h str)>>,
    ) -> Result<bool, CheckError> {
        let headers = response.headers.map(|(name, value)| (name, Value::from(value)));
        let response = map([("status", Value::Int(response.status.into())), ("headers", map(headers))]);
        match self.run(cx, Some(("response", response)))? {
            Value::Bool(holds) => Ok(holds),
            _ => Err(self.error("a condition yields a boolean")),
        }
    }

    fn run(&self, cx: &mut Cx<'_, '_, '_>, extra: Option<(&str, Value)>) -> Result<Value, CheckError> {
        let environment = &cx.policy.environment;
        let request = request(cx);
        let mut context = environment.root.new_inner_scope();
        context.add_variable_from_value("request", request);
        context.add_variable_from_value("client", client(cx));
        let route = cx.route.and_then(|id| cx.policy.routes.name(id)).unwrap_or_default();
        context.add_variable_from_value("route", map([("id", Value::from(route))]));
        if self.uses_now {
            context.add_variable_from_value("now", environment.timestamp(cx.now));
        }
        if let Some((name, value)) = extra {
            context.add_variable_from_value(name, value);
        }
        self.inner.execute(&context).map_err(|error| self.error(shape(&error)))
    }
}

/// True when a macro such as `exists(name, ...)` binds the name.
fn is_bound(source: &str, name: &str) -> bool {
    source.match_indices(name).any(|(at, _)| {
        let (before, rest) = source.split_at(at);
        let after = rest.strip_prefix(name).unwrap_or_default();
        before.trim_end().ends_with('(') && after.trim_start().starts_with(',')
    })
}

/// What went wrong, without the values involved: they may hold what a client or a user wants secret.
fn shape(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::NoSuchKey(_) => "a key does not exist",
        ExecutionError::NoSuchOverload(_) | ExecutionError::UnexpectedType { .. } => "a value has the wrong type",
        ExecutionError::UndeclaredReference(_) => "a name is unknown",
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero",
        ExecutionError::IndexOutOfBounds(_) => "an index is out of bounds",
        _ => "the expression failed",
    }
}

fn answer<'p>(map: &Map, form: Form) -> Result<Objection<'p>, String> {
    let field = |name: &str| map.map.get(&Key::from(name));
    let status = match field("status") {
        None | Some(Value::Null) => 403,
        Some(Value::Int(status)) => u16::try_from(*status).unwrap_or(0),
        Some(Value::UInt(status)) => u16::try_from(*status).unwrap_or(0),
        Some(_) => return Err("`status` is a number".to_owned()),
    };
    if !(300..=599).contains(&status) {
        return Err("`status` lies between 300 and 599".to_owned());
    }
    let body = match field("body") {
        None | Some(Value::Null) => Cow::Borrowed("Forbidden"),
        Some(Value::String(text)) => Cow::Owned(text.to_string()),
        Some(_) => return Err("`body` is a text".to_owned()),
    };
    let mut headers = SmallVec::new();
    match field("headers") {
        None | Some(Value::Null) => {}
        Some(Value::Map(fields)) => {
            for (name, value) in fields.map.iter() {
                headers.push(header(name, value)?);
            }
        }
        Some(_) => return Err("`headers` is a map".to_owned()),
    }
    // A map has no order of its own; answers should not differ from run to run.
    headers.sort_by(|a: &HeaderEdit<'_>, b| a.name.cmp(&b.name));
    Ok(Objection { status, body, form, headers })
}

fn header<'p>(name: &Key, value: &Value) -> Result<HeaderEdit<'p>, String> {
    match (name, value) {
        (Key::String(name), Value::String(value)) if is_token(name) => {
            Ok(HeaderEdit::set(name.to_ascii_lowercase(), clean(value)?))
        }
        _ => Err("`headers` maps header names to texts".to_owned()),
    }
}

fn map<'k>(fields: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    fields.into_iter().map(|(name, value)| (Key::from(name), value)).collect::<HashMap<Key, Value>>().into()
}

fn request(cx: &mut Cx<'_, '_, '_>) -> Value {
    if let Some(scope) = &cx.scope {
        return scope.request.clone();
    }
    let request = cx.request;
    let mut headers: HashMap<String, String> = HashMap::new();
    for field in request.headers.iter() {
        let value = String::from_utf8_lossy(field.value);
        headers
            .entry(field.name.to_ascii_lowercase())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let bytes = request.body.bytes();
    let inspected = bytes.get(..cx.policy.environment.body_bytes_max).unwrap_or(bytes);
    let is_truncated = request.body.is_partial() || inspected.len() < bytes.len();
    let value = map([
        ("method", Value::from(request.method)),
        ("path", Value::from(&*cx.path)),
        ("raw_path", Value::from(request.target.raw)),
        ("query", query(request.target.query.unwrap_or_default())),
        ("headers", map(headers.iter().map(|(name, value)| (name.as_str(), Value::from(value.as_str()))))),
        ("scheme", Value::from(request.scheme)),
        ("host", Value::from(request.host)),
        ("body", Value::from(inspected.to_vec())),
        ("body_truncated", Value::Bool(is_truncated)),
        ("client_ip", Value::from(cx.client.to_string())),
        ("country", country(cx)),
    ]);
    cx.scope = Some(Box::new(Scope { request: value.clone() }));
    value
}

fn client(cx: &mut Cx<'_, '_, '_>) -> Value {
    map([
        ("ip", Value::from(cx.client.to_string())),
        ("country", country(cx)),
        ("asn", cx.operator().map_or(Value::Null, |operator| Value::UInt(operator.asn.into()))),
        ("organisation", cx.operator().and_then(|operator| operator.name).map_or(Value::Null, Value::from)),
        ("is_whitelisted", Value::Bool(cx.is_whitelisted())),
        ("is_exempt", Value::Bool(cx.is_exempt())),
    ])
}

fn country(cx: &mut Cx<'_, '_, '_>) -> Value {
    cx.country().map_or(Value::Null, |code| Value::from(code.as_str()))
}

fn query(text: &str) -> Value {
    let mut values: HashMap<String, Vec<String>> = HashMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        values.entry(form_text(name)).or_default().push(form_text(value));
    }
    map(values.iter().map(|(name, values)| (name.as_str(), Value::from(values.clone()))))
}

fn form_text(text: &str) -> String {
    decode_once(&text.replace('+', " ")).into_owned()
}

fn json(value: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::UInt(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::String(text) => Json::from(text.as_str()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(fields) => {
            let name = |key: &Key| match key {
                Key::String(text) => text.to_string(),
                Key::Int(value) => value.to_string(),
                Key::Uint(value) => value.to_string(),
                Key::Bool(value) => value.to_string(),
            };
            let mut pairs: Vec<_> = fields.map.iter().map(|(key, value)| (name(key), json(value))).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(pairs.into_iter().collect())
        }
        _ => Json::Null,
    }
}
