//! Mean -logprob of sampled tokens, in nats: the confidence of the policy in what it wrote (low is confident).
//!
//! It is the surprisal of the sampled tokens, not the entropy of the distribution (DeepSearch, arXiv 2509.25454, eq. 2
//! and A.2). Every token weighs the same, whichever node it is in. A logprob that is not finite is left out of the
//! mean; a mean of nothing is unknown, kept as NaN and ranked behind everything known.

use crate::types::TokenId;

use super::node::Arena;

/// Sum and number of the usable logprobs of a token sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LogprobSum {
    sum_nats: f64,
    count: u64,
}

impl LogprobSum {
    pub(super) fn of(logprobs: &[f32]) -> LogprobSum {
        logprobs.iter().filter(|logprob| logprob.is_finite()).fold(LogprobSum::default(), |total, &logprob| {
            LogprobSum { sum_nats: total.sum_nats + f64::from(logprob), count: total.count + 1 }
        })
    }

    /// This sequence continued by another.
    pub(super) fn plus(self, other: LogprobSum) -> LogprobSum {
        LogprobSum { sum_nats: self.sum_nats + other.sum_nats, count: self.count + other.count }
    }

    /// Mean -logprob; NaN of an empty sequence. Adding 0 turns -0 into 0.
    pub(super) fn entropy_nats(self) -> f64 {
        -(self.sum_nats / self.count as f64) + 0.0
    }
}

/// Mean -logprob of a token sequence; NaN where no logprob is usable.
pub fn mean_entropy_nats(logprobs: &[f32]) -> f64 {
    LogprobSum::of(logprobs).entropy_nats()
}

/// The key by which entropies are ranked, lowest first: unknown comes last.
pub(super) fn rank(entropy_nats: f64) -> f64 {
    if entropy_nats.is_nan() { f64::INFINITY } else { entropy_nats }
}

/// Mean over the children of `parent` of their own entropies, without the unknown ones; NaN if all are unknown.
pub(super) fn mean_of_known(arena: &Arena, parent: u32) -> f64 {
    let known = arena.children(parent).map(|child| arena.stats(child).entropy_nats).filter(|nats| !nats.is_nan());
    let (sum_nats, count) = known.fold((0.0, 0u32), |(sum_nats, count), nats| (sum_nats + nats, count + 1));
    sum_nats / f64::from(count)
}

/// Entropy of the path from the root to `leaf`, without the closing tokens equal to `skipped`.
pub(super) fn path_entropy_nats(arena: &Arena, leaf: u32, skipped: Option<TokenId>) -> f64 {
    let Some(skipped) = skipped else { return arena.body(leaf).path_logprobs.entropy_nats() };
    let mut node = leaf;
    loop {
        let body = arena.body(node);
        let kept = body.tokens.iter().rposition(|&token| token != skipped).map_or(0, |last| last + 1);
        if kept == body.tokens.len() && kept > 0 {
            return body.path_logprobs.entropy_nats();
        }
        let Some(parent) = arena.parent(node) else { return f64::NAN };
        if kept > 0 {
            return arena.body(parent).path_logprobs.plus(LogprobSum::of(&body.logprobs[..kept])).entropy_nats();
        }
        node = parent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_logprobs_are_left_out() {
        let sum = LogprobSum::of(&[-1.0, f32::NAN, -2.0, f32::NEG_INFINITY]);
        assert_eq!(sum.entropy_nats(), 1.5);
        assert_eq!(sum.plus(LogprobSum::of(&[0.0])).entropy_nats(), 1.0);
        assert!(LogprobSum::of(&[f32::NAN]).entropy_nats().is_nan());
        assert!(LogprobSum::of(&[0.0, 0.0]).entropy_nats().is_sign_positive());
    }

    #[test]
    fn unknown_ranks_last() {
        assert!(rank(f64::NAN) > rank(1e300));
        assert!(rank(0.5) < rank(0.6));
    }
}
