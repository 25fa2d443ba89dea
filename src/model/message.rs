//! The seam between telemetry, which sends messages, and the expressions that write them.

use std::fmt;

use serde_json::Value;

/// Writes a message out of what it is about. Compiled once; called beside the request path.
pub trait Compose: fmt::Debug + Send + Sync {
    /// The message about `payload`: text, or anything JSON can say.
    ///
    /// # Errors
    /// What went wrong, without any value of the payload.
    fn compose(&self, payload: &Value) -> Result<Value, String>;
}
