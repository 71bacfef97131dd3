//! Linears to kernels: operands packed, weights packed, and whatever follows done on the way out.

use crate::device::DeviceError;
use crate::device::cpu::compile::Compiler;
use crate::device::cpu::kernels::constant::ConstantLinear;
use crate::device::cpu::kernels::linear::{Epilogue, GatedLinear, Linear};
use crate::device::cpu::kernels::product::{PackedRows, Precision, RowBlocks};
use crate::device::cpu::kernels::shape::Pack;
use crate::device::cpu::layout::{PackedView, Place, View};
use crate::device::sums::Sum;
use crate::graph::{Activation, Node, Op, ValueId};

impl Compiler<'_> {
    /// The linear `node` as `result`, with what is added to it.
    pub(super) fn linear(
        &mut self,
        node: &Node,
        sum: Option<Sum>,
        result: ValueId,
    ) -> Result<(), DeviceError> {
        let Op::Linear { activation, exact } = node.op else {
            return Err(self.unsupported(&node.name, "a sum with what is no linear"));
        };
        if self.current.1 {
            return self.constant_linear(node, activation);
        }
        let (operands, on) = (&node.operands, (self.target.isa, self.target.threads));
        let (rows, stored) = match exact {
            true => (Precision::F32, Precision::F32),
            false => (self.precision(), self.weight_precision()),
        };
        let x = self.packed(operands[0], rows)?;
        let weight = self.loader.packed(self.graph, operands[1], stored)?;
        let bias = operands.get(2).map(|&bias| self.view(bias)).transpose()?;
        let mut place = self.place(result);
        let gate = sum.and_then(|sum| sum.gate).map(|gate| self.view(gate)).transpose()?;
        let add = match sum {
            Some(Sum { addend, scale, .. }) => {
                let view = self.view(addend)?;
                if place.rows.is_some() && self.is_free_after_this(addend, view, result) {
                    self.layout.set(result, view);
                    place.rows = Some(view);
                }
                Some((view, scale))
            }
            None => None,
        };
        let others = bias.into_iter().chain(gate).chain(add.map(|(addend, _)| addend)).chain(place.views());
        self.draft(others.chain([x.buffer]), move |at| {
            let epilogue = Epilogue {
                bias: bias.map(|bias| at.matrix(bias)),
                activation,
                gate: gate.map(|gate| at.matrix(gate)),
                add: add.map(|(addend, scale)| (at.matrix(addend), scale)),
            };
            Linear::new(at.packed(x), weight, epilogue, at.destination(place), on)
        });
        Ok(())
    }

    /// A linear of constants: run once, so its weight is read where it is stored, and given back.
    fn constant_linear(&mut self, node: &Node, activation: Option<Activation>) -> Result<(), DeviceError> {
        let x = self.view(node.operands[0])?;
        let bias = node.operands.get(2).map(|&bias| self.view(bias)).transpose()?;
        let weight = self.loader.stored(self.graph, node.operands[1])?;
        let (out, threads) = (self.rows_of(node.result), self.target.threads);
        self.draft([x, out].into_iter().chain(bias), move |at| ConstantLinear {
            x: at.matrix(x),
            weight,
            bias: bias.map(|bias| at.matrix(bias)),
            activation,
            out: at.matrix(out),
            threads,
        });
        Ok(())
    }

    /// Whether `addend` at `view` can give its memory to the result of the node that is being lowered: a residual stream
    /// then stays where it is, and half as much memory goes through the caches.
    fn is_free_after_this(&self, addend: ValueId, view: View, result: ValueId) -> bool {
        let (node, constant) = self.current;
        !constant
            && self.fusion.last_reader[addend.index()] == node
            && self.graph.shape(addend) == self.graph.shape(result)
            && self.layout.is_whole_in_arena(view)
    }

    pub(super) fn gated_linear(&mut self, node: &Node, activation: Activation) -> Result<(), DeviceError> {
        let on = (self.target.isa, self.target.threads);
        let x = self.packed(node.operands[0], self.precision())?;
        let stored = self.weight_precision();
        let gate = self.loader.packed(self.graph, node.operands[1], stored)?;
        let up = self.loader.packed(self.graph, node.operands[2], stored)?;
        let place = self.place(node.result);
        self.draft(place.views().chain([x.buffer]), move |at| {
            GatedLinear::new(at.packed(x), [gate, up], activation, at.destination(place), on)
        });
        Ok(())
    }

    /// A value packed for products, once however many of them read it.
    fn packed(&mut self, x: ValueId, precision: Precision) -> Result<PackedView, DeviceError> {
        if let Some(&known) = self.packed_rows.get(&(x, precision)) {
            return Ok(known);
        }
        let from = self.view(x)?;
        let to = self.packed_buffer(x, precision);
        let threads = self.target.threads;
        self.draft([from, to.buffer], move |at| Pack { x: at.matrix(from), to: at.packed(to), threads });
        Ok(to)
    }

    fn packed_buffer(&mut self, value: ValueId, precision: Precision) -> PackedView {
        let ty = &self.graph.value(value).ty;
        let (words, whole) = (precision.words(ty.columns()), self.target.isa.whole_rows(precision));
        let home = self.home();
        let view = PackedView {
            buffer: self.layout.buffer(1, PackedRows::room(ty.rows(), words, whole), home),
            blocks: RowBlocks::new(ty.rows(), self.target.isa.tile_rows(precision)),
            words,
            precision,
            whole,
        };
        self.packed_rows.insert((value, precision), view);
        view
    }

    /// Places for a result in the forms that its readers want: rows, packed in one precision, or both. Packed in another
    /// precision as well, it is made from the rows.
    pub(super) fn place(&mut self, result: ValueId) -> Place {
        let (usual, index) = (self.precision(), result.index());
        let wanted = [(self.fusion.packed[index], usual), (self.fusion.packed_exact[index], Precision::F32)];
        let mut precisions: Vec<Precision> =
            wanted.into_iter().filter_map(|(wanted, precision)| wanted.then_some(precision)).collect();
        precisions.dedup();
        let rows = self.fusion.rows[index] || precisions.len() > 1;
        let packed = precisions.first().map(|&precision| self.packed_buffer(result, precision));
        let home = self.home();
        let ty = &self.graph.value(result).ty;
        Place { rows: rows.then(|| self.layout.place(result, ty, home)), packed }
    }
}
