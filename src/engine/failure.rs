//! What happens when a check cannot decide: one function, one table.

use crate::config::security::SecurityConfig;
use crate::state::StateError;

/// Why a check could not decide. Never the value of a header, a body or a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CheckError {
    /// State did not answer.
    #[error(transparent)]
    State(#[from] StateError),
    /// An expression did not yield a ruling.
    #[error("{key}: {message}")]
    Expression {
        /// Which expression.
        key: String,
        /// What went wrong.
        message: String,
    },
    /// A header that the check needs makes no sense.
    #[error("header `{0}` is not a number")]
    Header(&'static str),
}

/// What the pipeline does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OnFailure {
    /// Goes on as if the check had not been there.
    Skip,
    /// Answers 500, in passive mode too.
    Refuse,
}

/// The settings that say what a failure means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailureRule {
    fail_secure: bool,
    redis_fail_open: bool,
}

impl FailureRule {
    pub(crate) const fn new(security: &SecurityConfig) -> Self {
        Self { fail_secure: security.fail_secure, redis_fail_open: security.redis_fail_open }
    }

    /// True when a client without an address is refused before anything else.
    pub(crate) const fn refuses_unknown(self) -> bool {
        self.fail_secure
    }

    /// Turns a failure into what happens next. Passive mode makes no difference.
    pub(crate) const fn apply(self, error: &CheckError) -> OnFailure {
        match error {
            // State that is lost is degraded by the backend; what reaches us here is skipped when the user says so.
            CheckError::State(_) if self.redis_fail_open => OnFailure::Skip,
            CheckError::State(_) | CheckError::Expression { .. } | CheckError::Header(_) => {
                if self.fail_secure {
                    OnFailure::Refuse
                } else {
                    OnFailure::Skip
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_matrix() {
        let lost = || CheckError::State(StateError::Deadline);
        let other = || CheckError::Header("content-length");
        for (name, error, fail_secure, redis_fail_open, expected) in [
            ("state lost, strict", lost(), true, false, OnFailure::Refuse),
            ("state lost, fail open wins", lost(), true, true, OnFailure::Skip),
            ("state lost, insecure", lost(), false, false, OnFailure::Skip),
            ("state lost, insecure and open", lost(), false, true, OnFailure::Skip),
            ("any other failure, strict", other(), true, false, OnFailure::Refuse),
            ("fail open is about state only", other(), true, true, OnFailure::Refuse),
            ("any other failure, insecure", other(), false, true, OnFailure::Skip),
            ("any other failure, insecure and closed", other(), false, false, OnFailure::Skip),
        ] {
            assert_eq!(FailureRule { fail_secure, redis_fail_open }.apply(&error), expected, "{name}");
        }
    }
}
