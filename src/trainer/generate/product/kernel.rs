//! The arithmetic of [`super`], and the order in which memory is read.
//!
//! Every function is `inline(always)`; at the top is a caller with the features of its instruction set enabled. Neither
//! the size of a tile nor what else is in it changes a sum.

use super::super::isa::Level;
#[cfg(target_arch = "x86_64")]
use super::super::isa::{Avx2, Avx512};
use super::lanes::{COLUMNS, LANES, Lanes};
use super::panel::{Panel, Panels};

/// Most floats of input rows that go over the weights of a panel together: they stay in the second-level cache.
const BLOCK_FLOATS: usize = 96 * 1024;

/// One product: `x` [rows, depth] and `weight` [width, depth], all lengths checked.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub rows: usize,
    pub depth: usize,
}

impl Level {
    /// Takes panels of the output until none is left.
    pub(super) fn multiply(self, operands: &Operands<'_>, panels: &Panels<'_>) {
        match self {
            Level::Portable(isa) => multiply(isa, operands, panels),
            // SAFETY: there is such a value only where its features were detected.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(isa) => unsafe { multiply_avx2(isa, operands, panels) },
            // SAFETY: there is such a value only where its features were detected.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(isa) => unsafe { multiply_avx512(isa, operands, panels) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(isa: Avx2, operands: &Operands<'_>, panels: &Panels<'_>) {
    multiply(isa, operands, panels);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn multiply_avx512(isa: Avx512, operands: &Operands<'_>, panels: &Panels<'_>) {
    multiply(isa, operands, panels);
}

#[inline(always)]
fn multiply<I: Lanes>(isa: I, operands: &Operands<'_>, panels: &Panels<'_>) {
    let &Operands { x, rows, depth, .. } = operands;
    let tiles = rows.div_ceil(I::ROWS);
    let block = (BLOCK_FLOATS / (I::ROWS * depth).max(1)).max(1).min(tiles);
    let mut current = panels.next();
    while let Some(mut panel) = current {
        let mut upcoming = None;
        for first in (0..tiles).step_by(block) {
            let block = first..(first + block).min(tiles);
            let is_last = block.end == tiles;
            let mut column = panel.columns.start;
            while column < panel.columns.end {
                let mut next = column + COLUMNS;
                if is_last && next >= panel.columns.end {
                    // Taken early, so that its first weights arrive while the last of this panel are multiplied.
                    upcoming = panels.next();
                    next = upcoming.as_ref().map_or(usize::MAX, |panel| panel.columns.start);
                }
                let ahead = next.checked_mul(depth).and_then(|at| operands.weight.get(at..)).unwrap_or_default();
                // Spread over the tiles before: so many rows each.
                let share = COLUMNS.div_ceil(block.len());
                for (index, tile) in block.clone().enumerate() {
                    let own = tile * rows / tiles..(tile + 1) * rows / tiles;
                    let ahead = if index * share < COLUMNS {
                        ahead.get(index * share * depth..).unwrap_or_default()
                    } else {
                        &[]
                    };
                    let ahead = Ahead { weights: ahead, lines: if ahead.is_empty() { 0 } else { share } };
                    let count = own.len();
                    let x = &x[own.start * depth..own.end * depth];
                    let row = own.start;
                    match count {
                        1 => columns::<I, 1>(isa, operands, x, row, column, &mut panel, ahead),
                        2 => columns::<I, 2>(isa, operands, x, row, column, &mut panel, ahead),
                        3 => columns::<I, 3>(isa, operands, x, row, column, &mut panel, ahead),
                        4 => columns::<I, 4>(isa, operands, x, row, column, &mut panel, ahead),
                        5 => columns::<I, 5>(isa, operands, x, row, column, &mut panel, ahead),
                        _ => columns::<I, 6>(isa, operands, x, row, column, &mut panel, ahead),
                    }
                }
                column += COLUMNS;
            }
        }
        current = upcoming;
    }
}

/// Weights that will be needed soon: so many cache lines of them are fetched per step.
#[derive(Clone, Copy)]
struct Ahead<'a> {
    weights: &'a [f32],
    lines: usize,
}

/// The outputs of `R` rows, `x`, from `row`, at up to four columns from `column`.
#[inline(always)]
fn columns<I: Lanes, const R: usize>(
    isa: I,
    operands: &Operands<'_>,
    x: &[f32],
    row: usize,
    column: usize,
    panel: &mut Panel<'_>,
    ahead: Ahead<'_>,
) {
    let &Operands { weight, bias, depth, .. } = operands;
    let count = COLUMNS.min(panel.columns.end - column);
    // Fewer columns than a tile holds go through the same code, the last of them more than once.
    let mut found = tile::<I, R>(isa, depth, x, |n| &weight[(column + n.min(count - 1)) * depth..][..depth], ahead);
    if let Some(bias) = bias {
        for found in &mut found {
            for (found, bias) in found.iter_mut().zip(&bias[column..column + count]) {
                *found += bias;
            }
        }
    }
    for (r, found) in found.iter().enumerate() {
        panel.write(row + r, column, found, count);
    }
}

/// The dot products of `R` rows of `x` with four rows of the weight.
#[inline(always)]
fn tile<'a, I: Lanes, const R: usize>(
    isa: I,
    depth: usize,
    x: &[f32],
    weight: impl Fn(usize) -> &'a [f32],
    ahead: Ahead<'_>,
) -> [[f32; COLUMNS]; R] {
    let steps = depth / LANES;
    let rest = depth % LANES;
    let mut w: [&[[f32; LANES]]; COLUMNS] = [&[]; COLUMNS];
    for (n, w) in w.iter_mut().enumerate() {
        *w = &weight(n).as_chunks().0[..steps];
    }
    let mut rows: [&[[f32; LANES]]; R] = [&[]; R];
    for r in 0..R {
        rows[r] = &x[r * depth..][..depth].as_chunks().0[..steps];
    }
    let mut parts = [[isa.zero(); R]; 2];
    for (part, blocks) in parts.iter_mut().enumerate().take(I::PARTS) {
        let mut sums = [[isa.zero(); COLUMNS]; R];
        for c in 0..steps {
            if part == 0 {
                for line in 0..ahead.lines {
                    isa.prefetch(ahead.weights.as_ptr().wrapping_add((c * ahead.lines + line) * LANES));
                }
            }
            let mut four = [isa.zero(); COLUMNS];
            for n in 0..COLUMNS {
                four[n] = isa.load(&w[n][c], part);
            }
            for r in 0..R {
                let own = isa.load(&rows[r][c], part);
                for n in 0..COLUMNS {
                    sums[r][n] = isa.fma(own, four[n], sums[r][n]);
                }
            }
        }
        if rest > 0 {
            let mut four = [isa.zero(); COLUMNS];
            for (n, four) in four.iter_mut().enumerate() {
                *four = isa.load(&padded(&weight(n)[steps * LANES..]), part);
            }
            for r in 0..R {
                let own = isa.load(&padded(&x[r * depth..][..depth][steps * LANES..]), part);
                for n in 0..COLUMNS {
                    sums[r][n] = isa.fma(own, four[n], sums[r][n]);
                }
            }
        }
        for r in 0..R {
            blocks[r] = isa.add_blocks(sums[r]);
        }
    }
    let mut found = [[0.0; COLUMNS]; R];
    for r in 0..R {
        found[r] = isa.add_parts([parts[0][r], parts[1][r]]);
    }
    found
}

/// The end of a row, filled up with zeros: a product of zeros changes no sum but that of a lane that is empty.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut all = [0.0; LANES];
    all[..rest.len()].copy_from_slice(rest);
    all
}
