//! Checks of the rows of the profile `guard_core`: each judges one match of its row's own expression, and looks at no
//! more than a bounded stretch around it.

mod filter;
mod pickle;
mod shell;

use std::ops::Range;

use crate::detect::confirm::scan::{at, find, has, is_blank, is_word, part, skip};
use crate::detect::confirm::{Candidate, Check};

/// Every check by name, in alphabetical order.
pub(super) const CHECKS: &[(&str, Check)] = &[
    ("gc_backticks", shell::backticks),
    ("gc_brace_list", shell::brace_list),
    ("gc_filter_breakout", filter::breakout),
    ("gc_filter_composed", filter::composed),
    ("gc_foreign_dtd", foreign_dtd),
    ("gc_internal_number", internal_number),
    ("gc_not_only_date", not_only_date),
    ("gc_pickle", pickle::calls),
    ("gc_reported", reported),
    ("gc_same_operand", same_operand),
    ("gc_spliced", shell::spliced),
    ("gc_substitution", shell::substitution),
    ("gc_wildcards", shell::wildcards),
];

/// Longest operand that is compared.
const OPERAND_MAX: usize = 1024;
/// Bytes of a report's line that are read for its vocabulary.
const LINE_MAX: usize = 64 << 10;

/// The bytes of a match.
fn matched<'a>(candidate: &Candidate<'a>, range: &Range<usize>) -> &'a [u8] {
    part(candidate.text.as_bytes(), range.start, range.end)
}

/// `or 8=8`: what stands before the equals sign stands behind it again, and a word begins or ends there.
fn same_operand(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    let word = skip(bytes, range.start, 3, |byte| byte.is_ascii_alphabetic());
    let start = skip(bytes, word, usize::MAX, is_blank);
    let end = match at(bytes, start) {
        quote @ (b'"' | b'\'') => find(bytes, start + 1, quote).map_or(start, |close| close + 1),
        _ => skip(bytes, start + 1, OPERAND_MAX, is_word),
    };
    let equals = skip(bytes, end, usize::MAX, is_blank);
    let second = skip(bytes, equals + 1, usize::MAX, is_blank);
    let operand = part(bytes, start, end);
    let after = second + operand.len();
    (1..=OPERAND_MAX).contains(&operand.len())
        && at(bytes, equals) == b'='
        && part(bytes, second, after).eq_ignore_ascii_case(operand)
        && is_word(at(bytes, after - 1)) != is_word(at(bytes, after))
}

/// Words of reports about attacks; a star stands for any ending.
const REPORT_WORDS: &[&str] = &[
    "attack*",
    "attempt*",
    "blocked",
    "botnet*",
    "denied",
    "enumerat*",
    "exploit*",
    "flagged",
    "honeypot*",
    "hostile",
    "ids",
    "intrusion*",
    "malicious",
    "pentest",
    "probe*",
    "probing",
    "recon",
    "reconnaissance",
    "scan*",
    "soc",
    "suspicious",
    "triggered",
    "vulnerabilities",
    "vulnerability",
    "waf",
];

/// The same in two words.
const REPORT_PAIRS: &[(&str, &str)] = &[
    ("bad", "actor"),
    ("bad", "actors"),
    ("brute", "force"),
    ("credential", "stuffing"),
    ("spoofed", "referer"),
    ("threat", "feed"),
];

/// The first line names a target, which is the match, and speaks the language of a report.
fn reported(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let bytes = candidate.text.as_bytes();
    let line = part(bytes, 0, find(bytes, 0, b'\n').unwrap_or(bytes.len()));
    if line.len() < range.end {
        return false;
    }
    let mut previous: &[u8] = b"";
    part(line, 0, LINE_MAX).split(|byte| !is_word(*byte)).filter(|word| !word.is_empty()).any(|word| {
        let before = std::mem::replace(&mut previous, word);
        let single = REPORT_WORDS.iter().any(|known| match known.strip_suffix('*') {
            Some(stem) => has(word, 0, stem.as_bytes()),
            None => word.eq_ignore_ascii_case(known.as_bytes()),
        });
        let pair = |(first, second): &(&str, &str)| {
            before.eq_ignore_ascii_case(first.as_bytes()) && word.eq_ignore_ascii_case(second.as_bytes())
        };
        single || REPORT_PAIRS.iter().any(pair)
    })
}

/// The address of the document type, which ends the match, is not one of the web's own consortium.
fn foreign_dtd(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let text = matched(candidate, range);
    let Some(scheme) = memchr::memmem::rfind(text, b"://") else { return false };
    let host = part(text, scheme + 3, text.len());
    let host = host.split(|byte| matches!(byte, b'/' | b'?' | b'#' | b':')).next().unwrap_or_default();
    !host.eq_ignore_ascii_case(b"www.w3.org") && !host.eq_ignore_ascii_case(b"w3.org")
}

/// The numbers of an authority are an address that old resolvers take for an internal one.
fn internal_number(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let text = matched(candidate, range);
    let authority = part(text, 3, text.len());
    let host = memchr::memrchr(b'@', authority).map_or(authority, |sign| part(authority, sign + 1, authority.len()));
    let length = host.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'.').count();
    address(part(host, 0, length)).is_some_and(is_internal)
}

/// Reads one to four parts the way `inet_aton` does.
fn address(host: &[u8]) -> Option<u32> {
    let mut parts = host.split(|byte| *byte == b'.');
    let (mut before, mut count) = (0_u64, 0_u32);
    let mut last = number(parts.next()?)?;
    for part in parts {
        count += 1;
        if 0xff < last || 3 < count {
            return None;
        }
        before = before << 8 | last;
        last = number(part)?;
    }
    let bits = 32 - 8 * count;
    let bare = count == 0 && host.iter().all(u8::is_ascii_digit) && !has(host, 0, b"0");
    if last >> bits != 0 || bare && last < 1 << 24 {
        return None;
    }
    u32::try_from(before << bits | last).ok()
}

/// A decimal, octal or hexadecimal number of at most 32 bits.
fn number(digits: &[u8]) -> Option<u64> {
    let (radix, digits) = match digits {
        [b'0', b'x' | b'X', digits @ ..] => (16, digits),
        [b'0', digits @ ..] if !digits.is_empty() => (8, digits),
        _ => (10, digits),
    };
    let digits = std::str::from_utf8(digits).ok()?;
    u32::from_str_radix(digits, radix).ok().map(u64::from)
}

/// This host, private networks, link-local addresses, and the metadata service of one cloud.
const fn is_internal(address: u32) -> bool {
    let [first, second, third, fourth] = address.to_be_bytes();
    match (first, second) {
        (0 | 10 | 127, _) | (169, 254) | (172, 16..=31) | (192, 168) => true,
        (100, 100) => third == 100 && fourth == 200,
        _ => false,
    }
}

/// Not a block in which nothing but a date looks like arithmetic: behind the last date another block must begin.
fn not_only_date(candidate: &Candidate<'_>, range: &Range<usize>) -> bool {
    let text = matched(candidate, range);
    let opener: &[u8] = if at(text, 0) == b'#' { b"#{" } else { b"{{" };
    let Some(date) = (0..text.len()).rev().find(|start| is_date(text, *start)) else { return true };
    let rest = part(text, date, text.len());
    memchr::memmem::find(rest, opener).is_some_and(|next| {
        let inside = part(rest, next, rest.len());
        let sign = |byte: u8| matches!(byte, b'*' | b'/' | b'%' | b'+' | b'-' | b'(' | b'@');
        inside.iter().any(|byte| sign(*byte))
    })
}

/// `2020-1-02` at `start`, and not in the middle of a longer number.
fn is_date(text: &[u8], start: usize) -> bool {
    let digits = |from: usize| skip(text, from, 5, |byte| byte.is_ascii_digit()) - from;
    let month = start + 5;
    let day = month + digits(month) + 1;
    digits(start) == 4
        && start.checked_sub(1).is_none_or(|before| !at(text, before).is_ascii_digit())
        && at(text, start + 4) == b'-'
        && (1..=2).contains(&digits(month))
        && at(text, day - 1) == b'-'
        && (1..=2).contains(&digits(day))
}

#[cfg(test)]
mod tests;
