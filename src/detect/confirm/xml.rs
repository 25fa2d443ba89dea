//! XML that makes its reader fetch or expand: entities, external DTDs, inclusions.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, has, is_blank, is_word, part, skip};
use crate::detect::work;

/// Blanks read between two tokens.
const BLANKS_MAX: usize = 64;
/// Longest name.
const NAME_MAX: usize = 128;
/// Longest quoted literal.
const LITERAL_MAX: usize = 2048;
/// References in one entity's value that make it a bomb.
const REFERENCES_MIN: usize = 2;

/// Convicts an entity declaration that fetches, nests, or stands for text of its own.
pub(super) fn entity(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    let mut opens = memchr::memmem::find_iter(bytes, b"<!").take_while(|_| candidate.work.goes_on());
    opens.find_map(|open| {
        if !has(bytes, open + 2, b"entity") || !is_blank(at(bytes, open + 8)) {
            return None;
        }
        let mut here = blanks(bytes, open + 8);
        let parameter = at(bytes, here) == b'%' || has(bytes, here, b"&#37;") || has(bytes, here, b"&#x25;");
        if parameter {
            here = blanks(bytes, find_blank(bytes, here));
        }
        let name_end = skip(bytes, here, NAME_MAX, is_name);
        let value = blanks(bytes, name_end);
        let external = is_external(bytes, value);
        let hostile =
            name_end != here && (external || (parameter && is_quote(at(bytes, value))) || expands(bytes, value));
        hostile.then_some(open..value)
    })
}

/// Convicts a document type whose definition lies elsewhere.
pub(super) fn doctype(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    let mut opens = memchr::memmem::find_iter(bytes, b"<!").take_while(|_| candidate.work.goes_on());
    opens.find_map(|open| {
        if !has(bytes, open + 2, b"doctype") {
            return None;
        }
        let name = blanks(bytes, open + 9);
        let keyword = blanks(bytes, skip(bytes, name, NAME_MAX, is_name));
        if !is_external(bytes, keyword) {
            return None;
        }
        let mut literal = skip(bytes, keyword, 8, |byte| byte.is_ascii_alphabetic());
        if has(bytes, keyword, b"public") {
            literal = after_literal(bytes, blanks(bytes, literal))?;
        }
        literal = blanks(bytes, literal);
        let address = part(bytes, literal + 1, literal + 64);
        is_foreign(address).then_some(open..literal + 1)
    })
}

/// Convicts an inclusion of XInclude.
pub(super) fn inclusion(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    memchr::memchr_iter(b'<', bytes).take_while(|_| candidate.work.goes_on()).find_map(|open| {
        let prefix = skip(bytes, open + 1, 16, is_word);
        let name = if at(bytes, prefix) == b':' { prefix + 1 } else { open + 1 };
        if !has(bytes, name, b"include") || !is_blank(at(bytes, name + 7)) {
            return None;
        }
        // No tag holds another one, so no byte is read for two of them.
        let rest = part(bytes, name, name + LITERAL_MAX);
        let tag = part(rest, 0, memchr::memchr2(b'>', b'<', rest).unwrap_or(rest.len()));
        let close = name + tag.len();
        work::read_fast(tag.len());
        let fetches = memchr::memmem::find(tag, b"href").is_some() || memchr::memmem::find(tag, b"parse").is_some();
        let spaced = name != open + 1 && at(bytes, prefix) == b':' || memchr::memmem::find(tag, b"XInclude").is_some();
        (fetches && spaced).then_some(open..close)
    })
}

/// `SYSTEM "` or `PUBLIC "`.
fn is_external(bytes: &[u8], here: usize) -> bool {
    (has(bytes, here, b"system") || has(bytes, here, b"public")) && is_quote(at(bytes, blanks(bytes, here + 6)))
}

/// The text of an entity refers to others, or is text that has no business in a request.
fn expands(bytes: &[u8], here: usize) -> bool {
    if !is_quote(at(bytes, here)) {
        return false;
    }
    let end = after_literal(bytes, here).unwrap_or(bytes.len()).min(here + LITERAL_MAX);
    let text = part(bytes, here + 1, end.saturating_sub(1));
    work::read_fast(text.len());
    let references = memchr::memchr_iter(b'&', text).filter(|offset| at(text, offset + 1) != b'#').count();
    // Drawing programs declare their namespaces as entities; typographers their signs.
    let namespace = text.starts_with(b"http://") || text.starts_with(b"https://") || text.starts_with(b"&#");
    REFERENCES_MIN <= references || (!namespace && 3 < text.len())
}

/// An address outside the few hosts whose definitions every parser knows.
fn is_foreign(address: &[u8]) -> bool {
    const KNOWN: &[&[u8]] = &[
        b"http://www.w3.org/",
        b"https://www.w3.org/",
        b"http://www.apple.com/dtds",
        b"https://www.apple.com/dtds",
        b"http://java.sun.com/dtd",
        b"http://www.openmobilealliance.org/",
        b"http://xml.cxml.org/",
    ];
    const SCHEMES: &[&[u8]] = &[
        b"http:", b"https:", b"ftp:", b"file:", b"jar:", b"netdoc:", b"gopher:", b"php:", b"expect:", b"data:", b"//",
        b"/", b"\\\\", b"..",
    ];
    SCHEMES.iter().any(|scheme| has(address, 0, scheme)) && !KNOWN.iter().any(|known| has(address, 0, known))
}

fn after_literal(bytes: &[u8], open: usize) -> Option<usize> {
    let quote = at(bytes, open);
    if !is_quote(quote) {
        return None;
    }
    let rest = part(bytes, open + 1, open + 1 + LITERAL_MAX);
    let close = memchr::memchr(quote, rest);
    work::read_fast(close.unwrap_or(rest.len()));
    close.map(|offset| open + offset + 2)
}

const fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'')
}

const fn is_name(byte: u8) -> bool {
    is_word(byte) || matches!(byte, b'-' | b'.' | b':') || 0x80 <= byte
}

fn blanks(bytes: &[u8], from: usize) -> usize {
    skip(bytes, from, BLANKS_MAX, is_blank)
}

fn find_blank(bytes: &[u8], from: usize) -> usize {
    skip(bytes, from, 8, |byte| !is_blank(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing;

    #[test]
    fn documents_that_fetch_or_expand_are_found() {
        for (text, expected) in [
            ("<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/hosts\">]><a>&b;</a>", true),
            ("<!DOCTYPE a [ <!ENTITY % b SYSTEM 'http://h/x.dtd'> %b;]>", true),
            ("<!entity b public 'x' 'http://h'>", true),
            ("<!ENTITY b \"&c;&c;&c;\">", true),
            ("<!DOCTYPE a [<!ENTITY b \"some text\">]>", true),
            ("<!DOCTYPE a SYSTEM \"http://h/x.dtd\"><a/>", true),
            ("<!DOCTYPE a PUBLIC \"-//x\" \"file:///etc/hosts\">", true),
            (
                "<x:include xmlns:x=\"http://www.w3.org/2001/XInclude\" parse=\"text\" href=\"file:///etc/hosts\"/>",
                true,
            ),
            ("<!DOCTYPE html>", false),
            (
                "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Strict//EN\" \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd\">",
                false,
            ),
            ("<!DOCTYPE svg [<!ENTITY ns_svg \"http://www.w3.org/2000/svg\">]>", false),
            ("<!ENTITY copy \"&#169;\">", false),
            ("<!DOCTYPE note SYSTEM \"note.dtd\">", false),
            ("an <!ENTITY declaration", false),
            ("<include file=\"a\"/>", false),
        ] {
            let candidate = testing::query(text);
            let found = entity(&candidate).or_else(|| doctype(&candidate)).or_else(|| inclusion(&candidate));
            assert_eq!(found.is_some(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(parts in prop::collection::vec(0..14_usize, 0..40)) {
            let pieces = ["<!ENTITY ", "<!DOCTYPE ", "% ", "a ", "SYSTEM ", "PUBLIC ", "\"", "'", "http://", "&b;", ">", "é", "<x:include ", "href="];
            let text: String = parts.iter().map(|part| pieces[*part]).collect();
            for confirm in [entity, doctype, inclusion] {
                prop_assert!(confirm(&testing::query(&text)).is_none_or(|range| text.get(range).is_some()));
            }
        }
    }
}
