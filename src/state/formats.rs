//! Values that guard-core's participants share, byte for byte. Knows no store.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// JSON as Python writes it by default: a space after commas and colons, ASCII only.
///
/// The text of a `serde_json::Value` cannot fail to be made; were it to, the result is empty.
#[must_use]
pub fn spaced_json(value: &serde_json::Value) -> String {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Spaced);
    value.serialize(&mut serializer).ok().and_then(|()| String::from_utf8(text).ok()).unwrap_or_default()
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for letter in fragment.chars() {
            if letter.is_ascii() {
                write!(writer, "{letter}")?;
            } else {
                letter.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }
}

/// A provider's ranges (`CIDR` or `CIDR|region`) as the cloud store keeps them: sorted by code point, JSON.
#[must_use]
pub fn cloud_store(entries: &BTreeSet<String>) -> String {
    spaced_json(&entries.iter().map(String::as_str).collect())
}

/// Reads what [`cloud_store`] wrote; anything else is as good as absent.
#[must_use]
pub fn read_cloud_store(text: &str) -> Option<BTreeSet<String>> {
    serde_json::from_str(text).ok()
}

/// A provider's ranges in the older form: joined by commas, in the order given.
#[must_use]
pub fn cloud_ranges(entries: &[String]) -> String {
    entries.join(",")
}

/// Reads what [`cloud_ranges`] wrote.
#[must_use]
pub fn read_cloud_ranges(text: &str) -> BTreeSet<String> {
    text.split(',').filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

/// Bytes as text: each becomes the code point of the same number.
#[must_use]
pub fn bytes_as_text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Reads what [`bytes_as_text`] wrote; `None` when a code point is no byte.
#[must_use]
pub fn text_as_bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|letter| u8::try_from(letter).ok()).collect()
}

/// The last dynamic rules that were applied, as every participant stores them for its next start.
///
/// Readers refuse a field they do not know, at both levels, so nothing may ever be added here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesSnapshot {
    schema_version: SchemaVersion,
    /// The rules.
    pub rules: Rules,
}

impl RulesSnapshot {
    /// A snapshot of `rules`.
    #[must_use]
    pub const fn new(rules: Rules) -> Self {
        Self { schema_version: SchemaVersion, rules }
    }

    /// The stored text.
    #[must_use]
    pub fn text(&self) -> String {
        // Numbers, texts, lists and a map with text keys: there is nothing that could not be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a stored text; `None` when any field is strange.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The one version there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
#[serde(try_from = "u32")]
struct SchemaVersion;

impl TryFrom<u32> for SchemaVersion {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, Self::Error> {
        if version == 1 { Ok(Self) } else { Err(format!("unknown schema version {version}")) }
    }
}

impl Serialize for SchemaVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(1)
    }
}

/// Dynamic rules. The order of the fields is part of the stored form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of guard-core's dynamic rules")]
pub struct Rules {
    pub rule_id: String,
    pub version: i64,
    pub timestamp: Moment,
    pub expires_at: Option<Moment>,
    pub ttl: i64,
    pub ip_blacklist: Vec<String>,
    pub ip_whitelist: Vec<String>,
    pub ip_ban_duration: i64,
    pub blocked_countries: Vec<String>,
    pub whitelist_countries: Vec<String>,
    pub global_rate_limit: Option<i64>,
    pub global_rate_window: Option<i64>,
    pub endpoint_rate_limits: BTreeMap<String, (i64, i64)>,
    pub blocked_cloud_providers: BTreeSet<String>,
    pub blocked_user_agents: Vec<String>,
    pub suspicious_patterns: Vec<String>,
    pub enable_penetration_detection: Option<bool>,
    pub enable_ip_banning: Option<bool>,
    pub enable_rate_limiting: Option<bool>,
    pub auto_ban_threshold: Option<i64>,
    pub auto_ban_duration: Option<i64>,
    pub enable_rate_limit_auto_ban: Option<bool>,
    pub emergency_mode: bool,
    pub emergency_whitelist: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rule_id: "default-rule".to_owned(),
            version: 1,
            timestamp: Timestamp(0.0).into(),
            expires_at: None,
            ttl: 300,
            ip_blacklist: Vec::new(),
            ip_whitelist: Vec::new(),
            ip_ban_duration: 3600,
            blocked_countries: Vec::new(),
            whitelist_countries: Vec::new(),
            global_rate_limit: None,
            global_rate_window: None,
            endpoint_rate_limits: BTreeMap::new(),
            blocked_cloud_providers: BTreeSet::new(),
            blocked_user_agents: Vec::new(),
            suspicious_patterns: Vec::new(),
            enable_penetration_detection: None,
            enable_ip_banning: None,
            enable_rate_limiting: None,
            auto_ban_threshold: None,
            auto_ban_duration: None,
            enable_rate_limit_auto_ban: None,
            emergency_mode: false,
            emergency_whitelist: Vec::new(),
        }
    }
}

/// An ISO 8601 time in the form in which participants store it: `T` between date and time, seconds, six digits of a
/// fraction that is not zero, and the offset as it was given, UTC as `Z`. Without an offset it means UTC.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment {
    text: String,
    /// Microseconds since the Unix epoch.
    unix: i64,
}

/// Why a text is no [`Moment`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is no ISO 8601 time such as 2026-01-31T08:30:00Z")]
pub struct BadMoment;

impl Moment {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The moment itself.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        Timestamp(self.unix as f64 / 1e6)
    }

    /// Reads the usual spellings: a date alone, a space or `T` before the time, no seconds, any fraction (cut after
    /// microseconds), `Z`, `+HH:MM`, `+HHMM` or nothing.
    fn read(text: &str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let date: jiff::civil::Date = date.parse().ok()?;
        let (clock, offset) = match rest.strip_prefix(['T', 't', ' ', '_']) {
            Some(rest) => rest.split_at(rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len())),
            None if rest.is_empty() => ("00:00", ""),
            None => return None,
        };
        let mut parts = clock.splitn(3, ':');
        let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
        let seconds = parts.next().unwrap_or("00");
        let (second, fraction) = seconds.split_once(['.', ',']).unwrap_or((seconds, "0"));
        let micros = format!("{:0<6}", fraction.get(..6).unwrap_or(fraction));
        let (second, micros) = (digits(second, 2)?, digits(&micros, 6)?);
        let is_fraction = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
        if !is_fraction || 23 < hour || 59 < minute || 59 < second {
            return None;
        }
        let ahead = minutes_ahead(offset)?;
        let time = date.at(hour as i8, minute as i8, second as i8, 0);
        let utc = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
        let unix = (utc - i64::from(ahead) * 60) * 1_000_000 + i64::from(micros);
        let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
        let zone = match (offset.is_empty(), ahead) {
            (true, _) => String::new(),
            (false, 0) => "Z".to_owned(),
            (false, _) => {
                let sign = if ahead < 0 { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", ahead.abs() / 60, ahead.abs() % 60)
            }
        };
        Some(Self { text: format!("{date}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}"), unix })
    }
}

/// A number of exactly so many digits.
fn digits(text: &str, count: usize) -> Option<i32> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Minutes by which an offset is ahead of UTC.
fn minutes_ahead(offset: &str) -> Option<i32> {
    let (sign, rest) = match offset.strip_prefix(['+', '-']) {
        Some(rest) => (if offset.starts_with('-') { -1 } else { 1 }, rest),
        None => return matches!(offset, "" | "Z" | "z").then_some(0),
    };
    let (hours, minutes) = rest.split_once(':').or_else(|| rest.split_at_checked(2))?;
    let (hours, minutes) = (digits(hours, 2)?, if minutes.is_empty() { 0 } else { digits(minutes, 2)? });
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

impl TryFrom<String> for Moment {
    type Error = BadMoment;

    fn try_from(text: String) -> Result<Self, BadMoment> {
        Self::read(&text).ok_or(BadMoment)
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.text
    }
}

impl From<Timestamp> for Moment {
    fn from(at: Timestamp) -> Self {
        // Moments of our clock lie between the years 1970 and 9999; others become the epoch.
        let unix = (at.0 * 1e6) as i64;
        let at = jiff::Timestamp::from_microsecond(unix).unwrap_or_default();
        Self { text: format!("{at:.6}").replace(".000000", ""), unix }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Moment {
        Moment::try_from(text.to_owned()).unwrap()
    }

    /// The stored forms are those that guard-core's models gave for the same texts.
    #[test]
    fn times_are_stored_as_participants_do() {
        for (text, stored, unix) in [
            ("2026-01-02 03:04:05+00:00", "2026-01-02T03:04:05Z", 1_767_323_045.0),
            ("2026-01-02T03:04:05.5Z", "2026-01-02T03:04:05.500000Z", 1_767_323_045.5),
            ("2026-01-02T03:04:05.678901+02:30", "2026-01-02T03:04:05.678901+02:30", 1_767_314_045.678_901),
            ("2026-01-02", "2026-01-02T00:00:00", 1_767_312_000.0),
            ("2026-01-02T03:04", "2026-01-02T03:04:00", 1_767_323_040.0),
            ("2026-01-02T03:04:05,5-0200", "2026-01-02T03:04:05.500000-02:00", 1_767_330_245.5),
            ("2026-01-02T03:04:05-00:00", "2026-01-02T03:04:05Z", 1_767_323_045.0),
            ("2026-01-02T03:04:05.1234567Z", "2026-01-02T03:04:05.123456Z", 1_767_323_045.123_456),
            ("2026-01-02t03:04:05z", "2026-01-02T03:04:05Z", 1_767_323_045.0),
        ] {
            let read = moment(text);
            assert_eq!((read.as_str(), read.timestamp().0), (stored, unix), "{text}");
            assert_eq!(moment(stored), read, "{text}");
        }
        for text in
            ["", "now", "2026-02-30T00:00:00", "2026-01-02T03:04:05+24:00", "2026-01-02T03:04:60Z", "2026-01-02T24:00"]
        {
            assert_eq!(Moment::try_from(text.to_owned()), Err(BadMoment), "{text}");
        }
        assert_eq!(Moment::from(Timestamp(1_767_323_045.5)).as_str(), "2026-01-02T03:04:05.500000Z");
        assert_eq!(Moment::from(Timestamp(1_767_323_045.0)).as_str(), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn json_is_spaced_and_ascii() {
        let value = serde_json::json!({"X-A": "é☃😀\u{1}\"\\/", "b": [1, 1.5, null, true], "c": {}, "d": []});
        let expected = r#"{"X-A": "\u00e9\u2603\ud83d\ude00\u0001\"\\/", "b": [1, 1.5, null, true], "c": {}, "d": []}"#;
        assert_eq!(spaced_json(&value), expected);
    }

    #[test]
    fn bytes_survive_as_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = bytes_as_text(&bytes);
        assert_eq!(bytes_as_text(&[0x41, 0xe9, 0xff]).as_bytes(), [0x41, 0xc3, 0xa9, 0xc3, 0xbf]);
        assert_eq!(text_as_bytes(&text), Some(bytes));
        assert_eq!(text_as_bytes("\u{100}"), None);
    }

    #[test]
    fn cloud_ranges_are_sorted_and_an_empty_list_is_an_answer() {
        let entries = ["203.0.113.0/25|us-east-1", "10.0.0.0/8"].map(str::to_owned).into_iter().collect();
        assert_eq!(cloud_store(&entries), r#"["10.0.0.0/8", "203.0.113.0/25|us-east-1"]"#);
        assert_eq!(read_cloud_store(&cloud_store(&entries)), Some(entries));
        assert_eq!(read_cloud_store("[]"), Some(BTreeSet::new()));
        assert_eq!(read_cloud_store("{}"), None);
    }

    #[test]
    fn a_snapshot_with_anything_unknown_is_refused() {
        let text =
            RulesSnapshot::new(Rules { timestamp: moment("2026-01-01T00:00:00+02:00"), ..Rules::default() }).text();
        let read = RulesSnapshot::read(&text).unwrap();
        assert_eq!((read.text(), read.rules.timestamp.as_str()), (text.clone(), "2026-01-01T00:00:00+02:00"));
        for strange in [
            text.replace(":1,\"rules\"", ":2,\"rules\""),
            text.replace("\"ttl\"", "\"message\":null,\"ttl\""),
            text.replace("{\"schema", "{\"more\":1,\"schema"),
            String::new(),
        ] {
            assert_eq!(RulesSnapshot::read(&strange), None, "{strange}");
        }
    }
}
