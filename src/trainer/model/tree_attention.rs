//! Exact attention over a forest without a mask, forward and backward by hand.
//!
//! Each chain attends to itself causally, and the rows below it, one range, attend to all of it. What a row gets from its
//! own chain and from each chain above is merged by logsumexp: with l = logsumexp_i(l_i), o = sum_i exp(l_i - l) o_i. In
//! the backward pass every part is given the merged o and l, and the gradients of the parts add up. Keys and values are
//! never copied; memory is linear in the rows, work in the rows times the depth in tokens.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::flash::{Flash, Inputs};
use crate::trainer::pack::Chain;

/// The rows of a batch as chains, with the kernels of the device they are on.
pub struct TreeAttention {
    chains: Vec<Chain>,
    flash: Flash,
}

/// What the rows see.
pub struct Mixed {
    /// [T, heads, head_dim], in the element type of the queries.
    pub output: Tensor,
    /// Logsumexps of the scores, [T, heads], in fp32 or wider.
    pub logsumexp: Tensor,
}

/// What the calls for chains cost beside the work that any form does, in (query, key) pairs of one masked call.
struct Costs {
    /// A chain: its calls.
    chain_pairs: usize,
    /// A row whose result is merged with that of a chain above its own.
    merge_pairs: usize,
    /// Most rows for which there is a mask at all: its memory grows with their square.
    mask_rows: usize,
}

/// Measured: `cargo bench --bench tree_attention -- crossover`, forward and backward of one layer at SmolLM2's 9 heads on
/// 3, fp32, milliseconds of one thread, by chains against masked.
///
/// | rows | nodes of 2 tokens | of 4 | of 8 | of 16 | of 64 |
/// | --- | --- | --- | --- | --- | --- |
/// | 100 | 5.1, 1.9 | 2.8, 1.9 | | | |
/// | 200 | 12.7, 6.3 | 8.9, 6.0 | 6.3, 6.1 | | |
/// | 500 | 50.7, 30.8 | 31.7, 31.0 | 24.0, 29.3 | 14.8, 30.1 | 11.7, 25.0 |
/// | 2000 | 730, 483 | 462, 483 | 354, 489 | 198, 493 | 132, 488 |
///
/// That is 0.12 microseconds a pair with the mask, and by chains 50 a chain and 3 a merged row on top of at most a fourth
/// of the masked call.
const CPU: Costs = Costs { chain_pairs: 560, merge_pairs: 33, mask_rows: 2048 };

/// Not measured. Some 30 launches of 5 microseconds a chain against 0.14 nanoseconds a pair at 12 heads of 128 in bf16.
const CUDA: Costs = Costs { chain_pairs: 1_000_000, merge_pairs: 10, mask_rows: 8192 };

/// Most rows that one masked call is made for: memory for more is never needed.
pub fn most_masked_rows(is_on_processor: bool) -> usize {
    if is_on_processor { CPU.mask_rows } else { CUDA.mask_rows }
}

/// Whether going chain by chain is faster than one call with a mask over all `rows`.
pub fn pays(chains: &[Chain], rows: usize, device: Device) -> bool {
    let costs = if device.is_cuda() { CUDA } else { CPU };
    let merges: usize = chains.iter().map(|chain| chain.descendants.len()).sum();
    rows > costs.mask_rows || chains.len() * costs.chain_pairs + merges * costs.merge_pairs < rows * rows
}

impl TreeAttention {
    /// Over `chains`, as [`PackedBatch::chains`](crate::trainer::pack::PackedBatch::chains) gives them.
    pub fn new(chains: Vec<Chain>, device: Device) -> TreeAttention {
        TreeAttention { chains, flash: Flash::new(device) }
    }

    /// What the rows see, from queries [heads, T, head_dim], keys and values [kv_heads, T, head_dim]. Without a graph.
    pub fn forward(&self, projected: &[Tensor; 3]) -> Mixed {
        tch::no_grad(|| {
            let q = &projected[0];
            let (kind, device) = (q.kind(), q.device());
            let (heads, rows, width) = (q.size()[0], q.size()[1], q.size()[2]);
            let output = Tensor::empty([rows, heads, width], (wide(kind), device));
            let logsumexp = Tensor::empty([rows, heads], (wide(kind), device));
            // From the last chain to the first: what merges into a row finds the row's own chain there.
            for chain in self.chains.iter().rev() {
                let (found, weight) = self.attend(projected, &chain.rows, &chain.rows, true);
                rows_of(&output, &chain.rows).copy_(&found);
                rows_of(&logsumexp, &chain.rows).copy_(&weight);
                if !chain.descendants.is_empty() {
                    let (found, weight) = self.attend(projected, &chain.descendants, &chain.rows, false);
                    let mut before = rows_of(&logsumexp, &chain.descendants);
                    // exp(l_2 - l) of the merged l, without overflow.
                    let share = (&weight - &before).sigmoid().unsqueeze(-1);
                    let found = found.to_kind(wide(kind));
                    let _ = rows_of(&output, &chain.descendants).lerp_tensor_(&found, &share);
                    before.copy_(&before.logaddexp(&weight));
                }
            }
            Mixed { output: output.to_kind(kind), logsumexp }
        })
    }

    /// Gradients of what [`Self::forward`] took, in its shapes, from that of the output [T, heads, head_dim].
    pub fn backward(&self, projected: &[Tensor; 3], mixed: &Mixed, grad: &Tensor) -> [Tensor; 3] {
        tch::no_grad(|| {
            let [q, k, v] = projected;
            let part = |queries: &Range<usize>, keys: &Range<usize>, is_causal| {
                let inputs = inputs(projected, queries, keys, is_causal);
                let output = by_heads(&rows_of(&mixed.output, queries));
                let logsumexp = rows_of(&mixed.logsumexp, queries).transpose(0, 1).unsqueeze(0);
                let grads = self.flash.backward(&by_heads(&rows_of(grad, queries)), &inputs, &output, &logsumexp);
                grads.map(|grad| by_rows(&grad))
            };
            // A query's gradient has a term per chain above it; in bf16 each sum would round.
            let query_grad = like(q, wide(q.kind()));
            let (key_grad, value_grad) = (like(k, k.kind()), like(v, v.kind()));
            for chain in self.chains.iter().rev() {
                let [own, mut dk, mut dv] = part(&chain.rows, &chain.rows, true);
                rows_of(&query_grad, &chain.rows).copy_(&own);
                if !chain.descendants.is_empty() {
                    let [below, below_k, below_v] = part(&chain.descendants, &chain.rows, false);
                    let _ = rows_of(&query_grad, &chain.descendants).g_add_(&below);
                    let _ = (dk.g_add_(&below_k), dv.g_add_(&below_v));
                }
                rows_of(&key_grad, &chain.rows).copy_(&dk);
                rows_of(&value_grad, &chain.rows).copy_(&dv);
            }
            let query_grad = query_grad.to_kind(q.kind());
            [query_grad, key_grad, value_grad].map(|grad| grad.transpose(0, 1))
        })
    }

    /// Outputs [rows, heads, head_dim] and logsumexps [rows, heads] of some rows on the keys of others.
    fn attend(
        &self,
        projected: &[Tensor; 3],
        queries: &Range<usize>,
        keys: &Range<usize>,
        is_causal: bool,
    ) -> (Tensor, Tensor) {
        let (output, logsumexp) = self.flash.forward(&inputs(projected, queries, keys, is_causal));
        (by_rows(&output), logsumexp.squeeze_dim(0).transpose(0, 1))
    }
}

/// The element type that sums are kept in.
fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// Room for the gradient of `x` [heads, T, head_dim], as [T, heads, head_dim].
fn like(x: &Tensor, kind: Kind) -> Tensor {
    let size = x.size();
    Tensor::empty([size[1], size[0], size[2]], (kind, x.device()))
}

fn inputs([q, k, v]: &[Tensor; 3], queries: &Range<usize>, keys: &Range<usize>, is_causal: bool) -> Inputs {
    let part = |x: &Tensor, rows: &Range<usize>| x.narrow(1, rows.start as i64, rows.len() as i64).unsqueeze(0);
    Inputs { q: part(q, queries), k: part(k, keys), v: part(v, keys), is_causal }
}

/// A view of some rows.
fn rows_of(x: &Tensor, rows: &Range<usize>) -> Tensor {
    x.narrow(0, rows.start as i64, rows.len() as i64)
}

/// [T, heads, head_dim] as [1, heads, T, head_dim].
fn by_heads(x: &Tensor) -> Tensor {
    x.transpose(0, 1).unsqueeze(0)
}

/// [1, heads, T, head_dim] as [T, heads, head_dim].
fn by_rows(x: &Tensor) -> Tensor {
    x.squeeze_dim(0).transpose(0, 1)
}
