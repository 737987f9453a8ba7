//! Rows of many texts through the decoder at once, each after its own past.
//!
//! On the processor in fp32 everything is done here, row by row (`attention/`, `pointwise.rs`) or so that the other rows
//! change nothing (`product/`): a row's result is the same to the bit whatever it is computed with. On other devices
//! and in other element types matrix products, norms, rotations and gates are libtorch's; attention stays on the
//! processor, where the keys and values are. Rotary tables are computed once for all positions.

use std::cell::Cell;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::attention::{Attention, AttentionError, HeadShape, Piece, Row};
use super::block::{Block, KvShape, Span};
use super::pointwise::{self, memory, numbers};
use super::product::{Product, ProductError};
use super::workers::Workers;
use crate::error::{FailureClass, Hint};
use crate::trainer::model::rope::RopeTables;
use crate::trainer::model::{Between, Decoder, Linear, ModelConfig, RmsNorm};
use crate::types::TokenId;

/// Why rows do not come through the decoder.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The system gave no threads.
    #[error("cannot start {threads} threads for generation")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Attention refused its rows.
    #[error("attention cannot be computed")]
    Attention(#[from] AttentionError),
    /// A matrix product refused its operands.
    #[error("a matrix product cannot be computed")]
    Product(#[from] ProductError),
}

impl Hint for ForwardError {
    fn class(&self) -> FailureClass {
        match self {
            ForwardError::Threads { .. } => FailureClass::Environment,
            ForwardError::Attention(error) => error.class(),
            ForwardError::Product(error) => error.class(),
        }
    }
}

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
    attention: Attention,
    product: Product,
    rope: RopeTables,
}

impl Forward {
    /// For texts of at most `max_tokens`.
    ///
    /// # Errors
    /// No threads, or heads that do not go into groups.
    pub fn new(
        model: &ModelConfig,
        decoder: &Decoder,
        max_tokens: usize,
        threads: usize,
    ) -> Result<Forward, ForwardError> {
        let workers = Workers::new(threads).map_err(|source| ForwardError::Threads { threads, source })?;
        let workers = Arc::new(workers);
        let size = |value: i64| usize::try_from(value).unwrap_or_default();
        let kv = KvShape { layers: size(model.layers), kv_heads: size(model.kv_heads), head_dim: size(model.head_dim) };
        let shape = HeadShape { heads: size(model.heads), kv_heads: kv.kv_heads, head_dim: kv.head_dim };
        let positions: Vec<u32> = (0..u32::try_from(max_tokens).unwrap_or(u32::MAX)).collect();
        Ok(Forward {
            kv,
            heads: shape.heads,
            attention: Attention::new(shape, Arc::clone(&workers))?,
            product: Product::new(workers),
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
    pub fn run(&mut self, policy: Policy<'_>, lanes: &mut [Lane<'_>]) -> Result<Option<Tensor>, ForwardError> {
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
        let is_plain = decoder.device() == Device::Cpu && decoder.kind() == Kind::Float;
        let (hidden, outcome) = tch::no_grad(|| {
            let rope = self.rope.select(&decoder.index(&positions));
            let mut pass = Pass { forward: self, lanes, layer: 0, is_plain, failure: Cell::default() };
            let mut x = decoder.embed(&decoder.index(&tokens));
            for (layer, block) in decoder.blocks.iter().enumerate() {
                pass.layer = layer;
                x = block.forward_with(&x, &rope, &mut pass);
            }
            let outcome = pass.failure.into_inner().map_or(Ok(()), Err);
            let hidden = (!wanted.is_empty()).then(|| decoder.finish(&x.index_select(0, &decoder.index(&wanted))));
            (hidden, outcome)
        });
        outcome?;
        for lane in lanes {
            grow(lane.own, lane.tokens.len());
        }
        Ok(hidden)
    }

    /// Logits of hidden states [R, hidden], [R, V] in fp32.
    ///
    /// # Errors
    /// Hidden states of another width than the projection's, a broken invariant.
    pub fn logits(&self, policy: Policy<'_>, hidden: &Tensor) -> Result<Tensor, ForwardError> {
        let projection = policy.projection;
        if pointwise::is_plain(projection) && pointwise::is_plain(hidden) {
            return Ok(self.linear(hidden, projection, None)?);
        }
        Ok(tch::no_grad(|| hidden.linear(projection, None::<Tensor>).to_kind(Kind::Float)))
    }

    /// x [T, depth] times weight [width, depth] plus bias, [T, width], all of them on the processor in fp32.
    fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, ProductError> {
        let (rows, width) = (x.size()[0], weight.size()[0]);
        let mut out = Tensor::empty([rows, width], (Kind::Float, Device::Cpu));
        let (x, weight, bias) = (numbers(x), numbers(weight), bias.map(numbers));
        self.product.linear(&x, rows as usize, &weight, bias.as_deref(), memory(&mut out))?;
        Ok(out)
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
        let [q, k, v] = [q, k, v].map(|x| x.transpose(0, 1));
        let [queries, keys, values] = [&q, &k, &v].map(numbers);
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
        let mut mixed = vec![0f32; queries.len()];
        let outcome = self.attention.attend(&rows, &mut mixed);
        let shape = [-1, self.heads as i64, self.kv.head_dim as i64];
        (Tensor::from_slice(&mixed).view(shape).to_device(device).to_kind(kind), outcome)
    }
}

/// One pass through the decoder.
struct Pass<'a, 'b, 'c> {
    forward: &'a mut Forward,
    lanes: &'b mut [Lane<'c>],
    layer: usize,
    /// On the processor in fp32.
    is_plain: bool,
    /// The last failure; what comes after one means nothing.
    failure: Cell<Option<ForwardError>>,
}

impl Between for Pass<'_, '_, '_> {
    fn mix(&mut self, projected: [Tensor; 3]) -> Tensor {
        let (mixed, outcome) = self.forward.attend(self.layer, projected, self.lanes);
        if let Err(error) = outcome {
            self.failure.set(Some(error.into()));
        }
        mixed
    }

    fn linear(&self, linear: &Linear, x: &Tensor) -> Tensor {
        if !self.is_plain {
            return linear.forward(x);
        }
        let product = |x: &Tensor, weight: &Tensor, bias: Option<&Tensor>| self.forward.linear(x, weight, bias);
        let whole = || {
            let y = product(x, &linear.weight, linear.bias.as_ref())?;
            let Some(adapter) = &linear.adapter else { return Ok(y) };
            // Each number of a row by itself, so that here too a row does not depend on the others.
            let inner = product(x, &adapter.down, None)? * adapter.scale;
            Ok(pointwise::add(&y, product(&inner, &adapter.up, None)?))
        };
        whole().unwrap_or_else(|error: ProductError| {
            self.failure.set(Some(error.into()));
            // Refuses the same shapes.
            linear.forward(x)
        })
    }

    fn norm(&self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        if self.is_plain { pointwise::rms_norm(x, &norm.weight, norm.epsilon) } else { norm.forward(x) }
    }

    fn rotate(&self, rope: &RopeTables, x: Tensor) -> Tensor {
        if self.is_plain {
            pointwise::rotate(x.transpose(0, 1), &rope.cos, &rope.sin).transpose(0, 1)
        } else {
            rope.rotate(&x)
        }
    }

    fn gate(&self, gate: Tensor, up: &Tensor) -> Tensor {
        if self.is_plain { pointwise::gated(gate, up) } else { gate.silu() * up }
    }

    fn add(&self, x: &Tensor, y: Tensor) -> Tensor {
        if self.is_plain { pointwise::add(x, y) } else { x + y }
    }
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
