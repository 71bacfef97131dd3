//! What a lowered program cannot be faster than: arithmetic of each call by the cores at hand, in its passes, and DRAM traffic against
//! the card's peak. Called by
//! `cli plan`.

use super::super::TILE;
use super::super::card::Card;
use super::super::program::{Argument, Call, Memory, Origin, Program, Tensor};
use super::work::passes;

/// Cost of a call, with padding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CallCost {
    pub flops: f64,
    /// The same times the passes in which it is done.
    pub passed_flops: f64,
    /// Read from and written to DRAM.
    pub dram_bytes: f64,
    /// Weights among these bytes.
    pub weight_bytes: f64,
}

impl std::ops::AddAssign for CallCost {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.passed_flops += other.passed_flops;
        self.dram_bytes += other.dram_bytes;
        self.weight_bytes += other.weight_bytes;
    }
}

impl CallCost {
    pub fn compute_ms(&self, card: &Card) -> f64 {
        self.passed_flops / card.operations_per_s() * 1e3
    }

    pub fn bandwidth_ms(&self, card: &Card) -> f64 {
        self.dram_bytes / card.dram_bytes_per_s * 1e3
    }

    /// Arithmetic and traffic overlap within a call.
    pub fn bound_ms(&self, card: &Card) -> f64 {
        self.compute_ms(card).max(self.bandwidth_ms(card))
    }
}

/// What `call` costs.
pub fn cost(program: &Program, call: &Call) -> CallCost {
    // Whether a reshape is a view depends on tiles; those that are not move little here.
    if call.viewed().is_some() {
        return CallCost::default();
    }
    let flops = flops(program, call);
    let mut cost = CallCost { flops, passed_flops: flops * passes(call) as f64, ..CallCost::default() };
    for id in call.reads() {
        let tensor = program.tensor(id);
        // A look-up reads as many rows as it gives.
        let looked_up = call.operation == "ttnn.embedding" && matches!(tensor.origin, Origin::Content(_));
        let bytes = match call.results.first() {
            Some(&result) if looked_up => program.tensor(result).bytes(),
            _ => tensor.bytes(),
        } as f64;
        if tensor.memory == Memory::Dram {
            cost.dram_bytes += bytes;
            if matches!(tensor.origin, Origin::Content(_)) {
                cost.weight_bytes += bytes;
            }
        }
    }
    for &id in &call.results {
        if program.tensor(id).memory == Memory::Dram {
            cost.dram_bytes += program.tensor(id).bytes() as f64;
        }
    }
    cost
}

/// Arithmetic of products and attention; everything else is left to the traffic.
fn flops(program: &Program, call: &Call) -> f64 {
    let operand = |index: usize| match call.operands.get(index) {
        Some(Argument::Tensor(id)) => Some(padded(program.tensor(*id))),
        _ => None,
    };
    let last = |shape: &[usize], from_end: usize| shape[shape.len() - from_end] as f64;
    match (call.operation, operand(0), operand(1)) {
        ("ttnn.linear" | "ttnn.experimental.minimal_matmul_split", Some(x), Some(weight)) => {
            let rows: f64 = x[..x.len() - 1].iter().product::<usize>() as f64;
            2.0 * rows * last(&weight, 2) * last(&weight, 1)
        }
        ("ttnn.transformer.scaled_dot_product_attention", Some(q), Some(k)) => {
            let queries: f64 = q[..q.len() - 1].iter().product::<usize>() as f64;
            4.0 * queries * last(&k, 2) * last(&k, 1)
        }
        // Every user's queries look at all pages.
        ("ttnn.transformer.paged_scaled_dot_product_attention_decode", Some(q), Some(k)) => {
            let queries: f64 = q[..q.len() - 1].iter().product::<usize>() as f64;
            4.0 * queries * (k[0] * k[2]) as f64 * last(&k, 1)
        }
        _ => 0.0,
    }
}

/// A shape in whole tiles.
fn padded(tensor: &Tensor) -> Vec<usize> {
    let mut shape = tensor.shape.clone();
    shape.iter_mut().rev().take(2).for_each(|length| *length = length.next_multiple_of(TILE));
    shape
}
