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
pub(super) struct Rows {
    pub data: *const f32,
    pub stride: usize,
    pub rows: usize,
}

/// What becomes of the sums of a product: 16 columns of one row at a time.
///
/// A trait and not a closure, because closures cannot be `#[inline(always)]`, without which they are compiled for the
/// portable instruction set.
pub(super) trait Finish {
    /// `col` is the first of the 16 columns; sums beyond the matrix's last column are those of the padding.
    ///
    /// # Safety
    /// As the caller of [`multiply`] promised.
    unsafe fn finish<A: Arithmetic>(&self, row: usize, col: usize, sums: &mut [f32; LANES]);
}

/// Gives `a x panel` of one panel to `finish`, row by row. `a` has `panels.depth` columns.
///
/// # Safety
/// `a` and the panel must be readable and nobody may write them meanwhile.
#[inline(always)]
pub(super) unsafe fn multiply<A: Arithmetic>(a: Rows, panels: Panels, panel: usize, finish: &impl Finish) {
    let mut row = 0;
    while row < a.rows {
        // SAFETY: `row` is within `a`; the rest is promised by the caller.
        unsafe {
            let tile = Tile {
                a: a.data.add(row * a.stride),
                stride: a.stride,
                panels,
                panel,
                row,
            };
            match a.rows - row {
                1 => tile.rows::<A, 1>(finish),
                2 => tile.rows::<A, 2>(finish),
                3 => tile.rows::<A, 3>(finish),
                4 => tile.rows::<A, 4>(finish),
                5 => tile.rows::<A, 5>(finish),
                _ => tile.rows::<A, ROWS>(finish),
            }
        }
        row += ROWS;
    }
}

/// Some rows of a product's left side, the first of which is number `row`, and one panel of its right side.
struct Tile {
    a: *const f32,
    stride: usize,
    panels: Panels,
    panel: usize,
    row: usize,
}

impl Tile {
    /// # Safety
    /// As [`multiply`]; `a` must have `R` rows.
    #[inline(always)]
    unsafe fn rows<A: Arithmetic, const R: usize>(&self, finish: &impl Finish) {
        let depth = self.panels.depth;
        // SAFETY: promised by the caller.
        unsafe {
            let panel = self.panels.data.add(self.panel * depth * LANES);
            let mut sums = product::<A, R>(self.a, self.stride, depth, panel);
            for (index, sums) in sums.iter_mut().enumerate() {
                finish.finish::<A>(self.row + index, self.panel * LANES, sums);
            }
        }
    }
}

/// `R` rows of `a` times one panel.
///
/// # Safety
/// `a` must have `R` rows of `depth` words, `panel` `depth * 16` words.
#[inline(always)]
unsafe fn product<A: Arithmetic, const R: usize>(
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
