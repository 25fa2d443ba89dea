//! ModSecurity 3 with the Core Rule Set, from Debian's packages, over the same requests: CPU and verdicts.
//!
//! The library is driven by a small C program that is compiled here. Rules and settings are those that the packages
//! bring; only the paranoia level is set.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use envoy_guard::app::input::Input;
use envoy_guard::detect::{Detector, Scope, Unmetered};
use serde_json::json;

use crate::cpu;
use crate::table::{Report, Row};

const SETUP: &str = "/etc/modsecurity/crs/crs-setup.conf";
const RULES: &str = "/usr/share/modsecurity-crs/rules";
/// Requests of the corpus that both are given.
const SAMPLE: usize = 1200;
/// Timed rounds over a single request, and over the sample.
const ROUNDS_ONE: usize = 400;
const ROUNDS_SAMPLE: usize = 1;
/// The Core Rule Set's paranoia levels; the first is its default.
const LEVELS: std::ops::RangeInclusive<u8> = 1..=4;

/// The compiled driver.
struct Driver {
    program: PathBuf,
    folder: PathBuf,
    version: String,
}

/// Measures what ModSecurity needs for each input, then cost and verdicts of both over a sample of the corpus. Says so
/// and goes on where the packages are missing.
pub fn run(
    detector: &Detector,
    inputs: &[(&str, &Input)],
    corpus: Option<&Path>,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let driver = match Driver::build() {
        Ok(driver) => driver,
        Err(why) => {
            writeln!(std::io::stderr(), "ModSecurity is left out: {why}")?;
            return Ok(());
        }
    };
    for (name, input) in inputs {
        let (us, _) = driver.judge(1, ROUNDS_ONE, &[*input])?;
        let ratio = report.us("envoy-guard", name).map(|ours| (us / ours, "envoy-guard"));
        report.add(Row { what: driver.name(1), input: (*name).into(), us, rps: None, ratio });
    }
    match corpus {
        Some(path) => over_corpus(&driver, detector, path, report),
        None => Ok(()),
    }
}

impl Driver {
    /// Compiles the driver into `target/modsecurity`.
    fn build() -> Result<Self, Box<dyn Error>> {
        if !Path::new(SETUP).exists() || !Path::new(RULES).exists() {
            return Err("the rules are missing (Debian package modsecurity-crs)".into());
        }
        let folder = PathBuf::from("target/modsecurity");
        fs::create_dir_all(&folder)?;
        let program = folder.join("driver");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/modsecurity.c");
        let output = Command::new("cc").args(["-O2", source, "-lmodsecurity", "-o"]).arg(&program).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().find(|line| line.contains("error")).unwrap_or_default();
            return Err(format!("the driver does not compile (Debian package libmodsecurity-dev): {line}").into());
        }
        let version = |package: &str| {
            let output = Command::new("dpkg-query").args(["-W", "-f=${Version}", package]).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            text.split('-').next().map(str::to_owned)
        };
        let [library, rules] = ["libmodsecurity3", "modsecurity-crs"].map(|name| version(name).unwrap_or_default());
        Ok(Self { program, folder, version: format!("ModSecurity {library} + CRS {rules}") })
    }

    fn name(&self, level: u8) -> String {
        format!("{}, PL{level}", self.version)
    }

    /// What a web server's configuration would say: bodies are read by their type, refusals are executed.
    fn configuration(&self, level: u8) -> std::io::Result<PathBuf> {
        let json = "^application/(?:[a-z0-9.-]+[+])?json";
        let xml = "^(?:application|text)/(?:[a-z0-9.-]+[+])?xml";
        let reader = |id: u8, kind: &str, name: &str| {
            format!(
                "SecRule REQUEST_HEADERS:Content-Type \"@rx {kind}\" \
                 \"id:{id},phase:1,pass,nolog,t:none,t:lowercase,ctl:requestBodyProcessor={name}\"\n"
            )
        };
        let mut text = String::from("SecRuleEngine On\nSecRequestBodyAccess On\nSecResponseBodyAccess Off\n");
        text.push_str("SecRequestBodyLimit 13107200\nSecRequestBodyNoFilesLimit 13107200\nSecAuditEngine Off\n");
        text.push_str("SecPcreMatchLimit 100000\nSecPcreMatchLimitRecursion 100000\n");
        text.push_str(&(reader(10, json, "JSON") + &reader(11, xml, "XML")));
        text.push_str(&format!("Include {SETUP}\n"));
        text.push_str(&format!("SecAction \"id:12,phase:1,pass,nolog,t:none,setvar:tx.paranoia_level={level}\"\n"));
        text.push_str(&format!("Include {RULES}/REQUEST-*.conf\n"));
        let path = self.folder.join(format!("paranoia-{level}.conf"));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// CPU microseconds of a transaction, the best of `rounds`, and who was refused.
    fn judge(&self, level: u8, rounds: usize, inputs: &[&Input]) -> Result<(f64, Vec<bool>), Box<dyn Error>> {
        let mut child = Command::new(&self.program)
            .arg(self.configuration(level)?)
            .arg(rounds.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut message = Vec::new();
        inputs.iter().try_for_each(|input| encode(input, &mut message))?;
        // The driver reads all of it before it writes anything.
        child.stdin.take().ok_or("no pipe")?.write_all(&message)?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        let mut lines = text.lines();
        let us = lines.next().ok_or("ModSecurity did not run")?.parse()?;
        let refused: Vec<bool> = lines.next().unwrap_or_default().bytes().map(|digit| digit == b'1').collect();
        if refused.len() != inputs.len() {
            return Err(format!("{} requests, {} verdicts", inputs.len(), refused.len()).into());
        }
        Ok((us, refused))
    }
}

/// The driver's form of a request.
fn encode(input: &Input, message: &mut Vec<u8>) -> Result<(), std::num::TryFromIntError> {
    // A client sends how long its body is; labelled requests often leave it out.
    let length = input.body.len().to_string();
    let is_announced = input.headers.iter().any(|(name, _)| name == "content-length");
    let added = (!input.body.is_empty() && !is_announced).then_some(("content-length", length.as_bytes()));
    let headers = input.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).chain(added);
    put(input.method.as_bytes(), message)?;
    put(input.path.as_bytes(), message)?;
    message.extend(u32::try_from(headers.clone().count())?.to_le_bytes());
    for (name, value) in headers {
        put(name.as_bytes(), message)?;
        put(value, message)?;
    }
    put(&input.body, message)
}

/// A text behind its length.
fn put(bytes: &[u8], message: &mut Vec<u8>) -> Result<(), std::num::TryFromIntError> {
    message.extend(u32::try_from(bytes.len())?.to_le_bytes());
    message.extend(bytes);
    Ok(())
}

/// Shares of attacks and of benign requests that were refused, in percent.
fn rates(hostile: &[bool], refused: &[bool]) -> (f64, f64) {
    let rate = |wanted: bool| {
        let of_kind = hostile.iter().zip(refused).filter(|(hostile, _)| **hostile == wanted);
        let (total, count) =
            of_kind.fold((0, 0), |(total, count), (_, refused)| (total + 1, count + u32::from(*refused)));
        100.0 * f64::from(count) / f64::from(total.max(1))
    };
    (rate(true), rate(false))
}

fn over_corpus(driver: &Driver, detector: &Detector, path: &Path, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    let (mut inputs, mut hostile) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let labels: serde_json::Value = serde_json::from_str(line)?;
        if labels.get("tier").is_none_or(|tier| tier == "core") {
            hostile.push(labels.get("label").is_some_and(|label| label == "malicious"));
            inputs.push(Input::from_json(line)?);
        }
    }
    let step = (inputs.len() / SAMPLE).max(1);
    let sample: Vec<&Input> = inputs.iter().step_by(step).collect();
    let hostile: Vec<bool> = hostile.into_iter().step_by(step).collect();
    let name = format!("corpus, every {step}th core");
    let inspect = |input: &Input| detector.inspect(&input.view(), &Scope::default(), &Unmetered).finding.is_some();
    let verdicts: Vec<bool> = sample.iter().map(|input| inspect(input)).collect();
    let ours = cpu::of(3, 1, || sample.iter().for_each(|input| _ = std::hint::black_box(inspect(input))))
        / sample.len() as f64;
    report.add(Row { what: "envoy-guard".into(), input: name.clone(), us: ours, rps: None, ratio: None });
    let note = |what: &str, refused: &[bool], report: &mut Report| {
        let (tpr, fpr) = rates(&hostile, refused);
        let text = format!("{what} blocks {tpr:.1} % of the attacks and {fpr:.2} % of the benign requests of: {name}");
        report.fact(text, json!({"what": what, "input": name, "tpr": tpr, "fpr": fpr, "requests": hostile.len()}));
    };
    note("envoy-guard", &verdicts, report);
    for level in LEVELS {
        let (us, refused) = driver.judge(level, ROUNDS_SAMPLE, &sample)?;
        let ratio = Some((us / ours, "envoy-guard"));
        report.add(Row { what: driver.name(level), input: name.clone(), us, rps: None, ratio });
        note(&driver.name(level), &refused, report);
    }
    Ok(())
}
