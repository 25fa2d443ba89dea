//! What each check saw, for `explain`. The core has no clock: an implementation that wants times reads its own between
//! `begin` and `end`.

use crate::model::check::Check;

/// How a check ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome<'a> {
    /// It did not run, and why.
    Skipped(&'static str),
    /// It had no objection.
    Passed,
    /// It objects, and passive mode lets the request go on.
    WouldDeny {
        /// Status that active mode would answer.
        status: u16,
    },
    /// It ends the request.
    Denied {
        /// Status of the answer.
        status: u16,
    },
    /// It could not decide; the failure rule says what follows.
    Failed(&'a str),
}

/// Listens to a decision.
pub trait Trace {
    /// A check is about to run. Not called for a check that is skipped.
    fn begin(&mut self, check: Check);
    /// A check ended, or was skipped.
    fn end(&mut self, check: Check, outcome: Outcome<'_>);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untraced;

impl Trace for Untraced {
    #[inline]
    fn begin(&mut self, _: Check) {}

    #[inline]
    fn end(&mut self, _: Check, _: Outcome<'_>) {}
}
