//! Assembly: the one room that knows every room. Commands, and how the service is put together.

pub mod curl;
pub mod input;
pub mod serve;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::serve::ServeError;

/// Exit code of a configuration or command line that cannot be used (`EX_USAGE`).
const USAGE: u8 = 64;

/// What the command line may say.
#[derive(Debug, Parser)]
#[command(name = "envoy-guard", version, about = "Security decisions for Envoy", propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decide for Envoy until told to stop.
    Serve(Source),
    /// Load and compile a configuration, and report what is wrong or has no effect.
    CheckConfig(Source),
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Print the version.
    Version,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct Source {
    /// YAML, TOML or JSON file.
    #[arg(long, short, env = "ENVOY_GUARD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, such as `security.passive_mode=true`. Wins over file and environment; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            // With the standard streams closed there is nobody left to tell.
            drop(error.print());
            return code;
        }
    };
    match cli.command {
        Command::Serve(source) => finish(serve::serve(&source)),
        Command::CheckConfig(source) => finish(serve::load(&source).map(drop)),
        Command::Schema => print(&schema()),
        Command::Version => print(env!("CARGO_PKG_VERSION")),
    }
}

fn finish(result: Result<(), ServeError>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    drop(writeln!(std::io::stderr(), "envoy-guard: {error}"));
    match error {
        ServeError::Config(_) => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

fn schema() -> String {
    let schema = schemars::schema_for!(crate::config::Config);
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

fn print(text: &str) -> ExitCode {
    // A closed pipe (`| head`) is no failure of ours, but no success either.
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
