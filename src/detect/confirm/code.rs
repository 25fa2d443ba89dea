//! Server-side code: calls that run something, written where a value belongs.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, has, is_blank, is_word, part, skip};

/// Longest function name.
const NAME_MAX: usize = 32;
/// How far a script is read after its opening tag.
const SCRIPT_MAX: usize = 2048;
/// Blanks read between two tokens.
const BLANKS_MAX: usize = 16;

/// Functions that only mean harm in a value.
const SURE: &[&[u8]] = &[
    b"base64_decode",
    b"call_user_func",
    b"call_user_func_array",
    b"create_function",
    b"file_get_contents",
    b"file_put_contents",
    b"fsockopen",
    b"gzinflate",
    b"highlight_file",
    b"mb_ereg_replace",
    b"move_uploaded_file",
    b"passthru",
    b"pcntl_exec",
    b"pfsockopen",
    b"phpinfo",
    b"php_uname",
    b"popen",
    b"posix_getpwuid",
    b"proc_open",
    b"readfile",
    b"register_shutdown_function",
    b"shell_exec",
    b"show_source",
    b"str_rot13",
    b"__import__",
];

/// Functions whose names people use too: their argument must be code's.
const EVERYDAY: &[&[u8]] = &[
    b"array_map",
    b"assert",
    b"eval",
    b"exec",
    b"execfile",
    b"include",
    b"include_once",
    b"ob_start",
    b"preg_replace",
    b"require",
    b"require_once",
    b"system",
    b"unlink",
    b"usort",
];

/// Functions that only print: scanners make them print the result of a call, or a variable.
const PRINTING: &[&[u8]] = &[b"die", b"echo", b"print", b"print_r", b"var_dump"];

/// Convicts a call of a function that runs code or commands: `;system('id')`, `phpinfo()`.
pub(super) fn call(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    memchr::memchr_iter(b'(', bytes).find_map(|open| {
        let end = bytes.get(..open)?.trim_ascii_end().len();
        let start = word_start(bytes, end);
        let name = part(bytes, start, end);
        let known = |table: &[&[u8]]| table.iter().any(|function| name.eq_ignore_ascii_case(function));
        let stands = match before(
            bytes.get(candidate.value_start()..).unwrap_or_default(),
            start.saturating_sub(candidate.value_start()),
        ) {
            Before::Start | Before::Separator => true,
            Before::Operand => known(SURE) && end == open,
            Before::Word => false,
        };
        let hostile = stands
            && ((known(SURE) && is_closed_or_argument(bytes, open))
                || (known(EVERYDAY) && is_code(bytes, open + 1))
                || (known(PRINTING) && is_code(bytes, open + 1) && !is_text(bytes, open + 1)));
        hostile.then_some(start..open + 1)
    })
}

/// Convicts a PHP script that runs something or takes orders from the request.
pub(super) fn php_script(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let bytes = candidate.text.as_bytes();
    // Scripts without an end overlap: what was read in vain, a name's length before its end excepted, is not read again.
    let mut read = 0;
    let has_shells = memchr::memchr(b'`', bytes).is_some();
    let ends = memchr::memmem::Finder::new(b"?>");
    // Where the next end is, as far as it is known: the one behind an earlier opening serves until it is passed.
    let mut end_at = None;
    memchr::memmem::find_iter(bytes, b"<?").find_map(|open| {
        if !has(bytes, open + 2, b"php") && at(bytes, open + 2) != b'=' {
            return None;
        }
        let end = match end_at {
            Some(end) if open <= end => end,
            _ => bytes.get(open..).and_then(|rest| ends.find(rest)).map_or(bytes.len(), |end| open + end),
        };
        end_at = Some(end);
        let script = part(bytes, open, (open + SCRIPT_MAX).min(end + 2));
        let fresh = usize::saturating_sub(read, open).saturating_sub(NAME_MAX);
        read = read.max(open + script.len());
        let news = script.get(fresh..).unwrap_or_default();
        let orders = memchr::memchr_iter(b'$', news).map(|dollar| fresh + dollar).any(|dollar| {
            [&b"$_get"[..], b"$_post", b"$_request", b"$_cookie", b"$_server", b"$_files", b"${"]
                .iter()
                .any(|global| has(script, dollar, global))
        });
        let calls = memchr::memchr_iter(b'(', news).map(|paren| fresh + paren).any(|paren| {
            let end = script.get(..paren).unwrap_or_default().trim_ascii_end().len();
            let name = part(script, word_start(script, end), end);
            SURE.iter().any(|function| name.eq_ignore_ascii_case(function))
                || [&b"system"[..], b"exec", b"eval", b"assert", b"md5", b"die", b"unlink"]
                    .iter()
                    .any(|function| name.eq_ignore_ascii_case(function))
        });
        let shells = has_shells
            && candidate.work.take(script.len() / 16)
            && memchr::memchr_iter(b'`', script).take(3).count() == 2;
        (orders || calls || shells).then(|| {
            let end = open + script.len();
            open..candidate.text.floor_char_boundary(end)
        })
    })
}

/// What stands before a name.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Before {
    /// The start of the value, or a blank there.
    Start,
    /// A sign that ends a statement, a string or an expression.
    Separator,
    /// A sign inside an expression.
    Operand,
    /// A word: prose, or a declaration.
    Word,
}

fn before(bytes: &[u8], start: usize) -> Before {
    let head = bytes.get(..start).unwrap_or_default().trim_ascii_end();
    match head.last() {
        None => Before::Start,
        Some(b';' | b'|' | b'&' | b'{' | b'@' | b'\'' | b'"' | b'$' | b'`' | b'}' | b'>' | b'<') => Before::Separator,
        Some(b'.' | b'-' | b':' | b'\\' | b'#') => Before::Word,
        Some(byte) if is_word(*byte) || 0x80 <= *byte => {
            let word = part(head, word_start(head, head.len()), head.len());
            let keyword =
                [&b"echo"[..], b"return", b"print", b"php"].iter().any(|known| word.eq_ignore_ascii_case(known));
            if keyword { Before::Operand } else { Before::Word }
        }
        Some(_) => Before::Operand,
    }
}

fn word_start(bytes: &[u8], end: usize) -> usize {
    let mut start = end;
    while 0 < start && end - start < NAME_MAX && is_word(at(bytes, start - 1)) {
        start -= 1;
    }
    start
}

/// `()` or an argument that code writes.
fn is_closed_or_argument(bytes: &[u8], open: usize) -> bool {
    let next = skip(bytes, open + 1, BLANKS_MAX, is_blank);
    at(bytes, next) == b')' || at(bytes, next).is_ascii_digit() || is_code(bytes, open + 1)
}

/// An argument that is a plain string.
fn is_text(bytes: &[u8], from: usize) -> bool {
    matches!(at(bytes, skip(bytes, from, BLANKS_MAX, is_blank)), b'\'' | b'"')
}

/// An argument that code writes: a string, a variable, a call.
fn is_code(bytes: &[u8], from: usize) -> bool {
    let next = skip(bytes, from, BLANKS_MAX, is_blank);
    match at(bytes, next) {
        b'\'' | b'"' | b'$' | b'`' | b'@' | b'\\' => true,
        byte if is_word(byte) => at(bytes, skip(bytes, next, NAME_MAX, |byte| is_word(byte) || byte == b'.')) == b'(',
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing;

    #[test]
    fn calls_are_found_where_code_would_run() {
        for (text, expected) in [
            ("system('x')", true),
            (";system(\"x\");", true),
            ("|| system('x');", true),
            ("phpinfo()", true),
            ("x';phpinfo();//", true),
            ("eval(base64_decode('eA=='))", true),
            ("{${phpinfo()}}", true),
            ("__import__('os')", true),
            ("print(md5(4))", true),
            ("echo shell_exec('x')", true),
            ("our system (new) works", false),
            ("the system('x') function", false),
            ("call phpinfo() to see the version", false),
            ("console.print('x')", false),
            ("exec (committee)", false),
            ("require(\"x\") is how modules load", true),
            ("print (two copies)", false),
        ] {
            assert_eq!(call(&testing::query(text)).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn scripts_are_found() {
        for (text, expected) in [
            ("<?php system($_GET['c']); ?>", true),
            ("<?=`x`?>", true),
            ("<?php eval('x');", true),
            ("<?php echo $title; ?>", false),
            ("<?php echo <?php eval ('x')", true),
            (&format!("<?php {} <?php {} system ('x')", "a ".repeat(500), "b ".repeat(600)), true),
            (&format!("<?php {}<?php x exec('x')", "a".repeat(2048 - 16)), true),
            (&format!("<?php {}<?php $_GET", "a".repeat(2048 - 14)), true),
            ("<?xml version=\"1.0\"?>", false),
        ] {
            assert_eq!(php_script(&testing::query(text)).is_some(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[<?php=($_GETsytem'`;.é ]{0,80}") {
            for confirm in [call, php_script] {
                prop_assert!(confirm(&testing::query(&text)).is_none_or(|range| text.get(range).is_some()));
            }
        }
    }
}
