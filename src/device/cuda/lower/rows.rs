//! What goes row by row: norms, sums, activations, steps of the flow; and what only moves. Part of `lower`.

use super::products::name_of;
use super::{Argument, Lowering, int, read, read_rows, vector, write};
use crate::device::DeviceError;
use crate::device::cuda::kernels::Kernel;
use crate::device::cuda::program::{Element, View};
use crate::graph::{Activation, Node};

impl Lowering<'_> {
    pub fn norm(&mut self, node: &Node, epsilon: f32, centred: bool) -> Result<(), DeviceError> {
        let x = self.as_it_is(node.operands[0])?;
        let weight = self.numbers(node.operands[1])?;
        let shift = node.operands.get(2).map(|&shift| self.numbers(shift)).transpose()?;
        let out = self.result(node.result);
        let vector = vector([&x, &weight, &out].into_iter().chain(&shift));
        let kernel = Kernel::new("norm").element("IN", x.element).element("OUT", out.element);
        let kernel = kernel.number("CENTRED", usize::from(centred)).number("VECTOR", vector);
        let threads = (x.columns / vector).next_multiple_of(32).clamp(32, 256);
        let mut arguments = [read(x), read_rows(weight), read_rows(shift), write(out)].concat();
        arguments.extend([int(x.columns), Argument::Float(epsilon)]);
        self.launch(kernel, [x.rows, 1, 1], threads, 4 * threads / 32, arguments);
        Ok(())
    }

    /// `a + scale * b`, b's rows repeated.
    pub fn add(&mut self, node: &Node, scale: f32) -> Result<(), DeviceError> {
        let (a, b) = (self.as_it_is(node.operands[0])?, self.as_it_is(node.operands[1])?);
        let out = self.result(node.result);
        self.added(a, b, None, scale, out);
        Ok(())
    }

    /// `out = a + scale * b * gate`
    pub fn added(&mut self, a: View, b: View, gate: Option<View>, scale: f32, out: View) {
        let vector = vector([&a, &b, &out].into_iter().chain(&gate));
        let kernel = Kernel::new("add").element("A", a.element).element("B", b.element);
        let kernel = kernel.element("OUT", out.element).number("VECTOR", vector);
        let mut arguments = [read(a), read(b)].concat();
        arguments.push(int(b.rows));
        arguments.extend([read_rows(gate), write(out)].concat());
        arguments.extend([int(out.columns), Argument::Float(scale)]);
        self.per_row(kernel, out.rows, out.columns / vector, arguments);
    }

    pub fn multiply(&mut self, node: &Node) -> Result<(), DeviceError> {
        let (a, b) = (self.as_it_is(node.operands[0])?, self.as_it_is(node.operands[1])?);
        let out = self.result(node.result);
        let vector = vector([&a, &b, &out]);
        let kernel = Kernel::new("multiply").element("A", a.element).element("B", b.element);
        let kernel = kernel.element("OUT", out.element).number("VECTOR", vector);
        let mut arguments = [read(a), read(b)].concat();
        arguments.push(int(b.rows));
        arguments.extend(write(out));
        arguments.push(int(out.columns));
        self.per_row(kernel, out.rows, out.columns / vector, arguments);
        Ok(())
    }

    pub fn activate(&mut self, node: &Node, activation: Activation) -> Result<(), DeviceError> {
        let x = self.as_it_is(node.operands[0])?;
        let out = self.result(node.result);
        self.activated(x, out, activation);
        Ok(())
    }

    /// `out = activation(x)`; the two may be one.
    pub fn activated(&mut self, x: View, out: View, activation: Activation) {
        let vector = vector([&x, &out]);
        let kernel = Kernel::new("activate").element("IN", x.element).element("OUT", out.element);
        let kernel = kernel.word("ACTIVATION", name_of(activation)).number("VECTOR", vector);
        let mut arguments = [read(x), write(out)].concat();
        arguments.push(int(out.columns));
        self.per_row(kernel, out.rows, out.columns / vector, arguments);
    }

    pub fn guide(&mut self, node: &Node, ahead: f32, strength: f32) -> Result<(), DeviceError> {
        let [x, y] = [self.numbers(node.operands[0])?, self.numbers(node.operands[1])?];
        let [previous, weights] = [self.numbers(node.operands[2])?, self.numbers(node.operands[3])?];
        let out = self.result_as(node.result, Element::F32);
        let mut arguments = [read(x), read(y), read(previous), read(weights), write(out)].concat();
        arguments.extend([int(out.columns), Argument::Float(ahead), Argument::Float(strength)]);
        self.per_row(Kernel::new("guide"), out.rows, out.columns, arguments);
        Ok(())
    }

    pub fn choose(&mut self, node: &Node) -> Result<(), DeviceError> {
        let [a, b] = [self.numbers(node.operands[0])?, self.numbers(node.operands[1])?];
        let weights = self.numbers(node.operands[2])?;
        let out = self.result_as(node.result, Element::F32);
        let mut arguments = [read_rows(a), read_rows(b), read(weights), write(out)].concat();
        arguments.push(int(out.columns));
        self.per_row(Kernel::new("choose"), out.rows, out.columns, arguments);
        Ok(())
    }

    /// Parts that were not made in their place are copied there.
    pub fn concat(&mut self, node: &Node, axis: usize) -> Result<(), DeviceError> {
        let there = self.forms.get(&node.result).and_then(|forms| forms.first().copied());
        let out = there.unwrap_or_else(|| self.result(node.result));
        let lists = self.graph.shape(node.result).len() == 1;
        let mut start = 0;
        for &part in &node.operands {
            let end = start + self.graph.shape(part)[axis];
            let to = if axis == 0 && !lists { out.rows(start, end) } else { out.columns(start, end) };
            let in_place = self.forms.get(&part).is_some_and(|forms| forms.contains(&to));
            if !in_place {
                let from = self.as_it_is(part)?;
                self.copy(from, to);
            }
            start = end;
        }
        Ok(())
    }

    /// A part of where the whole is: no copy.
    pub fn slice(&mut self, node: &Node, axis: usize, start: usize, end: usize) -> Result<(), DeviceError> {
        let whole = self.as_it_is(node.operands[0])?;
        let part = if axis == 0 { whole.rows(start, end) } else { whole.columns(start, end) };
        // What is left for other programs is copied at once, so that the whole need not last.
        let resident = self.graph.residents.iter().any(|binding| binding.value == node.result);
        if resident && part.element == self.primary(node.result) {
            let out = self.result(node.result);
            self.copy(part, out);
        } else {
            self.forms.entry(node.result).or_default().push(part);
        }
        Ok(())
    }

    pub fn repeat(&mut self, node: &Node, rows: usize) -> Result<(), DeviceError> {
        let from = self.as_it_is(node.operands[0])?;
        let out = self.result(node.result);
        self.copy(from, View { rows, ..out });
        Ok(())
    }

    /// A matrix in another place or type; its rows are repeated until they fill `to`.
    pub fn copy(&mut self, from: View, to: View) {
        let vector = vector([&from, &to]);
        let kernel = Kernel::new("copy").element("IN", from.element).element("OUT", to.element);
        let [to_start, to_stride] = write(to);
        let mut arguments = read(from).to_vec();
        arguments.extend([int(from.rows), to_start, to_stride, int(to.columns)]);
        self.per_row(kernel.number("VECTOR", vector), to.rows, to.columns / vector, arguments);
    }
}
