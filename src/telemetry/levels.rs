//! Which of the service's own log lines are written: by the configuration, or for a while by an operator.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;

use crate::model::time::Timestamp;

/// Writes a line at a level that only the configuration knows: tracing fixes the level of each call where it stands, so
/// `$line!(level, severity)` stands once for each.
macro_rules! leveled {
    ($level:expr, $line:ident) => {
        match $level {
            $crate::config::values::LogLevel::Debug => $line!(tracing::Level::DEBUG, None::<&str>),
            $crate::config::values::LogLevel::Info => $line!(tracing::Level::INFO, None::<&str>),
            $crate::config::values::LogLevel::Warning => $line!(tracing::Level::WARN, None::<&str>),
            $crate::config::values::LogLevel::Error => $line!(tracing::Level::ERROR, None::<&str>),
            $crate::config::values::LogLevel::Critical => $line!(tracing::Level::ERROR, Some("CRITICAL")),
        }
    };
}
pub(crate) use leveled;

/// Bytes of a filter at most.
pub const FILTER_BYTES_MAX: usize = 1024;
/// Seconds that an operator's filter may last, and does when nothing is said.
pub const SECONDS_MAX: u32 = 86_400;
/// As [`SECONDS_MAX`].
pub const SECONDS_DEFAULT: u32 = 600;

/// Puts a filter in force.
type Put = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// The filter in force, and that of the configuration.
pub struct Levels {
    put: Put,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    configured: String,
    own: Option<(String, Timestamp)>,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Shown {
    /// The filter in force.
    pub filter: String,
    /// That of the configuration.
    pub configured: String,
    /// When the configuration's is in force again, in seconds since the epoch; `None` when it is.
    pub until: Option<f64>,
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Levels {
    /// Levels that `put` puts in force, beginning with the configuration's filter, which is in force already.
    pub(super) fn new(configured: &str, put: Put) -> Self {
        Self { put, state: Mutex::new(State { configured: configured.to_owned(), own: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in force.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let state = self.state().clone();
        let (filter, until) = match state.own {
            Some((filter, until)) => (filter, Some(until.0)),
            None => (state.configured.clone(), None),
        };
        Shown { filter, configured: state.configured, until }
    }

    /// Puts an operator's filter in force until then.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&self, filter: &str, until: Timestamp) -> Result<(), String> {
        if FILTER_BYTES_MAX < filter.len() || filter.trim().is_empty() {
            return Err(format!("a filter has 1 to {FILTER_BYTES_MAX} bytes"));
        }
        let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        let mut state = self.state();
        if !(self.put)(parsed) {
            return Err("the log has ended".to_owned());
        }
        state.own = Some((filter.to_owned(), until));
        Ok(())
    }

    /// Puts the configuration's filter in force again; false when it is.
    pub fn reset(&self) -> bool {
        let mut state = self.state();
        let had = state.own.take().is_some();
        if had {
            self.put_configured(&state);
        }
        had
    }

    /// Takes over the filter of a new configuration, which waits while an operator's is in force.
    pub fn configure(&self, filter: &str) {
        let mut state = self.state();
        if state.configured != filter {
            filter.clone_into(&mut state.configured);
            if state.own.is_none() {
                self.put_configured(&state);
            }
        }
    }

    /// Ends an operator's filter whose time is over; true when there was one.
    pub fn expire(&self, now: Timestamp) -> bool {
        let is_over = self.state().own.as_ref().is_some_and(|(_, until)| until.0 <= now.0);
        is_over && self.reset()
    }

    /// A configuration's filter was checked when it was loaded; one that is no filter all the same changes nothing.
    fn put_configured(&self, state: &State) {
        if let Ok(filter) = EnvFilter::try_new(&state.configured) {
            (self.put)(filter);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_operators_filter_lasts_for_a_while() {
        let put = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&put);
        let levels = Levels::new(
            "info",
            Box::new(move |filter| {
                seen.lock().unwrap().push(filter.to_string());
                true
            }),
        );
        let now = |seconds: f64| Timestamp(seconds);
        assert_eq!(levels.shown(), Shown { filter: "info".into(), configured: "info".into(), until: None });
        assert!(!levels.reset(), "nothing to reset");
        levels.set("debug", now(10.0)).unwrap();
        assert_eq!(levels.shown(), Shown { filter: "debug".into(), configured: "info".into(), until: Some(10.0) });
        levels.configure("warn");
        assert_eq!(levels.shown().filter, "debug", "the configuration's waits");
        assert!(!levels.expire(now(9.9)));
        assert!(levels.expire(now(10.0)) && !levels.expire(now(11.0)));
        assert_eq!(levels.shown().filter, "warn");
        levels.set("error", now(20.0)).unwrap();
        assert!(levels.reset());
        assert!(levels.set("envoy_guard=loud", now(30.0)).is_err());
        assert!(levels.set(&"x".repeat(FILTER_BYTES_MAX + 1), now(30.0)).is_err());
        assert!(levels.set(" ", now(30.0)).is_err());
        assert_eq!(*put.lock().unwrap(), ["debug", "warn", "error", "warn"]);
    }
}
