//! Paths in the two forms that rules compare: decoded once for keys and limits, normalised for routes and exclusions.

use std::borrow::Cow;

/// Rounds of percent-decoding before a path that still holds an escape is given up.
pub const DECODE_ROUNDS: usize = 4;

/// Decodes percent escapes once. Bytes that are no UTF-8 become U+FFFD; broken escapes stay as they are.
/// Borrows when there is nothing to decode.
#[must_use]
pub fn decode_once(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let mut bytes = path.as_bytes().to_vec();
    decode_in_place(&mut bytes);
    Cow::Owned(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// A path after decoding and resolving its segments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Normal<'r> {
    /// Begins with `/`, holds no empty, `.` or `..` segment, no backslash and no trailing slash.
    pub path: Cow<'r, str>,
    /// False when the path holds bytes that are no UTF-8, or escapes that are left after [`DECODE_ROUNDS`]: then
    /// `path` is only a best guess, good for applying rules and never for lifting them.
    pub is_sound: bool,
}

/// Decodes up to [`DECODE_ROUNDS`] times, then resolves segments. Borrows when nothing has to change.
#[must_use]
pub fn normalise(path: &str) -> Normal<'_> {
    let mut is_sound = true;
    let decoded = decode_rounds(path, &mut is_sound);
    if has_plain_segments(&decoded) {
        return Normal { path: without_trailing_slash(decoded), is_sound };
    }
    Normal { path: Cow::Owned(resolve(&decoded)), is_sound }
}

fn decode_rounds<'r>(path: &'r str, is_sound: &mut bool) -> Cow<'r, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..DECODE_ROUNDS {
        decode_in_place(&mut bytes);
        *is_sound &= simdutf8::basic::from_utf8(&bytes).is_ok();
    }
    *is_sound &= !has_escape(&bytes);
    Cow::Owned(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// True when resolving would change nothing but a trailing slash.
fn has_plain_segments(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.first() == Some(&b'/')
        && memchr::memchr(b'\\', bytes).is_none()
        && !bytes.windows(2).any(|pair| matches!(pair, [b'/', b'/' | b'.']))
}

fn without_trailing_slash(path: Cow<'_, str>) -> Cow<'_, str> {
    if path.len() < 2 || !path.ends_with('/') {
        return path;
    }
    match path {
        Cow::Borrowed(text) => Cow::Borrowed(text.strip_suffix('/').unwrap_or(text)),
        Cow::Owned(mut text) => {
            text.pop();
            Cow::Owned(text)
        }
    }
}

fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split(['/', '\\']) {
        // A path parameter on a dot segment hides it from naive resolvers, and servers that strip it resolve it.
        let bare = segment.split_once(';').map_or(segment, |(name, _)| name);
        match bare {
            ".." => {
                kept.pop();
            }
            "." => {}
            _ if segment.is_empty() => {}
            _ => kept.push(segment),
        }
    }
    let mut text = String::with_capacity(path.len() + 1);
    for segment in &kept {
        text.push('/');
        text.push_str(segment);
    }
    if text.is_empty() {
        text.push('/');
    }
    text
}

/// Decodes every `%XX` once, in place.
fn decode_in_place(bytes: &mut Vec<u8>) {
    let Some(first) = memchr::memchr(b'%', bytes) else { return };
    let mut write = first;
    let mut read = first;
    while let Some(&byte) = bytes.get(read) {
        let decoded = match (byte, bytes.get(read + 1), bytes.get(read + 2)) {
            (b'%', Some(high), Some(low)) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        read += if decoded.is_some() { 3 } else { 1 };
        if let Some(slot) = bytes.get_mut(write) {
            *slot = decoded.unwrap_or(byte);
        }
        write += 1;
    }
    bytes.truncate(write);
}

fn has_escape(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|three| matches!(three, [b'%', high, low] if hex(*high).is_some() && hex(*low).is_some()))
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Path subtrees, normalised.
#[derive(Clone, Debug, Default)]
pub struct Subtrees {
    roots: Vec<String>,
}

impl Subtrees {
    /// Reads the entries; those that cannot be normalised are returned by position, not taken.
    #[must_use]
    pub fn new(entries: &[String]) -> (Self, Vec<usize>) {
        let mut subtrees = Self::default();
        let mut bad = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            let normal = normalise(entry);
            if !normal.is_sound || (normal.path == "/" && entry != "/") {
                bad.push(position);
                continue;
            }
            subtrees.roots.push(normal.path.into_owned());
        }
        (subtrees, bad)
    }

    /// True when a normalised path is one of the subtrees' roots or below one.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.roots.iter().any(|root| is_below(path, root))
    }
}

/// True when `path` is `root` or below it, at a segment border.
#[must_use]
pub fn is_below(path: &str, root: &str) -> bool {
    root == "/" || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_once_keeps_what_is_not_an_escape() {
        for (input, expected) in [
            ("/a%20b", "/a b"),
            ("/caf%C3%A9", "/café"),
            ("/a%2520b", "/a%20b"),
            ("/a%zz%4", "/a%zz%4"),
            ("/%", "/%"),
            ("/a%ffb", "/a\u{fffd}b"),
            ("/plain", "/plain"),
            ("", ""),
        ] {
            assert_eq!(decode_once(input), expected, "{input}");
        }
        assert!(matches!(decode_once("/plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn excluded_paths_cannot_be_reached_from_outside() {
        let (subtrees, bad) = Subtrees::new(&["/docs".to_owned(), "/static/".to_owned(), "//favicon.ico".to_owned()]);
        assert!(bad.is_empty());
        for (path, expected) in [
            ("/docs", true),
            ("/docs/", true),
            ("/docs/x", true),
            ("//docs", true),
            ("docs", true),
            ("/a/../docs", true),
            ("/docs/%zz", true),
            ("/%64ocs", true),
            ("/%2564ocs", true),
            ("/%252564ocs", true),
            ("/%25252564ocs", true),
            ("/%2525252564ocs", false),
            ("/favicon.ico", true),
            ("/static/css/a.css", true),
            ("/docsx", false),
            ("/DOCS", false),
            ("/docs;x", false),
            ("/static/../admin", false),
            ("/static/%2e%2e/admin", false),
            ("/static/..;/admin", false),
            ("/static/..;x=1/admin", false),
            ("/static\\..\\admin", false),
            ("/docs/%ff", false),
            ("/", false),
        ] {
            let normal = normalise(path);
            assert_eq!(normal.is_sound && subtrees.contains(&normal.path), expected, "{path}");
        }
    }

    #[test]
    fn the_root_covers_everything_only_when_written_so() {
        let (all, bad) = Subtrees::new(&["/".to_owned()]);
        assert!(bad.is_empty() && all.contains("/anything"));
        let (_, bad) = Subtrees::new(&["/a/..".to_owned(), "".to_owned(), "/%ff".to_owned(), "/ok".to_owned()]);
        assert_eq!(bad, [0, 1, 2]);
    }

    #[test]
    fn normal_paths_are_borrowed() {
        for (path, expected) in
            [("/", "/"), ("/api/items", "/api/items"), ("/api/items/", "/api/items"), ("/a;b=c", "/a;b=c")]
        {
            let normal = normalise(path);
            assert_eq!(normal.path, expected);
            assert!(matches!(normal.path, Cow::Borrowed(_)), "{path}");
        }
    }

    #[test]
    fn unsound_paths_still_resolve_as_far_as_possible() {
        let normal = normalise("/admin/%ff/../x");
        assert_eq!((normal.path.as_ref(), normal.is_sound), ("/admin/x", false));
    }

    proptest::proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "[/a.%2e5c;\\\\]{0,24}") {
            let once = normalise(&path);
            if once.is_sound && !once.path.contains('%') {
                let twice = normalise(&once.path);
                proptest::prop_assert_eq!(&twice.path, &once.path);
            }
            proptest::prop_assert!(once.path.starts_with('/'));
            proptest::prop_assert!(!once.path.contains('\\'));
            proptest::prop_assert!(once.path.split('/').all(|segment| segment != ".." && segment != "."));
        }
    }
}
