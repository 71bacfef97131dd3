//! A TTNN program as data: which operation of the library is called with which tensors and attributes, in order.
//!
//! `lower` writes it, `load` and `device` run it, `audit` counts it; printed or serialised it is what a card will be asked to do.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Value, json};

pub use super::argument::{Argument, Compute, MatmulSpread, MinimalSpread};
use super::axis::Axis;
use super::content::Content;
use crate::device::{Account, StepAccount};

/// A tensor of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub u32);

/// Element types of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataType {
    Bfloat16,
    /// Sixteen elements share an exponent of eight bits and have seven bits and a sign each.
    Bfloat8B,
    Float32,
    Uint32,
    Int32,
}

impl DataType {
    /// The library's name.
    pub fn name(self) -> &'static str {
        match self {
            DataType::Bfloat16 => "bfloat16",
            DataType::Bfloat8B => "bfloat8_b",
            DataType::Float32 => "float32",
            DataType::Uint32 => "uint32",
            DataType::Int32 => "int32",
        }
    }

    /// Size of `elements`, in bytes.
    pub fn bytes(self, elements: usize) -> usize {
        match self {
            DataType::Bfloat16 => 2 * elements,
            // A tile of 1024 elements and its 64 exponents.
            DataType::Bfloat8B => elements + elements / 16,
            DataType::Float32 | DataType::Uint32 | DataType::Int32 => 4 * elements,
        }
    }
}

/// How a tensor's elements follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Squares of 32 x 32, the last two axes padded to that.
    Tile,
    RowMajor,
}

impl Layout {
    pub fn name(self) -> &'static str {
        match self {
            Layout::Tile => "tile",
            Layout::RowMajor => "row_major",
        }
    }
}

/// Where a tensor lives, spread over all banks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    Dram,
    /// The memory beside the cores.
    L1,
    /// The same, but every core has all rows of some columns beside it, core after core along the rows of the grid: a norm
    /// of few rows would otherwise be done by as many cores as there are tiles of rows.
    Columns(Shards),
    /// The same in blocks of rows and columns, a row of cores having the same rows.
    Blocks(Shards),
}

/// What each core has of a tensor that is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shards {
    /// Columns and rows of cores.
    pub grid: [usize; 2],
    pub rows: usize,
    pub width: usize,
    /// Rows of the tensor lie along the rows of cores instead of down their columns.
    pub transposed: bool,
}

impl Shards {
    pub fn cores(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    pub(super) fn to_json(self) -> Value {
        json!({ "grid": self.grid, "rows": self.rows, "width": self.width, "transposed": self.transposed })
    }
}

impl Memory {
    pub fn name(self) -> &'static str {
        match self {
            Memory::Dram => "dram",
            Memory::L1 => "l1",
            Memory::Columns(_) => "l1_columns",
            Memory::Blocks(_) => "l1_blocks",
        }
    }

    /// How it is shared out, where each core has a part of its own.
    pub fn shards(self) -> Option<Shards> {
        match self {
            Memory::Columns(shards) | Memory::Blocks(shards) => Some(shards),
            Memory::Dram | Memory::L1 => None,
        }
    }
}

/// Where a tensor's elements come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The host writes it, the elements of the graph's input of this name.
    Input(String),
    /// Another program left it.
    Resident(String),
    /// Known at compilation.
    Content(Content),
    /// A call of this program.
    Call,
}

/// A tensor: its shape as the library sees it, and how it is stored.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: DataType,
    pub layout: Layout,
    pub memory: Memory,
    pub origin: Origin,
}

impl Tensor {
    /// Size on the card, in bytes, the padding of tiles included.
    pub fn bytes(&self) -> usize {
        let mut shape = self.shape.clone();
        if self.layout == Layout::Tile {
            shape.iter_mut().rev().take(2).for_each(|length| *length = length.next_multiple_of(super::TILE));
        }
        self.dtype.bytes(shape.iter().product())
    }
}

/// One call of the library.
#[derive(Clone, Debug)]
pub struct Call {
    /// `ttnn.linear`
    pub operation: &'static str,
    pub operands: Vec<Argument>,
    pub attributes: Vec<(&'static str, Argument)>,
    pub results: Vec<TensorId>,
    /// The graph's node that it helps to compute.
    pub node: String,
    /// Tensors that nobody reads after this call.
    pub last_uses: Vec<TensorId>,
}

/// Calls that give a tensor another shape, or a part of it, and move nothing. A reshape is one wherever this lowering makes
/// one of tiles that stay whole.
const VIEWS: [&str; 3] = ["ttnn.reshape", "ttnn.narrow", "ttnn.experimental.view"];

impl Call {
    /// The tensor whose memory the result is a view of.
    pub fn viewed(&self) -> Option<TensorId> {
        match self.operands.first() {
            Some(&Argument::Tensor(id)) if VIEWS.contains(&self.operation) => Some(id),
            _ => None,
        }
    }

    /// Every tensor that it reads.
    pub fn reads(&self) -> Vec<TensorId> {
        let mut found = Vec::new();
        let arguments = self.operands.iter().chain(self.attributes.iter().map(|(_, value)| value));
        arguments.for_each(|argument| argument.tensors(&mut |id| found.push(id)));
        found
    }

    /// The arguments as `tt-metal-sys` takes them.
    pub fn arguments(&self, handle: &impl Fn(TensorId) -> u64) -> Value {
        let operands: Vec<Value> = self.operands.iter().map(|operand| operand.to_json(handle)).collect();
        let attributes: serde_json::Map<String, Value> =
            self.attributes.iter().map(|(name, value)| ((*name).into(), value.to_json(handle))).collect();
        json!({ "operands": operands, "attributes": attributes })
    }
}

/// What the library itself wrote down of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallEvidence {
    /// Programs that were started on the card, by the library's own names for them; none for a view.
    pub programs: Vec<String>,
    /// Transfers between host and card.
    pub crossings: usize,
}

/// A result of the graph: where it lies, and which rows and columns of the tensor are its own.
#[derive(Clone, Debug)]
pub struct Result {
    pub name: String,
    pub tensor: TensorId,
    pub rows: Axis,
    pub columns: Axis,
}

/// A graph lowered to calls of the library.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub name: String,
    pub tensors: Vec<Tensor>,
    pub calls: Vec<Call>,
    /// Which rows of an input's tensor the graph's input fills; the others stay 0.
    pub inputs: Vec<Result>,
    pub outputs: Vec<Result>,
    /// What stays on the card for other programs.
    pub residents: Vec<(String, TensorId)>,
}

impl Program {
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// Every tensor with its number.
    pub fn ids(&self) -> impl Iterator<Item = (TensorId, &Tensor)> {
        self.tensors.iter().enumerate().map(|(index, tensor)| (TensorId(index as u32), tensor))
    }

    /// DRAM of what stays: contents, inputs, outputs and residents.
    pub fn fixed_bytes(&self) -> usize {
        let results = self.outputs.iter().map(|output| output.tensor);
        let kept: Vec<TensorId> = results.chain(self.residents.iter().map(|(_, id)| *id)).collect();
        self.ids()
            .filter(|(id, tensor)| match tensor.origin {
                Origin::Input(_) | Origin::Content(_) => true,
                Origin::Call => kept.contains(id),
                Origin::Resident(_) => false,
            })
            .map(|(_, tensor)| tensor.bytes())
            .sum()
    }

    /// Notes with each call which results nobody reads after it; results of the program stay.
    pub(super) fn find_last_uses(&mut self) {
        let stay = |program: &Self, id: TensorId| {
            program.outputs.iter().any(|output| output.tensor == id)
                || program.residents.iter().any(|(_, resident)| *resident == id)
        };
        let mut viewed: HashMap<TensorId, TensorId> = HashMap::new();
        for call in &self.calls {
            viewed.extend(call.viewed().and_then(|of| Some((*call.results.first()?, of))));
        }
        // Who reads a view reads what it is a view of.
        let with_viewed = |id: TensorId| std::iter::successors(Some(id), |id| viewed.get(id).copied());
        let mut seen = vec![false; self.tensors.len()];
        for index in (0..self.calls.len()).rev() {
            let call = &self.calls[index];
            let touched = call.reads().into_iter().chain(call.results.iter().copied());
            let mut last: Vec<TensorId> = touched
                .flat_map(with_viewed)
                .filter(|id| matches!(self.tensor(*id).origin, Origin::Call))
                .filter(|id| !std::mem::replace(&mut seen[id.0 as usize], true))
                .filter(|&id| !stay(self, id))
                .collect();
            // Views before what they are views of.
            last.sort_unstable_by(|a, b| b.cmp(a));
            self.calls[index].last_uses = last;
        }
    }

    /// The second factor of a product, if it is known at compilation.
    fn weights_of(&self, call: &Call) -> Option<&Tensor> {
        let is_product = call
            .attributes
            .iter()
            .any(|(_, argument)| matches!(argument, Argument::MatmulSpread(_) | Argument::MinimalSpread(_)));
        let Some(Argument::Tensor(id)) = call.operands.get(1).filter(|_| is_product) else { return None };
        Some(self.tensor(*id)).filter(|tensor| matches!(tensor.origin, Origin::Content(_)))
    }

    /// The program for an audit. `evidence`, if it is there, says what each call did; without it a call is one program.
    pub fn account(&self, place: String, evidence: &[CallEvidence]) -> Account {
        let step = |(index, call): (usize, &Call)| {
            let (programs, crossings) = match evidence.get(index) {
                Some(CallEvidence { programs, crossings }) => (programs.len(), *crossings),
                None => (usize::from(call.viewed().is_none()), 0),
            };
            let weight_bytes = Some(self.weights_of(call).map_or(0, Tensor::bytes));
            StepAccount { node: call.node.clone(), kernel: call.operation, programs, crossings, weight_bytes }
        };
        let bytes = |results: &[Result]| {
            results.iter().map(|result| (result.name.clone(), self.tensor(result.tensor).bytes())).collect()
        };
        let weights = || self.calls.iter().filter_map(|call| self.weights_of(call));
        let elements: usize = weights().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        Account {
            place,
            source: if evidence.is_empty() { "the lowered program" } else { "ttnn's own record of a run" },
            steps: self.calls.iter().enumerate().map(step).collect(),
            written: bytes(&self.inputs),
            read: bytes(&self.outputs),
            weight_element_bytes: weights().map(Tensor::bytes).sum::<usize>() as f64 / elements.max(1) as f64,
        }
    }

    /// Everything but the contents.
    pub fn to_json(&self) -> Value {
        let tensors = self.tensors.iter().map(|tensor| {
            let (origin, from) = match &tensor.origin {
                Origin::Input(name) => ("input", name.as_str()),
                Origin::Resident(name) => ("resident", name.as_str()),
                Origin::Content(content) => ("content", content.key()),
                Origin::Call => ("call", ""),
            };
            json!({
                "name": tensor.name,
                "shape": tensor.shape,
                "dtype": tensor.dtype.name(),
                "layout": tensor.layout.name(),
                "memory": tensor.memory.name(),
                "origin": origin,
                "from": from,
            })
        });
        let calls = self.calls.iter().map(|call| {
            let mut value = call.arguments(&|id| u64::from(id.0));
            value["operation"] = json!(call.operation);
            value["results"] = call.results.iter().map(|id| id.0).collect();
            value["last_uses"] = call.last_uses.iter().map(|id| id.0).collect();
            value["node"] = json!(call.node);
            value
        });
        let bindings = |results: &[Result]| -> Value {
            let binding = |result: &Result| {
                json!({
                    "name": result.name,
                    "tensor": result.tensor.0,
                    "rows": result.rows.places().collect::<Vec<_>>(),
                    "columns": result.columns.places().collect::<Vec<_>>(),
                })
            };
            results.iter().map(binding).collect()
        };
        json!({
            "name": self.name,
            "tensors": tensors.collect::<Value>(),
            "calls": calls.collect::<Value>(),
            "inputs": bindings(&self.inputs),
            "outputs": bindings(&self.outputs),
            "residents": self.residents.iter().map(|(name, id)| json!({ "name": name, "tensor": id.0 })).collect::<Value>(),
        })
    }
}

/// One line per call: `%7 = ttnn.linear(%1, %2, bias=%3)  [1, 1, 64, 2560] bfloat16 l1  steps.0.expert..`
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for call in &self.calls {
            let results: Vec<String> = call.results.iter().map(|id| format!("%{}", id.0)).collect();
            let attributes = call.attributes.iter().map(|(name, value)| format!("{name}={value}"));
            let operands: Vec<String> =
                call.operands.iter().map(Argument::to_string).chain(attributes).collect();
            write!(f, "{} = {}({})", results.join(", "), call.operation, operands.join(", "))?;
            if let Some(&first) = call.results.first() {
                let Tensor { shape, dtype, memory, .. } = self.tensor(first);
                write!(f, "  {shape:?} {} {}", dtype.name(), memory.name())?;
            }
            writeln!(f, "  {}", call.node)?;
        }
        Ok(())
    }
}
