//! Algorithms on one task: how far they get on their tokens, and what they need to get as far as a baseline.
//!
//! The level of a baseline is the best of its mean curve over seeds, and its price what that curve first needs to get
//! there. The price of another algorithm is the median over its seeds of the tokens at which each curve first is at that
//! level; a run that never is counts as one that needs more than any other. The ratio of the two is above 1 where the
//! other algorithm is cheaper. Its interval is from runs drawn again with replacement, baseline and other apart, with
//! all of this done anew.

use serde::Serialize;

use super::curve::{Axis, Interval, RunCurve, median};
use super::read::Standing;
use crate::data::draw::below;
use crate::rng::{Purpose, stream};

/// Places of a mean curve.
const PLACES: u32 = 100;
/// Resamples behind the interval of a ratio.
const RESAMPLES: usize = 2000;
/// Names the stream of the resamples.
const STREAM: u64 = 0x006c_6561_726e;

/// What came of one algorithm on one task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlgorithmReport {
    /// Its name.
    pub algorithm: String,
    /// Runs that the suite stands for.
    pub runs: usize,
    /// Of these, over.
    pub done: usize,
    /// Of these, ended with an error.
    pub failed: usize,
    /// Accuracy before the first step.
    pub base: Option<Interval>,
    /// Accuracy when the tokens are spent.
    pub last: Option<Interval>,
    /// The best of the mean curve.
    pub best_of_mean: Option<f64>,
    /// Trained tokens, mean over runs.
    pub trained_tokens: Option<f64>,
    /// Seconds, mean over runs.
    pub seconds: Option<f64>,
    /// Against each baseline.
    pub levels: Vec<Level>,
}

/// An algorithm against a baseline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Level {
    /// The baseline.
    pub baseline: String,
    /// The best of its mean curve.
    pub accuracy: f64,
    /// Tokens that its mean curve needs.
    pub baseline_tokens: f64,
    /// Tokens that half of the algorithm's runs need at most; nothing where more than half never get there.
    pub median_tokens: Option<f64>,
    /// Runs that get there.
    pub reached: usize,
    /// Of so many.
    pub runs: usize,
    /// Tokens of the baseline per token of the algorithm; 0 where `median_tokens` is nothing.
    pub ratio: f64,
    /// The middle 95 % of it.
    pub ratio_interval: [f64; 2],
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    /// Its name.
    pub task: String,
    /// Tokens that every run may sample; as far as the longest run got where there is no limit.
    pub max_generated_tokens: f64,
    /// Digests of the weights that its runs began with: one.
    pub base_digests: Vec<String>,
    /// Its algorithms, in the order of the suite.
    pub algorithms: Vec<AlgorithmReport>,
}

/// Compares the runs of a task; `runs` are all that the suite stands for.
pub fn compare(task: &str, limit: u64, algorithms: &[&str], baselines: &[&str], runs: &[RunCurve]) -> TaskReport {
    let of = |name: &str| -> Vec<&RunCurve> {
        runs.iter().filter(|run| run.task == task && run.algorithm == name).collect()
    };
    let longest = runs.iter().filter(|run| run.task == task).map(|run| run.end(Axis::GeneratedTokens));
    let budget = if limit > 0 { limit as f64 } else { longest.fold(0.0, f64::max) };
    let mut base_digests: Vec<String> =
        runs.iter().filter(|run| run.task == task).filter_map(|run| run.base_digest.clone()).collect();
    base_digests.sort();
    base_digests.dedup();
    let reports = algorithms.iter().map(|&name| {
        let own = of(name);
        let against = baselines.iter().filter(|&&baseline| baseline != name);
        let levels = against
            .enumerate()
            .filter_map(|(index, &baseline)| level(baseline, &of(baseline), &own, budget, &[STREAM, index as u64]));
        let interval = |value: &dyn Fn(&RunCurve) -> Option<f64>| {
            Interval::of(&own.iter().filter_map(|run| value(run)).collect::<Vec<_>>())
        };
        AlgorithmReport {
            algorithm: name.to_owned(),
            runs: own.len(),
            done: own.iter().filter(|run| run.standing == Standing::Done).count(),
            failed: own.iter().filter(|run| run.standing == Standing::Failed).count(),
            base: interval(&|run| run.base()),
            last: interval(&|run| run.at(Axis::GeneratedTokens, budget)),
            best_of_mean: best_of_mean(&own, budget).map(|(accuracy, _)| accuracy),
            trained_tokens: interval(&|run| run.points.last().map(|point| point.trained_tokens)).map(|all| all.mean),
            seconds: interval(&|run| run.points.last().map(|point| point.seconds)).map(|all| all.mean),
            levels: levels.collect(),
        }
    });
    TaskReport { task: task.to_owned(), max_generated_tokens: budget, base_digests, algorithms: reports.collect() }
}

/// The mean curve at `places` + 1 places up to `until`; a place where a run has no value yet is left out.
pub(super) fn mean_curve(runs: &[&RunCurve], axis: Axis, until: f64, places: u32) -> Vec<(f64, Interval)> {
    let mut curve = Vec::new();
    for place in 0..=places {
        let x = until * f64::from(place) / f64::from(places);
        let values: Option<Vec<f64>> = runs.iter().map(|run| run.at(axis, x)).collect();
        if let Some(mean) = values.and_then(|values| Interval::of(&values)) {
            curve.push((x, mean));
        }
    }
    curve
}

/// The best of the mean curve, and where it is first there. Runs without a measurement have no curve and are left to the
/// table, which names them.
fn best_of_mean(runs: &[&RunCurve], budget: f64) -> Option<(f64, f64)> {
    let measured: Vec<&RunCurve> = runs.iter().copied().filter(|run| !run.points.is_empty()).collect();
    let curve = mean_curve(&measured, Axis::GeneratedTokens, budget, PLACES);
    let mut best: Option<(f64, f64)> = None;
    for (x, interval) in curve {
        if best.is_none_or(|(accuracy, _)| interval.mean > accuracy) {
            best = Some((interval.mean, x));
        }
    }
    best
}

fn level(baseline: &str, theirs: &[&RunCurve], own: &[&RunCurve], budget: f64, ids: &[u64]) -> Option<Level> {
    let (accuracy, baseline_tokens) = best_of_mean(theirs, budget)?;
    if own.iter().all(|run| run.points.is_empty()) {
        return None;
    }
    let price = |runs: &[&RunCurve], accuracy: f64| -> Vec<Option<f64>> {
        runs.iter().map(|run| run.first_at(Axis::GeneratedTokens, accuracy, budget)).collect()
    };
    let prices = price(own, accuracy);
    let median_tokens = median(&prices);
    let ratio = |tokens: f64, median: Option<f64>| median.map_or(0.0, |median| tokens / median.max(1.0));
    let mut draw = stream(0, Purpose::Statistics, ids);
    let mut ratios = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let mut again = |runs: &[&'_ RunCurve]| -> Vec<usize> {
            (0..runs.len()).map(|_| below(&mut draw, runs.len() as u64) as usize).collect()
        };
        let (them, us) = (again(theirs), again(own));
        let them: Vec<&RunCurve> = them.into_iter().map(|index| theirs[index]).collect();
        let us: Vec<&RunCurve> = us.into_iter().map(|index| own[index]).collect();
        if let Some((accuracy, tokens)) = best_of_mean(&them, budget) {
            ratios.push(ratio(tokens, median(&price(&us, accuracy))));
        }
    }
    ratios.sort_by(f64::total_cmp);
    let tail = ratios.len() / 40;
    Some(Level {
        baseline: baseline.to_owned(),
        accuracy,
        baseline_tokens,
        median_tokens,
        reached: prices.iter().flatten().count(),
        runs: own.len(),
        ratio: ratio(baseline_tokens, median_tokens),
        ratio_interval: [*ratios.get(tail)?, *ratios.get(ratios.len() - 1 - tail)?],
    })
}

#[cfg(test)]
mod tests {
    use super::super::curve::tests::run;
    use super::*;

    #[test]
    fn a_baseline_is_reached_at_a_third_of_its_tokens() {
        let plain = |seed| run("grpo", seed, &[(0.0, 0.1), (600.0, 0.4), (900.0, 0.4)]);
        let fast = |seed| run("tree", seed, &[(0.0, 0.1), (200.0, 0.4), (900.0, 0.8)]);
        let mut never = run("tree", 3, &[(0.0, 0.1), (900.0, 0.2)]);
        never.standing = Standing::Failed;
        let runs = [plain(1), plain(2), plain(3), fast(1), fast(2), never];
        let report = compare("sums", 900, &["tree", "grpo"], &["grpo"], &runs);
        let tree = &report.algorithms[0];
        assert_eq!((tree.runs, tree.done, tree.failed), (3, 2, 1));
        let level = &tree.levels[0];
        // Places are every 9 tokens: the mean curve of the baseline is at its best from the first place after 600 on.
        assert!((level.accuracy - 0.4).abs() < 1e-12 && (level.baseline_tokens - 603.0).abs() < 1e-9, "{level:?}");
        assert_eq!((level.median_tokens.map(f64::round), level.reached, level.runs), (Some(200.0), 2, 3));
        assert!((level.ratio - 3.015).abs() < 1e-3, "{}", level.ratio);
        // In 7 of 27 samples of the three runs the one that never gets there is in the majority.
        assert_eq!(level.ratio_interval[0], 0.0);
        assert!((level.ratio_interval[1] - level.ratio).abs() < 1e-9);
        assert!(report.algorithms[1].levels.is_empty(), "a baseline is not held against itself");
        assert_eq!(report.base_digests, ["d"]);
        let last = tree.last.unwrap();
        assert!((last.mean - 0.6).abs() < 1e-12, "the one that failed is in the mean");
        assert_eq!(compare("sums", 900, &["tree", "grpo"], &["grpo"], &runs), report);
    }

    #[test]
    fn a_mean_curve_has_every_run() {
        let runs = [run("a", 1, &[(0.0, 0.0), (10.0, 1.0)]), run("a", 2, &[(0.0, 0.5), (5.0, 0.5)])];
        let both: Vec<&RunCurve> = runs.iter().collect();
        let curve = mean_curve(&both, Axis::GeneratedTokens, 10.0, 2);
        let means: Vec<f64> = curve.iter().map(|(_, interval)| interval.mean).collect();
        assert_eq!(means, [0.25, 0.5, 0.75]);
    }
}
