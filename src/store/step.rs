//! Rows of `step`.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, Named, int, now_ms, serialize_name};
use super::metric::{self, Metric};
use super::step_slot::{self, NewSlot};
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::types::{RoundId, RunId, StepId, WeightVersion};

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepStatus {
    /// It is running, or was cut off: to be resumed.
    Running,
    /// Searched, trained and reloaded.
    Done,
}

impl Named for StepStatus {
    const ALL: &'static [Self] = &[StepStatus::Running, StepStatus::Done];

    fn name(self) -> &'static str {
        match self {
            StepStatus::Running => "running",
            StepStatus::Done => "done",
        }
    }
}

impl StepStatus {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        self.name()
    }
}

/// A step that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStep {
    /// The run.
    pub run: RunId,
    /// Its number, from 1.
    pub step: StepId,
    /// The round it belongs to.
    pub round: RoundId,
    /// The weights that search with.
    pub search_weight_version: WeightVersion,
    /// The trees planned.
    pub slots: Vec<NewSlot>,
}

/// What a step came to. Numbers that were not finite are stored as null.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StepEnd {
    /// The weights it made; `None` if the update was skipped.
    pub produced_weight_version: Option<WeightVersion>,
    /// Why the update was skipped.
    pub update_skip_reason: Option<String>,
    /// Time of the search.
    pub search_ms: u64,
    /// Time of the update.
    pub train_ms: u64,
    /// Time of the export.
    pub export_ms: u64,
    /// Time of the reload.
    pub reload_ms: u64,
    /// Tokens sampled by the engine.
    pub generated_tokens: u64,
    /// Tokens on trained trajectories, each time they occur.
    pub trained_tokens: u64,
    /// Tokens the trainer computed, shared ones once.
    pub packed_tokens: u64,
    /// Groups left out because they carry no signal.
    pub skipped_group_count: u64,
    /// Mean reward of the trajectories.
    pub mean_reward: Option<f64>,
    /// Loss.
    pub loss: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Share of tokens whose ratio was clipped.
    pub clip_frac: Option<f64>,
    /// Mean ratio trainer / engine over the sampled tokens.
    pub ratio_mean: Option<f64>,
    /// 99th percentile of that ratio.
    pub ratio_p99: Option<f64>,
    /// Share of tokens with a ratio outside [0.9, 1.1].
    pub ratio_outside_frac: Option<f64>,
    /// Tokens without a usable ratio.
    pub ratio_nan_count: u64,
    /// Mean -logprob of the sampled tokens, in nats.
    pub entropy_nats: Option<f64>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepRow {
    /// The run.
    pub run_id: RunId,
    /// Its number, from 1.
    pub step_id: StepId,
    /// The round it belongs to.
    pub round_id: RoundId,
    /// Where it stands.
    #[serde(serialize_with = "serialize_name")]
    pub status: StepStatus,
    /// Trees planned.
    pub problem_count: u32,
    /// The weights it searches with.
    pub search_weight_version: WeightVersion,
    /// What it came to; `None` while it is running.
    pub end: Option<StepEnd>,
    /// When it began.
    pub created_at_ms: i64,
    /// When it was over.
    pub ended_at_ms: Option<i64>,
}

pub(super) const STEPS: &str = "
    select run_id, step_id, round_id, status, problem_count, search_weight_version, produced_weight_version, update_skip_reason,
           search_ms, train_ms, export_ms, reload_ms, generated_tokens, trained_tokens, packed_tokens,
           skipped_group_count, mean_reward, loss, grad_norm, clip_frac, ratio_mean, ratio_p99, ratio_outside_frac,
           ratio_nan_count, entropy_nats, created_at_ms, ended_at_ms
    from step
    where run_id = ? and status = ?
    order by step_id";

impl Store {
    /// Begins a step with its plan. One that was cut off is not begun again but goes on from its recorded plan
    /// ([`Reader::step_slots`]).
    ///
    /// # Errors
    /// The step was begun before ([`StoreError::Conflict`], or [`StoreError::StepOver`] if it is over too); there is no
    /// such run, weight version or problem; two slots are the same; the database cannot be written.
    pub async fn begin_step(&self, step: NewStep) -> Result<(), StoreError> {
        self.write(step).await
    }

    /// Ends a step, after the reload was confirmed, together with its metrics.
    ///
    /// # Errors
    /// There is no such step, it is over already, or the database cannot be written.
    pub async fn finish_step(
        &self,
        run: RunId,
        step: StepId,
        end: StepEnd,
        metrics: Vec<Metric>,
    ) -> Result<(), StoreError> {
        self.write(FinishStep { run, step, end, metrics }).await
    }
}

impl Reader {
    /// The steps of a run that were begun and are not over, oldest first: where a resume goes on.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unfinished_steps(&self, run: RunId) -> Result<Vec<StepRow>, StoreError> {
        self.steps_in(run, StepStatus::Running).await
    }

    /// The steps of a run that are over, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn done_steps(&self, run: RunId) -> Result<Vec<StepRow>, StoreError> {
        self.steps_in(run, StepStatus::Done).await
    }

    async fn steps_in(&self, run: RunId, status: StepStatus) -> Result<Vec<StepRow>, StoreError> {
        self.all(sqlx::query(STEPS).bind(run.0).bind(status.name()), step_row).await
    }
}

fn step_row(row: &Cells<'_>) -> Result<StepRow, StoreError> {
    let status: StepStatus = row.name("status")?;
    Ok(StepRow {
        run_id: RunId(row.get("run_id")?),
        step_id: StepId(row.get("step_id")?),
        round_id: RoundId(row.get("round_id")?),
        status,
        problem_count: row.int("problem_count")?,
        search_weight_version: WeightVersion(row.int("search_weight_version")?),
        end: match status {
            StepStatus::Running => None,
            StepStatus::Done => Some(step_end(row)?),
        },
        created_at_ms: row.get("created_at_ms")?,
        ended_at_ms: row.get("ended_at_ms")?,
    })
}

fn step_end(row: &Cells<'_>) -> Result<StepEnd, StoreError> {
    Ok(StepEnd {
        produced_weight_version: row.int_option("produced_weight_version")?.map(WeightVersion),
        update_skip_reason: row.get("update_skip_reason")?,
        search_ms: row.int("search_ms")?,
        train_ms: row.int("train_ms")?,
        export_ms: row.int("export_ms")?,
        reload_ms: row.int("reload_ms")?,
        generated_tokens: row.int("generated_tokens")?,
        trained_tokens: row.int("trained_tokens")?,
        packed_tokens: row.int("packed_tokens")?,
        skipped_group_count: row.int("skipped_group_count")?,
        mean_reward: row.get("mean_reward")?,
        loss: row.get("loss")?,
        grad_norm: row.get("grad_norm")?,
        clip_frac: row.get("clip_frac")?,
        ratio_mean: row.get("ratio_mean")?,
        ratio_p99: row.get("ratio_p99")?,
        ratio_outside_frac: row.get("ratio_outside_frac")?,
        ratio_nan_count: row.int("ratio_nan_count")?,
        entropy_nats: row.get("entropy_nats")?,
    })
}

impl Write for NewStep {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        match status(conn, self.run, self.step).await?.as_deref() {
            None => {}
            Some("running") => {
                return Err(StoreError::Conflict {
                    what: format!("step `{}` of run `{}`", self.step, self.run),
                    stored: StepStatus::Running.name().to_owned(),
                    given: "new".to_owned(),
                });
            }
            Some(_) => return Err(StoreError::StepOver { run: self.run, step: self.step }),
        }
        sqlx::query(
            "insert into step (run_id, step_id, round_id, status, problem_count, search_weight_version, created_at_ms)
             values (?, ?, ?, 'running', ?, ?, ?)",
        )
        .bind(self.run.0)
        .bind(self.step.0)
        .bind(self.round.0)
        .bind(int(self.slots.len() as u64))
        .bind(int(self.search_weight_version.0))
        .bind(now_ms())
        .execute(&mut *conn)
        .await?;
        step_slot::insert(conn, self.run, self.step, &self.slots).await
    }
}

struct FinishStep {
    run: RunId,
    step: StepId,
    end: StepEnd,
    metrics: Vec<Metric>,
}

impl Write for FinishStep {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        require_running(conn, self.run, self.step).await?;
        let end = &self.end;
        sqlx::query(
            "update step
             set status = 'done', produced_weight_version = ?, update_skip_reason = ?,
                 search_ms = ?, train_ms = ?, export_ms = ?, reload_ms = ?,
                 generated_tokens = ?, trained_tokens = ?, packed_tokens = ?, skipped_group_count = ?,
                 mean_reward = ?, loss = ?, grad_norm = ?, clip_frac = ?,
                 ratio_mean = ?, ratio_p99 = ?, ratio_outside_frac = ?, ratio_nan_count = ?, entropy_nats = ?,
                 ended_at_ms = ?
             where run_id = ? and step_id = ?",
        )
        .bind(end.produced_weight_version.map(|version| int(version.0)))
        .bind(&end.update_skip_reason)
        .bind(int(end.search_ms))
        .bind(int(end.train_ms))
        .bind(int(end.export_ms))
        .bind(int(end.reload_ms))
        .bind(int(end.generated_tokens))
        .bind(int(end.trained_tokens))
        .bind(int(end.packed_tokens))
        .bind(int(end.skipped_group_count))
        .bind(end.mean_reward)
        .bind(end.loss)
        .bind(end.grad_norm)
        .bind(end.clip_frac)
        .bind(end.ratio_mean)
        .bind(end.ratio_p99)
        .bind(end.ratio_outside_frac)
        .bind(int(end.ratio_nan_count))
        .bind(end.entropy_nats)
        .bind(now_ms())
        .bind(self.run.0)
        .bind(self.step.0)
        .execute(&mut *conn)
        .await?;
        metric::upsert(conn, self.run, self.step, &self.metrics).await
    }
}

/// Refuses rows of a step that was not begun or is over.
pub(super) async fn require_running(conn: &mut SqliteConnection, run: RunId, step: StepId) -> Result<(), StoreError> {
    match status(conn, run, step).await?.as_deref() {
        Some("running") => Ok(()),
        Some(_) => Err(StoreError::StepOver { run, step }),
        None => Err(StoreError::NotFound { what: "step", id: format!("{step} of run {run}") }),
    }
}

async fn status(conn: &mut SqliteConnection, run: RunId, step: StepId) -> Result<Option<String>, StoreError> {
    let status = sqlx::query_scalar("select status from step where run_id = ? and step_id = ?")
        .bind(run.0)
        .bind(step.0)
        .fetch_optional(conn)
        .await?;
    Ok(status)
}
