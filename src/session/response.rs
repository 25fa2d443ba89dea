//! The body of a response: gathered from its beginning up to a bound, and looked at before it goes on.

use bytes::Bytes;

use crate::session::gather::Gather;
use crate::session::{BodyMode, Look, ResponseUnit};

/// What is known of a response body.
#[derive(Debug, Default)]
pub(super) struct Response {
    pub(super) look: Look,
    gather: Gather,
    /// Bytes that were looked at.
    seen: usize,
    /// The part under inspection as it goes on, when it has to be sent back.
    pub(super) held: Vec<Bytes>,
    /// The headers wait for the body.
    pub(super) holds_headers: bool,
    is_last: bool,
    is_whole: bool,
}

impl Response {
    pub(super) fn kept(&self) -> usize {
        self.gather.len() + self.held.iter().map(Bytes::len).sum::<usize>()
    }

    /// The bytes under inspection.
    pub(super) fn unit(&self) -> ResponseUnit<'_> {
        ResponseUnit { bytes: self.gather.unit(), fresh: self.seen, is_last: self.is_last, is_whole: self.is_whole }
    }

    /// Takes a part. Returns true when it is to be inspected now.
    pub(super) fn take(&mut self, bytes: &Bytes, end: bool, max: usize) -> bool {
        let excess = self.gather.take(bytes.clone(), max);
        self.gather.mark_all();
        self.is_last = end || !excess.is_empty() || max <= self.gather.len();
        self.is_whole = end && excess.is_empty();
        self.seen < self.gather.len() || self.is_last
    }

    /// The body ended in trailers. Returns true when it has still to be inspected as a whole.
    pub(super) fn end(&mut self) -> bool {
        (self.is_last, self.is_whole) = (true, true);
        self.look != Look::Away
    }

    /// What was under inspection was looked at.
    pub(super) fn inspected(&mut self) {
        self.seen = self.gather.len();
        if self.is_last {
            self.look = Look::Away;
            self.gather = Gather::default();
        }
    }

    /// True when nothing of this body may go on yet.
    pub(super) fn waits(&self, mode: BodyMode) -> bool {
        self.look == Look::Before && mode == BodyMode::FullDuplex && !self.is_last
    }
}
