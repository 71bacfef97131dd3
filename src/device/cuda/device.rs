//! The device `cuda`: programs are lowered, their buffers filled, their products planned, and each is captured as one CUDA graph,
//! which a run starts.
//!
//! A graph has addresses in it, so graphs are captured when all programs have their memory: at the first run after the last
//! compilation. All programs use the same working memory, since one runs at a time. A run starts the graph and the copies of its
//! outputs into pinned memory, and waits once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::content;
use super::driver::blas::Blas;
use super::driver::gpu::{Function, Gpu, Memory, Module, Pinned, Replay};
use super::driver::{compiler, library};
use super::error::CudaError;
use super::kernels::Kernel;
use super::lower::{Residents, lower};
use super::program::{Buffer, Call, Element, Input, Origin, OutputSource, Program, View, Work};
use crate::device::{Account, Device, DeviceError, ProgramId, Progress, StepAccount, StepTime};
use crate::graph::{Graph, GraphError, HostTensor, HostView, Source, TensorType, ValueId, Weights};

/// How a GPU is opened and used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// Number of the GPU.
    pub ordinal: usize,
    /// What products are computed in.
    pub factors: Element,
    /// Folder with NVIDIA's libraries, or wheels of them; none where the system finds them or the environment names it.
    pub libraries: Option<PathBuf>,
}

/// The GPU of a device's name, after the colon; none is the first.
pub fn ordinal_named(name: &str) -> Result<usize, CudaError> {
    if name.is_empty() { Ok(0) } else { name.parse().map_err(|_| CudaError::Name(name.into())) }
}

pub struct CudaDevice {
    // Programs use everything below, so they go first, and the GPU last.
    programs: Vec<Loaded>,
    residents: Residents,
    resident_memory: HashMap<String, Memory>,
    /// By key and type, shared by all programs.
    contents: HashMap<(String, Element), Memory>,
    /// Working memory of any program.
    work: Option<(usize, Memory)>,
    functions: HashMap<Kernel, Function>,
    modules: Vec<Module>,
    blas: Blas,
    factors: Element,
    gpu: Arc<Gpu>,
}

/// A program whose buffers are on the GPU.
struct Loaded {
    replay: Option<Replay>,
    /// Transfers within the captured graph.
    transfers: usize,
    program: Program,
    /// Addresses of buffers that have their own, by number; 0 for those in the working memory.
    addresses: Vec<u64>,
    inputs: Vec<(Input, Memory, Pinned)>,
    outputs: Vec<Output>,
}

struct Output {
    name: String,
    ty: TensorType,
    what: Read,
}

enum Read {
    Buffer(Memory, Pinned),
    Known(HostTensor),
}

impl CudaDevice {
    /// Opens a GPU and what it needs.
    pub fn open(options: &CudaOptions) -> Result<Self, CudaError> {
        library::driver()?;
        let gpu = Arc::new(Gpu::open(options.ordinal)?);
        let folder = library::folder(options.libraries.as_deref());
        library::nvrtc(folder.as_deref())?;
        library::cublaslt(folder.as_deref())?;
        let blas = Blas::new(&gpu)?;
        Ok(Self {
            programs: Vec::new(),
            residents: Residents::new(),
            resident_memory: HashMap::new(),
            contents: HashMap::new(),
            work: None,
            functions: HashMap::new(),
            modules: Vec::new(),
            blas,
            factors: options.factors,
            gpu,
        })
    }

    fn place(&self) -> String {
        let (major, minor) = self.gpu.capability;
        format!("{} ({major}.{minor})", self.gpu.name)
    }

    fn loaded(&self, program: ProgramId) -> Result<&Loaded, DeviceError> {
        self.programs.get(program.0).ok_or(DeviceError::NoProgram(program.0))
    }

    /// Refuses a program that the GPU has no room for, before anything of it is loaded.
    fn check_memory(&self, program: &Program) -> Result<(), CudaError> {
        let new = |buffer: &Buffer| match &buffer.origin {
            Origin::Content(content) => {
                !self.contents.contains_key(&(content.key().to_owned(), buffer.element))
            }
            Origin::Resident(name) => !self.resident_memory.contains_key(name),
            Origin::Input(_) | Origin::Output(_) => true,
            Origin::Work { .. } => false,
        };
        let own = program.buffers.iter().filter(|buffer| new(buffer));
        let more_work = program.work_bytes.saturating_sub(self.work.as_ref().map_or(0, |(bytes, _)| *bytes));
        let needed = own.map(Buffer::bytes).sum::<usize>() + more_work;
        let free = self.gpu.free()?;
        if needed <= free {
            return Ok(());
        }
        let what = format!("the program '{}'", program.name);
        Err(CudaError::Memory { name: self.gpu.name.clone(), what, free, needed })
    }

    /// Compiles the kernels that no program before has had.
    fn load_kernels(&mut self, program: &Program) -> Result<(), CudaError> {
        let new: Vec<Kernel> =
            program.kernels().into_iter().filter(|kernel| !self.functions.contains_key(kernel)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let (major, minor) = self.gpu.capability;
        let architecture = compiler::architecture(major, minor);
        let cache = compiler::cache_folder();
        let module = self.gpu.module(&compiler::binary(&new, &architecture, cache.as_deref())?)?;
        for kernel in new {
            let shared = program.calls.iter().filter_map(|call| match &call.work {
                Work::Kernel(launch) if launch.kernel == kernel => Some(launch.shared_bytes),
                _ => None,
            });
            let function = module.function(&kernel.name(), shared.max().unwrap_or(0))?;
            self.functions.insert(kernel, function);
        }
        self.modules.push(module);
        Ok(())
    }

    fn load(
        &mut self,
        program: Program,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<Loaded, DeviceError> {
        let known = |element, key: &str| self.contents.contains_key(&(key.to_owned(), element));
        let new = program.buffers.iter().filter_map(|buffer| match &buffer.origin {
            Origin::Content(content) if !known(buffer.element, content.key()) => Some(content),
            _ => None,
        });
        let of_outputs = program.outputs.iter().filter_map(|output| match output.source {
            OutputSource::Known(value) => Some(value),
            OutputSource::Buffer(_) => None,
        });
        let known_outputs = |value: &ValueId| matches!(graph.value(*value).source, Source::Node(_));
        let computed = content::compute(graph, new, of_outputs.filter(known_outputs), weights)?;

        let mut addresses = vec![0; program.buffers.len()];
        let mut own = HashMap::new();
        for (id, buffer) in program.ids() {
            let address = match &buffer.origin {
                Origin::Work { .. } => 0,
                Origin::Resident(name) => match self.resident_memory.get(name) {
                    Some(memory) => memory.address,
                    None => {
                        let memory = self.gpu.allocate(name, buffer.bytes())?;
                        let address = memory.address;
                        self.resident_memory.insert(name.clone(), memory);
                        address
                    }
                },
                Origin::Content(content) => {
                    let key = (content.key().to_owned(), buffer.element);
                    match self.contents.get(&key) {
                        Some(memory) => memory.address,
                        None => {
                            let memory = self.gpu.allocate(&buffer.name, buffer.bytes())?;
                            content.write(graph, &computed, weights, buffer.element, |place, bytes| {
                                memory.write(place, bytes)?;
                                progress.advance(bytes.len() as u64);
                                Ok(())
                            })?;
                            let address = memory.address;
                            self.contents.insert(key, memory);
                            address
                        }
                    }
                }
                Origin::Input(_) | Origin::Output(_) => {
                    let memory = self.gpu.allocate(&buffer.name, buffer.bytes())?;
                    let pinned = self.gpu.pin(buffer.bytes())?;
                    let address = memory.address;
                    memory.write_later(&pinned)?;
                    own.insert(id, (memory, pinned));
                    address
                }
            };
            addresses[id.0 as usize] = address;
        }
        let taken = |name: &str| DeviceError::NoSlot { kind: "buffer", name: name.into() };
        let inputs = program.inputs.iter().map(|input| {
            let (memory, pinned) = own.remove(&input.buffer).ok_or_else(|| taken(&input.name))?;
            Ok((input.clone(), memory, pinned))
        });
        let inputs = inputs.collect::<Result<_, DeviceError>>()?;
        let outputs = program.outputs.iter().map(|output| {
            let what = match output.source {
                OutputSource::Buffer(id) => {
                    let (memory, pinned) = own.remove(&id).ok_or_else(|| taken(&output.name))?;
                    Read::Buffer(memory, pinned)
                }
                OutputSource::Known(value) => {
                    Read::Known(match (&graph.value(value).source, computed.get(&value)) {
                        (Source::Constant(known), _) => known.clone(),
                        (_, Some(values)) => HostTensor::F32(values.clone()),
                        _ => return Err(taken(&output.name)),
                    })
                }
            };
            Ok(Output { name: output.name.clone(), ty: output.ty.clone(), what })
        });
        let outputs = outputs.collect::<Result<_, DeviceError>>()?;
        if self.work.as_ref().is_none_or(|(bytes, _)| *bytes < program.work_bytes) {
            self.work = None;
            let memory = self.gpu.allocate("working memory", program.work_bytes)?;
            self.work = Some((program.work_bytes, memory));
        }
        self.gpu.wait("loading")?;
        Ok(Loaded { replay: None, transfers: 0, program, addresses, inputs, outputs })
    }

    /// Where a view's first element is.
    fn address<'l>(loaded: &'l Loaded, work: u64) -> impl Fn(&View) -> u64 + 'l {
        move |view| {
            let start = match loaded.program.buffer(view.buffer).origin {
                Origin::Work { place } => work + place as u64,
                _ => loaded.addresses[view.buffer.0 as usize],
            };
            start + (view.offset * view.element.bytes()) as u64
        }
    }

    fn work_address(&self) -> u64 {
        self.work.as_ref().map_or(0, |(_, memory)| memory.address)
    }

    fn start(&self, call: &Call, address: &impl Fn(&View) -> u64) -> Result<(), CudaError> {
        match &call.work {
            Work::Product(product) => self.blas.start(&call.node, product, address),
            Work::Kernel(launch) => match self.functions.get(&launch.kernel) {
                Some(&function) => self.gpu.launch(function, launch, address),
                None => Err(CudaError::call(launch.kernel.name(), "not loaded")),
            },
        }
    }

    /// Measures products and captures a graph of every program that has none.
    fn capture(&mut self) -> Result<(), CudaError> {
        let work = self.work_address();
        for index in 0..self.programs.len() {
            if self.programs[index].replay.is_some() {
                continue;
            }
            let loaded = &self.programs[index];
            let address = Self::address(loaded, work);
            for call in &loaded.program.calls {
                if let Work::Product(product) = &call.work {
                    self.blas.plan(&call.node, product, &address)?;
                }
            }
            // Once as they are: whatever a first start has to do is no part of the graph, and errors have a node's name.
            for call in &loaded.program.calls {
                self.start(call, &address)?;
            }
            self.gpu.wait(&format!("running '{}' for the first time", loaded.program.name))?;
            let start = || loaded.program.calls.iter().try_for_each(|call| self.start(call, &address));
            let (replay, transfers) = self.gpu.capture(start)?;
            drop(address);
            let loaded = &mut self.programs[index];
            (loaded.replay, loaded.transfers) = (Some(replay), transfers);
        }
        Ok(())
    }
}

impl Device for CudaDevice {
    fn describe(&self) -> String {
        let numbers = if self.factors == Element::Bf16 { "bf16" } else { "f32" };
        let (major, minor) = compiler::version();
        format!("cuda ({}, {numbers}, NVRTC {major}.{minor}, cuBLASLt {})", self.place(), self.blas.version())
    }

    fn simplify(&self, graph: Graph) -> Result<Graph, GraphError> {
        super::simplify(graph)
    }

    fn compile(
        &mut self,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<ProgramId, DeviceError> {
        self.gpu.make_current()?;
        // Memory may move: graphs that were captured are captured again.
        self.programs.iter_mut().for_each(|loaded| loaded.replay = None);
        let program = lower(graph, self.factors, &mut self.residents)?;
        self.check_memory(&program)?;
        self.load_kernels(&program)?;
        let new = |buffer: &Buffer| match &buffer.origin {
            Origin::Content(content) => {
                !self.contents.contains_key(&(content.key().to_owned(), buffer.element))
            }
            _ => false,
        };
        let total: usize = program.buffers.iter().filter(|buffer| new(buffer)).map(Buffer::bytes).sum();
        progress.begin(&format!("compiling {}", graph.name), total as u64);
        let loaded = self.load(program, graph, weights, progress);
        progress.end();
        let loaded = loaded?;
        tracing::info!("lowered {}: {} kernels and products", graph.name, loaded.program.calls.len());
        self.programs.push(loaded);
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn write(&mut self, program: ProgramId, input: &str, data: HostView) -> Result<(), DeviceError> {
        self.gpu.make_current()?;
        let loaded = self.programs.get_mut(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        let found = loaded.inputs.iter_mut().find(|(slot, ..)| slot.name == input);
        let (slot, memory, pinned) =
            found.ok_or_else(|| DeviceError::NoSlot { kind: "input", name: input.into() })?;
        check(&slot.name, &slot.ty, slot.below, data)?;
        let bytes = pinned.bytes_mut();
        match data {
            HostView::F32(values) => {
                for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *to = value.to_le_bytes();
                }
            }
            HostView::I32(values) => {
                for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *to = value.to_le_bytes();
                }
            }
            HostView::Bool(values) => {
                bytes.iter_mut().zip(values).for_each(|(to, &value)| *to = u8::from(value));
            }
        }
        Ok(memory.write_later(pinned)?)
    }

    fn run(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        self.gpu.make_current()?;
        self.capture()?;
        let loaded = self.programs.get_mut(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        let Some(replay) = &loaded.replay else { return Err(DeviceError::NoProgram(program.0)) };
        replay.start()?;
        for output in &mut loaded.outputs {
            if let Read::Buffer(memory, pinned) = &mut output.what {
                memory.read_later(pinned)?;
            }
        }
        // Waits for the end, so that a program's time is its own, and its error too.
        Ok(self.gpu.wait("running a program")?)
    }

    /// Starts the calls one by one, each between two events: slower than the graph by the starts.
    fn profile(&mut self, program: ProgramId) -> Result<Vec<StepTime>, DeviceError> {
        self.gpu.make_current()?;
        self.capture()?;
        let loaded = self.loaded(program)?;
        let address = Self::address(loaded, self.work_address());
        let time = |call: &Call| {
            let time = self.gpu.time(|| self.start(call, &address))?;
            Ok(StepTime { node: call.node.clone(), kernel: call.kernel(), time })
        };
        loaded.program.calls.iter().map(time).collect()
    }

    fn account(&self, program: ProgramId) -> Result<Account, DeviceError> {
        let loaded = self.loaded(program)?;
        let source = match loaded.replay {
            Some(_) => "the captured CUDA graph",
            None => "the lowered program",
        };
        let mut account = loaded.program.account(self.place(), source, self.factors);
        if loaded.transfers > 0 {
            let (node, crossings) = (loaded.program.name.clone(), loaded.transfers);
            account.steps.push(StepAccount { node, kernel: "transfer", programs: 0, crossings });
        }
        Ok(account)
    }

    fn read(&mut self, program: ProgramId, output: &str, out: &mut HostTensor) -> Result<(), DeviceError> {
        let loaded = self.loaded(program)?;
        let slot = loaded.outputs.iter().find(|slot| slot.name == output);
        let slot = slot.ok_or_else(|| DeviceError::NoSlot { kind: "output", name: output.into() })?;
        check(&slot.name, &slot.ty, None, out.view())?;
        match &slot.what {
            Read::Known(known) => out.clone_from(known),
            Read::Buffer(_, pinned) => match out {
                HostTensor::F32(out) => {
                    let values =
                        pinned.bytes().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
                    out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
                }
                HostTensor::I32(out) => {
                    let values =
                        pinned.bytes().as_chunks::<4>().0.iter().map(|&bytes| i32::from_le_bytes(bytes));
                    out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
                }
                HostTensor::Bool(out) => {
                    out.iter_mut().zip(pinned.bytes()).for_each(|(out, &byte)| *out = byte != 0);
                }
            },
        }
        Ok(())
    }
}

/// Refuses what is not as a slot has it.
fn check(name: &str, ty: &TensorType, below: Option<i32>, data: HostView) -> Result<(), DeviceError> {
    if data.dtype() != ty.dtype || data.elements() != ty.elements() {
        return Err(DeviceError::SlotType {
            name: name.into(),
            expected: ty.dtype,
            expected_elements: ty.elements(),
            found: data.dtype(),
            elements: data.elements(),
        });
    }
    let (HostView::I32(values), Some(below)) = (data, below) else { return Ok(()) };
    match values.iter().position(|value| !(0..below).contains(value)) {
        None => Ok(()),
        Some(index) => {
            Err(DeviceError::OutOfRange { name: name.into(), index, found: values[index], last: below - 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_named_by_its_number() {
        assert_eq!((ordinal_named(""), ordinal_named("3")), (Ok(0), Ok(3)));
        assert!(ordinal_named("h100").unwrap_err().to_string().contains("cuda:1"));
    }

    #[test]
    fn without_a_driver_the_error_says_what_is_missing() {
        let options = CudaOptions { ordinal: 0, factors: Element::Bf16, libraries: None };
        // Where there is a GPU, it opens, or something else is missing.
        if let Err(error) = CudaDevice::open(&options) {
            assert!(error.to_string().contains("NVIDIA") || error.to_string().contains("lib"), "{error}");
        }
    }
}
