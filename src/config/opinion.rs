//! What a check of a text comes to.

/// What a check thinks of a text.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Opinion {
    /// Fine.
    Good,
    /// Fine, but the user should know.
    Odd(String),
    /// Left out, and the user should know.
    Dropped(String),
    /// No known word; the second part is the nearest one.
    Unknown(String, Option<String>),
    /// Means nothing.
    Bad(String),
}

/// A text of the user, short enough for a message and without control characters.
pub(crate) fn brief(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut short: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if SHOWN < text.chars().count() {
        short.push('…');
    }
    short
}
