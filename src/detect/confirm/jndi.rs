//! Log4j lookups: `${...}` resolved the way the library resolves them, nested ones included, until `jndi:` shows.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{at, part};

/// Nested lookups that are followed.
const DEPTH_MAX: usize = 24;
/// Bytes of resolved text that are kept.
const TEXT_MAX: usize = 192;

/// Convicts a lookup that resolves to a JNDI name.
pub(super) fn lookup(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    Resolver::new(candidate.text.as_bytes()).run()
}

/// One open lookup.
#[derive(Clone, Copy, Default)]
struct Frame {
    /// Where it opened, in the text.
    start: usize,
    /// Where its resolved text begins.
    text: usize,
}

struct Resolver<'t> {
    bytes: &'t [u8],
    frames: [Frame; DEPTH_MAX],
    depth: usize,
    resolved: [u8; TEXT_MAX],
    length: usize,
}

impl<'t> Resolver<'t> {
    fn new(bytes: &'t [u8]) -> Self {
        Self { bytes, frames: [Frame::default(); DEPTH_MAX], depth: 0, resolved: [0; TEXT_MAX], length: 0 }
    }

    fn run(mut self) -> Option<Range<usize>> {
        let mut here = 0;
        while here < self.bytes.len() {
            if at(self.bytes, here) == b'$' && at(self.bytes, here + 1) == b'{' {
                self.open(here);
                here += 2;
                continue;
            }
            if self.depth == 0 {
                here += memchr::memchr(b'$', part(self.bytes, here + 1, self.bytes.len()))? + 1;
                continue;
            }
            match at(self.bytes, here) {
                b'}' => self.close(),
                byte => self.push(byte),
            }
            here += 1;
            if let Some(start) = self.names_jndi() {
                return Some(start..here);
            }
        }
        None
    }

    fn open(&mut self, start: usize) {
        if self.depth == DEPTH_MAX {
            self.clear();
        }
        let text = self.length;
        if let Some(frame) = self.frames.get_mut(self.depth) {
            *frame = Frame { start, text };
            self.depth += 1;
        }
    }

    /// Text that grows without end is not a lookup.
    fn push(&mut self, byte: u8) {
        match self.resolved.get_mut(self.length) {
            Some(slot) => {
                *slot = byte.to_ascii_lowercase();
                self.length += 1;
            }
            None => self.clear(),
        }
    }

    fn clear(&mut self) {
        (self.depth, self.length) = (0, 0);
    }

    /// Puts what the innermost lookup resolves to in its place.
    fn close(&mut self) {
        self.depth -= 1;
        let start = self.frames.get(self.depth).map_or(0, |frame| frame.text);
        let value = value_of(part(&self.resolved, start, self.length));
        let (from, to) = (start + value.start, start + value.end);
        self.resolved.copy_within(from..to, start);
        self.length = start + (to - from);
    }

    /// The start of an open lookup whose resolved text begins with `jndi:`.
    fn names_jndi(&self) -> Option<usize> {
        let frames = self.frames.get(..self.depth)?;
        // Only the innermost lookup grows.
        let frame = frames.last()?;
        let text = part(&self.resolved, frame.text, self.length);
        text.trim_ascii_start().starts_with(b"jndi:").then_some(frame.start)
    }
}

/// The part of a closed lookup's text that stands for it.
fn value_of(text: &[u8]) -> Range<usize> {
    if let Some(default) = memchr::memmem::find(text, b":-") {
        return default + 2..text.len();
    }
    for prefix in [&b"lower:"[..], b"upper:"] {
        if text.starts_with(prefix) {
            return prefix.len()..text.len();
        }
    }
    if text.starts_with(b"date:'") && text.ends_with(b"'") && 6 < text.len() {
        return 6..text.len() - 1;
    }
    0..0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing;

    fn convicts(text: &str) -> bool {
        lookup(&testing::query(text)).is_some()
    }

    #[test]
    fn lookups_are_resolved() {
        for (text, expected) in [
            ("${jndi:ldap://h/a}", true),
            ("x ${JNDI:rmi://h} y", true),
            ("${${lower:J}ndi:dns://h}", true),
            ("${${::-j}${::-n}${::-d}${::-i}:ldap://h}", true),
            ("${${env:NOPE:-j}ndi${env:NOPE:-:}ldap://h}", true),
            ("${${lower:${upper:${::-j}}}ndi:x}", true),
            ("${${date:'j'}ndi:x}", true),
            ("${unclosed ${jndi:x}", true),
            ("${lower:jndi}", false),
            ("${user.name} and ${jndi}", false),
            ("jndi:ldap://h", false),
            ("${env:HOME}/${env:USER}", false),
            ("$ {jndi:x}", false),
        ] {
            assert_eq!(convicts(text), expected, "{text}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = format!("{}{}", "${a".repeat(DEPTH_MAX * 3), "${jndi:x}");
        assert!(convicts(&deep));
        let long = format!("${{{}}} ${{jndi:x}}", "a".repeat(TEXT_MAX * 3));
        assert!(convicts(&long));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(parts in prop::collection::vec(0..9_usize, 0..90)) {
            let pieces = ["${", "}", ":-", "j", "ndi", ":", "lower:", "é", "date:'"];
            let text: String = parts.iter().map(|part| pieces[*part]).collect();
            prop_assert!(lookup(&testing::query(&text)).is_none_or(|range| text.get(range).is_some()));
        }
    }
}
