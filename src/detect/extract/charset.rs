//! Charsets: bytes become text in the way their label or their first bytes say.

use std::borrow::Cow;

use encoding_rs::Encoding;

/// How bytes stand for characters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Charset {
    /// UTF-8, and ASCII.
    Utf8,
    /// UTF-16 or UTF-32; code unit in bytes, and whether the first byte is the high one.
    Wide { unit: usize, big_endian: bool },
    /// RFC 2152.
    Utf7,
    /// IBM code page 037: EBCDIC.
    Ibm037,
    /// Any other that web browsers know.
    Web(&'static Encoding),
}

const UTF_16_LE: Charset = Charset::Wide { unit: 2, big_endian: false };
const UTF_16_BE: Charset = Charset::Wide { unit: 2, big_endian: true };
const UTF_32_LE: Charset = Charset::Wide { unit: 4, big_endian: false };
const UTF_32_BE: Charset = Charset::Wide { unit: 4, big_endian: true };

impl Charset {
    /// The charset with this label, `None` when we cannot read it.
    pub(super) fn labelled(label: &str) -> Option<Self> {
        let label = label.trim().to_ascii_lowercase();
        Some(match label.as_str() {
            "" | "utf-8" | "utf8" | "us-ascii" | "ascii" | "binary" | "none" | "utf-8-sig" | "utf8mb4" => Self::Utf8,
            "utf-16" | "utf16" | "utf-16le" | "utf16le" | "unicode" | "ucs-2" | "utf_16" => UTF_16_LE,
            "utf-16be" | "utf16be" => UTF_16_BE,
            "utf-32" | "utf32" | "utf-32le" | "utf32le" | "ucs-4" => UTF_32_LE,
            "utf-32be" | "utf32be" => UTF_32_BE,
            "utf-7" | "utf7" | "unicode-1-1-utf-7" | "csutf7" => Self::Utf7,
            "ibm037" | "ibm-037" | "ibm-37" | "cp037" | "cp37" | "csibm037" | "ebcdic-cp-us" | "ebcdic-cp-ca"
            | "ebcdic-cp-wt" | "ebcdic-cp-nl" | "ibm039" | "ibm1140" | "ibm01140" | "cp1140" => Self::Ibm037,
            other => Self::web(other)?,
        })
    }

    fn web(label: &str) -> Option<Self> {
        let encoding = Encoding::for_label_no_replacement(label.as_bytes())?;
        Some(if encoding == encoding_rs::UTF_8 { Self::Utf8 } else { Self::Web(encoding) })
    }

    /// The charset that the first bytes give away: a byte order mark, or zero bytes where ASCII text in a wide charset
    /// has them, or an EBCDIC XML declaration.
    pub(super) fn of_first_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xEF, 0xBB, 0xBF, ..] => Some(Self::Utf8),
            [0xFF, 0xFE, 0, 0, ..] => Some(UTF_32_LE),
            [0, 0, 0xFE, 0xFF, ..] => Some(UTF_32_BE),
            [0xFF, 0xFE, ..] => Some(UTF_16_LE),
            [0xFE, 0xFF, ..] => Some(UTF_16_BE),
            [b'+', b'/', b'v', b'8' | b'9' | b'+' | b'/', ..] => Some(Self::Utf7),
            [0, 0, 0, 1..=127, ..] => Some(UTF_32_BE),
            [1..=127, 0, 0, 0, ..] => Some(UTF_32_LE),
            [0, 1..=127, 0, 1..=127, ..] => Some(UTF_16_BE),
            [1..=127, 0, 1..=127, 0, ..] => Some(UTF_16_LE),
            [0x4C, 0x6F, 0xA7, 0x94, ..] => Some(Self::Ibm037),
            _ => None,
        }
    }

    /// True when text in this charset looks the same as in ASCII, so that a server which ignores the label reads it too.
    pub(super) const fn keeps_ascii(self) -> bool {
        matches!(self, Self::Utf8 | Self::Web(_))
    }

    /// `bytes` as text, without a byte order mark. What is not valid becomes U+FFFD.
    pub(super) fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        match self {
            Self::Utf8 => lossy(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)),
            Self::Wide { unit, big_endian } => Cow::Owned(wide(bytes, unit, big_endian)),
            Self::Utf7 => Cow::Owned(utf7(bytes)),
            Self::Ibm037 => Cow::Owned(bytes.iter().map(|byte| ibm037(*byte)).collect()),
            Self::Web(encoding) => encoding.decode_without_bom_handling(bytes).0,
        }
    }
}

fn wide(bytes: &[u8], unit: usize, big_endian: bool) -> String {
    let fold = |chunk: &[u8]| {
        let join = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
        if big_endian { chunk.iter().fold(0, join) } else { chunk.iter().rev().fold(0, join) }
    };
    let chunks = bytes.chunks_exact(unit);
    let cut = !chunks.remainder().is_empty();
    let units = chunks.map(fold);
    let mut text = String::with_capacity(bytes.len() / unit);
    if unit == 4 {
        text.extend(units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)));
    } else {
        // A unit of two bytes fits.
        let units = units.map(|unit| u16::try_from(unit).unwrap_or(u16::MAX));
        text.extend(char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)));
    }
    if cut {
        text.push(char::REPLACEMENT_CHARACTER);
    }
    match text.strip_prefix('\u{FEFF}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// UTF-7: `+` and base64 of UTF-16 up to a character outside base64; `+-` is a plus sign.
fn utf7(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(plus) = rest.iter().position(|byte| *byte == b'+') {
        let (plain, shifted) = rest.split_at(plus);
        text.push_str(&lossy(plain));
        let shifted = shifted.get(1..).unwrap_or_default();
        let length = shifted.iter().position(|byte| sextet(*byte).is_none()).unwrap_or(shifted.len());
        let (digits, after) = shifted.split_at(length);
        if digits.is_empty() {
            text.push('+');
        } else {
            push_utf16_of(digits, &mut text);
        }
        rest = after.strip_prefix(b"-").unwrap_or(after);
    }
    text.push_str(&lossy(rest));
    match text.strip_prefix('\u{FEFF}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

fn push_utf16_of(digits: &[u8], text: &mut String) {
    let (mut bits, mut held) = (0u32, 0u32);
    let units = digits.iter().filter_map(|digit| sextet(*digit)).filter_map(|value| {
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held < 16 {
            return None;
        }
        held -= 16;
        let unit = bits >> held;
        bits &= (1 << held) - 1;
        u16::try_from(unit).ok()
    });
    let units: Vec<u16> = units.collect();
    text.extend(char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)));
}

/// The value of a base64 digit.
const fn sextet(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

fn ibm037(byte: u8) -> char {
    // The table has an entry for every byte.
    char::from(IBM037.get(usize::from(byte)).copied().unwrap_or(byte))
}

/// Code page 037 to Latin-1.
#[rustfmt::skip]
const IBM037: [u8; 256] = [
    0x00, 0x01, 0x02, 0x03, 0x9C, 0x09, 0x86, 0x7F, 0x97, 0x8D, 0x8E, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F,
    0x10, 0x11, 0x12, 0x13, 0x9D, 0x85, 0x08, 0x87, 0x18, 0x19, 0x92, 0x8F, 0x1C, 0x1D, 0x1E, 0x1F,
    0x80, 0x81, 0x82, 0x83, 0x84, 0x0A, 0x17, 0x1B, 0x88, 0x89, 0x8A, 0x8B, 0x8C, 0x05, 0x06, 0x07,
    0x90, 0x91, 0x16, 0x93, 0x94, 0x95, 0x96, 0x04, 0x98, 0x99, 0x9A, 0x9B, 0x14, 0x15, 0x9E, 0x1A,
    0x20, 0xA0, 0xE2, 0xE4, 0xE0, 0xE1, 0xE3, 0xE5, 0xE7, 0xF1, 0xA2, 0x2E, 0x3C, 0x28, 0x2B, 0x7C,
    0x26, 0xE9, 0xEA, 0xEB, 0xE8, 0xED, 0xEE, 0xEF, 0xEC, 0xDF, 0x21, 0x24, 0x2A, 0x29, 0x3B, 0xAC,
    0x2D, 0x2F, 0xC2, 0xC4, 0xC0, 0xC1, 0xC3, 0xC5, 0xC7, 0xD1, 0xA6, 0x2C, 0x25, 0x5F, 0x3E, 0x3F,
    0xF8, 0xC9, 0xCA, 0xCB, 0xC8, 0xCD, 0xCE, 0xCF, 0xCC, 0x60, 0x3A, 0x23, 0x40, 0x27, 0x3D, 0x22,
    0xD8, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0xAB, 0xBB, 0xF0, 0xFD, 0xFE, 0xB1,
    0xB0, 0x6A, 0x6B, 0x6C, 0x6D, 0x6E, 0x6F, 0x70, 0x71, 0x72, 0xAA, 0xBA, 0xE6, 0xB8, 0xC6, 0xA4,
    0xB5, 0x7E, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0xA1, 0xBF, 0xD0, 0xDD, 0xDE, 0xAE,
    0x5E, 0xA3, 0xA5, 0xB7, 0xA9, 0xA7, 0xB6, 0xBC, 0xBD, 0xBE, 0x5B, 0x5D, 0xAF, 0xA8, 0xB4, 0xD7,
    0x7B, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0xAD, 0xF4, 0xF6, 0xF2, 0xF3, 0xF5,
    0x7D, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F, 0x50, 0x51, 0x52, 0xB9, 0xFB, 0xFC, 0xF9, 0xFA, 0xFF,
    0x5C, 0xF7, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0xB2, 0xD4, 0xD6, 0xD2, 0xD3, 0xD5,
    0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0xB3, 0xDB, 0xDC, 0xD9, 0xDA, 0x9F,
];

/// Bytes as text; each byte that is not UTF-8 becomes one U+FFFD, so that it counts as noise.
pub(super) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = simdutf8::basic::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 2);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wide_bytes(text: &str, unit: usize, big_endian: bool) -> Vec<u8> {
        let order = |mut bytes: Vec<u8>| {
            if big_endian {
                bytes.reverse();
            }
            bytes
        };
        match unit {
            2 => text.encode_utf16().flat_map(|unit| order(unit.to_le_bytes().to_vec())).collect(),
            _ => text.chars().flat_map(|char| order(u32::from(char).to_le_bytes().to_vec())).collect(),
        }
    }

    #[test]
    fn labels_name_charsets() {
        for (label, expected) in [
            ("UTF-8", Some(Charset::Utf8)),
            ("utf8", Some(Charset::Utf8)),
            ("utf-16", Some(UTF_16_LE)),
            ("UTF-16BE", Some(UTF_16_BE)),
            ("utf-32", Some(UTF_32_LE)),
            ("ibm037", Some(Charset::Ibm037)),
            ("utf-7", Some(Charset::Utf7)),
            ("iso-8859-1", Some(Charset::Web(encoding_rs::WINDOWS_1252))),
            ("ISO-8859-15", Some(Charset::Web(encoding_rs::ISO_8859_15))),
            ("windows-1252", Some(Charset::Web(encoding_rs::WINDOWS_1252))),
            ("gbk", Some(Charset::Web(encoding_rs::GBK))),
            ("iso-2022-cn", None),
            ("ibm500", None),
            ("klingon", None),
        ] {
            assert_eq!(Charset::labelled(label), expected, "{label}");
        }
    }

    #[test]
    fn bytes_are_decoded() {
        for (charset, bytes, expected) in [
            (Charset::Ibm037, &b"\xF1\x7D\x40\xA4\x95\x89\x96\x95\x40\xA2\x85\x93\x85\x83\xA3"[..], "1' union select"),
            (Charset::Ibm037, b"\x4C\xA2\x83\x99\x89\x97\xA3\x6E", "<script>"),
            (Charset::Utf7, b"+ADw-script+AD4-alert(1)+ADw-/script+AD4-", "<script>alert(1)</script>"),
            (Charset::Utf7, b"1+-1 +AOk +ZeVnLIqe", "1+1 \u{e9} \u{65e5}\u{672c}\u{8a9e}"),
            (Charset::Utf7, b"+2D3eAA-", "\u{1f600}"),
            (Charset::Utf7, b"a+", "a+"),
            (UTF_16_LE, b"\xff\xfea\0", "a"),
            (UTF_16_LE, b"a\0b", "a\u{fffd}"),
            (UTF_16_BE, b"\xd8\x3d\xde\x00\xd8\x3d", "\u{1f600}\u{fffd}"),
            (UTF_32_BE, b"\0\x01\xf6\0\0\x11\0\0", "\u{1f600}\u{fffd}"),
            (Charset::Utf8, b"\xef\xbb\xbfa\xff\xfe", "a\u{fffd}\u{fffd}"),
            (Charset::Web(encoding_rs::WINDOWS_1252), b"\x91\xe9", "\u{2018}\u{e9}"),
        ] {
            assert_eq!(charset.decode(bytes), expected, "{charset:?}");
        }
    }

    #[test]
    fn first_bytes_give_wide_charsets_away() {
        for (unit, big_endian) in [(2, false), (2, true), (4, false), (4, true)] {
            for text in ["{\"a\":1}", "\u{feff}<?xml?>"] {
                let bytes = wide_bytes(text, unit, big_endian);
                assert_eq!(Charset::of_first_bytes(&bytes), Some(Charset::Wide { unit, big_endian }), "{text}");
            }
        }
        assert_eq!(Charset::of_first_bytes(b"\x4c\x6f\xa7\x94\x93"), Some(Charset::Ibm037));
        assert_eq!(Charset::of_first_bytes(b"plain"), None);
        assert_eq!(Charset::of_first_bytes(b""), None);
    }

    proptest! {
        #[test]
        fn wide_text_survives(text in "\\PC{0,20}", four in any::<bool>(), big_endian in any::<bool>()) {
            prop_assume!(!text.starts_with('\u{feff}'));
            let unit = if four { 4 } else { 2 };
            let bytes = wide_bytes(&text, unit, big_endian);
            prop_assert_eq!(Charset::Wide { unit, big_endian }.decode(&bytes), text);
        }

        #[test]
        fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 0..64), label in prop::sample::select(
            vec!["utf-8", "utf-16", "utf-32be", "utf-7", "ibm037", "shift_jis", "iso-2022-jp", "gb18030", "iso-8859-15"]))
        {
            let charset = Charset::labelled(label).unwrap();
            prop_assert!(charset.decode(&bytes).chars().count() <= bytes.len() + 1);
        }
    }
}
