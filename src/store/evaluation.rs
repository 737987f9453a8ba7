//! Rows of `evaluation` and `evaluation_problem`: how the policy does on problems it is not trained on.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, int, now_ms};
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::types::{ProblemId, RunId, StepId, WeightVersion};

/// A measurement that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvaluation {
    /// The run.
    pub run: RunId,
    /// The step after which it was taken; 0 is before the first.
    pub step: StepId,
    /// The weights that were measured.
    pub weight_version: WeightVersion,
    /// Rollouts per problem.
    pub samples: u32,
    /// Problems that the engine refused: they count as not solved.
    pub refused: u32,
    /// Tokens sampled for it.
    pub generated_tokens: u64,
    /// Time it took.
    pub wall_ms: u64,
    /// What came of each problem.
    pub problems: Vec<EvaluatedProblem>,
}

/// One problem of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluatedProblem {
    /// The problem.
    pub problem: ProblemId,
    /// Correct rollouts.
    pub correct: u32,
    /// Rollouts without a final answer.
    pub no_answer: u32,
    /// Rollouts that nothing is known of: neither right nor wrong.
    pub undecided: u32,
}

/// A measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationRow {
    /// The run.
    pub run_id: RunId,
    /// The step after which it was taken; 0 is before the first.
    pub step_id: StepId,
    /// The weights that were measured.
    pub weight_version: WeightVersion,
    /// Problems.
    pub problem_count: u32,
    /// Rollouts per problem.
    pub sample_count: u32,
    /// Correct rollouts of all problems.
    pub correct_count: u64,
    /// Rollouts of all problems without a final answer.
    pub no_answer_count: u64,
    /// Rollouts of all problems that nothing is known of: neither right nor wrong.
    pub undecided_count: u64,
    /// Problems that the engine refused: they count as not solved.
    pub refused_count: u32,
    /// Tokens sampled for it.
    pub generated_tokens: u64,
    /// Time it took.
    pub wall_ms: u64,
    /// Mean over the problems of the share of correct rollouts among those that were judged; `None` without problems.
    pub pass_at_1: Option<f64>,
    /// Share of those problems with a correct rollout; `None` without problems.
    pub pass_at_k: Option<f64>,
    /// When it was recorded.
    pub created_at_ms: i64,
}

pub(super) const EVALUATIONS: &str = "
    select run_id, step_id, weight_version, problem_count, sample_count, correct_count, no_answer_count, undecided_count,
           refused_count, generated_tokens, wall_ms, pass_at_1, pass_at_k, created_at_ms
    from evaluation
    where run_id = ?
    order by step_id";

impl Store {
    /// Records a measurement. One that is recorded already for that step stays as it is.
    ///
    /// # Errors
    /// There is no such run, weight version or problem, a problem has more correct rollouts than rollouts, or the
    /// database cannot be written.
    pub async fn record_evaluation(&self, evaluation: NewEvaluation) -> Result<(), StoreError> {
        self.write(evaluation).await
    }
}

impl Reader {
    /// The measurements of a run, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn evaluations(&self, run: RunId) -> Result<Vec<EvaluationRow>, StoreError> {
        self.all(sqlx::query(EVALUATIONS).bind(run.0), evaluation_row).await
    }
}

fn evaluation_row(row: &Cells<'_>) -> Result<EvaluationRow, StoreError> {
    Ok(EvaluationRow {
        run_id: RunId(row.get("run_id")?),
        step_id: StepId(row.get("step_id")?),
        weight_version: WeightVersion(row.int("weight_version")?),
        problem_count: row.int("problem_count")?,
        sample_count: row.int("sample_count")?,
        correct_count: row.int("correct_count")?,
        no_answer_count: row.int("no_answer_count")?,
        undecided_count: row.int("undecided_count")?,
        refused_count: row.int("refused_count")?,
        generated_tokens: row.int("generated_tokens")?,
        wall_ms: row.int("wall_ms")?,
        pass_at_1: row.get("pass_at_1")?,
        pass_at_k: row.get("pass_at_k")?,
        created_at_ms: row.get("created_at_ms")?,
    })
}

impl NewEvaluation {
    fn total(&self, count: impl Fn(&EvaluatedProblem) -> u32) -> u64 {
        self.problems.iter().map(|problem| u64::from(count(problem))).sum()
    }

    /// Mean over the problems of the share of correct rollouts; `None` without problems. Rollouts that nothing is known of
    /// are left out, and so are problems that have no others; a problem that was refused has none at all, and counts.
    pub fn pass_at_1(&self) -> Option<f64> {
        let samples = self.samples;
        self.mean(|problem| f64::from(problem.correct) / f64::from(samples.saturating_sub(problem.undecided).max(1)))
    }

    /// Share of the problems with a correct rollout, of the same problems.
    pub fn pass_at_k(&self) -> Option<f64> {
        self.mean(|problem| f64::from(u8::from(problem.correct > 0)))
    }

    fn mean(&self, value: impl Fn(&EvaluatedProblem) -> f64) -> Option<f64> {
        let judged = || self.problems.iter().filter(|problem| problem.undecided < self.samples.max(1));
        let count = judged().count();
        (count > 0).then(|| judged().map(value).sum::<f64>() / count as f64)
    }
}

impl Write for NewEvaluation {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let correct = self.total(|problem| problem.correct);
        let inserted = sqlx::query(
            "insert into evaluation (run_id, step_id, weight_version, problem_count, sample_count, correct_count,
                                     no_answer_count, undecided_count, refused_count, generated_tokens, wall_ms,
                                     pass_at_1, pass_at_k, created_at_ms)
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             on conflict (run_id, step_id) do nothing",
        )
        .bind(self.run.0)
        .bind(self.step.0)
        .bind(int(self.weight_version.0))
        .bind(int(self.problems.len() as u64))
        .bind(self.samples)
        .bind(int(correct))
        .bind(int(self.total(|problem| problem.no_answer)))
        .bind(int(self.total(|problem| problem.undecided)))
        .bind(self.refused)
        .bind(int(self.generated_tokens))
        .bind(int(self.wall_ms))
        .bind(self.pass_at_1())
        .bind(self.pass_at_k())
        .bind(now_ms())
        .execute(&mut *conn)
        .await?;
        if inserted.rows_affected() == 0 {
            return Ok(());
        }
        for problem in &self.problems {
            // A file may hold a problem twice; its rollouts are then counted together.
            sqlx::query(
                "insert into evaluation_problem (run_id, step_id, problem_id, correct_count) values (?, ?, ?, ?)
                 on conflict (run_id, step_id, problem_id)
                 do update set correct_count = correct_count + excluded.correct_count",
            )
            .bind(self.run.0)
            .bind(self.step.0)
            .bind(problem.problem.0)
            .bind(problem.correct)
            .execute(&mut *conn)
            .await?;
        }
        Ok(())
    }
}
