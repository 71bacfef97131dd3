//! Takes constant columns out of a linear's input. All times of the denoising loop are known, so the half of the action
//! and time MLP that reads the time embedding is a bias, and a device computes it once. Where some points are given, theirs is
//! the time at the end of the flow, so there are two biases to choose from.

use super::{Graph, GraphError};
use crate::graph::builder::Added;
use crate::graph::{GraphBuilder, Node, Op, Source, ValueId};

/// `linear([a, c], w, b)` with a constant row c, repeated, becomes `linear(a, w_a, linear(c, w_c, b))`; with constant rows c and d
/// to choose from it becomes `linear(a, w_a) + choose(linear(c, w_c, b), linear(d, w_c, b))`.
pub fn hoist_constant_columns(graph: Graph) -> Result<Graph, GraphError> {
    let constant = graph.constants();
    let found: Vec<Option<(ValueId, Constant)>> =
        graph.nodes.iter().map(|node| constant_columns(&graph, node, &constant)).collect();
    let (mut b, nodes) = GraphBuilder::rewrite(graph);
    for (mut node, found) in nodes.into_iter().zip(found) {
        if let Some((a, constant)) = found {
            let (weight, name) = (node.operands[1], node.name.clone());
            let (split, end) = (b.graph().shape(a)[1], b.graph().shape(weight)[1]);
            let slice = |start, end| Op::Slice { axis: 1, start, end };
            let weight_a = b.add_node(&format!("{name}.weight"), slice(0, split), &[weight])?;
            let weight_row = b.add_node(&format!("{name}.constant_weight"), slice(split, end), &[weight])?;
            let bias = node.operands.get(2).copied();
            let shift = |b: &mut GraphBuilder, what: &str, row: ValueId| -> Added {
                b.linear(&format!("{name}.{what}"), row, weight_row, bias)
            };
            match constant {
                Constant::Repeated(row) => {
                    let shift = shift(&mut b, "constant", row)?;
                    node.operands = vec![a, weight_a, shift];
                }
                Constant::Chosen([one, other], weights) => {
                    let shifts =
                        [shift(&mut b, "constant", one)?, shift(&mut b, "other_constant", other)?, weights];
                    let shift = b.add_node(&format!("{name}.shift"), Op::Choose, &shifts)?;
                    let product = b.add_node(&format!("{name}.product"), node.op, &[a, weight_a])?;
                    (node.op, node.operands) = (Op::Add, vec![product, shift]);
                }
            }
        }
        b.keep(node);
    }
    Ok(b.finish())
}

/// Constant columns of all rows.
enum Constant {
    Repeated(ValueId),
    /// Two rows, and by which weights one of them is chosen.
    Chosen([ValueId; 2], ValueId),
}

/// The varying and the constant columns of a linear's input `[varying, constant]`.
fn constant_columns(graph: &Graph, node: &Node, constant: &[bool]) -> Option<(ValueId, Constant)> {
    let made_by = |id: ValueId| match graph.value(id).source {
        Source::Node(index) => Some(&graph.nodes[index]),
        _ => None,
    };
    // Without an activation, what is added may as well come behind it.
    if !matches!(node.op, Op::Linear { activation: None, .. }) {
        return None;
    }
    let both = made_by(node.operands[0]).filter(|both| both.op == Op::Concat { axis: 1 })?;
    let &[a, rows] = &both.operands[..] else { return None };
    let rows = made_by(rows)?;
    let is_row = |id: ValueId| constant[id.index()] && graph.value(id).ty.rows() == 1;
    let found = match (&rows.op, &rows.operands[..]) {
        (Op::Repeat { .. }, &[row]) if is_row(row) => Constant::Repeated(row),
        (Op::Choose, &[one, other, weights]) if is_row(one) && is_row(other) => {
            Constant::Chosen([one, other], weights)
        }
        _ => return None,
    };
    (!constant[a.index()]).then_some((a, found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{HostTensor, TensorType, passes};

    #[test]
    fn a_repeated_constant_becomes_a_bias() {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([5, 4]));
        let (w, bias) = (b.weight("w", &[3, 6]), b.weight("b", &[3]));
        let row = b.constant("row", &[1, 2], HostTensor::F32(vec![1.0, 2.0]));
        let repeated = b.add_node("repeated", Op::Repeat { rows: 5 }, &[row]).unwrap();
        let both = b.concat("both", &[x, repeated], 1).unwrap();
        let y = b.linear("mlp", both, w, Some(bias)).unwrap();
        b.output("y", y);
        let graph = passes::remove_dead_nodes(hoist_constant_columns(b.finish()).unwrap());

        let constant = graph.constants();
        let varying: Vec<&Node> = graph.nodes.iter().filter(|node| !constant[node.result.index()]).collect();
        let [linear] = varying[..] else { panic!("{varying:?}") };
        assert_eq!(linear.operands[0], x);
        assert_eq!(graph.shape(linear.operands[1]), [3, 4]);
        assert_eq!(graph.shape(linear.operands[2]), [1, 3]);
    }

    #[test]
    fn constants_to_choose_from_become_two_biases() {
        let mut b = GraphBuilder::new("test");
        let (x, weights) =
            (b.input("x", TensorType::f32([5, 4])), b.input("weights", TensorType::f32([5, 1])));
        let (w, bias) = (b.weight("w", &[3, 6]), b.weight("b", &[3]));
        let rows = [1.0, 2.0].map(|value| b.constant("row", &[1, 2], HostTensor::F32(vec![value; 2])));
        let chosen = b.add_node("chosen", Op::Choose, &[rows[0], rows[1], weights]).unwrap();
        let both = b.concat("both", &[x, chosen], 1).unwrap();
        let y = b.linear("mlp", both, w, Some(bias)).unwrap();
        b.output("y", y);
        let graph = passes::remove_dead_nodes(hoist_constant_columns(b.finish()).unwrap());

        let constant = graph.constants();
        let varying = graph.nodes.iter().filter(|node| !constant[node.result.index()]);
        let kinds: Vec<(&str, &[usize])> =
            varying.map(|node| (node.op.kind(), graph.shape(node.operands[1]))).collect();
        assert_eq!(kinds, [("choose", &[1, 3][..]), ("linear", &[3, 4]), ("add", &[5, 3])]);
    }

    #[test]
    fn varying_columns_stay() {
        let mut b = GraphBuilder::new("test");
        let (x, y) = (b.input("x", TensorType::f32([5, 4])), b.input("y", TensorType::f32([5, 2])));
        let w = b.weight("w", &[3, 6]);
        let both = b.concat("both", &[x, y], 1).unwrap();
        let z = b.linear("mlp", both, w, None).unwrap();
        b.output("z", z);
        assert_eq!(hoist_constant_columns(b.finish()).unwrap().nodes.len(), 2);
    }
}
