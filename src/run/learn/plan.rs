//! The runs that a suite stands for, and what is there of each.

use std::path::{Path, PathBuf};

use super::LearnError;
use super::suite::{Algorithm, Measures, Suite, Task};
use crate::config::{self, Config, ConfigErrors};
use crate::run::{DATABASE, changed_keys};
use crate::store::{Reader, RunRow, RunStatus, StoreError};

/// One run of a suite.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRun {
    /// Name of the task.
    pub task: String,
    /// Name of the algorithm.
    pub algorithm: String,
    /// Its seed.
    pub seed: u64,
    /// Its folder.
    pub dir: PathBuf,
    /// Configuration file.
    pub file: PathBuf,
    /// What is set beside it.
    pub sets: Vec<String>,
    /// Both together, checked.
    pub config: Config,
}

impl PlannedRun {
    /// Where its database is, or will be.
    pub fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    /// Short enough for a line of progress.
    pub fn name(&self) -> String {
        format!("{} {} seed {}", self.task, self.algorithm, self.seed)
    }
}

/// What is there of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Absent,
    /// It was begun and is not over: called off, or its process was killed.
    Unfinished,
    /// It ended with an error.
    Failed {
        /// Which.
        error: String,
    },
    /// It is over.
    Done,
}

/// All runs, seed by seed, so that every algorithm has as many when the suite is cut short.
///
/// # Errors
/// Settings that cannot be used.
pub fn plan(suite: &Suite) -> Result<Vec<PlannedRun>, LearnError> {
    let mut runs = Vec::new();
    for &seed in &suite.seeds {
        for task in &suite.tasks {
            for algorithm in &suite.algorithms {
                if algorithm.tasks.is_empty() || algorithm.tasks.contains(&task.name) {
                    runs.push(planned(suite, task, algorithm, seed)?);
                }
            }
        }
    }
    Ok(runs)
}

fn planned(suite: &Suite, task: &Task, algorithm: &Algorithm, seed: u64) -> Result<PlannedRun, LearnError> {
    let dir = suite.dir.join(&task.name).join(&algorithm.name).join(format!("seed-{seed}"));
    let model = suite.models.get(&task.model).map(|model| model.out.clone()).unwrap_or_default();
    let held_out = match suite.measures {
        Measures::Learning => suite.data_file(task, HELD_OUT),
        Measures::Search => PathBuf::new(),
    };
    // As TOML texts, so that nothing in a path is taken for anything else.
    let path = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let mut sets: Vec<String> = suite.sets.iter().chain(&task.sets).cloned().collect();
    sets.extend([
        format!("run.name=\"{}-{}-{seed}\"", task.name, algorithm.name),
        format!("run.dir={}", path(&dir)),
        format!("run.model={}", path(&model)),
        format!("run.seed={seed}"),
        format!("run.max_generated_tokens={}", task.max_generated_tokens),
        format!("data.problems={}", path(&suite.data_file(task, PROBLEMS))),
        format!("eval.problems={}", path(&held_out)),
    ]);
    sets.extend(algorithm.sets.iter().cloned());
    let sources = config::sources(&task.config, |path| std::fs::read_to_string(path));
    let sources = sources.map_err(|source| LearnError::Source { task: task.name.clone(), source })?;
    let config = config::parse_sources(&sources, &sets).and_then(checked);
    let config = config.map_err(|source| LearnError::Config {
        task: task.name.clone(),
        algorithm: algorithm.name.clone(),
        source,
    })?;
    Ok(PlannedRun {
        task: task.name.clone(),
        algorithm: algorithm.name.clone(),
        seed,
        dir,
        file: task.config.clone(),
        sets,
        config,
    })
}

/// As the command line checks what it reads.
fn checked(mut config: Config) -> Result<Config, ConfigErrors> {
    config::validate(&config)?;
    config.search = config.search.resolved();
    Ok(config)
}

/// Names of the problem files of a task.
pub(super) const PROBLEMS: &str = "problems.jsonl";
pub(super) const HELD_OUT: &str = "heldout.jsonl";

/// What is there of a run. Its database is only read.
///
/// # Errors
/// A database that cannot be read ([`LearnError::Store`]); a run that was begun with other settings.
pub async fn standing(run: &PlannedRun) -> Result<Standing, LearnError> {
    let path = run.database();
    if !path.exists() {
        return Ok(Standing::Absent);
    }
    let reader = match Reader::open(&path).await {
        Ok(reader) => reader,
        // A process that was killed at its very start may have left a database without tables.
        Err(StoreError::OlderSchema { found: 0, .. }) => return Ok(Standing::Absent),
        Err(error) => return Err(error.into()),
    };
    let row = reader.latest_run().await;
    reader.close().await;
    let Some(row) = row? else { return Ok(Standing::Absent) };
    same_settings(run, &row)?;
    Ok(match row.status {
        RunStatus::Done => Standing::Done,
        RunStatus::Failed => Standing::Failed { error: row.error.unwrap_or_default() },
        RunStatus::Running | RunStatus::Interrupted => Standing::Unfinished,
    })
}

fn same_settings(run: &PlannedRun, row: &RunRow) -> Result<(), LearnError> {
    let name = format!("configuration of the run in {}", run.dir.display());
    let begun = config::parse(&name, &row.config_toml, &[]).and_then(checked);
    let begun = begun.map_err(|source| LearnError::Config {
        task: run.task.clone(),
        algorithm: run.algorithm.clone(),
        source,
    })?;
    let mut keys = changed_keys(&begun, &run.config)?;
    // A resume may change these, but runs that differ in them are not measured alike.
    let (one, other) = (&begun, &run.config);
    let alike = [
        ("run.model", one.run.model == other.run.model),
        ("run.steps", one.run.steps == other.run.steps),
        ("run.max_generated_tokens", one.run.max_generated_tokens == other.run.max_generated_tokens),
        ("eval.every", one.eval.every == other.eval.every),
    ];
    keys.extend(alike.iter().filter(|(_, is_alike)| !is_alike).map(|(key, _)| (*key).to_owned()));
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() { Ok(()) } else { Err(LearnError::OtherRun { dir: run.dir.clone(), keys }) }
}
