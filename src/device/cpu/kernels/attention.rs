//! Scaled dot-product attention with grouped key/value heads, as [`crate::graph::Attention`] defines it.
//!
//! Keys and values come packed (`heads`). Every task takes one head and a few blocks of queries: the queries are rotated,
//! scaled and packed; their scores, a softmax over them, and the weighted values stay in the task's scratch, so that no
//! more than a few rows of scores per thread are ever in memory.

use super::heads::PackedHeads;
use super::math::exp;
use super::product::{
    Destination, Factors, Form, MOST_ROWS, PANEL, PackedRows, Panels, Precision, RowBlocks, Tile, multiply,
};
use super::rotary::rotate;
use super::{Arithmetic, Isa, Kernel, LANES, share};
use crate::device::cpu::memory::Matrix;
use crate::graph::Attention;

/// Blocks of queries of a task at most: so often is a panel of keys or values used while it is in the nearest cache.
const TASK_BLOCKS: usize = 4;
/// Tasks per thread that there are at least, so that all threads end together.
const TASKS_PER_THREAD: usize = 4;

/// Keys and values that queries see.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub keys: PackedHeads,
    pub values: PackedHeads,
    /// I32 `[length]`: 0 where a key is seen by no query.
    pub mask: Option<Matrix>,
}

impl Segment {
    fn length(&self) -> usize {
        self.keys.shape.length
    }

    /// Words of a row of scores, whole panels.
    fn score_words(&self) -> usize {
        self.length().next_multiple_of(PANEL)
    }

    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn mask<'a>(&self) -> Option<&'a [i32]> {
        // SAFETY: masks are among the kernel's buffers.
        self.mask.map(|mask| unsafe { mask.integers() })
    }

    /// Keys up to the last one that some query sees: padding at the end is skipped.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn used(&self) -> usize {
        // SAFETY: promised by the caller.
        match unsafe { self.mask() } {
            None => self.length(),
            Some(mask) => mask.iter().rposition(|&seen| seen != 0).map_or(0, |last| last + 1),
        }
    }
}

pub(crate) struct Attend {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    precision: Precision,
    /// Whether tiles take rows whole.
    whole: bool,
    query: Matrix,
    /// Turns the queries on their way, `[queries, head_dim]`.
    rotary: Option<Matrix>,
    past: Option<Segment>,
    own: Segment,
    to: Destination,
    /// Queries of one sequence, dealt into tasks.
    queries: usize,
    groups: usize,
    tile_rows: usize,
    sequences: usize,
    /// How many of its sequence's own keys each query sees, `[queries]`; empty: all of them.
    visible: Vec<usize>,
}

/// Where a task keeps what it works on, in words from the start of its scratch.
struct Places {
    queries: usize,
    scores: usize,
    weights: usize,
    row: usize,
    words: usize,
}

impl Attend {
    pub fn new(
        attention: &Attention,
        (isa, threads): (Isa, usize),
        (query, rotary): (Matrix, Option<Matrix>),
        past: Option<Segment>,
        own: Segment,
        to: Destination,
    ) -> Self {
        let Attention { heads, kv_heads, head_dim, scale, sequences, .. } = *attention;
        let precision = own.keys.shape.precision;
        let (tile_rows, whole) = (isa.tile_rows(precision), isa.whole_rows(precision));
        let queries = query.rows / sequences;
        // The queries are the last of the own keys.
        let blocks = &attention.blocks;
        let first = own.length() - queries;
        let visible: Vec<usize> =
            blocks.iter().skip(first).map(|block| blocks.partition_point(|other| other <= block)).collect();
        let even = (TASKS_PER_THREAD * threads).div_ceil(sequences * heads);
        let groups = queries.div_ceil(TASK_BLOCKS * tile_rows).max(even.min(queries.div_ceil(tile_rows)));
        Self {
            heads,
            kv_heads,
            head_dim,
            scale,
            precision,
            whole,
            query,
            rotary,
            past,
            own,
            to,
            queries,
            groups,
            tile_rows,
            sequences,
            visible,
        }
    }

    fn segments(&self) -> impl Iterator<Item = Segment> {
        self.past.into_iter().chain([self.own])
    }

    fn places(&self) -> Places {
        let rows = self.queries.div_ceil(self.groups);
        let room = |words| PackedRows::room(rows, words, self.whole).next_multiple_of(LANES);
        let scores = room(self.precision.words(self.head_dim));
        let weights = scores + rows * self.segments().map(|segment| segment.score_words()).sum::<usize>();
        let weight_words =
            self.segments().map(|segment| self.precision.words(segment.length())).sum::<usize>();
        let row = weights + room(weight_words);
        Places { queries: 0, scores, weights, row, words: row + self.head_dim }
    }

    /// Softmax of one query's scores in place, without the division by their sum, which is returned. `used` are the keys
    /// of the past and the own keys that have a score.
    ///
    /// # Safety
    /// As [`Kernel::run`]; `scores` is a row of scores for the query at `index` of its sequence.
    #[inline(always)]
    unsafe fn softmax<A: Arithmetic>(&self, index: usize, scores: &mut [f32], used: [usize; 2]) -> f32 {
        let (past, own) = scores.split_at_mut(self.past.map_or(0, |past| past.score_words()));
        // SAFETY: promised by the caller.
        let (past_mask, own_mask) = unsafe { (self.past.and_then(|past| past.mask()), self.own.mask()) };
        let visible = self.visible.get(index).copied().unwrap_or(used[1]).min(used[1]);
        let past = &mut past[..used[0]];
        let (own, unseen) = own[..used[1]].split_at_mut(visible);
        unseen.fill(0.0);

        let largest = mask_scores(past, past_mask).max(mask_scores(own, own_mask));
        if largest == f32::NEG_INFINITY {
            past.fill(0.0);
            own.fill(0.0);
            return 0.0;
        }
        exp_all::<A>(past, largest) + exp_all::<A>(own, largest)
    }
}

/// Gives masked scores -infinity; returns the largest.
#[inline(always)]
fn mask_scores(scores: &mut [f32], mask: Option<&[i32]>) -> f32 {
    if let Some(mask) = mask {
        // Without chunks: a loop of unknown length is vectorised, one that is unrolled first is not.
        for (score, &mask) in scores.iter_mut().zip(mask) {
            *score = if mask == 0 { f32::NEG_INFINITY } else { *score };
        }
    }
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (largest, &score) in largest.iter_mut().zip(chunk) {
            *largest = if score > *largest { score } else { *largest };
        }
    }
    largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `e^(score - largest)` of every score, in place; returns the sum.
#[inline(always)]
fn exp_all<A: Arithmetic>(scores: &mut [f32], largest: f32) -> f32 {
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp::<A>(*score - largest);
            *sum += *score;
        }
    }
    let mut sum = sums.iter().sum();
    for score in rest {
        *score = exp::<A>(*score - largest);
        sum += *score;
    }
    sum
}

impl Kernel for Attend {
    fn tasks(&self) -> usize {
        self.sequences * self.heads * self.groups
    }

    fn scratch(&self) -> usize {
        self.places().words
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, scratch: *mut f32) {
        let (sequence, rest) = (task / (self.heads * self.groups), task % (self.heads * self.groups));
        let (head, group) = (rest / self.groups, share(self.queries, self.groups, rest % self.groups));
        let kv_head = head * self.kv_heads / self.heads;
        let first_row = sequence * self.queries + group.start;
        let blocks = RowBlocks::new(group.len(), self.tile_rows);
        let places = self.places();
        let stride: usize = self.segments().map(|segment| segment.score_words()).sum();
        let packed = |place: usize, words: usize| PackedRows {
            data: scratch.wrapping_add(place),
            blocks,
            words,
            precision: self.precision,
            whole: self.whole,
        };
        let product =
            |left: *const f32, row_step: usize, rows: usize, panels: Panels, panel: usize| Factors {
                form: Form::of(self.precision, self.precision),
                rows,
                left,
                row_step,
                panel: panels.at(panel, 0),
                words: panels.words,
                fresh: true,
                widened: std::ptr::null_mut(),
                ahead: left,
            };
        let mut tile = Tile::zero();

        // SAFETY: rows, panels and scratch are within their buffers; tasks write disjoint parts of the result.
        unsafe {
            let used = [self.past.map_or(0, |past| past.used()), self.own.used()];
            let used_of = |index: usize| used[index + usize::from(self.past.is_none())];

            let queries = packed(places.queries, self.precision.words(self.head_dim));
            let row_scratch = std::slice::from_raw_parts_mut(scratch.add(places.row), self.head_dim);
            for row in 0..group.len() {
                let query = &self.query.row(first_row + row)[head * self.head_dim..][..self.head_dim];
                match self.rotary {
                    Some(table) => rotate(query, table.row(first_row + row), row_scratch),
                    None => row_scratch.copy_from_slice(query),
                }
                for x in row_scratch.iter_mut() {
                    *x *= self.scale;
                }
                queries.pack(row, 0, row_scratch);
            }

            let scores = scratch.add(places.scores);
            let mut start = 0;
            for (index, segment) in self.segments().enumerate() {
                let panels = segment.keys.panels(sequence, kv_head);
                for panel in 0..used_of(index).div_ceil(PANEL) {
                    for block in 0..blocks.count() {
                        let rows = blocks.range(block);
                        let factors =
                            product(queries.at(&rows, 0), queries.row_step(), rows.len(), panels, panel);
                        multiply::<A>(factors, &mut tile.0);
                        for (sums, row) in tile.0.iter().zip(rows) {
                            *scores.add(row * stride + start + panel * PANEL).cast() = *sums;
                        }
                    }
                }
                start += segment.score_words();
            }

            let words = self.segments().map(|segment| self.precision.words(segment.length())).sum();
            let weights = packed(places.weights, words);
            let mut inverse_sums = [0.0; TASK_BLOCKS * MOST_ROWS];
            for (row, inverse) in inverse_sums[..group.len()].iter_mut().enumerate() {
                let scores = std::slice::from_raw_parts_mut(scores.add(row * stride), stride);
                let sum = self.softmax::<A>(group.start + row, scores, used);
                *inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            }
            for block in (0..blocks.count()).map(|block| blocks.range(block)) {
                let (mut start, mut word) = (0, 0);
                for (index, segment) in self.segments().enumerate() {
                    let from = scores.add(block.start * stride + start);
                    weights.pack_block::<A>(&block, word, from, stride, used_of(index));
                    word += self.precision.words(segment.length());
                    start += segment.score_words();
                }
            }

            for panel in 0..self.own.values.panels(0, 0).count() {
                let (col, cols) = (head * self.head_dim + panel * PANEL, self.head_dim - panel * PANEL);
                for block in 0..blocks.count() {
                    let rows = blocks.range(block);
                    let mut word = 0;
                    for (index, segment) in self.segments().enumerate() {
                        let panels = segment.values.panels(sequence, kv_head);
                        let factors =
                            product(weights.at(&rows, word), weights.row_step(), rows.len(), panels, panel);
                        let words = self.precision.words(used_of(index));
                        multiply::<A>(Factors { words, fresh: index == 0, ..factors }, &mut tile.0);
                        word += panels.words;
                    }
                    for (sums, row) in tile.0.iter_mut().zip(rows) {
                        for sum in sums.iter_mut() {
                            *sum *= inverse_sums[row];
                        }
                        self.to.store_row(first_row + row, col, &sums[..PANEL.min(cols)]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
