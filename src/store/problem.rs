//! Rows of `problem`.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, now_ms, sha256_of_parts};
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::types::ProblemId;

/// A problem as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewProblem {
    /// Its `id` in its own file.
    pub name: String,
    /// The question.
    pub text: String,
    /// The reference answer.
    pub answer: String,
    /// Difficulty, where the file gives one.
    pub level: Option<String>,
    /// Subject, where the file gives one.
    pub topic: Option<String>,
    /// File name or generator.
    pub source: String,
}

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProblemRow {
    /// Its number.
    pub problem_id: ProblemId,
    /// Its `id` in its own file.
    pub name: String,
    /// The question.
    pub text: String,
    /// The reference answer.
    pub answer: String,
    /// Difficulty, where the file gave one.
    pub level: Option<String>,
    /// Subject, where the file gave one.
    pub topic: Option<String>,
    /// File name or generator.
    pub source: String,
    /// SHA-256 over name, text and answer, lower-case hex.
    pub content_sha256: String,
    /// When it was first seen.
    pub created_at_ms: i64,
}

const INSERT_PROBLEM: &str = "
    insert into problem (name, text, answer, level, topic, source, content_sha256, created_at_ms)
    values (?, ?, ?, ?, ?, ?, ?, ?)
    on conflict (content_sha256) do nothing
    returning problem_id";

pub(super) const PROBLEM_BY_CONTENT: &str = "select problem_id from problem where content_sha256 = ?";

pub(super) const PROBLEM: &str = "
    select problem_id, name, text, answer, level, topic, source, content_sha256, created_at_ms
    from problem
    where problem_id = ?";

impl Store {
    /// Inserts the problems that are new and returns the numbers of all, in order. A problem with the same name, text
    /// and answer as an earlier one is that one.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn insert_problems(&self, problems: Vec<NewProblem>) -> Result<Vec<ProblemId>, StoreError> {
        self.write(InsertProblems { problems }).await
    }
}

impl Reader {
    /// One problem.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn problem(&self, problem: ProblemId) -> Result<Option<ProblemRow>, StoreError> {
        self.optional(sqlx::query(PROBLEM).bind(problem.0), problem_row).await
    }
}

fn problem_row(row: &Cells<'_>) -> Result<ProblemRow, StoreError> {
    Ok(ProblemRow {
        problem_id: ProblemId(row.get("problem_id")?),
        name: row.get("name")?,
        text: row.get("text")?,
        answer: row.get("answer")?,
        level: row.get("level")?,
        topic: row.get("topic")?,
        source: row.get("source")?,
        content_sha256: row.get("content_sha256")?,
        created_at_ms: row.get("created_at_ms")?,
    })
}

struct InsertProblems {
    problems: Vec<NewProblem>,
}

impl Write for InsertProblems {
    type Output = Vec<ProblemId>;

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<Vec<ProblemId>, StoreError> {
        let mut ids = Vec::with_capacity(self.problems.len());
        for problem in &self.problems {
            ids.push(find_or_insert(conn, problem).await?);
        }
        Ok(ids)
    }
}

/// The number of a problem, which is inserted if it is new, as part of a larger event.
pub(super) async fn find_or_insert(conn: &mut SqliteConnection, problem: &NewProblem) -> Result<ProblemId, StoreError> {
    let content = sha256_of_parts(&[&problem.name, &problem.text, &problem.answer]);
    let inserted: Option<i64> = sqlx::query_scalar(INSERT_PROBLEM)
        .bind(&problem.name)
        .bind(&problem.text)
        .bind(&problem.answer)
        .bind(&problem.level)
        .bind(&problem.topic)
        .bind(&problem.source)
        .bind(&content)
        .bind(now_ms())
        .fetch_optional(&mut *conn)
        .await?;
    let id = match inserted {
        Some(id) => id,
        None => sqlx::query_scalar(PROBLEM_BY_CONTENT).bind(&content).fetch_one(&mut *conn).await?,
    };
    Ok(ProblemId(id))
}
