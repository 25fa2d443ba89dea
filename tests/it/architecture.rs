//! Who may know whom. The table below is the one in `docs/architecture.md`; the code is read, not believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may name. `main` and `lib` only assemble.
const TABLE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("request", &["model"]),
    ("config", &["model", "request"]),
    ("state", &["model", "config"]),
    ("detect", &["model", "config", "request"]),
    ("engine", &["model", "config", "request", "state", "detect"]),
    ("session", &["request"]),
    ("net", &[]),
    ("feeds", &["model", "config", "state", "net"]),
    ("lint", &["model", "config"]),
    ("clock", &["model", "detect"]),
    ("live", &["model", "config", "engine"]),
    ("telemetry", &["model", "config", "request", "detect", "clock", "net"]),
    ("grpc", &["model", "request", "engine", "session", "state", "clock", "live", "telemetry"]),
    ("server", &["model", "config", "state", "clock", "grpc", "telemetry"]),
    (
        "app",
        &[
            "model",
            "config",
            "request",
            "state",
            "detect",
            "engine",
            "session",
            "net",
            "feeds",
            "lint",
            "clock",
            "live",
            "telemetry",
            "grpc",
            "server",
        ],
    ),
];

/// Foreign crates with one door: the crate, and the files that may name it.
const DOORS: &[(&str, &[&str])] = &[
    ("tonic", &["grpc/", "server/", "app/serve.rs", "telemetry/otel/"]),
    ("prost", &["grpc/", "telemetry/otel/"]),
    ("tonic_health", &["app/serve.rs"]),
    ("tonic_reflection", &["app/serve.rs"]),
    ("hyper", &["server/"]),
    ("hyper_util", &["server/"]),
    ("axum", &["server/"]),
    ("hyperscan", &["detect/automaton.rs"]),
    ("deadpool_redis", &["state/redis"]),
    ("deadpool", &["state/redis/link.rs"]),
    ("rustls", &["state/redis/dial.rs", "net/client.rs", "server/tls.rs"]),
    ("reqwest", &["net/client.rs"]),
    ("tokio_rustls", &["server/tls.rs"]),
    ("x509_parser", &["server/tls.rs"]),
    ("figment", &["config/"]),
    ("cel", &["engine/expression"]),
    ("opentelemetry", &["telemetry/otel/"]),
    ("opentelemetry_proto", &["telemetry/otel/"]),
    ("prometheus_client", &["telemetry/"]),
    ("tracing_subscriber", &["telemetry/"]),
    ("maxminddb", &["feeds/"]),
    ("notify", &["app/reload.rs"]),
    ("clap", &["app/"]),
    ("mimalloc", &["main.rs"]),
];

/// Rooms of the core: decisions that depend on nothing but their arguments.
const CORE: &[&str] = &["model", "request", "detect", "engine", "session"];

/// What the core does not name.
const SHELL_WORDS: &[&str] = &[
    "tokio::",
    "SystemTime",
    "Instant::",
    "tracing::",
    "std::fs",
    "std::env",
    "TcpStream",
    "TcpListener",
    "println!",
    "eprintln!",
];

/// One source file: its path below `src` and its code without comments and tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// The first part of the path.
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

/// Everything below `src` except test modules, which may use what they like.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                if !name.contains("/tests/") {
                    found.push(Source { path: name, code: code(&fs::read_to_string(&path).unwrap()) });
                }
            }
        }
    }
    assert!(30 < found.len(), "the sources were found");
    found
}

/// The text up to the test module, without comments. Test modules stand last in our files.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Rooms that a file names: `crate::room` anywhere, and each member of `use crate::{a, b}`.
fn named(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `other_crate::` are something else.
        let before = code[..at].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (index, letter) in list.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ if start && depth == 0 && !letter.is_whitespace() => {
                            rooms.insert(word(&list[index..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
            None => drop(rooms.insert(word(rest))),
        }
    }
    rooms
}

/// True when a file names a foreign crate.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = &code[..at];
        // A segment of a longer path, or the end of a longer word, is something else.
        !before.ends_with("::") && !before.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_')
    })
}

/// Everything in `sources` that the rules forbid.
fn violations(sources: &[Source]) -> Vec<String> {
    let table: BTreeMap<&str, BTreeSet<&str>> =
        TABLE.iter().map(|(room, known)| (*room, known.iter().copied().collect())).collect();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !matches!(source.room(), "main" | "lib")) {
        let room = source.room();
        let Some(allowed) = table.get(room) else {
            found.push(format!("{}: the room `{room}` is not in the table", source.path));
            continue;
        };
        for named in named(&source.code) {
            if named != room && table.contains_key(&*named) && !allowed.contains(&*named) {
                found.push(format!("{}: `{room}` may not know `{named}`", source.path));
            }
        }
        for word in SHELL_WORDS.iter().filter(|word| CORE.contains(&room) && source.code.contains(**word)) {
            found.push(format!("{}: the core names `{word}`", source.path));
        }
        let reads_name = source.path.starts_with("detect/confirm/") && source.code.contains("context.name");
        // Verdicts for which nobody asked it are recalled under any name.
        if reads_name && source.path != "detect/confirm/mod.rs" {
            found.push(format!("{}: a second look asks a candidate for its name", source.path));
        }
        for (name, doors) in DOORS {
            let is_door = doors.iter().any(|door| source.path.starts_with(door));
            if !is_door && names_crate(&source.code, name) {
                found.push(format!("{}: the door to `{name}` is {doors:?}", source.path));
            }
        }
    }
    found
}

#[test]
fn every_room_knows_only_whom_it_may() {
    let found = violations(&sources());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_two_rooms_depend_on_each_other() {
    let mut reachable: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (room, known) in TABLE {
        let mut all: BTreeSet<&str> = known.iter().copied().collect();
        for other in *known {
            let beyond =
                reachable.get(other).unwrap_or_else(|| panic!("`{room}` stands before `{other}` in the table"));
            all.extend(beyond);
        }
        assert!(!all.contains(room), "`{room}` depends on itself");
        reachable.insert(room, all);
    }
}

/// The checker itself: each planted violation is found, and what only looks like one is not.
#[test]
fn a_planted_violation_is_found() {
    let plant = |path: &str, text: &str| violations(&[Source { path: path.to_owned(), code: code(text) }]);
    for (name, path, text, hit) in [
        ("a use", "model/addr.rs", "use crate::engine::Policy;", "may not know `engine`"),
        ("a path in code", "detect/mod.rs", "fn f() { crate::state::ask() }", "may not know `state`"),
        ("a list", "engine/mod.rs", "use crate::{model::time, grpc};", "may not know `grpc`"),
        ("a nested list", "engine/mod.rs", "use crate::{model::{a, b}, telemetry::X};", "may not know `telemetry`"),
        ("a room nobody knows", "extra/mod.rs", "", "not in the table"),
        ("time in the core", "engine/mod.rs", "let now = std::time::Instant::now();", "the core names"),
        ("files in the core", "detect/rows.rs", "std::fs::read(path)", "the core names `std::fs`"),
        ("a name read past the ledger", "detect/confirm/url.rs", "candidate.context.name", "asks a candidate"),
        ("a second door", "engine/mod.rs", "use hyperscan::Database;", "the door to `hyperscan`"),
        ("a door by its full path", "app/mod.rs", "let x = prost::Message::decode();", "the door to `prost`"),
    ] {
        let found = plant(path, text);
        assert!(found.iter().any(|line| line.contains(hit)), "{name}: {found:?}");
    }
    for (name, path, text) in [
        ("the own room", "engine/checks/mod.rs", "use crate::engine::policy::Policy;"),
        ("a comment", "model/addr.rs", "// crate::engine is named in a comment\n    /// crate::engine"),
        ("a test", "model/addr.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::engine::X; }"),
        ("a macro of the crate root", "model/addr.rs", "my_crate::engine::x!()"),
        ("a module that is called like a crate", "engine/mod.rs", "use crate::model::cel::X; let y = my_cel::x();"),
        ("assembly", "main.rs", "use crate::app; use mimalloc::MiMalloc;"),
    ] {
        assert_eq!(plant(path, text), Vec::<String>::new(), "{name}");
    }
}

/// The picture in the documentation is the table of this test.
#[test]
fn the_documented_table_is_this_one() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    for (room, known) in TABLE {
        let known = match (*room, known.is_empty()) {
            ("app", _) => "all".to_owned(),
            (_, true) => "nothing".to_owned(),
            (_, false) => known.join(", "),
        };
        let row = format!("| `{room}` | {known} |");
        assert!(text.contains(&row), "docs/architecture.md has no row\n{row}");
    }
}
