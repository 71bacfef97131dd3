//! Products of packed matrices, tile by tile: the inner loop of `linear` (weights) and `attention` (keys and values).
//!
//! The left side is packed in blocks of a few rows ([`PackedRows`]), the right side in panels of 32 columns
//! ([`Panels`]), both in 4-byte words of one f32 or two bf16 along the depth ([`Precision`]). A tile is one block times
//! one panel; its sums stay in registers. `lanes` is the tile for any CPU, `avx2`, `avx512` and `amx` are those for their
//! instructions; AMX takes rows that lie whole one after another. A CPU that has no products of bf16 keeps its rows in f32 and widens panels of bf16 ([`Form::Widened`]).

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
mod destination;
pub(super) mod lanes;
mod packed;

use std::fmt;

pub(crate) use self::destination::Destination;
pub(crate) use self::packed::{PackedRows, RowBlocks, pack_row};
use super::Arithmetic;

/// Columns of a panel: two AVX-512 registers.
pub(crate) const PANEL: usize = 32;
/// Rows of the largest tile of any instruction set: AMX's.
pub(crate) const MOST_ROWS: usize = 32;

/// How the factors of products are stored. Sums are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// The reference.
    F32,
    /// Half the memory; twice the speed where the CPU multiplies bf16, the same speed elsewhere.
    Bf16,
}

impl Precision {
    /// Words that `depth` elements take.
    pub(crate) fn words(self, depth: usize) -> usize {
        match self {
            Precision::F32 => depth,
            Precision::Bf16 => depth.div_ceil(2),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// The bits of `x` rounded to bf16, to nearest, ties to even; a NaN stays one.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// Two elements as bf16 in one word, the first in the lower half.
#[inline(always)]
pub(crate) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(bf16_bits(first) | bf16_bits(second) << 16)
}

/// A matrix `[depth, cols]` as panels of 32 columns, `[cols / 32][words of depth][32]`, the last one padded with zeros.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    pub data: *const f32,
    /// Words of depth.
    pub words: usize,
    pub cols: usize,
}

// SAFETY: an address; what is done with it is each kernel's responsibility.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl Panels {
    /// Words that `[depth, cols]` takes as panels.
    pub fn words(precision: Precision, depth: usize, cols: usize) -> usize {
        cols.div_ceil(PANEL) * precision.words(depth) * PANEL
    }

    /// Number of panels.
    pub fn count(&self) -> usize {
        self.cols.div_ceil(PANEL)
    }

    /// Where word `word` of a panel's depth starts.
    #[inline(always)]
    pub fn at(&self, panel: usize, word: usize) -> *const f32 {
        // `wrapping_add` only because it needs no promise: it is dereferenced within the panels alone.
        self.data.wrapping_add((panel * self.words + word) * PANEL)
    }
}

/// Brings `[first, first + 32)` of a row near, for a tile that is about to be added to it or stored there.
#[inline(always)]
pub(crate) fn fetch(row: *const f32) {
    #[cfg(target_arch = "x86_64")]
    for line in [0, 16] {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(line).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// Sums of a tile, row by row.
pub(crate) type Sums = [[f32; PANEL]];

/// The sums of one tile.
#[repr(align(64))]
pub(crate) struct Tile(pub [[f32; PANEL]; MOST_ROWS]);

impl Tile {
    pub fn zero() -> Self {
        Self([[0.0; PANEL]; MOST_ROWS])
    }
}

/// How the factors of a product are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Both f32.
    F32,
    /// Both bf16, for CPUs that multiply it.
    Bf16,
    /// Rows of f32 and panels of bf16.
    Widened,
}

impl Form {
    /// Rows are bf16 only beside panels of bf16.
    pub fn of(rows: Precision, panels: Precision) -> Self {
        match (rows, panels) {
            (Precision::Bf16, _) => Form::Bf16,
            (Precision::F32, Precision::Bf16) => Form::Widened,
            (Precision::F32, Precision::F32) => Form::F32,
        }
    }

    /// Words of a panel that stand beside `words` words of the rows.
    pub fn panel_words(self, words: usize) -> usize {
        if self == Form::Widened { words.div_ceil(2) } else { words }
    }
}

/// The factors of one tile: `rows` packed rows, a panel, and how deep both are.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    pub form: Form,
    pub rows: usize,
    pub left: *const f32,
    /// Words from one row to the next, where rows lie whole ([`PackedRows::whole`]).
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no tile takes such rows"))]
    pub row_step: usize,
    pub panel: *const f32,
    /// Words of depth that the rows have; see [`Form::panel_words`].
    pub words: usize,
    /// The tile's sums start from zero, and not from what they are.
    pub fresh: bool,
    /// Where a panel that is widened is left as well, `[words][32]` in f32, so that the next blocks need not widen it again;
    /// null: nowhere.
    pub widened: *mut f32,
    /// What this thread will probably multiply with next, to be brought near meanwhile: 8 words for each word of the panel.
    /// Any address will do; that of `left` fetches nothing new.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "these tiles leave fetching to the CPU")
    )]
    pub ahead: *const f32,
}

/// Gives the first rows of `sums` `left x panel`, added to what they are unless `fresh`.
///
/// # Safety
/// The factors must be readable and nobody may write them meanwhile; `rows` is at most [`super::Isa::tile_rows`], and `sums` has
/// as many; the form is one that the CPU has; `widened` is null or has room for the panel, which nobody else uses.
#[inline(always)]
pub(crate) unsafe fn multiply<A: Arithmetic>(factors: Factors, sums: &mut Sums) {
    // SAFETY: promised by the caller.
    unsafe { A::multiply(factors, sums) }
}

/// Writes rows of f32 that lie `stride` words apart as `[cols][rows]`: a block of packed rows.
///
/// # Safety
/// The rows must be readable, `to` have room that nobody else touches meanwhile; `rows` is at most [`super::Isa::tile_rows`].
#[inline(always)]
pub(crate) unsafe fn interleave<A: Arithmetic>(
    rows: usize,
    cols: usize,
    from: *const f32,
    stride: usize,
    to: *mut f32,
) {
    // SAFETY: promised by the caller.
    unsafe { A::interleave(rows, cols, from, stride, to) }
}

/// Evaluates `$call` with the constant `R` equal to `$value`, which must be among the listed numbers.
macro_rules! with_rows {
    ($value:expr, $call:expr, $($rows:literal)*) => {
        match $value {
            $($rows => {
                const R: usize = $rows;
                $call
            })*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}
use with_rows;

#[cfg(test)]
pub(super) mod tests;
