//! What a training step says of itself: plain numbers, each of which becomes a metric row.

use std::time::Duration;

/// One training step: any number of optimizer steps on one set of groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Groups trained on.
    pub groups_used: usize,
    /// Groups without signal: every advantage zero.
    pub groups_skipped: usize,
    /// Trajectories of the groups trained on.
    pub trajectories: usize,
    /// Trajectories left out since their verdict is an error.
    pub trajectories_dropped: usize,
    /// Trajectories left out since their text is bad data and not a correct answer.
    pub trajectories_defective: usize,
    /// Rows computed per pass over the data, prompts included.
    pub packed_tokens: usize,
    /// Rows that separate sequences would have taken.
    pub trajectory_tokens: usize,
    /// Sampled tokens over all trajectories, shared ones once per trajectory: what losses are averaged over.
    pub response_tokens: usize,
    /// Distinct sampled tokens: what the statistics below are taken over.
    pub distinct_tokens: usize,
    /// Mean of -logprob of the sampled tokens under the weights at the start of the step, in nats. Tokens of cached
    /// solutions are not samples of these weights and are left out.
    pub entropy_nats: f64,
    /// Trainer against engine, before the first update; without the tokens of cached solutions.
    pub mismatch: Mismatch,
    /// How far the weights have moved away from those that sampled the cached solutions.
    pub cached: CachedDrift,
    /// Most rows of a micro-batch: `train.micro_batch_tokens`, or what memory has left of it.
    pub budget_tokens: usize,
    /// How often memory ran out and a mini-batch was repeated with half the budget, which changes no result.
    pub out_of_memory: usize,
    /// One entry per mini-batch, in order.
    pub updates: Vec<UpdateReport>,
    /// Where the time went.
    pub time: PhaseTimes,
}

impl StepReport {
    /// Optimizer steps done.
    pub fn updates_done(&self) -> usize {
        self.updates.iter().filter(|u| u.skipped.is_none()).count()
    }

    /// Optimizer steps skipped.
    pub fn updates_skipped(&self) -> usize {
        self.updates.len() - self.updates_done()
    }

    /// Mean loss over the mini-batches; NaN where there was none.
    pub fn loss(&self) -> f64 {
        self.mean(|u| u.loss)
    }

    /// Mean gradient norm before clipping; NaN where there was no mini-batch.
    pub fn grad_norm(&self) -> f64 {
        self.mean(|u| u.grad_norm)
    }

    /// Mean share of (trajectory, token) pairs whose clip was active; NaN where there was no mini-batch.
    pub fn clip_frac(&self) -> f64 {
        self.mean(|u| u.clip_frac)
    }

    /// Mean ratio new/old over the mini-batches; NaN where there was none.
    pub fn mean_ratio(&self) -> f64 {
        self.mean(|u| u.mean_ratio)
    }

    fn mean(&self, value: impl Fn(&UpdateReport) -> f64) -> f64 {
        self.updates.iter().map(value).sum::<f64>() / self.updates.len() as f64
    }
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateReport {
    /// Loss over the mini-batch.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Share of (trajectory, token) pairs whose clip was active.
    pub clip_frac: f64,
    /// Share of pairs bounded by the dual clip.
    pub dual_clip_frac: f64,
    /// Mean ratio new/old over distinct sampled tokens; exactly 1 in the first mini-batch of a step, unless the old
    /// policy is the engine's.
    pub mean_ratio: f64,
    /// Why no update was made.
    pub skipped: Option<SkipReason>,
}

/// Why a mini-batch did not become an update. Weights and moments are as before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// A gradient holds NaN or infinity.
    NonFiniteGradient {
        /// First such parameter.
        parameter: String,
    },
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SkipReason::NonFiniteGradient { parameter } => write!(f, "non-finite gradient in `{parameter}`"),
        }
    }
}

/// exp(trainer - engine) of the sampled tokens: how far the engine's probabilities are from the trainer's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Tokens compared.
    pub tokens: usize,
    /// Tokens without an engine logprob; their correction is neutral.
    pub missing: usize,
    /// Mean ratio; NaN where nothing was compared, as all below.
    pub mean_ratio: f64,
    /// Median ratio.
    pub p50_ratio: f64,
    /// 99th percentile.
    pub p99_ratio: f64,
    /// Share outside [0.9, 1.1].
    pub outside_frac: f64,
    /// Mean of |trainer - engine| in nats.
    pub mean_abs_nats: f64,
}

impl Default for Mismatch {
    fn default() -> Self {
        Mismatch::new(Vec::new(), 0)
    }
}

impl Mismatch {
    /// From the differences trainer - engine in nats, `[tokens]`, and the number of tokens without an engine logprob.
    pub fn new(differences_nats: Vec<f64>, missing: usize) -> Mismatch {
        let tokens = differences_nats.len();
        let n = tokens as f64;
        let mean_abs_nats = differences_nats.iter().map(|d| d.abs()).sum::<f64>() / n;
        let mut ratios: Vec<f64> = differences_nats.into_iter().map(f64::exp).collect();
        ratios.sort_by(f64::total_cmp);
        let quantile = |q: f64| ratios.get(((n - 1.0) * q).round() as usize).copied().unwrap_or(f64::NAN);
        Mismatch {
            tokens,
            missing,
            mean_ratio: ratios.iter().sum::<f64>() / n,
            p50_ratio: quantile(0.5),
            p99_ratio: quantile(0.99),
            outside_frac: ratios.iter().filter(|r| !(0.9..=1.1).contains(*r)).count() as f64 / n,
            mean_abs_nats,
        }
    }
}

/// exp(trainer - behaviour) of the tokens of cached solutions: trainer at the start of the step, behaviour the weights
/// that once sampled them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CachedDrift {
    /// Tokens with a known behaviour logprob.
    pub tokens: usize,
    /// Tokens without one; their weight is the policy's own probability.
    pub missing: usize,
    /// Mean ratio before the cap; NaN where there are no tokens, as all below.
    pub mean_ratio: f64,
    /// 99th percentile before the cap.
    pub p99_ratio: f64,
    /// Share of tokens whose ratio is above `train.cached_importance_cap`.
    pub capped_frac: f64,
}

impl Default for CachedDrift {
    fn default() -> Self {
        CachedDrift::new(Vec::new(), 0, f64::INFINITY)
    }
}

impl CachedDrift {
    /// From the differences trainer - behaviour in nats, the number of tokens without a behaviour logprob, and the cap.
    pub fn new(differences_nats: Vec<f64>, missing: usize, cap: f64) -> CachedDrift {
        let tokens = differences_nats.len();
        let n = tokens as f64;
        let mut ratios: Vec<f64> = differences_nats.into_iter().map(f64::exp).collect();
        ratios.sort_by(f64::total_cmp);
        CachedDrift {
            tokens,
            missing,
            mean_ratio: ratios.iter().sum::<f64>() / n,
            p99_ratio: ratios.get(((n - 1.0) * 0.99).round() as usize).copied().unwrap_or(f64::NAN),
            capped_frac: ratios.iter().filter(|ratio| **ratio > cap).count() as f64 / n,
        }
    }
}

/// Wall time of the phases of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    /// Advantages and packing.
    pub pack: Duration,
    /// Logprobs under the weights at the start of the step (later mini-batches only; the first has them for free).
    pub old_logprobs: Duration,
    /// Forward and backward passes.
    pub gradient: Duration,
    /// Clipping and AdamW.
    pub optimizer: Duration,
}
