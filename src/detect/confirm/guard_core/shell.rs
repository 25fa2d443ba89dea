//! Commands in backticks, substitutions, brace lists, spliced and globbed words.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::guard_core::matched;
use crate::detect::confirm::scan::{at, is_blank, is_word, part, skip};
use crate::detect::{Kind, Source};

/// Bytes looked at on each side of a match.
const WINDOW: usize = 256;

/// A pair of backticks that a shell would run, not one that marks a name in prose or SQL.
pub(super) fn backticks(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    let token = part(bytes, range.start + 1, range.end.saturating_sub(1));
    if before(bytes, range.start) == b'`' || !token.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return false;
    }
    if 2 <= chain_operators(token) {
        return true;
    }
    let glued = is_word(before(bytes, range.start)) || is_word(at(bytes, range.end));
    let appended = is_appended(bytes, range);
    if !glued && !appended {
        return false;
    }
    if token.iter().any(|byte| is_blank(*byte) || b"/.;|&$()".contains(byte)) {
        return true;
    }
    let (left, right) = window(bytes, range);
    if is_shell(left) || is_shell(right) {
        return true;
    }
    if is_sql(left, right) {
        return false;
    }
    appended || matches!(candidate.context.source, Source::Query | Source::Path)
}

/// A substitution that does something, or stands where only a shell would look for one.
pub(super) fn substitution(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    if before(bytes, range.start) == b'`' || at(bytes, range.end) == b'`' {
        return false;
    }
    let token = part(bytes, range.start + 2, range.end.saturating_sub(1)).trim_ascii();
    let convicts = if at(bytes, range.start + 1) == b'{' {
        token.eq_ignore_ascii_case(b"ifs") || !is_dotted_name(token)
    } else {
        token.eq_ignore_ascii_case(b"ifs") || token.iter().any(|byte| b"/.;|&$()".contains(byte))
    };
    if convicts {
        return true;
    }
    let (left, right) = window(bytes, range);
    !is_sql(left, right) && matches!(candidate.context.source, Source::Query | Source::Path)
}

/// A brace list with an item that can be a command or an argument.
pub(super) fn brace_list(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let text = matched(candidate, range);
    let open = memchr::memchr(b'{', text).map_or(0, |open| open + 1);
    part(text, open, text.len().saturating_sub(1)).split(|byte| *byte == b',').any(|item| {
        item.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_./~-".contains(byte))
            && item.iter().any(u8::is_ascii_alphabetic)
    })
}

/// Three pieces of one character between quotes, one after the other.
pub(super) fn spliced(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let mut run = 0;
    let pieces = matched(candidate, range).split(|byte| matches!(byte, b'"' | b'\'')).filter(|piece| !piece.is_empty());
    pieces.map(<[u8]>::len).any(|length| {
        run = if length == 1 { run + 1 } else { 0 };
        run == 3
    })
}

/// A word with wildcards amid letters, in the place of a command.
pub(super) fn wildcards(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    let token = matched(candidate, range);
    let lettered = token.iter().enumerate().filter(|(_, byte)| matches!(byte, b'?' | b'*')).any(|(index, _)| {
        let left = part(token, 0, index).iter().rev().take(2).take_while(|byte| byte.is_ascii_alphabetic()).count();
        let right = part(token, index + 1, index + 3).iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        2 <= left + right
    });
    let ends = bytes.get(range.end).is_none_or(|byte| is_blank(*byte) || matches!(byte, b';' | b'|' | b'&'));
    lettered && ends && is_command_place(candidate, range.start)
}

/// Behind a separator, or at the beginning of a body.
fn is_command_place(candidate: &Candidate<'_>, start: usize) -> bool {
    let bytes = candidate.text.as_bytes();
    let blanks = part(bytes, 0, start).iter().rev().take_while(|byte| is_blank(**byte)).count();
    let place = start - blanks;
    if place == 0 {
        return candidate.context.source == Source::Body && candidate.context.kind != Kind::EmbeddedJson;
    }
    let (last, second) = (before(bytes, place), before(bytes, place - 1));
    matches!(last, b';' | b'|' | b'`') || matches!((second, last), (b'&', b'&') | (b'$', b'('))
}

/// The byte before an index; 0 at the beginning.
fn before(bytes: &[u8], index: usize) -> u8 {
    index.checked_sub(1).map_or(0, |index| at(bytes, index))
}

/// `;`, `|`, `||` and `&&`.
fn chain_operators(token: &[u8]) -> usize {
    let (mut count, mut index) = (0, 0);
    while index < token.len() {
        let (this, next) = (at(token, index), at(token, index + 1));
        let double = this == next && matches!(this, b'|' | b'&');
        count += usize::from(double || matches!(this, b';' | b'|'));
        index += 1 + usize::from(double);
    }
    count
}

/// Nothing follows, and a sentence or a command ended before.
fn is_appended(bytes: &[u8], range: &Range<usize>) -> bool {
    let left = part(bytes, 0, range.start);
    let trimmed = left.trim_ascii_end();
    part(bytes, range.end, bytes.len()).trim_ascii().is_empty()
        && trimmed.len() < left.len()
        && trimmed.last().is_some_and(|byte| b".!?;&|".contains(byte))
}

/// What stands around a match, up to the nearest backtick, quote or line end.
fn window<'a>(bytes: &'a [u8], range: &Range<usize>) -> (&'a [u8], &'a [u8]) {
    let stops = |byte: u8| matches!(byte, b'`' | b'"' | b'\'' | b'\n');
    let left = part(bytes, 0, range.start);
    let start = left.iter().rev().take(WINDOW).take_while(|byte| !stops(**byte)).count();
    let end = skip(bytes, range.end, WINDOW, |byte| !stops(byte));
    (part(left, left.len() - start, left.len()), part(bytes, range.end, end))
}

/// A separator before something like a command, or a substitution.
fn is_shell(window: &[u8]) -> bool {
    (0..window.len()).any(|index| match at(window, index) {
        b'$' => matches!(at(window, index + 1), b'(' | b'{'),
        b';' | b'|' | b'&' => {
            let next = skip(window, index + 1, WINDOW, is_blank);
            let byte = at(window, next);
            is_word(byte) || matches!(byte, b'/' | b'.' | b'~' | b'-')
        }
        _ => false,
    })
}

/// Words next to a quoted name of SQL.
const SQL_WORDS: &[&str] =
    &["select", "from", "where", "insert", "update", "delete", "join", "values", "order", "by", "group", "into"];

/// A keyword of SQL stands directly before or behind.
fn is_sql(left: &[u8], right: &[u8]) -> bool {
    let is_keyword = |word: &[u8]| SQL_WORDS.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()));
    let left = left.trim_ascii_end();
    let start = left.len() - left.iter().rev().take_while(|byte| is_word(**byte)).count();
    let right = right.trim_ascii_start();
    let end = skip(right, 0, WINDOW, is_word);
    is_keyword(part(left, start, left.len())) || is_keyword(part(right, 0, end))
}

/// `a.b_c`.
fn is_dotted_name(token: &[u8]) -> bool {
    token.split(|byte| *byte == b'.').all(|name| {
        name.first().is_some_and(|byte| is_word(*byte) && !byte.is_ascii_digit())
            && name.iter().all(|byte| is_word(*byte))
    })
}
