//! Joins the two halves of a gated feed-forward layer, which read the same rows, so that a device reads these once and
//! never stores both results.

use super::{Graph, GraphError};
use crate::graph::{Activation, GraphBuilder, Node, Op, Source, ValueId};

/// `activation(x g^T) * (x u^T)` written as two linears and a product becomes one node.
pub fn fuse_gates(graph: Graph) -> Result<Graph, GraphError> {
    let uses = graph.use_counts();
    let found: Vec<Option<(Activation, [ValueId; 3])>> =
        graph.nodes.iter().map(|node| gate(&graph, node, &uses)).collect();
    let (mut b, nodes) = GraphBuilder::rewrite(graph);
    for (mut node, found) in nodes.into_iter().zip(found) {
        if let Some((activation, operands)) = found {
            node.op = Op::GatedLinear { activation };
            node.operands = operands.to_vec();
        }
        b.keep(node);
    }
    Ok(super::remove_dead_nodes(b.finish()))
}

/// Activation, x, gate and up of a product that is the result of a gated layer.
fn gate(graph: &Graph, node: &Node, uses: &[usize]) -> Option<(Activation, [ValueId; 3])> {
    if node.op != Op::Multiply || graph.shape(node.operands[0]) != graph.shape(node.operands[1]) {
        return None;
    }
    let linear = |id: ValueId| match graph.value(id).source {
        Source::Node(index) if uses[id.index()] == 1 => match &graph.nodes[index] {
            Node { op: Op::Linear { activation, exact: false }, operands, .. } if operands.len() == 2 => {
                Some((*activation, operands[0], operands[1]))
            }
            _ => None,
        },
        _ => None,
    };
    let (first, second) = (linear(node.operands[0])?, linear(node.operands[1])?);
    match (first, second) {
        ((Some(activation), x, gate), (None, other, up))
        | ((None, x, up), (Some(activation), other, gate))
            if x == other =>
        {
            Some((activation, [x, gate, up]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{TensorType, passes};

    fn gated(swapped: bool, gate_read: bool) -> Graph {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 4]));
        let (g, u) = (b.weight("g", &[3, 4]), b.weight("u", &[3, 4]));
        let gate = b.linear("gate", x, g, None).unwrap();
        let gate = b.activate("gelu", Activation::GeluTanh, gate).unwrap();
        let up = b.linear("up", x, u, None).unwrap();
        let (first, second) = if swapped { (up, gate) } else { (gate, up) };
        let y = b.multiply("gated", first, second).unwrap();
        b.output("y", y);
        if gate_read {
            b.output("gate", gate);
        }
        fuse_gates(passes::fuse_activations(b.finish())).unwrap()
    }

    #[test]
    fn gate_and_up_become_one_node_in_either_order() {
        for swapped in [false, true] {
            let graph = gated(swapped, false);
            let [node] = &graph.nodes[..] else { panic!("{:?}", graph.nodes) };
            assert_eq!(node.op, Op::GatedLinear { activation: Activation::GeluTanh });
            let keys: Vec<&str> =
                node.operands[1..].iter().map(|&id| graph.value(id).name.as_str()).collect();
            assert_eq!(keys, ["g", "u"]);
        }
    }

    #[test]
    fn a_gate_that_is_read_elsewhere_stays_itself() {
        assert_eq!(gated(false, true).nodes.len(), 3);
    }
}
