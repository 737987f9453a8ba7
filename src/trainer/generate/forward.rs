//! Rows of many texts through the decoder at once, each after its own past.
//!
//! Projections, norms and the MLP run over all rows together in libtorch, on the device of the weights; attention runs
//! row by row on the processor (`attention.rs`). On the processor, in fp32, a row's result is the same to the bit
//! whatever the other rows are. What that takes:
//! - matrix products that give a row the same bits in every batch: MKL does from [`MIN_ROWS`] rows on, in the mode that
//!   [`crate::trainer::reproducible`] sets, so fewer are filled up;
//! - activations in tiles that libtorch does not cut between threads: it computes the ends of such parts with another
//!   exponential function than the rest;
//! - rotary tables computed once for all positions, for the same reason.

use tch::{Device, Kind, Tensor};

use super::attention::{Attention, AttentionError, HeadShape, Piece, Row};
use super::block::{Block, KvShape, Span};
use crate::trainer::model::rope::RopeTables;
use crate::trainer::model::{Decoder, ModelConfig};
use crate::types::TokenId;

/// Fewest rows of a matrix product.
pub const MIN_ROWS: usize = 4;
/// libtorch leaves a pointwise operation to one thread below this many elements.
const SERIAL_ELEMENTS: i64 = 32_768;

/// The weights as generation sees them: the trainer's own, not a copy.
#[derive(Clone, Copy)]
pub struct Policy<'a> {
    /// All but the vocabulary projection.
    pub decoder: &'a Decoder,
    /// The vocabulary projection [V, hidden].
    pub projection: &'a Tensor,
}

/// Consecutive tokens of one text on their way through the decoder.
pub struct Lane<'a> {
    /// The tokens, at least one.
    pub tokens: &'a [TokenId],
    /// Place of the first in its text.
    pub position: usize,
    /// Keys and values before the lane's own blocks, oldest first.
    pub seen: &'a [Span],
    /// Where keys and values go: what is in it comes after `seen`; it has room for the tokens.
    pub own: &'a mut [Block],
    /// Which rows' hidden states are wanted.
    pub wants: Wants,
}

impl Lane<'_> {
    /// All that its rows may see at one layer; how much of it they do is up to each row.
    fn pieces(&self, layer: usize) -> Vec<Piece<'_>> {
        let own = self.own.iter().map(|block| block.piece(layer, 0, block.len() + block.room()));
        self.seen.iter().map(|span| span.piece(layer)).chain(own).collect()
    }
}

/// Rows of a lane whose hidden states are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// None: the text goes on.
    Nothing,
    /// The last.
    Last,
    /// All.
    All,
}

/// A decoder that remembers.
pub struct Forward {
    kv: KvShape,
    heads: usize,
    intermediate: i64,
    attention: Attention,
    rope: RopeTables,
}

impl Forward {
    /// For texts of at most `max_tokens`.
    ///
    /// # Errors
    /// No threads for attention.
    pub fn new(
        model: &ModelConfig,
        decoder: &Decoder,
        max_tokens: usize,
        threads: usize,
    ) -> Result<Forward, AttentionError> {
        let size = |value: i64| usize::try_from(value).unwrap_or_default();
        let kv = KvShape { layers: size(model.layers), kv_heads: size(model.kv_heads), head_dim: size(model.head_dim) };
        let shape = HeadShape { heads: size(model.heads), kv_heads: kv.kv_heads, head_dim: kv.head_dim };
        let positions: Vec<u32> = (0..u32::try_from(max_tokens).unwrap_or(u32::MAX)).collect();
        Ok(Forward {
            kv,
            heads: shape.heads,
            intermediate: model.intermediate_size,
            attention: Attention::new(shape, threads)?,
            rope: decoder.rope(&positions),
        })
    }

    /// Shape of keys and values.
    pub fn kv(&self) -> KvShape {
        self.kv
    }

    /// Runs all lanes, writes their keys and values, and returns the hidden states before the vocabulary projection of
    /// the wanted rows [R, hidden], in order. `None` if none is wanted.
    ///
    /// # Errors
    /// Lanes whose blocks do not fit their tokens, a broken invariant; what they hold is in doubt then.
    pub fn run(&mut self, policy: Policy<'_>, lanes: &mut [Lane<'_>]) -> Result<Option<Tensor>, AttentionError> {
        let decoder = policy.decoder;
        let mut tokens: Vec<TokenId> = Vec::new();
        let mut positions: Vec<u32> = Vec::new();
        let mut wanted: Vec<u32> = Vec::new();
        for lane in lanes.iter() {
            let start = tokens.len();
            tokens.extend_from_slice(lane.tokens);
            positions.extend((lane.position..lane.position + lane.tokens.len()).map(|place| place as u32));
            match lane.wants {
                Wants::Nothing => {}
                Wants::Last => wanted.push((tokens.len() - 1) as u32),
                Wants::All => wanted.extend(start as u32..tokens.len() as u32),
            }
        }
        let rows = tokens.len();
        tokens.resize(rows.max(MIN_ROWS), 0);
        positions.resize(rows.max(MIN_ROWS), 0);

        let (mut attention, intermediate) = (Ok(()), self.intermediate);
        let hidden = tch::no_grad(|| {
            let rope = self.rope.select(&decoder.index(&positions));
            let mut x = decoder.embed(&decoder.index(&tokens));
            for (layer, block) in decoder.blocks.iter().enumerate() {
                x = block.forward_with(
                    &x,
                    &rope,
                    |projected| {
                        let (mixed, outcome) = self.attend(layer, projected, lanes);
                        attention = std::mem::replace(&mut attention, Ok(())).and(outcome);
                        mixed
                    },
                    |gate| silu(gate, intermediate),
                );
            }
            (!wanted.is_empty()).then(|| decoder.finish(&x.index_select(0, &decoder.index(&wanted))))
        });
        attention?;
        for lane in lanes {
            grow(lane.own, lane.tokens.len());
        }
        Ok(hidden)
    }

    /// Logits of hidden states [R, hidden], [R, V] in fp32.
    pub fn logits(policy: Policy<'_>, hidden: &Tensor) -> Tensor {
        let rows = hidden.size()[0];
        let missing = MIN_ROWS as i64 - rows;
        tch::no_grad(|| {
            let filled = if missing > 0 { hidden.constant_pad_nd([0, 0, 0, missing]) } else { hidden.shallow_clone() };
            filled.linear(policy.projection, None::<Tensor>).narrow(0, 0, rows).to_kind(Kind::Float)
        })
    }

    /// Writes the rows' keys and values and mixes what they see: queries [heads, T, head_dim], keys and values
    /// [kv_heads, T, head_dim] to [T, heads, head_dim].
    fn attend(
        &mut self,
        layer: usize,
        [q, k, v]: [Tensor; 3],
        lanes: &mut [Lane<'_>],
    ) -> (Tensor, Result<(), AttentionError>) {
        let (device, kind) = (q.device(), q.kind());
        let [queries, keys, values] = [q, k, v].map(|x| to_host(&x.transpose(0, 1)));
        let query_width = self.heads * self.kv.head_dim;
        let kv_width = self.kv.kv_heads * self.kv.head_dim;

        let mut row = 0;
        for lane in lanes.iter_mut() {
            for offset in 0..lane.tokens.len() {
                let at = row * kv_width..(row + 1) * kv_width;
                write(lane.own, layer, offset, &keys[at.clone()], &values[at]);
                row += 1;
            }
        }
        let pieces: Vec<Vec<Piece<'_>>> = lanes.iter().map(|lane| lane.pieces(layer)).collect();
        let seen = lanes
            .iter()
            .zip(&pieces)
            .flat_map(|(lane, pieces)| (0..lane.tokens.len()).map(move |offset| (pieces, lane.position + offset + 1)));
        let rows: Vec<Row<'_>> = seen
            .zip(queries.chunks_exact(query_width))
            .map(|((pieces, seen), query)| Row { query, pieces, seen })
            .collect();
        // Rows that only fill up the matrix products see nothing and stay 0.
        let mut mixed = vec![0f32; queries.len()];
        let outcome = self.attention.attend(&rows, &mut mixed[..rows.len() * query_width]);
        let shape = [-1, self.heads as i64, self.kv.head_dim as i64];
        (Tensor::from_slice(&mixed).view(shape).to_device(device).to_kind(kind), outcome)
    }
}

/// The activation [T, intermediate], in place.
fn silu(gate: &Tensor, intermediate: i64) -> Tensor {
    if gate.device() != Device::Cpu {
        return gate.silu();
    }
    let rows = gate.size()[0];
    let tile = ((SERIAL_ELEMENTS - 1) / intermediate).max(1);
    for start in (0..rows).step_by(usize::try_from(tile).unwrap_or(1)) {
        let _ = gate.narrow(0, start, tile.min(rows - start)).silu_();
    }
    gate.shallow_clone()
}

/// Writes one token's keys and values behind what the blocks hold.
fn write(own: &mut [Block], layer: usize, offset: usize, keys: &[f32], values: &[f32]) {
    let mut left = offset;
    for block in own {
        if left < block.room() {
            let index = block.len() + left;
            block.write(layer, index, keys, values);
            return;
        }
        left -= block.room();
    }
}

fn grow(own: &mut [Block], tokens: usize) {
    let mut left = tokens;
    for block in own {
        let count = block.room().min(left);
        block.grow(count);
        left -= count;
    }
}

/// The values in row order, in the host's memory.
fn to_host(x: &Tensor) -> Vec<f32> {
    let x = x.to_kind(Kind::Float).to_device(Device::Cpu).contiguous();
    let mut values = vec![0f32; x.numel()];
    let count = values.len();
    x.copy_data(&mut values, count);
    values
}
