//! Whole clauses and statements: what follows `union`, `select`, `order by`, a semicolon.

use super::expression::{Operand, dotted, ends, expression};
use super::lex::{Kind, Lexer, Token, Word};
use super::words::{Role, is_catalogue, is_probe, role};
use super::{Left, Scan};

/// Items of a select list that are read.
const ITEMS_MAX: usize = 12;

/// A select list and what follows it.
#[derive(Clone, Copy, Debug, Default)]
struct Projection {
    /// It asks for a variable, a fact about the server or a catalogue, or calls something that acts.
    technical: bool,
    /// It calls something that acts on the server or reads a catalogue.
    hostile: bool,
    /// It asks for a fact about the server, a variable, a case or another select.
    fact: bool,
    /// The items are written as an interpreter wants them: constants, calls, commas, a star.
    shaped: bool,
    /// A table follows, and then an end or another clause.
    table: bool,
    /// The value ends, or a comment hides the rest.
    cut: bool,
    /// A comment hides the rest.
    commented: bool,
    end: usize,
}

/// A comment comes next, closing parentheses aside.
fn is_commented(lexer: &Lexer<'_>) -> bool {
    let mut ahead = *lexer;
    for _ in 0..32 {
        match ahead.next_code().kind {
            Kind::Close | Kind::Number | Kind::Word(Word::Limit) => {}
            Kind::LineComment | Kind::OpenComment => return true,
            _ => return false,
        }
    }
    false
}

/// Reads what follows `select`.
fn projection(lexer: &mut Lexer<'_>) -> Option<Projection> {
    let first = lexer.peek();
    let mut found = Projection { shaped: first.kind == Kind::Open && !first.spaced, ..Projection::default() };
    let mut items = 0;
    loop {
        let mut token = lexer.peek();
        while matches!(token.kind, Kind::Word(Word::All | Word::Limit)) {
            lexer.at = token.end;
            token = lexer.peek();
        }
        if token.kind == Kind::Arithmetic(b'*') {
            lexer.at = token.end;
            found.shaped = true;
        } else {
            let Some(item) = expression(lexer) else {
                if items == 0 {
                    return None;
                }
                break;
            };
            let strongest = item.strongest();
            found.technical |= strongest.is_technical();
            found.hostile |= matches!(strongest, Operand::Probe);
            found.fact |= matches!(strongest, Operand::Fact | Operand::Case | Operand::Variable | Operand::Subselect);
            found.shaped |= strongest.is_technical() || strongest.is_constant() || strongest == Operand::Call;
            lexer.at = item.end;
        }
        alias(lexer);
        items += 1;
        found.end = lexer.at;
        let next = lexer.peek();
        if next.kind != Kind::Comma || ITEMS_MAX <= items {
            found.shaped |= 1 < items;
            found.cut = ends(next.kind) || next.is(Word::Connective);
            found.commented = is_commented(lexer);
            break;
        }
        lexer.at = next.end;
    }
    table(lexer, &mut found);
    Some(found)
}

/// `as name` after an item.
fn alias(lexer: &mut Lexer<'_>) {
    let word = lexer.peek();
    if word.is(Word::Name) {
        let mut ahead = *lexer;
        ahead.at = word.end;
        // Without `as`, only a list or a table after it tells an alias from prose.
        if matches!(ahead.next_code().kind, Kind::Comma | Kind::Word(Word::From)) {
            lexer.at = word.end;
        }
    } else if word.is(Word::As) {
        lexer.at = word.end;
        let mut lexed = *lexer;
        if expression(&mut lexed).is_some() {
            *lexer = lexed;
        }
    }
}

/// `from name ...` after the items.
fn table(lexer: &mut Lexer<'_>, found: &mut Projection) {
    let from = lexer.peek();
    if !from.is(Word::From) {
        return;
    }
    lexer.at = from.end;
    let mut name = lexer.next_code();
    for _ in 0..8 {
        if !matches!(name.kind, Kind::Open | Kind::Quote(_) | Kind::Other(b'[')) {
            break;
        }
        name = lexer.next_code();
    }
    if let Kind::Word(word) = name.kind {
        let end = dotted(lexer, name.end);
        lexer.at = end;
        found.end = end;
        let text = lexer.slice(name.start, end);
        let catalogue = is_catalogue(text);
        found.hostile |= catalogue || word == Word::Select;
        found.technical |= catalogue;
        let mut next = lexer.next_code();
        if matches!(next.kind, Kind::Word(Word::Name | Word::As)) {
            next = lexer.next_code();
        }
        found.table = catalogue || word == Word::Select || is_after_table(next.kind);
        found.cut |= ends(next.kind);
        found.commented |= matches!(next.kind, Kind::LineComment | Kind::OpenComment | Kind::Semicolon);
    }
}

const fn is_after_table(kind: Kind) -> bool {
    ends(kind)
        || matches!(
            kind,
            Kind::Comma
                | Kind::Open
                | Kind::Quote(_)
                | Kind::Word(
                    Word::Where
                        | Word::Order
                        | Word::Limit
                        | Word::Union
                        | Word::Join
                        | Word::Having
                        | Word::Procedure
                        | Word::Into
                )
        )
}

impl<'t> Scan<'t> {
    /// `union [all] select ...`.
    pub(super) fn union(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let left = self.left();
        let mut token = ahead.next_code();
        let all = token.is(Word::All);
        for _ in 0..64 {
            match token.kind {
                Kind::Word(Word::All) | Kind::Open | Kind::Arithmetic(b'+') | Kind::Number => {}
                // MySQL's `union.e(1) select`.
                Kind::Dot => {
                    expression(ahead)?;
                }
                Kind::End | Kind::OpenComment | Kind::LineComment => {
                    let opened = token.kind == Kind::OpenComment && left.dangles() && left != Left::Start;
                    return opened.then_some(token.end);
                }
                _ => break,
            }
            token = ahead.next_code();
        }
        if token.is(Word::Values) {
            let row = ahead.peek();
            let is_row = ahead.slice(row.start, row.end).eq_ignore_ascii_case(b"row");
            return (left != Left::Word && (row.kind == Kind::Open || is_row)).then_some(token.end);
        }
        // MySQL's `union table users`.
        if token.kind == Kind::Word(Word::Object) && left.dangles() && left != Left::Start {
            ahead.next_code();
            let after = ahead.peek();
            let is_table = ahead.slice(token.start, token.end).eq_ignore_ascii_case(b"table");
            return (is_table && ends(after.kind)).then_some(after.start);
        }
        if !token.is(Word::Select) {
            let text = ahead.slice(token.start, token.end);
            let swallowed = text.len() > 6 && text.get(..6).is_some_and(|head| head.eq_ignore_ascii_case(b"select"));
            return (swallowed && ahead.peek().kind == Kind::Open && role(text.get(6..)?) != Role::Unknown)
                .then_some(token.end);
        }
        let after = ahead.peek();
        if ends(after.kind) {
            return (left != Left::Word && (left != Left::Start || all)).then_some(token.end);
        }
        let list = projection(ahead)?;
        let hostile =
            list.shaped || list.technical || list.table || (list.cut && left.dangles() && left != Left::Start);
        hostile.then_some(list.end)
    }

    /// `(select ...)`, or a whole statement where none belongs.
    pub(super) fn select(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let left = self.left();
        let opened = self.last_kind() == Some(Kind::Open);
        if self.is_quotation(ahead) {
            return None;
        }
        let list = projection(ahead)?;
        let hostile = if self.is_broken() && (opened || left.dangles()) {
            list.technical || list.shaped || list.table
        } else if opened {
            list.hostile
                || (list.table && list.shaped)
                || (list.technical && (list.cut || list.fact))
                || (list.shaped && list.commented)
        } else {
            (left.dangles() || left == Left::Comment)
                && (list.hostile
                    || (list.fact && list.cut)
                    || (list.table && (list.technical || (list.shaped && list.commented))))
        };
        hostile.then_some(list.end)
    }

    /// The word stands right behind a mark that opens a quotation: `the "SELECT x FROM y" statement`, `"title":"select"`.
    fn is_quotation(&self, ahead: &Lexer<'t>) -> bool {
        let Some(Token { kind: Kind::Quote(mark), spaced, end, .. }) = self.last else { return false };
        let next = ahead.peek();
        let is_glued = end + b"select".len() == ahead.at;
        let is_word = next.kind == Kind::Quote(mark) && !next.spaced;
        is_glued && (is_word || spaced && 2 <= self.names)
    }

    /// `order by 3--`, `group by x having`.
    pub(super) fn order(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let left = self.left();
        if !left.dangles() || !ahead.next_code().is(Word::By) {
            return None;
        }
        let first = expression(ahead)?;
        let mut next = first.next;
        ahead.at = first.end;
        let mut constants = first.left == Operand::Number && first.operators == 0;
        let mut technical = first.strongest().is_technical();
        for _ in 0..64 {
            if next.kind != Kind::Comma {
                break;
            }
            ahead.at = next.end;
            let Some(item) = expression(ahead) else {
                next = ahead.peek();
                break;
            };
            constants &= item.left == Operand::Number;
            technical |= item.strongest().is_technical();
            ahead.at = item.end;
            next = item.next;
        }
        let finished = ends(next.kind) || matches!(next.kind, Kind::Word(Word::Having | Word::Limit | Word::Command));
        let commented = matches!(next.kind, Kind::LineComment | Kind::OpenComment);
        (technical || (constants && finished) || (left != Left::Start && finished) || commented).then_some(ahead.at)
    }

    /// `procedure analyse(`.
    pub(super) fn procedure(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let name = ahead.next_code();
        let analyse = ahead.slice(name.start, name.end).eq_ignore_ascii_case(b"analyse");
        (analyse && ahead.next_code().kind == Kind::Open).then_some(ahead.at)
    }

    /// `into outfile '...'`.
    pub(super) fn outfile(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let mut name = ahead.next_code();
        if name.kind == Kind::Arithmetic(b'+') {
            name = ahead.next_code();
        }
        let word = ahead.slice(name.start, name.end);
        let writes = word.eq_ignore_ascii_case(b"outfile") || word.eq_ignore_ascii_case(b"dumpfile");
        let mut target = ahead.next_code();
        if target.kind == Kind::Arithmetic(b'+') {
            target = ahead.next_code();
        }
        let file = matches!(target.kind, Kind::Quote(_) | Kind::Number | Kind::Variable);
        (writes && (file || self.left().dangles())).then_some(target.end)
    }

    /// A second statement.
    pub(super) fn stacked(&self, ahead: &mut Lexer<'t>) -> Option<usize> {
        let mut token = ahead.next_code();
        for _ in 0..8 {
            if !matches!(token.kind, Kind::Open | Kind::Semicolon | Kind::Arithmetic(b'+')) {
                break;
            }
            token = ahead.next_code();
        }
        let Kind::Word(word) = token.kind else { return None };
        match word {
            Word::Select => {
                let list = projection(ahead)?;
                (list.technical || list.table && (list.shaped || list.cut) || (list.shaped && list.cut))
                    .then_some(list.end)
            }
            Word::Name => {
                let end = dotted(ahead, token.end);
                let called = ahead.byte(end) == b'(' && is_probe(ahead.slice(token.start, end));
                // `sleep(5);` is also how programs wait.
                let sure = self.is_broken() || self.left() == Left::Number || end - token.start != 5;
                (called && sure).then_some(end)
            }
            _ => self.statement(token, word, ahead, true),
        }
    }

    /// Any other word that may begin a statement or call a function.
    pub(super) fn word(&self, token: Token, word: Word, ahead: &mut Lexer<'t>) -> Option<usize> {
        match word {
            Word::Name => self.call(token, ahead),
            Word::If if self.lexer.byte(token.end) == b'(' => {
                self.choice(token).or_else(|| self.statement(token, word, ahead, false))
            }
            Word::Insert
            | Word::Update
            | Word::Delete
            | Word::Define
            | Word::Execute
            | Word::Declare
            | Word::Waitfor
            | Word::Shutdown
            | Word::If
            | Word::Command => self.statement(token, word, ahead, false),
            _ => None,
        }
    }

    /// `if(now()=sysdate(),sleep(9),0)`: MySQL's function, with a call in it that acts on the server.
    fn choice(&self, token: Token) -> Option<usize> {
        let mut ahead = self.lexer;
        ahead.at = token.start;
        let found = expression(&mut ahead)?;
        let acts = found.strongest() == Operand::Probe && found.is_terminated();
        (acts && self.left().dangles()).then_some(found.end)
    }

    /// A call that acts on the server, where an expression may stand.
    fn call(&self, token: Token, ahead: &mut Lexer<'t>) -> Option<usize> {
        let next = ahead.byte(token.end);
        // Nearly every word is followed by another one.
        let may_be_called = match next {
            b'(' | b'.' | b'/' => true,
            b' ' => !ahead.byte(token.end + 1).is_ascii_alphanumeric(),
            _ => false,
        };
        if !may_be_called {
            return None;
        }
        let end = dotted(ahead, token.end);
        if !is_probe(ahead.slice(token.start, end)) {
            return None;
        }
        ahead.at = end;
        let opening = ahead.next_code();
        let name = ahead.slice(token.start, end);
        if matches!(opening.kind, Kind::Quote(_)) && name.eq_ignore_ascii_case(b"xp_cmdshell") {
            return Some(opening.end);
        }
        if opening.kind != Kind::Open {
            return None;
        }
        let spaced = self.lexer.byte(end) == b' ';
        let everyday = spaced
            || name.eq_ignore_ascii_case(b"sleep")
            || name.eq_ignore_ascii_case(b"iif")
            || name.eq_ignore_ascii_case(b"polygon");
        ahead.at = token.start;
        let found = expression(ahead)?;
        let fits = match self.left() {
            Left::Start => {
                let whole = !spaced && found.is_terminated() && found.next.kind != Kind::Semicolon;
                let compared = found.right.is_some_and(|right| !spaced || right.is_constant());
                !everyday || whole || found.is_commented() || compared
            }
            Left::Broken | Left::Number => true,
            Left::Closed | Left::Comment | Left::Apostrophe => !everyday,
            Left::Word => !matches!(self.last_kind(), Some(Kind::Word(Word::Name))) && !everyday,
            Left::Other => !everyday || self.is_broken(),
        };
        fits.then_some(found.end)
    }

    /// A statement that changes something or runs something. `stacked`: a semicolon stands before it.
    fn statement(&self, token: Token, word: Word, ahead: &mut Lexer<'t>, stacked: bool) -> Option<usize> {
        let left = self.left();
        let placed = stacked || left.dangles() || matches!(left, Left::Comment | Left::Apostrophe);
        let loose = stacked || left == Left::Broken;
        let next = ahead.next_code();
        let name = next.start..dotted(ahead, next.end);
        ahead.at = name.end;
        let text = ahead.slice(name.start, name.end);
        let after = ahead.next_code();
        let hostile = match word {
            Word::Waitfor => matches!(after.kind, Kind::Quote(_) | Kind::Variable),
            Word::Declare => placed && next.kind == Kind::Variable,
            Word::Shutdown => loose && (ends(next.kind) || text.eq_ignore_ascii_case(b"with")),
            Word::Execute => execute(next, text, after, placed),
            Word::Insert => {
                next.is(Word::Into) && matches!(after.kind, Kind::Word(_)) && (loose || (placed && has_values(ahead)))
            }
            Word::Delete => {
                let follows = ahead.next_code();
                let filters = follows.is(Word::Where) && expression(ahead).is_some_and(|found| found.right.is_some());
                next.is(Word::From) && ((loose && is_after_object(follows.kind)) || (placed && filters))
            }
            Word::Update => {
                let column = ahead.next_code();
                let assigns = ahead.next_code().kind == Kind::Compare;
                after.is(Word::Set) && matches!(column.kind, Kind::Word(_)) && (loose || (placed && assigns))
            }
            Word::Define => define(next, after, ahead, loose, left),
            Word::If => conditional(token, next, after, ahead, loose),
            Word::Command => {
                let direction = ahead.slice(after.start, after.end);
                let target = ahead.peek();
                if placed && after.is(Word::From) && matches!(target.kind, Kind::Quote(_)) {
                    return Some(target.end);
                }
                if text_is(ahead, token, b"use") && is_import(ahead, token, after) {
                    return None;
                }
                let copies = after.is(Word::From) || is_infile(after, ahead) || direction.eq_ignore_ascii_case(b"to");
                loose
                    && matches!(next.kind, Kind::Word(_))
                    && (copies || matches!(after.kind, Kind::Semicolon | Kind::LineComment | Kind::OpenComment))
            }
            _ => false,
        };
        hostile.then_some(ahead.at.max(token.end))
    }
}

/// `drop table x`, `create user x identified by`: an object, its name, and then an end.
fn define(next: Token, after: Token, ahead: &mut Lexer<'_>, loose: bool, left: Left) -> bool {
    let direction = ahead.slice(after.start, after.end);
    let grants = direction.eq_ignore_ascii_case(b"to") || direction.eq_ignore_ascii_case(b"on");
    if loose && matches!(next.kind, Kind::Word(Word::Name | Word::All)) && grants {
        return true;
    }
    if !matches!(next.kind, Kind::Word(Word::Object))
        || !matches!(after.kind, Kind::Word(_) | Kind::Quote(_) | Kind::Other(b'['))
    {
        return false;
    }
    let follows = ahead.next_code();
    let commented = matches!(follows.kind, Kind::LineComment | Kind::OpenComment | Kind::Semicolon);
    if loose { true } else { left.dangles() && commented }
}

/// `exec xp_cmdshell`, `exec('...')`, `execute @x`, `call f(...)`.
fn execute(next: Token, text: &[u8], after: Token, placed: bool) -> bool {
    let stored = [&b"xp_"[..], b"sp_", b"master."]
        .iter()
        .any(|head| text.get(..head.len()).is_some_and(|start| start.eq_ignore_ascii_case(head)));
    let immediate = text.eq_ignore_ascii_case(b"immediate") && matches!(after.kind, Kind::Quote(_));
    match next.kind {
        Kind::Word(Word::As) => placed && matches!(after.kind, Kind::Word(Word::Object)),
        Kind::Word(_) => stored || (placed && (immediate || (after.kind == Kind::Open && role(text) == Role::Probe))),
        Kind::Open => placed && matches!(after.kind, Kind::Quote(_) | Kind::Variable),
        Kind::Variable => placed,
        _ => false,
    }
}

/// `(a, b) values (`, `values (`, `select`: what makes an insertion whole.
fn has_values(lexer: &mut Lexer<'_>) -> bool {
    for _ in 0..64 {
        match lexer.next_code().kind {
            Kind::Open | Kind::Close | Kind::Comma | Kind::Word(Word::Name | Word::Object) | Kind::Quote(_) => {}
            Kind::Word(Word::Values) => return lexer.next_code().kind == Kind::Open,
            Kind::Word(Word::Select) => return true,
            _ => return false,
        }
    }
    false
}

/// `load data [local] infile`.
fn is_infile(after: Token, ahead: &mut Lexer<'_>) -> bool {
    let infile = |lexer: &Lexer<'_>, token: Token| lexer.slice(token.start, token.end).eq_ignore_ascii_case(b"infile");
    if infile(ahead, after) {
        return true;
    }
    let next = ahead.next_code();
    infile(ahead, next)
}

fn text_is(lexer: &Lexer<'_>, token: Token, word: &[u8]) -> bool {
    lexer.slice(token.start, token.end).eq_ignore_ascii_case(word)
}

/// How far back the statement before an import is looked for.
const IMPORT_BYTES_MAX: usize = 64;

/// `use` as programs have it: on a line of its own, or beside another one. A database is chosen once.
fn is_import(ahead: &Lexer<'_>, token: Token, after: Token) -> bool {
    let before = ahead.slice(token.start.saturating_sub(IMPORT_BYTES_MAX), token.start);
    let text = before.trim_ascii_end();
    let begins_line = before.get(text.len()..).is_some_and(|blanks| blanks.contains(&b'\n'));
    let statement = text.strip_suffix(b";").and_then(|text| text.rsplit(|byte| *byte == b';').next());
    let follows = statement.is_some_and(|text| text.trim_ascii_start().starts_with(b"use "));
    begins_line || follows || after.kind == Kind::Semicolon && text_is(ahead, ahead.peek(), b"use")
}

/// `if (…) waitfor`, `if 1=1 select`, `if not exists (`, `begin declare`.
fn conditional(token: Token, next: Token, after: Token, ahead: &mut Lexer<'_>, loose: bool) -> bool {
    let declares = next.is(Word::Declare) || next.is(Word::Not) && after.is(Word::Quantifier);
    let asks = next.kind == Kind::Open && matches!(after.kind, Kind::Word(Word::Select | Word::Quantifier));
    ahead.at = token.end;
    let acts = expression(ahead).is_some_and(|found| {
        let follows = matches!(
            found.next.kind,
            Kind::Word(
                Word::Select
                    | Word::Waitfor
                    | Word::Execute
                    | Word::Shutdown
                    | Word::Define
                    | Word::Insert
                    | Word::Update
            )
        );
        follows && found.right.is_some()
    });
    acts || (loose && (declares || asks))
}

const fn is_after_object(kind: Kind) -> bool {
    ends(kind) || matches!(kind, Kind::Word(Word::Where | Word::Limit))
}
