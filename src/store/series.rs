//! Series over the steps of a run, as curves need them.

use serde::Serialize;

use super::{MetricRow, Reader, StepSummary, StoreError, view};
use crate::types::{RunId, StepId};

/// What the sampled trajectories of a step's trees were like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepTrajectories {
    /// The step.
    pub step_id: StepId,
    /// Sampled trajectories.
    pub trajectory_count: u64,
    /// Mean number of their sampled tokens.
    pub response_tokens_mean: Option<f64>,
    /// Share of correct ones.
    pub correct_frac: Option<f64>,
}

pub(super) const STEP_TRAJECTORIES: &str = "
    select t.step_id, count(*) as trajectory_count, avg(j.response_tokens) as response_tokens_mean,
           avg(j.verdict = 'correct') as correct_frac
    from tree t
    join trajectory j on j.tree_id = t.tree_id
    where t.run_id = ? and j.provenance <> 'cached'
    group by t.step_id
    order by t.step_id";

pub(super) const ALL_METRICS: &str = "select step_id, name, value from metric where run_id = ? order by name, step_id";

pub(super) const LAST_STEP: &str = "select max(step_id) as step_id from step where run_id = ? and status = 'done'";

impl Reader {
    /// What each step's sampled trajectories were like, oldest first; steps without any are left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn step_trajectories(&self, run: RunId) -> Result<Vec<StepTrajectories>, StoreError> {
        self.all(sqlx::query(STEP_TRAJECTORIES).bind(run.0), |row| {
            Ok(StepTrajectories {
                step_id: StepId(row.get("step_id")?),
                trajectory_count: row.int("trajectory_count")?,
                response_tokens_mean: row.get("response_tokens_mean")?,
                correct_frac: row.get("correct_frac")?,
            })
        })
        .await
    }

    /// Every number without a column of its own, by name and step.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn all_metrics(&self, run: RunId) -> Result<Vec<MetricRow>, StoreError> {
        self.all(sqlx::query(ALL_METRICS).bind(run.0), |row| {
            Ok(MetricRow { step_id: StepId(row.get("step_id")?), name: row.get("name")?, value: row.get("value")? })
        })
        .await
    }

    /// The last step that is over; `None` before the first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn last_step(&self, run: RunId) -> Result<Option<StepSummary>, StoreError> {
        let step: Option<Option<i64>> =
            self.optional(sqlx::query(LAST_STEP).bind(run.0), |row| row.get("step_id")).await?;
        let Some(step) = step.flatten() else { return Ok(None) };
        self.optional(sqlx::query(view::STEP_SUMMARY).bind(run.0).bind(step).bind(step), view::step_summary).await
    }
}
