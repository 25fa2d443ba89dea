//! The response's side: what is judged, looked at and sent on.

use bytes::Bytes;

use crate::session::machine::{Awaits, Scan, Session, chunk};
use crate::session::{Answer, BodyMode, Breach, Chunk, Command, ECHO_BYTES_MAX, Inspected, Judgement, Look, Modes};

impl Session {
    /// Takes what the policy says to the response's headers.
    pub fn judged(&mut self, judgement: Judgement) {
        let Some(Awaits::Judgement { end }) = self.awaits.take() else { return self.fail(Breach::Busy) };
        match judgement {
            Judgement::Refuse => self.close(Answer::Refusal),
            Judgement::Pass(look) => {
                self.body.look = if end { Look::Away } else { look };
                let is_held = self.body.waits(self.setup.response_body) && !self.setup.observed;
                self.body.holds_headers = is_held;
                if !is_held {
                    self.answer_response_headers();
                }
            }
        }
    }

    /// Takes the result of an inspection of the response's body.
    pub fn response_inspected(&mut self, inspected: Inspected) {
        let awaits = self.awaits.take();
        let Some(awaits @ (Awaits::ResponsePart { .. } | Awaits::ResponseTrailers)) = awaits else {
            return self.fail(Breach::Busy);
        };
        if inspected == Inspected::Refused {
            return self.close(Answer::Refusal);
        }
        self.body.inspected();
        if std::mem::take(&mut self.body.holds_headers) {
            self.answer_response_headers();
        }
        match awaits {
            Awaits::ResponsePart { .. } if !self.has_duplex_response() => {
                self.answer(Answer::ResponseBody(Chunk::Continue));
            }
            Awaits::ResponsePart { end } => self.send_response_back(end),
            _ => {
                self.send_response_back(false);
                self.answer(Answer::ResponseTrailers);
            }
        }
    }

    /// Gives up looking at the response's body: what was to be looked at before it goes on is refused, the rest goes on
    /// unseen. False when the exchange ended.
    pub fn overlook_response(&mut self) -> bool {
        match self.body.look {
            Look::Before => {
                self.refuse();
                false
            }
            Look::Along | Look::Away => {
                self.body.look = Look::Away;
                true
            }
        }
    }

    pub(super) fn response_headers(&mut self, end: bool) {
        // An upstream answers before the body's end was seen: it answers early, or the body ended in trailers that
        // Envoy does not show. What came is looked at now; more may follow. What is held never reached the upstream.
        if self.scan == Scan::Gathers && !self.gather.is_empty() {
            self.inspect(Awaits::Response { end });
        } else {
            self.judge(end);
        }
    }

    pub(super) fn judge(&mut self, end: bool) {
        self.ask(Awaits::Judgement { end }, Command::Judge);
    }

    pub(super) fn response_body(&mut self, bytes: Bytes, end: bool) {
        let mode = self.setup.response_body;
        if self.body.look == Look::Away {
            return self.answer(Answer::ResponseBody(chunk(mode, bytes, end)));
        }
        let is_to_be_inspected = self.body.take(&bytes, end, self.setup.response_bytes_max);
        if self.has_duplex_response() {
            self.body.held.push(bytes);
        }
        if is_to_be_inspected && !self.body.waits(mode) {
            self.ask(Awaits::ResponsePart { end }, Command::InspectResponse);
        } else if !self.has_duplex_response() {
            self.answer(Answer::ResponseBody(Chunk::Continue));
        }
    }

    /// Sends on what of the response was looked at and is ours to send.
    fn send_response_back(&mut self, end: bool) {
        let held = std::mem::take(&mut self.body.held);
        let last = held.len().saturating_sub(1);
        for (place, mut bytes) in held.into_iter().enumerate() {
            while ECHO_BYTES_MAX < bytes.len() {
                let piece = bytes.split_to(ECHO_BYTES_MAX);
                self.answer(Answer::ResponseBody(Chunk::Echo { bytes: piece, end: false }));
            }
            self.answer(Answer::ResponseBody(Chunk::Echo { bytes, end: end && place == last }));
        }
    }

    fn answer_response_headers(&mut self) {
        let modes = self.response_modes();
        self.answer(Answer::ResponseHeaders(modes));
    }

    /// The modes to ask for once it is known whether the body is to be looked at.
    fn response_modes(&self) -> Option<Modes> {
        let setup = &self.setup;
        let wanted = match self.body.look {
            Look::Away => return None,
            Look::Along => BodyMode::Streamed,
            // A body that outgrows Envoy's buffer is looked at as far as it goes.
            Look::Before => BodyMode::BufferedPartial,
        };
        if !setup.overridable || setup.response_body == BodyMode::FullDuplex {
            return None;
        }
        Some(Modes {
            request_body: setup.request_body,
            response_body: wanted,
            response_headers: true,
            request_trailers: false,
            // A body may end in trailers; without them its end would never be seen.
            response_trailers: true,
        })
    }

    const fn has_duplex_response(&self) -> bool {
        matches!(self.setup.response_body, BodyMode::FullDuplex)
    }
}
