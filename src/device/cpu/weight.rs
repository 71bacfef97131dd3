//! Weights as the products read them: packed once, at compilation. Made by `load`, read by `kernels::linear`.

use super::kernels::product::{PANEL, Panels, Precision};
use super::memory::{LargeMemory, Words};

/// A weight `[out, in]` packed as panels of 32 outputs.
pub(super) struct PackedWeight {
    words: Words,
    depth: usize,
    cols: usize,
    precision: Precision,
}

impl PackedWeight {
    /// Room for a weight of `cols` outputs and `depth` inputs.
    pub fn new(precision: Precision, depth: usize, cols: usize, memory: &mut LargeMemory) -> Self {
        Self { words: memory.words(Panels::words(precision, depth, cols)), depth, cols, precision }
    }

    pub fn panels(&self) -> Panels {
        Panels { data: self.words.as_ptr(), words: self.precision.words(self.depth), cols: self.cols }
    }

    /// Fills one panel. `copy_row(output, row)` copies that output's row of the weight into `row`, `[depth]`.
    ///
    /// # Safety
    /// Nobody else may touch the panel meanwhile.
    pub unsafe fn fill_panel(&self, panel: usize, row: &mut [f32], copy_row: impl Fn(usize, &mut [f32])) {
        let start = self.panels().at(panel, 0).cast_mut();
        for (lane, output) in (panel * PANEL..self.cols.min((panel + 1) * PANEL)).enumerate() {
            copy_row(output, row);
            // SAFETY: the lane lies within the panel, and the caller has that for itself.
            unsafe { super::kernels::product::pack_row(self.precision, row, start.add(lane), PANEL) }
        }
    }
}
