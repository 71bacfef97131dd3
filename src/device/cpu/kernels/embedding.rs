//! `scale * table[token]`, reading only the rows in use straight from the checkpoint's mapped file: a vocabulary of
//! 257152 rows is half a gigabyte of which a prompt needs 48.

use super::{Arithmetic, Kernel};
use crate::device::cpu::memory::Matrix;
use crate::graph::WeightData;

pub(crate) struct Embedding {
    pub scale: f32,
    /// I32 `[rows]`, each below the table's rows: checked when the host writes them.
    pub tokens: Matrix,
    pub table: WeightData,
    pub out: Matrix,
}

impl Kernel for Embedding {
    fn tasks(&self) -> usize {
        1
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, _: usize, _: *mut f32) {
        for row in 0..self.out.rows {
            // SAFETY: promised by the caller.
            let (token, out) = unsafe { (self.tokens.integers()[row], self.out.row_mut(row)) };
            self.table.copy_f32(token as usize * out.len(), out);
            for out in out.iter_mut() {
                *out *= self.scale;
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
    fn rows_are_looked_up_and_scaled() {
        let table = Owned::random(7, 5, 1);
        let ids = [6, 0, 3, 3];
        for isa in Isa::available() {
            let tokens = Owned::integers(&ids);
            let out = Owned::zeros(ids.len(), 5);
            let kernel = Embedding {
                scale: 2.5,
                tokens: tokens.matrix(),
                table: WeightData::from_f32(table.values()),
                out: out.matrix(),
            };
            run(kernel, isa);
            assert_close("embedding", &out, 1e-7, |r, c| 2.5 * table.at(ids[r] as usize, c));
        }
    }
}
