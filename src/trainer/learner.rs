//! The trainer without its thread: model, optimizer and one training step, synchronous.
//!
//! Invariants: the loss denominator of a mini-batch is fixed before its first micro-batch; a mini-batch whose gradient
//! is not finite changes nothing; old logprobs are those of the weights at the start of the step.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::{Kind, Tensor};

use super::backprop::Body;
use super::checkpoint::{self, CheckpointMark};
use super::error::TrainerError;
use super::generate::forward::Policy;
use super::generate::{Generator, GeneratorSpec};
use super::logprob::{Head, Scored};
use super::loss::{Objective, TokenInputs};
use super::minibatch::{self, MiniBatch, Start};
use super::model::{Decoder, ModelConfig, Weights};
use super::optim::{AdamSettings, AdamW, StepOutcome};
use super::pack::PackedBatch;
use super::params::{Parameters, Use};
use super::report::{StepReport, UpdateReport};
use crate::config::{OldLogprobs, TrainConfig};
use crate::types::{TokenId, TrajectoryGroup};

/// What the trainer needs to know beside its own section of the configuration.
#[derive(Clone)]
pub struct TrainerSpec {
    /// `[train]`.
    pub config: TrainConfig,
    /// The model, in the Hugging Face layout.
    pub model_dir: PathBuf,
    /// Temperature at which the trajectories are sampled: logits are divided by it.
    pub temperature: f64,
    /// Largest number of sampled tokens of a trajectory, for the overlong penalty.
    pub response_budget_tokens: u32,
    /// What generation with these weights needs; `None`: they are generated with elsewhere.
    pub generator: Option<GeneratorSpec>,
    /// Whether the weights are trained at all: without, they take a fourth of the memory.
    pub purpose: Use,
}

/// Model, optimizer and settings.
pub struct Learner {
    spec: TrainerSpec,
    /// Shape of the model.
    pub model: ModelConfig,
    /// Its parameters.
    pub parameters: Parameters,
    /// Moments and counter.
    pub optimizer: AdamW,
    /// The model as a function of its parameters.
    pub decoder: Decoder,
    projection: Tensor,
    stop: Arc<AtomicBool>,
    /// The parameter that an update has made useless, until a checkpoint is loaded.
    diverged: Option<String>,
}

/// d loss / d logprob of the scored tokens in a range, from their logprobs.
pub(super) type Derivative<'a> = dyn FnMut(Range<usize>, &[f32]) -> Vec<f32> + 'a;

/// Sums over the micro-batches of one mini-batch.
#[derive(Clone, Debug, Default)]
pub struct PassSums {
    /// Loss.
    pub loss: f64,
    /// (trajectory, token) pairs whose clip was active.
    pub clipped_pairs: u64,
    /// Pairs bounded by the dual clip.
    pub dual_clipped_pairs: u64,
    /// Sum of the ratio over distinct tokens.
    pub ratio: f64,
    /// Distinct tokens.
    pub tokens: usize,
}

impl Learner {
    /// Loads the model. Sets the thread count of the calling thread first, so call it on the thread that will work.
    ///
    /// # Errors
    /// Settings that make no sense, no CUDA where it is demanded, a model that is not supported or not whole.
    pub fn load(spec: TrainerSpec) -> Result<Learner, TrainerError> {
        check(&spec)?;
        if spec.config.threads > 0 {
            tch::set_num_threads(i32::try_from(spec.config.threads).unwrap_or(i32::MAX));
        }
        let device = super::device::pick(spec.config.device)?;
        let model = ModelConfig::read(&spec.model_dir)?;
        let parameters = Parameters::load(&spec.model_dir, &model, spec.config.dtype, device, spec.purpose)?;
        let optimizer = match spec.purpose {
            Use::Training => AdamW::new(AdamSettings::from(&spec.config), &parameters),
            Use::Generation => AdamW::unused(AdamSettings::from(&spec.config)),
        };
        let work = parameters.work();
        let decoder = Decoder::new(&model, &Weights(&work));
        let projection = work[model.projection()].shallow_clone();
        Ok(Learner { spec, model, parameters, optimizer, decoder, projection, stop: Arc::default(), diverged: None })
    }

    /// Set to end a step early: checked between micro-batches.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The weights for generation: views of what is trained.
    pub fn policy(&self) -> Policy<'_> {
        Policy { decoder: &self.decoder, projection: &self.projection }
    }

    /// The sampler that [`TrainerSpec::generator`] describes.
    ///
    /// # Errors
    /// No threads for attention.
    pub fn generator(&self) -> Result<Option<Generator>, TrainerError> {
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        let spec = self.spec.generator.clone();
        spec.map(|spec| Generator::new(&self.model, self.policy(), spec, threads)).transpose()
    }

    /// What the learner was made from.
    pub fn spec(&self) -> &TrainerSpec {
        &self.spec
    }

    /// One training step on `groups`.
    ///
    /// # Errors
    /// A group that breaks its own rules (nothing is changed then); [`TrainerError::Stopped`];
    /// [`TrainerError::Diverged`].
    pub fn update(&mut self, groups: &[TrajectoryGroup]) -> Result<StepReport, TrainerError> {
        self.check_trained()?;
        let mut report = StepReport::default();
        let begin = Instant::now();
        let mini_batches = minibatch::prepare(groups, &self.spec, self.model.vocab_size as usize, &mut report)?;
        report.time.pack = begin.elapsed();

        // The first mini-batch meets the old weights anyway; the others need their logprobs before those change.
        let begin = Instant::now();
        let recompute = self.spec.config.old_logprobs == OldLogprobs::Recompute;
        let mut old: Vec<Option<Vec<Vec<f32>>>> = Vec::with_capacity(mini_batches.len());
        for (index, mini_batch) in mini_batches.iter().enumerate() {
            // The ancient logprobs of cached solutions are no old policy, whatever serves the other tokens.
            let later = index > 0 && (recompute || mini_batch.has_cached);
            old.push(if later { Some(self.logprobs_of(&mini_batch.batches)?) } else { None });
        }
        report.time.old_logprobs = begin.elapsed();

        let mut start = Start::default();
        for (index, (mini_batch, old)) in mini_batches.iter().zip(&old).enumerate() {
            let seen = match (old, index) {
                (Some(old), _) => {
                    for (batch, logprobs) in mini_batch.batches.iter().zip(old) {
                        start.add(batch, 0, logprobs);
                    }
                    None
                }
                (None, 0) => Some(&mut start),
                // The engine's logprobs serve as old ones, and the weights have moved: nothing to compare with.
                (None, _) => None,
            };
            let update = self.mini_batch(mini_batch, old.as_deref(), seen, &mut report)?;
            report.updates.push(update);
        }
        start.conclude(self.spec.config.cached_importance_cap, &mut report);
        Ok(report)
    }

    /// Logprobs of `tokens[1..]` given what precedes each, `[T - 1]`, in nats.
    ///
    /// # Errors
    /// [`TrainerError::Setting`] for a temperature that is not positive or a token outside the vocabulary.
    pub fn score(&self, tokens: &[TokenId], temperature: f64) -> Result<Vec<f32>, TrainerError> {
        if temperature <= 0.0 {
            let reason = "a distribution needs a positive temperature";
            return Err(TrainerError::Setting { key: "temperature", value: temperature.to_string(), reason });
        }
        if let Some(token) = tokens.iter().find(|&&t| i64::from(t) >= self.model.vocab_size) {
            let reason = "it is outside the vocabulary";
            return Err(TrainerError::Setting { key: "token", value: token.to_string(), reason });
        }
        if tokens.len() < 2 {
            return Ok(Vec::new());
        }
        Ok(self.logprobs(&PackedBatch::sequence(tokens), temperature))
    }

    /// Logits of every row, `[T, V]` in fp32: for comparison with other implementations on short sequences only.
    pub fn logits(&self, batch: &PackedBatch) -> Tensor {
        tch::no_grad(|| self.decoder.hidden(batch).mm(&self.projection.tr()).to_kind(Kind::Float))
    }

    /// Logprobs of the scored tokens of a batch, `[P]`, in nats.
    pub fn logprobs(&self, batch: &PackedBatch, temperature: f64) -> Vec<f32> {
        let scored = Scored::new(&batch.source_rows, &batch.targets, self.decoder.device());
        let head = Head { weight: &self.projection, temperature, chunk_rows: self.spec.config.vocab_chunk_tokens };
        head.logprobs(&self.decoder.hidden(batch), &scored)
    }

    /// Forward and backward pass of one micro-batch; adds to the gradients. `old_logprobs` `[P]` is the old policy of
    /// the ratio; `None` takes the current one. `observe` is shown the current logprobs, chunk by chunk.
    pub fn accumulate(
        &mut self,
        batch: &PackedBatch,
        objective: &Objective,
        old_logprobs: Option<&[f32]>,
        observe: &mut dyn FnMut(usize, &[f32]),
    ) -> PassSums {
        let mut sums = PassSums::default();
        let from_engine = self.spec.config.old_logprobs == OldLogprobs::Engine;
        self.backpropagate(batch, self.spec.temperature, &mut |range, logprobs| {
            observe(range.start, logprobs);
            let first = range.start;
            let slope = |(offset, &logprob): (usize, &f32)| {
                let index = first + offset;
                let engine = batch.engine_logprobs[index];
                let is_cached = batch.is_cached[index];
                let (old, importance_weight) = if from_engine && !is_cached {
                    (if engine.is_nan() { logprob } else { engine }, 1.0)
                } else {
                    let old = old_logprobs.map_or(logprob, |old| old[index]);
                    (old, objective.importance_weight(f64::from(old), f64::from(engine), is_cached))
                };
                let token = objective.token(TokenInputs {
                    logprob: f64::from(logprob),
                    old_logprob: f64::from(old),
                    importance_weight,
                    advantage_plus: batch.advantage_plus[index],
                    advantage_minus: batch.advantage_minus[index],
                });
                sums.add(batch, index, &token);
                token.gradient as f32
            };
            logprobs.iter().enumerate().map(slope).collect()
        });
        sums
    }

    /// Forward and backward pass of any loss over the scored tokens; adds to the gradients. `derivative(range, logprobs)`
    /// gives d loss / d logprob of the scored tokens in `range`, whose logits are divided by `temperature`.
    pub(super) fn backpropagate(&mut self, batch: &PackedBatch, temperature: f64, derivative: &mut Derivative<'_>) {
        let context = self.decoder.context(batch);
        let token_ids = self.decoder.index(&batch.tokens);
        let embedded = tch::no_grad(|| self.decoder.embed(&token_ids));
        let checkpoint = self.spec.config.checkpoint_activations;
        let body = Body::forward(&self.decoder, &embedded, &context, checkpoint);
        let scored = Scored::new(&batch.source_rows, &batch.targets, self.decoder.device());
        let head = Head { weight: &self.projection, temperature, chunk_rows: self.spec.config.vocab_chunk_tokens };
        let name = self.model.projection();
        let mut projection_grad = self.parameters.grad(name);
        let hidden_grad = head.backward(&body.hidden.detach(), &scored, &mut projection_grad, derivative);
        let embedded_grad = body.backward(&self.decoder, &hidden_grad, &context);
        self.parameters.fold_gradients();
        tch::no_grad(|| {
            let mut grad = self.parameters.grad("model.embed_tokens.weight");
            let _ = grad.index_add_(0, &token_ids, &embedded_grad.to_kind(Kind::Float));
        });
    }

    fn logprobs_of(&self, batches: &[PackedBatch]) -> Result<Vec<Vec<f32>>, TrainerError> {
        batches.iter().map(|batch| self.check_stop().map(|()| self.logprobs(batch, self.spec.temperature))).collect()
    }

    fn mini_batch(
        &mut self,
        mini_batch: &MiniBatch,
        old: Option<&[Vec<f32>]>,
        mut start: Option<&mut Start>,
        report: &mut StepReport,
    ) -> Result<UpdateReport, TrainerError> {
        let begin = Instant::now();
        let config = &self.spec.config;
        let objective = Objective {
            clip_low: config.clip_low,
            clip_high: config.clip_high,
            dual_clip: config.dual_clip,
            importance_cap: config.importance_cap,
            cached_importance_cap: config.cached_importance_cap,
            denominator: mini_batch.denominator,
        };
        self.parameters.zero_grad();
        let mut sums = PassSums::default();
        for (index, batch) in mini_batch.batches.iter().enumerate() {
            self.check_stop()?;
            let old = old.map(|old| old[index].as_slice());
            let mut observe = |first: usize, logprobs: &[f32]| {
                if let Some(start) = start.as_deref_mut() {
                    start.add(batch, first, logprobs);
                }
            };
            sums.merge(&self.accumulate(batch, &objective, old, &mut observe));
        }
        report.time.gradient += begin.elapsed();
        let begin = Instant::now();
        let outcome = self.optimize()?;
        report.time.optimizer += begin.elapsed();
        let pairs = mini_batch.pairs as f64;
        Ok(UpdateReport {
            loss: sums.loss,
            grad_norm: outcome.grad_norm,
            learning_rate: outcome.learning_rate,
            clip_frac: sums.clipped_pairs as f64 / pairs,
            dual_clip_frac: sums.dual_clipped_pairs as f64 / pairs,
            mean_ratio: sums.ratio / sums.tokens as f64,
            skipped: outcome.skipped,
        })
    }

    /// One optimizer step on the gradients as they are. What it has made useless is never exported: see
    /// [`Learner::check_trained`].
    pub(super) fn optimize(&mut self) -> Result<StepOutcome, TrainerError> {
        let outcome = self.optimizer.step(&mut self.parameters)?;
        self.parameters.publish();
        if outcome.skipped.is_none()
            && let Some(parameter) = self.parameters.first_diverged()
        {
            self.diverged = Some(parameter);
            self.check_trained()?;
        }
        Ok(outcome)
    }

    /// Whether the weights are those of a training and of use, so that updates and files of them make sense.
    ///
    /// # Errors
    /// [`TrainerError::Frozen`], [`TrainerError::Diverged`].
    pub fn check_trained(&self) -> Result<(), TrainerError> {
        match &self.diverged {
            _ if self.spec.purpose != Use::Training => Err(TrainerError::Frozen),
            None => Ok(()),
            Some(parameter) => Err(TrainerError::Diverged {
                parameter: parameter.clone(),
                update: self.optimizer.updates,
                learning_rate: self.optimizer.learning_rate(self.optimizer.updates),
            }),
        }
    }

    /// Goes on from the checkpoint in `dir`.
    ///
    /// # Errors
    /// What [`checkpoint::load`] says; nothing is changed then.
    pub fn load_checkpoint(&mut self, dir: &Path) -> Result<CheckpointMark, TrainerError> {
        if self.spec.purpose != Use::Training {
            return Err(TrainerError::Frozen);
        }
        let mark = checkpoint::load(&mut self.parameters, &mut self.optimizer, dir)?;
        self.diverged = None;
        Ok(mark)
    }

    pub(super) fn check_stop(&self) -> Result<(), TrainerError> {
        if self.stop.load(Ordering::Relaxed) { Err(TrainerError::Stopped) } else { Ok(()) }
    }
}

impl PassSums {
    fn add(&mut self, batch: &PackedBatch, index: usize, token: &super::loss::TokenLoss) {
        self.loss += token.loss;
        if token.is_clipped_high {
            self.clipped_pairs += u64::from(batch.plus_count[index]);
        }
        if token.is_clipped_low {
            self.clipped_pairs += u64::from(batch.minus_count[index]);
        }
        if token.is_dual_clipped {
            self.dual_clipped_pairs += u64::from(batch.minus_count[index]);
        }
        if batch.is_first_use[index] {
            self.ratio += token.ratio;
            self.tokens += 1;
        }
    }

    fn merge(&mut self, other: &PassSums) {
        self.loss += other.loss;
        self.clipped_pairs += other.clipped_pairs;
        self.dual_clipped_pairs += other.dual_clipped_pairs;
        self.ratio += other.ratio;
        self.tokens += other.tokens;
    }
}

fn check(spec: &TrainerSpec) -> Result<(), TrainerError> {
    let config = &spec.config;
    let wrong = |key, value: String, reason| Err(TrainerError::Setting { key, value, reason });
    if spec.temperature <= 0.0 || !spec.temperature.is_finite() {
        let reason = "the policy gradient needs samples drawn at a positive temperature";
        return wrong("search.temperature", spec.temperature.to_string(), reason);
    }
    for (key, value) in [
        ("train.minibatch_problems", config.minibatch_problems as usize),
        ("train.micro_batch_tokens", config.micro_batch_tokens),
        ("train.vocab_chunk_tokens", config.vocab_chunk_tokens),
    ] {
        if value == 0 {
            return wrong(key, value.to_string(), "it must be at least 1");
        }
    }
    if config.cached_importance_cap.is_nan() || config.cached_importance_cap <= 0.0 {
        let reason = "older weights sampled what it bounds, so it must be above 0";
        return wrong("train.cached_importance_cap", config.cached_importance_cap.to_string(), reason);
    }
    if config.learning_rate.is_nan() || config.learning_rate < 0.0 {
        return wrong("train.learning_rate", config.learning_rate.to_string(), "it must not be negative");
    }
    Ok(())
}
