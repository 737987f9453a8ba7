//! What lies between the matrix products, on the processor in fp32: norms, rotations, gates, sums.
//!
//! libtorch wakes its other threads for each such operation above some size, which costs more than the operation, and
//! computes the ends of the parts with other functions than the rest, so that a row's bits would depend on the batch.
//! Here every row is computed by itself, in one fixed order, by the calling thread.

use std::borrow::Cow;

use tch::{Device, Kind, Tensor};

use super::attention::exp;
use super::isa::Level;
use crate::trainer::logprob::to_vec;

/// Partial sums of a norm.
const LANES: usize = 16;

/// Whether a tensor can be read as a slice.
pub(super) fn is_plain(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::Float && x.is_contiguous()
}

/// The numbers of a tensor in the order of its indices, in fp32: its own memory where it is `is_plain`, else a copy.
pub fn numbers(x: &Tensor) -> Cow<'_, [f32]> {
    if x.numel() == 0 {
        return Cow::default();
    }
    if is_plain(x) {
        // SAFETY: the tensor is contiguous, fp32 and in the host's memory, and outlives the borrow.
        return Cow::Borrowed(unsafe { std::slice::from_raw_parts(x.data_ptr().cast::<f32>(), x.numel()) });
    }
    Cow::Owned(to_vec(&x.to_kind(Kind::Float)))
}

/// A tensor that is `is_plain`, with the same numbers.
fn plain(x: Tensor) -> Tensor {
    if is_plain(&x) { x } else { x.to_kind(Kind::Float).to_device(Device::Cpu).contiguous() }
}

/// The memory of a tensor that `plain` has given, and that nobody else reads: callers pass tensors that have
/// just been made or handed over.
pub(super) fn memory(x: &mut Tensor) -> &mut [f32] {
    if x.numel() == 0 {
        return &mut [];
    }
    // SAFETY: contiguous, fp32, in the host's memory; borrowed exclusively, see above.
    unsafe { std::slice::from_raw_parts_mut(x.data_ptr().cast::<f32>(), x.numel()) }
}

/// Root mean square norm of the rows [.., width] of `x`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Tensor {
    let mut out = Tensor::empty(x.size(), (Kind::Float, Device::Cpu));
    let (x, weight) = (numbers(x), numbers(weight));
    fast(&mut Norm { x: &x, weight: &weight, epsilon: epsilon as f32, out: memory(&mut out) });
    out
}

/// Rotates `x` [T, heads, head_dim] in place by the angles whose cosines and sines are [T, head_dim].
pub(super) fn rotate(x: Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let mut x = plain(x);
    let head_dim = usize::try_from(x.size().last().copied().unwrap_or(0)).unwrap_or(0);
    let (cos, sin) = (numbers(cos), numbers(sin));
    fast(&mut Rotation { x: memory(&mut x), cos: &cos, sin: &sin, head_dim });
    x
}

/// silu(gate) * up, in the memory of `gate`.
pub(super) fn gated(gate: Tensor, up: &Tensor) -> Tensor {
    let mut gate = plain(gate);
    let up = numbers(up);
    fast(&mut Gate { gate: memory(&mut gate), up: &up });
    gate
}

/// x + y, in the memory of `y`.
pub(super) fn add(x: &Tensor, y: Tensor) -> Tensor {
    let mut y = plain(y);
    let x = numbers(x);
    fast(&mut Sum { x: &x, y: memory(&mut y) });
    y
}

/// Work that is compiled once per instruction set. Multiply-adds are written as such, so all of them give the same bits.
trait Work {
    fn run(&mut self);
}

/// Runs with the best instructions that this processor has.
fn fast(work: &mut impl Work) {
    match Level::detect() {
        Level::Portable(_) => work.run(),
        // SAFETY: there is such a value only where its features were detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => unsafe { with_avx2(work) },
        // SAFETY: there is such a value only where its features were detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => unsafe { with_avx512(work) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn with_avx512(work: &mut impl Work) {
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2(work: &mut impl Work) {
    work.run();
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Work for Norm<'_> {
    #[inline(always)]
    fn run(&mut self) {
        let width = self.weight.len();
        for (row, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let mut sums = [0f32; LANES];
            let (chunks, rest) = row.as_chunks::<LANES>();
            for chunk in chunks {
                for lane in 0..LANES {
                    sums[lane] = chunk[lane].mul_add(chunk[lane], sums[lane]);
                }
            }
            for (sum, &value) in sums.iter_mut().zip(rest) {
                *sum = value.mul_add(value, *sum);
            }
            let mean = sums.iter().sum::<f32>() / width as f32;
            let scale = 1.0 / (mean + self.epsilon).sqrt();
            for ((out, &value), &weight) in out.iter_mut().zip(row).zip(self.weight) {
                *out = value * scale * weight;
            }
        }
    }
}

struct Rotation<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    head_dim: usize,
}

impl Work for Rotation<'_> {
    #[inline(always)]
    fn run(&mut self) {
        let dim = self.head_dim;
        let rows = self.cos.len() / dim.max(1);
        let width = self.x.len() / rows.max(1);
        let half = dim / 2;
        for ((row, cos), sin) in
            self.x.chunks_exact_mut(width).zip(self.cos.chunks_exact(dim)).zip(self.sin.chunks_exact(dim))
        {
            for head in row.chunks_exact_mut(dim) {
                let (first, second) = head.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (first[i], second[i]);
                    first[i] = a * cos[i] - b * sin[i];
                    second[i] = b * cos[half + i] + a * sin[half + i];
                }
            }
        }
    }
}

struct Gate<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Work for Gate<'_> {
    #[inline(always)]
    fn run(&mut self) {
        for (gate, &up) in self.gate.iter_mut().zip(self.up) {
            let x = *gate;
            // The exponential of a number that is not positive: it neither overflows nor loses the small ones.
            let e = exp(-x.abs());
            let numerator = if x < 0.0 { x * e } else { x };
            *gate = numerator / (1.0 + e) * up;
        }
    }
}

struct Sum<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Work for Sum<'_> {
    #[inline(always)]
    fn run(&mut self) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y += x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 3.0
    }

    fn check(found: &Tensor, expected: &Tensor) {
        let difference = f64::try_from((found - expected).abs().max()).unwrap();
        let size = f64::try_from(expected.abs().max()).unwrap();
        assert!(difference < 1e-6 * size.max(1.0), "{difference} of {size}");
    }

    /// fp32 to a few units in the last place; widths with and without a rest.
    #[test]
    fn they_compute_what_libtorch_computes() {
        for width in [64, 576, 100, 6] {
            let (x, weight) = (random(&[7, width]), random(&[width]));
            let variance = x.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
            check(&rms_norm(&x, &weight, 1e-5), &(&x * (variance + 1e-5).rsqrt() * &weight));
            let up = random(&[7, width]);
            check(&gated(x.copy(), &up), &(x.silu() * &up));
            check(&add(&x, up.copy()), &(&x + &up));
        }
        let (x, angles) = (random(&[5, 3, 16]), random(&[5, 8]));
        let angles = Tensor::cat(&[&angles, &angles], -1);
        let (cos, sin) = (angles.cos(), angles.sin());
        let halves = x.chunk(2, -1);
        let turned = Tensor::cat(&[&halves[1].neg(), &halves[0]], -1);
        check(&rotate(x.copy(), &cos, &sin), &(&x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)));
    }

    #[test]
    fn a_gate_of_extreme_numbers_is_what_it_should_be() {
        let gate = Tensor::from_slice(&[-200f32, -90.0, 0.0, 90.0, 200.0, f32::NAN]);
        let found = gated(gate, &Tensor::from_slice(&[1f32; 6]));
        let found = numbers(&found).into_owned();
        assert!(found[0].abs() < 1e-30 && found[1].abs() < 1e-30);
        assert_eq!(found[2..5], [0.0, 90.0, 200.0]);
        assert!(found[5].is_nan());
    }
}
