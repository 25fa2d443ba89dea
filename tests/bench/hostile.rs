//! A search for the dearest body: seeded, so that every run tries the same ones. Bodies are made of bait (what rows look
//! for, whole or cut), encoded over and over, padded, and put where clients put text. The dearest are then varied.

use std::path::Path;

use envoy_guard::app::input::Input;
use envoy_guard::detect::{Detector, Scope, Unmetered};
use serde_json::json;

use crate::cpu;
use crate::engine::Fresh;
use crate::table::{Report, Row};

/// Sizes in bytes, and bodies tried of each.
const SIZES: [(usize, usize); 3] = [(1 << 10, 7000), (10 << 10, 2500), (100 << 10, 500)];
/// Bytes of a query and of headers, values in them, and how many of each are tried.
const PART_BYTES: usize = 8 << 10;
const PART_VALUES: usize = 20;
const PART_COUNT: usize = 500;
/// Of these one in so many is a variation of one of the dearest.
const VARIED: usize = 2;
/// How many of the dearest are kept for variation.
const KEPT: usize = 24;
/// How many of the dearest are told, and written down.
const SHOWN: usize = 6;
/// Of each of those kept, the median of so many runs counts.
const RUNS: usize = 9;
/// Where they are written, as `loop` and `envoy-guard explain` take them.
const FOLDER: &str = "target/hostile";

/// What bodies are padded with.
const PADDING: [&str; 6] = [" ", "A", "a word, ", "\t", "0", "\u{e9}"];
/// What stands between two pieces.
const JOINTS: [&str; 20] =
    ["", " ", ";", "'", "\"", "\n", "/", "<", "(", ",", "&", "=", "|", "\\", "\\n", "\\r\\n", "%0a", "`", "$(", ":"];
/// Bait that no row spells out.
const MORE_BAIT: [&str; 40] = [
    "${",
    "{{",
    "#{",
    "<%",
    "<?php ",
    ";cat ",
    "<!--#",
    " or 1",
    "union/*",
    "`id`",
    "$(",
    "../",
    "..%2f",
    "&#x3c;",
    "%3c",
    "\\u003c",
    "c2VsZWN0",
    "<a href=",
    "javascript:",
    "onload=",
    "||",
    "&&",
    "(((",
    "' or '",
    "x\\ns\\nl",
    "net\\ng",
    "'--",
    "'||'",
    "\"&&\"",
    "<include ",
    "<!ENTITY a '",
    "<a b='c' d=e ",
    ";;;;;;;;",
    "http://a@b:c/",
    "$where:",
    "*(|(a=",
    "/*/**/",
    "<?php (",
    "\nx-a:",
    "system(",
];

/// A repeatable stream of numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// How a body is made.
#[derive(Clone, Debug)]
struct Plan {
    pieces: Vec<String>,
    joint: &'static str,
    encodings: Vec<Encoding>,
    padding: &'static str,
    /// Bytes of padding after each round of pieces.
    pad: usize,
    holder: Holder,
}

#[derive(Clone, Copy, Debug)]
enum Encoding {
    Percent,
    PercentMarks,
    Entity,
    Unicode,
    Hex,
    Base64,
}

const ENCODINGS: [Encoding; 6] =
    [Encoding::Percent, Encoding::PercentMarks, Encoding::Entity, Encoding::Unicode, Encoding::Hex, Encoding::Base64];

impl Encoding {
    fn of(self, text: &str) -> String {
        let each = |write: &dyn Fn(u8) -> String| text.bytes().map(write).collect::<String>();
        match self {
            Self::Percent => each(&|byte| format!("%{byte:02x}")),
            Self::PercentMarks => each(&|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b' ' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            }),
            Self::Entity => each(&|byte| format!("&#{byte};")),
            Self::Unicode => each(&|byte| format!("\\u{byte:04x}")),
            Self::Hex => each(&|byte| format!("\\x{byte:02x}")),
            Self::Base64 => base64(text.as_bytes()),
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * index)) as usize & 63]));
        }
    }
    text + &"=="[..(3 - bytes.len() % 3) % 3]
}

#[derive(Clone, Copy, Debug)]
enum Holder {
    Text,
    Form,
    JsonString,
    JsonStrings,
    JsonNested,
    Xml,
    Multipart,
    /// Values as short as they come, no two alike.
    JsonShort,
    /// Far deeper than the bound, and then text.
    JsonDeep,
    /// A member each.
    JsonMembers,
    XmlAttributes,
    MultipartParts,
    FormFields,
}

const HOLDERS: [Holder; 13] = [
    Holder::Text,
    Holder::Form,
    Holder::JsonString,
    Holder::JsonStrings,
    Holder::JsonNested,
    Holder::Xml,
    Holder::Multipart,
    Holder::JsonShort,
    Holder::JsonDeep,
    Holder::JsonMembers,
    Holder::XmlAttributes,
    Holder::MultipartParts,
    Holder::FormFields,
];

impl Holder {
    fn hold(self, unit: &str, size: usize) -> (&'static str, String) {
        let filled = |unit: &str| unit.repeat(size / unit.len().max(1) + 1);
        // Items that count up, until they fill the size.
        let counted = |item: &dyn Fn(usize) -> String| {
            let mut all = String::new();
            let mut number = 0;
            while all.len() < size {
                all.push_str(&item(number));
                number += 1;
            }
            all
        };
        let mut text = filled(unit);
        text.truncate(text.floor_char_boundary(size));
        let json = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Self::Text => ("text/plain", text),
            Self::Form => ("application/x-www-form-urlencoded", format!("q={}", text.replace('&', "%26"))),
            Self::JsonString => ("application/json", format!("{{\"q\":{}}}", json(&text))),
            Self::JsonStrings => {
                ("application/json", format!("[{}]", filled(&format!("{},", json(unit))).trim_end_matches(',')))
            }
            Self::JsonNested => {
                let depth = 20;
                ("application/json", format!("{}{}{}", "{\"a\":[".repeat(depth), json(&text), "]}".repeat(depth)))
            }
            Self::JsonShort => {
                let pieces: Vec<char> = unit.chars().collect();
                let item = |number: usize| {
                    let rest: String = pieces.iter().cycle().skip(number).take(2).collect();
                    json(&format!("{rest}{number:x}")) + ","
                };
                ("application/json", format!("[{}]", counted(&item).trim_end_matches(',')))
            }
            Self::JsonDeep => {
                let depth = 60.min(size / 16);
                ("application/json", format!("{}{}{}", "[".repeat(depth), json(&text), "]".repeat(depth)))
            }
            Self::JsonMembers => {
                let item = |number: usize| format!("{}:{number},", json(&format!("{unit}{number}")));
                ("application/json", format!("{{{}}}", counted(&item).trim_end_matches(',')))
            }
            Self::XmlAttributes => {
                let plain = unit.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
                ("application/xml", format!("<a {}/>", counted(&|number| format!("a{number}=\"{plain}\" "))))
            }
            Self::MultipartParts => {
                let part = |number: usize| {
                    format!("--zz\r\ncontent-disposition: form-data; name=\"q{number}\"\r\n\r\n{unit}\r\n")
                };
                ("multipart/form-data; boundary=zz", counted(&part) + "--zz--\r\n")
            }
            Self::FormFields => {
                let plain = unit.replace('&', "%26");
                ("application/x-www-form-urlencoded", counted(&|number| format!("q{number}={plain}&")))
            }
            Self::Xml => ("application/xml", format!("<a>{}</a>", text.replace('&', "&amp;").replace('<', "&lt;"))),
            Self::Multipart => (
                "multipart/form-data; boundary=zz",
                format!("--zz\r\ncontent-disposition: form-data; name=\"q\"\r\n\r\n{text}\r\n--zz--\r\n"),
            ),
        }
    }
}

impl Plan {
    fn rolled(dice: &mut Dice, bait: &[String]) -> Self {
        let count = 1 + dice.below(3);
        let depth = [0, 0, 0, 1, 1, 2, 3][dice.below(7)];
        Self {
            pieces: (0..count).map(|_| piece(dice, bait)).collect(),
            joint: *dice.one(&JOINTS),
            encodings: (0..depth).map(|_| *dice.one(&ENCODINGS)).collect(),
            padding: *dice.one(&PADDING),
            pad: [0, 0, 0, 8, 64, 400][dice.below(6)],
            holder: *dice.one(&HOLDERS),
        }
    }

    fn varied(&self, dice: &mut Dice, bait: &[String]) -> Self {
        let (mut plan, fresh) = (self.clone(), Self::rolled(dice, bait));
        match dice.below(7) {
            0 => plan.pieces.push(piece(dice, bait)),
            1 => plan.pieces = fresh.pieces,
            2 => plan.joint = fresh.joint,
            3 => plan.encodings = fresh.encodings,
            4 => plan.pad = fresh.pad,
            5 => plan.holder = fresh.holder,
            _ => {
                let index = dice.below(plan.pieces.len());
                plan.pieces[index] = piece(dice, bait);
            }
        }
        plan
    }

    /// What is repeated until a size is filled.
    fn unit(&self, size: usize) -> String {
        let mut unit = self.pieces.join(self.joint) + self.joint;
        unit.push_str(&self.padding.repeat(self.pad / self.padding.len()));
        for encoding in &self.encodings {
            unit = encoding.of(&unit);
            unit.truncate(unit.floor_char_boundary(size));
        }
        if unit.is_empty() { "x".to_owned() } else { unit }
    }

    fn input(&self, size: usize) -> Input {
        let (kind, mut body) = self.holder.hold(&self.unit(size), size);
        body.truncate(body.floor_char_boundary(size + 256));
        let mut input = bare();
        input.headers.push(("content-type".into(), kind.into()));
        input.body = body.into_bytes();
        input
    }
}

/// A request that is hardly anything but its body.
fn bare() -> Input {
    Input { method: "POST".into(), scheme: "https".into(), path: "/".into(), ..Input::default() }
}

/// The benign document of a size: no leaf occurs twice, and keys repeat.
fn benign(size: usize, salt: usize) -> Input {
    let mut input = Input { body: super::engine::new_post(size, salt).body, ..bare() };
    input.headers.push(("content-type".into(), "application/json".into()));
    input
}

/// The text of a program, as somebody pastes it: benign, and nothing but signs and words of code.
fn program(size: usize, salt: usize) -> Input {
    let mut text = String::from("import json\nfrom shop.models import Basket, Order\n\n\n");
    let mut number = 0;
    while text.len() < size {
        let name = format!("{salt:x}_{number}");
        text.push_str(&format!(
            "def total_{name}(items, discount=0.05):\n    \"\"\"Sums what {number} items cost.\"\"\"\n    if not items:\n        \
             return {{\"sum\": 0, \"count\": {number}}}\n    prices = [item.price * item.count for item in items if item.count > {number}]\n    \
             log.info(f'basket {{len(items)}}: {{prices!r}}')  # once each\n    return {{\"sum\": sum(prices) * (1 - discount), \
             \"count\": len(prices)}}\n\n\n"
        ));
        number += 1;
    }
    let mut input = Input { body: text.into_bytes(), ..bare() };
    input.headers.push(("content-type".into(), "text/plain".into()));
    input
}

/// A page as an editor posts it: benign, and nothing but markup and prose.
fn page(size: usize, salt: usize) -> Input {
    let mut text = format!("<!DOCTYPE html>\n<html lang=\"en\"><head><title>Season {salt}</title></head><body>\n");
    let mut number = 0;
    while text.len() < size {
        let name = format!("{salt:x}-{number}");
        text.push_str(&format!(
            "<h2 id=\"part-{name}\">What&rsquo;s new in garden {number}&nbsp;&mdash; &quot;oak &amp; beech&quot;</h2>\n<p class=\"lead\">We \
             didn\u{2019}t change the <a href=\"/catalog/chairs?page={number}&amp;sort=price\" title=\"Chairs\">chairs</a>; <b>everything</b> \
             else is new. Order by phone (+49 30 {number}) or online &gt; basket.</p>\n<ul style=\"margin: 0 1em\"><li>Table {name}, \
             80&times;120 cm</li><li><img src=\"https://img.example/{name}.jpg\" alt=\"Table, set\" width=\"320\"/></li></ul>\n<!-- part \
             {number} -->\n"
        ));
        number += 1;
    }
    let mut input = Input { body: text.into_bytes(), ..bare() };
    input.headers.push(("content-type".into(), "text/plain".into()));
    input
}

/// A piece of bait: whole, its beginning, or its end.
fn piece(dice: &mut Dice, bait: &[String]) -> String {
    let text = dice.one(bait);
    let cut = text.floor_char_boundary(dice.below(text.len() + 1));
    match dice.below(3) {
        0 if cut > 0 => text[..cut].to_owned(),
        1 if cut < text.len() => text[cut..].to_owned(),
        _ => text.clone(),
    }
}

/// What the rows' own examples and expressions spell out.
fn bait() -> Result<Vec<String>, std::io::Error> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../patterns");
    let mut files: Vec<_> = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut bait: Vec<String> = MORE_BAIT.iter().map(|text| (*text).to_owned()).collect();
    for file in files {
        for line in std::fs::read_to_string(file)?.lines() {
            let line = line.trim_start_matches(['-', ' ']);
            if let Some(pattern) = line.strip_prefix("pattern:") {
                let is_literal = |char: char| char.is_ascii_alphanumeric() || "<>/=-_:;!#%&@ ".contains(char);
                bait.extend(pattern.split(|char| !is_literal(char)).filter(|run| 2 < run.len()).map(str::to_owned));
            } else {
                let mut quoted = line.split('"');
                while let (Some(_), Some(text)) = (quoted.next(), quoted.next()) {
                    bait.push(text.chars().take(80).collect());
                }
            }
        }
    }
    bait.retain(|text| !text.is_empty());
    bait.sort_unstable();
    bait.dedup();
    Ok(bait)
}

/// Writes a request down, so that it can be looked at alone.
fn keep(name: &str, input: &Input) -> Result<String, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(FOLDER)?;
    let headers: Vec<(&str, String)> = input
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    // Bodies are made of text and cut between characters.
    let body = String::from_utf8_lossy(&input.body);
    let request = json!({ "id": name, "method": input.method, "path": input.path, "headers": headers, "body": body });
    let file = format!("{FOLDER}/{name}.json");
    std::fs::write(&file, request.to_string())?;
    Ok(file)
}

/// The middle one of what was measured.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// The dearest of `count` requests that `input` makes of plans, dearest first.
fn dearest(fresh: &Fresh<'_>, bait: &[String], count: usize, input: &dyn Fn(&Plan) -> Input) -> Vec<(f64, Plan)> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut dearest: Vec<(f64, Plan)> = Vec::new();
    for index in 0..count {
        let plan = match index % VARIED {
            0 if KEPT <= dearest.len() => dearest[dice.below(dearest.len())].1.varied(&mut dice, bait),
            _ => Plan::rolled(&mut dice, bait),
        };
        let request = input(&plan);
        let floor = if dearest.len() < KEPT { 0.0 } else { dearest[KEPT - 1].0 };
        let mut us = fresh.cost(&request, 1);
        if floor < us {
            us = fresh.cost(&request, 3).min(us);
        }
        if floor < us {
            dearest.push((us, plan));
            dearest.sort_by(|a, b| b.0.total_cmp(&a.0));
            dearest.truncate(KEPT);
        }
    }
    // What was dearest by a hiccup of the machine is not by the median.
    for (us, plan) in &mut dearest {
        *us = typical(fresh, &input(plan));
    }
    dearest.sort_by(|a, b| b.0.total_cmp(&a.0));
    dearest
}

/// What one request costs, none of whose values was seen before: the median.
fn typical(fresh: &Fresh<'_>, request: &Input) -> f64 {
    median((0..RUNS).map(|_| fresh.cost(request, 1)).collect())
}

/// What requests cost that were not seen before: the median.
fn usual(detector: &Detector, requests: &[Input]) -> f64 {
    median(requests.iter().map(|input| cpu::of(1, 1, || super::engine::inspect(detector, input))).collect())
}

/// What is refused is not looked at to its end: it would be cheap, and no measure.
fn passes<'i>(detector: &Detector, mut requests: impl Iterator<Item = &'i Input>) -> Result<(), String> {
    let finding = requests.find_map(|input| detector.inspect(&input.view(), &Scope::default(), &Unmetered).finding);
    finding.map_or(Ok(()), |finding| Err(format!("what was meant as benign is refused: {}", finding.trigger)))
}

/// Adds rows per size: the benign document of that size, the text of a program, a web page, and the dearest body found,
/// beside the document and beside the dearest of the three; and two for queries and for headers. Tries one in `part` of the bodies.
pub fn search(detector: &Detector, part: usize, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let bait = bait()?;
    let fresh = Fresh::new(detector);
    for (size, count) in SIZES.map(|(size, count)| (size, count / part.max(1))) {
        // Documents whose keys were seen before, and whose leaves were not; before and after, for the machine is shared.
        let documents: Vec<Input> = (0..80).map(|salt| benign(size, salt)).collect();
        let (before, after) = documents.split_at(40);
        let texts: [(&str, Vec<Input>); 2] = [
            ("program", (0..40).map(|salt| program(size, salt)).collect()),
            ("page", (0..40).map(|salt| page(size, salt)).collect()),
        ];
        passes(detector, texts.iter().flat_map(|(_, inputs)| inputs).chain(&documents))?;
        let mut benign = usual(detector, before);
        let cost_of = |(_, inputs): &(&str, Vec<Input>)| usual(detector, inputs);
        let mut costs: Vec<f64> = texts.iter().map(cost_of).collect();
        let mut dearest = dearest(&fresh, &bait, count, &|plan| plan.input(size));
        // All of it once more, side by side: a slow minute of the machine is not to fall on one of them alone.
        benign = benign.min(usual(detector, after));
        costs.iter_mut().zip(&texts).for_each(|(us, text)| *us = us.min(cost_of(text)));
        for (us, plan) in &mut dearest {
            *us = us.min(typical(&fresh, &plan.input(size)));
        }
        dearest.sort_by(|a, b| b.0.total_cmp(&a.0));
        let name = format!("{} KB", size >> 10);
        report.add(Row { what: "envoy-guard, benign".into(), input: name.clone(), us: benign, rps: None, ratio: None });
        keep(&format!("{}k-benign", size >> 10), &documents[0])?;
        for ((kind, inputs), us) in texts.iter().zip(&costs) {
            let (what, ratio) = (format!("envoy-guard, benign, {kind}"), Some((us / benign, "benign")));
            report.add(Row { what, input: name.clone(), us: *us, rps: None, ratio });
            keep(&format!("{}k-{kind}", size >> 10), &inputs[0])?;
        }
        for (place, (us, plan)) in dearest.iter().take(SHOWN).enumerate() {
            let file = keep(&format!("{}k-{place}", size >> 10), &plan.input(size))?;
            eprintln!("    {:.1} x, {file}: {plan:?}", us / benign);
        }
        if let Some((us, _)) = dearest.first() {
            let what = format!("envoy-guard, worst of {count}");
            let ratio = Some((us / benign, "benign"));
            report.add(Row { what: what.clone(), input: name.clone(), us: *us, rps: None, ratio });
            let text = costs.iter().copied().fold(benign, f64::max);
            let ratio = Some((us / text, "dearest benign"));
            report.add(Row { what, input: name, us: *us, rps: None, ratio });
        }
    }
    let parts: [(&str, &str, Place); 2] =
        [("query", "query, 8 KB", in_query), ("headers", "20 headers, 8 KB", in_headers)];
    for (file, name, place) in parts {
        let plain = |salt: usize| place(&format!("Garden chair {salt:x} of oak, "));
        let requests: Vec<Input> = (0..40).map(plain).collect();
        let benign = usual(detector, &requests);
        let count = PART_COUNT / part.max(1);
        let dearest = dearest(&fresh, &bait, count, &|plan| place(&plan.unit(PART_BYTES)));
        report.add(Row { what: "envoy-guard, benign".into(), input: name.into(), us: benign, rps: None, ratio: None });
        if let Some((us, plan)) = dearest.first() {
            let file = keep(&format!("{file}-0"), &place(&plan.unit(PART_BYTES)))?;
            eprintln!("    {:.1} x, {file}: {plan:?}", us / benign);
            let what = format!("envoy-guard, worst of {count}");
            report.add(Row { what, input: name.into(), us: *us, rps: None, ratio: Some((us / benign, "benign")) });
        }
    }
    Ok(())
}

/// Puts a unit somewhere.
type Place = fn(&str) -> Input;

/// A query of 20 parameters that hold a unit over and over.
fn in_query(unit: &str) -> Input {
    let value = |number: usize| format!("{number}{}", Encoding::PercentMarks.of(&filled(unit)).replace(' ', "+"));
    let pairs: Vec<String> = (0..PART_VALUES).map(|number| format!("q{number}={}", value(number))).collect();
    Input { path: format!("/?{}", pairs.join("&")), method: "GET".into(), ..bare() }
}

/// 20 headers that hold a unit over and over.
fn in_headers(unit: &str) -> Input {
    let plain = |char: char| if char.is_control() { ' ' } else { char };
    let value = |number: usize| format!("{number}{}", filled(unit)).chars().map(plain).collect::<String>();
    let headers = (0..PART_VALUES).map(|number| (format!("x-{number}"), value(number).into_bytes())).collect();
    Input { headers, method: "GET".into(), ..bare() }
}

/// As much of a unit as one value of a part holds.
fn filled(unit: &str) -> String {
    let mut text = unit.repeat(PART_BYTES / PART_VALUES / unit.len().max(1) + 1);
    text.truncate(text.floor_char_boundary(PART_BYTES / PART_VALUES));
    text
}
