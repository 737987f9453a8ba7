//! Attention of the embedded sampler on the CPU, over keys and values in pieces.
//!
//! A search tree keeps one piece per node and layer; siblings share those of their ancestors. What a row gets is a
//! function of its query and of the keys and values it sees, in order of position, and of nothing else: to the bit it
//! is the same however the past is cut into pieces, whatever other rows are in the call, in prefill as in decoding,
//! with any number of threads, and on any instruction set. The order of every sum is therefore fixed (`kernel.rs`), and
//! grouping rows only decides in which order memory is read: rows that share a piece go through it together, some keys
//! at a time, so that those keys are still in the cache for the next row.

mod isa;
mod kernel;
mod tile;

use std::sync::{Arc, Mutex, PoisonError};

use super::isa::Level;
use super::workers::Workers;
use crate::error::{FailureClass, Hint};
pub(super) use kernel::exp;
use tile::{Scratch, TILE_ROWS, Task, Tile};

/// Multiply-adds below which waking other threads costs more than it brings: some 50 microseconds of one core.
const MIN_SHARED_WORK: usize = 2_000_000;

/// Geometry of one layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads; query head `h` uses number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Floats per head.
    pub head_dim: usize,
}

impl HeadShape {
    /// Query heads per key and value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Floats of a row, over all heads.
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Keys and values of a run of tokens at one layer, `[kv_heads, capacity, head_dim]` each: in every head the first `len`
/// tokens are in use. Tensors of this shape with room to grow, or narrowed ones, are passed as they are.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Keys, with their positions already rotated in.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
    /// Floats from the beginning of one head to that of the next: capacity times `head_dim`.
    pub head_stride: usize,
    /// Tokens in use.
    pub len: usize,
}

/// One query row and what it sees.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// `[heads, head_dim]`, rotated and not scaled.
    pub query: &'a [f32],
    /// The past in order of position, up to the row's own token or further: the rows of a prefill pass the same pieces.
    pub pieces: &'a [Piece<'a>],
    /// How many tokens of `pieces` the row sees, its own among them: its position plus 1. At least 1.
    pub seen: usize,
}

/// Arguments that do not fit each other: a mistake of the caller, found before anything is written.
#[derive(Debug, thiserror::Error)]
pub enum AttentionError {
    /// A geometry that no model has.
    #[error("attention with {} query heads, {} key heads and {} floats per head is not possible",
        shape.heads, shape.kv_heads, shape.head_dim)]
    Shape {
        /// What was asked for.
        shape: HeadShape,
    },
    /// The output is not one row of all heads per query row.
    #[error("the output of {rows} rows has {found} floats instead of {expected}")]
    Output {
        /// Query rows.
        rows: usize,
        /// Its floats.
        found: usize,
        /// Rows times heads times floats per head.
        expected: usize,
    },
    /// A query does not have all heads.
    #[error("the query of row {row} has {found} floats instead of {expected}")]
    Query {
        /// Number of the row in the call.
        row: usize,
        /// Its floats.
        found: usize,
        /// Heads times floats per head.
        expected: usize,
    },
    /// A piece is shorter than it says.
    #[error("piece {piece} of row {row} is too short for {len} tokens: {keys} floats of keys, {values} of values")]
    Piece {
        /// Number of the row in the call.
        row: usize,
        /// Number of the piece in the row.
        piece: usize,
        /// Tokens that should be in it.
        len: usize,
        /// Floats of its keys.
        keys: usize,
        /// Floats of its values.
        values: usize,
    },
    /// A row sees nothing, or more than its pieces hold.
    #[error("row {row} should see {seen} tokens and its pieces hold {held}")]
    Seen {
        /// Number of the row in the call.
        row: usize,
        /// Tokens it should see.
        seen: usize,
        /// Tokens in its pieces.
        held: usize,
    },
}

impl Hint for AttentionError {
    fn class(&self) -> FailureClass {
        FailureClass::Bug
    }
}

/// Attention of the layers of one model: their common geometry, the threads and their scratch memory.
#[derive(Debug)]
pub struct Attention {
    shape: HeadShape,
    level: Level,
    workers: Arc<Workers>,
    /// One per thread, kept from call to call.
    scratch: Vec<Mutex<Scratch>>,
}

impl Attention {
    /// Attention on `workers`, with the best instruction set here.
    ///
    /// # Errors
    /// A shape whose heads do not go into groups.
    pub fn new(shape: HeadShape, workers: Arc<Workers>) -> Result<Attention, AttentionError> {
        Attention::with_level(shape, workers, Level::detect())
    }

    fn with_level(shape: HeadShape, workers: Arc<Workers>, level: Level) -> Result<Attention, AttentionError> {
        if shape.head_dim == 0 || shape.heads == 0 || shape.kv_heads == 0 || !shape.heads.is_multiple_of(shape.kv_heads)
        {
            return Err(AttentionError::Shape { shape });
        }
        let scratch = (0..workers.threads()).map(|_| Mutex::default()).collect();
        Ok(Attention { shape, level, workers, scratch })
    }

    /// `out[r] = softmax(query[r] . keys / sqrt(head_dim)) . values` per head, over what row `r` sees; `out` is
    /// `[rows, heads, head_dim]`.
    ///
    /// # Errors
    /// Lengths that do not fit each other; `out` is as it was then. Numbers are no error: what is not finite in a row's
    /// query, or in a key it sees, gives NaN in the heads that it belongs to, in a value it gives what is not finite.
    pub fn attend(&mut self, rows: &[Row<'_>], out: &mut [f32]) -> Result<(), AttentionError> {
        let shape = self.shape;
        check(&shape, rows, out)?;
        let tiles: Vec<Tile<'_>> = rows.chunks(TILE_ROWS).map(|rows| Tile::new(rows, shape.head_dim)).collect();
        let kv_heads = 0..shape.kv_heads;
        let tasks = tiles.iter().flat_map(|tile| kv_heads.clone().map(|kv_head| Task::new(tile, kv_head)));
        let mut tasks: Vec<Task<'_>> = tasks.collect();
        for (i, part) in out.chunks_exact_mut(shape.group() * shape.head_dim).enumerate() {
            let (row, kv_head) = (i / shape.kv_heads, i % shape.kv_heads);
            tasks[row / TILE_ROWS * shape.kv_heads + kv_head].out.push(part);
        }
        let work = rows.iter().map(|row| row.seen).sum::<usize>().saturating_mul(2 * shape.width());
        // Taken from the end: in a prefill the last rows see most.
        let queue = Mutex::new(tasks);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let level = self.level;
        let scratch = &self.scratch;
        let serve = |thread: usize| {
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(mut task) = next() {
                level.run(&shape, &mut task, &mut scratch);
            }
        };
        if work >= MIN_SHARED_WORK {
            self.workers.run(&serve)
        } else {
            serve(0)
        }
        Ok(())
    }
}

/// All that indexing below relies on.
fn check(shape: &HeadShape, rows: &[Row<'_>], out: &[f32]) -> Result<(), AttentionError> {
    let width = shape.width();
    let expected = rows.len() * width;
    if out.len() != expected {
        return Err(AttentionError::Output { rows: rows.len(), found: out.len(), expected });
    }
    for (row, Row { query, pieces, seen }) in rows.iter().enumerate() {
        if query.len() != width {
            return Err(AttentionError::Query { row, found: query.len(), expected: width });
        }
        for (piece, &Piece { keys, values, head_stride, len }) in pieces.iter().enumerate() {
            let heads_before_last = (shape.kv_heads - 1).checked_mul(head_stride);
            let last = len.checked_mul(shape.head_dim);
            let needed = heads_before_last.zip(last).and_then(|(before, last)| before.checked_add(last));
            if len > 0 && needed.is_none_or(|needed| needed > keys.len().min(values.len())) {
                return Err(AttentionError::Piece { row, piece, len, keys: keys.len(), values: values.len() });
            }
        }
        let held = pieces.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.len));
        if *seen == 0 || *seen > held {
            return Err(AttentionError::Seen { row, seen: *seen, held });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads of every group size that is compiled on its own, at lengths with their own code, without, and ragged.
    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let workers = Arc::new(Workers::new(1).unwrap());
        for (heads, kv_heads) in [(3, 3), (4, 2), (9, 3), (8, 2), (14, 2)] {
            for head_dim in [1, 6, 16, 64, 96, 128] {
                let shape = HeadShape { heads, kv_heads, head_dim };
                let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 250.0 - 2.0;
                let memory: Vec<f32> = (0..2 * 83 * kv_heads * head_dim).map(number).collect();
                let query: Vec<f32> = (500..500 + shape.width()).map(number).collect();
                let (keys, values) = memory.split_at(memory.len() / 2);
                let pieces = [Piece { keys, values, head_stride: 83 * head_dim, len: 83 }];
                let rows: Vec<Row<'_>> =
                    (1..=83).step_by(9).map(|seen| Row { query: &query, pieces: &pieces, seen }).collect();
                let found = Level::all().map(|level| {
                    let mut out = vec![0.0; rows.len() * shape.width()];
                    Attention::with_level(shape, Arc::clone(&workers), level).unwrap().attend(&rows, &mut out).unwrap();
                    (level, out.into_iter().map(f32::to_bits).collect::<Vec<_>>())
                });
                let found: Vec<_> = found.collect();
                for (level, bits) in &found {
                    assert!(*bits == found[0].1, "{level:?} is not {:?}: {shape:?}", found[0].0);
                }
            }
        }
    }
}
