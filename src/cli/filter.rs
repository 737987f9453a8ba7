//! `orchestrator filter`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Printer;
use super::session::{INTERRUPTED, carry_out, runtime};
use crate::config::Config;
use crate::data::write_jsonl;
use crate::error::Failure;
use crate::run::{DATABASE, Ended, Goal, Job, RunError};
use crate::store::Reader;
use crate::types::{RoundId, RunId};

/// Measures which problems are hard for a model: K rollouts each, those of a low pass rate are kept.
///
/// The result is a problem file with the pass rates; the measurement itself is the first round of a run in `run.dir`, which
/// `orchestrator run --resume` goes on with.
///
/// Example: orchestrator filter --config configs/paper.toml --out hard.jsonl
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// File to write, JSON lines. Replaced when it exists.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace one setting, for example `--set curriculum.filter_samples=8`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// A configuration that cannot be used, the failure that ended the measurement, a file that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let mut config: Config = super::load_config(&args.config, &args.sets)?;
    // What the command is for; a configuration of a baseline has it off.
    config.curriculum.filter = true;
    let dir = config.run.dir.clone();
    let outcome = carry_out(Job { config, resume: None, goal: Goal::Filter }, printer)?;
    if outcome.ended == Ended::Interrupted {
        return Ok(INTERRUPTED);
    }
    let (kept, measured) = runtime()?.block_on(write(&dir, outcome.run, &args.out))?;
    printer.note(&format!("{kept} of {measured} problems are hard: {}", args.out.display()));
    printer.note(&format!("train on them: orchestrator run --resume {}", dir.display()));
    Ok(0)
}

/// Writes the hard problems of the first round; returns how many there are, and of how many.
async fn write(dir: &Path, run: RunId, out: &Path) -> Result<(usize, usize), Failure> {
    let reader = Reader::open(&dir.join(DATABASE)).await?;
    let rows = reader.round_problems(run, RoundId(1)).await?;
    let mut lines = Vec::new();
    for row in rows.iter().filter(|row| row.is_hard == Some(true)) {
        let problem = reader.problem(row.problem_id).await?;
        let problem = problem
            .ok_or_else(|| crate::store::StoreError::NotFound { what: "problem", id: row.problem_id.to_string() })?;
        let (samples, correct) = (row.sample_count.unwrap_or(0), row.correct_count.unwrap_or(0));
        let mut line = json!({
            "id": problem.name, "problem": problem.text, "answer": problem.answer, "source": problem.source,
            "samples": samples, "correct": correct,
            "pass_rate": f64::from(correct) / f64::from(samples.max(1)),
        });
        for (key, value) in [("level", problem.level), ("topic", problem.topic)] {
            if let (Some(value), Some(object)) = (value, line.as_object_mut()) {
                object.insert(key.to_owned(), json!(value));
            }
        }
        lines.push(line);
    }
    write_jsonl(out, &lines).map_err(RunError::from)?;
    Ok((lines.len(), rows.len()))
}
