//! Products of packed matrices, tile by tile: the inner loop of `linear` (weights) and `attention` (keys and values).
//!
//! The left side is packed in blocks of a few rows ([`PackedRows`]), the right side in panels of 32 columns
//! ([`Panels`]), both in 4-byte words of one f32 or two bf16 along the depth ([`Precision`]). A tile is one block times
//! one panel; its sums stay in registers. `lanes` is the tile for any CPU, `avx512` that for its instructions.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod lanes;

use std::fmt;
use std::ops::Range;

use super::Arithmetic;
use crate::device::cpu::memory::Matrix;

/// Columns of a panel: two AVX-512 registers.
pub(crate) const PANEL: usize = 32;
/// Rows of the largest tile: 14 x 32 sums fill 28 of AVX-512's 32 registers, the rest hold operands.
pub(crate) const MOST_ROWS: usize = 14;

/// How the factors of products are stored. Sums are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// The reference.
    F32,
    /// Half the memory, and twice the speed where the CPU multiplies bf16.
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

/// How rows are dealt into blocks: as few as possible of at most as many rows as a tile has, differing by at most one,
/// the larger ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowBlocks {
    /// Rows of the smaller blocks.
    least: usize,
    /// How many blocks have one row more.
    larger: usize,
    count: usize,
}

impl RowBlocks {
    pub fn new(rows: usize, most: usize) -> Self {
        let count = rows.div_ceil(most);
        Self { least: rows / count.max(1), larger: rows % count.max(1), count }
    }

    #[inline(always)]
    pub fn count(self) -> usize {
        self.count
    }

    #[inline(always)]
    pub fn range(self, block: usize) -> Range<usize> {
        let start = block * self.least + block.min(self.larger);
        start..start + self.least + usize::from(block < self.larger)
    }

    /// The block that a row is in.
    #[inline(always)]
    pub fn around(self, row: usize) -> Range<usize> {
        let in_larger = self.larger * (self.least + 1);
        self.range(match row.checked_sub(in_larger) {
            None => row / (self.least + 1),
            Some(row) => self.larger + row / self.least,
        })
    }
}

/// A matrix `[rows, depth]` packed in blocks of rows, each `[words of depth][rows of the block]`.
#[derive(Clone, Copy)]
pub(crate) struct PackedRows {
    pub data: *mut f32,
    pub blocks: RowBlocks,
    /// Words of depth.
    pub words: usize,
    pub precision: Precision,
}

// SAFETY: an address; what is done with it is each kernel's responsibility.
unsafe impl Send for PackedRows {}
// SAFETY: as above.
unsafe impl Sync for PackedRows {}

impl PackedRows {
    /// Where word `word` of a block's depth starts.
    #[inline(always)]
    pub fn at(&self, block: &Range<usize>, word: usize) -> *mut f32 {
        self.data.wrapping_add(block.start * self.words + word * block.len())
    }

    /// Packs `values` as the columns of row `row` from `col` on, which starts a word.
    ///
    /// # Safety
    /// The row's block must be alive and these columns written by nobody else meanwhile.
    #[inline(always)]
    pub unsafe fn pack(&self, row: usize, col: usize, values: &[f32]) {
        let block = self.blocks.around(row);
        let to = self.at(&block, self.precision.words(col)).wrapping_add(row - block.start);
        // SAFETY: promised by the caller.
        unsafe { pack_row(self.precision, values, to, block.len()) }
    }
}

/// Writes the words of a row `stride` words apart, the last one filled up with zero.
///
/// # Safety
/// Nobody else may touch these words meanwhile.
#[inline(always)]
pub(crate) unsafe fn pack_row(precision: Precision, values: &[f32], to: *mut f32, stride: usize) {
    match precision {
        Precision::F32 => {
            for (word, &value) in values.iter().enumerate() {
                // SAFETY: promised by the caller.
                unsafe { *to.add(word * stride) = value }
            }
        }
        Precision::Bf16 => {
            const PAIRS: usize = 32;
            let (chunks, rest) = values.as_chunks::<{ 2 * PAIRS }>();
            for (index, chunk) in chunks.iter().enumerate() {
                // Rounded in a loop of its own, which the compiler can vectorise.
                let mut words = [0.0; PAIRS];
                for (word, two) in words.iter_mut().zip(chunk.as_chunks::<2>().0) {
                    *word = pair(two[0], two[1]);
                }
                for (word, &value) in words.iter().enumerate() {
                    // SAFETY: promised by the caller.
                    unsafe { *to.add((index * PAIRS + word) * stride) = value }
                }
            }
            for (word, two) in rest.chunks(2).enumerate() {
                let second = two.get(1).copied().unwrap_or(0.0);
                // SAFETY: promised by the caller.
                unsafe { *to.add((chunks.len() * PAIRS + word) * stride) = pair(two[0], second) }
            }
        }
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

/// The sums of one tile.
#[repr(align(64))]
pub(crate) struct Tile(pub [[f32; PANEL]; MOST_ROWS]);

impl Tile {
    pub fn zero() -> Self {
        Self([[0.0; PANEL]; MOST_ROWS])
    }
}

/// The factors of one tile: `rows` packed rows, a panel, and how many words of depth both have.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    pub precision: Precision,
    pub rows: usize,
    pub left: *const f32,
    pub panel: *const f32,
    pub words: usize,
    /// The tile's sums start from zero, and not from what it holds.
    pub fresh: bool,
    /// What this thread will probably multiply with next, to be brought near meanwhile: as many half words of depth as
    /// this product has. Any address will do; that of `left` fetches nothing new.
    pub ahead: *const f32,
}

/// Gives the tile's first rows `left x panel`, added to what they hold unless `fresh`.
///
/// # Safety
/// The factors must be readable and nobody may write them meanwhile; `rows` is at most [`Arithmetic::ROWS`].
#[inline(always)]
pub(crate) unsafe fn multiply<A: Arithmetic>(factors: Factors, tile: &mut Tile) {
    // SAFETY: promised by the caller.
    unsafe { A::multiply(factors, tile) }
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

/// Where a kernel leaves its result: as rows for whoever reads values, packed for the product that reads it next, or
/// both.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    pub rows: Option<Matrix>,
    pub packed: Option<PackedRows>,
}

impl Destination {
    /// Says that a tile will be stored soon, with [`Self::store`].
    #[inline(always)]
    pub fn fetch(&self, block: &Range<usize>, col: usize) {
        if let Some(to) = self.rows {
            for row in block.clone() {
                fetch(to.data.wrapping_add(row * to.stride + col));
            }
        }
    }

    /// Leaves columns of row `row` from `col` on, which starts a word.
    ///
    /// # Safety
    /// The columns must be alive and touched by nobody else meanwhile.
    #[inline(always)]
    pub unsafe fn store_row(&self, row: usize, col: usize, values: &[f32]) {
        // SAFETY: promised by the caller.
        unsafe {
            if let Some(to) = self.rows {
                to.row_mut(row)[col..col + values.len()].copy_from_slice(values);
            }
            if let Some(to) = self.packed {
                to.pack(row, col, values);
            }
        }
    }

    /// Leaves a tile's rows, `block` of the result, in its columns from `col` on (a multiple of 32).
    ///
    /// # Safety
    /// The block's columns must be alive and touched by nobody else meanwhile; the block is one of the packed rows'.
    #[inline(always)]
    pub unsafe fn store(&self, tile: &Tile, block: &Range<usize>, col: usize) {
        if let Some(to) = self.rows {
            for (sums, row) in tile.0.iter().zip(block.clone()) {
                // SAFETY: promised by the caller.
                let out = unsafe { &mut to.row_mut(row)[col..] };
                match out.first_chunk_mut::<PANEL>() {
                    Some(out) => *out = *sums,
                    None => out.copy_from_slice(&sums[..out.len()]),
                }
            }
        }
        if let Some(to) = self.packed {
            let first = to.precision.words(col);
            let count = (to.words - first).min(to.precision.words(PANEL));
            let start = to.at(block, first);
            let mut words = [[0.0; PANEL]; MOST_ROWS];
            match to.precision {
                Precision::F32 => words = tile.0,
                Precision::Bf16 => {
                    // Rounded in a loop of its own, which the compiler can vectorise.
                    for (words, sums) in words.iter_mut().zip(&tile.0[..block.len()]) {
                        for (word, two) in words.iter_mut().zip(sums.as_chunks::<2>().0) {
                            *word = pair(two[0], two[1]);
                        }
                    }
                }
            }
            for word in 0..count {
                for (row, words) in words[..block.len()].iter().enumerate() {
                    // SAFETY: promised by the caller; the word lies within the block.
                    unsafe { *start.add(word * block.len() + row) = words[word] }
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
