//! Attention over a past: a [`Stack`]'s queries to the pair of keys and values that the prefix left, and to their own. Called by
//! `attention`.

use super::super::TILE;
use super::super::axis::Axis;
use super::super::content::Content;
use super::super::precision::{PRODUCT, Role};
use super::super::program::{Argument, DataType, Memory, TensorId};
use super::stack::Stack;
use super::{Form, Lowering, Stored};
use crate::device::DeviceError;
use crate::graph::{Attention, Node, ValueId};

/// Rows of keys of a user that a core takes at a time, at most; of queries it takes a user's.
const KEYS: usize = 128;

impl Lowering<'_> {
    /// Stacked queries over the past's pair, the own keys and values put after it. There are more cores than tiles of
    /// queries, so the keys are shared out too: that is what the library does for language models that make one token for
    /// each of many users. Some tiles of queries are such a user here, their rows its heads, and every user has the same pages of
    /// keys. Heads that are no queries are computed and never read.
    pub(super) fn attention_to_the_past(
        &mut self,
        node: &Node,
        attention: &Attention,
    ) -> Result<Form, DeviceError> {
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
        if users > self.card.cores() {
            return Err(self.unsupported("a chunk of more points than the card has cores for"));
        }
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
        let config = Argument::Attention { grid, queries: rows, keys: at_once, approximate: true };
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
    pub(super) fn after_past(&mut self, past: ValueId, own: TensorId) -> Result<TensorId, DeviceError> {
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
}
