//! The store: everything a run did, in one SQLite file. Rows in, rows out.
//!
//! It knows no search, no trainer and no server: `run` turns domain values into rows. Every statement of the project
//! lives in this folder, beside the function that needs it; questions that people ask are views in `migrations/`.
//!
//! **Owners.** `writer` is one task with the only writing connection, fed by a bounded channel; it commits several
//! queued writes together and acknowledges each after the commit. [`Reader`] has its own read-only connections: in WAL
//! mode they see the last commit and neither wait nor make the writer wait.
//!
//! **What survives.** An acknowledged write survives the end of the process at any instant, since its pages are with the
//! operating system. `synchronous = full` makes it survive a power cut too: the folder of older weights is removed once
//! newer ones are recorded, so a database that falls back behind its own weights could not be resumed. The price is one
//! `fsync` per group of commits. A write that was cut off leaves nothing: a tree is there with all its nodes or not at all,
//! and the unique slot in its step keeps it from being recorded twice.
//!
//! Deliberately absent: updates of trees (they are written when finished), deletes (but of failed trees in a step that is
//! taken up again, and of tokens and text that are not to be kept), and any cache.

mod benchmark;
mod check;
mod codec;
mod error;
mod evaluation;
mod export_read;
mod metric;
mod open;
#[cfg(test)]
mod plan_test;
mod problem;
mod problem_page;
mod prune;
mod recorded;
mod regrow;
mod round;
mod round_write;
mod run;
mod series;
mod size;
mod solution;
mod stamp;
mod step;
mod step_slot;
mod tree;
mod tree_page;
mod tree_read;
mod tree_shape;
mod view;
mod view_training;
mod weight;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use benchmark::{
    BenchmarkProblemRow, BenchmarkResult, BenchmarkRow, BenchmarkSampleRow, BenchmarkSummary, NewBenchmark,
    NewBenchmarkFile, NewBenchmarkSample, SettledSample, UnsettledSample,
};
pub use check::Finding;
pub use error::StoreError;
pub use evaluation::{EvaluatedProblem, EvaluationRow, NewEvaluation};
pub use export_read::ProblemContent;
pub use metric::{Metric, MetricRow};
pub use open::ReadOptions;
pub use problem::{NewProblem, ProblemRow};
pub use problem_page::{ProblemEvaluation, ProblemFilter, ProblemItem, ProblemPage};
pub use prune::{DropText, Prune, Pruned};
pub use recorded::RecordedTree;
pub use round::{FilteredProblem, NewRound, RoundProblemRow, RoundReason, RoundRow, RoundStatus};
pub use run::{NewRun, RunEnd, RunRow, RunStatus};
pub use series::StepTrajectories;
pub use size::{DatabaseSize, TableSize, Vacuumed};
pub use solution::{ImportCounts, ImportedSolution, NewSolution, SolutionFilter, SolutionRow};
pub use stamp::{FileIdentity, FileStamp};
pub use step::{NewStep, StepEnd, StepRow, StepStatus};
pub use step_slot::{NewSlot, StepSlot};
pub use tree::{NewTree, NodeContent, NodeRow, ScoreParts, Selection, SelectionKind, TrajectoryRow, TreeStatus};
pub use tree_page::{TreeItem, TreeOrder, TreePage, TreePageFilter};
pub use tree_read::{TreeFilter, TreeRow};
pub use tree_shape::NodeColumns;
pub use view::{BestPath, ConfidentMistake, MistakePage, SolvedPerStep, StepSummary, TokenUse, WeightHistory};
pub use view_training::{BadOutput, LearningPoint, ReplayUse, RoundSummary, RunComparison, RunTime};
pub use weight::{Confirmation, NewWeightVersion, WeightVersionRow};

/// A database open for writing. Clones share one writer and one set of readers.
#[derive(Clone)]
pub struct Store {
    path: Arc<Path>,
    queue: mpsc::Sender<writer::Message>,
    reader: Reader,
    /// Taken by the first [`Store::close`].
    writer: Arc<Mutex<Option<WriterTask>>>,
}

type WriterTask = JoinHandle<Result<(), StoreError>>;

/// A database open for reading.
#[derive(Clone)]
pub struct Reader {
    path: Arc<Path>,
    pool: SqlitePool,
    is_frozen: bool,
}

/// How a [`Store`] is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Largest size of the database file in bytes; a write beyond it fails as on a full disk. `None` is no limit.
    pub max_bytes: Option<u64>,
}

impl Store {
    /// Opens the database at `path`, creates it if missing, and brings its schema up to date.
    ///
    /// # Errors
    /// The folder does not exist, the file is no database of this program or of a newer version of it, or it cannot be
    /// written. A file that is refused is left as it is.
    pub async fn open(path: &Path) -> Result<Store, StoreError> {
        Store::open_with(path, StoreOptions::default()).await
    }

    /// As [`Store::open`], with options.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with(path: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        let conn = open::writing_connection(path, options).await?;
        let reader = Reader::open(path).await?;
        let (queue, receiver) = mpsc::channel(writer::QUEUE_WRITES);
        let writer = tokio::spawn(writer::serve(conn, receiver));
        Ok(Store { path: path.into(), queue, reader, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// The reading side, which other tasks may clone and use at any time.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits what is queued, ends the readers, empties the write-ahead log into the database and closes it. Further
    /// writes fail with [`StoreError::Closed`]; closing again does nothing.
    ///
    /// # Errors
    /// The log could not be emptied. Nothing is lost by that: the next [`Store::open`] reads it.
    pub async fn close(&self) -> Result<(), StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return Ok(()) };
        // Readers first: the log can only be emptied when nobody reads from it.
        self.reader.pool.close().await;
        // An error means that the writer has ended, which the join below reports.
        let _ = self.queue.send(writer::Message::Close).await;
        let ended = writer.await.map_err(|_| StoreError::Closed)?;
        ended.map_err(|error| error.at(&self.path))
    }

    /// Hands one domain event to the writer.
    ///
    /// # Cancel safety
    /// A write that was handed over is committed even if the caller stops waiting for the acknowledgement.
    async fn write<W: writer::Write>(&self, write: W) -> Result<W::Output, StoreError> {
        writer::submit(&self.queue, write).await.map_err(|error| error.at(&self.path))
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments>;
type Decode<T> = fn(&codec::Cells<'_>) -> Result<T, StoreError>;

impl Reader {
    /// Opens an existing database for reading only; a run may be writing to it meanwhile.
    ///
    /// # Errors
    /// The file is missing, no database of this program, or of another schema.
    pub async fn open(path: &Path) -> Result<Reader, StoreError> {
        Reader::open_with(path, ReadOptions::default()).await
    }

    /// As [`Reader::open`], with options.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub async fn open_with(path: &Path, options: ReadOptions) -> Result<Reader, StoreError> {
        let is_frozen = open::is_frozen(path);
        let pool = open::reading_pool(path, options).await?;
        Ok(Reader { path: path.into(), pool, is_frozen })
    }

    /// Whether the database is read as it was when it was opened, since it lies where this user may not write and nobody had
    /// it open. Once its files change it has to be opened again.
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Ends the connections, of its clones too, once what they are being asked is answered.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Where the database is.
    pub fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    async fn all<T>(&self, query: Query<'_>, decode: Decode<T>) -> Result<Vec<T>, StoreError> {
        let rows: Vec<SqliteRow> =
            query.fetch_all(&self.pool).await.map_err(|error| StoreError::from(error).at(&self.path))?;
        rows.iter().map(|row| decode(&codec::Cells(row))).collect()
    }

    async fn optional<T>(&self, query: Query<'_>, decode: Decode<T>) -> Result<Option<T>, StoreError> {
        let row = query.fetch_optional(&self.pool).await.map_err(|error| StoreError::from(error).at(&self.path))?;
        row.map(|row| decode(&codec::Cells(&row))).transpose()
    }
}
