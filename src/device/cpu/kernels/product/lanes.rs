//! The tile for any CPU: plain loops over 16 columns that the compiler turns into the instructions that every CPU of its
//! architecture has (NEON on ARM, where 6 x 16 sums fill 24 of 32 registers, and the rest hold operands).

use super::{Arithmetic, Factors, Form, PANEL, Sums, with_rows};

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;
/// Columns at a time.
const LANES: usize = 16;

/// [`super::multiply`] for up to 6 rows.
///
/// # Safety
/// As [`super::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply<A: Arithmetic>(factors: Factors, sums: &mut Sums) {
    debug_assert_ne!(factors.form, Form::Bf16, "no product of every CPU");
    // SAFETY: promised by the caller.
    unsafe {
        match factors.form {
            Form::Widened => with_rows!(factors.rows, widened_rows::<A, R>(factors, sums), 1 2 3 4 5 6),
            _ => with_rows!(factors.rows, f32_rows::<A, R>(factors, sums), 1 2 3 4 5 6),
        }
    }
}

/// # Safety
/// As [`super::multiply`].
#[inline(always)]
unsafe fn f32_rows<A: Arithmetic, const R: usize>(factors: Factors, sums: &mut Sums) {
    for column in (0..PANEL).step_by(LANES) {
        let mut tile = load::<R>(factors.fresh, sums, column);
        for word in 0..factors.words {
            // SAFETY: promised by the caller.
            unsafe {
                let b = &*factors.panel.add(word * PANEL + column).cast::<[f32; LANES]>();
                add_products::<A, R>(&mut tile, factors.left.add(word * R), b);
            }
        }
        store(tile, sums, column);
    }
}

/// # Safety
/// As [`super::multiply`].
#[inline(always)]
unsafe fn widened_rows<A: Arithmetic, const R: usize>(factors: Factors, sums: &mut Sums) {
    for column in (0..PANEL).step_by(LANES) {
        let mut tile = load::<R>(factors.fresh, sums, column);
        for word in 0..factors.words {
            // SAFETY: promised by the caller; a word is any bits.
            unsafe {
                let b = &*factors.panel.add(word / 2 * PANEL + column).cast::<[u32; LANES]>();
                let b = match word % 2 {
                    0 => b.map(|word| f32::from_bits(word << 16)),
                    _ => b.map(|word| f32::from_bits(word & 0xffff_0000)),
                };
                if !factors.widened.is_null() {
                    *factors.widened.add(word * PANEL + column).cast() = b;
                }
                add_products::<A, R>(&mut tile, factors.left.add(word * R), &b);
            }
        }
        store(tile, sums, column);
    }
}

/// Adds to each row's sums its word at `x` times `b`.
///
/// # Safety
/// There must be R words at `x`.
#[inline(always)]
unsafe fn add_products<A: Arithmetic, const R: usize>(
    tile: &mut [[f32; LANES]; R],
    x: *const f32,
    b: &[f32; LANES],
) {
    for (row, sums) in tile.iter_mut().enumerate() {
        // SAFETY: promised by the caller.
        let x = unsafe { *x.add(row) };
        for (sum, &b) in sums.iter_mut().zip(b) {
            *sum = A::mul_add(x, b, *sum);
        }
    }
}

#[inline(always)]
fn load<const R: usize>(fresh: bool, sums: &Sums, column: usize) -> [[f32; LANES]; R] {
    let mut tile = [[0.0; LANES]; R];
    if fresh {
        return tile;
    }
    for (tile, row) in tile.iter_mut().zip(sums) {
        tile.copy_from_slice(&row[column..column + LANES]);
    }
    tile
}

#[inline(always)]
fn store<const R: usize>(tile: [[f32; LANES]; R], sums: &mut Sums, column: usize) {
    for (tile, row) in tile.iter().zip(sums) {
        row[column..column + LANES].copy_from_slice(tile);
    }
}

/// [`super::interleave`].
///
/// # Safety
/// As [`super::interleave`].
#[inline(always)]
pub(crate) unsafe fn interleave(rows: usize, cols: usize, from: *const f32, stride: usize, to: *mut f32) {
    for col in 0..cols {
        for row in 0..rows {
            // SAFETY: promised by the caller.
            unsafe { *to.add(col * rows + row) = *from.add(row * stride + col) }
        }
    }
}
