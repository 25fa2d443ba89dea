//! Whether a text is one expression of Python: a sign that somebody writes code where a value belongs.
//!
//! A recogniser, not a parser: it builds nothing, reads each token once, and follows Python 3.11's grammar for `eval`.
//! Nesting beyond [`DEPTH_MAX`] counts as no expression, so the stack is bounded; so is the text, by its caller.

mod lex;

use crate::detect::semantic::python::lex::{Lexer, Token};

/// Brackets, lambdas and conditionals within each other.
const DEPTH_MAX: usize = 64;

/// True when `text` is a Python expression, or several with commas between.
pub(super) fn is_expression(text: &str) -> bool {
    !is_foreign(text) && parses(text)
}

/// True for a text with a sign that expressions hold only in strings and comments, and with neither.
fn is_foreign(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr3(b'\'', b'"', b'#', bytes).is_none()
        && (memchr::memchr3(b';', b'?', b'$', bytes).is_some() || bytes.contains(&b'`'))
}

fn parses(text: &str) -> bool {
    let mut parser = Parser { lexer: Lexer::new(text), depth: 0 };
    parser.top().is_some()
}

/// `None` everywhere means: no expression.
struct Parser<'t> {
    lexer: Lexer<'t>,
    depth: usize,
}

/// What a `for` may bind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operand {
    Assignable,
    Value,
}

impl<'t> Parser<'t> {
    fn top(&mut self) -> Option<()> {
        self.expression()?;
        while self.lexer.take(",") {
            if self.lexer.peek() == Token::End {
                return Some(());
            }
            self.expression()?;
        }
        (self.lexer.peek() == Token::End).then_some(())
    }

    /// Goes one level deeper for `inner`.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth == DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let found = inner(self);
        self.depth -= 1;
        found
    }

    /// A lambda, or a disjunction with `if ... else` behind it.
    fn expression(&mut self) -> Option<()> {
        loop {
            if self.lexer.take_word("lambda") {
                return self.nested(Self::lambda);
            }
            self.disjunction()?;
            if !self.lexer.take_word("if") {
                return Some(());
            }
            self.disjunction()?;
            if !self.lexer.take_word("else") {
                return None;
            }
        }
    }

    fn lambda(&mut self) -> Option<()> {
        let mut starred = false;
        while !self.lexer.take(":") {
            let is_keyword_only = !starred && self.lexer.take("*");
            starred |= is_keyword_only;
            let is_rest = !is_keyword_only && self.lexer.take("**");
            let is_mark = !is_rest && !is_keyword_only && self.lexer.take("/");
            if !is_mark && (!is_keyword_only || self.lexer.peek() != Token::Sign(",")) {
                let Token::Name(_) = self.lexer.next() else { return None };
                if self.lexer.take("=") {
                    self.expression()?;
                }
            }
            if !self.lexer.take(",") && self.lexer.peek() != Token::Sign(":") {
                return None;
            }
        }
        self.expression()
    }

    fn disjunction(&mut self) -> Option<()> {
        loop {
            while self.lexer.take_word("not") {}
            self.comparison()?;
            if !self.lexer.take_word("or") && !self.lexer.take_word("and") {
                return Some(());
            }
        }
    }

    fn comparison(&mut self) -> Option<()> {
        loop {
            self.arithmetic()?;
            let compares = match self.lexer.peek() {
                Token::Sign("==" | "!=" | "<" | ">" | "<=" | ">=") | Token::Word("in") => {
                    self.lexer.next();
                    true
                }
                Token::Word("is") => {
                    self.lexer.next();
                    self.lexer.take_word("not");
                    true
                }
                Token::Word("not") => {
                    self.lexer.next();
                    if !self.lexer.take_word("in") {
                        return None;
                    }
                    true
                }
                _ => false,
            };
            if !compares {
                return Some(());
            }
        }
    }

    /// Operands with operators between; which binds tighter does not matter here.
    fn arithmetic(&mut self) -> Option<Operand> {
        let mut found = self.signed()?;
        while let Token::Sign("+" | "-" | "*" | "/" | "//" | "%" | "@" | "**" | "<<" | ">>" | "&" | "|" | "^") =
            self.lexer.peek()
        {
            self.lexer.next();
            self.signed()?;
            found = Operand::Value;
        }
        Some(found)
    }

    fn signed(&mut self) -> Option<Operand> {
        let mut is_signed = false;
        while let Token::Sign("+" | "-" | "~") = self.lexer.peek() {
            self.lexer.next();
            is_signed = true;
        }
        is_signed |= self.lexer.take_word("await");
        let found = self.primary()?;
        Some(if is_signed { Operand::Value } else { found })
    }

    /// An atom with attributes, calls and subscripts behind it.
    fn primary(&mut self) -> Option<Operand> {
        let mut found = self.atom()?;
        loop {
            match self.lexer.peek() {
                Token::Sign(".") => {
                    self.lexer.next();
                    let Token::Name(_) = self.lexer.next() else { return None };
                    found = Operand::Assignable;
                }
                Token::Sign("(") => {
                    self.lexer.next();
                    self.nested(Self::arguments)?;
                    found = Operand::Value;
                }
                Token::Sign("[") => {
                    self.lexer.next();
                    self.nested(Self::subscripts)?;
                    found = Operand::Assignable;
                }
                _ => return Some(found),
            }
        }
    }

    fn atom(&mut self) -> Option<Operand> {
        match self.lexer.next() {
            Token::Name(_) => Some(Operand::Assignable),
            Token::Word("True" | "False" | "None") | Token::Number | Token::Sign("...") => Some(Operand::Value),
            Token::Text { is_bytes, fields } => {
                let mut fields = Some(fields);
                while let Some(inside) = fields {
                    self.nested(|parser| parser.fields(inside))?;
                    fields = match self.lexer.peek() {
                        Token::Text { is_bytes: other, fields } if other == is_bytes => {
                            self.lexer.next();
                            Some(fields)
                        }
                        Token::Text { .. } => return None,
                        _ => None,
                    };
                }
                Some(Operand::Value)
            }
            Token::Sign("(") => self.nested(|parser| parser.group(")")),
            Token::Sign("[") => self.nested(|parser| parser.group("]")),
            Token::Sign("{") => self.nested(Self::braces),
            _ => None,
        }
    }

    /// The expressions in the braces of an f-string; empty text for every other string.
    fn fields(&mut self, text: &'t str) -> Option<()> {
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let brace = rest.get(at..at + 1)?;
            let behind = rest.get(at + 1..)?;
            if behind.starts_with(brace) {
                rest = behind.get(1..)?;
                continue;
            }
            if brace == "}" || behind.contains('\\') {
                return None;
            }
            let mut inner = Parser { lexer: Lexer::new(behind), depth: self.depth };
            // A lambda's colon would begin the format.
            if matches!(inner.lexer.peek(), Token::Word("lambda")) {
                return None;
            }
            inner.expression()?;
            while inner.lexer.take(",") {
                inner.expression()?;
            }
            inner.lexer.take("=");
            rest = behind.get(inner.lexer.position()..)?.trim_start();
            if let Some(conversion) = rest.strip_prefix('!') {
                rest = conversion.strip_prefix(['r', 's', 'a'])?;
            }
            if let Some(format) = rest.strip_prefix(':') {
                rest = format.get(end_of_format(format)?..)?;
            }
            rest = rest.strip_prefix('}')?;
        }
        Some(())
    }

    /// Behind `(` or `[`: nothing, a list, or a comprehension.
    fn group(&mut self, close: &'static str) -> Option<Operand> {
        if self.lexer.take(close) {
            return Some(Operand::Assignable);
        }
        if close == ")" && self.lexer.take_word("yield") {
            return self.yielded();
        }
        let mut is_starred = self.item()?;
        if self.is_comprehension() {
            self.comprehension()?;
            return (!is_starred && self.lexer.take(close)).then_some(Operand::Value);
        }
        let mut commas = 0;
        while self.lexer.take(",") {
            commas += 1;
            if self.lexer.take(close) {
                return Some(Operand::Assignable);
            }
            is_starred |= self.item()?;
        }
        // `(*a)` is no tuple.
        let is_whole = close == "]" || !is_starred || 0 < commas;
        (is_whole && self.lexer.take(close)).then_some(Operand::Assignable)
    }

    fn yielded(&mut self) -> Option<Operand> {
        if self.lexer.take(")") {
            return Some(Operand::Value);
        }
        if self.lexer.take_word("from") {
            self.expression()?;
        } else {
            loop {
                self.item()?;
                if !self.lexer.take(",") || self.lexer.peek() == Token::Sign(")") {
                    break;
                }
            }
        }
        self.lexer.take(")").then_some(Operand::Value)
    }

    /// `*a`, `a := b` or an expression; true when starred.
    fn item(&mut self) -> Option<bool> {
        if self.lexer.take("*") {
            self.arithmetic()?;
            return Some(true);
        }
        self.named()?;
        Some(false)
    }

    fn named(&mut self) -> Option<()> {
        let mut ahead = self.lexer;
        if let (Token::Name(_), Token::Sign(":=")) = (ahead.next(), ahead.next()) {
            self.lexer = ahead;
        }
        self.expression()
    }

    /// Behind `{`: a dictionary, a set, or a comprehension of either.
    fn braces(&mut self) -> Option<Operand> {
        if self.lexer.take("}") {
            return Some(Operand::Value);
        }
        let is_dictionary = self.entry()?;
        if self.is_comprehension() {
            self.comprehension()?;
            return self.lexer.take("}").then_some(Operand::Value);
        }
        while self.lexer.take(",") {
            if self.lexer.take("}") {
                return Some(Operand::Value);
            }
            if self.entry()? != is_dictionary {
                return None;
            }
        }
        self.lexer.take("}").then_some(Operand::Value)
    }

    /// One entry of braces; true for a dictionary's.
    fn entry(&mut self) -> Option<bool> {
        if self.lexer.take("**") {
            self.arithmetic()?;
            return Some(true);
        }
        if self.item()? || !self.lexer.take(":") {
            return Some(false);
        }
        self.expression()?;
        Some(true)
    }

    fn is_comprehension(&mut self) -> bool {
        matches!(self.lexer.peek(), Token::Word("for" | "async"))
    }

    fn comprehension(&mut self) -> Option<()> {
        while self.is_comprehension() {
            self.lexer.take_word("async");
            if !self.lexer.take_word("for") {
                return None;
            }
            loop {
                self.lexer.take("*");
                if self.primary()? != Operand::Assignable {
                    return None;
                }
                if !self.lexer.take(",") || self.lexer.peek() == Token::Word("in") {
                    break;
                }
            }
            if !self.lexer.take_word("in") {
                return None;
            }
            self.disjunction()?;
            while self.lexer.take_word("if") {
                self.disjunction()?;
            }
        }
        Some(())
    }

    /// Behind a call's `(`.
    fn arguments(&mut self) -> Option<()> {
        let (mut keywords, mut doubles, mut count) = (false, false, 0);
        while !self.lexer.take(")") {
            count += 1;
            let mut ahead = self.lexer;
            let is_keyword = matches!((ahead.next(), ahead.next()), (Token::Name(_), Token::Sign("=")));
            if self.lexer.take("**") {
                self.expression()?;
                doubles = true;
            } else if self.lexer.take("*") {
                self.expression()?;
                if doubles {
                    return None;
                }
            } else if is_keyword {
                self.lexer = ahead;
                self.expression()?;
                keywords = true;
            } else {
                self.named()?;
                if self.is_comprehension() {
                    self.comprehension()?;
                    // Alone, or in parentheses of its own.
                    return (count == 1 && self.lexer.take(")")).then_some(());
                }
                if keywords || doubles {
                    return None;
                }
            }
            if !self.lexer.take(",") && self.lexer.peek() != Token::Sign(")") {
                return None;
            }
        }
        Some(())
    }

    /// Behind a subscript's `[`.
    fn subscripts(&mut self) -> Option<()> {
        loop {
            let mut is_slice = false;
            if !matches!(self.lexer.peek(), Token::Sign(":")) {
                self.item()?;
            }
            for _ in 0..2 {
                if !self.lexer.take(":") {
                    break;
                }
                is_slice = true;
                if !matches!(self.lexer.peek(), Token::Sign(":" | "," | "]")) {
                    self.expression()?;
                }
            }
            let is_last = !self.lexer.take(",");
            if self.lexer.take("]") {
                return Some(());
            }
            if is_last || is_slice && self.lexer.peek() == Token::End {
                return None;
            }
        }
    }
}

/// Where a format ends. It may hold fields of its own, which are read as text.
fn end_of_format(format: &str) -> Option<usize> {
    let mut open = 0_usize;
    format.char_indices().find_map(|(index, char)| {
        match char {
            '{' => open += 1,
            '}' if open == 0 => return Some(index),
            '}' => open -= 1,
            _ => {}
        }
        None
    })
}

#[cfg(test)]
mod tests;
