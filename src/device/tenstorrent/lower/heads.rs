//! Plans how attention heads lie: which columns are heads, of how many elements, and how far each is padded. A card
//! attends to `[sequences, heads, rows, head_dim]` with whole tiles per head, so weights get their columns in these places.

use std::collections::{HashMap, HashSet};

use super::super::TILE;
use super::super::axis::Axis;
use crate::device::DeviceError;
use crate::graph::{Graph, Node, Op, Source, ValueId};

/// Heads that a value's columns are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub count: usize,
    pub dim: usize,
    /// Elements of a head on the card.
    pub padded: usize,
    /// Queries and keys that a rotation turns by their positions, before and after it.
    pub rotated: bool,
    /// Independent sequences that the rows are.
    pub sequences: usize,
    /// The values are multiplied with this: queries have the attention's scale in them, since the library would otherwise
    /// take it out of the mask again with one more program per attention.
    pub scale: f32,
}

impl Heads {
    /// Where the columns lie when heads stand side by side.
    pub fn columns(&self) -> Axis {
        match self.rotated {
            true => Axis::rotated_heads(self.count, self.dim, self.padded),
            false => Axis::heads(self.count, self.dim, self.padded),
        }
    }
}

/// Elements of a head of `dim` on a card: whole tiles.
pub fn padded(dim: usize) -> usize {
    dim.next_multiple_of(TILE)
}

/// Which values are heads.
pub(super) struct HeadPlan {
    of: HashMap<ValueId, Heads>,
    /// All queries that rotate share one head of keys: it and the values can be one tensor.
    pub shared: bool,
    /// Linears whose columns are sliced into queries, keys and values: the slices, in order.
    pub projections: HashMap<ValueId, Vec<ValueId>>,
}

impl HeadPlan {
    pub fn of(graph: &Graph) -> Self {
        let mut dims = HashMap::new();
        let (uses, mut scales) = (graph.use_counts(), HashMap::new());
        // From the readers back to what is projected.
        for node in graph.nodes.iter().rev() {
            match &node.op {
                Op::Attention(attention) => {
                    let own = if attention.past { 5 } else { 3 };
                    for &operand in &node.operands[..own] {
                        dims.insert(operand, (attention.head_dim, attention.sequences));
                    }
                    if let Some(projected) = projected_for_one(graph, node.operands[0], &uses) {
                        scales.insert(projected, attention.scale);
                        scales.insert(node.operands[0], attention.scale);
                    }
                }
                Op::Rotary { heads } => {
                    let sequences = dims.get(&node.result).map_or(1, |found: &(usize, usize)| found.1);
                    dims.insert(node.operands[0], (graph.shape(node.result)[1] / heads, sequences));
                    dims.insert(node.result, (graph.shape(node.result)[1] / heads, sequences));
                }
                _ => {}
            }
        }
        // A value that only leaves is what its neighbours are: the last layer's values beside its keys.
        let mut projections: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
        for node in &graph.nodes {
            if let Some(whole) = sliced_linear(graph, node) {
                projections.entry(whole).or_default().push(node.result);
            }
        }
        projections.retain(|_, slices| match slices.iter().find_map(|slice| dims.get(slice).copied()) {
            None => false,
            Some(known) => {
                for &slice in slices.iter() {
                    dims.entry(slice).or_insert(known);
                }
                true
            }
        });
        let rotations = graph.nodes.iter().filter(|node| matches!(node.op, Op::Rotary { .. }));
        let rotated: HashSet<ValueId> = rotations.flat_map(|node| [node.operands[0], node.result]).collect();
        let one_head = |node: &Node| match &node.op {
            Op::Attention(attention) if rotated.contains(&node.operands[1]) => {
                graph.shape(node.operands[1])[1] == attention.head_dim && attention.sequences == 1
            }
            _ => true,
        };
        let shared = graph.nodes.iter().all(one_head);
        let heads = |(id, (dim, sequences)): (ValueId, (usize, usize))| {
            let count = graph.shape(id)[1] / dim;
            let scale = scales.get(&id).copied().unwrap_or(1.0);
            let rotated = rotated.contains(&id);
            (id, Heads { count, dim, padded: padded(dim), rotated, sequences, scale })
        };
        Self { of: dims.into_iter().map(heads).collect(), shared, projections }
    }

    /// The heads of a value.
    pub fn get(&self, id: ValueId) -> Option<Heads> {
        self.of.get(&id).copied()
    }

    pub fn heads(&self, graph: &Graph, id: ValueId) -> Result<Heads, DeviceError> {
        self.get(id).ok_or_else(|| DeviceError::Unsupported {
            node: graph.value(id).name.clone(),
            what: "columns that are no heads here".into(),
        })
    }
}

/// What is rotated into a query, if anything, when this query is its only reader.
fn projected_for_one(graph: &Graph, query: ValueId, uses: &[usize]) -> Option<ValueId> {
    if uses[query.index()] != 1 {
        return None;
    }
    match graph.value(query).source {
        Source::Node(index) if matches!(graph.nodes[index].op, Op::Rotary { .. }) => {
            let rotated = graph.nodes[index].operands[0];
            (uses[rotated.index()] == 1).then_some(rotated)
        }
        Source::Node(_) => Some(query),
        _ => None,
    }
}

/// The linear whose columns a node takes.
fn sliced_linear(graph: &Graph, node: &Node) -> Option<ValueId> {
    let Op::Slice { axis: 1, .. } = node.op else { return None };
    let whole = node.operands[0];
    let Source::Node(index) = graph.value(whole).source else { return None };
    matches!(graph.nodes[index].op, Op::Linear { .. }).then_some(whole)
}
