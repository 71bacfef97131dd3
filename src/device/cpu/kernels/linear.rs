//! `activation(x w^T + b)`, the operation that takes nearly all the time, and its gated form
//! `activation(x g^T) * (x u^T)`, which feed-forward layers start with.
//!
//! What follows a product element by element is done while its tile is at hand ([`Epilogue`]), and the result is left
//! in the form that its reader wants ([`Destination`]).

use std::ops::Range;
use std::sync::Arc;

use super::math::activate;
use super::product::{Destination, Factors, PackedRows, Tile, multiply};
use super::{Arithmetic, Kernel, share};
use crate::device::cpu::memory::Matrix;
use crate::device::cpu::weight::PackedWeight;
use crate::graph::Activation;

/// Words of depth that a product goes through at once: so much of a panel (128 KB) and of a few blocks of rows stays in
/// the second-level cache.
const DEPTH_WORDS: usize = 1024;
/// Blocks of rows that a task takes at most, for the same reason.
const TASK_BLOCKS: usize = 8;
/// Tasks per thread that a product is split into where it is large enough, so that all threads end together.
const TASKS_PER_THREAD: usize = 24;
/// Words of depth times tiles below which another task costs more than it saves: some microseconds.
const TASK_WORDS: usize = 256;
/// The first blocks of a task that fetch the next panel ahead, a quarter each.
const FETCHING_BLOCKS: usize = 4;

/// How the tiles of a product are dealt into tasks: groups of blocks of rows times groups of panels.
#[derive(Clone, Copy)]
struct Grid {
    blocks: usize,
    panels: usize,
    block_groups: usize,
    panel_groups: usize,
    threads: usize,
}

impl Grid {
    fn new(x: &PackedRows, panels: usize, threads: usize) -> Self {
        let blocks = x.blocks.count();
        let largest = (blocks * panels * x.words / TASK_WORDS).max(1);
        let wanted = if threads == 1 { 1 } else { (TASKS_PER_THREAD * threads).min(largest) };
        let mut block_groups = blocks.div_ceil(TASK_BLOCKS);
        let panel_groups = wanted.div_ceil(block_groups).min(panels);
        if block_groups * panel_groups < wanted {
            block_groups = wanted.div_ceil(panel_groups).min(blocks);
        }
        Self { blocks, panels, block_groups, panel_groups, threads }
    }

    fn tasks(&self) -> usize {
        self.block_groups * self.panel_groups
    }

    /// Blocks and panels of a task. Neighbouring tasks share their panels, so that threads read them from a shared cache.
    #[inline(always)]
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        (
            share(self.blocks, self.block_groups, task % self.block_groups),
            share(self.panels, self.panel_groups, task / self.block_groups),
        )
    }

    /// The panel that a thread will probably go to after `panel`, which is one of `panels`.
    #[inline(always)]
    fn after(&self, panel: usize, panels: &Range<usize>) -> usize {
        if panel + 1 < panels.end { panel + 1 } else { panels.end + (self.threads - 1) * panels.len() }
    }
}

/// What happens to `x w^T` element by element, in this order; all of it is optional.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue {
    /// `[1, columns]`
    pub bias: Option<Matrix>,
    pub activation: Option<Activation>,
    /// `a + scale * result`; a's rows are repeated as often as the result needs.
    pub add: Option<(Matrix, f32)>,
}

impl Epilogue {
    /// # Safety
    /// Bias and addend must be alive and nobody may write them meanwhile.
    #[inline(always)]
    unsafe fn apply<A: Arithmetic>(&self, tile: &mut Tile, block: &Range<usize>, col: usize) {
        for (sums, row) in tile.0.iter_mut().zip(block.clone()) {
            if let Some(bias) = self.bias {
                // SAFETY: promised by the caller.
                let bias = unsafe { &bias.row(0)[col..] };
                for (sum, &bias) in sums.iter_mut().zip(bias) {
                    *sum += bias;
                }
            }
            if let Some(activation) = self.activation {
                activate_all::<A>(activation, sums);
            }
            if let Some((a, scale)) = self.add {
                // SAFETY: promised by the caller.
                let a = unsafe { &a.row(row % a.rows)[col..] };
                for (sum, &a) in sums.iter_mut().zip(a) {
                    *sum = A::mul_add(scale, *sum, a);
                }
            }
        }
    }
}

/// Each activation in a loop of its own, so that the choice is not made for every element.
#[inline(always)]
fn activate_all<A: Arithmetic>(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::GeluTanh => {
            for x in values {
                *x = activate::<A>(Activation::GeluTanh, *x);
            }
        }
        Activation::Silu => {
            for x in values {
                *x = activate::<A>(Activation::Silu, *x);
            }
        }
    }
}

pub(crate) struct Linear {
    x: PackedRows,
    weight: Arc<PackedWeight>,
    epilogue: Epilogue,
    to: Destination,
    grid: Grid,
}

impl Linear {
    pub fn new(
        x: PackedRows,
        weight: Arc<PackedWeight>,
        epilogue: Epilogue,
        to: Destination,
        threads: usize,
    ) -> Self {
        let grid = Grid::new(&x, weight.panels().count(), threads);
        Self { x, weight, epilogue, to, grid }
    }
}

impl Kernel for Linear {
    fn tasks(&self) -> usize {
        self.grid.tasks()
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        let (blocks, panels) = self.grid.task(task);
        let weight = self.weight.panels();
        // Between parts of the depth the sums wait in the result's rows.
        let parts = if self.to.rows.is_some() { self.x.words.div_ceil(DEPTH_WORDS) } else { 1 };
        for part in 0..parts {
            let depth = share(self.x.words, parts, part);
            for panel in panels.clone() {
                let (col, after) = (panel * super::product::PANEL, self.grid.after(panel, &panels));
                for block in blocks.clone() {
                    let rows = self.x.blocks.range(block);
                    let mut tile = Tile::zero();
                    // SAFETY: blocks and panels are within x and the weight; tasks write disjoint parts of the result.
                    unsafe {
                        if let (Some(to), 1..) = (self.to.rows, part) {
                            load(to, &rows, col, &mut tile);
                        }
                        let factors = Factors {
                            precision: self.x.precision,
                            rows: rows.len(),
                            left: self.x.at(&rows, depth.start),
                            panel: weight.at(panel, depth.start),
                            words: depth.len(),
                            ahead: ahead(weight.at(after, depth.start), block - blocks.start, depth.len()),
                        };
                        multiply::<A>(factors, &mut tile);
                        if part + 1 == parts {
                            self.epilogue.apply::<A>(&mut tile, &rows, col);
                            self.to.store(&tile, &rows, col);
                        } else {
                            Destination { packed: None, ..self.to }.store(&tile, &rows, col);
                        }
                    }
                }
            }
        }
    }
}

/// The part of the panel that comes next which block number `block` of a task fetches; null for those that fetch none.
#[inline(always)]
fn ahead(panel: *const f32, block: usize, words: usize) -> *const f32 {
    if block < FETCHING_BLOCKS { panel.wrapping_add(block * words * 8) } else { std::ptr::null() }
}

/// The sums that an earlier part of the depth has left.
///
/// # Safety
/// The rows must be this task's.
#[inline(always)]
unsafe fn load(from: Matrix, block: &Range<usize>, col: usize, tile: &mut Tile) {
    for (sums, row) in tile.0.iter_mut().zip(block.clone()) {
        // SAFETY: promised by the caller.
        let values = unsafe { &from.row(row)[col..] };
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum = value;
        }
    }
}

/// `activation(x g^T) * (x u^T)`
pub(crate) struct GatedLinear {
    x: PackedRows,
    gate: Arc<PackedWeight>,
    up: Arc<PackedWeight>,
    activation: Activation,
    to: Destination,
    grid: Grid,
}

impl GatedLinear {
    pub fn new(
        x: PackedRows,
        gate: Arc<PackedWeight>,
        up: Arc<PackedWeight>,
        activation: Activation,
        to: Destination,
        threads: usize,
    ) -> Self {
        let grid = Grid::new(&x, up.panels().count(), threads);
        Self { x, gate, up, activation, to, grid }
    }
}

impl Kernel for GatedLinear {
    fn tasks(&self) -> usize {
        self.grid.tasks()
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        let (blocks, panels) = self.grid.task(task);
        for panel in panels.clone() {
            let after = self.grid.after(panel, &panels);
            for block in blocks.clone() {
                let rows = self.x.blocks.range(block);
                let mut tiles = [Tile::zero(), Tile::zero()];
                // SAFETY: blocks and panels are within x and the weights; tasks write disjoint parts of the result.
                unsafe {
                    for (tile, weight) in tiles.iter_mut().zip([&self.gate, &self.up]) {
                        let weight = weight.panels();
                        let factors = Factors {
                            precision: self.x.precision,
                            rows: rows.len(),
                            left: self.x.at(&rows, 0),
                            panel: weight.at(panel, 0),
                            words: self.x.words,
                            ahead: ahead(weight.at(after, 0), block - blocks.start, self.x.words),
                        };
                        multiply::<A>(factors, tile);
                    }
                    let [gate, up] = &mut tiles;
                    for (gate, up) in gate.0[..rows.len()].iter_mut().zip(&mut up.0) {
                        activate_all::<A>(self.activation, gate);
                        for (up, gate) in up.iter_mut().zip(gate.iter()) {
                            *up *= gate;
                        }
                    }
                    self.to.store(up, &rows, panel * super::product::PANEL);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
