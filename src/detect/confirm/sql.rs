//! SQL that would run: a fragment that breaks out of its place, or carries on a statement it was put into.
//!
//! The text is read once, token by token; at each word that can carry an injection the recogniser reads ahead a
//! bounded number of tokens and asks what stands to the left: the start of the value, a string or parenthesis that the
//! value itself did not open, a number, or just prose.

mod expression;
mod lex;
mod statement;
mod words;

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::work::Work;
use expression::{Expression, Operand, expression};
use lex::{Kind, Lexer, Token, Word};

/// Convicts a value that holds an SQL fragment an interpreter would run.
pub(super) fn fragment(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let start = candidate.value_start();
    let found = Scan::new(candidate.text.as_bytes().get(start..)?, candidate.work).run()?;
    Some(found.start + start..found.end + start)
}

/// Bytes of weight behind a comment that still hides the rest of a statement.
const TAIL_MAX: usize = 16;

/// What stands to the left of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Left {
    /// Nothing.
    Start,
    /// The value left a string or a parenthesis that it had not opened.
    Broken,
    /// The value is a number up to here.
    Number,
    /// An apostrophe between letters, which may be a string's end.
    Apostrophe,
    /// A string or parenthesis that the value had opened itself.
    Closed,
    /// A comment.
    Comment,
    /// A word.
    Word,
    /// Anything else.
    Other,
}

impl Left {
    /// The value itself makes the next word an operator of somebody else's statement.
    const fn dangles(self) -> bool {
        matches!(self, Self::Start | Self::Broken | Self::Number)
    }
}

/// The walk over the text.
struct Scan<'t> {
    bytes: &'t [u8],
    lexer: Lexer<'t>,
    /// The last token that says something.
    last: Option<Token>,
    tokens: usize,
    /// Words that are not keywords, so far.
    names: usize,
    /// Quotation marks of each kind so far: `'` and `"`.
    marks: [usize; 2],
    depth: i32,
    broken: bool,
    /// Nothing but numbers and signs so far.
    is_numeric: bool,
    work: &'t Work,
}

impl<'t> Scan<'t> {
    fn new(bytes: &'t [u8], work: &'t Work) -> Self {
        Self {
            bytes,
            lexer: Lexer::new(bytes),
            last: None,
            tokens: 0,
            names: 0,
            marks: [0; 2],
            depth: 0,
            broken: false,
            is_numeric: true,
            work,
        }
    }

    fn run(mut self) -> Option<Range<usize>> {
        loop {
            let token = self.lexer.next();
            if token.kind == Kind::End || !self.work.goes_on() {
                return None;
            }
            let verdict = if self.tokens == 0 { self.whole(token) } else { None };
            if let Some(end) = verdict.or_else(|| self.convict(token)) {
                let start = self.last.map_or(token.start, |last| last.start.min(token.start));
                return Some(self.boundary(start)..self.boundary(end.max(token.end)));
            }
            self.pass(token);
        }
    }

    /// The nearest character boundary at or after `at`.
    fn boundary(&self, at: usize) -> usize {
        let mut at = at.min(self.bytes.len());
        while self.bytes.get(at).is_some_and(|byte| byte & 0xC0 == 0x80) {
            at += 1;
        }
        at
    }

    /// Remembers a token.
    fn pass(&mut self, token: Token) {
        match token.kind {
            Kind::Quote(mark @ (b'\'' | b'"')) if !self.is_apostrophe(token) => {
                let slot = if mark == b'\'' { &mut self.marks[0] } else { &mut self.marks[1] };
                *slot += 1;
                self.broken = *slot % 2 == 1;
            }
            Kind::Open => self.depth += 1,
            Kind::Close => {
                self.depth -= 1;
                if self.depth < 0 {
                    (self.depth, self.broken) = (0, true);
                }
            }
            Kind::Word(Word::Name) => self.names += 1,
            // A plus sign is a blank in a form that was not decoded.
            Kind::Arithmetic(b'+') => return,
            _ => {}
        }
        self.is_numeric &= matches!(token.kind, Kind::Number | Kind::Arithmetic(_)) && self.tokens < 4;
        self.tokens += 1;
        self.last = Some(token);
    }

    /// A single mark with a letter on both sides.
    fn is_apostrophe(&self, token: Token) -> bool {
        token.kind == Kind::Quote(b'\'') && self.is_decade(token.end)
            || token.kind == Kind::Quote(b'\'')
                && token.start.checked_sub(1).is_some_and(|before| is_letter(self.lexer.byte(before)))
                && is_letter(self.lexer.byte(token.end))
    }

    /// `80s`, as behind the mark in `the '80s`.
    fn is_decade(&self, at: usize) -> bool {
        let [ten, one, s, next] = [0, 1, 2, 3].map(|offset| self.lexer.byte(at + offset));
        ten.is_ascii_digit() && one == b'0' && s == b's' && !next.is_ascii_alphanumeric() && next != b'\''
    }

    fn left(&self) -> Left {
        let Some(last) = self.last else { return Left::Start };
        match last.kind {
            Kind::Quote(_) if self.is_apostrophe(last) => Left::Apostrophe,
            Kind::Quote(_) | Kind::Close if self.broken => Left::Broken,
            Kind::Quote(_) | Kind::Close => Left::Closed,
            Kind::Number | Kind::Arithmetic(_) if self.is_numeric => Left::Number,
            Kind::Number | Kind::Arithmetic(b'%') if self.broken => Left::Broken,
            Kind::LineComment | Kind::CloseComment => Left::Comment,
            Kind::Word(Word::Name) if self.broken && self.names <= 1 => Left::Broken,
            Kind::Word(_) => Left::Word,
            _ => Left::Other,
        }
    }

    const fn last_kind(&self) -> Option<Kind> {
        match self.last {
            Some(token) => Some(token.kind),
            None => None,
        }
    }

    const fn is_broken(&self) -> bool {
        self.broken
    }

    /// The end of the hostile fragment that begins at `token`.
    fn convict(&self, token: Token) -> Option<usize> {
        let mut ahead = self.lexer;
        if is_split(token, self.bytes) {
            return Some(token.end);
        }
        let verdict = match token.kind {
            Kind::Word(Word::Case) => self.case(&mut ahead),
            Kind::Word(Word::Connective) | Kind::Both | Kind::Concat => self.connective(token, &mut ahead),
            Kind::Word(Word::Where | Word::Having) => self.condition(&mut ahead),
            Kind::Word(Word::Like | Word::In | Word::Between) => self.comparison(&mut ahead),
            Kind::Word(Word::Union) => self.union(&mut ahead),
            Kind::Word(Word::Select) => self.select(&mut ahead),
            Kind::Word(Word::Order) => self.order(&mut ahead),
            Kind::Word(Word::Procedure) => self.procedure(&mut ahead),
            Kind::Word(Word::Into) => self.outfile(&mut ahead),
            Kind::Semicolon => self.stacked(&mut ahead),
            Kind::Quote(mark) => self.quote(token, mark, &mut ahead),
            Kind::CloseComment => self.reopened(token, &mut ahead),
            Kind::Word(word) => self.word(token, word, &mut ahead),
            _ => None,
        };
        // Paid for when it is known: one look ahead is bounded by itself.
        verdict.filter(|_| self.work.goes_on())
    }

    /// The whole value is one expression: `chr(65)||chr(66)`, `((1))--`.
    fn whole(&self, token: Token) -> Option<usize> {
        let begins = matches!(token.kind, Kind::Open | Kind::Variable | Kind::Number);
        if !begins && !matches!(token.kind, Kind::Word(Word::Name | Word::Object | Word::Modifier)) {
            return None;
        }
        let mut ahead = self.lexer;
        ahead.at = token.start;
        let found = expression(&mut ahead)?;
        let strongest = found.strongest();
        let role = words::role(self.lexer.slice(token.start, token.end));
        let computes = 0 < found.operators && found.next.kind == Kind::OpenComment;
        let wrapped = token.kind != Kind::Number && (begins || token.kind != Kind::Word(Word::Name));
        let hidden = found.is_commented() && (strongest.is_technical() || wrapped || computes);
        let nested = 0 < found.operators || found.right.is_some() || role != words::Role::Fact;
        let asks = strongest == Operand::Fact && found.next.kind == Kind::End && nested;
        (hidden && self.cut(found.next).is_some() || asks).then_some(found.end)
    }

    /// A word in quotation marks of its own, amid other words: `the 'or' operator`.
    fn is_quoted_word(&self, token: Token) -> bool {
        let Some(Token { kind: Kind::Quote(mark), spaced, end, .. }) = self.last else { return false };
        let is_closed = end == token.start && self.lexer.byte(token.end) == mark;
        is_closed && spaced && 0 < self.names && matches!(self.lexer.byte(token.end + 1), b' ' | b',' | b'.' | b';')
    }

    /// `or 1=1`, `and sleep(5)`, `|| (select ...)`.
    fn connective(&self, token: Token, ahead: &mut Lexer<'t>) -> Option<usize> {
        if self.is_quoted_word(token) {
            return None;
        }
        let left = self.left();
        let found = expression(ahead)?;
        let hostile = match found.right {
            _ if found.strongest() == Operand::Probe => !matches!(left, Left::Word) || found.is_commented(),
            Some(_) if found.same && found.is_terminated() => true,
            Some(right) if found.left.is_constant() && right.is_constant() => {
                left.dangles() || matches!(left, Left::Comment | Left::Apostrophe) || found.is_commented()
            }
            Some(_) if found.strongest() == Operand::Subselect => left != Left::Word,
            Some(_) => {
                left.dangles() && (left != Left::Start || found.strongest().is_technical() || found.is_terminated())
            }
            None => self.lone(left, &found),
        };
        hostile.then_some(found.end)
    }

    /// An operand after `or` that is not compared with anything.
    fn lone(&self, left: Left, found: &Expression) -> bool {
        let plain = found.left.is_constant() || found.left.is_technical();
        match left {
            Left::Broken => {
                (plain && found.is_terminated() && (self.names <= 2 || found.is_commented()))
                    || (found.is_commented() && self.names <= 2)
            }
            Left::Start | Left::Number => {
                (plain && found.is_commented())
                    || matches!(found.left, Operand::Subselect | Operand::Case)
                    || (found.left == Operand::Fact && found.is_terminated())
                    || (found.left == Operand::Literal && found.next.kind == Kind::End)
                    || (left == Left::Number && plain && (found.next.is(Word::Order) || self.hides_tail()))
            }
            Left::Apostrophe => found.left == Operand::Text && found.is_terminated(),
            Left::Closed | Left::Comment | Left::Other => {
                found.left == Operand::Subselect || (plain && self.names <= 1 && self.hides_tail())
            }
            Left::Word => false,
        }
    }

    /// The value ends in a comment that would hide the rest of the statement.
    fn hides_tail(&self) -> bool {
        let text = self.bytes.trim_ascii_end();
        text.ends_with(b"--") || text.ends_with(b"#") || text.ends_with(b"/*")
    }

    /// `case when 1=1 then`.
    fn case(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let when = ahead.next_code();
        if !when.is(Word::Branch) {
            return None;
        }
        let found = expression(ahead)?;
        let constants = found.left.is_constant() && found.right.is_some_and(Operand::is_constant);
        let hostile = constants || found.strongest() == Operand::Probe || found.strongest() == Operand::Subselect;
        (hostile && found.next.is(Word::Branch)).then_some(found.end)
    }

    /// `where 1=1`, `having 1=1`.
    fn condition(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let found = expression(ahead)?;
        let right = found.right?;
        let constants = found.left.is_constant() && right.is_constant();
        let hostile = found.strongest() == Operand::Probe
            || (constants && (found.same || self.left().dangles() || self.broken))
            || (self.left().dangles() && (found.strongest().is_technical() || found.is_commented()));
        hostile.then_some(found.end)
    }

    /// `rlike (select ...)`, `like '%`, `in (select ...)` after a broken string or a number.
    fn comparison(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let left = self.left();
        if !matches!(left, Left::Broken | Left::Number) {
            return None;
        }
        let found = expression(ahead)?;
        let hostile = matches!(found.strongest(), Operand::Probe | Operand::Subselect | Operand::Case)
            || (self.names <= 1 && found.open_text != 0)
            || (found.right.is_none() && found.left.is_constant() && found.is_commented());
        hostile.then_some(found.end)
    }

    /// A mark that ends the application's string: `admin'--`, `'||'`, `'+sleep(1)+'`.
    fn quote(&self, token: Token, mark: u8, ahead: &mut Lexer<'t>) -> Option<usize> {
        let open = match mark {
            b'\'' => self.marks[0],
            b'"' => self.marks[1],
            _ => return None,
        } % 2
            == 1;
        if open || 2 < self.names || self.is_apostrophe(token) {
            return None;
        }
        let after_sign = matches!(self.last_kind(), Some(Kind::Compare | Kind::Comma | Kind::Open | Kind::Other(_)));
        let mut next = ahead.next();
        for _ in 0..16 {
            if next.kind != Kind::Close && next.kind != Kind::Semicolon {
                break;
            }
            next = ahead.next();
        }
        match next.kind {
            Kind::LineComment | Kind::OpenComment if !after_sign => self.cut(next),
            Kind::Arithmetic(_) | Kind::Compare | Kind::Concat | Kind::Both | Kind::Word(Word::Operator) => {
                self.glued(token, mark, ahead)
            }
            _ => None,
        }
    }

    /// A comment right after a broken string hides the rest of the statement; nothing of weight follows it.
    fn cut(&self, comment: Token) -> Option<usize> {
        let rest = self.bytes.get(comment.end..).unwrap_or_default();
        let weighty = rest.iter().filter(|byte| !matches!(byte, 0..=b' ' | b'-' | b'+' | b'*' | b'/' | b'#'));
        // More than these few are not told apart.
        let tail = weighty.take(TAIL_MAX + 1).count();
        let dashed = self.lexer.byte(comment.start) != b'#' && comment.kind == Kind::LineComment;
        let hidden = tail == 0 || (tail <= TAIL_MAX && dashed && rest.first().is_some_and(|byte| *byte <= b' '));
        hidden.then_some(self.bytes.len())
    }

    /// An operator right after a broken string, and an operand that reaches the application's closing mark.
    fn glued(&self, token: Token, mark: u8, ahead: &mut Lexer<'t>) -> Option<usize> {
        let found = expression(ahead)?;
        let strong =
            matches!(found.strongest(), Operand::Probe | Operand::Subselect | Operand::Case | Operand::Variable);
        let reaches = ((found.open_text == mark && !token.spaced) || found.is_commented()) && self.names <= 1;
        let known = matches!(found.strongest(), Operand::Known | Operand::Fact) && found.is_terminated();
        let prefixed = self.tokens != 0;
        (strong || known || (reaches && (mark == b'\'' || prefixed))).then_some(found.end)
    }

    /// `*/ select`: the rest of a comment that another parameter opened.
    fn reopened(&self, token: Token, ahead: &mut Lexer<'t>) -> Option<usize> {
        if self.tokens != 0 {
            return None;
        }
        let next = ahead.next_code();
        let carries = matches!(
            next.kind,
            Kind::Word(
                Word::Select | Word::Union | Word::From | Word::Where | Word::Connective | Word::Order | Word::Into
            )
        );
        carries.then_some(next.end.max(token.end))
    }
}

/// A keyword with comments inside: nobody writes one by chance.
fn is_split(token: Token, bytes: &[u8]) -> bool {
    let keyword = matches!(token.kind, Kind::Word(word) if word != Word::Name);
    keyword && 6 < token.end - token.start && bytes.get(token.start..token.end).is_some_and(|text| text.contains(&b'/'))
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || 0x80 <= byte
}

#[cfg(test)]
mod tests;
