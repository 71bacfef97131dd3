//! What can be done with an open device: the crate's interface to `ttnn`, one method per call of it.
//!
//! Handed out by [`Session::with`](crate::Session::with). What an error interrupts while a trace or a graph is being
//! captured has its captures ended at once, since a process that leaves one open crashes.

mod operations;
mod tensors;

use std::collections::HashMap;
use std::ffi::CStr;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::host::{CAPSULE, HostView};
use crate::object::Object;
use crate::python::Python;
use crate::{Error, Memory, Options, TTNN_VERSION, Tensor, TensorSpec};

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
    begin_trace end_trace replay release record_event wait_for_event wait_until
    begin_graph_capture end_graph_capture peak_l1 abandon_captures
}

/// The module that the functions are of.
pub(crate) const SOURCE: &CStr = c_string(concat!(include_str!("../runtime.py"), "\0"));

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

/// The device.
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

fn parse<T: DeserializeOwned>(answer: &Object) -> Result<T, Error> {
    let text = answer.to_text()?;
    serde_json::from_str(&text).map_err(|error| Error::Answer(format!("{text} ({error})")))
}
