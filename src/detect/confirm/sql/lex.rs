//! A lexer for the union of the SQL dialects: one pass, no allocation, quotes left as marks for the recogniser.

use crate::detect::work;

/// What a token costs besides its bytes.
const TOKEN_COST: usize = 4;

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
        while let Some(byte) = self.bytes.get(self.at) {
            self.at = match byte {
                0..=b' ' | 0x7f => self.at + 1,
                0x80.. => match blank_width(self.bytes, self.at) {
                    0 => return,
                    width => self.at + width,
                },
                b'+' if self.plus && self.is_plus_blank() => self.at + 1,
                b'/' if self.byte(self.at + 1) == b'*' => match self.comment_end() {
                    Some(end) => end,
                    None => return,
                },
                b'*' if self.byte(self.at + 1) == b'/' && 2 < self.at => self.at + 2,
                _ => return,
            };
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

/// Bytes that are part of words.
#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
static IN_WORDS: [bool; 128] = {
    let mut inside = [false; 128];
    let mut byte = 0;
    while byte < inside.len() {
        inside[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'_' | b'$');
        byte += 1;
    }
    inside
};

/// Bytes of the word at `at`, 0 when there is none.
fn word_length(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let is_inside = |(at, byte): (usize, &u8)| match IN_WORDS.get(usize::from(*byte)) {
        Some(inside) => *inside,
        None => blank_width(rest, at) == 0 && !is_typographic(rest, at),
    };
    rest.iter().enumerate().position(|place| !is_inside(place)).unwrap_or(rest.len())
}

fn is_typographic(bytes: &[u8], at: usize) -> bool {
    matches!(bytes.get(at..), Some([0xE2, 0x80, 0x93..=0x9D | 0xB2 | 0xB3, ..]))
}

/// The keywords, lower case, sorted.
const KEYWORDS: &[(&[u8], Word)] = &[
    (b"all", Word::All),
    (b"alter", Word::Define),
    (b"and", Word::Connective),
    (b"any", Word::Quantifier),
    (b"as", Word::As),
    (b"attach", Word::Command),
    (b"backup", Word::Command),
    (b"begin", Word::If),
    (b"between", Word::Between),
    (b"binary", Word::Modifier),
    (b"by", Word::By),
    (b"call", Word::Execute),
    (b"case", Word::Case),
    (b"collate", Word::Modifier),
    (b"column", Word::Object),
    (b"copy", Word::Command),
    (b"create", Word::Define),
    (b"cross", Word::Join),
    (b"database", Word::Object),
    (b"declare", Word::Declare),
    (b"delete", Word::Delete),
    (b"desc", Word::Command),
    (b"describe", Word::Command),
    (b"distinct", Word::All),
    (b"distinctrow", Word::All),
    (b"div", Word::Operator),
    (b"do", Word::Command),
    (b"drop", Word::Define),
    (b"else", Word::Branch),
    (b"end", Word::Branch),
    (b"except", Word::Union),
    (b"exec", Word::Execute),
    (b"execute", Word::Execute),
    (b"exists", Word::Quantifier),
    (b"explain", Word::Command),
    (b"false", Word::Literal),
    (b"fetch", Word::Limit),
    (b"from", Word::From),
    (b"function", Word::Object),
    (b"glob", Word::Like),
    (b"grant", Word::Define),
    (b"group", Word::Order),
    (b"handler", Word::Command),
    (b"having", Word::Having),
    (b"if", Word::If),
    (b"ilike", Word::Like),
    (b"in", Word::In),
    (b"index", Word::Object),
    (b"inner", Word::Join),
    (b"insert", Word::Insert),
    (b"intersect", Word::Union),
    (b"interval", Word::Modifier),
    (b"into", Word::Into),
    (b"is", Word::Is),
    (b"isnull", Word::Is),
    (b"join", Word::Join),
    (b"left", Word::Join),
    (b"like", Word::Like),
    (b"limit", Word::Limit),
    (b"load", Word::Command),
    (b"login", Word::Object),
    (b"match", Word::Like),
    (b"merge", Word::Insert),
    (b"minus", Word::Union),
    (b"mod", Word::Operator),
    (b"natural", Word::Join),
    (b"not", Word::Not),
    (b"notnull", Word::Is),
    (b"null", Word::Literal),
    (b"offset", Word::Limit),
    (b"or", Word::Connective),
    (b"order", Word::Order),
    (b"prepare", Word::Command),
    (b"prior", Word::Modifier),
    (b"procedure", Word::Procedure),
    (b"regexp", Word::Like),
    (b"rename", Word::Define),
    (b"replace", Word::Insert),
    (b"restore", Word::Command),
    (b"revoke", Word::Define),
    (b"right", Word::Join),
    (b"rlike", Word::Like),
    (b"role", Word::Object),
    (b"schema", Word::Object),
    (b"select", Word::Select),
    (b"set", Word::Set),
    (b"show", Word::Command),
    (b"shutdown", Word::Shutdown),
    (b"similar", Word::Like),
    (b"some", Word::Quantifier),
    (b"sounds", Word::Like),
    (b"table", Word::Object),
    (b"temporary", Word::Object),
    (b"then", Word::Branch),
    (b"top", Word::Limit),
    (b"trigger", Word::Object),
    (b"true", Word::Literal),
    (b"truncate", Word::Define),
    (b"union", Word::Union),
    (b"update", Word::Update),
    (b"use", Word::Command),
    (b"user", Word::Object),
    (b"values", Word::Values),
    (b"view", Word::Object),
    (b"waitfor", Word::Waitfor),
    (b"when", Word::Branch),
    (b"where", Word::Where),
    (b"xor", Word::Connective),
];
/// Longest keyword.
const KEYWORD_MAX: usize = 11;

/// The keywords that begin with a letter.
#[derive(Clone, Copy)]
struct Initial {
    first: u8,
    end: u8,
    /// A bit for each length that they have.
    lengths: u16,
}

/// By the last five bits of the first letter.
static INITIALS: [Initial; 32] = initials();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const fn initials() -> [Initial; 32] {
    let mut initials = [Initial { first: 0, end: 0, lengths: 0 }; 32];
    let mut index = 0;
    while index < KEYWORDS.len() {
        let word = KEYWORDS[index].0;
        assert!(word.len() <= KEYWORD_MAX, "a keyword is longer than the longest");
        let initial = &mut initials[(word[0] & 31) as usize];
        if initial.lengths == 0 {
            initial.first = index as u8;
        }
        initial.end = index as u8 + 1;
        initial.lengths |= 1 << word.len();
        index += 1;
    }
    initials
}

/// The keyword `word` is, in any case.
fn classify(word: &[u8]) -> Word {
    let Some(initial) = word.first().and_then(|first| INITIALS.get(usize::from(first & 31))) else {
        return Word::Name;
    };
    if KEYWORD_MAX < word.len() || initial.lengths >> word.len() & 1 == 0 {
        return Word::Name;
    }
    let alike = KEYWORDS.get(usize::from(initial.first)..usize::from(initial.end)).unwrap_or_default();
    alike.iter().find(|(known, _)| word.eq_ignore_ascii_case(known)).map_or(Word::Name, |(_, word)| *word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_known_in_any_case_and_nothing_else_is() {
        assert!(KEYWORDS.is_sorted_by_key(|(word, _)| word));
        for (keyword, word) in KEYWORDS {
            assert_eq!(classify(keyword), *word);
            assert_eq!(classify(&keyword.to_ascii_uppercase()), *word);
            let odd: Vec<u8> = keyword.iter().map(|byte| byte & 31).collect();
            assert_eq!(classify(&odd), Word::Name, "bits alone do not make {keyword:?}");
        }
        for name in [&b""[..], b"o", b"orr", b"\x0fr", b"temporarily", b"distinctrows", b"$or", b"a"] {
            assert_eq!(classify(name), Word::Name, "{name:?}");
        }
    }
}
