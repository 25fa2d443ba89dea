//! XML text: character data, attributes, declarations. No tree, no recursion, nothing fetched.

use std::borrow::Cow;
use std::ops::ControlFlow;

use crate::detect::extract::sink::{Sink, Value};
use crate::detect::{Context, Kind, Source};

/// Entities a document may declare and have expanded in its text.
const ENTITIES_MAX: usize = 32;

/// Text that the expansion of declared entities may add to a document, in bytes.
const EXPANSION_MAX: usize = 64 * 1024;

/// Bytes of an entity's name.
const NAME_MAX: usize = 32;

/// Attributes of one element that are read; the rest of the tag is one text.
const ATTRIBUTES_MAX: usize = 256;

/// Hands out texts, attributes, declarations and instructions of `text`. False when it is not well enough formed to say
/// that nothing was overlooked.
pub(super) fn walk(text: &str, sink: &mut Sink<'_>) -> ControlFlow<(), bool> {
    let mut reader = Reader { rest: text, run: String::new(), entities: Vec::new(), expanded: 0, sound: true };
    let mut open = 0usize;
    let mut element = "";
    while let Some((before, markup)) = reader.next_markup() {
        reader.push_text(before);
        match markup {
            Markup::Data(data) => reader.run.push_str(data),
            Markup::Comment(comment) => whole(element, comment, sink)?,
            Markup::Instruction(text) => whole("", text, sink)?,
            Markup::Declaration(text) => {
                reader.declare(text);
                whole("", text, sink)?;
            }
            Markup::End => {
                reader.flush(element, sink)?;
                open = open.checked_sub(1).unwrap_or_else(|| {
                    reader.sound = false;
                    0
                });
            }
            Markup::Start { name, attributes, is_empty } => {
                reader.flush(element, sink)?;
                element = name;
                open += usize::from(!is_empty);
                if acts(name) {
                    whole(element, &format!("<{name} {attributes}>"), sink)?;
                }
                reader.attributes(attributes, sink)?;
            }
        }
    }
    let rest = std::mem::take(&mut reader.rest);
    reader.sound &= open == 0 && rest.trim().is_empty() && !element.is_empty();
    reader.push_text(rest);
    reader.flush(element, sink)?;
    ControlFlow::Continue(reader.sound)
}

/// One piece of markup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Markup<'t> {
    /// The content of a CDATA section.
    Data(&'t str),
    Comment(&'t str),
    /// A processing instruction other than the XML declaration, whole.
    Instruction(&'t str),
    /// A document type declaration, whole.
    Declaration(&'t str),
    Start {
        name: &'t str,
        attributes: &'t str,
        is_empty: bool,
    },
    End,
}

struct Reader<'t> {
    rest: &'t str,
    /// Character data since the last tag, CDATA sections and entities resolved.
    run: String,
    /// Declared entities: name and replacement text.
    entities: Vec<(&'t str, &'t str)>,
    expanded: usize,
    sound: bool,
}

impl<'t> Reader<'t> {
    /// The text before the next markup, and the markup. `None` when there is none left, or when it is not closed: then
    /// nothing after it can be trusted, and looking for its end again and again would take quadratic time.
    fn next_markup(&mut self) -> Option<(&'t str, Markup<'t>)> {
        let mut from = 0;
        loop {
            let at = from + memchr::memchr(b'<', self.rest.as_bytes().get(from..)?)?;
            let (before, markup) = self.rest.split_at_checked(at)?;
            if begins_markup(markup) {
                let found = markup_of(markup);
                self.sound &= found.is_some();
                let (markup, rest) = found?;
                self.rest = rest;
                return Some((before, markup));
            }
            // A bare `<` is text.
            self.sound = false;
            from = at + 1;
        }
    }

    fn push_text(&mut self, text: &str) {
        resolve(text, &self.entities, &mut self.expanded, &mut self.run);
    }

    fn flush(&mut self, element: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let run = self.run.trim();
        if !run.is_empty() {
            field(element, run, sink)?;
        }
        self.run.clear();
        ControlFlow::Continue(())
    }

    fn attributes(&mut self, text: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let mut rest = text.trim();
        let mut value_text = String::new();
        for _ in 0..ATTRIBUTES_MAX {
            let Some((name, raw, after)) = attribute(rest) else { break };
            rest = after;
            value_text.clear();
            resolve(raw, &self.entities, &mut self.expanded, &mut value_text);
            field(name, &value_text, sink)?;
        }
        if rest.is_empty() {
            return ControlFlow::Continue(());
        }
        self.sound = false;
        field("", rest, sink)
    }

    /// Remembers the internal entities of a document type declaration.
    fn declare(&mut self, declaration: &'t str) {
        for piece in declaration.split("<!ENTITY").skip(1).take(ENTITIES_MAX) {
            let piece = piece.trim_start();
            let Some((name, value)) = piece.split_once(char::is_whitespace) else { continue };
            let value = value.trim_start();
            let Some(quote) = value.chars().next().filter(|quote| matches!(quote, '"' | '\'')) else { continue };
            let Some((value, _)) = value.get(1..).and_then(|value| value.split_once(quote)) else { continue };
            if self.entities.len() < ENTITIES_MAX {
                self.entities.push((name, value));
            }
        }
    }
}

/// True for elements that processors obey: inclusions, and instructions of a stylesheet.
fn acts(name: &str) -> bool {
    name.split_once(':').is_some_and(|(prefix, local)| local == "include" || prefix.eq_ignore_ascii_case("xsl"))
}

/// True when a `<` here opens markup rather than standing for itself.
fn begins_markup(text: &str) -> bool {
    let next = text.chars().nth(1);
    next.is_some_and(|char| char.is_alphabetic() || matches!(char, '!' | '?' | '/' | '_' | ':'))
}

/// Hands out one text or attribute, structure inside it first.
fn field(name: &str, text: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
    sink.field(Source::Body, Kind::Xml, name, text)
}

/// Hands out a piece of markup as it stands.
fn whole(name: &str, text: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let context = Context { source: Source::Body, name: Cow::Borrowed(name), kind: Kind::Xml };
    let lens = sink.lens();
    sink.value(Value { context, text: text.trim(), lens })
}

/// The markup that `text` begins with, and what follows it.
fn markup_of(text: &str) -> Option<(Markup<'_>, &str)> {
    if let Some(rest) = text.strip_prefix("<![CDATA[") {
        return rest.split_once("]]>").map(|(data, rest)| (Markup::Data(data), rest));
    }
    if let Some(rest) = text.strip_prefix("<!--") {
        return rest.split_once("-->").map(|(comment, rest)| (Markup::Comment(comment), rest));
    }
    if text.starts_with("<?") {
        let (instruction, rest) = text.split_at_checked(text.find("?>")? + 2)?;
        let is_declaration = instruction.get(2..5).is_some_and(|target| target.eq_ignore_ascii_case("xml"))
            && !instruction
                .get(5..6)
                .is_some_and(|next| next.starts_with(|char: char| char.is_alphanumeric() || char == '-'));
        return Some((Markup::Instruction(if is_declaration { "" } else { instruction }), rest));
    }
    if text.starts_with("<!") {
        let (declaration, rest) = text.split_at_checked(declaration_end(text)?)?;
        return Some((Markup::Declaration(declaration), rest));
    }
    if let Some(rest) = text.strip_prefix("</") {
        return rest.split_once('>').map(|(_, rest)| (Markup::End, rest));
    }
    let rest = text.strip_prefix('<')?;
    let end = tag_end(rest)?;
    let (tag, rest) = rest.split_at_checked(end)?;
    let is_empty = tag.ends_with('/');
    let tag = tag.strip_suffix('/').unwrap_or(tag);
    let (name, attributes) = tag.split_once(|char: char| char.is_whitespace() || char == '/').unwrap_or((tag, ""));
    Some((Markup::Start { name, attributes, is_empty }, rest.get(1..).unwrap_or_default()))
}

/// Offset of the `>` that ends a tag: quotes may hold one.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    text.bytes().position(|byte| match quote {
        Some(open) => {
            if byte == open {
                quote = None;
            }
            false
        }
        None => {
            if matches!(byte, b'"' | b'\'') {
                quote = Some(byte);
            }
            byte == b'>'
        }
    })
}

/// Offset behind the `>` that ends a declaration: quotes and an internal subset may hold others.
fn declaration_end(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0usize);
    let end = text.bytes().position(|byte| {
        if let Some(open) = quote {
            if byte == open {
                quote = None;
            }
            return false;
        }
        match byte {
            b'"' | b'\'' => quote = Some(byte),
            b'<' => depth += 1,
            b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        byte == b'>' && depth == 0
    })?;
    Some(end + 1)
}

/// The attribute that `text` begins with: name, raw value, what follows.
fn attribute(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim_start();
    let (name, after) = text.split_once('=')?;
    let name = name.trim_end();
    if name.is_empty() || name.contains(|char: char| char.is_whitespace() || matches!(char, '"' | '\'' | '<')) {
        return None;
    }
    let after = after.trim_start();
    let quote = after.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let (value, rest) = after.get(1..)?.split_once(quote)?;
    Some((name, value, rest.trim_start()))
}

/// Appends `text` to `out` with character references and entities resolved; unknown ones stay as they are.
fn resolve(text: &str, entities: &[(&str, &str)], expanded: &mut usize, out: &mut String) {
    let mut rest = text;
    while let Some((plain, tail)) = rest.split_once('&') {
        out.push_str(plain);
        let end = tail.bytes().take(NAME_MAX + 1).position(|byte| byte == b';');
        let resolved = end.and_then(|end| {
            let (name, after) = (tail.get(..end)?, tail.get(end + 1..)?);
            Some((reference(name, entities)?, after))
        });
        rest = match resolved {
            Some((Reference::Char(char), after)) => {
                out.push(char);
                after
            }
            Some((Reference::Text(text), after)) if *expanded + text.len() <= EXPANSION_MAX => {
                *expanded += text.len();
                out.push_str(text);
                after
            }
            _ => {
                out.push('&');
                tail
            }
        };
    }
    out.push_str(rest);
}

enum Reference<'e> {
    Char(char),
    Text(&'e str),
}

fn reference<'e>(name: &str, entities: &[(&str, &'e str)]) -> Option<Reference<'e>> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).map(Reference::Char);
    }
    let char = match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => return entities.iter().find(|(known, _)| *known == name).map(|(_, text)| Reference::Text(text)),
    };
    Some(Reference::Char(char))
}

#[cfg(test)]
mod tests;
