//! What only moves numbers: inputs, patches, joined rows, slices, other shapes and types of the same elements.

use std::ops::Range;

use super::super::TILE;
use super::super::axis::Axis;
use super::super::precision::Role;
use super::super::program::{Argument, DataType, Layout, Memory, Origin, Result as Placed, Tensor, TensorId};
use super::rows::Joining;
use super::{Form, Lowering, Stored};
use crate::device::DeviceError;
use crate::graph::{DType, Node, ValueId};

impl Lowering<'_> {
    /// A tensor for every input. The host writes elements as they are, row by row; what tiles them runs on the card.
    pub(super) fn inputs(&mut self) -> Result<(), DeviceError> {
        let inputs: Vec<(ValueId, String)> =
            self.graph.inputs().map(|(id, value)| (id, value.name.clone())).collect();
        for (id, name) in inputs {
            self.node = name.clone();
            let ty = &self.graph.value(id).ty;
            let (dtype, shape) = (ty.dtype, ty.shape.clone());
            let input = |lowering: &mut Self, shape, dtype| {
                let origin = Origin::Input(name.clone());
                let (layout, memory) = (Layout::RowMajor, Memory::Dram);
                lowering.add(Tensor { name: name.clone(), shape, dtype, layout, memory, origin })
            };
            let (tensor, form, rows, columns) = match (dtype, &shape[..]) {
                (DType::F32, &[_, width]) => {
                    let rows = self.row_axis(id)?;
                    let tensor = input(self, vec![1, 1, rows.physical, width], DataType::Float32);
                    let columns = Axis::exact(width);
                    let tiled = self.tile(tensor);
                    (tensor, Form::Matrix { tensor: tiled, columns: columns.clone() }, rows, columns)
                }
                (DType::F32, &[channels, height, width]) => {
                    let tensor = input(self, vec![1, channels, height, width], DataType::Bfloat16);
                    (tensor, Form::Image(tensor), Axis::exact(channels * height), Axis::exact(width))
                }
                (DType::I32, &[_]) => {
                    let columns = self.row_axis(id)?;
                    let tensor = input(self, vec![1, columns.physical], DataType::Uint32);
                    (tensor, Form::Indices(tensor), Axis::exact(1), columns)
                }
                (DType::Bool, &[count]) => {
                    let tensor = input(self, vec![1, 1, 1, count], DataType::Bfloat16);
                    (tensor, Form::Mask(self.tile(tensor)), Axis::exact(1), Axis::exact(count))
                }
                _ => return Err(self.unsupported("an input of this type")),
            };
            self.forms.insert(id, form);
            self.program.inputs.push(Placed { name, tensor, rows, columns });
        }
        Ok(())
    }

    fn tile(&mut self, tensor: TensorId) -> TensorId {
        let Tensor { shape, dtype, memory, .. } = self.program.tensor(tensor).clone();
        let operands = vec![Argument::Tensor(tensor), Argument::Layout(Layout::Tile)];
        let attributes = vec![("memory_config", Argument::Memory(memory))];
        self.call("ttnn.to_layout", operands, attributes, Stored::tiled(shape, dtype, memory))
    }

    /// The same elements in another shape; nothing where it is the same shape.
    pub(super) fn reshape(&mut self, tensor: TensorId, shape: Vec<usize>) -> TensorId {
        let Tensor { shape: old, dtype, layout, memory, .. } = self.program.tensor(tensor).clone();
        if old == shape {
            return tensor;
        }
        let operands = vec![Argument::Tensor(tensor), Argument::integers(shape.iter().copied())];
        self.call("ttnn.reshape", operands, Vec::new(), Stored { shape, dtype, layout, memory })
    }

    /// The same values as another type.
    pub(super) fn typed(&mut self, tensor: TensorId, dtype: DataType, memory: Memory) -> TensorId {
        let stored = self.program.tensor(tensor);
        if stored.dtype == dtype {
            return tensor;
        }
        let result = Stored::tiled(stored.shape.clone(), dtype, memory);
        let attributes = vec![("memory_config", Argument::Memory(memory))];
        let operands = vec![Argument::Tensor(tensor), Argument::Dtype(dtype)];
        self.call("ttnn.typecast", operands, attributes, result)
    }

    /// Part of the axis of heads, where it lies if that can be: then nothing is moved.
    pub(super) fn part(&mut self, tensor: TensorId, axis: usize, range: Range<usize>) -> TensorId {
        let stored = self.program.tensor(tensor);
        let mut shape = stored.shape.clone();
        if range.len() == shape[axis] {
            return tensor;
        }
        // A part begins in the first bank, or it has to be copied.
        let tiles = shape[axis + 1..].iter().product::<usize>() / (TILE * TILE);
        if stored.memory != Memory::Dram || !(range.start * tiles).is_multiple_of(self.card.dram_banks) {
            return self.cut(tensor, axis, range);
        }
        shape[axis] = range.len();
        let result = Stored::tiled(shape, stored.dtype, stored.memory);
        let numbers = [axis, range.start, range.len()].map(|number| Argument::Integer(number as i64));
        let operands = std::iter::once(Argument::Tensor(tensor)).chain(numbers).collect();
        self.call("ttnn.narrow", operands, Vec::new(), result)
    }

    /// The same tiles in the same order as a tensor of another shape. Unlike a reshape it changes which element is where:
    /// a tensor's tiles follow each other row by row, so `[1, 1, rows, heads * dim]` is `[1, row tiles * heads, 32, dim]`.
    pub(super) fn same_tiles(&mut self, tensor: TensorId, shape: Vec<usize>) -> TensorId {
        let stored = self.program.tensor(tensor);
        if stored.shape == shape {
            return tensor;
        }
        let result = Stored::tiled(shape.clone(), stored.dtype, stored.memory);
        let operands = vec![Argument::Tensor(tensor), Argument::integers(shape)];
        self.call("ttnn.experimental.view", operands, Vec::new(), result)
    }

    /// Part of an axis.
    pub(super) fn cut(&mut self, tensor: TensorId, axis: usize, range: Range<usize>) -> TensorId {
        let Tensor { shape, dtype, memory, .. } = self.program.tensor(tensor).clone();
        let (mut starts, mut ends) = (vec![0; shape.len()], shape.clone());
        (starts[axis], ends[axis]) = (range.start, range.end);
        let mut result = shape;
        result[axis] = range.len();
        let operands = vec![Argument::Tensor(tensor), Argument::integers(starts), Argument::integers(ends)];
        let attributes = vec![("memory_config", Argument::Memory(memory))];
        self.call("ttnn.slice", operands, attributes, Stored::tiled(result, dtype, memory))
    }

    /// Squares of an image: taken when all images are known, so that they are taken at once.
    pub(super) fn patchify(&mut self, node: &Node, patch: usize) -> Result<Form, DeviceError> {
        match *self.form(node.operands[0])? {
            Form::Image(image) => Ok(Form::Patches { images: vec![image], patch }),
            _ => Err(self.unsupported("squares of what is no image")),
        }
    }

    /// `[images, channels, height, width]` -> `[1, 1, patches, patch^2 * channels]`, and where the columns lie.
    pub(super) fn take_patches(
        &mut self,
        images: &[TensorId],
        patch: usize,
    ) -> Result<(TensorId, Axis), DeviceError> {
        let [_, channels, height, width] = self.program.tensor(images[0]).shape[..] else {
            return Err(self.unsupported("an image that is no image"));
        };
        if images.iter().any(|&image| self.program.tensor(image).shape != [1, channels, height, width]) {
            return Err(self.unsupported("images of different sizes"));
        }
        let count = images.len();
        let stored = |shape| Stored {
            shape,
            dtype: DataType::Bfloat16,
            layout: Layout::RowMajor,
            memory: Memory::Dram,
        };
        let all = match images {
            [one] => *one,
            _ => {
                let images = images.iter().map(|&image| Argument::Tensor(image)).collect();
                let attributes =
                    vec![("dim", Argument::Integer(0)), ("memory_config", Argument::Memory(Memory::Dram))];
                let result = stored(vec![count, channels, height, width]);
                self.call("ttnn.concat", vec![Argument::List(images)], attributes, result)
            }
        };
        let result = stored(vec![count, height, width, channels]);
        let order = Argument::integers([0, 2, 3, 1]);
        let last = self.call("ttnn.permute", vec![Argument::Tensor(all), order], Vec::new(), result);
        let (down, across) = (height / patch, width / patch);
        let width = patch * patch * channels;
        let side = Argument::Integer(patch as i64);
        let operands = vec![Argument::Tensor(last), side.clone(), side];
        let squares = self.call("ttnn.fold", operands, Vec::new(), stored(vec![count, down, across, width]));
        let rows = self.reshape(squares, vec![1, 1, count * down * across, width]);
        // Pixels stand in row, column, channel order now, where the weights have channel, row, column.
        let square = patch * patch;
        let places = (0..width).map(|column| column % square * channels + column / square).collect();
        Ok((self.tile(rows), Axis::of(places, width)))
    }

    /// Joined rows, as planned; or joined lists of images' squares, which stay to be taken.
    pub(super) fn concat(&mut self, node: &Node, axis: usize) -> Result<Form, DeviceError> {
        if axis != 0 {
            return Err(self.unsupported("joined columns that are not constant"));
        }
        let mut all = Vec::new();
        let mut size = None;
        for &operand in &node.operands {
            if let Form::Patches { images, patch } = self.form(operand)? {
                all.extend(images.iter().copied());
                size = Some(*patch);
            }
        }
        match size {
            Some(patch) if all.len() == node.operands.len() => {
                return Ok(Form::Patches { images: all, patch });
            }
            _ => {}
        }
        let (joining, operands) = self.rows.joins[&node.result].clone();
        let parts: Vec<(TensorId, Axis)> =
            operands.iter().map(|&operand| self.matrix(operand)).collect::<Result<_, _>>()?;
        let columns = parts[0].1.clone();
        if parts.iter().any(|part| part.1 != columns) {
            return Err(self.unsupported("rows whose columns lie differently"));
        }
        let rows = self.row_axis(node.result)?.physical;
        let mut result = self.activation(vec![1, 1, rows, columns.physical], Role::Activation);
        if joining == Joining::Choose && self.is_normed(node.result) {
            result.memory = self.stream(rows, columns.physical);
        }
        let memory = ("memory_config", Argument::Memory(result.memory));
        let tensor = match joining {
            Joining::Concat => {
                let parts = parts.iter().map(|part| Argument::Tensor(part.0)).collect();
                let attributes = vec![("dim", Argument::Integer(2)), memory];
                self.call("ttnn.concat", vec![Argument::List(parts)], attributes, result)
            }
            Joining::Choose => {
                // 1 in every row but the second block's own.
                let second = self.row_axis(operands[1])?;
                let mut first = vec![1.0; rows];
                second.places().for_each(|place| first[place] = 0.0);
                let key = format!("choice {second:?}");
                let choice = self.literal(key, [rows, 1], first);
                let operands = [choice, parts[0].0, parts[1].0].map(Argument::Tensor).to_vec();
                self.call("ttnn.where", operands, vec![memory], result)
            }
        };
        Ok(Form::Matrix { tensor, columns })
    }

    /// Rows of a value, where they are; columns of heads have their own tensors already.
    pub(super) fn slice(
        &mut self,
        node: &Node,
        axis: usize,
        start: usize,
        end: usize,
    ) -> Result<Option<Form>, DeviceError> {
        if self.forms.contains_key(&node.result) {
            return Ok(None);
        }
        let (tensor, columns) = self.matrix(node.operands[0])?;
        match axis {
            0 => Ok(Some(Form::Matrix { tensor, columns })),
            _ if columns.is_exact() => {
                let tensor = self.cut(tensor, 3, start..end);
                Ok(Some(Form::Matrix { tensor, columns: Axis::exact(end - start) }))
            }
            _ => Err(self.unsupported("some of padded columns")),
        }
    }
}
