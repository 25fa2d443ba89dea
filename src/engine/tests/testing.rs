//! Help for the tests of this room: policies from JSON, requests from a few words, answers in short form.

use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use serde_json::{Value, json};

use crate::config::Config;
use crate::detect::{Detector, Material, Unmetered};
use crate::engine::decide;
use crate::engine::policy::{Feeds, Policy, PolicyError};
use crate::model::decision::{Decision, Verdict};
use crate::model::place::{CloudRanges, CountryCode, CountryTable, Provider};
use crate::model::time::Timestamp;
use crate::request::headers::Headers;
use crate::request::{Body, Request, Tls};
use crate::state::State;
use crate::state::memory::Memory;

/// 2026-11-21 12:00:00 UTC.
pub(crate) const NOON: Timestamp = Timestamp(1_795_262_400.0);

/// Runs a future that never waits.
pub(crate) fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("memory answers at once"),
    }
}

/// The configuration that JSON says, over the defaults.
pub(crate) fn config(text: Value) -> Config {
    let mut all = serde_json::to_value(Config::default()).unwrap();
    for (section, fields) in text.as_object().unwrap() {
        match (all.get_mut(section), fields) {
            (Some(Value::Object(known)), Value::Object(fields)) => known.extend(fields.clone()),
            (Some(known), fields) => *known = fields.clone(),
            (None, _) => panic!("no section {section}"),
        }
    }
    serde_json::from_str(&all.to_string()).unwrap()
}

/// Countries, ranges and a credential file that tests can count on.
pub(crate) fn feeds() -> Feeds {
    let countries = [("81.0.0.1", "DE"), ("82.0.0.1", "FR"), ("83.0.0.1", "CN"), ("127.0.0.1", "CN")];
    let table = countries.map(|(ip, code)| (ip.parse::<IpAddr>().unwrap(), CountryCode::new(code).unwrap()));
    let mut cloud = CloudRanges::default();
    cloud.insert(Provider::Aws, "3.0.0.0/8".parse().unwrap(), Some("us-east-1"));
    cloud.insert(Provider::Aws, "4.0.0.0/8".parse().unwrap(), Some("eu-west-1"));
    Feeds {
        countries: Some(Arc::new(CountryTable(table.into_iter().collect()))),
        cloud: Arc::new(cloud),
        // SHA-256 of "open sesame".
        credentials: [(
            PathBuf::from("keys"),
            "# keys\nsha256:41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb ali baba\n".to_owned(),
        )]
        .into_iter()
        .collect(),
        ..Feeds::default()
    }
}

fn detector() -> Arc<Detector> {
    static DETECTOR: OnceLock<Arc<Detector>> = OnceLock::new();
    let compile = || {
        let config = Config::default();
        Arc::new(Detector::compile(&config.security, &config.detection).unwrap())
    };
    Arc::clone(DETECTOR.get_or_init(compile))
}

/// Compiles a policy, or says what is wrong.
pub(crate) fn compile(text: Value) -> Result<Policy, Vec<PolicyError>> {
    let (config, standard) = (config(text), detector());
    let is_standard = config.detection == Config::default().detection;
    let detector = if is_standard {
        standard
    } else {
        let material = Material { previous: Some(&standard), ..Material::default() };
        Arc::new(Detector::compile_with(&config.security, &config.detection, &material).unwrap())
    };
    Policy::compile(&config, &feeds(), detector)
}

/// Compiles a policy that is right.
pub(crate) fn policy(text: Value) -> Policy {
    compile(text).unwrap()
}

/// The keys of what is wrong.
pub(crate) fn wrong(text: Value) -> Vec<String> {
    compile(text).map(|_| Vec::new()).unwrap_or_else(|errors| errors.into_iter().map(|error| error.key).collect())
}

/// A policy with one route that matches everything.
pub(crate) fn routed(route: Value) -> Value {
    let mut route = route;
    route.as_object_mut().unwrap().insert("name".to_owned(), json!("all"));
    route.as_object_mut().unwrap().insert("match".to_owned(), json!([{}]));
    json!({"routes": [route]})
}

/// A request in a few words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) scheme: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a str,
    pub(crate) route: Option<&'a str>,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self { method: "GET", target: "/api", peer: "203.0.113.7", scheme: "http", headers: &[], body: "", route: None }
    }
}

impl<'a> Ask<'a> {
    pub(crate) fn from(peer: &'a str) -> Self {
        Self { peer, ..Self::default() }
    }

    pub(crate) fn with(headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { headers, ..Self::default() }
    }

    pub(crate) fn request(self) -> Request<'a> {
        let headers: Headers<'a> = self.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        Request {
            id: "id",
            method: self.method,
            scheme: self.scheme,
            host: "example.com",
            target: self.target.into(),
            protocol: "HTTP/1.1",
            headers,
            body: if self.body.is_empty() { Body::Absent } else { Body::Complete(self.body.as_bytes()) },
            peer: self.peer.into(),
            route: self.route,
            tls: Tls::default(),
        }
    }
}

/// Decides at a moment.
pub(crate) fn at<'p>(policy: &'p Policy, state: &impl State, ask: Ask<'_>, now: Timestamp) -> Decision<'p> {
    ready(decide(policy, state, &ask.request(), now, &Unmetered))
}

/// Decides at noon over fresh memory.
pub(crate) fn once<'p>(policy: &'p Policy, ask: Ask<'_>) -> Decision<'p> {
    at(policy, &Memory::new(100), ask, NOON)
}

/// Status and body; 0 and nothing when the request is allowed.
pub(crate) fn short<'d>(decision: &'d Decision<'_>) -> (u16, &'d str) {
    match &decision.verdict {
        Verdict::Allow => (0, ""),
        Verdict::Deny(denial) | Verdict::Fail(denial) => (denial.status, &denial.body),
    }
}

/// The value of a header of the answer.
pub(crate) fn header<'d>(decision: &'d Decision<'_>, name: &str) -> Option<&'d str> {
    match &decision.verdict {
        Verdict::Allow => None,
        Verdict::Deny(denial) | Verdict::Fail(denial) => {
            denial.headers.iter().find(|edit| edit.name == name).map(|edit| edit.value.as_ref())
        }
    }
}

/// Events with their actions.
pub(crate) fn events<'d>(decision: &'d Decision<'_>) -> Vec<(&'static str, &'d str)> {
    decision.facts.iter().map(|fact| (fact.event.name(), fact.action.as_ref())).collect()
}

/// One row of a check's table.
pub(crate) type Row<'a> = (&'a str, Value, Ask<'a>, u16, &'a str);

/// Compares rows of (name, policy, request, status, body); 0 is a pass.
#[track_caller]
pub(crate) fn check(rows: &[Row<'_>]) {
    for (name, text, ask, status, body) in rows {
        let policy = policy(text.clone());
        assert_eq!(short(&once(&policy, *ask)), (*status, *body), "{name}");
    }
}

/// JSON of literals, read at run time: the macro of `serde_json` costs the compiler seconds in large tables.
macro_rules! lit {
    ($($json:tt)*) => {
        serde_json::from_str::<serde_json::Value>(stringify!($($json)*)).unwrap()
    };
}
pub(crate) use lit;
