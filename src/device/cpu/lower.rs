//! Nodes to kernels: which kernel computes which operation, on which operands. Called by `compile` for every node.

use std::sync::Arc;

use super::compile::Compiler;
use super::kernels::attention::{Attend, Segment};
use super::kernels::elementwise::{Activate, Binary, BinaryRows};
use super::kernels::embedding::Embedding;
use super::kernels::heads::{PackHeads, PackedHeads, Side};
use super::kernels::linear::{Linear, PackedWeight};
use super::kernels::norm::{Norm, NormRows};
use super::kernels::positions::{Lists, WriteList};
use super::kernels::rotary::{Rotary, RotaryTable};
use super::kernels::shape::{Copy, Patchify};
use super::layout::{Home, View};
use super::memory::Matrix;
use crate::device::DeviceError;
use crate::graph::{Attention, Node, Op, Source, ValueId};

impl Compiler<'_> {
    /// Drafts the kernels of one node and gives its result a place.
    pub(super) fn node(&mut self, node: &Node) -> Result<(), DeviceError> {
        match &node.op {
            Op::Slice { axis, start, end } => {
                let x = self.view(node.operands[0])?;
                let part = if *axis == 0 { x.rows(*start, *end) } else { x.cols(*start, *end) };
                self.layout.set(node.result, part);
                return Ok(());
            }
            Op::Repeat { rows } => {
                let x = self.view(node.operands[0])?;
                self.layout.set(node.result, x.repeated(*rows));
                return Ok(());
            }
            _ => {}
        }
        let threads = self.target.threads;
        let result = &self.graph.value(node.result).ty;
        let out = self.layout.place(node.result, result, Home::Arena);
        match node.op.clone() {
            Op::Linear { activation } => {
                let weight = self.linear_weight(node.operands[1])?;
                let mut views = vec![out, self.view(node.operands[0])?];
                if let Some(&bias) = node.operands.get(2) {
                    views.push(self.view(bias)?);
                }
                self.draft(views, move |m| {
                    Linear::new(m[1], weight, m.get(2).copied(), activation, m[0], threads)
                });
            }
            Op::LayerNorm { epsilon } => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| NormRows {
                    norm: Norm::Layer { bias: m[3] },
                    epsilon,
                    x: m[1],
                    weight: m[2],
                    out: m[0],
                    threads,
                });
            }
            Op::RmsNorm { epsilon } => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| NormRows {
                    norm: Norm::RootMeanSquare,
                    epsilon,
                    x: m[1],
                    weight: m[2],
                    out: m[0],
                    threads,
                });
            }
            Op::RotaryTable { theta, .. } => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| RotaryTable { theta, positions: m[1], out: m[0], threads });
            }
            Op::Rotary { heads } => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| Rotary { heads, x: m[1], table: m[2], out: m[0], threads });
            }
            Op::Attention(attention) => self.attention(node, attention, out)?,
            Op::Embedding { scale } => self.embedding(node, scale, out)?,
            Op::Patchify { patch } => {
                let height = self.graph.shape(node.operands[0])[1];
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| Patchify { patch, image: m[1], height, out: m[0], threads });
            }
            Op::Concat { axis } => {
                let mut start = 0;
                for &part in &node.operands {
                    let length = self.graph.shape(part)[axis];
                    let to = match axis {
                        0 => out.rows(start, start + length),
                        _ => out.cols(start, start + length),
                    };
                    let x = self.view(part)?;
                    self.draft(vec![to, x], move |m| Copy { x: m[1], out: m[0], threads });
                    start += length;
                }
            }
            Op::Add => self.binary(node, Binary::Add, out)?,
            Op::Multiply => self.binary(node, Binary::Multiply, out)?,
            Op::EulerStep { dt } => self.binary(node, Binary::Step { dt }, out)?,
            Op::Activate(activation) => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| Activate { activation, x: m[1], out: m[0], threads });
            }
            Op::PrefixMask { image_tokens } => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| WriteList {
                    lists: Lists::PrefixMask { images: m[1], tokens: m[2], image_tokens },
                    out: m[0],
                });
            }
            Op::Positions => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| WriteList { lists: Lists::Positions { mask: m[1] }, out: m[0] });
            }
            Op::PositionsAfter { .. } => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| WriteList {
                    lists: Lists::PositionsAfter { mask: m[1] },
                    out: m[0],
                });
            }
            Op::Slice { .. } | Op::Repeat { .. } => {}
        }
        Ok(())
    }

    /// `out`, then the operands.
    fn with_operands(&mut self, out: View, node: &Node) -> Result<Vec<View>, DeviceError> {
        Ok([vec![out], self.views(&node.operands)?].concat())
    }

    fn binary(&mut self, node: &Node, op: Binary, out: View) -> Result<(), DeviceError> {
        let threads = self.target.threads;
        let views = self.with_operands(out, node)?;
        self.draft(views, move |m| BinaryRows { op, a: m[1], b: m[2], out: m[0], threads });
        Ok(())
    }

    fn linear_weight(&mut self, id: ValueId) -> Result<Arc<PackedWeight>, DeviceError> {
        let value = self.graph.value(id);
        match &value.source {
            Source::Weight { key, stored } => self.loader.packed(key, stored, &value.ty),
            _ => {
                Err(self.unsupported(&value.name, "a linear whose weight is not a tensor of the checkpoint"))
            }
        }
    }

    fn embedding(&mut self, node: &Node, scale: f32, out: View) -> Result<(), DeviceError> {
        let (tokens, table) = (node.operands[0], self.graph.value(node.operands[1]));
        let Source::Weight { key, stored } = &table.source else {
            return Err(self.unsupported(&node.name, "a table that is not a tensor of the checkpoint"));
        };
        if self.graph.value(tokens).source != Source::Input {
            return Err(self.unsupported(&node.name, "tokens that the host does not write"));
        }
        self.limits.insert(tokens, table.ty.rows() as i32);
        let table = self.loader.mapped(key, stored)?;
        let views = vec![out, self.view(tokens)?];
        self.draft(views, move |m| Embedding { scale, tokens: m[1], table, out: m[0] });
        Ok(())
    }

    fn unsupported(&self, node: &str, what: &str) -> DeviceError {
        DeviceError::Unsupported { node: node.into(), what: what.into() }
    }

    fn attention(&mut self, node: &Node, attention: Attention, out: View) -> Result<(), DeviceError> {
        let operand = |index: usize| node.operands[index];
        let query = self.view(operand(0))?;
        let mut segments = vec![(operand(1), operand(2), attention.sequences)];
        if attention.past {
            // A past is one sequence, and comes first.
            segments.insert(0, (operand(3), operand(4), 1));
        }
        let mask = match attention.masked {
            true => node.operands.last().map(|&mask| self.view(mask)).transpose()?,
            false => None,
        };
        let mut views = vec![out, query];
        let mut shapes = Vec::new();
        for (key, value, sequences) in segments {
            for (operand, side) in [(key, Side::Keys), (value, Side::Values)] {
                let (view, shape) = self.pack_heads(operand, side, sequences, &attention)?;
                views.push(view);
                shapes.push(shape);
            }
        }
        views.extend(mask);
        let threads = self.target.threads;
        self.draft(views, move |m| {
            let mask = attention.masked.then(|| m[m.len() - 1]);
            let heads = |index: usize| shapes[index].at(m[2 + index]);
            // The mask is of the past if there is one.
            let segment = |index: usize, mask| Segment { keys: heads(index), values: heads(index + 1), mask };
            let (past, own) = match attention.past {
                true => (Some(segment(0, mask)), segment(2, None)),
                false => (None, segment(0, mask)),
            };
            Attend::new(attention, m[1], past, own, m[0], threads)
        });
        Ok(())
    }

    /// Packs keys or values, once per run however many nodes read them.
    fn pack_heads(
        &mut self,
        x: ValueId,
        side: Side,
        sequences: usize,
        attention: &Attention,
    ) -> Result<(View, PackShape), DeviceError> {
        if let Some(known) = self.packed_heads.get(&(x, side)) {
            return Ok(*known);
        }
        let length = self.graph.shape(x)[0] / sequences;
        let shape =
            PackShape { side, sequences, heads: attention.kv_heads, head_dim: attention.head_dim, length };
        let words = PackedHeads::words(side, sequences, shape.heads, shape.head_dim, length);
        let packed = self.layout.buffer(1, words, Home::Arena);
        let from = self.view(x)?;
        let threads = self.target.threads;
        self.draft(vec![packed, from], move |m| PackHeads { x: m[1], to: shape.at(m[0]), threads });
        self.packed_heads.insert((x, side), (packed, shape));
        Ok((packed, shape))
    }
}

/// [`PackedHeads`] before it has an address.
#[derive(Clone, Copy)]
pub(super) struct PackShape {
    side: Side,
    sequences: usize,
    heads: usize,
    head_dim: usize,
    length: usize,
}

impl PackShape {
    fn at(self, packed: Matrix) -> PackedHeads {
        let Self { side, sequences, heads, head_dim, length } = self;
        PackedHeads { packed, side, sequences, heads, head_dim, length }
    }
}
