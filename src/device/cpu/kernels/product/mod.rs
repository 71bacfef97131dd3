//! Products of packed matrices, tile by tile: the inner loop of `linear` (weights) and `attention` (keys and values).
//!
//! The left side is packed in blocks of a few rows ([`PackedRows`]), the right side in panels of 32 columns
//! ([`Panels`]), both in 4-byte words of one f32 or two bf16 along the depth ([`Precision`]). A tile is one block times
//! one panel; its sums stay in registers. `lanes` is the tile for any CPU, `avx2` and `avx512` are those for their
//! instructions. A CPU that has no products of bf16 keeps its rows in f32 and widens panels of bf16 ([`Form::Widened`]).

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
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

    /// Rows of the largest block.
    #[inline(always)]
    pub fn most(self) -> usize {
        self.least + usize::from(self.larger > 0)
    }

    /// Rows in all.
    #[inline(always)]
    pub fn rows(self) -> usize {
        self.count * self.least + self.larger
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

    /// Packs `cols` columns of the rows of `block`, which lie `stride` words apart at `from`, as the words from `word` on.
    ///
    /// # Safety
    /// The block must be alive and these words written by nobody else meanwhile; the rows are readable.
    #[inline(always)]
    pub unsafe fn pack_block<A: Arithmetic>(
        &self,
        block: &Range<usize>,
        word: usize,
        from: *const f32,
        stride: usize,
        cols: usize,
    ) {
        let to = self.at(block, word);
        // SAFETY: promised by the caller.
        unsafe {
            match self.precision {
                Precision::F32 => interleave::<A>(block.len(), cols, from, stride, to),
                Precision::Bf16 => {
                    for row in 0..block.len() {
                        let values = std::slice::from_raw_parts(from.add(row * stride), cols);
                        pack_row(self.precision, values, to.add(row), block.len());
                    }
                }
            }
        }
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
/// The factors must be readable and nobody may write them meanwhile; `rows` is at most [`Arithmetic::ROWS`], and `sums` has
/// as many; the form is one that the CPU has; `widened` is null or has room for the panel, which nobody else uses.
#[inline(always)]
pub(crate) unsafe fn multiply<A: Arithmetic>(factors: Factors, sums: &mut Sums) {
    // SAFETY: promised by the caller.
    unsafe { A::multiply(factors, sums) }
}

/// Writes rows of f32 that lie `stride` words apart as `[cols][rows]`: a block of packed rows.
///
/// # Safety
/// The rows must be readable, `to` have room that nobody else touches meanwhile; `rows` is at most [`Arithmetic::ROWS`].
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

    /// Leaves whole rows that lie one after another at `from`, `cols` words each: a block of the packed rows, or any.
    ///
    /// # Safety
    /// As [`Self::store_row`] for every row; the rows are readable.
    #[inline(always)]
    pub unsafe fn store_block<A: Arithmetic>(&self, block: &Range<usize>, from: *const f32, cols: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            if let Some(to) = self.rows {
                for (index, row) in block.clone().enumerate() {
                    let values = std::slice::from_raw_parts(from.add(index * cols), cols);
                    to.row_mut(row).copy_from_slice(values);
                }
            }
            if let Some(to) = self.packed {
                to.pack_block::<A>(block, 0, from, cols, cols);
            }
        }
    }

    /// Leaves a tile's rows, `block` of the result and no others, in its columns from `col` on (a multiple of 32).
    ///
    /// # Safety
    /// The block's columns must be alive and touched by nobody else meanwhile; the block is one of the packed rows'.
    #[inline(always)]
    pub unsafe fn store<A: Arithmetic>(&self, tile: &Sums, block: &Range<usize>, col: usize) {
        if let Some(to) = self.rows {
            for (sums, row) in tile.iter().zip(block.clone()) {
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
            // Rounded in a loop of its own, which the compiler can vectorise.
            let mut rounded = [[0.0; PANEL]; MOST_ROWS];
            let words = match to.precision {
                Precision::F32 => tile.as_ptr(),
                Precision::Bf16 => {
                    for (words, sums) in rounded.iter_mut().zip(tile) {
                        for (word, two) in words.iter_mut().zip(sums.as_chunks::<2>().0) {
                            *word = pair(two[0], two[1]);
                        }
                    }
                    rounded.as_ptr()
                }
            };
            // SAFETY: promised by the caller; the words lie within the block.
            unsafe { interleave::<A>(block.len(), count, words.cast(), PANEL, start) }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
