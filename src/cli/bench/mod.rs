//! `orchestrator bench`: how fast the parts are on this machine, and what learns faster.

mod learn;
mod rollout;
mod train;

use super::Printer;
use crate::error::{Failure, FailureClass, Hint};

/// Measure how fast this machine is, and what learns faster.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(about = "Measure training: tokens per second, utilisation, memory, where the time goes")]
    Train(Box<train::Args>),
    #[command(
        about = "Measure search: tokens per second against a plain load generator, time of a tree against lock step"
    )]
    Rollout(Box<rollout::Args>),
    #[command(about = "Measure learning: algorithms x seeds x tasks, accuracy against what was sampled")]
    Learn(Box<learn::Args>),
}

/// The result could not be written as JSON.
#[derive(Debug, thiserror::Error)]
#[error("the figures cannot be written as JSON")]
struct Unserialisable(#[source] serde_json::Error);

impl Hint for Unserialisable {
    fn class(&self) -> FailureClass {
        FailureClass::Bug
    }
}

/// Runs the subcommand.
///
/// # Errors
/// As its subcommands.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    match args.command {
        Command::Train(args) => train::run(*args, printer),
        Command::Rollout(args) => rollout::run(*args, printer),
        Command::Learn(args) => learn::run(*args, printer),
    }
}
