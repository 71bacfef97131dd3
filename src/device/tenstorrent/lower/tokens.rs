//! Tokens, masks and positions: small lists that products and look-ups turn into what the layers read.

use super::super::TILE;
use super::super::axis::Axis;
use super::super::content::Content;
use super::super::precision::Role;
use super::super::program::{Argument, DataType, Layout, Memory, TensorId};
use super::heads::padded;
use super::products::Product;
use super::{Form, Lowering, Stored};
use crate::device::DeviceError;
use crate::graph::{Node, ValueId};

impl Lowering<'_> {
    /// `scale * table[token]`; the scale is in the table.
    pub(super) fn embedding(&mut self, node: &Node, scale: f32) -> Result<Form, DeviceError> {
        let Form::Indices(tokens) = *self.form(node.operands[0])? else {
            return Err(self.unsupported("tokens that are no list of numbers on the card"));
        };
        let [vocabulary, width] = self.graph.shape(node.operands[1])[..] else {
            return Err(self.unsupported("a table that is no matrix"));
        };
        let (rows, columns) = (Axis::exact(vocabulary), Axis::exact(width));
        let table = Content::matrix(self.graph, node.operands[1], &rows, &columns, scale);
        let table = self.content(table, self.table(vocabulary, width));
        let rows = self.row_axis(node.result)?.physical;
        let memory = self.activation(vec![1, rows, width], Role::Activation).memory;
        let tensor = self.look_up(tokens, table, [rows, width], memory);
        Ok(Form::Matrix { tensor, columns })
    }

    /// A table that is looked up row by row.
    fn table(&self, rows: usize, width: usize) -> Stored {
        let dtype = self.precisions.dtype(Role::Small);
        Stored { shape: vec![rows, width], dtype, layout: Layout::RowMajor, memory: Memory::Dram }
    }

    /// Rows of a table: indices `[1, rows]` -> `[1, 1, rows, width]`.
    fn look_up(
        &mut self,
        indices: TensorId,
        table: TensorId,
        [rows, width]: [usize; 2],
        memory: Memory,
    ) -> TensorId {
        let result = Stored { memory, ..self.activation(vec![1, rows, width], Role::Activation) };
        let attributes = vec![
            ("layout", Argument::Layout(Layout::Tile)),
            ("memory_config", Argument::Memory(result.memory)),
        ];
        let operands = vec![Argument::Tensor(indices), Argument::Tensor(table)];
        let found = self.call("ttnn.embedding", operands, attributes, result);
        self.reshape(found, vec![1, 1, rows, width])
    }

    /// Which prefix tokens are real: each image's mask for all of its tokens, then the prompt's.
    pub(super) fn prefix_mask(&mut self, node: &Node, image_tokens: usize) -> Result<Form, DeviceError> {
        let (images, tokens) = (node.operands[0], node.operands[1]);
        let rows = self.row_axis(node.result)?;
        let image_count = self.graph.shape(images)[0];
        // One row of a matrix per entry of the list: 1 at the tokens it speaks for.
        let spread = |lowering: &mut Self, list: ValueId, of: &dyn Fn(usize) -> std::ops::Range<usize>| {
            let count = lowering.graph.shape(list)[0];
            let mut values = vec![0.0; count * rows.physical];
            for entry in 0..count {
                of(entry).for_each(|token| values[entry * rows.physical + rows.place(token)] = 1.0);
            }
            let key = format!("spread of {list:?} over {rows:?}");
            let weight = lowering.literal(key, [count, rows.physical], values);
            let x = lowering.mask_tensor(list)?;
            let result = Stored::tiled(vec![1, 1, 1, rows.physical], DataType::Bfloat16, Memory::Dram);
            Ok::<_, DeviceError>(
                lowering.product(Product { x, weight, bias: None, activation: None, exact: true }, result),
            )
        };
        let first = spread(self, images, &|image| image * image_tokens..(image + 1) * image_tokens)?;
        let second = spread(self, tokens, &|token| {
            let token = image_count * image_tokens + token;
            token..token + 1
        })?;
        let result = Stored::tiled(vec![1, 1, 1, rows.physical], DataType::Bfloat16, Memory::Dram);
        let operands = vec![Argument::Tensor(first), Argument::Tensor(second)];
        let attributes = vec![("memory_config", Argument::Memory(Memory::Dram))];
        Ok(Form::Mask(self.call("ttnn.add", operands, attributes, result)))
    }

    /// `max(cumsum(mask) - 1, 0)`: a product with a triangle of ones, whose sums are exact in f32.
    pub(super) fn positions(&mut self, node: &Node) -> Result<Form, DeviceError> {
        let rows = self.row_axis(node.result)?;
        if rows != self.row_axis(node.operands[0])? {
            return Err(self.unsupported("positions that lie differently from their mask"));
        }
        let length = rows.physical;
        // The second head of a pair, the values, is not rotated: its rows are at position 0.
        let width = if self.heads.shared { 2 * length } else { length };
        let mut triangle = vec![0.0; length * width];
        for (line, place) in rows.places().enumerate() {
            for at in (line..rows.logical).map(|line| rows.place(line)) {
                triangle[place * width + at] = 1.0;
            }
        }
        let weight = self.literal(format!("triangle {rows:?}"), [length, width], triangle);
        let lines = Axis::of(rows.places().collect(), width);
        let (sums, stored) = self.counts(node.operands[0], weight, &lines)?;
        let dram = vec![("memory_config", Argument::Memory(Memory::Dram))];
        let operands = vec![Argument::Tensor(sums), Argument::Number(1.0)];
        let before = self.call("ttnn.subtract", operands, dram.clone(), stored.clone());
        let tensor = self.call("ttnn.relu", vec![Argument::Tensor(before)], dram, stored);
        Ok(Form::Positions { tensor, lines })
    }

    /// `sum(mask) + i`: a product with ones, plus each row's number.
    pub(super) fn positions_after(&mut self, node: &Node) -> Result<Form, DeviceError> {
        let rows = self.row_axis(node.result)?;
        // Which of the rotated lines a row is: one of each head that rotates, or itself.
        let (width, lines): (usize, Box<dyn Fn(usize) -> Vec<usize>>) = match self.stack {
            Some(stack) => {
                let of = move |row| stack.positioned().map(|head| stack.place(head, row)).collect();
                (stack.rows(), Box::new(of))
            }
            None => (rows.physical, Box::new(|row| vec![row])),
        };
        let mask = self.mask_tensor(node.operands[0])?;
        let keys = self.program.tensor(mask).shape[3];
        // Values and padding stay at position 0, where nothing is rotated.
        let (mut numbers, mut ones) = (vec![0.0; width], vec![0.0; keys * width]);
        for (line, row) in rows.places().enumerate() {
            for place in lines(row) {
                numbers[place] = line as f32;
                (0..keys).for_each(|key| ones[key * width + place] = 1.0);
            }
        }
        let name = format!("{rows:?} {:?}", self.stack);
        let ones = self.literal(format!("ones {name}"), [keys, width], ones);
        // In f32: a chunk may be longer than bf16 can count.
        let stored = Stored::tiled(vec![1, 1, 1, width], DataType::Float32, Memory::Dram);
        let numbers = self.content(Content::literal(format!("numbers {name}"), numbers), stored);
        let places = rows.places().map(|row| lines(row)[0]).collect();
        let lines = Axis::of(places, width);
        let (sums, stored) = self.counts(node.operands[0], ones, &lines)?;
        let operands = vec![Argument::Tensor(sums), Argument::Tensor(numbers)];
        let dram = vec![("memory_config", Argument::Memory(Memory::Dram))];
        let tensor = self.call("ttnn.add", operands, dram, stored);
        Ok(Form::Positions { tensor, lines })
    }

    /// How many of a mask's entries count for each line. What is added to that is added by itself: a product adds its bias to sums of
    /// eleven bits, which are not enough beyond position 2048.
    fn counts(
        &mut self,
        mask: ValueId,
        weight: TensorId,
        lines: &Axis,
    ) -> Result<(TensorId, Stored), DeviceError> {
        let x = self.mask_tensor(mask)?;
        let result = Stored::tiled(vec![1, 1, 1, lines.physical], DataType::Float32, Memory::Dram);
        let product = Product { x, weight, bias: None, activation: None, exact: true };
        Ok((self.product(product, result.clone()), result))
    }

    /// Cosines and sines of every position, looked up in tables of all positions there can be.
    pub(super) fn rotary_table(
        &mut self,
        node: &Node,
        head_dim: usize,
        theta: f64,
    ) -> Result<Form, DeviceError> {
        let Form::Positions { tensor: positions, lines } = self.form(node.operands[0])?.clone() else {
            return Err(self.unsupported("a rotary table of what are no positions"));
        };
        let rows = self.row_axis(node.result)?.physical;
        let padded = padded(head_dim);
        let columns = Axis::rotated_heads(1, head_dim, padded);
        // A position counts real tokens: those of the prefix, whose mask is the longest list here, and these.
        let count = self.longest_mask() + rows;
        let half = head_dim / 2;
        let table = |lowering: &mut Self, name: &str, of: fn(f64) -> f64| {
            let mut values = vec![0.0; count * padded];
            for position in 0..count {
                for column in 0..head_dim {
                    let power = 2.0 * (column % half) as f64 / head_dim as f64;
                    let angle = position as f64 / theta.powf(power);
                    values[position * padded + columns.place(column)] = of(angle) as f32;
                }
            }
            let key = format!("{name} of {head_dim} elements, theta {theta}, {count} positions");
            lowering.content(Content::literal(key, values), lowering.table(count, padded))
        };
        let (cosines, sines) = (table(self, "cosines", f64::cos), table(self, "sines", f64::sin));
        let indices = self.whole_numbers(positions, DataType::Uint32);
        let indices = self.reshape(indices, vec![1, lines.physical]);
        let shape = match self.stack {
            Some(_) => vec![1, 1, lines.physical * (padded / TILE), TILE],
            None => vec![1, lines.physical / rows, rows, padded],
        };
        let [cosines, sines] = [cosines, sines].map(|table| {
            let found = self.look_up(indices, table, [lines.physical, padded], Memory::Dram);
            self.same_tiles(found, shape.clone())
        });
        Ok(Form::Rotation { cosines, sines })
    }

    /// Entries of the longest mask so far.
    fn longest_mask(&self) -> usize {
        let masks = self.forms.values().filter_map(|form| match form {
            Form::Mask(tensor) => Some(self.program.tensor(*tensor).shape[3]),
            _ => None,
        });
        masks.max().unwrap_or(0)
    }

    /// A matrix of whole numbers as the library takes indices: row by row, of the type `dtype`.
    pub(super) fn whole_numbers(&mut self, list: TensorId, dtype: DataType) -> TensorId {
        let shape = self.program.tensor(list).shape.clone();
        let whole = self.typed(list, dtype, Memory::Dram);
        let dram = ("memory_config", Argument::Memory(Memory::Dram));
        let stored = Stored { shape, dtype, layout: Layout::RowMajor, memory: Memory::Dram };
        let operands = vec![Argument::Tensor(whole), Argument::Layout(Layout::RowMajor)];
        self.call("ttnn.to_layout", operands, vec![dram], stored)
    }
}
