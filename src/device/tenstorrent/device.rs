//! The device `tenstorrent`: programs are lowered, loaded, warmed up, captured as traces and replayed.
//!
//! A trace's own temporaries lie wherever memory was free while it was captured, and every replay writes there. So traces
//! are captured when everything that must last (weights, inputs of all programs) has its place: at the first run after the
//! last compilation. What a program leaves for another is made by its trace, and is good until another program is run that
//! leaves the same kind of thing.
//!
//! Inputs are written on one queue and traces run on the other, ordered by events: a trace waits for all that was written before it
//! was started, and what is written while it runs waits for its end. Nobody waits before [`Device::wait`]. Nothing but inputs and
//! outputs crosses.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tt_metal_sys::{Description, Event, Memory as SysMemory, Options, Runtime, Session, Tensor as Handle};

use super::card::Card;
use super::error::TenstorrentError;
use super::load::Store;
use super::loaded::{Loaded, OutputSource, RUNS, WRITES};
use super::lower::{Residents, lower};
use super::precision::Precisions;
use super::program::{CallEvidence, Program};
use crate::device::{Account, Device, DeviceError, Peak, ProgramId, Progress, StepTime, loading};
use crate::graph::{Graph, GraphError, HostTensor, HostView, Weights};

/// What parameters can change about how a model runs on a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    pub precisions: Precisions,
    /// DRAM that is set aside for traces. The ten denoising steps take about 32 MB on a P150.
    pub trace_region_bytes: u64,
    /// L1 of each core that an activation may take, instead of the card's own.
    pub l1_activation_bytes: Option<usize>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { precisions: Precisions::default(), trace_region_bytes: 512 << 20, l1_activation_bytes: None }
    }
}

/// How a card is opened and used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TenstorrentOptions {
    /// `None`: whatever card is there.
    pub card: Option<Card>,
    /// The interpreter that has ttnn; `None`: see `tt_metal_sys::Options`.
    pub python: Option<PathBuf>,
    pub tuning: Tuning,
    /// The card must be a mock, which computes nothing; otherwise it must be a real one.
    pub mock: bool,
    /// Has the library write down what it does in each warm-up; see [`TenstorrentDevice::evidence`].
    pub evidence: bool,
}

pub struct TenstorrentDevice {
    store: Store,
    description: Description,
    options: TenstorrentOptions,
    /// How the values lie that programs leave for each other.
    residents: Residents,
    programs: Vec<Loaded>,
    /// Runs that were started and not yet waited for, in order.
    started: Vec<Run>,
    /// Every program has its trace.
    captured: bool,
}

/// A run that was started.
struct Run {
    program: ProgramId,
    began: Instant,
    ended: Event,
}

impl TenstorrentDevice {
    /// Opens the card.
    pub fn open(options: TenstorrentOptions) -> Result<Self, TenstorrentError> {
        if options.mock && std::env::var_os("TT_METAL_MOCK_CLUSTER_DESC_PATH").is_none() {
            return Err(TenstorrentError::NoMock);
        }
        let sys = Options {
            python: options.python.clone(),
            trace_region_bytes: options.tuning.trace_region_bytes,
            ..Options::default()
        };
        let session = Session::open(&sys).map_err(|error| TenstorrentError::open(&error))?;
        let description = session.with(Runtime::describe).map_err(|error| TenstorrentError::open(&error))?;
        match (description.mock, options.mock) {
            (true, false) => return Err(TenstorrentError::Mock),
            (false, true) => return Err(TenstorrentError::NoMock),
            _ => {}
        }
        let found = Card::ALL.into_iter().find(|card| card.architecture == description.architecture);
        let mut card = match (options.card, found) {
            (Some(asked), _) if asked.architecture == description.architecture => asked,
            (Some(asked), _) => {
                return Err(TenstorrentError::OtherCard {
                    asked: asked.name,
                    expected: asked.architecture,
                    found: description.architecture,
                });
            }
            (None, Some(card)) => card,
            (None, None) => return Err(TenstorrentError::UnknownCard(description.architecture)),
        };
        // The card's own word: a chip may have fewer cores than its kind.
        card.grid = [description.grid.0 as usize, description.grid.1 as usize];
        if let Some(bytes) = options.tuning.l1_activation_bytes {
            card.l1_activation_bytes_per_core = bytes;
        }
        Ok(Self {
            store: Store::new(session, card, description.mock),
            description,
            options,
            residents: Residents::new(),
            programs: Vec::new(),
            started: Vec::new(),
            captured: false,
        })
    }

    pub fn card(&self) -> &Card {
        &self.store.card
    }

    /// The lowered program.
    pub fn program(&self, program: ProgramId) -> Result<&Program, DeviceError> {
        Ok(&self.loaded(program)?.program)
    }

    /// What the library itself wrote down while it ran the program's calls once, call by call; empty without
    /// [`TenstorrentOptions::evidence`].
    pub fn evidence(&self, program: ProgramId) -> Result<&[CallEvidence], DeviceError> {
        Ok(&self.loaded(program)?.evidence)
    }

    /// Bytes of DRAM in use, and of the trace region.
    pub fn memory_in_use(&self) -> Result<[u64; 2], TenstorrentError> {
        self.store.session.with(|runtime| {
            let used = |view: tt_metal_sys::MemoryView| view.banks * view.allocated_per_bank;
            let failed = |error| TenstorrentError::runtime("memory statistics", &error);
            Ok([
                used(runtime.memory(SysMemory::Dram).map_err(failed)?),
                used(runtime.trace_memory().map_err(failed)?),
            ])
        })
    }

    fn loaded(&self, program: ProgramId) -> Result<&Loaded, DeviceError> {
        self.programs.get(program.0).ok_or(DeviceError::NoProgram(program.0))
    }

    /// Captures a trace of every program, if that was not done since the last compilation.
    fn capture(&mut self) -> Result<(), TenstorrentError> {
        if self.captured {
            return Ok(());
        }
        let Self { store: Store { session, card, residents, .. }, programs, .. } = self;
        session.with(|runtime| {
            for loaded in programs.iter_mut() {
                capture(runtime, card, loaded, residents)?;
            }
            Ok(())
        })?;
        self.captured = true;
        Ok(())
    }

    /// Lets go of all traces: new tensors need places that no replay writes to. What programs left for each other stays,
    /// for the next program's warm-up.
    fn release(&mut self) -> Result<(), TenstorrentError> {
        self.captured = false;
        let Self { store, programs, .. } = self;
        store.session.with(|runtime| {
            let failed = |error| TenstorrentError::runtime("releasing a trace", &error);
            for loaded in programs.iter_mut() {
                if let Some(trace) = loaded.trace.take() {
                    runtime.release(trace).map_err(failed)?;
                }
                for output in &mut loaded.outputs {
                    if let OutputSource::Card { tensor, .. } = &mut output.source
                        && let Some(tensor) = tensor.take()
                    {
                        runtime.free(tensor).map_err(failed)?;
                    }
                }
            }
            Ok(())
        })
    }
}

impl Device for TenstorrentDevice {
    fn describe(&self) -> String {
        let [x, y] = self.store.card.grid;
        let mock = if self.description.mock { ", a mock" } else { "" };
        format!(
            "tenstorrent {} ({}, {x} x {y} cores, ttnn {}{mock})",
            self.store.card.name, self.description.architecture, self.description.ttnn_version
        )
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
        self.release()?;
        let program = lower(graph, &self.store.card, self.options.tuning.precisions, &mut self.residents)?;
        let missing = program.tensors.iter().map(|tensor| self.store.missing_bytes(tensor)).sum();
        let load = || self.store.load(program, graph, weights, progress);
        let mut loaded = loading(progress, graph, missing, load)?;
        self.store.warm_up(&mut loaded, self.options.evidence)?;
        tracing::info!("lowered {}: {} calls of TTNN", graph.name, loaded.program.calls.len());
        self.programs.push(loaded);
        // A cycle starts two.
        self.started.reserve(self.programs.len().max(2));
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn write(&mut self, program: ProgramId, input: &str, data: HostView) -> Result<(), DeviceError> {
        let loaded = self.programs.get_mut(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        let found = loaded.inputs.iter_mut().find(|slot| slot.placed.name == input);
        let slot = found.ok_or_else(|| DeviceError::NoSlot { kind: "input", name: input.into() })?;
        slot.stage(data)?;
        let running = self.started.iter().rfind(|run| run.program == program);
        self.store
            .session
            .with(|runtime| {
                if let Some(run) = running {
                    runtime.wait_for_event(WRITES, run.ended)?;
                }
                runtime.write(slot.tensor, slot.staging.data(), WRITES)
            })
            .map_err(|error| TenstorrentError::runtime(&format!("writing input '{input}'"), &error))?;
        Ok(())
    }

    fn start(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        self.capture()?;
        let loaded = self.loaded(program)?;
        let Some(trace) = loaded.trace else { return Err(DeviceError::NoProgram(program.0)) };
        let failed =
            |error| TenstorrentError::runtime(&format!("starting '{}'", loaded.program.name), &error);
        let start = |runtime: &mut Runtime| {
            let written = runtime.record_event(WRITES)?;
            runtime.wait_for_event(RUNS, written)?;
            runtime.replay(trace, RUNS, false)?;
            runtime.record_event(RUNS)
        };
        let began = Instant::now();
        let ended = self.store.session.with(start).map_err(failed)?;
        self.started.push(Run { program, began, ended });
        Ok(())
    }

    /// Waits for one after another, which keeps the card waiting for nobody: so each has its time, and its error.
    fn wait(&mut self) -> Result<(), DeviceError> {
        let mut last_end = None;
        for Run { program, began, ended } in self.started.drain(..) {
            let Some(loaded) = self.programs.get_mut(program.0) else { continue };
            let failed =
                |error| TenstorrentError::runtime(&format!("running '{}'", loaded.program.name), &error);
            self.store.session.with(|runtime| runtime.wait_until(ended)).map_err(failed)?;
            let end = Instant::now();
            loaded.time = end - last_end.map_or(began, |last: Instant| last.max(began));
            last_end = Some(end);
        }
        Ok(())
    }

    fn time(&self, program: ProgramId) -> Duration {
        self.programs.get(program.0).map_or(Duration::ZERO, |loaded| loaded.time)
    }

    /// Calls the operations one by one and waits after each: slower than the trace by the starts, which are in these times.
    fn profile(&mut self, program: ProgramId) -> Result<Vec<StepTime>, DeviceError> {
        self.wait()?;
        self.capture()?;
        let Store { session, card, residents, .. } = &mut self.store;
        let loaded = self.programs.get(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        let times = session.with(|runtime| {
            let mut times = Vec::with_capacity(loaded.program.calls.len());
            let mut start = Instant::now();
            let made = loaded.call_all(runtime, card, residents, |runtime, call| {
                runtime
                    .synchronize()
                    .map_err(|error| TenstorrentError::call(card, call.operation, &call.node, &error))?;
                times.push(StepTime {
                    node: call.node.clone(),
                    kernel: call.operation,
                    time: start.elapsed(),
                });
                start = Instant::now();
                Ok(())
            })?;
            for tensor in made.into_values() {
                runtime
                    .free(tensor)
                    .map_err(|error| TenstorrentError::runtime("freeing a result", &error))?;
            }
            Ok::<_, TenstorrentError>(times)
        })?;
        Ok(times)
    }

    fn account(&self, program: ProgramId) -> Result<Account, DeviceError> {
        let loaded = self.loaded(program)?;
        Ok(loaded.program.account(self.store.card.name.into(), &loaded.evidence))
    }

    /// The vendor's figures.
    fn peak(&mut self) -> Option<Peak> {
        Some(Peak { flops: self.store.card.flops, bytes: self.store.card.dram_bytes_per_s })
    }

    fn read(&mut self, program: ProgramId, output: &str, out: &mut HostTensor) -> Result<(), DeviceError> {
        self.capture()?;
        let loaded = self.programs.get_mut(program.0).ok_or(DeviceError::NoProgram(program.0))?;
        let found = loaded.outputs.iter_mut().find(|slot| slot.name == output);
        let slot = found.ok_or_else(|| DeviceError::NoSlot { kind: "output", name: output.into() })?;
        if let OutputSource::Card { tensor: Some(tensor), values, .. } = &mut slot.source {
            let tensor = *tensor;
            self.store
                .session
                .with(|runtime| runtime.read(tensor, values, RUNS))
                .map_err(|error| TenstorrentError::runtime(&format!("reading output '{output}'"), &error))?;
        }
        slot.copy(out)
    }
}

/// Captures a program's trace. What it leaves replaces what its warm-up left.
fn capture(
    runtime: &mut Runtime,
    card: &Card,
    loaded: &mut Loaded,
    residents: &mut HashMap<String, Handle>,
) -> Result<(), TenstorrentError> {
    let name = loaded.program.name.clone();
    let failed = |error: tt_metal_sys::Error| TenstorrentError::trace(&name, &error);
    for (name, _) in &loaded.program.residents {
        if let Some(old) = residents.remove(name) {
            runtime.free(old).map_err(failed)?;
        }
    }
    let before = runtime.program_cache_entries().map_err(failed)?;
    let capture = runtime.begin_trace(RUNS).map_err(failed)?;
    let made = loaded.call_all(runtime, card, residents, |_, _| Ok(()))?;
    loaded.trace = Some(runtime.end_trace(capture).map_err(failed)?);
    let new = runtime.program_cache_entries().map_err(failed)? - before;
    if new > 0 {
        return Err(TenstorrentError::ColdCapture { program: name, new });
    }
    for (name, id) in &loaded.program.residents {
        if let Some(&tensor) = made.get(id) {
            residents.insert(name.clone(), tensor);
        }
    }
    for output in &mut loaded.outputs {
        if let OutputSource::Card { placed, tensor, .. } = &mut output.source {
            *tensor = made.get(&placed.tensor).copied();
        }
    }
    Ok(())
}
