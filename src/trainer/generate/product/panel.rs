//! The output of a product, handed out to threads by columns.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An output [rows, width] in row-major order, some columns for whoever asks first.
pub(super) struct Panels<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    /// Columns of a panel.
    step: usize,
    /// First column that nobody has.
    next: AtomicUsize,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: threads that share it get panels, each column is in one panel only, and a panel writes to its columns alone.
unsafe impl Sync for Panels<'_> {}

impl<'a> Panels<'a> {
    /// `out.len()` is rows times width.
    pub(super) fn new(out: &'a mut [f32], width: usize, step: usize) -> Panels<'a> {
        Panels {
            rows: out.len() / width.max(1),
            start: out.as_mut_ptr(),
            width,
            step: step.max(1),
            next: AtomicUsize::new(0),
            memory: PhantomData,
        }
    }

    /// The next columns, if any are left.
    pub(super) fn next(&self) -> Option<Panel<'_>> {
        // Relaxed: it only numbers the panels; whoever waits for the threads orders what they wrote.
        let start = self.next.fetch_add(self.step, Ordering::Relaxed);
        (start < self.width).then(|| Panel { panels: self, columns: start..self.width.min(start + self.step) })
    }
}

/// Some columns of the output that nobody else has.
pub(super) struct Panel<'a> {
    panels: &'a Panels<'a>,
    pub(super) columns: Range<usize>,
}

impl Panel<'_> {
    /// Sets the first `count` of `values` from `column` on in a row.
    #[inline(always)]
    pub(super) fn write<const N: usize>(&mut self, row: usize, column: usize, values: &[f32; N], count: usize) {
        let is_own = self.columns.start <= column && column + count <= self.columns.end;
        assert!(is_own && row < self.panels.rows && count <= N, "a write outside the panel");
        // SAFETY: row and columns are inside the output, which is borrowed exclusively for `Panels`; the columns are in
        // no other panel, and this one is borrowed exclusively.
        unsafe {
            let place = self.panels.start.add(row * self.panels.width + column);
            if count == N {
                place.cast::<[f32; N]>().write(*values);
            } else {
                std::ptr::copy_nonoverlapping(values.as_ptr(), place, count);
            }
        }
    }
}
