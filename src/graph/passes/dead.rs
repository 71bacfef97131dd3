//! Removes what no result needs. It is this pass that reduces the prefix's last layer to its keys and values:
//! nothing reads that layer's output unless the caller asked for it.

use super::{identity, rebuild};
use crate::graph::Graph;

/// Drops every node whose result reaches neither an output nor a resident.
pub fn remove_dead_nodes(graph: Graph) -> Graph {
    let mut needed = vec![false; graph.values.len()];
    for binding in graph.results() {
        needed[binding.value.index()] = true;
    }
    let mut keep = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes.iter().rev() {
        if needed[node.result.index()] {
            for operand in &node.operands {
                needed[operand.index()] = true;
            }
            keep.push(node.clone());
        }
    }
    keep.reverse();
    let same = identity(&graph);
    rebuild(graph, keep, &same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Activation, GraphBuilder, TensorType};

    #[test]
    fn only_what_a_result_needs_remains() {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 4]));
        let used = b.activate("used", Activation::Silu, x).unwrap();
        let unused = b.activate("unused", Activation::GeluTanh, x).unwrap();
        b.add("unused_too", unused, used).unwrap();
        let kept = b.add("kept", used, x).unwrap();
        b.keep_resident("kept", kept);
        let graph = remove_dead_nodes(b.finish());
        let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["used", "kept"]);
    }
}
