//! How a chunk is led by the one before: an Euler step's result drawn towards it, and rows that are given.

use super::{Arithmetic, Kernel, row_tasks, share};
use crate::device::cpu::memory::Matrix;

/// `y + strength * w * (previous - (x + ahead * (y - x)))`, w `[rows, 1]`.
pub(crate) struct Guide {
    pub ahead: f32,
    pub strength: f32,
    pub x: Matrix,
    pub y: Matrix,
    pub previous: Matrix,
    pub weights: Matrix,
    pub out: Matrix,
    pub threads: usize,
}

impl Kernel for Guide {
    fn tasks(&self) -> usize {
        row_tasks(self.x.rows, self.x.cols, self.threads)
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        for row in share(self.x.rows, self.tasks(), task) {
            // SAFETY: promised by the caller; tasks have different rows.
            let (x, y, previous, weight, out) = unsafe {
                let weight = self.weights.row(row)[0];
                (self.x.row(row), self.y.row(row), self.previous.row(row), weight, self.out.row_mut(row))
            };
            for (((out, &x), &y), &previous) in out.iter_mut().zip(x).zip(y).zip(previous) {
                let end = A::mul_add(self.ahead, y - x, x);
                *out = A::mul_add(self.strength, (previous - end) * weight, y);
            }
        }
    }
}

/// Row by row a, or b where w `[rows, 1]` is 0; a and b may be one row for all.
pub(crate) struct Choose {
    pub a: Matrix,
    pub b: Matrix,
    pub weights: Matrix,
    pub out: Matrix,
    pub threads: usize,
}

impl Kernel for Choose {
    fn tasks(&self) -> usize {
        row_tasks(self.out.rows, self.out.cols, self.threads)
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        for row in share(self.out.rows, self.tasks(), task) {
            // SAFETY: promised by the caller; tasks have different rows.
            unsafe {
                let from = if self.weights.row(row)[0] == 0.0 { &self.b } else { &self.a };
                self.out.row_mut(row).copy_from_slice(from.row(row % from.rows));
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
    fn guidance_is_its_formula_and_nothing_without_weight() {
        for isa in Isa::available() {
            for (rows, cols) in [(1, 1), (13, 35), (50, 32)] {
                let [x, y, previous] = [1, 2, 3].map(|seed| Owned::random(rows, cols, seed));
                let weights = Owned::filled(rows, 1, |row, _| if row < rows / 2 { 0.0 } else { 0.7 });
                let out = Owned::zeros(rows, cols);
                let kernel = Guide {
                    ahead: 7.0,
                    strength: 0.4,
                    x: x.matrix(),
                    y: y.matrix(),
                    previous: previous.matrix(),
                    weights: weights.matrix(),
                    out: out.matrix(),
                    threads: 2,
                };
                run(kernel, isa);
                assert_close("guide", &out, 1e-5, |r, c| {
                    let end = x.at(r, c) + 7.0 * (y.at(r, c) - x.at(r, c));
                    y.at(r, c) + 0.4 * weights.at(r, 0) * (previous.at(r, c) - end)
                });
                for (row, col) in (0..rows / 2).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                    assert_eq!(out.at(row, col), y.at(row, col));
                }
            }
        }
    }

    #[test]
    fn rows_are_chosen_by_their_weight() {
        for isa in Isa::available() {
            let (rows, cols) = (7, 35);
            let weights = Owned::filled(rows, 1, |row, _| (row % 2) as f32);
            for (a_rows, b_rows) in [(rows, rows), (1, rows), (rows, 1), (1, 1)] {
                let (a, b) = (Owned::random(a_rows, cols, 1), Owned::random(b_rows, cols, 2));
                let out = Owned::zeros(rows, cols);
                let weights = weights.matrix();
                run(Choose { a: a.matrix(), b: b.matrix(), weights, out: out.matrix(), threads: 2 }, isa);
                for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                    let expected =
                        if row % 2 == 1 { a.at(row % a_rows, col) } else { b.at(row % b_rows, col) };
                    assert_eq!(out.at(row, col), expected, "row {row} of {a_rows} and {b_rows}");
                }
            }
        }
    }
}
