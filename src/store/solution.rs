//! Rows of `solution`: verified answers, kept for later steps.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{
    Cells, Named, int, logprobs_from_blob, logprobs_to_blob, now_ms, serialize_name, sha256, tokens_from_blob,
    tokens_to_blob,
};
use super::{Reader, StoreError};
use crate::types::{ProblemId, Provenance, RunId, TokenId, TreeId, WeightVersion};

/// A verified answer of a tree that is being recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSolution {
    /// Sampled token ids of the whole response, `[T]`.
    pub tokens: Vec<TokenId>,
    /// Their logprobs, `[T]`, in nats; NaN where the engine gave none.
    pub logprobs: Vec<f32>,
    /// The response as text.
    pub text: String,
    /// The final answer found in it.
    pub answer: String,
    /// The newest weights that sampled any of it.
    pub weight_version: WeightVersion,
    /// Where it came from.
    pub provenance: Provenance,
}

/// A verified answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SolutionRow {
    /// Its number.
    pub solution_id: i64,
    /// The problem it solves.
    pub problem_id: ProblemId,
    /// The run that found it.
    pub run_id: RunId,
    /// The tree that found it.
    pub tree_id: TreeId,
    /// The newest weights that sampled any of it.
    pub weight_version: WeightVersion,
    /// Where it came from.
    #[serde(serialize_with = "serialize_name")]
    pub provenance: Provenance,
    /// The final answer.
    pub answer: String,
    /// The response as text.
    pub text: String,
    /// Sampled token ids, `[T]`.
    pub tokens: Vec<TokenId>,
    /// Their logprobs, `[T]`.
    pub logprobs: Vec<f32>,
    /// SHA-256 of the token ids (little-endian u32), lower-case hex.
    pub tokens_sha256: String,
    /// When it was found.
    pub created_at_ms: i64,
}

pub(super) const SOLUTIONS: &str = "
    select solution_id, problem_id, run_id, tree_id, weight_version, provenance, answer, text, tokens, logprobs,
           tokens_sha256, created_at_ms
    from solution
    where problem_id = ?
    order by solution_id";

impl Reader {
    /// The verified answers to a problem, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn solutions(&self, problem: ProblemId) -> Result<Vec<SolutionRow>, StoreError> {
        self.all(sqlx::query(SOLUTIONS).bind(problem.0), solution_row).await
    }
}

fn solution_row(row: &Cells<'_>) -> Result<SolutionRow, StoreError> {
    Ok(SolutionRow {
        solution_id: row.get("solution_id")?,
        problem_id: ProblemId(row.get("problem_id")?),
        run_id: RunId(row.get("run_id")?),
        tree_id: TreeId(row.get("tree_id")?),
        weight_version: WeightVersion(row.int("weight_version")?),
        provenance: row.name("provenance")?,
        answer: row.get("answer")?,
        text: row.get("text")?,
        tokens: tokens_from_blob(row.get("tokens")?),
        logprobs: logprobs_from_blob(row.get("logprobs")?),
        tokens_sha256: row.get("tokens_sha256")?,
        created_at_ms: row.get("created_at_ms")?,
    })
}

/// Writes the solutions of a tree; those known already stay as they are.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    (run, problem, tree): (RunId, ProblemId, TreeId),
    solutions: &[NewSolution],
) -> Result<(), StoreError> {
    let now = now_ms();
    for solution in solutions {
        let tokens = tokens_to_blob(&solution.tokens);
        sqlx::query(
            "insert into solution (problem_id, run_id, tree_id, weight_version, provenance, answer, text, tokens,
                                   logprobs, tokens_sha256, created_at_ms)
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             on conflict (problem_id, tokens_sha256) do nothing",
        )
        .bind(problem.0)
        .bind(run.0)
        .bind(tree.0)
        .bind(int(solution.weight_version.0))
        .bind(solution.provenance.name())
        .bind(&solution.answer)
        .bind(&solution.text)
        .bind(tokens.as_slice())
        .bind(logprobs_to_blob(&solution.logprobs))
        .bind(sha256(&tokens))
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
