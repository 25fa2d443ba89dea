//! `lint`: the findings of room `lint` for people and machines, and the exit code that says how bad the worst is.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::app::{CONFIG_VARIABLE, Source, USAGE, complain, print, setting};
use crate::config::errors::Place;
use crate::config::{self, Sources};
use crate::lint::codes::{self, Code, Severity};
use crate::lint::finding::Finding;
use crate::lint::{Documents, examine, worst};

/// Exit code when the worst finding is a warning.
const WARNED: u8 = 1;
/// Exit code when there is an error among the findings.
const FAULTY: u8 = 2;
/// Where each code has a section.
const PAGE: &str = "docs/lint.md";

/// What to look at.
#[derive(Debug, Args)]
pub(in crate::app) struct Lint {
    /// The configuration of the service: YAML, TOML or JSON.
    #[arg(env = CONFIG_VARIABLE, value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// One setting, such as `security.passive_mode=true`. Wins over file and variables; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// What asks the guard: a bootstrap, resources of xDS, a dump of `/config_dump`, or manifests of Kubernetes, as YAML or
    /// JSON. May be repeated; all files are taken together.
    #[arg(long = "envoy", value_name = "FILE")]
    envoy: Vec<PathBuf>,
    /// How many guards run side by side, where the files do not say.
    #[arg(long, value_name = "NUMBER")]
    replicas: Option<u64>,
    /// Leave out a code, such as `EG1009`. May be repeated.
    #[arg(long, value_name = "CODE", value_parser = code)]
    ignore: Vec<&'static str>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Tell what a code means, and nothing else.
    #[arg(long, value_name = "CODE", value_parser = code, exclusive = true)]
    explain: Option<&'static str>,
}

fn code(text: &str) -> Result<&'static str, String> {
    codes::find(text).map(|code| code.id).ok_or_else(|| format!("there is no such code; {PAGE} lists them"))
}

/// Runs the command.
pub(in crate::app) fn run(lint: Lint) -> ExitCode {
    if let Some(code) = lint.explain.and_then(codes::find) {
        return print(&explained(code));
    }
    let documents = match Documents::read(&lint.envoy) {
        Ok(documents) => documents,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(USAGE);
        }
    };
    let sources = Sources::from(Source { config: lint.config, settings: lint.settings });
    let documents = (!lint.envoy.is_empty()).then_some(&documents);
    let mut findings = examine(&config::load(&sources), documents, lint.replicas);
    findings.retain(|finding| !lint.ignore.contains(&finding.code.id));
    let text = if lint.json { format!("{:#}\n", json(&findings)) } else { text(&findings) };
    if print(&text) != ExitCode::SUCCESS {
        return ExitCode::FAILURE;
    }
    match worst(&findings) {
        None | Some(Severity::Advice) => ExitCode::SUCCESS,
        Some(Severity::Warning) => ExitCode::from(WARNED),
        Some(Severity::Error) => ExitCode::from(FAULTY),
    }
}

fn page(code: &Code) -> String {
    format!("{PAGE}#{}", code.id.to_ascii_lowercase())
}

fn explained(code: &Code) -> String {
    format!("{} ({}): {}\n{}\n{}\n{}\n", code.id, code.severity.name(), code.title, code.why, code.fix, page(code))
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.code.severity == severity).count()
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        // What stands in the files may hold what a terminal would act on.
        let line = finding.to_string();
        let line: String = line.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect();
        text.push_str(&format!("{line}\n    {} ({})\n", finding.code.fix, page(finding.code)));
    }
    let counted = |severity, one: &str, more: &str| match count(findings, severity) {
        1 => format!("1 {one}"),
        number => format!("{number} {more}"),
    };
    let errors = counted(Severity::Error, "error", "errors");
    let warnings = counted(Severity::Warning, "warning", "warnings");
    text.push_str(&format!("{errors}, {warnings}, {} of advice\n", count(findings, Severity::Advice)));
    text
}

fn json(findings: &[Finding]) -> Value {
    let shown: Vec<Value> = findings.iter().map(entry).collect();
    json!({
        "errors": count(findings, Severity::Error),
        "warnings": count(findings, Severity::Warning),
        "advice": count(findings, Severity::Advice),
        "findings": shown,
    })
}

fn entry(finding: &Finding) -> Value {
    let code = finding.code;
    let (file, line, column) = match &finding.place {
        Some(Place::File { file, line, column }) => (Some(file.to_string()), Some(*line), Some(*column)),
        _ => (None, None, None),
    };
    json!({
        "code": code.id,
        "severity": code.severity,
        "title": code.title,
        "detail": finding.detail,
        "place": finding.place,
        "file": file,
        "line": line,
        "column": column,
        "why": code.why,
        "fix": code.fix,
        "docs": page(code),
    })
}
