//! `orchestrator db`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Printer, recorded_config};
use crate::config::KeepText;
use crate::error::{Failure, FailureClass, Hint};
use crate::report::{findings_table, pruned_text, size_table, vacuumed_text};
use crate::run::audit::{self, RecordedRun};
use crate::run::{DATABASE, FolderLock, Retention, oldest_checkpoint};
use crate::store::{DatabaseSize, Finding, Prune, Pruned, Reader, Store};
use crate::types::{RunId, StepId};

/// Look after the database of a run: check it, drop what need not be kept, make it smaller.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check that everything in the database fits together. Read only, also while the run goes on; exit code 1 if not.
    ///
    /// Example: orchestrator db check runs/quickstart --deep
    Check {
        /// Run folder or database file.
        #[arg(value_name = "DIR")]
        path: PathBuf,
        /// Also read the weights on disk to the last byte, and verify kept solutions again.
        #[arg(long)]
        deep: bool,
        /// Print JSON instead of tables.
        #[arg(long)]
        json: bool,
    },
    /// Drop tokens, logprobs and text of nodes in finished steps: by default what `run.keep_text` and
    /// `run.keep_logprobs` do not keep. What a resume needs stays; so do figures of nodes, and kept solutions.
    ///
    /// Example: orchestrator db prune runs/quickstart --keep none --steps-before 100 --dry-run
    Prune(PruneArgs),
    /// Write the database anew without free pages, its schema brought up to date.
    ///
    /// Example: orchestrator db vacuum runs/quickstart
    Vacuum {
        /// Run folder or database file.
        #[arg(value_name = "DIR")]
        path: PathBuf,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Run folder or database file.
    #[arg(value_name = "DIR")]
    path: PathBuf,
    /// Only this run; without it all of the database.
    #[arg(long, value_name = "N")]
    run: Option<i64>,
    /// Whose tokens and text to keep, instead of `run.keep_text`.
    #[arg(long, value_enum)]
    keep: Option<Keep>,
    /// Drop logprobs, whatever `run.keep_logprobs` says.
    #[arg(long)]
    drop_logprobs: bool,
    /// Only steps before this one.
    #[arg(long, value_name = "N")]
    steps_before: Option<i64>,
    /// Say what would go, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Keep {
    /// All nodes'.
    All,
    /// Those of nodes on trajectories, and of whole answers.
    Trained,
    /// Only the prompts'.
    None,
}

impl From<Keep> for KeepText {
    fn from(keep: Keep) -> KeepText {
        match keep {
            Keep::All => KeepText::All,
            Keep::Trained => KeepText::Trained,
            Keep::None => KeepText::None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum DbError {
    #[error("the database `{}` has no run `{run}`", path.display())]
    NoRun { path: PathBuf, run: i64 },
    #[error("the answer cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

impl Hint for DbError {
    fn class(&self) -> FailureClass {
        match self {
            DbError::NoRun { .. } => FailureClass::User,
            DbError::Json(_) => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            DbError::NoRun { path, .. } => {
                Some(format!("list what is there: orchestrator inspect {} runs", path.display()))
            }
            DbError::Json(_) => None,
        }
    }
}

/// What `check` prints as JSON.
#[derive(Serialize)]
struct Checked {
    is_sound: bool,
    findings: Vec<Finding>,
    size: DatabaseSize,
}

/// What `prune` prints as JSON.
#[derive(Serialize)]
struct PruneReport {
    is_dry: bool,
    #[serde(flatten)]
    pruned: Pruned,
}

/// Runs the subcommand.
///
/// # Errors
/// A database that cannot be read; to change one, a folder in which a run is going on.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let runtime = super::session::runtime()?;
    runtime.block_on(async {
        match args.command {
            Command::Check { path, deep, json } => check(&Place::of(&path), deep, json, printer).await,
            Command::Prune(args) => prune(&args, printer).await,
            Command::Vacuum { path, json } => vacuum(&Place::of(&path), json, printer).await,
        }
    })
}

/// A database, and the folder of its run.
struct Place {
    dir: PathBuf,
    database: PathBuf,
}

impl Place {
    fn of(path: &Path) -> Place {
        if path.is_dir() {
            return Place { dir: path.to_owned(), database: path.join(DATABASE) };
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Place { dir: dir.to_owned(), database: path.to_owned() }
    }

    /// Keeps runs out of the folder while the database is changed. A folder that is not there has no run.
    fn lock(&self) -> Result<Option<FolderLock>, Failure> {
        Ok(self.database.is_file().then(|| FolderLock::acquire(&self.dir)).transpose()?)
    }
}

async fn check(place: &Place, deep: bool, json: bool, printer: &Printer) -> Result<u8, Failure> {
    let reader = Reader::open(&place.database).await?;
    let mut findings = reader.check(deep).await?;
    let runs = recorded_runs(&reader, place, printer).await?;
    findings.extend(audit::weights_on_disk(&reader, &place.dir, &runs, deep).await?);
    if deep {
        findings.push(audit::solutions_verified(&reader, &runs).await?);
    }
    let size = reader.size().await?;
    let broken = findings.iter().filter(|finding| !finding.holds()).count();
    if json {
        printer.data(&to_json(&Checked { is_sound: broken == 0, findings, size })?)?;
    } else {
        let width = printer.width();
        printer.data(&format!("{}\n{}", findings_table(&findings, width), size_table(&size, width)))?;
        printer.note(&match broken {
            0 => format!("all {} rules hold", findings.len()),
            _ => format!("{broken} of {} rules do not hold", findings.len()),
        });
    }
    Ok(u8::from(broken > 0))
}

/// Runs whose configuration this program can read. Of one that was recorded by another version nothing more is checked.
async fn recorded_runs(reader: &Reader, place: &Place, printer: &Printer) -> Result<Vec<RecordedRun>, Failure> {
    let mut runs = Vec::new();
    for row in reader.runs().await?.into_iter().rev() {
        let name = format!("configuration of run {} in {}", row.run_id, place.database.display());
        match recorded_config(&name, &row.config_toml, &[]) {
            Ok(config) => runs.push(RecordedRun { row, config }),
            Err(error) => {
                let why = error.chain().join(": ");
                printer.note(&format!("warning: run {} is looked at less closely: {why}", row.run_id));
            }
        }
    }
    Ok(runs)
}

async fn prune(args: &PruneArgs, printer: &Printer) -> Result<u8, Failure> {
    let place = Place::of(&args.path);
    let _lock = if args.dry_run { None } else { place.lock()? };
    let reader = Reader::open(&place.database).await?;
    let mut runs = recorded_runs(&reader, &place, printer).await?;
    if let Some(run) = args.run {
        runs.retain(|recorded| recorded.row.run_id == RunId(run));
        if runs.is_empty() {
            return Err(DbError::NoRun { path: place.database, run }.into());
        }
    }
    let mut prunes: Vec<Prune> = Vec::new();
    for run in &runs {
        prunes.extend(prunes_of(args, &place, &reader, run, printer).await?);
    }
    let mut pruned = Pruned::default();
    if args.dry_run {
        for prune in prunes {
            pruned += reader.prunable(prune).await?;
        }
    } else if !prunes.is_empty() {
        let store = Store::open(&place.database).await?;
        for prune in prunes {
            pruned += store.prune(prune).await?;
        }
        store.close().await?;
    }
    match args.json {
        true => printer.data(&to_json(&PruneReport { is_dry: args.dry_run, pruned })?)?,
        false => printer.data(&pruned_text(&pruned, args.dry_run))?,
    }
    Ok(0)
}

async fn prunes_of(
    args: &PruneArgs,
    place: &Place,
    reader: &Reader,
    run: &RecordedRun,
    printer: &Printer,
) -> Result<Vec<Prune>, Failure> {
    let id = run.row.run_id;
    let mut retention = Retention::of(&run.config.run);
    retention.text = args.keep.map_or(retention.text, KeepText::from);
    retention.logprobs &= !args.drop_logprobs;
    let done = reader.done_steps(id).await?.last().map_or(StepId(0), |step| step.step_id);
    let until = args.steps_before.map_or(done, |step| done.min(StepId(step - 1)));
    let spare = oldest_checkpoint(&place.dir, id)?;
    let needs_checkpoint = retention.text == KeepText::None || !retention.logprobs;
    if needs_checkpoint && spare.is_none_or(|spare| spare < until) {
        let since = spare.map_or_else(
            || "there is no checkpoint".to_owned(),
            |step| format!("the oldest checkpoint is of step {step}"),
        );
        printer.note(&format!("run {id}: later steps keep what a resume needs ({since})"));
    }
    Ok(retention.prune(id, until, spare))
}

async fn vacuum(place: &Place, json: bool, printer: &Printer) -> Result<u8, Failure> {
    let _lock = place.lock()?;
    let vacuumed = Store::vacuum(&place.database).await?;
    match json {
        true => printer.data(&to_json(&vacuumed)?)?,
        false => printer.data(&vacuumed_text(&vacuumed))?,
    }
    Ok(0)
}

fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value).map_err(DbError::Json)?)
}
