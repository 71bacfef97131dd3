//! NVIDIA GPUs, through their driver, cuBLASLt and NVRTC, all found when a GPU is opened.
//!
//! `lower` turns a graph into a `program` of kernels and products, kept as data; `content` says what its buffers hold from the
//! start; `kernels` is our own CUDA C. None of them needs a GPU or any of NVIDIA's libraries. `device` loads programs (`load`),
//! captures them as CUDA graphs (`loaded`) and starts these, by way of `driver`, which alone speaks to the GPU.

pub mod content;
mod device;
pub mod driver;
mod error;
pub mod kernels;
mod load;
mod loaded;
pub mod lower;
pub mod program;

pub use device::{CudaDevice, CudaOptions, ordinal_named};
pub use error::CudaError;
pub use lower::{Residents, lower};
pub use program::{Element, Program};

pub use crate::graph::passes::simplify_for_tiles as simplify;
