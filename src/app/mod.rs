//! Assembly: the one room that knows every room. Commands, and how the service is put together.

pub mod build;
mod cli;
mod control;
pub mod curl;
mod databases;
pub mod explain;
pub mod facts;
pub mod herald;
pub mod input;
pub mod keeper;
mod lint;
mod narrow;
pub mod patterns;
mod preview;
mod reload;
pub mod replay;
pub mod rules;
pub mod serve;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::app::build::build;
use crate::app::serve::ServeError;
use crate::config::{self, Sources, report};

/// Exit code of a configuration or command line that cannot be used (`EX_USAGE`).
const USAGE: u8 = 64;
/// Names the configuration file; it is no setting, though it begins like one.
const CONFIG_VARIABLE: &str = "ENVOY_GUARD_CONFIG";

/// What the command line may say.
#[derive(Debug, Parser)]
#[command(name = "envoy-guard", version, about = "Security decisions for Envoy", propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decide for Envoy until told to stop; SIGHUP loads the configuration again.
    Serve(Source),
    /// Load and compile a configuration, and report what is wrong or has no effect.
    CheckConfig {
        #[command(flatten)]
        source: Source,
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Look for what is risky: in a configuration, and in an Envoy's beside it. Exit code 1 for warnings, 2 for errors.
    Lint(Box<lint::Lint>),
    /// Decide one request and show how: checks, values, views, rows, score.
    Explain(Box<explain::Explain>),
    /// Decide a file of requests, one JSON object a line, and print the verdicts.
    Replay(replay::ReplayArgs),
    /// Show and change the bans of a running service.
    Bans {
        #[command(subcommand)]
        what: cli::Bans,
        #[command(flatten)]
        target: cli::Target,
    },
    /// Show, change and try the patterns of a running service.
    Patterns {
        #[command(subcommand)]
        what: cli::Patterns,
        #[command(flatten)]
        target: cli::Target,
    },
    /// Show and forget the rate limit counts of a running service.
    Limits {
        #[command(subcommand)]
        what: cli::Limits,
        #[command(flatten)]
        target: cli::Target,
    },
    /// Show and change the levels of a running service's own log lines.
    Log {
        #[command(subcommand)]
        what: cli::Log,
        #[command(flatten)]
        target: cli::Target,
    },
    /// Show recent decisions of a running service, follow them, and explain one.
    Decisions {
        #[command(subcommand)]
        what: cli::decisions::Decisions,
        #[command(flatten)]
        target: cli::Target,
    },
    /// Make a running service read its configuration again.
    Reload {
        /// Only tell what would change.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        target: cli::Target,
    },
    /// Show how each part of a running service is doing.
    Status {
        #[command(flatten)]
        target: cli::Target,
    },
    /// Look for what is wrong with a running service. Exit code 1 when something is.
    Doctor {
        #[command(flatten)]
        port: cli::doctor::Port,
        #[command(flatten)]
        target: cli::Target,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Print the version.
    Version,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct Source {
    /// YAML, TOML or JSON file.
    #[arg(long, short, env = CONFIG_VARIABLE, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, such as `security.passive_mode=true`. Wins over file and variables; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a setting looks like KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl From<Source> for Sources {
    /// The sources of this process: its file, its variables, its flags.
    fn from(source: Source) -> Self {
        let env = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value)));
        // A value that is no text stays visible as such: a setting must not vanish.
        let env = env.map(|(key, value)| (key, value.to_string_lossy().into_owned()));
        let env = env.filter(|(key, _)| key != CONFIG_VARIABLE);
        Self { file: source.config, env: env.collect(), overrides: source.settings }
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            // With the standard streams closed there is nobody left to tell.
            error.print().unwrap_or_default();
            return code;
        }
    };
    match cli.command {
        Command::Serve(source) => finish(serve::serve(source.into())),
        Command::CheckConfig { source, json } => check_config(&source.into(), json),
        Command::Lint(lint) => lint::run(*lint),
        Command::Explain(explain) => said(explain.run(&mut std::io::stdout().lock())),
        Command::Replay(replay) => said(replay.run()),
        Command::Bans { what, target } => cli::run(&target, cli::Ask::Bans(what)),
        Command::Patterns { what, target } => cli::run(&target, cli::Ask::Patterns(what)),
        Command::Limits { what, target } => cli::run(&target, cli::Ask::Limits(what)),
        Command::Log { what, target } => cli::run(&target, cli::Ask::Log(what)),
        Command::Decisions { what, target } => cli::run(&target, cli::Ask::Decisions(what)),
        Command::Reload { dry_run, target } => cli::run(&target, cli::Ask::Reload { dry_run }),
        Command::Status { target } => cli::run(&target, cli::Ask::Status),
        Command::Doctor { port, target } => cli::run(&target, cli::Ask::Doctor(port)),
        Command::Completions { shell } => completions(shell),
        Command::Schema => print(&format!("{:#}\n", config::schema())),
        Command::Version => print(concat!(env!("CARGO_PKG_VERSION"), "\n")),
    }
}

fn finish(result: Result<(), ServeError>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    complain(&error.to_string());
    match error {
        ServeError::Config(_) => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// Reports on a configuration; what only compiling it shows is an error here too.
fn check_config(sources: &Sources, json: bool) -> ExitCode {
    let (text, code) = if json { report::check_json(sources) } else { report::check(sources) };
    if code != report::GOOD {
        print(&text);
        return ExitCode::from(USAGE);
    }
    match build(sources) {
        Ok(_) => print(&text),
        Err(refusal) => {
            if json {
                print(&format!("{:#}\n", serde_json::json!({"valid": false, "errors": refusal.0})));
            } else {
                print(&format!("{refusal}\n"));
            }
            ExitCode::from(USAGE)
        }
    }
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "envoy-guard", &mut text);
    print(&String::from_utf8_lossy(&text))
}

fn said<E: std::error::Error>(result: Result<(), E>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    drop(writeln!(std::io::stderr(), "envoy-guard: {error}"));
    ExitCode::from(USAGE)
}

fn print(text: &str) -> ExitCode {
    // A closed pipe (`| head`) is no failure of ours, but no success either.
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(text: &str) {
    // With standard error closed the exit code has to say it all.
    writeln!(std::io::stderr(), "envoy-guard: {text}").unwrap_or_default();
}
