//! The `orchestrator` command: parse, run, and turn a failure into text and an exit code.

use std::process::ExitCode;

use clap::Parser;
use orchestrator::cli::{Cli, Printer};

fn main() -> ExitCode {
    let printer = Printer::new();
    match orchestrator::cli::run(Cli::parse(), &printer) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.class.exit_code())
        }
    }
}
