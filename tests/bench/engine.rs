//! Engine time per request, in process: ours, the crate `guard-core-engine`, and guard-core in Python.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use envoy_guard::app::input::Input;
use envoy_guard::config::exclusions::DetectionConfig;
use envoy_guard::config::security::SecurityConfig;
use envoy_guard::detect::{Detector, Scope, Unmetered};
use serde_json::json;

use crate::table::{Report, Row};

const ROUNDS: usize = 7;
/// Requests of the corpus that the slow rivals get.
const SAMPLE: usize = 150;

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

/// The same with a benign JSON body of about `bytes` bytes.
fn post(bytes: usize) -> Input {
    let mut items = Vec::new();
    let mut size = 0;
    while size < bytes {
        let number = items.len();
        let item = json!({
            "id": number, "name": format!("Garden chair {number}"), "price": 49.9, "in_stock": number % 3 != 0,
            "tags": ["outdoor", "wood", "sale"],
            "note": "Weatherproof; fits a table of 80 cm. Customers also look at the matching bench & cushions.",
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

/// Microseconds per request: all requests in a round, the fastest round.
fn time(requests: usize, mut round: impl FnMut()) -> f64 {
    round();
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / requests as f64);
    }
    best
}

/// Runs all engines on all inputs.
pub fn run(python: &Path, corpus: Option<&Path>, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let detector = Detector::compile(&SecurityConfig::default(), &DetectionConfig::default())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let scope = Scope::default();
    let sets = [("GET, 18 values", vec![get()], 2000), ("POST, 10 KB JSON", vec![post(10_240)], 300)];
    for (name, inputs, repeat) in &sets {
        let ours = time(*repeat, || {
            for _ in 0..*repeat {
                for input in inputs {
                    std::hint::black_box(detector.inspect(&input.view(), &scope, &Unmetered));
                }
            }
        });
        report.add(Row { what: "envoy-guard".into(), input: (*name).into(), us: ours, rps: None, ratio: None });
        rivals(name, inputs, python, ours, report)?;
    }
    let big = [post(1 << 20)];
    let ours = time(1, || drop(std::hint::black_box(detector.inspect(&big[0].view(), &scope, &Unmetered))));
    report.add(Row { what: "envoy-guard".into(), input: "POST, 1 MiB JSON".into(), us: ours, rps: None, ratio: None });
    match corpus {
        Some(path) => whole_corpus(path, &detector, python, report),
        None => Ok(writeln!(std::io::stderr(), "no corpus given: that row is left out")?),
    }
}

fn whole_corpus(
    path: &Path,
    detector: &Detector,
    python: &Path,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path)?;
    let inputs: Vec<Input> = text.lines().map(Input::from_json).collect::<Result<_, _>>()?;
    let scope = Scope::default();
    let mut each: Vec<f64> = vec![f64::MAX; inputs.len()];
    for _ in 0..3 {
        for (input, best) in inputs.iter().zip(&mut each) {
            let start = Instant::now();
            std::hint::black_box(detector.inspect(&input.view(), &scope, &Unmetered));
            *best = best.min(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    each.sort_by(f64::total_cmp);
    let at = |share: f64| each.get((each.len() as f64 * share) as usize).copied().unwrap_or_default();
    let name = format!("corpus, {} requests", inputs.len());
    for (figure, us) in [("mean", mean), ("p50", at(0.5)), ("p99", at(0.99)), ("max", at(0.999_999))] {
        report.add(Row { what: format!("envoy-guard, {figure}"), input: name.clone(), us, rps: None, ratio: None });
    }
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
