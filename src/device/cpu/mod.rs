//! The CPU device: the embedded default, and the numerical reference of all others.
//!
//! Values are f32. Weights are stored as f32 (the reference) or as bf16 (the fast path); what is multiplied with them is
//! rounded to bf16 only where the CPU multiplies bf16. Sums, norms, softmax and everything else are f32 either way.
//!
//! `compile` turns a graph into a program by way of `fuse` (what is computed together), `layout` (where values live),
//! `lower` (which kernels) and `load` (weights); `kernels` do the work on the threads of `pool`.

mod compile;
mod dtype;
mod fuse;
mod kernels;
mod layout;
mod load;
mod lower;
mod memory;
mod peak;
mod pool;
mod program;
mod weight;

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub use dtype::Dtype;
pub use kernels::Isa;
pub use kernels::product::Precision;

use self::compile::{Residents, Target};
use self::load::{Loader, PackedWeights};
use self::memory::{LargeMemory, Words};
use self::pool::Pool;
use self::program::Program;
use super::{
    Account, Device, DeviceError, DeviceOptions, Peak, ProgramId, Progress, SectionTime, StepAccount,
    StepTime, loading,
};
use crate::graph::{Graph, HostTensor, HostView, Source, Weights};

pub struct CpuDevice {
    // Programs point into residents and packed weights, so they go first.
    programs: Vec<Program>,
    residents: Residents,
    /// Of the program that needed most so far.
    arena: Option<Arc<Words>>,
    packed: PackedWeights,
    memory: LargeMemory,
    pool: Pool,
    isa: Isa,
    precision: Precision,
}

impl CpuDevice {
    /// The fastest kernels of this machine, or those that the environment asks for.
    pub fn new(options: DeviceOptions) -> Result<Self, DeviceError> {
        Self::with_isa(options, dtype::chosen_kernels()?)
    }

    /// As [`Self::new`], with the kernels of `isa`, which must be one of [`Isa::available`].
    pub fn with_isa(options: DeviceOptions, isa: Isa) -> Result<Self, DeviceError> {
        let DeviceOptions { threads, precision, .. } = options;
        if !Isa::available().contains(&isa) {
            return Err(DeviceError::Unknown(format!("cpu with {isa} kernels")));
        }
        let threads = match threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = Pool::new(threads)
            .map_err(|error| DeviceError::Thread { threads, message: error.to_string() })?;
        Ok(Self {
            programs: Vec::new(),
            residents: Residents::new(),
            arena: None,
            packed: PackedWeights::new(),
            memory: LargeMemory::default(),
            pool,
            isa,
            precision,
        })
    }

    fn program(&mut self, id: ProgramId) -> Result<&mut Program, DeviceError> {
        self.programs.get_mut(id.0).ok_or(DeviceError::NoProgram(id.0))
    }
}

impl Device for CpuDevice {
    fn describe(&self) -> String {
        let numbers = match (self.precision, self.isa.rows(self.precision)) {
            (Precision::Bf16, Precision::F32) => "bf16 weights multiplied in f32".to_owned(),
            (precision, _) => precision.to_string(),
        };
        format!("cpu ({numbers}, {} kernels, {} threads)", self.isa, self.pool.threads())
    }

    fn compile(
        &mut self,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<ProgramId, DeviceError> {
        let target = Target { isa: self.isa, threads: self.pool.threads(), precision: self.precision };
        let bytes = weight_bytes(graph, weights)?;
        let loader = Loader {
            weights,
            progress,
            pool: &mut self.pool,
            packed: &mut self.packed,
            memory: &mut self.memory,
            stored: HashSet::new(),
        };
        let compile = || compile::compile(graph, target, loader, &mut self.residents, &mut self.arena);
        let program = loading(progress, graph, bytes, compile)?;
        tracing::info!("compiled {}: {}", graph.name, program.describe());
        // What only served to compute constants is not kept.
        self.packed.retain(|_, weight| Arc::strong_count(weight) > 1);
        self.programs.push(program);
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn write(&mut self, program: ProgramId, input: &str, data: HostView) -> Result<(), DeviceError> {
        self.program(program)?.write(input, data)
    }

    fn start(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        let program = self.programs.get_mut(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        program.run(&mut self.pool);
        Ok(())
    }

    /// Nothing runs any more: [`Self::start`] has run it.
    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn time(&self, program: ProgramId) -> Duration {
        let sections = self.programs.get(program.0).map_or(&[][..], Program::sections);
        sections.iter().map(|section| section.time).sum()
    }

    fn profile(&mut self, program: ProgramId) -> Result<Vec<StepTime>, DeviceError> {
        let program = self.programs.get_mut(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        Ok(program.profile(&mut self.pool))
    }

    fn account(&self, program: ProgramId) -> Result<Account, DeviceError> {
        let program = self.programs.get(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        let step = |step: &program::NamedStep| StepAccount {
            node: step.node.clone(),
            kernel: step.step.name(),
            programs: 1,
            crossings: 0,
            weight_bytes: None,
        };
        let slots = |slots: &[program::Slot]| {
            slots.iter().map(|slot| (slot.name.clone(), 4 * slot.ty.elements())).collect()
        };
        Ok(Account {
            place: format!("cpu, {} kernels", self.isa),
            source: "the compiled program",
            steps: program.steps.iter().map(step).collect(),
            written: slots(&program.inputs),
            read: slots(&program.outputs),
            weight_element_bytes: match self.precision {
                Precision::F32 => 4.0,
                Precision::Bf16 => 2.0,
            },
        })
    }

    fn sections(&mut self, program: ProgramId) -> &[SectionTime] {
        self.programs.get(program.0).map_or(&[], Program::sections)
    }

    fn peak(&mut self) -> Option<Peak> {
        Some(peak::measure(&mut self.pool, self.isa, self.precision))
    }

    fn read(&mut self, program: ProgramId, output: &str, out: &mut HostTensor) -> Result<(), DeviceError> {
        self.program(program)?.read(output, out)
    }
}

/// Stored size of every weight that the graph reads.
fn weight_bytes(graph: &Graph, weights: &dyn Weights) -> Result<u64, DeviceError> {
    let uses = graph.use_counts();
    let mut bytes = 0;
    for (id, value) in graph.ids() {
        if let (Source::Weight { key, stored }, 1..) = (&value.source, uses[id.index()]) {
            bytes += weights.weight(key, stored)?.stored_bytes();
        }
    }
    Ok(bytes)
}
