//! Paths that leave their root or name what is never served: traversal in every spelling, and secret files.

use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{Folded, at, has, is_blank, is_word, part, skip};
use crate::detect::{Kind, Source, work};

/// Paths are read up to this many bytes.
const PATH_BYTES_MAX: usize = 8192;
/// Normalised bytes kept of one path; the end of a path names the file, so long paths keep theirs.
const PLAIN_BYTES_MAX: usize = 512;

/// What a byte costs that is normalised, and looked for among secrets.
const PLAIN_COST: usize = 4;

/// Files and folders whose name alone says what is wanted; lower case, single slashes, from a directory's beginning.
const SECRETS: &[&str] = &[
    "etc/passwd",
    "etc/shadow",
    "etc/gshadow",
    "etc/group",
    "etc/hosts",
    "etc/sudoers",
    "etc/issue",
    "etc/motd",
    "etc/crontab",
    "etc/fstab",
    "etc/resolv.conf",
    "etc/hostname",
    "etc/master.passwd",
    "etc/security/",
    "etc/ssh/",
    "etc/mysql/",
    "etc/my.cnf",
    "etc/apache2/",
    "etc/httpd/",
    "etc/nginx/",
    "etc/php",
    "etc/kubernetes/",
    "etc/environment",
    "etc/profile",
    "proc/self/",
    "proc/version",
    "proc/cmdline",
    "proc/cpuinfo",
    "proc/mounts",
    "proc/net/",
    "proc/sched_debug",
    "master.passwd",
    ".ssh/",
    "id_rsa",
    "id_ed25519",
    ".aws/credentials",
    ".kube/config",
    ".docker/config.json",
    ".htpasswd",
    ".bash_history",
    ".mysql_history",
    ".pgpass",
    ".netrc",
    "boot.ini",
    "win.ini",
    "system.ini",
    "windows/system32/",
    "windows/repair/",
    "winnt/repair/",
    "winnt/system32/",
    "windows/php.ini",
    "winnt/php.ini",
    "web-inf/",
    "meta-inf/context.xml",
    "var/log/",
    "var/run/secrets/",
    "run/secrets/",
    ".dockerenv",
    "apache/logs/",
    "httpd/logs/",
    "logs/access.log",
    "logs/error.log",
    "logs/access_log",
    "logs/error_log",
    "inetpub/logs/",
    "xampp/",
    "config.inc.php",
    "wp-config.php",
    ".git/config",
    ".svn/entries",
    "httpd.conf",
    "php.ini",
];

/// For each of the first three bytes of a secret and every value of it, the secrets that have it there, one bit each: a
/// walk over a path with three looks a byte tells which secrets may begin where.
static BEGINNINGS: [[u128; 256]; 3] = beginnings();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an index out of bounds is an error")]
const fn beginnings() -> [[u128; 256]; 3] {
    let mut beginnings = [[0; 256]; 3];
    assert!(SECRETS.len() <= 128, "one bit each");
    let mut index = 0;
    while index < SECRETS.len() {
        let mut place = 0;
        while place < 3 {
            beginnings[place][SECRETS[index].as_bytes()[place] as usize] |= 1 << index;
            place += 1;
        }
        index += 1;
    }
    beginnings
}

/// The secrets that occur in a normalised path, one bit each.
fn secrets_within(plain: &[u8]) -> u128 {
    let [first, second, third] = &BEGINNINGS;
    let mask = |table: &[u128; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or(0);
    let mut found = 0;
    for (start, bytes) in plain.windows(3).enumerate() {
        let [one, two, three] = bytes else { continue };
        let mut fits = mask(first, *one) & mask(second, *two) & mask(third, *three) & !found;
        while fits != 0 {
            let index = fits.trailing_zeros() as usize;
            fits &= fits - 1;
            let secret = SECRETS.get(index).map_or(&b""[..], |secret| secret.as_bytes());
            if part(plain, start, start + secret.len()) == secret {
                found |= 1 << index;
            }
        }
    }
    found
}

/// Roots of a machine below which no web parameter has business.
const ROOTS: &[&str] = &[
    "/etc/",
    "/proc/",
    "/root/",
    "/boot/",
    "/sys/",
    "/var/log/",
    "/var/run/",
    "/var/spool/",
    "/var/mail/",
    "/var/lib/",
    "/var/adm/",
    "/usr/local/etc/",
    "/usr/etc/",
    "/usr/pkg/",
    "/usr/local/apache",
    "/usr/local/php",
    "/usr/local/cpanel/",
    "/usr/local/nginx/",
    "/usr/local/pgsql/",
    "/usr/local/mysql/",
    "/usr/local/zend/",
    "/usr/lib/security/",
    "/usr/ports/",
    "/opt/apache",
    "/opt/lampp/",
    "/opt/xampp/",
    "/private/etc/",
    "/library/webserver/",
    "/volumes/",
    "/dev/shm/",
    "/logs/",
    "/apache/",
    "/apache2/",
    "/php/",
    "/php4/",
    "/php5/",
    "/xampp/",
    "/windows/",
    "/winnt/",
];

/// True when text holds the path of a file that nobody asks for in good faith.
pub(crate) fn names_secret(text: &[u8]) -> bool {
    let plain = Plain::of(text);
    secret_in(plain.bytes()).is_some()
}

/// A value that leaves its root, in any spelling.
pub(crate) fn escapes_root(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let base = candidate.value_start();
    let text = trimmed(candidate.value());
    let seen = Walk::over(text);
    let first = seen.first?;
    let is_single_word = !text.iter().any(|byte| is_blank(*byte));
    let source = candidate.context.source;
    let convicts = match (source, candidate.context.kind) {
        (Source::Path, _) => 0 < seen.up || 0 < seen.odd,
        _ if !is_single_word => 3 <= seen.up + seen.odd && (names_secret(text) || 6 <= seen.up),
        (Source::Body, Kind::JsonLeaf | Kind::Value | Kind::Xml) => {
            3 <= seen.up + seen.odd || 0 < seen.up + seen.odd && ends_in_code(text)
        }
        _ => 2 <= seen.up + seen.odd || 0 < seen.disguised || 0 < seen.up && ends_in_code(text),
    };
    convicts.then_some(base + first..base + seen.last)
}

/// A value that is the path of a secret file, however it gets there.
pub(crate) fn secret_file(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let base = candidate.value_start();
    let text = trimmed(candidate.value());
    if text.iter().any(|byte| is_blank(*byte)) && !starts_like_path(text) {
        return None;
    }
    if candidate.context.source == Source::Header && matches!(candidate.name(), "referer" | "origin" | "user-agent") {
        return None;
    }
    let plain = Plain::of(text);
    let at_index = secret_in(plain.bytes())?;
    let prefix = part(plain.bytes(), 0, at_index);
    let is_path = prefix.is_empty()
        || !prefix.iter().any(|byte| is_blank(*byte)) && (is_rooted(prefix) || is_traversal(prefix) || plain.is_cut);
    is_path.then_some(base..base + text.len())
}

/// An absolute path below a root of the machine, as a whole parameter.
pub(crate) fn machine_path(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    if candidate.context.source == Source::Path || matches!(candidate.context.kind, Kind::Name | Kind::JsonKey) {
        return None;
    }
    let base = candidate.value_start();
    let text = trimmed(candidate.value());
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    let path = strip_file_scheme(part(text, 0, end));
    if path.iter().any(|byte| is_blank(*byte) || matches!(byte, b',' | b'?' | b'&' | b'=')) {
        return None;
    }
    let plain = Plain::of(path);
    let bytes = plain.bytes();
    let drive = if at(bytes, 1) == b':' { 2 } else { 0 };
    let bytes = part(bytes, drive, bytes.len());
    let is_below = ROOTS.iter().any(|root| bytes.starts_with(root.as_bytes()) && root.len() < bytes.len());
    let is_settings = [&b"/usr/"[..], b"/opt/"].iter().any(|root| bytes.starts_with(root))
        && [&b"/etc/"[..], b"/conf/"].iter().any(|folder| memchr::memmem::find(bytes, folder).is_some());
    let is_below = is_below || is_settings;
    let is_windows_file = drive == 2 && names_file(bytes);
    // Configuration travels in JSON: there a plain path below a root is ordinary.
    let is_ordinary =
        candidate.context.source == Source::Body && candidate.context.kind == Kind::JsonLeaf && end == text.len();
    let convicts =
        (is_below || is_windows_file) && (!is_ordinary || secret_in(bytes).is_some() || path.len() < text.len());
    convicts.then_some(base..base + end)
}

/// The last part has an extension of configuration, logs or code.
fn names_file(path: &[u8]) -> bool {
    const EXTENSIONS: [&[u8]; 16] = [
        b".ini", b".conf", b".config", b".log", b".cnf", b".cfg", b".xml", b".php", b".asp", b".aspx", b".asa",
        b".jsp", b".inf", b".sys", b".dat", b".txt",
    ];
    EXTENSIONS.iter().any(|extension| path.ends_with(extension))
}

/// `file://` and `file:` say that a path follows.
fn strip_file_scheme(path: &[u8]) -> &[u8] {
    if !has(path, 0, b"file:") {
        return path;
    }
    let slashes = skip(path, 5, 8, |byte| byte == b'/');
    part(path, slashes.saturating_sub(1).max(5), path.len())
}

/// Starts where a path starts.
fn starts_like_path(text: &[u8]) -> bool {
    matches!(at(text, 0), b'/' | b'\\' | b'.') || at(text, 1) == b':' && at(text, 2) == b'\\'
}

fn trimmed(text: &str) -> &[u8] {
    part(text.as_bytes(), 0, PATH_BYTES_MAX).trim_ascii_end()
}

/// Where in a normalised path a secret's name starts, when it starts and ends like a name.
fn secret_in(plain: &[u8]) -> Option<usize> {
    let within = secrets_within(plain);
    if within == 0 {
        return None;
    }
    SECRETS.iter().enumerate().filter(|(index, _)| within >> index & 1 == 1).find_map(|(_, secret)| {
        let secret = secret.as_bytes();
        let at_index = memchr::memmem::rfind(plain, secret)?;
        let before = if at_index == 0 { b'/' } else { at(plain, at_index - 1) };
        let after = at(plain, at_index + secret.len());
        let starts = !is_word(before) || is_traversal(part(plain, 0, at_index));
        // `win.ini-explained` is another file; `passwd-` is the copy that tools leave.
        let goes_on = after == b'-' && at(plain, at_index + secret.len() + 1).is_ascii_alphanumeric();
        let ends = secret.ends_with(b"/") || secret == b"etc/php" || !(after.is_ascii_alphanumeric() || goes_on);
        (starts && ends).then_some(at_index)
    })
}

/// Only slashes, or words of a path from the root on.
fn is_rooted(prefix: &[u8]) -> bool {
    matches!(at(prefix, 0), b'/' | b'~') || at(prefix, 1) == b':' || has(prefix, 0, b"file:")
}

/// Dots, separators and their odd spellings; nothing a file would be called.
fn is_traversal(prefix: &[u8]) -> bool {
    let seen = Walk::over(prefix);
    0 < seen.up + seen.odd
        || !prefix.is_empty()
            && prefix.iter().all(|byte| {
                matches!(byte, b'.' | b'/' | b'\\' | b';' | b'%' | b'&') || !byte.is_ascii() || byte.is_ascii_control()
            })
}

/// A file that a web server would run or read its settings from.
fn ends_in_code(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| matches!(byte, 0 | b'?' | b'#')).unwrap_or(text.len());
    let path = part(text, 0, end);
    let cut = part(text, end, end + 1) == [0];
    cut || [
        &b".php"[..],
        b".inc",
        b".conf",
        b".config",
        b".ini",
        b".log",
        b".env",
        b".cgi",
        b".jsp",
        b".asp",
        b".aspx",
        b".bak",
        b".sql",
        b".xml",
        b".yml",
        b".pem",
        b".key",
    ]
    .iter()
    .any(|extension| extension.len() < path.len() && has(path, path.len() - extension.len(), extension))
}

/// A path in lower case with single forward slashes, without NULs, self references and odd encodings of slashes.
struct Plain {
    bytes: Folded<PLAIN_BYTES_MAX>,
    is_cut: bool,
}

impl Plain {
    fn of(text: &[u8]) -> Self {
        let mut bytes = Folded::new();
        // The end names the file.
        let start = text.len().saturating_sub(PLAIN_BYTES_MAX);
        work::read(PLAIN_COST * (text.len() - start));
        let mut last = 0;
        let mut index = start;
        while index < text.len() {
            let (byte, width) = match separator(text, index, last == b'.') {
                Some(width) => (b'/', width),
                None => (at(text, index), 1),
            };
            let is_self = byte == b'.' && last == b'/' && matches!(at(text, index + 1), b'/' | b'\\');
            if is_self {
                index += 2;
                continue;
            }
            if byte != 0 && !(byte == b'/' && last == b'/') {
                bytes.push(byte);
                last = byte;
            }
            index += width;
        }
        Self { bytes, is_cut: 0 < start }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.bytes()
    }
}

/// What a walk over a path came across.
#[derive(Default)]
struct Walk {
    /// Plain steps up: dot, dot, separator.
    up: usize,
    /// Steps with more dots, as filters that strip once leave them.
    odd: usize,
    /// Steps in a spelling that decoding should have removed, or with a path parameter.
    disguised: usize,
    first: Option<usize>,
    last: usize,
}

impl Walk {
    fn over(text: &[u8]) -> Self {
        let mut seen = Self::default();
        let mut index = 0;
        while index < text.len() {
            let Some((dots, dots_end, is_disguised)) = dots(text, index) else {
                index += 1;
                continue;
            };
            let before = if index == 0 { b'/' } else { at(text, index - 1) };
            let parameters = if at(text, dots_end) == b';' {
                skip(text, dots_end, 32, |byte| !matches!(byte, b'/' | b'\\'))
            } else {
                dots_end
            };
            let width = separator(text, parameters, true);
            // A step at the very end of a path needs no separator behind it.
            let ends = parameters == text.len() && 0 < index && matches!(before, b'/' | b'\\');
            if 2 <= dots && (width.is_some() || ends) && !is_word(before) && before != b'.' {
                let end = parameters + width.unwrap_or(0);
                seen.up += usize::from(dots == 2);
                seen.odd += usize::from(2 < dots && dots <= 4 || 16 < dots);
                seen.disguised += usize::from(
                    is_disguised
                        || dots_end < parameters
                        || width.is_some_and(|width| 1 < width)
                        || 2 < dots && dots <= 4,
                );
                seen.first = seen.first.or(Some(index));
                seen.last = end;
            } else if 2 <= dots && width.is_some() && before != b'.' && follows_step(text, index) {
                seen.up += 1;
            }
            index = dots_end.max(index + 1);
        }
        seen
    }
}

/// The dots glued to an oddly spelled separator, as in `..0x2f..`.
fn follows_step(text: &[u8], index: usize) -> bool {
    3 <= index
        && [&b"0x2f"[..], b"0x5c", b"%2f", b"%5c", b"2f", b"5c"]
            .iter()
            .any(|odd| odd.len() <= index && has(text, index - odd.len(), odd) && 0 < index - odd.len())
}

/// A run of dots in any spelling: how many, where it ends, and whether a spelling was odd.
fn dots(text: &[u8], from: usize) -> Option<(usize, usize, bool)> {
    let (mut count, mut index, mut is_odd) = (0, from, false);
    loop {
        let width = if at(text, index) == b'.' {
            1
        } else if has(text, index, b"0x2e") {
            4
        } else if has(text, index, b"%2e") {
            3
        } else if is_replacement(text, index) && at(text, index + 3) == b'.' {
            // An overlong dot whose first byte could not be decoded.
            4
        } else {
            break;
        };
        is_odd |= 1 < width;
        count += 1;
        index += width;
    }
    (0 < count).then_some((count, index, is_odd))
}

/// The width of a separator in any spelling. Behind dots, lone bytes that lenient decoders turn into one count too.
fn separator(text: &[u8], index: usize, behind_dots: bool) -> Option<usize> {
    let is_any = |odd: [&[u8]; 2]| odd.iter().any(|odd| has(text, index, odd));
    match at(text, index) {
        b'/' | b'\\' => Some(1),
        b'0' => is_any([b"0x2f", b"0x5c"]).then_some(4),
        b'%' => is_any([b"%2f", b"%5c"]).then_some(3),
        b'2' | b'5' if behind_dots => is_any([b"2f", b"5c"]).then_some(2),
        0x80.. if behind_dots => odd_separator(text, index),
        _ => None,
    }
}

/// The width of a replacement character, one for private use, or a look-alike of the slash.
fn odd_separator(text: &[u8], index: usize) -> Option<usize> {
    let character = std::str::from_utf8(part(text, index, index + 3)).ok().and_then(|text| text.chars().next());
    match character {
        Some('\u{fffd}') if at(text, index + 3) != b'.' => Some(if is_replacement(text, index + 3) { 6 } else { 3 }),
        Some('\u{2215}' | '\u{2216}' | '\u{2044}' | '\u{29f8}' | '\u{29f5}' | '\u{f025}' | '\u{efc8}') => Some(3),
        _ => None,
    }
}

fn is_replacement(text: &[u8], index: usize) -> bool {
    part(text, index, index + 3) == "\u{fffd}".as_bytes()
}

#[cfg(test)]
mod tests;
