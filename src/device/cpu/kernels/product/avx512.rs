//! The tile on AVX-512: up to 14 rows of 32 columns, every sum in a register. bf16 factors go through
//! `vdpbf16ps` where the CPU has it (two products a lane, denormals taken and given as zero); else panels are widened
//! while the first block of rows is multiplied with them.

use std::arch::x86_64::{
    __m512, __m512bh, _MM_HINT_T1, _mm_prefetch, _mm512_and_si512, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_pd,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::{Factors, Form, PANEL, Sums, with_rows};

/// Rows of a tile: 14 x 32 sums fill 28 of AVX-512's 32 registers, the rest hold operands.
pub(crate) const ROWS: usize = 14;

/// [`super::multiply`] for up to 14 rows, of f32.
///
/// # Safety
/// As [`super::multiply`], on a CPU with AVX-512F.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn multiply(factors: Factors, sums: &mut Sums) {
    // SAFETY: promised by the caller.
    unsafe {
        match factors.form {
            Form::Widened => {
                with_rows!(factors.rows, widened_rows::<R>(factors, sums), 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
            Form::F32 | Form::Bf16 => {
                with_rows!(factors.rows, f32_rows::<R>(factors, sums), 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
        }
    }
}

/// [`super::multiply`] for up to 14 rows, with the CPU's own products of bf16.
///
/// # Safety
/// As [`super::multiply`], on a CPU with AVX-512F and AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn multiply_bf16(factors: Factors, sums: &mut Sums) {
    // SAFETY: promised by the caller.
    unsafe {
        match factors.form {
            Form::F32 | Form::Widened => multiply(factors, sums),
            Form::Bf16 => {
                with_rows!(factors.rows, bf16_rows::<R>(factors, sums), 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
        }
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn f32_rows<const R: usize>(factors: Factors, sums: &mut Sums) {
    let mut tile = load::<R>(factors.fresh, sums);
    for word in 0..factors.words {
        // SAFETY: promised by the caller; a prefetch reads nothing.
        unsafe {
            let b = factors.panel.add(word * PANEL);
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            _mm_prefetch::<_MM_HINT_T1>(factors.ahead.wrapping_add(word * 8).cast());
            for (row, sums) in tile.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*factors.left.add(word * R + row));
                sums[0] = _mm512_fmadd_ps(x, b0, sums[0]);
                sums[1] = _mm512_fmadd_ps(x, b1, sums[1]);
            }
        }
    }
    store(&tile, sums);
}

/// # Safety
/// As [`multiply_bf16`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_rows<const R: usize>(factors: Factors, sums: &mut Sums) {
    // SAFETY: both are 64 bytes of any bits.
    let pairs = |words: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(words) };
    let mut tile = load::<R>(factors.fresh, sums);
    for word in 0..factors.words {
        // SAFETY: promised by the caller; a prefetch reads nothing.
        unsafe {
            let b = factors.panel.add(word * PANEL);
            let (b0, b1) = (pairs(_mm512_loadu_ps(b)), pairs(_mm512_loadu_ps(b.add(16))));
            _mm_prefetch::<_MM_HINT_T1>(factors.ahead.wrapping_add(word * 8).cast());
            for (row, sums) in tile.iter_mut().enumerate() {
                let x = pairs(_mm512_set1_ps(*factors.left.add(word * R + row)));
                sums[0] = _mm512_dpbf16_ps(sums[0], x, b0);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, b1);
            }
        }
    }
    store(&tile, sums);
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn widened_rows<const R: usize>(factors: Factors, sums: &mut Sums) {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut tile = load::<R>(factors.fresh, sums);
    for word in 0..factors.words {
        // SAFETY: promised by the caller; a prefetch reads nothing.
        unsafe {
            let b = factors.panel.add(word / 2 * PANEL);
            let b = [b, b.add(16)].map(|b| {
                let b = _mm512_loadu_si512(b.cast());
                // The first of two stands in the lower half.
                _mm512_castsi512_ps(if word % 2 == 0 {
                    _mm512_slli_epi32::<16>(b)
                } else {
                    _mm512_and_si512(b, upper)
                })
            });
            _mm_prefetch::<_MM_HINT_T1>(factors.ahead.wrapping_add(word * 4).cast());
            if !factors.widened.is_null() {
                _mm512_storeu_ps(factors.widened.add(word * PANEL), b[0]);
                _mm512_storeu_ps(factors.widened.add(word * PANEL + 16), b[1]);
            }
            for (row, sums) in tile.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*factors.left.add(word * R + row));
                sums[0] = _mm512_fmadd_ps(x, b[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(x, b[1], sums[1]);
            }
        }
    }
    store(&tile, sums);
}

#[target_feature(enable = "avx512f")]
fn load<const R: usize>(fresh: bool, sums: &Sums) -> [[__m512; 2]; R] {
    const { assert!(R <= ROWS) };
    let mut tile = [[_mm512_setzero_ps(); 2]; R];
    if fresh {
        return tile;
    }
    for (tile, row) in tile.iter_mut().zip(sums) {
        // SAFETY: a row has 32 words.
        unsafe { *tile = [_mm512_loadu_ps(row.as_ptr()), _mm512_loadu_ps(row.as_ptr().add(16))] }
    }
    tile
}

#[target_feature(enable = "avx512f")]
fn store<const R: usize>(tile: &[[__m512; 2]; R], sums: &mut Sums) {
    for (tile, row) in tile.iter().zip(sums) {
        // SAFETY: a row has 32 words.
        unsafe {
            _mm512_storeu_ps(row.as_mut_ptr(), tile[0]);
            _mm512_storeu_ps(row.as_mut_ptr().add(16), tile[1]);
        }
    }
}

/// [`super::interleave`] for up to 16 rows, 16 columns at a time.
///
/// # Safety
/// As [`super::interleave`], on a CPU with AVX-512F.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn interleave(rows: usize, cols: usize, from: *const f32, stride: usize, to: *mut f32) {
    let first = |count: usize| 0xffff_u16 >> (16 - count);
    for start in (0..cols).step_by(16) {
        let width = (cols - start).min(16);
        let mut square = [_mm512_setzero_ps(); 16];
        for (row, line) in square.iter_mut().enumerate().take(rows) {
            // SAFETY: promised by the caller; columns that are not there are not read.
            *line = unsafe { _mm512_maskz_loadu_ps(first(width), from.add(row * stride + start)) };
        }
        let square = transposed(square);
        for (col, line) in square.iter().enumerate().take(width) {
            let col = start + col;
            // SAFETY: promised by the caller. What is written behind a column's rows belongs to the next ones, which follow.
            unsafe {
                if (cols - col) * rows >= 16 {
                    _mm512_storeu_ps(to.add(col * rows), *line);
                } else {
                    _mm512_mask_storeu_ps(to.add(col * rows), first(rows), *line);
                }
            }
        }
    }
}

/// Rows as columns: within quarters of a register by pairs and fours, then the quarters.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512; 16]) -> [__m512; 16] {
    let mut fours = [_mm512_setzero_pd(); 16];
    for group in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|row| rows[4 * group + row]);
        let low = [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)].map(|x| _mm512_castps_pd(x));
        let high = [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)].map(|x| _mm512_castps_pd(x));
        fours[4 * group] = _mm512_unpacklo_pd(low[0], low[1]);
        fours[4 * group + 1] = _mm512_unpackhi_pd(low[0], low[1]);
        fours[4 * group + 2] = _mm512_unpacklo_pd(high[0], high[1]);
        fours[4 * group + 3] = _mm512_unpackhi_pd(high[0], high[1]);
    }
    // Quarter q of `fours[4 * group + j]` has rows 4 group .. 4 group + 3 of column 4 q + j.
    let fours = fours.map(|four| _mm512_castpd_ps(four));
    let mut columns = [_mm512_setzero_ps(); 16];
    for j in 0..4 {
        let even = [0, 8].map(|group| _mm512_shuffle_f32x4::<0x88>(fours[group + j], fours[group + 4 + j]));
        let odd = [0, 8].map(|group| _mm512_shuffle_f32x4::<0xdd>(fours[group + j], fours[group + 4 + j]));
        columns[j] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
        columns[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
        columns[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
        columns[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
    }
    columns
}
