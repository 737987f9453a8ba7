//! The trainer: trajectory groups in, weight updates out. The only part that knows tch.
//!
//! [`Trainer`] is an async handle; one OS thread behind it owns model and optimizer (`thread.rs`). The path of a step:
//! `advantage.rs` weighs nodes, `pack.rs` lays out the forest, `learner.rs` runs it through `backprop.rs` (`model/`),
//! `logprob.rs` and `loss.rs`, `optim.rs` updates the fp32 masters, `export.rs` writes a version.
//!
//! Generation (`generate/`) uses the same weights on the same thread, one step between two commands.
//!
//! Invariants: one command at a time, in order; weights change only inside `update`, `supervise` and `load_checkpoint`; what is
//! visible on disk is complete. Absent on purpose: the decision what to generate and what to train on.

pub mod advantage;
pub mod backprop;
pub mod checkpoint;
pub mod device;
pub mod error;
pub mod export;
pub mod folder;
pub mod free_memory;
pub mod generate;
pub mod learner;
pub mod logprob;
pub mod lora;
pub mod loss;
pub mod memory;
pub mod minibatch;
pub mod model;
pub mod objective;
mod operator;
pub mod optim;
pub mod pack;
pub mod params;
pub mod peft;
pub mod report;
mod retry;
pub mod supervise;
pub mod tensor_file;
pub mod thread;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

pub use checkpoint::{CheckpointInfo, CheckpointMark};
pub use error::TrainerError;
pub use free_memory::Neighbor;
pub use generate::{GeneratorReport, GeneratorSpec};
pub use learner::{Learner, TrainerSpec};
pub use model::{Family, ModelSpec, init_model};
pub use params::Use;
pub use report::{CachedDrift, Mismatch, PhaseTimes, SkipReason, StepReport, UpdateReport};

pub use supervise::{SupervisedBatch, SupervisedReport, TokenExample};

use crate::types::{Continuation, GenerateRequest, TokenId, TrajectoryGroup, WeightManifest, WeightVersion};
use thread::{Command, Facts, Reply};

/// Asks MKL for matrix products that give the same bits whatever the alignment of memory and the number of threads, so
/// that training repeats; it costs nothing that could be measured. Generation on the processor does not use MKL. A choice
/// of the user's own is kept. For the very start of a program.
///
/// # Safety
/// No other thread may run: the environment is changed.
pub unsafe fn reproducible() {
    const VARIABLE: &str = "MKL_CBWR";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: the caller promises that no other thread runs.
        unsafe { std::env::set_var(VARIABLE, "AUTO,STRICT") };
    }
}

/// Handle of the trainer thread. Dropping it stops the thread between two micro-batches and waits for it.
pub struct Trainer {
    commands: Option<mpsc::Sender<Command>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    facts: Facts,
}

impl Trainer {
    /// Starts the thread and loads the model.
    ///
    /// # Errors
    /// Settings that make no sense, no CUDA where it is demanded, a model that is not supported or not whole.
    ///
    /// # Cancel safety
    /// Dropping the future ends the thread once the model is loaded.
    pub async fn spawn(spec: TrainerSpec) -> Result<Trainer, TrainerError> {
        let started = thread::start(spec).await?;
        Ok(Trainer {
            commands: Some(started.commands),
            stop: started.stop,
            thread: Some(started.thread),
            facts: started.facts,
        })
    }

    /// Memory of the keys and values of one token of generation.
    pub fn token_bytes(&self) -> u64 {
        self.facts.token_bytes
    }

    /// V, the size of the vocabulary.
    pub fn vocab_tokens(&self) -> usize {
        self.facts.vocab_tokens
    }

    /// The token budget of training and the memory that it was planned for; `None` where nothing is trained.
    pub fn memory_plan(&self) -> Option<&memory::Plan> {
        self.facts.memory_plan.as_ref()
    }

    /// Whether libtorch computes on the processor.
    pub fn is_on_processor(&self) -> bool {
        self.facts.is_on_processor
    }

    /// One training step: advantages, old logprobs, one optimizer step per `minibatch_problems` groups.
    ///
    /// # Errors
    /// [`TrainerError::Group`] (nothing was changed), [`TrainerError::Diverged`] (nothing can be written until a
    /// checkpoint is loaded), or a failure of libtorch (the trainer has stopped).
    ///
    /// # Cancel safety
    /// The step runs on; its report is lost.
    pub async fn update(&self, groups: Vec<TrajectoryGroup>) -> Result<StepReport, TrainerError> {
        self.ask(|reply| Command::Update(groups, reply)).await
    }

    /// Gives the memory that was needed for a step, and is held for the next, back to the device: for a server that has
    /// it between the steps.
    ///
    /// # Errors
    /// libtorch refused.
    ///
    /// # Cancel safety
    /// It may have been given back.
    pub async fn yield_memory(&self) -> Result<(), TrainerError> {
        self.ask(Command::YieldMemory).await
    }

    /// One supervised step: an optimizer step on the mean negative logprob of the response tokens.
    ///
    /// # Errors
    /// [`TrainerError::Request`] for a batch without response tokens or with tokens outside the vocabulary (nothing was
    /// changed), [`TrainerError::Diverged`], or a failure of libtorch (the trainer has stopped).
    ///
    /// # Cancel safety
    /// The step runs on; its report is lost.
    pub async fn supervise(&self, batch: SupervisedBatch) -> Result<SupervisedReport, TrainerError> {
        self.ask(|reply| Command::Supervise(batch, reply)).await
    }

    /// Logprobs of `tokens[1..]` given what precedes each, `[T - 1]`, in nats, with logits divided by `temperature`.
    ///
    /// # Errors
    /// A temperature that is not positive, a token outside the vocabulary.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn score(&self, tokens: Vec<TokenId>, temperature: f64) -> Result<Vec<f32>, TrainerError> {
        self.ask(|reply| Command::Score(tokens, temperature, reply)).await
    }

    /// Samples the continuations of `request`, in order, all under one weight version. Needs
    /// [`TrainerSpec::generator`].
    ///
    /// # Errors
    /// A request that does not fit, logits that are not finite, a trainer without a generator.
    ///
    /// # Cancel safety
    /// Dropping the future calls the request off.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Vec<Continuation>, TrainerError> {
        self.ask(|reply| Command::Generate(Box::new(request), reply)).await
    }

    /// [`Self::score`] at temperature 1 through the code and the memory of generation, without what is cached: what
    /// generation thinks of `tokens`.
    ///
    /// # Errors
    /// A token outside the vocabulary, more tokens than the context, a trainer without a generator.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn score_generated(&self, tokens: Vec<TokenId>) -> Result<Vec<f32>, TrainerError> {
        self.ask(|reply| Command::ScoreGenerated(tokens, reply)).await
    }

    /// Says that the weights are `version`, as which they have just been exported. Generation rests from an update until
    /// then: requests wait.
    ///
    /// # Errors
    /// [`TrainerError::NotThese`]: the weights have changed since that export. A trainer without a generator.
    ///
    /// # Cancel safety
    /// The name may have been given.
    pub async fn name_weights(&self, version: WeightVersion) -> Result<(), TrainerError> {
        self.ask(|reply| Command::NameWeights(version, reply)).await
    }

    /// The version that generation samples from; `None` between an update and [`Self::name_weights`].
    ///
    /// # Errors
    /// A trainer without a generator.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn generating_version(&self) -> Result<Option<WeightVersion>, TrainerError> {
        self.ask(Command::GeneratingVersion).await
    }

    /// The tree of `affinity` is finished: what only it has used may go from the prefix cache.
    ///
    /// # Errors
    /// The trainer has stopped.
    ///
    /// # Cancel safety
    /// The word may have been passed on.
    pub async fn release(&self, affinity: u64) -> Result<(), TrainerError> {
        // Nobody needs to wait until it has happened.
        let commands = self.commands.as_ref().ok_or(TrainerError::Stopped)?;
        commands.send(Command::Release(affinity)).await.map_err(|_| TrainerError::Stopped)
    }

    /// Drops the keys and values of prompts and paths that no request in flight stands on: the next one reads all of its own.
    ///
    /// # Errors
    /// A trainer without a generator.
    ///
    /// # Cancel safety
    /// They may have been dropped.
    pub async fn drop_cache(&self) -> Result<(), TrainerError> {
        self.ask(Command::DropCache).await
    }

    /// What generation has done since the last call.
    ///
    /// # Errors
    /// A trainer without a generator.
    ///
    /// # Cancel safety
    /// The counts of a call that was dropped are lost.
    pub async fn take_generator_report(&self) -> Result<GeneratorReport, TrainerError> {
        self.ask(Command::GeneratorReport).await
    }

    /// Writes the weights to `dir` in the Hugging Face layout, or the adapters in PEFT's, with `manifest.json`; visible only
    /// when complete.
    ///
    /// # Errors
    /// A failure to write; nothing is visible under `dir` then.
    ///
    /// # Cancel safety
    /// The export runs on.
    pub async fn export(&self, dir: &Path, version: WeightVersion) -> Result<WeightManifest, TrainerError> {
        let dir = dir.to_path_buf();
        self.ask(|reply| Command::Export(dir, version, reply)).await
    }

    /// As [`Self::export`], but adapters are added to the weights that they are on: a model like any other. It gives the
    /// weights no name.
    ///
    /// # Errors
    /// A failure to write; nothing is visible under `dir` then.
    ///
    /// # Cancel safety
    /// The export runs on.
    pub async fn export_merged(&self, dir: &Path, version: WeightVersion) -> Result<WeightManifest, TrainerError> {
        let dir = dir.to_path_buf();
        self.ask(|reply| Command::ExportMerged(dir, version, reply)).await
    }

    /// Writes masters, moments and update counter to the folder `dir`, for a later [`Trainer::load_checkpoint`]; visible
    /// only when complete.
    ///
    /// # Errors
    /// A failure to write; `dir` is as it was then.
    ///
    /// # Cancel safety
    /// The save runs on.
    pub async fn save_checkpoint(&self, dir: &Path, mark: CheckpointMark) -> Result<CheckpointInfo, TrainerError> {
        let dir = dir.to_path_buf();
        self.ask(|reply| Command::Save(dir, mark, reply)).await
    }

    /// Goes on from a checkpoint of the same model. Without loading: [`checkpoint::read_mark`].
    ///
    /// # Errors
    /// [`TrainerError::Checkpoint`] or [`TrainerError::Read`] for one that is not whole, [`TrainerError::Tensor`] for one
    /// of another model; nothing is changed then.
    ///
    /// # Cancel safety
    /// The load runs on.
    pub async fn load_checkpoint(&self, dir: &Path) -> Result<CheckpointMark, TrainerError> {
        let dir = dir.to_path_buf();
        self.ask(|reply| Command::Load(dir, reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, TrainerError> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(TrainerError::Stopped)?;
        commands.send(command(reply)).await.map_err(|_| TrainerError::Stopped)?;
        answer.await.unwrap_or(Err(TrainerError::Stopped))
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // The thread reports panics as errors and has no other way to fail.
            let _ = thread.join();
        }
    }
}
