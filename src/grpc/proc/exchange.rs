//! One exchange: what the session asks for is done here.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::clock::{self, Budget};
use crate::engine::phases::{self, ResponseEdits, ResponseHead, Standing};
use crate::engine::responses::{self, Manner, Reading};
use crate::engine::{self, Asked};
use crate::grpc::authz::{Times, measured};
use crate::grpc::desk::Prepared;
use crate::grpc::proc::answers::Outbox;
use crate::grpc::proc::read::{Incoming, Part};
use crate::grpc::proc::{FAILED, Proc, write};
use crate::model::addr::Client;
use crate::model::decision::{Decision, Verdict};
use crate::model::headers::HeaderEdit;
use crate::request::{Body, Request};
use crate::session::{
    Answer, BodyKind, BodyMode, Command, Event, Inspected, Judgement, Look, Plan, Ruling, Session, Setup,
};
use crate::state::State;

/// An exchange under way.
pub(super) struct Exchange<'e, S> {
    proc: &'e Proc<S>,
    prepared: &'e Prepared,
    outbox: &'e Outbox,
    pub(super) session: Session,
    /// Our failure ended it.
    pub(super) has_failed: bool,
    /// Absent when Envoy shows the response only.
    request: Option<Request<'e>>,
    kind: BodyKind,
    standing: Standing<'e>,
    /// Another filter let the request pass.
    is_decided: bool,
    /// The guard answered in another filter: the response is its own.
    is_dressed: bool,
    is_observed: bool,
    /// A request body follows and will be shown.
    awaits_body: bool,
    /// Response bodies are ours to send back.
    is_duplex: bool,
    refusal: Option<Bytes>,
    edits: SmallVec<[HeaderEdit<'e>; 1]>,
    metadata: Vec<u8>,
    /// What is looked for in the response's body.
    reading: Option<Reading<'e>>,
    /// The answer to response headers that wait for their body.
    held_headers: Option<Bytes>,
    /// What this exchange holds of the thread's room for bodies.
    kept: usize,
}

impl<S> Drop for Exchange<'_, S> {
    fn drop(&mut self) {
        self.proc.gathered.set(self.proc.gathered.get().saturating_sub(self.kept));
    }
}

impl<'e, S: State + 'static> Exchange<'e, S> {
    /// Begins with the first message. `None` when its headers are no request.
    pub(super) fn open(
        proc: &'e Proc<S>,
        prepared: &'e Prepared,
        outbox: &'e Outbox,
        first: (&Incoming<'e>, Option<&'e str>),
    ) -> Option<Self> {
        let (opening, called) = first;
        let decided = opening.decided.as_ref();
        let continued = decided.and_then(|decided| decided.standing());
        // The route was chosen with the decision; else whoever set up this filter chooses it.
        let chosen = continued.and_then(|_| decided.and_then(|decided| decided.route));
        let attributes = &opening.attributes;
        // Envoy's routes have names of their own: one that the policy does not know says nothing.
        let named = || attributes.route_name.filter(|name| prepared.snapshot.policy.has_route(name));
        let route = chosen.or(called).or(opening.route).or(attributes.route).or_else(named);
        let request = match &opening.part {
            Part::RequestHeaders(head) => Some(head.request(&opening.attributes, route)?),
            _ => None,
        };
        if request.is_some() && continued.is_none() && opening.attributes.source.is_none() {
            remind_of_the_source();
        }
        let protocol = opening.protocol.unwrap_or_default();
        let setup = Setup {
            request_body: protocol.request_body,
            response_body: protocol.response_body,
            overridable: opening.protocol.is_some() && !protocol.hasty,
            observed: opening.observed,
            bytes_max: prepared.body_bytes_max,
            response_bytes_max: prepared.response_bytes_max,
        };
        Some(Self {
            proc,
            prepared,
            outbox,
            session: Session::new(setup),
            has_failed: false,
            kind: request.as_ref().map(BodyKind::of).unwrap_or_default(),
            request,
            is_decided: continued.is_some(),
            standing: continued.unwrap_or_default(),
            is_dressed: decided.is_some_and(|decided| decided.is_denial()),
            is_observed: opening.observed,
            awaits_body: opening.part.has_body() && protocol.request_body != BodyMode::None,
            is_duplex: protocol.response_body == BodyMode::FullDuplex,
            refusal: None,
            edits: SmallVec::new(),
            metadata: Vec::new(),
            reading: None,
            held_headers: None,
            kept: 0,
        })
    }

    /// Takes one message and does what it leads to.
    pub(super) async fn take(&mut self, part: &Incoming<'_>, message: &Bytes) {
        let Some(event) = part.part.event(message, self.kind) else { return };
        let is_overlooked = matches!(event, Event::ResponseBody { .. }) && self.is_full(&event);
        if is_overlooked && self.session.overlook_response() {
            self.session.on(event);
        } else if self.is_full(&event) {
            self.refusal = Some(write::failure(503, "Service temporarily unavailable", "envoy_guard_fail_no_room"));
            self.session.refuse();
        } else {
            self.session.on(event);
        }
        while let Some(command) = self.session.command() {
            match command {
                Command::Decide => {
                    let ruling = self.decide().await;
                    self.session.decided(ruling);
                }
                Command::Inspect => {
                    let inspected = self.inspect().await;
                    self.session.inspected(inspected);
                }
                Command::Judge => {
                    let judgement = self.judge(&part.part).await;
                    self.session.judged(judgement);
                }
                Command::InspectResponse => {
                    let inspected = self.inspect_response().await;
                    self.session.response_inspected(inspected);
                }
                Command::Answer(answer) => {
                    for bytes in self.answer(answer, &part.part).into_iter().filter(|bytes| !bytes.is_empty()) {
                        self.outbox.send(bytes).await;
                    }
                }
            }
        }
        let kept = self.session.kept();
        self.proc.gathered.set((self.proc.gathered.get() + kept).saturating_sub(self.kept));
        self.kept = kept;
    }

    /// True when a body part finds no room on this thread.
    fn is_full(&self, event: &Event) -> bool {
        match event {
            Event::RequestBody { bytes, .. } | Event::ResponseBody { bytes, .. } => {
                self.prepared.gathered_bytes_max < self.proc.gathered.get().saturating_add(bytes.len())
            }
            _ => false,
        }
    }

    /// Decides about the headers, or goes on where ext_authz left off.
    async fn decide(&mut self) -> Ruling {
        let Some(request) = &self.request else { return self.fail() };
        let policy = &self.prepared.snapshot.policy;
        if !self.is_decided {
            let start = clock::instant();
            let budget = Budget::new(start, self.prepared.detection);
            let mut times = Times::of(self.proc.recorder.shard());
            let (watch, now) = (times.watch(budget), clock::now());
            let asked = Asked { request, now, meter: &watch };
            let mut decision = engine::decide_traced(policy, &*self.proc.state, asked, &mut times).await;
            // Nobody waits for what is only observed.
            if self.is_observed {
                decision.delay = None;
            }
            let slowed = self.proc.desk.slow_down(self.prepared, &mut decision, self.proc.recorder.shard());
            let client = policy.client(request);
            if let Some(parts) = watch.parts() {
                measured(&self.proc.recorder, policy, (&parts, request), (decision.detection.is_some(), now));
            }
            let awaits_report = self.awaits_body && phases::is_report(&decision);
            if !awaits_report {
                self.record(request, &decision, (client, start.elapsed()));
            }
            self.standing.flags = decision.flags;
            self.standing.trail = decision.trail.take().map(|trail| *trail);
            let edits = std::mem::take(&mut decision.request_headers);
            if !awaits_report && self.conclude(&decision, client) {
                return Ruling::Refuse;
            }
            self.edits = edits;
            if let Some(slowed) = slowed {
                slowed.wait().await;
            }
        }
        let Some(request) = &self.request else { return self.fail() };
        let wanted = phases::wanted(policy, request, &self.standing);
        Ruling::Pass(Plan {
            request_body: wanted.request_body,
            response_headers: wanted.response_headers,
            response_body: wanted.response_body,
            holds_request: wanted.holds_request,
        })
    }

    /// Inspects what the session has gathered.
    async fn inspect(&mut self) -> Inspected {
        let Some(request) = &self.request else {
            self.has_failed = true;
            return Inspected::Refused;
        };
        let start = clock::instant();
        let (unit, is_complete) = self.session.unit();
        let body = if is_complete { Body::Complete(unit) } else { Body::Partial(unit) };
        let request = request.with_body(body);
        let policy = &self.prepared.snapshot.policy;
        let budget = Budget::new(start, self.prepared.detection);
        let watch = Times::of(self.proc.recorder.shard()).watch(budget);
        let now = clock::now();
        let asked = Asked { request: &request, now, meter: &watch };
        let decision = phases::decide_body(policy, &*self.proc.state, asked, &self.standing).await;
        if let Some(parts) = watch.parts() {
            measured(&self.proc.recorder, policy, (&parts, &request), (decision.detection.is_some(), now));
        }
        // A match, because the request with its body lives shorter than the client's text.
        let client = match self.standing.client {
            Some(client) => client,
            None => policy.client(&request),
        };
        // A clean body is part of the decision that was reported with the headers.
        if !matches!(decision.verdict, Verdict::Allow) || !decision.facts.is_empty() {
            self.record(&request, &decision, (client, start.elapsed()));
        }
        let refusal = self.refusal_of(&request, &decision, client);
        match refusal {
            Some(refusal) => {
                self.refusal = Some(refusal);
                Inspected::Refused
            }
            None => Inspected::Clean,
        }
    }

    /// Judges the response's headers.
    async fn judge(&mut self, part: &Part<'_>) -> Judgement {
        let (Some(request), Part::ResponseHeaders(head)) = (&self.request, part) else {
            return Judgement::Pass(Look::Away);
        };
        let start = clock::instant();
        let policy = &self.prepared.snapshot.policy;
        let asked = (request, clock::now());
        let (decision, reading) =
            phases::judge(policy, &*self.proc.state, asked, &self.standing, &head.response()).await;
        self.told(&decision, start);
        let look = match reading.manner() {
            Manner::Away => Look::Away,
            Manner::Along => Look::Along,
            Manner::Before => Look::Before,
        };
        self.reading = Some(reading);
        if look == Look::Before && self.is_duplex {
            // The headers may be answered with the body, when they are no longer there.
            let head = head.response();
            self.held_headers = Some(write::response_headers(&head, &self.response_edits(&head), None));
        }
        Judgement::Pass(look)
    }

    /// Inspects the response's body as far as it came.
    async fn inspect_response(&mut self) -> Inspected {
        let (Some(request), Some(mut reading)) = (&self.request, self.reading.take()) else { return Inspected::Clean };
        let start = clock::instant();
        let unit = self.session.response_unit();
        let part =
            responses::Part { bytes: unit.bytes, fresh: unit.fresh, is_last: unit.is_last, is_whole: unit.is_whole };
        let policy = &self.prepared.snapshot.policy;
        let asked = (request, clock::now());
        let state = &*self.proc.state;
        let decision = phases::judge_body(policy, state, asked, &self.standing, (&mut reading, part)).await;
        self.told(&decision, start);
        let client = match self.standing.client {
            Some(client) => client,
            None => policy.client(request),
        };
        let refusal = self.refusal_of(request, &decision, client);
        self.reading = Some(reading);
        match refusal {
            Some(refusal) => {
                self.refusal = Some(refusal);
                Inspected::Refused
            }
            None => Inspected::Clean,
        }
    }

    /// Reports what a response led to, if anything.
    fn told(&self, decision: &Decision<'_>, start: std::time::Instant) {
        let Some(request) = &self.request else { return };
        if matches!(decision.verdict, Verdict::Allow) && decision.facts.is_empty() {
            return;
        }
        let client = match self.standing.client {
            Some(client) => client,
            None => self.prepared.snapshot.policy.client(request),
        };
        self.record(request, decision, (client, start.elapsed()));
    }

    fn record(&self, request: &Request<'_>, decision: &Decision<'_>, by: (Client<'_>, std::time::Duration)) {
        let recorder = &self.proc.recorder;
        if self.is_observed {
            recorder.watched(&self.prepared.lines, request, decision, by);
        } else {
            recorder.decided(&self.prepared.lines, request, decision, by);
        }
    }

    /// Prepares what a decision about the headers says; true when it refuses.
    fn conclude(&mut self, decision: &Decision<'_>, client: Client<'_>) -> bool {
        let Some(request) = &self.request else { return true };
        let refusal = self.refusal_of(request, decision, client);
        if refusal.is_none() && self.prepared.snapshot.config.telemetry.metadata {
            let writer = &self.prepared.writer;
            self.metadata = write::metadata(|fields| writer.facts(fields, request, decision, client));
        }
        self.refusal = refusal;
        self.refusal.is_some()
    }

    fn refusal_of(&self, request: &Request<'_>, decision: &Decision<'_>, client: Client<'_>) -> Option<Bytes> {
        let has_metadata = self.prepared.snapshot.config.telemetry.metadata;
        let facts = |fields: &mut crate::grpc::wire::Message| {
            self.prepared.writer.facts(fields, request, decision, client);
        };
        let metadata = match decision.verdict {
            Verdict::Deny(_) | Verdict::Fail(_) if has_metadata => write::metadata(facts),
            Verdict::Allow | Verdict::Deny(_) | Verdict::Fail(_) => Vec::new(),
        };
        write::immediate(request, decision, &metadata)
    }

    /// What cannot be is our failure.
    fn fail(&mut self) -> Ruling {
        self.has_failed = true;
        Ruling::Refuse
    }

    /// An answer, in up to two pieces: what it says, and the bytes of a body.
    fn answer(&mut self, answer: Answer, part: &Part<'_>) -> [Bytes; 2] {
        let said = match answer {
            Answer::RequestHeaders(modes) => {
                write::request_headers(self.request.as_ref(), &self.edits, modes, &self.metadata)
            }
            Answer::RequestBody(chunk) => return write::request_body(&chunk),
            Answer::RequestTrailers => write::request_trailers(),
            Answer::ResponseHeaders(modes) => {
                let head = match part {
                    Part::ResponseHeaders(head) => head.response(),
                    _ => ResponseHead::default(),
                };
                match self.held_headers.take() {
                    Some(held) => held,
                    None => write::response_headers(&head, &self.response_edits(&head), modes),
                }
            }
            Answer::ResponseBody(chunk) => return write::response_body(&chunk),
            Answer::ResponseTrailers => write::response_trailers(),
            Answer::Refusal => self.refusal.take().unwrap_or_else(|| {
                self.has_failed = true;
                write::failure(500, FAILED, "envoy_guard_fail_internal")
            }),
            Answer::Failure(breach) => {
                self.has_failed = true;
                self.proc.recorder.unreadable(&breach);
                write::failure(500, FAILED, "envoy_guard_fail_out_of_order")
            }
        };
        [said, Bytes::new()]
    }

    fn response_edits(&self, head: &ResponseHead<'_>) -> ResponseEdits<'e> {
        let policy = &self.prepared.snapshot.policy;
        match &self.request {
            Some(request) => phases::respond(policy, (request, clock::now()), &self.standing, head),
            None if self.is_dressed => ResponseEdits::default(),
            None => phases::respond_unasked(policy),
        }
    }
}

/// Without the attribute nobody knows who asks. Said once.
fn remind_of_the_source() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!("ext_proc tells no client address: add `request_attributes: [source.address]` to the filter");
    }
}
