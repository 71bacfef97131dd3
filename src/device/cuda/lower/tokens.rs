//! Images, prompt, masks, positions and rotary tables. Part of `lower`.

use super::{Argument, Lowering, int, vector};
use crate::device::DeviceError;
use crate::device::cuda::content::Content;
use crate::device::cuda::kernels::Kernel;
use crate::device::cuda::program::{Element, View};
use crate::graph::{Node, Op, Source};

/// Threads of the one block that counts positions.
const COUNTERS: usize = 256;

impl Lowering<'_> {
    pub fn embedding(&mut self, node: &Node, scale: f32) -> Result<(), DeviceError> {
        if self.graph.value(node.operands[0]).source != Source::Input {
            return Err(self.unsupported("tokens that the host does not write"));
        }
        let (tokens, table) = (self.value(node.operands[0], Element::I32)?, self.factor(node.operands[1])?);
        let out = self.result(node.result);
        let vector = vector([&table, &out]);
        let kernel = Kernel::new("embedding").element("IN", table.element).element("OUT", out.element);
        let arguments = vec![
            Argument::Read(tokens),
            Argument::Read(table),
            int(table.stride),
            Argument::Write(out),
            int(out.stride),
            int(out.columns),
            Argument::Float(scale),
        ];
        self.per_row(kernel.number("VECTOR", vector), out.rows, out.columns / vector, arguments);
        Ok(())
    }

    pub fn patches(&mut self, node: &Node, side: usize) -> Result<(), DeviceError> {
        let &[channels, height, width] = self.graph.shape(node.operands[0]) else {
            return Err(self.unsupported("an image that has no channels, rows and columns"));
        };
        let image = self.numbers(node.operands[0])?;
        let out = self.result(node.result);
        let kernel = Kernel::new("patches").element("OUT", out.element);
        let arguments = vec![
            Argument::Read(image),
            int(channels),
            int(height),
            int(width),
            int(side),
            Argument::Write(out),
            int(out.stride),
        ];
        self.per_row(kernel, out.rows, out.columns, arguments);
        Ok(())
    }

    pub fn prefix_mask(&mut self, node: &Node, image_tokens: usize) -> Result<(), DeviceError> {
        let images = self.value(node.operands[0], Element::U8)?;
        let tokens = self.value(node.operands[1], Element::U8)?;
        let out = self.result(node.result);
        let arguments = vec![
            Argument::Read(images),
            int(images.columns),
            int(image_tokens),
            Argument::Read(tokens),
            int(tokens.columns),
            Argument::Write(out),
        ];
        let blocks = out.columns.div_ceil(COUNTERS);
        self.launch(Kernel::new("prefix_mask"), [blocks, 1, 1], COUNTERS, 0, arguments);
        Ok(())
    }

    /// Positions of masked tokens, or of those after them.
    pub fn positions(&mut self, node: &Node, after: bool) -> Result<(), DeviceError> {
        let mask = self.value(node.operands[0], Element::U8)?;
        let out = self.result(node.result);
        let kernel = Kernel::new("positions").number("AFTER", usize::from(after));
        let arguments = vec![Argument::Read(mask), int(mask.columns), Argument::Write(out), int(out.columns)];
        self.launch(kernel, [1, 1, 1], COUNTERS, 4 * COUNTERS, arguments);
        Ok(())
    }

    pub fn rotary_table(&mut self, node: &Node, head_dim: usize, theta: f64) -> Result<(), DeviceError> {
        let positions = self.value(node.operands[0], Element::I32)?;
        let half = head_dim / 2;
        // Rounded to f32, as the reference has them.
        let frequencies = (0..half).map(|index| theta.powf(-(index as f64) / half as f64) as f32);
        let content = Content::numbers(format!("frequencies {head_dim} {theta}"), frequencies.collect());
        let frequencies = self.content(content, Element::F32, 1, half);
        let out = self.result_as(node.result, Element::F32);
        let arguments =
            vec![Argument::Read(positions), Argument::Read(frequencies), Argument::Write(out), int(half)];
        self.per_row(Kernel::new("rotary_table"), out.rows, half, arguments);
        Ok(())
    }

    /// Rotates one matrix, or with it the one behind it in memory that is turned by the same table: queries and keys.
    pub fn rotary(&mut self, index: usize, node: &Node, heads: usize) -> Result<(), DeviceError> {
        let graph = self.graph;
        let (x, table) = (self.factor(node.operands[0])?, self.numbers(node.operands[1])?);
        let second = (index + 1..graph.nodes.len().min(index + 8)).find_map(|other| {
            let Node { op: Op::Rotary { heads }, operands, .. } = &graph.nodes[other] else { return None };
            let forms = self.forms.get(&operands[0])?;
            let behind = forms.iter().any(|form| {
                let View { buffer, offset, stride, element, .. } = *form;
                (buffer, offset, stride, element) == (x.buffer, x.offset + x.columns, x.stride, x.element)
            });
            (behind && operands[1] == node.operands[1]).then_some((other, *heads))
        });
        let queries = self.result(node.result);
        let (all, keys) = match second {
            Some((other, more)) => {
                self.done[other] = true;
                (heads + more, self.result(graph.nodes[other].result))
            }
            None => (heads, queries),
        };
        let half = table.columns / 2;
        let half_row = View { columns: half, ..table };
        let vector = vector([&x, &half_row, &queries, &keys]);
        let both = View { columns: x.columns / heads * all, ..x };
        let kernel = Kernel::new("rotary").element("IN", x.element).element("OUT", queries.element);
        let arguments = vec![
            Argument::Read(both),
            int(x.stride),
            Argument::Read(table),
            Argument::Write(queries),
            int(queries.stride),
            Argument::Write(keys),
            int(keys.stride),
            int(all),
            int(heads),
            int(half),
        ];
        self.per_row(kernel.number("VECTOR", vector), x.rows, all * half / vector, arguments);
        Ok(())
    }
}
