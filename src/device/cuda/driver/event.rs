//! Streams, which do what they are given in order and beside each other, and events, by which one waits for another, the host waits
//! for either, and time is taken. Called by `gpu`, `blas` and `device`.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{result, sys};

use super::super::error::CudaError;
use super::gpu::Gpu;

/// A stream of a GPU, which owns it.
#[derive(Clone, Copy)]
pub struct Stream(pub(super) sys::CUstream);

// SAFETY: a handle that any thread may use.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver locks what it must.
unsafe impl Sync for Stream {}

impl Stream {
    /// One that waits for no other by itself.
    pub fn new() -> Result<Self, CudaError> {
        let made = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Self(made.map_err(|error| CudaError::call("making a stream", error))?))
    }

    /// What it is given from now on waits until `event` is reached, as it was recorded last; nothing where it never was.
    pub fn wait_for(self, event: &Event) -> Result<(), CudaError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: a stream and an event of the same GPU.
        unsafe { result::stream::wait_event(self.0, event.event, flags) }
            .map_err(|error| CudaError::call("waiting for an event", error))
    }
}

/// A point in a stream.
pub struct Event {
    gpu: Arc<Gpu>,
    event: sys::CUevent,
}

// SAFETY: a handle that any thread may use.
unsafe impl Send for Event {}

impl Event {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        let made = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = made.map_err(|error| CudaError::call("making an event", error))?;
        Ok(Self { gpu: gpu.clone(), event })
    }

    /// Stands behind what `stream` was given so far.
    pub fn record(&self, stream: Stream) -> Result<(), CudaError> {
        // SAFETY: an event and a stream of the same GPU.
        unsafe { result::event::record(self.event, stream.0) }
            .map_err(|error| CudaError::call("recording an event", error))
    }

    /// The same in a stream that is being captured: each start of the graph records it anew, for whoever asks from outside.
    pub fn record_in_graph(&self, stream: Stream) -> Result<(), CudaError> {
        let external = sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: as above.
        unsafe { sys::cuEventRecordWithFlags(self.event, stream.0, external).result() }
            .map_err(|error| CudaError::call("recording an event in a graph", error))
    }

    /// Waits until it is reached, as it was recorded last; not at all where it never was.
    pub fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: an event that lives.
        unsafe { result::event::synchronize(self.event) }
            .map_err(|error| CudaError::call("waiting for an event", error))
    }

    /// Time on the GPU from another event until this one, both of which must have been reached.
    pub fn since(&self, start: &Self) -> Result<Duration, CudaError> {
        // SAFETY: events that live.
        let ms = unsafe { result::event::elapsed(start.event, self.event) };
        let ms = ms.map_err(|error| CudaError::call("timing", error))?;
        Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.gpu.make_current();
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}
