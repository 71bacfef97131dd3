//! The gated product of an MLP. Called by `lower`.

use super::super::axis::Axis;
use super::super::content::{Content, Scales};
use super::super::precision::{PRODUCT, Role};
use super::super::program::{Argument, Memory, TensorId};
use super::super::{FEW_ROWS, TILE};
use super::products::Product;
use super::spread::{self, Tiles};
use super::{Form, Lowering, Stored, unary};
use crate::device::DeviceError;
use crate::graph::{Activation, Node};

impl Lowering<'_> {
    /// `activation(x g^T) * (x u^T)`: two products, the first activated. Of few rows over all columns of cores; of many in blocks, which
    /// are multiplied where they lie. Where that does not fit, both at once, activated on the way to their product.
    pub(super) fn gated_linear(&mut self, node: &Node, activation: Activation) -> Result<Form, DeviceError> {
        let (x, inputs) = self.matrix(node.operands[0])?;
        let rows = self.row_axis(node.result)?.physical;
        let columns = Axis::tiled(self.graph.shape(node.result)[1]);
        let result = self.activation(vec![1, 1, rows, columns.physical], Role::Activation);
        let scales = Scales::all(columns.logical, 1.0);
        let [m, k, n] = [rows, inputs.physical, columns.physical].map(|length| length.div_ceil(TILE));
        let tiles = Tiles { m, k, n };
        let shape = [inputs.physical, columns.physical];
        let role = Role::Weight { elements: shape[0] * shape[1], rows };
        let lies = match rows <= FEW_ROWS * TILE {
            true => Some(result.memory),
            false => spread::halves(tiles, self.precisions.dtype(role), self.card),
        };
        if let Some(memory) = lies {
            let x = self.fitting(x, memory);
            let result = Stored { memory, ..result };
            let halves = [(node.operands[1], Some(unary(activation))), (node.operands[2], None)];
            let halves = halves.map(|(weight, activation)| {
                let factor = Content::factor(self.graph, weight, &inputs, &columns, &scales);
                let weight = self.weights(factor, shape, role);
                let product = Product { x, weight, bias: None, activation, exact: false };
                Argument::Tensor(self.product(product, result.clone()))
            });
            let attributes = vec![("memory_config", Argument::Memory(memory))];
            let tensor = self.call("ttnn.multiply", halves.to_vec(), attributes, result);
            return Ok(Form::Matrix { tensor, columns });
        }
        let halves = [node.operands[1], node.operands[2]].map(|weight| {
            (columns.physical, Content::factor(self.graph, weight, &inputs, &columns, &scales))
        });
        let shape = [inputs.physical, 2 * columns.physical];
        let role = Role::Weight { elements: shape[0] * shape[1], rows };
        let weights = self.weights(Content::beside(halves.to_vec()), shape, role);
        let spread = spread::minimal(tiles, self.card);
        let attributes = vec![
            ("chunks", Argument::Integer(2)),
            ("dim", Argument::Integer(-1)),
            ("config", Argument::MinimalSpread(spread)),
            ("dtype", Argument::Dtype(result.dtype)),
            ("memory_config", Argument::Memory(result.memory)),
            ("compute_kernel_config", Argument::Compute(PRODUCT)),
        ];
        let operands = [x, weights].map(Argument::Tensor).to_vec();
        let results = vec![result.clone(), result.clone()];
        let halves = self.call_for("ttnn.experimental.minimal_matmul_split", operands, attributes, results);
        let operands = halves.into_iter().map(Argument::Tensor).collect();
        let attributes = vec![
            ("input_tensor_a_activations", Argument::List(vec![Argument::Unary(unary(activation))])),
            ("memory_config", Argument::Memory(result.memory)),
        ];
        let tensor = self.call("ttnn.multiply", operands, attributes, result);
        Ok(Form::Matrix { tensor, columns })
    }

    /// The left side of a product whose result lies in `memory`: put back where its blocks lie the other way, or beside cores that have
    /// none of the result.
    fn fitting(&mut self, x: TensorId, memory: Memory) -> TensorId {
        match (self.program.tensor(x).memory.shards(), memory) {
            (Some(from), Memory::Blocks(to))
                if from.transposed != to.transposed
                    || from.grid.iter().zip(to.grid).any(|(&from, to)| from > to) =>
            {
                self.put_back(x)
            }
            _ => x,
        }
    }
}
