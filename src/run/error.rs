//! Why a run ended early.

use std::path::PathBuf;

use crate::error::{FailureClass, Hint};
use crate::inference::EngineError;
use crate::types::{StepId, WeightVersion};

/// Failure of a run. A bad answer or a refused problem is a recorded outcome and never one of these.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another process works in the same folder.
    #[error("the run folder `{}` is in use by another process", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// A file or folder of the run could not be used.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: `create`, `lock`, `remove`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The configuration could not be written down.
    #[error("the configuration cannot be recorded")]
    Config(#[source] crate::config::ConfigError),
    /// Problems or prompts.
    #[error("the problems cannot be used")]
    Data(#[source] crate::data::DataError),
    /// The text side of the model.
    #[error("the model `{}` (`run.model`) cannot be used", dir.display())]
    Model {
        /// Its folder.
        dir: PathBuf,
        /// What is wrong with it.
        #[source]
        source: crate::data::DataError,
    },
    /// Nothing in the folder can be resumed.
    #[error("there is no run to resume in `{}`", dir.display())]
    NothingToResume {
        /// The folder.
        dir: PathBuf,
    },
    /// A setting that changes results was changed for a resume.
    #[error("a resumed run cannot change {}", keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "))]
    CannotChange {
        /// The keys.
        keys: Vec<String>,
    },
    /// The file no longer holds the problems that the run began with.
    #[error("the problems in `{}` are not those that the run began with", path.display())]
    ProblemsChanged {
        /// The file.
        path: PathBuf,
    },
    /// A checkpoint that is not what its place says.
    #[error("the checkpoint `{}` is that of run {}, step {}, weight version {}", dir.display(), mark.run, mark.step, mark.version)]
    ForeignCheckpoint {
        /// The checkpoint.
        dir: PathBuf,
        /// What it says of itself.
        mark: crate::trainer::CheckpointMark,
    },
    /// The weights that a resumed run begins with are not those that it recorded.
    #[error("the weights in `{}` are not those recorded as weight version {version}", dir.display())]
    OtherWeights {
        /// The version.
        version: WeightVersion,
        /// What was exported now.
        dir: PathBuf,
    },
    /// A folder that is to be written has something in it already.
    #[error("the folder `{}` is not empty, and what is in it would be lost", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// Steps that the database does not have.
    #[error("steps {first} to {last} are not recorded: the run has {recorded} finished steps")]
    NoSuchSteps {
        /// First step asked for.
        first: u32,
        /// Last step asked for.
        last: u32,
        /// Finished steps of the run.
        recorded: u32,
    },
    /// The policy can no longer learn.
    #[error("no finite gradient in {steps} steps in a row, after weight version {version}")]
    Diverged {
        /// How many.
        steps: u32,
        /// The last version that was published.
        version: WeightVersion,
    },
    /// The database.
    #[error("the run cannot be recorded")]
    Store(#[source] crate::store::StoreError),
    /// The trainer.
    #[error("the trainer failed")]
    Trainer(#[source] crate::trainer::TrainerError),
    /// The search refused what it was given, a broken invariant.
    #[error("the search of a tree failed")]
    Search(#[source] crate::search::SearchError),
    /// The engine.
    #[error("the engine failed")]
    Engine(#[source] EngineError),
    /// The server cannot hold a whole answer.
    #[error(
        "a prompt of {prompt_tokens} tokens and an answer of {response_tokens} do not fit the server's context of \
         {context_tokens} tokens"
    )]
    Context {
        /// Longest prompt.
        prompt_tokens: usize,
        /// `search.max_depth * search.step_tokens`.
        response_tokens: usize,
        /// What the server says.
        context_tokens: usize,
    },
    /// The model's context cannot hold what a benchmark asks for.
    #[error(
        "a prompt of {prompt_tokens} tokens and an answer of up to {max_tokens} do not fit the model's context of \
         {context_tokens} tokens"
    )]
    AnswerTooLong {
        /// Longest prompt.
        prompt_tokens: usize,
        /// Most tokens of an answer.
        max_tokens: u32,
        /// What the model, or its server, can hold.
        context_tokens: usize,
    },
    /// A benchmark was begun with other settings.
    #[error("the benchmark in `{}` was begun otherwise: {}", dir.display(), changes.join("; "))]
    BenchmarkChanged {
        /// Its folder.
        dir: PathBuf,
        /// What differs, each with both values.
        changes: Vec<String>,
    },
    /// The server's logprobs of a fixed sequence are not the trainer's.
    #[error(
        "weight version {version}: the server's logprobs of the canary differ from the trainer's by {mean_nats:.4} nats on \
         average (at most {tolerance_nats} allowed, largest {max_nats:.4})"
    )]
    Canary {
        /// The version that was just loaded.
        version: WeightVersion,
        /// Mean absolute difference.
        mean_nats: f64,
        /// Largest absolute difference.
        max_nats: f64,
        /// `run.canary_tolerance_nats`.
        tolerance_nats: f64,
    },
    /// Every tree of a step was refused by the server.
    #[error("step {step}: all {trees} trees failed; the first: {first}")]
    AllTreesFailed {
        /// The step.
        step: StepId,
        /// How many.
        trees: usize,
        /// What the server said of the first.
        first: String,
    },
    /// A task of the run panicked.
    #[error("a task of the run panicked")]
    Task(#[source] tokio::task::JoinError),
}

impl Hint for RunError {
    fn class(&self) -> FailureClass {
        match self {
            RunError::Data(source) => source.class(),
            RunError::Store(source) => source.class(),
            RunError::Trainer(source) => source.class(),
            RunError::Engine(source) => source.class(),
            RunError::Config(_)
            | RunError::Model { .. }
            | RunError::Diverged { .. }
            | RunError::Context { .. }
            | RunError::AnswerTooLong { .. }
            | RunError::BenchmarkChanged { .. }
            | RunError::NothingToResume { .. }
            | RunError::CannotChange { .. }
            | RunError::ProblemsChanged { .. }
            | RunError::OtherWeights { .. }
            | RunError::NotEmpty { .. }
            | RunError::NoSuchSteps { .. } => FailureClass::User,
            RunError::Locked { .. }
            | RunError::Io { .. }
            | RunError::ForeignCheckpoint { .. }
            | RunError::Canary { .. }
            | RunError::AllTreesFailed { .. } => FailureClass::Environment,
            RunError::Search(_) | RunError::Task(_) => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RunError::Data(source) => source.hint(),
            RunError::Store(source) => source.hint(),
            RunError::Trainer(source) => source.hint(),
            RunError::Engine(source) => source.hint(),
            RunError::Model { source, .. } => Some(source.hint().unwrap_or_else(|| {
                "it has to be a folder in the Hugging Face layout, with config.json, tokenizer.json and *.safetensors; `make \
                 setup` brings the quickstart's"
                    .into()
            })),
            RunError::NothingToResume { .. } => {
                Some("name the folder of a run, the one that holds `orchestrator.sqlite`, or begin one without `--resume`".into())
            }
            RunError::CannotChange { .. } => {
                Some("leave it as it was, or begin a new run: what is done would not be comparable with what follows".into())
            }
            RunError::ProblemsChanged { .. } => {
                Some("put the file back (`data.problems`, `data.limit`), or begin a new run".into())
            }
            RunError::OtherWeights { .. } => {
                Some("is `run.model` still the model that the run began with? Put it back".into())
            }
            RunError::NotEmpty { .. } => Some("name a folder that is not there yet".into()),
            RunError::NoSuchSteps { .. } => Some("`orchestrator inspect` lists the steps of a run".into()),
            RunError::Diverged { .. } => Some("begin a new run with a lower `train.learning_rate`".into()),
            RunError::Locked { .. } => Some("wait for the other run to end, or choose another `run.dir`".into()),
            RunError::Context { .. } => {
                Some("lower `search.max_depth`, `search.step_tokens` or `prompt.max_tokens`, or raise `inference.max_model_tokens`".into())
            }
            RunError::AnswerTooLong { prompt_tokens, context_tokens, .. } => Some(match context_tokens
                .checked_sub(*prompt_tokens)
                .filter(|room| *room > 0)
            {
                Some(room) => format!("`--max-tokens {room}` is the most that fits"),
                None => "cut the prompts with `--set prompt.max_tokens=N`".into(),
            }),
            RunError::BenchmarkChanged { .. } => Some(
                "give the same settings to go on with it, or another folder (`--out`) for a new one".into(),
            ),
            RunError::Canary { .. } => Some(
                "the server does not compute what the trainer computes: check that both read the same model and element \
                 type; `run.canary_tolerance_nats` says how much may differ"
                    .into(),
            ),
            _ => None,
        }
    }
}

impl From<EngineError> for RunError {
    fn from(source: EngineError) -> Self {
        RunError::Engine(source)
    }
}

impl From<crate::store::StoreError> for RunError {
    fn from(source: crate::store::StoreError) -> Self {
        RunError::Store(source)
    }
}

impl From<crate::trainer::TrainerError> for RunError {
    fn from(source: crate::trainer::TrainerError) -> Self {
        RunError::Trainer(source)
    }
}

impl From<crate::data::DataError> for RunError {
    fn from(source: crate::data::DataError) -> Self {
        RunError::Data(source)
    }
}

impl From<crate::search::SearchError> for RunError {
    fn from(source: crate::search::SearchError) -> Self {
        RunError::Search(source)
    }
}

impl From<crate::config::ConfigError> for RunError {
    fn from(source: crate::config::ConfigError) -> Self {
        RunError::Config(source)
    }
}
