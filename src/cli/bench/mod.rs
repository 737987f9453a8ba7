//! `orchestrator bench`: how fast the parts are on this machine.

mod train;

use super::Printer;
use crate::error::Failure;

/// Measure how fast this machine is.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Measure training: tokens per second, utilisation, memory, where the time goes.
    Train(Box<train::Args>),
}

/// Runs the subcommand.
///
/// # Errors
/// As its subcommands.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    match args.command {
        Command::Train(args) => train::run(*args, printer),
    }
}
