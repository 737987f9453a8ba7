//! Supervised warm start: worked examples in, a model in the Hugging Face layout out.
//!
//! Problems are posed exactly as a run poses them, so what is learnt here is what a run with the same `[prompt]` samples.
//! Order: everything that can be refused is refused before the first step. The order of the examples depends on the seed
//! and the epoch alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, PromptConfig, TrainConfig};
use crate::data::draw::shuffle;
use crate::data::{DataError, ModelTokenizer, Prompter, answer_tokens, load_examples};
use crate::error::{FailureClass, Hint};
use crate::rng::{Purpose, stream};
use crate::trainer::{Neighbor, SupervisedBatch, TokenExample, Trainer, TrainerError, TrainerSpec, Use};
use crate::types::WeightVersion;

/// What to learn from what.
#[derive(Clone, Debug)]
pub struct SuperviseSpec {
    /// The model to start from, in the Hugging Face layout.
    pub model: PathBuf,
    /// JSON lines with `problem` and `solution`.
    pub data: PathBuf,
    /// Folder to write; not there, or empty.
    pub out: PathBuf,
    /// How problems are posed, and what ends an answer.
    pub prompt: PromptConfig,
    /// Optimizer and computation.
    pub train: TrainConfig,
    /// Passes over the examples, at least 1.
    pub epochs: u32,
    /// Examples per optimizer step, at least 1.
    pub batch_examples: usize,
    /// Whether the learning rate falls linearly to 0 at the end.
    pub decay: bool,
    /// Seed of the order.
    pub seed: u64,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochReport {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Examples seen in it.
    pub examples: usize,
    /// Mean negative logprob of their response tokens, each before the update that learnt from it, in nats.
    pub loss_nats: f64,
    /// Response tokens among them.
    pub response_tokens: usize,
    /// Rows computed, prompts included.
    pub packed_tokens: usize,
    /// Updates left out since a gradient was not finite.
    pub updates_skipped: usize,
    /// Wall time since the epoch began.
    pub elapsed: Duration,
}

/// Failure of a supervised warm start.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The folder to write holds something.
    #[error("`{}` is not empty", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// An example does not fit the model's context.
    #[error(
        "line {line} of `{}` has {prompt_tokens} tokens of problem and {response_tokens} of solution, the model's context has {context_tokens}",
        file.display()
    )]
    TooLong {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// Tokens of the posed problem.
        prompt_tokens: usize,
        /// Tokens of the solution with its end.
        response_tokens: usize,
        /// Most tokens of both.
        context_tokens: usize,
    },
    /// The examples or the text side of the model.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The trainer.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
}

impl Hint for SuperviseError {
    fn class(&self) -> FailureClass {
        match self {
            SuperviseError::NotEmpty { .. } | SuperviseError::TooLong { .. } => FailureClass::User,
            SuperviseError::Data(error) => error.class(),
            SuperviseError::Trainer(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SuperviseError::NotEmpty { .. } => Some("name a folder that is not there yet".to_owned()),
            SuperviseError::TooLong { .. } => Some("shorten the example or leave it out".to_owned()),
            SuperviseError::Data(error) => error.hint(),
            SuperviseError::Trainer(error) => error.hint(),
        }
    }
}

/// Learns and writes the model; `observe` sees every update, with the sums of its epoch so far, and whether the epoch is
/// over.
///
/// # Errors
/// What is refused before the first step, or the trainer's failure; nothing is visible under `out` then.
///
/// # Cancel safety
/// Dropping the future ends the work between two micro-batches; nothing is written.
pub async fn supervise(spec: &SuperviseSpec, mut observe: impl FnMut(EpochReport, bool)) -> Result<(), SuperviseError> {
    if std::fs::read_dir(&spec.out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(SuperviseError::NotEmpty { dir: spec.out.clone() });
    }
    let examples = read(spec)?;
    let trainer = Trainer::spawn(TrainerSpec {
        config: spec.train.clone(),
        model_dir: spec.model.clone(),
        // Only sampled trajectories know these two.
        temperature: 1.0,
        response_budget_tokens: u32::MAX,
        generator: None,
        purpose: Use::Training,
        seed: spec.seed,
        neighbor: Neighbor::None,
    })
    .await?;
    let batch_examples = spec.batch_examples.max(1);
    let all_updates = examples.len().div_ceil(batch_examples) * spec.epochs as usize;
    let mut updates = 0;
    for epoch in 1..=spec.epochs {
        let mut order: Vec<usize> = (0..examples.len()).collect();
        shuffle(&mut stream(spec.seed, Purpose::Supervised, &[u64::from(epoch)]), &mut order);
        let mut sums = Sums { begin: Instant::now(), report: EpochReport::new(epoch), neg_logprob_nats: 0.0 };
        for chunk in order.chunks(batch_examples) {
            let left_frac = (all_updates - updates) as f64 / all_updates as f64;
            let learning_rate_frac = if spec.decay { left_frac } else { 1.0 };
            let chosen = chunk.iter().map(|&index| examples[index].clone()).collect();
            let report = trainer.supervise(SupervisedBatch { examples: chosen, learning_rate_frac }).await?;
            updates += 1;
            sums.report.updates_skipped += usize::from(report.skipped.is_some());
            sums.report.examples += chunk.len();
            sums.report.response_tokens += report.response_tokens;
            sums.report.packed_tokens += report.packed_tokens;
            sums.neg_logprob_nats += report.loss_nats * report.response_tokens as f64;
            observe(sums.so_far(), sums.report.examples == examples.len());
        }
    }
    // The next stage begins with a whole model, also where adapters learnt.
    trainer.export_merged(&spec.out, WeightVersion::INITIAL).await?;
    Ok(())
}

struct Sums {
    begin: Instant,
    report: EpochReport,
    neg_logprob_nats: f64,
}

impl Sums {
    fn so_far(&self) -> EpochReport {
        let loss_nats = self.neg_logprob_nats / self.report.response_tokens as f64;
        EpochReport { loss_nats, elapsed: self.begin.elapsed(), ..self.report }
    }
}

impl EpochReport {
    fn new(epoch: u32) -> EpochReport {
        EpochReport {
            epoch,
            examples: 0,
            loss_nats: f64::NAN,
            response_tokens: 0,
            packed_tokens: 0,
            updates_skipped: 0,
            elapsed: Duration::ZERO,
        }
    }
}

/// The examples as token ids, every one of them within the model's context.
fn read(spec: &SuperviseSpec) -> Result<Vec<TokenExample>, SuperviseError> {
    let examples = load_examples(&spec.data)?;
    let tokenizer = Arc::new(ModelTokenizer::load(&spec.model)?);
    let prompter = Prompter::new(&spec.prompt, tokenizer.clone())?;
    let context_tokens = tokenizer.context_tokens().unwrap_or(usize::MAX);
    let end = spec.prompt.stop.first().map(String::as_str);
    let mut read = Vec::with_capacity(examples.len());
    for example in examples {
        let prompt = prompter.pose(&example.problem)?.prompt;
        let response = answer_tokens(&tokenizer, &prompt, spec.prompt.kind, &example.solution, end)?;
        let (prompt_tokens, response_tokens) = (prompt.tokens.len(), response.len());
        if prompt_tokens + response_tokens > context_tokens {
            let (file, line) = (spec.data.clone(), example.line);
            return Err(SuperviseError::TooLong { file, line, prompt_tokens, response_tokens, context_tokens });
        }
        read.push(TokenExample { prompt: prompt.tokens.to_vec(), response });
    }
    Ok(read)
}

impl SuperviseSpec {
    /// With `[prompt]` and `[train]` of a configuration.
    pub fn new(config: Config, model: &Path, data: &Path, out: &Path) -> SuperviseSpec {
        SuperviseSpec {
            model: model.to_path_buf(),
            data: data.to_path_buf(),
            out: out.to_path_buf(),
            prompt: config.prompt,
            train: config.train,
            epochs: 1,
            batch_examples: 32,
            decay: true,
            seed: 1,
        }
    }
}
