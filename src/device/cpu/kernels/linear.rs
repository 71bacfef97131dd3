//! `activation(x w^T + b)`, the operation that takes nearly all the time, and its gated form
//! `activation(x g^T) * (x u^T)`, which feed-forward layers start with.
//!
//! What follows a product element by element is done while its tile is at hand ([`Epilogue`]), and the result is left
//! in the form that its reader wants ([`Destination`]).

use std::ops::Range;
use std::sync::Arc;

use super::math::activate;
use super::product::{Destination, Factors, PANEL, PackedRows, Panels, Tile, fetch, multiply};
use super::{Arithmetic, Kernel, share};
use crate::device::cpu::memory::Matrix;
use crate::device::cpu::weight::PackedWeight;
use crate::graph::Activation;

/// Words of depth times tiles below which another task costs more than it saves: two microseconds.
const TASK_WORDS: usize = 256;
/// Most blocks of rows whose products are so short that the next panel has to be fetched ahead, a quarter by each of the
/// first four.
const FETCHING_BLOCKS: usize = 8;

/// How the tiles of a product are dealt into tasks. A task goes through its panels and for each of them through all
/// blocks of rows: the panel stays in the second-level cache, the rows stream from the third. Only where there are too
/// few panels are the blocks dealt out as well. (Dividing the depth, or the blocks into groups that fit the second-level
/// cache, was slower for every size of pi0.)
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
        let most = (blocks * panels * x.words / TASK_WORDS).max(1);
        // As many for each thread, or one panel each: then all threads end together.
        let panel_groups = if most < panels { (most / threads * threads).max(1) } else { panels };
        let block_groups = if panels < 2 * threads { (most / panels).clamp(1, blocks) } else { 1 };
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

    /// The factors of one tile: block `block` of `x`, panel `panel` of a task's `panels`. The first blocks also fetch, a
    /// quarter each, the panel that their thread will probably go to next.
    #[inline(always)]
    fn factors(
        &self,
        x: &PackedRows,
        block: usize,
        weight: &Panels,
        panel: usize,
        panels: &Range<usize>,
    ) -> Factors {
        let rows = x.blocks.range(block);
        let left = x.at(&rows, 0).cast_const();
        let ahead = if self.blocks > FETCHING_BLOCKS || block >= 4 {
            left
        } else {
            let step = if panel + 1 < panels.end { 1 } else { 1 + (self.threads - 1) * panels.len() };
            weight.at(panel + step, 0).wrapping_add(block * weight.words * PANEL / 4)
        };
        Factors {
            precision: x.precision,
            rows: rows.len(),
            left,
            panel: weight.at(panel, 0),
            words: x.words,
            fresh: true,
            ahead,
        }
    }
}

/// What happens to `x w^T` element by element, in this order; all of it is optional.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue {
    /// `[1, columns]`
    pub bias: Option<Matrix>,
    pub activation: Option<Activation>,
    /// `[1, columns]`: the result is multiplied with it.
    pub gate: Option<Matrix>,
    /// `a + scale * result`; a's rows are repeated as often as the result needs.
    pub add: Option<(Matrix, f32)>,
}

impl Epilogue {
    /// Says that a tile will be finished soon.
    #[inline(always)]
    fn fetch(&self, block: &Range<usize>, col: usize) {
        if let Some((a, _)) = self.add {
            for row in repeated(block, a.rows) {
                fetch(a.data.wrapping_add(row * a.stride + col));
            }
        }
    }

    /// # Safety
    /// Bias, gate and addend must be alive and nobody may write them meanwhile.
    #[inline(always)]
    unsafe fn apply<A: Arithmetic>(&self, tile: &mut Tile, block: &Range<usize>, col: usize) {
        let addend_rows = repeated(block, self.add.map_or(1, |(a, _)| a.rows));
        for (sums, row) in tile.0.iter_mut().zip(addend_rows) {
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
            if let Some(gate) = self.gate {
                // SAFETY: promised by the caller.
                let gate = unsafe { &gate.row(0)[col..] };
                for (sum, &gate) in sums.iter_mut().zip(gate) {
                    *sum *= gate;
                }
            }
            if let Some((a, scale)) = self.add {
                // SAFETY: promised by the caller.
                let a = unsafe { &a.row(row)[col..] };
                for (sum, &a) in sums.iter_mut().zip(a) {
                    *sum = A::mul_add(scale, *sum, a);
                }
            }
        }
    }
}

/// The rows, of an addend of `rows` rows that is repeated, that stand for the rows of `block`.
#[inline(always)]
fn repeated(block: &Range<usize>, rows: usize) -> impl Iterator<Item = usize> {
    let mut next = block.start % rows;
    block.clone().map(move |_| {
        let row = next;
        next = if row + 1 == rows { 0 } else { row + 1 };
        row
    })
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
        let mut tile = Tile::zero();
        for panel in panels.clone() {
            for block in blocks.clone() {
                let rows = self.x.blocks.range(block);
                // SAFETY: blocks and panels are within x and the weight; tasks write disjoint parts of the result.
                unsafe {
                    self.epilogue.fetch(&rows, panel * PANEL);
                    self.to.fetch(&rows, panel * PANEL);
                    multiply::<A>(self.grid.factors(&self.x, block, &weight, panel, &panels), &mut tile);
                    self.epilogue.apply::<A>(&mut tile, &rows, panel * PANEL);
                    self.to.store(&tile, &rows, panel * PANEL);
                }
            }
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
        let mut tiles = [Tile::zero(), Tile::zero()];
        for panel in panels.clone() {
            for block in blocks.clone() {
                let rows = self.x.blocks.range(block);
                // SAFETY: blocks and panels are within x and the weights; tasks write disjoint parts of the result.
                unsafe {
                    for (tile, weight) in tiles.iter_mut().zip([&self.gate, &self.up]) {
                        let factors = self.grid.factors(&self.x, block, &weight.panels(), panel, &panels);
                        multiply::<A>(factors, tile);
                    }
                    let [gate, up] = &mut tiles;
                    for (gate, up) in gate.0[..rows.len()].iter_mut().zip(&mut up.0) {
                        activate_all::<A>(self.activation, gate);
                        for (up, gate) in up.iter_mut().zip(gate.iter()) {
                            *up *= gate;
                        }
                    }
                    self.to.store(up, &rows, panel * PANEL);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
