//! The tile on AVX-512: up to 14 rows of 32 columns, every sum in a register. bf16 factors go through
//! `vdpbf16ps` where the CPU has it (two products a lane, denormals taken and given as zero); else panels are widened
//! while the first block of rows is multiplied with them.

use std::arch::x86_64::{
    __m512, __m512bh, _MM_HINT_T1, _mm_prefetch, _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
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
