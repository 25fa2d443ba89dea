//! A lexer for the union of the SQL dialects: one pass, no allocation, quotes left as marks for the recogniser.

use crate::detect::work;

/// What a token costs besides its bytes.
const TOKEN_COST: usize = 8;

/// What a token is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Past the last byte.
    End,
    /// `7`, `1.5`, `1e0`, `0x61`.
    Number,
    /// A keyword the recogniser knows, or [`Word::Name`].
    Word(Word),
    /// `@x`, `@@version`.
    Variable,
    /// One quotation mark: `'`, `"` or a backtick.
    Quote(u8),
    /// `(`
    Open,
    /// `)`
    Close,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `.`
    Dot,
    /// `=`, `<>`, `<=` and the like, `@>`, `->>`.
    Compare,
    /// `+`, `-`, `*`, `/`, `%`, `^`, `&`, `|`, `~`, `!`.
    Arithmetic(u8),
    /// `||`
    Concat,
    /// `&&`
    Both,
    /// `--` or `#`.
    LineComment,
    /// `/*` that is never closed.
    OpenComment,
    /// `*/` that was never opened.
    CloseComment,
    /// `::`
    Cast,
    /// Any other byte.
    Other(u8),
}

/// The words the recogniser tells apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Word {
    /// Anything else: a table, a column, a function, prose.
    Name,
    /// `or`, `and`, `xor`.
    Connective,
    /// `not`.
    Not,
    /// `like`, `rlike`, `regexp`, `ilike`, `glob`, `similar`.
    Like,
    /// `in`.
    In,
    /// `between`.
    Between,
    /// `is`, `isnull`, `notnull`.
    Is,
    /// `null`, `true`, `false`.
    Literal,
    /// `union`, `intersect`, `except`, `minus`.
    Union,
    /// `all`, `distinct`, `distinctrow`.
    All,
    /// `select`.
    Select,
    /// `from`.
    From,
    /// `where`.
    Where,
    /// `having`.
    Having,
    /// `order`, `group`.
    Order,
    /// `by`.
    By,
    /// `limit`, `offset`, `fetch`, `top`.
    Limit,
    /// `into`.
    Into,
    /// `case`.
    Case,
    /// `when`, `then`, `else`, `end`.
    Branch,
    /// `as`.
    As,
    /// `procedure`.
    Procedure,
    /// `insert`, `replace`, `merge`.
    Insert,
    /// `update`.
    Update,
    /// `delete`.
    Delete,
    /// `drop`, `alter`, `create`, `truncate`, `rename`, `grant`, `revoke`.
    Define,
    /// `exec`, `execute`, `call`.
    Execute,
    /// `declare`.
    Declare,
    /// `set`.
    Set,
    /// `values`.
    Values,
    /// `waitfor`.
    Waitfor,
    /// `shutdown`.
    Shutdown,
    /// `if`, `begin`.
    If,
    /// `desc`, `describe`, `show`, `use`, `explain`, `copy`, `attach`, `load`, `handler`, `prepare`, `do`, `backup`, `restore`.
    Command,
    /// `table`, `database`, `schema`, `user`, `index`, `view`, `function`, `login`, `column`, `trigger`, `role`.
    Object,
    /// `exists`, `any`, `some`.
    Quantifier,
    /// `div`, `mod`.
    Operator,
    /// `binary`, `collate`, `interval`, `prior`.
    Modifier,
    /// `join`, `cross`, `inner`, `left`, `natural`, `right`.
    Join,
}

/// A token and its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Blank or comment stood before it.
    pub(super) spaced: bool,
}

impl Token {
    pub(super) const fn is(self, word: Word) -> bool {
        matches!(self.kind, Kind::Word(found) if found as u8 == word as u8)
    }
}

/// A position in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexer<'t> {
    bytes: &'t [u8],
    pub(super) at: usize,
    /// `+` is a blank of a form that was not decoded.
    plus: bool,
}

/// A closed comment or string longer than this is not skipped as one.
const SKIP_MAX: usize = 512;

impl<'t> Lexer<'t> {
    pub(super) fn new(bytes: &'t [u8]) -> Self {
        Self { bytes, at: 0, plus: has_plus_blanks(bytes) }
    }

    /// The byte at `index`, or 0 past the end.
    pub(super) fn byte(&self, index: usize) -> u8 {
        self.bytes.get(index).copied().unwrap_or(0)
    }

    pub(super) fn slice(&self, start: usize, end: usize) -> &'t [u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The token after `self.at`, blanks and closed comments skipped.
    pub(super) fn next(&mut self) -> Token {
        let before = self.at;
        self.skip_blanks();
        let start = self.at;
        let spaced = before < start;
        let (kind, length) = self.lex(start);
        self.at = (start + length).min(self.bytes.len());
        work::read(TOKEN_COST + self.at - before);
        Token { kind, start, end: self.at, spaced }
    }

    /// The token after `self.at`; line comments are skipped up to their newline, as an interpreter would.
    pub(super) fn next_code(&mut self) -> Token {
        loop {
            let token = self.next();
            if token.kind != Kind::LineComment {
                return token;
            }
            match memchr::memchr(b'\n', self.slice(self.at, self.bytes.len().min(self.at + SKIP_MAX))) {
                Some(newline) => self.at += newline + 1,
                None => return token,
            }
        }
    }

    /// The same as [`Self::next_code`] without moving.
    pub(super) fn peek(&self) -> Token {
        let mut ahead = *self;
        ahead.next_code()
    }

    fn skip_blanks(&mut self) {
        loop {
            let width = blank_width(self.bytes, self.at);
            if 0 < width {
                self.at += width;
            } else if self.plus && self.byte(self.at) == b'+' && self.is_plus_blank() {
                self.at += 1;
            } else if self.byte(self.at) == b'/' && self.byte(self.at + 1) == b'*' {
                let Some(end) = self.comment_end() else { return };
                self.at = end;
            } else if self.byte(self.at) == b'*' && self.byte(self.at + 1) == b'/' && 2 < self.at {
                self.at += 2;
            } else {
                return;
            }
        }
    }

    /// A plus sign before or after a keyword that stands between operands.
    fn is_plus_blank(&self) -> bool {
        // No operand begins with these, so the plus sign before them is no operator.
        if matches!(
            self.byte(self.at + 1),
            b'=' | b'<' | b'>' | b'!' | b'|' | b'&' | b'-' | b'+' | b'*' | b'/' | b'#' | b')' | b';'
        ) {
            return true;
        }
        let after = word_length(self.bytes, self.at + 1);
        if is_infix(classify(self.slice(self.at + 1, self.at + 1 + after))) {
            return true;
        }
        let mut start = self.at;
        while 0 < start && self.at - start < 8 && self.byte(start - 1).is_ascii_alphabetic() {
            start -= 1;
        }
        is_infix(classify(self.slice(start, self.at)))
    }

    /// Where the block comment at `self.at` lets go of the text: after its end, or after the head of `/*!50000`.
    fn comment_end(&self) -> Option<usize> {
        let mut body = self.at + 2;
        if self.byte(body) == b'!' {
            body += 1;
            let digits_end = body + 6;
            while body < digits_end && self.byte(body).is_ascii_digit() {
                body += 1;
            }
            return Some(body);
        }
        let window = self.slice(body, self.bytes.len().min(body + SKIP_MAX));
        memchr::memmem::find(window, b"*/").map(|offset| body + offset + 2)
    }

    fn lex(&self, at: usize) -> (Kind, usize) {
        if self.bytes.len() <= at {
            return (Kind::End, 0);
        }
        let first = self.byte(at);
        match first {
            b'0'..=b'9' => (Kind::Number, self.number(at)),
            b'.' if self.byte(at + 1).is_ascii_digit() => (Kind::Number, self.number(at)),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => self.word(at),
            0x80.. => self.foreign(at),
            b'\'' | b'"' | b'`' => (Kind::Quote(first), 1),
            b'(' => (Kind::Open, 1),
            b')' => (Kind::Close, 1),
            b',' => (Kind::Comma, 1),
            b';' => (Kind::Semicolon, 1),
            b'.' => (Kind::Dot, 1),
            b'@' => self.at_sign(at),
            _ => self.sign(at, first),
        }
    }

    fn at_sign(&self, at: usize) -> (Kind, usize) {
        if self.byte(at + 1) == b'>' {
            return (Kind::Compare, 2);
        }
        let marks = if self.byte(at + 1) == b'@' { 2 } else { 1 };
        let name = word_length(self.bytes, at + marks);
        if name == 0 { (Kind::Other(b'@'), 1) } else { (Kind::Variable, marks + name) }
    }

    fn sign(&self, at: usize, first: u8) -> (Kind, usize) {
        let (second, third) = (self.byte(at + 1), self.byte(at + 2));
        match (first, second) {
            (b'-', b'-') => (Kind::LineComment, 2),
            (b'#', b'>') => (Kind::Compare, 2),
            (b'#', _) => (Kind::LineComment, 1),
            (b'/', b'*') => (Kind::OpenComment, 2),
            (b'*', b'/') => (Kind::CloseComment, 2),
            (b'|', b'|') => (Kind::Concat, 2),
            (b'&', b'&') => (Kind::Both, 2),
            (b':', b':') => (Kind::Cast, 2),
            (b'<', b'<') | (b'>', b'>') => (Kind::Arithmetic(first), 2),
            (b'<', b'=') if third == b'>' => (Kind::Compare, 3),
            (b'-', b'>') => (Kind::Compare, if third == b'>' { 3 } else { 2 }),
            (b'<', b'>' | b'=' | b'@') | (b'>' | b'!' | b'=' | b':', b'=') | (b'?', b'|' | b'&') => (Kind::Compare, 2),
            (b'=' | b'<' | b'>', _) => (Kind::Compare, 1),
            (b'+' | b'-' | b'*' | b'/' | b'%' | b'^' | b'&' | b'|' | b'~' | b'!', _) => (Kind::Arithmetic(first), 1),
            _ => (Kind::Other(first), 1),
        }
    }

    fn number(&self, at: usize) -> usize {
        let mut end = at;
        if self.byte(at) == b'0' && matches!(self.byte(at + 1), b'x' | b'X') {
            end += 2;
            while self.byte(end).is_ascii_hexdigit() {
                end += 1;
            }
            return end - at;
        }
        while matches!(self.byte(end), b'0'..=b'9' | b'.') {
            end += 1;
        }
        // `1e5`, and MySQL's `1.e` that glues to what follows.
        if matches!(self.byte(end), b'e' | b'E') && !self.byte(end + 1).is_ascii_alphabetic() {
            let mut digits = end + 1;
            if matches!(self.byte(digits), b'+' | b'-') && self.byte(digits + 1).is_ascii_digit() {
                digits += 1;
            }
            while self.byte(digits).is_ascii_digit() {
                digits += 1;
            }
            end = digits;
        }
        end - at
    }

    fn word(&self, at: usize) -> (Kind, usize) {
        let length = word_length(self.bytes, at);
        let word = classify(self.slice(at, at + length));
        if let Some(short) = self.digits_after_connective(at, length) {
            return (Kind::Word(Word::Connective), short);
        }
        if word != Word::Name || self.byte(at + length) != b'/' {
            return (Kind::Word(word), length);
        }
        match self.glued(at, length) {
            Some((whole, total)) => (Kind::Word(whole), total),
            None => (Kind::Word(word), length),
        }
    }

    /// `1or1=1`: the length of the connective that stands between operands without blanks.
    fn digits_after_connective(&self, at: usize, length: usize) -> Option<usize> {
        let before = at.checked_sub(1).map(|index| self.byte(index))?;
        if !matches!(before, b'0'..=b'9' | b'\'' | b'"' | b')') {
            return None;
        }
        let word = self.slice(at, at + length);
        let letters = word.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let digits = word.get(letters..)?;
        let connective = classify(word.get(..letters)?) == Word::Connective;
        (connective && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then_some(letters)
    }

    /// `UNI/**/ON`: empty comments inside a keyword, for interpreters behind a filter that strips them.
    fn glued(&self, at: usize, length: usize) -> Option<(Word, usize)> {
        let mut letters = [0_u8; 12];
        letters.get_mut(..length)?.copy_from_slice(self.slice(at, at + length));
        let (mut filled, mut end) = (length, at + length);
        while self.slice(end, end + 4) == b"/**/" {
            let more = word_length(self.bytes, end + 4);
            if more == 0 {
                return None;
            }
            letters.get_mut(filled..filled + more)?.copy_from_slice(self.slice(end + 4, end + 4 + more));
            filled += more;
            end += 4 + more;
            let word = classify(letters.get(..filled)?);
            if word != Word::Name {
                return Some((word, end - at));
            }
        }
        None
    }

    /// Bytes outside ASCII: typographic quotes stand for plain ones (best-fit mapping), the rest are words.
    fn foreign(&self, at: usize) -> (Kind, usize) {
        match self.slice(at, at + 3) {
            [0xE2, 0x80, 0x98 | 0x99 | 0xB2] => (Kind::Quote(b'\''), 3),
            [0xE2, 0x80, 0x9C | 0x9D | 0xB3] => (Kind::Quote(b'"'), 3),
            [0xE2, 0x80, 0x93 | 0x94] => (Kind::LineComment, 3),
            _ => (Kind::Word(Word::Name), word_length(self.bytes, at).max(1)),
        }
    }
}

/// True when the text has no blanks and a keyword between plus signs: `1+or+1=1`.
fn has_plus_blanks(bytes: &[u8]) -> bool {
    if memchr::memchr(b' ', bytes).is_some() {
        return false;
    }
    memchr::memchr_iter(b'+', bytes).any(|plus| {
        let length = word_length(bytes, plus + 1);
        let after = bytes.get(plus + 1 + length);
        let word = bytes.get(plus + 1..plus + 1 + length).unwrap_or_default();
        matches!(after, Some(b'+' | b'(')) && is_infix(classify(word))
    })
}

const fn is_infix(word: Word) -> bool {
    !matches!(
        word,
        Word::Name | Word::Literal | Word::Object | Word::Modifier | Word::Quantifier | Word::Command | Word::Branch
    )
}

/// Bytes of the blank at `at`: ASCII blanks and controls, no-break and typographic spaces.
fn blank_width(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at..) {
        Some([0..=b' ' | 0x7F, ..]) => 1,
        Some([0xC2, 0xA0 | 0x85, ..]) => 2,
        Some([0xE2, 0x80, 0x80..=0x8A | 0xA8 | 0xA9 | 0xAF, ..] | [0xE3, 0x80, 0x80, ..]) => 3,
        _ => 0,
    }
}

/// Bytes of the word at `at`, 0 when there is none.
fn word_length(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let mut length = 0;
    while let Some(&byte) = rest.get(length) {
        let inside = byte.is_ascii_alphanumeric()
            || byte == b'_'
            || byte == b'$'
            || (0x80 <= byte && blank_width(rest, length) == 0 && !is_typographic(rest, length));
        if !inside {
            break;
        }
        length += 1;
    }
    length
}

fn is_typographic(bytes: &[u8], at: usize) -> bool {
    matches!(bytes.get(at..), Some([0xE2, 0x80, 0x93..=0x9D | 0xB2 | 0xB3, ..]))
}

/// The keyword `word` is, in any case.
fn classify(word: &[u8]) -> Word {
    let mut lower = [0_u8; 12];
    let Some(room) = lower.get_mut(..word.len()) else { return Word::Name };
    room.copy_from_slice(word);
    room.make_ascii_lowercase();
    match &*room {
        b"or" | b"and" | b"xor" => Word::Connective,
        b"not" => Word::Not,
        b"like" | b"rlike" | b"regexp" | b"ilike" | b"glob" | b"similar" | b"sounds" | b"match" => Word::Like,
        b"in" => Word::In,
        b"between" => Word::Between,
        b"is" | b"isnull" | b"notnull" => Word::Is,
        b"null" | b"true" | b"false" => Word::Literal,
        b"union" | b"intersect" | b"except" | b"minus" => Word::Union,
        b"all" | b"distinct" | b"distinctrow" => Word::All,
        b"select" => Word::Select,
        b"from" => Word::From,
        b"where" => Word::Where,
        b"having" => Word::Having,
        b"order" | b"group" => Word::Order,
        b"by" => Word::By,
        b"limit" | b"offset" | b"fetch" | b"top" => Word::Limit,
        b"into" => Word::Into,
        b"case" => Word::Case,
        b"when" | b"then" | b"else" | b"end" => Word::Branch,
        b"as" => Word::As,
        b"procedure" => Word::Procedure,
        b"insert" | b"replace" | b"merge" => Word::Insert,
        b"update" => Word::Update,
        b"delete" => Word::Delete,
        b"drop" | b"alter" | b"create" | b"truncate" | b"rename" | b"grant" | b"revoke" => Word::Define,
        b"exec" | b"execute" | b"call" => Word::Execute,
        b"declare" => Word::Declare,
        b"set" => Word::Set,
        b"values" => Word::Values,
        b"waitfor" => Word::Waitfor,
        b"shutdown" => Word::Shutdown,
        b"if" | b"begin" => Word::If,
        b"desc" | b"describe" | b"show" | b"use" | b"explain" | b"copy" | b"attach" | b"load" | b"handler"
        | b"prepare" | b"do" | b"backup" | b"restore" => Word::Command,
        b"table" | b"database" | b"schema" | b"user" | b"index" | b"view" | b"function" | b"login" | b"column"
        | b"trigger" | b"role" | b"temporary" => Word::Object,
        b"exists" | b"any" | b"some" => Word::Quantifier,
        b"div" | b"mod" => Word::Operator,
        b"binary" | b"collate" | b"interval" | b"prior" => Word::Modifier,
        b"join" | b"cross" | b"inner" | b"left" | b"natural" | b"right" => Word::Join,
        _ => Word::Name,
    }
}
