//! Keys and values of an attention, packed as panels for `attention`: once per run, however many nodes read them (the
//! prefix's are read by every denoising step).

use super::product::{PANEL, Panels, Precision, pack_row, pair};
use super::rotary::rotate;
use super::{Arithmetic, Kernel, share};
use crate::device::cpu::memory::Matrix;

/// Which product the panels are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    /// queries x keys: a panel has 32 keys.
    Keys,
    /// weights x values: a panel has 32 columns of the head.
    Values,
}

/// Shape of the keys or values of one attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HeadsShape {
    pub side: Side,
    pub precision: Precision,
    pub sequences: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Keys per sequence.
    pub length: usize,
}

impl HeadsShape {
    /// Words that the packed heads take.
    pub fn words(&self) -> usize {
        self.sequences * self.heads * self.group_words()
    }

    /// Depth and columns of a head's product.
    fn product(&self) -> (usize, usize) {
        match self.side {
            Side::Keys => (self.head_dim, self.length),
            Side::Values => (self.length, self.head_dim),
        }
    }

    fn group_words(&self) -> usize {
        let (depth, cols) = self.product();
        Panels::words(self.precision, depth, cols)
    }
}

/// Keys or values of one attention as panels, one group of panels per sequence and head.
#[derive(Clone, Copy)]
pub(crate) struct PackedHeads {
    /// A single row of [`HeadsShape::words`] words.
    pub packed: Matrix,
    pub shape: HeadsShape,
}

impl PackedHeads {
    #[inline(always)]
    pub(super) fn panels(&self, sequence: usize, head: usize) -> Panels {
        let group = (sequence * self.shape.heads + head) * self.shape.group_words();
        let (depth, cols) = self.shape.product();
        // `wrapping_add` only because it needs no promise; the group lies within the packed row.
        let data = self.packed.data.wrapping_add(group);
        Panels { data, words: self.shape.precision.words(depth), cols }
    }

    fn panel_count(&self) -> usize {
        self.shape.sequences * self.shape.heads * self.panels(0, 0).count()
    }
}

/// Rows `[rows, heads * head_dim]` of keys or values, rotated on the way if there is a table `[rows, head_dim]`.
#[derive(Clone, Copy)]
pub(crate) struct HeadRows {
    pub x: Matrix,
    pub rotary: Option<Matrix>,
}

/// What goes into one [`PackedHeads`]: some rows after others.
pub(crate) struct Packing {
    pub parts: Vec<HeadRows>,
    pub to: PackedHeads,
}

impl Packing {
    /// One head of row `row`; rotated in `scratch`, `[head_dim]`.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn row(&self, mut row: usize, head: usize, scratch: *mut f32) -> &[f32] {
        let head_dim = self.to.shape.head_dim;
        for part in &self.parts {
            if row < part.x.rows {
                // SAFETY: promised by the caller.
                unsafe {
                    let x = &part.x.row(row)[head * head_dim..][..head_dim];
                    let Some(table) = part.rotary else { return x };
                    let out = std::slice::from_raw_parts_mut(scratch, head_dim);
                    rotate(x, table.row(row), out);
                    return out;
                }
            }
            row -= part.x.rows;
        }
        &[]
    }

    /// # Safety
    /// As [`Kernel::run`]; `scratch` has room for a head.
    #[inline(always)]
    unsafe fn fill(&self, index: usize, scratch: *mut f32) {
        let shape = &self.to.shape;
        let per_group = self.to.panels(0, 0).count();
        let (group, panel) = (index / per_group, index % per_group);
        let (sequence, head) = (group / shape.heads, group % shape.heads);
        let panels = self.to.panels(sequence, head);
        let first = panel * PANEL;
        let lanes = PANEL.min(panels.cols - first);
        let first_row = sequence * shape.length;
        // SAFETY: the panel lies within the packed row and only this task writes it; rows are within the parts.
        unsafe {
            let start = panels.at(panel, 0).cast_mut();
            let words =
                std::slice::from_raw_parts_mut(start, panels.words * PANEL).as_chunks_mut::<PANEL>().0;
            match shape.side {
                Side::Keys => {
                    for lane in 0..lanes {
                        let row = self.row(first_row + first + lane, head, scratch);
                        pack_row(shape.precision, row, start.add(lane), PANEL);
                    }
                    // What an earlier use of this memory left behind must not reach the scores as NaN.
                    for word in words.iter_mut() {
                        word[lanes..].fill(0.0);
                    }
                }
                Side::Values => {
                    for (index, word) in words.iter_mut().enumerate() {
                        match shape.precision {
                            Precision::F32 => {
                                let row = self.row(first_row + index, head, scratch);
                                word[..lanes].copy_from_slice(&row[first..][..lanes]);
                            }
                            Precision::Bf16 => {
                                let even = self.row(first_row + 2 * index, head, scratch);
                                let even = &even[first..][..lanes];
                                if 2 * index + 1 < shape.length {
                                    let odd = self.row(first_row + 2 * index + 1, head, scratch);
                                    for ((word, &a), &b) in word.iter_mut().zip(even).zip(&odd[first..]) {
                                        *word = pair(a, b);
                                    }
                                } else {
                                    for (word, &a) in word.iter_mut().zip(even) {
                                        *word = pair(a, 0.0);
                                    }
                                }
                            }
                        }
                        word[lanes..].fill(0.0);
                    }
                }
            }
        }
    }
}

/// Packs the keys and the values of an attention.
pub(crate) struct PackHeads {
    pub keys: Packing,
    pub values: Packing,
    pub threads: usize,
}

impl Kernel for PackHeads {
    fn tasks(&self) -> usize {
        let panels = self.keys.to.panel_count() + self.values.to.panel_count();
        let elements = self.keys.to.shape.words() + self.values.to.shape.words();
        (elements / super::TASK_ELEMENTS).clamp(1, (2 * self.threads).min(panels))
    }

    /// One head.
    fn scratch(&self) -> usize {
        self.keys.to.shape.head_dim
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, scratch: *mut f32) {
        let (keys, values) = (self.keys.to.panel_count(), self.values.to.panel_count());
        for index in share(keys + values, self.tasks(), task) {
            // SAFETY: promised by the caller; tasks have different panels.
            unsafe {
                match index.checked_sub(keys) {
                    None => self.keys.fill(index, scratch),
                    Some(index) => self.values.fill(index, scratch),
                }
            }
        }
    }
}
