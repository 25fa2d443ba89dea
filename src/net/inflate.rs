//! Content codings of answers, undone within a bound.

use std::io::{ErrorKind, Read};

/// What we say we can read.
pub(super) const ACCEPTED: &str = "gzip, deflate, br";

/// Codings one answer may be wrapped in.
const CODINGS_MAX: usize = 2;

/// Bytes read from a decoder at once.
const STEP: usize = 32 * 1024;

/// Why a body could not be inflated.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum InflateError {
    #[error("more than it may")]
    TooLarge,
    #[error("a content coding that is not known")]
    Unknown,
    #[error("bytes that do not inflate")]
    Damaged,
}

/// Undoes the codings of a Content-Encoding header, last one first. At most `max` bytes come out, of each of them.
pub(super) fn inflate(codings: &str, body: Vec<u8>, max: usize) -> Result<Vec<u8>, InflateError> {
    let codings = codings.split(',').map(|coding| coding.trim().to_ascii_lowercase());
    let codings: Vec<String> = codings.filter(|coding| !matches!(&**coding, "" | "identity")).collect();
    if CODINGS_MAX < codings.len() {
        return Err(InflateError::Unknown);
    }
    codings.iter().rev().try_fold(body, |body, coding| match &**coding {
        "gzip" | "x-gzip" => pump(flate2::bufread::MultiGzDecoder::new(&*body), max),
        "deflate" => pump(flate2::bufread::ZlibDecoder::new(&*body), max),
        "br" => pump(brotli_decompressor::Decompressor::new(&*body, STEP), max),
        _ => Err(InflateError::Unknown),
    })
}

/// Reads a decoder to its end, or to the bound.
fn pump(decoder: impl Read, max: usize) -> Result<Vec<u8>, InflateError> {
    let mut output = Vec::new();
    // One byte more than allowed tells a full body from one that is too large.
    let bound = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    match decoder.take(bound).read_to_end(&mut output) {
        Ok(length) if max < length => Err(InflateError::TooLarge),
        Ok(_) => Ok(output),
        Err(error) if error.kind() == ErrorKind::OutOfMemory => Err(InflateError::TooLarge),
        Err(_) => Err(InflateError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    /// "hello hello hello", as a brotli encoder wrote it.
    const BROTLI: &[u8] = b"\x1b\x10\x00\xf8\x8d\x94\x6e\xde\x44\x55\x86\x96\x6c\x20\x6f\x01\x4f\x1c\x60\x1c";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn codings_are_undone_within_the_bound() {
        let text = b"0123456789".to_vec();
        let cut = gzip(&text)[..20].to_vec();
        for (name, codings, body, max, expected) in [
            ("no coding", "", text.clone(), 10, Ok(&text[..])),
            ("the identity", "identity", text.clone(), 10, Ok(&text)),
            ("gzip to the last byte", "gzip", gzip(&text), 10, Ok(&text)),
            ("gzip, one byte too much", "gzip", gzip(&text), 9, Err(InflateError::TooLarge)),
            ("two members", "x-gzip", [gzip(b"01234"), gzip(b"56789")].concat(), 10, Ok(&text)),
            ("deflate", "deflate", zlib(&text), 10, Ok(&text)),
            ("two layers", "deflate, GZIP", gzip(&zlib(&text)), 100, Ok(&text)),
            ("three layers", "gzip, gzip, gzip", gzip(&text), 100, Err(InflateError::Unknown)),
            ("cut", "gzip", cut, 10, Err(InflateError::Damaged)),
            ("no gzip at all", "gzip", text.clone(), 10, Err(InflateError::Damaged)),
            ("a bomb", "gzip", gzip(&vec![0; 1 << 20]), 1000, Err(InflateError::TooLarge)),
            ("unknown", "zstd", text.clone(), 10, Err(InflateError::Unknown)),
        ] {
            assert_eq!(inflate(codings, body, max).as_deref(), expected.as_ref().copied(), "{name}");
        }
    }

    #[test]
    fn brotli_is_read_and_its_end_is_needed() {
        assert_eq!(inflate("br", BROTLI.to_vec(), 17).as_deref(), Ok(&b"hello hello hello"[..]));
        assert_eq!(inflate("br", BROTLI[..6].to_vec(), 17), Err(InflateError::Damaged));
        assert_eq!(inflate("br", BROTLI.to_vec(), 16), Err(InflateError::TooLarge));
    }
}
