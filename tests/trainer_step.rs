//! The trainer as the run uses it: the async handle, whole steps, exports, checkpoints, and what goes wrong.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod trainer_support;

use std::path::Path;

use orchestrator::config::{ComputeDtype, OldLogprobs, TrainConfig};
use orchestrator::error::{FailureClass, Hint};
use orchestrator::trainer::{Family, SkipReason, Trainer, TrainerError, export};
use orchestrator::types::{TrajectoryGroup, Verdict, WeightManifest, WeightVersion};
use trainer_support::*;

fn groups(seeds: std::ops::Range<u64>) -> Vec<TrajectoryGroup> {
    seeds.map(|seed| random_group(seed, 512, 6, (2, 5))).collect()
}

async fn spawn(model_dir: &Path, config: TrainConfig) -> Trainer {
    Trainer::spawn(spec(model_dir, config)).await.unwrap()
}

fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).unwrap()
}

/// All groups without signal: every trajectory has the same reward and ends at depth 1.
fn flat(mut group: TrajectoryGroup) -> TrajectoryGroup {
    for trajectory in &mut group.trajectories {
        trajectory.path.truncate(1);
        trajectory.reward = 0.0;
    }
    group
}

#[tokio::test]
async fn a_step_updates_and_reports() {
    let dir = tiny(Family::Qwen2, |_| {});
    let trainer = spawn(dir.path(), TrainConfig { minibatch_problems: 2, warmup_steps: 4, ..config() }).await;
    let mut batch = groups(0..3);
    batch.push(flat(random_group(9, 512, 6, (2, 5))));
    batch[0].trajectories[1].verdict = Verdict::Error;
    batch[1].nodes[0].logprobs[0] = f32::NAN;
    let report = trainer.update(batch).await.unwrap();

    assert_eq!((report.groups_used, report.groups_skipped), (3, 1));
    assert_eq!((report.trajectories, report.trajectories_dropped), (14, 1));
    assert_eq!((report.updates_done(), report.updates_skipped()), (2, 0));
    assert!(report.packed_tokens < report.trajectory_tokens);
    assert!(report.distinct_tokens < report.response_tokens);
    // The first mini-batch meets the weights that its old logprobs are of, the second one has moved.
    assert_eq!((report.updates[0].mean_ratio, report.updates[0].clip_frac), (1.0, 0.0));
    assert_ne!(report.updates[1].mean_ratio, 1.0);
    let rates: Vec<f64> = report.updates.iter().map(|u| u.learning_rate).collect();
    assert_eq!(rates, [0.25e-3, 0.5e-3], "linear warm-up over 4 updates");
    assert!(report.loss().is_finite() && report.grad_norm() > 0.0 && report.entropy_nats > 0.0);
    assert_eq!(report.mismatch.missing, 1);
    assert_eq!(report.mismatch.tokens + 1, report.distinct_tokens);
    assert!(report.mismatch.p99_ratio >= report.mismatch.p50_ratio);
}

#[tokio::test]
async fn repeated_steps_raise_what_is_rewarded_and_lower_what_is_not() {
    let dir = tiny(Family::Qwen3, |_| {});
    let trainer = spawn(dir.path(), TrainConfig { learning_rate: 3e-3, ..config() }).await;
    let group = random_group(3, 512, 6, (3, 5));
    let tokens = |t: usize| -> Vec<u32> {
        let nodes = group.trajectories[t].path.iter().flat_map(|&n| group.nodes[n].tokens.iter().copied());
        group.prompt.tokens.iter().copied().chain(nodes).collect()
    };
    // The last node is the trajectory's own; what comes before is shared.
    let leaf = |t: usize, scores: &[f32]| -> f32 {
        let own = group.nodes[*group.trajectories[t].path.last().unwrap()].tokens.len();
        scores[scores.len() - own..].iter().sum()
    };
    let mut before = Vec::new();
    for t in 0..5 {
        before.push(leaf(t, &trainer.score(tokens(t), 1.0).await.unwrap()));
    }
    for _ in 0..5 {
        trainer.update(vec![group.clone()]).await.unwrap();
    }
    for (t, before) in before.into_iter().enumerate() {
        let after = leaf(t, &trainer.score(tokens(t), 1.0).await.unwrap());
        let correct = group.trajectories[t].verdict == Verdict::Correct;
        assert_eq!(after > before, correct, "trajectory {t}: {before} to {after}");
    }
}

#[tokio::test]
async fn an_engine_that_agrees_has_ratio_one_and_its_logprobs_serve_as_old_ones() {
    let dir = tiny(Family::Llama, |_| {});
    let config = TrainConfig { old_logprobs: OldLogprobs::Engine, ..config() };
    let trainer = spawn(dir.path(), config).await;
    let mut group = random_group(4, 512, 6, (2, 5));
    for t in 0..group.trajectories.len() {
        let path = group.trajectories[t].path.clone();
        let mut tokens = group.prompt.tokens.to_vec();
        for node in path {
            let start = tokens.len();
            tokens.extend(group.nodes[node].tokens.clone());
            let scores = trainer.score(tokens.clone(), 0.8).await.unwrap();
            group.nodes[node].logprobs = scores[start - 1..].to_vec();
        }
    }
    let report = trainer.update(vec![group]).await.unwrap();
    let mismatch = report.mismatch;
    assert!((mismatch.mean_ratio - 1.0).abs() < 1e-5 && (mismatch.p99_ratio - 1.0).abs() < 1e-4);
    assert_eq!((mismatch.outside_frac, mismatch.missing), (0.0, 0));
    assert!((report.updates[0].mean_ratio - 1.0).abs() < 1e-5);
}

#[tokio::test]
async fn a_learning_rate_of_zero_leaves_every_bit() {
    for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
        let dir = tiny(Family::Qwen2, |spec| spec.dtype = ComputeDtype::Bfloat16);
        let config = TrainConfig { learning_rate: 0.0, weight_decay: 0.1, dtype, warmup_steps: 10, ..config() };
        let trainer = spawn(dir.path(), config).await;
        let out = tempfile::tempdir().unwrap();
        for version in 1..=3 {
            let report = trainer.update(groups(0..2)).await.unwrap();
            assert_eq!(report.updates_done(), 1);
            assert!(report.grad_norm() > 0.0);
            let target = out.path().join(version.to_string());
            trainer.export(&target, WeightVersion(version)).await.unwrap();
            assert!(weights(&target) == weights(dir.path()), "{dtype:?}: the bytes changed in update {version}");
        }
    }
}

#[tokio::test]
async fn bfloat16_and_float32_take_about_the_same_step() {
    let dir = tiny(Family::Qwen2, |_| {});
    let mut norms = Vec::new();
    for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
        for checkpoint_activations in [false, true] {
            let trainer = spawn(dir.path(), TrainConfig { dtype, checkpoint_activations, ..config() }).await;
            let report = trainer.update(groups(0..2)).await.unwrap();
            norms.push((report.grad_norm(), report.entropy_nats));
        }
    }
    for (norm, entropy) in &norms[1..] {
        // bf16 keeps 8 bits: a few percent.
        assert!((norm / norms[0].0 - 1.0).abs() < 0.05 && (entropy / norms[0].1 - 1.0).abs() < 0.02, "{norms:?}");
    }
}

#[tokio::test]
async fn a_gradient_that_is_not_finite_is_skipped_and_named() {
    let dir = tiny(Family::Qwen2, |_| {});
    let trainer = spawn(dir.path(), config()).await;
    let out = tempfile::tempdir().unwrap();
    let mut broken = groups(0..2);
    broken[1].trajectories[0].reward = 1e200;
    let report = trainer.update(broken).await.unwrap();
    assert_eq!((report.updates_done(), report.updates_skipped()), (0, 1));
    let Some(SkipReason::NonFiniteGradient { parameter }) = &report.updates[0].skipped else {
        panic!("{:?}", report.updates)
    };
    assert!(parameter.starts_with("model."), "{parameter}");
    trainer.export(&out.path().join("1"), WeightVersion(1)).await.unwrap();
    assert!(weights(&out.path().join("1")) == weights(dir.path()), "a skipped update changed a weight");

    // The moments are clean too: the next step is that of a fresh trainer.
    trainer.update(groups(0..2)).await.unwrap();
    trainer.export(&out.path().join("2"), WeightVersion(2)).await.unwrap();
    let fresh = spawn(dir.path(), config()).await;
    fresh.update(groups(0..2)).await.unwrap();
    fresh.export(&out.path().join("3"), WeightVersion(3)).await.unwrap();
    assert!(weights(&out.path().join("2")) == weights(&out.path().join("3")));
    assert!(weights(&out.path().join("2")) != weights(dir.path()));
}

#[tokio::test]
async fn an_export_is_complete_and_checksummed() {
    let dir = tiny(Family::Llama, |spec| spec.dtype = ComputeDtype::Bfloat16);
    let trainer = spawn(dir.path(), config()).await;
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("weights/00001");
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    let manifest = trainer.export(&target, WeightVersion(1)).await.unwrap();
    assert_eq!(manifest.dir, target);
    assert_eq!(manifest.bytes, weights(&target).len() as u64);
    let text = std::fs::read_to_string(target.join("manifest.json")).unwrap();
    assert_eq!(serde_json::from_str::<WeightManifest>(&text).unwrap(), manifest);
    let bytes = weights(&target);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), manifest.tensors.len());
    for (name, tensor) in &manifest.tensors {
        assert_eq!(tensor.dtype, "BF16");
        assert_eq!(tensor.crc32, crc32fast::hash(file.tensor(name).unwrap().data()), "`{name}`");
    }
    assert_eq!(manifest.digest, export::digest(&manifest.tensors));
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(std::fs::read(target.join(name)).unwrap(), std::fs::read(dir.path().join(name)).unwrap());
    }
    // An export that was made and not recorded is made again.
    trainer.update(groups(0..1)).await.unwrap();
    let second = trainer.export(&target, WeightVersion(1)).await.unwrap();
    assert_ne!(second.digest, manifest.digest);
    let names: Vec<_> =
        std::fs::read_dir(target.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["00001"], "nothing is left over");
    // A failure leaves nothing behind.
    let nowhere = dir.path().join("config.json/1");
    assert!(matches!(trainer.export(&nowhere, WeightVersion(2)).await, Err(TrainerError::Write { .. })));
}

#[tokio::test]
async fn a_resumed_trainer_takes_the_same_steps() {
    let dir = tiny(Family::Qwen3, |_| {});
    let out = tempfile::tempdir().unwrap();
    for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
        let config = TrainConfig { dtype, warmup_steps: 3, ..config() };
        let unbroken = spawn(dir.path(), config.clone()).await;
        unbroken.update(groups(0..2)).await.unwrap();
        let checkpoint = out.path().join("step-000012");
        unbroken.save_checkpoint(&checkpoint, MARK).await.unwrap();
        let expected = unbroken.update(groups(2..4)).await.unwrap();
        unbroken.export(&out.path().join("a"), WeightVersion(2)).await.unwrap();

        let resumed = spawn(dir.path(), config).await;
        assert_eq!(resumed.load_checkpoint(&checkpoint).await.unwrap(), MARK);
        let report = resumed.update(groups(2..4)).await.unwrap();
        assert_eq!(report.updates, expected.updates);
        resumed.export(&out.path().join("b"), WeightVersion(2)).await.unwrap();
        assert!(weights(&out.path().join("a")) == weights(&out.path().join("b")), "{dtype:?}");
    }
    // A checkpoint of another model changes nothing.
    let other = tiny(Family::Qwen2, |_| {});
    let trainer = spawn(other.path(), config()).await;
    let error = trainer.load_checkpoint(&out.path().join("step-000012")).await.unwrap_err();
    assert!(matches!(error, TrainerError::Tensor { .. }), "{error}");
}

#[tokio::test]
async fn a_broken_group_changes_nothing_and_the_trainer_goes_on() {
    let dir = tiny(Family::Qwen2, |_| {});
    let trainer = spawn(dir.path(), config()).await;
    let mut broken = groups(0..2);
    broken[1].nodes[0].tokens[0] = 9999;
    let error = trainer.update(broken).await.unwrap_err();
    let text = "the group of problem 1 cannot be trained on: token 9999 of node 0 is outside the vocabulary of 512";
    assert_eq!(error.to_string(), text);
    assert_eq!(trainer.update(groups(0..1)).await.unwrap().updates_done(), 1);
    let report = trainer.update(Vec::new()).await.unwrap();
    assert_eq!(report.updates, []);
    assert!(trainer.score(vec![5], 1.0).await.unwrap().is_empty());
    assert!(matches!(trainer.score(vec![5, 512], 1.0).await, Err(TrainerError::Setting { key: "token", .. })));
    assert!(matches!(trainer.score(vec![5, 6], 0.0).await, Err(TrainerError::Setting { .. })));
}

#[tokio::test]
async fn a_model_that_is_not_whole_is_one_clear_error() {
    let check = async |family: Family, change: &dyn Fn(&Path), expected: &str| {
        let dir = tiny(family, |_| {});
        change(dir.path());
        let error = match Trainer::spawn(spec(dir.path(), config())).await {
            Ok(_) => panic!("expected `{expected}`"),
            Err(error) => error,
        };
        let text = error.to_string().replace(&dir.path().display().to_string(), "DIR");
        assert!(text.contains(expected), "`{text}` lacks `{expected}`");
        error
    };
    let file = |dir: &Path| dir.join("model.safetensors");
    let edit = |dir: &Path, key: &str, value: serde_json::Value| {
        let path = dir.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
    };
    let cut = |dir: &Path, keep: u64| {
        std::fs::OpenOptions::new().write(true).open(file(dir)).unwrap().set_len(keep).unwrap();
    };
    use Family::*;
    let error = check(
        Qwen2,
        &|d| cut(d, std::fs::metadata(file(d)).unwrap().len() - 10),
        "tensor `model.norm.weight` in `DIR/model.safetensors`: is cut off",
    )
    .await;
    assert_eq!(error.class(), FailureClass::User);
    assert!(error.hint().is_some());
    check(Qwen2, &|d| cut(d, 20), "`DIR/model.safetensors` is malformed").await;
    check(Qwen2, &|d| cut(d, 0), "`DIR/model.safetensors` is malformed").await;
    check(Qwen2, &|d| std::fs::remove_file(file(d)).unwrap(), "cannot read `DIR/model.safetensors`").await;
    check(Qwen2, &|d| std::fs::write(d.join("config.json"), "{").unwrap(), "`DIR/config.json` is malformed").await;
    let tensor = "tensor `model.embed_tokens.weight` in `DIR/model.safetensors`: has shape [512, 64], config.json says";
    check(Qwen2, &|d| edit(d, "vocab_size", 600.into()), tensor).await;
    let missing = "tensor `model.layers.2.input_layernorm.weight` in `DIR`: is missing";
    check(Llama, &|d| edit(d, "num_hidden_layers", 3.into()), missing).await;
    let extra = "tensor `model.layers.1.input_layernorm.weight` in `DIR/model.safetensors`: has no place";
    check(Llama, &|d| edit(d, "num_hidden_layers", 1.into()), extra).await;
    check(Llama, &|d| edit(d, "hidden_size", serde_json::Value::Null), "`hidden_size` is missing").await;
    check(Llama, &|d| edit(d, "hidden_act", "gelu".into()), "`hidden_act` = `gelu`").await;
    check(Llama, &|d| edit(d, "architectures", serde_json::json!(["MambaForCausalLM"])), "`MambaForCausalLM`").await;
    let rope = serde_json::json!({ "rope_type": "yarn", "factor": 4.0 });
    check(Llama, &|d| edit(d, "rope_parameters", rope.clone()), "rope type `yarn`").await;
    let window = |d: &Path| {
        edit(d, "use_sliding_window", true.into());
        edit(d, "sliding_window", 1024.into());
    };
    check(Qwen2, &window, "`use_sliding_window` is on").await;
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let dir = tiny(Family::Qwen2, |_| {});
    for (config, temperature, expected) in [
        (config(), 0.0, "search.temperature"),
        (TrainConfig { micro_batch_tokens: 0, ..config() }, 1.0, "train.micro_batch_tokens"),
        (TrainConfig { minibatch_problems: 0, ..config() }, 1.0, "train.minibatch_problems"),
        (TrainConfig { learning_rate: f64::NAN, ..config() }, 1.0, "train.learning_rate"),
    ] {
        let spec = orchestrator::trainer::TrainerSpec { temperature, ..spec(dir.path(), config) };
        match Trainer::spawn(spec).await {
            Err(TrainerError::Setting { key, .. }) => assert_eq!(key, expected),
            other => panic!("`{expected}` was accepted: {:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn a_sharded_model_is_the_same_model() {
    let dir = tiny(Family::Qwen2, |_| {});
    let sharded = tempfile::tempdir().unwrap();
    let bytes = weights(dir.path());
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let mut part: Vec<_> = file.tensors();
        part.sort_by(|a, b| a.0.cmp(&b.0));
        let part: Vec<_> = part.into_iter().enumerate().filter(|(i, _)| i % 2 == shard).map(|(_, t)| t).collect();
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
        safetensors::serialize_to_file(part, None, &sharded.path().join(name)).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(sharded.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::copy(dir.path().join("config.json"), sharded.path().join("config.json")).unwrap();
    let tokens: Vec<u32> = (3..40).collect();
    let mut scores = Vec::new();
    for dir in [dir.path(), sharded.path()] {
        scores.push(spawn(dir, config()).await.score(tokens.clone(), 1.0).await.unwrap());
    }
    assert_eq!(scores[0], scores[1]);
}

#[test]
fn a_random_model_repeats_bit_for_bit_and_varies_with_its_seed() {
    let make = |seed: u64| tiny(Family::Qwen3, |spec| spec.seed = seed);
    let (a, b, c) = (make(1), make(1), make(2));
    assert!(weights(a.path()) == weights(b.path()));
    assert!(weights(a.path()) != weights(c.path()));
}
