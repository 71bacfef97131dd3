//! Products, with what cuBLASLt does on the way out: bias, GELU, residual. Part of `lower`.

use super::{Argument, Lowering, int, vector};
use crate::device::DeviceError;
use crate::device::cuda::content::Content;
use crate::device::cuda::kernels::Kernel;
use crate::device::cuda::program::{Element, Product, View, Work};
use crate::graph::{Activation, Node, Op, ValueId};

impl Lowering<'_> {
    /// `activation(x w^T + b)`
    pub fn linear(&mut self, node: &Node) -> Result<(), DeviceError> {
        let &Op::Linear { activation, exact } = &node.op else {
            return Err(self.unsupported("this product"));
        };
        let out = self.result(node.result);
        match activation {
            None => self.product(node, exact, None, false, out),
            // The tanh form, as the epilogue has it, for bf16.
            Some(Activation::GeluTanh) if !exact && out.element == Element::Bf16 => {
                self.product(node, exact, None, true, out)
            }
            Some(activation) => {
                let plain = self.work(&node.name, Element::F32, out.rows, out.columns);
                self.product(node, exact, None, false, plain)?;
                self.activated(plain, out, activation);
                Ok(())
            }
        }
    }

    /// `addend + scale * gate * (x w^T + b)`
    pub fn sum(&mut self, index: usize, node: &Node) -> Result<(), DeviceError> {
        let graph = self.graph;
        let sum = self.sums.of[&index];
        let linear = &graph.nodes[sum.linear];
        let &Op::Linear { activation, exact } = &linear.op else {
            return Err(self.unsupported("this sum"));
        };
        let addend = self.numbers(sum.addend)?;
        let whole = addend.rows == graph.value(node.result).ty.rows();
        if sum.scale == 1.0 && sum.gate.is_none() && activation.is_none() && whole {
            let out = self.result_as(node.result, Element::F32);
            return self.product(linear, exact, Some(addend), false, out);
        }
        let ty = &graph.value(linear.result).ty;
        let plain = self.work(&linear.name, Element::F32, ty.rows(), ty.columns());
        self.product(linear, exact, None, false, plain)?;
        if let Some(activation) = activation {
            self.activated(plain, plain, activation);
        }
        let gate = sum.gate.map(|gate| self.numbers(gate)).transpose()?;
        let out = self.result(node.result);
        // The addend may be the one that has fewer rows.
        match whole {
            true => self.added(addend, plain, gate, sum.scale, out),
            false if gate.is_none() && sum.scale == 1.0 => self.added(plain, addend, None, 1.0, out),
            false => return Err(self.unsupported("a gated sum with repeated rows")),
        }
        Ok(())
    }

    fn product(
        &mut self,
        node: &Node,
        exact: bool,
        addend: Option<View>,
        gelu: bool,
        out: View,
    ) -> Result<(), DeviceError> {
        let factors = if exact { Element::F32 } else { self.factors };
        let (x, weight) = (self.value(node.operands[0], factors)?, self.value(node.operands[1], factors)?);
        let bias = node.operands.get(2).map(|&bias| self.value(bias, out.element)).transpose()?;
        if exact && out.element != Element::F32 {
            // A product of f32 gives f32.
            let numbers = self.work(&node.name, Element::F32, out.rows, out.columns);
            let bias = node.operands.get(2).map(|&bias| self.numbers(bias)).transpose()?;
            self.call(Work::Product(Product { x, weight, bias, gelu, addend, out: numbers }));
            self.copy(numbers, out);
            return Ok(());
        }
        self.call(Work::Product(Product { x, weight, bias, gelu, addend, out }));
        Ok(())
    }

    /// `activation(x g^T) * (x u^T)`: one product of both weights, one after the other, then a small kernel.
    pub fn gated_linear(&mut self, node: &Node, activation: Activation) -> Result<(), DeviceError> {
        let [x, gate, up]: [ValueId; 3] =
            node.operands[..].try_into().map_err(|_| self.unsupported("this gate"))?;
        let x = self.factor(x)?;
        let (width, depth) = (self.graph.shape(gate)[0], self.graph.shape(gate)[1]);
        let stacked = Content::values(self.graph, &[gate, up]);
        let weight = self.content(stacked, self.factors, 2 * width, depth);
        let both = self.work(&format!("{}.both", node.name), self.factors, x.rows, 2 * width);
        self.call(Work::Product(Product { x, weight, bias: None, gelu: false, addend: None, out: both }));
        let out = self.result(node.result);
        let vector = vector([&both.columns(0, width), &out]);
        let kernel = Kernel::new("gated").element("IN", both.element).element("OUT", out.element);
        let kernel = kernel.word("ACTIVATION", name_of(activation)).number("VECTOR", vector);
        let pieces = width / vector;
        let arguments =
            vec![Argument::Read(both), int(both.stride), Argument::Write(out), int(out.stride), int(width)];
        let threads = pieces.next_multiple_of(32).clamp(32, 256);
        self.launch(kernel, [out.rows, pieces.div_ceil(threads), 1], threads, 0, arguments);
        Ok(())
    }
}

/// The kernels' name of an activation.
pub fn name_of(activation: Activation) -> &'static str {
    match activation {
        Activation::GeluTanh => "gelu",
        Activation::Silu => "silu",
    }
}
