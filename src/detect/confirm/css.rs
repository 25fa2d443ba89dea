//! Style text that runs: the few constructs by which a style sheet reached script or another sheet.

use crate::detect::confirm::scan::{Folded, at, is_blank};
use crate::detect::work;

/// Style text is read up to this many bytes, and as many normalised ones are kept.
const STYLE_BYTES_MAX: usize = 1024;

/// Where style text stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// In a `style` attribute.
    Attribute,
    /// In a `style` element.
    Sheet,
}

/// True when the style would run script or bind behaviour.
pub(crate) fn executes(style: &[u8], place: Place) -> bool {
    let plain = normalise(style);
    let holds = |needle: &[u8]| memchr::memmem::find(plain.bytes(), needle).is_some();
    holds(b"expression(")
        || holds(b"javascript:")
        || holds(b"vbscript:")
        || holds(b"behavior:url")
        || holds(b"-moz-binding:")
        || holds(b"url(data:text/html")
        || place == Place::Sheet && holds(b"@import")
}

/// The style without comments, escapes and white space, in lower case.
fn normalise(style: &[u8]) -> Folded<STYLE_BYTES_MAX> {
    let mut plain = Folded::new();
    let end = style.len().min(STYLE_BYTES_MAX);
    work::read(2 * end);
    let mut index = 0;
    while index < end {
        let byte = at(style, index);
        if byte == b'/' && at(style, index + 1) == b'*' {
            let close = style.get(index + 2..).and_then(|rest| memchr::memmem::find(rest, b"*/"));
            index = close.map_or(end, |offset| index + 2 + offset + 2);
            continue;
        }
        if byte == b'\\' {
            let (decoded, next) = escape(style, index + 1);
            if let Some(decoded) = decoded {
                plain.push(decoded);
            }
            index = next;
            continue;
        }
        if !is_blank(byte) && byte != 0 {
            plain.push(byte);
        }
        index += 1;
    }
    plain
}

/// The character behind a backslash: up to six hex digits, else the character itself.
fn escape(style: &[u8], from: usize) -> (Option<u8>, usize) {
    let mut code = 0u32;
    let mut index = from;
    while index < from + 6 {
        let Some(digit) = char::from(at(style, index)).to_digit(16) else { break };
        code = code * 16 + digit;
        index += 1;
    }
    if index == from {
        return (style.get(from).copied(), from + 1);
    }
    let next = if is_blank(at(style, index)) { index + 1 } else { index };
    (u8::try_from(code).ok().filter(u8::is_ascii), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_runs_behind_comments_and_escapes() {
        for (style, expected) in [
            ("width: expression(run())", true),
            ("width: ex/* */pre/**/ssion (run())", true),
            ("width:\\65xpression(run())", true),
            ("background: url( java\\script:run() )", true),
            ("behavior : url(x.htc)", true),
            ("color: red; background: url(/logo.png)", false),
            ("@import url(other.css)", false),
        ] {
            assert_eq!(executes(style.as_bytes(), Place::Attribute), expected, "{style}");
        }
        assert!(executes(b"@im\\port 'other.css'", Place::Sheet));
    }
}
