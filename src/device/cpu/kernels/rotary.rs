//! Rotary position embedding: the table of angles once per sequence, then the rotation of queries and keys.

use super::{Arithmetic, Kernel, LANES, row_tasks, share};
use crate::device::cpu::memory::Matrix;

/// Cosines then sines of `position / theta^(2i/head_dim)`, i < head_dim/2.
///
/// The inverse frequency is rounded to f32 and multiplied in f32, as the reference does.
pub(crate) struct RotaryTable {
    pub theta: f64,
    /// i32 `[rows]`
    pub positions: Matrix,
    pub out: Matrix,
    pub threads: usize,
}

impl Kernel for RotaryTable {
    fn tasks(&self) -> usize {
        row_tasks(self.out.rows, 16 * self.out.cols, self.threads)
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        let half = self.out.cols / 2;
        for row in share(self.out.rows, self.tasks(), task) {
            // SAFETY: promised by the caller; tasks have different rows.
            let (position, out) = unsafe { (self.positions.integers()[row], self.out.row_mut(row)) };
            let (cosines, sines) = out.split_at_mut(half);
            for (index, (cosine, sine)) in cosines.iter_mut().zip(sines).enumerate() {
                let frequency = self.theta.powf(-(index as f64) / half as f64) as f32;
                (*sine, *cosine) = (position as f32 * frequency).sin_cos();
            }
        }
    }
}

/// `[a cos - b sin, b cos + a sin]` for the two halves a, b of each head.
pub(crate) struct Rotary {
    pub heads: usize,
    pub x: Matrix,
    pub table: Matrix,
    pub out: Matrix,
    pub threads: usize,
}

/// Rotates one head's `x` into `out` by a row of the table.
#[inline(always)]
pub(super) fn rotate(x: &[f32], table: &[f32], out: &mut [f32]) {
    let half = table.len() / 2;
    let (cosines, sines) = table.split_at(half);
    let (a, b) = x.split_at(half);
    let (out_a, out_b) = out.split_at_mut(half);
    let mut done = 0;
    // Many at once and read before they are written, so that the compiler can vectorise it.
    while let (Some(a), Some(b), Some(cosines), Some(sines), Some(out_a), Some(out_b)) = (
        a[done..].first_chunk::<LANES>(),
        b[done..].first_chunk::<LANES>(),
        cosines[done..].first_chunk::<LANES>(),
        sines[done..].first_chunk::<LANES>(),
        out_a[done..].first_chunk_mut::<LANES>(),
        out_b[done..].first_chunk_mut::<LANES>(),
    ) {
        let (mut turned_a, mut turned_b) = ([0.0; LANES], [0.0; LANES]);
        for i in 0..LANES {
            turned_a[i] = a[i] * cosines[i] - b[i] * sines[i];
            turned_b[i] = b[i] * cosines[i] + a[i] * sines[i];
        }
        (*out_a, *out_b) = (turned_a, turned_b);
        done += LANES;
    }
    for i in done..half {
        out_a[i] = a[i] * cosines[i] - b[i] * sines[i];
        out_b[i] = b[i] * cosines[i] + a[i] * sines[i];
    }
}

impl Kernel for Rotary {
    fn tasks(&self) -> usize {
        row_tasks(self.x.rows, self.x.cols, self.threads)
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        let head_dim = self.table.cols;
        for row in share(self.x.rows, self.tasks(), task) {
            // SAFETY: promised by the caller; tasks have different rows.
            let (x, table, out) = unsafe { (self.x.row(row), self.table.row(row), self.out.row_mut(row)) };
            for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)).take(self.heads) {
                rotate(x, table, out);
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
    fn rotation_is_by_the_angle_of_position_and_frequency() {
        let positions = [0, 1, 5, 40, 41];
        let (heads, head_dim, rows) = (3, 6, positions.len());
        let angle = |row: usize, i: usize| {
            f64::from(positions[row]) / 10_000f64.powf(2.0 * i as f64 / head_dim as f64)
        };
        for isa in Isa::available() {
            let list = Owned::integers(&positions);
            let table = Owned::zeros(rows, head_dim);
            let kernel =
                RotaryTable { theta: 10_000.0, positions: list.matrix(), out: table.matrix(), threads: 2 };
            run(kernel, isa);
            assert_close("table", &table, 5e-6, |r, c| match c < head_dim / 2 {
                true => angle(r, c).cos(),
                false => angle(r, c - head_dim / 2).sin(),
            });

            let x = Owned::random(rows, heads * head_dim, 1);
            let out = Owned::zeros(rows, heads * head_dim);
            run(Rotary { heads, x: x.matrix(), table: table.matrix(), out: out.matrix(), threads: 2 }, isa);
            assert_close("rotary", &out, 5e-6, |r, c| {
                let (head, i) = (c / head_dim, c % head_dim);
                let half = head_dim / 2;
                let (sine, cosine) = angle(r, i % half).sin_cos();
                let (a, b) =
                    (x.at(r, head * head_dim + i % half), x.at(r, head * head_dim + half + i % half));
                if i < half { a * cosine - b * sine } else { b * cosine + a * sine }
            });
        }
    }
}
