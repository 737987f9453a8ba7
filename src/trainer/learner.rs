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
use super::free_memory::{self, Neighbor};
use super::generate::forward::Policy;
use super::generate::{Generator, GeneratorSpec};
use super::logprob::{Head, Scored, part, to_vec, upload};
use super::lora::AdapterSpec;
use super::loss::Objective;
use super::memory::{Plan, Workload};
use super::minibatch::{self, MiniBatch, Start};
use super::model::{Decoder, ModelConfig, Weights};
use super::objective::TokenTable;
use super::optim::{AdamSettings, AdamW, StepOutcome};
use super::pack::PackedBatch;
use super::params::{Parameters, Placement, Use};
use super::report::{StepReport, UpdateReport};
use super::retry::Sizes;
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
    /// Seed of the run, for the initial weights of adapters.
    pub seed: u64,
    /// Who else takes memory of the GPU.
    pub neighbor: Neighbor,
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
    /// How much of the memory was planned for; `None` where nothing is trained.
    plan: Option<Plan>,
    /// Most rows of a micro-batch: as planned, and less once memory has run out.
    pub(super) budget_tokens: usize,
}

/// d loss / d logprob of the scored tokens in a range, from their logprobs; both in fp32 on the device.
pub(super) type Derivative<'a> = dyn FnMut(Range<usize>, &Tensor) -> Tensor + 'a;

/// What the pass over one micro-batch leaves on the device beside the gradients.
struct Pass {
    /// Loss, clipped pairs, pairs bounded by the dual clip and ratio, `[4]` in f64.
    sums: Tensor,
    /// Logprobs of the scored tokens, `[P]`.
    logprobs: Tensor,
}

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
        let plan = match spec.purpose {
            Use::Training => Some(plan(&spec, &model, device)?),
            Use::Generation => None,
        };
        let budget_tokens = plan.as_ref().map_or(spec.config.micro_batch_tokens, |plan| plan.budget_tokens);
        let adapters = AdapterSpec::of(&spec).map(|spec| spec.checked()).transpose()?;
        let dir = &spec.model_dir;
        // On a processor host and device are one.
        let is_offloaded = spec.config.offload_optimizer && device.is_cuda() && spec.purpose == Use::Training;
        let placement = Placement { dtype: spec.config.dtype, device, is_offloaded };
        let parameters = match adapters {
            Some(adapters) => Parameters::load_adapted(dir, &model, placement, adapters)?,
            None => Parameters::load(dir, &model, placement, spec.purpose)?,
        };
        let optimizer = match spec.purpose {
            Use::Training => AdamW::new(AdamSettings::from(&spec.config), &parameters),
            Use::Generation => AdamW::unused(AdamSettings::from(&spec.config)),
        };
        let work = parameters.work();
        let decoder = Decoder::new(&model, &Weights { tensors: &work, adapter_scale: parameters.adapter_scale() });
        let projection = work[model.projection()].shallow_clone();
        let stop = Arc::default();
        let diverged = None;
        Ok(Learner { spec, model, parameters, optimizer, decoder, projection, stop, diverged, plan, budget_tokens })
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

    /// The token budget that was planned when it was loaded; `None` where nothing is trained.
    pub fn memory_plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
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
        let vocab_size = self.model.vocab_size as usize;
        let mut mini_batches = minibatch::prepare(groups, &self.spec, self.budget_tokens, vocab_size, &mut report)?;
        let longest_tokens = mini_batches.iter().map(MiniBatch::longest_tokens).max().unwrap_or(0);
        self.check_longest(longest_tokens)?;
        report.time.pack = begin.elapsed();

        // The first mini-batch meets the old weights anyway; the others need their logprobs before those change.
        let begin = Instant::now();
        let old = loop {
            let largest_tokens = mini_batches.iter().map(MiniBatch::largest_tokens).max().unwrap_or(0);
            let sizes = Sizes { longest_tokens, largest_tokens };
            if let Some(old) = self.attempt(sizes, |learner| learner.old_logprobs(&mini_batches))? {
                break old;
            }
            report.out_of_memory += 1;
            for mini_batch in &mut mini_batches {
                mini_batch.repack(self.budget_tokens);
            }
        };
        report.time.old_logprobs = begin.elapsed();

        let mut start = Start::default();
        for (index, (mini_batch, mut old)) in mini_batches.iter_mut().zip(old).enumerate() {
            if let Some(old) = &old {
                start.add_all(&mini_batch.batches, old);
            }
            let begin = Instant::now();
            let passes = loop {
                if let Some(places) = mini_batch.repack(self.budget_tokens) {
                    old = old.map(|old| rearrange(&old, &places, &mini_batch.batches));
                }
                let sizes = Sizes { longest_tokens, largest_tokens: mini_batch.largest_tokens() };
                if let Some(passes) = self.attempt(sizes, |learner| learner.gradients(mini_batch, old.as_deref()))? {
                    break passes;
                }
                report.out_of_memory += 1;
            };
            // The engine's logprobs may serve as old ones; later mini-batches then have no logprobs of the start.
            if index == 0 && old.is_none() {
                let logprobs: Vec<_> = passes.iter().map(|pass| pass.logprobs.shallow_clone()).collect();
                start.add_all(&mini_batch.batches, &logprobs);
            }
            let sums = PassSums::read(&passes, &mini_batch.batches);
            report.time.gradient += begin.elapsed();
            report.packed_tokens += mini_batch.batches.iter().map(PackedBatch::len).sum::<usize>();
            let update = self.apply(mini_batch, &sums, &mut report)?;
            report.updates.push(update);
        }
        report.budget_tokens = self.budget_tokens;
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
        to_vec(&self.logprobs_on_device(batch, temperature))
    }

    fn logprobs_on_device(&self, batch: &PackedBatch, temperature: f64) -> Tensor {
        let scored = Scored::new(&batch.source_rows, &batch.targets, self.decoder.device());
        let head = Head { weight: &self.projection, temperature, chunk_rows: self.spec.config.vocab_chunk_tokens };
        head.logprobs_on_device(&self.decoder.hidden(batch), &scored)
    }

    /// Forward and backward pass of one micro-batch; adds to the gradients. `old_logprobs` `[P]` is the old policy of
    /// the ratio; `None` takes the current one.
    pub fn accumulate(&mut self, batch: &PackedBatch, objective: &Objective, old_logprobs: Option<&[f32]>) -> PassSums {
        let old = old_logprobs.map(|old| upload(Tensor::from_slice(old), self.decoder.device()));
        let pass = self.pass(batch, objective, old.as_ref());
        PassSums::read(&[pass], std::slice::from_ref(batch))
    }

    /// [`Self::accumulate`] without waiting for the device.
    fn pass(&mut self, batch: &PackedBatch, objective: &Objective, old: Option<&Tensor>) -> Pass {
        let device = self.decoder.device();
        let is_engine_old = self.spec.config.old_logprobs == OldLogprobs::Engine;
        let table = TokenTable::new(batch, objective, is_engine_old, device);
        let mut sums = Tensor::zeros([4], (Kind::Double, device));
        let all = Tensor::zeros([batch.targets.len() as i64], (Kind::Float, device));
        self.backpropagate(batch, self.spec.temperature, &mut |range, logprobs| {
            part(&all, &range).copy_(logprobs);
            let old = old.map(|old| part(old, &range));
            let (slopes, share) = table.evaluate(objective, &range, logprobs, old.as_ref());
            sums += share;
            slopes.to_kind(Kind::Float)
        });
        Pass { sums, logprobs: all }
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
            // Undefined: frozen.
            if grad.defined() {
                let _ = grad.index_add_(0, &token_ids, &embedded_grad.to_kind(Kind::Float));
            }
        });
    }

    /// Logprobs of each mini-batch's micro-batches under the weights as they are, on the device; `None` for one that is
    /// not asked for them.
    fn old_logprobs(&self, mini_batches: &[MiniBatch]) -> Result<Vec<Option<Vec<Tensor>>>, TrainerError> {
        let recompute = self.spec.config.old_logprobs == OldLogprobs::Recompute;
        let of_batch =
            |batch: &PackedBatch| self.check_stop().map(|()| self.logprobs_on_device(batch, self.spec.temperature));
        let of_mini_batch = |(index, mini_batch): (usize, &MiniBatch)| {
            // The ancient logprobs of cached solutions are no old policy, whatever serves the other tokens.
            let is_later = index > 0 && (recompute || mini_batch.has_cached);
            is_later.then(|| mini_batch.batches.iter().map(of_batch).collect()).transpose()
        };
        mini_batches.iter().enumerate().map(of_mini_batch).collect()
    }

    /// The gradient of a mini-batch, from zero.
    fn gradients(&mut self, mini_batch: &MiniBatch, old: Option<&[Tensor]>) -> Result<Vec<Pass>, TrainerError> {
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
        let mut passes = Vec::with_capacity(mini_batch.batches.len());
        for (index, batch) in mini_batch.batches.iter().enumerate() {
            self.check_stop()?;
            passes.push(self.pass(batch, &objective, old.map(|old| &old[index])));
        }
        Ok(passes)
    }

    /// One optimizer step on the gradient of `mini_batch`.
    fn apply(
        &mut self,
        mini_batch: &MiniBatch,
        sums: &PassSums,
        report: &mut StepReport,
    ) -> Result<UpdateReport, TrainerError> {
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

    /// Whether the longest trajectory of a step fits in memory.
    pub(super) fn check_longest(&self, tokens: usize) -> Result<(), TrainerError> {
        self.plan.as_ref().map_or(Ok(()), |plan| plan.check_longest(tokens))
    }

    pub(super) fn check_stop(&self) -> Result<(), TrainerError> {
        if self.stop.load(Ordering::Relaxed) { Err(TrainerError::Stopped) } else { Ok(()) }
    }
}

impl PassSums {
    /// The sums over the passes of `batches`: the one time that the host waits for the device.
    fn read(passes: &[Pass], batches: &[PackedBatch]) -> PassSums {
        let of_passes: Vec<&Tensor> = passes.iter().map(|pass| &pass.sums).collect();
        let mut sums = [0.0; 4];
        if !of_passes.is_empty() {
            let total = Tensor::stack(&of_passes, 0).sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
            total.to_device(tch::Device::Cpu).copy_data(&mut sums, 4);
        }
        let [loss, clipped, dual_clipped, ratio] = sums;
        let tokens = batches.iter().flat_map(|batch| &batch.is_first_use).filter(|&&is_first| is_first).count();
        PassSums { loss, clipped_pairs: clipped as u64, dual_clipped_pairs: dual_clipped as u64, ratio, tokens }
    }
}

/// Logprobs of one packing in the order of another: `places` as [`MiniBatch::repack`] gives them for `batches`.
fn rearrange(old: &[Tensor], places: &[i64], batches: &[PackedBatch]) -> Vec<Tensor> {
    let all = Tensor::cat(old, 0);
    let moved = all.index_select(0, &upload(Tensor::from_slice(places), all.device()));
    let lengths: Vec<i64> = batches.iter().map(|batch| batch.targets.len() as i64).collect();
    moved.split_with_sizes(lengths.as_slice(), 0)
}

/// The token budget that fits the memory, and one line that says so.
fn plan(spec: &TrainerSpec, model: &ModelConfig, device: tch::Device) -> Result<Plan, TrainerError> {
    let config = &spec.config;
    let cache_bytes = spec.generator.as_ref().map_or(0, |generator| generator.cache_bytes);
    let adapters = AdapterSpec::of(spec).map(AdapterSpec::checked).transpose()?;
    let workload = Workload { adapters, ..Workload::new(model, config, !device.is_cuda(), cache_bytes) };
    let limit_bytes = match config.memory_limit_mib {
        0 => free_memory::for_training(device, spec.neighbor),
        mib => Some(mib.saturating_mul(1 << 20)),
    };
    // Examples of supervised training have no bound; what is too long for the budget is found out by trying.
    let longest_tokens = if spec.response_budget_tokens == u32::MAX { 0 } else { spec.response_budget_tokens };
    let mut plan = workload.plan(limit_bytes, longest_tokens as usize)?;
    if device.is_cuda() && config.memory_limit_mib == 0 {
        // CUDA's allocator says when there is no more, which is surer than a prediction. On a processor the system ends
        // the process instead.
        plan.fits_tokens = None;
    }
    let (budget_tokens, peak_bytes) = (plan.budget_tokens, plan.peak_bytes);
    tracing::info!(budget_tokens, peak_bytes, limit_bytes, "memory of training is planned");
    Ok(plan)
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
