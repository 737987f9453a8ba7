//! The runs of a suite from their databases.

use std::path::PathBuf;

use serde::Serialize;

use super::curve::{Point, RunCurve};
use super::search::Strategy;
use crate::config::Algorithm;
use crate::store::{Reader, RunRow, RunStatus, StoreError, TreeFilter, TreeStatus};
use crate::types::{Verdict, WeightVersion};

/// Where a run of a suite is, or will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The task.
    pub task: String,
    /// The algorithm.
    pub algorithm: String,
    /// The seed.
    pub seed: u64,
    /// Its database.
    pub database: PathBuf,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// There is no database, or no run in it.
    Absent,
    /// It was begun and is not over.
    Unfinished,
    /// It ended with an error.
    Failed,
    /// It is over.
    Done,
}

impl Standing {
    /// For a table.
    pub fn text(self) -> &'static str {
        match self {
            Standing::Absent => "not begun",
            Standing::Unfinished => "not over",
            Standing::Failed => "failed",
            Standing::Done => "done",
        }
    }

    fn of(row: &RunRow) -> Standing {
        match row.status {
            RunStatus::Done => Standing::Done,
            RunStatus::Failed => Standing::Failed,
            RunStatus::Running | RunStatus::Interrupted => Standing::Unfinished,
        }
    }
}

/// The newest run of a database; nothing where there is none.
async fn open(place: &Place) -> Result<Option<(Reader, RunRow)>, StoreError> {
    if !place.database.exists() {
        return Ok(None);
    }
    let reader = match Reader::open(&place.database).await {
        Ok(reader) => reader,
        // A process that was killed at its very start may have left a database without tables.
        Err(_) if std::fs::metadata(&place.database).is_ok_and(|file| file.len() == 0) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(reader.latest_run().await?.map(|row| (reader, row)))
}

/// The curve of a run.
///
/// # Errors
/// Its database cannot be read.
pub async fn read_curve(place: &Place) -> Result<RunCurve, StoreError> {
    let mut curve = RunCurve {
        task: place.task.clone(),
        algorithm: place.algorithm.clone(),
        seed: place.seed,
        standing: Standing::Absent,
        error: None,
        base_digest: None,
        steps_done: 0,
        generated_tokens: 0,
        points: Vec::new(),
    };
    let Some((reader, row)) = open(place).await? else { return Ok(curve) };
    let run = row.run_id;
    curve.standing = Standing::of(&row);
    curve.error = row.error;
    let history = reader.weight_history(run).await?;
    curve.base_digest =
        history.into_iter().find(|version| version.weight_version == WeightVersion::INITIAL).map(|one| one.digest);
    let rounds = reader.rounds(run).await?;
    let filters = reader.round_summary(run).await?;
    let steps = reader.done_steps(run).await?;
    curve.steps_done = steps.len() as u64;
    let in_steps: u64 = steps.iter().filter_map(|step| Some(step.end.as_ref()?.generated_tokens)).sum();
    curve.generated_tokens = in_steps + filters.iter().map(|round| round.generated_tokens).sum::<u64>();
    // The time of a filter, to the process's own clock: one that was cut off and taken up again counts what was between.
    let filter_s = |until: i64| -> f64 {
        let begun = rounds.iter().filter(|round| round.first_step_id.0 <= until);
        let ms = begun.filter_map(|round| Some(round.filtered_at_ms? - round.created_at_ms));
        ms.sum::<i64>() as f64 / 1000.0
    };
    for point in reader.learning_curve(run).await? {
        let Some(pass_at_1) = point.pass_at_1 else { continue };
        let point = Point {
            step: point.step_id.0,
            pass_at_1,
            problem_count: point.problem_count,
            sample_count: point.sample_count,
            generated_tokens: point.generated_tokens as f64,
            trained_tokens: point.trained_tokens as f64,
            seconds: point.wall_s + filter_s(point.step_id.0),
        };
        if let (true, Some(first), Some(filter)) = (curve.points.len() == 1, curve.points.first(), filters.first())
            && first.step == 0
            && filter.generated_tokens > 0
        {
            let after = Point { generated_tokens: filter.generated_tokens as f64, seconds: filter_s(1), ..*first };
            curve.points.push(after);
        }
        curve.points.push(point);
    }
    Ok(curve)
}

/// The trees of a run in which nothing was trained.
///
/// # Errors
/// Its database cannot be read.
pub async fn read_trees(place: &Place) -> Result<Vec<Strategy>, StoreError> {
    let Some((reader, row)) = open(place).await? else { return Ok(Vec::new()) };
    let run = row.run_id;
    let search_ms: u64 =
        reader.done_steps(run).await?.iter().filter_map(|step| Some(step.end.as_ref()?.search_ms)).sum();
    let trees = reader.trees(TreeFilter::of(run)).await?;
    let count = trees.len().max(1) as f64;
    let mut found = Vec::with_capacity(trees.len());
    for tree in trees {
        let mut paths = reader.trajectories(tree.tree_id).await?;
        paths.retain(|path| path.solution.is_none());
        let total = |value: &dyn Fn(usize) -> f64| (0..paths.len()).map(value).sum::<f64>();
        found.push(Strategy {
            problem: tree.problem_name,
            is_solved: tree.is_solved,
            is_failed: matches!(tree.status, TreeStatus::Failed { .. }),
            expansion_count: if row.algorithm == Algorithm::Deepsearch { tree.expansion_count.into() } else { 1.0 },
            generated_tokens: tree.generated_tokens as f64,
            trajectory_tokens: tree.trajectory_tokens as f64,
            trajectory_count: paths.len() as f64,
            correct_count: total(&|index| f64::from(u8::from(paths[index].verdict == Verdict::Correct))),
            depth_sum: total(&|index| paths[index].path.len() as f64),
            entropy_sum: total(&|index| paths[index].entropy_nats.unwrap_or_default()),
            reward_sum: total(&|index| paths[index].reward),
            search_s: search_ms as f64 / 1000.0 / count,
        });
    }
    Ok(found)
}
