//! The CPU device: the embedded default, and the numerical reference of all others. Everything is computed in f32.
//!
//! `compile` turns a graph into a program by way of `layout` (where values live) and `load` (weights);
//! `kernels` do the work on the threads of `pool`.

mod compile;
mod kernels;
mod layout;
mod load;
mod memory;
mod pool;
mod program;

use std::thread;

pub use kernels::Isa;

use self::compile::{Residents, Target};
use self::load::{PackedWeights, PackingLoader};
use self::pool::Pool;
use self::program::Program;
use super::{Device, DeviceError, ProgramId, Progress};
use crate::graph::{Graph, HostTensor, HostView, Source, Weights};

pub struct CpuDevice {
    // Programs point into residents and packed weights, so they go first.
    programs: Vec<Program>,
    residents: Residents,
    packed: PackedWeights,
    pool: Pool,
    isa: Isa,
}

impl CpuDevice {
    /// The fastest kernels of this machine on `threads` threads; 0 means one per core.
    pub fn new(threads: usize) -> Result<Self, DeviceError> {
        let isa = Isa::available().pop().unwrap_or(Isa::Portable);
        Self::with_isa(threads, isa)
    }

    /// As [`Self::new`], with the kernels of `isa`, which must be one of [`Isa::available`].
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self, DeviceError> {
        if !Isa::available().contains(&isa) {
            return Err(DeviceError::Unknown(format!("cpu with {isa} kernels")));
        }
        let threads = match threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = Pool::new(threads).map_err(|error| DeviceError::Thread {
            threads,
            message: error.to_string(),
        })?;
        Ok(Self {
            programs: Vec::new(),
            residents: Residents::new(),
            packed: PackedWeights::new(),
            pool,
            isa,
        })
    }

    fn program(&mut self, id: ProgramId) -> Result<&mut Program, DeviceError> {
        self.programs.get_mut(id.0).ok_or(DeviceError::NoProgram(id.0))
    }
}

impl Device for CpuDevice {
    fn describe(&self) -> String {
        format!("cpu (f32, {} kernels, {} threads)", self.isa, self.pool.threads())
    }

    fn compile(
        &mut self,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<ProgramId, DeviceError> {
        let target = Target {
            isa: self.isa,
            threads: self.pool.threads(),
        };
        progress.begin(
            &format!("compiling {}", graph.name),
            weight_bytes(graph, weights)?,
        );
        let mut loader = PackingLoader {
            weights,
            progress,
            pool: &mut self.pool,
            packed: &mut self.packed,
        };
        let program = compile::compile(graph, target, &mut loader, &mut self.residents);
        progress.end();
        let program = program?;
        tracing::info!("compiled {}: {}", graph.name, program.describe());
        self.programs.push(program);
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn write(&mut self, program: ProgramId, input: &str, data: HostView) -> Result<(), DeviceError> {
        self.program(program)?.write(input, data)
    }

    fn run(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        let program = self
            .programs
            .get_mut(program.0)
            .ok_or(DeviceError::NoProgram(program.0))?;
        program.run(&mut self.pool);
        Ok(())
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
