//! The token objective: PPO clip with two bounds, dual clip, truncated importance weight. Plain f64, no tensors.
//!
//! One row stands for a token of the packed forest, which n trajectories may share. With r = exp(logp - old), the sum
//! of the n clipped losses depends on the trajectories only through A+ (the sum of their positive advantages) and A-
//! (of their negative ones), so a shared token is exact:
//!
//!   loss = w * (-A+ * min(r, 1 + clip_high) + |A-| * min(dual_clip, max(r, 1 - clip_low))) / D
//!
//! w = min(cap, exp(old_trainer - engine)) corrects for the engine having sampled from slightly other probabilities
//! than the trainer computes; a missing engine logprob makes it 1. For a cached solution the same weight, under a cap of
//! its own, corrects for the older weights that sampled it. D is the number of (trajectory, token) pairs of the
//! mini-batch, fixed before its first micro-batch, so no split of the mini-batch changes the gradient. With a mean over
//! trajectories D is their number, and the advantages come divided by the length of their trajectory: positive factors
//! go inside A+ and A-.
//!
//! Absent on purpose: KL, entropy bonus, sequence-level ratios (those do not keep the two-sum form).

/// |logp - old| beyond this is clamped, so that exp stays finite; every such ratio is far outside all clips.
pub(super) const LOG_RATIO_LIMIT: f64 = 20.0;

/// The objective's settings and denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Lower clip: 1 - clip_low bounds the ratio where advantages are negative.
    pub clip_low: f64,
    /// Upper clip: 1 + clip_high bounds the ratio where advantages are positive.
    pub clip_high: f64,
    /// Bound of the ratio where advantages are negative.
    pub dual_clip: f64,
    /// Cap of the importance weight; 0 is off.
    pub importance_cap: f64,
    /// Cap of the importance weight of tokens of cached solutions, above 0.
    pub cached_importance_cap: f64,
    /// D: (trajectory, token) pairs of the mini-batch, or its trajectories.
    pub denominator: f64,
}

/// What the objective needs of one row.
#[derive(Clone, Copy, Debug)]
pub struct TokenInputs {
    /// Logprob under the current weights, in nats.
    pub logprob: f64,
    /// Logprob under the old policy of the ratio.
    pub old_logprob: f64,
    /// w, from [`Objective::importance_weight`].
    pub importance_weight: f64,
    /// A+, at least 0.
    pub advantage_plus: f64,
    /// A-, at most 0.
    pub advantage_minus: f64,
}

/// Loss of one row and its derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLoss {
    /// Share of the mini-batch's loss.
    pub loss: f64,
    /// d loss / d logprob.
    pub gradient: f64,
    /// r.
    pub ratio: f64,
    /// r is above 1 + clip_high: trajectories with a positive advantage push no further.
    pub is_clipped_high: bool,
    /// r is below 1 - clip_low: trajectories with a negative advantage push no further.
    pub is_clipped_low: bool,
    /// r is above dual_clip: trajectories with a negative advantage are bounded.
    pub is_dual_clipped: bool,
}

impl Objective {
    /// w of one token. `trainer` is its logprob under the weights at the start of the step, computed here; `engine` what
    /// the engine returned when it was sampled, by older weights if it is of a cached solution; NaN where there is none: 1
    /// for a sampled token, the policy's own probability for one of a solution that was brought in.
    pub fn importance_weight(&self, trainer: f64, engine: f64, is_cached: bool) -> f64 {
        let cap = if is_cached { self.cached_importance_cap } else { self.importance_cap };
        if cap <= 0.0 || (engine.is_nan() && !is_cached) {
            return 1.0;
        }
        // Who wrote a solution that was brought in is not known; that it was written is, so the behaviour had
        // probability 1 and the weight is the policy's own probability: never above 1.
        let engine = if engine.is_nan() { 0.0 } else { engine };
        (trainer - engine).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().min(cap)
    }

    /// Loss and derivative of one row.
    pub fn token(&self, t: TokenInputs) -> TokenLoss {
        let log_ratio = t.logprob - t.old_logprob;
        let ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp();
        let (upper, lower) = (1.0 + self.clip_high, 1.0 - self.clip_low);
        let is_clipped_high = ratio > upper;
        let is_clipped_low = ratio < lower;
        let is_dual_clipped = ratio > self.dual_clip;
        let scale = t.importance_weight / self.denominator;
        let plus = -t.advantage_plus;
        let minus = -t.advantage_minus;
        let loss = scale * (plus * ratio.min(upper) + minus * ratio.max(lower).min(self.dual_clip));
        // d ratio / d logprob = ratio, and 0 where a bound is active.
        let mut gradient = 0.0;
        if !is_clipped_high {
            gradient += plus * ratio;
        }
        if !is_clipped_low && !is_dual_clipped {
            gradient += minus * ratio;
        }
        TokenLoss { loss, gradient: scale * gradient, ratio, is_clipped_high, is_clipped_low, is_dual_clipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTIVE: Objective = Objective {
        clip_low: 0.2,
        clip_high: 0.28,
        dual_clip: 10.0,
        importance_cap: 2.0,
        cached_importance_cap: 3.0,
        denominator: 1.0,
    };

    fn at(ratio: f64, plus: f64, minus: f64) -> TokenLoss {
        OBJECTIVE.token(TokenInputs {
            logprob: ratio.ln(),
            old_logprob: 0.0,
            importance_weight: 1.0,
            advantage_plus: plus,
            advantage_minus: minus,
        })
    }

    /// The published form, one trajectory at a time.
    fn published(ratio: f64, advantage: f64) -> f64 {
        let clipped = (-advantage * ratio).max(-advantage * ratio.clamp(0.8, 1.28));
        if advantage < 0.0 { clipped.min(-advantage * 10.0) } else { clipped }
    }

    #[test]
    fn two_sums_equal_the_sum_over_trajectories() {
        for ratio in [1e-4, 0.5, 0.79, 0.81, 1.0, 1.27, 1.29, 5.0, 9.9, 10.1, 1e3] {
            let advantages = [1.6, 0.3, -0.4, -0.05, 0.0];
            let each: f64 = advantages.iter().map(|&a| published(ratio, a)).sum();
            let plus: f64 = advantages.iter().filter(|a| **a > 0.0).sum();
            let minus: f64 = advantages.iter().filter(|a| **a < 0.0).sum();
            assert!((at(ratio, plus, minus).loss - each).abs() < 1e-12, "ratio {ratio}");
        }
    }

    #[test]
    fn gradient_is_the_derivative_of_the_loss() {
        for ratio in [0.1_f64, 0.5, 0.9, 1.0, 1.2, 1.5, 4.0, 20.0] {
            let h = 1e-6;
            let (up, down) = (at((ratio.ln() + h).exp(), 1.0, -0.7), at((ratio.ln() - h).exp(), 1.0, -0.7));
            let numeric = (up.loss - down.loss) / (2.0 * h);
            assert!((at(ratio, 1.0, -0.7).gradient - numeric).abs() < 1e-6, "ratio {ratio}");
        }
    }

    #[test]
    fn importance_weight_is_truncated_and_neutral_where_the_engine_said_nothing() {
        assert_eq!(OBJECTIVE.importance_weight(-1.0, f64::NAN, false), 1.0);
        assert_eq!(OBJECTIVE.importance_weight(-1.0, f64::NAN, true), (-1.0_f64).exp(), "as if written for certain");
        for is_cached in [false, true] {
            assert!((OBJECTIVE.importance_weight(-1.1, -1.0, is_cached) - (-0.1_f64).exp()).abs() < 1e-12);
        }
        assert_eq!(OBJECTIVE.importance_weight(-1.0, -9.0, false), 2.0);
        let off = Objective { importance_cap: 0.0, ..OBJECTIVE };
        assert_eq!(off.importance_weight(-1.0, -9.0, false), 1.0);
        assert_eq!(off.importance_weight(-1.0, -9.0, true), 3.0, "never 1 where older weights sampled");
    }

    #[test]
    fn extreme_ratios_stay_finite() {
        for log_ratio in [-1e4, 1e4] {
            let inputs = TokenInputs {
                logprob: log_ratio,
                old_logprob: 0.0,
                importance_weight: 1.0,
                advantage_plus: 1.0,
                advantage_minus: -1.0,
            };
            let token = OBJECTIVE.token(inputs);
            assert!(token.loss.is_finite() && token.gradient.is_finite());
        }
    }
}
