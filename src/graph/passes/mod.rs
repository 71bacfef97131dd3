//! Passes: small rewrites that keep every result's value (beyond rounding) and make the program smaller.
//! `policy` runs [`simplify`] on the graphs it has built, before any device sees them.

mod activation;
mod columns;
mod common;
mod dead;
mod gate;
mod projections;
mod rows;

pub use activation::fuse_activations;
pub use columns::hoist_constant_columns;
pub use common::merge_common_nodes;
pub use dead::remove_dead_nodes;
pub use gate::fuse_gates;
pub use projections::fuse_projections;
pub use rows::reuse_rows;

use super::{Graph, GraphError, Node, Source, ValueId};

/// Every pass, in the order in which they help each other.
pub fn simplify(graph: Graph) -> Result<Graph, GraphError> {
    let graph = hoist_constant_columns(merge_common_nodes(graph))?;
    let graph = remove_dead_nodes(reuse_rows(graph)?);
    let graph = fuse_gates(fuse_activations(graph))?;
    // The last layer of the prefix is down to its keys and values by now.
    Ok(remove_dead_nodes(fuse_projections(graph)?))
}

/// As [`simplify`] for devices to which a row more or less makes no difference: the state token's rows are not taken out of
/// later denoising steps, since 51 rows fill as many tiles as 50 do.
pub fn simplify_for_tiles(graph: Graph) -> Result<Graph, GraphError> {
    let graph = hoist_constant_columns(merge_common_nodes(graph))?;
    let graph = fuse_gates(fuse_activations(remove_dead_nodes(graph)))?;
    Ok(remove_dead_nodes(fuse_projections(graph)?))
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
