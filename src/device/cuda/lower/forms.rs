//! In which types values are wanted, and where they are made. Part of `lower`.

use std::collections::HashMap;

use super::{Lowering, element_of};
use crate::device::DeviceError;
use crate::device::cuda::content::Content;
use crate::device::cuda::program::{Element, Origin, View};
use crate::graph::{DType, Graph, Op, Source, ValueId};

/// By value: a product, a rotation or an attention reads it, itself or as a part of what it reads; what is left for other programs is
/// read by their attentions.
pub fn wanted_as_factors(graph: &Graph) -> Vec<bool> {
    let mut wanted = vec![false; graph.values.len()];
    graph.residents.iter().for_each(|binding| wanted[binding.value.index()] = true);
    for node in graph.nodes.iter().rev() {
        let factors = match &node.op {
            Op::Linear { exact: false, .. } | Op::GatedLinear { .. } | Op::Rotary { .. } => 1,
            Op::Attention(attention) => 3 + 2 * usize::from(attention.past),
            // A part is what the whole is.
            Op::Concat { .. } | Op::Slice { .. } if wanted[node.result.index()] => node.operands.len(),
            _ => 0,
        };
        for operand in &node.operands[..factors] {
            wanted[operand.index()] = true;
        }
    }
    wanted
}

/// Parts of joined matrices that nobody else reads: the joined matrix and the part's first row in it.
pub fn destinations(graph: &Graph, constant: &[bool]) -> HashMap<ValueId, (ValueId, usize)> {
    let uses = graph.use_counts();
    let mut found = HashMap::new();
    for node in graph.nodes.iter().filter(|node| !constant[node.result.index()]) {
        if node.op != (Op::Concat { axis: 0 }) || graph.shape(node.result).len() != 2 {
            continue;
        }
        let mut row = 0;
        for &part in &node.operands {
            let made = matches!(graph.value(part).source, Source::Node(_)) && !constant[part.index()];
            if made && uses[part.index()] == 1 {
                found.insert(part, (node.result, row));
            }
            row += graph.shape(part)[0];
        }
    }
    found
}

impl Lowering<'_> {
    /// The type in which a value is made if its maker can choose.
    pub fn primary(&self, id: ValueId) -> Element {
        match self.graph.value(id).ty.dtype {
            DType::F32 if self.wants_factors[id.index()] => self.factors,
            dtype => element_of(dtype),
        }
    }

    /// A value as `element`, converted if it is not there as that.
    pub fn value(&mut self, id: ValueId, element: Element) -> Result<View, DeviceError> {
        let forms = self.forms.get(&id);
        if let Some(view) = forms.and_then(|forms| forms.iter().find(|form| form.element == element)) {
            return Ok(*view);
        }
        let view = match forms.and_then(|forms| forms.first().copied()) {
            _ if self.constant[id.index()] => self.constant_value(id, element)?,
            Some(other) => {
                let to = self.work(&self.graph.value(id).name, element, other.rows, other.columns);
                self.copy(other, to);
                to
            }
            None => {
                return Err(DeviceError::Order {
                    graph: self.graph.name.clone(),
                    value: self.graph.value(id).name.clone(),
                });
            }
        };
        self.forms.entry(id).or_default().push(view);
        Ok(view)
    }

    /// A value in f32.
    pub fn numbers(&mut self, id: ValueId) -> Result<View, DeviceError> {
        self.value(id, Element::F32)
    }

    /// A value as products read it.
    pub fn factor(&mut self, id: ValueId) -> Result<View, DeviceError> {
        self.value(id, self.factors)
    }

    /// A value in whatever type it is there, the usual one first.
    pub fn as_it_is(&mut self, id: ValueId) -> Result<View, DeviceError> {
        match self.forms.get(&id).and_then(|forms| forms.first()) {
            Some(view) => Ok(*view),
            None => self.value(id, self.primary(id)),
        }
    }

    /// A slice of a constant is a part of it; anything else has a buffer.
    fn constant_value(&mut self, id: ValueId, element: Element) -> Result<View, DeviceError> {
        if let Source::Node(index) = self.graph.value(id).source
            && let node = &self.graph.nodes[index]
            && let Op::Slice { axis, start, end } = node.op
        {
            let whole = self.value(node.operands[0], element)?;
            return Ok(if axis == 0 { whole.rows(start, end) } else { whole.columns(start, end) });
        }
        let (rows, columns) = (self.graph.value(id).ty.rows(), self.graph.value(id).ty.columns());
        Ok(self.content(Content::values(self.graph, &[id]), element, rows, columns))
    }

    /// Where the node that is being lowered leaves `id`, in its primary type.
    pub fn result(&mut self, id: ValueId) -> View {
        self.result_as(id, self.primary(id))
    }

    /// Where the node that is being lowered leaves `id`: in its place in a joined matrix, in what stays for other programs, or in
    /// a buffer that lasts until its last reader.
    pub fn result_as(&mut self, id: ValueId, element: Element) -> View {
        let ty = &self.graph.value(id).ty;
        let (rows, columns) = (ty.rows(), ty.columns());
        let view = match self.destinations.get(&id) {
            Some(&(whole, start)) if self.primary(whole) == element => {
                let there = self
                    .forms
                    .get(&whole)
                    .and_then(|forms| forms.iter().find(|form| form.element == element));
                let whole = match there {
                    Some(view) => *view,
                    None => self.result_as(whole, element),
                };
                whole.rows(start, start + rows)
            }
            _ => {
                let resident = self.graph.residents.iter().find(|binding| binding.value == id);
                let origin = match resident {
                    Some(binding) if self.primary(id) == element => Origin::Resident(binding.name.clone()),
                    _ => Origin::Work { place: 0 },
                };
                self.buffer(&self.graph.value(id).name, element, rows, columns, origin)
            }
        };
        self.forms.entry(id).or_default().push(view);
        view
    }
}
