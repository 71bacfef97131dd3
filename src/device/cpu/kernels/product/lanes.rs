//! The tile for any CPU: plain loops over 16 columns that the compiler turns into the instructions it may use (NEON on
//! ARM, AVX2 where the caller was compiled for it). bf16 factors are widened to f32 on the way.

use super::{Arithmetic, Factors, PANEL, Precision, Tile, with_rows};

/// Rows of a tile: 6 x 16 sums fill 12 of AVX2's 16 registers, the rest hold operands.
pub(crate) const ROWS: usize = 6;
/// Columns at a time.
const LANES: usize = 16;

/// [`super::multiply`] for up to 6 rows.
///
/// # Safety
/// As [`super::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply<A: Arithmetic>(factors: Factors, tile: &mut Tile) {
    // SAFETY: promised by the caller.
    unsafe {
        match factors.precision {
            Precision::F32 => with_rows!(factors.rows, f32_rows::<A, R>(factors, tile), 1 2 3 4 5 6),
            Precision::Bf16 => with_rows!(factors.rows, bf16_rows::<A, R>(factors, tile), 1 2 3 4 5 6),
        }
    }
}

/// # Safety
/// As [`super::multiply`].
#[inline(always)]
unsafe fn f32_rows<A: Arithmetic, const R: usize>(factors: Factors, tile: &mut Tile) {
    for half in 0..PANEL / LANES {
        let mut sums = load::<R>(factors.fresh, tile, half);
        for word in 0..factors.words {
            // SAFETY: promised by the caller.
            let b = unsafe { &*factors.panel.add(word * PANEL + half * LANES).cast::<[f32; LANES]>() };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: promised by the caller.
                let x = unsafe { *factors.left.add(word * R + row) };
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum = A::mul_add(x, b, *sum);
                }
            }
        }
        store(sums, tile, half);
    }
}

/// # Safety
/// As [`super::multiply`].
#[inline(always)]
unsafe fn bf16_rows<A: Arithmetic, const R: usize>(factors: Factors, tile: &mut Tile) {
    let first = |word: u32| f32::from_bits(word << 16);
    let second = |word: u32| f32::from_bits(word & 0xffff_0000);
    for half in 0..PANEL / LANES {
        let mut sums = load::<R>(factors.fresh, tile, half);
        for word in 0..factors.words {
            // SAFETY: promised by the caller; a word is any bits.
            let b = unsafe { &*factors.panel.add(word * PANEL + half * LANES).cast::<[u32; LANES]>() };
            let (first_b, second_b) = (b.map(first), b.map(second));
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: promised by the caller.
                let x = unsafe { *factors.left.add(word * R + row).cast::<u32>() };
                let (first_x, second_x) = (first(x), second(x));
                for lane in 0..LANES {
                    let sum = A::mul_add(first_x, first_b[lane], sums[lane]);
                    sums[lane] = A::mul_add(second_x, second_b[lane], sum);
                }
            }
        }
        store(sums, tile, half);
    }
}

#[inline(always)]
fn load<const R: usize>(fresh: bool, tile: &Tile, half: usize) -> [[f32; LANES]; R] {
    let mut sums = [[0.0; LANES]; R];
    if fresh {
        return sums;
    }
    for (sums, row) in sums.iter_mut().zip(&tile.0) {
        sums.copy_from_slice(&row[half * LANES..(half + 1) * LANES]);
    }
    sums
}

#[inline(always)]
fn store<const R: usize>(sums: [[f32; LANES]; R], tile: &mut Tile, half: usize) {
    for (sums, row) in sums.iter().zip(&mut tile.0) {
        row[half * LANES..(half + 1) * LANES].copy_from_slice(sums);
    }
}
