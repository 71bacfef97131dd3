//! `activation(x w^T + b)`, the operation that takes nearly all the time, and its gated form
//! `activation(x g^T) * (x u^T)`, which feed-forward layers start with.
//!
//! What follows a product element by element is done while its tile is at hand ([`Epilogue`]), and the result is left
//! in the form that its reader wants ([`Destination`]).

use std::ops::Range;
use std::sync::Arc;

use super::blocked::{Blocked, Finish};
use super::math::activate;
use super::product::{Destination, PackedRows, Sums, fetch};
use super::{Arithmetic, Isa, Kernel};
use crate::device::cpu::memory::Matrix;
use crate::device::cpu::weight::PackedWeight;
use crate::graph::Activation;

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
    unsafe fn apply<A: Arithmetic>(&self, tile: &mut Sums, block: &Range<usize>, col: usize) {
        let addend_rows = repeated(block, self.add.map_or(1, |(a, _)| a.rows));
        for (sums, row) in tile.iter_mut().zip(addend_rows) {
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
    product: Blocked<1>,
    epilogue: Epilogue,
    to: Destination,
}

impl Linear {
    pub fn new(
        x: PackedRows,
        weight: Arc<PackedWeight>,
        epilogue: Epilogue,
        to: Destination,
        (isa, threads): (Isa, usize),
    ) -> Self {
        Self { product: Blocked::new(x, [weight], isa, threads), epilogue, to }
    }
}

impl Finish<1> for Linear {
    #[inline(always)]
    fn fetch(&self, block: &Range<usize>, col: usize) {
        self.epilogue.fetch(block, col);
        self.to.fetch(block, col);
    }

    #[inline(always)]
    unsafe fn finish<A: Arithmetic>(&self, [tile]: [&mut Sums; 1], block: &Range<usize>, col: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            self.epilogue.apply::<A>(tile, block, col);
            self.to.store::<A>(tile, block, col);
        }
    }
}

impl Kernel for Linear {
    fn tasks(&self) -> usize {
        self.product.tasks()
    }

    fn scratch(&self) -> usize {
        self.product.scratch()
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, scratch: *mut f32) {
        // SAFETY: promised by the caller.
        unsafe { self.product.run::<A>(self, task, scratch) }
    }
}

/// `activation(x g^T) * (x u^T)`
pub(crate) struct GatedLinear {
    /// Gate and up.
    product: Blocked<2>,
    activation: Activation,
    to: Destination,
}

impl GatedLinear {
    pub fn new(
        x: PackedRows,
        gate_and_up: [Arc<PackedWeight>; 2],
        activation: Activation,
        to: Destination,
        (isa, threads): (Isa, usize),
    ) -> Self {
        Self { product: Blocked::new(x, gate_and_up, isa, threads), activation, to }
    }
}

impl Finish<2> for GatedLinear {
    #[inline(always)]
    fn fetch(&self, _: &Range<usize>, _: usize) {}

    #[inline(always)]
    unsafe fn finish<A: Arithmetic>(&self, [gate, up]: [&mut Sums; 2], block: &Range<usize>, col: usize) {
        for (gate, up) in gate.iter_mut().zip(up.iter_mut()) {
            activate_all::<A>(self.activation, gate);
            for (up, gate) in up.iter_mut().zip(gate.iter()) {
                *up *= gate;
            }
        }
        // SAFETY: promised by the caller.
        unsafe { self.to.store::<A>(up, block, col) }
    }
}

impl Kernel for GatedLinear {
    fn tasks(&self) -> usize {
        self.product.tasks()
    }

    fn scratch(&self) -> usize {
        self.product.scratch()
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, scratch: *mut f32) {
        // SAFETY: promised by the caller.
        unsafe { self.product.run::<A>(self, task, scratch) }
    }
}

#[cfg(test)]
mod tests;
