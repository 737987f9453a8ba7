//! Rows of `round` and `round_problem`: which problems a round trains on, and why.

use std::collections::BTreeSet;

use serde::Serialize;
use sqlx::QueryBuilder;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, Named, int, now_ms, serialize_name, serialize_name_option};
use super::round_write::{BeginTraining, FinishRound, RecordFiltered, ReopenRound};
use super::solution::NewSolution;
use super::tree::ROWS_PER_INSERT;
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::types::{ProblemId, RoundId, RunId, StepId, WeightVersion};

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundStatus {
    /// Its problems are being measured, or this was cut off.
    Filtering,
    /// Its problems are decided; its steps follow.
    Training,
    /// Its steps are over.
    Done,
}

impl Named for RoundStatus {
    const ALL: &'static [Self] = &[RoundStatus::Filtering, RoundStatus::Training, RoundStatus::Done];

    fn name(self) -> &'static str {
        match self {
            RoundStatus::Filtering => "filtering",
            RoundStatus::Training => "training",
            RoundStatus::Done => "done",
        }
    }
}

impl RoundStatus {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        self.name()
    }
}

/// Why a round trains on a problem, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundReason {
    /// Its pass rate is within the limit.
    Hard,
    /// Its pass rate is above the limit: left out.
    Easy,
    /// The round has no filter.
    All,
    /// No rollout had a verdict: left out.
    Undecided,
}

impl Named for RoundReason {
    const ALL: &'static [Self] = &[RoundReason::Hard, RoundReason::Easy, RoundReason::All, RoundReason::Undecided];

    fn name(self) -> &'static str {
        match self {
            RoundReason::Hard => "hard",
            RoundReason::Easy => "easy",
            RoundReason::All => "all",
            RoundReason::Undecided => "undecided",
        }
    }
}

impl RoundReason {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        self.name()
    }

    /// Whether the round trains on the problem.
    pub fn is_hard(self) -> bool {
        matches!(self, RoundReason::Hard | RoundReason::All)
    }
}

/// A round that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRound {
    /// The run.
    pub run: RunId,
    /// Its number, from 1.
    pub round: RoundId,
    /// The policy that filters.
    pub weight_version: WeightVersion,
    /// The first step planned.
    pub first_step: StepId,
    /// The last step planned; one before the first if there is none.
    pub last_step: StepId,
    /// The problems to choose from, in order; one that comes twice counts once.
    pub candidates: Vec<ProblemId>,
}

/// A candidate that was measured and decided.
#[derive(Clone, Debug, PartialEq)]
pub struct FilteredProblem {
    /// The problem.
    pub problem: ProblemId,
    /// Rollouts; 0 where the round has no filter.
    pub samples: u32,
    /// Correct ones.
    pub correct: u32,
    /// Those that nothing is known of: the check failed or could not decide.
    pub errors: u32,
    /// Tokens sampled for them.
    pub generated_tokens: u64,
    /// What follows.
    pub reason: RoundReason,
    /// Correct rollouts to keep.
    pub solutions: Vec<NewSolution>,
}

/// A round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoundRow {
    /// The run.
    pub run_id: RunId,
    /// Its number, from 1.
    pub round_id: RoundId,
    /// Where it stands.
    #[serde(serialize_with = "serialize_name")]
    pub status: RoundStatus,
    /// The policy that filters.
    pub weight_version: WeightVersion,
    /// The first step planned.
    pub first_step_id: StepId,
    /// The last step planned; one before the first if there is none.
    pub last_step_id: StepId,
    /// Problems to choose from.
    pub candidate_count: u32,
    /// When it began.
    pub created_at_ms: i64,
    /// When every problem was decided.
    pub filtered_at_ms: Option<i64>,
    /// When its last step was over.
    pub ended_at_ms: Option<i64>,
}

/// A candidate of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RoundProblemRow {
    /// The round.
    pub round_id: RoundId,
    /// The problem.
    pub problem_id: ProblemId,
    /// Rollouts; `None` until measured.
    pub sample_count: Option<u32>,
    /// Correct ones.
    pub correct_count: Option<u32>,
    /// Whether the round trains on it; `None` until decided.
    pub is_hard: Option<bool>,
    /// Why.
    #[serde(serialize_with = "serialize_name_option")]
    pub reason: Option<RoundReason>,
    /// Whether a solution was kept for it when the filter was over; `None` until then.
    pub has_solution: Option<bool>,
}

pub(super) const ROUNDS: &str = "
    select run_id, round_id, status, weight_version, first_step_id, last_step_id, candidate_count, created_at_ms,
           filtered_at_ms, ended_at_ms
    from round
    where run_id = ?
    order by round_id";

pub(super) const ROUND_PROBLEMS: &str = "
    select round_id, problem_id, sample_count, correct_count, is_hard, reason, has_solution
    from round_problem
    where run_id = ? and round_id = ?
    order by ordinal";

pub(super) const FILL_HAS_SOLUTION: &str = "
    update round_problem
    set has_solution = exists (
        select 1
        from solution s
        where s.problem_id = round_problem.problem_id and (s.run_id = round_problem.run_id or s.run_id is null)
    )
    where run_id = ? and round_id = ?";

impl Store {
    /// Begins a round with its filter. One that was begun with the same plan stays as it is.
    ///
    /// # Errors
    /// The round was begun with another plan ([`StoreError::Conflict`]); there is no such run, weight version or problem;
    /// the database cannot be written.
    pub async fn begin_round(&self, round: NewRound) -> Result<(), StoreError> {
        self.write(round).await
    }

    /// Records candidates that were measured, with the solutions found on the way. Recording the same again does nothing.
    ///
    /// # Errors
    /// A problem is no candidate of the round, or was recorded with other figures; the filter is over
    /// ([`StoreError::Conflict`]); the database cannot be written. In each case nothing is kept.
    pub async fn record_filtered(
        &self,
        run: RunId,
        round: RoundId,
        problems: Vec<FilteredProblem>,
    ) -> Result<(), StoreError> {
        self.write(RecordFiltered { run, round, problems }).await
    }

    /// Ends the filter of a round, and notes for which problems a solution is known. On a round whose filter is over it
    /// does nothing.
    ///
    /// # Errors
    /// There is no such round, or the database cannot be written.
    pub async fn begin_training(&self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        self.write(BeginTraining { run, round }).await
    }

    /// Takes up a round whose last planned step may have moved because the run was given more steps, or fewer: a round that
    /// ends before `last_step` now ends there, and trains again if it was done; one that would end later now ends there,
    /// or with its last finished step. On one that is done, and has no more to do, it does nothing.
    ///
    /// # Errors
    /// There is no such round, or the database cannot be written.
    pub async fn reopen_round(&self, run: RunId, round: RoundId, last_step: StepId) -> Result<(), StoreError> {
        self.write(ReopenRound { run, round, last_step }).await
    }

    /// Ends a round. On one that is over it does nothing.
    ///
    /// # Errors
    /// There is no such round, its filter is not over ([`StoreError::Conflict`]), or the database cannot be written.
    pub async fn finish_round(&self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        self.write(FinishRound { run, round }).await
    }
}

impl Reader {
    /// The rounds of a run, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn rounds(&self, run: RunId) -> Result<Vec<RoundRow>, StoreError> {
        self.all(sqlx::query(ROUNDS).bind(run.0), round_row).await
    }

    /// The candidates of a round, in the order in which they were given.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn round_problems(&self, run: RunId, round: RoundId) -> Result<Vec<RoundProblemRow>, StoreError> {
        self.all(sqlx::query(ROUND_PROBLEMS).bind(run.0).bind(round.0), problem_row).await
    }
}

fn round_row(row: &Cells<'_>) -> Result<RoundRow, StoreError> {
    Ok(RoundRow {
        run_id: RunId(row.get("run_id")?),
        round_id: RoundId(row.get("round_id")?),
        status: row.name("status")?,
        weight_version: WeightVersion(row.int("weight_version")?),
        first_step_id: StepId(row.get("first_step_id")?),
        last_step_id: StepId(row.get("last_step_id")?),
        candidate_count: row.int("candidate_count")?,
        created_at_ms: row.get("created_at_ms")?,
        filtered_at_ms: row.get("filtered_at_ms")?,
        ended_at_ms: row.get("ended_at_ms")?,
    })
}

pub(super) fn problem_row(row: &Cells<'_>) -> Result<RoundProblemRow, StoreError> {
    Ok(RoundProblemRow {
        round_id: RoundId(row.get("round_id")?),
        problem_id: ProblemId(row.get("problem_id")?),
        sample_count: row.int_option("sample_count")?,
        correct_count: row.int_option("correct_count")?,
        is_hard: row.get("is_hard")?,
        reason: row.name_option("reason")?,
        has_solution: row.get("has_solution")?,
    })
}

/// What a round was begun with, for comparison and for a message.
#[derive(PartialEq)]
struct Plan {
    weight_version: i64,
    first_step: i64,
    last_step: i64,
    candidates: Vec<i64>,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan { weight_version, first_step, last_step, candidates } = self;
        let count = candidates.len();
        write!(f, "{count} problems, steps {first_step} to {last_step}, filtered with weight version {weight_version}")
    }
}

impl NewRound {
    fn plan(&self) -> Plan {
        let mut seen = BTreeSet::new();
        Plan {
            weight_version: int(self.weight_version.0),
            first_step: self.first_step.0,
            last_step: self.last_step.0,
            candidates: self.candidates.iter().map(|problem| problem.0).filter(|id| seen.insert(*id)).collect(),
        }
    }

    async fn stored(&self, conn: &mut SqliteConnection) -> Result<Option<Plan>, StoreError> {
        let row: Option<(i64, i64, i64)> = sqlx::query_as(
            "select weight_version, first_step_id, last_step_id from round where run_id = ? and round_id = ?",
        )
        .bind(self.run.0)
        .bind(self.round.0)
        .fetch_optional(&mut *conn)
        .await?;
        let Some((weight_version, first_step, last_step)) = row else { return Ok(None) };
        let candidates = sqlx::query_scalar(
            "select problem_id from round_problem where run_id = ? and round_id = ? order by ordinal",
        )
        .bind(self.run.0)
        .bind(self.round.0)
        .fetch_all(conn)
        .await?;
        Ok(Some(Plan { weight_version, first_step, last_step, candidates }))
    }
}

impl Write for NewRound {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let given = self.plan();
        if let Some(stored) = self.stored(conn).await? {
            if stored == given {
                return Ok(());
            }
            return Err(StoreError::Conflict {
                what: format!("round `{}` of run `{}`", self.round, self.run),
                stored: stored.to_string(),
                given: given.to_string(),
            });
        }
        sqlx::query(
            "insert into round (run_id, round_id, status, weight_version, first_step_id, last_step_id, candidate_count,
                                created_at_ms)
             values (?, ?, 'filtering', ?, ?, ?, ?, ?)",
        )
        .bind(self.run.0)
        .bind(self.round.0)
        .bind(given.weight_version)
        .bind(given.first_step)
        .bind(given.last_step)
        .bind(int(given.candidates.len() as u64))
        .bind(now_ms())
        .execute(&mut *conn)
        .await?;
        let numbered: Vec<_> = (0_i64..).zip(given.candidates).collect();
        for rows in numbered.chunks(ROWS_PER_INSERT) {
            QueryBuilder::new("insert into round_problem (run_id, round_id, problem_id, ordinal) ")
                .push_values(rows, |mut row, (ordinal, problem)| {
                    row.push_bind(self.run.0).push_bind(self.round.0).push_bind(problem).push_bind(ordinal);
                })
                .build()
                .execute(&mut *conn)
                .await?;
        }
        Ok(())
    }
}
