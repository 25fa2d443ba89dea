//! The request's side: what is decided, gathered, inspected and let go.

use bytes::Bytes;

use crate::session::machine::{Awaits, Scan, Session, chunk};
use crate::session::{Answer, BodyKind, BodyMode, Breach, Chunk, Command, ECHO_BYTES_MAX, Inspected, Modes, Ruling};

impl Session {
    /// Takes the ruling about the request's headers.
    pub fn decided(&mut self, ruling: Ruling) {
        let Some(Awaits::Decision { end }) = self.awaits.take() else { return self.fail(Breach::Busy) };
        let plan = match ruling {
            Ruling::Pass(plan) => plan,
            Ruling::Refuse => return self.close(Answer::Refusal),
        };
        self.plan = plan;
        // Also when Envoy says that it sends none: should one come, it is not let pass unseen.
        let has_body = !end && self.kind != BodyKind::Tunnel;
        self.scan = match (plan.request_body && has_body, self.kind) {
            (false, _) => Scan::Off,
            // A call may be a conversation: its first message may wait for our headers.
            (true, BodyKind::Whole) if self.is_duplex() && !self.setup.observed => Scan::Holds,
            (true, _) => Scan::Gathers,
        };
        if self.scan != Scan::Holds {
            self.answer_request_headers(end);
        }
    }

    /// Takes the result of an inspection.
    pub fn inspected(&mut self, inspected: Inspected) {
        let is_of_request =
            |awaits: &Awaits| matches!(awaits, Awaits::Part { .. } | Awaits::Trailers | Awaits::Response { .. });
        let Some(awaits) = self.awaits.take().filter(is_of_request) else {
            return self.fail(Breach::Busy);
        };
        if inspected == Inspected::Refused {
            return self.close(Answer::Refusal);
        }
        match awaits {
            Awaits::Response { end } => self.judge(end),
            Awaits::Trailers => {
                self.let_go(false);
                self.scan = Scan::Off;
                self.answer(Answer::RequestTrailers);
            }
            Awaits::Part { end, .. } => {
                self.let_go(end);
                // A buffered body is one part; what would follow it against the rule is a body of its own.
                if end || self.kind == BodyKind::Whole && !self.is_buffered() {
                    self.scan = Scan::Off;
                }
                if !self.is_duplex() {
                    self.answer(Answer::RequestBody(Chunk::Continue));
                }
            }
            Awaits::Decision { .. }
            | Awaits::Judgement { .. }
            | Awaits::ResponsePart { .. }
            | Awaits::ResponseTrailers => {}
        }
    }

    pub(super) fn request_body(&mut self, bytes: Bytes, end: bool) {
        match (self.scan, self.kind) {
            (Scan::Off, _) => {
                let chunk = chunk(self.setup.request_body, bytes, end);
                self.answer(Answer::RequestBody(chunk));
            }
            (Scan::Gathers, BodyKind::Messages) => self.request_messages(bytes, end),
            (Scan::Gathers | Scan::Holds, _) => self.request_part(bytes, end),
        }
    }

    /// A part of a body that is inspected as one.
    fn request_part(&mut self, bytes: Bytes, end: bool) {
        let excess = self.gather.take(bytes, self.setup.bytes_max);
        let is_cut = !excess.is_empty();
        // Nothing but what is held needs the bytes again.
        self.excess = if self.scan == Scan::Holds { excess } else { Bytes::new() };
        if end || is_cut || self.is_buffered() {
            let is_all = end || self.setup.request_body == BodyMode::Buffered;
            self.inspect(Awaits::Part { end, is_complete: is_all && !is_cut });
        } else if self.scan == Scan::Gathers {
            self.answer(Answer::RequestBody(Chunk::Continue));
        }
    }

    /// A part of a body of messages: a whole message is inspected before its last byte goes on.
    fn request_messages(&mut self, bytes: Bytes, end: bool) {
        let judged = self.gather.take_messages(bytes);
        let is_complete = if end || self.is_buffered() {
            self.gather.mark_all();
            self.gather.len() <= self.setup.bytes_max
        } else {
            self.gather.mark_messages(self.setup.bytes_max)
        };
        if self.is_duplex() && !judged.is_empty() {
            let is_last = end && self.gather.is_empty();
            self.answer(Answer::RequestBody(Chunk::Echo { bytes: judged, end: is_last }));
            if is_last {
                return;
            }
        }
        if !self.gather.unit().is_empty() {
            self.ask(Awaits::Part { end, is_complete }, Command::Inspect);
        } else if !self.is_duplex() {
            self.answer(Answer::RequestBody(Chunk::Continue));
        } else if end {
            self.answer(Answer::RequestBody(Chunk::Echo { bytes: Bytes::new(), end }));
        }
    }

    pub(super) fn request_trailers(&mut self) {
        match self.scan {
            Scan::Off => self.answer(Answer::RequestTrailers),
            Scan::Gathers | Scan::Holds => self.inspect(Awaits::Trailers),
        }
    }

    /// Asks for an inspection of all that is here; nothing is nothing to inspect.
    pub(super) fn inspect(&mut self, awaits: Awaits) {
        self.gather.mark_all();
        if self.gather.is_empty() {
            self.awaits = Some(awaits);
            self.inspected(Inspected::Clean);
        } else {
            self.ask(awaits, Command::Inspect);
        }
    }

    /// Lets go what was inspected: to Envoy where it has to be sent back, else nowhere.
    fn let_go(&mut self, end: bool) {
        let mut bytes = self.gather.release();
        if !self.is_duplex() {
            return;
        }
        if self.scan == Scan::Holds {
            self.answer_request_headers(false);
        }
        let excess = std::mem::take(&mut self.excess);
        while ECHO_BYTES_MAX < bytes.len() {
            let piece = bytes.split_to(ECHO_BYTES_MAX);
            self.answer(Answer::RequestBody(Chunk::Echo { bytes: piece, end: false }));
        }
        let has_excess = !excess.is_empty();
        if !bytes.is_empty() || end && !has_excess {
            self.answer(Answer::RequestBody(Chunk::Echo { bytes, end: end && !has_excess }));
        }
        if has_excess {
            self.answer(Answer::RequestBody(Chunk::Echo { bytes: excess, end }));
        }
    }

    fn answer_request_headers(&mut self, end: bool) {
        let modes = self.modes(end);
        self.answer(Answer::RequestHeaders(modes));
    }

    /// The modes to ask for, when they spare Envoy or us something, or close a gap.
    fn modes(&self, end: bool) -> Option<Modes> {
        let setup = &self.setup;
        let (from, to) = (setup.request_body, setup.response_body);
        if !setup.overridable || from == BodyMode::Unstated || to == BodyMode::Unstated {
            return None;
        }
        let is_seen = self.scan != Scan::Off;
        // Parts of a duplex body may be on their way already: they need their answers.
        let request_body = if is_seen || from == BodyMode::FullDuplex || end { from } else { BodyMode::None };
        let request_body = match request_body {
            BodyMode::Streamed if self.plan.holds_request => BodyMode::Buffered,
            other => other,
        };
        // Whether a body is looked at is known once its headers are; parts of a duplex body may come before that.
        let response_body = if self.plan.response_body && to == BodyMode::FullDuplex { to } else { BodyMode::None };
        // A streamed body may end in trailers; without them its end would never be seen.
        let request_trailers = request_body == BodyMode::FullDuplex || is_seen && from == BodyMode::Streamed;
        let modes = Modes {
            request_body,
            response_body,
            response_headers: self.plan.response_headers || self.plan.response_body,
            request_trailers,
            response_trailers: response_body == BodyMode::FullDuplex,
        };
        let closes_a_gap = is_seen && from == BodyMode::Streamed;
        let spares = request_body != from || response_body != to || !modes.response_headers;
        (closes_a_gap || spares).then_some(modes)
    }

    const fn is_buffered(&self) -> bool {
        matches!(self.setup.request_body, BodyMode::Buffered | BodyMode::BufferedPartial)
    }

    pub(super) const fn is_duplex(&self) -> bool {
        matches!(self.setup.request_body, BodyMode::FullDuplex)
    }
}
