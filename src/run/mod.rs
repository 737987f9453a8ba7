//! The loop: rounds of steps of search, update and reload. The only place that knows two neighbouring parts, and their
//! one wiring point.
//!
//! Order of the start: folder, problems and database (cheap, fails early), then trainer and server side by side (each
//! takes its time), then the weights that the store says (`restore.rs`; of a new run version 0) are published like every
//! later version. So the way that a reload goes is proven before the first token is searched, and a server that was handed
//! over by URL holds what the database says.
//!
//! A run has no state but its database, its checkpoints and the trees and updates that follow from them: it may be killed
//! at any instant, and goes on with `--resume`.

pub mod audit;
pub mod bench;
pub mod benchmark;
mod checkpoints;
mod curriculum;
pub mod engine;
mod error;
mod evaluate;
mod event;
mod explore;
mod flight;
mod judge;
pub mod learn;
mod lock;
mod memory_plan;
mod meter;
pub mod offline;
mod problems;
mod publish;
mod record;
mod restore;
mod resume;
mod retention;
mod rollout;
mod shutdown;
mod step;
pub mod supervise;
pub mod tensorboard;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, EngineKind};
use crate::store::{LearningPoint, RunEnd, RunStatus, Store};
use crate::types::{ProblemId, RunId};

pub use error::RunError;
pub use event::{Evaluation, Event, Observer, StepSummary};
pub use lock::FolderLock;
pub use resume::{Resumable, Spent, changed_keys, has_more_tokens, resumable};
pub use retention::{Retention, oldest_checkpoint};

use engine::Parts;
use problems::{Language, Problems};
use shutdown::{Interruptible, until};
use work::Work;

/// Name of the database in the run folder.
pub const DATABASE: &str = "orchestrator.sqlite";

/// What to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// The configuration, which has passed [`crate::config::validate()`].
    pub config: Config,
    /// The run to go on with; `None` begins a new one.
    pub resume: Option<RunId>,
    /// How far to go.
    pub goal: Goal,
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// All rounds and steps.
    AllSteps,
    /// Only the filter of the first round; the run can be resumed.
    Filter,
}

/// How a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All that was asked for is done.
    AllSteps,
    /// The filter of a round found no hard problem.
    NothingHard,
    /// `run.max_generated_tokens` are spent.
    TokensSpent,
    /// The run was called off; finished steps and trees are kept.
    Interrupted,
}

/// What a run leaves behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Row of the run.
    pub run: RunId,
    /// How it ended.
    pub ended: Ended,
    /// Steps done.
    pub steps_done: u32,
    /// Folder of the newest confirmed weights in the Hugging Face layout; `None` if none was confirmed.
    pub weights: Option<PathBuf>,
    /// Folder of the run, which holds the database.
    pub dir: PathBuf,
    /// Accuracy on held-out problems against what had been spent, where it was measured.
    pub curve: Vec<LearningPoint>,
}

/// Trains as the job says.
///
/// # Errors
/// The first failure that the run cannot go on from. What was committed before stays, the run's row says `failed`, and it
/// can be resumed.
pub async fn run(job: Job, observer: Observer, cancel: CancellationToken) -> Result<Outcome, RunError> {
    let Job { config, resume, goal } = job;
    let dir = config.run.dir.clone();
    create_run_dir(&dir)?;
    let _lock = FolderLock::acquire(&dir)?;
    let inputs = Inputs::load(&config)?;
    let store = Store::open(&dir.join(DATABASE)).await?;
    close_abandoned(&store, resume).await?;
    let run = match resume {
        Some(run) => {
            store.resume_run(run, None).await?;
            run
        }
        None => store.create_run(record::run(&config)?).await?,
    };
    let mut reached = Reached::default();
    let is_resumed = resume.is_some();
    let follower = tensorboard::Follower::start(store.reader().clone(), run, &dir, observer.clone());
    let observer = follower.observer(observer);
    let result = train(&config, inputs, &store, run, goal, is_resumed, &observer, &cancel, &mut reached).await;
    follower.finish().await;
    let end = match &result {
        // What a filter leaves undone is for a resume.
        Ok(Ended::AllSteps) if goal == Goal::Filter => RunEnd::Interrupted,
        Ok(Ended::AllSteps | Ended::NothingHard | Ended::TokensSpent) => RunEnd::Done,
        Ok(Ended::Interrupted) => RunEnd::Interrupted,
        Err(error) => RunEnd::Failed { error: crate::error::chain(error).join(": ") },
    };
    let recorded = store.finish_run(run, end).await;
    let curve = store.reader().learning_curve(run).await;
    let closed = store.close().await;
    // The outcome of the run matters more than that of writing it down.
    let ended = result?;
    recorded?;
    closed?;
    Ok(Outcome { run, ended, steps_done: reached.steps_done, weights: reached.weights, dir, curve: curve? })
}

/// Runs whose process was killed still say `running`. The folder's lock is ours, so none of them is.
async fn close_abandoned(store: &Store, resumed: Option<RunId>) -> Result<(), RunError> {
    for row in store.reader().runs().await? {
        if row.status == RunStatus::Running && Some(row.run_id) != resumed {
            let error = "its process ended without finishing it".to_owned();
            store.finish_run(row.run_id, RunEnd::Failed { error }).await?;
        }
    }
    Ok(())
}

/// How far a run has come, also when it ends early.
#[derive(Debug, Default)]
struct Reached {
    steps_done: u32,
    weights: Option<PathBuf>,
}

/// What is read before anything is started.
struct Inputs {
    language: Language,
    problems: Problems,
    held_out: Option<Problems>,
}

impl Inputs {
    fn load(config: &Config) -> Result<Inputs, RunError> {
        let language = Language::load(config)?;
        let problems = Problems::load(&config.data.problems, config.data.limit, &language)?;
        let eval = &config.eval;
        let held_out = (!eval.problems.as_os_str().is_empty())
            .then(|| Problems::load(&eval.problems, eval.limit, &language))
            .transpose()?;
        Ok(Inputs { language, problems, held_out })
    }
}

#[expect(clippy::too_many_arguments, reason = "the wiring point")]
async fn train(
    config: &Config,
    inputs: Inputs,
    store: &Store,
    run: RunId,
    goal: Goal,
    is_resumed: bool,
    observer: &Observer,
    cancel: &CancellationToken,
    reached: &mut Reached,
) -> Result<Ended, RunError> {
    let started = Instant::now();
    let Inputs { language, problems, held_out } = inputs;
    let rows = insert(store, &problems).await?;
    let held_out = match held_out {
        Some(held_out) => {
            let rows = insert(store, &held_out).await?;
            Some((held_out, rows))
        }
        None => None,
    };
    let run_dir = config.run.dir.join(format!("run-{run}"));
    create_dir(&run_dir)?;
    let weights_dir = publish::weights_dir(config, run, &run_dir)?;

    if problems.cut > 0 {
        observer(Event::Warning(format!(
            "{} of {} prompts are longer than `prompt.max_tokens` = {} and lost their beginning",
            problems.cut,
            problems.prompts.len(),
            config.prompt.max_tokens
        )));
    }
    observer(Event::Starting(match (config.inference.engine, config.inference.launch) {
        (EngineKind::Embedded, _) => "loading the model".into(),
        (EngineKind::Vllm, true) => "loading the model and starting the server".into(),
        (EngineKind::Vllm, false) => "loading the model and greeting the servers".into(),
    }));
    let parts = match until(cancel.cancelled(), Parts::start(config, &language.tokenizer, run, &run_dir)).await {
        Interruptible::Finished(parts) => parts?,
        Interruptible::Interrupted => return Ok(Ended::Interrupted),
    };
    if let Some(plan) = parts.trainer.memory_plan().filter(|plan| plan.is_lowered()) {
        observer(Event::Warning(plan.to_string()));
    }
    parts.plan_memory(config, observer);
    parts.check_memory(config, problems.longest_prompt_tokens())?;
    let loading = Arc::new(Mutex::new(()));
    let work = Work {
        config,
        language: &language,
        problems: &problems,
        rows: &rows,
        held_out,
        store,
        run,
        run_dir: &run_dir,
        weights_dir: &weights_dir,
        goal,
        is_resumed,
        observer,
        loading: loading.clone(),
    };
    let going = work.go(parts.trainer.clone(), parts.engine.clone(), started, reached);
    let called_off = async {
        cancel.cancelled().await;
        loading.lock().await
    };
    let result = match until(called_off, going).await {
        Interruptible::Finished(result) => result,
        Interruptible::Interrupted => Ok(Ended::Interrupted),
    };
    parts.stop().await;
    result
}

async fn insert(store: &Store, problems: &Problems) -> Result<Vec<ProblemId>, RunError> {
    Ok(store.insert_problems(problems.problems.iter().map(record::problem).collect()).await?)
}

/// Makes the folder of a run, for its owner only: it holds the server's log and, unless the weights go elsewhere, all that the
/// policy has learned. A folder that is there stays as it is.
///
/// # Errors
/// It cannot be made.
pub fn create_run_dir(dir: &Path) -> Result<(), RunError> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_dir(above)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        // One that is no folder fails here.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => create_dir(dir),
        Err(source) => Err(RunError::Io { action: "create", path: dir.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

fn create_dir(dir: &Path) -> Result<(), RunError> {
    std::fs::create_dir_all(dir).map_err(|source| RunError::Io { action: "create", path: dir.to_owned(), source })
}
