//! Bounds of messages and pauses.

use opentelemetry::trace::{SpanId, TraceFlags, TraceId};

use super::*;
use crate::model::time::Timestamp;
use crate::telemetry::otel::span::{Answered, Asked, Joined};

/// A span of somebody's request.
pub(super) fn span(asked: Asked) -> Span {
    Span {
        own: Joined { trace_id: TraceId::from_bytes([1; 16]), span_id: SpanId::from_bytes([2; 8]) },
        parent_id: None,
        state: String::new(),
        start: Timestamp(1.0),
        end: Timestamp(2.0),
        flags: TraceFlags::SAMPLED,
        asked,
        answered: Answered::default(),
    }
}

/// A span that takes some more bytes than this.
fn large(bytes: usize) -> Span {
    Span { state: "x".repeat(bytes), ..span(Asked::default()) }
}

#[test]
fn a_message_holds_no_more_than_receivers_take() {
    let queue = Buffer::new(100, 100, Full::DropNewest, Arc::default());
    let export = |spans: &[Span]| Export::Traces(encode::traces(&Resource::default(), spans));
    let wait = |count: usize, bytes: usize| (0..count).for_each(|_| queue.push(large(bytes)));

    wait(8, 1000);
    let (_, sent) = fitting(&queue, queue.take(8), export);
    assert_eq!((sent.len(), queue.len()), (8, 0), "small ones go together");

    wait(9, MESSAGE_BYTES_MAX / 4);
    let (message, sent) = fitting(&queue, queue.take(9), export);
    assert!(message.len() <= MESSAGE_BYTES_MAX, "{}", message.len());
    assert_eq!((sent.len(), queue.len()), (2, 7), "the others wait");
    drop(queue.take(9));

    wait(1, MESSAGE_BYTES_MAX * 2);
    let (_, sent) = fitting(&queue, queue.take(1), export);
    assert_eq!((sent.len(), queue.len()), (1, 0), "one is not split");
    assert_eq!(queue.tally().read()[1], 0, "nothing is lost by splitting");
}

#[test]
fn pauses_grow_to_a_bound_and_obey_the_receiver() {
    let mut pause = Pause::default();
    assert_eq!((pause.is_on(), pause.length()), (false, LINGER));
    let lengths: Vec<u64> = (0..8)
        .map(|_| {
            pause = pause.next(None);
            assert!(pause.length() <= pause.0.unwrap());
            pause.0.unwrap().as_secs()
        })
        .collect();
    assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60]);
    let asked = |seconds| Pause::default().next(Some(Duration::from_secs(seconds))).0.unwrap().as_secs();
    assert_eq!([asked(0), asked(30), asked(3600)], [1, 30, 60]);
}

#[tokio::test]
async fn nothing_is_exported_unless_it_is_turned_on() {
    let client = Client::new(&Options::default()).unwrap();
    let of = |security: &SecurityConfig, config: &OtelConfig| {
        Otel::of(security, config, (&client, &Options::default())).map(|otel| otel.is_some())
    };
    let (off, standard) = (SecurityConfig::default(), OtelConfig::default());
    assert_eq!(of(&off, &standard), Ok(false));
    let on = SecurityConfig { enable_otel: true, ..SecurityConfig::default() };
    for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
        assert_eq!(of(&on, &OtelConfig { protocol, ..OtelConfig::default() }), Ok(true), "{protocol:?}");
    }
    let nowhere = SecurityConfig { otel_exporter_endpoint: Some("https://".to_owned()), ..on };
    assert!(of(&nowhere, &OtelConfig { protocol: OtlpProtocol::Grpc, ..OtelConfig::default() }).is_err());
}

#[test]
fn tallies_know_what_was_thrown_away_or_waits_again() {
    let queue: Buffer<u8> = Buffer::new(9, 9, Full::DropNewest, Arc::default());
    queue.tally().underway(5).arrived_but(2);
    assert_eq!(queue.tally().read(), [3, 2, 0, 0]);
    queue.tally().underway(5).arrived_but(9);
    assert_eq!(queue.tally().read(), [3, 7, 0, 0], "no more than there were");
    queue.tally().underway(5).returned();
    assert_eq!(queue.tally().read(), [3, 7, 0, 0]);
    drop(queue.tally().underway(5));
    assert_eq!(queue.tally().read(), [3, 12, 0, 0], "what is not accounted for is lost");
}
