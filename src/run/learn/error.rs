//! Why a suite cannot be carried out. That one of its runs fails is a result, and none of these.

use std::path::PathBuf;

use crate::config::{ConfigErrors, SourceError};
use crate::data::DataError;
use crate::error::{FailureClass, Hint};
use crate::run::RunError;
use crate::store::StoreError;

/// Failure of a suite.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// A file or folder could not be used.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no suite.
    #[error("`{}` is no suite of runs", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// What the file says does not fit together.
    #[error("`{}`: {message}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A configuration file of a task.
    #[error("the configuration of task `{task}` cannot be read")]
    Source {
        /// The task.
        task: String,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// The settings of one run.
    #[error("`{algorithm}` on `{task}` has settings that cannot be used")]
    Config {
        /// The task.
        task: String,
        /// The algorithm.
        algorithm: String,
        /// What is wrong with them.
        #[source]
        source: ConfigErrors,
    },
    /// Made-up problems.
    #[error("the problems of task `{task}` cannot be made")]
    Problems {
        /// The task.
        task: String,
        /// Why.
        #[source]
        source: DataError,
    },
    /// Training and held-out problems share a problem.
    #[error("task `{task}` has a held-out problem among those it trains on: `{problem}`")]
    Shared {
        /// The task.
        task: String,
        /// The problem.
        problem: String,
    },
    /// A file or model was made from something else than the suite says.
    #[error("`{}` was made in another way than the suite says", path.display())]
    Changed {
        /// What.
        path: PathBuf,
    },
    /// A model without a recipe is not there.
    #[error("there is no model in `{}`, and the suite has no recipe for it", dir.display())]
    NoModel {
        /// Its folder.
        dir: PathBuf,
    },
    /// A step of a recipe failed.
    #[error("a step of the recipe of model `{model}` failed ({status}): `{step}`")]
    Recipe {
        /// The model.
        model: String,
        /// The step.
        step: String,
        /// How it ended.
        status: String,
        /// What it said.
        log: PathBuf,
    },
    /// A run that is there has other settings than the suite now says.
    #[error("the run in `{}` was begun with other settings: {}", dir.display(), keys.join(", "))]
    OtherRun {
        /// Its folder.
        dir: PathBuf,
        /// In what it differs.
        keys: Vec<String>,
    },
    /// The process of a run could not be started.
    #[error("cannot start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The folder, or the configuration of a run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Hint for LearnError {
    fn class(&self) -> FailureClass {
        match self {
            LearnError::Io { .. } | LearnError::Start { .. } | LearnError::Recipe { .. } => FailureClass::Environment,
            LearnError::Syntax { .. }
            | LearnError::Rule { .. }
            | LearnError::Changed { .. }
            | LearnError::Shared { .. }
            | LearnError::NoModel { .. }
            | LearnError::OtherRun { .. } => FailureClass::User,
            LearnError::Source { source, .. } => source.class(),
            LearnError::Config { source, .. } => source.class(),
            LearnError::Problems { source, .. } => source.class(),
            LearnError::Run(error) => error.class(),
            LearnError::Store(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LearnError::Changed { .. } => {
                Some("remove it, and the runs that used it, or give the suite another `dir`".into())
            }
            LearnError::OtherRun { .. } => Some("remove its folder, or give the suite another `dir`".into()),
            LearnError::Shared { .. } => Some("use other seeds or kinds for the two".into()),
            LearnError::NoModel { .. } => Some("`make setup` puts the model there".into()),
            LearnError::Recipe { log, .. } => Some(format!("what it said is in `{}`", log.display())),
            LearnError::Source { source, .. } => source.hint(),
            LearnError::Config { source, .. } => source.hint(),
            LearnError::Problems { source, .. } => source.hint(),
            LearnError::Run(error) => error.hint(),
            LearnError::Store(error) => error.hint(),
            _ => None,
        }
    }
}
