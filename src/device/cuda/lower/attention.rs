//! Attention: which kernel, and over how many blocks. Part of `lower`.

use super::{Argument, Lowering, int, read, write};
use crate::device::DeviceError;
use crate::device::cuda::content::Content;
use crate::device::cuda::kernels::Kernel;
use crate::device::cuda::program::{Element, View};
use crate::graph::{Attention, Node};

/// Rows, of a query and a head each, of a block, and keys that it takes at a time: as attention_tensor.cu has them.
const ROWS: usize = 64;
const KEYS: usize = 32;
/// Threads of its block.
const THREADS: usize = 128;
/// Blocks that fill a GPU well enough; with fewer, keys are split.
const ENOUGH_BLOCKS: usize = 96;
/// Heads as long as this leave room for the sums in registers.
const LONGEST_HEAD: usize = 256;

impl Lowering<'_> {
    pub fn attention(&mut self, node: &Node, attention: &Attention) -> Result<(), DeviceError> {
        let &Attention { heads, kv_heads, head_dim, scale, sequences, past, masked, ref blocks } = attention;
        let mut operands = node.operands.iter().copied();
        let mut next =
            |lowering: &Self| operands.next().ok_or_else(|| lowering.unsupported("this attention"));
        let (query, key, value) = (next(self)?, next(self)?, next(self)?);
        let [query, key, value] = [self.factor(query)?, self.factor(key)?, self.factor(value)?];
        let past = match past {
            true => {
                let (key, value) = (next(self)?, next(self)?);
                Some([self.factor(key)?, self.factor(value)?])
            }
            false => None,
        };
        let mask = match masked {
            true => {
                let mask = next(self)?;
                Some(self.value(mask, Element::U8)?)
            }
            false => None,
        };
        let (queries, own) = (query.rows / sequences, key.rows / sequences);
        let limits = (!blocks.is_empty()).then(|| {
            // The queries are the last rows of what the keys are of.
            let limit = |block: &u32| blocks.partition_point(|other| other <= block) as i32;
            let limits: Vec<i32> = blocks[own - queries..].iter().map(limit).collect();
            self.content(Content::integers(format!("limits {limits:?}"), limits), Element::I32, 1, queries)
        });
        let tensor = self.takes_tensor_cores(head_dim, &[query, key, value], past.as_ref());
        let out = self.result_as(node.result, if tensor { Element::Bf16 } else { query.element });

        let optional = |view: Option<View>| view.map_or(Argument::Nothing, Argument::Read);
        let (past_key, past_value) = (past.map(|past| past[0]), past.map(|past| past[1]));
        let past_keys = past_key.map_or(0, |key| key.rows);
        let mut arguments = [read(query), read(key), read(value)].concat();
        arguments.push(int(own));
        arguments.extend([read(past_key), read(past_value)].concat());
        arguments.extend([int(past_keys), optional(mask), optional(limits)]);
        let result = arguments.len();
        arguments.extend(write(out));
        arguments.extend([int(queries), int(heads), int(kv_heads), Argument::Float(scale)]);
        if !tensor {
            let kernel = Kernel::new("attention").element("T", query.element).number("HEAD_DIM", head_dim);
            let grid = [(queries * heads).div_ceil(THREADS / 32), sequences, 1];
            self.launch(kernel, grid, THREADS, 4 * THREADS, arguments);
            return Ok(());
        }

        let rows_of_blocks = (queries * (heads / kv_heads)).div_ceil(ROWS);
        let (tiles, without) = ((past_keys + own).div_ceil(KEYS), rows_of_blocks * kv_heads * sequences);
        let per_split = tiles.div_ceil((ENOUGH_BLOCKS / without).clamp(1, tiles));
        let splits = tiles.div_ceil(per_split);
        let all = sequences * queries * heads;
        let parts = (splits > 1).then(|| {
            let name = &node.name;
            let partial = self.work(&format!("{name}.partial"), Element::F32, splits * all, head_dim);
            (partial, self.work(&format!("{name}.weights"), Element::F32, splits * all, 2))
        });
        arguments.extend([int(splits), int(per_split * KEYS)]);
        arguments.extend(match parts {
            Some((partial, weights)) => [Argument::Write(partial), Argument::Write(weights)],
            None => [Argument::Nothing; 2],
        });
        // With splits the blocks leave parts; the result is written by what joins them.
        if splits > 1 {
            arguments[result] = Argument::Nothing;
        }
        let kernel = Kernel::new("attention_tensor").number("HEAD_DIM", head_dim);
        let stride = head_dim.next_multiple_of(16) + 8;
        let shared = 2 * stride * (ROWS + 2 * KEYS) + 4 * KEYS;
        self.launch(kernel, [rows_of_blocks, kv_heads, sequences * splits], THREADS, shared, arguments);
        if let Some((partial, weights)) = parts {
            let kernel =
                Kernel::new("attention_join").element("OUT", out.element).number("HEAD_DIM", head_dim);
            let arguments = vec![
                Argument::Read(partial),
                Argument::Read(weights),
                int(splits),
                Argument::Write(out),
                int(out.stride),
                int(heads),
            ];
            self.per_row(kernel, all, head_dim, arguments);
        }
        Ok(())
    }

    /// Whether the matrix instructions can do it: in bf16, heads that are whole pieces of 16 bytes and not too long.
    fn takes_tensor_cores(&self, head_dim: usize, own: &[View], past: Option<&[View; 2]>) -> bool {
        let aligned = |view: &View| {
            view.element == Element::Bf16 && view.offset.is_multiple_of(8) && view.stride.is_multiple_of(8)
        };
        let views = own.iter().chain(past.into_iter().flatten());
        head_dim.is_multiple_of(8) && head_dim <= LONGEST_HEAD && views.into_iter().all(aligned)
    }
}
