//! Template expressions that an engine would evaluate: arithmetic nobody types, and walks through the engine's objects.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, find, has, is_blank, is_word, part, skip};

/// Longest expression that is read.
const BODY_MAX: usize = 768;
/// What judging an expression costs besides its bytes.
const TEMPLATE_COST: usize = 32;
/// Operands of an arithmetic probe.
const OPERANDS_MAX: usize = 6;

/// How an expression is opened and closed.
struct Delimiter {
    open: &'static [u8],
    close: &'static [u8],
    /// JavaScript and shells write it too: only what no program of theirs says convicts.
    everyday: bool,
}

const DELIMITERS: &[Delimiter] = &[
    Delimiter { open: b"{{", close: b"}}", everyday: false },
    Delimiter { open: b"%{", close: b"}", everyday: true },
    Delimiter { open: b"${{", close: b"}}", everyday: true },
    Delimiter { open: b"${", close: b"}", everyday: true },
    Delimiter { open: b"#{", close: b"}", everyday: true },
    Delimiter { open: b"*{", close: b"}", everyday: false },
    Delimiter { open: b"@{", close: b"}", everyday: true },
    Delimiter { open: b"~{", close: b"}", everyday: true },
    Delimiter { open: b"{$", close: b"}", everyday: true },
    Delimiter { open: b"<%", close: b"%>", everyday: false },
    Delimiter { open: b"{%", close: b"%}", everyday: false },
    Delimiter { open: b"{#", close: b"}", everyday: true },
    Delimiter { open: b"[[", close: b"]]", everyday: true },
    Delimiter { open: b"@(", close: b")", everyday: true },
    Delimiter { open: b"#set(", close: b")", everyday: false },
    Delimiter { open: b"<#", close: b">", everyday: false },
    Delimiter { open: b"{php}", close: b"{/php}", everyday: false },
];

/// Convicts an expression that computes or reaches for the engine.
pub(super) fn expression(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    search(candidate, |_| ())
}

/// `after` each body it may change what is known of the text.
fn search(candidate: &Candidate<'_>, after: impl Fn(&mut Read)) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    let mut here = 0;
    let mut read = Read::default();
    let mut closings = [Closing::default(); DELIMITERS.len()];
    while let Some(offset) = bytes.get(here..).and_then(|rest| rest.iter().position(|byte| is_opening(*byte))) {
        let open = here + offset;
        here = open + 1;
        let Some((index, delimiter)) = delimiter(bytes, open) else { continue };
        let start = open + delimiter.open.len();
        let window = part(bytes, start, start + BODY_MAX);
        let length = closings.get_mut(index).and_then(|closing| closing.behind(bytes, start, delimiter.close));
        let body = part(window, 0, length.unwrap_or(window.len()));
        let closed = length.is_some();
        if !candidate.work.take(TEMPLATE_COST + body.len()) {
            return None;
        }
        let whole = closed
            && open == skip(bytes, candidate.value_start(), 16, is_blank)
            && bytes.trim_ascii_end().len() == start + body.len() + delimiter.close.len();
        if (closed && is_arithmetic(body))
            || reaches(body, delimiter.everyday, &mut read, start)
            || (whole && is_root(body))
            || is_php(delimiter, body)
        {
            return Some(boundary(candidate.text, open)..boundary(candidate.text, start + body.len()));
        }
        after(&mut read);
        // A body without an opening in it need not be read again.
        here = start + body.iter().position(|byte| is_opening(*byte)).unwrap_or(body.len());
    }
    None
}

const fn is_opening(byte: u8) -> bool {
    matches!(byte, b'{' | b'$' | b'#' | b'%' | b'*' | b'@' | b'~' | b'<' | b'[')
}

/// The delimiter that opens an expression at `open`, and its number.
fn delimiter(bytes: &[u8], open: usize) -> Option<(usize, &'static Delimiter)> {
    let second = at(bytes, open + 1);
    // What all of them go on with: most signs of a text are not followed by these.
    let opens = matches!(second, b'{' | b'$' | b'%' | b'#' | b'[' | b'(' | b's' | b'S' | b'p' | b'P');
    DELIMITERS.iter().enumerate().filter(|_| opens).find(|(_, known)| has(bytes, open, known.open))
}

/// What is known of where a delimiter closes next: expressions overlap, and are searched once only.
#[derive(Clone, Copy, Debug, Default)]
struct Closing {
    /// The closing that was found last.
    found: Option<usize>,
    /// Up to here, none begins behind that.
    searched: usize,
}

impl Closing {
    /// How long the expression at `start` is, when it closes within [`BODY_MAX`] bytes.
    fn behind(&mut self, bytes: &[u8], start: usize, close: &[u8]) -> Option<usize> {
        let limit = bytes.len().min(start + BODY_MAX);
        if self.found.is_none_or(|found| found < start) {
            let from = start.max(self.searched);
            self.found = find_word(part(bytes, 0, limit), from, close);
            // A closing may have begun in the last bytes.
            let none_before = (limit + 1).saturating_sub(close.len()).max(from);
            self.searched = self.found.unwrap_or(none_before);
        }
        self.found.filter(|found| found + close.len() <= limit).map(|found| found - start)
    }
}

/// Where the first `word` from `from` on stands.
fn find_word(bytes: &[u8], from: usize, word: &[u8]) -> Option<usize> {
    let (first, rest) = (*word.first()?, bytes.get(from..)?);
    let begins = |at: &usize| rest.get(*at..).is_some_and(|rest| rest.starts_with(word));
    memchr::memchr_iter(first, rest).find(begins).map(|offset| from + offset)
}

fn boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}

/// `7*7`, `'7'*7`, `7 + 7 * 7`: literals and operators, with one operator that no date or range has.
fn is_arithmetic(body: &[u8]) -> bool {
    let mut here = skip(body, 0, 16, |byte| is_blank(byte) || matches!(byte, b'=' | b'-' | b'(' | b'@'));
    let mut computes = false;
    for operands in 0..OPERANDS_MAX {
        let Some(end) = literal(body, here) else { return false };
        here = skip(body, end, 16, |byte| is_blank(byte) || byte == b')');
        let sign = at(body, here);
        if here == body.len()
            || (matches!(sign, b'|' | b'-' | b';') && part(body, here + 1, body.len()).trim_ascii().is_empty())
        {
            return computes && 0 < operands;
        }
        if !matches!(sign, b'*' | b'+' | b'/' | b'-' | b'%' | b'^') {
            return false;
        }
        computes |= !matches!(sign, b'/' | b'-');
        here = skip(body, here, 2, |byte| byte == sign);
        here = skip(body, here, 16, |byte| is_blank(byte) || byte == b'(');
    }
    computes
}

/// The end of the number or string at `here`.
fn literal(body: &[u8], here: usize) -> Option<usize> {
    let first = at(body, here);
    if first.is_ascii_digit() {
        return Some(skip(body, here, 24, |byte| byte.is_ascii_digit() || byte == b'.'));
    }
    if matches!(first, b'\'' | b'"') {
        return find(body, here + 1, first).map(|end| end + 1);
    }
    None
}

/// Parts of names that lead out of a template, in any engine; lower case, sorted.
const GADGETS: &[&[u8]] = &[
    b"#_memberaccess",
    b"%x(",
    b".mro(",
    b".popen(",
    b"?api",
    b"?new(",
    b"@java.",
    b"\\x5f\\x5f",
    b"__base__",
    b"__bases__",
    b"__builtins__",
    b"__class__",
    b"__dict__",
    b"__getitem__",
    b"__globals__",
    b"__import__",
    b"__init__",
    b"__mro__",
    b"__subclasses__",
    b"_self.",
    b"_templatereference",
    b"app.request",
    b"child_process",
    b"classloader",
    b"config.from_",
    b"config.items",
    b"config.iteritems",
    b"config[",
    b"constructor(",
    b"constructor.constructor",
    b"cycler.",
    b"dir.entries",
    b"eval request",
    b"execute request",
    b"execute(request",
    b"fetch(\"/etc",
    b"file.open",
    b"file.read",
    b"file_get_contents",
    b"forname(",
    b"freemarker.",
    b"get_flashed_messages",
    b"get_user_file",
    b"getclass(",
    b"getenv(",
    b"getfilter(",
    b"getmethod(",
    b"getobjectclass",
    b"getruntime",
    b"include(\"/etc",
    b"include('/etc",
    b"io.popen",
    b"io.read",
    b"java.io.",
    b"java.lang.",
    b"java.util.",
    b"javax.",
    b"joiner.",
    b"kernel.",
    b"linecache",
    b"lipsum.",
    b"mainmodule",
    b"map(\"system",
    b"map('exec",
    b"map('passthru",
    b"map('system",
    b"newinstance(",
    b"os.environ",
    b"os.system",
    b"passthru(",
    b"phpinfo(",
    b"process.binding",
    b"processbuilder",
    b"readfile(",
    b"reduce('system",
    b"registerundefinedfilter",
    b"request.__",
    b"request.application",
    b"request.environ",
    b"scriptengine",
    b"secret_key",
    b"self._",
    b"self.attr",
    b"self.context",
    b"self.module",
    b"self.template",
    b"shell_exec(",
    b"smarty.",
    b"sort('system",
    b"subclasses(",
    b"subprocess",
    b"t(java",
    b"t(org.",
    b"write_file(",
    b"|attr(",
    b"|file_excerpt",
    b"|filter(",
];

/// Calls that run something; everyday scripts have methods of the same name. Lower case, sorted.
const CALLS: &[&[u8]] =
    &[b"eval(", b"exec(", b"include(", b"md5(", b"popen(", b"require(", b"sleep(", b"spawn(", b"system("];

/// How much longer than its name a gadget or call can be: blanks before its parenthesis.
const LOOSE_MAX: usize = 4;

/// A bit for each two bytes that a gadget or call begins with.
static FIRST: [u64; 1024] = first_pairs();
/// The longest gadget or call as it may be written.
const REACH_MAX: usize = longest() + LOOSE_MAX;

const fn first_pairs() -> [u64; 1024] {
    let mut first = [0; 1024];
    let mut tables: &[&[&[u8]]] = &[GADGETS, CALLS];
    while let [table, other @ ..] = tables {
        let mut rest: &[&[u8]] = table;
        while let [name, more @ ..] = rest {
            if let [one, two, ..] = name {
                mark(&mut first, *one, *two);
            }
            rest = more;
        }
        tables = other;
    }
    first
}

#[expect(clippy::indexing_slicing, reason = "two bytes are below 65,536, and 1024 words have as many bits")]
const fn mark(first: &mut [u64; 1024], one: u8, two: u8) {
    let pair = (one as usize) << 8 | two as usize;
    first[pair / 64] |= 1 << (pair % 64);
}

const fn longest() -> usize {
    let mut most = 0;
    let mut tables: &[&[&[u8]]] = &[GADGETS, CALLS];
    while let [table, other @ ..] = tables {
        let mut rest: &[&[u8]] = table;
        while let [name, more @ ..] = rest {
            if most < name.len() {
                most = name.len();
            }
            rest = more;
        }
        tables = other;
    }
    most
}

/// True when a gadget or call may begin with these bytes.
fn may_begin(one: u8, two: u8) -> bool {
    let pair = usize::from(one.to_ascii_lowercase()) << 8 | usize::from(two.to_ascii_lowercase());
    FIRST.get(pair / 64).is_some_and(|word| word >> (pair % 64) & 1 == 1)
}

/// Up to where earlier bodies of one text were read in vain: bodies overlap, and are read once only.
#[derive(Default)]
struct Read {
    gadgets: usize,
    calls: usize,
}

/// The body, which stands at `start`, names a gadget, runs a call, or calls a method of a literal.
fn reaches(body: &[u8], everyday: bool, read: &mut Read, start: usize) -> bool {
    let known_to = |read: usize| read.saturating_sub(start).saturating_sub(REACH_MAX);
    let (gadgets_from, calls_from) = (known_to(read.gadgets), known_to(read.calls));
    let mut here = if everyday { gadgets_from } else { gadgets_from.min(calls_from) };
    // A call right at the start of a body stands alone, whatever is before the body.
    let stands_alone = |here: usize| {
        let before = here.checked_sub(1).map_or(0, |index| at(body, index));
        !is_word(before) && before != b'.'
    };
    while here < body.len() {
        let byte = at(body, here).to_ascii_lowercase();
        if may_begin(byte, at(body, here + 1)) {
            let fits = |known: &&[u8]| has_loose(body, here, known);
            if beginning_with(GADGETS, byte).iter().any(fits) {
                return true;
            }
            if !everyday && stands_alone(here) && beginning_with(CALLS, byte).iter().any(fits) {
                return true;
            }
        }
        here += 1;
    }
    read.gadgets = read.gadgets.max(start + body.len());
    if !everyday {
        read.calls = read.calls.max(start + body.len());
    }
    let start = skip(body, 0, 16, |byte| is_blank(byte) || byte == b'=');
    let after = literal(body, start).filter(|_| !at(body, start).is_ascii_digit());
    let call = after.filter(|end| at(body, *end) == b'.').map(|end| skip(body, end + 1, 48, is_word));
    call.is_some_and(|end| at(body, end) == b'(') || (!everyday && is_shell(body, start))
}

/// Those of sorted words that begin with a byte.
fn beginning_with<'w>(words: &'w [&'w [u8]], first: u8) -> &'w [&'w [u8]] {
    let start = words.partition_point(|word| word.first() < Some(&first));
    let words = words.get(start..).unwrap_or_default();
    words.get(..words.partition_point(|word| word.first() == Some(&first))).unwrap_or_default()
}

/// The word with blanks allowed before its last parenthesis.
fn has_loose(body: &[u8], here: usize, known: &[u8]) -> bool {
    if has(body, here, known) {
        return true;
    }
    let Some((b'(', name)) = known.split_last() else { return false };
    let end = here + name.len();
    has(body, here, name) && is_blank(at(body, end)) && at(body, skip(body, end, 4, is_blank)) == b'('
}

/// A command between backticks is all there is.
fn is_shell(body: &[u8], start: usize) -> bool {
    at(body, start) == b'`' && find(body, start + 1, b'`').is_some()
}

/// An engine's root object, alone.
fn is_root(body: &[u8]) -> bool {
    let name = body.trim_ascii();
    [&b"self"[..], b"_self", b"request", b"config", b"_context", b"dump(app)", b"debug", b"settings"]
        .iter()
        .any(|root| name.eq_ignore_ascii_case(root))
}

/// `{${sleep(4)}}`, `${@print(4)}`, `{php}…{/php}`: PHP runs a call inside a string.
fn is_php(delimiter: &Delimiter, body: &[u8]) -> bool {
    if delimiter.open == b"{php}" {
        return !body.is_empty();
    }
    let nested = delimiter.open == b"{$" && at(body, 0) == b'{';
    let silenced = delimiter.open == b"${" && at(body, 0) == b'@';
    let name = usize::from(nested || silenced);
    let end = skip(body, name, 48, |byte| is_word(byte) || byte == b'@');
    (nested || silenced) && name < end && at(body, end) == b'('
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing;

    fn convicts(text: &str) -> bool {
        expression(&testing::query(text)).is_some()
    }

    #[test]
    fn every_delimiter_opens() {
        for known in DELIMITERS {
            for open in [known.open.to_ascii_uppercase(), known.open.to_vec()] {
                let found = delimiter(&open, 0).map(|(_, found)| found.open);
                assert!(found.is_some_and(|found| known.open.starts_with(found)), "{:?}", open.escape_ascii());
            }
        }
    }

    proptest! {
        #[test]
        fn closings_searched_once_are_those_searched_each_time(
            pieces in prop::collection::vec(prop::sample::select(vec!["}", "}}", "a", "x".repeat(300).leak(), "%>", "%"]), 0..24),
            steps in prop::collection::vec(0_usize..400, 1..12),
        ) {
            let text = pieces.concat();
            let bytes = text.as_bytes();
            for close in [&b"}"[..], b"}}", b"%>"] {
                let (mut closing, mut start) = (Closing::default(), 0);
                for step in &steps {
                    start += step;
                    let window = part(bytes, start, start + BODY_MAX);
                    let expected = window.windows(close.len()).position(|found| found == close);
                    prop_assert_eq!(closing.behind(bytes, start, close), expected, "{} {}", text, start);
                }
            }
        }
    }

    #[test]
    fn every_word_is_among_those_that_begin_like_it() {
        for words in [GADGETS, CALLS] {
            assert!(words.is_sorted());
            assert!(words.iter().all(|word| beginning_with(words, word[0]).contains(word)));
        }
        assert!(beginning_with(CALLS, b'x').is_empty());
    }

    proptest! {
        #[test]
        fn overlapping_bodies_read_once_say_what_they_say_read_each(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{{", "}}", "${", "}", "<%", "%>", "[[", "a", " ", ".", "exec", "(", "exec (", "self.", "_", "x".repeat(700).leak(),
                "__class", "__", "java.", "lang.", "@(", ")", "require", "config", "{$",
            ]), 0..24),
        ) {
            let text = pieces.concat();
            let candidate = testing::query(&text);
            prop_assert_eq!(expression(&candidate), search(&candidate, |read| *read = Read::default()), "{}", text);
        }
    }

    #[test]
    fn what_an_engine_would_evaluate_is_found() {
        for text in [
            "{{8*8}}",
            "a{{ 8 * '8' }}b",
            "${8*8}",
            "%{8*8}",
            "{{'/srv/x'|file_excerpt(1,9)}}",
            "#{ 8*8 }",
            "<%= 8 * 8 %>",
            "*{8+8}",
            "@(8*8)",
            "{{''.__class__}}",
            "{{ request | attr('x') }}{{request|attr('x')}}",
            "${T(java.lang.Runtime).getRuntime().exec('x')}",
            "${\"freemarker.template.utility.Execute\"?new()(\"x\")}",
            "<#assign x=\"freemarker.template.utility.Execute\"?new()>",
            "{% for a in config.items() %}{% endfor %}",
            "{{self}}",
            "{{'a'.toUpperCase()}}",
            "${self.module.cache.util.os.system('x')}",
            "{$smarty.version}",
            "{php}echo 4;{/php}",
            "{${sleep(4)}}",
            "${@print(4)}",
            "<%= `x` %>",
            "<%= system('x') %>",
            "#set($x=8*8)#set($e='')${e.getClass().forName('x')}",
            "{{['x']|filter('system')}}",
        ] {
            assert!(convicts(text), "{text}");
        }
    }

    #[test]
    fn templates_people_send_are_left_alone() {
        for text in [
            "Dear {{name}}, your order {{ order.id }} is ready",
            "{{#if paid}}Thank you{{/if}}",
            "{{ price | currency }} {{ 'KEY' | translate }}",
            "`${first} ${last}`",
            "`${a + b} of ${items.length}`",
            "${HOME}/bin:${PATH}",
            "<%= user.name %>",
            "{% if user %}hello{% endif %}",
            "menu={{ items }} onClick={(e) => e.preventDefault()}",
            "{{2024-01-01}} {{1/2}}",
            "color: #{$main}; @media (min-width: 4px)",
            "HTML#{\"COLOR\":\"#2A1100\"}",
            "{% $N|string_format:\"%d\" %}",
            "conda run {{[-n|--name]}} {{environment_name}}",
            "[[wiki link]] and [[4]]",
            "${{ github.event.number }}",
            "${project.version}",
            "%{name} of %{count}",
            "{50%{a}}",
        ] {
            assert!(!convicts(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}$#<%@(\\[\\]'\"=*a7 é.|)>]{0,80}") {
            prop_assert!(expression(&testing::query(&text)).is_none_or(|range| text.get(range).is_some()));
        }
    }
}
