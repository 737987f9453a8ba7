//! The command line: parse, call, print. Every file below holds one subcommand's arguments and its `run`.

mod generate;
mod inspect;
mod model;
mod printer;
mod problems;
mod progress;
mod run;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::error::{Failure, FailureClass, Hint};

pub use printer::Printer;

/// DeepSearch: Monte Carlo tree search inside RL training of small reasoning models (arXiv 2509.25454).
#[derive(Debug, Parser)]
#[command(name = "orchestrator", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train: search, verify, update, reload, step after step.
    Run(run::Args),
    /// Look at a run: its steps, its trees, one tree.
    Inspect(inspect::Args),
    /// Talk to a model: a prompt in, text out.
    Generate(generate::Args),
    /// Make problem files.
    Problems(problems::Args),
    /// Make models.
    Model(model::Args),
}

/// Runs one subcommand and returns the process exit code.
///
/// # Errors
/// Whatever the subcommand failed with, classed and with a hint.
pub fn run(cli: Cli, printer: &Printer) -> Result<u8, Failure> {
    match cli.command {
        Command::Run(args) => run::run(args, printer),
        Command::Inspect(args) => inspect::run(args, printer),
        Command::Generate(args) => generate::run(args, printer),
        Command::Problems(args) => problems::run(args, printer),
        Command::Model(args) => model::run(args, printer),
    }
}

/// A file named on the command line that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`", path.display())]
struct Unreadable {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl Hint for Unreadable {
    fn class(&self) -> FailureClass {
        FailureClass::User
    }
}

/// Reads and checks a configuration file.
fn load_config(path: &Path, sets: &[String]) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Unreadable { path: path.to_owned(), source })?;
    let mut config = config::parse(&path.display().to_string(), &text, sets)?;
    config::validate(&config)?;
    // What a rule set leaves open is written out, so that the stored configuration says what was in force.
    config.search = config.search.resolved();
    Ok(config)
}
