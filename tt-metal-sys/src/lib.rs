//! Tenstorrent's runtime, as Tenstorrent distributes it: the Python wheel `ttnn` 0.81.1, loaded at run time.
//!
//! Called by `pi0_node`'s `device/tenstorrent` alone. tt-metal has no C interface and the wheel brings no C++ headers,
//! so [`Session`] starts a CPython inside the process and drives the wheel's own Python API. Nothing of Python is
//! needed to build or to start: an interpreter is looked for when a session is opened.
//!
//! The crate is dull on purpose: one method per call of `ttnn`, no policy, no second attempts, no logging.
//!
//! ```no_run
//! use tt_metal_sys::{DataType, Error, HostData, Layout, Memory, Options, Session, TensorSpec};
//!
//! let session = Session::open(&Options::default())?;
//! session.with(|runtime| {
//!     let spec = TensorSpec {
//!         shape: vec![32, 32],
//!         dtype: DataType::Float32,
//!         layout: Layout::Tile,
//!         memory: Memory::Dram,
//!     };
//!     let ones = runtime.upload(&spec, HostData::Float32(&[1.0; 1024]))?;
//!     let operand = format!(r#"{{"tensor": {}}}"#, ones.id());
//!     let sum = runtime.call("ttnn.add", &format!(r#"{{"operands": [{operand}, {operand}]}}"#))?;
//!     let mut result = [0.0; 1024];
//!     runtime.read(sum[0], &mut result, 0)
//! })?;
//! session.close()?;
//! # Ok::<(), Error>(())
//! ```

mod discovery;
mod error;
mod host;
mod interpreter;
mod object;
mod python;
mod runtime;
mod session;
mod tensor;

pub use discovery::Interpreter;
pub use error::Error;
pub use host::HostData;
pub use runtime::{Description, MemoryView, Runtime};
pub use session::{Options, Session};
pub use tensor::{Capture, DataType, Event, Layout, Memory, Tensor, TensorInfo, TensorSpec, Trace};

/// The version of the wheel that this crate is written and tested against; no other is accepted.
pub const TTNN_VERSION: &str = "0.81.1";
