//! The left side of products: rows dealt into blocks of as many as a tile has, and packed as the tile takes them.

use std::ops::Range;

use super::super::Arithmetic;
use super::{MOST_ROWS, Precision, interleave, pair};

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

/// A matrix `[rows, depth]` packed in blocks of rows, each `[words of depth][rows of the block]`, or as rows that lie whole one
/// after another.
#[derive(Clone, Copy)]
pub(crate) struct PackedRows {
    pub data: *mut f32,
    pub blocks: RowBlocks,
    /// Words of depth.
    pub words: usize,
    pub precision: Precision,
    /// Whether rows lie whole.
    pub whole: bool,
}

// SAFETY: an address; what is done with it is each kernel's responsibility.
unsafe impl Send for PackedRows {}
// SAFETY: as above.
unsafe impl Sync for PackedRows {}

impl PackedRows {
    /// Words that so many rows take. A tile reads rows behind the last, whatever they are, where rows lie whole.
    pub fn room(rows: usize, words: usize, whole: bool) -> usize {
        let behind = if whole { MOST_ROWS / 2 - 1 } else { 0 };
        (rows + behind) * Self::step(words, whole)
    }

    fn step(words: usize, whole: bool) -> usize {
        /// A cache line more than a multiple of them: rows a power of two apart would share a few sets of the cache.
        const LINE: usize = 16;
        if whole { words.next_multiple_of(LINE) + LINE } else { words }
    }

    /// Words from one row to the next, where rows lie whole.
    #[inline(always)]
    pub fn row_step(&self) -> usize {
        Self::step(self.words, self.whole)
    }

    /// Where word `word` of a block's depth starts: its first row's.
    #[inline(always)]
    pub fn at(&self, block: &Range<usize>, word: usize) -> *mut f32 {
        let first = block.start * self.row_step();
        self.data.wrapping_add(first + word * self.word_step(block))
    }

    /// Words from a row's word to its next.
    #[inline(always)]
    pub fn word_step(&self, block: &Range<usize>) -> usize {
        if self.whole { 1 } else { block.len() }
    }

    /// Where word `word` of a row of the block is.
    #[inline(always)]
    pub fn at_row(&self, block: &Range<usize>, row: usize, word: usize) -> *mut f32 {
        let step = if self.whole { self.row_step() } else { 1 };
        self.at(block, word).wrapping_add((row - block.start) * step)
    }

    /// Packs `values` as the columns of row `row` from `col` on, which starts a word.
    ///
    /// # Safety
    /// The row's block must be alive and these columns written by nobody else meanwhile.
    #[inline(always)]
    pub unsafe fn pack(&self, row: usize, col: usize, values: &[f32]) {
        let block = self.blocks.around(row);
        let to = self.at_row(&block, row, self.precision.words(col));
        // SAFETY: promised by the caller.
        unsafe { pack_row(self.precision, values, to, self.word_step(&block)) }
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
        // SAFETY: promised by the caller.
        unsafe {
            match self.precision {
                Precision::F32 => interleave::<A>(block.len(), cols, from, stride, self.at(block, word)),
                Precision::Bf16 if self.whole => {
                    for (index, row) in block.clone().enumerate() {
                        let values = std::slice::from_raw_parts(from.add(index * stride), cols);
                        pack_row(self.precision, values, self.at_row(block, row, word), 1);
                    }
                }
                Precision::Bf16 => {
                    let mut words = [[0.0; PAIRS]; MOST_ROWS];
                    for start in (0..cols).step_by(2 * PAIRS) {
                        let width = (cols - start).min(2 * PAIRS);
                        for (index, words) in words.iter_mut().enumerate().take(block.len()) {
                            let values = from.add(index * stride + start);
                            *words = pairs(std::slice::from_raw_parts(values, width));
                        }
                        let to = self.at(block, word + start / 2);
                        interleave::<A>(block.len(), width.div_ceil(2), words.as_ptr().cast(), PAIRS, to);
                    }
                }
            }
        }
    }
}

/// Words of bf16 that are rounded at once.
const PAIRS: usize = 16;

/// Up to 32 values as words of two, what is missing as zero.
#[inline(always)]
fn pairs(values: &[f32]) -> [f32; PAIRS] {
    let mut padded = [0.0; 2 * PAIRS];
    let values = match values.first_chunk() {
        Some(values) => values,
        None => {
            padded[..values.len()].copy_from_slice(values);
            &padded
        }
    };
    // In a loop of its own, which the compiler can vectorise.
    let mut words = [0.0; PAIRS];
    for (word, two) in words.iter_mut().zip(values.as_chunks::<2>().0) {
        *word = pair(two[0], two[1]);
    }
    words
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
            for (index, values) in values.chunks(2 * PAIRS).enumerate() {
                let words = pairs(values);
                let to = to.wrapping_add(index * PAIRS * stride);
                if stride == 1 && values.len() == 2 * PAIRS {
                    // SAFETY: promised by the caller.
                    unsafe { *to.cast() = words }
                    continue;
                }
                for (word, &value) in words.iter().enumerate().take(values.len().div_ceil(2)) {
                    // SAFETY: promised by the caller.
                    unsafe { *to.add(word * stride) = value }
                }
            }
        }
    }
}
