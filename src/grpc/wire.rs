//! Protocol-buffer encoding, as little of it as the Check path needs: a borrowing reader of fields and a writer.
//!
//! The reader never panics, never allocates and looks at each byte once. It follows the protobuf rules: unknown
//! fields are skipped, and what a repeated singular field means is up to the caller.

use std::fmt::{self, Write};

use bytes::Bytes;

/// Groups may nest this deep, as in prost. They exist only as unknown fields here.
const GROUP_DEPTH_MAX: u32 = 100;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A varint runs over its end or over 64 bits.
    #[error("a number does not end")]
    Varint,
    /// A length points behind the end of the message.
    #[error("a field is cut short")]
    Truncated,
    /// A field number of 0 or above the limit, or a type that does not exist.
    #[error("a field has no valid number or type")]
    Tag,
    /// A known field with a type that it cannot have.
    #[error("field {0} has the wrong type")]
    Type(u32),
    /// A text that is not UTF-8.
    #[error("field {0} is not UTF-8")]
    Text(u32),
    /// A group that does not end, or nests too deeply.
    #[error("a group does not end")]
    Group,
}

/// A field's value, by wire type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Value<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32(u32),
    /// An old-style group, skipped.
    Group,
}

/// One field: its number and its value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field<'a> {
    /// At least 1.
    pub number: u32,
    /// The value.
    pub value: Value<'a>,
}

impl<'a> Field<'a> {
    /// The value as bytes or as an embedded message.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed::Type(self.number)),
        }
    }

    /// The fields of an embedded message.
    pub fn message(self) -> Result<Fields<'a>, Malformed> {
        self.bytes().map(Fields::new)
    }

    /// The value as text.
    pub fn text(self) -> Result<&'a str, Malformed> {
        simdutf8::basic::from_utf8(self.bytes()?).map_err(|_| Malformed::Text(self.number))
    }
}

/// The fields of one message, in wire order.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads `message` from its beginning.
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field, or `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "an error ends the message; an iterator would go on")]
    pub fn next(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, kind) = self.tag()?;
        if kind == 4 {
            return Err(Malformed::Group);
        }
        let value = self.value(number, kind, GROUP_DEPTH_MAX)?;
        Ok(Some(Field { number, value }))
    }

    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed::Tag)?;
        match tag >> 3 {
            0 => Err(Malformed::Tag),
            number => Ok((number, (tag & 7) as u8)),
        }
    }

    fn value(&mut self, number: u32, kind: u8, depth: u32) -> Result<Value<'a>, Malformed> {
        Ok(match kind {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            3 => {
                self.skip_group(number, depth.checked_sub(1).ok_or(Malformed::Group)?)?;
                Value::Group
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed::Tag),
        })
    }

    fn skip_group(&mut self, number: u32, depth: u32) -> Result<(), Malformed> {
        loop {
            if self.rest.is_empty() {
                return Err(Malformed::Group);
            }
            match self.tag()? {
                (end, 4) if end == number => return Ok(()),
                (_, 4) => return Err(Malformed::Group),
                (inner, kind) => self.value(inner, kind, depth)?,
            };
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (index, byte) in self.rest.iter().copied().enumerate().take(10) {
            // The tenth byte holds the last bit of 64.
            if index == 9 && 1 < byte {
                return Err(Malformed::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(Malformed::Varint)
    }
}

/// A message being written. Lengths are filled in when an embedded message is finished.
#[derive(Clone, Debug, Default)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// An empty message with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Appends bytes that are already encoded.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.bytes.extend_from_slice(encoded);
    }

    /// A number, unless it is 0.
    pub fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, 0);
            self.varint(value);
        }
    }

    /// A double, 0 included.
    pub fn double(&mut self, field: u32, value: f64) {
        self.tag(field, 1);
        self.raw(&value.to_le_bytes());
    }

    /// Bytes, none included.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.announce(field, value.len());
        self.raw(value);
    }

    /// What stands before `length` bytes of a field, which are to follow.
    pub fn announce(&mut self, field: u32, length: usize) {
        self.tag(field, 2);
        self.varint(length as u64);
    }

    /// A text, the empty one included.
    pub fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// A text in the form that users see.
    pub fn shown(&mut self, field: u32, value: impl fmt::Display) {
        // Writing to memory cannot fail; a Display that fails all the same has said what it could.
        self.message(field, |text| write!(text, "{value}").unwrap_or_default());
    }

    /// An embedded message, the empty one included.
    pub fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        self.tag(field, 2);
        let at = self.bytes.len();
        self.bytes.push(0);
        fill(self);
        let length = self.bytes.len() - at - 1;
        match (u8::try_from(length), self.bytes.get_mut(at)) {
            (Ok(short @ ..=0x7f), Some(place)) => *place = short,
            _ => {
                let (varint, used) = encode(length as u64);
                self.bytes.splice(at..=at, varint.into_iter().take(used));
            }
        }
    }

    /// The bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn tag(&mut self, field: u32, kind: u64) {
        self.varint(u64::from(field) << 3 | kind);
    }

    fn varint(&mut self, value: u64) {
        match u8::try_from(value) {
            Ok(short @ ..=0x7f) => self.bytes.push(short),
            _ => {
                let (varint, used) = encode(value);
                self.bytes.extend(varint.into_iter().take(used));
            }
        }
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.raw(text.as_bytes());
        Ok(())
    }
}

impl From<Message> for Bytes {
    fn from(message: Message) -> Self {
        message.bytes.into()
    }
}

fn encode(mut value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut used = 0;
    for place in &mut bytes {
        used += 1;
        *place = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            break;
        }
        *place |= 0x80;
    }
    (bytes, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fields(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
        let mut fields = Fields::new(bytes);
        let mut out = Vec::new();
        while let Some(field) = fields.next()? {
            out.push((field.number, field.value));
        }
        Ok(out)
    }

    #[test]
    fn fields_are_read_in_order() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 0x02, b'o', b'k', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let expected =
            vec![(1, Value::Varint(150)), (2, Value::Bytes(b"ok")), (3, Value::Fixed32(1)), (4, Value::Fixed64(2))];
        assert_eq!(fields(&bytes), Ok(expected));
    }

    #[test]
    fn groups_are_skipped() {
        for (name, bytes, expected) in [
            ("an empty group", &[0x0b, 0x0c][..], Ok(vec![(1, Value::Group)])),
            ("a group with a field and a group", &[0x0b, 0x10, 1, 0x1b, 0x1c, 0x0c], Ok(vec![(1, Value::Group)])),
            ("a group that ends as another", &[0x0b, 0x14], Err(Malformed::Group)),
            ("a group that does not end", &[0x0b, 0x10, 1], Err(Malformed::Group)),
            ("an end without a beginning", &[0x0c], Err(Malformed::Group)),
        ] {
            assert_eq!(fields(bytes), expected, "{name}");
        }
        let depth = GROUP_DEPTH_MAX as usize;
        let nested = |depth: usize| [vec![0x0b; depth], vec![0x0c; depth]].concat();
        assert!(fields(&nested(depth)).is_ok(), "at the bound");
        assert_eq!(fields(&nested(depth + 1)), Err(Malformed::Group), "above the bound");
        assert_eq!(fields(&vec![0x0b; 1 << 20]), Err(Malformed::Group), "a megabyte of beginnings");
    }

    #[test]
    fn broken_bytes_are_named() {
        for (name, bytes, expected) in [
            ("a number without an end", &[0x08, 0xff][..], Malformed::Varint),
            ("a number of eleven bytes", &[8, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 1], Malformed::Varint),
            ("a number above 64 bits", &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], Malformed::Varint),
            ("a length behind the end", &[0x12, 3, 1, 2], Malformed::Truncated),
            ("a huge length", &[0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], Malformed::Truncated),
            ("four bytes that are three", &[0x1d, 1, 2, 3], Malformed::Truncated),
            ("field number 0", &[0x02, 0], Malformed::Tag),
            ("type 6", &[0x0e], Malformed::Tag),
            ("a field number above 29 bits", &[0x80, 0x80, 0x80, 0x80, 0x10, 0], Malformed::Tag),
        ] {
            assert_eq!(fields(bytes), Err(expected), "{name}");
        }
        assert_eq!(
            fields(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
            Ok(vec![(1, Value::Varint(u64::MAX))])
        );
    }

    #[test]
    fn lengths_are_filled_in_at_every_size() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let text = "x".repeat(length);
            let mut message = Message::default();
            message.message(7, |inner| inner.text(2, &text));
            message.number(1, u64::MAX);
            let bytes = message.finish();
            let outer = fields(&bytes).unwrap();
            let Some((7, Value::Bytes(inner))) = outer.first().copied() else { panic!("{outer:?}") };
            assert_eq!(fields(inner), Ok(vec![(2, Value::Bytes(text.as_bytes()))]), "{length}");
            assert_eq!(outer.get(1), Some(&(1, Value::Varint(u64::MAX))), "{length}");
        }
    }
}
