//! How fast the trainer is: a few updates on the same trees, with what they took. How fast the search is: [`rollout`].
//!
//! The first step warms up and is not measured; its loss and the norm of its gradient are those of the model as it was
//! loaded, which another program can be compared with. Every step trains on the same groups again, so the figures say
//! nothing of learning. Rates are of the median step.

mod batch;
mod error;
mod file;
mod flops;
mod machine;
pub mod rollout;
mod shape;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::{ComputeDtype, Config};
use crate::run::engine::trainer_spec;
use crate::trainer::model::ModelConfig;
use crate::trainer::{StepReport, Trainer};
use crate::types::{TrajectoryGroup, WeightVersion};

pub use batch::TreeSource;
pub use error::BenchError;
pub use flops::{Extent, matmul_parameters};
pub use shape::TreeShape;

use batch::Weighed;
use flops::{parameters, path_tokens};

/// What to measure.
#[derive(Clone, Debug)]
pub struct TrainBenchSpec {
    /// The model (`run.model`), `[train]`, and the temperature and response budget of `[search]`.
    pub config: Config,
    /// Trees to train on.
    pub source: TreeSource,
    /// Use only the first so many of those that are stored.
    pub limit: Option<usize>,
    /// Whether trajectories of one tree share what they have in common; without, each is a sequence of its own.
    pub sharing: bool,
    /// Steps that are measured, at least 1.
    pub steps: u32,
    /// Optimizer steps in each, at least 1: `train.minibatch_problems` is set to what that takes.
    pub updates: u32,
    /// Where to write the groups with their advantages.
    pub export_batch: Option<PathBuf>,
    /// Where to write the weights in the end, to time it.
    pub export_weights: Option<PathBuf>,
    /// Operations per second that the device can do at most, where it is not known by its name.
    pub peak_flops: Option<f64>,
}

/// What was measured. The names are those of the JSON line and stay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainBench {
    /// `train`.
    pub bench: &'static str,
    /// The model's folder.
    pub model: String,
    /// Its parameters.
    pub parameter_count: u64,
    /// Of these, those in matrix products, the vocabulary projection among them: N of the formula.
    pub matmul_parameter_count: u64,
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// The processor's or GPU's own name.
    pub device_name: Option<String>,
    /// Element type of forward and backward pass.
    pub dtype: ComputeDtype,
    /// Compute threads; null: libtorch's choice.
    pub thread_count: Option<u32>,
    /// Whether activations are computed twice to save memory.
    pub checkpoint_activations: bool,
    /// Most rows of one forward pass: `train.micro_batch_tokens`, or less where that did not fit the memory.
    pub micro_batch_tokens: usize,
    /// Rank of the low-rank adapters that were trained; null: all weights were.
    pub adapter_rank: Option<u32>,
    /// Whether trajectories share what they have in common.
    pub sharing: bool,
    /// Trees, or sequences without sharing.
    pub group_count: usize,
    /// Trajectories.
    pub trajectory_count: usize,
    /// Tokens of the longest, prompt included.
    pub longest_trajectory_tokens: u64,
    /// Tokens of all trajectories, prompts included: what separate sequences would take.
    pub trained_tokens: u64,
    /// Tokens that differ: each of a tree once.
    pub unique_tokens: u64,
    /// Rows of forward passes: more than unique ones where a tree did not fit a micro-batch.
    pub computed_tokens: u64,
    /// Pairs of a token and one that it sees, itself included.
    pub visible_pairs: u64,
    /// Optimizer steps in one step.
    pub updates_per_step: usize,
    /// Time of each measured step.
    pub step_s: Vec<f64>,
    /// The median of them, which the rates are of.
    pub median_step_s: f64,
    /// Processor time of all threads in each measured step, least first: what can be compared where others use the machine.
    pub step_processor_s: Vec<f64>,
    /// The median of them; null where the system does not say.
    pub median_step_processor_s: Option<f64>,
    /// Of the median step: advantages and packing.
    pub pack_s: f64,
    /// Logprobs of later mini-batches under the weights at the start.
    pub old_logprobs_s: f64,
    /// Forward and backward passes.
    pub gradient_s: f64,
    /// Clipping and AdamW.
    pub optimizer_s: f64,
    /// Trained tokens over time.
    pub trained_tokens_per_s: f64,
    /// Unique tokens over time.
    pub unique_tokens_per_s: f64,
    /// Operations of the model in one step: 6 N per unique token (4 N where weights are frozen under adapters, whose own
    /// operations are not counted) and attention over the visible pairs.
    pub model_flops: f64,
    /// The same over time.
    pub model_flops_per_s: f64,
    /// What the device can do at most; null where that is not known.
    pub peak_flops_per_s: Option<f64>,
    /// The quotient: model FLOP utilisation.
    pub mfu_frac: Option<f64>,
    /// Memory of the process before the first step.
    pub loaded_resident_bytes: Option<u64>,
    /// The most it ever had.
    pub peak_resident_bytes: Option<u64>,
    /// The most GPU memory it ever had; null without a GPU.
    pub peak_gpu_bytes: Option<u64>,
    /// Loss of the warm-up step.
    pub first_loss: f64,
    /// Norm of its gradient, before clipping.
    pub first_grad_norm: f64,
    /// Time to write the weights in the Hugging Face layout; null where it was not asked for.
    pub export_s: Option<f64>,
    /// Their size.
    pub export_bytes: Option<u64>,
}

/// One step as it was seen from outside.
struct Timed {
    wall: Duration,
    processor_s: Option<f64>,
    report: StepReport,
}

/// What the trainer is given, and how much that is.
struct Prepared {
    config: Config,
    /// As the trainer gets them.
    groups: Vec<TrajectoryGroup>,
    /// What of them is trained on, by tree.
    trained: Vec<TrajectoryGroup>,
    /// Of the rows that have to be computed.
    extent: Extent,
    /// The groups with their advantages, where they are to be written.
    batch_file: Option<Vec<Weighed>>,
}

/// What the trainer did.
struct Measured {
    warm_up: StepReport,
    /// At least one, in order.
    steps: Vec<Timed>,
    on_gpu: bool,
    loaded_resident_bytes: Option<u64>,
    peak_resident_bytes: Option<u64>,
    peak_gpu_bytes: Option<u64>,
    /// Seconds and bytes.
    exported: Option<(f64, u64)>,
}

/// Trains and measures; `observe` is told what happens, for people.
///
/// # Errors
/// Trees, model or settings that cannot be used; a step without an update; files that cannot be written.
///
/// # Cancel safety
/// Dropping the future ends the work between two micro-batches.
pub async fn bench_train(spec: &TrainBenchSpec, observe: impl Fn(&str)) -> Result<TrainBench, BenchError> {
    if let Some(dir) = &spec.export_weights
        && std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(BenchError::NotEmpty { dir: dir.clone() });
    }
    let model = ModelConfig::read(&spec.config.run.model)?;
    let prepared = prepare(spec, &model, &observe).await?;
    let measured = measure(spec, &prepared, &observe).await?;
    Ok(figures(spec, &model, &prepared, measured))
}

async fn prepare(spec: &TrainBenchSpec, model: &ModelConfig, observe: &impl Fn(&str)) -> Result<Prepared, BenchError> {
    let mut config = spec.config.clone();
    let vocab_tokens = usize::try_from(model.vocab_size).unwrap_or(0);
    let found = spec.source.load(spec.limit, vocab_tokens, observe).await?;
    let found_count = found.len();
    let batch = batch::with_signal(found, &config.train, config.search.response_budget_tokens())?;
    if batch.len() < found_count {
        observe(&format!("{} of {found_count} trees have no signal and are left out", found_count - batch.len()));
    }
    let batch_file = spec.export_batch.as_ref().map(|_| batch.clone());
    let trained: Vec<TrajectoryGroup> = batch.iter().map(|weighed| weighed.kept.clone()).collect();
    let (extent, groups) = if spec.sharing {
        (Extent::packed(&trained), batch.into_iter().map(|weighed| weighed.whole).collect::<Vec<_>>())
    } else {
        let (groups, train) = batch::separated(&batch, &config.train);
        config.train = train;
        (Extent::separate(&trained), groups)
    };
    let minibatch = groups.len().div_ceil(spec.updates.max(1) as usize);
    config.train.minibatch_problems = u32::try_from(minibatch).unwrap_or(u32::MAX);
    Ok(Prepared { config, groups, trained, extent, batch_file })
}

async fn measure(spec: &TrainBenchSpec, prepared: &Prepared, observe: &impl Fn(&str)) -> Result<Measured, BenchError> {
    let trainer = Trainer::spawn(trainer_spec(&prepared.config, None)).await?;
    // Only now is it known that there is a measurement at all.
    if let (Some(path), Some(batch)) = (&spec.export_batch, &prepared.batch_file) {
        file::write(path, batch, &spec.config.train, spec.config.search.temperature)?;
        observe(&format!("groups in {}", path.display()));
    }
    let on_gpu = !trainer.is_on_processor();
    let loaded_resident_bytes = machine::resident_bytes("VmRSS");
    let warm_up = step(&trainer, &prepared.groups).await?;
    observe(&format!("warm-up step: {:.2} s", warm_up.wall.as_secs_f64()));
    let (count, mut steps, mut peak_gpu_bytes) = (spec.steps.max(1), Vec::new(), None);
    for number in 1..=count {
        let timed = step(&trainer, &prepared.groups).await?;
        observe(&format!("step {number}/{count}: {:.2} s", timed.wall.as_secs_f64()));
        steps.push(timed);
        if on_gpu {
            peak_gpu_bytes = peak_gpu_bytes.max(machine::gpu_bytes());
        }
    }
    // Before the weights are copied for the export: what training takes.
    let peak_resident_bytes = machine::resident_bytes("VmHWM");
    let mut exported = None;
    if let Some(dir) = &spec.export_weights {
        let begin = Instant::now();
        let manifest = trainer.export(dir, WeightVersion::INITIAL.next()).await?;
        exported = Some((begin.elapsed().as_secs_f64(), manifest.bytes));
    }
    Ok(Measured {
        warm_up: warm_up.report,
        steps,
        on_gpu,
        loaded_resident_bytes,
        peak_resident_bytes,
        peak_gpu_bytes,
        exported,
    })
}

fn figures(spec: &TrainBenchSpec, model: &ModelConfig, prepared: &Prepared, mut measured: Measured) -> TrainBench {
    let Prepared { config, groups, trained, extent, .. } = prepared;
    let device_name = if measured.on_gpu { machine::gpu() } else { machine::processor() };
    let known_peak = || match config.train.dtype {
        ComputeDtype::Bfloat16 if measured.on_gpu => machine::peak_bf16_flops(device_name.as_deref()?),
        _ => None,
    };
    let peak_flops_per_s = spec.peak_flops.or_else(known_peak);
    let step_s = measured.steps.iter().map(|timed| timed.wall.as_secs_f64()).collect();
    let mut step_processor_s: Vec<f64> = measured.steps.iter().filter_map(|timed| timed.processor_s).collect();
    step_processor_s.sort_by(f64::total_cmp);
    measured.steps.sort_by_key(|timed| timed.wall);
    let median = measured.steps.swap_remove((measured.steps.len() - 1) / 2);
    let (median_step_s, time) = (median.wall.as_secs_f64(), median.report.time);
    let model_flops = extent.train_flops(model, config.train.lora.is_on());
    let trained_tokens = Extent::separate(trained).tokens;
    let longest = |group: &TrajectoryGroup| (0..group.trajectories.len()).map(|t| path_tokens(group, t)).max();
    TrainBench {
        bench: "train",
        model: config.run.model.display().to_string(),
        parameter_count: parameters(model),
        matmul_parameter_count: matmul_parameters(model),
        device: if measured.on_gpu { "cuda" } else { "cpu" },
        device_name,
        dtype: config.train.dtype,
        thread_count: Some(config.train.threads).filter(|&threads| threads > 0),
        checkpoint_activations: config.train.checkpoint_activations,
        micro_batch_tokens: median.report.budget_tokens,
        adapter_rank: Some(config.train.lora.rank).filter(|_| config.train.lora.is_on()),
        sharing: spec.sharing,
        group_count: groups.len(),
        trajectory_count: trained.iter().map(|group| group.trajectories.len()).sum(),
        longest_trajectory_tokens: trained.iter().filter_map(longest).max().unwrap_or(0),
        trained_tokens,
        unique_tokens: extent.tokens,
        computed_tokens: median.report.packed_tokens as u64,
        visible_pairs: extent.visible_pairs,
        updates_per_step: median.report.updates.len(),
        step_s,
        median_step_s,
        median_step_processor_s: step_processor_s.get((step_processor_s.len().max(1) - 1) / 2).copied(),
        step_processor_s,
        pack_s: time.pack.as_secs_f64(),
        old_logprobs_s: time.old_logprobs.as_secs_f64(),
        gradient_s: time.gradient.as_secs_f64(),
        optimizer_s: time.optimizer.as_secs_f64(),
        trained_tokens_per_s: trained_tokens as f64 / median_step_s,
        unique_tokens_per_s: extent.tokens as f64 / median_step_s,
        model_flops,
        model_flops_per_s: model_flops / median_step_s,
        peak_flops_per_s,
        mfu_frac: peak_flops_per_s.map(|peak| model_flops / median_step_s / peak),
        loaded_resident_bytes: measured.loaded_resident_bytes,
        peak_resident_bytes: measured.peak_resident_bytes,
        peak_gpu_bytes: measured.peak_gpu_bytes,
        first_loss: measured.warm_up.loss(),
        first_grad_norm: measured.warm_up.grad_norm(),
        export_s: measured.exported.map(|(seconds, _)| seconds),
        export_bytes: measured.exported.map(|(_, bytes)| bytes),
    }
}

async fn step(trainer: &Trainer, groups: &[TrajectoryGroup]) -> Result<Timed, BenchError> {
    let groups = groups.to_vec();
    let (begin, processor) = (Instant::now(), machine::processor_s());
    let report = trainer.update(groups).await?;
    let wall = begin.elapsed();
    let processor_s = machine::processor_s().zip(processor).map(|(after, before)| after - before);
    match report.updates.iter().find_map(|update| update.skipped.as_ref()) {
        Some(reason) => Err(BenchError::Skipped { reason: reason.to_string() }),
        None => Ok(Timed { wall, processor_s, report }),
    }
}
