//! A GPU: its context, two streams, memory there and pinned memory here, kernels, CUDA graphs. Each method is a call of the driver
//! with its error; a value that owns something gives it back.

use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{result, sys};

use super::super::error::CudaError;
use super::super::program::{Argument, Launch, View};
use super::event::{Event, Stream};

/// A GPU that is open.
pub struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Programs run here.
    pub runs: Stream,
    /// Inputs come in here, beside them.
    pub copies: Stream,
    pub name: String,
    pub capability: (i32, i32),
}

// SAFETY: the driver's handles may be used from any thread; the context is made current by whoever uses them.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver locks what it must.
unsafe impl Sync for Gpu {}

fn driver(error: result::DriverError) -> CudaError {
    CudaError::Driver(error.to_string())
}

impl Gpu {
    /// Opens GPU number `ordinal`; the driver must be loaded.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        result::init().map_err(driver)?;
        let found = result::device::get_count().map_err(driver)? as usize;
        if ordinal >= found {
            return Err(CudaError::NoGpu { asked: ordinal, found });
        }
        let device = result::device::get(ordinal as c_int).map_err(driver)?;
        let name = result::device::get_name(device).map_err(driver)?;
        use sys::CUdevice_attribute as Attribute;
        // SAFETY: a device that the driver has just named.
        let attribute =
            |attribute| unsafe { result::device::get_attribute(device, attribute) }.map_err(driver);
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 8 {
            return Err(CudaError::TooOld { name, major, minor });
        }
        // SAFETY: as above; what is retained is released by `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(driver)?;
        let none = Stream(std::ptr::null_mut());
        let mut gpu = Self { device, context, runs: none, copies: none, name, capability: (major, minor) };
        gpu.make_current()?;
        (gpu.runs, gpu.copies) = (Stream::new()?, Stream::new()?);
        Ok(gpu)
    }

    /// Every call of the driver is about this GPU from now on, on this thread.
    pub fn make_current(&self) -> Result<(), CudaError> {
        // SAFETY: a context that is retained.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver)
    }

    /// Free memory, in bytes.
    pub fn free(&self) -> Result<usize, CudaError> {
        Ok(result::mem_get_info().map_err(|error| CudaError::call("asking for free memory", error))?.0)
    }

    /// Memory that nobody has written to.
    pub fn allocate(self: &Arc<Self>, what: &str, bytes: usize) -> Result<Memory, CudaError> {
        // SAFETY: freed by `Memory`.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(Memory { gpu: self.clone(), address, bytes }),
            Err(error) if error.0 == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(CudaError::Memory {
                    name: self.name.clone(),
                    what: what.into(),
                    free: self.free().unwrap_or(0),
                    needed: bytes,
                })
            }
            Err(error) => Err(CudaError::call(format!("memory for {what}"), error)),
        }
    }

    /// Memory of the host that the GPU reads and writes by itself.
    pub fn pin(self: &Arc<Self>, bytes: usize) -> Result<Pinned, CudaError> {
        // SAFETY: freed by `Pinned`.
        let address = unsafe { result::malloc_host(bytes.max(1), 0) };
        let address = address.map_err(|error| CudaError::call("pinned memory", error))?.cast::<u8>();
        // SAFETY: as long as was asked for.
        unsafe { address.write_bytes(0, bytes.max(1)) };
        Ok(Pinned { gpu: self.clone(), address, bytes })
    }

    /// Waits for every program that was started.
    pub fn wait(&self, what: &str) -> Result<(), CudaError> {
        // SAFETY: a stream of this GPU.
        unsafe { result::stream::synchronize(self.runs.0) }.map_err(|error| CudaError::call(what, error))
    }

    /// Waits for everything that it was given.
    pub fn finish(&self, what: &str) -> Result<(), CudaError> {
        result::ctx::synchronize().map_err(|error| CudaError::call(what, error))
    }

    /// Loads a binary with kernels.
    pub fn module(self: &Arc<Self>, binary: &[u8]) -> Result<Module, CudaError> {
        // SAFETY: a whole binary as NVRTC made it.
        let module = unsafe { result::module::load_data(binary.as_ptr().cast()) };
        let module = module.map_err(|error| CudaError::call("loading kernels", error))?;
        Ok(Module { gpu: self.clone(), module })
    }

    /// Starts a kernel; `address` gives where a view's first element is.
    pub fn launch(
        &self,
        function: Function,
        launch: &Launch,
        address: impl Fn(&View) -> u64,
    ) -> Result<(), CudaError> {
        // Each in a word of its own, of which the kernel takes as much as its type has.
        let mut words: Vec<u64> = launch
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Read(view) | Argument::Write(view) => address(view),
                Argument::Nothing => 0,
                Argument::Int(value) => u64::from(*value as u32),
                Argument::Float(value) => u64::from(value.to_bits()),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let [x, y, z] = launch.grid;
        let block = (launch.threads, 1, 1);
        // SAFETY: a function of a loaded module, with the arguments that it takes: tests/cuda_lowering.rs checks them.
        unsafe {
            result::launch_kernel(
                function.0,
                (x, y, z),
                block,
                launch.shared_bytes,
                self.runs.0,
                &mut pointers,
            )
        }
        .map_err(|error| CudaError::call(format!("starting {}", launch.kernel.name()), error))
    }

    /// What `start` starts, as a graph that can be started at once; and how many of its nodes move memory.
    pub fn capture(
        self: &Arc<Self>,
        start: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(Replay, usize), CudaError> {
        let failed = |error| CudaError::call("capturing a CUDA graph", error);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: a stream of this GPU; the graph is destroyed when it has been made ready.
        unsafe {
            result::stream::begin_capture(self.runs.0, mode).map_err(failed)?;
            let started = start();
            let graph = result::stream::end_capture(self.runs.0).map_err(failed);
            started?;
            let graph = graph?;
            let transfers = transfers(graph).map_err(failed);
            let ready = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).map_err(failed);
            let _ = result::graph::destroy(graph);
            let replay = Replay { gpu: self.clone(), graph: ready? };
            result::graph::upload(replay.graph, self.runs.0).map_err(failed)?;
            Ok((replay, transfers?))
        }
    }

    /// How long what `start` starts takes on the GPU.
    pub fn time(
        self: &Arc<Self>,
        start: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<Duration, CudaError> {
        let (begin, end) = (Event::new(self)?, Event::new(self)?);
        begin.record(self.runs)?;
        start()?;
        end.record(self.runs)?;
        end.wait()?;
        end.since(&begin)
    }
}

/// Nodes of a graph that move memory, or have the host do something.
unsafe fn transfers(graph: sys::CUgraph) -> Result<usize, result::DriverError> {
    let mut count = 0;
    let mut transfers = 0;
    // SAFETY: promised by the caller; the list is as long as the driver says.
    unsafe {
        sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &raw mut count).result()?;
        let mut nodes: Vec<sys::CUgraphNode> = vec![std::ptr::null_mut(); count];
        sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &raw mut count).result()?;
        for node in nodes {
            let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            sys::cuGraphNodeGetType(node, &raw mut kind).result()?;
            use sys::CUgraphNodeType as Kind;
            transfers +=
                usize::from(matches!(kind, Kind::CU_GRAPH_NODE_TYPE_MEMCPY | Kind::CU_GRAPH_NODE_TYPE_HOST));
        }
    }
    Ok(transfers)
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: nothing uses the streams or the context any more: whatever does keeps this alive.
        unsafe {
            let current = result::ctx::set_current(self.context);
            // After some faults a context refuses everything, for the whole process, until it is reset.
            let broken = current.and_then(|()| result::ctx::synchronize()).is_err();
            for stream in [self.runs, self.copies].into_iter().filter(|stream| !stream.0.is_null()) {
                let _ = result::stream::destroy(stream.0);
            }
            let _ = result::primary_ctx::release(self.device);
            if broken {
                let _ = sys::cuDevicePrimaryCtxReset_v2(self.device);
            }
        }
    }
}

/// Memory of the GPU.
pub struct Memory {
    gpu: Arc<Gpu>,
    pub address: u64,
    bytes: usize,
}

impl Memory {
    /// Copies to `place` on, and waits.
    pub fn write(&self, place: usize, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(place + bytes.len() <= self.bytes, "{place} + {} of {}", bytes.len(), self.bytes);
        // SAFETY: within this memory.
        unsafe { result::memcpy_htod_sync(self.address + place as u64, bytes) }
            .map_err(|error| CudaError::call("writing to the GPU", error))
    }

    /// Copies what is pinned, when `stream` comes to it.
    pub fn write_later(&self, from: &Pinned, stream: Stream) -> Result<(), CudaError> {
        let bytes = from.bytes().len().min(self.bytes);
        // SAFETY: both as long as that; pinned memory stays, and is not written to, until the stream was waited for.
        unsafe { result::memcpy_htod_async(self.address, &from.bytes()[..bytes], stream.0) }
            .map_err(|error| CudaError::call("writing an input", error))
    }

    /// Copies into what is pinned, when `stream` comes to it.
    pub fn read_later(&self, to: &mut Pinned, stream: Stream) -> Result<(), CudaError> {
        let bytes = to.bytes.min(self.bytes);
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(&mut to.bytes_mut()[..bytes], self.address, stream.0) }
            .map_err(|error| CudaError::call("reading an output", error))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = self.gpu.make_current();
        // SAFETY: allocated by `Gpu::allocate`, freed once.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Pinned memory of the host.
pub struct Pinned {
    gpu: Arc<Gpu>,
    address: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as long as that, and written when it was made.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.gpu.make_current();
        // SAFETY: made by `Gpu::pin`, freed once.
        let _ = unsafe { result::free_host(self.address.cast()) };
    }
}

/// A kernel that can be started.
#[derive(Clone, Copy)]
pub struct Function(sys::CUfunction);

// SAFETY: a handle that any thread may use.
unsafe impl Send for Function {}

/// Kernels on the GPU.
pub struct Module {
    gpu: Arc<Gpu>,
    module: sys::CUmodule,
}

// SAFETY: a handle that any thread may use.
unsafe impl Send for Module {}

impl Module {
    /// The kernel of this name, with room for so much shared memory.
    pub fn function(&self, name: &str, shared_bytes: u32) -> Result<Function, CudaError> {
        let failed = |error| CudaError::call(format!("kernel {name}"), error);
        let text = CString::new(name).map_err(|error| CudaError::call(name, error))?;
        // SAFETY: a module that is loaded.
        let function = unsafe { result::module::get_function(self.module, text) }.map_err(failed)?;
        // So much every kernel may have without asking.
        if shared_bytes <= 48 << 10 {
            return Ok(Function(function));
        }
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: a function of this module.
        unsafe { result::function::set_function_attribute(function, attribute, shared_bytes as i32) }
            .map_err(failed)?;
        Ok(Function(function))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.gpu.make_current();
        // SAFETY: loaded by `Gpu::module`, unloaded once.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// A captured CUDA graph.
pub struct Replay {
    gpu: Arc<Gpu>,
    graph: sys::CUgraphExec,
}

// SAFETY: a handle that any thread may use, one at a time.
unsafe impl Send for Replay {}

impl Replay {
    pub fn start(&self) -> Result<(), CudaError> {
        // SAFETY: a graph that is ready, on a stream of its GPU.
        unsafe { result::graph::launch(self.graph, self.gpu.runs.0) }
            .map_err(|error| CudaError::call("starting a CUDA graph", error))
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.gpu.make_current();
        // SAFETY: made by `Gpu::capture`, destroyed once.
        let _ = unsafe { result::graph::exec_destroy(self.graph) };
    }
}
