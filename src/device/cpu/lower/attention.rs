//! Attentions to kernels: keys and values packed, then the attention itself.

use crate::device::DeviceError;
use crate::device::cpu::compile::Compiler;
use crate::device::cpu::fuse::Rotated;
use crate::device::cpu::kernels::attention::{Attend, Segment};
use crate::device::cpu::kernels::heads::{HeadRows, HeadsShape, PackHeads, PackedHeads, Packing, Side};
use crate::device::cpu::kernels::product::Precision;
use crate::device::cpu::layout::{Addresses, Place, View};
use crate::graph::{Attention, ValueId};

/// Keys and values of one segment, packed, before they have an address.
#[derive(Clone, Copy)]
pub(crate) struct PackedSegment {
    keys: (View, HeadsShape),
    values: (View, HeadsShape),
}

impl PackedSegment {
    fn views(&self) -> [View; 2] {
        [self.keys.0, self.values.0]
    }

    fn at(&self, addresses: &Addresses, mask: Option<View>) -> Segment {
        let heads = |(view, shape)| PackedHeads { packed: addresses.matrix(view), shape };
        let mask = mask.map(|mask| addresses.matrix(mask));
        Segment { keys: heads(self.keys), values: heads(self.values), mask }
    }
}

/// Rows on their way to be packed, before they have an address.
#[derive(Clone, Copy)]
struct RowsView {
    x: View,
    rotary: Option<View>,
}

impl RowsView {
    fn at(&self, addresses: &Addresses) -> HeadRows {
        HeadRows { x: addresses.matrix(self.x), rotary: self.rotary.map(|table| addresses.matrix(table)) }
    }
}

impl Compiler<'_> {
    pub(super) fn attention(&mut self, index: usize, attention: &Attention) -> Result<(), DeviceError> {
        let node = &self.graph.nodes[index];
        let Some(inputs) = self.fusion.attentions.get(&index).cloned() else {
            return Err(self.unsupported(&node.name, "an attention that was not prepared"));
        };
        let past = match attention.past {
            true => Some(self.pack_past(node.operands[3], node.operands[4], attention)?),
            false => None,
        };
        let own = self.pack_heads(&inputs.keys, &inputs.values, attention.sequences, attention)?;
        let mask = match attention.masked {
            true => node.operands.last().map(|&mask| self.view(mask)).transpose()?,
            false => None,
        };
        let query = self.rows_view(inputs.query)?;
        let place = self.attention_place(node.result, attention);

        let touched = [query.x].into_iter().chain(query.rotary).chain(mask).chain(own.views());
        let touched = touched.chain(past.iter().flat_map(PackedSegment::views)).chain(place.views());
        let (attention, target) = (attention.clone(), (self.target.isa, self.target.threads));
        self.draft(touched.collect::<Vec<_>>(), move |at| {
            // The mask is of the past if there is one.
            let (past, own) = match past {
                Some(past) => (Some(past.at(at, mask)), own.at(at, None)),
                None => (None, own.at(at, mask)),
            };
            let query = query.at(at);
            Attend::new(&attention, target, (query.x, query.rotary), past, own, at.destination(place))
        });
        Ok(())
    }

    /// Packed on the way out only where heads start at whole words.
    fn attention_place(&mut self, result: ValueId, attention: &Attention) -> Place {
        if attention.head_dim.is_multiple_of(2) || self.precision() == Precision::F32 {
            return self.place(result);
        }
        Place { rows: Some(self.rows_of(result)), packed: None }
    }

    fn rows_view(&mut self, rows: Rotated) -> Result<RowsView, DeviceError> {
        Ok(RowsView { x: self.view(rows.x)?, rotary: rows.table.map(|table| self.view(table)).transpose()? })
    }

    /// A past is one sequence, packed once per run however many attentions read it.
    fn pack_past(
        &mut self,
        key: ValueId,
        value: ValueId,
        attention: &Attention,
    ) -> Result<PackedSegment, DeviceError> {
        if let Some(known) = self.packed_pasts.get(&(key, value)) {
            return Ok(*known);
        }
        let plain = |x| [Rotated { x, table: None }];
        let packed = self.pack_heads(&plain(key), &plain(value), 1, attention)?;
        self.packed_pasts.insert((key, value), packed);
        Ok(packed)
    }

    fn pack_heads(
        &mut self,
        keys: &[Rotated],
        values: &[Rotated],
        sequences: usize,
        attention: &Attention,
    ) -> Result<PackedSegment, DeviceError> {
        let rows: usize = keys.iter().map(|part| self.graph.shape(part.x)[0]).sum();
        let shape = |side| HeadsShape {
            side,
            precision: self.precision(),
            sequences,
            heads: attention.kv_heads,
            head_dim: attention.head_dim,
            length: rows / sequences,
        };
        let (key_shape, value_shape) = (shape(Side::Keys), shape(Side::Values));
        let mut views = |parts: &[Rotated]| {
            parts.iter().map(|&part| self.rows_view(part)).collect::<Result<Vec<_>, DeviceError>>()
        };
        let (keys, values) = (views(keys)?, views(values)?);
        let (home, threads) = (self.home(), self.target.threads);
        let packed = PackedSegment {
            keys: (self.layout.buffer(1, key_shape.words(), home.clone()), key_shape),
            values: (self.layout.buffer(1, value_shape.words(), home), value_shape),
        };
        let sources: Vec<View> =
            keys.iter().chain(&values).flat_map(|part| [Some(part.x), part.rotary]).flatten().collect();
        self.draft(sources.into_iter().chain(packed.views()), move |at| {
            let packing = |parts: &[RowsView], (view, shape)| Packing {
                parts: parts.iter().map(|part| part.at(at)).collect(),
                to: PackedHeads { packed: at.matrix(view), shape },
            };
            PackHeads { keys: packing(&keys, packed.keys), values: packing(&values, packed.values), threads }
        });
        Ok(packed)
    }
}
