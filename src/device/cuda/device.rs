//! The device `cuda`: programs are lowered, their buffers filled, their products planned, and each is captured as one CUDA graph,
//! which a run starts.
//!
//! A graph has addresses in it, so graphs are captured when all programs have their memory: at the first run after the last
//! compilation. A run starts the graph and the copies of its outputs into pinned memory; nobody waits before [`Device::wait`].
//! Inputs are copied on a stream of their own: a program waits for all that was written before it was started, and what is
//! written while it runs waits for its end, each by an event.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::driver::blas::Blas;
use super::driver::event::Event;
use super::driver::gpu::Gpu;
use super::driver::{compiler, library};
use super::error::CudaError;
use super::load::Store;
use super::loaded::{Captured, Loaded};
use super::lower::{Residents, lower};
use super::program::{Call, Element, View, Work};
use crate::device::{
    Account, Device, DeviceError, ProgramId, Progress, SectionTime, StepAccount, StepTime, loading,
};
use crate::graph::{Graph, GraphError, HostTensor, HostView, Weights};

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
    /// Programs that were started and not yet waited for, in order.
    started: Vec<ProgramId>,
    /// All that was written so far is there.
    written: Event,
    /// What programs leave for each other.
    residents: Residents,
    store: Store,
    blas: Blas,
    factors: Element,
    gpu: Arc<Gpu>,
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
            started: Vec::new(),
            written: Event::new(&gpu)?,
            residents: Residents::new(),
            store: Store::new(&gpu),
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

    /// What is started from now on waits for all that was written.
    fn follow_writes(&self) -> Result<(), CudaError> {
        self.written.record(self.gpu.copies)?;
        self.gpu.runs.wait_for(&self.written)
    }

    /// The first program that was started and has not ended, now that the GPU has stopped.
    fn unfinished(&self) -> Option<&Loaded> {
        let mut started = self.started.iter().filter_map(|program| self.programs.get(program.0));
        started.find(|loaded| !loaded.run.has_ended())
    }

    fn start_call(&self, call: &Call, address: &impl Fn(&View) -> u64) -> Result<(), CudaError> {
        match &call.work {
            Work::Product(product) => self.blas.start(&call.node, product, address),
            Work::Kernel(launch) => match self.store.functions.get(&launch.kernel) {
                Some(&function) => self.gpu.launch(function, launch, address),
                None => Err(CudaError::call(launch.kernel.name(), "not loaded")),
            },
        }
    }

    /// Measures products and captures a graph of every program that has none.
    fn capture(&mut self) -> Result<(), CudaError> {
        let work = self.store.work_address();
        for index in 0..self.programs.len() {
            let loaded = &self.programs[index];
            if loaded.captured.is_some() {
                continue;
            }
            let address = loaded.address(work);
            for call in &loaded.program.calls {
                if let Work::Product(product) = &call.work {
                    self.blas.plan(&call.node, product, &address)?;
                }
            }
            // Once as they are: whatever a first start has to do is no part of the graph, and errors have a node's name.
            for call in &loaded.program.calls {
                self.start_call(call, &address)?;
            }
            self.gpu.wait(&format!("running '{}' for the first time", loaded.program.name))?;
            let captured = Captured::of(&self.gpu, &loaded.program, |call| self.start_call(call, &address))?;
            drop(address);
            self.programs[index].captured = Some(captured);
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
        self.wait()?;
        self.gpu.make_current()?;
        // Memory may move: graphs that were captured are captured again.
        self.programs.iter_mut().for_each(|loaded| loaded.captured = None);
        let program = lower(graph, self.factors, &mut self.residents)?;
        self.store.check_memory(&program)?;
        self.store.load_kernels(&program)?;
        let missing = self.store.missing_bytes(&program);
        let load = || self.store.load(program, graph, weights, progress);
        let loaded = loading(progress, graph, missing, load)?;
        tracing::info!("lowered {}: {} kernels and products", graph.name, loaded.program.calls.len());
        self.programs.push(loaded);
        // A cycle starts two.
        self.started.reserve(self.programs.len().max(2));
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn write(&mut self, program: ProgramId, input: &str, data: HostView) -> Result<(), DeviceError> {
        self.gpu.make_current()?;
        let loaded = self.programs.get_mut(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        let found = loaded.inputs.iter_mut().find(|slot| slot.slot.name == input);
        let found = found.ok_or_else(|| DeviceError::NoSlot { kind: "input", name: input.into() })?;
        if self.started.contains(&program) {
            self.gpu.copies.wait_for(&loaded.run.ended)?;
        }
        found.write(data, self.gpu.copies)
    }

    fn start(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        self.gpu.make_current()?;
        self.follow_writes()?;
        self.capture()?;
        let runs = self.gpu.runs;
        let loaded = self.programs.get_mut(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        if let Err(error) = loaded.start(runs) {
            // The driver also tells here what became of programs that it was given before.
            let mut what = format!("starting '{}'", self.loaded(program)?.program.name);
            if let Some(running) = self.unfinished() {
                what += &format!(" while '{}' was running", running.program.name);
            }
            self.started.clear();
            return Err(error.of(what).into());
        }
        self.started.push(program);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        if self.started.is_empty() {
            return Ok(());
        }
        self.gpu.make_current()?;
        if let Err(error) = self.gpu.wait("running") {
            let name = self.unfinished().map_or("a program", |loaded| &loaded.program.name);
            let error = error.of(format!("running '{name}'"));
            self.started.clear();
            return Err(error.into());
        }
        for program in self.started.drain(..) {
            if let Some(loaded) = self.programs.get_mut(program.0) {
                loaded.run.measure()?;
            }
        }
        Ok(())
    }

    fn time(&self, program: ProgramId) -> Duration {
        self.programs.get(program.0).map_or(Duration::ZERO, |loaded| loaded.run.time)
    }

    /// Starts the calls one by one, each between two events: slower than the graph by the starts.
    fn profile(&mut self, program: ProgramId) -> Result<Vec<StepTime>, DeviceError> {
        self.wait()?;
        self.gpu.make_current()?;
        self.follow_writes()?;
        self.capture()?;
        let loaded = self.loaded(program)?;
        let address = loaded.address(self.store.work_address());
        let time = |call: &Call| {
            let time = self.gpu.time(|| self.start_call(call, &address))?;
            Ok(StepTime { node: call.node.clone(), kernel: call.kernel(), time })
        };
        loaded.program.calls.iter().map(time).collect()
    }

    fn account(&self, program: ProgramId) -> Result<Account, DeviceError> {
        let loaded = self.loaded(program)?;
        let source = match loaded.captured {
            Some(_) => "the captured CUDA graph",
            None => "the lowered program",
        };
        let mut account = loaded.program.account(self.place(), source, self.factors);
        if let Some(crossings) = loaded.captured.as_ref().map(|captured| captured.transfers)
            && crossings > 0
        {
            let node = loaded.program.name.clone();
            account.steps.push(StepAccount {
                node,
                kernel: "transfer",
                programs: 0,
                crossings,
                weight_bytes: None,
            });
        }
        Ok(account)
    }

    fn sections(&mut self, program: ProgramId) -> &[SectionTime] {
        match self.programs.get_mut(program.0) {
            Some(loaded) if self.gpu.make_current().is_ok() => loaded.sections(),
            _ => &[],
        }
    }

    fn read(&mut self, program: ProgramId, output: &str, out: &mut HostTensor) -> Result<(), DeviceError> {
        let slot = self.loaded(program)?.outputs.iter().find(|slot| slot.name == output);
        slot.ok_or_else(|| DeviceError::NoSlot { kind: "output", name: output.into() })?.read(out)
    }
}

impl Drop for CudaDevice {
    /// Nothing may be on its way when memory is given back.
    fn drop(&mut self) {
        let _ = self.gpu.make_current().and_then(|()| self.gpu.finish("closing"));
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
