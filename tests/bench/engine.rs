//! Engine time per request, in process: ours, the crate `guard-core-engine`, and guard-core in Python.

use std::cell::Cell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use envoy_guard::app::input::Input;
use envoy_guard::config::exclusions::DetectionConfig;
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::detect::cache::DatabaseCache;
use envoy_guard::detect::{Detector, Material, Scope, Unmetered};
use serde_json::json;

use crate::table::{Report, Row};
use crate::{cpu, frame, hostile, modsecurity};

const ROUNDS: usize = 7;
/// Requests of the corpus that the slow rivals get.
const SAMPLE: usize = 150;
/// Requests with values that were never seen before.
const NEW: usize = 700;

/// Names of the inputs that every rival gets.
const GET: &str = "GET, 18 values";
const POST: &str = "POST, 10 KB JSON";

/// A GET with 18 values: names and values of 2 parameters and 6 headers, the path, and an empty body.
fn get() -> Input {
    let mut input = Input { method: "GET".into(), scheme: "https".into(), ..Input::default() };
    input.path = "/catalog/items?page=2&category=garden+furniture".into();
    for (name, value) in [
        ("host", "shop.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("referer", "https://shop.example.com/catalog"),
        ("x-request-id", "5b2f0a52-6e8c-4a30-9d6f-0a1d5f3b7c11"),
    ] {
        input.headers.push((name.into(), value.into()));
    }
    input
}

/// The same with a benign JSON body of about `bytes` bytes, whose items repeat most of their words.
fn post(bytes: usize) -> Input {
    with_items(bytes, |_| String::new())
}

/// The same with no leaf twice, and other leaves for each `salt`; keys repeat.
pub fn new_post(bytes: usize, salt: usize) -> Input {
    with_items(bytes, |number| format!(" {salt:x}{number:04}"))
}

fn with_items(bytes: usize, mark: impl Fn(usize) -> String) -> Input {
    let mut items = Vec::new();
    let mut size = 0;
    while size < bytes {
        let number = items.len();
        let mark = mark(number);
        let item = json!({
            "id": number, "name": format!("Garden chair {number}{mark}"), "price": 49.9, "in_stock": number % 3 != 0,
            "tags": [format!("outdoor{mark}"), format!("wood{mark}"), format!("sale{mark}")],
            "note": format!("Weatherproof; fits a table of 80 cm{mark}. Customers also look at the matching bench & cushions."),
        });
        size += item.to_string().len() + 1;
        items.push(item);
    }
    let mut input = get();
    input.method = "POST".into();
    input.body = json!({ "items": items }).to_string().into_bytes();
    input.headers.push(("content-type".into(), b"application/json".to_vec()));
    input.headers.push(("content-length".into(), input.body.len().to_string().into_bytes()));
    input
}

/// The values that a per-value engine is given for a request: context and text.
fn values(input: &Input) -> Vec<(String, String)> {
    let mut list = Vec::new();
    let (path, query) = input.path.split_once('?').unwrap_or((&input.path, ""));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        list.push((format!("query_param:{name}"), name.to_owned()));
        list.push((format!("query_param:{name}"), value.replace('+', " ")));
    }
    list.push(("url_path".into(), path.to_owned()));
    for (name, value) in &input.headers {
        list.push((format!("header:{name}"), name.clone()));
        list.push((format!("header:{name}"), String::from_utf8_lossy(value).into_owned()));
    }
    match serde_json::from_slice(&input.body) {
        Ok(json) => leaves(&json, &mut list),
        Err(_) => list.push(("request_body".into(), String::from_utf8_lossy(&input.body).into_owned())),
    }
    list
}

fn leaves(json: &serde_json::Value, list: &mut Vec<(String, String)>) {
    match json {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                list.push((format!("request_body:{key}"), key.clone()));
                leaves(value, list);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| leaves(item, list)),
        serde_json::Value::String(text) => list.push(("request_body".into(), text.clone())),
        other => list.push(("request_body".into(), other.to_string())),
    }
}

/// The request of the server measurements, as the engine gets it.
fn check() -> Input {
    let mut input = Input { method: "GET".into(), scheme: "https".into(), ..Input::default() };
    input.path = "/catalog/items?page=2&sort=price".into();
    let fields = frame::headers().into_iter().filter(|(name, _)| !name.starts_with(':'));
    input.headers = fields.map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
    input
}

/// The same with values that no other salt has, a token and an id among them.
pub fn new_check(salt: usize) -> Input {
    let mut input = check();
    input.path = format!("/catalog/items?page={salt}&sort=price{salt}");
    for (_, value) in &mut input.headers {
        let text = format!("{salt:06x}");
        let at = value.len().saturating_sub(text.len());
        value.splice(at.., text.into_bytes());
    }
    input
}

/// The GET of 18 values, none of which was seen before; names stay.
pub fn new_get(salt: usize) -> Input {
    let mut input = get();
    input.path = format!("/catalog/items{salt}?page=2{salt}&category=garden+furniture{salt}");
    for (_, value) in &mut input.headers {
        value.extend_from_slice(format!(" {salt}").as_bytes());
    }
    input
}

/// CPU microseconds per request: all requests in a round, the fastest round.
fn time(requests: usize, mut round: impl FnMut()) -> f64 {
    round();
    cpu::of(ROUNDS, 1, round) / requests as f64
}

/// Inspects a request and forgets what was found.
pub fn inspect(detector: &Detector, input: &Input) {
    std::hint::black_box(detector.inspect(&input.view(), &Scope::default(), &Unmetered));
}

fn detector() -> Result<Detector, Box<dyn std::error::Error>> {
    detector_of(&Material::default())
}

fn detector_of(material: &Material<'_>) -> Result<Detector, Box<dyn std::error::Error>> {
    Ok(Detector::compile_with(&SecurityConfig::default(), &DetectionConfig::default(), material)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?)
}

/// Measures requests as if none of their values had been seen before: what is recalled belongs to a threshold of the
/// semantic analyser, so that is moved a little for each.
pub struct Fresh<'d> {
    detector: &'d Detector,
    threshold: f64,
    calls: Cell<u32>,
}

impl<'d> Fresh<'d> {
    /// Of requests to `detector`.
    pub fn new(detector: &'d Detector) -> Self {
        Self { detector, threshold: detector.semantic_threshold(), calls: Cell::new(0) }
    }

    /// CPU microseconds of one request: the best of `rounds`.
    pub fn cost(&self, input: &Input, rounds: usize) -> f64 {
        let one = || {
            self.forget();
            cpu::of(1, 1, || inspect(self.detector, input))
        };
        (0..rounds).map(|_| one()).fold(f64::MAX, f64::min)
    }

    fn forget(&self) {
        self.calls.set(self.calls.get().wrapping_add(1));
        self.detector.configure_semantic_threshold(self.threshold + f64::from(self.calls.get()) * 1e-13);
    }
}

/// Keeps compiled rows in `target/`, so that a profiler sees hardly anything but the calls.
struct Folder;

impl Folder {
    fn path(name: &str) -> PathBuf {
        Path::new("target/bench-databases").join(name)
    }
}

impl DatabaseCache for Folder {
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(Self::path(name)).ok()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = Self::path(name);
        let kept = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, bytes));
        kept.unwrap_or_else(|error| log(&format!("{}: {error}", path.display())));
    }

    fn reject(&self, name: &str, why: &str) {
        log(&format!("{name}: {why}"));
    }
}

fn log(line: &str) {
    // Nobody reads it: then there is nothing left to say.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Inspects one request over and over, for a profiler to watch. A file's values are new each time.
pub fn repeat(set: &str, calls: usize) -> Result<(), Box<dyn std::error::Error>> {
    let material = Material { cache: &Folder, ..Material::default() };
    let detector = detector_of(&material)?;
    let fresh = Fresh::new(&detector);
    let (input, is_new) = match set {
        "get" => (get(), false),
        "check" => (check(), false),
        "post" => (post(10_240), false),
        "large" => (post(1 << 20), false),
        "new-get" => (new_get(1), true),
        "new-check" => (new_check(1), true),
        "new-post" => (new_post(10_240, 1), true),
        file => (Input::from_json(&std::fs::read_to_string(file)?)?, true),
    };
    let us = match is_new {
        true => fresh.cost(&input, calls),
        false => cpu::of(5, calls.div_ceil(5), || inspect(&detector, &input)),
    };
    Ok(writeln!(std::io::stderr(), "{us:.2} us")?)
}

/// The search for the dearest bodies alone, of which one in `part` is tried.
pub fn hostile(part: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut report = Report::default();
    hostile::search(&detector()?, part, &mut report)?;
    report.finish()
}

/// Our engine beside ModSecurity alone.
pub fn beside_modsecurity(corpus: Option<&Path>, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let detector = detector()?;
    for (name, input, repeat) in [(GET, get(), 2000), (POST, post(10_240), 300)] {
        inspect(&detector, &input);
        let us = cpu::of(ROUNDS, repeat, || inspect(&detector, &input));
        report.add(Row { what: "envoy-guard".into(), input: name.into(), us, rps: None, ratio: None });
    }
    modsecurity::run(&detector, &[(GET, &get()), (POST, &post(10_240))], corpus, report)
}

/// Runs all engines on all inputs; without a Python, ours alone.
pub fn run(
    python: Option<&Path>,
    corpus: Option<&Path>,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let detector = detector()?;
    let fresh: [(&str, &dyn Fn(usize) -> Input); 3] = [
        ("GET, 18 values, all new", &new_get),
        ("GET, 14 headers, all new", &new_check),
        ("POST, 10 KB JSON, all new", &|salt| new_post(10_240, salt)),
    ];
    for (name, make) in fresh {
        let new: Vec<Input> = (0..NEW).map(make).collect();
        let mut next = new.iter();
        let us = cpu::of(ROUNDS, NEW / ROUNDS, || next.next().into_iter().for_each(|input| inspect(&detector, input)));
        report.add(Row { what: "envoy-guard".into(), input: name.into(), us, rps: None, ratio: None });
    }
    let sets = [
        (GET, get(), 2000),
        ("GET, 14 headers", check(), 2000),
        (POST, post(10_240), 300),
        ("POST, 1 MiB JSON", post(1 << 20), 3),
    ];
    for (name, input, repeat) in &sets {
        inspect(&detector, input);
        let us = cpu::of(ROUNDS, *repeat, || inspect(&detector, input));
        report.add(Row { what: "envoy-guard".into(), input: (*name).into(), us, rps: None, ratio: None });
        if let Some(python) = python.filter(|_| input.body.len() < 1 << 20) {
            rivals(name, std::slice::from_ref(input), python, us, report)?;
        }
    }
    match corpus {
        Some(path) => whole_corpus(path, &detector, python, report)?,
        None => writeln!(std::io::stderr(), "no corpus given: that row is left out")?,
    }
    if python.is_some() {
        modsecurity::run(&detector, &[(GET, &get()), (POST, &post(10_240))], corpus, report)?;
    }
    hostile::search(&detector, 1, report)
}

fn whole_corpus(
    path: &Path,
    detector: &Detector,
    python: Option<&Path>,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path)?;
    let inputs: Vec<Input> = text.lines().map(Input::from_json).collect::<Result<_, _>>()?;
    // Once each a pass: what a request says is recalled only when other requests of the corpus say it, too.
    let mut each: Vec<f64> = vec![f64::MAX; inputs.len()];
    for _ in 0..3 {
        for (input, best) in inputs.iter().zip(&mut each) {
            *best = best.min(cpu::of(1, 1, || inspect(detector, input)));
        }
    }
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    each.sort_by(f64::total_cmp);
    let at = |share: f64| each.get((each.len() as f64 * share) as usize).copied().unwrap_or_default();
    let name = format!("corpus, {} requests", inputs.len());
    for (figure, us) in [("mean", mean), ("p50", at(0.5)), ("p99", at(0.99)), ("max", at(0.999_999))] {
        report.add(Row { what: format!("envoy-guard, {figure}"), input: name.clone(), us, rps: None, ratio: None });
    }
    let Some(python) = python else { return Ok(()) };
    let step = (inputs.len() / SAMPLE).max(1);
    let sample: Vec<Input> = inputs.into_iter().step_by(step).collect();
    rivals(&format!("corpus, every {step}th, mean"), &sample, python, mean, report)
}

/// The same values through the other engines. They take one value at a time, so they are given each in turn.
fn rivals(
    name: &str,
    inputs: &[Input],
    python: &Path,
    ours: f64,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let lists: Vec<Vec<(String, String)>> = inputs.iter().map(values).collect();
    let config = guard_core_engine::detect::DetectConfig::default();
    // The crate slices text inside a character on some inputs: what panics is counted, and costs what it cost.
    let mut panics = 0_usize;
    std::panic::set_hook(Box::new(|_| ()));
    let us = time(inputs.len(), || {
        panics = 0;
        for (context, text) in lists.iter().flatten() {
            let verdict = std::panic::catch_unwind(|| guard_core_engine::detect::detect(text, context, &config));
            panics += usize::from(std::hint::black_box(verdict).is_err());
        }
    });
    drop(std::panic::take_hook());
    if panics > 0 {
        writeln!(std::io::stderr(), "guard-core-engine panicked on {panics} values of {name}")?;
    }
    let ratio = Some((us / ours, "envoy-guard"));
    report.add(Row { what: "guard-core-engine 4.4.0 (crate)".into(), input: name.into(), us, rps: None, ratio });
    match in_python(python, &lists) {
        Ok(us) => {
            let ratio = Some((us / ours, "envoy-guard"));
            report.add(Row { what: "guard-core 4.4.0 (PyPI)".into(), input: name.into(), us, rps: None, ratio });
        }
        Err(error) => writeln!(std::io::stderr(), "guard-core in Python could not be measured: {error}")?,
    }
    Ok(())
}

fn in_python(python: &Path, lists: &[Vec<(String, String)>]) -> Result<f64, Box<dyn std::error::Error>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/reference.py");
    let mut child =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(serde_json::to_string(lists)?.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
