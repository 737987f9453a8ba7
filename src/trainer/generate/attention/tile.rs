//! Some rows of a call at one key head: in which order memory is read, and for which instruction sets it is compiled.

use super::super::isa::Level;
#[cfg(target_arch = "x86_64")]
use super::super::isa::{Avx2, Avx512};
use super::isa::Isa;
use super::kernel::{DOT_LANES, LANES, accumulate, score, weigh};
use super::{HeadShape, Piece, Row};

/// Rows that go through shared pieces together.
pub(super) const TILE_ROWS: usize = 4;

/// Floats of keys (and then of values) that the rows of a block go through before the next ones: 16 KiB, half of a
/// usual first-level cache.
const CHUNK_FLOATS: usize = 4096;

/// Rows that are worked on together, and the order in which they go through their pieces.
pub(super) struct Tile<'a> {
    pub(super) rows: &'a [Row<'a>],
    spans: Vec<Span<'a>>,
}

/// Some tokens of a piece, for one row of a block. For each row the spans are in order of position.
struct Span<'a> {
    row: usize,
    piece: &'a Piece<'a>,
    /// First token in the piece.
    first: usize,
    /// That token's position in the row's past.
    position: usize,
    len: usize,
}

impl<'a> Tile<'a> {
    pub(super) fn new(rows: &'a [Row<'a>], head_dim: usize) -> Tile<'a> {
        let chunk = (CHUNK_FLOATS / head_dim).max(1).next_multiple_of(4);
        let mut spans = Vec::new();
        // Per row: tokens of the past that the pieces before this one hold.
        let mut before = [0; TILE_ROWS];
        let most = rows.iter().map(|row| row.pieces.len()).max().unwrap_or(0);
        for index in 0..most {
            let piece_of = |row: &Row<'a>| row.pieces.get(index);
            let mut start = 0;
            for run in rows.chunk_by(|a, b| same_memory(piece_of(a), piece_of(b))) {
                let members = start..start + run.len();
                let mut lens = [0; TILE_ROWS];
                for row in members.clone() {
                    lens[row] = piece_of(&rows[row]).map_or(0, |piece| piece.len.min(rows[row].seen - before[row]));
                }
                let longest = lens.iter().copied().max().unwrap_or(0);
                let step = if run.len() > 1 { chunk } else { longest.max(1) };
                for first in (0..longest).step_by(step) {
                    for row in members.clone().filter(|&row| lens[row] > first) {
                        let (position, len) = (before[row] + first, step.min(lens[row] - first));
                        spans.extend(piece_of(&rows[row]).map(|piece| Span { row, piece, first, position, len }));
                    }
                }
                for row in members {
                    before[row] += lens[row];
                }
                start += run.len();
            }
        }
        Tile { rows, spans }
    }
}

fn same_memory(a: Option<&Piece<'_>>, b: Option<&Piece<'_>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.keys.as_ptr() == b.keys.as_ptr() && a.values.as_ptr() == b.values.as_ptr(),
        _ => false,
    }
}

/// One key and value head of a block: what a thread takes at a time.
pub(super) struct Task<'a> {
    tile: &'a Tile<'a>,
    kv_head: usize,
    /// Per row, the output of the query heads of this key head: `[group, head_dim]`.
    pub(super) out: Vec<&'a mut [f32]>,
}

impl<'a> Task<'a> {
    pub(super) fn new(tile: &'a Tile<'a>, kv_head: usize) -> Task<'a> {
        Task { tile, kv_head, out: Vec::with_capacity(tile.rows.len()) }
    }
}

/// Memory that a thread reuses, all of it `[rows of the block, group, ...]`.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// Scaled queries, each padded with zeros to a multiple of [`DOT_LANES`].
    queries: Vec<f32>,
    /// Scores, then weights, by position; padded to a multiple of [`LANES`].
    scores: Vec<f32>,
    /// Weighted sums of values.
    sums: Vec<f32>,
    /// Sums of weights.
    totals: Vec<f32>,
}

fn cleared(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    memory.clear();
    memory.resize(len, 0.0);
    memory
}

impl Level {
    /// Does `task`.
    pub(super) fn run(self, shape: &HeadShape, task: &mut Task<'_>, scratch: &mut Scratch) {
        match self {
            Level::Portable(isa) => run(isa, shape, task, scratch),
            // SAFETY: there is such a value only where its features were detected.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(isa) => unsafe { run_avx2(isa, shape, task, scratch) },
            // SAFETY: there is such a value only where its features were detected.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(isa) => unsafe { run_avx512(isa, shape, task, scratch) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(isa: Avx2, shape: &HeadShape, task: &mut Task<'_>, scratch: &mut Scratch) {
    run(isa, shape, task, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn run_avx512(isa: Avx512, shape: &HeadShape, task: &mut Task<'_>, scratch: &mut Scratch) {
    run(isa, shape, task, scratch);
}

/// The usual lengths of a head are compiled on their own.
#[inline(always)]
fn run<I: Isa>(isa: I, shape: &HeadShape, task: &mut Task<'_>, scratch: &mut Scratch) {
    match shape.head_dim {
        64 => run_heads::<I, 64>(isa, shape, task, scratch),
        128 => run_heads::<I, 128>(isa, shape, task, scratch),
        _ => run_heads::<I, 0>(isa, shape, task, scratch),
    }
}

#[inline(always)]
fn run_heads<I: Isa, const D: usize>(isa: I, shape: &HeadShape, task: &mut Task<'_>, scratch: &mut Scratch) {
    let (group, dim, kv_head) = (shape.group(), shape.head_dim, task.kv_head);
    let Tile { rows, spans } = task.tile;
    let padded = dim.next_multiple_of(DOT_LANES);
    let stride = rows.iter().map(|row| row.seen).max().unwrap_or(0).next_multiple_of(LANES);
    let queries = cleared(&mut scratch.queries, rows.len() * group * padded);
    let scores = cleared(&mut scratch.scores, rows.len() * group * stride);
    let sums = cleared(&mut scratch.sums, rows.len() * group * dim);
    let totals = cleared(&mut scratch.totals, rows.len() * group);

    let scale = 1.0 / (dim as f32).sqrt();
    for (row, scaled) in rows.iter().zip(queries.chunks_exact_mut(group * padded)) {
        let heads = row.query[kv_head * group * dim..][..group * dim].chunks_exact(dim);
        for (head, scaled) in heads.zip(scaled.chunks_exact_mut(padded)) {
            for (scaled, q) in scaled.iter_mut().zip(head) {
                *scaled = q * scale;
            }
        }
    }
    for &Span { row, piece, first, position, len } in spans {
        let keys = &piece.keys[kv_head * piece.head_stride + first * dim..][..len * dim];
        let mut g = 0;
        while g < group {
            let queries = &queries[(row * group + g) * padded..];
            let scores = &mut scores[(row * group + g) * stride + position..];
            let together = I::GROUP.min(group - g);
            match together {
                1 => score::<I, D, 1>(isa, dim, queries, keys, scores, stride),
                2 => score::<I, D, 2>(isa, dim, queries, keys, scores, stride),
                3 => score::<I, D, 3>(isa, dim, queries, keys, scores, stride),
                _ => score::<I, D, 4>(isa, dim, queries, keys, scores, stride),
            }
            g += together;
        }
    }
    for (i, total) in totals.iter_mut().enumerate() {
        let seen = rows[i / group].seen;
        *total = weigh(&mut scores[i * stride..][..seen.next_multiple_of(LANES)], seen);
    }
    for &Span { row, piece, first, position, len } in spans {
        let values = &piece.values[kv_head * piece.head_stride + first * dim..][..len * dim];
        let mut g = 0;
        while g < group {
            let weights = &scores[(row * group + g) * stride + position..];
            let sums = &mut sums[(row * group + g) * dim..];
            let together = I::GROUP.min(group - g);
            match together {
                1 => accumulate::<I, D, 1>(dim, weights, stride, values, sums),
                2 => accumulate::<I, D, 2>(dim, weights, stride, values, sums),
                3 => accumulate::<I, D, 3>(dim, weights, stride, values, sums),
                _ => accumulate::<I, D, 4>(dim, weights, stride, values, sums),
            }
            g += together;
        }
    }
    let heads = task.out.iter_mut().flat_map(|row| row.chunks_exact_mut(dim));
    for ((out, sums), total) in heads.zip(sums.chunks_exact(dim)).zip(&*totals) {
        let share = 1.0 / total;
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * share;
        }
    }
}
