//! Document databases: query operators where a plain value belongs, and JavaScript that leaves its string.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, has, is_blank, is_word, part, skip};

/// Operators that change what a query finds. Update operators (`$set`) also name properties in telemetry, so they are not here.
const OPERATORS: &[&[u8]] = &[
    b"$accumulator",
    b"$all",
    b"$and",
    b"$elemmatch",
    b"$eq",
    b"$exists",
    b"$expr",
    b"$function",
    b"$gt",
    b"$gte",
    b"$in",
    b"$jsonschema",
    b"$lt",
    b"$lte",
    b"$mod",
    b"$ne",
    b"$nin",
    b"$nor",
    b"$not",
    b"$or",
    b"$regex",
    b"$where",
];

/// Operators that run code.
const RUNNING: &[&[u8]] = &[b"$accumulator", b"$expr", b"$function", b"$where"];

/// Marks of one kind that are counted before a string's end.
const MARKS_MAX: usize = 64;
/// Blanks read between two tokens.
const BLANKS_MAX: usize = 16;

fn is_operator(name: &[u8]) -> bool {
    OPERATORS.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Convicts the name of a parameter, field or key that is an operator: `login[$ne]`, `$where`.
pub(super) fn operator_name(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    let dollar = memchr::memchr_iter(b'$', bytes).find(|dollar| {
        let end = skip(bytes, dollar + 1, 16, is_word);
        let before = dollar.checked_sub(1).map_or(0, |index| at(bytes, index));
        let after = at(bytes, end);
        let placed =
            matches!(before, 0 | b'[' | b'.' | b'"' | b'\'') && matches!(after, 0 | b']' | b'.' | b'[' | b'"' | b'\'');
        placed && is_operator(part(bytes, *dollar, end)) && !is_query_interface(bytes, part(bytes, *dollar, end))
    })?;
    Some(0..skip(bytes, dollar + 1, 16, is_word))
}

/// `filters[title][$eq]`: interfaces that offer comparisons by this very name.
fn is_query_interface(bytes: &[u8], operator: &[u8]) -> bool {
    let offered = [&b"filters["[..], b"filter[", b"where["].iter().any(|head| has(bytes, 0, head));
    offered && !RUNNING.iter().any(|running| operator.eq_ignore_ascii_case(running))
}

/// Convicts a value that holds an operator with its colon: `{"$gt": ""}`, `x', $where: '1'`, `[$ne]=1`.
pub(super) fn operator_value(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    let first_mark = memchr::memchr2(b'\'', b'"', bytes);
    memchr::memchr_iter(b'$', bytes).take_while(|_| candidate.work.goes_on()).find_map(|dollar| {
        let end = skip(bytes, dollar + 1, 16, is_word);
        let name = part(bytes, dollar, end);
        let (before, at_quote) = sign_before(bytes, dollar);
        let quoted = at_quote && matches!(at(bytes, end), b'"' | b'\'');
        let next = skip(bytes, if quoted { end + 1 } else { end }, BLANKS_MAX, is_blank);
        let comments = name.eq_ignore_ascii_case(b"$comment") && first_mark.is_some_and(|mark| mark < dollar);
        let keyed = at(bytes, next) == b':' && matches!(before, 0 | b'{' | b',') && (is_operator(name) || comments);
        let bracketed = before == b'[' && has(bytes, next, b"]=") && is_operator(name);
        (keyed || bracketed).then_some(dollar..next + 1)
    })
}

/// The sign before the name at `dollar`, blanks and one quotation mark aside; 0 at the start.
fn sign_before(bytes: &[u8], dollar: usize) -> (u8, bool) {
    let mut here = dollar;
    let mut quote = false;
    for _ in 0..BLANKS_MAX {
        let Some(before) = here.checked_sub(1) else { return (0, quote) };
        match at(bytes, before) {
            byte if is_blank(byte) => {}
            b'"' | b'\'' if !quote => quote = true,
            byte => return (byte, quote),
        }
        here = before;
    }
    (b' ', quote)
}

/// Convicts JavaScript that a document database would run: `';return true;`, `' && this.pin.match(/a/)`, `db.staff.drop()`.
pub(super) fn script(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    let start = skip(bytes, candidate.value_start(), BLANKS_MAX, is_blank);
    if let Some(end) = database_call(bytes, start).or_else(|| document_test(bytes, start)) {
        return Some(start..end);
    }
    // Marks of each kind so far, of which no more are counted than matter.
    let mut marks = [0_usize; 2];
    memchr::memchr3_iter(b'\'', b'"', b';', bytes).take_while(|_| candidate.work.goes_on()).find_map(|mark| {
        let before = match at(bytes, mark) {
            b'\'' => marks.first_mut(),
            b'"' => marks.last_mut(),
            _ => None,
        };
        let opened = before.map_or(0, |count| std::mem::replace(count, MARKS_MAX.min(*count + 1)));
        let mut next = skip(bytes, mark + 1, BLANKS_MAX, |byte| is_blank(byte) || matches!(byte, b')' | b'}' | b']'));
        let quote = at(bytes, mark);
        if quote != b';' {
            let joined = match (at(bytes, next), at(bytes, next + 1)) {
                (b'|', b'|') | (b'&', b'&') => 2,
                (b';', _) => 1,
                _ => return None,
            };
            if opened % 2 == 1 {
                return None;
            }
            next = skip(bytes, next + joined, BLANKS_MAX, is_blank);
            return runs(bytes, next).map(|end| mark..end);
        }
        database_call(bytes, next).map(|end| mark..end)
    })
}

/// Code right after a string's end.
fn runs(bytes: &[u8], here: usize) -> Option<usize> {
    let end = skip(bytes, here, 24, is_word);
    let word = part(bytes, here, end);
    let next = at(bytes, end);
    let is = |known: &[u8]| word.eq_ignore_ascii_case(known);
    let runs = (is(b"return") && matches!(next, b' ' | b'(' | b'\'' | b'"' | b'!' | b'/'))
        || (is(b"this") && next == b'.' && is_word(at(bytes, end + 1)))
        || ((is(b"while") || is(b"sleep") || is(b"eval")) && next == b'(')
        || (is(b"do") && next == b'{')
        || (is(b"it") && next == b'=')
        || (is(b"var") && next == b' ' && memchr::memchr(b'=', part(bytes, end, end + 48)).is_some());
    if runs { Some(end) } else { database_call(bytes, here) }
}

/// `this.pin.match(/`, `this.pin == `: a condition on the document, as a whole value.
fn document_test(bytes: &[u8], here: usize) -> Option<usize> {
    let name = here + b"this.".len();
    let end = skip(bytes, name, 48, |byte| is_word(byte) || byte == b'.');
    let is_test = has(bytes, here, b"this.") && (part(bytes, here, end).ends_with(b".match") && has(bytes, end, b"(/"));
    is_test.then_some(end + 2)
}

/// `db.staff.drop(`.
fn database_call(bytes: &[u8], here: usize) -> Option<usize> {
    const METHODS: &[&[u8]] = &[
        b"aggregate",
        b"count",
        b"deletemany",
        b"deleteone",
        b"drop",
        b"dropdatabase",
        b"eval",
        b"find",
        b"findone",
        b"insert",
        b"insertmany",
        b"insertone",
        b"mapreduce",
        b"remove",
        b"save",
        b"update",
        b"updatemany",
        b"updateone",
    ];
    if !has(bytes, here, b"db.") {
        return None;
    }
    let mut name = here + 3;
    if let Some(method) =
        [&b"getcollectionnames("[..], b"getcollection(", b"admincommand(", b"runcommand(", b"version("]
            .iter()
            .find(|method| has(bytes, name, method))
    {
        return Some(name + method.len());
    }
    for _ in 0..3 {
        let end = skip(bytes, name, 64, is_word);
        match at(bytes, end) {
            b'.' => name = end + 1,
            b'(' => {
                let method = part(bytes, name, end);
                return METHODS.iter().any(|known| method.eq_ignore_ascii_case(known)).then_some(end + 1);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing;

    #[test]
    fn operators_are_found_where_names_stand() {
        for (name, expected) in [
            ("login[$ne]", true),
            ("$where", true),
            ("user.$gt", true),
            ("a[b][$regex]", true),
            ("filters[a][$where]", true),
            ("filters[title][$eq]", false),
            ("$schema", false),
            ("$set", false),
            ("price$in", false),
            ("$gteq", false),
        ] {
            assert_eq!(operator_name(&testing::query(name)).is_some(), expected, "{name}");
        }
    }

    #[test]
    fn operators_are_found_in_values() {
        for (value, expected) in [
            ("{\"$gt\": \"\"}", true),
            ("{$ne : 1}", true),
            ("x', $where: '1 == 1", true),
            ("$or: [{}]", true),
            ("[$ne]=1", true),
            ("x' } ], $comment: 'y'", true),
            ("it costs $in: 4", false),
            ("{\"$id\": \"a\"}", false),
            ("{$price}", false),
            ("$eq is an operator", false),
        ] {
            assert_eq!(operator_value(&testing::query(value)).is_some(), expected, "{value}");
        }
    }

    #[test]
    fn scripts_are_found_after_a_string() {
        for (value, expected) in [
            ("';return true;var a='", true),
            ("' || this.pin.match(/a.*/)//", true),
            ("\";while(1){}", true),
            ("db.staff.insert({a:1})", true),
            ("x; db.staff.drop()", true),
            ("'; return the book", true),
            ("don't; return it", false),
            ("she said 'this', return it", false),
            ("db.example.com/find", false),
            ("the this.x property", false),
        ] {
            assert_eq!(script(&testing::query(value)).is_some(), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[${}\\[\\]'\";:,.()a-z é&|=]{0,80}") {
            for confirm in [operator_name, operator_value, script] {
                prop_assert!(confirm(&testing::query(&text)).is_none_or(|range| text.get(range).is_some()));
            }
        }
    }
}
