//! The arithmetic of [`super`]: scores, softmax, weighted sum, each in one fixed order.
//!
//! All of it is plain Rust, compiled once per instruction set: every function is `inline(always)`, a caller with the
//! features of an [`Isa`] enabled is at the top, and LLVM makes vectors of the fixed arrays. A product is always a fused
//! multiply-add, so all instruction sets give the same bits. `D` is the length of a head, 0 where it is known at run
//! time only; `G` is how many queries are worked on together. Neither changes a result.

use super::isa::Isa;

/// Scores and weights are summed in so many lanes, by position; a row's scratch is a multiple of it.
pub(super) const LANES: usize = 16;

/// A dot product runs in so many lanes; scaled queries are padded with zeros to a multiple of it.
pub(super) const DOT_LANES: usize = 8;

/// Keys whose scores are computed together.
const KEYS: usize = 4;

/// `a * b + c` in every lane.
#[inline(always)]
fn fma<const L: usize>(a: &[f32; L], b: &[f32; L], c: &mut [f32; L]) {
    for l in 0..L {
        c[l] = a[l].mul_add(b[l], c[l]);
    }
}

/// `scores[g][k] = queries[g] . keys[k]` for `G` queries (scaled and padded) and any number of keys (`dim` floats apart).
/// The scores of a query go to consecutive floats, those of the next query begin `stride` floats later.
#[inline(always)]
pub(super) fn score<I: Isa, const D: usize, const G: usize>(
    isa: I,
    dim: usize,
    queries: &[f32],
    keys: &[f32],
    scores: &mut [f32],
    stride: usize,
) {
    let dim = if D == 0 { dim } else { D };
    let tiles = keys.chunks_exact(KEYS * dim);
    let rest = tiles.remainder();
    let mut at = 0;
    for tile in tiles {
        let (a, others) = tile.split_at(dim);
        let (b, others) = others.split_at(dim);
        let (c, d) = others.split_at(dim);
        let found = dot::<I, D, G>(isa, dim, queries, [a, b, c, d]);
        for g in 0..G {
            scores[g * stride + at..][..KEYS].copy_from_slice(&found[g]);
        }
        at += KEYS;
    }
    // Fewer keys than a tile holds go through the same code, the last of them more than once.
    let count = rest.len() / dim;
    if count > 0 {
        let mut tile = [&rest[(count - 1) * dim..]; KEYS];
        for k in 0..count {
            tile[k] = &rest[k * dim..][..dim];
        }
        let found = dot::<I, D, G>(isa, dim, queries, tile);
        for g in 0..G {
            scores[g * stride + at..][..count].copy_from_slice(&found[g][..count]);
        }
    }
}

/// The dot products of `G` queries with four keys: eight lanes over the head, then a tree over the lanes.
#[inline(always)]
fn dot<I: Isa, const D: usize, const G: usize>(
    isa: I,
    dim: usize,
    queries: &[f32],
    keys: [&[f32]; KEYS],
) -> [[f32; KEYS]; G] {
    let dim = if D == 0 { dim } else { D };
    let padded = dim.next_multiple_of(DOT_LANES);
    let mut whole: [&[[f32; DOT_LANES]]; KEYS] = [&[]; KEYS];
    for k in 0..KEYS {
        whole[k] = &keys[k].as_chunks::<DOT_LANES>().0[..dim / DOT_LANES];
    }
    let mut query: [&[[f32; DOT_LANES]]; G] = [&[]; G];
    for g in 0..G {
        query[g] = queries[g * padded..][..padded].as_chunks::<DOT_LANES>().0;
    }
    let mut sums = [[[0.0; DOT_LANES]; KEYS]; G];
    for c in 0..dim / DOT_LANES {
        for k in 0..KEYS {
            for g in 0..G {
                fma(&query[g][c], &whole[k][c], &mut sums[g][k]);
            }
        }
    }
    if dim % DOT_LANES != 0 {
        for k in 0..KEYS {
            let mut last = [0.0; DOT_LANES];
            last[..dim % DOT_LANES].copy_from_slice(keys[k].as_chunks::<DOT_LANES>().1);
            for g in 0..G {
                fma(&query[g][dim / DOT_LANES], &last, &mut sums[g][k]);
            }
        }
    }
    let mut found = [[0.0; KEYS]; G];
    for g in 0..G {
        found[g] = isa.add_lanes(&sums[g]);
    }
    found
}

/// Turns the scores of one query into weights, `exp(score - max)`, and returns their sum. `scores` is padded to a
/// multiple of [`LANES`]; what lies past `seen` becomes 0.
#[inline(always)]
pub(super) fn weigh(scores: &mut [f32], seen: usize) -> f32 {
    // What lies past the end is set to a score that is there, so that no lane is a special case.
    let (seen_scores, padding) = scores.split_at_mut(seen);
    padding.fill(seen_scores[0]);
    let (chunks, _) = scores.as_chunks_mut::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks.iter() {
        for l in 0..LANES {
            largest[l] = if chunk[l] > largest[l] { chunk[l] } else { largest[l] };
        }
    }
    let largest = largest.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    for chunk in chunks.iter_mut() {
        for weight in chunk {
            *weight = exp(*weight - largest);
        }
    }
    scores[seen..].fill(0.0);
    let (chunks, _) = scores.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            sums[l] += chunk[l];
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            sums[l] += sums[l + width];
        }
        width /= 2;
    }
    sums[0]
}

/// `e^x` for `x <= 0` to about one unit in the last place; 0 below -87, where the result would not be a normal number.
/// Anything that is not finite gives NaN.
#[inline(always)]
pub(in super::super) fn exp(x: f32) -> f32 {
    /// Adding it rounds a small float to an integer, which then stands in its low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = std::f32::consts::LN_2;
    const LN_2_LOW: f32 = -1.904_654_2e-9;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = (-n).mul_add(LN_2_LOW, (-n).mul_add(LN_2_HIGH, x));
    // (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2, minimax in the relative error of e^r (3.1e-9).
    let p = 0.001_381_453_9_f32;
    let p = p.mul_add(r, 0.008_368_745);
    let p = p.mul_add(r, 0.041_668_39);
    let p = p.mul_add(r, 0.166_665_21);
    let p = p.mul_add(r, 0.499_999_94);
    let e = (r * r).mul_add(p, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let tiny = (f32::MIN..-87.0).contains(&x);
    if tiny { 0.0 } else { e * power }
}

/// `sums[g] += weights[g][k] * values[k]` over `k` in order, for `G` queries. Values are `dim` floats apart, and so are
/// sums; the weights of a query are consecutive, those of the next one begin `stride` floats later.
#[inline(always)]
pub(super) fn accumulate<I: Isa, const D: usize, const G: usize>(
    dim: usize,
    weights: &[f32],
    stride: usize,
    values: &[f32],
    sums: &mut [f32],
) {
    let dim = if D == 0 { dim } else { D };
    let count = values.len() / dim;
    let mut weight: [&[f32]; G] = [&[]; G];
    for g in 0..G {
        weight[g] = &weights[g * stride..][..count];
    }
    let mut start = 0;
    if I::WIDE {
        while start + 4 * LANES <= dim {
            accumulate_tile::<D, G, 4>(dim, start, weight, values, sums);
            start += 4 * LANES;
        }
    }
    while start + LANES <= dim {
        accumulate_tile::<D, G, 1>(dim, start, weight, values, sums);
        start += LANES;
    }
    for d in start..dim {
        for g in 0..G {
            let sum = &mut sums[g * dim + d];
            for k in 0..count {
                *sum = weight[g][k].mul_add(values[k * dim + d], *sum);
            }
        }
    }
}

/// `T` times [`LANES`] floats of a head, from `start`: what is summed stays in registers.
#[inline(always)]
fn accumulate_tile<const D: usize, const G: usize, const T: usize>(
    dim: usize,
    start: usize,
    weights: [&[f32]; G],
    values: &[f32],
    sums: &mut [f32],
) {
    let dim = if D == 0 { dim } else { D };
    let count = values.len() / dim;
    let mut tile = [[[0.0; LANES]; T]; G];
    for g in 0..G {
        tile[g].as_flattened_mut().copy_from_slice(&sums[g * dim + start..][..T * LANES]);
    }
    for k in 0..count {
        let value = values[k * dim + start..][..T * LANES].as_chunks::<LANES>().0;
        for g in 0..G {
            let weight = [weights[g][k]; LANES];
            for t in 0..T {
                fma(&weight, &value[t], &mut tile[g][t]);
            }
        }
    }
    for g in 0..G {
        sums[g * dim + start..][..T * LANES].copy_from_slice(tile[g].as_flattened());
    }
}
