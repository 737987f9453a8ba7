//! `orchestrator verify`: its arguments and its rules; what it does is in the files below.

mod audit;
mod lines;

use std::path::PathBuf;

use super::Printer;
use crate::config::{self, VerifyConfig};
use crate::error::{Failure, FailureClass, Hint};
use crate::verify::Grader;

/// Say which answers are right; or grade the answers of a run again.
///
/// Reads JSON lines with `id`, `gold` (the bare reference) and `response` (the whole text), and writes as many in the same
/// order: `id`, `verdict`, `decided_by`, `extracted`, `micros`. Verdicts: correct, incorrect, no_answer, undecided, error.
///
/// With --audit the answers that a run has stored are graded by the rules of today, and those whose verdict changes are
/// listed. Nothing is written to its database. Exit code 1 if a verdict changed.
///
/// Examples:
///   orchestrator verify answers.jsonl --out verdicts.jsonl
///   producer | orchestrator verify --set verify.percent=value
///   orchestrator verify --audit runs/quickstart
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// JSON lines; without it, or with `-`, standard input.
    #[arg(value_name = "FILE", conflicts_with = "audit")]
    file: Option<PathBuf>,
    /// Write here instead of standard output. Replaced when it exists.
    #[arg(long, value_name = "FILE", conflicts_with = "audit")]
    out: Option<PathBuf>,
    /// Configuration whose `[verify]` holds; without it the defaults, and with --audit those of the run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace one setting, for example `--set verify.rounded_places=3`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Do not ask Math-Verify about what is undecided.
    #[arg(long)]
    no_sidecar: bool,
    /// Run folder or database file whose answers are graded again.
    #[arg(long, value_name = "RUN")]
    audit: Option<PathBuf>,
    /// With --audit: which run of the folder; the newest where it is left out.
    #[arg(long, value_name = "NUMBER", requires = "audit")]
    run: Option<i64>,
    /// With --audit: one JSON line for each change, and one with the counts.
    #[arg(long, requires = "audit")]
    json: bool,
}

/// Why answers cannot be judged.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is read: it cannot be written at the same time", path.display())]
    SameFile { path: PathBuf },
    #[error("{}, line {line}: {reason}", path.display())]
    Line { path: PathBuf, line: u64, reason: String },
    #[error("the database `{}` has no {what}", path.display())]
    Missing { path: PathBuf, what: String },
    #[error("a verdict cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    #[error("a task of the verifier ended early")]
    Task(#[source] tokio::task::JoinError),
}

impl Hint for VerifyError {
    fn class(&self) -> FailureClass {
        match self {
            VerifyError::Io { action: "read", .. }
            | VerifyError::SameFile { .. }
            | VerifyError::Line { .. }
            | VerifyError::Missing { .. } => FailureClass::User,
            VerifyError::Io { .. } => FailureClass::Environment,
            VerifyError::Json(_) | VerifyError::Task(_) => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            VerifyError::Line { .. } => Some(
                "a line is `{\"id\": 1, \"gold\": \"1/2\", \"response\": \"...\"}`; the verdicts before it stay".into(),
            ),
            VerifyError::SameFile { .. } => Some("name another file with `--out`".into()),
            VerifyError::Missing { path, .. } => {
                Some(format!("list what is there: orchestrator inspect {} runs", path.display()))
            }
            VerifyError::Io { .. } | VerifyError::Json(_) | VerifyError::Task(_) => None,
        }
    }
}

/// Runs the subcommand.
///
/// # Errors
/// Rules that cannot be used, a line that is none, a database that cannot be read.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let runtime = super::session::runtime()?;
    match &args.audit {
        Some(path) => runtime.block_on(audit::audit(path, &args, printer)),
        None => {
            let grader = Grader::new(rules(&args)?);
            runtime.block_on(lines::judge(&args, &grader, printer))?;
            Ok(0)
        }
    }
}

/// `[verify]` of the arguments; the rest of a configuration is read, but need not be whole.
fn rules(args: &Args) -> Result<VerifyConfig, Failure> {
    let config = match &args.config {
        Some(path) => {
            let sources = config::sources(path, |path| std::fs::read_to_string(path))?;
            config::parse_sources(&sources, &args.sets)?
        }
        None => config::parse("defaults", "", &args.sets)?,
    };
    config::validate_verify(&config)?;
    let mut rules = config.verify_rules();
    rules.sidecar &= !args.no_sidecar;
    Ok(rules)
}

/// Says once why Math-Verify cannot be asked.
fn tell_failure(grader: &Grader, printer: &Printer) {
    if let Some(failure) = grader.take_failure() {
        printer.note(&format!("warning: {}", failure.notice()));
    }
}

/// Threads that judge at the same time.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
