//! What can be done with an open device: the crate's interface to `ttnn`, one method per call of it.
//!
//! Handed out by [`Session::with`](crate::Session::with). What an error interrupts while a trace or a graph is being
//! captured has its captures ended at once, since a process that leaves one open crashes.

use std::collections::HashMap;
use std::ffi::CStr;
use std::slice;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::host::{CAPSULE, HostView};
use crate::object::Object;
use crate::python::Python;
use crate::{
    Capture, DataType, Error, Event, HostData, Layout, Memory, Options, TTNN_VERSION, Tensor, TensorInfo,
    TensorSpec, Trace,
};

/// The device and the wheel that drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub ttnn_version: String,
    /// `blackhole` or `wormhole_b0`.
    pub architecture: String,
    /// Cores that compute, columns and rows.
    pub grid: (u32, u32),
    /// DRAM that tensors can have, over all banks.
    pub dram_bytes: u64,
    /// L1 that tensors and programs can have, in each core.
    pub l1_bytes_per_core: u64,
    /// It is a description of a card, not a card.
    pub mock: bool,
}

/// Use of one kind of memory, in bytes per bank. Interleaved tensors take the same of each bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct MemoryView {
    pub banks: u64,
    pub total_per_bank: u64,
    pub allocated_per_bank: u64,
    pub free_per_bank: u64,
    pub largest_free_per_bank: u64,
}

macro_rules! functions {
    ($($name:ident)*) => {
        /// The functions of `runtime.py`.
        struct Functions {
            $($name: Object,)*
        }

        impl Functions {
            fn of(module: &Object) -> Result<Self, Error> {
                Ok(Self {
                    $($name: module.attribute(const { c_string(concat!(stringify!($name), "\0")) })?,)*
                })
            }
        }
    };
}

functions! {
    begin close describe synchronize memory program_cache_entries
    upload allocate write read free spec_of
    call
    begin_trace end_trace replay release record_event wait_for_event
    begin_graph_capture end_graph_capture peak_l1 abandon_captures
}

/// The module that the functions are of.
pub(crate) const SOURCE: &CStr = c_string(concat!(include_str!("runtime.py"), "\0"));

const fn c_string(text: &str) -> &CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        // While compiling.
        Err(_) => panic!("a zero at the end, and no other"),
    }
}

/// The open device, on its own thread.
pub struct Runtime {
    python: &'static Python,
    functions: Functions,
    host: Box<HostView>,
    /// Of tensors that were written or read before.
    specs: HashMap<Tensor, TensorSpec>,
    /// Something may be being captured.
    capturing: bool,
}

/// The device's life.
impl Runtime {
    pub(crate) fn open(python: &'static Python, module: &Object, options: &Options) -> Result<Self, Error> {
        let functions = Functions::of(module)?;
        let runtime =
            Self { python, functions, host: HostView::new(), specs: HashMap::new(), capturing: false };
        runtime.functions.begin.call([
            python.function(&CAPSULE),
            python.integer(options.device.into()),
            python.integer(options.command_queues.into()),
            python.integer(options.trace_region_bytes),
            python.integer(options.l1_small_bytes),
        ])?;
        Ok(runtime)
    }

    pub(crate) fn close(self) -> Result<(), Error> {
        self.functions.close.call([]).map(drop)
    }

    /// Ends every capture that is in progress and drops what it captured.
    pub(crate) fn abandon_captures(&mut self) {
        if self.capturing {
            self.capturing = false;
            // It is called because something failed, which is what is told.
            let _ = self.functions.abandon_captures.call([]);
        }
    }

    /// What `work` gives; if it fails, captures end.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let result = work(self);
        if result.is_err() {
            self.abandon_captures();
        }
        result
    }

    pub fn describe(&mut self) -> Result<Description, Error> {
        #[derive(Deserialize)]
        struct Answer {
            architecture: String,
            grid: (u32, u32),
            dram_bytes: u64,
            l1_bytes_per_core: u64,
            mock: bool,
        }
        self.guarded(|this| {
            let answer: Answer = parse(&this.functions.describe.call([])?)?;
            Ok(Description {
                // Discovery accepts no other.
                ttnn_version: TTNN_VERSION.into(),
                architecture: answer.architecture,
                grid: answer.grid,
                dram_bytes: answer.dram_bytes,
                l1_bytes_per_core: answer.l1_bytes_per_core,
                mock: answer.mock,
            })
        })
    }

    /// Waits until all queues are empty.
    pub fn synchronize(&mut self) -> Result<(), Error> {
        self.guarded(|this| this.functions.synchronize.call([]).map(drop))
    }

    pub fn memory(&mut self, memory: Memory) -> Result<MemoryView, Error> {
        self.memory_named(memory.name())
    }

    /// The trace region; what captured traces take of it.
    pub fn trace_memory(&mut self) -> Result<MemoryView, Error> {
        self.memory_named("trace")
    }

    fn memory_named(&mut self, name: &str) -> Result<MemoryView, Error> {
        self.guarded(|this| parse(&this.functions.memory.call([this.python.text(name)])?))
    }

    /// Programs that are compiled and kept. A capture must not add any.
    pub fn program_cache_entries(&mut self) -> Result<u64, Error> {
        self.guarded(|this| this.functions.program_cache_entries.call([])?.to_integer())
    }
}

/// Tensors.
impl Runtime {
    /// A tensor with these contents. Tiles are formed on the host, exactly; for `Bfloat8B`, which takes bfloat16
    /// data, they are formed and rounded on the device.
    pub fn upload(&mut self, spec: &TensorSpec, data: HostData) -> Result<Tensor, Error> {
        self.guarded(|this| {
            if spec.dtype == DataType::Bfloat8B && spec.layout != Layout::Tile {
                return Err(Error::Argument("bfloat8_b exists in tiles only".into()));
            }
            let taken = if spec.dtype == DataType::Bfloat8B { DataType::Bfloat16 } else { spec.dtype };
            check_type(taken, data)?;
            let (python, functions) = (this.python, &this.functions);
            this.host.show(spec, data, |address| {
                let tensor = functions.upload.call([
                    python.integer(address),
                    python.text(spec.dtype.name()),
                    python.text(spec.layout.name()),
                    python.text(spec.memory.name()),
                ])?;
                tensor.to_integer().map(Tensor)
            })
        })
    }

    /// A tensor without contents.
    pub fn allocate(&mut self, spec: &TensorSpec) -> Result<Tensor, Error> {
        self.guarded(|this| {
            let tensor = this.functions.allocate.call([
                this.python.text(&format!("{:?}", spec.shape)),
                this.python.text(spec.dtype.name()),
                this.python.text(spec.layout.name()),
                this.python.text(spec.memory.name()),
            ])?;
            tensor.to_integer().map(Tensor)
        })
    }

    /// New contents at the tensor's address. `data` may be reused at once; the device has them after what is in the
    /// queue before. Tiles are formed on the host. Allocates nothing after the first time.
    pub fn write(&mut self, tensor: Tensor, data: HostData, queue: u8) -> Result<(), Error> {
        self.guarded(|this| {
            this.learn(tensor)?;
            let (python, functions, spec) = (this.python, &this.functions, &this.specs[&tensor]);
            check_type(spec.dtype, data)?;
            this.host.show(spec, data, |address| {
                let arguments =
                    [python.integer(tensor.0), python.integer(address), python.integer(queue.into())];
                functions.write.call(arguments).map(drop)
            })
        })
    }

    /// Contents of a tensor of f32, rows after rows, without padding. Waits until the queue has come so far.
    /// Allocates nothing after the first time.
    pub fn read(&mut self, tensor: Tensor, values: &mut [f32], queue: u8) -> Result<(), Error> {
        self.guarded(|this| {
            this.learn(tensor)?;
            let spec = &this.specs[&tensor];
            if spec.dtype != DataType::Float32 {
                return Err(Error::Argument(format!("a tensor of {} cannot be read", spec.dtype.name())));
            }
            if spec.elements()? != values.len() {
                let count = values.len();
                return Err(Error::Argument(format!(
                    "room for {count} values of a tensor of shape {:?}",
                    spec.shape
                )));
            }
            // SAFETY: any bytes are f32s; the slice is as long.
            let bytes = unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) };
            // SAFETY: `read` in `runtime.py` keeps nothing of what it is given.
            let destination = unsafe { this.python.bytes(bytes) };
            let arguments = [this.python.integer(tensor.0), destination, this.python.integer(queue.into())];
            this.functions.read.call(arguments).map(drop)
        })
    }

    /// Frees the tensor's memory now; where another handle is a view of the same memory, with the last of them.
    pub fn free(&mut self, tensor: Tensor) -> Result<(), Error> {
        self.guarded(|this| {
            this.specs.remove(&tensor);
            this.functions.free.call([this.python.integer(tensor.0)]).map(drop)
        })
    }

    pub fn spec_of(&mut self, tensor: Tensor) -> Result<TensorInfo, Error> {
        self.guarded(|this| parse(&this.functions.spec_of.call([this.python.integer(tensor.0)])?))
    }

    /// Has the tensor's description at hand afterwards.
    fn learn(&mut self, tensor: Tensor) -> Result<(), Error> {
        if !self.specs.contains_key(&tensor) {
            let info: TensorInfo = parse(&self.functions.spec_of.call([self.python.integer(tensor.0)])?)?;
            self.specs.insert(tensor, info.spec);
        }
        Ok(())
    }
}

/// Operations, traces and events.
impl Runtime {
    /// Calls an operation by its Python name, as `ttnn.linear`, and gives the tensors that it returns.
    ///
    /// `arguments` are JSON: `{"operands": [positional], "attributes": {"keyword": value}}`. Values are numbers,
    /// strings, booleans, null, lists, and objects with one tag:
    ///
    /// | tag | becomes |
    /// |---|---|
    /// | `{"tensor": id}` | the tensor |
    /// | `{"dtype": "bfloat16"}`, `{"layout": "tile"}`, `{"memory": "l1"}` | what their names say |
    /// | `{"grid": [x, y]}`, `{"coord": [x, y]}`, `{"shape": [..]}` | `CoreGrid`, `CoreCoord`, `Shape` |
    /// | `{"unary": "GELU_TANH"}` | `UnaryWithParam` |
    /// | `{"compute": {"fidelity": "HiFi4", "fp32_accumulate": true, "approximate": false, "l1_accumulate": true}}` | the device's compute kernel configuration |
    /// | `{"matmul_reuse": {"grid": [x, y], "in0_block_w": .., "out_subblock_h": .., "out_subblock_w": .., "per_core_m": .., "per_core_n": ..}}` | `MatmulMultiCoreReuseProgramConfig` |
    /// | `{"matmul_1d": {.., "fuse_batch": .., "mcast_in0": .., "activation": "GELU_TANH"}}` | `MatmulMultiCoreReuseMultiCast1DProgramConfig` |
    /// | `{"matmul_2d": {.., "transpose_mcast": .., "activation": null}}` | `MatmulMultiCoreReuseMultiCastProgramConfig` |
    /// | `{"sdpa": {"grid": [x, y], "q_chunk": .., "k_chunk": .., "approximate": false}}` | `SDPAProgramConfig` |
    pub fn call(&mut self, name: &str, arguments: &str) -> Result<Vec<Tensor>, Error> {
        self.guarded(|this| {
            let results = this.functions.call.call([this.python.text(name), this.python.text(arguments)])?;
            Ok(results.to_integers()?.into_iter().map(Tensor).collect())
        })
    }

    /// From here on `queue` records what it is given instead of doing it.
    pub fn begin_trace(&mut self, queue: u8) -> Result<Capture, Error> {
        self.guarded(|this| {
            // Set first: a capture that is half begun must be ended too.
            this.capturing = true;
            this.functions.begin_trace.call([this.python.integer(queue.into())])?.to_integer().map(Capture)
        })
    }

    pub fn end_trace(&mut self, capture: Capture) -> Result<Trace, Error> {
        self.guarded(|this| {
            this.functions.end_trace.call([this.python.integer(capture.0)])?.to_integer().map(Trace)
        })
    }

    /// Sends a trace to the device; if `blocking`, waits until the device has done it. Allocates nothing.
    pub fn replay(&mut self, trace: Trace, queue: u8, blocking: bool) -> Result<(), Error> {
        self.guarded(|this| {
            let python = this.python;
            let arguments = [python.integer(trace.0), python.integer(queue.into()), python.boolean(blocking)];
            this.functions.replay.call(arguments).map(drop)
        })
    }

    pub fn release(&mut self, trace: Trace) -> Result<(), Error> {
        self.guarded(|this| this.functions.release.call([this.python.integer(trace.0)]).map(drop))
    }

    /// A point in the queue, after what it was given so far. The last 1024 events are remembered. Allocates nothing.
    pub fn record_event(&mut self, queue: u8) -> Result<Event, Error> {
        self.guarded(|this| {
            this.functions.record_event.call([this.python.integer(queue.into())])?.to_integer().map(Event)
        })
    }

    /// Has `queue` wait until the device has reached `event`. Allocates nothing.
    pub fn wait_for_event(&mut self, queue: u8, event: Event) -> Result<(), Error> {
        self.guarded(|this| {
            let arguments = [this.python.integer(queue.into()), this.python.integer(event.0)];
            this.functions.wait_for_event.call(arguments).map(drop)
        })
    }
}

/// What `ttnn` tells of what it does.
impl Runtime {
    /// From here on, operations, programs and buffers are written down; operations are run as always.
    pub fn begin_graph_capture(&mut self) -> Result<(), Error> {
        self.guarded(|this| {
            this.capturing = true;
            this.functions.begin_graph_capture.call([]).map(drop)
        })
    }

    /// What was written down, as JSON: a list of nodes in the order in which they happened.
    pub fn end_graph_capture(&mut self) -> Result<String, Error> {
        self.guarded(|this| this.functions.end_graph_capture.call([])?.to_text())
    }

    /// Bytes of L1 that tensors take at most, over all banks, in a graph from [`Self::end_graph_capture`].
    pub fn peak_l1(&mut self, graph: &str) -> Result<u64, Error> {
        self.guarded(|this| this.functions.peak_l1.call([this.python.text(graph)])?.to_integer())
    }
}

fn check_type(expected: DataType, data: HostData) -> Result<(), Error> {
    if data.dtype() == expected {
        return Ok(());
    }
    Err(Error::Argument(format!("values of {} where {} is expected", data.dtype().name(), expected.name())))
}

fn parse<T: DeserializeOwned>(answer: &Object) -> Result<T, Error> {
    let text = answer.to_text()?;
    serde_json::from_str(&text).map_err(|error| Error::Answer(format!("{text} ({error})")))
}
