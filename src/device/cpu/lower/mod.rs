//! Nodes to kernels: which kernel computes which operation, on which operands. Called by `compile` for every node;
//! products are lowered in `products`, attentions in `attention`.

mod attention;
mod products;

pub(super) use attention::PackedSegment;

use super::compile::Compiler;
use super::kernels::elementwise::{Activate, Binary, BinaryRows};
use super::kernels::embedding::Embedding;
use super::kernels::guide::{Choose, Guide};
use super::kernels::norm::{Norm, NormRows};
use super::kernels::positions::{Lists, WriteList};
use super::kernels::rotary::{Rotary, RotaryTable};
use super::kernels::shape::{Copy, Patchify};
use super::layout::View;
use crate::device::DeviceError;
use crate::graph::{Node, Op, Source, ValueId};

impl Compiler<'_> {
    /// Drafts the kernels of node `index` and gives its result a place.
    pub(super) fn node(&mut self, index: usize) -> Result<(), DeviceError> {
        let graph = self.graph;
        let node = &graph.nodes[index];
        let threads = self.target.threads;
        if let Some(&sum) = self.fusion.sums.get(&index) {
            let linear = &graph.nodes[sum.linear];
            return self.linear(linear, Some(sum), node.result);
        }
        match node.op.clone() {
            // Views of the operand's buffer.
            Op::Slice { axis, start, end } => {
                let x = self.view(node.operands[0])?;
                let part = if axis == 0 { x.rows(start, end) } else { x.cols(start, end) };
                self.layout.set(node.result, part);
            }
            Op::Repeat { rows } => {
                let x = self.view(node.operands[0])?;
                self.layout.set(node.result, x.repeated(rows));
            }
            Op::Linear { .. } => self.linear(node, None, node.result)?,
            Op::GatedLinear { activation } => self.gated_linear(node, activation)?,
            Op::Attention(attention) => self.attention(index, &attention)?,
            Op::LayerNorm { epsilon } => self.norm(node, epsilon)?,
            Op::RmsNorm { epsilon } => self.norm(node, epsilon)?,
            Op::RotaryTable { theta, .. } => {
                let (out, positions) = (self.rows_of(node.result), self.view(node.operands[0])?);
                self.draft([out, positions], move |at| RotaryTable {
                    theta,
                    positions: at.matrix(positions),
                    out: at.matrix(out),
                    threads,
                });
            }
            Op::Rotary { heads } => {
                let (out, x) = (self.rows_of(node.result), self.view(node.operands[0])?);
                let table = self.view(node.operands[1])?;
                self.draft([out, x, table], move |at| Rotary {
                    heads,
                    x: at.matrix(x),
                    table: at.matrix(table),
                    out: at.matrix(out),
                    threads,
                });
            }
            Op::Embedding { scale } => self.embedding(node, scale)?,
            Op::Patchify { patch } => {
                let height = graph.shape(node.operands[0])[1];
                let (out, image) = (self.rows_of(node.result), self.view(node.operands[0])?);
                self.draft([out, image], move |at| Patchify {
                    patch,
                    image: at.matrix(image),
                    height,
                    out: at.matrix(out),
                    threads,
                });
            }
            Op::Concat { axis } => self.concat(node, axis)?,
            Op::Add => self.binary(node, Binary::Add)?,
            Op::Multiply => self.binary(node, Binary::Multiply)?,
            Op::EulerStep { dt } => self.binary(node, Binary::Step { dt })?,
            Op::Guide { ahead, strength } => {
                let out = self.rows_of(node.result);
                let (x, y) = (self.view(node.operands[0])?, self.view(node.operands[1])?);
                let (previous, weights) = (self.view(node.operands[2])?, self.view(node.operands[3])?);
                self.draft([out, x, y, previous, weights], move |at| Guide {
                    ahead,
                    strength,
                    x: at.matrix(x),
                    y: at.matrix(y),
                    previous: at.matrix(previous),
                    weights: at.matrix(weights),
                    out: at.matrix(out),
                    threads,
                });
            }
            Op::Choose => {
                let out = self.rows_of(node.result);
                let (a, b) = (self.view(node.operands[0])?, self.view(node.operands[1])?);
                let weights = self.view(node.operands[2])?;
                self.draft([out, a, b, weights], move |at| Choose {
                    a: at.matrix(a),
                    b: at.matrix(b),
                    weights: at.matrix(weights),
                    out: at.matrix(out),
                    threads,
                });
            }
            Op::Activate(activation) => {
                let (out, x) = (self.rows_of(node.result), self.view(node.operands[0])?);
                self.draft([out, x], move |at| Activate {
                    activation,
                    x: at.matrix(x),
                    out: at.matrix(out),
                    threads,
                });
            }
            Op::PrefixMask { image_tokens } => {
                let (images, tokens) = (self.view(node.operands[0])?, self.view(node.operands[1])?);
                let out = self.rows_of(node.result);
                self.draft([out, images, tokens], move |at| WriteList {
                    lists: Lists::PrefixMask {
                        images: at.matrix(images),
                        tokens: at.matrix(tokens),
                        image_tokens,
                    },
                    out: at.matrix(out),
                });
            }
            Op::Positions => {
                let (out, mask) = (self.rows_of(node.result), self.view(node.operands[0])?);
                self.draft([out, mask], move |at| WriteList {
                    lists: Lists::Positions { mask: at.matrix(mask) },
                    out: at.matrix(out),
                });
            }
            Op::PositionsAfter { .. } => {
                let (out, mask) = (self.rows_of(node.result), self.view(node.operands[0])?);
                self.draft([out, mask], move |at| WriteList {
                    lists: Lists::PositionsAfter { mask: at.matrix(mask) },
                    out: at.matrix(out),
                });
            }
        }
        Ok(())
    }

    /// Rows for a result whose kernel writes nothing else.
    fn rows_of(&mut self, result: ValueId) -> View {
        let home = self.home();
        self.layout.place(result, &self.graph.value(result).ty, home)
    }

    fn norm(&mut self, node: &Node, epsilon: f32) -> Result<(), DeviceError> {
        let threads = self.target.threads;
        let (x, weight) = (self.view(node.operands[0])?, self.view(node.operands[1])?);
        let shift = node.operands.get(2).map(|&shift| self.view(shift)).transpose()?;
        let centred = matches!(node.op, Op::LayerNorm { .. });
        let place = self.place(node.result);
        self.draft([x, weight].into_iter().chain(shift).chain(place.views()), move |at| NormRows {
            norm: match shift {
                Some(bias) if centred => Norm::Layer { bias: at.matrix(bias) },
                shift => Norm::RootMeanSquare { shift: shift.map(|shift| at.matrix(shift)) },
            },
            epsilon,
            x: at.matrix(x),
            weight: at.matrix(weight),
            to: at.destination(place),
            threads,
        });
        Ok(())
    }

    fn concat(&mut self, node: &Node, axis: usize) -> Result<(), DeviceError> {
        let threads = self.target.threads;
        let out = self.rows_of(node.result);
        let lists = self.graph.shape(node.result).len() == 1;
        let mut start = 0;
        for &part in &node.operands {
            let end = start + self.graph.shape(part)[axis];
            let to = if axis == 0 && !lists { out.rows(start, end) } else { out.cols(start, end) };
            let x = self.view(part)?;
            self.draft([to, x], move |at| Copy { x: at.matrix(x), out: at.matrix(to), threads });
            start = end;
        }
        Ok(())
    }

    fn binary(&mut self, node: &Node, op: Binary) -> Result<(), DeviceError> {
        let threads = self.target.threads;
        let (a, b) = (self.view(node.operands[0])?, self.view(node.operands[1])?);
        let out = self.rows_of(node.result);
        self.draft([out, a, b], move |at| BinaryRows {
            op,
            a: at.matrix(a),
            b: at.matrix(b),
            out: at.matrix(out),
            threads,
        });
        Ok(())
    }

    fn embedding(&mut self, node: &Node, scale: f32) -> Result<(), DeviceError> {
        let (tokens, table) = (node.operands[0], self.graph.value(node.operands[1]));
        let Source::Weight { key, stored } = &table.source else {
            return Err(self.unsupported(&node.name, "a table that is not a tensor of the checkpoint"));
        };
        if self.graph.value(tokens).source != Source::Input {
            return Err(self.unsupported(&node.name, "tokens that the host does not write"));
        }
        self.limits.insert(tokens, table.ty.rows() as i32);
        let table = self.loader.mapped(key, stored)?;
        let (out, tokens) = (self.rows_of(node.result), self.view(tokens)?);
        self.draft([out, tokens], move |at| Embedding {
            scale,
            tokens: at.matrix(tokens),
            table,
            out: at.matrix(out),
        });
        Ok(())
    }

    fn unsupported(&self, node: &str, what: &str) -> DeviceError {
        DeviceError::Unsupported { node: node.into(), what: what.into() }
    }
}
