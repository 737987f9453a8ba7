//! Why there is nothing to report.

use std::path::PathBuf;

use crate::error::{FailureClass, Hint};
use crate::run::RunError;
use crate::trainer::TrainerError;
use crate::types::RunId;

/// Failure of a measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A tree of the described shape cannot be.
    #[error("the shape of the trees makes no sense: {reason}")]
    Shape {
        /// Why not.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that does not hold groups.
    #[error("`{}` holds no trajectory groups", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A group that cannot be.
    #[error("group {group} of `{}`: {reason}", path.display())]
    Group {
        /// Which file.
        path: PathBuf,
        /// Index of the group.
        group: usize,
        /// What is wrong.
        reason: String,
    },
    /// The groups cannot be written as JSON.
    #[error("the groups cannot be written as JSON")]
    Unserialisable(#[source] serde_json::Error),
    /// A folder without a run.
    #[error("there is no run in `{}`", dir.display())]
    NoRun {
        /// Folder.
        dir: PathBuf,
    },
    /// Trees that the model cannot have made.
    #[error("the trees of the run in `{}` are not of this model: {reason}", dir.display())]
    OtherModel {
        /// Folder.
        dir: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A run without finished steps.
    #[error("run {run} in `{}` has no finished step, so no trees to train on", dir.display())]
    NoSteps {
        /// Folder.
        dir: PathBuf,
        /// Run.
        run: RunId,
    },
    /// A run whose trees cannot be trained on any more.
    #[error("the tokens or logprobs of all trees of run {run} in `{}` were dropped", dir.display())]
    Dropped {
        /// Folder.
        dir: PathBuf,
        /// Run.
        run: RunId,
    },
    /// Nothing that moves the weights.
    #[error("none of the {groups} trees has a signal: every advantage is zero")]
    NoSignal {
        /// How many there are.
        groups: usize,
    },
    /// Nothing to search.
    #[error("there are no problems to search")]
    NoProblems,
    /// The requests of a search were to be sent again, without a search.
    #[error("`{mode}` sends the requests of `search` again, which is not among the modes")]
    NothingToReplay {
        /// The mode that was asked for.
        mode: &'static str,
    },
    /// The folder holds something.
    #[error("`{}` is not empty", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// An update was left out, so its time means nothing.
    #[error("a measured step made no update: {reason}")]
    Skipped {
        /// Why.
        reason: String,
    },
    /// The database of a run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The trainer.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
}

impl Hint for BenchError {
    fn class(&self) -> FailureClass {
        match self {
            BenchError::Io { action: "write" | "create", .. } => FailureClass::Environment,
            BenchError::Unserialisable(_) => FailureClass::Bug,
            BenchError::Run(error) => error.class(),
            BenchError::Trainer(error) => error.class(),
            _ => FailureClass::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            BenchError::Shape { .. } => {
                Some("a path has depth x tokens tokens, a tree at most width^depth paths".into())
            }
            BenchError::Malformed { .. } | BenchError::Group { .. } => {
                Some("`--export-batch` writes such files".into())
            }
            BenchError::NoSignal { .. } => Some(
                "take a run that found answers of more than one verdict, or `--set train.advantage=value`, which compares none"
                    .into(),
            ),
            BenchError::Dropped { .. } => Some(
                "`run.keep_text = \"trained\"` and `run.keep_logprobs = true` keep what an update needs".into(),
            ),
            BenchError::NothingToReplay { .. } => Some("add `search` to `--modes`".into()),
            BenchError::NotEmpty { .. } => Some("name a folder that is not there yet".into()),
            BenchError::Skipped { .. } => {
                Some("the weights are not finite: take another model or a smaller rate".into())
            }
            BenchError::Run(error) => error.hint(),
            BenchError::Trainer(error) => error.hint(),
            _ => None,
        }
    }
}
