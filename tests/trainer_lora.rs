//! Low-rank adapters: gradients against PyTorch on the merged weights, what stays frozen, checkpoints, the PEFT layout, and
//! generation with them.
//!
//! With W' = W + s B A, the chain rule gives dA = s B^T dW' and dB = s dW' A^T: so the reference is an ordinary model that
//! holds W', in PyTorch (relative L2 below 1e-4) and in this trainer without adapters (below 1e-5).

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "support/requests.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod requests;
mod trainer_support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use orchestrator::config::{ComputeDtype, ExportDtype, LoraConfig, TrainConfig};
use orchestrator::rng::{Purpose, stream};
use orchestrator::trainer::loss::Objective;
use orchestrator::trainer::model::load::TensorFiles;
use orchestrator::trainer::pack::PackedBatch;
use orchestrator::trainer::{Family, Learner, TrainerError, checkpoint, export, lora, peft};
use orchestrator::types::{Sampling, TokenId, TrajectoryGroup, WeightVersion};
use requests::{largest_difference, prompt, request};
use serde_json::{Value, json};
use tch::{Kind, Tensor};
use trainer_support::*;

const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn adapted(targets: &[&str]) -> TrainConfig {
    let targets = targets.iter().map(|&target| target.to_owned()).collect();
    TrainConfig { lora: LoraConfig { rank: 3, alpha: 5.0, targets }, ..config() }
}

fn groups() -> Vec<TrajectoryGroup> {
    (0..2)
        .map(|seed| {
            let mut group = random_group(seed, 512, 9, (3, 8));
            group.nodes.iter_mut().for_each(|node| node.logprobs.fill(f32::NAN));
            group
        })
        .collect()
}

fn packed(groups: &[TrajectoryGroup]) -> Vec<PackedBatch> {
    pack_all(groups, &advantages(groups), usize::MAX)
}

fn advantages(groups: &[TrajectoryGroup]) -> Vec<Vec<Vec<f64>>> {
    (0..).zip(groups).map(|(seed, group)| random_advantages(group, seed)).collect()
}

/// Values that are not those of the start: B would be zero, and so the gradient of A.
fn disturb(learner: &mut Learner) {
    tch::no_grad(|| {
        for (index, parameter) in (0..).zip(learner.parameters.iter()) {
            let mut rng = stream(3, Purpose::Statistics, &[index]);
            let values: Vec<f32> =
                (0..parameter.master.numel()).map(|_| 0.2 * (uniform(&mut rng) as f32 - 0.5)).collect();
            let shape = parameter.master.size();
            parameter.master.shallow_clone().copy_(&Tensor::from_slice(&values).view(shape.as_slice()));
        }
    });
    learner.parameters.publish();
}

fn objective(config: &TrainConfig) -> Objective {
    Objective {
        clip_low: config.clip_low,
        clip_high: config.clip_high,
        dual_clip: config.dual_clip,
        importance_cap: config.importance_cap,
        cached_importance_cap: config.cached_importance_cap,
        denominator: pairs(&groups()) as f64,
    }
}

fn accumulate(learner: &mut Learner) {
    let objective = objective(&learner.spec().config.clone());
    learner.parameters.zero_grad();
    for batch in packed(&groups()) {
        learner.accumulate(&batch, &objective, None);
    }
}

fn masters(learner: &Learner) -> BTreeMap<String, Tensor> {
    learner.parameters.iter().map(|p| (p.name.clone(), p.master.detach().copy())).collect()
}

/// Gradients of the adapters from those of the merged weights.
fn chained(learner: &Learner, merged: &dyn Fn(&str) -> Tensor) -> Vec<Tensor> {
    let adapters = learner.parameters.adapters().unwrap();
    let (values, scale) = (masters(learner), adapters.spec.scale());
    let one = |parameter: &orchestrator::trainer::params::Parameter| {
        let prefix = parameter.name.rsplit_once(".lora_").unwrap().0;
        let [down, up] = lora::names(prefix).map(|name| values[&name].shallow_clone());
        let whole = merged(&format!("{prefix}.weight"));
        let gradient = if parameter.name.contains("lora_A") { up.tr().mm(&whole) } else { whole.mm(&down.tr()) };
        gradient * scale
    };
    learner.parameters.iter().map(one).collect()
}

fn merge_to(learner: &Learner, source: &Path, out: &Path) {
    export::export_merged(&learner.parameters, source, ExportDtype::Float32, out, WeightVersion(1)).unwrap();
}

fn bits(tensors: &[Tensor]) -> Vec<Vec<f32>> {
    tensors.iter().map(|tensor| Vec::try_from(tensor.flatten(0, -1).to_kind(Kind::Float)).unwrap()).collect()
}

#[test]
fn gradients_are_those_of_the_merged_weights() {
    for (family, is_tied) in [(Family::Llama, true), (Family::Qwen2, true), (Family::Qwen3, false)] {
        let dir = tiny(family, |spec| spec.is_tied = is_tied);
        for targets in [&ALL[..], &["v_proj", "down_proj"]] {
            let config = adapted(targets);
            let mut learner = learner(dir.path(), config.clone());
            disturb(&mut learner);
            let out = tempfile::tempdir().unwrap();
            let merged_dir = out.path().join("merged");
            merge_to(&learner, dir.path(), &merged_dir);
            let mut whole = trainer_support::learner(&merged_dir, trainer_support::config());
            accumulate(&mut whole);
            let of = |name: &str| whole.parameters.get(name).unwrap().grad.detach().copy();
            let expected = chained(&learner, &of);
            for checkpoint_activations in [false, true] {
                let config = TrainConfig { checkpoint_activations, ..config.clone() };
                let mut learner = trainer_support::learner(dir.path(), config);
                disturb(&mut learner);
                accumulate(&mut learner);
                let found = gradients(&learner);
                assert_eq!(found.len(), 2 * 2 * targets.len());
                let error = relative_l2(found.into_iter().zip(expected.iter().map(Tensor::shallow_clone)));
                assert!(error < 1e-5, "{family:?}, {targets:?}, {checkpoint_activations}: {error:e}");
            }
            // bf16: rounding of 2^-8 through the blocks, so only that it is the same gradient.
            let mut half =
                trainer_support::learner(dir.path(), TrainConfig { dtype: ComputeDtype::Bfloat16, ..config });
            disturb(&mut half);
            accumulate(&mut half);
            let error = relative_l2(gradients(&half).into_iter().zip(expected));
            assert!(error < 0.1, "{family:?}, {targets:?}, bf16: {error:e}");
        }
    }
}

#[test]
fn gradients_agree_with_pytorch() {
    let dir = tiny(Family::Llama, |spec| spec.is_tied = true);
    let config = adapted(&ALL);
    let mut learner = learner(dir.path(), config.clone());
    disturb(&mut learner);
    let out = tempfile::tempdir().unwrap();
    let (merged_dir, file) = (out.path().join("merged"), out.path().join("reference.safetensors"));
    merge_to(&learner, dir.path(), &merged_dir);
    let (groups, advantages) = (groups(), advantages(&groups()));
    let mut sequences = Vec::new();
    for (group, advantages) in groups.iter().zip(&advantages) {
        for (trajectory, advantages) in group.trajectories.iter().zip(advantages) {
            let mut tokens: Vec<TokenId> = group.prompt.tokens.to_vec();
            let mut advantage = Vec::new();
            for (&node, &a) in trajectory.path.iter().zip(advantages) {
                tokens.extend(&group.nodes[node].tokens);
                advantage.extend(group.nodes[node].tokens.iter().map(|_| a));
            }
            let start = group.prompt.tokens.len();
            let old = learner.score(&tokens, 0.8).unwrap()[start - 1..].to_vec();
            let engine = vec![Value::Null; old.len()];
            sequences.push(json!({ "tokens": tokens, "prompt_tokens": start, "old": old, "engine": engine,
                                   "advantages": advantage }));
        }
    }
    let objective = objective(&config);
    let job = json!([{
        "kind": "reference", "model": merged_dir, "sequences": sequences, "temperature": 0.8,
        "clip_low": objective.clip_low, "clip_high": objective.clip_high, "dual_clip": objective.dual_clip,
        "importance_cap": objective.importance_cap, "denominator": objective.denominator, "keep_logits": false,
        "out": file,
    }]);
    python(&job);
    let files = TensorFiles::open_file(&file).unwrap();
    let reference = files.tensors().unwrap();
    accumulate(&mut learner);
    let frozen = &learner.parameters.adapters().unwrap().frozen;
    let of = |name: &str| {
        let shape = frozen.iter().find(|weight| weight.name == name).unwrap().work.size();
        reference.load(&format!("gradient.{name}"), &shape).unwrap()
    };
    let error = relative_l2(gradients(&learner).into_iter().zip(chained(&learner, &of)));
    println!("relative L2 of the adapters' gradients against PyTorch: {error:e}");
    assert!(error < 1e-4, "{error:e}");
}

#[test]
fn the_first_version_is_the_model_and_only_adapters_move() {
    for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
        for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
            let dir = tiny(family, |spec| spec.is_tied = family == Family::Qwen2);
            let plain = learner(dir.path(), TrainConfig { dtype, ..config() });
            let mut learner = learner(dir.path(), TrainConfig { dtype, ..adapted(&ALL) });
            let batch = &packed(&groups())[0];
            assert_eq!(bits(&[learner.logits(batch)]), bits(&[plain.logits(batch)]), "{family:?}, {dtype:?}");
            let frozen = |learner: &Learner| {
                let frozen = &learner.parameters.adapters().unwrap().frozen;
                assert!(frozen.iter().all(|weight| !weight.work.requires_grad()));
                bits(&frozen.iter().map(|weight| weight.work.copy()).collect::<Vec<_>>())
            };
            let (weights, adapters) = (frozen(&learner), masters(&learner));
            for _ in 0..2 {
                let report = learner.update(&groups()).unwrap();
                assert!(report.updates.iter().all(|update| update.skipped.is_none() && update.grad_norm > 0.0));
            }
            assert_eq!(frozen(&learner), weights, "{family:?}, {dtype:?}");
            assert_eq!(learner.optimizer.exp_avg.len(), adapters.len(), "no moments of frozen weights");
            let now = masters(&learner);
            assert!(adapters.iter().all(|(name, old)| *old != now[name]), "adapters that did not move");
            assert_ne!(bits(&[learner.logits(batch)]), bits(&[plain.logits(batch)]));
        }
    }
}

#[test]
fn adapters_begin_as_pefts_do_and_from_the_seed() {
    let dir = tiny(Family::Qwen3, |_| {});
    let start = |seed| {
        let spec = orchestrator::trainer::TrainerSpec { seed, ..spec(dir.path(), adapted(&ALL)) };
        masters(&Learner::load(spec).unwrap())
    };
    let (one, same, other) = (start(1), start(1), start(2));
    assert_eq!(one, same);
    for (name, values) in &one {
        if name.contains("lora_B") {
            assert_eq!(values.abs().max().double_value(&[]), 0.0, "{name}");
            continue;
        }
        assert_ne!(*values, other[name], "{name}");
        let bound = 1.0 / (values.size()[1] as f64).sqrt();
        let largest = values.abs().max().double_value(&[]);
        assert!(largest <= bound && largest > 0.9 * bound, "{name}: {largest} of {bound}");
        assert!(values.mean(Kind::Double).double_value(&[]).abs() < 0.2 * bound, "{name}");
    }
    let mut values: Vec<_> = one.iter().filter(|(name, _)| name.contains("lora_A")).map(|(_, v)| v).collect();
    values.dedup_by(|a, b| a == b);
    assert_eq!(values.len(), 14, "every adapter has values of its own");
}

#[test]
fn rank_0_is_training_of_all_weights() {
    let dir = tiny(Family::Qwen2, |_| {});
    let off = TrainConfig { lora: LoraConfig { rank: 0, alpha: 3.0, targets: vec!["q_proj".into()] }, ..config() };
    let state = |config: TrainConfig| {
        let mut learner = learner(dir.path(), config);
        learner.update(&groups()).unwrap();
        assert!(learner.parameters.adapters().is_none());
        masters(&learner)
    };
    assert_eq!(state(off), state(config()));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let dir = tiny(Family::Qwen2, |_| {});
    let refused = |change: &dyn Fn(&mut LoraConfig)| {
        let mut config = adapted(&ALL);
        change(&mut config.lora);
        match Learner::load(spec(dir.path(), config)) {
            Err(TrainerError::Setting { key, .. }) => key,
            other => panic!("{:?}", other.err()),
        }
    };
    assert_eq!(refused(&|lora| lora.targets.push("qkv_proj".into())), "train.lora.targets");
    assert_eq!(refused(&|lora| lora.targets.clear()), "train.lora.targets");
    assert_eq!(refused(&|lora| lora.alpha = f64::NAN), "train.lora.alpha");
}

#[test]
fn a_checkpoint_holds_adapters_only_and_goes_on_to_the_same_bits() {
    let dir = tiny(Family::Qwen3, |_| {});
    let out = tempfile::tempdir().unwrap();
    let at = out.path().join("step-000012");
    for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
        let config = TrainConfig { dtype, ..adapted(&ALL) };
        let mut unbroken = learner(dir.path(), config.clone());
        unbroken.update(&groups()).unwrap();
        let info = checkpoint::save(&unbroken.parameters, &unbroken.optimizer, &at, MARK).unwrap();
        let numbers: usize = unbroken.parameters.iter().map(|p| p.master.numel()).sum();
        assert!(info.bytes < 12 * numbers as u64 + 30_000, "{} bytes for {numbers} numbers", info.bytes);
        unbroken.update(&groups()).unwrap();
        let mut resumed = learner(dir.path(), config.clone());
        assert_eq!(resumed.load_checkpoint(&at).unwrap(), MARK);
        resumed.update(&groups()).unwrap();
        assert_eq!(masters(&resumed), masters(&unbroken), "{dtype:?}");
        let other = tiny(Family::Qwen3, |spec| spec.seed = 8);
        let mut strength = config.clone();
        strength.lora.alpha = 7.0;
        let whole = TrainConfig { dtype, ..trainer_support::config() };
        for (mut learner, reason) in [
            (learner(other.path(), config.clone()), "on a model with other weights"),
            (learner(dir.path(), strength), "another `train.lora.alpha`"),
            (learner(dir.path(), whole), "`train.lora` is off"),
        ] {
            let before = masters(&learner);
            let error = learner.load_checkpoint(&at).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(masters(&learner), before);
        }
    }
}

#[test]
fn the_peft_layout_goes_out_and_comes_back() {
    let dir = tiny(Family::Qwen2, |spec| spec.dtype = ComputeDtype::Bfloat16);
    let out = tempfile::tempdir().unwrap();
    let mut learner = learner(dir.path(), adapted(&["q_proj", "down_proj"]));
    learner.update(&groups()).unwrap();
    let at = out.path().join("v000001");
    let manifest = export::export(&learner.parameters, dir.path(), ExportDtype::Source, &at, WeightVersion(1)).unwrap();
    assert_eq!(manifest.base_digest, Some(export::digest_of_folder(dir.path()).unwrap()));
    let mut files: Vec<_> =
        fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["adapter_config.json", "adapter_model.safetensors", "manifest.json"]);
    let names: Vec<&String> = manifest.tensors.keys().collect();
    assert_eq!(names.len(), 8);
    assert_eq!(names[0], "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
    assert_eq!(names[3], "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
    assert_eq!(manifest.tensors[names[2]].shape, [3, 64]);
    let config: Value = serde_json::from_slice(&fs::read(at.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(3), &json!(5)));
    assert_eq!(config["target_modules"], json!(["q_proj", "down_proj"]));
    assert_eq!((&config["peft_type"], &config["task_type"]), (&json!("LORA"), &json!("CAUSAL_LM")));

    let back = peft::load(dir.path(), &at).unwrap();
    let back: BTreeMap<_, _> = back.iter().map(|p| (p.name.clone(), p.master.detach().copy())).collect();
    assert_eq!(back, masters(&learner));
    let merged = peft::merge(dir.path(), &at, ExportDtype::Source, &out.path().join("merged")).unwrap();
    let direct = out.path().join("direct");
    let direct =
        export::export_merged(&learner.parameters, dir.path(), ExportDtype::Source, &direct, WeightVersion(1)).unwrap();
    assert_eq!(merged.tensors, direct.tensors);
    let original = export::digest_of_folder(dir.path()).unwrap();
    assert_ne!(merged.digest, original);
    assert!(merged.tensors.values().all(|tensor| tensor.dtype == "BF16"));

    let exact = out.path().join("exact");
    merge_to(&learner, dir.path(), &exact);
    let whole = trainer_support::learner(&exact, config_of_whole());
    let tokens = prompt(40, 2);
    let difference = largest_difference(&whole.score(&tokens, 1.0).unwrap(), &learner.score(&tokens, 1.0).unwrap());
    assert!(difference < 1e-4, "{difference}");

    let other = tiny(Family::Qwen2, |spec| (spec.dtype, spec.seed) = (ComputeDtype::Bfloat16, 9));
    let error = peft::load(other.path(), &at).err().unwrap().to_string();
    assert!(error.contains("trained on other weights"), "{error}");
    let mut config = config;
    config["use_dora"] = json!(true);
    fs::write(at.join("adapter_config.json"), config.to_string()).unwrap();
    let error = peft::load(dir.path(), &at).err().unwrap().to_string();
    assert!(error.contains("`use_dora`"), "{error}");
}

fn config_of_whole() -> TrainConfig {
    trainer_support::config()
}

/// What is sampled is what is trained: with adapters that have moved, on the processor in fp32 and in bf16.
#[tokio::test]
async fn generation_samples_with_the_adapters() {
    for (dtype, bound) in [(ComputeDtype::Float32, 1e-4), (ComputeDtype::Bfloat16, 0.3)] {
        let dir = tiny(Family::Qwen2, |spec| spec.std = 0.2);
        let out = tempfile::tempdir().unwrap();
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
        let config = TrainConfig { dtype, learning_rate: 1e-2, ..adapted(&ALL) };
        let trainer = sampler_with(dir.path(), 1 << 26, config).await;
        let prompt = prompt(30, 1);
        let before = trainer.score(prompt.clone(), 1.0).await.unwrap();
        for _ in 0..3 {
            trainer.update(groups()).await.unwrap();
        }
        trainer.export(&out.path().join("1"), WeightVersion(1)).await.unwrap();
        trainer.name_weights(WeightVersion(1)).await.unwrap();
        let scored = trainer.score(prompt.clone(), 1.0).await.unwrap();
        assert!(largest_difference(&scored, &before) > 0.5, "the adapters hardly moved");
        let generated = trainer.score_generated(prompt.clone()).await.unwrap();
        assert!(largest_difference(&generated, &scored) < bound, "{dtype:?}");
        for continuation in trainer.generate(request(&prompt, 4, 7, sampling)).await.unwrap() {
            let whole: Vec<TokenId> = prompt.iter().chain(&continuation.tokens).copied().collect();
            let scored = trainer.score(whole, 1.0).await.unwrap();
            let difference = largest_difference(&continuation.logprobs, &scored[prompt.len() - 1..]);
            assert!(difference < bound, "{dtype:?}: {difference}");
        }
    }
}
