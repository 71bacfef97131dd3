//! Which sums a device can compute with the product that feeds them: residuals, gated or not, and Euler steps, where nobody else
//! reads the value in between. Called by `cpu` and `cuda` when they lower a graph.

use std::collections::HashMap;

use crate::graph::{Graph, Node, Op, Source, ValueId};

/// A linear with something added to it: `addend + scale * gate * linear`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum {
    /// The linear's node.
    pub linear: usize,
    pub addend: ValueId,
    pub scale: f32,
    /// One row.
    pub gate: Option<ValueId>,
}

/// All sums of a graph.
#[derive(Clone, Debug)]
pub struct Sums {
    /// By the node that gives the sum.
    pub of: HashMap<usize, Sum>,
    /// By node: computed within a sum.
    pub absorbed: Vec<bool>,
}

impl Sums {
    /// The sums of `graph`, of whose values some are `constant`, indexed by [`ValueId::index`].
    pub fn of(graph: &Graph, constant: &[bool]) -> Self {
        let uses = graph.use_counts();
        let only_for_reader = |id: ValueId| only_for_reader(graph, constant, &uses, id);
        let mut sums = Self { of: HashMap::new(), absorbed: vec![false; graph.nodes.len()] };
        for (index, node) in graph.nodes.iter().enumerate() {
            match &node.op {
                Op::Add => {
                    let [a, b] = [node.operands[0], node.operands[1]];
                    for (addend, other) in [(a, b), (b, a)] {
                        let sum = Sum { linear: 0, addend, scale: 1.0, gate: None };
                        sums.sum(index, graph, only_for_reader(other), sum, node);
                        sums.gated_sum(index, graph, &only_for_reader, other, sum, node);
                    }
                }
                Op::EulerStep { dt } => {
                    let sum = Sum { linear: 0, addend: node.operands[0], scale: *dt, gate: None };
                    sums.sum(index, graph, only_for_reader(node.operands[1]), sum, node);
                }
                _ => {}
            }
        }
        sums
    }

    /// Notes that node `index` is a sum with `linear`, if that is a linear with as many rows.
    fn sum(&mut self, index: usize, graph: &Graph, linear: Option<(usize, &Node)>, sum: Sum, node: &Node) {
        if let Some((linear, of)) = linear
            && matches!(of.op, Op::Linear { .. })
            && graph.shape(of.result) == graph.shape(node.result)
            && !self.of.contains_key(&index)
        {
            self.absorbed[linear] = true;
            self.of.insert(index, Sum { linear, ..sum });
        }
    }

    /// Notes that node `index` is a sum with `gated`, if that is a linear times one row.
    fn gated_sum<'a>(
        &mut self,
        index: usize,
        graph: &Graph,
        only_for_reader: &impl Fn(ValueId) -> Option<(usize, &'a Node)>,
        gated: ValueId,
        sum: Sum,
        node: &Node,
    ) {
        let Some((product, Node { op: Op::Multiply, operands, .. })) = only_for_reader(gated) else { return };
        if graph.value(operands[1]).ty.rows() != 1 || self.of.contains_key(&index) {
            return;
        }
        self.sum(index, graph, only_for_reader(operands[0]), Sum { gate: Some(operands[1]), ..sum }, node);
        self.absorbed[product] |= self.of.contains_key(&index);
    }
}

/// The node that makes a value which varies and which only one node reads.
pub fn only_for_reader<'a>(
    graph: &'a Graph,
    constant: &[bool],
    uses: &[usize],
    id: ValueId,
) -> Option<(usize, &'a Node)> {
    match graph.value(id).source {
        Source::Node(index) if uses[id.index()] == 1 && !constant[id.index()] => {
            Some((index, &graph.nodes[index]))
        }
        _ => None,
    }
}
