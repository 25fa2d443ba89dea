//! Base64 inside text: whole values, islands, scattered fragments, and very short runs.
//!
//! Nearly every word is made of base64 characters, so nearly every value is a candidate. A candidate is decoded without
//! a buffer until it is proven to hold no text; only one that may hold text is decoded for good.

use std::io::Read;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::detect::view::Recipe;

/// Characters that make a candidate; padding counts.
const CANDIDATE_MIN: usize = 12;
/// The same for our own verdicts: shorter runs are words.
const STRICT_MIN: usize = 16;
/// Share of printable characters that a contiguous candidate must decode to.
const PRINTABLE_LOOSE: f64 = 0.5;
/// Share that anything else must decode to.
const PRINTABLE_STRICT: f64 = 0.95;
/// Share of undecodable characters above which decoded bytes are no text.
const REPLACED_MAX: f64 = 0.2;
/// Lengths of the runs that make the additive view.
const SHORT: std::ops::RangeInclusive<usize> = 4..=11;
/// Runs looked at for the additive view.
const SHORT_RUNS_MAX: usize = 20_000;

/// How many more times a value may be inflated.
#[derive(Debug)]
pub(super) struct Gunzips(u8);

impl Default for Gunzips {
    fn default() -> Self {
        Self(8)
    }
}

/// 0 to 63 for `A-Za-z0-9+/`, the same two numbers for `-_`, 64 for everything else.
#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const VALUES: [u8; 256] = {
    let mut values = [64; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut index = 0;
    while index < alphabet.len() {
        values[alphabet[index] as usize] = index as u8;
        index += 1;
    }
    values[b'-' as usize] = 62;
    values[b'_' as usize] = 63;
    values
};

fn value(byte: u8) -> u8 {
    VALUES.get(usize::from(byte)).copied().unwrap_or(64)
}

fn is_alphabet(byte: u8) -> bool {
    value(byte) < 64
}

fn is_url_safe(byte: u8) -> bool {
    matches!(byte, b'-' | b'_')
}

/// True when [`decode_islands`] may find something.
pub(super) fn is_candidate(text: &str, recipe: &Recipe) -> bool {
    if recipe.is_strict() { has_run(text.as_bytes(), STRICT_MIN) } else { CANDIDATE_MIN <= text.len() }
}

/// True when `length` alphabet characters stand in a row. Looks at the end of a possible run first, so most of a text
/// of words is never looked at.
fn has_run(bytes: &[u8], length: usize) -> bool {
    run_from(bytes, 0, length).is_some()
}

/// Where the first such run from `start` on begins, when no longer one contains `start`.
fn run_from(bytes: &[u8], mut start: usize, length: usize) -> Option<usize> {
    while let Some(gap) = bytes.get(start..start + length)?.iter().rposition(|byte| !is_alphabet(*byte)) {
        start += gap + 1;
    }
    Some(start)
}

/// Replaces base64 by the text it holds. `None` when there is none.
pub(super) fn decode_islands(text: &str, recipe: &Recipe, gunzips: &mut Gunzips) -> Option<String> {
    if !is_candidate(text, recipe) {
        return None;
    }
    let mut result = String::new();
    let mut copied = 0;
    let mut decoder = Decoder { inflate_max: recipe.chars_max, gunzips };
    for segment in ascii_segments(text) {
        if recipe.is_strict() {
            for run in long_runs(text, segment, STRICT_MIN) {
                if let Some(decoded) = decoder.text(text.as_bytes().get(run.clone())?, PRINTABLE_STRICT) {
                    result.push_str(text.get(copied..run.start).unwrap_or_default());
                    result.push_str(&decoded);
                    copied = padded(text, run.end);
                }
            }
            continue;
        }
        let Some(token) = token(text, segment) else { continue };
        let Some(source) = text.get(token.clone()) else { continue };
        if let Some(decoded) = decoder.token(source) {
            result.push_str(text.get(copied..token.start).unwrap_or_default());
            result.push_str(&decoded);
            copied = token.end;
        }
    }
    if copied == 0 {
        return None;
    }
    result.push_str(text.get(copied..).unwrap_or_default());
    Some(result)
}

/// The stretches of ASCII.
fn ascii_segments(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        if text.len() <= at {
            return None;
        }
        let rest = bytes.get(at..)?;
        if at == 0 && text.is_ascii() {
            at = text.len();
            return Some(0..text.len());
        }
        let length = rest.iter().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        let start = at;
        let after = bytes.get(at + length..)?;
        at += length + after.iter().position(u8::is_ascii).unwrap_or(after.len());
        Some(start..start + length)
    })
    .filter(|segment| !segment.is_empty())
}

/// The candidate of a segment. Anything ASCII may separate its characters, so it mostly is the whole segment; with 11 or
/// 10 characters it needs, and ends with, one or two `=`.
fn token(text: &str, segment: Range<usize>) -> Option<Range<usize>> {
    let bytes = text.as_bytes().get(segment.clone())?;
    let mut places = bytes.iter().enumerate().filter(|(_, byte)| is_alphabet(**byte)).map(|(index, _)| index);
    let first = places.next()?;
    let (tenth, eleventh, twelfth) = (places.nth(8), places.next(), places.next());
    let end = match (tenth, eleventh, twelfth) {
        (_, _, Some(_)) => bytes.len(),
        (_, Some(eleventh), None) => {
            ends_padded(bytes, eleventh + 1, 1).or_else(|| ends_padded(bytes, tenth? + 1, 2))?
        }
        (Some(tenth), None, None) => ends_padded(bytes, tenth + 1, 2)?,
        (None, None, None) => return None,
    };
    Some(segment.start + first..segment.start + end)
}

/// Where `padding` times `=` ends among the separators from `from` on, the last place first, with neither alphabet nor
/// `=` behind.
fn ends_padded(bytes: &[u8], from: usize, padding: usize) -> Option<usize> {
    let separators = bytes.get(from..)?;
    let length = separators.iter().position(|byte| is_alphabet(*byte)).unwrap_or(separators.len());
    let fits = |end: &usize| {
        let pads = separators.get(end - padding..*end).is_some_and(|pads| pads.iter().all(|byte| *byte == b'='));
        pads && !separators.get(*end).is_some_and(|byte| is_alphabet(*byte) || *byte == b'=')
    };
    (padding..=length).rev().find(fits).map(|end| from + end)
}

/// Up to two `=` behind a run.
fn padded(text: &str, end: usize) -> usize {
    end + text.as_bytes().get(end..).unwrap_or_default().iter().take(2).take_while(|byte| **byte == b'=').count()
}

/// Maximal runs of alphabet characters.
fn runs(text: &str, within: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = text.as_bytes();
    let mut at = within.start;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..within.end)?;
        let start = at + rest.iter().position(|byte| is_alphabet(*byte))?;
        let rest = bytes.get(start..within.end)?;
        let length = rest.iter().position(|byte| !is_alphabet(*byte)).unwrap_or(rest.len());
        at = start + length;
        Some(start..at)
    })
}

/// The runs among them that have at least so many.
fn long_runs(text: &str, within: Range<usize>, least: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = text.as_bytes().get(..within.end).unwrap_or_default();
    let mut at = within.start;
    std::iter::from_fn(move || {
        let start = run_from(bytes, at, least)?;
        let rest = bytes.get(start + least..)?;
        at = start + least + rest.iter().position(|byte| !is_alphabet(*byte)).unwrap_or(rest.len());
        Some(start..at)
    })
}

struct Decoder<'g> {
    inflate_max: usize,
    gunzips: &'g mut Gunzips,
}

impl Decoder<'_> {
    /// What becomes of a whole candidate; `None` when it stays.
    fn token(&mut self, token: &str) -> Option<String> {
        if is_hex_literal(token) {
            return None;
        }
        let bytes = token.as_bytes();
        let foreign = |byte: &u8| !is_alphabet(*byte) && !matches!(byte, b'\r' | b'\n' | b'=');
        let has_url_safe = memchr::memchr2(b'-', b'_', bytes).is_some();
        let share = if has_url_safe || bytes.iter().any(foreign) { PRINTABLE_STRICT } else { PRINTABLE_LOOSE };
        self.text(bytes, share).or_else(|| self.parts(token))
    }

    /// Long runs one by one, then the short ones together.
    fn parts(&mut self, token: &str) -> Option<String> {
        let bytes = token.as_bytes();
        let mut result = String::new();
        let mut copied = 0;
        for run in runs(token, 0..token.len()) {
            let end = padded(token, run.end);
            if run.len() < CANDIDATE_MIN || bytes.get(end).is_some_and(|byte| is_alphabet(*byte) || *byte == b'=') {
                continue;
            }
            let Some(decoded) = self.text(bytes.get(run.clone())?, PRINTABLE_STRICT) else { continue };
            result.push_str(token.get(copied..run.start)?);
            result.push_str(&decoded);
            copied = end;
        }
        let current = if copied == 0 {
            token
        } else {
            result.push_str(token.get(copied..)?);
            &result
        };
        let appended = self.fragments(token).filter(|text| !current.contains(text.as_str()));
        match appended {
            Some(text) => Some(format!("{current} {text}")),
            None => (copied != 0).then_some(result),
        }
    }

    fn fragments(&mut self, token: &str) -> Option<String> {
        let bytes = token.as_bytes();
        let short = || runs(token, 0..token.len()).filter(|run| run.len() < CANDIDATE_MIN);
        let total: usize = short().map(|run| run.len()).sum();
        if total < CANDIDATE_MIN {
            return None;
        }
        let joined = || short().flat_map(|run| bytes.get(run).unwrap_or_default()).copied();
        let safe = || joined().filter(|byte| !is_url_safe(*byte));
        let count = safe().count();
        if is_hopeless(joined(), total, PRINTABLE_STRICT)
            && (count == total || is_hopeless(safe(), count, PRINTABLE_STRICT))
        {
            return None;
        }
        let joined: Vec<u8> = joined().collect();
        self.text(&joined, PRINTABLE_STRICT)
    }

    /// The text that the alphabet characters among `bytes` stand for, if they stand for text; else the same with `-` and
    /// `_` taken for separators.
    fn text(&mut self, bytes: &[u8], share: f64) -> Option<String> {
        let alphabet = bytes.iter().copied().filter(|byte| is_alphabet(*byte));
        self.attempt(alphabet.clone(), share).or_else(|| {
            memchr::memchr2(b'-', b'_', bytes)?;
            self.attempt(alphabet.filter(|byte| !is_url_safe(*byte)), share)
        })
    }

    fn attempt(&mut self, alphabet: impl Iterator<Item = u8> + Clone, share: f64) -> Option<String> {
        let count = alphabet.clone().count();
        if count == 0 || count % 4 == 1 || is_hopeless(alphabet.clone(), count, share) {
            return None;
        }
        let mut decoded: Vec<u8> = Bytes::new(alphabet).collect();
        if decoded.starts_with(&[0x1f, 0x8b])
            && let Some(left) = self.gunzips.0.checked_sub(1)
        {
            self.gunzips.0 = left;
            decoded = inflated(&decoded, self.inflate_max).unwrap_or(decoded);
        }
        let text = String::from_utf8_lossy(&decoded);
        let total = text.chars().count();
        let of_total = |part: usize| part as f64 / total.max(1) as f64;
        if simdutf8::basic::from_utf8(&decoded).is_err() {
            let replaced = text.chars().filter(|char| *char == char::REPLACEMENT_CHARACTER).count();
            if REPLACED_MAX < of_total(replaced) {
                return None;
            }
        }
        (total != 0 && share <= of_total(total - unprintable(&text))).then(|| text.into_owned())
    }
}

/// `0x` and hexadecimal digits.
fn is_hex_literal(token: &str) -> bool {
    let digits = token.strip_prefix("0x").or_else(|| token.strip_prefix("0X"));
    digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Decodes on the fly; a rest of less than a byte is dropped.
#[derive(Clone)]
struct Bytes<I> {
    alphabet: I,
    bits: u32,
    held: u32,
}

impl<I> Bytes<I> {
    const fn new(alphabet: I) -> Self {
        Self { alphabet, bits: 0, held: 0 }
    }
}

impl<I: Iterator<Item = u8>> Iterator for Bytes<I> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        while self.held < 8 {
            self.bits = self.bits << 6 | u32::from(value(self.alphabet.next()?));
            self.held += 6;
        }
        self.held -= 8;
        Some((self.bits >> self.held) as u8)
    }
}

/// True when decoding for good cannot succeed: too many bytes were seen that are no text, whatever follows. What it
/// counts is a lower bound of what the decision counts, against an upper bound of the length.
fn is_hopeless(alphabet: impl Iterator<Item = u8>, count: usize, share: f64) -> bool {
    let length = (count * 3 / 4) as f64;
    let broken_max = (length * REPLACED_MAX) as usize;
    let control_max = (length * (1.0 - share)) as usize + 1;
    let (mut broken, mut control, mut awaited) = (0, 0, 0_u8);
    for (index, byte) in Bytes::new(alphabet).enumerate() {
        // Compressed data is judged after it is inflated.
        if index == 0 && byte == 0x1f {
            return false;
        }
        match (awaited, byte) {
            (1.., 0x80..=0xbf) => awaited -= 1,
            (cut, _) => {
                broken += usize::from(cut != 0);
                awaited = 0;
                match byte {
                    0x00..=0x1f | 0x7f => control += 1,
                    0x20..=0x7e => {}
                    0xc2..=0xdf => awaited = 1,
                    0xe0..=0xef => awaited = 2,
                    0xf0..=0xf4 => awaited = 3,
                    0x80..=0xc1 | 0xf5.. => broken += 1,
                }
            }
        }
        if broken_max < broken || control_max < control {
            return true;
        }
    }
    false
}

fn inflated(bytes: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let limit = u64::try_from(max).ok()?;
    flate2::read::GzDecoder::new(bytes).take(limit).read_to_end(&mut text).ok()?;
    Some(text)
}

static UNPRINTABLE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}--\x20]").ok());

/// Builds the expression, which takes longer than a request should wait.
pub(super) fn prepare() {
    LazyLock::force(&UNPRINTABLE);
}

/// Characters that are neither visible nor a plain blank.
pub(crate) fn unprintable(text: &str) -> usize {
    if text.is_ascii() {
        return text.bytes().filter(|byte| !matches!(byte, 0x20..=0x7e)).count();
    }
    // Most letters of any script are told by their place; the expression is asked about the others.
    let mut buffer = [0; 4];
    let mut is_hidden = |char: char| match char {
        ' '..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{377}' | '\u{4e00}'..='\u{9fff}' => false,
        '\0'..='\x1f' | '\x7f' => true,
        char => UNPRINTABLE.as_ref().is_some_and(|regex| regex.is_match(char.encode_utf8(&mut buffer))),
    };
    text.chars().filter(|char| is_hidden(*char)).count()
}

/// The additive view: what runs of 4 to 11 characters stand for, where that has a character templates are made of.
pub(super) fn short_islands(text: &str) -> String {
    let mut view = String::new();
    let bytes = text.as_bytes();
    let is_standard = |byte: &u8| is_alphabet(*byte) && !is_url_safe(*byte);
    let (mut at, mut looked_at) = (0, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(is_standard)) {
        let start = at + found;
        let rest = bytes.get(start..).unwrap_or_default();
        let length = rest.iter().position(|byte| !is_standard(byte)).unwrap_or(rest.len());
        at = start + length;
        if !SHORT.contains(&length) {
            continue;
        }
        looked_at += 1;
        if SHORT_RUNS_MAX < looked_at {
            break;
        }
        // The first byte is ASCII or begins a longer character for these only.
        let first = rest.first().map_or(64, |byte| value(*byte));
        if (32..48).contains(&first) || length % 4 == 1 {
            continue;
        }
        short_island(rest.get(..length).unwrap_or_default(), &mut view);
    }
    view
}

fn short_island(run: &[u8], view: &mut String) {
    let mut buffer = [0_u8; 9];
    let mut length = 0;
    for (slot, byte) in buffer.iter_mut().zip(Bytes::new(run.iter().copied())) {
        *slot = byte;
        length += 1;
    }
    let decoded = buffer.get(..length).unwrap_or_default();
    if !decoded.iter().any(|byte| matches!(byte, b'$' | b'{' | b'}' | b'#')) {
        return;
    }
    let Ok(text) = simdutf8::basic::from_utf8(decoded) else { return };
    let total = text.chars().count();
    if PRINTABLE_STRICT <= (total - unprintable(text)) as f64 / total as f64 {
        if !view.is_empty() {
            view.push('\n');
        }
        view.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_told_by_their_place_are_those_of_the_expression() {
        let regex = UNPRINTABLE.as_ref().unwrap();
        for char in '\0'..=char::MAX {
            // A letter beside it keeps the text from being ASCII.
            let text = format!("\u{e9}{char}");
            assert_eq!(unprintable(&text), regex.find_iter(&text).count(), "{char:?}");
        }
    }
}
