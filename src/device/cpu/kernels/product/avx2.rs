//! The tile on AVX2 and FMA: up to 6 rows of 16 columns at a time, 12 sums in 16 registers. A panel of bf16 is widened
//! while the first block of rows is multiplied with it: shifts and stores run beside the products.

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_and_si256, _mm256_broadcast_ss, _mm256_castsi256_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_permute2f128_ps, _mm256_set1_epi32,
    _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_unpackhi_ps,
    _mm256_unpacklo_ps,
};

use super::{Factors, Form, PANEL, Sums, with_rows};

/// Rows of a tile: 6 x 16 sums fill 12 of 16 registers, the rest hold operands.
pub(crate) const ROWS: usize = 6;
/// Columns at a time.
const HALF: usize = PANEL / 2;

/// [`super::multiply`] for up to 6 rows.
///
/// # Safety
/// As [`super::multiply`], on a CPU with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn multiply(factors: Factors, sums: &mut Sums) {
    debug_assert_ne!(factors.form, Form::Bf16, "no product of this CPU");
    // SAFETY: promised by the caller.
    unsafe {
        match (factors.form, factors.widened.is_null()) {
            (Form::Widened, true) => {
                with_rows!(factors.rows, widened_rows::<R, false>(factors, sums), 1 2 3 4 5 6)
            }
            (Form::Widened, false) => {
                with_rows!(factors.rows, widened_rows::<R, true>(factors, sums), 1 2 3 4 5 6)
            }
            _ => with_rows!(factors.rows, f32_rows::<R>(factors, sums), 1 2 3 4 5 6),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_rows<const R: usize>(factors: Factors, sums: &mut Sums) {
    // Fetching ahead is the first half's, so that there is no choice to make for each word.
    // SAFETY: promised by the caller.
    unsafe {
        f32_half::<R, true>(factors, 0, sums);
        f32_half::<R, false>(factors, HALF, sums);
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_half<const R: usize, const FETCH: bool>(factors: Factors, column: usize, sums: &mut Sums) {
    let mut tile = load::<R>(factors.fresh, sums, column);
    for word in 0..factors.words {
        // SAFETY: promised by the caller; a prefetch reads nothing.
        unsafe {
            let b = factors.panel.add(word * PANEL + column);
            let b = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
            if FETCH {
                _mm_prefetch::<_MM_HINT_T0>(factors.ahead.wrapping_add(word * 8).cast());
            }
            add_products(&mut tile, factors.left.add(word * R), b);
        }
    }
    store(&tile, sums, column);
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn widened_rows<const R: usize, const KEEP: bool>(factors: Factors, sums: &mut Sums) {
    let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    for column in [0, HALF] {
        let mut tile = load::<R>(factors.fresh, sums, column);
        for pair in 0..factors.words.div_ceil(2) {
            // SAFETY: promised by the caller; a prefetch reads nothing.
            unsafe {
                let b = factors.panel.add(pair * PANEL + column).cast();
                _mm_prefetch::<_MM_HINT_T0>(factors.ahead.wrapping_add(pair * 8).cast());
                let words = || [_mm256_loadu_si256(b), _mm256_loadu_si256(b.add(1))];
                let keep = |word: usize, [first, second]: [__m256; 2]| {
                    if KEEP {
                        let to = factors.widened.add(word * PANEL + column);
                        _mm256_storeu_ps(to, first);
                        _mm256_storeu_ps(to.add(8), second);
                    }
                };
                let first = words().map(|b| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)));
                keep(2 * pair, first);
                add_products(&mut tile, factors.left.add(2 * pair * R), first);
                // Rows have no word beside the last of an odd depth.
                if 2 * pair + 1 < factors.words {
                    let second = words().map(|b| _mm256_castsi256_ps(_mm256_and_si256(b, upper)));
                    keep(2 * pair + 1, second);
                    add_products(&mut tile, factors.left.add((2 * pair + 1) * R), second);
                }
            }
        }
        store(&tile, sums, column);
    }
}

/// Adds to each row's sums its word at `x` times `b`.
///
/// # Safety
/// There must be R words at `x`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products<const R: usize>(tile: &mut [[__m256; 2]; R], x: *const f32, b: [__m256; 2]) {
    for (row, sums) in tile.iter_mut().enumerate() {
        // SAFETY: promised by the caller.
        let x = _mm256_broadcast_ss(unsafe { &*x.add(row) });
        sums[0] = _mm256_fmadd_ps(x, b[0], sums[0]);
        sums[1] = _mm256_fmadd_ps(x, b[1], sums[1]);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load<const R: usize>(fresh: bool, sums: &Sums, column: usize) -> [[__m256; 2]; R] {
    let mut tile = [[_mm256_setzero_ps(); 2]; R];
    if fresh {
        return tile;
    }
    for (tile, row) in tile.iter_mut().zip(sums) {
        // SAFETY: a row has 32 words, and `column` is one of its halves.
        unsafe {
            let from = row.as_ptr().add(column);
            *tile = [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))];
        }
    }
    tile
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn store<const R: usize>(tile: &[[__m256; 2]; R], sums: &mut Sums, column: usize) {
    for (tile, row) in tile.iter().zip(sums) {
        // SAFETY: as in `load`.
        unsafe {
            let to = row.as_mut_ptr().add(column);
            _mm256_storeu_ps(to, tile[0]);
            _mm256_storeu_ps(to.add(8), tile[1]);
        }
    }
}

/// [`super::interleave`] for up to 6 rows, 8 columns at a time.
///
/// # Safety
/// As [`super::interleave`], on a CPU with AVX2.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn interleave(rows: usize, cols: usize, from: *const f32, stride: usize, to: *mut f32) {
    // SAFETY: promised by the caller.
    unsafe { with_rows!(rows, interleave_rows::<R>(cols, from, stride, to), 1 2 3 4 5 6) }
}

/// # Safety
/// As [`interleave`].
#[target_feature(enable = "avx2,fma")]
unsafe fn interleave_rows<const R: usize>(cols: usize, from: *const f32, stride: usize, to: *mut f32) {
    let whole = cols / 8 * 8;
    for first in (0..whole).step_by(8) {
        let mut columns = [_mm256_setzero_ps(); 8];
        for (row, column) in columns[..R].iter_mut().enumerate() {
            // SAFETY: promised by the caller.
            *column = unsafe { _mm256_loadu_ps(from.add(row * stride + first)) };
        }
        for (column, words) in transposed(columns).into_iter().enumerate() {
            // Of the 8 words that are stored the first R count. What follows them is overwritten by the columns after this
            // one, if there are enough of them among these 8.
            // SAFETY: all words written lie within these 8 columns.
            unsafe {
                let to = to.add((first + column) * R);
                if (8 - column) * R >= 8 {
                    _mm256_storeu_ps(to, words);
                } else {
                    let mut all = [0.0; 8];
                    _mm256_storeu_ps(all.as_mut_ptr(), words);
                    to.copy_from_nonoverlapping(all.as_ptr(), R);
                }
            }
        }
    }
    // SAFETY: promised by the caller.
    unsafe { super::lanes::interleave(R, cols - whole, from.add(whole), stride, to.add(whole * R)) }
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transposed(rows: [__m256; 8]) -> [__m256; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pairs = |x, y| (_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
    let ((ab0, ab1), (cd0, cd1), (ef0, ef1), (gh0, gh1)) =
        (pairs(a, b), pairs(c, d), pairs(e, f), pairs(g, h));
    let fours = |x, y| (_mm256_shuffle_ps::<0x44>(x, y), _mm256_shuffle_ps::<0xee>(x, y));
    let ((a0, a1), (a2, a3)) = (fours(ab0, cd0), fours(ab1, cd1));
    let ((e0, e1), (e2, e3)) = (fours(ef0, gh0), fours(ef1, gh1));
    let low = |x, y| _mm256_permute2f128_ps::<0x20>(x, y);
    let high = |x, y| _mm256_permute2f128_ps::<0x31>(x, y);
    [
        low(a0, e0),
        low(a1, e1),
        low(a2, e2),
        low(a3, e3),
        high(a0, e0),
        high(a1, e1),
        high(a2, e2),
        high(a3, e3),
    ]
}
