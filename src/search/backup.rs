//! Which new terminals are backed up, and what a backup does to the nodes of its path.

use crate::config::{GammaRule, SearchConfig, SearchRules, TerminalsKept};
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

/// The constrained update (eq. 5): same signs add up, a positive reward replaces a negative past, and a negative
/// reward leaves a positive total alone. So a node once on a correct path is never negative.
pub(super) fn updated(q_total: f64, gamma: f64, reward: f64) -> f64 {
    if reward == 0.0 {
        q_total
    } else if q_total * reward >= 0.0 {
        q_total + gamma * reward
    } else if reward > 0.0 {
        gamma * reward
    } else {
        q_total
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
        stats.q_total = updated(stats.q_total, share, reward);
        at = arena.parent(node);
    }
}

/// The waiting children of `parent` that are backed up in this round, in the order of their backups.
///
/// The best class only: correct, else incorrect, else the rest; in it the lowest path entropy comes first, then the
/// lowest index (eq. 2). All of a correct class may be kept, never more than one of another.
pub(super) fn choose(rules: &SearchRules, arena: &Arena, parent: u32) -> Vec<u32> {
    let mut waiting: Vec<(u8, f64, u32)> = arena
        .children(parent)
        .filter(|&child| arena.stats(child).fate == Fate::Waiting)
        .filter_map(|child| {
            let leaf = arena.body(child).leaf.as_ref()?;
            Some((class(rules, leaf), entropy::rank(leaf.entropy_nats), child))
        })
        .collect();
    waiting.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    let kept = match rules.terminals_kept {
        TerminalsKept::One => 1,
        TerminalsKept::AllCorrect => waiting.iter().filter(|leaf| leaf.0 == 0).count().max(1),
    };
    waiting.into_iter().take(kept).map(|(_, _, child)| child).collect()
}

/// 0 correct, 1 incorrect, 2 the rest. Without `incomplete_ranks_last` the reward decides, so that an incomplete
/// terminal worth -1 competes with the incorrect ones.
fn class(rules: &SearchRules, leaf: &Leaf) -> u8 {
    let is_second = if rules.incomplete_ranks_last {
        !is_incomplete(leaf.ending, leaf.verdict)
    } else {
        leaf.reward == INCORRECT_REWARD
    };
    match leaf.verdict {
        Verdict::Correct => 0,
        _ if is_second => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_follows_the_depth_and_has_a_floor() {
        let shifted = |depth| gamma(GammaRule::Shifted, 0.1, depth, 20);
        assert_eq!(shifted(0), 0.1);
        assert_eq!(shifted(2), 3.0 / 21.0);
        assert_eq!(shifted(20), 1.0);
        let plain = |depth| gamma(GammaRule::Plain, 0.1, depth, 20);
        assert_eq!([plain(0), plain(1), plain(10), plain(20)], [0.1, 0.1, 0.5, 1.0]);
    }

    #[test]
    fn a_node_at_depth_2_with_four_backups() {
        // Leaf depths and rewards (4, -1), (4, +1), (5, -1), (6, +1) under the published weights.
        let mut q_total = 0.0;
        let mut seen = Vec::new();
        for (leaf_depth, reward) in [(4, -1.0), (4, 1.0), (5, -1.0), (6, 1.0)] {
            q_total = updated(q_total, gamma(GammaRule::Shifted, 0.1, 2, leaf_depth), reward);
            seen.push(q_total);
        }
        assert_eq!(seen, [-0.6, 0.6, 0.6, 0.6 + 3.0 / 7.0]);
    }

    #[test]
    fn a_reward_of_zero_changes_nothing() {
        assert_eq!(updated(-0.5, 0.5, 0.0), -0.5);
        assert_eq!(updated(0.5, 0.5, -0.0), 0.5);
    }
}
