//! The `orchestrator` command: parse, run, and turn a failure into text and an exit code.

use std::process::ExitCode;

use clap::Parser;
use orchestrator::cli::{Cli, Printer};
use orchestrator::error::FailureClass;

fn main() -> ExitCode {
    // SAFETY: nothing has been started yet.
    unsafe { orchestrator::trainer::reproducible() };
    // A file that may not grow is then an error with a name, as a full disk is. The default ends the process without a word.
    // SAFETY: no handler is installed, and nothing runs yet that could depend on the signal.
    let _ =
        unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn) };
    let printer = Printer::new();
    let cli = Cli::parse();
    // The panic's own message is already on stderr; what is left to say is whose fault it is.
    let Ok(result) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| orchestrator::cli::run(cli, &printer)))
    else {
        printer
            .note("error: the orchestrator panicked\n  hint: this is a bug; please report it with the message above");
        return ExitCode::from(FailureClass::Bug.exit_code());
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.class.exit_code())
        }
    }
}
