//! Scaled dot-product attention with grouped key/value heads, as [`crate::graph::Attention`] defines it.
//!
//! Keys and values are packed as panels once (those of the past once per run, whatever the number of denoising
//! steps); then every task takes one head and a block of queries: scores, softmax, weighted values.

use std::ops::Range;

use super::math::exp;
use super::tile::{self, Finish, LANES, Panels, Rows};
use super::{Arithmetic, Kernel, share};
use crate::device::cpu::memory::Matrix;
use crate::graph::Attention;

/// Queries that a task takes at most.
const BLOCK_ROWS: usize = 48;

/// Keys or values of one attention as panels, one group of panels per sequence and head.
#[derive(Clone, Copy)]
pub(crate) struct PackedHeads {
    /// A single row of [`Self::words`] words.
    pub packed: Matrix,
    pub side: Side,
    pub sequences: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Keys per sequence.
    pub length: usize,
}

/// Which product the panels are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    /// queries x keys: a panel has 16 keys.
    Keys,
    /// weights x values: a panel has 16 columns of the head.
    Values,
}

impl PackedHeads {
    /// Words that the packed heads take.
    pub fn words(side: Side, sequences: usize, heads: usize, head_dim: usize, length: usize) -> usize {
        sequences * heads * Self::group_words(side, head_dim, length)
    }

    fn group_words(side: Side, head_dim: usize, length: usize) -> usize {
        match side {
            Side::Keys => Panels::words(head_dim, length),
            Side::Values => Panels::words(length, head_dim),
        }
    }

    #[inline(always)]
    fn panels(&self, sequence: usize, head: usize) -> Panels {
        let group = (sequence * self.heads + head) * Self::group_words(self.side, self.head_dim, self.length);
        let (depth, cols) = match self.side {
            Side::Keys => (self.head_dim, self.length),
            Side::Values => (self.length, self.head_dim),
        };
        // `wrapping_add` only because it needs no promise; the group lies within the packed row.
        Panels {
            data: self.packed.data.wrapping_add(group),
            depth,
            cols,
        }
    }
}

/// Packs `x`, `[sequences * length, heads * head_dim]`.
pub(crate) struct PackHeads {
    pub x: Matrix,
    pub to: PackedHeads,
    pub threads: usize,
}

impl PackHeads {
    fn panel_count(&self) -> usize {
        self.to.sequences * self.to.heads * self.to.panels(0, 0).count()
    }
}

impl Kernel for PackHeads {
    fn tasks(&self) -> usize {
        (self.x.rows * self.x.cols / super::TASK_ELEMENTS)
            .clamp(1, (2 * self.threads).min(self.panel_count()))
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        let to = &self.to;
        for index in share(self.panel_count(), self.tasks(), task) {
            let per_group = to.panels(0, 0).count();
            let (group, panel) = (index / per_group, index % per_group);
            let (sequence, head) = (group / to.heads, group % to.heads);
            let panels = to.panels(sequence, head);
            let first = panel * LANES;
            let lanes = LANES.min(panels.cols - first);
            // SAFETY: the panel lies within the packed row and only this task writes it; rows are within x.
            unsafe {
                let start = panels.data.add(panel * panels.depth * LANES).cast_mut();
                let out = std::slice::from_raw_parts_mut(start, panels.depth * LANES)
                    .as_chunks_mut::<LANES>()
                    .0;
                let row_of =
                    |key: usize| &self.x.row(sequence * to.length + key)[head * to.head_dim..][..to.head_dim];
                match to.side {
                    Side::Keys => {
                        for lane in 0..lanes {
                            for (out, &value) in out.iter_mut().zip(row_of(first + lane)) {
                                out[lane] = value;
                            }
                        }
                        // What an earlier use of this memory left behind must not reach the scores as NaN.
                        for out in out.iter_mut() {
                            out[lanes..].fill(0.0);
                        }
                    }
                    Side::Values => {
                        for (key, out) in out.iter_mut().enumerate() {
                            out[..lanes].copy_from_slice(&row_of(key)[first..first + lanes]);
                            out[lanes..].fill(0.0);
                        }
                    }
                }
            }
        }
    }
}

/// Keys and values that queries see.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub keys: PackedHeads,
    pub values: PackedHeads,
    /// I32 `[length]`: 0 where a key is seen by no query.
    pub mask: Option<Matrix>,
}

impl Segment {
    /// Words of a row of scores, whole panels.
    fn score_words(&self) -> usize {
        self.keys.length.next_multiple_of(LANES)
    }
}

pub(crate) struct Attend {
    pub attention: Attention,
    pub query: Matrix,
    pub past: Option<Segment>,
    pub own: Segment,
    pub out: Matrix,
    /// How many of its sequence's own keys each query sees, `[length]`; empty: all of them.
    visible: Vec<usize>,
    blocks: usize,
}

impl Attend {
    pub fn new(
        attention: Attention,
        query: Matrix,
        past: Option<Segment>,
        own: Segment,
        out: Matrix,
        threads: usize,
    ) -> Self {
        let blocks = &attention.blocks;
        let visible = blocks
            .iter()
            .map(|block| blocks.partition_point(|other| other <= block))
            .collect();
        let length = own.keys.length;
        let even = (2 * threads).div_ceil(attention.heads * attention.sequences);
        let blocks = length.div_ceil(BLOCK_ROWS).max(even).min(length.div_ceil(6));
        Self {
            attention,
            query,
            past,
            own,
            out,
            visible,
            blocks,
        }
    }

    fn segments(&self) -> impl Iterator<Item = Segment> {
        self.past.into_iter().chain([self.own])
    }

    /// Softmax of one query's scores in place, without the division by their sum, which is returned.
    ///
    /// # Safety
    /// As [`Kernel::run`]; `scores` is a row of scores for the query at `index` of its sequence.
    #[inline(always)]
    unsafe fn softmax<A: Arithmetic>(&self, index: usize, scores: &mut [f32]) -> f32 {
        let visible = self.visible.get(index).copied().unwrap_or(self.own.keys.length);
        let past_words = self.past.map_or(0, |past| past.score_words());
        let (past, own) = scores.split_at_mut(past_words);
        // SAFETY: masks are among the kernel's buffers.
        let mask_of = |segment: Segment| segment.mask.map(|mask| unsafe { mask.integers() });
        let past = &mut past[..self.past.map_or(0, |past| past.keys.length)];
        let (own, unseen) = own[..self.own.keys.length].split_at_mut(visible);
        unseen.fill(0.0);
        let past_mask = self.past.and_then(mask_of);
        let own_mask = mask_of(self.own).map(|mask| &mask[..visible]);

        let scale = self.attention.scale;
        let largest = scale_and_mask(past, past_mask, scale).max(scale_and_mask(own, own_mask, scale));
        if largest == f32::NEG_INFINITY {
            past.fill(0.0);
            own.fill(0.0);
            return 0.0;
        }
        exp_all::<A>(past, largest) + exp_all::<A>(own, largest)
    }
}

/// Scales scores and gives masked ones -infinity; returns the largest.
#[inline(always)]
fn scale_and_mask(scores: &mut [f32], mask: Option<&[i32]>, scale: f32) -> f32 {
    match mask {
        None => scores.iter_mut().for_each(|score| *score *= scale),
        Some(mask) => {
            for (score, &mask) in scores.iter_mut().zip(mask) {
                *score = if mask == 0 {
                    f32::NEG_INFINITY
                } else {
                    *score * scale
                };
            }
        }
    }
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (largest, &score) in largest.iter_mut().zip(chunk) {
            *largest = if score > *largest { score } else { *largest };
        }
    }
    largest
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
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

/// Keeps scores as they are, whole panels at a time.
struct ToScores {
    data: *mut f32,
    stride: usize,
}

impl Finish for ToScores {
    #[inline(always)]
    unsafe fn finish<A: Arithmetic>(&self, row: usize, col: usize, sums: &mut [f32; LANES]) {
        // SAFETY: rows of scores are whole panels long; the task has them for itself.
        unsafe { *self.data.add(row * self.stride + col).cast() = *sums }
    }
}

/// Divides weighted values by the sum of their weights.
struct ToValues<'a> {
    out: Matrix,
    first_row: usize,
    columns: Range<usize>,
    /// One per row: 1 / sum of weights.
    scales: &'a [f32],
    /// Adds to what the segment before has left.
    add: bool,
}

impl Finish for ToValues<'_> {
    #[inline(always)]
    unsafe fn finish<A: Arithmetic>(&self, row: usize, col: usize, sums: &mut [f32; LANES]) {
        // SAFETY: the row's columns are this task's; promised by the caller of `multiply`.
        let out = unsafe { &mut self.out.row_mut(self.first_row + row)[self.columns.clone()][col..] };
        let scale = self.scales[row];
        if self.add {
            for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                *out = A::mul_add(sum, scale, *out);
            }
        } else {
            for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                *out = sum * scale;
            }
        }
    }
}

impl Kernel for Attend {
    fn tasks(&self) -> usize {
        self.attention.sequences * self.attention.heads * self.blocks
    }

    fn scratch(&self) -> usize {
        let row: usize = self.segments().map(|segment| segment.score_words()).sum();
        self.own.keys.length.div_ceil(self.blocks) * row
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, scratch: *mut f32) {
        let Attention {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.attention;
        let (sequence, rest) = (task / (heads * self.blocks), task % (heads * self.blocks));
        let (head, block) = (rest / self.blocks, rest % self.blocks);
        let kv_head = head * kv_heads / heads;
        let length = self.own.keys.length;
        let queries = share(length, self.blocks, block);
        let first_row = sequence * length + queries.start;
        let stride: usize = self.segments().map(|segment| segment.score_words()).sum();

        // SAFETY: rows, panels and scratch are within their buffers; tasks write disjoint parts of `out`.
        unsafe {
            let query = Rows {
                data: self
                    .query
                    .data
                    .add(first_row * self.query.stride + head * head_dim)
                    .cast_const(),
                stride: self.query.stride,
                rows: queries.len(),
            };
            let mut start = 0;
            for segment in self.segments() {
                let panels = segment.keys.panels(sequence, kv_head);
                let scores = ToScores {
                    data: scratch.add(start),
                    stride,
                };
                for panel in 0..panels.count() {
                    tile::multiply::<A>(query, panels, panel, &scores);
                }
                start += segment.score_words();
            }

            let mut inverse_sums = [0.0; BLOCK_ROWS];
            for (row, inverse) in inverse_sums[..queries.len()].iter_mut().enumerate() {
                let scores = std::slice::from_raw_parts_mut(scratch.add(row * stride), stride);
                let sum = self.softmax::<A>(queries.start + row, scores);
                *inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            }

            let mut start = 0;
            for segment in self.segments() {
                let weights = Rows {
                    data: scratch.add(start).cast_const(),
                    stride,
                    rows: queries.len(),
                };
                let panels = segment.values.panels(sequence, kv_head);
                let values = ToValues {
                    out: self.out,
                    first_row,
                    columns: head * head_dim..(head + 1) * head_dim,
                    scales: &inverse_sums,
                    add: start > 0,
                };
                for panel in 0..panels.count() {
                    tile::multiply::<A>(weights, panels, panel, &values);
                }
                start += segment.score_words();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::super::testing::{Owned, assert_close, run};
    use super::*;

    struct Case {
        attention: Attention,
        rows: usize,
        past: Option<usize>,
        mask: Option<Vec<i32>>,
    }

    fn plain(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
        let scale = (head_dim as f32).powf(-0.5);
        Attention {
            heads,
            kv_heads,
            head_dim,
            scale,
            sequences: 1,
            past: false,
            masked: false,
            blocks: vec![],
        }
    }

    fn segment(
        attention: &Attention,
        k: &Owned,
        v: &Owned,
        mask: Option<Matrix>,
        isa: Isa,
    ) -> (Segment, [Owned; 2]) {
        let Attention {
            sequences,
            kv_heads: heads,
            head_dim,
            ..
        } = *attention;
        let length = k.rows / sequences;
        let pack = |side, x: &Owned| {
            // NaN stands for what an earlier use of the memory left.
            let words = PackedHeads::words(side, sequences, heads, head_dim, length);
            let memory = Owned::filled(1, words, |_, _| f32::NAN);
            let to = PackedHeads {
                packed: memory.matrix(),
                side,
                sequences,
                heads,
                head_dim,
                length,
            };
            run(
                PackHeads {
                    x: x.matrix(),
                    to,
                    threads: 2,
                },
                isa,
            );
            (to, memory)
        };
        let ((keys, key_memory), (values, value_memory)) = (pack(Side::Keys, k), pack(Side::Values, v));
        (Segment { keys, values, mask }, [key_memory, value_memory])
    }

    fn check(case: Case) {
        let Attention {
            heads,
            kv_heads,
            head_dim,
            scale,
            sequences,
            ..
        } = case.attention;
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let past_rows = case.past.unwrap_or(1);
        let q = Owned::random(case.rows, width, 1);
        let (k, v) = (
            Owned::random(case.rows, kv_width, 2),
            Owned::random(case.rows, kv_width, 3),
        );
        let (past_k, past_v) = (
            Owned::random(past_rows, kv_width, 4),
            Owned::random(past_rows, kv_width, 5),
        );
        let mask = case.mask.as_ref().map(|mask| Owned::integers(mask));
        let mask_matrix = mask.as_ref().map(Owned::matrix);
        let (past_mask, own_mask) = if case.past.is_some() {
            (mask_matrix, None)
        } else {
            (None, mask_matrix)
        };
        for isa in Isa::available() {
            let past = case
                .past
                .map(|_| segment(&case.attention, &past_k, &past_v, past_mask, isa));
            let (own, _memory) = segment(&case.attention, &k, &v, own_mask, isa);
            let out = Owned::zeros(case.rows, width);
            let past_segment = past.as_ref().map(|(segment, _)| *segment);
            let attention = case.attention.clone();
            run(
                Attend::new(attention, q.matrix(), past_segment, own, out.matrix(), 3),
                isa,
            );

            assert_close(&format!("{isa} {:?}", case.attention), &out, 3e-6, |row, col| {
                let (head, group) = (col / head_dim, col / head_dim * kv_heads / heads);
                let length = case.rows / sequences;
                let seen = |mask: Option<&Vec<i32>>, key: usize| mask.is_none_or(|mask| mask[key] != 0);
                let mut pairs = Vec::new();
                let mut see = |k: &Owned, v: &Owned, key: usize| {
                    let dot: f64 = (0..head_dim)
                        .map(|d| q.at(row, head * head_dim + d) * k.at(key, group * head_dim + d))
                        .sum();
                    let value = v.at(key, group * head_dim + col % head_dim);
                    pairs.push(((f64::from(scale) * dot).exp(), value));
                };
                if let Some(past) = case.past {
                    (0..past)
                        .filter(|&key| seen(case.mask.as_ref(), key))
                        .for_each(|key| see(&past_k, &past_v, key));
                }
                let own_mask = if case.past.is_some() {
                    None
                } else {
                    case.mask.as_ref()
                };
                let blocks = &case.attention.blocks;
                (row / length * length..(row / length + 1) * length)
                    .filter(|&key| seen(own_mask, key) && (blocks.is_empty() || blocks[key] <= blocks[row]))
                    .for_each(|key| see(&k, &v, key));
                let sum: f64 = pairs.iter().map(|(weight, _)| weight).sum();
                if sum == 0.0 {
                    0.0
                } else {
                    pairs.iter().map(|(weight, value)| weight * value).sum::<f64>() / sum
                }
            });
        }
    }

    #[test]
    fn vision_attends_within_each_camera() {
        let attention = Attention {
            sequences: 3,
            ..plain(2, 2, 36)
        };
        check(Case {
            attention,
            rows: 3 * 53,
            past: None,
            mask: None,
        });
    }

    #[test]
    fn the_prefix_does_not_see_masked_tokens() {
        for rows in [1, 5, 61] {
            let attention = Attention {
                masked: true,
                ..plain(4, 1, 16)
            };
            let mask = (0..rows as i32).map(|key| i32::from(key % 3 != 1)).collect();
            check(Case {
                attention,
                rows,
                past: None,
                mask: Some(mask),
            });
        }
    }

    #[test]
    fn without_any_visible_key_the_result_is_zero() {
        let attention = Attention {
            masked: true,
            ..plain(2, 1, 8)
        };
        check(Case {
            attention,
            rows: 5,
            past: None,
            mask: Some(vec![0; 5]),
        });
    }

    #[test]
    fn the_suffix_sees_the_past_and_its_own_and_earlier_blocks() {
        for (heads, kv_heads, past) in [(4, 1, 40), (6, 2, 7), (3, 3, 100)] {
            let blocks: Vec<u32> = [vec![0], vec![1; 9], vec![2; 3]].concat();
            let attention = Attention {
                past: true,
                masked: true,
                blocks,
                ..plain(heads, kv_heads, 20)
            };
            let mask = (0..past as i32).map(|key| i32::from(key % 4 != 0)).collect();
            check(Case {
                attention,
                rows: 13,
                past: Some(past),
                mask: Some(mask),
            });
        }
    }
}
