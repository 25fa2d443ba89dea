//! The states of an exchange and what leads from one to the next.

mod request;
mod response;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::session::gather::Gather;
use crate::session::response::Response;
use crate::session::{
    Answer, BodyKind, BodyMode, Breach, Chunk, Command, EMPTY_CHUNKS_MAX, Ending, Event, Plan, ResponseUnit, Setup,
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
