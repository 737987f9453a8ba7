//! UCT among siblings: which child to go on with.

use crate::config::{SearchConfig, SearchRules, TieBreak, Unvisited};

use super::entropy;
use super::event::ScoreParts;
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

/// What [`score`] adds up.
pub(super) fn parts(config: &SearchConfig, rules: &SearchRules, parent: &Stats, child: &Stats) -> ScoreParts {
    let value = child.q_mean();
    let total = score(config, rules, parent, child);
    let exploration = if total.is_finite() { total - value } else { total };
    ScoreParts { value, exploration: Some(exploration), entropy: None, depth: None }
}

/// The live child of `parent` with the highest score, and that score before rounding. A child that was not sampled yet
/// is one never visited, loses every tie, and goes by the name of `parent` itself. `None` if no child is live or missing.
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
    if above.has_room {
        let missing = if rules.uct_unvisited == Unvisited::First { f64::INFINITY } else { 0.0 };
        if best.is_none_or(|(_, _, leading)| missing > leading) {
            return Some((parent, missing));
        }
    }
    best.map(|(child, exact, _)| (child, exact))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rules;
    use crate::types::{Continuation, FinishReason, WeightVersion};

    /// A root visited `visits` times over children of these (visits, q_total, logprob).
    fn family(visits: u32, children: &[(u32, f64, f32)]) -> Arena {
        let mut arena = Arena::new();
        arena.stats_mut(0).visits = visits;
        for &(visits, q_total, logprob) in children {
            let continuation = Continuation {
                tokens: vec![1],
                logprobs: vec![logprob],
                finish: FinishReason::Length,
                weight_version: WeightVersion::INITIAL,
            };
            let child = arena.push_child(0, continuation);
            let stats = arena.stats_mut(child);
            (stats.visits, stats.q_total) = (visits, q_total);
        }
        arena
    }

    fn best(config: &SearchConfig, arena: &Arena) -> Option<(u32, f64)> {
        best_child(config, &config.resolve(), arena, 0)
    }

    #[test]
    fn the_formula() {
        let arena = family(10, &[(4, 2.0, -1.0), (5, -1.0, -1.0)]);
        let expected = 0.5 + 2.0 * (10.0f64.ln() / 4.0).sqrt();
        assert_eq!(best(&SearchConfig::default(), &arena), Some((1, expected)));
        let config = SearchConfig::default();
        let parts = parts(&config, &config.resolve(), arena.stats(0), arena.stats(1));
        assert_eq!((parts.value, parts.exploration, parts.depth), (0.5, Some(expected - 0.5), None));
        assert_eq!(best(&SearchConfig::default(), &family(10, &[])), None);
    }

    #[test]
    fn an_unvisited_child_comes_first_or_explores_nothing() {
        let arena = family(10, &[(4, 2.0, -1.0), (0, 0.0, -1.0)]);
        assert_eq!(best(&SearchConfig::default(), &arena), Some((2, f64::INFINITY)));
        let released = SearchConfig { rules: Rules::Released, ..SearchConfig::default() };
        assert_eq!(best(&released, &arena).map(|(child, _)| child), Some(1));
    }

    #[test]
    fn single_precision_makes_ties() {
        let arena = family(0, &[(1, 0.5, -1.0), (1, 0.5 + 1e-12, -1.0)]);
        for (uct_single_precision, chosen) in [(true, (1, 0.5)), (false, (2, 0.5 + 1e-12))] {
            let config = SearchConfig { uct_single_precision: Some(uct_single_precision), ..SearchConfig::default() };
            assert_eq!(best(&config, &arena), Some(chosen));
        }
    }
}
