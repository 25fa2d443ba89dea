use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Tls};

/// What the tests' inspector objects to.
const HOSTILE: &[u8] = b"EVIL";
const MAX: usize = 64;

fn setup(request_body: BodyMode) -> Setup {
    Setup {
        request_body,
        response_body: BodyMode::None,
        overridable: false,
        observed: false,
        bytes_max: MAX,
        response_bytes_max: MAX,
    }
}

const PLAN: Plan = Plan { request_body: true, response_headers: true, response_body: false, holds_request: false };

/// A session with an owner that passes headers by `plan` and refuses hostile bytes. Keeps what it answered.
struct Owner {
    session: Session,
    ruling: Ruling,
    look: Look,
    answers: Vec<Answer>,
    /// Units inspected, and whether each was complete.
    units: Vec<(Vec<u8>, bool)>,
    /// Response units: the fresh bytes, whether they are the last and whether the body is whole.
    response_units: Vec<(Vec<u8>, bool, bool)>,
}

impl Owner {
    fn new(setup: Setup, ruling: Ruling) -> Self {
        Self {
            session: Session::new(setup),
            ruling,
            look: Look::Away,
            answers: Vec::new(),
            units: Vec::new(),
            response_units: Vec::new(),
        }
    }

    /// Brings an event; returns the answers that it led to.
    fn on(&mut self, event: Event) -> Vec<Answer> {
        self.session.on(event);
        let before = self.answers.len();
        while let Some(command) = self.session.command() {
            match command {
                Command::Decide => self.session.decided(self.ruling),
                Command::Inspect => {
                    let (unit, is_complete) = self.session.unit();
                    let is_hostile = memchr::memmem::find(unit, HOSTILE).is_some();
                    self.units.push((unit.to_vec(), is_complete));
                    self.session.inspected(if is_hostile { Inspected::Refused } else { Inspected::Clean });
                }
                Command::Judge => self.session.judged(Judgement::Pass(self.look)),
                Command::InspectResponse => {
                    let unit = self.session.response_unit();
                    let is_hostile = memchr::memmem::find(unit.bytes, HOSTILE).is_some();
                    let fresh = unit.bytes.get(unit.fresh..).unwrap().to_vec();
                    self.response_units.push((fresh, unit.is_last, unit.is_whole));
                    self.session.response_inspected(if is_hostile { Inspected::Refused } else { Inspected::Clean });
                }
                Command::Answer(answer) => self.answers.push(answer),
            }
        }
        self.answers.get(before..).unwrap().to_vec()
    }

    fn all(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Answer> {
        events.into_iter().flat_map(|event| self.on(event)).collect()
    }

    /// Response body bytes that were sent back.
    fn sent_back(&self) -> Vec<u8> {
        let echo = |answer: &Answer| match answer {
            Answer::ResponseBody(Chunk::Echo { bytes, .. }) => bytes.to_vec(),
            _ => Vec::new(),
        };
        self.answers.iter().flat_map(echo).collect()
    }

    /// Request body bytes that were sent back.
    fn echoed(&self) -> Vec<u8> {
        let echo = |answer: &Answer| match answer {
            Answer::RequestBody(Chunk::Echo { bytes, .. }) => bytes.to_vec(),
            _ => Vec::new(),
        };
        self.answers.iter().flat_map(echo).collect()
    }
}

fn headers(kind: BodyKind) -> Event {
    Event::RequestHeaders { end: false, kind }
}

fn body(bytes: impl AsRef<[u8]>, end: bool) -> Event {
    Event::RequestBody { bytes: Bytes::copy_from_slice(bytes.as_ref()), end }
}

fn echo(bytes: &str, end: bool) -> Answer {
    Answer::RequestBody(Chunk::Echo { bytes: Bytes::copy_from_slice(bytes.as_bytes()), end })
}

const PASSED: Answer = Answer::RequestHeaders(None);
const CONTINUE: Answer = Answer::RequestBody(Chunk::Continue);

#[test]
fn each_mode_answers_each_part() {
    let response = [Event::ResponseHeaders { end: false }, Event::ResponseTrailers];
    let answered = [Answer::ResponseHeaders(None), Answer::ResponseTrailers];
    for (name, mode, request, expected) in [
        ("no body is sent", BodyMode::None, vec![], vec![PASSED]),
        ("parts go on", BodyMode::Streamed, vec![body("a", false), body("b", true)], vec![PASSED, CONTINUE, CONTINUE]),
        ("one part", BodyMode::Buffered, vec![body("ab", true)], vec![PASSED, CONTINUE]),
        (
            "one part, then trailers",
            BodyMode::Buffered,
            vec![body("ab", false), Event::RequestTrailers],
            vec![PASSED, CONTINUE, Answer::RequestTrailers],
        ),
        ("a cut part", BodyMode::BufferedPartial, vec![body("ab", false)], vec![PASSED, CONTINUE]),
        (
            "held, then sent back",
            BodyMode::FullDuplex,
            vec![body("a", false), body("b", false), body("", true)],
            vec![PASSED, echo("ab", true)],
        ),
        (
            "held until the trailers",
            BodyMode::FullDuplex,
            vec![body("ab", false), Event::RequestTrailers],
            vec![PASSED, echo("ab", false), Answer::RequestTrailers],
        ),
        ("an empty duplex body", BodyMode::FullDuplex, vec![body("", true)], vec![PASSED, echo("", true)]),
        (
            "nothing was said",
            BodyMode::Unstated,
            vec![body("a", false), body("b", true)],
            vec![PASSED, CONTINUE, CONTINUE],
        ),
    ] {
        let mut owner = Owner::new(setup(mode), Ruling::Pass(PLAN));
        let events = [headers(BodyKind::Whole)].into_iter().chain(request).chain(response.clone());
        let expected: Vec<Answer> = expected.into_iter().chain(answered.clone()).collect();
        assert_eq!(owner.all(events), expected, "{name}");
        assert_eq!(owner.session.ending(), Ending::Answered, "{name}");
    }
}

#[test]
fn a_refusal_is_the_last_answer() {
    let mut owner = Owner::new(setup(BodyMode::Streamed), Ruling::Refuse);
    assert_eq!(owner.on(headers(BodyKind::Whole)), [Answer::Refusal]);
    assert_eq!(owner.on(body("late", true)), [], "what was on its way is not answered");
    assert_eq!(owner.session.ending(), Ending::Closed);
    assert_eq!(owner.session.kept(), 0);
}

/// The promise of each mode about a hostile body, cut in two at every byte.
#[test]
fn a_payload_is_found_at_every_cut() {
    let payload = b"some text EVIL and more";
    for mode in [BodyMode::Streamed, BodyMode::FullDuplex, BodyMode::Unstated] {
        for cut in 0..=payload.len() {
            let (first, second) = payload.split_at(cut);
            for ends_in_trailers in [false, true] {
                let mut owner = Owner::new(setup(mode), Ruling::Pass(PLAN));
                owner.all([headers(BodyKind::Whole), body(first, false), body(second, !ends_in_trailers)]);
                if ends_in_trailers {
                    owner.on(Event::RequestTrailers);
                }
                assert_eq!(owner.answers.last(), Some(&Answer::Refusal), "{mode:?}, cut at {cut}");
                if mode == BodyMode::FullDuplex {
                    assert_eq!(owner.answers, [Answer::Refusal], "nothing goes on before it was inspected");
                }
            }
        }
        let mut owner = Owner::new(setup(mode), Ruling::Pass(PLAN));
        owner.on(headers(BodyKind::Whole));
        let parts = payload.iter().enumerate().map(|(at, byte)| body([*byte], at + 1 == payload.len()));
        owner.all(parts);
        assert_eq!(owner.answers.last(), Some(&Answer::Refusal), "{mode:?}, byte by byte");
    }
}

#[test]
fn a_body_is_gathered_up_to_the_bound() {
    for (length, complete) in [(MAX - 1, true), (MAX, true), (MAX + 1, false)] {
        for mode in [BodyMode::Streamed, BodyMode::Buffered, BodyMode::FullDuplex] {
            let text = vec![b'x'; length];
            let mut owner = Owner::new(setup(mode), Ruling::Pass(PLAN));
            owner.on(headers(BodyKind::Whole));
            match mode {
                BodyMode::Buffered => drop(owner.on(body(&text, true))),
                _ => {
                    owner.all(text.chunks(7).map(|chunk| body(chunk, false)));
                    owner.on(body("", true));
                }
            }
            assert_eq!(owner.units, [(vec![b'x'; length.min(MAX)], complete)], "{mode:?} {length}");
            assert_eq!(owner.session.ending(), Ending::Answered);
            if mode == BodyMode::FullDuplex {
                assert_eq!(owner.echoed(), text, "{length}");
            }
        }
    }
}

#[test]
fn what_lies_beyond_the_bound_goes_on_and_keeps_nothing() {
    let mut owner = Owner::new(setup(BodyMode::FullDuplex), Ruling::Pass(PLAN));
    owner.on(headers(BodyKind::Whole));
    for _ in 0..100 {
        owner.on(body([b'x'; 50], false));
        assert!(owner.session.kept() <= MAX + 50);
    }
    owner.on(body("end", true));
    assert_eq!((owner.units.len(), owner.session.kept()), (1, 0));
    assert_eq!(owner.echoed().len(), 5003);
}

/// A gRPC message: flag, length, bytes.
fn message(text: &[u8]) -> Vec<u8> {
    [&[0][..], &(text.len() as u32).to_be_bytes(), text].concat()
}

#[test]
fn messages_are_inspected_one_by_one_and_nothing_waits_for_the_end() {
    for mode in [BodyMode::Streamed, BodyMode::FullDuplex] {
        let mut owner = Owner::new(setup(mode), Ruling::Pass(PLAN));
        assert_eq!(owner.on(headers(BodyKind::Messages)), [PASSED], "a conversation may begin with our headers");
        let two = [message(b"one"), message(b"two")].concat();
        owner.on(body(two.get(..12).unwrap(), false));
        assert_eq!(owner.units, [(message(b"one"), true)], "{mode:?}");
        owner.on(body(two.get(12..).unwrap(), false));
        assert_eq!(owner.units.last(), Some(&(message(b"two"), true)));
        assert_eq!(owner.session.kept(), 0);
        let hostile = message(HOSTILE);
        for at in 0..hostile.len() {
            assert_ne!(owner.answers.last(), Some(&Answer::Refusal), "{at}");
            owner.on(body(hostile.get(at..=at).unwrap(), false));
        }
        assert_eq!(owner.answers.last(), Some(&Answer::Refusal));
        if mode == BodyMode::FullDuplex {
            assert_eq!(owner.echoed(), two, "no byte of the hostile message went on");
        }
    }
}

#[test]
fn a_message_beyond_the_bound_is_judged_by_its_beginning() {
    for mode in [BodyMode::Streamed, BodyMode::FullDuplex] {
        let mut owner = Owner::new(setup(mode), Ruling::Pass(PLAN));
        owner.on(headers(BodyKind::Messages));
        let all = [message(&[b'x'; 1000]), message(b"next")].concat();
        owner.all(all.chunks(30).map(|chunk| body(chunk, false)));
        owner.on(body("", true));
        assert_eq!(owner.units.len(), 2, "{mode:?}");
        assert!(!owner.units[0].1 && owner.units[1] == (message(b"next"), true));
        if mode == BodyMode::FullDuplex {
            assert_eq!(owner.echoed(), all);
        }
    }
}

/// Envoy shows no trailers unless told to; a body that ends in them has no last part.
#[test]
fn a_body_without_an_end_is_inspected_before_the_response() {
    let mut owner = Owner::new(setup(BodyMode::Streamed), Ruling::Pass(PLAN));
    owner.all([headers(BodyKind::Whole), body("so EV", false), body("IL", false)]);
    assert_eq!(owner.on(Event::ResponseHeaders { end: true }), [Answer::Refusal]);
    let mut owner = Owner::new(setup(BodyMode::Streamed), Ruling::Pass(PLAN));
    owner.all([headers(BodyKind::Whole), body("EV", false)]);
    assert_eq!(owner.on(Event::ResponseHeaders { end: false }), [Answer::ResponseHeaders(None)], "an early answer");
    assert_eq!(owner.on(body("IL", true)), [Answer::Refusal], "does not end the inspection");
}

#[test]
fn parts_out_of_order_are_our_failure() {
    let failure = [Answer::Failure(Breach::Order)];
    let end = Event::RequestHeaders { end: true, kind: BodyKind::Whole };
    let open = headers(BodyKind::Whole);
    let (response, closed) = (Event::ResponseHeaders { end: false }, Event::ResponseHeaders { end: true });
    let response_body = |end| Event::ResponseBody { bytes: Bytes::from_static(b"x"), end };
    for (name, events) in [
        ("a body without headers", vec![body("x", true)]),
        ("trailers without headers", vec![Event::RequestTrailers]),
        ("headers twice", vec![open.clone(), open.clone()]),
        ("a body after headers that end", vec![end.clone(), body("x", true)]),
        ("trailers after headers that end", vec![end, Event::RequestTrailers]),
        ("a body after its end", vec![open.clone(), body("x", true), body("x", true)]),
        ("trailers after the end", vec![open.clone(), body("x", true), Event::RequestTrailers]),
        ("trailers twice", vec![open.clone(), Event::RequestTrailers, Event::RequestTrailers]),
        ("a body after trailers", vec![open.clone(), Event::RequestTrailers, body("x", true)]),
        ("a request after its response", vec![response.clone(), open.clone()]),
        ("response headers twice", vec![open.clone(), response.clone(), response.clone()]),
        ("a response body after its end", vec![response.clone(), response_body(true), response_body(true)]),
        ("a response body after headers that end", vec![closed.clone(), response_body(true)]),
        ("response headers after the body", vec![response_body(false), response.clone()]),
        ("response trailers after the end", vec![closed, Event::ResponseTrailers]),
        ("response trailers twice", vec![response, Event::ResponseTrailers, Event::ResponseTrailers]),
    ] {
        let mut owner = Owner::new(setup(BodyMode::Streamed), Ruling::Pass(PLAN));
        let last = events.len() - 1;
        for (at, event) in events.into_iter().enumerate() {
            let answers = owner.on(event);
            assert_eq!(answers == failure, at == last, "{name}, part {at}: {answers:?}");
        }
        assert_eq!(owner.session.ending(), Ending::Closed, "{name}");
    }
}

#[test]
fn empty_parts_are_counted() {
    let mut owner = Owner::new(setup(BodyMode::Streamed), Ruling::Pass(PLAN));
    owner.on(headers(BodyKind::Whole));
    for _ in 0..EMPTY_CHUNKS_MAX {
        assert_eq!(owner.on(body("", false)), [CONTINUE]);
    }
    assert_eq!(owner.on(body("", false)), [Answer::Failure(Breach::Empty)]);
}

#[test]
fn what_nobody_asked_for_is_a_failure() {
    let mut session = Session::new(setup(BodyMode::Streamed));
    session.decided(Ruling::Pass(PLAN));
    assert_eq!(session.command(), Some(Command::Answer(Answer::Failure(Breach::Busy))));
    let mut session = Session::new(setup(BodyMode::Streamed));
    session.on(headers(BodyKind::Whole));
    session.on(body("x", true));
    assert_eq!(
        session.command(),
        Some(Command::Answer(Answer::Failure(Breach::Busy))),
        "the decision is not waited for"
    );
    assert_eq!(session.command(), None);
}

#[test]
fn the_end_of_a_stream_is_no_consent() {
    let mut owner = Owner::new(setup(BodyMode::FullDuplex), Ruling::Pass(PLAN));
    owner.all([headers(BodyKind::Whole), body("x", false)]);
    assert_eq!(owner.session.ending(), Ending::Unanswered);
    let mut session = Session::new(setup(BodyMode::Streamed));
    session.on(headers(BodyKind::Whole));
    assert_eq!(session.ending(), Ending::Unanswered, "a decision is due");
}

#[test]
fn modes_spare_what_the_plan_does_not_need() {
    let modes = |request_body, response_body, plan: Plan, kind, end| {
        let setup = Setup { request_body, response_body, overridable: true, ..setup(BodyMode::None) };
        let mut owner = Owner::new(setup, Ruling::Pass(plan));
        match owner.on(Event::RequestHeaders { end, kind }).as_slice() {
            [Answer::RequestHeaders(modes)] => *modes,
            answers => panic!("{answers:?}"),
        }
    };
    let none = Plan::default();
    let base = Modes {
        request_body: BodyMode::None,
        response_body: BodyMode::None,
        response_headers: true,
        request_trailers: false,
        response_trailers: false,
    };
    use BodyKind::{Messages, Tunnel, Whole};
    use BodyMode::{Buffered, FullDuplex, None as Off, Streamed, Unstated};
    for (name, from, to, plan, kind, end, expected) in [
        ("all is wanted", Off, Off, PLAN, Whole, false, None),
        ("nothing is wanted", Streamed, Off, none, Whole, false, Some(Modes { response_headers: false, ..base })),
        (
            "the body is wanted, and what ends it",
            Streamed,
            Off,
            PLAN,
            Whole,
            false,
            Some(Modes { request_body: Streamed, request_trailers: true, ..base }),
        ),
        ("a buffered body needs no trailers", Buffered, Off, PLAN, Whole, false, None),
        (
            "no response body is wanted",
            Buffered,
            Streamed,
            PLAN,
            Whole,
            false,
            Some(Modes { request_body: Buffered, ..base }),
        ),
        ("a tunnel is not looked into", Buffered, Buffered, PLAN, Tunnel, false, Some(base)),
        ("without a body nothing changes", Streamed, Off, PLAN, Whole, true, None),
        ("duplex parts are on their way", FullDuplex, Off, Plan { request_body: false, ..PLAN }, Whole, false, None),
        (
            "a duplex response is not needed",
            FullDuplex,
            FullDuplex,
            PLAN,
            Messages,
            false,
            Some(Modes { request_body: FullDuplex, request_trailers: true, ..base }),
        ),
        ("what was not said is not changed", Unstated, Unstated, none, Whole, false, None),
    ] {
        assert_eq!(modes(from, to, plan, kind, end), expected, "{name}");
    }
}

#[test]
fn an_observed_exchange_is_never_answered() {
    let observed = Setup { observed: true, ..setup(BodyMode::Streamed) };
    for ruling in [Ruling::Refuse, Ruling::Pass(PLAN)] {
        let mut owner = Owner::new(observed, ruling);
        owner.all([
            headers(BodyKind::Whole),
            body("EVIL", true),
            body("breach", true),
            Event::ResponseHeaders { end: true },
        ]);
        assert_eq!(owner.answers, []);
    }
}

fn request<'r>(method: &'r str, fields: &[(&'r str, &'r str)]) -> Request<'r> {
    Request {
        id: "",
        method,
        scheme: "http",
        host: "example.com",
        target: "/".into(),
        protocol: "HTTP/1.1",
        headers: fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect::<Headers<'_>>(),
        body: Body::Absent,
        peer: Peer::Absent,
        route: None,
        tls: Tls::default(),
    }
}

#[test]
fn only_real_tunnels_are_not_looked_into() {
    let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
    for (name, method, fields, expected) in [
        ("a websocket", "GET", &upgrade[..], BodyKind::Tunnel),
        ("a post that claims to upgrade", "POST", &upgrade, BodyKind::Whole),
        ("another upgrade", "GET", &[("connection", "upgrade"), ("upgrade", "h2c")], BodyKind::Whole),
        ("an upgrade that is not meant for this hop", "GET", &[("upgrade", "websocket")], BodyKind::Whole),
        ("connect", "CONNECT", &[], BodyKind::Tunnel),
        ("grpc", "POST", &[("content-type", "application/grpc")], BodyKind::Messages),
        ("grpc with a codec", "POST", &[("content-type", "Application/gRPC+proto")], BodyKind::Messages),
        ("grpc-web has an end", "POST", &[("content-type", "application/grpc-web+proto")], BodyKind::Whole),
        ("a form", "POST", &[("content-type", "application/x-www-form-urlencoded")], BodyKind::Whole),
    ] {
        assert_eq!(BodyKind::of(&request(method, fields)), expected, "{name}");
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(HOSTILE.to_vec()),
        Just(b"EV".to_vec()),
        Just(b"IL".to_vec()),
        Just(message(b"fine")),
        Just(message(HOSTILE)),
        Just(vec![b'x'; MAX + 1]),
    ];
    let kind = prop_oneof![Just(BodyKind::Whole), Just(BodyKind::Messages), Just(BodyKind::Tunnel)];
    prop_oneof![
        3 => (any::<bool>(), kind).prop_map(|(end, kind)| Event::RequestHeaders { end, kind }),
        8 => (bytes.clone(), proptest::bool::weighted(0.2)).prop_map(|(bytes, end)| body(bytes, end)),
        1 => Just(Event::RequestTrailers),
        1 => any::<bool>().prop_map(|end| Event::ResponseHeaders { end }),
        1 => (bytes, any::<bool>())
            .prop_map(|(bytes, end)| Event::ResponseBody { bytes: bytes.into(), end }),
        1 => Just(Event::ResponseTrailers),
    ]
}

fn any_setup() -> impl Strategy<Value = Setup> {
    let modes = [
        BodyMode::None,
        BodyMode::Streamed,
        BodyMode::Buffered,
        BodyMode::BufferedPartial,
        BodyMode::FullDuplex,
        BodyMode::Unstated,
    ];
    let mode = proptest::sample::select(modes.to_vec());
    (mode.clone(), mode, any::<bool>(), proptest::bool::weighted(0.1)).prop_map(
        |(request_body, response_body, overridable, observed)| Setup {
            request_body,
            response_body,
            overridable,
            observed,
            bytes_max: MAX,
            response_bytes_max: MAX,
        },
    )
}

/// Follows a sequence and holds the session to its promises.
fn promises_hold(
    setup: Setup,
    (ruling, look): (Ruling, Look),
    begins: bool,
    mut events: VecDeque<Event>,
) -> Result<(), TestCaseError> {
    if begins {
        // Most random sequences would fail at their first part.
        events.push_front(Event::RequestHeaders { end: false, kind: BodyKind::Whole });
    }
    let mut owner = Owner::new(setup, ruling);
    owner.look = look;
    let (mut answered, mut is_judged) = (Vec::new(), false);
    let (mut kind, mut received, mut is_over) = (BodyKind::Whole, Vec::new(), false);
    let (mut is_first, mut closed_at) = (true, None);
    for (at, event) in events.iter().enumerate() {
        let answers = owner.on(event.clone());
        let failed = answers.iter().any(|answer| matches!(answer, Answer::Failure(_) | Answer::Refusal));
        if owner.session.is_closed() && closed_at.is_none() {
            closed_at = Some(at);
            prop_assert!(failed || setup.observed, "an exchange is not closed in silence");
        } else if closed_at.is_some() {
            prop_assert!(answers.is_empty(), "nothing follows the end");
            continue;
        }
        let largest = events.iter().map(|event| match event {
            Event::RequestBody { bytes, .. } | Event::ResponseBody { bytes, .. } => bytes.len(),
            _ => 0,
        });
        prop_assert!(owner.session.kept() <= 3 * MAX + 5 + 2 * largest.max().unwrap_or(0), "memory is bounded");
        if failed || setup.observed {
            continue;
        }
        match event {
            Event::RequestHeaders { kind: announced, .. } => {
                prop_assert!(is_first && matches!(ruling, Ruling::Pass(_)), "only what the policy passes goes on");
                kind = *announced;
            }
            Event::RequestBody { bytes, end } => {
                received.extend_from_slice(bytes);
                is_over = *end;
            }
            Event::RequestTrailers => is_over = true,
            Event::ResponseBody { bytes, .. } => answered.extend_from_slice(bytes),
            // Which bodies are looked at is known from their headers.
            Event::ResponseHeaders { .. } => is_judged = true,
            Event::ResponseTrailers => {}
        }
        is_first = false;
        // Parts that Envoy holds are answered one by one; duplex parts are ours.
        let duplex = match event {
            Event::ResponseHeaders { .. } | Event::ResponseBody { .. } | Event::ResponseTrailers => {
                setup.response_body == BodyMode::FullDuplex
            }
            _ => setup.request_body == BodyMode::FullDuplex,
        };
        prop_assert!(duplex || answers.len() == 1, "{event:?} got {answers:?}");
        let inspects = matches!(ruling, Ruling::Pass(plan) if plan.request_body);
        if inspects && kind == BodyKind::Whole && received.len() <= MAX {
            let hostile = memchr::memmem::find(&received, HOSTILE).is_some();
            let parts = matches!(setup.request_body, BodyMode::Buffered | BodyMode::BufferedPartial);
            prop_assert!(!(is_over && hostile && !parts), "a hostile body went to its end");
            prop_assert!(!parts || owner.units.iter().all(|(unit, _)| memchr::memmem::find(unit, HOSTILE).is_none()));
            prop_assert!(memchr::memmem::find(&owner.echoed(), HOSTILE).is_none(), "hostile bytes were sent on");
        }
        if setup.response_body == BodyMode::FullDuplex {
            let sent = owner.sent_back();
            prop_assert!(answered.starts_with(&sent), "what is sent on is what came");
            let is_short = answered.len() <= MAX;
            let is_hostile = memchr::memmem::find(&sent, HOSTILE).is_some();
            prop_assert!(!is_judged || look == Look::Away || !is_short || !is_hostile, "hostile bytes were sent on");
        }
        if setup.request_body == BodyMode::FullDuplex {
            let echoed = owner.echoed();
            prop_assert!(received.starts_with(&echoed), "what is sent on is what came");
            prop_assert!(!is_over || echoed == received, "all of it is sent on in the end");
        }
    }
    if owner.session.is_closed() {
        prop_assert_eq!(owner.session.kept(), 0, "nothing is kept after the end");
    }
    Ok(())
}

/// Sequences of the property test; `TEST_SESSION_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("TEST_SESSION_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES)
}

const CASES: u32 = 20_000;

#[test]
fn no_sequence_breaks_a_promise() {
    let strategy = (
        any_setup(),
        prop_oneof![
            1 => Just(Ruling::Refuse),
            9 => (proptest::bool::weighted(0.9), any::<bool>())
                .prop_map(|(request_body, response_body)| {
                    Ruling::Pass(Plan { request_body, response_body, ..PLAN })
                }),
        ],
        proptest::sample::select(vec![Look::Away, Look::Along, Look::Before]),
        proptest::bool::weighted(0.8),
        proptest::collection::vec(any_event(), 0..12),
    );
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let run = runner.run(&strategy, |(setup, ruling, look, begins, events)| {
        promises_hold(setup, (ruling, look), begins, events.into())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

fn response_body(bytes: impl AsRef<[u8]>, end: bool) -> Event {
    Event::ResponseBody { bytes: Bytes::copy_from_slice(bytes.as_ref()), end }
}

/// An exchange up to the response's headers.
fn answering(response_body: BodyMode, look: Look) -> Owner {
    let setup = Setup { response_body, overridable: true, ..setup(BodyMode::None) };
    let mut owner = Owner::new(setup, Ruling::Pass(Plan { response_body: true, ..PLAN }));
    owner.look = look;
    owner.on(Event::RequestHeaders { end: true, kind: BodyKind::Whole });
    owner
}

#[test]
fn a_response_is_asked_for_when_its_headers_say_so() {
    let headers = || Event::ResponseHeaders { end: false };
    let mode = |answer: &Answer| match answer {
        Answer::RequestHeaders(modes) | Answer::ResponseHeaders(modes) => modes.map(|modes| modes.response_body),
        other => panic!("{other:?}"),
    };
    for (configured, look, first, then) in [
        (BodyMode::None, Look::Away, None, None),
        (BodyMode::Streamed, Look::Away, Some(BodyMode::None), None),
        (BodyMode::None, Look::Along, None, Some(BodyMode::Streamed)),
        (BodyMode::Buffered, Look::Before, Some(BodyMode::None), Some(BodyMode::BufferedPartial)),
        (BodyMode::FullDuplex, Look::Along, None, None),
    ] {
        let mut owner = answering(configured, look);
        assert_eq!(mode(owner.answers.first().unwrap()), first, "{configured:?} {look:?}");
        let answers = owner.on(headers());
        assert_eq!(mode(answers.first().unwrap()), then, "{configured:?} {look:?}");
    }
    let mut owner = answering(BodyMode::None, Look::Along);
    assert_eq!(owner.on(Event::ResponseHeaders { end: true }), [Answer::ResponseHeaders(None)], "there is no body");
}

#[test]
fn a_leak_is_found_at_every_cut_of_a_response() {
    let payload = b"some text EVIL and more";
    for mode in [BodyMode::Streamed, BodyMode::FullDuplex] {
        for look in [Look::Along, Look::Before] {
            for cut in 0..=payload.len() {
                let (first, second) = payload.split_at(cut);
                for ends_in_trailers in [false, true] {
                    let mut owner = answering(mode, look);
                    owner.on(Event::ResponseHeaders { end: false });
                    owner.all([response_body(first, false), response_body(second, !ends_in_trailers)]);
                    if ends_in_trailers {
                        owner.on(Event::ResponseTrailers);
                    }
                    assert_eq!(owner.answers.last(), Some(&Answer::Refusal), "{mode:?} {look:?}, cut at {cut}");
                    assert!(memchr::memmem::find(&owner.sent_back(), HOSTILE).is_none());
                    if (mode, look) == (BodyMode::FullDuplex, Look::Before) {
                        assert_eq!(owner.answers.len(), 2, "not even the headers went on");
                    }
                }
            }
        }
    }
}

#[test]
fn a_clean_response_goes_on_whole() {
    for (mode, look) in [
        (BodyMode::Streamed, Look::Along),
        (BodyMode::BufferedPartial, Look::Before),
        (BodyMode::FullDuplex, Look::Along),
        (BodyMode::FullDuplex, Look::Before),
    ] {
        let mut owner = answering(mode, look);
        let mut answers = owner.on(Event::ResponseHeaders { end: false });
        answers.extend(owner.all([response_body("one ", false), response_body("two", true)]));
        let headers = answers.iter().filter(|answer| matches!(answer, Answer::ResponseHeaders(_))).count();
        assert_eq!((headers, owner.session.ending()), (1, Ending::Answered), "{mode:?} {look:?}");
        match mode {
            BodyMode::FullDuplex => assert_eq!(owner.sent_back(), b"one two"),
            _ => assert_eq!(answers.len(), 3, "{answers:?}"),
        }
        let seen: Vec<u8> = owner.response_units.iter().flat_map(|(fresh, ..)| fresh.clone()).collect();
        assert_eq!(seen, b"one two", "each byte is fresh once");
        assert_eq!(owner.response_units.last().map(|(_, last, whole)| (*last, *whole)), Some((true, true)));
        assert_eq!(owner.session.kept(), 0);
    }
}

#[test]
fn a_response_is_looked_at_up_to_the_bound() {
    for (length, whole) in [(MAX - 1, true), (MAX, true), (MAX + 1, false), (9 * MAX, false)] {
        let mut owner = answering(BodyMode::FullDuplex, Look::Before);
        owner.on(Event::ResponseHeaders { end: false });
        let text = vec![b'x'; length];
        let last = length.div_ceil(7) - 1;
        owner.all(text.chunks(7).enumerate().map(|(place, chunk)| response_body(chunk, place == last)));
        let seen: usize = owner.response_units.iter().map(|(fresh, ..)| fresh.len()).sum();
        assert_eq!((seen, owner.sent_back().len()), (length.min(MAX), length));
        assert!(owner.response_units.iter().any(|(_, last, complete)| *last && *complete == whole), "{length}");
    }
}

#[test]
fn a_response_without_room_is_refused_or_goes_on_unseen() {
    for (look, goes_on) in [(Look::Along, true), (Look::Before, false)] {
        let mut owner = answering(BodyMode::Streamed, look);
        owner.on(Event::ResponseHeaders { end: false });
        assert_eq!(owner.session.overlook_response(), goes_on);
        let answers = owner.on(response_body("EVIL", true));
        let expected = if goes_on { Answer::ResponseBody(Chunk::Continue) } else { Answer::Refusal };
        assert_eq!(answers, [expected]);
    }
}
