//! LDAP filters: a value that closes the filter it stands in and opens one of its own.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, is_blank, part, skip};

/// Signs read between two parentheses.
const SIGNS_MAX: usize = 8;
/// Longest attribute description.
const ATTRIBUTE_MAX: usize = 64;

/// Convicts a value that breaks out of a filter, or is a composed filter as a whole.
pub(super) fn filter_breakout(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    let first = skip(bytes, candidate.value_start(), 16, is_blank);
    if let Some(end) = composed(bytes, first).or_else(|| beside(bytes, first)) {
        return Some(first..end);
    }
    // `|(uid=*)`, `!(uid=a)`: a sign that belongs behind a parenthesis, and an assertion to the value's end.
    if matches!(at(bytes, first), b'|' | b'&' | b'!')
        && at(bytes, first + 1) == b'('
        && bytes.trim_ascii_end().ends_with(b")")
        && !bytes.iter().any(|byte| is_blank(*byte))
        && let Some(end) = assertion(bytes, first + 1)
    {
        return Some(first..end);
    }
    if is_syntax_only(part(bytes, first, bytes.len()).trim_ascii_end()) {
        return Some(first..bytes.len());
    }
    let mut depth = 0_usize;
    for (here, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 0 => {
                if let Some(end) = after_close(bytes, here) {
                    return Some(here..end);
                }
            }
            b')' => depth -= 1,
            _ => {}
        }
        // `*(|(mail=*))`: a star, and then a filter where none may stand.
        if *byte == b'*'
            && let Some(end) = composed(bytes, here + 1)
        {
            return Some(here..end);
        }
    }
    None
}

/// `(|(cn=`, `(&(uid=`: the end of the first assertion of a composed filter at `here`.
fn composed(bytes: &[u8], here: usize) -> Option<usize> {
    let opens = at(bytes, here) == b'(' && matches!(at(bytes, here + 1), b'&' | b'|') && at(bytes, here + 2) == b'(';
    if opens { assertion(bytes, here + 2) } else { None }
}

/// `(cn=*)(|(`: two filters side by side, the second composed, as no single search takes them.
fn beside(bytes: &[u8], here: usize) -> Option<usize> {
    let end = assertion(bytes, here).filter(|_| at(bytes, here) == b'(')?;
    let close = skip(bytes, end, ATTRIBUTE_MAX, |byte| !matches!(byte, b')' | b'(') && !is_blank(byte));
    if at(bytes, close) == b')' { composed(bytes, close + 1) } else { None }
}

/// Signs of a filter and nothing else: a star, and a composition or a parenthesis, as probes send them.
fn is_syntax_only(value: &[u8]) -> bool {
    let has = |sign: u8| value.contains(&sign);
    (2..=16).contains(&value.len())
        && value.iter().all(|byte| matches!(byte, b'*' | b'(' | b')' | b'|' | b'&' | b'!' | b'\'' | b'"'))
        && has(b'*')
        && (has(b'|') || has(b'&'))
}

/// What follows a parenthesis that the value did not open.
fn after_close(bytes: &[u8], here: usize) -> Option<usize> {
    let mut next = here;
    while at(bytes, next) == b')' && next < here + SIGNS_MAX {
        next += 1;
    }
    let star = here.checked_sub(1).is_some_and(|before| at(bytes, before) == b'*');
    match at(bytes, next) {
        b'(' => opened(bytes, next),
        b'&' | b'|' | b'!' if at(bytes, next + 1) == b'(' => opened(bytes, next + 1),
        0 if star && (next < bytes.len() || here + 1 < next) => Some(next),
        _ => None,
    }
}

/// `(cn=`, `(|(cn=`, `(&)`, or a composition that the value leaves open.
fn opened(bytes: &[u8], open: usize) -> Option<usize> {
    let mut next = open + 1;
    let mut signs = false;
    while matches!(at(bytes, next), b'&' | b'|' | b'!' | b'(') && next < open + SIGNS_MAX {
        signs |= at(bytes, next) != b'(';
        next += 1;
    }
    if signs && (next == bytes.len() || at(bytes, next) == b')') {
        return Some(next);
    }
    assertion(bytes, next.saturating_sub(1))
}

/// `(attribute=`: the end of its operator, when `open` is at the parenthesis.
fn assertion(bytes: &[u8], open: usize) -> Option<usize> {
    let mut next = open;
    while matches!(at(bytes, next), b'(' | b'!' | b'&' | b'|') && next < open + SIGNS_MAX {
        next += 1;
    }
    let name = part(bytes, next, next + ATTRIBUTE_MAX);
    let length = name
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b';' | b'.' | b'_'))
        .count();
    if length == 0 {
        return None;
    }
    next += length;
    // An extensible match names its rule: `pin:2.5.13.18:=`, `cn:dn:=`.
    if at(bytes, next) == b':' && at(bytes, next + 1) != b'=' {
        let rule = skip(bytes, next + 1, ATTRIBUTE_MAX, |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':')
        });
        return (at(bytes, rule) == b'=' && at(bytes, rule - 1) == b':').then_some(rule + 1);
    }
    match (at(bytes, next), at(bytes, next + 1)) {
        (b'=', other) if other != b'=' && other != b'>' => Some(next + 1),
        (b'~' | b'>' | b'<' | b':', b'=') => Some(next + 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing;

    fn convicts(text: &str) -> bool {
        filter_breakout(&testing::query(text)).is_some()
    }

    #[test]
    fn breakouts_are_found_and_prose_is_left_alone() {
        for (text, expected) in [
            ("anna)(mail=*", true),
            ("*)(uid=*))(|(uid=*", true),
            ("anna*)((|pin=*)", true),
            ("*(|(mail=*))", true),
            ("anna)(&)", true),
            ("anna))(|(cn>=a", true),
            ("x)(!(&(1=0", true),
            ("(&(cn=a)(pin=*))", true),
            ("*))\0", true),
            ("*))", true),
            ("|(uid=*)", true),
            ("!(uid=a)", true),
            ("(cn=*)(|(a=b))", true),
            ("!(a = b)", false),
            ("|(a|b)|", false),
            ("(cn=a)(b=c)", false),
            ("anna)&(uid=*)", true),
            ("see (a) and (b=c)", false),
            ("nice :) (x=5)", false),
            (":*)", false),
            ("f(a)(b == c)", false),
            ("a list: 1) one 2) two", false),
            ("(a|b)", false),
            ("x) => (y)", false),
            ("*important*", false),
        ] {
            assert_eq!(convicts(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[()*&|!=a~<é\\\\PC]{0,80}") {
            prop_assert!(filter_breakout(&testing::query(&text)).is_none_or(|range| text.get(range).is_some()));
        }
    }
}
