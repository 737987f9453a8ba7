//! Keys and values in blocks: filled by one path, then shared and never changed.
//!
//! They lie in the host's memory on every device: attention runs on the processor, whose kernel gives the same bits
//! however a path is cut into blocks. The memory meter counts what is alive, so a block that two nodes of the cache
//! share counts once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::attention::Piece;

/// Shape of the keys and values of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Decoder blocks.
    pub layers: usize,
    /// Key and value heads of each.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Memory of one token in all layers.
    pub fn token_bytes(&self) -> u64 {
        (2 * self.layers * self.kv_heads * self.head_dim * size_of::<f32>()) as u64
    }
}

/// Bytes of all blocks alive.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Keys and values of up to `capacity` tokens: [layers, 2, kv_heads, capacity, head_dim].
#[derive(Debug)]
pub struct Block {
    shape: KvShape,
    data: Vec<f32>,
    capacity: usize,
    len: usize,
    meter: Meter,
}

impl Block {
    /// An empty block.
    pub fn new(shape: KvShape, capacity: usize, meter: &Meter) -> Block {
        let data = vec![0.0; 2 * shape.layers * shape.kv_heads * capacity * shape.head_dim];
        let block = Block { shape, data, capacity, len: 0, meter: meter.clone() };
        meter.0.fetch_add(block.bytes(), Ordering::Relaxed);
        block
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.capacity as u64 * self.shape.token_bytes()
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Writes keys and values [kv_heads * head_dim] of one token at one layer. `index` is the token's place in the
    /// block; [`Self::grow`] makes it count once all layers are written.
    pub fn write(&mut self, layer: usize, index: usize, keys: &[f32], values: &[f32]) {
        let (heads, dim) = (self.shape.kv_heads, self.shape.head_dim);
        let plane = heads * self.capacity * dim;
        for (which, source) in [keys, values].into_iter().enumerate() {
            let start = (2 * layer + which) * plane;
            for (head, vector) in source.chunks_exact(dim).enumerate().take(heads) {
                let at = start + (head * self.capacity + index) * dim;
                self.data[at..at + dim].copy_from_slice(vector);
            }
        }
    }

    /// Counts `tokens` more as present.
    pub fn grow(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// `len` tokens from `start` on, at one layer.
    pub fn piece(&self, layer: usize, start: usize, len: usize) -> Piece<'_> {
        let (heads, dim) = (self.shape.kv_heads, self.shape.head_dim);
        let plane = heads * self.capacity * dim;
        let from = 2 * layer * plane + start * dim;
        let to = |which: usize| (2 * layer + which + 1) * plane;
        Piece {
            keys: &self.data[from..to(0)],
            values: &self.data[from + plane..to(1)],
            head_stride: self.capacity * dim,
            len,
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.meter.0.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// A part of a finished block.
#[derive(Clone, Debug)]
pub struct Span {
    /// The block.
    pub block: Arc<Block>,
    /// First token.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
}

impl Span {
    /// All of a block.
    pub fn whole(block: Arc<Block>) -> Span {
        let len = block.len();
        Span { block, start: 0, len }
    }

    /// Keys and values at one layer.
    pub fn piece(&self, layer: usize) -> Piece<'_> {
        self.block.piece(layer, self.start, self.len)
    }
}

/// The first `tokens` of `spans`, and the rest.
pub fn split(spans: &[Span], tokens: usize) -> (Vec<Span>, Vec<Span>) {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let mut left = tokens;
    for span in spans {
        let taken = span.len.min(left);
        left -= taken;
        if taken > 0 {
            head.push(Span { len: taken, ..span.clone() });
        }
        if taken < span.len {
            tail.push(Span { start: span.start + taken, len: span.len - taken, ..span.clone() });
        }
    }
    (head, tail)
}
