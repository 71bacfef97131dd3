//! What is added to attention's scores: far below all others where a query must not see a key. Called by `attention`.

use super::super::TILE;
use super::super::axis::Axis;
use super::super::program::{Argument, Memory, TensorId};
use super::stack::Stack;
use super::{Lowering, Stored};
use crate::device::DeviceError;
use crate::graph::{Attention, Node, ValueId};

/// What is added to the score of a key that must not be seen: far below all others, and still finite in bf16.
const UNSEEN: f32 = -1e9;

impl Lowering<'_> {
    /// What is added to the scores, `[1, 1, queries, keys]`, or nothing where every query sees every key. One for all
    /// attentions that see alike.
    pub(super) fn score_mask(
        &mut self,
        node: &Node,
        attention: &Attention,
    ) -> Result<Option<TensorId>, DeviceError> {
        let (queries, own) = (self.row_axis(node.operands[0])?, self.row_axis(node.operands[1])?);
        let of = attention.masked.then(|| node.operands[node.operands.len() - 1]);
        let key = format!("{of:?} {queries:?} {own:?} {:?} {}", attention.blocks, attention.past);
        if let Some(&known) = self.masks.get(&key) {
            return Ok(Some(known));
        }
        let tensor = match of {
            Some(mask) if attention.past => {
                let past = self.key_mask(mask, queries.physical)?;
                let scores = self.block_scores(&queries, &own, &attention.blocks);
                self.beside(past, format!("blocks {:?} {queries:?} {own:?}", attention.blocks), scores)
            }
            None if attention.past => return Err(self.unsupported("a past without a mask")),
            None if attention.blocks.is_empty() && own.logical == own.physical => return Ok(None),
            None if attention.sequences > 1 => {
                return Err(self.unsupported("several sequences with a mask"));
            }
            None => {
                let scores = self.block_scores(&queries, &own, &attention.blocks);
                let key = format!("blocks {:?} {queries:?} {own:?}", attention.blocks);
                self.literal(key, [queries.physical, own.physical], scores)
            }
            Some(mask) if attention.blocks.is_empty() => self.key_mask(mask, queries.physical)?,
            Some(_) => return Err(self.unsupported("a mask of keys and blocks at once")),
        };
        self.masks.insert(key, tensor);
        Ok(Some(tensor))
    }

    /// The same for stacked queries over a past, their own keys, and as much padding as lets values begin in the first
    /// bank: `[1, 1, stack rows, keys]`.
    pub(super) fn stacked_mask(
        &mut self,
        node: &Node,
        attention: &Attention,
        stack: &Stack,
    ) -> Result<TensorId, DeviceError> {
        let (queries, own) = (self.row_axis(node.operands[0])?, self.row_axis(node.operands[1])?);
        if !attention.masked {
            return Err(self.unsupported("a past without a mask"));
        }
        let mask = node.operands[node.operands.len() - 1];
        let key = format!("past {mask:?} {queries:?} {own:?} {:?}", attention.blocks);
        if let Some(&known) = self.masks.get(&key) {
            return Ok(known);
        }
        let past = self.key_mask(mask, stack.rows())?;
        let before = self.program.tensor(past).shape[3];
        let tiles = (before + own.physical) / TILE;
        // Two tiles of keys at least are taken at a time.
        let whole = match self.card.pages_at_once(stack.padded / TILE) {
            pages if pages.is_multiple_of(2) => pages,
            pages => 2 * pages,
        };
        let keys = TILE * tiles.next_multiple_of(whole);
        let width = keys - before;
        // Heads that are no queries see everything: their results are finite, and nobody reads them.
        let scores = self.block_scores(&queries, &own, &attention.blocks);
        let mut all = vec![0.0; stack.rows() * width];
        for head in 0..stack.heads {
            for row in 0..queries.physical {
                let line = &mut all[stack.place(head, row) * width..][..width];
                line[own.physical..].fill(UNSEEN);
                if head >= stack.heads - stack.queries {
                    line[..own.physical].copy_from_slice(&scores[row * own.physical..][..own.physical]);
                }
            }
        }
        let of_own = format!("stacked blocks {:?} {queries:?} {own:?} {stack:?}", attention.blocks);
        let tensor = self.beside(past, of_own, all);
        self.masks.insert(key, tensor);
        Ok(tensor)
    }

    /// A mask of the past's keys and, beside it, constant scores of the others.
    fn beside(&mut self, past: TensorId, name: String, scores: Vec<f32>) -> TensorId {
        let (rows, before) = (self.program.tensor(past).shape[2], self.program.tensor(past).shape[3]);
        let width = scores.len() / rows;
        let own = self.literal(name, [rows, width], scores);
        let result = self.mask_type(rows, before + width);
        let operands = vec![Argument::List(vec![Argument::Tensor(past), Argument::Tensor(own)])];
        let attributes =
            vec![("dim", Argument::Integer(3)), ("memory_config", Argument::Memory(Memory::Dram))];
        self.call("ttnn.concat", operands, attributes, result)
    }

    /// `UNSEEN` at masked keys, for every query: `(mask - 1) * -UNSEEN`, the row repeated.
    fn key_mask(&mut self, mask: ValueId, queries: usize) -> Result<TensorId, DeviceError> {
        let mask = self.mask_tensor(mask)?;
        let keys = self.program.tensor(mask).shape[3];
        let row: Stored = self.mask_type(1, keys);
        let dram = vec![("memory_config", Argument::Memory(Memory::Dram))];
        let below = self.call(
            "ttnn.subtract",
            vec![Argument::Tensor(mask), Argument::Number(1.0)],
            dram.clone(),
            row,
        );
        let full = self.literal("unseen".into(), [queries, keys], vec![-UNSEEN; queries * keys]);
        let result = self.mask_type(queries, keys);
        Ok(self.call("ttnn.multiply", vec![Argument::Tensor(full), Argument::Tensor(below)], dram, result))
    }

    /// `UNSEEN` where a query must not see an own key: one of a later block, or padding. Queries are the last rows of what
    /// the keys are of.
    fn block_scores(&self, queries: &Axis, own: &Axis, blocks: &[u32]) -> Vec<f32> {
        let earlier = own.logical - queries.logical;
        let mut scores = vec![UNSEEN; queries.physical * own.physical];
        for (place, line) in queries.lines().iter().enumerate() {
            for (key, at) in own.places().enumerate() {
                // A row of padding sees everything that is there: its result is finite, and nobody reads it.
                let seen = match line {
                    Some(line) if !blocks.is_empty() => blocks[key] <= blocks[earlier + line],
                    _ => true,
                };
                if seen {
                    scores[place * own.physical + at] = 0.0;
                }
            }
        }
        scores
    }
}
