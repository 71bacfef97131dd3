//! Passes: small rewrites that keep every result's value (beyond rounding) and make the program smaller.
//! `policy` runs [`simplify`] on the graphs it has built, before any device sees them.

mod activation;
mod common;
mod dead;

pub use activation::fuse_activations;
pub use common::merge_common_nodes;
pub use dead::remove_dead_nodes;

use super::{Graph, Node, Source, ValueId};

/// Every pass, in the order in which they help each other.
pub fn simplify(graph: Graph) -> Graph {
    remove_dead_nodes(fuse_activations(merge_common_nodes(graph)))
}

/// The graph with only the nodes of `keep`, in that order, and every read of `v` replaced by `renamed[v]`.
fn rebuild(mut graph: Graph, keep: Vec<Node>, renamed: &[ValueId]) -> Graph {
    graph.nodes = keep;
    for (index, node) in graph.nodes.iter_mut().enumerate() {
        for operand in &mut node.operands {
            *operand = renamed[operand.index()];
        }
        graph.values[node.result.index()].source = Source::Node(index);
    }
    for binding in graph.outputs.iter_mut().chain(&mut graph.residents) {
        binding.value = renamed[binding.value.index()];
    }
    graph
}

/// Every value renamed to itself.
fn identity(graph: &Graph) -> Vec<ValueId> {
    graph.ids().map(|(id, _)| id).collect()
}
