//! What can go wrong in the trainer.

use std::path::{Path, PathBuf};

use super::generate::forward::ForwardError;
use crate::error::{FailureClass, Hint};
use crate::types::{ProblemId, WeightVersion};

/// Failure of a trainer call.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file of the model is not what it should be.
    #[error("`{}` is malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model is well-formed and of a kind that is not implemented.
    #[error("`{}` describes a model that is not supported: {reason}", path.display())]
    Unsupported {
        /// Its config.json.
        path: PathBuf,
        /// The setting and its value.
        reason: String,
    },
    /// A tensor is missing, truncated, or of the wrong shape or type.
    #[error("tensor `{tensor}` in `{}`: {reason}", path.display())]
    Tensor {
        /// The safetensors file, or the folder where no file holds the tensor.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A group of trajectories breaks its own rules.
    #[error("the group of problem {problem} cannot be trained on: {reason}")]
    Group {
        /// The problem.
        problem: ProblemId,
        /// The rule that does not hold.
        reason: String,
    },
    /// A setting makes no sense to the trainer.
    #[error("`{key}` = `{value}` is not possible: {reason}")]
    Setting {
        /// Key in the configuration.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// A request for continuations that makes no sense or does not fit.
    #[error("the request cannot be met: {reason}")]
    Request {
        /// What is wrong with it.
        reason: String,
    },
    /// A request whose keys and values alone exceed the memory for them.
    #[error("a request needs {need_bytes} bytes for keys and values, and {bound_bytes} are allowed")]
    CacheTooSmall {
        /// What it needs at most.
        need_bytes: u64,
        /// The bound.
        bound_bytes: u64,
    },
    /// The policy gives no distribution over tokens.
    #[error("the logits of weight version {version} are not finite")]
    NotFinite {
        /// The weights.
        version: WeightVersion,
    },
    /// Rows did not come through the decoder.
    #[error("generation failed")]
    Forward(#[from] ForwardError),
    /// The trainer was started without what generation needs.
    #[error("this trainer does not generate")]
    NoGenerator,
    /// A name for weights that are not those it was given to.
    #[error("weight version {version} is not what the trainer holds: {}", match exported {
        Some(exported) => format!("that is version {exported}"),
        None => "that has not been exported since it changed".to_owned(),
    })]
    NotThese {
        /// The name.
        version: WeightVersion,
        /// What the weights were last exported as.
        exported: Option<WeightVersion>,
    },
    /// An update has made the weights useless; they are not exported.
    #[error(
        "training has diverged: update {update} with learning rate {learning_rate:e} left no finite norm of `{parameter}`"
    )]
    Diverged {
        /// The first such parameter.
        parameter: String,
        /// Number of the update.
        update: u64,
        /// Its learning rate.
        learning_rate: f64,
    },
    /// A checkpoint is torn or corrupt.
    #[error("`{}` is not a whole checkpoint: {reason}", path.display())]
    Checkpoint {
        /// The file that is not as it was written.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An update or a file was asked of weights that were loaded for generation only.
    #[error("these weights were loaded for generation only")]
    Frozen,
    /// `device = "cuda"` on a machine without a usable GPU.
    #[error("`train.device` is `cuda`, and libtorch sees no CUDA device")]
    NoCuda,
    /// Training does not fit the memory, whatever the token budget.
    #[error(
        "training takes about {} MiB even with {least_tokens} tokens at a time, and {} MiB are there ({} MiB are weights, \
         gradients and moments)",
        need_bytes.div_ceil(1 << 20), limit_bytes >> 20, lasting_bytes.div_ceil(1 << 20)
    )]
    TooLarge {
        /// What it takes at the least.
        need_bytes: u64,
        /// What there is.
        limit_bytes: u64,
        /// The part of it that does not depend on the budget.
        lasting_bytes: u64,
        /// The smallest budget that was tried.
        least_tokens: usize,
        /// Whether `train.checkpoint_activations` is on already.
        is_checkpointed: bool,
    },
    /// A trajectory for which memory would run out, and on a processor the system would end the process.
    #[error("a trajectory of {tokens} tokens does not fit in memory: {fits_tokens} do")]
    TooLong {
        /// Its prompt and response.
        tokens: usize,
        /// The most that fit.
        fits_tokens: usize,
    },
    /// Memory ran out in the smallest micro-batch that a step can be divided into.
    #[error("memory ran out with {budget_tokens} tokens at a time, the longest trajectory: {message}")]
    OutOfMemory {
        /// Rows of the micro-batch.
        budget_tokens: usize,
        /// First line of libtorch's message.
        message: String,
    },
    /// libtorch refused an operation.
    #[error("libtorch failed in {operation}: {message}")]
    Torch {
        /// What was being done.
        operation: &'static str,
        /// First line of its message.
        message: String,
    },
    /// The trainer thread panicked, which is how libtorch reports most failures; its state is in doubt and it ended.
    #[error("the trainer failed in {operation} and has stopped: {message}")]
    Panicked {
        /// What was being done.
        operation: &'static str,
        /// First line of the panic message.
        message: String,
    },
    /// The trainer thread is gone, or was told to stop before the work was done.
    #[error("the trainer has stopped")]
    Stopped,
}

impl TrainerError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> TrainerError + use<'_> {
        move |source| TrainerError::Read { path: path.to_path_buf(), source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> TrainerError + use<'_> {
        move |source| TrainerError::Write { path: path.to_path_buf(), source }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> TrainerError {
        TrainerError::Malformed { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl Into<String>) -> TrainerError {
        TrainerError::Checkpoint { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, reason: impl Into<String>) -> TrainerError {
        TrainerError::Tensor { path: path.to_path_buf(), tensor: tensor.to_owned(), reason: reason.into() }
    }

    pub(crate) fn torch(operation: &'static str) -> impl FnOnce(tch::TchError) -> TrainerError {
        move |error| TrainerError::Torch { operation, message: first_line(&error.to_string()) }
    }
}

/// libtorch appends some 25 lines of C++ trace to a message of one line.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Hint for TrainerError {
    fn class(&self) -> FailureClass {
        match self {
            TrainerError::Malformed { .. }
            | TrainerError::Unsupported { .. }
            | TrainerError::Tensor { .. }
            | TrainerError::Setting { .. }
            | TrainerError::Request { .. }
            | TrainerError::CacheTooSmall { .. }
            | TrainerError::Diverged { .. }
            | TrainerError::NoCuda => FailureClass::User,
            TrainerError::Forward(error) => error.class(),
            TrainerError::NotFinite { .. }
            | TrainerError::Read { .. }
            | TrainerError::Write { .. }
            | TrainerError::Checkpoint { .. }
            | TrainerError::TooLarge { .. }
            | TrainerError::TooLong { .. }
            | TrainerError::OutOfMemory { .. }
            | TrainerError::Torch { .. } => FailureClass::Environment,
            TrainerError::Group { .. }
            | TrainerError::NoGenerator
            | TrainerError::NotThese { .. }
            | TrainerError::Frozen
            | TrainerError::Panicked { .. }
            | TrainerError::Stopped => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            TrainerError::Tensor { .. } | TrainerError::Malformed { .. } => {
                Some("the copy of the model may be incomplete; fetch or convert it again".into())
            }
            TrainerError::Unsupported { .. } => {
                Some("supported are Llama, Qwen2 and Qwen3 decoders with full attention, not quantized".into())
            }
            TrainerError::CacheTooSmall { need_bytes, .. } => {
                let mib = need_bytes.div_ceil(1 << 20);
                Some(format!("allow {mib} MiB or more: `inference.cache_mib`, or `--cache-mib` of `generate`"))
            }
            TrainerError::NotFinite { .. } => Some(
                "if it was trained just now it has diverged: lower `train.learning_rate` or `train.max_grad_norm`"
                    .into(),
            ),
            TrainerError::Diverged { .. } => Some(
                "begin again with a lower `train.learning_rate` (`sft`: `--learning-rate`) or a longer warm-up".into(),
            ),
            TrainerError::Checkpoint { .. } => Some("go on from the checkpoint before it".into()),
            TrainerError::TooLong { .. } | TrainerError::OutOfMemory { .. } => Some(
                "set `train.checkpoint_activations`, lower `train.vocab_chunk_tokens`, or free \
                 memory"
                    .into(),
            ),
            TrainerError::TooLarge { need_bytes, limit_bytes, is_checkpointed, .. } => {
                let missing_mib = need_bytes.saturating_sub(*limit_bytes).div_ceil(1 << 20);
                let checkpoint = if *is_checkpointed { "" } else { "set `train.checkpoint_activations`, " };
                Some(format!(
                    "{missing_mib} MiB are missing: {checkpoint}lower `train.vocab_chunk_tokens`, take a smaller model, or \
                     free memory; `train.memory_limit_mib` sets a limit of your own"
                ))
            }
            TrainerError::NoCuda => Some("set `train.device` to `cpu` or `auto`, or check the NVIDIA driver".into()),
            TrainerError::Panicked { message, .. } if message.contains("out of memory") => {
                Some("lower `train.micro_batch_tokens` or set `train.checkpoint_activations`".into())
            }
            _ => None,
        }
    }
}
