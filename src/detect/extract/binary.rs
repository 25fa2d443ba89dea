//! Binary payloads: only their printable islands are text.

use crate::detect::extract::Flow;
use crate::detect::extract::sink::Sink;
use crate::detect::{Kind, Source};

/// One artifact in so many code points makes a text binary.
const BINARY_SHARE: usize = 5;
/// Bytes that are looked at together.
const CHUNK: usize = 64;

/// True when a fifth of the text or more are characters that text does not have.
pub(super) fn is_binary(text: &str) -> bool {
    let (mut all, mut artifacts, mut rest) = (0, 0, text);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.ceil_char_boundary(CHUNK));
        rest = after;
        if is_plain(chunk) {
            all += chunk.len();
        } else {
            all += chunk.chars().count();
            artifacts += chunk.chars().filter(|char| is_artifact(*char)).count();
        }
    }
    artifacts != 0 && all <= artifacts * BINARY_SHARE
}

/// Nothing but printable ASCII and line ends. No early end: many bytes are compared at a time.
fn is_plain(chunk: &str) -> bool {
    chunk.bytes().fold(true, |plain, byte| plain & matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'))
}

/// guard-core's list of characters that binary data leaves behind when it is read as text.
const fn is_artifact(char: char) -> bool {
    match char {
        '\t' | '\n' | '\r' => false,
        '\0'..='\u{1F}' | '\u{7F}' => true,
        '\u{80}'..='\u{A2}' | '\u{A4}' | '\u{A6}'..='\u{A9}' | '\u{AB}'..='\u{AF}' => true,
        '\u{B4}' | '\u{B6}'..='\u{B8}' | '\u{BB}'..='\u{BF}' | '\u{180}'..='\u{24F}' => true,
        char::REPLACEMENT_CHARACTER => true,
        _ => false,
    }
}

/// Hands out every printable run of at least `island_min` code points.
pub(super) fn islands(text: &str, name: &str, sink: &mut Sink<'_>) -> Flow {
    let min = sink.limits.island_min.max(2);
    for run in text.split(|char| !is_printable(char)) {
        // A run of fewer bytes has fewer code points too.
        if min <= run.len() && min <= run.chars().count() {
            sink.field(Source::Body, Kind::Island, name, run)?;
        }
    }
    Flow::Continue(())
}

/// guard-core's list of characters an island is made of.
pub(super) const fn is_printable(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='~' | '\u{A1}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFC}' | '\u{FFFE}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_text_is_told_from_text() {
        for (text, expected) in [
            ("", false),
            ("plain text\r\n", false),
            ("caf\u{e9} \u{65e5}\u{672c}", false),
            ("\0aaaa", true),
            ("\0aaaaa", false),
            ("\u{fffd}\u{fffd}abc", true),
            ("\u{180}bcde", true),
        ] {
            assert_eq!(is_binary(text), expected, "{text:?}");
        }
    }
}
