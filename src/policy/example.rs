//! Inputs of the right kind for a model that nobody shows anything: images in [-1, 1], all cameras there, a prompt of so many
//! tokens, noise. Called by `cli bench`, to measure, and by `verify`, to compare; the same numbers every time.

use super::{IMAGE_MASKS, PREFIX_WEIGHTS, TOKEN_MASK, TOKENS};
use crate::graph::{DType, HostTensor, Value};

/// Makes input after input.
pub struct ExampleInputs {
    /// Tokens of the prompt that are not padding.
    tokens: usize,
    state: u32,
}

impl ExampleInputs {
    pub fn new(tokens: usize) -> Self {
        Self { tokens, state: 1 }
    }

    /// What the host could write for `input`.
    pub fn of(&mut self, input: &Value) -> HostTensor {
        let elements = input.ty.elements();
        match (input.name.as_str(), input.ty.dtype) {
            (IMAGE_MASKS, _) => HostTensor::Bool(vec![true; elements]),
            (TOKEN_MASK, _) => HostTensor::Bool((0..elements).map(|i| i < self.tokens).collect()),
            (TOKENS, _) | (_, DType::I32) => HostTensor::I32((1..=elements as i32).collect()),
            (_, DType::Bool) => HostTensor::Bool(vec![true; elements]),
            // Points in full, then half, then not at all.
            (PREFIX_WEIGHTS, DType::F32) => {
                let weight = |point: usize| match 4 * point / elements {
                    0 => 1.0,
                    1 => 0.5,
                    _ => 0.0,
                };
                HostTensor::F32((0..elements).map(weight).collect())
            }
            (_, DType::F32) => HostTensor::F32((0..elements).map(|_| self.next()).collect()),
        }
    }

    /// Uniform in [-1, 1): the upper bits of a linear congruential generator.
    fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
