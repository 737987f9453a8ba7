//! The trainer against PyTorch and transformers, in fp32 on separate sequences: logits, token logprobs, the loss and
//! the gradients of the full objective (clips active, dual clip, importance weights), parameters after AdamW.
//!
//! Tolerances: two correct fp32 implementations differ by summation order. Logits of these models are of order 1 to
//! 20 and differ by some 1e-5 to 1e-4; the bound is 2e-4. Gradients: relative L2 below 1e-4.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod trainer_support;

use std::collections::HashMap;
use std::path::Path;

use orchestrator::trainer::learner::PassSums;
use orchestrator::trainer::loss::Objective;
use orchestrator::trainer::model::load::TensorFiles;
use orchestrator::trainer::pack::PackedBatch;
use orchestrator::trainer::{Family, Learner};
use orchestrator::types::{TokenId, TrajectoryGroup};
use serde_json::{Value, json};
use tch::Tensor;
use tempfile::TempDir;
use trainer_support::*;

const TEMPERATURE: f64 = 0.8;
const REFERENCE: &str = "reference.safetensors";

/// Bound of logits and logprobs.
const LOGIT_BOUND: f64 = 2e-4;
/// Bound of gradients, relative L2 over all parameters.
const GRADIENT_BOUND: f64 = 1e-4;

/// One model on one mini-batch: our side is done, the reference is asked for.
struct Case {
    name: &'static str,
    learner: Learner,
    sums: PassSums,
    denominator: f64,
    job: Value,
    out: TempDir,
}

/// Old logprobs: current ones disturbed so that about half of the ratios leave the clip range, some far.
fn disturb(current: &[f32]) -> Vec<f32> {
    let mut rng = orchestrator::rng::stream(11, orchestrator::rng::Purpose::Sampling, &[]);
    let noise = |i: usize, u: f64| if i % 9 == 4 { 2.6 } else { 1.2 * (u - 0.5) };
    current.iter().enumerate().map(|(i, &lp)| lp - noise(i, uniform(&mut rng)) as f32).collect()
}

/// `is_small`: also logits and AdamW, which take much disk for a large model.
fn prepare(name: &'static str, dir: &Path, groups: &[TrajectoryGroup], is_small: bool) -> Case {
    let mut config = config();
    config.max_grad_norm = 0.05;
    let mut learner = learner(dir, config.clone());
    let advantages: Vec<_> = (0..).zip(groups).map(|(seed, group)| random_advantages(group, seed)).collect();
    let mut groups = groups.to_vec();

    // Tokens are packed depth-first, and listed here by node: numbers in place of the logprobs say which is which.
    for (number, logprob) in groups.iter_mut().flat_map(|g| &mut g.nodes).flat_map(|n| &mut n.logprobs).enumerate() {
        *logprob = number as f32;
    }
    let probe = pack_all(&groups, &advantages, usize::MAX);
    assert_eq!(probe.len(), 1);
    let places: Vec<usize> = probe[0].engine_logprobs.iter().map(|&number| number as usize).collect();
    let mut current = vec![0.0; places.len()];
    for (&place, logprob) in places.iter().zip(learner.logprobs(&probe[0], TEMPERATURE)) {
        current[place] = logprob;
    }
    // Engine logprobs close to the current ones, all different, one missing.
    let old = disturb(&current);
    let mut engine = old.iter().enumerate().map(|(i, lp)| lp + 0.02 * ((i * 7 % 11) as f32 - 5.0));
    for node in groups.iter_mut().flat_map(|g| &mut g.nodes) {
        node.logprobs = node.tokens.iter().map(|_| engine.next().unwrap()).collect();
    }
    groups[0].nodes[0].logprobs[0] = f32::NAN;
    let batches = pack_all(&groups, &advantages, usize::MAX);
    let batch = &batches[0];

    let denominator = pairs(&groups) as f64;
    let objective = Objective {
        clip_low: config.clip_low,
        clip_high: config.clip_high,
        dual_clip: config.dual_clip,
        importance_cap: config.importance_cap,
        cached_importance_cap: config.cached_importance_cap,
        denominator,
    };
    learner.parameters.zero_grad();
    let packed_old: Vec<f32> = places.iter().map(|&place| old[place]).collect();
    let sums = learner.accumulate(batch, &objective, Some(&packed_old));

    // The same tokens as separate sequences.
    let old_of: HashMap<(usize, usize), Vec<f32>> = {
        let mut old = old.iter().copied();
        (0..groups.len())
            .flat_map(|g| (0..groups[g].nodes.len()).map(move |n| (g, n)))
            .map(|(g, n)| ((g, n), old.by_ref().take(groups[g].nodes[n].tokens.len()).collect()))
            .collect()
    };
    let mut sequences = Vec::new();
    for (g, group) in groups.iter().enumerate() {
        for (t, trajectory) in group.trajectories.iter().enumerate() {
            let mut tokens: Vec<TokenId> = group.prompt.tokens.to_vec();
            let (mut old, mut engine, mut advantage) = (Vec::<f32>::new(), Vec::new(), Vec::new());
            for (&n, &a) in trajectory.path.iter().zip(&advantages[g][t]) {
                let node = &group.nodes[n];
                tokens.extend(&node.tokens);
                old.extend(&old_of[&(g, n)]);
                engine.extend(node.logprobs.iter().map(|lp| (!lp.is_nan()).then_some(*lp)));
                advantage.extend(node.tokens.iter().map(|_| a));
            }
            let prompt_tokens = group.prompt.tokens.len();
            sequences.push(json!({ "tokens": tokens, "prompt_tokens": prompt_tokens, "old": old, "engine": engine,
                                   "advantages": advantage }));
        }
    }
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join(REFERENCE);
    let mut job = json!({
        "kind": "reference", "model": dir, "sequences": sequences, "temperature": TEMPERATURE,
        "clip_low": config.clip_low, "clip_high": config.clip_high, "dual_clip": config.dual_clip,
        "importance_cap": config.importance_cap, "denominator": denominator, "keep_logits": is_small, "out": file,
    });
    let betas = [config.beta1, config.beta2];
    if is_small {
        job["adam"] = json!({ "lr": config.learning_rate, "betas": betas, "eps": config.epsilon, "steps": 2,
                              "weight_decay": config.weight_decay, "max_grad_norm": config.max_grad_norm });
    }
    Case { name, learner, sums, denominator, job, out }
}

fn check(case: &mut Case, answer: &Value) {
    let Case { name, learner, sums, denominator, job, out } = case;
    let is_small = job["keep_logits"] == json!(true);
    let files = TensorFiles::open_file(&out.path().join(REFERENCE)).unwrap();
    let reference = files.tensors().unwrap();
    for (index, sequence) in job["sequences"].as_array().unwrap().iter().enumerate() {
        let tokens: Vec<TokenId> = serde_json::from_value(sequence["tokens"].clone()).unwrap();
        let sampled = tokens.len() - sequence["prompt_tokens"].as_u64().unwrap() as usize;
        let theirs = reference.load(&format!("logprobs.{index}"), &[sampled as i64]).unwrap();
        let ours = learner.score(&tokens, TEMPERATURE).unwrap();
        let ours = Tensor::from_slice(&ours[ours.len() - sampled..]);
        assert!(largest_difference(&ours, &theirs) < LOGIT_BOUND, "{name}: logprobs of sequence {index}");
        if is_small {
            let shape = [tokens.len() as i64, learner.model.vocab_size];
            let theirs = reference.load(&format!("logits.{index}"), &shape).unwrap();
            let ours = learner.logits(&PackedBatch::sequence(&tokens));
            let difference = largest_difference(&ours, &theirs);
            assert!(difference < LOGIT_BOUND, "{name}: logits of sequence {index} differ by {difference:e}");
        }
    }

    let (loss, clip_frac) = (answer["loss"].as_f64().unwrap(), answer["clip_frac"].as_f64().unwrap());
    assert!((sums.loss - loss).abs() < 1e-4 * loss.abs().max(1.0), "{name}: loss {} and {loss}", sums.loss);
    assert!((0.2..0.8).contains(&clip_frac), "the test should clip about half of the tokens, not {clip_frac}");
    let ours = sums.clipped_pairs as f64 / *denominator;
    assert!((ours - clip_frac).abs() < 1e-9, "clipped share {ours} and {clip_frac}");
    assert!(sums.dual_clipped_pairs > 0, "the test should reach the dual clip");

    let theirs: Vec<Tensor> = learner
        .parameters
        .iter()
        .map(|p| reference.load(&format!("gradient.{}", p.name), &p.grad.size()).unwrap())
        .collect();
    let error = relative_l2(gradients(learner).into_iter().zip(theirs.iter().map(Tensor::shallow_clone)));
    println!("{}: gradient relative L2 {error:e}, clipped {clip_frac:.2}", name);
    assert!(error < GRADIENT_BOUND, "{name}: gradients differ by {error:e}");

    if is_small {
        check_adam(learner, &reference, &theirs, answer);
    }
}

/// Two updates from PyTorch's own gradients, so that only the optimizer is compared: AdamW divides by the root of the
/// second moment, which turns rounding of a gradient near zero into a full step.
fn check_adam(
    learner: &mut Learner,
    reference: &orchestrator::trainer::model::load::Tensors<'_>,
    gradients: &[Tensor],
    answer: &Value,
) {
    for step in 1..=2 {
        learner.parameters.zero_grad();
        for (parameter, gradient) in learner.parameters.iter().zip(gradients) {
            parameter.grad.shallow_clone().copy_(gradient);
        }
        let outcome = learner.optimizer.step(&mut learner.parameters).unwrap();
        let norm = answer["grad_norm"].as_f64().unwrap();
        assert!((outcome.grad_norm / norm - 1.0).abs() < 1e-5, "norms {} and {norm}", outcome.grad_norm);
        assert!(norm > learner.optimizer.settings.max_grad_norm, "the test should clip the gradient");
        for p in learner.parameters.iter() {
            let theirs = reference.load(&format!("updated{step}.{}", p.name), &p.master.size()).unwrap();
            let difference = largest_difference(&p.master.detach(), &theirs);
            assert!(difference < 1e-6, "`{}` after update {step} differs by {difference:e}", p.name);
        }
    }
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn small_groups() -> Vec<TrajectoryGroup> {
    vec![random_group(1, 512, 7, (2, 6)), random_group(2, 512, 11, (1, 4))]
}

/// One Python process for all models: starting it is most of the time.
#[test]
fn the_trainer_agrees_with_pytorch() {
    let qwen2 = tiny(Family::Qwen2, |_| {});
    let qwen3 = tiny(Family::Qwen3, |spec| {
        // Heads wider than hidden_size / heads.
        (spec.heads, spec.kv_heads, spec.is_tied) = (4, 2, false);
    });
    let llama = tiny(Family::Llama, |spec| spec.is_tied = false);
    let path = llama.path().join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    // A short original context, so that all three bands of frequencies occur.
    config["rope_parameters"] = json!({ "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    std::fs::write(&path, config.to_string()).unwrap();

    let mut cases = vec![
        prepare("Qwen2, tied, biases", qwen2.path(), &small_groups(), true),
        prepare("Qwen3, head norms, wide heads", qwen3.path(), &small_groups(), true),
        prepare("Llama, llama3 rope", llama.path(), &small_groups(), true),
    ];
    match real_model() {
        Some(dir) => cases.push(prepare("SmolLM2-135M", &dir, &[random_group(3, 49_152, 12, (3, 6))], false)),
        None => println!("`models/smollm2-135m-instruct` is not here (`make setup` brings it): small models only"),
    }
    let jobs: Vec<&Value> = cases.iter().map(|case| &case.job).collect();
    let answers = python(&json!(jobs));
    for (case, answer) in cases.iter_mut().zip(answers.as_array().unwrap()) {
        check(case, answer);
    }
}
