//! Builds a graph node by node, inferring every shape as it goes. Called by `policy`, which writes the model with it.

use super::op::{Activation, Attention, Op};
use super::tensor::{HostTensor, TensorType};
use super::{Binding, Graph, GraphError, Node, Source, Value, ValueId, infer};

/// A graph under construction, with the name path that new nodes get.
pub struct GraphBuilder {
    graph: Graph,
    scope: Vec<String>,
}

/// What adding a node gives: its result, or an error that names the node.
pub type Added = Result<ValueId, GraphError>;

impl GraphBuilder {
    pub fn new(name: &str) -> Self {
        let graph = Graph {
            name: name.into(),
            values: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            residents: Vec::new(),
        };
        Self { graph, scope: Vec::new() }
    }

    /// The values of `graph` and none of its nodes, which are handed out: a pass puts back what it keeps ([`Self::keep`])
    /// and adds what it makes.
    pub(super) fn rewrite(mut graph: Graph) -> (Self, Vec<Node>) {
        let nodes = std::mem::take(&mut graph.nodes);
        (Self { graph, scope: Vec::new() }, nodes)
    }

    /// Puts a node back, under the value it had.
    pub(super) fn keep(&mut self, node: Node) {
        self.graph.values[node.result.index()].source = Source::Node(self.graph.nodes.len());
        self.graph.nodes.push(node);
    }

    /// The graph as rewritten so far.
    pub(super) fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// Everything `build` adds gets `name.` in front of its own name.
    pub fn scope<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(name.into());
        let built = build(self);
        self.scope.pop();
        built
    }

    /// The graph as built.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// A value that the host writes before each run.
    pub fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.value(name.into(), ty, Source::Input)
    }

    /// A value that another program of the same device left there.
    pub fn resident(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.value(name.into(), ty, Source::Resident)
    }

    /// A tensor of the checkpoint.
    pub fn weight(&mut self, key: &str, shape: &[usize]) -> ValueId {
        self.weight_as(key, shape, shape)
    }

    /// A tensor of the checkpoint stored with one shape and read with another of as many elements.
    pub fn weight_as(&mut self, key: &str, stored: &[usize], shape: &[usize]) -> ValueId {
        debug_assert_eq!(stored.iter().product::<usize>(), shape.iter().product::<usize>());
        let known = |value: &Value| matches!(&value.source, Source::Weight { key: k, .. } if k == key);
        match self.graph.values.iter().position(known) {
            Some(index) => ValueId(index as u32),
            None => self.value(
                key.into(),
                TensorType::f32(shape),
                Source::Weight { key: key.into(), stored: stored.into() },
            ),
        }
    }

    /// A value known now.
    pub fn constant(&mut self, name: &str, shape: &[usize], tensor: HostTensor) -> ValueId {
        debug_assert_eq!(shape.iter().product::<usize>(), tensor.view().elements());
        let ty = TensorType::new(tensor.view().dtype(), shape);
        let name = self.path(name);
        self.value(name, ty, Source::Constant(tensor))
    }

    /// Lets the host read `value` under `name`.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.outputs.push(Binding { name: name.into(), value });
    }

    /// Keeps `value` on the device for other programs, under `name`.
    pub fn keep_resident(&mut self, name: &str, value: ValueId) {
        self.graph.residents.push(Binding { name: name.into(), value });
    }

    /// Shape of a value.
    pub fn shape(&self, value: ValueId) -> &[usize] {
        self.graph.shape(value)
    }

    /// Adds any operation.
    pub fn add_node(&mut self, name: &str, op: Op, operands: &[ValueId]) -> Added {
        let name = self.path(name);
        let types: Vec<&TensorType> = operands.iter().map(|&id| &self.graph.value(id).ty).collect();
        let ty = infer::result_type(&op, &types).map_err(|message| GraphError {
            node: name.clone(),
            message: format!("{}: {message}", op.kind()),
        })?;
        let result = self.value(name.clone(), ty, Source::Node(self.graph.nodes.len()));
        self.graph.nodes.push(Node { name, op, operands: operands.to_vec(), result });
        Ok(result)
    }

    pub fn linear(&mut self, name: &str, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> Added {
        let operands: Vec<ValueId> = [x, weight].into_iter().chain(bias).collect();
        self.add_node(name, Op::Linear { activation: None, exact: false }, &operands)
    }

    /// As [`Self::linear`] with a bias, keeping all bits that the device has.
    pub fn exact_linear(&mut self, name: &str, x: ValueId, weight: ValueId, bias: ValueId) -> Added {
        self.add_node(name, Op::Linear { activation: None, exact: true }, &[x, weight, bias])
    }

    pub fn layer_norm(
        &mut self,
        name: &str,
        x: ValueId,
        weight: ValueId,
        bias: ValueId,
        epsilon: f32,
    ) -> Added {
        self.add_node(name, Op::LayerNorm { epsilon }, &[x, weight, bias])
    }

    pub fn rms_norm(&mut self, name: &str, x: ValueId, weight: ValueId, epsilon: f32) -> Added {
        self.add_node(name, Op::RmsNorm { epsilon }, &[x, weight])
    }

    /// A norm whose scale and shift `[1, width]` are made of something else (adaRMS).
    pub fn modulated_norm(
        &mut self,
        name: &str,
        x: ValueId,
        scale: ValueId,
        shift: ValueId,
        epsilon: f32,
    ) -> Added {
        self.add_node(name, Op::RmsNorm { epsilon }, &[x, scale, shift])
    }

    pub fn rotary(&mut self, name: &str, x: ValueId, table: ValueId, heads: usize) -> Added {
        self.add_node(name, Op::Rotary { heads }, &[x, table])
    }

    pub fn attention(&mut self, name: &str, attention: Attention, operands: &[ValueId]) -> Added {
        self.add_node(name, Op::Attention(attention), operands)
    }

    pub fn activate(&mut self, name: &str, activation: Activation, x: ValueId) -> Added {
        self.add_node(name, Op::Activate(activation), &[x])
    }

    pub fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> Added {
        self.add_node(name, Op::Add, &[a, b])
    }

    pub fn multiply(&mut self, name: &str, a: ValueId, b: ValueId) -> Added {
        self.add_node(name, Op::Multiply, &[a, b])
    }

    /// Joins matrices along `axis`; a single one is itself.
    pub fn concat(&mut self, name: &str, parts: &[ValueId], axis: usize) -> Added {
        match parts {
            [one] => Ok(*one),
            _ => self.add_node(name, Op::Concat { axis }, parts),
        }
    }

    /// Rows `start..end` of a matrix; all of them are the matrix itself.
    pub fn rows(&mut self, name: &str, x: ValueId, start: usize, end: usize) -> Added {
        if start == 0 && self.shape(x).first() == Some(&end) {
            return Ok(x);
        }
        self.add_node(name, Op::Slice { axis: 0, start, end }, &[x])
    }

    /// Columns `start..end` of a matrix.
    pub fn columns(&mut self, name: &str, x: ValueId, start: usize, end: usize) -> Added {
        self.add_node(name, Op::Slice { axis: 1, start, end }, &[x])
    }

    fn value(&mut self, name: String, ty: TensorType, source: Source) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name, ty, source });
        id
    }

    fn path(&self, name: &str) -> String {
        let mut path = self.scope.join(".");
        if !path.is_empty() {
            path.push('.');
        }
        path + name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DType;

    #[test]
    fn nodes_carry_the_path_of_their_scopes() {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 4]));
        let w = b.weight("w", &[3, 4]);
        let y = b.scope("vlm", |b| b.scope("mlp", |b| b.linear("up", x, w, None))).unwrap();
        let graph = b.finish();
        assert_eq!(graph.nodes[0].name, "vlm.mlp.up");
        assert_eq!(graph.shape(y), [2, 3]);
    }

    #[test]
    fn a_wrong_shape_names_the_node_and_both_sizes() {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 5]));
        let w = b.weight("w", &[3, 4]);
        let error = b.scope("vlm", |b| b.linear("up", x, w, None)).unwrap_err().to_string();
        assert_eq!(error, "node 'vlm.up': linear: columns of x and of weight: 5, expected 4");
    }

    #[test]
    fn a_mask_must_cover_the_keys() {
        let mut b = GraphBuilder::new("test");
        let q = b.input("q", TensorType::f32([6, 8]));
        let mask = b.input("mask", TensorType::new(DType::Bool, [5]));
        let attention = Attention {
            heads: 2,
            kv_heads: 2,
            head_dim: 4,
            scale: 0.5,
            sequences: 1,
            past: false,
            masked: true,
            blocks: vec![],
        };
        let error = b.attention("attn", attention, &[q, q, q, mask]).unwrap_err();
        assert!(error.message.contains("mask and keys"), "{error}");
    }

    #[test]
    fn a_weight_is_declared_once() {
        let mut b = GraphBuilder::new("test");
        assert_eq!(b.weight("w", &[3, 4]), b.weight("w", &[3, 4]));
    }
}
