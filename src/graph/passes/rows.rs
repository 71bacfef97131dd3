//! Computes rows that do not change once. The suffix is the state token followed by the noisy actions; by the mask the
//! state sees none of the actions, so its rows are the same in every denoising step: the first step computes them along
//! with the rest, the others only the actions' rows, which see the state's keys and values of the first.

use std::collections::HashMap;

use super::{Graph, GraphError};
use crate::graph::{Attention, GraphBuilder, Node, Op, ValueId};

/// Where a joined matrix `[first; second]` occurs several times with the same first part, that part's rows are computed
/// in the first occurrence alone, as far as an attention by blocks keeps them apart from the second's.
pub fn reuse_rows(graph: Graph) -> Result<Graph, GraphError> {
    let Some(split) = block_boundary(&graph) else {
        return Ok(graph);
    };
    let mut pass = ReuseRows {
        split,
        parts: HashMap::new(),
        known: Vec::new(),
        slices: HashMap::new(),
        replaced: super::identity(&graph),
    };
    let (mut b, nodes) = GraphBuilder::rewrite(graph);
    for node in nodes {
        pass.node(&mut b, node)?;
    }
    let mut graph = b.finish();
    for binding in graph.outputs.iter_mut().chain(&mut graph.residents) {
        binding.value = pass.replaced[binding.value.index()];
    }
    Ok(graph)
}

/// `(rows, first)`: the keys of the attentions by block, and how many of them are in the first of two blocks. `None`
/// when there is no such attention, or they differ.
fn block_boundary(graph: &Graph) -> Option<(usize, usize)> {
    let mut found = None;
    for node in &graph.nodes {
        let Op::Attention(Attention { blocks, .. }) = &node.op else { continue };
        if blocks.is_empty() {
            continue;
        }
        let first = blocks.partition_point(|block| *block == blocks[0]);
        let two = blocks.get(first).is_some_and(|second| blocks[first..].iter().all(|block| block == second));
        let this = two.then_some((blocks.len(), first))?;
        if *found.get_or_insert(this) != this {
            return None;
        }
    }
    found
}

struct ReuseRows {
    /// Rows of a joined matrix, and how many of them are the first part.
    split: (usize, usize),
    /// First and second part of values that have them.
    parts: HashMap<ValueId, [ValueId; 2]>,
    /// What was computed of first parts: operation, operands, result.
    known: Vec<(Op, Vec<ValueId>, ValueId)>,
    /// Slices of values by their first row.
    slices: HashMap<(ValueId, usize), ValueId>,
    /// What stands for a value of the old graph.
    replaced: Vec<ValueId>,
}

/// Operations and operands of the nodes for the first part and for the second.
type PartNodes = ([Op; 2], [Vec<ValueId>; 2]);

impl ReuseRows {
    fn node(&mut self, b: &mut GraphBuilder, node: Node) -> Result<(), GraphError> {
        let (rows, first) = self.split;
        let operands: Vec<ValueId> = node.operands.iter().map(|id| self.replaced[id.index()]).collect();
        let whole = Node { operands: operands.clone(), ..node.clone() };

        if let (Op::Concat { axis: 0 }, &[one, two]) = (&node.op, &operands[..])
            && b.graph().shape(node.result)[0] == rows
            && b.graph().shape(one)[0] == first
        {
            self.parts.insert(node.result, [one, two]);
            b.keep(whole);
            return Ok(());
        }
        if let (Op::Slice { axis: 0, start, end }, [x]) = (&node.op, &operands[..])
            && let Some(&[_, second]) = self.parts.get(x)
            && (*start, *end) == (first, rows)
        {
            self.replaced[node.result.index()] = second;
            return Ok(());
        }
        let Some((op, part_operands)) = self.split_node(b, &whole)? else {
            b.keep(whole);
            return Ok(());
        };
        match self.find(&op[0], &part_operands[0]) {
            // Computed before: only the second part is new.
            Some(known) => {
                let [_, op] = op;
                let second = b.add_node(&node.name, op, &part_operands[1])?;
                let joined =
                    b.add_node(&format!("{}.joined", node.name), Op::Concat { axis: 0 }, &[known, second])?;
                self.replaced[node.result.index()] = joined;
                self.parts.insert(joined, [known, second]);
            }
            None => {
                let result = whole.result;
                b.keep(whole);
                let parts = self.slice_parts(b, result)?;
                let [op, _] = op;
                let [operands, _] = part_operands;
                self.known.push((op, operands, parts[0]));
                self.parts.insert(result, parts);
            }
        }
        Ok(())
    }

    /// The node for the first part alone and for the second alone: operations and operands. `None` when it cannot be
    /// split, or reads nothing that has parts.
    fn split_node(&mut self, b: &mut GraphBuilder, node: &Node) -> Result<Option<PartNodes>, GraphError> {
        let operands = &node.operands;
        let Some(&x) = operands.first().and_then(|x| self.parts.get(x)) else {
            return Ok(None);
        };
        let mut parts = [vec![x[0]], vec![x[1]]];
        let both = |parts: &mut [Vec<ValueId>; 2], [first, second]: [ValueId; 2]| {
            parts[0].push(first);
            parts[1].push(second);
        };
        match &node.op {
            // Row by row, with operands that all rows share.
            Op::Linear { .. } | Op::GatedLinear { .. } | Op::LayerNorm { .. } | Op::RmsNorm { .. } => {
                operands[1..].iter().for_each(|&shared| both(&mut parts, [shared; 2]));
            }
            Op::Activate(_) => {}
            // Row by row, with a second matrix of as many rows.
            Op::Rotary { .. } => {
                let table = self.slice_parts(b, operands[1])?;
                both(&mut parts, table);
            }
            Op::Add | Op::Multiply => match self.parts.get(&operands[1]) {
                Some(&y) => both(&mut parts, y),
                None => return Ok(None),
            },
            Op::Attention(attention) => {
                let keys = (self.parts.get(&operands[1]), self.parts.get(&operands[2]));
                let (Some(&key), Some(&value)) = keys else {
                    return Ok(None);
                };
                // A mask of the own keys would have to be split as well.
                if attention.blocks.len() != self.split.0 || (attention.masked && !attention.past) {
                    return Ok(None);
                }
                // The second part sees everything, the first only itself.
                parts[0].extend([key[0], value[0]]);
                for (of, [one, two]) in [("keys", key), ("values", value)] {
                    let name = format!("{}.{of}", node.name);
                    parts[1].push(b.add_node(&name, Op::Concat { axis: 0 }, &[one, two])?);
                }
                operands[3..].iter().for_each(|&shared| both(&mut parts, [shared; 2]));
                let all = Op::Attention(Attention { blocks: Vec::new(), ..attention.clone() });
                return Ok(Some(([all.clone(), all], parts)));
            }
            _ => return Ok(None),
        }
        Ok(Some(([node.op.clone(), node.op.clone()], parts)))
    }

    fn find(&self, op: &Op, operands: &[ValueId]) -> Option<ValueId> {
        self.known.iter().find(|known| known.0 == *op && known.1 == operands).map(|known| known.2)
    }

    /// The rows of both parts of a value that is computed as a whole.
    fn slice_parts(&mut self, b: &mut GraphBuilder, x: ValueId) -> Result<[ValueId; 2], GraphError> {
        let (rows, first) = self.split;
        let mut slice = |start: usize, end: usize| {
            if let Some(&known) = self.slices.get(&(x, start)) {
                return Ok(known);
            }
            let name = format!("{}.rows_{start}", b.graph().value(x).name);
            let part = b.add_node(&name, Op::Slice { axis: 0, start, end }, &[x])?;
            self.slices.insert((x, start), part);
            Ok(part)
        };
        Ok([slice(0, first)?, slice(first, rows)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Source, TensorType, passes};

    /// `steps` times `norm([state; actions])`, an attention by blocks, and a residual.
    fn steps(steps: usize, blocks: Vec<u32>) -> Graph {
        let mut b = GraphBuilder::new("test");
        let (rows, width) = (blocks.len(), 4);
        let (state, w) = (b.input("state", TensorType::f32([1, width])), b.weight("w", &[width]));
        let mut actions = b.input("actions", TensorType::f32([rows - 1, width]));
        let past = b.input("past", TensorType::f32([3, width]));
        for step in 0..steps {
            actions = b.scope(&format!("step{step}"), |b| {
                let x = b.concat("suffix", &[state, actions], 0).unwrap();
                let h = b.rms_norm("norm", x, w, 1e-6).unwrap();
                let attention = Attention {
                    heads: 1,
                    kv_heads: 1,
                    head_dim: width,
                    scale: 0.5,
                    sequences: 1,
                    past: true,
                    masked: false,
                    blocks: blocks.clone(),
                };
                let y = b.attention("attention", attention, &[h, h, h, past, past]).unwrap();
                let x = b.add("residual", x, y).unwrap();
                b.rows("actions", x, 1, rows).unwrap()
            });
        }
        b.output("actions", actions);
        passes::remove_dead_nodes(reuse_rows(b.finish()).unwrap())
    }

    #[test]
    fn later_steps_compute_the_second_block_alone() {
        let graph = steps(3, vec![0, 1, 1, 1]);
        let of = |step: &str, name: &str| {
            let node = graph.nodes.iter().find(|node| node.name == format!("{step}.{name}")).unwrap();
            (node.clone(), graph.shape(node.result)[0])
        };
        for (name, whole) in [("norm", 4), ("attention", 4), ("residual", 4)] {
            assert_eq!(of("step0", name).1, whole);
            assert_eq!(of("step1", name).1, 3);
            assert_eq!(of("step2", name).1, 3);
        }
        let (attention, _) = of("step2", "attention");
        assert_eq!(graph.shape(attention.operands[1])[0], 4, "the keys are the state's and the actions'");
        // Both later steps read the state's row of the first step's norm.
        let state_key = |step: &str| {
            let Source::Node(keys) = graph.value(of(step, "attention").0.operands[1]).source else {
                panic!()
            };
            graph.nodes[keys].operands[0]
        };
        assert_eq!(state_key("step1"), state_key("step2"));
    }

    #[test]
    fn a_first_block_that_sees_the_second_is_left_alone() {
        let graph = steps(3, vec![0; 4]);
        let norms = graph.nodes.iter().filter(|node| node.name.ends_with("norm"));
        assert!(norms.map(|node| graph.shape(node.result)[0]).all(|rows| rows == 4));
    }
}
