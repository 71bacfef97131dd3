//! How a chunk is led by the one before: an Euler step's result drawn towards it, and rows that are given.

use super::super::axis::Axis;
use super::super::precision::Role;
use super::super::program::{Argument, DataType, Tensor, TensorId};
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

    /// Row by row the first, or the second where the weight is 0. A choice between constants is left to its readers: a norm with
    /// each of them is cheaper than a norm with what was chosen.
    pub(super) fn choose(&mut self, node: &Node) -> Result<Option<Form>, DeviceError> {
        let [first, second, weights] = node.operands[..] else {
            return Err(self.unsupported("other than three operands"));
        };
        let Some(varying) = [first, second].into_iter().find(|&id| !self.is_constant(id)) else {
            self.choices.insert(node.result, [first, second, weights]);
            return Ok(None);
        };
        let (columns, rows) = (self.matrix(varying)?.1, self.row_axis(weights)?);
        let tensor = self.chosen([first, second, weights], &rows, &columns)?;
        Ok(Some(Form::Matrix { tensor, columns }))
    }

    pub(super) fn chosen(
        &mut self,
        [first, second, weights]: [ValueId; 3],
        rows: &Axis,
        columns: &Axis,
    ) -> Result<TensorId, DeviceError> {
        let both = [self.like(first, rows, columns)?, self.like(second, rows, columns)?];
        self.one_of(both, weights)
    }

    fn one_of(&mut self, [first, second]: [TensorId; 2], weights: ValueId) -> Result<TensorId, DeviceError> {
        let Tensor { shape, dtype, .. } = self.program.tensor(first).clone();
        let choice = self.choice(weights, dtype)?;
        let memory = self.memory(&shape, dtype);
        let result = Stored::tiled(shape, dtype, memory);
        let attributes = vec![("memory_config", Argument::Memory(memory))];
        let operands = [choice, first, second].map(Argument::Tensor).to_vec();
        Ok(self.call("ttnn.where", operands, attributes, result))
    }

    /// The column of weights in the type of what is chosen.
    fn choice(&mut self, weights: ValueId, dtype: DataType) -> Result<TensorId, DeviceError> {
        let (column, _) = self.matrix(weights)?;
        if self.program.tensor(column).dtype == dtype {
            return Ok(column);
        }
        if let Some(&known) = self.widened.get(&(weights, 1, dtype)) {
            return Ok(known);
        }
        let choice = self.typed(column, dtype, Memory::Dram);
        self.widened.insert((weights, 1, dtype), choice);
        Ok(choice)
    }

    /// A norm whose scale and shift are chosen row by row: the library's knows one for all rows, so there are two of them.
    pub(super) fn norm_by_rows(
        &mut self,
        node: &Node,
        operation: &'static str,
        epsilon: f32,
    ) -> Result<Form, DeviceError> {
        let modulations = node.operands[1..].iter().map(|id| self.choices.get(id).copied());
        let Some(modulations) = modulations.collect::<Option<Vec<_>>>() else {
            return Err(self.unsupported("a norm whose weights are made on the card"));
        };
        let weights = modulations[0][2];
        if modulations.iter().any(|choice| choice[2] != weights) {
            return Err(self.unsupported("a norm whose scale and shift are chosen differently"));
        }
        let mut normed = |which: usize| {
            let operands =
                std::iter::once(node.operands[0]).chain(modulations.iter().map(|choice| choice[which]));
            let of_one = Node { operands: operands.collect(), ..node.clone() };
            match self.norm(&of_one, operation, epsilon)? {
                Form::Matrix { tensor, columns } => Ok((tensor, columns)),
                _ => Err(self.unsupported("a norm that is no matrix")),
            }
        };
        let ((first, columns), (second, _)) = (normed(0)?, normed(1)?);
        let tensor = self.one_of([first, second], weights)?;
        Ok(Form::Matrix { tensor, columns })
    }
}
