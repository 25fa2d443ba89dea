//! Keys and leaves of JSON, with their places.

use std::borrow::Cow;
use std::ops::ControlFlow;

use smallvec::SmallVec;

use crate::detect::extract::Flow;
use crate::detect::extract::json::{Lexer, Soundness, Text, Token};
use crate::detect::extract::place::{Place, Step, same_name};
use crate::detect::extract::sink::{Sink, Value};
use crate::detect::{Context, Kind, Lens, Source};

/// Keys that MongoDB and its relatives execute.
const OPERATORS: [&str; 23] = [
    "$where",
    "$gt",
    "$lt",
    "$ne",
    "$eq",
    "$regex",
    "$in",
    "$nin",
    "$all",
    "$size",
    "$exists",
    "$type",
    "$mod",
    "$options",
    "$gte",
    "$lte",
    "$nor",
    "$and",
    "$or",
    "$not",
    "$expr",
    "$function",
    "$elemMatch",
];

/// Key texts remembered as handed out, so that the rows of a table do not repeat their column names.
const KEYS_REMEMBERED: usize = 64;

/// What holds the JSON text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'h> {
    pub(super) source: Source,
    /// Kind of leaves.
    pub(super) leaf: Kind,
    /// Kind of keys.
    pub(super) key: Kind,
    /// Name of the value the text was found in; `None` for a body, whose leaves are called by their keys.
    pub(super) name: Option<&'h str>,
    /// How its leaves are looked at.
    pub(super) lens: Lens<'h>,
    /// Where it was found.
    pub(super) place: Option<&'h Place<'h>>,
}

impl Holder<'static> {
    /// A JSON body.
    pub(super) const fn body(lens: Lens<'static>) -> Self {
        Self { source: Source::Body, leaf: Kind::JsonLeaf, key: Kind::JsonKey, name: None, lens, place: None }
    }
}

/// What a walked text turned out to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) soundness: Soundness,
    pub(super) roots: usize,
    pub(super) starts_with_container: bool,
}

/// What is done with the tokens that follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    /// Hand them out.
    Walk,
    /// The next value belongs to an excluded key.
    ExcludeNext,
    /// Inside an excluded container; how many containers are open in it.
    Excluded(usize),
    /// Inside a container beyond the depth bound, which starts at this byte; how many are open in it.
    TooDeep(usize, usize),
}

/// Hands out every key and leaf of `text`, as far as it is JSON, in document order. Duplicate keys are all seen.
pub(super) fn walk(text: &str, holder: &Holder<'_>, sink: &mut Sink<'_>) -> ControlFlow<(), Shape> {
    let mut lexer = Lexer::new(text);
    let mut walker = Walker { text, holder, steps: SmallVec::new(), mode: Mode::Walk, seen: Keys::default() };
    let mut scratch = String::new();
    while let Some(token) = lexer.next() {
        walker.token(token, lexer.position(), &mut scratch, sink)?;
    }
    if let Mode::TooDeep(start, _) = walker.mode {
        walker.subtree(text.get(start..).unwrap_or_default(), sink)?;
    }
    let (soundness, roots) = (lexer.soundness(), lexer.roots());
    ControlFlow::Continue(Shape { soundness, roots, starts_with_container: lexer.starts_with_container() })
}

struct Walker<'t, 'h> {
    text: &'t str,
    holder: &'h Holder<'h>,
    steps: SmallVec<[Step<'t>; 8]>,
    mode: Mode,
    seen: Keys<'t>,
}

impl<'t> Walker<'t, '_> {
    fn token(&mut self, token: Token<'t>, end: usize, scratch: &mut String, sink: &mut Sink<'_>) -> Flow {
        match self.mode {
            Mode::Walk => self.walk(token, end, scratch, sink),
            Mode::ExcludeNext => {
                self.mode = match token {
                    Token::OpenArray | Token::OpenObject => Mode::Excluded(1),
                    _ => Mode::Walk,
                };
                match token {
                    Token::Close | Token::Key(_) => self.walk(token, end, scratch, sink),
                    _ => Flow::Continue(()),
                }
            }
            Mode::Excluded(open) => {
                self.mode = match nested(open, token) {
                    0 => Mode::Walk,
                    open => Mode::Excluded(open),
                };
                Flow::Continue(())
            }
            Mode::TooDeep(start, open) => match nested(open, token) {
                0 => {
                    self.mode = Mode::Walk;
                    self.subtree(self.text.get(start..end).unwrap_or_default(), sink)
                }
                open => {
                    self.mode = Mode::TooDeep(start, open);
                    Flow::Continue(())
                }
            },
        }
    }

    fn walk(&mut self, token: Token<'t>, end: usize, scratch: &mut String, sink: &mut Sink<'_>) -> Flow {
        match token {
            Token::OpenObject | Token::OpenArray if sink.limits.json_depth_max <= self.steps.len() + 1 => {
                self.mode = Mode::TooDeep(end - 1, 1);
                Flow::Continue(())
            }
            Token::OpenObject => {
                self.steps.push(Step::Key(""));
                Flow::Continue(())
            }
            Token::OpenArray => {
                self.steps.push(Step::Element);
                Flow::Continue(())
            }
            Token::Close => {
                self.steps.pop();
                Flow::Continue(())
            }
            Token::Key(key) => self.key(key, scratch, sink),
            Token::String(text) => self.leaf(text.resolved(scratch), false, sink),
            Token::Literal(text) => self.leaf(text, true, sink),
        }
    }

    /// The key that is open is inside `constructor`: what it names is what objects of a kind share.
    fn is_in_constructor(&self) -> bool {
        let outer = self.steps.len().checked_sub(2).and_then(|index| self.steps.get(index));
        outer.and_then(|step| step.key()).is_some_and(|key| key == "constructor")
    }

    fn key(&mut self, key: Text<'t>, scratch: &mut String, sink: &mut Sink<'_>) -> Flow {
        if let Some(step) = self.steps.last_mut() {
            *step = Step::Key(key.raw);
        }
        let mut name = key.resolved(scratch);
        if sink.scope.excluded_body_fields.iter().any(|excluded| same_name(name, excluded)) {
            self.mode = Mode::ExcludeNext;
            return Flow::Continue(());
        }
        let is_pollution = name == "prototype" && !sink.is_guard_core() && self.is_in_constructor();
        if is_pollution {
            name = "constructor.prototype";
        } else if sink.scope.exclusions.is_empty() && self.seen.contains_or_add(key.raw) {
            return Flow::Continue(());
        }
        let context = Context { source: self.holder.source, name: Cow::Borrowed(name), kind: self.holder.key };
        let value = Value { context, text: name, lens: self.lens(false) };
        // `$type` names a class in half of the world's JSON.
        let is_operator = OPERATORS.contains(&name) && (name != "$type" || sink.is_guard_core());
        match name.starts_with('$') && is_operator {
            true => sink.operator(&value),
            false => sink.value(value),
        }
    }

    fn leaf(&self, text: &str, literal: bool, sink: &mut Sink<'_>) -> Flow {
        let value = self.value(text, literal);
        if literal { sink.value(value) } else { sink.whole(value) }
    }

    /// Hands out what lies beyond the depth bound, as it stands.
    fn subtree(&self, text: &str, sink: &mut Sink<'_>) -> Flow {
        sink.value(self.value(text, false))
    }

    fn value<'v>(&'v self, text: &'v str, literal: bool) -> Value<'v> {
        let name = match self.holder.name {
            Some(name) => Cow::Borrowed(name),
            None => self.steps.iter().rev().find_map(|step| step.key()).unwrap_or_default(),
        };
        let context = Context { source: self.holder.source, name, kind: self.holder.leaf };
        Value { context, text, lens: self.lens(literal) }
    }

    fn lens(&self, literal: bool) -> Lens<'_> {
        let place = Place { outer: self.holder.place, steps: &self.steps };
        Lens { literal, place, ..self.holder.lens }
    }
}

/// How many containers are open after `token`.
const fn nested(open: usize, token: Token<'_>) -> usize {
    match token {
        Token::OpenObject | Token::OpenArray => open + 1,
        Token::Close => open.saturating_sub(1),
        _ => open,
    }
}

/// Keys handed out before, by a digest; a newer key takes the place of an older one.
struct Keys<'t>([&'t str; KEYS_REMEMBERED]);

impl Default for Keys<'_> {
    fn default() -> Self {
        Self([""; KEYS_REMEMBERED])
    }
}

impl<'t> Keys<'t> {
    fn contains_or_add(&mut self, key: &'t str) -> bool {
        let bytes = key.as_bytes();
        let ends = (bytes.first().copied().unwrap_or(0), bytes.last().copied().unwrap_or(0));
        let digest = usize::from(ends.0) ^ usize::from(ends.1).rotate_left(3) ^ bytes.len().rotate_left(2);
        let Some(slot) = self.0.get_mut(digest % KEYS_REMEMBERED) else { return false };
        let seen = *slot == key && !key.is_empty();
        *slot = key;
        seen
    }
}
