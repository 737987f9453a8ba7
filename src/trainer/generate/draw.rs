//! From a row of probabilities and one uniform number to a token. No tensors, no state.
//!
//! One number per token: the token is where the cumulative sum passes it. What a row gives depends on the row and the
//! number alone.

use crate::types::Sampling;

/// Tokens summed at once: a row is searched block by block, then token by token.
const BLOCK: usize = 512;
/// Independent sums within a block, for the processor's vector units.
const LANES: usize = 16;

/// The token that `sampling` takes from a row of probabilities `[V]`, given `uniform` in [0, 1). `None` if the row is no
/// distribution: the policy's logits were not finite.
///
/// At temperature 0 the most likely token, the first of equals. Otherwise the row must have been computed at the
/// temperature; `top_k` is applied before `top_p`, whose mass is that of what `top_k` left.
pub fn draw(probabilities: &[f32], sampling: &Sampling, uniform: f64) -> Option<usize> {
    if sampling.temperature == 0.0 {
        return most_likely(probabilities);
    }
    let is_cut = sampling.top_p < 1.0 || (sampling.top_k > 0 && (sampling.top_k as usize) < probabilities.len());
    if is_cut { from_cut(probabilities, sampling, uniform) } else { from_all(probabilities, uniform) }
}

fn most_likely(probabilities: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (token, &probability) in probabilities.iter().enumerate() {
        if probability.is_nan() {
            return None;
        }
        if probability > highest {
            (best, highest) = (Some(token), probability);
        }
    }
    best
}

fn from_all(probabilities: &[f32], uniform: f64) -> Option<usize> {
    let sums: Vec<f64> = probabilities.chunks(BLOCK).map(block_sum).collect();
    let total: f64 = sums.iter().sum();
    if !(total.is_finite() && total > 0.0) {
        return None;
    }
    let target = uniform * total;
    let mut before = 0.0;
    for (block, sum) in sums.iter().enumerate() {
        if before + sum > target {
            let start = block * BLOCK;
            let end = (start + BLOCK).min(probabilities.len());
            return search(&probabilities[start..end], target - before).map(|offset| start + offset);
        }
        before += sum;
    }
    // Rounding left the target at the very end.
    probabilities.iter().rposition(|&probability| probability > 0.0)
}

fn block_sum(block: &[f32]) -> f64 {
    let mut lanes = [0f32; LANES];
    let chunks = block.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().chain(rest).map(|&value| f64::from(value)).sum()
}

/// Where the cumulative sum passes `target`; the last possible token where rounding says it never does.
fn search(block: &[f32], target: f64) -> Option<usize> {
    let mut sum = 0.0;
    let mut last = None;
    for (offset, &probability) in block.iter().enumerate() {
        if probability > 0.0 {
            sum += f64::from(probability);
            last = Some(offset);
            if sum > target {
                return last;
            }
        }
    }
    last
}

fn from_cut(probabilities: &[f32], sampling: &Sampling, uniform: f64) -> Option<usize> {
    if probabilities.iter().any(|probability| probability.is_nan()) {
        return None;
    }
    let mass_of_all: f64 = probabilities.iter().map(|&probability| f64::from(probability)).sum();
    // What lies below weighs less than what the nucleus leaves out, so none of it is inside: little is left to sort.
    let least = match sampling.top_k {
        0 => (1.0 - sampling.top_p) * mass_of_all / probabilities.len() as f64,
        _ => 0.0,
    };
    let mut order: Vec<usize> =
        (0..probabilities.len()).filter(|&token| f64::from(probabilities[token]) >= least).collect();
    // The most likely first, the first of equals before the others.
    let rank = |&a: &usize, &b: &usize| probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b));
    let kept = match sampling.top_k as usize {
        0 => order.len(),
        top_k => top_k.min(order.len()),
    };
    if kept < order.len() {
        let _ = order.select_nth_unstable_by(kept, rank);
        order.truncate(kept);
    }
    order.sort_unstable_by(rank);
    let mass = |tokens: &[usize]| -> f64 { tokens.iter().map(|&token| f64::from(probabilities[token])).sum() };
    let nucleus = sampling.top_p * if sampling.top_k == 0 { mass_of_all } else { mass(&order) };
    let mut sum = 0.0;
    let wanted = order.iter().take_while(|&&token| {
        let is_inside = sum < nucleus;
        sum += f64::from(probabilities[token]);
        is_inside
    });
    let count = wanted.count().max(1);
    order.truncate(count);
    let target = uniform * mass(&order);
    let mut sum = 0.0;
    let passed = order.iter().find(|&&token| {
        sum += f64::from(probabilities[token]);
        sum > target
    });
    passed.or(order.last()).copied().filter(|&token| probabilities[token] > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };

    fn shares(row: &[f32], sampling: Sampling) -> Vec<f64> {
        let steps = 100_000;
        let mut counts = vec![0; row.len()];
        for step in 0..steps {
            counts[draw(row, &sampling, (f64::from(step) + 0.5) / f64::from(steps)).unwrap()] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / f64::from(steps)).collect()
    }

    fn check(row: &[f32], sampling: Sampling, expected: &[f64]) {
        for (token, (found, expected)) in shares(row, sampling).iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-4, "token {token}: {found}, expected {expected}");
        }
    }

    #[test]
    fn tokens_come_in_their_shares() {
        let row = [0.1, 0.4, 0.0, 0.3, 0.2];
        check(&row, PLAIN, &[0.1, 0.4, 0.0, 0.3, 0.2]);
        check(&row, Sampling { top_k: 2, ..PLAIN }, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
        check(&row, Sampling { top_p: 0.5, ..PLAIN }, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
        check(&row, Sampling { top_p: 0.35, ..PLAIN }, &[0.0, 1.0, 0.0, 0.0, 0.0]);
        // The nucleus is half of the mass that the three most likely have: 0.45 of 0.9.
        check(&row, Sampling { top_k: 3, top_p: 0.5, ..PLAIN }, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
        check(&row, Sampling { top_k: 1, ..PLAIN }, &[0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_long_row_is_searched_to_the_right_place() {
        let row: Vec<f32> = (0..2000).map(|token| if token % 3 == 0 { 0.0 } else { 1.0 / 1333.0 }).collect();
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        for uniform in [0.0, 0.1, 0.25, 0.5, 0.7777, 0.999, 1.0 - f64::EPSILON] {
            let token = draw(&row, &PLAIN, uniform).unwrap();
            let below: f64 = row[..token].iter().map(|&p| f64::from(p)).sum();
            assert!(row[token] > 0.0);
            assert!((below / sum - uniform).abs() < 1.5 / 1333.0, "{uniform}: {token}");
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_nan_is_no_distribution() {
        let greedy = Sampling { temperature: 0.0, ..PLAIN };
        assert_eq!(draw(&[0.2, 0.4, 0.4], &greedy, 0.9), Some(1));
        for sampling in [greedy, PLAIN, Sampling { top_k: 2, ..PLAIN }] {
            assert_eq!(draw(&[0.5, f32::NAN, 0.5], &sampling, 0.5), None);
        }
        assert_eq!(draw(&[0.0, 0.0], &PLAIN, 0.5), None);
    }
}
