//! Rows of `run`.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, Named, now_ms, serialize_name, sha256};
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::config::Algorithm;
use crate::types::RunId;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStatus {
    /// It is running, or its process was killed.
    Running,
    /// All its steps are done.
    Done,
    /// It could not go on.
    Failed,
    /// It was asked to stop.
    Interrupted,
}

impl Named for RunStatus {
    const ALL: &'static [Self] = &[RunStatus::Running, RunStatus::Done, RunStatus::Failed, RunStatus::Interrupted];

    fn name(self) -> &'static str {
        match self {
            RunStatus::Running => "running",
            RunStatus::Done => "done",
            RunStatus::Failed => "failed",
            RunStatus::Interrupted => "interrupted",
        }
    }
}

impl RunStatus {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        self.name()
    }
}

/// A run that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// Name from the configuration.
    pub name: String,
    /// What grows its trajectories.
    pub algorithm: Algorithm,
    /// The resolved configuration.
    pub config_toml: String,
    /// The model it starts from.
    pub model: String,
    /// Seed of every random stream.
    pub seed: u64,
    /// Version of this program.
    pub program_version: String,
    /// Commit it was built from, where known.
    pub git_commit: Option<String>,
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEnd {
    /// All its steps are done.
    Done,
    /// It could not go on.
    Failed {
        /// Why, for a person.
        error: String,
    },
    /// It was asked to stop.
    Interrupted,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunRow {
    /// Its number.
    pub run_id: RunId,
    /// Name from the configuration.
    pub name: String,
    /// What grows its trajectories.
    #[serde(serialize_with = "serialize_name")]
    pub algorithm: Algorithm,
    /// The resolved configuration.
    pub config_toml: String,
    /// SHA-256 of that text, lower-case hex.
    pub config_sha256: String,
    /// The model it started from.
    pub model: String,
    /// Seed of every random stream.
    pub seed: u64,
    /// Version of the program.
    pub program_version: String,
    /// Commit it was built from, where known.
    pub git_commit: Option<String>,
    /// Where it stands.
    #[serde(serialize_with = "serialize_name")]
    pub status: RunStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// When it began.
    pub created_at_ms: i64,
    /// When it ended.
    pub ended_at_ms: Option<i64>,
}

impl RunRow {
    /// Steps that its configuration asks for; `None` if it does not say.
    pub fn planned_steps(&self) -> Option<u64> {
        let config: toml::Table = self.config_toml.parse().ok()?;
        config.get("run")?.get("steps")?.as_integer().and_then(|steps| u64::try_from(steps).ok())
    }
}

pub(super) const RUNS: &str = "
    select run_id, name, algorithm, config_toml, config_sha256, model, seed, program_version, git_commit, status, error,
           created_at_ms, ended_at_ms
    from run
    where ?1 is null or run_id = ?1
    order by run_id desc
    limit ?2";

impl Store {
    /// Begins a run.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn create_run(&self, run: NewRun) -> Result<RunId, StoreError> {
        self.write(run).await
    }

    /// Marks a run as over.
    ///
    /// # Errors
    /// There is no such run, or the database cannot be written.
    pub async fn finish_run(&self, run: RunId, end: RunEnd) -> Result<(), StoreError> {
        self.write(Finish { run, end }).await
    }

    /// Marks a run as running again, however it ended; `config_toml` is the configuration that holds from now on, if it
    /// has changed.
    ///
    /// # Errors
    /// There is no such run, or the database cannot be written.
    pub async fn resume_run(&self, run: RunId, config_toml: Option<String>) -> Result<(), StoreError> {
        self.write(Resume { run, config_toml }).await
    }
}

impl Reader {
    /// All runs, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.all(sqlx::query(RUNS).bind(None::<i64>).bind(-1), run_row).await
    }

    /// The run that was begun last.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn latest_run(&self) -> Result<Option<RunRow>, StoreError> {
        self.optional(sqlx::query(RUNS).bind(None::<i64>).bind(1), run_row).await
    }

    /// One run.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn run(&self, run: RunId) -> Result<Option<RunRow>, StoreError> {
        self.optional(sqlx::query(RUNS).bind(run.0).bind(1), run_row).await
    }
}

fn run_row(row: &Cells<'_>) -> Result<RunRow, StoreError> {
    Ok(RunRow {
        run_id: RunId(row.get("run_id")?),
        name: row.get("name")?,
        algorithm: row.name("algorithm")?,
        config_toml: row.get("config_toml")?,
        config_sha256: row.get("config_sha256")?,
        model: row.get("model")?,
        seed: row.seed("seed")?,
        program_version: row.get("program_version")?,
        git_commit: row.get("git_commit")?,
        status: row.name("status")?,
        error: row.get("error")?,
        created_at_ms: row.get("created_at_ms")?,
        ended_at_ms: row.get("ended_at_ms")?,
    })
}

impl Write for NewRun {
    type Output = RunId;

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<RunId, StoreError> {
        let id = sqlx::query_scalar(
            "insert into run (name, algorithm, config_toml, config_sha256, model, seed, program_version, git_commit, status,
                              created_at_ms)
             values (?, ?, ?, ?, ?, ?, ?, ?, 'running', ?)
             returning run_id",
        )
        .bind(&self.name)
        .bind(self.algorithm.name())
        .bind(&self.config_toml)
        .bind(sha256(self.config_toml.as_bytes()))
        .bind(&self.model)
        .bind(self.seed.to_string())
        .bind(&self.program_version)
        .bind(&self.git_commit)
        .bind(now_ms())
        .fetch_one(conn)
        .await?;
        Ok(RunId(id))
    }
}

struct Finish {
    run: RunId,
    end: RunEnd,
}

impl Write for Finish {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let (status, error) = match &self.end {
            RunEnd::Done => (RunStatus::Done, None),
            RunEnd::Failed { error } => (RunStatus::Failed, Some(error)),
            RunEnd::Interrupted => (RunStatus::Interrupted, None),
        };
        let changed = sqlx::query("update run set status = ?, error = ?, ended_at_ms = ? where run_id = ?")
            .bind(status.name())
            .bind(error)
            .bind(now_ms())
            .bind(self.run.0)
            .execute(conn)
            .await?;
        require_row(changed.rows_affected(), self.run)
    }
}

struct Resume {
    run: RunId,
    config_toml: Option<String>,
}

impl Write for Resume {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let changed = sqlx::query(
            "update run
             set status = 'running', error = null, ended_at_ms = null, config_toml = coalesce(?, config_toml),
                 config_sha256 = coalesce(?, config_sha256)
             where run_id = ?",
        )
        .bind(&self.config_toml)
        .bind(self.config_toml.as_ref().map(|text| sha256(text.as_bytes())))
        .bind(self.run.0)
        .execute(conn)
        .await?;
        require_row(changed.rows_affected(), self.run)
    }
}

fn require_row(rows: u64, run: RunId) -> Result<(), StoreError> {
    if rows == 0 { Err(StoreError::NotFound { what: "run", id: run.to_string() }) } else { Ok(()) }
}
