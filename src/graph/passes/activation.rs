//! Moves an activation into the linear that feeds it, so that a device applies it while the row is at hand.

use super::{identity, rebuild};
use crate::graph::{Graph, Op, Source};

/// `activate(linear(x))` becomes one linear wherever nobody else reads the linear's own result.
pub fn fuse_activations(graph: Graph) -> Graph {
    let uses = graph.use_counts();
    let mut nodes: Vec<Option<crate::graph::Node>> = graph.nodes.iter().cloned().map(Some).collect();
    for index in 0..nodes.len() {
        let Some((activation, input)) = nodes[index].as_ref().and_then(|node| match node.op {
            Op::Activate(activation) => Some((activation, node.operands[0])),
            _ => None,
        }) else {
            continue;
        };
        let Source::Node(producer) = graph.value(input).source else {
            continue;
        };
        if uses[input.index()] != 1 {
            continue;
        }
        let Some(linear) = nodes[producer].clone() else {
            continue;
        };
        let Op::Linear { activation: None, exact } = linear.op else {
            continue;
        };
        if let Some(node) = &mut nodes[index] {
            node.op = Op::Linear { activation: Some(activation), exact };
            node.operands = linear.operands;
            node.name = linear.name;
        }
        nodes[producer] = None;
    }
    let same = identity(&graph);
    rebuild(graph, nodes.into_iter().flatten().collect(), &same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Activation, GraphBuilder, TensorType};

    fn gelu_of_linear(also_read: bool) -> Graph {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 4]));
        let w = b.weight("w", &[3, 4]);
        let y = b.linear("fc1", x, w, None).unwrap();
        let z = b.activate("gelu", Activation::GeluTanh, y).unwrap();
        b.output("z", z);
        if also_read {
            b.output("y", y);
        }
        fuse_activations(b.finish())
    }

    #[test]
    fn an_activation_joins_its_linear() {
        let graph = gelu_of_linear(false);
        assert_eq!(graph.nodes.len(), 1);
        assert_eq!(graph.nodes[0].op, Op::Linear { activation: Some(Activation::GeluTanh), exact: false });
        assert_eq!(graph.nodes[0].name, "fc1");
    }

    #[test]
    fn a_linear_that_is_read_elsewhere_stays_itself() {
        assert_eq!(gelu_of_linear(true).nodes.len(), 2);
    }
}
