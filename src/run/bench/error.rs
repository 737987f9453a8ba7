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
    /// A run without finished steps.
    #[error("run {run} in `{}` has no finished step, so no trees to train on", dir.display())]
    NoSteps {
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
    /// The folder for the weights holds something.
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
            BenchError::Io { action: "write", .. } => FailureClass::Environment,
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
                "with `--set train.advantage=value` every tree has one; or take a run that found more than one verdict"
                    .into(),
            ),
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
