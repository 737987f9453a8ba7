//! Groups to the micro-batches of each optimizer step, and what is measured on their tokens before the first of them.

use super::advantage::{self, AdvantageSettings, Overlong};
use super::error::TrainerError;
use super::learner::TrainerSpec;
use super::logprob::to_vec;
use super::pack::{self, PackedBatch, WeighedGroup};
use super::report::{CachedDrift, Mismatch, StepReport};
use tch::Tensor;

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
    /// The budget that `batches` keep to.
    budget_tokens: usize,
    /// What they are packed from: groups with the advantages of each trajectory's nodes.
    groups: Vec<(TrajectoryGroup, Vec<Vec<f64>>)>,
}

impl MiniBatch {
    /// Rows of the longest trajectory with its prompt, which no budget divides.
    pub fn longest_tokens(&self) -> usize {
        let longest = |group: &TrajectoryGroup| {
            let response = (0..group.trajectories.len()).map(|t| pack::response_tokens(group, t)).max();
            response.map_or(0, |tokens| tokens + group.prompt.tokens.len())
        };
        self.groups.iter().map(|(group, _)| longest(group)).max().unwrap_or(0)
    }

    /// Rows of the largest micro-batch.
    pub fn largest_tokens(&self) -> usize {
        self.batches.iter().map(PackedBatch::len).max().unwrap_or(0)
    }

    /// Packs again with another budget. Returns, for every scored token in the order of the new micro-batches, where it
    /// was among those of the old ones, `[P]`; `None` where the budget is the one it has.
    pub fn repack(&mut self, budget_tokens: usize) -> Option<Vec<i64>> {
        if budget_tokens == self.budget_tokens {
            return None;
        }
        let (before, after) = (self.ordinals(self.budget_tokens), self.ordinals(budget_tokens));
        let mut places = vec![0; before.iter().max().map_or(0, |&last| last as usize + 1)];
        for (place, &ordinal) in (0..).zip(&before) {
            places[ordinal as usize] = place;
        }
        self.batches = pack_groups(&self.groups, budget_tokens);
        self.budget_tokens = budget_tokens;
        Some(after.into_iter().map(|ordinal| places[ordinal as usize]).collect())
    }

    /// Which token of the groups each scored token of a packing is. A packing depends on lengths, paths and advantages
    /// and carries a number for each token, the engine's logprob; here the token's ordinal travels in its place, as
    /// bits that nothing computes with.
    fn ordinals(&self, budget_tokens: usize) -> Vec<u32> {
        let mut numbered = self.groups.clone();
        let nodes = numbered.iter_mut().flat_map(|(group, _)| &mut group.nodes);
        for (ordinal, logprob) in (0..).zip(nodes.flat_map(|node| &mut node.logprobs)) {
            *logprob = f32::from_bits(ordinal);
        }
        let batches = pack_groups(&numbered, budget_tokens);
        batches.iter().flat_map(|batch| &batch.engine_logprobs).map(|number| number.to_bits()).collect()
    }
}

fn pack_groups(groups: &[(TrajectoryGroup, Vec<Vec<f64>>)], budget_tokens: usize) -> Vec<PackedBatch> {
    let weighed: Vec<_> = groups.iter().map(|(group, advantages)| WeighedGroup { group, advantages }).collect();
    pack::pack(&weighed, budget_tokens)
}

/// Groups to mini-batches, with the counts of the report. A group without signal is not computed but counts in its
/// mini-batch's denominator, so that leaving it out changes nothing but time: otherwise the few groups that are left
/// late in training would move the weights as far as all of them did at first. `budget_tokens` is the most rows of a
/// micro-batch.
///
/// # Errors
/// [`TrainerError::Group`].
pub fn prepare(
    groups: &[TrajectoryGroup],
    spec: &TrainerSpec,
    budget_tokens: usize,
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
    let mut rest = weighed.into_iter().peekable();
    while rest.peek().is_some() {
        let (mut pairs, mut trajectories) = (0, 0);
        let mut used = Vec::with_capacity(chunk_size);
        for (group, mut advantages) in rest.by_ref().take(chunk_size) {
            let lengths: Vec<usize> = (0..group.trajectories.len()).map(|t| pack::response_tokens(&group, t)).collect();
            let response: usize = lengths.iter().sum();
            pairs += response;
            trajectories += lengths.len();
            if !advantage::has_signal(&advantages) {
                report.groups_skipped += 1;
                continue;
            }
            if config.loss_mean == LossMean::Trajectory {
                divide(&mut advantages, &lengths);
            }
            report.response_tokens += response;
            report.trajectories += lengths.len();
            report.trajectory_tokens += response + lengths.len() * group.prompt.tokens.len();
            used.push((group, advantages));
        }
        report.groups_used += used.len();
        if used.is_empty() {
            continue;
        }
        let batches = pack_groups(&used, budget_tokens);
        report.distinct_tokens += batches.iter().flat_map(|b| &b.is_first_use).filter(|&&first| first).count();
        let has_cached = batches.iter().flat_map(|b| &b.is_cached).any(|&cached| cached);
        let denominator = match config.loss_mean {
            LossMean::Token => pairs,
            LossMean::Trajectory => trajectories,
        } as f64;
        mini_batches.push(MiniBatch { batches, pairs, denominator, has_cached, budget_tokens, groups: used });
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
    /// Logprobs `[P]` of the scored tokens of each batch, on any device; read at once.
    pub fn add_all(&mut self, batches: &[PackedBatch], logprobs: &[Tensor]) {
        if logprobs.is_empty() {
            return;
        }
        let all = to_vec(&Tensor::cat(logprobs, 0));
        let mut first = 0;
        for batch in batches {
            let end = first + batch.targets.len();
            self.add(batch, 0, all.get(first..end).unwrap_or_default());
            first = end;
        }
    }

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
