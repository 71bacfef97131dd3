//! Weights as the products read them: packed once, at compilation. Made by `load`, read by `kernels::linear`.

use super::kernels::product::{PANEL, Panels, Precision, pack_row};
use super::memory::{LargeMemory, Words};

/// Columns that are copied at once, whole words in every precision.
const CHUNK: usize = 64;

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

    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub fn panels(&self) -> Panels {
        Panels { data: self.words.as_ptr(), words: self.precision.words(self.depth), cols: self.cols }
    }

    /// Fills one panel. `copy(output, column, values)` copies columns of that output's row of the weight, from `column` on.
    ///
    /// # Safety
    /// Nobody else may touch the panel meanwhile.
    pub unsafe fn fill_panel(&self, panel: usize, copy: impl Fn(usize, usize, &mut [f32])) {
        // Of all 32 rows one after another, so that the part of the panel that they go to stays near.
        let mut values = [0.0; CHUNK];
        for column in (0..self.depth).step_by(CHUNK) {
            let values = &mut values[..CHUNK.min(self.depth - column)];
            let start = self.panels().at(panel, self.precision.words(column)).cast_mut();
            for (lane, output) in (panel * PANEL..self.cols.min((panel + 1) * PANEL)).enumerate() {
                copy(output, column, values);
                // SAFETY: the lane lies within the panel, and the caller has that for itself.
                unsafe { pack_row(self.precision, values, start.add(lane), PANEL) }
            }
        }
    }
}
