//! `orchestrator run`.

use std::path::{Path, PathBuf};

use super::Printer;
use super::session::{INTERRUPTED, carry_out, runtime};
use crate::error::Failure;
use crate::report::learning_table;
use crate::run::{Ended, Goal, Job, Outcome, RunError, changed_keys, has_more_tokens, resumable};
use crate::store::RunStatus;
use crate::types::RunId;

/// Trains a model by tree search.
///
/// Example: orchestrator run --config configs/quickstart.toml --set run.steps=5
///
/// Example: orchestrator run --resume runs/quickstart
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// Go on with the newest run of this folder, with the configuration that it began with. Without a folder that of
    /// --config is meant, and a run is begun where there is none: what a supervisor should call.
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    resume: Option<Option<PathBuf>>,
    /// With --resume: which run of the folder; the newest where it is left out.
    #[arg(long, value_name = "NUMBER", requires = "resume")]
    run: Option<i64>,
    /// Replace one setting, for example `--set train.learning_rate=1e-5`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Print the resolved configuration and stop.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A configuration that cannot be used, or the failure that ended the run.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let job = match &args.resume {
        None => {
            // Clap demands one of the two.
            let config = super::load_config(&args.config.unwrap_or_default(), &args.sets)?;
            Job { config, resume: None, goal: Goal::AllSteps }
        }
        Some(dir) => {
            let fresh = args.config.as_ref().map(|config| super::load_config(config, &args.sets)).transpose()?;
            let dir = match (dir, &fresh) {
                (Some(dir), _) => dir.clone(),
                (None, Some(config)) => config.run.dir.clone(),
                (None, None) => PathBuf::from("."),
            };
            match (resumed(&dir, args.run.map(RunId), &args.sets), fresh) {
                (Err(Resume::Nothing(_)), Some(config)) if config.run.dir == dir => {
                    Job { config, resume: None, goal: Goal::AllSteps }
                }
                (Err(Resume::Nothing(nothing)), _) => return Err(nothing.into()),
                (Err(Resume::Failed(failure)), _) => return Err(failure),
                (Err(Resume::Over { run, limits }), _) => {
                    let sets: Vec<String> = limits.iter().map(|key| format!("--set {key}=N")).collect();
                    let more =
                        if sets.is_empty() { "".into() } else { format!("; it goes on with more: {}", sets.join(" ")) };
                    printer.note(&format!("run {run} in {} is done{more}", dir.display()));
                    return Ok(0);
                }
                (Ok(job), fresh) => {
                    let changed = fresh.map(|fresh| changed_keys(&job.config, &fresh)).transpose()?.unwrap_or_default();
                    if !changed.is_empty() {
                        printer.note(&format!(
                            "warning: the run goes on as it was begun, which differs from --config in {}",
                            changed.join(", ")
                        ));
                    }
                    job
                }
            }
        }
    };
    if args.dry_run {
        printer.data(&crate::config::render(&job.config).map_err(RunError::Config)?)?;
        return Ok(0);
    }
    let outcome = carry_out(job, printer)?;
    // A run is done without them, and `orchestrator export model` writes them as well.
    if let Err(failure) = runtime()?.block_on(super::export::write_cards(&outcome.dir, outcome.run)) {
        printer.note(&format!("warning: the weights have no model card: {failure}"));
    }
    printer.note(&closing_lines(&outcome));
    if !outcome.curve.is_empty() {
        printer.note(&learning_table(&outcome.curve, printer.width()));
    }
    match outcome.ended {
        Ended::AllSteps | Ended::NothingHard | Ended::TokensSpent => Ok(0),
        Ended::Interrupted => Ok(INTERRUPTED),
    }
}

/// Why there is no job of going on.
enum Resume {
    /// There is no run.
    Nothing(RunError),
    /// It has done all its steps.
    Over {
        run: RunId,
        /// The keys that it would go on with more of.
        limits: Vec<&'static str>,
    },
    /// It cannot go on like this.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Resume {
    fn from(error: E) -> Self {
        Resume::Failed(error.into())
    }
}

/// The job of going on with a run.
fn resumed(dir: &Path, run: Option<RunId>, sets: &[String]) -> Result<Job, Resume> {
    let found = match runtime()?.block_on(resumable(dir, run)) {
        Err(nothing @ RunError::NothingToResume { .. }) => return Err(Resume::Nothing(nothing)),
        found => found?,
    };
    let row = found.row;
    let name = format!("configuration of run {} in {}", row.run_id, dir.display());
    let begun = super::recorded_config(&name, &row.config_toml, &[])?;
    let mut config = super::recorded_config(&name, &row.config_toml, sets)?;
    // The folder may have been moved, and its own place is what counts.
    config.run.dir = dir.to_owned();
    let keys = changed_keys(&begun, &config)?;
    if !keys.is_empty() {
        return Err(RunError::CannotChange { keys }.into());
    }
    let has_more = config.run.steps > begun.run.steps || has_more_tokens(&begun, &config);
    let limits = found.spent.limits(&config);
    if row.status == RunStatus::Done && (!has_more || !limits.is_empty()) {
        return Err(Resume::Over { run: row.run_id, limits });
    }
    Ok(Job { config, resume: Some(row.run_id), goal: Goal::AllSteps })
}

fn closing_lines(outcome: &Outcome) -> String {
    let how = match outcome.ended {
        Ended::AllSteps => "done",
        Ended::NothingHard => "done: no hard problem is left",
        Ended::TokensSpent => "done: `run.max_generated_tokens` are spent",
        Ended::Interrupted => "interrupted",
    };
    let weights = match &outcome.weights {
        Some(dir) => format!("weights in {}", dir.display()),
        None => "no weights confirmed".to_owned(),
    };
    let dir = outcome.dir.display();
    let resume = match outcome.ended {
        Ended::Interrupted => format!("\ngo on: orchestrator run --resume {dir}"),
        Ended::AllSteps | Ended::NothingHard | Ended::TokensSpent => String::new(),
    };
    format!("{how}: {} steps, {weights}\nlook: orchestrator inspect {dir}{resume}", outcome.steps_done)
}
