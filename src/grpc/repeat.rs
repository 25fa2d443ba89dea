//! One request, asked about twice: Envoy repeats a check, byte for byte, when its retry policy says so.
//!
//! The repetition gets the first answer and counts once. A request is known by the id and the arrival time that Envoy
//! gave it; a message without both is never taken for a repetition.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::grpc::wire::{Fields, Malformed};

/// A repetition comes within this time, or is decided afresh.
const REPEAT_WITHIN: Duration = Duration::from_secs(1);
/// Answers kept, one in each slot; a newer request takes the slot over.
const SLOTS: usize = 4096;

/// The answers of the last moments, shared by all threads.
#[derive(Debug)]
pub struct Repeats {
    slots: Box<[Mutex<Option<Kept>>]>,
    hasher: foldhash::quality::RandomState,
    repeated: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    key: u64,
    at: Instant,
    answer: Bytes,
}

/// What a request is known by, hashed with a key of this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked(u64);

impl Default for Repeats {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| Mutex::new(None)).collect();
        Self { slots, hasher: foldhash::quality::RandomState::default(), repeated: AtomicU64::new(0) }
    }
}

impl Repeats {
    /// What the request in `message` is known by.
    #[must_use]
    pub fn identify(&self, message: &[u8]) -> Option<Asked> {
        let stamp = Stamp::of(message).ok().flatten()?;
        Some(Asked(self.hasher.hash_one((stamp.id, stamp.time, message.len()))))
    }

    /// The answer that was given to the same request a moment ago.
    #[must_use]
    pub fn answer(&self, asked: Asked, now: Instant) -> Option<Bytes> {
        let slot = self.slot(asked)?.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = slot.as_ref().filter(|kept| kept.key == asked.0)?;
        if REPEAT_WITHIN < now.saturating_duration_since(kept.at) {
            return None;
        }
        self.repeated.fetch_add(1, Ordering::Relaxed);
        Some(kept.answer.clone())
    }

    /// How many repetitions there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Keeps an answer for a moment.
    pub fn keep(&self, asked: Asked, answer: Bytes, now: Instant) {
        if let Some(slot) = self.slot(asked) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Kept { key: asked.0, at: now, answer });
        }
    }

    fn slot(&self, asked: Asked) -> Option<&Mutex<Option<Kept>>> {
        self.slots.get(usize::try_from(asked.0).unwrap_or(usize::MAX) % SLOTS)
    }
}

/// Envoy's name and time of a request.
struct Stamp<'a> {
    id: &'a [u8],
    time: &'a [u8],
}

impl<'a> Stamp<'a> {
    fn of(message: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let Some(request) = field(message, 1)?.map(|attributes| field(attributes, 4)).transpose()?.flatten() else {
            return Ok(None);
        };
        let id = field(request, 2)?.map(|http| field(http, 1)).transpose()?.flatten();
        let time = field(request, 1)?;
        Ok(id.zip(time).filter(|(id, time)| !id.is_empty() && !time.is_empty()).map(|(id, time)| Self { id, time }))
    }
}

/// The first field with this number. Envoy writes fields in their order, so the walk is short.
fn field(message: &[u8], number: u32) -> Result<Option<&[u8]>, Malformed> {
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next()? {
        if field.number == number {
            return field.bytes().map(Some);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::grpc::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
    use crate::grpc::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};

    fn message(id: &str, nanos: Option<i32>) -> Vec<u8> {
        let http = HttpRequest { id: id.to_owned(), method: "GET".to_owned(), ..HttpRequest::default() };
        let time = nanos.map(|nanos| prost_types::Timestamp { seconds: 1_700_000_000, nanos });
        let request = Some(Request { time, http: Some(http) });
        CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }.encode_to_vec()
    }

    #[test]
    fn the_same_request_is_known_again_and_another_is_not() {
        let repeats = Repeats::default();
        let first = repeats.identify(&message("42", Some(7))).unwrap();
        assert_eq!(repeats.identify(&message("42", Some(7))), Some(first));
        assert_ne!(repeats.identify(&message("43", Some(7))), Some(first));
        assert_ne!(repeats.identify(&message("42", Some(8))), Some(first));
        for anonymous in [message("", Some(7)), message("42", None), Vec::new(), vec![0xff; 9]] {
            assert_eq!(repeats.identify(&anonymous), None);
        }
    }

    #[test]
    fn an_answer_is_given_again_for_a_second() {
        let (repeats, start) = (Repeats::default(), crate::clock::instant());
        let asked = repeats.identify(&message("42", Some(7))).unwrap();
        assert_eq!(repeats.answer(asked, start), None);
        repeats.keep(asked, Bytes::from_static(b"no"), start);
        assert_eq!(repeats.answer(asked, start + REPEAT_WITHIN), Some(Bytes::from_static(b"no")));
        assert_eq!(repeats.answer(asked, start + REPEAT_WITHIN + Duration::from_nanos(1)), None);
    }
}
