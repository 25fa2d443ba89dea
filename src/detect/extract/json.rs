//! JSON text as a stream of tokens: tolerant, linear, never recursive, nothing built.
//!
//! Every string is reported whatever stands around it; how far the text keeps to the grammar is told at the end.

use smallvec::SmallVec;

/// How far a text keeps to JSON's grammar. Numbers Python accepts (`NaN`, `Infinity`) count as JSON.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(super) enum Soundness {
    /// Every strict parser accepts it.
    #[default]
    Strict,
    /// Comments, trailing commas, single quotes or bare keys: some parsers accept it.
    Lenient,
    /// Cut, or not JSON.
    Broken,
}

/// One token that carries meaning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Token<'t> {
    /// `{`.
    OpenObject,
    /// `[`.
    OpenArray,
    /// The end of the innermost container.
    Close,
    /// An object key, escapes not resolved.
    Key(Text<'t>),
    /// A string, escapes not resolved.
    String(Text<'t>),
    /// A number, boolean or null, as every parser reads it.
    Literal(&'t str),
}

/// What stands between two quotes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Text<'t> {
    /// As in the source.
    pub(super) raw: &'t str,
    /// True when it holds backslashes.
    pub(super) escaped: bool,
}

impl<'t> Text<'t> {
    /// The text with its escapes resolved, borrowed when there are none.
    pub(super) fn resolved<'s>(self, scratch: &'s mut String) -> &'s str
    where
        't: 's,
    {
        if !self.escaped {
            return self.raw;
        }
        scratch.clear();
        unescape(self.raw, scratch);
        scratch
    }
}

/// What may come next inside the innermost container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expect {
    /// A value, after a colon, a comma or at the start.
    Value,
    /// A value or the end, after `[`.
    ValueOrEnd,
    /// A key, after a comma.
    Key,
    /// A key or the end, after `{`.
    KeyOrEnd,
    /// A colon, after a key.
    Colon,
    /// A comma or the end, after a value.
    Comma,
}

/// The token stream of one text.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    objects: Bits,
    expect: Expect,
    soundness: Soundness,
    roots: usize,
    starts_with_container: bool,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            at: 0,
            objects: Bits::default(),
            expect: Expect::Value,
            soundness: Soundness::Strict,
            roots: 0,
            starts_with_container: false,
        }
    }

    /// Where the next token is looked for, in bytes.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// How sound the text was as far as it has been read.
    pub(super) const fn soundness(&self) -> Soundness {
        self.soundness
    }

    /// Values on the outermost level so far.
    pub(super) const fn roots(&self) -> usize {
        self.roots
    }

    /// True when the first value is an object or an array.
    pub(super) const fn starts_with_container(&self) -> bool {
        self.starts_with_container
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn worsen(&mut self, to: Soundness) {
        self.soundness = self.soundness.max(to);
    }

    fn open(&mut self, object: bool) {
        self.begin_value(true);
        self.at += 1;
        self.objects.push(object);
        self.expect = if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
    }

    /// Notes that a value begins here, and whether one may.
    fn begin_value(&mut self, container: bool) {
        if self.objects.len == 0 {
            self.roots += 1;
            self.starts_with_container |= self.roots == 1 && container;
        } else if !matches!(self.expect, Expect::Value | Expect::ValueOrEnd) {
            self.worsen(Soundness::Broken);
        }
        self.expect = Expect::Comma;
    }

    fn close(&mut self, object: bool) -> Option<Token<'t>> {
        self.at += 1;
        match self.expect {
            Expect::Comma | Expect::ValueOrEnd | Expect::KeyOrEnd => {}
            // A comma stood before; a colon did not.
            Expect::Key => self.worsen(Soundness::Lenient),
            Expect::Value if !object => self.worsen(Soundness::Lenient),
            Expect::Value | Expect::Colon => self.worsen(Soundness::Broken),
        }
        let Some(opened) = self.objects.pop() else {
            self.worsen(Soundness::Broken);
            return None;
        };
        if opened != object {
            self.worsen(Soundness::Broken);
        }
        self.expect = Expect::Comma;
        Some(Token::Close)
    }

    fn comma(&mut self) {
        self.at += 1;
        if self.expect != Expect::Comma || self.objects.len == 0 {
            self.worsen(Soundness::Broken);
        }
        self.expect = if self.objects.top() { Expect::Key } else { Expect::Value };
    }

    fn colon(&mut self) {
        self.at += 1;
        if self.expect != Expect::Colon {
            self.worsen(Soundness::Broken);
        }
        self.expect = Expect::Value;
    }

    /// True when a text that stands here is a key.
    fn is_key(&self) -> bool {
        self.objects.top() && !matches!(self.expect, Expect::Value | Expect::Colon)
    }

    fn key(&mut self, text: Text<'t>) -> Token<'t> {
        if self.expect == Expect::Comma {
            self.worsen(Soundness::Broken);
        }
        self.expect = Expect::Colon;
        Token::Key(text)
    }

    /// Skips blanks and comments. False at the end of the text.
    fn skip_blanks(&mut self) -> bool {
        loop {
            match self.peek() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                Some(b'/') if self.skip_comment() => self.worsen(Soundness::Lenient),
                Some(_) => return true,
                None => return false,
            }
        }
    }

    fn skip_comment(&mut self) -> bool {
        let rest = self.text.as_bytes().get(self.at + 1..).unwrap_or_default();
        let length = match rest {
            [b'/', line @ ..] => memchr::memchr(b'\n', line).unwrap_or(line.len()),
            [b'*', block @ ..] => match memchr::memmem::find(block, b"*/") {
                Some(end) => end + 2,
                None => {
                    self.worsen(Soundness::Broken);
                    block.len()
                }
            },
            _ => return false,
        };
        self.at += 2 + length;
        true
    }

    /// Reads a quoted text. An unclosed one reaches to the end.
    fn quoted(&mut self, quote: u8) -> Text<'t> {
        let start = self.at + 1;
        let mut escaped = false;
        let mut at = start;
        let end = loop {
            let rest = self.text.as_bytes().get(at..).unwrap_or_default();
            let Some((offset, byte)) = special(rest, quote) else {
                self.worsen(Soundness::Broken);
                break self.text.len();
            };
            at += offset;
            if byte == quote {
                break at;
            }
            if byte == b'\\' {
                escaped = true;
                at += self.check_escape(rest.get(offset + 1..).unwrap_or_default());
            } else {
                self.worsen(Soundness::Lenient);
                at += 1;
            }
        };
        self.at = (end + 1).min(self.text.len());
        Text { raw: self.text.get(start..end).unwrap_or_default(), escaped }
    }

    /// The length of the escape whose backslash `after` follows.
    fn check_escape(&mut self, after: &[u8]) -> usize {
        match after {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => 6,
            [byte, ..] if byte.is_ascii() => {
                self.worsen(Soundness::Lenient);
                2
            }
            _ => {
                self.worsen(Soundness::Lenient);
                1
            }
        }
    }

    /// Reads a bare word: a literal, a bare key, or junk (`None`).
    fn word(&mut self) -> Option<Token<'t>> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.bytes().position(is_delimiter).unwrap_or(rest.len()).max(1);
        // Delimiters are ASCII, so a word of one byte is a stray delimiter.
        let word = rest.get(..length).unwrap_or_default();
        self.at += length;
        if self.is_key() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')) {
            self.worsen(Soundness::Lenient);
            return Some(self.key(Text { raw: word, escaped: false }));
        }
        let soundness = literal(word);
        self.worsen(soundness);
        self.begin_value(false);
        match soundness {
            Soundness::Strict => Some(Token::Literal(word)),
            // A number to some parsers only (`0x1f`, `10.0.0.1`); what others make of it is text.
            Soundness::Lenient => Some(Token::String(Text { raw: word, escaped: false })),
            Soundness::Broken => None,
        }
    }
}

impl<'t> Iterator for Lexer<'t> {
    type Item = Token<'t>;

    fn next(&mut self) -> Option<Token<'t>> {
        while self.skip_blanks() {
            let token = match self.peek()? {
                b'{' => {
                    self.open(true);
                    Some(Token::OpenObject)
                }
                b'[' => {
                    self.open(false);
                    Some(Token::OpenArray)
                }
                close @ (b'}' | b']') => self.close(close == b'}'),
                b',' => {
                    self.comma();
                    None
                }
                b':' => {
                    self.colon();
                    None
                }
                quote @ (b'"' | b'\'') => {
                    if quote == b'\'' {
                        self.worsen(Soundness::Lenient);
                    }
                    let is_key = self.is_key();
                    let text = self.quoted(quote);
                    if is_key {
                        Some(self.key(text))
                    } else {
                        self.begin_value(false);
                        Some(Token::String(text))
                    }
                }
                _ => self.word(),
            };
            if token.is_some() {
                return token;
            }
        }
        if self.objects.len != 0 || self.roots == 0 {
            self.worsen(Soundness::Broken);
        }
        None
    }
}

/// True when `text` is one object or array, at worst with lenient spellings.
pub(super) fn is_document(text: &str) -> bool {
    let mut lexer = Lexer::new(text);
    while lexer.next().is_some() {
        if lexer.soundness == Soundness::Broken || 1 < lexer.roots {
            return false;
        }
    }
    lexer.soundness != Soundness::Broken && lexer.starts_with_container && lexer.roots == 1
}

/// Bytes looked at one by one before whole chunks are: most texts are shorter.
const SHORT: usize = 24;

/// The first byte of `bytes` that ends or interrupts a quoted text.
fn special(bytes: &[u8], quote: u8) -> Option<(usize, u8)> {
    let is_special = |byte: &u8| *byte == quote || *byte == b'\\' || *byte < b' ';
    if let Some(found) = bytes.iter().take(SHORT).enumerate().find(|(_, byte)| is_special(byte)) {
        return Some((found.0, *found.1));
    }
    let mut skipped = SHORT.min(bytes.len());
    // Sixteen at once without a branch per byte: the compiler makes vector code of it.
    let (chunks, _) = bytes.get(skipped..)?.as_chunks::<16>();
    for chunk in chunks {
        if chunk.iter().fold(false, |found, byte| found | is_special(byte)) {
            break;
        }
        skipped += 16;
    }
    let rest = bytes.get(skipped..)?;
    let offset = rest.iter().position(is_special)?;
    rest.get(offset).map(|byte| (skipped + offset, *byte))
}

#[inline]
const fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' | b'{' | b'}' | b'[' | b']' | b'"' | b'\'' | b'/')
}

fn literal(word: &str) -> Soundness {
    match word {
        "true" | "false" | "null" | "NaN" | "Infinity" | "-Infinity" => Soundness::Strict,
        _ if is_number(word.as_bytes()) => Soundness::Strict,
        _ if word.bytes().any(|byte| byte.is_ascii_digit())
            && word
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'x' | b'X' | b'+' | b'-' | b'.')) =>
        {
            Soundness::Lenient
        }
        _ => Soundness::Broken,
    }
}

fn is_number(word: &[u8]) -> bool {
    let rest = word.strip_prefix(b"-").unwrap_or(word);
    let rest = match rest {
        [b'0', rest @ ..] => rest,
        [b'1'..=b'9', ..] => skip_digits(rest),
        _ => return false,
    };
    let rest = match rest {
        [b'.', b'0'..=b'9', ..] => skip_digits(rest.get(1..).unwrap_or_default()),
        _ => rest,
    };
    match rest {
        [] => true,
        [b'e' | b'E', b'+' | b'-', digits @ ..] | [b'e' | b'E', digits @ ..] => {
            !digits.is_empty() && skip_digits(digits).is_empty()
        }
        _ => false,
    }
}

fn skip_digits(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    bytes.get(length..).unwrap_or_default()
}

/// Resolves the escapes of `raw`. A lone surrogate becomes U+FFFD; an escape JSON does not know loses its backslash,
/// except `\x41`, which is read as JavaScript reads it.
pub(super) fn unescape(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some((plain, tail)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = tail.chars();
        match chars.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                rest = unescape_unicode(tail, out);
                continue;
            }
            Some('x') => match hex_digits(tail, 1, 2).and_then(char::from_u32) {
                Some(char) => {
                    out.push(char);
                    rest = tail.get(3..).unwrap_or_default();
                    continue;
                }
                None => out.push('x'),
            },
            Some(char) => out.push(char),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
}

/// Resolves `uXXXX` at the start of `tail`, a surrogate pair included, and returns what follows.
fn unescape_unicode<'t>(tail: &'t str, out: &mut String) -> &'t str {
    let Some(unit) = hex_digits(tail, 1, 4) else {
        out.push('u');
        return tail.get(1..).unwrap_or_default();
    };
    let rest = tail.get(5..).unwrap_or_default();
    if let Some(char) = char::from_u32(unit) {
        out.push(char);
        return rest;
    }
    let low = rest.starts_with("\\u").then(|| hex_digits(rest, 2, 4)).flatten();
    let pair = low.filter(|low| (0xDC00..0xE000).contains(low) && unit < 0xDC00);
    match pair.and_then(|low| char::from_u32(0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00))) {
        Some(char) => {
            out.push(char);
            rest.get(6..).unwrap_or_default()
        }
        None => {
            out.push(char::REPLACEMENT_CHARACTER);
            rest
        }
    }
}

fn hex_digits(text: &str, start: usize, count: usize) -> Option<u32> {
    let digits = text.get(start..start + count)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// A stack of one bit per level: 262,144 levels take 32 KiB.
#[derive(Debug, Default)]
struct Bits {
    words: SmallVec<[u64; 4]>,
    len: usize,
}

impl Bits {
    fn push(&mut self, bit: bool) {
        let (word, shift) = (self.len / 64, self.len % 64);
        if self.words.len() <= word {
            self.words.push(0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word = *word & !(1 << shift) | u64::from(bit) << shift;
        }
        self.len += 1;
    }

    fn top(&self) -> bool {
        let Some(last) = self.len.checked_sub(1) else { return false };
        self.words.get(last / 64).is_some_and(|word| word >> (last % 64) & 1 == 1)
    }

    fn pop(&mut self) -> Option<bool> {
        let top = self.top();
        self.len = self.len.checked_sub(1)?;
        Some(top)
    }
}

#[cfg(test)]
mod tests;
