//! Protocol buffers without a schema: every length-delimited field is text, a message, or noise.

use std::ops::ControlFlow;

use crate::detect::extract::sink::Sink;
use crate::detect::extract::{Flow, binary};
use crate::detect::{Kind, Source};

/// Messages inside messages.
const NESTING_MAX: usize = 16;

/// Hands out the texts of a message. False when the bytes are no message.
pub(super) fn walk(message: &[u8], sink: &mut Sink<'_>) -> ControlFlow<(), bool> {
    nested(message, 0, sink)
}

fn nested(message: &[u8], depth: usize, sink: &mut Sink<'_>) -> ControlFlow<(), bool> {
    if !is_message(message) {
        return ControlFlow::Continue(false);
    }
    let mut rest = message;
    while let Some((field, after)) = next_field(rest) {
        rest = after;
        let Field::Bytes(bytes) = field else { continue };
        if depth < NESTING_MAX && !is_text(bytes) && nested(bytes, depth + 1, sink)? {
            continue;
        }
        text_of(bytes, sink)?;
    }
    ControlFlow::Continue(true)
}

/// Hands out bytes that are text, or else their printable islands.
pub(super) fn text_of(bytes: &[u8], sink: &mut Sink<'_>) -> Flow {
    match simdutf8::basic::from_utf8(bytes) {
        Ok(text) if !binary::is_binary(text) => sink.field(Source::Body, Kind::Value, "", text),
        Ok(text) => binary::islands(text, "", sink),
        Err(_) => binary::islands(&crate::detect::extract::charset::lossy(bytes), "", sink),
    }
}

/// True for UTF-8 without control characters: a message of any use has some.
fn is_text(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes).is_ok_and(|text| text.chars().all(binary::is_printable))
}

/// One field's value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field<'b> {
    Number,
    Bytes(&'b [u8]),
}

/// True when the bytes are nothing but whole fields.
fn is_message(message: &[u8]) -> bool {
    let mut rest = message;
    while let Some((_, after)) = next_field(rest) {
        rest = after;
    }
    rest.is_empty() && !message.is_empty()
}

fn next_field(message: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = varint(message)?;
    if key >> 3 == 0 || u64::from(u32::MAX) < key {
        return None;
    }
    match key & 7 {
        0 => varint(rest).map(|(_, rest)| (Field::Number, rest)),
        1 => rest.get(8..).map(|rest| (Field::Number, rest)),
        5 => rest.get(4..).map(|rest| (Field::Number, rest)),
        2 => {
            let (length, rest) = varint(rest)?;
            let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((Field::Bytes(bytes), rest))
        }
        // Groups: their marks hold nothing, their fields follow.
        3 | 4 => Some((Field::Number, rest)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7F) << (index * 7);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}
