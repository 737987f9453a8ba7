//! What can be said of a model from n samples of each problem. Pure: numbers in, numbers out; whatever is drawn has a
//! stream of its own and comes out the same every time.

use crate::data::draw::below;
use crate::rng::{Purpose, stream};

/// Subsets of a problem's samples up to which majority@k is exact; beyond, [`DRAWN_SUBSETS`] are drawn.
const MOST_SUBSETS: u64 = 4096;
/// Subsets that stand for all where those are too many: the error of one problem's value is at most 0.016 (one standard
/// deviation), that of a file's mean far less.
const DRAWN_SUBSETS: u64 = 1000;
/// Resamples of a bootstrap interval.
pub const RESAMPLES: usize = 10_000;
/// Seed of all that is drawn here. Not the seed of the sampling: the same samples have the same interval.
const SEED: u64 = 0;

/// 1, 2, 4, 8 and so on below `n`, then `n`: the k of pass@k and majority@k.
pub fn powers_up_to(n: u32) -> Vec<u32> {
    let powers = std::iter::successors(Some(1_u32), |k| k.checked_mul(2)).take_while(|&k| k < n);
    powers.chain((n > 0).then_some(n)).collect()
}

/// The chance that at least one of k samples is right, from `correct` of `n`: 1 - C(n - c, k) / C(n, k), which is unbiased
/// (Chen et al. 2021, arXiv 2107.03374, section 2.1). With fewer than k samples all of them are taken. 0 without any.
pub fn pass_at_k(n: u32, correct: u32, k: u32) -> f64 {
    let (correct, k) = (correct.min(n), k.min(n));
    let wrong = n - correct;
    if k == 0 || correct == 0 {
        return 0.0;
    }
    if wrong < k {
        return 1.0;
    }
    if k == 1 {
        return f64::from(correct) / f64::from(n);
    }
    // C(n - c, k) / C(n, k), as a product of numbers from 0 to 1.
    let all_wrong: f64 = (wrong + 1..=n).map(|i| 1.0 - f64::from(k) / f64::from(i)).product();
    1.0 - all_wrong
}

/// The final answers of one problem, equal ones under one number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Votes {
    /// The group that each sample votes for; `None` for a sample without an answer, which does not vote.
    pub votes: Vec<Option<usize>>,
    /// Whether the answer of each group is right.
    pub is_right: Vec<bool>,
}

impl Votes {
    /// The chance that the most frequent answer of k samples is right. Answers that are equally frequent are chosen among
    /// at random; where no sample has an answer nothing is right. Exact for all samples and wherever there are at most 4,096
    /// subsets of k, else the mean over 1,000 drawn ones; `name` names their stream. With fewer than k samples all of
    /// them vote.
    pub fn majority_at_k(&self, k: u32, name: u64) -> f64 {
        let n = self.votes.len();
        let k = n.min(k as usize);
        if k == 0 {
            return 0.0;
        }
        let mut counts = vec![0; self.is_right.len()];
        match subsets(n, k) {
            Some(count) => {
                let mut chosen: Vec<usize> = (0..k).collect();
                let mut credit = self.credit(&chosen, &mut counts);
                while next_subset(&mut chosen, n) {
                    credit += self.credit(&chosen, &mut counts);
                }
                credit / count as f64
            }
            None => {
                let mut draw = stream(SEED, Purpose::Statistics, &[name, k as u64]);
                let mut order: Vec<usize> = (0..n).collect();
                let mut credit = 0.0;
                for _ in 0..DRAWN_SUBSETS {
                    for place in 0..k {
                        order.swap(place, place + below(&mut draw, (n - place) as u64) as usize);
                    }
                    credit += self.credit(&order[..k], &mut counts);
                }
                credit / DRAWN_SUBSETS as f64
            }
        }
    }

    /// Share of the right answers among the most frequent ones of the samples in `chosen`. `counts` is room for one number
    /// a group.
    fn credit(&self, chosen: &[usize], counts: &mut [usize]) -> f64 {
        counts.fill(0);
        chosen.iter().filter_map(|&sample| self.votes[sample]).for_each(|group| counts[group] += 1);
        let top = counts.iter().copied().max().unwrap_or(0);
        if top == 0 {
            return 0.0;
        }
        let tied = || counts.iter().zip(&self.is_right).filter(|(count, _)| **count == top);
        tied().filter(|(_, is_right)| **is_right).count() as f64 / tied().count() as f64
    }

    /// The group with the most votes, the earliest of several; `None` without a vote.
    pub fn winner(&self) -> Option<usize> {
        let count = |group: usize| self.votes.iter().filter(|vote| **vote == Some(group)).count();
        (0..self.is_right.len()).max_by_key(|&group| (count(group), std::cmp::Reverse(group)))
    }
}

/// C(n, k), if it is small enough to go through all of them.
fn subsets(n: usize, k: usize) -> Option<u64> {
    let mut count: u64 = 1;
    for i in 0..k.min(n - k) as u64 {
        // Exact at every step: a product of i + 1 numbers in a row is divisible by (i + 1)!. The bound is looked at first,
        // and the numbers grow until the middle, so nothing overflows.
        count = count * (n as u64 - i) / (i + 1);
        if count > MOST_SUBSETS {
            return None;
        }
    }
    Some(count)
}

/// The next subset of `0..n` in lexicographic order; false after the last.
fn next_subset(chosen: &mut [usize], n: usize) -> bool {
    let k = chosen.len();
    let Some(place) = (0..k).rev().find(|&place| chosen[place] < n - k + place) else { return false };
    chosen[place] += 1;
    for later in place + 1..k {
        chosen[later] = chosen[later - 1] + 1;
    }
    true
}

/// The arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The interval that holds the middle 95 % of the mean over other problems of the same kind: [`RESAMPLES`] times, as many
/// problems as there are in each file are drawn with replacement, and the mean over the files of their means is taken.
/// `None` without files, or with an empty one.
pub fn bootstrap(files: &[&[f64]]) -> Option<[f64; 2]> {
    if files.is_empty() || files.iter().any(|file| file.is_empty()) {
        return None;
    }
    let mut draw = stream(SEED, Purpose::Statistics, &[]);
    let mut resampled = |file: &[f64]| {
        let count = file.len() as u64;
        (0..count).map(|_| file[below(&mut draw, count) as usize]).sum::<f64>() / count as f64
    };
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| files.iter().map(|file| resampled(file)).sum::<f64>() / files.len() as f64).collect();
    means.sort_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    Some([means[tail], means[RESAMPLES - 1 - tail]])
}

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;
    use num_rational::Ratio;
    use num_traits::{One, ToPrimitive, Zero};

    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
    }

    fn binomial(n: u32, k: u32) -> BigUint {
        (0..k).fold(BigUint::one(), |count, i| count * (n - i) / (i + 1))
    }

    #[test]
    fn pass_at_k_by_hand() {
        // 1 - C(3, 2) / C(5, 2) = 1 - 3 / 10.
        near(pass_at_k(5, 2, 2), 0.7);
        // 1 - C(28, 8) / C(32, 8) = 1 - 3,108,105 / 10,518,300.
        near(pass_at_k(32, 4, 8), 1.0 - 3_108_105.0 / 10_518_300.0);
        assert_eq!(pass_at_k(4, 0, 4), 0.0);
        assert_eq!(pass_at_k(4, 1, 4), 1.0);
        assert_eq!(pass_at_k(4, 4, 1), 1.0);
        // Three of eight samples could not be settled: pass@8 is that of the five others.
        assert_eq!(pass_at_k(5, 1, 8), 1.0);
        assert_eq!(pass_at_k(0, 0, 1), 0.0);
    }

    #[test]
    fn pass_at_k_is_the_exact_fraction_and_grows_with_k() {
        for n in [1, 2, 7, 32, 100] {
            for correct in 0..=n {
                near(pass_at_k(n, correct, 1), f64::from(correct) / f64::from(n));
                let mut before = 0.0;
                for k in 1..=n {
                    let value = pass_at_k(n, correct, k);
                    let wrong = n - correct;
                    let lost = if wrong < k { BigUint::zero() } else { binomial(wrong, k) };
                    let exact = Ratio::one() - Ratio::new(lost.into(), num_bigint::BigInt::from(binomial(n, k)));
                    near(value, exact.to_f64().unwrap());
                    assert!(value >= before - 1e-12, "{n} {correct} {k}");
                    before = value;
                }
            }
        }
    }

    #[test]
    fn the_k_are_powers_of_two_and_n() {
        assert_eq!(powers_up_to(32), [1, 2, 4, 8, 16, 32]);
        assert_eq!(powers_up_to(12), [1, 2, 4, 8, 12]);
        assert_eq!(powers_up_to(1), [1]);
        assert!(powers_up_to(0).is_empty());
        assert_eq!(powers_up_to(u32::MAX).len(), 33);
    }

    fn votes(groups: &[Option<usize>], is_right: &[bool]) -> Votes {
        Votes { votes: groups.to_vec(), is_right: is_right.to_vec() }
    }

    #[test]
    fn majority_by_hand() {
        let two_to_one = votes(&[Some(0), Some(1), Some(0)], &[true, false]);
        near(two_to_one.majority_at_k(3, 1), 1.0);
        // {0, 1} and {1, 2} are ties, {0, 2} is right: (1/2 + 1/2 + 1) / 3.
        near(two_to_one.majority_at_k(2, 1), 2.0 / 3.0);
        near(two_to_one.majority_at_k(1, 1), 2.0 / 3.0);
        assert_eq!(two_to_one.winner(), Some(0));
        let tie = votes(&[Some(0), Some(1), Some(2), None], &[false, true, false]);
        near(tie.majority_at_k(4, 1), 1.0 / 3.0);
        assert_eq!(tie.winner(), Some(0));
        // A sample without an answer does not vote, but it is one of the k.
        let mostly_silent = votes(&[None, None, Some(0)], &[true]);
        near(mostly_silent.majority_at_k(3, 1), 1.0);
        near(mostly_silent.majority_at_k(1, 1), 1.0 / 3.0);
        near(mostly_silent.majority_at_k(2, 1), 2.0 / 3.0);
        let silent = votes(&[None, None], &[]);
        assert_eq!((silent.majority_at_k(2, 1), silent.winner()), (0.0, None));
        assert_eq!(Votes::default().majority_at_k(1, 1), 0.0);
    }

    #[test]
    fn majority_of_one_is_pass_at_one_and_drawn_subsets_are_near_the_exact_value() {
        for n in [3_u32, 8, 32] {
            for correct in 0..=n {
                let groups: Vec<Option<usize>> = (0..n).map(|i| Some(usize::from(i >= correct))).collect();
                near(votes(&groups, &[true, false]).majority_at_k(1, 5), f64::from(correct) / f64::from(n));
            }
        }
        // Of 32 samples 20 are right: the right answer wins 8 votes by the hypergeometric distribution, ties halved.
        let groups: Vec<Option<usize>> = (0..32).map(|i| Some(usize::from(i >= 20))).collect();
        assert_eq!(subsets(32, 8), None);
        let ways = |right: u32| (binomial(20, right) * binomial(12, 8 - right)).to_f64().unwrap();
        let exact = ((5..=8).map(ways).sum::<f64>() + ways(4) / 2.0) / binomial(32, 8).to_f64().unwrap();
        let some = votes(&groups, &[true, false]);
        let found = some.majority_at_k(8, 1);
        assert!((found - exact).abs() < 0.05, "{found} is not near {exact}");
        assert_eq!(found, some.majority_at_k(8, 1), "the same every time");
    }

    #[test]
    fn subsets_are_all_there_once() {
        for (n, k) in [(1, 1), (5, 2), (6, 6), (7, 3), (12, 6)] {
            let mut chosen: Vec<usize> = (0..k).collect();
            let mut seen = std::collections::BTreeSet::from([chosen.clone()]);
            while next_subset(&mut chosen, n) {
                assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen[k - 1] < n);
                assert!(seen.insert(chosen.clone()));
            }
            assert_eq!(Some(seen.len() as u64), subsets(n, k), "{n} over {k}");
        }
    }

    #[test]
    fn an_interval_is_that_of_the_normal_distribution_and_the_same_every_time() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let [low, high] = bootstrap(&[&values]).unwrap();
        // Mean 0.5, standard error 0.05: 1.96 of them to each side, in steps of 0.01.
        assert!((low - 0.402).abs() < 0.011 && (high - 0.598).abs() < 0.011, "{low} {high}");
        assert_eq!(bootstrap(&[&values]), Some([low, high]));
        assert_eq!(bootstrap(&[&[0.25; 7], &[0.75; 3]]), Some([0.5, 0.5]), "files count the same whatever their size");
        assert_eq!(bootstrap(&[]), None);
        assert_eq!(bootstrap(&[&values, &[]]), None);
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[1.0, 2.0]), Some(1.5));
    }
}
