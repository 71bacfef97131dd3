//! How a chunk is led by the one before: an Euler step's result drawn towards it, and rows that are given.

use super::super::precision::Role;
use super::super::program::{Argument, DataType, TensorId};
use super::{Content, Form, Lowering, Memory, Stored};
use crate::device::DeviceError;
use crate::graph::{Node, ValueId};

impl Lowering<'_> {
    /// `y + strength w (previous - (x + ahead (y - x)))`, as y and three products that are added one after the other: the library
    /// has an operation that adds a product.
    pub(super) fn guide(&mut self, node: &Node, ahead: f32, strength: f32) -> Result<Form, DeviceError> {
        let [x, y, previous, weights] = node.operands[..] else {
            return Err(self.unsupported("other than four operands"));
        };
        let (y, rows, columns) = self.rows_and_columns(y)?;
        let (x, previous) = (self.like(x, &rows, &columns)?, self.like(previous, &rows, &columns)?);
        let result = self.activation(vec![1, 1, rows.physical, columns.physical], Role::Flow);
        let weights = self.widened(weights, rows.physical, columns.physical, result.dtype)?;
        let (ahead, strength) = (f64::from(ahead), f64::from(strength));
        let mut sum = y;
        for (factor, value) in [(previous, strength), (x, strength * (ahead - 1.0)), (y, -strength * ahead)] {
            let operands = [sum, weights, factor].map(Argument::Tensor).to_vec();
            let attributes =
                vec![("value", Argument::Number(value)), ("memory_config", Argument::Memory(result.memory))];
            sum = self.call("ttnn.addcmul", operands, attributes, result.clone());
        }
        Ok(Form::Matrix { tensor: sum, columns })
    }

    /// A column of weights in as many columns, made once for all who read it.
    fn widened(
        &mut self,
        weights: ValueId,
        rows: usize,
        columns: usize,
        dtype: DataType,
    ) -> Result<TensorId, DeviceError> {
        if let Some(&known) = self.widened.get(&(weights, columns, dtype)) {
            return Ok(known);
        }
        let (column, _) = self.matrix(weights)?;
        let stored = Stored::tiled(vec![1, 1, rows, columns], dtype, Memory::Dram);
        let ones = Content::literal(format!("ones {rows}x{columns}"), vec![1.0; rows * columns]);
        let ones = self.content(ones, stored.clone());
        let operands = [ones, column].map(Argument::Tensor).to_vec();
        let memory = vec![("memory_config", Argument::Memory(stored.memory))];
        let widened = self.call("ttnn.multiply", operands, memory, stored);
        self.widened.insert((weights, columns, dtype), widened);
        Ok(widened)
    }

    /// Row by row the first, or the second where the weight is 0.
    pub(super) fn choose(&mut self, node: &Node) -> Result<Form, DeviceError> {
        let [first, second, weights] = node.operands[..] else {
            return Err(self.unsupported("other than three operands"));
        };
        let columns = match (self.is_constant(first), self.is_constant(second)) {
            (false, _) => self.matrix(first)?.1,
            (true, false) => self.matrix(second)?.1,
            (true, true) => return Err(self.unsupported("a choice between constants")),
        };
        let rows = self.row_axis(weights)?;
        let (first, second) = (self.like(first, &rows, &columns)?, self.like(second, &rows, &columns)?);
        let (choice, _) = self.matrix(weights)?;
        let result = self.activation(vec![1, 1, rows.physical, columns.physical], Role::Flow);
        let memory = vec![("memory_config", Argument::Memory(result.memory))];
        let operands = [choice, first, second].map(Argument::Tensor).to_vec();
        let tensor = self.call("ttnn.where", operands, memory, result);
        Ok(Form::Matrix { tensor, columns })
    }
}
