//! Heads, their rotation, and attention with its masks.

use super::super::axis::Axis;
use super::super::precision::{PRODUCT, Role};
use super::super::program::{Argument, DataType, Memory, TensorId};
use super::{Form, Heads, Lowering, Stored};
use crate::device::DeviceError;
use crate::graph::{Attention, Node, ValueId};

/// What is added to the score of a key that must not be seen: far below all others, and still finite in bf16.
const UNSEEN: f32 = -1e9;
/// Rows of queries and of keys that a core takes at a time.
const QUERIES: usize = 32;
const KEYS: usize = 128;

impl Lowering<'_> {
    /// Splits columns into heads: `[1, 1, rows, columns]` -> `[sequences, heads, rows / sequences, head_dim]` per part.
    pub(super) fn split_heads(
        &mut self,
        whole: TensorId,
        parts: &[ValueId],
        heads: &[Heads],
    ) -> Result<(), DeviceError> {
        let Heads { padded, sequences, .. } = heads[0];
        if heads.iter().any(|part| part.padded != padded || part.sequences != sequences) {
            return Err(self.unsupported("heads of different sizes in one projection"));
        }
        let columns: usize = heads.iter().map(|part| part.count * padded).sum();
        let rows = self.row_axis(parts[0])?.physical / sequences;
        if sequences > 1 && !self.row_axis(parts[0])?.is_exact() {
            return Err(self.unsupported("padded rows of several sequences"));
        }
        let shape = |part: &Heads| vec![sequences, part.count, rows, padded];
        let results: Vec<TensorId> = match heads {
            [queries, keys, values] if keys == values && keys.scale == 1.0 => {
                let whole = self.reshape(whole, vec![sequences, rows, columns]);
                let results =
                    heads.iter().map(|part| self.activation(shape(part), Role::Activation)).collect();
                let attributes = vec![
                    ("num_heads", Argument::Integer(queries.count as i64)),
                    ("num_kv_heads", Argument::Integer(keys.count as i64)),
                    ("transpose_key", Argument::Flag(false)),
                    ("memory_config", Argument::Memory(self.memory(&shape(queries), DataType::Bfloat16))),
                ];
                let operation = "ttnn.transformer.split_query_key_value_and_split_heads";
                self.call_for(operation, vec![Argument::Tensor(whole)], attributes, results)
            }
            _ => {
                let mut start = 0;
                let mut results = Vec::new();
                for part in heads {
                    let width = part.count * padded;
                    let one = self.cut(whole, 3, start..start + width);
                    results.push(self.separate(one, part, rows));
                    start += width;
                }
                results
            }
        };
        for ((&part, tensor), &heads) in parts.iter().zip(results).zip(heads) {
            self.forms.insert(part, Form::Heads { tensor, heads });
        }
        Ok(())
    }

    /// `[1, 1, rows, heads * head_dim]` -> `[sequences, heads, rows / sequences, head_dim]`
    fn separate(&mut self, tensor: TensorId, heads: &Heads, rows: usize) -> TensorId {
        let Heads { count, padded, sequences, .. } = *heads;
        if count == 1 {
            return self.reshape(tensor, vec![sequences, 1, rows, padded]);
        }
        let apart = self.reshape(tensor, vec![sequences, rows, count, padded]);
        let result = self.activation(vec![sequences, count, rows, padded], Role::Activation);
        let order = Argument::integers([0, 2, 1, 3]);
        self.call("ttnn.permute", vec![Argument::Tensor(apart), order], Vec::new(), result)
    }

    /// `[sequences, heads, rows, head_dim]` -> `[1, 1, sequences * rows, heads * head_dim]`
    pub(super) fn side_by_side(&mut self, tensor: TensorId, heads: &Heads) -> TensorId {
        let Heads { count, padded, sequences, .. } = *heads;
        let rows = self.program.tensor(tensor).shape[2];
        let result = self.activation(vec![sequences, rows, count * padded], Role::Activation);
        let operands = vec![Argument::Tensor(tensor)];
        let joined = self.call("ttnn.transformer.concatenate_heads", operands, Vec::new(), result);
        self.reshape(joined, vec![1, 1, sequences * rows, count * padded])
    }

    /// Rotates every head by its row's angle.
    pub(super) fn rotary(&mut self, node: &Node) -> Result<Form, DeviceError> {
        let (x, heads) = self.heads_of(node.operands[0])?;
        let Form::Rotation { cosines, sines } = *self.form(node.operands[1])? else {
            return Err(self.unsupported("a rotation without a rotary table"));
        };
        let stored = self.program.tensor(x);
        let result = Stored::tiled(stored.shape.clone(), stored.dtype, stored.memory);
        let operands = [x, cosines, sines].map(Argument::Tensor).to_vec();
        let attributes = vec![("memory_config", Argument::Memory(result.memory))];
        let tensor = self.call("ttnn.experimental.rotary_embedding", operands, attributes, result);
        Ok(Form::Heads { tensor, heads })
    }

    fn heads_of(&self, id: ValueId) -> Result<(TensorId, Heads), DeviceError> {
        match *self.form(id)? {
            Form::Heads { tensor, heads } => Ok((tensor, heads)),
            _ => Err(self.unsupported("an operand that is no heads on the card")),
        }
    }

    /// Attention over the past, if any, and the own keys; the result's heads stand side by side in its columns.
    pub(super) fn attention(&mut self, node: &Node, attention: &Attention) -> Result<Form, DeviceError> {
        let [query, key, value] = node.operands[..3] else {
            return Err(self.unsupported("fewer than three operands"));
        };
        let ((q, heads), (mut k, _), (mut v, _)) =
            (self.heads_of(query)?, self.heads_of(key)?, self.heads_of(value)?);
        if attention.past {
            let ((past_k, _), (past_v, _)) =
                (self.heads_of(node.operands[3])?, self.heads_of(node.operands[4])?);
            k = self.after(past_k, k);
            v = self.after(past_v, v);
        }
        let mask = self.score_mask(node, attention)?;
        let rows = self.row_axis(query)?.physical;
        let Heads { count, padded, sequences, .. } = heads;
        let columns = heads.columns();
        let result = self.activation(vec![sequences, 1, rows / sequences, count * padded], Role::Activation);
        let mut attributes = vec![
            ("is_causal", Argument::Flag(false)),
            ("scale", Argument::Number(f64::from(attention.scale / heads.scale))),
            ("program_config", Argument::Attention { grid: self.card.grid, queries: QUERIES, keys: KEYS }),
            ("memory_config", Argument::Memory(result.memory)),
            ("compute_kernel_config", Argument::Compute(PRODUCT)),
            ("output_concat_heads", Argument::Flag(true)),
        ];
        attributes.extend(mask.map(|mask| ("attn_mask", Argument::Tensor(mask))));
        let operands = [q, k, v].map(Argument::Tensor).to_vec();
        let tensor = self.call("ttnn.transformer.scaled_dot_product_attention", operands, attributes, result);
        let tensor = self.reshape(tensor, vec![1, 1, rows, count * padded]);
        Ok(Form::Matrix { tensor, columns })
    }

    /// The keys or values of the past, then the own ones.
    fn after(&mut self, past: TensorId, own: TensorId) -> TensorId {
        let (first, second) = (self.program.tensor(past), self.program.tensor(own));
        let mut shape = first.shape.clone();
        shape[2] += second.shape[2];
        let result = Stored::tiled(shape, second.dtype, second.memory);
        let operands = vec![Argument::List(vec![Argument::Tensor(past), Argument::Tensor(own)])];
        let attributes =
            vec![("dim", Argument::Integer(2)), ("memory_config", Argument::Memory(result.memory))];
        self.call("ttnn.concat", operands, attributes, result)
    }

    /// What is added to the scores, `[1, 1, queries, keys]`, or nothing where every query sees every key. One for all
    /// attentions that see alike.
    fn score_mask(&mut self, node: &Node, attention: &Attention) -> Result<Option<TensorId>, DeviceError> {
        let (queries, own) = (self.row_axis(node.operands[0])?, self.row_axis(node.operands[1])?);
        let of = attention.masked.then(|| node.operands[node.operands.len() - 1]);
        let key = format!("{of:?} {queries:?} {own:?} {:?} {}", attention.blocks, attention.past);
        if let Some(&known) = self.masks.get(&key) {
            return Ok(Some(known));
        }
        let padded = own.logical != own.physical;
        let tensor = match (of, attention.past) {
            (None, false) if attention.blocks.is_empty() && !padded => return Ok(None),
            (None, false) if attention.sequences > 1 => {
                return Err(self.unsupported("several sequences with a mask"));
            }
            (None, false) => self.block_mask(&queries, &own, &attention.blocks),
            (Some(mask), false) if attention.blocks.is_empty() => self.key_mask(mask, queries.physical)?,
            (Some(_), false) => return Err(self.unsupported("a mask of keys and blocks at once")),
            (Some(mask), true) => {
                let past = self.key_mask(mask, queries.physical)?;
                let own = self.block_mask(&queries, &own, &attention.blocks);
                let width = self.program.tensor(past).shape[3] + self.program.tensor(own).shape[3];
                let result =
                    Stored::tiled(vec![1, 1, queries.physical, width], DataType::Bfloat16, Memory::Dram);
                let operands = vec![Argument::List(vec![Argument::Tensor(past), Argument::Tensor(own)])];
                let attributes =
                    vec![("dim", Argument::Integer(3)), ("memory_config", Argument::Memory(Memory::Dram))];
                self.call("ttnn.concat", operands, attributes, result)
            }
            (None, true) => return Err(self.unsupported("a past without a mask")),
        };
        self.masks.insert(key, tensor);
        Ok(Some(tensor))
    }

    /// `UNSEEN` at masked keys, for every query: `(mask - 1) * -UNSEEN`, the row repeated.
    fn key_mask(&mut self, mask: ValueId, queries: usize) -> Result<TensorId, DeviceError> {
        let mask = self.mask_tensor(mask)?;
        let keys = self.program.tensor(mask).shape[3];
        let row = Stored::tiled(vec![1, 1, 1, keys], DataType::Bfloat16, Memory::Dram);
        let dram = vec![("memory_config", Argument::Memory(Memory::Dram))];
        let below = self.call(
            "ttnn.subtract",
            vec![Argument::Tensor(mask), Argument::Number(1.0)],
            dram.clone(),
            row,
        );
        let full = self.literal("unseen".into(), [queries, keys], vec![-UNSEEN; queries * keys]);
        let result = Stored::tiled(vec![1, 1, queries, keys], DataType::Bfloat16, Memory::Dram);
        Ok(self.call("ttnn.multiply", vec![Argument::Tensor(full), Argument::Tensor(below)], dram, result))
    }

    /// `UNSEEN` where a query must not see an own key: one of a later block, or padding. Queries are the last rows of what
    /// the keys are of.
    fn block_mask(&mut self, queries: &Axis, own: &Axis, blocks: &[u32]) -> TensorId {
        let earlier = own.logical - queries.logical;
        let mut scores = vec![UNSEEN; queries.physical * own.physical];
        let lines = queries.lines();
        for (place, line) in lines.iter().enumerate() {
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
        let key = format!("blocks {blocks:?} {queries:?} {own:?}");
        self.literal(key, [queries.physical, own.physical], scores)
    }
}
