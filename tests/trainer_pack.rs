//! Tree packing against separate sequences, and what must not change a gradient: the split into micro-batches, the
//! chunk of the vocabulary projection, activation checkpointing. No Python.
//!
//! Tolerances are those of fp32 sums taken in another order.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod trainer_support;

use std::collections::HashMap;

use orchestrator::config::{LossMean, TrainConfig};
use orchestrator::trainer::advantage::{AdvantageSettings, advantages};
use orchestrator::trainer::loss::Objective;
use orchestrator::trainer::minibatch::prepare;
use orchestrator::trainer::pack::{self, PackedBatch};
use orchestrator::trainer::{Family, Learner, StepReport, TrainerError};
use orchestrator::types::TrajectoryGroup;
use proptest::prelude::*;
use tch::Tensor;
use trainer_support::*;

const TEMPERATURE: f64 = 0.8;

fn groups() -> Vec<TrajectoryGroup> {
    (1..4).map(|seed| random_group(seed, 512, 5 + seed as usize, (1, 5))).collect()
}

/// The engine's logprob of a token is different for every token: it finds a token again in another layout.
fn by_engine_logprob(batches: &[PackedBatch], values: &[Vec<f32>]) -> HashMap<u32, f32> {
    let keys = batches.iter().flat_map(|b| &b.engine_logprobs).map(|lp| lp.to_bits());
    keys.zip(values.iter().flatten().copied()).collect()
}

fn objective(config: &TrainConfig, groups: &[TrajectoryGroup]) -> Objective {
    Objective {
        clip_low: config.clip_low,
        clip_high: config.clip_high,
        dual_clip: config.dual_clip,
        importance_cap: config.importance_cap,
        cached_importance_cap: config.cached_importance_cap,
        denominator: pairs(groups) as f64,
    }
}

struct Outcome {
    loss: f64,
    clipped: u64,
    tokens: usize,
    gradients: Vec<Tensor>,
}

/// Loss and gradients of the whole objective over `batches`, with the old logprobs that `old` gives to each token.
fn run(learner: &mut Learner, batches: &[PackedBatch], objective: &Objective, old: &HashMap<u32, f32>) -> Outcome {
    learner.parameters.zero_grad();
    let (mut loss, mut clipped, mut tokens) = (0.0, 0, 0);
    for batch in batches {
        let old: Vec<f32> = batch.engine_logprobs.iter().map(|lp| old[&lp.to_bits()]).collect();
        let sums = learner.accumulate(batch, objective, Some(&old));
        loss += sums.loss;
        clipped += sums.clipped_pairs;
        tokens += sums.tokens;
    }
    Outcome { loss, clipped, tokens, gradients: gradients(learner) }
}

/// Current logprobs disturbed so that many ratios are outside the clip range, per token of the full packing.
fn old_logprobs(learner: &Learner, batches: &[PackedBatch]) -> HashMap<u32, f32> {
    let values: Vec<Vec<f32>> = batches
        .iter()
        .map(|b| {
            let current = learner.logprobs(b, TEMPERATURE);
            current.iter().enumerate().map(|(i, lp)| lp + 0.15 * ((i * 5 % 9) as f32 - 4.0)).collect()
        })
        .collect();
    by_engine_logprob(batches, &values)
}

fn assert_same(a: &Outcome, b: &Outcome, what: &str) {
    assert!((a.loss - b.loss).abs() < 1e-5 * b.loss.abs().max(1.0), "{what}: loss {} and {}", a.loss, b.loss);
    assert_eq!(a.clipped, b.clipped, "{what}: clipped pairs");
    let copies = |o: &Outcome| o.gradients.iter().map(Tensor::shallow_clone).collect::<Vec<_>>();
    let error = relative_l2(copies(a).into_iter().zip(copies(b)));
    assert!(error < 2e-5, "{what}: gradients differ by {error:e}");
}

fn check_family(family: Family) {
    let dir = tiny(family, |_| {});
    let mut learner = learner(dir.path(), config());
    let groups = groups();
    let advantages: Vec<_> = groups.iter().map(|g| random_advantages(g, g.problem.0 as u64)).collect();
    let objective = objective(&learner.spec().config.clone(), &groups);
    let packed = pack_all(&groups, &advantages, usize::MAX);
    let old = old_logprobs(&learner, &packed);
    let separate_groups: Vec<_> = groups.iter().map(unshared).collect();

    // A batch per trajectory: every sequence alone, its prompt computed again.
    let separate = pack_all(&separate_groups, &advantages, 1);
    assert_eq!(separate.len(), groups.iter().map(|g| g.trajectories.len()).sum::<usize>());
    assert!(separate.iter().all(PackedBatch::is_chain));
    let packed_rows: usize = packed.iter().map(PackedBatch::len).sum();
    let separate_rows: usize = separate.iter().map(PackedBatch::len).sum();
    assert!(packed_rows * 3 < separate_rows * 2, "{packed_rows} rows packed, {separate_rows} separate");

    let packed_logprobs: Vec<_> = packed.iter().map(|b| learner.logprobs(b, TEMPERATURE)).collect();
    let known = by_engine_logprob(&packed, &packed_logprobs);
    for batch in &separate {
        for (key, logprob) in batch.engine_logprobs.iter().zip(learner.logprobs(batch, TEMPERATURE)) {
            let difference = (known[&key.to_bits()] - logprob).abs();
            assert!(difference < 2e-5, "logprob of a shared token differs by {difference:e}");
        }
    }
    let whole = run(&mut learner, &packed, &objective, &old);
    assert!(whole.clipped > 20, "the test should clip, {} pairs", whole.clipped);
    let apart = run(&mut learner, &separate, &objective, &old);
    assert_same(&whole, &apart, "packed and separate");

    // Splits: one group per batch, groups cut into parts, a trajectory at a time.
    let mut sizes = Vec::new();
    for budget in [70, 45, 30, 1] {
        let batches = pack_all(&groups, &advantages, budget);
        sizes.push(batches.len());
        let split = run(&mut learner, &batches, &objective, &old);
        assert_same(&split, &whole, &format!("budget {budget}"));
        assert_eq!(split.tokens, whole.tokens, "a token counts once however the group is split");
    }
    assert!(sizes.windows(2).all(|w| w[0] <= w[1]) && sizes[3] > sizes[0], "{sizes:?}");

    for chunk in [1, 7, 4096] {
        let mut other = Learner::load(spec(dir.path(), TrainConfig { vocab_chunk_tokens: chunk, ..config() })).unwrap();
        assert_same(&run(&mut other, &packed, &objective, &old), &whole, &format!("chunk {chunk}"));
    }
    let checkpointed = TrainConfig { checkpoint_activations: true, ..config() };
    let mut other = Learner::load(spec(dir.path(), checkpointed)).unwrap();
    assert_same(&run(&mut other, &packed, &objective, &old), &whole, "checkpointing");
}

#[test]
fn llama_packed_equals_separate() {
    check_family(Family::Llama);
}

#[test]
fn qwen2_packed_equals_separate() {
    check_family(Family::Qwen2);
}

#[test]
fn qwen3_packed_equals_separate() {
    check_family(Family::Qwen3);
}

/// Shared tokens carry the advantages of all their trajectories, each divided by the length of its trajectory: the same
/// as each sequence alone, averaged over its own tokens.
#[test]
fn a_mean_over_trajectories_is_that_of_separate_sequences() {
    let dir = tiny(Family::Qwen3, |_| {});
    let mut config = TrainConfig { loss_mean: LossMean::Trajectory, minibatch_problems: 3, ..config() };
    let mut learner = learner(dir.path(), config.clone());
    let groups = groups();
    let settings = AdvantageSettings {
        form: config.advantage,
        credit: config.token_credit,
        drop_defective: config.drop_defective,
        q_temperature: config.q_temperature,
        q_max: config.q_max,
        overlong: None,
    };
    let raw: Vec<_> = groups.iter().map(|group| advantages(group, &settings)).collect();
    let old = old_logprobs(&learner, &pack_all(&groups, &raw, usize::MAX));
    let trajectories = groups.iter().map(|g| g.trajectories.len()).sum::<usize>() as f64;

    let separate_groups: Vec<_> = groups.iter().map(unshared).collect();
    let (mut loss, mut clipped) = (0.0, 0);
    learner.parameters.zero_grad();
    for batch in pack_all(&separate_groups, &raw, 1) {
        assert!(batch.is_chain());
        let denominator = trajectories * batch.targets.len() as f64;
        let objective = Objective { denominator, ..objective(&config, &groups) };
        let old: Vec<f32> = batch.engine_logprobs.iter().map(|lp| old[&lp.to_bits()]).collect();
        let sums = learner.accumulate(&batch, &objective, Some(&old));
        loss += sums.loss;
        clipped += sums.clipped_pairs;
    }
    let expected = Outcome { loss, clipped, tokens: 0, gradients: gradients(&learner) };
    assert!(clipped > 20, "the test should clip, {clipped} pairs");
    for budget in [4096, 70, 45, 1] {
        config.micro_batch_tokens = budget;
        let spec = spec(dir.path(), config.clone());
        let mini_batches = prepare(&groups, &spec, budget, 512, &mut StepReport::default()).unwrap();
        let [mini_batch] = mini_batches.as_slice() else { panic!("one update") };
        assert_eq!(mini_batch.denominator, trajectories);
        let objective = Objective { denominator: mini_batch.denominator, ..objective(&config, &groups) };
        let found = run(&mut learner, &mini_batch.batches, &objective, &old);
        assert_same(&found, &expected, &format!("budget {budget}"));
    }
}

#[test]
fn a_node_without_tokens_stands_for_its_parent() {
    let mut group = random_group(1, 512, 6, (2, 4));
    group.nodes[0].tokens.clear();
    group.nodes[0].logprobs.clear();
    let dir = tiny(Family::Qwen2, |_| {});
    let learner = learner(dir.path(), config());
    let advantages = vec![random_advantages(&group, 1)];
    let packed = pack_all(std::slice::from_ref(&group), &advantages, usize::MAX);
    let known = by_engine_logprob(&packed, &[learner.logprobs(&packed[0], TEMPERATURE)]);
    for batch in pack_all(&[unshared(&group)], &advantages, 1) {
        for (key, logprob) in batch.engine_logprobs.iter().zip(learner.logprobs(&batch, TEMPERATURE)) {
            assert!((known[&key.to_bits()] - logprob).abs() < 2e-5);
        }
    }
}

#[test]
fn broken_groups_are_refused_with_a_reason() {
    let check = |change: &dyn Fn(&mut TrajectoryGroup), expected: &str| {
        let mut group = random_group(1, 512, 6, (2, 4));
        change(&mut group);
        match pack::check_group(&group, 512) {
            Err(TrainerError::Group { reason, .. }) => assert!(reason.contains(expected), "`{reason}`"),
            other => panic!("expected `{expected}`, got {other:?}"),
        }
    };
    check(&|g| g.prompt.tokens = [].into(), "its prompt has no tokens");
    check(&|g| g.nodes[3].tokens[0] = 512, "token 512 of node 3 is outside the vocabulary of 512");
    check(&|g| g.nodes[2].parent = Some(5), "node 2 comes before its parent");
    check(&|g| g.nodes[2].logprobs.push(0.0), "logprobs");
    check(&|g| g.nodes[2].q_total = f64::NAN, "node 2 has the value NaN");
    check(&|g| g.trajectories[0].reward = f64::INFINITY, "trajectory 0 has the reward inf");
    check(&|g| g.trajectories[1].path.clear(), "trajectory 1 has no nodes");
    check(&|g| g.trajectories[1].path = vec![0, 9], "trajectory 1 does not follow the tree at node 9");
}

proptest! {
    /// Whatever the budget: every token of every trajectory is there with its advantages, no batch is over the budget
    /// unless it is one trajectory, and a row sees exactly its ancestors.
    #[test]
    fn packing_keeps_every_token(seed in 0u64..500, budget in 1usize..200) {
        let groups = vec![random_group(seed, 512, 1 + seed as usize % 9, (0, 5)), random_group(seed + 1, 512, 4, (1, 3))];
        let advantages: Vec<_> = groups.iter().map(|g| random_advantages(g, seed)).collect();
        let batches = pack_all(&groups, &advantages, budget);
        let mut sums: HashMap<u32, (f64, f64, u32)> = HashMap::new();
        let mut first_uses = 0;
        for batch in &batches {
            let leaves = batch.segments.iter().enumerate()
                .filter(|(i, _)| batch.segments.iter().all(|s| s.parent != Some(*i))).count();
            prop_assert!(batch.len() <= budget || leaves == 1, "{} rows, {leaves} leaves, budget {budget}", batch.len());
            for i in 0..batch.targets.len() {
                let sum = sums.entry(batch.engine_logprobs[i].to_bits()).or_default();
                sum.0 += batch.advantage_plus[i];
                sum.1 += batch.advantage_minus[i];
                sum.2 += batch.plus_count[i] + batch.minus_count[i];
                first_uses += usize::from(batch.is_first_use[i]);
            }
            let visible = batch.visibility();
            for segment in &batch.segments {
                let mut chain = vec![segment.rows.clone()];
                let mut parent = segment.parent;
                while let Some(index) = parent {
                    chain.push(batch.segments[index].rows.clone());
                    parent = batch.segments[index].parent;
                }
                for row in segment.rows.clone() {
                    let seen: Vec<usize> = (0..batch.len()).filter(|c| visible[row * batch.len() + c]).collect();
                    let mut expected: Vec<usize> = chain.iter().flat_map(|rows| rows.clone()).filter(|c| *c <= row).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(batch.positions[row] as usize + 1, seen.len());
                    prop_assert_eq!(seen, expected);
                }
            }
        }
        let mut expected: HashMap<u32, (f64, f64, u32)> = HashMap::new();
        for (group, advantages) in groups.iter().zip(&advantages) {
            for (trajectory, advantages) in group.trajectories.iter().zip(advantages) {
                for (&node, &a) in trajectory.path.iter().zip(advantages) {
                    for logprob in &group.nodes[node].logprobs {
                        let sum = expected.entry(logprob.to_bits()).or_default();
                        sum.0 += a.max(0.0);
                        sum.1 += a.min(0.0);
                        sum.2 += 1;
                    }
                }
            }
        }
        prop_assert_eq!(first_uses, expected.len());
        prop_assert_eq!(sums.len(), expected.len());
        for (key, e) in &expected {
            let s = &sums[key];
            prop_assert!((s.0 - e.0).abs() < 1e-12 && (s.1 - e.1).abs() < 1e-12 && s.2 == e.2);
        }
    }
}
