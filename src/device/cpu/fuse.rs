//! Which nodes the CPU computes inside others, and in which form each value is wanted. Made once per compilation, read by
//! `lower`.
//!
//! A sum, gated or not, or an Euler step is done while the tile of the product that feeds it is at hand; queries and keys are rotated
//! while they are packed for their attention; keys that are joined from parts are packed from these. All of it only
//! where nobody else reads the value in between.

use std::collections::HashMap;

use crate::device::sums::{self, Sum, Sums};
use crate::graph::{Graph, Node, Op, ValueId};

/// What the CPU makes of a graph's nodes besides one kernel each.
pub(super) struct Fusion {
    /// By node: computed within its reader.
    pub absorbed: Vec<bool>,
    /// Sums and Euler steps by node.
    pub sums: HashMap<usize, Sum>,
    /// Attentions by node.
    pub attentions: HashMap<usize, AttentionInputs>,
    /// By value: the last node that reads it, itself or as part of another value; more than there are nodes for what
    /// must survive the run.
    pub last_reader: Vec<usize>,
    /// By value: somebody reads its rows.
    pub rows: Vec<bool>,
    /// By value: a product reads it.
    pub packed: Vec<bool>,
    /// By value: an exact product reads it.
    pub packed_exact: Vec<bool>,
}

/// Rows, and the rotary table that turns them on their way if any.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rotated {
    pub x: ValueId,
    pub table: Option<ValueId>,
}

/// What an attention reads of its own sequence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AttentionInputs {
    pub query: Rotated,
    pub keys: Vec<Rotated>,
    pub values: Vec<Rotated>,
}

impl Fusion {
    pub fn of(graph: &Graph, constant: &[bool]) -> Self {
        let uses = graph.use_counts();
        let Sums { of: sums, absorbed } = Sums::of(graph, constant);
        let mut fusion = Self {
            absorbed,
            sums,
            attentions: HashMap::new(),
            last_reader: vec![0; graph.values.len()],
            rows: vec![false; graph.values.len()],
            packed: vec![false; graph.values.len()],
            packed_exact: vec![false; graph.values.len()],
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            if matches!(node.op, Op::Attention(_)) {
                let only_for_reader = |id| sums::only_for_reader(graph, constant, &uses, id);
                let inputs = fusion.attention(node, &only_for_reader);
                fusion.attentions.insert(index, inputs);
            }
        }
        fusion.forms(graph);
        fusion.last_readers(graph);
        fusion
    }

    fn attention<'a>(
        &mut self,
        node: &Node,
        only_for_reader: &impl Fn(ValueId) -> Option<(usize, &'a Node)>,
    ) -> AttentionInputs {
        let rotated = |fusion: &mut Self, x: ValueId| match only_for_reader(x) {
            Some((index, Node { op: Op::Rotary { .. }, operands, .. })) => {
                fusion.absorbed[index] = true;
                Rotated { x: operands[0], table: Some(operands[1]) }
            }
            _ => Rotated { x, table: None },
        };
        let parts = |fusion: &mut Self, x: ValueId| match only_for_reader(x) {
            Some((index, Node { op: Op::Concat { axis: 0 }, operands, .. })) => {
                fusion.absorbed[index] = true;
                operands.iter().map(|&part| rotated(fusion, part)).collect()
            }
            _ => vec![rotated(fusion, x)],
        };
        AttentionInputs {
            query: rotated(self, node.operands[0]),
            keys: parts(self, node.operands[1]),
            values: parts(self, node.operands[2]),
        }
    }

    fn last_readers(&mut self, graph: &Graph) {
        for binding in graph.results() {
            self.last_reader[binding.value.index()] = graph.nodes.len();
        }
        for (index, node) in graph.nodes.iter().enumerate().rev() {
            // A slice is a part of what it is of, and what is absorbed reads when its own reader does.
            let through = self.absorbed[index] || matches!(node.op, Op::Slice { .. } | Op::Repeat { .. });
            let reader = if through { self.last_reader[node.result.index()].max(index) } else { index };
            for operand in &node.operands {
                let last = &mut self.last_reader[operand.index()];
                *last = reader.max(*last);
            }
        }
    }

    /// Products read their left side packed, everybody else reads rows.
    fn forms(&mut self, graph: &Graph) {
        for node in &graph.nodes {
            for (position, operand) in node.operands.iter().enumerate() {
                let form = match (&node.op, position) {
                    (Op::Linear { exact: true, .. }, 0) => &mut self.packed_exact,
                    (Op::Linear { .. } | Op::GatedLinear { .. }, 0) => &mut self.packed,
                    _ => &mut self.rows,
                };
                form[operand.index()] = true;
            }
        }
        for binding in graph.results() {
            self.rows[binding.value.index()] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{GraphBuilder, TensorType};

    fn of(graph: &Graph) -> Fusion {
        Fusion::of(graph, &graph.constants())
    }

    #[test]
    fn a_residual_is_added_by_its_linear_unless_that_is_read_elsewhere() {
        for read in [false, true] {
            let mut b = GraphBuilder::new("test");
            let (x, w) = (b.input("x", TensorType::f32([2, 4])), b.weight("w", &[4, 4]));
            let y = b.linear("linear", x, w, None).unwrap();
            let sum = b.add("sum", x, y).unwrap();
            b.output("sum", sum);
            if read {
                b.output("y", y);
            }
            let fusion = of(&b.finish());
            assert_eq!(fusion.absorbed, [!read, false]);
            let expected = (!read).then_some(Sum { linear: 0, addend: x, scale: 1.0, gate: None });
            assert_eq!(fusion.sums.get(&1).copied(), expected);
            assert!(fusion.packed[x.index()] && fusion.rows[x.index()]);
        }
    }

    #[test]
    fn a_gate_of_one_row_joins_the_residual() {
        for rows in [1, 2] {
            let mut b = GraphBuilder::new("test");
            let (x, w) = (b.input("x", TensorType::f32([2, 4])), b.weight("w", &[4, 4]));
            let gate = b.input("gate", TensorType::f32([rows, 4]));
            let y = b.linear("linear", x, w, None).unwrap();
            let gated = b.multiply("gated", y, gate).unwrap();
            let sum = b.add("sum", x, gated).unwrap();
            b.output("sum", sum);
            let fusion = of(&b.finish());
            let one = rows == 1;
            assert_eq!(fusion.absorbed, [one, one, false]);
            let expected = Sum { linear: 0, addend: x, scale: 1.0, gate: Some(gate) };
            assert_eq!(fusion.sums.get(&2).copied(), one.then_some(expected));
        }
    }

    #[test]
    fn the_last_reader_of_a_part_is_one_of_the_whole() {
        let mut b = GraphBuilder::new("test");
        let (x, w) = (b.input("x", TensorType::f32([4, 4])), b.weight("w", &[4, 4]));
        let y = b.linear("y", x, w, None).unwrap();
        let part = b.rows("part", y, 1, 3).unwrap();
        let z = b.linear("z", x, w, None).unwrap();
        let sum = b.add("sum", z, y).unwrap();
        let late = b.linear("late", part, w, None).unwrap();
        b.output("sum", sum);
        b.output("late", late);
        let fusion = of(&b.finish());
        assert_eq!(fusion.last_reader[y.index()], 4);
        assert_eq!(fusion.last_reader[sum.index()], 5);
        // Read by the linear `z`, which is computed within the sum.
        assert_eq!(fusion.last_reader[x.index()], 3);
    }

    #[test]
    fn repeated_rows_are_an_addend_but_never_the_product() {
        let mut b = GraphBuilder::new("test");
        let (x, w) = (b.input("x", TensorType::f32([6, 4])), b.weight("w", &[4, 4]));
        let few = b.rows("few", x, 0, 3).unwrap();
        let (many, less) = (b.linear("many", x, w, None).unwrap(), b.linear("less", few, w, None).unwrap());
        let sum = b.add("sum", many, less).unwrap();
        b.output("sum", sum);
        let graph = b.finish();
        let fusion = of(&graph);
        assert_eq!(fusion.sums.len(), 1);
        assert_eq!(graph.nodes[fusion.sums[&3].linear].name, "many");
    }
}
