//! What the trainer's tests share: small models, random trees, and the Python reference.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use orchestrator::config::{AdvantageForm, ComputeDtype, DeviceChoice, TrainConfig};
use orchestrator::rng::{Purpose, stream};
use orchestrator::trainer::checkpoint::CheckpointMark;
use orchestrator::trainer::pack::{self, PackedBatch, WeighedGroup};
use orchestrator::trainer::{
    Family, GeneratorSpec, Learner, ModelSpec, Neighbor, Trainer, TrainerSpec, Use, init_model,
};
use orchestrator::types::{
    GroupNode, NodeId, ProblemId, Prompt, Provenance, RunId, StepId, TokenId, Trajectory, TrajectoryGroup, Verdict,
    WeightVersion,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde_json::Value;
use tempfile::TempDir;

/// fp32, one thread, small chunks, an advantage with a baseline; everything else as published.
pub fn config() -> TrainConfig {
    TrainConfig {
        device: DeviceChoice::Cpu,
        threads: 1,
        dtype: ComputeDtype::Float32,
        micro_batch_tokens: 4096,
        vocab_chunk_tokens: 16,
        checkpoint_activations: false,
        advantage: AdvantageForm::Signed,
        overlong_buffer_tokens: 0,
        learning_rate: 1e-3,
        warmup_steps: 0,
        ..TrainConfig::default()
    }
}

pub fn spec(model_dir: &Path, config: TrainConfig) -> TrainerSpec {
    TrainerSpec {
        config,
        model_dir: model_dir.to_path_buf(),
        temperature: 0.8,
        response_budget_tokens: 64,
        generator: None,
        purpose: Use::Training,
        seed: 5,
        neighbor: Neighbor::None,
    }
}

/// A small random model with larger weights than usual, so that logits and gradients are far from degenerate.
pub fn tiny(family: Family, change: impl FnOnce(&mut ModelSpec)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = ModelSpec { family, dtype: ComputeDtype::Float32, std: 0.1, seed: 7, ..ModelSpec::default() };
    change(&mut spec);
    init_model(&spec, dir.path()).unwrap();
    dir
}

pub fn learner(model_dir: &Path, config: TrainConfig) -> Learner {
    Learner::load(spec(model_dir, config)).unwrap()
}

/// A sampler with `cache_bytes` for keys and values and nothing that ends a text.
pub async fn sampler(model_dir: &Path, cache_bytes: u64) -> Trainer {
    sampler_with(model_dir, cache_bytes, config()).await
}

pub async fn sampler_with(model_dir: &Path, cache_bytes: u64, config: TrainConfig) -> Trainer {
    let generator = GeneratorSpec {
        max_sequences: 64,
        cache_bytes,
        max_model_tokens: 2048,
        end_of_text: Vec::new(),
        decode: Arc::new(|_| String::new()),
    };
    Trainer::spawn(TrainerSpec { generator: Some(generator), ..spec(model_dir, config) }).await.unwrap()
}

/// Whose state a checkpoint is said to be.
pub const MARK: CheckpointMark = CheckpointMark { run: RunId(3), step: StepId(12), version: WeightVersion(12) };

/// A number in [0, 1).
pub fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number in `low..high`.
pub fn below(rng: &mut ChaCha8Rng, low: usize, high: usize) -> usize {
    low + (uniform(rng) * (high - low) as f64) as usize
}

/// A random tree with shared nodes, mixed verdicts and values, and engine logprobs that are all different.
pub fn random_group(seed: u64, vocab: u32, prompt_tokens: usize, node_tokens: (usize, usize)) -> TrajectoryGroup {
    let mut rng = stream(seed, Purpose::Search, &[]);
    let mut tokens =
        |n: usize| -> Vec<TokenId> { (0..n).map(|_| (rng.next_u64() % u64::from(vocab)) as u32).collect() };
    let prompt = tokens(prompt_tokens);
    let mut shape = stream(seed, Purpose::Sampling, &[]);
    // Parents of nodes: two below the prompt, then a tree with branches and leaves at different depths.
    let parents = [None, None, Some(0), Some(0), Some(1), Some(2), Some(2), Some(3), Some(4), Some(4)];
    let mut nodes: Vec<GroupNode> = Vec::new();
    for (index, parent) in parents.into_iter().enumerate() {
        let count = below(&mut shape, node_tokens.0, node_tokens.1 + 1);
        nodes.push(GroupNode {
            node: NodeId(index as u32 + 1),
            parent,
            depth: parent.map_or(1, |p: usize| nodes[p].depth + 1),
            tokens: tokens(count),
            logprobs: (0..count).map(|_| -(0.1 + 6.0 * uniform(&mut shape)) as f32).collect(),
            weight_version: WeightVersion::INITIAL,
            q_total: 2.4 * uniform(&mut shape) - 1.2,
        });
    }
    let leaves = [5usize, 6, 7, 8, 9];
    let trajectories = leaves
        .iter()
        .enumerate()
        .map(|(index, &leaf)| {
            let mut path = vec![leaf];
            while let Some(parent) = nodes[path[0]].parent {
                path.insert(0, parent);
            }
            let correct = index % 2 == 0;
            Trajectory {
                verdict: if correct { Verdict::Correct } else { Verdict::Incorrect },
                reward: if correct { 1.0 } else { -1.0 },
                entropy_nats: 1.0,
                response_tokens: path.iter().map(|&n| nodes[n].tokens.len()).sum(),
                path,
                provenance: Provenance::Search,
                defect: None,
            }
        })
        .collect();
    TrajectoryGroup {
        problem: ProblemId(seed as i64),
        tree: None,
        prompt: Prompt { tokens: prompt.into(), text: "".into() },
        nodes,
        trajectories,
    }
}

/// The same trajectories without sharing: every path becomes nodes of its own.
pub fn unshared(group: &TrajectoryGroup) -> TrajectoryGroup {
    let mut copy = group.clone();
    copy.nodes.clear();
    for trajectory in &mut copy.trajectories {
        let mut parent = None;
        for node in &mut trajectory.path {
            copy.nodes.push(GroupNode { parent, ..group.nodes[*node].clone() });
            *node = copy.nodes.len() - 1;
            parent = Some(*node);
        }
    }
    copy
}

/// Random advantages of both signs, one per node of each trajectory: more general than any published form.
pub fn random_advantages(group: &TrajectoryGroup, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = stream(seed, Purpose::Eval, &[]);
    group.trajectories.iter().map(|t| t.path.iter().map(|_| 3.0 * uniform(&mut rng) - 1.5).collect()).collect()
}

pub fn pack_all(groups: &[TrajectoryGroup], advantages: &[Vec<Vec<f64>>], budget: usize) -> Vec<PackedBatch> {
    let weighed: Vec<_> =
        groups.iter().zip(advantages).map(|(group, advantages)| WeighedGroup { group, advantages }).collect();
    pack::pack(&weighed, budget)
}

/// (trajectory, token) pairs.
pub fn pairs(groups: &[TrajectoryGroup]) -> usize {
    groups.iter().map(|g| (0..g.trajectories.len()).map(|t| pack::response_tokens(g, t)).sum::<usize>()).sum()
}

/// |a - b| / |b| over all parameters together.
pub fn relative_l2(pairs: impl Iterator<Item = (tch::Tensor, tch::Tensor)>) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (a, b) in pairs {
        difference += (&a - &b).square().sum(tch::Kind::Double).double_value(&[]);
        norm += b.square().sum(tch::Kind::Double).double_value(&[]);
    }
    assert!(norm > 0.0, "nothing to compare with");
    (difference / norm).sqrt()
}

pub fn gradients(learner: &Learner) -> Vec<tch::Tensor> {
    learner.parameters.iter().map(|p| p.grad.detach().copy()).collect()
}

/// Runs `tests/python/trainer_reference.py` on a list of jobs and returns the list of answers.
pub fn python(jobs: &Value) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = root.join(".venv/bin/python");
    assert!(interpreter.exists(), "`{}` is missing: run `make setup ENGINE=vllm` first", interpreter.display());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.json");
    std::fs::write(&file, jobs.to_string()).unwrap();
    let output = Command::new(interpreter)
        .arg(root.join("tests/python/trainer_reference.py"))
        .arg(&file)
        // Threads that spin at barriers starve each other on a busy machine.
        .env("OMP_NUM_THREADS", "1")
        .env("OMP_WAIT_POLICY", "passive")
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the Python reference failed:\n{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: `{last}`\n{errors}"))
}

/// The real model, where the set-up has put it.
pub fn real_model() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/smollm2-135m-instruct");
    dir.join("model.safetensors").exists().then_some(dir)
}

/// The default configuration with another form of advantage.
pub fn with_form(form: AdvantageForm) -> TrainConfig {
    TrainConfig { advantage: form, ..config() }
}
