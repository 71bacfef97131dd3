//! A program for a GPU as data: its buffers, and which kernel or product is started with which of them, in order.
//!
//! `lower` writes it, `device` captures it as a CUDA graph, `audit` counts it, and a test runs it on the CPU; printed it is what a
//! GPU will be asked to do.

use std::fmt;

use super::content::Content;
use super::kernels::Kernel;
use crate::device::{Account, StepAccount};
use crate::graph::{TensorType, ValueId};

/// A buffer of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Element types in a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    F32,
    Bf16,
    I32,
    /// Truth values.
    U8,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// The kernels' name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::Bf16 => "bf16",
            Self::I32 => "int",
            Self::U8 => "u8",
        }
    }
}

/// Where a buffer's elements come from, and how long they last.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The host writes it, the graph's input of this name.
    Input(String),
    /// The host reads it.
    Output(String),
    /// Another program leaves it, or this one does: it belongs to the device, by this name.
    Resident(String),
    /// Known at compilation.
    Content(Content),
    /// Made and read within a run; lies in the working memory from this byte on.
    Work { place: usize },
}

#[derive(Clone, Debug)]
pub struct Buffer {
    pub name: String,
    pub element: Element,
    pub elements: usize,
    pub origin: Origin,
}

impl Buffer {
    pub fn bytes(&self) -> usize {
        self.element.bytes() * self.elements
    }
}

/// A matrix within a buffer, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub buffer: BufferId,
    pub element: Element,
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    /// From one row to the next.
    pub stride: usize,
}

impl View {
    /// Rows from `start` on.
    pub fn rows(self, start: usize, end: usize) -> Self {
        Self { offset: self.offset + start * self.stride, rows: end - start, ..self }
    }

    pub fn columns(self, start: usize, end: usize) -> Self {
        Self { offset: self.offset + start, columns: end - start, ..self }
    }

    /// The same for every row of another matrix: what is read where there is one row for all has no stride.
    pub fn row_stride(&self) -> usize {
        if self.rows == 1 { 0 } else { self.stride }
    }

    /// One past the last element.
    pub fn end(&self) -> usize {
        self.offset + (self.rows.max(1) - 1) * self.stride + self.columns
    }
}

/// What a kernel is started with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    Read(View),
    Write(View),
    /// A pointer to nothing.
    Nothing,
    Int(i32),
    Float(f32),
}

/// One start of a kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block, whole warps.
    pub threads: u32,
    /// Shared memory of a block.
    pub shared_bytes: u32,
    pub arguments: Vec<Argument>,
}

/// `out = gelu(x weight^T + bias) + addend`, sums in f32: x `[m, k]`, weight `[n, k]`, bias `[n]`, addend and out `[m, n]`.
#[derive(Clone, Debug)]
pub struct Product {
    pub x: View,
    pub weight: View,
    /// Of out's element.
    pub bias: Option<View>,
    pub gelu: bool,
    /// Of out's element.
    pub addend: Option<View>,
    pub out: View,
}

#[derive(Clone, Debug)]
pub enum Work {
    Kernel(Launch),
    Product(Product),
}

/// One start of anything.
#[derive(Clone, Debug)]
pub struct Call {
    /// The graph's node that it computes, alone or the last of several.
    pub node: String,
    pub work: Work,
}

impl Call {
    /// Every matrix that it reads, and every one that it writes.
    pub fn views(&self) -> (Vec<View>, Vec<View>) {
        match &self.work {
            Work::Product(Product { x, weight, bias, addend, out, .. }) => {
                let optional = [bias, addend].into_iter().flatten().copied();
                ([*x, *weight].into_iter().chain(optional).collect(), vec![*out])
            }
            Work::Kernel(launch) => {
                let mut both = (Vec::new(), Vec::new());
                for argument in &launch.arguments {
                    match argument {
                        Argument::Read(view) => both.0.push(*view),
                        Argument::Write(view) => both.1.push(*view),
                        Argument::Nothing | Argument::Int(_) | Argument::Float(_) => {}
                    }
                }
                both
            }
        }
    }

    /// What runs it.
    pub fn kernel(&self) -> &'static str {
        match &self.work {
            Work::Product(_) => "cublasLtMatmul",
            Work::Kernel(launch) => launch.kernel.file,
        }
    }
}

/// What the host reads under a name.
#[derive(Clone, Debug)]
pub enum OutputSource {
    Buffer(BufferId),
    /// Made of weights and constants alone.
    Known(ValueId),
}

#[derive(Clone, Debug)]
pub struct Output {
    pub name: String,
    pub ty: TensorType,
    pub source: OutputSource,
}

/// What the host writes.
#[derive(Clone, Debug)]
pub struct Input {
    pub name: String,
    pub ty: TensorType,
    pub buffer: BufferId,
    /// Integers must be below this: they are looked up in a table of so many rows.
    pub below: Option<i32>,
}

/// A graph lowered to calls.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub name: String,
    pub buffers: Vec<Buffer>,
    pub calls: Vec<Call>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    /// Working memory of a run.
    pub work_bytes: usize,
}

impl Program {
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }

    /// Every buffer with its number.
    pub fn ids(&self) -> impl Iterator<Item = (BufferId, &Buffer)> {
        self.buffers.iter().enumerate().map(|(index, buffer)| (BufferId(index as u32), buffer))
    }

    /// Every kernel that it starts, once.
    pub fn kernels(&self) -> Vec<Kernel> {
        let launches = self.calls.iter().filter_map(|call| match &call.work {
            Work::Kernel(launch) => Some(&launch.kernel),
            Work::Product(_) => None,
        });
        let mut kernels: Vec<Kernel> = launches.cloned().collect();
        kernels.sort_unstable();
        kernels.dedup();
        kernels
    }

    /// Memory that it takes for itself: contents, inputs, outputs, residents that it knows of, and working memory.
    pub fn bytes(&self) -> usize {
        let fixed = self.buffers.iter().filter(|buffer| !matches!(buffer.origin, Origin::Work { .. }));
        fixed.map(Buffer::bytes).sum::<usize>() + self.work_bytes
    }

    /// The program for an audit. What crosses between host and GPU within a run was counted by whoever captured it, or is 0: there
    /// is no call that could.
    pub fn account(&self, place: String, source: &'static str, weight_element: Element) -> Account {
        let bytes = |ty: &TensorType| match ty.dtype {
            crate::graph::DType::Bool => ty.elements(),
            crate::graph::DType::F32 | crate::graph::DType::I32 => 4 * ty.elements(),
        };
        let step = |call: &Call| StepAccount {
            node: call.node.clone(),
            kernel: call.kernel(),
            programs: 1,
            crossings: 0,
            weight_bytes: None,
        };
        Account {
            place,
            source,
            steps: self.calls.iter().map(step).collect(),
            written: self.inputs.iter().map(|input| (input.name.clone(), bytes(&input.ty))).collect(),
            read: self.outputs.iter().map(|output| (output.name.clone(), bytes(&output.ty))).collect(),
            weight_element_bytes: weight_element.bytes() as f64,
        }
    }
}

/// A line for each call: `layers.0.mlp.gated  cublasLtMatmul  out = x weight ..`.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = |view: &View| {
            let View { element, rows, columns, stride, offset, .. } = *view;
            let name = &self.buffer(view.buffer).name;
            format!("{name}:{}[{rows}, {columns}]/{stride}+{offset}", element.name())
        };
        for call in &self.calls {
            write!(f, "{}: ", call.node)?;
            match &call.work {
                Work::Product(product) => {
                    write!(f, "{} = {} {}^T", view(&product.out), view(&product.x), view(&product.weight))?;
                    if let Some(bias) = &product.bias {
                        write!(f, " + {}", view(bias))?;
                    }
                    if product.gelu {
                        write!(f, ", gelu")?;
                    }
                    if let Some(addend) = &product.addend {
                        write!(f, " + {}", view(addend))?;
                    }
                }
                Work::Kernel(launch) => {
                    let Launch { kernel, grid: [x, y, z], threads, shared_bytes, arguments } = launch;
                    write!(f, "{}<<<({x}, {y}, {z}), {threads}, {shared_bytes}>>>(", kernel.name())?;
                    for (index, argument) in arguments.iter().enumerate() {
                        let separator = if index == 0 { "" } else { ", " };
                        match argument {
                            Argument::Read(read) => write!(f, "{separator}{}", view(read))?,
                            Argument::Write(written) => write!(f, "{separator}-> {}", view(written))?,
                            Argument::Nothing => write!(f, "{separator}none")?,
                            Argument::Int(value) => write!(f, "{separator}{value}")?,
                            Argument::Float(value) => write!(f, "{separator}{value:e}")?,
                        }
                    }
                    write!(f, ")")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
