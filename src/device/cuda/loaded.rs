//! A program on the GPU: where its buffers are, the pinned memory through which the host writes and reads, its captured graph and
//! what a run of it leaves to be asked for. Made by `load`, captured and started by `device`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::driver::event::{Event, Stream};
use super::driver::gpu::{Gpu, Memory, Pinned, Replay};
use super::error::CudaError;
use super::program::{self, Call, Origin, Program, View};
use crate::device::sections::Sections;
use crate::device::{DeviceError, SectionTime, slot};
use crate::graph::{HostTensor, HostView, TensorType};

/// A program whose buffers are on the GPU.
pub(super) struct Loaded {
    pub program: Program,
    /// Addresses of buffers that have their own, by number; 0 for those in the working memory.
    pub addresses: Vec<u64>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    pub run: Run,
    /// None as long as buffers may still move.
    pub captured: Option<Captured>,
}

/// What the host writes.
pub(super) struct Input {
    pub slot: program::Input,
    pub memory: Memory,
    pub pinned: Pinned,
    /// What is pinned has been copied.
    pub copied: Event,
}

impl Input {
    /// Puts `data` into pinned memory, whose last copy is waited for, and copies it when `copies` comes to it.
    pub fn write(&mut self, data: HostView, copies: Stream) -> Result<(), DeviceError> {
        slot::check(&self.slot.name, &self.slot.ty, self.slot.below, data)?;
        self.copied.wait()?;
        let bytes = self.pinned.bytes_mut();
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
        self.memory.write_later(&self.pinned, copies)?;
        Ok(self.copied.record(copies)?)
    }
}

/// What the host reads.
pub(super) struct Output {
    pub name: String,
    pub ty: TensorType,
    pub source: OutputSource,
}

pub(super) enum OutputSource {
    Buffer(Memory, Pinned),
    /// Known when the graph was built.
    Known(HostTensor),
}

impl Output {
    /// Copies what the last run left in pinned memory into `out`.
    pub fn read(&self, out: &mut HostTensor) -> Result<(), DeviceError> {
        slot::check(&self.name, &self.ty, None, out.view())?;
        let pinned = match &self.source {
            OutputSource::Known(known) => {
                out.clone_from(known);
                return Ok(());
            }
            OutputSource::Buffer(_, pinned) => pinned.bytes(),
        };
        let words = pinned.as_chunks::<4>().0.iter();
        match out {
            HostTensor::F32(out) => {
                out.iter_mut().zip(words).for_each(|(out, &bytes)| *out = f32::from_le_bytes(bytes));
            }
            HostTensor::I32(out) => {
                out.iter_mut().zip(words).for_each(|(out, &bytes)| *out = i32::from_le_bytes(bytes));
            }
            HostTensor::Bool(out) => {
                out.iter_mut().zip(pinned).for_each(|(out, &byte)| *out = byte != 0);
            }
        }
        Ok(())
    }
}

/// What is to be known of a program's last run.
pub(super) struct Run {
    begun: Event,
    /// It reads its inputs no more.
    pub ended: Event,
    /// A byte of the GPU that is not 0, copied into pinned memory at the end of each run: after a fault, when events say nothing any
    /// more, it says whether the run had ended.
    mark: (Memory, Pinned),
    /// How long the last one took that was waited for.
    pub time: Duration,
}

impl Run {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        let mark = (gpu.allocate("a mark", 1)?, gpu.pin(1)?);
        mark.0.write(0, &[1])?;
        Ok(Self { begun: Event::new(gpu)?, ended: Event::new(gpu)?, mark, time: Duration::ZERO })
    }

    /// Whether the run that was started last has ended, once it was waited for.
    pub fn has_ended(&self) -> bool {
        self.mark.1.bytes() != [0]
    }

    /// Asks how long it took.
    pub fn measure(&mut self) -> Result<(), CudaError> {
        self.time = self.ended.since(&self.begun)?;
        Ok(())
    }
}

/// A captured graph.
pub(super) struct Captured {
    pub replay: Replay,
    /// Transfers within it.
    pub transfers: usize,
    sections: Sections,
    /// Where its first stretch begins, and where each ends.
    events: Vec<Event>,
}

impl Captured {
    /// What `start` starts of the calls, with an event between stretches of different sections.
    pub fn of(
        gpu: &Arc<Gpu>,
        program: &Program,
        start: impl Fn(&Call) -> Result<(), CudaError>,
    ) -> Result<Self, CudaError> {
        let sections = Sections::of(program.calls.iter().map(|call| &call.node[..]));
        let stretches: Vec<Range<usize>> = sections.stretches().collect();
        let events = (0..=stretches.len()).map(|_| Event::new(gpu)).collect::<Result<Vec<_>, _>>()?;
        let (replay, transfers) = gpu.capture(|| {
            events[0].record_in_graph(gpu.runs)?;
            stretches.into_iter().zip(&events[1..]).try_for_each(|(stretch, end)| {
                program.calls[stretch].iter().try_for_each(&start)?;
                end.record_in_graph(gpu.runs)
            })
        })?;
        Ok(Self { replay, transfers, sections, events })
    }

    /// How long each section of the last run took. They are for people to look at: a driver that does not know costs nothing else.
    fn sections(&mut self) -> &[SectionTime] {
        let mut between = self.events.windows(2);
        let measured = self.sections.measure(|_| match between.next() {
            Some([begin, end]) => end.since(begin),
            _ => Ok(Duration::ZERO),
        });
        if measured.is_ok() { self.sections.times() } else { &[] }
    }
}

impl Loaded {
    /// Where a view's first element is, when working memory begins at `work`.
    pub fn address(&self, work: u64) -> impl Fn(&View) -> u64 + '_ {
        move |view| {
            let start = match self.program.buffer(view.buffer).origin {
                Origin::Work { place } => work + place as u64,
                _ => self.addresses[view.buffer.0 as usize],
            };
            start + (view.offset * view.element.bytes()) as u64
        }
    }

    /// Starts the captured graph and the copies of its outputs into pinned memory.
    pub fn start(&mut self, runs: Stream) -> Result<(), CudaError> {
        let Self { outputs, run, captured, .. } = self;
        let Some(Captured { replay, .. }) = captured else { return Ok(()) };
        run.mark.1.bytes_mut().fill(0);
        run.begun.record(runs)?;
        replay.start()?;
        run.ended.record(runs)?;
        for output in outputs {
            if let OutputSource::Buffer(memory, pinned) = &mut output.source {
                memory.read_later(pinned, runs)?;
            }
        }
        run.mark.0.read_later(&mut run.mark.1, runs)
    }

    pub fn sections(&mut self) -> &[SectionTime] {
        match &mut self.captured {
            Some(captured) if self.run.time > Duration::ZERO => captured.sections(),
            _ => &[],
        }
    }
}
