//! The curve of one run, and what several of them say together.

use serde::Serialize;

use super::read::Standing;

/// What accuracy is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Tokens sampled by filters and steps.
    GeneratedTokens,
    /// Tokens trained on, each time they occur.
    TrainedTokens,
    /// Seconds of filters and steps, measurements left out.
    Seconds,
}

impl Axis {
    /// All of them.
    pub const ALL: [Axis; 3] = [Axis::GeneratedTokens, Axis::TrainedTokens, Axis::Seconds];

    /// What is written below it.
    pub fn label(self) -> &'static str {
        match self {
            Axis::GeneratedTokens => "generated tokens",
            Axis::TrainedTokens => "trained tokens",
            Axis::Seconds => "seconds",
        }
    }
}

/// A measurement on held-out problems, and what had been spent until then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Steps done.
    pub step: i64,
    /// Mean share of correct answers, 0 to 1.
    pub pass_at_1: f64,
    /// Problems that were measured.
    pub problem_count: u64,
    /// Answers of each.
    pub sample_count: u64,
    /// Tokens sampled until then.
    pub generated_tokens: f64,
    /// Tokens trained on until then.
    pub trained_tokens: f64,
    /// Seconds until then.
    pub seconds: f64,
}

impl Point {
    fn at(&self, axis: Axis) -> f64 {
        match axis {
            Axis::GeneratedTokens => self.generated_tokens,
            Axis::TrainedTokens => self.trained_tokens,
            Axis::Seconds => self.seconds,
        }
    }
}

/// One run of a suite.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunCurve {
    /// The task.
    pub task: String,
    /// The algorithm.
    pub algorithm: String,
    /// The seed.
    pub seed: u64,
    /// Where it stands.
    pub standing: Standing,
    /// Why it failed.
    pub error: Option<String>,
    /// Digest of the weights it began with.
    pub base_digest: Option<String>,
    /// Steps done.
    pub steps_done: u64,
    /// Tokens sampled by its steps and filters, to its end.
    pub generated_tokens: u64,
    /// Its measurements, oldest first. Where a filter was paid for before the first step, a point after it repeats the
    /// accuracy before: the policy is still the same.
    pub points: Vec<Point>,
}

impl RunCurve {
    /// Accuracy at a place of the axis: on the line between two measurements, and after the last one that one. Nothing
    /// before the first.
    pub fn at(&self, axis: Axis, x: f64) -> Option<f64> {
        let after = self.points.iter().position(|point| point.at(axis) > x);
        let Some(after) = after else { return self.points.last().map(|point| point.pass_at_1) };
        let (left, right) = (self.points.get(after.checked_sub(1)?)?, &self.points[after]);
        let share = (x - left.at(axis)) / (right.at(axis) - left.at(axis));
        Some(left.pass_at_1 + share * (right.pass_at_1 - left.pass_at_1))
    }

    /// The first place of the axis, up to `until`, where the accuracy is `level`; nothing where it never is.
    pub fn first_at(&self, axis: Axis, level: f64, until: f64) -> Option<f64> {
        let first = self.points.first()?;
        if first.pass_at_1 >= level {
            return Some(first.at(axis));
        }
        let crossing = self.points.windows(2).find(|pair| pair[1].pass_at_1 >= level)?;
        let (left, right) = (&crossing[0], &crossing[1]);
        let share = (level - left.pass_at_1) / (right.pass_at_1 - left.pass_at_1);
        let x = left.at(axis) + share * (right.at(axis) - left.at(axis));
        (x <= until).then_some(x)
    }

    /// The last place of the axis that was measured.
    pub fn end(&self, axis: Axis) -> f64 {
        self.points.last().map_or(0.0, |point| point.at(axis))
    }

    /// The measurement before the first step.
    pub fn base(&self) -> Option<f64> {
        self.points.first().map(|point| point.pass_at_1)
    }

    /// The best measurement up to `until` tokens.
    pub fn best(&self, until: f64) -> Option<f64> {
        let within = self.points.iter().filter(|point| point.generated_tokens <= until);
        within.map(|point| point.pass_at_1).max_by(f64::total_cmp)
    }
}

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The mean of values of independent runs, with Student's t: of five values, the middle of a bootstrap's means holds
    /// the true one in about 85 of 100 cases, this one in 95 where they are about normal. Nothing for no value; one value
    /// has no interval but itself.
    pub fn of(values: &[f64]) -> Option<Interval> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        if count == 1 {
            return Some(Interval { mean, low: mean, high: mean });
        }
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
        let half = student(count - 1) * (variance / count as f64).sqrt();
        Some(Interval { mean, low: mean - half, high: mean + half })
    }

    /// Wilson's interval of a share that was measured once on `count` problems. Several answers of a problem are not
    /// independent, so that only problems count.
    pub fn wilson(share: f64, count: u64) -> Interval {
        const Z: f64 = 1.959_963_984_540_054;
        let n = count.max(1) as f64;
        let (square, scale) = (Z * Z / n, 1.0 + Z * Z / n);
        let middle = (share + square / 2.0) / scale;
        let half = Z / scale * (share * (1.0 - share) / n + square / (4.0 * n)).max(0.0).sqrt();
        Interval { mean: share, low: middle - half, high: middle + half }
    }
}

/// 97.5 % quantile of Student's t.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    freedom.checked_sub(1).and_then(|index| TABLE.get(index)).copied().unwrap_or(1.96)
}

/// The middle of values, `None` above all numbers: what half of the runs need at most. Of an even number the mean of the
/// two in the middle.
pub fn median(values: &[Option<f64>]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().map(|value| value.unwrap_or(f64::INFINITY)).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, *upper)).filter(|middle| middle.is_finite())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A finished run with these (tokens, accuracy); it trains on every second token, a hundred a second.
    pub(in super::super) fn run(algorithm: &str, seed: u64, points: &[(f64, f64)]) -> RunCurve {
        let point = |(step, &(tokens, pass_at_1)): (usize, &(f64, f64))| Point {
            step: step as i64,
            pass_at_1,
            problem_count: 100,
            sample_count: 4,
            generated_tokens: tokens,
            trained_tokens: tokens / 2.0,
            seconds: tokens / 100.0,
        };
        RunCurve {
            task: "sums".into(),
            algorithm: algorithm.into(),
            seed,
            standing: Standing::Done,
            error: None,
            base_digest: Some("d".into()),
            steps_done: points.len() as u64 - 1,
            generated_tokens: points.last().unwrap().0 as u64,
            points: points.iter().enumerate().map(point).collect(),
        }
    }

    #[test]
    fn a_curve_is_straight_between_measurements_and_level_after_the_last() {
        let run = run("a", 1, &[(0.0, 0.1), (100.0, 0.3), (200.0, 0.2), (400.0, 0.6)]);
        let at = |x| run.at(Axis::GeneratedTokens, x).unwrap();
        for (x, expected) in [(0.0, 0.1), (50.0, 0.2), (150.0, 0.25), (300.0, 0.4), (400.0, 0.6), (900.0, 0.6)] {
            assert!((at(x) - expected).abs() < 1e-12, "{x}: {}", at(x));
        }
        let first = |level, until| run.first_at(Axis::GeneratedTokens, level, until);
        assert_eq!(first(0.05, 1e9), Some(0.0));
        assert!((first(0.2, 1e9).unwrap() - 50.0).abs() < 1e-9);
        assert!((first(0.4, 1e9).unwrap() - 300.0).abs() < 1e-9);
        assert_eq!((first(0.4, 299.0), first(0.7, 1e9)), (None, None));
        assert!((run.first_at(Axis::Seconds, 0.2, 1e9).unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(run.best(250.0), Some(0.3));
    }

    #[test]
    fn intervals_by_hand() {
        let five = Interval::of(&[0.1, 0.2, 0.3, 0.4, 0.5]).unwrap();
        // Standard deviation 0.158114, by sqrt(5), times 2.776.
        assert!((five.mean - 0.3).abs() < 1e-12 && (five.high - 0.49629).abs() < 1e-4, "{five:?}");
        assert_eq!(Interval::of(&[]), None);
        assert_eq!(Interval::of(&[0.4]), Some(Interval { mean: 0.4, low: 0.4, high: 0.4 }));
        // Wilson (1927): 10 of 100 is 0.0552 to 0.1744.
        let wilson = Interval::wilson(0.1, 100);
        assert!((wilson.low - 0.0552).abs() < 1e-4 && (wilson.high - 0.1744).abs() < 1e-4, "{wilson:?}");
        assert!(Interval::wilson(0.0, 50).low.abs() < 1e-12);
    }

    #[test]
    fn a_run_that_never_gets_there_is_above_all_others() {
        assert_eq!(median(&[Some(3.0), None, Some(1.0)]), Some(3.0));
        assert_eq!(median(&[Some(3.0), None, None]), None);
        assert_eq!(median(&[Some(3.0), Some(1.0)]), Some(2.0));
        assert_eq!(median(&[Some(3.0), None]), None);
        assert_eq!(median(&[]), None);
    }
}
