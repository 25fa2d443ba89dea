//! Broken configurations: no panic, no hang, and every mistake names its key or its line.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::*;

/// Longest time one broken configuration may take. The slowest needs a tenth of it on a busy machine; a hang never ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator (SplitMix64), so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    const fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.roll() % bound as u64) as usize }
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

fn full_json() -> Value {
    serde_saphyr::from_str(FULL).unwrap()
}

/// The value as TOML; what is null is left out.
fn toml(value: &Value) -> String {
    let mut text = String::new();
    for (section, fields) in value.as_object().unwrap() {
        match fields {
            Value::Object(fields) => {
                text.push_str(&format!("[{section}]\n"));
                for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                    text.push_str(&format!("{key} = {}\n", inline(value)));
                }
            }
            list => text.insert_str(0, &format!("{section} = {}\n", inline(list))),
        }
    }
    text
}

fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs = map.iter().filter(|(_, value)| !value.is_null());
            format!(
                "{{ {} }}",
                pairs.map(|(key, value)| format!("{key:?} = {}", inline(value))).collect::<Vec<_>>().join(", ")
            )
        }
        plain => plain.to_string(),
    }
}

#[expect(clippy::disallowed_methods, reason = "measures how long a load takes")]
fn clock() -> Instant {
    Instant::now()
}

/// Loads `bytes`; whatever is reported must be findable. True when it loads.
#[track_caller]
fn survives(name: &str, bytes: &[u8], about: &str) -> bool {
    let file = file(name, bytes);
    let begin = clock();
    let loaded = config::load(&Sources { file: Some(file.path.clone()), ..Sources::default() });
    assert!(begin.elapsed() < PATIENCE, "{about} takes {:?}", begin.elapsed());
    let Err(Errors(problems)) = loaded else { return true };
    assert!(!problems.is_empty(), "{about}");
    for problem in &problems {
        let text = problem.to_string();
        assert!(!text.contains("hunter2"), "{about}: {text}");
        let is_text = std::str::from_utf8(bytes).is_ok();
        assert!(0 < line(problem) || !problem.key.is_empty() || !is_text, "{about}: {text}");
        assert!(!problem.key.is_empty() || matches!(problem.class, Class::Syntax | Class::Type), "{about}: {text}");
    }
    false
}

#[test]
fn the_full_configuration_means_the_same_in_every_format() {
    let yaml = good(FULL);
    let json = load_as("guard.json", &format!("{:#}", full_json())).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(json.config, yaml.config);
    let mut plain = full_json();
    plain["security"]["redis_socket_timeout"] = 1.into();
    plain["security"]["log_country_check_level"] = "ERROR".into();
    let json = load_as("guard.json", &plain.to_string()).unwrap_or_else(|errors| panic!("{errors}"));
    let toml = load_as("guard.toml", &toml(&plain)).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(json.config, toml.config);
}

const WRONG: [&str; 22] = [
    "[]",
    "{}",
    "null",
    "-1",
    "0",
    "1e400",
    ".nan",
    "'x'",
    "\"\"",
    "true",
    "no",
    "[[[]]]",
    "{a: {b: c}}",
    "*a",
    "&a x",
    "!!binary x",
    "99999999999999999999999999999999999999999999",
    "0.1",
    "\"\\u0000\"",
    "|",
    "? x",
    "9223372036854775808",
];

fn mutate(text: &str, kind: usize, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let mut lines: Vec<&str> = text.lines().collect();
    let at = dice.below(lines.len());
    match kind {
        0 => bytes.truncate(dice.below(text.len())),
        1 => {
            for _ in 0..=dice.below(8) {
                let place = dice.below(text.len());
                bytes[place] = dice.roll() as u8;
            }
        }
        2 => drop(lines.remove(at)),
        3 => lines.insert(at, lines[at]),
        4 => {
            let other = dice.below(lines.len());
            lines.swap(at, other);
        }
        5 => {
            let line = lines[at].to_owned();
            let key = line.split_inclusive([':', '=']).next().unwrap_or_default();
            let changed = format!("{key} {}", dice.pick(&WRONG));
            return lines
                .iter()
                .enumerate()
                .map(|(index, line)| if index == at { &changed } else { *line })
                .collect::<Vec<_>>()
                .join("\n")
                .into();
        }
        6 => {
            let place = dice.below(text.len());
            bytes[place] = dice.pick(&["a", "_", " ", ":", "\"", "\n", "\t", "#", "-", "{", "]", "'"]).as_bytes()[0];
        }
        7 => {
            let place = dice.below(text.len());
            let nest = dice.pick(&["[", "{\"a\":", "- ", "{a: ", "? ", "!!x ", "&a "]).repeat(1 + dice.below(5000));
            bytes.splice(place..place, nest.bytes());
        }
        8 => bytes = (0..dice.below(2000)).map(|_| dice.roll() as u8).collect(),
        _ => {
            let place = dice.below(text.len());
            let end = (place + dice.below(40)).min(text.len());
            bytes.drain(place..end);
        }
    }
    if (2..=4).contains(&kind) { lines.join("\n").into() } else { bytes }
}

#[test]
fn a_thousand_broken_texts_are_survived() {
    let texts = [
        ("guard.yaml", FULL.to_owned()),
        ("guard.json", format!("{:#}", full_json())),
        ("guard.toml", toml(&full_json())),
    ];
    let (mut broken, mut seed) = (0, 0);
    while broken < 1000 {
        seed += 1;
        assert!(seed < 5000, "only {broken} of {seed} texts were broken");
        let (name, text) = &texts[seed % 3];
        let mut dice = Dice(seed as u64);
        let bytes = mutate(text, seed / 3 % 10, &mut dice);
        broken += usize::from(!survives(name, &bytes, &format!("seed {seed}, {name}")));
    }
}

/// Every path of `value` with its pointer and its key path.
fn paths(value: &Value, pointer: String, key: String, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-/*".contains(&byte));
                let own = match () {
                    () if name.starts_with("sha256:") => format!("{key}[0]"),
                    () if key.is_empty() => name.clone(),
                    () if plain => format!("{key}.{name}"),
                    () => format!("{key}.{name:?}"),
                };
                paths(inner, format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")), own, out);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                paths(inner, format!("{pointer}/{index}"), format!("{key}[{index}]"), out);
            }
        }
        _ => {}
    }
    if !key.is_empty() {
        out.push((pointer, key));
    }
}

/// Each value of the full configuration in turn is replaced by something else; what is reported is that key, a level
/// of it, or a field that depends on it.
#[test]
fn a_wrong_value_is_reported_under_its_own_key() {
    let full = full_json();
    let mut all = Vec::new();
    paths(&full, String::new(), String::new(), &mut all);
    let (mut broken, mut named) = (0, 0);
    for (pointer, key) in &all {
        for wrong in [json!([[["x"]]]), json!({ "zz": { "zz": [] } }), json!(-1e300), json!("\u{0}\n")] {
            let mut value = full.clone();
            *value.pointer_mut(pointer).unwrap() = wrong.clone();
            let Err(Errors(problems)) = load_as("guard.json", &value.to_string()) else { continue };
            broken += 1;
            let own =
                problems.iter().any(|problem| problem.key.starts_with(key.as_str()) || key.starts_with(&problem.key));
            named += usize::from(own);
            let crossed = problems.iter().any(|problem| problem.class == Class::CrossField);
            assert!(own || crossed, "{key} = {wrong}: {problems:#?}");
            assert!(problems.iter().all(|problem| !problem.key.is_empty()), "{key} = {wrong}: {problems:#?}");
        }
    }
    assert!(1000 < broken && broken - named < 20, "{named} of {broken} wrong values were named, of {} keys", all.len());
}

/// The typos of `word` that a hand makes: a letter dropped, doubled, swapped with its neighbour or replaced.
fn typos(word: &str) -> Vec<String> {
    let mut made = Vec::new();
    for place in 0..word.len() {
        let (before, after) = word.split_at(place);
        let (letter, rest) = after.split_at(1);
        made.push(format!("{before}{rest}"));
        made.push(format!("{before}{letter}{letter}{rest}"));
        made.push(format!("{before}q{rest}"));
        if let Some(next) = rest.get(..1) {
            made.push(format!("{before}{next}{letter}{}", rest.get(1..).unwrap_or_default()));
        }
    }
    made
}

/// Levenshtein distance with swaps, in its plainest form.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                let swapped = 1 < i && 1 < j && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { best.min(table[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    table[a.len()][b.len()]
}

#[test]
fn a_typo_gets_the_meant_key_as_its_hint() {
    let schema = config::schema();
    let keys: Vec<&str> =
        schema["$defs"]["SecurityConfig"]["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 131);
    let (mut tried, mut ambiguous) = (0, 0);
    for key in &keys {
        let once = typos(key);
        let mut dice = Dice(7);
        let twice: Vec<String> = (0..20)
            .map(|_| {
                let first = &once[dice.below(once.len())];
                let all = typos(first);
                all[dice.below(all.len())].clone()
            })
            .collect();
        let mut wanted: Vec<&String> =
            once.iter().chain(&twice).filter(|typo| !keys.contains(&typo.as_str())).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let fields: Map<String, Value> = wanted.iter().map(|typo| ((*typo).clone(), Value::Null)).collect();
        let problems = faults("guard.json", &json!({ "security": fields }).to_string());
        assert_eq!(problems.len(), wanted.len());
        for problem in problems {
            let typo = problem.key.strip_prefix("security.").unwrap();
            let hint = problem.hint.unwrap_or_else(|| panic!("{typo} gets no hint"));
            tried += 1;
            if hint != **key {
                let (own, other) =
                    (distance(typo.as_bytes(), key.as_bytes()), distance(typo.as_bytes(), hint.as_bytes()));
                assert!(other <= own, "{typo} is {key}, and not {hint}");
                ambiguous += 1;
            }
        }
    }
    assert!(5000 < tried && ambiguous * 100 < tried, "{ambiguous} of {tried} typos are ambiguous");
}

#[test]
fn sizes_are_bounded() {
    use config::DEPTH_MAX;
    use config::load::FILE_BYTES_MAX;
    let comment = |bytes: u64| "#".repeat(bytes as usize);
    assert!(survives("guard.yaml", comment(FILE_BYTES_MAX - 1).as_bytes(), "bound - 1"));
    assert!(survives("guard.yaml", comment(FILE_BYTES_MAX).as_bytes(), "bound"));
    let problems = faults("guard.yaml", &comment(FILE_BYTES_MAX + 1));
    assert_eq!((problems.len(), problems[0].class), (1, Class::File), "{problems:?}");
    for (name, depth, class) in [
        ("guard.json", DEPTH_MAX, Class::UnknownKey),
        ("guard.json", DEPTH_MAX + 1, Class::Syntax),
        ("guard.json", 100_000, Class::Syntax),
        ("guard.yaml", DEPTH_MAX - 1, Class::UnknownKey),
        ("guard.yaml", DEPTH_MAX + 1, Class::Syntax),
        ("guard.yaml", 100_000, Class::Syntax),
        ("guard.toml", 10, Class::UnknownKey),
        ("guard.toml", 100_000, Class::Syntax),
    ] {
        let nest = depth - 1;
        let text = match name {
            "guard.toml" => format!("a = {}{}", "[".repeat(nest), "]".repeat(nest)),
            _ => format!("{{\"a\": {}{}}}", "[".repeat(nest), "]".repeat(nest)),
        };
        let problems = faults(name, &text);
        assert_eq!((problems.len(), problems[0].class), (1, class), "{name} {depth}: {problems:?}");
    }
}

/// Threads of the service and of tests have 2 MiB of stack; half of that must do.
#[test]
fn nesting_cannot_exhaust_the_stack() {
    let text = |open: &str, close: &str| format!("{}{}", open.repeat(5000), close.repeat(5000));
    let texts = [
        ("guard.yaml", text("{a: ", "}")),
        ("guard.yaml", text("[", "]")),
        ("guard.yaml", text("{a: [", "]}")),
        ("guard.yaml", text("- ", "")),
        ("guard.yaml", text("? ", "")),
        ("guard.json", text("{\"a\":", "}")),
        ("guard.toml", format!("a = {}", text("[", "]"))),
        ("guard.toml", format!("a{} = 1", ".a".repeat(5000))),
        ("guard.toml", format!("[a{}]", ".a".repeat(5000))),
    ];
    let small = std::thread::Builder::new().stack_size(1024 * 1024);
    let run = small.spawn(move || texts.iter().all(|(name, text)| !survives(name, text.as_bytes(), name))).unwrap();
    assert!(run.join().unwrap());
}

#[test]
fn a_flood_of_mistakes_ends_early() {
    let keys =
        |count: usize| (0..count).map(|index| format!("\"rate_limi{index}\": 1")).collect::<Vec<_>>().join(",\n");
    for (name, text) in [
        ("guard.json", format!("{{\"security\": {{{}}}}}", keys(150_000))),
        ("guard.yaml", format!("security: {{{}}}", keys(20_000))),
        ("guard.json", format!("{{\"security\": {{\"whitelist\": [{}]}}}}", vec!["\"x\""; 500_000].join(","))),
        ("guard.json", format!("{{\"routes\": [{}]}}", vec!["{}"; 100_000].join(","))),
        (
            "guard.yaml",
            format!(
                "a: &a [x]\nb: &b [{0}]\nc: &c [{1}]\nd: [{2}]",
                "*a, ".repeat(50),
                "*b, ".repeat(50),
                "*c, ".repeat(50)
            ),
        ),
    ] {
        assert!(!survives(name, text.as_bytes(), name));
    }
}

#[test]
fn files_that_are_none() {
    let missing = config::load(&Sources { file: Some("no/such/guard.yaml".into()), ..Sources::default() });
    let Err(Errors(problems)) = missing else { panic!("loads") };
    assert_eq!((problems[0].class, problems.len()), (Class::File, 1));
    assert!(problems[0].to_string().starts_with("no/such/guard.yaml: cannot be read"), "{}", problems[0]);
    assert_eq!(faults("guard.ini", "a=b")[0].class, Class::File);
    assert_eq!(faults("guard", "{}")[0].class, Class::File);
    for text in ["a: 1\na: 2\n", "security: {x: 1, x: 2}"] {
        let problems = faults("guard.yaml", text);
        assert!(problems[0].message.contains("duplicate key"), "{problems:?}");
    }
    for (text, expected) in [("{\"a\": 1,\n\"a\": 2}", 2), ("{\"security\": {\n\n \"x\": 1, \"x\": 2}}", 3)] {
        let problems = faults("guard.json", text);
        assert!(problems[0].message.contains("duplicate key") && line(&problems[0]) == expected, "{problems:?}");
    }
    let problems = faults("guard.toml", "[security]\nrate_limit = 1\nrate_limit = 2\n");
    assert!(problems[0].message.contains("duplicate key") && line(&problems[0]) == 3, "{problems:?}");
    let problems = faults("guard.yaml", "a: 1\n---\nb: 1\n");
    assert!(problems[0].message.contains("more than one document"), "{problems:?}");
}
