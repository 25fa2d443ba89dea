//! Messages of hooks as CEL expressions: over `payload`, or over the `events` of a batch.

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::Key;
use cel::{Context, ExecutionError, Value};
use serde_json::Value as Json;

use crate::config::values::Expression;
use crate::engine::expression::{is_bound, json, shape};
use crate::engine::policy::Compiling;
use crate::model::message::Compose;

/// Nesting of a payload that an expression sees.
const DEPTH_MAX: usize = 16;

/// The messages of a policy, compiled.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// Of `security.on_block`.
    pub on_block: Option<Arc<dyn Compose>>,
    /// Of `security.on_error`.
    pub on_error: Option<Arc<dyn Compose>>,
    /// Of `telemetry.webhook`.
    pub webhook: Option<Arc<dyn Compose>>,
}

impl Messages {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Self {
        let config = compiling.config;
        let hook = |hook: &Option<crate::config::values::Hook>| hook.as_ref().and_then(|hook| hook.message.clone());
        let (on_block, on_error) = (hook(&config.security.on_block), hook(&config.security.on_error));
        let webhook = config.telemetry.webhook.as_ref().and_then(|webhook| webhook.message.clone());
        Self {
            on_block: message(compiling, "security.on_block.message", "payload", on_block),
            on_error: message(compiling, "security.on_error.message", "payload", on_error),
            webhook: message(compiling, "telemetry.webhook.message", "events", webhook),
        }
    }
}

fn message(
    compiling: &mut Compiling<'_>,
    key: &str,
    variable: &'static str,
    source: Option<Expression>,
) -> Option<Arc<dyn Compose>> {
    match Message::parse(&source?.0, variable) {
        Ok(message) => Some(Arc::new(message)),
        Err(error) => {
            compiling.error(key, error);
            None
        }
    }
}

/// One compiled expression and the name it knows its payload by.
#[derive(Debug)]
struct Message {
    inner: cel::Program,
    variable: &'static str,
}

impl Message {
    fn parse(source: &str, variable: &'static str) -> Result<Self, String> {
        let inner = cel::Program::compile(source).map_err(|errors| {
            let place =
                |error: &cel::ParseError| format!("line {}, column {}: {}", error.pos.0, error.pos.1, error.msg);
            errors.errors.iter().map(place).collect::<Vec<_>>().join("; ")
        })?;
        let references = inner.references();
        let unknown = references.variables().into_iter().find(|name| *name != variable && !is_bound(source, name));
        if let Some(name) = unknown {
            return Err(format!("`{name}` is unknown; there is {variable}"));
        }
        let message = Self { inner, variable };
        // A function that does not exist shows itself.
        match message.run(&Json::Null) {
            Err(ExecutionError::UndeclaredReference(name)) => Err(format!("`{name}` is unknown")),
            Ok(_) | Err(_) => Ok(message),
        }
    }

    fn run(&self, payload: &Json) -> Result<Value, ExecutionError> {
        let mut context = Context::default();
        context.add_variable_from_value(self.variable, value(payload, DEPTH_MAX));
        self.inner.execute(&context)
    }
}

impl Compose for Message {
    fn compose(&self, payload: &Json) -> Result<Json, String> {
        match self.run(payload) {
            Ok(value) => Ok(json(&value)),
            Err(error) => Err(shape(&error).to_owned()),
        }
    }
}

/// JSON as expressions see it; what is nested deeper is null.
fn value(json: &Json, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else { return Value::Null };
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Float(number),
            (None, None) => Value::Null,
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(|item| value(item, depth)).collect::<Vec<_>>()),
        Json::Object(fields) => fields
            .iter()
            .map(|(name, item)| (Key::from(name.as_str()), value(item, depth)))
            .collect::<HashMap<Key, Value>>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expression_writes_the_message() {
        let payload = json!({"check_name": "ip_security", "status_code": 403, "nested": [{"a": 1.5}]});
        for (source, expected) in [
            ("payload.check_name + ' refused'", json!("ip_security refused")),
            ("{'text': payload.check_name, 'code': payload.status_code}", json!({"code": 403, "text": "ip_security"})),
            ("payload.nested.map(n, n.a)", json!([1.5])),
            ("payload", payload.clone()),
        ] {
            let message = Message::parse(source, "payload").unwrap();
            assert_eq!(message.compose(&payload), Ok(expected), "{source}");
        }
    }

    #[test]
    fn a_mistake_is_found_when_the_policy_is_compiled() {
        for (source, expected) in [
            ("request.path", "`request` is unknown; there is payload"),
            ("nosuch(payload)", "`nosuch` is unknown"),
            ("payload +", "line 1"),
        ] {
            let error = Message::parse(source, "payload").unwrap_err();
            assert!(error.contains(expected), "{source}: {error}");
        }
        let message = Message::parse("payload.missing", "payload").unwrap();
        assert_eq!(message.compose(&json!({"secret": 1})), Err("a key does not exist".to_owned()));
    }
}
