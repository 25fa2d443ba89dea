//! Time as a value: the edge reads the clock once per request and passes it down.

use std::num::NonZeroU32;
use std::time::Duration;

/// Seconds since the Unix epoch, as guard-core stores them (IEEE double, about 0.24 µs resolution today).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Default)]
pub struct Timestamp(pub f64);

impl Timestamp {
    /// The moment `seconds` later.
    #[must_use]
    pub fn plus(self, seconds: f64) -> Self {
        Self(self.0 + seconds)
    }

    /// Seconds from `earlier` to `self`; negative when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> f64 {
        self.0 - earlier.0
    }
}

/// A sliding window or lifetime in whole seconds that cannot be zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Window(NonZeroU32);

impl Window {
    /// The window of `seconds`, or `None` for zero.
    #[must_use]
    pub const fn new(seconds: u32) -> Option<Self> {
        match NonZeroU32::new(seconds) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0.get()
    }

    /// The length as a `Duration`.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0.get() as u64)
    }
}

impl schemars::JsonSchema for Window {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Window".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": u32::MAX, "description": "seconds"})
    }
}
