//! `activation(x w^T + b)` of constants, computed once, at compilation: what the denoising loop's times make of the time
//! MLPs and of every modulation of pi0.5's norms. Hundreds of megabytes of weights are read for it and never again, so
//! they are not packed: each row is widened where it is stored, multiplied with the few rows of x, and given back.

use super::math::activate;
use super::{Arithmetic, Kernel, LANES, share};
use crate::device::cpu::load::WeightRows;
use crate::device::cpu::memory::Matrix;
use crate::graph::Activation;

/// Rows of a weight below which another task costs more than it saves.
const TASK_ROWS: usize = 16;

pub(crate) struct ConstantLinear {
    /// `[rows, in]`
    pub x: Matrix,
    /// `[out, in]`
    pub weight: WeightRows,
    /// `[1, out]`
    pub bias: Option<Matrix>,
    pub activation: Option<Activation>,
    /// `[rows, out]`
    pub out: Matrix,
    pub threads: usize,
}

impl Kernel for ConstantLinear {
    fn tasks(&self) -> usize {
        (self.out.cols / TASK_ROWS).clamp(1, 8 * self.threads)
    }

    /// A row of the weight.
    fn scratch(&self) -> usize {
        self.x.cols
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, scratch: *mut f32) {
        // SAFETY: promised by the caller.
        let weights = unsafe { std::slice::from_raw_parts_mut(scratch, self.x.cols) };
        for output in share(self.out.cols, self.tasks(), task) {
            self.weight.copy(output, 0, weights);
            for row in 0..self.x.rows {
                // SAFETY: promised by the caller; tasks have different columns of the result.
                unsafe {
                    let bias = self.bias.map_or(0.0, |bias| bias.row(0)[output]);
                    let sum = bias + dot::<A>(self.x.row(row), weights);
                    let value = match self.activation {
                        Some(activation) => activate::<A>(activation, sum),
                        None => sum,
                    };
                    *self.out.data.add(row * self.out.stride + output) = value;
                }
            }
        }
    }
}

impl Drop for ConstantLinear {
    fn drop(&mut self) {
        self.weight.release();
    }
}

/// In 16 partial sums.
#[inline(always)]
fn dot<A: Arithmetic>(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum = A::mul_add(a, b, *sum);
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Isa;
    use super::super::testing::{Owned, assert_close, run};
    use super::*;
    use crate::graph::{WeightData, WeightFormat};

    fn stored(weight: &Owned) -> WeightRows {
        let bytes: Vec<u8> = weight.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        let range = 0..bytes.len();
        let data = WeightData::new(Arc::new(bytes), range, WeightFormat::F32).unwrap();
        WeightRows::Stored { key: "weight".into(), data, columns: weight.cols }
    }

    #[test]
    fn every_row_is_multiplied_with_every_row_of_the_weight() {
        for isa in Isa::available() {
            for (rows, depth, outputs) in [(1, 1, 1), (10, 37, 50), (3, 64, 700)] {
                let (x, weight) = (Owned::random(rows, depth, 1), Owned::random(outputs, depth, 2));
                let bias = Owned::random(1, outputs, 3);
                for activation in [None, Some(Activation::Silu)] {
                    let out = Owned::zeros(rows, outputs);
                    let kernel = ConstantLinear {
                        x: x.matrix(),
                        weight: stored(&weight),
                        bias: Some(bias.matrix()),
                        activation,
                        out: out.matrix(),
                        threads: 2,
                    };
                    run(kernel, isa);
                    assert_close("constant linear", &out, 1e-5, |r, c| {
                        let sum: f64 = (0..depth).map(|k| x.at(r, k) * weight.at(c, k)).sum();
                        let sum = sum + bias.at(0, c);
                        activation.map_or(sum, |_| sum / (1.0 + (-sum).exp()))
                    });
                }
            }
        }
    }
}
