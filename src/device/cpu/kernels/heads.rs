//! Keys and values of an attention, packed as panels for `attention`: once per run, however many nodes read them (the
//! prefix's are read by every denoising step).

use super::tile::{LANES, Panels};
use super::{Arithmetic, Kernel, share};
use crate::device::cpu::memory::Matrix;

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
    pub(super) fn panels(&self, sequence: usize, head: usize) -> Panels {
        let group = (sequence * self.heads + head) * Self::group_words(self.side, self.head_dim, self.length);
        let (depth, cols) = match self.side {
            Side::Keys => (self.head_dim, self.length),
            Side::Values => (self.length, self.head_dim),
        };
        // `wrapping_add` only because it needs no promise; the group lies within the packed row.
        Panels { data: self.packed.data.wrapping_add(group), depth, cols }
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
                let out =
                    std::slice::from_raw_parts_mut(start, panels.depth * LANES).as_chunks_mut::<LANES>().0;
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
