//! Reads one SQL expression forward, without recursion: operands, operators, and what they compare.

use super::lex::{Kind, Lexer, Token, Word};
use super::words::{Role, is_catalogue, role};

/// Strongest first is last: the order is how much an operand says.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Operand {
    /// A column or a word.
    Name,
    /// `null`, `true`, `false`.
    Literal,
    /// A number.
    Number,
    /// A quoted string.
    Text,
    /// A call of a function we do not know.
    Call,
    /// `@x`.
    Variable,
    /// A call of a function every dialect has.
    Known,
    /// A call that tells something about the server, or spells text by numbers.
    Fact,
    /// `case when`.
    Case,
    /// `(select`.
    Subselect,
    /// A call that acts on the server.
    Probe,
}

impl Operand {
    pub(super) const fn is_constant(self) -> bool {
        matches!(self, Self::Number | Self::Text | Self::Literal)
    }

    /// Prose and simple filters do not hold it.
    pub(super) const fn is_technical(self) -> bool {
        matches!(self, Self::Variable | Self::Known | Self::Fact | Self::Case | Self::Subselect | Self::Probe)
    }
}

/// What an expression is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expression {
    /// The strongest operand before a comparison.
    pub(super) left: Operand,
    /// The strongest operand after it.
    pub(super) right: Option<Operand>,
    /// Both sides are spelled alike.
    pub(super) same: bool,
    /// The mark of a string that runs to the end of the value: the application's own mark closes it. 0 when none does.
    pub(super) open_text: u8,
    /// Operators besides the comparison.
    pub(super) operators: u8,
    /// The first token after the expression.
    pub(super) next: Token,
    /// Where the expression ends.
    pub(super) end: usize,
    /// A closing parenthesis without its opening one stood in it.
    pub(super) unbalanced: bool,
}

impl Expression {
    pub(super) fn strongest(&self) -> Operand {
        self.right.map_or(self.left, |right| right.max(self.left))
    }

    /// A statement may end here.
    pub(super) const fn is_terminated(&self) -> bool {
        self.open_text != 0
            || ends(self.next.kind)
            || matches!(self.next.kind, Kind::Word(Word::Connective | Word::Union | Word::Order | Word::Limit))
    }

    pub(super) const fn is_commented(&self) -> bool {
        matches!(self.next.kind, Kind::LineComment | Kind::OpenComment)
    }
}

/// True for what may follow a whole clause.
pub(super) const fn ends(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::End | Kind::LineComment | Kind::OpenComment | Kind::Semicolon | Kind::Close | Kind::Both | Kind::Concat
    )
}

/// Operators in one expression that are followed.
const OPERATORS_MAX: u8 = 8;
/// Prefixes before one operand.
const PREFIXES_MAX: usize = 24;
/// Tokens of a call's arguments that are read.
const ARGUMENTS_MAX: usize = 48;
/// A string literal longer than this is not one.
const TEXT_MAX: usize = 512;
/// A dotted name longer than this is cut.
const NAME_MAX: usize = 96;
/// An unclosed string longer than this is prose.
const OPEN_TEXT_MAX: usize = 96;

/// One side of a comparison.
struct Atom {
    operand: Operand,
    start: usize,
    end: usize,
    open_text: u8,
}

/// Reads the expression at the lexer's position; `None` when no operand stands there.
pub(super) fn expression(lexer: &mut Lexer<'_>) -> Option<Expression> {
    let mut depth = 0_i32;
    let first = atom(lexer, &mut depth)?;
    let mut found = Expression {
        left: first.operand,
        right: None,
        same: false,
        open_text: first.open_text,
        operators: 0,
        next: lexer.peek(),
        end: first.end,
        unbalanced: false,
    };
    let (mut left_start, mut left_end) = (first.start, first.end);
    for _ in 0..OPERATORS_MAX {
        close(lexer, &mut depth, &mut found);
        let mut ahead = *lexer;
        let Some(compares) = operator(&mut ahead) else { break };
        let mut ahead_depth = depth;
        let Some(next) = atom(&mut ahead, &mut ahead_depth) else { break };
        if compares && found.right.is_none() {
            let (one, other) = (lexer.slice(left_start, left_end), lexer.slice(next.start, next.end));
            found.same = one.eq_ignore_ascii_case(other) || unquoted(one).eq_ignore_ascii_case(unquoted(other));
            found.right = Some(next.operand);
        } else {
            found.operators += 1;
            match &mut found.right {
                Some(right) => *right = (*right).max(next.operand),
                None => found.left = found.left.max(next.operand),
            }
            (left_start, left_end) = (next.start, next.end);
        }
        found.open_text = found.open_text.max(next.open_text);
        found.end = next.end;
        (*lexer, depth) = (ahead, ahead_depth);
    }
    close(lexer, &mut depth, &mut found);
    found.next = lexer.peek();
    Some(found)
}

/// Closing parentheses after an operand: they never hide what follows.
fn close(lexer: &mut Lexer<'_>, depth: &mut i32, found: &mut Expression) {
    for _ in 0..PREFIXES_MAX {
        let token = lexer.peek();
        if token.kind != Kind::Close {
            return;
        }
        *depth -= 1;
        found.unbalanced |= *depth < 0;
        found.end = token.end;
        lexer.at = token.end;
    }
}

/// Reads an operator; `Some(true)` when it compares.
fn operator(lexer: &mut Lexer<'_>) -> Option<bool> {
    let token = lexer.next_code();
    match token.kind {
        Kind::Compare => Some(true),
        Kind::Word(Word::Like | Word::In | Word::Between | Word::Is) => Some(true),
        Kind::Word(Word::Not) => {
            matches!(lexer.next_code().kind, Kind::Word(Word::Like | Word::In | Word::Between)).then_some(true)
        }
        Kind::Arithmetic(_) | Kind::Concat | Kind::Word(Word::Operator) => Some(false),
        Kind::Cast => {
            // `::jsonb` is part of the operand; what compares comes after it.
            (lexer.next_code().kind == Kind::Word(Word::Name)).then_some(())?;
            operator(lexer)
        }
        _ => None,
    }
}

/// Reads one operand with everything that may stand before it.
fn atom(lexer: &mut Lexer<'_>, depth: &mut i32) -> Option<Atom> {
    for _ in 0..PREFIXES_MAX {
        let token = lexer.next_code();
        let operand = match token.kind {
            Kind::Open => {
                *depth += 1;
                continue;
            }
            Kind::Arithmetic(b'+' | b'-' | b'~' | b'!') | Kind::Word(Word::Not | Word::Modifier | Word::All) => {
                continue;
            }
            Kind::Word(Word::Quantifier) if lexer.peek().kind == Kind::Open => continue,
            Kind::Number => {
                skip_glue(lexer, token);
                Operand::Number
            }
            Kind::Variable => Operand::Variable,
            Kind::Quote(mark) => return text(lexer, token, mark),
            Kind::Word(Word::Literal) => Operand::Literal,
            Kind::Word(Word::Select) => Operand::Subselect,
            Kind::Word(Word::Case) => Operand::Case,
            Kind::Word(Word::Connective | Word::Union | Word::From | Word::Where | Word::Having | Word::By) => {
                return None;
            }
            // `N'text'`, `x'61'`: a prefix of a literal.
            Kind::Word(Word::Name) if token.end - token.start == 1 && lexer.byte(token.end) == b'\'' => continue,
            Kind::Word(_) => named(lexer, token),
            _ => return None,
        };
        return Some(Atom { operand, start: token.start, end: lexer.at.max(token.end), open_text: 0 });
    }
    None
}

/// `1.e(1)`: MySQL reads the parentheses as if nothing stood before them.
fn skip_glue(lexer: &mut Lexer<'_>, number: Token) {
    let glued = number.end.checked_sub(1).is_some_and(|last| matches!(lexer.byte(last), b'e' | b'E'));
    if glued && lexer.byte(number.end) == b'(' {
        arguments(lexer);
    }
}

fn text(lexer: &mut Lexer<'_>, mark: Token, quote: u8) -> Option<Atom> {
    let mut end = mark.end;
    let limit = mark.end + TEXT_MAX;
    while end < limit {
        let (byte, next) = (lexer.byte(end), lexer.byte(end + 1));
        if byte == 0 && lexer.slice(end, end + 1).is_empty() {
            let short = end - mark.end <= OPEN_TEXT_MAX;
            lexer.at = end;
            return short.then_some(Atom { operand: Operand::Text, start: mark.start, end, open_text: quote });
        }
        if byte == b'\\' || (byte == quote && next == quote) {
            end += 2;
        } else if byte == quote {
            lexer.at = end + 1;
            let operand = if quote == b'`' { Operand::Name } else { Operand::Text };
            return Some(Atom { operand, start: mark.start, end: end + 1, open_text: 0 });
        } else {
            end += 1;
        }
    }
    None
}

/// A name with its dots; a call when parentheses follow.
fn named(lexer: &mut Lexer<'_>, first: Token) -> Operand {
    let end = dotted(lexer, first.end);
    lexer.at = end;
    let name = lexer.slice(first.start, end);
    let open = lexer.peek();
    if open.kind != Kind::Open {
        let package = name.contains(&b'.') && role(name) == Role::Probe;
        return if package {
            Operand::Probe
        } else if is_bare_fact(name) {
            Operand::Fact
        } else {
            Operand::Name
        };
    }
    let inner = arguments(lexer);
    match role(name) {
        Role::Probe => Operand::Probe,
        Role::Fact => inner.max(Operand::Fact),
        Role::Known => inner.max(Operand::Known),
        Role::Unknown => inner.max(Operand::Call),
    }
}

/// Functions that are called without parentheses.
fn is_bare_fact(name: &[u8]) -> bool {
    [&b"current_user"[..], b"session_user", b"system_user"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The end of `a.b.c` (and `master..xp`) whose first word ends at `end`.
pub(super) fn dotted(lexer: &Lexer<'_>, start: usize) -> usize {
    if lexer.byte(start) != b'.' {
        return start;
    }
    let mut end = start;
    while end < start + NAME_MAX
        && matches!(lexer.byte(end), b'.' | b'_' | b'$' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
    {
        end += 1;
    }
    end
}

/// Skips `( … )` and returns the strongest thing called inside.
fn arguments(lexer: &mut Lexer<'_>) -> Operand {
    let mut depth = 0_u32;
    let mut strongest = Operand::Name;
    for _ in 0..ARGUMENTS_MAX {
        let token = lexer.next_code();
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return strongest;
                }
            }
            Kind::Quote(mark) => {
                let Some(_) = text(lexer, token, mark) else { return strongest };
            }
            Kind::Word(Word::Select) => strongest = strongest.max(Operand::Subselect),
            Kind::Word(_) => {
                let end = dotted(lexer, token.end);
                lexer.at = end;
                let name = lexer.slice(token.start, end);
                let called = lexer.byte(end) == b'(';
                let found = match role(name) {
                    Role::Probe if called => Operand::Probe,
                    Role::Fact if called => Operand::Fact,
                    _ if is_catalogue(name) => Operand::Subselect,
                    _ => Operand::Name,
                };
                strongest = strongest.max(found);
            }
            Kind::End => return strongest,
            _ => {}
        }
    }
    strongest
}

fn unquoted(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(b"'").or_else(|| text.strip_prefix(b"\"")).unwrap_or(text);
    text.strip_suffix(b"'").or_else(|| text.strip_suffix(b"\"")).unwrap_or(text)
}
