//! Linears, norms and what is done element by element.

use super::super::axis::Axis;
use super::super::content::{Content, Scales};
use super::super::precision::{EXACT, PRODUCT, Role};
use super::super::program::{Argument, DataType, Memory, TensorId};
use super::super::{FEW_ROWS, TILE};
use super::attention::is_tied;
use super::spread::{self, Tiles};
use super::{Form, Lowering, Stored, unary};
use crate::device::DeviceError;
use crate::graph::{Activation, Node, Op, ValueId};

/// One product of the library: `activation(x w + b)`.
pub(super) struct Product {
    pub x: TensorId,
    /// `[in, out]`
    pub weight: TensorId,
    pub bias: Option<TensorId>,
    pub activation: Option<&'static str>,
    pub exact: bool,
}

impl Lowering<'_> {
    pub(super) fn product(&mut self, product: Product, result: Stored) -> TensorId {
        let Product { x, weight, bias, activation, exact } = product;
        let tiles = |shape: &[usize]| {
            let [.., rows, columns] = *shape else { return [1, 1] };
            [rows.div_ceil(TILE), columns.div_ceil(TILE)]
        };
        let ([m, k], [_, n]) =
            (tiles(&self.program.tensor(x).shape), tiles(&self.program.tensor(weight).shape));
        let left = self.program.tensor(x).memory;
        let spread = spread::linear(Tiles { m, k, n }, [left, result.memory], self.card, activation);
        let mut attributes = vec![
            ("program_config", Argument::MatmulSpread(spread)),
            ("dtype", Argument::Dtype(result.dtype)),
            ("memory_config", Argument::Memory(result.memory)),
            ("compute_kernel_config", Argument::Compute(if exact { EXACT } else { PRODUCT })),
        ];
        attributes.extend(bias.map(|bias| ("bias", Argument::Tensor(bias))));
        self.call("ttnn.linear", vec![Argument::Tensor(x), Argument::Tensor(weight)], attributes, result)
    }

    /// A linear. Its result has no form of its own where only its slices, the heads, are read.
    pub(super) fn linear(
        &mut self,
        node: &Node,
        activation: Option<Activation>,
        exact: bool,
    ) -> Result<Option<Form>, DeviceError> {
        let projected = self.heads.projections.get(&node.result).cloned();
        let parts = match &projected {
            Some(slices) => slices
                .iter()
                .map(|&slice| self.heads.heads(self.graph, slice))
                .collect::<Result<Vec<_>, _>>()?,
            None => self.heads.get(node.result).into_iter().collect(),
        };
        if parts.is_empty() {
            if activation.is_none() && !exact && self.is_only_gated(node) {
                self.ungated.insert(node.result, node.clone());
                return Ok(None);
            }
            return self.plain_linear(node).map(Some);
        }
        let stacked = self.stack.filter(|_| parts.iter().any(|part| part.rotated));
        let outputs = match (stacked, &parts[..]) {
            (Some(stack), [queries, keys, values]) if keys.count == 1 && values.count == 1 => {
                stack.projection(queries, keys, values)
            }
            (Some(_), _) => {
                return Err(self.unsupported("a projection to other than queries, a key and a value"));
            }
            (None, [queries, keys, values]) if keys.rotated && self.heads.shared && !is_tied(queries) => {
                let columns = Axis::joined(&[queries.columns(), keys.columns(), values.columns()]);
                Axis::of(columns.places().collect(), columns.physical + 2 * queries.padded)
            }
            (None, parts) => Axis::joined(&parts.iter().map(super::Heads::columns).collect::<Vec<_>>()),
        };
        let scales = Scales(parts.iter().map(|part| (part.count * part.dim, part.scale)).collect());
        let tensor = self.affine(node, activation, exact, &outputs, &scales)?;
        let slices = projected.unwrap_or_else(|| vec![node.result]);
        match stacked {
            Some(stack) => {
                let shape = vec![1, stack.tiles * stack.heads, TILE, stack.padded];
                let tensor = self.same_tiles(tensor, shape);
                slices.iter().for_each(|&slice| drop(self.forms.insert(slice, Form::Stacked(tensor))));
            }
            None => self.split_heads(tensor, &slices, &parts)?,
        }
        Ok(None)
    }

    /// A linear whose columns are no heads.
    pub(super) fn plain_linear(&mut self, node: &Node) -> Result<Form, DeviceError> {
        let Op::Linear { activation, exact } = node.op else {
            return Err(self.unsupported("a product that is no linear"));
        };
        let columns = Axis::exact(self.graph.shape(node.result)[1]);
        // A step of the flow that is added right away.
        let scales = Scales::all(columns.logical, self.flow_scale(node.result));
        let tensor = self.affine(node, activation, exact, &columns, &scales)?;
        Ok(Form::Matrix { tensor, columns })
    }

    /// Whether a linear without bias is only read by its gate, and that by a sum: then the gate goes into the weights.
    fn is_only_gated(&self, node: &Node) -> bool {
        let reader = |id: ValueId| {
            let mut readers = self.graph.nodes.iter().filter(move |other| other.operands.contains(&id));
            readers.next().filter(|_| self.uses[id.index()] == 1)
        };
        let gate = reader(node.result).filter(|gate| self.is_gate(gate));
        let sum = gate.and_then(|gate| reader(gate.result).filter(|sum| sum.operands[1] == gate.result));
        node.operands.len() == 2 && sum.is_some_and(|sum| sum.op == Op::Add)
    }

    /// A multiplication with one constant row.
    fn is_gate(&self, node: &Node) -> bool {
        matches!((&node.op, &node.operands[..]), (Op::Multiply, &[first, second])
            if !self.is_constant(first) && self.is_constant(second) && self.graph.value(second).ty.rows() == 1)
    }

    /// `activation(scale * (x w^T + b))` with the result's columns in the places of `outputs`.
    fn affine(
        &mut self,
        node: &Node,
        activation: Option<Activation>,
        exact: bool,
        outputs: &Axis,
        scales: &Scales,
    ) -> Result<TensorId, DeviceError> {
        let (x, inputs) = self.matrix(node.operands[0])?;
        let rows = self.row_axis(node.result)?.physical;
        let role = match exact {
            true => Role::ExactWeight,
            false => Role::Weight { elements: inputs.physical * outputs.physical, rows },
        };
        let factor = Content::factor(self.graph, node.operands[1], &inputs, outputs, scales);
        let weight = self.weights(factor, [inputs.physical, outputs.physical], role);
        let bias = node.operands.get(2).map(|&bias| self.bias(bias, outputs, exact, scales));
        let role = if exact && self.stays_exact(node.result) { Role::Flow } else { Role::Activation };
        let mut result = self.activation(vec![1, 1, rows, outputs.physical], role);
        if rows <= FEW_ROWS * TILE && self.joins_stream(node.result) {
            result.memory = self.stream(rows, outputs.physical);
        }
        let activation = activation.map(unary);
        Ok(self.product(Product { x, weight, bias, activation, exact }, result))
    }

    fn bias(&mut self, bias: ValueId, columns: &Axis, exact: bool, scales: &Scales) -> TensorId {
        let role = if exact { Role::ExactWeight } else { Role::Small };
        let stored =
            Stored::tiled(vec![1, 1, 1, columns.physical], self.precisions.dtype(role), Memory::Dram);
        self.content(Content::row(self.graph, bias, columns, scales, 0.0), stored)
    }

    /// Whether every reader wants f32: an exact linear, or the flow.
    fn stays_exact(&self, id: ValueId) -> bool {
        let mut readers = self.graph.nodes.iter().filter(|node| node.operands.contains(&id));
        readers.all(|node| {
            matches!(node.op, Op::Linear { exact: true, .. } | Op::EulerStep { .. } | Op::Guide { .. })
        })
    }

    /// `dt` when the only reader of a linear is the Euler step that adds it, else 1.
    fn flow_scale(&self, id: ValueId) -> f32 {
        let reader = |node: &&Node| node.operands.get(1) == Some(&id) && node.operands[0] != id;
        match self.graph.nodes.iter().find(reader).map(|node| &node.op) {
            Some(Op::EulerStep { dt }) if self.uses[id.index()] == 1 => *dt,
            _ => 1.0,
        }
    }

    /// What lies beside some cores, dealt out among all.
    pub(super) fn put_back(&mut self, tensor: TensorId) -> TensorId {
        let stored = self.program.tensor(tensor);
        let result = Stored::tiled(stored.shape.clone(), stored.dtype, Memory::L1);
        let operands = vec![Argument::Tensor(tensor), Argument::Memory(Memory::L1)];
        self.call("ttnn.to_memory_config", operands, Vec::new(), result)
    }

    /// `(y w^T) * gate` with the gate in the weights.
    fn gated_product(&mut self, linear: &Node, gate: ValueId) -> Result<Form, DeviceError> {
        let (x, inputs) = self.matrix(linear.operands[0])?;
        let columns = Axis::exact(self.graph.shape(linear.result)[1]);
        let (rows, width) = (self.row_axis(linear.result)?.physical, columns.physical);
        let scales = Scales::all(width, 1.0);
        let factor = Content::factor(self.graph, linear.operands[1], &inputs, &columns, &scales);
        let role = Role::Weight { elements: inputs.physical * width, rows };
        let weight = self.weights(factor.gated(self.graph, gate), [inputs.physical, width], role);
        let mut result = self.activation(vec![1, 1, rows, width], Role::Activation);
        if rows <= FEW_ROWS * TILE {
            result.memory = self.stream(rows, width);
        }
        let tensor = self.product(Product { x, weight, bias: None, activation: None, exact: false }, result);
        Ok(Form::Matrix { tensor, columns })
    }

    /// Weights as the library multiplies with them, `[1, 1, in, out]`.
    pub(super) fn weights(
        &mut self,
        content: Content,
        [inputs, outputs]: [usize; 2],
        role: Role,
    ) -> TensorId {
        let dtype = self.precisions.dtype(role);
        self.content(content, Stored::tiled(vec![1, 1, inputs, outputs], dtype, Memory::Dram))
    }

    /// Layer norm and RMS norm, with or without a shift; Gemma's weight is `1 + w`.
    pub(super) fn norm(
        &mut self,
        node: &Node,
        operation: &'static str,
        epsilon: f32,
    ) -> Result<Form, DeviceError> {
        let (x, columns) = self.matrix(node.operands[0])?;
        if !columns.is_exact() {
            return Err(self.unsupported("a norm of padded columns"));
        }
        if node.operands[1..].iter().any(|&id| !self.is_constant(id)) {
            return self.norm_by_rows(node, operation, epsilon);
        }
        let plus = if matches!(node.op, Op::RmsNorm { .. }) { 1.0 } else { 0.0 };
        let stored =
            Stored::tiled(vec![1, columns.physical], self.precisions.dtype(Role::Small), Memory::Dram);
        let list = |lowering: &mut Self, value, plus| {
            let content =
                Content::row(lowering.graph, value, &columns, &Scales::all(columns.logical, 1.0), plus);
            Argument::Tensor(lowering.content(content, stored.clone()))
        };
        let mut result = self
            .activation(vec![1, 1, self.row_axis(node.result)?.physical, columns.physical], Role::Activation);
        let lies = self.program.tensor(x).memory;
        if lies.shards().is_some() {
            result.memory = lies;
        }
        let weight = list(self, node.operands[1], plus);
        let bias = node.operands.get(2).map(|&bias| list(self, bias, 0.0));
        let mut attributes = vec![
            ("epsilon", Argument::Number(f64::from(epsilon))),
            ("weight", weight),
            ("memory_config", Argument::Memory(result.memory)),
            ("compute_kernel_config", Argument::Compute(EXACT)),
        ];
        attributes.extend(bias.map(|bias| ("bias", bias)));
        attributes.extend(lies.shards().map(|shards| ("program_config", Argument::NormSpread(shards))));
        let mut tensor = self.call(operation, vec![Argument::Tensor(x)], attributes, result);
        if let Memory::Columns(_) = lies {
            // A product would send what lies column by column to all cores a column at a time.
            tensor = self.put_back(tensor);
        }
        Ok(Form::Matrix { tensor, columns })
    }

    /// A multiplication. One with a constant row that only a sum reads, the gate of a residual, is left to that sum.
    pub(super) fn multiply(&mut self, node: &Node) -> Result<Option<Form>, DeviceError> {
        let [first, second] = node.operands[..] else {
            return Err(self.unsupported("other than two operands"));
        };
        let one_row = self.is_gate(node) || self.choices.contains_key(&second);
        let reader = self.graph.nodes.iter().find(|other| other.operands.contains(&node.result));
        let only_added = self.uses[node.result.index()] == 1
            && reader.is_some_and(|reader| reader.op == Op::Add && reader.operands[1] == node.result);
        if one_row && only_added {
            self.gated.insert(node.result, [first, second]);
            return Ok(None);
        }
        self.elementwise(node, "ttnn.multiply").map(Some)
    }

    /// An addition: `a + b`, or `a + y * gate` at once.
    pub(super) fn sum(&mut self, node: &Node) -> Result<Form, DeviceError> {
        let gated = node.operands.get(1).and_then(|second| self.gated.get(second)).copied();
        let Some([y, gate]) = gated else { return self.elementwise(node, "ttnn.add") };
        if let Some(linear) = self.ungated.remove(&y) {
            let product = self.gated_product(&linear, gate)?;
            self.forms.insert(node.operands[1], product);
            return self.elementwise(node, "ttnn.add");
        }
        let (a, rows, columns) = self.rows_and_columns(node.operands[0])?;
        let y = self.like(y, &rows, &columns)?;
        let gate = self.like(gate, &rows, &columns)?;
        let result = self.activation(vec![1, 1, rows.physical, columns.physical], Role::Activation);
        let operands = [a, y, gate].map(Argument::Tensor).to_vec();
        let attributes =
            vec![("value", Argument::Number(1.0)), ("memory_config", Argument::Memory(result.memory))];
        let tensor = self.call("ttnn.addcmul", operands, attributes, result);
        Ok(Form::Matrix { tensor, columns })
    }

    /// Addition and multiplication; a constant second operand is repeated to as many rows.
    fn elementwise(&mut self, node: &Node, operation: &'static str) -> Result<Form, DeviceError> {
        let [first, second] = node.operands[..] else {
            return Err(self.unsupported("other than two operands"));
        };
        let (a, rows, columns) = self.rows_and_columns(first)?;
        let b = self.like(second, &rows, &columns)?;
        let mut result = self.activation(vec![1, 1, rows.physical, columns.physical], Role::Activation);
        if node.op == Op::Add && self.is_normed(node.result) {
            result.memory =
                spread::stream(rows.physical, columns.physical, self.card).unwrap_or(result.memory);
        }
        let operands = vec![Argument::Tensor(a), Argument::Tensor(b)];
        let attributes = vec![("memory_config", Argument::Memory(result.memory))];
        let tensor = self.call(operation, operands, attributes, result);
        Ok(Form::Matrix { tensor, columns })
    }

    /// Where a stream of residuals of such a size lies.
    pub(super) fn stream(&self, rows: usize, width: usize) -> Memory {
        let shared = spread::stream(rows, width, self.card);
        shared.unwrap_or_else(|| self.memory(&[rows, width], self.precisions.dtype(Role::Activation)))
    }

    /// Whether a norm reads it.
    pub(super) fn is_normed(&self, id: ValueId) -> bool {
        let mut readers = self.graph.nodes.iter().filter(|node| node.operands[0] == id);
        readers.any(|node| matches!(node.op, Op::LayerNorm { .. } | Op::RmsNorm { .. }))
    }

    /// The same, or whether it is added to what a norm reads.
    fn joins_stream(&self, id: ValueId) -> bool {
        let mut sums =
            self.graph.nodes.iter().filter(|node| node.op == Op::Add && node.operands.contains(&id));
        self.is_normed(id) || sums.any(|sum| self.is_normed(sum.result))
    }

    pub(super) fn rows_and_columns(&mut self, id: ValueId) -> Result<(TensorId, Axis, Axis), DeviceError> {
        let (tensor, columns) = self.matrix(id)?;
        Ok((tensor, self.row_axis(id)?, columns))
    }

    pub(super) fn is_constant(&self, id: ValueId) -> bool {
        self.constant[id.index()]
    }

    /// An operand that must lie like the other one; a constant is put there so, its rows repeated.
    pub(super) fn like(&mut self, id: ValueId, rows: &Axis, columns: &Axis) -> Result<TensorId, DeviceError> {
        if self.is_constant(id) {
            let shape = vec![1, 1, rows.physical, columns.physical];
            let stored = Stored::tiled(shape, self.precisions.dtype(Role::Small), Memory::Dram);
            return Ok(self.content(Content::matrix(self.graph, id, rows, columns, 1.0), stored));
        }
        if let Some(&choice) = self.choices.get(&id) {
            return self.chosen(choice, rows, columns);
        }
        let (tensor, other_rows, other_columns) = self.rows_and_columns(id)?;
        if other_rows != *rows || other_columns != *columns {
            return Err(self.unsupported("two operands that lie differently"));
        }
        Ok(tensor)
    }

    pub(super) fn activate(&mut self, node: &Node, activation: Activation) -> Result<Form, DeviceError> {
        let (x, columns) = self.matrix(node.operands[0])?;
        let stored = self.program.tensor(x);
        let result = Stored::tiled(stored.shape.clone(), stored.dtype, stored.memory);
        let (operation, attributes) = match activation {
            Activation::Silu => ("ttnn.silu", Vec::new()),
            Activation::GeluTanh => {
                ("ttnn.unary_chain", vec![Argument::List(vec![Argument::Unary(unary(activation))])])
            }
        };
        let operands = std::iter::once(Argument::Tensor(x)).chain(attributes).collect();
        let tensor = self.call(operation, operands, Vec::new(), result);
        Ok(Form::Matrix { tensor, columns })
    }

    /// `x + dt v`. Where v's only reader is this step, its weights have `dt` in them already.
    pub(super) fn euler_step(&mut self, node: &Node, dt: f32) -> Result<Form, DeviceError> {
        let ((x, columns), (mut v, _)) = (self.matrix(node.operands[0])?, self.matrix(node.operands[1])?);
        if self.row_axis(node.operands[0])? != self.row_axis(node.operands[1])? {
            return Err(self.unsupported("a flow whose rows lie differently from its velocity's"));
        }
        let rows = self.row_axis(node.result)?.physical;
        let result = self.activation(vec![1, 1, rows, columns.physical], Role::Flow);
        let memory = vec![("memory_config", Argument::Memory(result.memory))];
        if self.flow_scale(node.operands[1]) == 1.0 {
            let operands = vec![Argument::Tensor(v), Argument::Number(f64::from(dt))];
            let scaled = Stored { dtype: DataType::Float32, ..result.clone() };
            v = self.call("ttnn.multiply", operands, memory.clone(), scaled);
        }
        let operands = vec![Argument::Tensor(x), Argument::Tensor(v)];
        let tensor = self.call("ttnn.add", operands, memory, result);
        Ok(Form::Matrix { tensor, columns })
    }
}
