//! The tile on AVX-512: up to 14 rows of 32 columns, every sum in a register. bf16 factors go through
//! `vdpbf16ps` where the CPU has it (two products a lane, denormals taken and given as zero), else they are widened.

use std::arch::x86_64::{
    __m512, __m512bh, _MM_HINT_T1, _mm_prefetch, _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_load_ps, _mm512_loadu_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_slli_epi32, _mm512_store_ps,
};

use super::{Factors, MOST_ROWS, PANEL, Precision, Tile, with_rows};

/// [`super::multiply`] for up to 14 rows; bf16 is widened to f32.
///
/// # Safety
/// As [`super::multiply`], on a CPU with AVX-512F.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn multiply(factors: Factors, tile: &mut Tile) {
    // SAFETY: promised by the caller.
    unsafe {
        match factors.precision {
            Precision::F32 => {
                with_rows!(factors.rows, f32_rows::<R>(factors, tile), 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
            Precision::Bf16 => {
                with_rows!(factors.rows, widened_rows::<R>(factors, tile), 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
        }
    }
}

/// [`super::multiply`] for up to 14 rows, with the CPU's own products of bf16.
///
/// # Safety
/// As [`super::multiply`], on a CPU with AVX-512F and AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn multiply_bf16(factors: Factors, tile: &mut Tile) {
    // SAFETY: promised by the caller.
    unsafe {
        match factors.precision {
            Precision::F32 => multiply(factors, tile),
            Precision::Bf16 => {
                with_rows!(factors.rows, bf16_rows::<R>(factors, tile), 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
            }
        }
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn f32_rows<const R: usize>(factors: Factors, tile: &mut Tile) {
    let mut sums = load::<R>(factors.fresh, tile);
    for word in 0..factors.words {
        // SAFETY: promised by the caller; a prefetch reads nothing.
        unsafe {
            let b = factors.panel.add(word * PANEL);
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            _mm_prefetch::<_MM_HINT_T1>(factors.ahead.wrapping_add(word * 8).cast());
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*factors.left.add(word * R + row));
                sums[0] = _mm512_fmadd_ps(x, b0, sums[0]);
                sums[1] = _mm512_fmadd_ps(x, b1, sums[1]);
            }
        }
    }
    store(&sums, tile);
}

/// # Safety
/// As [`multiply_bf16`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_rows<const R: usize>(factors: Factors, tile: &mut Tile) {
    // SAFETY: both are 64 bytes of any bits.
    let pairs = |words: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(words) };
    let mut sums = load::<R>(factors.fresh, tile);
    for word in 0..factors.words {
        // SAFETY: promised by the caller; a prefetch reads nothing.
        unsafe {
            let b = factors.panel.add(word * PANEL);
            let (b0, b1) = (pairs(_mm512_loadu_ps(b)), pairs(_mm512_loadu_ps(b.add(16))));
            _mm_prefetch::<_MM_HINT_T1>(factors.ahead.wrapping_add(word * 8).cast());
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = pairs(_mm512_set1_ps(*factors.left.add(word * R + row)));
                sums[0] = _mm512_dpbf16_ps(sums[0], x, b0);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, b1);
            }
        }
    }
    store(&sums, tile);
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn widened_rows<const R: usize>(factors: Factors, tile: &mut Tile) {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut sums = load::<R>(factors.fresh, tile);
    for word in 0..factors.words {
        for (half, column) in [0, 16].into_iter().enumerate() {
            // SAFETY: promised by the caller.
            unsafe {
                let b =
                    std::arch::x86_64::_mm512_loadu_si512(factors.panel.add(word * PANEL + column).cast());
                let first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b));
                let second = _mm512_castsi512_ps(_mm512_and_si512(b, upper));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = (*factors.left.add(word * R + row)).to_bits();
                    let (x0, x1) = (f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000));
                    sums[half] = _mm512_fmadd_ps(_mm512_set1_ps(x0), first, sums[half]);
                    sums[half] = _mm512_fmadd_ps(_mm512_set1_ps(x1), second, sums[half]);
                }
            }
        }
    }
    store(&sums, tile);
}

#[target_feature(enable = "avx512f")]
fn load<const R: usize>(fresh: bool, tile: &Tile) -> [[__m512; 2]; R] {
    const { assert!(R <= MOST_ROWS) };
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    if fresh {
        return sums;
    }
    for (sums, row) in sums.iter_mut().zip(&tile.0) {
        // SAFETY: a tile's rows are aligned and 32 words long.
        unsafe { *sums = [_mm512_load_ps(row.as_ptr()), _mm512_load_ps(row.as_ptr().add(16))] }
    }
    sums
}

#[target_feature(enable = "avx512f")]
fn store<const R: usize>(sums: &[[__m512; 2]; R], tile: &mut Tile) {
    for (sums, row) in sums.iter().zip(&mut tile.0) {
        // SAFETY: a tile's rows are aligned and 32 words long.
        unsafe {
            _mm512_store_ps(row.as_mut_ptr(), sums[0]);
            _mm512_store_ps(row.as_mut_ptr().add(16), sums[1]);
        }
    }
}
