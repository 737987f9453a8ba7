//! Algorithms x seeds x tasks: what `orchestrator bench learn` carries out.
//!
//! A suite is a file. It stands for runs of `orchestrator run`, each in a folder of its own with its own database, begun,
//! taken up again and left alone by what that database says; there is no other state, so a suite that was killed goes on
//! where it was. What comes of it is read from the databases, see [`crate::report::learn`]. Suites of one folder share
//! the runs of one name.

mod error;
mod execute;
mod plan;
mod recipe;
mod suite;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use error::LearnError;
pub use execute::Execution;
pub use plan::{PlannedRun, Standing, plan, standing};
pub use suite::{Algorithm, Made, Measures, Model, Suite, Task, load};

use super::FolderLock;

/// What happens to a suite.
#[derive(Clone, Debug, PartialEq)]
pub enum LearnEvent {
    /// Another process makes a model that this one needs too: it is waited for.
    Waiting {
        /// The model.
        model: String,
    },
    /// A step of a recipe begins.
    Making {
        /// The model.
        model: String,
        /// The step, from 1.
        step: usize,
        /// Of how many.
        steps: usize,
    },
    /// A model has other weights than where the suite was written.
    OtherBits {
        /// The model.
        model: String,
        /// The digest in the suite.
        expected: String,
        /// That of the file.
        found: String,
    },
    /// The database of a run cannot be read: the run is left alone.
    Unreadable {
        /// The run.
        name: String,
        /// Why.
        error: String,
    },
    /// A run is over already.
    Skipped {
        /// The run.
        name: String,
        /// The error with which it ended.
        error: Option<String>,
    },
    /// A run begins or goes on.
    Begun {
        /// The run.
        name: String,
        /// Its number among those that are carried out, from 1.
        number: usize,
        /// Of how many.
        of: usize,
    },
    /// A run is over.
    Ended {
        /// The run.
        name: String,
        /// Time of its processes.
        took: Duration,
        /// The error with which it ended.
        error: Option<String>,
    },
}

/// Refuses problems, models and runs that are there and were made in another way than the suite says. Reads only. A run
/// whose database cannot be read is none of these.
///
/// # Errors
/// The first of them.
pub async fn check(suite: &Suite, runs: &[PlannedRun]) -> Result<(), LearnError> {
    recipe::check(suite)?;
    for run in runs {
        match standing(run).await {
            Ok(_) | Err(LearnError::Store(_)) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Makes what the runs of a suite need, and carries out those of `runs` that are not over. False where it was called off.
///
/// # Errors
/// Something that no run can do without; a run that fails is only told of.
///
/// # Cancel safety
/// Processes of runs are killed; they can be taken up again.
pub async fn learn(
    suite: &Suite,
    runs: &[PlannedRun],
    execution: &Execution,
    cancel: &CancellationToken,
    observe: impl Fn(LearnEvent) + Sync,
) -> Result<bool, LearnError> {
    recipe::create(&suite.dir)?;
    let _lock = FolderLock::acquire(&suite.dir)?;
    recipe::make_problems(suite)?;
    if !recipe::make_models(suite, &execution.program, cancel, &observe).await? {
        return Ok(false);
    }
    execute::carry_out(runs, execution, cancel, &observe).await
}
