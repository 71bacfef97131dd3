//! What a GPU holds for all programs: contents, what they leave for each other, one working memory, kernels; and a program's way
//! there. Called by `device`.

use std::collections::HashMap;
use std::sync::Arc;

use super::content;
use super::driver::compiler;
use super::driver::event::Event;
use super::driver::gpu::{Function, Gpu, Memory, Module};
use super::error::CudaError;
use super::kernels::Kernel;
use super::loaded::{Input, Loaded, Output, OutputSource, Run};
use super::program::{self, Buffer, Element, Origin, Program, Work};
use crate::device::{DeviceError, Progress};
use crate::graph::{Graph, HostTensor, Source, ValueId, Weights};

pub(super) struct Store {
    residents: HashMap<String, Memory>,
    /// By key and type.
    contents: HashMap<(String, Element), Memory>,
    /// All programs use the same, since one runs at a time.
    work: Option<(usize, Memory)>,
    pub functions: HashMap<Kernel, Function>,
    modules: Vec<Module>,
    gpu: Arc<Gpu>,
}

impl Store {
    pub fn new(gpu: &Arc<Gpu>) -> Self {
        Self {
            residents: HashMap::new(),
            contents: HashMap::new(),
            work: None,
            functions: HashMap::new(),
            modules: Vec::new(),
            gpu: gpu.clone(),
        }
    }

    pub fn work_address(&self) -> u64 {
        self.work.as_ref().map_or(0, |(_, memory)| memory.address)
    }

    fn work_bytes(&self) -> usize {
        self.work.as_ref().map_or(0, |(bytes, _)| *bytes)
    }

    /// A content that has to be loaded.
    fn is_new_content(&self, buffer: &Buffer) -> bool {
        match &buffer.origin {
            Origin::Content(content) => {
                !self.contents.contains_key(&(content.key().to_owned(), buffer.element))
            }
            _ => false,
        }
    }

    /// Bytes of contents that have to be loaded.
    pub fn missing_bytes(&self, program: &Program) -> u64 {
        let new = program.buffers.iter().filter(|buffer| self.is_new_content(buffer));
        new.map(|buffer| buffer.bytes() as u64).sum()
    }

    /// Refuses a program that the GPU has no room for, before anything of it is loaded.
    pub fn check_memory(&self, program: &Program) -> Result<(), CudaError> {
        let new = |buffer: &Buffer| match &buffer.origin {
            Origin::Content(_) => self.is_new_content(buffer),
            Origin::Resident(name) => !self.residents.contains_key(name),
            Origin::Input(_) | Origin::Output(_) => true,
            Origin::Work { .. } => false,
        };
        let own = program.buffers.iter().filter(|buffer| new(buffer)).map(Buffer::bytes);
        let needed = own.sum::<usize>() + program.work_bytes.saturating_sub(self.work_bytes());
        let free = self.gpu.free()?;
        if needed <= free {
            return Ok(());
        }
        let what = format!("the program '{}'", program.name);
        Err(CudaError::Memory { name: self.gpu.name.clone(), what, free, needed })
    }

    /// Compiles the kernels that no program before has had.
    pub fn load_kernels(&mut self, program: &Program) -> Result<(), CudaError> {
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

    /// Gives a program's buffers their memory, and contents their values.
    pub fn load(
        &mut self,
        program: Program,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<Loaded, DeviceError> {
        let new = program.buffers.iter().filter_map(|buffer| match &buffer.origin {
            Origin::Content(content) if self.is_new_content(buffer) => Some(content),
            _ => None,
        });
        let of_outputs = program.outputs.iter().filter_map(|output| match output.source {
            program::OutputSource::Known(value) => Some(value),
            program::OutputSource::Buffer(_) => None,
        });
        let known_outputs = |value: &ValueId| matches!(graph.value(*value).source, Source::Node(_));
        let computed = content::compute(graph, new, of_outputs.filter(known_outputs), weights)?;

        let mut addresses = vec![0; program.buffers.len()];
        let mut own = HashMap::new();
        for (id, buffer) in program.ids() {
            let address = match &buffer.origin {
                Origin::Work { .. } => 0,
                Origin::Resident(name) => match self.residents.get(name) {
                    Some(memory) => memory.address,
                    None => {
                        let memory = self.gpu.allocate(name, buffer.bytes())?;
                        let address = memory.address;
                        self.residents.insert(name.clone(), memory);
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
                    memory.write(0, pinned.bytes())?;
                    let address = memory.address;
                    own.insert(id, (memory, pinned));
                    address
                }
            };
            addresses[id.0 as usize] = address;
        }
        let taken = |name: &str| DeviceError::NoSlot { kind: "buffer", name: name.into() };
        let inputs = program.inputs.iter().map(|slot| {
            let (memory, pinned) = own.remove(&slot.buffer).ok_or_else(|| taken(&slot.name))?;
            Ok(Input { slot: slot.clone(), memory, pinned, copied: Event::new(&self.gpu)? })
        });
        let inputs = inputs.collect::<Result<_, DeviceError>>()?;
        let outputs = program.outputs.iter().map(|output| {
            let source = match output.source {
                program::OutputSource::Buffer(id) => {
                    let (memory, pinned) = own.remove(&id).ok_or_else(|| taken(&output.name))?;
                    OutputSource::Buffer(memory, pinned)
                }
                program::OutputSource::Known(value) => {
                    OutputSource::Known(match (&graph.value(value).source, computed.get(&value)) {
                        (Source::Constant(known), _) => known.clone(),
                        (_, Some(values)) => HostTensor::F32(values.clone()),
                        _ => return Err(taken(&output.name)),
                    })
                }
            };
            Ok(Output { name: output.name.clone(), ty: output.ty.clone(), source })
        });
        let outputs = outputs.collect::<Result<_, DeviceError>>()?;
        if self.work.is_none() || self.work_bytes() < program.work_bytes {
            self.work = None;
            let memory = self.gpu.allocate("working memory", program.work_bytes)?;
            self.work = Some((program.work_bytes, memory));
        }
        let run = Run::new(&self.gpu)?;
        // Copies of what is not pinned may still be on their way when they return.
        self.gpu.finish("loading")?;
        Ok(Loaded { program, addresses, inputs, outputs, run, captured: None })
    }
}
