//! Event files for TensorBoard, made from what the database has committed and from nothing else.
//!
//! A run keeps its file in `tensorboard/run-N` of its folder. A process that begins or goes on with a run first writes the
//! whole history into a new file, which takes the place of the older ones: so after a kill at any instant there is one
//! file, in which no step is missing and none is there twice. Then it adds what each commit brings. All of it happens in a
//! task of its own which the run only wakes and never waits for, but at its very end; a disk that is full costs a warning.

mod event_file;
mod scalars;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::store::{Reader, RunRow, StoreError};
use crate::types::RunId;

use super::{Event, Observer};
use event_file::EventFile;
pub use scalars::{Cursor, Scalar, metric_tag};

/// Name of the folder of event files in that of a run.
pub const FOLDER: &str = "tensorboard";
/// How long the end of a run waits for its last figures.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// An event file that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TensorboardError {
    /// The figures could not be read.
    #[error("the figures of the run cannot be read")]
    Store(#[source] StoreError),
    /// There is no such run.
    #[error("the database has no run `{run}`")]
    NoRun {
        /// Its number.
        run: RunId,
    },
    /// What is there is of another run, which has the same number in another database.
    #[error("the event files in `{}` are of another run", dir.display())]
    OtherRun {
        /// The folder.
        dir: PathBuf,
    },
    /// The file could not be written.
    #[error("cannot write event files to `{}`", dir.display())]
    Write {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl crate::error::Hint for TensorboardError {
    fn class(&self) -> crate::error::FailureClass {
        use crate::error::FailureClass;
        match self {
            TensorboardError::Store(error) => error.class(),
            TensorboardError::NoRun { .. } | TensorboardError::OtherRun { .. } => FailureClass::User,
            TensorboardError::Write { .. } => FailureClass::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            TensorboardError::Store(error) => error.hint(),
            TensorboardError::OtherRun { .. } => {
                Some("give each database a folder of its own, or remove these files".to_owned())
            }
            TensorboardError::NoRun { .. } | TensorboardError::Write { .. } => None,
        }
    }
}

/// Where the event files of a run are.
pub fn run_folder(tensorboard: &Path, run: RunId) -> PathBuf {
    tensorboard.join(format!("run-{run}"))
}

/// Refuses to write figures of `runs` below `out` over those of other runs: an event file begins with the time at which its
/// run began.
///
/// # Errors
/// [`TensorboardError::OtherRun`], or a file cannot be read.
pub fn refuse_others(runs: &[RunRow], out: &Path) -> Result<(), TensorboardError> {
    for row in runs {
        let dir = run_folder(out, row.run_id);
        match EventFile::all_begin_with(&dir, &event_file::head(began_s(row))) {
            Ok(true) => {}
            Ok(false) => return Err(TensorboardError::OtherRun { dir }),
            Err(source) => return Err(TensorboardError::Write { dir, source }),
        }
    }
    Ok(())
}

fn began_s(row: &RunRow) -> f64 {
    row.created_at_ms as f64 / 1000.0
}

/// Writes all figures of a run as one event file in `run-N` below `out`, in place of one that is there. The same database
/// gives the same bytes. Returns the folder and the number of figures.
///
/// # Errors
/// There is no such run, the database cannot be read, or the file not written.
pub async fn export(reader: &Reader, run: RunId, out: &Path) -> Result<(PathBuf, usize), TensorboardError> {
    let mut board = Board::new(reader.clone(), run, run_folder(out, run));
    let count = board.update().await?;
    Ok((board.dir, count))
}

/// An event file and how far it is.
struct Board {
    reader: Reader,
    run: RunId,
    dir: PathBuf,
    cursor: Cursor,
    file: Option<EventFile>,
}

impl Board {
    fn new(reader: Reader, run: RunId, dir: PathBuf) -> Board {
        Board { reader, run, dir, cursor: Cursor::default(), file: None }
    }

    /// Writes what is new, at first everything. Returns the number of figures.
    async fn update(&mut self) -> Result<usize, TensorboardError> {
        let mut cursor = self.cursor;
        let new = scalars::since(&self.reader, self.run, &mut cursor).await.map_err(TensorboardError::Store)?;
        if new.is_empty() && self.file.is_some() {
            return Ok(0);
        }
        let events: Vec<u8> = new.iter().flat_map(event_file::scalar).collect();
        let dir = self.dir.clone();
        let file = match self.file.take() {
            Some(mut file) => blocking(move || file.append(&events).map(|()| file)).await,
            None => {
                let row = self.reader.run(self.run).await.map_err(TensorboardError::Store)?;
                let row = row.ok_or(TensorboardError::NoRun { run: self.run })?;
                let began_s = began_s(&row);
                let settings = event_file::text("settings/toml", began_s, &as_block(&row.config_toml));
                let all = [event_file::head(began_s), settings, events].concat();
                blocking(move || EventFile::replace(&dir, began_s as u64, &all)).await
            }
        };
        self.file = Some(file.map_err(|source| TensorboardError::Write { dir: self.dir.clone(), source })?);
        self.cursor = cursor;
        Ok(new.len())
    }
}

/// Does work that may wait for a disk where nobody else waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// A text as a block that Markdown leaves as it is.
fn as_block(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// What wakes the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// Something was committed.
    New,
    /// Nothing more will be.
    Over,
}

/// Keeps the event file of a run up to date while it goes on.
pub struct Follower {
    wake: mpsc::Sender<Wake>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Begins with the whole history of `run`, whose folder is `dir`.
    pub fn start(reader: Reader, run: RunId, dir: &Path, observer: Observer) -> Follower {
        // One message that nobody has seen yet says all that a second would.
        let (wake, mut woken) = mpsc::channel(1);
        let mut board = Board::new(reader, run, run_folder(&dir.join(FOLDER), run));
        let task = tokio::spawn(async move {
            let mut next = Some(Wake::New);
            while let Some(reason) = next {
                if let Err(error) = board.update().await {
                    let why = crate::error::chain(&error).join(": ");
                    tracing::warn!(%why, "no more figures for TensorBoard");
                    observer(Event::Warning(format!(
                        "no more figures for TensorBoard until the run goes on anew, or `orchestrator export tensorboard`: {why}"
                    )));
                    return;
                }
                next = if reason == Wake::Over { None } else { woken.recv().await };
            }
        });
        Follower { wake, task }
    }

    /// `inner`, and the file is brought up to date by every event that tells of a commit.
    pub fn observer(&self, inner: Observer) -> Observer {
        let wake = self.wake.clone();
        Arc::new(move |event| {
            let is_commit = matches!(event, Event::StepFinished(_) | Event::Evaluated(_) | Event::RoundStarted { .. });
            inner(event);
            if is_commit {
                // A full channel holds a message that says the same.
                let _ = wake.try_send(Wake::New);
            }
        })
    }

    /// Writes the last figures. Waits no longer than a few seconds.
    pub async fn finish(self) {
        let Follower { wake, mut task } = self;
        let last = async {
            // An error means that the task has given up, and has said so.
            let _ = wake.send(Wake::Over).await;
            let _ = (&mut task).await;
        };
        if tokio::time::timeout(LAST_WAIT, last).await.is_err() {
            task.abort();
        }
    }
}
