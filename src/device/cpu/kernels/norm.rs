//! Norms over rows, in f32: LayerNorm (vision) and Gemma's RMSNorm, which pi0.5's expert has with a shift (adaRMS). Most
//! of them feed a product, so the result is packed for it on the way.

use super::product::{Destination, RowBlocks};
use super::{Arithmetic, Kernel, LANES, row_tasks, share};
use crate::device::cpu::memory::Matrix;

pub(crate) enum Norm {
    /// `(x - mean) / sqrt(var + epsilon) * weight + bias`
    Layer { bias: Matrix },
    /// `x / sqrt(mean(x^2) + epsilon) * (1 + weight) + shift`, weight and shift the same for all rows or each row's own.
    RootMeanSquare { shift: Option<Matrix> },
}

pub(crate) struct NormRows {
    pub norm: Norm,
    pub epsilon: f32,
    pub x: Matrix,
    pub weight: Matrix,
    pub to: Destination,
    pub threads: usize,
}

impl NormRows {
    /// Rows that are left together: those that are packed together.
    fn blocks(&self) -> RowBlocks {
        self.to.packed.map_or(RowBlocks::new(self.x.rows, 1), |packed| packed.blocks)
    }

    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn norm<A: Arithmetic>(&self, row: usize, x: &[f32], out: &mut [f32]) {
        // SAFETY: promised by the caller.
        let weight = unsafe { self.weight.row(row % self.weight.rows) };
        let width = x.len() as f32;
        match &self.norm {
            Norm::Layer { bias } => {
                let mean = sum(x, |x| x) / width;
                let variance = sum(x, |x| (x - mean) * (x - mean)) / width;
                let scale = 1.0 / (variance + self.epsilon).sqrt();
                // SAFETY: promised by the caller.
                let bias = unsafe { bias.row(0) };
                for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                    *out = A::mul_add((x - mean) * scale, w, b);
                }
            }
            Norm::RootMeanSquare { shift } => {
                let square = sum(x, |x| x * x) / width;
                let scale = 1.0 / (square + self.epsilon).sqrt();
                // SAFETY: promised by the caller.
                match shift.map(|shift| unsafe { shift.row(row % shift.rows) }) {
                    None => {
                        for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
                            *out = x * scale * (1.0 + w);
                        }
                    }
                    Some(shift) => {
                        for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(shift) {
                            *out = A::mul_add(x * scale, 1.0 + w, b);
                        }
                    }
                }
            }
        }
    }
}

impl Kernel for NormRows {
    fn tasks(&self) -> usize {
        row_tasks(self.x.rows, self.x.cols, self.threads).min(self.blocks().count())
    }

    /// One block.
    fn scratch(&self) -> usize {
        self.blocks().most() * self.x.cols
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, scratch: *mut f32) {
        let (blocks, cols) = (self.blocks(), self.x.cols);
        for block in share(blocks.count(), self.tasks(), task) {
            let rows = blocks.range(block);
            // SAFETY: promised by the caller; tasks have different rows.
            unsafe {
                for (index, row) in rows.clone().enumerate() {
                    let out = std::slice::from_raw_parts_mut(scratch.add(index * cols), cols);
                    self.norm::<A>(row, self.x.row(row), out);
                }
                self.to.store_block::<A>(&rows, scratch, cols);
            }
        }
    }
}

/// Sum of `term(x)` over a row, in 16 partial sums.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += term(x);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| term(x)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::super::testing::{Owned, assert_close, run};
    use super::*;

    #[test]
    fn norms_are_their_formulas_on_every_width() {
        for isa in Isa::available() {
            for (rows, cols) in [(1, 1), (3, 17), (5, 64), (300, 72)] {
                let x = Owned::filled(rows, cols, |r, c| ((r * 31 + c * 17) % 23) as f32 * 0.3 - 2.0);
                let (weight, bias) = (Owned::random(1, cols, 1), Owned::random(1, cols, 2));
                let kernel = |norm, out: &Owned| NormRows {
                    norm,
                    epsilon: 1e-6,
                    x: x.matrix(),
                    weight: weight.matrix(),
                    to: out.destination(),
                    threads: 3,
                };
                let mean = |r: usize, term: &dyn Fn(f64) -> f64| {
                    (0..cols).map(|c| term(x.at(r, c))).sum::<f64>() / cols as f64
                };

                let out = Owned::zeros(rows, cols);
                run(kernel(Norm::Layer { bias: bias.matrix() }, &out), isa);
                // A single column has no variance: what remains is rounding divided by sqrt(epsilon).
                let tolerance = if cols == 1 { 1e-3 } else { 1e-5 };
                assert_close("layer norm", &out, tolerance, |r, c| {
                    let m = mean(r, &|x| x);
                    let variance = mean(r, &|x| (x - m) * (x - m));
                    (x.at(r, c) - m) / (variance + 1e-6).sqrt() * weight.at(0, c) + bias.at(0, c)
                });

                let out = Owned::zeros(rows, cols);
                run(kernel(Norm::RootMeanSquare { shift: None }, &out), isa);
                let rms = |r: usize, c: usize| {
                    x.at(r, c) / (mean(r, &|x| x * x) + 1e-6).sqrt() * (1.0 + weight.at(0, c))
                };
                assert_close("rms norm", &out, 1e-5, rms);

                let out = Owned::zeros(rows, cols);
                run(kernel(Norm::RootMeanSquare { shift: Some(bias.matrix()) }, &out), isa);
                assert_close("adaptive rms norm", &out, 1e-5, |r, c| rms(r, c) + bias.at(0, c));

                let (weights, shifts) = (Owned::random(rows, cols, 3), Owned::random(rows, cols, 4));
                let shift = Some(shifts.matrix());
                run(
                    NormRows { weight: weights.matrix(), ..kernel(Norm::RootMeanSquare { shift }, &out) },
                    isa,
                );
                assert_close("rms norm of rows each adapted", &out, 1e-5, |r, c| {
                    rms(r, c) / (1.0 + weight.at(0, c)) * (1.0 + weights.at(r, c)) + shifts.at(r, c)
                });
            }
        }
    }
}
