//! The bytes of a body on their way to inspection. Bounded: what exceeds the bound is not kept.

use bytes::{Bytes, BytesMut};

/// Bytes before a gRPC message: a flag and the length.
const PREFIX: usize = 5;

/// Bytes that were taken and not yet let go.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// The first chunk, as long as it is the only one: not copied.
    single: Bytes,
    joined: BytesMut,
    /// What belongs to the unit under inspection, from the beginning.
    unit: usize,
    /// Bytes of a judged message that are still to come.
    beyond: u64,
}

impl Gather {
    pub(super) fn len(&self) -> usize {
        if self.joined.is_empty() { self.single.len() } else { self.joined.len() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.single } else { &self.joined }
    }

    /// The bytes under inspection.
    pub(super) fn unit(&self) -> &[u8] {
        self.bytes().get(..self.unit).unwrap_or_default()
    }

    fn push(&mut self, bytes: Bytes) {
        if self.is_empty() {
            self.single = bytes;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&std::mem::take(&mut self.single));
        }
        self.joined.extend_from_slice(&bytes);
    }

    /// Takes a chunk of a body that is inspected as one, up to `max` bytes in all. Returns what did not fit.
    pub(super) fn take(&mut self, mut bytes: Bytes, max: usize) -> Bytes {
        let room = max.saturating_sub(self.len());
        let rest = bytes.split_off(room.min(bytes.len()));
        self.push(bytes);
        rest
    }

    /// Everything that is here becomes the unit.
    pub(super) fn mark_all(&mut self) {
        self.unit = self.len();
    }

    /// Takes a chunk of a body of messages. Returns the part of it that belongs to a message judged before.
    pub(super) fn take_messages(&mut self, mut bytes: Bytes) -> Bytes {
        let beyond = usize::try_from(self.beyond).unwrap_or(usize::MAX).min(bytes.len());
        self.beyond -= beyond as u64;
        let judged = bytes.split_to(beyond);
        self.push(bytes);
        judged
    }

    /// The whole messages that are here become the unit; so does a message that outgrows `max`, of which the rest will
    /// not be looked at. Returns whether all of the unit's messages are whole.
    pub(super) fn mark_messages(&mut self, max: usize) -> bool {
        let (unit, beyond) = messages(self.bytes(), max);
        self.unit = unit;
        // While a judged message goes on, nothing else is here.
        self.beyond += beyond;
        beyond == 0
    }

    /// Lets the unit go.
    pub(super) fn release(&mut self) -> Bytes {
        let unit = std::mem::take(&mut self.unit);
        if !self.joined.is_empty() {
            let released = self.joined.split_to(unit.min(self.joined.len())).freeze();
            if self.joined.is_empty() {
                self.joined = BytesMut::new();
            }
            return released;
        }
        self.single.split_to(unit.min(self.single.len()))
    }
}

/// How many bytes of whole messages there are, or of all when the last message outgrows `max`; and how many bytes of
/// that message are still to come.
fn messages(bytes: &[u8], max: usize) -> (usize, u64) {
    let mut at = 0;
    while let Some((head, rest)) = bytes.get(at..).and_then(|rest| rest.split_at_checked(PREFIX)) {
        let length = head.iter().skip(1).fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
        if let Some(missing) = length.checked_sub(rest.len()).filter(|missing| *missing != 0) {
            if max < rest.len() + PREFIX {
                return (bytes.len(), missing as u64);
            }
            break;
        }
        at += PREFIX + length;
    }
    (at, 0)
}
