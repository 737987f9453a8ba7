//! What is trained on and with which weight: bad data, cached solutions.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod trainer_support;

use orchestrator::config::{OldLogprobs, TrainConfig};
use orchestrator::trainer::advantage::{advantages, has_signal};
use orchestrator::trainer::loss::Objective;
use orchestrator::trainer::minibatch::{Dropped, advantage_settings, weigh};
use orchestrator::trainer::pack;
use orchestrator::trainer::{Family, Learner, TrainerError};
use orchestrator::types::{Defect, Provenance, TrajectoryGroup, Verdict};
use trainer_support::*;

/// As every trajectory were a rollout of its own, one of them from the cache.
fn with_cached(seed: u64, trajectory: usize) -> TrajectoryGroup {
    let mut group = unshared(&random_group(seed, 512, 6, (2, 5)));
    group.trajectories[trajectory].provenance = Provenance::Cached;
    group
}

/// Gives the nodes of a trajectory the logprobs of `learner`, moved by what `shift` says of each token.
fn set_logprobs(learner: &Learner, group: &mut TrajectoryGroup, trajectory: usize, shift: impl Fn(usize) -> f32) {
    let path = group.trajectories[trajectory].path.clone();
    let mut tokens = group.prompt.tokens.to_vec();
    tokens.extend(path.iter().flat_map(|&node| group.nodes[node].tokens.clone()));
    let scores = learner.score(&tokens, 0.8).unwrap();
    let mut scores = scores[group.prompt.tokens.len() - 1..].iter().enumerate().map(|(i, score)| score + shift(i));
    for node in path {
        group.nodes[node].logprobs.fill_with(|| scores.next().unwrap());
    }
}

fn tokens_of(group: &TrajectoryGroup, trajectory: usize) -> usize {
    pack::response_tokens(group, trajectory)
}

#[test]
fn incorrect_answers_with_a_defect_are_left_out_of_the_update_but_not_of_the_baseline() {
    let dir = tiny(Family::Qwen2, |_| {});
    let mut marked = random_group(3, 512, 6, (2, 5));
    marked.trajectories[0].defect = Some(Defect::Repetition);
    marked.trajectories[1].defect = Some(Defect::Garbled);
    marked.trajectories[3].defect = Some(Defect::InvalidUtf8);
    marked.trajectories[3].verdict = Verdict::Error;
    assert_eq!(marked.trajectories[0].verdict, Verdict::Correct);
    let settings = advantage_settings(&config(), 4096);
    let (kept, weights, dropped) = weigh(&marked, &settings);
    assert_eq!(dropped, Dropped { errors: 1, defective: 1 });
    assert_eq!(kept.trajectories.len(), 3);

    let mut judged = marked.clone();
    judged.trajectories.remove(3);
    let mut expected = advantages(&judged, &settings);
    expected.remove(1);
    assert_eq!(weights, expected, "a garbled failure is a failure");
    judged.trajectories.remove(1);
    assert_ne!(weights, advantages(&judged, &settings), "the baseline is that of all that was judged");

    let report = learner(dir.path(), config()).update(&[marked]).unwrap();
    assert_eq!((report.trajectories, report.trajectories_dropped, report.trajectories_defective), (3, 1, 1));
}

/// One success beside failures that are all unfit: the success stands out, and is trained on.
#[test]
fn a_lone_success_among_garbled_failures_has_a_signal() {
    let mut group = random_group(3, 512, 6, (2, 5));
    for trajectory in &mut group.trajectories[1..] {
        trajectory.verdict = Verdict::Incorrect;
        trajectory.reward = -1.0;
        trajectory.defect = Some(Defect::Repetition);
    }
    let (kept, weights, _) = weigh(&group, &advantage_settings(&config(), 4096));
    assert_eq!(kept.trajectories.len(), 1);
    assert!(has_signal(&weights));
}

/// Whatever serves as old policy of the others and whether they are corrected or not, a cached token's gradient is that
/// of ratio 1 times min(cap, trainer / behaviour).
#[test]
fn cached_tokens_are_weighed_by_the_policy_that_sampled_them() {
    let dir = tiny(Family::Qwen3, |_| {});
    for (old_logprobs, importance_cap) in
        [(OldLogprobs::Recompute, 0.0), (OldLogprobs::Recompute, 2.0), (OldLogprobs::Engine, 2.0)]
    {
        let config = TrainConfig { old_logprobs, importance_cap, cached_importance_cap: 1.8, ..config() };
        let mut learner = learner(dir.path(), config.clone());
        let mut group = with_cached(5, 1);
        // Behaviour logprobs below and above the trainer's, some so low that the cap holds; one is not known.
        let shifts = [-0.2f32, 0.4, -1.0, -0.5];
        set_logprobs(&learner, &mut group, 1, |i| shifts[i % 4]);
        let first = group.trajectories[1].path[0];
        let known = f64::from(group.nodes[first].logprobs[0] - shifts[0]);
        group.nodes[first].logprobs[0] = f32::NAN;

        let advantages = vec![random_advantages(&group, 2)];
        let objective = Objective {
            clip_low: config.clip_low,
            clip_high: config.clip_high,
            dual_clip: config.dual_clip,
            importance_cap,
            cached_importance_cap: config.cached_importance_cap,
            denominator: 7.0,
        };
        let batch = pack_all(std::slice::from_ref(&group), &advantages, usize::MAX).remove(0);
        assert_eq!(batch.is_cached.iter().filter(|cached| **cached).count(), tokens_of(&group, 1));
        let mut expected = batch.clone();
        let mut at = 0;
        for i in 0..batch.targets.len() {
            if !batch.is_cached[i] {
                continue;
            }
            let weight = if at == 0 { known.exp() } else { f64::from(-shifts[at % 4]).exp().min(1.8) };
            at += 1;
            expected.advantage_plus[i] *= weight;
            expected.advantage_minus[i] *= weight;
            expected.is_cached[i] = false;
            expected.engine_logprobs[i] = f32::NAN;
        }
        let mut found = Vec::new();
        for batch in [&batch, &expected] {
            learner.parameters.zero_grad();
            let sums = learner.accumulate(batch, &objective, None);
            found.push((sums.loss, gradients(&learner)));
        }
        let [(loss, gradient), (expected_loss, expected_gradient)] = <[_; 2]>::try_from(found).unwrap();
        assert!((loss - expected_loss).abs() < 1e-5, "{old_logprobs:?}: {loss} and {expected_loss}");
        let error = relative_l2(gradient.into_iter().zip(expected_gradient));
        assert!(error < 1e-5, "{old_logprobs:?}, cap {importance_cap}: gradients differ by {error:e}");
    }
}

#[test]
fn cached_tokens_have_statistics_of_their_own() {
    let dir = tiny(Family::Qwen2, |_| {});
    for old_logprobs in [OldLogprobs::Recompute, OldLogprobs::Engine] {
        let config = TrainConfig { old_logprobs, minibatch_problems: 1, cached_importance_cap: 1.5, ..config() };
        let mut learner = learner(dir.path(), config);
        let mut groups = vec![with_cached(1, 0), with_cached(2, 3)];
        // A ratio of 2 everywhere, which is above the cap; in the second group below 1.
        set_logprobs(&learner, &mut groups[0], 0, |_| -std::f32::consts::LN_2);
        set_logprobs(&learner, &mut groups[1], 3, |_| 0.1);
        let (a, b) = (tokens_of(&groups[0], 0) as f64, tokens_of(&groups[1], 3) as f64);
        let report = learner.update(&groups).unwrap();
        assert_eq!(report.updates_done(), 2);
        let cached = report.cached;
        assert_eq!((cached.tokens, cached.missing), ((a + b) as usize, 0), "those of the second update too");
        let mean = (2.0 * a + (-0.1f64).exp() * b) / (a + b);
        assert!((cached.mean_ratio - mean).abs() < 1e-4, "{} and {mean}", cached.mean_ratio);
        assert!((cached.p99_ratio - 2.0).abs() < 1e-4 && (cached.capped_frac - a / (a + b)).abs() < 1e-9);
        let others = report.mismatch.tokens + report.mismatch.missing;
        assert!(others > 0 && others <= report.distinct_tokens - cached.tokens);
        if old_logprobs == OldLogprobs::Recompute {
            assert_eq!(others, report.distinct_tokens - cached.tokens);
        }
    }
}

#[test]
fn what_a_rollout_shares_with_a_cached_solution_is_not_cached() {
    let mut group = random_group(3, 512, 6, (2, 4));
    group.trajectories[0].provenance = Provenance::Cached;
    let own = group.nodes[*group.trajectories[0].path.last().unwrap()].tokens.len();
    let advantages = vec![random_advantages(&group, 2)];
    for budget in [usize::MAX, 1] {
        let batches = pack_all(std::slice::from_ref(&group), &advantages, budget);
        let cached: usize = batches.iter().flat_map(|b| &b.is_cached).filter(|cached| **cached).count();
        let others = group.trajectories.iter().skip(1).flat_map(|t| &t.path);
        let shared: std::collections::HashSet<_> = others.collect();
        let alone = group.trajectories[0].path.iter().filter(|node| !shared.contains(node));
        let expected: usize = alone.map(|&node| group.nodes[node].tokens.len()).sum();
        assert_eq!(cached, expected);
        assert!(cached >= own && cached < tokens_of(&group, 0));
    }
}

#[test]
fn a_cap_of_cached_tokens_cannot_be_off() {
    let dir = tiny(Family::Qwen2, |_| {});
    let config = TrainConfig { cached_importance_cap: 0.0, ..config() };
    let error = Learner::load(spec(dir.path(), config)).err().unwrap();
    assert!(matches!(error, TrainerError::Setting { key: "train.cached_importance_cap", .. }), "{error}");
}
