//! The states of an exchange and what leads from one to the next.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::session::gather::Gather;
use crate::session::response::Response;
use crate::session::{
    Answer, BodyKind, BodyMode, Breach, Chunk, Command, ECHO_BYTES_MAX, EMPTY_CHUNKS_MAX, Ending, Event, Inspected,
    Judgement, Look, Modes, Plan, ResponseUnit, Ruling, Setup,
};

/// One exchange.
#[derive(Debug)]
pub struct Session {
    setup: Setup,
    request: Side,
    response: Side,
    kind: BodyKind,
    plan: Plan,
    scan: Scan,
    gather: Gather,
    body: Response,
    /// What did not fit into the gathered bytes, while they are held.
    excess: Bytes,
    awaits: Option<Awaits>,
    commands: VecDeque<Command>,
    is_closed: bool,
}

/// How far one direction has come.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    progress: Progress,
    empties: u32,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, PartialOrd)]
enum Progress {
    #[default]
    Nothing,
    Headers,
    Body,
    Ended,
}

/// What happens to the request body.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Scan {
    /// It goes on unseen.
    #[default]
    Off,
    /// It is gathered; its parts go on, except the one that completes it.
    Gathers,
    /// It is gathered, and nothing goes on before it was inspected, headers included.
    Holds,
}

/// Whose ruling is awaited, and what comes after it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Awaits {
    Decision {
        end: bool,
    },
    /// The body, or a message of it; then the part that led here is answered.
    Part {
        end: bool,
        is_complete: bool,
    },
    /// What came before the trailers.
    Trailers,
    /// What came before an upstream that answers early.
    Response {
        end: bool,
    },
    /// What the policy says to the response's headers.
    Judgement {
        end: bool,
    },
    /// The response body as far as it came, then this part of it is answered.
    ResponsePart {
        end: bool,
    },
    /// The response body, then its trailers are answered.
    ResponseTrailers,
}

impl Session {
    /// A session without any part.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            request: Side::default(),
            response: Side::default(),
            kind: BodyKind::default(),
            plan: Plan::default(),
            scan: Scan::default(),
            gather: Gather::default(),
            body: Response::default(),
            excess: Bytes::new(),
            awaits: None,
            commands: VecDeque::new(),
            is_closed: false,
        }
    }

    /// What to do next; `None` until the next event.
    pub fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// True once nothing that comes can change anything.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The bytes to inspect after [`Command::Inspect`], and whether they are all that belongs together.
    #[must_use]
    pub fn unit(&self) -> (&[u8], bool) {
        let is_complete = !matches!(self.awaits, Some(Awaits::Part { is_complete: false, .. }));
        (self.gather.unit(), is_complete)
    }

    /// The response bytes to inspect after [`Command::InspectResponse`].
    #[must_use]
    pub fn response_unit(&self) -> ResponseUnit<'_> {
        self.body.unit()
    }

    /// Bytes kept for inspection, at most `bytes_max`, twice `response_bytes_max`, and a part of each direction.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.gather.len() + self.excess.len() + self.body.kept()
    }

    /// How the exchange stands.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match () {
            () if self.is_closed => Ending::Closed,
            () if self.awaits.is_some() || !self.commands.is_empty() || self.scan == Scan::Holds => Ending::Unanswered,
            () if self.is_duplex() && !self.gather.is_empty() => Ending::Unanswered,
            () if self.body.holds_headers || !self.body.held.is_empty() => Ending::Unanswered,
            () => Ending::Answered,
        }
    }

    /// Takes the next part.
    pub fn on(&mut self, event: Event) {
        if self.is_closed {
            return;
        }
        if self.awaits.is_some() || !self.commands.is_empty() {
            return self.fail(Breach::Busy);
        }
        if let Err(breach) = self.advance(&event) {
            return self.fail(breach);
        }
        match event {
            Event::RequestHeaders { end, kind } => {
                self.kind = kind;
                self.ask(Awaits::Decision { end }, Command::Decide);
            }
            Event::RequestBody { bytes, end } => self.request_body(bytes, end),
            Event::RequestTrailers => self.request_trailers(),
            Event::ResponseHeaders { end } => self.response_headers(end),
            Event::ResponseBody { bytes, end } => self.response_body(bytes, end),
            Event::ResponseTrailers => {
                if self.body.end() {
                    self.ask(Awaits::ResponseTrailers, Command::InspectResponse);
                } else {
                    self.answer(Answer::ResponseTrailers);
                }
            }
        }
    }

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

    /// Gives up: the owner cannot go on.
    pub fn refuse(&mut self) {
        self.commands.clear();
        self.awaits = None;
        self.close(Answer::Refusal);
    }

    /// Whether the part may come now.
    fn advance(&mut self, event: &Event) -> Result<(), Breach> {
        let side = match event {
            Event::RequestHeaders { .. } | Event::RequestBody { .. } | Event::RequestTrailers => &mut self.request,
            Event::ResponseHeaders { .. } | Event::ResponseBody { .. } | Event::ResponseTrailers => &mut self.response,
        };
        let (may_follow, next) = match event {
            // Nothing of a request may come after its response began without it.
            Event::RequestHeaders { end, .. } => (
                side.progress == Progress::Nothing && self.response.progress == Progress::Nothing,
                body_or_end(*end, Progress::Headers),
            ),
            Event::ResponseHeaders { end } => {
                (side.progress == Progress::Nothing, body_or_end(*end, Progress::Headers))
            }
            Event::RequestBody { end, .. } => {
                (matches!(side.progress, Progress::Headers | Progress::Body), body_or_end(*end, Progress::Body))
            }
            Event::RequestTrailers => (matches!(side.progress, Progress::Headers | Progress::Body), Progress::Ended),
            // Envoy may be set up to leave the response's headers out.
            Event::ResponseBody { end, .. } => (side.progress < Progress::Ended, body_or_end(*end, Progress::Body)),
            Event::ResponseTrailers => (side.progress < Progress::Ended, Progress::Ended),
        };
        if !may_follow {
            return Err(Breach::Order);
        }
        let side = match event {
            Event::RequestHeaders { .. } | Event::RequestBody { .. } | Event::RequestTrailers => &mut self.request,
            Event::ResponseHeaders { .. } | Event::ResponseBody { .. } | Event::ResponseTrailers => &mut self.response,
        };
        side.progress = next;
        match event {
            Event::RequestBody { bytes, .. } | Event::ResponseBody { bytes, .. } if bytes.is_empty() => {
                side.empties += 1;
                if EMPTY_CHUNKS_MAX < side.empties { Err(Breach::Empty) } else { Ok(()) }
            }
            _ => {
                side.empties = 0;
                Ok(())
            }
        }
    }

    fn request_body(&mut self, bytes: Bytes, end: bool) {
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

    fn request_trailers(&mut self) {
        match self.scan {
            Scan::Off => self.answer(Answer::RequestTrailers),
            Scan::Gathers | Scan::Holds => self.inspect(Awaits::Trailers),
        }
    }

    fn response_headers(&mut self, end: bool) {
        // An upstream answers before the body's end was seen: it answers early, or the body ended in trailers that
        // Envoy does not show. What came is looked at now; more may follow. What is held never reached the upstream.
        if self.scan == Scan::Gathers && !self.gather.is_empty() {
            self.inspect(Awaits::Response { end });
        } else {
            self.judge(end);
        }
    }

    fn judge(&mut self, end: bool) {
        self.ask(Awaits::Judgement { end }, Command::Judge);
    }

    fn response_body(&mut self, bytes: Bytes, end: bool) {
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

    /// Asks for an inspection of all that is here; nothing is nothing to inspect.
    fn inspect(&mut self, awaits: Awaits) {
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

    const fn is_duplex(&self) -> bool {
        matches!(self.setup.request_body, BodyMode::FullDuplex)
    }

    const fn has_duplex_response(&self) -> bool {
        matches!(self.setup.response_body, BodyMode::FullDuplex)
    }

    fn ask(&mut self, awaits: Awaits, command: Command) {
        self.awaits = Some(awaits);
        self.commands.push_back(command);
    }

    fn answer(&mut self, answer: Answer) {
        if !self.setup.observed {
            self.commands.push_back(Command::Answer(answer));
        }
    }

    fn fail(&mut self, breach: Breach) {
        self.commands.clear();
        self.close(Answer::Failure(breach));
    }

    fn close(&mut self, answer: Answer) {
        self.answer(answer);
        self.is_closed = true;
        self.awaits = None;
        self.gather = Gather::default();
        self.body = Response::default();
        self.excess = Bytes::new();
    }
}

const fn body_or_end(end: bool, otherwise: Progress) -> Progress {
    if end { Progress::Ended } else { otherwise }
}

/// The answer to a body part that goes on as it came.
fn chunk(mode: BodyMode, bytes: Bytes, end: bool) -> Chunk {
    match mode {
        BodyMode::FullDuplex => Chunk::Echo { bytes, end },
        BodyMode::None | BodyMode::Streamed | BodyMode::Buffered | BodyMode::BufferedPartial | BodyMode::Unstated => {
            Chunk::Continue
        }
    }
}
