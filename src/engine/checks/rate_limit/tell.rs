//! Header fields that tell a client about limits: RateLimit-Policy and RateLimit of the IETF's httpapi draft, and the
//! X-RateLimit-* fields in common use.

use std::fmt::Write as _;

use smallvec::SmallVec;

use crate::config::rate_limits::{LimitHeaders, RateLimitsConfig};
use crate::model::headers::HeaderEdit;

/// Which fields are sent, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tells {
    standard: bool,
    legacy: bool,
    pub(crate) on_allowed: bool,
}

/// How one limit stands after a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level<'a> {
    pub(crate) name: &'a str,
    pub(crate) requests: u32,
    /// Seconds.
    pub(crate) window: u32,
    pub(crate) remaining: u64,
    /// Seconds until there is more room.
    pub(crate) reset: u64,
}

impl Tells {
    pub(crate) const fn new(config: &RateLimitsConfig) -> Self {
        let (standard, legacy) = match config.headers {
            LimitHeaders::None => (false, false),
            LimitHeaders::Standard => (true, false),
            LimitHeaders::Legacy => (false, true),
            LimitHeaders::Both => (true, true),
        };
        Self { standard, legacy, on_allowed: config.on_allowed && (standard || legacy) }
    }

    /// The fields for these limits. Of several the strictest is told: the one with least left, and of those the one that
    /// takes longest.
    pub(crate) fn headers<'p>(self, levels: &[Level<'_>]) -> SmallVec<[HeaderEdit<'p>; 1]> {
        let mut headers = SmallVec::new();
        let strictest = levels.iter().min_by_key(|level| (level.remaining, u64::MAX - level.reset));
        let Some(strictest) = strictest else { return headers };
        if self.standard {
            let mut policy = String::new();
            for level in levels {
                let separator = if policy.is_empty() { "" } else { ", " };
                // Writing into a string cannot fail.
                write!(policy, "{separator}\"{}\";q={};w={}", level.name, level.requests, level.window)
                    .unwrap_or_default();
            }
            headers.push(HeaderEdit::set("ratelimit-policy", policy));
            let Level { name, remaining, reset, .. } = strictest;
            headers.push(HeaderEdit::set("ratelimit", format!("\"{name}\";r={remaining};t={reset}")));
        }
        if self.legacy {
            headers.push(HeaderEdit::set("x-ratelimit-limit", strictest.requests.to_string()));
            headers.push(HeaderEdit::set("x-ratelimit-remaining", strictest.remaining.to_string()));
            headers.push(HeaderEdit::set("x-ratelimit-reset", strictest.reset.to_string()));
        }
        headers
    }
}
