//! The inner loop of every matrix product: a few rows times one panel of 16 columns, sums held in registers.
//! Used by `linear` (weights) and `attention` (keys and values).

use super::Arithmetic;

/// Columns of a panel: two AVX2 registers.
pub(crate) const LANES: usize = 16;
/// Rows of a tile: 6 x 16 sums fill 12 of AVX2's 16 registers, the rest hold operands.
const ROWS: usize = 6;

/// A matrix `[depth, cols]` as panels of 16 columns, `[cols / 16][depth][16]`, the last one padded with zeros.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    pub data: *const f32,
    pub depth: usize,
    pub cols: usize,
}

// SAFETY: an address; what is done with it is each kernel's responsibility.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl Panels {
    /// Words that `[depth, cols]` takes as panels.
    pub fn words(depth: usize, cols: usize) -> usize {
        cols.div_ceil(LANES) * depth * LANES
    }

    /// Number of panels.
    pub fn count(&self) -> usize {
        self.cols.div_ceil(LANES)
    }
}

/// Some rows of a matrix: `rows` rows, `stride` words apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<T> {
    pub data: T,
    pub stride: usize,
    pub rows: usize,
}

/// Calls `finish(row, first column, sums)` for all `a x panel` of one panel, 16 columns at a time; sums beyond the
/// matrix's last column are those of the padding. `a` has `panels.depth` columns.
///
/// # Safety
/// `a` and the panel must be readable and nobody may write them meanwhile.
#[inline(always)]
pub(super) unsafe fn multiply<A: Arithmetic>(
    a: Rows<*const f32>,
    panels: Panels,
    panel: usize,
    mut finish: impl FnMut(usize, usize, &mut [f32; LANES]),
) {
    let mut row = 0;
    while row < a.rows {
        // SAFETY: `row` is within `a`; the rest is promised by the caller.
        unsafe {
            let data = a.data.add(row * a.stride);
            let weights = panels.data.add(panel * panels.depth * LANES);
            let mut rows = |sums: &mut [[f32; LANES]]| {
                for (index, sums) in sums.iter_mut().enumerate() {
                    finish(row + index, panel * LANES, sums);
                }
            };
            match a.rows - row {
                1 => rows(&mut tile::<A, 1>(data, a.stride, panels.depth, weights)),
                2 => rows(&mut tile::<A, 2>(data, a.stride, panels.depth, weights)),
                3 => rows(&mut tile::<A, 3>(data, a.stride, panels.depth, weights)),
                4 => rows(&mut tile::<A, 4>(data, a.stride, panels.depth, weights)),
                5 => rows(&mut tile::<A, 5>(data, a.stride, panels.depth, weights)),
                _ => rows(&mut tile::<A, ROWS>(data, a.stride, panels.depth, weights)),
            }
        }
        row += ROWS;
    }
}

/// `R` rows of `a` times one panel.
///
/// # Safety
/// `a` must have `R` rows of `depth` words, `panel` `depth * 16` words.
#[inline(always)]
unsafe fn tile<A: Arithmetic, const R: usize>(
    a: *const f32,
    stride: usize,
    depth: usize,
    panel: *const f32,
) -> [[f32; LANES]; R] {
    let mut sums = [[0.0; LANES]; R];
    for k in 0..depth {
        // SAFETY: promised by the caller.
        let b = unsafe { &*panel.add(k * LANES).cast::<[f32; LANES]>() };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: promised by the caller.
            let x = unsafe { *a.add(row * stride + k) };
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = A::mul_add(x, b, *sum);
            }
        }
    }
    sums
}
