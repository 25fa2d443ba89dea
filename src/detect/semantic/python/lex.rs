//! Python's tokens on one line of text.

/// One token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Token<'t> {
    /// An identifier.
    Name(&'t str),
    /// A keyword.
    Word(&'t str),
    Number,
    /// A string. `fields`: what an f-string holds between its quotes; empty for others.
    Text {
        is_bytes: bool,
        fields: &'t str,
    },
    /// An operator or a bracket.
    Sign(&'static str),
    /// The text is over.
    End,
    /// Nothing that Python knows.
    Bad,
}

const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// Longest first.
const SIGNS: [&str; 37] = [
    "...", "**", "//", "<<", ">>", "<=", ">=", "==", "!=", ":=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "@", "=",
    "+", "-", "*", "/", "%", "&", "|", "^", "~", "<", ">", "->", "<>", ";", "!", "$",
];

/// Signs that end an expression wherever they stand.
const FOREIGN: [&str; 15] =
    ["->", "<>", "+=", "-=", "*=", "/=", "%=", "@=", "&=", "|=", "^=", "**=", "//=", "<<=", ">>="];

/// Walks over a text; a copy of it can come back. The token ahead is read once, however often it is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    /// The next token, and where it ends.
    ahead: Option<(Token<'t>, usize)>,
}

impl<'t> Lexer<'t> {
    pub(super) const fn new(text: &'t str) -> Self {
        Self { text, at: 0, ahead: None }
    }

    /// Bytes read.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) fn peek(&mut self) -> Token<'t> {
        if let Some((token, _)) = self.ahead {
            return token;
        }
        let at = self.at;
        let token = self.read();
        self.ahead = Some((token, self.at));
        self.at = at;
        token
    }

    /// Steps over `sign` when it is next.
    pub(super) fn take(&mut self, sign: &'static str) -> bool {
        self.take_token(Token::Sign(sign))
    }

    /// Steps over the keyword `word` when it is next.
    pub(super) fn take_word(&mut self, word: &'static str) -> bool {
        self.take_token(Token::Word(word))
    }

    fn take_token(&mut self, wanted: Token<'static>) -> bool {
        let is_next = self.peek() == wanted;
        if is_next {
            self.next();
        }
        is_next
    }

    pub(super) fn next(&mut self) -> Token<'t> {
        match self.ahead.take() {
            Some((token, end)) => {
                self.at = end;
                token
            }
            None => self.read(),
        }
    }

    fn read(&mut self) -> Token<'t> {
        let rest = self.rest();
        let trimmed = rest.trim_start_matches([' ', '\t', '\u{c}']);
        self.at += rest.len() - trimmed.len();
        let Some(first) = trimmed.chars().next() else { return Token::End };
        if first == '#' {
            self.at = self.text.len();
            return Token::End;
        }
        let second = trimmed.as_bytes().get(1).copied().unwrap_or(0);
        if first.is_ascii_digit() || first == '.' && second.is_ascii_digit() {
            return self.number();
        }
        if first == '_' || first.is_alphabetic() {
            return self.word();
        }
        if matches!(first, '\'' | '"') {
            return self.string("");
        }
        self.sign()
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn sign(&mut self) -> Token<'t> {
        let rest = self.rest();
        if FOREIGN.iter().any(|sign| rest.starts_with(sign)) {
            return Token::Bad;
        }
        let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) else { return Token::Bad };
        self.at += sign.len();
        Token::Sign(sign)
    }

    fn word(&mut self) -> Token<'t> {
        let rest = self.rest();
        let end = rest.find(|char: char| char != '_' && !char.is_alphanumeric()).unwrap_or(rest.len());
        let (word, behind) = rest.split_at_checked(end).unwrap_or((rest, ""));
        self.at += end;
        let is_prefix =
            ["r", "b", "u", "f", "br", "rb", "fr", "rf"].iter().any(|known| word.eq_ignore_ascii_case(known));
        if is_prefix && behind.starts_with(['\'', '"']) {
            return self.string(word);
        }
        if KEYWORDS.contains(&word) { Token::Word(word) } else { Token::Name(word) }
    }

    /// A string whose prefix was read.
    fn string(&mut self, prefix: &str) -> Token<'t> {
        let has = |wanted: char| prefix.chars().any(|char| char.eq_ignore_ascii_case(&wanted));
        let (is_raw, is_bytes, is_formatted) = (has('r'), has('b'), has('f'));
        let rest = self.rest();
        let quote = rest.get(..1).unwrap_or_default();
        let triple = rest.get(..3).filter(|three| three.bytes().all(|byte| quote.as_bytes().first() == Some(&byte)));
        let mark = triple.unwrap_or(quote);
        let inside = rest.get(mark.len()..).unwrap_or_default();
        let Some(end) = end_of_string(inside, mark) else { return Token::Bad };
        let content = inside.get(..end).unwrap_or_default();
        self.at += mark.len() * 2 + end;
        let is_sound = (is_raw || escapes_are_whole(content, is_bytes)) && (!is_bytes || content.is_ascii());
        if !is_sound {
            return Token::Bad;
        }
        Token::Text { is_bytes, fields: if is_formatted { content } else { "" } }
    }

    fn number(&mut self) -> Token<'t> {
        let bytes = self.rest().as_bytes();
        let length = match bytes {
            [b'0', b'x' | b'X', ..] => based(bytes, |byte| byte.is_ascii_hexdigit()),
            [b'0', b'o' | b'O', ..] => based(bytes, |byte| matches!(byte, b'0'..=b'7')),
            [b'0', b'b' | b'B', ..] => based(bytes, |byte| matches!(byte, b'0' | b'1')),
            _ => decimal(bytes),
        };
        let Some(length) = length else { return Token::Bad };
        self.at += length;
        // A keyword may be glued to a number: `1if x else y`.
        let behind = self.rest();
        let glued = behind.chars().next().is_some_and(|char| char == '_' || char.is_alphanumeric());
        let is_keyword =
            ["and", "else", "for", "if", "in", "is", "not", "or"].iter().any(|word| behind.starts_with(word));
        if glued && !is_keyword { Token::Bad } else { Token::Number }
    }
}

/// Where the closing `mark` starts. A backslash takes the next character along, in raw strings too.
fn end_of_string(inside: &str, mark: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, char) in inside.char_indices() {
        if escaped {
            escaped = false;
        } else if char == '\\' {
            escaped = true;
        } else if char == '\n' && mark.len() == 1 {
            return None;
        } else if inside.get(index..).is_some_and(|rest| rest.starts_with(mark)) {
            return Some(index);
        }
    }
    None
}

/// Every escape that announces digits has them.
fn escapes_are_whole(content: &str, is_bytes: bool) -> bool {
    let bytes = content.as_bytes();
    let mut index = 0;
    while let Some(offset) = bytes.get(index..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        let kind = bytes.get(index + offset + 1).copied().unwrap_or(0);
        let digits = match kind {
            b'x' => 2,
            b'u' if !is_bytes => 4,
            b'U' if !is_bytes => 8,
            // Names of characters are not looked up.
            b'N' if !is_bytes => return false,
            _ => 0,
        };
        let start = index + offset + 2;
        let found = bytes.get(start..start + digits);
        if !found.is_some_and(|found| found.iter().all(u8::is_ascii_hexdigit)) {
            return false;
        }
        index = start;
    }
    true
}

/// The length of `0x`, `0o` or `0b` and digits with single underscores between.
fn based(bytes: &[u8], is_digit: impl Fn(u8) -> bool) -> Option<usize> {
    let start = 2 + usize::from(bytes.get(2) == Some(&b'_'));
    let length = digits(bytes, start, is_digit);
    (0 < length).then_some(start + length)
}

/// The length of a whole number, a fraction or a power of ten, with a `j` behind it or not.
fn decimal(bytes: &[u8]) -> Option<usize> {
    let plain = |from: usize| digits(bytes, from, |byte| byte.is_ascii_digit());
    let whole = plain(0);
    let mut end = whole;
    let mut is_whole = true;
    if bytes.get(end) == Some(&b'.') {
        end += 1;
        end += plain(end);
        is_whole = false;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let power = plain(end + 1 + sign);
        if 0 < power {
            end += 1 + sign + power;
            is_whole = false;
        }
    }
    if let Some(b'j' | b'J') = bytes.get(end) {
        end += 1;
        is_whole = false;
    }
    // `007` is no number, `000` is.
    let leads_with_zero = is_whole
        && bytes.first() == Some(&b'0')
        && bytes.get(..whole).is_some_and(|digits| digits.iter().any(|byte| matches!(byte, b'1'..=b'9')));
    (!leads_with_zero).then_some(end)
}

/// How far digits with single underscores between them go.
fn digits(bytes: &[u8], from: usize, is_digit: impl Fn(u8) -> bool) -> usize {
    let is_digit_at = |index: usize| bytes.get(index).is_some_and(|byte| is_digit(*byte));
    let mut end = from;
    while is_digit_at(end) || end != from && bytes.get(end) == Some(&b'_') && is_digit_at(end + 1) {
        end += 1;
    }
    end - from
}
