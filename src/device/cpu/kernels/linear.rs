//! `activation(x w^T + b)`, the operation that takes nearly all the time.

use std::sync::Arc;

use super::math::activate;
use super::tile::{self, Finish, LANES, Panels, Rows};
use super::{Arithmetic, Kernel, share};
use crate::device::cpu::memory::{Matrix, Words};
use crate::graph::Activation;

/// A weight `[out, in]` packed once, at compilation, as panels of 16 outputs.
pub(crate) struct PackedWeight {
    words: Words,
    depth: usize,
    cols: usize,
}

impl PackedWeight {
    /// Room for a weight of `cols` outputs and `depth` inputs.
    pub fn new(depth: usize, cols: usize) -> Self {
        Self {
            words: Words::new(Panels::words(depth, cols)),
            depth,
            cols,
        }
    }

    pub fn panels(&self) -> Panels {
        Panels {
            data: self.words.as_ptr(),
            depth: self.depth,
            cols: self.cols,
        }
    }

    /// Fills one panel. `copy_row(output, row)` copies that output's row of the weight into `row`, `[depth]`.
    ///
    /// # Safety
    /// Nobody else may touch the panel meanwhile.
    pub unsafe fn fill_panel(&self, panel: usize, row: &mut [f32], copy_row: impl Fn(usize, &mut [f32])) {
        let outputs = panel * LANES..self.cols.min((panel + 1) * LANES);
        // SAFETY: the panel lies within the words, and the caller has it for itself.
        let data = unsafe {
            let start = self.words.as_ptr().add(panel * self.depth * LANES);
            std::slice::from_raw_parts_mut(start, self.depth * LANES)
        };
        for (lane, output) in outputs.enumerate() {
            copy_row(output, row);
            for (words, &value) in data.as_chunks_mut::<LANES>().0.iter_mut().zip(row.iter()) {
                words[lane] = value;
            }
        }
    }
}

/// Words of x that a task goes through for each panel: half of a usual second-level cache, the panel has the rest.
const BLOCK_WORDS: usize = 48 * 1024;
/// Tasks per thread, so that one that is interrupted leaves its share to the others.
const TASKS_PER_THREAD: usize = 4;

pub(crate) struct Linear {
    x: Matrix,
    weight: Arc<PackedWeight>,
    bias: Option<Matrix>,
    activation: Option<Activation>,
    out: Matrix,
    row_blocks: usize,
    panel_blocks: usize,
}

impl Linear {
    pub fn new(
        x: Matrix,
        weight: Arc<PackedWeight>,
        bias: Option<Matrix>,
        activation: Option<Activation>,
        out: Matrix,
        threads: usize,
    ) -> Self {
        let row_blocks = (x.rows * x.cols)
            .div_ceil(BLOCK_WORDS)
            .clamp(1, x.rows.div_ceil(6));
        let wanted = (TASKS_PER_THREAD * threads).div_ceil(row_blocks);
        let panel_blocks = if threads == 1 {
            1
        } else {
            wanted.min(weight.panels().count())
        };
        Self {
            x,
            weight,
            bias,
            activation,
            out,
            row_blocks,
            panel_blocks,
        }
    }
}

/// Bias, activation, and the place of the result.
struct ToOutput<'a> {
    bias: Option<&'a [f32]>,
    activation: Option<Activation>,
    out: Matrix,
    first_row: usize,
}

impl Finish for ToOutput<'_> {
    #[inline(always)]
    unsafe fn finish<A: Arithmetic>(&self, row: usize, col: usize, sums: &mut [f32; LANES]) {
        // SAFETY: the row is this task's; promised by the caller of `multiply`.
        let out = unsafe { &mut self.out.row_mut(self.first_row + row)[col..] };
        if let Some(bias) = self.bias {
            for (sum, &bias) in sums.iter_mut().zip(&bias[col..]) {
                *sum += bias;
            }
        }
        match self.activation {
            None => {}
            // Each in a loop of its own, so that the choice is not made for every element.
            Some(Activation::GeluTanh) => {
                for sum in sums.iter_mut() {
                    *sum = activate::<A>(Activation::GeluTanh, *sum);
                }
            }
            Some(Activation::Silu) => {
                for sum in sums.iter_mut() {
                    *sum = activate::<A>(Activation::Silu, *sum);
                }
            }
        }
        match out.first_chunk_mut::<LANES>() {
            Some(out) => *out = *sums,
            None => out.copy_from_slice(&sums[..out.len()]),
        }
    }
}

impl Kernel for Linear {
    fn tasks(&self) -> usize {
        self.row_blocks * self.panel_blocks
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        // Neighbouring tasks share the rows of x, so that threads read them from a shared cache.
        let rows = share(self.x.rows, self.row_blocks, task / self.panel_blocks);
        let panels = share(
            self.weight.panels().count(),
            self.panel_blocks,
            task % self.panel_blocks,
        );
        // SAFETY: rows and panels are within x and the weight; tasks write disjoint parts of `out`.
        unsafe {
            let a = Rows {
                data: self.x.data.add(rows.start * self.x.stride).cast_const(),
                stride: self.x.stride,
                rows: rows.len(),
            };
            let to = ToOutput {
                bias: self.bias.map(|bias| bias.row(0)),
                activation: self.activation,
                out: self.out,
                first_row: rows.start,
            };
            for panel in panels {
                tile::multiply::<A>(a, self.weight.panels(), panel, &to);
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
    fn a_linear_is_its_formula_on_every_size() {
        for isa in Isa::available() {
            for (rows, depth, cols) in [(1, 1, 1), (7, 5, 16), (13, 33, 47), (6, 588, 64), (200, 300, 35)] {
                let (x, w, bias) = (
                    Owned::random(rows, depth, 1),
                    Owned::random(cols, depth, 2),
                    Owned::random(1, cols, 3),
                );
                let packed = PackedWeight::new(depth, cols);
                let mut row = vec![0.0; depth];
                for panel in 0..packed.panels().count() {
                    // SAFETY: one panel at a time.
                    unsafe {
                        packed.fill_panel(panel, &mut row, |output, row| {
                            row.copy_from_slice(&w.values()[output * depth..][..depth]);
                        });
                    }
                }
                let packed = Arc::new(packed);
                // Rounding of a sum grows with its length.
                let tolerance = 1e-7 * (8 + depth) as f64;
                for threads in [1, 3] {
                    for activation in [None, Some(Activation::GeluTanh), Some(Activation::Silu)] {
                        let out = Owned::zeros(rows, cols);
                        let bias_matrix = Some(bias.matrix());
                        let kernel = Linear::new(
                            x.matrix(),
                            packed.clone(),
                            bias_matrix,
                            activation,
                            out.matrix(),
                            threads,
                        );
                        run(kernel, isa);
                        assert_close(
                            &format!("{isa} {rows}x{depth}x{cols}"),
                            &out,
                            tolerance,
                            |r, c| {
                                let sum: f64 = (0..depth).map(|k| x.at(r, k) * w.at(c, k)).sum();
                                let y = sum + bias.at(0, c);
                                match activation {
                                    None => y,
                                    Some(Activation::Silu) => y / (1.0 + (-y).exp()),
                                    Some(Activation::GeluTanh) => {
                                        let u =
                                            (2.0 / std::f64::consts::PI).sqrt() * (y + 0.044715 * y * y * y);
                                        0.5 * y * (1.0 + u.tanh())
                                    }
                                }
                            },
                        );
                    }
                }
            }
        }
    }
}
