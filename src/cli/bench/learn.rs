//! `orchestrator bench learn`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Unserialisable;
use crate::cli::Printer;
use crate::cli::session::{INTERRUPTED, interruptible, runtime};
use crate::error::{Failure, FailureClass, Hint, chain};
use crate::report::learn::{
    Place, RunCurve, compare, learn_markdown, plot, read_curve, read_trees, search_markdown, search_rows,
};
use crate::report::text::one_line;
use crate::run::learn::{
    Execution, LearnError, LearnEvent, Measures, PlannedRun, Standing, Suite, check, learn, load, plan, standing,
};

/// Compares algorithms: trains with each of them on each task of a suite, seed by seed, and says which gets how far on what
/// it sampled. Base models and problems are made first. What is over is not done again, so a suite that was stopped or
/// killed goes on where it was.
///
/// Example: orchestrator bench learn --suite configs/suites/main.toml --jobs 2
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Suite in TOML.
    #[arg(long, value_name = "FILE")]
    suite: PathBuf,
    /// Runs at a time, each a process of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Only runs of these seeds.
    #[arg(long, value_name = "SEED", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Only runs of these tasks.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Only runs of these algorithms.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    algorithms: Vec<String>,
    /// Take runs up again that ended with an error.
    #[arg(long)]
    retry_failed: bool,
    /// Run nothing: results of what is there.
    #[arg(long, conflicts_with = "dry_run")]
    table_only: bool,
    /// Run nothing: say which runs there are, and where they stand.
    #[arg(long)]
    dry_run: bool,
}

/// A name or seed that the suite does not have.
#[derive(Debug, thiserror::Error)]
#[error("the suite has no {what} `{name}`")]
struct Unknown {
    what: &'static str,
    name: String,
}

impl Hint for Unknown {
    fn class(&self) -> FailureClass {
        FailureClass::User
    }
}

/// Exit code where a run failed or is not over.
const INCOMPLETE: u8 = 1;

/// Runs the subcommand.
///
/// # Errors
/// A suite that cannot be used, or what no run can do without.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let suite = load(&args.suite)?;
    let all = plan(&suite)?;
    let chosen = choose(&args, &suite, &all)?;
    if args.dry_run {
        for run in &chosen {
            let standing = match runtime()?.block_on(standing(run)) {
                Ok(Standing::Absent) => "to be run".to_owned(),
                Ok(Standing::Unfinished) => "goes on".to_owned(),
                Ok(Standing::Failed { error }) => format!("failed: {}", one_line(&error)),
                Ok(Standing::Done) => "done".to_owned(),
                Err(LearnError::OtherRun { keys, .. }) => format!("begun with other settings: {}", keys.join(", ")),
                Err(LearnError::Store(error)) => format!("cannot be read: {}", one_line(&chain(&error).join(": "))),
                Err(other) => return Err(other.into()),
            };
            printer.data(&format!("{}: {standing}", run.name()))?;
        }
        return Ok(0);
    }
    // All of them, also where a part is chosen: they are side by side in the table.
    runtime()?.block_on(check(&suite, &all))?;
    if !args.table_only {
        let program = std::env::current_exe().map_err(|source| LearnError::Io {
            action: "find",
            path: "the program itself".into(),
            source,
        })?;
        let execution = Execution { program, jobs: args.jobs as usize, retries_failed: args.retry_failed };
        let is_over = interruptible(async |cancel| {
            Ok(learn(&suite, &chosen, &execution, &cancel, |event| printer.note(&line(&event))).await?)
        })?;
        if !is_over {
            printer.note(&format!("go on: orchestrator bench learn --suite {}", args.suite.display()));
            return Ok(INTERRUPTED);
        }
    }
    let results = runtime()?.block_on(results(&suite, &all))?;
    printer.data(&results.markdown)?;
    for (ending, text) in &results.files {
        let path = suite.dir.join(format!("{}.{ending}", suite.name));
        write(&path, text)?;
        printer.note(&format!("written: {}", path.display()));
    }
    Ok(if results.is_complete { 0 } else { INCOMPLETE })
}

fn choose(args: &Args, suite: &Suite, all: &[PlannedRun]) -> Result<Vec<PlannedRun>, Failure> {
    let unknown = |what, name: String| Err(Unknown { what, name }.into());
    if let Some(seed) = args.seeds.iter().find(|seed| !suite.seeds.contains(seed)) {
        return unknown("seed", seed.to_string());
    }
    if let Some(name) = args.tasks.iter().find(|name| !suite.tasks.iter().any(|task| task.name == **name)) {
        return unknown("task", name.clone());
    }
    let is_algorithm = |name: &String| suite.algorithms.iter().any(|one| one.name == *name);
    if let Some(name) = args.algorithms.iter().find(|name| !is_algorithm(name)) {
        return unknown("algorithm", name.clone());
    }
    let mut chosen = all.to_vec();
    chosen.retain(|run| {
        (args.seeds.is_empty() || args.seeds.contains(&run.seed))
            && (args.tasks.is_empty() || args.tasks.contains(&run.task))
            && (args.algorithms.is_empty() || args.algorithms.contains(&run.algorithm))
    });
    Ok(chosen)
}

/// What came of a suite.
struct Results {
    markdown: String,
    /// Ending of the name, and text.
    files: Vec<(&'static str, String)>,
    is_complete: bool,
}

async fn results(suite: &Suite, runs: &[PlannedRun]) -> Result<Results, Failure> {
    let place = |run: &PlannedRun| Place {
        task: run.task.clone(),
        algorithm: run.algorithm.clone(),
        seed: run.seed,
        database: run.database(),
    };
    let mut curves: Vec<RunCurve> = Vec::with_capacity(runs.len());
    // Runs of which there is nothing to read, and those that cannot be read.
    let mut unread = BTreeSet::new();
    for run in runs {
        let read = match standing(run).await {
            Ok(Standing::Absent) => Ok(None),
            Ok(_) => read_curve(&place(run)).await.map(Some),
            Err(LearnError::Store(error)) => Err(error),
            Err(other) => return Err(other.into()),
        };
        curves.push(match read {
            Ok(Some(curve)) => curve,
            nothing => {
                unread.insert(run.name());
                let mut curve = read_curve(&Place { database: PathBuf::new(), ..place(run) }).await?;
                if let Err(error) = nothing {
                    curve.standing = crate::report::learn::Standing::Failed;
                    curve.error = Some(chain(&error).join(": "));
                }
                curve
            }
        });
    }
    // Task by task reads better than seed by seed.
    let rank = |curve: &RunCurve| {
        let task = suite.tasks.iter().position(|task| task.name == curve.task);
        let algorithm = suite.algorithms.iter().position(|one| one.name == curve.algorithm);
        (task, algorithm, curve.seed)
    };
    curves.sort_by_key(rank);
    let is_complete = curves.iter().all(|curve| curve.standing == crate::report::learn::Standing::Done);
    let json = |value: serde_json::Value| -> Result<String, Failure> {
        Ok(serde_json::to_string_pretty(&value).map_err(Unserialisable)? + "\n")
    };
    let of_task = |task: &str| -> Vec<&str> {
        let has = |name: &str| curves.iter().any(|curve| curve.task == task && curve.algorithm == name);
        suite.algorithms.iter().map(|one| one.name.as_str()).filter(|name| has(name)).collect()
    };
    if suite.measures == Measures::Search {
        let mut text = String::new();
        let mut tables = serde_json::Map::new();
        for task in &suite.tasks {
            let mut found = Vec::new();
            for name in of_task(&task.name) {
                let mut trees = Vec::new();
                let own = runs.iter().filter(|run| run.task == task.name && run.algorithm == name);
                for run in own.filter(|run| !unread.contains(&run.name())) {
                    trees.extend(read_trees(&place(run)).await?);
                }
                found.push((name, trees));
            }
            let rows = search_rows(&found);
            text += &search_markdown(&task.name, &rows);
            text.push('\n');
            tables.insert(task.name.clone(), serde_json::to_value(&rows).map_err(Unserialisable)?);
        }
        // These tables have no row of each run.
        for curve in curves.iter().filter(|curve| curve.standing != crate::report::learn::Standing::Done) {
            let error = curve.error.as_deref().map_or_else(String::new, |error| format!(": {}", one_line(error)));
            let standing = curve.standing.text();
            text += &format!("- {} {} seed {}: {standing}{error}\n", curve.task, curve.algorithm, curve.seed);
        }
        let files = vec![("md", text.clone()), ("json", json(serde_json::Value::Object(tables))?)];
        return Ok(Results { markdown: text, files, is_complete });
    }
    let baselines: Vec<&str> =
        suite.algorithms.iter().filter(|one| one.is_baseline).map(|one| one.name.as_str()).collect();
    let tasks: Vec<_> = (suite.tasks.iter())
        .map(|task| compare(&task.name, task.max_generated_tokens, &of_task(&task.name), &baselines, &curves))
        .collect();
    let markdown = learn_markdown(&tasks, &curves);
    let names: Vec<(&str, u64)> =
        suite.tasks.iter().map(|task| (task.name.as_str(), task.max_generated_tokens)).collect();
    let algorithms: Vec<&str> = suite.algorithms.iter().map(|one| one.name.as_str()).collect();
    let files = vec![
        ("md", markdown.clone()),
        ("svg", plot(&names, &algorithms, &curves)),
        ("json", json(serde_json::json!({ "tasks": tasks, "runs": curves }))?),
    ];
    Ok(Results { markdown, files, is_complete })
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let result = std::fs::write(path, text);
    Ok(result.map_err(|source| LearnError::Io { action: "write", path: path.to_owned(), source })?)
}

fn line(event: &LearnEvent) -> String {
    match event {
        LearnEvent::Waiting { model } => format!("model {model}: another process makes it, which is waited for"),
        LearnEvent::Making { model, step, steps } => format!("model {model}: step {step} of {steps}"),
        LearnEvent::OtherBits { model, expected, found } => format!(
            "warning: the weights of model {model} are not those that the suite was written with, as on another processor \
             or with another libtorch; compare runs of this machine only ({found}, not {expected})"
        ),
        LearnEvent::Unreadable { name, error } => format!("{name}: left alone, for {}", one_line(error)),
        LearnEvent::Skipped { name, error: None } => format!("{name}: done before"),
        LearnEvent::Skipped { name, error: Some(error) } => {
            format!("{name}: failed before ({}); --retry-failed takes it up again", one_line(error))
        }
        LearnEvent::Begun { name, number, of } => format!("{name}: begun, {number} of {of}"),
        LearnEvent::Ended { name, took, error: None } => format!("{name}: done in {:.0} s", took.as_secs_f64()),
        LearnEvent::Ended { name, took, error: Some(error) } => {
            format!("{name}: failed after {:.0} s: {}", took.as_secs_f64(), one_line(error))
        }
    }
}
