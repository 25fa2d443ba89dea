//! One word, and the command a word names, as a shell would read them.

use crate::detect::confirm::scan::{Folded, at, has, is_blank, is_word, part, skip};
use crate::detect::confirm::shell::commands::{self, Beginning, Rank};
use crate::detect::work;

/// A word is read up to this many bytes.
const WORD_BYTES_MAX: usize = 256;
/// Assignments and words such as `sudo` read over before the command.
const PREFIXES_MAX: usize = 4;

/// A command in command position.
#[derive(Clone, Copy)]
pub(crate) struct Command {
    /// Its name, lower case, without directory.
    pub(crate) name: Folded<32>,
    /// What the name says by itself.
    pub(crate) rank: Rank,
    /// Written with a directory of programs.
    pub(crate) is_by_path: bool,
    /// Written with quotes, escapes, expansions or wildcards inside.
    pub(crate) is_disguised: bool,
    /// Where its name ends in the text.
    pub(crate) name_end: usize,
}

/// One word.
struct Word {
    text: Folded<48>,
    is_split: bool,
    has_wildcard: bool,
    end: usize,
    /// Where the text behind it starts, when something other than a blank ends it: `$IFS`, or a comma in braces.
    argument: Option<usize>,
}

/// The command whose line starts at `from`.
pub(crate) fn command(text: &[u8], from: usize) -> Option<Command> {
    let mut index = from;
    let mut is_disguised = false;
    for _ in 0..PREFIXES_MAX {
        index = skip(text, index, 64, |byte| is_blank(byte) || matches!(byte, b'(' | b'!' | b'@' | b'|' | b'&' | b';'));
        if at(text, index) == b'$' && index_of_blank_trick(text, index).is_some() {
            index = index_of_blank_trick(text, index)?;
            is_disguised = true;
            continue;
        }
        if at(text, index) == b'{' {
            index += 1;
            index = skip(text, index, 4, is_blank);
        }
        if names_nothing(text, index) {
            return None;
        }
        let word = word(text, index)?;
        if word.end == index {
            return None;
        }
        let bytes = word.text.bytes();
        // `env` alone is a command of its own.
        let behind = skip(text, word.end, 8, is_blank);
        let is_last = matches!(at(text, behind), 0 | b';' | b'|' | b'&' | b'#' | b')' | b'`')
            || at(text, behind) == b'-' && takes_options(bytes);
        if is_assignment(bytes) || is_prefix(bytes) && !is_last {
            index = word.end;
            continue;
        }
        return named(text, index, &word, is_disguised);
    }
    None
}

/// True for a word that no command's name begins like, nor what stands before one, and that nothing is assigned to:
/// nearly every word of a text. [`word`] comes to the same end.
fn names_nothing(text: &[u8], start: usize) -> bool {
    let first = part(text, start, start + 3);
    let [one, two, three] = first else { return false };
    if !first.iter().all(u8::is_ascii_alphabetic) || commands::may_begin(*one, *two, *three) {
        return false;
    }
    at(text, skip(text, start, WORD_BYTES_MAX, is_word)) != b'='
}

/// The words from `from` on, as a shell would hand them over: quotes, escapes and empty expansions are gone. `true` when something was.
pub(crate) fn plain_words(text: &[u8], from: usize) -> (Folded<128>, bool) {
    let mut plain = Folded::new();
    let mut is_disguised = false;
    let mut index = from;
    let limit = text.len().min(from + WORD_BYTES_MAX);
    while index < limit {
        let byte = at(text, index);
        let mut width = 1;
        match byte {
            b';' | b'|' | b'&' | b'\n' => break,
            b'$' => match expansion(text, index) {
                Expansion::Blank(length) | Expansion::Empty(length) => {
                    is_disguised = true;
                    width = length;
                }
                Expansion::Slash(length) => {
                    is_disguised = true;
                    plain.push(b'/');
                    width = length;
                }
                Expansion::None => plain.push(byte),
            },
            b'\'' | b'"' | b'\\' | b'{' | b'}' => is_disguised |= is_word(at(text, index + 1)),
            byte => plain.push(byte),
        }
        index += width;
    }
    work::read(index - from);
    (plain, is_disguised)
}

/// False when [`plain_words`] certainly finds nothing disguised.
pub(crate) fn may_be_disguised(text: &[u8], from: usize) -> bool {
    let window = part(text, from, from + WORD_BYTES_MAX);
    let ends = |byte: u8| matches!(byte, b';' | b'|' | b'&' | b'\n');
    let first = window.iter().position(|byte| ends(*byte) || matches!(byte, b'$' | b'\'' | b'"' | b'\\' | b'{' | b'}'));
    work::read(first.unwrap_or(window.len()));
    first.and_then(|first| window.get(first)).is_some_and(|byte| !ends(*byte))
}

/// The command that a word names.
fn named(text: &[u8], start: usize, word: &Word, is_disguised: bool) -> Option<Command> {
    let bytes = word.text.bytes();
    let slash = memchr::memrchr(b'/', bytes);
    let mut name = Folded::<32>::of(slash.map_or(bytes, |slash| part(bytes, slash + 1, bytes.len())));
    let mut is_by_path = slash.is_some_and(|slash| names_program_directory(part(bytes, 0, slash + 1)));
    // cmd.exe separates directories by what a POSIX shell drops.
    let written = part(text, start, word.end);
    if let Some(backslash) = memchr::memrchr(b'\\', written)
        .filter(|_| at(written, 1) == b':' || written.starts_with(b"\\\\") || written.starts_with(b"%"))
    {
        name = Folded::of(part(written, backslash + 1, written.len()));
        is_by_path = true;
    } else if slash.is_some() && !is_by_path && !word.has_wildcard {
        return None;
    }
    if written.eq_ignore_ascii_case(b"%comspec%") {
        name = Folded::of(b"cmd.exe");
    }
    let mut is_disguised = is_disguised || word.is_split || word.argument.is_some();
    let rank = match commands::rank(name.bytes()) {
        Some(rank) => rank,
        None if word.has_wildcard && is_glob_command(bytes, name.bytes()) => {
            is_disguised = true;
            Rank::Tool
        }
        None => return None,
    };
    // `name=value` and `name:` are fields, `name(` is a call, `name.x` something else.
    let follows = at(text, word.end);
    if matches!(follows, b'=' | b':' | b'(' | b'[') && !is_disguised {
        return None;
    }
    Some(Command { name, rank, is_by_path, is_disguised, name_end: word.argument.unwrap_or(word.end) })
}

/// A path with wildcards whose last part names a command, in what could be a directory of programs.
fn is_glob_command(word: &[u8], name: &[u8]) -> bool {
    // The name of a path of Windows is read from the text, and may be longer than what was kept of the word.
    let Some(directory) = word.len().checked_sub(name.len()).and_then(|end| word.get(..end)) else { return false };
    let is_rooted = at(word, 0) == b'/' && 2 <= directory.iter().filter(|byte| **byte == b'/').count();
    let letters = name.iter().filter(|byte| byte.is_ascii_alphanumeric()).count();
    is_rooted && 1 <= letters && commands::glob_names_command(name)
}

/// `/bin/`, `/usr/bin/` and their kin, also with wildcards.
fn names_program_directory(directory: &[u8]) -> bool {
    [
        &b"/bin/"[..],
        b"/usr/bin/",
        b"/sbin/",
        b"/usr/sbin/",
        b"/usr/local/bin/",
        b"/usr/local/sbin/",
        b"/opt/bin/",
        b"usr/bin/",
        b"bin/",
        b"//bin/",
        b"/bin//",
        b"./",
        b"/usr//bin/",
        b"/usr/bin/X11/",
    ]
    .iter()
    .any(|known| commands::glob_matches(directory, known))
}

fn is_assignment(word: &[u8]) -> bool {
    let name = skip(word, 0, word.len(), is_word);
    0 < name && at(word, name) == b'=' && !at(word, 0).is_ascii_digit() && name + 1 < word.len()
}

fn is_prefix(word: &[u8]) -> bool {
    word == b"/usr/bin/env" || commands::PREFIXES.iter().any(|prefix| prefix.as_bytes() == word)
}

/// Prefixes with options that do something by themselves, or stand before the command: `sudo -l`, `xargs -I{} sh`.
fn takes_options(word: &[u8]) -> bool {
    matches!(word, b"sudo" | b"doas" | b"xargs")
}

/// Reads one word. Blanks, separators and closing brackets end it.
fn word(text: &[u8], from: usize) -> Option<Word> {
    let mut word = Word { text: Folded::new(), is_split: false, has_wildcard: false, end: from, argument: None };
    let in_braces = from > 0 && at(text, from - 1) == b'{';
    let limit = text.len().min(from + WORD_BYTES_MAX);
    let mut quote = 0;
    let mut index = from;
    let mut beginning = Beginning::of(part(text, from, from + 2));
    let mut is_value = false;
    while index < limit {
        let byte = at(text, index);
        let mut width = 1;
        if beginning.is_hopeless(word.text.bytes()) {
            // Nothing is called so: only an assignment may begin like this, and what it gives its value to is one word.
            beginning = Beginning::Open;
            let name_end = skip(text, index, limit - index, is_word);
            if at(text, name_end) != b'=' {
                break;
            }
        }
        // No name is that long; a value that is assigned may be.
        if word.text.is_full() && !is_value {
            is_value = is_assignment(word.text.bytes());
            if !is_value {
                break;
            }
        }
        match byte {
            b'\'' | b'"' if quote == byte => {
                quote = 0;
                word.is_split |= index > from + 1 && is_inside(text, index) && !word.text.bytes().is_empty();
            }
            b'\'' | b'"' if quote == 0 => {
                if !closes(text, index, limit) {
                    break;
                }
                quote = byte;
                word.is_split |= !word.text.bytes().is_empty() && is_inside(text, index);
            }
            // A line break that a program writes out ends the word too.
            b'\\'
                if matches!(at(text, index + 1), b'n' | b'r')
                    && !is_word(at(text, index + 2))
                    && at(text, index + 2) != b'.' =>
            {
                break;
            }
            b'\\' | b'^' if quote != b'\'' => {
                word.is_split |=
                    byte == b'^' && is_word(at(text, index + 1)) && is_word(at(text, index.wrapping_sub(1)))
                        || byte == b'\\'
                            && at(text, index + 1).is_ascii_alphabetic()
                            && at(text, index.wrapping_sub(1)).is_ascii_alphabetic();
            }
            b'$' if quote != b'\'' => match expansion(text, index) {
                Expansion::Blank(length) => {
                    word.argument = Some(index + length);
                    break;
                }
                Expansion::Empty(length) => {
                    word.is_split |= !word.text.bytes().is_empty() || is_word(at(text, index + length));
                    width = length;
                }
                Expansion::Slash(length) => {
                    word.is_split = true;
                    word.text.push(b'/');
                    width = length;
                }
                Expansion::None => break,
            },
            b',' if in_braces => {
                word.argument = Some(index + 1);
                break;
            }
            b'}' if in_braces => break,
            byte if quote == 0
                && (is_blank(byte)
                    || matches!(
                        byte,
                        b';' | b'|' | b'&' | b'`' | b'(' | b')' | b'<' | b'>' | b'=' | b':' | b',' | b'#'
                    )) =>
            {
                if byte == b'=' && is_assignable(word.text.bytes()) {
                    word.text.push(byte);
                } else if !(byte == b':' && index == from + 1) {
                    break;
                }
            }
            // A plus sign is a blank in a form that was not decoded.
            b'+' if quote == 0 && matches!(at(text, index + 1), b'/' | b'-') => break,
            b'?' | b'*' => {
                word.has_wildcard = true;
                word.text.push(byte);
            }
            byte => word.text.push(byte),
        }
        index += width;
    }
    work::read(index - from);
    word.end = index;
    Some(word)
}

fn is_assignable(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|byte| is_word(*byte)) && commands::rank(word).is_none()
}

/// A letter or slash follows: the quote stands inside a word.
fn is_inside(text: &[u8], index: usize) -> bool {
    let next = at(text, index + 1);
    is_word(next) || matches!(next, b'/' | b'\'' | b'"' | b'.')
}

/// The quote at `open` is closed within the word's reach, before any blank.
fn closes(text: &[u8], open: usize, limit: usize) -> bool {
    let quote = at(text, open);
    let end = skip(text, open + 1, limit.saturating_sub(open + 1), |byte| byte != quote && !is_blank(byte));
    at(text, end) == quote
}

/// What a `$` stands for.
enum Expansion {
    /// White space, as `$IFS`.
    Blank(usize),
    /// Nothing: an unset variable.
    Empty(usize),
    /// The slash that paths in the environment start with.
    Slash(usize),
    /// No expansion that can be told.
    None,
}

/// The bytes that stand for blanks at `index`.
fn index_of_blank_trick(text: &[u8], index: usize) -> Option<usize> {
    match expansion(text, index) {
        Expansion::Blank(length) | Expansion::Empty(length) => Some(index + length),
        _ => None,
    }
}

fn expansion(text: &[u8], index: usize) -> Expansion {
    let next = at(text, index + 1);
    if has(text, index, b"$ifs") && !is_word(at(text, index + 4)) {
        return Expansion::Blank(4);
    }
    if next == b'{' {
        let end = skip(text, index + 2, 48, |byte| byte != b'}' && !is_blank(byte));
        if at(text, end) != b'}' {
            return Expansion::None;
        }
        let length = end + 1 - index;
        let name_end = skip(text, index + 2, 32, is_word);
        let is_path = [&b"path"[..], b"home", b"pwd", b"shell", b"oldpwd"]
            .iter()
            .any(|name| has(text, index + 2, name) && name_end == index + 2 + name.len());
        return match at(text, name_end) {
            _ if has(text, index + 2, b"ifs") && name_end == index + 5 => Expansion::Blank(length),
            b':' if is_path && has(text, name_end, b":0:1") => Expansion::Slash(length),
            b'%' if is_path => Expansion::Slash(length),
            b'}' => Expansion::Empty(length),
            _ => Expansion::None,
        };
    }
    if matches!(next, b'@' | b'*' | b'!' | b'-' | b'\'' | b'"') || next.is_ascii_digit() {
        return Expansion::Empty(if matches!(next, b'\'' | b'"') { 1 } else { 2 });
    }
    let name_end = skip(text, index + 1, 24, is_word);
    if name_end == index + 1 { Expansion::None } else { Expansion::Empty(name_end - index) }
}
