//! Which new terminals are backed up, and what a backup does to the nodes of its path.

use crate::config::{GammaRule, NegativeChoice, QUpdate, SearchConfig, SearchRules, TerminalsKept};
use crate::types::Verdict;

use super::entropy;
use super::node::{Arena, Fate, Leaf};
use super::terminal::{INCORRECT_REWARD, is_incomplete};

/// gamma: the share of a leaf's reward that reaches a node at `depth` (eq. 3).
pub(super) fn gamma(rule: GammaRule, gamma_min: f64, depth: u32, leaf_depth: u32) -> f64 {
    let share = match rule {
        GammaRule::Shifted => (f64::from(depth) + 1.0) / (f64::from(leaf_depth) + 1.0),
        GammaRule::Plain => f64::from(depth) / f64::from(leaf_depth),
    };
    share.max(gamma_min)
}

/// A node's value after one backup. Same signs add up under every rule; on opposite signs
///
/// - constrained (eq. 5): a positive reward replaces a negative past, and a negative reward leaves a positive total
///   alone. So a node once on a correct path is never negative;
/// - simple: what is left after the subtraction, but not below 0. So no single failure makes a positive node negative,
///   but two may;
/// - sum: they cancel, and the order of the backups does not matter.
///
/// A reward of 0 changes nothing.
pub(super) fn updated(rule: QUpdate, q_total: f64, gamma: f64, reward: f64) -> f64 {
    let gain = gamma * reward;
    if reward == 0.0 {
        return q_total;
    }
    if q_total * reward >= 0.0 {
        return q_total + gain;
    }
    match rule {
        QUpdate::Constrained if reward > 0.0 => gain,
        QUpdate::Constrained => q_total,
        QUpdate::Simple => (q_total + gain).max(0.0),
        QUpdate::Sum => q_total + gain,
    }
}

/// Backs `leaf` up: one visit and one update for each node from the leaf to the root, both included.
pub(super) fn apply(config: &SearchConfig, rules: &SearchRules, arena: &mut Arena, leaf: u32, reward: f64) {
    let leaf_depth = arena.stats(leaf).depth;
    let mut at = Some(leaf);
    while let Some(node) = at {
        let stats = arena.stats_mut(node);
        stats.visits += 1;
        let share = gamma(rules.gamma, config.gamma_min, stats.depth, leaf_depth);
        stats.q_total = updated(config.q_update, stats.q_total, share, reward);
        at = arena.parent(node);
    }
}

/// The waiting children of `parent` that are backed up in this round, in the order of their backups.
///
/// The best class only: correct, else incorrect, else the rest; in it the lowest path entropy comes first, then the
/// lowest index (eq. 2). All of a correct class may be kept, never more than one of another, and which one `negative`
/// says. `draw` gives 64 random bits; it is called at most once, and only for a random choice.
pub(super) fn choose(
    negative: NegativeChoice,
    rules: &SearchRules,
    arena: &Arena,
    parent: u32,
    draw: impl FnOnce() -> u64,
) -> Vec<u32> {
    let mut waiting: Vec<(u8, f64, u32)> = arena
        .children(parent)
        .filter(|&child| arena.stats(child).fate == Fate::Waiting)
        .filter_map(|child| {
            let leaf = arena.body(child).leaf.as_ref()?;
            Some((class(rules, leaf), entropy::rank(leaf.entropy_nats), child))
        })
        .collect();
    waiting.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    let best = waiting.first().map(|leaf| leaf.0);
    waiting.retain(|leaf| Some(leaf.0) == best);
    match negative {
        _ if best == Some(CORRECT) => {}
        NegativeChoice::MostConfident => {}
        NegativeChoice::LeastConfident => {
            // An unknown entropy is no sign of doubt: it stays behind everything known. The sort is stable.
            let doubt = |rank: f64| if rank == f64::INFINITY { f64::INFINITY } else { -rank };
            waiting.sort_by(|a, b| doubt(a.1).total_cmp(&doubt(b.1)));
        }
        NegativeChoice::Random => {
            waiting.sort_unstable_by_key(|leaf| leaf.2);
            if waiting.len() > 1 {
                let chosen = below(draw(), waiting.len());
                waiting.swap(0, chosen);
            }
        }
    }
    let kept = match rules.terminals_kept {
        TerminalsKept::AllCorrect if best == Some(CORRECT) => waiting.len(),
        _ => 1,
    };
    waiting.into_iter().take(kept).map(|(_, _, child)| child).collect()
}

/// A number below `count` from 64 random bits, each as likely as any other but for one part in 2^64 / `count`.
fn below(bits: u64, count: usize) -> usize {
    ((u128::from(bits) * count as u128) >> 64) as usize
}

/// The class of correct terminals, see [`class`].
const CORRECT: u8 = 0;

/// 0 correct, 1 incorrect, 2 the rest. Without `incomplete_ranks_last` the reward decides, so that an incomplete
/// terminal worth -1 competes with the incorrect ones.
fn class(rules: &SearchRules, leaf: &Leaf) -> u8 {
    let is_second = if rules.incomplete_ranks_last {
        !is_incomplete(leaf.ending, leaf.verdict)
    } else {
        leaf.reward == INCORRECT_REWARD
    };
    match leaf.verdict {
        Verdict::Correct => CORRECT,
        _ if is_second => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rules;
    use crate::search::terminal::Ending;
    use crate::types::{Continuation, FinishReason, WeightVersion};

    #[test]
    fn gamma_follows_the_depth_and_has_a_floor() {
        let shifted = [0, 1, 2, 5, 10, 19, 20].map(|depth| gamma(GammaRule::Shifted, 0.1, depth, 20));
        let published = [0.1, 0.1, 0.1429, 0.2857, 0.5238, 0.9524, 1.0];
        for (ours, published) in shifted.into_iter().zip(published) {
            assert!((ours - published).abs() < 5e-5, "{ours}, published {published}");
        }
        assert_eq!((shifted[0], shifted[2], shifted[6]), (0.1, 3.0 / 21.0, 1.0));
        let plain = |depth| gamma(GammaRule::Plain, 0.1, depth, 20);
        assert_eq!([plain(0), plain(1), plain(10), plain(20)], [0.1, 0.1, 0.5, 1.0]);
    }

    fn continuation(logprob: f32) -> Continuation {
        Continuation {
            tokens: vec![1],
            logprobs: vec![logprob],
            finish: FinishReason::Length,
            weight_version: WeightVersion::INITIAL,
        }
    }

    #[test]
    fn a_node_at_depth_2_with_four_backups() {
        // Leaf depths and rewards (4, -1), (4, +1), (5, -1), (6, +1) under the published weights.
        let mut arena = Arena::new();
        let mut add = |parent| arena.push_child(parent, continuation(-1.0));
        let top = add(0);
        let node = add(top);
        let below = add(node);
        let (first, second, deeper) = (add(below), add(below), add(below));
        let (third, deepest) = (add(deeper), add(deeper));
        let fourth = add(deepest);
        let config = SearchConfig { rules: Rules::Released, ..SearchConfig::default() };
        let mut seen = Vec::new();
        for (leaf, reward) in [(first, -1.0), (second, 1.0), (third, -1.0), (fourth, 1.0)] {
            apply(&config, &config.resolve(), &mut arena, leaf, reward);
            seen.push(arena.stats(node).q_total);
        }
        assert_eq!(seen, [-0.6, 0.6, 0.6, 0.6 + 3.0 / 7.0]);
        assert_eq!((arena.stats(node).depth, arena.stats(node).visits), (2, 4));
        assert!((arena.stats(node).q_total - 1.028_571).abs() < 5e-7);
        assert_eq!([first, second, third, fourth].map(|leaf| arena.stats(leaf).depth), [4, 4, 5, 6]);
    }

    #[test]
    fn updates_differ_on_opposite_signs_only() {
        let all = |q_total, reward| {
            [QUpdate::Constrained, QUpdate::Simple, QUpdate::Sum].map(|rule| updated(rule, q_total, 0.5, reward))
        };
        assert_eq!(all(0.0, 1.0), [0.5; 3]);
        assert_eq!(all(0.25, 1.0), [0.75; 3]);
        assert_eq!(all(-0.25, -1.0), [-0.75; 3]);
        assert_eq!(all(0.0, -1.0), [-0.5; 3]);
        assert_eq!(all(0.25, -1.0), [0.25, 0.0, -0.25]);
        assert_eq!(all(0.75, -1.0), [0.75, 0.25, 0.25]);
        assert_eq!(all(-0.75, 1.0), [0.5, 0.0, -0.25]);
        assert_eq!(all(-0.25, 1.0), [0.5, 0.25, 0.25]);
        // A reward of 0 changes nothing.
        assert_eq!(all(-0.5, 0.0), [-0.5; 3]);
        assert_eq!(all(0.5, -0.0), [0.5; 3]);
    }

    /// A root over one leaf for each (verdict, logprob).
    fn leaves(terminals: &[(Verdict, f32)]) -> Arena {
        let mut arena = Arena::new();
        for &(verdict, logprob) in terminals {
            let child = arena.push_child(0, continuation(logprob));
            let ending = if verdict == Verdict::NoAnswer { Ending::DepthLimit } else { Ending::EndOfText };
            let entropy_nats = -f64::from(logprob);
            arena.body_mut(child).leaf = Some(Leaf { ending, verdict, reward: -1.0, entropy_nats, backup_order: None });
            arena.stats_mut(child).fate = Fate::Waiting;
        }
        arena
    }

    fn chosen(negative: NegativeChoice, arena: &Arena, bits: u64) -> Vec<u32> {
        choose(negative, &SearchConfig::default().resolve(), arena, 0, || bits)
    }

    #[test]
    fn which_negative() {
        let (wrong, none) = (Verdict::Incorrect, Verdict::NoAnswer);
        let arena = leaves(&[(wrong, -2.0), (wrong, f32::NAN), (none, -9.0), (wrong, -1.0), (wrong, -2.0)]);
        assert_eq!(chosen(NegativeChoice::MostConfident, &arena, 0), [4]);
        // The first of two equal ones; neither the unknown nor the cut-off one.
        assert_eq!(chosen(NegativeChoice::LeastConfident, &arena, 0), [1]);
        let quarter = 1 << 62;
        let random = [0, quarter, 2 * quarter, 3 * quarter].map(|bits| chosen(NegativeChoice::Random, &arena, bits));
        assert_eq!(random, [[1], [2], [4], [5]]);
        assert_eq!(chosen(NegativeChoice::Random, &arena, u64::MAX), [5]);
        let unknown = leaves(&[(wrong, f32::NAN), (wrong, f32::NAN)]);
        assert_eq!(chosen(NegativeChoice::LeastConfident, &unknown, 0), [1]);
    }

    #[test]
    fn correct_terminals_are_ranked_by_confidence_whatever_the_negatives() {
        let arena = leaves(&[(Verdict::Correct, -2.0), (Verdict::Incorrect, -0.1), (Verdict::Correct, -1.0)]);
        for negative in [NegativeChoice::MostConfident, NegativeChoice::Random, NegativeChoice::LeastConfident] {
            assert_eq!(chosen(negative, &arena, u64::MAX), [3, 1]);
        }
        assert_eq!(chosen(NegativeChoice::Random, &leaves(&[]), 0), [0; 0]);
    }
}
