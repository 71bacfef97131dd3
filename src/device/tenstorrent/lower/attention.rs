//! Heads, their rotation, and attention.
//!
//! Queries that rotate share one head of keys and values. Where there is no past (the prefix), keys and values are the two
//! heads of one tensor, a pair, which is also what stays for the denoising steps. Where there is one, all heads of all
//! rows are in one tensor, a `Stack`, which is a view of what the projection gives: nothing is split, one call rotates it,
//! one call puts the past's pair before its keys and values. Keys of several heads have tensors of their own.

use super::super::TILE;
use super::super::axis::Axis;
use super::super::precision::{EXACT, PRODUCT, Role};
use super::super::program::{Argument, Compute, DataType, Memory, TensorId};
use super::{Form, Heads, Lowering, Stored};
use crate::device::DeviceError;
use crate::graph::{Attention, Node, ValueId};

/// Tiles of queries that a core takes at a time where there is no past, at most, and tiles of its keys, at most.
const QUERIES_AT_ONCE: usize = 2;
const KEYS_AT_ONCE: usize = 104;
/// The library's rotation sums in bf16 where a head has more than 128 elements; every sum is of two products.
const ROTATION: Compute = Compute { fidelity: "HiFi4", fp32_accumulate: false };

/// Whether queries and a pair alone tell the library that nothing follows the pair; two more heads follow it otherwise.
pub(super) fn is_tied(queries: &Heads) -> bool {
    let Heads { count, padded, .. } = queries;
    !((count + 2) * padded).is_multiple_of(count + 4)
}

impl Lowering<'_> {
    /// Splits columns into the heads `parts`: each part's form, `[sequences, heads, rows / sequences, head_dim]`.
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
        match (parts, heads) {
            (&[queries, keys, values], &[of_queries, of_keys, _]) if self.heads.shared && of_keys.rotated => {
                let q = self.head_tensor(&of_queries, rows);
                let pair = self.pair_tensor(padded, rows);
                let attributes = vec![
                    ("num_heads", Argument::Integer(of_queries.count as i64)),
                    // Both of the pair at once; the library gives them a second time, or what follows them, as values.
                    ("num_kv_heads", Argument::Integer(2)),
                    ("transpose_k_heads", Argument::Flag(false)),
                    ("kv_tied", Argument::Flag(is_tied(&of_queries))),
                    ("memory_config", Argument::Memory(Memory::Dram)),
                ];
                let results = self.call_for(
                    "ttnn.experimental.nlp_create_qkv_heads",
                    vec![Argument::Tensor(whole)],
                    attributes,
                    vec![Stored { memory: Memory::Dram, ..q }, pair.clone(), pair],
                );
                self.forms.insert(queries, Form::Heads { tensor: results[0], heads: of_queries });
                self.pair(results[1], keys, values);
            }
            (&[keys, values], &[of_keys, _]) if self.heads.shared && of_keys.rotated => {
                let pair = self.apart(whole, 2, rows, padded);
                self.pair(pair, keys, values);
            }
            (_, [queries, keys, values]) if keys.count == values.count => {
                let whole = self.reshape(whole, vec![sequences, rows, columns]);
                let results = heads.iter().map(|part| self.head_tensor(part, rows)).collect();
                let memory = self.head_tensor(queries, rows).memory;
                let attributes = vec![
                    ("num_heads", Argument::Integer(queries.count as i64)),
                    ("num_kv_heads", Argument::Integer(keys.count as i64)),
                    ("transpose_key", Argument::Flag(false)),
                    ("memory_config", Argument::Memory(memory)),
                ];
                let operation = "ttnn.transformer.split_query_key_value_and_split_heads";
                let results = self.call_for(operation, vec![Argument::Tensor(whole)], attributes, results);
                for ((&part, tensor), &heads) in parts.iter().zip(results).zip(heads) {
                    self.forms.insert(part, Form::Heads { tensor, heads });
                }
            }
            (_, [keys, values]) if keys.count == values.count => {
                let apart = self.apart(whole, 2 * keys.count, rows, padded);
                for (index, (&part, &heads)) in parts.iter().zip(heads).enumerate() {
                    let tensor = self.part(apart, 1, index * heads.count..(index + 1) * heads.count);
                    self.forms.insert(part, Form::Heads { tensor, heads });
                }
            }
            _ => return Err(self.unsupported("a projection to other than queries, keys and values")),
        }
        Ok(())
    }

    /// `[1, 1, rows, heads * padded]` -> `[1, heads, rows, padded]`, tile by tile.
    fn apart(&mut self, whole: TensorId, heads: usize, rows: usize, padded: usize) -> TensorId {
        let tiles = rows / TILE;
        let whole = self.same_tiles(whole, vec![tiles, heads, TILE, padded]);
        let result =
            Stored::tiled(vec![heads, tiles, TILE, padded], self.program.tensor(whole).dtype, Memory::Dram);
        let attributes = vec![("memory_config", Argument::Memory(result.memory))];
        let operands = vec![Argument::Tensor(whole), Argument::integers([1, 0, 2, 3])];
        let apart = self.call("ttnn.permute", operands, attributes, result);
        self.reshape(apart, vec![1, heads, rows, padded])
    }

    fn head_tensor(&self, heads: &Heads, rows: usize) -> Stored {
        self.activation(vec![heads.sequences, heads.count, rows, heads.padded], Role::Activation)
    }

    fn pair_tensor(&self, padded: usize, rows: usize) -> Stored {
        Stored::tiled(vec![1, 2, rows, padded], self.precisions.dtype(Role::Activation), Memory::Dram)
    }

    fn pair(&mut self, tensor: TensorId, keys: ValueId, values: ValueId) {
        self.forms.insert(keys, Form::Paired { tensor, part: 0 });
        self.forms.insert(values, Form::Paired { tensor, part: 1 });
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

    /// A paired or stacked tensor as its last rotation left it: values are not turned, but lie beside keys that are.
    pub(super) fn turned(&self, tensor: TensorId) -> TensorId {
        self.turned.get(&tensor).copied().unwrap_or(tensor)
    }

    /// Rotates every head by its row's angle; all heads of a tensor at once, however many nodes ask for it.
    pub(super) fn rotary(&mut self, node: &Node) -> Result<Form, DeviceError> {
        let Form::Rotation { cosines, sines } = *self.form(node.operands[1])? else {
            return Err(self.unsupported("a rotation without a rotary table"));
        };
        match *self.form(node.operands[0])? {
            Form::Paired { tensor, part } => {
                Ok(Form::Paired { tensor: self.turn(tensor, cosines, sines), part })
            }
            Form::Stacked(tensor) => Ok(Form::Stacked(self.turn(tensor, cosines, sines))),
            Form::Heads { tensor, heads } => {
                // Of a pair, the first head's angles; the second one's are zero.
                let (cosines, sines) = (self.part(cosines, 1, 0..1), self.part(sines, 1, 0..1));
                Ok(Form::Heads { tensor: self.turn(tensor, cosines, sines), heads })
            }
            _ => Err(self.unsupported("an operand that is no heads on the card")),
        }
    }

    /// `x cos + (x's neighbours) sin`. The library gives every core a head of a tile of rows; a stack has fewer of these than there
    /// are cores, so there each tile is a row of its own.
    fn turn(&mut self, x: TensorId, cosines: TensorId, sines: TensorId) -> TensorId {
        if let Some(&turned) = self.turned.get(&x) {
            return turned;
        }
        let mut neighbours = vec![0.0; TILE * TILE];
        for even in (0..TILE).step_by(2) {
            neighbours[even * TILE + even + 1] = 1.0;
            neighbours[(even + 1) * TILE + even] = -1.0;
        }
        let neighbours = self.literal("neighbours".into(), [TILE, TILE], neighbours);
        let stored = self.program.tensor(x);
        let (heads, dtype) = (stored.shape.clone(), stored.dtype);
        let (shape, compute) = match self.stack {
            Some(_) => (self.program.tensor(cosines).shape.clone(), EXACT),
            None => (heads.clone(), ROTATION),
        };
        let unturned = self.same_tiles(x, shape.clone());
        // In DRAM its heads can be taken apart without a call.
        let result = Stored::tiled(shape, dtype, Memory::Dram);
        let operands = [unturned, cosines, sines, neighbours].map(Argument::Tensor).to_vec();
        let attributes = vec![
            ("is_decode_mode", Argument::Flag(false)),
            ("memory_config", Argument::Memory(result.memory)),
            ("compute_kernel_config", Argument::Compute(compute)),
        ];
        let turned = self.call("ttnn.experimental.rotary_embedding_llama", operands, attributes, result);
        let turned = self.same_tiles(turned, heads);
        self.turned.insert(x, turned);
        turned
    }

    /// Attention over the past, if any, and the own keys; the result's heads stand side by side in its columns.
    pub(super) fn attention(&mut self, node: &Node, attention: &Attention) -> Result<Form, DeviceError> {
        if attention.past && self.stack.is_some() {
            return self.attention_to_the_past(node, attention);
        }
        let &[query, key, value, ..] = &node.operands[..] else {
            return Err(self.unsupported("fewer than three operands"));
        };
        let Form::Heads { tensor: q, heads } = *self.form(query)? else {
            return Err(self.unsupported("queries that are no heads on the card"));
        };
        let (k, v) = match (self.form(key)?.clone(), self.form(value)?.clone()) {
            (Form::Heads { tensor: k, .. }, Form::Heads { tensor: v, .. }) if attention.past => {
                (self.after_past(node.operands[3], k)?, self.after_past(node.operands[4], v)?)
            }
            (Form::Heads { tensor: k, .. }, Form::Heads { tensor: v, .. }) => (k, v),
            (Form::Paired { tensor, part: 0 }, Form::Paired { part: 1, .. }) => {
                let pair = self.turned(tensor);
                (self.part(pair, 1, 0..1), self.part(pair, 1, 1..2))
            }
            _ => return Err(self.unsupported("keys and values that are no heads on the card")),
        };
        let mask = self.score_mask(node, attention)?;
        let rows = self.row_axis(query)?.physical;
        let Heads { count, padded, sequences, .. } = heads;
        let result = self.activation(vec![sequences, 1, rows / sequences, count * padded], Role::Activation);
        let scale = attention.scale / heads.scale;
        let tensor = self.attend([q, k, v], mask, scale, result);
        let tensor = self.reshape(tensor, vec![1, 1, rows, count * padded]);
        Ok(Form::Matrix { tensor, columns: Axis::heads(count, heads.dim, padded) })
    }

    fn attend(
        &mut self,
        [q, k, v]: [TensorId; 3],
        mask: Option<TensorId>,
        scale: f32,
        result: Stored,
    ) -> TensorId {
        let [queries, keys] = self.chunks(q, k).map(|tiles| tiles * TILE);
        let mut attributes = vec![
            ("is_causal", Argument::Flag(false)),
            ("scale", Argument::Number(f64::from(scale))),
            (
                "program_config",
                Argument::Attention { grid: self.card.grid, queries, keys, approximate: false },
            ),
            ("memory_config", Argument::Memory(result.memory)),
            ("compute_kernel_config", Argument::Compute(PRODUCT)),
            ("output_concat_heads", Argument::Flag(true)),
        ];
        attributes.extend(mask.map(|mask| ("attn_mask", Argument::Tensor(mask))));
        let operands = [q, k, v].map(Argument::Tensor).to_vec();
        self.call("ttnn.transformer.scaled_dot_product_attention", operands, attributes, result)
    }

    /// Tiles of queries and of keys that a core takes at a time. Queries: what leaves the busiest core least, two rather than one, since
    /// keys are read anew for each. Keys: the fewest in whole blocks, each of which costs half a tile more (tt-metal measured 5.6 us
    /// less for blocks of 8 than of 4, of 24; models/experimental/pi0_5/PERF_PLAYBOOKS/04_ATTENTION_SDPA.md).
    fn chunks(&self, q: TensorId, k: TensorId) -> [usize; 2] {
        let of = |tensor| self.program.tensor(tensor).shape.clone();
        let [sequences, heads, rows, width] = of(q)[..] else { return [1, 1] };
        let (queries, keys) = (rows.div_ceil(TILE), of(k)[2].div_ceil(TILE));
        let busiest = |&tiles: &usize| {
            (sequences * heads * queries.div_ceil(tiles)).div_ceil(self.card.cores()) * tiles
        };
        let halves = |&tiles: &usize| 2 * keys.div_ceil(tiles) * tiles + keys.div_ceil(tiles);
        let most = (KEYS_AT_ONCE * TILE / width).clamp(1, keys);
        [
            (1..=QUERIES_AT_ONCE).rev().min_by_key(busiest).unwrap_or(1),
            (1..=most).rev().min_by_key(halves).unwrap_or(1),
        ]
    }

    /// All masks are in bf16.
    pub(super) fn mask_type(&self, queries: usize, keys: usize) -> Stored {
        Stored::tiled(vec![1, 1, queries, keys], DataType::Bfloat16, Memory::Dram)
    }
}
