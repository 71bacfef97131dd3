//! Where heads lie that look at a past: keys, values and queries of all rows in one tensor `[1, tiles * heads, 32, padded]`,
//! tile of rows by tile of rows, in each of them keys, values, perhaps padding, then queries. That is the order of tiles
//! that a product `[1, 1, rows, heads * padded]` has already. Planned once per program; used by `attention`, `masks`,
//! `tokens` and `products`.

use super::super::TILE;
use super::super::axis::Axis;
use super::super::card::Card;
use super::Lowering;
use super::heads::{HeadPlan, Heads};
use super::rows::RowPlan;
use crate::device::DeviceError;
use crate::graph::{Graph, Op};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stack {
    /// Tiles of rows.
    pub tiles: usize,
    /// Heads of a row: one of keys, one of values, padding, queries.
    pub heads: usize,
    /// How many of these are queries.
    pub queries: usize,
    /// Elements of a head.
    pub padded: usize,
}

impl Stack {
    /// The stack of a graph whose attentions look at a past; all of them are alike.
    pub fn of(
        graph: &Graph,
        plan: &HeadPlan,
        rows: &RowPlan,
        card: &Card,
    ) -> Result<Option<Self>, DeviceError> {
        let with_past =
            graph.nodes.iter().find(|node| matches!(&node.op, Op::Attention(attention) if attention.past));
        let Some(node) = with_past.filter(|_| plan.shared) else { return Ok(None) };
        let heads = plan.heads(graph, node.operands[0])?;
        let tiles = rows.rows(graph, node.operands[0])?.physical.div_ceil(TILE);
        // A part of a tensor can be read in place where it begins in the first bank.
        let heads_at_once = card.pages_at_once(heads.padded / TILE);
        Ok(Some(Self {
            tiles,
            heads: (heads.count + 2).next_multiple_of(heads_at_once),
            queries: heads.count,
            padded: heads.padded,
        }))
    }

    /// Rows of all heads.
    pub fn rows(&self) -> usize {
        self.tiles * self.heads * TILE
    }

    /// Where row `row` of head `head` stands among them.
    pub fn place(&self, head: usize, row: usize) -> usize {
        (row / TILE * self.heads + head) * TILE + row % TILE
    }

    /// The heads that have a position: all but values and padding.
    pub fn positioned(&self) -> impl Iterator<Item = usize> + use<> {
        std::iter::once(0).chain(self.heads - self.queries..self.heads)
    }

    /// Columns of queries among those of all heads.
    pub fn queries(&self, columns: &Axis) -> Axis {
        let first = (self.heads - self.queries) * self.padded;
        Axis::of(columns.places().map(|place| first + place).collect(), self.heads * self.padded)
    }

    /// Columns of a projection to queries, keys and values, in this order in the graph.
    pub fn projection(&self, queries: &Heads, keys: &Heads, values: &Heads) -> Axis {
        let mut places: Vec<usize> = self.queries(&queries.columns()).places().collect();
        places.extend(keys.columns().places());
        places.extend(values.columns().places().map(|place| self.padded + place));
        Axis::of(places, self.heads * self.padded)
    }
}

impl Lowering<'_> {
    pub(super) fn stack(&self) -> Result<Stack, DeviceError> {
        self.stack.ok_or_else(|| self.unsupported("a past in a program without one"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_s_tiles_are_the_stack_s() {
        let stack = Stack { tiles: 2, heads: 5, queries: 3, padded: 64 };
        let heads = |count, rotated| Heads { count, dim: 64, padded: 64, rotated, sequences: 1, scale: 1.0 };
        let columns = stack.projection(&heads(3, false), &heads(1, false), &heads(1, false));
        assert_eq!(columns.physical, 5 * 64);
        // Tile by tile: row 33 of the second query is in the second row of tiles, fourth head.
        let (row, column) = (33, columns.place(64));
        let tile = row / TILE * (5 * 64 / TILE) + column / TILE;
        assert_eq!(tile / (64 / TILE), stack.place(3, row) / TILE);
        assert_eq!(stack.place(3, row) % TILE, row % TILE);
        assert_eq!(stack.positioned().collect::<Vec<_>>(), [0, 2, 3, 4]);
    }
}
