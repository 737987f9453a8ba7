//! Groups to the micro-batches of each optimizer step, and what is measured on their tokens before the first of them.

use super::advantage::{self, AdvantageSettings, Overlong};
use super::error::TrainerError;
use super::learner::TrainerSpec;
use super::pack::{self, PackedBatch, WeighedGroup};
use super::report::{CachedDrift, Mismatch, StepReport};
use crate::config::{LossMean, TrainConfig};
use crate::types::{Trajectory, TrajectoryGroup, Verdict};

/// The micro-batches of one optimizer step.
pub struct MiniBatch {
    /// In order.
    pub batches: Vec<PackedBatch>,
    /// (trajectory, token) pairs, those of groups without signal included.
    pub pairs: usize,
    /// D of the objective: what the sum of the losses is divided by.
    pub denominator: f64,
    /// Whether there is a token of a cached solution.
    pub has_cached: bool,
}

/// Groups to mini-batches, with the counts of the report. A group without signal is not computed but counts in its
/// mini-batch's denominator, so that leaving it out changes nothing but time: otherwise the few groups that are left
/// late in training would move the weights as far as all of them did at first.
///
/// # Errors
/// [`TrainerError::Group`].
pub fn prepare(
    groups: &[TrajectoryGroup],
    spec: &TrainerSpec,
    vocab_size: usize,
    report: &mut StepReport,
) -> Result<Vec<MiniBatch>, TrainerError> {
    let config = &spec.config;
    let settings = advantage_settings(config, spec.response_budget_tokens);
    let mut weighed: Vec<(TrajectoryGroup, Vec<Vec<f64>>)> = Vec::with_capacity(groups.len());
    for group in groups {
        pack::check_group(group, vocab_size)?;
        let (group, advantages, dropped) = weigh(group, &settings);
        report.trajectories_dropped += dropped.errors;
        report.trajectories_defective += dropped.defective;
        weighed.push((group, advantages));
    }
    let mut mini_batches = Vec::new();
    // Chunks of equal size: a rest of one problem would weigh as much as a full mini-batch, since AdamW normalises.
    let updates = weighed.len().div_ceil(config.minibatch_problems as usize).max(1);
    let chunk_size = weighed.len().div_ceil(updates).max(1);
    for chunk in weighed.chunks_mut(chunk_size) {
        let (mut pairs, mut trajectories) = (0, 0);
        let mut used = Vec::with_capacity(chunk.len());
        for (group, advantages) in chunk {
            let lengths: Vec<usize> = (0..group.trajectories.len()).map(|t| pack::response_tokens(group, t)).collect();
            let response: usize = lengths.iter().sum();
            pairs += response;
            trajectories += lengths.len();
            if !advantage::has_signal(advantages) {
                report.groups_skipped += 1;
                continue;
            }
            if config.loss_mean == LossMean::Trajectory {
                divide(advantages, &lengths);
            }
            used.push(WeighedGroup { group, advantages });
            report.response_tokens += response;
            report.trajectories += lengths.len();
            report.trajectory_tokens += response + lengths.len() * group.prompt.tokens.len();
        }
        report.groups_used += used.len();
        if used.is_empty() {
            continue;
        }
        let batches = pack::pack(&used, config.micro_batch_tokens);
        report.packed_tokens += batches.iter().map(PackedBatch::len).sum::<usize>();
        report.distinct_tokens += batches.iter().flat_map(|b| &b.is_first_use).filter(|&&first| first).count();
        let has_cached = batches.iter().flat_map(|b| &b.is_cached).any(|&cached| cached);
        let denominator = match config.loss_mean {
            LossMean::Token => pairs,
            LossMean::Trajectory => trajectories,
        } as f64;
        mini_batches.push(MiniBatch { batches, pairs, denominator, has_cached });
    }
    Ok(mini_batches)
}

/// Trajectories left out of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Their check failed.
    pub errors: usize,
    /// Their text is bad data, and not a correct answer.
    pub defective: usize,
}

/// A group with its advantages, without what must not be trained on: an error of the verifier says nothing of the answer,
/// and incorrect answers that are garbled or loop lead to collapse (DeepSearch, arXiv 2509.25454, section 3.4).
///
/// The latter still count in the baseline. They were failures, and a group of one success and seven of them would
/// otherwise be one in which everything succeeded.
pub fn weigh(group: &TrajectoryGroup, settings: &AdvantageSettings) -> (TrajectoryGroup, Vec<Vec<f64>>, Dropped) {
    let mut judged = group.clone();
    judged.trajectories.retain(|trajectory| trajectory.verdict.is_settled());
    let errors = group.trajectories.len() - judged.trajectories.len();
    let mut advantages = advantage::advantages(&judged, settings);
    let is_fit = |t: &Trajectory| !settings.drop_defective || t.defect.is_none() || t.verdict == Verdict::Correct;
    let fit: Vec<bool> = judged.trajectories.iter().map(is_fit).collect();
    let mut kept = fit.iter();
    judged.trajectories.retain(|_| kept.next() == Some(&true));
    let mut kept = fit.iter();
    advantages.retain(|_| kept.next() == Some(&true));
    let defective = fit.len() - advantages.len();
    (judged, advantages, Dropped { errors, defective })
}

/// Divides the advantages of each trajectory by its number of tokens, so that their sum over tokens is a mean.
fn divide(advantages: &mut [Vec<f64>], lengths: &[usize]) {
    for (nodes, &tokens) in advantages.iter_mut().zip(lengths) {
        for advantage in nodes {
            *advantage /= tokens.max(1) as f64;
        }
    }
}

/// How a run's values become advantages.
pub fn advantage_settings(config: &TrainConfig, response_budget_tokens: u32) -> AdvantageSettings {
    let overlong = (config.overlong_buffer_tokens > 0).then_some(Overlong {
        response_budget_tokens,
        buffer_tokens: config.overlong_buffer_tokens,
        factor: config.overlong_factor,
    });
    AdvantageSettings {
        form: config.advantage,
        credit: config.token_credit,
        drop_defective: config.drop_defective,
        q_temperature: config.q_temperature,
        q_max: config.q_max,
        overlong,
    }
}

/// What the trainer and those who sampled think of the tokens at the start of a step.
#[derive(Default)]
pub struct Start {
    neg_logprob: f64,
    tokens: usize,
    now: Differences,
    cached: Differences,
}

/// Trainer minus engine in nats.
#[derive(Default)]
struct Differences {
    nats: Vec<f64>,
    missing: usize,
}

impl Start {
    /// `logprobs` are those of the scored tokens from `first` on.
    pub fn add(&mut self, batch: &PackedBatch, first: usize, logprobs: &[f32]) {
        for (index, &logprob) in (first..).zip(logprobs) {
            if !batch.is_first_use[index] {
                continue;
            }
            let differences = if batch.is_cached[index] {
                &mut self.cached
            } else {
                self.tokens += 1;
                self.neg_logprob -= f64::from(logprob);
                &mut self.now
            };
            let engine = batch.engine_logprobs[index];
            if engine.is_nan() {
                differences.missing += 1;
            } else {
                differences.nats.push(f64::from(logprob) - f64::from(engine));
            }
        }
    }

    /// Writes the statistics into `report`.
    pub fn conclude(self, cached_importance_cap: f64, report: &mut StepReport) {
        report.entropy_nats = self.neg_logprob / self.tokens as f64;
        report.mismatch = Mismatch::new(self.now.nats, self.now.missing);
        report.cached = CachedDrift::new(self.cached.nats, self.cached.missing, cached_importance_cap);
    }
}
