//! Operations on each element by itself: add, multiply, activations, the Euler step.

use super::math::activate;
use super::{Arithmetic, Kernel, row_tasks, share};
use crate::device::cpu::memory::Matrix;
use crate::graph::Activation;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Binary {
    Add,
    Multiply,
    /// `a + dt * b`
    Step {
        dt: f32,
    },
}

/// `a (op) b`; b's rows are repeated as often as a needs.
pub(crate) struct BinaryRows {
    pub op: Binary,
    pub a: Matrix,
    pub b: Matrix,
    pub out: Matrix,
    pub threads: usize,
}

impl Kernel for BinaryRows {
    fn tasks(&self) -> usize {
        row_tasks(self.a.rows, self.a.cols, self.threads)
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        for row in share(self.a.rows, self.tasks(), task) {
            // SAFETY: promised by the caller; tasks have different rows.
            let (a, b, out) = unsafe {
                (
                    self.a.row(row),
                    self.b.row(row % self.b.rows),
                    self.out.row_mut(row),
                )
            };
            match self.op {
                Binary::Add => combine(a, b, out, |a, b| a + b),
                Binary::Multiply => combine(a, b, out, |a, b| a * b),
                Binary::Step { dt } => combine(a, b, out, |a, b| A::mul_add(dt, b, a)),
            }
        }
    }
}

#[inline(always)]
fn combine(a: &[f32], b: &[f32], out: &mut [f32], op: impl Fn(f32, f32) -> f32) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = op(a, b);
    }
}

pub(crate) struct Activate {
    pub activation: Activation,
    pub x: Matrix,
    pub out: Matrix,
    pub threads: usize,
}

impl Kernel for Activate {
    fn tasks(&self) -> usize {
        row_tasks(self.x.rows, self.x.cols, self.threads)
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        for row in share(self.x.rows, self.tasks(), task) {
            // SAFETY: promised by the caller; tasks have different rows.
            let (x, out) = unsafe { (self.x.row(row), self.out.row_mut(row)) };
            for (out, &x) in out.iter_mut().zip(x) {
                *out = activate::<A>(self.activation, x);
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
    fn rows_of_b_are_repeated() {
        for isa in Isa::available() {
            let (a, b) = (Owned::random(600, 35, 1), Owned::random(200, 35, 2));
            for op in [Binary::Add, Binary::Multiply, Binary::Step { dt: -0.1 }] {
                let out = Owned::zeros(600, 35);
                run(
                    BinaryRows {
                        op,
                        a: a.matrix(),
                        b: b.matrix(),
                        out: out.matrix(),
                        threads: 2,
                    },
                    isa,
                );
                assert_close(&format!("{op:?}"), &out, 1e-7, |r, c| {
                    let (a, b) = (a.at(r, c), b.at(r % 200, c));
                    match op {
                        Binary::Add => a + b,
                        Binary::Multiply => a * b,
                        Binary::Step { dt } => a + f64::from(dt) * b,
                    }
                });
            }
        }
    }

    #[test]
    fn silu_of_a_matrix() {
        for isa in Isa::available() {
            let x = Owned::random(3, 21, 1);
            let out = Owned::zeros(3, 21);
            let kernel = Activate {
                activation: Activation::Silu,
                x: x.matrix(),
                out: out.matrix(),
                threads: 1,
            };
            run(kernel, isa);
            assert_close("silu", &out, 1e-6, |r, c| {
                x.at(r, c) / (1.0 + (-x.at(r, c)).exp())
            });
        }
    }
}
