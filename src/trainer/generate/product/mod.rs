//! Products of rows with a weight matrix on the CPU, in fp32: `y = x w^T + b`.
//!
//! MKL packs the weights at every call, which few rows cannot pay for, and OpenMP wakes its threads at every call. Here
//! the weights are read as they lie, once per call: a few rows of them at a time go over all rows of the input, which
//! are in the cache, and those after them are fetched meanwhile.
//!
//! What an output is depends on its row of the input, its row of the weight and its bias alone: 16 sums over every
//! sixteenth product, by fused multiply-adds in order, added in one fixed order (`lanes.rs`). To the bit it is the same
//! whatever the other rows are, with any number of threads, and on any instruction set.

mod kernel;
mod lanes;
mod panel;

use std::sync::Arc;

use super::isa::Level;
use super::workers::Workers;
use crate::error::{FailureClass, Hint};
use kernel::Operands;
use lanes::COLUMNS;
use panel::Panels;

/// Weights of a panel, what a thread takes at a time: 128 KiB.
const PANEL_FLOATS: usize = 32 * 1024;

/// Multiply-adds below which asking other threads costs more than it brings.
const MIN_SHARED_WORK: usize = 64 * 1024;

/// Operands that do not fit each other: a mistake of the caller, found before anything is written.
#[derive(Debug, thiserror::Error)]
pub enum ProductError {
    /// Input or output cannot be divided into the rows.
    #[error("{rows} rows cannot have {input} floats in all and {output} floats as the result")]
    Rows {
        /// Rows of the product.
        rows: usize,
        /// Floats of the input.
        input: usize,
        /// Floats of the output.
        output: usize,
    },
    /// The weight is not one row of the input's depth per output.
    #[error("the weight of {width} outputs of {depth} floats each has {found} floats")]
    Weight {
        /// Outputs per row.
        width: usize,
        /// Inputs per row.
        depth: usize,
        /// Floats of the weight.
        found: usize,
    },
    /// The bias is not one number per output.
    #[error("the bias of {width} outputs has {found} floats")]
    Bias {
        /// Outputs per row.
        width: usize,
        /// Floats of the bias.
        found: usize,
    },
}

impl Hint for ProductError {
    fn class(&self) -> FailureClass {
        FailureClass::Bug
    }
}

/// Matrix products on some threads.
#[derive(Clone, Debug)]
pub struct Product {
    level: Level,
    workers: Arc<Workers>,
}

impl Product {
    /// Products on `workers`, with the best instruction set here.
    pub fn new(workers: Arc<Workers>) -> Product {
        Product { level: Level::detect(), workers }
    }

    /// `out = x weight^T + bias`: `x` is `[rows, depth]`, `weight` `[width, depth]`, `bias` `[width]`, `out` `[rows, width]`, all
    /// in row-major order.
    ///
    /// # Errors
    /// Lengths that do not fit each other; `out` is as it was then. Numbers are no error: what is not finite goes where
    /// the sums take it.
    pub fn linear(
        &self,
        x: &[f32],
        rows: usize,
        weight: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), ProductError> {
        let mismatch = ProductError::Rows { rows, input: x.len(), output: out.len() };
        if rows == 0 {
            return if x.is_empty() && out.is_empty() { Ok(()) } else { Err(mismatch) };
        }
        if !x.len().is_multiple_of(rows) || !out.len().is_multiple_of(rows) {
            return Err(mismatch);
        }
        let (depth, width) = (x.len() / rows, out.len() / rows);
        if width.checked_mul(depth) != Some(weight.len()) {
            return Err(ProductError::Weight { width, depth, found: weight.len() });
        }
        if let Some(bias) = bias.filter(|bias| bias.len() != width) {
            return Err(ProductError::Bias { width, found: bias.len() });
        }
        let step = (PANEL_FLOATS / depth.max(1)).next_multiple_of(COLUMNS).max(COLUMNS);
        let operands = Operands { x, weight, bias, rows, depth };
        let panels = Panels::new(out, width, step);
        if weight.len().saturating_mul(rows) < MIN_SHARED_WORK {
            self.level.multiply(&operands, &panels);
        } else {
            self.workers.run(&|_| self.level.multiply(&operands, &panels));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole tiles and ragged ones in all three directions, with and without a bias.
    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 250.0 - 2.0;
        let workers = Arc::new(Workers::new(1).unwrap());
        for (width, depth) in [(1, 1), (3, 15), (4, 16), (5, 17), (37, 64), (66, 100), (130, 576)] {
            let weight: Vec<f32> = (0..width * depth).map(number).collect();
            let bias: Vec<f32> = (77..77 + width).map(number).collect();
            for rows in [1, 2, 3, 4, 5, 6, 7, 13, 32] {
                let x: Vec<f32> = (500..500 + rows * depth).map(number).collect();
                for bias in [None, Some(&bias[..])] {
                    let found = Level::all().map(|level| {
                        let mut out = vec![0.0; rows * width];
                        let product = Product { level, workers: Arc::clone(&workers) };
                        product.linear(&x, rows, &weight, bias, &mut out).unwrap();
                        (level, out.into_iter().map(f32::to_bits).collect::<Vec<_>>())
                    });
                    let found: Vec<_> = found.collect();
                    for (level, bits) in &found {
                        let first = &found[0];
                        assert!(*bits == first.1, "{level:?} is not {:?}: {rows} x {width} x {depth}", first.0);
                    }
                }
            }
        }
    }
}
