//! Operations that only move elements: copies (for concatenation, and results that must lie elsewhere), packing for
//! products, and patches.

use super::product::PackedRows;
use super::{Arithmetic, Kernel, row_tasks, share};
use crate::device::cpu::memory::Matrix;

/// `out = x`, row by row; any element type.
pub(crate) struct Copy {
    pub x: Matrix,
    pub out: Matrix,
    pub threads: usize,
}

impl Kernel for Copy {
    fn tasks(&self) -> usize {
        row_tasks(self.x.rows, self.x.cols, self.threads)
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        for row in share(self.x.rows, self.tasks(), task) {
            // SAFETY: promised by the caller; tasks have different rows.
            unsafe { self.out.row_mut(row).copy_from_slice(self.x.row(row)) }
        }
    }
}

/// Packs rows for the products that read them.
pub(crate) struct Pack {
    pub x: Matrix,
    pub to: PackedRows,
    pub threads: usize,
}

impl Kernel for Pack {
    fn tasks(&self) -> usize {
        row_tasks(self.x.rows, self.x.cols, self.threads).min(self.to.blocks.count())
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        let Matrix { data, cols, stride, .. } = self.x;
        for block in share(self.to.blocks.count(), self.tasks(), task) {
            let rows = self.to.blocks.range(block);
            // SAFETY: promised by the caller; tasks have different rows.
            unsafe { self.to.pack_block::<A>(&rows, 0, data.add(rows.start * stride), stride, cols) }
        }
    }
}

/// Non-overlapping squares of an image as rows, each in channel, row, column order.
pub(crate) struct Patchify {
    pub patch: usize,
    /// `[channels * height, width]`
    pub image: Matrix,
    pub height: usize,
    /// `[patches, channels * patch^2]`
    pub out: Matrix,
    pub threads: usize,
}

impl Kernel for Patchify {
    fn tasks(&self) -> usize {
        row_tasks(self.out.rows, self.out.cols, self.threads)
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        let across = self.image.cols / self.patch;
        for index in share(self.out.rows, self.tasks(), task) {
            let (top, left) = (index / across * self.patch, index % across * self.patch);
            // SAFETY: promised by the caller; tasks have different patches.
            let out = unsafe { self.out.row_mut(index) };
            for (line, out) in out.chunks_exact_mut(self.patch).enumerate() {
                let (channel, y) = (line / self.patch, top + line % self.patch);
                // SAFETY: promised by the caller.
                let row = unsafe { self.image.row(channel * self.height + y) };
                out.copy_from_slice(&row[left..left + self.patch]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::super::testing::{Owned, assert_close, run};
    use super::*;

    #[test]
    fn a_patch_is_channel_then_row_then_column() {
        let (channels, height, width, patch) = (3, 4, 6, 2);
        let image = Owned::random(channels * height, width, 1);
        let out = Owned::zeros(6, channels * patch * patch);
        run(Patchify { patch, image: image.matrix(), height, out: out.matrix(), threads: 2 }, Isa::Portable);
        assert_close("patches", &out, 0.0, |index, element| {
            let (channel, y, x) = (element / 4, element % 4 / 2, element % 2);
            image.at(channel * height + index / 3 * patch + y, index % 3 * patch + x)
        });
    }

    #[test]
    fn a_copy_reads_a_repeated_row_and_writes_a_part() {
        let (x, out) = (Owned::random(1, 3, 1), Owned::zeros(4, 5));
        let repeated = Matrix { rows: 4, stride: 0, ..x.matrix() };
        // SAFETY: one word into a row of five, three words are left of it.
        let middle = Matrix { data: unsafe { out.matrix().data.add(1) }, cols: 3, ..out.matrix() };
        run(Copy { x: repeated, out: middle, threads: 2 }, Isa::Portable);
        assert_close("copy", &out, 0.0, |_, c| if (1..4).contains(&c) { x.at(0, c - 1) } else { 0.0 });
    }
}
