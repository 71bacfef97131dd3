//! Linears to kernels: operands packed, weights packed, and whatever follows done on the way out.

use crate::device::DeviceError;
use crate::device::cpu::compile::Compiler;
use crate::device::cpu::kernels::linear::{Epilogue, GatedLinear, Linear};
use crate::device::cpu::kernels::product::RowBlocks;
use crate::device::cpu::kernels::shape::Pack;
use crate::device::cpu::layout::{PackedView, Place};
use crate::graph::{Activation, Node, ValueId};

impl Compiler<'_> {
    /// `add.0 + add.1 * activation(x w^T + b)`, without the sum where there is none; operands x, w and perhaps b.
    pub(super) fn linear(
        &mut self,
        operands: &[ValueId],
        activation: Option<Activation>,
        add: Option<(ValueId, f32)>,
        result: ValueId,
    ) -> Result<(), DeviceError> {
        let threads = self.target.threads;
        let x = self.packed(operands[0])?;
        let weight = self.loader.packed(self.graph, operands[1], self.precision())?;
        let bias = operands.get(2).map(|&bias| self.view(bias)).transpose()?;
        let add = match add {
            Some((addend, scale)) => Some((self.view(addend)?, scale)),
            None => None,
        };
        let place = self.place(result);
        let others = bias.into_iter().chain(add.map(|(addend, _)| addend)).chain(place.views());
        self.draft(others.chain([x.buffer]), move |at| {
            let epilogue = Epilogue {
                bias: bias.map(|bias| at.matrix(bias)),
                activation,
                add: add.map(|(addend, scale)| (at.matrix(addend), scale)),
            };
            Linear::new(at.packed(x), weight, epilogue, at.destination(place), threads)
        });
        Ok(())
    }

    pub(super) fn gated_linear(&mut self, node: &Node, activation: Activation) -> Result<(), DeviceError> {
        let threads = self.target.threads;
        let x = self.packed(node.operands[0])?;
        let precision = self.precision();
        let gate = self.loader.packed(self.graph, node.operands[1], precision)?;
        let up = self.loader.packed(self.graph, node.operands[2], precision)?;
        let place = self.place(node.result);
        self.draft(place.views().chain([x.buffer]), move |at| {
            GatedLinear::new(at.packed(x), gate, up, activation, at.destination(place), threads)
        });
        Ok(())
    }

    /// A value packed for products, once however many of them read it.
    fn packed(&mut self, x: ValueId) -> Result<PackedView, DeviceError> {
        if let Some(&known) = self.packed_rows.get(&x) {
            return Ok(known);
        }
        let from = self.view(x)?;
        let to = self.packed_buffer(x);
        let threads = self.target.threads;
        self.draft([from, to.buffer], move |at| Pack { x: at.matrix(from), to: at.packed(to), threads });
        self.packed_rows.insert(x, to);
        Ok(to)
    }

    fn packed_buffer(&mut self, value: ValueId) -> PackedView {
        let ty = &self.graph.value(value).ty;
        let precision = self.precision();
        let words = precision.words(ty.columns());
        let home = self.home();
        PackedView {
            buffer: self.layout.buffer(1, ty.rows() * words, home),
            blocks: RowBlocks { rows: ty.rows(), most: self.target.isa.tile_rows() },
            words,
            precision,
        }
    }

    /// Places for a result in the forms that its readers want.
    pub(super) fn place(&mut self, result: ValueId) -> Place {
        let (rows, packed) = (self.fusion.rows[result.index()], self.fusion.packed[result.index()]);
        let packed = packed.then(|| self.packed_buffer(result));
        if let Some(packed) = packed {
            self.packed_rows.insert(result, packed);
        }
        let home = self.home();
        let ty = &self.graph.value(result).ty;
        Place { rows: rows.then(|| self.layout.place(result, ty, home)), packed }
    }
}
