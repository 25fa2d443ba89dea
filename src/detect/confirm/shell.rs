//! Command lines: what a POSIX shell, cmd.exe or PowerShell would start from a value.
//!
//! Words are read as a shell reads them (quotes, backslashes, carets, expansions that come out empty, `$IFS`, braces,
//! wildcards). A word in command position counts when it names a command and what follows looks like its arguments
//! rather than like a sentence.

mod commands;
mod talk;
mod words;

use std::cell::{LazyCell, OnceCell};
use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::path;
use crate::detect::confirm::scan::{at, find, has, is_blank, is_word, part, skip};
use crate::detect::confirm::shell::commands::{Rank, speaks_alone};
use crate::detect::confirm::shell::talk::Talk;
use crate::detect::confirm::shell::words::{Command, command, may_be_disguised, plain_words};
use crate::detect::work::Work;
use crate::detect::{Kind, Source};

/// What looking behind a separator costs, besides the bytes of what stands there.
const PLACE_COST: usize = 8;
/// What judging a command costs, besides the bytes of its name and arguments.
const COMMAND_COST: usize = 24;
/// What a byte of a command's name and of its arguments costs: they are read for several questions.
const ARGUMENT_COST: usize = 4;
/// Arguments are read up to this many bytes.
const ARGUMENT_BYTES_MAX: usize = 512;
/// What stands before a separator in its line is read up to this many bytes.
const CLAUSE_BYTES_MAX: usize = 128;
/// Longer values with many blanks are read as prose.
const PROSE_BYTES_MIN: usize = 160;

/// A command behind a separator, a line break or in a substitution.
pub(crate) fn separated_command(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    // Most values with a separator hold no command.
    let value = LazyCell::new(|| Value::of(candidate));
    let mut index = 0;
    loop {
        let (start, opener, next) = opening(text, index)?;
        index = next;
        if !candidate.work.take(PLACE_COST) {
            return None;
        }
        let command = command(text, next);
        if !candidate.work.goes_on() {
            return None;
        }
        let Some(command) = command else {
            if matches!(opener, Opener::Separator | Opener::Pipe) && hides_secret(text, next, candidate.work) {
                return Some(start..next);
            }
            continue;
        };
        let read = command.name_end - next + arguments(text, command.name_end).len();
        if !candidate.work.take(COMMAND_COST + ARGUMENT_COST * read) {
            return None;
        }
        if value.convicts(&Found { start, opener, command }) {
            return Some(start..command.name_end);
        }
    }
}

/// A value that is a command line from its first word.
pub(crate) fn whole_command(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let value = Value::of(candidate);
    if value.is_prose || candidate.context.source == Source::Path {
        return None;
    }
    let start = inside_quotes(text, candidate.value_start());
    let command = command(text, start)?;
    let arguments = arguments(text, command.name_end);
    let convicts = match evidence(&command, arguments) {
        Evidence::Lethal => true,
        Evidence::Shaped => command.is_disguised || starts_work(&command, arguments),
        Evidence::Nothing => command.is_by_path && candidate.context.kind != Kind::JsonLeaf,
        Evidence::Prose => false,
    };
    convicts.then_some(start..command.name_end)
}

/// Where a text starts that stands in quotation marks as a whole, escaped or not; `start` for any other.
fn inside_quotes(text: &[u8], start: usize) -> usize {
    let open = skip(text, start, 4, |byte| byte == b'\\');
    let quote = at(text, open);
    let is_quoted = matches!(quote, b'"' | b'\'') && text.trim_ascii_end().ends_with(&[quote]) && open + 1 < text.len();
    if is_quoted { open + 1 } else { start }
}

/// A program's own way to a shell: `system("id")`, `exec($_GET[…])`, with a command or a request's variable in it.
pub(crate) fn call_with_command(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let mut from = 0;
    loop {
        let open = find(text, from, b'(')?;
        from = open + 1;
        let start = name_before(text, open);
        if !runs_commands(part(text, start, open)) {
            continue;
        }
        if !candidate.work.take(COMMAND_COST) {
            return None;
        }
        let argument = skip(text, from, 16, |byte| is_blank(byte) || matches!(byte, b'[' | b'\\' | b'('));
        let starts = match at(text, argument) {
            b'$' => part(text, argument, argument + 12).windows(2).any(|pair| pair == b"$_"),
            b'"' | b'\'' | b'`' => command(text, argument + 1).is_some(),
            _ => [&b"base64_decode"[..], b"atob", b"str_rot13", b"gzinflate", b"hex2bin", b"unescape"]
                .iter()
                .any(|decoder| has(text, argument, decoder)),
        };
        if starts {
            return Some(start..argument);
        }
    }
}

/// What introduces a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Opener {
    /// `;`, `&&`, `||`
    Separator,
    /// `|`
    Pipe,
    /// `&`
    Ampersand,
    /// A line break.
    Line,
    /// A backtick, `$(`, `<(` or `>(`.
    Substitution,
}

/// A command and how it was come by.
struct Found {
    start: usize,
    opener: Opener,
    command: Command,
}

/// How what follows a command looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Evidence {
    /// Words of a sentence.
    Prose,
    /// No argument.
    Nothing,
    /// Options, paths, addresses, redirections.
    Shaped,
    /// A target or a trick that has no other use.
    Lethal,
}

/// The value as a whole.
struct Value<'a> {
    text: &'a [u8],
    is_prose: bool,
    /// Asked for once there is a command: most values hold none.
    talk: OnceCell<Talk>,
    /// Where the value itself starts; `None` where no text is expected.
    told_from: Option<usize>,
    first: usize,
}

impl<'a> Value<'a> {
    fn of(candidate: &'a Candidate<'_>) -> Self {
        let text = candidate.text.as_bytes();
        let blanks = text.iter().take(1024).filter(|byte| is_blank(**byte)).count();
        let is_prose = PROSE_BYTES_MIN < text.len() && text.len().min(1024) / 24 < blanks;
        let first = skip(text, candidate.value_start(), 16, |byte| {
            is_blank(byte) || matches!(byte, b'"' | b'\'' | b')' | b'}' | b']')
        });
        let told_from = match candidate.context.source {
            Source::Body => Some(candidate.value_start()),
            Source::Query | Source::Header | Source::Path | Source::Unknown => None,
        };
        Self { text, is_prose, talk: OnceCell::new(), told_from, first }
    }

    fn talk(&self) -> Talk {
        *self.talk.get_or_init(|| self.told_from.map_or(Talk::None, |from| Talk::of(self.text, from)))
    }

    /// The command at `start` is one that the text speaks of: it stands in a listing, continues a command line that is
    /// one before the separator, or has a line or a code span of its own amid sentences.
    fn is_quoted(&self, start: usize, opener: Opener, is_tight: bool) -> bool {
        match (self.talk(), opener) {
            (Talk::None, _) => false,
            (Talk::Code, Opener::Substitution) => self.is_fence(start) || self.is_code_span(start),
            (Talk::Sentences, Opener::Substitution) => self.is_code_span(start),
            (Talk::Code, _) => true,
            (Talk::Sentences, Opener::Line) => !is_tight && self.first < start,
            (Talk::Sentences, Opener::Separator | Opener::Pipe | Opener::Ampersand) => {
                self.is_in_code_span(start) || self.continues(start)
            }
        }
    }

    /// The last of three backticks.
    fn is_fence(&self, start: usize) -> bool {
        start.checked_sub(2).is_some_and(|first| part(self.text, first, start + 1) == b"```")
    }

    /// A pair of backticks with nothing glued to either side.
    fn is_code_span(&self, start: usize) -> bool {
        let is_free = |byte: u8| matches!(byte, 0 | b'.' | b',' | b'(' | b')' | b'?' | b'!') || is_blank(byte);
        let before = start.checked_sub(1).map_or(0, |index| at(self.text, index));
        let end = skip(self.text, start + 1, ARGUMENT_BYTES_MAX, |byte| !matches!(byte, b'`' | b'\n'));
        at(self.text, start) == b'`' && at(self.text, end) == b'`' && is_free(before) && is_free(at(self.text, end + 1))
    }

    /// The separator at `start` stands between two backticks of one line that nothing is glued to.
    fn is_in_code_span(&self, start: usize) -> bool {
        let from = start.saturating_sub(CLAUSE_BYTES_MAX);
        let line = part(self.text, from, start);
        let Some(offset) = memchr::memrchr2(b'`', b'\n', line) else { return false };
        self.is_code_span(from + offset)
    }

    /// The pipe at `start` parts an address from its label, as chats write links: `<https://host/path|label>`. To a shell
    /// the closing bracket wants a file, and there is none.
    fn is_label(&self, start: usize, name_end: usize) -> bool {
        let after = at(self.text, name_end + 1);
        let is_closed =
            at(self.text, name_end) == b'>' && (after == 0 || is_blank(after) || b".,:;!?)\"'<".contains(&after));
        let from = start.saturating_sub(CLAUSE_BYTES_MAX);
        let line = part(self.text, from, start);
        let opens = |byte: &u8| *byte == b'<' || is_blank(*byte);
        let Some(open) = line.iter().rposition(opens).map(|offset| from + offset) else { return false };
        let heads: [&[u8]; 6] = [b"https://", b"http://", b"mailto:", b"@", b"#", b"!"];
        is_closed && at(self.text, open) == b'<' && heads.iter().any(|head| has(self.text, open + 1, head))
    }

    /// A command with arguments stands before the separator at `start`, in its line.
    fn continues(&self, start: usize) -> bool {
        let from = start.saturating_sub(CLAUSE_BYTES_MAX);
        let clause = part(self.text, from, start);
        let ends = |byte: &u8| matches!(byte, b'\n' | b'`' | b';' | b'|' | b'&');
        let mut index = from + clause.iter().rposition(ends).map_or(0, |end| end + 1);
        while index < start {
            if let Some(command) = command(self.text, index).filter(|command| command.name_end <= start) {
                let arguments = arguments(self.text, command.name_end);
                if evidence(&command, arguments) == Evidence::Shaped {
                    return true;
                }
            }
            index = skip(self.text, index, CLAUSE_BYTES_MAX, |byte| !is_blank(byte)) + 1;
        }
        false
    }

    fn convicts(&self, found: &Found) -> bool {
        let Found { start, opener, command } = found;
        let arguments = arguments(self.text, command.name_end);
        let evidence = evidence(command, arguments);
        let stands_first = *start <= self.first;
        let is_glued = 0 < *start && !is_blank(at(self.text, *start - 1));
        let is_tight = self.is_tight(*start) && (*opener != Opener::Substitution || is_glued);
        match evidence {
            Evidence::Lethal => true,
            _ if *opener == Opener::Pipe && self.is_label(*start, command.name_end) => false,
            Evidence::Shaped if self.is_quoted(*start, *opener, is_tight) => false,
            Evidence::Nothing if self.talk() == Talk::Code && self.is_fence(*start) => false,
            // `;$(echo id)`: nobody quotes code right behind a separator.
            Evidence::Prose | Evidence::Nothing if *opener == Opener::Substitution && self.is_run(*start) => true,
            // `;echo word`, without blanks around the separator.
            Evidence::Prose if *opener == Opener::Separator && is_tight && is_glued => {
                matches!(command.name.bytes(), b"echo" | b"printf" | b"exec" | b"eval")
                    && !is_blank(at(self.text, start + 1))
            }
            // `; echo word;`: all there is, between two separators.
            Evidence::Prose if matches!(opener, Opener::Separator | Opener::Pipe) && stands_first => {
                let end = part(self.text, start + 1, self.text.len()).trim_ascii_end();
                matches!(command.name.bytes(), b"echo" | b"printf") && matches!(end.last(), Some(b';' | b'|' | b'&'))
            }
            Evidence::Prose => false,
            _ if self.is_prose => false,
            _ if command.is_disguised => true,
            Evidence::Shaped => match opener {
                Opener::Substitution => is_tight || stands_first,
                Opener::Line => stands_first || self.text.len() < PROSE_BYTES_MIN,
                _ => true,
            },
            Evidence::Nothing => self.convicts_alone(found, stands_first || self.follows_quote(*start), is_tight),
        }
    }

    /// A command without arguments.
    fn convicts_alone(&self, found: &Found, stands_first: bool, is_tight: bool) -> bool {
        let Found { opener, command, start } = found;
        if command.rank == Rank::Word && !command.is_by_path && !speaks_alone(command.name.bytes()) {
            return false;
        }
        let behind = skip(self.text, command.name_end, 8, is_blank);
        let rest = part(self.text, behind, self.text.len());
        match opener {
            // A table's cells and a list of alternatives look like pipes.
            Opener::Pipe => {
                let is_cell = at(rest, 0) == b'|' && at(rest, 1) != b'|' && rest.iter().any(|byte| is_word(*byte));
                let is_counted = 0 < *start
                    && part(self.text, self.first, *start).iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
                ((stands_first || is_counted) && !is_cell)
                    || is_tight
                        && (command.is_by_path || command.rank == Rank::Tool || matches!(at(rest, 0), b';' | b'&'))
            }
            Opener::Ampersand => stands_first || command.rank == Rank::Tool && is_tight,
            Opener::Substitution => {
                let is_whole = rest.len() <= 6 && (stands_first || is_tight || *start < 8);
                is_whole || is_tight && command.rank == Rank::Tool
            }
            Opener::Separator => {
                let is_listed = is_blank(at(self.text, start + 1)) && is_column(command.name.bytes());
                stands_first || is_tight && !is_listed || command.is_by_path
            }
            Opener::Line => {
                // A list of names, one a line, holds words but no tools; an address and a tool is no list.
                let before = part(self.text, self.first, *start).trim_ascii();
                let is_address = !before.is_empty() && before.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
                let is_hung_on = is_tight && (command.rank == Rank::Tool || is_address) && rest.len() <= 2;
                (stands_first || command.is_by_path || is_hung_on) && self.text.len() < PROSE_BYTES_MIN
            }
        }
    }

    /// A separator stands right before the substitution at `start`, behind something without blanks.
    fn is_run(&self, start: usize) -> bool {
        let before = start.checked_sub(1).map_or(0, |index| at(self.text, index));
        matches!(before, b';' | b'|' | b'&') && self.is_tight(start)
    }

    /// No blank stands before the opener: an identifier or an address that the command was hung onto.
    fn is_tight(&self, start: usize) -> bool {
        start <= 64 && !part(self.text, self.first, start).trim_ascii_end().iter().any(|byte| is_blank(*byte))
    }

    /// A quote or a bracket was closed right before the opener.
    fn follows_quote(&self, start: usize) -> bool {
        let mut index = start;
        while 0 < index && start - index < 4 && is_blank(at(self.text, index - 1)) {
            index -= 1;
        }
        0 < index && matches!(at(self.text, index - 1), b'"' | b'\'' | b')')
    }
}

/// Names of commands that lists of fields hold too: `name; date; users`.
fn is_column(name: &[u8]) -> bool {
    [&b"date"[..], b"groups", b"history", b"hostname", b"ip", b"last", b"net", b"set", b"users", b"who"].contains(&name)
}

/// Bytes that may begin an opener.
#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
static OPENERS: [bool; 256] = {
    let mut openers = [false; 256];
    let bytes = b";|&\n\r`$<>\\";
    let mut index = 0;
    while index < bytes.len() {
        openers[bytes[index] as usize] = true;
        index += 1;
    }
    openers
};

/// The next place from `from` on where a command could start: the opener's index, its kind, and where the command's text starts.
fn opening(text: &[u8], from: usize) -> Option<(usize, Opener, usize)> {
    let mut index = from;
    while let Some(offset) = text.get(index..).and_then(|rest| rest.iter().position(|byte| may_open(*byte))) {
        index += offset;
        let next = at(text, index + 1);
        let (opener, width) = match at(text, index) {
            b';' => (Opener::Separator, 1),
            b'|' if next == b'|' => (Opener::Separator, 2),
            b'&' if next == b'&' => (Opener::Separator, 2),
            b'|' => (Opener::Pipe, 1),
            b'&' => (Opener::Ampersand, 1),
            b'\r' if next == b'\n' => (Opener::Line, 2),
            b'\n' | b'\r' => (Opener::Line, 1),
            b'`' => (Opener::Substitution, 1),
            b'$' | b'<' | b'>' if next == b'(' => (Opener::Substitution, 2),
            b'\\' if matches!(next, b'n' | b'r') && starts_command(at(text, index + 2)) => (Opener::Line, 2),
            _ => {
                index += 1;
                continue;
            }
        };
        return Some((index, opener, index + width));
    }
    None
}

fn may_open(byte: u8) -> bool {
    OPENERS.get(usize::from(byte)).is_some_and(|opens| *opens)
}

fn starts_command(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'/'
}

/// The text behind a command's name up to the end of the simple command.
fn arguments(text: &[u8], from: usize) -> &[u8] {
    let mut quote = 0;
    let mut end = from;
    for byte in part(text, from, from + ARGUMENT_BYTES_MAX) {
        match byte {
            b'"' | b'\'' if quote == 0 => quote = *byte,
            b'"' | b'\'' if quote == *byte => quote = 0,
            b';' | b'|' | b'&' | b'\n' | b'`' | b')' if quote == 0 => break,
            _ => {}
        }
        end += 1;
    }
    part(text, from, end).trim_ascii()
}

/// Weighs what follows the command.
fn evidence(command: &Command, arguments: &[u8]) -> Evidence {
    if is_lethal(arguments) {
        return Evidence::Lethal;
    }
    // A quote or bracket that closes the surrounding text is no argument.
    let bare = arguments.iter().all(|byte| matches!(byte, b'"' | b'\'' | b'}' | b'\\' | b'#' | b'/' | b'*' | b'-' | 0));
    if arguments.is_empty() || bare && arguments.len() <= 3 {
        return Evidence::Nothing;
    }
    let first_end = skip(arguments, 0, arguments.len(), |byte| !is_blank(byte));
    let first = part(arguments, 0, first_end);
    let is_last = first_end == arguments.len();
    if command.is_disguised
        || is_shaped(first, is_last)
        || suits(command.name.bytes(), first)
        || is_redirected(arguments)
    {
        Evidence::Shaped
    } else {
        Evidence::Prose
    }
}

/// A line that names a secret file only once quotes and expansions are taken away.
fn hides_secret(text: &[u8], from: usize, work: &Work) -> bool {
    if !may_be_disguised(text, from) {
        return false;
    }
    let (plain, is_disguised) = plain_words(text, from);
    // Reading for secrets is paid for where it is done.
    work.take(plain.bytes().len())
        && is_disguised
        && path::names_secret(plain.bytes())
        && work.goes_on()
        && !path::names_secret(part(text, from, from + ARGUMENT_BYTES_MAX))
}

/// Targets and tricks with no other use.
fn is_lethal(arguments: &[u8]) -> bool {
    let any = |index: usize, tricks: &[&[u8]]| tricks.iter().any(|trick| has(arguments, index, trick));
    path::names_secret(arguments)
        || arguments.iter().enumerate().any(|(index, byte)| match byte {
            b'/' => any(index, &[b"/dev/tcp/", b"/dev/udp/"]),
            b'-' => any(index, &[b"-e /bin/", b"-e cmd", b"-c /bin/"]),
            b'<' => any(index, &[b"<?php", b"<?="]),
            b'\\' => any(index, &[b"\\repair\\sam", b"\\repair\\system"]),
            _ => false,
        })
}

/// True when an argument has a shape that words do not have.
fn is_shaped(first: &[u8], is_last: bool) -> bool {
    let second = at(first, 1);
    match at(first, 0) {
        b'-' => second.is_ascii_alphanumeric() || second == b'-' && at(first, 2).is_ascii_alphabetic(),
        b'/' => is_word(second) || matches!(second, b'?' | b'*' | b'.') || first.len() == 1 && is_last,
        b'.' => second == b'/' || second == b'.' && matches!(at(first, 2), b'/' | b'\\'),
        b'~' => second == b'/' || first.len() == 1,
        b'*' => is_last || second == b'.',
        b'$' => is_word(second) || matches!(second, b'{' | b'('),
        b'%' => first.len() > 2 && first.iter().skip(1).any(|byte| *byte == b'%'),
        b'\\' => second == b'\\' || is_word(second),
        // `</b` ends a tag.
        b'<' => second != b'/' && !first.contains(&b'>'),
        b'>' => true,
        byte if byte.is_ascii_alphabetic() && second == b':' => matches!(at(first, 2), b'\\' | b'/'),
        byte if byte.is_ascii_alphanumeric() => is_address(first) || is_last && is_file(first),
        _ => false,
    }
}

/// Output goes to a file: a sign, then a path or a name with an extension.
fn is_redirected(arguments: &[u8]) -> bool {
    let Some(sign) = memchr::memrchr(b'>', arguments) else { return false };
    let target = part(arguments, skip(arguments, sign + 1, 8, is_blank), arguments.len());
    1 < target.len() && !target.iter().any(|byte| is_blank(*byte)) && (at(target, 0) == b'/' || is_file(target))
}

/// An address with a scheme, or numbers and dots.
fn is_address(first: &[u8]) -> bool {
    memchr::memmem::find(first, b"://").is_some()
        || 7 <= first.len()
            && first.iter().filter(|byte| **byte == b'.').count() == 3
            && first.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
}

/// `name.ext`
fn is_file(first: &[u8]) -> bool {
    let Some(dot) = memchr::memrchr(b'.', first) else { return false };
    let extension = part(first, dot + 1, first.len());
    (1..=5).contains(&extension.len()) && extension.iter().all(u8::is_ascii_alphanumeric) && 0 < dot
}

/// True when the word suits this very command.
fn suits(name: &[u8], first: &[u8]) -> bool {
    let is_number = !first.is_empty() && first.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let is_quoted = matches!(at(first, 0), b'"' | b'\'');
    let is_one_of = |words: &[&[u8]]| words.iter().any(|word| first.eq_ignore_ascii_case(word));
    match name {
        b"sleep" | b"timeout" | b"kill" | b"ping" | b"head" | b"tail" | b"usleep" => is_number,
        b"ping6" | b"nslookup" | b"dig" | b"host" | b"wget" | b"curl" | b"nc" | b"ncat" | b"netcat" | b"telnet" => {
            is_host(first) || name == b"dig" && at(first, 0) == b'+' && at(first, 1).is_ascii_alphabetic()
        }
        b"socat" => first.contains(&b':'),
        b"powershell" | b"powershell.exe" | b"pwsh" => is_cmdlet(first),
        b"rundll32" | b"regsvr32" | b"mshta" => !is_quoted && !first.is_empty(),
        b"vssadmin" => is_one_of(&[b"list", b"delete", b"create", b"resize"]),
        b"echo" | b"printf" | b"perl" | b"php" | b"eval" | b"grep" => is_quoted || is_number && name == b"echo",
        b"net" => is_one_of(&[
            b"user",
            b"users",
            b"view",
            b"localgroup",
            b"group",
            b"share",
            b"use",
            b"start",
            b"stop",
            b"accounts",
            b"session",
        ]),
        b"reg" => is_one_of(&[b"add", b"query", b"delete", b"save", b"export"]),
        b"netsh" | b"wmic" | b"sc" | b"schtasks" => !is_quoted && first.len() < 16,
        // Modes are octal; a search begins at a directory; what follows is the applet.
        b"chmod" => (3..=4).contains(&first.len()) && first.iter().all(|byte| matches!(byte, b'0'..=b'7')),
        b"find" => is_quoted || matches!(first, b"/" | b"." | b"./"),
        b"ps" => is_one_of(&[b"aux", b"ax", b"axu", b"auxw", b"auxww"]),
        b"ssh" | b"scp" | b"rsync" => memchr::memchr(b'@', first).is_some_and(|sign| 0 < sign),
        b"openssl" => is_one_of(&[b"s_client", b"enc", b"req", b"rsa", b"x509", b"passwd", b"base64"]),
        b"busybox" => 2 <= first.len() && first.iter().all(u8::is_ascii_alphanumeric),
        b"cat" | b"less" | b"more" | b"tac" | b"nl" | b"type" => {
            // A question mark at the end ends a question.
            let asks = first.split_last().is_some_and(|(_, head)| head.contains(&b'?'));
            first.contains(&b'*') || asks && first.len() < 16
        }
        _ => false,
    }
}

/// `Get-Process`: a verb and a noun.
fn is_cmdlet(first: &[u8]) -> bool {
    let Some(hyphen) = memchr::memchr(b'-', first) else { return false };
    3 <= hyphen && 3 < first.len() - hyphen && first.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'-')
}

/// A host with a dot, a port or a variable in it.
fn is_host(first: &[u8]) -> bool {
    let inner = part(first, 1, first.len().saturating_sub(1));
    (inner.contains(&b'.') || inner.contains(&b':'))
        && first.iter().all(|byte| is_word(*byte) || matches!(byte, b'.' | b':' | b'-' | b'/' | b'@' | b'%'))
}

/// Command lines that are one by their own shape, with nothing before them.
fn starts_work(command: &Command, arguments: &[u8]) -> bool {
    let name = command.name.bytes();
    let first_end = skip(arguments, 0, arguments.len(), |byte| !is_blank(byte));
    let first = part(arguments, 0, first_end);
    let is_absolute = at(first, 0) == b'/' || at(first, 0) == b'%';
    match name {
        b"ls" | b"dir" | b"cat" | b"type" | b"more" | b"less" | b"head" | b"tail" | b"rm" | b"find" | b"del"
        | b"copy" | b"cp" | b"mv" => {
            let all_shaped =
                arguments.split(|byte| is_blank(*byte)).take(12).all(|word| word.is_empty() || is_shaped(word, true));
            at(first, 1) == b':' || all_shaped && (is_absolute || at(first, 0) == b'-') && arguments.len() < 96
        }
        b"net" | b"reg" | b"netsh" | b"schtasks" | b"wmic" => true,
        b"ipconfig" | b"ifconfig" | b"netstat" | b"uname" | b"systeminfo" => {
            matches!(at(first, 0), b'-' | b'/') && arguments.len() < 16
        }
        b"nc" | b"ncat" | b"netcat" | b"socat" => true,
        b"ping" => at(first, 0) == b'-' && arguments.len() < 64,
        b"wget" | b"curl" | b"fetch" | b"lwp-download" => {
            memchr::memmem::find(arguments, b"://").is_some() && arguments.len() < 200 && first_end == arguments.len()
        }
        b"bash" | b"sh" | b"zsh" | b"ksh" | b"cmd" | b"cmd.exe" | b"powershell" | b"powershell.exe" | b"pwsh" => {
            matches!(at(first, 0), b'-' | b'/') && first_end < arguments.len()
        }
        b"python" | b"python2" | b"python3" | b"perl" | b"ruby" | b"php" | b"node" => {
            matches!(first, b"-c" | b"-e" | b"-r" | b"-E") && matches!(at(arguments, first_end + 1), b'"' | b'\'')
        }
        b"chmod" | b"chown" | b"crontab" | b"certutil" | b"bitsadmin" | b"mshta" | b"rundll32" | b"regsvr32" => true,
        _ => command.is_by_path,
    }
}

/// Functions that hand their argument to a shell or an interpreter.
fn runs_commands(name: &[u8]) -> bool {
    [
        &b"system"[..],
        b"exec",
        b"shell_exec",
        b"passthru",
        b"popen",
        b"proc_open",
        b"pcntl_exec",
        b"execsync",
        b"spawnsync",
        b"spawn",
        b"execfile",
        b"execfilesync",
        b"eval",
        b"assert",
        b"wscript.shell",
        b"getoutput",
        b"check_output",
        b"expect_popen",
        b"shell",
        b"run",
    ]
    .iter()
    .any(|known| name.len() == known.len() && has(name, 0, known))
}

/// Where the name that ends at `end` starts.
fn name_before(text: &[u8], end: usize) -> usize {
    let mut start = end;
    while 0 < start && end - start < 20 && is_word(at(text, start - 1)) {
        start -= 1;
    }
    start
}

#[cfg(test)]
mod tests;
