//! What a training step takes in memory, counted where libtorch asks for it, and what happens when there is none.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod tensor_memory;
mod trainer_support;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orchestrator::config::{ComputeDtype, TrainConfig};
use orchestrator::error::{FailureClass, Hint};
use orchestrator::trainer::lora::AdapterSpec;
use orchestrator::trainer::loss::Objective;
use orchestrator::trainer::memory::Workload;
use orchestrator::trainer::model::tree_attention::pays;
use orchestrator::trainer::optim::{AdamSettings, AdamW};
use orchestrator::trainer::pack::PackedBatch;
use orchestrator::trainer::params::{Parameters, Placement, Use};
use orchestrator::trainer::{Family, Learner, ModelSpec, StepReport, TrainerError};
use orchestrator::types::TrajectoryGroup;
use tch::{Device, Kind};
use trainer_support::*;

/// The count is of the whole process, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Large enough that its tensors outweigh the small change of a step.
fn medium(spec: &mut ModelSpec) {
    spec.layers = 6;
    spec.hidden_size = 128;
    spec.intermediate_size = 384;
    spec.heads = 8;
    spec.kv_heads = 4;
    spec.std = 0.02;
}

fn groups(seeds: std::ops::Range<u64>) -> Vec<TrajectoryGroup> {
    seeds.map(|seed| random_group(seed, 512, 16, (16, 32))).collect()
}

/// A forest of about `rows` rows, or one sequence of that length.
fn batch(rows: usize, is_forest: bool) -> PackedBatch {
    if !is_forest {
        return PackedBatch::sequence(&(0..rows as u32).map(|row| row % 500).collect::<Vec<_>>());
    }
    let groups = groups(0..16);
    let advantages: Vec<_> = groups.iter().zip(0..).map(|(group, seed)| random_advantages(group, seed)).collect();
    pack_all(&groups, &advantages, rows).swap_remove(0)
}

const OBJECTIVE: Objective = Objective {
    clip_low: 0.2,
    clip_high: 0.28,
    dual_clip: 10.0,
    importance_cap: 2.0,
    cached_importance_cap: 2.0,
    denominator: 1000.0,
};

/// Most bytes of tensors during the pass over `batch`, weights and moments included.
fn measured(model_dir: &Path, config: &TrainConfig, batch: &PackedBatch) -> u64 {
    let before = tensor_memory::live();
    let mut learner = learner(model_dir, config.clone());
    // The first pass leaves the gradients of the working weights.
    learner.accumulate(batch, &OBJECTIVE, None);
    tensor_memory::reset_peak();
    learner.accumulate(batch, &OBJECTIVE, None);
    (tensor_memory::peak() - before) as u64
}

#[test]
fn the_prediction_is_what_libtorch_asks_for() {
    let _alone = alone();
    let mut ratios = Vec::new();
    for (family, vocab_size) in [(Family::Llama, 512), (Family::Qwen3, 4096)] {
        let dir = tiny(family, |spec| {
            medium(spec);
            spec.vocab_size = vocab_size;
        });
        for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
            for checkpoint_activations in [false, true] {
                for (rows, chunk_rows, is_forest) in [(300, 64, true), (1200, 64, true), (1200, 512, false)] {
                    let batch = batch(rows, is_forest);
                    let config = TrainConfig {
                        dtype,
                        checkpoint_activations,
                        micro_batch_tokens: batch.len(),
                        vocab_chunk_tokens: chunk_rows,
                        ..config()
                    };
                    let found = measured(dir.path(), &config, &batch);
                    let model = orchestrator::trainer::model::ModelConfig::read(dir.path()).unwrap();
                    let has_mask = is_forest && !pays(&batch.chains(), batch.len(), Device::Cpu);
                    let workload = Workload { has_mask, ..Workload::new(&model, &config, true, 0) };
                    let predicted = workload.predict();
                    let ratio = predicted.tensor_bytes() as f64 / found as f64;
                    let case = format!("{family:?} {dtype:?} {checkpoint_activations} {} {chunk_rows}", batch.len());
                    println!("{case}: predicted {} measured {found} ratio {ratio:.3}", predicted.tensor_bytes());
                    // In fp32 every tensor is ours. With bf16 the processor's products ask for buffers in the same way,
                    // which differ between processors and hide behind nothing where blocks keep their graphs.
                    match (dtype, checkpoint_activations) {
                        (ComputeDtype::Float32, _) => ratios.push((0.99..1.05, case, ratio)),
                        (ComputeDtype::Bfloat16, true) => ratios.push((0.9..1.1, case, ratio)),
                        (ComputeDtype::Bfloat16, false) => {}
                    }
                }
            }
        }
    }
    for (bound, case, ratio) in ratios {
        assert!(bound.contains(&ratio), "{case}: {ratio}");
    }
}

#[test]
fn adapters_take_what_is_predicted() {
    let _alone = alone();
    let dir = tiny(Family::Llama, medium);
    let batch = batch(1200, true);
    let mut config = TrainConfig {
        checkpoint_activations: true,
        micro_batch_tokens: batch.len(),
        vocab_chunk_tokens: 64,
        ..config()
    };
    let whole = measured(dir.path(), &config, &batch);
    config.lora.rank = 4;
    let found = measured(dir.path(), &config, &batch);
    let learner = learner(dir.path(), config);
    let plan = learner.memory_plan().unwrap();
    let model = orchestrator::trainer::model::ModelConfig::read(dir.path()).unwrap();
    let workload = Workload {
        has_mask: !pays(&batch.chains(), batch.len(), Device::Cpu),
        adapters: AdapterSpec::of(learner.spec()),
        ..Workload::new(&model, &learner.spec().config, true, 0)
    };
    let predicted = workload.predict();
    assert!(plan.peak_bytes >= predicted.peak_bytes(), "planned with a mask");
    let ratio = predicted.tensor_bytes() as f64 / found as f64;
    println!("predicted {} measured {found} ratio {ratio:.3}, all weights {whole}", predicted.tensor_bytes());
    // What a frozen gain spares the graph is not taken off.
    assert!((0.99..1.1).contains(&ratio), "{ratio}");
    assert!(found < whole, "{found} with adapters, {whole} without");
}

/// Masters in the host's memory, as they are beside a GPU; here the host is the device as well.
#[test]
fn offloaded_masters_give_the_same_bits() {
    let _alone = alone();
    let dir = tiny(Family::Qwen3, |_| {});
    let model = orchestrator::trainer::model::ModelConfig::read(dir.path()).unwrap();
    for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
        let train = |is_offloaded: bool| {
            let placement = Placement { dtype, device: Device::Cpu, is_offloaded };
            let mut parameters = Parameters::load(dir.path(), &model, placement, Use::Training).unwrap();
            let mut settings = AdamSettings::from(&config());
            (settings.learning_rate, settings.max_grad_norm) = (1e-2, 0.5);
            let mut optimizer = AdamW::new(settings, &parameters);
            for update in 0..3 {
                parameters.zero_grad();
                // A sum of squares: what a backward pass leaves is folded in, clipped and stepped on.
                for weight in parameters.work().values() {
                    (weight.square() * (f64::from(update) + 1.0)).sum(Kind::Float).backward();
                }
                parameters.fold_gradients();
                assert!(optimizer.step(&mut parameters).unwrap().skipped.is_none());
                parameters.publish();
            }
            parameters
        };
        let (apart, plain) = (train(true), train(false));
        let (apart_work, plain_work) = (apart.work(), plain.work());
        for (one, other) in apart.iter().zip(plain.iter()) {
            assert!(one.master.equal(&other.master), "{dtype:?} {}", one.name);
            assert!(apart_work[&one.name].equal(&plain_work[&one.name]), "{dtype:?} {}", one.name);
        }
    }
}

#[test]
fn the_prediction_holds_for_a_real_model() {
    let _alone = alone();
    let Some(dir) = real_model() else {
        println!("skipped: the real model is not there");
        return;
    };
    let model = orchestrator::trainer::model::ModelConfig::read(&dir).unwrap();
    for (checkpoint_activations, rows) in [(true, 128), (true, 512), (false, 128)] {
        let batch = batch(rows, true);
        let chosen = TrainConfig {
            checkpoint_activations,
            micro_batch_tokens: batch.len(),
            vocab_chunk_tokens: 128,
            ..config()
        };
        // The high-water mark of resident memory starts again from what is resident.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let tensors = measured(&dir, &chosen, &batch);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        let predicted = Workload::new(&model, &chosen, true, 0).predict();
        let ratio = predicted.tensor_bytes() as f64 / tensors as f64;
        println!(
            "{checkpoint_activations} {}: tensors predicted {} measured {tensors} ratio {ratio:.3}; process predicted {} {resident}",
            batch.len(),
            predicted.tensor_bytes(),
            predicted.peak_bytes()
        );
        assert!((0.97..1.1).contains(&ratio), "{ratio}");
    }
}

fn weights(learner: &Learner) -> Vec<tch::Tensor> {
    learner.parameters.iter().map(|p| p.master.detach().copy()).collect()
}

fn is_same(a: &Learner, b: &Learner) -> bool {
    weights(a).iter().zip(&weights(b)).all(|(a, b)| a.equal(b))
}

/// A step of a fresh learner, and the most bytes of tensors that it took above those of the learner.
fn step(model_dir: &Path, config: &TrainConfig, ration: Option<usize>) -> (Learner, StepReport, usize) {
    let mut learner = learner(model_dir, config.clone());
    let before = tensor_memory::live();
    tensor_memory::reset_peak();
    tensor_memory::ration(ration.map_or(usize::MAX, |bytes| before + bytes));
    let result = learner.update(&groups(0..8));
    tensor_memory::ration(usize::MAX);
    (learner, result.unwrap(), tensor_memory::peak() - before)
}

#[test]
fn a_step_without_memory_is_the_step_with_a_smaller_budget() {
    let _alone = alone();
    let dir = tiny(Family::Qwen3, medium);
    // With bf16 the processor's products take buffers that come and go as they please: no ration is fair.
    for checkpoint_activations in [false, true] {
        let with = |micro_batch_tokens: usize, minibatch_problems: u32| TrainConfig {
            checkpoint_activations,
            micro_batch_tokens,
            minibatch_problems,
            ..config()
        };
        let (_, small_report, small) = step(dir.path(), &with(400, 8), None);
        let (_, large_report, large) = step(dir.path(), &with(2000, 8), None);
        assert_eq!((small_report.out_of_memory, large_report.out_of_memory), (0, 0));
        assert_eq!((small_report.budget_tokens, large_report.budget_tokens), (400, 2000));
        assert!(large > 2 * small, "{checkpoint_activations}: {large} against {small}");
        let ration = (small + large) / 2;

        let (starved, report, peak) = step(dir.path(), &with(2000, 8), Some(ration));
        assert!(report.out_of_memory > 0 && report.budget_tokens < 2000 && peak <= ration, "{report:?}");
        let (fed, expected, _) = step(dir.path(), &with(report.budget_tokens, 8), None);
        assert!(is_same(&starved, &fed), "{checkpoint_activations}: the weights differ");
        assert_eq!(report.updates, expected.updates);
        assert_eq!((report.packed_tokens, report.mismatch), (expected.packed_tokens, expected.mismatch));

        // Old logprobs of later mini-batches belong to the weights at the start of the step and move along.
        let (_, report, _) = step(dir.path(), &with(2000, 4), Some(ration / 2));
        let (_, expected, _) = step(dir.path(), &with(2000, 4), None);
        assert!(report.out_of_memory > 0 && expected.out_of_memory == 0);
        let figures = |report: &StepReport| {
            let update = &report.updates[1];
            [update.loss, update.grad_norm, update.mean_ratio, update.clip_frac]
        };
        for (found, wanted) in figures(&report).into_iter().zip(figures(&expected)) {
            assert!((found - wanted).abs() <= 1e-3 * wanted.abs().max(0.05), "{report:?} {expected:?}");
        }
        assert!((figures(&expected)[2] - 1.0).abs() > 1e-4, "the ratio should tell tokens apart: {expected:?}");
    }
}

#[test]
fn a_trajectory_that_does_not_fit_is_an_error_that_leaves_the_trainer_whole() {
    let _alone = alone();
    let dir = tiny(Family::Llama, medium);
    let mut learner = learner(dir.path(), config());
    let untouched = weights(&learner);
    tensor_memory::ration(tensor_memory::live() + (64 << 10));
    let error = learner.update(&groups(0..2)).unwrap_err();
    assert!(tensor_memory::has_refused());
    tensor_memory::ration(usize::MAX);
    assert!(matches!(error, TrainerError::OutOfMemory { .. }), "{error}");
    assert_eq!(error.class(), FailureClass::Environment);
    assert!(error.hint().unwrap().contains("train.checkpoint_activations"));
    assert!(error.to_string().contains("can't allocate memory") && !error.to_string().contains('\n'), "{error}");
    assert!(untouched.iter().zip(&weights(&learner)).all(|(a, b)| a.equal(b)));

    // There is memory again: the next step is that of a fresh trainer.
    let report = learner.update(&groups(0..2)).unwrap();
    assert!(report.budget_tokens < 4096);
    let config = TrainConfig { micro_batch_tokens: report.budget_tokens, ..config() };
    let mut fresh = trainer_support::learner(dir.path(), config);
    assert_eq!(fresh.update(&groups(0..2)).unwrap().updates, report.updates);
    assert!(is_same(&learner, &fresh));
}

#[test]
fn a_budget_that_does_not_fit_the_limit_is_lowered_or_refused() {
    let _alone = alone();
    let dir = tiny(Family::Llama, medium);
    let roomy = TrainConfig { micro_batch_tokens: 4096, memory_limit_mib: 1 << 20, ..config() };
    let plan = learner(dir.path(), roomy.clone()).memory_plan().unwrap().clone();
    assert!(!plan.is_lowered() && plan.budget_tokens == 4096);
    let tight = TrainConfig { memory_limit_mib: (plan.peak_bytes >> 20) * 3 / 4, ..roomy };
    let mut lowered = learner(dir.path(), tight.clone());
    let plan = lowered.memory_plan().unwrap().clone();
    assert!(plan.is_lowered() && plan.peak_bytes <= tight.memory_limit_mib << 20, "{plan:?}");
    assert_eq!(lowered.update(&groups(0..2)).unwrap().budget_tokens, plan.budget_tokens);
    // What fits no budget is refused before it is computed, and nothing is changed.
    let fits = plan.fits_tokens.unwrap();
    let long = random_group(7, 512, fits + 1, (1, 2));
    let before = lowered.optimizer.updates;
    let error = lowered.update(&[long]).unwrap_err();
    assert!(
        matches!(error, TrainerError::TooLong { tokens, fits_tokens } if tokens > fits && fits_tokens == fits),
        "{error}"
    );
    assert_eq!(lowered.optimizer.updates, before);
    let nothing = TrainConfig { memory_limit_mib: 10, ..tight };
    let Err(error) = Learner::load(spec(dir.path(), nothing)) else { panic!("10 MiB were enough") };
    assert!(matches!(error, TrainerError::TooLarge { .. }), "{error}");
    assert!(error.hint().unwrap().contains("train.checkpoint_activations"));
}
