//! Lists of addresses: one address or network a line, with comments.

use crate::model::addr::IpEntry;
use crate::model::lists::Entries;

/// How much of a list may be there, and how much of it may be bad.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Lines with content.
    pub entries_max: u32,
    /// Lines that cannot be read.
    pub bad_lines_max: u32,
}

/// A list as it was read.
#[derive(Clone, Debug)]
pub struct List {
    /// What is on it.
    pub entries: Entries,
    /// Lines that could not be read.
    pub bad_lines: u32,
}

/// Reads a list: each line holds an address or a network, and whatever follows it after a blank, `#`, `;` or `,` is a
/// comment. Empty lines and comments count for nothing. A network that covers everybody is a bad line.
///
/// # Errors
/// When there are too many entries, or too many lines that are none; names the first such line, not its content.
pub fn parse(bytes: &[u8], bounds: Bounds) -> Result<List, String> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let (mut content, mut bad_lines, mut first_bad) = (0_u32, 0_u32, 0_u32);
    let lines = (1_u32..).zip(bytes.split(|byte| *byte == b'\n'));
    let entries = Entries::new(
        lines
            .map_while(|(number, line)| {
                let Some(text) = entry(line) else { return Some(None) };
                content += 1;
                if bounds.entries_max < content {
                    return None;
                }
                let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse::<IpEntry>().ok());
                let parsed = parsed.filter(|entry| !matches!(entry, IpEntry::Net(net) if net.prefix_len() == 0));
                if parsed.is_none() {
                    first_bad = if bad_lines == 0 { number } else { first_bad };
                    bad_lines += 1;
                    // There is no use in reading on.
                    return (bad_lines <= bounds.bad_lines_max).then_some(None);
                }
                Some(parsed.map(|entry| (number, entry)))
            })
            .flatten(),
    );
    if bounds.entries_max < content {
        return Err(format!("holds more than {} entries", bounds.entries_max));
    }
    if bounds.bad_lines_max < bad_lines {
        let max = bounds.bad_lines_max;
        return Err(format!(
            "more than {max} lines hold neither an address nor a network; the first is line {first_bad}"
        ));
    }
    Ok(List { entries, bad_lines })
}

/// The part of a line that means something.
fn entry(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii();
    let end = line.iter().position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'#' | b';' | b','));
    let text = line.get(..end.unwrap_or(line.len())).unwrap_or_default();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { entries_max: 5, bad_lines_max: 1 };

    fn found(text: &[u8]) -> Result<(usize, u32), String> {
        parse(text, BOUNDS).map(|list| (list.entries.len(), list.bad_lines))
    }

    #[test]
    fn lists_are_read_line_by_line() {
        for (name, text, expected) in [
            ("nothing", &b""[..], Ok((0, 0))),
            ("comments", b"# a\n; b\n\n   \n", Ok((0, 0))),
            ("addresses and networks", b"192.0.2.1\n198.51.100.0/24\r\n2001:db8::/32", Ok((3, 0))),
            ("what follows is a comment", b"192.0.2.1 ; SBL1\n192.0.2.2#x\n192.0.2.3,9\n", Ok((3, 0))),
            ("a byte order mark", b"\xEF\xBB\xBF192.0.2.1\n", Ok((1, 0))),
            ("a bad line is counted", b"192.0.2.1\nnonsense\n", Ok((1, 1))),
            ("bytes that are no text", b"\xFF\xFE\n192.0.2.1", Ok((1, 1))),
            ("everybody is nobody", b"0.0.0.0/0\n192.0.2.1", Ok((1, 1))),
            ("as many as allowed", b"1.1.1.1\n1.1.1.2\n1.1.1.3\n1.1.1.4\n1.1.1.5", Ok((5, 0))),
            (
                "one more",
                b"1.1.1.1\n1.1.1.2\n1.1.1.3\n1.1.1.4\n1.1.1.5\n1.1.1.6",
                Err("holds more than 5 entries".to_owned()),
            ),
            (
                "a page instead of a list",
                b"192.0.2.1\n<html>\n<body>\n",
                Err("more than 1 lines hold neither an address nor a network; the first is line 2".to_owned()),
            ),
        ] {
            assert_eq!(found(text), expected, "{name}");
        }
    }

    #[test]
    fn lines_are_numbered_as_an_editor_does() {
        let list = parse(b"# head\n\n192.0.2.1\n", BOUNDS).unwrap();
        let addr: std::net::IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(list.entries.find(addr.into()).map(|(_, line)| line), Some(3));
    }
}
