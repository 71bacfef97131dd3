//! Turns a graph into a program for a GPU: every node becomes calls, or is an error. Called by the device and by the audit, which
//! needs no GPU for it.
//!
//! A value is in f32, or, where products, rotations or attentions read it, in the type that these compute with (`forms`). What
//! follows a product at once is done with it where cuBLASLt can (`products`); queries and keys are rotated together and attention
//! split over the GPU in `attention`; tokens, masks and positions are `tokens`, what goes row by row `rows`.

mod attention;
mod forms;
mod place;
mod products;
mod rows;
mod tokens;

use std::collections::HashMap;

use super::content::Content;
use super::kernels::Kernel;
use super::program::{
    Argument, Buffer, BufferId, Call, Element, Input, Launch, Origin, Output, OutputSource, Program, View,
    Work,
};
use crate::device::DeviceError;
use crate::device::sums::Sums;
use crate::graph::{DType, Graph, Node, Op, Source, ValueId};

/// Values that programs leave for each other on the device: how many elements of which type, by name.
pub type Residents = HashMap<String, (usize, Element)>;

/// Lowers `graph`; what products read is in `factors`, bf16 or f32. Values that it leaves are added to `residents`.
pub fn lower(graph: &Graph, factors: Element, residents: &mut Residents) -> Result<Program, DeviceError> {
    let constant = graph.constants();
    let mut lowering = Lowering {
        graph,
        factors,
        sums: Sums::of(graph, &constant),
        wants_factors: forms::wanted_as_factors(graph),
        destinations: forms::destinations(graph, &constant),
        constant,
        forms: HashMap::new(),
        contents: HashMap::new(),
        done: vec![false; graph.nodes.len()],
        program: Program { name: graph.name.clone(), ..Program::default() },
        node: String::new(),
    };
    lowering.inputs(residents)?;
    for (index, node) in graph.nodes.iter().enumerate() {
        let elsewhere = lowering.sums.absorbed[index] || lowering.done[index];
        if !lowering.constant[node.result.index()] && !elsewhere {
            lowering.node.clone_from(&node.name);
            lowering.node(index, node)?;
        }
    }
    lowering.results(residents)?;
    let mut program = lowering.program;
    place::place(&mut program);
    Ok(program)
}

struct Lowering<'a> {
    graph: &'a Graph,
    /// What products, rotations and attentions read.
    factors: Element,
    constant: Vec<bool>,
    sums: Sums,
    /// By value: somebody reads it as a factor.
    wants_factors: Vec<bool>,
    /// Parts that are made in their place in a joined matrix: that, and their first row there.
    destinations: HashMap<ValueId, (ValueId, usize)>,
    /// Where values are, in one or two types.
    forms: HashMap<ValueId, Vec<View>>,
    /// Buffers of contents by key and type.
    contents: HashMap<(String, Element), BufferId>,
    /// By node: lowered with another.
    done: Vec<bool>,
    program: Program,
    /// The node that is being lowered.
    node: String,
}

impl Lowering<'_> {
    fn node(&mut self, index: usize, node: &Node) -> Result<(), DeviceError> {
        match &node.op {
            Op::Linear { .. } => self.linear(node),
            Op::Add | Op::EulerStep { .. } if self.sums.of.contains_key(&index) => self.sum(index, node),
            Op::GatedLinear { activation } => self.gated_linear(node, *activation),
            Op::LayerNorm { epsilon } => self.norm(node, *epsilon, true),
            Op::RmsNorm { epsilon } => self.norm(node, *epsilon, false),
            Op::RotaryTable { head_dim, theta } => self.rotary_table(node, *head_dim, *theta),
            Op::Rotary { heads } => self.rotary(index, node, *heads),
            Op::Attention(attention) => self.attention(node, attention),
            Op::Embedding { scale } => self.embedding(node, *scale),
            Op::Patchify { patch } => self.patches(node, *patch),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::Slice { axis, start, end } => self.slice(node, *axis, *start, *end),
            Op::Repeat { rows } => self.repeat(node, *rows),
            Op::Add => self.add(node, 1.0),
            Op::EulerStep { dt } => self.add(node, *dt),
            Op::Multiply => self.multiply(node),
            Op::Activate(activation) => self.activate(node, *activation),
            Op::Guide { ahead, strength } => self.guide(node, *ahead, *strength),
            Op::Choose => self.choose(node),
            Op::PrefixMask { image_tokens } => self.prefix_mask(node, *image_tokens),
            Op::Positions => self.positions(node, false),
            Op::PositionsAfter { .. } => self.positions(node, true),
        }
    }

    /// Buffers for what the host writes and for what other programs have left.
    fn inputs(&mut self, residents: &Residents) -> Result<(), DeviceError> {
        for (id, value) in self.graph.ids() {
            let (origin, element) = match &value.source {
                Source::Input => (Origin::Input(value.name.clone()), element_of(value.ty.dtype)),
                Source::Resident => {
                    let Some(&(elements, element)) = residents.get(&value.name) else {
                        return Err(DeviceError::MissingResident {
                            graph: self.graph.name.clone(),
                            name: value.name.clone(),
                        });
                    };
                    self.check_resident(&value.name, elements, value.ty.elements())?;
                    (Origin::Resident(value.name.clone()), element)
                }
                _ => continue,
            };
            let view = self.buffer(&value.name, element, value.ty.rows(), value.ty.columns(), origin);
            self.forms.entry(id).or_default().push(view);
            if value.source == Source::Input {
                let (name, ty) = (value.name.clone(), value.ty.clone());
                let below = self.graph.nodes.iter().find_map(|node| match node.op {
                    Op::Embedding { .. } if node.operands[0] == id => {
                        i32::try_from(self.graph.shape(node.operands[1])[0]).ok()
                    }
                    _ => None,
                });
                self.program.inputs.push(Input { name, ty, buffer: view.buffer, below });
            }
        }
        Ok(())
    }

    fn check_resident(&self, name: &str, found: usize, expected: usize) -> Result<(), DeviceError> {
        if found == expected {
            return Ok(());
        }
        Err(DeviceError::ResidentType {
            graph: self.graph.name.clone(),
            name: name.into(),
            found: format!("{found} elements"),
            expected: format!("{expected} elements"),
        })
    }

    /// Makes outputs and residents survive the run, in buffers of their own.
    fn results(&mut self, residents: &mut Residents) -> Result<(), DeviceError> {
        for binding in &self.graph.residents {
            let ty = &self.graph.value(binding.value).ty;
            let there = self.forms.get(&binding.value).and_then(|forms| {
                forms.iter().copied().find(|form| {
                    matches!(&self.program.buffer(form.buffer).origin, Origin::Resident(name) if *name == binding.name)
                })
            });
            let view = match there {
                Some(view) => view,
                None => {
                    let element = self.primary(binding.value);
                    let origin = Origin::Resident(binding.name.clone());
                    let view = self.buffer(&binding.name, element, ty.rows(), ty.columns(), origin);
                    self.node.clone_from(&self.graph.value(binding.value).name);
                    let from = self.value(binding.value, element)?;
                    self.copy(from, view);
                    view
                }
            };
            if let Some((found, _)) = residents.get(&binding.name) {
                self.check_resident(&binding.name, *found, ty.elements())?;
            }
            residents.insert(binding.name.clone(), (ty.elements(), view.element));
        }
        for binding in &self.graph.outputs {
            let value = self.graph.value(binding.value);
            let (name, ty) = (binding.name.clone(), value.ty.clone());
            let source = if self.constant[binding.value.index()] {
                OutputSource::Known(binding.value)
            } else {
                let element = element_of(ty.dtype);
                let origin = Origin::Output(name.clone());
                let view = self.buffer(&name, element, ty.rows(), ty.columns(), origin);
                self.node.clone_from(&value.name);
                let from = self.value(binding.value, element)?;
                self.copy(from, view);
                OutputSource::Buffer(view.buffer)
            };
            self.program.outputs.push(Output { name, ty, source });
        }
        Ok(())
    }

    /// A buffer of its own for a matrix.
    fn buffer(&mut self, name: &str, element: Element, rows: usize, columns: usize, origin: Origin) -> View {
        let id = BufferId(self.program.buffers.len() as u32);
        self.program.buffers.push(Buffer { name: name.into(), element, elements: rows * columns, origin });
        View { buffer: id, element, offset: 0, rows, columns, stride: columns }
    }

    /// A matrix that lasts until its last reader.
    fn work(&mut self, name: &str, element: Element, rows: usize, columns: usize) -> View {
        self.buffer(name, element, rows, columns, Origin::Work { place: 0 })
    }

    /// A buffer with these contents, one for all that are equal.
    fn content(&mut self, content: Content, element: Element, rows: usize, columns: usize) -> View {
        let key = (content.key().to_owned(), element);
        let name: String = content.key().chars().take(64).collect();
        let id = match self.contents.get(&key) {
            Some(&id) => id,
            None => {
                let id = self.buffer(&name, element, rows, columns, Origin::Content(content)).buffer;
                self.contents.insert(key, id);
                id
            }
        };
        View { buffer: id, element, offset: 0, rows, columns, stride: columns }
    }

    fn call(&mut self, work: Work) {
        self.program.calls.push(Call { node: self.node.clone(), work });
    }

    /// Starts `kernel` with one block for each row, of as many threads as a row has pieces of `vector` columns.
    fn per_row(&mut self, kernel: Kernel, rows: usize, pieces: usize, arguments: Vec<Argument>) {
        self.launch(kernel, [rows, 1, 1], pieces.next_multiple_of(32).clamp(32, 256), 0, arguments);
    }

    fn launch(
        &mut self,
        kernel: Kernel,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
        arguments: Vec<Argument>,
    ) {
        let grid = grid.map(|blocks| blocks as u32);
        let (threads, shared_bytes) = (threads as u32, shared_bytes as u32);
        self.call(Work::Kernel(Launch { kernel, grid, threads, shared_bytes, arguments }));
    }

    fn unsupported(&self, what: impl Into<String>) -> DeviceError {
        DeviceError::Unsupported { node: self.node.clone(), what: what.into() }
    }
}

fn element_of(dtype: DType) -> Element {
    match dtype {
        DType::F32 => Element::F32,
        DType::I32 => Element::I32,
        DType::Bool => Element::U8,
    }
}

/// As an argument: sizes are far below 2^31, or memory would not hold them.
fn int(value: usize) -> Argument {
    Argument::Int(value as i32)
}

/// A matrix and its stride, as kernels take them; nothing and 0 where there is none.
fn read(view: impl Into<Option<View>>) -> [Argument; 2] {
    view.into().map_or([Argument::Nothing, int(0)], |view| [Argument::Read(view), int(view.stride)])
}

/// The same of a matrix whose one row may stand for all of another's.
fn read_rows(view: impl Into<Option<View>>) -> [Argument; 2] {
    view.into().map_or([Argument::Nothing, int(0)], |view| [Argument::Read(view), int(view.row_stride())])
}

/// The same of a matrix that is written.
fn write(view: View) -> [Argument; 2] {
    [Argument::Write(view), int(view.stride)]
}

/// How many elements of these matrices can be read at a time: 8, 4 or 1, as their places and strides allow.
fn vector<'v>(views: impl IntoIterator<Item = &'v View>) -> usize {
    let all = views.into_iter().fold(0, |all, view| {
        let stride = if view.rows == 1 { 0 } else { view.stride };
        all | view.offset | stride | view.columns
    });
    [8, 4].into_iter().find(|count| all.is_multiple_of(*count)).unwrap_or(1)
}
