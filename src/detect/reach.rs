//! Which rows plain text can match at all, told by the bytes a row's expression cannot do without.
//!
//! Nearly every value is a word, a number, a name or an address. Most rows need a byte that such text lacks: a quote, a
//! bracket, a dollar sign. They are left out of the databases that plain text is scanned with.

use regex_syntax::ast::{self, Visitor};
use regex_syntax::hir::{Class, ClassUnicodeRange, Hir, HirKind};

use crate::detect::rows::Flags;

/// How far from plain a text is. Each kind of text holds the bytes of the kinds before it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Reach {
    /// Letters, digits, blanks, `_`, `-` and `.`, all ASCII.
    Words,
    /// Also `,`, `:` and `/`: lists, times, media types, addresses.
    Addresses,
    /// Any byte.
    All,
}

/// Bytes looked at between two looks at what they amount to.
const STRIDE: usize = 64;

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const REACHES: [Reach; 256] = {
    let mut reaches = [Reach::All; 256];
    let mut byte = 0;
    while byte < reaches.len() {
        reaches[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b' ' | b'_' | b'-' | b'.' => Reach::Words,
            b',' | b':' | b'/' => Reach::Addresses,
            _ => Reach::All,
        };
        byte += 1;
    }
    reaches
};

impl Reach {
    /// Every kind, plainest first.
    pub(crate) const ALL: [Self; 3] = [Self::Words, Self::Addresses, Self::All];

    /// The kind of a text.
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut reach = Self::Words;
        for part in text.chunks(STRIDE) {
            reach = part.iter().fold(reach, |reach, byte| reach.max(Self::of_byte(*byte)));
            if reach == Self::All {
                break;
            }
        }
        reach
    }

    /// Whether a text of this kind may hold a match of `pattern`. True when in doubt.
    pub(crate) fn holds(self, pattern: &str, flags: Flags) -> bool {
        self == Self::All || parse(pattern, flags).is_none_or(|hir| !self.lacks(&hir))
    }

    fn of_byte(byte: u8) -> Self {
        REACHES.get(usize::from(byte)).copied().unwrap_or(Self::All)
    }

    /// True when every match of `hir` has a byte that this kind of text lacks.
    fn lacks(self, hir: &Hir) -> bool {
        let foreign = |byte: u8| self < Self::of_byte(byte);
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => false,
            HirKind::Literal(literal) => literal.0.iter().any(|byte| foreign(*byte)),
            // Alternatives of one character each come as a class of characters; all but ASCII is foreign.
            HirKind::Class(Class::Unicode(class)) => {
                let ascii = |range: &ClassUnicodeRange| (range.start()..=range.end()).take_while(char::is_ascii);
                !class.ranges().is_empty() && class.iter().flat_map(ascii).all(|char| foreign(char as u8))
            }
            HirKind::Class(Class::Bytes(class)) => {
                !class.ranges().is_empty() && class.iter().flat_map(|range| range.start()..=range.end()).all(foreign)
            }
            HirKind::Repetition(repetition) => 0 < repetition.min && self.lacks(&repetition.sub),
            HirKind::Capture(capture) => self.lacks(&capture.sub),
            HirKind::Concat(parts) => parts.iter().any(|part| self.lacks(part)),
            HirKind::Alternation(parts) => parts.iter().all(|part| self.lacks(part)),
        }
    }
}

/// The expression as a tree. `None` for what this parser may read differently from Hyperscan.
fn parse(pattern: &str, flags: Flags) -> Option<Hir> {
    let tree = ast::parse::Parser::new().parse(pattern).ok()?;
    ast::visit(&tree, Dialect).ok()?;
    let mut translator = regex_syntax::hir::translate::TranslatorBuilder::new()
        .utf8(false)
        .unicode(false)
        .case_insensitive(!flags.case_sensitive)
        .multi_line(flags.multiline)
        .dot_matches_new_line(flags.dotall)
        .build();
    translator.translate(pattern, &tree).ok()
}

/// Refuses what only one of the two dialects knows: classes within classes, and sums and differences of classes.
struct Dialect;

impl Visitor for Dialect {
    type Output = ();
    type Err = ();

    fn finish(self) -> Result<(), ()> {
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), ()> {
        if matches!(item, ast::ClassSetItem::Bracketed(_)) { Err(()) } else { Ok(()) }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), ()> {
        Err(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_plain_as_its_oddest_byte() {
        for (text, reach) in [
            ("", Reach::Words),
            ("Blue shoes-42_x.y", Reach::Words),
            ("text/html, 12:30", Reach::Addresses),
            ("a=b", Reach::All),
            ("caf\u{e9}", Reach::All),
            ("a\nb", Reach::All),
        ] {
            assert_eq!(Reach::of(text.as_bytes()), reach, "{text}");
        }
        let long = format!("{};", "a".repeat(10 * STRIDE));
        assert_eq!(Reach::of(long.as_bytes()), Reach::All);
    }

    #[test]
    fn a_row_is_left_out_only_where_it_cannot_match() {
        let plainest = |pattern: &str| {
            Reach::ALL.into_iter().find(|reach| reach.holds(pattern, Flags::default())).unwrap_or(Reach::All)
        };
        for (pattern, reach) in [
            ("union", Reach::Words),
            (r"\bnc\s+-e", Reach::Words),
            (r"a(?:;|\d)b", Reach::Words),
            (r"[';]?select", Reach::Words),
            (r"https?://[\w\[]", Reach::Addresses),
            (r"[,;]x", Reach::Addresses),
            (r"(?:\$|<)\{", Reach::All),
            (r"(?:'|\x22)\s*or", Reach::All),
            (r"x{2,};", Reach::All),
            // Read differently by the two dialects, or not at all.
            (r"[;&&a]b", Reach::Words),
            (r"[[;]]", Reach::Words),
            (r"(?=;)a", Reach::Words),
        ] {
            assert_eq!(plainest(pattern), reach, "{pattern}");
        }
    }
}
