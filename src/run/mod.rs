//! The loop: steps of search, update and reload. The only place that knows two neighbouring parts, and their one
//! wiring point.
//!
//! Order of the start: folder, problems and database (cheap, fails early), then trainer and server side by side (each
//! takes its time), then version 0 is published like every later version. So the way that a reload goes is proven
//! before the first token is searched, and a server that was handed over by URL holds what the database says.

pub mod engine;
mod error;
mod event;
mod explore;
mod lock;
mod publish;
mod record;
mod shutdown;
mod step;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, EngineKind};
use crate::data::{ModelTokenizer, Problem, ProblemOrder, Prompter, load_problems};
use crate::inference::Engine;
use crate::search::SpecialTokens;
use crate::store::{RunEnd, RunStatus, Store};
use crate::trainer::Trainer;
use crate::types::{ProblemId, Prompt, RunId, StepId, TokenId, WeightVersion};
use crate::verify::Verifier;

pub use error::RunError;
pub use event::{Event, Observer, StepSummary};

use engine::Parts;
use explore::{Explorer, Task};
use lock::FolderLock;
use publish::{PublishSettings, Publisher};
use shutdown::{Interruptible, until};
use step::{Posed, Stepper};

/// Name of the database in the run folder.
pub const DATABASE: &str = "orchestrator.sqlite";

/// Tokens of the canary: enough for every layer and position to matter, few enough to cost nothing.
const CANARY_TOKENS: usize = 96;

/// Steps in a row without a finite gradient after which a policy is given up.
const MOST_DIVERGED_STEPS: u32 = 3;

/// How a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All configured steps are done.
    AllSteps,
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
}

/// Trains as `config` says. `config` has passed [`crate::config::validate()`].
///
/// # Errors
/// The first failure that the run cannot go on from. What was committed before stays, and the run's row says `failed`.
pub async fn run(config: Config, observer: Observer, cancel: CancellationToken) -> Result<Outcome, RunError> {
    let dir = config.run.dir.clone();
    create_dir(&dir)?;
    let _lock = FolderLock::acquire(&dir)?;
    let problems = Problems::load(&config)?;
    let store = Store::open(&dir.join(DATABASE)).await?;
    close_abandoned(&store).await?;
    let run = store.create_run(record::run(&config)?).await?;
    let mut progress = Reached::default();
    let result = train(&config, &problems, &store, run, &observer, &cancel, &mut progress).await;
    let end = match &result {
        Ok(Ended::AllSteps) => RunEnd::Done,
        Ok(Ended::Interrupted) => RunEnd::Interrupted,
        Err(error) => RunEnd::Failed { error: crate::error::chain(error).join(": ") },
    };
    let recorded = store.finish_run(run, end).await;
    let closed = store.close().await;
    // The outcome of the run matters more than that of writing it down.
    let ended = result?;
    recorded?;
    closed?;
    Ok(Outcome { run, ended, steps_done: progress.steps_done, weights: progress.weights, dir })
}

/// Runs whose process was killed still say `running`. The folder's lock is ours, so none of them is.
async fn close_abandoned(store: &Store) -> Result<(), RunError> {
    for row in store.reader().runs().await? {
        if row.status == RunStatus::Running {
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

/// The problems of a run, posed to the policy.
struct Problems {
    problems: Vec<Problem>,
    prompts: Vec<Prompt>,
    tokenizer: Arc<ModelTokenizer>,
    /// Prompts that lost their beginning to `prompt.max_tokens`.
    cut: usize,
}

impl Problems {
    fn load(config: &Config) -> Result<Problems, RunError> {
        let model = |source| RunError::Model { dir: config.run.model.clone(), source };
        let tokenizer = Arc::new(ModelTokenizer::load(&config.run.model).map_err(model)?);
        let prompter = Prompter::new(&config.prompt, tokenizer.clone()).map_err(model)?;
        let mut problems = load_problems(&config.data.problems)?;
        if config.data.limit > 0 {
            problems.truncate(config.data.limit);
        }
        let posed = problems
            .iter()
            .map(|problem| Ok(prompter.pose(&problem.problem)?))
            .collect::<Result<Vec<_>, RunError>>()?;
        let cut = posed.iter().filter(|posed| posed.cut_tokens > 0).count();
        let prompts = posed.into_iter().map(|posed| posed.prompt).collect();
        Ok(Problems { problems, prompts, tokenizer, cut })
    }

    fn longest_prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0)
    }

    /// A fixed sequence from the run's own text: prompts one after the other, over and over, cut to size.
    fn canary(&self, context_tokens: usize) -> Vec<TokenId> {
        if self.longest_prompt_tokens() == 0 {
            return Vec::new();
        }
        let tokens = self.prompts.iter().cycle().flat_map(|prompt| prompt.tokens.iter().copied());
        tokens.take(CANARY_TOKENS.min(context_tokens.saturating_sub(1))).collect()
    }
}

async fn train(
    config: &Config,
    problems: &Problems,
    store: &Store,
    run: RunId,
    observer: &Observer,
    cancel: &CancellationToken,
    reached: &mut Reached,
) -> Result<Ended, RunError> {
    let started = Instant::now();
    let rows = store.insert_problems(problems.problems.iter().map(record::problem).collect()).await?;
    let run_dir = config.run.dir.join(format!("run-{run}"));
    create_dir(&run_dir)?;

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
    let parts = match until(cancel.cancelled(), Parts::start(config, &problems.tokenizer, run, &run_dir)).await {
        Interruptible::Finished(parts) => parts?,
        Interruptible::Interrupted => return Ok(Ended::Interrupted),
    };
    parts.check_memory(config, problems.longest_prompt_tokens())?;
    let loading = Arc::new(Mutex::new(()));
    let work = Work { config, problems, rows: &rows, store, run, run_dir: &run_dir, observer, loading: &loading };
    let steps = work.steps(parts.trainer.clone(), parts.engine.clone(), started, reached);
    let called_off = async {
        cancel.cancelled().await;
        loading.lock().await
    };
    let result = match until(called_off, steps).await {
        Interruptible::Finished(result) => result.map(|()| Ended::AllSteps),
        Interruptible::Interrupted => Ok(Ended::Interrupted),
    };
    parts.stop().await;
    result
}

/// What the steps of a run borrow.
struct Work<'a> {
    config: &'a Config,
    problems: &'a Problems,
    rows: &'a [ProblemId],
    store: &'a Store,
    run: RunId,
    run_dir: &'a Path,
    observer: &'a Observer,
    /// Locked while a server is being loaded.
    loading: &'a Arc<Mutex<()>>,
}

impl Work<'_> {
    async fn steps(
        &self,
        trainer: Arc<Trainer>,
        engine: Arc<dyn Engine>,
        started: Instant,
        reached: &mut Reached,
    ) -> Result<(), RunError> {
        let config = self.config;
        let capabilities = engine.capabilities().clone();
        self.check_context(capabilities.max_model_tokens)?;
        let weights_dir = if config.run.weights_dir.as_os_str().is_empty() {
            self.run_dir.join("weights")
        } else {
            // The name keeps runs apart, the process number runs of the same name in different folders.
            config.run.weights_dir.join(format!("{}-run-{}-{}", config.run.name, self.run, std::process::id()))
        };
        create_dir(&weights_dir)?;
        let mut publisher = Publisher::new(
            engine.clone(),
            trainer.clone(),
            self.store.clone(),
            PublishSettings {
                run: self.run,
                dir: weights_dir,
                canary: self.problems.canary(capabilities.max_model_tokens),
                tolerance_nats: config.run.canary_tolerance_nats,
                keep_every: config.run.keep_every,
                gate: self.loading.clone(),
            },
        );
        publisher.publish(WeightVersion::INITIAL, None).await?;
        reached.weights = Some(publisher.version_dir(publisher.current()));
        (self.observer)(Event::Ready { elapsed: started.elapsed(), max_sequences: capabilities.max_sequences });

        let stepper = Stepper {
            explorer: Arc::new(self.explorer(engine)),
            trainer,
            store: self.store.clone(),
            run: self.run,
            observer: self.observer.clone(),
        };
        let order = ProblemOrder::new(
            config.run.seed,
            self.problems.problems.len(),
            config.run.problems_per_step as usize,
            config.data.shuffle,
        );
        let mut diverged_steps = 0;
        for step in 1..=config.run.steps {
            let posed = self.pose(&order, step);
            let summary = stepper.run(StepId(i64::from(step)), posed, &mut publisher).await?;
            reached.steps_done = step;
            diverged_steps = if summary.is_diverged { diverged_steps + 1 } else { 0 };
            if diverged_steps == MOST_DIVERGED_STEPS {
                return Err(RunError::Diverged { steps: diverged_steps, version: publisher.current() });
            }
            reached.weights = Some(publisher.version_dir(publisher.current()));
        }
        Ok(())
    }

    fn explorer(&self, engine: Arc<dyn Engine>) -> Explorer {
        let tokenizer = self.problems.tokenizer.clone();
        Explorer {
            engine,
            special: SpecialTokens { end_of_text: tokenizer.end_of_text().to_vec(), padding: None },
            tokenizer,
            verifier: Verifier::default(),
            search: self.config.search.clone(),
            stop: self.config.prompt.stop.clone().into(),
            seed: self.config.run.seed,
            request_timeout: Duration::from_secs(self.config.inference.request_timeout_s),
            observer: self.observer.clone(),
        }
    }

    fn pose(&self, order: &ProblemOrder, step: u32) -> Vec<Posed> {
        let chosen = order.step(u64::from(step - 1));
        chosen
            .into_iter()
            .zip(0..)
            .map(|(index, slot)| Posed {
                problem: self.rows[index],
                task: Task {
                    step: StepId(i64::from(step)),
                    slot,
                    prompt: self.problems.prompts[index].clone(),
                    answer: self.problems.problems[index].answer.clone(),
                },
            })
            .collect()
    }

    fn check_context(&self, context_tokens: usize) -> Result<(), RunError> {
        let search = &self.config.search;
        let response_tokens = search.max_depth as usize * search.step_tokens as usize;
        let prompt_tokens = self.problems.longest_prompt_tokens();
        if prompt_tokens + response_tokens > context_tokens {
            return Err(RunError::Context { prompt_tokens, response_tokens, context_tokens });
        }
        Ok(())
    }
}

fn create_dir(dir: &Path) -> Result<(), RunError> {
    std::fs::create_dir_all(dir).map_err(|source| RunError::Io { action: "create", path: dir.to_owned(), source })
}
