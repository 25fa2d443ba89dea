//! The JSON text that guard-core's receivers expect: compact, ASCII only, keys as written or sorted.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use crate::model::time::Timestamp;

/// How a moment is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Style {
    /// `2026-01-02 03:04:05.678901+00:00`, as batches have it.
    Spaced,
    /// `2026-01-02T03:04:05.678901+00:00`, as encrypted batches have it.
    Joined,
}

/// A moment in UTC; the fraction is left out when it is zero.
#[must_use]
pub fn moment(at: Timestamp, style: Style) -> String {
    // Microseconds since the epoch are exact in a double until the year 2255.
    let micros = (at.0 * 1e6).round() as i64;
    let stamp = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let time = jiff::tz::Offset::UTC.to_datetime(stamp);
    let between = match style {
        Style::Spaced => ' ',
        Style::Joined => 'T',
    };
    let (year, month, day) = (time.year(), time.month(), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let mut text = format!("{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}");
    let fraction = time.subsec_nanosecond() / 1000;
    if fraction != 0 {
        text.push_str(&format!(".{fraction:06}"));
    }
    text.push_str("+00:00");
    text
}

/// Compact JSON text in ASCII.
#[must_use]
pub fn ascii(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    // Writing to memory does not fail, and a `Value` always has a text.
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Ascii)).unwrap_or_default();
    bytes
}

/// The same value with the keys of every object in order.
#[must_use]
pub fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> =
                fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// Compact, and every character beyond ASCII as `\uXXXX`.
struct Ascii;

impl Formatter for Ascii {
    /// Numbers as Python writes them: an exponent of two digits below 0.0001 and from 1e16.
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        if size == 0.0 || (1e-4..1e16).contains(&size) {
            return write!(writer, "{value:?}");
        }
        let text = format!("{value:e}");
        let Some((digits, exponent)) = text.split_once('e') else { return writer.write_all(text.as_bytes()) };
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        write!(writer, "{digits}e{sign}{exponent:0>2}")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for letter in fragment.chars() {
            if letter.is_ascii() {
                writer.write_all(&[letter as u8])?;
                continue;
            }
            for unit in letter.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn moments_are_written_as_receivers_read_them() {
        for (seconds, style, expected) in [
            (1_767_323_045.678_901, Style::Spaced, "2026-01-02 03:04:05.678901+00:00"),
            (1_767_323_045.678_901, Style::Joined, "2026-01-02T03:04:05.678901+00:00"),
            (1_767_323_045.0, Style::Spaced, "2026-01-02 03:04:05+00:00"),
            (1_767_323_045.000_001, Style::Spaced, "2026-01-02 03:04:05.000001+00:00"),
            (0.0, Style::Spaced, "1970-01-01 00:00:00+00:00"),
            (f64::MAX, Style::Spaced, "1970-01-01 00:00:00+00:00"),
        ] {
            assert_eq!(moment(Timestamp(seconds), style), expected, "{seconds}");
        }
    }

    #[test]
    fn text_is_compact_and_ascii() {
        let value = json!({"b": "x \u{e9}", "a": ["\u{1f600}\n\"\u{7f}\u{1}", 1.0, null, true, 7.7e-5, 0.0001, -1e16, 1e15, 1e-300]});
        assert_eq!(
            String::from_utf8(ascii(&value)).unwrap(),
            r#"{"b":"x \u00e9","a":["\ud83d\ude00\n\"_\u0001",1.0,null,true,7.7e-05,0.0001,-1e+16,1000000000000000.0,1e-300]}"#.replace('_', "\u{7f}")
        );
        let nested = json!({"b": {"z": 1, "y": [{"d": 1, "c": 2}]}, "a": 1});
        assert_eq!(ascii(&sorted(nested)), br#"{"a":1,"b":{"y":[{"c":2,"d":1}],"z":1}}"#);
    }
}
