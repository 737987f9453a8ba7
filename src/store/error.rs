//! What can go wrong with the database, in the terms of a person who runs training.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::recorded::CONTENT;
use crate::error::{FailureClass, Hint};
use crate::types::{RunId, StepId};

/// Failure of a store operation. Nothing of the operation was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder that should hold the database does not exist.
    #[error("there is no folder `{}` for the database `{}`", folder.display(), path.display())]
    NoFolder {
        /// The database.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// There is no database to read.
    #[error("there is no database `{}`", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("`{}` is not an SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// An SQLite database of another program.
    #[error("the SQLite database `{}` belongs to another program", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The database was written by a newer version of this program.
    #[error("the database `{}` has schema {found}, this program knows schemas up to {known}", path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema of this program.
        known: i64,
    },
    /// The database was written by an older version of this program and is only being read.
    #[error("the database `{}` has schema {found}, this program reads schema {known}", path.display())]
    OlderSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema of this program.
        known: i64,
    },
    /// A migration that was applied is not the one in this program.
    #[error("schema {version} of the database `{}` is not the one of this program", path.display())]
    ChangedSchema {
        /// The file.
        path: PathBuf,
        /// The migration that differs.
        version: i64,
    },
    /// After a change of the schema rows would refer to others that are not there: it was not made.
    #[error("{count} rows of the database `{}` refer to rows that are not there", path.display())]
    BrokenReferences {
        /// The file.
        path: PathBuf,
        /// Rows.
        count: usize,
    },
    /// The database or its folder cannot be written, or not be opened at all.
    #[error("the database `{}` cannot be written", path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// There is no room left for the database.
    #[error("no room left for the database `{}`", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The system refused to read or write the file.
    #[error("the database `{}` cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// Another process kept the database locked for too long.
    #[error("the database `{}` is locked by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The file is damaged.
    #[error("the database `{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// A row that the caller named does not exist.
    #[error("there is no {what} `{id}` in the database")]
    NotFound {
        /// Kind of row.
        what: &'static str,
        /// The caller's name for it.
        id: String,
    },
    /// This tree was recorded before.
    #[error("the tree of run `{run}`, step `{step}`, slot `{slot}` is already recorded")]
    TreeExists {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// Place in the step's batch.
        slot: u32,
    },
    /// The step is over and takes no further rows.
    #[error("step `{step}` of run `{run}` is already over")]
    StepOver {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
    },
    /// The same row was recorded before with another content.
    #[error("{what} is recorded as `{stored}`, now it is given as `{given}`")]
    Conflict {
        /// What differs.
        what: String,
        /// In the database.
        stored: String,
        /// From the caller.
        given: String,
    },
    /// The rows of a tree do not fit together.
    #[error("the rows of a tree do not fit together: {reason}")]
    BadTree {
        /// Which rule is broken.
        reason: String,
    },
    /// A constraint of the schema refused a row.
    #[error("the database refused a row by `{constraint}`")]
    Refused {
        /// The constraint's name, or for unnamed ones what SQLite says of it.
        constraint: String,
        /// What SQLite said.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// A cell holds something this program never writes.
    #[error("the database holds `{value}` in column `{column}`")]
    Value {
        /// The column.
        column: &'static str,
        /// Its content.
        value: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A statement failed otherwise.
    #[error("a statement of the store failed")]
    Query {
        /// What SQLite said.
        #[source]
        source: Arc<sqlx::Error>,
    },
}

// Primary result codes, https://www.sqlite.org/rescode.html; the low byte of an extended code.
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const IOERR: i32 = 10;
const CANTOPEN: i32 = 14;
const CONSTRAINT: i32 = 19;
const NOTADB: i32 = 26;

/// The primary SQLite result code of an error; `None` where SQLite was not asked.
fn result_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) {
            return StoreError::Closed;
        }
        if result_code(&error) == Some(CONSTRAINT) {
            // "CHECK constraint failed: tree_status_known" and the like; foreign keys have no name.
            let text = error.as_database_error().map(|e| e.message().to_owned()).unwrap_or_default();
            let constraint = text.split_once(": ").map_or(text.as_str(), |(_, name)| name).to_owned();
            return StoreError::Refused { constraint, source: Arc::new(error) };
        }
        StoreError::Query { source: Arc::new(error) }
    }
}

impl StoreError {
    /// Says which file a failed statement was about, and why it failed where that is the file's fault.
    pub(super) fn at(self, path: &Path) -> StoreError {
        let StoreError::Query { source } = self else { return self };
        let path = path.to_owned();
        match result_code(&source) {
            Some(READONLY | CANTOPEN) => StoreError::NotWritable { path, source },
            Some(FULL) => StoreError::Full { path, source },
            Some(IOERR) => StoreError::Io { path, source },
            Some(BUSY | LOCKED) => StoreError::Locked { path, source },
            Some(NOTADB) => StoreError::NotADatabase { path },
            Some(CORRUPT) => StoreError::Damaged { path, source },
            _ => StoreError::Query { source },
        }
    }

    /// The constraint that refused a row.
    pub(super) fn constraint(&self) -> Option<&str> {
        match self {
            StoreError::Refused { constraint, .. } => Some(constraint),
            _ => None,
        }
    }
}

impl StoreError {
    /// Whether a tree cannot be read since its tokens or logprobs were dropped, on purpose as a rule.
    pub fn is_dropped_content(&self) -> bool {
        matches!(self, StoreError::NotFound { what: CONTENT, .. })
    }
}

impl Hint for StoreError {
    fn class(&self) -> FailureClass {
        match self {
            StoreError::NoFolder { .. }
            | StoreError::Missing { .. }
            | StoreError::NotADatabase { .. }
            | StoreError::Foreign { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::OlderSchema { .. }
            | StoreError::ChangedSchema { .. }
            | StoreError::NotFound { .. } => FailureClass::User,
            StoreError::NotWritable { .. }
            | StoreError::Full { .. }
            | StoreError::Io { .. }
            | StoreError::Locked { .. }
            | StoreError::Damaged { .. }
            | StoreError::BrokenReferences { .. }
            | StoreError::Value { .. }
            | StoreError::Query { .. } => FailureClass::Environment,
            StoreError::TreeExists { .. }
            | StoreError::StepOver { .. }
            | StoreError::Conflict { .. }
            | StoreError::BadTree { .. }
            | StoreError::Refused { .. }
            | StoreError::Closed => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            StoreError::NoFolder { .. } => "create the folder, or give another path",
            StoreError::Missing { .. } => {
                "give the database of a run; `orchestrator run` makes one in the run's folder"
            }
            StoreError::NotADatabase { .. } | StoreError::Foreign { .. } => {
                "give another path; the file was left as it is"
            }
            StoreError::NewerSchema { .. } => "use the version of this program that wrote it, or a newer one",
            StoreError::OlderSchema { .. } => {
                "`orchestrator db vacuum` brings the schema up to date, and so does going on with the run"
            }
            StoreError::ChangedSchema { .. } => "use the build of this program that wrote it",
            StoreError::NotWritable { .. } => "check the permissions of the file and of its folder",
            StoreError::Full { .. } => {
                "free some space, then `orchestrator run --resume` goes on; everything acknowledged so far is kept"
            }
            StoreError::Io { .. } => {
                "is there room on the disk, and may files grow (`ulimit -f`)? Then `orchestrator run --resume` goes on; \
                 everything acknowledged so far is kept"
            }
            StoreError::Locked { .. } => "end the other process that writes to it; readers do not lock it",
            StoreError::NotFound { what: CONTENT, .. } => {
                "its tokens or logprobs were dropped (`run.keep_text`, `run.keep_logprobs`, `orchestrator db prune`): a \
                 resume needs a whole checkpoint of that step or a later one"
            }
            StoreError::Damaged { .. } => "copy the file away, then try `sqlite3 FILE .recover`",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
