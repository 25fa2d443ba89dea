//! Content codings: gzip, deflate, br and zstd, undone within bounds.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

/// Codings one body may be wrapped in; no genuine client uses more than one.
const CODINGS_MAX: usize = 3;

/// How many times longer than its input an output may be. Deflate's own limit is 1032; text stays below 50.
const RATIO_MAX: usize = 512;

/// Output below this many bytes is never called a bomb.
const RATIO_FROM: usize = 64 * 1024;

/// History a zstd frame may ask for, as HTTP limits it (RFC 9659).
const ZSTD_WINDOW_MAX: u64 = 8 * 1024 * 1024;

/// Bytes read from a decoder at once.
const STEP: usize = 16 * 1024;

/// A body without its codings, as far as they could be undone.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Plain<'b> {
    /// What there is. The input itself when the first coding could not be undone at all.
    pub(super) bytes: Cow<'b, [u8]>,
    pub(super) end: End,
}

/// How the decoding ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// All input was decoded.
    Whole,
    /// The output reached its bound.
    Full,
    /// The input ends in the middle.
    Cut,
    /// The input is no such coding, or ends in the middle: not every decoder can tell.
    Damaged,
    /// The input cannot be decoded, for this reason.
    Refused(&'static str),
}

/// Undoes the codings that a request's Content-Encoding headers name, last one first. At most `max` bytes come out.
pub(super) fn undo<'b>(headers: &str, body: &'b [u8], max: usize) -> Plain<'b> {
    if headers.is_empty() {
        return Plain { bytes: Cow::Borrowed(body), end: End::Whole };
    }
    let codings = headers.split(',').map(|coding| coding.trim().to_ascii_lowercase());
    let codings: Vec<String> = codings.filter(|coding| !is_transparent(coding)).take(CODINGS_MAX + 1).collect();
    let mut plain = Plain { bytes: Cow::Borrowed(body), end: End::Whole };
    if CODINGS_MAX < codings.len() {
        plain.end = End::Refused("too many content codings");
        return plain;
    }
    for coding in codings.iter().rev() {
        let (output, end) = undo_one(coding, &plain.bytes, max);
        if !output.is_empty() || end == End::Whole {
            plain.bytes = Cow::Owned(output);
        }
        // A cut layer still holds whole data of the next one.
        if end != End::Whole {
            plain.end = end;
        }
        if matches!(end, End::Refused(_) | End::Damaged) {
            break;
        }
    }
    plain
}

/// Names that do not change the bytes: no coding, and labels that SDKs and confused clients put here.
fn is_transparent(coding: &str) -> bool {
    matches!(coding, "" | "identity" | "none" | "binary" | "utf-8" | "utf8" | "aws-chunked" | "amz-1.0")
}

fn undo_one(coding: &str, input: &[u8], max: usize) -> (Vec<u8>, End) {
    match coding {
        // A short text that is no gzip at all would pass for a cut one.
        "gzip" | "x-gzip" if !input.starts_with(&[0x1F, 0x8B]) => (Vec::new(), End::Damaged),
        "gzip" | "x-gzip" => pump(flate2::bufread::MultiGzDecoder::new(input), input.len(), max),
        // Senders disagree whether deflate has a zlib header; the header's checksum tells.
        "deflate" if is_zlib(input) => pump(flate2::bufread::ZlibDecoder::new(input), input.len(), max),
        "deflate" => pump(flate2::bufread::DeflateDecoder::new(input), input.len(), max),
        "br" => pump(brotli_decompressor::Decompressor::new(input, STEP), input.len(), max),
        "zstd" => zstd(input, max),
        _ => (Vec::new(), End::Refused("the content coding is not known")),
    }
}

fn is_zlib(input: &[u8]) -> bool {
    matches!(input, [method, flags, ..]
        if method & 0x0F == 8 && (u16::from(*method) << 8 | u16::from(*flags)).is_multiple_of(31))
}

/// Decodes all frames of `input`.
fn zstd(mut input: &[u8], max: usize) -> (Vec<u8>, End) {
    let (length, mut output) = (input.len(), Vec::new());
    while !input.is_empty() {
        if let Some(after) = skippable(input) {
            input = after;
            continue;
        }
        let Ok(frame) = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(&mut input, ZSTD_WINDOW_MAX)
        else {
            return (output, End::Damaged);
        };
        let (bytes, end) = pump(frame, length, max.saturating_sub(output.len()));
        output.extend_from_slice(&bytes);
        if end != End::Whole {
            return (output, end);
        }
    }
    (output, End::Whole)
}

/// What follows a frame that holds no content, when `input` begins with one.
fn skippable(input: &[u8]) -> Option<&[u8]> {
    let [0x50..=0x5F, 0x2A, 0x4D, 0x18, a, b, c, d, rest @ ..] = input else { return None };
    let length = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
    Some(rest.get(length..).unwrap_or_default())
}

/// Reads a decoder to its end, or to a bound.
fn pump(mut decoder: impl Read, input: usize, max: usize) -> (Vec<u8>, End) {
    let mut output = Vec::new();
    loop {
        if RATIO_FROM <= output.len() && input.saturating_mul(RATIO_MAX) < output.len() {
            return (output, End::Refused("the body inflates more than genuine text does"));
        }
        if max <= output.len() {
            let more = decoder.read(&mut [0]).is_ok_and(|count| count != 0);
            return (output, if more { End::Full } else { End::Whole });
        }
        let step = STEP.min(max - output.len()) as u64;
        match decoder.by_ref().take(step).read_to_end(&mut output) {
            Ok(0) => return (output, End::Whole),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return (output, End::Cut),
            Err(_) => return (output, End::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstandard(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// "hello" as one uncompressed brotli block.
    const BROTLI: &[u8] = b"\x0b\x02\x80hello\x03";

    const TEXT: &[u8] = b"id=1' union select password from users--";

    fn encoded(coding: &str, text: &[u8]) -> Vec<u8> {
        match coding {
            "gzip" => gzip(text),
            "deflate" => zlib(text),
            "zstd" => zstandard(text),
            _ => text.to_vec(),
        }
    }

    #[test]
    fn every_known_coding_is_undone() {
        let twice = gzip(&zlib(TEXT));
        let members = [gzip(b"id=1' union "), gzip(b"select password from users--")].concat();
        let frames = [
            b"\x50\x2a\x4d\x18\x02\0\0\0xx".to_vec(),
            zstandard(b"id=1' union "),
            zstandard(b"select password from users--"),
        ];
        for (name, body) in [
            ("gzip", gzip(TEXT)),
            ("X-GZIP", gzip(TEXT)),
            ("gzip", members),
            ("deflate", zlib(TEXT)),
            ("deflate", deflate(TEXT)),
            ("zstd", frames.concat()),
            ("deflate, gzip", twice.clone()),
            ("identity, deflate,, gzip , aws-chunked", twice),
            ("identity", TEXT.to_vec()),
            ("", TEXT.to_vec()),
        ] {
            assert_eq!(undo(name, &body, 1000), Plain { bytes: TEXT.into(), end: End::Whole }, "{name}");
        }
        assert_eq!(undo("br", BROTLI, 1000), Plain { bytes: b"hello".into(), end: End::Whole });
    }

    #[test]
    fn what_cannot_be_undone_is_said() {
        for (name, body, end) in [
            ("compress", TEXT.to_vec(), End::Refused("the content coding is not known")),
            ("gzip,gzip,gzip,gzip", TEXT.to_vec(), End::Refused("too many content codings")),
            ("gzip", TEXT.to_vec(), End::Damaged),
            ("zstd", TEXT.to_vec(), End::Damaged),
            ("br", TEXT.to_vec(), End::Damaged),
        ] {
            let plain = undo(name, &body, 1000);
            assert_eq!((plain.bytes.as_ref(), plain.end), (TEXT, end), "{name}");
        }
    }

    #[test]
    fn output_is_bounded() {
        for coding in ["gzip", "deflate", "zstd"] {
            let body = encoded(coding, &[b'a'; 1000]);
            for (max, length, end) in [(999, 999, End::Full), (1000, 1000, End::Whole), (1001, 1000, End::Whole)] {
                let plain = undo(coding, &body, max);
                assert_eq!((plain.bytes.len(), plain.end), (length, end), "{coding} {max}");
            }
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = gzip(&vec![0; 10 << 20]);
        let plain = undo("gzip", &bomb, 10 << 20);
        assert!(matches!(plain.end, End::Refused(_)), "{:?}", plain.end);
        assert!(plain.bytes.len() <= bomb.len() * RATIO_MAX + STEP, "{}", plain.bytes.len());
        let nested = gzip(&bomb);
        assert!(undo("gzip, gzip", &nested, 1 << 20).bytes.len() <= 1 << 20);
    }

    #[test]
    fn a_cut_at_every_byte_is_noticed() {
        for coding in ["gzip", "deflate", "zstd"] {
            let body = encoded(coding, TEXT);
            for cut in 1..body.len() {
                let plain = undo(coding, body.get(..cut).unwrap(), 1000);
                assert!(matches!(plain.end, End::Cut | End::Damaged), "{coding} {cut}: {:?}", plain.end);
            }
        }
        for cut in 1..BROTLI.len() {
            let plain = undo("br", BROTLI.get(..cut).unwrap(), 1000);
            assert!(matches!(plain.end, End::Cut | End::Damaged), "br {cut}: {:?}", plain.end);
        }
    }

    proptest! {
        #[test]
        fn damaged_bodies_end_within_bounds(
            text in prop::collection::vec(any::<u8>(), 0..600),
            coding in prop::sample::select(vec!["gzip", "deflate", "zstd", "br", "br"]),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            let mut body = encoded(coding, &text);
            for (at, byte) in hits {
                if !body.is_empty() {
                    let at = at.index(body.len());
                    body[at] = byte;
                }
            }
            prop_assert!(undo(coding, &body, 2000).bytes.len() <= 2000.max(body.len()));
        }
    }
}
