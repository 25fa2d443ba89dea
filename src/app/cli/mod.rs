//! Commands for operators: they ask a running service through its admin API.

pub(in crate::app) mod decisions;
pub(in crate::app) mod doctor;
mod http;
mod show;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::app::cli::decisions::Decisions;
use crate::app::cli::http::{Admin, Call, CallError, Secrets, escaped};

/// Exit code when the service refuses, or finds something wrong.
const REFUSED: u8 = 1;
/// Exit code of a command line that cannot be used (`EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code when the service cannot be reached (`EX_UNAVAILABLE`).
const UNREACHABLE: u8 = 69;
/// Bytes of an import that are read at most.
const IMPORT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bans that are sent at once.
const IMPORT_CHUNK: usize = 1000;

/// Which service, and how to answer.
#[derive(Debug, Args)]
pub(in crate::app) struct Target {
    /// Admin port of the service: `http://HOST:PORT`, `https://HOST:PORT`, or `unix:PATH`.
    #[arg(
        long,
        env = "ENVOY_GUARD_ADMIN_URL",
        default_value = "http://127.0.0.1:8081",
        value_name = "URL",
        global = true
    )]
    admin: String,
    /// Token of operators. Better in the variable: command lines can be seen by others.
    #[arg(long, env = "ENVOY_GUARD_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN", global = true)]
    token: Option<String>,
    #[command(flatten)]
    secrets: Secrets,
    /// JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
}

/// `bans`.
#[derive(Debug, Subcommand)]
pub(in crate::app) enum Bans {
    /// Show the bans in force.
    List {
        /// Only those whose reason holds this text.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Ban an address or a network.
    Add {
        /// Address or network.
        target: String,
        /// For how long.
        #[arg(long, default_value_t = 3600)]
        seconds: u32,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Lift a ban.
    Del {
        /// Address or network.
        target: String,
    },
    /// Ban what a file holds: an export, or one address or network a line.
    Import {
        /// The file; `-` is the standard input.
        file: PathBuf,
        /// For how long, where the file does not say.
        #[arg(long, default_value_t = 3600)]
        seconds: u32,
    },
    /// Print all bans as JSON, for an import.
    Export,
    /// Tell which ban, network or list covers an address. Exit code 1 when nothing does.
    Why {
        /// The address.
        address: String,
    },
}

/// `patterns`.
#[derive(Debug, Subcommand)]
pub(in crate::app) enum Patterns {
    /// Show the patterns in use.
    List {
        /// Which of them.
        #[arg(long, value_enum, default_value_t = Set::All)]
        set: Set,
    },
    /// Share a pattern with all replicas.
    Add {
        /// A regular expression.
        pattern: String,
    },
    /// Take a shared pattern away.
    Del {
        /// The pattern as it was added.
        pattern: String,
    },
    /// Take all shared patterns away.
    Clear,
    /// Try a pattern. Exit code 1 when it cannot be used, or does not match the text.
    Test {
        /// A regular expression.
        pattern: String,
        /// A text to look in.
        text: Option<String>,
    },
}

/// Which patterns.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::app) enum Set {
    /// Those of the service.
    Default,
    /// Those of the configuration and the shared ones.
    Custom,
    /// Both.
    All,
}

impl Set {
    const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Custom => "custom",
            Self::All => "all",
        }
    }
}

/// `limits`.
#[derive(Debug, Subcommand)]
pub(in crate::app) enum Limits {
    /// Show who comes closest to which limit.
    Top {
        /// How many.
        #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        lines: u16,
    },
    /// Forget all rate limit counts.
    Reset,
}

/// `log`.
#[derive(Debug, Subcommand)]
pub(in crate::app) enum Log {
    /// Show the filter of the service's own log lines.
    Show,
    /// Put another filter in force for a while.
    Set {
        /// Such as `debug` or `info,envoy_guard::state=debug`.
        filter: String,
        /// For how long.
        #[arg(long, default_value_t = 600)]
        seconds: u32,
    },
    /// Put the configuration's filter in force again.
    Reset,
}

/// A command that asks the service.
#[derive(Debug)]
pub(in crate::app) enum Ask {
    Bans(Bans),
    Patterns(Patterns),
    Limits(Limits),
    Decisions(Decisions),
    Log(Log),
    Reload { dry_run: bool },
    Status,
    Doctor(doctor::Port),
}

/// Runs a command against the service.
pub(in crate::app) fn run(target: &Target, ask: Ask) -> ExitCode {
    let done = Admin::new(&target.admin, target.token.as_deref(), &target.secrets);
    let done = done.and_then(|admin| answer(&admin, ask, target));
    match done {
        Ok((value, good)) => {
            let text = if target.json { format!("{value:#}\n") } else { show::text(&value) };
            let written = std::io::stdout().write_all(text.as_bytes()).is_ok();
            if good && written { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
        }
        Err(error) => {
            // With standard error closed the exit code has to say it all.
            writeln!(std::io::stderr(), "envoy-guard: {error}").unwrap_or_default();
            ExitCode::from(match error {
                CallError::Usage(_) => USAGE,
                CallError::Unreachable(_) => UNREACHABLE,
                CallError::Refused(..) => REFUSED,
            })
        }
    }
}

type Answer = Result<(Value, bool), CallError>;

fn answer(admin: &Admin, ask: Ask, target: &Target) -> Answer {
    match ask {
        Ask::Bans(bans) => self::bans(admin, bans),
        Ask::Patterns(patterns) => self::patterns(admin, patterns),
        Ask::Limits(Limits::Top { lines }) => plain(admin, &Call::new("GET", &format!("/api/v1/limits?limit={lines}"))),
        Ask::Log(log) => self::log(admin, log),
        Ask::Limits(Limits::Reset) => plain(admin, &Call::new("DELETE", "/api/v1/limits")),
        Ask::Decisions(what) => decisions::answer(admin, &what, target.json),
        Ask::Reload { dry_run } => plain(admin, &Call::new("POST", &format!("/api/v1/reload?dry_run={dry_run}"))),
        Ask::Status => plain(admin, &Call::new("GET", "/api/v1/status")),
        Ask::Doctor(port) => doctor::examine(admin, &port, &target.secrets),
    }
}

fn log(admin: &Admin, log: Log) -> Answer {
    const PATH: &str = "/api/v1/log";
    let call = match log {
        Log::Show => Call::new("GET", PATH),
        Log::Set { filter, seconds } => Call::new("PUT", PATH).body(json!({ "filter": filter, "seconds": seconds })),
        Log::Reset => Call::new("DELETE", PATH),
    };
    plain(admin, &call)
}

fn plain(admin: &Admin, call: &Call) -> Answer {
    admin.send(call).map(|value| (value, true))
}

fn is(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool) == Some(true)
}

fn bans(admin: &Admin, bans: Bans) -> Answer {
    let one = |target: &str| format!("/api/v1/bans/{}", escaped(target));
    match bans {
        Bans::List { reason } => {
            let more = reason.map(|reason| format!("&reason={}", escaped(&reason))).unwrap_or_default();
            pages(admin, ("/api/v1/bans", "bans", "cursor"), &more).map(|bans| (json!({ "bans": bans }), true))
        }
        Bans::Add { target, seconds, reason } => {
            let reason = reason.map(|reason| json!({ "reason": reason })).unwrap_or_else(|| json!({}));
            let mut body = json!({ "seconds": seconds });
            if let (Some(body), Some(reason)) = (body.as_object_mut(), reason.as_object()) {
                body.extend(reason.clone());
            }
            plain(admin, &Call::new("PUT", &one(&target)).body(body))
        }
        Bans::Del { target } => {
            let gone = admin.send(&Call::new("DELETE", &one(&target)))?;
            let removed = is(&gone, "removed");
            Ok((gone, removed))
        }
        Bans::Import { file, seconds } => import(admin, &file, seconds),
        Bans::Export => {
            let bans = pages(admin, ("/api/v1/bans", "bans", "cursor"), "")?;
            // An export is for programs, whatever the flags say.
            let text = format!("{:#}\n", json!({ "bans": bans }));
            let written = std::io::stdout().write_all(text.as_bytes()).is_ok();
            Ok((Value::Null, written))
        }
        Bans::Why { address } => {
            let why = admin.send(&Call::new("GET", &format!("/api/v1/addresses/{}", escaped(&address))))?;
            let is_listed = why.get("lists").and_then(Value::as_array).is_some_and(|lists| !lists.is_empty());
            let is_covered = is(&why, "banned") || is_listed;
            Ok((why, is_covered))
        }
    }
}

/// All pages of a list: its path, its key in the answer, and the parameter that names where a page ended.
fn pages(admin: &Admin, (path, key, at): (&str, &str, &str), more: &str) -> Result<Vec<Value>, CallError> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = admin.send(&Call::new("GET", &format!("{path}?limit=1000{cursor}{more}")))?;
        found.extend(page.get(key).and_then(Value::as_array).cloned().unwrap_or_default());
        let next = match page.get("next") {
            Some(Value::String(next)) => escaped(next),
            Some(Value::Number(next)) => next.to_string(),
            _ => return Ok(found),
        };
        let next = format!("&{at}={next}");
        if next == cursor {
            return Ok(found);
        }
        cursor = next;
    }
}

fn import(admin: &Admin, file: &std::path::Path, seconds: u32) -> Answer {
    let failed = |error: std::io::Error| CallError::Usage(format!("{}: {error}", file.display()));
    let mut text = String::new();
    if file == std::path::Path::new("-") {
        std::io::stdin().lock().take(IMPORT_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(file).map_err(failed)?.take(IMPORT_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    }
    let bans = match serde_json::from_str::<Value>(&text) {
        Ok(value) => value.get("bans").and_then(Value::as_array).cloned().ok_or_else(|| {
            CallError::Usage(format!("{}: JSON, but no export: there is no list `bans`", file.display()))
        })?,
        Err(_) => {
            let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
            lines.filter(|line| !line.is_empty()).map(|line| json!({ "target": line, "seconds": seconds })).collect()
        }
    };
    let mut imported = 0;
    for chunk in bans.chunks(IMPORT_CHUNK) {
        let done = admin.send(&Call::new("POST", "/api/v1/bans").body(json!({ "bans": chunk })))?;
        imported += done.get("imported").and_then(Value::as_u64).unwrap_or_default();
    }
    Ok((json!({ "imported": imported }), true))
}

fn patterns(admin: &Admin, patterns: Patterns) -> Answer {
    match patterns {
        Patterns::List { set } => {
            let found = pages(admin, ("/api/v1/patterns", "patterns", "cursor"), &format!("&set={}", set.name()))?;
            Ok((json!({ "patterns": found }), true))
        }
        Patterns::Add { pattern } => {
            plain(admin, &Call::new("POST", "/api/v1/patterns").body(json!({ "pattern": pattern })))
        }
        Patterns::Del { pattern } => {
            let path = format!("/api/v1/patterns?pattern={}", escaped(&pattern));
            let gone = admin.send(&Call::new("DELETE", &path))?;
            let removed = is(&gone, "removed");
            Ok((gone, removed))
        }
        Patterns::Clear => plain(admin, &Call::new("DELETE", "/api/v1/patterns?all=true")),
        Patterns::Test { pattern, text } => {
            let has_text = text.is_some();
            let mut body = json!({ "pattern": pattern });
            if let (Some(body), Some(text)) = (body.as_object_mut(), text) {
                body.insert("text".to_owned(), text.into());
            }
            let tried = admin.send(&Call::new("POST", "/api/v1/patterns/test").body(body))?;
            let good = !has_text || is(&tried, "matches");
            Ok((tried, good))
        }
    }
}
