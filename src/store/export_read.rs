//! What exports read: the figures of a run since a step, the problems that it was given, the results of a benchmark.

use super::codec::Cells;
use super::{BenchmarkResult, MetricRow, Reader, StepStatus, StepSummary, StepTrajectories, StoreError, view};
use crate::types::{BenchmarkId, RunId, StepId};

/// A problem by its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProblemContent {
    /// The data set.
    pub source: String,
    /// SHA-256 over name, text and answer, lower-case hex.
    pub sha256: String,
}

const TRAJECTORIES_SINCE: &str = "
    select t.step_id, count(*) as trajectory_count, avg(j.response_tokens) as response_tokens_mean,
           avg(j.verdict = 'correct') as correct_frac
    from tree t
    join trajectory j on j.tree_id = t.tree_id
    where t.run_id = ? and t.step_id > ? and j.provenance <> 'cached'
    group by t.step_id
    order by t.step_id";

const METRICS_SINCE: &str =
    "select step_id, name, value from metric where run_id = ? and step_id > ? order by step_id, name";

const TRAINING_CONTENTS: &str = "
    select p.source, p.content_sha256
    from problem p
    where p.problem_id in (select problem_id from round_problem where run_id = ?)
    order by p.content_sha256";

const HELD_OUT_CONTENTS: &str = "
    select p.source, p.content_sha256
    from problem p
    where p.problem_id in (select problem_id from evaluation_problem where run_id = ?)
    order by p.content_sha256";

const CORRECT_COUNTS: &str =
    "select correct_count from evaluation_problem where run_id = ? and step_id = ? order by problem_id";

const RESULTS: &str = "
    select file_id, metric, k, value, low, high
    from benchmark_result
    where benchmark_id = ?
    order by file_id, metric desc, k";

impl Reader {
    /// The steps after `after` that are over, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn done_steps_since(&self, run: RunId, after: StepId) -> Result<Vec<StepSummary>, StoreError> {
        let query = sqlx::query(view::STEP_SUMMARY).bind(run.0).bind(after.0.saturating_add(1)).bind(i64::MAX);
        let mut steps = self.all(query, view::step_summary).await?;
        steps.retain(|step| step.status == StepStatus::Done);
        Ok(steps)
    }

    /// What the sampled trajectories of the steps after `after` were like, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn step_trajectories_since(
        &self,
        run: RunId,
        after: StepId,
    ) -> Result<Vec<StepTrajectories>, StoreError> {
        self.all(sqlx::query(TRAJECTORIES_SINCE).bind(run.0).bind(after.0), |row| {
            Ok(StepTrajectories {
                step_id: StepId(row.get("step_id")?),
                trajectory_count: row.int("trajectory_count")?,
                response_tokens_mean: row.get("response_tokens_mean")?,
                correct_frac: row.get("correct_frac")?,
            })
        })
        .await
    }

    /// The numbers without a column of their own of the steps after `after`, by step and name.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn metrics_since(&self, run: RunId, after: StepId) -> Result<Vec<MetricRow>, StoreError> {
        self.all(sqlx::query(METRICS_SINCE).bind(run.0).bind(after.0), |row| {
            Ok(MetricRow { step_id: StepId(row.get("step_id")?), name: row.get("name")?, value: row.get("value")? })
        })
        .await
    }

    /// The problems that the rounds of a run could choose from, in the order of their digests.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn training_contents(&self, run: RunId) -> Result<Vec<ProblemContent>, StoreError> {
        self.all(sqlx::query(TRAINING_CONTENTS).bind(run.0), content).await
    }

    /// The problems that a run was measured on, in the order of their digests.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn held_out_contents(&self, run: RunId) -> Result<Vec<ProblemContent>, StoreError> {
        self.all(sqlx::query(HELD_OUT_CONTENTS).bind(run.0), content).await
    }

    /// Correct rollouts of each problem in the measurement after `step`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn evaluation_correct_counts(&self, run: RunId, step: StepId) -> Result<Vec<u32>, StoreError> {
        self.all(sqlx::query(CORRECT_COUNTS).bind(run.0).bind(step.0), |row| row.int("correct_count")).await
    }

    /// The figures that were worked out from the samples of a benchmark, by file: pass@k, then majority@k.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn benchmark_results(&self, benchmark: BenchmarkId) -> Result<Vec<BenchmarkResult>, StoreError> {
        self.all(sqlx::query(RESULTS).bind(benchmark.0), |row| {
            let metric: String = row.get("metric")?;
            let ends: (Option<f64>, Option<f64>) = (row.get("low")?, row.get("high")?);
            Ok(BenchmarkResult {
                file: row.int("file_id")?,
                // A check of the schema allows no third.
                metric: if metric == "pass" { "pass" } else { "majority" },
                k: row.int("k")?,
                value: row.get("value")?,
                interval: ends.0.zip(ends.1).map(|(low, high)| [low, high]),
            })
        })
        .await
    }
}

fn content(row: &Cells<'_>) -> Result<ProblemContent, StoreError> {
    Ok(ProblemContent { source: row.get("source")?, sha256: row.get("content_sha256")? })
}
