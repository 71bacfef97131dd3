//! A compiled graph: buffers at fixed addresses and the steps over them. Made by `compile`, run by the device.

use std::convert::Infallible;
use std::time::Instant;

use super::kernels::Step;
use super::layout::Memory;
use super::memory::{Matrix, Words};
use super::pool::Pool;
use crate::device::sections::Sections;
use crate::device::{DeviceError, SectionTime, StepTime, slot};
use crate::graph::{HostTensor, HostView, TensorType};

pub(super) struct Program {
    pub steps: Vec<NamedStep>,
    pub sections: Sections,
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Slot>,
    /// Working memory, one part per thread.
    pub scratch: Vec<Words>,
    /// Owns what the steps' and slots' matrices point to.
    pub memory: Memory,
}

/// A step, and the node that it computes.
pub(super) struct NamedStep {
    pub node: String,
    pub step: Box<dyn Step>,
}

/// Runs steps one after another, each on all threads.
pub(super) fn run_steps(steps: &[NamedStep], scratch: &[Words], pool: &mut Pool) {
    steps.iter().for_each(|NamedStep { step, .. }| run_step(&**step, scratch, pool));
}

fn run_step(step: &dyn Step, scratch: &[Words], pool: &mut Pool) {
    let scratch = Scratch(scratch);
    pool.run(step.tasks(), &|task, thread| {
        // SAFETY: the buffers belong to a program that is borrowed exclusively, or to the device, which runs one program
        // at a time; steps run one after another, and each task of a step once.
        unsafe { step.run(task, scratch.of(thread)) }
    });
}

/// Where the host writes or reads a value.
pub(super) struct Slot {
    pub name: String,
    pub ty: TensorType,
    pub matrix: Matrix,
    /// Integers must be below this: they are looked up in a table of so many rows.
    pub below: Option<i32>,
}

/// Scratch as the pool's tasks see it.
struct Scratch<'a>(&'a [Words]);

// SAFETY: every thread uses the part with its own number only.
unsafe impl Sync for Scratch<'_> {}

impl Scratch<'_> {
    fn of(&self, thread: usize) -> *mut f32 {
        self.0[thread].as_ptr()
    }
}

impl Program {
    /// What was compiled, for the log.
    pub fn describe(&self) -> String {
        format!("{} steps, {:.1} MB of buffers", self.steps.len(), self.memory.bytes() as f64 / 1e6)
    }

    /// Runs every step, and times the sections.
    pub fn run(&mut self, pool: &mut Pool) {
        let Self { steps, sections, scratch, .. } = self;
        let mut start = Instant::now();
        let Ok(()) = sections.measure(|stretch| {
            run_steps(&steps[stretch], scratch, pool);
            let end = Instant::now();
            let took = end - start;
            start = end;
            Ok::<_, Infallible>(took)
        });
    }

    /// How long each section took in the last run.
    pub fn sections(&self) -> &[SectionTime] {
        self.sections.times()
    }

    /// Runs every step and says how long each took.
    pub fn profile(&mut self, pool: &mut Pool) -> Vec<StepTime> {
        let mut times = Vec::with_capacity(self.steps.len());
        for NamedStep { node, step } in &self.steps {
            let start = Instant::now();
            run_step(&**step, &self.scratch, pool);
            times.push(StepTime { node: node.clone(), kernel: step.name(), time: start.elapsed() });
        }
        times
    }

    pub fn write(&mut self, name: &str, data: HostView) -> Result<(), DeviceError> {
        let slot = find(&self.inputs, "input", name)?;
        slot::check(&slot.name, &slot.ty, slot.below, data)?;
        // SAFETY: inputs are whole pinned buffers of this program, which is borrowed exclusively.
        unsafe {
            match data {
                HostView::F32(values) => {
                    let words = std::slice::from_raw_parts_mut(slot.matrix.data, values.len());
                    words.copy_from_slice(values);
                }
                HostView::I32(values) => slot.matrix.integers_mut().copy_from_slice(values),
                HostView::Bool(values) => {
                    for (word, &value) in slot.matrix.integers_mut().iter_mut().zip(values) {
                        *word = i32::from(value);
                    }
                }
            }
        }
        Ok(())
    }

    pub fn read(&self, name: &str, out: &mut HostTensor) -> Result<(), DeviceError> {
        let slot = find(&self.outputs, "output", name)?;
        slot::check(&slot.name, &slot.ty, None, out.view())?;
        let columns = slot.matrix.cols;
        for row in 0..slot.matrix.rows {
            let range = row * columns..(row + 1) * columns;
            // SAFETY: outputs are pinned, and no step runs while the host reads.
            let words = unsafe { slot.matrix.row(row) };
            match out {
                HostTensor::F32(out) => out[range].copy_from_slice(words),
                HostTensor::I32(out) => {
                    out[range].iter_mut().zip(words).for_each(|(out, word)| *out = word.to_bits() as i32);
                }
                HostTensor::Bool(out) => {
                    out[range].iter_mut().zip(words).for_each(|(out, word)| *out = word.to_bits() != 0);
                }
            }
        }
        Ok(())
    }
}

fn find<'a>(slots: &'a [Slot], kind: &'static str, name: &str) -> Result<&'a Slot, DeviceError> {
    slots.iter().find(|slot| slot.name == name).ok_or_else(|| DeviceError::NoSlot { kind, name: name.into() })
}
