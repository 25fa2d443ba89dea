//! What is risky about a policy and about the Envoy beside it, each finding with a code that does not change. Reads, and
//! knows no running service.

pub mod codes;

mod authz;
mod chain;
mod cluster;
mod dialect;
mod kubernetes;
mod policy;
mod proc;
mod routes;
mod spot;
mod survey;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::config::errors::{Errors, Place, Problem};
use crate::config::tree::Node;
use crate::config::{Config, Loaded, foreign};
use crate::lint::codes::{Code, Severity};
use crate::lint::spot::Spot;
use crate::lint::survey::Survey;

/// Findings reported at most; more would only bury the first ones.
pub const FINDINGS_MAX: usize = 500;
/// Bytes that headers, attributes and framing may add to a body in one message.
const OVERHEAD_BYTES: u64 = 64 * 1024;
/// Bytes that detection reads beyond the bound of a body.
const BODY_SLACK_BYTES: u64 = 256;

/// One finding.
#[derive(Debug)]
pub struct Finding {
    /// What it is.
    pub code: &'static Code,
    /// Where it stands; `None` for a default of ours, and for something that is missing as a whole.
    pub place: Option<Place>,
    /// What is special about this one; may be empty.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{} {}: {}", self.code.severity.name(), self.code.id, self.code.title)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// Documents of an Envoy, or of Kubernetes, with their places.
pub struct Documents(Vec<Node>);

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} documents", self.0.len())
    }
}

impl Documents {
    /// Reads files of YAML or JSON, and what ConfigMaps in them hold.
    ///
    /// # Errors
    ///
    /// Each file that cannot be read, is too large, nested too deeply, or no YAML or JSON, with the place.
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Self, Errors> {
        let mut documents = Vec::new();
        let mut problems = Vec::new();
        for file in files {
            match foreign::read(file.as_ref()) {
                Ok(found) => documents.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        let inner: Vec<_> = documents.iter().flat_map(|document| config_map(Spot::of(document))).collect();
        for found in inner {
            match found {
                Ok(found) => documents.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Self(documents)) } else { Err(Errors(problems)) }
    }
}

/// The Envoy configurations among the texts of a ConfigMap.
fn config_map(spot: Spot<'_>) -> Vec<Result<Vec<Node>, Problem>> {
    if !spot.at("kind").is_word("ConfigMap") {
        return Vec::new();
    }
    let texts = spot.at("data").pairs().filter_map(|(_, value)| Some((value.place(), value.text()?)));
    let texts = texts
        .filter(|(_, text)| ["static_resources", "@type", "extensionProviders"].iter().any(|word| text.contains(word)));
    texts
        .map(|(place, text)| match place {
            // The text begins on the line after its key.
            Place::File { file, line, .. } => foreign::parse(text, file, *line),
            Place::Variable(name) | Place::Flag(name) => foreign::parse(text, &Arc::clone(name), 0),
        })
        .collect()
}

/// What else is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// How many guards run side by side; what the files say counts too.
    pub replicas: Option<u64>,
}

/// What is looked at, and what was found.
struct Examination<'a> {
    loaded: Option<&'a Loaded>,
    survey: Survey<'a>,
    findings: Vec<Finding>,
}

impl<'a> Examination<'a> {
    /// The policy, when it can be used.
    fn config(&self) -> Option<&'a Config> {
        self.loaded.map(|loaded| &loaded.config)
    }

    /// Reports `code` at a place of a file of others.
    fn say(&mut self, code: &'static Code, spot: Spot<'_>, detail: impl Into<String>) {
        self.push(code, Some(spot.place().clone()), detail.into());
    }

    /// Reports `code` about a key of the policy.
    fn policy(&mut self, code: &'static Code, key: &str, detail: impl Into<String>) {
        let place = self.loaded.and_then(|loaded| crate::config::locate(loaded, key));
        self.push(code, place, detail.into());
    }

    fn push(&mut self, code: &'static Code, place: Option<Place>, detail: String) {
        let is_known = |known: &Finding| known.code.id == code.id && known.place == place && known.detail == detail;
        if self.findings.len() < FINDINGS_MAX && !self.findings.iter().any(is_known) {
            self.findings.push(Finding { code, place, detail });
        }
    }

    /// Milliseconds that the guard may wait for its state.
    fn state_deadline(&self) -> Option<u64> {
        let config = self.config()?;
        config.security.enable_redis.then_some(u64::from(config.limits.state_deadline_ms))
    }

    /// Bytes of a body that the policy wants to see; none when detection leaves bodies out.
    fn wanted_body(&self) -> Option<u64> {
        let security = &self.config()?.security;
        let on = security.enable_penetration_detection && security.detection_scan_body;
        on.then(|| u64::from(security.detection_max_body_inspect_bytes) + BODY_SLACK_BYTES)
    }
}

/// Everything that is risky, the worst first. `loaded` is what came of reading the policy; without documents of Envoy only
/// the policy is looked at.
#[must_use]
pub fn examine(loaded: &Result<Loaded, Errors>, documents: Option<&Documents>, known: Surroundings) -> Vec<Finding> {
    let nodes = documents.map_or(&[][..], |documents| &documents.0);
    let mut about = Examination { loaded: loaded.as_ref().ok(), survey: Survey::of(nodes), findings: Vec::new() };
    if let Err(Errors(problems)) = loaded {
        for problem in problems {
            let told = Problem { place: None, ..problem.clone() };
            about.push(codes::EG0001, problem.place.clone(), told.to_string());
        }
    }
    policy::look(&mut about, known);
    if documents.is_some() {
        authz::look(&mut about);
        proc::look(&mut about);
        chain::look(&mut about);
        cluster::look(&mut about);
        routes::look(&mut about);
        kubernetes::look(&mut about);
    }
    let mut findings = about.findings;
    findings.sort_by(|one, other| {
        let order = |finding: &Finding| (std::cmp::Reverse(finding.code.severity), finding.place.is_none());
        order(one).cmp(&order(other)).then_with(|| one.place.cmp(&other.place)).then(one.code.id.cmp(other.code.id))
    });
    findings
}

/// The worst severity among `findings`.
#[must_use]
pub fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.code.severity).max()
}
