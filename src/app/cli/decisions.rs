//! `decisions`: what was refused lately, and why.

use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::app::cli::http::{Admin, Call, escaped};
use crate::app::cli::show::plain;
use crate::app::cli::{Answer, pages};
use crate::model::time::Timestamp;
use crate::telemetry::events::json::{Style, moment};

/// How often `tail` asks for more.
const INTERVAL: Duration = Duration::from_secs(1);

/// `decisions`.
#[derive(Debug, Subcommand)]
pub(in crate::app) enum Decisions {
    /// Show recent decisions, the newest first.
    List {
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Show the latest decisions, then each one as it is made, until interrupted.
    Tail {
        #[command(flatten)]
        wanted: Wanted,
        /// How many of those already made to begin with.
        #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
        lines: u32,
    },
    /// Show one decision: who decided, why, what matched, and what would change it.
    Show {
        /// Its number, Envoy's id of the request, or its x-request-id.
        id: String,
    },
}

/// Which decisions.
#[derive(Debug, Args)]
pub(in crate::app) struct Wanted {
    /// Only those with this verdict.
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// Only those by this check.
    #[arg(long)]
    check: Option<String>,
    /// Only those about this address or network.
    #[arg(long)]
    client: Option<String>,
    /// Only those on this route.
    #[arg(long)]
    route: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verdict {
    /// The request went on.
    Allow,
    /// It was refused.
    Deny,
    /// It could not be decided.
    Fail,
    /// It would have been refused if the policy did not only look on.
    Report,
}

impl Wanted {
    fn query(&self) -> String {
        let verdict = self.verdict.map(|verdict| match verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Fail => "fail",
            Verdict::Report => "report",
        });
        let filters = [
            ("verdict", verdict),
            ("check", self.check.as_deref()),
            ("client", self.client.as_deref()),
            ("route", self.route.as_deref()),
        ];
        let given = filters.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.map(|(name, value)| format!("&{name}={}", escaped(value))).collect()
    }
}

/// Asks about decisions; `as_json` is how `tail` prints, a decision a line.
pub(super) fn answer(admin: &Admin, what: &Decisions, as_json: bool) -> Answer {
    match what {
        Decisions::List { wanted } => {
            let found = pages(admin, ("/api/v1/decisions", "decisions", "before"), &wanted.query())?;
            if as_json {
                return Ok((json!({ "decisions": found }), true));
            }
            let lines = found.iter().map(|decision| format!("{}\n", line(decision))).collect::<String>();
            print(if lines.is_empty() { "no decisions\n" } else { &lines })
        }
        Decisions::Tail { wanted, lines } => tail(admin, wanted, *lines, as_json),
        Decisions::Show { id } => {
            let decision = admin.send(&Call::new("GET", &format!("/api/v1/decisions/{}", escaped(id))))?;
            if as_json { Ok((decision, true)) } else { print(&explained(&decision)) }
        }
    }
}

fn print(text: &str) -> Answer {
    Ok((Value::Null, std::io::stdout().write_all(text.as_bytes()).is_ok()))
}

fn tail(admin: &Admin, wanted: &Wanted, lines: u32, as_json: bool) -> Answer {
    let filter = wanted.query();
    let ask = |query: String| admin.send(&Call::new("GET", &format!("/api/v1/decisions?{query}{filter}")));
    let first = ask(format!("limit={}", lines.max(1)))?;
    let mut latest = number(&first, "newest");
    let begin = if lines == 0 { &[][..] } else { list(&first) };
    let mut shown = begin.iter().rev().try_for_each(|decision| show(decision, as_json));
    while shown.is_ok() {
        sleep(INTERVAL);
        let page = ask(format!("limit=1000&after={latest}"))?;
        let (oldest, newest) = (number(&page, "oldest"), number(&page, "newest"));
        if newest < latest {
            note("the service was started anew");
            latest = 0;
            continue;
        }
        if latest + 1 < oldest {
            note(&format!("{} decisions were made and forgotten meanwhile", oldest - latest - 1));
        }
        shown = list(&page).iter().try_for_each(|decision| show(decision, as_json));
        // A full page has more behind it; else everything was looked at.
        latest = match page.get("next").and_then(Value::as_str) {
            Some(next) => next.parse().unwrap_or(newest),
            None => newest,
        };
    }
    // Whoever read has gone, as `head` does.
    Ok((Value::Null, true))
}

fn list(page: &Value) -> &[Value] {
    page.get("decisions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn number(page: &Value, key: &str) -> u64 {
    page.get(key).and_then(Value::as_str).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn show(decision: &Value, as_json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let text = if as_json { decision.to_string() } else { line(decision) };
    writeln!(out, "{text}")?;
    out.flush()
}

fn note(text: &str) {
    // With standard error closed nobody misses it.
    writeln!(std::io::stderr(), "envoy-guard: {text}").unwrap_or_default();
}

fn text<'v>(value: &'v Value, pointer: &str) -> std::borrow::Cow<'v, str> {
    match value.pointer(pointer) {
        None | Some(Value::Null) => "-".into(),
        Some(found) => plain(found).into(),
    }
}

fn at(decision: &Value) -> String {
    let at = decision.get("at").and_then(Value::as_f64).unwrap_or_default();
    moment(Timestamp(at), Style::Joined)
}

/// One decision on one line.
fn line(decision: &Value) -> String {
    let of = |key: &str| text(decision, key);
    format!(
        "{} {:<6} {} {} {} {} {}{}  {}  id={}",
        at(decision),
        of("/verdict"),
        of("/status"),
        of("/check"),
        of("/client"),
        of("/method"),
        of("/host"),
        of("/target"),
        of("/reason"),
        of("/id")
    )
}

/// One decision with all there is to say.
fn explained(decision: &Value) -> String {
    let of = |pointer: &str| text(decision, pointer);
    let mut out = String::new();
    let mut say = |name: &str, value: &str| out.push_str(&format!("{name:<11}{value}\n"));
    say("decision", &format!("{} by {}, status {}", of("/verdict"), of("/check"), of("/status")));
    say("why", &of("/reason"));
    say("when", &at(decision));
    say("client", &format!("{}  country {}  AS {}", of("/client"), of("/country"), of("/asn")));
    say("request", &format!("{} {}{}", of("/method"), of("/host"), of("/target")));
    say("route", &of("/route"));
    say("ids", &format!("{}  request_id {}  x-request-id {}", of("/id"), of("/request_id"), of("/x_request_id")));
    for (key, name) in [("passive", "passive mode: only reported"), ("excluded", "excluded path: few checks apply")] {
        if decision.get(key).is_some() {
            say("note", name);
        }
    }
    for (key, name) in [("detection", "found"), ("log_only", "log only")] {
        let Some(found) = decision.get(key) else { continue };
        say(name, &format!("{}, score {}", text(found, "/trigger"), text(found, "/score")));
        for hit in found.get("hits").and_then(Value::as_array).into_iter().flatten() {
            let (row, view, words) = (text(hit, "/row"), text(hit, "/view"), text(hit, "/text"));
            say("", &format!("row {row} in the {view} text: {words}"));
        }
    }
    for fact in decision.get("facts").and_then(Value::as_array).into_iter().flatten() {
        let (event, action, reason) = (text(fact, "/event"), text(fact, "/action"), text(fact, "/reason"));
        say("event", &format!("{event} ({action}): {reason}"));
    }
    let change =
        |key: &str| decision.pointer(&format!("/change/{key}")).and_then(Value::as_array).into_iter().flatten();
    for entry in change("exclusions") {
        say("exclude", &format!("detection.exclusions: [{entry}]"));
    }
    let settings: Vec<String> = change("settings").map(plain).collect();
    if !settings.is_empty() {
        say("settings", &settings.join(", "));
    }
    change("commands").for_each(|command| say("try", &plain(command)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_a_line_and_an_explanation() {
        let decision = json!({
            "id": "7", "at": 1_700_000_000.5, "verdict": "deny", "check": "suspicious_activity", "status": 400,
            "client": "192.0.2.1", "method": "GET", "host": "a.test", "target": "/x?q=\u{1b}[2J", "reason": "why",
            "request_id": "99", "x_request_id": null, "route": null,
            "detection": { "score": 0.9, "trigger": "t", "hits": [{ "row": "SQL-01", "view": "raw", "text": "1=1" }] },
            "change": { "exclusions": [{ "row": "SQL-01" }], "settings": ["a.b"], "commands": ["do this"] },
        });
        let line = line(&decision);
        assert!(
            line.contains("deny   400 suspicious_activity 192.0.2.1 GET a.test/x?q=\\u{1b}[2J  why  id=7"),
            "{line}"
        );
        let text = explained(&decision);
        for part in
            ["row SQL-01 in the raw text: 1=1", "exclude    detection.exclusions: [{\"row\":\"SQL-01\"}]", "a.b"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!line.contains('\u{1b}') && !text.contains('\u{1b}'), "nothing that a terminal obeys");
    }
}
