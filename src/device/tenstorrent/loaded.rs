//! A program on the card: its tensors that stay, its trace, and the buffers through which the host writes and reads.
//! Called by `device`, on the thread that owns the card.

use std::collections::HashMap;
use std::time::Duration;

use half::bf16;
use tt_metal_sys::{HostData, Runtime, Tensor as Handle, Trace};

use super::card::Card;
use super::error::TenstorrentError;
use super::program::{Call, CallEvidence, Program, Result as Placed, TensorId};
use crate::device::{DeviceError, slot};
use crate::graph::{HostTensor, HostView, TensorType};

/// The queue on which programs run, and the one on which inputs are written.
pub(super) const RUNS: u8 = 0;
pub(super) const WRITES: u8 = 1;

/// A program whose weights and inputs are on the card.
pub(super) struct Loaded {
    pub program: Program,
    /// Inputs and contents, which stay where they are.
    pub fixed: HashMap<TensorId, Handle>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    pub trace: Option<Trace>,
    /// How long the last run took that was waited for.
    pub time: Duration,
    /// What the library wrote down in the warm-up, for each call; empty if it was not asked to.
    pub evidence: Vec<CallEvidence>,
}

/// What the host writes: elements in their places, in the card's type.
pub(super) struct Input {
    pub placed: Placed,
    pub ty: TensorType,
    pub tensor: Handle,
    pub staging: Staging,
    /// Integers must be below this: they are looked up in a table of so many rows.
    pub below: Option<i32>,
}

pub(super) enum Staging {
    Float(Vec<f32>),
    Half(Vec<u16>),
    Whole(Vec<u32>),
}

impl Staging {
    pub fn data(&self) -> HostData<'_> {
        match self {
            Staging::Float(values) => HostData::Float32(values),
            Staging::Half(values) => HostData::Bfloat16(values),
            Staging::Whole(values) => HostData::Uint32(values),
        }
    }
}

/// What the host reads.
pub(super) struct Output {
    pub name: String,
    pub ty: TensorType,
    pub source: OutputSource,
}

pub(super) enum OutputSource {
    /// A tensor of the card, once a trace was captured that makes it.
    Card { placed: Placed, tensor: Option<Handle>, values: Vec<f32> },
    /// Known when the graph was built.
    Known(HostTensor),
}

impl Input {
    /// Puts `data` into the buffer that is sent.
    pub fn stage(&mut self, data: HostView) -> Result<(), DeviceError> {
        slot::check(&self.placed.name, &self.ty, self.below, data)?;
        let Placed { rows, columns, .. } = &self.placed;
        let (width, stride) = (columns.logical, columns.physical);
        let each = |put: &mut dyn FnMut(usize, usize)| {
            for line in 0..rows.logical {
                let start = rows.place(line) * stride;
                for column in 0..width {
                    put(start + columns.place(column), line * width + column);
                }
            }
        };
        match (&mut self.staging, data) {
            (Staging::Float(out), HostView::F32(values)) => each(&mut |to, from| out[to] = values[from]),
            // An image: no line is moved, so that this is one conversion of one list.
            (Staging::Half(out), HostView::F32(values)) if rows.is_exact() && columns.is_exact() => {
                out.iter_mut().zip(values).for_each(|(out, &value)| *out = bf16::from_f32(value).to_bits());
            }
            (Staging::Half(out), HostView::F32(values)) => {
                each(&mut |to, from| out[to] = bf16::from_f32(values[from]).to_bits());
            }
            (Staging::Half(out), HostView::Bool(values)) => {
                each(&mut |to, from| out[to] = bf16::from_f32(f32::from(u8::from(values[from]))).to_bits());
            }
            (Staging::Whole(out), HostView::I32(values)) => {
                // Not negative: checked above.
                each(&mut |to, from| out[to] = values[from].unsigned_abs());
            }
            _ => return Err(self.wrong_type(data)),
        }
        Ok(())
    }

    fn wrong_type(&self, data: HostView) -> DeviceError {
        DeviceError::SlotType {
            name: self.placed.name.clone(),
            expected: self.ty.dtype,
            expected_elements: self.ty.elements(),
            found: data.dtype(),
            elements: data.elements(),
        }
    }
}

impl Output {
    /// Copies what was read into `out`, in the value's own order.
    pub fn copy(&self, out: &mut HostTensor) -> Result<(), DeviceError> {
        slot::check(&self.name, &self.ty, None, out.view())?;
        let (placed, values) = match &self.source {
            OutputSource::Card { placed, values, .. } => (placed, values),
            OutputSource::Known(known) => {
                out.clone_from(known);
                return Ok(());
            }
        };
        let Placed { rows, columns, .. } = placed;
        for line in 0..rows.logical {
            let start = rows.place(line) * columns.physical;
            for column in 0..columns.logical {
                let (value, to) = (values[start + columns.place(column)], line * columns.logical + column);
                match out {
                    HostTensor::F32(out) => out[to] = value,
                    HostTensor::I32(out) => out[to] = value as i32,
                    HostTensor::Bool(out) => out[to] = value != 0.0,
                }
            }
        }
        Ok(())
    }
}

impl Loaded {
    /// Makes every call once, in order, freeing what nobody reads any more. Gives what stays: outputs and residents.
    pub fn call_all(
        &self,
        runtime: &mut Runtime,
        card: &Card,
        residents: &HashMap<String, Handle>,
        mut after: impl FnMut(&mut Runtime, &Call) -> Result<(), TenstorrentError>,
    ) -> Result<HashMap<TensorId, Handle>, TenstorrentError> {
        let mut handles = self.fixed.clone();
        for (id, tensor) in self.program.ids() {
            if let super::program::Origin::Resident(name) = &tensor.origin
                && let Some(&handle) = residents.get(name)
            {
                handles.insert(id, handle);
            }
        }
        let mut made = HashMap::new();
        for call in &self.program.calls {
            let failed =
                |error: &tt_metal_sys::Error| TenstorrentError::call(card, call.operation, &call.node, error);
            let number = |id: TensorId| handles.get(&id).map_or(0, |handle| handle.id());
            let arguments = call.arguments(&number).to_string();
            let results = runtime.call(call.operation, &arguments).map_err(|error| failed(&error))?;
            if results.len() != call.results.len() {
                return Err(TenstorrentError::Call {
                    operation: call.operation.into(),
                    node: call.node.clone(),
                    message: format!("{} results instead of {}", results.len(), call.results.len()),
                });
            }
            for (&id, handle) in call.results.iter().zip(results) {
                handles.insert(id, handle);
                made.insert(id, handle);
            }
            after(runtime, call)?;
            for id in &call.last_uses {
                if let Some(handle) = made.remove(id) {
                    handles.remove(id);
                    runtime.free(handle).map_err(|error| failed(&error))?;
                }
            }
        }
        Ok(made)
    }
}
