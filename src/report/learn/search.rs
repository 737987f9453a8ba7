//! Search alone: what trees cost and find, strategy by strategy (the paper's table 3 and what a solved problem costs).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::data::draw::below;
use crate::rng::{Purpose, stream};

/// Resamples behind the intervals.
const RESAMPLES: usize = 2000;
/// Names the stream of the resamples.
const STREAM: u64 = 0x7365_6172_6368;

/// One tree, grown by one strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    /// Name of its problem.
    pub problem: String,
    /// A correct answer was found.
    pub is_solved: bool,
    /// The search could not go on.
    pub is_failed: bool,
    /// Iterations.
    pub expansion_count: f64,
    /// Tokens sampled.
    pub generated_tokens: f64,
    /// Tokens of nodes on trajectories, each node once.
    pub trajectory_tokens: f64,
    /// Trajectories.
    pub trajectory_count: f64,
    /// Of these, correct.
    pub correct_count: f64,
    /// Sum of their depths.
    pub depth_sum: f64,
    /// Sum of their mean entropies, in nats.
    pub entropy_sum: f64,
    /// Sum of their rewards.
    pub reward_sum: f64,
    /// Its share of the seconds that the search of all trees took together.
    pub search_s: f64,
}

/// What came of one strategy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StrategyRow {
    /// Its name.
    pub algorithm: String,
    /// Trees of all its runs.
    pub trees: usize,
    /// Of these, those that could not go on.
    pub failed: usize,
    /// Share of trees with a correct answer, and its 95 % interval over problems.
    pub solved_frac: [f64; 3],
    /// Tokens per solved problem, likewise.
    pub tokens_per_solved: [f64; 3],
    /// Tokens per tree.
    pub tokens: f64,
    /// Tokens per token on a trajectory.
    pub tokens_per_trained: f64,
    /// Iterations per tree.
    pub iterations: f64,
    /// Mean depth of the trajectories.
    pub depth: f64,
    /// Their mean entropy, in nats.
    pub entropy_nats: f64,
    /// Their mean reward.
    pub reward: f64,
    /// Share of correct ones.
    pub correct_frac: f64,
    /// Milliseconds per iteration.
    pub ms_per_iteration: f64,
    /// Milliseconds per tree.
    pub ms_per_tree: f64,
}

/// One row per strategy, in their order; those without a tree are left to the list of runs.
pub fn search_rows(found: &[(&str, Vec<Strategy>)]) -> Vec<StrategyRow> {
    found.iter().filter(|(_, trees)| !trees.is_empty()).map(|(name, trees)| row(name, trees)).collect()
}

fn row(name: &str, trees: &[Strategy]) -> StrategyRow {
    let mut problems: BTreeMap<&str, Vec<&Strategy>> = BTreeMap::new();
    for tree in trees {
        problems.entry(&tree.problem).or_default().push(tree);
    }
    // What is drawn again is problems, with all their trees.
    let problems: Vec<Vec<&Strategy>> = problems.into_values().collect();
    let everything: Vec<usize> = (0..problems.len()).collect();
    let total = |drawn: &[usize], value: &dyn Fn(&Strategy) -> f64| -> f64 {
        drawn.iter().flat_map(|&index| &problems[index]).map(|tree| value(tree)).sum()
    };
    let solved = |tree: &Strategy| f64::from(u8::from(tree.is_solved));
    let with_interval = |top: &dyn Fn(&Strategy) -> f64, bottom: &dyn Fn(&Strategy) -> f64| -> [f64; 3] {
        let quotient = |drawn: &[usize]| total(drawn, top) / total(drawn, bottom).max(1.0);
        let mut draw = stream(0, Purpose::Statistics, &[STREAM]);
        let mut again = || -> Vec<usize> {
            (0..problems.len()).map(|_| below(&mut draw, problems.len() as u64) as usize).collect()
        };
        let mut values: Vec<f64> = (0..RESAMPLES).map(|_| quotient(&again())).collect();
        values.sort_by(f64::total_cmp);
        [quotient(&everything), values[RESAMPLES / 40], values[RESAMPLES - 1 - RESAMPLES / 40]]
    };
    let all = |value: &dyn Fn(&Strategy) -> f64| total(&everything, value);
    let per = |value: &dyn Fn(&Strategy) -> f64, of: f64| all(value) / of.max(1.0);
    let (count, paths) = (trees.len() as f64, all(&|tree| tree.trajectory_count));
    let (iterations, tokens) = (all(&|tree| tree.expansion_count), all(&|tree| tree.generated_tokens));
    let search_ms = 1000.0 * all(&|tree| tree.search_s);
    StrategyRow {
        algorithm: name.to_owned(),
        trees: trees.len(),
        failed: trees.iter().filter(|tree| tree.is_failed).count(),
        solved_frac: with_interval(&solved, &|_| 1.0),
        tokens_per_solved: with_interval(&|tree| tree.generated_tokens, &solved),
        tokens: tokens / count,
        tokens_per_trained: tokens / all(&|tree| tree.trajectory_tokens).max(1.0),
        iterations: iterations / count,
        depth: per(&|tree| tree.depth_sum, paths),
        entropy_nats: per(&|tree| tree.entropy_sum, paths),
        reward: per(&|tree| tree.reward_sum, paths),
        correct_frac: per(&|tree| tree.correct_count, paths),
        ms_per_iteration: search_ms / iterations.max(1.0),
        ms_per_tree: search_ms / count,
    }
}

/// The table of one task in Markdown.
pub fn search_markdown(task: &str, rows: &[StrategyRow]) -> String {
    let mut text = format!("### {task}\n\n");
    text += "| strategy | trees | depth | entropy, nats | reward | iterations | ms / iteration | ms / tree | solve rate % | ";
    text += "tokens / tree | tokens / solved problem | tokens / trained token | correct trajectories % |\n";
    text += &format!("| --- |{}\n", " ---: |".repeat(12));
    for row in rows {
        let [solved, solved_low, solved_high] = row.solved_frac.map(|share| 100.0 * share);
        let [price, price_low, price_high] = row.tokens_per_solved;
        let failed = if row.failed > 0 { format!(" ({} failed)", row.failed) } else { String::new() };
        text += &format!(
            "| {} | {}{failed} | {:.2} | {:.3} | {:.2} | {:.1} | {:.2} | {:.1} | {solved:.1} ({solved_low:.1} to {solved_high:.1}) \
             | {:.0} | {price:.0} ({price_low:.0} to {price_high:.0}) | {:.2} | {:.1} |\n",
            row.algorithm,
            row.trees,
            row.depth,
            row.entropy_nats,
            row.reward,
            row.iterations,
            row.ms_per_iteration,
            row.ms_per_tree,
            row.tokens,
            row.tokens_per_trained,
            100.0 * row.correct_frac,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let tree = |problem: &str, is_solved, tokens| Strategy {
            problem: problem.into(),
            is_solved,
            is_failed: false,
            expansion_count: 4.0,
            generated_tokens: tokens,
            trajectory_tokens: 50.0,
            trajectory_count: 2.0,
            correct_count: f64::from(u8::from(is_solved)),
            depth_sum: 6.0,
            entropy_sum: 0.5,
            reward_sum: if is_solved { 0.0 } else { -2.0 },
            search_s: 0.008,
        };
        let trees =
            vec![tree("a", true, 100.0), tree("b", false, 200.0), tree("a", true, 100.0), tree("b", false, 200.0)];
        let rows = search_rows(&[("one", trees), ("none", Vec::new())]);
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.trees, row.solved_frac[0], row.tokens_per_solved[0]), (4, 0.5, 300.0));
        assert_eq!((row.depth, row.entropy_nats, row.reward, row.correct_frac), (3.0, 0.25, -0.5, 0.25));
        assert!((row.ms_per_tree - 8.0).abs() < 1e-9 && (row.ms_per_iteration - 2.0).abs() < 1e-9);
        // Two problems: all solved, half, or none of them.
        assert_eq!(row.solved_frac, [0.5, 0.0, 1.0]);
        let text = search_markdown("sums", &rows);
        assert!(text.contains("| one | 4 | 3.00 | 0.250 | -0.50 | 4.0 | 2.00 | 8.0 | 50.0 (0.0 to 100.0) |"), "{text}");
    }
}
