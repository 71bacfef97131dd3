//! Products of packed rows with packed weights, dealt into tasks and gone through tile by tile. `linear` says what becomes of
//! a tile.
//!
//! A task takes a few panels of the weights and all blocks of rows, or a part of the blocks where there are too few panels.
//! Where the depth is divided, it goes through one piece of the depth after another, and in each through its panels: a panel's
//! piece stays in the second-level cache while all rows are multiplied with it, and the rows' pieces in the third. Sums that
//! are not complete wait in the task's scratch.

use std::ops::Range;
use std::sync::Arc;

use super::product::{Factors, Form, MOST_ROWS, PANEL, PackedRows, Sums, multiply};
use super::{Arithmetic, Isa, share};
use crate::device::cpu::weight::PackedWeight;

/// Words of depth times tiles below which another task costs more than it saves: two microseconds.
const TASK_WORDS: usize = 256;
/// Most blocks of rows whose products are so short that what comes next has to be fetched ahead.
const FETCHING_BLOCKS: usize = 16;
/// Panels that a task goes through for each piece of the rows, where the depth is divided: so seldom are the rows read from
/// behind the third-level cache.
const TASK_PANELS: usize = 8;
/// Tasks per thread that there are at least in that case, so that all threads end together.
const TASKS_PER_THREAD: usize = 4;

/// `x` times each of `W` weights of one size.
pub(super) struct Blocked<const W: usize> {
    x: PackedRows,
    weights: [Arc<PackedWeight>; W],
    form: Form,
    threads: usize,
    panels: usize,
    block_groups: usize,
    panel_groups: usize,
    /// Into how many pieces the depth is divided.
    pieces: usize,
}

/// What becomes of the tiles of a product.
pub(super) trait Finish<const W: usize> {
    /// Says that a tile will be complete soon.
    fn fetch(&self, block: &Range<usize>, col: usize);

    /// Takes the sums of rows `block` and 32 columns from `col` on, for each weight.
    ///
    /// # Safety
    /// What this reads and writes must be alive, and nobody else may touch this tile of it meanwhile.
    unsafe fn finish<A: Arithmetic>(&self, tiles: [&mut Sums; W], block: &Range<usize>, col: usize);
}

impl<const W: usize> Blocked<W> {
    pub fn new(x: PackedRows, weights: [Arc<PackedWeight>; W], isa: Isa, threads: usize) -> Self {
        let (blocks, panels) = (x.blocks.count(), weights[0].panels().count());
        let form = Form::of(x.precision, weights[0].precision());
        let pieces = x.words.div_ceil(isa.depth(form)).max(1);
        let most = (blocks * panels * x.words / TASK_WORDS).max(1);
        let panel_groups = if pieces > 1 {
            let panels_each = (panels / (TASKS_PER_THREAD * threads)).clamp(1, TASK_PANELS);
            panels.div_ceil(panels_each)
        } else if most < panels {
            // As many for each thread: then all threads end together.
            (most / threads * threads).max(1)
        } else {
            panels
        };
        let block_groups = if panels < 2 * threads { (most / panels).clamp(1, blocks) } else { 1 };
        Self { x, weights, form, threads, panels, block_groups, panel_groups, pieces }
    }

    pub fn tasks(&self) -> usize {
        self.block_groups * self.panel_groups
    }

    /// Words that a task needs: a widened panel for each weight, and the sums of its tiles.
    pub fn scratch(&self) -> usize {
        W * (self.widened_words() + self.sum_rows() * PANEL)
    }

    fn widened_words(&self) -> usize {
        if self.form == Form::Widened {
            self.x.words.div_ceil(self.pieces).next_multiple_of(2) * PANEL
        } else {
            0
        }
    }

    /// Rows of sums for each weight: of all tiles of a task where they have to wait, else of one.
    fn sum_rows(&self) -> usize {
        match self.pieces {
            1 => MOST_ROWS,
            _ => self.panels.div_ceil(self.panel_groups) * self.x.blocks.rows(),
        }
    }

    /// Blocks and panels of a task. Neighbouring tasks share their panels, so that threads read them from a shared cache.
    #[inline(always)]
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        (
            share(self.x.blocks.count(), self.block_groups, task % self.block_groups),
            share(self.panels, self.panel_groups, task / self.block_groups),
        )
    }

    /// A piece of the depth, in words of the rows; pieces of a panel of bf16 start at whole words of it.
    #[inline(always)]
    fn piece(&self, piece: usize) -> Range<usize> {
        let words = self.x.words;
        if self.form == Form::Widened {
            let pairs = share(words.div_ceil(2), self.pieces, piece);
            2 * pairs.start..(2 * pairs.end).min(words)
        } else {
            share(words, self.pieces, piece)
        }
    }

    /// # Safety
    /// As [`super::Kernel::run`]; and as [`Finish::finish`] for the task's tiles.
    #[inline(always)]
    pub unsafe fn run<A: Arithmetic>(&self, finish: &impl Finish<W>, task: usize, scratch: *mut f32) {
        let (blocks, panels) = self.task(task);
        let (widened_words, sum_rows) = (self.widened_words(), self.sum_rows());
        let sums = scratch.wrapping_add(W * widened_words);
        let rows = self.x.blocks.range(blocks.start).start..self.x.blocks.range(blocks.end - 1).end;
        // Panels that are not widened may as well all wait in the second-level cache for each block of rows.
        let (outer, inner) = match self.pieces > 1 && self.form == Form::Bf16 {
            true => (blocks.clone(), panels.clone()),
            false => (panels.clone(), blocks.clone()),
        };
        for piece in 0..self.pieces {
            let last = piece + 1 == self.pieces;
            for outer in outer.clone() {
                for inner in inner.clone() {
                    let (panel, block) = match self.pieces > 1 && self.form == Form::Bf16 {
                        true => (inner, outer),
                        false => (outer, inner),
                    };
                    let of_block = self.x.blocks.range(block);
                    if last {
                        finish.fetch(&of_block, panel * PANEL);
                    }
                    let row = match self.pieces {
                        1 => 0,
                        _ => (panel - panels.start) * rows.len() + of_block.start - rows.start,
                    };
                    let tile = |weight: usize| {
                        let first = sums.wrapping_add((weight * sum_rows + row) * PANEL);
                        // SAFETY: the rows lie within the scratch, and each weight has its own.
                        unsafe {
                            std::slice::from_raw_parts_mut(first.cast::<[f32; PANEL]>(), of_block.len())
                        }
                    };
                    for weight in 0..W {
                        let widened = scratch.wrapping_add(weight * widened_words);
                        let factors =
                            self.factors(weight, &of_block, piece, panel, &panels, block - blocks.start);
                        // SAFETY: blocks and panels are within x and the weights; the widened panel was left by the
                        // first block of the task, if this is not it.
                        unsafe {
                            multiply::<A>(self.widening(factors, widened, &blocks, block), tile(weight))
                        }
                    }
                    if last {
                        // SAFETY: promised by the caller; tasks have different tiles.
                        unsafe { finish.finish::<A>(std::array::from_fn(tile), &of_block, panel * PANEL) }
                    }
                }
            }
        }
    }

    /// The first block of a task leaves a panel of bf16 in f32 for the others.
    #[inline(always)]
    fn widening(&self, factors: Factors, widened: *mut f32, blocks: &Range<usize>, block: usize) -> Factors {
        if self.form != Form::Widened || blocks.len() == 1 {
            factors
        } else if block == blocks.start {
            Factors { widened, ..factors }
        } else {
            Factors { form: Form::F32, panel: widened, ..factors }
        }
    }

    /// The factors of one tile. The first blocks also fetch, a part each, what their thread will probably multiply with next:
    /// the next panel, or the next piece of the first.
    #[inline(always)]
    fn factors(
        &self,
        weight: usize,
        rows: &Range<usize>,
        piece: usize,
        panel: usize,
        panels: &Range<usize>,
        block: usize,
    ) -> Factors {
        let depth = self.piece(piece);
        let left = self.x.at(rows, depth.start).cast_const();
        let of_weight = self.weights[weight].panels();
        let word = |piece: usize| self.form.panel_words(self.piece(piece).start);
        // Words of the panel that the blocks before this one fetch: 8 for each word of the panel that they read.
        let panel_words = self.form.panel_words(depth.len());
        let before = match (block, self.form) {
            (0, _) => 0,
            (_, Form::Widened) => 8 * (panel_words + (block - 1) * depth.len()),
            _ => 8 * block * panel_words,
        };
        let ahead = if self.x.blocks.count() > FETCHING_BLOCKS || before >= panel_words * PANEL {
            left
        } else {
            let next = if panel + 1 < panels.end {
                of_weight.at(panel + 1, word(piece))
            } else if piece + 1 < self.pieces {
                of_weight.at(panels.start, word(piece + 1))
            } else {
                of_weight.at(panel + 1 + (self.threads - 1) * panels.len(), 0)
            };
            next.wrapping_add(before)
        };
        Factors {
            form: self.form,
            rows: rows.len(),
            left,
            row_step: self.x.row_step(),
            panel: of_weight.at(panel, word(piece)),
            words: depth.len(),
            fresh: piece == 0,
            widened: std::ptr::null_mut(),
            ahead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::product::Precision;
    use super::super::product::tests::pack_weight;
    use super::super::testing::{Owned, OwnedPacked, PRECISIONS};
    use super::*;

    #[test]
    fn tasks_cover_every_tile_once() {
        for (rows, depth, cols, threads) in
            [(816, 64, 16384, 2), (50, 64, 1024, 2), (50, 2000, 32, 2), (1, 64, 2560, 8), (304, 1500, 256, 3)]
        {
            for precision in PRECISIONS {
                let x = OwnedPacked::empty(rows, depth, Precision::F32, Isa::Portable);
                let weight = Arc::new(pack_weight(&Owned::zeros(cols, depth), precision));
                let product = Blocked::new(x.rows, [weight], Isa::Portable, threads);
                let (blocks, panels) = (x.rows.blocks.count(), product.panels);
                let mut covered = vec![0; blocks * panels];
                for task in 0..product.tasks() {
                    let (of_blocks, of_panels) = product.task(task);
                    for block in of_blocks {
                        of_panels.clone().for_each(|panel| covered[block * panels + panel] += 1);
                    }
                }
                assert!(covered.iter().all(|&times| times == 1), "{rows} rows, {panels} panels");
                let mut end = 0;
                for piece in (0..product.pieces).map(|piece| product.piece(piece)) {
                    assert!(piece.start == end && !piece.is_empty());
                    end = piece.end;
                }
                assert_eq!(end, depth);
            }
        }
    }
}
