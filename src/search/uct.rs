//! UCT among siblings: which child to go on with.

use crate::config::{SearchConfig, SearchRules, TieBreak, Unvisited};

use super::entropy;
use super::node::{Arena, Stats};

/// `q_mean(child) + lambda * sqrt(ln N(parent) / N(child))`, with what `uct_unvisited` says where a count is 0.
pub(super) fn score(config: &SearchConfig, rules: &SearchRules, parent: &Stats, child: &Stats) -> f64 {
    if child.visits == 0 && rules.uct_unvisited == Unvisited::First {
        return f64::INFINITY;
    }
    if parent.visits == 0 || child.visits == 0 {
        return child.q_mean();
    }
    child.q_mean() + config.uct_lambda * (f64::from(parent.visits).ln() / f64::from(child.visits)).sqrt()
}

/// The live child of `parent` with the highest score, and that score before rounding; `None` if no child is live.
pub(super) fn best_child(config: &SearchConfig, rules: &SearchRules, arena: &Arena, parent: u32) -> Option<(u32, f64)> {
    let above = arena.stats(parent);
    let mut best: Option<(u32, f64, f64)> = None;
    for child in arena.children(parent) {
        let stats = arena.stats(child);
        if !stats.is_live() {
            continue;
        }
        let exact = score(config, rules, above, stats);
        let compared = if rules.uct_single_precision { f64::from(exact as f32) } else { exact };
        let wins = best.is_none_or(|(leader, _, leading)| {
            compared > leading
                || (compared == leading
                    && rules.uct_ties == TieBreak::Confidence
                    && entropy::rank(stats.entropy_nats) < entropy::rank(arena.stats(leader).entropy_nats))
        });
        if wins {
            best = Some((child, exact, compared));
        }
    }
    best.map(|(child, exact, _)| (child, exact))
}
