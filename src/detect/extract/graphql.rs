//! GraphQL documents: what clients put into the strings and comments, not the query language itself.

use std::borrow::Cow;

use crate::detect::extract::sink::{Sink, Value};
use crate::detect::extract::{Flow, json};
use crate::detect::{Context, Kind, Lens, Source};

/// Where a document was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'h> {
    pub(super) source: Source,
    pub(super) kind: Kind,
    pub(super) name: &'h str,
    pub(super) lens: Lens<'h>,
}

/// One lexical token of a document.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Token<'t> {
    Name(&'t str),
    /// A string's content; whether it is a block string.
    String(&'t str, bool),
    Comment(&'t str),
    Number,
    Punctuator(u8),
}

/// True when the whole of `text` is an executable document: operations and fragments with balanced brackets and nothing
/// that the language does not know. Such a text cannot break out of a quote: it has only double quotes, in pairs.
pub(super) fn is_document(text: &str) -> bool {
    let starts = text.trim_start();
    if !["{", "query", "mutation", "subscription", "fragment", "#"].iter().any(|start| starts.starts_with(start)) {
        return false;
    }
    let mut lexer = Lexer { rest: text };
    let (mut depth, mut selections, mut definition) = (0usize, 0usize, false);
    let mut opened = false;
    loop {
        let token = lexer.next_token();
        // A brace opens a selection or an input object, and both begin with a name: JSON does not.
        if opened && !matches!(token, Ok(Some(Token::Name(_) | Token::Comment(_) | Token::Punctuator(b'.' | b'}')))) {
            return false;
        }
        opened = token == Ok(Some(Token::Punctuator(b'{'))) || (opened && matches!(token, Ok(Some(Token::Comment(_)))));
        match token {
            Ok(None) => return depth == 0 && 0 < selections && !definition,
            Err(Unknown) => return false,
            Ok(Some(Token::Comment(_))) => {}
            Ok(Some(Token::Punctuator(open @ (b'{' | b'(' | b'[')))) => {
                selections += usize::from(open == b'{' && depth == 0);
                depth += 1;
            }
            Ok(Some(Token::Punctuator(close @ (b'}' | b')' | b']')))) => {
                let Some(outer) = depth.checked_sub(1) else { return false };
                depth = outer;
                definition &= !(close == b'}' && depth == 0);
            }
            Ok(Some(token)) if depth == 0 && !definition => {
                let Token::Name("query" | "mutation" | "subscription" | "fragment") = token else { return false };
                definition = true;
            }
            Ok(Some(_)) => {}
        }
    }
}

/// Hands out the strings and comments of a document.
pub(super) fn walk(text: &str, holder: &Holder<'_>, sink: &mut Sink<'_>) -> Flow {
    let mut lexer = Lexer { rest: text };
    let mut resolved = String::new();
    let mut name = holder.name;
    while let Ok(Some(token)) = lexer.next_token() {
        let text = match token {
            Token::Name(argument) => {
                name = argument;
                continue;
            }
            Token::String(raw, false) if raw.contains('\\') => {
                resolved.clear();
                json::unescape(raw, &mut resolved);
                &resolved
            }
            Token::String(text, _) | Token::Comment(text) => text.trim(),
            Token::Number | Token::Punctuator(_) => continue,
        };
        let context = Context { source: holder.source, name: Cow::Borrowed(name), kind: holder.kind };
        sink.value(Value { context, text, lens: holder.lens })?;
    }
    Flow::Continue(())
}

/// Text that GraphQL does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Unknown;

struct Lexer<'t> {
    rest: &'t str,
}

impl<'t> Lexer<'t> {
    fn next_token(&mut self) -> Result<Option<Token<'t>>, Unknown> {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n', ',', '\u{FEFF}']);
        let Some(first) = text.bytes().next() else { return Ok(None) };
        let (token, length) = match first {
            b'!' | b'$' | b'&' | b'(' | b')' | b':' | b'=' | b'@' | b'[' | b']' | b'{' | b'|' | b'}' => {
                (Token::Punctuator(first), 1)
            }
            b'.' if text.starts_with("...") => (Token::Punctuator(first), 3),
            b'#' => {
                let length = text.find(['\n', '\r']).unwrap_or(text.len());
                (Token::Comment(text.get(1..length).unwrap_or_default()), length)
            }
            b'"' => string(text).ok_or(Unknown)?,
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
                let length = text.bytes().position(|byte| !is_part(&byte)).unwrap_or(text.len());
                (Token::Number, length)
            }
            _ => {
                let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                let length = text.bytes().position(|byte| !is_part(byte)).unwrap_or(text.len());
                if length == 0 {
                    return Err(Unknown);
                }
                (Token::Name(text.get(..length).unwrap_or_default()), length)
            }
        };
        self.rest = text.get(length..).unwrap_or_default();
        Ok(Some(token))
    }
}

/// The string `text` begins with, and its length with quotes.
fn string(text: &str) -> Option<(Token<'_>, usize)> {
    if let Some(block) = text.strip_prefix("\"\"\"") {
        let mut end = 0;
        loop {
            end += block.get(end..)?.find("\"\"\"")?;
            if !block.get(..end)?.ends_with('\\') {
                return Some((Token::String(block.get(..end)?, true), end + 6));
            }
            end += 3;
        }
    }
    let quoted = text.get(1..)?;
    let mut escaped = false;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            b'"' if !escaped => return Some((Token::String(quoted.get(..at)?, false), at + 2)),
            b'\n' | b'\r' => return None,
            _ => escaped = byte == b'\\' && !escaped,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_are_told_from_text() {
        for (text, expected) in [
            ("{ user { name } }", true),
            ("query Q($id: ID! = 1) @live { user(id: $id, tags: [\"a\"], at: {x: -1.5e3}) { ...F } }", true),
            ("fragment F on User { id }\nmutation { go(x: \"\"\"a \\\"\"\" b\"\"\") }", true),
            ("# note\nquery { a }", true),
            ("query", false),
            ("query Q", false),
            ("{ a", false),
            ("{ a }}", false),
            ("{ a } union select password from users", false),
            ("query { a(b: 'c') }", false),
            ("{ a } ; cat /etc/passwd", false),
            ("{\"$where\": \"sleep(1)\"}", false),
            ("{ a(b: \"open) }", false),
            ("querying is fun", false),
            ("select * from users", false),
            ("", false),
        ] {
            assert_eq!(is_document(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "[{}()\\[\\]\"\\\\#a$:. \n'\\PC]{0,60}") {
            is_document(&text);
        }
    }
}
