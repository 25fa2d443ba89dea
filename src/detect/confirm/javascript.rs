//! JavaScript that acts: calls of what an attacker wants, assignments to it, and the ways out of a string into code.
//!
//! No full parser: expressions are read as far as a member path goes, with comments and blanks between the tokens.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::events::is_handler;
use crate::detect::confirm::scan::{Folded, at, find, has, is_blank, is_word, part, skip};
use crate::detect::{Source, work};

/// Code is read up to this many bytes.
const CODE_BYTES_MAX: usize = 4096;
/// What looking for code at a place costs, besides what is read there.
const PLACE_COST: usize = 32;
/// Members of a path, as in `a.b["c"]`.
const MEMBERS_MAX: usize = 12;
/// Bytes of one computed member or of a call's arguments.
const GROUP_BYTES_MAX: usize = 256;

/// Functions that prove or do harm by being called.
const CALLS: &[&[u8]] = &[
    b"alert",
    b"confirm",
    b"prompt",
    b"eval",
    b"settimeout",
    b"setinterval",
    b"setimmediate",
    b"function",
    b"execscript",
    b"fetch",
    b"importscripts",
    b"import",
    b"showmodaldialog",
    b"xmlhttprequest",
    b"write",
    b"writeln",
    b"atob",
    b"msgbox",
    b"postmessage",
];
/// Objects through which everything can be reached.
const ROOTS: &[&[u8]] = &[
    b"document",
    b"window",
    b"self",
    b"top",
    b"parent",
    b"frames",
    b"globalthis",
    b"location",
    b"opener",
    b"content",
    b"localstorage",
    b"sessionstorage",
    b"navigation",
    b"navigator",
];

/// `javascript:` with something to run behind it, anywhere a URL can start.
pub(crate) fn script_url(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let mut from = 0;
    while let Some(colon) = find(text, from, b':') {
        from = colon + 1;
        let Some(start) = script_scheme_before(text, colon) else { continue };
        let code = part(text, from, from + CODE_BYTES_MAX);
        if !candidate.work.take(from - start + code.len()) {
            return None;
        }
        if !is_idle(code) && starts_code(code) {
            return Some(start..from + code.len().min(64));
        }
    }
    None
}

/// A value that leaves a string literal and acts: `';alert(1)//`, `"-eval(name)-"`.
pub(crate) fn string_breakout(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let (mut single, mut double, mut back) = (0usize, 0usize, 0usize);
    // A body of this length is a document, with quotes and calls of its own.
    let is_document = matches!(candidate.context.source, Source::Body | Source::Unknown);
    let most = if is_document { CODE_BYTES_MAX } else { text.len() };
    for (index, byte) in text.iter().enumerate().take(most) {
        let count = match byte {
            b'\'' => &mut single,
            b'"' => &mut double,
            b'`' => &mut back,
            _ => continue,
        };
        // The first of a pair closes the literal that surrounds the value; the second closes the attacker's own.
        let leaves = *count % 2 == 0;
        *count += 1;
        if !candidate.work.take(PLACE_COST) {
            return None;
        }
        if let Some(end) = leaves.then(|| acts_behind(text, index + 1, *byte)).flatten() {
            return Some(index..end);
        }
    }
    None
}

/// A value that is code from its beginning, or from behind a number, a name or closing brackets.
pub(crate) fn whole_expression(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let start = skip(text, candidate.value_start(), 32, |byte| {
        is_blank(byte) || matches!(byte, b')' | b']' | b'}' | b';' | b',' | b'{' | b'(' | b'+' | b'-' | b'!')
    });
    let start = gap(text, start);
    let start = named_value(text, start).unwrap_or(start);
    // `--location=x` is an option of a command: what is counted down cannot be assigned to.
    let is_option = start.checked_sub(2).is_some_and(|sign| part(text, sign, start) == b"--");
    let assigns = |end: usize| at(text, end - 1) == b'=';
    if let Some(end) = sink_at(text, start).filter(|end| ends_statement(text, *end) && !(is_option && assigns(*end))) {
        return Some(start..end);
    }
    let word_end = skip(text, start, 24, |byte| is_word(byte) || byte == b'.');
    let next = skip(text, word_end, 8, |byte| {
        matches!(byte, b';' | b'-' | b'+' | b'*' | b'^' | b'|' | b'&' | b'}' | b')' | b']' | b'/')
    });
    if next == word_end {
        return None;
    }
    sink_at(text, gap(text, next)).filter(|end| ends_statement(text, *end)).map(|end| start..end)
}

/// Where the value behind `name=` or `?name=` starts.
fn named_value(text: &[u8], start: usize) -> Option<usize> {
    let name = start + usize::from(at(text, start) == b'?');
    let end = skip(text, name, 40, is_word);
    (name < end && at(text, end) == b'=' && at(text, end + 1) != b'=')
        .then_some(end + 1)
        .filter(|_| !is_handler(part(text, name, end)) && !has(text, name, b"location"))
}

/// `${…}` whose expression acts: code in a template literal.
pub(crate) fn template_literal(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let mut from = 0;
    while candidate.work.goes_on() {
        let dollar = find(text, from, b'$')?;
        from = dollar + 1;
        if at(text, from) == b'{'
            && candidate.work.take(PLACE_COST)
            && let Some(end) = sink_at(text, gap(text, from + 1))
        {
            return Some(dollar..end);
        }
    }
    None
}

/// Code written with brackets, signs and little else.
pub(crate) fn symbol_code(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let mut start = 0;
    while start < text.len() {
        let end = skip(text, start, text.len(), |byte| {
            matches!(byte, b'[' | b']' | b'(' | b')' | b'!' | b'+' | b'{' | b'}') || is_blank(byte)
        });
        let run = part(text, start, end);
        let count = |wanted: u8| memchr::memchr_iter(wanted, run).take(8).count();
        if 40 <= run.len() && 6 <= count(b'[') && 6 <= count(b'+') && 2 <= count(b'!') {
            return Some(start..end);
        }
        start = end + 1;
    }
    None
}

/// True when code calls, assigns, throws or imports: when it is more than a value.
pub(crate) fn has_effect(code: &[u8]) -> bool {
    let code = part(code, 0, CODE_BYTES_MAX);
    code.iter().enumerate().any(|(index, byte)| {
        let before = if index == 0 { 0 } else { at(code, index - 1) };
        match byte {
            b'(' => {
                is_word(before)
                    || matches!(before, b']' | b')' | b'}' | b'$' | b'/')
                    || is_blank(before) && sink_before(code, index)
            }
            b'`' => is_word(before) || matches!(before, b']' | b')' | b'$'),
            b'=' => !matches!(before, b'=' | b'!' | b'<' | b'>' | 0) && !matches!(at(code, index + 1), b'=' | b'>'),
            b't' | b'T' => has(code, index, b"throw") && !is_word(before) && !is_word(at(code, index + 5)),
            b'i' | b'I' => {
                has(code, index, b"import")
                    && !is_word(before)
                    && matches!(at(code, gap(code, index + 6)), b'(' | b'"' | b'\'')
            }
            b'l' | b'L' => has(code, index, b"location") && !is_word(before) && has(code, index + 8, b".replace"),
            _ => false,
        }
    })
}

/// True when code calls a dangerous function or writes to a dangerous object, anywhere.
pub(crate) fn reaches_sink(code: &[u8]) -> bool {
    let code = part(code, 0, CODE_BYTES_MAX);
    let mut index = 0;
    while index < code.len() {
        let byte = at(code, index);
        if byte.is_ascii_alphabetic() || byte == b'[' {
            work::read(PLACE_COST);
            if sink_at(code, index).is_some() {
                return true;
            }
            index = skip(code, index + 1, code.len(), is_word);
        } else if is_word(byte) {
            index = skip(code, index, code.len(), is_word);
        } else {
            index += 1;
        }
    }
    false
}

/// True when code starts with punctuation-dense text rather than with words.
pub(crate) fn is_dense(code: &[u8]) -> bool {
    let start = skip(code, 0, 64, is_blank);
    let end = skip(code, start, 96, |byte| !is_blank(byte));
    has_effect(part(code, start, end))
}

/// A script URL that does nothing worth stopping: pages are full of them.
pub(crate) fn is_idle(code: &[u8]) -> bool {
    let start = skip(code, 0, code.len(), |byte| is_blank(byte) || byte == b';');
    let code = part(code, start, code.len());
    let idle: &[&[u8]] = &[
        b"void(0)",
        b"void 0",
        b"void(null)",
        b"history.back()",
        b"history.go(-1)",
        b"window.print()",
        b"window.close()",
        b"return false",
        b"undefined",
        b"false",
        b"null",
    ];
    let rest = idle.iter().find(|word| has(code, 0, word)).map_or(0, |word| word.len());
    part(code, rest, code.len())
        .iter()
        .take(8)
        .all(|byte| is_blank(*byte) || matches!(byte, b';' | b'"' | b'\'' | b'>' | b')' | b'#' | b'0'))
        || 0 < rest && matches!(at(code, rest), b';' | b'"' | b'\'' | b'>' | b' ' | b')')
}

/// Where a dangerous expression that starts at `index` ends: behind the call's bracket or the assignment's sign.
fn sink_at(code: &[u8], index: usize) -> Option<usize> {
    let mut index = index;
    for word in [&b"new"[..], b"void", b"typeof", b"await", b"return", b"delete", b"throw", b"var", b"let", b"const"] {
        if has(code, index, word) && !is_word(at(code, index + word.len())) && at(code, index + word.len()) != b'$' {
            index = gap(code, index + word.len());
        }
    }
    index = skip(code, index, 8, |byte| matches!(byte, b'(' | b'!' | b'~' | b'+' | b'-'));
    if at(code, index) == b'[' {
        let end = group(code, index, b']')?;
        return path(code, end, true).filter(|found| found.is_devious).map(|found| found.end);
    }
    let end = skip(code, index, 40, |byte| is_word(byte) || byte == b'$');
    let name = Folded::<20>::of(part(code, index, end));
    let name = name.bytes();
    if CALLS.contains(&name) {
        // `function` is a keyword, `Function` compiles text.
        if name == b"function" && at(code, index) != b'F' {
            return None;
        }
        let found = path(code, end, false).filter(|found| found.is_call)?;
        return (!is_remark(code, end)).then_some(found.end);
    }
    if ROOTS.contains(&name) {
        let found = path(code, end, true)?;
        if is_everyday(name) && !found.is_devious && !reaches_browser(code, end) {
            return None;
        }
        return (0 < found.members || name == b"location" && !found.is_call).then_some(found.end);
    }
    if is_handler(name) {
        let sign = gap(code, end);
        let next = at(code, gap(code, sign + 1));
        return (at(code, sign) == b'=' && at(code, sign + 1) != b'=' && (next.is_ascii_alphabetic() || next == b'['))
            .then_some(sign + 1);
    }
    None
}

/// A word and a remark in parentheses: `fetch (the dog game)`.
fn is_remark(code: &[u8], from: usize) -> bool {
    let open = skip(code, from, 4, is_blank);
    let inside = part(code, open + 1, open + 64);
    let word = skip(inside, 0, 64, |byte| byte.is_ascii_alphabetic());
    let is_sentence = 0 < word && at(inside, word) == b' ' && at(inside, word + 1).is_ascii_alphanumeric();
    from < open && at(code, open) == b'(' && is_sentence
}

/// Roots that other languages and texts name as well: `self.total()` is Python.
fn is_everyday(root: &[u8]) -> bool {
    [&b"self"[..], b"content", b"parent", b"top", b"frames", b"navigation"].contains(&root)
}

/// The member behind a root is one of a browser's.
fn reaches_browser(code: &[u8], from: usize) -> bool {
    let dot = skip(code, gap(code, from), 8, |byte| matches!(byte, b')' | b'?' | b'.') || is_blank(byte));
    let end = skip(code, dot, 40, |byte| is_word(byte) || byte == b'$');
    let member = Folded::<20>::of(part(code, dot, end));
    let member = member.bytes();
    let known: &[&[u8]] =
        &[b"open", b"console", b"history", b"origin", b"close", b"execcommand", b"onerror", b"navigate", b"cookie"];
    // A path that does not go on with a name is a call, an assignment or a computed member.
    member.is_empty()
        || CALLS.contains(&member)
        || ROOTS.contains(&member)
        || known.contains(&member)
        || is_handler(member)
}

/// A member path that was read.
struct Path {
    members: usize,
    is_call: bool,
    /// Goes through a computed member or a constructor, as hidden calls do.
    is_devious: bool,
    end: usize,
}

/// Reads `.name`, `?.name` and `[…]` up to a call, a template call or (when `assigns`) an assignment.
fn path(code: &[u8], from: usize, assigns: bool) -> Option<Path> {
    let mut found = Path { members: 0, is_call: false, is_devious: false, end: from };
    let mut index = skip(code, gap(code, from), 4, |byte| byte == b')');
    for _ in 0..MEMBERS_MAX {
        index = gap(code, index);
        if at(code, index) == b'?' && at(code, index + 1) == b'.' {
            index += 1;
        }
        match at(code, index) {
            b'.' => {
                let start = gap(code, index + 1);
                if at(code, start) == b'(' || at(code, start) == b'[' {
                    index = start;
                    continue;
                }
                let end = skip(code, start, 64, |byte| is_word(byte) || byte == b'$');
                if end == start {
                    return None;
                }
                found.is_devious |= has(code, start, b"constructor");
                index = end;
            }
            b'[' => {
                index = group(code, index, b']')?;
                found.is_devious = true;
            }
            b'(' | b'`' => return Some(Path { is_call: true, end: index + 1, ..found }),
            b'=' if assigns && !matches!(at(code, index + 1), b'=' | b'>') => {
                return Some(Path { end: index + 1, ..found });
            }
            b'+' if assigns && at(code, index + 1) == b'=' => return Some(Path { end: index + 2, ..found }),
            _ => return None,
        }
        found.members += 1;
    }
    None
}

/// The index behind the bracket that closes the group opened at `open`.
fn group(code: &[u8], open: usize, close: u8) -> Option<usize> {
    let opener = at(code, open);
    let mut depth = 0usize;
    let group = part(code, open, open.saturating_add(GROUP_BYTES_MAX));
    for (index, byte) in group.iter().enumerate().map(|(index, byte)| (open + index, byte)) {
        work::read(1);
        if *byte == opener {
            depth += 1;
        } else if *byte == close {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return Some(index + 1);
            }
        }
    }
    None
}

/// Skips blanks and comments.
fn gap(code: &[u8], from: usize) -> usize {
    let mut index = from;
    for _ in 0..8 {
        index = skip(code, index, 64, |byte| is_blank(byte) || byte == 0);
        if at(code, index) != b'/' || at(code, index + 1) != b'*' {
            break;
        }
        let inside = part(code, index + 2, index + GROUP_BYTES_MAX);
        work::read(inside.len() / 4);
        let Some(close) = memchr::memmem::find(inside, b"*/") else { break };
        index += 2 + close + 2;
    }
    index
}

/// Behind a closing quote: an operator or separator, then something that acts.
fn acts_behind(text: &[u8], from: usize, quote: u8) -> Option<usize> {
    let mut index = from;
    let mut is_joined = false;
    for _ in 0..24 {
        index = gap(text, index);
        match at(text, index) {
            b';' | b',' | b'+' | b'-' | b'*' | b'/' | b'%' | b'|' | b'&' | b'^' | b'?' | b':' | b'<' | b'>' | b'='
            | b'}' | b')' | b']' => is_joined = true,
            b'{' | b'(' | b'!' | b'~' => {}
            b'i' if has(text, index, b"in ") => (is_joined, index) = (true, index + 2),
            b'i' if has(text, index, b"instanceof ") => (is_joined, index) = (true, index + 10),
            _ => break,
        }
        index += 1;
    }
    if !is_joined {
        is_joined = text.get(from..index).is_some_and(|between| memchr::memchr2(b'\n', b'\r', between).is_some());
    }
    if !is_joined {
        return None;
    }
    sink_at(text, index).or_else(|| any_call(text, index, quote))
}

/// A call of any name that is closed off against the rest of the surrounding line: `name()//`, `name()-'`.
fn any_call(text: &[u8], index: usize, quote: u8) -> Option<usize> {
    let end = skip(text, index, 40, |byte| is_word(byte) || matches!(byte, b'.' | b'$'));
    if end == index || at(text, end) != b'(' || at(text, index).is_ascii_digit() {
        return None;
    }
    let close = group(text, end, b')')?;
    let next = skip(text, close, 8, |byte| {
        is_blank(byte) || matches!(byte, b';' | b'}' | b')' | b'-' | b'+' | b'*' | b'^' | b'|' | b'&')
    });
    let is_closed_off = at(text, next) == quote && close < next || at(text, next) == b'/' && at(text, next + 1) == b'/';
    is_closed_off.then_some(next)
}

/// A call or assignment that nothing but punctuation follows; prose goes on with words.
fn ends_statement(text: &[u8], end: usize) -> bool {
    if at(text, end.wrapping_sub(1)) != b'(' {
        return true;
    }
    let Some(close) = group(text, end - 1, b')') else { return true };
    let next = skip(text, close, 64, is_blank);
    !at(text, next).is_ascii_alphanumeric() || next == close || at(text, next) == 0
}

/// A dangerous name ends before the blanks in front of `index`.
fn sink_before(code: &[u8], index: usize) -> bool {
    let mut end = index;
    while 0 < end && index - end < 8 && is_blank(at(code, end - 1)) {
        end -= 1;
    }
    let mut start = end;
    while 0 < start && end - start < 20 && is_word(at(code, start - 1)) {
        start -= 1;
    }
    CALLS.contains(&Folded::<20>::of(part(code, start, end)).bytes())
}

/// Where `javascript` (or `vbscript`) that ends before the colon starts; control characters inside do not count.
fn script_scheme_before(text: &[u8], colon: usize) -> Option<usize> {
    let mut letters = Folded::<12>::new();
    let mut start = colon;
    let mut index = colon;
    while 0 < index && colon - index < 40 {
        let byte = at(text, index - 1);
        if byte.is_ascii_alphanumeric() {
            letters.push(byte);
            start = index - 1;
        } else if !(byte < 0x20 || byte == b' ' && start == colon) {
            break;
        }
        index -= 1;
        if matches!(letters.bytes(), b"tpircsavaj" | b"tpircsbv" | b"tpircsevil") {
            break;
        }
    }
    let before = if start == 0 { b' ' } else { at(text, start - 1) };
    let is_script = matches!(letters.bytes(), b"tpircsavaj" | b"tpircsbv" | b"tpircsevil");
    (is_script && !is_word(before) && !matches!(before, b'-' | b'.' | b'/')).then_some(start)
}

/// Code begins right here: punctuation of code comes before the first blank.
fn starts_code(code: &[u8]) -> bool {
    let start = skip(code, 0, 16, |byte| is_blank(byte) || byte < 0x20);
    let end = skip(code, start, 160, |byte| !is_blank(byte));
    let word = part(code, start, end);
    word.iter().any(|byte| matches!(byte, b'(' | b'=' | b'`' | b'[' | b'{' | b'/' | b'"' | b'\'' | b'%' | b'+' | b'\\'))
        || is_dense(code)
}

#[cfg(test)]
mod tests;
