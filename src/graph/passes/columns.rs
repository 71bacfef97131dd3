//! Takes constant columns out of a linear's input. All times of the denoising loop are known, so the half of the action
//! and time MLP that reads the time embedding is a bias, and a device computes it once.

use super::{Graph, GraphError};
use crate::graph::{GraphBuilder, Node, Op, Source, ValueId};

/// `linear([a, c], w, b)` with a constant row c, repeated, becomes `linear(a, w_a, linear(c, w_c, b))`.
pub fn hoist_constant_columns(graph: Graph) -> Result<Graph, GraphError> {
    let constant = graph.constants();
    let found: Vec<Option<(ValueId, ValueId)>> =
        graph.nodes.iter().map(|node| constant_columns(&graph, node, &constant)).collect();
    let (mut b, nodes) = GraphBuilder::rewrite(graph);
    for (mut node, found) in nodes.into_iter().zip(found) {
        if let Some((a, row)) = found {
            let (weight, name) = (node.operands[1], node.name.clone());
            let (split, end) = (b.graph().shape(a)[1], b.graph().shape(weight)[1]);
            let slice = |start, end| Op::Slice { axis: 1, start, end };
            let weight_a = b.add_node(&format!("{name}.weight"), slice(0, split), &[weight])?;
            let weight_row = b.add_node(&format!("{name}.constant_weight"), slice(split, end), &[weight])?;
            let bias = node.operands.get(2).copied();
            let shift = b.linear(&format!("{name}.constant"), row, weight_row, bias)?;
            node.operands = vec![a, weight_a, shift];
        }
        b.keep(node);
    }
    Ok(b.finish())
}

/// The varying columns and the constant row of a linear's input `[varying, repeated row]`.
fn constant_columns(graph: &Graph, node: &Node, constant: &[bool]) -> Option<(ValueId, ValueId)> {
    let made_by = |id: ValueId| match graph.value(id).source {
        Source::Node(index) => Some(&graph.nodes[index]),
        _ => None,
    };
    if !matches!(node.op, Op::Linear { .. }) {
        return None;
    }
    let both = made_by(node.operands[0]).filter(|both| both.op == Op::Concat { axis: 1 })?;
    let &[a, repeated] = &both.operands[..] else { return None };
    let repeat = made_by(repeated).filter(|repeat| matches!(repeat.op, Op::Repeat { .. }))?;
    let row = repeat.operands[0];
    (constant[row.index()] && !constant[a.index()]).then_some((a, row))
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
