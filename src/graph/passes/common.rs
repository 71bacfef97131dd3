//! Merges nodes that compute the same thing: the same operation on the same operands.

use super::{identity, rebuild};
use crate::graph::Graph;

/// Keeps the first of equal nodes and lets every reader of the others read it instead.
pub fn merge_common_nodes(graph: Graph) -> Graph {
    let mut renamed = identity(&graph);
    let mut keep: Vec<crate::graph::Node> = Vec::with_capacity(graph.nodes.len());
    // Readers of a value, so that only nodes that share their first operand are compared.
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); graph.values.len()];
    for node in &graph.nodes {
        let mut node = node.clone();
        for operand in &mut node.operands {
            *operand = renamed[operand.index()];
        }
        let Some(first) = node.operands.first().map(|operand| operand.index()) else {
            keep.push(node);
            continue;
        };
        let twin = readers[first]
            .iter()
            .map(|&index| &keep[index])
            .find(|other| other.op == node.op && other.operands == node.operands);
        match twin {
            Some(twin) => renamed[node.result.index()] = twin.result,
            None => {
                readers[first].push(keep.len());
                keep.push(node);
            }
        }
    }
    rebuild(graph, keep, &renamed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Activation, GraphBuilder, TensorType};

    #[test]
    fn equal_nodes_are_computed_once_also_in_a_chain() {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 4]));
        let sums: Vec<_> = (0..3)
            .map(|i| {
                let y = b.activate(&format!("silu_{i}"), Activation::Silu, x).unwrap();
                b.add(&format!("add_{i}"), y, x).unwrap()
            })
            .collect();
        for (i, &sum) in sums.iter().enumerate() {
            b.output(&format!("sum_{i}"), sum);
        }
        let graph = merge_common_nodes(b.finish());
        assert_eq!(graph.nodes.len(), 2);
        assert!(graph.outputs.iter().all(|output| output.value == sums[0]));
    }

    #[test]
    fn different_attributes_keep_nodes_apart() {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 4]));
        for (name, activation) in [("a", Activation::Silu), ("b", Activation::GeluTanh)] {
            let y = b.activate(name, activation, x).unwrap();
            b.output(name, y);
        }
        assert_eq!(merge_common_nodes(b.finish()).nodes.len(), 2);
    }
}
