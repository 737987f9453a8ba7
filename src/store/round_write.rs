//! How a round goes on: candidates are measured, the filter ends, the round ends and may be taken up again.

use sqlx::sqlite::SqliteConnection;

use super::StoreError;
use super::codec::{Named, int, now_ms};
use super::round::{FILL_HAS_SOLUTION, FilteredProblem, RoundStatus};
use super::solution;
use super::writer::Write;
use crate::types::{RoundId, RunId, StepId};

/// Where a round stands, for a write that changes it.
async fn status(conn: &mut SqliteConnection, run: RunId, round: RoundId) -> Result<RoundStatus, StoreError> {
    let name: Option<String> = sqlx::query_scalar("select status from round where run_id = ? and round_id = ?")
        .bind(run.0)
        .bind(round.0)
        .fetch_optional(conn)
        .await?;
    let missing = || StoreError::NotFound { what: "round", id: format!("{round} of run {run}") };
    let name = name.ok_or_else(missing)?;
    let known = RoundStatus::ALL.iter().copied().find(|status| status.name() == name);
    known.ok_or(StoreError::Value { column: "status", value: name })
}

fn wrong_status(run: RunId, round: RoundId, stored: RoundStatus, given: &str) -> StoreError {
    StoreError::Conflict {
        what: format!("round `{round}` of run `{run}`"),
        stored: stored.name().to_owned(),
        given: given.to_owned(),
    }
}

/// What [`Store::record_filtered`](super::Store::record_filtered) writes.
pub(super) struct RecordFiltered {
    pub(super) run: RunId,
    pub(super) round: RoundId,
    pub(super) problems: Vec<FilteredProblem>,
}

impl Write for RecordFiltered {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let status = status(conn, self.run, self.round).await?;
        if status != RoundStatus::Filtering {
            return Err(wrong_status(self.run, self.round, status, "filtering"));
        }
        for problem in &self.problems {
            self.record(conn, problem).await?;
        }
        Ok(())
    }
}

impl RecordFiltered {
    async fn record(&self, conn: &mut SqliteConnection, given: &FilteredProblem) -> Result<(), StoreError> {
        let changed = sqlx::query(
            "update round_problem
             set sample_count = ?, correct_count = ?, error_count = ?, generated_tokens = ?, is_hard = ?, reason = ?
             where run_id = ? and round_id = ? and problem_id = ? and reason is null",
        )
        .bind(given.samples)
        .bind(given.correct)
        .bind(given.errors)
        .bind(int(given.generated_tokens))
        .bind(given.reason.is_hard())
        .bind(given.reason.name())
        .bind(self.run.0)
        .bind(self.round.0)
        .bind(given.problem.0)
        .execute(&mut *conn)
        .await?;
        if changed.rows_affected() == 0 {
            self.require_same(conn, given).await?;
        }
        solution::insert(conn, self.run, given.problem, None, &given.solutions).await
    }

    async fn require_same(&self, conn: &mut SqliteConnection, given: &FilteredProblem) -> Result<(), StoreError> {
        let stored: Option<(i64, i64, i64, String)> = sqlx::query_as(
            "select sample_count, correct_count, error_count, reason
             from round_problem
             where run_id = ? and round_id = ? and problem_id = ?",
        )
        .bind(self.run.0)
        .bind(self.round.0)
        .bind(given.problem.0)
        .fetch_optional(conn)
        .await?;
        let (run, round, problem) = (self.run, self.round, given.problem);
        let Some((samples, correct, errors, reason)) = stored else {
            let id = format!("{problem} in round {round} of run {run}");
            return Err(StoreError::NotFound { what: "candidate", id });
        };
        let figures = |correct: i64, samples: i64, errors: i64, reason: &str| {
            format!("{reason}: {correct} of {samples} correct, {errors} errors")
        };
        let stored = figures(correct, samples, errors, &reason);
        let given = figures(given.correct.into(), given.samples.into(), given.errors.into(), given.reason.name());
        if stored == given {
            return Ok(());
        }
        Err(StoreError::Conflict {
            what: format!("problem `{problem}` in round `{round}` of run `{run}`"),
            stored,
            given,
        })
    }
}

/// What [`Store::begin_training`](super::Store::begin_training) writes.
pub(super) struct BeginTraining {
    pub(super) run: RunId,
    pub(super) round: RoundId,
}

impl Write for BeginTraining {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        if status(conn, self.run, self.round).await? != RoundStatus::Filtering {
            return Ok(());
        }
        sqlx::query(FILL_HAS_SOLUTION).bind(self.run.0).bind(self.round.0).execute(&mut *conn).await?;
        sqlx::query("update round set status = 'training', filtered_at_ms = ? where run_id = ? and round_id = ?")
            .bind(now_ms())
            .bind(self.run.0)
            .bind(self.round.0)
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// What [`Store::reopen_round`](super::Store::reopen_round) writes.
pub(super) struct ReopenRound {
    pub(super) run: RunId,
    pub(super) round: RoundId,
    pub(super) last_step: StepId,
}

impl Write for ReopenRound {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        // Also the check that there is such a round.
        status(conn, self.run, self.round).await?;
        // What is done stays within the round, whatever is asked for now.
        sqlx::query(
            "update round
             set last_step_id = max(?3, done.step_id), status = case status when 'done' then 'training' else status end,
                 ended_at_ms = null
             from (
                 select coalesce(max(step_id), 0) as step_id
                 from step
                 where run_id = ?1 and round_id = ?2 and status = 'done'
             ) done
             where run_id = ?1 and round_id = ?2
                 and (last_step_id < ?3 or (status <> 'done' and last_step_id > max(?3, done.step_id)))",
        )
        .bind(self.run.0)
        .bind(self.round.0)
        .bind(self.last_step.0)
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// What [`Store::finish_round`](super::Store::finish_round) writes.
pub(super) struct FinishRound {
    pub(super) run: RunId,
    pub(super) round: RoundId,
}

impl Write for FinishRound {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        match status(conn, self.run, self.round).await? {
            RoundStatus::Done => return Ok(()),
            RoundStatus::Training => {}
            RoundStatus::Filtering => {
                return Err(wrong_status(self.run, self.round, RoundStatus::Filtering, RoundStatus::Done.name()));
            }
        }
        sqlx::query("update round set status = 'done', ended_at_ms = ? where run_id = ? and round_id = ?")
            .bind(now_ms())
            .bind(self.run.0)
            .bind(self.round.0)
            .execute(conn)
            .await?;
        Ok(())
    }
}
