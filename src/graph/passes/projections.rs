//! Joins linears that read the same rows (query, key and value of an attention) into one, so that a device reads the rows
//! once and starts one product instead of three.

use std::collections::HashMap;

use super::{Graph, GraphError};
use crate::graph::{GraphBuilder, Node, Op, Source, ValueId};

const PLAIN: Op = Op::Linear { activation: None, exact: false };

/// `linear(x, q)`, `linear(x, k)`, `linear(x, v)` become slices of `linear(x, [q; k; v])`: the weights one after another.
pub fn fuse_projections(graph: Graph) -> Result<Graph, GraphError> {
    let constant = graph.constants();
    let mut groups: HashMap<(ValueId, bool), Vec<usize>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let plain = node.op == PLAIN && !constant[node.operands[0].index()];
        // Weights stay what the checkpoint holds; biases are lists.
        let weight = |id: &ValueId| matches!(graph.value(*id).source, Source::Weight { .. });
        if plain && node.operands[1..].iter().all(weight) {
            groups.entry((node.operands[0], node.operands.len() > 2)).or_default().push(index);
        }
    }
    let group_of: HashMap<usize, &Vec<usize>> = groups
        .values()
        .filter(|group| group.len() > 1)
        .flat_map(|group| group.iter().map(move |&index| (index, group)))
        .collect();

    let mut renamed = super::identity(&graph);
    let (mut b, nodes) = GraphBuilder::rewrite(graph);
    for (index, node) in nodes.iter().enumerate() {
        match group_of.get(&index) {
            None => {
                let operands = node.operands.iter().map(|id| renamed[id.index()]).collect();
                b.keep(Node { operands, ..node.clone() });
            }
            Some(group) if group[0] == index => fuse(&mut b, &nodes, group, &mut renamed)?,
            Some(_) => {}
        }
    }
    let mut graph = b.finish();
    for binding in graph.outputs.iter_mut().chain(&mut graph.residents) {
        binding.value = renamed[binding.value.index()];
    }
    Ok(graph)
}

/// One linear for the nodes of a group, where the first of them stands.
fn fuse(
    b: &mut GraphBuilder,
    nodes: &[Node],
    group: &[usize],
    renamed: &mut [ValueId],
) -> Result<(), GraphError> {
    let members: Vec<&Node> = group.iter().map(|&index| &nodes[index]).collect();
    let name: String = common_scope(&members);
    let mut operands = vec![renamed[members[0].operands[0].index()]];
    for (position, what) in (1..members[0].operands.len()).zip(["weight", "bias"]) {
        let parts: Vec<ValueId> = members.iter().map(|node| node.operands[position]).collect();
        operands.push(b.add_node(&format!("{name}.{what}"), Op::Concat { axis: 0 }, &parts)?);
    }
    let all = b.add_node(&name, PLAIN, &operands)?;
    let mut start = 0;
    for node in members {
        let end = start + b.graph().shape(node.operands[1])[0];
        let part = b.add_node(&node.name, Op::Slice { axis: 1, start, end }, &[all])?;
        renamed[node.result.index()] = part;
        start = end;
    }
    Ok(())
}

/// `layers.3.attn.q`, `layers.3.attn.k` -> `layers.3.attn.q+k`
fn common_scope(members: &[&Node]) -> String {
    let first = members[0].name.as_str();
    let scope = first.rfind('.').map_or("", |end| &first[..=end]);
    let names: Vec<&str> =
        members.iter().map(|node| node.name.strip_prefix(scope).unwrap_or(&node.name)).collect();
    format!("{scope}{}", names.join("+"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::TensorType;

    #[test]
    fn projections_of_the_same_rows_become_slices_of_one() {
        let mut b = GraphBuilder::new("test");
        let x = b.input("x", TensorType::f32([2, 4]));
        for (name, outputs) in [("q", 6), ("k", 3), ("v", 3)] {
            let weight = b.weight(&format!("{name}.weight"), &[outputs, 4]);
            let bias = b.weight(&format!("{name}.bias"), &[outputs]);
            let y = b.scope("attn", |b| b.linear(name, x, weight, Some(bias))).unwrap();
            b.output(name, y);
        }
        let graph = fuse_projections(b.finish()).unwrap();
        let linears: Vec<&Node> =
            graph.nodes.iter().filter(|node| matches!(node.op, Op::Linear { .. })).collect();
        let [linear] = linears[..] else { panic!("{linears:?}") };
        assert_eq!(linear.name, "attn.q+k+v");
        assert_eq!(graph.shape(linear.result), [2, 12]);
        let v = graph.outputs[2].value;
        let Source::Node(index) = graph.value(v).source else { panic!("not a node") };
        assert_eq!(graph.nodes[index].op, Op::Slice { axis: 1, start: 9, end: 12 });
    }

    #[test]
    fn linears_of_different_rows_stay_apart() {
        let mut b = GraphBuilder::new("test");
        for name in ["x", "y"] {
            let x = b.input(name, TensorType::f32([2, 4]));
            let w = b.weight(&format!("{name}.weight"), &[3, 4]);
            let y = b.linear(name, x, w, None).unwrap();
            b.output(name, y);
        }
        let graph = fuse_projections(b.finish()).unwrap();
        assert!(graph.nodes.iter().all(|node| matches!(node.op, Op::Linear { .. })));
    }
}
