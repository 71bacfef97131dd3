//! Plans where the rows of every value lie, before anything is lowered.
//!
//! A card computes whole tiles of 32 rows, so 51 rows cost what 64 do, and joining rows in the middle of a tile costs a
//! detour. Rows that the host writes can be written anywhere: the state's token goes into the padding of the action tokens,
//! and the prompt's padding fills the last tile. Attention does not mind the order of keys, masks and positions follow it.

use std::collections::HashMap;

use super::super::TILE;
use super::super::axis::Axis;
use crate::device::DeviceError;
use crate::graph::{DType, Graph, Node, Op, Source, ValueId};

/// How two blocks of rows become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joining {
    /// One after another.
    Concat,
    /// The second lies in the padding of the first: both have all rows, and each row is chosen.
    Choose,
}

/// Where rows lie.
pub(super) struct RowPlan {
    rows: HashMap<ValueId, Axis>,
    /// For every concat of rows: its operands in the order of their places.
    pub joins: HashMap<ValueId, (Joining, Vec<ValueId>)>,
}

impl RowPlan {
    /// Rows of a graph whose residents lie as given.
    pub fn of(graph: &Graph, residents: &HashMap<ValueId, Axis>) -> Result<Self, DeviceError> {
        let mut plan = Self { rows: residents.clone(), joins: HashMap::new() };
        let joins = graph.nodes.iter().any(|node| matches!(node.op, Op::Concat { axis: 0 }));
        for (id, value) in graph.ids().filter(|(_, value)| value.source == Source::Input) {
            match (value.ty.dtype, &value.ty.shape[..]) {
                // Another block of rows goes into the padding: there must be some.
                (DType::F32, &[rows, _]) if joins => {
                    plan.rows.insert(id, Axis::padded(rows, (rows + 1).next_multiple_of(TILE)))
                }
                (DType::F32, &[rows, _]) => plan.rows.insert(id, Axis::tiled(rows)),
                (DType::I32, &[rows]) => plan.rows.insert(id, Axis::tiled(rows)),
                (DType::Bool, &[rows]) => plan.rows.insert(id, Axis::exact(rows)),
                _ => None,
            };
        }
        let (constant, uses) = (graph.constants(), graph.use_counts());
        for node in graph.nodes.iter().filter(|node| !constant[node.result.index()]) {
            plan.forward(graph, node, &constant, &uses)?;
        }
        plan.backward(graph)?;
        Ok(plan)
    }

    pub fn rows(&self, graph: &Graph, id: ValueId) -> Result<&Axis, DeviceError> {
        self.rows.get(&id).ok_or_else(|| DeviceError::Unsupported {
            node: graph.value(id).name.clone(),
            what: "a value whose rows have no place".into(),
        })
    }

    fn forward(
        &mut self,
        graph: &Graph,
        node: &Node,
        constant: &[bool],
        uses: &[usize],
    ) -> Result<(), DeviceError> {
        let first = node.operands[0];
        let rows = match &node.op {
            Op::Patchify { .. } => Axis::exact(graph.shape(node.result)[0]),
            Op::Slice { axis: 0, start, end } => self.rows(graph, first)?.slice(*start, *end),
            Op::Concat { axis: 0 } => self.join(graph, node, constant, uses)?,
            // Its choices may be constant.
            Op::Choose => self.rows(graph, node.operands[2])?.clone(),
            // Found from whoever reads them.
            Op::PrefixMask { .. } | Op::Positions | Op::PositionsAfter { .. } | Op::RotaryTable { .. } => {
                return Ok(());
            }
            _ => self.rows(graph, first)?.clone(),
        };
        self.rows.insert(node.result, rows);
        Ok(())
    }

    /// Places the operands of a concat of rows.
    fn join(
        &mut self,
        graph: &Graph,
        node: &Node,
        constant: &[bool],
        uses: &[usize],
    ) -> Result<Axis, DeviceError> {
        let chains: Vec<Option<Vec<ValueId>>> =
            node.operands.iter().map(|&piece| written_rows(graph, piece, uses)).collect();
        if node.operands.iter().any(|piece| constant[piece.index()]) {
            return Err(unsupported(node, "rows that are joined with constant ones"));
        }
        // What cannot be moved comes first; then the larger pieces.
        let mut order: Vec<usize> = (0..node.operands.len()).collect();
        order.sort_by_key(|&index| match &chains[index] {
            None => (false, 0),
            Some(_) => (true, usize::MAX - graph.shape(node.operands[index])[0]),
        });
        let last = order[order.len() - 1];
        let before: Vec<Axis> = order[..order.len() - 1]
            .iter()
            .map(|&index| self.rows(graph, node.operands[index]).cloned())
            .collect::<Result<_, _>>()?;
        let last_rows = graph.shape(node.operands[last])[0];

        let (joining, rows) = match (&before[..], &chains[last]) {
            // One block with enough padding for the other.
            ([first], Some(chain)) if first.logical + last_rows <= first.physical => {
                let start = first.logical;
                self.place(graph, chain, &Axis::placed(last_rows, start, first.physical))?;
                (Joining::Choose, vec![first.clone(), Axis::placed(last_rows, start, first.physical)])
            }
            (before, chain) => {
                let start: usize = before.iter().map(|rows| rows.physical).sum();
                if let Some(chain) = chain {
                    let padded = (start + last_rows).next_multiple_of(TILE) - start;
                    self.place(graph, chain, &Axis::padded(last_rows, padded))?;
                }
                let last = self.rows(graph, node.operands[last])?.clone();
                (Joining::Concat, before.iter().cloned().chain([last]).collect())
            }
        };
        self.joins.insert(node.result, (joining, order.iter().map(|&index| node.operands[index]).collect()));
        // Places of the pieces, in the graph's order of rows.
        let mut places = vec![Vec::new(); order.len()];
        let mut start = 0;
        for (&index, rows) in order.iter().zip(&rows) {
            places[index] = rows.places().map(|place| start + place).collect();
            start += if joining == Joining::Concat { rows.physical } else { 0 };
        }
        let physical = if joining == Joining::Concat { start } else { rows[0].physical };
        Ok(Axis::of(places.concat(), physical))
    }

    /// Gives the values of a chain their rows; what several concats read must lie alike for all.
    fn place(&mut self, graph: &Graph, chain: &[ValueId], rows: &Axis) -> Result<(), DeviceError> {
        let top = chain[0];
        let read_before = self.joins.values().any(|(_, operands)| operands.contains(&top));
        if read_before && self.rows.get(&top) != Some(rows) {
            return Err(DeviceError::Unsupported {
                node: graph.value(top).name.clone(),
                what: "rows that two concats want in different places".into(),
            });
        }
        chain.iter().for_each(|&id| drop(self.rows.insert(id, rows.clone())));
        Ok(())
    }

    /// Masks, positions and rotary tables lie as the rows that they are for.
    fn backward(&mut self, graph: &Graph) -> Result<(), DeviceError> {
        for node in graph.nodes.iter().rev() {
            let (of, like) = match &node.op {
                Op::Rotary { .. } => (node.operands[1], node.operands[0]),
                Op::Attention(attention) if attention.masked && !attention.past => {
                    (node.operands[3], node.operands[1])
                }
                Op::RotaryTable { .. } | Op::Positions => (node.operands[0], node.result),
                _ => continue,
            };
            if let Op::Positions | Op::RotaryTable { .. } = node.op {
                let default = Axis::tiled(graph.shape(node.result)[0]);
                self.rows.entry(node.result).or_insert(default);
            }
            let rows = self.rows(graph, like)?.clone();
            match self.rows.get(&of) {
                Some(found) if *found != rows => {
                    return Err(unsupported(node, "rows whose mask or positions lie differently"));
                }
                Some(_) => {}
                None => drop(self.rows.insert(of, rows)),
            }
        }
        for node in &graph.nodes {
            if let Op::PrefixMask { .. } | Op::PositionsAfter { .. } = node.op {
                self.rows.entry(node.result).or_insert(Axis::tiled(graph.shape(node.result)[0]));
            }
        }
        Ok(())
    }
}

/// The values from `id` back to an input, when the host's placing of that input's rows moves these rows and no others.
fn written_rows(graph: &Graph, id: ValueId, uses: &[usize]) -> Option<Vec<ValueId>> {
    let mut chain = vec![id];
    loop {
        let value = graph.value(chain[chain.len() - 1]);
        let node = match &value.source {
            Source::Input => return Some(chain),
            Source::Node(index) => &graph.nodes[*index],
            _ => return None,
        };
        let row_by_row = matches!(
            node.op,
            Op::Linear { .. }
                | Op::LayerNorm { .. }
                | Op::RmsNorm { .. }
                | Op::Activate(_)
                | Op::Embedding { .. }
        );
        let next = node.operands[0];
        if !row_by_row || uses[next.index()] != 1 {
            return None;
        }
        chain.push(next);
    }
}

fn unsupported(node: &Node, what: &str) -> DeviceError {
    DeviceError::Unsupported { node: node.name.clone(), what: what.into() }
}
