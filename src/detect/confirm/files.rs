//! File names: uploads that a server would run, and paths that only probes ask for.

use std::ops::Range;

use crate::detect::Source;
use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{Folded, at, find, has, is_blank, part, skip};

/// Extensions that common servers run; digits behind `php` do not count.
const RUN: &[&str] = &[
    "php", "phtml", "pht", "phps", "phar", "phpt", "pgif", "inc", "jsp", "jspx", "jspf", "jsw", "jsv", "asp", "aspx",
    "asa", "asax", "ascx", "ashx", "asmx", "cer", "cdx", "soap", "cfm", "cfml", "cfc", "cgi", "fcgi", "shtml", "shtm",
    "stm", "war", "hta", "xamlx",
];
/// Extensions that people's own machines run; dangerous behind a harmless one.
const LURE: &[&str] =
    &["exe", "scr", "bat", "cmd", "com", "vbs", "vbe", "js", "jse", "wsf", "msi", "ps1", "lnk", "hta", "jar", "pif"];
/// Extensions of documents and pictures.
const HARMLESS: &[&str] = &[
    "jpg", "jpeg", "png", "gif", "bmp", "webp", "svg", "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "txt",
    "csv", "mp3", "mp4", "zip",
];
/// Names by which a server takes its settings from a folder.
const SETTINGS: &[&str] = &[".htaccess", ".htpasswd", ".user.ini", "web.config", "php.ini"];

/// A `filename` parameter of a multipart header with a name that a server would run or obey.
pub(crate) fn upload_name(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    let mut from = 0;
    for _ in 0..8 {
        let start =
            from + memchr::memmem::find(Folded::<1024>::of(part(text, from, from + 1024)).bytes(), b"filename")?;
        let mut index = skip(text, start + 8, 4, |byte| byte == b'*' || is_blank(byte));
        from = start + 8;
        if at(text, index) != b'=' {
            continue;
        }
        index = skip(text, index + 1, 8, is_blank);
        let (name, end) = name_at(text, index);
        if is_dangerous(name) {
            return Some(start..end);
        }
    }
    None
}

/// A path, and nothing else, can be a probe.
pub(crate) fn probed_path(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    matches!(candidate.context.source, Source::Path | Source::Unknown).then_some(0..candidate.text.len())
}

/// The agent's own name.
pub(crate) fn agent_name(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let is_agent = candidate.context.source == Source::Header && candidate.name().eq_ignore_ascii_case("user-agent");
    is_agent.then_some(0..candidate.text.len())
}

/// The quoted or bare name that starts at `index`, and where it ends.
fn name_at(text: &[u8], index: usize) -> (&[u8], usize) {
    let quote = at(text, index);
    if matches!(quote, b'"' | b'\'')
        && let Some(close) = find(text, index + 1, quote)
    {
        return (part(text, index + 1, close), close);
    }
    let end = skip(text, index, 512, |byte| !is_blank(byte) && !matches!(byte, b';' | b'"'));
    // An extended value names its charset first.
    let name = part(text, index, end);
    let start = memchr::memmem::find(name, b"''").map_or(0, |quotes| quotes + 2);
    (part(name, start, name.len()), end)
}

fn is_dangerous(name: &[u8]) -> bool {
    if [&b"../"[..], b"..\\", b"..%2f", b"..%5c"].iter().any(|step| memchr::memmem::find(name, step).is_some()) {
        return true;
    }
    let base = name.rsplit(|byte| matches!(byte, b'/' | b'\\')).next().unwrap_or_default();
    if SETTINGS.iter().any(|settings| base.eq_ignore_ascii_case(settings.as_bytes())) {
        return true;
    }
    // What stands behind a NUL, a semicolon, a stream's name or a percent sign is cut off by one reader or another.
    let mut pieces = base.split(|byte| matches!(byte, 0 | b';' | b':' | b'%' | b'\n' | b'\r'));
    let head = pieces.next().unwrap_or_default();
    let is_cut = head.len() < base.len();
    let mut last: Option<&[u8]> = None;
    let mut ran = false;
    for extension in head.split(|byte| *byte == b'.').skip(1).map(<[u8]>::trim_ascii) {
        if extension.is_empty() {
            continue;
        }
        ran |= last.is_some_and(|before| runs(before) && (is_listed(extension, HARMLESS) || is_cut));
        if last.is_some_and(|before| is_listed(before, HARMLESS)) && is_listed(extension, LURE) {
            return true;
        }
        last = Some(extension);
    }
    ran || last.is_some_and(runs)
}

fn runs(extension: &[u8]) -> bool {
    let letters = skip(extension, 0, extension.len(), |byte| byte.is_ascii_alphabetic());
    let is_versioned = has(extension, 0, b"php") && letters == 3 && extension.iter().skip(3).all(u8::is_ascii_digit);
    is_versioned || is_listed(extension, RUN)
}

fn is_listed(extension: &[u8], list: &[&str]) -> bool {
    list.iter().any(|known| extension.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::confirm::testing::query;

    #[test]
    fn names_that_a_server_would_run() {
        for (name, expected) in [
            ("\"x.php\"", true),
            ("\"x.PhP7\"", true),
            ("\"x.php.jpg\"", true),
            ("\"x.php\0.jpg\"", true),
            ("\"x.asp;.jpg\"", true),
            ("\"x.php. \"", true),
            ("\"x.aspx::$DATA\"", true),
            ("\"invoice.pdf.exe\"", true),
            ("\".htaccess\"", true),
            ("\"../x.txt\"", true),
            ("x.jsp", true),
            ("\"photo.jpg\"", false),
            ("\"php.jpg\"", false),
            ("\"report.v1.2.pdf\"", false),
            ("\"setup.exe\"", false),
            ("\"Invoice (1).csv\"", false),
            ("\"index.php-guide.pdf\"", false),
        ] {
            let line = format!("Content-Disposition: form-data; name=\"f\"; filename={name}");
            assert_eq!(upload_name(&query(&line)).is_some(), expected, "{name}");
        }
        assert!(upload_name(&query("form-data; filename*=utf-8''x.php")).is_some());
        assert!(upload_name(&query("the filename of x.php")).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(filename|=|\"|\\.|php|;|\\PC|[\\x00-\\x20]){0,60}") {
            if let Some(found) = upload_name(&query(&text)) {
                prop_assert!(found.start <= found.end && found.end <= text.len());
            }
        }
    }
}
