//! Where a kernel leaves its result, and how.

use std::ops::Range;

use super::super::Arithmetic;
use super::{MOST_ROWS, PANEL, PackedRows, Precision, Sums, fetch, interleave, pair};
use crate::device::cpu::memory::Matrix;

/// Where a kernel leaves its result: as rows for whoever reads values, packed for the product that reads it next, or
/// both.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    pub rows: Option<Matrix>,
    pub packed: Option<PackedRows>,
}

impl Destination {
    /// Says that a tile will be stored soon, with [`Self::store`].
    #[inline(always)]
    pub fn fetch(&self, block: &Range<usize>, col: usize) {
        if let Some(to) = self.rows {
            for row in block.clone() {
                fetch(to.data.wrapping_add(row * to.stride + col));
            }
        }
    }

    /// Leaves columns of row `row` from `col` on, which starts a word.
    ///
    /// # Safety
    /// The columns must be alive and touched by nobody else meanwhile.
    #[inline(always)]
    pub unsafe fn store_row(&self, row: usize, col: usize, values: &[f32]) {
        // SAFETY: promised by the caller.
        unsafe {
            if let Some(to) = self.rows {
                to.row_mut(row)[col..col + values.len()].copy_from_slice(values);
            }
            if let Some(to) = self.packed {
                to.pack(row, col, values);
            }
        }
    }

    /// Leaves whole rows that lie one after another at `from`, `cols` words each: a block of the packed rows, or any.
    ///
    /// # Safety
    /// As [`Self::store_row`] for every row; the rows are readable.
    #[inline(always)]
    pub unsafe fn store_block<A: Arithmetic>(&self, block: &Range<usize>, from: *const f32, cols: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            if let Some(to) = self.rows {
                for (index, row) in block.clone().enumerate() {
                    let values = std::slice::from_raw_parts(from.add(index * cols), cols);
                    to.row_mut(row).copy_from_slice(values);
                }
            }
            if let Some(to) = self.packed {
                to.pack_block::<A>(block, 0, from, cols, cols);
            }
        }
    }

    /// Leaves a tile's rows, `block` of the result and no others, in its columns from `col` on (a multiple of 32).
    ///
    /// # Safety
    /// The block's columns must be alive and touched by nobody else meanwhile; the block is one of the packed rows'.
    #[inline(always)]
    pub unsafe fn store<A: Arithmetic>(&self, tile: &Sums, block: &Range<usize>, col: usize) {
        if let Some(to) = self.rows {
            for (sums, row) in tile.iter().zip(block.clone()) {
                // SAFETY: promised by the caller.
                let out = unsafe { &mut to.row_mut(row)[col..] };
                match out.first_chunk_mut::<PANEL>() {
                    Some(out) => *out = *sums,
                    None => out.copy_from_slice(&sums[..out.len()]),
                }
            }
        }
        if let Some(to) = self.packed {
            let first = to.precision.words(col);
            let count = (to.words - first).min(to.precision.words(PANEL));
            let start = to.at(block, first);
            // Rounded in a loop of its own, which the compiler can vectorise.
            let mut rounded = [[0.0; PANEL]; MOST_ROWS];
            let words = match to.precision {
                Precision::F32 => tile.as_ptr(),
                Precision::Bf16 => {
                    for (words, sums) in rounded.iter_mut().zip(tile) {
                        for (word, two) in words.iter_mut().zip(sums.as_chunks::<2>().0) {
                            *word = pair(two[0], two[1]);
                        }
                    }
                    rounded.as_ptr()
                }
            };
            // SAFETY: promised by the caller; the words lie within the block.
            unsafe {
                if to.whole {
                    for (index, row) in block.clone().enumerate() {
                        let from = words.cast::<f32>().add(index * PANEL);
                        to.at_row(block, row, first).copy_from_nonoverlapping(from, count);
                    }
                } else {
                    interleave::<A>(block.len(), count, words.cast(), PANEL, start);
                }
            }
        }
    }
}
