//! The model as data: tensors, operations, a builder with shape inference, passes. Knows no other room.
//!
//! `policy` builds a [`Graph`], [`passes`] simplify it, a `device` compiles it into a program.

pub mod builder;
pub mod cost;
mod infer;
pub mod op;
mod part;
pub mod passes;
pub mod tensor;
pub mod weights;

use std::fmt;

pub use builder::GraphBuilder;
pub use cost::Cost;
pub use op::{Activation, Attention, Op};
pub use tensor::{DType, HostTensor, HostView, TensorType};
pub use weights::{NotFinite, Storage, WeightData, WeightError, WeightFormat, Weights, are_finite};

/// Names one value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(u32);

impl ValueId {
    /// Position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Written by the host before each run.
    Input,
    /// A device buffer that another program of the same device wrote (`name` as there).
    Resident,
    /// A tensor of the checkpoint under `key`, stored with shape `stored` and read here with the value's own
    /// shape (same elements, row-major: a convolution's weight read as a matrix).
    Weight { key: String, stored: Vec<usize> },
    /// Known when the graph is built.
    Constant(HostTensor),
    /// The result of `nodes[index]`.
    Node(usize),
}

/// One typed value.
#[derive(Clone, Debug)]
pub struct Value {
    pub name: String,
    pub ty: TensorType,
    pub source: Source,
}

/// One operation with its name path (`vlm.layers.3.attn.q`), operands and single result.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub op: Op,
    pub operands: Vec<ValueId>,
    pub result: ValueId,
}

/// A value under the name by which the host reads it or another program finds it.
#[derive(Clone, Debug)]
pub struct Binding {
    pub name: String,
    pub value: ValueId,
}

/// A program as data: nodes in an order in which every operand precedes its user.
#[derive(Clone, Debug)]
pub struct Graph {
    pub name: String,
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    /// Values the host reads after a run.
    pub outputs: Vec<Binding>,
    /// Values that stay on the device for other programs (the KV cache).
    pub residents: Vec<Binding>,
}

impl Graph {
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Shape of a value.
    pub fn shape(&self, id: ValueId) -> &[usize] {
        &self.value(id).ty.shape
    }

    /// The values the host writes, in the order they were declared.
    pub fn inputs(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.ids().filter(|(_, value)| value.source == Source::Input)
    }

    /// Every value with its id.
    pub fn ids(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(index, value)| (ValueId(index as u32), value))
    }

    /// Everything that must survive a run: outputs, then residents.
    pub fn results(&self) -> impl Iterator<Item = &Binding> {
        self.outputs.iter().chain(&self.residents)
    }

    /// Which values are made of weights and constants alone, indexed by [`ValueId::index`]: a device computes them once,
    /// when it compiles.
    pub fn constants(&self) -> Vec<bool> {
        let mut constant: Vec<bool> = self
            .values
            .iter()
            .map(|value| matches!(value.source, Source::Constant(_) | Source::Weight { .. }))
            .collect();
        for node in &self.nodes {
            constant[node.result.index()] = node.operands.iter().all(|id| constant[id.index()]);
        }
        constant
    }

    /// How many nodes and results read each value, indexed by [`ValueId::index`].
    pub fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.values.len()];
        for id in self.nodes.iter().flat_map(|node| &node.operands) {
            counts[id.index()] += 1;
        }
        for binding in self.results() {
            counts[binding.value.index()] += 1;
        }
        counts
    }
}

/// A graph that cannot be: which node, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphError {
    pub node: String,
    pub message: String,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node '{}': {}", self.node, self.message)
    }
}

impl std::error::Error for GraphError {}
