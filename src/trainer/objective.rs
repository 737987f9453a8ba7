//! The token objective of `loss.rs` as tensor operations: on the device, so that no step waits for the host.
//!
//! Everything is computed in f64, from the same numbers in the same order as there; only the exponential may differ in
//! the last bit. What does not depend on the weights (caps, which logprob is the old one) is decided on the host before
//! the pass begins.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::logprob::{part, upload};
use super::loss::{LOG_RATIO_LIMIT, Objective};
use super::pack::PackedBatch;

/// What the objective needs of the scored tokens of a micro-batch beside their logprobs, `[P]` on the device.
pub struct TokenTable {
    advantage_plus: Tensor,
    advantage_minus: Tensor,
    plus_count: Tensor,
    minus_count: Tensor,
    is_first_use: Tensor,
    /// From the engine; 0 where it said nothing.
    engine: Tensor,
    /// The engine's logprob is the old one.
    is_engine_old: Tensor,
    /// The current logprob is: the engine's should be, and it said nothing.
    is_current_old: Tensor,
    /// The importance weight is 1.
    is_neutral: Tensor,
    /// Cap of the importance weight.
    cap: Tensor,
}

impl TokenTable {
    /// From a batch. `is_engine_old`: the engine's logprobs are the old policy, but for tokens of cached solutions.
    pub fn new(batch: &PackedBatch, objective: &Objective, is_engine_old: bool, device: Device) -> TokenTable {
        let numbers = |values: Vec<f64>| upload(Tensor::from_slice(&values), device);
        let flags = |values: Vec<bool>| upload(Tensor::from_slice(&values), device);
        let counts = |values: &[u32]| numbers(values.iter().map(|&count| f64::from(count)).collect());
        let tokens = || batch.engine_logprobs.iter().zip(&batch.is_cached);
        let cap = |is_cached: bool| if is_cached { objective.cached_importance_cap } else { objective.importance_cap };
        let is_neutral = |(engine, &is_cached): (&f32, &bool)| {
            !is_cached && (is_engine_old || engine.is_nan()) || cap(is_cached) <= 0.0
        };
        TokenTable {
            advantage_plus: upload(Tensor::from_slice(&batch.advantage_plus), device),
            advantage_minus: upload(Tensor::from_slice(&batch.advantage_minus), device),
            plus_count: counts(&batch.plus_count),
            minus_count: counts(&batch.minus_count),
            is_first_use: flags(batch.is_first_use.clone()),
            engine: numbers(tokens().map(|(&e, _)| if e.is_nan() { 0.0 } else { f64::from(e) }).collect()),
            is_engine_old: flags(tokens().map(|(e, &cached)| is_engine_old && !cached && !e.is_nan()).collect()),
            is_current_old: flags(tokens().map(|(e, &cached)| is_engine_old && !cached && e.is_nan()).collect()),
            is_neutral: flags(tokens().map(is_neutral).collect()),
            cap: numbers(batch.is_cached.iter().map(|&is_cached| cap(is_cached)).collect()),
        }
    }

    /// d loss / d logprob of the tokens in `range`, in f64, and their share of the sums: loss, pairs whose clip was
    /// active, pairs bounded by the dual clip, ratio over distinct tokens, `[4]` in f64. `logprobs` are those of `range`
    /// under the current weights, `old` under the old ones; `None`: the same.
    pub fn evaluate(
        &self,
        objective: &Objective,
        range: &Range<usize>,
        logprobs: &Tensor,
        old: Option<&Tensor>,
    ) -> (Tensor, Tensor) {
        let of = |values: &Tensor| part(values, range);
        let logprobs = logprobs.to_kind(Kind::Double);
        let engine = of(&self.engine);
        let trainer = old.map_or_else(|| logprobs.shallow_clone(), |old| old.to_kind(Kind::Double));
        let weight = bounded_exp(&(&trainer - &engine)).fmin(&of(&self.cap));
        let weight = Tensor::ones_like(&weight).where_self(&of(&self.is_neutral), &weight);
        let old = logprobs.where_self(&of(&self.is_current_old), &trainer);
        let old = engine.where_self(&of(&self.is_engine_old), &old);
        let ratio = bounded_exp(&(&logprobs - &old));
        let scale = weight / objective.denominator;

        let (upper, lower) = (1.0 + objective.clip_high, 1.0 - objective.clip_low);
        let (is_high, is_low, is_dual) = (ratio.gt(upper), ratio.lt(lower), ratio.gt(objective.dual_clip));
        let (plus, minus) = (of(&self.advantage_plus).neg(), of(&self.advantage_minus).neg());
        // fmin and fmax take the number where the other is NaN, as in `loss.rs`.
        let bound = |value: f64| Tensor::from(value);
        let bounded_low = ratio.fmax(&bound(lower)).fmin(&bound(objective.dual_clip));
        let loss = &scale * (&plus * ratio.fmin(&bound(upper)) + &minus * bounded_low);
        let zero = ratio.zeros_like();
        let gradient = zero.where_self(&is_high, &(plus * &ratio))
            + zero.where_self(&is_low.logical_or(&is_dual), &(minus * &ratio));
        let minus_count = of(&self.minus_count);
        let clipped = of(&self.plus_count) * is_high + &minus_count * is_low;
        let distinct = ratio.where_self(&of(&self.is_first_use), &zero);
        let sums = Tensor::stack(&[loss, clipped, minus_count * is_dual, distinct], 0);
        (scale * gradient, sums.sum_dim_intlist([1i64].as_slice(), false, Kind::Double))
    }
}

fn bounded_exp(difference: &Tensor) -> Tensor {
    difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use crate::trainer::loss::TokenInputs;
    use rand_chacha::rand_core::Rng;

    /// Every logprob of interest beside random ones; engines that said nothing; cached tokens.
    fn table(seed: u64, count: usize) -> (PackedBatch, Vec<f32>, Vec<f32>) {
        let mut rng = stream(seed, Purpose::Eval, &[]);
        let mut uniform = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut batch = PackedBatch::sequence(&vec![1; count + 1]);
        let (mut logprobs, mut old) = (Vec::new(), Vec::new());
        let special = [f32::NAN, f32::NEG_INFINITY, -1e30, -1e4, 0.0, -0.0];
        let mut logprob = |scale: f64| match (uniform() * 40.0) as usize {
            at @ 0..6 => special[at],
            _ => -(uniform() * scale) as f32,
        };
        for index in 0..count {
            let now = logprob(8.0);
            logprobs.push(now);
            old.push(if index % 7 == 0 { now } else { logprob(8.0) });
            batch.engine_logprobs[index] = logprob(8.0);
        }
        for index in 0..count {
            batch.advantage_plus[index] = uniform() * 2.0;
            batch.advantage_minus[index] = -uniform() * 2.0;
            batch.plus_count[index] = index as u32 % 5;
            batch.minus_count[index] = index as u32 % 3;
            batch.is_cached[index] = index % 4 == 0;
            batch.is_first_use[index] = index % 9 != 0;
        }
        (batch, logprobs, old)
    }

    fn same(found: f64, wanted: f64) -> bool {
        found == wanted || (found.is_nan() && wanted.is_nan()) || (found - wanted).abs() <= 1e-12 * wanted.abs()
    }

    #[test]
    fn tensors_give_what_the_plain_form_gives() {
        const COUNT: usize = 700;
        for (seed, (cap, clips)) in (0..).zip([(2.0, [0.2, 0.28]), (0.0, [0.2, 0.28]), (1.0, [0.9, 3.0])]) {
            for is_engine_old in [false, true] {
                for has_old in [false, true] {
                    let (batch, logprobs, old) = table(seed, COUNT);
                    let objective = Objective {
                        clip_low: clips[0],
                        clip_high: clips[1],
                        dual_clip: 10.0,
                        importance_cap: cap,
                        cached_importance_cap: 3.0,
                        denominator: 37.0,
                    };
                    let table = TokenTable::new(&batch, &objective, is_engine_old, Device::Cpu);
                    // A chunk that begins somewhere and is no multiple of a vector.
                    let range = 13..COUNT - 4;
                    let of = |values: &[f32]| part(&Tensor::from_slice(values), &range);
                    let (slopes, _) =
                        table.evaluate(&objective, &range, &of(&logprobs), has_old.then(|| of(&old)).as_ref());
                    let mut seen = [0; 3];
                    for (place, index) in range.clone().enumerate() {
                        let (logprob, engine) = (logprobs[index], batch.engine_logprobs[index]);
                        let is_cached = batch.is_cached[index];
                        let given = if has_old { old[index] } else { logprob };
                        let (old, importance_weight) = if is_engine_old && !is_cached {
                            (if engine.is_nan() { logprob } else { engine }, 1.0)
                        } else {
                            (given, objective.importance_weight(f64::from(given), f64::from(engine), is_cached))
                        };
                        let token = objective.token(TokenInputs {
                            logprob: f64::from(logprob),
                            old_logprob: f64::from(old),
                            importance_weight,
                            advantage_plus: batch.advantage_plus[index],
                            advantage_minus: batch.advantage_minus[index],
                        });
                        let slope = slopes.double_value(&[place as i64]);
                        let said = (logprob, old, engine, is_cached);
                        assert!(same(slope, token.gradient), "{said:?}: {slope} is not {}", token.gradient);
                        let one = index..index + 1;
                        let at = |value: f32| Tensor::from_slice(&[value]);
                        let (_, sums) = table.evaluate(&objective, &one, &at(logprob), Some(&at(given)));
                        let sums = Vec::<f64>::try_from(sums).unwrap();
                        let counts = (f64::from(batch.plus_count[index]), f64::from(batch.minus_count[index]));
                        let if_so = |is_so: bool, value: f64| if is_so { value } else { 0.0 };
                        let clipped = if_so(token.is_clipped_high, counts.0) + if_so(token.is_clipped_low, counts.1);
                        let wanted = [
                            token.loss,
                            clipped,
                            if_so(token.is_dual_clipped, counts.1),
                            if_so(batch.is_first_use[index], token.ratio),
                        ];
                        assert!(sums.iter().zip(wanted).all(|(&f, w)| same(f, w)), "{said:?}: {sums:?} not {wanted:?}");
                        seen[0] += usize::from(token.is_clipped_high);
                        seen[1] += usize::from(token.is_clipped_low);
                        seen[2] += usize::from(token.is_dual_clipped);
                    }
                    assert!(!has_old || seen.iter().all(|&count| count > 20), "{seen:?}");
                }
            }
        }
    }
}
