//! What the default profile blocks and lets pass: the lists in `tests/data/verdicts`, value by value, place by place.

use std::fmt::Write as _;
use std::path::Path;

use envoy_guard::app::input::Input;
use envoy_guard::config::exclusions::DetectionConfig;
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::detect::{Detector, Scope, Unmetered};

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";

/// Every byte of `text` that is not a letter, a digit or in `kept`, percent-encoded.
fn encode(text: &str, kept: &str) -> String {
    let mut coded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte) {
            coded.push(char::from(byte));
        } else {
            write!(coded, "%{byte:02X}").unwrap();
        }
    }
    coded
}

/// A request with `value` in `place`; places are those of the folder's README.
fn request(place: &str, value: &str) -> Input {
    let (place, name) = place.split_once(':').unwrap_or((place, ""));
    let named = |default: &str| encode(if name.is_empty() { default } else { name }, "[]$_-");
    let headers = vec![("host".into(), "www.example.com".into()), ("user-agent".into(), FIREFOX.into())];
    let get = Input { method: "GET".into(), path: "/search".into(), headers, ..Input::default() };
    let with = |name: &str, value: String| {
        let mut input = get.clone();
        input.headers.push((name.to_owned(), value.into_bytes()));
        input
    };
    let post = |kind: &str, body: String| {
        let input = with("content-type", kind.to_owned());
        Input { method: "POST".into(), path: "/items".into(), body: body.into_bytes(), ..input }
    };
    match place {
        "query" => Input { path: format!("/search?{}={}", named("q"), encode(value, "-._~")), ..get },
        "path" => Input { path: value.to_owned(), ..get },
        "cookie" => with("cookie", format!("theme=dark; seen={}", encode(value, "-._~"))),
        "header" => with(name, value.to_owned()),
        "form" => {
            let body = format!("page=2&{}={}", named("text"), encode(value, "-._~"));
            post("application/x-www-form-urlencoded", body)
        }
        "json" => post("application/json", serde_json::json!({"page": 2, "text": value}).to_string()),
        "body" => post(name, value.to_owned()),
        _ => panic!("no such place: {place}"),
    }
}

/// Tries every line of one file; returns what came out wrong.
fn wrong_in(file: &Path, detector: &Detector) -> (Vec<String>, [usize; 2]) {
    let text = std::fs::read_to_string(file).unwrap();
    let (mut verdict, mut places) = ("", Vec::new());
    let (mut wrong, mut counts) = (Vec::new(), [0, 0]);
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("## ")) {
        if let Some(head) = line.strip_prefix("== ") {
            let mut words = head.split_whitespace();
            verdict = words.next().unwrap();
            places = words.collect();
            assert!(["hostile", "benign", "missed"].contains(&verdict) && !places.is_empty(), "{line}");
            continue;
        }
        counts[usize::from(verdict == "benign")] += 1;
        let value = line.replace('␊', "\n").replace('␍', "\r").replace('␉', "\t").replace('␀', "\0");
        for place in &places {
            let input = request(place, &value);
            let found = detector.inspect(&input.view(), &Scope::default(), &Unmetered).finding;
            if found.is_some() != (verdict == "hostile") {
                let rows: Vec<_> = found.iter().flat_map(|found| &found.threats).map(|threat| &threat.row).collect();
                wrong.push(format!("{}: {verdict} in {place}: {line} {rows:?}", file.display()));
            }
        }
    }
    (wrong, counts)
}

/// `text` in the EBCDIC code page 037, as far as the texts below need it.
fn ebcdic(text: &str) -> Vec<u8> {
    let code = |byte: u8| match byte {
        b'a'..=b'i' => byte - b'a' + 0x81,
        b'j'..=b'r' => byte - b'j' + 0x91,
        b's'..=b'z' => byte - b's' + 0xa2,
        b'A'..=b'I' => byte - b'A' + 0xc1,
        b'J'..=b'R' => byte - b'J' + 0xd1,
        b'S'..=b'Z' => byte - b'S' + 0xe2,
        b'0'..=b'9' => byte - b'0' + 0xf0,
        b' ' => 0x40,
        b'=' => 0x7e,
        b'-' => 0x60,
        b'\'' => 0x7d,
        other => panic!("{other} is not in the table"),
    };
    text.bytes().map(code).collect()
}

/// Bodies whose bytes hide a text, each with the text that must be found and one that must pass.
#[test]
fn coded_bodies_are_read_like_plain_ones() {
    type Hide = fn(&str) -> (&'static str, &'static str, Vec<u8>);
    let transforms: [(&str, Hide); 6] = [
        ("36 folded multipart headers, two boundaries", |text| {
            let body = format!(
                "--X7\r\nContent-Disposition: form-data;\r\n name=\"a\"; filename*=utf-8''a.txt\r\n\r\n{text}\r\n--X7--\r\n"
            );
            ("multipart/form-data; boundary=X7; boundary=Y8", "", body.into_bytes())
        }),
        ("37 gzip", |text| {
            let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut coder, format!("id={}", encode(text, "")).as_bytes()).unwrap();
            ("application/x-www-form-urlencoded", "gzip", coder.finish().unwrap())
        }),
        ("38 EBCDIC", |text| ("text/plain; charset=ibm037", "", ebcdic(text))),
        ("38 UTF-16", |text| {
            let body = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            ("text/plain; charset=utf-16le", "", body)
        }),
        ("38 UTF-7", |text| {
            let body = text.replace('\'', "+ACc-").replace('=', "+AD0-");
            ("text/plain; charset=utf-7", "", body.into_bytes())
        }),
        ("41 padding", |text| {
            let body = serde_json::json!({"filler": "lorem ipsum ".repeat(12_000), "id": text}).to_string();
            ("application/json", "", body.into_bytes())
        }),
    ];
    let detector = Detector::compile(&SecurityConfig::default(), &DetectionConfig::default()).unwrap();
    for (name, hide) in transforms {
        for (text, expected) in [("4' or '4'='4", true), ("it is 4 or 5", false)] {
            let (kind, coding, body) = hide(text);
            let mut input = request("body:text/plain", "");
            input.headers.retain(|(name, _)| name != "content-type");
            input.headers.push(("content-type".into(), kind.into()));
            input.headers.push(("content-encoding".into(), coding.into()));
            input.headers.retain(|(_, value)| !value.is_empty());
            input.body = body;
            let finding = detector.inspect(&input.view(), &Scope::default(), &Unmetered).finding;
            assert_eq!(finding.is_some(), expected, "{name}: {text}: {finding:?}");
        }
    }
}

#[test]
fn attacks_are_blocked_and_their_look_alikes_pass() {
    let detector = Detector::compile(&SecurityConfig::default(), &DetectionConfig::default()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/verdicts");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in &files {
        let (found, [hostile, benign]) = wrong_in(file, &detector);
        assert!(2 <= hostile + benign, "{} is empty", file.display());
        wrong.extend(found);
    }
    assert!(wrong.is_empty(), "{} verdicts are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
