//! Turns a graph into a TTNN program: every node becomes calls of the library, or is an error. Called by the device and by
//! the audit, which needs no card for it.
//!
//! `rows`, `heads` and `stack` plan where things lie; then each node is lowered in order, products by `products` and
//! `gated` (over the cores as `spread` says), attention by `attention`, `past` and `masks`, tokens and positions by `tokens`, what only moves by `moves`.

mod attention;
mod gated;
mod guide;
mod heads;
mod masks;
mod moves;
mod past;
mod products;
mod rows;
mod spread;
mod stack;
mod tokens;

use std::collections::HashMap;

pub use heads::Heads;

use self::heads::HeadPlan;
use self::rows::RowPlan;
use self::stack::Stack;
use super::axis::Axis;
use super::card::Card;
use super::content::Content;
use super::precision::{Precisions, Role};
use super::program::{
    Argument, Call, DataType, Layout, Memory, Origin, Program, Result as Placed, Tensor, TensorId,
};
use crate::device::DeviceError;
use crate::graph::{Activation, Graph, Node, Op, Source, ValueId};

/// A value that one program left for others: how it is stored and where its rows lie.
#[derive(Clone, Debug)]
pub struct Resident {
    pub tensor: Tensor,
    kind: ResidentKind,
    rows: Axis,
    /// The name under which its tensor stays.
    holder: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ResidentKind {
    Heads(Heads),
    /// Keys (part 0) or values (part 1) of a pair.
    Paired(usize),
    Mask,
}

/// Residents by name.
pub type Residents = HashMap<String, Resident>;

/// A graph's value on the card. Shapes are those of the tensors; `R` counts all rows, padding included.
#[derive(Clone, Debug)]
enum Form {
    /// `[1, 1, R, columns]`
    Matrix { tensor: TensorId, columns: Axis },
    /// `[sequences, heads, R / sequences, padded head_dim]`
    Heads { tensor: TensorId, heads: Heads },
    /// Keys (part 0) or values (part 1) in one tensor, `[1, 2, R, padded head_dim]`.
    Paired { tensor: TensorId, part: usize },
    /// Keys, values or queries in one tensor as the program's [`Stack`] says.
    Stacked(TensorId),
    /// 1 for what is there and 0 for what is not: `[1, 1, 1, R]`.
    Mask(TensorId),
    /// Whole numbers in f32, `[1, 1, 1, lines]`: one for every row of every head that is rotated at once. `lines` says
    /// where the value's own are.
    Positions { tensor: TensorId, lines: Axis },
    /// Cosines and sines of the pair, `[1, 2, R, padded head_dim]`, of the stack tile by tile, `[1, 1, stack's rows * padded head_dim / 32,
    /// 32]`, or where keys have several heads, of each by itself, `[1, 1, R, padded head_dim]`.
    Rotation { cosines: TensorId, sines: TensorId },
    /// `[1, R]`, uint32.
    Indices(TensorId),
    /// `[1, channels, height, width]`
    Image(TensorId),
    /// Squares of these images, not yet taken out.
    Patches { images: Vec<TensorId>, patch: usize },
}

/// Lowers `graph` for `card`. Values that it leaves are added to `residents`.
pub fn lower(
    graph: &Graph,
    card: &Card,
    precisions: Precisions,
    residents: &mut Residents,
) -> Result<Program, DeviceError> {
    let mut found = HashMap::new();
    for (id, value) in graph.ids().filter(|(_, value)| value.source == Source::Resident) {
        let resident = residents.get(&value.name).ok_or_else(|| DeviceError::MissingResident {
            graph: graph.name.clone(),
            name: value.name.clone(),
        })?;
        found.insert(id, resident.clone());
    }
    let rows =
        RowPlan::of(graph, &found.iter().map(|(&id, resident)| (id, resident.rows.clone())).collect())?;
    let heads = HeadPlan::of(graph);
    let stack = Stack::of(graph, &heads, &rows, card)?;
    let constant = graph.constants();
    let mut lowering = Lowering {
        graph,
        card,
        precisions,
        rows,
        heads,
        stack,
        uses: graph.use_counts(),
        constant: constant.clone(),
        turned: HashMap::new(),
        ungated: HashMap::new(),
        gated: HashMap::new(),
        choices: HashMap::new(),
        widened: HashMap::new(),
        program: Program { name: graph.name.clone(), ..Program::default() },
        forms: HashMap::new(),
        contents: HashMap::new(),
        masks: HashMap::new(),
        node: String::new(),
    };
    let mut held = HashMap::new();
    for (id, resident) in found {
        let Resident { tensor, kind, holder, .. } = resident;
        let tensor = *held
            .entry(holder.clone())
            .or_insert_with(|| lowering.add(Tensor { origin: Origin::Resident(holder), ..tensor }));
        let form = match kind {
            ResidentKind::Heads(heads) => Form::Heads { tensor, heads },
            ResidentKind::Paired(part) => Form::Paired { tensor, part },
            ResidentKind::Mask => Form::Mask(tensor),
        };
        lowering.forms.insert(id, form);
    }
    lowering.inputs()?;
    for node in graph.nodes.iter().filter(|node| !constant[node.result.index()]) {
        lowering.node = node.name.clone();
        lowering.lower(node)?;
    }
    lowering.finish(residents)
}

/// A lowering under way.
struct Lowering<'a> {
    graph: &'a Graph,
    card: &'a Card,
    precisions: Precisions,
    rows: RowPlan,
    heads: HeadPlan,
    stack: Option<Stack>,
    /// Which values depend on nothing that varies.
    constant: Vec<bool>,
    /// Paired, stacked or single heads by themselves, and rotated.
    turned: HashMap<TensorId, TensorId>,
    /// Linears that are left to the sums that read their gated results.
    ungated: HashMap<ValueId, Node>,
    /// How many nodes and results read each value.
    uses: Vec<usize>,
    /// Products with one constant row that are left to the sums that read them: both factors.
    gated: HashMap<ValueId, [ValueId; 2]>,
    /// Choices between constants that are left to whoever reads them: both, and the weights.
    choices: HashMap<ValueId, [ValueId; 3]>,
    /// Columns that stand in all columns of a matrix: by value, columns and type.
    widened: HashMap<(ValueId, usize, DataType), TensorId>,
    program: Program,
    forms: HashMap<ValueId, Form>,
    /// Contents that are tensors already, by key.
    contents: HashMap<String, TensorId>,
    /// What is added to scores, by who is masked and how.
    masks: HashMap<String, TensorId>,
    /// Name of the node that is being lowered.
    node: String,
}

impl Lowering<'_> {
    fn lower(&mut self, node: &Node) -> Result<(), DeviceError> {
        let form = match &node.op {
            Op::Linear { activation, exact } => self.linear(node, *activation, *exact)?,
            Op::GatedLinear { activation } => Some(self.gated_linear(node, *activation)?),
            Op::LayerNorm { epsilon } => Some(self.norm(node, "ttnn.layer_norm", *epsilon)?),
            Op::RmsNorm { epsilon } => Some(self.norm(node, "ttnn.rms_norm", *epsilon)?),
            Op::RotaryTable { head_dim, theta } => Some(self.rotary_table(node, *head_dim, *theta)?),
            Op::Rotary { .. } => Some(self.rotary(node)?),
            Op::Attention(attention) => Some(self.attention(node, attention)?),
            Op::Embedding { scale } => Some(self.embedding(node, *scale)?),
            Op::Patchify { patch } => Some(self.patchify(node, *patch)?),
            Op::Concat { axis } => Some(self.concat(node, *axis)?),
            Op::Slice { axis, start, end } => self.slice(node, *axis, *start, *end)?,
            Op::Add => Some(self.sum(node)?),
            Op::Multiply => self.multiply(node)?,
            Op::Activate(activation) => Some(self.activate(node, *activation)?),
            Op::EulerStep { dt } => Some(self.euler_step(node, *dt)?),
            Op::Guide { ahead, strength } => Some(self.guide(node, *ahead, *strength)?),
            Op::Choose => self.choose(node)?,
            Op::PrefixMask { image_tokens } => Some(self.prefix_mask(node, *image_tokens)?),
            Op::Positions => Some(self.positions(node)?),
            Op::PositionsAfter { .. } => Some(self.positions_after(node)?),
            Op::Repeat { .. } => return Err(self.unsupported("a repeated row that is not constant")),
        };
        if let Some(form) = form {
            self.forms.insert(node.result, form);
        }
        Ok(())
    }

    fn unsupported(&self, what: &str) -> DeviceError {
        DeviceError::Unsupported { node: self.node.clone(), what: what.into() }
    }

    fn add(&mut self, tensor: Tensor) -> TensorId {
        self.program.tensors.push(tensor);
        TensorId(self.program.tensors.len() as u32 - 1)
    }

    /// A call with one result.
    fn call(
        &mut self,
        operation: &'static str,
        operands: Vec<Argument>,
        attributes: Vec<(&'static str, Argument)>,
        result: Stored,
    ) -> TensorId {
        self.call_for(operation, operands, attributes, vec![result])[0]
    }

    fn call_for(
        &mut self,
        operation: &'static str,
        operands: Vec<Argument>,
        attributes: Vec<(&'static str, Argument)>,
        results: Vec<Stored>,
    ) -> Vec<TensorId> {
        let results: Vec<TensorId> = results
            .into_iter()
            .map(|Stored { shape, dtype, layout, memory }| {
                let name = self.node.clone();
                self.add(Tensor { name, shape, dtype, layout, memory, origin: Origin::Call })
            })
            .collect();
        self.program.calls.push(Call {
            operation,
            operands,
            attributes,
            results: results.clone(),
            node: self.node.clone(),
            last_uses: Vec::new(),
        });
        results
    }

    /// A tensor that holds `content` from the start.
    fn content(&mut self, content: Content, stored: Stored) -> TensorId {
        let key = format!("{} as {:?} {}", content.key(), stored.shape, stored.dtype.name());
        if let Some(&known) = self.contents.get(&key) {
            return known;
        }
        let Stored { shape, dtype, layout, memory } = stored;
        let name = key.split(';').next().unwrap_or_default().to_owned();
        let id = self.add(Tensor { name, shape, dtype, layout, memory, origin: Origin::Content(content) });
        self.contents.insert(key, id);
        id
    }

    /// A small matrix made here, `[1, 1, rows, columns]`, tiled. Its values must be exact in bf16.
    fn literal(&mut self, key: String, [rows, columns]: [usize; 2], values: Vec<f32>) -> TensorId {
        let stored = Stored::tiled(vec![1, 1, rows, columns], DataType::Bfloat16, Memory::Dram);
        self.content(Content::literal(format!("{key} {rows}x{columns}"), values), stored)
    }

    /// Keys or values as a matrix.
    fn one_of_pair(
        &mut self,
        id: ValueId,
        pair: TensorId,
        part: usize,
    ) -> Result<(TensorId, Axis), DeviceError> {
        let Some(heads) = self.heads.get(id) else {
            return Err(self.unsupported("keys or values that are no heads here"));
        };
        let pair = self.turned(pair);
        let one = self.cut(pair, 1, part..part + 1);
        Ok((self.side_by_side(one, &heads), heads.columns()))
    }

    /// An activation's memory: L1 if there is room beside the operations' own.
    fn memory(&self, shape: &[usize], dtype: DataType) -> Memory {
        let bytes = dtype.bytes(shape.iter().product());
        if bytes <= self.card.l1_activation_bytes_per_core * self.card.cores() {
            Memory::L1
        } else {
            Memory::Dram
        }
    }

    /// An activation of a shape.
    fn activation(&self, shape: Vec<usize>, role: Role) -> Stored {
        let dtype = self.precisions.dtype(role);
        let memory = self.memory(&shape, dtype);
        Stored::tiled(shape, dtype, memory)
    }

    fn row_axis(&self, id: ValueId) -> Result<Axis, DeviceError> {
        self.rows.rows(self.graph, id).cloned()
    }

    fn form(&self, id: ValueId) -> Result<&Form, DeviceError> {
        self.forms.get(&id).ok_or_else(|| self.unsupported("an operand that is constant, or is not made yet"))
    }

    /// A value as a matrix: its tensor and where its columns lie.
    fn matrix(&mut self, id: ValueId) -> Result<(TensorId, Axis), DeviceError> {
        if let Some(node) = self.ungated.remove(&id) {
            let form = self.plain_linear(&node)?;
            self.forms.insert(id, form);
        }
        match self.form(id)?.clone() {
            Form::Matrix { tensor, columns } => Ok((tensor, columns)),
            Form::Paired { tensor, part } => self.one_of_pair(id, tensor, part),
            Form::Patches { images, patch } => {
                let (tensor, columns) = self.take_patches(&images, patch)?;
                self.forms.insert(id, Form::Matrix { tensor, columns: columns.clone() });
                Ok((tensor, columns))
            }
            _ => Err(self.unsupported("an operand that is no matrix on the card")),
        }
    }

    fn mask_tensor(&self, id: ValueId) -> Result<TensorId, DeviceError> {
        match self.form(id)? {
            Form::Mask(tensor) => Ok(*tensor),
            _ => Err(self.unsupported("an operand that is no mask on the card")),
        }
    }

    /// Results, in the form that their readers want.
    fn finish(mut self, residents: &mut Residents) -> Result<Program, DeviceError> {
        let mut kept = HashMap::new();
        for binding in &self.graph.residents {
            let (id, rows) = (binding.value, self.row_axis(binding.value)?);
            self.node = self.graph.value(id).name.clone();
            let (tensor, kind) = match *self.form(id)? {
                Form::Heads { tensor, heads } => (tensor, ResidentKind::Heads(heads)),
                Form::Paired { tensor, part } => {
                    let turned = self.turned(tensor);
                    let cache = self.precisions.dtype(Role::Cache);
                    let pair = kept.entry(turned).or_insert_with(|| self.typed(turned, cache, Memory::Dram));
                    (*pair, ResidentKind::Paired(part))
                }
                Form::Mask(tensor) => (tensor, ResidentKind::Mask),
                _ => {
                    return Err(self.unsupported("a resident value that is neither keys, values nor a mask"));
                }
            };
            let known = self.program.residents.iter().find(|(_, known)| *known == tensor);
            let holder = match known {
                Some((holder, _)) => holder.clone(),
                None => {
                    self.program.residents.push((binding.name.clone(), tensor));
                    binding.name.clone()
                }
            };
            let stored = self.program.tensor(tensor).clone();
            residents.insert(binding.name.clone(), Resident { tensor: stored, kind, rows, holder });
        }
        for binding in &self.graph.outputs {
            let id = binding.value;
            self.node = self.graph.value(id).name.clone();
            if !self.forms.contains_key(&id) {
                continue; // Known when the graph was built: nothing to read from a card.
            }
            let rows = self.row_axis(id)?;
            let (tensor, rows, columns) = match self.form(id)?.clone() {
                Form::Mask(tensor) => (tensor, Axis::exact(1), rows),
                Form::Positions { tensor, lines } => (tensor, Axis::exact(1), lines),
                Form::Heads { tensor, heads } => (self.side_by_side(tensor, &heads), rows, heads.columns()),
                _ => {
                    let (tensor, columns) = self.matrix(id)?;
                    (tensor, rows, columns)
                }
            };
            let tensor = self.for_reading(tensor);
            self.program.outputs.push(Placed { name: binding.name.clone(), tensor, rows, columns });
        }
        self.program.find_last_uses();
        Ok(self.program)
    }

    /// A tensor as the host reads it: f32, row by row.
    fn for_reading(&mut self, tensor: TensorId) -> TensorId {
        let (shape, float) = (self.program.tensor(tensor).shape.clone(), DataType::Float32);
        let tensor = self.typed(tensor, float, Memory::Dram);
        self.call(
            "ttnn.to_layout",
            vec![Argument::Tensor(tensor), Argument::Layout(Layout::RowMajor)],
            vec![("memory_config", Argument::Memory(Memory::Dram))],
            Stored { shape, dtype: float, layout: Layout::RowMajor, memory: Memory::Dram },
        )
    }
}

/// How a tensor is stored.
#[derive(Clone, Debug)]
struct Stored {
    shape: Vec<usize>,
    dtype: DataType,
    layout: Layout,
    memory: Memory,
}

impl Stored {
    fn tiled(shape: Vec<usize>, dtype: DataType, memory: Memory) -> Self {
        Self { shape, dtype, layout: Layout::Tile, memory }
    }
}

/// The library's name of an element-wise function.
fn unary(activation: Activation) -> &'static str {
    match activation {
        Activation::GeluTanh => "GELU_TANH",
        Activation::Silu => "SILU",
    }
}
