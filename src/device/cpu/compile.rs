//! Turns a graph into a [`Program`]: a kernel per node, a place for every value, weights packed.
//!
//! Nodes first become drafts, which know the buffers they touch but not where these are; once all drafts are known,
//! the arena is planned and the drafts become steps.

use std::collections::HashMap;
use std::sync::Arc;

use super::kernels::attention::{Attend, PackHeads, PackedHeads, Segment, Side};
use super::kernels::elementwise::{Activate, Binary, BinaryRows};
use super::kernels::embedding::Embedding;
use super::kernels::linear::{Linear, PackedWeight};
use super::kernels::norm::{Norm, NormRows};
use super::kernels::positions::{Lists, WriteList};
use super::kernels::rotary::{Rotary, RotaryTable};
use super::kernels::shape::{Copy, Patchify};
use super::kernels::{Isa, Kernel, Step, compiled};
use super::layout::{Addresses, BufferId, Home, Layout, View};
use super::memory::{Matrix, Words};
use super::program::{Program, Slot};
use crate::device::DeviceError;
use crate::graph::{Attention, Graph, HostTensor, HostView, Node, Op, Source, TensorType, ValueId};

/// Where a compilation gets its weights: small ones by value, those of linears packed.
pub(super) trait Loader {
    /// A weight as it is stored, widened to f32.
    fn plain(&mut self, key: &str, stored: &[usize]) -> Result<Vec<f32>, DeviceError>;
    /// A weight `[out, in]` packed.
    fn packed(
        &mut self,
        key: &str,
        stored: &[usize],
        ty: &TensorType,
    ) -> Result<Arc<PackedWeight>, DeviceError>;
    /// A weight left in its file.
    fn mapped(&self, key: &str, stored: &[usize]) -> Result<crate::graph::WeightData, DeviceError>;
}

/// Resident values of a device: name to type and memory.
pub(super) type Residents = HashMap<String, (TensorType, Words)>;

/// What a compilation needs to know of the device.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub isa: Isa,
    pub threads: usize,
}

type Bind = Box<dyn FnOnce(&Addresses) -> Box<dyn Step>>;

struct Draft {
    touches: Vec<BufferId>,
    bind: Bind,
}

struct Compiler<'a> {
    graph: &'a Graph,
    target: Target,
    loader: &'a mut dyn Loader,
    layout: Layout,
    drafts: Vec<Draft>,
    /// Contents of constants and small weights.
    contents: Vec<(View, HostTensor)>,
    /// Packed keys and values that are already there, by value.
    packed_heads: HashMap<(ValueId, Side), (View, PackShape)>,
    /// Vocabulary size that each token list is looked up in.
    limits: HashMap<ValueId, i32>,
}

/// Compiles `graph`. Resident values that it leaves are added to `residents`.
pub(super) fn compile(
    graph: &Graph,
    target: Target,
    loader: &mut dyn Loader,
    residents: &mut Residents,
) -> Result<Program, DeviceError> {
    let mut compiler = Compiler {
        graph,
        target,
        loader,
        layout: Layout::new(graph.values.len()),
        drafts: Vec::new(),
        contents: Vec::new(),
        packed_heads: HashMap::new(),
        limits: HashMap::new(),
    };
    for (id, value) in graph.inputs() {
        compiler.layout.place(id, &value.ty, Home::Pinned);
    }
    compiler.find_residents(residents)?;
    for node in &graph.nodes {
        compiler.node(node)?;
    }
    compiler.results(residents)?;
    compiler.finish(residents)
}

impl Compiler<'_> {
    /// Places the resident values that another program left.
    fn find_residents(&mut self, residents: &Residents) -> Result<(), DeviceError> {
        let found = self
            .graph
            .ids()
            .filter(|(_, value)| value.source == Source::Resident);
        for (id, value) in found {
            match residents.get(&value.name) {
                None => {
                    return Err(DeviceError::MissingResident {
                        graph: self.graph.name.clone(),
                        name: value.name.clone(),
                    });
                }
                Some((ty, _)) => self.check_resident(&value.name, ty, &value.ty)?,
            }
            self.layout
                .place(id, &value.ty, Home::Resident(value.name.clone()));
        }
        Ok(())
    }

    fn check_resident(
        &self,
        name: &str,
        found: &TensorType,
        expected: &TensorType,
    ) -> Result<(), DeviceError> {
        if found == expected {
            return Ok(());
        }
        Err(DeviceError::ResidentType {
            graph: self.graph.name.clone(),
            name: name.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        })
    }

    /// Where a value is; constants and small weights get their place when first read.
    fn view(&mut self, id: ValueId) -> Result<View, DeviceError> {
        if let Some(view) = self.layout.get(id) {
            return Ok(view);
        }
        let value = self.graph.value(id);
        let content = match &value.source {
            Source::Constant(tensor) => tensor.clone(),
            Source::Weight { key, stored } => HostTensor::F32(self.loader.plain(key, stored)?),
            Source::Input | Source::Resident | Source::Node(_) => {
                return Err(DeviceError::Order {
                    graph: self.graph.name.clone(),
                    value: value.name.clone(),
                });
            }
        };
        let view = self.layout.place(id, &value.ty, Home::Pinned);
        self.contents.push((view, content));
        Ok(view)
    }

    fn views(&mut self, ids: &[ValueId]) -> Result<Vec<View>, DeviceError> {
        ids.iter().map(|&id| self.view(id)).collect()
    }

    /// Adds a kernel that touches `views` and is made from their matrices.
    fn draft<K: Kernel + 'static>(
        &mut self,
        views: Vec<View>,
        kernel: impl FnOnce(&[Matrix]) -> K + 'static,
    ) {
        let isa = self.target.isa;
        let touches = views.iter().map(|view| view.buffer).collect();
        let bind: Bind = Box::new(move |addresses| {
            let matrices: Vec<Matrix> = views.iter().map(|&view| addresses.matrix(view)).collect();
            compiled(kernel(&matrices), isa)
        });
        self.drafts.push(Draft { touches, bind });
    }

    fn node(&mut self, node: &Node) -> Result<(), DeviceError> {
        match &node.op {
            Op::Slice { axis, start, end } => {
                let x = self.view(node.operands[0])?;
                let part = if *axis == 0 {
                    x.rows(*start, *end)
                } else {
                    x.cols(*start, *end)
                };
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
                self.draft(views, move |m| RotaryTable {
                    theta,
                    positions: m[1],
                    out: m[0],
                    threads,
                });
            }
            Op::Rotary { heads } => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| Rotary {
                    heads,
                    x: m[1],
                    table: m[2],
                    out: m[0],
                    threads,
                });
            }
            Op::Attention(attention) => self.attention(node, attention, out)?,
            Op::Embedding { scale } => self.embedding(node, scale, out)?,
            Op::Patchify { patch } => {
                let height = self.graph.shape(node.operands[0])[1];
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| Patchify {
                    patch,
                    image: m[1],
                    height,
                    out: m[0],
                    threads,
                });
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
                    self.draft(vec![to, x], move |m| Copy {
                        x: m[1],
                        out: m[0],
                        threads,
                    });
                    start += length;
                }
            }
            Op::Add => self.binary(node, Binary::Add, out)?,
            Op::Multiply => self.binary(node, Binary::Multiply, out)?,
            Op::EulerStep { dt } => self.binary(node, Binary::Step { dt }, out)?,
            Op::Activate(activation) => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| Activate {
                    activation,
                    x: m[1],
                    out: m[0],
                    threads,
                });
            }
            Op::PrefixMask { image_tokens } => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| WriteList {
                    lists: Lists::PrefixMask {
                        images: m[1],
                        tokens: m[2],
                        image_tokens,
                    },
                    out: m[0],
                });
            }
            Op::Positions => {
                let views = self.with_operands(out, node)?;
                self.draft(views, move |m| WriteList {
                    lists: Lists::Positions { mask: m[1] },
                    out: m[0],
                });
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
        self.draft(views, move |m| BinaryRows {
            op,
            a: m[1],
            b: m[2],
            out: m[0],
            threads,
        });
        Ok(())
    }

    fn linear_weight(&mut self, id: ValueId) -> Result<Arc<PackedWeight>, DeviceError> {
        let value = self.graph.value(id);
        match &value.source {
            Source::Weight { key, stored } => self.loader.packed(key, stored, &value.ty),
            _ => Err(self.unsupported(
                &value.name,
                "a linear whose weight is not a tensor of the checkpoint",
            )),
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
        self.draft(views, move |m| Embedding {
            scale,
            tokens: m[1],
            table,
            out: m[0],
        });
        Ok(())
    }

    fn unsupported(&self, node: &str, what: &str) -> DeviceError {
        DeviceError::Unsupported {
            node: node.into(),
            what: what.into(),
        }
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
            let segment = |index: usize, mask| Segment {
                keys: heads(index),
                values: heads(index + 1),
                mask,
            };
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
        let shape = PackShape {
            side,
            sequences,
            heads: attention.kv_heads,
            head_dim: attention.head_dim,
            length,
        };
        let words = PackedHeads::words(side, sequences, shape.heads, shape.head_dim, length);
        let packed = self.layout.buffer(1, words, Home::Arena);
        let from = self.view(x)?;
        let threads = self.target.threads;
        self.draft(vec![packed, from], move |m| PackHeads {
            x: m[1],
            to: shape.at(m[0]),
            threads,
        });
        self.packed_heads.insert((x, side), (packed, shape));
        Ok((packed, shape))
    }

    /// Makes outputs and residents survive the run.
    fn results(&mut self, residents: &mut Residents) -> Result<(), DeviceError> {
        for binding in &self.graph.residents {
            let ty = &self.graph.value(binding.value).ty;
            let view = self.view(binding.value)?;
            if !self.layout.make_resident(view, &binding.name) {
                let copy = self
                    .layout
                    .buffer(ty.rows(), ty.columns(), Home::Resident(binding.name.clone()));
                let threads = self.target.threads;
                self.draft(vec![copy, view], move |m| Copy {
                    x: m[1],
                    out: m[0],
                    threads,
                });
            }
            match residents.get(&binding.name) {
                Some((found, _)) => self.check_resident(&binding.name, found, ty)?,
                None => {
                    residents.insert(binding.name.clone(), (ty.clone(), Words::new(ty.elements())));
                }
            }
        }
        for binding in &self.graph.outputs {
            let view = self.view(binding.value)?;
            self.layout.pin(view);
        }
        Ok(())
    }

    fn finish(self, residents: &Residents) -> Result<Program, DeviceError> {
        let Self {
            graph,
            target,
            layout,
            drafts,
            contents,
            limits,
            ..
        } = self;
        let touched: Vec<Vec<BufferId>> = drafts.iter().map(|draft| draft.touches.clone()).collect();
        let (memory, addresses) = layout.allocate(&touched, |name| match residents.get(name) {
            Some((_, words)) => words.as_ptr(),
            None => std::ptr::null_mut(),
        });
        for (view, content) in contents {
            // SAFETY: contents have pinned buffers of their own size, and nothing runs yet.
            unsafe { fill(addresses.matrix(view), content.view()) }
        }
        let slot = |name: &str, value: ValueId| {
            let view = layout.get(value).ok_or_else(|| DeviceError::Order {
                graph: graph.name.clone(),
                value: name.into(),
            })?;
            let ty = graph.value(value).ty.clone();
            let below = limits.get(&value).copied();
            Ok(Slot {
                name: name.into(),
                ty,
                matrix: addresses.matrix(view),
                below,
            })
        };
        let inputs = graph
            .inputs()
            .map(|(id, value)| slot(&value.name, id))
            .collect::<Result<_, DeviceError>>()?;
        let outputs = graph
            .outputs
            .iter()
            .map(|binding| slot(&binding.name, binding.value))
            .collect::<Result<_, DeviceError>>()?;
        let steps: Vec<Box<dyn Step>> = drafts.into_iter().map(|draft| (draft.bind)(&addresses)).collect();
        let words = steps.iter().map(|step| step.scratch()).max().unwrap_or(0);
        let scratch = (0..target.threads).map(|_| Words::new(words)).collect();
        Ok(Program {
            steps,
            inputs,
            outputs,
            scratch,
            memory,
        })
    }
}

/// [`PackedHeads`] before it has an address.
#[derive(Clone, Copy)]
struct PackShape {
    side: Side,
    sequences: usize,
    heads: usize,
    head_dim: usize,
    length: usize,
}

impl PackShape {
    fn at(self, packed: Matrix) -> PackedHeads {
        let Self {
            side,
            sequences,
            heads,
            head_dim,
            length,
        } = self;
        PackedHeads {
            packed,
            side,
            sequences,
            heads,
            head_dim,
            length,
        }
    }
}

/// # Safety
/// The matrix must be a whole buffer of as many words that nobody else touches.
unsafe fn fill(to: Matrix, content: HostView) {
    debug_assert_eq!(to.rows * to.cols, content.elements());
    // SAFETY: promised by the caller.
    unsafe {
        match content {
            HostView::F32(values) => {
                std::slice::from_raw_parts_mut(to.data, values.len()).copy_from_slice(values)
            }
            HostView::I32(values) => to.integers_mut().copy_from_slice(values),
            HostView::Bool(values) => {
                to.integers_mut()
                    .iter_mut()
                    .zip(values)
                    .for_each(|(word, &value)| *word = i32::from(value));
            }
        }
    }
}
