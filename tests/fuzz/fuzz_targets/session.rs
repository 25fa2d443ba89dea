//! Parts of an exchange in any order, mode and size: the session answers, refuses or fails, and never keeps more than it
//! may, nor sends on what it was told to refuse.
#![no_main]

use bytes::Bytes;
use envoy_guard::session::{
    Answer, BodyKind, BodyMode, Chunk, Command, Ending, Event, Inspected, Judgement, Look, Plan, Ruling, Session, Setup,
};
use libfuzzer_sys::fuzz_target;

const MODES: [BodyMode; 6] = [
    BodyMode::None,
    BodyMode::Streamed,
    BodyMode::Buffered,
    BodyMode::BufferedPartial,
    BodyMode::FullDuplex,
    BodyMode::Unstated,
];
const BYTES_MAX: usize = 64;
/// Commands that one event may lead to: a held body goes on in pieces.
const COMMANDS_MAX: usize = 64;
const HOSTILE: u8 = 0xee;

/// The event that a byte stands for, with bytes of a body from `rest`.
fn event<'d>(byte: u8, rest: &'d [u8]) -> (Event, &'d [u8]) {
    let end = byte & 8 != 0;
    let length = usize::from(byte >> 4) * 7;
    let (part, behind) = rest.split_at(length.min(rest.len()));
    let kind = [BodyKind::Whole, BodyKind::Messages, BodyKind::Tunnel, BodyKind::Whole][usize::from(byte >> 4 & 3)];
    match byte & 7 {
        0 => (Event::RequestHeaders { end, kind }, rest),
        1..=3 => (Event::RequestBody { bytes: Bytes::copy_from_slice(part), end }, behind),
        4 => (Event::RequestTrailers, rest),
        5 => (Event::ResponseHeaders { end }, rest),
        6 => (Event::ResponseBody { bytes: Bytes::copy_from_slice(part), end }, behind),
        _ => (Event::ResponseTrailers, rest),
    }
}

fuzz_target!(|data: &[u8]| {
    let [modes, plan, parts @ ..] = data else { return };
    let mut rest = parts;
    let setup = Setup {
        request_body: MODES[usize::from(modes % 6)],
        response_body: MODES[usize::from(modes / 6 % 6)],
        overridable: modes & 64 != 0,
        observed: modes & 128 != 0,
        bytes_max: BYTES_MAX,
        response_bytes_max: BYTES_MAX,
    };
    let plan_of = Plan {
        request_body: plan & 1 != 0,
        response_headers: plan & 2 != 0,
        response_body: plan & 16 != 0,
        holds_request: plan & 32 != 0,
    };
    let look = [Look::Away, Look::Along, Look::Before, Look::Before][usize::from(plan >> 6)];
    let ruling = if plan & 12 == 12 { Ruling::Refuse } else { Ruling::Pass(plan_of) };
    let mut session = Session::new(setup);
    let (mut is_refused, mut taken, mut echoed, mut largest) = (false, [0; 2], [0; 2], 0);
    while let Some((byte, behind)) = rest.split_first() {
        let (part, left) = event(*byte, behind);
        rest = left;
        let (side, size) = match &part {
            Event::RequestBody { bytes, .. } => (0, bytes.len()),
            Event::ResponseBody { bytes, .. } => (1, bytes.len()),
            _ => (0, 0),
        };
        taken[side] += size;
        largest = size.max(largest);
        session.on(part);
        let mut count = 0;
        while let Some(command) = session.command() {
            count += 1;
            assert!(count <= COMMANDS_MAX, "no end of commands");
            match command {
                Command::Decide => session.decided(ruling),
                Command::Inspect => {
                    let is_hostile = session.unit().0.contains(&HOSTILE);
                    is_refused |= is_hostile;
                    session.inspected(if is_hostile { Inspected::Refused } else { Inspected::Clean });
                }
                Command::Judge => session.judged(match plan & 12 {
                    8 => Judgement::Refuse,
                    _ => Judgement::Pass(look),
                }),
                Command::InspectResponse => {
                    let is_hostile = session.response_unit().bytes.contains(&HOSTILE);
                    is_refused |= is_hostile;
                    session.response_inspected(if is_hostile { Inspected::Refused } else { Inspected::Clean });
                }
                Command::Answer(answer) => {
                    let goes_on = !matches!(answer, Answer::Refusal | Answer::Failure(_));
                    assert!(!(is_refused && goes_on), "{answer:?} after a refusal");
                    match &answer {
                        Answer::RequestBody(Chunk::Echo { bytes, .. }) => echoed[0] += bytes.len(),
                        Answer::ResponseBody(Chunk::Echo { bytes, .. }) => echoed[1] += bytes.len(),
                        _ => {}
                    }
                }
            }
        }
        assert!(session.kept() <= 3 * BYTES_MAX + 5 + 2 * largest, "{} bytes are kept", session.kept());
        assert!(echoed[0] <= taken[0] && echoed[1] <= taken[1], "more goes on than came");
        assert!(!is_refused || setup.observed || session.ending() == Ending::Closed);
    }
    // What ends too early is not consent; asking must not panic.
    let _ = session.ending();
});
