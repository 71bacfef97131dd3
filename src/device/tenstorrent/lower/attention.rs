//! Heads, their rotation, and attention.
//!
//! Queries that rotate share one head of keys and values. Where there is no past (the prefix), keys and values are the two
//! heads of one tensor, a pair, which is also what stays for the denoising steps. Where there is one, all heads of all
//! rows are in one tensor, a [`Stack`], which is a view of what the projection gives: nothing is split, one call rotates it,
//! one call puts the past's pair before its keys and values. Keys of several heads have tensors of their own.

use std::ops::Range;

use super::super::TILE;
use super::super::axis::Axis;
use super::super::content::Content;
use super::super::precision::{EXACT, PRODUCT, Role};
use super::super::program::{Argument, Compute, DataType, Memory, TensorId};
use super::stack::Stack;
use super::{Form, Heads, Lowering, Stored};
use crate::device::DeviceError;
use crate::graph::{Attention, Node, ValueId};

/// Rows of keys of a user that a core takes at a time, at most; of queries it takes a user's.
const KEYS: usize = 128;
/// Tiles of queries that a core takes at a time where there is no past, at most, and tiles of its keys, at most.
const QUERIES_AT_ONCE: usize = 2;
const KEYS_AT_ONCE: usize = 112;
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

    /// Stacked queries over the past's pair, the own keys and values put after it. There are more cores than tiles of
    /// queries, so the keys are shared out too: that is what the library does for language models that make one token for
    /// each of many users. Some tiles of queries are such a user here, their rows its heads, and every user has the same pages of
    /// keys. Heads that are no queries are computed and never read.
    fn attention_to_the_past(&mut self, node: &Node, attention: &Attention) -> Result<Form, DeviceError> {
        let [query, key, value, past_key, past_value, ..] = node.operands[..] else {
            return Err(self.unsupported("fewer than five operands"));
        };
        let stack = self.stack()?;
        let forms = [query, key, value].map(|id| self.form(id).cloned());
        let [Ok(Form::Stacked(q)), Ok(Form::Stacked(k)), Ok(Form::Stacked(v))] = forms else {
            return Err(self.unsupported("queries, keys and values that are not one tensor on the card"));
        };
        let own = self.turned(q);
        if self.turned(k) != own || self.turned(v) != own {
            return Err(self.unsupported("queries, keys and values of different projections"));
        }
        let (past, of_values) = (self.form(past_key)?.clone(), self.form(past_value)?.clone());
        let (Form::Paired { tensor: past, part: 0 }, Form::Paired { tensor: beside, part: 1 }) =
            (past, of_values)
        else {
            return Err(self.unsupported("a past that is no pair of keys and values"));
        };
        if past != beside {
            return Err(self.unsupported("keys and values of different pasts"));
        }
        let mask = self.stacked_mask(node, attention, &stack)?;
        let keys = self.program.tensor(mask).shape[3];
        let (users, at_once) = self.users(&stack, keys);
        let rows = stack.rows() / users;
        // A user's mask, as its kernel reads it: it takes users from the first axis, whatever the documentation says.
        let mask = self.reshape(mask, vec![users, 1, rows, keys]);
        let kept = self.typed(own, self.program.tensor(past).dtype, Memory::Dram);
        let pair = self.after(past, kept, keys, &stack);
        let [k, v] = [0, 1].map(|part| {
            let one = self.part(pair, 1, part..part + 1);
            self.reshape(one, vec![keys / TILE, 1, TILE, stack.padded])
        });
        let pages = self.pages(users, keys / TILE);
        let queries = self.same_tiles(own, vec![1, users, rows, stack.padded]);
        let Some(heads) = self.heads.get(query) else {
            return Err(self.unsupported("queries that are no heads here"));
        };
        let result = self.activation(vec![1, users, rows, stack.padded], Role::Activation);
        let grid = self.card.grid;
        // What that does to actions is hardly to be seen, as nothing of it goes on to the next step.
        let config = Argument::Attention { grid, queries: TILE, keys: at_once, approximate: true };
        let attributes = vec![
            ("page_table_tensor", Argument::Tensor(pages)),
            ("is_causal", Argument::Flag(false)),
            ("attn_mask", Argument::Tensor(mask)),
            ("scale", Argument::Number(f64::from(attention.scale / heads.scale))),
            ("program_config", config),
            ("memory_config", Argument::Memory(result.memory)),
            ("compute_kernel_config", Argument::Compute(PRODUCT)),
        ];
        let operands = [queries, k, v].map(Argument::Tensor).to_vec();
        let operation = "ttnn.transformer.paged_scaled_dot_product_attention_decode";
        let tensor = self.call(operation, operands, attributes, result);
        let tensor = self.same_tiles(tensor, vec![1, 1, stack.tiles * TILE, stack.heads * stack.padded]);
        Ok(Form::Matrix {
            tensor,
            columns: stack.queries(&Axis::heads(heads.count, heads.dim, heads.padded)),
        })
    }

    /// How many users the stack's tiles of queries are, and how many rows of keys a core takes at a time. Every core of a user reads
    /// its share of the keys from DRAM, so users have two tiles where they can; then what leaves the busiest core least, its part in
    /// adding up all cores' results (two by two) included.
    fn users(&self, stack: &Stack, keys: usize) -> (usize, usize) {
        let tiles = stack.tiles * stack.heads;
        let users = if tiles.is_multiple_of(2) { tiles / 2 } else { tiles };
        let shared = self.card.cores_of_a_user(users);
        let busiest = |at_once: &usize| {
            let blocks = keys / at_once;
            let sums = blocks.min(shared).next_power_of_two().ilog2() as usize;
            blocks.div_ceil(shared) * at_once / TILE + sums
        };
        let sizes = [KEYS, KEYS / 2, KEYS / 4].into_iter().filter(|at_once| keys.is_multiple_of(*at_once));
        (users, sizes.min_by_key(busiest).unwrap_or(TILE))
    }

    /// Every user's pages: all of them, in order. `[users, pages]`, once for all attentions.
    fn pages(&mut self, users: usize, pages: usize) -> TensorId {
        let key = format!("pages {users}x{pages}");
        if let Some(&known) = self.masks.get(&key) {
            return known;
        }
        let numbers = (0..users).flat_map(|_| 0..pages).map(|page| page as f32).collect();
        let list = self.literal(key.clone(), [users, pages], numbers);
        let table = self.whole_numbers(list, DataType::Int32);
        let table = self.reshape(table, vec![users, pages]);
        self.masks.insert(key, table);
        table
    }

    /// The past's keys and values, the stack's own, and zeros up to `keys` rows: `[1, 2, keys, padded]`.
    fn after(&mut self, past: TensorId, own: TensorId, keys: usize, stack: &Stack) -> TensorId {
        let mut parts = vec![Argument::Tensor(past)];
        for tile in 0..stack.tiles {
            let start = tile * stack.heads;
            parts.push(Argument::Tensor(self.part(own, 1, start..start + 2)));
        }
        let missing = keys - self.program.tensor(past).shape[2] - stack.tiles * TILE;
        if missing > 0 {
            let shape = vec![1, 2, missing, stack.padded];
            let zeros = Content::literal(format!("zeros {shape:?}"), vec![0.0; shape.iter().product()]);
            let stored = Stored::tiled(shape, self.program.tensor(past).dtype, Memory::Dram);
            parts.push(Argument::Tensor(self.content(zeros, stored)));
        }
        let shape = vec![1, 2, keys, stack.padded];
        let result = Stored::tiled(shape, self.program.tensor(past).dtype, Memory::Dram);
        let attributes =
            vec![("dim", Argument::Integer(2)), ("memory_config", Argument::Memory(result.memory))];
        self.call("ttnn.concat", vec![Argument::List(parts)], attributes, result)
    }

    /// The keys or values of the past, then the own ones.
    fn after_past(&mut self, past: ValueId, own: TensorId) -> Result<TensorId, DeviceError> {
        let Form::Heads { tensor: past, .. } = *self.form(past)? else {
            return Err(self.unsupported("a past that is no heads on the card"));
        };
        let (first, second) = (self.program.tensor(past), self.program.tensor(own));
        let mut shape = first.shape.clone();
        shape[2] += second.shape[2];
        let result = Stored::tiled(shape, second.dtype, second.memory);
        let operands = vec![Argument::List(vec![Argument::Tensor(past), Argument::Tensor(own)])];
        let attributes =
            vec![("dim", Argument::Integer(2)), ("memory_config", Argument::Memory(result.memory))];
        Ok(self.call("ttnn.concat", operands, attributes, result))
    }

    /// The same values as another type.
    pub(super) fn typed(&mut self, tensor: TensorId, dtype: DataType, memory: Memory) -> TensorId {
        let stored = self.program.tensor(tensor);
        if stored.dtype == dtype {
            return tensor;
        }
        let result = Stored::tiled(stored.shape.clone(), dtype, memory);
        let attributes = vec![("memory_config", Argument::Memory(memory))];
        let operands = vec![Argument::Tensor(tensor), Argument::Dtype(dtype)];
        self.call("ttnn.typecast", operands, attributes, result)
    }

    /// Part of the axis of heads, where it lies if that can be: then nothing is moved.
    pub(super) fn part(&mut self, tensor: TensorId, axis: usize, range: Range<usize>) -> TensorId {
        let stored = self.program.tensor(tensor);
        let mut shape = stored.shape.clone();
        if range.len() == shape[axis] {
            return tensor;
        }
        // A part begins in the first bank, or it has to be copied.
        let tiles = shape[axis + 1..].iter().product::<usize>() / (TILE * TILE);
        if stored.memory != Memory::Dram || !(range.start * tiles).is_multiple_of(self.card.dram_banks) {
            return self.cut(tensor, axis, range);
        }
        shape[axis] = range.len();
        let result = Stored::tiled(shape, stored.dtype, stored.memory);
        let numbers = [axis, range.start, range.len()].map(|number| Argument::Integer(number as i64));
        let operands = std::iter::once(Argument::Tensor(tensor)).chain(numbers).collect();
        self.call("ttnn.narrow", operands, Vec::new(), result)
    }

    /// The same tiles in the same order as a tensor of another shape. Unlike a reshape it changes which element is where:
    /// a tensor's tiles follow each other row by row, so `[1, 1, rows, heads * dim]` is `[1, row tiles * heads, 32, dim]`.
    pub(super) fn same_tiles(&mut self, tensor: TensorId, shape: Vec<usize>) -> TensorId {
        let stored = self.program.tensor(tensor);
        if stored.shape == shape {
            return tensor;
        }
        let result = Stored::tiled(shape.clone(), stored.dtype, stored.memory);
        let operands = vec![Argument::Tensor(tensor), Argument::integers(shape)];
        self.call("ttnn.experimental.view", operands, Vec::new(), result)
    }

    /// All masks are in bf16.
    pub(super) fn mask_type(&self, queries: usize, keys: usize) -> Stored {
        Stored::tiled(vec![1, 1, queries, keys], DataType::Bfloat16, Memory::Dram)
    }
}
