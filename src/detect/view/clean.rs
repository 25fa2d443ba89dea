//! Comments, control characters and white space evened out.

use std::ops::Range;

/// Comments as guard-core strips them: block comments that do not glue two words lose their markers, `--` and `#`
/// become a blank. `None` when nothing changes.
pub(super) fn strip_comments(text: &str) -> Option<String> {
    let blocks = strip_blocks(text);
    let current = blocks.as_deref().unwrap_or(text);
    match strip_line_markers(current) {
        Some(text) => Some(text),
        None => blocks,
    }
}

fn strip_blocks(text: &str) -> Option<String> {
    let mut result = String::new();
    let (mut copied, mut at) = (0, 0);
    let mut closes = Closes { text, free: None };
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memmem::find(rest.as_bytes(), b"/*")) {
        let start = at + found;
        let body = start + 2;
        at = start + 1;
        if text.as_bytes().get(body) == Some(&b'!') {
            continue;
        }
        let glued = text.get(..start).and_then(|before| before.chars().next_back()).is_some_and(is_word);
        let Some(end) = (if glued { closes.free_from(body) } else { closes.any_from(body) }) else { continue };
        result.push_str(text.get(copied..start).unwrap_or_default());
        result.push(' ');
        result.push_str(text.get(body..end).unwrap_or_default());
        result.push(' ');
        at = end + 2;
        copied = at;
    }
    if copied == 0 {
        return None;
    }
    result.push_str(text.get(copied..).unwrap_or_default());
    Some(result)
}

pub(super) fn is_word(char: char) -> bool {
    char == '_' || char.is_alphanumeric()
}

/// Finds comment ends from left to right, in linear time over all calls.
struct Closes<'a> {
    text: &'a str,
    /// From where the last free end was looked for, and where it is.
    free: Option<(usize, Option<usize>)>,
}

impl Closes<'_> {
    fn any_from(&self, from: usize) -> Option<usize> {
        Some(from + memchr::memmem::find(self.text.as_bytes().get(from..)?, b"*/")?)
    }

    /// The first end at or behind `from` that no word follows.
    fn free_from(&mut self, from: usize) -> Option<usize> {
        match self.free {
            Some((since, None)) if since <= from => return None,
            Some((since, Some(end))) if since <= from && from <= end => return Some(end),
            _ => {}
        }
        let mut at = from;
        let end = loop {
            let Some(end) = self.any_from(at) else { break None };
            let follows = self.text.get(end + 2..).and_then(|rest| rest.chars().next());
            if !follows.is_some_and(is_word) {
                break Some(end);
            }
            at = end + 1;
        };
        self.free = Some((from, end));
        end
    }
}

fn strip_line_markers(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut result = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'-', b'#', rest)) {
        let start = at + found;
        let length = match bytes.get(start..) {
            Some([b'#', ..]) => 1,
            Some([b'-', b'-', ..]) => 2,
            _ => {
                at = start + 1;
                continue;
            }
        };
        result.push_str(text.get(copied..start).unwrap_or_default());
        result.push(' ');
        at = start + length;
        copied = at;
    }
    if copied == 0 {
        return None;
    }
    result.push_str(text.get(copied..).unwrap_or_default());
    Some(result)
}

/// What [`even_out`] made of a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Even {
    /// It was even.
    Same,
    /// Only blanks at its ends went.
    Trimmed(Range<usize>),
    /// Something inside changed.
    Changed(String),
}

/// Drops control characters (but tab and line ends), makes each run of white space one blank, and trims.
/// `vertical` turns vertical tab and form feed into white space instead of dropping them.
pub(super) fn even_out(text: &str, vertical: bool) -> Even {
    let trimmed = text.trim_matches(' ');
    if is_even(trimmed) {
        if trimmed.len() == text.len() {
            return Even::Same;
        }
        let start = text.len() - text.trim_start_matches(' ').len();
        return Even::Trimmed(start..start + trimmed.len());
    }
    let mut result = String::with_capacity(text.len());
    let (mut gap, mut rest) = (false, text);
    loop {
        let (even, odd) = rest.split_at(even_run(rest));
        if !even.is_empty() {
            if gap && !result.is_empty() {
                result.push(' ');
            }
            gap = false;
            result.push_str(even);
        }
        let mut chars = odd.chars();
        match chars.next() {
            None => return Even::Changed(result),
            Some('\x0b' | '\x0c') => gap |= vertical,
            Some(char) => gap |= char.is_whitespace(),
        }
        rest = chars.as_str();
    }
}

/// Bytes at the start of `text` that stay as they are: no control characters, no white space but single blanks inside.
fn even_run(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_white = |at: usize| text.get(at..).and_then(|rest| rest.chars().next()).is_some_and(char::is_whitespace);
    let is_even = |(at, byte): (usize, &u8)| match byte {
        b' ' => at != 0 && matches!(bytes.get(at + 1), Some(b'!'..=0x7f)),
        b'!'..=0x7f => true,
        // What white space outside ASCII begins with.
        0xc2 | 0xe1..=0xe3 => !is_white(at),
        0x80.. => true,
        _ => false,
    };
    bytes.iter().enumerate().position(|place| !is_even(place)).unwrap_or(bytes.len())
}

/// No control character, no white space but single blanks.
fn is_even(text: &str) -> bool {
    let bytes = text.as_bytes();
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    let odd = pairs.fold(0, |odd, (a, b)| odd | u8::from(*a < b' ') | u8::from(*a == b' ' && *b == b' '));
    let last_is_odd = bytes.last().is_some_and(|byte| *byte < b' ');
    odd == 0 && !last_is_odd && (text.is_ascii() || !text.chars().any(|char| !char.is_ascii() && char.is_whitespace()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// [`even_out`], one character at a time.
    fn evened(text: &str, vertical: bool) -> String {
        let blank = |char: char| match char {
            '\x0b' | '\x0c' if !vertical => None,
            char if char.is_whitespace() => Some(' '),
            '\0'..='\x1f' => None,
            char => Some(char),
        };
        let chars: String = text.chars().filter_map(blank).collect();
        chars.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    proptest! {
        #[test]
        fn evening_out_runs_is_evening_out_characters(
            text in "[ a-c\\x00\\x0b\\x0c\\t\\n\\x7f\u{85}\u{a0}\u{e9}\u{1680}\u{2003}\u{2028}\u{3000}\u{3001}\u{1f600}]{0,24}",
            vertical: bool,
        ) {
            let expected = evened(&text, vertical);
            match even_out(&text, vertical) {
                Even::Same => prop_assert_eq!(&text, &expected),
                Even::Trimmed(range) => prop_assert_eq!(text.get(range), Some(&*expected)),
                Even::Changed(found) => prop_assert_eq!(&found, &expected),
            }
        }
    }

    #[test]
    fn comments_are_stripped_unless_they_glue_words() {
        for (text, expected) in [
            ("plain - text", None),
            ("a /*b*/ c", Some("a  b  c")),
            ("UNION/**/SELECT", None),
            ("UNION/**/ SELECT", Some("UNION   SELECT")),
            ("/*!50000x*/", None),
            ("x--y#z---", Some("x y z -")),
            ("a/*x*/b/*y*/ c", Some("a x*/b/*y  c")),
            ("/*open", None),
        ] {
            assert_eq!(strip_comments(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn white_space_is_evened_out() {
        assert_eq!(even_out("a b", false), Even::Same);
        assert_eq!(even_out("", false), Even::Same);
        assert_eq!(even_out("  a b ", false), Even::Trimmed(2..5));
        for (text, vertical, expected) in [
            ("a\t\n b", false, "a b"),
            ("a\x0bb\0c\x7f", false, "abc\x7f"),
            ("a\x0bb", true, "a b"),
            ("\u{85}a\u{a0}\u{3000}b\u{2003}", false, "a b"),
            ("a  b\n", false, "a b"),
        ] {
            assert_eq!(even_out(text, vertical), Even::Changed(expected.to_owned()), "{text:?}");
        }
    }
}
