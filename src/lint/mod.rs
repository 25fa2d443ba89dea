//! What is risky about a policy and about the Envoy beside it, each finding with a code that does not change. Reads, and
//! knows no running service.

pub mod codes;

mod authz;
mod chain;
mod cluster;
mod dialect;
mod examination;
pub mod finding;
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
use crate::config::{Loaded, foreign};
use crate::lint::codes::Severity;
use crate::lint::examination::Examination;
use crate::lint::finding::Finding;
use crate::lint::spot::Spot;
use crate::lint::survey::Survey;

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

/// Everything that is risky, the worst first. `loaded` is what came of reading the policy; without documents of Envoy only
/// the policy is looked at. `replicas` guards run side by side, where the documents do not say.
#[must_use]
pub fn examine(loaded: &Result<Loaded, Errors>, documents: Option<&Documents>, replicas: Option<u64>) -> Vec<Finding> {
    let nodes = documents.map_or(&[][..], |documents| &documents.0);
    let mut about = Examination { loaded: loaded.as_ref().ok(), survey: Survey::of(nodes), findings: Vec::new() };
    if let Err(Errors(problems)) = loaded {
        for problem in problems {
            let told = Problem { place: None, ..problem.clone() };
            about.push(codes::EG0001, problem.place.clone(), told.to_string());
        }
    }
    policy::look(&mut about, replicas);
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
