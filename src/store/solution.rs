//! Rows of `solution`: verified answers, kept for later steps.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{
    Cells, Named, int, logprobs_from_blob, logprobs_to_blob, now_ms, serialize_name, sha256, tokens_from_blob,
    tokens_to_blob,
};
use super::problem::{self, NewProblem};
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::types::{ProblemId, Provenance, RunId, SolutionId, TokenId, TreeId, WeightVersion};

/// A verified answer that a run found.
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
    /// Where it came from: `Search` or `Rollout`.
    pub provenance: Provenance,
}

/// A verified answer that a user brings in, for every run.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedSolution {
    /// The problem; inserted if it is new.
    pub problem: NewProblem,
    /// Token ids of the whole response, `[T]`.
    pub tokens: Vec<TokenId>,
    /// Their logprobs, `[T]`, in nats; NaN where unknown.
    pub logprobs: Vec<f32>,
    /// The response as text.
    pub text: String,
    /// The final answer found in it.
    pub answer: String,
}

/// What came of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportCounts {
    /// Solutions that are new.
    pub added: u32,
    /// Solutions that had been imported before.
    pub known: u32,
}

/// Which solutions to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SolutionFilter {
    /// Only what this run found, without the imported ones.
    pub run: Option<RunId>,
    /// Only this problem.
    pub problem: Option<ProblemId>,
}

/// A verified answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SolutionRow {
    /// Its number.
    pub solution_id: SolutionId,
    /// The problem it solves.
    pub problem_id: ProblemId,
    /// The run that found it; `None` if imported.
    pub run_id: Option<RunId>,
    /// The tree that found it; `None` if a filter did, or if imported.
    pub tree_id: Option<TreeId>,
    /// The newest weights that sampled any of it; `None` if imported.
    pub weight_version: Option<WeightVersion>,
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

pub(super) const CACHED_SOLUTIONS: &str = "
    select solution_id, problem_id, run_id, tree_id, weight_version, provenance, answer, text, tokens, logprobs,
           tokens_sha256, created_at_ms
    from solution
    where problem_id = ?2 and (run_id = ?1 or run_id is null)
    order by solution_id";

pub(super) const SOLUTION_COUNTS: &str = "
    select problem_id, count(*) as solution_count
    from solution
    where run_id = ?1 or run_id is null
    group by problem_id";

pub(super) const ALL_SOLUTIONS: &str = "
    select solution_id, problem_id, run_id, tree_id, weight_version, provenance, answer, text, tokens, logprobs,
           tokens_sha256, created_at_ms
    from solution
    where (?1 is null or run_id = ?1) and (?2 is null or problem_id = ?2)
    order by solution_id";

impl Store {
    /// Keeps verified answers that a user brings in. The same tokens for the same problem are kept once.
    ///
    /// # Errors
    /// A solution has no tokens, or not one logprob per token; the database cannot be written. In each case nothing is
    /// kept.
    pub async fn import_solutions(&self, solutions: Vec<ImportedSolution>) -> Result<ImportCounts, StoreError> {
        self.write(ImportSolutions { solutions }).await
    }
}

impl Reader {
    /// The verified answers to a problem that a run may use, oldest first: its own and the imported ones.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn cached_solutions(&self, run: RunId, problem: ProblemId) -> Result<Vec<SolutionRow>, StoreError> {
        self.all(sqlx::query(CACHED_SOLUTIONS).bind(run.0).bind(problem.0), solution_row).await
    }

    /// How many verified answers a run may use, by problem; problems without one are left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn solution_counts(&self, run: RunId) -> Result<BTreeMap<ProblemId, u32>, StoreError> {
        let counts = self
            .all(sqlx::query(SOLUTION_COUNTS).bind(run.0), |row| {
                Ok((ProblemId(row.get("problem_id")?), row.int("solution_count")?))
            })
            .await?;
        Ok(counts.into_iter().collect())
    }

    /// The verified answers of the whole database, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn all_solutions(&self, filter: SolutionFilter) -> Result<Vec<SolutionRow>, StoreError> {
        let query =
            sqlx::query(ALL_SOLUTIONS).bind(filter.run.map(|run| run.0)).bind(filter.problem.map(|problem| problem.0));
        self.all(query, solution_row).await
    }
}

fn solution_row(row: &Cells<'_>) -> Result<SolutionRow, StoreError> {
    Ok(SolutionRow {
        solution_id: SolutionId(row.get("solution_id")?),
        problem_id: ProblemId(row.get("problem_id")?),
        run_id: row.get::<Option<i64>>("run_id")?.map(RunId),
        tree_id: row.get::<Option<i64>>("tree_id")?.map(TreeId),
        weight_version: row.int_option("weight_version")?.map(WeightVersion),
        provenance: row.name("provenance")?,
        answer: row.get("answer")?,
        text: row.get("text")?,
        tokens: tokens_from_blob(row.get("tokens")?),
        logprobs: logprobs_from_blob(row.get("logprobs")?),
        tokens_sha256: row.get("tokens_sha256")?,
        created_at_ms: row.get("created_at_ms")?,
    })
}

/// Writes solutions that a run found, in `tree` or in a filter; those known already stay as they are.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    run: RunId,
    problem: ProblemId,
    tree: Option<TreeId>,
    solutions: &[NewSolution],
) -> Result<(), StoreError> {
    for solution in solutions {
        let row = Row {
            problem,
            found: Some((run, tree, solution.weight_version)),
            provenance: solution.provenance,
            answer: &solution.answer,
            text: &solution.text,
            tokens: &solution.tokens,
            logprobs: &solution.logprobs,
        };
        row.insert(conn).await?;
    }
    Ok(())
}

/// What is written of a solution, wherever it comes from.
struct Row<'a> {
    problem: ProblemId,
    /// `None` if imported.
    found: Option<(RunId, Option<TreeId>, WeightVersion)>,
    provenance: Provenance,
    answer: &'a str,
    text: &'a str,
    tokens: &'a [TokenId],
    logprobs: &'a [f32],
}

impl Row<'_> {
    /// Whether it was new.
    async fn insert(&self, conn: &mut SqliteConnection) -> Result<bool, StoreError> {
        let tokens = tokens_to_blob(self.tokens);
        let inserted = sqlx::query(
            "insert into solution (problem_id, run_id, tree_id, weight_version, provenance, answer, text, tokens,
                                   logprobs, tokens_sha256, created_at_ms)
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             on conflict (coalesce(run_id, 0), problem_id, tokens_sha256) do nothing",
        )
        .bind(self.problem.0)
        .bind(self.found.map(|(run, _, _)| run.0))
        .bind(self.found.and_then(|(_, tree, _)| tree).map(|tree| tree.0))
        .bind(self.found.map(|(_, _, version)| int(version.0)))
        .bind(self.provenance.name())
        .bind(self.answer)
        .bind(self.text)
        .bind(tokens.as_slice())
        .bind(logprobs_to_blob(self.logprobs))
        .bind(sha256(&tokens))
        .bind(now_ms())
        .execute(conn)
        .await?;
        Ok(inserted.rows_affected() > 0)
    }
}

struct ImportSolutions {
    solutions: Vec<ImportedSolution>,
}

impl Write for ImportSolutions {
    type Output = ImportCounts;

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<ImportCounts, StoreError> {
        let mut counts = ImportCounts::default();
        for solution in &self.solutions {
            let row = Row {
                problem: problem::find_or_insert(conn, &solution.problem).await?,
                found: None,
                provenance: Provenance::Imported,
                answer: &solution.answer,
                text: &solution.text,
                tokens: &solution.tokens,
                logprobs: &solution.logprobs,
            };
            let count = if row.insert(conn).await? { &mut counts.added } else { &mut counts.known };
            *count += 1;
        }
        Ok(counts)
    }
}
